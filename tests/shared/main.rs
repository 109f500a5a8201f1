//! Stores that several processes share, on private servers of the databases that they are for.

/// A test on one database: `$body` is given a server, and how a store is opened on it.
macro_rules! test_on {
    ($name:ident, $feature:literal, $store:ident, $server:expr, $body:path) => {
        #[cfg(feature = $feature)]
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            if !crate::servers::there($feature) {
                return;
            }
            let open = async |url: String, options| {
                sandclock::store::$store::connect(&url, options).await.expect("the store opens")
            };
            $body($server, open).await;
        }
    };
}

#[cfg(feature = "postgres")]
mod ahead;
#[cfg(feature = "postgres")]
mod apart;
mod contract;
mod forgets;
#[cfg(feature = "postgres")]
mod serve;
#[path = "../servers/mod.rs"]
mod servers;
mod standby;
mod together;
