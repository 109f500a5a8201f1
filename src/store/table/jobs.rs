//! The jobs of a table. Those that have something to do are here whole; one that only waits for its
//! time is a row of a few bytes, and its definition stays with the store until it is needed.

use super::change::REASON_BYTES_MAX;
use super::queue::Place;
use crate::job::{Alias, Job, JobId, JobState, Status};
use crate::store::row::{self, Standing};
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// Jobs that one turn looks at to make them rows again.
const COOLED_MAX: usize = 1024;

/// Where the definition of a job is found; the error says why it cannot be.
pub type Definitions = Arc<dyn Fn(&JobId) -> Result<Arc<Job>, String> + Send + Sync>;

/// A job that is here whole.
pub struct Entry {
    /// Absent if its stored form cannot be decoded; the state then says why.
    pub job: Option<Arc<Job>>,
    pub state: JobState,
    pub executor: Alias,
    pub place: Place,
    /// When it will be late, as the index of such times has it.
    pub alarm: Option<DateTime<Utc>>,
    /// When its next fire time changes where it stands, although it stands somewhere already.
    pub wake: Option<DateTime<Utc>>,
    /// Due, but nothing can be decided before one of its runs ends.
    pub waiting: bool,
}

/// A job that only waits.
struct Cold {
    row: Box<[u8]>,
    executor: Alias,
    place: Place,
    alarm: Option<DateTime<Utc>>,
    priority: i8,
}

enum Slot {
    Warm(Box<Entry>),
    Cold(Box<Cold>),
}

#[derive(Default)]
pub struct Jobs {
    slots: BTreeMap<JobId, Slot>,
    /// Without it, all jobs are here whole.
    definitions: Option<Definitions>,
    /// How many jobs are kept whole although they only wait.
    warm_max: usize,
    warm: VecDeque<JobId>,
    /// The names of executors, each once.
    executors: BTreeSet<Alias>,
    /// Jobs whose definition could not be decoded when it was needed, and nobody has said so yet.
    pub broken: Vec<JobId>,
}

impl Entry {
    pub fn new(job: Arc<Job>, state: JobState) -> Self {
        let executor = job.executor.clone();
        Entry { job: Some(job), state, executor, place: Place::Nowhere, alarm: None, wake: None, waiting: false }
    }

    /// When it is due, where, and how urgent it is.
    pub fn standing(&self) -> Standing {
        let due = self.job.as_ref().and_then(|job| self.state.due(job));
        let priority = self.job.as_ref().map_or(0, |job| job.priority);
        Standing { executor: self.executor.clone(), priority, due }
    }

    /// The job's priority; one that has only a backfill to do waits for all others.
    pub fn urgency(&self, now: DateTime<Utc>) -> i8 {
        let Some(job) = &self.job else { return 0 };
        let waits = self.state.backfill.is_some() && self.state.own_due(job).is_none_or(|due| due > now);
        if waits { i8::MIN } else { job.priority }
    }

    pub fn row(&self) -> Vec<u8> {
        row::encode(&self.state, &self.standing())
    }

    /// Whether it only waits, so that a row says all of it.
    fn is_idle(&self) -> bool {
        let JobState { running, pending, backfill, question, .. } = &self.state;
        let nothing_open = running.is_empty() && pending.is_empty() && backfill.is_none() && question.is_none();
        nothing_open && !self.waiting && !matches!(self.place, Place::Ready(..)) && self.job.is_some()
    }
}

impl Cold {
    fn state(&self) -> JobState {
        row::decode(&self.row, |_| None).map(|(state, _)| state).unwrap_or_default()
    }

    /// The definition, and the state, which says why if there is none.
    fn whole(id: &JobId, mut state: JobState, definitions: Option<&Definitions>) -> (Option<Arc<Job>>, JobState) {
        let found = definitions.map_or(Err("it is not there".into()), |find| find(id));
        let job = found.map_err(|reason| state.quarantine = Some(reason)).ok();
        (job, state)
    }
}

impl Jobs {
    pub fn with_definitions(definitions: Definitions, warm_max: usize) -> Self {
        Jobs { definitions: Some(definitions), warm_max, ..Jobs::default() }
    }

    pub fn insert(&mut self, id: JobId, mut entry: Entry) {
        entry.executor = self.interned(entry.executor);
        if self.definitions.is_some() {
            self.warm.push_back(id.clone());
        }
        self.slots.insert(id, Slot::Warm(Box::new(entry)));
    }

    /// Adds a job as the row that it was stored as, with its place in line.
    pub fn insert_row(
        &mut self,
        id: JobId,
        row: &[u8],
        standing: Standing,
        place: Place,
        alarm: Option<DateTime<Utc>>,
    ) {
        let Standing { executor, priority, .. } = standing;
        let executor = self.interned(executor);
        self.slots.insert(id, Slot::Cold(Box::new(Cold { row: row.into(), executor, place, alarm, priority })));
    }

    fn interned(&mut self, executor: Alias) -> Alias {
        if let Some(known) = self.executors.get(&executor) {
            return known.clone();
        }
        self.executors.insert(executor.clone());
        executor
    }

    /// A job, whole from now on.
    pub fn get_mut(&mut self, id: &JobId) -> Option<&mut Entry> {
        let slot = self.slots.get_mut(id)?;
        if let Slot::Cold(cold) = slot {
            let (job, mut state) = Cold::whole(id, cold.state(), self.definitions.as_ref());
            if job.is_none() {
                state.quarantine = state.quarantine.map(short);
                self.broken.push(id.clone());
            }
            let (executor, place, alarm) = (cold.executor.clone(), cold.place, cold.alarm);
            let (wake, waiting) = (None, false);
            *slot = Slot::Warm(Box::new(Entry { job, state, executor, place, alarm, wake, waiting }));
            self.warm.push_back(id.clone());
        }
        match slot {
            Slot::Warm(entry) => Some(entry),
            Slot::Cold(_) => None,
        }
    }

    /// A job as it is, if it is here whole.
    pub fn warm(&self, id: &JobId) -> Option<&Entry> {
        match self.slots.get(id)? {
            Slot::Warm(entry) => Some(entry),
            Slot::Cold(_) => None,
        }
    }

    pub fn contains_key(&self, id: &JobId) -> bool {
        self.slots.contains_key(id)
    }

    pub fn remove(&mut self, id: &JobId) -> Option<Entry> {
        self.get_mut(id)?;
        match self.slots.remove(id)? {
            Slot::Warm(entry) => Some(*entry),
            Slot::Cold(_) => None,
        }
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// How urgent a job is whose time has come.
    pub fn urgency(&self, id: &JobId, now: DateTime<Utc>) -> i8 {
        match self.slots.get(id) {
            Some(Slot::Warm(entry)) => entry.urgency(now),
            Some(Slot::Cold(cold)) => cold.priority,
            None => 0,
        }
    }

    pub fn set_place(&mut self, id: &JobId, new: Place) {
        match self.slots.get_mut(id) {
            Some(Slot::Warm(entry)) => entry.place = new,
            Some(Slot::Cold(cold)) => cold.place = new,
            None => {}
        }
    }

    /// Jobs with an id greater than `after` and a state that is wanted, by id: each whole, as a copy.
    pub fn copies(
        &self,
        after: Option<JobId>,
        wanted: impl Fn(&JobState) -> bool,
    ) -> impl Iterator<Item = (&JobId, Option<Arc<Job>>, JobState)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.slots.range((from, Bound::Unbounded)).filter_map(move |(id, slot)| {
            let (job, state) = self.copy(id, slot, &wanted)?;
            Some((id, job, state))
        })
    }

    /// One of them.
    pub fn get(&self, id: &JobId) -> Option<(Option<Arc<Job>>, JobState)> {
        self.copy(id, self.slots.get(id)?, &|_| true)
    }

    /// A job whose state is wanted. The definition of another is not looked for.
    fn copy(
        &self,
        id: &JobId,
        slot: &Slot,
        wanted: &impl Fn(&JobState) -> bool,
    ) -> Option<(Option<Arc<Job>>, JobState)> {
        match slot {
            Slot::Warm(entry) => wanted(&entry.state).then(|| (entry.job.clone(), entry.state.clone())),
            Slot::Cold(cold) => {
                let state = Some(cold.state()).filter(wanted)?;
                Some(Cold::whole(id, state, self.definitions.as_ref()))
            }
        }
    }

    pub fn count(&self, status: Status) -> u64 {
        let is = |slot: &&Slot| match slot {
            Slot::Warm(entry) => entry.state.status() == status,
            Slot::Cold(cold) => cold.state().status() == status,
        };
        self.slots.values().filter(is).count() as u64
    }

    /// Some jobs after `after`, by id: what the watchdog looks at. Their states, places, and when
    /// they are due; whether they wait for a run of theirs.
    pub fn watched(&self, after: Option<&JobId>) -> impl Iterator<Item = (&JobId, Watched)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.slots.range::<JobId, _>((from, Bound::Unbounded)).map(|(id, slot)| {
            let watched = match slot {
                Slot::Warm(entry) => {
                    let lost = entry.state.lacks_next() && entry.job.is_some();
                    let due = !entry.waiting && entry.standing().due.is_some();
                    let stuck = entry.waiting && entry.state.running.is_empty();
                    Watched { lost, out_of_line: stuck || (due && entry.place == Place::Nowhere) }
                }
                Slot::Cold(cold) => {
                    let (state, standing) = row::decode(&cold.row, |_| None).unwrap_or_default();
                    let due = standing.is_some_and(|standing| standing.due.is_some());
                    Watched { lost: state.lacks_next(), out_of_line: due && cold.place == Place::Nowhere }
                }
            };
            (id, watched)
        })
    }

    /// Makes jobs that only wait rows again, the ones first that were made whole first, once there
    /// are many. What they are must be stored by now.
    pub fn cool(&mut self) {
        for _ in 0..COOLED_MAX {
            if self.warm.len() <= self.warm_max {
                return;
            }
            let Some(id) = self.warm.pop_front() else { return };
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            let Slot::Warm(entry) = slot else { continue };
            if !entry.is_idle() {
                self.warm.push_back(id);
                continue;
            }
            let (row, executor, priority) = (entry.row().into(), entry.executor.clone(), entry.standing().priority);
            let (place, alarm) = (entry.place, entry.alarm);
            *slot = Slot::Cold(Box::new(Cold { row, executor, place, alarm, priority }));
        }
    }
}

/// A reason as it fits a row.
fn short(mut reason: String) -> String {
    crate::run::cut(&mut reason, REASON_BYTES_MAX);
    reason
}

/// What the watchdog sees of a job.
#[derive(Debug, Clone, Copy)]
pub struct Watched {
    /// It is active and has no next run time.
    pub lost: bool,
    /// It is due some day and has no place in line.
    pub out_of_line: bool,
}
