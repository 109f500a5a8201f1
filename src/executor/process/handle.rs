//! One worker as the daemon knows it: its process, its socket, the calls that wait for their answers.

use super::wire::{self, CallFrame, EndedFrame, FromWorker, ToWorker};
use crate::grant::Grants;
use crate::run::RunLogs;
use std::collections::HashMap;
use std::io;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Why a call has no answer: its worker is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Died {
    /// In words: `signal 6`.
    pub how: String,
    /// Calls that it took with it.
    pub calls: usize,
}

type Answer = Result<Box<EndedFrame>, Died>;

/// A worker process that serves one plugin.
pub struct Worker {
    pub digest: Arc<str>,
    pub grants: Arc<Grants>,
    calls: Mutex<Calls>,
    frames: mpsc::UnboundedSender<Vec<u8>>,
    next: AtomicU64,
    kill: CancellationToken,
    gone: AtomicBool,
}

#[derive(Default)]
struct Calls {
    waiting: HashMap<u64, (oneshot::Sender<Answer>, u64)>,
    /// Those who want to know what a call has written so far.
    asked: HashMap<u64, Vec<oneshot::Sender<RunLogs>>>,
    /// Memory that the waiting calls may use, in bytes.
    memory: u64,
    /// The last end of a call, for those that look for a worker to retire.
    used: u64,
}

/// A call that has a place in a worker.
pub struct Waiting {
    pub answer: oneshot::Receiver<Answer>,
    pub id: u64,
}

impl Worker {
    pub fn new(digest: Arc<str>, grants: Arc<Grants>) -> (Self, mpsc::UnboundedReceiver<Vec<u8>>) {
        // At most as many frames wait here as there are slots, and as many cancellations.
        let (frames, queue) = mpsc::unbounded_channel();
        let worker = Worker {
            digest,
            grants,
            calls: Mutex::default(),
            frames,
            next: AtomicU64::new(0),
            kill: CancellationToken::new(),
            gone: AtomicBool::new(false),
        };
        (worker, queue)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire) || self.kill.is_cancelled()
    }

    /// Calls under way, the memory that they may use, and when one was last made or ended.
    pub fn load(&self) -> (usize, u64, u64) {
        let calls = self.calls();
        (calls.waiting.len(), calls.memory, calls.used)
    }

    /// Reserves the place of a call; `now` orders uses. `None` if the worker is gone.
    pub fn reserve(&self, memory: u64, now: u64) -> Option<Waiting> {
        let mut calls = self.calls();
        if self.is_gone() {
            return None;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, answer) = oneshot::channel();
        calls.waiting.insert(id, (tell, memory));
        calls.memory += memory;
        calls.used = now;
        Some(Waiting { answer, id })
    }

    pub fn send(&self, call: CallFrame) -> io::Result<()> {
        let frame = wire::encode(&ToWorker::Call(Box::new(call)))?;
        // A worker that is gone has answered.
        let _ = self.frames.send(frame);
        Ok(())
    }

    pub fn cancel(&self, id: u64) {
        let _ = wire::encode(&ToWorker::Cancel(id)).map(|frame| self.frames.send(frame));
    }

    /// Asks what a call has written so far. The receiver fails when the call ends first.
    pub fn show(&self, id: u64) -> oneshot::Receiver<RunLogs> {
        let (tell, written) = oneshot::channel();
        let mut calls = self.calls();
        if calls.waiting.contains_key(&id) {
            let asked = calls.asked.entry(id).or_default();
            // Who has stopped waiting is not the one who asked for all.
            asked.retain(|tell| !tell.is_closed());
            asked.push(tell);
            // One question is enough for all who ask meanwhile.
            if asked.len() == 1 {
                let _ = wire::encode(&ToWorker::Show(id)).map(|frame| self.frames.send(frame));
            }
        }
        written
    }

    fn written(&self, id: u64, logs: &RunLogs) {
        for tell in self.calls().asked.remove(&id).unwrap_or_default() {
            let _ = tell.send(logs.clone());
        }
    }

    /// Ends a call that nobody waits for any more, if it goes on.
    pub fn cancel_and_release(&self, id: u64) {
        let mut calls = self.calls();
        if let Some((_, memory)) = calls.waiting.remove(&id) {
            calls.memory -= memory;
            calls.asked.remove(&id);
            drop(calls);
            self.cancel(id);
        }
    }

    /// Ends the process at once.
    pub fn kill(&self) {
        self.kill.cancel();
    }

    /// Ends the process if it has nothing to do, and was not used since `used` if that is given. A call
    /// is placed before this or not at all.
    pub fn retire(&self, used: Option<u64>) -> bool {
        let calls = self.calls();
        let idle = calls.waiting.is_empty() && used.is_none_or(|used| used == calls.used);
        if idle {
            self.kill();
        }
        idle
    }

    fn answer(&self, id: u64, ended: Box<EndedFrame>) {
        let mut calls = self.calls();
        // An answer to a call that nobody made, or twice, is a worker's invention.
        let Some((tell, memory)) = calls.waiting.remove(&id) else { return };
        calls.memory -= memory;
        calls.asked.remove(&id);
        drop(calls);
        let _ = tell.send(Ok(ended));
    }

    /// Drives the worker until its process is gone; then every call that waits is told.
    pub async fn drive(
        &self,
        mut child: Child,
        socket: UnixStream,
        frames: mpsc::UnboundedReceiver<Vec<u8>>,
        ended: impl Fn(),
    ) {
        let (reader, writer) = socket.into_split();
        let ending = tokio::select! {
            // What it said before it ended comes first.
            biased;
            // It says nothing sound any more, or hears nothing: it has nothing to live for.
            _ = self.read(reader, ended) => None,
            _ = write(writer, frames) => None,
            () = self.kill.cancelled() => None,
            status = child.wait() => Some(status),
        };
        self.gone.store(true, Ordering::Release);
        let status = match ending {
            Some(status) => status,
            None => end(&mut child).await,
        };
        let mut calls = self.calls();
        let waiting = std::mem::take(&mut calls.waiting);
        calls.asked.clear();
        calls.memory = 0;
        drop(calls);
        let died = Died { how: how(status), calls: waiting.len() };
        if !waiting.is_empty() {
            let (digest, how, runs) = (&*self.digest, &died.how, died.calls);
            tracing::warn!(digest, how, runs, "a worker died and took its runs with it");
        }
        for (tell, _) in waiting.into_values() {
            let _ = tell.send(Err(died.clone()));
        }
    }

    async fn read(&self, mut reader: OwnedReadHalf, ended: impl Fn()) -> io::Result<()> {
        let mut come = wire::room();
        while reader.read_buf(&mut come).await? > 0 {
            while let Some(frame) = wire::next_frame(&mut come)? {
                match wire::decode(&frame)? {
                    FromWorker::Ended(id, answer) => self.answer(id, answer),
                    FromWorker::Written(id, logs) => self.written(id, &logs),
                    FromWorker::Ready(_) => return Err(io::Error::other("a worker begins once")),
                }
            }
            ended();
        }
        Ok(())
    }
}

async fn write(mut writer: OwnedWriteHalf, mut frames: mpsc::UnboundedReceiver<Vec<u8>>) -> io::Result<()> {
    while let Some(mut frame) = frames.recv().await {
        while let Ok(more) = frames.try_recv() {
            frame.extend_from_slice(&more);
        }
        writer.write_all(&frame).await?;
    }
    Ok(())
}

/// Kills the process, unless it has ended by itself meanwhile.
async fn end(child: &mut Child) -> io::Result<ExitStatus> {
    // A worker that closed its socket is about to end, and how it ends says more than a kill.
    if let Ok(status) = tokio::time::timeout(std::time::Duration::from_millis(20), child.wait()).await {
        return status;
    }
    child.start_kill()?;
    child.wait().await
}

fn how(status: io::Result<ExitStatus>) -> String {
    let Ok(status) = status else { return "unknown".to_owned() };
    match std::os::unix::process::ExitStatusExt::signal(&status) {
        Some(libc::SIGSYS) => "a system call that its jail forbids".to_owned(),
        Some(signal) => format!("signal {signal}"),
        None => format!("exit code {}", status.code().unwrap_or(-1)),
    }
}
