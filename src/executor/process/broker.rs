//! Connections for workers, which cannot make any: the worker names a host and a port, the daemon
//! looks for a grant of the worker's plugin, judges the addresses, connects, and hands over the
//! connected socket. So the rules hold even for a worker that a guest has taken over.

use crate::grant::{Grants, HttpGrant};
use crate::sandbox::connect::{Connect, ConnectError};
use async_trait::async_trait;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixDatagram};
use tokio::sync::{Semaphore, oneshot};

/// Bytes of one message: a number, and a host and port or a reason.
const MESSAGE_BYTES: usize = 1024;
/// Connections that one worker may be waiting for; a worker that asks for more waits.
const ASKED_MAX: usize = 8;
/// Longest time that a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);

const CONNECTED: u8 = 0;
const DENIED: u8 = 1;
const UNRESOLVED: u8 = 2;
const REFUSED: u8 = 3;

/// One end of a socket that keeps messages apart.
struct Messages(UnixDatagram);

impl Messages {
    fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        // Its kind is another, but what is asked of it is the same.
        Ok(Messages(UnixDatagram::from_std(socket.into())?))
    }

    async fn send(&self, bytes: &[u8], socket: Option<&TcpStream>) -> io::Result<()> {
        let send = || {
            let fds: Vec<_> = socket.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(&fds));
            }
            sendmsg(&self.0, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
            Ok(())
        };
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// One message, and the socket that came with it. Empty when the other side is gone.
    async fn receive(&self) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
        let receive = || {
            let mut bytes = vec![0; MESSAGE_BYTES];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let received = recvmsg(&self.0, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
            let socket = ancillary.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
                _ => None,
            });
            bytes.truncate(received);
            Ok((bytes, socket))
        };
        self.0.async_io(Interest::READABLE, receive).await
    }
}

fn message(number: u64, kind: u8, text: &str) -> Vec<u8> {
    let text = &text.as_bytes()[..text.len().min(MESSAGE_BYTES - 9)];
    [&number.to_le_bytes(), [kind].as_slice(), text].concat()
}

fn parse(bytes: &[u8]) -> Option<(u64, u8, &str)> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    let (kind, text) = rest.split_first()?;
    Some((u64::from_le_bytes(*number), *kind, std::str::from_utf8(text).ok()?))
}

/// The daemon's side: serves one worker until it is gone.
pub async fn serve(socket: OwnedFd, grants: Arc<Grants>, connect: Arc<dyn Connect>) -> io::Result<()> {
    let messages = Arc::new(Messages::new(socket)?);
    let asked = Arc::new(Semaphore::new(ASKED_MAX));
    let mut connecting = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = asked.clone().acquire_owned().await else { return Ok(()) };
        let (bytes, _) = messages.receive().await?;
        if bytes.is_empty() {
            // What is under way is of no use to anybody.
            return Ok(());
        }
        while connecting.try_join_next().is_some() {}
        let Some((number, _, target)) = parse(&bytes) else { continue };
        let grant = target.parse::<HttpGrant>().ok();
        let grant = grant.and_then(|target| grants.http(target.host(), target.port()).cloned());
        let (messages, connect) = (messages.clone(), connect.clone());
        connecting.spawn(async move {
            let _place = place;
            let connected = match grant {
                Some(grant) => tokio::time::timeout(CONNECT_MAX, connect.connect(&grant)).await,
                None => Ok(Err(ConnectError::Denied("it has no grant".into()))),
            };
            let (kind, text, stream) = match connected {
                Ok(Ok(stream)) => (CONNECTED, String::new(), Some(stream)),
                Ok(Err(ConnectError::Denied(text))) => (DENIED, text, None),
                Ok(Err(ConnectError::Unresolved)) => (UNRESOLVED, String::new(), None),
                Ok(Err(ConnectError::Refused)) | Err(_) => (REFUSED, String::new(), None),
            };
            // A worker that is gone needs no answer.
            let _ = messages.send(&message(number, kind, &text), stream.as_ref()).await;
        });
    }
}

type Waiting = Mutex<HashMap<u64, oneshot::Sender<Result<TcpStream, ConnectError>>>>;

/// The worker's side: asks for connections.
pub struct Brokered {
    socket: Mutex<Option<OwnedFd>>,
    messages: tokio::sync::OnceCell<Arc<Messages>>,
    waiting: Arc<Waiting>,
    next: AtomicU64,
}

impl Brokered {
    pub fn new(socket: OwnedFd) -> Self {
        Brokered {
            socket: Mutex::new(Some(socket)),
            messages: tokio::sync::OnceCell::new(),
            waiting: Arc::default(),
            next: AtomicU64::new(0),
        }
    }

    /// The socket, once there is a runtime to wait on it.
    async fn messages(&self) -> io::Result<&Arc<Messages>> {
        let open = async || {
            let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
            let socket = socket.ok_or_else(|| io::Error::other("the broker is gone"))?;
            let messages = Arc::new(Messages::new(socket)?);
            tokio::spawn(answers(messages.clone(), self.waiting.clone()));
            Ok(messages)
        };
        self.messages.get_or_try_init(open).await
    }
}

/// Hands the daemon's answers to those who wait for them.
async fn answers(messages: Arc<Messages>, waiting: Arc<Waiting>) {
    while let Ok((bytes, socket)) = messages.receive().await {
        if bytes.is_empty() {
            break;
        }
        let Some((number, kind, text)) = parse(&bytes) else { continue };
        let answer = match (kind, socket) {
            (CONNECTED, Some(socket)) => connected(socket).map_err(|_| ConnectError::Refused),
            (DENIED, _) => Err(ConnectError::Denied(text.to_owned())),
            (UNRESOLVED, _) => Err(ConnectError::Unresolved),
            _ => Err(ConnectError::Refused),
        };
        if let Some(waits) = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&number) {
            let _ = waits.send(answer);
        }
    }
    waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

fn connected(socket: OwnedFd) -> io::Result<TcpStream> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    TcpStream::from_std(std::net::TcpStream::from(socket))
}

#[async_trait]
impl Connect for Brokered {
    async fn connect(&self, grant: &HttpGrant) -> Result<TcpStream, ConnectError> {
        let messages = self.messages().await.map_err(|_| ConnectError::Refused)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, answer) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(number, tell);
        let target = match grant.host().contains(':') {
            true => format!("[{}]:{}", grant.host(), grant.port()),
            false => format!("{}:{}", grant.host(), grant.port()),
        };
        if messages.send(&message(number, 0, &target), None).await.is_err() {
            return Err(ConnectError::Refused);
        }
        answer.await.unwrap_or(Err(ConnectError::Refused))
    }
}
