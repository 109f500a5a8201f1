//! A connection to Redis in use.

use super::{database_error, lost};
use crate::error::Result;
use crate::job::JobId;
use crate::run::RunId;
use crate::store::redis::keys;
use crate::store::shared::{JobRow, RunRow};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, Pipeline, RedisResult, ToRedisArgs};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Fields of a hash that are asked for at once.
const FIELDS_MAX: usize = 1000;

/// Connections that nobody uses.
pub type Idle = Arc<Mutex<Vec<MultiplexedConnection>>>;

/// A connection that nobody else uses meanwhile: what it watches is its own. Dropped, it is closed.
pub struct Session {
    connection: Option<MultiplexedConnection>,
    idle: Idle,
    /// Of a turn: the counters as it found them, and the jobs that it loaded.
    pub epoch: u64,
    pub last_event: u64,
    pub before: BTreeMap<JobId, JobRow>,
    /// A lease that it takes over, to be marked so.
    pub fenced: Option<(u64, Vec<u8>)>,
}

impl Session {
    pub fn new(connection: MultiplexedConnection, idle: Idle) -> Self {
        let connection = Some(connection);
        Session { connection, idle, epoch: 0, last_event: 0, before: BTreeMap::new(), fenced: None }
    }

    /// Lets somebody else have the connection. It must not watch anything.
    pub fn give_back(mut self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extend(self.connection.take());
    }

    fn connection(&mut self) -> Result<&mut MultiplexedConnection> {
        self.connection.as_mut().ok_or_else(lost)
    }

    pub async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T> {
        command.query_async(self.connection()?).await.map_err(database_error)
    }

    /// Sends several commands at once; if they are atomic, nobody else comes between them.
    pub async fn send<T: FromRedisValue>(&mut self, commands: &Pipeline) -> Result<T> {
        commands.query_async(self.connection()?).await.map_err(database_error)
    }

    /// Ends a transaction; `None` if what it watched has changed.
    pub async fn exec(&mut self, commands: &Pipeline) -> RedisResult<Option<redis::Value>> {
        let broken = || redis::RedisError::from((redis::ErrorKind::Client, "the connection is closed"));
        let connection = self.connection.as_mut().ok_or_else(broken)?;
        commands.query_async(connection).await
    }

    pub async fn watch(&mut self, keys: &[&str]) -> Result<()> {
        self.ask(redis::cmd("WATCH").arg(keys)).await
    }

    pub async fn unwatch(&mut self) -> Result<()> {
        self.ask(&redis::cmd("UNWATCH")).await
    }

    /// The server's time in microseconds.
    pub async fn now(&mut self) -> Result<i64> {
        let (seconds, micros): (i64, i64) = self.ask(&redis::cmd("TIME")).await?;
        Ok(seconds * 1_000_000 + micros)
    }

    /// Fields of a hash, as many as are asked for.
    pub async fn fields<F: ToRedisArgs>(&mut self, key: &str, fields: &[F]) -> Result<Vec<Option<Vec<u8>>>> {
        let mut values = Vec::with_capacity(fields.len());
        for some in fields.chunks(FIELDS_MAX) {
            let found: Vec<Option<Vec<u8>>> = self.ask(redis::cmd("HMGET").arg(key).arg(some)).await?;
            values.extend(found);
        }
        Ok(values)
    }

    pub async fn jobs(&mut self, ids: &[JobId]) -> Result<Vec<JobRow>> {
        let names: Vec<&str> = ids.iter().map(JobId::as_str).collect();
        let rows = self.fields(keys::JOB, &names).await?;
        ids.iter().zip(rows).filter_map(|(id, row)| Some(keys::unpack_job(id, &row?))).collect()
    }

    pub async fn runs(&mut self, ids: &[RunId]) -> Result<Vec<RunRow>> {
        let names: Vec<String> = ids.iter().map(RunId::to_string).collect();
        let rows = self.fields(keys::RUN, &names).await?;
        ids.iter().zip(rows).filter_map(|(id, row)| Some(keys::unpack_run(*id, &row?))).collect()
    }

    /// Members of an index between two bounds, the least ones first.
    pub async fn range(&mut self, key: &str, from: &str, to: &str, most: usize) -> Result<Vec<String>> {
        self.ask(redis::cmd("ZRANGEBYLEX").arg(key).arg(from).arg(to).arg("LIMIT").arg(0).arg(most)).await
    }

    /// The same, the greatest ones first.
    pub async fn range_down(&mut self, key: &str, from: &str, to: &str, most: usize) -> Result<Vec<String>> {
        self.ask(redis::cmd("ZREVRANGEBYLEX").arg(key).arg(from).arg(to).arg("LIMIT").arg(0).arg(most)).await
    }
}

/// Changes to indexes, gathered so that each takes one command.
#[derive(Default)]
pub struct Indexes {
    add: BTreeMap<String, Vec<String>>,
    remove: BTreeMap<String, Vec<String>>,
}

impl Indexes {
    pub fn add(&mut self, key: String, member: String) {
        self.add.entry(key).or_default().push(member);
    }

    pub fn remove(&mut self, key: String, member: String) {
        self.remove.entry(key).or_default().push(member);
    }

    pub fn send(&self, commands: &mut Pipeline) {
        for (key, members) in &self.remove {
            commands.cmd("ZREM").arg(key).arg(members).ignore();
        }
        for (key, members) in &self.add {
            let command = commands.cmd("ZADD").arg(key);
            for member in members {
                command.arg(0).arg(member);
            }
            command.ignore();
        }
    }
}
