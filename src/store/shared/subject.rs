//! What a turn is about, before it is begun: which jobs it names and which it looks for.

use super::attempt::Working;
use super::codec::decode_run;
use super::database::{Database, Details, JobRow, LaneWanted, Loaded, RunRow, Wanted};
use super::lease::Dead;
use super::micros;
use crate::error::Result;
use crate::job::{Alias, JobId};
use crate::run::{Run, RunId};
use crate::store::{Change, Claim, Turn};
use chrono::TimeDelta;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

/// Jobs that a turn takes from one line at most: twice the free slots and some, since not every job
/// that is due starts a run.
const LANE_MAX: usize = 512;
const LANE_EXTRA: usize = 16;
/// Jobs that a turn looks at for another reason than that they are due.
const LOOKS_MAX: usize = 256;
const ORPHANS_MAX: usize = 16;

/// When a turn looks at what.
#[derive(Clone, Copy)]
pub struct Timing {
    pub lead: TimeDelta,
    /// The jobs of runs that were claimed ahead are looked at.
    pub look: bool,
    pub patience: Duration,
}

/// What a turn is about, before it is begun.
pub struct Subject {
    pub wanted: Wanted,
    /// Runs whose records the turn needs, by where they were found.
    pub runs: HashMap<RunId, Run>,
    /// Runs of a lease that has run out, whose ends nobody else will tell of; those whose records cannot be
    /// decoded; and whose they were.
    pub lost: Vec<RunId>,
    pub damaged: Vec<(RunId, JobId)>,
    pub lost_node: Option<String>,
    /// Jobs whose question nobody asks any more.
    pub unasked: HashSet<JobId>,
}

impl Subject {
    /// Leaves out what somebody else has taken over since this was made.
    pub async fn confirm<D: Database>(&mut self, database: &D) -> Result<()> {
        if !self.lost.is_empty() {
            let rows = database.runs(&self.lost).await?;
            let going: HashSet<RunId> = rows.iter().filter(|row| !row.ended).map(|row| row.id).collect();
            self.lost.retain(|run| going.contains(run));
        }
        Ok(())
    }

    /// Finds out which jobs a turn is about.
    pub async fn of<D: Database>(
        database: &D,
        working: &Working,
        turn: &Turn,
        dead: Option<&Dead>,
        number: (u64, u64),
        timing: Timing,
    ) -> Result<Self> {
        let mut about = About::default();
        about.told(turn, working);
        about.changes(turn, database).await?;
        about.ahead(working, timing.look);
        let mut rows = if about.unknown.is_empty() { Vec::new() } else { database.runs(&about.unknown).await? };
        let mut lost = Vec::new();
        let mut unasked = HashSet::new();
        if let Some(dead) = dead {
            about.named.extend(dead.left.asking.iter().cloned());
            unasked.extend(dead.left.asking.iter().cloned());
            let mut left: Vec<&RunRow> = dead.left.runs.iter().collect();
            left.sort_by_key(|row| (&row.job, row.id));
            lost.extend(left.iter().map(|row| row.id));
            rows.extend(left.into_iter().cloned());
        }
        let mut damaged = Vec::new();
        for row in rows.into_iter().filter(|row| !row.ended) {
            match decode_run(&row) {
                Ok(run) => drop(about.runs.insert(row.id, run)),
                Err(error) => {
                    tracing::error!(error = error.chain(), "a run's record is damaged");
                    damaged.push((row.id, row.job.clone()));
                }
            }
            about.named.insert(row.job);
        }
        let wanted = Wanted {
            abandoned: working.abandoned(timing.patience),
            fenced: dead.map(|dead| dead.lease),
            named: about.named.into_iter().collect(),
            ..wanted(turn, number, timing.lead)
        };
        let lost_node = dead.map(|dead| dead.node.clone());
        Ok(Subject { wanted, runs: about.runs, lost, damaged, lost_node, unasked })
    }
}

/// What a turn looks for beside the jobs that it names.
fn wanted(turn: &Turn, (lease, number): (u64, u64), lead: TimeDelta) -> Wanted {
    let claims = turn.claim == Claim::Due;
    let lane = |(alias, free): (&Alias, &usize)| LaneWanted {
        lane: alias.to_string(),
        most: if *free == 0 { 0 } else { (2 * free + LANE_EXTRA).min(LANE_MAX) },
    };
    let looks = |looks: bool| if looks { LOOKS_MAX } else { 0 };
    Wanted {
        lease,
        turn: number,
        now: micros(turn.now),
        until: micros(if turn.ahead { turn.now + lead } else { turn.now }),
        lanes: if claims { turn.slots.iter().map(lane).collect() } else { Vec::new() },
        own: turn.slots.keys().map(Alias::to_string).collect(),
        alarms: looks(turn.claim != Claim::Nothing),
        wakes: looks(claims),
        manual: looks(turn.claim != Claim::Nothing),
        orphans: if claims { ORPHANS_MAX } else { 0 },
        ..Wanted::default()
    }
}

/// The jobs and runs that a turn names.
#[derive(Default)]
struct About {
    named: BTreeSet<JobId>,
    runs: HashMap<RunId, Run>,
    /// Runs that are not of this node, or not any more.
    unknown: Vec<RunId>,
}

impl About {
    /// Runs that the turn tells of.
    fn told(&mut self, turn: &Turn, working: &Working) {
        let ended = turn.finished.iter().map(|finished| finished.run).chain(turn.withdrawn.iter().copied());
        for id in ended.chain(turn.started.iter().map(|started| started.run)) {
            match working.live.get(&id) {
                Some(run) => {
                    self.named.insert(run.job_id.clone());
                    self.runs.insert(id, run.clone());
                }
                None => self.unknown.push(id),
            }
        }
    }

    async fn changes<D: Database>(&mut self, turn: &Turn, database: &D) -> Result<()> {
        for change in &turn.changes {
            let id = match change {
                Change::Add { job, .. } | Change::Modify { job, .. } => &job.id,
                Change::Answer { job, .. } => &job.id,
                Change::Remove { id }
                | Change::Pause { id }
                | Change::Resume { id }
                | Change::Run { id, .. }
                | Change::Backfill { id, .. }
                | Change::Quarantine { id, .. }
                | Change::ClearValues { id }
                | Change::Release { id } => id,
                Change::Cancel { run } => {
                    match database.promised(*run).await? {
                        Some(job) => drop(self.named.insert(job)),
                        None => self.unknown.push(*run),
                    }
                    continue;
                }
                Change::Record { .. } => continue,
            };
            self.named.insert(id.clone());
        }
        Ok(())
    }

    /// What was claimed ahead, and may have been changed by somebody else since.
    fn ahead(&mut self, working: &Working, look: bool) {
        for run in working.live.values().filter(|run| run.starts.is_some()) {
            if look {
                self.named.insert(run.job_id.clone());
            }
            if self.named.contains(&run.job_id) {
                self.runs.insert(run.id, run.clone());
            }
        }
    }
}

/// What more is to be read about jobs that were loaded; `known` says whose definitions are not.
pub fn details(loaded: &Loaded, known: impl Fn(&JobId) -> bool) -> Details {
    let of = |wanted: &dyn Fn(&JobRow) -> bool| -> Vec<JobId> {
        loaded.jobs.iter().filter(|row| wanted(row)).map(|row| row.id.clone()).collect()
    };
    Details {
        definitions: of(&|row| !known(&row.id)),
        arguments: of(&|row| row.arguments),
        values: of(&|row| row.valued),
    }
}
