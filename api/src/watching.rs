//! How long a watch pauses before it is tried again, the same for operator and agents.

use kube::runtime::utils::ResetTimerBackoff;
use kube::runtime::watcher::ExponentialBackoff;
use std::time::Duration;

/// The first pause.
const FIRST: Duration = Duration::from_millis(800);
/// What pauses grow to, before the random part that at most doubles them.
///
/// client-go has 30 s there. When the API server is back, a minute's pause would be most of what its users wait for;
/// at a third of that, 5000 agents still try less than 700 times a second between them.
const MOST: Duration = Duration::from_secs(10);
/// Pauses begin anew only when so much time has passed since the last failure: a watch that opens and ends at once
/// is a failure, too.
const FORGET: Duration = Duration::from_secs(120);

/// Pauses of a watch that was interrupted: 0.8 s, doubled up to 10 s, each with a random part of up to its length.
pub fn watch_backoff() -> ResetTimerBackoff<ExponentialBackoff> {
    let pauses = backon::ExponentialBuilder::default()
        .with_min_delay(FIRST)
        .with_max_delay(MOST)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times();
    ResetTimerBackoff::new(pauses.into(), FORGET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_short_enough_for_one_who_waits() {
        let pauses: Vec<_> = watch_backoff().take(100).collect();
        assert!(pauses[0] >= FIRST && pauses[0] <= FIRST * 2, "{pauses:?}");
        assert!(pauses[10..].iter().all(|pause| (MOST..=MOST * 2).contains(pause)), "{pauses:?}");
        assert_ne!(pauses[50], pauses[51], "agents do not try in step");
    }
}
