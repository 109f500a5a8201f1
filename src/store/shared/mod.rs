//! Stores that several processes share: a turn loads the jobs that it is about from a database, applies
//! them to a [`Table`](super::table::Table) of their own, and writes down what changed, all in one
//! transaction. So what a turn means is the same in every store, and nothing of it is kept in memory
//! that another node could have changed.
//!
//! A node holds a lease, by the database's clock. Each turn checks it. What a node was running when its
//! lease ran out is ended as interrupted by whoever notices first; its own word comes too late then.

mod clock;
mod database;
mod lease;
#[cfg(any(feature = "mysql", feature = "redis", feature = "sqlite"))]
mod lines;
mod ports;
mod turn;

pub use clock::DatabaseClock;
pub use database::*;
use lease::{Keeper, lock};
#[cfg(any(feature = "mysql", feature = "redis", feature = "sqlite"))]
pub use lines::{Levels, Lines, Reason};

use super::record::{StoredEvent, as_of, decode_job};
use super::{
    Change, Claimed, Counts, JobEntry, JobFilter, JobStore, List, Node, Nodes, PAGE_MAX, Page, Retention, RunFilter,
    Turn, Turned, closed, row,
};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::job::{Alias, Job, JobId, JobState};
use crate::lease::Lease;
use crate::run::{Run, RunId, RunLogs};
use crate::values::Values;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use lru::LruCache;
use ports::Plugins;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;
use turn::{Decided, Subject, Taken, Timing, decode_arguments, decode_definitions, decode_run, details};
use ulid::Ulid;

/// How often a turn that lost a race is taken again.
const RACES_MAX: usize = 10;
const RACE_PAUSE: Duration = Duration::from_millis(20);
/// How long a turn waits to learn what became of its commit.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(5);
const SETTLE_EVERY: Duration = Duration::from_millis(100);
/// Definitions that are kept decoded.
const DEFINITIONS_MAX: usize = 16_384;
/// How often a node forgets what is older than is kept.
const PRUNE_EVERY: Duration = Duration::from_secs(5);

/// How a [`SharedStore`] is opened.
#[derive(Debug, Clone)]
pub struct SharedOptions {
    pub alias: Alias,
    /// Written into runs: who ran them.
    pub node: String,
    pub retention: Retention,
    /// How long a node may be silent before its runs are taken over. Default 10 s.
    pub lease: Duration,
    /// How often a node looks for what others changed, if no hint of it comes. Default 1 s.
    pub poll: Duration,
    /// How long before its time a run is claimed, so that its start waits for no database. Default 1 s.
    pub lead: Duration,
    /// How long no node may have an executor before the jobs that name it are quarantined when they are
    /// due. Default 30 s.
    pub patience: Duration,
}

impl Default for SharedOptions {
    fn default() -> Self {
        SharedOptions {
            alias: Alias::default(),
            node: "local".into(),
            retention: Retention::default(),
            lease: Duration::from_secs(10),
            poll: Duration::from_secs(1),
            lead: Duration::from_secs(1),
            patience: Duration::from_secs(30),
        }
    }
}

/// Jobs, history and plugins in a database.
pub struct SharedStore<D: Database> {
    database: Arc<D>,
    options: SharedOptions,
    node: Arc<str>,
    keeper: Arc<Keeper<D>>,
    working: Mutex<Working>,
    plugins: Plugins,
    closed: AtomicBool,
    tasks: std::sync::Mutex<Vec<AbortOnDropHandle<()>>>,
}

/// What is kept from turn to turn. All of it can be lost.
pub struct Working {
    /// The lease that these are of.
    lease: u64,
    /// Turns of the lease that were committed.
    turns: u64,
    last_id: Ulid,
    /// Runs that this node has claimed and whose end is not recorded yet.
    live: HashMap<RunId, Run>,
    /// The revisions of the jobs whose runs were claimed ahead.
    held: HashMap<RunId, u64>,
    /// The jobs of those are to be looked at; and when they were.
    look: bool,
    looked: Option<tokio::time::Instant>,
    /// Lanes that no node serves, and since when this node has seen that.
    orphans: BTreeMap<String, tokio::time::Instant>,
    definitions: LruCache<JobId, (u64, Arc<Job>)>,
    /// A turn that nobody answered for.
    doubtful: Option<Box<Doubtful>>,
    /// Runs of such a turn that nobody started, until a turn has recorded that; and ends that it recorded,
    /// which will be told again.
    owed: Vec<RunId>,
    settled: HashSet<RunId>,
}

impl Working {
    /// Lanes that nobody has served for longer than `patience`.
    fn abandoned(&self, patience: Duration) -> BTreeSet<String> {
        let abandoned = self.orphans.iter().filter(|(_, since)| since.elapsed() >= patience);
        abandoned.map(|(lane, _)| lane.clone()).collect()
    }

    /// Notes which lanes nobody serves; true if more of them are abandoned than the turn knew of.
    fn note_orphans(&mut self, orphans: &[String], wanted: &Wanted, patience: Duration) -> bool {
        self.orphans.retain(|lane, _| orphans.contains(lane));
        for lane in orphans {
            self.orphans.entry(lane.clone()).or_insert_with(tokio::time::Instant::now);
        }
        self.abandoned(patience).iter().any(|lane| !wanted.abandoned.contains(lane))
    }
}

struct Doubtful {
    turn: u64,
    claimed: Vec<RunId>,
    finished: Vec<RunId>,
}

/// Why a turn is to be taken again.
enum Again {
    Now,
    WithoutTakingOver(u64),
    WithNewLease(u64),
    /// A fire time of one of these was claimed before.
    Without(Vec<(JobId, Alias)>),
    Failed(Error),
}

/// How a turn is taken again.
#[derive(Default)]
struct Care {
    leaves_the_dead: bool,
    /// It claims one run of this executor, so that it is known whose fire time was claimed before.
    one_of: Option<Alias>,
    /// Its fire time was claimed before.
    amiss: Option<JobId>,
}

impl Care {
    /// The turn, as it is taken now.
    fn apply(&self, turn: &Turn) -> Turn {
        let mut turn = turn.clone();
        if let Some(executor) = &self.one_of {
            turn.ahead = false;
            for (alias, free) in &mut turn.slots {
                *free = usize::from(alias == executor).min(*free);
            }
        }
        if let Some(id) = self.amiss.clone() {
            let reason = "its next fire time was claimed before (is the database another one than it was, from a \
                          backup or after a failover?)"
                .into();
            turn.changes.push(Change::Quarantine { id, reason });
        }
        turn
    }
}

impl From<Error> for Again {
    fn from(error: Error) -> Self {
        Again::Failed(error)
    }
}

impl<D: Database> SharedStore<D> {
    /// Opens a store on a database and begins a lease.
    pub async fn open(database: D, options: SharedOptions) -> Result<Self> {
        let database = Arc::new(database);
        let node = NodeRow { name: options.node.clone(), lanes: Vec::new() };
        let keeper = Arc::new(Keeper::new(database.clone(), node, options.lease)?);
        keeper.lease().await?;
        keeper.watch().await?;
        let plugins = Plugins::load(&*database).await?;
        let capacity = NonZeroUsize::new(DEFINITIONS_MAX).unwrap_or(NonZeroUsize::MIN);
        let working = Working {
            lease: 0,
            turns: 0,
            last_id: Ulid::from_parts(0, super::entropy()),
            live: HashMap::new(),
            held: HashMap::new(),
            look: false,
            looked: None,
            orphans: BTreeMap::new(),
            definitions: LruCache::new(capacity),
            doubtful: None,
            owed: Vec::new(),
            settled: HashSet::new(),
        };
        let keep = tokio::spawn(keeper.clone().keep());
        let prune = tokio::spawn(prune(database.clone(), keeper.clone(), options.retention));
        Ok(SharedStore {
            database,
            node: options.node.as_str().into(),
            options,
            keeper,
            working: Mutex::new(working),
            plugins,
            closed: AtomicBool::new(false),
            tasks: std::sync::Mutex::new(vec![AbortOnDropHandle::new(keep), AbortOnDropHandle::new(prune)]),
        })
    }

    /// The database's time, for the scheduler of this node.
    pub fn clock(&self) -> DatabaseClock {
        self.keeper.clock.clone()
    }

    fn open_database(&self) -> Result<&D> {
        if self.closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(&self.database) }
    }

    /// One attempt at a turn.
    async fn attempt(&self, working: &mut Working, mut turn: Turn, takes_over: bool) -> Result<Turned, Again> {
        let lease = self.keeper.lease().await?;
        if working.lease != lease {
            // Runs of the old lease are for whoever takes it over, and their ends will come too late.
            (working.lease, working.turns, working.doubtful) = (lease, 0, None);
            working.owed.clear();
        }
        if !self.keeper.trust.holds() {
            self.keeper.renew().await?;
        }
        // What it may not run it does not claim.
        if !(self.keeper.may_claim() && self.keeper.trust.holds()) {
            turn.claim = super::Claim::Nothing;
        }
        self.settle(working, &mut turn).await?;
        let dead = if takes_over { self.keeper.dead().await? } else { None };
        if let Some(dead) = &dead {
            tracing::warn!(
                node = dead.node,
                lease = dead.lease,
                runs = dead.left.runs.len(),
                "a node's lease has run out; its runs are taken over"
            );
        }
        let number = (lease, working.turns + 1);
        let lead = TimeDelta::from_std(self.options.lead).unwrap_or_default();
        working.look |= self.keeper.take_hint();
        let look = working.look || working.looked.is_none_or(|looked| looked.elapsed() >= self.options.poll);
        let timing = Timing { lead, look, patience: self.options.patience };
        let subject = Subject::of(&*self.database, working, &turn, dead.as_ref(), number, timing).await?;
        let (mut transaction, loaded) = match self.database.load(&subject.wanted).await? {
            Load::Loaded(transaction, loaded) => (transaction, loaded),
            Load::Conflict => return Err(Again::Now),
            Load::LeaseLost => return Err(Again::WithNewLease(lease)),
            Load::NotFenced => return Err(Again::WithoutTakingOver(subject.wanted.fenced.unwrap_or_default())),
        };
        if subject.wanted.orphans > 0 && working.note_orphans(&loaded.orphans, &subject.wanted, self.options.patience) {
            self.database.abandon(transaction).await;
            return Err(Again::Now);
        }
        // Before the commit: what fails after it would be forgotten.
        self.plugins.refresh(&*self.database, loaded.catalog).await?;
        let mut definitions = HashMap::new();
        for row in &loaded.jobs {
            if let Some((revision, job)) = working.definitions.get(&row.id)
                && *revision == row.revision
            {
                definitions.insert(row.id.clone(), Ok(job.clone()));
            }
        }
        let wanted = details(&loaded, |id| definitions.contains_key(id));
        let found = match wanted.is_empty() {
            true => Found::default(),
            false => self.database.details(&mut transaction, &wanted).await?,
        };
        let revisions: HashMap<&JobId, u64> = loaded.jobs.iter().map(|row| (&row.id, row.revision)).collect();
        for (id, job) in decode_definitions(&found) {
            if let (Ok(job), Some(revision)) = (&job, revisions.get(&id)) {
                working.definitions.put(id.clone(), (*revision, job.clone()));
            }
            definitions.insert(id, job);
        }
        let withdrawn = turn.withdrawn.clone();
        let finished: Vec<RunId> = turn.finished.iter().map(|finished| finished.run).collect();
        let (alias, node) = (&self.options.alias, &self.node);
        let (held, own) = (&working.held, &working.live);
        let taken = Taken { alias, node, lease, lead, held, own, loaded, found, definitions };
        let decided = taken.decide(turn, subject, working.last_id)?;
        let Decided { mut turned, written, defined, going, last_id } = decided;
        // An id that was made is never made again, whatever becomes of the turn.
        working.last_id = last_id;
        let ahead = turned.claimed.iter().zip(&written.begun).filter(|(claimed, _)| claimed.run.starts.is_some());
        let held: Vec<(RunId, u64)> = ahead.map(|(_, row)| (row.id, row.revision)).collect();
        if !written.is_empty() {
            let cancels = !written.cancel.is_empty();
            let first = self.commit(working, transaction, written, (&turned.claimed, &finished)).await?;
            for (event, seq) in turned.events.iter_mut().zip(first..) {
                event.seq = seq;
            }
            if cancels {
                self.database.hint().await;
            }
        } else {
            self.database.abandon(transaction).await;
        }
        for run in finished.iter().chain(&withdrawn) {
            working.live.remove(run);
        }
        working.live.extend(going.into_iter().filter(|run| run.node == self.node).map(|run| (run.id, run)));
        working.held.retain(|run, _| working.live.get(run).is_some_and(|run| run.starts.is_some()));
        working.held.extend(held);
        for (job, revision) in defined {
            working.definitions.put(job.id.clone(), (revision, job));
        }
        turned.cancel.extend(self.keeper.cancelled());
        if look {
            (working.look, working.looked) = (false, Some(tokio::time::Instant::now()));
        }
        working.owed.clear();
        working.settled.clear();
        Ok(turned)
    }

    /// Learns what became of the last turn, if nobody said: runs that it claimed were never started, and
    /// ends that it recorded need not be recorded again.
    async fn settle(&self, working: &mut Working, turn: &mut Turn) -> Result<()> {
        if let Some(doubtful) = &working.doubtful
            && self.database.settled(working.lease, doubtful.turn).await?.is_some()
        {
            for run in &doubtful.finished {
                working.live.remove(run);
            }
            working.settled.extend(&doubtful.finished);
            working.owed.extend(&doubtful.claimed);
            working.turns = doubtful.turn;
        }
        working.doubtful = None;
        turn.finished.retain(|finished| !working.settled.contains(&finished.run));
        let lost = |run: &RunId| super::Finished::of(*run, turn.now, crate::run::Outcome::Interrupted);
        turn.finished.extend(working.owed.iter().map(lost));
        Ok(())
    }

    /// Commits, and finds out whether it was committed if nobody says. Gives the number of the first
    /// event.
    async fn commit(
        &self,
        working: &mut Working,
        transaction: D::Transaction,
        written: Written,
        (claimed, finished): (&[Claimed], &[RunId]),
    ) -> Result<u64, Again> {
        let (lease, turn) = (written.lease, written.turn);
        let error = match self.database.commit(transaction, written).await {
            Ok(committed) => {
                working.turns = turn;
                return Ok(committed.first_event);
            }
            Err(CommitError::Conflict) => return Err(Again::Now),
            Err(CommitError::Failed(error)) => return Err(Again::Failed(error)),
            Err(CommitError::ClaimedBefore) => {
                let of = |claimed: &Claimed| (claimed.job.id.clone(), claimed.job.executor.clone());
                return Err(Again::Without(claimed.iter().map(of).collect()));
            }
            Err(CommitError::Unknown(error)) => error,
        };
        tracing::warn!(error = error.chain(), "nobody answered whether a turn was committed; asking");
        let asking = async {
            loop {
                match self.database.settled(lease, turn).await {
                    Ok(settled) => break settled,
                    Err(_) => tokio::time::sleep(SETTLE_EVERY).await,
                }
            }
        };
        match tokio::time::timeout(SETTLE_TIME_MAX, asking).await {
            Ok(Some(first)) => {
                working.turns = turn;
                Ok(first)
            }
            Ok(None) => Err(Again::Now),
            Err(_) => {
                let claimed = claimed.iter().map(|claimed| claimed.run.id).collect();
                working.doubtful = Some(Box::new(Doubtful { turn, claimed, finished: finished.to_vec() }));
                Err(Again::Failed(error))
            }
        }
    }

    /// A job's entry, of what was read.
    async fn entry(&self, row: &JobRow, definition: &[u8]) -> Result<JobEntry> {
        let arguments = match row.arguments {
            true => self.database.arguments(std::slice::from_ref(&row.id)).await?,
            false => Vec::new(),
        };
        let arguments = decode_arguments(&arguments);
        let decoded = row::decode(&row.state, |id| arguments.get(&id).cloned());
        let Some((mut state, _)) = decoded else {
            let state = JobState { quarantine: Some(turn::UNREADABLE.to_owned()), ..JobState::default() };
            return Ok(JobEntry { id: row.id.clone(), job: None, state });
        };
        let job = decode_job(definition).map_err(|reason| state.quarantine = Some(reason)).ok();
        Ok(JobEntry { id: row.id.clone(), job, state })
    }
}

/// Forgets what is older than is kept, for as long as the store is open.
async fn prune<D: Database>(database: Arc<D>, keeper: Arc<Keeper<D>>, retention: Retention) {
    loop {
        tokio::time::sleep(PRUNE_EVERY).await;
        let now = crate::clock::Clock::now(&keeper.clock);
        let oldest = (now - retention.age).timestamp_millis().max(0) as u64;
        let kept = Kept {
            runs_per_job: retention.runs_per_job,
            oldest: RunId(Ulid::from_parts(oldest, 0)),
            events: retention.events as u64,
        };
        while keeper.leads() {
            match database.prune(&kept).await {
                Ok(true) => tokio::task::yield_now().await,
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(error = error.chain(), "cannot forget what is older than is kept");
                    break;
                }
            }
        }
    }
}

#[async_trait]
impl<D: Database> JobStore for SharedStore<D> {
    async fn turn(&self, turn: Turn) -> Result<Turned> {
        self.open_database()?;
        let mut working = self.working.lock().await;
        if turn.claim != super::Claim::Nothing && self.keeper.serves(turn.slots.keys().map(Alias::as_str)) {
            // Others would think that nobody serves them.
            self.keeper.renew().await?;
            self.keeper.watch().await?;
        }
        let mut care = Care::default();
        for _ in 0..RACES_MAX {
            match self.attempt(&mut working, care.apply(&turn), !care.leaves_the_dead).await {
                Ok(turned) => {
                    if !turn.changes.is_empty() {
                        self.database.hint().await;
                    }
                    return Ok(turned);
                }
                Err(Again::Now) => tokio::time::sleep(RACE_PAUSE).await,
                Err(Again::WithoutTakingOver(dead)) => {
                    self.keeper.forget(dead);
                    care.leaves_the_dead = true;
                }
                Err(Again::Without(claimed)) => match claimed.as_slice() {
                    [(id, _)] => care = Care { amiss: Some(id.clone()), one_of: None, ..care },
                    [(_, executor), ..] => care.one_of = Some(executor.clone()),
                    [] => {
                        let what = "a fire time was to be recorded that has been recorded before".into();
                        return Err(Error::StoreFailed { what, source: None });
                    }
                },
                Err(Again::WithNewLease(lease)) => self.keeper.lose(lease),
                Err(Again::Failed(error)) => return Err(error),
            }
        }
        let what = format!("a turn lost {RACES_MAX} races with other nodes");
        Err(Error::StoreFailed { what, source: None })
    }

    fn lease(&self) -> Lease {
        self.keeper.trust.clone()
    }

    async fn has_executor(&self, alias: &Alias) -> Result<bool> {
        let nodes = self.open_database()?.nodes().await?;
        Ok(nodes.iter().any(|node| node.left.is_some() && node.row.lanes.iter().any(|lane| lane == alias.as_str())))
    }

    async fn last_event(&self) -> Result<u64> {
        self.open_database()?.last_event().await
    }

    async fn changed(&self) {
        tokio::select! {
            () = self.keeper.changed.notified() => {}
            () = tokio::time::sleep(self.options.poll) => {}
        }
    }

    async fn get_job(&self, id: &JobId) -> Result<Option<JobEntry>> {
        match self.open_database()?.job(id).await? {
            Some((row, definition)) => self.entry(&row, &definition).await.map(Some),
            None => Ok(None),
        }
    }

    async fn list_jobs(&self, filter: &JobFilter, page: &Page) -> Result<List<JobEntry>> {
        let database = self.open_database()?;
        let limit = page.limit.clamp(1, PAGE_MAX);
        let status = filter.state.map(turn::status_code);
        let mut after = page.after.clone();
        let mut items = Vec::new();
        while items.len() <= limit {
            let rows = database.jobs(after.as_deref(), status, PAGE_MAX).await?;
            let more = rows.len() == PAGE_MAX;
            after = rows.last().map(|(row, _)| row.id.to_string());
            for (row, definition) in rows {
                let entry = self.entry(&row, &definition).await?;
                if filter.matches(&entry) {
                    items.push(entry);
                }
            }
            if !more {
                break;
            }
        }
        Ok(List::page(items.into_iter(), limit, |entry| entry.id.to_string()))
    }

    async fn get_run(&self, id: RunId) -> Result<Option<Run>> {
        let database = self.open_database()?;
        if let Some(row) = database.run(id).await? {
            return decode_run(&row).map(Some);
        }
        // One that waits has no record yet.
        let Some(job) = database.promised(id).await? else { return Ok(None) };
        let Some(JobEntry { job: Some(job), state, .. }) = self.get_job(&job).await? else { return Ok(None) };
        let Some(pending) = state.pending.iter().find(|pending| pending.id == id) else { return Ok(None) };
        let run = Run::claimed(id, &job, pending.scheduled_time, self.node.clone());
        let (attempt, origin, arguments) = (pending.attempt, pending.origin, pending.arguments.clone());
        Ok(Some(Run { jobstore: self.options.alias.clone(), attempt, origin, arguments, ..run }))
    }

    async fn list_runs(&self, filter: &RunFilter, page: &Page) -> Result<List<Run>> {
        let database = self.open_database()?;
        let limit = page.limit.clamp(1, PAGE_MAX);
        let mut query = RunQuery {
            before: super::before(page),
            job: filter.job.clone(),
            outcome: filter.outcome.map(turn::outcome_code),
            since: filter.since.map(micros),
            until: filter.until.map(micros),
            limit: if filter.tags.is_empty() { limit + 1 } else { PAGE_MAX },
        };
        let mut items = Vec::new();
        let mut jobs: BTreeMap<JobId, Option<Arc<Job>>> = BTreeMap::new();
        while items.len() <= limit {
            let rows = database.list_runs(&query).await?;
            let more = rows.len() == query.limit;
            query.before = rows.last().map(|row| row.id);
            for row in rows {
                if !filter.tags.is_empty() && !jobs.contains_key(&row.job) {
                    let job = self.get_job(&row.job).await?.and_then(|entry| entry.job);
                    jobs.insert(row.job.clone(), job);
                }
                let run = decode_run(&row)?;
                if filter.matches(&run) && filter.tagged(&run, |id| jobs.get(id).cloned().flatten()) {
                    items.push(run);
                }
            }
            if !more {
                break;
            }
        }
        Ok(List::page(items.into_iter(), limit, |run| run.id.to_string()))
    }

    async fn get_logs(&self, id: RunId) -> Result<Option<RunLogs>> {
        let database = self.open_database()?;
        match database.run(id).await? {
            Some(row) if row.ended => {}
            _ => return Ok(None),
        }
        match database.logs(id).await? {
            None => Ok(Some(RunLogs::default())),
            Some(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| failed(format!("the logs of run `{id}` cannot be decoded"), e)),
        }
    }

    async fn list_events(&self, since: u64, limit: usize) -> Result<Vec<Event>> {
        let database = self.open_database()?;
        let mut events: Vec<Event> = Vec::new();
        let mut from = since;
        while events.len() < limit {
            let blocks = database.events(from, limit - events.len()).await?;
            let Some(last) = blocks.last() else { break };
            from = last.first + last.count - 1;
            for block in &blocks {
                let stored: Vec<StoredEvent> =
                    serde_json::from_slice(&block.body).map_err(|e| failed("events cannot be decoded", e))?;
                for (stored, seq) in stored.into_iter().zip(block.first..) {
                    if seq > since && events.len() < limit {
                        let event = stored.into_event(seq, &self.options.alias);
                        events.push(event.ok_or_else(|| {
                            let what = format!("event {seq} cannot be decoded");
                            Error::StoreFailed { what, source: None }
                        })?);
                    }
                }
            }
        }
        let mut ids: Vec<RunId> = events.iter().filter_map(|event| event.run_id).collect();
        ids.sort_unstable();
        ids.dedup();
        let rows = if ids.is_empty() { Vec::new() } else { database.runs(&ids).await? };
        let runs: HashMap<RunId, Run> =
            rows.iter().map(|row| decode_run(row).map(|run| (row.id, run))).collect::<Result<_>>()?;
        for event in &mut events {
            let run = event.run_id.and_then(|id| runs.get(&id));
            event.run = run.map(|run| Box::new(as_of(event.kind, run.clone())));
        }
        Ok(events)
    }

    async fn get_values(&self, id: &JobId) -> Result<Values> {
        Ok(self.open_database()?.values(id).await?.into_iter().collect())
    }

    async fn counts(&self) -> Result<Counts> {
        self.open_database()?.counts().await
    }

    async fn close(&self) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let _turn = self.working.lock().await;
        lock(&self.tasks).clear();
        let left = self.keeper.leave().await;
        self.database.close().await;
        left
    }
}

#[async_trait]
impl<D: Database> Nodes for SharedStore<D> {
    async fn list_nodes(&self) -> Result<Vec<Node>> {
        let nodes = self.open_database()?.nodes().await?;
        let own = self.keeper.current();
        Ok(nodes
            .into_iter()
            .map(|node| Node {
                lease: node.lease,
                name: node.row.name,
                lanes: node.row.lanes,
                left: node.left.map(|left| left.as_secs_f64()),
                claims: node.claims && node.left.is_some(),
                own: node.lease == own,
            })
            .collect())
    }

    async fn evict_node(&self, lease: u64) -> Result<()> {
        let database = self.open_database()?;
        if !database.nodes().await?.iter().any(|node| node.lease == lease) {
            return Err(Error::NodeNotFound(lease));
        }
        database.evict(lease).await?;
        // Where one node claims, that may have been it.
        self.keeper.renew().await?;
        self.keeper.watch().await
    }

    async fn leads(&self) -> Result<bool> {
        self.open_database().map(|_| self.keeper.leads())
    }
}

pub fn micros(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros()
}

pub fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or_default()
}
