//! Header blocks of HTTP/2, decoded (RFC 7541).
//!
//! One decoder belongs to one direction of one connection. It may start in the middle: entries of the dynamic table
//! that were added before it looked are unknown, and so is what refers to them. Entries are counted from the newest,
//! so what was added since is found at its right place. For the same reason an entry that is kept longer than the
//! encoder keeps it does no harm, and the table is bounded by this side alone.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;

use thiserror::Error;

/// Decodes the header blocks of one direction.
pub struct Decoder {
    /// The newest first.
    table: VecDeque<Entry>,
    /// Of all entries, by the measure of RFC 7541, 4.1.
    size: usize,
}

/// A field of a header block. What refers to an entry that was added before the decoder looked is `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field<'a> {
    /// Its name, as sent: lower case.
    pub name: Option<&'a [u8]>,
    /// Its value; empty for fields whose value must never be kept.
    pub value: Option<&'a [u8]>,
}

/// A header block that RFC 7541 does not allow: what the dynamic table holds is unknown from here on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("a header block is not valid HPACK")]
pub struct Malformed;

struct Entry {
    name: Option<Box<[u8]>>,
    value: Box<[u8]>,
    size: usize,
}

/// 64 KiB: what Chrome and nghttp2's tools announce; the protocol's default is 4 KiB.
const MOST_TABLE: usize = 64 << 10;
/// RFC 7541, 4.1.
const ENTRY_COST: usize = 32;

impl Decoder {
    /// A decoder whose table is empty, or unknown where the connection is joined in its middle: to both the same.
    pub fn new() -> Decoder {
        Decoder { table: VecDeque::new(), size: 0 }
    }

    /// Decodes a whole header block; its fields go to `out` in order.
    ///
    /// # Errors
    /// The block is not valid HPACK; the decoder has forgotten its table. Fields before the fault were handed on.
    pub fn decode(&mut self, block: &[u8], out: &mut impl FnMut(Field<'_>)) -> Result<(), Malformed> {
        let decoded = self.decode_block(block, out);
        if decoded.is_err() {
            self.lose();
        }
        decoded
    }

    /// A header block of this direction was not seen: no entry stands where it stood.
    pub fn lose(&mut self) {
        self.table = VecDeque::new();
        self.size = 0;
    }

    /// Bytes that are held, about.
    pub fn memory(&self) -> usize {
        self.size + self.table.capacity() * size_of::<Entry>()
    }

    fn decode_block(&mut self, block: &[u8], out: &mut impl FnMut(Field<'_>)) -> Result<(), Malformed> {
        let mut rest = block;
        while let Some(&first) = rest.first() {
            if first & 0x80 != 0 {
                // Indexed (6.1).
                out(self.at(integer(&mut rest, 7)?)?);
            } else if first & 0xC0 == 0x40 {
                // Literal that is added (6.2.1).
                let index = integer(&mut rest, 6)?;
                let name = match index {
                    0 => Some(string(&mut rest)?),
                    index => self.at(index)?.name.map(|name| Cow::Owned(name.to_vec())),
                };
                let value = string(&mut rest)?;
                out(Field { name: name.as_deref(), value: Some(&value) });
                self.add(name, value);
            } else if first & 0xE0 == 0x20 {
                // The encoder's own limit (6.3): see the top of this file why it does not matter here.
                integer(&mut rest, 5)?;
            } else {
                // Literal that is not added (6.2.2), or never by anyone (6.2.3).
                let index = integer(&mut rest, 4)?;
                let name = match index {
                    0 => Some(string(&mut rest)?),
                    index => self.at(index)?.name.map(|name| Cow::Owned(name.to_vec())),
                };
                let value = string(&mut rest)?;
                out(Field { name: name.as_deref(), value: Some(&value) });
            }
        }
        Ok(())
    }

    /// Name and value at an index.
    fn at(&self, index: usize) -> Result<Field<'_>, Malformed> {
        let index = index.checked_sub(1).ok_or(Malformed)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok(Field { name: Some(name.as_bytes()), value: Some(value.as_bytes()) });
        }
        Ok(match self.table.get(index - STATIC.len()) {
            Some(entry) => Field { name: entry.name.as_deref(), value: Some(&entry.value) },
            None => Field { name: None, value: None },
        })
    }

    fn add(&mut self, name: Option<Cow<'_, [u8]>>, value: Cow<'_, [u8]>) {
        // The value of a credential is of no use to anyone here, and must not lie about.
        let secret = name.as_deref().is_none_or(crate::http::is_never_kept);
        let value = if secret { Box::default() } else { value.into_owned().into_boxed_slice() };
        let name = name.map(|name| name.into_owned().into_boxed_slice());
        let size = ENTRY_COST + name.as_ref().map_or(0, |name| name.len()) + value.len();
        self.table.push_front(Entry { name, value, size });
        self.size += size;
        while self.size > MOST_TABLE {
            let Some(oldest) = self.table.pop_back() else { break };
            self.size -= oldest.size;
        }
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder::new()
    }
}

impl fmt::Debug for Decoder {
    /// Without what the fields hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("entries", &self.table.len()).field("size", &self.size).finish()
    }
}

/// An integer whose first byte has a prefix of `bits` (5.1).
fn integer(data: &mut &[u8], bits: u32) -> Result<usize, Malformed> {
    let mask = (1_usize << bits) - 1;
    let (&first, mut rest) = data.split_first().ok_or(Malformed)?;
    let mut value = usize::from(first) & mask;
    if value == mask {
        // Four bytes more reach 2^28: more than any table or string here.
        for shift in [0, 7, 14, 21] {
            let (&byte, after) = rest.split_first().ok_or(Malformed)?;
            rest = after;
            value += usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                *data = rest;
                return Ok(value);
            }
        }
        return Err(Malformed);
    }
    *data = rest;
    Ok(value)
}

/// A string literal (5.2).
fn string<'a>(data: &mut &'a [u8]) -> Result<Cow<'a, [u8]>, Malformed> {
    let huffman = data.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(data, 7)?;
    let (text, rest) = data.split_at_checked(length).ok_or(Malformed)?;
    *data = rest;
    if huffman { Ok(Cow::Owned(unhuffman(text)?)) } else { Ok(Cow::Borrowed(text)) }
}

/// A text in the Huffman code of Appendix B. The shortest code has 5 bits, so it grows to 8/5 at most.
fn unhuffman(text: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut plain = Vec::with_capacity(text.len() * 8 / 5);
    let (mut code, mut length) = (0_u32, 0_usize);
    for byte in text {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            length += 1;
            let level = &CODE.levels[length];
            if let Some(symbol) = code.checked_sub(level.first).filter(|n| *n < level.count) {
                match CODE.symbols[(level.offset + symbol) as usize] {
                    END => return Err(Malformed),
                    symbol => plain.push(symbol as u8),
                }
                (code, length) = (0, 0);
            } else if length == LONGEST {
                return Err(Malformed);
            }
        }
    }
    // The last byte is filled up with ones, at most seven.
    if length > 7 || code != (1 << length) - 1 { Err(Malformed) } else { Ok(plain) }
}

/// The code is canonical: codes of one length follow each other in the order of their symbols.
struct Code {
    levels: [Level; LONGEST + 1],
    /// By length, then by value.
    symbols: [u16; LENGTHS.len()],
}

#[derive(Clone, Copy)]
struct Level {
    /// The first code of this length.
    first: u32,
    /// How many there are.
    count: u32,
    /// Where their symbols begin.
    offset: u32,
}

const LONGEST: usize = 30;
/// The symbol that ends a text, and may not occur in one.
const END: u16 = 256;

static CODE: Code = code();

const fn code() -> Code {
    let mut levels = [Level { first: 0, count: 0, offset: 0 }; LONGEST + 1];
    let mut symbols = [0; LENGTHS.len()];
    let (mut first, mut offset, mut length) = (0, 0, 1);
    while length <= LONGEST {
        let (mut symbol, mut count) = (0, 0);
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                symbols[offset + count] = symbol as u16;
                count += 1;
            }
            symbol += 1;
        }
        levels[length] = Level { first, count: count as u32, offset: offset as u32 };
        first = (first + count as u32) << 1;
        offset += count;
        length += 1;
    }
    Code { levels, symbols }
}

/// The length in bits of each symbol's code (Appendix B).
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28,
    28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15,
    6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20,
    20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23,
    24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22,
    22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27,
    24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26,
    26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

/// Appendix A.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""),
    ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""),
    ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""),
    ("last-modified", ""), ("link", ""), ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""),
    ("proxy-authorization", ""), ("range", ""), ("referer", ""), ("refresh", ""), ("retry-after", ""),
    ("server", ""), ("set-cookie", ""), ("strict-transport-security", ""), ("transfer-encoding", ""),
    ("user-agent", ""), ("vary", ""), ("via", ""), ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, Malformed> {
        let mut fields = Vec::new();
        let text =
            |bytes: Option<&[u8]>| bytes.map_or("?".into(), |b| String::from_utf8_lossy(b).into_owned());
        decoder.decode(block, &mut |field| {
            fields.push(format!("{}: {}", text(field.name), text(field.value)));
        })?;
        Ok(fields)
    }

    fn hex(digits: &str) -> Vec<u8> {
        let digits: String = digits.split_whitespace().collect();
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn the_examples_of_the_standard_decode() {
        // RFC 7541, C.4: three requests on one connection, in Huffman code.
        let mut decoder = Decoder::new();
        let first = hex("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff");
        let all = [":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"];
        assert_eq!(decoded(&mut decoder, &first).unwrap(), all);
        let second = hex("8286 84be 5886 a8eb 1064 9cbf");
        assert_eq!(decoded(&mut decoder, &second).unwrap()[3..], [all[3], "cache-control: no-cache"]);
        let third = hex("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf");
        let third = decoded(&mut decoder, &third).unwrap();
        assert_eq!(third[1..], [":scheme: https", ":path: /index.html", all[3], "custom-key: custom-value"]);
    }

    #[test]
    fn what_was_added_before_is_unknown_and_what_is_added_since_is_known() {
        let mut joined = Decoder::new();
        let second = hex("8286 84be 5886 a8eb 1064 9cbf");
        assert_eq!(decoded(&mut joined, &second).unwrap()[3..], ["?: ?", "cache-control: no-cache"]);
        assert_eq!(decoded(&mut joined, &[0xBE, 0xBF]).unwrap(), ["cache-control: no-cache", "?: ?"]);
        joined.lose();
        assert_eq!(decoded(&mut joined, &[0xBE]).unwrap(), ["?: ?"]);
    }

    #[test]
    fn a_credential_is_not_held() {
        let mut decoder = Decoder::new();
        let block = [&[0x57, 6][..], b"secret"].concat();
        assert_eq!(decoded(&mut decoder, &block).unwrap(), ["authorization: secret"]);
        assert_eq!(decoded(&mut decoder, &[0xBE]).unwrap(), ["authorization: "]);
    }

    #[test]
    fn what_the_standard_forbids_is_malformed() {
        for block in
            ["80", "bf ff ff ff ff", "00 85 ff ff ff ff ff", "40 8a 01", "00 81 18", "ff ff ff ff ff ff 01"]
        {
            let known = decoded(&mut Decoder::new(), &hex(block));
            assert!(known.is_err() || known.unwrap().iter().all(|field| field == "?: ?"), "{block}");
        }
    }

    #[test]
    fn the_table_is_bounded() {
        let mut decoder = Decoder::new();
        for n in 0..10_000_u32 {
            let value = format!("{n:0100}");
            let block = [&[0x40, 1, b'a', 100][..], value.as_bytes()].concat();
            decoder.decode(&block, &mut |_| {}).unwrap();
        }
        assert!(decoder.size <= MOST_TABLE && decoder.memory() < 4 * MOST_TABLE);
    }
}
