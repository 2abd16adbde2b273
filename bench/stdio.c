/* CPU time of one write or read of 100 bytes through a pipe, and of a system call that does neither, in ns:
 * stdio ROUNDS WHAT-IS-WRITTEN */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

int main(int count, char **arguments)
{
	long rounds = count == 3 ? atol(arguments[1]) : 0;
	char bytes[100];
	double start;
	int ends[2];

	if (!rounds || pipe(ends))
		return 1;
	memset(bytes, ' ', sizeof(bytes));
	memcpy(bytes, arguments[2], strnlen(arguments[2], sizeof(bytes)));
	start = now();
	for (long i = 0; i < rounds; i++)
		if (write(ends[1], bytes, sizeof(bytes)) != sizeof(bytes) || read(ends[0], bytes, sizeof(bytes)) != sizeof(bytes))
			return 1;
	printf("%.0f", (now() - start) / rounds / 2);
	start = now();
	for (long i = 0; i < rounds; i++)
		syscall(SYS_getppid);
	printf(" %.0f\n", (now() - start) / rounds);
	return 0;
}
