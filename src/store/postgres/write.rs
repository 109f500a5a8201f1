//! The end of a turn on PostgreSQL: all writes and the commit go out at once.

use super::turn::{ANSWER_TIME_MAX, Asked, Lines, Session, ask};
use super::{Postgres, database_error, lost};
use crate::job::JobId;
use crate::run::RunId;
use crate::store::shared::{CommitError, Committed, JobRow, RunRow, Written};
use base64::Engine;
use deadpool_postgres::Object;
use futures::future::join_all;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::ToSql;

impl Postgres {
    pub(super) async fn write(&self, mut session: Session, written: &Written) -> Result<Committed, CommitError> {
        let client = session.client().map_err(CommitError::Failed)?;
        self.prepare(client, &self.statements.write).await.map_err(CommitError::Failed)?;
        let mut lines = self.lines.lock().await;
        let writing = write_all(client, &self.statements.write, written, &lines);
        let answered = tokio::time::timeout(ANSWER_TIME_MAX, writing).await;
        let committed = match answered {
            Err(_) => return Err(CommitError::Unknown(lost())),
            Ok(Err(error)) => {
                self.undo(session).await;
                return Err(error);
            }
            Ok(Ok(committed)) => committed,
        };
        for row in written.inserted.iter().chain(&written.updated) {
            lines.levels.entry(row.lane.clone()).or_default().insert(i16::from(row.priority));
        }
        drop(session.0.take());
        Ok(committed)
    }
}

/// The columns of some job rows.
struct JobColumns<'a> {
    ids: Vec<&'a str>,
    revisions: Vec<i64>,
    lanes: Vec<&'a str>,
    priorities: Vec<i16>,
    lines: Vec<Option<i64>>,
    tickets: Vec<i64>,
    alarms: Vec<Option<i64>>,
    wakes: Vec<Option<i64>>,
    manual: Vec<Option<i64>>,
    asked: Vec<Option<i64>>,
    waiting: Vec<bool>,
    statuses: Vec<i16>,
    arguments: Vec<bool>,
    valued: Vec<bool>,
    states: Vec<&'a [u8]>,
}

impl<'a> JobColumns<'a> {
    fn of(rows: &'a [JobRow]) -> Self {
        JobColumns {
            ids: rows.iter().map(|row| row.id.as_str()).collect(),
            revisions: rows.iter().map(|row| row.revision as i64).collect(),
            lanes: rows.iter().map(|row| row.lane.as_str()).collect(),
            priorities: rows.iter().map(|row| i16::from(row.priority)).collect(),
            lines: rows.iter().map(|row| row.line).collect(),
            tickets: rows.iter().map(|row| row.ticket as i64).collect(),
            alarms: rows.iter().map(|row| row.alarm).collect(),
            wakes: rows.iter().map(|row| row.wake).collect(),
            manual: rows.iter().map(|row| row.manual).collect(),
            asked: rows.iter().map(|row| row.asked.map(|lease| lease as i64)).collect(),
            waiting: rows.iter().map(|row| row.waiting).collect(),
            statuses: rows.iter().map(|row| row.status).collect(),
            arguments: rows.iter().map(|row| row.arguments).collect(),
            valued: rows.iter().map(|row| row.valued).collect(),
            states: rows.iter().map(|row| row.state.as_slice()).collect(),
        }
    }

    fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        vec![
            &self.ids,
            &self.revisions,
            &self.lanes,
            &self.priorities,
            &self.lines,
            &self.tickets,
            &self.alarms,
            &self.wakes,
            &self.manual,
            &self.asked,
            &self.waiting,
            &self.statuses,
            &self.arguments,
            &self.valued,
            &self.states,
        ]
    }
}

struct RunColumns<'a> {
    ids: Vec<Vec<u8>>,
    jobs: Vec<&'a str>,
    scheduled: Vec<i64>,
    fires: Vec<Option<i64>>,
    revisions: Vec<i64>,
    leases: Vec<i64>,
    ended: Vec<bool>,
    outcomes: Vec<Option<i16>>,
    bodies: Vec<&'a [u8]>,
}

impl<'a> RunColumns<'a> {
    fn of(rows: &'a [RunRow]) -> Self {
        RunColumns {
            ids: run_bytes(rows.iter().map(|row| row.id)),
            jobs: rows.iter().map(|row| row.job.as_str()).collect(),
            scheduled: rows.iter().map(|row| row.scheduled).collect(),
            fires: rows.iter().map(|row| row.fire).collect(),
            revisions: rows.iter().map(|row| row.revision as i64).collect(),
            leases: rows.iter().map(|row| row.lease as i64).collect(),
            ended: rows.iter().map(|row| row.ended).collect(),
            outcomes: rows.iter().map(|row| row.outcome).collect(),
            bodies: rows.iter().map(|row| row.body.as_slice()).collect(),
        }
    }

    fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        vec![
            &self.ids,
            &self.jobs,
            &self.scheduled,
            &self.fires,
            &self.revisions,
            &self.leases,
            &self.ended,
            &self.outcomes,
            &self.bodies,
        ]
    }
}

/// Sends all writes and the commit at once.
async fn write_all(
    client: &Object,
    statements: &[String; 16],
    written: &Written,
    lines: &Lines,
) -> Result<Committed, CommitError> {
    let [
        update,
        insert,
        level,
        remove,
        undefine,
        define,
        begin,
        change,
        log,
        promise,
        unpromise,
        clear,
        unset,
        set,
        cancel,
        withdraw,
    ] = statements;
    let (updated, inserted) = (JobColumns::of(&written.updated), JobColumns::of(&written.inserted));
    let (begun, changed) = (RunColumns::of(&written.begun), RunColumns::of(&written.changed));
    let removed: Vec<&str> = written.removed.iter().map(JobId::as_str).collect();
    let defined: (Vec<&str>, Vec<&[u8]>) =
        written.defined.iter().map(|(id, body)| (id.as_str(), body.as_slice())).unzip();
    let new_level = |row: &&JobRow| {
        let known = lines.levels.get(&row.lane);
        !known.is_some_and(|known| known.contains(&i16::from(row.priority)))
    };
    let levels: (Vec<&str>, Vec<i16>) = written
        .inserted
        .iter()
        .chain(&written.updated)
        .filter(new_level)
        .map(|row| (row.lane.as_str(), i16::from(row.priority)))
        .unzip();
    let logs: (Vec<Vec<u8>>, Vec<&[u8]>) =
        (run_bytes(written.logs.iter().map(|(run, _)| *run)), written.logs.iter().map(|(_, body)| &body[..]).collect());
    let promised = run_bytes(written.promised.iter().map(|(run, ..)| *run));
    let promised_jobs: Vec<&str> = written.promised.iter().map(|(_, job, _)| job.as_str()).collect();
    let promised_arguments: Vec<Option<&[u8]>> =
        written.promised.iter().map(|(.., arguments)| arguments.as_deref()).collect();
    let unpromised = run_bytes(written.unpromised.iter().copied());
    let cleared: Vec<&str> = written.cleared.iter().map(JobId::as_str).collect();
    let (put, forgotten): (Vec<_>, Vec<_>) = written.values.iter().partition(|(.., value)| value.is_some());
    let key = |(job, key, _): &&'_ (JobId, String, Option<Vec<u8>>)| (job.as_str().to_owned(), key.as_bytes().to_vec());
    let put_keys: (Vec<String>, Vec<Vec<u8>>) = put.iter().map(key).unzip();
    let put_bodies: Vec<Option<&[u8]>> = put.iter().map(|(.., value)| value.as_deref()).collect();
    let forgotten: (Vec<String>, Vec<Vec<u8>>) = forgotten.iter().map(key).unzip();
    let cancelled = run_bytes(written.cancel.iter().copied());
    let withdrawn = run_bytes(written.withdrawn.iter().copied());

    let mut writes: Vec<Asked<'_>> = Vec::new();
    let mut inserting = None;
    // Jobs go before they come: one may be removed and added again.
    if !removed.is_empty() {
        writes.push(ask(client, remove, vec![&removed]));
        writes.push(ask(client, undefine, vec![&removed]));
    }
    if !updated.ids.is_empty() {
        writes.push(ask(client, update, updated.params()));
    }
    if !inserted.ids.is_empty() {
        inserting = Some(writes.len());
        writes.push(ask(client, insert, inserted.params()));
    }
    if !levels.0.is_empty() {
        writes.push(ask(client, level, vec![&levels.0, &levels.1]));
    }
    if !defined.0.is_empty() {
        writes.push(ask(client, define, vec![&defined.0, &defined.1]));
    }
    // Withdrawn before it is claimed again.
    if !withdrawn.is_empty() {
        writes.push(ask(client, withdraw, vec![&withdrawn]));
    }
    if !begun.ids.is_empty() {
        writes.push(ask(client, begin, begun.params()));
    }
    if !changed.ids.is_empty() {
        writes.push(ask(client, change, changed.params()));
    }
    if !logs.0.is_empty() {
        writes.push(ask(client, log, vec![&logs.0, &logs.1]));
    }
    if !unpromised.is_empty() {
        writes.push(ask(client, unpromise, vec![&unpromised]));
    }
    if !promised.is_empty() {
        writes.push(ask(client, promise, vec![&promised, &promised_jobs, &promised_arguments]));
    }
    if !cleared.is_empty() {
        writes.push(ask(client, clear, vec![&cleared]));
    }
    if !forgotten.0.is_empty() {
        writes.push(ask(client, unset, vec![&forgotten.0, &forgotten.1]));
    }
    if !put_keys.0.is_empty() {
        writes.push(ask(client, set, vec![&put_keys.0, &put_keys.1, &put_bodies]));
    }
    if !cancelled.is_empty() {
        writes.push(ask(client, cancel, vec![&cancelled]));
    }
    // A race for an id is only known from its answer, and must not be committed.
    if inserting.is_some() {
        let answers = join_all(writes.drain(..)).await;
        let answers = answers.into_iter().collect::<Result<Vec<_>, _>>().map_err(not_committed)?;
        if inserting.is_some_and(|at| answers[at].len() < written.inserted.len()) {
            return Err(CommitError::Conflict);
        }
    }
    let last = last_words(written);
    let (answers, committed) = futures::future::join(join_all(writes), client.simple_query(&last)).await;
    for answer in answers {
        answer.map_err(not_committed)?;
    }
    let committed = committed.map_err(not_committed)?;
    let first = committed.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    Ok(Committed { first_event: first.unwrap_or(0) })
}

/// Numbers the turn and its events, and commits, in one message: it arrives whole or not at all, so the
/// counter that all nodes wait for is held for the time of the commit and no longer.
fn last_words(written: &Written) -> String {
    let Written { lease, turn, events, event_count: count, .. } = written;
    if *count == 0 {
        return format!("UPDATE turn SET number = {turn} WHERE lease = {lease}; COMMIT");
    }
    let body = base64::engine::general_purpose::STANDARD.encode(events);
    format!(
        "WITH c AS (UPDATE counter SET value = value + {count} WHERE name = 'event' RETURNING value - {count} + 1 AS first), \
         t AS (UPDATE turn SET number = {turn}, first_event = c.first FROM c WHERE lease = {lease}) \
         INSERT INTO event SELECT first, {count}, decode('{body}', 'base64') FROM c RETURNING first; COMMIT"
    )
}

/// Whether others held what a statement wanted for too long.
pub fn is_race(error: &tokio_postgres::Error) -> bool {
    use tokio_postgres::error::SqlState;
    let code = error.code();
    code == Some(&SqlState::LOCK_NOT_AVAILABLE) || code == Some(&SqlState::T_R_DEADLOCK_DETECTED)
}

fn not_committed(error: tokio_postgres::Error) -> CommitError {
    use tokio_postgres::error::SqlState;
    let Some(said) = error.as_db_error() else { return CommitError::Unknown(database_error(error)) };
    match *said.code() {
        SqlState::UNIQUE_VIOLATION if said.constraint() == Some("run_fire") => CommitError::ClaimedBefore,
        SqlState::UNIQUE_VIOLATION | SqlState::T_R_SERIALIZATION_FAILURE => CommitError::Conflict,
        _ if is_race(&error) => CommitError::Conflict,
        // The server was told to stop, and does not say when.
        SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => {
            CommitError::Unknown(database_error(error))
        }
        _ => CommitError::Failed(database_error(error)),
    }
}

pub fn run_bytes(ids: impl Iterator<Item = RunId>) -> Vec<Vec<u8>> {
    ids.map(|id| id.0.to_bytes().to_vec()).collect()
}
