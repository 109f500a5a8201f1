//! What must change so that the jobs are those that a file declares.

use crate::job::{Job, JobId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Add,
    Modify,
    Keep,
    Remove,
}

/// What becomes of one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Change {
    pub id: JobId,
    pub action: Action,
    /// With `modify`: the fields that differ, as they are and as they will be.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, (Value, Value)>,
}

/// Compares jobs by id: `desired` first, in its order, then, if others are to go, the rest of
/// `existing`. A trigger counts as the same if it would be, had it been added when the existing one
/// was.
pub fn plan_changes(desired: &[Job], existing: &BTreeMap<JobId, &Job>, prune: bool) -> Vec<Change> {
    let compare = |job: &Job| match existing.get(&job.id) {
        None => Change { id: job.id.clone(), action: Action::Add, fields: BTreeMap::new() },
        Some(old) => {
            let mut new = job.clone();
            new.trigger = new.trigger.settled_like(&old.trigger);
            let fields = difference(old, &new);
            let action = if fields.is_empty() { Action::Keep } else { Action::Modify };
            Change { id: job.id.clone(), action, fields }
        }
    };
    let rest = existing.keys().filter(|id| prune && !desired.iter().any(|job| job.id == **id));
    let removed = rest.map(|id| Change { id: id.clone(), action: Action::Remove, fields: BTreeMap::new() });
    desired.iter().map(compare).chain(removed).collect()
}

fn difference(old: &Job, new: &Job) -> BTreeMap<String, (Value, Value)> {
    let json = |job: &Job| match serde_json::to_value(job) {
        Ok(Value::Object(fields)) => fields,
        _ => Default::default(),
    };
    let mut old_fields = json(old);
    // As people write them.
    let text = |job: &Job| Value::from(job.trigger.to_string());
    let fields = json(new).into_iter().filter_map(|(name, new_value)| {
        let old_value = old_fields.remove(&name).unwrap_or_default();
        (old_value != new_value).then(|| {
            let shown = if name == "trigger" { (text(old), text(new)) } else { (old_value, new_value) };
            (name, shown)
        })
    });
    fields.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trigger::Trigger;
    use chrono::{DateTime, Utc};

    fn job(id: &str, trigger: &str) -> Job {
        Job::new(id.parse().unwrap(), "m:f".parse().unwrap(), trigger.parse::<Trigger>().unwrap())
    }

    fn settled(mut job: Job) -> Job {
        let added: DateTime<Utc> = "2026-11-01T00:00:00Z".parse().unwrap();
        job.trigger = job.trigger.anchored(added).spread_by(job.id.as_str());
        job
    }

    #[test]
    fn what_is_declared_again_is_kept() {
        for trigger in [
            "every 5m",
            "now",
            "cron ~ ~ * * *",
            "every 2 weeks at 09:00",
            "(every 1h) or (cron 0 9 * * *)",
            "every 5m max-runs 3",
        ] {
            let desired = job("a", trigger);
            let old = settled(desired.clone());
            let plan = plan_changes(&[desired], &[(old.id.clone(), &old)].into(), false);
            assert_eq!(plan[0].action, Action::Keep, "{trigger}: {:?}", plan[0].fields);
        }
    }

    #[test]
    fn what_differs_is_named() {
        let old = settled(job("a", "every 5m"));
        let other = settled(job("b", "every 5m"));
        let mut new = job("a", "every 6m");
        new.max_instances = 2;
        let existing = [(old.id.clone(), &old), (other.id.clone(), &other)].into();
        let plan = plan_changes(&[new, job("c", "now")], &existing, true);
        let actions: Vec<_> = plan.iter().map(|change| (change.id.as_str(), change.action)).collect();
        assert_eq!(actions, [("a", Action::Modify), ("c", Action::Add), ("b", Action::Remove)]);
        assert_eq!(plan[0].fields.keys().collect::<Vec<_>>(), ["max_instances", "trigger"]);
        assert_eq!(plan_changes(&[], &existing, false), []);
    }
}
