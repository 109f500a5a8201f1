//! A server that guests call, and that notes who did so and when: what they do to the world.

use crate::history::{Effect, now};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long an answer takes, so that runs take their time.
const ANSWER_AFTER: Duration = Duration::from_millis(60);

#[derive(Clone)]
pub struct Witness {
    pub port: u16,
    effects: Arc<Mutex<Vec<Effect>>>,
}

impl Witness {
    pub fn start() -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let effects = Arc::new(Mutex::new(Vec::new()));
        let noted = effects.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let noted = noted.clone();
                std::thread::spawn(move || serve(stream, &noted));
            }
        });
        Witness { port, effects }
    }

    pub fn effects(&self) -> Vec<Effect> {
        self.effects.lock().expect("no panic").clone()
    }
}

fn serve(mut stream: TcpStream, noted: &Mutex<Vec<Effect>>) {
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(n) => head.extend_from_slice(&piece[..n]),
        }
    }
    let at = now();
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let key = head.lines().find_map(|line| line.strip_prefix("idempotency-key:"));
    let effect = key.and_then(|key| {
        let mut parts = key.trim().trim_matches('"').split('/');
        let (job, fire, epoch) = (parts.next()?.to_owned(), parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Effect { job, fire, epoch, at })
    });
    let effect = effect.unwrap_or_else(|| panic!("a request says which run it is of: {head}"));
    noted.lock().expect("no panic").push(effect);
    std::thread::sleep(ANSWER_AFTER);
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
}
