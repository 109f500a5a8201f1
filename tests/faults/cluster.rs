//! The daemons, each in a network of its own, and what is done to them.

use crate::history::{Event, History, Lease, Run, now};
use crate::proxy::{Point, Proxy};
use crate::servers::{Databases, Server};
use crate::witness::Witness;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sandclock");
/// Where the witness is found from every network.
const HERE: &str = "10.77.0.1";
const LEASE: &str = "3s";
/// The clocks of the nodes, in seconds from the right time.
const CLOCKS: [i64; 3] = [0, 300, -300];
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

pub enum Fault {
    Kill,
    KillBeforeCommit,
    KillAtCommit,
    KillAfterCommit,
    /// Stopped for so long, and woken again.
    Stop(Duration),
    /// What it says to the database is lost, or what the database says to it, for so long.
    Cut {
        to: bool,
        from: bool,
        for_: Duration,
    },
    /// Everything between it and the database takes so long, for so long.
    Slow(Duration, Duration),
    /// A commit is done, and the connection is gone before the answer.
    LoseAnswer,
    RestartServer,
    HoldSnapshot(Duration),
}

struct Node {
    number: usize,
    home: PathBuf,
    url: String,
    proxy: Proxy,
    process: Arc<Mutex<Option<Child>>>,
    /// When its network is whole again, it is woken, and its way is quick.
    heals: Vec<(Instant, Heal)>,
    /// When it is started again, if it is dead.
    starts: Option<Instant>,
}

#[derive(Clone, Copy)]
enum Heal {
    Network,
    Wake,
    Speed,
}

pub struct Cluster {
    nodes: Vec<Node>,
    server: Server,
    database: String,
    witness: Witness,
    jobs: BTreeMap<String, (i64, i64)>,
    leases: Arc<Mutex<BTreeMap<u64, Lease>>>,
    watching: Arc<AtomicBool>,
    _dir: tempfile::TempDir,
}

fn sh(command: &str) {
    let done = Command::new("sh").args(["-c", command]).output().expect("a shell");
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
}

fn component() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = Command::new(root.join("plugins/build.sh")).output().expect("a shell");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    root.join("plugins/target/wasm32-wasip2/release/checker.wasm")
}

/// Whether networks can be made here; says so if not.
pub fn is_possible() -> bool {
    let tools = ["ip", "nft"].iter().all(|tool| Command::new(tool).arg("-V").output().is_ok());
    let possible = rustix::process::geteuid().is_root() && tools && Path::new(FAKETIME).exists();
    if !possible {
        eprintln!("skipped: it needs root, `ip`, `nft` and faketime (.ci/run installs them)");
        assert!(std::env::var_os("SANDCLOCK_SERVERS").is_none(), "it is required here");
    }
    possible
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.watching.store(false, Ordering::Relaxed);
        for node in &self.nodes {
            node.signal(Signal::KILL);
            let _ = Command::new("ip").args(["netns", "del", &node.name()]).output();
        }
        let _ = Command::new("nft").args(["delete", "table", "inet", "sandclockfaults"]).output();
        let _ = Command::new("ip").args(["addr", "del", &format!("{HERE}/32"), "dev", "lo"]).output();
    }
}

impl Cluster {
    pub fn start(count: usize) -> Self {
        let server = Server::postgres(true);
        let database = server.database();
        let (base, name) = database.rsplit_once('/').expect("a URL");
        assert!(base.contains("127.0.0.1"), "{base}");
        let dir = tempfile::tempdir().expect("a directory");
        let _ = Command::new("nft").args(["delete", "table", "inet", "sandclockfaults"]).output();
        sh("nft add table inet sandclockfaults; \
            nft 'add chain inet sandclockfaults in { type filter hook input priority 0; }'; \
            nft 'add chain inet sandclockfaults out { type filter hook output priority 0; }'");
        sh(&format!("ip addr add {HERE}/32 dev lo 2>/dev/null || true"));
        let nodes = (1..=count).map(|number| Node::new(number, dir.path(), server.port, name)).collect();
        let leases = Arc::new(Mutex::new(BTreeMap::new()));
        let watching = Arc::new(AtomicBool::new(true));
        let mut cluster = Cluster {
            nodes,
            database: name.to_owned(),
            witness: Witness::start(),
            jobs: BTreeMap::new(),
            leases,
            watching,
            server,
            _dir: dir,
        };
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster.nodes.iter().for_each(Node::wait);
        cluster.watch_leases();
        cluster
    }

    /// Looks at the leases all the time: what they were is not kept anywhere.
    fn watch_leases(&self) {
        let (leases, watching, port, name) =
            (self.leases.clone(), self.watching.clone(), self.server.port, self.database.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            while watching.load(Ordering::Relaxed) {
                let look = async {
                    let url = format!("postgres://sandclock@127.0.0.1:{port}/{name}");
                    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
                    tokio::spawn(connection);
                    while watching.load(Ordering::Relaxed) {
                        let sql = "SELECT lease, until, fenced OR until < sandclock.micros() FROM sandclock.lease";
                        let rows = client.query(sql, &[]).await?;
                        {
                            let mut leases = leases.lock().expect("no panic");
                            for row in rows {
                                let lease: &mut Lease = leases.entry(row.get::<_, i64>(0) as u64).or_default();
                                lease.until = lease.until.max(row.get(1));
                                lease.over |= row.get::<_, bool>(2);
                            }
                        }
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    Ok::<_, tokio_postgres::Error>(())
                };
                let _ = runtime.block_on(look);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
    }

    pub fn add_jobs(&mut self, count: u64, every: u64) {
        let (node, port) = (&self.nodes[0], self.witness.port);
        let component = component();
        let grant = format!("{HERE}:{port}@{HERE}");
        node.command(&["plugin", "add", component.to_str().expect("a path"), "--allow-http", &grant]);
        for n in 0..count {
            let id = format!("j{n:03}");
            let urls = format!("[[\"http://{HERE}:{port}/{id}/1\", \"http://{HERE}:{port}/{id}/2\"]]");
            let interrupted = if n % 2 == 0 { "rerun" } else { "fail" };
            let every = format!("{every}s");
            let policy = ["--coalesce", "all", "--max-catchup", "10000", "--overlap", "queue"];
            let added = node.command(
                &[&["job", "add", "checker:check", "--id", &id, "--args", &urls, "--every", &every], &policy[..]]
                    .concat()
                    .iter()
                    .copied()
                    .chain(["--on-interrupted", interrupted, "--json"])
                    .collect::<Vec<_>>(),
            );
            let added: Value = serde_json::from_str(&added).expect("JSON");
            let first = added["next_run_time"].as_str().expect("a time").parse::<chrono::DateTime<chrono::Utc>>();
            let first = first.expect("a time").timestamp_micros();
            self.jobs.insert(id, (first, every.trim_end_matches('s').parse::<i64>().expect("seconds") * 1_000_000));
        }
    }

    /// Ends what is over, and starts what is dead.
    fn tend(&mut self) {
        for node in &mut self.nodes {
            node.tend();
        }
    }

    pub fn inflict(&mut self, at: usize, fault: Fault) {
        self.tend();
        let node = &mut self.nodes[at];
        let kill = |process: Arc<Mutex<Option<Child>>>| move || signal(&process, Signal::KILL);
        match fault {
            Fault::Kill => node.signal(Signal::KILL),
            Fault::KillBeforeCommit => node.proxy.at_next_commit(Point::Before, kill(node.process.clone())),
            Fault::KillAtCommit => node.proxy.at_next_commit(Point::At, kill(node.process.clone())),
            Fault::KillAfterCommit => node.proxy.at_next_commit(Point::After, kill(node.process.clone())),
            Fault::LoseAnswer => node.proxy.at_next_commit(Point::At, || ()),
            Fault::Stop(long) => {
                node.signal(Signal::STOP);
                node.heals.push((Instant::now() + long, Heal::Wake));
            }
            Fault::Cut { to, from, for_ } => {
                node.cut(to, from);
                node.heals.push((Instant::now() + for_, Heal::Network));
            }
            Fault::Slow(delay, long) => {
                node.proxy.delay(delay);
                node.heals.push((Instant::now() + long, Heal::Speed));
            }
            Fault::RestartServer => self.server.restart(),
            Fault::HoldSnapshot(long) => {
                let (port, name) = (self.server.port.to_string(), self.database.clone());
                let hold = format!(
                    "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM sandclock.job; SELECT pg_sleep({})",
                    long.as_secs()
                );
                std::thread::spawn(move || {
                    let _ = Command::new("psql")
                        .args(["-h", "127.0.0.1", "-p", &port, "-U", "sandclock", "-d", &name, "-qc", &hold])
                        .output();
                });
            }
        }
    }

    /// Ends all faults.
    pub fn heal(&mut self) {
        for node in &mut self.nodes {
            for (at, _) in &mut node.heals {
                *at = Instant::now();
            }
            node.tend();
        }
    }

    /// Waits until every fire time up to `end` has come to its end, and gives what was recorded.
    pub fn rest(&mut self, end: i64, most: Duration) -> History {
        let until = Instant::now() + most;
        let open = format!(
            "SELECT (SELECT count(*) FROM sandclock.run WHERE NOT ended AND scheduled <= {end}) + \
             (SELECT count(*) FROM sandclock.job WHERE line <= {end} OR wake <= {end})"
        );
        while Instant::now() < until {
            self.tend();
            if now() > end + 2_000_000 && self.server.psql(&self.database, &open).as_deref() == Some("0") {
                break;
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        // The last effects are on their way.
        std::thread::sleep(Duration::from_millis(500));
        self.history(end)
    }

    fn rows(&self, sql: &str) -> Vec<Value> {
        let json = format!("SELECT coalesce(json_agg(r), '[]') FROM ({sql}) r");
        let answer = self.server.psql(&self.database, &json).expect("an answer");
        match serde_json::from_str(&answer).expect("JSON") {
            Value::Array(rows) => rows,
            other => panic!("{other}"),
        }
    }

    fn history(&self, end: i64) -> History {
        let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let sql = format!(
            "SELECT job, scheduled, lease, ended, convert_from(body, 'UTF8')::json AS body FROM sandclock.run WHERE scheduled <= {end}"
        );
        let run = |row: Value| {
            let job = text(&row, "job");
            Run {
                id: text(&row["body"], "id"),
                fire: row["scheduled"].as_i64().expect("a time"),
                attempt: row["body"]["attempt"].as_u64().expect("a number") as u32,
                epoch: row["body"]["epoch"].as_u64().expect("an epoch"),
                lease: row["lease"].as_u64().expect("a lease"),
                ended: row["ended"].as_bool().expect("yes or no"),
                outcome: text(&row["body"]["outcome"], "kind"),
                rerun: job[1..].parse::<u64>().expect("a number") % 2 == 0,
                job,
            }
        };
        let runs: Vec<Run> = self.rows(&sql).into_iter().map(run).collect();
        let blocks = "SELECT first, convert_from(body, 'UTF8')::json AS body FROM sandclock.event ORDER BY first";
        let mut events = Vec::new();
        for block in self.rows(blocks) {
            let first = block["first"].as_u64().expect("a number");
            for (event, seq) in block["body"].as_array().expect("events").iter().zip(first..) {
                events.push(Event { seq, kind: text(event, "k"), run: event["r"].as_str().map(str::to_owned) });
            }
        }
        let mut effects = self.witness.effects();
        effects.retain(|effect| effect.fire <= end);
        let leases = self.leases.lock().expect("no panic").clone();
        History { jobs: self.jobs.clone(), end, runs, effects, leases, events }
    }
}

impl Node {
    fn new(number: usize, dir: &Path, server: u16, database: &str) -> Self {
        let proxy = Proxy::start(server);
        let node = Node {
            number,
            home: dir.join(format!("n{number}")),
            url: format!("postgres://sandclock@10.77.{number}.1:{}/{database}", proxy.port),
            proxy,
            process: Arc::default(),
            heals: Vec::new(),
            starts: None,
        };
        let (name, link) = (node.name(), node.link());
        // What a run that was killed left: a daemon in there would keep the link.
        let _ = Command::new("ip").args(["link", "del", &link]).output();
        let _ = Command::new("ip").args(["netns", "del", &name]).output();
        sh(&format!(
            "ip netns add {name}; ip link add {link} type veth peer name eth0 netns {name}; \
             ip addr add 10.77.{number}.1/30 dev {link}; ip link set {link} up; \
             ip -n {name} addr add 10.77.{number}.2/30 dev eth0; ip -n {name} link set eth0 up; \
             ip -n {name} link set lo up; ip -n {name} route add default via 10.77.{number}.1"
        ));
        node
    }

    fn name(&self) -> String {
        format!("sandclock{}", self.number)
    }

    fn link(&self) -> String {
        format!("sandclock{}v", self.number)
    }

    fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.home.with_extension("log"));
        let clock = CLOCKS[(self.number - 1) % CLOCKS.len()];
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name(), PROGRAM, "--home"])
            .arg(&self.home)
            .args(["serve", "--slots", "24"]);
        command.env("SANDCLOCK_STORE", &self.url).env("SANDCLOCK_LEASE", LEASE);
        if clock != 0 {
            command
                .env("LD_PRELOAD", FAKETIME)
                .env("FAKETIME", format!("{clock:+}s"))
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let child = command.stdout(Stdio::null()).stderr(log.expect("a log")).spawn().expect("the daemon starts");
        *self.process.lock().expect("no panic") = Some(child);
    }

    fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while !self.home.join("socket").exists() {
            assert!(
                Instant::now() < until,
                "{}",
                std::fs::read_to_string(self.home.with_extension("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn signal(&self, what: Signal) {
        signal(&self.process, what);
    }

    fn command(&self, args: &[&str]) -> String {
        let output = Command::new(PROGRAM).arg("--home").arg(&self.home).args(args).output().expect("the program");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn cut(&self, to: bool, from: bool) {
        let (link, port) = (self.link(), self.proxy.port);
        if to {
            sh(&format!("nft add rule inet sandclockfaults in iifname {link} tcp dport {port} drop"));
        }
        if from {
            sh(&format!("nft add rule inet sandclockfaults out oifname {link} tcp sport {port} drop"));
        }
    }

    /// Rules have no names, so all go; a cut of another node is made anew by its own fault.
    fn mend(&self) {
        let (link, port) = (self.link(), self.proxy.port);
        for (chain, side) in [
            ("in", format!("iifname \"{link}\" tcp dport {port}")),
            ("out", format!("oifname \"{link}\" tcp sport {port}")),
        ] {
            sh(&format!(
                "nft -a list chain inet sandclockfaults {chain} | grep -F '{side}' | sed 's/.*handle //' | \
                 while read h; do nft delete rule inet sandclockfaults {chain} handle $h; done"
            ));
        }
    }

    fn tend(&mut self) {
        let now = Instant::now();
        let over: Vec<Heal> = self.heals.iter().filter(|(at, _)| *at <= now).map(|(_, heal)| *heal).collect();
        self.heals.retain(|(at, _)| *at > now);
        for heal in over {
            match heal {
                Heal::Network => self.mend(),
                Heal::Wake => self.signal(Signal::CONT),
                Heal::Speed => self.proxy.delay(Duration::ZERO),
            }
        }
        let dead = match &mut *self.process.lock().expect("no panic") {
            Some(process) => process.try_wait().is_ok_and(|status| status.is_some()),
            None => true,
        };
        match self.starts {
            None if dead => self.starts = Some(now + Duration::from_secs(1)),
            Some(at) if dead && at <= now => {
                self.starts = None;
                let _ = std::fs::remove_file(self.home.join("socket"));
                self.start();
            }
            _ => {}
        }
    }
}

fn signal(process: &Mutex<Option<Child>>, signal: Signal) {
    if let Some(process) = &*process.lock().expect("no panic") {
        let _ = kill_process(Pid::from_child(process), signal);
    }
}
