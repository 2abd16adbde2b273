/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Plaintext at OpenSSL and its like: uprobes on the functions that read and write, on the instructions that the agent
 * chose (capture/library.rs). There is a program for each calling convention, not a cookie: cookies need 5.15.
 */
#include "tls.h"

/* The stack pointer tells nested calls of one thread apart, also after a longjmp out of one of them. */
struct call_key {
	u64 pid_tgid;
	u64 stack;
};

/* Written at entry, taken at return. Least recently used ones make room: calls that never return (exit, longjmp). */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct call_key);
	__type(value, struct call);
} calls SEC(".maps");

static __always_inline int enter(struct pt_regs *regs, u32 direction, u64 moved, u32 sendfile)
{
	struct call_key key = { .pid_tgid = bpf_get_current_pid_tgid(), .stack = STACK(regs) };
	struct control *control = get_control();
	struct call call = {};

	if (!control || !selected(control, key.pid_tgid >> 32))
		return 0;
	call.ssl = ARG1(regs);
	call.buffer = ARG2(regs);
	call.moved = moved;
	call.time = bpf_ktime_get_ns();
	call.size = ARG3(regs);
	call.direction = direction;
	call.sendfile = sendfile;
	bpf_map_update_elem(&calls, &key, &call, BPF_ANY);
	return 0;
}

/* int SSL_read(SSL *, void *, int) and SSL_write */
SEC("uprobe")
int read_int(struct pt_regs *regs)
{
	return enter(regs, DIRECTION_READ, 0, 0);
}

SEC("uprobe")
int write_int(struct pt_regs *regs)
{
	return enter(regs, DIRECTION_WRITE, 0, 0);
}

/* int SSL_read_ex(SSL *, void *, size_t, size_t *), SSL_write_ex, and the internal functions below both */
SEC("uprobe")
int read_ex(struct pt_regs *regs)
{
	return enter(regs, DIRECTION_READ, ARG4(regs), 0);
}

SEC("uprobe")
int write_ex(struct pt_regs *regs)
{
	return enter(regs, DIRECTION_WRITE, ARG4(regs), 0);
}

/* SSL_write_ex2(SSL *, const void *, size_t, uint64_t flags, size_t *) and ssl_write_internal since 3.3 */
SEC("uprobe")
int write_ex2(struct pt_regs *regs)
{
	return enter(regs, DIRECTION_WRITE, ARG5(regs), 0);
}

/* ossl_ssize_t SSL_sendfile(SSL *, int fd, off_t, size_t, int flags): its bytes never come into the process. */
SEC("uprobe")
int sendfile_enter(struct pt_regs *regs)
{
	return enter(regs, DIRECTION_WRITE, 0, 1);
}

/* How many bytes the call moved; not positive: none. Never more than asked for: a wrong attachment must not make up bytes,
 * and is known by that. */
static __always_inline s64 moved_bytes(struct pt_regs *regs, const struct call *call, int *doubtful)
{
	u64 moved = 0;

	if (call->sendfile)
		return (s64)RESULT(regs);
	if (!call->moved) {
		if ((s32)RESULT(regs) <= (s32)call->size)
			return (s32)RESULT(regs);
		*doubtful = 1;
		return 0;
	}
	if ((s32)RESULT(regs) != 1)
		return 0;
	if (bpf_probe_read_user(&moved, sizeof(moved), (void *)call->moved))
		return 0;
	if (moved <= call->size)
		return (s64)moved;
	*doubtful = 1;
	return 0;
}

static __always_inline void tell_doubtful(struct counters *counters, struct control *control)
{
	struct tls_data *event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	if (!event) {
		count(&counters->ring_full_records, 1);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	fill_header(&event->header, EVENT_TLS_DATA, bpf_get_current_pid_tgid() >> 32, start_of(task), bpf_ktime_get_ns());
	event->doubtful = 1;
	bpf_ringbuf_submit(event, wakeup(control));
}

SEC("uretprobe")
int leave(struct pt_regs *regs)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct call_key key = { .pid_tgid = pid_tgid, .stack = STACK(regs) - RETURN_ADDRESS_SIZE };
	struct call *entered = bpf_map_lookup_elem(&calls, &key);
	struct counters *counters = get_counters();
	struct control *control = get_control();
	struct output output;
	int doubtful = 0;
	s64 moved;

	if (!control || !counters)
		return 0;
	if (!entered) {
		if (selected(control, pid_tgid >> 32))
			count(&counters->unpaired_returns, 1);
		return 0;
	}
	output.call = *entered;
	bpf_map_delete_elem(&calls, &key);
	moved = moved_bytes(regs, &output.call, &doubtful);
	if (doubtful)
		tell_doubtful(counters, control);
	return finish(&output, moved, counters, control);
}

/* SSL *SSL_new(SSL_CTX *): from here on the connection is known from its start, and a reused address is another one. */
SEC("uretprobe")
int new_leave(struct pt_regs *regs)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct control *control = get_control();
	struct connection connection = { .generation = bpf_ktime_get_ns(), .from_start = 1 };
	struct connection_key key;

	if (!control || !RESULT(regs) || !selected(control, tgid))
		return 0;
	fill_connection_key(&key, RESULT(regs), tgid);
	bpf_map_update_elem(&connections, &key, &connection, BPF_ANY);
	return 0;
}

/* void SSL_free(SSL *) */
SEC("uprobe")
int free_enter(struct pt_regs *regs)
{
	return close_connection(ARG1(regs), CLOSED_UNKNOWN);
}

#define SSL_RECEIVED_SHUTDOWN 2 /* openssl/ssl.h */

/* The same where the library told the agent where two of its fields are, and the kernel has cookies (5.15). The cookie
 * holds the offsets of `shutdown` (low half) and `in_init` (high half), as SSL_get_shutdown and SSL_in_init read them:
 * a fatal error, an unexpected end of file among them, leaves the state machine "in init". */
SEC("uprobe")
int free_enter_state(struct pt_regs *regs)
{
	u64 cookie = bpf_get_attach_cookie(regs);
	u32 shutdown = 0, in_init = 0;
	u64 ssl = ARG1(regs);

	if (bpf_probe_read_user(&shutdown, sizeof(shutdown), (void *)(ssl + (u32)cookie)) ||
	    bpf_probe_read_user(&in_init, sizeof(in_init), (void *)(ssl + (cookie >> 32))))
		return close_connection(ARG1(regs), CLOSED_UNKNOWN);
	if (shutdown & SSL_RECEIVED_SHUTDOWN || in_init)
		return close_connection(ARG1(regs), CLOSED_BY_PEER);
	return close_connection(ARG1(regs), CLOSED_BY_US);
}

/* int SSL_clear(SSL *): the object serves another connection from here on. */
SEC("uprobe")
int clear_enter(struct pt_regs *regs)
{
	return begin_connection(ARG1(regs));
}
