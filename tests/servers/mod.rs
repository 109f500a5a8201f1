//! Private servers: started from the programs that are installed, on free ports and in directories of
//! their own, and gone with the test.

#![allow(dead_code)]

use rustix::process::Signal;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take to start.
const START_TIME_MAX: Duration = Duration::from_secs(60);
static DATABASES: AtomicUsize = AtomicUsize::new(0);

/// A server of this test.
pub struct Server {
    child: Child,
    dir: tempfile::TempDir,
    pub port: u16,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Postgres,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::QUIT);
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address").port()
}

/// Servers refuse to run as root; then they run as somebody else.
fn unprivileged(command: &mut Command, dir: &Path) {
    if rustix::process::geteuid().is_root() {
        let id = 65534;
        chown(dir, id);
        command.uid(id).gid(id);
    }
}

fn chown(dir: &Path, id: u32) {
    std::os::unix::fs::chown(dir, Some(id), Some(id)).expect("the directory is given away");
}

/// The newest PostgreSQL that is installed.
fn postgres_program(name: &str) -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin").join(name)).collect())
        .unwrap_or_default();
    found.retain(|program| program.exists());
    found.sort();
    found.pop().unwrap_or_else(|| name.into())
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?} is not installed: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Server {
    /// A PostgreSQL. `durable`: it waits for the disk as it does in use; else it is as fast as it can be.
    pub fn postgres(durable: bool) -> Self {
        let dir = directory(durable);
        let data = dir.path().join("data");
        let mut init = Command::new(postgres_program("initdb"));
        init.args(["-U", "sandclock", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-D"]).arg(&data);
        unprivileged(&mut init, dir.path());
        run(&mut init);
        let port = free_port();
        let child = start_postgres(dir.path(), port, durable);
        let server = Server { child, dir, port, kind: Kind::Postgres };
        server.wait();
        server
    }

    /// Ends it at once, as a power cut would, and starts it again.
    pub fn restart(&mut self) {
        self.signal(Signal::QUIT);
        let _ = self.child.wait();
        self.child = start_postgres(self.dir.path(), self.port, true);
        self.wait();
    }

    pub fn signal(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, signal);
    }

    fn wait(&self) {
        let until = Instant::now() + START_TIME_MAX;
        while Instant::now() < until {
            let ready = match self.kind {
                Kind::Postgres => self.psql("postgres", "SELECT 1").is_some(),
            };
            if ready && TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!(
            "the server did not start: {}",
            std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
        );
    }

    /// Runs a statement by itself; what it answers, one row a line.
    pub fn psql(&self, database: &str, sql: &str) -> Option<String> {
        let output = Command::new(postgres_program("psql"))
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-U",
                "sandclock",
                "-d",
                database,
                "-AtqX",
                "-c",
                sql,
            ])
            .stderr(Stdio::null())
            .output()
            .expect("psql is installed");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The URL of a new, empty database.
    pub fn database(&self) -> String {
        let name = format!("d{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        match self.kind {
            Kind::Postgres => {
                self.psql("postgres", &format!("CREATE DATABASE {name}")).expect("a database is made");
                format!("postgres://sandclock@127.0.0.1:{}/{name}", self.port)
            }
        }
    }
}

/// A place for a server's files: in memory, where there is such a place and nothing is to be durable.
fn directory(durable: bool) -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let dir = if !durable && shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
    let dir = dir.expect("a directory");
    // Whoever the server runs as has to get there.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), open).expect("the directory is opened");
    dir
}

fn start_postgres(dir: &Path, port: u16, durable: bool) -> Child {
    let mut command = Command::new(postgres_program("postgres"));
    command.arg("-D").arg(dir.join("data")).args(["-h", "127.0.0.1", "-p", &port.to_string()]);
    command.arg("-k").arg(dir).args(["-c", "max_connections=200", "-c", "shared_buffers=128MB"]);
    if !durable {
        command.args(["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]);
    }
    unprivileged(&mut command, dir);
    let log = std::fs::File::create(dir.join("log")).expect("a log");
    command.stdout(Stdio::null()).stderr(log).spawn().expect("postgres is installed")
}
