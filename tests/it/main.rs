//! One binary for all integration tests, because wasmtime links slowly.

mod cli;
mod day;
mod grants;
mod listeners;
mod plugins;
mod sandbox;
mod scheduler;
mod stores;
mod transfer;
mod triggers;
mod verbs;
