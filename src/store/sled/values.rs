//! Jobs' own key-value states: each value in pieces under the job's id, a zero byte, and its key. What a
//! run changed is in the transaction that records its success.

use super::Open;
use super::codec::{piece_of, prefix, unseal};
use super::disk::{Disk, VALUE, Writes, broken};
use crate::error::Result;
use crate::job::JobId;
use crate::store::Claimed;
use crate::store::table::Delta;
use crate::values::Values;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Keys are the guest's, and a zero byte ends one.
fn escaped(key: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            0 => bytes.extend([1, 1]),
            1 => bytes.extend([1, 2]),
            byte => bytes.push(byte),
        }
    }
    bytes
}

fn unescaped(bytes: &[u8]) -> Option<String> {
    let mut key = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        key.push(if *byte == 1 { rest.next()?.checked_sub(1)? } else { *byte });
    }
    String::from_utf8(key).ok()
}

fn of_job_prefix(id: &JobId) -> Vec<u8> {
    prefix(id.as_str().as_bytes())
}

fn full_key(id: &JobId, key: &str) -> Vec<u8> {
    [of_job_prefix(id), escaped(key)].concat()
}

/// The jobs that have a state.
pub fn jobs(disk: &Disk) -> Result<HashSet<JobId>> {
    let mut jobs = HashSet::new();
    for row in disk.rows(VALUE) {
        let (key, _) = row?;
        let id = key.split(|byte| *byte == 0).next().and_then(|id| std::str::from_utf8(id).ok());
        jobs.extend(id.and_then(|id| id.parse::<JobId>().ok()));
    }
    Ok(jobs)
}

/// All that is stored of one job.
pub fn of_job(disk: &Disk, id: &JobId) -> Result<Values> {
    let of_job = of_job_prefix(id);
    let mut values = Values::new();
    for row in disk.tree(VALUE).scan_prefix(&of_job) {
        let (key, piece) = row.map_err(broken)?;
        let key = piece_of(&key).and_then(|(key, _)| unescaped(key.get(of_job.len()..)?));
        if let (Some(key), Some(piece)) = (key, unseal(&piece)) {
            values.entry(key).or_default().extend_from_slice(piece);
        }
    }
    Ok(values)
}

impl Open {
    /// Adds what a turn changes of jobs' states to its transaction.
    pub(super) fn keep_values(&mut self, delta: &Delta, writes: &mut Writes) -> Result<()> {
        for (id, changes) in &delta.values {
            match changes {
                Some(changes) => {
                    for (key, value) in &changes.0 {
                        let key = full_key(id, key);
                        // Another run of the job may have ended in this turn with a longer value.
                        writes.remove_prefix(VALUE, &prefix(&key));
                        self.put_pieces(VALUE, &key, value.as_deref(), writes)?;
                    }
                    self.valued.insert(id.clone());
                }
                None => self.forget_values(id, writes)?,
            }
        }
        for id in &delta.touched {
            if self.valued.contains(id) && !self.table.contains(id) {
                self.forget_values(id, writes)?;
            }
        }
        Ok(())
    }

    fn forget_values(&mut self, id: &JobId, writes: &mut Writes) -> Result<()> {
        for key in self.disk.tree(VALUE).scan_prefix(of_job_prefix(id)).keys() {
            writes.remove(VALUE, key.map_err(broken)?.to_vec());
        }
        // What the same turn was to store goes too.
        writes.remove_prefix(VALUE, &of_job_prefix(id));
        self.valued.remove(id);
        Ok(())
    }

    /// Gives claimed runs the states of their jobs.
    pub(super) fn give_values(&self, claimed: &mut [Claimed]) -> Result<()> {
        let mut read: HashMap<JobId, Arc<Values>> = HashMap::new();
        for claimed in claimed.iter_mut().filter(|claimed| self.valued.contains(&claimed.job.id)) {
            let id = &claimed.job.id;
            if !read.contains_key(id) {
                read.insert(id.clone(), Arc::new(of_job(&self.disk, id)?));
            }
            claimed.values = read[id].clone();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_key_comes_back_without_zero_bytes(key in "[\\x00-\\x03a-c]{0,12}") {
            prop_assert!(!escaped(&key).contains(&0));
            prop_assert_eq!(unescaped(&escaped(&key)), Some(key));
        }

        #[test]
        fn any_bytes_as_a_key_end_without_panic(bytes: Vec<u8>) {
            let _ = unescaped(&bytes);
        }
    }
}
