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
    /// In line, by falling priority and then by when it came there: at its time, or when it had its
    /// turn and wanted more, so that a long backlog of one holds up nobody. The last number orders
    /// those that came at one time; it is 0 for those whose time came.
    Ready(Reverse<i8>, DateTime<Utc>, u64),
}

#[derive(Default)]
struct Queue {
    timed: BTreeSet<(DateTime<Utc>, JobId)>,
    ready: BTreeSet<(Reverse<i8>, DateTime<Utc>, u64, JobId)>,
}

/// The queues of all executors.
#[derive(Default)]
pub struct Queues {
    queues: BTreeMap<Alias, Queue>,
    tickets: u64,
    /// The latest time at which a job came into line.
    latest: DateTime<Utc>,
}

impl Queues {
    /// Empty queues that number those who come from `tickets` on.
    pub fn numbered_from(tickets: u64) -> Self {
        Queues { tickets, ..Queues::default() }
    }

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
            (Some(_), Place::Ready(Reverse(held), ..)) if held == priority => old,
            // It came into line at its time, although nobody has looked since.
            (Some(_), Place::Timed(at)) if at <= now => Place::Ready(Reverse(priority), at, 0),
            (Some(_), _) => {
                self.tickets += 1;
                Place::Ready(Reverse(priority), now, self.tickets)
            }
        };
        if new != old {
            self.take(executor, id, old);
            self.put_back(executor, id, new);
        }
        new
    }

    /// Puts a job, which stands nowhere, in a place.
    pub fn put_back(&mut self, executor: &Alias, id: &JobId, place: Place) {
        match place {
            Place::Nowhere => {}
            Place::Timed(due) => {
                self.queue(executor).timed.insert((due, id.clone()));
            }
            Place::Ready(priority, since, ticket) => {
                self.latest = self.latest.max(since);
                self.queue(executor).ready.insert((priority, since, ticket, id.clone()));
            }
        }
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
            Place::Ready(priority, since, ticket) => {
                queue.ready.remove(&(priority, since, ticket, id.clone()));
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
            && let Some((at, id)) = queue.timed.pop_first()
        {
            let place = Place::Ready(Reverse(priority(&id)), at, 0);
            self.put_back(executor, &id, place);
            moved.push((id, place));
        }
        moved
    }

    /// The job that is first in line, and how many there are. One that came into line before the clock
    /// was set back waits until it has come there again.
    pub fn first(&self, executor: &Alias, now: DateTime<Utc>) -> Option<(&JobId, usize)> {
        let ready = &self.queues.get(executor)?.ready;
        let mut here = ready.iter().filter(|(_, since, ..)| *since <= now).map(|(.., id)| id);
        let first = here.next()?;
        Some((first, if now >= self.latest { ready.len() } else { 1 + here.count() }))
    }

    /// Jobs whose time comes until `until`, the first ones.
    pub fn soon(
        &self,
        executor: &Alias,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
        most: usize,
    ) -> Vec<(DateTime<Utc>, JobId)> {
        let timed = self.queues.get(executor).map(|queue| &queue.timed);
        let soon = timed.into_iter().flatten().skip_while(|(at, _)| *at <= now).take_while(|(at, _)| *at <= until);
        soon.take(most).cloned().collect()
    }

    /// Executors that have jobs.
    pub fn executors(&self) -> Vec<Alias> {
        self.queues.keys().cloned().collect()
    }

    /// When an executor has something to claim next.
    pub fn next_due(&self, executor: &Alias, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if self.first(executor, now).is_some() {
            return Some(now);
        }
        let queue = self.queues.get(executor)?;
        let timed = queue.timed.first().map(|(at, _)| *at);
        queue.ready.iter().map(|(_, since, ..)| *since).chain(timed).min()
    }

    fn queue(&mut self, executor: &Alias) -> &mut Queue {
        self.queues.entry(executor.clone()).or_default()
    }
}
