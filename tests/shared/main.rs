//! Stores that several processes share, on private servers of the databases that they are for.

#[cfg(feature = "postgres")]
mod ahead;
mod contract;
#[path = "../servers/mod.rs"]
mod servers;
mod standby;
mod together;
