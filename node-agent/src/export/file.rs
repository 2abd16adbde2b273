//! A file with one export request a line, as the Collector's `file` exporter writes it.
//!
//! A thread of its own writes, because a disk, and more so a pipe, may block for any time; it never holds
//! more than one line of each signal. Each line is flushed when it is whole.

use super::failure::{Accepted, Failure};
use super::retry::Again;
use super::stats::Cause;
use bytes::Bytes;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use tokio::sync::oneshot;

#[derive(Clone)]
pub(super) struct JsonFile {
    path: PathBuf,
    lines: mpsc::Sender<(Bytes, oneshot::Sender<io::Result<()>>)>,
}

impl JsonFile {
    /// `-` is the standard output. A file that exists is continued.
    ///
    /// # Errors
    /// The file or the thread cannot be made.
    pub(super) fn create(path: &Path) -> io::Result<JsonFile> {
        if path == Path::new("-") {
            return Self::writing_to(path, Box::new(io::stdout()), false);
        }
        let file = File::options().create(true).append(true).open(path)?;
        // Whoever wrote to it last may have been killed in a line.
        let torn = file.metadata()?.is_file() && !ends_with_a_line(path)?;
        Self::writing_to(path, Box::new(file), torn)
    }

    fn writing_to(path: &Path, output: Box<dyn Write + Send>, torn: bool) -> io::Result<JsonFile> {
        let (lines, receiver) = mpsc::channel::<(Bytes, oneshot::Sender<io::Result<()>>)>();
        std::thread::Builder::new().name("otlp-json".to_owned()).spawn(move || {
            let mut writer = Lines { output, torn };
            for (line, written) in receiver {
                // Whoever waited may have given up meanwhile.
                let _ = written.send(writer.write(&line));
            }
        })?;
        Ok(JsonFile { path: path.to_owned(), lines })
    }

    pub(super) async fn write(&self, line: Bytes) -> Result<Accepted, Failure> {
        let (sender, written) = oneshot::channel();
        let gone = || io::Error::other("the thread that writes has ended");
        let result = match self.lines.send((line, sender)) {
            Ok(()) => written.await.unwrap_or_else(|_| Err(gone())),
            Err(_) => Err(gone()),
        };
        result.map(|()| Accepted::default()).map_err(|error| Failure {
            text: format!("cannot write to {}: {error}", self.path.display()),
            advice: "check that the disk has room and that whoever reads the pipe still does",
            again: Again::Never,
            cause: Cause::WriteFailed,
        })
    }
}

/// Also where there is no line at all.
fn ends_with_a_line(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

struct Lines {
    output: Box<dyn Write + Send>,
    /// A write failed somewhere in a line.
    torn: bool,
}

impl Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            // What the failed line left must not spoil this one.
            self.output.write_all(b"\n")?;
        }
        self.torn = true;
        self.output.write_all(line)?;
        self.output.write_all(b"\n")?;
        self.output.flush()?;
        self.torn = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Fails once, after the bytes that were left.
    struct Disk {
        left: Option<usize>,
        content: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.left.take() {
                Some(0) => Err(io::ErrorKind::StorageFull.into()),
                Some(left) => {
                    let part = bytes.len().min(left);
                    self.left = Some(left - part);
                    self.content.lock().unwrap().extend(&bytes[..part]);
                    Ok(part)
                }
                None => {
                    self.content.lock().unwrap().extend(bytes);
                    Ok(bytes.len())
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_torn_line_does_not_spoil_the_next() {
        let content = Arc::default();
        let disk = Disk { left: Some(12), content: Arc::clone(&content) };
        let file = JsonFile::writing_to(Path::new("disk"), Box::new(disk), false).unwrap();
        assert!(file.write("{\"one\":1}".into()).await.is_ok());
        let failure = file.write("{\"two\":2}".into()).await.unwrap_err();
        assert_eq!(failure.cause, Cause::WriteFailed);
        assert!(failure.text.starts_with("cannot write to disk: "), "{}", failure.text);
        assert!(file.write("{\"three\":3}".into()).await.is_ok());
        assert_eq!(*content.lock().unwrap(), b"{\"one\":1}\n{\"\n{\"three\":3}\n");
    }

    #[tokio::test]
    async fn a_file_is_continued_on_a_line_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("otlp.jsonl");
        std::fs::write(&path, "{\"torn\"").unwrap();
        for line in ["{}", "[]"] {
            let file = JsonFile::create(&path).unwrap();
            assert!(file.write(line.into()).await.is_ok());
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"torn\"\n{}\n[]\n");
    }

    #[test]
    fn a_file_that_cannot_be_made_is_an_error() {
        assert!(JsonFile::create(Path::new("/nowhere/at/all")).is_err());
    }
}
