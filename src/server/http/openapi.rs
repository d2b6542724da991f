//! The description of the API, made from the handlers, and a page of it for people.

use std::fmt::Write as _;

use axum::http::{HeaderMap, StatusCode};
use serde::Serialize;
use serde_json::Value as Json;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi, ToSchema};

use super::answer::{Answer, with_type};
use super::html::{page, text};
use super::language::Language;
use super::{batch, change, handles, list, page as pages, sessions, v1};

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

/// A value of a record.
#[derive(ToSchema, Serialize)]
pub(super) struct RecordValue {
    /// Its place in the record.
    #[schema(minimum = 1, maximum = 2147483647)]
    index: u32,
    /// Such as URL, EMAIL, HS_ADMIN.
    #[serde(rename = "type")]
    #[schema(min_length = 1)]
    kind: String,
    /// Text, or `{"format","value"}` with format `string`, `base64`, `hex`, `admin`, `vlist`, `site` or `key`.
    #[schema(value_type = String)]
    data: String,
    /// Seconds that it may be kept by others, or the time when it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, minimum = 0, maximum = 2147483647)]
    ttl: Option<i32>,
    /// Four of 0 and 1: administrators read, write; everybody reads, writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, pattern = "^[01]{4}$")]
    permissions: Option<String>,
}

/// The body of a change.
#[derive(ToSchema, Serialize)]
pub(super) struct RecordValues {
    /// The values.
    #[schema(min_items = 1)]
    values: Vec<RecordValue>,
}

/// The description: every route, its parameters and its answers.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "jiexi",
        description = "Identifier resolution node: the Handle JSON API, sessions, tokens and pages. \
                       Errors have `responseCode` and the members of a problem (RFC 9457); \
                       `X-Request-Id` names the request in every answer."
    ),
    paths(
        handles::get, change::take, change::deletion, list::serve, sessions::open, sessions::look,
        sessions::log_in, sessions::end, v1::identity, batch::resolve, batch::quota, pages::serve
    ),
    components(schemas(RecordValue, RecordValues)),
    modifiers(&Credentials),
    tags(
        (name = "handles", description = "Records: read, written, listed"),
        (name = "sessions", description = "Challenge and response"),
        (name = "identity", description = "Who one is"),
        (name = "batch", description = "Many identifiers in one request"),
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
        let Some(components) = &mut description.components else {
            return;
        };
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
    let mut json = serde_json::to_value(Description::openapi()).unwrap_or_default();
    if !origin.is_empty() {
        json["servers"] = serde_json::json!([{ "url": origin }]);
    }
    json
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
