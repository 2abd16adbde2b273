//! JSON values one after the other: lines (NDJSON), or the elements of one array, each handed on when it is whole.

use memchr::memchr2;

/// A push parser that cuts a text into its outermost objects. It holds at most one.
#[derive(Debug)]
pub struct Splitter {
    limit: usize,
    held: Vec<u8>,
    depth: u32,
    quoted: bool,
    escaped: bool,
    oversized: bool,
}

impl Default for Splitter {
    fn default() -> Self {
        Splitter::new(crate::sse::DEFAULT_LIMIT)
    }
}

impl Splitter {
    /// A splitter that gives up a value (not the text) larger than `limit` bytes.
    pub fn new(limit: usize) -> Splitter {
        Splitter { limit, held: Vec::new(), depth: 0, quoted: false, escaped: false, oversized: false }
    }

    /// Takes the next bytes and hands on every object that they complete; `None` for one over the limit.
    pub fn push(&mut self, data: &[u8], emit: &mut impl FnMut(Option<&[u8]>)) {
        let mut start = 0;
        let mut at = 0;
        while at < data.len() {
            if self.quoted && !self.escaped {
                match memchr2(b'"', b'\\', &data[at..]) {
                    Some(skip) => at += skip,
                    None => break,
                }
            }
            let byte = data[at];
            at += 1;
            if self.quoted {
                self.quoted = self.escaped || byte != b'"';
                self.escaped = !self.escaped && byte == b'\\';
                continue;
            }
            match byte {
                b'{' => {
                    if self.depth == 0 {
                        start = at - 1;
                    }
                    self.depth = self.depth.saturating_add(1);
                }
                b'"' if self.depth > 0 => self.quoted = true,
                b'}' if self.depth == 1 => {
                    self.depth = 0;
                    self.value(&data[start..at], emit);
                    start = at;
                }
                b'}' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
        if self.depth > 0 {
            self.hold(&data[start..]);
        }
    }

    /// Bytes that are held.
    pub fn memory(&self) -> usize {
        self.held.capacity()
    }

    fn value(&mut self, rest: &[u8], emit: &mut impl FnMut(Option<&[u8]>)) {
        if self.held.is_empty() && !self.oversized {
            emit((rest.len() <= self.limit).then_some(rest));
            return;
        }
        self.hold(rest);
        emit((!self.oversized).then_some(&self.held));
        self.held = Vec::new();
        self.oversized = false;
    }

    fn hold(&mut self, part: &[u8]) {
        self.oversized |= self.held.len() + part.len() > self.limit;
        if self.oversized {
            self.held = Vec::new();
        } else {
            self.held.extend_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8], size: usize, limit: usize) -> Vec<Option<String>> {
        let (mut splitter, mut seen) = (Splitter::new(limit), Vec::new());
        for piece in bytes.chunks(size) {
            splitter.push(piece, &mut |value| {
                seen.push(value.map(|value| String::from_utf8_lossy(value).into_owned()));
            });
        }
        seen
    }

    #[test]
    fn lines_and_elements_are_cut_the_same() {
        let values = [r#"{"a":"}{\"\\"}"#, r#"{"b":[{"c":1},2]}"#];
        let lines = values.join("\n");
        let array = format!("[{}\n,\r\n{}]", values[0], values[1]);
        for text in [lines, array] {
            for size in 1..text.len() {
                let wanted: Vec<_> = values.iter().map(|value| Some((*value).to_owned())).collect();
                assert_eq!(read(text.as_bytes(), size, 100), wanted);
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_cut_the_same_in_pieces(text in "[]{}\"\\\\a,\n]{0,200}", size in 1_usize..40, limit in 1_usize..60) {
            prop_assert_eq!(read(text.as_bytes(), size, limit), read(text.as_bytes(), 1000, limit));
        }
    }
}
