//! One operation of the API, declared once: its route, who may call it, and its description, which is
//! read off the handler's own types.

use super::Api;
use super::access::Access;
use super::problem::Problem;
use crate::func::PluginName;
use crate::grant::SecretName;
use crate::job::{Alias, JobId};
use crate::run::RunId;
use axum::extract::{Path, State};
use axum::handler::Handler;
use axum::http::{HeaderMap, Method};
use axum::routing::{MethodFilter, MethodRouter, on};
use axum::{Extension, Json};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// What the body of a request must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// There is none, or it is not looked at.
    Absent,
    /// JSON; a request without a body says so too, because a form on another site cannot.
    Json,
    /// A component.
    Wasm,
}

/// An operation of the API.
pub struct Operation {
    pub method: Method,
    /// As the router knows it: `/v1/jobs/{id}`.
    pub path: &'static str,
    /// What it does in one word: `add_job`. The audit log and the document name it so.
    pub id: &'static str,
    pub access: Access,
    pub body: Body,
    pub about: &'static str,
    pub handler: MethodRouter<Api>,
    describe: fn(&mut Draft<'_>),
    /// What it can refuse beside what every operation can.
    refusals: &'static [u16],
    /// Larger than the limit for other requests.
    pub body_bytes_max: Option<usize>,
}

impl Operation {
    pub fn new<H, T, D>(method: Method, path: &'static str, id: &'static str, access: Access, handler: H) -> Self
    where
        H: Handler<T, Api> + Documented<D>,
        T: 'static,
    {
        let unsafe_method = [Method::POST, Method::PUT, Method::PATCH].contains(&method);
        let filter = MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::GET);
        Operation {
            method,
            path,
            id,
            access,
            body: if unsafe_method { Body::Json } else { Body::Absent },
            about: "",
            handler: on(filter, handler),
            describe: H::describe,
            refusals: &[],
            body_bytes_max: None,
        }
    }

    /// A sentence for its description.
    pub fn about(self, about: &'static str) -> Self {
        Operation { about, ..self }
    }

    /// Statuses that it refuses with beside those that every operation has.
    pub fn refuses(self, refusals: &'static [u16]) -> Self {
        Operation { refusals, ..self }
    }

    pub fn takes(self, body: Body) -> Self {
        Operation { body, ..self }
    }

    pub fn body_bytes_max(self, max: usize) -> Self {
        Operation { body_bytes_max: Some(max), ..self }
    }

    pub fn is_public(&self) -> bool {
        self.access == Access::None
    }

    /// Whether what came of it goes into the audit log: it changes something, or somebody signs in.
    pub fn is_recorded(&self) -> bool {
        self.access > Access::Read || self.id == super::LOGIN
    }

    /// Whether `Idempotency-Key` counts. Strangers would fill the table of keys, and what is granted is
    /// told in answers that must not be kept.
    pub fn is_once(&self) -> bool {
        self.method == Method::POST && [Access::Read, Access::Operate].contains(&self.access)
    }

    /// The operation as OpenAPI describes it.
    pub fn document(&self, requests: &mut SchemaGenerator, answers: &mut SchemaGenerator) -> Value {
        let mut draft = Draft { requests, answers, parameters: Vec::new(), request: None, responses: Map::new() };
        (self.describe)(&mut draft);
        let Draft { mut parameters, request, mut responses, requests, .. } = draft;
        for name in self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
            let schema = match self.path.split('/').nth(2) {
                Some("jobs") => draft_schema::<JobId>(requests),
                Some("runs") => draft_schema::<RunId>(requests),
                Some("plugins") => draft_schema::<PluginName>(requests),
                Some("secrets") => draft_schema::<SecretName>(requests),
                _ => draft_schema::<Alias>(requests),
            };
            let parameter = json!({ "name": name, "in": "path", "required": true, "schema": schema });
            parameters.push(parameter);
        }
        if self.is_once() {
            parameters.push(json!({ "$ref": "#/components/parameters/IdempotencyKey" }));
        }
        let of_body: &[u16] = match self.body {
            Body::Absent => &[],
            Body::Json | Body::Wasm => &[409, 413, 415, 422],
        };
        for status in [400, 401, 403, 404, 408, 429, 500, 503].iter().chain(of_body).chain(self.refusals) {
            responses.entry(status.to_string()).or_insert(json!({ "$ref": "#/components/responses/Problem" }));
        }
        let mut operation = json!({
            "operationId": self.id,
            "summary": self.about,
            "tags": [self.path.trim_start_matches("/v1/").split('/').next().unwrap_or_default()],
            "parameters": parameters,
            "responses": responses,
            "x-access": self.access,
        });
        if let Some(request) = request {
            operation["requestBody"] = request;
        }
        operation["security"] = if self.is_public() { json!([]) } else { json!([{ "token": [] }, { "session": [] }]) };
        operation
    }
}

fn draft_schema<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Value {
    schemas.subschema_for::<T>().to_value()
}

/// A description as it is put together.
pub struct Draft<'a> {
    requests: &'a mut SchemaGenerator,
    answers: &'a mut SchemaGenerator,
    parameters: Vec<Value>,
    request: Option<Value>,
    responses: Map<String, Value>,
}

impl Draft<'_> {
    fn query<T: JsonSchema>(&mut self) {
        let schema = T::json_schema(self.requests);
        let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let mut parameter = json!({ "name": name, "in": "query", "required": required.contains(&json!(name)) });
            let mut schema = schema.clone();
            if let Some(fields) = schema.as_object_mut()
                && let Some(about) = fields.remove("description")
            {
                parameter["description"] = about;
            }
            parameter["schema"] = schema;
            self.parameters.push(parameter);
        }
    }

    pub fn header(&mut self, name: &str, about: &str) {
        let schema = json!({ "type": "string" });
        self.parameters.push(json!({ "name": name, "in": "header", "description": about, "schema": schema }));
    }

    fn json_body<T: JsonSchema>(&mut self, required: bool) {
        let schema = self.requests.subschema_for::<T>();
        let content = json!({ "application/json": { "schema": schema } });
        self.request = Some(json!({ "required": required, "content": content }));
    }

    pub fn body(&mut self, media: &str, schema: Value) {
        let mut content = Map::new();
        content.insert(media.to_owned(), json!({ "schema": schema }));
        self.request = Some(json!({ "required": true, "content": content }));
    }

    pub fn json<T: JsonSchema>(&mut self, status: u16, about: &str) {
        let schema = self.answers.subschema_for::<T>();
        self.answer(status, about, "application/json", json!({ "schema": schema }));
    }

    pub fn lines<T: JsonSchema>(&mut self, status: u16, about: &str) {
        let schema = self.answers.subschema_for::<T>();
        self.answer(status, about, "application/x-ndjson", json!({ "schema": { "type": "string" }, "x-line": schema }));
    }

    /// One more kind of answer; several may share a status.
    pub fn answer(&mut self, status: u16, about: &str, media: &str, content: Value) {
        let response = self.responses.entry(status.to_string()).or_insert(json!({ "description": about }));
        response["content"][media] = content;
    }

    pub fn empty(&mut self, status: u16, about: &str) {
        self.responses.insert(status.to_string(), json!({ "description": about }));
    }
}

/// A part of a request that a handler takes.
pub trait Takes {
    fn describe(draft: &mut Draft<'_>);
}

/// What a handler answers with.
pub trait Gives {
    fn describe(draft: &mut Draft<'_>);
}

/// A handler whose types say what it takes and gives.
pub trait Documented<D> {
    fn describe(draft: &mut Draft<'_>);
}

macro_rules! documented {
    ($($part:ident),*) => {
        impl<F, A, R, $($part),*> Documented<fn($($part),*) -> R> for F
        where
            F: Fn($($part),*) -> A,
            A: Future<Output = Result<R, Problem>>,
            R: Gives,
            $($part: Takes),*
        {
            fn describe(draft: &mut Draft<'_>) {
                $($part::describe(draft);)*
                R::describe(draft);
            }
        }
    };
}

documented!();
documented!(P1);
documented!(P1, P2);
documented!(P1, P2, P3);
documented!(P1, P2, P3, P4);
documented!(P1, P2, P3, P4, P5);

/// Parts that no caller writes.
macro_rules! unseen {
    ($($part:ty),*) => {
        $(impl Takes for $part {
            fn describe(_: &mut Draft<'_>) {}
        })*
    };
}

unseen!(HeaderMap, Path<String>);

impl<S> Takes for State<S> {
    fn describe(_: &mut Draft<'_>) {}
}

impl<T> Takes for Extension<T> {
    fn describe(_: &mut Draft<'_>) {}
}

impl<T: JsonSchema> Takes for super::extract::Query<T> {
    fn describe(draft: &mut Draft<'_>) {
        draft.query::<T>();
    }
}

impl<T: JsonSchema> Takes for super::extract::JsonBody<T> {
    fn describe(draft: &mut Draft<'_>) {
        draft.json_body::<T>(true);
    }
}

impl<T: JsonSchema> Takes for Option<super::extract::JsonBody<T>> {
    fn describe(draft: &mut Draft<'_>) {
        draft.json_body::<T>(false);
    }
}

impl<T: JsonSchema> Gives for Json<T> {
    fn describe(draft: &mut Draft<'_>) {
        draft.json::<T>(200, "done");
    }
}
