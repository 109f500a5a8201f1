//! Records in pieces, events, and forgetting what is old, on MySQL and SQLite.

use super::dialect::Dialect;
use super::schema::{CATALOG, EVENT};
use super::session::{Row, RunKey, Session, Value, pieces};
use super::{Sql, database_error};
use crate::error::Result;
use crate::job::JobId;
use crate::store::shared::{EventBlock, Kept, Kind, Pruned};
use std::collections::BTreeMap;

/// Rows that one step of forgetting removes.
const PRUNED_MAX: usize = 2000;
/// Jobs that are looked at, one step after the other, for having too many runs.
const PRUNED_JOBS: usize = 1000;

/// What was stored in pieces, if there is any.
pub fn whole(rows: &[Row]) -> Result<Option<Vec<u8>>> {
    let mut all = Vec::new();
    for row in rows {
        all.extend(row.bytes(0)?);
    }
    Ok(Some(all).filter(|_| !rows.is_empty()))
}

/// The pieces of a record.
pub const RECORD: &str = "SELECT body FROM sandclock_record WHERE kind = ? AND name = ? ORDER BY piece";

async fn put<D: Dialect>(session: &mut Session, kind: Kind, key: &str, bytes: &[u8]) -> sqlx::Result<()> {
    let put = format!(
        "INSERT INTO sandclock_record (kind, name, piece, body, written) VALUES (?, ?, ?, ?, {}){}",
        D::NOW,
        D::or_update("kind, name, piece", &["body", "written"])
    );
    let mut last = 0;
    for (n, piece) in pieces(bytes) {
        let values: [Value<'_>; 4] = [kind.as_str().into(), key.into(), n.into(), piece.into()];
        session.execute(put.clone(), &values).await?;
        last = n;
    }
    let rest = "DELETE FROM sandclock_record WHERE kind = ? AND name = ? AND piece > ?".into();
    session.execute(rest, &[kind.as_str().into(), key.into(), last.into()]).await?;
    renumber(session, kind).await
}

/// A plugin has come, changed or gone.
async fn renumber(session: &mut Session, kind: Kind) -> sqlx::Result<()> {
    if kind == Kind::Plugin {
        let sql = "UPDATE sandclock_counter SET value = value + 1 WHERE id = ?".into();
        session.execute(sql, &[CATALOG.into()]).await?;
    }
    Ok(())
}

impl<D: Dialect> Sql<D> {
    pub(super) async fn put(&self, kind: Kind, key: &str, bytes: &[u8]) -> Result<()> {
        self.with(async |session| {
            session.run(D::BEGIN).await?;
            put::<D>(session, kind, key, bytes).await?;
            session.run("COMMIT").await
        })
        .await
    }

    pub(super) async fn replace(&self, kind: Kind, key: &str, before: Option<&[u8]>, bytes: &[u8]) -> Result<bool> {
        self.with(async |session| {
            session.run(D::BEGIN).await?;
            // One at a time, also where there is no row yet to hold.
            let hold = format!("SELECT value FROM sandclock_counter WHERE id = ?{}", D::FOR_UPDATE);
            session.query(hold, &[CATALOG.into()]).await?;
            let now = format!("{RECORD}{}", D::FOR_UPDATE);
            let rows = session.query(now, &[kind.as_str().into(), key.into()]).await?;
            let same = whole(&rows).is_ok_and(|now| now.as_deref() == before);
            if same {
                put::<D>(session, kind, key, bytes).await?;
            }
            session.run("COMMIT").await?;
            Ok(same)
        })
        .await
    }

    pub(super) async fn all_records(&self, kind: Kind) -> Result<Vec<(String, Vec<u8>)>> {
        let sql = "SELECT name, body FROM sandclock_record WHERE kind = ? ORDER BY name, piece";
        let mut records: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for row in self.query(sql.into(), &[kind.as_str().into()]).await? {
            records.entry(row.text(0)?).or_default().extend(row.bytes(1)?);
        }
        Ok(records.into_iter().collect())
    }

    pub(super) async fn remove(&self, kind: Kind, key: &str) -> Result<bool> {
        self.with(async |session| {
            session.run(D::BEGIN).await?;
            let sql = "DELETE FROM sandclock_record WHERE kind = ? AND name = ?".into();
            let removed = session.execute(sql, &[kind.as_str().into(), key.into()]).await?;
            renumber(session, kind).await?;
            session.run("COMMIT").await?;
            Ok(removed > 0)
        })
        .await
    }

    pub(super) async fn event_blocks(&self, since: u64, limit: usize) -> Result<Vec<EventBlock>> {
        // The block of the event after `since` may begin before it.
        let sql = "SELECT COALESCE(MAX(seq), 0) FROM sandclock_event WHERE seq <= ?".into();
        let from = self.query(sql, &[(since + 1).into()]).await?.first().map_or(Ok(0), |row| row.int(0))?;
        let sql = "SELECT seq FROM sandclock_event WHERE seq >= ? AND piece = 0 ORDER BY seq LIMIT ?".into();
        let found = self.query(sql, &[from.into(), limit.into()]).await?;
        let Some(to) = found.last().map(|row| row.int(0)).transpose()? else { return Ok(Vec::new()) };
        let sql = "SELECT seq, size, body FROM sandclock_event WHERE seq >= ? AND seq <= ? ORDER BY seq, piece";
        let mut blocks: Vec<EventBlock> = Vec::new();
        for row in self.query(sql.into(), &[from.into(), to.into()]).await? {
            let (first, count, body) = (row.number(0)?, row.number(1)?, row.bytes(2)?);
            match blocks.last_mut().filter(|block| block.first == first) {
                Some(block) => block.body.extend(body),
                None => blocks.push(EventBlock { first, count, body }),
            }
        }
        blocks.retain(|block| block.first + block.count > since + 1);
        Ok(blocks)
    }

    pub(super) async fn forget(&self, kept: &Kept) -> Result<Pruned> {
        let last = self.counter(EVENT).await?;
        let below = last.saturating_sub(kept.events);
        let sql = "SELECT seq FROM sandclock_event WHERE piece = 0 AND seq + size <= ? ORDER BY seq LIMIT ?";
        let old = self.query(sql.into(), &[below.into(), PRUNED_MAX.into()]).await?;
        let seqs = old.iter().map(|row| Ok(row.int(0)?.into())).collect::<Result<Vec<Value<'_>>>>()?;
        self.with(async |session| session.execute_in("DELETE FROM sandclock_event WHERE {}", "seq", &seqs).await)
            .await?;
        let sql = "SELECT id FROM sandclock_run WHERE id < ? AND ended = 1 ORDER BY id LIMIT ?";
        let oldest = RunKey::from(kept.oldest);
        let aged = self.query(sql.into(), &[(&oldest).into(), PRUNED_MAX.into()]).await?;
        self.forget_runs(&aged).await?;
        let sql = "SELECT DISTINCT job FROM sandclock_run WHERE job > ? ORDER BY job LIMIT ?";
        let jobs = self.query(sql.into(), &[kept.after.as_str().into(), PRUNED_JOBS.into()]).await?;
        let jobs = jobs.iter().map(|row| row.job_id(0)).collect::<Result<Vec<_>>>()?;
        let many = self.too_many(&jobs, kept.runs_per_job).await?;
        self.forget_runs(&many).await?;
        let more = [old, aged, many].iter().any(|gone| gone.len() >= PRUNED_MAX);
        Ok(Pruned { more, last: jobs.last().filter(|_| jobs.len() == PRUNED_JOBS).map(JobId::to_string) })
    }

    async fn forget_runs(&self, runs: &[Row]) -> Result<()> {
        let keys = runs.iter().map(|row| row.run_id(0).map(RunKey::from)).collect::<Result<Vec<_>>>()?;
        let ids: Vec<Value<'_>> = keys.iter().map(Value::from).collect();
        self.with(async |session| {
            session.execute_in("DELETE FROM sandclock_log WHERE {}", "run", &ids).await?;
            session.execute_in("DELETE FROM sandclock_run WHERE {}", "id", &ids).await
        })
        .await
        .map(drop)
    }

    /// Runs of these jobs that are more than are kept.
    async fn too_many(&self, jobs: &[JobId], kept: usize) -> Result<Vec<Row>> {
        let names: Vec<Value<'_>> = jobs.iter().map(Value::from).collect();
        // An index says how many there are, so few jobs cost more than a look at that.
        let sql = format!("SELECT job FROM sandclock_run WHERE {{}} GROUP BY job HAVING count(*) > {kept}");
        let full = self.with(async |session| session.query_in(&sql, "job", &names).await).await?;
        let mut runs = Vec::new();
        let mut session = self.session().await?;
        for job in full {
            let left = PRUNED_MAX - runs.len();
            if left == 0 {
                break;
            }
            let sql = "SELECT id FROM sandclock_run WHERE job = ? AND ended = 1 ORDER BY id DESC LIMIT ? OFFSET ?";
            let job = job.job_id(0)?;
            let values = [(&job).into(), left.into(), kept.into()];
            runs.extend(session.query(sql.into(), &values).await.map_err(database_error)?);
        }
        session.give_back();
        Ok(runs)
    }
}
