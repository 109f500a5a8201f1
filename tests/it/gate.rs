//! Who gets in: the list of the security review, each item against the built daemon.

use crate::cli::Home;
use crate::wire::{Answer, Served, request, until};
use serde_json::json;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

#[test]
fn only_what_was_meant_for_the_daemon_is_answered() {
    let served = Served::new(&[]);
    let (port, bearer) = (served.address.port(), format!("Bearer {}", served.token));
    let get = |headers: &[(&str, &str)]| {
        let headers = [&[("Authorization", bearer.as_str())], headers].concat();
        served.raw(&request("GET", "/v1/jobs", &headers, "")).map_or(0, |answer| answer.status)
    };
    let own = format!("127.0.0.1:{port}");
    for host in [own.clone(), format!("LOCALHOST:{port}"), format!("[::1]:{port}")] {
        assert_eq!(get(&[("Host", &host)]), 200, "{host}");
    }
    for host in ["evil.com", "localhost.evil.com", "localhost", "", "0.0.0.0"] {
        assert_eq!(get(&[("Host", host)]), 403, "{host}");
    }
    for host in [format!("127.0.0.1.nip.io:{port}"), format!("localhost.evil.com:{port}"), format!("evil.com:{port}")] {
        assert_eq!(get(&[("Host", &host), ("X-Forwarded-Host", "localhost")]), 403, "{host}");
    }
    assert_eq!(get(&[]), 403, "no host");
    assert_eq!(get(&[("Host", &own), ("Host", "evil.com")]), 403, "two hosts");
    let absolute = request("GET", "http://evil.com/v1/jobs", &[("Host", &own), ("Authorization", &bearer)], "");
    assert_eq!(served.raw(&absolute).unwrap().status, 403);
    for (name, value) in [
        ("Origin", "http://evil"),
        ("Origin", "null"),
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Site", "same-site"),
    ] {
        assert_eq!(get(&[("Host", &own), (name, value)]), 403, "{name}: {value}");
    }
    assert_eq!(get(&[("Host", &own), ("Origin", &format!("http://{own}")), ("Sec-Fetch-Site", "same-origin")]), 200);
    let upgrade =
        [("Host", own.as_str()), ("Origin", "http://evil"), ("Upgrade", "websocket"), ("Connection", "upgrade")];
    assert_eq!(get(&upgrade), 403);
    let preflight =
        served.send("OPTIONS", "/v1/jobs", &[("Origin", "http://evil"), ("Access-Control-Request-Method", "POST")], "");
    assert!(preflight.status == 403 && !preflight.head.contains("access-control"));
    let log = served.home.json(&["audit", "--limit", "100"]);
    let refused = |code: &str| log["items"].as_array().unwrap().iter().any(|entry| entry["code"] == code);
    assert!(refused("host_refused") && refused("origin_refused"), "{log}");
}

#[test]
fn a_form_on_another_site_cannot_do_anything() {
    let served = Served::new(&[]);
    let bearer = format!("Bearer {}", served.token);
    for media in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""] {
        let headers = [("Authorization", bearer.as_str()), ("Content-Type", media)];
        let answer = served.send("POST", "/v1/scheduler/pause", &headers, "{}");
        assert_eq!((answer.status, answer.code().as_str()), (415, "media_type"), "{media}");
        let answer = served.send("PUT", "/v1/plugins/x", &headers, "\0asm");
        assert_eq!(answer.status, 415, "{media}");
    }
    assert_eq!(served.send("POST", "/v1/scheduler/pause", &[("Authorization", &bearer)], "").status, 415);
    // No other way to say what the method is.
    let override_ = [("Authorization", bearer.as_str()), ("X-HTTP-Method-Override", "DELETE")];
    assert_eq!(served.send("GET", "/v1/jobs/none", &override_, "").status, 404);
    assert_eq!(served.home.json(&["status"])["phase"], "running");
}

#[test]
fn a_token_says_what_its_holder_may_do() {
    let served = Served::new(&[]);
    let create = |flags: &[&str]| served.home.ok(&[&["token", "create"], flags].concat()).trim().to_owned();
    let (look, operate) = (create(&["look", "--read-only"]), create(&["ops"]));
    let may = |token: &str, method: &str, path: &str, body: &str| served.ask_with(token, method, path, body).status;
    assert_eq!(may(&look, "GET", "/v1/jobs", ""), 200);
    assert_eq!(may(&look, "POST", "/v1/triggers/preview", r#"{"trigger":"every 1h"}"#), 200);
    for (method, path) in [
        ("POST", "/v1/scheduler/pause"),
        ("DELETE", "/v1/jobs"),
        ("GET", "/v1/audit"),
        ("GET", "/v1/tokens"),
        ("PUT", "/v1/secrets/x"),
        ("GET", "/v1/backup"),
        ("GET", "/v1/export"),
        ("GET", "/v1/listeners"),
        ("GET", "/v1/jobs/x/state"),
    ] {
        let answer = served.ask_with(&look, method, path, "{}");
        assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{method} {path}");
        assert_eq!(served.ask_with("", method, path, "{}").status, 401, "{method} {path}");
    }
    assert_eq!(may(&operate, "PUT", "/v1/secrets/x", r#"{"value":"hunter2hunter2"}"#), 204);
    served.home.ok(&["plugin", "grant", "sample", "--allow-env", "KEY=hidden-value"]);
    for path in ["/v1/plugins", "/v1/plugins/sample", "/v1/plugins/sample/grants"] {
        let seen = served.ask_with(&look, "GET", path, "").body;
        assert!(seen.contains("KEY") && !seen.contains("hidden-value"), "{path}: {seen}");
        assert!(served.ask("GET", path, "").body.contains("hidden-value"), "{path}");
    }
    assert_eq!(served.send("GET", "/v1/jobs", &[], "").status, 401);
    assert_eq!(
        served.send("GET", &format!("/v1/jobs?token={operate}"), &[], "").status,
        401,
        "a token in a query is none"
    );
    for wrong in [&operate[1..], &format!("{operate}x"), "sandclock_", "x"] {
        assert_eq!(may(wrong, "GET", "/v1/jobs", ""), 401, "{wrong}");
    }
    let rotated = served.home.ok(&["token", "rotate", "ops"]).trim().to_owned();
    assert_eq!((may(&operate, "GET", "/v1/jobs", ""), may(&rotated, "GET", "/v1/jobs", "")), (401, 200));
    served.home.ok(&["token", "remove", "look"]);
    assert_eq!(may(&look, "GET", "/v1/jobs", ""), 401);
    // Whoever guesses is told to wait; whoever has a token is not.
    let waits = (0..30).map(|_| may("wrong", "GET", "/v1/jobs", "")).filter(|status| *status == 429).count();
    assert!(waits > 5);
    assert_eq!(may(&rotated, "GET", "/v1/jobs", ""), 200);
    let kept = std::fs::read_to_string(served.home.path().join("tokens.json")).unwrap();
    assert!(!kept.contains(&rotated) && !kept.contains("sandclock_"));
    for file in ["tokens.json", "operator.token", "audit.jsonl", "socket"] {
        let mode = std::fs::metadata(served.home.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file}");
    }
}

#[test]
fn the_socket_is_enough_for_jobs_and_not_for_grants() {
    let served = Served::new(&[]);
    let ask = |method, path, body| served.over_socket(method, path, body).unwrap();
    assert_eq!(ask("GET", "/v1/jobs", "").status, 200);
    assert_eq!(ask("POST", "/v1/jobs", r#"{"func":"sample:add-one","args":[1],"id":"j"}"#).status, 201);
    for (method, path) in [
        ("PUT", "/v1/plugins/sample/grants"),
        ("PUT", "/v1/secrets/x"),
        ("POST", "/v1/tokens"),
        ("POST", "/v1/session/code"),
        ("GET", "/v1/backup"),
        ("DELETE", "/v1/plugins/sample"),
        ("PUT", "/v1/listeners/x"),
    ] {
        let answer = ask(method, path, "{}");
        assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{method} {path}");
        assert!(answer.body.contains("operator.token"), "{}", answer.body);
    }
    // The command line has the token of its own user.
    served.home.ok(&["plugin", "grant", "sample", "--allow-env", "A=b"]);
    let entries = served.home.json(&["audit"]);
    let entry = &entries["items"][0];
    assert_eq!((&entry["operation"], &entry["peer"]), (&json!("put_grants"), &json!("socket")));
    assert!(entry["caller"].as_str().unwrap().starts_with("token operator, uid "), "{entry}");
}

#[test]
fn a_caller_that_goes_away_is_on_record_and_leaves_nothing_half_done() {
    let served = Served::new(&["--paused"]);
    let bearer = format!("Bearer {}", served.token);
    let host = served.address.to_string();
    for at in 0..20 {
        let headers = [("Host", host.as_str()), ("Authorization", &bearer), ("Content-Type", "application/json")];
        let body = format!(r#"{{"func":"sample:add-one","args":[1],"id":"j{at}","trigger":"every 1h"}}"#);
        served.connect().write_all(request("POST", "/v1/jobs", &headers, &body).as_bytes()).unwrap();
    }
    until("each on record that was done", || {
        let done = served.home.json(&["job", "list"])["items"].as_array().unwrap().len();
        let log = served.home.json(&["audit", "--limit", "100"]);
        let entries = log["items"].as_array().unwrap().iter();
        let told = entries.filter(|entry| entry["operation"] == "add_job" && entry["status"] == 201).count();
        (done == told && done > 0).then_some(())
    });
}

#[test]
fn a_flood_of_refusals_does_not_push_out_what_was_done() {
    let served = Served::new(&["--paused"]);
    served.home.ok(&["job", "add", "sample:add-one", "--args", "[1]", "--every", "1h", "--id", "j"]);
    for _ in 0..150 {
        served.send("POST", "/v1/jobs", &[("Content-Type", "application/json")], "{}");
    }
    let lines = std::fs::read_to_string(served.home.path().join("audit.jsonl")).unwrap();
    assert!(lines.contains("add_job") && lines.lines().count() < 130, "{} lines", lines.lines().count());
}

#[test]
fn what_streams_ends_with_the_token_that_it_came_with() {
    let served = Served::new(&[]);
    let token = served.home.ok(&["token", "create", "short", "--read-only"]).trim().to_owned();
    let bearer = format!("Bearer {token}");
    let host = served.address.to_string();
    let headers = [("Host", host.as_str()), ("Authorization", &bearer), ("Accept", "text/event-stream")];
    let mut stream = served.connect();
    stream.write_all(request("GET", "/v1/events", &headers, "").as_bytes()).unwrap();
    let mut begun = [0; 12];
    stream.read_exact(&mut begun).unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200");
    served.home.ok(&["token", "remove", "short"]);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("the stream goes on");
}

#[test]
fn every_job_goes_only_if_that_is_meant() {
    let served = Served::new(&["--paused"]);
    served.home.ok(&["job", "add", "sample:add-one", "--args", "[1]", "--every", "1h", "--id", "j"]);
    assert_eq!(served.ask("DELETE", "/v1/jobs", "").code(), "invalid");
    assert_eq!(served.home.json(&["job", "list"])["items"].as_array().unwrap().len(), 1);
    assert_eq!(served.ask("DELETE", "/v1/jobs?all=true", "").status, 204);
    assert!(served.home.json(&["job", "list"])["items"].as_array().unwrap().is_empty());
}

/// Only root can be somebody else; elsewhere this says so.
#[test]
fn another_user_is_not_served_whatever_the_modes() {
    let uid = rustix::process::getuid();
    if !uid.is_root() {
        eprintln!("skipped: it takes root to connect as another user");
        return;
    }
    let served = Served::new(&[]);
    let home = served.home.path();
    assert_eq!(std::fs::metadata(&home).unwrap().mode() & 0o777, 0o700);
    for dir in [home.parent().unwrap(), &home] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    std::fs::set_permissions(home.join("socket"), std::fs::Permissions::from_mode(0o666)).unwrap();
    let answer = std::thread::spawn(move || {
        // Of this thread alone.
        rustix::thread::set_thread_uid(rustix::thread::Uid::from_raw(65_534)).unwrap();
        let mut stream = UnixStream::connect(home.join("socket")).unwrap();
        let _ = stream.write_all(request("GET", "/v1/status", &[("Host", "localhost")], "").as_bytes());
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    });
    assert_eq!(answer.join().unwrap(), "");
    assert_eq!(served.over_socket("GET", "/v1/status", "").unwrap().status, 200);
}

#[test]
fn a_home_that_is_a_link_is_refused_and_so_is_an_open_address() {
    let home = Home::with_sample();
    let link = home.path().with_file_name("link");
    std::os::unix::fs::symlink(home.path(), &link).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sandclock")).arg("--home").arg(&link).arg("serve").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("its directory is a link"), "{text}");
    home.refused(&["serve", "--listen", "0.0.0.0:0"], 2, &["0.0.0.0:0", "--allow-remote"]);
    home.refused(&["serve", "--listen", "[::]:0"], 2, &["--allow-remote"]);
}

#[test]
fn a_browser_signs_in_once_with_a_code_and_out() {
    let served = Served::new(&[]);
    let url = served.home.ok(&["open"]);
    let (base, code) = url.trim().split_once("/#code=").unwrap();
    assert_eq!(base, format!("http://{}", served.address));
    let login = |body: &str| served.send("POST", "/v1/session", &[("Content-Type", "application/json")], body);
    let answer = login(&json!({ "code": code }).to_string());
    assert_eq!((answer.status, &answer.json()["access"]), (200, &json!("grant")));
    let cookie = answer.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    assert!(cookie.contains("; httponly; samesite=strict") && cookie.contains("path=/"), "{cookie}");
    // The header was made lower case above, the cookie's value is not.
    let raw = served.raw(&request(
        "POST",
        "/v1/session",
        &[("Host", &served.address.to_string()), ("Content-Type", "application/json")],
        &json!({ "token": served.token }).to_string(),
    ));
    assert_eq!(raw.unwrap().status, 200);
    assert_eq!(login(&json!({ "code": code }).to_string()).status, 401, "a code is good once");
    assert_eq!(login(r#"{"token":"wrong"}"#).status, 401);
    assert_eq!(login("{}").status, 400);
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "k")];
    served.send("POST", "/v1/session", &headers, r#"{"token":"wrong"}"#);
    assert!(!served.home.path().join("idempotency.jsonl").exists(), "strangers leave nothing on the disk");
    let bearer = format!("Bearer {}", served.token);
    let headers = [headers[0], headers[1], ("Authorization", &bearer)];
    let made = served.send("POST", "/v1/tokens", &headers, r#"{"name":"kept","kind":"operator"}"#);
    assert!(made.status == 201 && !served.home.path().join("idempotency.jsonl").exists(), "no token is kept as text");
    let begin = || {
        let mut stream = served.connect();
        let body = json!({ "token": served.token }).to_string();
        let headers = [("Host", served.address.to_string()), ("Content-Type", "application/json".into())];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        stream.write_all(request("POST", "/v1/session", &headers, &body).as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = text.lines().find(|line| line.to_ascii_lowercase().starts_with("set-cookie:")).unwrap().to_owned();
        line.split_once(' ').unwrap().1.split(';').next().unwrap().to_owned()
    };
    let cookie = begin();
    let with = |method: &str, path: &str| {
        served.send(method, path, &[("Cookie", &cookie), ("Content-Type", "application/json")], "").status
    };
    assert_eq!((with("GET", "/v1/jobs"), with("POST", "/v1/scheduler/resume")), (200, 204));
    assert_eq!((with("DELETE", "/v1/session"), with("GET", "/v1/jobs")), (204, 401));
    let cookie = begin();
    served.home.ok(&["token", "rotate", "operator"]);
    assert_eq!(served.send("GET", "/v1/jobs", &[("Cookie", &cookie)], "").status, 401, "its token is another one");
}

#[test]
fn what_is_public_shows_nothing_and_every_answer_has_its_headers() {
    let served = Served::new(&[]);
    served.home.ok(&["job", "add", "sample:add-one", "--args", "[1]", "--every", "1h", "--id", "secret-name"]);
    for (path, status) in [
        ("/", 200),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/page/main.js", 200),
        ("/openapi.json", 200),
        ("/metrics", 401),
        ("/none", 404),
        ("/page/../tokens.json", 404),
        ("/page/%2e%2e/tokens.json", 404),
    ] {
        let answer = served.send("GET", path, &[], "");
        assert_eq!(answer.status, status, "{path}");
        assert!(!answer.body.contains("secret-name"), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert!(policy.contains("frame-ancestors 'none'") && answer.header("cache-control").is_some(), "{path}");
    }
    let metrics = served.ask("GET", "/metrics", "");
    assert!(metrics.status == 200 && !metrics.body.contains("secret-name"));
    let link = served.send("GET", "/", &[("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate")], "");
    assert_eq!(link.status, 200, "a link may lead to the page");
}

#[test]
fn what_is_too_large_is_refused_before_it_has_come() {
    let served = Served::new(&[]);
    let bearer = format!("Bearer {}", served.token);
    let address = served.address.to_string();
    let headers = |media: &'static str, length: &'static str| {
        [("Host", address.as_str()), ("Authorization", &bearer), ("Content-Type", media), ("Content-Length", length)]
    };
    let five_gigabytes = |method: &str, path: &str, media: &'static str| -> Answer {
        let mut stream = served.connect();
        let _ = stream.write_all(request(method, path, &headers(media, "5000000000"), "").as_bytes());
        let chunk = vec![b' '; 1 << 20];
        let mut sent = 0;
        while sent < 64 << 20 && stream.write_all(&chunk).is_ok() {
            sent += chunk.len();
        }
        assert!(sent <= 40 << 20, "it took {sent} bytes");
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        Answer {
            status: text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(413),
            head: String::new(),
            body: text,
        }
    };
    let began = Instant::now();
    assert_eq!(five_gigabytes("POST", "/v1/jobs", "application/json").status, 413);
    assert_eq!(five_gigabytes("PUT", "/v1/plugins/x", "application/wasm").status, 413);
    assert!(began.elapsed() < Duration::from_secs(20));
    let just_too_long = served.ask("POST", "/v1/jobs", &" ".repeat((1 << 20) + 1));
    assert_eq!((just_too_long.status, just_too_long.code().as_str()), (413, "too_large"));
    let long = "x".repeat(64 << 10);
    assert!(
        served
            .raw(&request("GET", "/v1/jobs", &[("Host", &address), ("X", &long)], ""))
            .is_none_or(|answer| answer.status == 431)
    );
    let many: Vec<(&str, &str)> = (0..200).map(|_| ("X", "y")).collect();
    assert!(served.raw(&request("GET", "/v1/jobs", &many, "")).is_none_or(|answer| answer.status == 431));
    assert_eq!(served.ask("GET", &format!("/v1/jobs/{}", "x".repeat(8000)), "").status, 400);
    let deep = format!(r#"{{"func":"sample:add-one","args":{}1{}}}"#, "[".repeat(5000), "]".repeat(5000));
    assert_eq!(served.ask("POST", "/v1/jobs", &deep).status, 400);
    assert_eq!(
        served.ask("POST", "/v1/jobs", r#"{"func":"sample:add-one","func":"sample:trap"}"#).status,
        400,
        "a key twice"
    );
}

#[test]
fn a_thousand_idle_connections_and_slow_heads_hold_up_nothing() {
    let served = Served::new(&[]);
    served.home.ok(&["job", "add", "sample:add-one", "--args", "[1]", "--every", "1s", "--id", "tick"]);
    let began = Instant::now();
    let mut idle: Vec<_> = (0..1000).map(|_| std::net::TcpStream::connect(served.address).unwrap()).collect();
    // Some of them begin a head and never end it.
    for stream in idle.iter_mut().rev().take(100) {
        let _ = stream.write_all(b"GET /v1/jobs HTTP/1.1\r\nHost: ");
    }
    assert_eq!(served.ask("GET", "/v1/jobs", "").status, 200);
    assert_eq!(served.over_socket("GET", "/v1/status", "").unwrap().status, 200);
    let runs = until("five runs", || {
        let runs = served.home.json(&["run", "list", "--job", "tick"]);
        (runs["items"].as_array().unwrap().iter().filter(|run| run["state"] == "ended").count() >= 5).then_some(runs)
    });
    for run in runs["items"].as_array().unwrap().iter().filter(|run| run["state"] == "ended") {
        let at = |name: &str| chrono::DateTime::parse_from_rfc3339(run[name].as_str().unwrap()).unwrap();
        let late = at("started") - at("scheduled_time");
        assert!(late < chrono::TimeDelta::seconds(1), "late by {late}");
    }
    let slow = idle.last_mut().unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut rest = String::new();
    // The daemon ends it, with an answer or without.
    assert!(slow.read_to_string(&mut rest).is_ok() || rest.is_empty());
    assert!(began.elapsed() < Duration::from_secs(30));
}
