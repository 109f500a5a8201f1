//! What must hold of a store after its process died, given what it had acknowledged.

use crate::worker;
use sandclock::store::JobStore;
use sandclock::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

/// Everything that workers on one home were told, over all their lives.
#[derive(Clone, Default)]
pub struct Told {
    added: BTreeSet<String>,
    removed: BTreeSet<String>,
    /// Sequence number → kind and run.
    events: BTreeMap<u64, (String, String)>,
    /// Run → job and fire time.
    ran: HashMap<String, (String, String)>,
    /// Job, fire time and attempt.
    fire_times: BTreeSet<(String, String, String)>,
    /// Run → job.
    promised: BTreeMap<String, String>,
}

impl Told {
    /// Takes in the lines of one worker. A line without its end was not written whole.
    pub fn hear(&mut self, acks: &str) {
        for line in acks.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["added", id] => drop(self.added.insert(id.into())),
                ["removed", id] => drop(self.removed.insert(id.into())),
                ["event", seq, kind, run] => {
                    let news = (kind.to_owned(), run.to_owned());
                    let old = self.events.insert(seq.parse().unwrap(), news.clone());
                    assert!(old.is_none_or(|old| old == news), "event {seq} was published as two different things");
                }
                ["ran", run, job, at, attempt] => {
                    assert!(self.ran.insert(run.into(), (job.into(), at.into())).is_none(), "run {run} ran twice");
                    let first = self.fire_times.insert((job.into(), at.into(), attempt.into()));
                    assert!(first, "{job} ran twice for {at}, attempt {attempt}");
                }
                ["promised", run, job] => drop(self.promised.insert(run.into(), job.into())),
                ["open"] => {}
                _ => panic!("what is `{line}`?"),
            }
        }
    }

    /// Opens the store and holds it against what was told. Says how many events it has.
    pub fn check(&self, home: &Path) -> u64 {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let store = SledStore::open(home, worker::options(), chrono::Utc::now());
        let store = store.unwrap_or_else(|error| panic!("the store must open: {}", error.chain()));
        runtime.block_on(self.compare(&store))
    }

    async fn compare(&self, store: &SledStore) -> u64 {
        let mut stored: BTreeMap<u64, Event> = BTreeMap::new();
        loop {
            let last = stored.last_key_value().map_or(0, |(seq, _)| *seq);
            let page = store.list_events(last, 10_000).await.unwrap();
            if page.is_empty() {
                break;
            }
            stored.extend(page.into_iter().map(|event| (event.seq, event)));
        }
        let gaps = stored.keys().zip(1u64..).find(|(seq, expect)| **seq != *expect);
        assert!(gaps.is_none(), "the events have a gap: {gaps:?}");
        for (seq, (kind, run)) in &self.events {
            let event = stored.get(seq).unwrap_or_else(|| panic!("event {seq} {kind} was published but is lost"));
            let stored_run = event.run_id.map_or(String::new(), |id| id.to_string());
            assert_eq!((event.kind.as_str(), &stored_run), (kind.as_str(), run), "event {seq} is another");
        }
        self.check_jobs(store, &stored).await;
        self.check_runs(store, &stored).await;
        self.check_promises(store, &stored).await;
        stored.len() as u64
    }

    async fn check_jobs(&self, store: &SledStore, stored: &BTreeMap<u64, Event>) {
        let of = |kind| {
            let ids = stored.values().filter(move |event| event.kind == kind);
            ids.filter_map(|event| event.job_id.as_ref().map(ToString::to_string)).collect::<BTreeSet<String>>()
        };
        let (added, removed) = (of(EventKind::JobAdded), of(EventKind::JobRemoved));
        for id in &self.added {
            assert!(added.contains(id), "job {id} was acknowledged but is lost");
            let kept = store.get_job(&id.parse().unwrap()).await.unwrap();
            assert_eq!(kept.is_none(), removed.contains(id), "job {id} is there if and only if it was not removed");
            if let Some(entry) = kept {
                assert!(entry.job.is_some(), "job {id} cannot be decoded");
                assert!(entry.state.running.is_empty(), "nothing runs after a restart");
            }
        }
        for id in &self.removed {
            assert!(removed.contains(id), "the removal of {id} was acknowledged but is lost");
        }
    }

    /// Runs that callers were promised, and further attempts that were told of, came or wait, unless
    /// their job was removed.
    async fn check_promises(&self, store: &SledStore, stored: &BTreeMap<u64, Event>) {
        let key = |run: &Run, attempt: u32| (run.job_id.to_string(), run.scheduled_time, attempt);
        let ended = |event: &&Event| event.run.as_ref().filter(|run| run.outcome.is_some()).is_some();
        let came: BTreeSet<_> = stored
            .values()
            .filter(|event| event.kind == EventKind::JobSubmitted || ended(event))
            .filter_map(|event| event.run.as_ref())
            .map(|run| key(run, run.attempt))
            .collect();
        for event in stored.values().filter(|event| event.kind == EventKind::JobRetry) {
            let Some(run) = &event.run else { continue };
            let owed = key(run, run.attempt + 1);
            let entry = store.get_job(&run.job_id).await.unwrap();
            let waits = entry.is_none_or(|entry| {
                let same = |p: &PendingRun| (p.scheduled_time, p.attempt) == (owed.1, owed.2);
                entry.state.pending.iter().any(same)
            });
            assert!(came.contains(&owed) || waits, "attempt {} of {} for {} is lost", owed.2, owed.0, owed.1);
        }
        for (run, job) in &self.promised {
            let kept = store.get_run(run.parse().unwrap()).await.unwrap();
            let kept = kept.unwrap_or_else(|| panic!("run {run} of {job} was promised and is lost"));
            assert_eq!(kept.arguments.as_ref().map_or(0, |own| own.args.len()), 1, "and has its own arguments");
        }
    }

    async fn check_runs(&self, store: &SledStore, stored: &BTreeMap<u64, Event>) {
        let mut ends: HashMap<String, u32> = HashMap::new();
        let mut submitted: BTreeSet<String> = BTreeSet::new();
        for event in stored.values() {
            let Some(run) = event.run_id.map(|id| id.to_string()) else { continue };
            match event.kind {
                EventKind::JobSubmitted => drop(submitted.insert(run)),
                EventKind::JobExecuted | EventKind::JobError => *ends.entry(run).or_default() += 1,
                _ => {}
            }
        }
        for run in self.ran.keys() {
            assert!(submitted.contains(run), "run {run} started before it was durable");
        }
        for run in &submitted {
            assert_eq!(ends.get(run), Some(&1), "run {run} has exactly one outcome");
            let kept = store.get_run(run.parse().unwrap()).await.unwrap();
            assert!(kept.is_some_and(|run| run.outcome.is_some()), "run {run} is in the history");
        }
    }
}
