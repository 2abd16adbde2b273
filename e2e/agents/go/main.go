// A model server and its client, with nothing but the standard library.
//
//	serve CA-FILE                    listens on loopback, says where, serves until its input ends; `-`: without TLS
//	front BASE CA-FILE               as serve, by HTTP/2 and no other, and has the server at BASE answer
//	ask BASE CA-FILE PROTOCOL N      asks N questions at once by HTTP/1.1 (h1) or HTTP/2 (h2), every other as a stream,
//	                                 twice over the same connections, and says what it got
package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

func main() {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "serve":
		serve(http.HandlerFunc(answer), os.Args[2], true)
	case len(os.Args) == 4 && os.Args[1] == "front":
		base, err := url.Parse(os.Args[2])
		must(err)
		serve(httputil.NewSingleHostReverseProxy(base), os.Args[3], false)
	case len(os.Args) == 6 && os.Args[1] == "ask":
		count, err := strconv.Atoi(os.Args[5])
		must(err)
		ask(os.Args[2], os.Args[3], os.Args[4] == "h2", count)
	default:
		fmt.Fprintln(os.Stderr, "usage: serve CA-FILE | front BASE CA-FILE | ask BASE CA-FILE h1|h2 N")
		os.Exit(2)
	}
}

type question struct {
	Model    string    `json:"model"`
	Stream   bool      `json:"stream"`
	Messages []message `json:"messages"`
}

type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// The answer to a question is its text, the model's name in its id.
func answer(w http.ResponseWriter, r *http.Request) {
	var asked question
	must(json.NewDecoder(r.Body).Decode(&asked))
	id, text := "chatcmpl-"+asked.Model, "You said: "+asked.Messages[0].Content
	usage := map[string]any{"prompt_tokens": len(asked.Messages[0].Content), "completion_tokens": len(text), "total_tokens": 0}
	if !asked.Stream {
		w.Header().Set("content-type", "application/json")
		must(json.NewEncoder(w).Encode(map[string]any{
			"id": id, "object": "chat.completion", "created": 1, "model": asked.Model, "usage": usage,
			"choices": []any{map[string]any{
				"index": 0, "finish_reason": "stop", "message": message{"assistant", text},
			}},
		}))
		return
	}
	w.Header().Set("content-type", "text/event-stream")
	send := func(choices []any, usage any) {
		chunk, err := json.Marshal(map[string]any{
			"id": id, "object": "chat.completion.chunk", "created": 1, "model": asked.Model, "choices": choices, "usage": usage,
		})
		must(err)
		fmt.Fprintf(w, "data: %s\n\n", chunk)
		w.(http.Flusher).Flush()
	}
	for _, word := range strings.SplitAfter(text, " ") {
		send([]any{map[string]any{"index": 0, "delta": message{"assistant", word}}}, nil)
	}
	send([]any{map[string]any{"index": 0, "delta": map[string]any{}, "finish_reason": "stop"}}, nil)
	send([]any{}, usage)
	fmt.Fprint(w, "data: [DONE]\n\n")
}

func serve(handler http.Handler, caFile string, http1 bool) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	server := &http.Server{Handler: handler, Protocols: new(http.Protocols)}
	server.Protocols.SetHTTP1(http1)
	server.Protocols.SetHTTP2(true)
	if caFile == "-" {
		server.Protocols.SetUnencryptedHTTP2(true)
		go func() { must(server.Serve(listener)) }()
	} else {
		server.TLSConfig = certify(caFile)
		go func() { must(server.ServeTLS(listener, "", "")) }()
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// The server's certificate is not its own authority: some clients do not take that.
func certify(caFile string) *tls.Config {
	template := func() *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true,
		}
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	ca := template()
	ca.IsCA, ca.KeyUsage, ca.Subject.CommonName = true, x509.KeyUsageCertSign, "a test's authority"
	caCertificate, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	must(err)
	must(os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caCertificate}), 0o644))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	own := template()
	own.DNSNames, own.KeyUsage = []string{"localhost"}, x509.KeyUsageDigitalSignature
	own.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	certificate, err := x509.CreateCertificate(rand.Reader, own, ca, &key.PublicKey, caKey)
	must(err)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}}
}

func ask(base, caFile string, http2 bool, count int) {
	protocols := new(http.Protocols)
	transport := &http.Transport{Protocols: protocols, MaxIdleConnsPerHost: count}
	protocols.SetHTTP1(!http2)
	if caFile == "-" {
		protocols.SetUnencryptedHTTP2(http2)
	} else {
		protocols.SetHTTP2(http2)
		ca, err := os.ReadFile(caFile)
		must(err)
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(ca)
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	}
	client := &http.Client{Transport: transport}
	for round := range 2 {
		var group sync.WaitGroup
		for i := range count {
			group.Add(1)
			go func() {
				defer group.Done()
				one(client, base, fmt.Sprintf("model-%d-%d", round, i), i%2 == 1, i)
			}()
		}
		group.Wait()
	}
	client.CloseIdleConnections()
}

func one(client *http.Client, base, model string, stream bool, size int) {
	// Some of several kilobytes: more than one TLS record, and a stack that has to grow.
	content := strings.Repeat("word ", 1+size*700)
	body, err := json.Marshal(question{model, stream, []message{{"user", content}}})
	must(err)
	response, err := client.Post(base+"/v1/chat/completions", "application/json", bytes.NewReader(body))
	must(err)
	defer response.Body.Close()
	got := 0
	lines := bufio.NewReaderSize(response.Body, 1<<20)
	for {
		line, err := lines.ReadString('\n')
		got += len(line)
		if err == io.EOF {
			break
		}
		must(err)
	}
	fmt.Printf("%s %d %s %d\n", response.Proto, response.StatusCode, model, got)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
