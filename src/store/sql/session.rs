//! A connection in use: statements with their values, and rows.

use crate::error::Result;
use crate::job::JobId;
use crate::run::RunId;
use crate::store::shared::{JobRow, RunRow, failed, job_id, run_id, text};
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, Arguments, AssertSqlSafe, Executor, Row as _};

/// Bytes of one piece of what may be larger than the server takes at once.
pub const PIECE_BYTES: usize = 1 << 20;
/// Rows of one statement, and values of one list.
const ROWS_MAX: usize = 128;
const LIST_MAX: usize = 256;

/// A value that goes with a statement.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    Int(Option<i64>),
    Bytes(Option<&'a [u8]>),
}

impl Value<'_> {
    fn size(&self) -> usize {
        match self {
            Value::Bytes(Some(bytes)) => bytes.len(),
            _ => size_of::<i64>(),
        }
    }
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Value::Int(Some(value))
    }
}

impl From<u64> for Value<'_> {
    fn from(value: u64) -> Self {
        Value::Int(Some(value as i64))
    }
}

impl From<usize> for Value<'_> {
    fn from(value: usize) -> Self {
        Value::Int(Some(value as i64))
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Value::Int(Some(i64::from(value)))
    }
}

impl From<Option<i64>> for Value<'_> {
    fn from(value: Option<i64>) -> Self {
        Value::Int(value)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Value::Bytes(Some(value.as_bytes()))
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(value: &'a [u8]) -> Self {
        Value::Bytes(Some(value))
    }
}

impl<'a> From<&'a JobId> for Value<'a> {
    fn from(value: &'a JobId) -> Self {
        value.as_str().into()
    }
}

/// A run's id as it is stored.
#[derive(Clone, Copy)]
pub struct RunKey([u8; 16]);

impl From<RunId> for RunKey {
    fn from(id: RunId) -> Self {
        RunKey(id.0.to_bytes())
    }
}

impl<'a> From<&'a RunKey> for Value<'a> {
    fn from(key: &'a RunKey) -> Self {
        Value::Bytes(Some(&key.0))
    }
}

/// A row that was read.
pub struct Row(AnyRow);

impl Row {
    pub fn int(&self, at: usize) -> Result<i64> {
        self.0.try_get(at).map_err(unreadable)
    }

    pub fn number(&self, at: usize) -> Result<u64> {
        Ok(self.int(at)? as u64)
    }

    pub fn maybe_int(&self, at: usize) -> Result<Option<i64>> {
        self.0.try_get(at).map_err(unreadable)
    }

    pub fn flag(&self, at: usize) -> Result<bool> {
        Ok(self.int(at)? != 0)
    }

    pub fn bytes(&self, at: usize) -> Result<Vec<u8>> {
        self.0.try_get(at).map_err(unreadable)
    }

    pub fn text(&self, at: usize) -> Result<String> {
        text(self.bytes(at)?)
    }

    pub fn job_id(&self, at: usize) -> Result<JobId> {
        job_id(&self.text(at)?)
    }

    pub fn run_id(&self, at: usize) -> Result<RunId> {
        run_id(&self.bytes(at)?)
    }

    /// A job, of [`JOB`].
    pub fn job(&self) -> Result<JobRow> {
        Ok(JobRow {
            id: self.job_id(0)?,
            revision: self.number(1)?,
            lane: self.text(2)?,
            priority: self.int(3)? as i8,
            line: self.maybe_int(4)?,
            ticket: self.number(5)?,
            alarm: self.maybe_int(6)?,
            wake: self.maybe_int(7)?,
            manual: self.maybe_int(8)?,
            asked: self.maybe_int(9)?.map(|lease| lease as u64),
            waiting: self.flag(10)?,
            status: self.int(11)? as i16,
            arguments: self.flag(12)?,
            valued: self.flag(13)?,
            state: self.bytes(14)?,
        })
    }

    /// A run, of [`RUN`].
    pub fn run(&self) -> Result<RunRow> {
        Ok(RunRow {
            id: self.run_id(0)?,
            job: self.job_id(1)?,
            scheduled: self.int(2)?,
            fire: self.maybe_int(3)?,
            revision: self.number(4)?,
            lease: self.number(5)?,
            ended: self.flag(6)?,
            outcome: self.maybe_int(7)?.map(|outcome| outcome as i16),
            body: self.bytes(8)?,
        })
    }
}

fn unreadable(error: sqlx::Error) -> crate::Error {
    failed("what the database holds cannot be read", error)
}

pub const JOB: [&str; 15] = [
    "id",
    "revision",
    "lane",
    "priority",
    "line",
    "ticket",
    "alarm",
    "wake",
    "by_hand",
    "asked",
    "waiting",
    "status",
    "arguments",
    "valued",
    "state",
];

pub const RUN: [&str; 10] =
    ["id", "job", "scheduled", "fire", "revision", "lease", "ended", "outcome", "body", "cancel"];

pub fn job_values(row: &JobRow) -> Vec<Value<'_>> {
    vec![
        (&row.id).into(),
        row.revision.into(),
        row.lane.as_str().into(),
        i64::from(row.priority).into(),
        row.line.into(),
        row.ticket.into(),
        row.alarm.into(),
        row.wake.into(),
        row.manual.into(),
        row.asked.map(|lease| lease as i64).into(),
        row.waiting.into(),
        i64::from(row.status).into(),
        row.arguments.into(),
        row.valued.into(),
        row.state.as_slice().into(),
    ]
}

pub fn run_values<'a>(key: &'a RunKey, row: &'a RunRow) -> Vec<Value<'a>> {
    vec![
        key.into(),
        (&row.job).into(),
        row.scheduled.into(),
        row.fire.into(),
        row.revision.into(),
        row.lease.into(),
        row.ended.into(),
        row.outcome.map(i64::from).into(),
        row.body.as_slice().into(),
        false.into(),
    ]
}

/// A connection taken from the pool, perhaps in the middle of a transaction. Dropped, it is closed, which
/// undoes that.
pub struct Session {
    connection: Option<PoolConnection<Any>>,
    /// The counters, as they were when the transaction began.
    pub epoch: u64,
    pub last_event: u64,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            drop(connection.detach());
        }
    }
}

impl Session {
    pub fn new(connection: PoolConnection<Any>) -> Self {
        Session { connection: Some(connection), epoch: 0, last_event: 0 }
    }

    /// Lets somebody else have the connection. No transaction may be open.
    pub fn give_back(mut self) {
        drop(self.connection.take());
    }

    fn connection(&mut self) -> sqlx::Result<&mut AnyConnection> {
        self.connection.as_deref_mut().ok_or(sqlx::Error::PoolClosed)
    }

    /// Statements without values.
    pub async fn run(&mut self, sql: &'static str) -> sqlx::Result<()> {
        self.connection()?.execute(sqlx::raw_sql(sql)).await.map(drop)
    }

    pub async fn query(&mut self, sql: String, values: &[Value<'_>]) -> sqlx::Result<Vec<Row>> {
        let query = sqlx::query_with(AssertSqlSafe(sql), arguments(values)?);
        Ok(self.connection()?.fetch_all(query).await?.into_iter().map(Row).collect())
    }

    /// How many rows it was about.
    pub async fn execute(&mut self, sql: String, values: &[Value<'_>]) -> sqlx::Result<u64> {
        let query = sqlx::query_with(AssertSqlSafe(sql), arguments(values)?);
        Ok(self.connection()?.execute(query).await?.rows_affected())
    }

    /// Inserts rows, many with one statement; `tail` says what to do about those that are there.
    pub async fn insert(
        &mut self,
        table: &str,
        columns: &[&str],
        tail: &str,
        rows: &[Vec<Value<'_>>],
    ) -> sqlx::Result<()> {
        let places = format!("({})", vec!["?"; columns.len()].join(", "));
        let mut rest = rows;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(batch(rest));
            let all = vec![places.as_str(); now.len()].join(", ");
            let sql = format!("INSERT INTO sandclock_{table} ({}) VALUES {all}{tail}", columns.join(", "));
            self.execute(sql, &now.concat()).await?;
            rest = later;
        }
        Ok(())
    }

    /// A query about rows whose `column` is one of many; `{}` stands for that.
    pub async fn query_in(&mut self, sql: &str, column: &str, values: &[Value<'_>]) -> sqlx::Result<Vec<Row>> {
        let mut rows = Vec::new();
        for (list, values) in lists(column, values) {
            rows.extend(self.query(sql.replace("{}", &list), &values).await?);
        }
        Ok(rows)
    }

    pub async fn execute_in(&mut self, sql: &str, column: &str, values: &[Value<'_>]) -> sqlx::Result<u64> {
        let mut affected = 0;
        for (list, values) in lists(column, values) {
            affected += self.execute(sql.replace("{}", &list), &values).await?;
        }
        Ok(affected)
    }
}

fn arguments(values: &[Value<'_>]) -> sqlx::Result<AnyArguments> {
    let mut arguments = AnyArguments::default();
    for value in values {
        match value {
            Value::Int(value) => arguments.add(*value),
            Value::Bytes(value) => arguments.add(value.map(<[u8]>::to_vec)),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

/// How many rows go with the next statement: a power of two, so that few different ones are prepared,
/// and no more than any server takes.
fn batch(rows: &[Vec<Value<'_>>]) -> usize {
    let mut bytes = 0;
    let fits = rows.iter().take(ROWS_MAX).take_while(|row| {
        bytes += row.iter().map(Value::size).sum::<usize>();
        bytes <= PIECE_BYTES
    });
    1 << fits.count().max(1).ilog2()
}

/// Lists of values, each with as many as a power of two: the last one is repeated.
fn lists<'a>(column: &str, values: &[Value<'a>]) -> Vec<(String, Vec<Value<'a>>)> {
    let list = |values: &[Value<'a>]| {
        let mut values = values.to_vec();
        if let Some(last) = values.last().copied() {
            values.resize(values.len().next_power_of_two(), last);
        }
        (format!("{column} IN ({})", vec!["?"; values.len()].join(", ")), values)
    };
    values.chunks(LIST_MAX).map(list).collect()
}

/// What is to be stored, in pieces; one at least.
pub fn pieces(body: &[u8]) -> impl Iterator<Item = (i64, &[u8])> {
    let none = body.is_empty().then_some(body);
    (0..).zip(none.into_iter().chain(body.chunks(PIECE_BYTES)))
}
