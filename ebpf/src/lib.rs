//! The kernel half: the compiled programs, and the layout of what they say.
//!
//! `src/bpf/events.h` is the other side of every structure here; both check their sizes.

#![deny(missing_docs)]

/// The compiled object with all programs and maps.
pub static OBJECT: &[u8] = {
    /// BPF loaders read the object as ELF structures: it must be aligned for them.
    #[repr(C, align(8))]
    struct Aligned<T: ?Sized>(T);
    static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/agentsight.bpf.o")));
    &ALIGNED.0
};

/// `enum event_kind`.
pub mod kind {
    /// [`super::TlsData`] and its bytes.
    pub const TLS_DATA: u32 = 1;
    /// [`super::TlsClosed`].
    pub const TLS_CLOSED: u32 = 2;
    /// [`super::ProcessFork`].
    pub const FORK: u32 = 3;
    /// [`super::ProcessExec`].
    pub const EXEC: u32 = 4;
    /// [`super::ProcessExit`].
    pub const EXIT: u32 = 5;
    /// [`super::TlsSent`].
    pub const TLS_SENT: u32 = 6;
    /// [`super::SocketNamed`].
    pub const SOCKET_NAMED: u32 = 7;
    /// [`super::ProcessContainer`].
    pub const CONTAINER: u32 = 64;
}

/// `enum select`: which processes are traced, any of them together.
pub mod select {
    /// None.
    pub const NOTHING: u32 = 0;
    /// Every process but the agent.
    pub const ALL: u32 = 1;
    /// Those in the map `processes`, and their children.
    pub const PROCESSES: u32 = 2;
    /// Those in a cgroup of the map `cgroups`, or below one.
    pub const CGROUPS: u32 = 4;
    /// With [`ALL`]: their plain HTTP, too.
    pub const PLAINTEXT: u32 = 8;
    /// With [`ALL`]: their MCP over standard input and output, too.
    pub const STDIO: u32 = 16;
}

/// `enum wanted`: what is wanted of a selected process or cgroup.
pub mod wanted {
    /// Its calls over TLS.
    pub const CALLS: u32 = 1;
    /// Those without TLS, too.
    pub const PLAINTEXT: u32 = 2;
    /// Its requests to MCP servers over standard input and output, too.
    pub const STDIO: u32 = 4;
}

/// `enum hierarchy`: whose cgroups are selected.
pub mod hierarchy {
    /// Those of cgroup v2.
    pub const V2: i32 = -1;
    /// Those of the v1 hierarchy that has the controller `memory`.
    pub const MEMORY: i32 = 0;
    /// Those of the v1 hierarchy that has the controller `pids`.
    pub const PIDS: i32 = 1;
    /// Those of the v1 hierarchy that has the controller `cpu`.
    pub const CPU: i32 = 2;
}

/// `enum cgroup_event_kind`.
pub mod cgroup_event {
    /// A cgroup was made.
    pub const MADE: u32 = 1;
    /// A cgroup was removed.
    pub const REMOVED: u32 = 2;
}

/// `enum carried`.
pub mod carried {
    /// By TLS.
    pub const BY_TLS: u8 = 0;
    /// By a socket, as they stand here.
    pub const BY_SOCKET: u8 = 1;
    /// Between a client and a server of MCP, over the server's standard input and output.
    pub const BY_STDIO: u8 = 2;
}

/// `enum closed_how`.
pub mod closed {
    /// The process let go of a sound connection.
    pub const BY_US: u8 = 1;
    /// The peer, or an error, had ended it before.
    pub const BY_PEER: u8 = 2;
}

/// The direction of bytes that the process wrote; 0 are those that it read.
pub const DIRECTION_WRITE: u8 = 1;

macro_rules! layout {
    ($(#[$meta:meta])* $name:ident, $size:literal { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }
        const _: () = assert!(size_of::<$name>() == $size);
        // SAFETY: integers and arrays of them only, and the size check leaves no room for padding that the kernel
        // side does not write: any bytes are a value.
        unsafe impl Layout for $name {}
    };
}

/// A structure that any bytes of its size are a value of.
///
/// # Safety
/// Only for `repr(C)` structures of integers without padding.
pub unsafe trait Layout: Copy {
    /// Reads the structure at the start of `bytes`, which need not be aligned, and gives what follows it.
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_at_checked(size_of::<Self>())?;
        // SAFETY: `head` has exactly the size, any bytes are a value by this trait's contract, and the read does not
        // ask for alignment.
        Some((unsafe { head.as_ptr().cast::<Self>().read_unaligned() }, rest))
    }
}

layout! {
    /// What every record starts with.
    EventHeader, 24 {
        /// One of [`kind`].
        kind: u32,
        /// Process, in the initial pid namespace.
        tgid: u32,
        /// CLOCK_MONOTONIC, ns.
        time: u64,
        /// When the process started, CLOCK_BOOTTIME, ns.
        started: u64,
    }
}
layout! {
    /// Plaintext that one call of the TLS library, or of a socket without TLS, moved, or a piece of it; `length` bytes follow.
    TlsData, 72 {
        /// Header.
        header: EventHeader,
        /// Address of the connection object, or of the kernel's socket.
        ssl: u64,
        /// When that object was first seen.
        generation: u64,
        /// Of the first byte in its direction of the connection.
        offset: u64,
        /// Offset behind the last byte that the call moved.
        call_end: u64,
        /// Thread, in the initial pid namespace.
        tid: u32,
        /// Bytes that follow.
        length: u32,
        /// [`DIRECTION_WRITE`] or 0.
        direction: u8,
        /// The connection was seen from its beginning.
        from_start: u8,
        /// What carried the bytes as they stand here: one of [`carried`].
        socket: u8,
        /// It was not sent yet: `ssl` is the batch that a [`TlsSent`] names later, `offset` counts from its start.
        held: u8,
        /// The call did what no such call does: `length` is 0, and nothing but the process is certain.
        doubtful: u8,
        /// Zero.
        pad: [u8; 3],
    }
}
layout! {
    /// What a thread had sealed until now went to a socket: only now the connection is known.
    TlsSent, 72 {
        /// Header.
        header: EventHeader,
        /// Address of the kernel's socket.
        ssl: u64,
        /// When it was first seen.
        generation: u64,
        /// Name of the batch, among those of its thread.
        batch: u64,
        /// Of its first byte, in the written direction of the connection.
        offset: u64,
        /// Bytes of the whole batch.
        length: u64,
        /// Thread, in the initial pid namespace.
        tid: u32,
        /// The connection was seen from its beginning.
        from_start: u8,
        /// Zero.
        pad: [u8; 3],
    }
}
layout! {
    /// The connection object was freed or cleared, or the socket was closed.
    TlsClosed, 64 {
        /// Header.
        header: EventHeader,
        /// Address of the connection object.
        ssl: u64,
        /// When that object was first seen.
        generation: u64,
        /// Bytes read, bytes written since then.
        offset: [u64; 2],
        /// One of [`closed`], or 0.
        how: u8,
        /// Zero.
        pad: [u8; 7],
    }
}
layout! {
    /// A connection over a Unix socket: where its server listens. Told before its first byte.
    SocketNamed, 152 {
        /// Header.
        header: EventHeader,
        /// Address of the kernel's socket.
        ssl: u64,
        /// When it was first seen.
        generation: u64,
        /// Length of the name.
        length: u32,
        /// As it was bound; it may hold NUL, and one of the abstract ones begins with it.
        name: [u8; 108],
    }
}
layout! {
    /// A child process of a selected one; the header is the child's.
    ProcessFork, 32 {
        /// Header.
        header: EventHeader,
        /// Process that forked.
        parent: u32,
        /// Zero.
        pad: u32,
    }
}
layout! {
    /// A process runs another program; `arguments_length` bytes of its arguments follow, each with a NUL behind it.
    ProcessExec, 296 {
        /// Header.
        header: EventHeader,
        /// Parent process.
        parent: u32,
        /// Length of the file name.
        length: u32,
        /// The path of the program: the one given to exec, or that of the script's interpreter. Cut to fit.
        filename: [u8; 256],
        /// Bytes that follow.
        arguments_length: u32,
        /// Bytes of all arguments; larger than what follows where they were cut, at 4 KiB.
        arguments_size: u32,
    }
}
layout! {
    /// The last thread of a process ended.
    ProcessExit, 32 {
        /// Header.
        header: EventHeader,
        /// As wait(2) gives it.
        code: i32,
        /// Zero.
        pad: u32,
    }
}
layout! {
    /// A process that runs a program is in a selected cgroup, or below one.
    ProcessContainer, 32 {
        /// Header.
        header: EventHeader,
        /// Id of the selected cgroup.
        cgroup: u64,
    }
}
layout! {
    /// A cgroup was made or removed.
    CgroupEvent, 1040 {
        /// Its id, in the hierarchy that is used.
        id: u64,
        /// One of [`cgroup_event`].
        kind: u32,
        /// Length of the path.
        length: u32,
        /// From the root of the hierarchy, cut to fit.
        path: [u8; 1024],
    }
}
layout! {
    #[derive(Default)]
    /// Counters of one CPU; see `events.h` for what each counts.
    Counters, 168 {
        /// Calls with plaintext in selected processes.
        tls_calls: u64,
        /// Plaintext bytes of those calls.
        tls_bytes: u64,
        /// Of those, put into the ring.
        captured_bytes: u64,
        /// Records for which the ring had no room.
        ring_full_records: u64,
        /// Plaintext bytes for which the ring had no room.
        ring_full_bytes: u64,
        /// Memory of the process that could not be read.
        fault_bytes: u64,
        /// Beyond what is taken of one call.
        oversize_bytes: u64,
        /// Sent from file to socket inside the kernel.
        sendfile_bytes: u64,
        /// Returns whose entry was not seen.
        unpaired_returns: u64,
        /// Calls whose connection found no place.
        connections_full: u64,
        /// Children that found no place.
        processes_full: u64,
        /// Calls that moved bytes of plain HTTP in processes of which it is wanted.
        socket_calls: u64,
        /// Bytes of those calls.
        socket_bytes: u64,
        /// Bytes of the same sockets that went past the hooks: by sendfile or splice.
        socket_bypass_bytes: u64,
        /// Sockets that were looked at and carry no client's HTTP.
        sockets_ignored: u64,
        /// Sealed or opened by rustls' libraries, and no TLS record: QUIC, tokens.
        records_foreign: u64,
        /// Plaintext of TLS records for which no socket was certain.
        records_unplaced_bytes: u64,
        /// Reads and writes of MCP over standard input and output.
        stdio_calls: u64,
        /// Bytes of those.
        stdio_bytes: u64,
        /// Pipes and pairs of sockets that were looked at and carry no MCP.
        channels_ignored: u64,
        /// Servers that read from several clients, and whose answers may be to any.
        channels_ambiguous: u64,
    }
}
// SAFETY: see `layout!`; aya asks for this promise to move the values through maps.
unsafe impl aya::Pod for Counters {}
// SAFETY: as above.
unsafe impl aya::Pod for Control {}

layout! {
    /// What the agent tells the programs.
    Control, 32 {
        /// Any of [`select`].
        select: u32,
        /// The agent's own process: never traced.
        own_tgid: u32,
        /// One of [`hierarchy`].
        hierarchy: i32,
        /// The agent waits for a wake-up.
        asleep: u32,
        /// Bytes in the ring at which to wake it.
        watermark: u64,
        /// Moves on with each change of selected cgroups.
        selection: u32,
        /// Zero.
        reserved: u32,
    }
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Counters) {
        self.tls_calls += other.tls_calls;
        self.tls_bytes += other.tls_bytes;
        self.captured_bytes += other.captured_bytes;
        self.ring_full_records += other.ring_full_records;
        self.ring_full_bytes += other.ring_full_bytes;
        self.fault_bytes += other.fault_bytes;
        self.oversize_bytes += other.oversize_bytes;
        self.sendfile_bytes += other.sendfile_bytes;
        self.unpaired_returns += other.unpaired_returns;
        self.connections_full += other.connections_full;
        self.processes_full += other.processes_full;
        self.socket_calls += other.socket_calls;
        self.socket_bytes += other.socket_bytes;
        self.socket_bypass_bytes += other.socket_bypass_bytes;
        self.sockets_ignored += other.sockets_ignored;
        self.records_foreign += other.records_foreign;
        self.records_unplaced_bytes += other.records_unplaced_bytes;
        self.stdio_calls += other.stdio_calls;
        self.stdio_bytes += other.stdio_bytes;
        self.channels_ignored += other.channels_ignored;
        self.channels_ambiguous += other.channels_ambiguous;
    }
}

impl Counters {
    /// Plaintext bytes that were seen and not captured.
    pub fn lost_bytes(&self) -> u64 {
        self.ring_full_bytes + self.fault_bytes + self.oversize_bytes
    }
}

/// The largest record: a whole chunk.
pub const LARGEST_RECORD: usize = size_of::<TlsData>() + 16384;
