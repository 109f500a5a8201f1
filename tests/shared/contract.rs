//! Every store keeps the contract.

use sandclock::store::{PluginStore, SharedOptions, conformance};
use sha2::Digest as _;

/// On a clock that only tests move, nothing is claimed ahead.
fn virtual_time() -> SharedOptions {
    SharedOptions { lead: std::time::Duration::ZERO, ..SharedOptions::default() }
}

/// What a server may not take in one piece.
async fn a_large_component_comes_back_whole(store: &impl PluginStore) {
    for size in [(40 << 20) + 7, 3 << 20, 0] {
        let bytes: Vec<u8> = (0..size).map(|n: usize| (n % 251) as u8).collect();
        let digest: String = sha2::Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        store.put_component(&digest, &bytes).await.expect("it is stored");
        assert!(store.component(&digest).await.expect("a read").is_some_and(|stored| stored == bytes));
    }
}

macro_rules! keeps_the_contract {
    ($name:ident, $feature:literal, $store:ident, $place:expr) => {
        #[cfg(feature = $feature)]
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            use sandclock::store::$store;
            if !crate::servers::there($feature) {
                return;
            }
            let place = $place;
            let open = async || $store::connect(&place.database(), virtual_time()).await.expect("the store opens");
            conformance::check(&open).await;
            a_large_component_comes_back_whole(&open().await).await;
        }
    };
}

keeps_the_contract!(postgres_keeps_the_contract, "postgres", PostgresStore, crate::servers::Server::postgres(false));
keeps_the_contract!(mysql_keeps_the_contract, "mysql", MysqlStore, crate::servers::Server::mariadb(false));
keeps_the_contract!(sqlite_keeps_the_contract, "sqlite", SqliteStore, crate::servers::Files::new());
keeps_the_contract!(redis_keeps_the_contract, "redis", RedisStore, crate::servers::Server::redis(true));
