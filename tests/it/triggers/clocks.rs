//! Changes of the clocks, by name.

use super::{crontab, time, times, zone};
use sandclock::{CalendarInterval, CronFields, Dialect, Dst, Trigger};

fn check(line: &str, zone_name: &str, from: &str, expect: [&[&str]; 3]) {
    for (dst, expect) in [Dst::Once, Dst::Wall, Dst::Shift].into_iter().zip(expect) {
        assert_eq!(times(&crontab(line, zone_name, dst), from, expect.len()), expect, "{line} {zone_name} {dst}");
    }
}

#[test]
fn the_midnight_after_spring_forward_fires() {
    for (name, from, expect) in [
        ("Europe/Berlin", "2024-03-31T12:00:00+02:00", "2024-04-01T00:00:00+02:00"),
        ("America/New_York", "2024-03-10T12:00:00-04:00", "2024-03-11T00:00:00-04:00"),
        ("Australia/Sydney", "2024-10-06T12:00:00+11:00", "2024-10-07T00:00:00+11:00"),
    ] {
        check("0 0 * * *", name, from, [&[expect]; 3]);
    }
    // APScheduler loses this run every single year.
    let first = CronFields { day: Some("1".into()), ..CronFields::default() };
    let first = Trigger::fields(first, zone("Europe/Berlin")).unwrap();
    assert_eq!(times(&first, "2024-03-02T00:00:00+01:00", 1), ["2024-04-01T00:00:00+02:00"]);
}

#[test]
fn a_time_in_the_gap_runs_once_or_not_or_shifted() {
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2024-03-30T13:00:00+01:00",
        [
            &["2024-03-31T03:00:00+02:00", "2024-04-01T02:30:00+02:00"],
            &["2024-04-01T02:30:00+02:00", "2024-04-02T02:30:00+02:00"],
            &["2024-03-31T03:30:00+02:00", "2024-04-01T02:30:00+02:00"],
        ],
    );
}

#[test]
fn a_time_in_the_fold_runs_on_the_first_pass_or_on_both() {
    let both: &[&str] = &["2024-10-27T02:30:00+02:00", "2024-10-27T02:30:00+01:00", "2024-10-28T02:30:00+01:00"];
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2024-10-26T14:00:00+02:00",
        [&["2024-10-27T02:30:00+02:00", "2024-10-28T02:30:00+01:00", "2024-10-29T02:30:00+01:00"], both, both],
    );
}

#[test]
fn a_search_from_the_second_pass_does_not_step_back() {
    // The `cron` crate answers with a time 46 minutes in the past here, and loops in it every second.
    let from = "2024-10-27T02:01:00+01:00";
    assert_eq!(times(&crontab("15 * * * *", "Europe/Berlin", Dst::Once), from, 1), ["2024-10-27T02:15:00+01:00"]);
    assert_eq!(times(&crontab("15 2 * * *", "Europe/Berlin", Dst::Once), from, 1), ["2024-10-28T02:15:00+01:00"]);
    let every_second = crontab("* * * * * *", "Europe/Berlin", Dst::Once);
    let passes = every_second.preview(time("2024-10-27T01:59:59+02:00"), 7203);
    assert_eq!(passes.last(), Some(&time("2024-10-27T03:00:01+01:00")));
}

#[test]
fn a_frequent_trigger_follows_real_time_through_gap_and_fold() {
    let half_hours: &[&str] = &[
        "2024-10-27T02:00:00+02:00",
        "2024-10-27T02:30:00+02:00",
        "2024-10-27T02:00:00+01:00",
        "2024-10-27T02:30:00+01:00",
        "2024-10-27T03:00:00+01:00",
    ];
    check("*/30 * * * *", "Europe/Berlin", "2024-10-27T02:00:00+02:00", [half_hours; 3]);
    let gap: &[&str] = &["2024-03-31T01:30:00+01:00", "2024-03-31T03:00:00+02:00", "2024-03-31T03:30:00+02:00"];
    check("*/30 * * * *", "Europe/Berlin", "2024-03-31T01:30:00+01:00", [gap; 3]);
}

#[test]
fn several_fixed_times_in_one_gap_run_once() {
    let line = "0,15,45 2 * * *";
    let from = "2024-03-31T00:00:00+01:00";
    let expect = ["2024-03-31T03:00:00+02:00", "2024-04-01T02:00:00+02:00"];
    assert_eq!(times(&crontab(line, "Europe/Berlin", Dst::Once), from, 2), expect);
}

#[test]
fn sao_paulo_has_no_midnight_in_spring() {
    check(
        "0 0 * * *",
        "America/Sao_Paulo",
        "2018-11-03T12:00:00-03:00",
        [
            &["2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00"],
            &["2018-11-05T00:00:00-02:00", "2018-11-06T00:00:00-02:00"],
            &["2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00"],
        ],
    );
}

#[test]
fn lord_howe_changes_by_half_an_hour() {
    check(
        "15 2 * * *",
        "Australia/Lord_Howe",
        "2024-10-05T12:00:00+10:30",
        [
            &["2024-10-06T02:30:00+11:00", "2024-10-07T02:15:00+11:00"],
            &["2024-10-07T02:15:00+11:00", "2024-10-08T02:15:00+11:00"],
            &["2024-10-06T02:45:00+11:00", "2024-10-07T02:15:00+11:00"],
        ],
    );
    let both: &[&str] = &["2024-04-07T01:45:00+11:00", "2024-04-07T01:45:00+10:30"];
    check(
        "45 1 * * *",
        "Australia/Lord_Howe",
        "2024-04-07T00:00:00+11:00",
        [&["2024-04-07T01:45:00+11:00", "2024-04-08T01:45:00+10:30"], both, both],
    );
}

#[test]
fn casey_skips_three_hours() {
    // 2019-10-04 03:00 became 06:00.
    check(
        "30 3 * * *",
        "Antarctica/Casey",
        "2019-10-03T12:00:00+08:00",
        [
            &["2019-10-04T06:00:00+11:00", "2019-10-05T03:30:00+11:00"],
            &["2019-10-05T03:30:00+11:00", "2019-10-06T03:30:00+11:00"],
            &["2019-10-04T06:30:00+11:00", "2019-10-05T03:30:00+11:00"],
        ],
    );
}

#[test]
fn scoresbysund_skips_the_last_hour_of_a_day() {
    let from = "2036-03-29T00:00:00-02:00";
    check(
        "0 23 29 3 *",
        "America/Scoresbysund",
        from,
        [&["2036-03-30T00:00:00-01:00"], &["2037-03-29T23:00:00-01:00"], &["2036-03-30T00:00:00-01:00"]],
    );
}

#[test]
fn apia_skips_a_whole_day() {
    check(
        "0 9 * * *",
        "Pacific/Apia",
        "2011-12-29T12:00:00-10:00",
        [
            &["2011-12-31T00:00:00+14:00", "2011-12-31T09:00:00+14:00"],
            &["2011-12-31T09:00:00+14:00", "2012-01-01T09:00:00+14:00"],
            &["2011-12-31T09:00:00+14:00", "2012-01-01T09:00:00+14:00"],
        ],
    );
}

#[test]
fn a_calendar_interval_keeps_its_dates_over_gap_and_fold() {
    let daily = |at: &str, dst| {
        let interval = CalendarInterval {
            days: 1,
            at: at.parse().unwrap(),
            start_date: Some("2026-03-28".parse().unwrap()),
            dst,
            ..CalendarInterval::default()
        };
        Trigger::calendar(interval, zone("America/Nuuk")).unwrap()
    };
    // APScheduler moves its dates by a day after this gap over midnight, for ever.
    let from = "2026-03-28T12:00:00-02:00";
    let once = ["2026-03-29T00:00:00-01:00", "2026-03-29T23:30:00-01:00", "2026-03-30T23:30:00-01:00"];
    assert_eq!(times(&daily("23:30:00", Dst::Once), from, 3), once);
    let wall = ["2026-03-29T23:30:00-01:00", "2026-03-30T23:30:00-01:00"];
    assert_eq!(times(&daily("23:30:00", Dst::Wall), from, 2), wall);
    let shift = ["2026-03-29T00:30:00-01:00", "2026-03-29T23:30:00-01:00"];
    assert_eq!(times(&daily("23:30:00", Dst::Shift), from, 2), shift);
    let both = ["2026-10-24T23:30:00-01:00", "2026-10-24T23:30:00-02:00", "2026-10-25T23:30:00-02:00"];
    assert_eq!(times(&daily("23:30:00", Dst::Wall), "2026-10-24T12:00:00-01:00", 3), both);
}

#[test]
fn a_month_without_the_day_is_passed_over() {
    let monthly = CalendarInterval {
        months: 1,
        at: "09:00:00".parse().unwrap(),
        start_date: Some("2026-01-31".parse().unwrap()),
        ..CalendarInterval::default()
    };
    let monthly = Trigger::calendar(monthly, zone("UTC")).unwrap();
    let expect = ["2026-01-31T09:00:00+00:00", "2026-03-31T09:00:00+00:00", "2026-05-31T09:00:00+00:00"];
    assert_eq!(times(&monthly, "2026-01-01T00:00:00Z", 3), expect);
}

#[test]
fn a_preview_warns_of_skipped_and_doubled_times() {
    let explain =
        |line, dst| crontab(line, "Europe/Berlin", dst).explain(time("2027-01-01T00:00:00Z"), 1).clock_changes;
    let told = |line, dst| explain(line, dst).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        told("30 2 * * *", Dst::Once),
        [
            "2027-03-28 02:30:00 does not exist in Europe/Berlin: it runs at 03:00:00 +02:00",
            "2027-10-31 02:30:00 comes twice in Europe/Berlin: it runs once, at 02:30:00 +02:00",
        ]
    );
    assert_eq!(
        told("30 2 * * *", Dst::Wall),
        [
            "2027-03-28 02:30:00 does not exist in Europe/Berlin: it does not run",
            "2027-10-31 02:30:00 comes twice in Europe/Berlin: it runs at 02:30:00 +02:00 and 02:30:00 +01:00",
        ]
    );
    let within_two = told("*/10 2 * * *", Dst::Once);
    assert!(within_two[0].ends_with("it does not run (6 such times)"), "{within_two:?}");
    assert_eq!(explain("*/10 * * * *", Dst::Once), [], "what runs all day loses nothing");
    assert_eq!(explain("0 9 * * *", Dst::Once), []);
    let whole = |text: &str| {
        let trigger = text.parse::<Trigger>().unwrap().timezone(zone("Europe/Berlin"));
        trigger.explain(time("2027-01-01T00:00:00Z"), 1).clock_changes.len()
    };
    let berlin = "in Europe/Berlin";
    assert_eq!(whole(&format!("(30 2 * * *) or (0 9 * * *) {berlin}")), 2);
    assert_eq!(whole(&format!("(30 2 * * *) except sun {berlin}")), 0, "clocks change on sundays");
    assert_eq!(whole(&format!("(30 2 * * *) and (30 2 * * mon-fri) {berlin}")), 0);
    assert_eq!(whole(&format!("(0 9 * * *) except (30 2 * * *) {berlin}")), 0);
    assert_eq!(whole(&format!("((30 2 * * *) or (0 9 * * *)) {berlin} end 2027-01-01")), 0);
    let second = "(0,30 2 * * * dst wall) except 2027-03-28T02:00..2027-03-28T02:10 in Europe/Berlin";
    let second = second.parse::<Trigger>().unwrap().explain(time("2027-01-01T00:00:00Z"), 1).clock_changes;
    assert!(second[0].to_string().starts_with("2027-03-28 02:30:00 does not exist"), "{second:?}");
}

#[test]
fn the_changes_of_the_offset_are_marked() {
    let explained = crontab("0 9 * * *", "Europe/Berlin", Dst::Once).explain(time("2027-03-26T12:00:00Z"), 3);
    assert_eq!(explained.offset_changes.len(), 1);
    assert_eq!(
        (explained.offset_changes[0].by, explained.offset_changes[0].at.to_rfc3339()),
        (3600, "2027-03-28T03:00:00+02:00".into())
    );
}

#[test]
fn weekday_numbers_depend_on_the_dialect() {
    // 2026-11-22 is a Sunday.
    let first = |line: &str, dialect| {
        let trigger = Trigger::crontab(line, dialect, zone("UTC")).unwrap();
        times(&trigger, "2026-11-22T00:00:00Z", 1).remove(0)[5..10].to_owned()
    };
    for (line, dialect, expect) in [
        ("0 9 * * 1", Dialect::Crontab, "11-23"),
        ("0 9 * * 0", Dialect::Crontab, "11-22"),
        ("0 9 * * 7", Dialect::Crontab, "11-22"),
        ("0 9 * * fri-mon", Dialect::Crontab, "11-22"),
        ("0 9 * * 1", Dialect::Apscheduler, "11-24"),
        ("0 0 9 ? * 1", Dialect::Quartz, "11-22"),
        ("0 0 9 ? * 6#1", Dialect::Quartz, "12-04"),
        ("0 0 9 ? * 6L", Dialect::Quartz, "11-27"),
        ("0 9 * * 5L", Dialect::Crontab, "11-27"),
        ("0 9 * * fri#2", Dialect::Crontab, "12-11"),
        ("0 9 L * *", Dialect::Crontab, "11-30"),
        ("0 9 L-1 * *", Dialect::Crontab, "11-29"),
        ("0 9 LW * *", Dialect::Crontab, "11-30"),
        ("0 9 6W * *", Dialect::Crontab, "12-07"),
        ("0 0 9 15W * ?", Dialect::Quartz, "12-15"),
        // Both days restricted: either in crontab, both elsewhere.
        ("0 0 13 * fri", Dialect::Crontab, "11-27"),
        ("0 0 13 * fri", Dialect::Apscheduler, "08-13"),
        ("0 0 0 13 * fri", Dialect::Quartz, "08-13"),
    ] {
        assert_eq!(first(line, dialect), expect, "{line} {dialect}");
    }
}

#[test]
fn a_spread_depends_on_the_job_alone() {
    let spread = |key: &str| times(&crontab("~ ~ * * *", "UTC", Dst::Once).spread_by(key), "2026-01-01T00:00:00Z", 1);
    assert_eq!(spread("nightly"), spread("nightly"));
    let several: std::collections::BTreeSet<_> = (0..50).map(|n| spread(&format!("job-{n}"))).collect();
    assert!(several.len() > 45, "{several:?}");
    let stored = serde_json::to_string(&crontab("~/10 8~17 * * *", "UTC", Dst::Once).spread_by("nightly")).unwrap();
    let again: Trigger = serde_json::from_str(&stored).unwrap();
    let fires = again.preview(time("2026-01-01T00:00:00Z"), 6);
    assert!(
        fires.windows(2).all(|pair| (pair[1] - pair[0]).num_minutes() == 10),
        "every tenth minute of one hour: {fires:?}"
    );
    assert!((8..=17).contains(&fires[0].format("%H").to_string().parse::<u32>().unwrap()));
}
