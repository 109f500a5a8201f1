//! Jobs in and out, many at a time: export, import, and making them what a file declares.

use super::{AddOptions, Scheduler};
use crate::bundle::{Action, BundledJob, Change, plan_changes};
use crate::error::{Error, Result};
use crate::invalid::Invalid;
use crate::job::{Alias, Job, JobId};
use crate::store::{Conflict, JobEntry, JobFilter, PAGE_MAX, Page};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How jobs come in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImportOptions {
    /// What to do about a job whose id is taken.
    pub on_conflict: Conflict,
    /// Check everything and change nothing.
    pub dry_run: bool,
}

/// What became of one job that was to come in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ImportedJob {
    pub id: String,
    pub result: ImportResult,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What is not as it was.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportResult {
    Added,
    Replaced,
    Kept,
    Refused,
}

impl ImportedJob {
    pub fn refused(id: impl Into<String>, reason: impl Into<String>) -> Self {
        ImportedJob { id: id.into(), result: ImportResult::Refused, reason: reason.into(), notes: Vec::new() }
    }
}

impl Scheduler {
    /// The jobs of a store, with what of their state goes with them. A job that cannot be decoded
    /// cannot be exported; it stays quarantined where it is.
    pub async fn export_jobs(&self, store: &Alias) -> Result<Vec<BundledJob>> {
        let bundled = |entry: JobEntry| {
            let job = (*entry.job?).clone();
            let (paused, quarantine, started) = (entry.state.paused, entry.state.quarantine, entry.state.started);
            Some(BundledJob { job, paused, quarantine, started })
        };
        Ok(self.list_all_jobs(store).await?.into_iter().filter_map(bundled).collect())
    }

    /// Adds jobs one by one: one that is refused does not keep the others out.
    pub async fn import_jobs(&self, jobs: Vec<BundledJob>, options: ImportOptions) -> Result<Vec<ImportedJob>> {
        let mut imported = Vec::with_capacity(jobs.len());
        for bundled in jobs {
            let id = bundled.job.id.clone();
            let result = match self.import_job(&bundled, options).await {
                Ok(result) => ImportedJob { result, ..ImportedJob::refused(id.as_str(), "") },
                Err(error) if error.is_host() => return Err(error),
                Err(error) => ImportedJob::refused(id.as_str(), error.to_string()),
            };
            imported.push(result);
        }
        Ok(imported)
    }

    async fn import_job(&self, bundled: &BundledJob, options: ImportOptions) -> Result<ImportResult> {
        let past = || Error::NeverFires(format!("{} (its times are past, or its runs used up)", bundled.job.trigger));
        let job = bundled.continued(self.clock().now()).ok_or_else(past)?;
        let taken = self.store(&job.jobstore)?.get_job(&job.id).await?.is_some();
        let result = match (taken, options.on_conflict) {
            (false, _) => ImportResult::Added,
            (true, Conflict::Refuse) => return Err(Error::JobExists(job.id)),
            (true, Conflict::Keep) => ImportResult::Kept,
            (true, Conflict::Replace) => ImportResult::Replaced,
        };
        if options.dry_run {
            self.check(&job).await?;
        } else if result != ImportResult::Kept {
            self.add_job(job, AddOptions { conflict: options.on_conflict, paused: bundled.paused }).await?;
        }
        Ok(result)
    }

    /// What must change so that there are these jobs, and with `prune` no others in the default store.
    /// Everything that would come in is checked.
    pub async fn plan_jobs(&self, jobs: &[Job], prune: bool) -> Result<Vec<Change>> {
        for job in jobs {
            match self.check(job).await {
                Err(error) if !error.is_host() => {
                    return Err(Invalid::new("job", job.id.as_str(), error.to_string()).into());
                }
                checked => checked?,
            };
        }
        let stores: BTreeSet<Alias> = jobs.iter().map(|job| job.jobstore.clone()).chain([Alias::default()]).collect();
        let mut existing = Vec::new();
        for store in &stores {
            let kept = |entry: &JobEntry| {
                *store == Alias::default() || jobs.iter().any(|job| job.id == entry.id && job.jobstore == *store)
            };
            existing.extend(self.list_all_jobs(store).await?.into_iter().filter(kept));
        }
        let existing: BTreeMap<JobId, &Job> =
            existing.iter().filter_map(|entry| Some((entry.id.clone(), entry.job.as_deref()?))).collect();
        Ok(plan_changes(jobs, &existing, prune))
    }

    /// Makes planned changes, each job all or nothing.
    pub async fn apply_jobs(&self, jobs: Vec<(Job, AddOptions)>, changes: &[Change]) -> Result<()> {
        let mut jobs: BTreeMap<JobId, (Job, AddOptions)> =
            jobs.into_iter().map(|(job, options)| (job.id.clone(), (job, options))).collect();
        for change in changes {
            match (change.action, jobs.remove(&change.id)) {
                (Action::Add, Some((job, options))) => {
                    self.add_job(job, options).await?;
                }
                (Action::Modify, Some((job, _))) => {
                    let keeps_trigger = !change.fields.contains_key("trigger");
                    let change = |old: &mut Job| {
                        let trigger = if keeps_trigger { old.trigger.clone() } else { job.trigger.clone() };
                        *old = Job { trigger, ..job.clone() };
                    };
                    self.modify_job(&job.id, change).await?;
                }
                (Action::Remove, _) => self.remove_job(&change.id).await?,
                (Action::Keep | Action::Add | Action::Modify, _) => {}
            }
        }
        Ok(())
    }

    /// All jobs of a store, by id.
    pub async fn list_all_jobs(&self, store: &Alias) -> Result<Vec<JobEntry>> {
        let mut page = Page { after: None, limit: PAGE_MAX };
        let mut all = Vec::new();
        loop {
            let list = self.list_jobs(store, &JobFilter::default(), &page).await?;
            all.extend(list.items);
            page.after = list.next;
            if page.after.is_none() {
                return Ok(all);
            }
        }
    }
}
