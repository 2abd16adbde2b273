//! The thread that empties the ring.
//!
//! While records come it looks every [`DRAIN`]; after [`REST`] without one it asks to be woken by the next. So a traced
//! program pays for a wake-up (3 µs and more) only after a pause, and an idle agent does nothing at all.

use super::events::Batch;
use super::programs::{ControlMap, Error};
use aya::maps::{MapData, RingBuf};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks while records come: 100 wake-ups a second, and 80 KB of a ring of 8 MiB for each MB/s.
const DRAIN: Duration = Duration::from_millis(10);
/// Without records for so long, the thread sleeps until the kernel wakes it.
const REST: Duration = Duration::from_millis(100);
/// Bytes of a batch, and how many batches wait for the pipeline: 64 MiB at the most. While they wait the ring fills,
/// and what it cannot take the kernel counts: there is one place where records are lost.
const BATCH_BYTES: usize = 1 << 20;
const BATCHES: usize = 64;

/// The running thread.
pub struct Drain {
    stop: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drain {
    /// Starts emptying `ring`; batches come out of the receiver, which ends after [`Drain::finish`].
    ///
    /// # Errors
    /// When the kernel does not give an eventfd, or no thread can be started.
    pub fn start(
        ring: RingBuf<MapData>,
        control: Arc<Mutex<ControlMap>>,
    ) -> std::io::Result<(Drain, Receiver<Batch>)> {
        // SAFETY: the descriptor is checked, and owned by nobody else.
        let wake = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Arc::new(OwnedFd::from_raw_fd(fd))
        };
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = sync_channel(BATCHES);
        let thread = std::thread::Builder::new().name("ring".to_owned()).spawn({
            let (stop, wake) = (stop.clone(), wake.clone());
            move || {
                if let Err(error) = run(ring, &control, &sender, &stop, &wake) {
                    tracing::error!(error = &error as &dyn std::error::Error, "the ring is no longer read");
                }
            }
        })?;
        Ok((Drain { stop, wake, thread: Some(thread) }, receiver))
    }

    /// Takes what the ring still holds, then ends the thread and with it the batches.
    pub fn finish(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        // SAFETY: an open eventfd and eight readable bytes; it can only fail when it is already readable.
        unsafe { libc::write(self.wake.as_raw_fd(), (&raw const ONE).cast(), 8) };
        if let Some(thread) = self.thread.take() {
            // A panic has been printed by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.end();
    }
}

static ONE: u64 = 1;

fn run(
    mut ring: RingBuf<MapData>,
    control: &Mutex<ControlMap>,
    sender: &SyncSender<Batch>,
    stop: &AtomicBool,
    wake: &OwnedFd,
) -> Result<(), Error> {
    let set_asleep = |asleep| control.lock().expect("no holder panics").asleep(asleep);
    let mut last = Instant::now();
    set_asleep(false)?;
    loop {
        let stopping = stop.load(Ordering::Acquire);
        let Some(taken) = drain(&mut ring, sender) else { return Ok(()) };
        if stopping {
            return Ok(());
        }
        if taken {
            last = Instant::now();
        }
        if last.elapsed() < REST {
            wait(&[wake.as_raw_fd()], Some(DRAIN));
            continue;
        }
        set_asleep(true)?;
        // What came before the kernel saw the flag woke nobody.
        match drain(&mut ring, sender) {
            None => return Ok(()),
            Some(true) => {}
            Some(false) => wait(&[wake.as_raw_fd(), ring.as_raw_fd()], None),
        }
        last = Instant::now();
        set_asleep(false)?;
    }
}

/// Hands on all that the ring holds. `None`: nobody takes it any more.
fn drain(ring: &mut RingBuf<MapData>, sender: &SyncSender<Batch>) -> Option<bool> {
    let mut taken = false;
    let mut batch = Batch::default();
    while let Some(record) = ring.next() {
        taken = true;
        batch.push(&record);
        if batch.len() >= BATCH_BYTES {
            sender.send(std::mem::take(&mut batch)).ok()?;
        }
    }
    if !batch.is_empty() {
        sender.send(batch).ok()?;
    }
    Some(taken)
}

fn wait<const N: usize>(fds: &[libc::c_int; N], timeout: Option<Duration>) {
    let mut polled = fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 });
    let timeout = timeout.map_or(-1, |timeout| i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX));
    // SAFETY: N initialised entries. An interruption only makes the caller look once more.
    unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, timeout) };
}
