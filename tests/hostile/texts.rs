//! Texts: what a guest writes stays data, wherever it is shown, and no secret is in it.

use crate::wall::{Bench, Case, Wall, group, hostile, shown, wat};
use sandclock::OutcomeKind::*;
use sandclock::executor::Report;
use sandclock::sandbox::connect::Direct;
use sandclock::{Grants, Outcome, Secret};
use serde_json::{Value, json};
use std::sync::Arc;

const SECRET: &str = "hunter2-hunter2";
const EVIL: [(&str, &str); 4] = [
    ("U1", "\u{1b}]0;x\u{7}\u{1b}[2J\u{1b}]52;c;eA==\u{7}\u{9b}31m"),
    ("U2", "x\n2027-01-01 ERROR forged\r"),
    ("U5", "<svg onload=alert(1)>"),
    ("U6", "x\n\ndata: {}\n\n"),
];

#[test]
fn the_texts_of_a_guest_of_this_process_stay_texts() {
    texts(Wall::Async);
}

#[test]
fn the_texts_of_a_guest_of_a_worker_stay_texts() {
    texts(Wall::Process);
}

fn texts(wall: Wall) {
    group("texts", wall, Arc::new(Direct::default()), async |bench: &mut Bench| {
        for (id, text) in EVIL {
            for case in sinks(id, text) {
                bench.check(case).await;
            }
        }
        logs(bench).await;
        secrets(bench).await;
    });
}

/// What is shown on a terminal and stored as a reason has no control characters; what was written is
/// kept as it is, as one JSON text.
fn sinks(id: &'static str, text: &'static str) -> Vec<Case> {
    let args = json!([text]);
    let one_line = |report: &Report| {
        let error = report.outcome.error().unwrap_or_default();
        assert!(!error.chars().any(|c| c.is_control() && c != '\n'), "{error:?}");
        assert!(!serde_json::to_string(&report.outcome).unwrap().contains('\n'));
    };
    vec![
        hostile(id, "say").args(args.clone()).ends(Succeeded).looks(move |report| assert_eq!(report.logs.stdout, text)),
        hostile(id, "complain")
            .args(args.clone())
            .ends(Succeeded)
            .looks(move |report| assert_eq!(report.logs.stderr, text)),
        hostile(id, "fail").args(args.clone()).ends(Failed).looks(one_line),
        hostile(id, "panic").args(args.clone()).traps("unreachable_code_reached").looks(one_line),
        hostile(id, "log-text").args(args).ends(Succeeded).looks(|report| {
            let [line] = report.logs.log.as_slice() else { panic!("{} lines", report.logs.log.len()) };
            assert!(!line.message.chars().any(|c| c.is_control() && c != '\n'), "{:?}", line.message);
        }),
    ]
}

async fn logs(bench: &mut Bench) {
    bench.check(hostile("U1", "say-bytes").args(json!([[155, 51, 49, 109, 255, 0]])).ends(Succeeded)).await;
    let flood = hostile("U21", "log-flood").args(json!([1_000_000, 100])).for_ms(1000);
    let kept = |report: &Report| assert!(report.logs.log.len() <= 1000, "{} lines", report.logs.log.len());
    bench.check(flood.ends(TimedOut).ends(Succeeded).looks(kept)).await;
    for (code, ends) in [(0, Succeeded), (1, Failed), (3, Failed)] {
        bench.check(hostile("U1", "exit-with").args(json!([code])).ends(ends)).await;
    }
}

/// U3: a guest that gives away its secret gives away nothing; U4: nothing shows one.
async fn secrets(bench: &mut Bench) {
    bench.secret("token", SECRET).await;
    let granted = || Grants { secrets: vec!["token".parse().unwrap()], ..Grants::default() };
    let hidden = |report: &Report| {
        let all = format!("{:?} {}", report, shown(report));
        assert!(!all.contains("hunter2"), "{all}");
        let said = match &report.outcome {
            Outcome::Succeeded { value: Value::String(text) } => text.clone(),
            outcome => outcome.error().unwrap_or_default().to_owned(),
        };
        assert!(!said.is_empty() && !said.contains(SECRET), "{said}");
    };
    for (fail, ends) in [(false, Succeeded), (true, Failed)] {
        bench.check(wat("U3", "secret_echo").args(json!([fail])).grants(granted()).ends(ends).looks(hidden)).await;
    }
    let again = || wat("U3", "secret_echo").export("loop").grants(granted());
    bench.check(again().for_ms(300).ends(TimedOut)).await;
    bench.check(again().for_ms(5000).cancelled_after(50).ends(Cancelled)).await;
    assert!(!format!("{:?}", Secret::from(SECRET)).contains("hunter2"), "U4");
    bench.count();
}

#[test]
fn names_of_secrets_and_variables_lead_nowhere_else() {
    use sandclock::grant::{Pick, SecretName};
    for name in ["../token", "a/b", "", ".", "..", "a\0", "a b", "token@evil", &"x".repeat(65)] {
        assert!(name.parse::<SecretName>().is_err(), "N15: {name:?}");
        assert!(format!("secret:{name}").parse::<Pick>().is_err(), "N15: {name:?}");
    }
    for name in ["A=B", "A\0", "", "1A", "Ä", "A B", "A-B"] {
        let grants = Grants { env: [(name.to_owned(), String::new())].into(), ..Grants::default() };
        assert!(grants.validate().is_err(), "N14: {name:?}");
    }
    let large = Grants { env: [("A".to_owned(), "x".repeat(40_000))].into(), ..Grants::default() };
    assert!(large.validate().is_err(), "M20");
    let many = (0..100).map(|n| (format!("A{n}"), String::new())).collect();
    assert!(Grants { env: many, ..Grants::default() }.validate().is_err(), "M20");
}

/// U15: nobody but the daemon's own user reaches its socket.
#[test]
fn the_socket_is_the_users_alone() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    let home = home.path().join("home");
    let mut serve = std::process::Command::new(crate::wall::PROGRAM);
    serve.arg("--home").arg(&home).arg("serve").stderr(std::process::Stdio::null());
    let mut daemon = serve.spawn().unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while std::os::unix::net::UnixStream::connect(home.join("socket")).is_err() && std::time::Instant::now() < until {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let mode = |path: &std::path::Path| std::fs::metadata(path).map(|meta| meta.permissions().mode() & 0o777);
    // It is narrowed right after it is made, in a directory that nobody else enters.
    while mode(&home.join("socket")).is_ok_and(|mode| mode != 0o600) && std::time::Instant::now() < until {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let modes = (mode(&home), mode(&home.join("socket")));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!((modes.0.unwrap() & 0o077, modes.1.unwrap()), (0, 0o600), "of the home and the socket");
}
