//! Jobs and plugins as files, and what would run: by the built binary.

use crate::cli::Home;
use serde_json::{Value, json};

fn results(imported: &Value, kind: &str) -> Vec<(String, String)> {
    let items = imported[kind].as_array().unwrap().iter();
    items.map(|item| (item["id"].as_str().unwrap().to_owned(), item["result"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn an_installation_moves_to_another_home_by_one_file() {
    let home = Home::with_sample();
    let add = ["job", "add", "sample:add-one", "--arg", "number=1", "--id"];
    home.ok(&[&add[..], &["a", "--cron", "0 9 * * *", "--tz", "Europe/Berlin", "--tag", "team=x"]].concat());
    home.ok(&[&add[..], &["b", "--every", "1h", "--max-runs", "3", "--paused"]].concat());
    let file = home.path().join("../all.json");
    let file = file.to_str().unwrap();
    home.ok(&["export", file, "--components"]);
    let other = Home::new();
    let dry = other.json(&["import", file, "--dry-run"]);
    assert_eq!(results(&dry, "plugins")[0].1, "added");
    assert!(other.json(&["job", "list"])["items"].as_array().unwrap().is_empty(), "a dry run changes nothing");
    let imported = other.json(&["import", file]);
    assert_eq!(results(&imported, "jobs"), [("a".into(), "added".into()), ("b".into(), "added".into())]);
    let (here, there) = (home.json(&["job", "show", "a"]), other.json(&["job", "show", "a"]));
    assert_eq!(here, there);
    assert_eq!(other.json(&["job", "show", "b"])["state"], "paused");
    let again = other.run(&["import", file]);
    assert_eq!(again.status.code(), Some(1), "the ids are taken now");
    assert_eq!(results(&other.json(&["import", file, "--keep-existing"]), "jobs")[0].1, "kept");
    assert_eq!(other.json(&["job", "run", "a", "--wait"])["outcome"]["value"], 2);
}

#[test]
fn an_import_does_not_change_what_a_plugin_means_unasked() {
    let (home, other) = (Home::with_sample(), Home::with_sample());
    let newer = crate::cli::SAMPLE.replace("(i32.const 1)", "(i32.const 2)");
    let file = other.file("newer.wasm", &wat::parse_str(&newer).unwrap());
    other.ok(&["plugin", "add", file.to_str().unwrap(), "--name", "sample"]);
    let export = home.path().join("../all.json");
    let export = export.to_str().unwrap();
    let current = |home: &Home| {
        let plugin = home.json(&["plugin", "show", "sample"]);
        plugin["versions"].as_array().unwrap().last().unwrap()["digest"].as_str().unwrap().to_owned()
    };
    let (old, new) = (current(&home), current(&other));
    // The other home knows this version already, and has a newer one.
    home.ok(&["export", export, "--components"]);
    assert_eq!(results(&other.json(&["import", export]), "plugins")[0].1, "kept");
    assert_eq!(current(&other), new, "it is not rolled back");
    // This home does not know the other's.
    other.ok(&["export", export, "--components"]);
    assert_eq!(home.run(&["import", export]).status.code(), Some(1), "refused unless asked for");
    assert_eq!(current(&home), old);
    home.ok(&["import", export, "--replace-existing"]);
    assert_eq!(current(&home), new, "and what is newest there is current here");
}

#[test]
fn what_a_file_smuggles_in_is_refused() {
    let home = Home::with_sample();
    home.ok(&["job", "add", "sample:add-one", "--arg", "number=1", "--id", "a", "--every", "1h"]);
    let exported: Value = serde_json::from_str(&home.ok(&["export"])).unwrap();
    let import = |change: &dyn Fn(&mut Value)| {
        let mut bundle = exported.clone();
        bundle["jobs"][0]["job"]["id"] = json!("b");
        change(&mut bundle);
        let file = home.file("bad.json", bundle.to_string().as_bytes());
        let output = home.command(&["--json", "import", file.to_str().unwrap()]).output().unwrap();
        (output.status.code(), serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default())
    };
    let (code, imported) = import(&|bundle| bundle["jobs"][0]["job"]["grants"] = json!(["everything"]));
    assert_eq!((code, results(&imported, "jobs")[0].1.as_str()), (Some(1), "refused"));
    let (_, imported) = import(&|bundle| bundle["jobs"][0]["job"]["args"] = json!(["not a number"]));
    assert_eq!(results(&imported, "jobs")[0].1, "refused", "arguments are checked against the export");
    let (_, imported) = import(&|bundle| {
        bundle["plugins"][0]["versions"][0]["digest"] = json!("ab".repeat(32));
        bundle["components"] = json!({ "ab".repeat(32): "AGFzbQ==" });
    });
    assert_eq!(results(&imported, "plugins")[0].1, "refused", "a component is what its digest says");
    assert_eq!(results(&imported, "jobs")[0].1, "added");
    let (code, _) = import(&|bundle| bundle["version"] = json!(2));
    assert_eq!(code, Some(2));
}

#[test]
fn a_declared_file_is_planned_applied_and_then_kept() {
    let home = Home::new();
    let component = wat::parse_str(crate::cli::SAMPLE).unwrap();
    home.file("sample.wasm", &component);
    let declare = |extra: &str| {
        let text = format!(
            "[[plugin]]\nname = \"sample\"\npath = \"sample.wasm\"\n\n[[job]]\nid = \"a\"\nfunc = \"sample:add-one\"\n\
             args = [1]\ntrigger = \"every 5m\"\n{extra}"
        );
        home.file("sandclock.toml", text.as_bytes()).to_str().unwrap().to_owned()
    };
    let file = declare("");
    home.ok(&["apply", &file, "--plan"]);
    assert!(home.json(&["plugin", "list"])["items"].as_array().unwrap().is_empty(), "a plan changes nothing");
    home.refused_lines(&["apply", &file], 2, "--yes");
    assert_eq!(home.json(&["apply", &file, "--yes"])["changes"][0]["action"], "add");
    assert_eq!(home.json(&["apply", &file, "--yes"])["changes"][0]["action"], "keep");
    home.ok(&["job", "add", "sample:add-one", "--args", "[2]", "--id", "old", "--every", "1h"]);
    let file = declare("retry = { max_attempts = 3 }\ntags = { team = \"x\" }\n");
    let applied = home.json(&["apply", &file, "--yes", "--prune"]);
    assert_eq!(
        (&applied["changes"][0]["action"], &applied["changes"][1]["action"]),
        (&"modify".into(), &"remove".into())
    );
    let fields: Vec<_> = applied["changes"][0]["fields"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields, ["retry", "tags"]);
    let list = home.json(&["job", "list", "--tag", "team=x"]);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    home.refused_lines(&["apply", &declare("nonsense = 1\n"), "--yes"], 2, "nonsense");
    let once = "\n[[job]]\nid = \"b\"\nfunc = \"sample:trap\"\ntrigger = \"now\"\n";
    home.refused_lines(&["apply", &declare(once), "--yes"], 2, "would run again");
}

#[test]
fn apschedulers_jobs_come_over_and_what_does_not_is_named() {
    let home = Home::new();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracles/apscheduler_export.json");
    let output = home.run(&["--json", "import", "--apscheduler", "--dry-run", file]);
    let imported: Value = serde_json::from_slice(&output.stdout).unwrap();
    let refused: Vec<_> =
        imported["jobs"].as_array().unwrap().iter().filter(|job| job["result"] == "refused").collect();
    let reasons: Vec<_> = refused.iter().map(|job| job["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons.iter().filter(|reason| reason.contains("no plugin")).count(), 10, "{reasons:?}");
    assert_eq!(reasons.iter().filter(|reason| reason.contains("pickle")).count(), 2, "{reasons:?}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_simulation_says_what_would_run_miss_and_come_twice() {
    let home = Home::with_sample();
    let add = ["job", "add", "sample:add-one", "--arg", "number=1", "--id"];
    home.ok(&[&add[..], &["hourly", "--cron", "30 * * * *", "--tz", "Europe/Berlin"]].concat());
    home.ok(&[&add[..], &["often", "--every", "10s"]].concat());
    let day = ["--from", "2027-10-30T22:00:00Z", "--to", "2027-10-31T22:00:00Z"];
    let report = home.json(&[&["simulate", "--workers", "2", "--unknown", "15s"], &day[..]].concat());
    assert_eq!(report["jobs"], 2);
    let by_job = report["by_job"].as_array().unwrap();
    assert_eq!((&by_job[0]["id"], &by_job[1]["id"]), (&"often".into(), &"hourly".into()));
    assert_eq!(by_job[1]["runs"], 24);
    assert!(by_job[0]["runs"].as_u64().unwrap() > 4000, "{by_job:?}");
    assert!(report["skipped_max_instances"].as_u64().unwrap() > 3000, "15 s every 10 s do not fit");
    let doubled = &report["doubled"][0];
    assert_eq!((&doubled["job_id"], doubled["first"].as_str()), (&"hourly".into(), Some("2027-10-31T00:30:00Z")));
    home.refused(&["simulate", "--to", "2020-01-01T00:00:00Z"], 2, &["simulation", "end"]);
}

#[test]
fn the_verbs_work_on_the_command_line() {
    let home = Home::with_sample();
    home.ok(&["job", "add", "sample:add-one", "--arg", "number=1", "--id", "a", "--every", "1h"]);
    let modified = home.json(&[
        "job",
        "modify",
        "a",
        "--fuel",
        "123456",
        "--tag",
        "x=y",
        "--priority",
        "-7",
        "--set",
        "metadata={\"k\":1}",
    ]);
    assert_eq!((&modified["limits"]["fuel"], &modified["priority"]), (&123_456.into(), &(-7).into()));
    assert_eq!((&modified["tags"]["x"], &modified["metadata"]["k"]), (&"y".into(), &1.into()));
    assert_eq!(modified["limits"]["timeout"], 30, "what was not named is as it was");
    home.refused(&["job", "modify", "a"], 2, &["nothing to change"]);
    home.refused(&["job", "modify", "a", "--func", "sample:nothing"], 1, &["nothing", "add-one"]);
    home.refused(&["job", "modify", "a", "--set", "id=\"b\""], 2, &["id", "never changes"]);
    assert_eq!(home.json(&["job", "show", "a"])["limits"]["fuel"], 123_456, "a refused change changes nothing");
    let moved = home.json(&["job", "reschedule", "a", "--cron", "0 4 * * *"]);
    assert_eq!(moved["trigger_text"], "cron 0 4 * * *");
    home.refused(&["job", "reschedule", "a"], 2, &["no trigger"]);
    assert_eq!(home.json(&["job", "run", "a", "--arg", "number=41", "--wait"])["outcome"]["value"], 42);
    home.refused(&["job", "run", "a", "--arg", "number=\"x\"", "--wait"], 2, &["number"]);
    let asked = home.json(&["job", "backfill", "a", "--from", "2026-01-01", "--to", "2026-01-04"]);
    assert_eq!(asked["runs"], 3);
    home.ok(&["job", "backfill", "a", "--cancel"]);
    home.refused(&["job", "backfill", "a", "--cancel"], 2, &["none goes on"]);
    home.ok(&[
        "job",
        "add",
        "sample:add-one",
        "--args",
        "[1]",
        "--executor",
        "threadpool",
        "--id",
        "pool",
        "--at",
        "2030-01-01",
    ]);
    assert_eq!(home.json(&["job", "run", "pool", "--wait"])["outcome"]["value"], 2);
    home.ok(&["job", "remove", "--all"]);
    assert!(home.json(&["job", "list"])["items"].as_array().unwrap().is_empty());
}

#[test]
fn a_backfill_a_cancel_and_a_listener_through_a_daemon() {
    let home = Home::with_sample();
    let daemon = home.serve();
    home.ok(&["job", "add", "sample:add-one", "--arg", "number=1", "--id", "a", "--cron", "0 4 * * *"]);
    home.ok(&["job", "backfill", "a", "--from", "2026-01-01", "--to", "2026-01-11", "--wait"]);
    let list = home.json(&["run", "list", "--job", "a", "--until", "2026-01-06"]);
    assert_eq!(list["items"].as_array().unwrap().len(), 5);
    assert!(list["items"][0]["origin"] == "backfill");
    for executor in ["default", "threadpool"] {
        let id = format!("spin-{executor}");
        home.ok(&["job", "add", "sample:spin", "--id", &id, "--executor", executor, "--fuel", "9000000000000"]);
        let run = loop {
            let list = home.json(&["run", "list", "--job", &id]);
            if list["items"][0]["state"] == "running" {
                break list["items"][0]["id"].as_str().unwrap().to_owned();
            }
        };
        let asked = std::time::Instant::now();
        home.ok(&["run", "cancel", &run]);
        while home.json(&["run", "show", &run])["state"] != "ended" {}
        assert!(asked.elapsed() < std::time::Duration::from_secs(3), "a loop is cancelled at once on {executor}");
        assert_eq!(home.json(&["run", "show", &run])["outcome"]["kind"], "cancelled");
    }
    home.ok(&[
        "listener",
        "add",
        "out",
        "--url",
        "http://127.0.0.1:9/none",
        "--mask",
        "JOB_ERROR",
        "--max-attempts",
        "1",
    ]);
    home.ok(&["job", "add", "sample:trap", "--id", "t"]);
    while home.json(&["listener", "show", "out"])["dead"].as_array().unwrap().is_empty() {}
    let shown = home.ok(&["listener", "list"]);
    assert!(shown.contains("127.0.0.1:9") && shown.contains("JOB_ERROR"), "{shown}");
    home.refused(&["listener", "add", "bad", "--url", "ftp://x"], 2, &["ftp://x", "https"]);
    home.refused(&["listener", "add", "bad", "--func", "none:f"], 1, &["no plugin", "none"]);
    home.ok(&["listener", "remove", "out"]);
    home.refused(&["listener", "show", "out"], 1, &["no listener", "out"]);
    drop(daemon);
}

#[test]
fn the_example_of_an_http_scheduler_adds_replaces_refuses_and_survives() {
    use std::io::{BufRead, Read, Write};
    let home = tempfile::tempdir().unwrap();
    let mut build = std::process::Command::new(env!("CARGO"));
    let built = build.args(["build", "--quiet", "--example", "http_scheduler"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(built.status().unwrap().success());
    let example =
        std::path::Path::new(env!("CARGO_BIN_EXE_sandclock")).with_file_name("examples").join("http_scheduler");
    let serve = || {
        let mut command = std::process::Command::new(&example);
        let mut child =
            command.arg(home.path()).arg("127.0.0.1:0").stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().unwrap().unwrap();
        (child, lines, line.strip_prefix("listening on http://").unwrap().to_owned())
    };
    let ask = |address: &str, body: &str| -> Value {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let head = format!(
            "POST /scheduler HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap()
    };
    let (mut child, _, address) = serve();
    let never = r#"{"cron": "10 0 0 1 1 *", "cmd": "task1", "job_id": "x"}"#;
    let added = ask(&address, never);
    assert_eq!((&added["code"], &added["job_id"]), (&json!(0), &json!("x")));
    assert_eq!(ask(&address, &never.replace("10 0 0 1 1 *", "* * * * * *"))["code"], 0, "replaced");
    for (bad, named) in [
        (never.replace("10 0 0 1 1 *", "10 * * *"), "six fields"),
        (never.replace("10 0 0 1 1 *", "99 * * * * *"), "99"),
        (never.replace("task1", "task9"), "task9"),
        ("nonsense".to_owned(), "not understood"),
    ] {
        let refused = ask(&address, &bad);
        assert_eq!(refused["code"], -1, "{bad}");
        assert!(refused["msg"].as_str().unwrap().contains(named), "{bad}: {refused}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let (mut child, mut lines, _) = serve();
    let line = lines.next().unwrap().unwrap();
    assert!(line.starts_with("JOB_EXECUTED Some(JobId(\"x\"))"), "the job was kept, and fires: {line}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_simulation_ends_whatever_its_jobs_expect() {
    let home = Home::with_sample();
    let add =
        ["job", "add", "sample:add-one", "--arg", "number=1", "--id", "a", "--every", "1m", "--expect-every", "3s"];
    home.ok(&add);
    home.ok(&["job", "run", "a", "--wait"]);
    assert!(home.json(&["simulate"])["runs"].as_u64().unwrap() > 1400);
}
