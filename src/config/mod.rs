//! Where the parts are put together: the one place that knows concrete stores and executors.

mod store;

pub use store::{check_url, is_remote, shown};

use crate::child::THIS_PROGRAM;
use crate::error::{Error, Result};
use crate::executor::{
    ASIDES_MAX, AsyncExecutor, AsyncOptions, Executor, PluginHost, PoolOptions, ProcessExecutor, ThreadPoolExecutor,
};
use crate::job::Alias;
use crate::lease::Lease;
use crate::observe::Metrics;
use crate::outbound::{CALLS_MAX, Outbound};
use crate::sandbox::{Compiler, Registry, Sandbox, SandboxOptions, connect::Direct};
use crate::scheduler::{Drain, Listeners, Scheduler};
use crate::store::{Backup, Counts, HomeLock, MemoryStore, Nodes, SecretStore};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// An installation: a home directory, opened.
#[derive(Clone)]
pub struct App {
    pub scheduler: Scheduler,
    pub registry: Registry,
    /// Listeners that are stored; told while a daemon runs.
    pub listeners: Listeners,
    pub secrets: Arc<dyn SecretStore>,
    /// The executor `default`; `exec` calls it without a job.
    pub executor: Arc<dyn Executor>,
    pub home: PathBuf,
    /// Where the default store is, without a password.
    pub store: String,
    pub node: String,
    /// Calls without a job that may go on at one time; the slots are for jobs.
    pub execs: Arc<Semaphore>,
    pub simulations: Arc<Semaphore>,
    pub wall: Wall,
    /// Copies the default store while it works, if it is in the home.
    pub backup: Option<Arc<dyn Backup>>,
    /// The processes that share the default store, if it is one that is shared.
    pub nodes: Option<Arc<dyn Nodes>>,
    _lock: Option<Arc<HomeLock>>,
    pub metrics: Arc<Metrics>,
    /// When it was opened.
    pub started: DateTime<Utc>,
}

/// How long the store may take that is asked whether it is well.
pub const STORE_TIME_MAX: Duration = Duration::from_secs(2);

/// Calls without a job at one time; more wait.
pub const EXECS_MAX: usize = 8;

/// How an installation is opened.
#[derive(Debug, Clone)]
pub struct AppOptions {
    pub home: PathBuf,
    /// The URL of the default store; the home's own, if there is none.
    pub store: Option<String>,
    /// How long this process may be silent before what it runs is taken over, if others share the store.
    pub lease: Duration,
    /// What others call this process, if they share the store; a name of its own, if there is none.
    pub node: Option<String>,
    /// Runs at one time.
    pub slots: usize,
    /// Further executors by name, each with the runs that it may have at one time.
    pub executors: BTreeMap<Alias, usize>,
    pub wall: Wall,
}

impl AppOptions {
    /// A home with its own store.
    pub fn new(home: PathBuf) -> Self {
        AppOptions {
            home,
            store: None,
            lease: Duration::from_secs(10),
            node: None,
            slots: AsyncOptions::SLOTS,
            executors: BTreeMap::new(),
            wall: Wall::Process { strict: false },
        }
    }
}

/// What stands between guests and this process, beside the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Wall {
    /// Guests run in worker processes that have locked themselves in. `strict`: or not at all.
    Process { strict: bool },
    /// Guests run in this process: a hole in the engine is a hole in it.
    None,
}

/// The home directory that is used unless one is given: `sandclock` in the platform's directory for
/// application data.
pub fn default_home() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = var("XDG_DATA_HOME").or_else(|| var("HOME").map(|home| home.join(".local/share")));
    data.map(|data| data.join("sandclock"))
}

/// The daemon's socket in a home directory.
pub fn socket_path(home: &Path) -> PathBuf {
    home.join("socket")
}

impl App {
    /// Opens the store, starts the engine, and puts a stopped scheduler over them.
    pub async fn open(options: AppOptions) -> Result<Self> {
        let AppOptions { home, store: url, lease, node, slots, executors, wall } = options;
        let node = node.unwrap_or_else(|| format!("{}-{}", host_name(), std::process::id()));
        let slots = all_slots(slots, executors)?;
        let runs: usize = slots.iter().map(|(_, slots)| slots).sum();
        let calls = runs + EXECS_MAX + ASIDES_MAX + CALLS_MAX;
        let opened = store::open(url.as_deref(), &home, &node, lease).await?;
        let store::Opened { jobs, plugins, secrets, listeners, clock, lease, backup, nodes, lock } = opened;
        let making = {
            let (home, lease) = (home.clone(), lease.clone());
            move || {
                Sandbox::with(SandboxOptions {
                    runs: if wall == Wall::None { calls } else { 1 },
                    cache: Some(home.join("cache")),
                    compiler: Compiler::child(THIS_PROGRAM.into()),
                    lines: wall != Wall::None,
                    lease,
                    ..SandboxOptions::default()
                })
            }
        };
        let made = tokio::task::spawn_blocking(making).await.map_err(|e| Error::host("opening broke off", e))?;
        let sandbox = Arc::new(made?);
        let started = clock.now();
        let runner = PluginHost::new(sandbox.clone(), plugins.clone(), secrets.clone(), clock.clone());
        let executors = make_executors(runner, &slots, calls, wall, lease)?;
        let (_, executor) = executors.first().cloned().ok_or(Error::NotRunning)?;
        let outbound = Outbound::new(executor.clone(), clock.clone(), node.clone())?;
        let scheduler = Scheduler::new(clock.clone());
        for (alias, executor) in executors {
            scheduler.add_executor(alias, executor).await?;
        }
        scheduler.add_jobstore(Alias::default(), jobs).await?;
        // For jobs that need not outlive the process.
        let memory: Alias = "memory".parse()?;
        scheduler.add_jobstore(memory.clone(), Arc::new(MemoryStore::new(memory, node.clone()))).await?;
        let registry = Registry::new(sandbox, plugins, clock).protecting(&home);
        let listeners = Listeners::new(scheduler.clone(), listeners, Arc::new(outbound), nodes.clone());
        Ok(App {
            scheduler,
            registry,
            listeners,
            secrets,
            executor,
            home,
            store: url.as_deref().map_or_else(|| "the home".to_owned(), shown),
            node,
            execs: Arc::new(Semaphore::new(EXECS_MAX)),
            simulations: Arc::new(Semaphore::new(1)),
            wall,
            backup,
            nodes,
            _lock: lock,
            metrics: Arc::default(),
            started,
        })
    }

    /// What the default store holds; `None` if it does not say so within two seconds.
    pub async fn store_counts(&self) -> Option<Result<Counts>> {
        let alias = Alias::default();
        tokio::time::timeout(STORE_TIME_MAX, self.scheduler.counts(&alias)).await.ok()
    }

    /// Whether the default store answers; `None` if it does not within two seconds.
    pub async fn store_answers(&self) -> Option<Result<()>> {
        let alias = Alias::default();
        let answered = tokio::time::timeout(STORE_TIME_MAX, self.scheduler.last_event(&alias)).await;
        answered.ok().map(|answer| answer.map(drop))
    }

    /// Ends what runs within `grace` and closes the store.
    pub async fn close(&self, grace: Duration) -> Result<()> {
        self.listeners.stop().await;
        self.scheduler.shutdown(Drain::For(grace)).await
    }
}

/// The name of the executor that runs plugins on threads of its own.
pub const THREADS: &str = "threadpool";

/// The executors and the runs that each may have: `default` first, `threadpool`, and those that were
/// asked for. A node that runs nothing has none for either.
fn all_slots(slots: usize, further: BTreeMap<Alias, usize>) -> Result<Vec<(Alias, usize)>> {
    let threads = if slots == 0 { 0 } else { ThreadPoolExecutor::SLOTS };
    let given = [(Alias::default(), slots), (THREADS.parse()?, threads)];
    Ok(given.into_iter().chain(further).collect())
}

/// Makes the executors. Behind a wall all of them are worker processes, `calls` of them at most.
fn make_executors(
    plugins: PluginHost,
    slots: &[(Alias, usize)],
    calls: usize,
    wall: Wall,
    lease: Lease,
) -> Result<Vec<(Alias, Arc<dyn Executor>)>> {
    let Wall::Process { strict } = wall else {
        let make = |(alias, slots): &(Alias, usize)| -> Result<(Alias, Arc<dyn Executor>)> {
            let plugins = plugins.clone();
            let executor: Arc<dyn Executor> = match alias.as_str() {
                THREADS if *slots > 0 => Arc::new(ThreadPoolExecutor::new(plugins, *slots)?),
                _ => Arc::new(AsyncExecutor::new(plugins, &AsyncOptions { slots: *slots, ..AsyncOptions::default() })?),
            };
            Ok((alias.clone(), executor))
        };
        return slots.iter().map(make).collect();
    };
    let options = PoolOptions {
        program: THIS_PROGRAM.into(),
        workers: calls,
        strict,
        connect: Arc::new(Direct::default()),
        lease,
    };
    let workers = ProcessExecutor::new(plugins, 0, options)?;
    let make = |(alias, slots): &(Alias, usize)| -> (Alias, Arc<dyn Executor>) {
        (alias.clone(), Arc::new(workers.with_slots(*slots)))
    };
    Ok(slots.iter().map(make).collect())
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = crate::invalid::printable(name.trim(), 64);
    if name.is_empty() { "local".into() } else { name }
}
