//! The API's description, made from the same table as its routes.

use super::operation::Operation;
use super::problem::Problem;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

const SCHEMAS: &str = "#/components/schemas/";
/// What schemas of requests are called where they differ from those of answers.
const INPUT: &str = "Input";

/// The OpenAPI 3.1 document of these operations.
pub fn document(operations: &[Operation]) -> Value {
    let settings =
        || SchemaSettings::draft2020_12().with(|settings| settings.definitions_path = "/components/schemas".into());
    let mut requests: SchemaGenerator = settings().for_deserialize().into_generator();
    let mut answers: SchemaGenerator = settings().for_serialize().into_generator();
    let problem = answers.subschema_for::<Problem>();
    let mut paths = Map::new();
    for operation in operations {
        let described = operation.document(&mut requests, &mut answers);
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method.as_str().to_ascii_lowercase()] = described;
    }
    let mut schemas = answers.take_definitions(true);
    let inputs = requests.take_definitions(true);
    // What is the same both ways has one name. A schema that refers to others may differ in them.
    let differs = |name: &str| {
        inputs.get(name).is_some_and(|input| schemas.get(name) != Some(input) || input.to_string().contains("\"$ref\""))
    };
    let renamed: Vec<String> = inputs.keys().filter(|name| differs(name)).cloned().collect();
    for path in paths.values_mut().filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
        for part in ["parameters", "requestBody"] {
            if let Some(part) = path.get_mut(part) {
                rename(part, &renamed);
            }
        }
    }
    for (name, mut schema) in inputs {
        rename(&mut schema, &renamed);
        let name = if renamed.contains(&name) { format!("{name}{INPUT}") } else { name };
        schemas.insert(name, schema);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Sandclock",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Run untrusted WebAssembly tasks on a schedule, safely. Over the daemon's Unix socket no token is needed, but for what asks for `grant`; over TCP always. Errors are problem+json with a stable `code`.",
            "license": { "name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": { "IdempotencyKey": {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "Up to 255 bytes. The same request with the same key within 24 hours is done once and answered as the first time.",
                "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[A-Za-z0-9_-]+$" },
            } },
            "responses": { "Problem": {
                "description": "refused, or failed; `code` says why",
                "content": { "application/problem+json": { "schema": problem } },
            } },
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer" },
                "session": { "type": "apiKey", "in": "cookie", "name": "sandclock_7878" },
            },
        },
    })
}

fn rename(value: &mut Value, renamed: &[String]) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if key == "$ref"
                    && let Value::String(to) = value
                    && to.strip_prefix(SCHEMAS).is_some_and(|name| renamed.iter().any(|renamed| renamed == name))
                {
                    to.push_str(INPUT);
                }
                rename(value, renamed);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, renamed)),
        _ => {}
    }
}
