//! One call that is seen twice: what an agent says without TLS to a sidecar of its pod, and what the sidecar passes on.
//!
//! Two calls are one if, and only if, all of this holds: they are of one pod, or of one recorded tree of processes; the second
//! began while the first was under way; their messages are the same; the first went without TLS; and the server gave both
//! responses the same id. All but the last is known when the second is asked. From then on it is waited with, until the first
//! is there. What is not certain is two calls; and of three in a row the last is a call of its own.

use crate::capture::events::ProcessId;
use crate::causality::ExchangeId;
use agentsight_genai::call::{Call, Server};
use agentsight_genai::links::{Fingerprint, History};
use std::collections::{BTreeMap, HashMap};

/// Calls under way that are known here; of further ones each is told by itself.
const MOST_OPEN: usize = 4096;

/// Calls that wait for another one; further ones do not wait.
const MOST_HELD: usize = 32;

/// How long a call waits for the one that it may be a part of, ns.
const PATIENCE: u64 = 30_000_000_000;

/// The calls under way.
#[derive(Debug, Default)]
pub struct Twins {
    open: BTreeMap<ExchangeId, Open>,
    by_request: HashMap<Request, Vec<ExchangeId>>,
    held: usize,
    merged: u64,
}

/// A call that is to be told.
#[derive(Debug)]
pub struct Told {
    /// Of the exchange that it is told as.
    pub id: ExchangeId,
    /// The call.
    pub call: Call,
    /// Where it went from the sidecar that the agent spoke to, if that names another server.
    pub upstream: Option<Server>,
}

impl Told {
    fn alone(id: ExchangeId, call: Call) -> Told {
        Told { id, call, upstream: None }
    }
}

/// What two requests have to have alike.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Request {
    pod: u64,
    messages: u32,
    history: Fingerprint,
}

#[derive(Debug)]
struct Open {
    request: Request,
    plain: bool,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// No other call is like it so far.
    Alone,
    /// Another that began later may be the same.
    First(Second),
    /// It may be the same as that one, which began before.
    SecondOf(ExchangeId),
}

/// The later call of two that may be one.
#[derive(Debug)]
enum Second {
    UnderWay,
    /// It waits since then.
    Held(u64, Box<(ExchangeId, Call)>),
    /// The first was told then, with this id of the response.
    Late(u64, Option<String>),
}

impl Twins {
    /// A request is complete. `pod`: only calls of one may be the same. `plain`: it went without TLS. Tells whether it may be
    /// the same as another one: then nothing is to be made of it before [`Twins::call`] or one of the others gives it.
    pub fn asked(&mut self, id: ExchangeId, pod: u64, history: &History, plain: bool) -> bool {
        let Some(last) = history.last.last() else { return false };
        if self.open.len() >= MOST_OPEN {
            return false;
        }
        let request = Request { pod, messages: history.length, history: last.prefix };
        let alike = self.by_request.entry(request).or_default();
        let first = alike.iter().rev().copied().find(|first| {
            self.open.get(first).is_some_and(|open| {
                let passes_on = first.process != id.process || !plain;
                matches!(open.kind, Kind::Alone) && open.plain && passes_on
            })
        });
        alike.push(id);
        if let Some(open) = first.and_then(|first| self.open.get_mut(&first)) {
            open.kind = Kind::First(Second::UnderWay);
        }
        let kind = first.map_or(Kind::Alone, Kind::SecondOf);
        self.open.insert(id, Open { request, plain, kind });
        first.is_some()
    }

    /// A call is there. Gives what is to be told now. `now`: CLOCK_MONOTONIC, ns.
    pub fn call(&mut self, id: ExchangeId, call: Call, now: u64) -> Vec<Told> {
        let Some(open) = self.take(id) else { return vec![Told::alone(id, call)] };
        match open.kind {
            Kind::Alone => vec![Told::alone(id, call)],
            Kind::SecondOf(first) => self.second(first, id, call, now),
            Kind::First(Second::Held(_, second)) => {
                self.held -= 1;
                let (second_id, second) = *second;
                if is_same(call.response.id.as_deref(), &second) {
                    self.merged += 1;
                    // A proxy of a mesh names the server that it was named itself.
                    let upstream = second.server.filter(|server| call.server.as_ref() != Some(server));
                    return vec![Told { id, call, upstream }];
                }
                vec![Told::alone(second_id, second), Told::alone(id, call)]
            }
            Kind::First(Second::UnderWay) => {
                let kind = Kind::First(Second::Late(now, call.response.id.clone()));
                self.put(id, Open { kind, ..open });
                vec![Told::alone(id, call)]
            }
            Kind::First(Second::Late(..)) => Vec::new(), // it was told
        }
    }

    fn second(&mut self, first: ExchangeId, id: ExchangeId, call: Call, now: u64) -> Vec<Told> {
        match self.open.get_mut(&first).map(|open| &mut open.kind) {
            Some(Kind::First(Second::Late(_, response))) => {
                let is_same = is_same(response.as_deref(), &call);
                self.take(first);
                if is_same {
                    self.merged += 1;
                    return Vec::new();
                }
            }
            Some(kind @ Kind::First(Second::UnderWay)) if self.held < MOST_HELD => {
                *kind = Kind::First(Second::Held(now, Box::new((id, call))));
                self.held += 1;
                return Vec::new();
            }
            Some(kind) => *kind = Kind::Alone,
            None => {}
        }
        vec![Told::alone(id, call)]
    }

    /// Nothing will become of an exchange. Gives what waited for it.
    pub fn gone(&mut self, id: ExchangeId) -> Option<Told> {
        match self.take(id)?.kind {
            Kind::First(Second::Held(_, second)) => {
                self.held -= 1;
                let (id, call) = *second;
                Some(Told::alone(id, call))
            }
            Kind::SecondOf(first) => {
                if let Some(open) = self.open.get_mut(&first) {
                    open.kind = Kind::Alone;
                }
                None
            }
            Kind::Alone | Kind::First(Second::UnderWay | Second::Late(..)) => None,
        }
    }

    /// A connection ended, and nothing will become of what is under way on it. Of those whose call was told, the other is
    /// still waited for.
    pub fn closed(&mut self, process: ProcessId, connection: u64) -> Vec<Told> {
        let of = |exchange| ExchangeId { process, connection, exchange };
        let all = self.open.range(of(0)..=of(u64::MAX));
        let under_way = all.filter(|(_, open)| !matches!(open.kind, Kind::First(Second::Late(..))));
        let gone: Vec<_> = under_way.map(|(id, _)| *id).collect();
        gone.into_iter().filter_map(|id| self.gone(id)).collect()
    }

    /// Gives what has waited long enough. `now`: CLOCK_MONOTONIC, ns.
    pub fn expired(&mut self, now: u64) -> Vec<Told> {
        let is_old = |since: u64| now.saturating_sub(since) >= PATIENCE;
        let mut told = Vec::new();
        let mut late = Vec::new();
        for (id, open) in &mut self.open {
            match &open.kind {
                Kind::First(Second::Late(since, _)) if is_old(*since) => late.push(*id),
                Kind::First(Second::Held(since, _)) if is_old(*since) => {
                    if let Kind::First(Second::Held(_, second)) =
                        std::mem::replace(&mut open.kind, Kind::Alone)
                    {
                        let (id, call) = *second;
                        told.push(Told::alone(id, call));
                    }
                }
                _ => {}
            }
        }
        self.held -= told.len();
        for id in late {
            self.take(id);
        }
        told
    }

    /// Gives all that waits: nothing more will come.
    pub fn finish(&mut self) -> Vec<Told> {
        self.expired(u64::MAX)
    }

    /// Whether anything waits that [`Twins::expired`] will give.
    pub fn is_waiting(&self) -> bool {
        self.held > 0
    }

    /// How many calls were told as parts of others, since the last time.
    pub fn take_merged(&mut self) -> u64 {
        std::mem::take(&mut self.merged)
    }

    fn put(&mut self, id: ExchangeId, open: Open) {
        self.by_request.entry(open.request).or_default().push(id);
        self.open.insert(id, open);
    }

    fn take(&mut self, id: ExchangeId) -> Option<Open> {
        let open = self.open.remove(&id)?;
        if let Some(alike) = self.by_request.get_mut(&open.request) {
            alike.retain(|other| *other != id);
            if alike.is_empty() {
                self.by_request.remove(&open.request);
            }
        }
        Some(open)
    }
}

/// Whether the server gave both the same id; without one nothing is certain.
fn is_same(id: Option<&str>, second: &Call) -> bool {
    id.is_some() && second.response.id.as_deref() == id
}
