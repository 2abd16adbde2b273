/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Containers: cgroups as they are made and removed, and which of them a program runs in. On raw tracepoints, as
 * process.bpf.h; loaded and attached only where containers are traced. A container's cgroup is made before its first
 * program runs, so the agent can select it in time.
 */
#include "select.h"

/* To the agent, apart from `ring`: a container must not wait behind plaintext. Full: counted, and the agent looks at
 * the whole tree again. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 << 10);
} cgroup_events SEC(".maps");

/* Records for which `cgroup_events` had no room. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} cgroup_events_lost SEC(".maps");

static __always_inline int tell_cgroup(struct cgroup *cgroup, const char *path, u32 kind)
{
	struct control *control = get_control();
	struct cgroup_event *event;
	struct cgroup *own;
	long length;
	u64 *lost;

	if (!control)
		return 0;
	own = cgroup_of((struct task_struct *)bpf_get_current_task(), control->hierarchy);
	if (BPF_CORE_READ(own, root) != BPF_CORE_READ(cgroup, root))
		return 0;
	event = bpf_ringbuf_reserve(&cgroup_events, sizeof(*event), 0);
	if (!event) {
		lost = bpf_map_lookup_elem(&cgroup_events_lost, &ZERO);
		if (lost)
			__sync_fetch_and_add(lost, 1);
		return 0;
	}
	event->id = BPF_CORE_READ(cgroup, kn, id);
	event->kind = kind;
	length = bpf_probe_read_kernel_str(event->path, sizeof(event->path), path);
	event->length = length > 0 ? length - 1 : 0;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* struct cgroup *, const char *path */
SEC("raw_tracepoint/cgroup_mkdir")
int cgroup_made(struct bpf_raw_tracepoint_args *context)
{
	return tell_cgroup((void *)context->args[0], (void *)context->args[1], CGROUP_MADE);
}

SEC("raw_tracepoint/cgroup_rmdir")
int cgroup_removed(struct bpf_raw_tracepoint_args *context)
{
	return tell_cgroup((void *)context->args[0], (void *)context->args[1], CGROUP_REMOVED);
}

/* Who the process is, from the kernel: a short-lived one is gone before the agent could read its /proc. */
SEC("raw_tracepoint/sched_process_exec")
int container_exec(struct bpf_raw_tracepoint_args *context)
{
	struct task_struct *task = (void *)context->args[0];
	struct control *control = get_control();
	struct counters *counters = get_counters();
	struct process_container *event;
	u64 cgroup;

	if (!control || !counters || !(control->select & SELECT_CGROUPS))
		return 0;
	cgroup = selected_cgroup(control);
	if (!cgroup)
		return 0;
	event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);
	if (!event) {
		count(&counters->ring_full_records, 1);
		return 0;
	}
	fill_header(&event->header, EVENT_CONTAINER, bpf_get_current_pid_tgid() >> 32, start_of(task),
		    bpf_ktime_get_ns());
	event->cgroup = cgroup;
	bpf_ringbuf_submit(event, wakeup(control));
	return 0;
}
