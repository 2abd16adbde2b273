//! Content codings, decoded as their bytes arrive: gzip, deflate, br, zstd, and lists of them (RFC 9110, 8.4).
//!
//! Whatever can be decoded from the bytes so far is handed on at once, so that an event of a compressed stream
//! is seen when the server flushed it. A decoder holds at most its codings' windows: 32 KiB for gzip and
//! deflate, 16 MiB for br (RFC 7932, 9.1), twice [`ZSTD_WINDOW`] for zstd, and each of the last two stands at
//! most once in a list.

use std::io::{self, Read, Write};

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, SliceWrapper, StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use thiserror::Error;

/// Decodes one message's content.
pub struct Decoder {
    /// In the order of decoding: the last coding applied comes first.
    stages: Vec<Stage>,
    budget: Budget,
    /// Whether there was any content.
    begun: bool,
}

/// A coding that this crate decodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coding {
    /// `gzip` or `x-gzip` (RFC 1952), one member or several.
    Gzip,
    /// `deflate`: zlib (RFC 1950), or raw deflate (RFC 1951) as some servers send.
    Deflate,
    /// `br` (RFC 7932).
    Brotli,
    /// `zstd` (RFC 8878), one frame or several, without a dictionary.
    Zstd,
}

/// Why content cannot be decoded, or not further. Whoever decodes marks the message as lost from there on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum CodingError {
    /// A name that is none of [`Coding`]'s, or a combination that no server sends.
    #[error("the message names a content coding other than gzip, deflate, br and zstd, or too many of them")]
    Unsupported,
    /// The bytes are not what the coding's name says.
    #[error("the content is not valid {0:?} data")]
    Malformed(Coding),
    /// More decoded bytes than allowed.
    #[error("the decoded content exceeds {limit} bytes; raise the limit if such messages are expected")]
    TooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The message ended before its coding did.
    #[error("the content ends inside its {0:?} data")]
    Incomplete(Coding),
}

/// The largest zstd window, in bytes, that an HTTP encoder may use (RFC 9659, 3).
pub const ZSTD_WINDOW: u64 = 8 << 20;

/// Codings on one message; more is an attack or a mistake.
const MOST_CODINGS: usize = 3;

/// Where decoded bytes go.
type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), CodingError>;

impl Decoder {
    /// A decoder for the values of `Content-Encoding`, in their order. `None`: the content is not coded.
    ///
    /// # Errors
    /// [`CodingError::Unsupported`]: pass the content over.
    pub fn new<'a>(
        values: impl IntoIterator<Item = &'a str>,
        limit: u64,
    ) -> Result<Option<Decoder>, CodingError> {
        let mut codings = Vec::new();
        for name in values.into_iter().flat_map(|value| value.split(',')).map(str::trim) {
            let coding = match name {
                "" => continue,
                _ if name.eq_ignore_ascii_case("identity") => continue,
                _ if name.eq_ignore_ascii_case("gzip") => Coding::Gzip,
                _ if name.eq_ignore_ascii_case("x-gzip") => Coding::Gzip,
                _ if name.eq_ignore_ascii_case("deflate") => Coding::Deflate,
                _ if name.eq_ignore_ascii_case("br") => Coding::Brotli,
                _ if name.eq_ignore_ascii_case("zstd") => Coding::Zstd,
                _ => return Err(CodingError::Unsupported),
            };
            let large_window = matches!(coding, Coding::Brotli | Coding::Zstd);
            if codings.len() == MOST_CODINGS || (large_window && codings.contains(&coding)) {
                return Err(CodingError::Unsupported);
            }
            codings.push(coding);
        }
        let stages: Vec<_> = codings.into_iter().rev().map(Stage::new).collect();
        Ok((!stages.is_empty()).then_some(Decoder {
            stages,
            budget: Budget { limit, left: limit },
            begun: false,
        }))
    }

    /// Decodes the next bytes of the content and hands on what comes out.
    ///
    /// # Errors
    /// Nothing more can be decoded; what came out before has been handed on.
    pub fn push(&mut self, data: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), CodingError> {
        self.begun |= !data.is_empty();
        decode(&mut self.stages, &mut self.budget, data, out)
    }

    /// The content has ended. No content at all is no error: servers name a coding and send nothing.
    ///
    /// # Errors
    /// [`CodingError::Incomplete`]: not all of it was there.
    pub fn finish(&self) -> Result<(), CodingError> {
        match self.stages.iter().find(|stage| self.begun && !stage.is_complete()) {
            Some(stage) => Err(CodingError::Incomplete(stage.coding())),
            None => Ok(()),
        }
    }

    /// Bytes that are held, about.
    pub fn memory(&self) -> usize {
        self.stages.iter().map(Stage::memory).sum()
    }
}

/// Decoded bytes that may still come. Every stage's output counts, so that the limit holds between them too.
struct Budget {
    limit: u64,
    left: u64,
}

fn decode(
    stages: &mut [Stage],
    budget: &mut Budget,
    data: &[u8],
    out: &mut dyn FnMut(&[u8]),
) -> Result<(), CodingError> {
    let Some((stage, rest)) = stages.split_first_mut() else {
        out(data);
        return Ok(());
    };
    stage.push(data, &mut |decoded| {
        let left = budget.left.checked_sub(decoded.len() as u64);
        budget.left = left.ok_or(CodingError::TooLarge { limit: budget.limit })?;
        decode(rest, budget, decoded, out)
    })
}

enum Stage {
    Gzip(Gzip),
    Deflate(Deflate),
    Brotli(Box<Brotli>),
    Zstd(Zstd),
}

impl Stage {
    fn new(coding: Coding) -> Self {
        match coding {
            Coding::Gzip => Stage::Gzip(Gzip::new()),
            Coding::Deflate => Stage::Deflate(Deflate::Start(None)),
            Coding::Brotli => Stage::Brotli(Box::new(Brotli::new())),
            Coding::Zstd => Stage::Zstd(Zstd::new()),
        }
    }

    fn coding(&self) -> Coding {
        match self {
            Stage::Gzip(_) => Coding::Gzip,
            Stage::Deflate(_) => Coding::Deflate,
            Stage::Brotli(_) => Coding::Brotli,
            Stage::Zstd(_) => Coding::Zstd,
        }
    }

    fn push(&mut self, data: &[u8], out: Sink<'_>) -> Result<(), CodingError> {
        match self {
            Stage::Gzip(gzip) => gzip.push(data, out),
            Stage::Deflate(deflate) => deflate.push(data, out),
            Stage::Brotli(brotli) => brotli.push(data, out),
            Stage::Zstd(zstd) => zstd.push(data, out),
        }
    }

    fn is_complete(&self) -> bool {
        match self {
            Stage::Gzip(gzip) => gzip.is_complete(),
            Stage::Deflate(deflate) => matches!(deflate, Deflate::End),
            Stage::Brotli(brotli) => brotli.ended,
            Stage::Zstd(zstd) => zstd.is_complete(),
        }
    }

    fn memory(&self) -> usize {
        match self {
            Stage::Gzip(_) | Stage::Deflate(_) => INFLATE_MEMORY,
            Stage::Brotli(brotli) => size_of::<Brotli>() + brotli.state.ringbuffer.len() + OUTPUT,
            Stage::Zstd(zstd) => zstd.memory(),
        }
    }
}

/// Decoded bytes are handed on in pieces of at most this size.
const OUTPUT: usize = 16 << 10;

/// What flate2's Rust back end allocates (32 KiB window, tables), and the output piece.
pub(crate) const INFLATE_MEMORY: usize = (44 << 10) + OUTPUT;

/// Raw deflate or zlib.
pub(crate) struct Inflate {
    state: Decompress,
    output: Box<[u8]>,
}

impl Inflate {
    pub(crate) fn new(zlib: bool) -> Self {
        Inflate { state: Decompress::new(zlib), output: vec![0; OUTPUT].into_boxed_slice() }
    }

    /// The next byte begins another stream, raw and with a window of its own.
    pub(crate) fn restart(&mut self) {
        self.state.reset(false);
    }

    /// Decodes from the front of `data` and removes what was used. `true`: the stream has ended.
    pub(crate) fn push(
        &mut self,
        data: &mut &[u8],
        coding: Coding,
        out: Sink<'_>,
    ) -> Result<bool, CodingError> {
        loop {
            let (read, written) = (self.state.total_in(), self.state.total_out());
            let status = self
                .state
                .decompress(data, &mut self.output, FlushDecompress::None)
                .map_err(|_| CodingError::Malformed(coding))?;
            // Both fit: they are at most the lengths of slices.
            let (read, written) =
                ((self.state.total_in() - read) as usize, (self.state.total_out() - written) as usize);
            *data = &data[read..];
            if written > 0 {
                out(&self.output[..written])?;
            }
            match status {
                Status::StreamEnd => return Ok(true),
                _ if read == 0 && written == 0 => return Ok(false),
                _ => {}
            }
        }
    }
}

enum Deflate {
    /// The first byte, when it is there: two decide between zlib and raw.
    Start(Option<u8>),
    Data(Inflate),
    /// What follows the end is ignored.
    End,
}

impl Deflate {
    fn push(&mut self, mut data: &[u8], out: Sink<'_>) -> Result<(), CodingError> {
        if let Deflate::Start(first) = self {
            let Some(&byte) = data.first() else { return Ok(()) };
            let Some(first) = *first else {
                *first = Some(byte);
                return self.push(&data[1..], out);
            };
            // RFC 1950, 2.2: method 8, a window of at most 32 KiB, and a check that makes the two a multiple of 31.
            let zlib = first & 0x8f == 8 && u16::from_be_bytes([first, byte]).is_multiple_of(31);
            let mut inflate = Inflate::new(zlib);
            inflate.push(&mut [first].as_slice(), Coding::Deflate, out)?;
            *self = Deflate::Data(inflate);
        }
        if let Deflate::Data(inflate) = self
            && inflate.push(&mut data, Coding::Deflate, out)?
        {
            *self = Deflate::End;
        }
        Ok(())
    }
}

struct Gzip {
    at: GzipAt,
    flags: u8,
    inflate: Inflate,
    /// A member has been read whole, so that the next one need not be there.
    member: bool,
}

/// Where in a member (RFC 1952, 2.3).
#[derive(Clone, Copy, PartialEq, Eq)]
enum GzipAt {
    /// In the first ten bytes: how many are read.
    Fixed(u8),
    ExtraLength {
        low: Option<u8>,
    },
    Extra(u16),
    Name,
    Comment,
    /// How many bytes of the header's check are still to come.
    Check(u8),
    Data,
    /// How many bytes of checksum and length are still to come. They are not verified: TLS has done that.
    Trailer(u8),
    /// What follows the last member is ignored, as gzip and browsers do.
    End,
}

impl Gzip {
    fn new() -> Self {
        Gzip { at: GzipAt::Fixed(0), flags: 0, inflate: Inflate::new(false), member: false }
    }

    fn is_complete(&self) -> bool {
        match self.at {
            GzipAt::Fixed(0) => self.member,
            GzipAt::Trailer(_) | GzipAt::End => true,
            _ => false,
        }
    }

    fn push(&mut self, mut data: &[u8], out: Sink<'_>) -> Result<(), CodingError> {
        while !data.is_empty() {
            match self.at {
                GzipAt::Data => {
                    if !self.inflate.push(&mut data, Coding::Gzip, out)? {
                        return Ok(());
                    }
                    self.member = true;
                    self.at = GzipAt::Trailer(8);
                }
                GzipAt::Name | GzipAt::Comment => match memchr::memchr(0, data) {
                    Some(end) => {
                        data = &data[end + 1..];
                        self.at = self.next_part();
                    }
                    None => return Ok(()),
                },
                GzipAt::Extra(left) => {
                    let skipped = data.len().min(left.into());
                    data = &data[skipped..];
                    self.at = match left - skipped as u16 {
                        0 => self.next_part(),
                        left => GzipAt::Extra(left),
                    };
                }
                GzipAt::End => return Ok(()),
                _ => {
                    self.at = self.byte(data[0])?;
                    data = &data[1..];
                }
            }
        }
        Ok(())
    }

    /// Takes one byte of a part whose length is fixed.
    fn byte(&mut self, byte: u8) -> Result<GzipAt, CodingError> {
        const RESERVED: u8 = 0xe0;
        const DEFLATE: u8 = 8;
        Ok(match self.at {
            GzipAt::Fixed(read) => {
                match (read, byte) {
                    (0, 0x1f) | (1, 0x8b) | (2, DEFLATE) | (4..=9, _) => {}
                    (3, flags) if flags & RESERVED == 0 => self.flags = flags,
                    _ if self.member => return Ok(GzipAt::End),
                    _ => return Err(CodingError::Malformed(Coding::Gzip)),
                }
                if read < 9 { GzipAt::Fixed(read + 1) } else { self.next_part() }
            }
            GzipAt::ExtraLength { low: None } => GzipAt::ExtraLength { low: Some(byte) },
            GzipAt::ExtraLength { low: Some(low) } => match u16::from_le_bytes([low, byte]) {
                0 => self.next_part(),
                length => GzipAt::Extra(length),
            },
            GzipAt::Check(2) => GzipAt::Check(1),
            GzipAt::Trailer(left) if left > 1 => GzipAt::Trailer(left - 1),
            GzipAt::Trailer(_) => GzipAt::Fixed(0),
            _ => self.next_part(),
        })
    }

    /// The next part of the member's header that its flags announce, or its data.
    fn next_part(&mut self) -> GzipAt {
        const CHECK: u8 = 1 << 1;
        const EXTRA: u8 = 1 << 2;
        const NAME: u8 = 1 << 3;
        const COMMENT: u8 = 1 << 4;
        for (flag, part) in [
            (EXTRA, GzipAt::ExtraLength { low: None }),
            (NAME, GzipAt::Name),
            (COMMENT, GzipAt::Comment),
            (CHECK, GzipAt::Check(2)),
        ] {
            if self.flags & flag != 0 {
                // Taken, so that the next call goes on after this part.
                self.flags &= !flag;
                return part;
            }
        }
        self.inflate.restart();
        GzipAt::Data
    }
}

struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    output: Box<[u8]>,
    ended: bool,
}

impl Brotli {
    fn new() -> Self {
        // Strict: without the "large window" extension, whose windows reach 1 GiB.
        let state = BrotliState::new_strict(
            StandardAlloc::default(),
            StandardAlloc::default(),
            StandardAlloc::default(),
        );
        Brotli { state, output: vec![0; OUTPUT].into_boxed_slice(), ended: false }
    }

    fn push(&mut self, data: &[u8], out: Sink<'_>) -> Result<(), CodingError> {
        let (mut available_in, mut input_offset) = (data.len(), 0);
        while !self.ended {
            let (mut available_out, mut output_offset, mut total) = (self.output.len(), 0, 0);
            let result = BrotliDecompressStream(
                &mut available_in,
                &mut input_offset,
                data,
                &mut available_out,
                &mut output_offset,
                &mut self.output,
                &mut total,
                &mut self.state,
            );
            if output_offset > 0 {
                out(&self.output[..output_offset])?;
            }
            match result {
                BrotliResult::ResultSuccess => self.ended = true,
                BrotliResult::NeedsMoreInput => return Ok(()),
                BrotliResult::NeedsMoreOutput => {}
                BrotliResult::ResultFailure => return Err(CodingError::Malformed(Coding::Brotli)),
            }
        }
        Ok(())
    }
}

/// zstd on ruzstd's frame decoder, which reads whole blocks and keeps a window's worth of output back until the
/// frame's last block. A server that flushes ends a block, so blocks are fed as they become whole; and every
/// block is presented as the last one, which makes all output readable. It is read without being taken out,
/// because later blocks refer to it.
struct Zstd {
    at: ZstdAt,
    /// The beginning of the part at hand: a frame's header, a block's header, or a block (128 KiB at most).
    held: Vec<u8>,
    frame: Option<Box<Frame>>,
    /// A frame has been read whole.
    complete: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ZstdAt {
    FrameHeader,
    /// In a skippable frame: bytes still to come.
    Skip(u32),
    BlockHeader,
    Block {
        header: u32,
        length: usize,
    },
    /// Bytes of the frame's checksum still to come. It is not verified: TLS has done that.
    Checksum(u8),
}

struct Frame {
    decoder: FrameDecoder,
    window: usize,
    checksum: bool,
    /// Bytes in the decoder that have been handed on.
    handed: usize,
}

const MALFORMED_ZSTD: CodingError = CodingError::Malformed(Coding::Zstd);

/// RFC 8878, 3.1.1.2.4.
const MOST_IN_BLOCK: usize = 128 << 10;

impl Zstd {
    fn new() -> Self {
        Zstd { at: ZstdAt::FrameHeader, held: Vec::new(), frame: None, complete: false }
    }

    fn is_complete(&self) -> bool {
        match self.at {
            ZstdAt::FrameHeader => self.complete && self.held.is_empty(),
            ZstdAt::Checksum(_) => true,
            _ => false,
        }
    }

    fn memory(&self) -> usize {
        self.held.capacity() + self.frame.as_ref().map_or(0, |frame| frame.memory())
    }

    fn push(&mut self, mut data: &[u8], out: Sink<'_>) -> Result<(), CodingError> {
        while !data.is_empty() {
            match self.at {
                ZstdAt::FrameHeader => self.frame_header(&mut data)?,
                ZstdAt::Skip(left) => {
                    let skipped = data.len().min(left as usize);
                    data = &data[skipped..];
                    self.at = match left - skipped as u32 {
                        0 => ZstdAt::FrameHeader,
                        left => ZstdAt::Skip(left),
                    };
                }
                ZstdAt::BlockHeader => {
                    if self.hold(&mut data, 3) {
                        let header = u32::from_le_bytes([self.held[0], self.held[1], self.held[2], 0]);
                        self.held.clear();
                        let size = (header >> 3) as usize;
                        // RFC 8878, 3.1.1.2.2: a run-length block holds one byte; type 3 is reserved.
                        let length = match (header >> 1) & 3 {
                            1 => 1,
                            0 | 2 => size,
                            _ => return Err(MALFORMED_ZSTD),
                        };
                        if size > MOST_IN_BLOCK {
                            return Err(MALFORMED_ZSTD);
                        }
                        if length == 0 {
                            self.block(header, &[], out)?;
                        } else {
                            self.at = ZstdAt::Block { header, length };
                        }
                    }
                }
                ZstdAt::Block { header, length } => {
                    if self.held.is_empty() && data.len() >= length {
                        let (block, rest) = data.split_at(length);
                        data = rest;
                        self.block(header, block, out)?;
                    } else if self.hold(&mut data, length) {
                        let mut held = std::mem::take(&mut self.held);
                        self.block(header, &held, out)?;
                        held.clear();
                        self.held = held;
                    }
                }
                ZstdAt::Checksum(left) => {
                    data = &data[1..];
                    self.at = if left > 1 { ZstdAt::Checksum(left - 1) } else { ZstdAt::FrameHeader };
                }
            }
        }
        Ok(())
    }

    /// Moves bytes from `data` until `length` are held. `true`: they are.
    fn hold(&mut self, data: &mut &[u8], length: usize) -> bool {
        let taken = data.len().min(length.saturating_sub(self.held.len()));
        self.held.extend_from_slice(&data[..taken]);
        *data = &data[taken..];
        self.held.len() >= length
    }

    /// RFC 8878, 3.1.1.1 and 3.1.2.
    fn frame_header(&mut self, data: &mut &[u8]) -> Result<(), CodingError> {
        const MAGIC: u32 = 0xfd2f_b528;
        const SKIPPABLE: u32 = 0x184d_2a50;
        if !self.hold(data, 5) {
            return Ok(());
        }
        let word =
            |held: &[u8], at: usize| u32::from_le_bytes([held[at], held[at + 1], held[at + 2], held[at + 3]]);
        let magic = word(&self.held, 0);
        if magic & !0xf == SKIPPABLE {
            if self.hold(data, 8) {
                let length = word(&self.held, 4);
                self.held.clear();
                self.complete = true;
                self.at = if length > 0 { ZstdAt::Skip(length) } else { ZstdAt::FrameHeader };
            }
            return Ok(());
        }
        let descriptor = self.held[4];
        let reserved = descriptor & 0x08 != 0;
        if magic != MAGIC || reserved {
            return Err(MALFORMED_ZSTD);
        }
        let single_segment = descriptor & 0x20 != 0;
        let dictionary_id = [0, 1, 2, 4][usize::from(descriptor & 3)];
        let content_size = [usize::from(single_segment), 2, 4, 8][usize::from(descriptor >> 6)];
        let length = 5 + usize::from(!single_segment) + dictionary_id + content_size;
        if self.hold(data, length) {
            self.frame = Some(Box::new(Frame::new(&mut self.held)?));
            self.held.clear();
            self.at = ZstdAt::BlockHeader;
        }
        Ok(())
    }

    fn block(&mut self, header: u32, block: &[u8], out: Sink<'_>) -> Result<(), CodingError> {
        let Some(frame) = &mut self.frame else { return Err(MALFORMED_ZSTD) };
        frame.block(header, block, out)?;
        let last = header & 1 != 0;
        self.at = match (last, frame.checksum) {
            (false, _) => ZstdAt::BlockHeader,
            (true, true) => ZstdAt::Checksum(4),
            (true, false) => ZstdAt::FrameHeader,
        };
        if last {
            self.frame = None;
            self.complete = true;
        }
        Ok(())
    }
}

impl Frame {
    fn new(header: &mut [u8]) -> Result<Self, CodingError> {
        const CHECKSUM: u8 = 1 << 2;
        let checksum = header[4] & CHECKSUM != 0;
        // The checksum is read here, so that the decoder does not wait for it.
        header[4] &= !CHECKSUM;
        let window = window(header);
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW);
        decoder.reset(&*header).map_err(|_| MALFORMED_ZSTD)?;
        // `reset` has refused any window above the limit.
        Ok(Frame { decoder, window: window as usize, checksum, handed: 0 })
    }

    fn block(&mut self, header: u32, block: &[u8], out: Sink<'_>) -> Result<(), CodingError> {
        self.decode(header, block)?;
        let mut peek = Peek { skip: self.handed, out, result: Ok(()) };
        self.handed = self.decoder.can_collect();
        // The sink takes nothing, so that all stays in the window; its error says so and no more.
        let _ = self.decoder.collect_to_writer(&mut peek);
        peek.result?;
        if self.handed >= self.window + (self.window / 2).max(2 * MOST_IN_BLOCK) {
            self.trim()?;
        }
        Ok(())
    }

    fn decode(&mut self, header: u32, block: &[u8]) -> Result<(), CodingError> {
        let header = (header | 1).to_le_bytes();
        self.decoder
            .decode_blocks(header[..3].chain(block), BlockDecodingStrategy::UptoBlocks(1))
            .map_err(|_| MALFORMED_ZSTD)?;
        Ok(())
    }

    /// Drops what lies before the window: takes everything out and puts the window back as uncompressed blocks,
    /// which change nothing else in the decoder. Its buffer then starts anew and lies in one piece, as peeking
    /// needs. Done after half a window of output, so that each byte is copied a few times at most.
    fn trim(&mut self) -> Result<(), CodingError> {
        let all = self.decoder.collect().unwrap_or_default();
        let window = &all[all.len() - self.window..];
        for piece in window.chunks(self.window.clamp(1, MOST_IN_BLOCK)) {
            self.decode((piece.len() as u32) << 3, piece)?;
        }
        self.handed = self.window;
        Ok(())
    }

    fn memory(&self) -> usize {
        /// Entropy tables, literals and sequences of a block.
        const TABLES: usize = 512 << 10;
        self.decoder.can_collect().next_power_of_two() + TABLES
    }
}

/// The window's size in bytes, from a whole frame header (RFC 8878, 3.1.1.1.2); the decoder checks it.
fn window(header: &[u8]) -> u64 {
    let descriptor = header[4];
    if descriptor & 0x20 == 0 {
        let (exponent, mantissa) = (header[5] >> 3, u64::from(header[5] & 7));
        let base = 1u64 << (10 + exponent);
        return base + base / 8 * mantissa;
    }
    let mut size = [0; 8];
    let field = &header[5 + [0, 1, 2, 4][usize::from(descriptor & 3)]..];
    size[..field.len()].copy_from_slice(field);
    let bias = if descriptor >> 6 == 1 { 256 } else { 0 };
    u64::from_le_bytes(size).saturating_add(bias)
}

/// Looks at what a decoder would write, without taking it.
struct Peek<'a> {
    /// Bytes at the front that were seen before.
    skip: usize,
    out: Sink<'a>,
    result: Result<(), CodingError>,
}

impl Write for Peek<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if let Some(fresh) = buffer.get(self.skip..).filter(|fresh| !fresh.is_empty()) {
            self.result = (self.out)(fresh);
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use flate2::{Compression, GzBuilder};
    use proptest::prelude::*;

    use super::*;

    const LIMIT: u64 = 64 << 20;

    fn decoder(codings: &str) -> Decoder {
        Decoder::new([codings], LIMIT).expect("supported").expect("coded")
    }

    fn push(decoder: &mut Decoder, data: &[u8]) -> Result<Vec<u8>, CodingError> {
        let mut decoded = Vec::new();
        decoder.push(data, &mut |piece| decoded.extend_from_slice(piece))?;
        Ok(decoded)
    }

    /// Decodes pieces of at most `size` bytes.
    fn decode_in(codings: &str, data: &[u8], size: usize) -> Result<Vec<u8>, CodingError> {
        let mut decoder = decoder(codings);
        let mut decoded = Vec::new();
        for piece in data.chunks(size) {
            decoded.extend(push(&mut decoder, piece)?);
        }
        decoder.finish()?;
        Ok(decoded)
    }

    /// An encoder that can be flushed, and what ends it.
    trait Encoder: Write {
        fn end(self: Box<Self>) -> Vec<u8>;
        fn written(&self) -> usize;
    }

    macro_rules! encoder {
        ($type:ty, $end:expr) => {
            impl Encoder for $type {
                fn end(self: Box<Self>) -> Vec<u8> {
                    #[allow(clippy::redundant_closure_call, reason = "the macro's way to name a method")]
                    $end(*self)
                }
                fn written(&self) -> usize {
                    self.get_ref().len()
                }
            }
        };
    }
    encoder!(GzEncoder<Vec<u8>>, |e: GzEncoder<_>| e.finish().unwrap());
    encoder!(ZlibEncoder<Vec<u8>>, |e: ZlibEncoder<_>| e.finish().unwrap());
    encoder!(DeflateEncoder<Vec<u8>>, |e: DeflateEncoder<_>| e.finish().unwrap());
    encoder!(brotli::CompressorWriter<Vec<u8>>, |e: brotli::CompressorWriter<_>| e.into_inner());
    encoder!(zstd::Encoder<'static, Vec<u8>>, |e: zstd::Encoder<'static, _>| e.finish().unwrap());

    const ENCODINGS: [&str; 6] = ["gzip", "deflate", "raw deflate", "br", "zstd", "zstd with checksum"];

    fn encoder(encoding: &str) -> Box<dyn Encoder> {
        let level = Compression::default();
        match encoding {
            "gzip" => Box::new(GzEncoder::new(Vec::new(), level)),
            "deflate" => Box::new(ZlibEncoder::new(Vec::new(), level)),
            "raw deflate" => Box::new(DeflateEncoder::new(Vec::new(), level)),
            "br" => Box::new(brotli::CompressorWriter::new(Vec::new(), 4096, 4, 22)),
            _ => {
                let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
                encoder.include_checksum(encoding.ends_with("checksum")).unwrap();
                Box::new(encoder)
            }
        }
    }

    fn coding(encoding: &str) -> &str {
        encoding.trim_start_matches("raw ").trim_end_matches(" with checksum")
    }

    fn encode(encoding: &str, data: &[u8]) -> Vec<u8> {
        let mut encoder = encoder(encoding);
        encoder.write_all(data).unwrap();
        encoder.end()
    }

    /// Text that compresses like a model's answer.
    fn text(bytes: usize) -> Vec<u8> {
        let mut text = Vec::new();
        let mut seed = 1u64;
        while text.len() < bytes {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            text.extend_from_slice(format!("data: {{\"delta\":\"{:x}\"}}\n\n", seed >> 40).as_bytes());
        }
        text.truncate(bytes);
        text
    }

    #[test]
    fn every_coding_gives_back_what_was_encoded_however_it_is_cut() {
        for encoding in ENCODINGS {
            for length in [0, 1, 300, 70_000, 400_000] {
                let original = text(length);
                let encoded = encode(encoding, &original);
                for size in [1, 7, 4096, encoded.len().max(1)] {
                    let decoded = decode_in(coding(encoding), &encoded, size);
                    assert!(decoded.as_ref() == Ok(&original), "{encoding}, {length} in {size}");
                }
            }
        }
    }

    #[test]
    fn what_a_server_flushed_comes_out_at_once() {
        for encoding in ENCODINGS {
            let mut encoder = encoder(encoding);
            let mut decoder = decoder(coding(encoding));
            let mut sent = Vec::new();
            let mut got = Vec::new();
            let mut ends = Vec::new();
            for event in text(20_000).chunks(97) {
                encoder.write_all(event).unwrap();
                encoder.flush().unwrap();
                ends.push((encoder.written(), sent.len() + event.len()));
                sent.extend_from_slice(event);
            }
            let encoded = encoder.end();
            let mut from = 0;
            for (to, length) in ends {
                got.extend(push(&mut decoder, &encoded[from..to]).unwrap());
                assert_eq!(got.len(), length, "{encoding}");
                from = to;
            }
            got.extend(push(&mut decoder, &encoded[from..]).unwrap());
            assert!(got == sent, "{encoding}");
            assert_eq!(decoder.finish(), Ok(()), "{encoding}");
        }
    }

    #[test]
    fn members_and_frames_follow_each_other() {
        for encoding in ["gzip", "zstd", "zstd with checksum"] {
            let encoded =
                [encode(encoding, b"one "), encode(encoding, b""), encode(encoding, b"two")].concat();
            for size in [1, encoded.len()] {
                assert_eq!(decode_in(coding(encoding), &encoded, size).unwrap(), b"one two", "{encoding}");
            }
        }
    }

    #[test]
    fn a_gzip_header_may_have_every_part() {
        let mut encoder = GzBuilder::new()
            .extra(vec![1; 300])
            .filename("name")
            .comment("comment")
            .write(Vec::new(), Compression::fast());
        encoder.write_all(b"content").unwrap();
        let mut encoded = encoder.finish().unwrap();
        for size in [1, encoded.len()] {
            assert_eq!(decode_in("gzip", &encoded, size).unwrap(), b"content");
        }
        // The header's own check follows the comment, where its flag is set.
        encoded[3] |= 2;
        let data = encoded.windows(8).position(|w| w == b"comment\0").unwrap() + 8;
        encoded.splice(data..data, [0, 0]);
        assert_eq!(decode_in("x-gzip", &encoded, 1).unwrap(), b"content");
    }

    #[test]
    fn what_follows_the_last_gzip_member_is_ignored() {
        for tail in [&b"\0\0\0\0"[..], b"\x1f", b"\x1fx", b"garbage"] {
            let encoded = [&encode("gzip", b"content"), tail].concat();
            let mut decoder = decoder("gzip");
            assert_eq!(push(&mut decoder, &encoded).unwrap(), b"content");
        }
    }

    #[test]
    fn a_list_is_undone_from_its_end() {
        let original = text(50_000);
        let encoded = encode("zstd", &encode("br", &encode("gzip", &original)));
        for size in [1, encoded.len()] {
            assert!(decode_in("gzip, br , ZSTD,identity,", &encoded, size).unwrap() == original);
        }
    }

    #[test]
    fn identity_and_nothing_need_no_decoder() {
        assert!(Decoder::new(["identity", ""], LIMIT).unwrap().is_none());
        assert!(Decoder::new([], LIMIT).unwrap().is_none());
    }

    #[test]
    fn an_unknown_coding_or_too_many_are_refused() {
        for codings in ["compress", "aws-chunked", "gzip,gzip,gzip,gzip", "br,br", "zstd,gzip,zstd"] {
            assert_eq!(Decoder::new([codings], LIMIT).err(), Some(CodingError::Unsupported), "{codings}");
        }
    }

    #[test]
    fn content_that_ends_inside_its_coding_is_incomplete() {
        for encoding in ENCODINGS {
            let encoded = encode(encoding, &text(5000));
            let mut decoder = decoder(coding(encoding));
            push(&mut decoder, &encoded[..encoded.len() / 2]).unwrap();
            assert!(matches!(decoder.finish(), Err(CodingError::Incomplete(_))), "{encoding}");
        }
    }

    #[test]
    fn content_that_is_something_else_is_malformed() {
        let plain = br#"{"error": {"message": "this is plain text"}}"#;
        // Nearly any text is valid deflate for a while; a block of the reserved type is not.
        let zlib = b"\x78\x9c\x07";
        for (encoding, content) in [("gzip", &plain[..]), ("deflate", zlib), ("br", plain), ("zstd", plain)] {
            let result = push(&mut decoder(encoding), content);
            assert!(matches!(result, Err(CodingError::Malformed(_))), "{encoding}: {result:?}");
        }
    }

    #[test]
    fn decoding_stops_at_the_limit() {
        let zeros = vec![0; 4 << 20];
        for encoding in ENCODINGS {
            let encoded = encode(encoding, &zeros);
            let mut decoder = Decoder::new([coding(encoding)], 1 << 20).unwrap().unwrap();
            let mut decoded = 0;
            let result = decoder.push(&encoded, &mut |piece| decoded += piece.len());
            assert_eq!(result, Err(CodingError::TooLarge { limit: 1 << 20 }), "{encoding}");
            assert!(decoded <= 1 << 20, "{encoding}: {decoded}");
        }
    }

    #[test]
    fn the_limit_holds_between_the_codings_of_a_list() {
        let bomb = encode("gzip", &encode("gzip", &vec![0; 64 << 20]));
        let mut decoder = Decoder::new(["gzip, gzip"], 60 << 10).unwrap().unwrap();
        assert!(matches!(push(&mut decoder, &bomb), Err(CodingError::TooLarge { .. })));
    }

    #[test]
    fn a_long_zstd_stream_refers_back_over_its_whole_window() {
        // Bytes without structure, again and again: each time refers to the one before, far back in the window.
        let mut seed = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        })
        .take(400 << 10)
        .collect();
        let original = [noise.as_slice(); 16].concat();
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(19).unwrap();
        encoder.long_distance_matching(true).unwrap();
        encoder.write_all(&original).unwrap();
        let encoded = encoder.finish().unwrap();
        assert!(encoded.len() < 2 * noise.len(), "it does refer back: {}", encoded.len());
        let mut decoder = decoder("zstd");
        let mut decoded = Vec::new();
        for piece in encoded.chunks(10_000) {
            decoded.extend(push(&mut decoder, piece).unwrap());
            assert!(decoder.memory() < 4 << 20, "{}", decoder.memory());
        }
        assert!(decoded == original);
    }

    #[test]
    fn a_zstd_window_larger_than_http_allows_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(24).unwrap();
        encoder.write_all(b"content").unwrap();
        let encoded = encoder.finish().unwrap();
        assert_eq!(push(&mut decoder("zstd"), &encoded), Err(MALFORMED_ZSTD));
    }

    #[test]
    fn a_skippable_zstd_frame_is_skipped() {
        let skippable = [&0x184d_2a53_u32.to_le_bytes()[..], &5u32.to_le_bytes(), b"12345"].concat();
        let encoded = [&skippable, encode("zstd", b"content").as_slice(), &skippable].concat();
        for size in [1, encoded.len()] {
            assert_eq!(decode_in("zstd", &encoded, size).unwrap(), b"content");
        }
    }

    #[test]
    fn one_shot_zstd_frames_with_their_size_in_the_header_are_read() {
        for length in [0, 1, 255, 256, 70_000, 300_000] {
            let original = text(length);
            let encoded = zstd::bulk::compress(&original, 3).unwrap();
            assert!(decode_in("zstd", &encoded, 1000).unwrap() == original, "{length}");
        }
    }

    proptest! {
        #[test]
        fn bytes_that_are_not_a_coding_never_panic(
            encoding in prop::sample::select(&ENCODINGS[..]),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            size in 1usize..600,
        ) {
            let mut encoded = encode(encoding, &text(9000));
            for (at, value) in flips {
                let at = at.index(encoded.len());
                encoded[at] = value;
            }
            let _ = decode_in(coding(encoding), &encoded, size);
        }

        #[test]
        fn any_content_comes_back_for_any_cut(
            encoding in prop::sample::select(&ENCODINGS[..]),
            original in prop::collection::vec(any::<u8>(), 0..5000),
            size in 1usize..300,
        ) {
            prop_assert!(decode_in(coding(encoding), &encode(encoding, &original), size).unwrap() == original);
        }
    }
}
