/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * What the families that read plaintext share: connections, and the way of a call's bytes into the ring.
 *
 * Bytes are taken at the return of a call, for writes as for reads: only then is it known how many there were, and the
 * caller's buffer still stands, since the caller has not run yet.
 */
#pragma once

#include "select.h"

#define APPLICATION_DATA 23 /* RFC 8446, section 5.1: the other types are TLS' own */

/* A call that has been entered and not left. */
struct call {
	u64 ssl;
	u64 buffer;
	u64 moved;	/* where the function puts the number of bytes; 0: it returns it */
	u64 time;
	u64 size;
	u32 direction;
	u32 sendfile;
};

struct connection_key {
	u64 ssl;
	u64 started;
	u64 tgid;
};

struct connection {
	u64 generation;
	u64 offset[2];
	u64 from_start;
};

/* Written at SSL_new or the first call, removed at SSL_free. Evicted ones come back as connections joined midway. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 32768);
	__type(key, struct connection_key);
	__type(value, struct connection);
} connections SEC(".maps");

static __always_inline void fill_connection_key(struct connection_key *key, u64 ssl, u32 tgid)
{
	key->ssl = ssl;
	key->started = start_of((struct task_struct *)bpf_get_current_task());
	key->tgid = tgid;
}

#define CHUNK 16384
/* 16 MiB of one call: 80,000 verified instructions, of a million. */
#define CHUNKS 1024

struct output {
	struct call call;
	struct connection connection; /* as it was before the call */
	struct counters *counters;
	u64 pid_tgid;
	u64 started;
	u64 time;
	u64 end;
	u32 socket;
	u32 held;
};

static __always_inline void fill_data(struct tls_data *event, const struct output *output, u64 at, u32 length)
{
	fill_header(&event->header, EVENT_TLS_DATA, output->pid_tgid >> 32, output->started, output->time);
	event->ssl = output->call.ssl;
	event->generation = output->connection.generation;
	event->offset = output->end - output->call.size + at;
	event->call_end = output->end;
	event->tid = (u32)output->pid_tgid;
	event->length = length;
	event->direction = output->call.direction;
	event->from_start = output->connection.from_start;
	event->socket = output->socket;
	event->held = output->held;
	event->doubtful = 0;
	__builtin_memset(event->pad, 0, sizeof(event->pad));
}

/* Sends `length` bytes at `at` of the call in a record with room for `room`. */
static __always_inline void send_piece(const struct output *output, u64 at, u32 length, const u32 room, u64 flags)
{
	struct tls_data *event = bpf_ringbuf_reserve(&ring, sizeof(*event) + room, 0);

	if (!event) {
		count(&output->counters->ring_full_records, 1);
		count(&output->counters->ring_full_bytes, length);
		return;
	}
	/* It never is. Verifiers before 5.11 need to see that right here, and the compiler, which knows it, would leave
	 * the comparison out. */
	if (!__builtin_constant_p(length))
		asm volatile("" : "+r"(length));
	if (length > room)
		length = room;
	if (bpf_probe_read_user(event->data, length, (void *)(output->call.buffer + at))) {
		count(&output->counters->fault_bytes, length);
		fill_data(event, output, at, 0);
		event->doubtful = 1;
		bpf_ringbuf_submit(event, flags);
		return;
	}
	fill_data(event, output, at, length);
	count(&output->counters->captured_bytes, length);
	bpf_ringbuf_submit(event, flags);
}

/* The bytes behind the last whole chunk, in a record of about their size: a reservation's size must be a constant. */
static __always_inline void send_tail(const struct output *output, u64 at, u32 length, u64 flags)
{
	if (length <= 256)
		send_piece(output, at, length, 256, flags);
	else if (length <= 1024)
		send_piece(output, at, length, 1024, flags);
	else if (length <= 4096)
		send_piece(output, at, length, 4096, flags);
	else
		send_piece(output, at, length, CHUNK, flags);
}

static __always_inline void send_call(const struct output *output, u64 flags)
{
	u64 size = output->call.size, at = 0;

	for (u32 i = 0; i < CHUNKS; i++) {
		at = (u64)i * CHUNK;
		if (at + CHUNK > size)
			break;
		send_piece(output, at, CHUNK, CHUNK, BPF_RB_NO_WAKEUP);
	}
	if (at + CHUNK <= size) { /* all chunks are used up */
		count(&output->counters->oversize_bytes, size - at - CHUNK);
		return;
	}
	send_tail(output, at, (size - at) & (CHUNK - 1), flags);
}

static __always_inline struct connection *find_connection(const struct connection_key *key, u64 time)
{
	struct connection *connection = bpf_map_lookup_elem(&connections, key);

	if (!connection) {
		struct connection joined = { .generation = time };

		bpf_map_update_elem(&connections, key, &joined, BPF_NOEXIST);
		connection = bpf_map_lookup_elem(&connections, key);
	}
	return connection;
}

/* Sends what a call moved, and where on its connection that was. */
static __always_inline int finish(struct output *output, s64 moved, struct counters *counters, struct control *control)
{
	struct connection_key connection_key;
	struct connection *connection;
	u64 pid_tgid = bpf_get_current_pid_tgid();

	if (moved <= 0)
		return 0;
	output->time = output->call.direction == DIRECTION_READ ? bpf_ktime_get_ns() : output->call.time;
	fill_connection_key(&connection_key, output->call.ssl, pid_tgid >> 32);
	connection = find_connection(&connection_key, output->time);
	if (!connection) {
		count(&counters->connections_full, 1);
		return 0;
	}
	output->connection = *connection;
	output->counters = counters;
	output->socket = 0;
	output->held = 0;
	output->pid_tgid = pid_tgid;
	output->started = connection_key.started;
	output->call.size = moved;
	/* One thread at a time reads, and one writes, a connection: the library demands it. */
	if (output->call.direction == DIRECTION_READ)
		output->end = connection->offset[DIRECTION_READ] += moved;
	else
		output->end = connection->offset[DIRECTION_WRITE] += moved;
	count(&counters->tls_calls, 1);
	count(&counters->tls_bytes, moved);
	if (output->call.sendfile) {
		count(&counters->sendfile_bytes, moved);
		return 0;
	}
	send_call(output, wakeup(control));
	return 0;
}

static __always_inline void tell_closed(const struct connection_key *key, const struct connection *connection, u8 how,
					struct counters *counters, struct control *control)
{
	struct tls_closed *event;

	/* A connection without a byte was never announced. */
	if (!connection->offset[0] && !connection->offset[1])
		return;
	event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);
	if (!event) {
		count(&counters->ring_full_records, 1);
		return;
	}
	fill_header(&event->header, EVENT_TLS_CLOSED, key->tgid, key->started, bpf_ktime_get_ns());
	event->ssl = key->ssl;
	event->generation = connection->generation;
	event->offset[0] = connection->offset[0];
	event->offset[1] = connection->offset[1];
	event->how = how;
	__builtin_memset(event->pad, 0, sizeof(event->pad));
	bpf_ringbuf_submit(event, wakeup(control));
}

static __always_inline int close_connection(u64 ssl, u8 how)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct control *control = get_control();
	struct counters *counters = get_counters();
	struct connection *connection;
	struct connection_key key;

	if (!control || !counters || !selected(control, tgid))
		return 0;
	fill_connection_key(&key, ssl, tgid);
	connection = bpf_map_lookup_elem(&connections, &key);
	if (!connection)
		return 0;
	tell_closed(&key, connection, how, counters, control);
	bpf_map_delete_elem(&connections, &key);
	return 0;
}

/* Whatever was at that address before, it is another connection from here on. */
static __always_inline int begin_connection(u64 ssl)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct connection connection = { .generation = bpf_ktime_get_ns(), .from_start = 1 };
	struct control *control = get_control();
	struct connection_key key;

	if (!control || !selected(control, tgid))
		return 0;
	close_connection(ssl, CLOSED_UNKNOWN);
	fill_connection_key(&key, ssl, tgid);
	bpf_map_update_elem(&connections, &key, &connection, BPF_ANY);
	return 0;
}
