/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
 *
 * What the kernel half says to the agent. The Rust side (ebpf/src/lib.rs) mirrors each layout and checks its size.
 * Every record of the ring starts with a header; all numbers are in the machine's byte order.
 */
#pragma once

enum event_kind {
	EVENT_TLS_DATA = 1,
	EVENT_TLS_CLOSED = 2,
	EVENT_FORK = 3,
	EVENT_EXEC = 4,
	EVENT_EXIT = 5,
	EVENT_TLS_SENT = 6,
	EVENT_SOCKET_NAMED = 7,
	EVENT_CONTAINER = 64,
};

enum direction {
	DIRECTION_READ = 0,
	DIRECTION_WRITE = 1,
};

struct event_header {
	u32 kind;
	u32 tgid;	/* in the initial pid namespace */
	u64 time;	/* CLOCK_MONOTONIC, ns */
	u64 started;	/* start of the process, CLOCK_BOOTTIME, ns: with tgid its identity */
};

/* Plaintext that one call of the TLS library, or of a socket without TLS, moved, or a piece of it. */
struct tls_data {
	struct event_header header;
	u64 ssl;	/* address of the library's connection object, or of the kernel's socket */
	u64 generation;	/* when that object was first seen: tells apart its reuses */
	u64 offset;	/* of the first byte in its direction of the connection */
	u64 call_end;	/* offset behind the last byte that the call moved */
	u32 tid;
	u32 length;	/* bytes that follow here */
	u8 direction;
	u8 from_start;	/* the connection was seen from its beginning */
	u8 socket;	/* enum carried */
	u8 held;	/* it was not sent yet: `ssl` is the batch that a struct tls_sent names later, `offset` counts from its start */
	u8 doubtful;	/* the call did what no such call does: `length` is 0, and nothing but the process is certain */
	u8 pad[3];
	u8 data[];
};

/* What carried the bytes as they stand here. */
enum carried {
	CARRIED_BY_TLS = 0,
	CARRIED_BY_SOCKET = 1,
	CARRIED_BY_STDIO = 2,	/* between a client and a server of MCP: `ssl` is their dialogue */
};

/* What a thread had sealed until now went to a socket: only now the connection is known. */
struct tls_sent {
	struct event_header header;
	u64 ssl;	/* address of the kernel's socket */
	u64 generation;	/* when it was first seen */
	u64 batch;
	u64 offset;	/* of its first byte in the written direction of the connection */
	u64 length;	/* of the whole batch */
	u32 tid;
	u8 from_start;
	u8 pad[3];
};

/* The library's connection object was freed, or cleared for another connection; the socket was closed. */
struct tls_closed {
	struct event_header header;
	u64 ssl;
	u64 generation;
	u64 offset[2];	/* by direction: how many bytes went that way since the connection was first seen */
	u8 how;		/* enum closed_how */
	u8 pad[7];
};

enum closed_how {
	CLOSED_UNKNOWN = 0,	/* this library does not tell */
	CLOSED_BY_US = 1,	/* the connection was fine when the process let go of it */
	CLOSED_BY_PEER = 2,	/* close_notify, end of file or a fatal error came before; of a socket, FIN or RST */
};

#define SOCKET_NAME_SIZE 108 /* what a Unix socket's address has room for */

/* A connection over a Unix socket: where its server listens. Told before its first byte. */
struct socket_named {
	struct event_header header;
	u64 ssl;	/* address of the kernel's socket */
	u64 generation;	/* when it was first seen */
	u32 length;	/* of name, which may hold NUL */
	char name[SOCKET_NAME_SIZE];
};

struct process_fork {
	struct event_header header; /* of the child */
	u32 parent;
	u32 pad;
};

#define FILENAME_SIZE 256
#define ARGUMENTS_SIZE 4096 /* commands are below it; files and prompts that stand in arguments need not be whole */

/* Arguments may hold prompts: they are content. */
struct process_exec {
	struct event_header header;
	u32 parent;
	u32 length;		/* of filename, without NUL */
	char filename[FILENAME_SIZE]; /* of the program that runs: a script's interpreter */
	u32 arguments_length;	/* bytes that follow here */
	u32 arguments_size;	/* of all arguments, a NUL behind each: larger where they were cut */
	char arguments[];
};

struct process_exit {
	struct event_header header;
	s32 code; /* as wait(2) gives it */
	u32 pad;
};

/* A process that runs a program is in, or below, a selected cgroup. */
struct process_container {
	struct event_header header;
	u64 cgroup;	/* id of the selected cgroup, in the hierarchy that is used */
};

enum cgroup_event_kind {
	CGROUP_MADE = 1,
	CGROUP_REMOVED = 2,
};

#define CGROUP_PATH_SIZE 1024 /* as much as the kernel's own trace has of a path */

/* In the ring `cgroup_events`: a cgroup of the hierarchy that is used was made or removed. */
struct cgroup_event {
	u64 id;
	u32 kind;	/* enum cgroup_event_kind */
	u32 length;	/* of path, without NUL */
	char path[CGROUP_PATH_SIZE]; /* from the root of the hierarchy */
};

/* Counters of one CPU; the agent adds them up. Nothing is ever lost without one of these saying so. */
struct counters {
	u64 tls_calls;		/* calls with plaintext in selected processes */
	u64 tls_bytes;		/* plaintext bytes of those calls */
	u64 captured_bytes;	/* of those, put into the ring */
	u64 ring_full_records;	/* records for which the ring had no room */
	u64 ring_full_bytes;
	u64 fault_bytes;	/* memory of the process that could not be read */
	u64 oversize_bytes;	/* beyond what is taken of one call */
	u64 sendfile_bytes;	/* went from file to socket inside the kernel */
	u64 unpaired_returns;	/* returns whose entry was not seen, or was evicted */
	u64 connections_full;	/* calls whose connection found no place */
	u64 processes_full;	/* children that found no place, and are not traced */
	u64 socket_calls;	/* calls that moved bytes of plain HTTP in processes that are asked for */
	u64 socket_bytes;	/* bytes of those calls; they are in captured_bytes, too */
	u64 socket_bypass_bytes; /* of the same sockets, but past the hooks: sendfile, splice */
	u64 sockets_ignored;	/* sockets that were looked at and do not carry a client's HTTP */
	u64 records_foreign;	/* sealed or opened by rustls' libraries, and no TLS record: QUIC, tokens */
	u64 records_unplaced_bytes; /* plaintext of TLS records for which no socket was certain */
	u64 stdio_calls;	/* reads and writes of MCP over standard input and output */
	u64 stdio_bytes;	/* bytes of those; they are in captured_bytes, too */
	u64 channels_ignored;	/* pipes and pairs of sockets that were looked at and carry no MCP */
	u64 channels_ambiguous;	/* servers that read from several clients, and whose answers may be to any */
};

/* Which processes are selected, and how the ring is drained. Written by the agent, read by every program. */
struct control {
	u32 select;	/* enum select, any of them */
	u32 self;	/* the agent itself: never traced */
	s32 hierarchy;	/* enum hierarchy */
	u32 asleep;	/* the agent waits for a wake-up instead of draining by the clock */
	u64 watermark;	/* bytes in the ring at which to wake it all the same */
	u32 selection;	/* moves on with each change of selected cgroups: what climbing found before is void */
	u32 reserved;
};

/* The hierarchy whose cgroups are selected: v2, or the v1 hierarchy of a controller. */
enum hierarchy {
	HIERARCHY_V2 = -1,
	HIERARCHY_MEMORY = 0,
	HIERARCHY_PIDS = 1,
	HIERARCHY_CPU = 2,
};

enum select {
	SELECT_ALL = 1,
	SELECT_PROCESSES = 2,	/* those in the map, and their children */
	SELECT_CGROUPS = 4,
	SELECT_PLAINTEXT = 8,	/* with SELECT_ALL: their plain HTTP, too */
	SELECT_STDIO = 16,	/* with SELECT_ALL: their MCP over standard input and output, too */
};

/* What is wanted of a selected process or cgroup: the value in the maps that select them. */
enum wanted {
	WANTED_CALLS = 1,
	WANTED_PLAINTEXT = 2,	/* also those without TLS */
	WANTED_STDIO = 4,	/* also MCP over standard input and output */
};

#define SIZE_IS(type, size) _Static_assert(sizeof(struct type) == (size), #type)
SIZE_IS(event_header, 24);
SIZE_IS(tls_data, 72);
SIZE_IS(tls_sent, 72);
SIZE_IS(tls_closed, 64);
SIZE_IS(socket_named, 152);
SIZE_IS(process_fork, 32);
SIZE_IS(process_exec, 296);
SIZE_IS(process_exit, 32);
SIZE_IS(counters, 168);
SIZE_IS(control, 32);
SIZE_IS(process_container, 32);
SIZE_IS(cgroup_event, 1040);
