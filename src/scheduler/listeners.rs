//! Stored listeners: each is told of stored events in order, by a task of its own, so that one that
//! is slow or gone holds up nobody. What is told is at least once: progress is stored after the
//! telling.

use super::{Heard, Scheduler, Subscription, lock};
use crate::clock::Clock;
use crate::delivery::{Delivery, Notice};
use crate::error::{Error, Result};
use crate::event::EventMask;
use crate::invalid::Invalid;
use crate::job::Alias;
use crate::listener::{Listener, Progress};
use crate::store::{ListenerStore, Nodes};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Listeners of one scheduler.
pub const LISTENERS_MAX: usize = 64;
/// Events that a task reads at a time.
const BATCH: usize = 256;
/// How much telling may go without its progress being stored; a crash repeats it.
const SAVE_EVERY: TimeDelta = TimeDelta::seconds(1);
/// How often a node looks whether it is the one that tells, and what there is to tell of.
const LEAD_EVERY: Duration = Duration::from_secs(1);

/// The stored listeners of a scheduler, told of the events of its default store.
#[derive(Clone)]
pub struct Listeners(Arc<Inner>);

struct Inner {
    scheduler: Scheduler,
    store: Arc<dyn ListenerStore>,
    delivery: Arc<dyn Delivery>,
    /// The nodes that share the store: one of them tells.
    nodes: Option<Arc<dyn Nodes>>,
    entries: Mutex<Option<BTreeMap<Alias, Entry>>>,
    leading: Mutex<Option<AbortOnDropHandle<()>>>,
    /// One change at a time, so that no listener is told by two.
    changes: tokio::sync::Mutex<()>,
}

struct Entry {
    listener: Arc<Listener>,
    progress: Arc<Mutex<Progress>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Entry {
    async fn end(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

impl Listeners {
    /// `nodes`, if other processes share the store.
    pub fn new(
        scheduler: Scheduler,
        store: Arc<dyn ListenerStore>,
        delivery: Arc<dyn Delivery>,
        nodes: Option<Arc<dyn Nodes>>,
    ) -> Self {
        Listeners(Arc::new(Inner {
            scheduler,
            store,
            delivery,
            nodes,
            entries: Mutex::new(None),
            leading: Mutex::new(None),
            changes: Default::default(),
        }))
    }

    /// Begins to tell, or to wait for its turn to tell. Before this, listeners can be added and looked at.
    pub async fn start(&self) -> Result<()> {
        let Some(nodes) = self.0.nodes.clone() else {
            let _change = self.0.changes.lock().await;
            return self.tell_all().await;
        };
        let listeners = self.clone();
        let lead = async move {
            loop {
                listeners.follow(&*nodes).await;
                tokio::time::sleep(LEAD_EVERY).await;
            }
        };
        *lock(&self.0.leading) = Some(AbortOnDropHandle::new(tokio::spawn(lead)));
        Ok(())
    }

    /// Tells if this node is the one that does, what is stored by now; stops telling if it is not.
    async fn follow(&self, nodes: &dyn Nodes) {
        let leads = nodes.leads().await.unwrap_or(false);
        let _change = self.0.changes.lock().await;
        if !leads {
            self.end_all().await;
        } else if let Err(error) = self.tell_all().await {
            tracing::warn!(error = error.chain(), "cannot read which listeners there are");
        }
    }

    /// Tells each listener that is stored, as it is stored, and no other.
    async fn tell_all(&self) -> Result<()> {
        let stored = self.list_stored().await?;
        lock(&self.0.entries).get_or_insert_default();
        let known = |name: &Alias| {
            let entries = lock(&self.0.entries);
            let entry = entries.as_ref()?.get(name).filter(|entry| !entry.task.is_finished())?;
            Some(((*entry.listener).clone(), lock(&entry.progress).generation))
        };
        let told: Vec<Alias> = lock(&self.0.entries).iter().flatten().map(|(name, _)| name.clone()).collect();
        for name in told.iter().filter(|name| !stored.iter().any(|(listener, _)| listener.name == **name)) {
            self.silence(name).await;
        }
        for (listener, progress) in stored {
            if known(&listener.name) != Some((listener.clone(), progress.generation)) {
                self.silence(&listener.name).await;
                let entry = self.spawn(listener, progress);
                if let Some(entries) = lock(&self.0.entries).as_mut() {
                    entries.insert(entry.listener.name.clone(), entry);
                }
            }
        }
        Ok(())
    }

    /// Stops telling, and stores how far each listener is.
    pub async fn stop(&self) {
        drop(lock(&self.0.leading).take());
        let _change = self.0.changes.lock().await;
        self.end_all().await;
    }

    async fn end_all(&self) {
        let entries = lock(&self.0.entries).take().unwrap_or_default();
        for entry in entries.into_values() {
            entry.end().await;
        }
    }

    /// Adds a listener, or replaces the one of its name, which goes on from where it was, and with its
    /// secret if the address is the same and no other secret is given. A new one hears what happens
    /// from now on.
    pub async fn put(&self, mut listener: Listener) -> Result<(Listener, Progress)> {
        self.0.delivery.check(&listener).await?;
        let _change = self.0.changes.lock().await;
        self.silence(&listener.name).await;
        let known = self.list_stored().await?;
        let before = known.iter().find(|(known, _)| known.name == listener.name).cloned();
        if before.is_none() && known.len() >= LISTENERS_MAX {
            return Err(
                Invalid::new("listener", listener.name.as_str(), format!("there are {LISTENERS_MAX} already")).into()
            );
        }
        let progress = match before {
            Some((old, progress)) => {
                listener.keep_secret(&old);
                Progress { generation: progress.generation + 1, attempt: 0, retry_at: None, ..progress }
            }
            None => Progress { after: self.last_event().await?, ..Progress::default() },
        };
        self.begin(listener, progress).await
    }

    /// Tells a listener again of what is stored after a sequence number.
    pub async fn replay(&self, name: &Alias, after: u64) -> Result<(Listener, Progress)> {
        let _change = self.0.changes.lock().await;
        self.silence(name).await;
        let stored = self.list_stored().await?.into_iter().find(|(listener, _)| listener.name == *name);
        let (listener, progress) = stored.ok_or_else(|| Error::ListenerNotFound(name.clone()))?;
        // What is not stored any more is not missed by this.
        let oldest = self.0.scheduler.list_events(&Alias::default(), after, 1).await?;
        let after = match oldest.first() {
            Some(event) => event.seq - 1,
            None => self.last_event().await?,
        };
        let generation = progress.generation + 1;
        let mut progress = Progress { generation, after, attempt: 0, retry_at: None, ..progress };
        // They are told again, so they are not given up.
        progress.dead.retain(|letter| letter.seq <= after);
        self.begin(listener, progress).await
    }

    pub async fn remove(&self, name: &Alias) -> Result<()> {
        let _change = self.0.changes.lock().await;
        self.silence(name).await;
        if self.0.store.remove_listener(name).await? { Ok(()) } else { Err(Error::ListenerNotFound(name.clone())) }
    }

    /// Stops telling one listener, and stores how far it is.
    async fn silence(&self, name: &Alias) {
        let old = lock(&self.0.entries).as_mut().and_then(|entries| entries.remove(name));
        if let Some(old) = old {
            old.end().await;
        }
    }

    async fn begin(&self, listener: Listener, progress: Progress) -> Result<(Listener, Progress)> {
        self.0.store.put_listener(&listener, &progress).await?;
        if lock(&self.0.entries).is_some() {
            let entry = self.spawn(listener.clone(), progress.clone());
            if let Some(entries) = lock(&self.0.entries).as_mut() {
                entries.insert(listener.name.clone(), entry);
            }
        }
        Ok((listener, progress))
    }

    pub async fn get(&self, name: &Alias) -> Result<(Listener, Progress)> {
        let all = self.list().await?;
        let found = all.into_iter().find(|(listener, _)| listener.name == *name);
        found.ok_or_else(|| Error::ListenerNotFound(name.clone()))
    }

    /// All listeners by name, and how far each is.
    pub async fn list(&self) -> Result<Vec<(Listener, Progress)>> {
        // Of those that nodes share, each node knows what it has seen.
        if self.0.nodes.is_none()
            && let Some(entries) = &*lock(&self.0.entries)
        {
            let shown = |entry: &Entry| ((*entry.listener).clone(), lock(&entry.progress).clone());
            return Ok(entries.values().map(shown).collect());
        }
        self.list_stored().await
    }

    async fn list_stored(&self) -> Result<Vec<(Listener, Progress)>> {
        self.0.store.list_listeners().await
    }

    async fn last_event(&self) -> Result<u64> {
        self.0.scheduler.last_event(&Alias::default()).await
    }

    fn spawn(&self, listener: Listener, progress: Progress) -> Entry {
        let (listener, stop) = (Arc::new(listener), CancellationToken::new());
        let shared = Arc::new(Mutex::new(progress.clone()));
        let teller = Teller {
            events: self.0.scheduler.subscribe(EventMask::ALL),
            scheduler: self.0.scheduler.clone(),
            store: self.0.store.clone(),
            delivery: self.0.delivery.clone(),
            nodes: self.0.nodes.clone(),
            listener: listener.clone(),
            saved: (self.0.scheduler.clock().now(), progress.clone()),
            progress,
            shared: shared.clone(),
        };
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut teller = teller;
            tokio::select! {
                () = stopped.cancelled() => {}
                () = teller.tell() => {}
            }
            teller.save().await;
        });
        Entry { listener, progress: shared, stop, task }
    }
}

/// What tells one listener.
struct Teller {
    scheduler: Scheduler,
    store: Arc<dyn ListenerStore>,
    delivery: Arc<dyn Delivery>,
    nodes: Option<Arc<dyn Nodes>>,
    listener: Arc<Listener>,
    /// Only a hint that there is something new.
    events: Subscription,
    progress: Progress,
    /// What others see of it.
    shared: Arc<Mutex<Progress>>,
    saved: (DateTime<Utc>, Progress),
}

impl Teller {
    /// Tells, for as long as this node is the one that does.
    async fn tell(&mut self) {
        while self.leads().await {
            let clock = self.scheduler.clock().clone();
            while let Some(at) = self.progress.retry_at.filter(|at| *at > clock.now()) {
                clock.sleep_until(at).await;
            }
            let batch = self.scheduler.list_events(&Alias::default(), self.progress.after, BATCH).await;
            match batch {
                Ok(batch) if batch.is_empty() => {
                    let save_at = self.saved.0 + SAVE_EVERY;
                    let unsaved = self.saved.1 != self.progress;
                    tokio::select! {
                        // Any event, or having lost some, is a reason to look.
                        heard = self.events.next() => match heard {
                            Some(_) => self.drain().await,
                            None => return,
                        },
                        () = clock.sleep_until(save_at), if unsaved => {
                            if clock.now() >= save_at {
                                self.save().await;
                            }
                        }
                    }
                }
                Ok(batch) => self.tell_batch(&*clock, &batch).await,
                Err(error) => {
                    tracing::warn!(listener = %self.listener.name, error = error.chain(), "cannot read events");
                    let later = clock.now() + TimeDelta::seconds(10);
                    while clock.now() < later {
                        clock.sleep_until(later).await;
                    }
                }
            }
        }
    }

    /// Forgets hints that are there already: one look answers them all.
    async fn drain(&mut self) {
        while let Some(Some(Heard::Event(_) | Heard::Lagged(_))) = futures::FutureExt::now_or_never(self.events.next())
        {
        }
    }

    /// Tells of a batch in order, up to an event that is not taken.
    async fn tell_batch(&mut self, clock: &dyn Clock, batch: &[crate::event::Event]) {
        let gap = batch[0].seq - self.progress.after - 1;
        if gap > 0 {
            self.progress.missed += gap;
            self.progress.pass(batch[0].seq - 1);
        }
        if !self.tell_of_missed(clock, batch[0].seq).await {
            return;
        }
        for event in batch {
            if !self.listener.hears(event) {
                self.progress.pass(event.seq);
                continue;
            }
            if !self.leads().await {
                return;
            }
            let told = self.delivery.deliver(&self.listener, Notice::Event(event)).await;
            let now = clock.now();
            match told {
                Ok(()) => self.progress.took(event.seq),
                Err(error) => self.progress.failed(&self.listener.retry, event, now, error),
            }
            lock(&self.shared).clone_from(&self.progress);
            if self.progress.retry_at.is_some() {
                return self.save().await;
            }
            if now - self.saved.0 >= SAVE_EVERY {
                self.save().await;
            }
        }
        lock(&self.shared).clone_from(&self.progress);
    }

    /// Whether this node is the one that tells.
    async fn leads(&self) -> bool {
        match &self.nodes {
            Some(nodes) => nodes.leads().await.unwrap_or(false),
            None => true,
        }
    }

    /// A listener that missed something is told so before it is told more. False if it did not take
    /// that.
    async fn tell_of_missed(&mut self, clock: &dyn Clock, before: u64) -> bool {
        let count = self.progress.missed - self.progress.missed_told;
        if count == 0 {
            return true;
        }
        if !self.leads().await {
            return false;
        }
        let told = self.delivery.deliver(&self.listener, Notice::Missed { count, before }).await;
        match told {
            Ok(()) => {
                self.progress.missed_told = self.progress.missed;
                self.progress.pass(self.progress.after);
            }
            Err(error) => {
                self.progress.attempt += 1;
                self.progress.last_error = Some(error);
                let wait = self.listener.retry.wait_after(&before.to_be_bytes(), self.progress.attempt);
                self.progress.retry_at = wait.map(|wait| clock.now() + wait);
                if wait.is_none() {
                    self.progress.missed_told = self.progress.missed;
                    self.progress.pass(before - 1);
                }
            }
        }
        lock(&self.shared).clone_from(&self.progress);
        self.progress.retry_at.is_none()
    }

    async fn save(&mut self) {
        if self.saved.1 == self.progress || !self.leads().await {
            return;
        }
        match self.store.put_progress(&self.listener, &self.progress).await {
            // Another node changed it, and whoever tells finds out.
            Ok(false) => {}
            Ok(true) => self.saved = (self.scheduler.clock().now(), self.progress.clone()),
            Err(error) => {
                let error = error.chain();
                tracing::warn!(listener = %self.listener.name, error, "cannot store how far a listener is");
            }
        }
    }
}
