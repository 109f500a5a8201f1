//! The least grants and limits that recorded runs needed, beside what there is: learn, then lock.

use super::{Grants, Pick};
use crate::job::Limits;
use crate::run::Run;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Runs below which a suggestion says that it knows little.
pub const RUNS_FEW: usize = 20;

/// What to change, and on how much it rests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Suggestion {
    /// Runs that it was learned from.
    pub runs: usize,
    pub grants: Vec<Line>,
    /// Absent without runs that say what they used.
    pub fuel: Option<Learned>,
    /// Bytes.
    pub memory: Option<Learned>,
}

/// One grant, as it stands to what runs needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Line {
    pub grant: Pick,
    pub change: Change,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "GrantChange")]
pub enum Change {
    /// Granted and used.
    Keep,
    /// Used, and denied.
    Add,
    /// Granted, and no run has used it.
    Remove,
    /// Granted for a use that cannot be seen: environment variables are handed over all at once.
    Unseen,
}

/// A limit that is learned from what runs used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Learned {
    /// What 99 of 100 runs stayed within.
    pub p99: u64,
    /// Twice that, rounded up.
    pub suggested: u64,
}

/// What `runs` of a component with these grants say.
pub fn suggest<'a>(grants: &Grants, runs: impl Iterator<Item = &'a Run>) -> Suggestion {
    let (mut count, mut fuel, mut memory) = (0, Vec::new(), Vec::new());
    let mut used = BTreeSet::new();
    for run in runs {
        count += 1;
        fuel.extend(run.usage.fuel_used);
        memory.extend(run.usage.memory_peak);
        used.extend(run.uses.iter().map(|used| used.what.clone()));
    }
    // Who writes to a directory may read it.
    let writes = |pick: &Pick| match pick {
        Pick::Dir { guest, writable: false } => used.contains(&Pick::Dir { guest: guest.clone(), writable: true }),
        _ => false,
    };
    let needed: BTreeSet<&Pick> = used.iter().filter(|pick| !writes(pick)).collect();
    let granted: BTreeSet<Pick> = grants.picks().into_iter().collect();
    let line = |grant: &Pick, change| Line { grant: grant.clone(), change };
    let mut lines: Vec<Line> = granted
        .iter()
        .map(|grant| match grant {
            Pick::Env(_) => line(grant, Change::Unseen),
            grant if needed.contains(grant) => line(grant, Change::Keep),
            grant => line(grant, Change::Remove),
        })
        .collect();
    lines.extend(needed.iter().filter(|pick| !granted.contains(pick)).map(|pick| line(pick, Change::Add)));
    lines.sort_by(|a, b| a.grant.cmp(&b.grant));
    let memory = learned(memory, 1 << 16, Limits::MEMORY_MAX).map(|learned| Learned {
        // Whole pages of 64 KiB.
        suggested: learned.suggested.next_multiple_of(1 << 16).min(Limits::MEMORY_MAX),
        ..learned
    });
    Suggestion { runs: count, grants: lines, fuel: learned(fuel, 1000, Limits::FUEL_MAX), memory }
}

fn learned(mut values: Vec<u64>, least: u64, most: u64) -> Option<Learned> {
    values.sort_unstable();
    let at = (values.len() * 99).div_ceil(100).checked_sub(1)?;
    let p99 = *values.get(at)?;
    Some(Learned { p99, suggested: two_digits(p99.saturating_mul(2)).clamp(least, most) })
}

/// Rounded up to two digits, which are easier to read.
fn two_digits(number: u64) -> u64 {
    let unit = 10u64.pow(number.checked_ilog10().unwrap_or(0).saturating_sub(1));
    number.div_ceil(unit).saturating_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::Use;
    use crate::job::Job;
    use crate::run::RunId;
    use crate::trigger::Trigger;

    fn run(fuel: u64, uses: &[(&str, bool)]) -> Run {
        let job = Job::new("j".parse().unwrap(), "m:f".parse().unwrap(), Trigger::now());
        let mut run = Run::claimed(RunId(ulid::Ulid::nil()), &job, chrono::DateTime::UNIX_EPOCH, "n".into());
        run.usage.fuel_used = Some(fuel);
        run.usage.memory_peak = Some(100_000);
        run.uses = uses.iter().map(|(what, denied)| Use { what: what.parse().unwrap(), denied: *denied }).collect();
        run
    }

    #[test]
    fn what_is_used_is_kept_or_added_and_what_is_not_is_removed() {
        let grants = Grants {
            http: vec!["a.org".parse().unwrap(), "b.org".parse().unwrap()],
            dirs: vec!["/srv:/data:rw".parse().unwrap()],
            env: [("TZ".to_owned(), "UTC".to_owned())].into(),
            ..Grants::default()
        };
        let runs = [
            run(10, &[("http:a.org", false), ("dir:/data:ro", false)]),
            run(20, &[("http:c.org", true), ("state", true)]),
        ];
        let suggestion = suggest(&grants, runs.iter());
        let lines: Vec<(String, Change)> =
            suggestion.grants.iter().map(|line| (line.grant.to_string(), line.change)).collect();
        let expected = [
            ("http:a.org:443", Change::Keep),
            ("http:b.org:443", Change::Remove),
            ("http:c.org:443", Change::Add),
            ("env:TZ", Change::Unseen),
            ("dir:/data:ro", Change::Add),
            ("dir:/data:rw", Change::Remove),
            ("state", Change::Add),
        ];
        assert_eq!(lines, expected.map(|(grant, change)| (grant.to_owned(), change)));
        assert_eq!(suggestion.memory, Some(Learned { p99: 100_000, suggested: 262_144 }));
    }

    #[test]
    fn a_limit_is_twice_what_nearly_all_stayed_within() {
        let runs: Vec<Run> = (1..=100).map(|at| run(if at == 100 { 1_000_000_000 } else { at * 1234 }, &[])).collect();
        let suggestion = suggest(&Grants::default(), runs.iter());
        assert_eq!(suggestion.fuel, Some(Learned { p99: 122_166, suggested: 250_000 }));
        assert_eq!(suggest(&Grants::default(), [].iter()).fuel, None);
    }
}
