//! What stands between a node and the database: it passes on what is said, slowly if wanted, and knows
//! where a commit begins and ends.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Where, in the next commit, something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The commit was sent and has not reached the server.
    Before,
    /// It has reached the server, and its answer has not reached the node.
    At,
    /// The node has its answer.
    After,
}

type Trap = Box<dyn FnOnce() + Send>;

/// The way of one node to the database.
#[derive(Clone)]
pub struct Proxy {
    pub port: u16,
    delay: Arc<AtomicU64>,
    trap: Arc<Mutex<Option<(Point, Trap)>>>,
}

impl Proxy {
    pub fn start(server: u16) -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let proxy = Proxy { port, delay: Arc::default(), trap: Arc::default() };
        let serving = proxy.clone();
        std::thread::spawn(move || {
            for node in listener.incoming().flatten() {
                let Ok(database) = TcpStream::connect(("127.0.0.1", server)) else {
                    // As if it were not there.
                    let _ = node.shutdown(Shutdown::Both);
                    continue;
                };
                let _ = (node.set_nodelay(true), database.set_nodelay(true));
                serving.clone().pass(node, database);
            }
        });
        proxy
    }

    pub fn delay(&self, delay: Duration) {
        self.delay.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    /// Has something happen at a point of the next commit, whose connection is cut then.
    pub fn at_next_commit(&self, point: Point, trap: impl FnOnce() + Send + 'static) {
        *self.trap.lock().expect("no panic") = Some((point, Box::new(trap)));
    }

    fn sprung(&self, points: &[Point]) -> Option<(Point, Trap)> {
        let mut trap = self.trap.lock().expect("no panic");
        if trap.as_ref().is_some_and(|(point, _)| points.contains(point)) { trap.take() } else { None }
    }

    fn pass(self, node: TcpStream, database: TcpStream) {
        let committing: Arc<Mutex<Option<(Point, Trap)>>> = Arc::default();
        let ends = || (node.try_clone().expect("a stream"), database.try_clone().expect("a stream"));
        let cut = |node: &TcpStream, database: &TcpStream| {
            let _ = (node.shutdown(Shutdown::Both), database.shutdown(Shutdown::Both));
        };
        let ((mut from, mut to), proxy, begun) = (ends(), self.clone(), committing.clone());
        std::thread::spawn(move || {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                std::thread::sleep(Duration::from_millis(proxy.delay.load(Ordering::Relaxed)));
                if bytes[..n].windows(8).any(|end| end == b"; COMMIT") {
                    if let Some((_, trap)) = proxy.sprung(&[Point::Before]) {
                        trap();
                        break;
                    }
                    *begun.lock().expect("no panic") = proxy.sprung(&[Point::At, Point::After]);
                }
                if to.write_all(&bytes[..n]).is_err() {
                    break;
                }
            }
            cut(&from, &to);
        });
        let (mut to, mut from) = ends();
        std::thread::spawn(move || {
            let mut bytes = vec![0; 64 << 10];
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                std::thread::sleep(Duration::from_millis(self.delay.load(Ordering::Relaxed)));
                let committed = bytes[..n].windows(7).any(|end| end == b"COMMIT\0");
                let trap = if committed { committing.lock().expect("no panic").take() } else { None };
                if let Some((Point::At, trap)) = trap {
                    trap();
                    break;
                }
                if to.write_all(&bytes[..n]).is_err() {
                    break;
                }
                if let Some((_, trap)) = trap {
                    trap();
                    break;
                }
            }
            cut(&to, &from);
        });
    }
}
