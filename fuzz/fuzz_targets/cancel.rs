//! Calls that are cancelled, or dropped, between any two of their polls, two at a time: a cancelled one
//! ends at its next poll, and the places of both are free again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sandclock::sandbox::{Ended, Plugin};
use sandclock::{Job, Outcome};
use sandclock_fuzz::guest::{self, RUNTIME, SANDBOX};
use serde_json::{Value, json};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const GUESTS: [(&str, Option<&str>); 8] = [
    (include_str!("../../tests/hostile/wat/loop_run.wat"), None),
    (include_str!("../../tests/hostile/wat/fuel_loop_start.wat"), None),
    (include_str!("../../tests/hostile/wat/loop_realloc.wat"), Some("text")),
    (include_str!("../../tests/hostile/wat/mem_bomb.wat"), None),
    (include_str!("../guests/post_return.wat"), None),
    (include_str!("../guests/log.wat"), None),
    (include_str!("../guests/poll.wat"), None),
    (include_str!("../guests/sleep.wat"), None),
];
const HEALTHY: &str = r#"(component
    (core module $m (func (export "run") (result i32) i32.const 7))
    (core instance $i (instantiate $m))
    (func (export "run") (result u32) (canon lift (core func $i "run"))))"#;

struct Guest {
    plugin: Arc<Plugin>,
    job: Job,
}

impl Guest {
    fn new((text, arg): (&str, Option<&str>)) -> Self {
        let plugin = guest::load(&wat::parse_str(text).unwrap()).unwrap();
        let mut job = guest::job("run", arg.map(Value::from).into_iter().collect()).unwrap();
        (job.limits.fuel, job.limits.timeout) = (10_000_000, Duration::from_millis(100));
        Guest { plugin, job }
    }
}

static GUESTS_LOADED: LazyLock<[Guest; 8]> = LazyLock::new(|| GUESTS.map(Guest::new));
static HEALTHY_LOADED: LazyLock<Guest> = LazyLock::new(|| Guest::new((HEALTHY, None)));

#[derive(Clone, Copy)]
enum End {
    Dropped,
    Cancelled,
    Left,
}

struct Going {
    guest: &'static Guest,
    call: Option<Pin<Box<dyn Future<Output = Ended>>>>,
    cancel: CancellationToken,
    polls: u16,
    end: End,
}

impl Going {
    fn new(guest: &'static Guest, polls: u16, end: End) -> Self {
        let cancel = CancellationToken::new();
        let (call, setting, stop) =
            (guest.plugin.bind(&guest.job).unwrap(), guest::setting(&guest.job), cancel.clone());
        let call = async move { SANDBOX.call(call, &setting, &stop).await };
        Going { guest, call: Some(Box::pin(call)), cancel, polls, end }
    }

    /// Polls once. The outcome if it has ended, once.
    fn poll(&mut self, cx: &mut Context<'_>) -> Option<Outcome> {
        let call = self.call.as_mut()?;
        let last = self.polls == 0;
        match self.end {
            End::Dropped if last => {
                self.call = None;
                return None;
            }
            End::Cancelled if last => self.cancel.cancel(),
            _ => {}
        }
        self.polls = self.polls.saturating_sub(1);
        match call.as_mut().poll(cx) {
            Poll::Ready(ended) => {
                self.call = None;
                guest::check(&ended, &self.guest.job);
                assert_eq!(self.cancel.is_cancelled(), ended.outcome == Outcome::Cancelled);
                Some(ended.outcome)
            }
            Poll::Pending => {
                assert!(!self.cancel.is_cancelled(), "it was cancelled and goes on");
                None
            }
        }
    }
}

/// All at once, polled over and over, woken or not.
fn run(mut going: Vec<Going>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    RUNTIME.block_on(poll_fn(|cx| {
        cx.waker().wake_by_ref();
        outcomes.extend(going.iter_mut().filter_map(|going| going.poll(cx)));
        if going.iter().all(|going| going.call.is_none()) { Poll::Ready(()) } else { Poll::Pending }
    }));
    outcomes
}

fuzz_target!(|steps: Vec<(u8, u16, u8)>| {
    let going = |(guest, polls, end): &(u8, u16, u8)| {
        let end = [End::Dropped, End::Cancelled, End::Dropped, End::Cancelled, End::Left][usize::from(end % 5)];
        // Most are over after some hundreds of polls.
        Going::new(&GUESTS_LOADED[usize::from(guest % 8)], polls % 1024, end)
    };
    for pair in steps.chunks(2).take(8) {
        run(pair.iter().map(going).collect());
    }
    let healthy = run((0..2).map(|_| Going::new(&HEALTHY_LOADED, 0, End::Left)).collect());
    assert_eq!(healthy, [(); 2].map(|()| Outcome::Succeeded { value: json!(7) }));
});
