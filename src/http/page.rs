//! The web page, from inside the binary. It is public and knows nothing: what it shows, it asks the API
//! for.

use super::Api;
use super::problem::{Problem, no_route};
use crate::plugin::digest;
use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::collections::HashMap;
use std::sync::LazyLock;

macro_rules! files {
    ($($path:literal,)*) => {
        /// Its files, as they lie in `src/http/page/`.
        const FILES: &[(&str, &[u8])] = &[$(($path, include_bytes!(concat!("page/", $path))),)*];
    };
}

files![
    "api.js",
    "app.css",
    "dom.js",
    "icon.svg",
    "icons.js",
    "index.html",
    "json.js",
    "live.js",
    "main.js",
    "session.js",
    "shell.js",
    "theme.css",
    "theme.js",
    "time.js",
    "views/events.js",
    "views/failures.js",
    "views/job.js",
    "views/job_form.js",
    "views/jobs.js",
    "views/login.js",
    "views/nodes.js",
    "views/plugin.js",
    "views/plugins.js",
    "views/run.js",
    "views/secrets.js",
    "views/timeline.js",
    "widgets/chart.js",
    "widgets/feedback.js",
    "widgets/form.js",
    "widgets/logs.js",
    "widgets/sheet.js",
    "widgets/strip.js",
    "widgets/table.js",
    "widgets/trigger.js",
    "words.js",
];

static TAGS: LazyLock<HashMap<&str, HeaderValue>> = LazyLock::new(|| {
    let tag = |bytes: &[u8]| {
        HeaderValue::from_str(&format!("\"{}\"", &digest(bytes)[..16])).unwrap_or(HeaderValue::from_static("\"\""))
    };
    FILES.iter().map(|(path, bytes)| (*path, tag(bytes))).collect()
});

pub fn routes() -> Router<Api> {
    let index = |headers: HeaderMap| async move { file("index.html", &headers).ok_or(StatusCode::NOT_FOUND) };
    let inner = |Path(path): Path<String>, headers: HeaderMap, uri: Uri| async move {
        match file(&path, &headers) {
            Some(response) => Ok(response),
            None => Err::<Response, Problem>(no_route(uri).await),
        }
    };
    Router::new().route("/", get(index)).route("/page/{*path}", get(inner))
}

/// One of the files; a browser that has it is told that it is still the same.
fn file(path: &str, headers: &HeaderMap) -> Option<Response> {
    let (path, bytes) = FILES.iter().find(|(name, _)| *name == path)?;
    let tag = TAGS.get(path)?.clone();
    let media = match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    };
    let cached = [(header::CACHE_CONTROL, HeaderValue::from_static("no-cache")), (header::ETAG, tag.clone())];
    if headers.get(header::IF_NONE_MATCH) == Some(&tag) {
        return Some((StatusCode::NOT_MODIFIED, cached).into_response());
    }
    Some((cached, [(header::CONTENT_TYPE, media)], *bytes).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path as FilePath;

    fn found(dir: &FilePath, prefix: &str, all: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            match entry.path().is_dir() {
                true => found(&entry.path(), &format!("{name}/"), all),
                false => all.push(name),
            }
        }
    }

    #[test]
    fn every_file_of_the_page_is_embedded() {
        let mut all = Vec::new();
        found(&FilePath::new(env!("CARGO_MANIFEST_DIR")).join("src/http/page"), "", &mut all);
        all.sort();
        let mut embedded: Vec<&str> = FILES.iter().map(|(path, _)| *path).collect();
        embedded.sort_unstable();
        assert_eq!(embedded, all);
    }

    /// The policy forbids what is inline or from elsewhere; so nothing may ask for it.
    #[test]
    fn the_page_needs_nothing_that_its_policy_forbids() {
        for (path, bytes) in FILES {
            let text = std::str::from_utf8(bytes).unwrap();
            for word in [
                " style=\"",
                "<script>",
                "onclick=",
                "innerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "https://",
            ] {
                assert!(!text.contains(word), "{path} has {word}");
            }
        }
    }
}
