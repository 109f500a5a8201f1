//! Errors on the wire: problem+json (RFC 9457) with a `code` that does not change.

use crate::error::Error;
use crate::invalid::Invalid;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The body of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Problem {
    pub status: u16,
    /// What programs tell errors by.
    pub code: String,
    /// The status in words.
    #[serde(default)]
    pub title: String,
    /// What, on which id, what to do.
    pub detail: String,
}

impl Problem {
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or_default().to_owned();
        Problem { status: status.as_u16(), code: code.to_owned(), title, detail: detail.into() }
    }

    /// Somebody else has all of what there is for this.
    pub fn busy(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
    }

    pub fn too_slow(most: Duration) -> Self {
        let detail = format!("the request took longer than {} s to arrive", most.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", detail)
    }

    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let code = error.code();
        let status = match code {
            "job_exists" | "plugin_in_use" | "alias_taken" | "job_changed" | "run_ended" | "node_lives" => {
                StatusCode::CONFLICT
            }
            "busy" | "not_running" | "runs_nothing" => StatusCode::SERVICE_UNAVAILABLE,
            code if code.ends_with("_not_found") => StatusCode::NOT_FOUND,
            _ if error.is_host() => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        };
        if error.is_host() {
            tracing::error!(error = error.chain(), code, "a request failed");
        }
        // Its causes are in the log, and nobody else's business.
        Problem::new(status, code, error.to_string())
    }
}

impl From<Invalid> for Problem {
    fn from(error: Invalid) -> Self {
        Error::Invalid(error).into()
    }
}

impl From<BytesRejection> for Problem {
    fn from(error: BytesRejection) -> Self {
        match error.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                "the body is larger than this request may have",
            ),
            status => Problem::new(status, "invalid", format!("invalid body: {}", error.body_text())),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (self.status(), [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        match self.status {
            401 => response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer")),
            429 | 503 => response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1")),
            _ => None,
        };
        // For the audit log.
        response.extensions_mut().insert(self);
        response
    }
}

pub async fn no_route(uri: Uri) -> Problem {
    let path = crate::invalid::printable(uri.path(), 100);
    Problem::new(StatusCode::NOT_FOUND, "route_not_found", format!("no route `{path}` (`/openapi.json` lists them)"))
}

pub async fn no_method(uri: Uri) -> Problem {
    let path = crate::invalid::printable(uri.path(), 100);
    let detail = format!("`{path}` does not have this method (`/openapi.json` says which it has)");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}
