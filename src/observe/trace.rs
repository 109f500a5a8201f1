//! A trace of each run, sent by OTLP: one span for the run, and within it the claim, the start, the
//! guest's own time, and the commit of its end. Their times are those that the run has on record.

use crate::error::{Error, Result};
use crate::event::EventKind;
use crate::run::{Run, RunId};
use crate::scheduler::Observed;
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{Request, Response};
use opentelemetry::trace::{Span, SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;

/// Runs whose claim is remembered; of more, the claim is not told.
const CLAIMED_MAX: usize = 100_000;
/// How long the collector may take.
const SEND_TIME_MAX: Duration = Duration::from_secs(10);
/// Bytes of a collector's answer that are read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Where traces go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceOptions {
    /// The collector's address, such as `http://localhost:4318`; `/v1/traces` is added.
    pub endpoint: String,
    /// Who the traces are of.
    pub node: String,
}

/// Sends traces until it is shut down.
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    claimed: Mutex<HashMap<RunId, Claim>>,
}

/// When the turn began that claimed a run, and when it was durable.
type Claim = (DateTime<Utc>, DateTime<Utc>);

impl Traces {
    /// To be called on a tokio runtime, by which the spans are sent. Sampling is as the environment
    /// says (`OTEL_TRACES_SAMPLER`), headers too (`OTEL_EXPORTER_OTLP_HEADERS`).
    pub fn new(options: &TraceOptions) -> Result<Self> {
        let failed = |e: crate::error::Source| Error::host("traces cannot be sent", e);
        let client = reqwest::Client::builder().timeout(SEND_TIME_MAX).build().map_err(|e| failed(e.into()))?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Client { client, runtime: Handle::current() })
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(SEND_TIME_MAX)
            .with_endpoint(format!("{}/v1/traces", options.endpoint.trim_end_matches('/')))
            .build()
            .map_err(|e| failed(e.into()))?;
        let resource = Resource::builder()
            .with_service_name("sandclock")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", options.node.clone()))
            .build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        let tracer = provider.tracer("sandclock");
        Ok(Traces { provider, tracer, claimed: Mutex::default() })
    }

    /// Sends what is left. Blocks, for ten seconds at most.
    pub fn shutdown(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(SEND_TIME_MAX) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }

    pub fn turned(&self, turn: &Observed<'_>) {
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        for event in turn.events {
            let Some(run) = event.run.as_deref() else { continue };
            match event.kind {
                EventKind::JobSubmitted if claimed.len() < CLAIMED_MAX => {
                    claimed.insert(run.id, (turn.now, turn.committed));
                }
                EventKind::JobExecuted | EventKind::JobError => {
                    let claim = claimed.remove(&run.id);
                    self.run(run, claim, turn.committed);
                }
                _ => {}
            }
        }
    }

    fn run(&self, run: &Run, claim: Option<Claim>, committed: DateTime<Utc>) {
        let (Some(started), Some(ended), Some(outcome)) = (run.started, run.ended, &run.outcome) else { return };
        let (claiming, claimed) = claim.unwrap_or((started, started));
        let mut attributes = vec![
            KeyValue::new("sandclock.job.id", run.job_id.to_string()),
            KeyValue::new("sandclock.run.id", run.id.to_string()),
            KeyValue::new("sandclock.func", run.func.to_string()),
            KeyValue::new("sandclock.attempt", i64::from(run.attempt)),
            KeyValue::new("sandclock.scheduled_time", run.scheduled_time.to_rfc3339()),
            KeyValue::new("sandclock.outcome", outcome.kind().as_str()),
        ];
        let to_i64 = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        attributes.extend(run.usage.fuel_used.map(|fuel| KeyValue::new("sandclock.fuel_used", to_i64(fuel))));
        attributes.extend(run.usage.memory_peak.map(|peak| KeyValue::new("sandclock.memory_peak", to_i64(peak))));
        let builder = self.tracer.span_builder("run").with_kind(SpanKind::Consumer).with_attributes(attributes);
        let mut root = builder.with_start_time(SystemTime::from(claiming)).start(&self.tracer);
        if outcome.kind().is_failure() {
            root.set_status(Status::error(outcome.kind().as_str()));
        }
        let within = Context::new().with_span(root);
        let parts = [
            ("claim", claiming, claimed),
            ("start", claimed, started),
            ("guest", started, ended),
            ("commit", ended, committed),
        ];
        for (name, from, to) in parts {
            let builder = self.tracer.span_builder(name).with_start_time(SystemTime::from(from));
            // Clocks that are set back must not make a span end before it begins.
            builder.start_with_context(&self.tracer, &within).end_with_timestamp(SystemTime::from(to.max(from)));
        }
        within.span().end_with_timestamp(SystemTime::from(committed.max(claiming)));
    }
}

/// Sends by the daemon's runtime what the exporter's own thread waits for.
#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> std::result::Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            let mut answer = client.execute(request.try_into()?).await?;
            let mut built = Response::builder().status(answer.status());
            for (name, value) in answer.headers() {
                built = built.header(name, value);
            }
            let mut bytes = Vec::new();
            while let Some(chunk) = answer.chunk().await? {
                if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                    return Err("the collector's answer is too long".into());
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok::<_, HttpError>(built.body(Bytes::from(bytes))?)
        });
        sent.await?
    }
}
