//! A table for one turn: the jobs that the turn is about, put in their places as a shared database
//! keeps them, and read off again afterwards.

use super::{Entry, Place, Queues, Table, set_time};
use crate::job::{Alias, Job, JobId, JobState};
use crate::run::{Run, RunId};
use chrono::{DateTime, TimeDelta, Utc};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;
use ulid::Ulid;

/// Numbers that one turn may give to jobs that come into line.
const TICKETS: u64 = 1 << 20;

/// Where a job stands, as far as its row does not say so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub executor: Alias,
    pub priority: i8,
    /// When it comes, or came, into line.
    pub line: Option<DateTime<Utc>>,
    /// Orders those that came at one time.
    pub ticket: u64,
    pub waiting: bool,
    pub wake: Option<DateTime<Utc>>,
    /// When the earliest run that a caller asked for may start.
    pub manual: Option<DateTime<Utc>>,
    /// A plugin is to be asked when it fires next.
    pub unasked: bool,
}

impl Position {
    /// In the same lane, but neither in line nor waiting for anything.
    pub fn nowhere(self) -> Self {
        Position { line: None, ticket: 0, waiting: false, wake: None, manual: None, unasked: false, ..self }
    }
}

impl Table {
    /// An empty table for one turn. `last_id` is the greatest run id so far; `epoch` grows from turn to
    /// turn; `lacking` are the executors that no node has.
    pub fn working(alias: Alias, node: Arc<str>, last_id: Ulid, epoch: u64, lacking: BTreeSet<Alias>) -> Self {
        let mut table = Table::new(alias, String::new(), 0).unwatched();
        table.node = node;
        table.queues = Queues::numbered_from(epoch.saturating_mul(TICKETS));
        (table.last_id, table.epoch, table.lacking) = (last_id, Some(epoch), Some(lacking));
        table
    }

    /// Puts a job in its place. Runs of it that go on are put back by [`Table::put_back_run`].
    pub fn put_back(&mut self, id: &JobId, job: Option<Arc<Job>>, state: JobState, position: &Position) {
        let Position { executor, priority, line, ticket, waiting, wake, manual, unasked } = position.clone();
        let place = match line {
            None => Place::Nowhere,
            Some(at) if ticket == 0 => Place::Timed(at),
            Some(at) => Place::Ready(Reverse(priority), at, ticket),
        };
        self.queues.put_back(&executor, id, place);
        let mut entry = Entry { job, state, executor, place, alarm: None, wake: None, waiting };
        set_time(&mut self.alarms, id, &mut entry.alarm, entry.state.expected_by);
        set_time(&mut self.wakes, id, &mut entry.wake, wake);
        self.promised.extend(entry.state.pending.iter().map(|run| (run.id, id.clone())));
        if manual.is_some() {
            self.manual.insert(id.clone());
        }
        if unasked {
            self.unasked.insert(id.clone());
        }
        self.jobs.insert(id.clone(), entry);
    }

    /// Claims runs so long before their time.
    pub fn with_lead(self, lead: TimeDelta) -> Self {
        Table { lead: (lead > TimeDelta::zero()).then_some(lead), ..self }
    }

    /// Notes that a job is another one than when runs of it were claimed ahead.
    pub fn note_changed(&mut self, id: &JobId) {
        self.changed.insert(id.clone());
    }

    pub fn put_back_run(&mut self, run: Run) {
        self.live.insert(run.id, run);
    }

    /// The same of one whose record is lost, by what its job knows of it; false if that is nothing.
    pub fn put_back_going(&mut self, id: &JobId, run: RunId) -> bool {
        let Some(entry) = self.jobs.warm(id) else { return false };
        let running = entry.state.running.iter().find(|running| running.id == run).cloned();
        let Some(run) = running.and_then(|running| self.run_of(id, &running)) else { return false };
        self.put_back_run(run);
        true
    }

    pub fn position(&self, id: &JobId) -> Option<Position> {
        let entry = self.jobs.warm(id)?;
        let (priority, line, ticket) = match entry.place {
            Place::Nowhere => (entry.urgency(self.now), None, 0),
            Place::Timed(at) => (entry.urgency(self.now), Some(at), 0),
            Place::Ready(Reverse(priority), at, ticket) => (priority, Some(at), ticket),
        };
        let manual = self.manual.contains(id).then(|| entry.state.manual_due()).flatten();
        let unasked = self.unasked.contains(id);
        let (executor, waiting, wake) = (entry.executor.clone(), entry.waiting, entry.wake);
        Some(Position { executor, priority, line, ticket, waiting, wake, manual, unasked })
    }

    /// The state of a job.
    pub fn state_of(&self, id: &JobId) -> Option<&JobState> {
        Some(&self.jobs.warm(id)?.state)
    }

    /// The greatest run id so far.
    pub fn last_id(&self) -> Ulid {
        self.last_id
    }
}
