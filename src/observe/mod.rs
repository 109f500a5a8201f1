//! What an operator's tools see of the scheduler: metrics for Prometheus, and a trace of each run for
//! OpenTelemetry.

mod metrics;
mod trace;

pub use metrics::{Gauges, METRICS_MEDIA, Metrics};
pub use trace::{TraceOptions, Traces};

use crate::job::Alias;
use crate::scheduler::{Observed, Observer};
use std::sync::Arc;

/// Both at once.
pub struct Observers {
    pub metrics: Arc<Metrics>,
    pub traces: Option<Traces>,
}

impl Observer for Observers {
    fn turned(&self, turn: &Observed<'_>) {
        self.metrics.turned(turn);
        if let Some(traces) = &self.traces {
            traces.turned(turn);
        }
    }

    fn store_failed(&self, jobstore: &Alias) {
        self.metrics.store_failed(jobstore);
    }
}
