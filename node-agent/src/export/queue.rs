//! What waits to be sent: bounded in bytes, first in, first out.
//!
//! At its bound the newest item is refused: what is kept then tells a story from its beginning without
//! holes, and the cost of a full queue stays that of a comparison.

use super::closing::Closing;
use super::config::Batch;
use super::stats::Cause;
use crate::resource::{Item, Signal};
use agentsight_genai::telemetry::{Attributes, Event, Measurement, Span, Value};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::mem::size_of;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::Instant;

pub(super) struct Queue {
    state: Mutex<State>,
    /// Told when a batch begins or is full, not at each item.
    wake: Notify,
    bound: usize,
    batch: Batch,
    batch_bytes: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Taken, and neither sent nor given up yet.
    taken: usize,
    taken_bytes: usize,
    closed: bool,
}

struct Waiting {
    item: Arc<Item>,
    bytes: usize,
    since: Instant,
}

impl Queue {
    /// A batch is at most `batch_bytes`, measured as [`weight`] does; one larger item is a batch alone.
    pub(super) fn new(bound: usize, batch: Batch, batch_bytes: usize) -> Self {
        // A small queue must not fill up while its batch waits for more.
        let batch_bytes = batch_bytes.min(bound / 4);
        Queue { state: Mutex::default(), wake: Notify::new(), bound, batch, batch_bytes }
    }

    /// Takes the item, or says why not. Never waits.
    pub(super) fn push(&self, item: Arc<Item>, bytes: usize) -> Result<(), Cause> {
        let mut state = self.lock();
        if state.closed {
            return Err(Cause::Unsent);
        }
        if state.waiting_bytes + state.taken_bytes + bytes > self.bound {
            return Err(Cause::QueueFull);
        }
        let was_full = self.is_full(&state);
        state.waiting.push_back(Waiting { item, bytes, since: Instant::now() });
        state.waiting_bytes += bytes;
        if state.waiting.len() == 1 || !was_full && self.is_full(&state) {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// The next batch, when it is full, old enough, or the end has come; `None` when nothing comes any more.
    ///
    /// Each batch is to be given back with [`Queue::done`].
    pub(super) async fn next(&self, closing: &mut Closing) -> Option<Vec<Arc<Item>>> {
        loop {
            let due = {
                let mut state = self.lock();
                let due = state.waiting.front().map(|first| first.since + self.batch.delay);
                let ripe = due.is_some_and(|due| due <= Instant::now());
                if due.is_some() && (ripe || closing.has_begun() || self.is_full(&state)) {
                    return Some(self.take(&mut state));
                }
                if closing.has_begun() {
                    return None;
                }
                due
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = closing.begun() => {}
                () = async { tokio::time::sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {}
            }
        }
    }

    /// The last batch was sent or given up: its bytes are free.
    pub(super) fn done(&self) {
        let mut state = self.lock();
        state.taken = 0;
        state.taken_bytes = 0;
    }

    /// Takes nothing any more and forgets what is still here; returns how many items that were.
    pub(super) fn close(&self) -> usize {
        let mut state = self.lock();
        let left = state.waiting.len() + state.taken;
        *state = State { closed: true, ..State::default() };
        left
    }

    /// Items and bytes, with those of the batch that is on its way.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let state = self.lock();
        (state.waiting.len() + state.taken, state.waiting_bytes + state.taken_bytes)
    }

    fn take(&self, state: &mut State) -> Vec<Arc<Item>> {
        let mut batch = Vec::new();
        while let Some(first) = state.waiting.front() {
            let full = batch.len() >= self.batch.items || state.taken_bytes + first.bytes > self.batch_bytes;
            if full && !batch.is_empty() {
                break;
            }
            let first = state.waiting.pop_front().expect("there is a front");
            state.waiting_bytes -= first.bytes;
            state.taken_bytes += first.bytes;
            batch.push(first.item);
        }
        state.taken = batch.len();
        batch
    }

    fn is_full(&self, state: &State) -> bool {
        state.waiting.len() >= self.batch.items || state.waiting_bytes >= self.batch_bytes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The memory that an item takes in a queue, about; never less than it takes encoded.
pub(super) fn weight(item: &Item) -> usize {
    // The reference counts and the queue's own entry; the resource is shared by many items.
    let own = size_of::<Item>() + 2 * size_of::<usize>() + size_of::<Waiting>();
    own + match &item.signal {
        Signal::Span { span, parent, .. } => {
            let Span { name, attributes, .. } = &**span;
            let state = parent.as_ref().map_or(0, |parent| parent.state.len());
            let message = match &span.status {
                agentsight_genai::telemetry::Status::Error(message) => message.len(),
                agentsight_genai::telemetry::Status::Unset => 0,
            };
            size_of::<Span>() + name.len() + state + message + attributes_weight(attributes)
        }
        Signal::Log { event: Event { name, attributes, .. }, .. } => {
            name.len() + attributes_weight(attributes)
        }
        Signal::Measurement(Measurement { attributes, .. }) => attributes_weight(attributes),
    }
}

fn attributes_weight(attributes: &Attributes) -> usize {
    let one = |(key, value): &(Cow<'static, str>, Value)| {
        size_of::<(Cow<'static, str>, Value)>()
            + key.len()
            + match value {
                Value::Str(text) => text.len(),
                Value::Strs(texts) => {
                    texts.iter().map(|text| size_of::<Cow<'static, str>>() + text.len()).sum()
                }
                Value::Int(_) | Value::Double(_) | Value::Bool(_) => 0,
            }
    };
    attributes.iter().map(one).sum()
}

#[cfg(test)]
mod tests {
    use super::super::closing;
    use super::super::fixtures::{resource, span};
    use super::*;
    use std::time::Duration;

    const HOUR: Duration = Duration::from_secs(3600);

    fn item(name: &str) -> Arc<Item> {
        Arc::new(span(&resource("a"), 1, name))
    }

    fn queue(items: usize) -> Queue {
        Queue::new(usize::MAX, Batch { delay: HOUR, items }, 1000)
    }

    #[tokio::test]
    async fn a_full_batch_does_not_wait() {
        let (_end, mut closing) = closing::pair();
        let queue = queue(2);
        for name in ["1", "2", "3"] {
            queue.push(item(name), 1).unwrap();
        }
        assert_eq!(queue.next(&mut closing).await.unwrap().len(), 2);
        assert_eq!(queue.waiting(), (3, 3), "what is on its way still counts");
        queue.done();
        assert_eq!(queue.waiting(), (1, 1));
    }

    #[tokio::test]
    async fn a_batch_ends_before_its_bytes_do() {
        let (_end, mut closing) = closing::pair();
        let queue = queue(100);
        for bytes in [600, 300, 200, 5000] {
            queue.push(item("x"), bytes).unwrap();
        }
        assert_eq!(queue.next(&mut closing).await.unwrap().len(), 2);
        queue.done();
        assert_eq!(queue.next(&mut closing).await.unwrap().len(), 1);
        queue.done();
        assert_eq!(queue.next(&mut closing).await.unwrap().len(), 1, "one that is too large goes alone");
    }

    #[tokio::test]
    async fn a_queue_smaller_than_a_batch_is_emptied_before_it_is_full() {
        let (_end, mut closing) = closing::pair();
        let queue = Queue::new(400, Batch { delay: HOUR, items: 100 }, 1000);
        queue.push(item("x"), 100).unwrap();
        assert_eq!(queue.next(&mut closing).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_batch_goes_when_it_is_old_enough() {
        let (_end, mut closing) = closing::pair();
        let queue = Queue::new(usize::MAX, Batch { delay: Duration::from_millis(5), items: 100 }, 1000);
        queue.push(item("x"), 1).unwrap();
        assert_eq!(queue.next(&mut closing).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn the_end_sends_what_waits_and_then_nothing() {
        let (end, mut closing) = closing::pair();
        let queue = queue(100);
        queue.push(item("x"), 1).unwrap();
        end.at(Instant::now() + HOUR);
        assert_eq!(queue.next(&mut closing).await.unwrap().len(), 1);
        queue.done();
        assert!(queue.next(&mut closing).await.is_none());
    }

    #[test]
    fn the_newest_is_refused_at_the_bound() {
        let queue = Queue::new(10, Batch { delay: HOUR, items: 100 }, 1000);
        queue.push(item("x"), 6).unwrap();
        assert_eq!(queue.push(item("y"), 5), Err(Cause::QueueFull));
        queue.push(item("z"), 4).unwrap();
        assert_eq!(queue.waiting(), (2, 10));
        assert_eq!(queue.close(), 2);
        assert_eq!(queue.waiting(), (0, 0));
        assert_eq!(queue.push(item("x"), 1), Err(Cause::Unsent));
    }

    #[test]
    fn an_item_weighs_at_least_what_it_is_encoded() {
        use prost::Message;
        let name = "n".repeat(1000);
        let item = span(&resource("a"), 1, &name);
        let encoded = super::super::proto::span(&item).unwrap().encoded_len();
        assert!(weight(&item) > encoded, "{} {encoded}", weight(&item));
    }
}
