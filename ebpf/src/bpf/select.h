/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Which processes are traced, and the way to the agent: the maps that all families share.
 */
#pragma once

#include "kernel.h"
#include "events.h"

/* Written by the agent; read at the start of every program. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct control);
} control SEC(".maps");

/* Read by the agent; a CPU's own is written without atomics: uprobes do not nest, and a lost count of a migrating
 * thread is the price of none on the hot path. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct counters);
} counters SEC(".maps");

/* Programs on links of many uprobes, and those of tracepoints, may be interrupted by others on the same CPU. */
static __always_inline void count(u64 *counter, u64 by)
{
	__sync_fetch_and_add(counter, by);
}

/* Selected processes by tgid, with what is wanted of them (enum wanted). The agent puts in roots, fork adds children, exit
 * removes. Full: counted, not traced. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u32);
	__type(value, u32);
} processes SEC(".maps");

/* Selected cgroups by id, with what is wanted of them. Written by the agent alone; full: it says so. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, u32);
} cgroups SEC(".maps");

/* What climbing from a cgroup found. */
struct climbed {
	u64 selected;	/* the selected cgroup that it is, or is below; 0: none */
	u32 selection;	/* of `control`, when it climbed */
	u32 wanted;	/* of the selected cgroup */
};

/* By the cgroup's id; written by programs at a miss. Full: the least recently used climb again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct climbed);
} climbed_cgroups SEC(".maps");

/* To the agent. Full: the record is dropped and counted. Its size is the agent's configuration. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} ring SEC(".maps");

static const u32 ZERO;

static __always_inline struct control *get_control(void)
{
	return bpf_map_lookup_elem(&control, &ZERO);
}

static __always_inline struct counters *get_counters(void)
{
	return bpf_map_lookup_elem(&counters, &ZERO);
}

/* Wakes the agent only when it sleeps or the ring fills up: a wake-up costs the traced program 3 µs and more. */
static __always_inline u64 wakeup(const struct control *control)
{
	if (control->asleep || bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) > control->watermark)
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}

/* A controller's place among a task's cgroups; negative where the kernel has no such controller. */
static __always_inline s32 controller(s32 hierarchy)
{
	if (hierarchy == HIERARCHY_MEMORY && bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		return bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id);
	if (hierarchy == HIERARCHY_PIDS && bpf_core_enum_value_exists(enum cgroup_subsys_id, pids_cgrp_id))
		return bpf_core_enum_value(enum cgroup_subsys_id, pids_cgrp_id);
	if (hierarchy == HIERARCHY_CPU && bpf_core_enum_value_exists(enum cgroup_subsys_id, cpu_cgrp_id))
		return bpf_core_enum_value(enum cgroup_subsys_id, cpu_cgrp_id);
	return -1;
}

static __always_inline struct cgroup *cgroup_of(struct task_struct *task, s32 hierarchy)
{
	struct css_set *set = BPF_CORE_READ(task, cgroups);
	struct cgroup_subsys_state *state = NULL;
	s32 index;
	void *place;

	if (hierarchy < 0)
		return BPF_CORE_READ(set, dfl_cgrp);
	index = controller(hierarchy);
	if (index < 0)
		return NULL;
	place = (void *)set + bpf_core_field_offset(struct css_set, subsys) + ((u32)index & 31) * sizeof(void *);
	if (bpf_probe_read_kernel(&state, sizeof(state), place))
		return NULL;
	return BPF_CORE_READ(state, cgroup);
}

#define DEEPEST_CGROUP 24

/* The selected cgroup that the current task is in or below. */
static __always_inline struct climbed climb(const struct control *control)
{
	struct cgroup *cgroup = cgroup_of((struct task_struct *)bpf_get_current_task(), control->hierarchy);
	u64 id = BPF_CORE_READ(cgroup, kn, id), above = id;
	struct climbed *known = bpf_map_lookup_elem(&climbed_cgroups, &id);
	struct climbed found = { .selection = control->selection };

	u32 *wanted;

	if (known && known->selection == found.selection)
		return *known;
	for (int i = 0; i < DEEPEST_CGROUP; i++) {
		wanted = bpf_map_lookup_elem(&cgroups, &above);
		if (wanted) {
			found.selected = above;
			found.wanted = *wanted;
			break;
		}
		/* A cgroup begins with its own css, so the parent's css is the parent. */
		cgroup = (struct cgroup *)BPF_CORE_READ(cgroup, self.parent);
		if (!cgroup)
			break;
		above = BPF_CORE_READ(cgroup, kn, id);
	}
	bpf_map_update_elem(&climbed_cgroups, &id, &found, BPF_ANY);
	return found;
}

/* Its id; 0: there is none. */
static __always_inline u64 selected_cgroup(const struct control *control)
{
	return climb(control).selected;
}

/* Whether the current process is traced: the first thing that every program asks. */
static __always_inline int selected(const struct control *control, u32 tgid)
{
	if (tgid == control->self)
		return 0;
	if (control->select & SELECT_ALL)
		return 1;
	if (control->select & SELECT_PROCESSES && bpf_map_lookup_elem(&processes, &tgid))
		return 1;
	return control->select & SELECT_CGROUPS && selected_cgroup(control);
}

/* Whether something more is asked for of it: `what` of enum wanted, which `with_all` of enum select says of all processes. */
static __always_inline int wants(const struct control *control, u32 tgid, const u32 what, const u32 with_all)
{
	u32 *wanted;

	if (tgid == control->self)
		return 0;
	if (control->select & SELECT_ALL)
		return control->select & with_all;
	if (control->select & SELECT_PROCESSES) {
		wanted = bpf_map_lookup_elem(&processes, &tgid);
		if (wanted && *wanted & what)
			return 1;
	}
	return control->select & SELECT_CGROUPS && climb(control).wanted & what;
}

/* Whether its calls without TLS are asked for, too. */
static __always_inline int wants_plaintext(const struct control *control, u32 tgid)
{
	return wants(control, tgid, WANTED_PLAINTEXT, SELECT_PLAINTEXT);
}

static __always_inline u64 start_of(struct task_struct *task)
{
	return BPF_CORE_READ(task, group_leader, start_boottime);
}

static __always_inline void fill_header(struct event_header *header, u32 kind, u32 tgid, u64 started, u64 time)
{
	header->kind = kind;
	header->tgid = tgid;
	header->time = time;
	header->started = started;
}
