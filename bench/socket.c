// What a write to a TCP socket and a read from it cost: 100 bytes to a child of its own and back, over loopback.
//
//	socket ROUNDS BEGINNING      says the CPU time of one call, in ns; the client's first bytes are BEGINNING
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SIZE 100

static void must(int good, const char *what)
{
	if (!good) {
		perror(what);
		exit(1);
	}
}

/* Whole messages: what is written in one call comes in one, or in a few. */
static int pass(int socket, char *message)
{
	for (ssize_t at = 0, got; at < SIZE; at += got) {
		got = read(socket, message + at, SIZE - at);
		if (got <= 0)
			return 0;
	}
	return write(socket, message, SIZE) == SIZE;
}

static double cpu(void)
{
	struct timespec time;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

int main(int count, char **words)
{
	long rounds = count == 3 ? atol(words[1]) : 0;
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	char message[SIZE] = {};
	double begin;

	if (rounds <= 0) {
		fprintf(stderr, "usage: socket ROUNDS BEGINNING\n");
		return 2;
	}
	must(!bind(listener, (void *)&address, sizeof(address)) && !listen(listener, 1), "listen");
	must(!getsockname(listener, (void *)&address, &length), "getsockname");
	if (!fork()) {
		int server = accept(listener, NULL, NULL);

		close(client); /* else it would keep open what the parent closes */
		setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		while (pass(server, message))
			;
		_exit(0);
	}
	must(!connect(client, (void *)&address, sizeof(address)), "connect");
	setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	memcpy(message, words[2], strnlen(words[2], SIZE));
	must(write(client, message, SIZE) == SIZE, "write");
	memset(message, 'x', SIZE);
	begin = cpu();
	for (long round = 0; round < rounds; round++)
		must(pass(client, message), "pass");
	printf("%.0f\n", (cpu() - begin) / rounds / 2);
	close(client);
	wait(NULL);
	return 0;
}
