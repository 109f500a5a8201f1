//! The stores that are held against the memory store, and how each dies.

use crate::steps::retention;
use chrono::{DateTime, Utc};
#[cfg(feature = "mysql")]
use sandclock::store::MysqlStore;
#[cfg(feature = "postgres")]
use sandclock::store::PostgresStore;
#[cfg(feature = "redis")]
use sandclock::store::RedisStore;
#[cfg(feature = "sqlite")]
use sandclock::store::SqliteStore;
use sandclock::store::{JobStore, Nodes, SharedOptions, SledOptions};
use sandclock::*;

/// A store that can die.
pub trait Other {
    fn store(&self) -> &dyn JobStore;
    /// The process dies, and another one opens the store.
    fn crash(&mut self, runtime: &tokio::runtime::Runtime, now: DateTime<Utc>);
}

pub struct Sled {
    home: tempfile::TempDir,
    store: Option<SledStore>,
}

impl Sled {
    pub fn new(now: DateTime<Utc>) -> Self {
        // In memory where there is such a place: crashes of the disk are the crash test's matter.
        let shm = std::path::Path::new("/dev/shm");
        let home = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
        let home = home.expect("a directory");
        let store = Some(Sled::open(home.path(), now));
        Sled { home, store }
    }

    fn open(home: &std::path::Path, now: DateTime<Utc>) -> SledStore {
        let options = SledOptions { retention: retention(), warm_jobs: 1, ..SledOptions::default() };
        SledStore::open(home, options, now).expect("the store opens")
    }
}

impl Other for Sled {
    fn store(&self) -> &dyn JobStore {
        self.store.as_ref().expect("it is open")
    }

    fn crash(&mut self, _: &tokio::runtime::Runtime, now: DateTime<Utc>) {
        drop(self.store.take());
        self.store = Some(Sled::open(self.home.path(), now));
    }
}

macro_rules! on_database {
    ($feature:literal, $name:ident, $store:ident) => {
        #[cfg(feature = $feature)]
        pub struct $name {
            url: String,
            store: $store,
        }

        #[cfg(feature = $feature)]
        impl $name {
            pub fn new(runtime: &tokio::runtime::Runtime, url: String) -> Self {
                let store = runtime.block_on(Self::open(&url));
                $name { url, store }
            }

            async fn open(url: &str) -> $store {
                // On a clock that only tests move, nothing is claimed ahead, and nobody waits for an executor.
                let (lead, patience) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
                let options = SharedOptions { retention: retention(), lead, patience, ..SharedOptions::default() };
                $store::connect(url, options).await.expect("the store opens")
            }
        }

        #[cfg(feature = $feature)]
        impl Other for $name {
            fn store(&self) -> &dyn JobStore {
                &self.store
            }

            fn crash(&mut self, runtime: &tokio::runtime::Runtime, _: DateTime<Utc>) {
                runtime.block_on(async {
                    self.store = Self::open(&self.url).await;
                    for node in self.store.list_nodes().await.expect("nodes").iter().filter(|node| !node.own) {
                        self.store.evict_node(node.lease).await.expect("the dead one is known to be dead");
                    }
                });
            }
        }
    };
}

on_database!("postgres", OnPostgres, PostgresStore);
on_database!("mysql", OnMysql, MysqlStore);
on_database!("sqlite", OnSqlite, SqliteStore);
on_database!("redis", OnRedis, RedisStore);
