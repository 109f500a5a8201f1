//! A turn on PostgreSQL: everything that is asked before the first answer is needed goes out at once,
//! so a turn costs two journeys and one commit.

use super::statements::OWN_ARGUMENTS;
use super::write::is_race;
use super::{Postgres, closed_connection, database_error, lost};
use crate::error::Result;
use crate::job::JobId;
use crate::store::shared::{Details, Found, JobRow, LaneWanted, Load, Loaded, Wanted, job_id, run_id, text};
use deadpool_postgres::Object;
use futures::future::{BoxFuture, FutureExt, TryFutureExt, join_all, try_join_all};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

/// How long the database may take to answer within a turn.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// How often all of a line is looked through, and not only from where the last claim was.
const RESCAN_EVERY: Duration = Duration::from_secs(2);
/// How far behind the last look a line is looked through in between, in microseconds.
const BEHIND: i64 = 1_000_000;
/// How old the knowledge may be of which lines and priorities there are.
const LEVELS_AGE_MAX: Duration = Duration::from_secs(1);

/// A connection in the middle of a transaction. Dropped, it is closed, which undoes the transaction.
pub struct Session(pub Option<Object>);

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            drop(Object::take(client));
        }
    }
}

impl Session {
    pub fn client(&self) -> Result<&Object> {
        self.0.as_ref().ok_or_else(closed_connection)
    }
}

/// A place in a line: when a job came there, its ticket, its id.
type Spot = (i64, i64, String);

/// Before and behind all others that came into line at a time.
fn before(line: i64) -> Spot {
    (line, i64::MIN, String::new())
}

fn behind(line: i64) -> Spot {
    (line, i64::MAX, String::new())
}

/// What is known of the lines from turn to turn.
#[derive(Default)]
pub struct Lines {
    /// The priorities that jobs of a lane have, or had.
    pub levels: BTreeMap<String, BTreeSet<i16>>,
    read: Option<Instant>,
    /// From where each lane is looked through, and when it was whole.
    marks: BTreeMap<String, Mark>,
    now: i64,
}

/// In front of this nothing was found. What was claimed since a snapshot that somebody holds is still
/// there for the database to step over, so a look begins behind it.
struct Mark {
    from: Spot,
    scanned: Instant,
}

impl Lines {
    fn from(&self, lane: &str, now: i64) -> Spot {
        let mark = self.marks.get(lane).filter(|mark| mark.scanned.elapsed() < RESCAN_EVERY && now >= mark.from.0);
        mark.map_or(before(i64::MIN), |mark| mark.from.clone())
    }

    /// Jobs come into line now or later, unless the clock was set back.
    fn turn(&mut self, now: i64) {
        if now < self.now {
            self.marks.clear();
        }
        self.now = now;
    }

    /// Notes that a lane was looked through from `from` on: what was found first, and whether that was
    /// all. Of several priorities the lower ones may hold what is older, if it was not all.
    fn looked(&mut self, lane: &str, from: &Spot, first: Option<Spot>, all: bool) {
        let scanned = match self.marks.get(lane) {
            Some(mark) if from.0 != i64::MIN => mark.scanned,
            _ => Instant::now(),
        };
        let alone = self.levels.get(lane).is_none_or(|levels| levels.len() < 2);
        let latest = before(self.now - BEHIND);
        let next = if all || alone { first.map_or(latest.clone(), |first| first.min(latest)) } else { from.clone() };
        self.marks.insert(lane.to_owned(), Mark { from: next, scanned });
    }

    fn priorities(&self, lane: &str) -> Vec<i16> {
        self.levels.get(lane).into_iter().flatten().rev().copied().collect()
    }
}

/// A question that is sent when the future is first polled, so that many go out before an answer comes.
pub type Asked<'a> = BoxFuture<'a, Result<Vec<Row>, tokio_postgres::Error>>;

pub fn ask<'a>(client: &'a Object, sql: &'a str, params: Vec<&'a (dyn ToSql + Sync)>) -> Asked<'a> {
    async move {
        let statement = client.prepare_cached(sql).await?;
        client.query(&statement, &params).await
    }
    .boxed()
}

/// Jobs that are asked for, or why one of them cannot be decoded: as soon as they come, while the database
/// looks for what was asked next.
type AskedJobs<'a> = BoxFuture<'a, Result<Result<Vec<JobRow>>, tokio_postgres::Error>>;

fn ask_jobs<'a>(client: &'a Object, sql: &'a str, params: Vec<&'a (dyn ToSql + Sync)>) -> AskedJobs<'a> {
    ask(client, sql, params).map_ok(|rows| rows.iter().map(job_row).collect()).boxed()
}

fn no_jobs<'a>() -> AskedJobs<'a> {
    std::future::ready(Ok(Ok(Vec::new()))).boxed()
}

impl Postgres {
    /// Has the statements of a turn prepared, so that sending them waits for nothing.
    pub(super) async fn prepare(&self, client: &Object, statements: &[String]) -> Result<()> {
        let preparing = statements.iter().map(|sql| client.prepare_cached(sql));
        join_all(preparing).await.into_iter().try_for_each(|prepared| prepared.map(drop).map_err(database_error))
    }

    pub(super) async fn begin(&self, wanted: &Wanted) -> Result<Load<Session>> {
        let session = Session(Some(self.client().await?));
        // Once for each connection, which is kept.
        let preparing = self.prepare(session.client()?, &self.statements.load);
        tokio::time::timeout(ANSWER_TIME_MAX, preparing).await.map_err(|_| lost())??;
        let beginning = self.begin_now(session, wanted);
        tokio::time::timeout(ANSWER_TIME_MAX, beginning).await.unwrap_or_else(|_| Err(lost()))
    }

    async fn begin_now(&self, session: Session, wanted: &Wanted) -> Result<Load<Session>> {
        let client = session.client()?;
        let mut lines = self.lines.lock().await;
        if lines.read.is_none_or(|read| read.elapsed() > LEVELS_AGE_MAX) {
            self.read_levels(client, &mut lines).await?;
        }
        let orphans = self.orphans(client, wanted, &lines).await?;

        let (lease, now, until) = (wanted.lease as i64, wanted.now, wanted.until);
        lines.turn(now);
        let fenced = wanted.fenced.map(|lease| lease as i64);
        let named: Vec<&str> = wanted.named.iter().map(JobId::as_str).collect();
        let [check, hold, fence, name, line, next, alarms, wakes, manual, upcoming, orphan, epoch] =
            &self.statements.load;
        let (alarms_max, wakes_max, manual_max) = (wanted.alarms as i64, wanted.wakes as i64, wanted.manual as i64);
        let lanes: Vec<_> = wanted.lanes.iter().map(|lane| LaneQuery::new(lane, &lines, (now, until))).collect();
        let (orphan_lanes, orphan_priorities): (Vec<&str>, Vec<i16>) = orphans
            .iter()
            .filter(|lane| wanted.abandoned.contains(*lane))
            .flat_map(|lane| lines.priorities(lane).into_iter().map(|priority| (lane.as_str(), priority)))
            .unzip();
        let orphans_max = wanted.orphans as i64;
        // One more than may be loaded themselves.
        let known = wanted.named.len() as i64 + lanes.iter().map(|lane| lane.most).sum::<i64>() + 1;

        // Sent in this order, before the first answer comes.
        let mut guards = vec![ask(client, check, vec![&lease]), ask(client, hold, vec![&lease])];
        guards.extend(fenced.iter().map(|fenced| ask(client, fence, vec![fenced])));
        let named_jobs = match named.is_empty() {
            true => no_jobs(),
            false => ask_jobs(client, name, vec![&named]),
        };
        let due = lanes.iter().map(|lane| {
            let (since, ticket, id) = &lane.from;
            match lane.most {
                0 => no_jobs(),
                _ => {
                    let place: [&(dyn ToSql + Sync); 5] = [&lane.lane, &lane.priorities, since, ticket, id];
                    ask_jobs(client, line, [place.as_slice(), &[&until, &lane.most]].concat())
                }
            }
        });
        let mut others = Vec::new();
        if wanted.alarms > 0 {
            others.push(ask_jobs(client, alarms, vec![&now, &alarms_max]));
        }
        if wanted.wakes > 0 {
            others.push(ask_jobs(client, wakes, vec![&now, &wakes_max, &wanted.own]));
        }
        if wanted.manual > 0 {
            others.push(ask_jobs(client, manual, vec![&now, &manual_max, &wanted.own]));
        }
        if !orphan_lanes.is_empty() {
            others.push(ask_jobs(client, orphan, vec![&orphan_lanes, &orphan_priorities, &now, &orphans_max]));
        }
        let after = lanes.iter().map(|lane| {
            let (since, ticket, id) = &lane.after;
            ask(client, next, vec![&lane.lane, &lane.priorities, since, ticket, id, &named])
        });
        let asked = futures::try_join!(
            client.batch_execute("BEGIN"),
            try_join_all(guards),
            named_jobs,
            try_join_all(due),
            try_join_all(others),
            try_join_all(after),
            ask(client, upcoming, vec![&now, &known]),
            ask(client, epoch, vec![]),
        );
        let ((), guards, named_jobs, due, others, after, upcoming, epoch) = match asked {
            Ok(answers) => answers,
            // An answer after that of the statement that lost a race may be seen before it.
            Err(error) if is_race(&error) || error.code() == Some(&SqlState::IN_FAILED_SQL_TRANSACTION) => {
                self.undo(session).await;
                return Ok(Load::Conflict);
            }
            Err(error) => return Err(database_error(error)),
        };

        if guards[0].is_empty() {
            self.undo(session).await;
            return Ok(Load::LeaseLost);
        }
        let fencing = guards.get(2).map(|answer| answer.first());
        if fencing.is_some_and(|row| row.is_none()) {
            self.undo(session).await;
            return Ok(Load::NotFenced);
        }
        let told = fencing.flatten().is_some_and(|row| row.get(0));
        let mut loaded = Loaded { may_claim: true, told, orphans, ..Loaded::default() };
        let by_id = |row: JobRow| (row.id.clone(), row);
        let mut jobs: HashMap<JobId, JobRow> = named_jobs?.into_iter().map(by_id).collect();
        for ((lane, due), after) in lanes.iter().zip(due).zip(after) {
            let due = due?;
            let full = due.last().filter(|_| lane.most > 0 && due.len() as i64 >= lane.most).and_then(|row| row.line);
            let after: Option<i64> = after.first().and_then(|row| row.get(0));
            loaded.next.push(full.map(|last| last.max(now)).or(after));
            if lane.most > 0 {
                lines.looked(lane.lane, &lane.from, due.iter().filter_map(spot).min(), full.is_none());
            }
            jobs.extend(due.into_iter().map(by_id));
        }
        for others in others {
            jobs.extend(others?.into_iter().map(by_id));
        }
        let next = |kind: i32| {
            let mut of_kind = upcoming.iter().filter(|row| row.get::<_, i32>(0) == kind);
            // The loaded ones are told of by the turn itself.
            let other = |row: &&Row| !row.get::<_, &str>(1).parse().is_ok_and(|id: JobId| jobs.contains_key(&id));
            of_kind.find(other).map(|row| row.get(2))
        };
        (loaded.next_alarm, loaded.next_wake, loaded.next_manual) = (next(0), next(1), next(2));
        let epoch = epoch.first().ok_or_else(closed_connection)?;
        loaded.epoch = epoch.get::<_, i64>(0) as u64;
        loaded.catalog = epoch.get::<_, i64>(1) as u64;
        loaded.jobs = jobs.into_values().collect();
        Ok(Load::Loaded(session, loaded))
    }

    /// Lanes that no node serves, if orphans are wanted.
    async fn orphans(&self, client: &Object, wanted: &Wanted, lines: &Lines) -> Result<Vec<String>> {
        let own = |lane: &String| wanted.lanes.iter().any(|own| own.lane == *lane);
        let others: Vec<&String> = lines.levels.keys().filter(|lane| !own(lane)).collect();
        if wanted.orphans == 0 || others.is_empty() {
            return Ok(Vec::new());
        }
        let sql = "SELECT DISTINCT unnest(lanes) FROM lease WHERE NOT fenced AND until > micros()";
        let served = client.query(sql, &[]).await.map_err(database_error)?;
        let served: BTreeSet<String> = served.iter().map(|row| row.get(0)).collect();
        Ok(others.into_iter().filter(|lane| !served.contains(lane.as_str())).cloned().collect())
    }

    async fn read_levels(&self, client: &Object, lines: &mut Lines) -> Result<()> {
        let rows = client.query("SELECT lane, priority FROM level", &[]).await.map_err(database_error)?;
        lines.levels.clear();
        for row in rows {
            lines.levels.entry(row.get(0)).or_default().insert(row.get(1));
        }
        lines.read = Some(Instant::now());
        Ok(())
    }

    /// Ends a transaction without a trace, and gives its connection back.
    pub(super) async fn undo(&self, mut session: Session) {
        if let Some(client) = &session.0
            && let Ok(Ok(())) = tokio::time::timeout(ANSWER_TIME_MAX, client.batch_execute("ROLLBACK")).await
        {
            drop(session.0.take());
        }
    }

    pub(super) async fn find(&self, session: &Session, wanted: &Details) -> Result<Found> {
        let client = session.client()?;
        let names = |ids: &[JobId]| ids.iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>();
        let (definitions, arguments, values) =
            (names(&wanted.definitions), names(&wanted.arguments), names(&wanted.values));
        let queries = vec![
            ask(client, "SELECT id, body FROM definition WHERE id = ANY($1)", vec![&definitions]),
            ask(client, OWN_ARGUMENTS, vec![&arguments]),
            ask(client, "SELECT job, key, body FROM value WHERE job = ANY($1)", vec![&values]),
        ];
        let found = tokio::time::timeout(ANSWER_TIME_MAX, join_all(queries)).await.map_err(|_| lost())?;
        let found = found.into_iter().collect::<Result<Vec<_>, _>>().map_err(database_error)?;
        Ok(Found {
            definitions: found[0].iter().map(|row| Ok((job_id(row.get(0))?, row.get(1)))).collect::<Result<_>>()?,
            arguments: found[1].iter().map(|row| Ok((run_id(row.get(0))?, row.get(1)))).collect::<Result<_>>()?,
            values: found[2]
                .iter()
                .map(|row| Ok((job_id(row.get(0))?, text(row.get(1))?, row.get(2))))
                .collect::<Result<_>>()?,
        })
    }
}

struct LaneQuery<'a> {
    lane: &'a str,
    priorities: Vec<i16>,
    from: Spot,
    /// What is not loaded is looked for after this.
    after: Spot,
    most: i64,
}

impl<'a> LaneQuery<'a> {
    fn new(wanted: &'a LaneWanted, lines: &Lines, (now, until): (i64, i64)) -> Self {
        let from = lines.from(&wanted.lane, now);
        let after = if wanted.most == 0 { from.clone() } else { behind(until) };
        let priorities = lines.priorities(&wanted.lane);
        LaneQuery { lane: wanted.lane.as_str(), priorities, from, after, most: wanted.most as i64 }
    }
}

/// Where a job stands in its line.
fn spot(row: &JobRow) -> Option<Spot> {
    Some((row.line?, row.ticket as i64, row.id.to_string()))
}

pub fn job_row(row: &Row) -> Result<JobRow> {
    Ok(JobRow {
        id: job_id(row.get(0))?,
        revision: row.get::<_, i64>(1) as u64,
        lane: row.get(2),
        priority: row.get::<_, i16>(3) as i8,
        line: row.get(4),
        ticket: row.get::<_, i64>(5) as u64,
        alarm: row.get(6),
        wake: row.get(7),
        manual: row.get(8),
        asked: row.get::<_, Option<i64>>(9).map(|lease| lease as u64),
        waiting: row.get(10),
        status: row.get(11),
        arguments: row.get(12),
        valued: row.get(13),
        state: row.get(14),
    })
}
