//! Outgoing HTTP by the raw interface: what a client library would refuse to send reaches the host.

wit_bindgen::generate!({ world: "surfer" });

use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
    RequestOptions, Scheme,
};
use wasip2::io::poll::poll;
use wasip2::io::streams::{InputStream, StreamError};

type Answer<T> = Result<T, String>;

/// Most bytes that one write may have.
const CHUNK: usize = 4096;

struct Surfer;

/// A request to a URL, taken apart without judging it.
fn request(method: &str, url: &str, headers: &[(String, String)]) -> Answer<OutgoingRequest> {
    let fields = Fields::new();
    for (name, value) in headers {
        fields.append(name, value.as_bytes()).map_err(|error| format!("header {name}: {error:?}"))?;
    }
    let request = OutgoingRequest::new(fields);
    let (scheme, rest) = url.split_once("://").ok_or("a URL begins with `http://` or `https://`")?;
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let path = if path.is_empty() { "/" } else { path };
    request.set_method(&method_of(method)).map_err(|()| "the method is refused")?;
    request.set_scheme(Some(&scheme)).map_err(|()| "the scheme is refused")?;
    request.set_authority(Some(authority)).map_err(|()| "the authority is refused")?;
    request.set_path_with_query(Some(path)).map_err(|()| "the path is refused")?;
    Ok(request)
}

fn method_of(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "CONNECT" => Method::Connect,
        "OPTIONS" => Method::Options,
        "TRACE" => Method::Trace,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

fn get(url: &str) -> Answer<FutureIncomingResponse> {
    handle(request("GET", url, &[])?, None).map_err(text)
}

fn text(code: ErrorCode) -> String {
    format!("{code:?}")
}

/// What the host says of a stream that failed: the HTTP error in it, if there is one.
fn stream_text(error: StreamError) -> String {
    match error {
        StreamError::Closed => "closed".to_owned(),
        StreamError::LastOperationFailed(error) => {
            let code = wasip2::http::types::http_error_code(&error);
            code.map_or_else(|| error.to_debug_string(), text)
        }
    }
}

fn wait(future: &FutureIncomingResponse) -> Answer<IncomingResponse> {
    loop {
        match future.get() {
            Some(response) => return response.map_err(|()| "taken twice")?.map_err(text),
            None => future.subscribe().block(),
        }
    }
}

/// Reads a body to its end, or as far as there is something to do with what was read.
fn drain(response: &IncomingResponse, mut take: impl FnMut(&[u8])) -> Answer<()> {
    let body: IncomingBody = response.consume().map_err(|()| "no body")?;
    let stream: InputStream = body.stream().map_err(|()| "no stream")?;
    loop {
        match stream.blocking_read(64 << 10) {
            Ok(bytes) => take(&bytes),
            Err(StreamError::Closed) => return Ok(()),
            Err(error) => return Err(stream_text(error)),
        }
    }
}

fn send(body: OutgoingBody, bytes: &[u8]) -> Answer<OutgoingBody> {
    let stream = body.write().map_err(|()| "no stream")?;
    for chunk in bytes.chunks(CHUNK) {
        stream.blocking_write_and_flush(chunk).map_err(stream_text)?;
    }
    drop(stream);
    Ok(body)
}

fn post(url: &str, headers: &[(String, String)]) -> Answer<(OutgoingBody, FutureIncomingResponse)> {
    let request = request("POST", url, headers)?;
    let body = request.body().map_err(|()| "no body")?;
    Ok((body, handle(request, None).map_err(text)?))
}

impl Guest for Surfer {
    fn fetch(
        method: String,
        url: String,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    ) -> Answer<(u16, Vec<(String, String)>, String)> {
        let request = request(&method, &url, &headers)?;
        let outgoing = request.body().map_err(|()| "no body")?;
        let future = handle(request, None).map_err(text)?;
        // A connection that was refused ends the body too, but the answer says why.
        let sent = send(outgoing, &body).and_then(|body| OutgoingBody::finish(body, None).map_err(text));
        let response = wait(&future)?;
        sent?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let headers = response.headers().entries().into_iter().map(|(name, value)| (name, text(value))).collect();
        let mut all = Vec::new();
        drain(&response, |bytes| all.extend_from_slice(bytes))?;
        Ok((response.status(), headers, text(all)))
    }

    fn repeat(url: String, times: u32) -> u32 {
        (0..times).filter(|_| get(&url).and_then(|future| wait(&future)).is_ok()).count() as u32
    }

    fn flood(url: String, requests: u32) -> u32 {
        let mut waiting: Vec<_> = (0..requests).filter_map(|_| get(&url).ok()).collect();
        let mut answered = 0;
        while !waiting.is_empty() {
            let pollables: Vec<_> = waiting.iter().map(FutureIncomingResponse::subscribe).collect();
            poll(&pollables.iter().collect::<Vec<_>>());
            drop(pollables);
            waiting.retain(|future| match future.get() {
                None => true,
                Some(response) => {
                    answered += u32::from(matches!(response, Ok(Ok(_))));
                    false
                }
            });
        }
        answered
    }

    fn slow(url: String, connect_ms: u64, first_byte_ms: u64, between_ms: u64) -> Answer<u32> {
        let nanoseconds = |ms: u64| Some(ms.saturating_mul(1_000_000));
        let options = RequestOptions::new();
        options.set_connect_timeout(nanoseconds(connect_ms)).map_err(|()| "the connect timeout is refused")?;
        options.set_first_byte_timeout(nanoseconds(first_byte_ms)).map_err(|()| "the first-byte timeout is refused")?;
        options
            .set_between_bytes_timeout(nanoseconds(between_ms))
            .map_err(|()| "the timeout between bytes is refused")?;
        let response = wait(&handle(request("GET", &url, &[])?, Some(options)).map_err(text)?)?;
        drain(&response, |_| ())?;
        Ok(response.status().into())
    }

    fn endless(url: String) -> Answer<u64> {
        let response = wait(&get(&url)?)?;
        let mut count = 0;
        drain(&response, |bytes| count += bytes.len() as u64)
            .map_err(|error| format!("{error} after {count} bytes"))?;
        Ok(count)
    }

    fn linger(url: String) -> Answer<u32> {
        let response = wait(&get(&url)?)?;
        let status = response.status().into();
        let body = response.consume().map_err(|()| "no body")?;
        std::mem::forget((body.stream(), body, response));
        Ok(status)
    }

    fn forget(url: String) -> Answer<()> {
        std::mem::forget(get(&url)?);
        Ok(())
    }

    fn headers_flood() -> u32 {
        let fields = Fields::new();
        (0..100_000).filter(|n| fields.append(&format!("x-{n}"), b"value").is_ok()).count() as u32
    }

    fn header_size(bytes: u32) -> Answer<()> {
        Fields::new().append("x-large", &vec![b'x'; bytes as usize]).map_err(|error| format!("{error:?}"))
    }

    fn leak_fields(times: u32) -> u32 {
        (0..times).for_each(|_| std::mem::forget(Fields::new()));
        times
    }

    fn lie(url: String, announced: u64, sent: u64) -> Answer<u32> {
        let (body, future) = post(&url, &[("content-length".to_owned(), announced.to_string())])?;
        let body = send(body, &vec![b'x'; sent as usize])?;
        OutgoingBody::finish(body, None).map_err(text)?;
        Ok(wait(&future)?.status().into())
    }

    fn unfinished(url: String) -> Answer<u32> {
        let (body, future) = post(&url, &[])?;
        drop(send(body, b"begun")?);
        Ok(wait(&future)?.status().into())
    }

    fn upload(url: String) -> Answer<u64> {
        let (body, _future) = post(&url, &[])?;
        let stream = body.write().map_err(|()| "no stream")?;
        let mut taken = 0u64;
        loop {
            let written = stream.blocking_write_and_flush(&[b'x'; CHUNK]);
            written.map_err(|error| format!("{} after {taken} bytes", stream_text(error)))?;
            taken += CHUNK as u64;
        }
    }
}

export!(Surfer);
