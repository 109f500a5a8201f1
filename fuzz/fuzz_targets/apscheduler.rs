//! Any text as an export of APScheduler, pickles and all.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sandclock::bundle::apscheduler;

fuzz_target!(|text: &str| {
    if let Ok(imported) = apscheduler::read(text) {
        assert!(imported.jobs.iter().all(|imported| imported.job.validate().is_ok()));
    }
});
