/*
 * A program that looks after itself while it talks TLS: are its registers, its stack, its results and its bytes after
 * each call what they have to be?
 *
 *     untouched
 *
 * For each line on standard input it goes through all its checks and answers "right"; it ends with standard input.
 * What is not as it must be is said on standard error, and ends it with 1. Client and server are in the same process,
 * with memory between them.
 */
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS 4
#define ROUNDS 500 /* in each thread, and of each kind */
#define LARGEST 20000 /* more than one TLS record */

struct pair {
	SSL *client, *server;
	char sent[LARGEST], got[LARGEST];
};

static void with_signals(void);
static void nested(struct pair *outer, struct pair *inner);
static void jumping(struct pair *pair);
static void *in_a_thread(void *);
static void connect_pair(struct pair *pair);
static void there_and_back(struct pair *pair, unsigned number);

#define MUST(what) ((what) ? (void)0 : fail(__LINE__, #what))

static void fail(int line, const char *what)
{
	fprintf(stderr, "untouched.c:%d: not so: %s\n", line, what);
	ERR_print_errors_fp(stderr);
	_exit(1);
}

int main(void)
{
	char line[100];

	while (fgets(line, sizeof line, stdin)) {
		pthread_t threads[THREADS];
		struct pair outer, inner;

		for (int i = 0; i < THREADS; i++)
			MUST(pthread_create(&threads[i], NULL, in_a_thread, NULL) == 0);
		connect_pair(&outer);
		connect_pair(&inner);
		nested(&outer, &inner);
		jumping(&outer);
		with_signals();
		for (int i = 0; i < THREADS; i++)
			MUST(pthread_join(threads[i], NULL) == 0);
		SSL_free(outer.client), SSL_free(outer.server);
		SSL_free(inner.client), SSL_free(inner.server);
		puts("right");
		fflush(stdout);
	}
	return 0;
}

static void *in_a_thread(void *unused)
{
	struct pair pair;

	(void)unused;
	connect_pair(&pair);
	for (unsigned i = 0; i < ROUNDS; i++)
		there_and_back(&pair, i);
	SSL_free(pair.client), SSL_free(pair.server);
	return NULL;
}

/* What runs in the middle of a read, before the library gets its bytes. */
static __thread void (*hook)(void);
static __thread struct pair *inside;
static __thread unsigned inside_number;
static __thread sigjmp_buf back;

static void talk_inside(void)
{
	hook = NULL;
	there_and_back(inside, inside_number++);
	hook = talk_inside;
}

static void nested(struct pair *outer, struct pair *inner)
{
	inside = inner;
	inside_number = 0;
	hook = talk_inside;
	for (unsigned i = 0; i < ROUNDS; i++)
		there_and_back(outer, i);
	hook = NULL;
	MUST(inside_number >= ROUNDS);
}

static void jump(void)
{
	siglongjmp(back, 1);
}

static void jump_from_a_signal(void)
{
	raise(SIGUSR2);
}

static void on_usr2(int signal)
{
	(void)signal;
	siglongjmp(back, 1);
}

/* Calls that never return: the frames that they leave behind must not be taken for those of later calls. */
static void jumping(struct pair *pair)
{
	struct sigaction action = { .sa_handler = on_usr2 };

	MUST(sigaction(SIGUSR2, &action, NULL) == 0);
	for (volatile unsigned i = 0; i < ROUNDS; i++) {
		char buffer[16];

		if (sigsetjmp(back, 1) == 0) {
			hook = i % 2 ? jump : jump_from_a_signal;
			SSL_read(pair->client, buffer, sizeof buffer);
			fail(__LINE__, "a read that was left does not return");
		}
		hook = NULL;
		there_and_back(pair, i);
	}
}

static atomic_uint signals;
static atomic_bool enough;

static void on_usr1(int signal)
{
	volatile char frame[4096];

	(void)signal;
	for (size_t i = 0; i < sizeof frame; i += 64)
		frame[i] = 0x77;
	atomic_fetch_add(&signals, 1);
}

static void *shoot(void *target)
{
	while (!atomic_load(&enough)) {
		MUST(pthread_kill(*(pthread_t *)target, SIGUSR1) == 0);
		sched_yield();
	}
	return NULL;
}

static void with_signals(void)
{
	struct sigaction action = { .sa_handler = on_usr1, .sa_flags = SA_RESTART };
	pthread_t self = pthread_self(), shooter;
	struct pair pair;

	connect_pair(&pair);
	atomic_store(&signals, 0);
	atomic_store(&enough, 0);
	MUST(sigaction(SIGUSR1, &action, NULL) == 0);
	MUST(pthread_create(&shooter, NULL, shoot, &self) == 0);
	for (unsigned i = 0; i < ROUNDS || atomic_load(&signals) < 100; i++)
		there_and_back(&pair, i);
	atomic_store(&enough, 1);
	MUST(pthread_join(shooter, NULL) == 0);
	SSL_free(pair.client), SSL_free(pair.server);
}

/*
 * Calls function(a, b, c, d) with known values in all registers that it has to keep and around it on the stack, and
 * puts into *changed how many of them are others afterwards.
 */
#ifdef __x86_64__
long guarded(void *function, const void *a, const void *b, size_t c, void *d, unsigned *changed);
__asm__(".text\n"
	".globl guarded\n"
	".type guarded,@function\n"
	"guarded:\n"
	"	push %rbx\n	push %rbp\n	push %r12\n	push %r13\n	push %r14\n	push %r15\n	push %r9\n"
	"	sub $256, %rsp\n"
	"	movabs $0x5aa55aa5c3c33c3c, %rax\n"
	"	xor %r11d, %r11d\n"
	"1:	mov %rax, (%rsp,%r11,8)\n	inc %r11d\n	cmp $32, %r11d\n	jne 1b\n"
	"	mov %rdi, %r10\n	mov %rsi, %rdi\n	mov %rdx, %rsi\n	mov %rcx, %rdx\n	mov %r8, %rcx\n"
	"	movabs $0x1111111122222222, %rbx\n	movabs $0x3333333344444444, %rbp\n"
	"	movabs $0x5555555566666666, %r12\n	movabs $0x7777777788888888, %r13\n"
	"	movabs $0x99999999aaaaaaaa, %r14\n	mov %rsp, %r15\n"
	"	xor %eax, %eax\n"
	"	call *%r10\n"
	"	xor %r9d, %r9d\n"
	"	cmp %rsp, %r15\n	je 2f\n	inc %r9d\n	mov %r15, %rsp\n"
	"2:	movabs $0x1111111122222222, %r10\n	cmp %r10, %rbx\n	je 3f\n	inc %r9d\n"
	"3:	movabs $0x3333333344444444, %r10\n	cmp %r10, %rbp\n	je 4f\n	inc %r9d\n"
	"4:	movabs $0x5555555566666666, %r10\n	cmp %r10, %r12\n	je 5f\n	inc %r9d\n"
	"5:	movabs $0x7777777788888888, %r10\n	cmp %r10, %r13\n	je 6f\n	inc %r9d\n"
	"6:	movabs $0x99999999aaaaaaaa, %r10\n	cmp %r10, %r14\n	je 7f\n	inc %r9d\n"
	"7:	movabs $0x5aa55aa5c3c33c3c, %r10\n"
	"	xor %r11d, %r11d\n"
	"8:	cmp %r10, (%rsp,%r11,8)\n	je 9f\n	inc %r9d\n"
	"9:	inc %r11d\n	cmp $32, %r11d\n	jne 8b\n"
	"	mov 256(%rsp), %r10\n	mov %r9d, (%r10)\n"
	"	add $264, %rsp\n"
	"	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop %rbp\n	pop %rbx\n"
	"	ret\n"
	".size guarded, .-guarded\n"
	".section .note.GNU-stack,\"\",@progbits\n"
	".text\n");
#else
#error "the registers of this machine are to be added here"
#endif

static long call(void *function, SSL *ssl, const void *buffer, size_t size, size_t *moved)
{
	unsigned changed = ~0u;
	long result = guarded(function, ssl, buffer, size, moved, &changed);

	MUST(changed == 0);
	return result;
}

static void send_all(SSL *ssl, const char *bytes, size_t size, int extended)
{
	size_t moved = 0;

	if (extended) {
		MUST((int)call(SSL_write_ex, ssl, bytes, size, &moved) == 1);
		MUST(moved == size);
	} else {
		MUST((int)call(SSL_write, ssl, bytes, size, NULL) == (int)size);
	}
}

static void receive_all(SSL *ssl, char *bytes, size_t size, int extended, size_t piece)
{
	for (size_t got = 0; got < size;) {
		size_t most = size - got < piece ? size - got : piece, moved = 0;

		if (extended) {
			MUST((int)call(SSL_read_ex, ssl, bytes + got, most, &moved) == 1);
		} else {
			long result = (int)call(SSL_read, ssl, bytes + got, most, NULL);

			MUST(result > 0);
			moved = (size_t)result;
		}
		MUST(moved > 0 && moved <= most);
		got += moved;
	}
}

/* A message and its answer; then reads that find nothing, which have to say so. */
static void there_and_back(struct pair *pair, unsigned number)
{
	size_t size = 1 + number * 2654435761u % LARGEST, piece = number % 3 ? LARGEST : 1 + number % 4000, moved = 77;
	char *out = pair->sent, *in = pair->got, nothing[8] = "nothing";
	int extended = number % 2;

	for (size_t i = 0; i < size; i++)
		out[i] = (char)(i * 31 + number);
	send_all(pair->client, out, size, extended);
	receive_all(pair->server, in, size, extended, piece);
	MUST(memcmp(out, in, size) == 0);
	send_all(pair->server, out, size, !extended);
	memset(in, 0, size);
	receive_all(pair->client, in, size, !extended, piece);
	MUST(memcmp(out, in, size) == 0);

	MUST((int)call(SSL_read, pair->server, nothing, sizeof nothing, NULL) == -1);
	MUST(SSL_get_error(pair->server, -1) == SSL_ERROR_WANT_READ);
	MUST((int)call(SSL_read_ex, pair->server, nothing, sizeof nothing, &moved) == 0);
	MUST(SSL_get_error(pair->server, 0) == SSL_ERROR_WANT_READ);
	MUST(strcmp(nothing, "nothing") == 0);
	MUST(ERR_peek_error() == 0);
}

/* A filter below the client that does what the hook says before it reads. */
static int filter_read(BIO *bio, char *bytes, int size)
{
	if (hook)
		hook();
	BIO_clear_retry_flags(bio);
	int got = BIO_read(BIO_next(bio), bytes, size);

	BIO_copy_next_retry(bio);
	return got;
}

static long filter_control(BIO *bio, int command, long number, void *pointer)
{
	return BIO_ctrl(BIO_next(bio), command, number, pointer);
}

static int filter_create(BIO *bio)
{
	BIO_set_init(bio, 1);
	return 1;
}

static BIO_METHOD *filter_method;
static SSL_CTX *context;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void prepare(void)
{
	filter_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_FILTER, "hook");
	MUST(filter_method && BIO_meth_set_read(filter_method, filter_read));
	MUST(BIO_meth_set_ctrl(filter_method, filter_control) && BIO_meth_set_create(filter_method, filter_create));
	/* Without certificates, which are not what this is about. */
	context = SSL_CTX_new(TLS_method());
	MUST(context && SSL_CTX_set_max_proto_version(context, TLS1_2_VERSION));
	MUST(SSL_CTX_set_cipher_list(context, "AECDH-AES128-SHA:@SECLEVEL=0"));
}

static void connect_pair(struct pair *pair)
{
	BIO *up = BIO_new(BIO_s_mem()), *down = BIO_new(BIO_s_mem()), *filter;
	int done_client = 0, done_server = 0;

	pthread_once(&once, prepare);
	filter = BIO_new(filter_method);
	pair->client = SSL_new(context), pair->server = SSL_new(context);
	MUST(up && down && filter && pair->client && pair->server);
	MUST(BIO_up_ref(up) && BIO_up_ref(down));
	SSL_set_bio(pair->client, BIO_push(filter, down), up);
	SSL_set_bio(pair->server, up, down);
	SSL_set_connect_state(pair->client), SSL_set_accept_state(pair->server);
	for (int i = 0; i < 10 && !(done_client && done_server); i++) {
		done_client = SSL_do_handshake(pair->client) == 1;
		done_server = SSL_do_handshake(pair->server) == 1;
	}
	MUST(done_client && done_server);
	ERR_clear_error();
}
