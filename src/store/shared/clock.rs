//! The database's time, as this node knows it: every node has the same, however its own clock is set.

use crate::clock::Clock;
use crate::lease::boottime;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::sync::{Arc, Mutex, PoisonError};

/// How much a clock may drift from another, in parts of a million: what an old reading loses in worth.
const DRIFT: i64 = 200;

/// A clock that is set by asking the database, and goes on by the machine's time since it started.
#[derive(Clone, Default)]
pub struct DatabaseClock(Arc<Mutex<Reading>>);

/// One answer of the database.
#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    /// The database's microseconds less the machine's.
    offset: i64,
    /// It is wrong by this much at most, in microseconds.
    bound: i64,
    /// The machine's microseconds when it was taken.
    taken: i64,
}

impl DatabaseClock {
    /// Takes in an answer: the database's time in microseconds, and when it was asked and answered, in
    /// nanoseconds of [`boottime`]. A slow answer is worth less than an old one that was quick.
    pub fn answered(&self, now: i64, asked: i64, answered: i64) {
        let (asked, answered) = (asked / 1000, answered / 1000);
        let new = Reading { offset: now - (asked + answered) / 2, bound: (answered - asked) / 2 + 1, taken: answered };
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let worth = held.bound + (answered - held.taken) / 1_000_000 * DRIFT;
        if held.taken == 0 || new.bound <= worth {
            *held = new;
        }
    }
}

#[async_trait]
impl Clock for DatabaseClock {
    fn now(&self) -> DateTime<Utc> {
        let offset = self.0.lock().unwrap_or_else(PoisonError::into_inner).offset;
        DateTime::from_timestamp_micros(boottime() / 1000 + offset).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_does_not_spoil_a_quick_one() {
        let clock = DatabaseClock::default();
        let machine = boottime();
        clock.answered(1_800_000_000_000_000, machine, machine + 200_000);
        let quick = clock.now();
        clock.answered(1_800_000_500_000_000, machine, machine + 3_000_000_000);
        assert!((clock.now() - quick).num_seconds() < 1, "the answer took three seconds and is passed over");
        let later = machine + 600_000_000_000;
        clock.answered(1_800_000_600_100_000, later, later + 300_000);
        assert_ne!(clock.now(), quick, "an old reading is worth less and less");
    }
}
