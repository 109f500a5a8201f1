//! Claiming ahead: a run that starts soon is claimed already, so that its start waits for no database.
//! Nobody is told of it before it starts, and until then it can be withdrawn without a trace.

use super::{Claimed, TURN_RUNS_MAX, Table, Turned};
use crate::job::{Alias, JobId, Origin, RemoveReason, RunningRun, Status};
use crate::plan::plan;
use crate::run::RunId;
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, BTreeSet};

impl Table {
    /// Claims what is due by itself until `until`, with half of the slots that are free: what turns up
    /// meanwhile wants one now.
    pub(super) fn claim_ahead(
        &mut self,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
        slots: &mut BTreeMap<Alias, usize>,
        turned: &mut Turned,
    ) {
        for (executor, free) in slots {
            let share = (*free / 2).min(TURN_RUNS_MAX.saturating_sub(turned.claimed.len()));
            for (at, id) in self.queues.soon(executor, now, until, share) {
                if self.claim_at(now, &id, at, turned) {
                    *free -= 1;
                }
            }
        }
    }

    /// Claims the run of a job's next fire time, if that is all there is to decide then.
    fn claim_at(&mut self, now: DateTime<Utc>, id: &JobId, at: DateTime<Utc>, turned: &mut Turned) -> bool {
        let Some(entry) = self.jobs.get_mut(id) else { return false };
        let Some(job) = entry.job.clone() else { return false };
        let state = &entry.state;
        let plain = state.running.is_empty()
            && state.pending.is_empty()
            && state.backfill.is_none()
            && state.backlog_until.is_none()
            && state.status() == Status::Active;
        if !plain || state.own_fire(&job) != Some(at) || job.trigger.asked().is_some() {
            return false;
        }
        let plan = plan(&job, state, at, 1);
        let ([times], []) = (plan.start.as_slice(), plan.skipped.as_slice()) else { return false };
        let (scheduled_time, coalesced) = (times.scheduled_time, times.coalesced);
        entry.state.next_run_time = plan.next_run_time;
        entry.state.started += 1;
        let (id, origin) = (self.next_id(now), Origin::Trigger);
        let running = RunningRun { id, scheduled_time, attempt: 1, origin, coalesced, arguments: None };
        let Some(mut run) = self.run_of(&job.id, &running) else { return false };
        run.starts = Some(at);
        if let Some(entry) = self.jobs.get_mut(&job.id) {
            entry.state.running.push(running);
        }
        self.delta.touched.insert(job.id.clone());
        self.live.insert(run.id, run.clone());
        self.leave_if_exhausted(now, &job.id);
        self.reindex(&job.id);
        turned.claimed.push(Claimed { run, job, values: Default::default() });
        true
    }

    /// Makes a run that was claimed ahead, and has not started, as if it had not been claimed.
    pub(super) fn withdraw(&mut self, now: DateTime<Utc>, run: RunId) {
        let Some(run) = self.live.get(&run).filter(|run| run.starts.is_some()).cloned() else { return };
        self.live.remove(&run.id);
        self.delta.withdrawn.push(run.id);
        let Some(entry) = self.jobs.get_mut(&run.job_id) else { return };
        entry.state.running.retain(|running| running.id != run.id);
        let job = entry.job.clone();
        let fires = job.is_some_and(|job| job.trigger.fires_at(run.scheduled_time));
        if fires && entry.state.leaving != Some(RemoveReason::Removed) {
            entry.state.leaving = None;
            let next = entry.state.next_run_time;
            entry.state.next_run_time = Some(next.map_or(run.scheduled_time, |next| next.min(run.scheduled_time)));
            entry.state.started = entry.state.started.saturating_sub(1);
        }
        self.delta.touched.insert(run.job_id.clone());
        self.leave_if_exhausted(now, &run.job_id);
        self.reindex(&run.job_id);
    }

    /// Has runs withdrawn whose job has been paused, changed or removed since they were claimed ahead.
    pub(super) fn recall(&mut self, turned: &mut Turned) {
        let held: Vec<RunId> = self.live.values().filter(|run| run.starts.is_some()).map(|run| run.id).collect();
        let new: BTreeSet<RunId> = turned.claimed.iter().map(|claimed| claimed.run.id).collect();
        for run in held.into_iter().filter(|run| !new.contains(run)) {
            let Some(run) = self.live.get(&run) else { continue };
            let as_it_was = self.jobs.warm(&run.job_id).is_some_and(|entry| {
                let goes = matches!(entry.state.status(), Status::Active | Status::Finished);
                let removed = entry.state.leaving == Some(RemoveReason::Removed);
                goes && !removed && !self.delta.defined.contains(&run.job_id) && !self.changed.contains(&run.job_id)
            });
            if !as_it_was {
                turned.recalled.push(run.id);
            }
        }
    }
}
