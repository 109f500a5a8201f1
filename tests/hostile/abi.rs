//! The canonical ABI and types: what a guest says is a value is one, or its run is a trap; what JSON
//! cannot carry is refused before.

use crate::bombs;
use crate::wall::{Case, Wall, hostile, made, plain_group, wasm, wat};
use sandclock::OutcomeKind::*;
use serde_json::json;

#[test]
fn what_is_no_value_does_not_cross_in_this_process() {
    plain_group("abi", Wall::Async, cases);
}

#[test]
fn what_is_no_value_does_not_cross_in_a_worker() {
    plain_group("abi", Wall::Process, cases);
}

fn cases() -> Vec<Case> {
    let mut cases = traps();
    cases.extend(refusals());
    cases.extend(wide());
    cases.extend(arguments());
    cases
}

fn traps() -> Vec<Case> {
    vec![
        wat("A1", "bad_utf8").traps("abi"),
        wat("A1", "bad_utf16").traps("abi"),
        wat("A2", "bad_char").traps("abi"),
        wat("A2", "char_too_large").traps("abi"),
        wat("A3", "bad_discriminant").traps("abi"),
        wat("A3", "bad_option").traps("abi"),
        wat("A3", "odd_bool").gives(json!(true)),
        wat("A4", "oob_result_ptr").traps("abi"),
        wat("A4", "list_overflow").traps("abi"),
        wat("A5", "realloc_out_of_bounds").args(json!(["text"])).traps("abi"),
        wat("A5", "realloc_unaligned").args(json!([[1]])).traps("abi"),
        wat("A6", "unaligned_list").traps("abi"),
        wat("A6", "unaligned_result").traps("abi"),
        wat("A21", "unreachable").traps("unreachable_code_reached"),
        wat("A21", "unreachable").traps("unreachable_code_reached"),
        wat("A21", "counter").gives(json!(1)),
        wat("A21", "counter").gives(json!(1)),
    ]
}

fn refusals() -> Vec<Case> {
    vec![
        wat("A7", "empty_record").refused("record type must have at least one field"),
        wat("A7", "empty_tuple").refused("tuple type must have at least one type"),
        wat("A7", "empty_flags").refused("flags must have at least one entry"),
        wat("A10", "borrow_param").refused("has a resource"),
        wat("A10", "loop_destructor").refused("has a resource"),
        wat("A10", "future_param").refused(""),
        wat("A10", "stream_param").refused(""),
        wat("A10", "error_context_param").refused(""),
        wat("A10", "map_param").refused(""),
        wat("A10", "fixed_list_param").refused(""),
        wat("A11", "async_export").refused("async"),
        wat("A20", "flags_33").refused("32"),
        wat("A20", "duplicate_flags").refused("conflicts with"),
        wat("A20", "duplicate_cases").refused("conflicts with"),
        wat("A20", "flags_32").ends(Succeeded).looks(|report| {
            let sandclock::Outcome::Succeeded { value } = &report.outcome else { panic!("no success") };
            assert_eq!(value.as_array().map(Vec::len), Some(32));
        }),
        wat("A20", "unknown_flags").gives(json!(["b"])),
    ]
}

/// A registration that may or may not be; what counts is that it ends.
fn wide() -> Vec<Case> {
    let deep = |depth| wasm(&bombs::deep_option(depth));
    vec![
        made("A8", "deep_10", deep(10)).args(json!([null])).ends(Succeeded),
        made("A8", "deep_65", deep(65)).args(json!([null])).refused(""),
        made("A8", "deep_99", deep(99)).args(json!([null])).refused(""),
        made("A8", "deep_100", deep(100)).args(json!([null])).refused(""),
        made("A9", "variant_300", wasm(&bombs::wide_variant(300))).refused(""),
        made("A9", "variant_10000", wasm(&bombs::wide_variant(10_000))).refused(""),
        made("A9", "variant_10001", wasm(&bombs::wide_variant(10_001))).refused(""),
        made("A9", "record_300", wasm(&bombs::wide_record(300))).refused(""),
        made("A9", "record_10000", wasm(&bombs::wide_record(10_000))).refused(""),
        made("A9", "record_10001", wasm(&bombs::wide_record(10_001))).refused(""),
        made("A9", "tuple_3", wasm(&bombs::wide_tuple(3))).ends(Invalid),
        made("A9", "tuple_5", wasm(&bombs::wide_tuple(5))).refused("more than 1000 types"),
        made("A9", "tuple_6", wasm(&bombs::wide_tuple(6))).refused("more than 1000 types"),
        made("A9", "tuple_7", wasm(&bombs::wide_tuple(7))).refused(""),
    ]
}

fn arguments() -> Vec<Case> {
    let most = json!(u64::MAX);
    vec![
        wat("A12", "aliased_lists").args(json!([1])).ends(Invalid),
        wat("A12", "aliased_lists").args(json!([1, "x"])).ends(Invalid),
        wat("A12", "aliased_lists").args(json!([1, 2, 3])).ends(Invalid),
        hostile("A13", "echo-u64").args(json!([u64::MAX])).gives(most.clone()),
        hostile("A13", "echo-u64").args(json!(["18446744073709551615"])).gives(most),
        hostile("A13", "add").args(json!([u64::MAX, 1])).ends(Failed),
        hostile("A13", "add").args(json!(["9007199254740992", 1])).gives(json!(9_007_199_254_740_993_u64)),
        hostile("A14", "no-numbers").gives(json!(["NaN", "Infinity", "-Infinity", -0.0])),
        hostile("A14", "echo-f64").args(json!([-0.0])).gives(json!(-0.0)),
        hostile("A14", "echo-f64").args(json!(["1e999"])).ends(Invalid),
        hostile("A15", "echo-u64").args(json!([-1])).ends(Invalid),
        hostile("A15", "echo-u64").args(json!([1.5])).ends(Invalid),
        hostile("A15", "echo-u64").args(json!(["18446744073709551616"])).ends(Invalid),
        hostile("A15", "leak").args(json!(["stdout", 4_294_967_296_u64])).ends(Invalid),
        hostile("A18", "echo-nested").args(json!([null])).gives(json!(null)),
        hostile("A18", "echo-nested").args(json!([{ "some": null }])).gives(json!({ "some": null })),
        hostile("A18", "echo-nested").args(json!([{ "some": 5 }])).gives(json!({ "some": 5 })),
        hostile("A19", "echo").args(json!(["\u{fffd}\u{10ffff}\0"])).gives(json!("\u{fffd}\u{10ffff}\0")),
    ]
}
