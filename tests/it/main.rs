//! One binary for all integration tests, because wasmtime links slowly.

mod api;
mod cli;
mod day;
mod gate;
mod grants;
mod listeners;
mod operation;
mod page;
mod plugins;
mod sandbox;
mod scheduler;
mod stores;
mod transfer;
mod triggers;
mod verbs;
mod wire;
