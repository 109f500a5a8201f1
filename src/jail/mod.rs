//! A process that is about to run or to compile untrusted wasm gives up all that it will not need.
//!
//! Wasm is the first wall; this is the second, for the day when the first has a hole. A process
//! calls [`before`] as the first thing in `main`, does what needs the outside world (loads code,
//! starts the engine), and calls [`lock`] while it still has one thread; there is no way back.
//! [`lock`] says of each layer whether the kernel really enforces it, and goes on where one is
//! missing: what to do about it is the caller's policy. [`try_forbidden`] does not believe that and
//! tries.
//!
//! Not covered: names and metadata of files outside the granted directories (landlock has no right
//! for `stat` or `readlink`; a process without directories can't even do that), and memory of
//! `memfd`s, which `RLIMIT_DATA` does not count: at most `file_bytes` times `open_files`.

mod attempts;
mod landlock;
mod limits;
mod probe;
mod rights;
mod seccomp;
mod start;
mod syscalls;

pub use probe::{Finding, attempt, try_forbidden};
pub use start::{CHILD, before, child};

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What a process may still do after it has locked itself.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Bytes of private writable memory, counted from the start of the process (`RLIMIT_DATA`): heap,
    /// stacks of threads, wasm memories; not the address space that is only reserved. Past it
    /// allocation fails. mimalloc takes 1 GiB at its start that counts in full, unless the process was
    /// started with `MIMALLOC_ARENA_EAGER_COMMIT=0` in its environment.
    pub data_bytes: u64,
    /// Processor time from the start of the process, rounded up to seconds (`RLIMIT_CPU`). Past it
    /// `SIGXCPU` ends the process, and `SIGKILL` a second later. `None`: no limit.
    pub cpu: Option<Duration>,
    /// One more than the highest number of an open descriptor (`RLIMIT_NOFILE`).
    pub open_files: u64,
    /// Bytes; writing past it fails with `EFBIG` (`RLIMIT_FSIZE`). Also limits the engine's memory
    /// images, which are files: to be at least as large as a module's data.
    pub file_bytes: u64,
    /// All that remains of the file system. A directory inside a writable one is writable.
    pub dirs: Vec<GrantedDir>,
    /// May start threads; never processes.
    pub threads: bool,
    /// May receive descriptors and use CONNECTED sockets that it is handed. Without it there is still
    /// `send` and `recv` on a socket that is already open, such as the one to the parent. Nobody may
    /// make, connect or bind a socket, or accept on one.
    pub sockets: bool,
}

/// A directory and what is below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedDir {
    /// Opened while locking, symlinks followed.
    pub path: PathBuf,
    /// May also change, create, move and remove files, directories and symlinks; no sockets, FIFOs or
    /// devices in any case.
    pub writable: bool,
}

/// The layer without which one process can take all of a machine's memory.
pub const MEMORY_LIMIT: &str = "memory limit";

/// How far a layer holds on this kernel. The text says what is missing, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "LayerStatus")]
pub enum Status {
    Enforced,
    Partial(String),
    Off(String),
}

/// One of the things that keep a locked process in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Layer {
    pub name: Cow<'static, str>,
    /// In words for people.
    pub stops: Cow<'static, str>,
    pub status: Status,
}

impl Layer {
    fn new(name: &'static str, stops: &'static str, status: Status) -> Self {
        Layer { name: name.into(), stops: stops.into(), status }
    }

    pub fn is_enforced(&self) -> bool {
        self.status == Status::Enforced
    }

    pub fn is_off(&self) -> bool {
        matches!(self.status, Status::Off(_))
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.status {
            Status::Enforced => write!(f, "{}: enforced", self.name),
            Status::Partial(what) => write!(f, "{}: partial: {what}", self.name),
            Status::Off(why) => write!(f, "{}: off: {why}", self.name),
        }
    }
}

impl Status {
    /// `Off` with the reason if something went wrong.
    fn of<E: std::error::Error>(result: Result<Status, E>) -> Status {
        result.unwrap_or_else(|error| Status::Off(reason(&error)))
    }

    /// The same, held back to `Partial` if there is a `lack`.
    fn but(self, lack: Option<&str>) -> Status {
        match (self, lack) {
            (Status::Enforced, Some(lack)) => Status::Partial(lack.to_owned()),
            (Status::Partial(other), Some(lack)) => Status::Partial(format!("{other}; {lack}")),
            (status, _) => status,
        }
    }
}

/// Locks the calling process for good. Call it with one thread: other threads that run already keep
/// their rights to files and their capabilities, and the layers in question say `Partial`.
pub fn lock(rules: &Rules) -> Vec<Layer> {
    let threads = other_threads();
    let threads = threads.as_deref();
    let mut layers = limits::apply(rules);
    layers.push(Layer::new(
        "privileges",
        "gaining rights from set-user-id programs",
        rights::no_new_privileges().but(threads),
    ));
    layers.push(Layer::new(
        "capabilities",
        "use of the superuser's rights",
        rights::drop_capabilities(!rules.dirs.is_empty()).but(threads),
    ));
    layers.push(Layer::new(
        "landlock",
        "files outside the granted directories, TCP connections, abstract sockets, signals to others",
        landlock::restrict(&rules.dirs).but(threads),
    ));
    layers.push(Layer::new(
        "no new code",
        "memory that was writable and becomes executable",
        rights::refuse_exec_gain(),
    ));
    // The last, because it refuses what the others need.
    layers.push(Layer::new(
        "system calls",
        "all system calls but those needed: no programs, processes, sockets, executable memory, kernel extras",
        seccomp::filter(rules),
    ));
    layers
}

/// What is wrong if this process has more threads than the calling one.
fn other_threads() -> Option<String> {
    match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
        Ok(1) => None,
        Ok(count) => Some(format!("{} threads that ran before are not covered", count - 1)),
        Err(error) => Some(format!("cannot tell if other threads run, and those are not covered: {error}")),
    }
}

/// The error and its causes in one line.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // Some errors repeat their cause in their own text.
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
