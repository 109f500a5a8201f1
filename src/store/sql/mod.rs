//! MySQL, MariaDB and SQLite, all spoken to alike: databases that several schedulers share, of which one
//! claims and the others stand by.
//!
//! Tables have the prefix `sandclock_`.

mod dialect;
mod lease;
mod record;
mod schema;
mod session;
mod turn;

#[cfg(feature = "mysql")]
pub use dialect::Mysql;
#[cfg(feature = "sqlite")]
pub use dialect::Sqlite;

use super::shared::{
    CommitError, Committed, Database, Details, EventBlock, Found, JobRow, Kept, Kind, LeftBehind, Load, NodeRow,
    NodeState, Pruned, Renewal, Renewed, RunQuery, RunRow, Settled, SharedOptions, SharedStore, Wanted, Written,
    failed,
};
use crate::error::{Error, Result};
use crate::invalid::Invalid;
use crate::job::JobId;
use crate::run::RunId;
use crate::store::Counts;
use async_trait::async_trait;
use dialect::Dialect;
use session::{JOB, RUN, Row, RunKey, Session, Value};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyPool, ConnectOptions, Connection, Executor};
use std::collections::{BTreeSet, HashSet};
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

/// Connections of one node: a turn, a lease, and reads.
const CONNECTIONS_MAX: u32 = 8;
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a connection is kept that nobody uses: less than the server keeps it.
const IDLE_TIME_MAX: Duration = Duration::from_secs(2);
const STATEMENT_TIME_MAX: Duration = Duration::from_secs(60);

/// A job store on MySQL 8 or MariaDB.
#[cfg(feature = "mysql")]
pub type MysqlStore = SharedStore<Sql<Mysql>>;

/// A job store in a file, for schedulers on one machine.
#[cfg(feature = "sqlite")]
pub type SqliteStore = SharedStore<Sql<Sqlite>>;

/// A database that sqlx speaks to.
pub struct Sql<D> {
    pool: AnyPool,
    dialect: PhantomData<D>,
}

impl<D: Dialect> SharedStore<Sql<D>> {
    /// Opens the store at a URL, `mysql://…` or `sqlite://PATH`; its tables are made if they are not there.
    pub async fn connect(url: &str, options: SharedOptions) -> Result<Self> {
        SharedStore::open(Sql::connect(url).await?, options).await
    }
}

impl<D: Dialect> Sql<D> {
    pub async fn connect(url: &str) -> Result<Self> {
        D::prepare(url)?;
        sqlx::any::install_default_drivers();
        // The text may hold a password, so it is not repeated.
        let refused = |e: sqlx::Error| Invalid::new("store", format!("{}…", D::SCHEME), e.to_string());
        let options = AnyConnectOptions::from_str(url).map_err(refused)?.disable_statement_logging();
        // A pool would try until its time is over, and not say why it could not.
        let first = async {
            let mut connection = options.connect().await?;
            connection.execute(sqlx::raw_sql(D::SESSION)).await?;
            connection.close().await
        };
        let first = tokio::time::timeout(CONNECT_TIME_MAX, first).await.map_err(|_| lost())?;
        first.map_err(|error| match error.as_database_error().and_then(sqlx::error::DatabaseError::code) {
            // An account or a database that is not the right one, which waiting does not mend.
            Some(code) if code.starts_with("28") || code.starts_with("42") => refused(error).into(),
            _ => failed("cannot use the database", error),
        })?;
        let pool = AnyPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(CONNECT_TIME_MAX)
            .idle_timeout(IDLE_TIME_MAX)
            .after_connect(|connection, _| {
                Box::pin(async move { connection.execute(sqlx::raw_sql(D::SESSION)).await.map(drop) })
            })
            .connect_lazy_with(options);
        let database = Sql { pool, dialect: PhantomData };
        database.migrate().await?;
        Ok(database)
    }

    async fn session(&self) -> Result<Session> {
        self.pool.acquire().await.map(Session::new).map_err(|e| failed("cannot reach the database", e))
    }

    async fn query(&self, sql: String, values: &[Value<'_>]) -> Result<Vec<Row>> {
        self.with(async |session| session.query(sql, values).await).await
    }

    async fn execute(&self, sql: String, values: &[Value<'_>]) -> Result<u64> {
        self.with(async |session| session.execute(sql, values).await).await
    }

    /// Uses a connection without a transaction.
    async fn with<T>(&self, ask: impl AsyncFnOnce(&mut Session) -> sqlx::Result<T>) -> Result<T> {
        let mut session = self.session().await?;
        let answered = tokio::time::timeout(STATEMENT_TIME_MAX, ask(&mut session)).await.map_err(|_| lost())?;
        let answer = answered.map_err(database_error)?;
        session.give_back();
        Ok(answer)
    }
}

fn database_error(error: sqlx::Error) -> Error {
    failed("the database refused or did not answer", error)
}

fn lost() -> Error {
    Error::StoreFailed { what: "the database did not answer in time".into(), source: None }
}

/// The lanes of a node, as they are stored.
fn lanes(stored: &[u8]) -> Result<Vec<String>> {
    serde_json::from_slice(stored).map_err(|e| failed("the lanes of a node cannot be read", e))
}

fn entry(row: &Row) -> Result<(JobRow, Vec<u8>)> {
    Ok((row.job()?, row.bytes(JOB.len())?))
}

fn entries() -> String {
    let columns = JOB.map(|column| format!("j.{column}")).join(", ");
    format!("SELECT {columns}, d.body FROM sandclock_job j JOIN sandclock_definition d ON d.id = j.id")
}

/// The columns of runs that are read.
fn runs() -> String {
    format!("SELECT {} FROM sandclock_run", RUN[..9].join(", "))
}

#[async_trait]
impl<D: Dialect> Database for Sql<D> {
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
        let sql = format!("{} WHERE j.id = ?", entries());
        self.query(sql, &[id.into()]).await?.first().map(entry).transpose()
    }

    async fn jobs(&self, after: Option<&str>, status: Option<i16>, limit: usize) -> Result<Vec<(JobRow, Vec<u8>)>> {
        let after = after.unwrap_or_default();
        let rows = match status {
            None => {
                let sql = format!("{} WHERE j.id > ? ORDER BY j.id LIMIT ?", entries());
                self.query(sql, &[after.into(), limit.into()]).await?
            }
            Some(status) => {
                let sql = format!("{} WHERE j.status = ? AND j.id > ? ORDER BY j.id LIMIT ?", entries());
                self.query(sql, &[i64::from(status).into(), after.into(), limit.into()]).await?
            }
        };
        rows.iter().map(entry).collect()
    }

    async fn run(&self, id: RunId) -> Result<Option<RunRow>> {
        Ok(self.runs(&[id]).await?.pop())
    }

    async fn runs(&self, ids: &[RunId]) -> Result<Vec<RunRow>> {
        let keys: Vec<RunKey> = ids.iter().copied().map(RunKey::from).collect();
        let values: Vec<Value<'_>> = keys.iter().map(Value::from).collect();
        let sql = format!("{} WHERE {{}}", runs());
        let rows = self.with(async |session| session.query_in(&sql, "id", &values).await).await?;
        rows.iter().map(Row::run).collect()
    }

    async fn claimed(&self, fires: &[&RunRow]) -> Result<Vec<(RunId, JobId)>> {
        let times: HashSet<_> = fires.iter().filter_map(|row| Some((&row.job, row.fire?, row.revision))).collect();
        let (first, last) =
            (fires.iter().filter_map(|row| row.fire).min(), fires.iter().filter_map(|row| row.fire).max());
        let (Some(first), Some(last)) = (first, last) else { return Ok(Vec::new()) };
        let jobs: BTreeSet<&JobId> = fires.iter().map(|row| &row.job).collect();
        let jobs: Vec<Value<'_>> = jobs.into_iter().map(Value::from).collect();
        // Two numbers that are in the statement itself.
        let sql = format!("{} WHERE {{}} AND fire >= {first} AND fire <= {last}", runs());
        let rows = self.with(async |session| session.query_in(&sql, "job", &jobs).await).await?;
        let rows: Vec<RunRow> = rows.iter().map(Row::run).collect::<Result<_>>()?;
        let same = |row: &RunRow| row.fire.is_some_and(|fire| times.contains(&(&row.job, fire, row.revision)));
        Ok(rows.into_iter().filter(same).map(|row| (row.id, row.job)).collect())
    }

    async fn list_runs(&self, query: &RunQuery) -> Result<Vec<RunRow>> {
        let RunQuery { before, job, outcome, since, until, limit } = query;
        let before = before.map(RunKey::from);
        let mut parts: Vec<&str> = Vec::new();
        let mut values: Vec<Value<'_>> = Vec::new();
        for (part, value) in [
            ("id < ?", before.as_ref().map(Value::from)),
            ("job = ?", job.as_ref().map(Value::from)),
            ("outcome = ?", outcome.map(|outcome| i64::from(outcome).into())),
            ("scheduled >= ?", since.map(Value::from)),
            ("scheduled < ?", until.map(Value::from)),
        ] {
            if let Some(value) = value {
                parts.push(part);
                values.push(value);
            }
        }
        let filter = if parts.is_empty() { String::new() } else { format!(" WHERE {}", parts.join(" AND ")) };
        values.push((*limit).into());
        let sql = format!("{}{filter} ORDER BY id DESC LIMIT ?", runs());
        self.query(sql, &values).await?.iter().map(Row::run).collect()
    }

    async fn logs(&self, id: RunId) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT body FROM sandclock_log WHERE run = ? ORDER BY piece".into();
        record::whole(&self.query(sql, &[(&RunKey::from(id)).into()]).await?)
    }

    async fn promised(&self, run: RunId) -> Result<Option<JobId>> {
        let sql = "SELECT job FROM sandclock_promise WHERE run = ?".into();
        self.query(sql, &[(&RunKey::from(run)).into()]).await?.first().map(|row| row.job_id(0)).transpose()
    }

    async fn arguments(&self, jobs: &[JobId]) -> Result<Vec<(RunId, Vec<u8>)>> {
        let values: Vec<Value<'_>> = jobs.iter().map(Value::from).collect();
        let sql = "SELECT run, arguments FROM sandclock_promise WHERE {} AND arguments IS NOT NULL";
        let rows = self.with(async |session| session.query_in(sql, "job", &values).await).await?;
        rows.iter().map(|row| Ok((row.run_id(0)?, row.bytes(1)?))).collect()
    }

    async fn events(&self, since: u64, limit: usize) -> Result<Vec<EventBlock>> {
        self.event_blocks(since, limit).await
    }

    async fn values(&self, job: &JobId) -> Result<Vec<(String, Vec<u8>)>> {
        let sql = "SELECT name, body FROM sandclock_value WHERE job = ?".into();
        self.query(sql, &[job.into()]).await?.iter().map(|row| Ok((row.text(0)?, row.bytes(1)?))).collect()
    }

    async fn counts(&self) -> Result<Counts> {
        let sql = "SELECT (SELECT count(*) FROM sandclock_job), \
                   (SELECT count(*) FROM sandclock_job WHERE status = 1), \
                   (SELECT count(*) FROM sandclock_job WHERE status = 2), \
                   (SELECT count(*) FROM sandclock_run WHERE ended = 0), (SELECT count(*) FROM sandclock_run), \
                   (SELECT value FROM sandclock_counter WHERE id = ?)";
        let rows = self.query(sql.into(), &[schema::EVENT.into()]).await?;
        let row = rows.first().ok_or_else(lost)?;
        let (running, all) = (row.number(3)?, row.number(4)?);
        Ok(Counts {
            jobs: row.number(0)?,
            paused: row.number(1)?,
            quarantined: row.number(2)?,
            running,
            runs: all - running,
            last_event: row.number(5)?,
        })
    }

    async fn last_event(&self) -> Result<u64> {
        self.counter(schema::EVENT).await
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
        let sql = "UPDATE sandclock_lease SET expires = 0 WHERE lease = ?";
        self.execute(sql.into(), &[lease.into()]).await.map(drop)
    }

    async fn nodes(&self) -> Result<Vec<NodeState>> {
        self.node_states().await
    }

    async fn left_behind(&self, lease: u64, limit: usize) -> Result<LeftBehind> {
        let sql = format!("{} WHERE lease = ? AND ended = 0 LIMIT ?", runs());
        let runs = self.query(sql, &[lease.into(), limit.into()]).await?.iter().map(Row::run).collect::<Result<_>>()?;
        let sql = "SELECT id FROM sandclock_job WHERE asked = ? LIMIT ?".into();
        let asking = self.query(sql, &[lease.into(), limit.into()]).await?;
        let asking = asking.iter().map(|row| row.job_id(0)).collect::<Result<_>>()?;
        Ok(LeftBehind { runs, asking })
    }

    async fn to_cancel(&self, lease: u64) -> Result<Vec<RunId>> {
        let sql = "SELECT id FROM sandclock_run WHERE lease = ? AND ended = 0 AND cancel = 1".into();
        self.query(sql, &[lease.into()]).await?.iter().map(|row| row.run_id(0)).collect()
    }

    async fn prune(&self, kept: &Kept) -> Result<Pruned> {
        self.forget(kept).await
    }

    async fn put_record(&self, kind: Kind, key: &str, bytes: &[u8]) -> Result<()> {
        self.put(kind, key, bytes).await
    }

    async fn replace_record(&self, kind: Kind, key: &str, before: Option<&[u8]>, bytes: &[u8]) -> Result<bool> {
        self.replace(kind, key, before, bytes).await
    }

    async fn record(&self, kind: Kind, key: &str) -> Result<Option<Vec<u8>>> {
        let sql = record::RECORD.into();
        record::whole(&self.query(sql, &[kind.as_str().into(), key.into()]).await?)
    }

    async fn records(&self, kind: Kind) -> Result<Vec<(String, Vec<u8>)>> {
        self.all_records(kind).await
    }

    async fn keys(&self, kind: Kind, older: Duration) -> Result<Vec<String>> {
        let sql = format!(
            "SELECT name FROM sandclock_record WHERE kind = ? AND piece = 0 AND written <= {} - ? ORDER BY name",
            D::NOW
        );
        let older = older.as_micros() as i64;
        self.query(sql, &[kind.as_str().into(), older.into()]).await?.iter().map(|row| row.text(0)).collect()
    }

    async fn remove_record(&self, kind: Kind, key: &str) -> Result<bool> {
        self.remove(kind, key).await
    }

    async fn catalog(&self) -> Result<u64> {
        self.counter(schema::CATALOG).await
    }

    // Neither has a way to tell others of something; they look each second.
    async fn hint(&self) {}

    async fn hinted(&self) {
        std::future::pending::<()>().await;
    }

    async fn close(&self) {
        self.pool.close().await;
    }
}
