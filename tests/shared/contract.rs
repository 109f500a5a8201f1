//! Every store keeps the contract.

use crate::servers::Server;
use sandclock::store::{PostgresStore, SharedOptions, conformance};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_keeps_the_contract() {
    let server = Server::postgres(false);
    conformance::check(async || {
        PostgresStore::connect(&server.database(), SharedOptions::default()).await.expect("the store opens")
    })
    .await;
}
