//! Errors on the wire: problem+json (RFC 9457) with a `code` that does not change.

use crate::error::Error;
use crate::invalid::Invalid;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// The body of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub status: u16,
    pub code: String,
    /// What, on which id, what to do.
    pub detail: String,
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let code = error.code();
        let status = match code {
            "job_exists" | "plugin_in_use" | "alias_taken" | "job_changed" | "run_ended" => StatusCode::CONFLICT,
            "busy" | "not_running" => StatusCode::SERVICE_UNAVAILABLE,
            code if code.ends_with("_not_found") => StatusCode::NOT_FOUND,
            _ if error.is_host() => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        };
        if error.is_host() {
            tracing::error!(error = error.chain(), code, "a request failed");
        }
        Problem { status: status.as_u16(), code: code.to_owned(), detail: error.chain() }
    }
}

impl From<Invalid> for Problem {
    fn from(error: Invalid) -> Self {
        Error::Invalid(error).into()
    }
}

impl From<QueryRejection> for Problem {
    fn from(error: QueryRejection) -> Self {
        Invalid::new("query", "", error.body_text()).into()
    }
}

impl From<BytesRejection> for Problem {
    fn from(error: BytesRejection) -> Self {
        let detail = format!("invalid body: {}", error.body_text());
        Problem { status: error.status().as_u16(), code: "invalid".into(), detail }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
    }
}

pub async fn no_route(uri: axum::http::Uri) -> Problem {
    let detail = format!("no route `{}` (the API is under /v1)", crate::invalid::printable(uri.path(), 100));
    Problem { status: 404, code: "route_not_found".into(), detail }
}
