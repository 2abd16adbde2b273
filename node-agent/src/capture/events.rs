//! What the kernel said, as the pipeline takes it.
//!
//! Capture and everything after it meet here only, and only by value: the part that reads hostile bytes can become a
//! process of its own.

use agentsight_ebpf::{
    DIRECTION_WRITE, EventHeader, Layout, ProcessContainer, ProcessExec, ProcessExit, ProcessFork,
    SocketNamed, TlsClosed, TlsData, TlsSent, carried, closed, kind,
};
use agentsight_genai::http::{Direction, End};

/// Records in the order in which the kernel made them.
#[derive(Default)]
pub struct Batch {
    /// For each record its length (4 bytes, little endian), then the record.
    bytes: Vec<u8>,
}

impl Batch {
    /// An empty batch with room for some bytes.
    pub fn with_capacity(bytes: usize) -> Batch {
        Batch { bytes: Vec::with_capacity(bytes) }
    }

    /// Adds a record as it stands in the ring; of one that has room for more, only as much as is filled.
    pub fn push(&mut self, record: &[u8]) {
        let kind = EventHeader::read(record).map(|(header, _)| header.kind);
        let filled = match kind {
            Some(kind::TLS_DATA) => {
                TlsData::read(record).map(|(data, _)| (size_of::<TlsData>(), data.length))
            }
            Some(kind::EXEC) => {
                ProcessExec::read(record).map(|(exec, _)| (size_of::<ProcessExec>(), exec.arguments_length))
            }
            _ => None,
        };
        let filled =
            filled.map_or(record.len(), |(head, more)| head.saturating_add(more as usize).min(record.len()));
        self.bytes.extend_from_slice(&u32::try_from(filled).unwrap_or(0).to_le_bytes());
        self.bytes.extend_from_slice(&record[..filled]);
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The events, in order. A record that is no event, which the kernel half never makes, is passed over.
    pub fn events(&self) -> impl Iterator<Item = Event<'_>> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            loop {
                let (length, after) = rest.split_first_chunk::<4>()?;
                let (record, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
                rest = after;
                if let Some(event) = Event::read(record) {
                    return Some(event);
                }
            }
        })
    }
}

/// A process: an id that the kernel reuses, and the start that tells its users apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ProcessId {
    /// Process id in the initial pid namespace.
    pub tgid: u32,
    /// When it started, CLOCK_BOOTTIME, ns.
    pub started: u64,
}

/// A connection: an object of a process, and the time that tells its reuses apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnectionId {
    /// The process that it belongs to.
    pub process: ProcessId,
    /// Address of the TLS library's object, or of the kernel's socket where there is no TLS.
    pub ssl: u64,
    /// When that object was first seen, CLOCK_MONOTONIC, ns.
    pub generation: u64,
}

/// What a thread sealed between two writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BatchId {
    /// The process of the thread.
    pub process: ProcessId,
    /// Thread, in the initial pid namespace.
    pub thread: u32,
    /// When it began, CLOCK_MONOTONIC, ns.
    pub begun: u64,
}

/// One event.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Event<'a> {
    /// CLOCK_MONOTONIC, ns.
    pub time: u64,
    /// Whose it is.
    pub process: ProcessId,
    /// What happened.
    pub what: What<'a>,
}

/// What carried bytes as they are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carrier {
    /// TLS.
    Tls,
    /// A socket, without TLS.
    Socket,
    /// The standard input and output of a server of MCP.
    Stdio,
}

/// What can happen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum What<'a> {
    /// Plaintext moved.
    Data {
        /// On which connection.
        connection: ConnectionId,
        /// Which way.
        direction: Direction,
        /// Of the first byte, in its direction of the connection.
        offset: u64,
        /// Whether the connection was seen from its beginning.
        from_start: bool,
        /// What carried it.
        carrier: Carrier,
        /// The bytes.
        data: &'a [u8],
    },
    /// A call of a TLS library did what no such call does.
    Doubtful,
    /// Plaintext was sealed, and not written yet: its connection is told by [`What::Sent`].
    Held {
        /// Whose it is until then.
        batch: BatchId,
        /// Of the first byte, in its batch.
        offset: u64,
        /// The bytes.
        data: &'a [u8],
    },
    /// A thread wrote what it had sealed.
    Sent {
        /// On which connection.
        connection: ConnectionId,
        /// What.
        batch: BatchId,
        /// Of its first byte, in what is sent over the connection.
        offset: u64,
        /// Bytes of it, captured or not.
        length: u64,
        /// Whether the connection was seen from its beginning.
        from_start: bool,
    },
    /// A connection goes over a Unix socket: told before its first byte.
    Named {
        /// Which connection.
        connection: ConnectionId,
        /// Where its server listens, as it was bound; it may hold NUL, and an abstract one begins with it.
        name: &'a [u8],
    },
    /// A connection's object was freed or cleared.
    Closed {
        /// Which connection.
        connection: ConnectionId,
        /// Bytes that were received on it, captured or not.
        received: u64,
        /// Bytes that were sent on it, captured or not.
        sent: u64,
        /// Who ended it, as far as the library tells.
        end: End,
    },
    /// The process is a child of that one.
    Fork {
        /// Process id of the parent.
        parent: u32,
    },
    /// The process runs another program.
    Exec {
        /// Process id of the parent.
        parent: u32,
        /// The path of the program: the one given to exec, or that of the script's interpreter. Bytes, cut at 255.
        filename: &'a [u8],
        /// Its arguments, a NUL behind each; at most 4 KiB of them. They may hold a prompt: content.
        arguments: &'a [u8],
        /// There are more arguments, or more of the last one.
        cut: bool,
    },
    /// The process runs in a container: in a selected cgroup, or below one.
    Container {
        /// Id of the selected cgroup.
        cgroup: u64,
    },
    /// The process ended.
    Exit {
        /// As wait(2) gives it.
        status: i32,
    },
}

impl<'a> Event<'a> {
    fn read(record: &'a [u8]) -> Option<Event<'a>> {
        let (header, _) = EventHeader::read(record)?;
        let process = ProcessId { tgid: header.tgid, started: header.started };
        let what = match header.kind {
            kind::TLS_DATA => {
                let (event, data) = TlsData::read(record)?;
                if event.doubtful != 0 {
                    // What is wrong with a socket's memory says nothing of a probe.
                    let what = (event.socket == 0).then_some(What::Doubtful)?;
                    return Some(Event { time: header.time, process, what });
                }
                if event.held != 0 {
                    let batch = BatchId { process, thread: event.tid, begun: event.ssl };
                    let data = data.get(..event.length as usize)?;
                    let what = What::Held { batch, offset: event.offset, data };
                    return Some(Event { time: header.time, process, what });
                }
                What::Data {
                    connection: ConnectionId { process, ssl: event.ssl, generation: event.generation },
                    direction: if event.direction == DIRECTION_WRITE {
                        Direction::Sent
                    } else {
                        Direction::Received
                    },
                    offset: event.offset,
                    from_start: event.from_start != 0,
                    carrier: match event.socket {
                        carried::BY_TLS => Carrier::Tls,
                        carried::BY_STDIO => Carrier::Stdio,
                        _ => Carrier::Socket,
                    },
                    data: data.get(..event.length as usize)?,
                }
            }
            kind::TLS_SENT => {
                let (event, _) = TlsSent::read(record)?;
                What::Sent {
                    connection: ConnectionId { process, ssl: event.ssl, generation: event.generation },
                    batch: BatchId { process, thread: event.tid, begun: event.batch },
                    offset: event.offset,
                    length: event.length,
                    from_start: event.from_start != 0,
                }
            }
            kind::SOCKET_NAMED => {
                let (event, _) = SocketNamed::read(record)?;
                let start = std::mem::offset_of!(SocketNamed, name);
                let length = (event.length as usize).min(event.name.len());
                What::Named {
                    connection: ConnectionId { process, ssl: event.ssl, generation: event.generation },
                    name: record.get(start..start + length)?,
                }
            }
            kind::TLS_CLOSED => {
                let (event, _) = TlsClosed::read(record)?;
                What::Closed {
                    connection: ConnectionId { process, ssl: event.ssl, generation: event.generation },
                    received: event.offset[0],
                    sent: event.offset[1],
                    end: match event.how {
                        closed::BY_US => End::Cancelled,
                        closed::BY_PEER => End::Cut,
                        _ => End::Unknown,
                    },
                }
            }
            kind::FORK => What::Fork { parent: ProcessFork::read(record)?.0.parent },
            kind::EXEC => {
                let (event, arguments) = ProcessExec::read(record)?;
                let length = (event.length as usize).min(event.filename.len());
                // The copy in `event` would not live long enough: the name stands in the record at the same place.
                let start = std::mem::offset_of!(ProcessExec, filename);
                What::Exec {
                    parent: event.parent,
                    filename: record.get(start..start + length)?,
                    arguments: arguments.get(..event.arguments_length as usize)?,
                    cut: event.arguments_size > event.arguments_length,
                }
            }
            kind::CONTAINER => What::Container { cgroup: ProcessContainer::read(record)?.0.cgroup },
            kind::EXIT => What::Exit { status: ProcessExit::read(record)?.0.code },
            _ => return None,
        };
        Some(Event { time: header.time, process, what })
    }
}

/// Records as the kernel makes them, for tests of the stages behind.
#[cfg(test)]
pub(crate) mod fixtures {
    use super::*;

    pub(crate) fn header(kind: u32, tgid: u32, time: u64) -> Vec<u8> {
        let started = 50u64;
        [&kind.to_ne_bytes()[..], &tgid.to_ne_bytes(), &time.to_ne_bytes(), &started.to_ne_bytes()].concat()
    }

    /// `room` bytes are reserved, of which `payload` fills the first.
    pub(crate) fn data(
        tgid: u32,
        time: u64,
        way: Direction,
        offset: u64,
        payload: &[u8],
        room: usize,
    ) -> Vec<u8> {
        let length = payload.len() as u64;
        let numbers = [0xabc, 90, offset, offset + length].map(u64::to_ne_bytes).concat();
        let sizes = [8, u32::try_from(length).unwrap()].map(u32::to_ne_bytes).concat();
        let flags = [u8::from(way == Direction::Sent), 1, 0, 0, 0, 0, 0, 0];
        let mut record =
            [&header(kind::TLS_DATA, tgid, time), &numbers, &sizes, &flags[..], payload].concat();
        record.resize(record.len() + room - payload.len(), 0xee);
        record
    }

    /// `sent`, but of a batch that began at 90: its connection is not known yet.
    pub(crate) fn held(tgid: u32, time: u64, offset: u64, payload: &[u8]) -> Vec<u8> {
        let mut record = data(tgid, time, Direction::Sent, offset, payload, payload.len());
        let ssl = std::mem::offset_of!(TlsData, ssl);
        record[ssl..ssl + 8].copy_from_slice(&90u64.to_ne_bytes());
        record[std::mem::offset_of!(TlsData, held)] = 1;
        record
    }

    /// The batch that began at `batch` goes out over the connection of `data`.
    pub(crate) fn told(tgid: u32, time: u64, batch: u64, offset: u64, length: u64) -> Vec<u8> {
        let numbers = [0xabc, 90, batch, offset, length].map(u64::to_ne_bytes).concat();
        let end = [&8u32.to_ne_bytes()[..], &[1, 0, 0, 0]].concat();
        [&header(kind::TLS_SENT, tgid, time)[..], &numbers, &end].concat()
    }

    /// The connection of `data` goes over the Unix socket of that name.
    pub(crate) fn named(tgid: u32, time: u64, name: &[u8]) -> Vec<u8> {
        let numbers = [0xabc, 90].map(u64::to_ne_bytes).concat();
        let mut room = [0u8; 108];
        room[..name.len()].copy_from_slice(name);
        let length = u32::try_from(name.len()).unwrap().to_ne_bytes();
        [&header(kind::SOCKET_NAMED, tgid, time)[..], &numbers, &length, &room].concat()
    }

    pub(crate) fn closed(tgid: u32, time: u64, received: u64, sent: u64, how: u8) -> Vec<u8> {
        let numbers = [0xabc, 90, received, sent].map(u64::to_ne_bytes).concat();
        [&header(kind::TLS_CLOSED, tgid, time), &numbers, &[how, 0, 0, 0, 0, 0, 0, 0][..]].concat()
    }

    pub(crate) fn exec(tgid: u32, time: u64, path: &str) -> Vec<u8> {
        exec_with(tgid, time, path, &[])
    }

    /// `arguments`: with that of the program itself.
    pub(crate) fn exec_with(tgid: u32, time: u64, path: &str, arguments: &[&str]) -> Vec<u8> {
        let mut name = [0u8; 256];
        name[..path.len()].copy_from_slice(path.as_bytes());
        let sizes = [3, u32::try_from(path.len()).unwrap()].map(u32::to_ne_bytes).concat();
        let mut told: Vec<u8> = arguments.iter().flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
        let all = u32::try_from(told.len()).unwrap();
        told.truncate(4096);
        let lengths = [u32::try_from(told.len()).unwrap(), all].map(u32::to_ne_bytes).concat();
        let room = [0xee; 20]; // as the ring's size classes leave it
        [&header(kind::EXEC, tgid, time), &sizes, &name[..], &lengths, &told, &room[..]].concat()
    }

    pub(crate) fn fork(tgid: u32, time: u64, parent: u32) -> Vec<u8> {
        [&header(kind::FORK, tgid, time)[..], &parent.to_ne_bytes(), &[0; 4]].concat()
    }

    pub(crate) fn container(tgid: u32, time: u64, cgroup: u64) -> Vec<u8> {
        [&header(kind::CONTAINER, tgid, time)[..], &cgroup.to_ne_bytes()].concat()
    }

    pub(crate) fn exit(tgid: u32, time: u64, status: i32) -> Vec<u8> {
        [&header(kind::EXIT, tgid, time), &status.to_ne_bytes()[..], &[0; 4]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::fixtures::{data, exec, exec_with, header, held, named, told};
    use super::*;

    #[test]
    fn a_record_keeps_only_the_bytes_that_are_filled() {
        let mut batch = Batch::default();
        batch.push(&data(7, 100, Direction::Sent, 1000, b"hello", 256));
        assert_eq!(batch.len(), 4 + 72 + 5);
        let events: Vec<_> = batch.events().collect();
        let [Event { time: 100, what: What::Data { data, offset, from_start, direction, .. }, .. }] =
            events[..]
        else {
            panic!("{events:?}")
        };
        assert_eq!((data, offset, from_start, direction), (&b"hello"[..], 1000, true, Direction::Sent));
    }

    #[test]
    fn bytes_of_a_socket_are_told_apart_from_those_of_tls() {
        let mut record = data(7, 100, Direction::Sent, 0, b"x", 256);
        let place = std::mem::offset_of!(TlsData, socket);
        let mut batch = Batch::default();
        batch.push(&record);
        for carried in [carried::BY_SOCKET, carried::BY_STDIO] {
            record[place] = carried;
            batch.push(&record);
        }
        let carriers: Vec<_> = batch
            .events()
            .map(|event| match event.what {
                What::Data { carrier, .. } => carrier,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(carriers, [Carrier::Tls, Carrier::Socket, Carrier::Stdio]);
    }

    #[test]
    fn what_is_held_is_told_by_the_name_of_its_batch() {
        let mut batch = Batch::default();
        batch.push(&held(7, 100, 3, b"x"));
        batch.push(&told(7, 110, 90, 1000, 4));
        let process = ProcessId { tgid: 7, started: 50 };
        let name = BatchId { process, thread: 8, begun: 90 };
        let connection = ConnectionId { process, ssl: 0xabc, generation: 90 };
        let events: Vec<_> = batch.events().map(|event| event.what).collect();
        let sent = What::Sent { connection, batch: name, offset: 1000, length: 4, from_start: true };
        assert_eq!(events, [What::Held { batch: name, offset: 3, data: b"x" }, sent]);
    }

    #[test]
    fn the_name_of_a_socket_is_as_long_as_it_says() {
        let mut record = named(7, 100, b"/run/model\0");
        let length = std::mem::offset_of!(SocketNamed, length);
        let mut batch = Batch::default();
        batch.push(&record);
        record[length..length + 4].copy_from_slice(&1000u32.to_ne_bytes());
        batch.push(&record);
        let names: Vec<_> = batch
            .events()
            .map(|event| match event.what {
                What::Named { name, .. } => name.len(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, [11, 108], "never more than there is room for");
    }

    #[test]
    fn a_doubtful_call_is_told_where_a_probe_may_be_wrong() {
        let mut record = data(7, 100, Direction::Sent, 0, b"", 256);
        record[std::mem::offset_of!(TlsData, doubtful)] = 1;
        let mut batch = Batch::default();
        batch.push(&record);
        record[std::mem::offset_of!(TlsData, socket)] = 1;
        batch.push(&record);
        assert_eq!(batch.events().map(|event| event.what).collect::<Vec<_>>(), [What::Doubtful]);
    }

    #[test]
    fn a_record_that_is_no_event_is_passed_over() {
        let mut batch = Batch::default();
        batch.push(b"short");
        batch.push(&header(99, 7, 100));
        batch.push(&data(7, 100, Direction::Sent, 0, b"x", 256));
        assert_eq!(batch.events().count(), 1);
    }

    #[test]
    fn arguments_are_those_that_are_filled_and_a_cut_is_told() {
        let mut batch = Batch::default();
        batch.push(&exec_with(7, 100, "/bin/tr", &["tr", "a b", ""]));
        batch.push(&exec_with(7, 100, "/bin/tr", &["tr", &"x".repeat(5000)]));
        let told: Vec<_> = batch
            .events()
            .map(|event| match event.what {
                What::Exec { arguments, cut, .. } => (arguments.len(), cut),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told, [("tr\0a b\0\0".len(), false), (4096, true)]);
    }

    #[test]
    fn the_name_of_a_program_ends_where_its_length_says() {
        let mut batch = Batch::default();
        batch.push(&exec(7, 100, "/bin/tr"));
        let expected = What::Exec { parent: 3, filename: b"/bin/tr", arguments: b"", cut: false };
        assert_eq!(batch.events().next().unwrap().what, expected);
    }
}
