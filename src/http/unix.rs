//! The API on a Unix socket that only its owner can use.

use crate::error::{Error, Result};
use axum::Router;
use axum::serve::Listener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tokio::net::{UnixListener, UnixStream, unix::SocketAddr};

/// Serves until `stop` completes, then lets open requests end. The socket must not be in use: the
/// caller holds the home directory's lock, so a file that is there was left by a dead process.
pub async fn serve_unix(path: &Path, router: Router, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
    let failed = |e: std::io::Error| {
        Error::host(format!("cannot listen on `{}` (a shorter --home may help)", path.display()), e)
    };
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
        _ => {}
    }
    // The directory is private, so there is no moment at which others could connect.
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let uid = std::fs::metadata(path).map(|meta| std::os::unix::fs::MetadataExt::uid(&meta)).map_err(failed)?;
    let served = axum::serve(OwnerOnly { listener, uid }, router).with_graceful_shutdown(stop).await;
    let _ = std::fs::remove_file(path);
    served.map_err(failed)
}

/// Drops connections of other users but root.
struct OwnerOnly {
    listener: UnixListener,
    uid: u32,
}

impl Listener for OwnerOnly {
    type Io = UnixStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (UnixStream, SocketAddr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            match stream.peer_cred() {
                Ok(peer) if peer.uid() == self.uid || peer.uid() == 0 => return (stream, address),
                Ok(peer) => tracing::warn!(uid = peer.uid(), "refused a connection of another user"),
                Err(error) => tracing::warn!(%error, "refused a connection of an unknown user"),
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}
