//! Keeping this node's lease, and noticing those of others that have run out.

use super::clock::DatabaseClock;
use super::database::{Database, LeftBehind, NodeRow, NodeState, Renewal};
use crate::error::{Error, Result};
use crate::lease::{Lease, boottime};
use crate::run::RunId;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// A lease is renewed so many times before it would run out.
const RENEWALS: u32 = 4;
/// How often a node looks for runs of its own that are to end, if no hint of it comes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Runs that are taken over in one turn.
pub const LEFT_MAX: usize = 256;

/// A lease that has run out, and what it left behind.
pub struct Dead {
    pub lease: u64,
    pub node: String,
    pub left: LeftBehind,
    /// It left more runs than that, or there are other such leases.
    pub more: bool,
}

/// A lease that has run out.
#[derive(Clone)]
struct Gone {
    lease: u64,
    node: String,
    /// There is something to tell of: it served, and nobody has told of it.
    news: bool,
}

/// Which node does what only one should: of those that claim, the one with the oldest lease that holds.
/// Each sees that for itself and a little later than it is so, so who comes to lead waits until whoever
/// did before must have noticed.
#[derive(Default)]
struct Leading {
    /// When the nodes were last looked at, by [`boottime`].
    seen: i64,
    /// From when on this node leads, if nobody has seen otherwise.
    since: Option<i64>,
}

impl Leading {
    fn seen(&mut self, at: i64, first: bool, alone: bool) {
        self.seen = at;
        self.since = match (first, alone) {
            (false, _) => None,
            (true, true) => Some(i64::MIN),
            (true, false) => self.since.or(Some(at)),
        };
    }

    /// What was seen counts for half a lease, and who is not alone waits as long.
    fn holds(&self, ttl: Duration) -> bool {
        let half = i64::try_from((ttl / 2).as_nanos()).unwrap_or(i64::MAX);
        let now = boottime();
        now - self.seen < half && self.since.is_some_and(|since| since == i64::MIN || now - since > half)
    }
}

/// What was said of a lease that cannot be renewed.
#[derive(Default)]
struct Told {
    away: bool,
    over: bool,
}

/// What keeps a node's lease.
pub struct Keeper<D> {
    pub database: Arc<D>,
    pub ttl: Duration,
    pub node: Mutex<NodeRow>,
    /// The lease's number; 0 if there is none.
    lease: AtomicU64,
    may_claim: AtomicBool,
    /// Until when this node acts on it, by its own clock and sooner than the database's says.
    pub trust: Lease,
    pub clock: DatabaseClock,
    /// There is something new to look at.
    pub changed: Notify,
    hinted: AtomicBool,
    /// Who leads, as far as this node knows.
    leading: Mutex<Leading>,
    /// This node claims, or wants to; and another one has executors.
    claims: AtomicBool,
    others_serve: AtomicBool,
    /// A lease that was lost was followed by a new one.
    pub rejoined: Notify,
    lost_one: AtomicBool,
    joining: tokio::sync::Mutex<()>,
    gone: Mutex<Vec<Gone>>,
    /// Who is gone is to be looked at before anything is claimed: this node has just come to claim.
    unseen: AtomicBool,
    cancel: Mutex<Vec<RunId>>,
}

impl<D: Database> Keeper<D> {
    pub fn new(database: Arc<D>, node: NodeRow, ttl: Duration) -> Result<Self> {
        let trust = Lease::lapsed().map_err(|e| Error::host("cannot make a lease", e))?;
        Ok(Keeper {
            database,
            ttl,
            node: Mutex::new(node),
            lease: AtomicU64::new(0),
            may_claim: AtomicBool::new(false),
            trust,
            clock: DatabaseClock::default(),
            changed: Notify::new(),
            hinted: AtomicBool::new(false),
            leading: Mutex::default(),
            claims: AtomicBool::new(false),
            others_serve: AtomicBool::new(false),
            rejoined: Notify::new(),
            lost_one: AtomicBool::new(false),
            joining: Default::default(),
            gone: Mutex::default(),
            unseen: AtomicBool::new(true),
            cancel: Mutex::default(),
        })
    }

    /// The lease that holds, a new one if need be.
    pub async fn lease(&self) -> Result<u64> {
        let _one = self.joining.lock().await;
        match self.current() {
            0 => self.join().await,
            lease => Ok(lease),
        }
    }

    /// The lease's number; 0 if there is none.
    pub fn current(&self) -> u64 {
        self.lease.load(Ordering::Acquire)
    }

    pub fn may_claim(&self) -> bool {
        self.may_claim.load(Ordering::Acquire)
    }

    async fn join(&self) -> Result<u64> {
        let node = lock(&self.node).clone();
        let lease = self.database.join(&node, self.ttl).await?;
        self.lease.store(lease, Ordering::Release);
        self.unseen.store(true, Ordering::Release);
        self.renew().await?;
        if self.lost_one.swap(false, Ordering::AcqRel) {
            self.rejoined.notify_one();
        }
        Ok(self.current())
    }

    /// Lets go of a lease that has run out. What it did is for somebody else to take over.
    pub fn lose(&self, lease: u64) {
        // A renewal's answer does not come between.
        let mut leading = lock(&self.leading);
        if self.lease.compare_exchange(lease, 0, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            tracing::warn!(lease, "this node's lease has run out; what it ran is taken over");
            self.may_claim.store(false, Ordering::Release);
            self.lost_one.store(true, Ordering::Release);
            *leading = Leading::default();
            self.trust.lapse();
            self.changed.notify_one();
        }
    }

    pub async fn renew(&self) -> Result<()> {
        let lease = self.current();
        if lease == 0 {
            return Ok(());
        }
        let node = lock(&self.node).clone();
        let asked = boottime();
        // Where one node claims, it is one that can run something, if there is such a one.
        let of_use = !node.lanes.is_empty() || !self.others_serve.load(Ordering::Acquire);
        let wanted = Renewal { ttl: self.ttl, claims: of_use && self.claims.load(Ordering::Acquire) };
        let renewed = self.database.renew(lease, &node, wanted).await?;
        match renewed {
            None => self.lose(lease),
            Some(renewed) => {
                self.clock.answered(renewed.now, asked, boottime());
                let trusted = self.ttl - self.margin();
                let _leading = lock(&self.leading);
                // An answer that comes late is about a lease that is gone.
                if self.current() != lease {
                    return Ok(());
                }
                self.trust.set(asked.saturating_add(i64::try_from(trusted.as_nanos()).unwrap_or(i64::MAX)));
                if renewed.may_claim != self.may_claim() {
                    self.unseen.store(true, Ordering::Release);
                    self.may_claim.store(renewed.may_claim, Ordering::Release);
                    self.changed.notify_one();
                }
            }
        }
        Ok(())
    }

    /// How much sooner than the database this node holds its lease for over.
    fn margin(&self) -> Duration {
        (self.ttl / 10).min(Duration::from_secs(1))
    }

    /// Renews the lease, looks after those of others, and hears of what changed, until it is dropped.
    pub async fn keep(self: Arc<Self>) {
        let every = self.ttl / RENEWALS;
        let mut next = tokio::time::Instant::now() + every;
        let mut told = Told::default();
        loop {
            let hinted = tokio::select! {
                biased;
                () = tokio::time::sleep_until(next) => {
                    let renewed = self.beat(every, &mut told).await;
                    next = tokio::time::Instant::now() + if renewed { every } else { every / 5 };
                    if !renewed {
                        continue;
                    }
                    false
                }
                () = self.database.hinted() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let _ = tokio::time::timeout(every / 2, self.look()).await;
            if hinted {
                self.hinted.store(true, Ordering::Release);
                self.changed.notify_one();
            }
        }
    }

    /// Renews the lease and looks who is there; whether it was renewed. What becomes of it is said once,
    /// however often it is tried.
    async fn beat(&self, every: Duration, told: &mut Told) -> bool {
        let failed = match tokio::time::timeout(every * 2, self.renew()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.chain()),
            Err(_) => Some("the database does not answer".to_owned()),
        };
        let Some(error) = failed else {
            if std::mem::take(told).away {
                tracing::info!("this node's lease is renewed again");
            }
            // Who cannot see who is there does not lead for long.
            if let Ok(Err(error)) = tokio::time::timeout(every, self.watch()).await {
                tracing::warn!(error = error.chain(), "cannot see which nodes there are");
            }
            return true;
        };
        if !std::mem::replace(&mut told.away, true) {
            tracing::warn!(error, "cannot renew this node's lease; it is tried again");
        }
        if !self.trust.holds() && !std::mem::replace(&mut told.over, true) {
            tracing::warn!("this node's lease is over: it starts nothing, and what it was running is interrupted");
        }
        false
    }

    /// Whether this node is the one that does what only one should.
    pub fn leads(&self) -> bool {
        lock(&self.leading).holds(self.ttl) && self.trust.holds()
    }

    /// Notes leases that have run out, and whether this node leads.
    pub async fn watch(&self) -> Result<()> {
        let own = self.current();
        let asked = boottime();
        let nodes = self.database.nodes().await?;
        let serves = |node: &&NodeState| node.left.is_some() && !node.row.lanes.is_empty();
        let serving: Vec<u64> = nodes.iter().filter(serves).map(|node| node.lease).collect();
        let first = serving.first() == Some(&own);
        let others = serving.iter().any(|lease| *lease != own);
        self.others_serve.store(others, Ordering::Release);
        lock(&self.leading).seen(asked, first, first && !others);
        let gone = nodes.into_iter().filter(|node| node.left.is_none() && node.lease != own).map(|node| Gone {
            lease: node.lease,
            news: !node.told && !node.row.lanes.is_empty(),
            node: node.row.name,
        });
        let gone: Vec<_> = gone.collect();
        if !gone.is_empty() {
            self.changed.notify_one();
        }
        *lock(&self.gone) = gone;
        Ok(())
    }

    /// Notes runs of this node that somebody asked to end.
    async fn look(&self) {
        let lease = self.current();
        if let Ok(cancel) = self.database.to_cancel(lease).await
            && !cancel.is_empty()
        {
            *lock(&self.cancel) = cancel;
            self.changed.notify_one();
        }
    }

    /// A lease that has run out and left something, or is to be told of.
    pub async fn dead(&self) -> Result<Option<Dead>> {
        if self.unseen.swap(false, Ordering::AcqRel)
            && let Err(error) = self.watch().await
        {
            self.unseen.store(true, Ordering::Release);
            return Err(error);
        }
        loop {
            let (gone, others) = {
                let gone = lock(&self.gone);
                (gone.last().cloned(), gone.len() > 1)
            };
            let Some(Gone { lease, node, news }) = gone else { return Ok(None) };
            let left = self.database.left_behind(lease, LEFT_MAX).await?;
            if news || !(left.runs.is_empty() && left.asking.is_empty()) {
                let more = others || left.runs.len() >= LEFT_MAX;
                return Ok(Some(Dead { lease, node, left, more }));
            }
            self.database.leave(lease).await?;
            self.forget(lease);
        }
    }

    pub fn any_gone(&self) -> bool {
        !lock(&self.gone).is_empty()
    }

    pub fn forget(&self, dead: u64) {
        lock(&self.gone).retain(|gone| gone.lease != dead);
    }

    /// Notes that a lease's end was told of.
    pub fn told(&self, dead: u64) {
        for gone in lock(&self.gone).iter_mut().filter(|gone| gone.lease == dead && gone.news) {
            tracing::warn!(node = gone.node, lease = dead, "a node's lease has run out");
            gone.news = false;
        }
    }

    /// Notes that this node claims, and the lines that it serves; true if that is news.
    pub fn serves<'a>(&self, lanes: impl Iterator<Item = &'a str> + Clone) -> bool {
        let first = !self.claims.swap(true, Ordering::AcqRel);
        let mut node = lock(&self.node);
        let new = first || !lanes.clone().eq(node.lanes.iter().map(String::as_str));
        if new {
            node.lanes = lanes.map(str::to_owned).collect();
        }
        new
    }

    /// Whether somebody has changed something since this was last asked.
    pub fn take_hint(&self) -> bool {
        self.hinted.swap(false, Ordering::AcqRel)
    }

    pub fn cancelled(&self) -> Vec<RunId> {
        std::mem::take(&mut lock(&self.cancel))
    }

    /// Gives the lease back.
    pub async fn leave(&self) -> Result<()> {
        self.trust.lapse();
        match self.lease.swap(0, Ordering::AcqRel) {
            0 => Ok(()),
            lease => self.database.leave(lease).await,
        }
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
