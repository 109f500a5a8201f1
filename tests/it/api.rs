//! The API as its clients use it: the built daemon over its socket and over TCP.

use crate::cli::Home;
use crate::plugins::component;
use crate::wire::{Served, request, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};

/// The operations of a description: method, path, and what is said of it.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let each = |(path, methods): (&String, &Value)| {
        let path = path.clone();
        methods.as_object().unwrap().clone().into_iter().map(move |(method, about)| (method, path.clone(), about))
    };
    paths.flat_map(each).collect()
}

fn refs(value: &Value, all: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(to)) = fields.get("$ref") {
                all.insert(to.clone());
            }
            fields.values().for_each(|value| refs(value, all));
        }
        Value::Array(items) => items.iter().for_each(|item| refs(item, all)),
        _ => {}
    }
}

#[test]
fn the_description_is_whole() {
    let document = sandclock::http::openapi();
    assert_eq!(document["openapi"], "3.1.0");
    let operations = operations(&document);
    let ids: BTreeSet<&str> = operations.iter().map(|(_, _, about)| about["operationId"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), operations.len(), "an id twice");
    assert!(operations.len() > 55);
    let mut all = BTreeSet::new();
    refs(&document, &mut all);
    for to in &all {
        assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to} leads nowhere");
    }
    assert!(all.len() > 60);
    for (method, path, about) in &operations {
        assert!(about["summary"].as_str().is_some_and(|summary| summary.len() > 5), "{method} {path}");
        let responses = about["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path}");
        let access = about["x-access"].as_str().unwrap();
        let safe = method == "get"
            || ["preview_trigger", "simulate", "end_session", "begin_session"]
                .contains(&about["operationId"].as_str().unwrap());
        assert!(safe || ["operate", "grant"].contains(&access), "{method} {path} changes something for {access}");
    }
}

#[test]
fn lists_page_by_cursor() {
    let served = Served::new(&["--paused"]);
    for at in 0..7 {
        served.home.ok(&["job", "add", "sample:add-one", "--args", "[1]", "--every", "1h", "--id", &format!("j{at}")]);
    }
    let mut ids = Vec::new();
    let mut after = String::new();
    loop {
        let page = served.ask("GET", &format!("/v1/jobs?limit=3{after}"), "").json();
        ids.extend(page["items"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(ids, ["j0", "j1", "j2", "j3", "j4", "j5", "j6"]);
    let plugins = served.ask("GET", "/v1/plugins?limit=1&after=a", "").json();
    assert_eq!((plugins["items"][0]["name"].as_str(), plugins["next"].as_str()), (Some("sample"), None));
    let next = served.ask("GET", "/v1/jobs/j0", "").json()["next_run_time"].as_str().unwrap().to_owned();
    let timeline = served.ask("GET", &format!("/v1/timeline?hours=3&limit=2&from={next}"), "").json();
    let first = &timeline["items"][0];
    assert_eq!((first["total"].as_u64(), first["counts"].as_array().map(Vec::len)), (Some(3), Some(12)));
    assert_eq!(timeline["next"], "j1");
    for bad in ["/v1/jobs?limit=x", "/v1/jobs?nope=1", "/v1/timeline?from=x", "/v1/runs?outcome=odd", "/v1/runs/x"] {
        assert_eq!(served.ask("GET", bad, "").code(), "invalid", "{bad}");
    }
}

#[test]
fn a_request_with_a_key_is_done_once_over_a_restart_too() {
    let served = Served::new(&["--paused"]);
    served.home.ok(&["job", "add", "sample:add-one", "--args", "[1]", "--every", "1h", "--id", "j"]);
    let ask = |served: &Served, key: &str, path: &str, body: &str| {
        let bearer = format!("Bearer {}", served.token);
        let headers =
            [("Authorization", bearer.as_str()), ("Content-Type", "application/json"), ("Idempotency-Key", key)];
        served.send("POST", path, &headers, body)
    };
    let first = ask(&served, "k1", "/v1/jobs/j/run", "");
    assert_eq!((first.status, first.header("idempotency-replayed")), (202, None));
    let again = ask(&served, "k1", "/v1/jobs/j/run", "");
    assert_eq!((again.status, again.header("idempotency-replayed")), (202, Some("true")));
    assert_eq!(first.body, again.body);
    assert_ne!(ask(&served, "k2", "/v1/jobs/j/run", "").body, first.body);
    let other = ask(&served, "k1", "/v1/jobs/j/pause", "");
    assert_eq!((other.status, other.code().as_str()), (422, "idempotency_mismatch"));
    let refused = ask(&served, "k3", "/v1/jobs", r#"{"func":"sample:none"}"#);
    assert_eq!((refused.status, refused.header("content-type")), (404, Some("application/problem+json")));
    assert_eq!(
        ask(&served, "k3", "/v1/jobs", r#"{"func":"sample:none"}"#).header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(ask(&served, "", "/v1/jobs/j/run", "").status, 400);
    let Served { home, daemon, .. } = served;
    daemon.kill();
    let served = Served::of(home, &["--paused"]);
    let later = ask(&served, "k1", "/v1/jobs/j/run", "");
    assert_eq!((later.body, later.status), (first.body, 202));
    let runs = served.home.json(&["run", "list", "--job", "j"]);
    assert_eq!(runs["items"].as_array().unwrap().len(), 2, "{runs}");
}

/// Reads an event stream over TCP until `enough` of its `id` and `data` lines are there.
fn stream(served: &Served, path: &str, headers: &[(&str, &str)], enough: impl Fn(&[String]) -> bool) -> Vec<String> {
    let bearer = format!("Bearer {}", served.token);
    let host = served.address.to_string();
    let own = [("Host", host.as_str()), ("Authorization", &bearer), ("Accept", "text/event-stream")];
    let mut stream = served.connect();
    stream.write_all(request("GET", path, &[&own, headers].concat(), "").as_bytes()).unwrap();
    let mut lines = Vec::new();
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        if ["id:", "data:", "event:"].iter().any(|name| line.starts_with(name)) {
            lines.push(line);
        }
        if enough(&lines) {
            return lines;
        }
    }
    panic!("{path}: the stream ended after {lines:?}");
}

#[test]
fn an_event_stream_goes_on_where_it_broke_off() {
    let served = Served::new(&[]);
    served.home.ok(&["job", "add", "sample:add-one", "--args", "[1]", "--every", "1s", "--id", "tick"]);
    let ids = |lines: &[String]| -> Vec<u64> {
        lines.iter().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect()
    };
    let first = ids(&stream(&served, "/v1/events?since=0", &[], |lines| ids(lines).len() >= 4));
    assert_eq!(first, [1, 2, 3, 4]);
    let more = ids(&stream(&served, "/v1/events?since=0", &[("Last-Event-ID", "4")], |lines| ids(lines).len() >= 3));
    assert_eq!(more, [5, 6, 7]);
    let last = served.home.json(&["status"])["last_event"].as_u64().unwrap();
    let new = ids(&stream(&served, "/v1/events", &[], |lines| !ids(lines).is_empty()));
    assert!(new[0] > last, "without a place to go on from, it begins now");
    let bearer = format!("Bearer {}", served.token);
    let wrong = [("Authorization", bearer.as_str()), ("Accept", "text/event-stream"), ("Last-Event-ID", "x")];
    assert_eq!(served.send("GET", "/v1/events", &wrong, "").status, 400);
}

#[test]
fn streams_are_bounded() {
    let served = Served::new(&[]);
    let bearer = format!("Bearer {}", served.token);
    let host = served.address.to_string();
    let headers = [("Host", host.as_str()), ("Authorization", &bearer), ("Accept", "text/event-stream")];
    let open = || {
        let mut stream = served.connect();
        stream.write_all(request("GET", "/v1/events", &headers, "").as_bytes()).unwrap();
        let mut line = String::new();
        let mut reader = BufReader::new(stream);
        reader.read_line(&mut line).unwrap();
        (line, reader)
    };
    let streams: Vec<_> = (0..sandclock::http::STREAMS_MAX).map(|_| open()).collect();
    assert!(streams.iter().all(|(line, _)| line.contains("200")));
    assert!(open().0.contains("503"));
    drop(streams);
    until("a place", || open().0.contains("200").then_some(()));
}

#[test]
fn logs_are_followed_while_a_run_writes_them() {
    let home = Home::new();
    let file = home.file("unruly.wasm", &component("unruly"));
    home.ok(&["plugin", "add", file.to_str().unwrap()]);
    for wall in [&[][..], &["--in-process"]] {
        let served = Served::of(Home::new(), wall);
        served.home.ok(&["plugin", "add", file.to_str().unwrap()]);
        let narrate = ["job", "add", "unruly:narrate", "--args", "[20, 100]", "--every", "1h", "--id", "n"];
        served.home.ok(&narrate);
        let run = served.ask("POST", "/v1/jobs/n/run", "").json()["run_id"].as_str().unwrap().to_owned();
        let path = format!("/v1/runs/{run}/logs");
        let lines = stream(&served, &path, &[], |lines| lines.iter().any(|line| line == "event: end"));
        let texts = lines.iter().filter_map(|line| line.strip_prefix("data: "));
        let texts =
            texts.filter_map(|data| serde_json::from_str::<Value>(data).ok()?["text"].as_str().map(str::to_owned));
        let texts: Vec<String> = texts.collect();
        let whole: String = (0..20).map(|line| format!("line {line}\n")).collect();
        assert_eq!(texts.concat(), whole);
        assert!(texts.len() >= 3, "it came at once: {texts:?}");
        assert_eq!(served.ask("GET", &path, "").json()["stdout"], whole.as_str());
        let run = served.ask("POST", "/v1/jobs/n/run", "").json()["run_id"].as_str().unwrap().to_owned();
        let followed = served.home.ok(&["run", "logs", &run, "--follow"]);
        assert_eq!(followed.lines().count(), 20, "{followed}");
        let none = served.ask("GET", "/v1/runs/01ARZ3NDEKTSV4RRFFQ69G5FAV/logs", "");
        assert_eq!(none.code(), "run_not_found");
    }
}

#[test]
fn an_upload_tells_how_far_it_is() {
    let served = Served::new(&[]);
    let bytes = component("hello");
    let mut head = request(
        "PUT",
        "/v1/plugins/hello",
        &[
            ("Host", &served.address.to_string()),
            ("Authorization", &format!("Bearer {}", served.token)),
            ("Content-Type", "application/wasm"),
            ("Accept", "application/x-ndjson"),
            ("Content-Length", &bytes.len().to_string()),
        ],
        "",
    );
    let mut stream = served.connect();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&bytes[..1000]).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut next = move || loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "it broke off");
        if line.starts_with('{') {
            return serde_json::from_str::<Value>(&line).unwrap();
        }
    };
    assert_eq!(next()["progress"]["stage"], "received", "it tells before all has come");
    stream.write_all(&bytes[1000..]).unwrap();
    let mut stages = Vec::new();
    let added = loop {
        let line = next();
        match line["added"].is_null() {
            true => stages.push(line["progress"].clone()),
            false => break line["added"].clone(),
        }
    };
    assert_eq!(stages.last().unwrap()["stage"], "compiling");
    assert_eq!((&added["name"], &added["current"]), (&json!("hello"), &json!(true)));
    let functions = served.ask("GET", "/v1/plugins/hello/functions", "").json();
    let greet = functions["items"].as_array().unwrap().iter().find(|f| f["func"] == "hello:greet").unwrap();
    assert_eq!(greet["params"], json!([{ "name": "name", "type": { "kind": "string" } }]));
    head = head.replace(&format!("Content-Length: {}", bytes.len()), "Content-Length: 5");
    let refused = served.raw(&(head + "noise")).unwrap();
    assert!(refused.status == 200 && refused.body.contains(r#""code":"plugin_refused""#), "{}", refused.body);
}

#[test]
fn metrics_count_what_happened() {
    let served = Served::new(&[]);
    served.home.ok(&["job", "add", "sample:add-one", "--args", "[1]", "--id", "good"]);
    served.home.ok(&["job", "add", "sample:trap", "--id", "bad"]);
    let text = until("both runs", || {
        let text = served.ask("GET", "/metrics", "").body;
        (text.contains(r#"runs_ended_total{outcome="succeeded"} 1"#) && text.contains(r#"{outcome="trapped"} 1"#))
            .then_some(text)
    });
    for line in [
        "sandclock_fire_times_total 2",
        "sandclock_runs_started_total 2",
        "sandclock_run_duration_seconds_count 2",
        "sandclock_run_lateness_seconds_count 2",
        "sandclock_run_fuel_count 2",
        "sandclock_firing 1",
        r#"sandclock_slots{executor="default"} 64"#,
        r#"sandclock_jobs_waiting{jobstore="default"} 0"#,
        "# EOF",
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is not in {text}");
    }
    assert!(text.contains("sandclock_store_commit_seconds_count") && text.contains("sandclock_http_requests_total"));
    assert_eq!(served.send("GET", "/readyz", &[], "").status, 200);
    served.home.ok(&["pause"]);
    let paused = served.send("GET", "/readyz", &[], "");
    assert_eq!((paused.status, paused.code().as_str()), (503, "not_ready"));
    assert_eq!(served.send("GET", "/healthz", &[], "").status, 200);
}
