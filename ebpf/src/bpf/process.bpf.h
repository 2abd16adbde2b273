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
	u32 tgid = BPF_CORE_READ(child, tgid), parent_tgid = BPF_CORE_READ(parent, tgid), one = 1;
	struct process_fork *event;

	if (!control || !counters || tgid != (u32)BPF_CORE_READ(child, pid) || !selected(control, parent_tgid))
		return 0;
	/* Before the child runs: it makes no call that is not seen. */
	if (control->select & SELECT_PROCESSES && bpf_map_update_elem(&processes, &tgid, &one, BPF_ANY))
		counters->processes_full++;
	event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);
	if (!event) {
		counters->ring_full_records++;
		return 0;
	}
	fill_header(&event->header, EVENT_FORK, tgid, start_of(child), bpf_ktime_get_ns());
	event->parent = parent_tgid;
	event->pad = 0;
	bpf_ringbuf_submit(event, wakeup(control));
	return 0;
}

SEC("raw_tracepoint/sched_process_exec")
int process_exec(struct bpf_raw_tracepoint_args *context)
{
	struct task_struct *task = (void *)context->args[0];
	struct linux_binprm *program = (void *)context->args[2];
	struct control *control = get_control();
	struct counters *counters = get_counters();
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct process_exec *event;
	long length;

	if (!control || !counters || !selected(control, tgid))
		return 0;
	event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);
	if (!event) {
		counters->ring_full_records++;
		return 0;
	}
	fill_header(&event->header, EVENT_EXEC, tgid, start_of(task), bpf_ktime_get_ns());
	event->parent = BPF_CORE_READ(task, real_parent, tgid);
	length = bpf_probe_read_kernel_str(event->filename, sizeof(event->filename), BPF_CORE_READ(program, filename));
	event->length = length > 0 ? length - 1 : 0;
	bpf_ringbuf_submit(event, wakeup(control));
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
		counters->ring_full_records++;
		return 0;
	}
	fill_header(&event->header, EVENT_EXIT, tgid, start_of(task), bpf_ktime_get_ns());
	code = BPF_CORE_READ(task, signal, group_exit_code);
	event->code = code ? code : BPF_CORE_READ(task, exit_code);
	event->pad = 0;
	bpf_ringbuf_submit(event, wakeup(control));
	return 0;
}
