//! Rust closures by name, for programs that embed the library and for tests.

use super::{Began, Executor, Report};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::func::FuncRef;
use crate::job::Job;
use crate::run::{ERROR_BYTES_MAX, Outcome, cut};
use crate::store::Claimed;
use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::Value;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What a native function returns: a value, or the error of the outcome `failed`.
pub type NativeResult = std::result::Result<Value, String>;

type Function = Arc<dyn Fn(Claimed) -> BoxFuture<'static, NativeResult> + Send + Sync>;

/// Calls Rust functions that were registered under a func's text, such as `native:cleanup`.
///
/// They are trusted: of the job's limits only the timeout holds, and a function that blocks its
/// thread cannot be stopped.
pub struct NativeExecutor {
    functions: HashMap<FuncRef, Function>,
    slots: usize,
    clock: Arc<dyn Clock>,
}

impl NativeExecutor {
    pub fn new(slots: usize, clock: Arc<dyn Clock>) -> Self {
        NativeExecutor { functions: HashMap::new(), slots: slots.max(1), clock }
    }

    /// Registers a function; it replaces one of the same name.
    #[must_use]
    pub fn with<F, R>(mut self, func: FuncRef, function: F) -> Self
    where
        F: Fn(Claimed) -> R + Send + Sync + 'static,
        R: Future<Output = NativeResult> + Send + 'static,
    {
        self.functions.insert(func, Arc::new(move |claimed| function(claimed).boxed()));
        self
    }
}

#[async_trait]
impl Executor for NativeExecutor {
    fn slots(&self) -> usize {
        self.slots
    }

    async fn check(&self, job: &Job) -> Result<()> {
        if self.functions.contains_key(&job.func) { Ok(()) } else { Err(Error::NativeNotFound(job.func.clone())) }
    }

    async fn execute(&self, claimed: Claimed, began: Began, cancel: CancellationToken) -> Report {
        let Some(function) = self.functions.get(&claimed.job.func).cloned() else {
            let error = Error::NativeNotFound(claimed.job.func.clone()).to_string();
            return Report::not_started(self.clock.now(), Outcome::Invalid { error });
        };
        let timeout = claimed.job.limits.timeout;
        let started = self.clock.now();
        let deadline = started + chrono::TimeDelta::from_std(timeout).unwrap_or_default();
        began.tell(started);
        let call = AssertUnwindSafe(async move { function(claimed).await }).catch_unwind();
        let outcome = tokio::select! {
            biased;
            result = call => match result {
                Ok(Ok(value)) => Outcome::Succeeded { value },
                Ok(Err(mut error)) => {
                    cut(&mut error, ERROR_BYTES_MAX);
                    Outcome::Failed { error }
                }
                Err(_) => Outcome::Internal { error: "the function panicked".into() },
            },
            () = cancel.cancelled() => Outcome::Cancelled,
            () = until(&*self.clock, deadline) => Outcome::TimedOut {
                error: format!("it ran longer than {}", crate::trigger::duration_text(timeout)),
            },
        };
        let ended = self.clock.now();
        Report { started: Some(started), ..Report::not_started(ended, outcome) }
    }
}

async fn until(clock: &dyn Clock, deadline: chrono::DateTime<chrono::Utc>) {
    while clock.now() < deadline {
        clock.sleep_until(deadline).await;
    }
}
