//! Leases on MySQL and SQLite, and which of them may claim.

use super::dialect::Dialect;
use super::schema::{ACTIVE, LEASE};
use super::session::Session;
use super::{Sql, database_error, lanes, lost};
use crate::error::Result;
use crate::store::shared::{NodeRow, NodeState, Renewal, Renewed, Settled, failed};
use std::time::Duration;

fn encode(lanes: &[String]) -> Result<Vec<u8>> {
    serde_json::to_vec(lanes).map_err(|e| failed("the lanes of a node cannot be written", e))
}

impl<D: Dialect> Sql<D> {
    pub(super) async fn counter(&self, id: i64) -> Result<u64> {
        let rows = self.query("SELECT value FROM sandclock_counter WHERE id = ?".into(), &[id.into()]).await?;
        rows.first().map_or(Ok(0), |row| row.number(0))
    }

    async fn committed(&self, mut session: Session) -> Result<()> {
        session.run("COMMIT").await.map_err(database_error)?;
        session.give_back();
        Ok(())
    }

    pub(super) async fn new_lease(&self, node: &NodeRow, ttl: Duration) -> Result<u64> {
        let mut session = self.exclusive().await?;
        let count = "UPDATE sandclock_counter SET value = value + 1 WHERE id = ?".into();
        session.execute(count, &[LEASE.into()]).await.map_err(database_error)?;
        let lease = "SELECT value FROM sandclock_counter WHERE id = ?".into();
        let lease = session.query(lease, &[LEASE.into()]).await.map_err(database_error)?;
        let lease = lease.first().ok_or_else(lost)?.number(0)?;
        let turn = "INSERT INTO sandclock_turn (lease, number, first_event, asked) VALUES (?, 0, 0, 0)".into();
        session.execute(turn, &[lease.into()]).await.map_err(database_error)?;
        let insert = format!(
            "INSERT INTO sandclock_lease (lease, node, lanes, expires, fenced) VALUES (?, ?, ?, {} + ?, 0)",
            D::NOW
        );
        let served = encode(&node.lanes)?;
        let values =
            [lease.into(), node.name.as_str().into(), served.as_slice().into(), (ttl.as_micros() as i64).into()];
        session.execute(insert, &values).await.map_err(database_error)?;
        self.committed(session).await?;
        Ok(lease)
    }

    pub(super) async fn renew_lease(&self, lease: u64, node: &NodeRow, wanted: Renewal) -> Result<Option<Renewed>> {
        let now = D::NOW;
        let sql = format!(
            "UPDATE sandclock_lease SET expires = {now} + ?, node = ?, lanes = ? \
             WHERE lease = ? AND fenced = 0 AND expires > {now}"
        );
        let served = encode(&node.lanes)?;
        let values =
            [(wanted.ttl.as_micros() as i64).into(), node.name.as_str().into(), served.as_slice().into(), lease.into()];
        if self.execute(sql, &values).await? == 0 {
            return Ok(None);
        }
        let sql = format!("SELECT {now}, value FROM sandclock_counter WHERE id = ?");
        let rows = self.query(sql, &[ACTIVE.into()]).await?;
        let row = rows.first().ok_or_else(lost)?;
        let (now, active) = (row.int(0)?, row.number(1)?);
        if active == lease && !wanted.claims {
            let sql = "UPDATE sandclock_counter SET value = 0 WHERE id = ? AND value = ?".into();
            self.execute(sql, &[ACTIVE.into(), lease.into()]).await?;
        }
        let may_claim =
            wanted.claims && (active == lease || (!self.holds(active).await? && self.take_right(lease).await?));
        Ok(Some(Renewed { now, may_claim }))
    }

    async fn holds(&self, lease: u64) -> Result<bool> {
        let sql = format!("SELECT lease FROM sandclock_lease WHERE lease = ? AND fenced = 0 AND expires > {}", D::NOW);
        Ok(!self.query(sql, &[lease.into()]).await?.is_empty())
    }

    /// Takes the right to claim, if still nobody has it. Waits for a turn that is under way: its node may
    /// claim to the end of it.
    async fn take_right(&self, lease: u64) -> Result<bool> {
        let mut session = self.exclusive().await?;
        let sql = format!(
            "SELECT c.value FROM sandclock_counter c JOIN sandclock_lease l ON l.lease = c.value \
             WHERE c.id = ? AND l.fenced = 0 AND l.expires > {}",
            D::NOW
        );
        let holder = session.query(sql, &[ACTIVE.into()]).await.map_err(database_error)?;
        if let Some(holder) = holder.first() {
            let own = holder.number(0)? == lease;
            self.undo(session).await;
            return Ok(own);
        }
        let take = "UPDATE sandclock_counter SET value = ? WHERE id = ?".into();
        session.execute(take, &[lease.into(), ACTIVE.into()]).await.map_err(database_error)?;
        self.committed(session).await?;
        Ok(true)
    }

    pub(super) async fn end_lease(&self, lease: u64) -> Result<()> {
        // A turn of it that is under way ends first: it may leave runs behind.
        let mut session = self.exclusive().await?;
        let end = "UPDATE sandclock_lease SET expires = 0 WHERE lease = ?".into();
        session.execute(end, &[lease.into()]).await.map_err(database_error)?;
        let left = "SELECT (SELECT count(*) FROM sandclock_run WHERE lease = ? AND ended = 0), \
                    (SELECT count(*) FROM sandclock_job WHERE asked = ?)";
        let left = session.query(left.into(), &[lease.into(), lease.into()]).await.map_err(database_error)?;
        let left = left.first().ok_or_else(lost)?;
        if left.int(0)? == 0 && left.int(1)? == 0 {
            for table in ["lease", "turn"] {
                let sql = format!("DELETE FROM sandclock_{table} WHERE lease = ?");
                session.execute(sql, &[lease.into()]).await.map_err(database_error)?;
            }
        }
        self.committed(session).await
    }

    pub(super) async fn node_states(&self) -> Result<Vec<NodeState>> {
        let sql = format!(
            "SELECT lease, node, lanes, CASE WHEN fenced = 1 THEN 0 ELSE expires - {} END, \
             (SELECT value FROM sandclock_counter WHERE id = ?), fenced FROM sandclock_lease ORDER BY lease",
            D::NOW
        );
        let mut states = Vec::new();
        for row in self.query(sql, &[ACTIVE.into()]).await? {
            let lease = row.number(0)?;
            let left = u64::try_from(row.int(3)?).ok().filter(|left| *left > 0).map(Duration::from_micros);
            states.push(NodeState {
                lease,
                row: NodeRow { name: row.text(1)?, lanes: lanes(&row.bytes(2)?)? },
                left,
                told: row.int(5)? != 0,
                claims: left.is_some() && row.number(4)? == lease,
            });
        }
        Ok(states)
    }

    pub(super) async fn settle(&self, lease: u64, turn: u64) -> Result<Settled> {
        // The transaction in question is held up or gone before this one goes on.
        let mut session = self.exclusive().await?;
        // Writing something has all commits before it reach the disk, should the server be about to fall.
        let ask = "UPDATE sandclock_turn SET asked = asked + 1 WHERE lease = ?".into();
        session.execute(ask, &[lease.into()]).await.map_err(database_error)?;
        let number = "SELECT number, first_event FROM sandclock_turn WHERE lease = ?".into();
        let rows = session.query(number, &[lease.into()]).await.map_err(database_error)?;
        let settled = match rows.first() {
            Some(row) => Settled::of(turn, row.number(0)?, row.number(1)?),
            None => Settled::Unknown,
        };
        self.committed(session).await?;
        Ok(settled)
    }
}
