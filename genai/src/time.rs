//! Points in time, as arguments.

use std::ops::Sub;
use std::time::Duration;

/// Nanoseconds since the Unix epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(pub u64);

impl Sub for Timestamp {
    type Output = Duration;

    /// The time from `earlier` to `self`; zero where the order is the other way round.
    fn sub(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
