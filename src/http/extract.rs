//! What handlers take from a request, and the statuses that they answer with. Bodies have a size, a
//! time, and strict JSON.

use super::operation::{Draft, Gives};
use super::problem::Problem;
use crate::invalid::Invalid;
use crate::strict_json;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;

/// How long a body may take to arrive; a plugin's has [`UPLOAD_TIME_MAX`].
pub const BODY_TIME_MAX: Duration = Duration::from_secs(20);
pub const UPLOAD_TIME_MAX: Duration = Duration::from_secs(300);

/// The query, with unknown names refused.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        query
            .map(|axum::extract::Query(query)| Query(query))
            .map_err(|e| Invalid::new("query", "", e.body_text()).into())
    }
}

/// The body as JSON in which no key comes twice.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned + JsonSchema, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let bytes = body(request, state, BODY_TIME_MAX).await?;
        Ok(JsonBody(strict_json::from_slice(&what::<T>(), &bytes)?))
    }
}

/// What a body is, for errors: `job` of a `JobSpec`.
fn what<T: JsonSchema>() -> String {
    let name = T::schema_name();
    let bare = name.strip_suffix("Spec").or(name.strip_suffix("Patch")).unwrap_or(&name);
    bare.to_ascii_lowercase()
}

/// No body, or `null`, is `None`.
impl<T: DeserializeOwned + JsonSchema, S: Send + Sync> OptionalFromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Option<Self>, Problem> {
        let bytes = body(request, state, BODY_TIME_MAX).await?;
        if bytes.trim_ascii().is_empty() {
            return Ok(None);
        }
        Ok(strict_json::from_slice::<Option<T>>(&what::<T>(), &bytes)?.map(JsonBody))
    }
}

async fn body<S: Send + Sync>(request: Request, state: &S, most: Duration) -> Result<Bytes, Problem> {
    let come = tokio::time::timeout(most, Bytes::from_request(request, state)).await;
    Ok(come.map_err(|_| Problem::too_slow(most))??)
}

/// Something was made.
pub struct Created<T>(pub T);
/// It will be done.
pub struct Accepted<T>(pub T);
/// It is done, and there is nothing to say.
pub struct NoContent;
/// The same before it is done.
pub struct AcceptedEmpty;

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        (StatusCode::CREATED, Json(self.0)).into_response()
    }
}

impl<T: Serialize> IntoResponse for Accepted<T> {
    fn into_response(self) -> Response {
        (StatusCode::ACCEPTED, Json(self.0)).into_response()
    }
}

impl IntoResponse for NoContent {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

impl IntoResponse for AcceptedEmpty {
    fn into_response(self) -> Response {
        StatusCode::ACCEPTED.into_response()
    }
}

impl<T: JsonSchema> Gives for Created<T> {
    fn describe(draft: &mut Draft<'_>) {
        draft.json::<T>(201, "made");
    }
}

impl<T: JsonSchema> Gives for Accepted<T> {
    fn describe(draft: &mut Draft<'_>) {
        draft.json::<T>(202, "it will be done");
    }
}

impl Gives for NoContent {
    fn describe(draft: &mut Draft<'_>) {
        draft.empty(204, "done");
    }
}

impl Gives for AcceptedEmpty {
    fn describe(draft: &mut Draft<'_>) {
        draft.empty(202, "it will be done");
    }
}
