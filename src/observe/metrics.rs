//! Metrics in Prometheus' text form. Nothing that a guest or a caller named is a label: those would leak,
//! and grow without bound.

use crate::event::{Event, EventKind};
use crate::job::{Alias, Origin};
use crate::run::Run;
use crate::scheduler::{Observed, Observer, Slots};
use crate::store::Counts;
use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// The media type of the text form.
pub const METRICS_MEDIA: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StoreLabel {
    jobstore: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ExecutorLabel {
    executor: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabel {
    operation: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// What is counted and measured.
pub struct Metrics {
    registry: Mutex<Registry>,
    due: Counter,
    claimed: Counter,
    started: Counter,
    ended: Family<OutcomeLabel, Counter>,
    retried: Counter,
    lateness: Histogram,
    duration: Histogram,
    fuel: Histogram,
    waiting: Family<StoreLabel, Gauge>,
    commits: Histogram,
    store_errors: Family<StoreLabel, Counter>,
    requests: Family<RequestLabel, Counter>,
    looked_at: Looked,
}

/// What is looked at when somebody asks.
struct Looked {
    jobs: Family<StateLabel, Gauge>,
    running: Gauge,
    runs_kept: Gauge,
    slots: Family<ExecutorLabel, Gauge>,
    slots_used: Family<ExecutorLabel, Gauge>,
    firing: Gauge,
    streams: Gauge,
    cache: Family<ResultLabel, Gauge>,
    memory: Gauge,
    open_files: Gauge,
}

/// What they are now.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    pub counts: Counts,
    pub slots: BTreeMap<Alias, Slots>,
    /// What is due is fired.
    pub firing: bool,
    /// Event streams that are open.
    pub streams: usize,
    /// Components that were found loaded, found compiled, and compiled.
    pub cache: [(&'static str, u64); 3],
}

/// Makes a metric and registers it.
fn new<M: Clone + Metric>(registry: &mut Registry, name: &str, about: &str, metric: M) -> M {
    registry.register(name, about, metric.clone());
    metric
}

/// The same with a unit, which goes into its name.
fn measured<M: Clone + Metric>(registry: &mut Registry, name: &str, about: &str, unit: Unit, metric: M) -> M {
    registry.register_with_unit(name, about, unit, metric.clone());
    metric
}

fn seconds(registry: &mut Registry, name: &str, about: &str) -> Histogram {
    measured(registry, name, about, Unit::Seconds, Histogram::new(exponential_buckets(0.0005, 2.0, 20)))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sandclock");
        let to = &mut registry;
        to.register("build", "The version of the program", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        let fuel = Histogram::new(exponential_buckets(1000.0, 10.0, 11));
        Metrics {
            looked_at: Looked::register(to),
            due: new(to, "fire_times", "Fire times that came due", Counter::default()),
            claimed: new(to, "runs_claimed", "Runs that were claimed", Counter::default()),
            started: new(to, "runs_started", "Runs that an executor began", Counter::default()),
            ended: new(to, "runs_ended", "Runs that ended, by outcome", Family::default()),
            retried: new(to, "runs_retried", "Further attempts that were put off to a later time", Counter::default()),
            lateness: seconds(to, "run_lateness", "From the fire time of a run to its start"),
            duration: seconds(to, "run_duration", "From the start of a run to its end"),
            fuel: new(to, "run_fuel", "Fuel that a run used", fuel),
            waiting: new(to, "jobs_waiting", "Jobs in line for a slot", Family::default()),
            commits: seconds(to, "store_commit", "How long a turn of a job store took, with its commit"),
            store_errors: new(to, "store_errors", "Turns that failed", Family::default()),
            requests: new(to, "http_requests", "Answers of the API, by operation and status", Family::default()),
            registry: Mutex::new(registry),
        }
    }
}

impl Looked {
    fn register(to: &mut Registry) -> Self {
        let about_memory = "Memory of the daemon itself, without its workers";
        Looked {
            jobs: new(to, "jobs", "Jobs of the default store, by state", Family::default()),
            running: new(to, "runs_running", "Runs that go on", Gauge::default()),
            runs_kept: new(to, "runs_kept", "Ended runs in the history", Gauge::default()),
            slots: new(to, "slots", "Runs that an executor may have at one time", Family::default()),
            slots_used: new(to, "slots_used", "Runs that an executor has", Family::default()),
            firing: new(to, "firing", "1 if what is due is fired", Gauge::default()),
            streams: new(to, "event_streams", "Event streams that are open", Gauge::default()),
            cache: new(to, "components", "Components by how they were had since the start", Family::default()),
            memory: measured(to, "resident_memory", about_memory, Unit::Bytes, Gauge::default()),
            open_files: new(to, "open_files", "Descriptors of the daemon itself", Gauge::default()),
        }
    }

    fn set(&self, gauges: &Gauges) {
        let to_i64 = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let Counts { jobs, paused, quarantined, running, runs, .. } = gauges.counts;
        let active = jobs.saturating_sub(paused + quarantined);
        for (state, count) in [("active", active), ("paused", paused), ("quarantined", quarantined)] {
            self.jobs.get_or_create(&StateLabel { state }).set(to_i64(count));
        }
        self.running.set(to_i64(running));
        self.runs_kept.set(to_i64(runs));
        for (alias, slots) in &gauges.slots {
            let label = ExecutorLabel { executor: alias.to_string() };
            self.slots.get_or_create(&label).set(to_i64(slots.total as u64));
            self.slots_used.get_or_create(&label).set(to_i64(slots.used as u64));
        }
        self.firing.set(i64::from(gauges.firing));
        self.streams.set(to_i64(gauges.streams as u64));
        for (result, count) in gauges.cache {
            self.cache.get_or_create(&ResultLabel { result }).set(to_i64(count));
        }
        self.memory.set(to_i64(resident_memory().unwrap_or(0)));
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        self.open_files.set(to_i64(files as u64));
    }
}

/// Bytes of this process in memory.
fn resident_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

impl Metrics {
    /// An answer of the API.
    pub fn answered(&self, operation: &'static str, status: u16) {
        self.requests.get_or_create(&RequestLabel { operation, status }).inc();
    }

    /// All metrics as text, with what is looked at now.
    pub fn text(&self, gauges: &Gauges) -> String {
        self.looked_at.set(gauges);
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(error) = encode(&mut text, &registry) {
            tracing::error!(%error, "the metrics cannot be written");
        }
        text
    }

    fn event(&self, event: &Event) {
        match event.kind {
            EventKind::JobSubmitted => {
                self.claimed.inc();
                self.came_due(event.run.as_deref());
            }
            EventKind::JobStarted => {
                self.started.inc();
                let run = event.run.as_ref().filter(|run| run.origin == Origin::Trigger && run.attempt == 1);
                if let Some((run, started)) = run.and_then(|run| Some((run, run.started?))) {
                    let late = (started - run.scheduled_time).as_seconds_f64();
                    self.lateness.observe(late.max(0.0));
                }
            }
            EventKind::JobRetry => drop(self.retried.inc()),
            EventKind::JobMissed | EventKind::JobSkipped | EventKind::JobMaxInstances => {
                self.came_due(event.run.as_deref());
                self.ended(event.run.as_deref());
            }
            EventKind::JobExecuted | EventKind::JobError => self.ended(event.run.as_deref()),
            _ => {}
        }
    }

    /// A run stands for its fire time, and for those that it was coalesced with; a further attempt, and
    /// what a caller asked for, for none.
    fn came_due(&self, run: Option<&Run>) {
        if let Some(run) = run.filter(|run| run.origin == Origin::Trigger && run.attempt == 1) {
            self.due.inc_by(1 + run.coalesced);
        }
    }

    fn ended(&self, run: Option<&Run>) {
        let Some((run, outcome)) = run.and_then(|run| Some((run, run.outcome.as_ref()?))) else { return };
        self.ended.get_or_create(&OutcomeLabel { outcome: outcome.kind().as_str() }).inc();
        if let Some((started, ended)) = run.started.zip(run.ended) {
            self.duration.observe((ended - started).as_seconds_f64().max(0.0));
        }
        if let Some(fuel) = run.usage.fuel_used {
            self.fuel.observe(fuel as f64);
        }
    }
}

impl Observer for Metrics {
    fn turned(&self, turn: &Observed<'_>) {
        self.commits.observe(turn.took.as_secs_f64());
        let label = StoreLabel { jobstore: turn.jobstore.to_string() };
        self.waiting.get_or_create(&label).set(i64::try_from(turn.waiting).unwrap_or(i64::MAX));
        turn.events.iter().for_each(|event| self.event(event));
    }

    fn store_failed(&self, jobstore: &Alias) {
        self.store_errors.get_or_create(&StoreLabel { jobstore: jobstore.to_string() }).inc();
    }
}
