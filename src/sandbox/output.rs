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

    /// What was written so far: a character, and a secret, that may go on is held back.
    fn text_so_far(&self, redactor: &Redactor) -> String {
        // Copied, so that the guest does not wait for what is done with it.
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).kept.clone();
        let mut text = String::from_utf8_lossy(&kept[..whole_characters(&kept)]).into_owned();
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

/// The length of bytes without the beginning of a character at their end, whatever is before it.
fn whole_characters(bytes: &[u8]) -> usize {
    let from = bytes.len().saturating_sub(3);
    for at in (from..bytes.len()).rev() {
        let length = match bytes[at] {
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            0x80..=0xBF => continue,
            _ => 1,
        };
        return if at + length > bytes.len() { at } else { bytes.len() };
    }
    bytes.len()
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
    use crate::secret::Secret;
    use proptest::prelude::*;

    proptest! {
        /// Whoever follows a run sends what is new, and never has to take anything back.
        #[test]
        fn what_is_shown_only_grows_into_what_is_kept(
            pieces in proptest::collection::vec(prop_oneof![
                Just(b"pa\xc3\x9fword".to_vec()), Just(b"drow\xc3\x9fap".to_vec()), Just(vec![0xff]), any::<[u8; 2]>().prop_map(Vec::from),
            ], 0..12),
            at in 0usize..100,
        ) {
            let secret = Secret::from("pa\u{df}word");
            let bytes = pieces.concat();
            let written = Written::new(1 << 20, Redactor::new([&secret].into_iter()));
            let at = at.min(bytes.len());
            written.0.stdout.push(&bytes[..at]);
            let early = written.so_far().stdout;
            written.0.stdout.push(&bytes[at..]);
            let (late, kept) = (written.so_far().stdout, written.logs().stdout);
            prop_assert!(late.starts_with(&early), "{early:?} {late:?}");
            prop_assert!(kept.starts_with(&late), "{late:?} {kept:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let stream = Captured::new(4);
        stream.push(b"abc");
        stream.push(b"defg");
        assert_eq!(stream.text(&Redactor::default()), "abcd\n[cut: 3 more bytes]");
    }
}
