//! Memory, tables, stacks, handles and streams: a guest gets what its limits say, and the host holds no
//! more for it than that.

use crate::bombs;
use crate::wall::{Bench, Case, Wall, group, hostile, made, plain_group, surfer, wasm, wat};
use sandclock::OutcomeKind::*;
use sandclock::executor::Report;
use sandclock::sandbox::connect::Direct;
use sandclock::{Grants, Outcome};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

#[test]
fn no_guest_takes_the_memory_of_this_process() {
    plain_group("memory", Wall::Async, memory);
}

#[test]
fn no_guest_takes_the_memory_of_a_worker() {
    plain_group("memory", Wall::Process, memory);
}

#[test]
fn no_guest_holds_more_handles_than_it_may() {
    for wall in [Wall::Async, Wall::Process] {
        group("handles", wall, Arc::new(Direct::default()), handles);
    }
}

fn memory() -> Vec<Case> {
    let mut cases = grown();
    cases.extend(stacks());
    cases.extend(transferred());
    cases
}

fn grown() -> Vec<Case> {
    vec![
        wat("M1", "mem_bomb").ends(OutOfMemory),
        hostile("M1", "allocate").ends(OutOfMemory),
        wat("M2", "initial_memory").ends(OutOfMemory).refused("memory"),
        wat("M3", "hundred_memories").refused("multiple memories"),
        wat("M3", "ninety_instances").ends(OutOfMemory).refused("instances"),
        wat("M4", "many_memories").refused("multiple memories"),
        made("M4", "summed", wasm(&several_memories())).ends(OutOfMemory),
        made("M5", "exp_instances", wasm(&bombs::exp_instances(12))).refused("instances"),
        wat("M7", "table_bomb").ends(OutOfMemory),
        wat("M7", "initial_table").ends(OutOfMemory).refused("table"),
    ]
}

/// Four instances of 5 MiB each, every one under the limit of 16 MiB.
fn several_memories() -> String {
    let one = "(core module $m (memory 80) (func (export \"run\")))";
    let instances: String = (0..4).map(|n| format!("(core instance $i{n} (instantiate $m))")).collect();
    format!("(component {one} {instances} (func (export \"run\") (canon lift (core func $i0 \"run\"))))")
}

fn stacks() -> Vec<Case> {
    vec![
        wat("M8", "recursion").traps("stack_overflow"),
        wat("M8", "mutual_recursion").traps("stack_overflow"),
        wat("M9", "realloc_calls_host").traps("cannot_leave_component"),
        made("M10", "locals_1000", bombs::locals_recursion(1000))
            .traps("stack_overflow")
            .refused("breaks the compiler"),
    ]
}

/// Cut or replaced by a mark when it is stored, and no larger here than the transfer allows.
fn is_stored_small(report: &Report) {
    let mut run = crate::measure::run_of(&crate::wall::job("m:run", json!([])));
    run.end(report.ended, report.outcome.clone());
    run.trim();
    let Some(Outcome::Succeeded { value }) = run.outcome else { panic!("it did not succeed") };
    assert!(value.to_string().len() <= 64 << 10, "{} bytes would be stored", value.to_string().len());
    assert_eq!(value["cut"], json!(true));
}

fn transferred() -> Vec<Case> {
    vec![
        wat("M11", "huge_list_u8").args(json!([10_000_000])).memory(64).traps("transfer_limit"),
        wat("M11", "huge_string").args(json!([10_000_000])).memory(64).ends(Succeeded).traps("transfer_limit"),
        wat("M11", "huge_string").args(json!([20_000_000])).memory(64).traps("transfer_limit"),
        wat("M11", "huge_list_u8").args(json!([4_000_000_000_u32])).ends(OutOfMemory).traps("abi"),
        wat("M11", "list_overflow").traps("abi"),
        wat("M12", "aliased_lists").args(json!([1400, 100_000])).memory(64).traps("transfer_limit"),
        wat("M12", "aliased_lists").args(json!([1_000_000, 100_000])).memory(64).traps("transfer_limit"),
        wat("M12", "aliased_lists").args(json!([100, 1000])).ends(Succeeded),
        wat("M12", "aliased_nested").args(json!([500])).memory(64).traps("transfer_limit"),
        wat("M12", "aliased_nested").args(json!([2000])).memory(64).traps("transfer_limit"),
        wat("M13", "huge_string").args(json!([340_000])).ends(Succeeded).looks(is_stored_small),
        wat("M13", "huge_list_u8").args(json!([340_000])).ends(Succeeded).looks(is_stored_small),
        // Kept for the next one, and not once for each.
        wat("M13", "huge_list_u8").args(json!([340_000])).ends(Succeeded).looks(is_stored_small),
        hostile("M13", "controls").args(json!([340_000])).ends(Succeeded).looks(is_stored_small),
        hostile("M13", "bytes").args(json!([340_000])).ends(Succeeded).looks(is_stored_small),
        hostile("M13", "bytes").args(json!([340_000])).ends(Succeeded).looks(is_stored_small),
    ]
}

/// What a run keeps of a stream, at most.
fn is_cut(report: &Report) {
    assert!(report.logs.stdout.len() < 270_000, "{} bytes are kept", report.logs.stdout.len());
    assert!(report.logs.stdout.contains("[cut: "), "nothing says that it was cut");
}

async fn handles(bench: &mut Bench) {
    let dir = tempfile::tempdir().unwrap();
    for case in leaks(dir.path()).into_iter().chain(streams(dir.path())) {
        bench.check(case).await;
    }
}

fn writable(dir: &Path) -> Grants {
    Grants { dirs: vec![format!("{}:/data:rw", dir.display()).parse().unwrap()], ..Grants::default() }
}

fn http() -> Grants {
    Grants { http: vec!["nobody.test:80".parse().unwrap()], ..Grants::default() }
}

fn leaks(dir: &Path) -> Vec<Case> {
    let mut cases = vec![
        wat("M14", "handle_leak").traps("resource_limit"),
        wat("M15", "pollable_leak").traps("resource_limit"),
        surfer("M15", "leak-fields").args(json!([1000])).grants(http()).traps("resource_limit"),
        surfer("M16", "headers-flood").fuel(10_000_000_000).grants(http()).ends(Succeeded).traps("host_call"),
        surfer("M16", "header-size").args(json!([100])).grants(http()).ends(Succeeded),
        surfer("M16", "header-size").args(json!([1_000_000])).grants(http()).ends(Failed).traps("host_call"),
    ];
    for what in ["pollable", "stdin", "stdout", "stderr"] {
        cases.push(hostile("M15", "leak").args(json!([what, 1000])).traps("resource_limit"));
    }
    let leak = |what| hostile("M15", "leak").args(json!([what, 1000])).grants(writable(dir)).traps("resource_limit");
    cases.push(leak("directory"));
    // A worker has fewer files than that; the guest sees an error for each more.
    cases.push(leak("file").ends(Succeeded));
    // Of open listings there may be four.
    cases.push(leak("listing").ends(Succeeded));
    cases
}

fn streams(dir: &Path) -> Vec<Case> {
    let ten = 10_000_000_000;
    vec![
        wat("M17", "stdout_unasked").for_ms(2000).ends(TimedOut).looks(is_cut),
        hostile("M17", "flood").args(json!([160_000_000])).for_ms(2000).ends(TimedOut).looks(is_cut),
        hostile("M17", "flood").args(json!([10_000])).ends(Succeeded).looks(is_cut),
        wat("M18", "empty_writes").for_ms(500).ends(TimedOut),
        hostile("M18", "write-empty").args(json!([1_000_000])).for_ms(10_000).ends(Succeeded),
        hostile("M18", "write-zeroes").args(json!([1_u64 << 63])).ends(Failed).traps("host_call"),
        wat("M19", "stdout_leak").fuel(ten).traps("resource_limit"),
        wat("M19", "stdout_again").args(json!([1_000_000])).for_ms(10_000).ends(Succeeded),
        hostile("M19", "get-stdout").args(json!([100_000])).for_ms(10_000).ends(Succeeded),
        hostile("M21", "debug-strings")
            .args(json!(["/data/.", 100_000]))
            .grants(writable(dir))
            .ends(Succeeded)
            .ends(Failed)
            .ends(OutOfFuel),
    ]
}
