//! The model server's side of a WebSocket (RFC 6455, RFC 7692): the handshake, messages in and out.

use crate::behaviour::{Behaviour, Deflate, Writes};
use crate::request::Request;
use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use ring::digest;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// An open WebSocket.
pub struct WebSocket<'a, S> {
    stream: &'a mut S,
    buffer: &'a mut BytesMut,
    deflate: Option<Deflate>,
    inflate: Decompress,
    compress: Compress,
    /// Bytes of a message in one frame.
    fragment: Option<usize>,
}

/// The largest message that is taken, in bytes; the largest prompt that a test sends is a few MiB.
const LARGEST_MESSAGE: usize = 64 << 20;

/// What is left out at the end of each compressed message (RFC 7692, 7.2.1).
const FLUSHED: [u8; 4] = [0, 0, 0xff, 0xff];

impl<'a, S: AsyncRead + AsyncWrite + Unpin> WebSocket<'a, S> {
    /// Answers a handshake; `None` where the request is none.
    ///
    /// # Errors
    /// The client went away.
    pub async fn accept(
        request: &Request,
        behaviour: &Behaviour,
        stream: &'a mut S,
        buffer: &'a mut BytesMut,
    ) -> anyhow::Result<Option<WebSocket<'a, S>>> {
        let upgrades = request.header("upgrade").is_some_and(|v| v.eq_ignore_ascii_case("websocket"));
        let Some(key) = request.header("sec-websocket-key").filter(|_| upgrades) else { return Ok(None) };
        let key = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
        let accept = STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, key.as_bytes()));
        let offered =
            request.header("sec-websocket-extensions").is_some_and(|v| v.contains("permessage-deflate"));
        let deflate = behaviour.deflate.filter(|_| offered);
        let mut head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n"
        );
        match deflate {
            None => {}
            Some(Deflate::Takeover) => head.push_str("sec-websocket-extensions: permessage-deflate\r\n"),
            Some(Deflate::NoTakeover) => head.push_str(
                "sec-websocket-extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n",
            ),
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await?;
        stream.flush().await?;
        Ok(Some(WebSocket {
            stream,
            buffer,
            deflate,
            inflate: Decompress::new(false),
            compress: Compress::new(Compression::fast(), false),
            fragment: match behaviour.writes {
                Writes::Bytes(size) => Some(size),
                Writes::Each | Writes::Coalesced => None,
            },
        }))
    }

    /// The next message; `None` once the client has closed, or is gone.
    ///
    /// # Errors
    /// Frames or a text that are none.
    pub async fn receive(&mut self) -> anyhow::Result<Option<Value>> {
        let (mut message, mut compressed) = (Vec::new(), false);
        loop {
            let Some((first, payload)) = self.frame().await? else { return Ok(None) };
            match first & 0x0f {
                8 => {
                    // The client may be gone already.
                    drop(self.write(0x88, &payload).await);
                    return Ok(None);
                }
                9 => self.write(0x8a, &payload).await?,
                10 => {}
                0..=2 => {
                    compressed |= first & 0x40 != 0;
                    message.extend(payload);
                    if message.len() > LARGEST_MESSAGE {
                        bail!("a message of more than {LARGEST_MESSAGE} bytes");
                    }
                    if first & 0x80 != 0 {
                        let text = if compressed { self.inflate(&message)? } else { message };
                        return serde_json::from_slice(&text).context("a message that is no JSON").map(Some);
                    }
                }
                opcode => bail!("a frame of opcode {opcode}"),
            }
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The client went away.
    pub async fn send(&mut self, message: &Value) -> anyhow::Result<()> {
        let text = message.to_string().into_bytes();
        let (payload, mut first) = match self.deflate {
            Some(_) => (self.deflate(&text)?, 0x41),
            None => (text, 0x01),
        };
        let size = self.fragment.unwrap_or(payload.len()).max(1);
        let mut fragments = payload.chunks(size).peekable();
        while let Some(fragment) = fragments.next() {
            let last = fragments.peek().is_none();
            self.write(first | if last { 0x80 } else { 0 }, fragment).await?;
            if !last {
                self.write(0x89, b"still there?").await?;
            }
            first = 0;
        }
        Ok(())
    }

    async fn frame(&mut self) -> anyhow::Result<Option<(u8, Vec<u8>)>> {
        if !self.fill(2).await? {
            return Ok(None);
        }
        let (first, second) = (self.buffer[0], self.buffer[1]);
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if second & 0x80 == 0 {
            bail!("a client's frame without a mask");
        }
        if !self.fill(2 + extended + 4).await? {
            return Ok(None);
        }
        self.buffer.advance(2);
        let length = match extended {
            0 => u64::from(second & 0x7f),
            2 => self.buffer.get_u16().into(),
            _ => self.buffer.get_u64(),
        };
        let length = usize::try_from(length).ok().filter(|length| *length <= LARGEST_MESSAGE);
        let length = length.with_context(|| format!("a frame of more than {LARGEST_MESSAGE} bytes"))?;
        let mask = self.buffer.split_to(4);
        if !self.fill(length).await? {
            return Ok(None);
        }
        let mut payload = self.buffer.split_to(length).to_vec();
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        Ok(Some((first, payload)))
    }

    /// Reads until so many bytes are there. `false`: the client is gone.
    async fn fill(&mut self, length: usize) -> anyhow::Result<bool> {
        while self.buffer.len() < length {
            // A reset is how some clients leave.
            if self.stream.read_buf(self.buffer).await.unwrap_or(0) == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn write(&mut self, first: u8, payload: &[u8]) -> anyhow::Result<()> {
        let mut frame = vec![first];
        match payload.len() {
            length @ 0..=125 => frame.push(length as u8),
            length @ 126..=0xffff => {
                frame.push(126);
                frame.extend((length as u16).to_be_bytes());
            }
            length => {
                frame.push(127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(payload);
        self.stream.write_all(&frame).await?;
        Ok(self.stream.flush().await?)
    }

    fn deflate(&mut self, text: &[u8]) -> anyhow::Result<Vec<u8>> {
        if self.deflate == Some(Deflate::NoTakeover) {
            self.compress.reset();
        }
        let mut out = Vec::with_capacity(text.len() + 1024);
        let before = self.compress.total_in();
        self.compress.compress_vec(text, &mut out, FlushCompress::Sync)?;
        if self.compress.total_in() - before < text.len() as u64 || !out.ends_with(&FLUSHED) {
            bail!("a message did not fit");
        }
        out.truncate(out.len() - FLUSHED.len());
        Ok(out)
    }

    fn inflate(&mut self, payload: &[u8]) -> anyhow::Result<Vec<u8>> {
        if self.deflate == Some(Deflate::NoTakeover) {
            self.inflate.reset(false);
        }
        let (payload, mut text) = ([payload, &FLUSHED].concat(), Vec::new());
        let mut rest = payload.as_slice();
        loop {
            text.reserve(payload.len() * 4 + 1024);
            let (read, written) = (self.inflate.total_in(), text.len());
            self.inflate.decompress_vec(rest, &mut text, FlushDecompress::Sync)?;
            rest = &rest[(self.inflate.total_in() - read) as usize..];
            if text.len() > LARGEST_MESSAGE {
                bail!("a message of more than {LARGEST_MESSAGE} bytes");
            }
            if rest.is_empty() && text.len() == written {
                return Ok(text);
            }
        }
    }
}
