//! The hostile corpus: components that attack their host, each run behind both walls. A case ends in
//! its class and in time; this process, which stands for the daemon, keeps its memory, files and tasks;
//! a neighbour's runs are on time meanwhile. `ledger.rs` says where each of the 148 cases is shown.
//!
//! Groups run one after the other, because they measure. `SANDCLOCK_HOSTILE_SLOW=1` adds what takes
//! minutes.

mod abi;
mod binaries;
mod bombs;
mod deaths;
mod fake;
mod files;
mod heap;
mod ledger;
mod log;
mod measure;
mod memory;
mod network;
mod processor;
mod texts;
mod wall;

#[global_allocator]
static ALLOCATOR: heap::Counted = heap::Counted;

/// Whether what takes minutes is wanted too.
pub fn slow() -> bool {
    std::env::var_os("SANDCLOCK_HOSTILE_SLOW").is_some()
}
