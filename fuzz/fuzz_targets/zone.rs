//! Any text as the name of a time zone, an exclusion, a job's id, a function.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sandclock::{Exclusion, FuncRef, JobId, Zone};

fuzz_target!(|text: &str| {
    if let Ok(zone) = text.parse::<Zone>() {
        assert_eq!(zone.name().parse::<Zone>().unwrap(), zone);
    }
    if let Ok(exclusion) = text.parse::<Exclusion>() {
        assert_eq!(exclusion.to_string().parse::<Exclusion>().unwrap(), exclusion);
    }
    if let Ok(id) = text.parse::<JobId>() {
        assert_eq!(id.to_string().parse::<JobId>().unwrap(), id);
    }
    if let Ok(func) = text.parse::<FuncRef>() {
        assert_eq!(func.to_string().parse::<FuncRef>().unwrap(), func);
    }
});
