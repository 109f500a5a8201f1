//! Rows and records of a shared store, as they are written and read.

use super::database::{EventBlock, Found, JobRow, RunRow, failed};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::job::{Alias, Arguments, Job, JobId, JobState, Status};
use crate::run::{OutcomeKind, Run, RunId};
use crate::store::record::{StoredEvent, decode_job};
use crate::store::row;
use std::collections::HashMap;
use std::sync::Arc;

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

pub fn decode_run(row: &RunRow) -> Result<Run> {
    serde_json::from_slice(&row.body).map_err(|e| failed(format!("run `{}` cannot be decoded", row.id), e))
}

pub fn decode_events(block: &EventBlock, alias: &Alias) -> Result<Vec<Event>> {
    let stored: Vec<StoredEvent> = serde_json::from_slice(&block.body)
        .map_err(|e| failed(format!("events from {} on cannot be decoded", block.first), e))?;
    let events = stored.into_iter().zip(block.first..).map(|(stored, seq)| stored.into_event(seq, alias));
    let unknown =
        || Error::StoreFailed { what: format!("an event after {} is of no known kind", block.first), source: None };
    events.collect::<Option<_>>().ok_or_else(unknown)
}

pub fn decode_arguments(stored: &[(RunId, Vec<u8>)]) -> HashMap<RunId, Arc<Arguments>> {
    let decode = |(run, bytes): &(RunId, Vec<u8>)| Some((*run, Arc::new(serde_json::from_slice(bytes).ok()?)));
    stored.iter().filter_map(decode).collect()
}

pub fn decode_definitions(found: &Found) -> HashMap<JobId, Result<Arc<Job>, String>> {
    found.definitions.iter().map(|(id, bytes)| (id.clone(), decode_job(bytes))).collect()
}

pub fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>> {
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
