//! The program's own log, on stderr.

use crate::error::Result;
use crate::invalid::Invalid;
use crate::settings::LogFormat;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

/// What guests can make them say, at any rate.
const QUIET: &str = "wasmtime_wasi_http=off,wasmtime_wasi=off,hyper=off,rustls=off,opentelemetry=warn";

/// Changes what is logged.
#[derive(Clone)]
pub struct LogHandle(reload::Handle<EnvFilter, Registry>);

fn filter(what: &str) -> Result<EnvFilter> {
    let filter = EnvFilter::try_new(format!("{QUIET},{what}"));
    Ok(filter.map_err(|e| Invalid::new("log", what, e.to_string()).hint("such as `info` or `sandclock=debug`"))?)
}

impl LogHandle {
    pub fn set(&self, what: &str) -> Result<()> {
        // It fails only when the log is gone.
        let _ = self.0.reload(filter(what)?);
        Ok(())
    }
}

/// Logs go to stderr from now on. The first call counts.
pub fn log_to_stderr(what: &str, format: LogFormat) -> Result<LogHandle> {
    let (filter, handle) = reload::Layer::new(filter(what)?);
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let layer = match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
    Ok(LogHandle(handle))
}
