//! Random sequences of verbs, clock moves, completions and crashes, on the memory store and another
//! store at once, beside a ledger that knows nothing of how a store works (`ledger`): no fire time
//! lost, none run twice, events in order, and both stores equal after every step.
//!
//! `MODEL_SEQUENCES` says how many (10 000 on the sled store unless given, and a fiftieth of that on each
//! database), `MODEL_SEED` runs one of them again.

mod ledger;
#[path = "../servers/mod.rs"]
mod servers;
mod steps;
mod stores;

use servers::{Databases, Files, Server};
use std::sync::atomic::{AtomicU64, Ordering};

/// Sequences that one home sees before a new one is made.
const SEQUENCES_PER_HOME: u64 = 100;

/// Of the sequences on the sled store, those on a database.
const ON_DATABASES: u64 = 50;

#[test]
fn random_sequences_lose_nothing_and_run_nothing_twice() {
    sequences(10_000, |_, now| Box::new(stores::Sled::new(now)));
}

macro_rules! nor_on {
    ($name:ident, $feature:literal, $store:ident, $server:expr) => {
        #[cfg(feature = $feature)]
        #[test]
        fn $name() {
            if !servers::there($feature) {
                return;
            }
            let server = $server;
            sequences(10_000 / ON_DATABASES, |runtime, _| Box::new(stores::$store::new(runtime, server.database())));
        }
    };
}

nor_on!(nor_on_postgres, "postgres", OnPostgres, Server::postgres(false));
nor_on!(nor_on_mysql, "mysql", OnMysql, Server::mariadb(false));
nor_on!(nor_on_sqlite, "sqlite", OnSqlite, Files::new());
nor_on!(nor_on_redis, "redis", OnRedis, Server::redis(false));

type Make<'a> = dyn Fn(&tokio::runtime::Runtime, chrono::DateTime<chrono::Utc>) -> Box<dyn stores::Other> + Sync + 'a;

fn sequences(
    count: u64,
    make: impl Fn(&tokio::runtime::Runtime, chrono::DateTime<chrono::Utc>) -> Box<dyn stores::Other> + Sync,
) {
    let make: &Make<'_> = &make;
    if let Ok(seed) = std::env::var("MODEL_SEED") {
        return steps::Pair::new(make).sequence(seed.parse().expect("a number"));
    }
    let count = std::env::var("MODEL_SEQUENCES").map_or(count, |text| text.parse().expect("a number"));
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while next.load(Ordering::Relaxed) < count {
                    let first = next.fetch_add(SEQUENCES_PER_HOME, Ordering::Relaxed);
                    if first >= count {
                        return;
                    }
                    let mut pair = steps::Pair::new(make);
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
