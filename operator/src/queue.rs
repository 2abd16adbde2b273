//! What is to be looked at, and when: each thing once, however often it is asked for.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Instant;

/// Things with a time at which each is due.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    due: HashMap<T, Instant>,
    order: BTreeSet<(Instant, T)>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { due: HashMap::new(), order: BTreeSet::new() }
    }
}

impl<T: Clone + Eq + Hash + Ord> Queue<T> {
    /// Asks for a thing at a time. Where it is due earlier already, it stays so.
    pub(crate) fn add(&mut self, thing: T, at: Instant) {
        match self.due.get(&thing) {
            Some(&earlier) if earlier <= at => return,
            Some(&later) => {
                self.order.remove(&(later, thing.clone()));
            }
            None => {}
        }
        self.due.insert(thing.clone(), at);
        self.order.insert((at, thing));
    }

    /// Takes the earliest thing that is due and that `ready` lets pass.
    pub(crate) fn pop(&mut self, now: Instant, ready: impl Fn(&T) -> bool) -> Option<T> {
        let entry =
            self.order.iter().take_while(|(at, _)| *at <= now).find(|(_, thing)| ready(thing))?.clone();
        self.order.remove(&entry);
        self.due.remove(&entry.1);
        Some(entry.1)
    }

    /// When the first of those that `ready` lets pass is due.
    pub(crate) fn next(&self, ready: impl Fn(&T) -> bool) -> Option<Instant> {
        self.order.iter().find(|(_, thing)| ready(thing)).map(|(at, _)| *at)
    }

    /// How many things wait.
    pub(crate) fn len(&self) -> usize {
        self.due.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_thing_stands_once_at_its_earliest_time() {
        let start = Instant::now();
        let later = start + Duration::from_secs(5);
        let mut queue = Queue::default();
        queue.add("a", later);
        queue.add("a", start);
        queue.add("a", later);
        queue.add("b", later);
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.pop(start, |_| true), Some("a"));
        assert_eq!(queue.pop(start, |_| true), None);
        assert_eq!(queue.next(|_| true), Some(later));
        assert_eq!(queue.pop(later, |_| true), Some("b"));
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn what_is_not_ready_waits_and_lets_others_pass() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.add("a", now);
        queue.add("b", now);
        assert_eq!(queue.pop(now, |thing| *thing != "a"), Some("b"));
        assert_eq!(queue.next(|thing| *thing != "a"), None);
        assert_eq!(queue.pop(now, |_| true), Some("a"));
    }
}
