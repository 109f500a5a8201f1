//! Running the daemon: under a supervisor, reloaded, traced, backed up, upgraded.

use crate::cli::Home;
use crate::wire::{Served, free_port, request, until};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn signal(pid: &str, name: &str) {
    assert!(Command::new("kill").args([name, pid]).status().unwrap().success());
}

#[test]
fn a_supervisor_is_told_how_the_daemon_is_and_hands_it_sockets() {
    let home = Home::with_sample();
    let told = home.path().join("told");
    let ear = UnixDatagram::bind(&told).unwrap();
    ear.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let hear = || {
        let mut bytes = [0; 4096];
        let length = ear.recv(&mut bytes).expect("the daemon says nothing");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // As systemd does it: the sockets are descriptors from 3 on, for the process with this id.
    let script = r#"exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" --home "$1" serve"#;
    let daemon = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_sandclock")])
        .arg(home.path())
        .env("NOTIFY_SOCKET", &told)
        .env("WATCHDOG_USEC", "400000")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
        .spawn();
    let mut daemon = daemon.unwrap();
    assert_eq!(hear().trim(), "READY=1");
    let alive = hear();
    assert!(alive.contains("WATCHDOG=1") && alive.contains("STATUS=0 jobs"), "{alive}");
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(request("GET", "/healthz", &[("Host", &address.to_string())], "").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let pid = daemon.id().to_string();
    signal(&pid, "-HUP");
    let said = until("a reload", || Some(hear()).filter(|said| said.contains("RELOADING=1")));
    assert!(said.contains("MONOTONIC_USEC="), "{said}");
    until("the end of the reload", || Some(hear()).filter(|said| said.trim() == "READY=1"));
    signal(&pid, "-TERM");
    until("the end", || Some(hear()).filter(|said| said.trim() == "STOPPING=1"));
    assert!(daemon.wait().unwrap().success());
}

#[test]
fn settings_are_read_again_without_a_restart() {
    let home = Home::with_sample();
    let file = home.path().join("sandclock.toml");
    std::fs::write(&file, "[serve]\nslots = 3\nhost = ['one.example.org']\n").unwrap();
    let served = Served::of(home, &[]);
    assert_eq!(served.home.json(&["status"])["slots"]["default"]["total"], 3);
    let asked = |host: &str| served.raw(&request("GET", "/healthz", &[("Host", host)], "")).unwrap().status;
    assert_eq!((asked("one.example.org"), asked("two.example.org")), (200, 403));
    std::fs::write(&file, "[serve]\nslots = 5\nhost = ['two.example.org']\n").unwrap();
    std::fs::rename(served.home.path().join("audit.jsonl"), served.home.path().join("audit.old")).unwrap();
    signal(&served.daemon.pid(), "-HUP");
    until("the new name", || (asked("two.example.org") == 200).then_some(()));
    assert_eq!(asked("one.example.org"), 403);
    assert!(served.home.path().join("audit.jsonl").exists());
    std::fs::write(&file, "[serve]\nhots = 'x'\n").unwrap();
    signal(&served.daemon.pid(), "-HUP");
    served.home.ok(&["status"]);
    assert_eq!(asked("two.example.org"), 200, "a mistake changes nothing");
    let Served { home, daemon, .. } = served;
    daemon.stop();
    home.refused(&["serve"], 2, &["hots"]);
    home.refused(&["serve", "--config", "/none.toml"], 1, &["/none.toml"]);
}

#[test]
fn the_daemon_is_ended_by_a_request_and_lets_runs_end() {
    let served = Served::new(&["--grace", "1s"]);
    served.home.ok(&["job", "add", "sample:spin", "--every", "1h", "--id", "spins", "--timeout", "60s"]);
    served.home.ok(&["job", "run", "spins"]);
    until("a run that goes on", || (served.home.json(&["status"])["running"] == 1).then_some(()));
    served.home.ok(&["shutdown"]);
    assert_eq!(served.send("GET", "/readyz", &[], "").status, 503);
    let Served { home, daemon, .. } = served;
    daemon.ended();
    let run = &home.json(&["run", "list"])["items"][0];
    assert_eq!(run["outcome"]["kind"], "cancelled");
}

/// A collector that keeps what it is sent.
fn collector() -> (String, std::sync::mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (tell, sent) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut bytes = Vec::new();
            let mut chunk = [0; 65536];
            let length = loop {
                let read = stream.read(&mut chunk).unwrap_or(0);
                bytes.extend_from_slice(&chunk[..read]);
                let head = bytes.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
                let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
                let body: Option<usize> =
                    text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
                match head.zip(body) {
                    Some((head, body)) if bytes.len() >= head + body => break head,
                    _ if read == 0 => break 0,
                    _ => {}
                }
            };
            assert!(bytes.starts_with(b"POST /v1/traces "), "{}", String::from_utf8_lossy(&bytes));
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = tell.send(bytes.split_off(length));
        }
    });
    (endpoint, sent)
}

#[test]
fn each_run_is_a_trace() {
    let (endpoint, sent) = collector();
    let served = Served::new(&["--otlp-endpoint", &endpoint, "--log-format", "json"]);
    let run = served.home.json(&["job", "add", "sample:trap", "--id", "traced"]);
    assert_eq!(run["id"], "traced");
    until("the run", || (served.home.json(&["run", "list"])["items"][0]["state"] == "ended").then_some(()));
    let Served { daemon, .. } = served;
    daemon.stop();
    let spans = sent.recv_timeout(Duration::from_secs(20)).unwrap();
    for part in
        ["sandclock", "run", "claim", "start", "guest", "commit", "traced", "sample:trap", "trapped", "service.name"]
    {
        assert!(spans.windows(part.len()).any(|bytes| bytes == part.as_bytes()), "{part} is not in the trace");
    }
}

#[test]
fn a_backup_of_a_daemon_that_works_begins_another_home() {
    let served = Served::new(&[]);
    let secret = served.home.file("secret", b"hunter2hunter2");
    served.home.ok(&["secret", "set", "token", "--file", secret.to_str().unwrap()]);
    served.home.ok(&["job", "add", "sample:add-one", "--args", "[1]", "--every", "1s", "--id", "tick"]);
    until("a run", || (!served.home.json(&["run", "list"])["items"].as_array().unwrap().is_empty()).then_some(()));
    let file = served.home.path().with_file_name("backup.tar");
    served.home.ok(&["backup", file.to_str().unwrap()]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let left = std::fs::read_dir(served.home.path()).unwrap().flatten();
    assert!(!left.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("backup.")));
    let other = Home::new();
    other.ok(&["restore", file.to_str().unwrap()]);
    assert_eq!(other.json(&["job", "show", "tick"])["kwargs"], served.home.json(&["job", "show", "tick"])["kwargs"]);
    assert!(!other.json(&["run", "list"])["items"].as_array().unwrap().is_empty());
    assert_eq!(other.json(&["secret", "list"])["items"][0], "token");
    assert_eq!(other.ok(&["exec", "sample:add-one", "--args", "[1]"]), "2\n");
    other.refused(&["restore", file.to_str().unwrap()], 1, &["there is a store already"]);
    // Its tokens are those of the first, and its own user has one.
    let again = Served::of(other, &[]);
    assert_eq!(again.ask("GET", "/v1/jobs", "").status, 200);
    let noise = served.home.file("noise.tar", b"noise");
    Home::new().refused(&["restore", noise.to_str().unwrap()], 1, &["noise.tar"]);
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(6).position(|name| name == b"db/db\0").unwrap() + 512;
    bytes[at..at + 4000].fill(b'x');
    let damaged = served.home.file("damaged.tar", &bytes);
    let empty = Home::new();
    empty.refused(&["restore", damaged.to_str().unwrap()], 1, &["it is damaged", "take another one"]);
    assert!(!empty.path().exists());
    served.home.refused(&["backup", file.to_str().unwrap()], 1, &["backup.tar"]);
}

#[test]
fn the_reference_is_as_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let reference = sandclock::settings::reference();
    if std::env::var_os("SANDCLOCK_BLESS").is_some() {
        std::fs::write(&path, &reference).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), reference, "SANDCLOCK_BLESS=1 writes it anew");
    assert!(reference.contains("| `slots` | `SANDCLOCK_SLOTS` | `--slots` | `64` |"));
}

#[test]
fn a_port_that_is_taken_is_named() {
    let port = free_port();
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    Home::with_sample().refused_lines(&["serve", "--listen", &format!("127.0.0.1:{port}")], 1, &port.to_string());
}

#[test]
fn doctor_tells_what_is_wrong_and_what_to_do() {
    let home = Home::with_sample();
    home.ok(&["job", "add", "sample:add-one", "--args", "[1]", "--every", "1h", "--id", "j"]);
    let doctor: Value = serde_json::from_slice(&home.run(&["--json", "doctor"]).stdout).unwrap();
    let check = |name: &str| {
        let checks = doctor["checks"].as_array().unwrap();
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {doctor}")).clone()
    };
    assert_eq!(check("job store")["status"], "ok");
    assert_eq!(check("quarantined jobs")["status"], "ok");
    assert!(check("disk")["detail"].as_str().unwrap().contains("GiB"));
    std::fs::set_permissions(home.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let text = String::from_utf8(home.run(&["doctor"]).stdout).unwrap();
    assert!(text.contains("home") && text.contains("chmod 700"), "{text}");
}
