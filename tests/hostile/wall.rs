//! A bench that holds one wall and measures what gets through it: each case is registered and run as
//! the daemon would do it, while a neighbour's runs go on.

use crate::heap;
use crate::measure::{self, Neighbour};
use sandclock::executor::{Began, Report};
use sandclock::sandbox::connect::{Connect, Direct};
use sandclock::sandbox::{AddPlugin, Compiler, Registry, Sandbox, SandboxOptions};
use sandclock::store::{Claimed, MemoryPluginStore, MemorySecretStore, SecretStore};
use sandclock::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// The program that is called as a worker and as a compiler.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_sandclock");
/// How much later than its deadline a run may end.
const LATE: Duration = Duration::from_millis(200);
/// How late a neighbour's run may be.
const NEIGHBOUR_LATE: Duration = Duration::from_millis(500);
const MIB: u64 = 1 << 20;
/// Bytes that a case may leave allocated: its plugin is kept, and the neighbour has a run.
const LEFT: usize = 8 << 20;
/// Bytes of memory that a group may leave in use: what the allocator and the pools keep for the next one.
const KEPT: usize = 192 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wall {
    Async,
    Process,
}

/// What a case runs.
pub enum Guest {
    /// `tests/hostile/wat/NAME.wat`.
    Wat(&'static str),
    /// A plugin of this repository.
    Plugin(&'static str),
    Made(&'static str, Vec<u8>),
}

/// A class that a case may end in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Kind(OutcomeKind),
    Trap(&'static str),
    /// At registration, with this in the reason.
    Refused(&'static str),
}

impl From<OutcomeKind> for End {
    fn from(kind: OutcomeKind) -> Self {
        End::Kind(kind)
    }
}

type Look = Box<dyn Fn(&Report)>;

/// One attempt, and how it should end.
pub struct Case {
    id: &'static str,
    guest: Guest,
    export: &'static str,
    args: Vec<Value>,
    pub limits: Limits,
    grants: Grants,
    cancel: Option<Duration>,
    late: Duration,
    ends: Vec<End>,
    look: Option<Look>,
}

/// The limits of most cases.
pub fn narrow() -> Limits {
    Limits { fuel: 200_000_000, memory: 16 << 20, timeout: Duration::from_secs(5), ..Limits::default() }
}

pub fn wat(id: &'static str, name: &'static str) -> Case {
    Case::new(id, Guest::Wat(name), "run")
}

pub fn hostile(id: &'static str, export: &'static str) -> Case {
    Case::new(id, Guest::Plugin("hostile"), export)
}

pub fn surfer(id: &'static str, export: &'static str) -> Case {
    Case::new(id, Guest::Plugin("surfer"), export)
}

pub fn made(id: &'static str, name: &'static str, bytes: Vec<u8>) -> Case {
    Case::new(id, Guest::Made(name, bytes), "run")
}

impl Case {
    fn new(id: &'static str, guest: Guest, export: &'static str) -> Self {
        let (args, ends, look, cancel) = (Vec::new(), Vec::new(), None, None);
        Case { id, guest, export, args, limits: narrow(), grants: Grants::default(), cancel, late: LATE, ends, look }
    }

    pub fn args(self, args: Value) -> Self {
        Case { args: args.as_array().cloned().unwrap_or_default(), ..self }
    }

    pub fn export(self, export: &'static str) -> Self {
        Case { export, ..self }
    }

    pub fn fuel(mut self, fuel: u64) -> Self {
        self.limits.fuel = fuel;
        self
    }

    /// As much fuel as there is: the time decides.
    pub fn for_ms(mut self, milliseconds: u64) -> Self {
        (self.limits.fuel, self.limits.timeout) = (Limits::FUEL_MAX, Duration::from_millis(milliseconds));
        self
    }

    pub fn memory(mut self, mebibytes: u64) -> Self {
        self.limits.memory = mebibytes * MIB;
        self
    }

    pub fn grants(self, grants: Grants) -> Self {
        Case { grants, ..self }
    }

    pub fn cancelled_after(self, milliseconds: u64) -> Self {
        Case { cancel: Some(Duration::from_millis(milliseconds)), ..self }
    }

    /// The host does one thing for so long that it may end that much later.
    pub fn late_by(self, milliseconds: u64) -> Self {
        Case { late: LATE + Duration::from_millis(milliseconds), ..self }
    }

    pub fn ends(mut self, end: impl Into<End>) -> Self {
        self.ends.push(end.into());
        self
    }

    pub fn traps(self, kind: &'static str) -> Self {
        self.ends(End::Trap(kind))
    }

    pub fn refused(self, reason: &'static str) -> Self {
        self.ends(End::Refused(reason))
    }

    /// Succeeds with this value.
    pub fn gives(self, value: Value) -> Self {
        self.ends(OutcomeKind::Succeeded).looks(move |report| {
            let Outcome::Succeeded { value: given } = &report.outcome else { return };
            assert_eq!(*given, value);
        })
    }

    /// What else must hold of the report; panics if it does not.
    pub fn looks(self, look: impl Fn(&Report) + 'static) -> Self {
        Case { look: Some(Box::new(look)), ..self }
    }

    fn title(&self) -> String {
        let guest = match &self.guest {
            Guest::Wat(name) | Guest::Plugin(name) | Guest::Made(name, _) => name,
        };
        let mut args = Value::from(self.args.clone()).to_string();
        args.truncate(args.floor_char_boundary(80));
        format!("{} {guest}:{}{args}", self.id, self.export)
    }
}

/// Whether each case is to be shown with its time.
fn verbose() -> bool {
    std::env::var_os("SANDCLOCK_HOSTILE_VERBOSE").is_some()
}

/// Builds the plugins once.
pub fn plugin(name: &str) -> Vec<u8> {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
        let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins");
        let mut build = std::process::Command::new(plugins.join("build.sh"));
        // The cargo that runs this test hands down settings that are meant for it alone.
        let built = build.arg("--quiet").env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS").status();
        assert!(built.unwrap().success(), "the plugins do not build");
        plugins.join("target/wasm32-wasip2/release")
    });
    std::fs::read(BUILT.join(name).with_extension("wasm")).unwrap()
}

pub fn text_of(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hostile/wat");
    std::fs::read_to_string(dir.join(name).with_extension("wat")).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

/// Of this process, before the first case.
struct Before {
    files: usize,
    tasks: usize,
    resident: usize,
}

/// One wall with plugins behind it.
pub struct Bench {
    pub wall: Wall,
    pub executor: Arc<dyn Executor>,
    inside: Option<Arc<AsyncExecutor>>,
    pub registry: Registry,
    pub secrets: Arc<MemorySecretStore>,
    neighbour: Neighbour,
    before: Before,
    named: usize,
    checked: usize,
    failures: Vec<String>,
    _cache: tempfile::TempDir,
}

/// Runs a group of cases behind a wall, while no other group runs.
pub fn group(name: &str, wall: Wall, connect: Arc<dyn Connect>, cases: impl AsyncFnOnce(&mut Bench)) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let begun = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    crate::log::keep();
    crate::fake::start();
    runtime.block_on(async {
        let mut bench = Bench::new(wall, connect).await;
        cases(&mut bench).await;
        bench.finish(name, begun).await;
    });
}

/// The same for cases without connections.
pub fn plain_group(name: &str, wall: Wall, cases: fn() -> Vec<Case>) {
    group(name, wall, Arc::new(Direct::default()), async |bench: &mut Bench| {
        for case in cases() {
            bench.check(case).await;
        }
    });
}

impl Bench {
    pub async fn new(wall: Wall, connect: Arc<dyn Connect>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let cache = tempfile::tempdir().unwrap();
        let (plugins, secrets) = (Arc::new(MemoryPluginStore::default()), Arc::new(MemorySecretStore::default()));
        let sandbox = Sandbox::with(SandboxOptions {
            runs: if wall == Wall::Async { 64 } else { 1 },
            cache: Some(cache.path().to_owned()),
            compiler: Compiler::child(PROGRAM.into()),
            lines: wall == Wall::Process,
            connect: connect.clone(),
            lease: Default::default(),
        });
        let sandbox = Arc::new(sandbox.unwrap());
        let host = PluginHost::new(sandbox.clone(), plugins.clone(), secrets.clone(), clock.clone());
        let registry = Registry::new(sandbox, plugins, clock);
        let mut inside = None;
        let executor: Arc<dyn Executor> = match wall {
            Wall::Async => {
                let executor = Arc::new(AsyncExecutor::new(host, &AsyncOptions { slots: 64, threads: 2 }).unwrap());
                inside = Some(executor.clone());
                executor
            }
            Wall::Process => {
                let options = PoolOptions {
                    program: PROGRAM.into(),
                    workers: 16,
                    strict: false,
                    connect,
                    lease: Default::default(),
                };
                Arc::new(ProcessExecutor::new(host, 64, options).unwrap())
            }
        };
        // What is opened once per process, such as for signals of children, is opened before counting.
        registry.add("neighbour".parse().unwrap(), AddPlugin::default(), wasm(measure::NO_OP)).await.unwrap();
        measure::once(&*executor, &measure::neighbours_job()).await;
        executor.shutdown().await;
        measure::settled(measure::tasks).await;
        let before =
            Before { files: measure::open_files().len(), tasks: measure::tasks(), resident: measure::resident() };
        let neighbour = Neighbour::start(executor.clone());
        let (named, checked, failures) = (0, 0, Vec::new());
        Bench { wall, executor, inside, registry, secrets, neighbour, before, named, checked, failures, _cache: cache }
    }

    pub fn fail(&mut self, what: String) {
        println!("  FAILED ({:?}) {what}", self.wall);
        self.failures.push(what);
    }

    pub async fn secret(&self, name: &str, value: &str) {
        self.secrets.put_secret(&name.parse().unwrap(), value.into()).await.unwrap();
    }

    /// Registers a component under a name, or says why not.
    pub async fn add(&self, name: &str, grants: Grants, bytes: Vec<u8>) -> Result<()> {
        let add = AddPlugin::default().grants(grants);
        self.registry.add(name.parse().unwrap(), add, bytes).await.map(drop)
    }

    /// Runs a function of a registered plugin.
    pub async fn run(&self, job: Job, cancel: Option<Duration>) -> Report {
        self.run_telling(job, cancel, Arc::new(Semaphore::new(0))).await
    }

    /// The same; gives a permit when it has begun.
    pub async fn run_telling(&self, job: Job, cancel: Option<Duration>, begun: Arc<Semaphore>) -> Report {
        let raised = CancellationToken::new();
        let run = measure::run_of(&job);
        let claimed = Claimed { run, job: Arc::new(job), values: Arc::default() };
        let began = Began::new(move |_| begun.add_permits(1));
        let execute = self.executor.execute(claimed, began, raised.clone());
        tokio::pin!(execute);
        if let Some(after) = cancel {
            tokio::select! {
                report = &mut execute => return report,
                () = tokio::time::sleep(after) => raised.cancel(),
            }
        }
        execute.await
    }

    /// Registers and runs a case and sees how it ends.
    pub async fn check(&mut self, case: Case) {
        self.checked += 1;
        let begun = Instant::now();
        let title = case.title();
        let (name, bytes) = match &case.guest {
            Guest::Wat(name) => (*name, wasm(&text_of(name))),
            Guest::Plugin(name) => (*name, plugin(name)),
            Guest::Made(name, bytes) => (*name, bytes.clone()),
        };
        let mut name = name.to_owned();
        if !case.grants.is_empty() {
            self.named += 1;
            name = format!("{name}-{}", self.named);
        }
        if let Err(error) = self.add(&name, case.grants.clone(), bytes).await {
            let text = error.to_string();
            let fits = |end: &End| matches!(end, End::Refused(reason) if text.contains(reason));
            if !matches!(error, Error::PluginRefused { .. }) || !case.ends.iter().any(fits) || text.len() > 1000 {
                self.fail(format!("{title}: refused with: {error}"));
            }
            if verbose() {
                println!("  {title}: {text}");
            }
            return self.neighbour_was_on_time(&title);
        }
        let mut job = measure::job(&format!("{name}:{}", case.export), case.args.clone());
        job.limits = case.limits;
        let held = heap::held();
        let report = self.run(job, case.cancel).await;
        self.judge(&case, &title, &report);
        if verbose() {
            let (ran, all) = (report.ended - report.started.unwrap_or(report.ended), begun.elapsed().as_millis());
            println!("  {title}: {:?} in {} ms of {all} ms", report.outcome.kind(), ran.num_milliseconds());
        }
        drop(report);
        self.settle(&title, held + LEFT).await;
        self.neighbour_was_on_time(&title);
    }

    /// Class, time and memory of a run.
    fn judge(&mut self, case: &Case, title: &str, report: &Report) {
        let kind = report.outcome.kind();
        let fits = |end: &End| match (end, &report.outcome) {
            (End::Kind(wanted), _) => *wanted == kind,
            (End::Trap(wanted), Outcome::Trapped { trap, .. }) => trap == wanted,
            _ => false,
        };
        if !case.ends.iter().any(fits) {
            let mut got = format!("{:?}", report.outcome);
            got.truncate(got.floor_char_boundary(600));
            self.fail(format!("{title}: wanted {:?}, got {got}", case.ends));
        }
        let took = (report.ended - report.started.unwrap_or(report.ended)).to_std().unwrap_or_default();
        let most = match kind {
            OutcomeKind::TimedOut => case.limits.timeout + case.late,
            OutcomeKind::Cancelled => case.cancel.unwrap_or_default() + case.late,
            _ => case.limits.timeout * 9 / 10,
        };
        if took > most {
            self.fail(format!("{title}: took {took:?}, not {most:?}; {kind:?}"));
        }
        if let Some(peak) = report.usage.memory_peak.filter(|peak| *peak > case.limits.memory) {
            self.fail(format!("{title}: it had {peak} bytes of memory"));
        }
        let Some(look) = &case.look else { return };
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look(report)));
        if let Err(panic) = looked {
            let why = panic.downcast_ref::<String>().cloned();
            self.fail(format!(
                "{title}: {}",
                why.or(panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
            ));
        }
    }

    /// What a run leaves in this process.
    async fn settle(&mut self, title: &str, most: usize) {
        if let Some(inside) = self.inside.clone() {
            // The neighbour's may be among them at any moment, so what counts is that they all end.
            if !measure::settled_to(|| inside.tasks(), 0).await {
                self.fail(format!("{title}: {} tasks are left", inside.tasks()));
            }
        }
        if !measure::settled_to(heap::held, most).await {
            let grown = (heap::held() - most) / 1024;
            self.fail(format!("{title}: {grown} KiB of memory too many are held"));
        }
    }

    /// How late each run of the neighbour was, in order.
    pub fn neighbours_lateness(&self) -> Vec<Duration> {
        self.neighbour.all()
    }

    pub fn neighbour_was_on_time(&mut self, title: &str) {
        let (late, failed) = self.neighbour.take();
        if late > NEIGHBOUR_LATE {
            self.fail(format!("{title}: the neighbour was {late:?} late"));
        }
        if let Some(failed) = failed {
            self.fail(format!("{title}: the neighbour failed: {failed}"));
        }
    }

    async fn finish(mut self, name: &str, begun: Instant) {
        let (runs, worst) = self.neighbour.stop().await;
        self.executor.shutdown().await;
        let Before { files, tasks, resident } = self.before;
        if !measure::settled_to(measure::resident, resident + KEPT).await {
            self.fail(format!(
                "{} MiB of memory are in use, before it were {}",
                measure::resident() >> 20,
                resident >> 20
            ));
        }
        if !measure::settled_to(|| measure::open_files().len(), files).await {
            self.fail(format!("files are open, before it were {files}: {:?}", measure::open_files()));
        }
        if !measure::settled_to(measure::tasks, tasks).await {
            self.fail(format!("{} tasks live, before it were {tasks}", measure::tasks()));
        }
        println!(
            "{name} ({:?}): {} cases, {} failed, in {:.1} s; {runs} runs of the neighbour, the latest by {worst:?}",
            self.wall,
            self.checked,
            self.failures.len(),
            begun.elapsed().as_secs_f64(),
        );
        assert!(self.failures.is_empty(), "{:#?}", self.failures);
    }

    /// Counts a check that is made outside of [`Bench::check`].
    pub fn count(&mut self) {
        self.checked += 1;
    }
}

/// A job for a func, with narrow limits.
pub fn job(func: &str, args: Value) -> Job {
    let mut job = measure::job(func, args.as_array().cloned().unwrap_or_default());
    job.limits = narrow();
    job
}

/// Shown with what went wrong.
pub fn shown(report: &Report) -> String {
    json!({ "outcome": report.outcome, "stdout": report.logs.stdout, "stderr": report.logs.stderr }).to_string()
}
