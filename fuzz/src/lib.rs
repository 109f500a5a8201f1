//! What the targets share: the laws of every trigger, and a sandbox.

pub mod guest;

use chrono::{DateTime, TimeDelta};
use sandclock::Trigger;

/// Whatever was accepted must print what reads back, mean the same in its normal form, and fire at
/// strictly increasing times; and asking must end.
pub fn hold(trigger: &Trigger, from: u32) {
    let from = DateTime::from_timestamp(i64::from(from), 0).unwrap();
    let trigger = trigger.clone().anchored(from);
    assert_eq!(trigger.to_string().parse::<Trigger>().unwrap(), trigger, "{trigger}");
    let json = serde_json::to_string(&trigger).unwrap();
    assert_eq!(serde_json::from_str::<Trigger>(&json).unwrap(), trigger, "{json}");
    let times = trigger.explain(from, 4).times;
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{trigger}: {times:?}");
    assert_eq!(trigger.normal().explain(from, 4).times, times, "{trigger} as {}", trigger.normal());
    if let Some(first) = times.first() {
        let start = trigger.start_time("job", first.to_utc());
        assert!(start >= first.to_utc());
        assert!(times.get(1).is_none_or(|second| start < second.to_utc() + TimeDelta::zero()));
    }
}
