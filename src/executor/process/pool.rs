//! The workers of a daemon: which one a call goes to, when one more is started, and when one is
//! retired. A worker serves one plugin, with one set of grants, as long as it lives.

use super::broker;
use super::handle::{Waiting, Worker};
use super::wire::{self, FromWorker, Hello};
use crate::error::{Error, Result};
use crate::executor::PluginHost;
use crate::grant::{Capability, Grants};
use crate::jail;
use crate::lease::{Lease, Term};
use crate::sandbox::connect::Connect;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, oneshot};

/// Calls of one worker at one time.
pub const CALLS_MAX: usize = 16;
/// Calls that a worker has before another one is started for the same plugin, if there is a processor
/// for it.
const CALLS_BEFORE_ANOTHER: usize = 2;
/// Memory that the calls of one worker may use together, in bytes; one call may always.
const CALLS_MEMORY_MAX: u64 = 2 << 30;
/// Memory of a worker beside its guests', in bytes.
const OWN_MEMORY: u64 = 768 << 20;
/// How long a worker is kept that has nothing to do.
const IDLE_MAX: Duration = Duration::from_secs(60);
const REAP_EVERY: Duration = Duration::from_secs(5);
/// How long a worker may take to begin: a large plugin is a quarter of a gigabyte of code.
const BEGIN_MAX: Duration = Duration::from_secs(30);

/// Workers that are started for one call: more than one only if they end at once.
const STARTS_MAX: u32 = 3;

/// How workers are started.
#[derive(Clone)]
pub struct PoolOptions {
    /// A program that calls [`child_main`](crate::child_main) first.
    pub program: PathBuf,
    /// Workers at one time.
    pub workers: usize,
    /// Refuse to run anything if a layer of the workers' jail is missing.
    pub strict: bool,
    /// Makes the connections that guests are granted.
    pub connect: Arc<dyn Connect>,
    /// Guests do nothing once it has run out.
    pub lease: Lease,
}

pub struct Pool {
    options: PoolOptions,
    /// Workers of one plugin that work at one time before they are filled up.
    parallel: usize,
    workers: Mutex<Vec<Arc<Worker>>>,
    /// For a component, one worker is started at a time: those who wait may find that it has room for
    /// them.
    starting: Mutex<HashMap<Arc<str>, Weak<tokio::sync::Mutex<()>>>>,
    /// A call has ended, or a worker is gone.
    freed: Notify,
    /// Counts up: when something was used.
    now: AtomicU64,
    spawner: std::sync::mpsc::Sender<Spawn>,
}

/// A process to start, and whom to tell.
type Spawn = (Command, oneshot::Sender<io::Result<Child>>);

/// What a call needs of a worker.
pub struct Wanted {
    pub digest: Arc<str>,
    pub grants: Arc<Grants>,
    pub memory: u64,
}

impl Pool {
    /// The lease's term that is now.
    pub fn term(&self) -> Term {
        self.options.lease.term()
    }

    pub fn new(mut options: PoolOptions) -> Result<Arc<Self>> {
        options.workers = options.workers.max(1);
        let failed = |e| Error::host("cannot start the thread that starts workers", e);
        let (spawner, queue) = std::sync::mpsc::channel::<Spawn>();
        let runtime = tokio::runtime::Handle::current();
        // A worker dies with the thread that started it, so that thread lives as long as the pool.
        let spawn = move || {
            let _runtime = runtime.enter();
            for (mut command, tell) in queue {
                let _ = tell.send(command.spawn());
            }
        };
        std::thread::Builder::new().name("sandclock-spawner".into()).spawn(spawn).map_err(failed)?;
        let pool = Arc::new(Pool {
            options,
            parallel: std::thread::available_parallelism().map_or(2, usize::from),
            workers: Mutex::default(),
            starting: Mutex::default(),
            freed: Notify::new(),
            now: AtomicU64::new(0),
            spawner,
        });
        tokio::spawn(reap(Arc::downgrade(&pool)));
        Ok(pool)
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Arc<Worker>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker for a call, with a place in it.
    pub async fn place(self: &Arc<Self>, wanted: &Wanted, plugins: &PluginHost) -> Result<(Arc<Worker>, Waiting)> {
        let mut started = 0;
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.find(wanted, false) {
                return Ok(place);
            }
            let starting = self.starting(&wanted.digest);
            let starting = starting.lock().await;
            // Somebody else may have started one meanwhile.
            if let Some(place) = self.find(wanted, false) {
                return Ok(place);
            }
            if started == STARTS_MAX {
                let gone = io::Error::other("they end before they are given anything to do");
                return Err(Error::host("workers cannot be kept", gone));
            }
            if self.make_room() {
                started += 1;
                let code = plugins.code(&wanted.digest).await?;
                self.start(wanted, &code).await?;
                continue;
            }
            drop(starting);
            if let Some(place) = self.find(wanted, true) {
                return Ok(place);
            }
            freed.await;
        }
    }

    /// Held while a worker for a component is started.
    fn starting(&self, digest: &Arc<str>) -> Arc<tokio::sync::Mutex<()>> {
        let mut starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        starting.retain(|_, held| held.strong_count() > 0);
        let held = starting.entry(digest.clone()).or_default();
        held.upgrade().unwrap_or_else(|| {
            let new = Arc::default();
            *held = Arc::downgrade(&new);
            new
        })
    }

    /// A place in the worker that has least to do; with `crowded` also where another worker would
    /// do better.
    fn find(&self, wanted: &Wanted, crowded: bool) -> Option<(Arc<Worker>, Waiting)> {
        let workers = self.workers();
        let serves = |worker: &&Arc<Worker>| {
            let same = Arc::ptr_eq(&worker.grants, &wanted.grants) || worker.grants == wanted.grants;
            worker.digest == wanted.digest && same && !worker.is_gone()
        };
        let own: Vec<&Arc<Worker>> = workers.iter().filter(serves).collect();
        let fits = |(calls, memory, _): &(usize, u64, u64)| {
            *calls == 0 || (*calls < CALLS_MAX && memory + wanted.memory <= CALLS_MEMORY_MAX)
        };
        let loads = own.iter().map(|worker| (*worker, worker.load())).filter(|(_, load)| fits(load));
        let (worker, (calls, ..)) = loads.min_by_key(|(_, (calls, ..))| *calls)?;
        if own.len() < self.parallel && calls >= CALLS_BEFORE_ANOTHER && !crowded {
            return None;
        }
        let now = self.now.fetch_add(1, Ordering::Relaxed);
        Some((worker.clone(), worker.reserve(wanted.memory, now)?))
    }

    /// Whether one more worker may be started; the idle one that was unused for longest makes room.
    fn make_room(&self) -> bool {
        let mut workers = self.workers();
        if workers.len() < self.options.workers {
            return true;
        }
        let idle = workers.iter().map(|worker| worker.load()).enumerate().filter(|(_, (calls, ..))| *calls == 0);
        let Some((at, _)) = idle.min_by_key(|(_, (.., used))| *used) else { return false };
        if workers[at].retire(None) {
            workers.swap_remove(at);
        }
        workers.len() < self.options.workers
    }

    async fn start(self: &Arc<Self>, wanted: &Wanted, code: &[u8]) -> Result<()> {
        let failed = |e: io::Error| Error::host("cannot start a worker", e);
        let network = wanted.grants.has(Capability::Http);
        let (child, mut socket, broker) = self.spawn(network).await.map_err(failed)?;
        let hello = Hello {
            digest: wanted.digest.clone(),
            grants: wanted.grants.clone(),
            code: code.len() as u64,
            runs: CALLS_MAX,
            memory: CALLS_MEMORY_MAX.max(wanted.memory) + OWN_MEMORY,
            strict: self.options.strict,
            leased: !self.options.lease.is_forever(),
        };
        let begin = async {
            socket.write_all(&wire::encode(&hello)?).await?;
            socket.write_all(code).await?;
            let mut head = [0; 4];
            socket.read_exact(&mut head).await?;
            let length = u32::from_le_bytes(head) as usize;
            // The guest has not run yet, so this is the worker's own word; still it is bounded.
            let mut frame = vec![0; length.min(64 << 10)];
            socket.read_exact(&mut frame).await?;
            match wire::decode::<FromWorker>(&frame)? {
                FromWorker::Ready(ready) => ready.map_err(io::Error::other),
                FromWorker::Ended(..) | FromWorker::Written(..) => Err(io::Error::other("it has not begun")),
            }
        };
        let begun = tokio::time::timeout(BEGIN_MAX, begin).await;
        begun.unwrap_or_else(|_| Err(io::Error::other("it did not begin in time"))).map_err(failed)?;
        let (worker, frames) = Worker::new(wanted.digest.clone(), wanted.grants.clone());
        let worker = Arc::new(worker);
        self.workers().push(worker.clone());
        // The pool ends with those who use it, and takes its workers with it.
        let (pool, connect) = (Arc::downgrade(self), self.options.connect.clone());
        tokio::spawn(async move {
            let serve = broker.map(|broker| tokio::spawn(broker::serve(broker, worker.grants.clone(), connect)));
            let freed = || {
                if let Some(pool) = pool.upgrade() {
                    pool.freed.notify_waiters();
                }
            };
            worker.drive(child, socket, frames, freed).await;
            if let Some(serve) = serve {
                serve.abort();
            }
            if let Some(pool) = pool.upgrade() {
                pool.workers().retain(|other| !Arc::ptr_eq(other, &worker));
                pool.freed.notify_waiters();
            }
        });
        Ok(())
    }

    /// Starts the process with its end of the daemon's socket as standard input, and its end of the
    /// broker's as standard output if it may have connections.
    async fn spawn(&self, network: bool) -> io::Result<(Child, UnixStream, Option<OwnedFd>)> {
        let pair = |kind| socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair(SocketType::STREAM)?;
        let mut command = Command::from(jail::child(&self.options.program, "worker"));
        command.kill_on_drop(true);
        for name in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
            command.envs(std::env::var_os(name).filter(|_| network).map(|value| (name, value)));
        }
        command.stdin(Stdio::from(theirs)).stderr(match self.options.lease.file() {
            Some(file) => Stdio::from(file?),
            None => Stdio::null(),
        });
        let broker = if network {
            let (ours, theirs) = pair(SocketType::SEQPACKET)?;
            command.stdout(Stdio::from(theirs));
            Some(ours)
        } else {
            command.stdout(Stdio::null());
            None
        };
        let (tell, spawned) = oneshot::channel();
        let gone = || io::Error::other("the pool is closed");
        self.spawner.send((command, tell)).map_err(|_| gone())?;
        let child = spawned.await.map_err(|_| gone())??;
        let socket = std::os::unix::net::UnixStream::from(ours);
        socket.set_nonblocking(true)?;
        Ok((child, UnixStream::from_std(socket)?, broker))
    }

    /// Workers that live.
    pub fn len(&self) -> usize {
        self.workers().len()
    }

    /// Ends the workers that have nothing to do.
    pub fn retire_idle(&self) {
        self.workers().retain(|worker| !worker.retire(None));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.workers().drain(..).for_each(|worker| worker.kill());
    }
}

/// Retires workers that have had nothing to do for a while.
async fn reap(pool: Weak<Pool>) {
    let mut idle: Vec<(Arc<Worker>, u64, Duration)> = Vec::new();
    loop {
        tokio::time::sleep(REAP_EVERY).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut seen = Vec::new();
        for worker in pool.workers().iter() {
            let (calls, _, used) = worker.load();
            let known = idle.iter().find(|(known, at, _)| Arc::ptr_eq(known, worker) && *at == used);
            let since = known.map_or(Duration::ZERO, |(.., since)| *since + REAP_EVERY);
            if calls == 0 {
                seen.push((worker.clone(), used, since));
            }
        }
        let (old, kept): (Vec<_>, Vec<_>) = seen.into_iter().partition(|(.., since)| *since >= IDLE_MAX);
        pool.workers().retain(|worker| {
            let known = old.iter().find(|(old, ..)| Arc::ptr_eq(old, worker));
            !known.is_some_and(|(_, used, _)| worker.retire(Some(*used)))
        });
        idle = kept;
    }
}
