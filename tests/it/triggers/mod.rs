//! Triggers against oracles, against brute force, and against what users expect.

mod clocks;
mod differential;
mod laws;
mod oracles;
mod text;

use chrono::{DateTime, Utc};
use sandclock::{Dialect, Dst, Trigger, Zone};

fn time(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap_or_else(|error| panic!("{text}: {error}")).to_utc()
}

fn zone(name: &str) -> Zone {
    name.parse().unwrap()
}

fn crontab(line: &str, zone_name: &str, dst: Dst) -> Trigger {
    Trigger::crontab(line, Dialect::Crontab, zone(zone_name)).unwrap_or_else(|error| panic!("{error}")).dst(dst)
}

/// The first times as RFC 3339 by the zone's own clocks.
fn times(trigger: &Trigger, from: &str, count: usize) -> Vec<String> {
    let explained = trigger.clone().anchored(time(from)).explain(time(from), count);
    explained.times.iter().map(|at| at.format("%Y-%m-%dT%H:%M:%S%:z").to_string()).collect()
}
