//! The `sandclock` command.

use clap::Parser;
use sandclock::cli::{self, Cli};
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(code) => code,
        Err(failure) => cli::fail(&failure),
    }
}
