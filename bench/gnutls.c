// What gnutls_record_send and gnutls_record_recv cost: 100 bytes to a child of its own and back, over loopback.
//
//	gnutls ROUNDS      says the CPU time of one call in the client, in ns
#include <gnutls/gnutls.h>
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
		fprintf(stderr, "gnutls: %s\n", what);
		exit(1);
	}
}

static int pass(gnutls_session_t session, char *message)
{
	for (ssize_t at = 0, got; at < SIZE; at += got) {
		got = gnutls_record_recv(session, message + at, SIZE - at);
		if (got <= 0)
			return 0;
	}
	return gnutls_record_send(session, message, SIZE) == SIZE;
}

static gnutls_session_t begin(int socket, unsigned side)
{
	gnutls_session_t session;

	must(!gnutls_init(&session, side), "init");
	/* Without certificates: what is measured comes after them. */
	must(!gnutls_priority_set_direct(session, "NORMAL:-VERS-TLS1.3:+ANON-ECDH", NULL), "priorities");
	if (side == GNUTLS_SERVER) {
		gnutls_anon_server_credentials_t own;

		must(!gnutls_anon_allocate_server_credentials(&own), "credentials");
		must(!gnutls_credentials_set(session, GNUTLS_CRD_ANON, own), "credentials");
	} else {
		gnutls_anon_client_credentials_t own;

		must(!gnutls_anon_allocate_client_credentials(&own), "credentials");
		must(!gnutls_credentials_set(session, GNUTLS_CRD_ANON, own), "credentials");
	}
	gnutls_transport_set_int(session, socket);
	must(!gnutls_handshake(session), "handshake");
	return session;
}

static double cpu(void)
{
	struct timespec time;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

int main(int count, char **words)
{
	long rounds = count == 2 ? atol(words[1]) : 0;
	char message[SIZE] = {};
	int sockets[2];
	double begun;

	must(rounds > 0, "usage: gnutls ROUNDS");
	must(!socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), "socketpair");
	if (!fork()) {
		gnutls_session_t server;

		close(sockets[0]);
		server = begin(sockets[1], GNUTLS_SERVER);
		while (pass(server, message))
			;
		_exit(0);
	}
	close(sockets[1]);
	gnutls_session_t client = begin(sockets[0], GNUTLS_CLIENT);

	must(gnutls_record_send(client, message, SIZE) == SIZE, "send");
	begun = cpu();
	for (long round = 0; round < rounds; round++)
		must(pass(client, message), "pass");
	printf("%.0f\n", (cpu() - begun) / rounds / 2);
	close(sockets[0]);
	wait(NULL);
	return 0;
}
