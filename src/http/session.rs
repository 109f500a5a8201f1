//! Signing browsers in and out, and the tokens that they and programs come with.

use super::Api;
use super::access::{Access, Caller, Peer};
use super::audit::AuditName;
use super::extract::{Created, JsonBody, NoContent};
use super::gate::token::{LOCAL, Token, TokenKind};
use super::gate::{cookie, cookie_name};
use super::operation::{Draft, Gives};
use super::problem::Problem;
use crate::error::Error;
use crate::job::Alias;
use crate::store::List;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// What somebody signs in with: one of the two.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum SessionSpec {
    /// A token.
    Token(String),
    /// A code of `sandclock open`, good once.
    Code(String),
}

/// Who the caller is here.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct SessionView {
    pub name: String,
    pub access: Access,
}

impl From<&Caller> for SessionView {
    fn from(caller: &Caller) -> Self {
        SessionView { name: caller.name.to_string(), access: caller.access }
    }
}

/// A session, and the cookie that goes with it.
pub struct SignedIn {
    view: SessionView,
    cookie: String,
}

impl IntoResponse for SignedIn {
    fn into_response(self) -> Response {
        let name = AuditName(self.view.name.clone());
        let mut response = ([(header::SET_COOKIE, self.cookie)], Json(self.view)).into_response();
        response.extensions_mut().insert(name);
        response
    }
}

impl Gives for SignedIn {
    fn describe(draft: &mut Draft<'_>) {
        draft.json::<SessionView>(200, "signed in; the cookie is the session");
    }
}

/// Signs in over TCP. A wrong token counts as a failure.
pub async fn begin(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    JsonBody(spec): JsonBody<SessionSpec>,
) -> Result<SignedIn, Problem> {
    let Peer::Tcp { port, .. } = caller.peer else {
        let detail = "sessions are for browsers, which come over TCP";
        return Err(Problem::new(StatusCode::BAD_REQUEST, "invalid", detail));
    };
    let now = api.app.scheduler.clock().now();
    let (tokens, sessions) = (&api.gate.tokens, &api.gate.sessions);
    let (credential, what) = match spec {
        SessionSpec::Token(text) => (tokens.find(text.trim()), None),
        SessionSpec::Code(code) => {
            let found = sessions.redeem(&code, now).filter(|credential| tokens.is_valid(credential));
            (found, Some("the code was used, or is older than two minutes (`sandclock open` makes a new one)"))
        }
    };
    let Some(credential) = credential else {
        let problem = api.gate.failed(now);
        return Err(Problem { detail: what.map_or(problem.detail.clone(), str::to_owned), ..problem });
    };
    let text = sessions.begin(credential.clone(), now)?;
    // Behind a proxy with TLS, it is for that alone.
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).unwrap_or_default();
    let secure = if origin.starts_with("https://") { "; Secure" } else { "" };
    let cookie = format!("{}={text}; Path=/; HttpOnly; SameSite=Strict{secure}", cookie_name(port));
    let view = SessionView::from(&caller.with(credential));
    Ok(SignedIn { view, cookie })
}

pub async fn show(Extension(caller): Extension<Caller>) -> Result<Json<SessionView>, Problem> {
    Ok(Json(SessionView::from(&caller)))
}

pub async fn end(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<NoContent, Problem> {
    if let Some(text) = cookie(caller.peer, &headers) {
        api.gate.sessions.end(text);
        api.gate.changed();
    }
    Ok(NoContent)
}

/// A code that signs one browser in, within two minutes.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CodeView {
    pub code: String,
    /// Where the daemon listens over TCP.
    pub addresses: Vec<SocketAddr>,
}

pub async fn code(State(api): State<Api>) -> Result<Created<CodeView>, Problem> {
    let now = api.app.scheduler.clock().now();
    api.gate.tokens.ensure_local(now)?;
    let name: Alias = LOCAL.parse()?;
    let credential = api.gate.tokens.get(&name).ok_or(Error::TokenNotFound(name))?;
    Ok(Created(CodeView { code: api.gate.sessions.code(credential, now)?, addresses: api.addresses() }))
}

#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenSpec {
    pub name: Alias,
    pub kind: TokenKind,
}

/// A token with its text, which is told this once.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct NewToken {
    #[serde(flatten)]
    pub token: Token,
    pub text: String,
}

impl From<(Token, String)> for NewToken {
    fn from((token, text): (Token, String)) -> Self {
        NewToken { token, text }
    }
}

pub async fn list_tokens(State(api): State<Api>) -> Result<Json<List<Token>>, Problem> {
    Ok(Json(List { items: api.gate.tokens.list(), next: None }))
}

pub async fn create_token(
    State(api): State<Api>,
    JsonBody(TokenSpec { name, kind }): JsonBody<TokenSpec>,
) -> Result<Created<NewToken>, Problem> {
    let now = api.app.scheduler.clock().now();
    Ok(Created(api.gate.tokens.create(name, kind, now)?.into()))
}

/// Gives a token a new text. Sessions of the old one end.
pub async fn rotate_token(State(api): State<Api>, Path(name): Path<String>) -> Result<Created<NewToken>, Problem> {
    let name: Alias = name.parse()?;
    let now = api.app.scheduler.clock().now();
    let rotated = api.gate.tokens.rotate(&name, now)?;
    api.gate.changed();
    Ok(Created(rotated.into()))
}

pub async fn remove_token(State(api): State<Api>, Path(name): Path<String>) -> Result<NoContent, Problem> {
    let name: Alias = name.parse()?;
    api.gate.tokens.remove(&name)?;
    api.gate.changed();
    Ok(NoContent)
}
