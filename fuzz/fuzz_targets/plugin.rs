//! Any bytes as a plugin: they are refused in one sentence, or they are loaded, and what they export
//! without parameters runs to an end.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sandclock::sandbox::digest;
use sandclock_fuzz::guest::{self, SANDBOX};

const BYTES_MAX: usize = 64 << 10;

fuzz_target!(|bytes: &[u8]| {
    if bytes.len() > BYTES_MAX {
        return;
    }
    match SANDBOX.inspect(bytes) {
        Err(error) => assert!(guest::reason(error).len() < 10_000),
        Ok(interface) => {
            let plugin = guest::load(bytes).expect("what is accepted once is accepted again");
            let without = interface.exports.iter().find(|export| export.signature.starts_with("func()"));
            if let Some(job) = without.and_then(|export| guest::job(&export.name, vec![])) {
                guest::call(plugin.bind(&job).expect("it takes no arguments"), &job);
            }
            SANDBOX.forget(&digest(bytes));
        }
    }
});
