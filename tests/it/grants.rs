//! Grants, as a user gives and narrows them, and what guests then can and cannot do; by the built
//! binary, so in locked worker processes.

use super::cli::Home;
use super::plugins::component;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

fn wasm(plugin: &str) -> String {
    component(plugin);
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("plugins/target/wasm32-wasip2/release");
    dir.join(plugin).with_extension("wasm").to_str().unwrap().to_owned()
}

/// A server that answers each request with what was asked, and passes it on.
fn echo_server() -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, asked) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut chunk = [0; 4096];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                let read = stream.read(&mut chunk).unwrap_or(0);
                if read == 0 {
                    break;
                }
                request.extend_from_slice(&chunk[..read]);
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let auth = request.lines().find(|line| line.starts_with("authorization")).unwrap_or("a: b").to_owned();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nx-{auth}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{request}",
                request.len()
            );
            let _ = stream.write_all(answer.as_bytes());
            let _ = tell.send(request);
        }
    });
    (port, asked)
}

fn ended(home: &Home, job: &str) -> Value {
    home.run(&["job", "run", job, "--wait"]);
    home.json(&["run", "list", "--job", job, "--limit", "1"])["items"][0].clone()
}

#[test]
fn a_state_is_kept_by_runs_that_succeed_and_only_once_it_is_granted() {
    let home = Home::new();
    let sheet = home.ok(&["plugin", "add", &wasm("counter")]);
    assert!(sheet.contains("NOT GRANTED: a key-value state") && sheet.contains("--allow-state"), "{sheet}");
    let add = ["job", "add", "counter:count", "--arg", "by=2", "--every", "1h", "--id", "c"];
    home.refused(&add, 1, &["counter", "asks for a key-value state", "sandclock plugin grant counter --allow-state"]);
    home.ok(&["plugin", "grant", "counter", "--allow-state"]);
    home.ok(&add);
    home.ok(&["job", "add", "counter:count-and-fail", "--arg", "by=2", "--every", "1h", "--id", "f"]);
    for expected in [2, 4, 6] {
        assert_eq!(ended(&home, "c")["outcome"], json!({"kind": "succeeded", "value": expected}));
    }
    assert_eq!(home.json(&["job", "state", "c"]), json!({"count": {"text": "6"}}));
    for _ in 0..2 {
        let run = ended(&home, "f");
        assert_eq!(run["outcome"]["error"], "it would be 2, and is not kept");
        assert_eq!(run["uses"], json!([{"what": "state"}]));
    }
    assert_eq!(home.json(&["job", "state", "f"]), json!({}));
    let failures = home.json(&["run", "failures"]);
    assert_eq!((&failures["items"][0]["count"], failures["items"].as_array().unwrap().len()), (&json!(2), 1));
    home.ok(&["job", "state", "c", "--clear"]);
    assert_eq!(ended(&home, "c")["outcome"]["value"], 2, "it began anew");
    home.ok(&["plugin", "grant", "counter", "--only"]);
    let job = home.json(&["job", "show", "c"]);
    assert_eq!(job["state"], "quarantined", "what is revoked stops its jobs: {job}");
    home.ok(&["plugin", "grant", "counter", "--allow-state"]);
    assert_eq!(home.json(&["job", "show", "c"])["state"], "active");
}

#[test]
fn a_version_that_asks_for_more_waits_and_the_one_before_it_goes_on() {
    let home = Home::new();
    home.ok(&["plugin", "add", &wasm("hello"), "--name", "p"]);
    home.ok(&["job", "add", "p:greet", "--arg", "name=Ada", "--every", "1h", "--id", "j"]);
    let added = home.json(&["plugin", "add", &wasm("counter"), "--name", "p"]);
    assert_eq!((&added["missing"], &added["current"]), (&json!(["state"]), &json!(false)));
    assert_eq!(ended(&home, "j")["outcome"]["value"], "Hello, Ada!", "its jobs follow the old one");
    let granted = home.json(&["plugin", "grant", "p", "--allow-state"]);
    assert_eq!((&granted["current"], &granted["quarantined"]), (&json!(true), &json!(1)), "the function is gone");
    assert_eq!(home.json(&["exec", "p:count", "--arg", "by=1"])["outcome"]["value"], 1);
    // The next version asks for no more, so it has the same grants.
    let again = home.json(&["plugin", "add", &wasm("hello"), "--name", "p"]);
    assert_eq!(again["current"], true);
    let back = home.json(&["plugin", "add", &wasm("counter"), "--name", "p", "--label", "2"]);
    assert_eq!(back["current"], true, "this component was granted it: {back}");
}

#[test]
fn a_secret_reaches_its_host_and_is_never_seen() {
    let (port, asked) = echo_server();
    let home = Home::new();
    let file = home.file("token", b"s3cr3t-t0ken-value\n");
    home.ok(&["secret", "set", "token", "--file", file.to_str().unwrap()]);
    assert_eq!(home.ok(&["secret", "list"]).trim(), "token");
    let host = format!("127.0.0.1:{port}");
    home.ok(&["plugin", "add", &wasm("surfer"), "--allow-http", &host, "--secret", &format!("token@{host}")]);
    let url = format!("http://{host}/x?y");
    let headers = json!([["authorization", "Bearer {{secret:token}}"], ["x-other", "{{secret:token}}!"]]);
    let fetch = |headers: &Value| json!(["GET", url, headers, []]).to_string();
    home.ok(&["job", "add", "surfer:fetch", "--args", &fetch(&headers), "--every", "1h", "--id", "f"]);
    let run = ended(&home, "f");
    let request = asked.recv().unwrap();
    assert!(request.contains("Bearer s3cr3t-t0ken-value\r\n") && request.contains("s3cr3t-t0ken-value!"), "{request}");
    assert!(request.starts_with("GET /x?y HTTP/1.1\r\n"), "{request}");
    let text = run.to_string();
    assert_eq!(run["outcome"]["kind"], "succeeded", "{text}");
    assert_eq!(text.matches("Bearer ******************").count(), 2, "the server sent it back, masked: {text}");
    assert!(!text.contains("s3cr3t"), "{text}");
    // Another secret, or another host, gets nothing.
    let other = json!([["authorization", "{{secret:other}}"]]);
    home.ok(&["job", "add", "surfer:fetch", "--args", &fetch(&other), "--every", "1h", "--id", "o"]);
    let run = ended(&home, "o");
    assert_eq!((&run["outcome"]["kind"], &run["outcome"]["capability"]), (&json!("denied"), &json!("secret:other")));
    // Granted without a host, a guest can read it, and what it writes of it is taken out.
    home.ok(&["secret", "remove", "token"]);
    home.refused(&["secret", "remove", "token"], 1, &["no secret `token`"]);
    let show = home.ok(&["plugin", "show", "surfer"]);
    assert!(show.contains(&format!("secret token, sent to {host} without being seen")), "{show}");
}

#[test]
fn a_request_that_is_not_granted_names_the_grant_that_it_needs() {
    let home = Home::new();
    home.ok(&["plugin", "add", &wasm("checker"), "--allow-http", "example.org"]);
    let args = json!([["http://127.0.0.1:9/"]]).to_string();
    home.ok(&["job", "add", "checker:check", "--args", &args, "--every", "1h", "--id", "c"]);
    let run = ended(&home, "c");
    assert_eq!(run["outcome"]["capability"], "http:127.0.0.1:9", "{run}");
    let error = run["outcome"]["error"].as_str().unwrap();
    assert!(error.contains("`--allow-http 127.0.0.1:9` would grant it"), "{error}");
    assert_eq!(run["uses"], json!([{"what": "http:127.0.0.1:9", "denied": true}]));
    let id = run["id"].as_str().unwrap();
    assert!(home.ok(&["run", "logs", id]).contains("denied: http:127.0.0.1:9"));
    assert!(home.ok(&["run", "show", id]).contains("was denied"));
}

#[test]
fn a_directory_is_what_was_granted_and_nothing_beside_it() {
    let home = Home::new();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().canonicalize().unwrap().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("old.log"), "x").unwrap();
    let granted = format!("{}:/data:rw:8KiB", data.display());
    home.ok(&["plugin", "add", &wasm("tidier"), "--allow-dir", &granted]);
    let tidy = ["exec", "tidier:tidy", "--args", r#"["/data", 0, true]"#];
    assert_eq!(home.json(&tidy)["outcome"]["value"], json!(["old.log"]));
    let job = ["job", "add", "tidier:tidy", "--args", r#"["/data", 0, false]"#, "--every", "1h"];
    home.ok(&[&job[..], &["--id", "narrow", "--grant", "dir:/data:ro"]].concat());
    let run = ended(&home, "narrow");
    assert_eq!(run["outcome"]["capability"], "dir:/data:rw", "a job narrows what its plugin has: {run}");
    assert!(data.join("old.log").exists());
    home.ok(&[&job[..], &["--id", "none", "--grant", "none"]].concat());
    assert_eq!(ended(&home, "none")["outcome"]["kind"], "failed");
    home.refused(&[&job[..], &["--grant", "dir:/other"]].concat(), 2, &["`dir:/other:ro`", "was not granted"]);
    home.ok(&[&job[..], &["--id", "all"]].concat());
    assert_eq!(ended(&home, "all")["outcome"]["value"], json!(["old.log"]));
    assert!(!data.join("old.log").exists());
    // A link in the place of the directory is not followed.
    std::fs::rename(&data, data.with_extension("moved")).unwrap();
    std::os::unix::fs::symlink("/etc", &data).unwrap();
    let run = ended(&home, "all");
    assert_eq!(run["outcome"]["kind"], "internal", "{run}");
}

#[test]
fn files_do_not_move_from_one_quota_to_another() {
    let home = Home::new();
    let dirs = tempfile::tempdir().unwrap();
    let root = dirs.path().canonicalize().unwrap();
    for name in ["a", "b"] {
        std::fs::create_dir(root.join(name)).unwrap();
    }
    std::fs::write(root.join("a/f"), "x").unwrap();
    let grant = |name: &str| format!("{}/{name}:/{name}:rw", root.display());
    home.ok(&["plugin", "add", &wasm("hostile"), "--allow-dir", &grant("a"), "--allow-dir", &grant("b")]);
    for function in ["rename-file", "hard-link"] {
        let output = home.run(&["--json", "exec", &format!("hostile:{function}"), "--args", r#"["/a/f", "/b/f"]"#]);
        let ended: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(ended["outcome"]["error"], "cross-device", "{ended}");
    }
    assert!(root.join("a/f").exists() && !root.join("b/f").exists());
}

#[test]
fn what_is_never_given_is_refused_when_it_is_granted() {
    let home = Home::new();
    let add = wasm("tidier");
    home.ok(&["plugin", "add", &add]);
    let own = home.path().canonicalize().unwrap();
    let above = own.parent().unwrap();
    for (dir, reason) in [
        ("/:/data".to_owned(), "never given"),
        ("/proc/1:/data".to_owned(), "never given"),
        ("/dev:/data".to_owned(), "never given"),
        ("/sys:/data".to_owned(), "never given"),
        (format!("{}:/data", own.display()), "its own things"),
        (format!("{}/db:/data", own.display()), "its own things"),
        (format!("{}:/data", above.display()), "its own things"),
        ("/no/such/dir:/data".to_owned(), "cannot be found"),
        ("/etc/hostname:/data".to_owned(), "no directory"),
        ("relative:/data".to_owned(), "begin with `/`"),
    ] {
        home.refused_lines(&["plugin", "grant", "tidier", "--allow-dir", &dir], 2, reason);
    }
    for flags in [["--allow-env", "A B=c"], ["--allow-http", "*.example.org"], ["--secret", "token@example.org"]] {
        home.refused_lines(&["plugin", "grant", "tidier", flags[0], flags[1]], 2, "invalid");
    }
    home.refused(&["plugin", "grant", "tidier"], 2, &["nothing is given"]);
}

#[test]
fn an_environment_variable_is_seen_when_it_is_granted() {
    let home = Home::new();
    home.ok(&["plugin", "add", &wasm("hostile")]);
    let seen = |home: &Home| home.json(&["exec", "hostile:environment"])["outcome"]["value"].clone();
    assert_eq!(seen(&home), json!([]), "nothing of the daemon's own environment");
    home.ok(&["plugin", "grant", "hostile", "--allow-env", "REGION=eu-1"]);
    assert_eq!(seen(&home), json!([["REGION", "eu-1"]]));
    home.refused_lines(&["plugin", "grant", "hostile", "--allow-env", "NOT_SET_HERE"], 2, "NAME=VALUE");
}

#[test]
fn learn_then_lock() {
    let home = Home::new();
    home.ok(&["plugin", "add", &wasm("checker"), "--audit"]);
    home.ok(&["plugin", "add", &wasm("tidier"), "--audit"]);
    let args = json!([["http://status.example.org:8080/"]]).to_string();
    home.ok(&["job", "add", "checker:check", "--args", &args, "--every", "1h", "--id", "c"]);
    home.ok(&["job", "add", "tidier:tidy", "--args", r#"["/srv/logs", 0, false]"#, "--every", "1h", "--id", "t"]);
    assert_eq!(ended(&home, "c")["outcome"]["kind"], "denied");
    let run = ended(&home, "t");
    assert_eq!(run["outcome"]["capability"], "dir:/srv:ro", "{run}");
    let suggestion = home.json(&["plugin", "grants", "checker", "--suggest"]);
    assert_eq!(suggestion["grants"], json!([{"grant": "http:status.example.org:8080", "change": "add"}]));
    let fuel = &suggestion["fuel"];
    assert!(fuel["suggested"].as_u64() >= fuel["p99"].as_u64().map(|p99| p99 * 2), "{fuel}");
    let text = home.ok(&["plugin", "grants", "checker", "--suggest"]);
    assert!(text.contains("+ http:status.example.org:8080  (used, and denied)"), "{text}");
    assert!(text.contains("sandclock plugin grant checker --allow-http status.example.org:8080"), "{text}");
    // Locked: it is granted that, and is audited no more.
    let granted = home.json(&["plugin", "grant", "checker", "--allow-http", "status.example.org:8080"]);
    assert_eq!((granted.get("audit"), &granted["current"]), (None, &json!(true)));
}

#[test]
fn the_doctor_has_tried_it() {
    let home = Home::new();
    let output = home.run(&["--json", "doctor"]);
    let doctor: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(doctor["wall"], json!({"process": {"strict": false}}));
    let count = |list: &str| doctor[list].as_array().unwrap().len();
    assert!(count("layers") >= 8 && count("jail") >= 25, "{doctor}");
    let sound = ["layers", "jail"]
        .iter()
        .all(|list| doctor[list].as_array().unwrap().iter().all(|entry| entry["status"] == "enforced"));
    assert_eq!(output.status.success(), sound, "the exit code says whether all is enforced");
    let open: Vec<&Value> =
        doctor["jail"].as_array().unwrap().iter().filter(|f| f["status"]["off"].is_string()).collect();
    assert!(open.is_empty(), "a locked process could do what it must not: {open:?}");
}

#[test]
fn a_strict_daemon_runs_nothing_where_a_layer_is_missing() {
    let home = Home::new();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().canonicalize().unwrap();
    home.ok(&["plugin", "add", &wasm("tidier"), "--allow-dir", &format!("{}:/data", data.display())]);
    home.ok(&["plugin", "add", &wasm("hello")]);
    let _daemon = home.serve_with(&["--strict"]);
    // Without directories nothing is missing here; with them, the superuser keeps two capabilities.
    assert_eq!(home.json(&["exec", "hello:greet", "--arg", "name=Ada"])["outcome"]["kind"], "succeeded");
    let tidy = home.run(&["--json", "exec", "tidier:tidy", "--args", r#"["/data", 0, true]"#]);
    let ended: Value = serde_json::from_slice(&tidy.stdout).unwrap();
    let superuser = rustix::process::geteuid().is_root();
    assert_eq!(ended["outcome"]["kind"], if superuser { "internal" } else { "succeeded" }, "{ended}");
    if superuser {
        assert!(ended["outcome"]["error"].as_str().unwrap().contains("capabilities: partial"), "{ended}");
    }
}

#[test]
fn a_file_declares_grants_too() {
    let home = Home::new();
    let path = wasm("counter");
    let text = format!(
        "[[plugin]]\nname = \"counter\"\npath = \"{path}\"\ngrants = {{ state = true }}\n\n[[job]]\nid = \"c\"\nfunc = \"counter:count\"\nkwargs = {{ by = 1 }}\ntrigger = \"every 1h\"\n"
    );
    let file = home.file("sandclock.toml", text.as_bytes());
    home.ok(&["apply", file.to_str().unwrap(), "--yes"]);
    assert_eq!(ended(&home, "c")["outcome"]["value"], 1);
    let narrower = text.replace("state = true", "env = { A = \"b\" }");
    let file = home.file("sandclock.toml", narrower.as_bytes());
    home.run(&["apply", file.to_str().unwrap(), "--yes"]);
    assert_eq!(home.json(&["job", "show", "c"])["state"], "quarantined");
}
