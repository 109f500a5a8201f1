//! Failures of the same kind as one line: how often, since when, until when, and what one looked like.

use crate::func::FuncRef;
use crate::job::JobId;
use crate::run::{Outcome, OutcomeKind, Run, RunId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Jobs that one group names.
const JOBS_MAX: usize = 20;

/// Runs that failed in the same way.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
pub struct FailureGroup {
    pub fingerprint: String,
    pub kind: OutcomeKind,
    pub count: u64,
    pub first: DateTime<Utc>,
    pub last: DateTime<Utc>,
    pub func: FuncRef,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin_digest: Option<Arc<str>>,
    /// At most 20 of them.
    pub jobs: BTreeSet<JobId>,
    /// The newest run of them, and how it ended.
    pub run: RunId,
    pub outcome: Outcome,
}

/// The failures among runs that come newest first, most frequent first.
pub fn group(runs: impl Iterator<Item = Run>) -> Vec<FailureGroup> {
    let mut groups: HashMap<String, FailureGroup> = HashMap::new();
    for run in runs {
        let (Some(fingerprint), Some(outcome)) = (run.fingerprint(), run.outcome) else { continue };
        let at = run.ended.unwrap_or(run.scheduled_time);
        let group = groups.entry(fingerprint.clone()).or_insert_with(|| FailureGroup {
            fingerprint,
            kind: outcome.kind(),
            count: 0,
            first: at,
            last: at,
            func: run.func,
            plugin_digest: run.plugin_digest,
            jobs: BTreeSet::new(),
            run: run.id,
            outcome,
        });
        group.count += 1;
        (group.first, group.last) = (group.first.min(at), group.last.max(at));
        if group.jobs.len() < JOBS_MAX {
            group.jobs.insert(run.job_id);
        }
    }
    let mut groups: Vec<FailureGroup> = groups.into_values().collect();
    groups.sort_by(|a, b| (b.count, b.last, &b.fingerprint).cmp(&(a.count, a.last, &a.fingerprint)));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Job;
    use crate::trigger::Trigger;

    fn run(at: i64, outcome: Outcome) -> Run {
        let job = Job::new("j".parse().unwrap(), "m:f".parse().unwrap(), Trigger::now());
        let time = DateTime::from_timestamp(at, 0).unwrap();
        let mut run = Run::claimed(RunId(ulid::Ulid::from_parts(at as u64, 0)), &job, time, "n".into());
        run.end(time, outcome);
        run
    }

    fn trap(frames: &[&str]) -> Outcome {
        let backtrace = frames.iter().map(|frame| (*frame).to_owned()).collect();
        Outcome::Trapped { trap: "unreachable".into(), error: "x".into(), backtrace }
    }

    #[test]
    fn what_fails_in_the_same_way_is_one_group() {
        let failed = |error: &str| Outcome::Failed { error: error.into() };
        let runs = vec![
            run(9, trap(&["a (17 times)", "b (lib.rs:3)"])),
            run(8, failed("order 81 is late")),
            run(7, trap(&["a (99 times)", "b (lib.rs:3)"])),
            run(6, failed("order 4 is late")),
            run(5, trap(&["c"])),
            run(4, failed("order 7 is late")),
            run(3, Outcome::Succeeded { value: serde_json::Value::Null }),
        ];
        let groups = group(runs.into_iter());
        let seen: Vec<_> =
            groups.iter().map(|group| (group.count, group.first.timestamp(), group.last.timestamp())).collect();
        assert_eq!(seen, [(3, 4, 8), (2, 7, 9), (1, 5, 5)]);
        assert_eq!(groups[0].outcome, failed("order 81 is late"), "the newest stands for all");
    }

    #[test]
    fn the_component_and_the_class_are_part_of_it() {
        let mut other = run(1, trap(&["c"]));
        other.plugin_digest = Some("ab".into());
        let class = run(1, Outcome::OutOfFuel { error: "x".into() });
        let prints = [run(1, trap(&["c"])), other, class].map(|run| run.fingerprint().unwrap());
        assert!(prints[0] != prints[1] && prints[1] != prints[2] && prints[0] != prints[2]);
        assert_eq!(run(1, Outcome::Missed).fingerprint(), None);
    }
}
