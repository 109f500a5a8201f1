//! Leases on Redis, and which of them may claim.

use super::keys::{self, LeaseRow};
use super::session::Session;
use super::{Redis, database_error, lost};
use crate::error::Result;
use crate::store::shared::{NodeRow, NodeState, Renewal, Renewed, Settled};
use redis::pipe;
use std::time::Duration;

/// All leases, by number.
pub async fn leases(session: &mut Session) -> Result<Vec<(u64, LeaseRow)>> {
    let mut numbers: Vec<u64> = session.ask(redis::cmd("SMEMBERS").arg(keys::LEASES)).await?;
    if numbers.is_empty() {
        return Ok(Vec::new());
    }
    numbers.sort_unstable();
    let names: Vec<String> = numbers.iter().map(|lease| keys::lease(*lease)).collect();
    let rows: Vec<Option<Vec<u8>>> = session.ask(redis::cmd("MGET").arg(names)).await?;
    let rows = numbers.into_iter().zip(rows).filter_map(|(lease, row)| Some((lease, row?)));
    rows.map(|(lease, row)| Ok((lease, LeaseRow::unpack(&row)?))).collect()
}

async fn lease(session: &mut Session, number: u64) -> Result<Option<LeaseRow>> {
    let row: Option<Vec<u8>> = session.ask(redis::cmd("GET").arg(keys::lease(number))).await?;
    row.map(|row| LeaseRow::unpack(&row)).transpose()
}

impl Redis {
    pub(super) async fn new_lease(&self, node: &NodeRow, ttl: Duration) -> Result<u64> {
        let mut session = self.session().await?;
        let number: u64 = session.ask(redis::cmd("HINCRBY").arg(keys::COUNTER).arg("lease").arg(1)).await?;
        let until = session.now().await? + ttl.as_micros() as i64;
        let row = LeaseRow { node: node.clone(), until, fenced: false };
        let mut commands = pipe();
        commands.atomic().cmd("SET").arg(keys::lease(number)).arg(row.pack()?).ignore();
        commands.cmd("SADD").arg(keys::LEASES).arg(number).ignore();
        commands.cmd("HSET").arg(keys::TURNS).arg(number).arg("0:0").ignore();
        session.send::<()>(&commands).await?;
        session.give_back();
        Ok(number)
    }

    pub(super) async fn renew_lease(&self, number: u64, node: &NodeRow, wanted: Renewal) -> Result<Option<Renewed>> {
        let mut session = self.session().await?;
        let key = keys::lease(number);
        let now = loop {
            session.watch(&[&key]).await?;
            let now = session.now().await?;
            if !lease(&mut session, number).await?.is_some_and(|row| row.holds(now)) {
                session.unwatch().await?;
                session.give_back();
                return Ok(None);
            }
            let row = LeaseRow { node: node.clone(), until: now + wanted.ttl.as_micros() as i64, fenced: false };
            let mut commands = pipe();
            commands.atomic().cmd("SET").arg(&key).arg(row.pack()?).ignore();
            // Whoever ended it meanwhile was first.
            if session.exec(&commands).await.map_err(database_error)?.is_some() {
                break now;
            }
        };
        let may_claim = match wanted.claims {
            true => self.take_right(&mut session, number).await?,
            false => self.give_right_back(&mut session, number).await.map(|()| false)?,
        };
        session.give_back();
        Ok(Some(Renewed { now, may_claim }))
    }

    /// Takes the right to claim if nobody has it; whether this lease has it then.
    async fn take_right(&self, session: &mut Session, number: u64) -> Result<bool> {
        loop {
            let active: Option<u64> = session.ask(redis::cmd("GET").arg(keys::ACTIVE)).await?;
            if active == Some(number) {
                return Ok(true);
            }
            let holder = active.unwrap_or(0);
            let key = keys::lease(holder);
            session.watch(&[keys::ACTIVE, &key]).await?;
            let now = session.now().await?;
            if lease(session, holder).await?.is_some_and(|row| row.holds(now)) {
                session.unwatch().await?;
                return Ok(false);
            }
            let again: Option<u64> = session.ask(redis::cmd("GET").arg(keys::ACTIVE)).await?;
            let mut commands = pipe();
            // A turn under way that claims is taken again, and finds that it may not.
            commands.atomic().cmd("SET").arg(keys::ACTIVE).arg(number).ignore().cmd("INCR").arg(keys::TURN).ignore();
            if again != active {
                session.unwatch().await?;
            } else if session.exec(&commands).await.map_err(database_error)?.is_some() {
                return Ok(true);
            }
        }
    }

    async fn give_right_back(&self, session: &mut Session, number: u64) -> Result<()> {
        loop {
            session.watch(&[keys::ACTIVE]).await?;
            let active: Option<u64> = session.ask(redis::cmd("GET").arg(keys::ACTIVE)).await?;
            if active != Some(number) {
                return session.unwatch().await;
            }
            let mut commands = pipe();
            commands.atomic().cmd("DEL").arg(keys::ACTIVE).ignore().cmd("INCR").arg(keys::TURN).ignore();
            if session.exec(&commands).await.map_err(database_error)?.is_some() {
                return Ok(());
            }
        }
    }

    pub(super) async fn end_now(&self, number: u64) -> Result<()> {
        let mut session = self.session().await?;
        let key = keys::lease(number);
        loop {
            session.watch(&[&key]).await?;
            let Some(mut row) = lease(&mut session, number).await? else {
                session.unwatch().await?;
                break;
            };
            row.until = 0;
            let mut commands = pipe();
            commands.atomic().cmd("SET").arg(&key).arg(row.pack()?).ignore().cmd("INCR").arg(keys::TURN).ignore();
            if session.exec(&commands).await.map_err(database_error)?.is_some() {
                break;
            }
        }
        session.give_back();
        Ok(())
    }

    pub(super) async fn end_lease(&self, number: u64) -> Result<()> {
        self.end_now(number).await?;
        let mut session = self.session().await?;
        loop {
            // It is over, so a turn of it that is not counted here fails.
            session.watch(&[keys::TURN]).await?;
            let mut commands = pipe();
            commands.cmd("ZCARD").arg(keys::going(number)).cmd("ZCARD").arg(keys::asked(number));
            let (going, asking): (u64, u64) = session.send(&commands).await?;
            if going + asking > 0 {
                session.unwatch().await?;
                break;
            }
            let mut commands = pipe();
            commands.atomic().cmd("DEL").arg(keys::lease(number)).arg(keys::cancel(number)).ignore();
            commands.cmd("SREM").arg(keys::LEASES).arg(number).ignore();
            commands.cmd("HDEL").arg(keys::TURNS).arg(number).ignore().cmd("INCR").arg(keys::TURN).ignore();
            if session.exec(&commands).await.map_err(database_error)?.is_some() {
                break;
            }
        }
        session.give_back();
        Ok(())
    }

    pub(super) async fn node_states(&self) -> Result<Vec<NodeState>> {
        let mut session = self.session().await?;
        let active: Option<u64> = session.ask(redis::cmd("GET").arg(keys::ACTIVE)).await?;
        let leases = leases(&mut session).await?;
        let now = session.now().await?;
        session.give_back();
        let state = |(lease, row): (u64, LeaseRow)| {
            let left = row.holds(now).then(|| Duration::from_micros((row.until - now) as u64));
            NodeState { lease, row: row.node, left, told: row.fenced, claims: left.is_some() && active == Some(lease) }
        };
        Ok(leases.into_iter().map(state).collect())
    }

    pub(super) async fn settle(&self, number: u64, turn: u64) -> Result<Settled> {
        let mut session = self.session().await?;
        let mut commands = pipe();
        // A commit that is still on its way comes too late from here on: it watches this.
        commands.atomic().cmd("INCR").arg(keys::TURN).ignore();
        commands.cmd("HGET").arg(keys::TURNS).arg(number);
        let (last,): (Option<String>,) = session.send(&commands).await?;
        session.give_back();
        let Some(last) = last else { return Ok(Settled::Unknown) };
        let (committed, first) = last.split_once(':').ok_or_else(lost)?;
        match (committed.parse(), first.parse()) {
            (Ok(committed), Ok(first)) => Ok(Settled::of(turn, committed, first)),
            _ => Err(lost()),
        }
    }
}
