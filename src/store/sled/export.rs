//! The way back from a damaged database: plugins and jobs as dated JSON files, written by
//! themselves, and read again by `recover`.

use super::disk::{DirLock, Disk, HOT, JOB, PLUGIN, Writes, note_path};
use super::{codec, encode_job};
use crate::bundle::{self, Bundle, BundledJob};
use crate::error::{Error, Result};
use crate::files::write_whole;
use crate::func::PluginName;
use crate::job::{JobId, JobState, Question};
use crate::plugin::Plugin;
use crate::store::JobFilter;
use crate::store::row::{self, Standing};
use crate::store::table::Table;
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Exports kept.
const EXPORTS_KEPT: usize = 14;

/// What `recover` brought back.
#[derive(Debug, Clone, Serialize)]
pub struct Recovered {
    /// Where the damaged files are now.
    pub kept: PathBuf,
    /// The export that was read; absent if there was none.
    pub from: Option<PathBuf>,
    pub plugins: usize,
    pub jobs: usize,
    /// Jobs of the export that would not fire again, or whose one time is past: they may have run.
    pub left_out: Vec<JobId>,
}

/// Whether there is no export of today yet.
pub fn is_due(home: &Path, now: DateTime<Utc>) -> bool {
    !path(home, now).exists()
}

/// Writes today's export over an earlier one of today.
pub fn write(home: &Path, now: DateTime<Utc>, plugins: &BTreeMap<PluginName, Plugin>, table: &Table) {
    let every = JobFilter::default();
    let jobs = table.entries(None, &every).filter_map(|entry| {
        let JobState { paused, quarantine, started, .. } = entry.state;
        entry.job.map(|job| BundledJob { job: (*job).clone(), paused, quarantine, started })
    });
    let (plugins, jobs) = (plugins.values().cloned().collect(), jobs.collect());
    let export = Bundle { version: bundle::VERSION, exported: now, plugins, components: BTreeMap::new(), jobs };
    let written = serde_json::to_vec_pretty(&export).map_err(std::io::Error::from);
    if let Err(error) = written.and_then(|bytes| write_whole(&path(home, now), &[&bytes])) {
        tracing::warn!(%error, "cannot write the automatic export of plugins and jobs");
    }
    let exports = all(home);
    for old in exports.iter().rev().skip(EXPORTS_KEPT) {
        let _ = std::fs::remove_file(old);
    }
}

fn path(home: &Path, now: DateTime<Utc>) -> PathBuf {
    home.join("exports").join(format!("{}.json", now.format("%Y-%m-%d")))
}

/// Exports by date, oldest first.
fn all(home: &Path) -> Vec<PathBuf> {
    let dir = std::fs::read_dir(home.join("exports"));
    let mut paths: Vec<PathBuf> = dir.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    paths
}

/// Moves the database of `home` aside and makes a new one from the newest export that can be read.
/// Refused if the database is sound.
pub fn recover(home: &Path, now: DateTime<Utc>) -> Result<Recovered> {
    let lock = DirLock::take(home)?;
    match Disk::open(home) {
        Err(Error::StoreDamaged { .. }) => {}
        Err(other) => return Err(other),
        Ok(_) => {
            let sound = crate::invalid::Invalid::new("recovery", "", "the store is sound, there is nothing to recover");
            return Err(Error::Invalid(sound));
        }
    }
    let kept = home.join(format!("db.damaged-{}", now.format("%Y%m%dT%H%M%S%.3fZ")));
    let moved = std::fs::rename(home.join("db"), &kept);
    match moved {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::host("cannot move the damaged database aside", e));
        }
        _ => {}
    }
    let _ = std::fs::remove_file(note_path(&home.join("db")));
    let read = |path: &PathBuf| -> Option<Bundle> {
        let bytes = std::fs::read(path).ok()?;
        serde_json::from_slice(&bytes).ok()
    };
    let found = all(home).into_iter().rev().find_map(|path| read(&path).map(|export| (path, export)));
    let mut disk = Disk::open(home)?;
    let (from, export) = found.unzip();
    let (plugins, jobs, left_out) = match export {
        None => (0, 0, Vec::new()),
        Some(export) => restore(&mut disk, now, &export)?,
    };
    drop(lock);
    Ok(Recovered { kept, from, plugins, jobs, left_out })
}

fn restore(disk: &mut Disk, now: DateTime<Utc>, export: &Bundle) -> Result<(usize, usize, Vec<JobId>)> {
    let encode = |e| Error::host("cannot encode a record", e);
    let mut writes = Writes::default();
    for plugin in &export.plugins {
        for (key, value) in codec::pieces(plugin.name.as_str().as_bytes(), &serde_json::to_vec(plugin).map_err(encode)?)
        {
            writes.put(PLUGIN, key, value);
        }
    }
    let mut jobs = 0;
    let mut left_out = Vec::new();
    for bundled in &export.jobs {
        let BundledJob { job, paused, quarantine, started } = bundled;
        let next = bundled.continued(now).map(|job| job.trigger.next_fire_time(None, now));
        let Some(next_run_time) = next else {
            left_out.push(job.id.clone());
            continue;
        };
        let key = job.id.as_str().as_bytes();
        let mut state = JobState {
            next_run_time,
            question: next_run_time.is_none().then_some(Question { previous: None }),
            paused: *paused,
            quarantine: quarantine.clone(),
            started: *started,
            ..JobState::default()
        };
        state.expect_success(job, now);
        let standing = Standing { executor: job.executor.clone(), priority: job.priority, due: state.due(job) };
        writes.put(HOT, key.to_vec(), codec::seal(&row::encode(&state, &standing)));
        let bytes = encode_job(job)?;
        for (key, value) in codec::pieces(key, &bytes) {
            writes.put(JOB, key, value);
        }
        jobs += 1;
    }
    disk.commit(writes)?;
    Ok((export.plugins.len(), jobs, left_out))
}
