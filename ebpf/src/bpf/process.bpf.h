/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Processes: fork, exec, exit, on raw tracepoints. Those exist on every kernel since 4.17, cost nothing but at these
 * rare events, and need neither tracefs nor kprobes.
 */
#include "select.h"

SEC("raw_tracepoint/sched_process_fork")
int process_fork(struct bpf_raw_tracepoint_args *context)
{
	struct task_struct *parent = (void *)context->args[0], *child = (void *)context->args[1];
	struct control *control = get_control();
	struct counters *counters = get_counters();
	u32 tgid = BPF_CORE_READ(child, tgid), parent_tgid = BPF_CORE_READ(parent, tgid);
	u32 wanted = WANTED_CALLS, *parents;
	struct process_fork *event;

	if (!control || !counters || tgid != (u32)BPF_CORE_READ(child, pid) || !selected(control, parent_tgid))
		return 0;
	/* Before the child runs: it makes no call that is not seen. */
	if (control->select & SELECT_PROCESSES) {
		parents = bpf_map_lookup_elem(&processes, &parent_tgid);
		if (parents)
			wanted = *parents;
		if (bpf_map_update_elem(&processes, &tgid, &wanted, BPF_ANY))
			count(&counters->processes_full, 1);
	}
	event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);
	if (!event) {
		count(&counters->ring_full_records, 1);
		return 0;
	}
	fill_header(&event->header, EVENT_FORK, tgid, start_of(child), bpf_ktime_get_ns());
	event->parent = parent_tgid;
	event->pad = 0;
	bpf_ringbuf_submit(event, wakeup(control));
	return 0;
}

/* `room` is a constant: the ring reserves no other sizes. */
static __always_inline void tell_exec(struct bpf_raw_tracepoint_args *context, const struct control *control,
				      struct counters *counters, u32 tgid, const u32 room)
{
	struct task_struct *task = (void *)context->args[0];
	struct linux_binprm *program = (void *)context->args[2];
	unsigned long start = BPF_CORE_READ(task, mm, arg_start), end = BPF_CORE_READ(task, mm, arg_end);
	struct process_exec *event = bpf_ringbuf_reserve(&ring, sizeof(*event) + room, 0);
	u64 length = end > start ? end - start : 0;
	long filename;

	if (!event) {
		count(&counters->ring_full_records, 1);
		return;
	}
	fill_header(&event->header, EVENT_EXEC, tgid, start_of(task), bpf_ktime_get_ns());
	event->parent = BPF_CORE_READ(task, real_parent, tgid);
	filename = bpf_probe_read_kernel_str(event->filename, sizeof(event->filename),
					     BPF_CORE_READ(program, interp));
	event->length = filename > 0 ? filename - 1 : 0;
	event->arguments_size = length > 0xffffffff ? 0xffffffff : length;
	/* For verifiers before 5.11 the comparison must stand right here: see openssl.bpf.h. */
	asm volatile("" : "+r"(length));
	if (length > room)
		length = room;
	/* The kernel has just written them, so they are there. */
	if (bpf_probe_read_user(event->arguments, length, (void *)start))
		length = 0;
	event->arguments_length = length;
	bpf_ringbuf_submit(event, wakeup(control));
}

SEC("raw_tracepoint/sched_process_exec")
int process_exec(struct bpf_raw_tracepoint_args *context)
{
	struct task_struct *task = (void *)context->args[0];
	struct control *control = get_control();
	struct counters *counters = get_counters();
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	unsigned long start, end;

	if (!control || !counters || !selected(control, tgid))
		return 0;
	start = BPF_CORE_READ(task, mm, arg_start);
	end = BPF_CORE_READ(task, mm, arg_end);
	/* Most commands are short, and a crowd of them must not fill the ring with room that they do not need. */
	if (end - start <= 128)
		tell_exec(context, control, counters, tgid, 128);
	else if (end - start <= 1024)
		tell_exec(context, control, counters, tgid, 1024);
	else
		tell_exec(context, control, counters, tgid, ARGUMENTS_SIZE);
	return 0;
}

SEC("raw_tracepoint/sched_process_exit")
int process_exit(struct bpf_raw_tracepoint_args *context)
{
	struct task_struct *task = (void *)context->args[0];
	struct control *control = get_control();
	struct counters *counters = get_counters();
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct process_exit *event;
	int code;

	/* One event for a process, at its last thread. */
	if (!control || !counters || BPF_CORE_READ(task, signal, live.counter) != 0 || !selected(control, tgid))
		return 0;
	bpf_map_delete_elem(&processes, &tgid);
	event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);
	if (!event) {
		count(&counters->ring_full_records, 1);
		return 0;
	}
	fill_header(&event->header, EVENT_EXIT, tgid, start_of(task), bpf_ktime_get_ns());
	code = BPF_CORE_READ(task, signal, group_exit_code);
	event->code = code ? code : BPF_CORE_READ(task, exit_code);
	event->pad = 0;
	bpf_ringbuf_submit(event, wakeup(control));
	return 0;
}
