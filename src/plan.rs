//! What to do about one job at one instant. Pure: the whole of misfire, coalesce, catch-up and
//! overlap is decided here, and every store and the simulator ask this one function.

use crate::job::{Backfill, Carried, Coalesce, Job, JobState, Overlap};
use crate::run::{Outcome, SkipReason};
use crate::trigger::NextTime;
use chrono::{DateTime, TimeDelta, Utc};

/// Fire times that one plan lists; a longer backlog is carried over to the next plan.
pub const PLAN_FIRE_TIMES_MAX: usize = 100_000;

/// One or more fire times that share a fate: the one that stands for them, and how many more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FireTimes {
    pub scheduled_time: DateTime<Utc>,
    pub coalesced: u64,
}

impl FireTimes {
    fn of(scheduled_time: DateTime<Utc>, count: u64) -> Self {
        FireTimes { scheduled_time, coalesced: count - 1 }
    }

    /// How many fire times these are.
    pub fn count(&self) -> u64 {
        1 + self.coalesced
    }
}

/// The answer. Every fire time from the job's `next_run_time` to now is in exactly one place:
/// started, skipped, carried, or not yet passed by the new `next_run_time`. (After the last of a
/// trigger's `max_runs` there are no fire times.)
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub start: Vec<FireTimes>,
    /// Fire times that end at once, with their outcome.
    pub skipped: Vec<(FireTimes, Outcome)>,
    pub next_run_time: Option<DateTime<Utc>>,
    pub carried: Carried,
    pub backlog_until: Option<DateTime<Utc>>,
    /// Nothing can be decided before a run of the job ends.
    pub wait: bool,
    /// And the oldest run should be made to end.
    pub cancel_oldest: bool,
}

/// Decides what happens to the fire times of `job` that are due at `now`, with `slots` free slots
/// (at least one) in its executor.
pub fn plan(job: &Job, state: &JobState, now: DateTime<Utc>, slots: usize) -> Plan {
    let mut plan = Plan {
        start: Vec::new(),
        skipped: Vec::new(),
        next_run_time: state.next_run_time,
        carried: state.carried,
        backlog_until: state.backlog_until,
        wait: false,
        cancel_oldest: false,
    };
    let Some(first) = state.next_run_time.filter(|first| job.start_time(*first) <= now) else { return plan };
    if !is_fire_time(job, first) {
        plan.next_run_time = following(job, first, now).0;
        return plan;
    }
    let runs_left = job.trigger.runs_max().map_or(u64::MAX, |most| most.saturating_sub(state.started));
    if runs_left == 0 {
        plan.next_run_time = None;
        return plan;
    }
    let free = (job.max_instances as usize).saturating_sub(state.running.len());
    let overlap = if state.backlog_until.is_some_and(|until| first <= until) { Overlap::Queue } else { job.overlap };
    if free == 0 && overlap != Overlap::Skip {
        plan.wait = true;
        plan.cancel_oldest = overlap == Overlap::Cancel;
        return plan;
    }

    let due = Due::list(job, first, now);
    plan.next_run_time = due.next;
    if due.more {
        plan.carried = Carried {
            missed: state.carried.missed + due.missed_count,
            live: state.carried.live + due.live_count,
            oldest_live: state.carried.oldest_live.or(due.oldest_live),
            last_missed: due.last_missed.or(state.carried.last_missed),
        };
        return plan;
    }
    plan.carried = Carried::default();
    plan.backlog_until = None;
    let (missed, live) = (due.missed_count + state.carried.missed, due.live_count + state.carried.live);
    if let Some(last) = due.last_missed.or(state.carried.last_missed) {
        plan.skipped.push((FireTimes::of(last, missed), Outcome::Missed));
    }
    let oldest = state.carried.oldest_live.or(due.oldest_live);
    let (Some(oldest), Some(newest)) = (oldest, due.newest.last().copied()) else { return plan };
    if free == 0 {
        let reason = SkipReason::MaxInstances;
        plan.skipped.push((FireTimes::of(newest, live), Outcome::Skipped { reason }));
        return plan;
    }
    match job.coalesce {
        Coalesce::Earliest => plan.start.push(FireTimes::of(oldest, live)),
        Coalesce::Latest => plan.start.push(FireTimes::of(newest, live)),
        Coalesce::All => {
            let over = live - due.newest.len() as u64;
            if over > 0 {
                let reason = SkipReason::CatchupLimit;
                plan.skipped.push((FireTimes::of(oldest, over), Outcome::Skipped { reason }));
            }
            let runs_left = usize::try_from(runs_left).unwrap_or(usize::MAX);
            let startable = free.min(slots).min(due.newest.len()).min(runs_left);
            plan.start.extend(due.newest[..startable].iter().map(|at| FireTimes::of(*at, 1)));
            if let Some(waiting) = due.newest.get(startable) {
                plan.next_run_time = Some(*waiting);
                plan.backlog_until = Some(now);
            }
        }
    }
    if plan.start.len() as u64 >= runs_left {
        (plan.next_run_time, plan.backlog_until) = (None, None);
    }
    plan
}

/// The next step of a backfill: the fire time to start a run for, and what is left.
pub fn plan_backfill(job: &Job, backfill: Backfill) -> (Option<DateTime<Utc>>, Option<Backfill>) {
    let from = backfill.next;
    let before = from - TimeDelta::microseconds(1);
    match job.trigger.find_next(Some(before), from) {
        NextTime::At(at) if at < backfill.until => {
            (Some(at), Some(Backfill { next: at + TimeDelta::microseconds(1), ..backfill }))
        }
        NextTime::NotBefore(bound) if bound < backfill.until => (None, Some(Backfill { next: bound, ..backfill })),
        _ => (None, None),
    }
}

/// How many fire times a range has, counted to `most`.
pub fn count_fire_times(job: &Job, range: Backfill, most: u64) -> u64 {
    let mut left = Some(range);
    let mut count = 0;
    while let Some(range) = left.filter(|_| count < most) {
        let (start, rest) = plan_backfill(job, range);
        count += u64::from(start.is_some());
        left = rest;
    }
    count
}

/// How many fire times lie from the job's `next_run_time` to `now`, the last of them, and the first
/// after them: what a pause passed over. Counts to [`PLAN_FIRE_TIMES_MAX`]; beyond it the rest is
/// jumped.
pub fn passed_over(job: &Job, state: &JobState, now: DateTime<Utc>) -> (Option<FireTimes>, Option<DateTime<Utc>>) {
    let Some(first) = state.next_run_time.filter(|first| job.start_time(*first) <= now) else {
        return (None, state.next_run_time);
    };
    if !is_fire_time(job, first) {
        return (None, following(job, now, now).0);
    }
    let due = Due::list(job, first, now);
    let last = due.newest.last().copied().or(due.last_missed);
    let passed = last
        .map(|last| FireTimes::of(last, due.missed_count + due.live_count + state.carried.missed + state.carried.live));
    let next = if due.more { following(job, now, now).0 } else { due.next };
    (passed, next)
}

/// The next run time after `previous`, and whether it is a fire time for sure: if the search for it
/// gave up, it is an instant before which there is none, to look again.
fn following(job: &Job, previous: DateTime<Utc>, now: DateTime<Utc>) -> (Option<DateTime<Utc>>, bool) {
    match job.trigger.find_next(Some(previous), now) {
        NextTime::At(at) => (Some(at), true),
        NextTime::NotBefore(bound) => (Some(bound.max(previous + TimeDelta::microseconds(1))), false),
        NextTime::Never => (None, true),
    }
}

/// Whether a next run time is one at which the job fires, and not one to look again.
fn is_fire_time(job: &Job, at: DateTime<Utc>) -> bool {
    !job.trigger.may_give_up() || job.trigger.fires_at(at)
}

/// The fire times of a job from its `next_run_time` to now, counted, with the few that matter kept.
struct Due {
    missed_count: u64,
    last_missed: Option<DateTime<Utc>>,
    live_count: u64,
    oldest_live: Option<DateTime<Utc>>,
    /// The newest ones that are in time, oldest first.
    newest: Vec<DateTime<Utc>>,
    next: Option<DateTime<Utc>>,
    /// The list was cut at [`PLAN_FIRE_TIMES_MAX`].
    more: bool,
}

impl Due {
    fn list(job: &Job, first: DateTime<Utc>, now: DateTime<Utc>) -> Self {
        let keep = if job.coalesce == Coalesce::All { job.max_catchup as usize } else { 1 };
        let grace = job.misfire_grace_time.and_then(|grace| TimeDelta::from_std(grace).ok());
        let mut newest = std::collections::VecDeque::with_capacity(keep.min(16));
        let mut due = Due {
            missed_count: 0,
            last_missed: None,
            live_count: 0,
            oldest_live: None,
            newest: Vec::new(),
            next: Some(first),
            more: false,
        };
        for _ in 0..PLAN_FIRE_TIMES_MAX {
            let start = due.next.map(|at| job.start_time(at)).filter(|start| *start <= now);
            let Some((at, start)) = due.next.zip(start) else { break };
            if grace.is_some_and(|grace| now - start > grace) {
                due.missed_count += 1;
                due.last_missed = Some(at);
            } else {
                due.live_count += 1;
                due.oldest_live.get_or_insert(at);
                if newest.len() == keep {
                    newest.pop_front();
                }
                newest.push_back(at);
            }
            let (next, sure) = following(job, at, now);
            due.next = next;
            if !sure {
                break;
            }
        }
        due.more = due.next.is_some_and(|at| job.start_time(at) <= now);
        due.newest = newest.into();
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::RunningRun;
    use crate::run::RunId;
    use crate::trigger::Trigger;
    use proptest::prelude::*;
    use std::time::Duration;

    fn time(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    /// Fires every 10 s from second 0 on.
    fn job(change: impl FnOnce(&mut Job)) -> Job {
        let trigger = Trigger::every(Duration::from_secs(10)).unwrap().anchored(time(-10));
        let mut job = Job::new("j".parse().unwrap(), "m:f".parse().unwrap(), trigger);
        change(&mut job);
        job
    }

    fn state(running: usize) -> JobState {
        let run = RunningRun {
            id: RunId(ulid::Ulid::nil()),
            scheduled_time: time(-10),
            attempt: 1,
            origin: Default::default(),
            coalesced: 0,
            arguments: None,
        };
        JobState { next_run_time: Some(time(0)), running: vec![run; running], ..JobState::default() }
    }

    fn starts(plan: &Plan) -> Vec<(i64, u64)> {
        plan.start.iter().map(|f| ((f.scheduled_time - time(0)).num_seconds(), f.coalesced)).collect()
    }

    fn skips(plan: &Plan) -> Vec<(i64, u64, &Outcome)> {
        plan.skipped.iter().map(|(f, o)| ((f.scheduled_time - time(0)).num_seconds(), f.coalesced, o)).collect()
    }

    #[test]
    fn a_job_that_is_not_due_is_left_alone() {
        let plan = plan(&job(|_| {}), &state(0), time(-1), 1);
        assert_eq!((plan.start.len(), plan.next_run_time), (0, Some(time(0))));
    }

    #[test]
    fn a_backlog_becomes_one_run_for_the_latest() {
        let plan = plan(&job(|_| {}), &state(0), time(45), 1);
        assert_eq!(starts(&plan), [(40, 4)]);
        assert_eq!(plan.next_run_time, Some(time(50)));
    }

    #[test]
    fn earliest_stands_for_the_oldest() {
        let plan = plan(&job(|j| j.coalesce = Coalesce::Earliest), &state(0), time(45), 1);
        assert_eq!(starts(&plan), [(0, 4)]);
    }

    #[test]
    fn all_starts_what_fits_and_keeps_the_rest_for_later() {
        let job = job(|j| {
            j.coalesce = Coalesce::All;
            j.max_instances = 2;
            j.max_catchup = 3;
        });
        let first = plan(&job, &state(0), time(45), 9);
        assert_eq!(starts(&first), [(20, 0), (30, 0)]);
        let reason = SkipReason::CatchupLimit;
        assert_eq!(skips(&first), [(0, 1, &Outcome::Skipped { reason })]);
        assert_eq!((first.next_run_time, first.backlog_until), (Some(time(40)), Some(time(45))));
        let mut busy = state(2);
        (busy.next_run_time, busy.backlog_until) = (first.next_run_time, first.backlog_until);
        assert!(plan(&job, &busy, time(46), 9).wait);
    }

    #[test]
    fn a_fire_time_past_its_grace_is_missed_once() {
        let job = job(|j| j.misfire_grace_time = Some(Duration::from_secs(12)));
        let plan = plan(&job, &state(0), time(45), 1);
        assert_eq!(skips(&plan), [(30, 3, &Outcome::Missed)]);
        assert_eq!(starts(&plan), [(40, 0)]);
    }

    #[test]
    fn at_max_instances_overlap_decides() {
        let reason = SkipReason::MaxInstances;
        let skip = plan(&job(|_| {}), &state(1), time(5), 1);
        assert_eq!(skips(&skip), [(0, 0, &Outcome::Skipped { reason })]);
        let queue = plan(&job(|j| j.overlap = Overlap::Queue), &state(1), time(5), 1);
        assert_eq!((queue.wait, queue.cancel_oldest, queue.next_run_time), (true, false, Some(time(0))));
        let cancel = plan(&job(|j| j.overlap = Overlap::Cancel), &state(1), time(5), 1);
        assert_eq!((cancel.wait, cancel.cancel_oldest), (true, true));
    }

    #[test]
    fn a_backlog_longer_than_one_plan_is_counted_across_plans() {
        let job = job(|_| {});
        let now = time(10 * PLAN_FIRE_TIMES_MAX as i64 + 35);
        let first = plan(&job, &state(0), now, 1);
        assert_eq!((first.start.len(), first.carried.live), (0, PLAN_FIRE_TIMES_MAX as u64));
        assert_eq!(first.carried.oldest_live, Some(time(0)));
        let state = JobState { next_run_time: first.next_run_time, carried: first.carried, ..JobState::default() };
        let second = plan(&job, &state, now, 1);
        assert_eq!(second.start[0].count(), PLAN_FIRE_TIMES_MAX as u64 + 4);
    }

    #[test]
    fn a_long_backlog_keeps_what_is_missed_apart_from_what_is_late() {
        let job = job(|j| {
            j.misfire_grace_time = Some(Duration::from_secs(25));
            j.coalesce = Coalesce::Earliest;
        });
        let now = time(10 * PLAN_FIRE_TIMES_MAX as i64 + 35);
        let first = plan(&job, &state(0), now, 1);
        assert_eq!((first.carried.missed, first.carried.live), (PLAN_FIRE_TIMES_MAX as u64, 0));
        let state = JobState { next_run_time: first.next_run_time, carried: first.carried, ..JobState::default() };
        let second = plan(&job, &state, now, 1);
        assert_eq!(
            (second.skipped[0].0.count(), &second.skipped[0].1),
            (PLAN_FIRE_TIMES_MAX as u64 + 1, &Outcome::Missed)
        );
        assert_eq!(starts(&second), [(10 * PLAN_FIRE_TIMES_MAX as i64 + 10, 2)]);
    }

    #[test]
    fn jitter_moves_the_start_and_never_the_grid() {
        let job = job(|j| j.trigger = j.trigger.clone().jitter(Duration::from_secs(60)));
        let start = job.start_time(time(0));
        assert!(start > time(0) && start < time(10), "before the following fire time: {start}");
        assert_eq!(job.start_time(time(0)), start, "the same at each asking");
        let early = plan(&job, &state(0), start - TimeDelta::microseconds(1), 1);
        assert_eq!((starts(&early), early.next_run_time), (vec![], Some(time(0))));
        let due = plan(&job, &state(0), start, 1);
        assert_eq!((starts(&due), due.next_run_time), (vec![(0, 0)], Some(time(10))));
    }

    #[test]
    fn a_search_that_gives_up_is_taken_up_again_and_fires_nothing() {
        // A week of seconds is left out, which no jump can pass: more steps than one search has.
        let text = "(every 1s start 2027-01-01T00:00:00Z) except \
                    ((every 1s start 2027-01-02T00:00:00Z end 2027-01-08T23:59:59Z) and (every 1s start 2027-01-01T00:00:00Z))";
        let job = job(|j| j.trigger = text.parse().unwrap());
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let mut state = JobState { next_run_time: Some(at("2027-01-01T23:59:59Z")), ..JobState::default() };
        let mut now = at("2027-01-01T23:59:59Z");
        let mut fired = Vec::new();
        for _ in 0..100 {
            let plan = plan(&job, &state, now, 1);
            fired.extend(plan.start.iter().map(|times| times.scheduled_time));
            state.next_run_time = plan.next_run_time;
            now = plan.next_run_time.expect("the job goes on");
            if fired.len() == 3 {
                break;
            }
        }
        assert_eq!(fired, ["2027-01-01T23:59:59Z", "2027-01-09T00:00:00Z", "2027-01-09T00:00:01Z"].map(at));
    }

    #[test]
    fn runs_up_to_the_greatest_number_are_started_and_no_more() {
        let job = job(|j| {
            j.trigger = j.trigger.clone().max_runs(3);
            (j.coalesce, j.max_instances) = (Coalesce::All, 64);
        });
        let first = plan(&job, &state(0), time(15), 9);
        assert_eq!((starts(&first), first.next_run_time), (vec![(0, 0), (10, 0)], Some(time(20))));
        let two = JobState { started: 2, next_run_time: Some(time(20)), ..state(0) };
        let last = plan(&job, &two, time(45), 9);
        assert_eq!((starts(&last), last.next_run_time, last.backlog_until), (vec![(20, 0)], None, None));
    }

    #[test]
    fn what_a_pause_passed_over_is_counted() {
        let (passed, next) = passed_over(&job(|_| {}), &state(0), time(25));
        assert_eq!((passed.unwrap().count(), next), (3, Some(time(30))));
    }

    proptest! {
        #[test]
        fn every_fire_time_is_in_exactly_one_place(
            late in 0i64..3000,
            grace in proptest::option::of(1u64..2000),
            policy in 0usize..3,
            overlap in 0usize..3,
            max_catchup in 1u32..50,
            max_instances in 1u32..5,
            running in 0usize..5,
            slots in 1usize..10,
        ) {
            let job = job(|j| {
                j.misfire_grace_time = grace.map(Duration::from_secs);
                j.coalesce = [Coalesce::Earliest, Coalesce::Latest, Coalesce::All][policy];
                j.overlap = [Overlap::Skip, Overlap::Queue, Overlap::Cancel][overlap];
                j.max_catchup = max_catchup;
                j.max_instances = max_instances;
            });
            let now = time(late);
            let plan = plan(&job, &state(running), now, slots);
            let due = late / 10 + 1;
            let next = plan.next_run_time.unwrap();
            let left = if next > now { 0 } else { (now - next).num_seconds() / 10 + 1 };
            let started: u64 = plan.start.iter().map(FireTimes::count).sum();
            let skipped: u64 = plan.skipped.iter().map(|(f, _)| f.count()).sum();
            prop_assert_eq!(started + skipped + left as u64, due as u64);
            prop_assert!(plan.start.len() + running <= max_instances.max(running as u32) as usize);
            prop_assert!(plan.start.len() <= slots);
        }
    }
}
