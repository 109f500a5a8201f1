//! Ended runs and events on disk: packed into blocks as they come, found again by an index in memory
//! that is rebuilt when opening, and pruned in the same transaction that adds to them.

use super::codec::{ENTRY_MAX, Packer, pieces, prefix, seal, unpack, unseal};
use super::disk::{DETAIL, Disk, LOG, RUN, Writes};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::job::{Alias, Arguments, JobId};
use crate::run::{Outcome, Run, RunId, RunLogs};
use crate::store::Retention;
use crate::store::record::StoredEvent;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// A run longer than this as JSON keeps its outcome's data apart.
const INLINE_MAX: usize = 2048;
/// Runs that one turn prunes for their age at most.
const PRUNED_PER_TURN: usize = 1024;

/// Where an ended run is.
#[derive(Clone)]
struct Place {
    job: JobId,
    block: u64,
    /// Its logs or the data of its outcome are in DETAIL.
    detail: bool,
}

pub struct History {
    retention: Retention,
    by_id: BTreeMap<RunId, Place>,
    by_job: HashMap<JobId, VecDeque<RunId>>,
    /// How many kept runs each block still holds.
    blocks: BTreeMap<u64, u32>,
    /// First sequence number of each block of events.
    log: VecDeque<u64>,
    last_seq: u64,
}

/// What DETAIL holds of a run.
#[derive(Serialize, Deserialize)]
struct Detail {
    logs: RunLogs,
    /// Present if the run in its block has only the outcome's kind.
    outcome: Option<Outcome>,
    #[serde(default)]
    arguments: Option<Arc<Arguments>>,
}

/// The parts of a stored run that the index needs.
#[derive(Deserialize)]
struct Key {
    id: RunId,
    job_id: JobId,
}

impl History {
    /// Rebuilds the index. Every row was verified before.
    pub fn load(disk: &Disk, retention: Retention, now: DateTime<Utc>) -> Result<Self> {
        let oldest = oldest_kept(&retention, now);
        let mut history = History {
            retention,
            by_id: BTreeMap::new(),
            by_job: HashMap::new(),
            blocks: BTreeMap::new(),
            log: VecDeque::new(),
            last_seq: 0,
        };
        let mut of_job: HashMap<JobId, Vec<RunId>> = HashMap::new();
        for row in disk.rows(RUN) {
            let (key, value) = row?;
            let block = number(&key)?;
            for (detail, entry) in entries(&value)? {
                let key: Key = parse(entry)?;
                if key.id.0.timestamp_ms() < oldest {
                    // Pruned before; its block is kept for the sake of others.
                    continue;
                }
                history.by_id.insert(key.id, Place { job: key.job_id.clone(), block, detail });
                *history.blocks.entry(block).or_default() += 1;
                of_job.entry(key.job_id).or_default().push(key.id);
            }
        }
        for (job, runs) in of_job {
            let over = runs.len().saturating_sub(retention.runs_per_job);
            let (dropped, kept) = runs.split_at(over);
            for id in dropped {
                // Its block is kept for the sake of others.
                history.unlink(*id);
            }
            history.by_job.insert(job, kept.iter().copied().collect());
        }
        for row in disk.rows(LOG) {
            let (key, value) = row?;
            let first = number(&key)?;
            history.log.push_back(first);
            history.last_seq = first + entries(&value)?.len() as u64 - 1;
        }
        Ok(history)
    }

    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    pub fn len(&self) -> u64 {
        self.by_id.len() as u64
    }

    /// Adds what a turn recorded to its writes, and prunes.
    pub fn add(
        &mut self,
        now: DateTime<Utc>,
        events: &[Event],
        ended: &[(Run, RunLogs)],
        writes: &mut Writes,
    ) -> Result<()> {
        self.add_runs(ended, writes)?;
        self.add_events(events, writes)?;
        self.prune_age(now, writes);
        self.prune_events(writes);
        Ok(())
    }

    fn add_runs(&mut self, ended: &[(Run, RunLogs)], writes: &mut Writes) -> Result<()> {
        let first_block = self.blocks.last_key_value().map_or(1, |(block, _)| block + 1);
        let mut packer = Packer::default();
        for (run, logs) in ended {
            let mut entry = json(run)?;
            let large = entry.len() > INLINE_MAX;
            let detail = large || !logs.is_empty();
            if detail {
                let (outcome, arguments) =
                    if large { (run.outcome.clone(), run.arguments.clone()) } else { (None, None) };
                let bytes = json(&Detail { logs: logs.clone(), outcome, arguments })?;
                for (key, value) in pieces(&run.id.0.to_bytes(), &bytes) {
                    writes.put(DETAIL, key, value);
                }
            }
            if large {
                entry = json(&slim(run))?;
            }
            let block = first_block + packer.push(detail, &entry) as u64;
            self.by_id.insert(run.id, Place { job: run.job_id.clone(), block, detail });
            *self.blocks.entry(block).or_default() += 1;
            let of_job = self.by_job.entry(run.job_id.clone()).or_default();
            of_job.push_back(run.id);
            if of_job.len() > self.retention.runs_per_job
                && let Some(oldest) = of_job.pop_front()
            {
                self.drop_run(oldest, writes);
            }
        }
        for (at, block) in packer.blocks.iter().enumerate() {
            let key = first_block + at as u64;
            if self.blocks.contains_key(&key) {
                writes.put(RUN, key.to_be_bytes().to_vec(), seal(block));
            }
        }
        Ok(())
    }

    fn add_events(&mut self, events: &[Event], writes: &mut Writes) -> Result<()> {
        let mut packer = Packer::default();
        let mut firsts = Vec::new();
        for event in events {
            let stored = StoredEvent::from(event);
            let block = packer.push(false, &json(&stored)?);
            if block == firsts.len() {
                firsts.push(event.seq);
            }
            self.last_seq = event.seq;
        }
        for (first, block) in firsts.into_iter().zip(&packer.blocks) {
            writes.put(LOG, first.to_be_bytes().to_vec(), seal(block));
            self.log.push_back(first);
        }
        Ok(())
    }

    /// A run's id says when it was claimed.
    fn prune_age(&mut self, now: DateTime<Utc>, writes: &mut Writes) {
        let oldest = oldest_kept(&self.retention, now);
        for _ in 0..PRUNED_PER_TURN {
            let first = self.by_id.first_key_value().map(|(id, _)| *id);
            let Some(id) = first.filter(|id| id.0.timestamp_ms() < oldest) else { return };
            self.drop_run(id, writes);
        }
    }

    fn prune_events(&mut self, writes: &mut Writes) {
        let keep_from = self.last_seq.saturating_sub(self.retention.events as u64);
        while self.log.get(1).is_some_and(|second| *second <= keep_from) {
            if let Some(first) = self.log.pop_front() {
                writes.remove(LOG, first.to_be_bytes().to_vec());
            }
        }
    }

    /// Forgets a run; a block goes with its last one.
    fn drop_run(&mut self, id: RunId, writes: &mut Writes) {
        let Some(place) = self.unlink(id) else { return };
        if let Some(of_job) = self.by_job.get_mut(&place.job) {
            of_job.retain(|kept| *kept != id);
            if of_job.is_empty() {
                self.by_job.remove(&place.job);
            }
        }
        if place.detail {
            writes.remove_pieces.push(id.0.to_bytes().to_vec());
        }
        if !self.blocks.contains_key(&place.block) {
            writes.remove(RUN, place.block.to_be_bytes().to_vec());
        }
    }

    fn unlink(&mut self, id: RunId) -> Option<Place> {
        let place = self.by_id.remove(&id)?;
        if let Some(held) = self.blocks.get_mut(&place.block) {
            *held -= 1;
            if *held == 0 {
                self.blocks.remove(&place.block);
            }
        }
        Some(place)
    }

    /// An ended run, whole.
    pub fn run(&self, disk: &Disk, id: RunId) -> Result<Option<Run>> {
        let Some(place) = self.by_id.get(&id) else { return Ok(None) };
        let Some(mut run) = read_block(disk, place.block)?.into_iter().find(|run| run.id == id) else {
            return Err(unreadable());
        };
        if place.detail {
            let Detail { outcome, arguments, .. } = read_detail(disk, id)?;
            run.outcome = outcome.or(run.outcome);
            run.arguments = arguments.or(run.arguments);
        }
        Ok(Some(run))
    }

    pub fn logs(&self, disk: &Disk, id: RunId) -> Result<Option<RunLogs>> {
        let Some(place) = self.by_id.get(&id) else { return Ok(None) };
        Ok(Some(if place.detail { read_detail(disk, id)?.logs } else { RunLogs::default() }))
    }

    /// Ids of ended runs below `before`, newest first; of one job, if given.
    pub fn ids(&self, job: Option<&JobId>, before: Option<RunId>) -> Vec<RunId> {
        match job {
            None => match before {
                Some(before) => self.by_id.range(..before).rev().map(|(id, _)| *id).collect(),
                None => self.by_id.keys().rev().copied().collect(),
            },
            Some(job) => {
                let of_job = self.by_job.get(job).into_iter().flatten().copied();
                let mut ids: Vec<RunId> =
                    of_job.filter(|id| before.is_none_or(|b| *id < b) && self.by_id.contains_key(id)).collect();
                ids.sort_unstable_by(|a, b| b.cmp(a));
                ids
            }
        }
    }

    /// Kept events after `since`, without their runs.
    pub fn events(&self, disk: &Disk, alias: &Alias, since: u64, limit: usize) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let start = self.log.partition_point(|first| *first <= since + 1).saturating_sub(1);
        for first in self.log.range(start..) {
            let value = disk.tree(LOG).get(first.to_be_bytes()).map_err(|_| unreadable())?;
            let value = value.ok_or_else(unreadable)?;
            for (at, (_, entry)) in entries(&value)?.into_iter().enumerate() {
                let seq = first + at as u64;
                if seq <= since {
                    continue;
                }
                if events.len() == limit {
                    return Ok(events);
                }
                let stored: StoredEvent = parse(entry)?;
                let event = stored.into_event(seq, alias).ok_or_else(unreadable)?;
                events.push(event);
            }
        }
        Ok(events)
    }
}

/// Runs claimed before this many milliseconds after 1970 are not kept.
fn oldest_kept(retention: &Retention, now: DateTime<Utc>) -> u64 {
    (now - retention.age).timestamp_millis().max(0) as u64
}

/// Reads runs one by one and decodes each block once for neighbours.
pub struct BlockReader<'a> {
    disk: &'a Disk,
    history: &'a History,
    last: Option<(u64, Vec<Run>)>,
}

impl<'a> BlockReader<'a> {
    pub fn new(disk: &'a Disk, history: &'a History) -> Self {
        BlockReader { disk, history, last: None }
    }

    /// A kept run; a large outcome is reduced to its kind.
    pub fn run(&mut self, id: RunId) -> Result<Option<Run>> {
        let Some(place) = self.history.by_id.get(&id) else { return Ok(None) };
        if self.last.as_ref().is_none_or(|(block, _)| *block != place.block) {
            self.last = Some((place.block, read_block(self.disk, place.block)?));
        }
        let runs = self.last.as_ref().map(|(_, runs)| runs.as_slice()).unwrap_or_default();
        Ok(runs.iter().find(|run| run.id == id).cloned())
    }
}

fn read_block(disk: &Disk, block: u64) -> Result<Vec<Run>> {
    let value = disk.tree(RUN).get(block.to_be_bytes()).map_err(|_| unreadable())?;
    let value = value.ok_or_else(unreadable)?;
    entries(&value)?.into_iter().map(|(_, entry)| parse(entry)).collect()
}

fn read_detail(disk: &Disk, id: RunId) -> Result<Detail> {
    let mut bytes = Vec::new();
    for row in disk.tree(DETAIL).scan_prefix(prefix(&id.0.to_bytes())) {
        let (_, value) = row.map_err(|_| unreadable())?;
        bytes.extend_from_slice(unseal(&value).ok_or_else(unreadable)?);
    }
    parse(&bytes)
}

/// The run with no more of its outcome than its kind and the beginning of its error.
fn slim(run: &Run) -> Run {
    let mut run = run.clone();
    run.arguments = None;
    let short = |text: &str| text.chars().take(200).collect::<String>();
    match &mut run.outcome {
        Some(Outcome::Succeeded { value }) => *value = serde_json::json!({ "cut": true }),
        Some(Outcome::Trapped { error, backtrace, .. }) => {
            *error = short(error);
            backtrace.clear();
        }
        Some(
            Outcome::Failed { error }
            | Outcome::OutOfFuel { error }
            | Outcome::OutOfMemory { error }
            | Outcome::TimedOut { error }
            | Outcome::Denied { error, .. }
            | Outcome::Invalid { error }
            | Outcome::Internal { error },
        ) => *error = short(error),
        _ => {}
    }
    run
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::host("cannot encode a record", e))
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::StoreFailed { what: "a record cannot be decoded".into(), source: Some(Box::new(e)) })
}

fn entries(value: &[u8]) -> Result<Vec<(bool, &[u8])>> {
    unseal(value).and_then(unpack).ok_or_else(unreadable)
}

fn number(key: &[u8]) -> Result<u64> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| unreadable())
}

fn unreadable() -> Error {
    Error::StoreFailed { what: "a record that should be there cannot be read".into(), source: None }
}

const _: () = assert!(INLINE_MAX < ENTRY_MAX);
