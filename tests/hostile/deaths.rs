//! A guest that kills its worker loses its own runs and no other. The worker is killed from here, as a
//! hole in the engine would do it from inside: there is no way for a guest to ask for it.

use crate::heap;
use crate::measure::{self, job};
use crate::wall::{Bench, Wall, group, text_of, wasm};
use rustix::process::{Pid, Signal, kill_process};
use sandclock::executor::Report;
use sandclock::sandbox::connect::Direct;
use sandclock::{Grants, Limits, Outcome, OutcomeKind};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DEATHS: usize = 1000;
/// From this one on, memory and files stay what they are.
const WARM: usize = 100;
/// How long a worker that does not answer has beyond its run's deadline.
const GRACE: Duration = Duration::from_secs(1);

/// The processes that this one has started and not yet buried.
fn children() -> HashSet<i32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let of = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    tasks.flat_map(|task| of(task).split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// The worker that is there beside the known ones, once there is one.
async fn new_child(known: &HashSet<i32>) -> Pid {
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        if let Some(pid) = children().difference(known).next() {
            return Pid::from_raw(*pid).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("no worker was started");
}

async fn bench_with_victim(bench: &mut Bench) -> HashSet<i32> {
    bench.add("victim", Grants::default(), wasm(&text_of("sleep_forever"))).await.unwrap();
    // The neighbour's worker is there by now.
    tokio::time::sleep(Duration::from_millis(100)).await;
    children()
}

fn victim(timeout: Duration) -> sandclock::Job {
    let mut job = job("victim:run", Vec::new());
    job.limits = Limits { timeout, ..Limits::default() };
    job
}

/// Begins as many runs as are wanted, kills their worker by a signal, and gives their reports.
async fn killed(bench: &Bench, known: &HashSet<i32>, runs: usize, signal: Signal) -> Vec<Report> {
    let began = Arc::new(tokio::sync::Semaphore::new(0));
    let runs = (0..runs).map(|_| bench.run_telling(victim(Duration::from_secs(20)), None, began.clone()));
    let all = futures::future::join_all(runs);
    let kill = async {
        began.acquire().await.unwrap().forget();
        let pid = new_child(known).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        kill_process(pid, signal).unwrap();
    };
    tokio::join!(all, kill).0
}

#[test]
fn a_thousand_deaths_of_workers_touch_nobody_else() {
    group("deaths", Wall::Process, Arc::new(Direct::default()), async |bench: &mut Bench| {
        let known = bench_with_victim(bench).await;
        let (begun, mut warm, mut lost) = (Instant::now(), (0, 0), 0);
        for death in 0..DEATHS {
            let signal = if death % 2 == 0 { Signal::ABORT } else { Signal::KILL };
            // Now and then a worker takes two runs with it.
            let runs = if death % 10 == 9 { 2 } else { 1 };
            for report in killed(bench, &known, runs, signal).await {
                lost += 1;
                bench.count();
                let kind = report.outcome.kind();
                if !matches!(kind, OutcomeKind::Internal | OutcomeKind::Interrupted) {
                    bench.fail(format!("death {death}: {:?}", report.outcome));
                }
            }
            bench.neighbour_was_on_time(&format!("death {death}"));
            if death + 1 == WARM {
                warm = (heap::held(), measure::open_files().len());
            }
        }
        let grown = heap::held().saturating_sub(warm.0) >> 10;
        if grown > 10 << 10 {
            bench.fail(format!("{grown} KiB of memory more than at death {WARM}"));
        }
        let flat = measure::settled_to(|| measure::open_files().len(), warm.1).await;
        if !flat {
            bench.fail(format!("{:?} are open, at death {WARM} it were {}", measure::open_files(), warm.1));
        }
        let late = bench.neighbours_lateness();
        println!(
            "{DEATHS} workers died with {lost} runs in {:.1} s; {grown} KiB more than at death {WARM}; the neighbour ran {} times, late by {:?} at the median, {:?} at p99, {:?} at most",
            begun.elapsed().as_secs_f64(),
            late.len(),
            late[late.len() / 2],
            late[late.len() * 99 / 100],
            late[late.len() - 1],
        );
    });
}

#[test]
fn a_worker_that_does_not_answer_is_killed_after_its_grace() {
    group("stopped workers", Wall::Process, Arc::new(Direct::default()), async |bench: &mut Bench| {
        let known = bench_with_victim(bench).await;
        for cancel in [None, Some(Duration::from_millis(300))] {
            let timeout = if cancel.is_some() { Duration::from_secs(20) } else { Duration::from_millis(300) };
            let begun = Instant::now();
            let began = Arc::new(tokio::sync::Semaphore::new(0));
            let stop = async {
                // Before that, the worker is on its way, which has limits of its own.
                began.acquire().await.unwrap().forget();
                let pid = new_child(&known).await;
                kill_process(pid, Signal::STOP).unwrap();
                pid
            };
            let (report, pid) = tokio::join!(bench.run_telling(victim(timeout), cancel, began.clone()), stop);
            bench.count();
            let ran = (report.ended - report.started.unwrap()).to_std().unwrap();
            let wanted = if cancel.is_some() { OutcomeKind::Cancelled } else { OutcomeKind::TimedOut };
            assert_eq!(report.outcome.kind(), wanted, "{:?}", report.outcome);
            if let Outcome::TimedOut { error } = &report.outcome {
                assert!(error.contains("killed"), "{error}");
            }
            let most = Duration::from_millis(300) + GRACE + Duration::from_millis(200);
            assert!(ran <= most, "it took {ran:?} of {:?}", begun.elapsed());
            assert!(!children().contains(&pid.as_raw_nonzero().get()), "the stopped worker is still there");
        }
        bench.neighbour_was_on_time("stopped workers");
    });
}

#[test]
fn a_worker_leaves_no_core_and_has_nothing_of_the_daemons_environment() {
    group("workers", Wall::Process, Arc::new(Direct::default()), async |bench: &mut Bench| {
        bench_with_victim(bench).await;
        for pid in children() {
            let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
            let limits = read("limits").unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            assert!(core.split_whitespace().filter(|word| *word == "0").count() >= 2, "U4: {core}");
            // Not even readable, or without anything of ours.
            let environment = read("environ").unwrap_or_default();
            assert!(!environment.contains("CARGO"), "U4: {environment:?}");
        }
        bench.count();
    });
}
