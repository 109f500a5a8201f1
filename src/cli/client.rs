//! Speaking the HTTP API: over the daemon's socket, or with a router in this process.

use super::{Done, Failure};
use crate::config::{App, AppOptions, shown, socket_path};
use crate::http::{Api, Peer, Problem, Status, UploadLine, operator_token_path};
use crate::settings::Sources;
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode, header};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http_body_util::{BodyExt, Full};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use tower::ServiceExt;

/// How long a home that another process holds is waited for.
const OPEN_TRIES: u32 = 30;
const OPEN_WAIT: Duration = Duration::from_millis(100);
/// An answer of lines of JSON.
const LINES: &str = "application/x-ndjson";

pub enum Client {
    Daemon {
        socket: PathBuf,
        /// The operator's, if this user can read it.
        token: Option<String>,
    },
    Local {
        app: Box<App>,
        router: Router,
    },
}

impl Client {
    /// The daemon of this home if one answers, else the home itself.
    pub async fn connect(home: PathBuf, store: Option<String>) -> Done<Self> {
        let socket = socket_path(&home);
        for tries_left in (0..OPEN_TRIES).rev() {
            #[cfg(unix)]
            if tokio::net::UnixStream::connect(&socket).await.is_ok() {
                let token = std::fs::read_to_string(operator_token_path(&home)).ok();
                let client = Client::Daemon { socket, token: token.map(|token| token.trim().to_owned()) };
                client.check_store(store.as_deref()).await?;
                return Ok(client);
            }
            let given = store.iter().map(|url| ("store".to_owned(), toml::Value::from(url.as_str()))).collect();
            let settings = Sources { home: home.clone(), config: None, given }.read()?;
            let (store, lease) = (settings.store, settings.lease);
            match App::open(AppOptions { store, lease, ..AppOptions::new(home.clone()) }).await {
                // Another command has it for a moment, or a daemon is about to listen.
                Err(crate::Error::StoreHeld { .. }) if tries_left > 0 => tokio::time::sleep(OPEN_WAIT).await,
                opened => {
                    let app = opened?;
                    let router = Api::open(app.clone())?.router();
                    return Ok(Client::Local { app: Box::new(app), router });
                }
            }
        }
        unreachable!("the last try returns")
    }

    /// A daemon has its jobs where it was told when it began: another store than that is not asked.
    async fn check_store(&self, wanted: Option<&str>) -> Done<()> {
        let Some(wanted) = wanted.map(shown) else { return Ok(()) };
        // Whoever may not know is refused by what comes next.
        let Ok(status) = self.get::<Status>("/v1/status").await else { return Ok(()) };
        if status.store != wanted {
            let (home, store) = (status.home.display(), status.store);
            return Err(Failure::failed(format!(
                "the jobs of the daemon on `{home}` are in {store}, not in {wanted} (leave the store out, or choose another --home)"
            )));
        }
        Ok(())
    }

    /// Without a daemon, runs that are asked for now start in this process.
    pub async fn run_here(&self) -> Done<()> {
        if let Client::Local { app, .. } = self {
            app.scheduler.start_paused().await?;
        }
        Ok(())
    }

    pub fn is_local(&self) -> bool {
        matches!(self, Client::Local { .. })
    }

    pub async fn close(self) -> Done<()> {
        if let Client::Local { app, .. } = self {
            app.close(Duration::ZERO).await?;
        }
        Ok(())
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Done<T> {
        self.ask(Method::GET, path, None).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Done<T> {
        let body = serde_json::to_vec(body).map_err(|e| Failure::failed(e.to_string()))?;
        self.ask(Method::POST, path, Some(body.into())).await
    }

    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Done<T> {
        let body = serde_json::to_vec(body).map_err(|e| Failure::failed(e.to_string()))?;
        self.ask(Method::PUT, path, Some(body.into())).await
    }

    pub async fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Done<T> {
        let body = serde_json::to_vec(body).map_err(|e| Failure::failed(e.to_string()))?;
        self.ask(Method::PATCH, path, Some(body.into())).await
    }

    pub async fn post_bytes<T: DeserializeOwned>(&self, path: &str, body: Vec<u8>) -> Done<T> {
        self.ask(Method::POST, path, Some(body.into())).await
    }

    /// Registers a component, telling how far that is.
    pub async fn upload(&self, path: &str, component: Vec<u8>, progress: impl Fn(&UploadLine)) -> Done<Value> {
        let mut lines = self.split(Method::PUT, path, Some(component.into()), b"\n").await?;
        while let Some(line) = lines.next().await {
            match serde_json::from_str(&line) {
                Ok(UploadLine::Added(added)) => return Ok(added),
                Ok(UploadLine::Problem(problem)) => return Err(problem.into()),
                Ok(line) => progress(&line),
                Err(error) => return Err(Failure::failed(format!("the answer is not understood: {error}"))),
            }
        }
        Err(Failure::failed("the answer broke off"))
    }

    /// The body of an answer, as it comes.
    pub async fn download(&self, path: &str) -> Done<impl Stream<Item = Done<Bytes>> + Unpin + use<>> {
        let (status, body) = self.send(Method::GET, path, None, "*/*").await?;
        if !status.is_success() {
            return Err(refused(
                status,
                &body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default(),
            ));
        }
        let broke = |e: axum::Error| Failure::failed(format!("the answer broke off: {e}"));
        Ok(Box::pin(body.into_data_stream().map(move |chunk| chunk.map_err(broke))))
    }

    pub async fn delete(&self, path: &str) -> Done<()> {
        self.ask::<Value>(Method::DELETE, path, None).await.map(|_| ())
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Option<Bytes>) -> Done<T> {
        let (status, body) = self.send(method, path, body, "application/json").await?;
        let body = body.collect().await.map_err(|e| Failure::failed(format!("the answer broke off: {e}")))?.to_bytes();
        if !status.is_success() {
            return Err(refused(status, &body));
        }
        let body = if body.is_empty() { Bytes::from_static(b"null") } else { body };
        serde_json::from_slice(&body).map_err(|e| Failure::failed(format!("the answer is not understood: {e}")))
    }

    async fn send(&self, method: Method, path: &str, body: Option<Bytes>, accept: &str) -> Done<(StatusCode, Body)> {
        let component = method == Method::PUT && accept == LINES;
        let mut request = Request::builder().method(&method).uri(path).header(header::HOST, "localhost");
        request = request.header(header::ACCEPT, accept);
        if ![Method::GET, Method::DELETE].contains(&method) {
            let media = if component { "application/wasm" } else { "application/json" };
            request = request.header(header::CONTENT_TYPE, media);
        }
        if let Client::Daemon { token: Some(token), .. } = self {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body.unwrap_or_default()));
        let request = request.map_err(|e| Failure::failed(format!("cannot ask for `{path}`: {e}")))?;
        let response: Response<Body> = match self {
            Client::Local { router, .. } => {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(Peer::Process { uid: rustix::process::getuid().as_raw() });
                let answer = router.clone().oneshot(request).await;
                answer.unwrap_or_else(|never| match never {})
            }
            Client::Daemon { socket, .. } => over_socket(socket, request).await?.map(Body::new),
        };
        let (parts, body) = response.into_parts();
        Ok((parts.status, body))
    }

    /// A stream of server-sent events, one at a time: the name of each, and its data.
    pub async fn stream(&self, path: &str) -> Done<impl Stream<Item = (String, String)> + Unpin + use<>> {
        let messages = self.split(Method::GET, path, None, b"\n\n").await?;
        Ok(Box::pin(messages.filter_map(|message| {
            let field = |name| message.lines().filter_map(move |line| line.strip_prefix(name)).map(str::trim_start);
            let data: Vec<&str> = field("data:").collect();
            let named = (field("event:").next().unwrap_or_default().to_owned(), data.join("\n"));
            std::future::ready(Some(named).filter(|(_, data)| !data.is_empty()))
        })))
    }

    /// The lines of an answer, one at a time.
    pub async fn lines<T: Serialize>(&self, path: &str, body: &T) -> Done<impl Stream<Item = String> + Unpin + use<T>> {
        let body = serde_json::to_vec(body).map_err(|e| Failure::failed(e.to_string()))?;
        self.split(Method::POST, path, Some(body.into()), b"\n").await
    }

    /// An answer that comes in parts, each ended by `end`.
    async fn split(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        end: &'static [u8],
    ) -> Done<impl Stream<Item = String> + Unpin + use<>> {
        let accept = if method == Method::GET { "text/event-stream" } else { LINES };
        let (status, body) = self.send(method, path, body, accept).await?;
        if !status.is_success() {
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            return Err(refused(status, &body));
        }
        let chunks = body.into_data_stream().filter_map(|chunk| std::future::ready(chunk.ok()));
        let parts = futures::stream::unfold((Box::pin(chunks), Vec::new()), move |(mut chunks, mut rest)| async move {
            loop {
                if let Some(at) = rest.windows(end.len()).position(|bytes| bytes == end) {
                    let part: Vec<u8> = rest.drain(..at + end.len()).collect();
                    return Some((String::from_utf8_lossy(&part[..at]).into_owned(), (chunks, rest)));
                }
                rest.extend_from_slice(&chunks.next().await?);
            }
        });
        Ok(Box::pin(parts))
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        // What the command line sent was the user's.
        Failure { code: if problem.code == "invalid" { 2 } else { 1 }, text: problem.detail }
    }
}

fn refused(status: StatusCode, body: &[u8]) -> Failure {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => problem.into(),
        Err(_) => Failure::failed(format!("the daemon answered {status}")),
    }
}

#[cfg(unix)]
async fn over_socket(socket: &std::path::Path, request: Request<Full<Bytes>>) -> Done<Response<hyper::body::Incoming>> {
    let gone =
        |e: &dyn std::fmt::Display| Failure::failed(format!("the daemon on `{}` went away: {e}", socket.display()));
    let stream = tokio::net::UnixStream::connect(socket).await.map_err(|e| gone(&e))?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(|e| gone(&e))?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|e| gone(&e))
}
