//! How the end is announced to everything that sends: it has begun, and until when it may last.

use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Announces the end.
pub(super) struct End(watch::Sender<Option<Instant>>);

/// Hears of the end. When whoever could announce it is gone, it has come.
#[derive(Clone)]
pub(super) struct Closing(watch::Receiver<Option<Instant>>);

pub(super) fn pair() -> (End, Closing) {
    let (sender, receiver) = watch::channel(None);
    (End(sender), Closing(receiver))
}

impl End {
    /// The end begins now and lasts no longer than until `deadline`; only the first announcement counts.
    pub(super) fn at(&self, deadline: Instant) {
        self.0.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(deadline);
            }
            first
        });
    }
}

impl Closing {
    pub(super) fn has_begun(&self) -> bool {
        self.0.borrow().is_some() || self.0.has_changed().is_err()
    }

    /// Waits until the end begins.
    pub(super) async fn begun(&mut self) {
        // An error says that the announcer is gone.
        let _ = self.0.wait_for(Option::is_some).await;
    }

    /// Waits until the end is over.
    pub(super) async fn over(&mut self) {
        self.begun().await;
        let deadline = self.0.borrow().unwrap_or_else(Instant::now);
        tokio::time::sleep_until(deadline).await;
    }

    /// The time that is left, once the end has begun.
    pub(super) fn left(&self) -> Option<Duration> {
        self.has_begun().then(|| {
            self.0.borrow().map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()))
        })
    }
}
