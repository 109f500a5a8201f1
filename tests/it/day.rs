//! A day of a thousand jobs on a virtual clock, with everything going wrong that can: runs that fail,
//! panic and hang, a store that is away, executors that come and go, a clock that jumps. At its end
//! every fire time of every job is accounted for.

use crate::scheduler::{alias, time};
use crate::verbs::Failing;
use chrono::TimeDelta;
use sandclock::store::Retention;
use sandclock::*;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const JOBS: u64 = 1000;
const STEP: i64 = 30;
const STEPS: i64 = 24 * 3600 / STEP;

/// Numbers that look random and are the same each time.
fn random(seed: u64, below: u64) -> u64 {
    let z = (seed.wrapping_add(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z ^ (z >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb) % below
}

async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

/// Asks without waiting: a store that is away answers when the clock has moved on.
fn ask<T: Send + 'static, F>(scheduler: &Scheduler, verb: impl FnOnce(Scheduler) -> F + Send + 'static)
where
    F: Future<Output = T> + Send + 'static,
{
    let verb = verb(scheduler.clone());
    tokio::spawn(async move { drop(verb.await) });
}

fn native(clock: &SimClock) -> NativeExecutor {
    let calls = AtomicU64::new(0);
    NativeExecutor::new(64, Arc::new(clock.clone())).with("native:work".parse().unwrap(), move |_| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        async move {
            match random(call, 200) {
                0 => panic!("a bug"),
                1 => std::future::pending().await,
                2..40 => Err("it fails".to_owned()),
                _ => Ok(json!(1)),
            }
        }
    })
}

fn job(n: u64) -> Job {
    let every = Duration::from_secs(60 * (2 + random(n, 58)));
    let trigger = match n % 4 {
        0 => Trigger::crontab(&format!("{} * * * *", n % 60), Dialect::Crontab, Zone::utc()).unwrap(),
        _ => Trigger::every(every).unwrap(),
    };
    let mut job = Job::new(format!("job-{n:04}").parse().unwrap(), "native:work".parse().unwrap(), trigger);
    job.overlap = [Overlap::Skip, Overlap::Queue, Overlap::Cancel][n as usize % 3];
    job.coalesce = [Coalesce::Latest, Coalesce::All, Coalesce::Earliest][n as usize / 3 % 3];
    job.misfire_grace_time = [None, Some(Duration::from_secs(90))][n as usize % 2];
    job.retry.max_attempts = 1 + (n % 3) as u32;
    job.retry.first = Duration::from_secs(20);
    job.max_instances = 1 + (n % 2) as u32;
    job.limits.timeout = Duration::from_secs(300);
    job
}

#[tokio::test]
async fn a_day_of_faults_loses_no_fire_time() {
    let clock = SimClock::new(time(0));
    let scheduler = Scheduler::new(Arc::new(clock.clone()));
    let failing = Arc::new(AtomicBool::new(false));
    let retention = Retention { runs_per_job: 100_000, events: 1000, ..Retention::default() };
    let store = MemoryStore::with_retention(alias(), "n", retention);
    scheduler.add_executor(alias(), Arc::new(native(&clock))).await.unwrap();
    scheduler.add_jobstore(alias(), Arc::new(Failing(store, failing.clone()))).await.unwrap();
    for n in 0..JOBS {
        scheduler.add_job(job(n), AddOptions::default()).await.unwrap();
    }
    scheduler.start().await.unwrap();
    let mut away = false;
    for step in 0..STEPS {
        clock.advance(TimeDelta::seconds(STEP));
        settle().await;
        match random(step as u64, 150) {
            0 => failing.store(true, Ordering::SeqCst),
            1..6 => failing.store(false, Ordering::SeqCst),
            6 => clock.advance(TimeDelta::minutes(20)),
            7 => clock.advance(TimeDelta::minutes(-5)),
            8 => ask(&scheduler, |scheduler| async move { scheduler.pause().await }),
            9..12 => ask(&scheduler, |scheduler| async move { scheduler.resume().await }),
            12 if !away => {
                ask(&scheduler, |scheduler| async move { scheduler.remove_executor(&alias()).await });
                away = true;
            }
            13..16 if away => {
                let native = Arc::new(native(&clock));
                ask(&scheduler, move |scheduler| async move { scheduler.add_executor(alias(), native).await });
                away = false;
            }
            16 => {
                let id = job(random(step as u64 + 7, JOBS)).id;
                ask(&scheduler, move |scheduler| async move { scheduler.run_job(&id).await });
            }
            _ => {}
        }
    }
    failing.store(false, Ordering::SeqCst);
    if away {
        let native = Arc::new(native(&clock));
        ask(&scheduler, move |scheduler| async move { scheduler.add_executor(alias(), native).await });
    }
    ask(&scheduler, |scheduler| async move { scheduler.resume().await });
    // Long enough for what hangs to time out and for retries to end.
    for _ in 0..200 {
        clock.advance(TimeDelta::seconds(30));
        settle().await;
    }
    let (mut runs, mut fire_times) = (0, 0);
    for n in 0..JOBS {
        let entry = scheduler.get_job(&job(n).id).await.unwrap();
        assert_eq!(entry.state.quarantine, None, "its executor is back");
        let (had, booked, ended) = account(&scheduler, &entry).await;
        assert_eq!(booked, had, "fire times of {} that were booked, and that it had", entry.id);
        runs += ended;
        fire_times += had;
    }
    assert!(runs > 20_000 && fire_times > runs / 2, "{runs} runs for {fire_times} fire times");
    scheduler.shutdown(Drain::Cancel).await.unwrap();
}

/// Fire times that a job has had, fire times that are booked on its runs, and runs that ended.
async fn account(scheduler: &Scheduler, entry: &JobEntry) -> (u64, u64, u64) {
    let job = entry.job.as_ref().unwrap();
    let first = job.trigger.next_fire_time(None, time(0)).unwrap();
    let next = |at: &_| job.trigger.next_fire_time(Some(*at), *at);
    let had = std::iter::successors(Some(first), next).take_while(|at| Some(*at) < entry.state.next_run_time).count();
    let filter = RunFilter { job: Some(entry.id.clone()), ..RunFilter::default() };
    let mut page = Page { after: None, limit: 1000 };
    let (mut booked, mut ended) = (0, 0);
    loop {
        let list = scheduler.list_runs(&alias(), &filter, &page).await.unwrap();
        for run in &list.items {
            if run.attempt == 1 && run.origin == Origin::Trigger {
                booked += 1 + run.coalesced;
            }
            ended += u64::from(run.state == sandclock::RunState::Ended);
        }
        page.after = list.next;
        if page.after.is_none() {
            return (had as u64, booked, ended);
        }
    }
}
