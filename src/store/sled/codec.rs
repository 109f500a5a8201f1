//! How values look on disk: a checksum before everything, hot rows of a few dozen bytes, and blocks
//! of many small entries, because sled never gives back the space of a large value.

use crate::job::{Arguments, Backfill, Carried, JobState, Origin, PendingRun, Question, RemoveReason, RunningRun};
use crate::run::RunId;
use chrono::{DateTime, Utc};
use std::sync::Arc;
use ulid::Ulid;

/// Largest value written, checksum included.
pub const VALUE_MAX: usize = 4096;
const CHECKSUM: usize = 4;
/// Largest entry of a block, so that one always fits.
pub const ENTRY_MAX: usize = VALUE_MAX - CHECKSUM - 3;
const HOT_VERSION: u8 = 3;
/// Bits of an attempt's number that say something else.
const MANUAL: u32 = 1 << 31;
const BACKFILL: u32 = 1 << 30;
const ARGUMENTS: u32 = 1 << 29;

/// `payload` behind its checksum.
pub fn seal(payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(CHECKSUM + payload.len());
    value.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    value.extend_from_slice(payload);
    value
}

/// The payload, if its checksum is right.
pub fn unseal(value: &[u8]) -> Option<&[u8]> {
    let (checksum, payload) = value.split_at_checked(CHECKSUM)?;
    (checksum == crc32fast::hash(payload).to_le_bytes()).then_some(payload)
}

/// What one row adds to the sum over its tree. A row that is lost, stale or doubled changes it.
pub fn weight(tree: usize, key: &[u8], value: &[u8]) -> u64 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&[tree as u8]);
    hash.update(key);
    let checksum = value.first_chunk::<CHECKSUM>().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let mixed = (u64::from(hash.finalize()) << 32 | u64::from(checksum)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// A value of any size in pieces of at most [`VALUE_MAX`]: `key`, a zero byte, the piece's number.
pub fn pieces(key: &[u8], bytes: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let count = bytes.len().div_ceil(ENTRY_MAX).max(1);
    (0..count).map(move |at| {
        let piece = &bytes[at * ENTRY_MAX..bytes.len().min((at + 1) * ENTRY_MAX)];
        (piece_key(key, at), seal(piece))
    })
}

fn piece_key(key: &[u8], at: usize) -> Vec<u8> {
    let mut full = prefix(key);
    full.extend_from_slice(&(at as u16).to_be_bytes());
    full
}

/// What the keys of all pieces of `key` begin with.
pub fn prefix(key: &[u8]) -> Vec<u8> {
    let mut prefix = key.to_vec();
    prefix.push(0);
    prefix
}

/// The key that a piece belongs to, and the piece's number.
pub fn piece_of(full: &[u8]) -> Option<(&[u8], u16)> {
    let (key, number) = full.split_at_checked(full.len().checked_sub(3)?)?;
    (number[0] == 0).then(|| (key, u16::from_be_bytes([number[1], number[2]])))
}

/// Packs small entries into payloads that fit one value each.
#[derive(Default)]
pub struct Packer {
    pub blocks: Vec<Vec<u8>>,
}

impl Packer {
    /// Adds an entry and says in which block it is.
    pub fn push(&mut self, flag: bool, entry: &[u8]) -> usize {
        debug_assert!(entry.len() <= ENTRY_MAX);
        let fits = self.blocks.last().is_some_and(|block| block.len() + 3 + entry.len() <= VALUE_MAX - CHECKSUM);
        if !fits {
            self.blocks.push(Vec::with_capacity(VALUE_MAX));
        }
        let at = self.blocks.len() - 1;
        let block = &mut self.blocks[at];
        block.push(u8::from(flag));
        block.extend_from_slice(&(entry.len() as u16).to_le_bytes());
        block.extend_from_slice(entry);
        at
    }
}

/// The entries of a block, each with its flag.
pub fn unpack(mut payload: &[u8]) -> Option<Vec<(bool, &[u8])>> {
    let mut entries = Vec::new();
    while let Some((head, rest)) = payload.split_at_checked(3) {
        let (entry, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([head[1], head[2]])))?;
        entries.push((head[0] != 0, entry));
        payload = rest;
    }
    payload.is_empty().then_some(entries)
}

/// A job's state as a row of about 70 bytes.
pub fn encode_state(state: &JobState) -> Vec<u8> {
    let mut row = Vec::with_capacity(64);
    let leaving = match state.leaving {
        None => 0u8,
        Some(RemoveReason::Finished) => 2,
        Some(RemoveReason::Removed) => 4,
    };
    row.push(HOT_VERSION);
    let late = if state.late { 8 } else { 0 };
    let question = if state.question.is_some() { 16 } else { 0 };
    row.push(u8::from(state.paused) | leaving | late | question);
    put_time(&mut row, state.next_run_time);
    put_time(&mut row, state.backlog_until);
    row.extend_from_slice(&state.carried.missed.to_le_bytes());
    row.extend_from_slice(&state.carried.live.to_le_bytes());
    put_time(&mut row, state.carried.oldest_live);
    put_time(&mut row, state.carried.last_missed);
    row.extend_from_slice(&state.started.to_le_bytes());
    row.extend_from_slice(&state.failures.to_le_bytes());
    put_time(&mut row, state.expected_by);
    put_time(&mut row, state.question.and_then(|question| question.previous));
    put_time(&mut row, state.backfill.map(|backfill| backfill.next));
    if let Some(backfill) = state.backfill {
        put_time(&mut row, Some(backfill.until));
    }
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
    row.extend_from_slice(state.quarantine.as_deref().unwrap_or_default().as_bytes());
    row
}

/// The state in a row, or `None` if the row is not one of ours. Arguments that runs have of their own
/// are found by `arguments`.
pub fn decode_state(row: &[u8], mut arguments: impl FnMut(RunId) -> Option<Arc<Arguments>>) -> Option<JobState> {
    let mut row = Reader(row);
    let version = row.byte()?;
    if !(1..=HOT_VERSION).contains(&version) {
        return None;
    }
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
        carried: Carried {
            missed: u64::from_le_bytes(row.take()?),
            live: u64::from_le_bytes(row.take()?),
            oldest_live: row.time()?,
            last_missed: row.time()?,
        },
        // Version 1 did not count them.
        started: if version == 1 { 0 } else { u64::from_le_bytes(row.take()?) },
        failures: u32::from_le_bytes(row.take()?),
        late: flags & 8 != 0,
        ..JobState::default()
    };
    if version >= 3 {
        state.expected_by = row.time()?;
        let previous = row.time()?;
        state.question = (flags & 16 != 0).then_some(Question { previous });
        if let Some(next) = row.time()? {
            state.backfill = Some(Backfill { next, until: row.time()?? });
        }
    }
    let mut arguments = |id, own: bool| if own { arguments(id) } else { None };
    for _ in 0..row.byte()? {
        let ((id, scheduled_time, attempt), origin, own) = row.attempt()?;
        let coalesced = u64::from_le_bytes(row.take()?);
        let arguments = arguments(id, own);
        state.running.push(RunningRun { id, scheduled_time, attempt, origin, coalesced, arguments });
    }
    for _ in 0..row.byte()? {
        let ((id, scheduled_time, attempt), origin, own) = row.attempt()?;
        let due = row.time()??;
        let arguments = arguments(id, own);
        state.pending.push(PendingRun { id, scheduled_time, attempt, due, origin, arguments });
    }
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

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn time(&mut self) -> Option<Option<DateTime<Utc>>> {
        let micros = i64::from_le_bytes(self.take()?);
        if micros == i64::MIN { Some(None) } else { DateTime::from_timestamp_micros(micros).map(Some) }
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
            ..JobState::default()
        };
        assert!(seal(&encode_state(&state)).len() <= VALUE_MAX);
    }

    fn time(micros: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(micros).unwrap()
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
            prop_assert_eq!(decode_state(&encode_state(&state), |_| Some(own.clone())), Some(state));
        }

        #[test]
        fn any_bytes_as_a_row_or_a_block_end_without_panic(bytes: Vec<u8>) {
            let _ = decode_state(&bytes, |_| None);
            let _ = unpack(&bytes);
            let _ = unseal(&bytes);
            let _ = piece_of(&bytes);
        }

        #[test]
        fn what_is_packed_is_unpacked(entries in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 0..900)), 0..40)) {
            let mut packer = Packer::default();
            for (flag, entry) in &entries {
                packer.push(*flag, entry);
            }
            prop_assert!(packer.blocks.iter().all(|block| seal(block).len() <= VALUE_MAX));
            let unpacked: Vec<(bool, Vec<u8>)> = packer.blocks.iter()
                .flat_map(|block| unpack(block).unwrap())
                .map(|(flag, entry)| (flag, entry.to_vec())).collect();
            prop_assert_eq!(unpacked, entries);
        }

        #[test]
        fn pieces_join_again(bytes in proptest::collection::vec(any::<u8>(), 0..10_000)) {
            let joined: Vec<u8> = pieces(b"k", &bytes).flat_map(|(key, value)| {
                assert_eq!(piece_of(&key).unwrap().0, b"k");
                unseal(&value).unwrap().to_vec()
            }).collect();
            prop_assert_eq!(joined, bytes);
        }
    }
}
