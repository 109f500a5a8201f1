//! What callers ask of a table: each change is answered by a reply or an error, and one that is
//! refused changes nothing.

use super::{Entry, PENDING_MAX, Table};
use crate::error::{Error, Result};
use crate::event::{Event, EventKind};
use crate::job::{Job, JobId, JobState, PendingRun, RemoveReason, RunningRun};
use crate::plan::passed_over;
use crate::run::{Outcome, RunLogs, SkipReason};
use crate::store::{Change, Conflict, Reply};
use chrono::{DateTime, Utc};
use std::sync::Arc;

/// Longest reason of a quarantine that is kept, in bytes.
const REASON_BYTES_MAX: usize = 400;

/// Makes a job's new trigger definite, and gives its first fire time.
fn settle_trigger(job: &mut Job, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
    job.trigger = job.trigger.clone().anchored(now).spread_by(job.id.as_str());
    job.trigger.next_fire_time(None, now).ok_or_else(|| Error::NeverFires(job.trigger.to_string()))
}

impl Table {
    pub(super) fn change(&mut self, now: DateTime<Utc>, change: Change) -> Result<Reply> {
        match change {
            Change::Add { job, paused, conflict } => self.add(now, *job, paused, conflict),
            Change::Modify { base, job } => self.modify(now, &base, *job),
            Change::Remove { id } => self.remove(now, &id).map(|()| Reply::Done),
            Change::RemoveAll => {
                let ids: Vec<JobId> = self.jobs.keys().cloned().collect();
                for id in &ids {
                    self.remove(now, id)?;
                }
                self.record(Event::new(EventKind::AllJobsRemoved, now, self.alias.clone()));
                Ok(Reply::Done)
            }
            Change::Pause { id } => self.pause(now, &id),
            Change::Resume { id } => self.resume(now, &id),
            Change::Run { id } => self.run_now(now, &id),
            Change::Quarantine { id, reason } => self.quarantine(now, &id, reason),
            Change::Release { id } => {
                let state = self.state(&id)?;
                if state.quarantine.take().is_some() {
                    self.delta.touched.insert(id.clone());
                    if let Some(entry) = self.jobs.get_mut(&id) {
                        entry.waiting = false;
                    }
                    self.reindex(&id);
                    let event = Event::new(EventKind::JobResumed, now, self.alias.clone()).job(&id);
                    self.record(event.detail("what it was quarantined for is mended"));
                }
                self.reply(&id)
            }
            Change::Record { event } => {
                self.record(*event);
                Ok(Reply::Done)
            }
        }
    }

    fn add(&mut self, now: DateTime<Utc>, mut job: Job, paused: bool, conflict: Conflict) -> Result<Reply> {
        let id = job.id.clone();
        if self.jobs.contains_key(&id) {
            match conflict {
                Conflict::Refuse => return Err(Error::JobExists(id)),
                Conflict::Keep => return self.reply(&id),
                Conflict::Replace => {}
            }
        }
        let next_run_time = Some(settle_trigger(&mut job, now)?);
        self.cancel_pending(now, &id);
        let running = self.detach(&id);
        let state = JobState { paused, next_run_time, running, ..JobState::default() };
        self.define(job, state);
        self.record(Event::new(EventKind::JobAdded, now, self.alias.clone()).job(&id));
        self.reply(&id)
    }

    fn modify(&mut self, now: DateTime<Utc>, base: &Arc<Job>, mut job: Job) -> Result<Reply> {
        let id = job.id.clone();
        let entry = self.jobs.get(&id).ok_or_else(|| Error::JobNotFound(id.clone()))?;
        if entry.job.as_ref() != Some(base) {
            return Err(Error::JobChanged(id));
        }
        if entry.state.leaving == Some(RemoveReason::Removed) {
            return Err(Error::JobNotFound(id));
        }
        let mut state = entry.state.clone();
        // It was checked as a whole before it came here.
        state.quarantine = None;
        if job.trigger != base.trigger {
            state.leaving = None;
            state.next_run_time = Some(settle_trigger(&mut job, now)?);
            (state.carried, state.backlog_until, state.started) = Default::default();
        }
        self.detach(&id);
        self.define(job, state);
        self.record(Event::new(EventKind::JobModified, now, self.alias.clone()).job(&id));
        self.reply(&id)
    }

    /// Takes a job out of the indexes and hands over its running runs.
    fn detach(&mut self, id: &JobId) -> Vec<RunningRun> {
        let Some(entry) = self.jobs.remove(id) else { return Vec::new() };
        if let (Some(at), Some(job)) = (entry.indexed, &entry.job) {
            self.unindex(&job.executor, at, id);
        }
        self.manual.remove(id);
        entry.state.running
    }

    fn define(&mut self, job: Job, state: JobState) {
        let id = job.id.clone();
        self.jobs.insert(id.clone(), Entry { job: Some(Arc::new(job)), state, indexed: None, waiting: false });
        self.delta.touched.insert(id.clone());
        self.delta.defined.insert(id.clone());
        self.reindex(&id);
    }

    fn remove(&mut self, now: DateTime<Utc>, id: &JobId) -> Result<()> {
        self.state(id)?;
        self.cancel_pending(now, id);
        let state = self.state(id)?;
        state.leaving = Some(RemoveReason::Removed);
        state.next_run_time = None;
        self.delta.touched.insert(id.clone());
        self.leave_if_exhausted(now, id);
        self.reindex(id);
        Ok(())
    }

    /// Attempts that were promised and will not come end as cancelled runs.
    fn cancel_pending(&mut self, now: DateTime<Utc>, id: &JobId) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        for pending in std::mem::take(&mut entry.state.pending) {
            let Some(mut run) = self.run_of(id, &pending.into()) else { continue };
            run.end(now, Outcome::Cancelled);
            self.record(Event::new(EventKind::JobCancelled, now, self.alias.clone()).run(&run));
            self.record(Event::new(EventKind::JobError, now, self.alias.clone()).run(&run));
            self.delta.ended.push((run, RunLogs::default()));
        }
    }

    fn pause(&mut self, now: DateTime<Utc>, id: &JobId) -> Result<Reply> {
        let state = self.state(id)?;
        if !state.paused {
            state.paused = true;
            self.delta.touched.insert(id.clone());
            self.reindex(id);
            self.record(Event::new(EventKind::JobPaused, now, self.alias.clone()).job(id));
        }
        self.reply(id)
    }

    fn resume(&mut self, now: DateTime<Utc>, id: &JobId) -> Result<Reply> {
        let state = self.state(id)?;
        if !state.paused {
            return self.reply(id);
        }
        state.paused = false;
        self.delta.touched.insert(id.clone());
        self.record(Event::new(EventKind::JobResumed, now, self.alias.clone()).job(id));
        if let Some(entry) = self.jobs.get_mut(id)
            && let Some(job) = entry.job.clone()
        {
            let (passed, next) = passed_over(&job, &entry.state, now);
            entry.state.next_run_time = next;
            (entry.state.carried, entry.state.backlog_until) = Default::default();
            if let Some(times) = passed {
                self.skip(now, &job, times, Outcome::Skipped { reason: SkipReason::Paused });
            }
        }
        let reply = self.reply(id);
        self.leave_if_exhausted(now, id);
        self.reindex(id);
        reply
    }

    fn run_now(&mut self, now: DateTime<Utc>, id: &JobId) -> Result<Reply> {
        let run = self.next_id(now);
        let state = self.state(id)?;
        if let Some(reason) = &state.quarantine {
            let invalid = crate::invalid::Invalid::new("run", id.as_str(), format!("the job is quarantined: {reason}"));
            return Err(Error::Invalid(invalid));
        }
        if state.leaving == Some(RemoveReason::Removed) {
            return Err(Error::JobNotFound(id.clone()));
        }
        if state.pending.len() >= PENDING_MAX {
            return Err(Error::Busy { max: PENDING_MAX });
        }
        state.pending.push(PendingRun { id: run, scheduled_time: now, attempt: 1, due: now, manual: true });
        self.delta.touched.insert(id.clone());
        self.manual.insert(id.clone());
        self.reindex(id);
        Ok(Reply::Run(run))
    }

    pub(super) fn quarantine(&mut self, now: DateTime<Utc>, id: &JobId, mut reason: String) -> Result<Reply> {
        // It is part of the job's row, which is to stay small.
        crate::run::cut(&mut reason, REASON_BYTES_MAX);
        let state = self.state(id)?;
        if state.quarantine.as_ref() != Some(&reason) {
            state.quarantine = Some(reason.clone());
            self.delta.touched.insert(id.clone());
            self.reindex(id);
            self.record(Event::new(EventKind::JobQuarantined, now, self.alias.clone()).job(id).detail(reason));
        }
        self.reply(id)
    }
}
