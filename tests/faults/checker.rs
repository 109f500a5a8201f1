//! What must hold of what was recorded, and planted bugs that the checker has to see.

use crate::history::{Event, History, Run};
use std::collections::{BTreeMap, HashMap, HashSet};

/// What of the rules is broken, in words.
pub fn check(history: &History) -> Vec<String> {
    let mut found = Vec::new();
    fire_times(history, &mut found);
    attempts(history, &mut found);
    effects(history, &mut found);
    events(history, &mut found);
    found
}

/// Every fire time is there exactly once, and has come to an end.
fn fire_times(history: &History, found: &mut Vec<String>) {
    let mut firsts: HashMap<(&str, i64), u32> = HashMap::new();
    for run in history.runs.iter().filter(|run| run.attempt == 1) {
        *firsts.entry((&run.job, run.fire)).or_default() += 1;
    }
    for (job, (first, every)) in &history.jobs {
        let mut fire = *first;
        while fire <= history.end {
            match firsts.remove(&(job.as_str(), fire)) {
                Some(1) => {}
                None => found.push(format!("lost: {job} at {fire}")),
                Some(n) => found.push(format!("claimed {n} times: {job} at {fire}")),
            }
            fire += every;
        }
    }
    for ((job, fire), _) in firsts.into_iter().filter(|((_, fire), _)| *fire <= history.end) {
        found.push(format!("no fire time: {job} at {fire}"));
    }
    for run in history.runs.iter().filter(|run| run.fire <= history.end && !run.ended) {
        found.push(format!("no end: {} of {} at {}", run.id, run.job, run.fire));
    }
}

/// Epochs rise from attempt to attempt, at most one succeeded, and only interrupted ones are tried again.
fn attempts(history: &History, found: &mut Vec<String>) {
    for ((job, fire), runs) in by_firing(history) {
        let named = format!("{job} at {fire}");
        for pair in runs.windows(2) {
            if pair[1].epoch <= pair[0].epoch {
                found.push(format!("epochs do not rise: {named}"));
            }
            if pair[0].outcome != "interrupted" || !pair[0].rerun {
                found.push(format!("tried again after {}: {named}", pair[0].outcome));
            }
        }
        let succeeded = runs.iter().filter(|run| run.outcome == "succeeded").count();
        if succeeded > 1 {
            found.push(format!("succeeded {succeeded} times: {named}"));
        }
        let last = runs.last().map(|run| run.outcome.as_str()).unwrap_or_default();
        if fire <= history.end && runs.iter().all(|run| run.rerun && run.ended) && last == "interrupted" {
            found.push(format!("not tried again: {named}"));
        }
    }
}

fn by_firing(history: &History) -> BTreeMap<(&str, i64), Vec<&Run>> {
    let mut firings: BTreeMap<(&str, i64), Vec<&Run>> = BTreeMap::new();
    for run in &history.runs {
        firings.entry((&run.job, run.fire)).or_default().push(run);
    }
    for runs in firings.values_mut() {
        runs.sort_by_key(|run| run.attempt);
    }
    firings
}

/// Nothing is done by a run that is not recorded, or after its node's lease; and two runs of a job do
/// something at one time only if the lease of the first had run out.
fn effects(history: &History, found: &mut Vec<String>) {
    let runs: HashMap<(&str, i64, u64), &Run> =
        history.runs.iter().map(|run| ((run.job.as_str(), run.fire, run.epoch), run)).collect();
    let mut spans: BTreeMap<&str, HashMap<&str, (i64, i64, u64)>> = BTreeMap::new();
    for effect in &history.effects {
        let named = format!("{} at {}, epoch {}", effect.job, effect.fire, effect.epoch);
        let Some(run) = runs.get(&(effect.job.as_str(), effect.fire, effect.epoch)) else {
            found.push(format!("done without a record: {named}"));
            continue;
        };
        let lease = history.leases.get(&run.lease).copied().unwrap_or_default();
        if lease.over && effect.at > lease.until {
            found.push(format!("done {} µs after its lease: {named}", effect.at - lease.until));
        }
        let span = spans.entry(&run.job).or_default().entry(&run.id).or_insert((effect.at, effect.at, run.lease));
        (span.0, span.1) = (span.0.min(effect.at), span.1.max(effect.at));
    }
    for (job, spans) in spans {
        let mut spans: Vec<_> = spans.into_values().collect();
        spans.sort_unstable();
        for pair in spans.windows(2) {
            let [(_, end, lease), (begin, ..)] = [pair[0], pair[1]];
            let lease = history.leases.get(&lease).copied().unwrap_or_default();
            if begin < end && !(lease.over && begin >= lease.until) {
                found.push(format!("two runs at one time: {job} at {begin}"));
            }
        }
    }
}

/// Numbers have no gap, and of each run submitted comes before started and started before ended.
fn events(history: &History, found: &mut Vec<String>) {
    for pair in history.events.windows(2) {
        if pair[1].seq != pair[0].seq + 1 {
            found.push(format!("events {} and {} follow each other", pair[0].seq, pair[1].seq));
        }
    }
    let rank = |event: &Event| match event.kind.as_str() {
        "JOB_SUBMITTED" => Some(0),
        "JOB_STARTED" => Some(1),
        "JOB_EXECUTED" | "JOB_ERROR" => Some(2),
        _ => None,
    };
    let mut seen: HashMap<&str, i32> = HashMap::new();
    for event in &history.events {
        let (Some(run), Some(rank)) = (&event.run, rank(event)) else { continue };
        if seen.insert(run, rank).is_some_and(|before| before >= rank) {
            found.push(format!("{} of run {run} comes late or twice", event.kind));
        }
    }
    let told: HashSet<&str> = seen.iter().filter(|(_, rank)| **rank == 2).map(|(run, _)| *run).collect();
    let first = history.events.first().map_or(0, |event| event.seq);
    for run in history.runs.iter().filter(|run| first <= 1 && run.ended && !told.contains(run.id.as_str())) {
        found.push(format!("the end of run {} is not told", run.id));
    }
}

/// A bug, planted in what was recorded.
pub struct Plant {
    pub what: &'static str,
    /// What the checker says of it.
    says: &'static str,
    plant: fn(&mut History),
}

impl Plant {
    pub fn is_found(&self, sound: &History) -> bool {
        let mut history = sound.clone();
        (self.plant)(&mut history);
        check(&history).iter().any(|found| found.contains(self.says))
    }
}

fn some_run(history: &History) -> Run {
    let in_time = |run: &&Run| run.fire <= history.end && run.attempt == 1 && run.outcome == "succeeded";
    history.runs.iter().find(in_time).expect("something ran").clone()
}

pub const PLANTS: &[Plant] = &[
    Plant {
        what: "a fire time that is lost",
        says: "lost",
        plant: |history| {
            let run = some_run(history);
            history.runs.retain(|other| (&other.job, other.fire) != (&run.job, run.fire));
        },
    },
    Plant {
        what: "a fire time that is claimed twice",
        says: "claimed 2 times",
        plant: |history| {
            let run = some_run(history);
            history.runs.push(Run { id: "another".into(), ..run });
        },
    },
    Plant {
        what: "a run at no fire time",
        says: "no fire time",
        plant: |history| {
            let run = some_run(history);
            history.runs.push(Run { id: "another".into(), fire: run.fire + 1, ..run });
        },
    },
    Plant {
        what: "a run without an end",
        says: "no end",
        plant: |history| {
            let id = some_run(history).id;
            history.runs.iter_mut().filter(|run| run.id == id).for_each(|run| run.ended = false);
        },
    },
    Plant {
        what: "an epoch that does not rise",
        says: "epochs do not rise",
        plant: |history| {
            let run = some_run(history);
            history.runs.push(Run { id: "another".into(), attempt: 2, ..run });
        },
    },
    Plant {
        what: "two accepted completions",
        says: "succeeded 2 times",
        plant: |history| {
            let run = some_run(history);
            history.runs.push(Run { id: "another".into(), attempt: 2, epoch: run.epoch + 1, ..run });
        },
    },
    Plant {
        what: "an interrupted run that is not tried again",
        says: "not tried again",
        plant: |history| {
            let id = some_run(history).id;
            for run in history.runs.iter_mut().filter(|run| run.id == id) {
                (run.outcome, run.rerun) = ("interrupted".into(), true);
            }
        },
    },
    Plant {
        what: "two runs of a job at one time",
        says: "two runs at one time",
        plant: |history| {
            let mut of_job = history.effects.iter().filter(|effect| effect.job == history.effects[0].job).cloned();
            let first = of_job.next().expect("an effect");
            let other = of_job.find(|effect| effect.epoch != first.epoch).expect("another run");
            for at in [first.at - 1_000_000, first.at + 1_000_000] {
                history.effects.push(crate::history::Effect { at, ..other.clone() });
            }
            history.leases.values_mut().for_each(|lease| lease.over = false);
        },
    },
    Plant {
        what: "an effect after the lease",
        says: "after its lease",
        plant: |history| {
            let late = history.effects[0].at - 1;
            history.leases.values_mut().for_each(|lease| (lease.until, lease.over) = (late, true));
        },
    },
    Plant {
        what: "an effect of a run that nobody recorded",
        says: "done without a record",
        plant: |history| history.effects[0].epoch = 0,
    },
    Plant {
        what: "an event that is lost",
        says: "follow each other",
        plant: |history| drop(history.events.remove(history.events.len() / 2)),
    },
    Plant {
        what: "an event that comes twice",
        says: "comes late or twice",
        plant: |history| {
            let at = history.events.iter().position(|event| event.kind == "JOB_EXECUTED").expect("one");
            let mut again = history.events[at].clone();
            again.seq = history.events.last().expect("one").seq + 1;
            history.events.push(again);
        },
    },
];
