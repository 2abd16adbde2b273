//! Ids as the providers shape them, and text of any length: random to look at, the same for the same seed.

/// A stream of letters and digits that a seed and a request's number decide.
pub struct Ids {
    state: u64,
}

impl Ids {
    /// The stream of request number `sequence` of a server started with `seed`.
    pub fn new(seed: u64, sequence: u64) -> Self {
        Self {
            state: seed.wrapping_mul(0xA076_1D64_78BD_642F) ^ sequence.wrapping_mul(0xE703_7ED1_A0B4_28DB),
        }
    }

    /// `prefix` and `length` letters and digits.
    pub fn id(&mut self, prefix: &str, length: usize) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        self.spell(prefix, length, LETTERS)
    }

    /// `prefix` and `length` hexadecimal digits.
    pub fn hex(&mut self, prefix: &str, length: usize) -> String {
        self.spell(prefix, length, b"0123456789abcdef")
    }

    /// Text of exactly `bytes` bytes in UTF-8, in words, some of them with characters of two to four bytes.
    pub fn text(&mut self, bytes: usize) -> String {
        const WORDS: &[&str] = &[
            "the",
            "model",
            "answers",
            "slowly",
            "and",
            "naïve",
            "streams",
            "carry",
            "every",
            "byte",
            "of",
            "it",
            "zażółć",
            "日本語",
            "then",
            "tools",
            "run",
            "🦀",
            "until",
            "\"quoted\"",
            "back\\slash",
            "nothing",
            "is",
            "left",
        ];
        let mut text = String::with_capacity(bytes);
        while text.len() < bytes {
            let word = WORDS[(self.number() % WORDS.len() as u64) as usize];
            if text.len() + word.len() < bytes {
                text.push_str(word);
                text.push(if self.number().is_multiple_of(17) { '\n' } else { ' ' });
            } else {
                text.push('.');
            }
        }
        text
    }

    /// 64 bits by SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn spell(&mut self, prefix: &str, length: usize, letters: &[u8]) -> String {
        let mut id = String::with_capacity(prefix.len() + length);
        id.push_str(prefix);
        id.extend((0..length).map(|_| char::from(letters[(self.number() % letters.len() as u64) as usize])));
        id
    }
}

#[cfg(test)]
mod tests {
    use super::Ids;

    #[test]
    fn text_has_exactly_the_bytes_asked_for() {
        for bytes in [0, 1, 2, 7, 100, 4099] {
            assert_eq!(Ids::new(1, 2).text(bytes).len(), bytes);
        }
    }

    #[test]
    fn the_same_seed_and_number_give_the_same_id() {
        assert_eq!(Ids::new(5, 9).id("msg_01", 22), Ids::new(5, 9).id("msg_01", 22));
        assert_ne!(Ids::new(5, 9).id("msg_01", 22), Ids::new(5, 10).id("msg_01", 22));
    }
}
