//! All integration tests in one binary: the engine links slowly.

mod cli;
mod plugins;
mod sandbox;
mod scheduler;
mod stores;
mod triggers;
