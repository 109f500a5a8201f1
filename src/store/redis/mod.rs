//! Redis: a shared store without a transaction of its own kind. A turn reads, and its writes are done all
//! at once if nobody else has written meanwhile; one node claims, and the others stand by.
//!
//! What Redis holds is as durable as its append-only file makes it. Without one, all is gone when it
//! ends.

mod keys;
mod lease;
mod record;
mod session;
mod turn;

use super::shared::{
    CommitError, Committed, Database, Details, EventBlock, Found, JobRow, Kept, Kind, LeftBehind, Load, NodeRow,
    NodeState, Pruned, Renewal, Renewed, RunQuery, RunRow, Settled, SharedOptions, SharedStore, Wanted, Written,
    failed, text,
};
use crate::error::{Error, Result};
use crate::invalid::Invalid;
use crate::job::JobId;
use crate::run::RunId;
use crate::store::Counts;
use async_trait::async_trait;
use futures::StreamExt;
use lease::leases;
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, pipe};
use session::{Idle, Session};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// The form in which everything is kept.
const FORMAT: u32 = 1;
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// A job store on Redis 7.
pub type RedisStore = SharedStore<Redis>;

/// A database of a Redis server.
pub struct Redis {
    client: Client,
    idle: Idle,
    channel: String,
    hinted: Arc<Notify>,
    _listening: AbortOnDropHandle<()>,
}

impl SharedStore<Redis> {
    /// Opens the store at a `redis://` or `rediss://` URL, whose path is the number of the database.
    pub async fn connect(url: &str, options: SharedOptions) -> Result<Self> {
        SharedStore::open(Redis::connect(url).await?, options).await
    }
}

/// What waiting does not mend: a password that is not the right one, an account that may not.
fn refusal(error: Error) -> Error {
    let Error::StoreFailed { source: Some(source), .. } = &error else { return error };
    let said = source.downcast_ref::<RedisError>();
    let refused = said.is_some_and(|said| {
        said.kind() == ErrorKind::AuthenticationFailed || matches!(said.code(), Some("NOAUTH" | "NOPERM" | "WRONGPASS"))
    });
    if refused { Invalid::new("store", "redis://…", error.chain()).into() } else { error }
}

impl Redis {
    pub async fn connect(url: &str) -> Result<Self> {
        // The text may hold a password, so it is not repeated.
        let refused = |e: RedisError| {
            Invalid::new("store", "redis://…", e.to_string()).hint("a URL such as `redis://user:password@host/0`")
        };
        let client = Client::open(url).map_err(refused)?;
        // Channels are the same for all databases of a server.
        let channel = format!("{{sandclock}}:hint:{}", client.get_connection_info().redis_settings().db());
        let hinted = Arc::new(Notify::new());
        let listening = tokio::spawn(listen(client.clone(), channel.clone(), hinted.clone()));
        let redis =
            Redis { client, idle: Idle::default(), channel, hinted, _listening: AbortOnDropHandle::new(listening) };
        redis.check_format().await.map_err(refusal)?;
        redis.warn_of_losses().await?;
        Ok(redis)
    }

    async fn check_format(&self) -> Result<()> {
        let mut session = self.session().await?;
        session.ask::<()>(redis::cmd("SETNX").arg(keys::FORMAT).arg(FORMAT)).await?;
        let found: u32 = session.ask(redis::cmd("GET").arg(keys::FORMAT)).await?;
        session.give_back();
        if found > FORMAT {
            return Err(Error::StoreFormat { dir: "the database".into(), found, known: FORMAT });
        }
        Ok(())
    }

    /// Says what of a server's settings can lose what it was told to keep.
    async fn warn_of_losses(&self) -> Result<()> {
        let mut session = self.session().await?;
        // Not every user may ask for this.
        let Ok(info) = session.ask::<String>(redis::cmd("INFO").arg("everything")).await else { return Ok(()) };
        session.give_back();
        let is = |name: &str, value: &str| {
            info.lines().any(|line| line.split_once(':').is_some_and(|(key, is)| (key, is.trim()) == (name, value)))
        };
        if is("aof_enabled", "0") {
            tracing::warn!(
                "this Redis keeps no append-only file: when it ends, the latest jobs, runs and events are lost \
                 (set `appendonly yes`, and `appendfsync always` to lose nothing)"
            );
        }
        if !is("maxmemory", "0") && !is("maxmemory_policy", "noeviction") && info.contains("maxmemory_policy:") {
            tracing::warn!(
                "this Redis forgets keys when its memory is full: jobs may be lost (set `maxmemory-policy noeviction`)"
            );
        }
        Ok(())
    }

    /// A connection that works.
    async fn session(&self) -> Result<Session> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(connection) = idle else { break };
            let mut session = Session::new(connection, self.idle.clone());
            if session.ask::<String>(&redis::cmd("PING")).await.is_ok() {
                return Ok(session);
            }
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIME_MAX))
            .set_response_timeout(Some(ANSWER_TIME_MAX));
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await;
        let connection = connection.map_err(|e| failed("cannot reach Redis", e))?;
        Ok(Session::new(connection, self.idle.clone()))
    }

    async fn counter(&self, name: &str) -> Result<u64> {
        let mut session = self.session().await?;
        let value: Option<u64> = session.ask(redis::cmd("HGET").arg(keys::COUNTER).arg(name)).await?;
        session.give_back();
        Ok(value.unwrap_or(0))
    }

    async fn field(&self, key: &str, field: &str) -> Result<Option<Vec<u8>>> {
        let mut session = self.session().await?;
        let value = session.ask(redis::cmd("HGET").arg(key).arg(field)).await?;
        session.give_back();
        Ok(value)
    }
}

/// Hears hints for as long as there is a connection, and looks for a new one when there is none.
async fn listen(client: Client, channel: String, hinted: Arc<Notify>) {
    loop {
        if let Ok(mut pubsub) = client.get_async_pubsub().await
            && pubsub.subscribe(&channel).await.is_ok()
        {
            let mut messages = pubsub.on_message();
            while messages.next().await.is_some() {
                hinted.notify_one();
            }
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

fn database_error(error: RedisError) -> Error {
    failed("Redis refused or did not answer", error)
}

fn lost() -> Error {
    Error::StoreFailed { what: "Redis answered something else than was asked".into(), source: None }
}

#[async_trait]
impl Database for Redis {
    type Transaction = Session;

    async fn load(&self, wanted: &Wanted) -> Result<Load<Session>> {
        self.begin(wanted).await
    }

    async fn details(&self, transaction: &mut Session, wanted: &Details) -> Result<Found> {
        self.find(transaction, wanted).await
    }

    async fn commit(&self, transaction: Session, written: &Written) -> Result<Committed, CommitError> {
        self.write(transaction, written).await
    }

    async fn abandon(&self, transaction: Session) {
        self.undo(transaction).await;
    }

    async fn settled(&self, lease: u64, turn: u64) -> Result<Settled> {
        self.settle(lease, turn).await
    }

    async fn job(&self, id: &JobId) -> Result<Option<(JobRow, Vec<u8>)>> {
        self.one_job(id).await
    }

    async fn jobs(&self, after: Option<&str>, status: Option<i16>, limit: usize) -> Result<Vec<(JobRow, Vec<u8>)>> {
        self.list_jobs(after, status, limit).await
    }

    async fn run(&self, id: RunId) -> Result<Option<RunRow>> {
        Ok(self.runs(&[id]).await?.pop())
    }

    async fn runs(&self, ids: &[RunId]) -> Result<Vec<RunRow>> {
        let mut session = self.session().await?;
        let runs = session.runs(ids).await?;
        session.give_back();
        Ok(runs)
    }

    async fn claimed(&self, fires: &[&RunRow]) -> Result<Vec<(RunId, JobId)>> {
        let names: Vec<String> = fires.iter().copied().filter_map(keys::fire).collect();
        let mut session = self.session().await?;
        let runs = session.fields(keys::FIRE, &names).await?;
        session.give_back();
        let jobs = fires.iter().filter(|row| row.fire.is_some()).map(|row| row.job.clone());
        let there = runs.into_iter().zip(jobs).filter_map(|(run, job)| Some((run?, job)));
        there.map(|(run, job)| Ok((keys::run_id(&text(run)?)?, job))).collect()
    }

    async fn list_runs(&self, query: &RunQuery) -> Result<Vec<RunRow>> {
        self.find_runs(query).await
    }

    async fn logs(&self, id: RunId) -> Result<Option<Vec<u8>>> {
        self.field(keys::LOG, &id.to_string()).await
    }

    async fn promised(&self, run: RunId) -> Result<Option<JobId>> {
        let promise = self.field(keys::PROMISE, &run.to_string()).await?;
        promise.map(|promise| Ok(keys::unpack_promise(&promise)?.0)).transpose()
    }

    async fn arguments(&self, jobs: &[JobId]) -> Result<Vec<(RunId, Vec<u8>)>> {
        let mut session = self.session().await?;
        let arguments = turn::own_arguments(&mut session, jobs).await?;
        session.give_back();
        Ok(arguments)
    }

    async fn events(&self, since: u64, limit: usize) -> Result<Vec<EventBlock>> {
        self.event_blocks(since, limit).await
    }

    async fn values(&self, job: &JobId) -> Result<Vec<(String, Vec<u8>)>> {
        let mut session = self.session().await?;
        let values: BTreeMap<String, Vec<u8>> = session.ask(redis::cmd("HGETALL").arg(keys::values_of(job))).await?;
        session.give_back();
        Ok(values.into_iter().collect())
    }

    async fn counts(&self) -> Result<Counts> {
        let mut session = self.session().await?;
        let leases: Vec<u64> = session.ask(redis::cmd("SMEMBERS").arg(keys::LEASES)).await?;
        let mut commands = pipe();
        commands.atomic().cmd("ZCARD").arg(keys::IDS);
        commands.cmd("ZCARD").arg(keys::status(1)).cmd("ZCARD").arg(keys::status(2));
        commands.cmd("ZCARD").arg(keys::RUNS).cmd("HGET").arg(keys::COUNTER).arg("event");
        for lease in leases {
            commands.cmd("ZCARD").arg(keys::going(lease));
        }
        let numbers: Vec<Option<u64>> = session.send(&commands).await?;
        session.give_back();
        let at = |n: usize| numbers.get(n).copied().flatten().unwrap_or(0);
        let running: u64 = numbers.iter().skip(5).flatten().sum();
        let runs = at(3).saturating_sub(running);
        Ok(Counts { jobs: at(0), paused: at(1), quarantined: at(2), running, runs, last_event: at(4) })
    }

    async fn last_event(&self) -> Result<u64> {
        self.counter("event").await
    }

    async fn join(&self, node: &NodeRow, ttl: Duration) -> Result<u64> {
        self.new_lease(node, ttl).await
    }

    async fn renew(&self, lease: u64, node: &NodeRow, wanted: Renewal) -> Result<Option<Renewed>> {
        self.renew_lease(lease, node, wanted).await
    }

    async fn leave(&self, lease: u64) -> Result<()> {
        self.end_lease(lease).await
    }

    async fn evict(&self, lease: u64) -> Result<()> {
        self.end_now(lease).await
    }

    async fn nodes(&self) -> Result<Vec<NodeState>> {
        self.node_states().await
    }

    async fn left_behind(&self, lease: u64, limit: usize) -> Result<LeftBehind> {
        let mut session = self.session().await?;
        let going = session.range(&keys::going(lease), "-", "+", limit).await?;
        let ids = going.iter().map(|name| keys::run_id(name)).collect::<Result<Vec<_>>>()?;
        let runs = session.runs(&ids).await?;
        let asking = session.range(&keys::asked(lease), "-", "+", limit).await?;
        let asking = asking.iter().map(|name| keys::job_of(name, 0)).collect::<Result<_>>()?;
        session.give_back();
        Ok(LeftBehind { runs, asking })
    }

    async fn to_cancel(&self, lease: u64) -> Result<Vec<RunId>> {
        let mut session = self.session().await?;
        let names: Vec<String> = session.ask(redis::cmd("ZRANGE").arg(keys::cancel(lease)).arg(0).arg(-1)).await?;
        session.give_back();
        names.iter().map(|name| keys::run_id(name)).collect()
    }

    async fn prune(&self, kept: &Kept) -> Result<Pruned> {
        let more = self.forget(kept).await?;
        Ok(Pruned { more, last: None })
    }

    async fn put_record(&self, kind: Kind, key: &str, bytes: &[u8]) -> Result<()> {
        self.put(kind, key, bytes).await
    }

    async fn replace_record(&self, kind: Kind, key: &str, before: Option<&[u8]>, bytes: &[u8]) -> Result<bool> {
        self.replace(kind, key, before, bytes).await
    }

    async fn record(&self, kind: Kind, key: &str) -> Result<Option<Vec<u8>>> {
        self.field(&keys::records(kind.as_str()), key).await
    }

    async fn records(&self, kind: Kind) -> Result<Vec<(String, Vec<u8>)>> {
        let mut session = self.session().await?;
        let records: BTreeMap<String, Vec<u8>> =
            session.ask(redis::cmd("HGETALL").arg(keys::records(kind.as_str()))).await?;
        session.give_back();
        Ok(records.into_iter().collect())
    }

    async fn keys(&self, kind: Kind, older: Duration) -> Result<Vec<String>> {
        self.old_keys(kind, older).await
    }

    async fn remove_record(&self, kind: Kind, key: &str) -> Result<bool> {
        self.remove(kind, key).await
    }

    async fn catalog(&self) -> Result<u64> {
        self.counter("catalog").await
    }

    async fn hint(&self) {
        let Ok(mut session) = self.session().await else { return };
        let heard: Result<u64> = session.ask(redis::cmd("PUBLISH").arg(&self.channel).arg("")).await;
        if heard.is_ok() {
            session.give_back();
        }
    }

    async fn hinted(&self) {
        self.hinted.notified().await;
    }

    async fn close(&self) {
        self._listening.abort();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
