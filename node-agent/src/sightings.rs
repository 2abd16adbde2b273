//! What decoding tells capture of its probes: whether what they take is plaintext.
//!
//! Besides the events this is the only place where the two meet, and the other way round: so it holds nothing but a process
//! and one of three words.

use crate::capture::events::ProcessId;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// What was seen of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// Which one.
    pub process: ProcessId,
    /// It was seen from its program's first instruction on, and so were its connections.
    pub from_exec: bool,
    /// What it was.
    pub sign: Sign,
}

/// What speaks for or against a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sign {
    /// A connection carries a protocol that is known.
    Plaintext,
    /// What was written first on a connection is encrypted.
    Ciphertext,
    /// A call told more bytes than it was given, or had memory that is not there.
    Contradiction,
}

/// Sightings that wait to be looked at; further ones are let go: more will come.
const WAITING: usize = 256;

/// Signs against a process' probes that are told; four decide.
const MOST_AGAINST: u8 = 8;

/// How sightings are told. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Witness(SyncSender<Sighting>);

impl Witness {
    /// A witness, and what it tells.
    pub fn new() -> (Witness, Receiver<Sighting>) {
        let (tell, told) = sync_channel(WAITING);
        (Witness(tell), told)
    }

    /// Tells, unless too much waits or nobody listens.
    fn tell(&self, sighting: Sighting) {
        let _ = self.0.try_send(sighting);
    }
}

/// What was told of a process already: one word for its probes says all, and a few against them.
#[derive(Clone, Copy, Default, Debug)]
pub struct Told {
    plaintext: bool,
    against: u8,
}

impl Told {
    /// Tells what is news.
    pub fn tell(&mut self, witness: &Witness, sighting: Sighting) {
        if self.plaintext || self.against >= MOST_AGAINST {
            return;
        }
        match sighting.sign {
            Sign::Plaintext => self.plaintext = true,
            Sign::Ciphertext | Sign::Contradiction => self.against += 1,
        }
        witness.tell(sighting);
    }
}

/// Bytes from which on their mixture tells: of 64 random ones, more than half are text with a chance of one in a hundred.
const ENOUGH: usize = 64;

/// Whether what was written first on a connection is encrypted: it begins a TLS record (RFC 8446, section 5.1), or is as mixed
/// as random bytes. Text is not, nor are the binary protocols that go over TLS: they have names, and many zeros.
pub fn is_encrypted(bytes: &[u8]) -> bool {
    const CONTENT_TYPES: std::ops::RangeInclusive<u8> = 20..=24;
    const LONGEST: u16 = (1 << 14) + 256;
    if let [kind, 3, 0..=4, high, low, ..] = bytes
        && CONTENT_TYPES.contains(kind)
        && (1..=LONGEST).contains(&u16::from_be_bytes([*high, *low]))
    {
        return true;
    }
    let looked_at = &bytes[..bytes.len().min(4 * ENOUGH)];
    let plain = |byte: &&u8| matches!(byte, 0 | b'\t' | b'\r' | b'\n' | b' '..=b'~');
    looked_at.len() >= ENOUGH && looked_at.iter().filter(plain).count() * 2 < looked_at.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROCESS: ProcessId = ProcessId { tgid: 7, started: 1 };

    #[test]
    fn records_of_tls_and_random_bytes_are_encrypted() {
        assert!(is_encrypted(&[0x17, 3, 3, 0, 5, 1, 2, 3, 4, 5]));
        let random: Vec<u8> = (0..64u64)
            .map(|n| n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[3])
            .collect();
        assert!(is_encrypted(&random));
        assert!(!is_encrypted(&random[..63]), "too few to tell");
    }

    #[test]
    fn what_is_not_http_is_not_encrypted_for_that() {
        let postgres =
            [&[0, 0, 0, 84, 0, 3, 0, 0][..], b"user\0agent\0database\0memory\0client_encoding\0UTF8\0"]
                .concat();
        let redis = b"*2\r\n$4\r\nAUTH\r\n$40\r\n0123456789012345678901234567890123456789\r\n".repeat(2);
        let mut mongo = vec![0; 80];
        mongo[..16].copy_from_slice(&[80, 0, 0, 0, 0xd7, 0x8e, 0x91, 0x12, 0, 0, 0, 0, 0xdd, 7, 0, 0]);
        mongo[30..60].copy_from_slice(b"saslStart\0mechanism\0SCRAM-SHA-");
        for bytes in [&postgres[..], &redis, &mongo, b"", b"GET / HTTP/1.1\r\n"] {
            assert!(!is_encrypted(bytes), "{bytes:?}");
        }
    }

    #[test]
    fn a_process_is_told_of_until_all_is_said() {
        let (witness, told) = Witness::new();
        let mut known = Told::default();
        let sighting = |sign| Sighting { process: PROCESS, from_exec: true, sign };
        for _ in 0..20 {
            known.tell(&witness, sighting(Sign::Ciphertext));
        }
        assert_eq!(told.try_iter().count(), usize::from(MOST_AGAINST));
        let mut known = Told::default();
        known.tell(&witness, sighting(Sign::Plaintext));
        known.tell(&witness, sighting(Sign::Contradiction));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [sighting(Sign::Plaintext)]);
    }
}
