//! Content codings as a streaming server applies them: flushed after each piece, so that it arrives at once.

use crate::behaviour::Coding;
use flate2::write::{GzEncoder, ZlibEncoder};
use std::io::{self, Write};

impl Coding {
    /// The token in `content-encoding`.
    pub fn token(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }

    /// Encodes a body piece by piece: each result decodes to its piece without waiting for the next.
    ///
    /// # Errors
    /// None that writing to memory can have; the encoders' signatures ask for it.
    pub fn encode(self, pieces: Vec<Vec<u8>>) -> io::Result<Vec<Vec<u8>>> {
        match self {
            Self::Gzip => flushed(
                GzEncoder::new(Vec::new(), flate2::Compression::fast()),
                pieces,
                GzEncoder::get_mut,
                GzEncoder::finish,
            ),
            Self::Deflate => flushed(
                ZlibEncoder::new(Vec::new(), flate2::Compression::fast()),
                pieces,
                ZlibEncoder::get_mut,
                ZlibEncoder::finish,
            ),
            // 32 KiB buffer; quality 4 and a window of 2^22 bytes, as common proxies are set.
            Self::Brotli => flushed(
                brotli::CompressorWriter::new(Vec::new(), 32 << 10, 4, 22),
                pieces,
                brotli::CompressorWriter::get_mut,
                |encoder| Ok(encoder.into_inner()),
            ),
            Self::Zstd => flushed(
                zstd::stream::write::Encoder::new(Vec::new(), 3)?,
                pieces,
                zstd::stream::write::Encoder::get_mut,
                zstd::stream::write::Encoder::finish,
            ),
        }
    }
}

fn flushed<W: Write>(
    mut encoder: W,
    pieces: Vec<Vec<u8>>,
    output: impl Fn(&mut W) -> &mut Vec<u8>,
    finish: impl FnOnce(W) -> io::Result<Vec<u8>>,
) -> io::Result<Vec<Vec<u8>>> {
    let mut encoded = Vec::with_capacity(pieces.len() + 1);
    for piece in pieces {
        encoder.write_all(&piece)?;
        encoder.flush()?;
        encoded.push(std::mem::take(output(&mut encoder)));
    }
    // The end of the coding travels with the last piece, as it does where a server knows that it was the last.
    let tail = finish(encoder)?;
    match encoded.last_mut() {
        Some(last) => last.extend_from_slice(&tail),
        None => encoded.push(tail),
    }
    Ok(encoded)
}
