//! What is to be written of a turn that was decided.

use super::codec::{encode, outcome_code, status_code};
use super::database::{JobRow, RunRow, Written};
use super::decide::{Before, Defined};
use super::micros;
use crate::error::Result;
use crate::event::EventKind;
use crate::job::{Arguments, JobId, JobState, Origin};
use crate::run::{Run, RunId, RunState};
use crate::store::Turned;
use crate::store::record::{StoredEvent, encode_job};
use crate::store::table::{Delta, Table};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Writes down what a turn changed.
pub struct Writer<'a> {
    pub lease: u64,
    pub number: u64,
    pub epoch: u64,
    pub own: &'a HashMap<RunId, Run>,
    pub table: &'a Table,
    pub before: &'a Before,
    /// Whether jobs have values, of those whose values changed.
    pub valued: HashMap<&'a JobId, bool>,
}

impl Writer<'_> {
    pub fn write(&self, turned: &Turned, delta: &Delta) -> Result<(Written, Defined)> {
        let mut written = Written { lease: self.lease, turn: self.number, ..Written::default() };
        let mut defined = Defined::new();
        let new = delta.touched.iter().filter(|id| !self.before.jobs.contains_key(*id));
        for id in self.before.jobs.keys().chain(new) {
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
            written.logs.push((run.id, encode(logs)?));
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
            written.events = encode(&turned.events.iter().map(StoredEvent::from).collect::<Vec<_>>())?;
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
                let own = own.as_ref().map(encode).transpose()?;
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
        // One that has left has no other definition than it had.
        let redefined = delta.defined.contains(&run.job_id) && self.table.state_of(&run.job_id).is_some();
        let before = self.before.jobs.get(&run.job_id).filter(|_| !redefined);
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
            body: encode(run)?,
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
