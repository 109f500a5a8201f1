//! The sandbox: every hostile component ends in its class, in time; JSON crosses into WIT types and
//! back unharmed; what is no plugin is refused with what to do.

use chrono::Utc;
use proptest::prelude::*;
use sandclock::sandbox::{AddPlugin, Ended, Sandbox, Setting, digest};
use sandclock::*;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new(8, None).unwrap());

fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}

fn job(export: &str, args: Vec<Value>) -> Job {
    let mut job = Job::new("j".parse().unwrap(), format!("m:{export}").parse().unwrap(), Trigger::now());
    job.args = args;
    job.limits = Limits { fuel: 200_000_000, memory: 16 << 20, timeout: Duration::from_secs(5), ..Limits::default() };
    job
}

fn run_of(job: &Job) -> Run {
    serde_json::from_value(json!({
        "id": ulid::Ulid::nil(), "job_id": job.id, "jobstore": "default", "func": job.func,
        "scheduled_time": "2027-01-01T00:00:00Z", "attempt": 3, "node": "n", "state": "claimed",
    }))
    .unwrap()
}

fn setting(job: &Job) -> Setting {
    Setting::new(&run_of(job), job, Utc::now())
}

async fn call(component: &[u8], job: &Job) -> Ended {
    let plugin = SANDBOX.load(&digest(component), component).unwrap_or_else(|e| panic!("{e}"));
    let call = plugin.bind(job).unwrap_or_else(|e| panic!("{e}"));
    SANDBOX.call(call, &setting(job), &CancellationToken::new()).await
}

/// Runs a component of `tests/hostile` and expects a class, perhaps with its kind of trap.
async fn hostile(text: &str, args: Vec<Value>, class: OutcomeKind, trap: Option<&str>) {
    let begun = Instant::now();
    let ended = call(&wasm(text), &job("run", args)).await;
    assert_eq!(ended.outcome.kind(), class, "{:?}", ended.outcome);
    if let Some(wanted) = trap {
        assert!(matches!(&ended.outcome, Outcome::Trapped { trap, .. } if trap == wanted), "{:?}", ended.outcome);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    let peak = ended.usage.memory_peak.unwrap();
    assert!(peak <= 16 << 20, "{peak} bytes of memory were given");
}

macro_rules! hostile {
    ($($name:ident: $file:literal $args:tt => $class:ident $($trap:literal)?;)*) => {
        $(#[tokio::test]
        async fn $name() {
            let trap: &[&str] = &[$($trap)?];
            let text = include_str!(concat!("../hostile/wat/", $file, ".wat"));
            hostile(text, json!($args).as_array().unwrap().clone(), OutcomeKind::$class, trap.first().copied()).await;
        })*
    };
}

hostile! {
    a_loop_runs_out_of_fuel: "loop_run" [] => OutOfFuel;
    a_loop_while_starting_runs_out_of_fuel: "fuel_loop_start" [] => OutOfFuel;
    a_loop_while_arguments_are_lowered_runs_out_of_fuel: "loop_realloc" ["text"] => OutOfFuel;
    endless_recursion_overflows_its_stack: "recursion" [] => Trapped "stack_overflow";
    a_memory_bomb_runs_out_of_memory: "mem_bomb" [] => OutOfMemory;
    a_table_bomb_runs_out_of_memory: "table_bomb" [] => OutOfMemory;
    a_huge_result_is_not_transferred: "huge_list_u8" [10_000_000] => Trapped "transfer_limit";
    bad_utf8_is_a_trap: "bad_utf8" [] => Trapped;
    a_bad_discriminant_is_a_trap: "bad_discriminant" [] => Trapped;
    a_result_out_of_bounds_is_a_trap: "oob_result_ptr" [] => Trapped;
}

#[test]
fn several_memories_in_one_module_are_refused() {
    let component = wasm(include_str!("../hostile/wat/many_memories.wat"));
    let error = SANDBOX.inspect(&component).unwrap_err().to_string();
    assert!(error.contains("multiple memories"), "{error}");
}

#[tokio::test]
async fn memories_are_summed() {
    // Four instances of 5 MiB each, every one under the limit of 16 MiB.
    let one = "(core module $m (memory 80) (func (export \"run\")))";
    let instances: String = (0..4).map(|n| format!("(core instance $i{n} (instantiate $m))")).collect();
    let text = format!("(component {one} {instances} (func (export \"run\") (canon lift (core func $i0 \"run\"))))");
    hostile(&text, vec![], OutcomeKind::OutOfMemory, None).await;
}

#[test]
fn an_import_that_nobody_provides_is_named() {
    let error = SANDBOX.inspect(&wasm(include_str!("../hostile/wat/unsatisfied_import.wat"))).unwrap_err();
    assert!(matches!(error, Error::PluginRefused { .. }));
    assert!(error.to_string().contains("`evil:pkg/iface@1.0.0`"), "{error}");
}

#[test]
fn a_capability_that_is_not_given_is_named_in_words() {
    let text = r#"(component
        (import "wasi:keyvalue/store@0.2.0" (instance))
        (import "wasi:sockets/network@0.2.0" (instance))
        (import "wasi:clocks/wall-clock@0.2.0" (instance)))"#;
    let error = SANDBOX.inspect(&wasm(text)).unwrap_err().to_string();
    for word in [
        "a key-value store (there is `sandclock:plugin/state`) (`wasi:keyvalue/store@0.2.0`)",
        "network sockets (`wasi:sockets/network@0.2.0`)",
    ] {
        assert!(error.contains(word), "{error}");
    }
    assert!(!error.contains("wall-clock"), "what is given is not complained of: {error}");
}

#[test]
fn what_is_no_component_is_refused_with_what_to_do() {
    let component = wasm(include_str!("../hostile/wat/loop_run.wat"));
    let cut = &component[..component.len() / 2];
    let native = [b"\x7fELF".as_slice(), &[0; 64]].concat();
    let cases: [(&[u8], &str); 9] = [
        (b"", "wasm32-wasip2"),
        (&wasm("(module)"), "wasm-tools component new"),
        (b"(component)", "wasm-tools parse"),
        (b"  ;; text\n(module)", "wasm-tools parse"),
        (b"PK\x03\x04zip", "unpack it"),
        (&native, "native code"),
        (b"nothing of the kind", "no WebAssembly"),
        (b"\0asm\x09\0\0\0", "unknown version"),
        (cut, "refused"),
    ];
    for (bytes, hint) in cases {
        let error = SANDBOX.inspect(bytes).unwrap_err();
        assert!(matches!(error, Error::PluginRefused { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(hint) && !text.contains('\n'), "{text}");
    }
    let large = vec![0; sandclock::sandbox::COMPONENT_BYTES_MAX + 1];
    assert!(SANDBOX.inspect(&large).unwrap_err().to_string().contains("the most is"));
}

#[test]
fn signatures_that_json_cannot_carry_are_refused() {
    let text = r#"(component
        (type $r (resource (rep i32)))
        (export $e "r" (type $r))
        (core module $m (func (export "run") (result i32) i32.const 0))
        (core instance $i (instantiate $m))
        (func (export "run") (result (own $e)) (canon lift (core func $i "run"))))"#;
    let error = SANDBOX.inspect(&wasm(text)).unwrap_err().to_string();
    assert!(error.contains("`run` has a resource") && error.contains("supported are"), "{error}");
}

#[test]
fn a_component_without_functions_is_refused() {
    assert!(SANDBOX.inspect(&wasm("(component)")).unwrap_err().to_string().contains("exports no function"));
}

#[tokio::test]
async fn a_loop_stops_when_it_is_cancelled() {
    let component = wasm(include_str!("../hostile/wat/loop_run.wat"));
    let mut job = job("run", vec![]);
    job.limits.fuel = Limits::FUEL_MAX;
    let plugin = SANDBOX.load(&digest(&component), &component).unwrap();
    let call = plugin.bind(&job).unwrap();
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let stopped = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        stop.cancel();
        Instant::now()
    });
    let ended = SANDBOX.call(call, &setting(&job), &cancel).await;
    let took = stopped.join().unwrap().elapsed();
    assert_eq!(ended.outcome, Outcome::Cancelled);
    assert!(took < Duration::from_millis(200), "it went on for {took:?}");
    assert!(ended.usage.fuel_used.unwrap() > 0);
}

#[tokio::test]
async fn a_loop_is_timed_out() {
    let component = wasm(include_str!("../hostile/wat/loop_run.wat"));
    let mut job = job("run", vec![]);
    (job.limits.fuel, job.limits.timeout) = (Limits::FUEL_MAX, Duration::from_millis(100));
    let begun = Instant::now();
    let ended = call(&component, &job).await;
    assert_eq!(ended.outcome.kind(), OutcomeKind::TimedOut);
    assert!(begun.elapsed() < Duration::from_millis(300), "{:?}", begun.elapsed());
}

/// A component that gives back what it is given, for one WIT type of one flat value or a pointer.
fn echo(ty: &str, flat: &str) -> Vec<u8> {
    wasm(&format!(
        r#"(component
            (core module $m
                (memory (export "mem") 2)
                (global $next (mut i32) (i32.const 1024))
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
                    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                    (global.set $next (i32.add (local.get $at) (local.get 3)))
                    (local.get $at))
                {flat})
            (core instance $i (instantiate $m))
            (func (export "echo") (param "v" {ty}) (result {ty})
                (canon lift (core func $i "echo") (memory (core memory $i "mem")) (realloc (core func $i "realloc")))))"#
    ))
}

const ONE_I32: &str = r#"(func (export "echo") (param i32) (result i32) local.get 0)"#;
const ONE_I64: &str = r#"(func (export "echo") (param i64) (result i64) local.get 0)"#;
/// Two words, stored for the result: strings and lists.
const POINTER: &str = r#"(func (export "echo") (param i32 i32) (result i32)
    (i32.store (i32.const 16) (local.get 0)) (i32.store (i32.const 20) (local.get 1)) (i32.const 16))"#;

fn round_trip(component: &[u8], value: &Value) -> Result<Value, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let plugin = SANDBOX.load(&digest(component), component).unwrap();
    let job = job("echo", vec![value.clone()]);
    let call = plugin.bind(&job).map_err(|e| e.to_string())?;
    let cancel = CancellationToken::new();
    match runtime.block_on(SANDBOX.call(call, &setting(&job), &cancel)).outcome {
        Outcome::Succeeded { value } => Ok(value),
        other => Err(format!("{other:?}")),
    }
}

static ECHO_U64: LazyLock<Vec<u8>> = LazyLock::new(|| echo("u64", ONE_I64));
static ECHO_S8: LazyLock<Vec<u8>> = LazyLock::new(|| echo("s8", ONE_I32));
static ECHO_CHAR: LazyLock<Vec<u8>> = LazyLock::new(|| echo("char", ONE_I32));
static ECHO_TEXT: LazyLock<Vec<u8>> = LazyLock::new(|| echo("string", POINTER));
static ECHO_BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| echo("(list u8)", POINTER));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn numbers_texts_and_bytes_come_back(number: u64, small: i8, c: char, text in "\\PC{0,40}", bytes: Vec<u8>) {
        prop_assert_eq!(round_trip(&ECHO_U64, &json!(number)), Ok(json!(number)));
        prop_assert_eq!(round_trip(&ECHO_U64, &json!(number.to_string())), Ok(json!(number)));
        prop_assert_eq!(round_trip(&ECHO_S8, &json!(small)), Ok(json!(small)));
        prop_assert_eq!(round_trip(&ECHO_CHAR, &json!(c)), Ok(json!(c)));
        prop_assert_eq!(round_trip(&ECHO_TEXT, &json!(text)), Ok(json!(text)));
        prop_assert_eq!(round_trip(&ECHO_BYTES, &json!(bytes)), Ok(json!(bytes)));
    }

    #[test]
    fn any_json_is_taken_or_refused_and_never_panics(text in "[\\[\\]{}\",:0-9a-z.-]{0,30}") {
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            for component in [&*ECHO_U64, &*ECHO_S8, &*ECHO_CHAR, &*ECHO_TEXT, &*ECHO_BYTES] {
                if let Ok(back) = round_trip(component, &value) {
                    prop_assert!(!back.is_null());
                }
            }
        }
    }
}

#[test]
fn a_wrong_argument_names_path_type_and_signature() {
    let cases = [
        (&*ECHO_S8, json!(200), "an integer in range"),
        (&*ECHO_S8, json!(1.5), "an integer in range"),
        (&*ECHO_S8, json!("1"), "an integer in range"),
        (&*ECHO_U64, json!(-1), "an integer in range"),
        (&*ECHO_U64, json!("18446744073709551616"), "an integer in range"),
        (&*ECHO_U64, json!("+1"), "an integer in range"),
        (&*ECHO_CHAR, json!("ab"), "a string of one character"),
        (&*ECHO_TEXT, json!(null), "a string"),
        (&*ECHO_BYTES, json!([1, 256]), "v (args[0])[1]"),
        (&*ECHO_BYTES, json!("no base64!"), "base64"),
    ];
    for (component, value, wanted) in cases {
        let error = round_trip(component, &value).unwrap_err();
        assert!(error.contains(wanted) && error.contains("its signature is `echo: func(v: "), "{error}");
    }
}

#[test]
fn too_many_too_few_and_unknown_arguments_are_refused() {
    let plugin = SANDBOX.load(&digest(&ECHO_U64), &ECHO_U64).unwrap();
    let refuse = |args: Vec<Value>, kwargs: Value, export: &str| {
        let mut job = job(export, args);
        job.kwargs = kwargs.as_object().unwrap().clone();
        plugin.bind(&job).err().unwrap().to_string()
    };
    assert!(refuse(vec![], json!({}), "echo").contains("`v` is missing"));
    assert!(refuse(vec![json!(1), json!(2)], json!({}), "echo").contains("2 are given, the function takes 1"));
    assert!(refuse(vec![], json!({"w": 1}), "echo").contains("`w`: there is no such parameter"));
    assert!(refuse(vec![json!(1)], json!({"v": 1}), "echo").contains("by position and by name"));
    assert!(refuse(vec![], json!({}), "ecko").contains("no export `ecko`"));
    assert!(refuse(vec![], json!({}), "ecko").contains("`echo`"));
}

#[tokio::test]
async fn a_neighbour_is_on_time_while_guests_spin() {
    let sandbox = Arc::new(Sandbox::new(8, None).unwrap());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let plugins = Arc::new(sandclock::store::MemoryPluginStore::default());
    let registry = sandclock::sandbox::Registry::new(sandbox.clone(), plugins.clone(), clock.clone());
    let spin = wasm(include_str!("../hostile/wat/loop_run.wat"));
    registry.add("spin".parse().unwrap(), AddPlugin::default(), spin).await.unwrap();
    registry.add("echo".parse().unwrap(), AddPlugin::default(), ECHO_U64.clone()).await.unwrap();
    let options = AsyncOptions { slots: 8, threads: 2 };
    let executor = Arc::new(
        AsyncExecutor::new(
            PluginHost::new(sandbox, plugins, Arc::new(sandclock::store::MemorySecretStore::default()), clock.clone()),
            &options,
        )
        .unwrap(),
    );
    let scheduler = Scheduler::new(clock);
    scheduler.add_executor(Alias::default(), executor).await.unwrap();
    scheduler.add_jobstore(Alias::default(), Arc::new(MemoryStore::new(Alias::default(), "n"))).await.unwrap();
    scheduler.start().await.unwrap();
    for n in 0..4 {
        let func = "spin:run".parse().unwrap();
        let mut job = Job::new(format!("spin-{n}").parse().unwrap(), func, Trigger::now());
        (job.limits.fuel, job.limits.timeout) = (Limits::FUEL_MAX, Duration::from_secs(30));
        scheduler.add_job(job, AddOptions::default()).await.unwrap();
    }
    for n in 0..10 {
        let id: JobId = format!("echo-{n}").parse().unwrap();
        let mut job = Job::new(id.clone(), "echo:echo".parse().unwrap(), Trigger::now());
        job.args = vec![json!(n)];
        scheduler.add_job(job, AddOptions::default().paused()).await.unwrap();
        let run = scheduler.wait_run(scheduler.run_job(&id).await.unwrap()).await.unwrap();
        assert_eq!(run.outcome, Some(Outcome::Succeeded { value: json!(n) }));
        let late = run.started.unwrap() - run.scheduled_time;
        assert!(late < chrono::TimeDelta::milliseconds(200), "it started {late} late");
        let took = run.ended.unwrap() - run.started.unwrap();
        assert!(took < chrono::TimeDelta::milliseconds(500), "it took {took} beside the spinners");
    }
    scheduler.shutdown(Drain::Cancel).await.unwrap();
}
