//! The daemon: from opening a home to its orderly end. systemd is told how it is, if it asks.

mod listen;
mod log;
mod supervisor;

pub use log::{LogHandle, log_to_stderr};

use crate::config::{App, AppOptions, Wall, is_remote, socket_path};
use crate::error::{Error, Result};
use crate::http::{Api, serve_tcp, serve_unix};
use crate::observe::{Observers, TraceOptions, Traces};
use crate::scheduler::Phase;
use crate::settings::{Settings, Sources};
use listen::Listeners;
use std::sync::Arc;
use std::time::Duration;
use supervisor::Supervisor;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long answers may go on after the last run has ended: streams would go on for ever.
const ANSWERS_TIME_MAX: Duration = Duration::from_secs(1);
/// How soon a database that could not be reached is tried again.
const OPEN_AGAIN_FIRST: Duration = Duration::from_secs(1);
const OPEN_AGAIN_MAX: Duration = Duration::from_secs(15);

/// Serves until a signal, or a caller, asks for the end.
pub async fn serve(sources: Sources, settings: Settings, log: LogHandle) -> Result<()> {
    let mut signals = Signals::new()?;
    let wall = if settings.in_process { Wall::None } else { Wall::Process { strict: settings.strict } };
    let home = sources.home.clone();
    let executors = settings.executors.iter().map(|(alias, slots)| (alias.clone(), usize::from(*slots)));
    let options = AppOptions {
        home: home.clone(),
        store: settings.store.clone(),
        lease: settings.lease,
        node: settings.node.clone(),
        slots: settings.slots.into(),
        executors: executors.collect(),
        wall,
    };
    let app = tokio::select! {
        app = open(options) => app?,
        () = signals.stop.wait() => return Ok(()),
    };
    let daemon = Daemon::open(app, settings, sources, log).await?;
    let served = daemon.run(&mut signals).await;
    let own_socket = daemon.own_socket;
    let closed = daemon.close().await;
    if own_socket {
        let _ = std::fs::remove_file(socket_path(&home));
    }
    served.and(closed)
}

/// Opens the installation. A database that cannot be reached is waited for, as it is later on.
async fn open(options: AppOptions) -> Result<App> {
    let mut pause = OPEN_AGAIN_FIRST;
    loop {
        match App::open(options.clone()).await {
            Err(error @ Error::StoreFailed { .. }) if options.store.as_deref().is_some_and(is_remote) => {
                tracing::warn!(error = error.chain(), again = ?pause, "cannot open the store; it is tried again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(OPEN_AGAIN_MAX);
            }
            opened => return opened,
        }
    }
}

struct Daemon {
    app: App,
    api: Api,
    settings: Settings,
    sources: Sources,
    log: LogHandle,
    supervisor: Supervisor,
    observers: Arc<Observers>,
    own_socket: bool,
    /// The tasks that serve, and what ends them.
    serving: JoinSet<()>,
    stop: CancellationToken,
}

impl Daemon {
    async fn open(app: App, settings: Settings, sources: Sources, log: LogHandle) -> Result<Self> {
        crate::backup::clean(&app.home);
        let api = Api::open(app.clone())?;
        api.ensure_operator_token()?;
        api.set_hosts(settings.host.clone());
        let options = settings.otlp_endpoint.clone();
        let options = options.map(|endpoint| TraceOptions { endpoint, node: app.node.clone() });
        let traces = options.as_ref().map(Traces::new).transpose()?;
        let observers = Arc::new(Observers { metrics: app.metrics.clone(), traces });
        app.scheduler.observe(observers.clone());
        let (mut serving, stop) = (JoinSet::new(), CancellationToken::new());
        let Listeners { unix, tcp, own } = Listeners::open(&socket_path(&app.home), &settings.listen).await?;
        let addresses: Vec<_> = tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        for address in &addresses {
            // One that was handed over is held to the same rule.
            settings.check_address(*address)?;
            tracing::info!(%address, "listening; `sandclock open` signs a browser in");
        }
        api.set_addresses(addresses);
        for listener in unix {
            serving.spawn(serve_unix(listener, api.router(), stop.clone()));
        }
        for listener in tcp {
            serving.spawn(serve_tcp(listener, api.router(), stop.clone()));
        }
        let supervisor = Supervisor::from_environment();
        Ok(Daemon { app, api, settings, sources, log, supervisor, observers, own_socket: own, serving, stop })
    }

    async fn run(&self, signals: &mut Signals) -> Result<()> {
        if self.settings.paused {
            self.app.scheduler.start_paused().await?;
        } else {
            self.app.scheduler.start().await?;
        }
        self.app.listeners.start().await?;
        let App { home, node, store, .. } = &self.app;
        let (home, slots, version) = (home.display(), self.settings.slots, env!("CARGO_PKG_VERSION"));
        tracing::info!(%home, store, node, slots, version, "serving");
        self.supervisor.ready();
        let stopped = self.api.stopped();
        loop {
            tokio::select! {
                () = signals.stop.wait() => return Ok(()),
                () = stopped.cancelled() => return Ok(()),
                _ = signals.hangup.recv() => self.reload(),
                () = self.supervisor.next_sign() => self.sign().await,
            }
        }
    }

    /// Tells the supervisor that the daemon lives, if it does.
    async fn sign(&self) {
        match (self.app.store_counts().await, self.app.scheduler.phase()) {
            (Some(Ok(counts)), Phase::Running | Phase::Paused) => self.supervisor.alive(Some(&counts)),
            // A database that others have too is waited for; another process could do no more.
            (_, Phase::Running | Phase::Paused) if self.app.nodes.is_some() => self.supervisor.alive(None),
            (answers, phase) => tracing::warn!(?answers, ?phase, "no sign of life for the supervisor"),
        }
    }

    /// Reads the settings again. What is wrong in them changes nothing.
    fn reload(&self) {
        self.supervisor.reloading();
        let read = self.sources.read().and_then(|settings| self.apply(&settings).map(|()| settings));
        match read {
            Ok(settings) => {
                let later = settings.need_restart(&self.settings);
                if later.is_empty() {
                    tracing::info!("settings were read again");
                } else {
                    tracing::warn!(keys = later.join(", "), "settings were read again; these need a restart");
                }
            }
            Err(error) => tracing::error!(error = error.chain(), "settings stay as they were"),
        }
        self.supervisor.ready();
    }

    fn apply(&self, settings: &Settings) -> Result<()> {
        // What can fail comes first.
        self.api.reopen_audit()?;
        self.log.set(&settings.log)?;
        self.api.set_hosts(settings.host.clone());
        Ok(())
    }

    async fn close(mut self) -> Result<()> {
        self.supervisor.stopping();
        let grace = self.settings.grace;
        tracing::info!(?grace, "stopping; runs that go on have so long to end");
        // From now on nobody is told that it is ready.
        self.api.stopped().cancel();
        // The API answers until then, so that an operator can see and cancel what is waited for.
        let closed = self.app.close(grace).await;
        self.stop.cancel();
        let ended = async { while self.serving.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(ANSWERS_TIME_MAX, ended).await;
        let observers = self.observers.clone();
        let sent = tokio::task::spawn_blocking(move || observers.traces.iter().for_each(Traces::shutdown));
        let _ = sent.await;
        tracing::info!("stopped");
        closed
    }
}

struct Signals {
    stop: Stop,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|e| Error::host("cannot listen for signals", e));
        Ok(Signals {
            stop: Stop { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? },
            hangup: listen(SignalKind::hangup())?,
        })
    }
}

/// What asks for the end.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
