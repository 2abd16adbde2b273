//! What a collector, or a disk, made of a request.

use super::retry::Again;
use super::stats::Cause;

/// Taken, all or in part.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Accepted {
    /// How many of the request's items the collector rejected; never sent again.
    pub(super) rejected: u64,
    /// Why; alone it is a warning.
    pub(super) message: String,
}

/// Not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    /// What happened.
    pub(super) text: String,
    /// What the user can do about it.
    pub(super) advice: &'static str,
    pub(super) again: Again,
    /// Why it counts as given up, where it is not sent again.
    pub(super) cause: Cause,
}

/// An error with all its sources, which often say more.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = error.source();
    }
    text
}

/// A collector's words, fit for one line of a log.
pub(super) fn words(text: &str) -> String {
    const LONGEST: usize = 200; // characters: enough for a sentence, too little to quote a prompt
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut words: String = text.chars().take(LONGEST).map(clean).collect();
    if text.chars().nth(LONGEST).is_some() {
        words.push('…');
    }
    words
}
