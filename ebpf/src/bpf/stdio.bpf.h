/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * The Model Context Protocol between a client and a server that is its child, over the server's standard input and
 * output: pipes, or pairs of Unix sockets. Fentry and fexit of pipe_write, fexit of pipe_read (anon_pipe_… since
 * 6.16), and the same of Unix sockets. Where the kernel has no fentry for us, the raw tracepoints of system calls
 * stand in; every call of every process runs through these, so they are attached only while somebody asks.
 *
 * A channel is what one side writes into and the other reads from. It is judged by the first bytes that a selected
 * process writes: a request that only clients make begins a dialogue. Whoever reads that channel is its server, and
 * the first channel into which the server writes a message is that of its answers: the one tells of the other, and
 * time does not. All other channels are marked at their first write and let go, but for those of a server that has
 * not answered yet.
 *
 * Told is what the client writes and reads. What is written is sent to the agent at the beginning of the call, so
 * that no answer comes before its question; what the kernel did not take of it comes again, and is known by that.
 */
#include "socket.bpf.h"

/* linux/stat.h */
#define S_IFMT 0170000
#define S_IFIFO 0010000
#define S_IFSOCK 0140000

enum role {
	ROLE_IGNORED,
	ROLE_QUESTIONS,
	ROLE_ANSWERS,
};

struct channel {
	u64 inode;	/* number of the pipe, or of the socket that is read: the address serves others later */
	u64 dialogue;	/* the channel of its questions */
	u64 generation;	/* when that was first seen */
	u64 started;	/* of the client */
	u64 offset;	/* bytes that were sent to the agent */
	u64 pending;	/* bytes before `offset` that the kernel did not have when the last write began */
	u64 unsent;	/* those that it did not take */
	u64 marked;	/* see `first_of_two` */
	u32 tgid;	/* of the client */
	u32 role;
	u32 looks;	/* writes that were looked at, as long as it is ignored */
	u32 writer;	/* the thread of `pending` */
	u32 from_start;
	u32 pad;
};

/* By the address of a pipe's inode, or of the Unix socket that is read. Written at the first write; evicted ones
 * are judged anew. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, u64);
	__type(value, struct channel);
} channels SEC(".maps");

struct server {
	u64 started;
	u64 dialogue;	/* 0: it reads several, and what it writes may belong to any */
	u64 answers;	/* the channel into which it answers; 0: not seen yet */
};

/* By tgid; written when it reads a channel of questions. Full: the least recently used are known again by their
 * next read. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u32);
	__type(value, struct server);
} servers SEC(".maps");

static __always_inline int stdio_asked_for(void)
{
	struct control *control = get_control();

	return control && wants(control, bpf_get_current_pid_tgid() >> 32, WANTED_STDIO, SELECT_STDIO);
}

static __always_inline void end_dialogue(u64 dialogue, const struct channel *channel, u32 direction, u8 how)
{
	struct control *control = get_control();
	struct counters *counters = get_counters();
	struct connection connection = { .generation = channel->generation };
	struct connection_key client = { .ssl = dialogue, .started = channel->started, .tgid = channel->tgid };

	/* Of the other direction it is not known here: nothing more is said of it. */
	connection.offset[direction] = channel->offset;
	if (control && counters)
		tell_closed(&client, &connection, how, counters, control);
	bpf_map_delete_elem(&channels, &dialogue);
}

static __always_inline struct channel *find_channel(u64 key, u64 inode)
{
	struct channel *channel = bpf_map_lookup_elem(&channels, &key);

	if (channel && channel->inode != inode) {
		if (channel->role == ROLE_QUESTIONS)
			end_dialogue(key, channel, DIRECTION_WRITE, CLOSED_UNKNOWN);
		else
			bpf_map_delete_elem(&channels, &key);
		return NULL;
	}
	return channel;
}

/* The same value, of which the verifier knows nothing: see `forget`. */
static __always_inline u64 any(u64 value)
{
	bpf_probe_read_kernel(&value, sizeof(value), &value);
	return value;
}

/* What the first bytes of a write look like, any of them. */
#define LOOKS_MESSAGE 1		/* of JSON-RPC */
#define LOOKS_QUESTION 2	/* that only a client of the protocol asks */
#define LOOKS_BEGINNING 4	/* with which a client begins */

#define START_SIZE 128
#define NEAR 24 /* where the first key of a message ends, behind a short id */
#define TEXT(a, b, c, d, e, f, g, h) ((u64)WORD(a, b, c, d) | (u64)WORD(e, f, g, h) << 32)

/* 1 or 0, without a branch: the verifier would walk the rest of the bytes for each. */
static __always_inline u64 is(u64 text, u64 other)
{
	u64 difference = text ^ other, negated = -difference;

	/* Else the compiler would see that this is a comparison. */
	asm volatile("" : "+r"(negated));
	difference = (difference | negated) >> 63;
	asm volatile("" : "+r"(difference));
	return difference ^ 1;
}

static __always_inline u32 looks_of(const struct segments *segments)
{
	u64 window = 0, message = 0, method = 0, question = 0, beginning = 0;
	u32 length = segments->left < START_SIZE ? segments->left : START_SIZE;
	u8 head[START_SIZE] = {};

	/* It never is: see send_piece. */
	asm volatile("" : "+r"(length));
	if (length > START_SIZE)
		length = START_SIZE;
	if (!length || bpf_probe_read_user(head, length, (void *)segments->base) || head[0] != '{')
		return 0;
	for (u32 i = 1; i < START_SIZE; i++) {
		u64 name;

		window = window >> 8 | (u64)head[i] << 56;
		name = is(window, TEXT('"', 'm', 'e', 't', 'h', 'o', 'd', '"'));
		if (i <= NEAR)
			message |= name | is(window, TEXT('"', 'j', 's', 'o', 'n', 'r', 'p', 'c')) |
				   is(window, TEXT('"', 'r', 'e', 's', 'u', 'l', 't', '"'));
		beginning |= method & is(window, TEXT('"', 'i', 'n', 'i', 't', 'i', 'a', 'l'));
		question |= method & (is(window, TEXT('"', 't', 'o', 'o', 'l', 's', '/', 'c')) |
				      is(window, TEXT('"', 't', 'o', 'o', 'l', 's', '/', 'l')) |
				      is(window, TEXT('"', 'p', 'r', 'o', 'm', 'p', 't', 's')) |
				      is(window, TEXT('"', 'r', 'e', 's', 'o', 'u', 'r', 'c')) |
				      is(window, TEXT('"', 's', 'e', 'r', 'v', 'e', 'r', '/')));
		method |= name;
	}
	return message | question << 1 | beginning << 2;
}

/* The current process, if it is a server that was not seen to answer. What it writes until then, it may print, and
 * not only where its standard output is: servers move that out of the way of their messages. */
static __always_inline struct server *silent_server(void)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct server *server = bpf_map_lookup_elem(&servers, &tgid);

	if (!server || !server->dialogue || server->answers ||
	    server->started != start_of((struct task_struct *)bpf_get_current_task()))
		return NULL;
	return server;
}

/* Writes of such a server into one channel that are looked at. */
#define MOST_LOOKS_AT_LINES 64

/* Judges a channel by what is written into it. */
static __always_inline void judge_channel(u64 key, u64 inode, u32 looked, const struct segments *segments,
					  struct counters *counters)
{
	u32 looks = any(looks_of(segments));
	struct channel judged = { .inode = inode, .role = ROLE_IGNORED, .looks = looked + 1 };
	struct server *server = silent_server();
	struct channel *questions;

	if (looks & LOOKS_BEGINNING || (looks & LOOKS_QUESTION && !server)) {
		judged.role = ROLE_QUESTIONS;
		judged.dialogue = key;
		judged.generation = bpf_ktime_get_ns();
		judged.started = start_of((struct task_struct *)bpf_get_current_task());
		judged.tgid = bpf_get_current_pid_tgid() >> 32;
		judged.from_start = !!(looks & LOOKS_BEGINNING);
	} else if (server && looks & LOOKS_MESSAGE) {
		questions = bpf_map_lookup_elem(&channels, &server->dialogue);
		if (questions && questions->role == ROLE_QUESTIONS) {
			judged.role = ROLE_ANSWERS;
			judged.dialogue = server->dialogue;
			judged.generation = questions->generation;
			judged.started = questions->started;
			judged.tgid = questions->tgid;
			judged.from_start = questions->from_start;
			server->answers = key;
		}
	}
	if (judged.role == ROLE_IGNORED && !looked)
		count(&counters->channels_ignored, 1);
	if (bpf_map_update_elem(&channels, &key, &judged, BPF_ANY))
		count(&counters->connections_full, 1);
}

#define MOST_PIECES 80 /* more than a pipe can hold: 1 MiB in whole chunks */

/* Sends the next bytes of a dialogue. */
static __always_inline void send_channel(struct channel *channel, u32 direction, u64 size, struct segments *segments,
					 struct counters *counters, struct control *control)
{
	struct output output = {};
	u64 flags = wakeup(control);

	output.call.ssl = channel->dialogue;
	output.call.size = size;
	output.call.direction = direction;
	output.connection.generation = channel->generation;
	output.connection.from_start = channel->from_start;
	output.counters = counters;
	output.pid_tgid = (u64)channel->tgid << 32 | (u32)bpf_get_current_pid_tgid();
	output.started = channel->started;
	output.time = bpf_ktime_get_ns();
	output.end = channel->offset += size;
	output.socket = CARRIED_BY_STDIO;
	count(&counters->stdio_calls, 1);
	count(&counters->stdio_bytes, size);
	send_pieces(&output, segments, MOST_PIECES, 0, &flags);
	if (segments->at < size)
		count(&counters->oversize_bytes, size - segments->at);
}

/* Leaves out bytes at the beginning. */
static __always_inline void skip_bytes(struct segments *segments, u64 bytes)
{
	for (u32 i = 0; i < 8; i++) {
		forget(segments);
		if (bytes < segments->left) {
			segments->base += bytes;
			segments->left -= bytes;
			return;
		}
		bytes -= segments->left;
		next_segment(segments);
	}
}

static __always_inline int enter_channel(u64 key, u64 inode, struct segments *segments, u64 size, u32 again)
{
	struct control *control = get_control();
	struct counters *counters = get_counters();
	struct channel *channel = find_channel(key, inode);
	u64 unsent, looked;

	if (!control || !counters)
		return 0;
	if (channel && channel->role == ROLE_IGNORED &&
	    (channel->looks >= MOST_LOOKS_AT_LINES || !silent_server()))
		return 0;
	/* Here and below: else the verifier would walk what follows for each way that leads to it. */
	key = any(key);
	inode = any(inode);
	size = any(size);
	forget(segments);
	if (!channel || channel->role == ROLE_IGNORED) {
		looked = any(channel ? channel->looks : 0);
		judge_channel(key, inode, looked, segments, counters);
	}
	channel = bpf_map_lookup_elem(&channels, &key);
	if (!channel || channel->role != ROLE_QUESTIONS || !first_of_two(&channel->marked, again))
		return 0;
	unsent = channel->unsent;
	channel->unsent = 0;
	channel->pending = size > unsent ? size : unsent;
	channel->writer = (u32)bpf_get_current_pid_tgid();
	if (size <= unsent)
		return 0;
	if (unsent)
		skip_bytes(segments, unsent);
	send_channel(channel, DIRECTION_WRITE, any(size - unsent), segments, counters, control);
	return 0;
}

/* How much of a write the kernel took: said twice it is the same. */
static __always_inline int leave_written(u64 key, u64 inode, s64 moved)
{
	struct channel *channel = find_channel(key, inode);

	if (!channel || channel->role != ROLE_QUESTIONS || channel->writer != (u32)bpf_get_current_pid_tgid())
		return 0;
	if (moved < 0)
		moved = 0;
	channel->unsent = channel->pending > (u64)moved ? channel->pending - moved : 0;
	return 0;
}

/* The socket at the other end, which is read. */
static __always_inline struct sock *peer_of(struct sock *sk)
{
	return (void *)BPF_CORE_READ((struct unix_sock *)sk, peer);
}

/* The channel that a file descriptor of the current process writes into or reads from; 0: it is none. */
static __always_inline u64 channel_of(u32 descriptor, u32 direction, u64 *inode)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files = BPF_CORE_READ(table, fd), *file = NULL;
	struct inode *node;
	struct sock *sk;
	u16 mode;

	if (descriptor >= BPF_CORE_READ(table, max_fds) ||
	    bpf_probe_read_kernel(&file, sizeof(file), &files[descriptor]) || !file)
		return 0;
	node = BPF_CORE_READ(file, f_inode);
	mode = BPF_CORE_READ(node, i_mode) & S_IFMT;
	if (mode == S_IFIFO) {
		*inode = BPF_CORE_READ(node, i_ino);
		return (u64)node;
	}
	if (mode != S_IFSOCK)
		return 0;
	sk = sock_of((u64)BPF_CORE_READ(file, private_data));
	if (BPF_CORE_READ(sk, __sk_common.skc_family) != AF_UNIX || BPF_CORE_READ(sk, sk_type) != SOCK_STREAM)
		return 0;
	if (direction == DIRECTION_WRITE)
		sk = peer_of(sk);
	if (!sk)
		return 0;
	*inode = inode_of(sk);
	return (u64)sk;
}

/* The current process reads a channel of questions: it is the server. */
static __always_inline void serve(u64 key, struct channel *channel, s64 moved, struct counters *counters)
{
	u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct server served = { .started = start_of((struct task_struct *)bpf_get_current_task()), .dialogue = key };
	struct server *server;

	if (moved < 0 || tgid == channel->tgid)
		return;
	if (moved == 0) {
		end_dialogue(key, channel, DIRECTION_WRITE, CLOSED_BY_US);
		return;
	}
	server = bpf_map_lookup_elem(&servers, &tgid);
	if (!server || server->started != served.started) {
		bpf_map_update_elem(&servers, &tgid, &served, BPF_ANY);
	} else if (server->dialogue && server->dialogue != key) {
		/* A second one: what it writes from now on may belong to either. */
		if (bpf_map_lookup_elem(&channels, &server->dialogue)) {
			count(&counters->channels_ambiguous, 1);
			server->dialogue = 0;
		} else {
			bpf_map_update_elem(&servers, &tgid, &served, BPF_ANY);
		}
	}
}

/* Whether the end of a read is to be looked at. */
static __always_inline struct channel *find_read_channel(u64 key, u64 inode, s64 moved, u32 again,
							 struct counters *counters)
{
	struct channel *channel = find_channel(key, inode);

	if (!channel)
		return NULL;
	if (channel->role == ROLE_QUESTIONS)
		serve(key, channel, moved, counters);
	if (channel->role != ROLE_ANSWERS || moved < 0)
		return NULL;
	if (moved == 0) {
		end_dialogue(channel->dialogue, channel, DIRECTION_READ, CLOSED_BY_PEER);
		bpf_map_delete_elem(&channels, &key);
		return NULL;
	}
	return first_of_two(&channel->marked, again) ? channel : NULL;
}

/* What the functions of pipes are called with: struct kiocb *iocb, struct iov_iter *iterator. */
static __always_inline u64 pipe_of(u64 *context, u64 *inode)
{
	struct inode *pipe = BPF_CORE_READ((struct kiocb *)context[0], ki_filp, f_inode);

	*inode = BPF_CORE_READ(pipe, i_ino);
	return (u64)pipe;
}

static __always_inline int enter_pipe(u64 *context, u32 again)
{
	struct iov_iter *iterator = (void *)context[1];
	struct segments segments;
	u64 inode, size, key;

	if (!stdio_asked_for())
		return 0;
	key = pipe_of(context, &inode);
	size = BPF_CORE_READ(iterator, count);
	if (!size || find_iterator(&segments, iterator, 0))
		return 0;
	return enter_channel(key, inode, &segments, size, again);
}

static __always_inline int leave_pipe_written(u64 *context)
{
	u64 inode, key;

	if (!stdio_asked_for())
		return 0;
	key = pipe_of(context, &inode);
	return leave_written(key, inode, context[2]);
}

/* At the end of a read: `walked` bytes back in the iterator is where it began. */
static __always_inline int leave_read_channel(u64 key, u64 inode, struct iov_iter *iterator, u64 walked,
					      s64 moved, u32 again)
{
	struct control *control = get_control();
	struct counters *counters = get_counters();
	struct segments segments;
	struct channel *channel;

	if (!control || !counters)
		return 0;
	channel = find_read_channel(key, inode, moved, again, counters);
	if (!channel)
		return 0;
	if (find_iterator(&segments, iterator, walked))
		__builtin_memset(&segments, 0, sizeof(segments));
	send_channel(channel, DIRECTION_READ, moved, &segments, counters, control);
	return 0;
}

static __always_inline int leave_pipe_read(u64 *context, u32 again)
{
	struct iov_iter *iterator = (void *)context[1];
	s64 moved = context[2];
	u64 inode, key;

	/* Nothing is what a read of nothing gets. */
	if (!stdio_asked_for() || (!moved && !BPF_CORE_READ(iterator, count)))
		return 0;
	key = pipe_of(context, &inode);
	return leave_read_channel(key, inode, iterator, moved, moved, again);
}

/* ssize_t pipe_write(struct kiocb *iocb, struct iov_iter *from), ssize_t pipe_read(struct kiocb *iocb, struct
 * iov_iter *to) */
TWICE("fentry/pipe_write", pipe_write_enter, u64, context, return enter_pipe(context, again))
TWICE("fexit/pipe_write", pipe_write_leave, u64, context, return leave_pipe_written(context))
TWICE("fexit/pipe_read", pipe_read_leave, u64, context, return leave_pipe_read(context, again))

static __always_inline int enter_pair(u64 *context, u32 again)
{
	struct segments segments;
	struct sock *peer;

	if (!context[2] || !stdio_asked_for())
		return 0;
	peer = peer_of(sock_of(context[0]));
	if (!peer || find_segments(&segments, (void *)context[1], 0))
		return 0;
	return enter_channel((u64)peer, inode_of(peer), &segments, context[2], again);
}

static __always_inline int leave_pair_written(u64 *context)
{
	struct sock *peer;

	if (!stdio_asked_for())
		return 0;
	peer = peer_of(sock_of(context[0]));
	return peer ? leave_written((u64)peer, inode_of(peer), (s32)context[3]) : 0;
}

static __always_inline int leave_pair_read(u64 *context, u32 again)
{
	struct iov_iter *iterator = iterator_of((void *)context[1]);
	struct sock *sk;

	if (!context[2] || context[3] & (MSG_PEEK | MSG_OOB) || !stdio_asked_for())
		return 0;
	sk = sock_of(context[0]);
	return leave_read_channel((u64)sk, inode_of(sk), iterator, context[2] - BPF_CORE_READ(iterator, count),
				  (s32)context[4], again);
}

TWICE("fentry/unix_stream_sendmsg", pair_write_enter, u64, context, return enter_pair(context, again))
TWICE("fexit/unix_stream_sendmsg", pair_write_leave, u64, context, return leave_pair_written(context))
TWICE("fexit/unix_stream_recvmsg", pair_read_leave, u64, context, return leave_pair_read(context, again))

static __always_inline int is_write(u64 call)
{
	return call == SYS_WRITE || call == SYS_WRITEV || call == SYS_SENDTO || call == SYS_SENDMSG;
}

static __always_inline int is_read(u64 call)
{
	return call == SYS_READ || call == SYS_READV || call == SYS_RECVFROM || call == SYS_RECVMSG;
}

/* Bytes in all segments; at most as many segments as are sent. */
static __always_inline u64 size_of(const struct segments *segments)
{
	struct segments rest = *segments;
	u64 size = 0;

	for (u32 i = 0; i < MOST_IOVECS; i++) {
		forget(&rest);
		size += rest.left;
		if (!rest.more)
			break;
		next_segment(&rest);
	}
	return size;
}

static __always_inline struct pt_regs *current_registers(void)
{
	return (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
}

/* A system call's number, and its first argument, which is a file descriptor where it reads or writes. */
static __always_inline int find_call(u64 *call, u32 *descriptor)
{
	struct pt_regs *registers = current_registers();
	unsigned long first;

	if (bpf_probe_read_kernel(&first, sizeof(first), &SYSCALL_ARG1(registers)))
		return -1;
	*descriptor = first;
	return bpf_probe_read_kernel(call, sizeof(*call), &SYSCALL(registers));
}

static __always_inline int enter_call(u64 call, u32 again)
{
	struct segments segments;
	u64 key, inode = 0, size;
	u32 descriptor;

	if (!is_write(call) || !stdio_asked_for() || find_call(&call, &descriptor))
		return 0;
	key = channel_of(descriptor, DIRECTION_WRITE, &inode);
	if (!key || find_user_segments(&segments))
		return 0;
	size = size_of(&segments);
	return size ? enter_channel(key, inode, &segments, size, again) : 0;
}

/* Whether a call only looks at what it reads. */
static __always_inline int only_looks(u64 call)
{
	struct pt_regs *registers = current_registers();
	unsigned long flags = 0;

	if (call == SYS_RECVFROM)
		bpf_probe_read_kernel(&flags, sizeof(flags), &SYSCALL_ARG4(registers));
	if (call == SYS_RECVMSG)
		bpf_probe_read_kernel(&flags, sizeof(flags), &SYSCALL_ARG3(registers));
	return flags & (MSG_PEEK | MSG_OOB);
}

static __always_inline int leave_syscall(s64 moved, u32 again)
{
	struct control *control;
	struct counters *counters;
	struct segments segments;
	struct channel *channel;
	u64 call = 0, key, inode = 0;
	u32 descriptor;

	if (!stdio_asked_for() || find_call(&call, &descriptor))
		return 0;
	if (is_write(call)) {
		key = channel_of(descriptor, DIRECTION_WRITE, &inode);
		return key ? leave_written(key, inode, moved) : 0;
	}
	if (!is_read(call) || only_looks(call))
		return 0;
	key = channel_of(descriptor, DIRECTION_READ, &inode);
	control = get_control();
	counters = get_counters();
	if (!key || !control || !counters || find_user_segments(&segments) || (!moved && !segments.left))
		return 0;
	channel = find_read_channel(key, inode, moved, again, counters);
	if (channel)
		send_channel(channel, DIRECTION_READ, moved, &segments, counters, control);
	return 0;
}

/* struct pt_regs *regs, long id; struct pt_regs *regs, long ret */
TWICE("raw_tracepoint/sys_enter", call_enter, struct bpf_raw_tracepoint_args, context,
      return enter_call(context->args[1], again))
TWICE("raw_tracepoint/sys_exit", call_leave, struct bpf_raw_tracepoint_args, context,
      return leave_syscall(context->args[1], again))
