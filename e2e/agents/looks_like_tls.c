/*
 * No TLS library, but functions that report exactly the errors of BoringSSL's SSL_read and SSL_write: whoever goes by these
 * takes it for one. What it is given is encrypted already.
 *
 *     looks_like_tls [lies]
 *
 * For each byte of its input it writes on a new connection and prints a line. With `lies` the function tells that it wrote more
 * than it was given.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* As much code as a program with a TLS library has at least. */
__asm__(".text\n.fill 1200000, 1, 0xcc\n.p2align 4\n");

static int errors;
static volatile int lies;

__attribute__((noipa)) static void put_error(int library, int unused, int reason, const char *file, int line)
{
	errors += library + unused + reason + line + (file != NULL);
}

#define REPORT(reason, line) put_error(16, 0, reason, "ssl/ssl_lib.cc", line)

__attribute__((noipa)) static int read_like(int *connection, void *buffer, int length)
{
	if (!connection)
		REPORT(66, 980);
	memset(buffer, 0, length);
	return length;
}

__attribute__((noipa)) static int write_like(int *connection, const unsigned char *buffer, int length)
{
	if (!connection)
		REPORT(66, 1001);
	if (length > 1 << 20)
		REPORT(111, 1005);
	if (!buffer)
		REPORT(215, 1010);
	if (length < 0)
		REPORT(226, 1015);
	*connection += buffer[0];
	return lies ? length + 100 : length;
}

int main(int argc, char **argv)
{
	enum { CONNECTIONS = 16, LENGTH = 200 };
	static int connections[CONNECTIONS];
	unsigned char sealed[LENGTH];
	uint64_t state = 0x9e3779b97f4a7c15;

	(void)argv;
	lies = argc > 1;
	for (int round = 0; getchar() != EOF && round < CONNECTIONS; round++) {
		for (int i = 0; i < LENGTH; i++) {
			state ^= state << 13, state ^= state >> 7, state ^= state << 17;
			sealed[i] = state >> 32;
		}
		int expected = lies ? LENGTH + 100 : LENGTH;
		if (write_like(&connections[round], sealed, LENGTH) != expected || connections[round] != sealed[0])
			return 1;
		if (read_like(&connections[round], sealed, LENGTH) != LENGTH || sealed[LENGTH - 1])
			return 2;
		printf("%d\n", round);
		fflush(stdout);
	}
	return errors ? 3 : 0;
}
