//! Where the parts are put together: the one place that knows concrete stores and executors.

mod store;

pub use store::check_url;

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
const STORE_TIME_MAX: Duration = Duration::from_secs(2);

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
    /// Runs at one time.
    pub slots: usize,
    pub wall: Wall,
}

impl AppOptions {
    /// A home with its own store.
    pub fn new(home: PathBuf) -> Self {
        let (lease, wall) = (Duration::from_secs(10), Wall::Process { strict: false });
        AppOptions { home, store: None, lease, slots: AsyncOptions::SLOTS, wall }
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
        let AppOptions { home, store: url, lease, slots, wall } = options;
        let node = format!("{}-{}", host_name(), std::process::id());
        let opened = store::open(url.as_deref(), &home, &node, lease).await?;
        let store::Opened { jobs, plugins, secrets, listeners, clock, lease, backup, nodes, lock } = opened;
        let making = {
            let (home, lease) = (home.clone(), lease.clone());
            move || {
                let inside = slots + ThreadPoolExecutor::SLOTS + EXECS_MAX + ASIDES_MAX + CALLS_MAX;
                Sandbox::with(SandboxOptions {
                    runs: if wall == Wall::None { inside } else { 1 },
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
        let (executor, threads) = executors(runner, slots, wall, lease)?;
        let outbound = Outbound::new(executor.clone(), clock.clone(), node.clone())?;
        let scheduler = Scheduler::new(clock.clone());
        scheduler.add_executor(Alias::default(), executor.clone()).await?;
        scheduler.add_executor("threadpool".parse()?, threads).await?;
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

    /// Ends what runs within `grace` and closes the store.
    pub async fn close(&self, grace: Duration) -> Result<()> {
        self.listeners.stop().await;
        self.scheduler.shutdown(Drain::For(grace)).await
    }
}

/// The executors `default` and `threadpool`. Behind a wall, both are worker processes, each with slots
/// of its own.
fn executors(
    plugins: PluginHost,
    slots: usize,
    wall: Wall,
    lease: Lease,
) -> Result<(Arc<dyn Executor>, Arc<dyn Executor>)> {
    let Wall::Process { strict } = wall else {
        let options = AsyncOptions { slots, ..AsyncOptions::default() };
        let threads = ThreadPoolExecutor::new(plugins.clone(), ThreadPoolExecutor::SLOTS)?;
        return Ok((Arc::new(AsyncExecutor::new(plugins, &options)?), Arc::new(threads)));
    };
    let workers = slots + ThreadPoolExecutor::SLOTS + EXECS_MAX + ASIDES_MAX + CALLS_MAX;
    let connect = Arc::new(Direct::default());
    let options = PoolOptions { program: THIS_PROGRAM.into(), workers, strict, connect, lease };
    let executor = ProcessExecutor::new(plugins, slots, options)?;
    let threads = executor.with_slots(ThreadPoolExecutor::SLOTS);
    Ok((Arc::new(executor), Arc::new(threads)))
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = crate::invalid::printable(name.trim(), 64);
    if name.is_empty() { "local".into() } else { name }
}
