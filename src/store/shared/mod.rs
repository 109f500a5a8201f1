//! Stores that several processes share: a turn loads the jobs that it is about from a database, applies
//! them to a [`Table`](super::table::Table) of their own, and writes down what changed, all in one
//! transaction. So what a turn means is the same in every store, and nothing of it is kept in memory
//! that another node could have changed.
//!
//! A node holds a lease, by the database's clock. Each turn checks it. What a node was running when its
//! lease ran out is ended as interrupted by whoever notices first; its own word comes too late then.

mod attempt;
mod clock;
mod codec;
mod database;
mod decide;
mod lease;
#[cfg(any(feature = "mysql", feature = "redis", feature = "sqlite"))]
mod lines;
mod ports;
mod subject;
mod writer;

use attempt::Working;
pub use clock::DatabaseClock;
use codec::{Read, decode_arguments, decode_events, decode_run, outcome_code, read_job, status_code};
pub use database::*;
use lease::{Keeper, lock};
#[cfg(any(feature = "mysql", feature = "redis", feature = "sqlite"))]
pub use lines::{Levels, Lines, Reason};

use super::record::{as_of, decode_job};
use super::{
    Counts, JobEntry, JobFilter, JobStore, List, Node, Nodes, PAGE_MAX, Page, Retention, RunFilter, Turn, Turned,
    closed,
};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::job::{Alias, Job, JobId};
use crate::lease::Lease;
use crate::run::{Run, RunId, RunLogs};
use crate::values::Values;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use ports::Plugins;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;
use ulid::Ulid;

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

impl<D: Database> SharedStore<D> {
    /// Opens a store on a database and begins a lease.
    pub async fn open(database: D, options: SharedOptions) -> Result<Self> {
        let database = Arc::new(database);
        let node = NodeRow { name: options.node.clone(), lanes: Vec::new() };
        let keeper = Arc::new(Keeper::new(database.clone(), node, options.lease)?);
        keeper.lease().await?;
        keeper.watch().await?;
        let plugins = Plugins::load(&*database).await?;
        let keep = tokio::spawn(keeper.clone().keep());
        let prune = tokio::spawn(prune(database.clone(), keeper.clone(), options.retention));
        Ok(SharedStore {
            database,
            node: options.node.as_str().into(),
            options,
            keeper,
            working: Mutex::new(Working::new()),
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

    /// Has others know which executors this node has.
    async fn serve(&self, executors: impl Iterator<Item = &Alias> + Clone) -> Result<()> {
        if self.keeper.serves(executors.map(Alias::as_str)) {
            self.keeper.renew().await?;
            self.keeper.watch().await?;
        }
        Ok(())
    }

    /// A job's entry, of what was read.
    async fn entry(&self, row: &JobRow, definition: &[u8]) -> Result<JobEntry> {
        let arguments = match row.arguments {
            true => self.database.arguments(std::slice::from_ref(&row.id)).await?,
            false => Vec::new(),
        };
        let arguments = decode_arguments(&arguments);
        let Read { job, state, .. } = read_job(row, &arguments, Some(decode_job(definition)));
        Ok(JobEntry { id: row.id.clone(), job, state })
    }
}

/// Forgets what is older than is kept, for as long as the store is open.
async fn prune<D: Database>(database: Arc<D>, keeper: Arc<Keeper<D>>, retention: Retention) {
    let mut after = String::new();
    loop {
        tokio::time::sleep(PRUNE_EVERY).await;
        let now = crate::clock::Clock::now(&keeper.clock);
        let oldest = (now - retention.age).timestamp_millis().max(0) as u64;
        let mut kept = Kept {
            runs_per_job: retention.runs_per_job,
            oldest: RunId(Ulid::from_parts(oldest, 0)),
            events: retention.events as u64,
            after: std::mem::take(&mut after),
        };
        while keeper.leads() {
            match database.prune(&kept).await {
                // The same jobs once more.
                Ok(Pruned { more: true, .. }) => tokio::task::yield_now().await,
                Ok(Pruned { last, .. }) => {
                    kept.after = last.unwrap_or_default();
                    break;
                }
                Err(error) => {
                    tracing::warn!(error = error.chain(), "cannot forget what is older than is kept");
                    break;
                }
            }
        }
        after = kept.after;
    }
}

#[async_trait]
impl<D: Database> JobStore for SharedStore<D> {
    async fn turn(&self, turn: Turn) -> Result<Turned> {
        self.open_database()?;
        let mut working = self.working.lock().await;
        if turn.claim != super::Claim::Nothing {
            self.serve(turn.slots.keys()).await?;
        }
        let turned = self.take(&mut working, &turn).await?;
        if !turn.changes.is_empty() {
            self.database.hint().await;
        }
        Ok(turned)
    }

    fn lease(&self) -> Lease {
        self.keeper.trust.clone()
    }

    async fn announce(&self, executors: &BTreeSet<Alias>) -> Result<()> {
        self.open_database()?;
        self.keeper.lease().await?;
        self.serve(executors.iter()).await
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

    async fn rejoined(&self) {
        self.keeper.rejoined.notified().await;
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
        let status = filter.state.map(status_code);
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
        let run = Run::claimed(id, &job, pending.scheduled_time, "".into());
        let (attempt, origin, arguments) = (pending.attempt, pending.origin, pending.arguments.clone());
        Ok(Some(Run { jobstore: self.options.alias.clone(), attempt, origin, arguments, ..run }))
    }

    async fn list_runs(&self, filter: &RunFilter, page: &Page) -> Result<List<Run>> {
        let database = self.open_database()?;
        let limit = page.limit.clamp(1, PAGE_MAX);
        let mut query = RunQuery {
            before: super::before(page),
            job: filter.job.clone(),
            outcome: filter.outcome.map(outcome_code),
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
                let Some(run) = sound(&row) else { continue };
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
                match decode_events(block, &self.options.alias) {
                    Ok(block) => events.extend(block.into_iter().filter(|event| event.seq > since)),
                    // Those after it are heard all the same.
                    Err(error) => tracing::error!(error = error.chain(), "events are damaged and are passed over"),
                }
            }
        }
        events.truncate(limit);
        let mut ids: Vec<RunId> = events.iter().filter_map(|event| event.run_id).collect();
        ids.sort_unstable();
        ids.dedup();
        let rows = if ids.is_empty() { Vec::new() } else { database.runs(&ids).await? };
        let runs: HashMap<RunId, Run> = rows.iter().filter_map(sound).map(|run| (run.id, run)).collect();
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
                executors: node.row.lanes,
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

/// A run, unless its record is damaged, which hides no other one.
fn sound(row: &RunRow) -> Option<Run> {
    decode_run(row).inspect_err(|error| tracing::error!(error = error.chain(), "a run is passed over")).ok()
}

pub fn micros(time: DateTime<Utc>) -> i64 {
    time.timestamp_micros()
}

pub fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or_default()
}
