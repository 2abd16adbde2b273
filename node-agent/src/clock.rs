//! From the kernel's clock to the calendar.

use agentsight_genai::time::Timestamp;

/// Turns CLOCK_MONOTONIC, the clock of all events, into Unix time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Unix time at the zero of CLOCK_MONOTONIC, ns.
    zero: u64,
}

/// A difference above this is a step of the system's clock, and followed; below it spans stay consistent.
const STEP: u64 = 50_000_000; // 50 ms

impl Clock {
    /// As the system's clocks stand now.
    pub fn now() -> Clock {
        Clock { zero: read(libc::CLOCK_REALTIME).saturating_sub(read(libc::CLOCK_MONOTONIC)) }
    }

    /// Follows the system's clock where it was set.
    pub fn follow(&mut self) {
        let now = Clock::now();
        if now.zero.abs_diff(self.zero) > STEP {
            *self = now;
        }
    }

    /// The Unix time of an event.
    pub fn at(self, monotonic: u64) -> Timestamp {
        Timestamp(self.zero.saturating_add(monotonic))
    }
}

/// CLOCK_MONOTONIC now, ns.
pub fn monotonic() -> u64 {
    read(libc::CLOCK_MONOTONIC)
}

fn read(clock: libc::clockid_t) -> u64 {
    // SAFETY: a zeroed timespec is a valid one to be filled in; these two clocks always exist.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(clock, &raw mut time);
        time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
    }
}
