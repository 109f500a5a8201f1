//! The web page in a real browser, and the API under a fuzzer that knows its description. Both are
//! programs of other worlds; where they are missing, this says so.

use crate::cli::Home;
use crate::plugins::component;
use crate::wire::Served;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// The page's own tests, with the packages that they need.
fn ready_for_browsers() -> Option<PathBuf> {
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "chromium".into());
    for program in ["node", "npm", &chromium] {
        if !has(program) {
            eprintln!("skipped: there is no `{program}` here (.ci/run installs it)");
            return None;
        }
    }
    let dir = root().join("tests/page");
    if !dir.join("node_modules").exists() {
        let installed = Command::new("npm").args(["ci", "--no-audit", "--no-fund"]).current_dir(&dir).output().unwrap();
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    }
    Some(dir)
}

fn drive(size: &str, store: &str) {
    let Some(dir) = ready_for_browsers() else { return };
    component("hello");
    let home = Home::new();
    let url = format!("sqlite://{}", home.path().join("jobs.db").display());
    let served = match store {
        "shared" => Served::of(home, &["--store", &url]),
        _ => Served::of(home, &[]),
    };
    let output = Command::new("node")
        .arg("run.mjs")
        .args([
            "--url",
            &format!("http://{}", served.address),
            "--token",
            &served.token,
            "--size",
            size,
            "--store",
            store,
        ])
        .arg("--plugins")
        .arg(root().join("plugins/target/wasm32-wasip2/release"))
        .arg("--out")
        .arg(root().join("target/page").join(size))
        .current_dir(dir)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    print!("{}", text(&output.stdout));
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn the_page_works_on_a_desktop() {
    drive("desktop", "home");
}

#[test]
fn the_page_works_on_a_phone() {
    drive("phone", "shared");
}

#[test]
fn no_request_is_answered_otherwise_than_described() {
    let schemathesis = std::env::var("SCHEMATHESIS").unwrap_or_else(|_| "st".into());
    if !has(&schemathesis) {
        eprintln!("skipped: there is no `{schemathesis}` here (.ci/run installs Schemathesis)");
        return;
    }
    let served = Served::new(&[]);
    served.home.ok(&["job", "add", "sample:add-one", "--args", "[1]", "--every", "1h", "--id", "j"]);
    let seconds = std::env::var("SCHEMATHESIS_SECONDS").unwrap_or_else(|_| "60".into());
    let output = Command::new(schemathesis)
        .args(["run", &format!("http://{}/openapi.json", served.address)])
        .args(["--header", &format!("Authorization: Bearer {}", served.token)])
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ])
        // These have the daemon stand still, and tests of their own.
        .args(["--exclude-operation-id", "shutdown", "--exclude-operation-id", "pause_scheduler"])
        .args(["--exclude-operation-id", "rotate_token"])
        .args(["--phases", "examples,coverage,fuzzing", "--max-time", &seconds, "--generation-database", "none"])
        .args(["--generation-with-security-parameters", "false", "--no-color"])
        .args(["--suppress-health-check", "all", "--seed", "1", "--request-timeout", "60", "--continue-on-failure"])
        .env("SCHEMATHESIS_HOOKS", root().join("tests/schemathesis/hooks.py"))
        .current_dir(served.home.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    served.home.ok(&["status"]);
}
