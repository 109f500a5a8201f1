//! Any line in any dialect: it is refused, or its search ends and increases, and what is printed
//! reads back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sandclock::{CronFields, Dialect, Dst, Trigger, Zone};

fuzz_target!(|input: (u8, u32, &str)| {
    let (choice, from, line) = input;
    let dialect = [Dialect::Crontab, Dialect::Quartz, Dialect::Apscheduler][usize::from(choice % 3)];
    let zone: Zone =
        ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia"][usize::from(choice / 3 % 4)].parse().unwrap();
    let trigger = if choice >= 192 {
        let mut texts = line.split('|').map(|text| Some(text.to_owned()).filter(|text| !text.is_empty()));
        let mut next = || texts.next().flatten();
        let fields = CronFields {
            hour: next(),
            minute: next(),
            day: next(),
            day_of_week: next(),
            month: next(),
            week: next(),
            year: next(),
            second: next(),
        };
        Trigger::fields(fields, zone)
    } else {
        Trigger::crontab(line, dialect, zone)
    };
    let Ok(trigger) = trigger else { return };
    let dst = [Dst::Once, Dst::Wall, Dst::Shift][usize::from(choice / 12 % 3)];
    sandclock_fuzz::hold(&trigger.dst(dst), from);
});
