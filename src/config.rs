//! Where the parts are put together: the one place that knows concrete stores and executors.

use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::executor::{ASIDES_MAX, AsyncExecutor, AsyncOptions, Executor, PluginHost, ThreadPoolExecutor};
use crate::job::Alias;
use crate::outbound::Outbound;
use crate::sandbox::{Registry, Sandbox};
use crate::scheduler::{Drain, Listeners, Scheduler};
use crate::store::{ListenerStore, MemoryStore, PluginStore, SledOptions, SledStore};
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
    /// The executor `default`; `exec` calls it without a job.
    pub executor: Arc<dyn Executor>,
    pub home: PathBuf,
    pub node: String,
    /// Calls without a job that may go on at one time; the slots are for jobs.
    pub execs: Arc<Semaphore>,
    pub simulations: Arc<Semaphore>,
}

/// Calls without a job at one time; more wait.
pub const EXECS_MAX: usize = 8;

/// How an installation is opened.
#[derive(Debug, Clone)]
pub struct AppOptions {
    pub home: PathBuf,
    /// Runs at one time.
    pub slots: usize,
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
        let AppOptions { home, slots } = options;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let node = format!("{}-{}", host_name(), std::process::id());
        let opening = {
            let (home, node, now) = (home.clone(), node.clone(), clock.now());
            move || -> Result<(SledStore, Sandbox)> {
                let store = SledStore::open(&home, SledOptions { node, ..SledOptions::default() }, now)?;
                let sandbox = Sandbox::new(
                    slots + ThreadPoolExecutor::SLOTS + EXECS_MAX + ASIDES_MAX,
                    Some(&home.join("cache")),
                )?;
                Ok((store, sandbox))
            }
        };
        let opened = tokio::task::spawn_blocking(opening).await.map_err(|e| Error::host("opening broke off", e))?;
        let (store, sandbox) = opened?;
        let (store, sandbox) = (Arc::new(store), Arc::new(sandbox));
        let plugins: Arc<dyn PluginStore> = store.clone();
        let options = AsyncOptions { slots, ..AsyncOptions::default() };
        let runner = PluginHost::new(sandbox.clone(), plugins.clone(), clock.clone());
        let executor: Arc<dyn Executor> = Arc::new(AsyncExecutor::new(runner.clone(), &options)?);
        let outbound = Outbound::new(runner.clone(), node.clone())?;
        let threads = ThreadPoolExecutor::new(runner, ThreadPoolExecutor::SLOTS)?;
        let scheduler = Scheduler::new(clock.clone());
        scheduler.add_executor(Alias::default(), executor.clone()).await?;
        scheduler.add_executor("threadpool".parse()?, Arc::new(threads)).await?;
        let listeners: Arc<dyn ListenerStore> = store.clone();
        scheduler.add_jobstore(Alias::default(), store).await?;
        // For jobs that need not outlive the process.
        let memory: Alias = "memory".parse()?;
        scheduler.add_jobstore(memory.clone(), Arc::new(MemoryStore::new(memory, node.clone()))).await?;
        let registry = Registry::new(sandbox, plugins, clock);
        let listeners = Listeners::new(scheduler.clone(), listeners, Arc::new(outbound));
        Ok(App {
            scheduler,
            registry,
            listeners,
            executor,
            home,
            node,
            execs: Arc::new(Semaphore::new(EXECS_MAX)),
            simulations: Arc::new(Semaphore::new(1)),
        })
    }

    /// Ends what runs within `grace` and closes the store.
    pub async fn close(&self, grace: Duration) -> Result<()> {
        self.listeners.stop().await;
        self.scheduler.shutdown(Drain::For(grace)).await
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = crate::invalid::printable(name.trim(), 64);
    if name.is_empty() { "local".into() } else { name }
}
