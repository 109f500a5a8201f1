//! Private servers: started from the programs that are installed, on free ports and in directories of
//! their own, and gone with the test.

#![allow(dead_code)]

use rustix::process::Signal;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take to start.
const START_TIME_MAX: Duration = Duration::from_secs(60);
const REDIS_DATABASES: usize = 512;
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
    Mariadb,
    Redis,
}

impl Kind {
    /// What makes a server end at once.
    fn end(self) -> Signal {
        match self {
            Kind::Postgres => Signal::QUIT,
            Kind::Mariadb | Kind::Redis => Signal::KILL,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(self.kind.end());
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

/// Whether a test of this database can be made here; says so if not. `.ci/run` has all of them, and
/// there it is no excuse.
pub fn there(database: &str) -> bool {
    let programs: &[&str] = match database {
        "postgres" => &["initdb", "postgres", "psql"],
        "mysql" => &["mariadbd"],
        "redis" => &["redis-server"],
        _ => &[],
    };
    let places = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    let found = |program: &str| {
        postgres_program(program).is_absolute() || places.split(':').any(|dir| Path::new(dir).join(program).exists())
    };
    let missing: Vec<&&str> = programs.iter().filter(|program| !found(program)).collect();
    if !missing.is_empty() {
        eprintln!("skipped: there is no {missing:?} here (.ci/run installs it)");
        assert!(std::env::var_os("SANDCLOCK_SERVERS").is_none(), "it is required here");
    }
    missing.is_empty()
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
pub fn postgres_program(name: &str) -> PathBuf {
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

    /// A MariaDB, or a MySQL under its name.
    pub fn mariadb(durable: bool) -> Self {
        let dir = directory(durable);
        let mut init = Command::new("mariadb-install-db");
        init.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        init.arg(format!("--datadir={}", dir.path().join("data").display()));
        // One that starts removes what others keep in a directory that they share.
        init.env("TMPDIR", dir.path());
        unprivileged(&mut init, dir.path());
        run(&mut init);
        let port = free_port();
        let child = start_mariadb(dir.path(), port, durable);
        let server = Server { child, dir, port, kind: Kind::Mariadb };
        server.wait();
        server
    }

    /// A Redis. `durable`: it writes all to its log before it answers; else it forgets all when it ends.
    pub fn redis(durable: bool) -> Self {
        let dir = directory(durable);
        let port = free_port();
        let child = start_redis(dir.path(), port, durable);
        let server = Server { child, dir, port, kind: Kind::Redis };
        server.wait();
        server
    }

    /// Ends it at once, as a power cut would, and starts it again.
    pub fn restart(&mut self) {
        self.signal(self.kind.end());
        let _ = self.child.wait();
        let start = match self.kind {
            Kind::Postgres => start_postgres,
            Kind::Mariadb => start_mariadb,
            Kind::Redis => start_redis,
        };
        self.child = start(self.dir.path(), self.port, true);
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
                Kind::Mariadb => self.mysql("SELECT 1").is_some(),
                Kind::Redis => self.redis_answers(),
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

    /// Runs a statement by itself; what it answers, one row a line.
    pub fn mysql(&self, sql: &str) -> Option<String> {
        let output = Command::new("mariadb")
            .args(["--no-defaults", "-u", "root", "-NB", "-e", sql, "-S"])
            .arg(self.dir.path().join("socket"))
            .stderr(Stdio::null())
            .output()
            .expect("mariadb is installed");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn redis_answers(&self) -> bool {
        let mut answer = [0; 7];
        let mut ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.write_all(b"PING\r\n")?;
            stream.read_exact(&mut answer)
        };
        ask().is_ok() && &answer == b"+PONG\r\n"
    }
}

/// A place for databases that are files.
pub struct Files(tempfile::TempDir);

impl Files {
    pub fn new() -> Self {
        Files(directory(false))
    }
}

/// Where databases are.
pub trait Databases {
    /// The URL of a new, empty one.
    fn database(&self) -> String;
}

impl Databases for Server {
    fn database(&self) -> String {
        let number = DATABASES.fetch_add(1, Ordering::Relaxed);
        let name = format!("d{number}");
        match self.kind {
            Kind::Mariadb => {
                self.mysql(&format!("CREATE DATABASE {name}")).expect("a database is made");
                format!("mysql://root@127.0.0.1:{}/{name}", self.port)
            }
            Kind::Redis => {
                assert!(number < REDIS_DATABASES, "a test has used up its databases");
                format!("redis://127.0.0.1:{}/{number}", self.port)
            }
            Kind::Postgres => {
                self.psql("postgres", &format!("CREATE DATABASE {name}")).expect("a database is made");
                format!("postgres://sandclock@127.0.0.1:{}/{name}", self.port)
            }
        }
    }
}

impl Databases for Files {
    fn database(&self) -> String {
        let name = format!("d{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        format!("sqlite://{}", self.0.path().join(name).display())
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

fn start_mariadb(dir: &Path, port: u16, durable: bool) -> Child {
    let mut command = Command::new("mariadbd");
    command.env("TMPDIR", dir);
    command.arg("--no-defaults").arg("--datadir").arg(dir.join("data")).arg("--socket").arg(dir.join("socket"));
    command.arg("--pid-file").arg(dir.join("pid")).args(["--bind-address=127.0.0.1", "--port", &port.to_string()]);
    // The host's names are none of its business, and it holds all that a test has.
    command.args(["--skip-name-resolve", "--max-connections=500", "--innodb-buffer-pool-size=128M"]);
    if !durable {
        command.args(["--innodb-flush-log-at-trx-commit=0", "--skip-innodb-doublewrite"]);
    }
    unprivileged(&mut command, dir);
    let log = std::fs::File::create(dir.join("log")).expect("a log");
    command.stdout(Stdio::null()).stderr(log).spawn().expect("mariadbd is installed")
}

fn start_redis(dir: &Path, port: u16, durable: bool) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(dir);
    command.args(["--databases", &REDIS_DATABASES.to_string()]);
    if durable {
        command.args(["--appendonly", "yes", "--appendfsync", "always"]);
    }
    unprivileged(&mut command, dir);
    let log = std::fs::File::create(dir.join("log")).expect("a log");
    command.stdout(log).stderr(Stdio::null()).spawn().expect("redis-server is installed")
}
