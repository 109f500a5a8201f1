//! Servers that mean ill, on free ports of loopback, and a resolver that changes its mind. They run on a
//! thread of their own, so that what is counted of this process is not theirs.

use async_trait::async_trait;
use sandclock::sandbox::connect::Resolve;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

static THREAD: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap());

/// Starts the thread, before anything is counted.
pub fn start() {
    LazyLock::force(&THREAD);
}

/// What a server answers to a whole request.
#[derive(Clone, Copy)]
pub enum Mode {
    /// These bytes, and closes.
    Answer(&'static str),
    /// What it was asked, as the body.
    Echo,
    /// After so many milliseconds, `ok`.
    Waits(u64),
    /// Takes the connection and says nothing, whatever is asked.
    Silent,
    /// A body without end, as fast as it is read.
    Endless,
    /// The same with an announced length of 10 GB.
    Huge,
    /// A byte of the body every second.
    Slow,
    /// A million headers.
    Headers,
    /// Closes in the middle of the body.
    Breaks,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    most: AtomicUsize,
    whole: Mutex<Vec<String>>,
}

pub struct Server {
    pub port: u16,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

impl Server {
    pub fn start(mode: Mode) -> Self {
        Server::on("127.0.0.1:0", mode)
    }

    pub fn on(address: &str, mode: Mode) -> Self {
        let listener = std::net::TcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let seen = Arc::new(Seen::default());
        let counted = seen.clone();
        let task = THREAD.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let mut serving = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.connections.fetch_add(1, Ordering::SeqCst);
                let open = counted.open.fetch_add(1, Ordering::SeqCst) + 1;
                counted.most.fetch_max(open, Ordering::SeqCst);
                let counted = counted.clone();
                serving.spawn(async move {
                    let _ = serve(stream, mode, &counted).await;
                    counted.open.fetch_sub(1, Ordering::SeqCst);
                });
                while serving.try_join_next().is_some() {}
            }
        });
        Server { port, seen, task }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://ok.test:{}{path}", self.port)
    }

    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Connections at one time, the most there were.
    pub fn most(&self) -> usize {
        self.seen.most.load(Ordering::SeqCst)
    }

    /// The requests that arrived whole.
    pub fn requests(&self) -> Vec<String> {
        self.seen.whole.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        // Its sockets are of this process; they are counted when it is gone.
        while !self.task.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

async fn serve(mut stream: TcpStream, mode: Mode, seen: &Seen) -> std::io::Result<()> {
    if let Mode::Silent = mode {
        // Until the other side has enough of it.
        return tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(drop);
    }
    let Some(request) = request(&mut stream).await? else { return Ok(()) };
    seen.whole.lock().unwrap().push(request.clone());
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    match mode {
        Mode::Answer(text) => stream.write_all(text.as_bytes()).await,
        Mode::Echo => {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", request.len());
            stream.write_all((head + &request).as_bytes()).await
        }
        Mode::Waits(milliseconds) => {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
        }
        Mode::Endless => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
            loop {
                stream.write_all(&chunk).await?;
            }
        }
        Mode::Huge => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n").await?;
            loop {
                stream.write_all(&[b'x'; 0x10000]).await?;
            }
        }
        Mode::Slow => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await?;
            loop {
                stream.write_all(b"x").await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        Mode::Headers => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            let lines: String = (0..1000).map(|n| format!("x-{n}: y\r\n")).collect();
            for _ in 0..1000 {
                stream.write_all(lines.as_bytes()).await?;
            }
            stream.write_all(b"\r\n").await
        }
        Mode::Breaks => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await,
        Mode::Silent => Ok(()),
    }
}

/// One whole request: its head, and the body that the head announces. `None` if it ends before.
async fn request(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let lower = head.to_ascii_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            let whole = if lower.contains("transfer-encoding: chunked") {
                body.ends_with("0\r\n\r\n")
            } else {
                body.len() >= length.unwrap_or(0)
            };
            if whole {
                return Ok(Some(text));
            }
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
}

/// Names and the answers for each in turn; the last one stays.
#[derive(Default)]
pub struct Names(Mutex<HashMap<String, Answers>>);

/// How often a name was asked for, and what it answers each time.
type Answers = (usize, Vec<Vec<IpAddr>>);

impl Names {
    pub fn set(&self, name: &str, answers: &[&[&str]]) {
        let answers = answers.iter().map(|answer| answer.iter().map(|ip| ip.parse().unwrap()).collect()).collect();
        self.0.lock().unwrap().insert(name.to_owned(), (0, answers));
    }

    /// How often a name was asked for.
    pub fn asked(&self, name: &str) -> usize {
        self.0.lock().unwrap().get(name).map_or(0, |(asked, _)| *asked)
    }
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, host: &str) -> std::io::Result<Vec<IpAddr>> {
        let mut names = self.0.lock().unwrap();
        let (asked, answers) = names.get_mut(host).ok_or_else(|| std::io::Error::other("no such name"))?;
        let answer = answers[(*asked).min(answers.len() - 1)].clone();
        *asked += 1;
        Ok(answer)
    }
}

/// A port of loopback that nobody listens on.
pub fn closed_port() -> u16 {
    let listener = std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listener.local_addr().unwrap().port()
}
