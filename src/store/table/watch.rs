//! What a turn sees to besides claiming: plugins to ask, jobs that are late, and the watchdog.

use super::{Table, Turned, VISITS_MAX, told};
use crate::event::EventKind;
use crate::job::{Alias, Job, JobId, Question, Status};
use crate::store::Asked;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;

/// Questions to plugins that one turn asks.
const QUESTIONS_MAX: usize = 32;
/// Jobs that the watchdog looks at for each second that has passed, and in one turn at most.
const WATCHED_A_SECOND: usize = 64;
const WATCHED_MAX: usize = 4096;

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

    /// Hands out questions to triggers that are plugins. Those of executors that other nodes have are
    /// left to them.
    pub(super) fn ask(&mut self, slots: &BTreeMap<Alias, usize>, turned: &mut Turned) {
        let mut elsewhere = Vec::new();
        while turned.questions.len() < QUESTIONS_MAX
            && let Some(id) = self.unasked.pop_first()
        {
            if let Some(entry) = self.jobs.get_mut(&id)
                && let (Some(question), Some(job), Status::Active) =
                    (entry.state.question, &entry.job, entry.state.status())
            {
                match self.lacking.is_none() || slots.contains_key(&job.executor) {
                    true => turned.questions.push(Asked { job: job.clone(), question }),
                    false => elsewhere.push(id),
                }
            }
        }
        turned.starved |= !self.unasked.is_empty();
        self.unasked.extend(elsewhere);
    }

    /// Tells of jobs that have not succeeded in time.
    pub(super) fn sound_alarms(&mut self, now: DateTime<Utc>) {
        for _ in 0..VISITS_MAX {
            let Some((_, id)) = self.alarms.first().filter(|(at, _)| *at <= now).cloned() else { return };
            if let Some(entry) = self.jobs.get_mut(&id) {
                let expected = entry.state.expected_by.take();
                entry.state.late = true;
                self.delta.touched.insert(id.clone());
                let event = told(EventKind::JobLate, now).job(&id);
                let by = expected.unwrap_or(now).to_rfc3339();
                self.record(event.detail(format!("a run should have succeeded by {by}, and none has")));
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
        let Some(last) = self.watched else { return };
        // Whichever way the clock went.
        let seconds = usize::try_from((now - last).abs().num_seconds()).unwrap_or(usize::MAX);
        if seconds == 0 {
            return;
        }
        self.watched = Some(now);
        let most = seconds.saturating_mul(WATCHED_A_SECOND).min(WATCHED_MAX);
        let after = self.watch_after.take();
        let mut amiss = Vec::new();
        let mut last = None;
        for (id, watched) in self.jobs.watched(after.as_ref()).take(most) {
            last = Some(id);
            if watched.lost || watched.out_of_line {
                amiss.push((id.clone(), watched.lost));
            }
        }
        self.watch_after = last.filter(|_| self.jobs.len() > most).cloned();
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
        self.record(told(EventKind::StoreError, now).job(id).detail(detail));
        self.leave_if_exhausted(now, id);
        self.reindex(id);
    }

    /// Tells of a job whose definition could not be decoded when its time came.
    pub(super) fn report_broken(&mut self, now: DateTime<Utc>, id: &JobId) {
        let Some(reason) = self.jobs.get_mut(id).and_then(|entry| entry.state.quarantine.clone()) else { return };
        self.delta.touched.insert(id.clone());
        self.record(told(EventKind::JobQuarantined, now).job(id).detail(reason));
        self.reindex(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobState;
    use crate::store::row::{self, Standing};
    use crate::store::{Claim, Turn};
    use crate::trigger::Trigger;
    use std::sync::Arc;
    use std::time::Duration;

    fn time(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn job() -> Arc<Job> {
        let trigger = Trigger::every(Duration::from_secs(10)).unwrap().anchored(time(0));
        Arc::new(Job::new("a".parse().unwrap(), "m:f".parse().unwrap(), trigger))
    }

    fn due(seconds: i64) -> Turn {
        let slots = BTreeMap::from([(Alias::default(), 4)]);
        Turn { now: time(seconds), claim: Claim::Due, slots, ..Turn::default() }
    }

    #[test]
    fn an_active_job_without_a_next_run_time_gets_one_and_it_is_told() {
        let mut table = Table::new(Alias::default(), "n".into(), 1);
        let job = job();
        table.restore(job.id.clone(), Some(job.clone()), JobState::default(), None);
        let (turned, delta) = table.turn(due(5));
        let told = &turned.events[0];
        assert_eq!((told.kind, &told.job_id), (EventKind::StoreError, &Some(job.id.clone())));
        assert!(told.detail.as_ref().unwrap().contains("had no next run time"), "{told:?}");
        assert_eq!(table.get(&job.id).unwrap().state.next_run_time, Some(time(10)));
        assert!(delta.touched.contains(&job.id), "and it is stored");
        assert_eq!(table.turn(due(10)).0.claimed.len(), 1, "it fires again");
    }

    #[test]
    fn a_sound_job_is_left_alone() {
        let mut table = Table::new(Alias::default(), "n".into(), 1);
        let state = JobState { next_run_time: Some(time(10)), ..JobState::default() };
        table.restore(job().id.clone(), Some(job()), state, None);
        assert!(table.turn(due(5)).0.events.is_empty());
    }

    #[test]
    fn a_job_whose_definition_cannot_be_decoded_is_quarantined_when_it_is_due() {
        let broken = Arc::new(|_: &JobId| Err("its definition cannot be decoded".to_owned()));
        let mut table = Table::new(Alias::default(), "n".into(), 1).with_definitions(broken, 10);
        let state = JobState { next_run_time: Some(time(10)), ..JobState::default() };
        let standing = Standing { executor: Alias::default(), priority: 0, due: Some(time(10)) };
        let id: JobId = "a".parse().unwrap();
        assert!(table.restore_row(&id, &row::encode(&state, &standing), &state, &standing));
        assert!(table.turn(due(5)).0.events.is_empty(), "nobody needed it yet");
        let (turned, _) = table.turn(due(10));
        assert_eq!((turned.claimed.len(), turned.events[0].kind), (0, EventKind::JobQuarantined));
        assert_eq!(table.get(&id).unwrap().state.status(), Status::Quarantined, "it is kept and shown");
        assert_eq!(table.turn(due(20)).0.next_due, None, "and holds up nobody");
    }
}
