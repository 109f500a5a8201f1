//! What the table makes of the jobs that a turn loaded.

use super::codec::{Read, decode_arguments, read_job, status_code};
use super::database::{Found, JobRow, Loaded, Wanted, Written};
use super::subject::Subject;
use super::time;
use super::writer::Writer;
use crate::error::Result;
use crate::event::{Event, EventKind};
use crate::job::{Alias, Job, JobId, JobState, Status};
use crate::run::{Outcome, Run, RunId};
use crate::store::table::{Delta, Position, Table};
use crate::store::{Change, Claim, Claimed, Finished, Turn, Turned};
use crate::values::Values;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// A turn whose jobs are loaded.
pub struct Taken<'a> {
    pub alias: &'a Alias,
    pub node: &'a Arc<str>,
    pub lease: u64,
    pub lead: TimeDelta,
    /// The revisions of jobs whose runs were claimed ahead.
    pub held: &'a HashMap<RunId, u64>,
    /// Runs that this node has claimed and whose end is not recorded yet.
    pub own: &'a HashMap<RunId, Run>,
    pub loaded: Loaded,
    pub found: Found,
    /// The definitions of the jobs that were loaded, or why one has none.
    pub definitions: Definitions,
}

pub type Definitions = HashMap<JobId, Result<Arc<Job>, String>>;

/// New definitions, with their revisions.
pub type Defined = Vec<(Arc<Job>, u64)>;

/// What a turn came to.
pub struct Decided {
    pub turned: Turned,
    pub written: Written,
    /// Definitions as they are from now on, with their revisions.
    pub defined: Defined,
    /// Runs of this lease as they are from now on.
    pub going: Vec<Run>,
    /// The greatest run id so far.
    pub last_id: ulid::Ulid,
}

/// The jobs of a turn, as they were before it.
#[derive(Default)]
pub struct Before {
    pub jobs: HashMap<JobId, (JobRow, JobState)>,
    /// Those whose state cannot be decoded: what is stored of it stays as it is.
    pub unreadable: BTreeSet<JobId>,
    /// What is to be told of them.
    told: Vec<Event>,
}

impl Before {
    fn goes_on(&self, run: &Run) -> bool {
        let state = self.jobs.get(&run.job_id).map(|(_, state)| state);
        state.is_some_and(|state| state.running.iter().any(|going| going.id == run.id))
    }
}

impl Taken<'_> {
    /// Applies the turn to the jobs.
    pub fn decide(mut self, mut turn: Turn, mut subject: Subject, last_id: ulid::Ulid) -> Result<Decided> {
        let (epoch, lead) = (self.loaded.epoch, self.lead);
        let abandoned = self.loaded.orphans.iter().filter(|lane| subject.wanted.abandoned.contains(*lane));
        let lacking = abandoned.filter_map(|lane| lane.parse().ok()).collect();
        let mut table = Table::working(self.alias.clone(), self.node.clone(), last_id, epoch, lacking).with_lead(lead);
        let before = self.seat(&mut table, &subject, turn.now);
        // Ends that come too late: somebody else has ended the run, because its node's lease had run out.
        let ends = turn.finished.iter().filter_map(|finished| Some((subject.runs.get(&finished.run)?, finished)));
        let stale = ends.filter(|(run, _)| !before.goes_on(run));
        let stale: Vec<Event> = stale.map(|(run, finished)| stale_event(self.alias, turn.now, run, finished)).collect();
        // A run that a dead lease left is to end whatever its job knows of it.
        let lost: HashSet<RunId> = subject.lost.iter().copied().collect();
        for run in subject.runs.values().filter(|run| before.goes_on(run) || lost.contains(&run.id)) {
            let revision = before.jobs.get(&run.job_id).map(|(row, _)| row.revision);
            if run.starts.is_some() && self.held.get(&run.id).copied() != revision {
                table.note_changed(&run.job_id);
            }
            table.put_back_run(run.clone());
        }
        let damaged = std::mem::take(&mut subject.damaged).into_iter().filter(|(run, _)| lost.contains(run));
        let gone: Vec<(RunId, JobId)> = damaged.filter(|(run, job)| !table.put_back_going(job, *run)).collect();
        let asked = turn.changes.len();
        let node = subject.lost_node.take().filter(|_| !self.loaded.told);
        let node = node.map(|node| lost_event(self.alias, turn.now, &node));
        turn.finished.splice(0..0, subject.lost.iter().map(|run| Finished::of(*run, turn.now, Outcome::Interrupted)));
        let gone_events = gone.iter().map(|(run, job)| gone_event(self.alias, turn.now, *run, job));
        let told = node.into_iter().chain(before.told.iter().cloned()).chain(stale).chain(gone_events);
        turn.changes.extend(told.map(|event| Change::Record { event: Box::new(event) }));
        if !self.loaded.may_claim {
            turn.claim = Claim::Nothing;
        }
        let (claim, now, mut slots) = (turn.claim, turn.now, turn.slots.clone());
        let (mut turned, delta) = table.turn(turn);
        turned.replies.truncate(asked);
        for claimed in &turned.claimed {
            if let Some(left) = slots.get_mut(&claimed.job.executor) {
                *left = left.saturating_sub(1);
            }
        }
        look_ahead(&mut turned, &self.loaded, &subject.wanted, (claim, now), &slots);
        turned.next_due = turned.next_due.map(|due| in_time(due, now, lead));
        give_values(&mut turned.claimed, &self.found, &delta);
        let (lease, number, own) = (self.lease, subject.wanted.turn, self.own);
        let valued = delta.values.iter().map(|(job, changes)| (job, changes.is_some())).collect();
        let writer = Writer { lease, number, epoch, own, table: &table, before: &before, valued };
        let (mut written, defined) = writer.write(&turned, &delta)?;
        written.withdrawn.extend(gone.iter().map(|(run, _)| *run));
        let going = table.live().values().cloned().collect();
        Ok(Decided { turned, written, defined, going, last_id: table.last_id() })
    }

    /// Puts the jobs that were loaded in their places.
    fn seat(&mut self, table: &mut Table, subject: &Subject, now: DateTime<Utc>) -> Before {
        let arguments = decode_arguments(&self.found.arguments);
        let mut before = Before::default();
        let mut rows = std::mem::take(&mut self.loaded.jobs);
        rows.sort_by(|a, b| (a.line, a.ticket, &a.id).cmp(&(b.line, b.ticket, &b.id)));
        for mut row in rows {
            let Read { job, state, whole } = read_job(&row, &arguments, self.definitions.remove(&row.id));
            if !whole {
                before.unreadable.insert(row.id.clone());
            }
            let broken = state.quarantine.as_ref().filter(|_| job.is_none());
            if let Some(reason) = broken.filter(|_| row.status != status_code(Status::Quarantined)) {
                let event = Event::new(EventKind::JobQuarantined, now, self.alias.clone()).job(&row.id);
                before.told.push(event.detail(reason.clone()));
            }
            let forgotten = subject.unasked.contains(&row.id) && state.question.is_some();
            row.asked = row.asked.filter(|_| !forgotten);
            let mut position = Position {
                executor: row.lane.parse().unwrap_or_default(),
                priority: row.priority,
                line: row.line.map(time),
                ticket: row.ticket,
                waiting: row.waiting,
                wake: row.wake.filter(|wake| *wake > 0).map(time),
                manual: row.manual.map(time),
                unasked: row.wake == Some(0) || forgotten,
            };
            if broken.is_some() {
                position = position.nowhere();
            }
            table.put_back(&row.id, job, state.clone(), &position);
            before.jobs.insert(row.id.clone(), (row, state));
        }
        before
    }
}

fn lost_event(alias: &Alias, now: DateTime<Utc>, node: &str) -> Event {
    let detail = format!("the lease of node `{node}` has run out; what it was running is interrupted");
    Event::new(EventKind::NodeLost, now, alias.clone()).detail(detail)
}

fn gone_event(alias: &Alias, now: DateTime<Utc>, run: RunId, job: &JobId) -> Event {
    let mut event = Event::new(EventKind::JobInterrupted, now, alias.clone()).job(job);
    event.run_id = Some(run);
    event.detail("its record cannot be decoded, so no more than this is known of it")
}

fn stale_event(alias: &Alias, now: DateTime<Utc>, run: &Run, finished: &Finished) -> Event {
    let detail = format!("`{}` came after its node's lease had run out, and is dropped", finished.outcome.kind());
    Event::new(EventKind::JobStale, now, alias.clone()).run(run).detail(detail)
}

/// Adds to what the loaded jobs want next what the others do.
fn look_ahead(
    turned: &mut Turned,
    loaded: &Loaded,
    wanted: &Wanted,
    (claim, now): (Claim, DateTime<Utc>),
    slots: &BTreeMap<Alias, usize>,
) {
    let mut next = Vec::new();
    if claim == Claim::Due {
        for (lane, first) in wanted.lanes.iter().zip(&loaded.next) {
            let Some(first) = first.map(time) else { continue };
            match lane.lane.parse().ok().and_then(|executor: Alias| slots.get(&executor)) {
                Some(0) => turned.starved |= first <= now,
                _ => next.push(first.max(now)),
            }
        }
    }
    if claim != Claim::Nothing {
        next.extend(loaded.next_alarm.map(time));
        let other = if claim == Claim::Due { loaded.next_wake } else { loaded.next_manual };
        next.extend(other.map(time));
    }
    turned.next_due = turned.next_due.into_iter().chain(next).min();
}

/// When to look, for something that is due then to be claimed ahead: half of the lead before the last
/// moment for that, so that much is claimed at a time.
fn in_time(due: DateTime<Utc>, now: DateTime<Utc>, lead: TimeDelta) -> DateTime<Utc> {
    let early = due - lead / 2;
    if early > now { early } else { due }
}

/// Gives claimed runs their jobs' own states, as they are after the turn.
fn give_values(claimed: &mut [Claimed], found: &Found, delta: &Delta) {
    let mut values: HashMap<&JobId, Values> = HashMap::new();
    for (job, key, value) in &found.values {
        values.entry(job).or_default().insert(key.clone(), value.clone());
    }
    for (job, changes) in &delta.values {
        match changes {
            Some(changes) => changes.clone().apply(values.entry(job).or_default()),
            None => drop(values.remove(job)),
        }
    }
    let values: HashMap<&JobId, Arc<Values>> =
        values.into_iter().map(|(job, values)| (job, Arc::new(values))).collect();
    for claimed in claimed {
        if let Some(values) = values.get(&claimed.job.id) {
            claimed.values = values.clone();
        }
    }
}
