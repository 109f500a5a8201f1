//! Checks sites over `wasi:http`, which every language has a library for; here it is used as it is.

wit_bindgen::generate!({ world: "checker" });

use std::time::Instant;
use wasip2::http::outgoing_handler::handle;
use wasip2::http::types::{Fields, IncomingResponse, Method, OutgoingBody, OutgoingRequest, Scheme};

struct Checker;

fn request(method: Method, url: &str, headers: &[(&str, &str)]) -> Result<OutgoingRequest, String> {
    let fields = Fields::new();
    for (name, value) in headers {
        fields.append(name, value.as_bytes()).map_err(|error| format!("header {name}: {error:?}"))?;
    }
    let (scheme, rest) = url.split_once("://").ok_or("a URL begins with `https://` or `http://`")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let scheme = if scheme == "http" { Scheme::Http } else { Scheme::Https };
    let request = OutgoingRequest::new(fields);
    request.set_method(&method).map_err(|()| "the method is refused")?;
    request.set_scheme(Some(&scheme)).map_err(|()| "the scheme is refused")?;
    request.set_authority(Some(authority)).map_err(|()| "the host is refused")?;
    let path = if path.is_empty() { "/" } else { path };
    request.set_path_with_query(Some(path)).map_err(|()| "the path is refused")?;
    Ok(request)
}

fn send(request: OutgoingRequest, body: Option<&str>) -> Result<IncomingResponse, String> {
    let outgoing = request.body().map_err(|()| "no body")?;
    let answer = handle(request, None).map_err(|code| format!("{code:?}"))?;
    if let Some(text) = body {
        let stream = outgoing.write().map_err(|()| "no stream")?;
        for chunk in text.as_bytes().chunks(4096) {
            stream.blocking_write_and_flush(chunk).map_err(|error| format!("{error:?}"))?;
        }
    }
    OutgoingBody::finish(outgoing, None).map_err(|code| format!("{code:?}"))?;
    answer.subscribe().block();
    let answer = answer.get().ok_or("no answer")?.map_err(|()| "the answer was taken")?;
    answer.map_err(|code| format!("{code:?}"))
}

impl Guest for Checker {
    fn check(urls: Vec<String>) -> Result<Vec<Site>, String> {
        let check = |url: String| {
            let begun = Instant::now();
            let answer = request(Method::Head, &url, &[]).and_then(|request| send(request, None));
            let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            let (status, error) = match answer {
                Ok(answer) => (Some(answer.status()), None),
                Err(error) => (None, Some(error)),
            };
            Site { url, status, milliseconds, error }
        };
        let sites: Vec<Site> = urls.into_iter().map(check).collect();
        let bad = sites.iter().find(|site| !site.status.is_some_and(|status| (200..400).contains(&status)));
        match bad {
            None => Ok(sites),
            Some(Site { url, status: Some(status), .. }) => Err(format!("{url} answered {status}")),
            Some(Site { url, error, .. }) => Err(format!("{url} did not answer: {}", error.as_deref().unwrap_or(""))),
        }
    }

    fn announce(url: String, text: String) -> Result<u16, String> {
        let length = text.len().to_string();
        let headers = [("authorization", "Bearer {{secret:token}}"), ("content-length", &length)];
        Ok(send(request(Method::Post, &url, &headers)?, Some(&text))?.status())
    }
}

export!(Checker);
