//! What callers ask of a table: each change is answered by a reply or an error, and one that is
//! refused changes nothing.

use super::{Entry, PENDING_MAX, Table, told};
use crate::error::{Error, Result};
use crate::event::EventKind;
use crate::invalid::Invalid;
use crate::job::{Arguments, Backfill, Job, JobId, JobState, Origin, PendingRun, Question, RemoveReason};
use crate::plan::passed_over;
use crate::run::{Outcome, RunId, RunLogs, SkipReason};
use crate::store::{Answer, Change, Conflict, Reply};
use chrono::{DateTime, Utc};
use std::sync::Arc;

/// Longest reason of a quarantine that is kept, in bytes.
pub(super) const REASON_BYTES_MAX: usize = 400;

/// Makes a job's new trigger definite, and gives its first fire time; a plugin's is as it `said`, or to
/// be asked for.
fn settle_trigger(job: &mut Job, now: DateTime<Utc>, said: Option<DateTime<Utc>>) -> Result<Option<DateTime<Utc>>> {
    job.trigger = job.trigger.clone().anchored(now).spread_by(job.id.as_str());
    match job.trigger.next_fire_time(None, now) {
        None if job.trigger.asked().is_some() => Ok(said),
        None => Err(Error::NeverFires(job.trigger.to_string())),
        next => Ok(next),
    }
}

impl Table {
    pub(super) fn change(&mut self, now: DateTime<Utc>, change: Change) -> Result<Reply> {
        match change {
            Change::Add { job, paused, conflict, first } => self.add(now, *job, paused, conflict, first),
            Change::Modify { base, job, first } => self.modify(now, &base, *job, first),
            Change::Remove { id } => self.remove(now, &id).map(|()| Reply::Done),
            Change::Pause { id } => self.pause(now, &id),
            Change::Resume { id } => self.resume(now, &id),
            Change::Run { id, arguments } => self.run_now(now, &id, arguments),
            Change::Cancel { run } => self.cancel_promised(now, run),
            Change::Backfill { id, range } => self.backfill(now, &id, range),
            Change::Answer { job, question, answer } => self.answer(now, &job, question, answer),
            Change::Quarantine { id, reason } => self.quarantine(now, &id, reason),
            Change::ClearValues { id } => {
                self.state(&id)?;
                self.delta.touched.insert(id.clone());
                self.delta.values.push((id.clone(), None));
                self.reply(&id)
            }
            Change::Release { id } => {
                let state = self.state(&id)?;
                if state.quarantine.take().is_some() {
                    self.delta.touched.insert(id.clone());
                    if let Some(entry) = self.jobs.get_mut(&id) {
                        entry.waiting = false;
                    }
                    self.ask_again(&id);
                    self.reindex(&id);
                    let event = told(EventKind::JobResumed, now).job(&id);
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

    fn add(
        &mut self,
        now: DateTime<Utc>,
        mut job: Job,
        paused: bool,
        conflict: Conflict,
        first: Option<DateTime<Utc>>,
    ) -> Result<Reply> {
        let id = job.id.clone();
        if self.jobs.contains_key(&id) {
            match conflict {
                Conflict::Refuse => return Err(Error::JobExists(id)),
                // One that is on its way out is not kept.
                Conflict::Keep if self.state(&id)?.leaving == Some(RemoveReason::Removed) => {
                    return Err(Error::JobExists(id));
                }
                Conflict::Keep => return self.reply(&id),
                Conflict::Replace => {}
            }
        }
        let next_run_time = settle_trigger(&mut job, now, first)?;
        self.cancel_pending(now, &id);
        let running = self.detach(&id).map(|state| state.running).unwrap_or_default();
        let mut state = JobState { paused, next_run_time, running, ..JobState::default() };
        state.expect_success(&job, now);
        self.define(job, state);
        self.record(told(EventKind::JobAdded, now).job(&id));
        self.reply(&id)
    }

    fn modify(
        &mut self,
        now: DateTime<Utc>,
        base: &Arc<Job>,
        mut job: Job,
        first: Option<DateTime<Utc>>,
    ) -> Result<Reply> {
        let id = job.id.clone();
        let entry = self.jobs.get_mut(&id).ok_or_else(|| Error::JobNotFound(id.clone()))?;
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
            state.next_run_time = settle_trigger(&mut job, now, first)?;
            // One that is claimed ahead is not claimed again; if it is withdrawn, it comes back.
            let ahead = state.running.iter().map(|run| run.scheduled_time).filter(|at| *at > now).max();
            if let Some(ahead) = ahead.filter(|ahead| state.next_run_time.is_some_and(|next| next <= *ahead)) {
                state.next_run_time = job.trigger.next_fire_time(Some(ahead), ahead);
            }
            (state.carried, state.backlog_until, state.started, state.question) = Default::default();
        }
        if job.expect != base.expect {
            state.expect_success(&job, now);
        }
        self.detach(&id);
        self.define(job, state);
        self.record(told(EventKind::JobModified, now).job(&id));
        self.reply(&id)
    }

    fn define(&mut self, job: Job, state: JobState) {
        let (id, job) = (job.id.clone(), Arc::new(job));
        self.promised.extend(state.pending.iter().map(|run| (run.id, id.clone())));
        let entry = Entry::new(job.clone(), state);
        let asking = entry.state.question.is_some();
        self.jobs.insert(id.clone(), entry);
        self.delta.touched.insert(id.clone());
        self.delta.defined.insert(id.clone());
        if asking {
            self.unasked.insert(id.clone());
        } else {
            self.ask_after(&job, None);
        }
        self.reindex(&id);
    }

    /// Asks a plugin once more, if its last question was not answered.
    fn ask_again(&mut self, id: &JobId) {
        if self.jobs.get_mut(id).is_some_and(|entry| entry.state.question.is_some()) {
            self.unasked.insert(id.clone());
        }
    }

    fn remove(&mut self, now: DateTime<Utc>, id: &JobId) -> Result<()> {
        self.state(id)?;
        self.cancel_pending(now, id);
        let state = self.state(id)?;
        state.leaving = Some(RemoveReason::Removed);
        (state.next_run_time, state.backfill, state.question, state.expected_by) = Default::default();
        self.delta.touched.insert(id.clone());
        self.leave_if_exhausted(now, id);
        self.reindex(id);
        Ok(())
    }

    /// Attempts that were promised and will not come end as cancelled runs.
    fn cancel_pending(&mut self, now: DateTime<Utc>, id: &JobId) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        for pending in std::mem::take(&mut entry.state.pending) {
            self.end_promised(now, id, pending);
        }
    }

    fn end_promised(&mut self, now: DateTime<Utc>, id: &JobId, pending: PendingRun) {
        self.promised.remove(&pending.id);
        if pending.arguments.is_some() {
            self.delta.arguments.insert(pending.id, None);
        }
        let Some(mut run) = self.run_of(id, &pending.into()) else { return };
        run.end(now, Outcome::Cancelled);
        self.record(told(EventKind::JobCancelled, now).run(&run));
        self.record(told(EventKind::JobError, now).run(&run));
        self.delta.ended.push((run, RunLogs::default()));
    }

    /// Cancels a run that waits for its time or for a slot, or that goes on in another process.
    fn cancel_promised(&mut self, now: DateTime<Utc>, run: RunId) -> Result<Reply> {
        if self.epoch.is_some() && self.live.contains_key(&run) {
            self.delta.cancelled.push(run);
            return Ok(Reply::Done);
        }
        let id = self.promised.get(&run).cloned().ok_or(Error::RunEnded(run))?;
        let state = self.state(&id)?;
        if let Some(at) = state.pending.iter().position(|pending| pending.id == run) {
            let pending = state.pending.remove(at);
            self.end_promised(now, &id, pending);
        }
        self.delta.touched.insert(id.clone());
        self.leave_if_exhausted(now, &id);
        self.reindex(&id);
        Ok(Reply::Done)
    }

    fn pause(&mut self, now: DateTime<Utc>, id: &JobId) -> Result<Reply> {
        let state = self.state(id)?;
        if !state.paused {
            state.paused = true;
            state.expected_by = None;
            self.delta.touched.insert(id.clone());
            self.reindex(id);
            self.record(told(EventKind::JobPaused, now).job(id));
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
        self.record(told(EventKind::JobResumed, now).job(id));
        if let Some(entry) = self.jobs.get_mut(id)
            && let Some(job) = entry.job.clone()
        {
            let (passed, next) = passed_over(&job, &entry.state, now);
            let before = entry.state.next_run_time;
            entry.state.next_run_time = next;
            (entry.state.carried, entry.state.backlog_until) = Default::default();
            entry.state.expect_success(&job, now);
            if let Some(times) = passed {
                self.skip(now, &job, times, Outcome::Skipped { reason: SkipReason::Paused });
                self.ask_after(&job, before);
            }
            self.ask_again(id);
        }
        let reply = self.reply(id);
        self.leave_if_exhausted(now, id);
        self.reindex(id);
        reply
    }

    fn run_now(&mut self, now: DateTime<Utc>, id: &JobId, arguments: Option<Arc<Arguments>>) -> Result<Reply> {
        let run = self.next_id(now);
        let state = self.reachable(id)?;
        if state.pending.len() >= PENDING_MAX {
            return Err(Error::Busy { max: PENDING_MAX });
        }
        let origin = Origin::Manual;
        self.promise(id, PendingRun { id: run, scheduled_time: now, attempt: 1, due: now, origin, arguments });
        self.reindex(id);
        Ok(Reply::Run(run))
    }

    /// The state of a job that can be asked for runs.
    fn reachable(&mut self, id: &JobId) -> Result<&mut JobState> {
        let state = self.state(id)?;
        if let Some(reason) = &state.quarantine {
            return Err(Invalid::new("run", id.as_str(), format!("the job is quarantined: {reason}")).into());
        }
        if state.leaving == Some(RemoveReason::Removed) {
            return Err(Error::JobNotFound(id.clone()));
        }
        Ok(state)
    }

    /// Begins a backfill, or ends the one that goes on.
    fn backfill(
        &mut self,
        now: DateTime<Utc>,
        id: &JobId,
        range: Option<(DateTime<Utc>, DateTime<Utc>)>,
    ) -> Result<Reply> {
        let state = self.reachable(id)?;
        let detail = match range {
            Some(_) if state.backfill.is_some() => {
                let reason = "one goes on already";
                return Err(Invalid::new("backfill", id.as_str(), reason).hint("wait for it, or cancel it").into());
            }
            Some((from, until)) => {
                state.backfill = Some(Backfill { next: from, until });
                format!("a backfill from {} until {} begins", from.to_rfc3339(), until.to_rfc3339())
            }
            None if state.backfill.take().is_none() => {
                return Err(Invalid::new("backfill", id.as_str(), "none goes on").into());
            }
            None => "its backfill is cancelled".to_owned(),
        };
        self.delta.touched.insert(id.clone());
        self.record(told(EventKind::JobModified, now).job(id).detail(detail));
        let reply = self.reply(id);
        self.leave_if_exhausted(now, id);
        self.reindex(id);
        reply
    }

    /// Takes a plugin's answer for what it is: the next run time, the end of the job, or a reason to
    /// stop it. One to a question that is not open any more changes nothing.
    fn answer(&mut self, now: DateTime<Utc>, job: &Arc<Job>, question: Question, answer: Answer) -> Result<Reply> {
        let id = &job.id;
        let Some(entry) = self.jobs.get_mut(id) else { return Ok(Reply::Done) };
        let asked = entry.job.as_ref().is_some_and(|known| known.trigger == job.trigger);
        if !asked || entry.state.question != Some(question) {
            return Ok(Reply::Done);
        }
        match answer {
            Answer::Next(next) => {
                (entry.state.question, entry.state.next_run_time) = (None, next);
                self.delta.touched.insert(id.clone());
            }
            Answer::Gone(reason) => {
                self.quarantine(now, id, reason)?;
            }
            Answer::Broken(reason) => {
                (entry.state.paused, entry.state.expected_by) = (true, None);
                self.delta.touched.insert(id.clone());
                self.record(told(EventKind::JobPaused, now).job(id).detail(reason));
            }
        }
        self.leave_if_exhausted(now, id);
        self.reindex(id);
        Ok(Reply::Done)
    }

    pub(super) fn quarantine(&mut self, now: DateTime<Utc>, id: &JobId, mut reason: String) -> Result<Reply> {
        // It is part of the job's row, which is to stay small.
        crate::run::cut(&mut reason, REASON_BYTES_MAX);
        let state = self.state(id)?;
        if state.quarantine.as_ref() != Some(&reason) {
            state.quarantine = Some(reason.clone());
            self.delta.touched.insert(id.clone());
            self.reindex(id);
            self.record(told(EventKind::JobQuarantined, now).job(id).detail(reason));
        }
        self.reply(id)
    }
}
