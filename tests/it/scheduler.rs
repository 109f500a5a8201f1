//! The scheduler on a clock that moves when told, with native functions: no wasm, no disk.

use chrono::{DateTime, TimeDelta, Utc};
use sandclock::*;
use serde_json::json;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

pub struct Bench {
    pub clock: SimClock,
    pub scheduler: Scheduler,
    /// Runs of `native:wait` end when this is told.
    pub go: Arc<Notify>,
    events: scheduler::Subscription,
}

pub fn time(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

pub fn alias() -> Alias {
    Alias::default()
}

pub async fn bench(slots: usize) -> Bench {
    let clock = SimClock::new(time(0));
    let shared: Arc<dyn Clock> = Arc::new(clock.clone());
    let go = Arc::new(Notify::new());
    let waiting = go.clone();
    let native = NativeExecutor::new(slots, shared.clone())
        .with("native:ok".parse().unwrap(), |claimed| async move { Ok(json!(claimed.run.attempt)) })
        .with("native:fail".parse().unwrap(), |_| async { Err("it fails".to_owned()) })
        .with("native:panic".parse().unwrap(), |_| async { panic!("a bug") })
        .with("native:wait".parse().unwrap(), move |_| {
            let waiting = waiting.clone();
            async move {
                waiting.notified().await;
                Ok(json!("waited"))
            }
        });
    let scheduler = Scheduler::new(shared);
    let events = scheduler.subscribe(EventMask::ALL);
    scheduler.add_executor(alias(), Arc::new(native)).await.unwrap();
    scheduler.add_jobstore(alias(), Arc::new(MemoryStore::new(alias(), "n"))).await.unwrap();
    Bench { clock, scheduler, go, events }
}

pub fn job(id: &str, func: &str, trigger: Trigger) -> Job {
    let mut job = Job::new(id.parse().unwrap(), func.parse().unwrap(), trigger);
    job.limits.timeout = Duration::from_secs(3600);
    job
}

pub fn every(seconds: u64) -> Trigger {
    Trigger::every(Duration::from_secs(seconds)).unwrap()
}

impl Bench {
    /// The next event of a kind; what comes before it is passed over.
    pub async fn hear(&mut self, kind: EventKind) -> Arc<Event> {
        loop {
            let heard = tokio::time::timeout(Duration::from_secs(10), self.events.next()).await;
            match heard.unwrap_or_else(|_| panic!("no {kind} came")) {
                Some(Heard::Event(event)) if event.kind == kind => return event,
                Some(_) => {}
                None => panic!("the events ended"),
            }
        }
    }

    pub async fn add(&self, job: Job) {
        self.scheduler.add_job(job, AddOptions::default()).await.unwrap();
    }

    pub fn advance(&self, seconds: i64) {
        self.clock.advance(TimeDelta::seconds(seconds));
    }
}

#[tokio::test]
async fn a_job_fires_on_its_grid_and_events_come_in_order() {
    let mut bench = bench(4).await;
    bench.scheduler.start().await.unwrap();
    bench.add(job("a", "native:ok", every(10))).await;
    for n in 1..=3 {
        bench.advance(10);
        let submitted = bench.hear(EventKind::JobSubmitted).await;
        let started = bench.hear(EventKind::JobStarted).await;
        let executed = bench.hear(EventKind::JobExecuted).await;
        assert_eq!((submitted.run_id, started.run_id), (executed.run_id, executed.run_id));
        assert!(submitted.seq < started.seq && started.seq < executed.seq);
        assert_eq!(executed.run.as_ref().unwrap().scheduled_time, time(10 * n));
    }
}

#[tokio::test]
async fn nothing_fires_before_start_nor_while_paused() {
    let mut bench = bench(4).await;
    bench.add(job("a", "native:ok", every(10))).await;
    bench.advance(15);
    bench.scheduler.start_paused().await.unwrap();
    let run = bench.scheduler.run_job(&"a".parse().unwrap()).await.unwrap();
    let executed = bench.hear(EventKind::JobExecuted).await;
    assert_eq!(executed.run_id, Some(run), "only what was asked for runs");
    bench.scheduler.resume().await.unwrap();
    let executed = bench.hear(EventKind::JobExecuted).await;
    assert_eq!(executed.run.as_ref().unwrap().scheduled_time, time(10));
    assert!(matches!(bench.scheduler.start().await, Err(Error::AlreadyRunning)));
}

#[tokio::test]
async fn failures_and_panics_are_outcomes() {
    let mut bench = bench(4).await;
    bench.scheduler.start().await.unwrap();
    bench.add(job("fails", "native:fail", Trigger::now())).await;
    let event = bench.hear(EventKind::JobError).await;
    let outcome = event.run.as_ref().unwrap().outcome.clone().unwrap();
    assert_eq!(outcome, Outcome::Failed { error: "it fails".into() });
    bench.add(job("panics", "native:panic", Trigger::now())).await;
    let event = bench.hear(EventKind::JobError).await;
    assert_eq!(event.run.as_ref().unwrap().outcome.as_ref().unwrap().kind(), OutcomeKind::Internal);
    assert_eq!(bench.hear(EventKind::JobRemoved).await.reason, Some(RemoveReason::Finished));
}

#[tokio::test]
async fn a_fire_time_at_max_instances_is_skipped_with_its_reason() {
    let mut bench = bench(4).await;
    bench.scheduler.start().await.unwrap();
    bench.add(job("slow", "native:wait", every(10))).await;
    bench.advance(10);
    bench.hear(EventKind::JobStarted).await;
    bench.advance(10);
    let skipped = bench.hear(EventKind::JobMaxInstances).await;
    let run = skipped.run.as_ref().unwrap();
    assert_eq!(run.outcome, Some(Outcome::Skipped { reason: SkipReason::MaxInstances }));
    assert_eq!(run.scheduled_time, time(20));
    bench.go.notify_one();
    bench.hear(EventKind::JobExecuted).await;
}

#[tokio::test]
async fn a_queued_fire_time_starts_when_the_run_before_it_ends() {
    let mut bench = bench(4).await;
    bench.scheduler.start().await.unwrap();
    let mut slow = job("slow", "native:wait", every(10));
    slow.overlap = Overlap::Queue;
    bench.add(slow).await;
    bench.advance(10);
    bench.hear(EventKind::JobStarted).await;
    bench.advance(20);
    bench.go.notify_one();
    bench.hear(EventKind::JobExecuted).await;
    let second = bench.hear(EventKind::JobSubmitted).await;
    let run = second.run.as_ref().unwrap();
    assert_eq!((run.scheduled_time, run.coalesced), (time(30), 1), "both waiting fire times are one run");
    bench.go.notify_one();
    bench.hear(EventKind::JobExecuted).await;
}

#[tokio::test]
async fn the_oldest_run_is_cancelled_for_the_new_one() {
    let mut bench = bench(4).await;
    bench.scheduler.start().await.unwrap();
    let mut slow = job("slow", "native:wait", every(10));
    slow.overlap = Overlap::Cancel;
    bench.add(slow).await;
    bench.advance(10);
    let first = bench.hear(EventKind::JobStarted).await;
    bench.advance(10);
    assert_eq!(bench.hear(EventKind::JobCancelled).await.run_id, first.run_id);
    let second = bench.hear(EventKind::JobSubmitted).await;
    assert_eq!(second.run.as_ref().unwrap().scheduled_time, time(20));
}

#[tokio::test]
async fn a_run_is_cancelled_on_request() {
    let mut bench = bench(4).await;
    bench.scheduler.start().await.unwrap();
    bench.add(job("slow", "native:wait", Trigger::now())).await;
    let run = bench.hear(EventKind::JobStarted).await.run_id.unwrap();
    bench.scheduler.cancel_run(run).await.unwrap();
    let ended = bench.scheduler.wait_run(run).await.unwrap();
    assert_eq!(ended.outcome, Some(Outcome::Cancelled));
    assert!(matches!(bench.scheduler.cancel_run(run).await, Err(Error::RunEnded(_))));
    let unknown = RunId(ulid::Ulid::nil());
    assert!(matches!(bench.scheduler.cancel_run(unknown).await, Err(Error::RunNotFound(_))));
}

#[tokio::test]
async fn a_run_past_its_timeout_ends() {
    let mut bench = bench(4).await;
    bench.scheduler.start().await.unwrap();
    let mut slow = job("slow", "native:wait", Trigger::now());
    slow.limits.timeout = Duration::from_secs(5);
    bench.add(slow).await;
    bench.hear(EventKind::JobStarted).await;
    bench.advance(5);
    let event = bench.hear(EventKind::JobError).await;
    assert_eq!(event.run.as_ref().unwrap().outcome.as_ref().unwrap().kind(), OutcomeKind::TimedOut);
}

#[tokio::test]
async fn a_flood_waits_for_slots_and_nothing_is_lost() {
    let mut bench = bench(3).await;
    bench.scheduler.start().await.unwrap();
    for n in 0..200 {
        bench.add(job(&format!("j{n}"), "native:ok", Trigger::at(time(10)))).await;
    }
    bench.advance(10);
    for _ in 0..200 {
        bench.hear(EventKind::JobExecuted).await;
    }
    let counts = bench.scheduler.counts(&alias()).await.unwrap();
    assert_eq!((counts.jobs, counts.running, counts.runs), (0, 0, 200));
}

#[tokio::test]
async fn stores_share_the_slots_of_an_executor() {
    let mut bench = bench(1).await;
    let other: Alias = "other".parse().unwrap();
    bench.scheduler.add_jobstore(other.clone(), Arc::new(MemoryStore::new(other.clone(), "n"))).await.unwrap();
    bench.scheduler.start().await.unwrap();
    bench.add(job("a", "native:wait", Trigger::now())).await;
    bench.hear(EventKind::JobStarted).await;
    let mut second = job("b", "native:ok", Trigger::now());
    second.jobstore = other.clone();
    bench.add(second).await;
    bench.go.notify_one();
    let ended = [bench.hear(EventKind::JobExecuted).await, bench.hear(EventKind::JobExecuted).await];
    assert_eq!(ended.map(|event| event.jobstore.clone()), [alias(), other.clone()]);
    bench.scheduler.remove_jobstore(&other).await.unwrap();
    assert!(matches!(bench.scheduler.counts(&other).await, Err(Error::JobstoreNotFound { .. })));
}

#[tokio::test]
async fn a_clock_that_steps_back_fires_nothing_twice() {
    let mut bench = bench(4).await;
    bench.scheduler.start().await.unwrap();
    bench.add(job("a", "native:ok", every(10))).await;
    bench.advance(10);
    bench.hear(EventKind::JobExecuted).await;
    for back in [5, 9, 10, 19] {
        bench.clock.set(time(back));
        bench.scheduler.wakeup();
        // A change is answered by a turn, so the loop has looked at its store at this time.
        let before = bench.scheduler.counts(&alias()).await.unwrap().runs;
        bench.scheduler.pause_job(&"a".parse().unwrap()).await.unwrap();
        bench.scheduler.resume_job(&"a".parse().unwrap()).await.unwrap();
        assert_eq!(bench.scheduler.counts(&alias()).await.unwrap().runs, before, "at second {back}");
    }
    bench.clock.set(time(20));
    let next = bench.hear(EventKind::JobSubmitted).await;
    assert_eq!(next.run.as_ref().unwrap().scheduled_time, time(20));
}

#[tokio::test]
async fn a_clock_that_leaps_ahead_is_one_misfire_question() {
    let mut bench = bench(4).await;
    bench.scheduler.start().await.unwrap();
    bench.add(job("a", "native:ok", every(10))).await;
    bench.clock.set(time(100_000));
    let run = bench.hear(EventKind::JobSubmitted).await;
    let run = run.run.as_ref().unwrap();
    assert_eq!((run.scheduled_time, run.coalesced), (time(100_000), 9_999));
}

#[tokio::test]
async fn what_is_wrong_is_refused_and_changes_nothing() {
    let bench = bench(4).await;
    let refused = async |job: Job| bench.scheduler.add_job(job, AddOptions::default()).await.unwrap_err().to_string();
    assert!(refused(job("a", "native:none", Trigger::now())).await.contains("no native function `native:none`"));
    let mut no_executor = job("a", "native:ok", Trigger::now());
    no_executor.executor = "gpu".parse().unwrap();
    assert_eq!(refused(no_executor).await, "no executor `gpu` (there is `default`)");
    let mut no_store = job("a", "native:ok", Trigger::now());
    no_store.jobstore = "pg".parse().unwrap();
    assert_eq!(refused(no_store).await, "no job store `pg` (there is `default`)");
    let never = Trigger::crontab("0 0 30 2 *", Dialect::Crontab, Zone::utc()).unwrap();
    assert!(refused(job("a", "native:ok", never)).await.contains("never fires"));
    let mut zero = job("a", "native:ok", Trigger::now());
    zero.max_instances = 0;
    assert!(refused(zero).await.contains("max_instances"));
    assert!(matches!(bench.scheduler.pause_job(&"a".parse().unwrap()).await, Err(Error::JobNotFound(_))));
    assert_eq!(bench.scheduler.counts(&alias()).await.unwrap().jobs, 0);
}

#[tokio::test]
async fn modifying_is_all_or_nothing() {
    let bench = bench(4).await;
    bench.add(job("a", "native:ok", every(10))).await;
    let id = "a".parse().unwrap();
    let refused = bench.scheduler.modify_job(&id, |job| {
        job.name = "changed".into();
        job.max_instances = 0;
    });
    assert!(refused.await.is_err());
    let entry = bench.scheduler.get_job(&id).await.unwrap();
    assert_eq!(entry.job.unwrap().name, "native:ok");
    let entry = bench.scheduler.reschedule_job(&id, every(7)).await.unwrap();
    assert_eq!(entry.state.next_run_time, Some(time(7)));
}

#[tokio::test]
async fn all_jobs_are_removed_however_many_and_a_run_that_goes_on_ends() {
    let mut bench = bench(4).await;
    bench.scheduler.start().await.unwrap();
    for n in 0..600 {
        bench.add(job(&format!("j{n}"), "native:ok", every(1000))).await;
    }
    bench.add(job("goes-on", "native:wait", every(1000))).await;
    bench.scheduler.run_job(&"goes-on".parse().unwrap()).await.unwrap();
    bench.hear(EventKind::JobStarted).await;
    bench.scheduler.remove_all_jobs(&alias()).await.unwrap();
    for _ in 0..600 {
        bench.hear(EventKind::JobRemoved).await;
    }
    bench.hear(EventKind::AllJobsRemoved).await;
    bench.go.notify_one();
    bench.hear(EventKind::JobExecuted).await;
    assert_eq!(bench.hear(EventKind::JobRemoved).await.job_id, Some("goes-on".parse().unwrap()));
    assert!(bench.scheduler.list_all_jobs(&alias()).await.unwrap().is_empty());
    let nowhere = bench.scheduler.remove_all_jobs(&"nowhere".parse().unwrap()).await;
    assert!(matches!(nowhere, Err(Error::JobstoreNotFound { .. })), "{nowhere:?}");
}

#[tokio::test]
async fn a_job_without_its_executor_is_quarantined_and_comes_back() {
    let mut bench = bench(4).await;
    bench.scheduler.start().await.unwrap();
    bench.add(job("a", "native:ok", every(10))).await;
    bench.scheduler.remove_executor(&alias()).await.unwrap();
    bench.advance(10);
    let event = bench.hear(EventKind::JobQuarantined).await;
    assert_eq!(event.detail.as_deref(), Some("no executor `default`"));
    let clock: Arc<dyn Clock> = Arc::new(bench.clock.clone());
    let native = NativeExecutor::new(1, clock).with("native:ok".parse().unwrap(), |_| async { Ok(json!(1)) });
    bench.scheduler.add_executor(alias(), Arc::new(native)).await.unwrap();
    let executed = bench.hear(EventKind::JobExecuted).await;
    assert_eq!(executed.run.as_ref().unwrap().scheduled_time, time(10), "the fire time was kept");
}

#[tokio::test]
async fn a_listener_that_panics_harms_nobody() {
    let mut bench = bench(4).await;
    let heard = Arc::new(Mutex::new(Vec::new()));
    let list = heard.clone();
    bench.scheduler.add_listener(EventKind::JobExecuted, |_| panic!("a bad listener"));
    let id = bench.scheduler.add_listener(EventKind::JobExecuted | EventKind::JobAdded, move |heard| {
        if let Heard::Event(event) = heard {
            list.lock().unwrap().push(event.kind);
        }
    });
    bench.scheduler.start().await.unwrap();
    for n in 0..2 {
        bench.add(job(&format!("a{n}"), "native:ok", Trigger::now())).await;
        bench.hear(EventKind::JobExecuted).await;
    }
    while heard.lock().unwrap().len() < 4 {
        tokio::task::yield_now().await;
    }
    assert!(bench.scheduler.remove_listener(id) && !bench.scheduler.remove_listener(id));
}

#[tokio::test]
async fn shutdown_waits_then_cancels_and_records_both() {
    let mut bench = bench(4).await;
    bench.scheduler.start().await.unwrap();
    bench.add(job("slow", "native:wait", Trigger::now())).await;
    bench.hear(EventKind::JobStarted).await;
    bench.scheduler.shutdown(Drain::Cancel).await.unwrap();
    let event = bench.hear(EventKind::JobError).await;
    assert_eq!(event.run.as_ref().unwrap().outcome, Some(Outcome::Cancelled));
    assert!(matches!(
        bench.scheduler.add_job(job("b", "native:ok", Trigger::now()), AddOptions::default()).await,
        Err(Error::JobstoreNotFound { .. })
    ));
}

#[test]
fn the_background_flavour_needs_no_runtime() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let native = NativeExecutor::new(1, clock).with("native:ok".parse().unwrap(), |_| async { Ok(json!("done")) });
    let background = BackgroundScheduler::start(|| async {
        let scheduler = Scheduler::default();
        scheduler.add_executor(alias(), Arc::new(native)).await?;
        scheduler.add_jobstore(alias(), Arc::new(MemoryStore::new(alias(), "n"))).await?;
        Ok(scheduler)
    })
    .unwrap();
    background.add_job(job("a", "native:ok", every(3600)), AddOptions::default()).unwrap();
    let run = background.run_job(&"a".parse().unwrap()).unwrap();
    assert_eq!(background.wait_run(run).unwrap().outcome, Some(Outcome::Succeeded { value: json!("done") }));
    let stop = background.stop();
    stop();
    background.wait();
    background.shutdown(Drain::Cancel).unwrap();
}
