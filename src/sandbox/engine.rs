//! The one engine of a process: every switch that untrusted code should not find on is off here.

use crate::error::{Error, Result};
use std::num::NonZeroUsize;
use wasmtime::{Config, Engine, PoolingAllocationConfig, WasmBacktraceDetails};

/// Per run: the most of each that the pool reserves room for.
pub const MEMORIES_MAX: u32 = 8;
pub const TABLES_MAX: u32 = 32;
pub const CORE_INSTANCES_MAX: u32 = 64;
pub const TABLE_ELEMENTS_MAX: usize = 20_000;
/// Component handles that one run may hold.
pub const HANDLES_MAX: usize = 4096;
/// WASI resources that one run may hold.
pub const RESOURCES_MAX: usize = 512;
/// Bytes that may cross between guest and host in one call.
pub const TRANSFER_BYTES_MAX: usize = 16 << 20;
/// Random bytes that one call may ask for: the host makes them without a pause.
pub const RANDOM_BYTES_MAX: u64 = 64 << 10;
/// Fuel between two pauses of a run: how fast a cancelled loop stops. Small, because a host call
/// that takes the host tens of microseconds may cost the guest a dozen.
pub const YIELD_FUEL: u64 = 50_000;
const WASM_STACK: usize = 512 << 10;
const ASYNC_STACK: usize = 2 << 20;
const FRAMES_MAX: usize = 20;

/// The configuration without its allocator. With `lines`, backtraces have source lines.
pub fn config(lines: bool) -> Config {
    let details = if lines { WasmBacktraceDetails::Enable } else { WasmBacktraceDetails::Disable };
    let mut config = Config::new();
    config
        .consume_fuel(true)
        // WASI 0.2 needs no concurrency inside a component, and calls are twice as fast without.
        .concurrency_support(false)
        .gc_support(false)
        .wasm_gc(false)
        .wasm_function_references(false)
        .wasm_exceptions(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_threads(false)
        .wasm_tail_call(false)
        .wasm_relaxed_simd(false)
        .wasm_backtrace_details(details)
        .wasm_backtrace_max_frames(NonZeroUsize::new(FRAMES_MAX))
        .generate_address_map(lines)
        .debug_symbols(false)
        .cranelift_nan_canonicalization(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(ASYNC_STACK);
    config
}

/// An engine with room for `runs` at once; more than that is never asked of it.
pub fn engine(runs: usize, lines: bool) -> Result<Engine> {
    let runs = u32::try_from(runs).unwrap_or(u32::MAX).clamp(1, 1024);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(runs)
        .total_stacks(runs)
        .total_core_instances(runs.saturating_mul(CORE_INSTANCES_MAX))
        .total_memories(runs.saturating_mul(MEMORIES_MAX))
        .total_tables(runs.saturating_mul(TABLES_MAX))
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_memories_per_module(1)
        .max_tables_per_module(4)
        .max_core_instance_size(4 << 20)
        .max_component_instance_size(4 << 20)
        .max_memory_size(crate::job::Limits::MEMORY_MAX as usize)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_unused_warm_slots(runs);
    let mut config = config(lines);
    config.allocation_strategy(pool);
    Engine::new(&config).map_err(|e| Error::host("cannot start the wasm engine", e.into_boxed_dyn_error()))
}

/// An engine that only compiles: its code is for the engines of [`engine`].
pub fn compiler(lines: bool) -> Result<Engine> {
    engine(1, lines)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_effective_configuration_is_the_one_reviewed() {
        let shown = format!("{:?}", super::config(false));
        for off in [
            "wasm_threads",
            "wasm_multi_memory",
            "wasm_memory64",
            "wasm_gc",
            "wasm_gc_types",
            "wasm_exceptions",
            "wasm_function_references",
            "wasm_relaxed_simd",
            "wasm_tail_call",
            "wasm_stack_switching",
            "wasm_shared_everything_threads",
            "wasm_custom_page_sizes",
            "wasm_wide_arithmetic",
            "wasm_legacy_exceptions",
            "wasm_memory_control",
            "wasm_custom_descriptors",
            "wasm_cm_async",
            "wasm_cm_async_stackful",
            "wasm_cm_threading",
            "wasm_cm_error_context",
            "wasm_cm_fixed_length_lists",
            "wasm_cm_gc",
            "wasm_cm_map",
            "wasm_cm64",
            "wasm_cm_values",
            "wasm_cm_nested_names",
            "wasm_cm_more_async_builtins",
            "wasm_cm_implements",
            "wasm_cm_canon_names",
            "wasm_compact_imports",
            "concurrency_support",
            "debug_symbols",
            "generate_address_map",
        ] {
            assert!(shown.contains(&format!("{off}: false")), "{off} is not off: {shown}");
        }
        for on in ["consume_fuel", "wasm_component_model", "wasm_simd", "wasm_bulk_memory"] {
            assert!(shown.contains(&format!("{on}: true")), "{on} is not on: {shown}");
        }
        let switches = shown.matches("wasm_").count();
        assert_eq!(switches, 43, "a switch was added or removed, review it: {shown}");
    }
}
