//! PostgreSQL: the database that many schedulers share, all of them active.
//!
//! It is spoken to by tokio-postgres and not by sqlx, because a turn sends a dozen statements before it
//! needs the first answer, and sqlx waits for each. Everything is in the schema `sandclock`.

mod schema;
mod statements;
mod turn;
mod write;

use super::shared::{
    CommitError, Committed, Database, Details, EventBlock, Found, JobRow, Kept, Kind, LeftBehind, Load, NodeRow,
    NodeState, Pruned, Renewal, Renewed, RunQuery, RunRow, Settled, SharedOptions, SharedStore, Wanted, Written,
    failed, job_id, run_id, text,
};
use crate::error::{Error, Result};
use crate::invalid::Invalid;
use crate::job::JobId;
use crate::run::RunId;
use crate::store::Counts;
use async_trait::async_trait;
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime};
use statements::{JOB, OWN_ARGUMENTS, RUN, Statements, names_of};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Notify};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Config, Row};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;
use turn::{Lines, Session, job_row};
use write::run_bytes;

/// Connections of one node: a turn, a lease, and reads.
const CONNECTIONS_MAX: usize = 8;
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// A transaction whose node does not go on is undone after so long: its locks hold up others.
const IDLE_TIME_MAX: Duration = Duration::from_millis(2500);
const LOCK_TIME_MAX: Duration = Duration::from_secs(3);
const STATEMENT_TIME_MAX: Duration = Duration::from_secs(30);
/// How long an answer may take beside turns. The server gives up sooner, if it is there.
const READ_TIME_MAX: Duration = Duration::from_secs(32);
/// A plan that was made when a table was empty is kept when it has grown, so each is by an index. None of
/// them is worth compiling.
const PLANS: &str =
    "-c enable_seqscan=off -c enable_bitmapscan=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off";
/// How long a packet may go unanswered before the connection counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Hints are sent this far apart at least.
const HINT_EVERY: Duration = Duration::from_millis(20);
const LISTEN_AGAIN: Duration = Duration::from_secs(1);
/// Rows that one step of forgetting removes.
const PRUNED_MAX: i64 = 2000;
/// Jobs that are looked at, one step after the other, for having too many runs.
const PRUNED_JOBS: i64 = 1000;
/// The key of the lock under which tables are made; any number that nobody else uses.
const MIGRATION_LOCK: i64 = 0x5a4d_c10c;

/// A job store on PostgreSQL.
pub type PostgresStore = SharedStore<Postgres>;

/// A PostgreSQL database.
pub struct Postgres {
    pool: Pool,
    /// For renewing the lease, whatever else goes on.
    leases: Pool,
    statements: Statements,
    lines: Mutex<Lines>,
    hinted: Arc<Notify>,
    hint: Arc<Notify>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl SharedStore<Postgres> {
    /// Opens the store at a `postgres://` URL; its tables are made if they are not there.
    pub async fn connect(url: &str, options: SharedOptions) -> Result<Self> {
        SharedStore::open(Postgres::connect(url).await?, options).await
    }
}

impl Postgres {
    pub async fn connect(url: &str) -> Result<Self> {
        // The text may hold a password, so it is not repeated.
        let refused = |reason: String| Invalid::new("store", "postgres://…", reason);
        let mut config: Config = url.parse().map_err(|e: tokio_postgres::Error| {
            let why = std::error::Error::source(&e).map_or(String::new(), |why| format!(": {why}"));
            refused(format!("{e}{why}")).hint("a URL such as `postgres://user:password@host/database`")
        })?;
        if config.get_dbname().is_none() && config.get_user().is_none() {
            return Err(refused("it names no database".into()).into());
        }
        let settings = format!(
            "-c search_path=sandclock {PLANS} -c idle_in_transaction_session_timeout={} -c lock_timeout={} -c statement_timeout={} \
             -c default_transaction_isolation=read\\ committed {}",
            IDLE_TIME_MAX.as_millis(),
            LOCK_TIME_MAX.as_millis(),
            STATEMENT_TIME_MAX.as_millis(),
            config.get_options().unwrap_or_default()
        );
        config
            .options(settings)
            .connect_timeout(CONNECT_TIME_MAX)
            .keepalives_idle(SILENCE_MAX)
            .keepalives_interval(SILENCE_MAX / 5)
            .keepalives_retries(3)
            .tcp_user_timeout(SILENCE_MAX);
        if config.get_application_name().is_none() {
            config.application_name("sandclock");
        }
        let tls = MakeRustlsConnect::new(crate::tls::client());
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let pool = |size: usize| {
            let manager = Manager::from_config(config.clone(), tls.clone(), recycling.clone());
            let builder = Pool::builder(manager).max_size(size).runtime(Runtime::Tokio1);
            let builder = builder.wait_timeout(Some(CONNECT_TIME_MAX)).create_timeout(Some(CONNECT_TIME_MAX));
            builder.build().map_err(|e| failed("cannot make a pool of connections", e))
        };
        let (pool, leases) = (pool(CONNECTIONS_MAX)?, pool(1)?);
        let (hinted, hint) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let mut database = Postgres {
            pool,
            leases,
            statements: Statements::new(),
            lines: Mutex::default(),
            hinted: hinted.clone(),
            hint: hint.clone(),
            _tasks: Vec::new(),
        };
        database.migrate().await?;
        let listen = tokio::spawn(listen(config, tls, hinted));
        let send = tokio::spawn(send_hints(database.pool.clone(), hint));
        database._tasks = vec![AbortOnDropHandle::new(listen), AbortOnDropHandle::new(send)];
        Ok(database)
    }

    async fn client(&self) -> Result<Object> {
        self.pool.get().await.map_err(unreachable)
    }

    /// Asks on a connection that reads do not use up.
    async fn ask_first(&self, sql: &str, params: &[&(dyn tokio_postgres::types::ToSql + Sync)]) -> Result<Vec<Row>> {
        let client = self.leases.get().await.map_err(unreachable)?;
        query(client, sql, params).await
    }

    async fn counter(&self, name: &str) -> Result<u64> {
        let rows = self.query("SELECT value FROM counter WHERE name = $1", &[&name]).await?;
        Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0) as u64))
    }

    async fn query(&self, sql: &str, params: &[&(dyn tokio_postgres::types::ToSql + Sync)]) -> Result<Vec<Row>> {
        query(self.client().await?, sql, params).await
    }

    /// Brings the tables to this program's version, one node at a time.
    async fn migrate(&self) -> Result<()> {
        let mut client = self.client().await.map_err(refusal)?;
        // Others may be at it for a while.
        client.batch_execute("SET lock_timeout = 0").await.map_err(database_error)?;
        let transaction = client.transaction().await.map_err(database_error)?;
        let lock = "SELECT pg_advisory_xact_lock($1)";
        transaction.execute(lock, &[&MIGRATION_LOCK]).await.map_err(database_error)?;
        // It may be there already and the right to make one not.
        let begin = "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'sandclock') \
                     THEN CREATE SCHEMA sandclock; END IF; END $$; \
                     CREATE TABLE IF NOT EXISTS sandclock.migration (version int PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())";
        transaction.batch_execute(begin).await.map_err(|error| match error.code() {
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                let remedy = "the account may not make the schema `sandclock` (have it own the database, or \
                              `CREATE SCHEMA sandclock AUTHORIZATION …`)";
                Invalid::new("store", "postgres://…", format!("{remedy}: {error}")).into()
            }
            _ => database_error(error),
        })?;
        let found = transaction.query_one("SELECT coalesce(max(version), 0) FROM migration", &[]).await;
        let found: i32 = found.map_err(database_error)?.get(0);
        let known = schema::MIGRATIONS.len() as i32;
        if found > known {
            let (found, known) = (found as u32, known as u32);
            return Err(Error::StoreFormat { dir: "the database".into(), found, known });
        }
        for (sql, version) in schema::MIGRATIONS.iter().zip(1i32..).skip(found as usize) {
            transaction.batch_execute(sql).await.map_err(database_error)?;
            let note = "INSERT INTO migration (version) VALUES ($1)";
            transaction.execute(note, &[&version]).await.map_err(database_error)?;
        }
        transaction.commit().await.map_err(database_error)?;
        let reset = format!("SET lock_timeout = {}", LOCK_TIME_MAX.as_millis());
        client.batch_execute(&reset).await.map_err(database_error)
    }
}

/// Asks one thing. A connection on which no answer comes is closed: it would come to the next one.
async fn query(client: Object, sql: &str, params: &[&(dyn tokio_postgres::types::ToSql + Sync)]) -> Result<Vec<Row>> {
    let asking = async {
        let statement = client.prepare_cached(sql).await?;
        client.query(&statement, params).await
    };
    match tokio::time::timeout(READ_TIME_MAX, asking).await {
        Ok(answer) => answer.map_err(database_error),
        Err(_) => {
            drop(Object::take(client));
            Err(lost())
        }
    }
}

/// Hears hints for as long as there is a connection, and looks for a new one when there is none.
async fn listen(config: Config, tls: MakeRustlsConnect, hinted: Arc<Notify>) {
    loop {
        if let Ok((client, mut connection)) = config.connect(tls.clone()).await {
            let messages = async {
                while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
                    if matches!(message, AsyncMessage::Notification(_)) {
                        hinted.notify_one();
                    }
                }
            };
            let listening = async {
                let _ = client.batch_execute("LISTEN sandclock").await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = messages => {}
                () = listening => {}
            }
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

/// Sends hints, each in a transaction that waits for no disk: they may be lost.
async fn send_hints(pool: Pool, hint: Arc<Notify>) {
    loop {
        hint.notified().await;
        if let Ok(client) = pool.get().await {
            let send = "BEGIN; SET LOCAL synchronous_commit = off; NOTIFY sandclock; COMMIT";
            if client.batch_execute(send).await.is_err() {
                drop(Object::take(client));
            }
        }
        tokio::time::sleep(HINT_EVERY).await;
    }
}

fn database_error(error: tokio_postgres::Error) -> Error {
    failed("PostgreSQL refused or did not answer", error)
}

/// Why there is no connection.
fn unreachable(error: PoolError) -> Error {
    match error {
        PoolError::Backend(error) => match error.code() {
            Some(&SqlState::CANNOT_CONNECT_NOW) => {
                Error::StoreFailed { what: "PostgreSQL is starting or ending".into(), source: None }
            }
            Some(_) => failed("PostgreSQL refused the connection", error),
            None => failed("cannot reach PostgreSQL", error),
        },
        PoolError::Timeout(_) => lost(),
        error => failed("cannot reach PostgreSQL", error),
    }
}

/// What waiting does not mend: an account, a database or a certificate that is not the right one.
fn refusal(error: Error) -> Error {
    let Error::StoreFailed { source: Some(source), .. } = &error else { return error };
    let Some(said) = source.downcast_ref::<tokio_postgres::Error>() else { return error };
    let refused = said.code().is_some_and(|code| ["28", "3D", "42"].iter().any(|class| code.code().starts_with(class)));
    // What this side refuses has no code: a password that is missing.
    let refused = refused || error.chain().contains("invalid configuration");
    let mut untrusted = false;
    let mut cause = std::error::Error::source(said);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        untrusted |= io.is_some_and(|error| error.kind() == std::io::ErrorKind::InvalidData);
        cause = error.source();
    }
    if refused || untrusted { Invalid::new("store", "postgres://…", error.chain()).into() } else { error }
}

fn lost() -> Error {
    Error::StoreFailed { what: "PostgreSQL did not answer in time".into(), source: None }
}

fn closed_connection() -> Error {
    Error::StoreFailed { what: "the connection to PostgreSQL is closed".into(), source: None }
}

fn run_row(row: &Row) -> Result<RunRow> {
    Ok(RunRow {
        id: run_id(row.get(0))?,
        job: job_id(row.get(1))?,
        scheduled: row.get(2),
        fire: row.get(3),
        revision: row.get::<_, i64>(4) as u64,
        lease: row.get::<_, i64>(5) as u64,
        ended: row.get(6),
        outcome: row.get(7),
        body: row.get(8),
    })
}

/// Jobs with their definitions.
fn entries() -> String {
    let columns = names_of(JOB);
    format!("SELECT {columns}, d.body FROM job JOIN LATERAL (SELECT body FROM definition WHERE id = job.id) d ON true")
}

fn entry(row: &Row) -> Result<(JobRow, Vec<u8>)> {
    Ok((job_row(row)?, row.get(JOB.len())))
}

#[async_trait]
impl Database for Postgres {
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
        // The transaction in question holds this row until it has ended.
        let sql = "SELECT number, first_event FROM turn WHERE lease = $1 FOR UPDATE";
        let rows = self.query(sql, &[&(lease as i64)]).await?;
        Ok(rows.first().map_or(Settled::Unknown, |row| {
            Settled::of(turn, row.get::<_, i64>(0) as u64, row.get::<_, i64>(1) as u64)
        }))
    }

    async fn job(&self, id: &JobId) -> Result<Option<(JobRow, Vec<u8>)>> {
        let sql = format!("{} WHERE id = $1", entries());
        self.query(&sql, &[&id.as_str()]).await?.first().map(entry).transpose()
    }

    async fn jobs(&self, after: Option<&str>, status: Option<i16>, limit: usize) -> Result<Vec<(JobRow, Vec<u8>)>> {
        let sql = format!("{} WHERE id > $1 AND ($2::smallint IS NULL OR status = $2) ORDER BY id LIMIT $3", entries());
        let rows = self.query(&sql, &[&after.unwrap_or_default(), &status, &(limit as i64)]).await?;
        rows.iter().map(entry).collect()
    }

    async fn run(&self, id: RunId) -> Result<Option<RunRow>> {
        Ok(self.runs(&[id]).await?.pop())
    }

    async fn runs(&self, ids: &[RunId]) -> Result<Vec<RunRow>> {
        let sql = format!("SELECT {} FROM run WHERE id = ANY($1)", names_of(RUN));
        self.query(&sql, &[&run_bytes(ids.iter().copied())]).await?.iter().map(run_row).collect()
    }

    async fn claimed(&self, fires: &[&RunRow]) -> Result<Vec<(RunId, JobId)>> {
        let jobs: Vec<&str> = fires.iter().map(|row| row.job.as_str()).collect();
        let times: Vec<Option<i64>> = fires.iter().map(|row| row.fire).collect();
        let revisions: Vec<i64> = fires.iter().map(|row| row.revision as i64).collect();
        let sql = "SELECT run.id, run.job FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS r(job, fire, revision) \
                   JOIN run ON run.job = r.job AND run.fire = r.fire AND run.revision = r.revision";
        let rows = self.query(sql, &[&jobs, &times, &revisions]).await?;
        rows.iter().map(|row| Ok((run_id(row.get(0))?, job_id(row.get(1))?))).collect()
    }

    async fn list_runs(&self, query: &RunQuery) -> Result<Vec<RunRow>> {
        let RunQuery { before, job, outcome, since, until, limit } = query;
        let before = before.map(|id| id.0.to_bytes().to_vec());
        let (job, limit) = (job.as_ref().map(JobId::as_str), *limit as i64);
        // Each kind of page has a plan of its own.
        let mut sql = format!("SELECT {} FROM run WHERE ($1::bytea IS NULL OR id < $1)", names_of(RUN));
        for (there, part) in [
            (job.is_some(), " AND job = $2"),
            (job.is_none(), " AND $2::text IS NULL"),
            (outcome.is_some(), " AND outcome = $3"),
            (outcome.is_none(), " AND $3::smallint IS NULL"),
            (since.is_some(), " AND scheduled >= $4"),
            (since.is_none(), " AND $4::bigint IS NULL"),
            (until.is_some(), " AND scheduled < $5"),
            (until.is_none(), " AND $5::bigint IS NULL"),
        ] {
            if there {
                sql.push_str(part);
            }
        }
        sql.push_str(" ORDER BY id DESC LIMIT $6");
        let rows = self.query(&sql, &[&before, &job, outcome, since, until, &limit]).await?;
        rows.iter().map(run_row).collect()
    }

    async fn logs(&self, id: RunId) -> Result<Option<Vec<u8>>> {
        let rows = self.query("SELECT body FROM log WHERE run = $1", &[&id.0.to_bytes().as_slice()]).await?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    async fn promised(&self, run: RunId) -> Result<Option<JobId>> {
        let rows = self.query("SELECT job FROM promise WHERE run = $1", &[&run.0.to_bytes().as_slice()]).await?;
        rows.first().map(|row| job_id(row.get(0))).transpose()
    }

    async fn arguments(&self, jobs: &[JobId]) -> Result<Vec<(RunId, Vec<u8>)>> {
        let jobs: Vec<&str> = jobs.iter().map(JobId::as_str).collect();
        self.query(OWN_ARGUMENTS, &[&jobs]).await?.iter().map(|row| Ok((run_id(row.get(0))?, row.get(1)))).collect()
    }

    async fn events(&self, since: u64, limit: usize) -> Result<Vec<EventBlock>> {
        let sql = "SELECT first, count, body FROM event WHERE first > \
                   coalesce((SELECT max(first) FROM event WHERE first <= $1::bigint + 1), 0) - 1 ORDER BY first LIMIT $2";
        let rows = self.query(sql, &[&(since as i64), &(limit as i64)]).await?;
        let block = |row: &Row| EventBlock {
            first: row.get::<_, i64>(0) as u64,
            count: row.get::<_, i64>(1) as u64,
            body: row.get(2),
        };
        Ok(rows.iter().map(block).filter(|block| block.first + block.count > since + 1).collect())
    }

    async fn values(&self, job: &JobId) -> Result<Vec<(String, Vec<u8>)>> {
        let rows = self.query("SELECT key, body FROM value WHERE job = $1", &[&job.as_str()]).await?;
        rows.iter().map(|row| Ok((text(row.get(0))?, row.get(1)))).collect()
    }

    async fn counts(&self) -> Result<Counts> {
        let sql = "SELECT (SELECT count(*) FROM job), \
                   (SELECT count(*) FROM job WHERE status = 1), (SELECT count(*) FROM job WHERE status = 2), \
                   (SELECT count(*) FROM run WHERE NOT ended), (SELECT count(*) FROM run), \
                   (SELECT value FROM counter WHERE name = 'event')";
        let rows = self.query(sql, &[]).await?;
        let row = rows.first().ok_or_else(closed_connection)?;
        let at = |n: usize| row.get::<_, i64>(n) as u64;
        let (running, all) = (at(3), at(4));
        let (jobs, paused, quarantined, last_event) = (at(0), at(1), at(2), at(5));
        Ok(Counts { jobs, paused, quarantined, running, runs: all - running, last_event })
    }

    async fn last_event(&self) -> Result<u64> {
        self.counter("event").await
    }

    async fn join(&self, node: &NodeRow, ttl: Duration) -> Result<u64> {
        let sql = "WITH n AS (SELECT nextval('lease_number') AS lease), \
                   t AS (INSERT INTO turn SELECT lease, 0, 0 FROM n) \
                   INSERT INTO lease (lease, node, lanes, until) SELECT lease, $1, $2, micros() + $3 FROM n RETURNING lease";
        let rows = self.query(sql, &[&node.name, &node.lanes, &(ttl.as_micros() as i64)]).await?;
        rows.first().map(|row| row.get::<_, i64>(0) as u64).ok_or_else(closed_connection)
    }

    async fn renew(&self, lease: u64, node: &NodeRow, wanted: Renewal) -> Result<Option<Renewed>> {
        let sql = "UPDATE lease SET until = micros() + $3, node = $4, lanes = $2 \
                   WHERE lease = $1 AND NOT fenced AND until > micros() RETURNING micros()";
        let rows =
            self.ask_first(sql, &[&(lease as i64), &node.lanes, &(wanted.ttl.as_micros() as i64), &node.name]).await?;
        Ok(rows.first().map(|row| Renewed { now: row.get(0), may_claim: true }))
    }

    async fn leave(&self, lease: u64) -> Result<()> {
        // A turn of it that is under way ends first: it may leave runs behind, and only a statement that
        // begins after it sees them.
        let sql = format!(
            "BEGIN; SELECT 1 FROM lease WHERE lease = {lease} FOR UPDATE; \
             UPDATE lease SET until = 0 WHERE lease = {lease}; \
             DELETE FROM lease WHERE lease = {lease} \
             AND NOT EXISTS (SELECT 1 FROM run WHERE lease = {lease} AND NOT ended) \
             AND NOT EXISTS (SELECT 1 FROM job WHERE asked = {lease}); \
             DELETE FROM turn WHERE lease = {lease} AND NOT EXISTS (SELECT 1 FROM lease WHERE lease = {lease}); COMMIT"
        );
        let client = self.client().await?;
        let left = tokio::time::timeout(READ_TIME_MAX, client.batch_execute(&sql)).await;
        if !matches!(left, Ok(Ok(()))) {
            drop(Object::take(client));
        }
        left.map_err(|_| lost())?.map_err(database_error)
    }

    async fn evict(&self, lease: u64) -> Result<()> {
        self.query("UPDATE lease SET until = 0 WHERE lease = $1", &[&(lease as i64)]).await.map(|_| ())
    }

    async fn nodes(&self) -> Result<Vec<NodeState>> {
        let sql = "SELECT lease, node, lanes, CASE WHEN fenced THEN 0 ELSE until - micros() END, fenced FROM lease ORDER BY lease";
        let state = |row: &Row| {
            let left: i64 = row.get(3);
            NodeState {
                lease: row.get::<_, i64>(0) as u64,
                row: NodeRow { name: row.get(1), lanes: row.get(2) },
                left: u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_micros),
                told: row.get(4),
                claims: true,
            }
        };
        Ok(self.query(sql, &[]).await?.iter().map(state).collect())
    }

    async fn left_behind(&self, lease: u64, limit: usize) -> Result<LeftBehind> {
        let (lease, limit) = (lease as i64, limit as i64);
        let runs = format!("SELECT {} FROM run WHERE lease = $1 AND NOT ended LIMIT $2", names_of(RUN));
        let runs = self.query(&runs, &[&lease, &limit]).await?.iter().map(run_row).collect::<Result<_>>()?;
        let asking = self.query("SELECT id FROM job WHERE asked = $1 LIMIT $2", &[&lease, &limit]).await?;
        let asking = asking.iter().map(|row| job_id(row.get(0))).collect::<Result<_>>()?;
        Ok(LeftBehind { runs, asking })
    }

    async fn to_cancel(&self, lease: u64) -> Result<Vec<RunId>> {
        let sql = "SELECT id FROM run WHERE lease = $1 AND NOT ended AND cancel";
        self.query(sql, &[&(lease as i64)]).await?.iter().map(|row| run_id(row.get(0))).collect()
    }

    async fn prune(&self, kept: &Kept) -> Result<Pruned> {
        let events = "WITH old AS (SELECT first FROM event WHERE first < (SELECT value FROM counter WHERE name = 'event') - $1 \
                      AND first + count <= (SELECT value FROM counter WHERE name = 'event') - $1 ORDER BY first LIMIT $2) \
                      DELETE FROM event WHERE first IN (SELECT first FROM old) RETURNING 1";
        let aged = "WITH old AS (SELECT id FROM run WHERE id < $1 AND ended ORDER BY id LIMIT $2), \
                    l AS (DELETE FROM log WHERE run IN (SELECT id FROM old)) \
                    DELETE FROM run WHERE id IN (SELECT id FROM old) RETURNING 1";
        // The jobs that have runs, each found by a step in the index.
        let jobs = "WITH RECURSIVE j(job) AS ((SELECT job FROM run WHERE job > $1 ORDER BY job LIMIT 1) \
                    UNION ALL SELECT (SELECT job FROM run WHERE job > j.job ORDER BY job LIMIT 1) FROM j WHERE job IS NOT NULL) \
                    SELECT job FROM j WHERE job IS NOT NULL LIMIT $2";
        let many = "WITH last AS (SELECT j.job, (SELECT id FROM run WHERE job = j.job ORDER BY id DESC OFFSET $1 LIMIT 1) AS id \
                    FROM unnest($3::text[]) AS j(job)), \
                    old AS (SELECT o.id FROM last, LATERAL (SELECT id FROM run WHERE job = last.job AND id <= last.id AND ended \
                    ORDER BY id LIMIT $2) o LIMIT $2), \
                    l AS (DELETE FROM log WHERE run IN (SELECT id FROM old)) \
                    DELETE FROM run WHERE id IN (SELECT id FROM old) RETURNING 1";
        let oldest = kept.oldest.0.to_bytes();
        let jobs: Vec<String> =
            self.query(jobs, &[&kept.after, &PRUNED_JOBS]).await?.iter().map(|row| row.get(0)).collect();
        let gone = [
            self.query(events, &[&(kept.events as i64), &PRUNED_MAX]).await?.len(),
            self.query(aged, &[&oldest.as_slice(), &PRUNED_MAX]).await?.len(),
            self.query(many, &[&(kept.runs_per_job as i64), &PRUNED_MAX, &jobs]).await?.len(),
        ];
        let more = gone.iter().any(|gone| *gone as i64 >= PRUNED_MAX);
        Ok(Pruned { more, last: jobs.last().filter(|_| jobs.len() as i64 == PRUNED_JOBS).cloned() })
    }

    async fn put_record(&self, kind: Kind, key: &str, bytes: &[u8]) -> Result<()> {
        let sql = "WITH c AS (UPDATE counter SET value = value + 1 WHERE name = 'catalog' AND $1 = 'plugin') \
                   INSERT INTO record VALUES ($1, $2, $3, micros()) \
                   ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body, written = excluded.written";
        self.query(sql, &[&kind.as_str(), &key, &bytes]).await.map(|_| ())
    }

    async fn replace_record(&self, kind: Kind, key: &str, before: Option<&[u8]>, bytes: &[u8]) -> Result<bool> {
        // Nothing is equal to a null, so it updates none then.
        let sql = "WITH u AS (UPDATE record SET body = $3, written = micros() \
                   WHERE kind = $1 AND key = $2 AND body = $4 RETURNING 1), \
                   i AS (INSERT INTO record SELECT $1, $2, $3, micros() WHERE $4::bytea IS NULL \
                   ON CONFLICT DO NOTHING RETURNING 1), \
                   d AS (SELECT 1 FROM u UNION ALL SELECT 1 FROM i), \
                   c AS (UPDATE counter SET value = value + 1 WHERE name = 'catalog' AND $1 = 'plugin' \
                   AND EXISTS (SELECT 1 FROM d)) SELECT 1 FROM d";
        Ok(!self.query(sql, &[&kind.as_str(), &key, &bytes, &before]).await?.is_empty())
    }

    async fn record(&self, kind: Kind, key: &str) -> Result<Option<Vec<u8>>> {
        let rows = self.query("SELECT body FROM record WHERE kind = $1 AND key = $2", &[&kind.as_str(), &key]).await?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    async fn records(&self, kind: Kind) -> Result<Vec<(String, Vec<u8>)>> {
        let rows = self.query("SELECT key, body FROM record WHERE kind = $1 ORDER BY key", &[&kind.as_str()]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    async fn keys(&self, kind: Kind, older: Duration) -> Result<Vec<String>> {
        let sql = "SELECT key FROM record WHERE kind = $1 AND written <= micros() - $2 ORDER BY key";
        let rows = self.query(sql, &[&kind.as_str(), &(older.as_micros() as i64)]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn remove_record(&self, kind: Kind, key: &str) -> Result<bool> {
        let sql = "WITH c AS (UPDATE counter SET value = value + 1 WHERE name = 'catalog' AND $1 = 'plugin') \
                   DELETE FROM record WHERE kind = $1 AND key = $2 RETURNING 1";
        Ok(!self.query(sql, &[&kind.as_str(), &key]).await?.is_empty())
    }

    async fn catalog(&self) -> Result<u64> {
        self.counter("catalog").await
    }

    async fn hint(&self) {
        self.hint.notify_one();
    }

    async fn hinted(&self) {
        self.hinted.notified().await;
    }

    async fn close(&self) {
        self.pool.close();
        self.leases.close();
    }
}
