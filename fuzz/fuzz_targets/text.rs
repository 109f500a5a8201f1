//! Any text: it is refused in a short sentence without control characters, or it is a trigger that
//! keeps the laws.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sandclock::{Dialect, Trigger, Zone, parse_duration, parse_time};

fuzz_target!(|input: (u32, &str)| {
    let (from, text) = input;
    let _ = parse_time(text, Zone::utc());
    let _ = parse_duration(text);
    match Trigger::parse(text, Zone::utc(), Dialect::Crontab) {
        Ok(trigger) => sandclock_fuzz::hold(&trigger, from),
        Err(error) => {
            let error = error.to_string();
            assert!(error.len() < 2000 && !error.contains(|c: char| c.is_control()), "{error:?}");
        }
    }
});
