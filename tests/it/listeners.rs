//! Stored listeners: a real HTTP server that refuses, takes, and checks signatures; a plugin's export.

use crate::scheduler::{Bench, alias, bench, job, time};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sandclock::outbound::Outbound;
use sandclock::sandbox::{AddPlugin, Registry, Sandbox};
use sandclock::scheduler::Listeners;
use sandclock::store::{ListenerStore, MemoryListenerStore, MemoryPluginStore, SledOptions};
use sandclock::*;
use serde_json::Value;
use sha2::Sha256;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

const SECRET: &str = "a secret of some length";

/// A receiver of webhooks on a free port: answers as told, then with 204.
#[derive(Clone, Default)]
struct Receiver {
    answers: Arc<Mutex<VecDeque<u16>>>,
    got: Arc<Mutex<Vec<(HeaderMap, Value)>>>,
}

impl Receiver {
    async fn listen(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/hook", post(take)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        format!("http://{address}/hook")
    }

    fn events(&self) -> Vec<Value> {
        self.got.lock().unwrap().iter().map(|(_, event)| event.clone()).collect()
    }
}

async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let text = |name: &str| headers[name].to_str().unwrap().to_owned();
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("{}.{}.", text("webhook-id"), text("webhook-timestamp")).as_bytes());
    mac.update(&body);
    let signed = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    assert_eq!(text("webhook-signature"), signed);
    assert_eq!(text("content-type"), "application/cloudevents+json; charset=utf-8");
    let answer = receiver.answers.lock().unwrap().pop_front().unwrap_or(204);
    receiver.got.lock().unwrap().push((headers, serde_json::from_slice(&body).unwrap()));
    StatusCode::from_u16(answer).unwrap()
}

fn webhook(url: &str, mask: EventMask) -> Listener {
    let target = Target::Webhook { url: url.into(), secret: Some(SECRET.into()) };
    let mut listener = Listener::new("hook".parse().unwrap(), target);
    listener.mask = mask;
    listener
}

/// Listeners over a scheduler, with a sandbox for those that are plugins.
async fn listeners(bench: &Bench, store: Arc<dyn ListenerStore>) -> (Listeners, Registry) {
    let clock: Arc<dyn Clock> = Arc::new(bench.clock.clone());
    let sandbox = Arc::new(Sandbox::new(2, None).unwrap());
    let plugins = Arc::new(MemoryPluginStore::default());
    let secrets = Arc::new(sandclock::store::MemorySecretStore::default());
    let host = PluginHost::new(sandbox.clone(), plugins.clone(), secrets, clock.clone());
    let executor = Arc::new(AsyncExecutor::new(host, &AsyncOptions { slots: 2, threads: 1 }).unwrap());
    let outbound = Outbound::new(executor, clock.clone(), "node".into()).unwrap();
    let listeners = Listeners::new(bench.scheduler.clone(), store, Arc::new(outbound), None);
    listeners.start().await.unwrap();
    (listeners, Registry::new(sandbox, plugins, clock))
}

async fn until(what: &str, done: impl AsyncFn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !done().await {
        assert!(std::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

async fn progress(listeners: &Listeners) -> Progress {
    listeners.list().await.unwrap().remove(0).1
}

async fn run_one(bench: &mut Bench, name: &str, func: &str) {
    bench.add(job(name, func, Trigger::now())).await;
    bench.hear(EventKind::JobRemoved).await;
}

#[tokio::test]
async fn a_webhook_is_told_in_order_and_told_again_until_it_takes_it() {
    let mut bench = bench(2).await;
    let receiver = Receiver::default();
    receiver.answers.lock().unwrap().extend([500, 302]);
    let url = receiver.listen().await;
    let (listeners, _) = listeners(&bench, Arc::new(MemoryListenerStore::default())).await;
    bench.scheduler.start().await.unwrap();
    run_one(&mut bench, "before", "native:fail").await;
    let mask = EventKind::JobError | EventKind::JobExecuted;
    listeners.put(webhook(&url, mask)).await.unwrap();
    run_one(&mut bench, "a", "native:fail").await;
    run_one(&mut bench, "b", "native:ok").await;
    for tries in 1..=2 {
        until("it is tried again", async || progress(&listeners).await.attempt == tries).await;
        let error = progress(&listeners).await.last_error.unwrap();
        assert!(error.contains(["500", "302"][tries as usize - 1]), "{error}");
        bench.advance(tries as i64);
    }
    until("both are told", async || progress(&listeners).await.delivered == 2).await;
    let events = receiver.events();
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["sandclock.JOB_ERROR", "sandclock.JOB_ERROR", "sandclock.JOB_ERROR", "sandclock.JOB_EXECUTED"]);
    assert_eq!((&events[0]["id"], &events[0]["specversion"]), (&events[2]["id"], &"1.0".into()));
    assert_eq!((&events[3]["subject"], &events[3]["data"]["job_id"]), (&"b".into(), &"b".into()));
    assert_eq!(events[3]["data"]["run"]["outcome"]["kind"], "succeeded");
}

#[tokio::test]
async fn an_event_that_is_never_taken_is_a_dead_letter_and_can_be_told_again() {
    let mut bench = bench(2).await;
    let receiver = Receiver::default();
    receiver.answers.lock().unwrap().extend([500, 500]);
    let url = receiver.listen().await;
    let (listeners, _) = listeners(&bench, Arc::new(MemoryListenerStore::default())).await;
    bench.scheduler.start().await.unwrap();
    let mut listener = webhook(&url, EventKind::JobError.into());
    listener.retry.max_attempts = 2;
    listeners.put(listener).await.unwrap();
    run_one(&mut bench, "a", "native:fail").await;
    until("the first try fails", async || progress(&listeners).await.attempt == 1).await;
    bench.advance(1);
    until("it is given up", async || progress(&listeners).await.dead.len() == 1).await;
    let letter = progress(&listeners).await.dead[0].clone();
    assert_eq!((letter.attempts, letter.job_id.unwrap().as_str()), (2, "a"));
    assert!(letter.error.contains("500"), "{}", letter.error);
    let name = "hook".parse().unwrap();
    listeners.replay(&name, letter.seq - 1).await.unwrap();
    until("it is told again", async || progress(&listeners).await.delivered == 1).await;
    listeners.remove(&name).await.unwrap();
    assert!(matches!(listeners.get(&name).await, Err(Error::ListenerNotFound(_))));
}

#[tokio::test]
async fn a_listener_goes_on_where_it_was_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let store = || Arc::new(SledStore::open(home.path(), SledOptions::default(), time(0)).unwrap());
    let receiver = Receiver::default();
    let url = receiver.listen().await;
    for round in 1..=2 {
        let mut bench = bench(2).await;
        bench.scheduler.remove_jobstore(&alias()).await.unwrap();
        let store = store();
        bench.scheduler.add_jobstore(alias(), store.clone()).await.unwrap();
        let (listeners, _) = listeners(&bench, store).await;
        bench.scheduler.start().await.unwrap();
        if round == 1 {
            listeners.put(webhook(&url, EventKind::JobExecuted.into())).await.unwrap();
        }
        run_one(&mut bench, &format!("round{round}"), "native:ok").await;
        until("it is told", async || progress(&listeners).await.delivered == round).await;
        listeners.stop().await;
        // Nobody listens now; it is told in the next round.
        run_one(&mut bench, &format!("unheard{round}"), "native:panic").await;
        bench.scheduler.shutdown(Drain::Cancel).await.unwrap();
    }
    let told: Vec<_> = receiver.events().iter().map(|event| event["subject"].as_str().unwrap().to_owned()).collect();
    assert_eq!(told, ["round1", "round2"], "each once");
}

/// Takes every event but those longer than 300 bytes, which trap: what an event says of a run is longer.
const PICKY: &str = r#"(component
    (core module $m
        (memory (export "memory") 4)
        (global $top (mut i32) (i32.const 1024))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (global.get $top) (global.set $top (i32.add (global.get $top) (local.get 3))))
        (func (export "on-event") (param i32 i32) (result i32)
            (if (i32.gt_u (local.get 1) (i32.const 300)) (then unreachable))
            (i32.const 16)))
    (core instance $i (instantiate $m))
    (func (export "on-event") (param "event" string) (result (result (error string)))
        (canon lift (core func $i "on-event") (memory (core memory $i "memory")) (realloc (core func $i "realloc")))))"#;

#[tokio::test]
async fn an_export_of_a_plugin_listens() {
    let mut bench = bench(2).await;
    let (listeners, registry) = listeners(&bench, Arc::new(MemoryListenerStore::default())).await;
    bench.scheduler.start().await.unwrap();
    let target = |func: &str| Target::Plugin { func: func.parse().unwrap(), limits: Limits::default() };
    let mut listener = Listener::new("p".parse().unwrap(), target("picky:on-event"));
    assert!(matches!(listeners.put(listener.clone()).await, Err(Error::PluginNotFound(_))));
    registry.add("picky".parse().unwrap(), AddPlugin::default(), wat::parse_str(PICKY).unwrap()).await.unwrap();
    let missing = Listener { target: target("picky:nothing"), ..listener.clone() };
    assert!(matches!(listeners.put(missing).await, Err(Error::ExportNotFound { .. })));
    listener.mask = EventKind::JobAdded | EventKind::JobExecuted;
    listener.retry.max_attempts = 1;
    listeners.put(listener).await.unwrap();
    run_one(&mut bench, "a", "native:ok").await;
    until("both are settled", async || {
        let progress = progress(&listeners).await;
        progress.delivered + progress.dead_count == 2
    })
    .await;
    let progress = progress(&listeners).await;
    assert_eq!((progress.delivered, progress.dead[0].kind), (1, EventKind::JobExecuted));
    assert!(progress.dead[0].error.starts_with("trapped: "), "{}", progress.dead[0].error);
}
