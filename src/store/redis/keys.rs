//! What is kept in Redis, under which keys and in which form.
//!
//! All keys have one prefix, whose tag keeps them together on a cluster. Sorted sets are used as
//! indexes: all scores are 0, so members are in the order of their bytes, and times are written so
//! that this is their order. (A score is a double, which cannot tell late times apart.)

use crate::error::Result;
use crate::job::JobId;
use crate::run::RunId;
use crate::store::shared::{JobRow, NodeRow, RunRow, failed, job_id};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The number of the form in which all is kept.
pub const FORMAT: &str = "{sandclock}:format";
/// Changes whenever a turn under way must not go on; every turn watches it.
pub const TURN: &str = "{sandclock}:turn";
/// Held for the time of a turn, so that few turns lose a race. Nothing depends on it.
pub const BUSY: &str = "{sandclock}:busy";
/// The lease that may claim.
pub const ACTIVE: &str = "{sandclock}:active";
/// Numbers by name: `epoch`, `event`, `catalog`, `lease`.
pub const COUNTER: &str = "{sandclock}:counter";
/// The numbers of leases, and for each its last turn and the first event of that.
pub const LEASES: &str = "{sandclock}:leases";
pub const TURNS: &str = "{sandclock}:turns";
/// Jobs and definitions by id.
pub const JOB: &str = "{sandclock}:job";
pub const DEFINITION: &str = "{sandclock}:definition";
/// Lanes with their priorities.
pub const LEVELS: &str = "{sandclock}:levels";
pub const RUN: &str = "{sandclock}:run";
pub const LOG: &str = "{sandclock}:log";
/// Fire times that have been claimed, with the run.
pub const FIRE: &str = "{sandclock}:fire";
/// Runs that wait or have arguments of their own.
pub const PROMISE: &str = "{sandclock}:promise";
/// Blocks of events by the number of their first one, and these numbers in order.
pub const EVENT: &str = "{sandclock}:event";
pub const EVENTS: &str = "{sandclock}:events";
/// Jobs that may have more runs than are kept.
pub const BUSY_JOBS: &str = "{sandclock}:busy-jobs";

// Indexes.
pub const IDS: &str = "{sandclock}:ids";
pub const ALARM: &str = "{sandclock}:alarm";
pub const WAKE: &str = "{sandclock}:wake";
pub const MANUAL: &str = "{sandclock}:manual";
pub const RUNS: &str = "{sandclock}:runs";

pub fn lease(lease: u64) -> String {
    format!("{{sandclock}}:lease:{lease}")
}

pub fn line(lane: &str, priority: i64) -> String {
    format!("{{sandclock}}:line:{lane}:{priority}")
}

pub fn status(status: i16) -> String {
    format!("{{sandclock}}:status:{status}")
}

/// Jobs whose question a lease asks.
pub fn asked(lease: u64) -> String {
    format!("{{sandclock}}:asked:{lease}")
}

/// Runs of a lease that have not ended.
pub fn going(lease: u64) -> String {
    format!("{{sandclock}}:going:{lease}")
}

/// Those of them that somebody asked to end.
pub fn cancel(lease: u64) -> String {
    format!("{{sandclock}}:cancel:{lease}")
}

pub fn runs_of(job: &JobId) -> String {
    format!("{{sandclock}}:runs:{job}")
}

pub fn promises_of(job: &JobId) -> String {
    format!("{{sandclock}}:promises:{job}")
}

pub fn values_of(job: &JobId) -> String {
    format!("{{sandclock}}:value:{job}")
}

pub fn records(kind: &str) -> String {
    format!("{{sandclock}}:record:{kind}")
}

/// When each was written.
pub fn written(kind: &str) -> String {
    format!("{{sandclock}}:written:{kind}")
}

/// The field of a fire time, if the run is the first attempt at one.
pub fn fire(row: &RunRow) -> Option<String> {
    row.fire.map(|fire| format!("{}:{fire}:{}", row.job, row.revision))
}

/// Hexadecimal digits of one time.
pub const TIME: usize = 16;

/// A time, so that later ones are greater texts.
pub fn time(time: i64) -> String {
    format!("{:016x}", (time as u64) ^ (1 << 63))
}

/// Reads a time at the beginning of a member.
pub fn read_time(member: &str) -> Result<i64> {
    let digits = member.get(..TIME).unwrap_or_default();
    let time = u64::from_str_radix(digits, 16).map_err(|e| failed("an index cannot be read", e))?;
    Ok((time ^ (1 << 63)) as i64)
}

/// A member of a lane: its time, its ticket and the job.
pub fn place(row: &JobRow) -> Option<String> {
    row.line.map(|line| format!("{}{:016x}{}", time(line), row.ticket, row.id))
}

/// The job of a member that has so many digits before it.
pub fn job_of(member: &str, digits: usize) -> Result<JobId> {
    job_id(member.get(digits..).unwrap_or_default())
}

/// The indexes that a job is in, with what stands for it there.
pub fn entries(row: &JobRow) -> Vec<(String, String)> {
    let id = row.id.to_string();
    let mut entries = vec![(IDS.to_owned(), id.clone()), (status(row.status), id.clone())];
    if let Some(place) = place(row) {
        entries.push((line(&row.lane, row.priority.into()), place));
    }
    for (key, at) in [(ALARM, row.alarm), (WAKE, row.wake), (MANUAL, row.manual)] {
        entries.extend(at.map(|at| (key.to_owned(), format!("{}{id}", time(at)))));
    }
    entries.extend(row.asked.map(|lease| (asked(lease), id)));
    entries
}

/// Some fields, and bytes after them.
fn pack(fields: &impl Serialize, body: &[u8]) -> Result<Vec<u8>> {
    let fields = serde_json::to_vec(fields).map_err(|e| failed("a record cannot be encoded", e))?;
    let mut packed = Vec::with_capacity(4 + fields.len() + body.len());
    packed.extend((fields.len() as u32).to_le_bytes());
    packed.extend(fields);
    packed.extend(body);
    Ok(packed)
}

fn unpack<T: DeserializeOwned>(packed: &[u8]) -> Result<(T, Vec<u8>)> {
    let damaged = || failed("a record cannot be decoded", "it is too short");
    let (length, rest) = packed.split_first_chunk().ok_or_else(damaged)?;
    let (fields, body) = rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(damaged)?;
    let fields = serde_json::from_slice(fields).map_err(|e| failed("a record cannot be decoded", e))?;
    Ok((fields, body.to_vec()))
}

type JobFields =
    (u64, String, i8, Option<i64>, u64, Option<i64>, Option<i64>, Option<i64>, Option<u64>, bool, i16, bool, bool);

pub fn pack_job(row: &JobRow) -> Result<Vec<u8>> {
    let fields: JobFields = (
        row.revision,
        row.lane.clone(),
        row.priority,
        row.line,
        row.ticket,
        row.alarm,
        row.wake,
        row.manual,
        row.asked,
        row.waiting,
        row.status,
        row.arguments,
        row.valued,
    );
    pack(&fields, &row.state)
}

pub fn unpack_job(id: &JobId, packed: &[u8]) -> Result<JobRow> {
    let (fields, state): (JobFields, _) = unpack(packed)?;
    let (revision, lane, priority, line, ticket, alarm, wake, manual, asked, waiting, status, arguments, valued) =
        fields;
    Ok(JobRow {
        id: id.clone(),
        revision,
        lane,
        priority,
        line,
        ticket,
        alarm,
        wake,
        manual,
        asked,
        waiting,
        status,
        arguments,
        valued,
        state,
    })
}

type RunFields = (String, i64, Option<i64>, u64, u64, bool, Option<i16>);

pub fn pack_run(row: &RunRow) -> Result<Vec<u8>> {
    let RunRow { job, scheduled, fire, revision, lease, ended, outcome, body, .. } = row;
    let fields: RunFields = (job.to_string(), *scheduled, *fire, *revision, *lease, *ended, *outcome);
    pack(&fields, body)
}

pub fn unpack_run(id: RunId, packed: &[u8]) -> Result<RunRow> {
    let (fields, body): (RunFields, _) = unpack(packed)?;
    let (job, scheduled, fire, revision, lease, ended, outcome) = fields;
    Ok(RunRow { id, job: job_of(&job, 0)?, scheduled, fire, revision, lease, ended, outcome, body })
}

pub fn run_id(text: &str) -> Result<RunId> {
    text.parse().map_err(|e: crate::Invalid| failed("the id of a run cannot be read", e))
}

/// A run that waits: its job, and its own arguments.
pub fn pack_promise(job: &JobId, arguments: Option<&[u8]>) -> Result<Vec<u8>> {
    pack(&(job.as_str(), arguments.is_some()), arguments.unwrap_or_default())
}

pub fn unpack_promise(packed: &[u8]) -> Result<(JobId, Option<Vec<u8>>)> {
    let ((job, own), arguments): ((String, bool), _) = unpack(packed)?;
    Ok((job_of(&job, 0)?, own.then_some(arguments)))
}

/// The events of one turn: how many, and what.
pub fn pack_events(count: u64, body: &[u8]) -> Result<Vec<u8>> {
    pack(&(count,), body)
}

pub fn unpack_events(packed: &[u8]) -> Result<(u64, Vec<u8>)> {
    let ((count,), body): ((u64,), _) = unpack(packed)?;
    Ok((count, body))
}

/// A lease as it is kept.
pub struct LeaseRow {
    pub node: NodeRow,
    pub until: i64,
    pub fenced: bool,
}

impl LeaseRow {
    pub fn holds(&self, now: i64) -> bool {
        !self.fenced && self.until > now
    }

    pub fn pack(&self) -> Result<Vec<u8>> {
        pack(&(&self.node.name, &self.node.lanes, self.until, self.fenced), &[])
    }

    pub fn unpack(packed: &[u8]) -> Result<Self> {
        let ((name, lanes, until, fenced), _) = unpack(packed)?;
        Ok(LeaseRow { node: NodeRow { name, lanes }, until, fenced })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_ordered_as_texts() {
        let times = [i64::MIN, -1, 0, 1, 1_800_000_000_000_000, 253_402_300_799_999_999, i64::MAX];
        for pair in times.windows(2) {
            assert!(time(pair[0]) < time(pair[1]));
        }
        for at in times {
            assert_eq!(read_time(&time(at)).unwrap(), at);
        }
    }
}
