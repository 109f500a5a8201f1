//! What a turn sees to besides claiming: plugins to ask, jobs that are late, and the watchdog.

use super::{Table, Turned, VISITS_MAX};
use crate::event::{Event, EventKind};
use crate::job::{Job, JobId, Question, Status};
use crate::store::Asked;
use chrono::{DateTime, TimeDelta, Utc};

/// Questions to plugins that one turn asks.
const QUESTIONS_MAX: usize = 32;
/// Jobs that the watchdog looks at in one turn, and how often it does.
const WATCHED_MAX: usize = 4096;
const WATCH_EVERY: TimeDelta = TimeDelta::seconds(1);

impl Table {
    /// Opens the question for the fire time after `previous`, if a plugin decides it.
    pub(super) fn ask_after(&mut self, job: &Job, previous: Option<DateTime<Utc>>) {
        let Some(entry) = self.jobs.get_mut(&job.id) else { return };
        let used_up = job.trigger.runs_max().is_some_and(|most| entry.state.started >= most);
        if job.trigger.asked().is_some() && entry.state.next_run_time.is_none() && !used_up {
            entry.state.question = Some(Question { previous });
            self.unasked.insert(job.id.clone());
        }
    }

    /// Hands out questions to triggers that are plugins.
    pub(super) fn ask(&mut self, turned: &mut Turned) {
        while turned.questions.len() < QUESTIONS_MAX
            && let Some(id) = self.unasked.pop_first()
        {
            if let Some(entry) = self.jobs.get_mut(&id)
                && let (Some(question), Some(job), Status::Active) =
                    (entry.state.question, &entry.job, entry.state.status())
            {
                turned.questions.push(Asked { job: job.clone(), question });
            }
        }
        turned.starved |= !self.unasked.is_empty();
    }

    /// Tells of jobs that have not succeeded in time.
    pub(super) fn sound_alarms(&mut self, now: DateTime<Utc>) {
        for _ in 0..VISITS_MAX {
            let Some((_, id)) = self.alarms.first().filter(|(at, _)| *at <= now).cloned() else { return };
            if let Some(entry) = self.jobs.get_mut(&id) {
                let expected = entry.state.expected_by.take();
                entry.state.late = true;
                self.delta.touched.insert(id.clone());
                let event = Event::new(EventKind::JobLate, now, self.alias.clone()).job(&id);
                let by = expected.unwrap_or(now).to_rfc3339();
                self.record(event.detail(format!("no run has succeeded in time, which was {by}")));
            }
            self.reindex(&id);
        }
    }

    /// Has jobs looked at whose own fire time has come while they wait for something else: it may be
    /// more urgent, or cancel or skip what its policy says.
    pub(super) fn wake(&mut self, now: DateTime<Utc>) {
        for _ in 0..VISITS_MAX {
            let Some((at, id)) = self.wakes.first().filter(|(at, _)| *at <= now).cloned() else { return };
            self.wakes.remove(&(at, id.clone()));
            if let Some(entry) = self.jobs.get_mut(&id) {
                (entry.wake, entry.waiting) = (None, false);
            }
            self.reindex(&id);
        }
    }

    /// Looks at some of the jobs, each in its time: one that is active has a next run time and its
    /// place in line. What is not so is a fault of ours or of the disk; it is mended and reported.
    pub(super) fn watch(&mut self, now: DateTime<Utc>) {
        if self.watched.is_none_or(|last| (now - last).abs() < WATCH_EVERY) {
            return;
        }
        self.watched = Some(now);
        let after = self.watch_after.take();
        let mut amiss = Vec::new();
        let mut last = None;
        for (id, watched) in self.jobs.watched(after.as_ref()).take(WATCHED_MAX) {
            last = Some(id);
            if watched.lost || watched.out_of_line {
                amiss.push((id.clone(), watched.lost));
            }
        }
        self.watch_after = last.filter(|_| self.jobs.len() > WATCHED_MAX).cloned();
        for (id, lost) in amiss {
            self.mend(now, &id, lost);
        }
    }

    fn mend(&mut self, now: DateTime<Utc>, id: &JobId, lost: bool) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        entry.waiting = false;
        let mut detail = "it had no place in line, and has one again".to_owned();
        if let Some(job) = entry.job.clone().filter(|_| lost) {
            entry.state.next_run_time = job.trigger.next_fire_time(None, now);
            let next = entry.state.next_run_time.map_or("nothing".to_owned(), |at| at.to_rfc3339());
            detail = format!("it had no next run time; by its trigger that is {next}");
            self.ask_after(&job, None);
        }
        self.delta.touched.insert(id.clone());
        self.record(Event::new(EventKind::StoreError, now, self.alias.clone()).job(id).detail(detail));
        self.leave_if_exhausted(now, id);
        self.reindex(id);
    }

    /// Tells of a job whose definition could not be decoded when its time came.
    pub(super) fn report_broken(&mut self, now: DateTime<Utc>, id: &JobId) {
        let Some(reason) = self.jobs.get_mut(id).and_then(|entry| entry.state.quarantine.clone()) else { return };
        self.delta.touched.insert(id.clone());
        self.record(Event::new(EventKind::JobQuarantined, now, self.alias.clone()).job(id).detail(reason));
        self.reindex(id);
    }
}
