//! Changing some fields of a job, as JSON has them.

use super::Job;
use crate::invalid::Invalid;
use serde_json::{Map, Value};

/// Fields of which a part can be given: JSON merge patch (RFC 7396). All others are replaced whole.
const MERGED: [&str; 4] = ["retry", "limits", "tags", "metadata"];
/// What a job is known by.
const FIXED: [&str; 2] = ["id", "jobstore"];

impl Job {
    /// The job with some fields changed; null brings a field's default back. Nothing is checked that
    /// [`Job::validate`] checks.
    pub fn patched(&self, patch: &Map<String, Value>) -> Result<Job, Invalid> {
        let encoded = serde_json::to_value(self);
        let mut job = match encoded {
            Ok(Value::Object(job)) => job,
            _ => return Err(Invalid::new("job", self.id.as_str(), "it cannot be encoded")),
        };
        for (name, value) in patch {
            if FIXED.contains(&name.as_str()) {
                let hint = "remove the job and add it under the other one";
                return Err(Invalid::new("job", name, "this field never changes").hint(hint));
            }
            match (value, job.get_mut(name)) {
                (_, None) => return Err(unknown(name, &job)),
                (Value::Null, Some(_)) => {
                    // Its default is read for it; a name's is the func.
                    job.remove(name);
                    if name == "name" {
                        let func = patch.get("func").or(job.get("func")).cloned();
                        job.insert("name".into(), func.unwrap_or_default());
                    }
                }
                (_, Some(old)) if MERGED.contains(&name.as_str()) => merge(old, value),
                (_, Some(old)) => old.clone_from(value),
            }
        }
        serde_json::from_value(Value::Object(job)).map_err(|e| Invalid::new("job", self.id.as_str(), e.to_string()))
    }
}

fn unknown(name: &str, job: &Map<String, Value>) -> Invalid {
    let names: Vec<&str> = job.keys().map(String::as_str).filter(|name| !FIXED.contains(name)).collect();
    Invalid::new("job", name, "there is no such field").hint(format!("there are {}", names.join(", ")))
}

fn merge(old: &mut Value, patch: &Value) {
    match (old, patch) {
        (Value::Object(old), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    old.remove(name);
                } else {
                    merge(old.entry(name.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (old, patch) => old.clone_from(patch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trigger::Trigger;
    use serde_json::json;
    use std::time::Duration;

    fn patched(patch: Value) -> Result<Job, Invalid> {
        let mut job = Job::new("j".parse().unwrap(), "m:f".parse().unwrap(), Trigger::now());
        job.tags.insert("team".into(), "a".into());
        job.limits.timeout = Duration::from_secs(5);
        job.patched(patch.as_object().unwrap())
    }

    #[test]
    fn what_is_given_changes_and_the_rest_stays() {
        let job = patched(json!({
            "trigger": "every 5m", "limits": {"fuel": 7}, "tags": {"team": null, "env": "x"}, "args": [1],
            "coalesce": false, "misfire_grace_time": 60,
        }))
        .unwrap();
        assert_eq!(job.trigger.to_string(), "every 5m");
        assert_eq!((job.limits.fuel, job.limits.timeout), (7, Duration::from_secs(5)));
        assert_eq!(job.tags, [("env".to_owned(), "x".to_owned())].into());
        assert_eq!((job.args.len(), job.misfire_grace_time), (1, Some(Duration::from_secs(60))));
    }

    #[test]
    fn null_is_the_default() {
        let job = patched(json!({"limits": null, "tags": null, "name": null, "func": "other:f"})).unwrap();
        assert_eq!((job.limits, job.tags.len()), (Default::default(), 0));
        assert_eq!(job.name, "other:f");
    }

    #[test]
    fn what_cannot_change_is_refused_by_name() {
        for (patch, named) in [
            (json!({"id": "k"}), "id"),
            (json!({"colour": 1}), "colour"),
            (json!({"trigger": "every 0s"}), "every 0s"),
            (json!({"func": null}), "func"),
        ] {
            let error = patched(patch).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
