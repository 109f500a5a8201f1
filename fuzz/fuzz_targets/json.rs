//! Any JSON as a trigger.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sandclock::Trigger;

fuzz_target!(|input: (u32, &str)| {
    let (from, json) = input;
    if let Ok(trigger) = serde_json::from_str::<Trigger>(json) {
        sandclock_fuzz::hold(&trigger, from);
    }
});
