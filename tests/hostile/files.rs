//! Files: a guest sees the directories that it was granted and changes those that it may write to, as
//! far as their quota goes.

use crate::wall::{Bench, Case, Wall, group, hostile, job, plugin, shown};
use sandclock::OutcomeKind::*;
use sandclock::executor::Report;
use sandclock::sandbox::connect::Direct;
use sandclock::{Grants, Outcome};
use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[test]
fn no_guest_of_this_process_leaves_its_directories() {
    files(Wall::Async);
}

#[test]
fn no_guest_of_a_worker_leaves_its_directories() {
    files(Wall::Process);
}

fn files(wall: Wall) {
    group("files", wall, Arc::new(Direct::default()), async |bench: &mut Bench| {
        escapes(bench).await;
        links(bench).await;
        read_only(bench).await;
        race(bench).await;
        quotas(bench).await;
        kinds(bench).await;
        weird(bench).await;
        grants(bench).await;
    });
}

/// A granted directory, one that is granted read-only, and what is outside.
struct Place {
    _root: tempfile::TempDir,
    data: PathBuf,
    ro: PathBuf,
    outside: PathBuf,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let under = |name: &str| root.path().canonicalize().unwrap().join(name);
        let (data, ro, outside) = (under("data"), under("ro"), under("outside"));
        for dir in [&data, &ro, &outside] {
            std::fs::create_dir(dir).unwrap();
        }
        std::fs::write(outside.join("secret"), "what is outside").unwrap();
        std::fs::write(ro.join("file"), "read only").unwrap();
        Place { _root: root, data, ro, outside }
    }

    /// Nothing outside has changed.
    fn untouched(&self, bench: &mut Bench, title: &str) {
        let names = |dir: &Path| std::fs::read_dir(dir).unwrap().count();
        let text = |file: PathBuf| std::fs::read_to_string(file).unwrap_or_default();
        let outside = (names(&self.outside), text(self.outside.join("secret")));
        let ro = (names(&self.ro), text(self.ro.join("file")));
        if outside != (1, "what is outside".into()) || ro != (1, "read only".into()) {
            bench.fail(format!("{title}: {outside:?}, {ro:?}"));
        }
        if Path::new("/tmp/sandclock-escaped").exists() {
            bench.fail(format!("{title}: it made a file in /tmp"));
        }
    }
}

fn dirs(texts: &[String]) -> Grants {
    Grants { dirs: texts.iter().map(|text| text.parse().unwrap()).collect(), ..Grants::default() }
}

fn data(place: &Place, how: &str) -> Grants {
    dirs(&[format!("{}:/data:{how}", place.data.display())])
}

fn both(place: &Place) -> Grants {
    dirs(&[format!("{}:/data:rw", place.data.display()), format!("{}:/ro:ro", place.ro.display())])
}

fn value(report: &Report) -> &Value {
    let Outcome::Succeeded { value } = &report.outcome else { panic!("{:?}", report.outcome) };
    value
}

fn wide(case: Case) -> Case {
    case.for_ms(20_000).fuel(10_000_000_000)
}

async fn escapes(bench: &mut Bench) {
    let place = Place::new();
    let escape = |case: Case, planted: Value, how| {
        wide(case).args(json!(["/data", planted])).grants(data(&place, how)).gives(json!([]))
    };
    bench.check(escape(hostile("F1", "escape"), json!([]), "rw")).await;
    for path in ["/data/../../etc/passwd", "/data//etc/passwd", "/data/../outside/secret"] {
        bench.check(hostile("F1", "read-file").args(json!([path])).grants(data(&place, "rw")).ends(Failed)).await;
    }
    place.untouched(bench, "F1");
    let mut planted = Vec::new();
    for (name, target) in
        [("a", "../outside"), ("b", "/etc"), ("c", "/"), ("d", "../outside/secret"), ("e", "/proc/self")]
    {
        symlink(target, place.data.join(format!("planted-{name}"))).unwrap();
        planted.push(format!("planted-{name}"));
    }
    symlink(&place.outside, place.data.join("planted-f")).unwrap();
    planted.push("planted-f".into());
    for how in ["rw", "ro"] {
        bench.check(escape(hostile("F2", "escape"), json!(planted), how)).await;
    }
    place.untouched(bench, "F2");
}

async fn links(bench: &mut Bench) {
    let place = Place::new();
    let args = json!(["../outside/new", "/data/out.json"]);
    bench.check(hostile("F3", "make-symlink").args(args).grants(data(&place, "rw")).ends(Succeeded).ends(Failed)).await;
    // Whatever the guest was let make, it is not followed on the way out of its directory.
    bench
        .check(hostile("F3", "write-file").args(json!(["/data/out.json", 5])).grants(data(&place, "rw")).ends(Failed))
        .await;
    place.untouched(bench, "F3");
    let link = hostile("F4", "hard-link").args(json!(["/ro/file", "/data/file"])).grants(both(&place));
    bench.check(link.ends(Failed).ends(Denied)).await;
    let write = hostile("F4", "write-file").args(json!(["/data/file", 5])).grants(both(&place));
    bench.check(write.ends(Succeeded)).await;
    place.untouched(bench, "F4");
}

async fn read_only(bench: &mut Bench) {
    let place = Place::new();
    let verbs = [
        ("truncate-file", json!(["/ro/file"])),
        ("shrink", json!(["/ro/file"])),
        ("write-file", json!(["/ro/file", 5])),
        ("set-size", json!(["/ro/file", 0])),
        ("remove-file", json!(["/ro/file"])),
        ("rename-file", json!(["/ro/file", "/ro/other"])),
        ("rename-file", json!(["/ro/file", "/data/other"])),
        ("make-directory", json!(["/ro/made"])),
        ("make-symlink", json!(["file", "/ro/link"])),
    ];
    for (verb, args) in verbs {
        bench.check(hostile("F5", verb).args(args).grants(both(&place)).ends(Denied).ends(Failed)).await;
        place.untouched(bench, verb);
    }
}

/// A name that is now a directory and now a link outside, beside one that reads through it.
async fn race(bench: &mut Bench) {
    let place = Place::new();
    std::fs::create_dir(place.data.join("a")).unwrap();
    std::fs::write(place.data.join("a/secret"), "inside").unwrap();
    symlink(&place.outside, place.data.join("b")).unwrap();
    bench.add("race", data(&place, "rw"), plugin("hostile")).await.unwrap();
    let mut swap = job("race:swap", json!(["/data/a", "/data/b"]));
    let mut hammer = job("race:hammer", json!(["/data/a/secret", 2000]));
    (swap.limits.fuel, hammer.limits.fuel) = (sandclock::Limits::FUEL_MAX, sandclock::Limits::FUEL_MAX);
    swap.limits.timeout = std::time::Duration::from_secs(2);
    let (swapped, hammered) = tokio::join!(bench.run(swap, None), bench.run(hammer, None));
    bench.count();
    assert_eq!(swapped.outcome.kind(), TimedOut, "{}", shown(&swapped));
    assert!(!format!("{:?}", hammered.outcome).contains("what is outside"), "F6: {}", shown(&hammered));
    place.untouched(bench, "F6");
}

async fn quotas(bench: &mut Bench) {
    let place = Place::new();
    let small = || data(&place, "rw:1MiB");
    let cases = [
        ("set-size", json!(["/data/f", 1_u64 << 60])),
        ("write-file", json!(["/data/g", 1_u64 << 40])),
        ("create-files", json!(["/data", 1_000_000])),
    ];
    for (verb, args) in cases {
        let case = wide(hostile("F7", verb)).args(args).grants(small()).ends(Failed);
        bench.check(case.looks(|report| assert!(format!("{:?}", report.outcome).contains("quota")))).await;
    }
    let bytes: u64 = std::fs::read_dir(&place.data).unwrap().flatten().map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes <= 1 << 20, "{bytes} bytes lie there");
    let files = std::fs::read_dir(&place.data).unwrap().count();
    assert!(files <= 1024, "{files} files lie there");
}

async fn kinds(bench: &mut Bench) {
    let place = Place::new();
    std::fs::write(place.data.join("f"), "x").unwrap();
    let open = hostile("F8", "open-files").args(json!(["/data/f", 1000])).grants(data(&place, "ro"));
    bench.check(open.traps("resource_limit").ends(Failed)).await;
    let list = hostile("F9", "read-directory").args(json!(["/data/.", 500])).grants(data(&place, "ro"));
    bench.check(list.traps("resource_limit").ends(Failed)).await;
    let many = Place::new();
    for n in 0..20_000 {
        std::fs::write(many.data.join(format!("a-file-with-a-long-name-{n:0100}")), "").unwrap();
    }
    let names = hostile("F9", "names").args(json!(["/data/."])).grants(data(&many, "ro")).memory(64);
    bench.check(names.fuel(10_000_000_000).ends(Succeeded).traps("transfer_limit").ends(OutOfMemory)).await;
    let fifo = place.data.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let read = hostile("F10", "read-file").args(json!(["/data/fifo"])).grants(data(&place, "ro"));
    bench.check(read.for_ms(500).ends(Failed)).await;
    let write = hostile("F10", "write-file").args(json!(["/data/fifo", 5])).grants(data(&place, "rw"));
    bench.check(write.for_ms(500).ends(Failed)).await;
}

async fn weird(bench: &mut Bench) {
    let place = Place::new();
    let wrote = hostile("F13", "weird-names").args(json!(["/data"])).grants(data(&place, "rw"));
    bench.check(wrote.looks(|report| assert!(value(report).as_array().unwrap().len() > 10)).ends(Succeeded)).await;
    let read = hostile("F13", "names").args(json!(["/data/."])).grants(data(&place, "ro")).ends(Succeeded);
    bench.check(read.looks(|report| assert!(value(report).as_array().unwrap().len() > 10))).await;
    for what in ["arguments", "preopens", "environment"] {
        bench.check(hostile("N14", what).gives(json!([]))).await;
    }
}

/// F11, F12: which directories are granted at all, and that they stay what they were.
async fn grants(bench: &mut Bench) {
    let place = Place::new();
    let link = place.data.with_file_name("link");
    symlink(&place.outside, &link).unwrap();
    let refused = bench.add("linked", dirs(&[format!("{}:/data", link.display())]), plugin("hostile")).await;
    assert!(refused.unwrap_err().to_string().contains("there is a link in it"), "F11");
    bench.add("changes", data(&place, "rw"), plugin("hostile")).await.unwrap();
    std::fs::rename(&place.data, place.data.with_file_name("moved")).unwrap();
    symlink(&place.outside, &place.data).unwrap();
    let report = bench.run(job("changes:read-file", json!(["/data/secret"])), None).await;
    assert!(!matches!(report.outcome, Outcome::Succeeded { .. }), "F11: {}", shown(&report));
    assert!(report.outcome.error().unwrap_or_default().contains("granted"), "F11: {}", shown(&report));
    for dir in ["/", "/proc", "/proc/self", "/dev", "/dev/shm", "/sys", "//", "/proc/", "relative", "/a/../proc"] {
        assert!(format!("{dir}:/data").parse::<sandclock::grant::DirGrant>().is_err(), "F12: {dir}");
    }
    let home = place.ro.clone();
    let registry = bench.registry.clone().protecting(&home);
    for dir in [&home, &home.parent().unwrap().to_path_buf()] {
        let grants = dirs(&[format!("{}:/data", dir.display())]);
        let add = sandclock::sandbox::AddPlugin::default().grants(grants);
        let refused = registry.add("home".parse().unwrap(), add, plugin("hostile")).await;
        assert!(refused.unwrap_err().to_string().contains("keeps its own things"), "F12");
    }
    bench.count();
}
