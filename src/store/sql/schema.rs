//! The tables, and how older ones become them.

use super::dialect::{Dialect, Table};
use super::session::Session;
use super::{Sql, database_error, failed};
use crate::error::{Error, Result};

/// What is counted, each under its number in the table `counter`.
pub const TURN: i64 = 1;
pub const EVENT: i64 = 2;
pub const CATALOG: i64 = 3;
pub const LEASE: i64 = 4;
/// The lease that may claim; 0 if nobody has claimed yet.
pub const ACTIVE: i64 = 5;

/// Each step is applied once, in order, and never changed after it was released.
const MIGRATIONS: &[&[Table]] = &[&[
    Table { name: "counter", columns: "id {int}, value {int} NOT NULL", key: "id", unique: &[], indexes: &[] },
    Table {
        name: "lease",
        columns: "lease {int}, node {blob} NOT NULL, lanes {blob} NOT NULL, expires {int} NOT NULL, fenced {int} NOT NULL",
        key: "lease",
        unique: &[],
        indexes: &[],
    },
    Table {
        name: "turn",
        columns: "lease {int}, number {int} NOT NULL, first_event {int} NOT NULL, asked {int} NOT NULL",
        key: "lease",
        unique: &[],
        indexes: &[],
    },
    Table {
        name: "job",
        columns: "id {key}, revision {int} NOT NULL, lane {key} NOT NULL, priority {int} NOT NULL, line {int}, \
                  ticket {int} NOT NULL, alarm {int}, wake {int}, by_hand {int}, asked {int}, waiting {int} NOT NULL, \
                  status {int} NOT NULL, arguments {int} NOT NULL, valued {int} NOT NULL, state {blob} NOT NULL",
        key: "id",
        unique: &[],
        indexes: &["lane, priority, line, ticket, id", "alarm", "wake", "by_hand", "asked", "status, id"],
    },
    Table { name: "level", columns: "lane {key}, priority {int}", key: "lane, priority", unique: &[], indexes: &[] },
    Table { name: "definition", columns: "id {key}, body {blob} NOT NULL", key: "id", unique: &[], indexes: &[] },
    Table {
        name: "run",
        columns: "id {key}, job {key} NOT NULL, scheduled {int} NOT NULL, fire {int}, revision {int} NOT NULL, \
                  lease {int} NOT NULL, ended {int} NOT NULL, outcome {int}, cancel {int} NOT NULL, body {blob} NOT NULL",
        key: "id",
        unique: &["job, fire, revision"],
        indexes: &["job, id", "lease, ended"],
    },
    Table {
        name: "log",
        columns: "run {key}, piece {int}, body {blob} NOT NULL",
        key: "run, piece",
        unique: &[],
        indexes: &[],
    },
    Table {
        name: "promise",
        columns: "run {key}, job {key} NOT NULL, arguments {blob}",
        key: "run",
        unique: &[],
        indexes: &["job"],
    },
    Table {
        name: "value",
        columns: "job {key}, name {key}, body {blob} NOT NULL",
        key: "job, name",
        unique: &[],
        indexes: &[],
    },
    Table {
        name: "event",
        columns: "seq {int}, piece {int}, size {int} NOT NULL, body {blob} NOT NULL",
        key: "seq, piece",
        unique: &[],
        indexes: &[],
    },
    Table {
        name: "record",
        columns: "kind {key}, name {key}, piece {int}, written {int} NOT NULL, body {blob} NOT NULL",
        key: "kind, name, piece",
        unique: &[],
        indexes: &[],
    },
]];

const VERSIONS: Table = Table {
    name: "migration",
    columns: "version {int}, applied {int} NOT NULL",
    key: "version",
    unique: &[],
    indexes: &[],
};

impl<D: Dialect> Sql<D> {
    /// Brings the tables to this program's version, one node at a time.
    pub(super) async fn migrate(&self) -> Result<()> {
        let mut session = self.session().await?;
        let mut hold = D::HOLD.iter();
        let held = session.query((*hold.next().unwrap_or(&"SELECT 1")).into(), &[]).await.map_err(database_error)?;
        if held.first().map(|row| row.int(0)).transpose()? != Some(1) {
            let what = "another node is changing the tables and does not come to an end".into();
            return Err(Error::StoreFailed { what, source: None });
        }
        for sql in hold {
            session.run(sql).await.map_err(database_error)?;
        }
        self.migrate_held(&mut session).await?;
        session.run(D::RELEASE).await.map_err(database_error)?;
        session.give_back();
        Ok(())
    }

    async fn migrate_held(&self, session: &mut Session) -> Result<()> {
        for sql in D::create(&VERSIONS) {
            let sql = sql.replacen("CREATE TABLE sandclock", "CREATE TABLE IF NOT EXISTS sandclock", 1);
            session.execute(sql, &[]).await.map_err(database_error)?;
        }
        let newest = "SELECT COALESCE(MAX(version), 0) FROM sandclock_migration";
        let found = session.query(newest.into(), &[]).await.map_err(database_error)?;
        let found = found.first().map_or(Ok(0), |row| row.int(0))?;
        let known = MIGRATIONS.len() as i64;
        if found > known {
            let (found, known) = (found as u32, known as u32);
            return Err(Error::StoreFormat { dir: "the database".into(), found, known });
        }
        for (tables, version) in MIGRATIONS.iter().zip(1i64..).skip(found as usize) {
            for sql in tables.iter().flat_map(D::create) {
                session.execute(sql, &[]).await.map_err(|e| failed("cannot make the tables", e))?;
            }
            let counters: Vec<_> = (TURN..=ACTIVE).map(|id| vec![id.into(), 0i64.into()]).collect();
            let columns = ["id", "value"];
            session.insert("counter", &columns, &D::or_leave("id"), &counters).await.map_err(database_error)?;
            let note = format!("INSERT INTO sandclock_migration (version, applied) VALUES (?, {})", D::NOW);
            session.execute(note, &[version.into()]).await.map_err(database_error)?;
        }
        Ok(())
    }
}
