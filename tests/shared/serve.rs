//! A daemon whose database is not there yet, or refuses it.

use crate::servers::{Databases, Server};
use sandclock::store::SharedOptions;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStderr, Command};

fn serve(home: &Path, url: &str, node: &str) -> (Child, Lines<BufReader<ChildStderr>>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandclock"));
    command
        .arg("--home")
        .arg(home)
        .args(["serve", "--store", url, "--node", node])
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut daemon = command.spawn().expect("it starts");
    let said = BufReader::new(daemon.stderr.take().expect("a pipe")).lines();
    (daemon, said)
}

/// Reads on until a line has a text.
async fn hear(said: &mut Lines<BufReader<ChildStderr>>, text: &str) {
    let hearing = async {
        while let Some(line) = said.next_line().await.expect("a line") {
            if line.contains(text) {
                return;
            }
        }
        panic!("it has not said: {text}");
    };
    tokio::time::timeout(Duration::from_secs(30), hearing).await.expect("it says so in time");
}

async fn is_waited_for<S>(server: Server, _: impl AsyncFn(String, SharedOptions) -> S) {
    let url = server.database();
    let home = tempfile::tempdir().expect("a directory");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let away = url.replace(&format!(":{}", server.port), &format!(":{port}"));
    let (mut daemon, mut said) = serve(home.path(), &away, "a");
    hear(&mut said, "it is tried again").await;
    let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
    let to = server.port;
    let comes = tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut to = TcpStream::connect(("127.0.0.1", to)).await?;
                tokio::io::copy_bidirectional(&mut from, &mut to).await
            });
        }
    });
    hear(&mut said, "serving").await;
    daemon.kill().await.expect("it ends");
    comes.abort();

    let (scheme, rest) = url.split_once("://").expect("a URL");
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    let (mut daemon, mut said) = serve(home.path(), &format!("{scheme}://stranger:wrong@{place}"), "a");
    hear(&mut said, &format!("`{scheme}://…`")).await;
    // As for a wrong setting, after which no supervisor starts it again.
    assert_eq!(daemon.wait().await.expect("it ends").code(), Some(2));
}

/// What `doctor` says of the nodes.
async fn checked(home: &Path) -> serde_json::Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandclock"));
    let output = command.arg("--home").arg(home).args(["--json", "doctor"]).output().await.expect("it runs");
    let doctor: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a document");
    let mut checks = doctor["checks"].as_array().expect("checks").iter();
    checks.find(|check| check["name"] == "nodes").expect("one of the nodes").clone()
}

async fn nodes_are_looked_at<S>(server: Server, _: impl AsyncFn(String, SharedOptions) -> S) {
    let url = server.database();
    let homes = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
    let (mut one, mut said) = serve(homes[0].path(), &url, "same");
    hear(&mut said, "serving").await;
    let check = checked(homes[0].path()).await;
    assert!(check["status"] == "ok" && !check["detail"].as_str().unwrap().contains(", "), "{check}");
    let (mut other, mut said) = serve(homes[1].path(), &url, "same");
    hear(&mut said, "serving").await;
    let check = checked(homes[0].path()).await;
    assert!(check["status"] == "warning" && check["remedy"].as_str().unwrap().contains("--node"), "{check}");
    for daemon in [&mut one, &mut other] {
        daemon.kill().await.expect("it ends");
    }
}

test_on!(doctor_looks_at_the_nodes, "postgres", PostgresStore, Server::postgres(false), nodes_are_looked_at);
test_on!(a_database_is_waited_for_unless_it_refuses, "postgres", PostgresStore, Server::postgres(false), is_waited_for);
test_on!(a_redis_is_waited_for_unless_it_refuses, "redis", RedisStore, Server::redis(true), is_waited_for);
