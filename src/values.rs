//! A job's own key-value state. A run sees what was stored when it was claimed; what it changes is
//! held back and stored in the transaction that records its success. A run that does not succeed
//! leaves no trace.

use crate::invalid::Invalid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Keys of one job.
pub const KEYS_MAX: usize = 1000;
/// Bytes of a key, at least 1.
pub const KEY_BYTES_MAX: usize = 256;
pub const VALUE_BYTES_MAX: usize = 64 << 10;
/// Bytes of all keys and values of one job.
pub const VALUES_BYTES_MAX: usize = 1 << 20;

/// Everything that is stored of one job.
pub type Values = BTreeMap<String, Vec<u8>>;

/// What a run changed: new values, and `None` where a key was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ValueChanges(pub BTreeMap<String, Option<Vec<u8>>>);

impl ValueChanges {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn apply(&self, values: &mut Values) {
        for (key, value) in &self.0 {
            match value {
                Some(value) => drop(values.insert(key.clone(), value.clone())),
                None => drop(values.remove(key)),
            }
        }
    }

    /// Whether a run can have made these changes to `base`: they come from a process that is not
    /// trusted.
    pub fn validate(&self, base: &Arc<Values>) -> Result<(), Invalid> {
        let mut draft = Draft::new(base.clone());
        let unknown = self.0.iter().any(|(key, value)| value.is_none() && !base.contains_key(key));
        if unknown || self.0.len() > 2 * KEYS_MAX {
            return Err(Invalid::new("state", "", "it deletes what is not there, or changes more than there can be"));
        }
        for key in self.0.iter().filter_map(|(key, value)| value.is_none().then_some(key)) {
            draft.delete(key)?;
        }
        for (key, value) in &self.0 {
            if let Some(value) = value {
                draft.set(key, value.clone())?;
            }
        }
        Ok(())
    }
}

/// The state as one run sees and changes it.
#[derive(Debug, Default)]
pub struct Draft {
    base: Arc<Values>,
    changes: ValueChanges,
    keys: usize,
    bytes: usize,
}

impl Draft {
    pub fn new(base: Arc<Values>) -> Self {
        let bytes = base.iter().map(|(key, value)| key.len() + value.len()).sum();
        Draft { keys: base.len(), bytes, base, changes: ValueChanges::default() }
    }

    pub fn get(&self, key: &str) -> Option<&Vec<u8>> {
        match self.changes.0.get(key) {
            Some(changed) => changed.as_ref(),
            None => self.base.get(key),
        }
    }

    /// Errors: a key or a value that is too long, or a full state; nothing is changed then.
    pub fn set(&mut self, key: &str, value: Vec<u8>) -> Result<(), Invalid> {
        check_key(key)?;
        if value.len() > VALUE_BYTES_MAX {
            let reason = format!("its value has {} bytes, the most is {VALUE_BYTES_MAX}", value.len());
            return Err(Invalid::new("state key", key, reason));
        }
        let old = self.get(key).map(Vec::len);
        let keys = self.keys + usize::from(old.is_none());
        let bytes = self.bytes + value.len() + old.map_or(key.len(), |_| 0) - old.unwrap_or(0);
        if keys > KEYS_MAX || bytes > VALUES_BYTES_MAX {
            let reason = format!("the state is full: a job has at most {KEYS_MAX} keys and {VALUES_BYTES_MAX} bytes");
            return Err(Invalid::new("state key", key, reason));
        }
        (self.keys, self.bytes) = (keys, bytes);
        self.changes.0.insert(key.to_owned(), Some(value));
        Ok(())
    }

    pub fn delete(&mut self, key: &str) -> Result<(), Invalid> {
        check_key(key)?;
        if let Some(old) = self.get(key).map(Vec::len) {
            self.keys -= 1;
            self.bytes -= key.len() + old;
            if self.base.contains_key(key) {
                self.changes.0.insert(key.to_owned(), None);
            } else {
                self.changes.0.remove(key);
            }
        }
        Ok(())
    }

    /// All keys that begin with `prefix`, in order.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let changed = |key: &&String| self.changes.0.get(*key).is_none_or(Option::is_some);
        let old = self.base.keys().filter(changed);
        let new = self.changes.0.iter().filter(|(_, value)| value.is_some()).map(|(key, _)| key);
        let keys: std::collections::BTreeSet<&String> = old.chain(new).filter(|key| key.starts_with(prefix)).collect();
        keys.into_iter().cloned().collect()
    }

    pub fn into_changes(self) -> ValueChanges {
        self.changes
    }
}

fn check_key(key: &str) -> Result<(), Invalid> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Invalid::new("state key", key, format!("it must have 1 to {KEY_BYTES_MAX} bytes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_state_refuses_and_keeps_what_it_has() {
        let mut draft = Draft::default();
        for at in 0..15 {
            draft.set(&format!("{at}"), vec![0; VALUE_BYTES_MAX]).unwrap();
        }
        let error = draft.set("more", vec![0; VALUE_BYTES_MAX]).unwrap_err().to_string();
        assert!(error.contains("the state is full"), "{error}");
        draft.delete("3").unwrap();
        draft.set("more", vec![0; VALUE_BYTES_MAX]).unwrap();
        assert!(draft.set("k", vec![0; VALUE_BYTES_MAX + 1]).is_err());
        assert!(draft.set("", vec![]).is_err() && draft.set(&"k".repeat(257), vec![]).is_err());
        let mut many = Draft::default();
        for at in 0..KEYS_MAX {
            many.set(&format!("{at}"), vec![]).unwrap();
        }
        assert!(many.set("one more", vec![]).is_err());
        assert!(many.set("0", vec![1]).is_ok());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set(u8, Vec<u8>),
        Delete(u8),
    }

    proptest! {
        #[test]
        fn a_draft_is_the_map_that_its_changes_make(
            base in proptest::collection::btree_map("[a-e]", proptest::collection::vec(any::<u8>(), 0..4), 0..4),
            steps in proptest::collection::vec(prop_oneof![
                (0u8..6, proptest::collection::vec(any::<u8>(), 0..4)).prop_map(|(key, value)| Step::Set(key, value)),
                (0u8..6).prop_map(Step::Delete),
            ], 0..20),
        ) {
            let base = Arc::new(base);
            let mut draft = Draft::new(base.clone());
            let mut model: Values = (*base).clone();
            for step in steps {
                match step {
                    Step::Set(key, value) => {
                        let key = char::from(b'a' + key).to_string();
                        draft.set(&key, value.clone()).unwrap();
                        model.insert(key, value);
                    }
                    Step::Delete(key) => {
                        let key = char::from(b'a' + key).to_string();
                        draft.delete(&key).unwrap();
                        model.remove(&key);
                    }
                }
                prop_assert_eq!(draft.keys(""), model.keys().cloned().collect::<Vec<_>>());
                prop_assert_eq!(draft.bytes, model.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>());
            }
            for key in model.keys() {
                prop_assert_eq!(draft.get(key), model.get(key));
            }
            let changes = draft.into_changes();
            changes.validate(&base).unwrap();
            let mut applied = (*base).clone();
            changes.apply(&mut applied);
            prop_assert_eq!(applied, model);
        }
    }
}
