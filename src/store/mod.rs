//! What the scheduler asks of a store. Everything that changes a job store goes through
//! [`JobStore::turn`]: one transaction, one commit, one order of events.

pub mod conformance;
mod memory;
#[cfg(feature = "postgres")]
mod postgres;
mod record;
#[cfg(feature = "redis")]
mod redis;
mod row;
// Without a database that it could be on, it is still compiled: it must not break unnoticed.
#[cfg_attr(not(any(feature = "mysql", feature = "postgres", feature = "redis", feature = "sqlite")), allow(dead_code))]
mod shared;
mod sled;
#[cfg(any(feature = "mysql", feature = "sqlite"))]
mod sql;
mod table;

pub use self::sled::{HomeLock, OPENER_THREAD, Recovered, SledOptions, SledStore, recover};
pub(crate) use table::Table;

#[cfg(feature = "redis")]
pub use self::redis::RedisStore;
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
pub use shared::{Database, SharedOptions, SharedStore};
#[cfg(feature = "mysql")]
pub use sql::MysqlStore;
#[cfg(feature = "sqlite")]
pub use sql::SqliteStore;

pub use memory::{MemoryListenerStore, MemoryPluginStore, MemorySecretStore, MemoryStore};

use crate::error::{Error, Result};
use crate::event::Event;
use crate::func::{FuncRef, PluginName};
use crate::grant::{Capability, Grants, SecretName, Use};
use crate::job::{Alias, Arguments, Job, JobId, JobState, Question, Status};
use crate::lease::Lease;
use crate::listener::{Listener, Progress};
use crate::plugin::Plugin;
use crate::run::{Outcome, OutcomeKind, Run, RunId, RunLogs, Usage};
use crate::secret::Secret;
use crate::values::{ValueChanges, Values};
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Runs that one turn claims at most; more wait for the next turn.
pub const TURN_RUNS_MAX: usize = 256;
/// Entries on one page of a list.
pub const PAGE_MAX: usize = 1000;

/// What a turn brings and wants.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    pub now: DateTime<Utc>,
    /// Runs that their executors have begun since the last turn.
    pub started: Vec<Started>,
    /// Runs that have ended since the last turn. One that the store does not know as running is
    /// ignored: its end was recorded already.
    pub finished: Vec<Finished>,
    /// Runs that were claimed ahead and will not start: as if they had not been claimed.
    pub withdrawn: Vec<RunId>,
    /// What callers ask for, in the order they asked.
    pub changes: Vec<Change>,
    pub claim: Claim,
    /// Runs that start so soon may be claimed ahead, if the store does that.
    pub ahead: bool,
    /// Free slots by executor; executors that are full are present with 0.
    pub slots: BTreeMap<Alias, usize>,
}

/// Which due runs a turn may claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Claim {
    #[default]
    Nothing,
    /// Only what callers asked for: the scheduler is paused.
    Manual,
    /// Whatever is due. A due job whose executor is not among the slots is quarantined.
    Due,
}

#[derive(Debug, Clone)]
pub struct Started {
    pub run: RunId,
    pub at: DateTime<Utc>,
}

#[derive(Debug, Clone)]
pub struct Finished {
    pub run: RunId,
    pub started: Option<DateTime<Utc>>,
    pub ended: DateTime<Utc>,
    pub outcome: Outcome,
    pub usage: Usage,
    pub plugin_digest: Option<Arc<str>>,
    pub logs: RunLogs,
    pub uses: Vec<Use>,
    /// What changes in its job's state if it succeeded; ignored if it did not.
    pub values: ValueChanges,
}

impl Finished {
    /// The end of a run of which no more is known.
    pub fn of(run: RunId, ended: DateTime<Utc>, outcome: Outcome) -> Self {
        Finished {
            run,
            started: None,
            ended,
            outcome,
            usage: Usage::default(),
            plugin_digest: None,
            logs: RunLogs::default(),
            uses: Vec::new(),
            values: ValueChanges::default(),
        }
    }
}

/// What to do when a job's id is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Conflict {
    #[default]
    Refuse,
    Replace,
    Keep,
}

/// One change that a caller asks for. Each is answered by one [`Reply`] or one error, and a change
/// that is refused changes nothing.
#[derive(Debug, Clone)]
pub enum Change {
    /// The trigger is anchored at `now`; refused with `NeverFires` if it has no fire time left.
    /// A replaced job keeps its running runs.
    Add {
        job: Box<Job>,
        paused: bool,
        conflict: Conflict,
        /// Its first fire time, if a plugin decides it and was asked.
        first: Option<DateTime<Utc>>,
    },
    /// Replaces the job if it is still equal to `base`; a changed trigger is anchored anew and
    /// recomputes the next run time.
    Modify {
        base: Arc<Job>,
        job: Box<Job>,
        /// As in `Add`.
        first: Option<DateTime<Utc>>,
    },
    /// No further fire times; the job leaves when its running runs have ended.
    Remove {
        id: JobId,
    },
    Pause {
        id: JobId,
    },
    /// Fire times that the pause passed over are recorded as skipped.
    Resume {
        id: JobId,
    },
    /// One run as soon as a slot is free, paused or not, with the job's arguments or others. Waits
    /// while `max_instances` runs go.
    Run {
        id: JobId,
        arguments: Option<Arc<Arguments>>,
    },
    /// Ends a run that waits for its time or a slot. One that goes on is cancelled where it runs.
    Cancel {
        run: RunId,
    },
    /// One run for each fire time of a past range, from its beginning to before its end, as slots
    /// and `max_instances` allow and nothing else is due; without a range, the backfill that goes on
    /// ends.
    Backfill {
        id: JobId,
        range: Option<(DateTime<Utc>, DateTime<Utc>)>,
    },
    /// What a plugin answered that decides when a job fires.
    Answer {
        job: Arc<Job>,
        question: Question,
        answer: Answer,
    },
    Quarantine {
        id: JobId,
        reason: String,
    },
    /// Forgets the job's own key-value state.
    ClearValues {
        id: JobId,
    },
    /// Ends a quarantine. A job that is not quarantined stays as it is.
    Release {
        id: JobId,
    },
    /// Records an event that is about no run.
    Record {
        event: Box<Event>,
    },
}

/// A question to a plugin that decides when a job fires.
#[derive(Debug, Clone)]
pub struct Asked {
    pub job: Arc<Job>,
    pub question: Question,
}

/// What came of it.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The next fire time, or none any more.
    Next(Option<DateTime<Utc>>),
    /// It failed, or answered what cannot be: the job is paused, with this reason.
    Broken(String),
    /// There is nobody to ask: the job is quarantined.
    Gone(String),
}

/// The answer to one change.
#[derive(Debug, Clone)]
pub enum Reply {
    Job(Box<JobEntry>),
    /// The id under which the run will be found; it may still wait for a slot.
    Run(RunId),
    Done,
}

/// What a turn did, durably.
#[derive(Debug, Default)]
pub struct Turned {
    /// One for each change, in their order.
    pub replies: Vec<Result<Reply>>,
    /// Runs to start now.
    pub claimed: Vec<Claimed>,
    /// Plugins to ask, each for the next fire time of one job; a [`Change::Answer`] is owed for each.
    pub questions: Vec<Asked>,
    /// Runs that were claimed ahead and are not to start, because their job is not as it was; to be
    /// withdrawn if they have not started.
    pub recalled: Vec<RunId>,
    /// Runs to cancel, because their job's overlap policy wants their place.
    pub cancel: Vec<RunId>,
    /// Events of this turn, in order, to be published now.
    pub events: Vec<Event>,
    /// When the next turn has something to claim, given a free slot. `None`: nothing is scheduled.
    pub next_due: Option<DateTime<Utc>>,
    /// Something is due that found no free slot.
    pub starved: bool,
    /// Jobs in line for a slot.
    pub waiting: usize,
}

/// A run to start, with the job it belongs to; at its `starts`, if it has one, else now.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub run: Run,
    pub job: Arc<Job>,
    /// The job's own state, as it is stored after the turn that claims the run.
    pub values: Arc<Values>,
}

/// A job with its state.
#[derive(Debug, Clone)]
pub struct JobEntry {
    pub id: JobId,
    /// Absent if its stored form cannot be decoded; the state then says why.
    pub job: Option<Arc<Job>>,
    pub state: JobState,
}

/// Which jobs a list shows. Empty means all.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct JobFilter {
    pub state: Option<Status>,
    /// `key=value`, all of which the job has.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Jobs whose func, or whose trigger, is of this plugin.
    pub module: Option<PluginName>,
}

impl JobFilter {
    /// What can be told without the job's definition.
    pub(crate) fn matches_state(&self, state: &JobState) -> bool {
        self.state.is_none_or(|wanted| state.status() == wanted)
    }

    pub(crate) fn matches(&self, entry: &JobEntry) -> bool {
        self.matches_state(&entry.state)
            && entry.job.as_ref().map_or(self.tags.is_empty() && self.module.is_none(), |job| {
                self.tags.iter().all(|(key, value)| job.tags.get(key) == Some(value))
                    && self.module.as_ref().is_none_or(|module| {
                        let asked = job.trigger.asked().is_some_and(|asked| asked.func.module == *module);
                        asked || job.func.module == *module
                    })
            })
    }
}

/// Which runs a list shows. Empty means all.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RunFilter {
    pub job: Option<JobId>,
    pub outcome: Option<OutcomeKind>,
    /// Runs with a scheduled time at or after this.
    pub since: Option<DateTime<Utc>>,
    /// Runs with a scheduled time before this.
    pub until: Option<DateTime<Utc>>,
    /// Runs of jobs that have all these tags now.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

impl RunFilter {
    pub(crate) fn matches(&self, run: &Run) -> bool {
        self.job.as_ref().is_none_or(|job| run.job_id == *job)
            && self.outcome.is_none_or(|kind| run.outcome.as_ref().is_some_and(|o| o.kind() == kind))
            && self.since.is_none_or(|since| run.scheduled_time >= since)
            && self.until.is_none_or(|until| run.scheduled_time < until)
    }

    /// Whether a run's job has the tags; `job` finds it.
    pub(crate) fn tagged(&self, run: &Run, job: impl FnOnce(&JobId) -> Option<Arc<Job>>) -> bool {
        self.tags.is_empty()
            || job(&run.job_id).is_some_and(|job| self.tags.iter().all(|(key, value)| job.tags.get(key) == Some(value)))
    }
}

/// One page of a list: at most `limit` entries after the cursor.
#[derive(Debug, Clone)]
pub struct Page {
    pub after: Option<String>,
    pub limit: usize,
}

impl Default for Page {
    fn default() -> Self {
        Page { after: None, limit: 100 }
    }
}

/// A page and the cursor of the one after it.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
pub struct List<T> {
    pub items: Vec<T>,
    pub next: Option<String>,
}

impl<T> List<T> {
    /// Takes a page from what matches, in order.
    pub(crate) fn page(matching: impl Iterator<Item = T>, limit: usize, cursor: impl Fn(&T) -> String) -> Self {
        let limit = limit.clamp(1, PAGE_MAX);
        let mut items: Vec<T> = matching.take(limit + 1).collect();
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(cursor);
        List { items, next }
    }
}

/// How much a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Counts {
    pub jobs: u64,
    pub paused: u64,
    pub quarantined: u64,
    pub running: u64,
    /// Ended runs kept.
    pub runs: u64,
    /// Sequence number of the last event.
    pub last_event: u64,
}

/// How much history a store keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Ended runs kept of each job. Default 1000.
    pub runs_per_job: usize,
    /// Longest time that an ended run is kept. Default 30 days.
    pub age: TimeDelta,
    /// Events kept for reading again. Default 100 000.
    pub events: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { runs_per_job: 1000, age: TimeDelta::days(30), events: 100_000 }
    }
}

/// Jobs, their runs and the events of both.
///
/// The contract, which `conformance` tests: a turn is atomic and durable when it returns, and turns
/// are serial. Event sequence numbers start at 1, have no gaps, and follow the order in which things
/// were recorded; of one run, submitted comes before started and started before ended. A run id is
/// never issued twice. A fire time is never claimed twice. Reads see whole turns.
#[async_trait]
pub trait JobStore: Send + Sync {
    /// Records what finished, applies changes, and claims what is due, in this order.
    ///
    /// Runs that callers asked for come first. Of the others, jobs are claimed by falling priority,
    /// then in the order in which they came due; one that has had its turn and wants more goes to the
    /// end. At most [`TURN_RUNS_MAX`] runs, and never more than an executor has slots. Errors: only if the store itself failed; then nothing of
    /// the turn happened or the store refuses all further turns.
    async fn turn(&self, turn: Turn) -> Result<Turned>;

    async fn get_job(&self, id: &JobId) -> Result<Option<JobEntry>>;

    /// Jobs by id. The cursor is the last id.
    async fn list_jobs(&self, filter: &JobFilter, page: &Page) -> Result<List<JobEntry>>;

    /// A run that goes on or whose history is kept.
    async fn get_run(&self, id: RunId) -> Result<Option<Run>>;

    /// Runs, newest id first; those that go on included. The cursor is the last id.
    async fn list_runs(&self, filter: &RunFilter, page: &Page) -> Result<List<Run>>;

    /// What an ended run wrote; empty if it wrote nothing, `None` if the run is not kept.
    async fn get_logs(&self, id: RunId) -> Result<Option<RunLogs>>;

    /// Kept events with a sequence number greater than `since`, at most `limit`, in order.
    async fn list_events(&self, since: u64, limit: usize) -> Result<Vec<Event>>;

    /// A job's own key-value state: what its successful runs stored. Empty if there is none.
    async fn get_values(&self, id: &JobId) -> Result<Values>;

    async fn counts(&self) -> Result<Counts>;

    /// The number of the last event.
    async fn last_event(&self) -> Result<u64> {
        Ok(self.counts().await?.last_event)
    }

    /// Until when this process may act on what it has claimed.
    fn lease(&self) -> Lease {
        Lease::forever()
    }

    /// Says which executors this process has, before it claims anything for them.
    async fn announce(&self, executors: &BTreeSet<Alias>) -> Result<()> {
        let _ = executors;
        Ok(())
    }

    /// Whether another process that has the store has an executor of this name.
    async fn has_executor(&self, alias: &Alias) -> Result<bool> {
        let _ = alias;
        Ok(false)
    }

    /// Waits until another process may have changed something: a hint that a turn is due. For ever, if
    /// none has the store.
    async fn changed(&self) {
        std::future::pending::<()>().await;
    }

    /// Waits until this process has been away for so long that others may have held its executors for
    /// gone, and is back. For ever, if none has the store.
    async fn rejoined(&self) {
        std::future::pending::<()>().await;
    }

    /// Makes everything durable and lets go of files and locks. Further calls fail.
    async fn close(&self) -> Result<()>;
}

/// Plugins by name, and their components by digest.
#[async_trait]
pub trait PluginStore: Send + Sync {
    /// Replaces what is known of the plugin, durably, if that is still `before`; false and nothing is
    /// changed if it is not. Components must be there before.
    async fn replace(&self, before: Option<&Plugin>, plugin: Plugin) -> Result<bool>;

    async fn get(&self, name: &PluginName) -> Result<Option<Plugin>>;

    /// The component that a func means now. Called for every run, so it must be cheap. Errors:
    /// `PluginNotFound`, `VersionNotFound`.
    async fn resolve(&self, func: &FuncRef) -> Result<Component>;

    /// All plugins, by name.
    async fn list(&self) -> Result<Vec<Plugin>>;

    /// False if there was none. Components that no plugin refers to any more go with it.
    async fn remove(&self, name: &PluginName) -> Result<bool>;

    /// Keeps a component, durably, under its SHA-256 in hexadecimal. Storing it again is no error.
    async fn put_component(&self, digest: &str, bytes: &[u8]) -> Result<()>;

    /// The component's bytes, verified against the digest; `None` if there is none.
    async fn component(&self, digest: &str) -> Result<Option<Vec<u8>>>;

    /// The same for one that must be there. Errors: `PluginRefused` if it is not.
    async fn required_component(&self, digest: &str) -> Result<Vec<u8>> {
        self.component(digest).await?.ok_or_else(|| Error::PluginRefused {
            reason: format!("component {digest} is missing or damaged (register it again)"),
        })
    }
}

/// A node of a shared store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Node {
    /// The number of its lease.
    pub lease: u64,
    pub name: String,
    /// The executors that it has.
    pub executors: Vec<String>,
    /// Seconds that its lease still holds; absent once it has run out and its runs are being taken over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<f64>,
    /// It claims what is due; where only one node may, the others stand by.
    pub claims: bool,
    /// It is the one that was asked.
    pub own: bool,
}

impl Node {
    /// Whether its lease holds and it has executors.
    pub fn runs(&self) -> bool {
        self.left.is_some() && !self.executors.is_empty()
    }
}

/// The processes that share a store.
#[async_trait]
pub trait Nodes: Send + Sync {
    /// Those whose lease holds, or whose runs nobody has taken over.
    async fn list_nodes(&self) -> Result<Vec<Node>>;

    /// Ends the lease of a node that is known to be dead before its time, so that what it ran is taken over
    /// now. A node that lives is interrupted. Errors: `NodeNotFound`.
    async fn evict_node(&self, lease: u64) -> Result<()>;

    /// Whether this node is the one that does what only one should: telling listeners.
    async fn leads(&self) -> Result<bool>;
}

/// A store that can be copied while it works.
#[async_trait]
pub trait Backup: Send + Sync {
    /// Copies what a restored store needs to an empty directory, as it is at one moment, and makes sure
    /// that it can be opened. Commits wait while the database's files are copied.
    async fn copy_to(&self, dir: &Path) -> Result<()>;
}

/// A registered component, as far as a run needs to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    pub digest: Arc<str>,
    pub grants: Arc<Grants>,
    /// What it asks for and was not granted.
    pub missing: Vec<Capability>,
    pub audit: bool,
    /// It has no imports, so that its functions are functions of their arguments.
    pub pure: bool,
}

/// Secrets by name. What is stored is given to runs whose plugin was granted it, and never shown.
#[async_trait]
pub trait SecretStore: Send + Sync {
    /// Replaces the secret, durably.
    async fn put_secret(&self, name: &SecretName, secret: Secret) -> Result<()>;

    /// Called for runs, so it must be cheap.
    async fn secret(&self, name: &SecretName) -> Result<Option<Secret>>;

    /// All names, in order.
    async fn list_secrets(&self) -> Result<Vec<SecretName>>;

    /// False if there was none.
    async fn remove_secret(&self, name: &SecretName) -> Result<bool>;
}

/// Listeners that are told of stored events, and how far each is.
#[async_trait]
pub trait ListenerStore: Send + Sync {
    /// Replaces what is known of the listener with this name, durably.
    async fn put_listener(&self, listener: &Listener, progress: &Progress) -> Result<()>;

    /// All of them, by name.
    async fn list_listeners(&self) -> Result<Vec<(Listener, Progress)>>;

    /// Stores how far a listener is. False, and nothing is stored, if it was changed or removed meanwhile.
    async fn put_progress(&self, listener: &Listener, progress: &Progress) -> Result<bool> {
        self.put_listener(listener, progress).await.map(|()| true)
    }

    /// False if there was none.
    async fn remove_listener(&self, name: &Alias) -> Result<bool>;
}

/// What [`PluginStore::resolve`] answers, given the plugin.
pub(crate) fn resolve(plugin: Option<&Plugin>, func: &FuncRef) -> Result<Component> {
    let plugin = plugin.ok_or_else(|| Error::PluginNotFound(func.module.clone()))?;
    let version = plugin.version(func).ok_or_else(|| Error::VersionNotFound(func.clone()))?;
    Ok(Component {
        digest: version.digest.clone(),
        grants: version.grants.clone(),
        missing: version.missing(),
        audit: version.audit,
        pure: version.interface.imports.is_empty(),
    })
}

/// The error of a store that was closed or has failed before.
pub(crate) fn closed() -> Error {
    Error::StoreFailed { what: "it is closed".into(), source: None }
}

/// Bits that nobody can foresee, for ids.
pub(crate) fn entropy() -> u128 {
    let mut bytes = [0; 16];
    // Without a source of randomness ids still differ by time and count.
    let _ = getrandom::fill(&mut bytes);
    u128::from_le_bytes(bytes)
}

/// The run id that a page of runs continues below.
fn before(page: &Page) -> Option<RunId> {
    page.after.as_deref().and_then(|after| after.parse().ok())
}

/// Two lists in falling order of id as one.
fn merged<T>(
    a: impl Iterator<Item = T>,
    b: impl Iterator<Item = T>,
    id: impl Fn(&T) -> RunId,
) -> impl Iterator<Item = T> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    std::iter::from_fn(move || match (a.peek(), b.peek()) {
        (Some(x), Some(y)) if id(x) > id(y) => a.next(),
        (Some(_), None) => a.next(),
        _ => b.next(),
    })
}
