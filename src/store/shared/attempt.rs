//! Taking a turn: what is owed from the one before, loading, deciding, the commit and what became of it;
//! and how one that did not succeed is taken again.

use super::codec::decode_definitions;
use super::decide::{Decided, Defined, Definitions, Taken};
use super::subject::{Subject, Timing, details};
use super::{CommitError, Database, Found, Load, Loaded, RunRow, Settled, SharedOptions, SharedStore, Wanted, Written};
use crate::error::{Error, Result};
use crate::job::{Job, JobId};
use crate::run::{Run, RunId};
use crate::store::{Change, Claim, Claimed, Finished, Turn, Turned};
use chrono::TimeDelta;
use lru::LruCache;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use ulid::Ulid;

/// How often a turn that lost a race is taken again.
const RACES_MAX: usize = 10;
const RACE_PAUSE: Duration = Duration::from_millis(20);
/// How long a turn waits to learn what became of its commit.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(5);
const SETTLE_EVERY: Duration = Duration::from_millis(100);
/// Definitions that are kept decoded.
const DEFINITIONS_MAX: usize = 16_384;

/// What is kept from turn to turn. All of it can be lost.
pub struct Working {
    /// The lease that these are of.
    lease: u64,
    /// Turns of the lease that were committed.
    turns: u64,
    last_id: Ulid,
    /// Runs that this node has claimed and whose end is not recorded yet.
    pub live: HashMap<RunId, Run>,
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
    pub fn new() -> Self {
        let capacity = NonZeroUsize::new(DEFINITIONS_MAX).unwrap_or(NonZeroUsize::MIN);
        Working {
            lease: 0,
            turns: 0,
            last_id: Ulid::from_parts(0, crate::store::entropy()),
            live: HashMap::new(),
            held: HashMap::new(),
            look: false,
            looked: None,
            orphans: BTreeMap::new(),
            definitions: LruCache::new(capacity),
            doubtful: None,
            owed: Vec::new(),
            settled: HashSet::new(),
        }
    }

    /// What the next turn looks at. `hinted` says that another node has changed something.
    fn timing(&mut self, options: &SharedOptions, hinted: bool, lead: TimeDelta) -> Timing {
        self.look |= hinted;
        let look = self.look || self.looked.is_none_or(|looked| looked.elapsed() >= options.poll);
        Timing { lead, look, patience: options.patience }
    }

    /// Notes what a turn came to.
    fn committed(&mut self, going: Vec<Run>, held: Vec<(RunId, u64)>, defined: Defined, looked: bool) {
        self.live.extend(going.into_iter().map(|run| (run.id, run)));
        self.held.retain(|run, _| self.live.get(run).is_some_and(|run| run.starts.is_some()));
        self.held.extend(held);
        for (job, revision) in defined {
            self.definitions.put(job.id.clone(), (revision, job));
        }
        if looked {
            (self.look, self.looked) = (false, Some(tokio::time::Instant::now()));
        }
        self.owed.clear();
        self.settled.clear();
    }

    /// Lanes that nobody has served for longer than `patience`.
    pub fn abandoned(&self, patience: Duration) -> BTreeSet<String> {
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
    /// Fire times of these were claimed before.
    Without(Vec<JobId>),
    Failed(Error),
}

/// How a turn is taken again.
#[derive(Default)]
struct Care {
    leaves_the_dead: bool,
    /// Fire times of these were claimed before.
    amiss: Vec<JobId>,
}

impl Care {
    /// The turn, as it is taken now.
    fn apply(&self, turn: &Turn) -> Turn {
        let mut turn = turn.clone();
        let quarantine = |id: &JobId| Change::Quarantine {
            id: id.clone(),
            reason: "its next fire time was claimed before (is the database another one than it was, from a backup \
                     or after a failover?)"
                .into(),
        };
        turn.changes.extend(self.amiss.iter().map(quarantine));
        turn
    }
}

impl From<Error> for Again {
    fn from(error: Error) -> Self {
        Again::Failed(error)
    }
}

impl<D: Database> SharedStore<D> {
    /// Takes a turn, again if need be.
    pub(super) async fn take(&self, working: &mut Working, turn: &Turn) -> Result<Turned> {
        let mut care = Care::default();
        for _ in 0..RACES_MAX {
            match self.attempt(working, care.apply(turn), !care.leaves_the_dead).await {
                Ok(turned) => return Ok(turned),
                Err(Again::Now) => tokio::time::sleep(RACE_PAUSE).await,
                Err(Again::WithoutTakingOver(dead)) => {
                    self.keeper.forget(dead);
                    care.leaves_the_dead = true;
                }
                Err(Again::Without(jobs)) => care.amiss.extend(jobs),
                Err(Again::WithNewLease(lease)) => self.keeper.lose(lease),
                Err(Again::Failed(error)) => return Err(error),
            }
        }
        let what = format!("a turn lost {RACES_MAX} races with other nodes");
        Err(Error::StoreFailed { what, source: None })
    }

    /// One attempt at a turn.
    async fn attempt(&self, working: &mut Working, mut turn: Turn, takes_over: bool) -> Result<Turned, Again> {
        let lease = self.hold(working, &mut turn).await?;
        self.settle(working, &mut turn).await?;
        let dead = if takes_over { self.keeper.dead().await? } else { None };
        // Another node may just have taken over the one that this one was about to.
        let more_dead = dead.as_ref().map_or(!takes_over && self.keeper.any_gone(), |dead| dead.more);
        if more_dead {
            // What the dead ran would be in the way of what is due, and has ended in truth.
            turn.claim = Claim::Nothing;
        }
        let lead = TimeDelta::from_std(self.options.lead).unwrap_or_default();
        let timing = working.timing(&self.options, self.keeper.take_hint(), lead);
        let number = (lease, working.turns + 1);
        let mut subject = Subject::of(&*self.database, working, &turn, dead.as_ref(), number, timing).await?;
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
        subject.confirm(&*self.database).await?;
        // Before the commit: what fails after it would be forgotten.
        self.plugins.refresh(&*self.database, loaded.catalog).await?;
        let (found, definitions) = self.read_details(working, &mut transaction, &loaded).await?;
        let withdrawn = turn.withdrawn.clone();
        let finished: Vec<RunId> = turn.finished.iter().map(|finished| finished.run).collect();
        let (alias, node) = (&self.options.alias, &self.node);
        let (held, own) = (&working.held, &working.live);
        let taken = Taken { alias, node, lease, lead, held, own, loaded, found, definitions };
        let Decided { mut turned, written, defined, going, last_id } = taken.decide(turn, subject, working.last_id)?;
        // An id that was made is never made again, whatever becomes of the turn.
        working.last_id = last_id;
        let ahead = turned.claimed.iter().zip(&written.begun).filter(|(claimed, _)| claimed.run.starts.is_some());
        let held: Vec<(RunId, u64)> = ahead.map(|(_, row)| (row.id, row.revision)).collect();
        if !written.is_empty() {
            let cancels = !written.cancel.is_empty();
            let first = self.commit(working, transaction, &written, (&turned.claimed, &finished)).await?;
            for (event, seq) in turned.events.iter_mut().zip(first..) {
                event.seq = seq;
            }
            if cancels {
                self.database.hint().await;
            }
        } else {
            self.database.abandon(transaction).await;
        }
        if let Some(dead) = dead {
            self.keeper.told(dead.lease);
            if written.is_empty() {
                // It is looked at again, and is in nobody's way until then.
                self.keeper.forget(dead.lease);
            }
        }
        if more_dead {
            self.keeper.changed.notify_one();
        }
        for run in finished.iter().chain(&withdrawn) {
            working.live.remove(run);
        }
        let claimed: HashSet<RunId> = turned.claimed.iter().map(|claimed| claimed.run.id).collect();
        let own = |run: &Run| claimed.contains(&run.id) || working.live.contains_key(&run.id);
        let going: Vec<Run> = going.into_iter().filter(own).collect();
        working.committed(going, held, defined, timing.look);
        turned.cancel.extend(self.keeper.cancelled());
        Ok(turned)
    }

    /// Holds a lease for the turn, and claims nothing that it may not run.
    async fn hold(&self, working: &mut Working, turn: &mut Turn) -> Result<u64> {
        let lease = self.keeper.lease().await?;
        if working.lease != lease {
            // What is recorded already is not told again.
            if let Some(doubtful) = &working.doubtful
                && let Settled::Committed(_) = self.database.settled(working.lease, doubtful.turn).await?
            {
                working.settled.extend(&doubtful.finished);
            }
            // Runs of the old lease are for whoever takes it over, and their ends will come too late.
            (working.lease, working.turns, working.doubtful) = (lease, 0, None);
            working.owed.clear();
        }
        if !self.keeper.trust.holds() {
            self.keeper.renew().await?;
        }
        if !(self.keeper.may_claim() && self.keeper.trust.holds()) {
            turn.claim = Claim::Nothing;
        }
        Ok(lease)
    }

    /// Reads what more is needed of the jobs that were loaded; definitions that are known are not read
    /// again.
    async fn read_details(
        &self,
        working: &mut Working,
        transaction: &mut D::Transaction,
        loaded: &Loaded,
    ) -> Result<(Found, Definitions)> {
        let mut definitions = Definitions::new();
        for row in &loaded.jobs {
            if let Some((revision, job)) = working.definitions.get(&row.id)
                && *revision == row.revision
            {
                definitions.insert(row.id.clone(), Ok(job.clone()));
            }
        }
        let wanted = details(loaded, |id| definitions.contains_key(id));
        if wanted.is_empty() {
            return Ok((Found::default(), definitions));
        }
        let found = self.database.details(transaction, &wanted).await?;
        let revisions: HashMap<&JobId, u64> = loaded.jobs.iter().map(|row| (&row.id, row.revision)).collect();
        for (id, job) in decode_definitions(&found) {
            if let (Ok(job), Some(revision)) = (&job, revisions.get(&id)) {
                working.definitions.put(id.clone(), (*revision, job.clone()));
            }
            definitions.insert(id, job);
        }
        Ok((found, definitions))
    }

    /// Learns what became of the last turn, if nobody said: runs that it claimed were never started, and
    /// ends that it recorded need not be recorded again.
    async fn settle(&self, working: &mut Working, turn: &mut Turn) -> Result<()> {
        if let Some(doubtful) = &working.doubtful
            && let Settled::Committed(_) = self.database.settled(working.lease, doubtful.turn).await?
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
        let lost = |run: &RunId| Finished::of(*run, turn.now, crate::run::Outcome::Interrupted);
        turn.finished.extend(working.owed.iter().map(lost));
        Ok(())
    }

    /// Commits, and finds out whether it was committed if nobody says. Gives the number of the first
    /// event.
    async fn commit(
        &self,
        working: &mut Working,
        transaction: D::Transaction,
        written: &Written,
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
            Err(CommitError::ClaimedBefore) => return Err(self.claimed_before(written).await?),
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
            Ok(Settled::Committed(first)) => {
                working.turns = turn;
                Ok(first)
            }
            Ok(Settled::NotCommitted) => Err(Again::Now),
            // Taken again, it might be done twice.
            Ok(Settled::Unknown) => {
                self.keeper.lose(lease);
                Err(Again::Failed(error))
            }
            Err(_) => {
                let claimed = claimed.iter().map(|claimed| claimed.run.id).collect();
                working.doubtful = Some(Box::new(Doubtful { turn, claimed, finished: finished.to_vec() }));
                Err(Again::Failed(error))
            }
        }
    }

    /// Finds out which fire times were claimed before.
    async fn claimed_before(&self, written: &Written) -> Result<Again> {
        let fires: Vec<&RunRow> =
            written.begun.iter().chain(&written.changed).filter(|row| row.fire.is_some()).collect();
        let before = self.database.claimed(&fires).await?;
        // A run that is there and goes on in this turn is no other one.
        let own = |run: &RunId| written.withdrawn.contains(run) || fires.iter().any(|row| row.id == *run);
        let jobs: Vec<JobId> = before.into_iter().filter(|(run, _)| !own(run)).map(|(_, job)| job).collect();
        // It may have been withdrawn since.
        Ok(if jobs.is_empty() { Again::Now } else { Again::Without(jobs) })
    }
}
