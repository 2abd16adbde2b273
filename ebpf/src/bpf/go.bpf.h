/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Plaintext at Go's crypto/tls: uprobes on methods of tls.Conn, behind their look at the stack's end, and on the RET
 * instructions of Read. There is no return probe: Go moves stacks, and would come back to where its stack was.
 *
 * A goroutine changes threads, so calls are kept by goroutine; and by how deep it is in its stack, which stays the same
 * when the stack moves and tells apart the calls of a connection within a connection (TLS to a proxy).
 */
#include "tls.h"

/* Go's own calling convention (ABIInternal, since 1.17), on x86-64 only: others are not attached. */
#if defined(__TARGET_ARCH_x86)
#define GO_ARG1(regs) ((regs)->ax)
#define GO_ARG2(regs) ((regs)->bx)
#define GO_ARG3(regs) ((regs)->cx)
#define GO_ARG4(regs) ((regs)->di)
#define GO_RESULT(regs) ((regs)->ax)
#define GO_ROUTINE(regs) ((regs)->r14)
#else
#define GO_ARG1(r) ((r)->regs[0])
#define GO_ARG2(r) ((r)->regs[1])
#define GO_ARG3(r) ((r)->regs[2])
#define GO_ARG4(r) ((r)->regs[3])
#define GO_RESULT(r) ((r)->regs[0])
#define GO_ROUTINE(r) ((r)->regs[28])
#endif
#define GO_STACK_END 8 /* g.stack.hi (runtime/runtime2.go); the assembler's own constants rely on it */

struct go_call_key {
	u64 tgid;
	u64 routine;
	u64 depth;
};

/* As `calls`, for goroutines. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct go_call_key);
	__type(value, struct call);
} go_calls SEC(".maps");

static __always_inline int fill_go_call_key(struct go_call_key *key, struct pt_regs *regs)
{
	u64 end = 0;

	key->tgid = bpf_get_current_pid_tgid() >> 32;
	key->routine = GO_ROUTINE(regs);
	if (bpf_probe_read_user(&end, sizeof(end), (void *)(key->routine + GO_STACK_END)))
		return -1;
	key->depth = end - STACK(regs);
	return 0;
}

/* func (c *Conn) Read(b []byte) (int, error) */
SEC("uprobe")
int go_read(struct pt_regs *regs)
{
	struct control *control = get_control();
	struct go_call_key key;
	struct call call = {};

	if (!control || !selected(control, bpf_get_current_pid_tgid() >> 32))
		return 0;
	if (fill_go_call_key(&key, regs))
		return 0;
	call.ssl = GO_ARG1(regs);
	call.buffer = GO_ARG2(regs);
	call.time = bpf_ktime_get_ns();
	call.size = GO_ARG3(regs);
	call.direction = DIRECTION_READ;
	bpf_map_update_elem(&go_calls, &key, &call, BPF_ANY);
	return 0;
}

/*
 * func (c *Conn) writeRecordLocked(typ recordType, data []byte) (int, error): behind the handshake, under the lock of the
 * direction, and it writes all or the connection is at its end. So the bytes are taken at the entry: the goroutine that
 * reads the answer is now and then faster than the return of the call that asked.
 */
SEC("uprobe")
int go_write(struct pt_regs *regs)
{
	struct counters *counters = get_counters();
	struct control *control = get_control();
	struct output output;

	if ((u8)GO_ARG2(regs) != APPLICATION_DATA)
		return 0;
	if (!control || !counters || !selected(control, bpf_get_current_pid_tgid() >> 32))
		return 0;
	output.call.ssl = GO_ARG1(regs);
	output.call.buffer = GO_ARG3(regs);
	output.call.moved = 0;
	output.call.time = bpf_ktime_get_ns();
	output.call.size = GO_ARG4(regs);
	output.call.direction = DIRECTION_WRITE;
	output.call.sendfile = 0;
	return finish(&output, (s64)output.call.size, counters, control);
}

/* Before the RETs of Read. */
SEC("uprobe")
int go_leave(struct pt_regs *regs)
{
	struct counters *counters = get_counters();
	struct control *control = get_control();
	struct go_call_key key;
	struct output output;
	struct call *entered;
	s64 moved = (s64)GO_RESULT(regs);

	if (!control || !counters || !selected(control, bpf_get_current_pid_tgid() >> 32))
		return 0;
	if (fill_go_call_key(&key, regs))
		return 0;
	entered = bpf_map_lookup_elem(&go_calls, &key);
	if (!entered) {
		count(&counters->unpaired_returns, 1);
		return 0;
	}
	output.call = *entered;
	bpf_map_delete_elem(&go_calls, &key);
	/* No more than asked for: a wrong attachment must not make up bytes. */
	if (moved > 0 && (u64)moved > output.call.size)
		return 0;
	return finish(&output, moved, counters, control);
}

/* func (c *Conn) clientHandshake(ctx) and serverHandshake: once, before anything is read or written. */
SEC("uprobe")
int go_handshake(struct pt_regs *regs)
{
	return begin_connection(GO_ARG1(regs));
}

/* func (c *Conn) Close() error */
SEC("uprobe")
int go_close(struct pt_regs *regs)
{
	return close_connection(GO_ARG1(regs), CLOSED_BY_US);
}
