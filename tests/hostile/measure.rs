//! What is measured of this process, which stands for the daemon, and of a neighbour's runs.

use sandclock::executor::{Began, Report};
use sandclock::store::Claimed;
use sandclock::*;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const NO_OP: &str = r#"(component
    (core module $m (memory (export "mem") 1) (func (export "run")))
    (core instance $i (instantiate $m))
    (func (export "run") (canon lift (core func $i "run"))))"#;
/// A neighbour's interval.
const EVERY: Duration = Duration::from_millis(20);
/// How long is waited for something to be as it was.
const SETTLE: Duration = Duration::from_millis(1500);

/// Resident memory of this process, in bytes.
pub fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap() * 4096
}

/// Files that this process has open, without the one that lists them, and without the images of
/// components' data, of which there is one for each module that is loaded.
pub fn open_files() -> Vec<std::path::PathBuf> {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let open = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    open.filter(|file| !file.ends_with("fd") && !file.starts_with("/memfd:wasm-memory-image (deleted)")).collect()
}

/// Tasks of the runtime that this is called on.
pub fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Waits until a number falls to what it should be. False if it does not in time.
pub async fn settled_to(number: impl Fn() -> usize, wanted: usize) -> bool {
    let until = Instant::now() + SETTLE;
    while number() > wanted {
        if Instant::now() >= until {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    true
}

/// Waits until a number stays as it is.
pub async fn settled(number: impl Fn() -> usize) {
    let mut last = usize::MAX;
    while number() != last {
        last = number();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub fn job(func: &str, args: Vec<Value>) -> Job {
    let mut job = Job::new("j".parse().unwrap(), func.parse().unwrap(), Trigger::now());
    job.args = args;
    job
}

pub fn neighbours_job() -> Arc<Job> {
    Arc::new(job("neighbour:run", Vec::new()))
}

pub fn run_of(job: &Job) -> Run {
    let run = json!({
        "id": ulid::Ulid::nil(), "job_id": job.id, "jobstore": "default", "func": job.func,
        "scheduled_time": "2027-01-01T00:00:00Z", "attempt": 1, "node": "n", "state": "claimed",
    });
    serde_json::from_value(run).unwrap()
}

pub async fn once(executor: &dyn Executor, job: &Arc<Job>) -> Report {
    let claimed = Claimed { run: run_of(job), job: job.clone(), values: Arc::default() };
    executor.execute(claimed, Began::new(|_| ()), CancellationToken::new()).await
}

/// Another plugin's runs, every 20 ms, and how late each is.
pub struct Neighbour {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// When the run that goes on was due.
    due: Option<Instant>,
    /// Since it was last asked.
    late: Duration,
    worst: Duration,
    all: Vec<Duration>,
    failed: Option<String>,
}

impl Neighbour {
    pub fn start(executor: Arc<dyn Executor>) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let task = tokio::spawn(runs(executor, seen.clone()));
        Neighbour { seen, task }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worst lateness since this was last asked, and an outcome that was no success.
    pub fn take(&self) -> (Duration, Option<String>) {
        let mut seen = self.seen();
        let now = seen.due.map(|due| due.elapsed()).unwrap_or_default();
        (std::mem::take(&mut seen.late).max(now), seen.failed.take())
    }

    /// How late each run was that has ended.
    pub fn all(&self) -> Vec<Duration> {
        let mut all = self.seen().all.clone();
        all.sort_unstable();
        all
    }

    /// Ends it. How many runs there were, and the worst lateness of all.
    pub async fn stop(&mut self) -> (usize, Duration) {
        self.task.abort();
        let _ = (&mut self.task).await;
        let seen = self.seen();
        (seen.all.len(), seen.worst)
    }
}

async fn runs(executor: Arc<dyn Executor>, seen: Arc<Mutex<Seen>>) {
    let job = neighbours_job();
    let mut interval = tokio::time::interval(EVERY);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let locked = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let due = interval.tick().await.into_std();
        locked().due = Some(due);
        let report = once(&*executor, &job).await;
        let late = due.elapsed();
        let mut seen = locked();
        seen.due = None;
        seen.late = seen.late.max(late);
        seen.worst = seen.worst.max(late);
        seen.all.push(late);
        if !matches!(report.outcome, Outcome::Succeeded { .. }) {
            seen.failed = Some(format!("{:?}", report.outcome));
        }
    }
}
