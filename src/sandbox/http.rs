//! Outgoing HTTP of guests. It replaces the engine's own client whole: host and port must be granted,
//! the addresses are judged, every wait has an end, and sizes are bounded. HTTP/1.1 only; redirects
//! are the guest's to follow, as requests of their own; no proxies, no decompression.

mod body;
mod leased;

use super::connect::{Connect, ConnectError};
use super::setting::{Given, Uses};
use crate::grant::{Grants, HttpGrant, Pick, SecretName};
use crate::lease::Term;
use crate::secret::Secret;
use body::{Bounded, Masked, mask_headers};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use leased::Leased;
use rustls::pki_types::ServerName;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use wasmtime_wasi_http::{Error, RequestOptions, Result, WasiBody, WasiHttpHooks};

/// Says that two requests are meant as one.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Requests of one run at one time; more wait.
const REQUESTS_MAX: usize = 4;
/// Requests of all runs of a process at one time; more wait.
const REQUESTS_OF_ALL_MAX: usize = 64;
/// Bytes of a response's body.
pub const RESPONSE_BYTES_MAX: u64 = 8 << 20;
/// Bytes of a response's headers.
const HEAD_BYTES_MAX: usize = 32 << 10;
const HEADERS_MAX: usize = 100;
/// Bytes of headers that a guest may build.
pub const FIELDS_BYTES_MAX: usize = 32 << 10;
/// Bytes that a guest writes to a body at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Longest wait for a slot, name, connection and handshake, and for each part of an answer.
const WAIT_MAX: Duration = Duration::from_secs(10);
const WAIT_MIN: Duration = Duration::from_millis(1);
/// Longest time of a request from beginning to end.
const TOTAL_MAX: Duration = Duration::from_secs(30);

type Io = Box<dyn Future<Output = Result<()>> + Send>;
type Sent = Box<dyn Future<Output = Result<(Response<WasiBody>, Io)>> + Send>;

/// What the requests of a process share.
pub struct Client {
    connect: Arc<dyn Connect>,
    tls: tokio_rustls::TlsConnector,
    requests: Arc<Semaphore>,
}

impl Client {
    /// A client that trusts what the machine trusts (`SSL_CERT_FILE` names other roots).
    pub fn new(connect: Arc<dyn Connect>) -> Self {
        let requests = Arc::new(Semaphore::new(REQUESTS_OF_ALL_MAX));
        Client { connect, tls: Arc::new(crate::tls::client()).into(), requests }
    }
}

/// The requests of one run.
pub struct Http {
    client: Arc<Client>,
    /// Nothing is sent after it.
    term: Term,
    grants: Arc<Grants>,
    secrets: Vec<(SecretName, Secret)>,
    uses: Uses,
    requests: Arc<Semaphore>,
    /// What tells this run from every other one at the same fire time, if several nodes could run it.
    fence: Option<String>,
    /// Requests that were made.
    made: u64,
}

/// A request that may be sent, and how long it may take.
struct Allowed {
    grant: HttpGrant,
    tls: bool,
    request: Request<WasiBody>,
    connect: Duration,
    first_byte: Duration,
    between_bytes: Duration,
}

impl Http {
    pub fn new(client: Arc<Client>, term: Term, given: &Given, uses: Uses, fence: Option<String>) -> Self {
        let secrets = given.secrets.iter().map(|(name, secret)| (name.clone(), secret.clone())).collect();
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        Http { client, term, grants: given.grants.clone(), secrets, uses, requests, fence, made: 0 }
    }

    fn allow(&self, mut request: Request<WasiBody>, options: Option<RequestOptions>) -> Result<Allowed> {
        if *request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        let uri = request.uri();
        let tls = uri.scheme() == Some(&Scheme::HTTPS);
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        if authority.as_str().contains('@') {
            return Err(Error::HttpRequestUriInvalid);
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let Some(grant) = self.grants.http(authority.host(), port).cloned() else {
            // What is no host is not worth a record.
            if let Ok(what) = format!("http:{}:{port}", authority.host()).parse::<Pick>() {
                self.uses.record(what, true);
            }
            return Err(Error::HttpRequestDenied);
        };
        self.uses.record(Pick::Http { host: grant.host().to_owned(), port }, false);
        let path = uri.path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        self.fill_secrets(&mut request, &grant, tls)?;
        // The scheme and the host are for proxies only.
        *request.uri_mut() = Uri::from(path);
        let wait = |wanted: Option<Duration>| wanted.unwrap_or(WAIT_MAX).clamp(WAIT_MIN, WAIT_MAX);
        let options = options.unwrap_or_default();
        Ok(Allowed {
            grant,
            tls,
            request,
            connect: wait(options.connect_timeout),
            first_byte: options.first_byte_timeout.unwrap_or(TOTAL_MAX).clamp(WAIT_MIN, TOTAL_MAX),
            between_bytes: wait(options.between_bytes_timeout),
        })
    }

    /// Names the run in a request, so that whoever is asked can tell a node that was thought dead from
    /// the one that took over: of one job and fire time, the greater epoch counts.
    fn fenced(&mut self, mut request: Request<WasiBody>) -> Request<WasiBody> {
        self.made += 1;
        if let Some(fence) = &self.fence
            && !request.headers().contains_key(IDEMPOTENCY_KEY)
            && let Ok(key) = HeaderValue::from_str(&format!("\"{fence}/{}\"", self.made))
        {
            request.headers_mut().insert(IDEMPOTENCY_KEY, key);
        }
        request
    }

    /// Puts secrets where the guest wrote `{{secret:NAME}}` in a header.
    fn fill_secrets(&self, request: &mut Request<WasiBody>, grant: &HttpGrant, tls: bool) -> Result<()> {
        let mut any = false;
        for value in request.headers_mut().values_mut() {
            let Ok(text) = value.to_str() else { continue };
            if !text.contains("{{secret:") {
                continue;
            }
            let mut filled = String::new();
            let mut rest = text;
            while let Some((before, after)) = rest.split_once("{{secret:") {
                let (name, after) = after.split_once("}}").ok_or(Error::HttpRequestDenied)?;
                filled.push_str(before);
                filled.push_str(self.secret_for(name, grant, tls).ok_or(Error::HttpRequestDenied)?.reveal());
                any = true;
                rest = after;
            }
            filled.push_str(rest);
            let mut full = HeaderValue::from_str(&filled).map_err(|_| Error::HttpRequestDenied)?;
            full.set_sensitive(true);
            *value = full;
        }
        if any {
            // An answer that is compressed, or comes in pieces of the guest's choice, could give back what
            // is taken out of a plain one.
            for name in [header::ACCEPT_ENCODING, header::RANGE, header::TE] {
                request.headers_mut().remove(name);
            }
        }
        Ok(())
    }

    /// The secret, if it may be sent to this host.
    fn secret_for(&self, name: &str, grant: &HttpGrant, tls: bool) -> Option<&Secret> {
        let name: SecretName = name.parse().ok()?;
        let target = (grant.host(), grant.port());
        let to_host = |host: &(String, u16)| (host.0.as_str(), host.1) == target;
        let granted =
            self.grants.secrets.iter().any(|secret| secret.name == name && secret.host.as_ref().is_none_or(to_host));
        // Without TLS anybody on the way could read it, and nobody proves to be the host.
        let safe = tls || grant.is_inner();
        let found = self.secrets.iter().find(|(known, _)| granted && safe && *known == name).map(|(_, secret)| secret);
        self.uses.record(Pick::Secret(name), found.is_none());
        found
    }
}

impl WasiHttpHooks for Http {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<()>> + Send>,
    ) -> Sent {
        let request = self.fenced(request);
        let allowed = match self.allow(request, options) {
            Ok(allowed) => allowed,
            Err(error) => return Box::new(async { Err(error) }),
        };
        let (client, requests, uses) = (self.client.clone(), self.requests.clone(), self.uses.clone());
        let term = self.term.clone();
        // Those that the guest is not to see.
        let unseen = |name: &SecretName| {
            self.grants.secrets.iter().any(|granted| granted.name == *name && granted.host.is_some())
        };
        let secrets = self.secrets.iter().filter(|(name, _)| unseen(name)).map(|(_, secret)| secret.clone());
        let secrets: Vec<Secret> = secrets.collect();
        Box::new(async move { send(&client, &term, requests, &uses, secrets, allowed).await })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK_BYTES
    }

    fn p2_error_from_hyper(&mut self, _: &hyper::Error) -> wasmtime_wasi_http::p2::bindings::http::types::ErrorCode {
        wasmtime_wasi_http::p2::bindings::http::types::ErrorCode::HttpProtocolError
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn send(
    client: &Client,
    term: &Term,
    requests: Arc<Semaphore>,
    uses: &Uses,
    secrets: Vec<Secret>,
    allowed: Allowed,
) -> Result<(Response<WasiBody>, Io)> {
    let Allowed { grant, tls, request, connect, first_byte, between_bytes } = allowed;
    let until = Instant::now() + TOTAL_MAX;
    // The wait for a slot is within the time for connecting: otherwise a guest could pile them up.
    let connecting = async {
        let slots = slots(client, requests).await?;
        let stream = open(client, term, uses, &grant, tls).await?;
        let mut builder = hyper::client::conn::http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
        Ok::<_, Error>((slots, builder.handshake::<_, WasiBody>(TokioIo::new(stream)).await?))
    };
    let (slots, (mut sender, connection)) =
        timeout(connect, connecting).await.map_err(|_| Error::ConnectionTimeout)??;
    let mut connection = Box::pin(connection);
    let mut answer = Box::pin(timeout_at(until, timeout(first_byte, sender.send_request(request))));
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        // The connection has ended; what it had to say is in the answer.
        _ = &mut connection => answer.await,
    };
    let answer = match answer {
        Ok(Ok(answer)) => answer?,
        _ => return Err(Error::HttpResponseTimeout),
    };
    let mut answer = answer;
    mask_headers(answer.headers_mut(), &secrets);
    let body = answer.map(|body| {
        let bounded = Bounded::new(body, RESPONSE_BYTES_MAX, between_bytes, until, slots);
        Masked::new(bounded, secrets).boxed_unsync()
    });
    let io = async move {
        timeout_at(until, connection).await.map_err(|_| Error::HttpResponseTimeout)?.map_err(Error::from)
    };
    Ok((body, Box::new(io)))
}

/// A place among the requests of the run, and of all runs.
async fn slots(client: &Client, requests: Arc<Semaphore>) -> Result<[OwnedSemaphorePermit; 2]> {
    let closed = |_| Error::ConnectionLimitReached;
    Ok([
        requests.acquire_owned().await.map_err(closed)?,
        client.requests.clone().acquire_owned().await.map_err(closed)?,
    ])
}

async fn open(client: &Client, term: &Term, uses: &Uses, grant: &HttpGrant, tls: bool) -> Result<Box<dyn Stream>> {
    let stream = client.connect.connect(grant).await.map_err(|error| match error {
        ConnectError::Denied(_) => {
            uses.record(Pick::Http { host: grant.host().to_owned(), port: grant.port() }, true);
            Error::DestinationIpProhibited
        }
        ConnectError::Unresolved => Error::DnsError { rcode: None, info_code: None },
        ConnectError::Refused => Error::ConnectionRefused,
    })?;
    let stream = Leased::new(stream, term.clone());
    if !tls {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(grant.host().to_owned()).map_err(|_| Error::HttpRequestUriInvalid)?;
    Ok(Box::new(client.tls.connect(name, stream).await.map_err(|error| {
        let certificate = |error: &rustls::Error| matches!(error, rustls::Error::InvalidCertificate(_));
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if inner.is_some_and(certificate) { Error::TlsCertificateError } else { Error::TlsProtocolError }
    })?))
}
