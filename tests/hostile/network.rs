//! The network: a guest's requests go where its grant says, and a server that means ill takes neither
//! time nor memory that the limits do not give.

use crate::fake::{Mode, Names, Server, closed_port};
use crate::wall::{Bench, Case, Wall, group, surfer, wat};
use sandclock::OutcomeKind::*;
use sandclock::executor::Report;
use sandclock::sandbox::connect::Direct;
use sandclock::{Grants, Outcome};
use serde_json::json;
use std::sync::Arc;

#[test]
fn the_network_is_what_is_granted_for_this_process() {
    network(Wall::Async);
}

#[test]
fn the_network_is_what_is_granted_for_a_worker() {
    network(Wall::Process);
}

fn network(wall: Wall) {
    let names = Arc::new(Names::default());
    names.set("ok.test", &[&["127.0.0.1"]]);
    group("network", wall, Arc::new(Direct::new(names.clone())), async |bench: &mut Bench| {
        addresses(bench, &names).await;
        answers_that_change(bench, &names).await;
        spellings(bench).await;
        requests(bench).await;
        bodies(bench).await;
        evil_servers(bench).await;
        many(bench).await;
    });
}

fn grant(text: &str) -> Grants {
    Grants { http: vec![text.parse().unwrap()], ..Grants::default() }
}

/// What the servers of the tests are granted as.
fn to(server: &Server) -> Grants {
    grant(&format!("ok.test:{}@127.0.0.1", server.port))
}

fn fetch(id: &'static str, url: &str, grants: Grants) -> Case {
    let case = surfer(id, "fetch").args(json!(["GET", url, [], []])).grants(grants);
    case.fuel(1_000_000_000)
}

fn value(report: &Report) -> &serde_json::Value {
    let Outcome::Succeeded { value } = &report.outcome else { panic!("{:?}", report.outcome) };
    value
}

/// Every spelling of an inner address: not granted as a host, and not where a granted name leads to.
async fn addresses(bench: &mut Bench, names: &Names) {
    let canary = Server::start(Mode::Answer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
    let port = canary.port;
    let hosts: [(&str, &[&str]); 4] = [
        ("W1", &["127.0.0.1", "[::1]", "0.0.0.0", "[::]", "localhost"]),
        ("W2", &["169.254.169.254", "[fd00:ec2::254]", "100.100.100.200"]),
        ("W4", &["[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[::127.0.0.1]", "[fe80::1%25lo]"]),
        ("W5", &["0x7f.1", "2130706433", "017700000001", "127.1"]),
    ];
    for (id, hosts) in hosts {
        for host in hosts {
            let url = format!("http://{host}:{port}/");
            bench.check(fetch(id, &url, grant("nobody.test:80")).ends(Denied).ends(Failed)).await;
        }
    }
    let inner: [(&str, &[&str]); 4] = [
        ("W1", &["127.0.0.1", "::1", "0.0.0.0", "::"]),
        ("W2", &["169.254.169.254", "fd00:ec2::254", "100.100.100.200"]),
        (
            "W3",
            &[
                "10.0.0.1",
                "192.168.0.1",
                "172.16.0.1",
                "100.64.0.1",
                "fc00::1",
                "224.0.0.1",
                "255.255.255.255",
                "240.0.0.1",
                "192.0.2.1",
            ],
        ),
        ("W4", &["::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1", "fe80::1"]),
    ];
    for (id, addresses) in inner {
        for address in addresses {
            names.set("inner.test", &[&[address]]);
            let case = fetch(id, &format!("http://inner.test:{port}/"), grant(&format!("inner.test:{port}")));
            bench.check(case.ends(Denied).looks(prohibited)).await;
        }
    }
    assert_eq!(canary.connections(), 0, "the daemon's own port was reached");
}

fn prohibited(report: &Report) {
    let error = report.outcome.error().unwrap_or_default();
    assert!(error.contains("DestinationIpProhibited"), "{error}");
}

/// W6, W7: the address that was judged is the one connected to.
async fn answers_that_change(bench: &mut Bench, names: &Names) {
    let judged = Server::on("127.0.0.2:0", Mode::Echo);
    let Ok(canary) = std::panic::catch_unwind(|| Server::on(&format!("127.0.0.1:{}", judged.port), Mode::Echo)) else {
        return bench.fail("a port is not free on both addresses".into());
    };
    let only = |name: &str| grant(&format!("{name}:{}@127.0.0.2", judged.port));
    let url = |name: &str| format!("http://{name}:{}/", judged.port);
    names.set("rebinds.test", &[&["127.0.0.2"], &["127.0.0.1"]]);
    bench.check(fetch("W6", &url("rebinds.test"), only("rebinds.test")).ends(Succeeded)).await;
    assert_eq!((names.asked("rebinds.test"), judged.connections()), (1, 1), "it was resolved once and that was used");
    bench.check(fetch("W6", &url("rebinds.test"), only("rebinds.test")).ends(Denied).looks(prohibited)).await;
    for answer in [["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "127.0.0.2"]] {
        names.set("mixed.test", &[&answer]);
        bench.check(fetch("W7", &url("mixed.test"), only("mixed.test")).ends(Denied).looks(prohibited)).await;
    }
    assert_eq!((judged.connections(), canary.connections()), (1, 0), "an address that was not judged was reached");
}

/// W8, W10: names that look like the granted one, and requests that are two.
async fn spellings(bench: &mut Bench) {
    let server = Server::start(Mode::Echo);
    let canary = Server::start(Mode::Echo);
    let (port, other) = (server.port, canary.port);
    let not = [
        format!("http://ok.test:{port}@evil.test/"),
        format!("http://ok.test@evil.test:{port}/"),
        format!("http://evil.test:{port}/"),
        format!("http://ok.test.evil.test:{port}/"),
        format!("http://ok.test:{other}/"),
        "http://ok.test:22/".to_owned(),
        "http://ok.test/".to_owned(),
        format!("http://ok.test%2eevil:{port}/"),
        format!("http://xn--ok-xka.test:{port}/"),
        format!("http://ök.test:{port}/"),
        format!("http://ok.test:{port}http://evil/"),
        "http:////evil".to_owned(),
        format!("ftp://ok.test:{port}/"),
    ];
    for url in not {
        bench.check(fetch("W8", &url, to(&server)).ends(Denied).ends(Failed)).await;
    }
    assert_eq!((server.connections(), canary.connections()), (0, 0));
    for url in [format!("http://OK.TEST:{port}/"), format!("http://ok.test.:{port}/")] {
        bench.check(fetch("W8", &url, to(&server)).ends(Succeeded).ends(Denied).ends(Failed)).await;
    }
    let before = server.requests().len();
    for path in ["/a b", "/a\r\nX: y", "/a\nGET /b HTTP/1.1", "/\0", "//evil/x", "/http://evil/"] {
        bench.check(fetch("W10", &server.url(path), to(&server)).ends(Succeeded).ends(Failed)).await;
    }
    let methods = ["GET / HTTP/1.1\r\nX: y\r\n\r\nGET", "GET /x", "G\nT", "", "CONNECT"];
    for method in methods {
        let case = surfer("W10", "fetch").args(json!([method, server.url("/"), [], []])).grants(to(&server));
        bench.check(case.ends(Failed)).await;
    }
    for request in &server.requests()[before..] {
        assert_eq!(request.matches("HTTP/1.1").count(), 1, "one request became two: {request:?}");
        assert!(!request.contains("X: y"), "{request:?}");
    }
    assert_eq!(canary.connections(), 0);
}

/// W9, W16, W20: redirects stay, headers of the connection are the host's.
async fn requests(bench: &mut Bench) {
    let canary = Server::start(Mode::Echo);
    let moved = format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", canary.url("/"));
    let server = Server::start(Mode::Answer(moved.leak()));
    let case = fetch("W9", &server.url("/"), to(&server)).ends(Succeeded);
    bench.check(case.looks(|report| assert_eq!(value(report)[0], json!(302)))).await;
    assert_eq!((server.requests().len(), canary.connections()), (1, 0), "a redirect was followed");
    let echo = Server::start(Mode::Echo);
    let forbidden = ["Host", "Proxy-Authorization", "Connection", "Transfer-Encoding", "Upgrade", "Keep-Alive"];
    for name in forbidden {
        let args = json!(["GET", echo.url("/"), [[name, "evil"]], []]);
        let case = surfer("W16", "fetch").args(args).grants(to(&echo)).ends(Succeeded).ends(Failed);
        bench.check(case.looks(|report| assert!(!format!("{:?}", report.outcome).contains("evil")))).await;
    }
    let lines = json!(["GET", echo.url("/"), [["x-line", "a\r\nX-Evil: b"]], []]);
    bench.check(surfer("W10", "fetch").args(lines).grants(to(&echo)).ends(Failed)).await;
    bench.check(fetch("W17", &echo.url("/?q"), to(&echo)).ends(Succeeded)).await;
    bench.check(wat("W18", "import_sockets").refused("network sockets")).await;
    let logged = crate::log::lines();
    bench.check(fetch("W20", &echo.url("/?token=hunter2hunter2"), to(&echo)).ends(Succeeded)).await;
    let refused = format!("http://nobody.test:{}/?token=hunter2hunter2", echo.port);
    let case = fetch("W20", &refused, to(&echo)).ends(Denied);
    bench
        .check(case.looks(|report| {
            let kept = format!("{:?} {:?} {:?}", report.outcome, report.logs, report.uses);
            assert!(!kept.contains("hunter2"), "{kept}");
        }))
        .await;
    assert!(!crate::log::since(logged).contains("hunter2"), "the query is in the log");
}

/// W11: a body is as long as it says, or there is no request.
async fn bodies(bench: &mut Bench) {
    let server = Server::start(Mode::Echo);
    let url = server.url("/");
    for (announced, sent) in [(10, 5), (5, 10)] {
        bench.check(surfer("W11", "lie").args(json!([url, announced, sent])).grants(to(&server)).ends(Failed)).await;
    }
    bench.check(surfer("W11", "unfinished").args(json!([url])).grants(to(&server)).ends(Failed)).await;
    let whole = server.requests();
    assert!(whole.iter().all(|request| !request.contains("xxxxxx")), "{whole:?}");
    let twice = json!(["POST", url, [["content-length", "1"], ["content-length", "2"]], [120, 120]]);
    bench.check(surfer("W11", "fetch").args(twice).grants(to(&server)).ends(Failed)).await;
    let sink = Server::start(Mode::Silent);
    let upload = surfer("W12", "upload").args(json!([sink.url("/")])).grants(to(&sink)).for_ms(1000);
    bench.check(upload.ends(TimedOut).ends(Failed)).await;
}

async fn evil_servers(bench: &mut Bench) {
    for mode in [Mode::Endless, Mode::Huge, Mode::Headers, Mode::Breaks] {
        let server = Server::start(mode);
        let case = surfer("W12", "endless").args(json!([server.url("/")])).grants(to(&server)).fuel(10_000_000_000);
        bench.check(case.ends(Failed)).await;
    }
    let slow = Server::start(Mode::Slow);
    let case = surfer("W12", "endless").args(json!([slow.url("/")])).grants(to(&slow)).for_ms(1500);
    bench.check(case.ends(TimedOut)).await;
    let gzip = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x08zz";
    let server = Server::start(Mode::Answer(gzip));
    let case = fetch("W12", &server.url("/"), to(&server)).ends(Succeeded);
    bench.check(case.looks(|report| assert_eq!(value(report)[2], json!("\u{1f}\u{8}zz")))).await;
    let silent = Server::start(Mode::Silent);
    let https = silent.url("/").replace("http:", "https:");
    for (url, id) in [(&https, "W13"), (&silent.url("/"), "W15")] {
        let case = surfer(id, "slow").args(json!([url, 300, 300, 300])).grants(to(&silent));
        bench.check(case.ends(Failed)).await;
    }
    if crate::slow() {
        bench.check(fetch("W13", &https, to(&silent)).for_ms(15_000).ends(Failed)).await;
    }
    let server = Server::start(Mode::Waits(50));
    let most = u64::MAX;
    for (milliseconds, ends) in [(0, Failed), (most, Succeeded)] {
        let args = json!([server.url("/"), milliseconds, milliseconds, milliseconds]);
        bench.check(surfer("W15", "slow").args(args).grants(to(&server)).ends(ends)).await;
    }
    let endless = Server::start(Mode::Endless);
    for export in ["linger", "forget"] {
        let case = surfer("C13", export).args(json!([endless.url("/")])).grants(to(&endless));
        bench.check(case.ends(Succeeded)).await;
    }
}

/// W14, U21: many requests share few connections, and few lines of the log.
async fn many(bench: &mut Bench) {
    let server = Server::start(Mode::Waits(10));
    let flood = |requests| surfer("W14", "flood").args(json!([server.url("/"), requests])).grants(to(&server));
    bench.check(flood(10_000).traps("resource_limit")).await;
    bench.check(flood(100).fuel(1_000_000_000).gives(json!(100))).await;
    // The server counts one until it has noticed its end; without the cap there are some 170.
    assert!(server.most() <= 128, "{} connections at one time", server.most());
    let port = closed_port();
    let logged = crate::log::lines();
    let args = json!([format!("http://ok.test:{port}/"), 100_000]);
    let case = surfer("U21", "repeat").args(args).grants(grant(&format!("ok.test:{port}@127.0.0.1"))).for_ms(2000);
    bench.check(case.ends(TimedOut).ends(Succeeded)).await;
    let more = crate::log::lines() - logged;
    assert!(more < 100, "{more} lines were logged");
}
