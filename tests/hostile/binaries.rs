//! Files that are no plugins: broken ones, those that ask for what there is not, and those that break
//! the compiler.

use crate::wall::{Bench, Case, Wall, group, job, made, plain_group, text_of, wasm, wat};
use crate::{bombs, heap, measure};
use sandclock::OutcomeKind::*;
use sandclock::executor::Report;
use sandclock::sandbox::AddPlugin;
use sandclock::sandbox::connect::Direct;
use sandclock::{Capability, Error, Grants, Outcome};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a component that was refused as a bomb may leave of this process's memory, and one that was
/// compiled: room for its code.
const LEFT: usize = 8 << 20;
const LEFT_OF_CODE: usize = 64 << 20;

#[test]
fn what_is_no_plugin_is_refused_for_this_process() {
    plain_group("binaries", Wall::Async, cases);
}

#[test]
fn what_is_no_plugin_is_refused_for_a_worker() {
    plain_group("binaries", Wall::Process, cases);
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        made("B2", "module", wasm("(module)")).refused("core module"),
        made("B3", "text", text_of("loop_run").into_bytes()).refused("WAT text"),
        made("B4", "elf", [b"\x7fELF".as_slice(), &[0; 64]].concat()).refused("native code"),
        wat("B10", "unsatisfied_import").refused("evil:pkg/iface@1.0.0"),
        made("B10", "many_imports", wasm(&bombs::many_imports(900))).refused("evil:pkg"),
        wat("B11", "import_sockets").refused("network sockets"),
        wat("B11", "import_state").refused("a key-value store"),
        wat("B11", "import_http").ends(Invalid).refused(""),
        wat("M22", "import_state").refused("a key-value store"),
        made("B16", "junk_40", bombs::custom_section(40 << 20)).refused("the most is"),
        made("B16", "junk_1", bombs::custom_section(1 << 20)).ends(Succeeded),
        made("B17", "names", bombs::hostile_names()).traps("unreachable_code_reached").looks(is_plain),
        made("B10", "exports", wasm(&bombs::many_exports(5000))).refused("more than 1000 functions"),
        made("B8", "deep_1000", bombs::deep_components(1000)).refused(""),
    ];
    let odd = [
        "import_future",
        "import_old",
        "import_unversioned",
        "import_wrong_type",
        "import_unknown_function",
        "import_wrong_kind",
        "import_core_module",
        "import_component",
        "import_plain_function",
    ];
    // A type of that name which nothing is done with: it gains nothing.
    cases.push(wat("B12", "import_own_resource").ends(Succeeded).refused(""));
    cases.extend(odd.map(|name| wat("B12", name).refused("")));
    cases.extend(called());
    cases
}

/// N3, N4: a function by its full name, by a short one that only one interface has, and in capitals.
fn called() -> Vec<Case> {
    let call = |id, export| wat(id, "interfaces").export(export);
    vec![
        call("N3", "ns:pkg/one@1.0.0#run").ends(Succeeded),
        call("N3", "only").ends(Succeeded),
        call("N3", "run").ends(Invalid),
        call("N4", "RUN-it").ends(Succeeded),
        call("N4", "a1-b2-C3").ends(Succeeded),
    ]
}

/// Short, and nothing that moves a cursor.
fn is_plain(report: &Report) {
    let Outcome::Trapped { error, backtrace, .. } = &report.outcome else { panic!("{:?}", report.outcome) };
    let all = format!("{error}{}", backtrace.concat());
    assert!(all.len() <= 4 << 10, "{} bytes", all.len());
    assert!(!all.chars().any(char::is_control), "{all:?}");
}

#[test]
fn noise_ends_without_a_panic() {
    group("noise", Wall::Process, Arc::new(Direct::default()), async |bench: &mut Bench| {
        let whole = wasm(&text_of("huge_string"));
        let (cuts, flips) = if crate::slow() { (300, 1000) } else { (40, 120) };
        let mut all: Vec<Vec<u8>> = bombs::truncated(&whole, cuts).map(<[u8]>::to_vec).collect();
        all.extend(bombs::bit_flipped(&whole, flips));
        all.extend((0..20).map(|seed| bombs::noise(200, seed)));
        let mut taken = 0;
        for bytes in all {
            bench.count();
            match bench.add("noise", Grants::default(), bytes).await {
                // Whatever it is now, it ends.
                Ok(()) => {
                    taken += 1;
                    let report = bench.run(job("noise:run", json!([5])), None).await;
                    assert_ne!(report.outcome.kind(), Internal, "B1: {:?}", report.outcome);
                }
                Err(Error::PluginRefused { .. }) => {}
                Err(error) => bench.fail(format!("B1: {error}")),
            }
        }
        println!("B1: {taken} of them are components");
        bench.neighbour_was_on_time("B1");
    });
}

/// Registers a bomb twice: it is refused, the second time at once, or compiled within the limits.
async fn drop_bomb(bench: &mut Bench, name: &str, bytes: &[u8]) {
    bench.count();
    let (before, begun) = (heap::held(), Instant::now());
    let first = bench.add("bomb", Grants::default(), bytes.to_vec()).await;
    let took = begun.elapsed();
    println!(
        "B8 {name}: {:.1} s, {}",
        took.as_secs_f64(),
        first.as_ref().map_or_else(ToString::to_string, |()| "compiled".into())
    );
    if took > Duration::from_secs(62) {
        bench.fail(format!("{name}: it took {took:?}"));
    }
    match &first {
        Err(Error::PluginRefused { reason }) if reason.contains("breaks the compiler") => {
            let begun = Instant::now();
            let again = bench.add("bomb", Grants::default(), bytes.to_vec()).await;
            if !again.is_err_and(|error| error.to_string().contains("found before"))
                || begun.elapsed().as_millis() > 500
            {
                bench.fail(format!("{name}: the second time took {:?}", begun.elapsed()));
            }
        }
        Err(Error::PluginRefused { .. }) | Ok(()) => {}
        Err(error) => bench.fail(format!("{name}: {error}")),
    }
    let most = before + if first.is_ok() { LEFT_OF_CODE } else { LEFT };
    if !measure::settled_to(heap::held, most).await {
        bench.fail(format!("{name}: {} KiB of memory are held", (heap::held() - before) >> 10));
    }
    bench.neighbour_was_on_time(name);
}

#[test]
fn a_component_that_breaks_the_compiler_is_refused_and_remembered() {
    group("bombs", Wall::Process, Arc::new(Direct::default()), async |bench: &mut Bench| {
        // By memory, by the stack of whoever walks it, and some that are only slow.
        drop_bomb(bench, "exp_instances (26)", &wasm(&bombs::exp_instances(26))).await;
        drop_bomb(bench, "deep_components (30000)", &bombs::deep_components(30_000)).await;
        drop_bomb(bench, "br_table", &bombs::br_table(7_000_000)).await;
        drop_bomb(bench, "exp_resources (19)", &wasm(&bombs::exp_resources(19))).await;
        if crate::slow() {
            drop_bomb(bench, "exp_resources (22)", &wasm(&bombs::exp_resources(22))).await;
            drop_bomb(bench, "M10 locals (20000)", &bombs::locals_recursion(20_000)).await;
            drop_bomb(bench, "M10 locals (50000)", &bombs::locals_recursion(50_000)).await;
            for (name, bytes) in bombs::compile_bombs() {
                drop_bomb(bench, name, &bytes).await;
            }
        }
    });
}

/// B9: two registrations of one component at once are one compilation; B15: a version that asks for more
/// is not given it unasked.
#[test]
fn a_name_does_not_change_what_it_may_do() {
    group("registrations", Wall::Process, Arc::new(Direct::default()), async |bench: &mut Bench| {
        let bytes = wasm(&bombs::exp_instances(26));
        let begun = Instant::now();
        let alone = bench.add("alone", Grants::default(), wasm(&text_of("counter"))).await;
        assert!(alone.is_ok());
        let (one, two) = tokio::join!(
            bench.add("one", Grants::default(), bytes.clone()),
            bench.add("two", Grants::default(), bytes.clone())
        );
        for error in [one.unwrap_err(), two.unwrap_err()] {
            assert!(error.to_string().contains("breaks the compiler"), "B9: {error}");
        }
        println!("B9: both were refused within {:.1} s", begun.elapsed().as_secs_f64());
        let granted = Grants { http: vec!["ok.test:80".parse().unwrap()], ..Grants::default() };
        bench.add("swapped", granted, wasm(&text_of("counter"))).await.unwrap();
        let name = "swapped".parse().unwrap();
        let add = AddPlugin::default();
        let added = bench.registry.add(name, add, wasm(&text_of("import_http"))).await;
        if let Ok(version) = added {
            assert_eq!(version.missing(), [Capability::Http], "B15: {:?}", version.grants);
        }
        let report = bench.run(job("swapped:run", json!([])), None).await;
        assert_eq!(report.outcome, Outcome::Succeeded { value: json!(1) }, "the approved version is the current one");
        bench.count();
    });
}
