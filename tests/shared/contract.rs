//! Every store keeps the contract.

use crate::servers::Server;
use sandclock::store::{PostgresStore, SharedOptions, conformance};

/// On a clock that only tests move, nothing is claimed ahead.
fn virtual_time() -> SharedOptions {
    SharedOptions { lead: std::time::Duration::ZERO, ..SharedOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_keeps_the_contract() {
    let server = Server::postgres(false);
    conformance::check(async || {
        PostgresStore::connect(&server.database(), virtual_time()).await.expect("the store opens")
    })
    .await;
}
