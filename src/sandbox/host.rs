//! What a guest can reach: clocks, random, its captured streams, an empty file system, and
//! Sandclock's own `run` and `log`. Anything else is not linked at all.

use super::engine::{RANDOM_BYTES_MAX, RESOURCES_MAX};
use super::limiter::Limiter;
use super::output::Captured;
use crate::invalid::printable;
use crate::job::Limits;
use crate::run::{LogLevel, LogLine, Run, RunLogs};
use chrono::{DateTime, Utc};
use std::time::Duration;
use wasmtime::component::{ComponentType, HasData, Lift, Linker, Lower, ResourceTable};
use wasmtime::{Result, StoreContextMut, Trap};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, WasiCli, WasiCliView};
use wasmtime_wasi::clocks::{HostWallClock, WasiClocks, WasiClocksView};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p2::{InputStream, bindings, pipe::ClosedInputStream};
use wasmtime_wasi::random::{WasiRandom, WasiRandomView};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

/// The interfaces that are linked, without their versions.
pub const LINKED: &[(&str, &str)] = &[
    ("wasi:io/error", "streams"),
    ("wasi:io/poll", "streams"),
    ("wasi:io/streams", "streams"),
    ("wasi:clocks/wall-clock", "clocks"),
    ("wasi:clocks/monotonic-clock", "clocks"),
    ("wasi:random/random", "random numbers"),
    ("wasi:random/insecure", "random numbers"),
    ("wasi:random/insecure-seed", "random numbers"),
    ("wasi:cli/environment", "arguments; environment variables (none are given)"),
    ("wasi:cli/exit", "its own exit"),
    ("wasi:cli/stdin", "standard input (it is empty)"),
    ("wasi:cli/stdout", "standard output (it is captured)"),
    ("wasi:cli/stderr", "standard error (it is captured)"),
    ("wasi:cli/terminal-input", "terminal (there is none)"),
    ("wasi:cli/terminal-output", "terminal (there is none)"),
    ("wasi:cli/terminal-stdin", "terminal (there is none)"),
    ("wasi:cli/terminal-stdout", "terminal (there is none)"),
    ("wasi:cli/terminal-stderr", "terminal (there is none)"),
    ("wasi:filesystem/types", "files (none are given)"),
    ("wasi:filesystem/preopens", "files (none are given)"),
    ("sandclock:plugin/run", "who it is: job, run, scheduled time, attempt, deadline, fuel left"),
    ("sandclock:plugin/log", "levelled log lines"),
];

/// What interfaces that are not linked stand for, by prefix.
pub const NOT_LINKED: &[(&str, &str)] = &[
    ("wasi:http/", "outgoing HTTP"),
    ("wasi:sockets/", "network sockets"),
    ("wasi:keyvalue/", "a key-value store"),
    ("sandclock:plugin/state", "a key-value state"),
    ("wasi:config/", "configuration"),
    ("wasi:blobstore/", "a blob store"),
    ("wasi:messaging/", "messaging"),
    ("wasi:threads/", "threads"),
    ("wasi:nn/", "machine learning"),
];

/// Fuel that a log line costs, beside one for each byte.
const LOG_FUEL: u64 = 1000;
/// Log lines kept of one run.
const LOG_LINES_MAX: usize = 1000;

/// A run's own state in its store.
pub struct State {
    ctx: WasiCtx,
    table: ResourceTable,
    pub limiter: Limiter,
    stdout: Captured,
    stderr: Captured,
    info: Info,
    log: Vec<LogLine>,
    log_bytes_left: usize,
}

/// The record `info` of `sandclock:plugin/run`.
#[derive(ComponentType, Lift, Lower, Clone, Debug)]
#[component(record)]
struct Info {
    #[component(name = "job-id")]
    job_id: String,
    #[component(name = "run-id")]
    run_id: String,
    #[component(name = "scheduled-time")]
    scheduled_time: Instant,
    attempt: u32,
    deadline: Instant,
}

/// The record `instant`: time since 1970-01-01 00:00:00 UTC.
#[derive(ComponentType, Lift, Lower, Clone, Copy, Debug)]
#[component(record)]
struct Instant {
    seconds: i64,
    nanoseconds: u32,
}

/// The enum `level` of `sandclock:plugin/log`.
#[derive(ComponentType, Lift, Lower, Clone, Copy, Debug)]
#[expect(dead_code, reason = "the guest makes them")]
#[component(enum)]
#[repr(u8)]
enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

impl From<DateTime<Utc>> for Instant {
    fn from(at: DateTime<Utc>) -> Self {
        Instant { seconds: at.timestamp(), nanoseconds: at.timestamp_subsec_nanos() }
    }
}

impl State {
    pub fn new(run: &Run, limits: &Limits, deadline: DateTime<Utc>, argv: &[String]) -> Self {
        let (stdout, stderr) = (Captured::new(limits.output), Captured::new(limits.output));
        let mut wasi = WasiCtx::builder();
        wasi.stdin(NoInput)
            .stdout(stdout.clone())
            .stderr(stderr.clone())
            .args(argv)
            .wall_clock(WallClock)
            .max_random_size(RANDOM_BYTES_MAX)
            .allow_blocking_current_thread(false);
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        State {
            ctx: wasi.build(),
            table,
            limiter: Limiter::new(limits.memory),
            stdout,
            stderr,
            info: Info {
                job_id: run.job_id.to_string(),
                run_id: run.id.to_string(),
                scheduled_time: run.scheduled_time.into(),
                attempt: run.attempt,
                deadline: deadline.into(),
            },
            log: Vec::new(),
            log_bytes_left: usize::try_from(limits.output).unwrap_or(usize::MAX),
        }
    }

    pub fn logs(&self) -> RunLogs {
        RunLogs { stdout: self.stdout.text(), stderr: self.stderr.text(), log: self.log.clone() }
    }

    fn log(&mut self, level: Level, message: &str) {
        if self.log.len() >= LOG_LINES_MAX || message.len() > self.log_bytes_left {
            return;
        }
        self.log_bytes_left -= message.len();
        let level = match level {
            Level::Trace => LogLevel::Trace,
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error => LogLevel::Error,
        };
        self.log.push(LogLine { level, message: printable(message, usize::MAX) });
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.ctx, table: &mut self.table }
    }
}

struct Io;

impl HasData for Io {
    type Data<'a> = &'a mut ResourceTable;
}

/// Links exactly the interfaces of [`LINKED`].
pub fn link(linker: &mut Linker<State>) -> Result<()> {
    bindings::io::error::add_to_linker::<State, Io>(linker, |state| state.ctx().table)?;
    bindings::io::poll::add_to_linker::<State, Io>(linker, |state| state.ctx().table)?;
    bindings::io::streams::add_to_linker::<State, Io>(linker, |state| state.ctx().table)?;
    bindings::clocks::wall_clock::add_to_linker::<State, WasiClocks>(linker, State::clocks)?;
    bindings::clocks::monotonic_clock::add_to_linker::<State, WasiClocks>(linker, State::clocks)?;
    bindings::random::random::add_to_linker::<State, WasiRandom>(linker, State::random)?;
    bindings::random::insecure::add_to_linker::<State, WasiRandom>(linker, State::random)?;
    bindings::random::insecure_seed::add_to_linker::<State, WasiRandom>(linker, State::random)?;
    bindings::cli::environment::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    bindings::cli::exit::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    bindings::cli::stdin::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    bindings::cli::stdout::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    bindings::cli::stderr::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    bindings::cli::terminal_input::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    bindings::cli::terminal_output::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    bindings::cli::terminal_stdin::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    bindings::cli::terminal_stdout::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    bindings::cli::terminal_stderr::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    bindings::filesystem::types::add_to_linker::<State, WasiFilesystem>(linker, State::filesystem)?;
    bindings::filesystem::preopens::add_to_linker::<State, WasiFilesystem>(linker, State::filesystem)?;

    let mut run = linker.instance("sandclock:plugin/run@1.0.0")?;
    run.func_wrap("current", |store: StoreContextMut<'_, State>, (): ()| Ok((store.data().info.clone(),)))?;
    run.func_wrap("fuel-left", |store: StoreContextMut<'_, State>, (): ()| Ok((store.get_fuel()?,)))?;
    let mut log = linker.instance("sandclock:plugin/log@1.0.0")?;
    log.func_wrap_async("log", |mut store: StoreContextMut<'_, State>, (level, message): (Level, String)| {
        Box::new(async move {
            // The host's work is paid for like the guest's, and gives way like it: otherwise a guest
            // that does nothing but log large lines would outrun its limits.
            let cost = LOG_FUEL + message.len() as u64;
            let left = store.get_fuel()?.checked_sub(cost).ok_or(Trap::OutOfFuel)?;
            store.set_fuel(left)?;
            store.data_mut().log(level, &message);
            tokio::task::yield_now().await;
            Ok(())
        })
    })
}

struct NoInput;

impl IsTerminal for NoInput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for NoInput {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncRead + Send + Sync> {
        Box::new(tokio::io::empty())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(ClosedInputStream)
    }
}

/// The engine's own wall clock panics when the host's clock stands before 1970.
struct WallClock;

impl HostWallClock for WallClock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
    }
}
