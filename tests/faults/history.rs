//! What was recorded: runs and events by the database, effects by the witness, leases by looking.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds since 1970, of the clock that the database and the witness share.
pub fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").as_micros() as i64
}

#[derive(Debug, Clone, Default)]
pub struct History {
    /// When each job was to fire first, and every how many microseconds.
    pub jobs: BTreeMap<String, (i64, i64)>,
    /// Fire times after this are not looked at.
    pub end: i64,
    pub runs: Vec<Run>,
    pub effects: Vec<Effect>,
    pub leases: BTreeMap<u64, Lease>,
    pub events: Vec<Event>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub id: String,
    pub job: String,
    pub fire: i64,
    pub attempt: u32,
    pub epoch: u64,
    pub lease: u64,
    pub ended: bool,
    pub outcome: String,
    /// Its job is run again when it was interrupted.
    pub rerun: bool,
}

/// Something that a guest did to the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    pub job: String,
    pub fire: i64,
    pub epoch: u64,
    pub at: i64,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Lease {
    /// The latest end that it had.
    pub until: i64,
    /// It had run out, or was taken over.
    pub over: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub seq: u64,
    pub kind: String,
    pub run: Option<String>,
}
