//! AWS event streams (`application/vnd.amazon.eventstream`), decoded as the last byte of each message arrives.
//!
//! A message: total length, length of the headers, CRC of both, headers, payload, CRC of all before (4 bytes each,
//! big endian; CRC-32 of IEEE). A message that fails its CRC ends the stream: its lengths cannot be trusted.

use std::borrow::Cow;

/// A message with intact checksums.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    /// The payload; empty where `oversized`.
    pub payload: &'a [u8],
    /// `:message-type`: `event`, `exception` or `error`.
    pub kind: Option<&'a str>,
    /// `:event-type`, `:exception-type` or `:error-code`: what it is, by the kind.
    pub name: Option<&'a str>,
    /// It was larger than the limit; nothing of it is kept.
    pub oversized: bool,
}

/// A push parser of one stream. It holds at most one message.
#[derive(Debug)]
pub struct Parser {
    limit: usize,
    held: Vec<u8>,
    /// Bytes of an oversized message that have not come.
    skip: usize,
    broken: bool,
}

/// AWS allows 16 MiB of payload, and 128 KiB of headers.
pub const DEFAULT_LIMIT: usize = (16 << 20) + (128 << 10) + OVERHEAD;

/// Both lengths and both checksums.
const OVERHEAD: usize = 16;
const PRELUDE: usize = 12;

impl Default for Parser {
    fn default() -> Self {
        Parser::new(DEFAULT_LIMIT)
    }
}

impl Parser {
    /// A parser that gives up a message (not the stream) larger than `limit` bytes.
    pub fn new(limit: usize) -> Parser {
        Parser { limit, held: Vec::new(), skip: 0, broken: false }
    }

    /// Takes the next bytes of the stream and hands on every message that they complete.
    pub fn push(&mut self, mut data: &[u8], emit: &mut impl FnMut(Message<'_>)) {
        while !data.is_empty() && !self.broken {
            if self.skip > 0 {
                let length = self.skip.min(data.len());
                self.skip -= length;
                data = &data[length..];
                continue;
            }
            // Whole messages in this piece need no copy.
            let mut held = std::mem::take(&mut self.held);
            let bytes = if held.is_empty() {
                Cow::Borrowed(data)
            } else {
                let wanted = match total(&held) {
                    Some(total) => total - held.len(),
                    None => PRELUDE - held.len(),
                };
                let (part, rest) = data.split_at(wanted.min(data.len()));
                held.extend_from_slice(part);
                data = rest;
                Cow::Owned(held)
            };
            let Some(total) = total(&bytes) else {
                if matches!(bytes, Cow::Borrowed(_)) {
                    data = &[];
                }
                self.held = bytes.into_owned();
                continue;
            };
            let prelude_is_sound = checksum(&bytes[..8]) == word(&bytes[8..]) && total >= OVERHEAD;
            if !prelude_is_sound {
                self.broken = true;
            } else if total > self.limit {
                emit(Message { payload: &[], kind: None, name: None, oversized: true });
                self.skip = total - bytes.len().min(total);
                if let Cow::Borrowed(all) = bytes {
                    data = &all[all.len().min(total)..];
                }
            } else if bytes.len() < total {
                if matches!(bytes, Cow::Borrowed(_)) {
                    data = &[];
                }
                self.held = bytes.into_owned();
            } else {
                self.message(&bytes[..total], emit);
                if let Cow::Borrowed(all) = bytes {
                    data = &all[total..];
                }
            }
        }
    }

    /// A checksum was wrong: nothing more is read.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Bytes that are held.
    pub fn memory(&self) -> usize {
        self.held.capacity()
    }

    fn message(&mut self, message: &[u8], emit: &mut impl FnMut(Message<'_>)) {
        let (body, sum) = message.split_at(message.len() - 4);
        let headers = word(&body[4..]) as usize;
        let rest = &body[PRELUDE..];
        if checksum(body) != word(sum) || headers > rest.len() {
            self.broken = true;
            return;
        }
        let (headers, payload) = rest.split_at(headers);
        let mut message = Message { payload, kind: None, name: None, oversized: false };
        each_header(headers, |name, value| match name {
            b":message-type" => message.kind = Some(value),
            b":event-type" | b":exception-type" | b":error-code" => message.name = Some(value),
            _ => {}
        });
        emit(message);
    }
}

/// The length of the message that begins here, once its prelude is there.
fn total(bytes: &[u8]) -> Option<usize> {
    (bytes.len() >= PRELUDE).then(|| word(bytes) as usize)
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes);
    hasher.finalize()
}

/// The headers that are text; an odd one ends the list.
fn each_header<'a>(mut headers: &'a [u8], mut take: impl FnMut(&'a [u8], &'a str)) -> Option<()> {
    while !headers.is_empty() {
        let name = cut(&mut headers, 1)?;
        let name = cut(&mut headers, name[0].into())?;
        let length = match cut(&mut headers, 1)?[0] {
            // True, false, byte, short, integer, long, bytes, text, time, UUID.
            0 | 1 => 0,
            2 => 1,
            3 => 2,
            4 => 4,
            5 | 8 => 8,
            6 => usize::from(u16::from_be_bytes(*cut(&mut headers, 2)?.first_chunk()?)),
            7 => {
                let length = u16::from_be_bytes(*cut(&mut headers, 2)?.first_chunk()?);
                if let Ok(text) = std::str::from_utf8(cut(&mut headers, length.into())?) {
                    take(name, text);
                }
                continue;
            }
            9 => 16,
            _ => return None,
        };
        cut(&mut headers, length)?;
    }
    Some(())
}

fn cut<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (part, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in headers {
            block.push(name.len() as u8);
            block.extend(name.as_bytes());
            block.push(7);
            block.extend((value.len() as u16).to_be_bytes());
            block.extend(value.as_bytes());
        }
        let mut message = ((OVERHEAD + block.len() + payload.len()) as u32).to_be_bytes().to_vec();
        message.extend((block.len() as u32).to_be_bytes());
        message.extend(checksum(&message).to_be_bytes());
        message.extend(block);
        message.extend(payload);
        message.extend(checksum(&message).to_be_bytes());
        message
    }

    fn read(parser: &mut Parser, bytes: &[u8], size: usize) -> Vec<String> {
        let mut seen = Vec::new();
        for piece in bytes.chunks(size) {
            parser.push(piece, &mut |message| {
                seen.push(format!(
                    "{:?} {:?} {} {}",
                    message.kind,
                    message.name,
                    message.payload.len(),
                    message.oversized
                ));
            });
        }
        seen
    }

    #[test]
    fn a_wrong_checksum_ends_the_stream() {
        let mut bytes = message(&[(":message-type", "event"), (":event-type", "chunk")], b"{}");
        let good = bytes.clone();
        *bytes.last_mut().unwrap() ^= 1;
        let mut parser = Parser::default();
        let all = [&good[..], &bytes, &good].concat();
        assert_eq!(read(&mut parser, &all, 5), [r#"Some("event") Some("chunk") 2 false"#]);
        assert!(parser.is_broken());
    }

    proptest! {
        #[test]
        fn messages_do_not_depend_on_how_they_are_cut(
            sizes in prop::collection::vec(0_usize..300, 1..8), cut in 1_usize..400
        ) {
            let bytes: Vec<u8> = sizes.iter().flat_map(|size| message(&[(":event-type", "e")], &vec![b'x'; *size])).collect();
            let whole = read(&mut Parser::new(200), &bytes, bytes.len());
            let mut parser = Parser::new(200);
            prop_assert_eq!(read(&mut parser, &bytes, cut), whole.clone());
            prop_assert_eq!(whole.len(), sizes.len());
            prop_assert!(parser.memory() <= 512);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 1_usize..50) {
            read(&mut Parser::new(100), &bytes, cut);
        }
    }
}
