//! Triggers made of triggers: `and`, `except`. (`or` is the earliest of several, and needs no more.)

use super::cron::{Cron, Dst, next_wall};
use super::search::{NextTime, Steps};
use super::sets::{DAY, Sets, date_of, has};
use super::zone::Zone;
use super::{Rule, Trigger, civil_is_sound, seconds_up};
use crate::invalid::Invalid;
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, TimeDelta, Utc};

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

    pub fn search(&self, from: DateTime<Utc>, steps: &mut Steps) -> NextTime {
        let mut from = from;
        let mut wall = None;
        'again: loop {
            if let Some(common) = &self.common {
                let bound =
                    common.bound(seconds_up(from), &mut wall).and_then(|bound| DateTime::from_timestamp(bound, 0));
                let Some(bound) = bound else { return NextTime::Never };
                from = from.max(bound);
            }
            let mut agreed = from;
            for (place, trigger) in self.triggers.iter().enumerate() {
                match trigger.search(agreed, steps) {
                    NextTime::At(at) if place == 0 || at == agreed => agreed = at,
                    NextTime::At(at) => {
                        from = at;
                        continue 'again;
                    }
                    // They cannot agree where one of them does not fire.
                    other => return other,
                }
            }
            return NextTime::At(agreed);
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
            _ => *wall.insert(next_wall(&self.sets, self.zone, from, false)),
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
            let sound = |civil: Option<NaiveDateTime>| civil.filter(civil_is_sound);
            let (Some(from), Some(to)) = (sound(from), sound(to)) else {
                let reason = "it must lie between 1970 and 2200";
                return Err(Invalid::new("excluded range", exclusion.to_string(), reason));
            };
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

    pub fn search(&self, zone: Zone, from: DateTime<Utc>, steps: &mut Steps) -> NextTime {
        let mut from = from;
        loop {
            let at = match self.trigger.search(from, steps) {
                NextTime::At(at) => at,
                other => return other,
            };
            match self.excluded_until(zone, at, steps) {
                None => return NextTime::NotBefore(at),
                Some(over) if over <= at => return NextTime::At(at),
                Some(over) => from = over,
            }
        }
    }

    /// An instant up to which all fire times from `at` on are excluded; `at` itself if it is not;
    /// `None` if the steps were spent before that was known.
    fn excluded_until(&self, zone: Zone, at: DateTime<Utc>, steps: &mut Steps) -> Option<DateTime<Utc>> {
        let next = at + TimeDelta::microseconds(1);
        let civil = zone.civil_seconds(at.timestamp());
        if let Some(open) = self.civil_excluded_until(civil) {
            return Some(DateTime::from_timestamp(zone.first_instant(open), 0)?.max(next));
        }
        for trigger in self.exclusions.iter().filter_map(Exclusion::trigger) {
            match trigger.search(at, steps) {
                NextTime::At(excluded) if excluded == at => return Some(self.covered_until(trigger, at).max(next)),
                NextTime::NotBefore(bound) if bound <= at => return None,
                _ => {}
            }
        }
        Some(at)
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

    /// A stretch from `at` on that cron triggers exclude as a whole is passed in one step.
    fn covered_until(&self, by: &Trigger, at: DateTime<Utc>) -> DateTime<Utc> {
        let theirs = match &by.rule {
            Rule::Cron(theirs) => theirs,
            Rule::Or(parts) => {
                let ends = parts.iter().filter(|part| part.fires_at(at)).map(|part| self.covered_until(part, at));
                return ends.max().unwrap_or(at);
            }
            _ => return at,
        };
        let segment = by.timezone.segment(at.timestamp());
        let civil = at.timestamp() + segment.offset;
        if theirs.sets.next_civil(civil) != Some(civil) {
            return at;
        }
        // What covers more than the times of our trigger covers these.
        let mut ours = Sets::ALL;
        let mut end = segment.end;
        match &self.trigger.rule {
            Rule::Cron(cron) => {
                let own = self.trigger.timezone.segment(at.timestamp());
                end = end.min(own.end);
                ours.second = cron.sets.second;
                if (own.offset - segment.offset) % 3600 == 0 {
                    ours.minute = cron.sets.minute;
                }
                if own.offset == segment.offset {
                    ours.hour = cron.sets.hour;
                }
            }
            // Whole minutes and hours keep the second and the minute.
            Rule::Interval(every) if every.subsec_nanos() == 0 => {
                if every.as_secs() % 60 == 0 {
                    ours.second = 1 << civil.rem_euclid(60);
                }
                if every.as_secs() % 3600 == 0 {
                    ours.minute = 1 << (civil.rem_euclid(3600) / 60);
                }
            }
            _ => {}
        }
        let until = (theirs.sets.covered_until(&ours, civil) - segment.offset).min(end);
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
