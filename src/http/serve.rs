//! Connections: accepting them, bounding them, and serving the router on each. Over HTTP/1.1 alone.

use super::access::Peer;
use crate::error::{Error, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Connections of each kind at one time. Beyond that, the one goes that has been idle for longest.
pub const CONNECTIONS_MAX: usize = 256;
/// How long the head of a request may take to arrive, and a connection may be idle.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a caller may take to read a further part of an answer.
const WRITE_TIME_MAX: Duration = Duration::from_secs(30);
/// Bytes and number of a request's headers.
const HEAD_BYTES_MAX: usize = 32 << 10;
const HEADERS_MAX: usize = 64;
/// How long an accept that failed is waited with, such as when there are no descriptors left.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Makes the daemon's socket, which only its owner can use. The caller holds the home's lock, so a file
/// that is there was left by a dead process.
pub fn bind_unix(path: &Path) -> Result<UnixListener> {
    let failed = |e: std::io::Error| {
        Error::host(format!("cannot listen on `{}` (a shorter --home may help)", path.display()), e)
    };
    let dir = path.parent().unwrap_or(Path::new("."));
    let meta = std::fs::symlink_metadata(dir).map_err(failed)?;
    if !meta.is_dir() || meta.uid() != rustix::process::getuid().as_raw() {
        let reason = std::io::Error::other("its directory is a link, or belongs to somebody else");
        return Err(failed(reason));
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    // The directory is private, so there is no moment at which others could connect.
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Serves until `stop`, then lets open requests end for as long as the caller waits.
pub async fn serve_unix(listener: UnixListener, router: Router, stop: CancellationToken) {
    let own = rustix::process::getuid().as_raw();
    let connections = Connections::new(router);
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    accept_failed(&error).await;
                    continue;
                }
            },
        };
        match peer_uid(&stream) {
            Ok(uid) if uid == own || uid == 0 => connections.serve(stream, Peer::Unix { uid }),
            Ok(uid) => tracing::warn!(uid, "refused a connection of another user"),
            Err(error) => tracing::warn!(%error, "refused a connection of an unknown user"),
        }
    }
    drop(listener);
    connections.end().await;
}

fn peer_uid(stream: &UnixStream) -> std::io::Result<u32> {
    stream.peer_cred().map(|peer| peer.uid())
}

/// The same over TCP.
pub async fn serve_tcp(listener: TcpListener, router: Router, stop: CancellationToken) {
    let port = listener.local_addr().map_or(0, |address| address.port());
    let connections = Connections::new(router);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    let _ = stream.set_nodelay(true);
                    connections.serve(stream, Peer::Tcp { address, port });
                }
                Err(error) => accept_failed(&error).await,
            },
        }
    }
    drop(listener);
    connections.end().await;
}

async fn accept_failed(error: &std::io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(ACCEPT_RETRY).await;
}

/// The connections of one listener.
struct Connections {
    router: Router,
    graceful: GracefulShutdown,
    open: Arc<Mutex<Open>>,
    /// Counts when connections became idle, to know which was first.
    ticks: Arc<AtomicU64>,
}

/// Since when a connection has no request, if it has none.
struct IdleSince {
    ticks: Arc<AtomicU64>,
    since: AtomicU64,
}

impl IdleSince {
    const BUSY: u64 = u64::MAX;

    fn new(ticks: &Arc<AtomicU64>) -> Self {
        let state = IdleSince { ticks: ticks.clone(), since: AtomicU64::new(0) };
        state.set_idle();
        state
    }

    fn set_idle(&self) {
        self.since.store(self.ticks.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    fn set_busy(&self) {
        self.since.store(Self::BUSY, Ordering::Relaxed);
    }

    fn idle_since(&self) -> Option<u64> {
        Some(self.since.load(Ordering::Relaxed)).filter(|since| *since != Self::BUSY)
    }
}

#[derive(Default)]
struct Open {
    next: u64,
    connections: BTreeMap<u64, Connection>,
}

struct Connection {
    state: Arc<IdleSince>,
    close: CancellationToken,
}

impl Connections {
    fn new(router: Router) -> Self {
        Connections { router, graceful: GracefulShutdown::new(), open: Arc::default(), ticks: Arc::default() }
    }

    fn serve(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, peer: Peer) {
        let (state, close) = (Arc::new(IdleSince::new(&self.ticks)), CancellationToken::new());
        let Some(place) = self.place(state.clone(), close.clone()) else {
            tracing::warn!(?peer, "refused a connection: there are {CONNECTIONS_MAX}, and all are busy");
            return;
        };
        let router = self.router.clone();
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer);
            let (router, state) = (router.clone(), state.clone());
            async move {
                let busy = Busy::new(state);
                let answer = router.oneshot(request.map(Body::new)).await;
                // Until the answer's body is at its end.
                answer.map(|answer| {
                    answer.map(|body| {
                        Body::new(body.map_frame(move |frame| {
                            let _ = &busy;
                            frame
                        }))
                    })
                })
            }
        });
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(WRITE_TIME_MAX));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(Box::pin(stream)), service);
        let watched: Watcher = self.graceful.watcher();
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                // Broken connections are the other side's.
                _ = watched.watch(connection) => {}
                () = close.cancelled() => {}
            }
        });
    }

    /// A place for one more connection: a free one, or that of the one that is idle for longest.
    fn place(&self, state: Arc<IdleSince>, close: CancellationToken) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.connections.len() >= CONNECTIONS_MAX {
            let idle = open.connections.iter().filter_map(|(id, other)| Some((other.state.idle_since()?, *id)));
            let (_, id) = idle.min()?;
            if let Some(idle) = open.connections.remove(&id) {
                idle.close.cancel();
            }
        }
        let id = open.next;
        open.next += 1;
        open.connections.insert(id, Connection { state, close });
        Some(Place { open: self.open.clone(), id })
    }

    async fn end(self) {
        self.graceful.shutdown().await;
    }
}

/// A connection's place among the others.
struct Place {
    open: Arc<Mutex<Open>>,
    id: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).connections.remove(&self.id);
    }
}

struct Busy(Arc<IdleSince>);

impl Busy {
    fn new(state: Arc<IdleSince>) -> Self {
        state.set_busy();
        Busy(state)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set_idle();
    }
}
