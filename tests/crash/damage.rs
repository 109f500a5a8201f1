//! Damaged files: a diagnosis with the way back, or sound data; never a panic, never wrong data.

use crate::Random;
use crate::worker;
use sandclock::store::{Change, Conflict, JobStore, Turn, recover};
use sandclock::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const JOBS: usize = 300;

pub fn rounds(rounds: usize) -> String {
    // The panics of a library that meets damage are part of its diagnosis.
    std::panic::set_hook(Box::new(|info| {
        if std::thread::current().name() != Some(sandclock::store::OPENER_THREAD) {
            eprintln!("{info}");
        }
    }));
    let origin = tempfile::tempdir().unwrap();
    let sound = origin.path().join("home");
    let expected = fill(&sound);
    let files = files(&sound.join("db"));
    let (mut diagnosed, mut unharmed) = (0, 0);
    for seed in 0..rounds as u64 {
        let scratch = tempfile::tempdir().unwrap();
        let home = scratch.path().join("home");
        copy(&sound, &home);
        let mut random = Random::new(seed + 1);
        let file = &files[random.below(files.len() as u64) as usize];
        let damage = spoil(&home.join("db").join(file), &mut random);
        match SledStore::open(&home, worker::options(), chrono::Utc::now()) {
            Ok(store) => {
                assert!(contents(&store) == expected, "round {seed}: {damage} in {file:?} gave wrong data");
                unharmed += 1;
            }
            Err(error @ (Error::StoreDamaged { .. } | Error::StoreFormat { .. } | Error::StoreFailed { .. })) => {
                let text = error.chain();
                assert!(!text.contains('\n') && text.contains("store"), "round {seed}: {text}");
                diagnosed += 1;
                if matches!(error, Error::StoreDamaged { .. }) {
                    assert!(text.contains("recover"), "round {seed}: no way back in: {text}");
                    let recovered = recover(&home, chrono::Utc::now()).unwrap();
                    assert_eq!(recovered.jobs, JOBS, "round {seed}: the export has every job");
                    assert!(recovered.kept.exists(), "the damaged files are kept");
                    let store = SledStore::open(&home, worker::options(), chrono::Utc::now()).unwrap();
                    assert_eq!(contents(&store).len(), JOBS);
                }
            }
            Err(error) => panic!("round {seed}: {damage} in {file:?}: {}", error.chain()),
        }
    }
    let _ = std::panic::take_hook();
    format!("{rounds} damaged files: {diagnosed} diagnosed, {unharmed} without effect, none gave wrong data")
}

/// Makes a store with jobs in it, closes it, and says what it holds.
fn fill(home: &Path) -> BTreeMap<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let now = chrono::Utc::now();
    let store = SledStore::open(home, worker::options(), now).unwrap();
    let change = |n: usize| {
        let trigger = Trigger::crontab("0 9 * * *", Dialect::Crontab, Zone::utc()).unwrap();
        let mut job = Job::new(format!("job-{n}").parse().unwrap(), "hello:greet".parse().unwrap(), trigger);
        job.args = vec![serde_json::json!("y".repeat(n * 20))];
        Change::Add { job: Box::new(job), paused: n.is_multiple_of(3), conflict: Conflict::Refuse, first: None }
    };
    for chunk in (0..JOBS).collect::<Vec<_>>().chunks(30) {
        let changes = chunk.iter().map(|n| change(*n)).collect();
        runtime.block_on(store.turn(Turn { now, changes, ..Turn::default() })).unwrap();
    }
    let contents = contents(&store);
    runtime.block_on(store.close()).unwrap();
    contents
}

/// Every job, whole.
fn contents(store: &SledStore) -> BTreeMap<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let page = Page { after: None, limit: 1000 };
    let list = runtime.block_on(store.list_jobs(&JobFilter::default(), &page)).unwrap();
    list.items.into_iter().map(|entry| (entry.id.to_string(), format!("{:?} {:?}", entry.job, entry.state))).collect()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let name = PathBuf::from(entry.file_name());
        // The large file holds nearly everything: most of the damage goes there.
        let share = if name.ends_with("db") { 8 } else { 1 };
        if entry.file_type().unwrap().is_file() && entry.metadata().unwrap().len() > 0 {
            files.extend(std::iter::repeat_n(name, share));
        }
    }
    files.sort();
    files
}

fn spoil(file: &Path, random: &mut Random) -> String {
    let mut bytes = std::fs::read(file).unwrap();
    // A log file is mostly room for later: aim at the part in use.
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1) as u64;
    let at = random.below(used) as usize;
    let damage = match random.below(4) {
        0 => {
            bytes[at] ^= 1 << random.below(8);
            format!("a flipped bit at {at}")
        }
        1 => {
            let end = bytes.len().min(at + 512);
            bytes[at..end].fill(0);
            format!("zeroes at {at}")
        }
        2 => {
            bytes.truncate(at);
            format!("the end lost from {at}")
        }
        _ => {
            let end = bytes.len().min(at + 512);
            bytes[at..end].iter_mut().for_each(|byte| *byte = random.below(256) as u8);
            format!("garbage at {at}")
        }
    };
    std::fs::write(file, bytes).unwrap();
    damage
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
