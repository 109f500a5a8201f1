//! The forms of a trigger: text, JSON, normal form, English both ways.

use super::{time, zone};
use proptest::prelude::*;
use sandclock::{CronFields, Dialect, Dst, Exclusion, Trigger};
use std::time::Duration;

fn parsed(text: &str) -> Trigger {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The text form of what was read.
fn echoes(cases: &[(&str, &str)]) {
    for (text, expect) in cases {
        let trigger = parsed(text);
        assert_eq!(trigger.to_string(), *expect, "{text}");
        assert_eq!(parsed(expect), trigger, "{text}");
    }
}

#[test]
fn plain_english_is_read_where_it_can_mean_one_thing() {
    echoes(&[
        ("every day at 9", "cron 0 9 * * *"),
        ("Every day at 9 AM", "cron 0 9 * * *"),
        ("daily at midnight", "cron 0 0 * * *"),
        ("every 15 minutes", "every 15m"),
        ("every hour", "every 1h"),
        ("every 1h 30m", "every 1h 30m"),
        ("every 90 minutes", "every 1h 30m"),
        ("every 2 days", "every 2d"),
        ("every weekday at 9:30", "cron 30 9 * * mon-fri"),
        ("at 9:30 on weekdays", "cron 30 9 * * mon-fri"),
        ("every weekend at noon", "cron 0 12 * * sat,sun"),
        ("every monday and thursday at 8pm", "cron 0 20 * * mon,thu"),
        ("on mondays, wednesdays and fridays at 6:15", "cron 15 6 * * mon,wed,fri"),
        ("every monday to thursday at 17:00:30", "cron 30 0 17 * * mon,tue,wed,thu"),
        ("every 2 hours and 30 minutes", "every 2h 30m"),
        ("on the 2nd friday of each month at 9", "cron 0 9 * * fri#2"),
        ("every second monday of the month at 9", "cron 0 9 * * mon#2"),
        ("every 25 december at 8", "cron 0 8 25 dec *"),
        ("at 2027-01-01T09:00Z", "at 2027-01-01T09:00:00Z"),
        ("on 2027-03-15 at 9", "at 2027-03-15T09:00:00Z"),
        ("every hour at :15 and :45", "cron 15,45 * * * *"),
        ("every monday, tues and thurs at 9", "cron 0 9 * * mon,tue,thu"),
        ("every friday to monday at 9", "cron 0 9 * * mon,fri,sat,sun"),
        ("every day at 9 except weekends and 2026-12-25", "(cron 0 9 * * *) except sat, sun, 2026-12-25"),
        ("every day at 9 except on sundays", "(cron 0 9 * * *) except sun"),
        ("every day at 9 jitter 5 minutes max-runs 3", "cron 0 9 * * * jitter 5m max-runs 3"),
        ("cron day=\"last fri\" hour=\"17\"", "cron day='last fri' hour='17'"),
        ("@EVERY 90s", "every 1m 30s"),
        ("quartz 0 0 9 1 1 ? 2150", "quartz 0 0 9 1 1 ? 2150"),
        ("every day at 9 and 17", "cron 0 9,17 * * *"),
        ("every day at 9:00 and 17:30", "(cron 0 9 * * *) or (cron 30 17 * * *)"),
        ("on the last friday of each month at 17:00", "cron 0 17 * * friL"),
        ("every last day of the month at 23:59", "cron 59 23 L * *"),
        ("on the first and third monday of every month at 8", "cron 0 8 * * mon#1,mon#3"),
        ("on the 1st and 15th of each month at 6", "cron 0 6 1,15 * *"),
        ("monthly on the 1st at 00:00", "cron 0 0 1 * *"),
        ("on the last weekday of the month at 16:00", "cron 0 16 LW * *"),
        ("every year on march 1 at 9", "cron 0 9 1 mar *"),
        ("on 25 december at 8", "cron 0 8 25 dec *"),
        ("every day in july and august at 9", "cron 0 9 * jul,aug *"),
        ("every hour at :15", "cron 15 * * * *"),
        ("every 15 minutes on weekdays between 9 and 17", "cron */15 9-16 * * mon-fri"),
        ("every 2 hours on sundays", "cron 0 */2 * * sun"),
        ("every day at 9 Europe/Berlin", "cron 0 9 * * * in Europe/Berlin"),
        ("every day at 9 in europe/berlin", "cron 0 9 * * * in Europe/Berlin"),
        ("at 2027-01-01 09:00 Europe/Berlin", "at 2027-01-01T09:00:00+01:00 in Europe/Berlin"),
        ("at 2027-01-01 9am", "at 2027-01-01T09:00:00Z"),
        ("every 1 month at 09:00", "every 1 month at 09:00"),
        ("every 2 weeks at 9 from 2027-01-04", "every 2 weeks at 09:00 from 2027-01-04"),
        ("every day at 9 except sun, 2026-12-25", "(cron 0 9 * * *) except sun, 2026-12-25"),
        (
            "every day at 9 in Europe/Berlin until 2027-01-01",
            "cron 0 9 * * * in Europe/Berlin end 2027-01-01T00:00:00+01:00",
        ),
    ]);
}

#[test]
fn what_could_mean_two_things_is_refused_with_a_way_out() {
    for (text, reason) in [
        ("", "it is empty"),
        ("tomorrow at 5", "`tomorrow` is not understood (such as"),
        ("every day", "at what time is not said"),
        ("at 9", "on which days is not said"),
        ("every month at 9", "on which day of the month"),
        ("every week at 9", "on which day of the week"),
        ("every year at 9", "on which day of the year"),
        ("every other friday at 9", "which ones are left out is not said"),
        ("every second day at 9", "which ones are left out is not said"),
        ("every 2nd friday at 9", "which ones are left out is not said"),
        ("every monday at 9 and every friday at 17", "what repeats twice (say it as two triggers"),
        ("every monday at 9 and friday at 17", "days of the week twice"),
        ("weekdays at 9 and weekends at 11", "days of the week twice"),
        ("on the 1st at 6 and on the 15th at 7", "a day of the month twice"),
        ("on january 1 and july 4 at 9", "a month twice"),
        ("every year on march 1 and april 15 at 9", "a month twice"),
        ("on the 1st of march and the 15th of april at 9", "a day of the month twice"),
        ("on july and august 4 at 9", "of which month"),
        ("on the 1st and the last friday of each month at 9", "is not clear"),
        ("every 15 minutes between 9 and 12 and between 14 and 17", "hours twice"),
        ("every day at 9 and every hour", "what repeats twice"),
        ("every day at 9 hourly", "in two ways"),
        ("every minute of every hour", "of every hour"),
        ("every 15 minutes and every 20 minutes", "what repeats twice"),
        ("every 15 minutes 20 minutes", "from long to short"),
        ("every 2 days at 2027-01-01 09:00", "a date does not repeat"),
        ("at 2027-01-01 and at 2027-02-01", "a date twice"),
        ("every 2 days from 2027-01-01 from 2028-01-01", "a first date twice"),
        ("every day at 9 and 10 pm", "some times have am or pm"),
        ("every march at 9", "on which days of the month"),
        ("every 3 hours on weekdays between 10 and 12", "longer than the hours between"),
        ("every 15 minutes between 22 and 2", "over midnight"),
        ("every day at 9 in", "leads nowhere"),
        ("the of the every day at 9", "leads nowhere"),
        ("every every day at 9", "what repeats twice"),
        ("every monday at 9 or every friday at 17", "joins whole triggers"),
        ("every day at 9 spread foo", "no `~` to spread"),
        ("at 2027-03-28 02:30 dst wall", "`dst` does not belong to the type `date`"),
        ("every 1h dst wall", "`dst` does not belong to the type `interval`"),
        ("at 2027-02-30 09:00", "no date between"),
        ("every day at 9 start 2027-02-30", "no such day"),
        ("every day at 9 start 1969-01-01", "between 1970 and 2200"),
        ("every day at 9\u{a0}", "character 15 is \\u{a0}"),
        ("every 1 month", "months and years have no fixed length"),
        ("every 7 minutes on weekdays", "evenly"),
        ("every monday on the 1st at 9", "either or both"),
        ("every day at 25", "no time of day"),
        ("every day at 13pm", "no time of day"),
        ("on the 32nd of each month at 9", "`32nd` is not understood"),
        ("every 0 minutes", "never"),
        ("jeden Tag um 9", "`jeden` is not understood"),
        ("every day at 9 sharp", "`sharp` is not understood"),
        ("every", "every what?"),
        ("on the last of each month at 9", "the last what?"),
        ("every day at 9 in Europe/Berln", "no such IANA zone"),
        ("(every day at 9) or (every day at 10) and (every day at 11)", "mixed"),
        ("(every day at 9", "a `)` is missing"),
        ("every day at 9)", "too much"),
        ("every day at 9 jitter", "lacks its value"),
        ("every day at 9 jitter 5s jitter 6s", "given twice"),
        ("((every day at 9) or (every day at 10) max-runs 2) or (every day at 11)", "outermost"),
        ("every 11 years", "no fixed length"),
        ("every 500ms", "1 second to 10 years"),
        ("cron hour='2' hour='3'", "given twice"),
        ("cron hours='2'", "there is no field `hours`"),
        ("every day at 9 except never", "exclusion"),
        ("every day at 9 except mon,tue,wed,thu,fri,sat,sun", "every day of the week"),
        ("at 1850-01-01 09:00", "no date between 1970 and 2200"),
        ("every day at 9\u{1b}[31m", "character 15 is \\u{1b}"),
    ] {
        let error = text.parse::<Trigger>().expect_err(text).to_string();
        assert!(error.contains(reason), "{text}: {error}");
        assert!(!error.contains('\u{1b}'), "{error:?}");
    }
    assert!("x".repeat(100_000).parse::<Trigger>().unwrap_err().to_string().len() < 400);
    assert!("(".repeat(16_000).parse::<Trigger>().unwrap_err().to_string().contains("nested"));
}

#[test]
fn a_bad_line_names_field_reason_and_shape() {
    for (line, reason) in [
        ("* * * *", "4 fields"),
        ("60 * * * *", "outside 0 to 59"),
        ("*/0 * * * *", "step of 0"),
        (", * * * *", "empty"),
        ("0 , * * *", "empty"),
        ("+5 * * * *", "not a value"),
        ("9-5 * * * *", "backwards"),
        ("0 0 * * mon#2x", "not a value"),
        ("0 0 * * mon#6", "1 to 5"),
        ("0 0 * * L", "needs a weekday"),
        ("0 0 L-31 * *", "no day of any month"),
        ("0 0 0W * *", "outside 1 to 31"),
        ("0 0 * * 8", "outside 0 to 7"),
        ("1JAN * * * *", "not a value"),
        ("@fortnightly", "macro"),
        ("@reboot", "a restart is no time"),
    ] {
        let error = Trigger::crontab(line, Dialect::Crontab, zone("UTC")).unwrap_err().to_string();
        assert!(error.contains(reason), "{line}: {error}");
    }
    // A space that is none of ASCII's was trimmed away, and printed again.
    let strange = CronFields { hour: Some("*\u{2004}".into()), ..CronFields::default() };
    assert!(Trigger::fields(strange, zone("UTC")).unwrap_err().to_string().contains("printable ASCII"));
    for line in ["0 0 0 * * 0", "0 0 9*1-5 * *", "0 0 22-2 * * ?", "0 0 0 L-x * ?"] {
        let error = Trigger::crontab(line, Dialect::Quartz, zone("UTC")).unwrap_err().to_string();
        assert!(error.starts_with("invalid cron"), "{line}: {error}");
    }
}

#[test]
fn what_means_the_same_has_one_normal_form() {
    for (written, normal) in [
        ("cron 0 9 * * 1-5", "cron 0 9 * * mon-fri"),
        ("quartz 0 0 9 ? * 2-6", "cron 0 9 * * mon-fri"),
        ("apscheduler 0 9 * * 0-4", "cron 0 9 * * mon-fri"),
        ("cron day_of_week='0-4' hour='9'", "cron 0 9 * * mon-fri"),
        ("cron 0,15,30,45 * * * *", "cron */15 * * * *"),
        ("cron 0 2-2 * * 7", "cron 0 2 * * sun"),
        ("@daily", "cron 0 0 * * *"),
        ("cron @weekly", "cron 0 0 * * sun"),
        ("cron 0 0 13 * 5", "cron 0 0 13 * fri"),
        ("quartz 0 0 0 13 * FRI", "cron day='13' day_of_week='fri' hour='0' minute='0'"),
        ("cron 0 0 */2 * fri", "cron day='*/2' day_of_week='fri' hour='0' minute='0'"),
        ("cron 0 0 1-31/2 * fri", "cron 0 0 1-31/2 * fri"),
        ("quartz 0 0 0 15W * MON", "quartz 0 0 0 15W * mon"),
        ("quartz 0 0 9 15W * 6,7,1", "quartz 0 0 9 15W * fri,sat,sun"),
        ("quartz 0 0 9 15W * 1,6,7", "quartz 0 0 9 15W * fri,sat,sun"),
        ("cron day='3rd fri' hour='9'", "cron 0 9 * * fri#3"),
        ("cron day='1,last fri' hour='9'", "cron 0 9 1 * friL"),
        ("cron week='1,2,3' hour='9'", "cron week='1-3' hour='9' minute='0'"),
        ("cron 0 9 1-31 * fri", "cron 0 9 * * *"),
        ("cron 0 9,10,11 * * *", "cron 0 9,10,11 * * *"),
        ("cron 0 9-11 * * *", "cron 0 9-11 * * *"),
        ("cron 5 4 3 2 1 * 2027-2029", "cron 5 4 3 2 jan * 2027-2029"),
        ("cron */90 * * * *", "cron 0 * * * *"),
    ] {
        assert_eq!(parsed(written).normal().to_string(), normal, "{written}");
        assert_eq!(parsed(normal).normal().to_string(), normal, "{written}");
    }
}

#[test]
fn a_trigger_is_told_in_english() {
    for (text, sentence) in [
        ("30 2 * * *", "at 02:30, every day, UTC"),
        ("*/15 9-17 * * mon-fri", "every 15 minutes, from 09:00 to 17:59, Monday to Friday, UTC"),
        ("0 */2 * * *", "every 2 hours from 00:00 to 22:00, every day, UTC"),
        ("0 9,17 * * sat", "at 09:00 and 17:00, every Saturday, UTC"),
        ("* * * * * *", "every second, every day, UTC"),
        ("0 * * * *", "every hour on the hour, every day, UTC"),
        ("15 * * * *", "every hour at minute 15, every day, UTC"),
        ("3,7,40 * * * *", "at minutes 3, 7 and 40, every day, UTC"),
        ("0 0 13 * fri", "at 00:00, on the 13th of the month or every Friday, UTC"),
        ("quartz 0 0 0 13 * fri", "at 00:00, on the 13th of the month if that is Friday, UTC"),
        ("0 0 29 feb *", "at 00:00, on the 29th of February, UTC"),
        ("0 17 * * friL", "at 17:00, on the last Friday of the month, UTC"),
        ("0 0 L 3,6,9,12 *", "at 00:00, on the last day of March, June, September and December, UTC"),
        ("0 0 15W * *", "at 00:00, on the working day (Monday to Friday) nearest to the 15th of the month, UTC"),
        ("0 9 * jan-mar *", "at 09:00, every day in January to March, UTC"),
        ("cron week='53' hour='9'", "at 09:00, every day of ISO week 53, UTC"),
        ("0 0 1-31 * 5", "at 00:00, every day, UTC"),
        ("0 0 13 * 0-6", "at 00:00, every day, UTC"),
        ("0 0 13 3 fri", "at 00:00, on the 13th of the month or every Friday, all in March, UTC"),
        ("0 0 * 3 mon,friL", "at 00:00, every Monday and on the last Friday of the month in March, UTC"),
        ("apscheduler 0 9 13 * mon,fri", "at 09:00, on the 13th of the month if that is Monday or Friday, UTC"),
        ("0 9 */2 * *", "at 09:00, on every 2nd day from the 1st to the 31st of the month, UTC"),
        ("0 0 9 1 1 * 2027-2199/2", "at 09:00, on the 1st of January in every 2nd year from 2027 to 2199, UTC"),
        (
            "(0 9 * * * end 2026-12-01) or (0 17 * * *)",
            "at 09:00, every day, UTC; until 2026-12-01T00:00:00Z; or at 17:00, every day, UTC",
        ),
        (
            "(0 7 * * * in Asia/Tokyo) except 2026-12-25 in UTC",
            "at 07:00, every day, Asia/Tokyo time; except 2026-12-25, UTC",
        ),
        (
            "30 2 * * * dst wall",
            "at 02:30, every day, UTC; where clocks change, skipped times do not run and doubled ones run twice",
        ),
        ("every 90s", "every 1m 30s"),
        ("every 1 month at 09:00 from 2026-01-31", "every 1 month at 09:00, counted from 2026-01-31, UTC"),
        (
            "0 9 * * * in Europe/Berlin jitter 30s max-runs 5",
            "at 09:00, every day, Europe/Berlin time; each run up to 30s later, before the next time; 5 runs at most",
        ),
        (
            "0 9 * * * except sun, 2026-12-24..2026-12-26",
            "at 09:00, every day, UTC; except Sunday and 2026-12-24 to 2026-12-26",
        ),
    ] {
        assert_eq!(parsed(text).describe(), sentence, "{text}");
    }
}

#[test]
fn notes_say_what_may_be_other_than_it_looks() {
    let notes = |text: &str| parsed(text).explain(time("2026-01-01T00:00:00Z"), 1).notes.join("; ");
    assert_eq!(notes("0 9 * * 1"), "day of week 1 is Monday in the dialect crontab");
    assert_eq!(notes("quartz 0 0 9 ? * 1"), "day of week 1 is Sunday in the dialect quartz");
    assert_eq!(notes("cron day_of_week='0' hour='9'"), "day of week 0 is Monday in named fields");
    assert!(notes("*/7 * * * *").contains("step 7 of `minute` starts anew with each hour"));
    assert!(notes("0 9 */3 * *").contains("step 3 of `day` starts anew with each month"));
    assert!(notes("*/90 * * * *").contains("longer than its range"));
    assert!(notes("10-12/5 * * * *").contains("longer than its range"));
    assert_eq!(notes("*/15 * * * *"), "");
    assert!(notes("0 0 13 * fri").contains("as in crontab"));
    assert!(notes("0 0 */2 * fri").contains("begins with `*`"));
    assert!(notes("~ * * * *").contains("an example"));
    assert_eq!(notes("0 9 * * mon-fri"), "");
}

#[test]
fn json_refuses_what_does_not_belong_to_its_type() {
    for (json, reason) in [
        (r#"{"at":"2027-01-01T00:00:00Z"}"#, "`type` is missing"),
        (r#"{"type":"cron","expr":"* * * * *","every":5}"#, "`every` does not belong to the type `cron`"),
        (r#"{"type":"cron"}"#, "either `expr` or `fields`"),
        (r#"{"type":"cron","fields":{"hour":"2"},"dialect":"quartz"}"#, "with `fields`"),
        (r#"{"type":"interval"}"#, "`every` is missing"),
        (r#"{"type":"interval","every":0}"#, "1 second to 10 years"),
        (r#"{"type":"interval","every":-5}"#, "not a number of seconds"),
        (r#"{"type":"interval","every":true}"#, "a number of seconds or as text"),
        (r#"{"type":"cron","fields":{"hour":[2]}}"#, "a cron field as text or as a number"),
        (r#"{"type":"calendar_interval","at":"09:00"}"#, "at least one day"),
        (r#"{"type":"or","triggers":["every day at 9"]}"#, "at least two"),
        (r#"{"type":"or","triggers":["every day at 9",{"type":"cron","expr":"x"}]}"#, "1 fields"),
        (r#"{"type":"except","trigger":"every day at 9","exclude":["someday"]}"#, "exclusion"),
        (r#"{"type":"cron","expr":"~ * * * *","spread":"a b"}"#, "spread"),
        (r#"{"type":"cron","expr":"* * * * *","colour":"red"}"#, "unknown field `colour`"),
        (r#"{"type":"interval","every":5,"jitter":99999999}"#, "31 days"),
        (r#"{"type":"interval","every":5,"max_runs":0}"#, "at least 1"),
        ("7", "as an object with `type`, or as text"),
    ] {
        let error = serde_json::from_str::<Trigger>(json).expect_err(json).to_string();
        assert!(error.contains(reason), "{json}: {error}");
    }
}

#[test]
fn json_takes_what_apscheduler_s_users_write() {
    for (json, text) in [
        (r#"{"type":"interval","every":"1h30m","jitter":"30s"}"#, "every 1h 30m jitter 30s"),
        (r#"{"type":"cron","fields":{"hour":17,"day":"last fri"}}"#, "cron day='last fri' hour='17'"),
        (r#""every day at 9""#, "cron 0 9 * * *"),
    ] {
        assert_eq!(serde_json::from_str::<Trigger>(json).unwrap().to_string(), text);
    }
}

#[test]
fn triggers_within_another_are_in_its_zone() {
    let json =
        r#"{"type":"or","timezone":"Europe/Berlin","triggers":["every day at 9",{"type":"cron","expr":"0 17 * * *"}]}"#;
    let trigger: Trigger = serde_json::from_str(json).unwrap();
    let first = trigger.preview(time("2026-01-01T00:00:00Z"), 2);
    assert_eq!(first, [time("2026-01-01T08:00:00Z"), time("2026-01-01T16:00:00Z")]);
    assert_eq!(trigger, parsed("(every day at 9) or (0 17 * * *) in Europe/Berlin").normal());
}

fn leaf() -> impl Strategy<Value = Trigger> {
    let zones = || prop_oneof![Just("UTC"), Just("Europe/Berlin"), Just("Africa/Monrovia")];
    let dst = || prop_oneof![Just(Dst::Once), Just(Dst::Wall), Just(Dst::Shift)];
    let field = |low: u32, high: u32| {
        let value = move || (low..=high).prop_map(|value| value.to_string());
        let range = move || (low..=high, low..=high).prop_map(|(a, b)| format!("{}-{}", a.min(b), a.max(b)));
        prop_oneof![
            3 => Just("*".to_owned()),
            3 => value(),
            1 => range(),
            1 => (2u32..12).prop_map(|step| format!("*/{step}")),
            1 => proptest::collection::vec(prop_oneof![value(), range()], 1..4).prop_map(|items| items.join(",")),
        ]
    };
    let day = prop_oneof![4 => field(1, 31), 1 => Just("L".to_owned()), 1 => Just("LW,15W,L-3".to_owned()), 1 => Just("?".to_owned())];
    let weekday = prop_oneof![4 => field(0, 7), 1 => Just("fri#2,monL".to_owned()), 1 => Just("sat-sun".to_owned())];
    let time = || (field(0, 59), field(0, 59), field(0, 23));
    let line = (
        time(),
        day,
        field(1, 12),
        weekday,
        prop_oneof![3 => Just("*".to_owned()), 1 => Just("2027-2031/2".to_owned())],
        zones(),
        dst(),
    )
        .prop_map(|((second, minute, hour), day, month, weekday, year, name, dst)| {
            let line = format!("{second} {minute} {hour} {day} {month} {weekday} {year}");
            Trigger::crontab(&line, Dialect::Crontab, zone(name)).unwrap().dst(dst)
        });
    let quartz = (time(), 1u32..=31, 1u32..=7, zones()).prop_map(|((_, minute, hour), day, weekday, name)| {
        Trigger::crontab(&format!("0 {minute} {hour} {day} * {weekday}"), Dialect::Quartz, zone(name)).unwrap()
    });
    let named_day =
        prop_oneof![field(1, 31).boxed(), Just("last,3rd fri".to_owned()).boxed(), Just("last sun".to_owned()).boxed()];
    let fields = (time(), named_day, proptest::option::of(Just("1-52/3")), field(0, 6), zones(), dst())
        .prop_filter_map("a step beyond its range", |((_, minute, hour), day, week, weekday, name, dst)| {
            let fields = CronFields {
                minute: Some(minute),
                hour: Some(hour),
                day: Some(day),
                week: week.map(str::to_owned),
                day_of_week: Some(weekday),
                ..CronFields::default()
            };
            Trigger::fields(fields, zone(name)).ok().map(|trigger| trigger.dst(dst))
        });
    let instant =
        || (0i64..7_000_000_000_000_000).prop_map(|micros| chrono::DateTime::from_timestamp_micros(micros).unwrap());
    let date = (instant(), zones()).prop_map(|(at, name)| Trigger::at(at).timezone(zone(name)));
    let interval = (1_000_000u64..300_000_000_000_000, proptest::option::of(instant())).prop_map(|(micros, start)| {
        start.into_iter().fold(Trigger::every(Duration::from_micros(micros)).unwrap(), Trigger::start)
    });
    let calendar =
        (0u32..3, 0u32..20, 0u32..5, 1u32..9, 0u32..86_400, proptest::option::of(0i32..80_000), zones(), dst())
            .prop_map(|(years, months, weeks, days, at, start, name, dst)| {
                let interval = sandclock::CalendarInterval {
                    years,
                    months,
                    weeks,
                    days,
                    at: chrono::NaiveTime::from_num_seconds_from_midnight_opt(at, 0).unwrap(),
                    start_date: start.map(|day| chrono::NaiveDate::from_epoch_days(day).unwrap()),
                    dst,
                };
                Trigger::calendar(interval, zone(name)).unwrap()
            });
    // Boxed, because unoptimised strategies of this size overflow a test thread's stack.
    let every_second = zones().prop_map(|name| Trigger::crontab("* * * * * *", Dialect::Crontab, zone(name)).unwrap());
    prop_oneof![
        1 => every_second.boxed(),
        4 => line.boxed(),
        1 => quartz.boxed(),
        2 => fields.boxed(),
        1 => date.boxed(),
        1 => interval.boxed(),
        1 => calendar.boxed(),
        1 => Just(Trigger::now()).boxed(),
    ]
    .boxed()
}

fn any_trigger() -> impl Strategy<Value = Trigger> {
    let zones = prop_oneof![Just("UTC"), Just("Europe/Berlin")];
    let exclusion = prop_oneof![
        (0i32..80_000, 0i32..30).prop_map(|(day, more)| {
            let date = |day| chrono::NaiveDate::from_epoch_days(day).unwrap();
            Exclusion::Dates(date(day), date(day + more))
        }),
        (0u8..3).prop_map(|day| Exclusion::Weekday(chrono::Weekday::try_from(day).unwrap())),
        proptest::collection::vec(leaf(), 1..3)
            .prop_map(|mut triggers| {
                let trigger = if triggers.len() == 1 { triggers.remove(0) } else { Trigger::or(triggers).unwrap() };
                Exclusion::Trigger(Box::new(trigger))
            })
            .boxed(),
        (0i64..6_000_000_000, 0i64..1_000_000).prop_map(|(from, more)| {
            let civil = |at| chrono::DateTime::from_timestamp(at, 0).unwrap().naive_utc();
            Exclusion::Times(civil(from), civil(from + more))
        }),
    ];
    let nested = prop_oneof![
        leaf().boxed(),
        proptest::collection::vec(leaf(), 2..3).prop_map(|triggers| Trigger::or(triggers).unwrap()).boxed(),
    ]
    .boxed();
    let combined = prop_oneof![
        leaf().boxed(),
        (proptest::collection::vec(leaf(), 2..4), any::<bool>())
            .prop_map(|(triggers, or)| { if or { Trigger::or(triggers) } else { Trigger::and(triggers) }.unwrap() })
            .boxed(),
        (nested, proptest::collection::vec(exclusion, 1..4))
            .prop_map(|(trigger, exclusions)| Trigger::except(trigger, exclusions).unwrap())
            .boxed(),
    ]
    .boxed();
    (combined, zones, proptest::option::of(1u64..1_000_000), proptest::option::of(1u64..100), any::<bool>()).prop_map(
        |(mut trigger, name, jitter, runs, zoned)| {
            if zoned {
                trigger = trigger.timezone(zone(name));
            }
            trigger = jitter.into_iter().fold(trigger, |trigger, jitter| trigger.jitter(Duration::from_millis(jitter)));
            runs.into_iter().fold(trigger, Trigger::max_runs)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn text_and_json_read_back_as_the_same_trigger(trigger in any_trigger(), now in 0i64..4_000_000_000) {
        let anchored = trigger.clone().anchored(chrono::DateTime::from_timestamp(now, 0).unwrap());
        for trigger in [trigger, anchored] {
            let text = trigger.to_string();
            prop_assert_eq!(&text.parse::<Trigger>().unwrap(), &trigger, "{}", text);
            let json = serde_json::to_string(&trigger).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Trigger>(&json).unwrap(), &trigger, "{}", json);
            prop_assert_eq!(&json.parse::<Trigger>().unwrap(), &trigger);
            prop_assert!(!trigger.describe().is_empty());
        }
    }

    #[test]
    fn the_normal_form_means_the_same_and_is_its_own(trigger in any_trigger(), from in 0i64..4_000_000_000) {
        let from = chrono::DateTime::from_timestamp(from, 0).unwrap();
        let trigger = trigger.anchored(from);
        let normal = trigger.normal();
        prop_assert_eq!(normal.preview(from, 4), trigger.preview(from, 4), "{} as {}", trigger, normal);
        prop_assert_eq!(normal.normal().to_string(), normal.to_string());
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in "[ -~]{0,60}", words in proptest::collection::vec(prop_oneof![
        Just("every"), Just("at"), Just("the"), Just("last"), Just("friday"), Just("1st"), Just("and"), Just("of"), Just("month"),
        Just("9"), Just("9:30"), Just("("), Just(")"), Just("or"), Just("except"), Just("in"), Just("UTC"), Just("cron"), Just("*"),
        Just("*/5"), Just("L"), Just("15W"), Just("~"), Just("jitter"), Just("5s"), Just("2027-01-01"), Just("from"), Just("between"),
        Just("quartz"), Just("hour='2'"), Just("months"), Just("2"), Just("start"), Just("day"), Just("weekday"), Just(","),
    ], 0..12)) {
        for text in [text, words.join(" ")] {
            for dialect in [Dialect::Crontab, Dialect::Quartz, Dialect::Apscheduler] {
                let _ = Trigger::crontab(&text, dialect, zone("UTC"));
                if let Ok(trigger) = Trigger::parse(&text, zone("Europe/Berlin"), dialect) {
                    let _ = trigger.explain(time("2026-01-01T00:00:00Z"), 2);
                    prop_assert_eq!(&Trigger::parse(&trigger.to_string(), zone("UTC"), dialect).unwrap(), &trigger, "{}", text);
                }
            }
        }
    }
}
