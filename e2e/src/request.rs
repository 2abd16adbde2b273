//! One HTTP/1.1 request, read from a connection.

use anyhow::{Context, bail};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Heads beyond this are refused; SDKs send a few KiB.
const LARGEST_HEAD: usize = 256 << 10;
/// Bodies beyond this are refused; the largest prompt that a test sends is a few MiB.
const LARGEST_BODY: usize = 64 << 20;

/// A request with its whole body.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// GET, POST …
    pub method: String,
    /// The path without its query.
    pub path: String,
    /// What stands behind the `?`.
    pub query: String,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// All of it, without its framing.
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of that name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Whether the client wants the connection closed after the response.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"))
    }

    /// Reads the next head; `None` where the client ended the connection between requests.
    ///
    /// # Errors
    /// A head that is not HTTP/1.1, is too large, or ends in its middle.
    pub async fn read_head<S: AsyncRead + Unpin>(
        stream: &mut S,
        buffer: &mut BytesMut,
    ) -> anyhow::Result<Option<Self>> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 128];
            let mut head = httparse::Request::new(&mut headers);
            if let httparse::Status::Complete(length) = head.parse(buffer)? {
                let target = head.path.unwrap_or("/");
                let (path, query) = target.split_once('?').unwrap_or((target, ""));
                let request = Self {
                    method: head.method.unwrap_or_default().to_owned(),
                    path: path.to_owned(),
                    query: query.to_owned(),
                    headers: head
                        .headers
                        .iter()
                        .map(|h| (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value).into_owned()))
                        .collect(),
                    body: Vec::new(),
                };
                buffer.advance(length);
                return Ok(Some(request));
            }
            if buffer.len() > LARGEST_HEAD {
                bail!("a request head of more than {LARGEST_HEAD} bytes");
            }
            if stream.read_buf(buffer).await? == 0 {
                if buffer.is_empty() {
                    return Ok(None);
                }
                bail!("the client ended the connection within a request head");
            }
        }
    }

    /// Reads the body that belongs to this head.
    ///
    /// # Errors
    /// Broken framing, a body that is too large, or one that ends in its middle.
    pub async fn read_body<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        buffer: &mut BytesMut,
    ) -> anyhow::Result<()> {
        if self.header("expect").is_some_and(|v| v.eq_ignore_ascii_case("100-continue")) {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            stream.flush().await?;
        }
        if self.header("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked")) {
            loop {
                let line = read_line(stream, buffer).await?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size =
                    usize::from_str_radix(size, 16).with_context(|| format!("a chunk of size {size:?}"))?;
                if size == 0 {
                    while !read_line(stream, buffer).await?.is_empty() {}
                    return Ok(());
                }
                self.take(stream, buffer, size).await?;
                read_line(stream, buffer).await?;
            }
        }
        match self.header("content-length") {
            None => Ok(()),
            Some(length) => {
                let length = length.trim().parse().with_context(|| format!("content-length {length:?}"))?;
                self.take(stream, buffer, length).await
            }
        }
    }

    async fn take<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        buffer: &mut BytesMut,
        length: usize,
    ) -> anyhow::Result<()> {
        if self.body.len().saturating_add(length) > LARGEST_BODY {
            bail!("a request body of more than {LARGEST_BODY} bytes");
        }
        self.body.reserve(length);
        let mut left = length;
        loop {
            let here = left.min(buffer.len());
            self.body.extend_from_slice(&buffer[..here]);
            buffer.advance(here);
            left -= here;
            if left == 0 {
                return Ok(());
            }
            if stream.read_buf(buffer).await? == 0 {
                bail!("the client ended the connection within a request body");
            }
        }
    }
}

async fn read_line<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut BytesMut) -> anyhow::Result<String> {
    loop {
        if let Some(end) = buffer.iter().position(|b| *b == b'\n') {
            let line = buffer.split_to(end + 1);
            return Ok(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        if buffer.len() > LARGEST_HEAD {
            bail!("a chunk line of more than {LARGEST_HEAD} bytes");
        }
        if stream.read_buf(buffer).await? == 0 {
            bail!("the client ended the connection within a chunked body");
        }
    }
}
