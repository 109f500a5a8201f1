//! The `sandclock` command.

use sandclock::cli::{self, Cli};
use std::process::ExitCode;

// The store and the sandbox allocate a great deal; this is measurably faster than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(code) = sandclock::child_main() {
        return code;
    }
    match cli::run(Cli::read()) {
        Ok(code) => code,
        Err(failure) => cli::fail(&failure),
    }
}
