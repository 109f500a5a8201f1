//! Asking a trigger: the search for its next fire time, which goes forwards only and takes a counted
//! number of steps, so that it always ends.

use super::field::spread;
use super::{Rule, Trigger, Zone, clamp, delta, instant, latest, seconds_up};
use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use std::time::Duration;

/// Steps that one search may take: a single fire time looked at, or a date stepped over.
pub const SEARCH_STEPS_MAX: u32 = 100_000;

/// How much a search may still look at.
#[derive(Debug)]
pub(super) struct Steps(u32);

impl Steps {
    pub fn of(most: u32) -> Self {
        Steps(most)
    }

    pub fn take(&mut self) -> Option<()> {
        self.0 = self.0.checked_sub(1)?;
        Some(())
    }

    pub fn is_spent(&self) -> bool {
        self.0 == 0
    }
}

/// What a search for the next fire time came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextTime {
    At(DateTime<Utc>),
    /// There is none any more.
    Never,
    /// The search had taken all its steps; there is none before this instant.
    NotBefore(DateTime<Utc>),
}

impl NextTime {
    /// The time, if there is one for sure.
    pub fn at(self) -> Option<DateTime<Utc>> {
        match self {
            NextTime::At(at) => Some(at),
            NextTime::Never | NextTime::NotBefore(_) => None,
        }
    }

    /// The earlier one of two that are both searched from the same instant.
    pub(super) fn or(self, other: NextTime) -> NextTime {
        match (self, other) {
            (NextTime::Never, next) | (next, NextTime::Never) => next,
            (NextTime::At(one), NextTime::At(other)) => NextTime::At(one.min(other)),
            (NextTime::At(at), NextTime::NotBefore(bound)) | (NextTime::NotBefore(bound), NextTime::At(at)) => {
                if at < bound { NextTime::At(at) } else { NextTime::NotBefore(bound) }
            }
            (NextTime::NotBefore(one), NextTime::NotBefore(other)) => NextTime::NotBefore(one.min(other)),
        }
    }
}

/// Steps of all searches of one preview together.
const PREVIEW_STEPS_MAX: u32 = 3 * SEARCH_STEPS_MAX;

impl Trigger {
    /// The first fire time after `previous`; without one, the first at or after `now` (for a date,
    /// the date itself even if it is past). Strictly later than `previous`; `None` when the trigger
    /// is exhausted, or its next time is too far for one search: [`Trigger::find_next`] tells which.
    pub fn next_fire_time(&self, previous: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.find_next(previous, now).at()
    }

    /// The same, with what the search came to. It takes [`SEARCH_STEPS_MAX`] steps at most.
    pub fn find_next(&self, previous: Option<DateTime<Utc>>, now: DateTime<Utc>) -> NextTime {
        self.next_within(previous, now, &mut Steps::of(SEARCH_STEPS_MAX))
    }

    fn next_within(&self, previous: Option<DateTime<Utc>>, now: DateTime<Utc>, steps: &mut Steps) -> NextTime {
        match (previous, &self.rule) {
            (None, Rule::Date(None)) => NextTime::At(clamp(now)),
            // However long ago it was.
            (None, Rule::Date(Some(at))) => self.search(clamp(now).min(*at), steps),
            (None, _) => self.search(clamp(now), steps),
            (Some(previous), _) => self.search(clamp(previous) + TimeDelta::microseconds(1), steps),
        }
    }

    /// The first fire time at or after `from`.
    pub(super) fn search(&self, from: DateTime<Utc>, steps: &mut Steps) -> NextTime {
        if steps.take().is_none() {
            return NextTime::NotBefore(from);
        }
        let from = self.start.map_or(from, |start| from.max(start));
        let leaf = |at: Option<DateTime<Utc>>| at.map_or(NextTime::Never, NextTime::At);
        let next = match &self.rule {
            Rule::Date(at) => leaf(at.filter(|at| *at >= from)),
            Rule::Interval(every) => leaf(self.on_grid(*every, from)),
            Rule::Cron(cron) => leaf(cron.next(self.timezone, seconds_up(from)).and_then(instant)),
            Rule::Calendar(calendar) => match calendar.next(self.timezone, seconds_up(from), steps) {
                None if steps.is_spent() => NextTime::NotBefore(from),
                next => leaf(next.and_then(instant)),
            },
            Rule::Or(triggers) => {
                // The sure ones first: the others may take all the steps.
                let sure = triggers.iter().filter(|trigger| !trigger.may_give_up());
                let all = sure.chain(triggers.iter().filter(|trigger| trigger.may_give_up()));
                all.fold(NextTime::Never, |next, trigger| next.or(trigger.search(from, steps)))
            }
            Rule::And(and) => and.search(from, steps),
            Rule::Except(except) => except.search(self.timezone, from, steps),
            // It is asked elsewhere.
            Rule::Plugin(_) => NextTime::Never,
        };
        match next {
            NextTime::At(at) | NextTime::NotBefore(at) if at > latest() || self.end.is_some_and(|end| at > end) => {
                NextTime::Never
            }
            next => next,
        }
    }

    /// Whether a search of this trigger may end without an answer.
    pub fn may_give_up(&self) -> bool {
        matches!(self.rule, Rule::Or(_) | Rule::And(_) | Rule::Except(_))
    }

    fn on_grid(&self, every: Duration, from: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let every = delta(every);
        let start = self.start.unwrap_or(from + every);
        // A grid point is sought in microseconds; half of one past it is past it.
        let from = from.trunc_subsecs(6) + TimeDelta::microseconds(i64::from(from != from.trunc_subsecs(6)));
        let (behind, step) = ((from - start).num_microseconds()?, every.num_microseconds()?);
        let steps = if behind <= 0 { 0 } else { (behind - 1) / step + 1 };
        start.checked_add_signed(TimeDelta::microseconds(steps.checked_mul(step)?))
    }

    /// The first `count` fire times at or after `from`, as of a job that is added then.
    /// Fewer if they take more steps than a few searches have.
    pub fn preview(&self, from: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
        let from = clamp(from);
        let most = self.max_runs.map_or(count, |runs| count.min(usize::try_from(runs).unwrap_or(count)));
        let mut steps = Steps::of(PREVIEW_STEPS_MAX);
        let first = self.next_within(None, from, &mut steps).at();
        std::iter::successors(first, |at| self.next_within(Some(*at), from, &mut steps).at()).take(most).collect()
    }

    /// Whether it fires at exactly this instant.
    pub fn fires_at(&self, at: DateTime<Utc>) -> bool {
        self.search(at, &mut Steps::of(SEARCH_STEPS_MAX)) == NextTime::At(at)
    }

    /// When the run of a fire time starts: later than that by the trigger's jitter, and before the
    /// following one. `key` is the job's id.
    pub fn start_time(&self, key: &str, fire_time: DateTime<Utc>) -> DateTime<Utc> {
        if self.jitter == Duration::ZERO {
            return fire_time;
        }
        let jitter = delta(self.jitter);
        let following = self.next_fire_time(Some(fire_time), fire_time);
        let window = following.map_or(jitter, |following| jitter.min(following - fire_time));
        let window = u64::try_from(window.num_microseconds().unwrap_or(0)).unwrap_or(0);
        let later = spread(key, &fire_time.timestamp_micros().to_be_bytes(), window);
        fire_time + TimeDelta::microseconds(later as i64)
    }

    /// How many runs it starts at most.
    pub fn runs_max(&self) -> Option<u64> {
        self.max_runs
    }

    /// Whether it is made of civil times, which a change of the clocks may skip or double.
    pub fn has_civil_times(&self) -> bool {
        match &self.rule {
            Rule::Cron(_) | Rule::Calendar(_) => true,
            _ => self.parts().into_iter().any(Trigger::has_civil_times),
        }
    }

    /// Whether it steps through the calendar.
    pub fn is_calendar_interval(&self) -> bool {
        matches!(self.rule, Rule::Calendar(_))
    }

    /// The zone that the trigger thinks in.
    pub fn zone(&self) -> Zone {
        self.timezone
    }
}
