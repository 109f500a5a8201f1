//! The plugins of this repository, compiled as a user compiles them, called with typed arguments.

use chrono::Utc;
use sandclock::sandbox::{Ended, Sandbox, SandboxOptions, Setting, digest};
use sandclock::*;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new(4, None).unwrap());

/// Builds all of them once.
static BUILT: LazyLock<()> = LazyLock::new(|| {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/build.sh");
    // The cargo that runs this test hands down settings that are meant for it alone.
    let status = Command::new(script).arg("--quiet").env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS").status();
    assert!(status.unwrap().success(), "the plugins do not build");
});

pub fn component(plugin: &str) -> Vec<u8> {
    LazyLock::force(&BUILT);
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins/target/wasm32-wasip2/release");
    std::fs::read(dir.join(plugin).with_extension("wasm")).unwrap()
}

async fn call(plugin: &str, export: &str, kwargs: Value, change: impl FnOnce(&mut Limits)) -> Ended {
    call_in(&SANDBOX, plugin, export, kwargs, change).await
}

async fn call_in(
    sandbox: &Sandbox,
    plugin: &str,
    export: &str,
    kwargs: Value,
    change: impl FnOnce(&mut Limits),
) -> Ended {
    let component = component(plugin);
    let mut job = Job::new("nightly".parse().unwrap(), format!("{plugin}:{export}").parse().unwrap(), Trigger::now());
    job.kwargs = kwargs.as_object().unwrap().clone();
    job.limits.fuel = 1_000_000_000;
    change(&mut job.limits);
    let plugin = sandbox.load(&digest(&component), &component).unwrap();
    let call = plugin.bind(&job).unwrap_or_else(|e| panic!("{e}"));
    let run: Run = serde_json::from_value(json!({
        "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "job_id": job.id, "jobstore": "default", "func": job.func,
        "scheduled_time": "2027-01-01T00:00:00Z", "attempt": 3, "node": "n", "state": "claimed",
    }))
    .unwrap();
    sandbox.call(call, &Setting::new(&run, &job, Utc::now()), &CancellationToken::new()).await
}

#[tokio::test]
async fn hello_greets_fails_and_knows_its_run() {
    let ended = call("hello", "greet", json!({"name": "Ada"}), |_| ()).await;
    assert_eq!(ended.outcome, Outcome::Succeeded { value: json!("Hello, Ada!") });
    assert_eq!(ended.logs.stdout, "greeting Ada\n");
    let line = LogLine { level: LogLevel::Info, message: "greeted Ada".into() };
    assert_eq!(ended.logs.log, [line]);
    let ended = call("hello", "fail", json!({"reason": "no\u{1b}[31m"}), |_| ()).await;
    assert_eq!(ended.outcome, Outcome::Failed { error: "no\u{fffd}[31m".into() }, "no escape sequence gets out");
    let ended = call("hello", "whoami", json!({}), |_| ()).await;
    let Outcome::Succeeded { value } = ended.outcome else { panic!("{:?}", ended.outcome) };
    let text = value.as_str().unwrap();
    assert!(text.starts_with("run 01ARZ3NDEKTSV4RRFFQ69G5FAV of job nightly, attempt 3, 99999"), "{text}");
}

#[tokio::test]
async fn report_takes_and_gives_every_shape() {
    let samples = json!([
        {"name": "a", "unit": "bytes", "value": "-9007199254740993", "tags": ["x", "y"], "note": "first"},
        {"name": "b", "unit": "seconds", "value": 2, "tags": []},
    ]);
    let args = json!({"samples": samples, "over": {"between": ["mon", "tue"]}, "detail": ["names", "minimum"]});
    let ended = call("report", "summarise", args, |_| ()).await;
    let expected = json!({
        "count": 2, "sum": -9007199254740991i64, "minimum": -9007199254740993i64, "maximum": null,
        "names": ["a", "b"], "period": "mon to tue",
    });
    assert_eq!(ended.outcome, Outcome::Succeeded { value: expected });
    let big = json!([
        {"name": "a", "unit": "bytes", "value": i64::MAX, "tags": []},
        {"name": "b", "unit": "bytes", "value": 1, "tags": []},
    ]);
    let ended = call("report", "summarise", json!({"samples": big, "over": "all", "detail": []}), |_| ()).await;
    assert_eq!(ended.outcome, Outcome::Failed { error: "the sum is larger than 64 bits".into() });
    let ended = call("report", "sample:report/figures#echo", json!({"number": u64::MAX}), |_| ()).await;
    assert_eq!(ended.outcome, Outcome::Succeeded { value: json!(u64::MAX) });
}

#[tokio::test]
async fn unruly_ends_in_its_classes() {
    let kind = async |export: &str, kwargs: Value| {
        let limits = |limits: &mut Limits| limits.timeout = Duration::from_millis(500);
        call("unruly", export, kwargs, limits).await.outcome.kind()
    };
    assert_eq!(kind("spin", json!({})).await, OutcomeKind::OutOfFuel);
    assert_eq!(kind("recurse", json!({"depth": 0})).await, OutcomeKind::Trapped);
    assert_eq!(kind("allocate", json!({})).await, OutcomeKind::OutOfMemory);
    let ended = call("unruly", "panic", json!({"message": "boo"}), |_| ()).await;
    let Outcome::Trapped { error, backtrace, .. } = ended.outcome else { panic!("{:?}", ended.outcome) };
    assert!(error.contains("its last words on stderr: ") && error.ends_with("boo"), "{error}");
    assert!(backtrace.iter().any(|frame| frame.contains("core::panicking::panic_fmt")), "{backtrace:?}");
    assert_eq!(kind("sleep", json!({})).await, OutcomeKind::TimedOut);
    let ended = call("unruly", "flood", json!({"lines": 20_000}), |_| ()).await;
    assert_eq!(ended.outcome, Outcome::Succeeded { value: json!(20_000) }, "a chatty job succeeds");
    assert!(ended.logs.stdout.len() < 300_000 && ended.logs.stdout.contains("[cut: "), "its output is cut with a mark");
}

#[tokio::test]
async fn a_backtrace_has_source_lines_if_the_component_has_them_and_that_is_wanted() {
    let source = include_str!("../../plugins/unruly/src/lib.rs");
    let line = 1 + source.lines().position(|line| line.contains("panic!(")).unwrap();
    for lines in [true, false] {
        let sandbox = Sandbox::with(SandboxOptions { runs: 1, lines, ..SandboxOptions::default() }).unwrap();
        let ended = call_in(&sandbox, "unruly", "panic", json!({"message": "boo"}), |_| ()).await;
        let Outcome::Trapped { backtrace, .. } = ended.outcome else { panic!("{:?}", ended.outcome) };
        let place = format!("unruly/src/lib.rs:{line}");
        assert_eq!(backtrace.iter().any(|frame| frame.contains(&place)), lines, "{backtrace:?}");
    }
}

#[tokio::test]
async fn a_deterministic_run_sees_its_fire_time_and_nothing_else() {
    let component = component("hostile");
    let plugin = SANDBOX.load(&digest(&component), &component).unwrap();
    let mut job = Job::new("nightly".parse().unwrap(), "hostile:clocks".parse().unwrap(), Trigger::now());
    job.deterministic = true;
    let run: Run = serde_json::from_value(json!({
        "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "job_id": job.id, "jobstore": "default", "func": job.func,
        "scheduled_time": "2027-01-01T00:00:00Z", "attempt": 3, "node": "n", "state": "claimed",
    }))
    .unwrap();
    let once = async || {
        let call = plugin.bind(&job).unwrap();
        SANDBOX.call(call, &Setting::new(&run, &job, Utc::now()), &CancellationToken::new()).await
    };
    let (first, second) = (once().await, once().await);
    assert_eq!((&first.outcome, first.usage), (&second.outcome, second.usage), "each attempt sees the same");
    let Outcome::Succeeded { value } = first.outcome else { panic!("{:?}", first.outcome) };
    assert_eq!(value[0], run.scheduled_time.timestamp());
}
