//! A sandbox for the targets that run components, and what holds of each of its calls.

use chrono::DateTime;
use sandclock::sandbox::{Call, Ended, Plugin, Sandbox, Setting, digest};
use sandclock::{Error, Job, Limits, Outcome, Run, Trigger, printable};
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// With room for two runs, so that a run that leaks its place is noticed soon.
pub static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new(2, None).unwrap());
pub static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap());

pub const LIMITS: Limits =
    Limits { fuel: 1_000_000, memory: 4 << 20, timeout: Duration::from_millis(200), output: 4 << 10 };

/// A job of an export, if jobs can name it.
pub fn job(export: &str, args: Vec<Value>) -> Option<Job> {
    let func = format!("m:{export}").parse().ok()?;
    let mut job = Job::new("j".parse().unwrap(), func, Trigger::now());
    (job.args, job.limits) = (args, LIMITS);
    Some(job)
}

/// The same one for each call.
pub fn setting(job: &Job) -> Setting {
    let run: Run = serde_json::from_value(json!({
        "id": ulid::Ulid::nil(), "job_id": job.id, "jobstore": "default", "func": job.func,
        "scheduled_time": "2027-01-01T00:00:00Z", "attempt": 1, "node": "n", "state": "claimed",
    }))
    .unwrap();
    Setting::new(&run, job, DateTime::UNIX_EPOCH)
}

/// Loads a component, which is accepted, or refused in one sentence.
pub fn load(component: &[u8]) -> Result<Arc<Plugin>, String> {
    SANDBOX.load(&digest(component), component).map_err(reason)
}

/// Why a component was refused. Nothing but a refusal comes of a component.
pub fn reason(error: Error) -> String {
    let Error::PluginRefused { reason } = error else { panic!("{error}") };
    assert_eq!(printable(&reason, 100_000), reason);
    reason
}

/// Calls to the end, which is one that the guest brought about, within its memory.
pub fn call(call: Call, job: &Job) -> Ended {
    let ended = RUNTIME.block_on(SANDBOX.call(call, &setting(job), &CancellationToken::new()));
    check(&ended, job);
    ended
}

pub fn check(ended: &Ended, job: &Job) {
    assert!(!matches!(ended.outcome, Outcome::Internal { .. } | Outcome::Invalid { .. }), "{:?}", ended.outcome);
    let peak = ended.usage.memory_peak.unwrap();
    assert!(peak <= job.limits.memory, "{peak} bytes were given");
    assert!(ended.usage.fuel_used.unwrap() <= job.limits.fuel);
}
