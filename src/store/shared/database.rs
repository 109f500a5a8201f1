//! What a shared store asks of a database. Times are microseconds since 1970, and a lease's are by the
//! database's own clock.

use crate::error::{Error, Result};
use crate::job::JobId;
use crate::run::RunId;
use crate::store::Counts;
use async_trait::async_trait;
use std::collections::BTreeSet;
use std::time::Duration;
use ulid::Ulid;

/// A database that has transactions.
///
/// A turn is: [`load`](Database::load), which locks what the turn is about, any number of
/// [`details`](Database::details), and [`commit`](Database::commit). Dropping the transaction undoes it.
#[async_trait]
pub trait Database: Send + Sync + 'static {
    type Transaction: Send;

    /// Begins a turn: checks the lease, then locks and reads jobs.
    async fn load(&self, wanted: &Wanted) -> Result<Load<Self::Transaction>>;

    /// More about jobs that were loaded.
    async fn details(&self, transaction: &mut Self::Transaction, wanted: &Details) -> Result<Found>;

    /// Writes what the turn changed, and commits.
    async fn commit(&self, transaction: Self::Transaction, written: &Written) -> Result<Committed, CommitError>;

    /// Undoes it. (Dropping it does so too, but takes the connection with it.)
    async fn abandon(&self, transaction: Self::Transaction);

    /// What became of a turn whose commit was not answered. Waits until that is certain.
    async fn settled(&self, lease: u64, turn: u64) -> Result<Settled>;

    async fn job(&self, id: &JobId) -> Result<Option<(JobRow, Vec<u8>)>>;

    /// Jobs with their definitions, by id, from after `after`; all, or those of a status.
    async fn jobs(&self, after: Option<&str>, status: Option<i16>, limit: usize) -> Result<Vec<(JobRow, Vec<u8>)>>;

    async fn run(&self, id: RunId) -> Result<Option<RunRow>>;

    /// Some runs, in no order; those that there are.
    async fn runs(&self, ids: &[RunId]) -> Result<Vec<RunRow>>;

    /// Runs that have the fire time and revision of one of these, and their jobs.
    async fn claimed(&self, fires: &[&RunRow]) -> Result<Vec<(RunId, JobId)>>;

    /// Runs below an id, newest first.
    async fn list_runs(&self, query: &RunQuery) -> Result<Vec<RunRow>>;

    async fn logs(&self, id: RunId) -> Result<Option<Vec<u8>>>;

    /// The job of a run that waits.
    async fn promised(&self, run: RunId) -> Result<Option<JobId>>;

    /// Arguments that runs of these jobs have of their own.
    async fn arguments(&self, jobs: &[JobId]) -> Result<Vec<(RunId, Vec<u8>)>>;

    /// Blocks of events in order, from the one on that has the event after `since`.
    async fn events(&self, since: u64, limit: usize) -> Result<Vec<EventBlock>>;

    async fn values(&self, job: &JobId) -> Result<Vec<(String, Vec<u8>)>>;

    async fn counts(&self) -> Result<Counts>;

    async fn last_event(&self) -> Result<u64>;

    // --- leases ---

    /// A new lease for this node.
    async fn join(&self, node: &NodeRow, ttl: Duration) -> Result<u64>;

    /// Renews a lease, and takes or keeps the right to claim, where only one may. `None` if it had run
    /// out.
    async fn renew(&self, lease: u64, node: &NodeRow, wanted: Renewal) -> Result<Option<Renewed>>;

    /// Gives a lease back. Nothing of it goes on.
    async fn leave(&self, lease: u64) -> Result<()>;

    /// Ends a lease before its time.
    async fn evict(&self, lease: u64) -> Result<()>;

    /// Nodes whose leases hold, or whose runs nobody has taken over.
    async fn nodes(&self) -> Result<Vec<NodeState>>;

    /// Runs of a lease that have not ended, and jobs whose question it asks; at most `limit` of each.
    async fn left_behind(&self, lease: u64, limit: usize) -> Result<LeftBehind>;

    /// Runs of a lease that somebody asked to end.
    async fn to_cancel(&self, lease: u64) -> Result<Vec<RunId>>;

    /// Forgets a bounded part of what is older than is kept. Of runs that are too many, those of some jobs
    /// after the one in `kept`.
    async fn prune(&self, kept: &Kept) -> Result<Pruned>;

    // --- records by kind and key ---

    async fn put_record(&self, kind: Kind, key: &str, bytes: &[u8]) -> Result<()>;
    /// The same if what is there is still `before`, and nothing otherwise.
    async fn replace_record(&self, kind: Kind, key: &str, before: Option<&[u8]>, bytes: &[u8]) -> Result<bool>;
    async fn record(&self, kind: Kind, key: &str) -> Result<Option<Vec<u8>>>;
    async fn records(&self, kind: Kind) -> Result<Vec<(String, Vec<u8>)>>;
    /// The keys of what was written so long ago.
    async fn keys(&self, kind: Kind, older: Duration) -> Result<Vec<String>>;
    /// False if there was none.
    async fn remove_record(&self, kind: Kind, key: &str) -> Result<bool>;

    /// A number that changes with each plugin.
    async fn catalog(&self) -> Result<u64>;

    /// Has other nodes look at the database soon. Only a hint.
    async fn hint(&self);

    /// Waits for such a hint.
    async fn hinted(&self);

    async fn close(&self);
}

/// What is kept beside jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Plugin,
    Component,
    Secret,
    Listener,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Plugin => "plugin",
            Kind::Component => "component",
            Kind::Secret => "secret",
            Kind::Listener => "listener",
        }
    }
}

/// What a turn is about.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub lease: u64,
    /// The number of this turn of the lease, one more than the last one committed.
    pub turn: u64,
    pub now: i64,
    /// What comes into line until then is loaded too.
    pub until: i64,
    /// Jobs to lock whatever they wait for, in order, each once.
    pub named: Vec<JobId>,
    /// Lines to claim from.
    pub lanes: Vec<LaneWanted>,
    /// The lanes of this node. Questions and runs that callers asked for are of use to it in these alone.
    pub own: Vec<String>,
    /// Jobs that may be late, and jobs that are to be looked at for another reason: at most so many.
    pub alarms: usize,
    pub wakes: usize,
    /// Jobs with runs that callers asked for: at most so many.
    pub manual: usize,
    /// Jobs that are due and whose lane is one of these, if nobody serves it: at most so many.
    pub orphans: usize,
    pub abandoned: BTreeSet<String>,
    /// A lease that has run out, whose runs this turn takes over.
    pub fenced: Option<u64>,
}

/// A line and how many jobs to take from it; none, to know only when there is something.
#[derive(Debug, Clone)]
pub struct LaneWanted {
    pub lane: String,
    pub most: usize,
}

/// What came of beginning a turn.
pub enum Load<T> {
    Loaded(T, Loaded),
    /// Others hold what it is about; the turn is to be taken again.
    Conflict,
    /// The lease has run out.
    LeaseLost,
    /// The lease to be taken over holds again, or somebody else has taken it over.
    NotFenced,
}

#[derive(Debug, Default)]
pub struct Loaded {
    pub jobs: Vec<JobRow>,
    /// When the first job that was not loaded comes, or came, into line, for each lane wanted.
    pub next: Vec<Option<i64>>,
    /// The same for jobs that may be late, for jobs to be looked at, and for runs that callers asked for,
    /// after now.
    pub next_alarm: Option<i64>,
    pub next_wake: Option<i64>,
    pub next_manual: Option<i64>,
    /// Greater than in every turn before that locked one of these jobs.
    pub epoch: u64,
    /// All lanes that no node serves, if orphans were wanted.
    pub orphans: Vec<String>,
    /// Whether this node may claim.
    pub may_claim: bool,
    pub catalog: u64,
    /// A turn before this one has begun to take over the lease that has run out.
    pub told: bool,
}

/// A job without its definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    pub id: JobId,
    /// Which definition it has.
    pub revision: u64,
    /// Which line it stands in: what its runs need of a node.
    pub lane: String,
    pub priority: i8,
    pub line: Option<i64>,
    pub ticket: u64,
    /// When it is late if no run succeeds.
    pub alarm: Option<i64>,
    /// When it is to be looked at whether or not there are slots; 0 if a plugin is to be asked.
    pub wake: Option<i64>,
    pub manual: Option<i64>,
    /// The lease that asks its open question.
    pub asked: Option<u64>,
    pub waiting: bool,
    pub status: i16,
    /// Runs of it have arguments of their own; it has values.
    pub arguments: bool,
    pub valued: bool,
    pub state: Vec<u8>,
}

#[derive(Debug, Default)]
pub struct Details {
    pub definitions: Vec<JobId>,
    pub arguments: Vec<JobId>,
    pub values: Vec<JobId>,
}

impl Details {
    pub fn is_empty(&self) -> bool {
        self.definitions.is_empty() && self.arguments.is_empty() && self.values.is_empty()
    }
}

#[derive(Debug, Default)]
pub struct Found {
    pub definitions: Vec<(JobId, Vec<u8>)>,
    pub arguments: Vec<(RunId, Vec<u8>)>,
    pub values: Vec<(JobId, String, Vec<u8>)>,
}

/// A run as it is stored.
#[derive(Debug, Clone)]
pub struct RunRow {
    pub id: RunId,
    pub job: JobId,
    pub scheduled: i64,
    /// The fire time, if this is the first attempt at one: no other run has the same with the same
    /// revision of the job.
    pub fire: Option<i64>,
    pub revision: u64,
    pub lease: u64,
    pub ended: bool,
    pub outcome: Option<i16>,
    pub body: Vec<u8>,
}

/// Events of one turn.
#[derive(Debug, Clone)]
pub struct EventBlock {
    /// The number of the first one.
    pub first: u64,
    pub count: u64,
    pub body: Vec<u8>,
}

/// What a turn changed.
#[derive(Debug, Default, Clone)]
pub struct Written {
    pub lease: u64,
    pub turn: u64,
    pub inserted: Vec<JobRow>,
    pub updated: Vec<JobRow>,
    pub removed: Vec<JobId>,
    pub defined: Vec<(JobId, Vec<u8>)>,
    /// New runs.
    pub begun: Vec<RunRow>,
    /// Runs that are to be as if they had never been.
    pub withdrawn: Vec<RunId>,
    /// Runs that were recorded before, or that ended without beginning.
    pub changed: Vec<RunRow>,
    pub logs: Vec<(RunId, Vec<u8>)>,
    /// Runs that wait, or have arguments of their own; and those that do so no more.
    pub promised: Vec<(RunId, JobId, Option<Vec<u8>>)>,
    pub unpromised: Vec<RunId>,
    /// Jobs whose values are all forgotten first; then values to be put, or forgotten.
    pub cleared: Vec<JobId>,
    pub values: Vec<(JobId, String, Option<Vec<u8>>)>,
    /// Runs of other nodes that are to end.
    pub cancel: Vec<RunId>,
    /// Its events and how many there are.
    pub events: Vec<u8>,
    pub event_count: u64,
}

impl Written {
    pub fn is_empty(&self) -> bool {
        self.inserted.is_empty()
            && self.updated.is_empty()
            && self.removed.is_empty()
            && self.begun.is_empty()
            && self.changed.is_empty()
            && self.withdrawn.is_empty()
            && self.cancel.is_empty()
            && self.event_count == 0
            && self.cleared.is_empty()
            && self.values.is_empty()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The number of the first event.
    pub first_event: u64,
}

/// What became of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It was committed; the number of its first event.
    Committed(u64),
    NotCommitted,
    /// Its lease has been taken over, and nothing is left that would say so.
    Unknown,
}

impl Settled {
    /// By the last turn that was committed, and the first of its events.
    pub fn of(turn: u64, last: u64, first: u64) -> Self {
        if last >= turn { Settled::Committed(first) } else { Settled::NotCommitted }
    }
}

#[derive(Debug)]
pub enum CommitError {
    /// Somebody else was faster; the turn is to be taken again.
    Conflict,
    /// A fire time was to be claimed that has been claimed before. This cannot be while the database
    /// keeps what it was told.
    ClaimedBefore,
    /// Nobody answered whether it was committed.
    Unknown(Error),
    /// It was not.
    Failed(Error),
}

/// Which runs a page shows.
#[derive(Debug, Clone, Default)]
pub struct RunQuery {
    pub before: Option<RunId>,
    pub job: Option<JobId>,
    pub outcome: Option<i16>,
    pub since: Option<i64>,
    pub until: Option<i64>,
    pub limit: usize,
}

/// A node, as others know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    pub name: String,
    /// The lines that it serves.
    pub lanes: Vec<String>,
}

/// What a lease is renewed for.
#[derive(Debug, Clone, Copy)]
pub struct Renewal {
    pub ttl: Duration,
    /// It wants the right to claim: a process that runs nothing has no use for that.
    pub claims: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct Renewed {
    /// The database's time when it was renewed.
    pub now: i64,
    pub may_claim: bool,
}

#[derive(Debug, Clone)]
pub struct NodeState {
    pub lease: u64,
    pub row: NodeRow,
    /// How long the lease still holds; none, if it has run out.
    pub left: Option<Duration>,
    /// A turn has begun to take over what it left behind.
    pub told: bool,
    pub claims: bool,
}

#[derive(Debug, Default)]
pub struct LeftBehind {
    pub runs: Vec<RunRow>,
    pub asking: Vec<JobId>,
}

/// How much is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    pub runs_per_job: usize,
    /// Runs below this id are too old.
    pub oldest: RunId,
    pub events: u64,
    /// The job that was looked at last, if not all have been.
    pub after: String,
}

/// What came of forgetting.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// There is more to forget.
    pub more: bool,
    /// The job that was looked at last; none, if that were all.
    pub last: Option<String>,
}

/// What a database gave as the id of a run.
pub fn run_id(bytes: &[u8]) -> Result<RunId> {
    let bytes: [u8; 16] = bytes.try_into().map_err(|e| failed("the id of a run cannot be read", e))?;
    Ok(RunId(Ulid::from_bytes(bytes)))
}

/// The same of a job.
pub fn job_id(text: &str) -> Result<JobId> {
    text.parse().map_err(|e: crate::Invalid| failed("the id of a job cannot be read", e))
}

pub fn text(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| failed("a text cannot be read", e))
}

/// A failure of the database.
pub fn failed(what: impl Into<String>, source: impl Into<crate::error::Source>) -> Error {
    Error::StoreFailed { what: what.into(), source: Some(source.into()) }
}
