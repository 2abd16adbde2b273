/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * Plain HTTP: fentry and fexit of tcp_sendmsg, fexit of tcp_recvmsg, fentry of tcp_close, and the same of Unix sockets. These
 * serve every way to write and to read a TCP socket but sendfile and splice. Where the kernel has no fentry for us (aarch64
 * before 6.0, some locked-down machines), tracepoints of the socket layer stand in, since 6.3: they tell the socket and the
 * number of bytes, and the memory stands in the system call's registers. Either is loaded and attached only while somebody
 * asks for it.
 *
 * Only what a client says and hears is taken: the first bytes that are written on the socket begin an HTTP request, and
 * nothing has been read before. Every other socket (TLS, databases, servers) is marked at its first call and let go.
 *
 * Offsets come from TCP's own sequence numbers. So what goes past the hooks is a gap, and nothing behind it is shifted. A
 * Unix socket has none: what calls moved is counted, by those that we have no memory of, too.
 */
#pragma once

#include "tls.h"

/* linux/socket.h */
#define AF_UNIX 1
#define MSG_OOB 0x1
#define MSG_PEEK 0x2
#define MSG_TRUNC 0x20
#define MSG_DONTWAIT 0x40
#define MSG_ERRQUEUE 0x2000

/* net/sock.h */
#define RCV_SHUTDOWN 1
#define SEND_SHUTDOWN 2

#define IPPROTO_TCP 6 /* linux/in.h */
#define SOCK_STREAM 1 /* asm/socket.h */
#define ECONNRESET 104 /* asm-generic/errno.h */

/* net/tcp_states.h */
#define TCP_ESTABLISHED 1
#define TCP_CLOSE 7
#define TCP_CLOSE_WAIT 8
#define TCP_LAST_ACK 9

enum verdict {
	VERDICT_OPEN,		/* joined midway, and nothing that was written began a request yet */
	VERDICT_FOLLOWED,
	VERDICT_IGNORED,
};

struct socket {
	struct connection connection;	/* its offsets: up to where bytes were sent to the agent, or given up */
	u64 started;	/* of the process that made the first request: others that have the socket speak for it */
	u32 tgid;
	u32 verdict;
	u32 first[2];	/* sequence number of each direction's first byte */
	u32 looks;	/* writes that were looked at while the verdict is open */
	u32 over;	/* a read came upon the end, or upon a reset */
	/* Of a Unix socket; else zero. */
	u64 inode;	/* its number: the address serves others later, and tracepoints do not tell of a socket's end */
	u64 moved[2];	/* bytes that calls have moved, by direction */
	u64 marked[2];	/* see `first_of_two` */
};

/* By the address of the kernel's socket. Written at the first call, removed at tcp_close and unix_release. Evicted ones come
 * back as sockets that are joined midway. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct socket);
} sockets SEC(".maps");

/* What is left of a call's memory, in the order in which it is read or written. */
struct segments {
	u64 base;	/* of this segment */
	u64 left;
	u64 next;	/* address of the iovec behind it */
	u32 more;	/* how many there are */
	u32 user;	/* they are the process' own, not the kernel's copy */
	u64 at;		/* bytes of the call before `base` */
};

static __always_inline void next_segment(struct segments *segments)
{
	struct iovec segment = {};
	long fault;

	segments->left = 0;
	if (!segments->more)
		return;
	if (segments->user)
		fault = bpf_probe_read_user(&segment, sizeof(segment), (void *)segments->next);
	else
		fault = bpf_probe_read_kernel(&segment, sizeof(segment), (void *)segments->next);
	if (fault) {
		segments->more = 0;
		return;
	}
	segments->base = segment.iov_base;
	segments->left = segment.iov_len;
	segments->next += sizeof(segment);
	segments->more--;
}

static __always_inline struct iov_iter *iterator_of(struct msghdr *message)
{
	return (void *)message + bpf_core_field_offset(struct msghdr, msg_iter);
}

static __always_inline u32 kind_of(struct iov_iter *iterator)
{
	if (bpf_core_field_exists(iterator->iter_type))
		return BPF_CORE_READ(iterator, iter_type);
	return BPF_CORE_READ((struct iov_iter___before_5_14 *)iterator, type) & ~1U;
}

static __always_inline u64 iovecs_of(struct iov_iter *iterator)
{
	if (bpf_core_field_exists(iterator->__iov))
		return (u64)BPF_CORE_READ(iterator, __iov);
	return (u64)BPF_CORE_READ((struct iov_iter___before_6_4 *)iterator, iov);
}

#define MOST_IOVECS 128 /* as many as pieces are sent of */

/* Where the iterator was `back` bytes ago. Memory that is no process' has no segments. */
static __always_inline int find_iterator(struct segments *segments, struct iov_iter *iterator, u64 back)
{
	u64 offset = BPF_CORE_READ(iterator, iov_offset);
	u32 kind = kind_of(iterator);
	u64 iovec, length = 0;

	__builtin_memset(segments, 0, sizeof(*segments));
	if (bpf_core_enum_value_exists(enum iter_type, ITER_UBUF) &&
	    kind == bpf_core_enum_value(enum iter_type, ITER_UBUF)) {
		segments->base = (u64)BPF_CORE_READ(iterator, ubuf) + offset - back;
		segments->left = BPF_CORE_READ(iterator, count) + back;
		return 0;
	}
	if (kind != bpf_core_enum_value(enum iter_type, ITER_IOVEC))
		return -1;
	iovec = iovecs_of(iterator);
	segments->more = BPF_CORE_READ(iterator, nr_segs);
	for (u32 i = 0; i < MOST_IOVECS; i++) {
		if (back <= offset)
			break;
		back -= offset;
		iovec -= sizeof(struct iovec);
		if (bpf_probe_read_kernel(&length, sizeof(length), (void *)iovec + __builtin_offsetof(struct iovec, iov_len)))
			return -1;
		offset = length;
		segments->more++;
	}
	if (back > offset)
		return -1;
	offset -= back;
	segments->next = iovec;
	next_segment(segments);
	if (offset > segments->left)
		return -1;
	segments->base += offset;
	segments->left -= offset;
	return 0;
}

static __always_inline int find_segments(struct segments *segments, struct msghdr *message, u64 back)
{
	return find_iterator(segments, iterator_of(message), back);
}

/* The verifier forgets what it knew of them: else it would walk each way through a loop for each way through the round
 * before. */
static __always_inline void forget(struct segments *segments)
{
	bpf_probe_read_kernel(segments, sizeof(*segments), segments);
}

/* Sends what is left, but no more than `rounds` pieces; with `small`, only up to a segment of a chunk or more. */
static __always_inline void send_pieces(struct output *output, struct segments *segments, const u32 rounds, const int small,
					u64 *flags)
{
	u64 length;

	for (u32 i = 0; i < rounds; i++) {
		forget(segments);
		if (segments->at >= output->call.size)
			return;
		if (!segments->left) {
			next_segment(segments);
			continue;
		}
		length = output->call.size - segments->at;
		if (length > segments->left)
			length = segments->left;
		if (small && length >= CHUNK)
			return;
		output->call.buffer = segments->base - segments->at;
		if (length >= CHUNK) {
			length = CHUNK;
			send_piece(output, segments->at, CHUNK, CHUNK, *flags);
		} else {
			send_tail(output, segments->at, length & (CHUNK - 1), *flags);
		}
		*flags = BPF_RB_NO_WAKEUP;
		segments->base += length;
		segments->left -= length;
		segments->at += length;
	}
}

static __always_inline void send_chunks(struct output *output, struct segments *segments, u64 *flags)
{
	u64 length = output->call.size - segments->at, chunks;

	if (length > segments->left)
		length = segments->left;
	chunks = length / CHUNK;
	for (u32 i = 0; i < CHUNKS; i++) {
		forget(segments);
		if (i >= chunks)
			return;
		output->call.buffer = segments->base - segments->at;
		send_piece(output, segments->at, CHUNK, CHUNK, *flags);
		*flags = BPF_RB_NO_WAKEUP;
		segments->base += CHUNK;
		segments->left -= CHUNK;
		segments->at += CHUNK;
	}
}

/* Sends the bytes of a call: the heads before a large segment, up to 16 MiB of that, and 128 pieces behind. A verifier
 * takes no more ways than that (8,192 jumps in sequence). The first piece wakes the agent, which then goes on looking. */
static __always_inline void send_segments(struct output *output, struct segments *segments, u64 flags)
{
	send_pieces(output, segments, 8, 1, &flags);
	send_chunks(output, segments, &flags);
	send_pieces(output, segments, 128, 0, &flags);
	if (segments->at < output->call.size)
		count(&output->counters->oversize_bytes, output->call.size - segments->at);
}

static __always_inline u32 sequence_of(struct sock *sk, u32 direction)
{
	struct tcp_sock *tcp = (void *)sk;

	return direction == DIRECTION_READ ? BPF_CORE_READ(tcp, copied_seq) : BPF_CORE_READ(tcp, write_seq);
}

/* The offset of the byte that comes next. A jump of 2 GiB past the hooks is not to be told from a step back. */
static __always_inline u64 position_of(const struct socket *socket, struct sock *sk, u32 direction)
{
	u64 known = socket->connection.offset[direction];

	if (socket->inode)
		return socket->moved[direction];
	return known + (s32)(sequence_of(sk, direction) - socket->first[direction] - (u32)known);
}

#define WORD(a, b, c, d) ((u32)(a) | (u32)(b) << 8 | (u32)(c) << 16 | (u32)(d) << 24)

/* A method that a model may be asked by, or with which a client looks around before; or the preface of HTTP/2 (RFC 9113,
 * section 3.4). Not CONNECT: what follows it is another protocol, most often TLS. */
static __always_inline int begins_request(const struct segments *segments)
{
	u32 word[2] = {};
	u8 next;

	if (segments->left < sizeof(word) || bpf_probe_read_user(word, sizeof(word), (void *)segments->base))
		return 0;
	next = word[1];
	switch (word[0]) {
	case WORD('G', 'E', 'T', ' '):
	case WORD('P', 'U', 'T', ' '):
		return 1;
	case WORD('P', 'O', 'S', 'T'):
	case WORD('H', 'E', 'A', 'D'):
		return next == ' ';
	case WORD('P', 'A', 'T', 'C'):
		return (word[1] & 0xffff) == ('H' | ' ' << 8);
	case WORD('D', 'E', 'L', 'E'):
		return (word[1] & 0xffffff) == WORD('T', 'E', ' ', 0);
	case WORD('O', 'P', 'T', 'I'):
		return word[1] == WORD('O', 'N', 'S', ' ');
	case WORD('P', 'R', 'I', ' '):
		return word[1] == WORD('*', ' ', 'H', 'T');
	}
	return 0;
}

/* Writes that are looked at on a connection that was joined midway: it may be in the middle of a request's body. */
#define MOST_LOOKS 64

static __always_inline void ignore(u64 key, struct socket *socket, u64 inode, struct counters *counters)
{
	struct socket ignored = { .verdict = VERDICT_IGNORED, .inode = inode };

	count(&counters->sockets_ignored, 1);
	if (socket)
		socket->verdict = VERDICT_IGNORED;
	else
		bpf_map_update_elem(&sockets, &key, &ignored, BPF_ANY);
}

/* The number of a Unix socket; those of TCP have 0 here. */
static __always_inline u64 inode_of(struct sock *sk)
{
	void *socket = BPF_CORE_READ(sk, sk_socket);
	u64 inode = 0;

	bpf_probe_read_kernel(&inode, sizeof(unsigned long),
			      socket + bpf_core_field_offset(struct socket_alloc, vfs_inode.i_ino));
	/* Never of a socket that lives. */
	return inode ? inode : 1;
}

/* Tells where the server of a Unix socket listens, if anywhere. */
static __always_inline void tell_name(struct sock *sk, const struct socket *socket, struct counters *counters,
				      struct control *control)
{
	struct unix_sock *peer = (void *)BPF_CORE_READ((struct unix_sock *)sk, peer);
	struct unix_address *address = BPF_CORE_READ(peer, addr);
	u32 length = BPF_CORE_READ(address, len) - sizeof(u16);
	struct socket_named *event;

	if (length == 0 || length > SOCKET_NAME_SIZE)
		return;
	event = bpf_ringbuf_reserve(&ring, sizeof(*event), 0);
	if (!event) {
		count(&counters->ring_full_records, 1);
		return;
	}
	fill_header(&event->header, EVENT_SOCKET_NAMED, socket->tgid, socket->started, bpf_ktime_get_ns());
	event->ssl = (u64)sk;
	event->generation = socket->connection.generation;
	event->length = length;
	__builtin_memset(event->name, 0, sizeof(event->name));
	/* It never is: see send_piece. */
	asm volatile("" : "+r"(length));
	if (length > SOCKET_NAME_SIZE)
		length = SOCKET_NAME_SIZE;
	if (bpf_probe_read_kernel(event->name, length,
				  (void *)address + bpf_core_field_offset(struct unix_address, name) + sizeof(u16)))
		event->length = 0;
	bpf_ringbuf_submit(event, wakeup(control));
}

/* Whether a write begins something that is to be followed; marks the socket either way. `written`: how much of it the
 * kernel has taken already. */
static __always_inline struct socket *judge(struct sock *sk, struct socket *socket, u64 inode,
					    const struct segments *segments, u64 written, struct counters *counters,
					    struct control *control)
{
	struct socket begun = { .verdict = VERDICT_OPEN, .inode = inode };
	u64 key = (u64)sk;

	/* Nothing else was sent on the connection, not even before anybody looked. Of a Unix socket nobody knows: there the
	 * first write that is seen decides. */
	begun.connection.from_start = inode || BPF_CORE_READ((struct tcp_sock *)sk, bytes_sent) <= written;
	if (!begins_request(segments)) {
		if (begun.connection.from_start || (socket && ++socket->looks >= MOST_LOOKS))
			ignore(key, socket, inode, counters);
		else if (!socket)
			bpf_map_update_elem(&sockets, &key, &begun, BPF_ANY);
		return NULL;
	}
	begun.verdict = VERDICT_FOLLOWED;
	begun.connection.generation = bpf_ktime_get_ns();
	begun.tgid = bpf_get_current_pid_tgid() >> 32;
	begun.started = start_of((struct task_struct *)bpf_get_current_task());
	if (inode) {
		tell_name(sk, &begun, counters, control);
	} else {
		begun.first[DIRECTION_READ] = sequence_of(sk, DIRECTION_READ);
		begun.first[DIRECTION_WRITE] = sequence_of(sk, DIRECTION_WRITE) - (u32)written;
	}
	if (bpf_map_update_elem(&sockets, &key, &begun, BPF_ANY)) {
		count(&counters->connections_full, 1);
		return NULL;
	}
	return bpf_map_lookup_elem(&sockets, &key);
}

/* Sends the bytes of a call from `from` to `end`, offsets of the connection, which begin at `segments`. */
static __always_inline void send_socket(struct socket *socket, u64 key, u32 direction, u64 from, u64 end,
					struct segments *segments, struct counters *counters, struct control *control)
{
	struct output output = {};

	output.call.ssl = key;
	output.call.size = end - from;
	output.call.direction = direction;
	output.connection = socket->connection;
	output.counters = counters;
	output.pid_tgid = (u64)socket->tgid << 32 | (u32)bpf_get_current_pid_tgid();
	output.started = socket->started;
	output.time = bpf_ktime_get_ns();
	output.end = end;
	output.socket = CARRIED_BY_SOCKET;
	socket->connection.offset[direction] = end;
	count(&counters->socket_calls, 1);
	count(&counters->socket_bytes, end - from);
	send_segments(&output, segments, wakeup(control));
}

/* Whether the kernel is going to take all of a write, as far as can be told beforehand. Twice: its own structures count, too. */
static __always_inline int takes_all(struct sock *sk, struct msghdr *message, u64 size)
{
	u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);

	if ((state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT) || BPF_CORE_READ(sk, sk_err) ||
	    BPF_CORE_READ(sk, sk_shutdown) & SEND_SHUTDOWN)
		return 0;
	if (!(BPF_CORE_READ(message, msg_flags) & MSG_DONTWAIT))
		return 1;
	if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_UNIX)
		return (s64)(BPF_CORE_READ(sk, sk_wmem_alloc.refs.counter) + 2 * size) <= BPF_CORE_READ(sk, sk_sndbuf);
	return (s64)(BPF_CORE_READ(sk, sk_wmem_queued) + 2 * size) <= BPF_CORE_READ(sk, sk_sndbuf);
}

/* What went past the hooks before this offset. */
static __always_inline void count_bypass(struct socket *socket, u32 direction, u64 position, struct counters *counters)
{
	u64 known = socket->connection.offset[direction];

	if (position > known)
		count(&counters->socket_bypass_bytes, position - known);
}

static __always_inline int end_socket(struct sock *sk, u8 how);

/* What is known of a socket. */
static __always_inline struct socket *find_socket(struct sock *sk, u64 inode)
{
	u64 key = (u64)sk;
	struct socket *socket = bpf_map_lookup_elem(&sockets, &key);

	if (socket && socket->inode != inode) {
		end_socket(sk, CLOSED_UNKNOWN);
		return NULL;
	}
	return socket;
}

/* A write that the kernel takes whole is sent to the agent at its beginning: on another thread the answer may be read before
 * this call is over, and must not come before its question. */
static __always_inline int enter_write(struct sock *sk, struct msghdr *message, u64 size, u64 inode)
{
	u64 key = (u64)sk, from;
	struct control *control = get_control();
	struct counters *counters = get_counters();
	struct segments segments;
	struct socket *socket;

	if (!control || !counters)
		return 0;
	socket = find_socket(sk, inode);
	if (socket && socket->verdict == VERDICT_IGNORED)
		return 0;
	/* A write that connects first (TCP Fast Open): its sequence numbers are not made yet. */
	if (BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_CLOSE)
		return 0;
	if (find_segments(&segments, message, 0))
		return 0;
	if (!socket || socket->verdict == VERDICT_OPEN)
		socket = judge(sk, socket, inode, &segments, 0, counters, control);
	if (!socket)
		return 0;
	from = position_of(socket, sk, DIRECTION_WRITE);
	/* Else it is a rest that was sent to the agent already. */
	if (from < socket->connection.offset[DIRECTION_WRITE] || !takes_all(sk, message, size))
		return 0;
	count_bypass(socket, DIRECTION_WRITE, from, counters);
	send_socket(socket, key, DIRECTION_WRITE, from, from + size, &segments, counters, control);
	return 0;
}

/* Whether the current process' calls without TLS are asked for: before anything else is looked at. */
static __always_inline int asked_for(void)
{
	struct control *control = get_control();

	return control && wants_plaintext(control, bpf_get_current_pid_tgid() >> 32);
}

/* int tcp_sendmsg(struct sock *sk, struct msghdr *msg, size_t size) */
SEC("fentry/tcp_sendmsg")
int socket_write(u64 *context)
{
	if (!context[2] || !asked_for())
		return 0;
	return enter_write((void *)context[0], (void *)context[1], context[2], 0);
}

static __always_inline struct sock *sock_of(u64 socket)
{
	return BPF_CORE_READ((struct socket___kernel *)socket, sk);
}

/* int unix_stream_sendmsg(struct socket *sock, struct msghdr *msg, size_t len) */
SEC("fentry/unix_stream_sendmsg")
int local_write(u64 *context)
{
	struct sock *sk;

	if (!context[2] || !asked_for())
		return 0;
	sk = sock_of(context[0]);
	return enter_write(sk, (void *)context[1], context[2], inode_of(sk));
}

/* Which bytes of the connection a call has moved, as far as they were not sent to the agent before. */
static __always_inline int find_moved(const struct socket *socket, struct sock *sk, u32 direction, s64 moved, u64 *from,
				      u64 *end)
{
	u64 known = socket->connection.offset[direction];

	*end = position_of(socket, sk, direction);
	*from = *end - moved;
	/* A read that comes upon the peer's FIN counts that, too. */
	if (direction == DIRECTION_READ && !socket->inode && *from == known + 1 && BPF_CORE_READ(sk, sk_shutdown) & RCV_SHUTDOWN) {
		--*from;
		--*end;
	}
	if ((s64)(*from - known) < 0)
		*from = known;
	return (s64)(*end - *from) > 0;
}

static __always_inline int send_moved(struct socket *socket, struct sock *sk, u32 direction, u64 from, u64 end,
				      struct segments *segments, struct counters *counters, struct control *control)
{
	count_bypass(socket, direction, from, counters);
	send_socket(socket, (u64)sk, direction, from, end, segments, counters, control);
	return 0;
}

/* Whether a call was not looked at before. Two programs are there for it, of which either may be left out (see TWICE): the one
 * that comes second finds the other's mark. */
static __always_inline int first_of_two(u64 *marked, u32 again)
{
	u64 mark = (u64)(u32)bpf_get_current_pid_tgid() << 1 | again;

	if (*marked == (mark ^ 1)) {
		*marked = 0;
		return 0;
	}
	*marked = mark;
	return 1;
}

/* Counts what a call moved of a Unix socket, once. Of TCP the sequence numbers tell. */
static __always_inline int count_moved(struct socket *socket, u32 direction, s64 moved, u32 again)
{
	if (!socket->inode)
		return 1;
	if (!first_of_two(&socket->marked[direction], again))
		return 0;
	socket->moved[direction] += moved;
	return 1;
}

/* A call that has ended. */
struct ended {
	struct sock *sk;
	struct msghdr *message;
	u64 size;	/* that it was to move; of TCP not looked at */
	s64 moved;
	u64 inode;
	u32 again;
};

/* How far the kernel went in a call's memory. Of a Unix socket that may be more than it moved: what is copied for a peer that
 * is gone by then is thrown away. */
static __always_inline u64 walked(const struct ended *call)
{
	struct iov_iter *iterator = iterator_of(call->message);

	return call->inode ? call->size - BPF_CORE_READ(iterator, count) : (u64)call->moved;
}

static __always_inline int leave_function(const struct ended *call, u32 direction, struct socket *socket,
					  struct counters *counters, struct control *control)
{
	struct segments segments;
	u64 from, end;

	if (!count_moved(socket, direction, call->moved, call->again) ||
	    !find_moved(socket, call->sk, direction, call->moved, &from, &end) ||
	    find_segments(&segments, call->message, walked(call) - call->moved + end - from))
		return 0;
	return send_moved(socket, call->sk, direction, from, end, &segments, counters, control);
}

/* At the end of a write, for what was not sent to the agent at its entry: now it is known how much the kernel took. */
static __always_inline int leave_write(const struct ended *call)
{
	struct control *control = get_control();
	struct counters *counters = get_counters();
	struct segments segments;
	struct socket *socket;

	if (!control || !counters)
		return 0;
	socket = find_socket(call->sk, call->inode);
	if (socket && socket->verdict == VERDICT_IGNORED)
		return 0;
	/* Where the entry could not judge: see below, and TCP Fast Open. */
	if (!socket || socket->verdict == VERDICT_OPEN) {
		if (find_segments(&segments, call->message, walked(call)))
			return 0;
		socket = judge(call->sk, socket, call->inode, &segments, call->moved, counters, control);
	}
	if (!socket)
		return 0;
	return leave_function(call, DIRECTION_WRITE, socket, counters, control);
}

SEC("fexit/tcp_sendmsg")
int socket_write_leave(u64 *context)
{
	struct ended call = { .sk = (void *)context[0], .message = (void *)context[1], .moved = (s32)context[3] };

	if (call.moved <= 0 || !asked_for())
		return 0;
	return leave_write(&call);
}

/* The socket that a read is of, if it is followed. */
static __always_inline struct socket *find_read(struct sock *sk, u64 inode, u32 flags, struct counters *counters)
{
	struct socket *socket = find_socket(sk, inode);

	if (!socket) {
		/* Read before anything was written: a server, or a protocol in which the server speaks first. A Unix socket
		 * may have been written to before anybody looked. */
		if (!inode && BPF_CORE_READ((struct tcp_sock *)sk, bytes_sent) == 0)
			ignore((u64)sk, NULL, inode, counters);
		return NULL;
	}
	/* Errors are no bytes of the stream, what is peeked at is read again, what is truncated is nowhere. Unix sockets know
	 * only the second of them, and bytes beside the stream. */
	if (socket->verdict != VERDICT_FOLLOWED || flags & MSG_PEEK ||
	    flags & (inode ? MSG_OOB : MSG_TRUNC | MSG_ERRQUEUE))
		return NULL;
	return socket;
}

static __always_inline int leave_read_function(const struct ended *call, u32 flags)
{
	struct control *control = get_control();
	struct counters *counters = get_counters();
	struct socket *socket;

	if (!control || !counters)
		return 0;
	socket = find_read(call->sk, call->inode, flags, counters);
	if (!socket)
		return 0;
	return leave_function(call, DIRECTION_READ, socket, counters, control);
}

static __always_inline int leave_read(u64 *context, u32 flags, s64 moved)
{
	struct ended call = { .sk = (void *)context[0], .message = (void *)context[1], .moved = moved };

	if (moved <= 0 || !asked_for())
		return 0;
	return leave_read_function(&call, flags);
}

/*
 * Where kernel code can be preempted (all of it since 7.0), a thread may come to a program that another one on this CPU is
 * in the middle of. The kernel then leaves it out. What was written is still there at the end of the call; but what was read
 * would be lost, so these programs are there twice: the second finds that nothing is left to be done, or does it.
 */
#define TWICE(section, name, type, context, body)                                                                             \
	SEC(section) int name(type *context) { const u32 again = 0; (void)again; body; }                                      \
	SEC(section) int name##_again(type *context) { const u32 again = 1; (void)again; body; }

/* int tcp_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int flags, int *addr_len): of what kernels have one
 * argument more or less, and where the result stands behind the last, the verifier lets only those look that fit. */
TWICE("fexit/tcp_recvmsg", read_five, u64, context, return leave_read(context, context[3], (s32)context[5]))
/* Before 5.19 there was int nonblock, before flags. */
TWICE("fexit/tcp_recvmsg", read_six, u64, context, return leave_read(context, context[4], (s32)context[6]))
/* In 7.3 addr_len is gone. */
TWICE("fexit/tcp_recvmsg", read_four, u64, context, return leave_read(context, context[3], (s32)context[4]))

/* At the end of a Unix socket's function, whose `context` is (struct socket *, struct msghdr *, size_t, …). */
static __always_inline int find_ended(struct ended *call, u64 *context, s64 moved, u32 again)
{
	if (moved <= 0 || !asked_for())
		return 0;
	call->sk = sock_of(context[0]);
	call->message = (void *)context[1];
	call->size = context[2];
	call->moved = moved;
	call->inode = inode_of(call->sk);
	call->again = again;
	return 1;
}

static __always_inline int leave_local_write(u64 *context, u32 again)
{
	struct ended call = {};

	return find_ended(&call, context, (s32)context[3], again) ? leave_write(&call) : 0;
}

static __always_inline int leave_local_read(u64 *context, u32 again)
{
	struct ended call = {};

	return find_ended(&call, context, (s32)context[4], again) ? leave_read_function(&call, context[3]) : 0;
}

TWICE("fexit/unix_stream_sendmsg", local_write_leave, u64, context, return leave_local_write(context, again))
/* int unix_stream_recvmsg(struct socket *sock, struct msghdr *msg, size_t size, int flags) */
TWICE("fexit/unix_stream_recvmsg", local_read, u64, context, return leave_local_read(context, again))

/* Bytes that go from a Unix socket to a pipe within the kernel: they are a gap. */
static __always_inline int leave_splice(struct sock *sk, s64 moved, u32 again)
{
	struct socket *socket;

	if (moved <= 0 || !asked_for())
		return 0;
	socket = find_socket(sk, inode_of(sk));
	if (socket && socket->verdict == VERDICT_FOLLOWED)
		count_moved(socket, DIRECTION_READ, moved, again);
	return 0;
}

/* ssize_t unix_stream_splice_read(struct socket *sock, loff_t *ppos, struct pipe_inode_info *pipe, size_t size,
 *				   unsigned int flags) */
TWICE("fexit/unix_stream_splice_read", local_splice, u64, context,
      return leave_splice(sock_of(context[0]), context[5], again))

/* Where a direction ended. A FIN, sent or received, counts as a byte; a reset, which is none, is taken for one. */
static __always_inline u64 last_position(struct socket *socket, struct sock *sk, u32 direction, struct counters *counters)
{
	u64 known = socket->connection.offset[direction], position = position_of(socket, sk, direction);

	if (!socket->inode && BPF_CORE_READ(sk, sk_shutdown) & (direction == DIRECTION_READ ? RCV_SHUTDOWN : SEND_SHUTDOWN))
		position--;
	if ((s64)(position - known) <= 0)
		return known;
	count(&counters->socket_bypass_bytes, position - known);
	return position;
}

static __always_inline int end_socket(struct sock *sk, u8 how)
{
	u64 key = (u64)sk;
	struct socket *socket = bpf_map_lookup_elem(&sockets, &key);
	struct control *control = get_control();
	struct counters *counters = get_counters();
	struct connection_key owner = {};
	struct connection connection;

	if (!socket)
		return 0;
	if (control && counters && socket->connection.generation) {
		connection = socket->connection;
		connection.offset[DIRECTION_READ] = last_position(socket, sk, DIRECTION_READ, counters);
		connection.offset[DIRECTION_WRITE] = last_position(socket, sk, DIRECTION_WRITE, counters);
		owner.ssl = key;
		owner.started = socket->started;
		owner.tgid = socket->tgid;
		tell_closed(&owner, &connection, how, counters, control);
	}
	bpf_map_delete_elem(&sockets, &key);
	return 0;
}

/* void tcp_close(struct sock *sk, long timeout): also when its process ends. Whoever it is, the address is free then. */
SEC("fentry/tcp_close")
int socket_close(u64 *context)
{
	struct sock *sk = (void *)context[0];
	u8 state = BPF_CORE_READ(sk, __sk_common.skc_state);

	if (state == TCP_CLOSE || state == TCP_CLOSE_WAIT || state == TCP_LAST_ACK)
		return end_socket(sk, CLOSED_BY_PEER);
	return end_socket(sk, CLOSED_BY_US);
}

/* int unix_release(struct socket *sock): as above. A peer that closed has shut us down. */
SEC("fentry/unix_release")
int local_close(u64 *context)
{
	struct sock *sk = sock_of(context[0]);

	if (!sk)
		return 0;
	return end_socket(sk, BPF_CORE_READ(sk, sk_shutdown) & RCV_SHUTDOWN ? CLOSED_BY_PEER : CLOSED_BY_US);
}

/* asm/unistd.h */
#if defined(__TARGET_ARCH_x86)
#define SYS_READ 0
#define SYS_WRITE 1
#define SYS_READV 19
#define SYS_WRITEV 20
#define SYS_SENDTO 44
#define SYS_RECVFROM 45
#define SYS_SENDMSG 46
#define SYS_RECVMSG 47
#else
#define SYS_READ 63
#define SYS_WRITE 64
#define SYS_READV 65
#define SYS_WRITEV 66
#define SYS_SENDTO 206
#define SYS_RECVFROM 207
#define SYS_SENDMSG 211
#define SYS_RECVMSG 212
#endif

/* As the process gives it to sendmsg and recvmsg; the layout is ABI (socket.h). */
struct user_message {
	u64 name, name_length, iovecs, iovecs_length;
};

/* The memory that a system call reads or writes. Other calls (sendmmsg, io_uring) have no segments: what they move is a
 * gap. */
static __always_inline int find_user_segments(struct segments *segments)
{
	struct pt_regs *registers = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct user_message message;
	unsigned long call, memory, size;

	__builtin_memset(segments, 0, sizeof(*segments));
	segments->user = 1;
	if (bpf_probe_read_kernel(&call, sizeof(call), &SYSCALL(registers)) ||
	    bpf_probe_read_kernel(&memory, sizeof(memory), &SYSCALL_ARG2(registers)) ||
	    bpf_probe_read_kernel(&size, sizeof(size), &SYSCALL_ARG3(registers)))
		return -1;
	switch (call) {
	case SYS_READ:
	case SYS_WRITE:
	case SYS_SENDTO:
	case SYS_RECVFROM:
		segments->base = memory;
		segments->left = size;
		return 0;
	case SYS_READV:
	case SYS_WRITEV:
		segments->next = memory;
		segments->more = size;
		break;
	case SYS_SENDMSG:
	case SYS_RECVMSG:
		if (bpf_probe_read_user(&message, sizeof(message), (void *)memory))
			return -1;
		segments->next = message.iovecs;
		segments->more = message.iovecs_length;
		break;
	default:
		return -1;
	}
	next_segment(segments);
	return 0;
}

/* Whether a tracepoint's socket is of a kind that is looked at; `inode`: of a Unix socket. */
static __always_inline int is_stream(struct sock *sk, u64 *inode)
{
	if (BPF_CORE_READ(sk, sk_protocol) == IPPROTO_TCP)
		return 1;
	if (BPF_CORE_READ(sk, __sk_common.skc_family) != AF_UNIX || BPF_CORE_READ(sk, sk_type) != SOCK_STREAM)
		return 0;
	*inode = inode_of(sk);
	return 1;
}

/* A read has come upon the end, or a call upon a reset. That is the last that tracepoints tell of a Unix socket. */
static __always_inline void note_end(struct sock *sk, u64 inode)
{
	struct socket *socket = find_socket(sk, inode);
	struct segments segments;

	if (!socket)
		return;
	if (!inode)
		socket->over = 1;
	/* Nothing is what a read of nothing gets. */
	else if (!find_user_segments(&segments) && segments.left)
		end_socket(sk, CLOSED_BY_PEER);
}

static __always_inline int leave_call(struct sock *sk, u32 direction, s64 moved, u32 flags, u32 again)
{
	struct control *control = get_control();
	struct counters *counters = get_counters();
	struct segments segments;
	struct socket *socket;
	u64 inode = 0, from, end;

	if (!control || !counters || !wants_plaintext(control, bpf_get_current_pid_tgid() >> 32) ||
	    !is_stream(sk, &inode))
		return 0;
	if (direction == DIRECTION_READ && (moved == 0 || moved == -ECONNRESET))
		note_end(sk, inode);
	if (moved <= 0)
		return 0;
	if (direction == DIRECTION_READ) {
		socket = find_read(sk, inode, flags, counters);
	} else {
		socket = find_socket(sk, inode);
		if (socket && socket->verdict == VERDICT_IGNORED)
			return 0;
		if (!socket || socket->verdict == VERDICT_OPEN)
			socket = find_user_segments(&segments)
					 ? NULL
					 : judge(sk, socket, inode, &segments, moved, counters, control);
	}
	/* Two threads at once, which only a call that is not understood can bring about. */
	if (!socket || !count_moved(socket, direction, moved, again) || !find_moved(socket, sk, direction, moved, &from, &end) || end - from != (u64)moved ||
	    find_user_segments(&segments))
		return 0;
	return send_moved(socket, sk, direction, from, end, &segments, counters, control);
}

/* struct sock *sk, int ret, int flags: behind every write, and every read, since 6.3 */
TWICE("raw_tracepoint/sock_send_length", socket_sent, struct bpf_raw_tracepoint_args, context,
      return leave_call((void *)context->args[0], DIRECTION_WRITE, (s32)context->args[1], 0, again))
TWICE("raw_tracepoint/sock_recv_length", socket_received, struct bpf_raw_tracepoint_args, context,
      return leave_call((void *)context->args[0], DIRECTION_READ, (s32)context->args[1], context->args[2], again))

/* struct sock *sk: the end of the connection, after tcp_close. Who ended it is known by what the process read before. */
SEC("raw_tracepoint/tcp_destroy_sock")
int socket_destroyed(struct bpf_raw_tracepoint_args *context)
{
	u64 key = context->args[0];
	struct socket *socket = bpf_map_lookup_elem(&sockets, &key);

	return end_socket((void *)key, socket && socket->over ? CLOSED_BY_PEER : CLOSED_BY_US);
}
