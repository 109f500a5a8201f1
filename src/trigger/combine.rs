//! Triggers made of triggers: `and`, `except`. (`or` is the earliest of several, and needs no more.)
//!
//! Each search goes forwards only and takes a counted number of steps, so that it always ends.

use super::cron::{Cron, Dst, next as next_wall_or_once};
use super::sets::{DAY, Sets, date_of, has};
use super::zone::Zone;
use super::{Rule, Trigger, seconds_up};
use crate::invalid::Invalid;
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, TimeDelta, Utc};

/// Single fire times that one search may look at. A trigger whose next time lies further away is
/// taken as one that never fires again.
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

/// Fires at the instants on which all of its triggers do.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct And {
    pub triggers: Vec<Trigger>,
    common: Option<Common>,
}

/// The civil times that several cron triggers of one zone have in common. Away from gaps, they fire
/// together at these and at no others, which makes long stretches of disagreement short.
#[derive(Debug, Clone, PartialEq)]
struct Common {
    zone: Zone,
    sets: Box<Sets>,
    /// A time in a gap may run after it.
    gaps: bool,
}

impl And {
    pub fn new(triggers: Vec<Trigger>) -> Self {
        let common = Common::of(&triggers);
        And { triggers, common }
    }

    pub fn search(&self, from: DateTime<Utc>, steps: &mut Steps) -> Option<DateTime<Utc>> {
        let mut from = from;
        let mut wall = None;
        'again: loop {
            if let Some(common) = &self.common {
                let bound = common.bound(seconds_up(from), &mut wall)?;
                from = from.max(DateTime::from_timestamp(bound, 0)?);
            }
            let mut agreed = None;
            for trigger in &self.triggers {
                let at = trigger.search(agreed.unwrap_or(from), steps)?;
                if agreed.is_some_and(|agreed| agreed != at) {
                    from = at;
                    continue 'again;
                }
                agreed = Some(at);
            }
            return agreed;
        }
    }
}

impl Common {
    fn of(triggers: &[Trigger]) -> Option<Self> {
        let crons: Option<Vec<&Cron>> = triggers.iter().map(|trigger| trigger.rule.cron()).collect();
        let crons = crons?;
        let zone = triggers.first()?.timezone;
        let one_zone = triggers.iter().all(|trigger| trigger.timezone == zone);
        let sets = crons[1..].iter().fold(crons.first()?.sets.clone(), |sets, cron| sets.intersect(&cron.sets));
        let follows_wall = |cron: &&Cron| match cron.dst {
            Dst::Once => !cron.fixed_time,
            Dst::Wall => true,
            Dst::Shift => false,
        };
        one_zone.then(|| Common { zone, sets: Box::new(sets), gaps: !crons.iter().all(follows_wall) })
    }

    /// An instant before which, from `from` on, the triggers cannot agree. `wall` keeps the next
    /// common civil time between calls.
    fn bound(&self, from: i64, wall: &mut Option<Option<i64>>) -> Option<i64> {
        let next = match *wall {
            Some(next) if next.is_none_or(|next| next >= from) => next,
            _ => *wall.insert(next_wall_or_once(&self.sets, self.zone, Dst::Wall, false, from)),
        };
        if !self.gaps {
            return next;
        }
        let segment = self.zone.segment(from);
        let (start, end) = segment.gap();
        if from - segment.start < end - start && segment.offset > segment.before {
            return Some(from);
        }
        let gap = self.zone.changes_after(from).find(|segment| segment.offset > segment.before);
        let gap = gap.map(|segment| segment.start);
        next.into_iter().chain(gap).min()
    }
}

/// What an `except` leaves out. Days and times are those of its time zone.
#[derive(Debug, Clone, PartialEq)]
pub enum Exclusion {
    /// Every instant of these days, both included.
    Dates(NaiveDate, NaiveDate),
    /// From one civil time to another, both included.
    Times(NaiveDateTime, NaiveDateTime),
    Weekday(chrono::Weekday),
    /// The instants at which this trigger fires.
    Trigger(Box<Trigger>),
}

impl Exclusion {
    /// The trigger whose instants are left out.
    pub(super) fn trigger(&self) -> Option<&Trigger> {
        match self {
            Exclusion::Trigger(trigger) => Some(trigger),
            _ => None,
        }
    }
}

/// Most exclusions of one trigger.
pub const EXCLUSIONS_MAX: usize = 1000;

/// Fires when its trigger does, unless an exclusion holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Except {
    pub trigger: Trigger,
    pub exclusions: Vec<Exclusion>,
    /// Excluded stretches of civil time, in seconds, both ends included: sorted and disjoint.
    ranges: Vec<(i64, i64)>,
    weekdays: u64,
}

impl Except {
    pub fn new(trigger: Trigger, exclusions: Vec<Exclusion>) -> Result<Self, Invalid> {
        if exclusions.is_empty() || exclusions.len() > EXCLUSIONS_MAX {
            let reason = format!("it must have 1 to {EXCLUSIONS_MAX} exclusions, not {}", exclusions.len());
            return Err(Invalid::new("except", "", reason));
        }
        let mut weekdays = 0u64;
        let mut ranges = Vec::new();
        for exclusion in &exclusions {
            let (from, to) = match exclusion {
                Exclusion::Dates(from, to) => (from.and_hms_opt(0, 0, 0), to.and_hms_opt(23, 59, 59)),
                Exclusion::Times(from, to) => (Some(*from), Some(*to)),
                Exclusion::Weekday(weekday) => {
                    weekdays |= 1 << weekday.num_days_from_monday();
                    continue;
                }
                Exclusion::Trigger(_) => continue,
            };
            let (Some(from), Some(to)) = (from, to) else { continue };
            if from > to {
                return Err(Invalid::new("excluded range", format!("{from}..{to}"), "it runs backwards"));
            }
            ranges.push((from.and_utc().timestamp(), to.and_utc().timestamp()));
        }
        ranges.sort_unstable();
        ranges.dedup_by(|next, kept| {
            let joins = next.0 <= kept.1 + 1;
            kept.1 = if joins { kept.1.max(next.1) } else { kept.1 };
            joins
        });
        if weekdays.count_ones() == 7 {
            return Err(Invalid::new("except", "", "every day of the week is excluded"));
        }
        Ok(Except { trigger, exclusions, ranges, weekdays })
    }

    pub fn search(&self, zone: Zone, from: DateTime<Utc>, steps: &mut Steps) -> Option<DateTime<Utc>> {
        let mut from = from;
        loop {
            let at = self.trigger.search(from, steps)?;
            let Some(over) = self.excluded_until(zone, at, steps) else { return Some(at) };
            if steps.is_spent() {
                return None;
            }
            from = over.max(at + TimeDelta::microseconds(1));
        }
    }

    /// If `at` is excluded, an instant up to which all fire times are.
    fn excluded_until(&self, zone: Zone, at: DateTime<Utc>, steps: &mut Steps) -> Option<DateTime<Utc>> {
        let civil = zone.civil_seconds(at.timestamp());
        if let Some(open) = self.civil_excluded_until(civil) {
            return DateTime::from_timestamp(zone.first_instant(open), 0);
        }
        for trigger in self.exclusions.iter().filter_map(Exclusion::trigger) {
            if trigger.search(at, steps) == Some(at) {
                return Some(self.covered_until(trigger, at));
            }
        }
        None
    }

    /// If a civil time lies in an excluded day or range, one up to which all do.
    pub fn civil_excluded_until(&self, civil: i64) -> Option<i64> {
        let begun = self.ranges.partition_point(|(from, _)| *from <= civil);
        if let Some((_, to)) = self.ranges[..begun].last().filter(|(_, to)| civil <= *to) {
            return Some(to + 1);
        }
        if self.weekdays != 0 {
            let today = date_of(civil).weekday().num_days_from_monday();
            let open = (0..7).find(|ahead| !has(self.weekdays, (today + ahead) % 7)).unwrap_or(0);
            if open > 0 {
                return Some((civil.div_euclid(DAY) + i64::from(open)) * DAY);
            }
        }
        None
    }

    /// Where both are cron triggers of one zone, a stretch that is excluded as a whole is passed in
    /// one step.
    fn covered_until(&self, by: &Trigger, at: DateTime<Utc>) -> DateTime<Utc> {
        let (Some(ours), Some(theirs)) = (self.trigger.rule.cron(), by.rule.cron()) else { return at };
        let segment = by.timezone.segment(at.timestamp());
        let civil = at.timestamp() + segment.offset;
        if self.trigger.timezone != by.timezone || theirs.sets.next_civil(civil) != Some(civil) {
            return at;
        }
        let until = (theirs.sets.covered_until(&ours.sets, civil) - segment.offset).min(segment.end);
        let until = DateTime::from_timestamp(until, 0).unwrap_or(at);
        by.end.map_or(until, |end| until.min(end + TimeDelta::microseconds(1)))
    }
}

impl Rule {
    fn cron(&self) -> Option<&Cron> {
        match self {
            Rule::Cron(cron) => Some(cron),
            _ => None,
        }
    }
}
