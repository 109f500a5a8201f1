//! Time and control flow: whatever a guest does with the processor, it ends when it should and others
//! go on.

use crate::wall::{Case, Wall, hostile, plain_group, wat};
use sandclock::OutcomeKind::*;
use serde_json::json;

#[test]
fn nothing_keeps_the_processor_of_this_process() {
    plain_group("processor", Wall::Async, cases);
}

#[test]
fn nothing_keeps_the_processor_of_a_worker() {
    plain_group("processor", Wall::Process, cases);
}

fn cases() -> Vec<Case> {
    let mut cases = loops();
    cases.extend(waits());
    cases.extend(polls());
    cases
}

fn loops() -> Vec<Case> {
    vec![
        wat("C1", "loop_run").ends(OutOfFuel),
        wat("C1", "loop_run").for_ms(100).ends(TimedOut),
        wat("C1", "loop_run").for_ms(5000).cancelled_after(50).ends(Cancelled),
        wat("C2", "fuel_loop_start").ends(OutOfFuel),
        wat("C2", "fuel_loop_start").for_ms(100).ends(TimedOut),
        wat("C3", "loop_post_return").ends(OutOfFuel),
        wat("C3", "loop_post_return").for_ms(100).ends(TimedOut),
        wat("C4", "loop_realloc").args(json!(["text"])).ends(OutOfFuel),
        wat("C4", "loop_realloc").args(json!(["text"])).for_ms(100).ends(TimedOut),
        wat("C5", "loop_destructor").refused("has a resource"),
        wat("C6", "random_burn").args(json!([65000])).for_ms(500).ends(TimedOut),
        wat("C6", "random_burn").args(json!([65000])).for_ms(5000).cancelled_after(100).ends(Cancelled),
        wat("C6", "random_burn").args(json!([1_000_000])).traps("host_call"),
        hostile("C6", "burn-random").args(json!([65536])).for_ms(500).ends(TimedOut),
        wat("C7", "memory_fill").args(json!([200])).ends(OutOfFuel),
        wat("C7", "memory_fill").args(json!([300])).ends(OutOfMemory),
        // One fill of half a gibibyte is one instruction.
        wat("C7", "memory_fill").args(json!([8000])).memory(512).for_ms(200).late_by(500).ends(TimedOut),
        hostile("C12", "backtrack").args(json!([40])).ends(OutOfFuel),
        hostile("C12", "backtrack").args(json!([10])).gives(json!(true)),
        wat("C14", "unreachable").traps("unreachable_code_reached"),
        hostile("C14", "panic").args(json!(["boo"])).traps("unreachable_code_reached"),
        hostile("C14", "abort-now").traps("unreachable_code_reached"),
        wat("C16", "loop_run").for_ms(200).ends(TimedOut),
    ]
}

fn waits() -> Vec<Case> {
    vec![
        wat("C8", "sleep_forever").for_ms(300).ends(TimedOut),
        wat("C8", "sleep_forever").for_ms(5000).cancelled_after(50).ends(Cancelled),
        hostile("C8", "sleep-forever").for_ms(300).ends(TimedOut),
        hostile("C15", "sleep-for").args(json!([600_000])).for_ms(300).ends(TimedOut),
        hostile("C11", "read-stdin").gives(json!(0)),
    ]
}

fn polls() -> Vec<Case> {
    let forever = json!(u64::MAX);
    vec![
        // Each is lent to the host, which lends no more than there may be handles.
        wat("C9", "poll_same").args(json!([1_000_000, forever])).memory(64).for_ms(500).traps("resource_limit"),
        wat("C9", "poll_same").args(json!([100_000, 0])).memory(64).for_ms(500).traps("resource_limit"),
        wat("C9", "poll_same").args(json!([4000, forever])).memory(64).for_ms(500).ends(TimedOut),
        wat("C9", "poll_same").args(json!([4000, 0])).memory(64).for_ms(500).ends(TimedOut),
        wat("C9", "poll_same").args(json!([4000, 0])).memory(64).for_ms(5000).cancelled_after(100).ends(Cancelled),
        hostile("C9", "poll-many").args(json!([500_000])).memory(64).for_ms(500).traps("resource_limit"),
        hostile("C9", "poll-same").args(json!([4000])).memory(64).for_ms(500).ends(TimedOut),
        wat("C10", "poll_busy").for_ms(500).ends(TimedOut),
        wat("C10", "poll_busy").fuel(1_000_000).ends(OutOfFuel),
        hostile("C10", "poll-busy").for_ms(500).ends(TimedOut),
        hostile("C10", "poll-ready").for_ms(500).ends(TimedOut),
    ]
}
