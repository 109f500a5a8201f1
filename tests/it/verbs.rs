//! What callers and policies can ask of jobs beyond firing: order in line, backfill, other arguments,
//! dead-man switches, stores and executors that come and go.

use crate::scheduler::{Bench, alias, bench, every, job, time};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sandclock::executor::{Began, Report};
use sandclock::store::{Claimed, Turn, Turned};
use sandclock::*;
use serde_json::json;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

fn id(text: &str) -> JobId {
    text.parse().unwrap()
}

/// The jobs of the next so many runs that are claimed.
async fn claimed(bench: &mut Bench, count: usize) -> Vec<String> {
    let mut jobs = Vec::new();
    while jobs.len() < count {
        jobs.push(bench.hear(EventKind::JobSubmitted).await.job_id.as_ref().unwrap().to_string());
    }
    jobs
}

#[tokio::test]
async fn of_runs_that_wait_the_highest_priority_starts_first() {
    let mut bench = bench(1).await;
    for (name, priority) in [("low", -5), ("plain", 0), ("high", 9)] {
        let mut job = job(name, "native:ok", Trigger::at(time(10)));
        job.priority = priority;
        bench.add(job).await;
    }
    bench.advance(10);
    bench.scheduler.start().await.unwrap();
    assert_eq!(claimed(&mut bench, 3).await, ["high", "plain", "low"]);
}

#[tokio::test]
async fn a_flood_of_one_job_does_not_starve_another() {
    let mut bench = bench(2).await;
    let mut flood = job("flood", "native:ok", every(1));
    (flood.coalesce, flood.max_catchup, flood.max_instances) = (Coalesce::All, 1000, 64);
    bench.add(flood).await;
    bench.add(job("late", "native:ok", Trigger::at(time(500)))).await;
    bench.advance(600);
    bench.scheduler.start().await.unwrap();
    let first = claimed(&mut bench, 8).await;
    assert!(first.iter().any(|job| job == "late"), "600 older fire times wait, and yet: {first:?}");
}

#[tokio::test]
async fn a_past_range_is_run_when_nothing_else_is_due() {
    let mut bench = bench(1).await;
    bench.scheduler.start().await.unwrap();
    bench.add(job("a", "native:ok", every(10).start(time(-105)))).await;
    let refused = [(time(50), time(40)), (time(-50), time(500)), (time(-4), time(-1))];
    for (from, to) in refused {
        assert!(bench.scheduler.backfill(&id("a"), from, to).await.is_err(), "{from} to {to}");
    }
    assert_eq!(bench.scheduler.backfill(&id("a"), time(-50), time(-20)).await.unwrap(), 3);
    for at in [-45, -35, -25] {
        let run = bench.hear(EventKind::JobExecuted).await.run.clone().unwrap();
        assert_eq!((run.scheduled_time, run.origin), (time(at), Origin::Backfill));
    }
    let entry = bench.scheduler.get_job(&id("a")).await.unwrap();
    assert_eq!((entry.state.backfill, entry.state.started), (None, 0), "it is over, and counts for nothing else");
}

#[tokio::test]
async fn a_backfill_waits_for_what_is_due_and_can_be_cancelled() {
    let mut bench = bench(1).await;
    bench.add(job("a", "native:wait", every(10).start(time(-103)))).await;
    bench.add(job("b", "native:ok", Trigger::at(time(5)))).await;
    bench.scheduler.backfill(&id("a"), time(-100), time(-20)).await.unwrap();
    assert!(bench.scheduler.backfill(&id("a"), time(-100), time(-20)).await.is_err(), "one at a time");
    bench.advance(5);
    bench.scheduler.start().await.unwrap();
    assert_eq!(claimed(&mut bench, 2).await, ["b", "a"]);
    bench.scheduler.cancel_backfill(&id("a")).await.unwrap();
    bench.hear(EventKind::JobModified).await;
    bench.go.notify_waiters();
    bench.hear(EventKind::JobExecuted).await;
    assert_eq!(bench.scheduler.get_job(&id("a")).await.unwrap().state.backfill, None);
}

#[tokio::test]
async fn a_run_has_other_arguments_and_so_have_its_retries() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = seen.clone();
    let native = NativeExecutor::new(1, clock).with("native:f".parse().unwrap(), move |claimed| {
        record.lock().unwrap().push(claimed.job.args.clone());
        async move { if claimed.run.attempt == 1 { Err("again".into()) } else { Ok(json!(1)) } }
    });
    let scheduler = Scheduler::default();
    scheduler.add_executor(alias(), Arc::new(native)).await.unwrap();
    scheduler.add_jobstore(alias(), Arc::new(MemoryStore::new(alias(), "n"))).await.unwrap();
    scheduler.start().await.unwrap();
    let mut events = scheduler.subscribe(EventKind::JobExecuted);
    let mut job = job("a", "native:f", every(1000));
    (job.args, job.retry.max_attempts, job.retry.first) = (vec![json!("own")], 2, Duration::from_millis(1));
    scheduler.add_job(job, AddOptions::default()).await.unwrap();
    let other = Arguments { args: vec![json!("other")], ..Arguments::default() };
    let run = scheduler.run_job_with(&id("a"), other.clone()).await.unwrap();
    assert_eq!(scheduler.wait_run(run).await.unwrap().arguments.as_deref(), Some(&other), "the run says what it had");
    events.next().await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [[json!("other")], [json!("other")]]);
}

#[tokio::test]
async fn a_run_that_waits_can_be_cancelled() {
    let mut bench = bench(1).await;
    bench.scheduler.start().await.unwrap();
    bench.add(job("a", "native:wait", Trigger::now())).await;
    bench.hear(EventKind::JobStarted).await;
    bench.add(job("b", "native:ok", every(1000))).await;
    let run = bench.scheduler.run_job(&id("b")).await.unwrap();
    bench.scheduler.cancel_run(run).await.unwrap();
    let run = bench.scheduler.get_run(run).await.unwrap();
    assert_eq!((run.outcome, run.started), (Some(Outcome::Cancelled), None));
    assert!(matches!(bench.scheduler.cancel_run(run.id).await, Err(Error::RunEnded(_))));
}

#[tokio::test]
async fn a_job_that_does_not_succeed_in_time_is_late_once() {
    let mut bench = bench(2).await;
    bench.scheduler.start().await.unwrap();
    let mut watched = job("a", "native:fail", every(30));
    watched.expect = Some(Expect { period: Duration::from_secs(60), grace: Duration::from_secs(10) });
    bench.add(watched).await;
    for _ in 0..2 {
        bench.advance(30);
        bench.hear(EventKind::JobError).await;
    }
    bench.advance(10);
    let late = bench.hear(EventKind::JobLate).await;
    assert_eq!((late.job_id.clone(), late.time), (Some(id("a")), time(70)));
    assert!(bench.scheduler.get_job(&id("a")).await.unwrap().state.late);
    bench.advance(300);
    bench.hear(EventKind::JobError).await;
    let list = bench.scheduler.list_events(&alias(), 0, 1000).await.unwrap();
    assert_eq!(list.iter().filter(|event| event.kind == EventKind::JobLate).count(), 1, "told once");
    bench.scheduler.modify_job(&id("a"), |job| job.func = "native:ok".parse().unwrap()).await.unwrap();
    bench.advance(30);
    bench.hear(EventKind::JobExecuted).await;
    let state = bench.scheduler.get_job(&id("a")).await.unwrap().state;
    assert_eq!((state.late, state.expected_by), (false, Some(time(400 + 70))), "and armed again");
    bench.scheduler.pause_job(&id("a")).await.unwrap();
    assert_eq!(bench.scheduler.get_job(&id("a")).await.unwrap().state.expected_by, None, "a pause is no lateness");
}

#[tokio::test]
async fn retries_are_spread_and_only_for_the_outcomes_that_are_named() {
    let mut bench = bench(2).await;
    bench.scheduler.start().await.unwrap();
    let mut spread = job("a", "native:fail", Trigger::now());
    spread.retry.max_attempts = 2;
    (spread.retry.first, spread.retry.jitter) = (Duration::from_secs(10), Duration::from_secs(60));
    bench.add(spread).await;
    bench.hear(EventKind::JobRetry).await;
    let due = bench.scheduler.get_job(&id("a")).await.unwrap().state.pending[0].due;
    assert!((time(10)..=time(70)).contains(&due) && due != time(10), "{due}");
    let mut picky = job("b", "native:fail", Trigger::now());
    (picky.retry.max_attempts, picky.retry.outcomes) = (2, vec![OutcomeKind::TimedOut]);
    bench.add(picky).await;
    let error = bench.hear(EventKind::JobRemoved).await;
    assert_eq!(error.job_id, Some(id("b")), "it failed otherwise, so it is over");
}

#[tokio::test]
async fn stores_and_executors_come_and_go_while_running() {
    let mut bench = bench(2).await;
    bench.scheduler.start().await.unwrap();
    let second: Alias = "second".parse().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(bench.clock.clone());
    let native = NativeExecutor::new(1, clock).with("native:two".parse().unwrap(), |_| async { Ok(json!(2)) });
    let mut job = job("elsewhere", "native:two", every(10));
    (job.executor, job.jobstore) = (second.clone(), second.clone());
    let refused = bench.scheduler.add_job(job.clone(), AddOptions::default()).await;
    assert!(matches!(refused, Err(Error::JobstoreNotFound { .. })));
    let store = Arc::new(MemoryStore::new(second.clone(), "n"));
    bench.scheduler.add_jobstore(second.clone(), store).await.unwrap();
    bench.hear(EventKind::JobstoreAdded).await;
    bench.scheduler.add_executor(second.clone(), Arc::new(native)).await.unwrap();
    bench.add(job).await;
    bench.advance(10);
    let run = bench.hear(EventKind::JobExecuted).await;
    assert_eq!((run.job_id.clone(), &run.jobstore), (Some(id("elsewhere")), &second));
    bench.scheduler.remove_executor(&second).await.unwrap();
    bench.advance(10);
    let quarantined = bench.hear(EventKind::JobQuarantined).await;
    assert_eq!(quarantined.detail.as_deref(), Some("no executor `second`"));
    bench.scheduler.remove_jobstore(&second).await.unwrap();
    assert!(matches!(bench.scheduler.get_job(&id("elsewhere")).await, Err(Error::JobNotFound(_))));
    bench.add(super::scheduler::job("here", "native:ok", Trigger::now())).await;
    assert_eq!(bench.hear(EventKind::JobExecuted).await.job_id, Some(id("here")), "the others go on");
}

/// A memory store that fails while it is told to.
pub struct Failing(pub MemoryStore, pub Arc<AtomicBool>);

#[async_trait]
impl JobStore for Failing {
    async fn turn(&self, turn: Turn) -> Result<Turned> {
        if self.1.load(Ordering::SeqCst) {
            return Err(Error::StoreFailed { what: "the disk is gone".into(), source: None });
        }
        self.0.turn(turn).await
    }
    async fn get_job(&self, id: &JobId) -> Result<Option<JobEntry>> {
        self.0.get_job(id).await
    }
    async fn list_jobs(&self, filter: &JobFilter, page: &Page) -> Result<List<JobEntry>> {
        self.0.list_jobs(filter, page).await
    }
    async fn get_run(&self, id: RunId) -> Result<Option<Run>> {
        self.0.get_run(id).await
    }
    async fn list_runs(&self, filter: &RunFilter, page: &Page) -> Result<List<Run>> {
        self.0.list_runs(filter, page).await
    }
    async fn get_logs(&self, id: RunId) -> Result<Option<RunLogs>> {
        self.0.get_logs(id).await
    }
    async fn list_events(&self, since: u64, limit: usize) -> Result<Vec<Event>> {
        self.0.list_events(since, limit).await
    }
    async fn get_values(&self, id: &JobId) -> Result<Values> {
        self.0.get_values(id).await
    }
    async fn counts(&self) -> Result<store::Counts> {
        self.0.counts().await
    }
    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}

#[tokio::test]
async fn a_store_that_fails_is_tried_again_and_the_others_go_on() {
    let mut bench = bench(4).await;
    let (flaky, failing): (Alias, _) = ("flaky".parse().unwrap(), Arc::new(AtomicBool::new(false)));
    let store = Failing(MemoryStore::new(flaky.clone(), "n"), failing.clone());
    bench.scheduler.add_jobstore(flaky.clone(), Arc::new(store)).await.unwrap();
    bench.scheduler.start().await.unwrap();
    bench.add(job("here", "native:ok", every(5))).await;
    let mut there = job("there", "native:ok", every(5));
    there.jobstore = flaky.clone();
    bench.add(there).await;
    failing.store(true, Ordering::SeqCst);
    bench.advance(5);
    let error = bench.hear(EventKind::StoreError).await;
    assert_eq!(error.jobstore, flaky);
    bench.advance(5);
    let executed = bench.hear(EventKind::JobExecuted).await;
    assert_eq!(executed.job_id, Some(id("here")));
    failing.store(false, Ordering::SeqCst);
    loop {
        bench.advance(5);
        let executed = bench.hear(EventKind::JobExecuted).await;
        if executed.job_id == Some(id("there")) {
            break assert!(executed.run.as_ref().unwrap().coalesced > 0, "and what it missed is counted");
        }
    }
}

/// Answers what it is told to when it is asked when a job fires.
struct Oracle {
    answers: Mutex<HashMap<i64, Result<Option<DateTime<Utc>>>>>,
    native: NativeExecutor,
}

#[async_trait]
impl Executor for Oracle {
    fn slots(&self) -> usize {
        4
    }
    async fn check(&self, job: &Job) -> Result<()> {
        self.native.check(job).await
    }
    async fn execute(&self, claimed: Claimed, began: Began, cancel: CancellationToken) -> Report {
        self.native.execute(claimed, began, cancel).await
    }
    async fn next_fire_time(
        &self,
        _: &AskedTrigger,
        previous: Option<DateTime<Utc>>,
        _: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>> {
        let previous = previous.map_or(-1, |at| (at - time(0)).num_seconds());
        self.answers.lock().unwrap().remove(&previous).unwrap_or(Ok(None))
    }
}

async fn asked(answers: Vec<(i64, Result<Option<DateTime<Utc>>>)>) -> (Bench, Job) {
    let bench = bench(1).await;
    let clock: Arc<dyn Clock> = Arc::new(bench.clock.clone());
    let native = NativeExecutor::new(4, clock).with("native:ok".parse().unwrap(), |_| async { Ok(json!(1)) });
    let oracle = Oracle { answers: Mutex::new(answers.into_iter().collect()), native };
    let alias: Alias = "oracle".parse().unwrap();
    bench.scheduler.add_executor(alias.clone(), Arc::new(oracle)).await.unwrap();
    bench.scheduler.start().await.unwrap();
    let mut job = job("a", "native:ok", Trigger::plugin("moon:next".parse().unwrap(), "full").unwrap());
    job.executor = alias;
    (bench, job)
}

#[tokio::test]
async fn a_plugin_decides_when_a_job_fires_and_when_it_is_over() {
    let answers = vec![(-1, Ok(Some(time(7)))), (7, Ok(Some(time(20)))), (20, Ok(None))];
    let (mut bench, job) = asked(answers).await;
    bench.add(job).await;
    assert_eq!(bench.scheduler.get_job(&id("a")).await.unwrap().state.next_run_time, Some(time(7)));
    for (by, at) in [(7, 7), (13, 20)] {
        bench.advance(by);
        let run = bench.hear(EventKind::JobExecuted).await;
        assert_eq!(run.run.as_ref().unwrap().scheduled_time, time(at));
        if at == 7 {
            // The answer is asked for outside of the turn.
            while bench.scheduler.get_job(&id("a")).await.unwrap().state.next_run_time.is_none() {
                tokio::task::yield_now().await;
            }
        }
    }
    assert_eq!(bench.hear(EventKind::JobRemoved).await.reason, Some(RemoveReason::Finished));
}

#[tokio::test]
async fn a_broken_trigger_pauses_its_job_and_never_the_loop() {
    let broken =
        [("does not lie ahead", Ok(Some(time(3)))), ("it trapped", Err(Error::TriggerFailed("it trapped".into())))];
    for (reason, answer) in broken {
        let (mut bench, job) = asked(vec![(-1, Ok(Some(time(7)))), (7, answer)]).await;
        bench.add(job).await;
        bench.advance(7);
        let paused = bench.hear(EventKind::JobPaused).await;
        assert!(paused.detail.as_ref().unwrap().contains(reason), "{:?}", paused.detail);
        bench.add(super::scheduler::job("other", "native:ok", Trigger::now())).await;
        assert_eq!(bench.hear(EventKind::JobExecuted).await.job_id, Some(id("other")));
        // Resuming asks again; there is no answer any more, so it is over.
        bench.scheduler.resume_job(&id("a")).await.unwrap();
        assert_eq!(bench.hear(EventKind::JobRemoved).await.job_id, Some(id("other")));
        assert_eq!(bench.hear(EventKind::JobRemoved).await.job_id, Some(id("a")));
    }
}

#[tokio::test]
async fn a_trigger_that_fails_at_once_is_refused() {
    let (bench, job) = asked(vec![(-1, Err(Error::TriggerFailed("no".into())))]).await;
    assert!(matches!(bench.scheduler.add_job(job.clone(), AddOptions::default()).await, Err(Error::TriggerFailed(_))));
    assert!(matches!(bench.scheduler.add_job(job, AddOptions::default()).await, Err(Error::NeverFires(_))));
}

#[tokio::test]
async fn a_fire_time_is_not_held_up_by_the_jobs_own_backfill() {
    let mut bench = bench(1).await;
    let mut busy = job("busy", "native:wait", Trigger::now());
    busy.priority = 50;
    bench.add(busy).await;
    bench.scheduler.start().await.unwrap();
    bench.hear(EventKind::JobStarted).await;
    // All slots are taken; the backfill waits in the last place, and the fire time must not.
    let mut urgent = job("urgent", "native:ok", every(10).start(time(-103)));
    urgent.priority = 10;
    bench.add(urgent).await;
    bench.add(job("other", "native:ok", Trigger::at(time(2)))).await;
    bench.scheduler.backfill(&id("urgent"), time(-100), time(-20)).await.unwrap();
    bench.advance(7);
    // A turn in which the fire time comes due.
    bench.scheduler.pause_job(&id("other")).await.unwrap();
    bench.scheduler.resume_job(&id("other")).await.unwrap();
    bench.go.notify_waiters();
    let run = bench.hear(EventKind::JobSubmitted).await.run.clone().unwrap();
    assert_eq!((run.job_id.as_str(), run.scheduled_time, run.origin), ("urgent", time(7), Origin::Trigger));
}

#[tokio::test]
async fn overlap_decides_at_each_fire_time_also_while_a_backfill_waits() {
    let mut bench = bench(4).await;
    bench.scheduler.start().await.unwrap();
    let mut cancels = job("a", "native:wait", every(10).start(time(-103)));
    cancels.overlap = Overlap::Cancel;
    bench.add(cancels).await;
    bench.scheduler.backfill(&id("a"), time(-100), time(-20)).await.unwrap();
    let first = bench.hear(EventKind::JobStarted).await;
    bench.advance(7);
    let cancelled = bench.hear(EventKind::JobCancelled).await;
    assert_eq!(cancelled.run_id, first.run_id, "the fire time takes the place of the backfill's run");
}

#[tokio::test]
async fn a_run_that_ends_while_its_job_is_paused_arms_nothing() {
    let mut bench = bench(2).await;
    bench.scheduler.start().await.unwrap();
    let mut watched = job("a", "native:wait", every(10));
    watched.expect = Some(Expect { period: Duration::from_secs(60), grace: Duration::ZERO });
    bench.add(watched).await;
    bench.advance(10);
    bench.hear(EventKind::JobStarted).await;
    bench.scheduler.pause_job(&id("a")).await.unwrap();
    bench.go.notify_waiters();
    bench.hear(EventKind::JobExecuted).await;
    assert_eq!(bench.scheduler.get_job(&id("a")).await.unwrap().state.expected_by, None);
}
