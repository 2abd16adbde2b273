/*
 * An echo over TLS with nothing else in it: client and server in one thread, and memory between them instead of a
 * socket. What a probe adds is as large a share here as it can ever be.
 *
 *     echo
 *
 * Reads lines "SIZE SECONDS" from standard input, echoes messages of SIZE bytes for about that long, and answers each
 * line with one of JSON: calls of SSL_read and SSL_write, the bytes that they moved, and the CPU time in ns.
 *
 * It pauses after each burst that fills a quarter of the agent's ring (8 MiB by default): a record that finds no room
 * costs less than one that is captured, and would flatter the agent. Pauses are not measured.
 */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LARGEST (1 << 20)
#define BURST (2 << 20)
#define RECORD_OVERHEAD 328	  /* a record's header and the least room that it takes */
#define PAUSE_NS (25 * 1000 * 1000) /* twice as long as the agent takes to look again */

struct counts {
	unsigned long long calls, bytes, cpu_ns;
};

static SSL *client, *server;
static char message[LARGEST], answer[LARGEST];

static void connect_both(void);
static void echo(size_t size, struct counts *counts);

static unsigned long long now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

int main(void)
{
	const struct timespec pause = { .tv_nsec = PAUSE_NS };
	double seconds;
	size_t size;

	memset(message, 'x', sizeof(message));
	connect_both();
	printf("{\"ready\": \"%s\"}\n", OpenSSL_version(OPENSSL_VERSION));
	fflush(stdout);
	while (scanf("%zu %lf", &size, &seconds) == 2 && size >= 1 && size <= LARGEST) {
		unsigned long long end = now(CLOCK_MONOTONIC) + (unsigned long long)(seconds * 1e9);
		struct counts counts = { 0 };

		do {
			unsigned long long begin = now(CLOCK_PROCESS_CPUTIME_ID), burst = 0, before;

			do {
				before = counts.bytes + counts.calls * RECORD_OVERHEAD;
				echo(size, &counts);
				burst += counts.bytes + counts.calls * RECORD_OVERHEAD - before;
			} while (burst < BURST);
			counts.cpu_ns += now(CLOCK_PROCESS_CPUTIME_ID) - begin;
			nanosleep(&pause, NULL);
		} while (now(CLOCK_MONOTONIC) < end);
		printf("{\"calls\": %llu, \"bytes\": %llu, \"cpu_ns\": %llu}\n", counts.calls, counts.bytes, counts.cpu_ns);
		fflush(stdout);
	}
	return 0;
}

static void fail(const char *what)
{
	fprintf(stderr, "echo: %s\n", what);
	ERR_print_errors_fp(stderr);
	exit(1);
}

static void move(SSL *from, SSL *to, size_t size, struct counts *counts)
{
	size_t moved, received = 0;

	if (SSL_write_ex(from, message, size, &moved) != 1 || moved != size)
		fail("cannot write");
	counts->calls++;
	while (received < size) {
		if (SSL_read_ex(to, answer + received, size - received, &moved) != 1)
			fail("cannot read");
		received += moved;
		counts->calls++;
	}
	counts->bytes += 2 * size;
}

static void echo(size_t size, struct counts *counts)
{
	move(client, server, size, counts);
	move(server, client, size, counts);
}

/* A shared key instead of certificates: the handshake is not what is measured. */
static const unsigned char KEY[32] = "no secret: both ends are here..";

static unsigned int server_key(SSL *ssl, const char *identity, unsigned char *key, unsigned int room)
{
	(void)ssl, (void)identity;
	memcpy(key, KEY, room < sizeof(KEY) ? room : sizeof(KEY));
	return sizeof(KEY);
}

static unsigned int client_key(SSL *ssl, const char *hint, char *identity, unsigned int identity_room,
			       unsigned char *key, unsigned int room)
{
	snprintf(identity, identity_room, "echo");
	return server_key(ssl, hint, key, room);
}

static void connect_both(void)
{
	SSL_CTX *to_server = SSL_CTX_new(TLS_client_method()), *to_client = SSL_CTX_new(TLS_server_method());
	BIO *near, *far;

	/* The cipher that both sides of most connections agree on where the processor has AES. */
	if (!to_server || !to_client || SSL_CTX_set_ciphersuites(to_server, "TLS_AES_128_GCM_SHA256") != 1)
		fail("no TLS");
	SSL_CTX_set_psk_client_callback(to_server, client_key);
	SSL_CTX_set_psk_server_callback(to_client, server_key);
	client = SSL_new(to_server);
	server = SSL_new(to_client);
	if (!client || !server || BIO_new_bio_pair(&near, 2 * LARGEST, &far, 2 * LARGEST) != 1)
		fail("no connection");
	SSL_set_bio(client, near, near);
	SSL_set_bio(server, far, far);
	SSL_set_connect_state(client);
	SSL_set_accept_state(server);
	for (int i = 0; i < 10 && (SSL_do_handshake(client) != 1) | (SSL_do_handshake(server) != 1); i++)
		;
	if (!SSL_is_init_finished(client) || !SSL_is_init_finished(server))
		fail("no handshake");
}
