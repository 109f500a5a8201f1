//! What a guest writes, kept up to a limit; the rest is counted and dropped, so that a chatty guest
//! still succeeds. (A stream that closes when full makes Rust guests panic; the engine's own
//! wrapper for custom streams queues without a bound.)

use super::redact::Redactor;
use crate::invalid::printable;
use crate::run::{LogLevel, LogLine, RunLogs};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Log lines kept of one call.
const LOG_LINES_MAX: usize = 1000;
/// Bytes that one write may have.
const WRITE_MAX: usize = 64 << 10;

/// One captured stream. Clones are the same stream.
#[derive(Clone)]
pub struct Captured(Arc<Mutex<Buffer>>);

struct Buffer {
    kept: Vec<u8>,
    max: usize,
    dropped: u64,
}

impl Captured {
    pub fn new(max: u64) -> Self {
        let max = usize::try_from(max).unwrap_or(usize::MAX);
        Captured(Arc::new(Mutex::new(Buffer { kept: Vec::new(), max, dropped: 0 })))
    }

    fn push(&self, bytes: &[u8]) {
        let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = buffer.max - buffer.kept.len();
        let kept = bytes.len().min(room);
        buffer.kept.extend_from_slice(&bytes[..kept]);
        buffer.dropped += (bytes.len() - kept) as u64;
    }

    /// What was written so far: a text, and secrets, that are not yet whole are held back.
    fn text_so_far(&self, redactor: &Redactor) -> String {
        let buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = match std::str::from_utf8(&buffer.kept) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => buffer.kept.len(),
        };
        let mut text = String::from_utf8_lossy(&buffer.kept[..whole]).into_owned();
        redactor.growing_text(&mut text);
        text
    }

    /// What was written, as text without secrets, with a mark if something was dropped.
    pub fn text(&self, redactor: &Redactor) -> String {
        let buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::from_utf8_lossy(&buffer.kept).into_owned();
        if buffer.dropped > 0 {
            redactor.cut_text(&mut text);
            text.push_str(&format!("\n[cut: {} more bytes]", buffer.dropped));
        }
        text
    }
}

/// What a call has written. Clones are the same.
#[derive(Clone)]
pub struct Written(Arc<Streams>);

struct Streams {
    stdout: Captured,
    stderr: Captured,
    log: Mutex<Log>,
    redactor: Redactor,
}

struct Log {
    lines: Vec<LogLine>,
    bytes_left: usize,
}

impl Written {
    /// Keeps at most `max` bytes of each stream, and of all log lines together.
    pub fn new(max: u64, redactor: Redactor) -> Self {
        let log = Log { lines: Vec::new(), bytes_left: usize::try_from(max).unwrap_or(usize::MAX) };
        Written(Arc::new(Streams {
            stdout: Captured::new(max),
            stderr: Captured::new(max),
            log: Mutex::new(log),
            redactor,
        }))
    }

    pub fn stdout(&self) -> Captured {
        self.0.stdout.clone()
    }

    pub fn stderr(&self) -> Captured {
        self.0.stderr.clone()
    }

    pub fn redactor(&self) -> &Redactor {
        &self.0.redactor
    }

    pub fn log(&self, level: LogLevel, message: &str) {
        let mut log = self.0.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.lines.len() >= LOG_LINES_MAX || message.len() > log.bytes_left {
            return;
        }
        log.bytes_left -= message.len();
        log.lines.push(LogLine { level, message: printable(message, usize::MAX) });
    }

    fn lines(&self) -> Vec<LogLine> {
        let mut lines = self.0.log.lock().unwrap_or_else(PoisonError::into_inner).lines.clone();
        lines.iter_mut().for_each(|line| self.0.redactor.text(&mut line.message));
        lines
    }

    /// While it goes on: what it has written so far. Each text begins with what it was before.
    pub fn so_far(&self) -> RunLogs {
        let redactor = self.redactor();
        let text = |stream: &Captured| stream.text_so_far(redactor);
        RunLogs { stdout: text(&self.0.stdout), stderr: text(&self.0.stderr), log: self.lines() }
    }

    /// When it has ended: all that is kept.
    pub fn logs(&self) -> RunLogs {
        let redactor = self.redactor();
        let text = |stream: &Captured| {
            let mut text = stream.text(redactor);
            redactor.text(&mut text);
            text
        };
        RunLogs { stdout: text(&self.0.stdout), stderr: text(&self.0.stderr), log: self.lines() }
    }
}

impl IsTerminal for Captured {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Captured {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Only WASI 0.3 asks for this one, and it is not linked.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Captured {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Captured {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_counted() {
        let stream = Captured::new(4);
        stream.push(b"abc");
        stream.push(b"defg");
        assert_eq!(stream.text(&Redactor::default()), "abcd\n[cut: 3 more bytes]");
    }
}
