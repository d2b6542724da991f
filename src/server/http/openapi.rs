//! The description of the API, made from the handlers, and a page of it for people.

use std::fmt::Write as _;

use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value as Json, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi, ToSchema};

use super::answer::{Answer, with_type};
use super::html::{page, text};
use super::language::Language;
use super::{
    batch, change, changes, handles, jobs, list, page as pages, replication, sessions, v1,
};

/// A parameter that is on or off; its name alone means on.
pub(super) struct Flag;

impl utoipa::PartialSchema for Flag {
    fn schema() -> RefOr<Schema> {
        let words = ["", "true", "false", "1", "0", "yes", "no", "on", "off"];
        let schema = ObjectBuilder::new().schema_type(Type::String);
        schema.enum_values(Some(words)).into()
    }
}

impl ToSchema for Flag {}

/// The shapes of bodies, as components of the description.
const SCHEMAS: &str = include_str!("schemas.json");

/// What each operation answers in JSON when it succeeds, by its id. Errors have the shape of their media type.
const ANSWERS: &[(&str, &str)] = &[
    ("resolve", "Record"),
    ("put", "Changed"),
    ("delete", "Changed"),
    ("list", "Listing"),
    ("listHandles", "HandlePage"),
    ("open_session", "OpenedSession"),
    ("session", "Session"),
    ("log_in", "Session"),
    ("log_in_by_put", "Session"),
    ("end_session", "EndedSession"),
    ("identity", "Identity"),
    ("quota", "Quota"),
    ("createJob", "Job"),
    ("listJobs", "Jobs"),
    ("getJob", "Job"),
    ("pauseJob", "Job"),
    ("resumeJob", "Job"),
    ("cancelJob", "Job"),
    ("replication", "Replication"),
    ("supersede", "Replication"),
];

/// The bodies of operations that take or give several forms, of which the derive says one.
const TABLES: &[&str] = &["text/csv", "application/x-ndjson"];
const LINES: &str = "text/plain";
const ARRAY: &str = "application/json";

/// Operations whose body may be left out, which the derive cannot say of text.
const NO_BODY: &[&str] = &["batchResolve"];

/// Headers that answers to tokens with a quota have, and what they say; see `quota`.
const QUOTA_HEADERS: &[(&str, &str)] = &[
    (
        "RateLimit-Policy",
        "Of a token with a quota: how many identifiers it has a day, `\"day\";q=5000000;w=86400`",
    ),
    (
        "RateLimit",
        "Of a token with a quota: how many are left when this is answered, and the seconds until there are more, \
         `\"day\";r=4999999;t=3600`",
    ),
];
/// The header of answers that ask for patience.
const RETRY_AFTER: (&str, &str) = ("Retry-After", "Seconds after which it may be tried again");

/// The description: every route, its parameters and its answers.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "jiexi",
        description = "Identifier resolution node: the Handle JSON API, sessions, tokens and pages. \
                       Errors have `responseCode` and the members of a problem (RFC 9457); \
                       `X-Request-Id` names the request in every answer, and `RateLimit` what a token's quota has left."
    ),
    paths(
        handles::get, change::take, change::deletion, list::serve, list::page, sessions::open, sessions::look,
        sessions::log_in, sessions::end, v1::identity, batch::resolve, batch::quota, jobs::create, jobs::list,
        jobs::look, jobs::delete, jobs::pause, jobs::resume, jobs::cancel, jobs::results,
        replication::standing, replication::snapshot, replication::journal, replication::run,
        replication::supersede, changes::serve, pages::serve
    ),
    modifiers(&Credentials),
    tags(
        (name = "handles", description = "Records: read, written, listed"),
        (name = "sessions", description = "Challenge and response"),
        (name = "identity", description = "Who one is"),
        (name = "batch", description = "Many identifiers in one request"),
        (name = "jobs", description = "Many registrations, carried out by themselves"),
        (name = "changes", description = "What has changed, for whoever keeps a copy"),
        (name = "replication", description = "What a standby copies the node by"),
        (name = "pages", description = "Behind a scanned code"))
)]
struct Description;

/// The credentials that can be described, and what a derive cannot say.
struct Credentials;

impl Modify for Credentials {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        // One function serves both methods, but an operation's id is its own.
        let this = description.paths.paths.get_mut("/api/sessions/this");
        if let Some(put) = this.and_then(|this| this.put.as_mut()) {
            put.operation_id = Some("log_in_by_put".into());
        }
        let components = description.components.get_or_insert_default();
        for (name, scheme, about) in [
            (
                "token",
                HttpAuthScheme::Bearer,
                "An API token, `jx_…`; HTTPS only",
            ),
            (
                "basic",
                HttpAuthScheme::Basic,
                "User `index:handle`, percent-encoded, such as `300%3A0.NA%2F88.118`; the secret key as password; HTTPS only",
            ),
        ] {
            let scheme = HttpBuilder::new().scheme(scheme).description(Some(about));
            components.add_security_scheme(name, SecurityScheme::Http(scheme.build()));
        }
    }
}

/// The description as JSON; `origin` is where the node is reached, or empty.
pub(super) fn description(origin: &str) -> Json {
    let mut description = serde_json::to_value(Description::openapi()).unwrap_or_default();
    if !origin.is_empty() {
        description["servers"] = json!([{ "url": origin }]);
    }
    description["components"]["schemas"] = serde_json::from_str(SCHEMAS).unwrap_or_default();
    for (name, about) in QUOTA_HEADERS {
        description["components"]["headers"][name] =
            json!({"description": about, "schema": {"type": "string"}});
    }
    let (name, about) = RETRY_AFTER;
    description["components"]["headers"][name] =
        json!({"description": about, "schema": {"type": "integer", "minimum": 0}});
    // These two the types of the generator have no words for.
    let schemes = &mut description["components"]["securitySchemes"];
    schemes["session"] = json!({"type": "http", "scheme": "Handle", "description":
        "`Handle sessionId=\"…\"` of `/api/sessions`, with a proof by RSA or secret key; HTTPS only"});
    schemes["certificate"] = json!({"type": "mutualTLS", "description":
        "The certificate of an HS_PUBKEY value, with `Handle clientCert=\"true\", id=\"index:handle\"`; where the node \
         asks for certificates ([http] client_certificates)"});
    let paths = description["paths"].as_object_mut().into_iter().flatten();
    let operations = paths.flat_map(|(_, path)| path.as_object_mut().into_iter().flatten());
    operations.for_each(|(_, operation)| shape(operation));
    description
}

/// Says which shapes the bodies of an operation have.
fn shape(operation: &mut Json) {
    let id = operation["operationId"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let answer = ANSWERS.iter().find(|(known, _)| *known == id);
    let body = match &*id {
        "put" => Some("RecordBody"),
        "supersede" => Some("Successor"),
        _ => None,
    };
    let may_be_empty = NO_BODY.contains(&&*id);
    if let Some(ways) = operation.get_mut("security").and_then(Json::as_array_mut)
        && ways.iter().any(|way| way.get("basic").is_some())
    {
        ways.extend(["session", "certificate"].map(|way| json!({ way: [] })));
    }
    let ways = operation.get("security").and_then(Json::as_array);
    let by_token = ways.is_some_and(|ways| ways.iter().any(|way| way.get("token").is_some()));
    let responses = operation.get_mut("responses").and_then(Json::as_object_mut);
    for (status, response) in responses.into_iter().flatten() {
        let fails = status.starts_with(['4', '5']);
        // A token that is not good is told nothing of any quota.
        if by_token && status != "401" {
            QUOTA_HEADERS
                .iter()
                .for_each(|(name, _)| has_header(response, name));
        }
        if matches!(status.as_str(), "429" | "503") {
            has_header(response, RETRY_AFTER.0);
        }
        let contents = response.get_mut("content").and_then(Json::as_object_mut);
        for (kind, content) in contents.into_iter().flatten() {
            let name = match (kind.as_str(), fails) {
                ("application/problem+json", _) => Some("Problem"),
                ("application/json", true) => Some("HandleProblem"),
                ("application/json", false) => answer.map(|(_, name)| *name),
                _ => None,
            };
            name.into_iter().for_each(|name| refer(content, name));
        }
    }
    if id == "createJob" {
        let content = &mut operation["requestBody"]["content"];
        for kind in TABLES.iter().chain([&LINES]) {
            content[kind]["schema"] = json!({"type": "string"});
        }
        refer(&mut content[ARRAY], "Handles");
    }
    if id == "getJobResults" {
        for (status, kind) in ["200", "206"]
            .iter()
            .flat_map(|status| TABLES.iter().map(move |kind| (status, kind)))
        {
            operation["responses"][status]["content"][kind] = json!({});
        }
    }
    if may_be_empty {
        operation["requestBody"]["required"] = false.into();
    }
    if let Some(name) = body {
        refer(
            &mut operation["requestBody"]["content"]["application/json"],
            name,
        );
    }
}

fn has_header(response: &mut Json, name: &str) {
    response["headers"][name] = json!({"$ref": format!("#/components/headers/{name}")});
}

fn refer(content: &mut Json, name: &str) {
    content["schema"] = json!({"$ref": format!("#/components/schemas/{name}")});
}

/// The description for programs.
pub(super) fn for_programs(description: &Json) -> Answer {
    with_type(StatusCode::OK, "application/json", description.to_string())
}

/// The description for people.
pub(super) fn for_people(description: &Json, headers: &HeaderMap) -> Answer {
    let language = Language::of(headers);
    let mut body = format!(
        "<h1>jiexi {}</h1><p>{}</p><p><a href=\"/api/openapi.json\">OpenAPI 3.1</a></p>",
        language.pick("接口文档", "API"),
        prose(&description["info"]["description"])
    );
    let paths = description["paths"].as_object();
    for (path, operations) in paths.into_iter().flatten() {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            show(path, method, operation, language, &mut body);
        }
    }
    page(StatusCode::OK, language, "jiexi API", "", &body)
}

fn show(path: &str, method: &str, operation: &Json, language: Language, out: &mut String) {
    let _ = write!(
        out,
        "<h2><code>{} {}</code></h2><p>{}</p>",
        text(&method.to_uppercase()),
        text(path),
        prose(&operation["summary"])
    );
    let parameters = operation["parameters"].as_array();
    if let Some(parameters) = parameters.filter(|parameters| !parameters.is_empty()) {
        let _ = write!(
            out,
            "<table><tr><th>{}</th><th></th></tr>",
            language.pick("参数", "Parameter")
        );
        for parameter in parameters {
            let _ = write!(
                out,
                "<tr><td><code>{}</code> <small>{}</small></td><td>{}</td></tr>",
                text(parameter["name"].as_str().unwrap_or_default()),
                text(parameter["in"].as_str().unwrap_or_default()),
                prose(&parameter["description"])
            );
        }
        out.push_str("</table>");
    }
    if operation["requestBody"]["description"].is_string() {
        let _ = write!(
            out,
            "<p>{}: {}</p>",
            language.pick("请求体", "Body"),
            prose(&operation["requestBody"]["description"])
        );
    }
    let _ = write!(
        out,
        "<table><tr><th>{}</th><th></th></tr>",
        language.pick("状态", "Status")
    );
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let about = prose(&response["description"]);
        let _ = write!(
            out,
            "<tr><td><code>{}</code></td><td>{about}</td></tr>",
            text(status)
        );
    }
    out.push_str("</table>");
}

/// Text with `code` in it.
fn prose(json: &Json) -> String {
    let mut out = String::new();
    for (place, part) in json.as_str().unwrap_or_default().split('`').enumerate() {
        let part = text(part);
        let _ = match place % 2 {
            0 => write!(out, "{part}"),
            _ => write!(out, "<code>{part}</code>"),
        };
    }
    out
}
