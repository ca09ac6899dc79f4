//! The surface described by OpenAPI 3.1: the paths are those of the table of routes, the rest is told by the types that
//! the functions of the table read and answer. (A second description beside the code would be simpler to write, and
//! wrong within a month.)

use std::collections::BTreeMap;

use althing_client::wire::SESSION_HEADER;
use althing_core::Kind;
use althing_core::info::ErrorInfo;
use axum::Json;
use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::answer::status;
use crate::routes::Route;

/// Every part of a path that stands for a name, and what it names.
const PLACES: &[(&str, &str)] = &[
    ("behaviour", "The behaviour's name."),
    ("group", "The group's name."),
    ("job", "The job's id."),
    ("lock", "The lock's name."),
    ("member", "The member's id."),
    ("policy", "The policy's name."),
    ("session", "The session's id."),
];

const ABOUT: &str = "Groups, leaders and the rules that choose them, over the backend you already run. \
    On the Unix socket the kernel says who asks; on a TCP port every request carries the bearer token. \
    A name takes one place in a path, percent-encoded. A field that is not described here is refused.";

/// What an extractor reads, for the document.
pub(crate) trait Reads {
    /// Tells the operation that reads it.
    fn tell(operation: &mut Operation<'_>);
}

/// What a value answers, for the document.
pub(crate) trait Answers {
    /// Tells the operation that answers it.
    fn tell(operation: &mut Operation<'_>);
}

/// A function whose types tell what it reads and answers. One that reads or answers anything that cannot be
/// described has no place in the table of routes.
pub(crate) trait Described<Types> {
    /// Tells the operation that is this function.
    fn describe(operation: &mut Operation<'_>);
}

macro_rules! described {
    ($($read:ident)*) => {
        impl<Function, Future, Told, $($read),*> Described<(Told, $($read),*)> for Function
        where
            Function: Fn($($read),*) -> Future,
            Future: std::future::Future<Output = Told>,
            Told: Answers,
            $($read: Reads),*
        {
            fn describe(operation: &mut Operation<'_>) {
                $($read::tell(operation);)*
                Told::tell(operation);
            }
        }
    };
}

described!();
described!(A);
described!(A B);
described!(A B C);
described!(A B C D);
described!(A B C D E);
described!(A B C D E F);

/// One method of one path.
pub(crate) struct Operation<'a> {
    schemas: &'a mut Schemas,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: Map<String, Value>,
    with_session: bool,
}

impl Operation<'_> {
    /// Reads a JSON body.
    pub(crate) fn reads_json<T: JsonSchema>(&mut self) {
        let schema = self.schemas.asked.subschema_for::<T>();
        self.reads("application/json", json!(schema));
    }

    /// Reads a body of a content type, as one of those it takes.
    pub(crate) fn reads(&mut self, content_type: &str, schema: Value) {
        let body = self.body.get_or_insert_with(|| json!({ "required": true }));
        body["content"][content_type] = json!({ "schema": schema });
    }

    /// Reads the fields of `T` as a query.
    pub(crate) fn reads_query<T: JsonSchema>(&mut self) {
        let mut schema = T::json_schema(&mut self.schemas.asked);
        without_links().transform(&mut schema);
        let required = schema.get("required").and_then(Value::as_array).cloned().unwrap_or_default();
        let fields = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        for (name, mut field) in fields {
            let about = field.as_object_mut().and_then(|field| field.remove("description"));
            self.parameters.push(json!({
                "name": name,
                "in": "query",
                "required": required.contains(&json!(name)),
                "description": about.unwrap_or_default(),
                "schema": field,
            }));
        }
    }

    /// Reads the header that shows a session.
    pub(crate) fn reads_session(&mut self) {
        self.with_session = true;
    }

    /// Reads a header, which must be there or may be left out.
    pub(crate) fn reads_header(&mut self, name: &str, required: bool, about: &str) {
        self.parameters.push(json!({
            "name": name,
            "in": "header",
            "required": required,
            "description": about,
            "schema": { "type": "string" },
        }));
    }

    /// Answers JSON.
    pub(crate) fn answers_json<T: JsonSchema>(&mut self, status: u16) {
        let schema = self.schemas.told.subschema_for::<T>();
        self.answers(status, "Done.", "application/json", json!(schema));
    }

    /// Answers server-sent events, each with one `T` as its data.
    pub(crate) fn answers_events<T: JsonSchema>(&mut self) {
        let event = self.schemas.told.subschema_for::<T>();
        let about =
            "Server-sent events: the data of each is one JSON value. Comments keep a silent stream alive.";
        let schema = json!({
            "type": "string",
            "contentMediaType": althing_client::wire::EVENT_STREAM,
            "contentSchema": {
                "type": "object",
                "required": ["data"],
                "properties": {
                    "data": { "type": "string", "contentMediaType": "application/json", "contentSchema": event },
                },
            },
        });
        self.answers(200, about, althing_client::wire::EVENT_STREAM, schema);
    }

    /// Answers a content type with a schema for it; called again, another content type too.
    pub(crate) fn answers(&mut self, status: u16, about: &str, content_type: &str, schema: Value) {
        let answer = self.answers.entry(status.to_string());
        let answer = answer.or_insert_with(|| json!({ "description": about, "content": {} }));
        answer["content"][content_type] = json!({ "schema": schema });
    }

    /// Answers nothing but a status.
    pub(crate) fn answers_nothing(&mut self, status: u16) {
        self.answers.insert(status.to_string(), json!({ "description": "Done." }));
    }
}

impl<T: JsonSchema> Answers for Json<T> {
    fn tell(operation: &mut Operation<'_>) {
        operation.answers_json::<T>(200);
    }
}

/// The schemas that operations name. What is asked may leave out what has a default; what is told has every field.
struct Schemas {
    asked: SchemaGenerator,
    told: SchemaGenerator,
}

impl Schemas {
    fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = "/components/schemas".into();
                settings.meta_schema = None;
                settings.transforms.push(Box::new(without_links()));
            })
        };
        Schemas {
            asked: settings().for_deserialize().into_generator(),
            told: settings().for_serialize().into_generator(),
        }
    }

    fn take(mut self) -> BTreeMap<String, Value> {
        let told = self.told.take_definitions(true);
        self.asked.take_definitions(true).into_iter().chain(told).collect()
    }
}

/// Makes plain words of the links that only rustdoc follows.
fn without_links() -> RecursiveTransform<fn(&mut Schema)> {
    RecursiveTransform(|schema| {
        if let Some(Value::String(text)) = schema.get_mut("description") {
            *text = text.replace("[`", "`").replace("`]", "`");
        }
    })
}

/// Makes the document of all routes.
pub(crate) fn document(routes: &[Route]) -> Value {
    let mut schemas = Schemas::new();
    let failure = schemas.told.subschema_for::<ErrorInfo>();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in routes {
        let method = route.method.as_str().to_ascii_lowercase();
        paths.entry(&route.path).or_default().insert(method, operation(route, &mut schemas));
    }
    let schemas = schemas.take();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Althing",
            "description": ABOUT,
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/", "description": "The host that serves this document." }],
        "paths": paths,
        "components": {
            "responses": { "Failure": {
                "description": failures(&schemas),
                "content": { "application/json": { "schema": failure } },
            } },
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token of the host's token file. Needed on a TCP port, not on the Unix socket.",
                },
                "session": {
                    "type": "apiKey",
                    "in": "header",
                    "name": SESSION_HEADER,
                    "description": "The session's id, a dot and its secret.",
                },
            },
        },
    })
}

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let mut told = Operation {
        parameters: places(&route.path),
        schemas,
        body: None,
        answers: Map::new(),
        with_session: false,
    };
    (route.describe)(&mut told);
    told.answers.insert("default".into(), json!({ "$ref": "#/components/responses/Failure" }));
    let security = match told.with_session {
        true => json!([{ "session": [] }, { "bearer": [], "session": [] }]),
        false => json!([{}, { "bearer": [] }]),
    };
    let mut operation = json!({
        "operationId": route.id,
        "tags": [route.id.split('_').next()],
        "summary": route.summary,
        "parameters": told.parameters,
        "responses": told.answers,
        "security": security,
    });
    if let Some(body) = told.body {
        operation["requestBody"] = body;
    }
    operation
}

fn places(path: &str) -> Vec<Value> {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let place = |name| {
        let about = PLACES.iter().find(|(place, _)| *place == name).map(|(_, about)| *about);
        json!({
            "name": name,
            "in": "path",
            "required": true,
            "description": about,
            "schema": { "type": "string", "minLength": 1 },
        })
    };
    names.map(place).collect()
}

/// Says by which status each kind of error is told.
fn failures(schemas: &BTreeMap<String, Value>) -> String {
    let kinds = schemas.get("Kind").and_then(|kind| kind["oneOf"].as_array()).into_iter().flatten();
    let row = |kind: &Value| {
        let known: Kind = serde_json::from_value(kind["const"].clone()).ok()?;
        Some(format!("{known} {}", status(known).as_u16()))
    };
    let rows: Vec<_> = kinds.filter_map(row).collect();
    format!("An error. The status follows from its kind: {}.", rows.join(", "))
}
