//! What MySQL and SQLite say differently.

use crate::error::Result;
use crate::invalid::Invalid;

/// A table, as both make it.
pub struct Table {
    pub name: &'static str,
    /// With the types `{int}`, `{key}` for short bytes, and `{blob}`.
    pub columns: &'static str,
    pub key: &'static str,
    pub unique: &'static [&'static str],
    pub indexes: &'static [&'static str],
}

/// A kind of database. Texts are kept as bytes everywhere, so that they sort by them and trailing spaces
/// count.
pub trait Dialect: Send + Sync + 'static {
    /// How its URLs begin.
    const SCHEME: &'static str;
    /// What such a URL looks like.
    const EXAMPLE: &'static str;
    const INT: &'static str;
    const KEY: &'static str;
    const BLOB: &'static str;
    /// The database's time in microseconds, when it is asked.
    const NOW: &'static str;
    /// What a connection is told first.
    const SESSION: &'static str;
    /// Begins a transaction that writes.
    const BEGIN: &'static str;
    /// Appended to a query: nobody else gets these rows before the transaction ends.
    const FOR_UPDATE: &'static str;
    /// Begins and ends changing the tables, one node at a time; the first gives 1 if it is this node's turn.
    const HOLD: &'static [&'static str];
    const RELEASE: &'static str;

    /// Makes a table and its indexes.
    fn create(table: &Table) -> Vec<String>;

    /// What follows the rows of an `INSERT` to put these columns of rows that are there already.
    fn or_update(key: &str, columns: &[&str]) -> String;

    /// The same, to leave rows as they are.
    fn or_leave(key: &str) -> String;

    /// Looks at a URL, and makes what must be there before it is opened.
    fn prepare(url: &str) -> Result<()>;
}

fn typed<D: Dialect>(columns: &str) -> String {
    columns.replace("{int}", D::INT).replace("{key}", D::KEY).replace("{blob}", D::BLOB)
}

/// The password may be in it, so a refused URL is not repeated.
fn refused<D: Dialect>(reason: &str) -> crate::Error {
    Invalid::new("store", format!("{}…", D::SCHEME), reason).hint(format!("a URL such as `{}`", D::EXAMPLE)).into()
}

#[cfg(feature = "mysql")]
pub struct Mysql;

#[cfg(feature = "mysql")]
impl Dialect for Mysql {
    const SCHEME: &'static str = "mysql://";
    const EXAMPLE: &'static str = "mysql://user:password@host/database";
    const INT: &'static str = "BIGINT";
    const KEY: &'static str = "VARBINARY(256)";
    const BLOB: &'static str = "LONGBLOB";
    // Not NOW: that is when the statement began, which may have waited since.
    const NOW: &'static str = "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)";
    // A node that does not go on is hung up on, or its transaction would hold up the others. They wait a
    // little longer than that. Without a strict mode, what is too long would be cut.
    const SESSION: &'static str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
                                   SET SESSION wait_timeout = 3, innodb_lock_wait_timeout = 5, \
                                   sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', autocommit = 1";
    const BEGIN: &'static str = "START TRANSACTION";
    const FOR_UPDATE: &'static str = " FOR UPDATE";
    // Changing tables ends transactions here, so a lock that is none of theirs is held meanwhile.
    const HOLD: &'static [&'static str] =
        &["SELECT GET_LOCK(MD5(CONCAT('sandclock ', DATABASE())), 60)", "SET SESSION wait_timeout = 600"];
    const RELEASE: &'static str =
        "DO RELEASE_LOCK(MD5(CONCAT('sandclock ', DATABASE()))); SET SESSION wait_timeout = 3";

    fn create(table: &Table) -> Vec<String> {
        let Table { name, key, .. } = table;
        let mut parts = format!("{}, PRIMARY KEY ({key})", typed::<Self>(table.columns));
        for (columns, n) in table.unique.iter().zip(1..) {
            parts.push_str(&format!(", UNIQUE INDEX {name}_only{n} ({columns})"));
        }
        for (columns, n) in table.indexes.iter().zip(1..) {
            parts.push_str(&format!(", INDEX {name}_by{n} ({columns})"));
        }
        vec![format!("CREATE TABLE IF NOT EXISTS sandclock_{name} ({parts}) ENGINE=InnoDB ROW_FORMAT=DYNAMIC")]
    }

    fn or_update(_: &str, columns: &[&str]) -> String {
        let sets: Vec<String> = columns.iter().map(|column| format!("{column} = VALUES({column})")).collect();
        format!(" ON DUPLICATE KEY UPDATE {}", sets.join(", "))
    }

    fn or_leave(key: &str) -> String {
        let first = key.split(',').next().unwrap_or(key);
        format!(" ON DUPLICATE KEY UPDATE {first} = VALUES({first})")
    }

    fn prepare(url: &str) -> Result<()> {
        let named = url.strip_prefix(Self::SCHEME).and_then(|rest| rest.split_once('/'));
        match named.map(|(_, name)| name.split('?').next().unwrap_or_default()) {
            Some(name) if !name.is_empty() => Ok(()),
            _ => Err(refused::<Self>("it names no database")),
        }
    }
}

#[cfg(feature = "sqlite")]
pub struct Sqlite;

#[cfg(feature = "sqlite")]
impl Dialect for Sqlite {
    const SCHEME: &'static str = "sqlite://";
    const EXAMPLE: &'static str = "sqlite:///var/lib/sandclock/jobs.db";
    const INT: &'static str = "INTEGER";
    const KEY: &'static str = "BLOB";
    const BLOB: &'static str = "BLOB";
    const NOW: &'static str = "CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER)";
    const SESSION: &'static str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL";
    // A transaction that reads first and writes later could find that somebody else has written.
    const BEGIN: &'static str = "BEGIN IMMEDIATE";
    const FOR_UPDATE: &'static str = "";
    const HOLD: &'static [&'static str] = &["SELECT 1", "BEGIN IMMEDIATE"];
    const RELEASE: &'static str = "COMMIT";

    fn create(table: &Table) -> Vec<String> {
        let Table { name, key, .. } = table;
        let columns = typed::<Self>(table.columns);
        let mut made = vec![format!("CREATE TABLE sandclock_{name} ({columns}, PRIMARY KEY ({key}))")];
        for (columns, n) in table.unique.iter().zip(1..) {
            made.push(format!("CREATE UNIQUE INDEX sandclock_{name}_only{n} ON sandclock_{name} ({columns})"));
        }
        for (columns, n) in table.indexes.iter().zip(1..) {
            made.push(format!("CREATE INDEX sandclock_{name}_by{n} ON sandclock_{name} ({columns})"));
        }
        made
    }

    fn or_update(key: &str, columns: &[&str]) -> String {
        let sets: Vec<String> = columns.iter().map(|column| format!("{column} = excluded.{column}")).collect();
        format!(" ON CONFLICT ({key}) DO UPDATE SET {}", sets.join(", "))
    }

    fn or_leave(key: &str) -> String {
        format!(" ON CONFLICT ({key}) DO NOTHING")
    }

    fn prepare(url: &str) -> Result<()> {
        use std::str::FromStr;
        let options = sqlx::sqlite::SqliteConnectOptions::from_str(url).map_err(|e| refused::<Self>(&e.to_string()))?;
        if !url.starts_with(Self::SCHEME) || url.contains(":memory:") || url.contains("mode=memory") {
            return Err(refused::<Self>("it names no file"));
        }
        // It holds secrets: nobody else may read it, and the files that SQLite puts beside it.
        let file = options.get_filename();
        let made = crate::files::append_to(file);
        made.map(drop).map_err(|e| super::failed(format!("cannot open `{}`", file.display()), e))
    }
}
