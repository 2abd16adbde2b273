//! Whether what was attached by the look of its code is what it was taken for: the first plaintext says so.

use super::attachments::{Attachments, take_back};
use super::discover;
use crate::sightings::{Sighting, Sign};
use std::io;
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, Weak};

/// So many signs against its probes, and none for them, and a file's probes are taken back.
const AGAINST: u32 = 4;

/// What is known of a file whose functions no name tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trial {
    /// Nothing but so many signs against it.
    Open {
        /// Signs against it.
        against: u32,
    },
    /// It gave plaintext.
    Confirmed,
}

/// What a sighting has brought about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Nothing,
    Confirmed,
    Refuted,
}

impl Trial {
    pub(super) const NEW: Trial = Trial::Open { against: 0 };

    pub(super) fn sees(&mut self, sighting: &Sighting) -> Outcome {
        let Trial::Open { against } = self else { return Outcome::Nothing };
        match sighting.sign {
            Sign::Plaintext => {
                *self = Trial::Confirmed;
                return Outcome::Confirmed;
            }
            // A connection may have been in the middle of anything when its process was found.
            Sign::Ciphertext if !sighting.from_exec => return Outcome::Nothing,
            Sign::Ciphertext | Sign::Contradiction => *against += 1,
        }
        if *against < AGAINST { Outcome::Nothing } else { Outcome::Refuted }
    }
}

/// Looks at what is told, until nobody can tell any more.
///
/// # Errors
/// When no thread can be started.
pub(super) fn start(told: Receiver<Sighting>, attachments: Weak<Mutex<Attachments>>) -> io::Result<()> {
    let look = move || {
        for sighting in told {
            let Some(attachments) = attachments.upgrade() else { return };
            if !attachments.lock().expect("no holder panics").has_trials() {
                continue;
            }
            let mapped = discover::mapped_files(sighting.process.tgid);
            let refuted = attachments.lock().expect("no holder panics").sees(&sighting, &mapped);
            take_back(refuted);
        }
    };
    std::thread::Builder::new().name("confirm".to_owned()).spawn(look)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::events::ProcessId;

    fn sighting(sign: Sign, from_exec: bool) -> Sighting {
        Sighting { process: ProcessId { tgid: 7, started: 1 }, from_exec, sign }
    }

    #[test]
    fn plaintext_confirms_for_good() {
        let mut trial = Trial::NEW;
        assert_eq!(trial.sees(&sighting(Sign::Contradiction, true)), Outcome::Nothing);
        assert_eq!(trial.sees(&sighting(Sign::Plaintext, false)), Outcome::Confirmed);
        for _ in 0..10 {
            assert_eq!(trial.sees(&sighting(Sign::Contradiction, true)), Outcome::Nothing);
        }
    }

    #[test]
    fn four_signs_refute_but_not_what_a_connection_was_in_the_middle_of() {
        let mut trial = Trial::NEW;
        for _ in 0..10 {
            assert_eq!(trial.sees(&sighting(Sign::Ciphertext, false)), Outcome::Nothing);
        }
        let outcomes: Vec<_> = (0..4).map(|_| trial.sees(&sighting(Sign::Ciphertext, true))).collect();
        assert_eq!(outcomes, [Outcome::Nothing, Outcome::Nothing, Outcome::Nothing, Outcome::Refuted]);
    }
}
