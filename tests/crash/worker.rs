//! The process that dies: a scheduler under load on the sled store, writing down what it was told is
//! done.

use sandclock::store::{Retention, SledOptions};
use sandclock::*;
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Where the worker keeps its store; its presence makes this process a worker.
pub const HOME: &str = "SANDCLOCK_CRASH_HOME";
/// Where it writes what was acknowledged, a line each.
pub const ACKS: &str = "SANDCLOCK_CRASH_ACKS";
/// Ends by itself after so many milliseconds.
pub const LASTS: &str = "SANDCLOCK_CRASH_LASTS";

/// A file to which each line is one write, so that a kill leaves whole lines.
#[derive(Clone)]
struct Acks(Arc<Mutex<File>>);

impl Acks {
    fn tell(&self, line: String) {
        self.0.lock().unwrap().write_all(line.as_bytes()).unwrap();
    }
}

pub fn options() -> SledOptions {
    let retention = Retention { runs_per_job: 1000, events: 10_000_000, ..Retention::default() };
    SledOptions { retention, ..SledOptions::default() }
}

pub fn run(home: &Path) {
    let acks = std::env::var(ACKS).unwrap();
    let acks = Acks(Arc::new(Mutex::new(File::options().append(true).create(true).open(acks).unwrap())));
    let lasts: u64 = std::env::var(LASTS).unwrap_or_default().parse().unwrap_or(60_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(load(home, acks, Duration::from_millis(lasts)));
    std::process::exit(0);
}

async fn load(home: &Path, acks: Acks, lasts: Duration) {
    let store = SledStore::open(home, options(), chrono::Utc::now()).unwrap();
    acks.tell("open\n".into());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let tell = |acks: &Acks, run: &Run| {
        let Run { id, job_id, scheduled_time, attempt, .. } = run;
        acks.tell(format!("ran {id} {job_id} {} {attempt}\n", scheduled_time.to_rfc3339()));
    };
    let (work, flaky, slow) = (acks.clone(), acks.clone(), acks.clone());
    let native = NativeExecutor::new(64, clock.clone())
        .with("native:work".parse().unwrap(), move |claimed| {
            tell(&work, &claimed.run);
            async move { Ok(json!(claimed.run.attempt)) }
        })
        .with("native:flaky".parse().unwrap(), move |claimed| {
            tell(&flaky, &claimed.run);
            async move { if claimed.run.attempt < 3 { Err("not yet".into()) } else { Ok(json!(1)) } }
        })
        .with("native:slow".parse().unwrap(), move |claimed| {
            tell(&slow, &claimed.run);
            async move {
                tokio::time::sleep(Duration::from_millis(1500)).await;
                Ok(json!(1))
            }
        });
    let scheduler = Scheduler::new(clock);
    scheduler.add_executor(Alias::default(), Arc::new(native)).await.unwrap();
    scheduler.add_jobstore(Alias::default(), Arc::new(store)).await.unwrap();
    let told = acks.clone();
    scheduler.add_listener(EventMask::ALL, move |heard| {
        if let Heard::Event(event) = heard
            && event.seq > 0
        {
            let run = event.run_id.map_or(String::new(), |id| id.to_string());
            told.tell(format!("event {} {} {run}\n", event.seq, event.kind));
        }
    });
    scheduler.start().await.unwrap();
    let adders: Vec<_> = (0..8).map(|adder| tokio::spawn(add(scheduler.clone(), acks.clone(), adder))).collect();
    tokio::time::sleep(lasts).await;
    adders.iter().for_each(tokio::task::JoinHandle::abort);
    scheduler.shutdown(Drain::Cancel).await.unwrap();
    // The database's own threads may write for a moment yet; they hold its lock until they are done.
    let db = File::open(home.join("db/db")).unwrap();
    while db.try_lock().is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Adds one-shot jobs that fire at once, recurring ones, pauses and removes, without a pause.
async fn add(scheduler: Scheduler, acks: Acks, adder: u64) {
    let tag = std::process::id();
    for n in 0u64.. {
        let id: JobId = format!("j{tag}-{adder}-{n}").parse().unwrap();
        let trigger = match n % 5 {
            0 => Trigger::every(Duration::from_secs(1)).unwrap(),
            _ => Trigger::now(),
        };
        let mut job = Job::new(id.clone(), "native:work".parse().unwrap(), trigger);
        if n % 7 == 0 {
            job.args = vec![json!("x".repeat(20_000))];
        }
        if n % 6 == 1 {
            job.func = "native:flaky".parse().unwrap();
            (job.retry.max_attempts, job.retry.first) = (4, Duration::from_millis(n % 40));
            job.on_interrupted = OnInterrupted::Rerun;
        }
        if n % 15 == 0 {
            job.func = "native:slow".parse().unwrap();
            (job.overlap, job.coalesce) = ([Overlap::Queue, Overlap::Cancel][n as usize / 15 % 2], Coalesce::All);
        }
        scheduler.add_job(job, AddOptions::default()).await.unwrap();
        acks.tell(format!("added {id}\n"));
        if n % 15 == 0 {
            let other = Arguments { args: vec![json!("y".repeat(5000))], ..Arguments::default() };
            let run = scheduler.run_job_with(&id, other).await.unwrap();
            acks.tell(format!("promised {run} {id}\n"));
        }
        if n % 10 == 5 {
            let old: JobId = format!("j{tag}-{adder}-{}", n - 5).parse().unwrap();
            scheduler.remove_job(&old).await.unwrap();
            acks.tell(format!("removed {old}\n"));
        }
    }
}
