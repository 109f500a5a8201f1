//! Runs, events and records on Redis, and forgetting what is old.

use super::keys;
use super::session::{Indexes, Session};
use super::{Redis, database_error};
use crate::error::Result;
use crate::job::JobId;
use crate::run::RunId;
use crate::store::shared::{EventBlock, JobRow, Kept, Kind, RunQuery, RunRow};
use redis::{Pipeline, pipe};
use std::collections::BTreeMap;
use std::time::Duration;

/// Members that one look at an index takes.
const LOOK_MAX: usize = 1000;
/// What one step of forgetting removes.
const PRUNED_MAX: usize = 2000;

fn put(kind: Kind, key: &str, bytes: &[u8], now: i64) -> Pipeline {
    let mut commands = pipe();
    commands.atomic().cmd("HSET").arg(keys::records(kind.as_str())).arg(key).arg(bytes).ignore();
    commands.cmd("HSET").arg(keys::written(kind.as_str())).arg(key).arg(now).ignore();
    if kind == Kind::Plugin {
        commands.cmd("HINCRBY").arg(keys::COUNTER).arg("catalog").arg(1).ignore();
    }
    commands
}

impl Redis {
    pub(super) async fn list_jobs(
        &self,
        after: Option<&str>,
        status: Option<i16>,
        limit: usize,
    ) -> Result<Vec<(JobRow, Vec<u8>)>> {
        let mut session = self.session().await?;
        let index = status.map_or(keys::IDS.to_owned(), keys::status);
        let mut after = after.map_or("-".to_owned(), |after| format!("({after}"));
        let mut jobs = Vec::new();
        while jobs.len() < limit {
            let names = session.range(&index, &after, "+", limit - jobs.len()).await?;
            let Some(last) = names.last() else { break };
            after = format!("({last}");
            let ids = names.iter().map(|name| keys::job_of(name, 0)).collect::<Result<Vec<_>>>()?;
            // One may have gone meanwhile.
            jobs.extend(whole_jobs(&mut session, &ids).await?);
        }
        session.give_back();
        Ok(jobs)
    }

    pub(super) async fn one_job(&self, id: &JobId) -> Result<Option<(JobRow, Vec<u8>)>> {
        let mut session = self.session().await?;
        let job = whole_jobs(&mut session, std::slice::from_ref(id)).await?.pop();
        session.give_back();
        Ok(job)
    }

    pub(super) async fn find_runs(&self, query: &RunQuery) -> Result<Vec<RunRow>> {
        let RunQuery { before, job, outcome, since, until, limit } = query;
        let index = job.as_ref().map_or(keys::RUNS.to_owned(), keys::runs_of);
        let mut from = before.map_or("+".to_owned(), |id| format!("({id}"));
        let wanted = |run: &RunRow| {
            outcome.is_none_or(|outcome| run.outcome == Some(outcome))
                && since.is_none_or(|since| run.scheduled >= since)
                && until.is_none_or(|until| run.scheduled < until)
        };
        let mut session = self.session().await?;
        let mut runs = Vec::new();
        loop {
            let names = session.range_down(&index, &from, "-", LOOK_MAX.min(limit.max(&100) + 1)).await?;
            let Some(last) = names.last() else { break };
            from = format!("({last}");
            let ids = names.iter().map(|name| keys::run_id(name)).collect::<Result<Vec<_>>>()?;
            runs.extend(session.runs(&ids).await?.into_iter().filter(wanted));
            if runs.len() >= *limit {
                break;
            }
        }
        runs.truncate(*limit);
        session.give_back();
        Ok(runs)
    }

    pub(super) async fn event_blocks(&self, since: u64, limit: usize) -> Result<Vec<EventBlock>> {
        let mut session = self.session().await?;
        // The block of the event after `since` may begin before it.
        let start = format!("[{}", keys::time(since as i64 + 1));
        let from = session.range_down(keys::EVENTS, &start, "-", 1).await?.pop();
        let from = from.map_or(start, |from| format!("[{from}"));
        let members = session.range(keys::EVENTS, &from, "+", limit).await?;
        let firsts = members.iter().map(|member| Ok(keys::read_time(member)? as u64)).collect::<Result<Vec<_>>>()?;
        let bodies = session.fields(keys::EVENT, &firsts).await?;
        session.give_back();
        let mut blocks = Vec::new();
        for (first, packed) in firsts.into_iter().zip(bodies) {
            let Some(packed) = packed else { continue };
            let (count, body) = keys::unpack_events(&packed)?;
            if first + count > since + 1 {
                blocks.push(EventBlock { first, count, body });
            }
        }
        Ok(blocks)
    }

    pub(super) async fn put(&self, kind: Kind, key: &str, bytes: &[u8]) -> Result<()> {
        let mut session = self.session().await?;
        let commands = put(kind, key, bytes, session.now().await?);
        session.send::<()>(&commands).await?;
        session.give_back();
        Ok(())
    }

    pub(super) async fn replace(&self, kind: Kind, key: &str, before: Option<&[u8]>, bytes: &[u8]) -> Result<bool> {
        let mut session = self.session().await?;
        let records = keys::records(kind.as_str());
        let same = loop {
            session.watch(&[&records]).await?;
            let now: Option<Vec<u8>> = session.ask(redis::cmd("HGET").arg(&records).arg(key)).await?;
            if now.as_deref() != before {
                session.unwatch().await?;
                break false;
            }
            let commands = put(kind, key, bytes, session.now().await?);
            // Another record may have been written meanwhile.
            if session.exec(&commands).await.map_err(database_error)?.is_some() {
                break true;
            }
        };
        session.give_back();
        Ok(same)
    }

    pub(super) async fn remove(&self, kind: Kind, key: &str) -> Result<bool> {
        let mut session = self.session().await?;
        let mut commands = pipe();
        commands.atomic().cmd("HDEL").arg(keys::records(kind.as_str())).arg(key);
        commands.cmd("HDEL").arg(keys::written(kind.as_str())).arg(key).ignore();
        if kind == Kind::Plugin {
            commands.cmd("HINCRBY").arg(keys::COUNTER).arg("catalog").arg(1).ignore();
        }
        let (removed,): (u64,) = session.send(&commands).await?;
        session.give_back();
        Ok(removed > 0)
    }

    pub(super) async fn old_keys(&self, kind: Kind, older: Duration) -> Result<Vec<String>> {
        let mut session = self.session().await?;
        let written: BTreeMap<String, i64> =
            session.ask(redis::cmd("HGETALL").arg(keys::written(kind.as_str()))).await?;
        let until = session.now().await? - older.as_micros() as i64;
        session.give_back();
        Ok(written.into_iter().filter(|(_, at)| *at <= until).map(|(key, _)| key).collect())
    }

    pub(super) async fn forget(&self, kept: &Kept) -> Result<bool> {
        let mut session = self.session().await?;
        let events = forget_events(&mut session, kept.events).await?;
        let oldest = format!("({}", kept.oldest);
        let aged = session.range(keys::RUNS, "-", &oldest, PRUNED_MAX).await?;
        let aged = forget_runs(&mut session, &aged).await?;
        let many = forget_many(&mut session, kept.runs_per_job).await?;
        session.give_back();
        Ok([events, aged, many].iter().any(|gone| *gone >= PRUNED_MAX))
    }
}

/// Jobs with their definitions, of one moment; those that there are.
async fn whole_jobs(session: &mut Session, ids: &[JobId]) -> Result<Vec<(JobRow, Vec<u8>)>> {
    let names: Vec<&str> = ids.iter().map(JobId::as_str).collect();
    let mut commands = pipe();
    commands.atomic().cmd("HMGET").arg(keys::JOB).arg(&names).cmd("HMGET").arg(keys::DEFINITION).arg(&names);
    type Fields = Vec<Option<Vec<u8>>>;
    let (rows, definitions): (Fields, Fields) = session.send(&commands).await?;
    let there = ids.iter().zip(rows.into_iter().zip(definitions));
    there
        .filter_map(|(id, (row, definition))| Some((id, row?, definition?)))
        .map(|(id, row, definition)| Ok((keys::unpack_job(id, &row)?, definition)))
        .collect()
}

async fn forget_events(session: &mut Session, kept: u64) -> Result<usize> {
    let last: Option<u64> = session.ask(redis::cmd("HGET").arg(keys::COUNTER).arg("event")).await?;
    let below = last.unwrap_or(0).saturating_sub(kept);
    let members: Vec<String> = session.ask(redis::cmd("ZRANGE").arg(keys::EVENTS).arg(0).arg(PRUNED_MAX)).await?;
    let mut old = Vec::new();
    for pair in members.windows(2) {
        // A block ends where the next one begins.
        if keys::read_time(&pair[1])? as u64 > below {
            break;
        }
        old.push(&pair[0]);
    }
    if !old.is_empty() {
        let firsts = old.iter().map(|member| Ok(keys::read_time(member)? as u64)).collect::<Result<Vec<_>>>()?;
        let mut commands = pipe();
        commands.atomic().cmd("ZREM").arg(keys::EVENTS).arg(&old).ignore();
        commands.cmd("HDEL").arg(keys::EVENT).arg(firsts).ignore();
        session.send::<()>(&commands).await?;
    }
    Ok(old.len())
}

/// Forgets those that have ended.
async fn forget_runs(session: &mut Session, names: &[String]) -> Result<usize> {
    let ids = names.iter().map(|name| keys::run_id(name)).collect::<Result<Vec<RunId>>>()?;
    let runs: Vec<RunRow> = session.runs(&ids).await?.into_iter().filter(|run| run.ended).collect();
    let mut commands = pipe();
    let mut indexes = Indexes::default();
    commands.atomic();
    for run in &runs {
        let name = run.id.to_string();
        commands.cmd("HDEL").arg(keys::RUN).arg(&name).ignore().cmd("HDEL").arg(keys::LOG).arg(&name).ignore();
        if let Some(fire) = keys::fire(run) {
            commands.cmd("HDEL").arg(keys::FIRE).arg(fire).ignore();
        }
        indexes.remove(keys::RUNS.into(), name.clone());
        indexes.remove(keys::runs_of(&run.job), name);
    }
    indexes.send(&mut commands);
    if !runs.is_empty() {
        session.exec(&commands).await.map_err(database_error)?;
    }
    Ok(runs.len())
}

/// Forgets runs of jobs that have more of them than are kept. Only jobs that ran since the last look may.
async fn forget_many(session: &mut Session, kept: usize) -> Result<usize> {
    let mut gone = 0;
    while gone < PRUNED_MAX {
        let job: Option<String> = session.ask(redis::cmd("SPOP").arg(keys::BUSY_JOBS)).await?;
        let Some(job) = job else { break };
        let index = keys::runs_of(&keys::job_of(&job, 0)?);
        let count: usize = session.ask(redis::cmd("ZCARD").arg(&index)).await?;
        let most = count.saturating_sub(kept).min(PRUNED_MAX);
        if most > 0 {
            let old = session.range(&index, "-", "+", most).await?;
            let forgotten = forget_runs(session, &old).await?;
            gone += forgotten;
            // What goes on, and what was too much for one step, is looked at again.
            if forgotten > 0 {
                session.ask::<()>(redis::cmd("SADD").arg(keys::BUSY_JOBS).arg(&job)).await?;
            }
        }
    }
    Ok(gone)
}
