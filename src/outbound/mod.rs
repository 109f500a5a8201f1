//! Telling stored listeners: webhooks over HTTP, and exports of plugins.

mod webhook;

use crate::clock::Clock;
use crate::delivery::{Delivery, Notice};
use crate::error::Result;
use crate::executor::{Began, Executor};
use crate::job::Job;
use crate::listener::{Listener, Target};
use crate::run::{Outcome, Run, RunId};
use crate::store::Claimed;
use crate::trigger::Trigger;
use async_trait::async_trait;
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use webhook::Webhooks;

/// Delivers to every kind of target.
pub struct Outbound {
    webhooks: Webhooks,
    /// Runs listeners that are plugins.
    executor: Arc<dyn Executor>,
    clock: Arc<dyn Clock>,
    node: String,
    calls: Semaphore,
}

/// Calls of listeners that may go on at one time; more wait.
pub const CALLS_MAX: usize = 8;

impl Outbound {
    pub fn new(executor: Arc<dyn Executor>, clock: Arc<dyn Clock>, node: String) -> Result<Self> {
        let (webhooks, calls) = (Webhooks::new(clock.clone())?, Semaphore::new(CALLS_MAX));
        Ok(Outbound { webhooks, executor, clock, node, calls })
    }
}

#[async_trait]
impl Delivery for Outbound {
    async fn check(&self, listener: &Listener) -> Result<()> {
        listener.validate()?;
        match &listener.target {
            Target::Webhook { url, secret } => Ok(webhook::check(url, secret.as_ref())?),
            Target::Plugin { .. } => self.executor.check(&call(listener, Value::Null)?).await,
        }
    }

    async fn deliver(&self, listener: &Listener, notice: Notice<'_>) -> std::result::Result<(), String> {
        match &listener.target {
            Target::Webhook { url, secret } => {
                self.webhooks.post(url, secret.as_ref(), &self.node, listener, notice).await
            }
            Target::Plugin { .. } => {
                let mut event = notice.json();
                // What a caller gave as arguments may be larger than an argument can be.
                event.get_mut("run").and_then(Value::as_object_mut).map(|run| run.remove("arguments"));
                let job = call(listener, event).map_err(|error| error.to_string())?;
                let id = RunId(ulid::Ulid::nil());
                let run = Run::claimed(id, &job, self.clock.now(), self.node.as_str().into());
                let claimed = Claimed { run, job: job.into(), values: Arc::default() };
                // Never closed, so this only waits.
                let _place = self.calls.acquire().await;
                let report = self.executor.execute(claimed, Began::new(|_| ()), CancellationToken::new()).await;
                match report.outcome {
                    Outcome::Succeeded { .. } => Ok(()),
                    outcome => Err(format!("{}: {}", outcome.kind(), outcome.error().unwrap_or("no reason"))),
                }
            }
        }
    }
}

/// The call of a listener's export with an event as JSON text.
fn call(listener: &Listener, event: Value) -> Result<Job> {
    let Target::Plugin { func, limits } = &listener.target else { unreachable!("asked of plugins only") };
    let mut job = Job::new("listener".parse()?, func.clone(), Trigger::now());
    (job.args, job.limits) = (vec![event.to_string().into()], *limits);
    job.validate()?;
    Ok(job)
}
