//! Power loss: whatever was not synced may be lost, kept, or half kept, at any moment, also while
//! opening. A library that is loaded before the worker records what it does to its files; from that
//! record, directories are made as a power cut could have left them.

use crate::replay::{Names, Op, acks, parse, replay, start};
use crate::verify::Told;
use crate::{Random, worker};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Recorded lives from which the cuts are taken; each goes on where the one before it ended.
const LIVES: usize = 4;

pub fn rounds(rounds: usize) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let Some(shim) = compile(scratch.path()) else {
        return "skipped: there is no C compiler for the recorder".into();
    };
    let (mut cuts, mut opening, mut events) = (0, 0, 0);
    // The directory above the home is recorded, so that making the home is at risk too.
    let dir = scratch.path().join("machine");
    std::fs::create_dir(&dir).unwrap();
    let mut before = Told::default();
    for life in 0..LIVES {
        let log = record(&shim, &dir, scratch.path(), life);
        let records = parse(&log);
        let first = start(&records);
        let blobs = records.iter().any(|record| record.op == Op::Create && record.name.parse::<u64>().is_ok());
        assert!(!blobs, "sled made a blob file, whose contents it never syncs");
        check_recorder(&records, &dir, scratch.path(), life);
        let opened = records.iter().position(|record| record.op == Op::Ack).expect("the worker came to work");
        for round in 0..rounds.div_ceil(LIVES) {
            let seed = (life * 1000 + round) as u64 + 1;
            let mut random = Random::new(seed);
            // A third of the cuts hit the opening.
            let end = if round % 3 == 0 { opened } else { records.len() };
            let cut = first + random.below((end - first) as u64 + 1) as usize;
            opening += usize::from(cut <= opened);
            let left = scratch.path().join(format!("left-{seed}"));
            replay(&records[..cut], seed, Names::Journal, &left).unwrap();
            let mut told = before.clone();
            told.hear(&acks(&records[..cut]));
            // The first home may not have been made yet: opening makes it, which is what is checked.
            events += told.check(&left.join("home"));
            std::fs::remove_dir_all(left).unwrap();
            cuts += 1;
        }
        before.hear(&acks(&records));
    }
    assert!(events > 0, "the load was real");
    format!("{cuts} power cuts ({opening} of them while opening), every one opened, nothing acknowledged was lost")
}

/// The recorder as a shared library, if this machine can make one.
fn compile(scratch: &Path) -> Option<PathBuf> {
    let shim = scratch.join("shim.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/crash/shim.c");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O2", "-o"]).arg(&shim).args([source, "-ldl", "-lpthread"]);
    match cc.status() {
        Ok(status) => {
            assert!(status.success(), "the recorder does not compile");
            Some(shim)
        }
        Err(_) => None,
    }
}

/// One life of the worker, recorded.
fn record(shim: &Path, dir: &Path, scratch: &Path, life: usize) -> Vec<u8> {
    let (log, acks) = (scratch.join(format!("log-{life}")), scratch.join(format!("acks-{life}")));
    let status = Command::new(std::env::current_exe().unwrap())
        .env(worker::HOME, dir.join("home"))
        .env(worker::ACKS, &acks)
        .env(worker::LASTS, "500")
        .env("SHIM_DIR", dir)
        .env("SHIM_LOG", &log)
        .env("SHIM_ACK", &acks)
        .env("LD_PRELOAD", shim)
        .status();
    assert!(status.unwrap().success(), "the worker failed");
    std::fs::read(log).unwrap()
}

/// The record is whole: replayed without a power cut it gives the directory that is there.
fn check_recorder(records: &[crate::replay::Record<'_>], dir: &Path, scratch: &Path, life: usize) {
    let out = scratch.join(format!("whole-{life}"));
    replay(records, 0, Names::Everything, &out).unwrap();
    let (real, replayed) = (contents(dir), contents(&out));
    let names = |of: &BTreeMap<PathBuf, Vec<u8>>| of.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&real), names(&replayed), "the recorder missed a name");
    for (name, bytes) in &real {
        // The lock file holds a process number and nothing that matters.
        assert!(bytes == &replayed[name] || name.ends_with("lock"), "the recorder missed a write to {name:?}");
    }
    std::fs::remove_dir_all(out).unwrap();
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(at) = dirs.pop() {
        for entry in std::fs::read_dir(dir.join(&at)).unwrap().flatten() {
            let name = at.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                dirs.push(name);
            } else {
                found.insert(name, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}
