//! The sockets that the daemon listens on: its own, those of the settings, and those that a supervisor
//! hands over.

use crate::error::{Error, Result};
use crate::http::bind_unix;
use listenfd::ListenFd;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use tokio::net::{TcpListener, UnixListener};

pub struct Listeners {
    pub unix: Vec<UnixListener>,
    pub tcp: Vec<TcpListener>,
    /// The daemon's own socket was made here, and is removed at the end.
    pub own: bool,
}

impl Listeners {
    /// Takes what was handed over and opens the rest.
    pub async fn open(socket: &Path, addresses: &[SocketAddr]) -> Result<Self> {
        let mut listeners =
            handed_over().map_err(|e| Error::host("cannot take the sockets that were handed over", e))?;
        let own =
            |listener: &UnixListener| listener.local_addr().is_ok_and(|address| address.as_pathname() == Some(socket));
        if !listeners.unix.iter().any(own) {
            listeners.unix.push(bind_unix(socket)?);
            listeners.own = true;
        }
        for address in addresses {
            let bound = TcpListener::bind(address).await;
            listeners.tcp.push(bound.map_err(|e| {
                Error::host(format!("cannot listen on `{address}` (if something else does, choose another port)"), e)
            })?);
        }
        Ok(listeners)
    }
}

/// Sockets by systemd's protocol: `LISTEN_FDS` of them, for the process `LISTEN_PID`.
fn handed_over() -> io::Result<Listeners> {
    let mut given = ListenFd::from_env();
    let mut listeners = Listeners { unix: Vec::new(), tcp: Vec::new(), own: false };
    for at in 0..given.len() {
        if let Ok(Some(listener)) = given.take_unix_listener(at) {
            listener.set_nonblocking(true)?;
            listeners.unix.push(UnixListener::from_std(listener)?);
        } else if let Some(listener) = given.take_tcp_listener(at)? {
            listener.set_nonblocking(true)?;
            listeners.tcp.push(TcpListener::from_std(listener)?);
        }
    }
    Ok(listeners)
}
