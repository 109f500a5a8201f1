//! Random sequences of verbs, clock moves, completions and crashes, on the memory store and the sled
//! store at once, beside a ledger that knows nothing of how a store works (`ledger`): no fire time
//! lost, none run twice, events in order, and both stores equal after every step.
//!
//! `MODEL_SEQUENCES` says how many (10 000 unless given), `MODEL_SEED` runs one of them again.

mod ledger;
mod steps;

use std::sync::atomic::{AtomicU64, Ordering};

/// Sequences that one home sees before a new one is made.
const SEQUENCES_PER_HOME: u64 = 100;

#[test]
fn random_sequences_lose_nothing_and_run_nothing_twice() {
    if let Ok(seed) = std::env::var("MODEL_SEED") {
        return steps::Pair::new().sequence(seed.parse().expect("a number"));
    }
    let count = std::env::var("MODEL_SEQUENCES").map_or(10_000, |text| text.parse().expect("a number"));
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while next.load(Ordering::Relaxed) < count {
                    let first = next.fetch_add(SEQUENCES_PER_HOME, Ordering::Relaxed);
                    let mut pair = steps::Pair::new();
                    for seed in first..count.min(first + SEQUENCES_PER_HOME) {
                        let failed = std::panic::AssertUnwindSafe(|| pair.sequence(seed));
                        if let Err(panic) = std::panic::catch_unwind(failed) {
                            eprintln!("the sequence was MODEL_SEED={seed}");
                            std::panic::resume_unwind(panic);
                        }
                    }
                }
            });
        }
    });
}
