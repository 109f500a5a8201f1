//! Three daemons on one PostgreSQL, and everything that can go wrong between them: processes that are
//! killed, at points of a commit too, or stopped for longer than their lease and woken again; networks
//! that are cut, one way or both, or slow; a server that restarts at once; clocks that are five minutes
//! wrong; a snapshot that is held. Then a checker reads what was recorded.
//!
//! `FAULTS_SECONDS` says how long (75 unless given), `FAULTS_SEED` repeats an order of faults. Network
//! namespaces need root.

mod checker;
mod cluster;
mod history;
mod proxy;
#[path = "../servers/mod.rs"]
mod servers;
mod witness;

use cluster::{Cluster, Fault};
use std::time::{Duration, Instant};

const NODES: usize = 3;
/// How long everything may take to come to rest when the faults are over.
const REST_TIME_MAX: Duration = Duration::from_secs(90);
/// Runs of one job that its store keeps.
const KEPT: u64 = 900;

#[test]
fn three_nodes_lose_nothing_and_run_nothing_twice_whatever_happens() {
    if !servers::there("postgres") || !cluster::is_possible() {
        return;
    }
    let seconds = std::env::var("FAULTS_SECONDS").map_or(75, |text| text.parse().expect("a number"));
    let seed =
        std::env::var("FAULTS_SEED").map_or_else(|_| u64::from(std::process::id()), |s| s.parse().expect("a number"));
    eprintln!("FAULTS_SEED={seed}");
    let mut random = Random(seed);
    let every = 1 + seconds / KEPT;
    let jobs = if seconds > 600 { 140 } else { 24 };
    let mut cluster = Cluster::start(NODES);
    cluster.add_jobs(jobs, every);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut faults = 0;
    while Instant::now() < until {
        std::thread::sleep(Duration::from_millis(500 + random.below(2500)));
        let node = random.below(NODES as u64) as usize;
        let fault = match random.below(14) {
            0 | 1 => Fault::Kill,
            2 => Fault::KillBeforeCommit,
            3 => Fault::KillAtCommit,
            4 => Fault::KillAfterCommit,
            5 | 6 => Fault::Stop(Duration::from_secs(4 + random.below(5))),
            7 => Fault::Cut { to: true, from: true, for_: Duration::from_secs(1 + random.below(8)) },
            8 => Fault::Cut { to: true, from: false, for_: Duration::from_secs(1 + random.below(8)) },
            9 => Fault::Cut { to: false, from: true, for_: Duration::from_secs(1 + random.below(8)) },
            10 => Fault::Slow(Duration::from_millis(100 + random.below(300)), Duration::from_secs(4)),
            11 | 12 => Fault::LoseAnswer,
            _ if random.below(3) == 0 => Fault::RestartServer,
            _ => Fault::HoldSnapshot(Duration::from_secs(8)),
        };
        cluster.inflict(node, fault);
        faults += 1;
    }
    cluster.heal();
    let end = history::now();
    let history = cluster.rest(end, REST_TIME_MAX);
    let found = checker::check(&history);
    eprintln!(
        "{} firings, {} effects, {} leases, {} interrupted, {faults} faults",
        history.runs.len(),
        history.effects.len(),
        history.leases.len(),
        history.runs.iter().filter(|run| run.outcome == "interrupted").count(),
    );
    assert!(
        found.is_empty(),
        "FAULTS_SEED={seed}: {} violations, the first are {:#?}",
        found.len(),
        &found[..found.len().min(8)]
    );
    assert!(history.runs.len() as u64 > seconds / every * jobs / 2, "and something ran");
    for plant in checker::PLANTS {
        assert!(plant.is_found(&history), "the checker does not see: {}", plant.what);
    }
}

/// Numbers that look random and are the same each time (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}
