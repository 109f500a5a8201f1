//! Claiming what is due: whose turn it is in the line of each executor, and what of a job starts.

use super::{Claimed, Entry, TURN_RUNS_MAX, Table, Turned, VISITS_MAX, told};
use crate::event::EventKind;
use crate::job::{Alias, Job, JobId, Origin, PendingRun, RunningRun, Status};
use crate::plan::{FireTimes, plan, plan_backfill};
use crate::run::{Outcome, RunLogs, SkipReason};
use crate::store::Claim;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Table {
    /// Starts runs that callers asked for, ahead of what is due by itself.
    pub(super) fn claim_manual(
        &mut self,
        now: DateTime<Utc>,
        claim: Claim,
        slots: &mut BTreeMap<Alias, usize>,
        turned: &mut Turned,
    ) {
        let is_due = |entry: &&Entry| entry.state.manual_due().is_some_and(|due| due <= now);
        let is_free = |entry: &Entry| slots.get(&entry.executor).is_none_or(|free| *free > 0);
        let (mut asked, mut without_slot) = (Vec::new(), false);
        for id in &self.manual {
            match self.jobs.warm(id).filter(is_due).map(is_free) {
                Some(true) if asked.len() < TURN_RUNS_MAX => asked.push(id.clone()),
                Some(false) => without_slot = true,
                _ => {}
            }
        }
        turned.starved |= without_slot;
        for id in asked {
            let left = TURN_RUNS_MAX.saturating_sub(turned.claimed.len());
            self.claim_pending(now, &id, (claim, left), slots, turned);
            self.reindex(&id);
        }
    }

    pub(super) fn claim_due(&mut self, now: DateTime<Utc>, slots: &mut BTreeMap<Alias, usize>, turned: &mut Turned) {
        let mut executors: Vec<Alias> = slots.keys().cloned().collect();
        // Another one begins each time: a flooded one would use up every turn.
        let first = now.timestamp_millis().unsigned_abs() as usize % executors.len().max(1);
        executors.rotate_left(first);
        let lacks = |alias: &Alias| self.lacking.as_ref().is_none_or(|lacking| lacking.contains(alias));
        executors
            .extend(self.queues.executors().into_iter().filter(|alias| !slots.contains_key(alias) && lacks(alias)));
        for alias in executors {
            let priority = |id: &JobId| self.jobs.urgency(id, now);
            for (id, place) in self.queues.advance(&alias, now, priority) {
                self.jobs.set_place(&id, place);
            }
            for _ in 0..VISITS_MAX {
                let left = TURN_RUNS_MAX.saturating_sub(turned.claimed.len());
                let Some((id, in_line)) = self.queues.first(&alias, now).filter(|_| left > 0) else { break };
                let id = id.clone();
                match slots.get(&alias) {
                    Some(0) => break,
                    Some(free) => self.visit(now, &id, (free / in_line).clamp(1, left), slots, turned),
                    None => {
                        self.leave_line(&id);
                        let _ = self.quarantine(now, &id, format!("no executor `{alias}`"));
                    }
                }
            }
        }
    }

    /// Decides about a job that is first in line: at most `share` runs of it start.
    fn visit(
        &mut self,
        now: DateTime<Utc>,
        id: &JobId,
        share: usize,
        slots: &mut BTreeMap<Alias, usize>,
        turned: &mut Turned,
    ) {
        self.leave_line(id);
        let before = turned.claimed.len();
        self.claim_pending(now, id, (Claim::Due, share), slots, turned);
        let left = share.saturating_sub(turned.claimed.len() - before);
        self.claim_fire_times(now, id, left, slots, turned);
        let left = share.saturating_sub(turned.claimed.len() - before);
        self.claim_backfill(now, id, left, slots, turned);
        self.leave_if_exhausted(now, id);
        self.reindex(id);
    }

    /// So that it goes to the end of the line when it is put there again.
    pub(super) fn leave_line(&mut self, id: &JobId) {
        if let Some(entry) = self.jobs.get_mut(id) {
            self.queues.take(&entry.executor, id, std::mem::take(&mut entry.place));
        }
    }

    /// Starts attempts of one job that wait and whose time has come.
    fn claim_pending(
        &mut self,
        now: DateTime<Utc>,
        id: &JobId,
        (claim, share): (Claim, usize),
        slots: &mut BTreeMap<Alias, usize>,
        turned: &mut Turned,
    ) {
        for _ in 0..share {
            let Some(entry) = self.jobs.get_mut(id) else { return };
            let (Some(job), status) = (entry.job.clone(), entry.state.status()) else { return };
            let ready = |run: &PendingRun| {
                let wanted = match run.origin {
                    Origin::Manual => true,
                    Origin::Backfill => claim == Claim::Due,
                    Origin::Trigger => claim == Claim::Due && status != Status::Paused,
                };
                run.due <= now && wanted && status != Status::Quarantined
            };
            let Some(at) = entry.state.pending.iter().position(ready) else { break };
            if entry.state.running.len() >= job.max_instances as usize {
                entry.waiting = true;
                break;
            }
            let Some(slot) = slots.get_mut(&job.executor) else { break };
            if *slot == 0 {
                turned.starved = true;
                break;
            }
            *slot -= 1;
            let pending = entry.state.pending.remove(at);
            self.promised.remove(&pending.id);
            self.begin(now, &job, pending.into(), turned);
        }
    }

    fn claim_fire_times(
        &mut self,
        now: DateTime<Utc>,
        id: &JobId,
        share: usize,
        slots: &mut BTreeMap<Alias, usize>,
        turned: &mut Turned,
    ) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        let Some(job) = entry.job.clone().filter(|_| entry.state.status() == Status::Active) else { return };
        let Some(slot) = slots.get_mut(&job.executor).filter(|free| **free > 0 && share > 0) else { return };
        let plan = plan(&job, &entry.state, now, share.min(*slot));
        if plan.wait {
            entry.waiting = true;
            if plan.cancel_oldest {
                turned.cancel.extend(entry.state.running.first().map(|run| run.id));
            }
            return;
        }
        *slot -= plan.start.len();
        let fired = entry.state.next_run_time;
        entry.state.next_run_time = plan.next_run_time;
        entry.state.carried = plan.carried;
        entry.state.started += plan.start.len() as u64;
        entry.state.backlog_until = plan.backlog_until;
        self.delta.touched.insert(id.clone());
        for (times, outcome) in plan.skipped {
            self.skip(now, &job, times, outcome);
        }
        for FireTimes { scheduled_time, coalesced } in plan.start {
            let (id, origin) = (self.next_id(now), Origin::Trigger);
            let run = RunningRun { id, scheduled_time, attempt: 1, origin, coalesced, arguments: None };
            self.begin(now, &job, run, turned);
        }
        self.ask_after(&job, fired);
    }

    /// Starts runs of a past range, when nothing else of the job is due.
    fn claim_backfill(
        &mut self,
        now: DateTime<Utc>,
        id: &JobId,
        share: usize,
        slots: &mut BTreeMap<Alias, usize>,
        turned: &mut Turned,
    ) {
        for _ in 0..share {
            let Some(entry) = self.jobs.get_mut(id) else { return };
            let Some(job) = entry.job.clone() else { return };
            let idle = entry.state.own_due(&job).is_none_or(|due| due > now);
            let Some(backfill) = entry.state.backfill.filter(|_| idle && entry.state.may_backfill()) else { return };
            if entry.state.running.len() >= job.max_instances as usize {
                entry.waiting = true;
                return;
            }
            let Some(slot) = slots.get_mut(&job.executor).filter(|free| **free > 0) else { return };
            let (start, rest) = plan_backfill(&job, backfill);
            entry.state.backfill = rest;
            self.delta.touched.insert(id.clone());
            if let Some(scheduled_time) = start {
                *slot -= 1;
                let (id, origin) = (self.next_id(now), Origin::Backfill);
                let run = RunningRun { id, scheduled_time, attempt: 1, origin, coalesced: 0, arguments: None };
                self.begin(now, &job, run, turned);
            }
        }
    }

    /// Records a claimed run.
    fn begin(&mut self, now: DateTime<Utc>, job: &Arc<Job>, running: RunningRun, turned: &mut Turned) {
        let Some(run) = self.run_of(&job.id, &running) else { return };
        let called = match &running.arguments {
            Some(arguments) => Arc::new(job.with_arguments(arguments)),
            None => job.clone(),
        };
        if let Some(entry) = self.jobs.get_mut(&job.id) {
            entry.state.running.push(running);
        }
        self.delta.touched.insert(job.id.clone());
        self.record(told(EventKind::JobSubmitted, now).run(&run));
        self.live.insert(run.id, run.clone());
        turned.claimed.push(Claimed { run, job: called, values: Arc::default() });
    }

    /// Records fire times that end without starting.
    pub(super) fn skip(&mut self, now: DateTime<Utc>, job: &Arc<Job>, times: FireTimes, outcome: Outcome) {
        let id = self.next_id(now);
        let FireTimes { scheduled_time, coalesced } = times;
        let origin = Origin::Trigger;
        let running = RunningRun { id, scheduled_time, attempt: 1, origin, coalesced, arguments: None };
        let Some(mut run) = self.run_of(&job.id, &running) else { return };
        let kind = match &outcome {
            Outcome::Missed => EventKind::JobMissed,
            Outcome::Skipped { reason: SkipReason::MaxInstances } => EventKind::JobMaxInstances,
            _ => EventKind::JobSkipped,
        };
        run.end(now, outcome);
        self.record(told(kind, now).run(&run));
        self.delta.ended.push((run, RunLogs::default()));
    }
}
