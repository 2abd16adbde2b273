//! Which files processes map as code, told by the kernel within microseconds (perf's MMAP2 records).
//!
//! This is the net below [`super::discover`]: a library that a wheel brought along, a program that was built a moment ago.

use perf_event_open_sys as perf;
use perf_event_open_sys::bindings as sys;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// Data pages of one CPU's buffer: 128 KiB hold about a thousand records.
const PAGES: usize = 32;

/// A file that was just mapped as code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// The process, in this agent's pid namespace.
    pub process: u32,
    /// Start of the mapping.
    pub start: u64,
    /// Its length in bytes.
    pub length: u64,
    /// The file, as the kernel tells files apart: device, inode, generation.
    pub file: (u32, u32, u64, u64),
    /// The path in the process's own view.
    pub name: PathBuf,
}

/// Records of all processes of the machine.
pub struct Mappings {
    buffers: Vec<Buffer>,
    lost: u64,
}

impl Mappings {
    /// Listens on every CPU.
    ///
    /// # Errors
    /// When the kernel refuses: needs CAP_PERFMON.
    pub fn open() -> io::Result<Mappings> {
        // SAFETY: sysconf has no preconditions.
        let (cpus, page) =
            unsafe { (libc::sysconf(libc::_SC_NPROCESSORS_CONF), libc::sysconf(libc::_SC_PAGESIZE)) };
        let page = usize::try_from(page).map_err(|_| io::Error::last_os_error())?;
        let mut buffers = Vec::new();
        for cpu in 0..i32::try_from(cpus).unwrap_or(1) {
            match Buffer::open(cpu, page) {
                Ok(buffer) => buffers.push(buffer),
                // A CPU that is configured and off.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Mappings { buffers, lost: 0 })
    }

    /// The descriptors to wait on.
    pub fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        self.buffers.iter().map(|buffer| buffer.event.as_raw_fd())
    }

    /// Takes all records that are there.
    pub fn drain(&mut self, mut each: impl FnMut(Mapping)) {
        for buffer in &mut self.buffers {
            self.lost += buffer.drain(&mut each);
        }
    }

    /// Records for which a buffer had no room.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

struct Buffer {
    event: OwnedFd,
    memory: *mut u8,
    page: usize,
}

// SAFETY: the memory belongs to this value alone, whichever thread holds it.
unsafe impl Send for Buffer {}

impl Buffer {
    fn open(cpu: i32, page: usize) -> io::Result<Buffer> {
        let mut attributes = sys::perf_event_attr {
            type_: sys::PERF_TYPE_SOFTWARE,
            size: u32::try_from(size_of::<sys::perf_event_attr>()).unwrap_or(0),
            config: u64::from(sys::PERF_COUNT_SW_DUMMY),
            ..Default::default()
        };
        // `mmap` asks for mappings as code only, `mmap2` for their inode.
        attributes.set_mmap(1);
        attributes.set_mmap2(1);
        attributes.set_watermark(1);
        attributes.__bindgen_anon_2.wakeup_watermark = 1;
        // SAFETY: a complete attribute structure; the descriptor is checked and owned by nobody else.
        let event = unsafe {
            let fd = perf::perf_event_open(
                &raw mut attributes,
                -1,
                cpu,
                -1,
                libc::c_ulong::from(sys::PERF_FLAG_FD_CLOEXEC),
            );
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: a new shared mapping of the size that the kernel wants: one page and a power of two of them.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                (1 + PAGES) * page,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Buffer { event, memory: memory.cast(), page })
    }

    /// Gives each record to `each`; returns how many the kernel lost.
    fn drain(&mut self, each: &mut impl FnMut(Mapping)) -> u64 {
        let header = self.memory.cast::<sys::perf_event_mmap_page>();
        // SAFETY: the first page is the kernel's perf_event_mmap_page; head is written by the kernel and tail by us only,
        // both accessed as atomics, in the order that perf_event_open(2) demands.
        let (head, tail) = unsafe {
            (
                AtomicU64::from_ptr(&raw mut (*header).data_head),
                AtomicU64::from_ptr(&raw mut (*header).data_tail),
            )
        };
        let end = head.load(Ordering::Acquire);
        let mut at = tail.load(Ordering::Relaxed);
        let mut lost = 0;
        let mut record = Vec::new();
        while at < end {
            self.copy(at, 8, &mut record);
            let kind = u32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
            let size = u16::from_ne_bytes([record[6], record[7]]);
            if size < 8 {
                break;
            }
            self.copy(at, usize::from(size), &mut record);
            match kind {
                sys::PERF_RECORD_MMAP2 => {
                    if let Some(mapping) = read_mapping(&record[8..]) {
                        each(mapping);
                    }
                }
                // u64 id, u64 lost
                sys::PERF_RECORD_LOST => lost += record.get(16..24).and_then(number).unwrap_or(0),
                _ => {}
            }
            at += u64::from(size);
        }
        tail.store(end, Ordering::Release);
        lost
    }

    /// Copies `length` bytes at a position that only grows; the data pages are a ring.
    fn copy(&self, at: u64, length: usize, out: &mut Vec<u8>) {
        let size = PAGES * self.page;
        let start = usize::try_from(at % size as u64).unwrap_or(0);
        let first = length.min(size - start);
        out.clear();
        // SAFETY: both pieces lie within the data pages, and length (a u16) is smaller than them.
        unsafe {
            let data = self.memory.add(self.page);
            out.extend_from_slice(std::slice::from_raw_parts(data.add(start), first));
            out.extend_from_slice(std::slice::from_raw_parts(data, length - first));
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `open`, which nobody else knows.
        unsafe { libc::munmap(self.memory.cast(), (1 + PAGES) * self.page) };
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?))
}

/// u32 pid, tid; u64 addr, len, pgoff; u32 maj, min; u64 ino, ino_generation; u32 prot, flags; char filename[]
fn read_mapping(record: &[u8]) -> Option<Mapping> {
    let small = |at: usize| Some(u32::from_ne_bytes(record.get(at..at + 4)?.try_into().ok()?));
    let large = |at: usize| number(record.get(at..)?);
    let name = record.get(64..)?.split(|byte| *byte == 0).next()?;
    // `[vdso]`, `//anon`, `anon_inode:…`: no files.
    if !name.starts_with(b"/") || name.starts_with(b"//") {
        return None;
    }
    Some(Mapping {
        process: small(0)?,
        start: large(8)?,
        length: large(16)?,
        file: (small(32)?, small(36)?, large(40)?, large(48)?),
        name: PathBuf::from(std::ffi::OsStr::from_bytes(name)),
    })
}
