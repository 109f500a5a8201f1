//! Requests as bytes, for what a well-behaved client would not send, and a daemon to send them to.

use crate::cli::{Daemon, Home};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// A daemon that listens over TCP, with the token of its own user.
pub struct Served {
    pub home: Home,
    pub daemon: Daemon,
    pub address: SocketAddr,
    pub token: String,
}

/// An answer.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    fn read(mut from: impl Read) -> Option<Answer> {
        let mut bytes = Vec::new();
        // A reset after the answer is no matter.
        let _ = from.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let body = if chunked { unchunked(body) } else { body.to_owned() };
        Some(Answer { status, head: head.to_ascii_lowercase(), body })
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {} {}", self.status, self.body))
    }

    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 || rest.len() < size {
            break;
        }
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}

impl Served {
    pub fn new(flags: &[&str]) -> Served {
        Served::of(Home::with_sample(), flags)
    }

    pub fn of(home: Home, flags: &[&str]) -> Served {
        let daemon = home.serve_with(&[&["--listen", "127.0.0.1:0"], flags].concat());
        let address = home.json(&["status"])["addresses"][0].as_str().unwrap().parse().unwrap();
        let token = std::fs::read_to_string(home.path().join("operator.token")).unwrap().trim().to_owned();
        let served = Served { home, daemon, address, token };
        until("a start", || (served.home.json(&["status"])["phase"] != "stopped").then_some(()));
        served
    }

    /// A connection that waits ten seconds for what it reads.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// The answer to these bytes; none if the connection ends without one.
    pub fn raw(&self, bytes: &str) -> Option<Answer> {
        let mut stream = self.connect();
        // A server that has refused already does not read on.
        let _ = stream.write_all(bytes.as_bytes());
        Answer::read(stream)
    }

    /// A request with these headers and body, and the right `Host`.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let host = [("Host", self.address.to_string())];
        let host = host.iter().map(|(name, value)| (*name, value.as_str()));
        self.raw(&request(method, path, &host.chain(headers.iter().copied()).collect::<Vec<_>>(), body)).unwrap()
    }

    /// The same as the operator, with JSON.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        self.ask_with(&self.token, method, path, body)
    }

    pub fn ask_with(&self, token: &str, method: &str, path: &str, body: &str) -> Answer {
        let bearer = format!("Bearer {token}");
        self.send(method, path, &[("Authorization", &bearer), ("Content-Type", "application/json")], body)
    }

    /// Over the socket, without a token.
    pub fn over_socket(&self, method: &str, path: &str, body: &str) -> Option<Answer> {
        let mut stream = UnixStream::connect(self.home.path().join("socket")).unwrap();
        let headers = [("Host", "localhost"), ("Content-Type", "application/json")];
        let _ = stream.write_all(request(method, path, &headers, body).as_bytes());
        Answer::read(stream)
    }
}

pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text + "\r\n" + body
}

/// Waits for something that another process does.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: it did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port that is free now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
