//! A job's state as a row: some thirty bytes for a job that only waits for its time. It says when and
//! where the job is due too, so that a store can put it in line without its definition.

use crate::job::{
    Alias, Arguments, Backfill, Carried, JobState, Origin, PendingRun, Question, RemoveReason, RunningRun,
};
use crate::run::RunId;
use chrono::{DateTime, Utc};
use std::sync::Arc;
use ulid::Ulid;

const VERSION: u8 = 3;

/// What of a state there is in a row; everything else is at its default.
mod flag {
    pub const PAUSED: u16 = 1;
    pub const FINISHED: u16 = 1 << 1;
    pub const REMOVED: u16 = 1 << 2;
    pub const LATE: u16 = 1 << 3;
    pub const QUESTION: u16 = 1 << 4;
    pub const NEXT: u16 = 1 << 5;
    pub const DUE: u16 = 1 << 6;
    pub const BACKLOG: u16 = 1 << 7;
    pub const STARTED: u16 = 1 << 8;
    pub const FAILURES: u16 = 1 << 9;
    pub const EXPECTED: u16 = 1 << 10;
    pub const BACKFILL: u16 = 1 << 11;
    pub const RUNS: u16 = 1 << 12;
}

/// Bits of an attempt's number that say something else.
const MANUAL: u32 = 1 << 31;
const BACKFILL: u32 = 1 << 30;
const ARGUMENTS: u32 = 1 << 29;

/// Where a job stands in line, which is decided by its definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub executor: Alias,
    pub priority: i8,
    pub due: Option<DateTime<Utc>>,
}

/// The row of a state.
pub fn encode(state: &JobState, standing: &Standing) -> Vec<u8> {
    let set = |flag: u16, is: bool| if is { flag } else { 0 };
    let Carried { missed, live, oldest_live, last_missed } = state.carried;
    let backlog = state.backlog_until.is_some() || state.carried != Carried::default();
    let runs = !(state.running.is_empty() && state.pending.is_empty());
    let flags = set(flag::PAUSED, state.paused)
        | set(flag::FINISHED, state.leaving == Some(RemoveReason::Finished))
        | set(flag::REMOVED, state.leaving == Some(RemoveReason::Removed))
        | set(flag::LATE, state.late)
        | set(flag::QUESTION, state.question.is_some())
        | set(flag::NEXT, state.next_run_time.is_some())
        | set(flag::DUE, standing.due.is_some())
        | set(flag::BACKLOG, backlog)
        | set(flag::STARTED, state.started > 0)
        | set(flag::FAILURES, state.failures > 0)
        | set(flag::EXPECTED, state.expected_by.is_some())
        | set(flag::BACKFILL, state.backfill.is_some())
        | set(flag::RUNS, runs);
    let mut row = Vec::with_capacity(48);
    row.push(VERSION);
    row.extend_from_slice(&flags.to_le_bytes());
    row.push(standing.priority.to_le_bytes()[0]);
    row.push(standing.executor.as_str().len() as u8);
    row.extend_from_slice(standing.executor.as_str().as_bytes());
    for time in [standing.due, state.next_run_time, state.expected_by].into_iter().flatten() {
        put_time(&mut row, Some(time));
    }
    if let Some(question) = state.question {
        put_time(&mut row, question.previous);
    }
    if backlog {
        put_time(&mut row, state.backlog_until);
        row.extend_from_slice(&missed.to_le_bytes());
        row.extend_from_slice(&live.to_le_bytes());
        put_time(&mut row, oldest_live);
        put_time(&mut row, last_missed);
    }
    if state.started > 0 {
        row.extend_from_slice(&state.started.to_le_bytes());
    }
    if state.failures > 0 {
        row.extend_from_slice(&state.failures.to_le_bytes());
    }
    if let Some(backfill) = state.backfill {
        put_time(&mut row, Some(backfill.next));
        put_time(&mut row, Some(backfill.until));
    }
    if runs {
        row.push(state.running.len() as u8);
        for run in &state.running {
            put_attempt(&mut row, (run.id, run.scheduled_time, run.attempt), run.origin, run.arguments.is_some());
            row.extend_from_slice(&run.coalesced.to_le_bytes());
        }
        row.push(state.pending.len() as u8);
        for run in &state.pending {
            put_attempt(&mut row, (run.id, run.scheduled_time, run.attempt), run.origin, run.arguments.is_some());
            put_time(&mut row, Some(run.due));
        }
    }
    row.extend_from_slice(state.quarantine.as_deref().unwrap_or_default().as_bytes());
    row
}

/// The state in a row and where its job stands, or `None` if the row is not one of ours. Rows of the
/// first versions do not say the latter. Arguments that runs have of their own are found by
/// `arguments`.
pub fn decode(
    row: &[u8],
    arguments: impl FnMut(RunId) -> Option<Arc<Arguments>>,
) -> Option<(JobState, Option<Standing>)> {
    let mut row = Reader(row);
    match row.byte()? {
        version @ 1..=2 => decode_old(row, version).map(|state| (state, None)),
        VERSION => decode_new(row, arguments).map(|(state, standing)| (state, Some(standing))),
        _ => None,
    }
}

fn decode_new(
    mut row: Reader<'_>,
    mut arguments: impl FnMut(RunId) -> Option<Arc<Arguments>>,
) -> Option<(JobState, Standing)> {
    let flags = u16::from_le_bytes(row.take()?);
    let has = |flag: u16| flags & flag != 0;
    let priority = i8::from_le_bytes(row.take()?);
    let executor = row.text()?.parse().ok()?;
    let due = if has(flag::DUE) { Some(row.time()??) } else { None };
    let mut state = JobState { paused: has(flag::PAUSED), late: has(flag::LATE), ..JobState::default() };
    state.leaving = match (has(flag::FINISHED), has(flag::REMOVED)) {
        (_, true) => Some(RemoveReason::Removed),
        (true, _) => Some(RemoveReason::Finished),
        _ => None,
    };
    if has(flag::NEXT) {
        state.next_run_time = Some(row.time()??);
    }
    if has(flag::EXPECTED) {
        state.expected_by = Some(row.time()??);
    }
    if has(flag::QUESTION) {
        state.question = Some(Question { previous: row.time()? });
    }
    if has(flag::BACKLOG) {
        state.backlog_until = row.time()?;
        state.carried = row.carried()?;
    }
    if has(flag::STARTED) {
        state.started = u64::from_le_bytes(row.take()?);
    }
    if has(flag::FAILURES) {
        state.failures = u32::from_le_bytes(row.take()?);
    }
    if has(flag::BACKFILL) {
        state.backfill = Some(Backfill { next: row.time()??, until: row.time()?? });
    }
    if has(flag::RUNS) {
        row.runs(&mut state, &mut arguments)?;
    }
    let reason = std::str::from_utf8(row.0).ok()?;
    state.quarantine = (!reason.is_empty()).then(|| reason.to_owned());
    Some((state, Standing { executor, priority, due }))
}

/// Versions 1 and 2, in which everything has its place.
fn decode_old(mut row: Reader<'_>, version: u8) -> Option<JobState> {
    let flags = row.byte()?;
    let mut state = JobState {
        paused: flags & 1 != 0,
        leaving: match flags & 6 {
            0 => None,
            2 => Some(RemoveReason::Finished),
            _ => Some(RemoveReason::Removed),
        },
        next_run_time: row.time()?,
        backlog_until: row.time()?,
        carried: row.carried()?,
        // Version 1 did not count them.
        started: if version == 1 { 0 } else { u64::from_le_bytes(row.take()?) },
        failures: u32::from_le_bytes(row.take()?),
        ..JobState::default()
    };
    row.runs(&mut state, &mut |_| None)?;
    let reason = std::str::from_utf8(row.0).ok()?;
    state.quarantine = (!reason.is_empty()).then(|| reason.to_owned());
    Some(state)
}

fn put_time(row: &mut Vec<u8>, time: Option<DateTime<Utc>>) {
    row.extend_from_slice(&time.map_or(i64::MIN, |time| time.timestamp_micros()).to_le_bytes());
}

/// A run's id, its scheduled time, and the number of its attempt.
type Attempt = (RunId, DateTime<Utc>, u32);

fn put_attempt(row: &mut Vec<u8>, (id, scheduled_time, attempt): Attempt, origin: Origin, own_arguments: bool) {
    row.extend_from_slice(&id.0.to_bytes());
    put_time(row, Some(scheduled_time));
    let origin = match origin {
        Origin::Trigger => 0,
        Origin::Manual => MANUAL,
        Origin::Backfill => BACKFILL,
    };
    let arguments = if own_arguments { ARGUMENTS } else { 0 };
    row.extend_from_slice(&(attempt | origin | arguments).to_le_bytes());
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    /// A short text behind its length.
    fn text(&mut self) -> Option<&'a str> {
        let length = usize::from(self.byte()?);
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    fn time(&mut self) -> Option<Option<DateTime<Utc>>> {
        let micros = i64::from_le_bytes(self.take()?);
        if micros == i64::MIN { Some(None) } else { DateTime::from_timestamp_micros(micros).map(Some) }
    }

    fn carried(&mut self) -> Option<Carried> {
        Some(Carried {
            missed: u64::from_le_bytes(self.take()?),
            live: u64::from_le_bytes(self.take()?),
            oldest_live: self.time()?,
            last_missed: self.time()?,
        })
    }

    /// Runs that go on, and runs that wait.
    fn runs(
        &mut self,
        state: &mut JobState,
        arguments: &mut impl FnMut(RunId) -> Option<Arc<Arguments>>,
    ) -> Option<()> {
        for _ in 0..self.byte()? {
            let ((id, scheduled_time, attempt), origin, own) = self.attempt()?;
            let coalesced = u64::from_le_bytes(self.take()?);
            let arguments = if own { arguments(id) } else { None };
            state.running.push(RunningRun { id, scheduled_time, attempt, origin, coalesced, arguments });
        }
        for _ in 0..self.byte()? {
            let ((id, scheduled_time, attempt), origin, own) = self.attempt()?;
            let due = self.time()??;
            let arguments = if own { arguments(id) } else { None };
            state.pending.push(PendingRun { id, scheduled_time, attempt, due, origin, arguments });
        }
        Some(())
    }

    fn attempt(&mut self) -> Option<(Attempt, Origin, bool)> {
        let id = RunId(Ulid::from_bytes(self.take()?));
        let scheduled_time = self.time()??;
        let bits = u32::from_le_bytes(self.take()?);
        let origin = match bits {
            bits if bits & MANUAL != 0 => Origin::Manual,
            bits if bits & BACKFILL != 0 => Origin::Backfill,
            _ => Origin::Trigger,
        };
        let attempt = bits & !(MANUAL | BACKFILL | ARGUMENTS);
        Some(((id, scheduled_time, attempt), origin, bits & ARGUMENTS != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time(micros: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(micros).unwrap()
    }

    fn standing(executor: &str, due: Option<DateTime<Utc>>) -> Standing {
        Standing { executor: executor.parse().unwrap(), priority: -3, due }
    }

    #[test]
    fn the_largest_row_fits_a_value() {
        let (id, origin, arguments) = (RunId(Ulid(1)), Origin::Backfill, Some(Arc::default()));
        let (scheduled_time, attempt, due) = (time(1), 1, time(1));
        let pending = PendingRun { id, scheduled_time, attempt, due, origin, arguments };
        let running = RunningRun { coalesced: 1, ..pending.clone().into() };
        let state = JobState {
            running: vec![running; crate::job::MAX_INSTANCES_MAX as usize],
            pending: vec![pending; crate::store::table::PENDING_MAX],
            quarantine: Some("x".repeat(420)),
            backfill: Some(Backfill { next: time(1), until: time(2) }),
            backlog_until: Some(time(1)),
            next_run_time: Some(time(1)),
            expected_by: Some(time(1)),
            question: Some(Question { previous: None }),
            started: 1,
            failures: 1,
            ..JobState::default()
        };
        let longest = "x".repeat(128);
        // What a value of the store has room for, besides its checksum.
        let row = encode(&state, &standing(&longest, Some(time(1))));
        assert!(row.len() <= 4092, "{}", row.len());
        let idle = JobState { next_run_time: Some(time(1)), ..JobState::default() };
        assert!(encode(&idle, &standing("default", Some(time(1)))).len() < 32);
    }

    #[test]
    fn a_row_of_the_second_version_is_read() {
        let mut row = vec![2, 1];
        put_time(&mut row, Some(time(5)));
        put_time(&mut row, None);
        row.extend_from_slice(&[0; 16]);
        put_time(&mut row, None);
        put_time(&mut row, None);
        row.extend_from_slice(&7u64.to_le_bytes());
        row.extend_from_slice(&2u32.to_le_bytes());
        row.extend_from_slice(&[0, 0]);
        row.extend_from_slice(b"why");
        let (state, standing) = decode(&row, |_| None).unwrap();
        let quarantine = Some("why".to_owned());
        let next_run_time = Some(time(5));
        let expected =
            JobState { paused: true, next_run_time, started: 7, failures: 2, quarantine, ..JobState::default() };
        assert_eq!((state, standing), (expected, None));
    }

    proptest! {
        #[test]
        fn a_state_survives_its_row(
            paused: bool, late: bool, leaving in 0usize..3, next in proptest::option::of(0i64..7_000_000_000_000_000),
            carried: u64, failures: u32,
            runs in proptest::collection::vec((any::<u128>(), 0i64..1_000_000_000, 0u32..1000, 0usize..3, any::<bool>()), 0..20),
            quarantine in proptest::option::of("[a-z ]{1,40}"), question: bool, backfill: bool,
        ) {
            let own = Arc::new(Arguments { args: vec![1.into()], ..Arguments::default() });
            let pending = |(id, at, attempt, origin, arguments): &(u128, i64, u32, usize, bool)| PendingRun {
                id: RunId(Ulid(*id)),
                scheduled_time: time(*at),
                attempt: *attempt,
                due: time(at + 5),
                origin: [Origin::Trigger, Origin::Manual, Origin::Backfill][*origin],
                arguments: arguments.then(|| own.clone()),
            };
            let state = JobState {
                paused,
                quarantine,
                leaving: [None, Some(RemoveReason::Finished), Some(RemoveReason::Removed)][leaving],
                next_run_time: next.map(time),
                carried: Carried { missed: carried, live: carried / 2, oldest_live: next.map(time), last_missed: None },
                backlog_until: next.map(time),
                started: carried,
                failures,
                running: runs.iter().map(|run| RunningRun { coalesced: carried, ..pending(run).into() }).collect(),
                pending: runs.iter().map(pending).collect(),
                question: question.then_some(Question { previous: next.map(time) }),
                backfill: backfill.then_some(Backfill { next: time(7), until: time(9) }),
                expected_by: next.map(time),
                late,
            };
            let standing = standing("an-executor", next.map(time));
            let row = encode(&state, &standing);
            prop_assert_eq!(decode(&row, |_| Some(own.clone())), Some((state, Some(standing))));
        }

        #[test]
        fn any_bytes_as_a_row_end_without_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes, |_| None);
        }
    }
}
