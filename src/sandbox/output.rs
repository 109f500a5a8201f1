//! What a guest writes, kept up to a limit; the rest is counted and dropped, so that a chatty guest
//! still succeeds. (A stream that closes when full makes Rust guests panic; the engine's own
//! wrapper for custom streams queues without a bound.)

use super::redact::Redactor;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

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
