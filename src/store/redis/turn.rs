//! A turn on Redis: it watches one key, reads, and writes everything at once if nobody else has taken a
//! turn meanwhile.

use super::keys::{self, LeaseRow};
use super::session::{Indexes, Session};
use super::{Redis, database_error};
use crate::error::{Error, Result};
use crate::job::JobId;
use crate::run::RunId;
use crate::store::shared::{
    CommitError, Committed, Details, Found, JobRow, Levels, Lines, Load, Loaded, Reason, RunRow, Wanted, Written,
    failed,
};
use async_trait::async_trait;
use redis::{Pipeline, pipe};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

/// How long a turn waits for another one's end before it goes on all the same.
const WAIT_TIME_MAX: Duration = Duration::from_millis(500);
const WAIT: Duration = Duration::from_millis(2);
/// After so long the end of a turn is not waited for any more.
const BUSY_TIME_MAX: Duration = Duration::from_secs(1);

impl Redis {
    pub(super) async fn begin(&self, wanted: &Wanted) -> Result<Load<Session>> {
        let mut session = self.session().await?;
        wait_in_line(&mut session).await?;
        let refused = match Loading::new(&mut session, wanted).load().await? {
            Read::Loaded(loaded) => return Ok(Load::Loaded(session, loaded)),
            Read::LeaseLost => Load::LeaseLost,
            Read::NotFenced => Load::NotFenced,
            Read::Torn => Load::Conflict,
        };
        self.undo(session).await;
        Ok(refused)
    }

    /// Ends a transaction without a trace, and gives its connection back.
    pub(super) async fn undo(&self, mut session: Session) {
        let mut commands = pipe();
        commands.cmd("DEL").arg(keys::BUSY).ignore().cmd("UNWATCH").ignore();
        if session.send::<()>(&commands).await.is_ok() {
            session.give_back();
        }
    }

    pub(super) async fn find(&self, session: &mut Session, wanted: &Details) -> Result<Found> {
        let names: Vec<&str> = wanted.definitions.iter().map(JobId::as_str).collect();
        let definitions = session.fields(keys::DEFINITION, &names).await?;
        let definitions = wanted.definitions.iter().cloned().zip(definitions);
        let mut found =
            Found { definitions: definitions.filter_map(|(id, body)| Some((id, body?))).collect(), ..Found::default() };
        found.arguments = own_arguments(session, &wanted.arguments).await?;
        if !wanted.values.is_empty() {
            let mut commands = pipe();
            for job in &wanted.values {
                commands.cmd("HGETALL").arg(keys::values_of(job));
            }
            let values: Vec<BTreeMap<String, Vec<u8>>> = session.send(&commands).await?;
            for (job, values) in wanted.values.iter().zip(values) {
                found.values.extend(values.into_iter().map(|(key, value)| (job.clone(), key, value)));
            }
        }
        // What was read goes together only if nobody wrote meanwhile.
        let epoch: Option<u64> = session.ask(redis::cmd("HGET").arg(keys::COUNTER).arg("epoch")).await?;
        if epoch.unwrap_or(0) + 1 == session.epoch { Ok(found) } else { Err(torn()) }
    }

    pub(super) async fn write(&self, mut session: Session, written: &Written) -> Result<Committed, CommitError> {
        let commands = match Writing::new(&mut session, written).commands().await {
            Ok(commands) => commands,
            Err(error) => {
                self.undo(session).await;
                return Err(error);
            }
        };
        match session.exec(&commands).await {
            Ok(Some(_)) => {
                let first_event = session.last_event + 1;
                session.give_back();
                Ok(Committed { first_event })
            }
            Ok(None) => {
                self.undo(session).await;
                Err(CommitError::Conflict)
            }
            // The server says that it did not do it; whoever does not hear from it cannot know.
            Err(error) if error.code().is_some() && !error.is_io_error() => {
                Err(CommitError::Failed(database_error(error)))
            }
            Err(error) => Err(CommitError::Unknown(database_error(error))),
        }
    }
}

fn torn() -> Error {
    Error::StoreFailed { what: "other nodes changed what a turn was reading".into(), source: None }
}

/// Waits until no other turn is under way, or has been so for too long.
async fn wait_in_line(session: &mut Session) -> Result<()> {
    let since = Instant::now();
    loop {
        let mut hold = redis::cmd("SET");
        hold.arg(keys::BUSY).arg(1).arg("NX").arg("PX").arg(BUSY_TIME_MAX.as_millis() as u64);
        let held: Option<String> = session.ask(&hold).await?;
        if held.is_some() || since.elapsed() > WAIT_TIME_MAX {
            return Ok(());
        }
        tokio::time::sleep(WAIT).await;
    }
}

/// Arguments that runs of jobs have of their own.
pub async fn own_arguments(session: &mut Session, jobs: &[JobId]) -> Result<Vec<(RunId, Vec<u8>)>> {
    let mut runs: Vec<String> = Vec::new();
    for job in jobs {
        let of: Vec<String> = session.ask(redis::cmd("ZRANGE").arg(keys::promises_of(job)).arg(0).arg(-1)).await?;
        runs.extend(of);
    }
    let promises = session.fields(keys::PROMISE, &runs).await?;
    let mut found = Vec::new();
    for (run, promise) in runs.iter().zip(promises) {
        let Some(promise) = promise else { continue };
        if let (_, Some(arguments)) = keys::unpack_promise(&promise)? {
            found.push((keys::run_id(run)?, arguments));
        }
    }
    Ok(found)
}

/// What came of reading.
enum Read {
    Loaded(Loaded),
    LeaseLost,
    NotFenced,
    /// Somebody else wrote meanwhile.
    Torn,
}

/// Reading the jobs that a turn is about.
struct Loading<'a> {
    session: &'a mut Session,
    wanted: &'a Wanted,
    jobs: BTreeMap<JobId, JobRow>,
    time: i64,
}

impl<'a> Loading<'a> {
    fn new(session: &'a mut Session, wanted: &'a Wanted) -> Self {
        Loading { session, wanted, jobs: BTreeMap::new(), time: 0 }
    }

    async fn load(mut self) -> Result<Read> {
        let fenced = self.wanted.fenced.map(keys::lease);
        let watched: Vec<&str> = [keys::TURN].into_iter().chain(fenced.as_deref()).collect();
        self.session.watch(&watched).await?;
        let mut commands = pipe();
        commands.cmd("GET").arg(keys::lease(self.wanted.lease)).cmd("GET").arg(keys::ACTIVE);
        commands.cmd("HMGET").arg(keys::COUNTER).arg("epoch").arg("event").arg("catalog");
        commands.cmd("TIME").cmd("SMEMBERS").arg(keys::LEVELS);
        type Answer = (Option<Vec<u8>>, Option<u64>, (Option<u64>, Option<u64>, Option<u64>), (i64, i64), Vec<String>);
        let (lease, active, (epoch, event, catalog), (seconds, micros), levels): Answer =
            self.session.send(&commands).await?;
        self.time = seconds * 1_000_000 + micros;
        let lease = lease.map(|row| LeaseRow::unpack(&row)).transpose()?;
        if !lease.is_some_and(|lease| lease.holds(self.time)) {
            return Ok(Read::LeaseLost);
        }
        let told = match self.wanted.fenced {
            None => false,
            Some(dead) => match self.fence(dead).await? {
                Some(told) => told,
                None => return Ok(Read::NotFenced),
            },
        };
        self.session.epoch = epoch.unwrap_or(0) + 1;
        self.session.last_event = event.unwrap_or(0);
        let mut loaded = Loaded {
            epoch: self.session.epoch,
            catalog: catalog.unwrap_or(0),
            may_claim: active == Some(self.wanted.lease),
            told,
            ..Loaded::default()
        };
        self.load_jobs(&mut loaded, &read_levels(&levels)?).await?;
        let now: Option<u64> = self.session.ask(redis::cmd("HGET").arg(keys::COUNTER).arg("epoch")).await?;
        if now != epoch {
            return Ok(Read::Torn);
        }
        loaded.jobs = self.jobs.values().cloned().collect();
        self.session.before = self.jobs;
        Ok(Read::Loaded(loaded))
    }

    /// Notes that a lease is to be ended, if it has run out; says whether it was before.
    async fn fence(&mut self, dead: u64) -> Result<Option<bool>> {
        let row: Option<Vec<u8>> = self.session.ask(redis::cmd("GET").arg(keys::lease(dead))).await?;
        let Some(row) = row else { return Ok(None) };
        let mut row = LeaseRow::unpack(&row)?;
        if row.holds(self.time) {
            return Ok(None);
        }
        let told = std::mem::replace(&mut row.fenced, true);
        self.session.fenced = Some((dead, row.pack()?));
        Ok(Some(told))
    }

    async fn load_jobs(&mut self, loaded: &mut Loaded, levels: &Levels) -> Result<()> {
        let Wanted { now, named, lanes, alarms, wakes, manual, .. } = self.wanted;
        self.add(named).await?;
        for lane in lanes {
            loaded.next.push(self.lane(lane, levels).await?);
        }
        let due = format!("({}", keys::time(now.saturating_add(1)));
        for (reason, most) in [(Reason::Alarm, *alarms), (Reason::Wake, *wakes), (Reason::Manual, *manual)] {
            if most > 0 {
                let members = self.session.range(index(reason), "-", &due, most).await?;
                let ids = members.iter().map(|member| keys::job_of(member, keys::TIME)).collect::<Result<Vec<_>>>()?;
                self.add(&ids).await?;
            }
        }
        loaded.orphans = self.orphans(levels).await?;
        loaded.next_alarm = self.upcoming(Reason::Alarm).await?;
        loaded.next_wake = self.upcoming(Reason::Wake).await?;
        loaded.next_manual = self.upcoming(Reason::Manual).await?;
        Ok(())
    }

    async fn add(&mut self, ids: &[JobId]) -> Result<()> {
        let new: Vec<JobId> = ids.iter().filter(|id| !self.jobs.contains_key(id)).cloned().collect();
        if !new.is_empty() {
            let rows = self.session.jobs(&new).await?;
            self.jobs.extend(rows.into_iter().map(|row| (row.id.clone(), row)));
        }
        Ok(())
    }
}

#[async_trait]
impl Lines for Loading<'_> {
    fn wanted(&self) -> &Wanted {
        self.wanted
    }

    fn jobs(&self) -> &BTreeMap<JobId, JobRow> {
        &self.jobs
    }

    async fn take(&mut self, lane: &str, priority: i64, most: usize) -> Result<usize> {
        let due = format!("({}", keys::time(self.wanted.until.saturating_add(1)));
        let members = self.session.range(&keys::line(lane, priority), "-", &due, most).await?;
        let ids = members.iter().map(|member| keys::job_of(member, keys::TIME * 2)).collect::<Result<Vec<_>>>()?;
        self.add(&ids).await?;
        Ok(ids.len())
    }

    async fn following(
        &mut self,
        lane: &str,
        priority: i64,
        after: Option<i64>,
        most: usize,
    ) -> Result<Vec<(JobId, i64)>> {
        let after = after.map_or("-".to_owned(), |after| format!("[{}", keys::time(after.saturating_add(1))));
        let members = self.session.range(&keys::line(lane, priority), &after, "+", most).await?;
        members.iter().map(|member| Ok((keys::job_of(member, keys::TIME * 2)?, keys::read_time(member)?))).collect()
    }

    async fn soonest(&mut self, reason: Reason, most: usize) -> Result<Vec<(JobId, i64)>> {
        let after = format!("[{}", keys::time(self.wanted.now.saturating_add(1)));
        let members = self.session.range(index(reason), &after, "+", most).await?;
        members.iter().map(|member| Ok((keys::job_of(member, keys::TIME)?, keys::read_time(member)?))).collect()
    }

    async fn served(&mut self) -> Result<BTreeSet<String>> {
        let leases = super::leases(self.session).await?;
        let holding = leases.into_iter().map(|(_, row)| row).filter(|row| row.holds(self.time));
        Ok(holding.flat_map(|row| row.node.lanes).collect())
    }
}

fn index(reason: Reason) -> &'static str {
    match reason {
        Reason::Alarm => keys::ALARM,
        Reason::Wake => keys::WAKE,
        Reason::Manual => keys::MANUAL,
    }
}

fn read_levels(members: &[String]) -> Result<Levels> {
    let mut levels = Levels::new();
    for member in members {
        let (lane, priority) = member.rsplit_once(':').unwrap_or((member, ""));
        let priority = priority.parse().map_err(|e: std::num::ParseIntError| failed("a line cannot be read", e))?;
        levels.entry(lane.to_owned()).or_default().push(priority);
    }
    for priorities in levels.values_mut() {
        priorities.sort_unstable_by(|a, b| b.cmp(a));
    }
    Ok(levels)
}

/// Writing what a turn changed.
struct Writing<'a> {
    session: &'a mut Session,
    written: &'a Written,
    commands: Pipeline,
    indexes: Indexes,
}

impl<'a> Writing<'a> {
    fn new(session: &'a mut Session, written: &'a Written) -> Self {
        Writing { session, written, commands: pipe(), indexes: Indexes::default() }
    }

    /// Everything, to be done at once.
    async fn commands(mut self) -> Result<Pipeline, CommitError> {
        self.commands.atomic();
        self.jobs().map_err(CommitError::Failed)?;
        self.runs().await?;
        self.rest().await.map_err(CommitError::Failed)?;
        self.indexes.send(&mut self.commands);
        self.last_words().map_err(CommitError::Failed)?;
        Ok(self.commands)
    }

    fn jobs(&mut self) -> Result<()> {
        let Written { inserted, updated, removed, defined, .. } = self.written;
        for id in removed {
            let old = self.session.before.get(id).map(keys::entries).unwrap_or_default();
            old.into_iter().for_each(|(key, member)| self.indexes.remove(key, member));
            self.commands.cmd("HDEL").arg(keys::JOB).arg(id.as_str()).ignore();
            self.commands.cmd("HDEL").arg(keys::DEFINITION).arg(id.as_str()).ignore();
        }
        for row in inserted.iter().chain(updated) {
            let old: BTreeSet<_> = self.session.before.get(&row.id).into_iter().flat_map(keys::entries).collect();
            let new: BTreeSet<_> = keys::entries(row).into_iter().collect();
            for (key, member) in old.difference(&new) {
                self.indexes.remove(key.clone(), member.clone());
            }
            for (key, member) in new.difference(&old) {
                self.indexes.add(key.clone(), member.clone());
            }
            self.commands.cmd("HSET").arg(keys::JOB).arg(row.id.as_str()).arg(keys::pack_job(row)?).ignore();
        }
        let levels: BTreeSet<String> =
            inserted.iter().chain(updated).map(|row| format!("{}:{}", row.lane, row.priority)).collect();
        if !levels.is_empty() {
            self.commands.cmd("SADD").arg(keys::LEVELS).arg(levels).ignore();
        }
        for (id, body) in defined {
            self.commands.cmd("HSET").arg(keys::DEFINITION).arg(id.as_str()).arg(body).ignore();
        }
        Ok(())
    }

    async fn runs(&mut self) -> Result<(), CommitError> {
        let Written { begun, changed, cancel, withdrawn, .. } = self.written;
        let undone = self.session.runs(withdrawn).await.map_err(CommitError::Failed)?;
        for run in &undone {
            self.undo_run(run);
        }
        let undone: HashSet<String> = undone.iter().filter_map(keys::fire).collect();
        let ids: Vec<RunId> = changed.iter().map(|run| run.id).chain(cancel.iter().copied()).collect();
        let old = self.session.runs(&ids).await.map_err(CommitError::Failed)?;
        let old: HashMap<RunId, RunRow> = old.into_iter().map(|run| (run.id, run)).collect();
        let new: Vec<&RunRow> = begun.iter().chain(changed.iter().filter(|run| !old.contains_key(&run.id))).collect();
        let fires: Vec<String> = new.iter().copied().filter_map(keys::fire).collect();
        let claimed = self.session.fields(keys::FIRE, &fires).await.map_err(CommitError::Failed)?;
        let distinct: HashSet<&String> = fires.iter().collect();
        let before = fires.iter().zip(&claimed).any(|(fire, run)| run.is_some() && !undone.contains(fire));
        if distinct.len() < fires.len() || before {
            return Err(CommitError::ClaimedBefore);
        }
        for run in new {
            self.new_run(run).map_err(CommitError::Failed)?;
        }
        for run in changed {
            if let Some(old) = old.get(&run.id) {
                // Who began it and for which fire time stays.
                let RunRow { ended, outcome, body, .. } = run.clone();
                let run = RunRow { ended, outcome, body, ..old.clone() };
                if run.ended {
                    self.indexes.remove(keys::going(run.lease), run.id.to_string());
                    self.indexes.remove(keys::cancel(run.lease), run.id.to_string());
                }
                self.put_run(&run).map_err(CommitError::Failed)?;
            }
        }
        let ended: HashSet<RunId> = changed.iter().filter(|run| run.ended).map(|run| run.id).collect();
        for id in cancel.iter().filter(|id| !ended.contains(id)) {
            if let Some(run) = old.get(id).filter(|run| !run.ended) {
                self.indexes.add(keys::cancel(run.lease), id.to_string());
            }
        }
        Ok(())
    }

    fn put_run(&mut self, run: &RunRow) -> Result<()> {
        self.commands.cmd("HSET").arg(keys::RUN).arg(run.id.to_string()).arg(keys::pack_run(run)?).ignore();
        Ok(())
    }

    /// Forgets a run that was claimed ahead, as if it had never been.
    fn undo_run(&mut self, run: &RunRow) {
        let id = run.id.to_string();
        self.indexes.remove(keys::RUNS.into(), id.clone());
        self.indexes.remove(keys::runs_of(&run.job), id.clone());
        self.indexes.remove(keys::going(run.lease), id.clone());
        self.indexes.remove(keys::cancel(run.lease), id.clone());
        if let Some(fire) = keys::fire(run) {
            self.commands.cmd("HDEL").arg(keys::FIRE).arg(fire).ignore();
        }
        self.commands.cmd("HDEL").arg(keys::RUN).arg(id).ignore();
    }

    fn new_run(&mut self, run: &RunRow) -> Result<()> {
        let id = run.id.to_string();
        self.indexes.add(keys::RUNS.into(), id.clone());
        self.indexes.add(keys::runs_of(&run.job), id.clone());
        if !run.ended {
            self.indexes.add(keys::going(run.lease), id.clone());
        }
        if let Some(fire) = keys::fire(run) {
            self.commands.cmd("HSET").arg(keys::FIRE).arg(fire).arg(id).ignore();
        }
        self.commands.cmd("SADD").arg(keys::BUSY_JOBS).arg(run.job.as_str()).ignore();
        self.put_run(run)
    }

    /// Logs, runs that wait, and values.
    async fn rest(&mut self) -> Result<()> {
        let Written { logs, promised, unpromised, cleared, values, .. } = self.written;
        for (run, body) in logs {
            self.commands.cmd("HSETNX").arg(keys::LOG).arg(run.to_string()).arg(body).ignore();
        }
        let gone: Vec<String> = unpromised.iter().map(RunId::to_string).collect();
        let jobs = self.session.fields(keys::PROMISE, &gone).await?;
        for (run, promise) in gone.into_iter().zip(jobs) {
            let Some(promise) = promise else { continue };
            let (job, _) = keys::unpack_promise(&promise)?;
            self.commands.cmd("HDEL").arg(keys::PROMISE).arg(&run).ignore();
            self.indexes.remove(keys::promises_of(&job), run);
        }
        for (run, job, arguments) in promised {
            let promise = keys::pack_promise(job, arguments.as_deref())?;
            self.commands.cmd("HSET").arg(keys::PROMISE).arg(run.to_string()).arg(promise).ignore();
            self.indexes.add(keys::promises_of(job), run.to_string());
        }
        for job in cleared {
            self.commands.cmd("DEL").arg(keys::values_of(job)).ignore();
        }
        for (job, key, value) in values {
            match value {
                Some(value) => self.commands.cmd("HSET").arg(keys::values_of(job)).arg(key).arg(value).ignore(),
                None => self.commands.cmd("HDEL").arg(keys::values_of(job)).arg(key).ignore(),
            };
        }
        Ok(())
    }

    /// Numbers the turn and its events.
    fn last_words(&mut self) -> Result<()> {
        let Written { lease, turn, events, event_count, .. } = self.written;
        let first = self.session.last_event + 1;
        let commands = &mut self.commands;
        if *event_count > 0 {
            commands.cmd("HSET").arg(keys::EVENT).arg(first).arg(keys::pack_events(*event_count, events)?).ignore();
            commands.cmd("ZADD").arg(keys::EVENTS).arg(0).arg(keys::time(first as i64)).ignore();
        }
        if let Some((dead, row)) = &self.session.fenced {
            commands.cmd("SET").arg(keys::lease(*dead)).arg(row).ignore();
        }
        let counters = commands.cmd("HSET").arg(keys::COUNTER).arg("epoch").arg(self.session.epoch);
        counters.arg("event").arg(self.session.last_event + event_count).ignore();
        commands.cmd("HSET").arg(keys::TURNS).arg(*lease).arg(format!("{turn}:{first}")).ignore();
        commands.cmd("INCR").arg(keys::TURN).ignore();
        commands.cmd("DEL").arg(keys::BUSY).ignore();
        Ok(())
    }
}
