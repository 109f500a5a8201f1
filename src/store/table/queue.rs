//! Where each job of a table stands: in line for a slot, waiting for its time, or nowhere.

use crate::job::{Alias, JobId};
use chrono::{DateTime, Utc};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Jobs that one turn moves from waiting to in line at most, for each executor.
const MOVES_MAX: usize = 100_000;

/// A job's place in the queue of its executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    /// It has nothing due, or cannot go on before one of its runs ends.
    #[default]
    Nowhere,
    Timed(DateTime<Utc>),
    /// In line, by falling priority and then by who came first. A job that has had its turn and
    /// wants more goes to the end, so that a long backlog of one holds up nobody.
    Ready(Reverse<i8>, u64),
}

#[derive(Default)]
struct Queue {
    timed: BTreeSet<(DateTime<Utc>, JobId)>,
    ready: BTreeSet<(Reverse<i8>, u64, JobId)>,
}

/// The queues of all executors.
#[derive(Default)]
pub struct Queues {
    queues: BTreeMap<Alias, Queue>,
    tickets: u64,
}

impl Queues {
    /// Moves a job from `old` to where something due at `due` belongs. One that stays in line keeps
    /// its place there.
    pub fn put(
        &mut self,
        executor: &Alias,
        id: &JobId,
        old: Place,
        due: Option<DateTime<Utc>>,
        (now, priority): (DateTime<Utc>, i8),
    ) -> Place {
        let new = match (due, old) {
            (None, _) => Place::Nowhere,
            (Some(due), _) if due > now => Place::Timed(due),
            (Some(_), Place::Ready(Reverse(held), _)) if held == priority => old,
            (Some(_), _) => self.ready(priority),
        };
        if new != old {
            self.take(executor, id, old);
            match new {
                Place::Nowhere => {}
                Place::Timed(due) => {
                    self.queue(executor).timed.insert((due, id.clone()));
                }
                Place::Ready(priority, ticket) => {
                    self.queue(executor).ready.insert((priority, ticket, id.clone()));
                }
            }
        }
        new
    }

    /// Jobs that something is due of.
    pub fn in_line(&self) -> usize {
        self.queues.values().map(|queue| queue.ready.len()).sum()
    }

    /// Takes a job out of its place.
    pub fn take(&mut self, executor: &Alias, id: &JobId, old: Place) {
        let Some(queue) = self.queues.get_mut(executor) else { return };
        match old {
            Place::Nowhere => {}
            Place::Timed(due) => {
                queue.timed.remove(&(due, id.clone()));
            }
            Place::Ready(priority, ticket) => {
                queue.ready.remove(&(priority, ticket, id.clone()));
            }
        }
        if queue.timed.is_empty() && queue.ready.is_empty() {
            self.queues.remove(executor);
        }
    }

    /// Puts in line, in the order of their times, the jobs of an executor whose time has come; says
    /// where they stand now.
    pub fn advance(
        &mut self,
        executor: &Alias,
        now: DateTime<Utc>,
        priority: impl Fn(&JobId) -> i8,
    ) -> Vec<(JobId, Place)> {
        let mut moved = Vec::new();
        while moved.len() < MOVES_MAX
            && let Some(queue) = self.queues.get_mut(executor)
            && queue.timed.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, id)) = queue.timed.pop_first()
        {
            let place = self.ready(priority(&id));
            if let Place::Ready(priority, ticket) = place {
                self.queue(executor).ready.insert((priority, ticket, id.clone()));
            }
            moved.push((id, place));
        }
        moved
    }

    /// The job that is first in line, and how many there are.
    pub fn first(&self, executor: &Alias) -> Option<(&JobId, usize)> {
        let ready = &self.queues.get(executor)?.ready;
        ready.first().map(|(_, _, id)| (id, ready.len()))
    }

    /// Executors that have jobs.
    pub fn executors(&self) -> Vec<Alias> {
        self.queues.keys().cloned().collect()
    }

    /// When an executor has something to claim next.
    pub fn next_due(&self, executor: &Alias, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let queue = self.queues.get(executor)?;
        if queue.ready.is_empty() { queue.timed.first().map(|(at, _)| *at) } else { Some(now) }
    }

    fn queue(&mut self, executor: &Alias) -> &mut Queue {
        self.queues.entry(executor.clone()).or_default()
    }

    fn ready(&mut self, priority: i8) -> Place {
        self.tickets += 1;
        Place::Ready(Reverse(priority), self.tickets)
    }
}
