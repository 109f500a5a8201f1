//! One turn of a shared store: which jobs it is about, what the table makes of them, and what of that
//! is to be written.

use super::attempt::Working;
use super::database::{Database, Details, Found, JobRow, LaneWanted, Loaded, RunRow, Wanted, Written};
use super::lease::Dead;
use super::{micros, time};
use crate::error::{Error, Result};
use crate::event::{Event, EventKind};
use crate::job::{Alias, Arguments, Job, JobId, JobState, Origin, Status};
use crate::run::{Outcome, OutcomeKind, Run, RunId, RunState};
use crate::store::record::{StoredEvent, decode_job, encode_job};
use crate::store::row;
use crate::store::table::{Delta, Position, Table};
use crate::store::{Change, Claim, Claimed, Finished, Turn, Turned};
use crate::values::Values;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
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
    /// Ends of runs that nobody else will tell of, and whose they were.
    pub lost: Vec<Finished>,
    pub lost_node: Option<String>,
    /// Jobs whose question nobody asks any more.
    pub unasked: HashSet<JobId>,
}

impl Subject {
    /// Finds out which jobs a turn is about.
    pub async fn of<D: Database>(
        database: &D,
        working: &Working,
        turn: &Turn,
        dead: Option<&Dead>,
        number: (u64, u64),
        Timing { lead, look, patience }: Timing,
    ) -> Result<Self> {
        let mut named = BTreeSet::new();
        let mut all = false;
        let mut runs = HashMap::new();
        let mut unknown = Vec::new();
        let told = turn.finished.iter().map(|finished| finished.run).chain(turn.withdrawn.iter().copied());
        for id in told.chain(turn.started.iter().map(|started| started.run)) {
            match working.live.get(&id) {
                Some(run) => {
                    named.insert(run.job_id.clone());
                    runs.insert(id, run.clone());
                }
                None => unknown.push(id),
            }
        }
        for change in &turn.changes {
            match change {
                Change::Add { job, .. } | Change::Modify { job, .. } => drop(named.insert(job.id.clone())),
                Change::Answer { job, .. } => drop(named.insert(job.id.clone())),
                Change::Remove { id }
                | Change::Pause { id }
                | Change::Resume { id }
                | Change::Run { id, .. }
                | Change::Backfill { id, .. }
                | Change::Quarantine { id, .. }
                | Change::ClearValues { id }
                | Change::Release { id } => drop(named.insert(id.clone())),
                Change::RemoveAll => all = true,
                Change::Cancel { run } => match database.promised(*run).await? {
                    Some(job) => drop(named.insert(job)),
                    None => unknown.push(*run),
                },
                Change::Record { .. } => {}
            }
        }
        // What was claimed ahead may have been changed by somebody else since.
        for run in working.live.values().filter(|run| run.starts.is_some()) {
            if look {
                named.insert(run.job_id.clone());
            }
            if named.contains(&run.job_id) {
                runs.insert(run.id, run.clone());
            }
        }
        let mut lost = Vec::new();
        let mut unasked = HashSet::new();
        let mut rows = if unknown.is_empty() { Vec::new() } else { database.runs(&unknown).await? };
        if let Some(dead) = dead {
            named.extend(dead.left.asking.iter().cloned());
            unasked.extend(dead.left.asking.iter().cloned());
            let mut left: Vec<&RunRow> = dead.left.runs.iter().collect();
            left.sort_by_key(|row| (&row.job, row.id));
            lost.extend(left.iter().map(|row| Finished::of(row.id, turn.now, Outcome::Interrupted)));
            rows.extend(left.into_iter().cloned());
        }
        for row in rows.into_iter().filter(|row| !row.ended) {
            named.insert(row.job.clone());
            runs.insert(row.id, decode_run(&row)?);
        }
        let claims = turn.claim == Claim::Due;
        let lane = |(alias, free): (&Alias, &usize)| LaneWanted {
            lane: alias.to_string(),
            most: if *free == 0 { 0 } else { (2 * free + LANE_EXTRA).min(LANE_MAX) },
        };
        let looks = |claims: bool| if claims { LOOKS_MAX } else { 0 };
        let (lease, number) = number;
        let wanted = Wanted {
            lease,
            turn: number,
            now: micros(turn.now),
            until: micros(if turn.ahead { turn.now + lead } else { turn.now }),
            named: named.into_iter().collect(),
            all,
            lanes: if claims { turn.slots.iter().map(lane).collect() } else { Vec::new() },
            own: turn.slots.keys().map(Alias::to_string).collect(),
            alarms: looks(turn.claim != Claim::Nothing),
            wakes: looks(claims),
            manual: looks(turn.claim != Claim::Nothing),
            orphans: if claims { ORPHANS_MAX } else { 0 },
            abandoned: working.abandoned(patience),
            fenced: dead.map(|dead| dead.lease),
        };
        let lost_node = dead.map(|dead| dead.node.clone());
        Ok(Subject { wanted, runs, lost, lost_node, unasked })
    }
}

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
    pub definitions: HashMap<JobId, Result<Arc<Job>, String>>,
}

/// Definitions with their revisions.
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

/// The jobs of a turn, as they were before it.
#[derive(Default)]
struct Before {
    jobs: BTreeMap<JobId, (JobRow, JobState)>,
    /// Those whose state cannot be decoded: what is stored of it stays as it is.
    unreadable: BTreeSet<JobId>,
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
        for run in subject.runs.values().filter(|run| before.goes_on(run)) {
            let revision = before.jobs.get(&run.job_id).map(|(row, _)| row.revision);
            if run.starts.is_some() && self.held.get(&run.id).copied() != revision {
                table.note_changed(&run.job_id);
            }
            table.put_back_run(run.clone());
        }
        let asked = turn.changes.len();
        let lost = subject.lost_node.take().map(|node| lost_event(self.alias, turn.now, &node, subject.lost.len()));
        turn.finished.splice(0..0, std::mem::take(&mut subject.lost));
        let told = lost.into_iter().chain(before.told.iter().cloned()).chain(stale);
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
        let (written, defined) = writer.write(&turned, &delta)?;
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

/// A job, as far as it can be decoded; its state says what could not be.
pub struct Read {
    pub job: Option<Arc<Job>>,
    pub state: JobState,
    /// The state could be.
    pub whole: bool,
}

/// Reads a job. `definition` is its own, or why that cannot be decoded, if there is one.
pub fn read_job(
    row: &JobRow,
    arguments: &HashMap<RunId, Arc<Arguments>>,
    definition: Option<Result<Arc<Job>, String>>,
) -> Read {
    let decoded = row::decode(&row.state, |id| arguments.get(&id).cloned());
    let whole = decoded.is_some();
    let mut state = decoded.map(|(state, _)| state).unwrap_or_default();
    // One that could not be decoded before, by another program perhaps, is out of its line until it is released.
    if !whole || (state.quarantine.is_none() && row.status == status_code(Status::Quarantined)) {
        state.quarantine = Some("its state cannot be decoded".to_owned());
    }
    let job = match definition {
        Some(Ok(job)) => whole.then_some(job),
        Some(Err(reason)) => {
            state.quarantine = Some(reason);
            None
        }
        None => None,
    };
    Read { job, state, whole }
}

fn lost_event(alias: &Alias, now: DateTime<Utc>, node: &str, runs: usize) -> Event {
    let detail = format!("nothing is heard of node `{node}`; {runs} of its runs are taken over");
    Event::new(EventKind::NodeLost, now, alias.clone()).detail(detail)
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

/// Writes down what a turn changed.
struct Writer<'a> {
    lease: u64,
    number: u64,
    epoch: u64,
    own: &'a HashMap<RunId, Run>,
    table: &'a Table,
    before: &'a Before,
    /// Whether jobs have values, of those whose values changed.
    valued: HashMap<&'a JobId, bool>,
}

impl Writer<'_> {
    fn write(&self, turned: &Turned, delta: &Delta) -> Result<(Written, Defined)> {
        let mut written = Written { lease: self.lease, turn: self.number, ..Written::default() };
        let mut defined = Defined::new();
        let known: BTreeSet<&JobId> = self.before.jobs.keys().chain(&delta.touched).collect();
        for id in known {
            self.write_job(id, delta, &mut written, &mut defined)?;
        }
        let begun: HashSet<RunId> = turned.claimed.iter().map(|claimed| claimed.run.id).collect();
        let started = turned.events.iter().filter(|event| event.kind == EventKind::JobStarted);
        let mut changed: BTreeMap<RunId, &Run> = BTreeMap::new();
        for run in started.filter_map(|event| self.table.live().get(&event.run_id?)) {
            changed.insert(run.id, run);
        }
        changed.extend(delta.ended.iter().map(|(run, _)| (run.id, run)));
        for claimed in &turned.claimed {
            written.begun.push(self.run_row(&claimed.run, delta)?);
        }
        for run in changed.into_values().filter(|run| !begun.contains(&run.id)) {
            written.changed.push(self.run_row(run, delta)?);
        }
        written.withdrawn.clone_from(&delta.withdrawn);
        for (run, logs) in delta.ended.iter().filter(|(_, logs)| !logs.is_empty()) {
            written.logs.push((run.id, json(logs)?));
        }
        for (job, changes) in &delta.values {
            match changes {
                None => {
                    written.values.retain(|(of, ..)| of != job);
                    written.cleared.push(job.clone());
                }
                Some(changes) => {
                    for (key, value) in &changes.0 {
                        written.values.retain(|(of, known, _)| (of, known) != (job, key));
                        written.values.push((job.clone(), key.clone(), value.clone()));
                    }
                }
            }
        }
        let others = turned.cancel.iter().filter(|run| !self.own.contains_key(run) && !begun.contains(run));
        written.cancel = others.chain(&delta.cancelled).copied().collect();
        written.event_count = turned.events.len() as u64;
        if written.event_count > 0 {
            written.events = json(&turned.events.iter().map(StoredEvent::from).collect::<Vec<_>>())?;
        }
        Ok((written, defined))
    }

    /// What of one job is to be written, if it is not as it was.
    fn write_job(&self, id: &JobId, delta: &Delta, written: &mut Written, defined: &mut Defined) -> Result<()> {
        let before = self.before.jobs.get(id);
        let waited = before.map(|(_, state)| waits(state)).unwrap_or_default();
        let Some(state) = self.table.state_of(id) else {
            if before.is_some() {
                written.removed.push(id.clone());
                written.unpromised.extend(waited.into_keys());
            }
            return Ok(());
        };
        let Some((position, (job, bytes))) = self.table.position(id).zip(self.table.stored(id)) else { return Ok(()) };
        let unreadable = before.filter(|_| job.is_none() && self.before.unreadable.contains(id));
        let bytes = unreadable.map_or(bytes, |(row, _)| row.state.clone());
        let new_definition = job.filter(|_| delta.defined.contains(id));
        if let Some(job) = new_definition {
            written.defined.push((id.clone(), encode_job(job)?));
            defined.push((job.clone(), self.epoch));
        }
        let revision = match (new_definition, before) {
            (None, Some((row, _))) => row.revision,
            _ => self.epoch,
        };
        let valued = self.valued.get(id).copied();
        let asked = before.and_then(|(row, state)| row.asked.zip(state.question));
        let row = JobRow {
            id: id.clone(),
            revision,
            lane: position.executor.to_string(),
            priority: position.priority,
            line: position.line.map(micros),
            ticket: position.ticket,
            alarm: state.expected_by.map(micros),
            wake: if position.unasked { Some(0) } else { position.wake.map(micros) },
            manual: position.manual.map(micros),
            // Who asks a question goes on asking it.
            asked: state
                .question
                .filter(|_| !position.unasked)
                .map(|question| asked.filter(|(_, open)| *open == question).map_or(self.lease, |(lease, _)| lease)),
            waiting: position.waiting,
            status: status_code(state.status()),
            arguments: false,
            valued: valued.or(before.map(|(row, _)| row.valued)).unwrap_or(false),
            state: bytes,
        };
        let waits = waits(state);
        let row = JobRow { arguments: waits.values().any(Option::is_some), ..row };
        for (run, own) in &waits {
            if !waited.contains_key(run) {
                let own = own.as_ref().map(json).transpose()?;
                written.promised.push((*run, id.clone(), own));
            }
        }
        written.unpromised.extend(waited.into_keys().filter(|run| !waits.contains_key(run)));
        match before {
            None => written.inserted.push(row),
            Some((old, _)) if *old != row => written.updated.push(row),
            Some(_) => {}
        }
        Ok(())
    }

    fn run_row(&self, run: &Run, delta: &Delta) -> Result<RunRow> {
        let first = run.origin == Origin::Trigger && run.attempt == 1;
        let before = self.before.jobs.get(&run.job_id).filter(|_| !delta.defined.contains(&run.job_id));
        let revision = before.map_or(self.epoch, |(row, _)| row.revision);
        Ok(RunRow {
            id: run.id,
            job: run.job_id.clone(),
            scheduled: micros(run.scheduled_time),
            fire: first.then(|| micros(run.scheduled_time)),
            revision,
            lease: self.lease,
            ended: run.state == RunState::Ended,
            outcome: run.outcome.as_ref().map(|outcome| outcome_code(outcome.kind())),
            body: json(run)?,
        })
    }
}

/// Runs of a job that a record of their own is kept of: those that wait, and those that go on with
/// arguments of their own.
fn waits(state: &JobState) -> BTreeMap<RunId, Option<Arc<Arguments>>> {
    let going = state.running.iter().filter(|run| run.arguments.is_some());
    let pending = state.pending.iter().map(|run| (run.id, run.arguments.clone()));
    pending.chain(going.map(|run| (run.id, run.arguments.clone()))).collect()
}

pub fn decode_run(row: &RunRow) -> Result<Run> {
    serde_json::from_slice(&row.body)
        .map_err(|e| Error::StoreFailed { what: format!("run `{}` cannot be decoded", row.id), source: Some(e.into()) })
}

pub fn decode_arguments(stored: &[(RunId, Vec<u8>)]) -> HashMap<RunId, Arc<Arguments>> {
    let decode = |(run, bytes): &(RunId, Vec<u8>)| Some((*run, Arc::new(serde_json::from_slice(bytes).ok()?)));
    stored.iter().filter_map(decode).collect()
}

pub fn decode_definitions(found: &Found) -> HashMap<JobId, Result<Arc<Job>, String>> {
    found.definitions.iter().map(|(id, bytes)| (id.clone(), decode_job(bytes))).collect()
}

pub fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::host("cannot encode a record", e))
}

pub fn status_code(status: Status) -> i16 {
    match status {
        Status::Active => 0,
        Status::Paused => 1,
        Status::Quarantined => 2,
        Status::Finished => 3,
    }
}

pub fn outcome_code(kind: OutcomeKind) -> i16 {
    OutcomeKind::ALL.iter().position(|known| *known == kind).map_or(-1, |at| at as i16)
}
