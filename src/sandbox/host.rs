//! What a guest can reach: clocks, random, its captured streams, Sandclock's own `run` and `log`, and
//! what it was granted. Anything else is not linked at all.

use super::dear;
use super::engine::{RANDOM_BYTES_MAX, RESOURCES_MAX};
use super::errors::Errors;
use super::files::{Files, Quotas, Shares, WasiFiles};
use super::http::{Client, FIELDS_BYTES_MAX, Http};
use super::interfaces::{self, Info};
use super::limiter::Limiter;
use super::output::Written;
use super::redact::Redactor;
use super::setting::{Given, Setting, Uses};
use crate::grant::{Capability, Use};
use crate::lease::Term;
use crate::run::{LogLevel, LogLine, RunLogs};
use crate::values::{Draft, ValueChanges};
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;
use wasmtime::Result;
use wasmtime::component::{HasData, Linker, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, WasiCli, WasiCliView};
use wasmtime_wasi::clocks::{HostMonotonicClock, HostWallClock, WasiClocks, WasiClocksView};
use wasmtime_wasi::p2::{InputStream, bindings, pipe::ClosedInputStream};
use wasmtime_wasi::random::{Deterministic, WasiRandom, WasiRandomView};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::http as wasi_http;
use wasmtime_wasi_http::{WasiHttp, WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// An interface that can be linked: its name without its version, what it is in words, and what must
/// be granted for it.
pub struct Offered(pub &'static str, pub &'static str, pub Option<Capability>);

/// Everything that a plugin may ask for.
pub const OFFERED: &[Offered] = &[
    Offered("wasi:io/error", "streams", None),
    Offered("wasi:io/poll", "streams", None),
    Offered("wasi:io/streams", "streams", None),
    Offered("wasi:clocks/wall-clock", "clocks", None),
    Offered("wasi:clocks/monotonic-clock", "clocks", None),
    Offered("wasi:random/random", "random numbers", None),
    Offered("wasi:random/insecure", "random numbers", None),
    Offered("wasi:random/insecure-seed", "random numbers", None),
    Offered("wasi:cli/environment", "arguments; environment variables (those that are granted)", None),
    Offered("wasi:cli/exit", "its own exit", None),
    Offered("wasi:cli/stdin", "standard input (it is empty)", None),
    Offered("wasi:cli/stdout", "standard output (it is captured)", None),
    Offered("wasi:cli/stderr", "standard error (it is captured)", None),
    Offered("wasi:cli/terminal-input", "terminal (there is none)", None),
    Offered("wasi:cli/terminal-output", "terminal (there is none)", None),
    Offered("wasi:cli/terminal-stdin", "terminal (there is none)", None),
    Offered("wasi:cli/terminal-stdout", "terminal (there is none)", None),
    Offered("wasi:cli/terminal-stderr", "terminal (there is none)", None),
    Offered("wasi:filesystem/types", "files (in directories that are granted)", None),
    Offered("wasi:filesystem/preopens", "files (in directories that are granted)", None),
    Offered("sandclock:plugin/run", "who it is: job, run, scheduled time, attempt, deadline, fuel left", None),
    Offered("sandclock:plugin/log", "levelled log lines", None),
    Offered("wasi:http/types", "outgoing HTTP", Some(Capability::Http)),
    Offered("wasi:http/outgoing-handler", "outgoing HTTP", Some(Capability::Http)),
    Offered("sandclock:plugin/state", "a key-value state", Some(Capability::State)),
    Offered("sandclock:plugin/secrets", "secrets", Some(Capability::Secrets)),
];

/// What interfaces that nobody is given stand for, by prefix.
pub const NOT_OFFERED: &[(&str, &str)] = &[
    ("wasi:http/incoming-handler", "incoming HTTP"),
    ("wasi:sockets/", "network sockets"),
    ("wasi:keyvalue/", "a key-value store (there is `sandclock:plugin/state`)"),
    ("wasi:config/", "configuration (there are arguments, and environment variables)"),
    ("wasi:logging/", "a log (there is `sandclock:plugin/log`)"),
    ("wasi:blobstore/", "a blob store"),
    ("wasi:messaging/", "messaging"),
    ("wasi:threads/", "threads"),
    ("wasi:nn/", "machine learning"),
];

/// A run's own state in its store.
pub struct State {
    ctx: WasiCtx,
    table: ResourceTable,
    pub limiter: Limiter,
    pub written: Written,
    pub info: Info,
    pub given: Given,
    pub uses: Uses,
    pub draft: Draft,
    quotas: Quotas,
    http_ctx: WasiHttpCtx,
    /// Of a plugin that imports it.
    http: Option<Http>,
}

impl State {
    /// Errors: a granted directory that cannot be given; in words.
    pub async fn new(
        setting: &Setting,
        argv: &[String],
        client: Option<(Arc<Client>, Term)>,
        shares: &Shares,
    ) -> Result<Self, String> {
        let limits = &setting.limits;
        let given = setting.given.clone();
        let written = Written::new(limits.output, Redactor::new(given.secrets.values()));
        setting.live.show(written.clone());
        let mut wasi = WasiCtx::builder();
        wasi.stdin(NoInput)
            .stdout(written.stdout())
            .stderr(written.stderr())
            .args(argv)
            .envs(&given.grants.env.iter().collect::<Vec<_>>())
            .wall_clock(WallClock)
            .max_random_size(RANDOM_BYTES_MAX)
            .allow_blocking_current_thread(false);
        if setting.deterministic {
            let seed = Sha256::digest(format!("{} {}", setting.job_id, setting.scheduled_time.to_rfc3339()));
            wasi.wall_clock(Standing(setting.scheduled_time))
                .monotonic_clock(Standing(setting.scheduled_time))
                .secure_random(Deterministic::new(seed.to_vec()))
                .insecure_random(Deterministic::new(seed.to_vec()))
                .insecure_random_seed(seed.iter().take(16).fold(0, |sum, byte| sum << 8 | u128::from(*byte)));
        }
        let uses = Uses::default();
        let quotas = Quotas::open(&mut wasi, &given, shares).await?;
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        let mut http_ctx = WasiHttpCtx::new();
        http_ctx.set_field_size_limit(FIELDS_BYTES_MAX);
        Ok(State {
            ctx: wasi.build(),
            table,
            limiter: Limiter::new(limits.memory),
            written,
            info: Info {
                job_id: setting.job_id.to_string(),
                run_id: setting.run_id.to_string(),
                scheduled_time: setting.scheduled_time.into(),
                attempt: setting.attempt,
                deadline: setting.deadline().into(),
            },
            http: client.map(|(client, term)| Http::new(client, term, &given, uses.clone(), setting.fence())),
            http_ctx,
            draft: Draft::new(given.values.clone()),
            quotas,
            uses,
            given,
        })
    }

    /// What it wrote, without its secrets; and what it was denied, so that the log says so.
    pub fn logs(&self, uses: &[Use]) -> RunLogs {
        let mut logs = self.written.logs();
        for denied in uses.iter().filter(|used| used.denied) {
            let message = format!("sandclock: denied: {} (`{}` would grant it)", denied.what, denied.what.flag());
            logs.log.push(LogLine { level: LogLevel::Warn, message });
        }
        logs
    }

    /// What the guest changed of its job's state.
    pub fn changes(&mut self) -> ValueChanges {
        std::mem::take(&mut self.draft).into_changes()
    }

    fn files(&mut self) -> Files<'_> {
        let view = WasiCtxView { ctx: &mut self.ctx, table: &mut self.table };
        Files::new(view, &mut self.quotas, &self.uses)
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.ctx, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http_ctx,
            table: &mut self.table,
            hooks: self.http.as_mut().unwrap_or_else(|| unreachable!("it is linked for those that have it")),
        }
    }
}

struct Io;

impl HasData for Io {
    type Data<'a> = &'a mut ResourceTable;
}

struct IoErrors;

impl HasData for IoErrors {
    type Data<'a> = Errors<'a>;
}

/// Links what every plugin may import.
pub fn link(linker: &mut Linker<State>) -> Result<()> {
    bindings::io::error::add_to_linker::<State, IoErrors>(linker, |state| Errors(state.ctx().table))?;
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
    bindings::filesystem::types::add_to_linker::<State, WasiFiles>(linker, State::files)?;
    bindings::filesystem::preopens::add_to_linker::<State, WasiFiles>(linker, State::files)?;
    dear::link(linker)?;
    interfaces::link(linker)
}

/// Links what a capability is for.
pub fn link_granted(linker: &mut Linker<State>, capability: Capability) -> Result<()> {
    match capability {
        Capability::Http => {
            let options = wasmtime_wasi_http::p2::bindings::LinkOptions::default();
            wasi_http::types::add_to_linker::<State, WasiHttp>(linker, &(&options).into(), State::http)?;
            wasi_http::outgoing_handler::add_to_linker::<State, WasiHttp>(linker, State::http)
        }
        Capability::State => interfaces::link_state(linker),
        Capability::Secrets => interfaces::link_secrets(linker),
        Capability::Env | Capability::Files => Ok(()),
    }
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

/// A clock that stands.
struct Standing(DateTime<Utc>);

impl HostWallClock for Standing {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        Duration::new(self.0.timestamp().max(0).unsigned_abs(), self.0.timestamp_subsec_nanos().min(999_999_999))
    }
}

impl HostMonotonicClock for Standing {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        u64::try_from(HostWallClock::now(self).as_nanos()).unwrap_or(u64::MAX)
    }
}
