//! All integration tests in one binary: the engine links slowly.

mod cli;
mod sandbox;
mod scheduler;
mod stores;
