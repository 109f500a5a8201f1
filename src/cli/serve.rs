//! `sandclock serve`: the daemon.

use super::{Done, Failure, log_to_stderr};
use crate::config::{App, AppOptions, Wall, socket_path};
use crate::executor::AsyncOptions;
use crate::http::{router, serve_unix};
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Runs at one time.
    #[arg(long, value_name = "N", default_value_t = AsyncOptions::SLOTS as u16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    slots: u16,
    /// Run nothing if a layer of the workers' jail is missing on this machine (`doctor` says which).
    #[arg(long)]
    strict: bool,
    /// Run plugins inside the daemon instead of in locked worker processes: for plugins that are
    /// trusted.
    #[arg(long, conflicts_with = "strict")]
    in_process: bool,
    /// Do not fire jobs, only run what is asked for.
    #[arg(long)]
    paused: bool,
    /// How long runs may go on when the daemon is stopped; then they are cancelled.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = crate::trigger::parse_duration)]
    grace: Duration,
}

pub async fn serve(home: PathBuf, args: ServeArgs) -> Done {
    log_to_stderr("info");
    let wall = if args.in_process { Wall::None } else { Wall::Process { strict: args.strict } };
    let app = App::open(AppOptions { home: home.clone(), slots: usize::from(args.slots), wall }).await?;
    let listening = |e: std::io::Error| Failure::failed(format!("cannot listen for signals: {e}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(listening)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(listening)?;
    let stop = CancellationToken::new();
    let socket = socket_path(&home);
    let stopped = stop.clone().cancelled_owned();
    let api = {
        let (socket, router) = (socket.clone(), router(app.clone()));
        tokio::spawn(async move { serve_unix(&socket, router, stopped).await })
    };
    if args.paused {
        app.scheduler.start_paused().await?;
    } else {
        app.scheduler.start().await?;
    }
    app.listeners.start().await?;
    tracing::info!(home = %home.display(), socket = %socket.display(), slots = args.slots, "serving");
    let mut api = api;
    let served = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        served = &mut api => Some(served),
    };
    tracing::info!(grace = ?args.grace, "stopping; runs that go on have so long to end");
    // The API answers until then, so that an operator can see and cancel what is waited for.
    let closed = app.close(args.grace).await;
    stop.cancel();
    if served.is_none() {
        // Streams of events would keep the API open for ever.
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut api).await;
        api.abort();
        let _ = std::fs::remove_file(&socket);
    }
    closed?;
    match served {
        Some(Ok(Err(error))) => Err(error.into()),
        Some(Err(error)) => Err(Failure::failed(format!("the API broke off: {error}"))),
        _ => Ok(ExitCode::SUCCESS),
    }
}
