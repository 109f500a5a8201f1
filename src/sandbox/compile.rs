//! Compiling, which is hostile input too: a few kilobytes can make the compiler take gigabytes or
//! minutes, and it cannot be interrupted. So it is done by a child process that has locked itself in:
//! no files, no network, a limit on memory, processor time and time. It is sent the component and
//! sends code back.

use super::cache::COMPILED_BYTES_MAX;
use super::{COMPONENT_BYTES_MAX, engine, refused};
use crate::error::{Error, Result};
use crate::invalid::printable;
use crate::jail::{self, Rules};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use wasmtime::Engine;

/// Longest time that compiling a component may take, on the clock and of the processor.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Memory that the compiler may use.
const MEMORY_MAX: u64 = 1 << 30;
/// Bytes of code for each byte of a component, and for any. What has more is made of repetitions, such
/// as instances within instances, which the daemon would unfold when it loads them.
const EXPANSION_MAX: usize = 64;
const CODE_BYTES_FREE: usize = 1 << 20;
const WAIT: Duration = Duration::from_millis(5);

/// Where components are compiled.
#[derive(Clone)]
pub enum Compiler {
    /// In this process: for components whose authors are trusted.
    InProcess,
    /// By a child: this program is called as a child, and answers by [`child`]. One at a time.
    Child { program: PathBuf, one: Arc<Mutex<()>> },
}

impl Compiler {
    pub fn child(program: PathBuf) -> Self {
        Compiler::Child { program, one: Arc::default() }
    }

    pub(super) fn compile(&self, engine: &Engine, lines: bool, bytes: &[u8]) -> Result<Vec<u8>> {
        let code = match self {
            Compiler::InProcess => engine.precompile_component(bytes).map_err(|e| refused(&e))?,
            Compiler::Child { program, one } => {
                let _one = one.lock().unwrap_or_else(PoisonError::into_inner);
                in_child(program, lines, bytes)?
            }
        };
        if code.len() > COMPILED_BYTES_MAX {
            let reason = format!("compiled it has {} bytes, the most is {COMPILED_BYTES_MAX}", code.len());
            return Err(Error::PluginRefused { reason });
        }
        Ok(code)
    }
}

const BOMB: &str = "it breaks the compiler: ";

/// Whether a component was refused because compiling it used up its limits.
pub(super) fn is_bomb(reason: &str) -> bool {
    reason.starts_with(BOMB)
}

fn in_child(program: &Path, lines: bool, bytes: &[u8]) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| Error::host("cannot start the compiler", e);
    let mut command = jail::child(program, "compile");
    command.env("MIMALLOC_ARENA_RESERVE", "64MiB");
    if lines {
        command.arg("lines");
    }
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(failed)?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let most = COMPILED_BYTES_MAX.min(CODE_BYTES_FREE + bytes.len().saturating_mul(EXPANSION_MAX));
    let read = std::thread::spawn(move || {
        let mut answer = Vec::new();
        // The byte before the code, and one that says that there is too much.
        let limit = most as u64 + 2;
        stdout.map(|stdout| stdout.take(limit).read_to_end(&mut answer)).transpose().map(|read| read.map(|_| answer))
    });
    let begun = Instant::now();
    std::thread::scope(|scope| {
        // A child that has died does not read; how it ended says why.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(bytes)));
        let status = wait(&mut child, begun + TIME_MAX).map_err(failed)?;
        let answer = read.join().map_err(|_| Error::host("the compiler's answer broke off", "a panic"))?;
        let answer = answer.map_err(failed)?.unwrap_or_default();
        if answer.len() > most + 1 {
            let reason = format!("{BOMB}its {} bytes become more than {most} bytes of code", bytes.len());
            return Err(Error::PluginRefused { reason });
        }
        judge(status, &answer)
    })
}

/// Waits for the child; one that takes too long is killed.
fn wait(child: &mut Child, until: Instant) -> std::io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(WAIT);
    }
}

/// How a process ends that aborts. musl's own `abort` raises its signal by a call that the jail refuses,
/// and falls back on an instruction that is no program's.
const ABORTED: i32 = if cfg!(target_env = "musl") { libc::SIGSEGV } else { libc::SIGABRT };

fn judge(status: Option<ExitStatus>, answer: &[u8]) -> Result<Vec<u8>> {
    let bomb = |what: String| Err(Error::PluginRefused { reason: format!("{BOMB}{what}") });
    let seconds = TIME_MAX.as_secs();
    let Some(status) = status else { return bomb(format!("it takes longer than {seconds} s")) };
    if status.success() {
        return match answer.split_first() {
            Some((0, code)) => Ok(code.to_vec()),
            Some((_, reason)) => Err(Error::PluginRefused { reason: printable(&String::from_utf8_lossy(reason), 400) }),
            None => Err(Error::host("the compiler gave no answer", "nothing was written")),
        };
    }
    match std::os::unix::process::ExitStatusExt::signal(&status) {
        Some(libc::SIGXCPU | libc::SIGKILL) => bomb(format!("it takes more than {seconds} s of processor time")),
        Some(ABORTED) => bomb(format!("it takes more than {} MiB of memory", MEMORY_MAX >> 20)),
        Some(signal) => bomb(format!("it dies of signal {signal}")),
        None => Err(Error::host("the compiler failed", status.to_string())),
    }
}

/// What the child does: locks itself in, compiles what it reads, writes the code. Never returns an
/// error that matters: what it wrote and how it ended is the answer.
pub fn child(parent: u32, lines: bool) -> std::io::Result<()> {
    jail::before(parent, &[])?;
    let engine = engine::compiler(lines).map_err(std::io::Error::other)?;
    let layers = jail::lock(&Rules {
        data_bytes: MEMORY_MAX,
        cpu: Some(TIME_MAX),
        open_files: 16,
        file_bytes: 0,
        dirs: Vec::new(),
        threads: false,
        sockets: false,
    });
    if layers.iter().any(|layer| layer.name == jail::MEMORY_LIMIT && layer.is_off()) {
        return Err(std::io::Error::other("its memory cannot be limited"));
    }
    let mut bytes = Vec::new();
    std::io::stdin().take(COMPONENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    let mut out = std::io::stdout().lock();
    match engine.precompile_component(&bytes) {
        Ok(code) => {
            out.write_all(&[0])?;
            out.write_all(&code)?;
        }
        Err(error) => {
            out.write_all(&[1])?;
            out.write_all(format!("{error:#}").replace('\n', " ").as_bytes())?;
        }
    }
    out.flush()
}
