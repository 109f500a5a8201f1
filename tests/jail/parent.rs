//! Starts the children and looks how they end.

use crate::child;
use sandclock::jail::{Status, try_forbidden};
use std::{
    io::{BufRead, BufReader, IoSlice, Read, Write},
    mem::MaybeUninit,
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::PathBuf,
    process::{Command, ExitCode, Output, Stdio},
    time::{Duration, Instant},
};

type Check = fn();

/// musl raises the signal by a call that the jail refuses, and falls back on a bad instruction.
const ABORTED: i32 = if cfg!(target_env = "musl") { libc::SIGSEGV } else { libc::SIGABRT };

const CHECKS: &[(&str, Check)] = &[
    ("all_layers_are_enforced_without_directories", all_layers_strict),
    ("all_layers_are_enforced_with_directories", all_layers_worker),
    ("all_layers_are_enforced_for_a_plain_user", all_layers_plain_user),
    ("a_missing_directory_is_said", missing_directory),
    ("memory_in_use_beyond_the_limit_is_said", too_much),
    ("other_threads_are_said", second_thread),
    ("a_runtime_with_timers_and_blocking_files_works", runtime),
    ("files_of_granted_directories_work_and_no_others", files),
    ("without_directories_opening_fails_and_does_not_kill", || succeeds("no-files", &[])),
    ("a_handed_connection_works", handed_socket),
    ("a_handed_connection_stays_what_it_is", socket_tricks),
    ("the_way_to_the_parent_works_without_other_sockets", control),
    ("threads_start_where_allowed", || succeeds("threads", &[])),
    ("threads_fail_to_start_where_not", || succeeds("no-threads", &[])),
    ("abort_gives_its_signal", || ends_by(ABORTED, "abort")),
    ("abort_in_a_thread_gives_its_signal", || ends_by(ABORTED, "abort-in-thread")),
    ("memory_past_the_limit_cannot_be_had", || succeeds("memory", &[])),
    ("an_allocation_that_must_not_fail_aborts", || ends_by(ABORTED, "allocation")),
    ("processor_time_past_the_limit_ends_by_its_signal", processor),
    ("a_file_past_the_limit_is_an_error", file_size),
    ("a_panic_is_caught", || succeeds("panic", &[])),
    ("a_stopped_sleeper_goes_on", stop),
    ("signal_handlers_work", || succeeds("signals", &[])),
    ("the_engine_can_map_and_reset_memory", || succeeds("engine", &[])),
    ("the_32_bit_way_in_kills", || ends_by(libc::SIGSYS, "compat")),
    ("the_x32_way_in_is_refused", || succeeds("x32", &[])),
    ("a_child_closes_what_it_does_not_keep", descriptors),
    ("a_child_of_another_parent_refuses", wrong_parent),
    ("a_locked_child_dies_with_its_parent", dies_with_parent),
    ("a_locked_child_dies_with_the_thread_that_started_it", dies_with_thread),
    ("attempts_fail_under_strict_rules", || probe("strict", None)),
    ("attempts_fail_under_worker_rules", || probe("worker", None)),
    ("attempts_fail_for_a_plain_user", || probe("worker", Some(NOBODY))),
];

const NOBODY: u32 = 65534;

pub fn main(arguments: &[String]) -> ExitCode {
    if arguments.first().is_some_and(|first| first == "parent-of-sleeper") {
        parent_of_sleeper();
    }
    let wanted = arguments.iter().find(|argument| !argument.starts_with('-'));
    let mut failed = 0;
    for (name, check) in CHECKS.iter().filter(|(name, _)| wanted.is_none_or(|wanted| name.contains(wanted.as_str()))) {
        let good = std::panic::catch_unwind(check).is_ok();
        println!("{name} ... {}", if good { "ok" } else { "FAILED" });
        failed += u32::from(!good);
    }
    println!("{failed} failed");
    ExitCode::from(u8::from(failed > 0))
}

fn this() -> PathBuf {
    std::env::current_exe().expect("the test's program")
}

/// Else mimalloc takes 1 GiB at its start.
const LAZY: (&str, &str) = ("MIMALLOC_ARENA_EAGER_COMMIT", "0");

fn command(case: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(this());
    command.args(["child", &std::process::id().to_string(), case]).args(arguments).stdin(Stdio::null());
    command.env(LAZY.0, LAZY.1);
    command
}

fn text(output: &Output) -> String {
    format!("{} {}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn run(case: &str, arguments: &[&str]) -> Output {
    command(case, arguments).output().expect("a child")
}

fn succeeds(case: &str, arguments: &[&str]) {
    let output = run(case, arguments);
    assert!(output.status.success(), "{case}: {}", text(&output));
}

fn ends_by(signal: i32, case: &str) {
    let output = run(case, &[]);
    assert_eq!(output.status.signal(), Some(signal), "{case}: {}", text(&output));
    assert!(!output.status.core_dumped());
}

/// A fresh directory with a writable and a readable one; the latter has a file.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let path = std::env::temp_dir().join(format!("jail-it-{}-{count}", std::process::id()));
        for dir in ["write", "read"] {
            std::fs::create_dir_all(path.join(dir)).expect("a directory");
        }
        std::fs::write(path.join("read/given"), b"given").expect("a file");
        Place(path)
    }

    fn arguments(&self) -> [String; 2] {
        ["write", "read"].map(|dir| self.0.join(dir).to_str().expect("utf-8").to_owned())
    }

    fn succeeds(&self, case: &str) {
        let [write, read] = self.arguments();
        succeeds(case, &[&write, &read]);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("removed");
    }
}

fn layers(mut command: Command) -> Vec<(String, String)> {
    let output = command.output().expect("a child");
    assert!(output.status.success(), "{}", text(&output));
    let lines = String::from_utf8(output.stdout).expect("utf-8");
    lines
        .lines()
        .map(|line| line.split_once('|').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("a layer"))
        .collect()
}

fn lacking(command: Command) -> Vec<(String, String)> {
    let mut layers = layers(command);
    assert_eq!(layers.len(), 9, "{layers:?}");
    layers.retain(|(_, status)| status != "Enforced");
    layers
}

fn all_layers_strict() {
    assert_eq!(lacking(command("strict", &[])), []);
}

/// The superuser keeps what it needs for directories of others; everyone else has nothing to keep.
fn all_layers_worker() {
    let place = Place::new();
    let [write, read] = place.arguments();
    let lacking = lacking(command("worker", &[&write, &read]));
    if rustix::process::geteuid().is_root() {
        assert!(
            matches!(&lacking[..], [(name, status)] if name == "capabilities" && status.contains("FOWNER")),
            "{lacking:?}"
        );
    } else {
        assert_eq!(lacking, []);
    }
}

fn all_layers_plain_user() {
    let place = Place::new();
    let [write, read] = place.arguments();
    let mut command = command("worker", &[&write, &read]);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    assert_eq!(lacking(command), []);
}

fn missing_directory() {
    let lacking = lacking(command("missing", &[]));
    assert!(lacking.iter().all(|(name, _)| name == "landlock" || name == "capabilities"), "{lacking:?}");
    assert!(lacking.iter().any(|(name, status)| name == "landlock" && status.contains("No such file")), "{lacking:?}");
}

fn too_much() {
    let lacking = lacking(command("too-much", &[]));
    assert!(
        lacking.iter().any(|(name, status)| name == "memory limit" && status.contains("in use already")),
        "{lacking:?}"
    );
}

fn second_thread() {
    let lacking = lacking(command("second-thread", &[]));
    assert!(lacking.iter().any(|(name, status)| name == "landlock" && status.contains("1 threads")), "{lacking:?}");
    assert!(lacking.iter().all(|(name, _)| name != "system calls"), "those are for all threads: {lacking:?}");
}

fn runtime() {
    Place::new().succeeds("runtime");
}

fn files() {
    let place = Place::new();
    place.succeeds("files");
    assert_eq!(std::fs::read(place.0.join("read/given")).expect("still there"), b"given");
}

fn file_size() {
    Place::new().succeeds("file-size");
}

/// A child with a seqpacket pair as standard input, and a connection sent through it.
fn with_socket(case: &str) -> (std::process::Child, TcpStream) {
    let flags = rustix::net::SocketFlags::CLOEXEC;
    let (family, kind) = (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::SEQPACKET);
    let (ours, theirs) = rustix::net::socketpair(family, kind, flags, None).expect("a pair");
    let child = command(case, &[]).stdin(theirs).stdout(Stdio::piped()).spawn().expect("a child");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let client = TcpStream::connect(listener.local_addr().expect("its address")).expect("connected");
    let (server, _) = listener.accept().expect("accepted");
    send(&ours, &OwnedFd::from(client));
    (child, server)
}

fn send(to: &OwnedFd, socket: &OwnedFd) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
    let sockets = [socket.as_fd()];
    assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&sockets)));
    rustix::net::sendmsg(to, &[IoSlice::new(b"socket")], &mut control, rustix::net::SendFlags::empty()).expect("sent");
}

fn handed_socket() {
    let (child, server) = with_socket("socket");
    server.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let mut lines = BufReader::new(&server).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "GET / HTTP/1.1");
    (&server).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").expect("answered");
    server.shutdown(std::net::Shutdown::Write).expect("ended");
    let output = child.wait_with_output().expect("an end");
    assert!(output.status.success(), "{}", text(&output));
}

fn control() {
    let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let theirs = OwnedFd::from(theirs);
    let child = command("control", &[]).stdin(theirs).stdout(Stdio::piped()).spawn().expect("a child");
    ours.write_all(b"echo").expect("sent");
    let mut answer = String::new();
    ours.read_to_string(&mut answer).expect("an answer");
    let output = child.wait_with_output().expect("an end");
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(answer, "echo");
}

fn socket_tricks() {
    let (child, _server) = with_socket("socket-tricks");
    let output = child.wait_with_output().expect("an end");
    assert!(output.status.success(), "{}", text(&output));
}

fn processor() {
    let start = Instant::now();
    ends_by(libc::SIGXCPU, "processor");
    assert!(start.elapsed() < Duration::from_secs(10));
}

fn signal(child: &std::process::Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).expect("signalled");
}

fn stop() {
    let mut child = command("stop", &["1"]).stdout(Stdio::piped()).spawn().expect("a child");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("ready");
    std::thread::sleep(Duration::from_millis(100));
    signal(&child, rustix::process::Signal::STOP);
    std::thread::sleep(Duration::from_millis(100));
    signal(&child, rustix::process::Signal::CONT);
    assert!(child.wait().expect("an end").success());
}

fn descriptors() {
    for keep in [&[][..], &["3"], &["5", "9"], &["39"]] {
        succeeds("descriptors", keep);
    }
}

fn wrong_parent() {
    let output = Command::new(this()).args(["child", "1", "strict"]).output().expect("a child");
    assert_eq!(output.status.code(), Some(9), "{}", text(&output));
    assert!(text(&output).contains("the parent 1 is gone"), "{}", text(&output));
}

fn parent_of_sleeper() -> ! {
    let child = command("sleep", &["/var/tmp", "/usr/share", "60"]).spawn().expect("a child");
    // Until it is ready, which this process can't see: the output is the test's.
    let mut byte = [0];
    std::io::stdin().read(&mut byte).map(drop).expect("the word to go");
    drop(child);
    std::process::exit(0)
}

/// The sleeper holds the pipe's end, so that its end is seen as the end of the pipe.
fn dies_with_parent() {
    let mut middle = Command::new(this());
    middle.arg("parent-of-sleeper").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut middle = middle.spawn().expect("a parent");
    let mut output = BufReader::new(middle.stdout.take().expect("a pipe"));
    let mut line = String::new();
    output.read_line(&mut line).expect("ready");
    assert_eq!(line, "ready\n");
    let start = Instant::now();
    drop(middle.stdin.take());
    middle.wait().expect("the parent ends");
    output.read_to_string(&mut line).expect("the end");
    assert!(start.elapsed() < Duration::from_secs(5), "the sleeper slept on");
}

fn dies_with_thread() {
    let start = Instant::now();
    let spawn = || {
        let sleeper = command("sleep", &["/var/tmp", "/usr/share", "60"]).stdout(Stdio::piped()).spawn();
        let mut sleeper = sleeper.expect("a child");
        let mut line = String::new();
        BufReader::new(sleeper.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("ready");
        sleeper
    };
    let mut sleeper = std::thread::spawn(spawn).join().expect("the thread ended");
    assert_eq!(sleeper.wait().expect("an end").signal(), Some(libc::SIGKILL));
    assert!(start.elapsed() < Duration::from_secs(5));
}

fn probe(rules: &str, user: Option<u32>) {
    let child = || {
        let mut command = Command::new(this());
        command.args(["probe", rules]).env(LAZY.0, LAZY.1);
        if let Some(user) = user.filter(|_| rustix::process::geteuid().is_root()) {
            command.uid(user).gid(user);
        }
        command
    };
    let findings = try_forbidden(&child::rules_named(rules), child);
    assert!(findings.len() >= 30, "{}", findings.len());
    for finding in &findings {
        let refusal = finding.refusal.as_deref().unwrap_or("-");
        println!("    {:36} {refusal:40} {:?}", finding.attempt, finding.status);
    }
    assert!(!findings.iter().any(|finding| matches!(finding.status, Status::Off(_))));
    if user.is_none() && rustix::process::geteuid().is_root() {
        assert!(findings.iter().all(|finding| finding.status == Status::Enforced));
    }
}
