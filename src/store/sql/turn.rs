//! A turn on MySQL or SQLite. All turns come after one another: each holds the counter of turns, from
//! its first look to its commit. Only one node claims, so there is little to gain by more.

use super::dialect::Dialect;
use super::schema::{ACTIVE, CATALOG, EVENT, TURN};
use super::session::{JOB, RUN, RunKey, Session, Value, job_values, pieces, run_values};
use super::{Sql, database_error, lost};
use crate::error::Result;
use crate::job::JobId;
use crate::run::RunId;
use crate::store::shared::{
    CommitError, Committed, Details, Found, JobRow, Levels, Lines, Load, Loaded, Reason, RunRow, Wanted, Written,
};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::marker::PhantomData;
use std::time::Duration;

/// How long the database may take for a part of a turn.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);

fn names(ids: &[JobId]) -> Vec<Value<'_>> {
    ids.iter().map(Value::from).collect()
}

fn run_keys(ids: impl Iterator<Item = RunId>) -> Vec<RunKey> {
    ids.map(RunKey::from).collect()
}

impl<D: Dialect> Sql<D> {
    /// Begins a transaction that no other one of this kind, of any node, is beside.
    pub(super) async fn exclusive(&self) -> Result<Session> {
        tokio::time::timeout(ANSWER_TIME_MAX, self.exclusive_now()).await.unwrap_or_else(|_| Err(lost()))
    }

    async fn exclusive_now(&self) -> Result<Session> {
        let mut session = self.session().await?;
        session.run(D::BEGIN).await.map_err(database_error)?;
        let hold = format!("SELECT value FROM sandclock_counter WHERE id = ?{}", D::FOR_UPDATE);
        session.query(hold, &[TURN.into()]).await.map_err(database_error)?;
        Ok(session)
    }

    /// Ends a transaction without a trace, and gives its connection back.
    pub(super) async fn undo(&self, mut session: Session) {
        if let Ok(Ok(())) = tokio::time::timeout(ANSWER_TIME_MAX, session.run("ROLLBACK")).await {
            session.give_back();
        }
    }

    pub(super) async fn begin(&self, wanted: &Wanted) -> Result<Load<Session>> {
        tokio::time::timeout(ANSWER_TIME_MAX, self.begin_now(wanted)).await.unwrap_or_else(|_| Err(lost()))
    }

    async fn begin_now(&self, wanted: &Wanted) -> Result<Load<Session>> {
        let mut session = self.exclusive().await?;
        let now = D::NOW;
        let check = format!("SELECT lease FROM sandclock_lease WHERE lease = ? AND fenced = 0 AND expires > {now}");
        let holds = session.query(check, &[wanted.lease.into()]).await.map_err(database_error)?;
        if holds.is_empty() {
            self.undo(session).await;
            return Ok(Load::LeaseLost);
        }
        let mut loaded = Loaded::default();
        if let Some(fenced) = wanted.fenced {
            let ended =
                format!("SELECT fenced FROM sandclock_lease WHERE lease = ? AND (fenced = 1 OR expires <= {now})");
            let ended = session.query(ended, &[fenced.into()]).await.map_err(database_error)?;
            let Some(ended) = ended.first() else {
                self.undo(session).await;
                return Ok(Load::NotFenced);
            };
            loaded.told = ended.int(0)? != 0;
            let fence = "UPDATE sandclock_lease SET fenced = 1 WHERE lease = ?".into();
            session.execute(fence, &[fenced.into()]).await.map_err(database_error)?;
        }
        let counters = session.query("SELECT id, value FROM sandclock_counter".into(), &[]).await;
        for row in counters.map_err(database_error)? {
            let value = row.number(1)?;
            match row.int(0)? {
                TURN => session.epoch = value + 1,
                EVENT => session.last_event = value,
                CATALOG => loaded.catalog = value,
                ACTIVE => loaded.may_claim = value == wanted.lease,
                _ => {}
            }
        }
        loaded.epoch = session.epoch;
        let (jobs, dialect) = (BTreeMap::new(), PhantomData::<D>);
        Loading { session: &mut session, wanted, jobs, dialect }.load(&mut loaded).await?;
        Ok(Load::Loaded(session, loaded))
    }

    pub(super) async fn find(&self, session: &mut Session, wanted: &Details) -> Result<Found> {
        tokio::time::timeout(ANSWER_TIME_MAX, find(session, wanted)).await.unwrap_or_else(|_| Err(lost()))
    }

    pub(super) async fn write(&self, mut session: Session, written: &Written) -> Result<Committed, CommitError> {
        let writing = async {
            Writing { session: &mut session, written }.write::<D>().await?;
            session.run("COMMIT").await.map_err(|error| CommitError::Unknown(database_error(error)))
        };
        match tokio::time::timeout(ANSWER_TIME_MAX, writing).await {
            Err(_) => Err(CommitError::Unknown(lost())),
            Ok(Err(error @ CommitError::Unknown(_))) => Err(error),
            Ok(Err(error)) => {
                self.undo(session).await;
                Err(error)
            }
            Ok(Ok(())) => {
                let first_event = session.last_event + 1;
                session.give_back();
                Ok(Committed { first_event })
            }
        }
    }
}

async fn find(session: &mut Session, wanted: &Details) -> Result<Found> {
    let mut found = Found::default();
    let sql = "SELECT id, body FROM sandclock_definition WHERE {}";
    for row in session.query_in(sql, "id", &names(&wanted.definitions)).await.map_err(database_error)? {
        found.definitions.push((row.job_id(0)?, row.bytes(1)?));
    }
    let sql = "SELECT run, arguments FROM sandclock_promise WHERE {} AND arguments IS NOT NULL";
    for row in session.query_in(sql, "job", &names(&wanted.arguments)).await.map_err(database_error)? {
        found.arguments.push((row.run_id(0)?, row.bytes(1)?));
    }
    let sql = "SELECT job, name, body FROM sandclock_value WHERE {}";
    for row in session.query_in(sql, "job", &names(&wanted.values)).await.map_err(database_error)? {
        found.values.push((row.job_id(0)?, row.text(1)?, row.bytes(2)?));
    }
    Ok(found)
}

/// Reading the jobs that a turn is about.
struct Loading<'a, D> {
    session: &'a mut Session,
    wanted: &'a Wanted,
    jobs: BTreeMap<JobId, JobRow>,
    dialect: PhantomData<D>,
}

impl<D: Dialect> Loading<'_, D> {
    async fn load(&mut self, loaded: &mut Loaded) -> Result<()> {
        let Wanted { now, named, alarms, wakes, manual, .. } = self.wanted;
        let job = JOB.join(", ");
        let sql = format!("SELECT {job} FROM sandclock_job WHERE {{}}");
        for row in self.session.query_in(&sql, "id", &names(named)).await.map_err(database_error)? {
            let row = row.job()?;
            self.jobs.insert(row.id.clone(), row);
        }
        let mut levels = Levels::new();
        if !self.wanted.lanes.is_empty() || self.wanted.orphans > 0 {
            let sql = "SELECT lane, priority FROM sandclock_level ORDER BY lane, priority DESC".into();
            for row in self.session.query(sql, &[]).await.map_err(database_error)? {
                levels.entry(row.text(0)?).or_default().push(row.int(1)?);
            }
        }
        for lane in &self.wanted.lanes {
            loaded.next.push(self.lane(lane, &levels).await?);
        }
        for (reason, most) in [(Reason::Alarm, *alarms), (Reason::Wake, *wakes), (Reason::Manual, *manual)] {
            if most > 0 {
                let column = column(reason);
                let sql = format!("SELECT {job} FROM sandclock_job WHERE {column} <= ? ORDER BY {column} LIMIT ?");
                self.add(sql, &[(*now).into(), most.into()]).await?;
            }
        }
        loaded.orphans = self.orphans(&levels).await?;
        loaded.next_alarm = self.upcoming(Reason::Alarm).await?;
        loaded.next_wake = self.upcoming(Reason::Wake).await?;
        loaded.next_manual = self.upcoming(Reason::Manual).await?;
        loaded.jobs = std::mem::take(&mut self.jobs).into_values().collect();
        Ok(())
    }

    /// Adds what a query gives, and says how much that was.
    async fn add(&mut self, sql: String, values: &[Value<'_>]) -> Result<usize> {
        let rows = self.session.query(sql, values).await.map_err(database_error)?;
        let count = rows.len();
        for row in rows {
            let row = row.job()?;
            self.jobs.entry(row.id.clone()).or_insert(row);
        }
        Ok(count)
    }

    /// The ids and times that a query gives.
    async fn times(&mut self, sql: String, values: &[Value<'_>]) -> Result<Vec<(JobId, i64)>> {
        let rows = self.session.query(sql, values).await.map_err(database_error)?;
        rows.iter().map(|row| Ok((row.job_id(0)?, row.int(1)?))).collect()
    }
}

#[async_trait]
impl<D: Dialect> Lines for Loading<'_, D> {
    fn wanted(&self) -> &Wanted {
        self.wanted
    }

    fn jobs(&self) -> &BTreeMap<JobId, JobRow> {
        &self.jobs
    }

    async fn take(&mut self, lane: &str, priority: i64, most: usize) -> Result<usize> {
        let due = format!(
            "SELECT {} FROM sandclock_job WHERE lane = ? AND priority = ? AND line <= ? \
             ORDER BY line, ticket, id LIMIT ?",
            JOB.join(", ")
        );
        self.add(due, &[lane.into(), priority.into(), self.wanted.until.into(), most.into()]).await
    }

    async fn following(
        &mut self,
        lane: &str,
        priority: i64,
        after: Option<i64>,
        most: usize,
    ) -> Result<Vec<(JobId, i64)>> {
        let sql = "SELECT id, line FROM sandclock_job WHERE lane = ? AND priority = ? AND line > ? \
                   ORDER BY line, ticket, id LIMIT ?";
        let after = after.unwrap_or(i64::MIN);
        self.times(sql.into(), &[lane.into(), priority.into(), after.into(), most.into()]).await
    }

    async fn soonest(&mut self, reason: Reason, most: usize) -> Result<Vec<(JobId, i64)>> {
        let column = column(reason);
        let sql = format!("SELECT id, {column} FROM sandclock_job WHERE {column} > ? ORDER BY {column} LIMIT ?");
        self.times(sql, &[self.wanted.now.into(), most.into()]).await
    }

    async fn served(&mut self) -> Result<BTreeSet<String>> {
        let live = format!("SELECT lanes FROM sandclock_lease WHERE fenced = 0 AND expires > {}", D::NOW);
        let mut served = BTreeSet::new();
        for row in self.session.query(live, &[]).await.map_err(database_error)? {
            served.extend(super::lanes(&row.bytes(0)?)?);
        }
        Ok(served)
    }
}

fn column(reason: Reason) -> &'static str {
    match reason {
        Reason::Alarm => "alarm",
        Reason::Wake => "wake",
        Reason::Manual => "by_hand",
    }
}

/// Writing what a turn changed.
struct Writing<'a> {
    session: &'a mut Session,
    written: &'a Written,
}

impl Writing<'_> {
    async fn write<D: Dialect>(&mut self) -> Result<(), CommitError> {
        self.jobs::<D>().await.map_err(not_committed)?;
        self.begun().await?;
        self.changed::<D>().await?;
        self.promises().await.map_err(not_committed)?;
        self.values::<D>().await.map_err(not_committed)?;
        self.last_words::<D>().await.map_err(not_committed)
    }

    async fn jobs<D: Dialect>(&mut self) -> sqlx::Result<()> {
        let Written { inserted, updated, removed, defined, .. } = self.written;
        let session = &mut *self.session;
        // Jobs go before they come: one may be removed and added again.
        session.execute_in("DELETE FROM sandclock_job WHERE {}", "id", &names(removed)).await?;
        session.execute_in("DELETE FROM sandclock_definition WHERE {}", "id", &names(removed)).await?;
        let rows: Vec<_> = updated.iter().map(job_values).collect();
        session.insert("job", &JOB, &D::or_update("id", &JOB[1..]), &rows).await?;
        let rows: Vec<_> = inserted.iter().map(job_values).collect();
        session.insert("job", &JOB, "", &rows).await?;
        let levels: BTreeSet<(&str, i64)> =
            inserted.iter().chain(updated).map(|row| (row.lane.as_str(), i64::from(row.priority))).collect();
        let levels: Vec<Vec<Value<'_>>> =
            levels.into_iter().map(|(lane, priority)| vec![lane.into(), priority.into()]).collect();
        session.insert("level", &["lane", "priority"], &D::or_leave("lane, priority"), &levels).await?;
        let rows: Vec<Vec<Value<'_>>> =
            defined.iter().map(|(id, body)| vec![id.into(), body.as_slice().into()]).collect();
        session.insert("definition", &["id", "body"], &D::or_update("id", &["body"]), &rows).await
    }

    async fn insert_runs(&mut self, runs: &[&RunRow], tail: &str) -> sqlx::Result<()> {
        let keys = run_keys(runs.iter().map(|run| run.id));
        let rows: Vec<_> = keys.iter().zip(runs).map(|(key, run)| run_values(key, run)).collect();
        self.session.insert("run", &RUN, tail, &rows).await
    }

    async fn begun(&mut self) -> Result<(), CommitError> {
        // Withdrawn before it is claimed again.
        let keys = run_keys(self.written.withdrawn.iter().copied());
        let ids: Vec<Value<'_>> = keys.iter().map(Value::from).collect();
        self.session.execute_in("DELETE FROM sandclock_run WHERE {}", "id", &ids).await.map_err(not_committed)?;
        let runs: Vec<&RunRow> = self.written.begun.iter().collect();
        self.insert_runs(&runs, "").await.map_err(claimed_before)
    }

    async fn changed<D: Dialect>(&mut self) -> Result<(), CommitError> {
        let Written { changed, logs, cancel, .. } = self.written;
        // A row that is not there is no update of another one with the same fire time.
        let keys = run_keys(changed.iter().map(|run| run.id));
        let ids: Vec<Value<'_>> = keys.iter().map(Value::from).collect();
        let known = self.session.query_in("SELECT id FROM sandclock_run WHERE {}", "id", &ids).await;
        let known: Result<HashSet<RunId>> = known.map_err(not_committed)?.iter().map(|row| row.run_id(0)).collect();
        let known = known.map_err(CommitError::Failed)?;
        let (old, new): (Vec<&RunRow>, Vec<&RunRow>) = changed.iter().partition(|run| known.contains(&run.id));
        let update = D::or_update("id", &["ended", "outcome", "body"]);
        self.insert_runs(&old, &update).await.map_err(not_committed)?;
        self.insert_runs(&new, "").await.map_err(claimed_before)?;
        let keys = run_keys(logs.iter().map(|(run, _)| *run));
        let pieces: Vec<Vec<Value<'_>>> = keys
            .iter()
            .zip(logs)
            .flat_map(|(key, (_, body))| pieces(body).map(|(n, piece)| vec![key.into(), n.into(), piece.into()]))
            .collect();
        let columns = ["run", "piece", "body"];
        self.session.insert("log", &columns, &D::or_leave("run, piece"), &pieces).await.map_err(not_committed)?;
        let keys = run_keys(cancel.iter().copied());
        let ids: Vec<Value<'_>> = keys.iter().map(Value::from).collect();
        let sql = "UPDATE sandclock_run SET cancel = 1 WHERE {} AND ended = 0";
        self.session.execute_in(sql, "id", &ids).await.map_err(not_committed).map(drop)
    }

    async fn promises(&mut self) -> sqlx::Result<()> {
        let Written { promised, unpromised, .. } = self.written;
        let keys = run_keys(unpromised.iter().copied());
        let ids: Vec<Value<'_>> = keys.iter().map(Value::from).collect();
        self.session.execute_in("DELETE FROM sandclock_promise WHERE {}", "run", &ids).await?;
        let keys = run_keys(promised.iter().map(|(run, ..)| *run));
        let rows: Vec<Vec<Value<'_>>> = keys
            .iter()
            .zip(promised)
            .map(|(key, (_, job, arguments))| vec![key.into(), job.into(), Value::Bytes(arguments.as_deref())])
            .collect();
        self.session.insert("promise", &["run", "job", "arguments"], "", &rows).await
    }

    async fn values<D: Dialect>(&mut self) -> sqlx::Result<()> {
        let Written { cleared, values, .. } = self.written;
        self.session.execute_in("DELETE FROM sandclock_value WHERE {}", "job", &names(cleared)).await?;
        let mut put: Vec<Vec<Value<'_>>> = Vec::new();
        let mut forgotten: BTreeMap<&JobId, Vec<Value<'_>>> = BTreeMap::new();
        for (job, name, value) in values {
            match value {
                Some(value) => put.push(vec![job.into(), name.as_str().into(), value.as_slice().into()]),
                None => forgotten.entry(job).or_default().push(name.as_str().into()),
            }
        }
        for (job, names) in forgotten {
            // An id has no character that would need quoting.
            let sql = format!("DELETE FROM sandclock_value WHERE {{}} AND job = x'{}'", hex(job));
            self.session.execute_in(&sql, "name", &names).await?;
        }
        let tail = D::or_update("job, name", &["body"]);
        self.session.insert("value", &["job", "name", "body"], &tail, &put).await
    }

    /// Numbers the turn and its events.
    async fn last_words<D: Dialect>(&mut self) -> sqlx::Result<()> {
        let Written { lease, turn, events, event_count, .. } = self.written;
        let session = &mut *self.session;
        let first = session.last_event + 1;
        if *event_count > 0 {
            let block = |(n, piece)| vec![first.into(), Value::from(n), (*event_count).into(), Value::from(piece)];
            let blocks: Vec<Vec<Value<'_>>> = pieces(events).map(block).collect();
            session.insert("event", &["seq", "piece", "size", "body"], "", &blocks).await?;
        }
        let set = "UPDATE sandclock_counter SET value = ? WHERE id = ?";
        session.execute(set.into(), &[session.epoch.into(), TURN.into()]).await?;
        session.execute(set.into(), &[(session.last_event + event_count).into(), EVENT.into()]).await?;
        let number = "UPDATE sandclock_turn SET number = ?, first_event = ? WHERE lease = ?";
        session.execute(number.into(), &[(*turn).into(), first.into(), (*lease).into()]).await.map(drop)
    }
}

fn hex(job: &JobId) -> String {
    job.as_str().bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Before the commit was sent, so that it cannot have happened; but who lost the connection asks again.
fn not_committed(error: sqlx::Error) -> CommitError {
    let Some(said) = error.as_database_error() else { return CommitError::Unknown(database_error(error)) };
    // A deadlock has a code of its own in the standard.
    if said.is_unique_violation() || said.code().is_some_and(|code| code == "40001") {
        return CommitError::Conflict;
    }
    CommitError::Failed(database_error(error))
}

fn claimed_before(error: sqlx::Error) -> CommitError {
    match error.as_database_error() {
        Some(said) if said.is_unique_violation() => CommitError::ClaimedBefore,
        _ => not_committed(error),
    }
}
