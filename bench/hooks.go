// What a write and a read of Go's crypto/tls cost: 100 bytes to a server of its own and back, over loopback.
//
//	hooks ROUNDS CERTIFICATE KEY      says the CPU time of one call, in ns
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
)

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func cpuTime() int64 {
	var usage syscall.Rusage
	must(0, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return usage.Utime.Nano() + usage.Stime.Nano()
}

func main() {
	rounds := must(strconv.Atoi(os.Args[1]))
	certificate := must(tls.LoadX509KeyPair(os.Args[2], os.Args[3]))
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(must(os.ReadFile(os.Args[2])))
	listener := must(tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}}))
	go func() {
		connection := must(listener.Accept())
		message := make([]byte, 100)
		for {
			if _, err := io.ReadFull(connection, message); err != nil {
				return
			}
			must(connection.Write(message))
		}
	}()
	connection := must(tls.Dial("tcp", listener.Addr().String(), &tls.Config{RootCAs: roots, ServerName: "localhost"}))
	message := make([]byte, 100)
	var begun int64
	for round := 0; round < rounds+100; round++ {
		if round == 100 {
			begun = cpuTime()
		}
		must(connection.Write(message))
		must(io.ReadFull(connection, message))
	}
	fmt.Println((cpuTime() - begun) / int64(rounds) / 4)
}
