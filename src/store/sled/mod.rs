//! The default store: one directory on one machine, durable, for one process at a time.
//!
//! ```text
//! HOME/lock        who holds the directory
//! HOME/db/         the database (sled 0.34): job definitions and states, history, events, plugins
//! HOME/db.commits  the number of its last commit
//! HOME/plugins/    components, each under its SHA-256
//! HOME/exports/    dated exports of plugins and jobs, the way back from a damaged database
//! ```
//!
//! All jobs live decoded in a [`Table`] in memory, with the due index; the disk holds what is needed
//! to build it again. A turn is applied to the table and committed in one transaction before anybody
//! hears of it. If a commit fails, the store is opened anew from the disk before the next turn.

mod codec;
mod component;
mod copy;
mod disk;
mod export;
mod history;
mod ports;
mod values;

pub use disk::{DirLock as HomeLock, OPENER as OPENER_THREAD};
pub use export::{Recovered, recover};

use super::record::{as_of, decode_job, encode_job};
use super::row;
use super::table::{Definitions, Delta, Table};
use super::{Counts, JobEntry, JobFilter, JobStore, List, Page, Retention, RunFilter, Turn, Turned, closed};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::func::PluginName;
use crate::job::{Alias, Arguments, JobId};
use crate::plugin::Plugin;
use crate::run::{Run, RunId, RunLogs};
use crate::values::Values;
use ::sled::Tree;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use codec::{piece_of, pieces, prefix, seal, unseal};
use disk::{ARGUMENTS, DirLock, Disk, HOT, JOB, PLUGIN, Writes};
use history::History;
use std::collections::{BTreeMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

/// How a [`SledStore`] is opened.
#[derive(Debug, Clone)]
pub struct SledOptions {
    pub alias: Alias,
    /// Written into runs: who ran them.
    pub node: String,
    pub retention: Retention,
    /// Jobs that are kept whole in memory although they only wait; of others a row is. Default 16 384.
    pub warm_jobs: usize,
}

impl Default for SledOptions {
    fn default() -> Self {
        SledOptions {
            alias: Alias::default(),
            node: "local".into(),
            retention: Retention::default(),
            warm_jobs: 16_384,
        }
    }
}

/// Jobs, history and plugins in a directory.
pub struct SledStore {
    home: PathBuf,
    options: SledOptions,
    /// Turns are serial: whoever commits holds this.
    turns: Arc<Mutex<()>>,
    state: Arc<Mutex<State>>,
    /// Held until the store is closed.
    lock: Arc<Mutex<Option<DirLock>>>,
    /// What the database holds of plugins, readable while a commit is under way.
    plugins: Plugins,
}

type Plugins = Arc<RwLock<BTreeMap<PluginName, Plugin>>>;

enum State {
    Open(Box<Open>),
    /// A commit failed; the next turn opens the database again. Which runs go on in this process.
    Failed(String, HashSet<RunId>),
    Closed,
}

struct Open {
    disk: Disk,
    table: Table,
    history: History,
    plugins: Plugins,
    /// Jobs that have a state of their own.
    valued: HashSet<JobId>,
    /// Plugins or definitions of jobs changed since the last export, and when that was.
    changed: bool,
    exported: DateTime<Utc>,
    /// What opening the store recorded, to be told of by the first turn.
    unheard: Vec<Event>,
    /// Runs that the turn under way claimed and ended: what to take back if it fails.
    claimed: Vec<RunId>,
    ended: Vec<RunId>,
}

/// How old the newest export of a store that changes may become.
const EXPORT_EVERY: TimeDelta = TimeDelta::minutes(10);
/// Jobs of a store that is exported while it works; a larger one would stand still for that, and is
/// exported when it is closed.
const EXPORT_JOBS_MAX: usize = 50_000;

impl SledStore {
    /// Opens or creates the store in `home`, and ends what a dead process left running.
    ///
    /// Errors: `StoreHeld` if another process has it, `StoreDamaged` with the way back,
    /// `StoreFormat` if a newer program wrote it. Blocks; call it outside the runtime's threads.
    pub fn open(home: &Path, options: SledOptions, now: DateTime<Utc>) -> Result<Self> {
        let lock = DirLock::take(home)?;
        let mut open = Open::load(home, &options, now)?;
        let (events, delta) = open.table.adopt(&HashSet::new(), now);
        open.keep(now, &events, &delta)?;
        open.unheard = events;
        if export::is_due(home, now) && open.table.len() <= EXPORT_JOBS_MAX {
            open.export(home, now);
        }
        let plugins = open.plugins.clone();
        Ok(SledStore {
            home: home.to_owned(),
            options,
            turns: Arc::default(),
            state: Arc::new(Mutex::new(State::Open(Box::new(open)))),
            lock: Arc::new(Mutex::new(Some(lock))),
            plugins,
        })
    }

    /// Bytes that the database takes on disk.
    pub async fn size_on_disk(&self) -> Result<u64> {
        self.read(|open| open.disk.size()).await
    }

    /// Reads wait for a commit that is under way, so they leave the runtime's threads.
    async fn read<T: Send + 'static>(&self, read: impl FnOnce(&Open) -> Result<T> + Send + 'static) -> Result<T> {
        let state = self.state.clone();
        let work = move || match &*lock(&state) {
            State::Open(open) => read(open),
            State::Failed(reason, _) => Err(Error::StoreFailed { what: reason.clone(), source: None }),
            State::Closed => Err(closed()),
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Error::host("a read broke off", e)))
    }

    /// Runs one write at a time on a thread that may block, opening the store anew if the last one
    /// failed.
    async fn write<T: Send + 'static>(&self, write: impl FnOnce(&mut Open) -> Result<T> + Send + 'static) -> Result<T> {
        let (turns, state) = (self.turns.clone(), self.state.clone());
        let (home, options, known) = (self.home.clone(), self.options.clone(), self.plugins.clone());
        let work = move || {
            let _turn = lock(&turns);
            let mut state = lock(&state);
            if let State::Failed(_, running) = &*state {
                let open = Open::reload(&home, &options, running, &known)?;
                *state = State::Open(Box::new(open));
            }
            let State::Open(open) = &mut *state else { return Err(closed()) };
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| write(open)))
                .unwrap_or_else(|_| Err(Error::StoreFailed { what: "a turn broke off".into(), source: None }));
            if let Err(error @ Error::StoreFailed { .. }) = &result {
                tracing::error!(error = error.chain(), "the job store failed and will be opened again");
                let running = open.running_before();
                *state = State::Failed(error.chain(), running);
            }
            result
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Error::host("a commit broke off", e)))
    }
}

impl Open {
    fn load(home: &Path, options: &SledOptions, now: DateTime<Utc>) -> Result<Self> {
        let disk = Disk::open(home)?;
        let history = History::load(&disk, options.retention, now)?;
        let definitions = definitions(disk.tree(JOB).clone());
        let table = Table::new(options.alias.clone(), options.node.clone(), super::entropy());
        let mut table = table.with_definitions(definitions.clone(), options.warm_jobs);
        table.restore_seq(history.last_seq());
        let arguments = joined(&disk, ARGUMENTS)?;
        let arguments = |id: RunId| {
            let bytes = arguments.get(id.0.to_bytes().as_slice())?;
            serde_json::from_slice::<Arguments>(bytes).ok().map(Arc::new)
        };
        for row in disk.rows(HOT) {
            let (key, value) = row?;
            let id = std::str::from_utf8(&key).ok().and_then(|id| id.parse::<JobId>().ok());
            let row = unseal(&value);
            let state = row.and_then(|row| row::decode(row, arguments));
            let (Some(id), Some(row), Some((mut state, standing))) = (id, row, state) else {
                return Err(disk::damaged(&home.join("db"), "the state of a job cannot be decoded"));
            };
            if standing.as_ref().is_some_and(|standing| table.restore_row(&id, row, &state, standing)) {
                continue;
            }
            let job = definitions(&id).map_err(|reason| state.quarantine = Some(reason)).ok();
            table.restore(id, job, state, standing.map(|standing| standing.executor));
        }
        let mut known = BTreeMap::new();
        for (key, bytes) in joined(&disk, PLUGIN)? {
            let plugin: Plugin = serde_json::from_slice(&bytes).map_err(|e| {
                let key = String::from_utf8_lossy(&key);
                disk::damaged(&home.join("db"), format!("plugin `{key}` cannot be decoded: {e}"))
            })?;
            known.insert(plugin.name.clone(), plugin);
        }
        let plugins = Arc::new(RwLock::new(known));
        let valued = values::jobs(&disk)?;
        Ok(Open {
            disk,
            table,
            history,
            plugins,
            valued,
            changed: false,
            exported: now,
            unheard: Vec::new(),
            claimed: Vec::new(),
            ended: Vec::new(),
        })
    }

    /// Opens the store again while its process lives: the runs in `running` go on.
    fn reload(home: &Path, options: &SledOptions, running: &HashSet<RunId>, shared: &Plugins) -> Result<Self> {
        let now = Utc::now();
        let mut open = Open::load(home, options, now)?;
        let (events, delta) = open.table.adopt(running, now);
        open.keep(now, &events, &delta)?;
        open.unheard = events;
        // Readers hold on to the map that they know.
        shared.write().unwrap_or_else(PoisonError::into_inner).clone_from(&plugins(&open.plugins));
        open.plugins = shared.clone();
        Ok(open)
    }

    /// Writes the export of today.
    fn export(&mut self, home: &Path, now: DateTime<Utc>) {
        export::write(home, now, &plugins(&self.plugins), &self.table);
        (self.changed, self.exported) = (false, now);
    }

    /// The runs that went on before the turn that has just failed.
    fn running_before(&self) -> HashSet<RunId> {
        let mut running: HashSet<RunId> = self.table.live().keys().copied().collect();
        running.extend(&self.ended);
        running.retain(|run| !self.claimed.contains(run));
        running
    }

    /// Makes a delta durable.
    fn keep(&mut self, now: DateTime<Utc>, events: &[Event], delta: &Delta) -> Result<()> {
        if delta.touched.is_empty() && events.is_empty() && delta.ended.is_empty() {
            return Ok(());
        }
        let mut writes = Writes::default();
        for id in &delta.touched {
            let key = id.as_str().as_bytes();
            if !self.table.contains(id) {
                writes.remove(HOT, key.to_vec());
                self.put_pieces(JOB, key, None, &mut writes)?;
                continue;
            }
            let Some((job, row)) = self.table.stored(id) else { continue };
            writes.put(HOT, key.to_vec(), seal(&row));
            if let Some(job) = job.filter(|_| delta.defined.contains(id)) {
                let bytes = encode_job(job)?;
                self.put_pieces(JOB, key, Some(&bytes), &mut writes)?;
            }
        }
        for (run, arguments) in &delta.arguments {
            let bytes = arguments.as_ref().map(serde_json::to_vec).transpose();
            let bytes = bytes.map_err(|e| Error::host("cannot encode arguments", e))?;
            self.put_pieces(ARGUMENTS, &run.0.to_bytes(), bytes.as_deref(), &mut writes)?;
        }
        self.keep_values(delta, &mut writes)?;
        self.changed |= !delta.defined.is_empty();
        self.history.add(now, events, &delta.ended, &mut writes)?;
        for key in std::mem::take(&mut writes.remove_pieces) {
            self.put_pieces(disk::DETAIL, &key, None, &mut writes)?;
        }
        self.disk.commit(writes)
    }

    /// Replaces a value in pieces, or removes it.
    fn put_pieces(&self, tree: usize, key: &[u8], bytes: Option<&[u8]>, writes: &mut Writes) -> Result<()> {
        for row in self.disk.tree(tree).scan_prefix(prefix(key)).keys() {
            let key = row.map_err(|e| Error::StoreFailed { what: "cannot read".into(), source: Some(Box::new(e)) })?;
            writes.remove(tree, key.to_vec());
        }
        for (key, value) in bytes.map(|bytes| pieces(key, bytes)).into_iter().flatten() {
            writes.put(tree, key, value);
        }
        Ok(())
    }

    fn list_runs(&self, filter: &RunFilter, page: &Page) -> Result<List<Run>> {
        let before = super::before(page);
        let mut live: Vec<RunId> = self.table.live().keys().copied().collect();
        live.retain(|id| before.is_none_or(|before| *id < before));
        live.sort_unstable_by(|a, b| b.cmp(a));
        let kept = self.history.ids(filter.job.as_ref(), before);
        let mut blocks = history::BlockReader::new(&self.disk, &self.history);
        let mut failed = None;
        let runs = super::merged(live.into_iter(), kept.into_iter(), |id| *id).map_while(|id| {
            if let Some(run) = self.table.live().get(&id) {
                return Some(run.clone());
            }
            blocks.run(id).map_err(|error| failed = Some(error)).ok()?
        });
        let list = List::page(
            runs.filter(|run| filter.matches(run) && filter.tagged(run, |id| self.table.get(id)?.job)),
            page.limit,
            |run| run.id.to_string(),
        );
        failed.map_or(Ok(list), Err)
    }

    /// An event's run, as it stood then.
    fn complete(&self, mut event: Event) -> Result<Event> {
        if let Some(id) = event.run_id {
            let live = self.table.live().get(&id).cloned();
            let run = if live.is_some() { live } else { self.history.run(&self.disk, id)? };
            event.run = run.map(|run| Box::new(as_of(event.kind, run)));
        }
        Ok(event)
    }
}

/// Finds job definitions on disk.
fn definitions(tree: Tree) -> Definitions {
    Arc::new(move |id| {
        let mut bytes = Vec::new();
        for row in tree.scan_prefix(prefix(id.as_str().as_bytes())) {
            let (_, value) = row.map_err(|e| format!("its definition cannot be read: {e}"))?;
            bytes.extend_from_slice(unseal(&value).ok_or("its definition is damaged")?);
        }
        decode_job(&bytes)
    })
}

/// One value of a tree of pieces, joined.
fn value_of(disk: &Disk, tree: usize, key: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut value = None;
    for row in disk.tree(tree).scan_prefix(prefix(key)) {
        let (_, piece) = row.map_err(disk::broken)?;
        let piece =
            unseal(&piece).ok_or_else(|| Error::StoreFailed { what: "a row is damaged".into(), source: None })?;
        value.get_or_insert_with(Vec::new).extend_from_slice(piece);
    }
    Ok(value)
}

/// Every value of a tree of pieces, joined, by its key.
fn joined(disk: &Disk, tree: usize) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut values: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for row in disk.rows(tree) {
        let (key, value) = row?;
        if let (Some((key, _)), Some(piece)) = (piece_of(&key), unseal(&value)) {
            values.entry(key.to_vec()).or_default().extend_from_slice(piece);
        }
    }
    Ok(values)
}

fn plugins(plugins: &Plugins) -> RwLockReadGuard<'_, BTreeMap<PluginName, Plugin>> {
    plugins.read().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl JobStore for SledStore {
    async fn turn(&self, turn: Turn) -> Result<Turned> {
        let home = self.home.clone();
        self.write(move |open| {
            let now = turn.now;
            open.ended = turn.finished.iter().map(|finished| finished.run).collect();
            let (mut turned, delta) = open.table.turn(turn);
            open.claimed = turned.claimed.iter().map(|claimed| claimed.run.id).collect();
            open.keep(now, &turned.events, &delta)?;
            open.give_values(&mut turned.claimed)?;
            (open.claimed, open.ended) = (Vec::new(), Vec::new());
            turned.events.splice(..0, open.unheard.drain(..));
            open.table.cool();
            if open.changed && now - open.exported >= EXPORT_EVERY && open.table.len() <= EXPORT_JOBS_MAX {
                open.export(&home, now);
            }
            Ok(turned)
        })
        .await
    }

    async fn get_job(&self, id: &JobId) -> Result<Option<JobEntry>> {
        let id = id.clone();
        self.read(move |open| Ok(open.table.get(&id))).await
    }

    async fn list_jobs(&self, filter: &JobFilter, page: &Page) -> Result<List<JobEntry>> {
        let (filter, page) = (filter.clone(), page.clone());
        self.read(move |open| {
            let matching = open.table.entries(page.after.as_deref(), &filter);
            Ok(List::page(matching, page.limit, |entry| entry.id.to_string()))
        })
        .await
    }

    async fn get_run(&self, id: RunId) -> Result<Option<Run>> {
        self.read(move |open| match open.table.run(id) {
            Some(run) => Ok(Some(run)),
            None => open.history.run(&open.disk, id),
        })
        .await
    }

    async fn list_runs(&self, filter: &RunFilter, page: &Page) -> Result<List<Run>> {
        let (filter, page) = (filter.clone(), page.clone());
        self.read(move |open| open.list_runs(&filter, &page)).await
    }

    async fn get_logs(&self, id: RunId) -> Result<Option<RunLogs>> {
        self.read(move |open| open.history.logs(&open.disk, id)).await
    }

    async fn list_events(&self, since: u64, limit: usize) -> Result<Vec<Event>> {
        let alias = self.options.alias.clone();
        self.read(move |open| {
            let events = open.history.events(&open.disk, &alias, since, limit)?;
            events.into_iter().map(|event| open.complete(event)).collect()
        })
        .await
    }

    async fn get_values(&self, id: &JobId) -> Result<Values> {
        let id = id.clone();
        self.read(move |open| values::of_job(&open.disk, &id)).await
    }

    async fn counts(&self) -> Result<Counts> {
        self.read(|open| Ok(open.table.counts(open.history.len()))).await
    }

    async fn close(&self) -> Result<()> {
        let (turns, state, home) = (self.turns.clone(), self.state.clone(), self.home.clone());
        let dir_lock = self.lock.clone();
        let work = move || {
            let _turn = lock(&turns);
            if let State::Open(mut open) = std::mem::replace(&mut *lock(&state), State::Closed)
                && open.changed
            {
                open.export(&home, Utc::now());
            }
            *lock(&dir_lock) = None;
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::host("closing the store broke off", e))
    }
}
