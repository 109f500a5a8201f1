//! The scheduler's verbs about runs.

use super::dispatch::Going;
use super::{Heard, Scheduler, lock};
use crate::error::{Error, Result};
use crate::event::EventKind;
use crate::job::Alias;
use crate::run::{Run, RunId, RunLogs, RunState};
use crate::store::{Change, List, Page, RunFilter};

impl Scheduler {
    pub async fn get_run(&self, id: RunId) -> Result<Run> {
        for store in self.all_stores() {
            if let Some(run) = store.get_run(id).await? {
                return Ok(run);
            }
        }
        Err(Error::RunNotFound(id))
    }

    /// Runs of one store, newest first.
    pub async fn list_runs(&self, store: &Alias, filter: &RunFilter, page: &Page) -> Result<List<Run>> {
        self.store(store)?.list_runs(filter, page).await
    }

    /// What a run wrote; of one that goes on, what it has written so far.
    pub async fn get_logs(&self, id: RunId) -> Result<RunLogs> {
        if let Some(logs) = self.kept_logs(id).await? {
            return Ok(logs);
        }
        if let Some(going) = self.going(id) {
            return Ok(going.executor.logs_so_far(id).await.unwrap_or_default());
        }
        // It ended meanwhile, or it waits for its slot.
        match self.kept_logs(id).await? {
            Some(logs) => Ok(logs),
            None => self.get_run(id).await.map(|_| RunLogs::default()),
        }
    }

    async fn kept_logs(&self, id: RunId) -> Result<Option<RunLogs>> {
        for store in self.all_stores() {
            if let Some(logs) = store.get_logs(id).await? {
                return Ok(Some(logs));
            }
        }
        Ok(None)
    }

    fn going(&self, id: RunId) -> Option<Going> {
        self.stores().values().find_map(|entry| lock(&entry.running).get(&id).cloned())
    }

    /// Makes a run end, also one that waits; its outcome is `cancelled` unless it ended by itself first.
    pub async fn cancel_run(&self, id: RunId) -> Result<()> {
        if let Some(going) = self.going(id) {
            going.cancel.cancel();
            return Ok(());
        }
        let run = self.get_run(id).await?;
        if run.state == RunState::Ended {
            return Err(Error::RunEnded(id));
        }
        self.change(&run.jobstore, Change::Cancel { run: id }).await.map(|_| ())
    }

    /// Waits until a run has ended. One that was asked for may still wait for its slot.
    pub async fn wait_run(&self, id: RunId) -> Result<Run> {
        let mask = EventKind::JobExecuted | EventKind::JobError | EventKind::SchedulerShutdown.into();
        let mut events = self.subscribe(mask);
        loop {
            let run = self.get_run(id).await?;
            if run.state == RunState::Ended {
                return Ok(run);
            }
            loop {
                match events.next().await {
                    Some(Heard::Event(event)) if event.run_id == Some(id) => break,
                    Some(Heard::Event(event)) if event.kind == EventKind::SchedulerShutdown => {
                        return Err(Error::NotRunning);
                    }
                    Some(Heard::Event(_)) => {}
                    Some(Heard::Lagged(_)) => break,
                    None => return Err(Error::NotRunning),
                }
            }
        }
    }
}
