//! Stores that forget everything with the process: for tests, and for embedders who need no more.

use super::table::Table;
use super::{
    Component, Counts, JobEntry, JobFilter, JobStore, List, ListenerStore, Page, PluginStore, Retention, RunFilter,
    SecretStore, Turn, Turned, closed,
};
use crate::error::Result;
use crate::event::Event;
use crate::func::{FuncRef, PluginName};
use crate::grant::SecretName;
use crate::job::{Alias, JobId};
use crate::listener::{Listener, Progress};
use crate::plugin::Plugin;
use crate::run::{Run, RunId, RunLogs};
use crate::secret::Secret;
use crate::values::Values;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A job store in memory.
pub struct MemoryStore(Mutex<Inner>);

struct Inner {
    table: Table,
    retention: Retention,
    runs: BTreeMap<RunId, (Run, RunLogs)>,
    by_job: HashMap<JobId, VecDeque<RunId>>,
    events: VecDeque<Event>,
    values: HashMap<JobId, Arc<Values>>,
    closed: bool,
}

impl MemoryStore {
    pub fn new(alias: Alias, node: impl Into<String>) -> Self {
        MemoryStore::with_retention(alias, node, Retention::default())
    }

    pub fn with_retention(alias: Alias, node: impl Into<String>, retention: Retention) -> Self {
        MemoryStore(Mutex::new(Inner {
            table: Table::new(alias, node.into(), super::entropy()),
            retention,
            runs: BTreeMap::new(),
            by_job: HashMap::new(),
            events: VecDeque::new(),
            values: HashMap::new(),
            closed: false,
        }))
    }

    fn inner(&self) -> Result<MutexGuard<'_, Inner>> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.closed { Err(closed()) } else { Ok(inner) }
    }
}

impl Inner {
    fn keep(&mut self, run: Run, logs: RunLogs) {
        let of_job = self.by_job.entry(run.job_id.clone()).or_default();
        of_job.push_back(run.id);
        if of_job.len() > self.retention.runs_per_job
            && let Some(oldest) = of_job.pop_front()
        {
            self.runs.remove(&oldest);
        }
        self.runs.insert(run.id, (run, logs));
    }

    /// A run's id says when it was claimed.
    fn prune_age(&mut self, now: DateTime<Utc>) {
        let oldest = (now - self.retention.age).timestamp_millis().max(0) as u64;
        while let Some(entry) = self.runs.first_entry().filter(|entry| entry.key().0.timestamp_ms() < oldest) {
            let (id, (run, _)) = entry.remove_entry();
            if let Some(of_job) = self.by_job.get_mut(&run.job_id) {
                of_job.retain(|kept| *kept != id);
                if of_job.is_empty() {
                    self.by_job.remove(&run.job_id);
                }
            }
        }
    }
}

#[async_trait]
impl JobStore for MemoryStore {
    async fn turn(&self, turn: Turn) -> Result<Turned> {
        let mut inner = self.inner()?;
        let now = turn.now;
        let (mut turned, delta) = inner.table.turn(turn);
        for (id, changes) in delta.values {
            match changes {
                Some(changes) => changes.apply(Arc::make_mut(inner.values.entry(id).or_default())),
                None => drop(inner.values.remove(&id)),
            }
        }
        for id in &delta.touched {
            if !inner.table.contains(id) {
                inner.values.remove(id);
            }
        }
        for claimed in &mut turned.claimed {
            if let Some(values) = inner.values.get(&claimed.job.id) {
                claimed.values = values.clone();
            }
        }
        for (run, logs) in delta.ended {
            inner.keep(run, logs);
        }
        inner.prune_age(now);
        inner.events.extend(turned.events.iter().cloned());
        let over = inner.events.len().saturating_sub(inner.retention.events);
        inner.events.drain(..over);
        Ok(turned)
    }

    async fn get_job(&self, id: &JobId) -> Result<Option<JobEntry>> {
        Ok(self.inner()?.table.get(id))
    }

    async fn list_jobs(&self, filter: &JobFilter, page: &Page) -> Result<List<JobEntry>> {
        let inner = self.inner()?;
        let matching = inner.table.entries(page.after.as_deref(), filter);
        Ok(List::page(matching, page.limit, |entry| entry.id.to_string()))
    }

    async fn get_run(&self, id: RunId) -> Result<Option<Run>> {
        let inner = self.inner()?;
        let kept = || inner.runs.get(&id).map(|(run, _)| run.clone());
        Ok(inner.table.run(id).or_else(kept))
    }

    async fn list_runs(&self, filter: &RunFilter, page: &Page) -> Result<List<Run>> {
        let inner = self.inner()?;
        let before = super::before(page);
        let mut live: Vec<&Run> = inner.table.live().values().collect();
        live.sort_by_key(|run| std::cmp::Reverse(run.id));
        let kept = inner.runs.values().rev().map(|(run, _)| run);
        let matching = super::merged(live.into_iter(), kept, |run| run.id)
            .filter(|run| before.is_none_or(|before| run.id < before) && filter.matches(run))
            .filter(|run| filter.tagged(run, |id| inner.table.get(id)?.job))
            .cloned();
        Ok(List::page(matching, page.limit, |run| run.id.to_string()))
    }

    async fn get_logs(&self, id: RunId) -> Result<Option<RunLogs>> {
        Ok(self.inner()?.runs.get(&id).map(|(_, logs)| logs.clone()))
    }

    async fn list_events(&self, since: u64, limit: usize) -> Result<Vec<Event>> {
        let inner = self.inner()?;
        let from = inner.events.partition_point(|event| event.seq <= since);
        Ok(inner.events.range(from..).take(limit).cloned().collect())
    }

    async fn get_values(&self, id: &JobId) -> Result<Values> {
        Ok(self.inner()?.values.get(id).map(|values| (**values).clone()).unwrap_or_default())
    }

    async fn counts(&self) -> Result<Counts> {
        let inner = self.inner()?;
        Ok(inner.table.counts(inner.runs.len() as u64))
    }

    async fn close(&self) -> Result<()> {
        self.inner()?.closed = true;
        Ok(())
    }
}

/// Listeners in memory.
#[derive(Default)]
pub struct MemoryListenerStore(Mutex<BTreeMap<Alias, (Listener, Progress)>>);

impl MemoryListenerStore {
    fn listeners(&self) -> MutexGuard<'_, BTreeMap<Alias, (Listener, Progress)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ListenerStore for MemoryListenerStore {
    async fn put_listener(&self, listener: &Listener, progress: &Progress) -> Result<()> {
        self.listeners().insert(listener.name.clone(), (listener.clone(), progress.clone()));
        Ok(())
    }

    async fn list_listeners(&self) -> Result<Vec<(Listener, Progress)>> {
        Ok(self.listeners().values().cloned().collect())
    }

    async fn remove_listener(&self, name: &Alias) -> Result<bool> {
        Ok(self.listeners().remove(name).is_some())
    }
}

/// Secrets in memory.
#[derive(Default)]
pub struct MemorySecretStore(Mutex<BTreeMap<SecretName, Secret>>);

impl MemorySecretStore {
    fn secrets(&self) -> MutexGuard<'_, BTreeMap<SecretName, Secret>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl SecretStore for MemorySecretStore {
    async fn put_secret(&self, name: &SecretName, secret: Secret) -> Result<()> {
        self.secrets().insert(name.clone(), secret);
        Ok(())
    }

    async fn secret(&self, name: &SecretName) -> Result<Option<Secret>> {
        Ok(self.secrets().get(name).cloned())
    }

    async fn list_secrets(&self) -> Result<Vec<SecretName>> {
        Ok(self.secrets().keys().cloned().collect())
    }

    async fn remove_secret(&self, name: &SecretName) -> Result<bool> {
        Ok(self.secrets().remove(name).is_some())
    }
}

/// Plugins in memory.
#[derive(Default)]
pub struct MemoryPluginStore(Mutex<Plugins>);

#[derive(Default)]
struct Plugins {
    plugins: BTreeMap<PluginName, Plugin>,
    components: HashMap<String, Vec<u8>>,
}

impl MemoryPluginStore {
    fn plugins(&self) -> MutexGuard<'_, Plugins> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl PluginStore for MemoryPluginStore {
    async fn replace(&self, before: Option<&Plugin>, plugin: Plugin) -> Result<bool> {
        let mut plugins = self.plugins();
        if plugins.plugins.get(&plugin.name) != before {
            return Ok(false);
        }
        plugins.plugins.insert(plugin.name.clone(), plugin);
        plugins.drop_unused();
        Ok(true)
    }

    async fn get(&self, name: &PluginName) -> Result<Option<Plugin>> {
        Ok(self.plugins().plugins.get(name).cloned())
    }

    async fn resolve(&self, func: &FuncRef) -> Result<Component> {
        super::resolve(self.plugins().plugins.get(&func.module), func)
    }

    async fn list(&self) -> Result<Vec<Plugin>> {
        Ok(self.plugins().plugins.values().cloned().collect())
    }

    async fn remove(&self, name: &PluginName) -> Result<bool> {
        let mut plugins = self.plugins();
        let found = plugins.plugins.remove(name).is_some();
        plugins.drop_unused();
        Ok(found)
    }

    async fn put_component(&self, digest: &str, bytes: &[u8]) -> Result<()> {
        self.plugins().components.insert(digest.to_owned(), bytes.to_vec());
        Ok(())
    }

    async fn component(&self, digest: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.plugins().components.get(digest).cloned())
    }
}

impl Plugins {
    fn drop_unused(&mut self) {
        let used: Vec<&str> =
            self.plugins.values().flat_map(|plugin| &plugin.versions).map(|version| &*version.digest).collect();
        self.components.retain(|digest, _| used.contains(&digest.as_str()));
    }
}
