//! The loop of one job store: gather what ended and what callers ask for, take a turn, tell the
//! callers, publish the events, start what was claimed, sleep until something is due.

use super::follow::{OWN_MAX, follow};
use super::observer::Observed;
use super::{Phase, Shared};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::event::{Event, EventKind};
use crate::executor::{Began, Executor, Report};
use crate::job::Alias;
use crate::run::{Outcome, RunId};
use crate::store::{
    Answer, Asked, Change, Claim, Claimed, Finished, JobStore, Reply, Started, TURN_RUNS_MAX, Turn, Turned,
};
use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt;
use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Changes that may wait for a turn; a caller beyond that is told to try again.
pub const CHANGES_MAX: usize = 1024;
/// Changes that one turn applies.
pub const TURN_CHANGES_MAX: usize = 256;
/// How long a store that failed is left alone, at first and at most; it doubles in between.
const RETRY_FIRST: TimeDelta = TimeDelta::seconds(1);
const RETRY_MAX: TimeDelta = TimeDelta::seconds(10);
/// How long a loop whose due jobs found no slot waits for other loops to give theirs back.
const STARVED_RETRY: Duration = Duration::from_millis(10);
/// Longest time that an idle loop sleeps; its next turn has the watchdog look at some jobs.
const WATCH_EVERY: TimeDelta = TimeDelta::seconds(60);
/// How long the news that a run has begun waits for company before it costs a commit of its own.
const LINGER: Duration = Duration::from_millis(20);

/// A change and who waits for its answer.
pub struct Request {
    pub change: Change,
    pub reply: oneshot::Sender<Result<Reply>>,
}

/// What running runs tell their dispatcher. Each run sends two of these and holds a slot until the
/// second is received, so the channel holds at most twice as many as there are slots.
enum News {
    Started(Started),
    Ended(Box<Finished>, OwnedSemaphorePermit),
    /// What a plugin answered that decides when a job fires; a turn asks a few of these.
    Answered(Box<Change>),
}

/// The runs of one store that go on.
pub type Running = Arc<Mutex<HashMap<RunId, Going>>>;

/// Where a run goes on, and how it is made to end.
#[derive(Clone)]
pub struct Going {
    pub alias: Alias,
    pub executor: Arc<dyn Executor>,
    pub cancel: CancellationToken,
}

pub struct Dispatcher {
    pub alias: Alias,
    pub store: Arc<dyn JobStore>,
    pub shared: Arc<Shared>,
    pub running: Running,
    /// Raised when the store is removed or the scheduler shuts down.
    pub stop: CancellationToken,
    /// Raised when what runs is to end; runs that start later hear of it too.
    pub cancel_all: CancellationToken,
    /// Runs that were claimed ahead and wait for their time.
    pub held: Held,
}

/// Whoever takes a run out of here decides what becomes of it: it starts, or it is withdrawn.
pub type Held = Arc<Mutex<HashMap<RunId, CancellationToken>>>;

/// What waits for the next turn.
#[derive(Default)]
struct Gathered {
    started: Vec<Started>,
    finished: Vec<Finished>,
    withdrawn: Vec<RunId>,
    requests: Vec<Request>,
}

impl Gathered {
    fn take(&mut self, news: News) {
        match news {
            News::Started(started) => self.started.push(started),
            // The slot is free for this very turn.
            News::Ended(finished, _slot) => self.finished.push(*finished),
            // Nobody waits for the reply.
            News::Answered(change) => self.requests.push(Request { change: *change, reply: oneshot::channel().0 }),
        }
    }

    fn is_empty(&self) -> bool {
        let Gathered { started, finished, withdrawn, requests } = self;
        started.is_empty() && finished.is_empty() && withdrawn.is_empty() && requests.is_empty()
    }
}

/// The slots in hand during one turn.
type Slots = BTreeMap<Alias, (Arc<dyn Executor>, Vec<OwnedSemaphorePermit>)>;

impl Dispatcher {
    pub async fn run(self, mut requests: mpsc::Receiver<Request>) {
        let shared = self.shared.clone();
        let (publish, own) = mpsc::channel(OWN_MAX);
        let publish = match self.store.lease().is_forever() {
            true => None,
            false => {
                tokio::spawn(follow(self.store.clone(), shared.clone(), own));
                Some(publish)
            }
        };
        let (tell, mut news) = mpsc::unbounded_channel();
        let mut gathered = Gathered::default();
        let mut retry = RETRY_FIRST;
        let mut phase = self.shared.phase.subscribe();
        loop {
            drain(&mut gathered, &mut requests, &mut news);
            let stopping = self.stop.is_cancelled();
            if stopping && gathered.is_empty() && self.is_idle() {
                return;
            }
            let (freed, woken) = (shared.freed.notified(), shared.wake.notified());
            let now = self.shared.clock.now();
            let claim = match *phase.borrow_and_update() {
                _ if stopping => Claim::Nothing,
                Phase::Running => Claim::Due,
                Phase::Paused => Claim::Manual,
                Phase::Stopped => Claim::Nothing,
            };
            if claim != Claim::Due {
                self.withdraw(None, &mut gathered);
            }
            let turned = match self.turn(now, claim, &mut gathered, &tell, publish.as_ref()).await {
                Ok(turned) => turned,
                Err(error) => {
                    self.store_failed(now, &error, retry == RETRY_FIRST);
                    let again = now + retry;
                    retry = (retry * 2).min(RETRY_MAX);
                    tokio::select! {
                        () = self.wait_until(again) => {}
                        // One that others share may be back, or have found its way back.
                        () = self.store.changed() => {}
                        () = self.stop.cancelled(), if !stopping => {}
                    }
                    if stopping {
                        return;
                    }
                    continue;
                }
            };
            if retry != RETRY_FIRST {
                tracing::info!(jobstore = %self.alias, "the job store works again");
                retry = RETRY_FIRST;
            }
            if !gathered.is_empty() {
                continue;
            }
            let due_now = turned.next_due.is_some_and(|due| due <= self.shared.clock.now());
            if (due_now && claim == Claim::Due) || (stopping && self.is_idle()) {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                Some(first) = news.recv() => {
                    let lonely = matches!(first, News::Started(_));
                    gathered.take(first);
                    if lonely {
                        linger(&mut gathered, &mut requests, &mut news).await;
                    }
                }
                Some(request) = requests.recv() => gathered.requests.push(request),
                () = self.sleep_until(turned.next_due) => {}
                () = freed, if turned.starved => {}
                // Another store's loop may have held the slots for a moment without using them.
                () = tokio::time::sleep(STARVED_RETRY), if turned.starved && self.has_neighbours() => {}
                _ = phase.changed() => {}
                () = woken => {}
                () = self.store.changed() => {}
                () = self.stop.cancelled(), if !stopping => {}
            }
        }
    }

    /// Until something is due, or the watchdog wants a turn.
    async fn sleep_until(&self, due: Option<DateTime<Utc>>) {
        let watch = self.shared.clock.now() + WATCH_EVERY;
        self.shared.clock.sleep_until(due.map_or(watch, |due| due.min(watch))).await;
    }

    /// A clock's sleep is a hint and may end early.
    async fn wait_until(&self, at: DateTime<Utc>) {
        while self.shared.clock.now() < at {
            self.shared.clock.sleep_until(at).await;
        }
    }

    fn has_neighbours(&self) -> bool {
        self.shared.stores.lock().unwrap_or_else(PoisonError::into_inner).len() > 1
    }

    fn is_idle(&self) -> bool {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    async fn turn(
        &self,
        now: DateTime<Utc>,
        claim: Claim,
        gathered: &mut Gathered,
        tell: &mpsc::UnboundedSender<News>,
        publish: Option<&mpsc::Sender<Vec<Event>>>,
    ) -> Result<Turned> {
        let Gathered { started, finished, withdrawn, requests } = std::mem::take(gathered);
        let (changes, replies): (Vec<_>, Vec<_>) = requests.into_iter().map(|r| (r.change, r.reply)).unzip();
        let mut slots = if claim == Claim::Nothing { Slots::new() } else { self.take_slots() };
        let turn = Turn {
            now,
            started: started.clone(),
            finished: finished.clone(),
            withdrawn: withdrawn.clone(),
            ahead: claim == Claim::Due,
            changes,
            claim,
            slots: slots.iter().map(|(alias, (_, permits))| (alias.clone(), permits.len())).collect(),
        };
        let began = tokio::time::Instant::now();
        let taken = AssertUnwindSafe(self.store.turn(turn)).catch_unwind().await;
        let took = began.elapsed();
        let broken = |_| Err(Error::StoreFailed { what: "a turn broke off".into(), source: None });
        let mut turned = match taken.unwrap_or_else(broken) {
            Ok(turned) => turned,
            Err(error) => {
                for reply in replies {
                    let told = Error::StoreFailed { what: error.chain(), source: None };
                    let _ = reply.send(Err(told));
                }
                // What ended has ended; it is recorded when the store is back.
                (gathered.started, gathered.finished, gathered.withdrawn) = (started, finished, withdrawn);
                return Err(error);
            }
        };
        self.forget(finished.iter().map(|finished| finished.run));
        // Before anybody hears that a job is paused, changed or removed.
        if !turned.recalled.is_empty() {
            self.withdraw(Some(&turned.recalled), gathered);
        }
        let events = std::mem::take(&mut turned.events);
        if let Some(observer) = self.shared.observer.get() {
            let (jobstore, waiting) = (&self.alias, turned.waiting);
            observer.turned(&Observed {
                jobstore,
                now,
                committed: self.shared.clock.now(),
                took,
                waiting,
                events: &events,
            });
        }
        match publish {
            // In the order of all nodes.
            Some(_) if events.is_empty() => {}
            // What finds no place is read from the store.
            Some(follower) => drop(follower.try_send(events)),
            None => self.shared.bus.publish(events),
        }
        for (reply, answer) in replies.into_iter().zip(turned.replies.drain(..)) {
            // A caller that went away does not undo the change.
            let _ = reply.send(answer);
        }
        for claimed in turned.claimed.drain(..) {
            let alias = &claimed.job.executor;
            if let Some((executor, permits)) = slots.get_mut(alias)
                && let Some(permit) = permits.pop()
            {
                let executor = executor.clone();
                self.start(executor, claimed, permit, tell.clone());
            }
        }
        for run in &turned.cancel {
            self.cancel(*run);
        }
        for asked in turned.questions.drain(..) {
            self.ask(asked, tell.clone());
        }
        let left: usize = slots.values().map(|(_, permits)| permits.len()).sum();
        drop(slots);
        if left > 0 && !finished.is_empty() {
            self.shared.freed.notify_waiters();
        }
        Ok(turned)
    }

    /// All free slots of all executors; other stores wait for what this turn does not use.
    fn take_slots(&self) -> Slots {
        let executors = self.shared.executors.lock().unwrap_or_else(PoisonError::into_inner);
        let take = |slots: &Arc<Semaphore>| {
            let take = |_| slots.clone().try_acquire_owned().ok();
            (0..TURN_RUNS_MAX).map_while(take).collect()
        };
        let runs = executors.iter().filter(|(_, entry)| entry.executor.slots() > 0);
        runs.map(|(alias, entry)| (alias.clone(), (entry.executor.clone(), take(&entry.slots)))).collect()
    }

    fn start(
        &self,
        executor: Arc<dyn Executor>,
        claimed: Claimed,
        permit: OwnedSemaphorePermit,
        tell: mpsc::UnboundedSender<News>,
    ) {
        let run = claimed.run.id;
        let cancel = self.cancel_all.child_token();
        let going = Going { alias: claimed.job.executor.clone(), executor: executor.clone(), cancel: cancel.clone() };
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(run, going);
        let starts = claimed.run.starts.map(|at| (at, CancellationToken::new()));
        if let Some((_, withdrawn)) = &starts {
            self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(run, withdrawn.clone());
        }
        let held = self.held.clone();
        let (clock, term) = (self.shared.clock.clone(), self.store.lease().term());
        let news = tell.clone();
        // The dispatcher outlives its runs, so its ear is open.
        let began = Began::new(move |at| drop(news.send(News::Started(Started { run, at }))));
        tokio::spawn(async move {
            if let Some((at, withdrawn)) = starts {
                wait_for_start(&*clock, at, &cancel, &withdrawn).await;
                if held.lock().unwrap_or_else(PoisonError::into_inner).remove(&run).is_none() {
                    return;
                }
            }
            let execute = AssertUnwindSafe(executor.execute(claimed, began, cancel.clone())).catch_unwind();
            tokio::pin!(execute);
            let executed = if !term.holds() {
                Ok(Report::not_started(clock.now(), Outcome::Interrupted))
            } else {
                tokio::select! {
                    biased;
                    // What it does from now on somebody else may be doing as well.
                    () = term.ended() => {
                        cancel.cancel();
                        let interrupted = |report: Report| Report { outcome: Outcome::Interrupted, ..report };
                        execute.await.map(interrupted)
                    }
                    executed = &mut execute => executed,
                }
            };
            let report = executed.unwrap_or_else(|_| {
                Report::not_started(clock.now(), Outcome::Internal { error: "the executor panicked".into() })
            });
            let Report { started, ended, outcome, usage, plugin_digest, logs, uses, values } = report;
            let finished = Finished { run, started, ended, outcome, usage, plugin_digest, logs, uses, values };
            let _ = tell.send(News::Ended(Box::new(finished), permit));
        });
    }

    /// Asks the plugin that decides when a job fires.
    fn ask(&self, Asked { job, question }: Asked, tell: mpsc::UnboundedSender<News>) {
        let executors = self.shared.executors.lock().unwrap_or_else(PoisonError::into_inner);
        let executor = executors.get(&job.executor).map(|entry| entry.executor.clone());
        let from = job.trigger.ask_from(self.shared.clock.now());
        tokio::spawn(async move {
            let asked = async {
                let (Some(executor), Some(trigger)) = (executor, job.trigger.asked()) else {
                    return Answer::Gone(format!("no executor `{}`", job.executor));
                };
                match executor.next_fire_time(trigger, question.previous, from).await {
                    Ok(None) => Answer::Next(None),
                    Ok(Some(at)) => {
                        let next = job.trigger.accept(question.previous, from, at);
                        next.map_or_else(Answer::Broken, Answer::Next)
                    }
                    Err(error @ Error::TriggerFailed(_)) => Answer::Broken(error.to_string()),
                    Err(error) if error.is_host() => Answer::Broken(error.chain()),
                    Err(error) => Answer::Gone(error.to_string()),
                }
            };
            let broken = |_| Answer::Broken("the executor panicked".into());
            let answer = AssertUnwindSafe(asked).catch_unwind().await.unwrap_or_else(broken);
            let _ = tell.send(News::Answered(Box::new(Change::Answer { job, question, answer })));
        });
    }

    /// Takes back runs that wait for their time: those that are given, or all.
    fn withdraw(&self, runs: Option<&[RunId]>, gathered: &mut Gathered) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<RunId> = if runs.is_none() { held.keys().copied().collect() } else { Vec::new() };
        for run in runs.unwrap_or(&all) {
            if let Some(withdrawn) = held.remove(run) {
                withdrawn.cancel();
                gathered.withdrawn.push(*run);
            }
        }
        drop(held);
        self.forget(gathered.withdrawn.iter().copied());
    }

    fn cancel(&self, run: RunId) {
        if let Some(going) = self.running.lock().unwrap_or_else(PoisonError::into_inner).get(&run) {
            going.cancel.cancel();
        }
    }

    fn forget(&self, runs: impl Iterator<Item = RunId>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for run in runs {
            running.remove(&run);
        }
    }

    /// Counts each time, and tells of the first one.
    fn store_failed(&self, now: DateTime<Utc>, error: &Error, first: bool) {
        if let Some(observer) = self.shared.observer.get() {
            observer.store_failed(&self.alias);
        }
        if !first {
            tracing::debug!(jobstore = %self.alias, error = error.chain(), "the job store failed again");
            return;
        }
        tracing::error!(jobstore = %self.alias, error = error.chain(), "the job store failed and is tried again");
        let event = Event::new(EventKind::StoreError, now, self.alias.clone()).detail(error.chain());
        self.shared.bus.publish(vec![event]);
    }
}

/// Waits until a run that was claimed ahead starts, or is to be cancelled or withdrawn.
async fn wait_for_start(
    clock: &dyn Clock,
    at: DateTime<Utc>,
    cancel: &CancellationToken,
    withdrawn: &CancellationToken,
) {
    while clock.now() < at {
        tokio::select! {
            () = clock.sleep_until(at) => {}
            () = cancel.cancelled() => return,
            () = withdrawn.cancelled() => return,
        }
    }
}

fn drain(gathered: &mut Gathered, requests: &mut mpsc::Receiver<Request>, news: &mut mpsc::UnboundedReceiver<News>) {
    while let Ok(item) = news.try_recv() {
        gathered.take(item);
    }
    while gathered.requests.len() < TURN_CHANGES_MAX {
        let Ok(request) = requests.try_recv() else { break };
        gathered.requests.push(request);
    }
}

/// Only the start of a run is known: see whether its end, or anything else, follows at once.
async fn linger(
    gathered: &mut Gathered,
    requests: &mut mpsc::Receiver<Request>,
    news: &mut mpsc::UnboundedReceiver<News>,
) {
    let until = tokio::time::Instant::now() + LINGER;
    loop {
        tokio::select! {
            biased;
            Some(item) = news.recv() => {
                let ended = matches!(item, News::Ended(..));
                gathered.take(item);
                if ended {
                    return;
                }
            }
            Some(request) = requests.recv() => return gathered.requests.push(request),
            () = tokio::time::sleep_until(until) => return,
        }
    }
}
