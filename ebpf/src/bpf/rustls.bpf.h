/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Plaintext at rustls: uprobes on the functions of aws-lc and of ring that seal and open one record each. They know a key,
 * not a connection, so the socket tells which that is: what a thread has sealed goes where it writes next, and what it
 * opens came from where it received last (fentry of tcp_sendmsg, tcp_recvmsg and tcp_close, or tracepoints of the socket
 * layer, since 6.3). That is more than timing. What is sealed names its record's head, and is taken for a socket's only if
 * the write has that head where a record begins. What is opened by a key for the first time must lie in the memory that was
 * received into: rustls opens records where they arrived (since 0.22).
 *
 * What is sealed is overwritten by its own ciphertext, so it goes to the agent at once, under the name of a batch, and the
 * agent holds it until the write tells the socket. From then on the key is known to be that socket's, until it is closed:
 * where a socket is full, what one thread has sealed is written by another, and later.
 */
#include "socket.bpf.h"

/* RFC 8446, sections 5.1 and 4. */
#define ALERT 21
#define HANDSHAKE 22
#define KEY_UPDATE 24

#define TAG_SIZE 16 /* of every AEAD that rustls has */
#define NONCE_SIZE 8 /* that TLS 1.2 sends before what AES-GCM sealed */
#define HEAD_SIZE 5
#define MOST_PLAINTEXT 16384 /* in one record */
#define MOST_PADDING 255 /* that is looked behind: what a server adds in TLS 1.3; most add none */

/* An open that has been entered and not left. */
struct opening {
	u64 stack;	/* 0: none */
	u64 context;
	u64 additional;
	u64 plaintext;
	u32 length;
	u8 type;	/* of the record; 0: its last byte tells (TLS 1.3) */
	u8 tells;	/* the function returns 1 if all was well */
	u8 arrived;	/* it lies where the thread received last */
	u8 pad;
};

struct record_thread {
	u64 socket;	/* that it received from last; 0: none of TCP */
	u64 memory;	/* that it received into, and its size */
	u64 size;
	u64 batch;	/* of what it has sealed and not written: when that began; 0: nothing */
	u64 context;	/* the key that it was sealed by */
	u64 length;	/* application data in it */
	u8 head[3];	/* type and version of its first record */
	u8 begins;	/* part of it is a handshake */
	u16 lengths[2];	/* that its first record may have: in TLS 1.2 with or without a nonce */
	struct opening opening;
};

/* By pid_tgid; written by its own thread only. Evicted: what it has sealed is given up by the agent, and the next record
 * that it opens before it receives again finds no socket. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct record_thread);
} record_threads SEC(".maps");

/* Selected processes that have sealed or opened something, by tgid: of no other what it receives is looked at. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u32);
	__type(value, u32);
} record_processes SEC(".maps");

struct record_socket {
	struct connection connection;
	u64 started;	/* of the process that was seen first */
	u64 context[2];	/* the keys of its directions */
	u32 tgid;
	u32 over;	/* an alert or the end was read */
};

/* By the address of the kernel's socket; removed when it is closed. Evicted: joined midway, as another connection. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct record_socket);
} record_sockets SEC(".maps");

struct record_key {
	u64 context;
	u64 tgid;
};

/* The socket that goes with a key that seals. Written when a write has shown it, removed with the socket, and when the
 * process says that it changes the key. Evicted: the next write shows it again. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct record_key);
	__type(value, u64);
} record_keys SEC(".maps");

static __always_inline struct record_thread *find_thread(u64 pid_tgid)
{
	struct record_thread *thread = bpf_map_lookup_elem(&record_threads, &pid_tgid);
	struct record_thread fresh = {};

	if (thread)
		return thread;
	bpf_map_update_elem(&record_threads, &pid_tgid, &fresh, BPF_NOEXIST);
	return bpf_map_lookup_elem(&record_threads, &pid_tgid);
}

/* The thread, if its process is selected. */
static __always_inline struct record_thread *enter_record(const struct control *control)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	u32 tgid = pid_tgid >> 32, here = 1;

	if (!control || !selected(control, tgid))
		return NULL;
	if (!bpf_map_lookup_elem(&record_processes, &tgid))
		bpf_map_update_elem(&record_processes, &tgid, &here, BPF_ANY);
	return find_thread(pid_tgid);
}

struct record {
	u8 head[3];
	u8 type;	/* 0: the last byte of the plaintext tells */
	u16 lengths[2];
};

/*
 * Whether that is a record of TLS: its head, or the number, type and length of its plaintext, are sealed with it (RFC 8446,
 * section 5.2; RFC 5246, section 6.2.3.3). Both libraries are used for other things, too, and so is a register that a
 * compiler uses otherwise found out here. `length`: of the plaintext, in TLS 1.3 with its type behind it.
 */
static __always_inline int read_record(struct record *record, u64 additional, u64 size, u64 length)
{
	u8 bytes[13] = {};

	if (length > MOST_PLAINTEXT + 1 + MOST_PADDING)
		return -1;
	if (size == HEAD_SIZE) {
		if (!length || bpf_probe_read_user(bytes, HEAD_SIZE, (void *)additional))
			return -1;
		if (bytes[0] != APPLICATION_DATA || bytes[1] != 3 || bytes[2] != 3 ||
		    (u64)(bytes[3] << 8 | bytes[4]) != length + TAG_SIZE)
			return -1;
		record->type = 0;
		record->head[0] = APPLICATION_DATA;
		record->lengths[0] = record->lengths[1] = length + TAG_SIZE;
	} else if (size == sizeof(bytes)) {
		if (bpf_probe_read_user(bytes, sizeof(bytes), (void *)additional))
			return -1;
		if (bytes[8] < 20 || bytes[8] > APPLICATION_DATA || bytes[9] != 3 || bytes[10] != 3 ||
		    (u64)(bytes[11] << 8 | bytes[12]) != length)
			return -1;
		record->type = record->head[0] = bytes[8];
		record->lengths[0] = length + TAG_SIZE;
		record->lengths[1] = length + TAG_SIZE + NONCE_SIZE;
	} else {
		return -1;
	}
	record->head[1] = record->head[2] = 3;
	return 0;
}

static __always_inline void fill_output(struct output *output, u64 name, u64 buffer, u64 length, u32 direction, u64 end,
					struct counters *counters)
{
	output->call.ssl = name;
	output->call.buffer = buffer;
	output->call.size = length;
	output->call.direction = direction;
	output->counters = counters;
	output->pid_tgid = bpf_get_current_pid_tgid();
	output->started = start_of((struct task_struct *)bpf_get_current_task());
	output->time = bpf_ktime_get_ns();
	output->end = end;
	count(&counters->tls_calls, 1);
	count(&counters->tls_bytes, length);
}

/* The socket that a key is known to be of. */
static __always_inline struct record_socket *find_keyed_socket(const struct record_key *key, u64 *address)
{
	u64 *known = bpf_map_lookup_elem(&record_keys, key);
	struct record_socket *socket;

	if (!known)
		return NULL;
	*address = *known;
	socket = bpf_map_lookup_elem(&record_sockets, address);
	return socket && socket->context[DIRECTION_WRITE] == key->context ? socket : NULL;
}

static __always_inline int seal_record(u64 context, u64 plaintext, u64 length, u64 additional, u64 size)
{
	struct control *control = get_control();
	struct counters *counters = get_counters();
	struct record_thread *thread = enter_record(control);
	struct record_key key = { .context = context, .tgid = bpf_get_current_pid_tgid() >> 32 };
	struct record_socket *socket;
	struct record record = {};
	struct output output = {};
	u64 address = 0;
	u8 first = 0;

	if (!thread || !counters)
		return 0;
	if (read_record(&record, additional, size, length)) {
		count(&counters->records_foreign, 1);
		return 0;
	}
	if (!record.type) {
		length--;
		if (bpf_probe_read_user(&record.type, 1, (void *)(plaintext + length)))
			return 0;
	}
	if (record.type == HANDSHAKE) {
		if (bpf_probe_read_user(&first, 1, (void *)plaintext))
			return 0;
		if (first == KEY_UPDATE) {
			bpf_map_delete_elem(&record_keys, &key);
			return 0;
		}
	} else if (record.type != APPLICATION_DATA || !length || length > MOST_PLAINTEXT) {
		return 0;
	}
	socket = record.type == APPLICATION_DATA ? find_keyed_socket(&key, &address) : NULL;
	if (socket) {
		socket->connection.offset[DIRECTION_WRITE] += length;
		fill_output(&output, address, plaintext, length, DIRECTION_WRITE, socket->connection.offset[DIRECTION_WRITE],
			    counters);
		output.connection = socket->connection;
		send_tail(&output, 0, length, wakeup(control));
		return 0;
	}
	/* Another key: whatever that was, it was not written. The keys of a handshake are followed by others. */
	if (thread->batch && thread->context != context && thread->length) {
		count(&counters->records_unplaced_bytes, thread->length);
		thread->batch = 0;
	}
	if (!thread->batch) {
		thread->batch = bpf_ktime_get_ns();
		thread->length = 0;
		thread->begins = 0;
		__builtin_memcpy(thread->head, record.head, sizeof(thread->head));
		thread->lengths[0] = record.lengths[0];
		thread->lengths[1] = record.lengths[1];
	}
	thread->context = context;
	if (record.type == HANDSHAKE) {
		thread->begins = 1;
		return 0;
	}
	thread->length += length;
	fill_output(&output, thread->batch, plaintext, length, DIRECTION_WRITE, thread->length, counters);
	output.connection.generation = thread->batch;
	output.held = 1;
	send_tail(&output, 0, length, wakeup(control));
	return 0;
}

/* `end`: of the ciphertext. */
static __always_inline int open_record(struct pt_regs *regs, u64 context, u64 plaintext, u64 length, u64 end,
				       u64 additional, u64 size, u8 tells)
{
	struct counters *counters = get_counters();
	struct record_thread *thread = enter_record(get_control());
	struct record record = {};
	struct opening *opening;

	if (!thread || !counters)
		return 0;
	opening = &thread->opening;
	/* Within another one for the same record, which tells it. */
	if (opening->stack > STACK(regs) && opening->context == context && opening->additional == additional)
		return 0;
	opening->stack = 0;
	if (read_record(&record, additional, size, length)) {
		count(&counters->records_foreign, 1);
		return 0;
	}
	opening->context = context;
	opening->additional = additional;
	opening->plaintext = plaintext;
	opening->length = length;
	opening->type = record.type;
	opening->tells = tells;
	/* It may have begun with an earlier read, but came whole with this one. */
	opening->arrived = end > thread->memory && end <= thread->memory + thread->size;
	opening->stack = STACK(regs);
	return 0;
}

/* What the plaintext of TLS 1.3 is: its type stands behind it, and behind that zeros may stand. */
static __always_inline u8 type_of(u64 plaintext, u32 *length)
{
	u8 type = 0;

	for (u32 i = 0; i <= MOST_PADDING; i++) {
		if (!*length)
			return 0;
		--*length;
		if (bpf_probe_read_user(&type, 1, (void *)(plaintext + *length)) || type)
			return type;
	}
	return 0;
}

static __always_inline struct record_socket *find_record_socket(u64 key, u32 begins, struct counters *counters)
{
	struct record_socket *socket = bpf_map_lookup_elem(&record_sockets, &key);
	struct record_socket fresh = {};

	if (socket)
		return socket;
	fresh.connection.generation = bpf_ktime_get_ns();
	fresh.connection.from_start = begins;
	fresh.tgid = bpf_get_current_pid_tgid() >> 32;
	fresh.started = start_of((struct task_struct *)bpf_get_current_task());
	if (bpf_map_update_elem(&record_sockets, &key, &fresh, BPF_NOEXIST)) {
		count(&counters->connections_full, 1);
		return NULL;
	}
	return bpf_map_lookup_elem(&record_sockets, &key);
}

static __always_inline int opened(struct record_thread *thread, struct counters *counters, struct control *control)
{
	u64 plaintext = thread->opening.plaintext, context = thread->opening.context, key = thread->socket;
	struct record_socket *socket = bpf_map_lookup_elem(&record_sockets, &key);
	u32 length = thread->opening.length, known;
	struct output output = {};
	u8 type = thread->opening.type;

	if (!type)
		type = type_of(plaintext, &length);
	known = socket && socket->context[DIRECTION_READ] == context;
	if (type == ALERT && known)
		socket->over = 1;
	/* 0: so much padding is behind it that it is not read. */
	if ((type && type != APPLICATION_DATA) || !length || length > MOST_PLAINTEXT)
		return 0;
	if (!known) {
		/* It came another way, or over a connection within this one. */
		if (!key || !thread->opening.arrived) {
			count(&counters->records_unplaced_bytes, length);
			return 0;
		}
		if (!socket)
			socket = find_record_socket(key, 0, counters);
		if (!socket)
			return 0;
		socket->context[DIRECTION_READ] = context;
	}
	socket->connection.offset[DIRECTION_READ] += length;
	if (!type) {
		count(&counters->records_unplaced_bytes, length);
		return 0;
	}
	fill_output(&output, key, plaintext, length, DIRECTION_READ, socket->connection.offset[DIRECTION_READ], counters);
	output.connection = socket->connection;
	send_tail(&output, 0, length, wakeup(control));
	return 0;
}

/* Behind each of those that open. */
SEC("uretprobe")
int record_opened(struct pt_regs *regs)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct record_thread *thread = bpf_map_lookup_elem(&record_threads, &pid_tgid);
	struct control *control = get_control();
	struct counters *counters = get_counters();

	if (!thread || !control || !counters || thread->opening.stack != STACK(regs) - RETURN_ADDRESS_SIZE)
		return 0;
	thread->opening.stack = 0;
	if (thread->opening.tells && (s32)RESULT(regs) != 1)
		return 0;
	return opened(thread, counters, control);
}

/* Arguments that stand on the stack at a function's first instruction, on x86-64: others are not attached. */
static __always_inline u64 on_stack(struct pt_regs *regs, u32 index)
{
	u64 value = 0;

	if (bpf_probe_read_user(&value, sizeof(value), (void *)(STACK(regs) + 8 + 8 * index)))
		return 0;
	return value;
}

/* int EVP_AEAD_CTX_seal(ctx, out, *out_len, max_out_len, nonce, nonce_len, in, in_len, ad, ad_len) */
SEC("uprobe")
int aead_seal(struct pt_regs *regs)
{
	return seal_record(ARG1(regs), on_stack(regs, 0), on_stack(regs, 1), on_stack(regs, 2), on_stack(regs, 3));
}

/* int EVP_AEAD_CTX_seal_scatter(ctx, out, out_tag, *out_tag_len, max_out_tag_len, nonce, nonce_len, in, in_len, extra_in,
 * extra_in_len, ad, ad_len). With more to be sealed elsewhere the length is not the record's. */
SEC("uprobe")
int aead_seal_scatter(struct pt_regs *regs)
{
	return seal_record(ARG1(regs), on_stack(regs, 1), on_stack(regs, 2), on_stack(regs, 5), on_stack(regs, 6));
}

/* int EVP_AEAD_CTX_open(ctx, out, *out_len, max_out_len, nonce, nonce_len, in, in_len, ad, ad_len) */
SEC("uprobe")
int aead_open(struct pt_regs *regs)
{
	u64 length = on_stack(regs, 1);

	return open_record(regs, ARG1(regs), ARG2(regs), length - TAG_SIZE, on_stack(regs, 0) + length, on_stack(regs, 2),
			   on_stack(regs, 3), 1);
}

/* int EVP_AEAD_CTX_open_gather(ctx, out, nonce, nonce_len, in, in_len, in_tag, in_tag_len, ad, ad_len) */
SEC("uprobe")
int aead_open_gather(struct pt_regs *regs)
{
	return open_record(regs, ARG1(regs), ARG2(regs), ARG6(regs), ARG5(regs) + ARG6(regs), on_stack(regs, 2),
			   on_stack(regs, 3), 1);
}

/* ring's fn(&KeyInner, Nonce, Aad<&[u8]>, in_out: &mut [u8], cpu::Features) -> Result<Tag, _>, in the way of Rust's own
 * calls, which may change: then the additional data are no record's. Its first argument is where the result goes. */
SEC("uprobe")
int ring_seal(struct pt_regs *regs)
{
	return seal_record(ARG2(regs), ARG6(regs), on_stack(regs, 0), ARG4(regs), ARG5(regs));
}

/* The same with src: RangeFrom<usize> behind in_out: where the ciphertext is. The plaintext comes to its beginning. */
SEC("uprobe")
int ring_open(struct pt_regs *regs)
{
	u64 length = on_stack(regs, 0);

	return open_record(regs, ARG2(regs), ARG6(regs), length - on_stack(regs, 1), ARG6(regs) + length, ARG4(regs),
			   ARG5(regs), 0);
}

#define MOST_HEADS 16 /* of one write: rustls' own buffer holds four full ones */

/* Whether a write has the head of the batch's first record, where a record begins. */
static __always_inline int has_head(const struct record_thread *thread, struct segments *segments)
{
	u8 head[HEAD_SIZE] = {};
	u64 length;

	for (u32 i = 0; i < MOST_HEADS; i++) {
		forget(segments);
		if (segments->left < HEAD_SIZE)
			next_segment(segments);
		if (segments->left < HEAD_SIZE || bpf_probe_read_user(head, HEAD_SIZE, (void *)segments->base))
			return 0;
		length = head[3] << 8 | head[4];
		if (head[0] == thread->head[0] && head[1] == thread->head[1] && head[2] == thread->head[2] &&
		    (length == thread->lengths[0] || length == thread->lengths[1]))
			return 1;
		if (head[0] < 20 || head[0] > APPLICATION_DATA || head[1] != 3)
			return 0;
		length += HEAD_SIZE;
		if (length > segments->left)
			return 0;
		segments->base += length;
		segments->left -= length;
	}
	return 0;
}

/* What the thread has sealed goes over this socket. */
static __always_inline void tell_sent(struct record_thread *thread, u64 key, struct record_socket *socket,
				      struct counters *counters, struct control *control)
{
	struct tls_sent *event;
	u64 pid_tgid = bpf_get_current_pid_tgid(), from = socket->connection.offset[DIRECTION_WRITE];

	socket->connection.offset[DIRECTION_WRITE] = from + thread->length;
	event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);
	if (!event) {
		count(&counters->ring_full_records, 1);
		count(&counters->ring_full_bytes, thread->length);
		return;
	}
	fill_header(&event->header, EVENT_TLS_SENT, socket->tgid, socket->started, bpf_ktime_get_ns());
	event->ssl = key;
	event->generation = socket->connection.generation;
	event->batch = thread->batch;
	event->offset = from;
	event->length = thread->length;
	event->tid = (u32)pid_tgid;
	event->from_start = socket->connection.from_start;
	__builtin_memset(event->pad, 0, sizeof(event->pad));
	bpf_ringbuf_submit(event, wakeup(control));
}

/* The thread, if it has sealed something that it may be writing now. */
static __always_inline struct record_thread *find_sealed(void)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct record_thread *thread = bpf_map_lookup_elem(&record_threads, &pid_tgid);

	return thread && thread->batch ? thread : NULL;
}

static __always_inline int send_records(struct record_thread *thread, struct sock *sk, struct segments *segments)
{
	struct control *control = get_control();
	struct counters *counters = get_counters();
	struct record_socket *socket;
	struct record_key by;
	u64 key = (u64)sk;

	if (!control || !counters)
		return 0;
	if (!has_head(thread, segments))
		return 0;
	socket = find_record_socket(key, thread->begins, counters);
	if (!socket)
		return 0;
	if (thread->length) {
		by.context = socket->context[DIRECTION_WRITE] = thread->context;
		by.tgid = bpf_get_current_pid_tgid() >> 32;
		bpf_map_update_elem(&record_keys, &by, &key, BPF_ANY);
		tell_sent(thread, key, socket, counters, control);
	}
	thread->batch = 0;
	return 0;
}

static __always_inline int write_records(u64 *context)
{
	struct record_thread *thread = find_sealed();
	struct segments segments;

	if (!thread || find_segments(&segments, (void *)context[1], 0))
		return 0;
	return send_records(thread, (void *)context[0], &segments);
}

/* The thread, if what it receives may be records. */
static __always_inline struct record_thread *find_receiver(void)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	u32 tgid = pid_tgid >> 32;

	return bpf_map_lookup_elem(&record_processes, &tgid) ? find_thread(pid_tgid) : NULL;
}

static __always_inline int receive_records(struct record_thread *thread, struct sock *sk, const struct segments *segments)
{
	thread->socket = (u64)sk;
	thread->memory = segments->base;
	thread->size = segments->left;
	return 0;
}

static __always_inline int read_records(u64 *context)
{
	struct record_thread *thread = find_receiver();
	struct segments segments;

	if (!thread || find_segments(&segments, (void *)context[1], 0))
		return 0;
	return receive_records(thread, (void *)context[0], &segments);
}

static __always_inline int end_record_socket(struct sock *sk, int by_peer)
{
	u64 key = (u64)sk;
	struct record_socket *socket = bpf_map_lookup_elem(&record_sockets, &key);
	struct control *control = get_control();
	struct counters *counters = get_counters();
	struct connection_key owner = {};
	struct connection connection;
	struct record_key by;

	if (!socket)
		return 0;
	by.context = socket->context[DIRECTION_WRITE];
	by.tgid = socket->tgid;
	bpf_map_delete_elem(&record_keys, &by);
	if (control && counters) {
		connection = socket->connection;
		owner.ssl = key;
		owner.started = socket->started;
		owner.tgid = socket->tgid;
		tell_closed(&owner, &connection, by_peer || socket->over ? CLOSED_BY_PEER : CLOSED_BY_US, counters, control);
	}
	bpf_map_delete_elem(&record_sockets, &key);
	return 0;
}

/* All of these are there twice: see socket.bpf.h. */

/* int tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size) */
TWICE("fentry/tcp_sendmsg", record_write, u64, context, return write_records(context))

/* int tcp_recvmsg(struct sock *sk, struct msghdr *msg, …): as it begins, since what it brings is opened after it. */
TWICE("fentry/tcp_recvmsg", record_read, u64, context, return read_records(context))

/* void tcp_close(struct sock *sk, long timeout) */
SEC("fentry/tcp_close")
int record_close(u64 *context)
{
	struct sock *sk = (void *)context[0];
	u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);

	return end_record_socket(sk, state == TCP_CLOSE || state == TCP_CLOSE_WAIT || state == TCP_LAST_ACK);
}

static __always_inline int leave_records(struct sock *sk, u32 direction, s64 moved)
{
	struct record_thread *thread;
	struct record_socket *socket;
	struct segments segments;
	u64 key = (u64)sk;

	if (direction == DIRECTION_READ) {
		if (moved == 0 || moved == -ECONNRESET) {
			socket = bpf_map_lookup_elem(&record_sockets, &key);
			if (socket)
				socket->over = 1;
		}
		thread = moved > 0 ? find_receiver() : NULL;
		if (!thread)
			return 0;
		if (BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP || find_user_segments(&segments)) {
			thread->socket = 0;
			return 0;
		}
		return receive_records(thread, sk, &segments);
	}
	thread = find_sealed();
	if (!thread || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP || find_user_segments(&segments))
		return 0;
	return send_records(thread, sk, &segments);
}

/* struct sock *sk, int ret, int flags: behind every write, and every read, since 6.3; also where it failed */
TWICE("raw_tracepoint/sock_send_length", record_sent, struct bpf_raw_tracepoint_args, context,
      return leave_records((void *)context->args[0], DIRECTION_WRITE, 0))
TWICE("raw_tracepoint/sock_recv_length", record_received, struct bpf_raw_tracepoint_args, context,
      return leave_records((void *)context->args[0], DIRECTION_READ, (s32)context->args[1]))

/* struct sock *sk: the end of the connection, after tcp_close */
SEC("raw_tracepoint/tcp_destroy_sock")
int record_socket_destroyed(struct bpf_raw_tracepoint_args *context)
{
	return end_record_socket((void *)context->args[0], 0);
}
