//! The log of what was asked and answered: the truth that tests hold a tracer against.

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// One served request. Written when its response ended, in that order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Served {
    /// `x-mock-case` of the request.
    pub case: Option<String>,
    /// The trace id of the request's `traceparent`.
    pub trace_id: Option<String>,
    /// Counts requests from 1 on, in the order in which their heads were read.
    pub sequence: u64,
    /// When its head was read, Unix time in milliseconds.
    pub at_ms: u64,
    /// The Unix socket that it came over.
    pub socket: Option<String>,
    /// POST …
    pub method: String,
    /// Without the query.
    pub path: String,
    /// See [`crate::question::Api::name`]; empty for a path that leads to none. Over a WebSocket also `realtime`, and
    /// `responses.warm_up` where nothing was to be generated.
    pub api: String,
    /// The body of the request, as JSON, where it was no larger than 512 KiB.
    pub request: Option<Value>,
    /// Its size in bytes.
    pub request_bytes: usize,
    /// `x-stainless-retry-count`, by which SDKs number their tries.
    pub retry: Option<u32>,
    /// HTTP status.
    pub status: u16,
    /// `error.type` and `error.code` as the body or an event told them.
    pub error_type: Option<String>,
    /// See `error_type`.
    pub error_code: Option<String>,
    /// Whether the response was a stream of events.
    pub stream: bool,
    /// Id of the response.
    pub id: Option<String>,
    /// The model that the request named.
    pub request_model: String,
    /// The model that the response named.
    pub model: Option<String>,
    /// As the wire told them, one for each choice.
    pub finish_reasons: Vec<String>,
    /// As the wire told it, all input: Anthropic's cached tokens included.
    pub input_tokens: Option<u64>,
    /// As the wire told it, reasoning included.
    pub output_tokens: Option<u64>,
    /// Read from a cache.
    pub cached_tokens: Option<u64>,
    /// Written to a cache.
    pub cache_write_tokens: Option<u64>,
    /// Spent on reasoning.
    pub reasoning_tokens: Option<u64>,
    /// What was said, one for each choice.
    pub choices: Vec<ServedChoice>,
    /// Events of a stream, or writes of a whole body, that the response consists of.
    pub chunks: usize,
    /// Bytes of the body before compression.
    pub response_bytes: usize,
    /// How it ended.
    pub outcome: Outcome,
}

/// One choice of a response.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ServedChoice {
    /// Its text; a refusal stands in `refusal` instead.
    pub text: String,
    /// What the model refused with.
    pub refusal: Option<String>,
    /// What it thought, as far as the wire told.
    pub reasoning: Option<String>,
    /// The tools that it called.
    pub tool_calls: Vec<ServedCall>,
}

/// A tool call of a response.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ServedCall {
    /// Its id.
    pub id: String,
    /// The tool.
    pub name: String,
    /// JSON text, byte for byte as it went out.
    pub arguments: String,
}

/// How a response ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All of it was written.
    #[default]
    Complete,
    /// The server ended it in its middle, as it was told to.
    Cut,
    /// The client ended the connection first.
    ClientGone,
}

/// Appends lines to a file from a thread of its own: serving never waits for a disk.
pub struct Log {
    sender: Mutex<Option<Sender<Served>>>,
    writer: Mutex<Option<JoinHandle<std::io::Result<()>>>>,
}

impl Log {
    /// A log in `path`, or one that keeps nothing.
    ///
    /// # Errors
    /// The file cannot be written to.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Self { sender: Mutex::new(None), writer: Mutex::new(None) });
        };
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot write the log {}", path.display()))?;
        let (sender, lines) = channel::<Served>();
        let writer = std::thread::spawn(move || {
            let mut file = BufWriter::with_capacity(1 << 20, file);
            let mut next = lines.recv().ok();
            while let Some(served) = next {
                serde_json::to_writer(&mut file, &served)?;
                file.write_all(b"\n")?;
                next = match lines.try_recv() {
                    Ok(served) => Some(served),
                    // Whoever reads while we serve sees all that is done; a busy server writes in large pieces.
                    Err(_) => {
                        file.flush()?;
                        lines.recv().ok()
                    }
                };
            }
            file.flush()
        });
        Ok(Self { sender: Mutex::new(Some(sender)), writer: Mutex::new(Some(writer)) })
    }

    /// Whether lines are kept at all.
    pub fn is_kept(&self) -> bool {
        self.sender.lock().is_ok_and(|sender| sender.is_some())
    }

    /// Adds a line.
    pub fn add(&self, served: Served) {
        if let Ok(Some(sender)) = self.sender.lock().as_deref() {
            // Fails only once the writer has failed, which `finish` tells.
            let _ = sender.send(served);
        }
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// A line could not be written.
    pub fn finish(&self) -> anyhow::Result<()> {
        drop(self.sender.lock().ok().and_then(|mut sender| sender.take()));
        match self.writer.lock().ok().and_then(|mut writer| writer.take()) {
            None => Ok(()),
            Some(writer) => match writer.join() {
                Ok(result) => result.context("cannot write the log"),
                Err(_) => Err(anyhow::anyhow!("the log's writer panicked")),
            },
        }
    }
}

/// Reads a log that a server left.
///
/// # Errors
/// No such file, or a line that is none of ours.
pub fn read(path: &Path) -> anyhow::Result<Vec<Served>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    text.lines()
        .map(|line| {
            serde_json::from_str(line)
                .with_context(|| format!("{}: {}", path.display(), &line[..line.floor_char_boundary(200)]))
        })
        .collect()
}
