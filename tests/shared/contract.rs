//! Every store keeps the contract.

use crate::servers::{Databases, Files, Server};
use sandclock::store::{JobStore, PluginStore, SharedOptions, conformance};
use sha2::Digest as _;

/// On a clock that only tests move, nothing is claimed ahead.
fn virtual_time() -> SharedOptions {
    SharedOptions { lead: std::time::Duration::ZERO, patience: std::time::Duration::ZERO, ..SharedOptions::default() }
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

async fn keeps_the_contract<S: JobStore + PluginStore>(
    server: impl Databases,
    open: impl AsyncFn(String, SharedOptions) -> S,
) {
    let open = async || open(server.database(), virtual_time()).await;
    conformance::check(&open).await;
    a_large_component_comes_back_whole(&open().await).await;
}

test_on!(postgres_keeps_the_contract, "postgres", PostgresStore, Server::postgres(false), keeps_the_contract);
test_on!(mysql_keeps_the_contract, "mysql", MysqlStore, Server::mariadb(false), keeps_the_contract);
test_on!(sqlite_keeps_the_contract, "sqlite", SqliteStore, Files::new(), keeps_the_contract);
test_on!(redis_keeps_the_contract, "redis", RedisStore, Server::redis(true), keeps_the_contract);
