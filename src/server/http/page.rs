//! `GET /{handle}`: where a scanned code leads, or a page that shows what it says.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use jiexi_proto::code::ResponseCode;
use jiexi_proto::value::Value;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::Value as Json;
use url::Url;

use super::App;
use super::answer::{Answer, Refusal};
use super::asked::{self, Resolving};
use super::caller::Caller;
use super::handles::{look_up, not_allowed, options, value_json};
use super::html::{page, plain, text};
use super::language::Language;
use super::location;
use super::openapi::Flag;
use super::outer::{Counted, From};
use super::texts::title;
use crate::metrics::{Op, Outcome};
use crate::server::handle::outcome_of;

/// What may be done here.
const METHODS: &str = "GET, HEAD, OPTIONS";
/// Below this, nothing is a page.
const API: &str = "/api";
/// Where every handle can be reached, those that look like a route of ours among them.
pub(super) const EVERY: &str = "/hdl/";
/// Values on a page.
const VALUES_MAX: usize = 200;
/// Characters of a value on a page.
const TEXT_MAX: usize = 2_000;
/// Octets of a binary value on a page.
const BINARY_MAX: usize = 64;
/// What stands as it is in a path.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'.')
    .remove(b'-')
    .remove(b'_')
    .remove(b'~');

/// Where a handle leads: a redirect to its URL or to one of its locations, or a page.
#[utoipa::path(
    get, path = "/hdl/{handle}", tag = "pages", operation_id = "follow",
    params(
        ("handle" = String, Path, description = "The handle; `GET /{handle}` does the same for those that no route hides"),
        ("noredirect" = inline(Option<Flag>), Query, description = "Show the record"),
        ("locatt" = Option<Vec<String>>, Query, description = "`name:value`: a location with this attribute"),
        ("lang" = Option<String>, Query, description = "`zh` or `en`, instead of Accept-Language")),
    responses(
        (status = 200, description = "The record, for people", content_type = "text/html; charset=utf-8"),
        (status = 302, description = "To the URL"),
        (status = 400, description = "Not a handle, or another node's prefix", content_type = "text/html; charset=utf-8"),
        (status = 404, description = "No such handle", content_type = "text/html; charset=utf-8"),
        (status = 429, description = "Too many requests", content_type = "application/json"),
        (status = 503, description = "Not now", content_type = "text/html; charset=utf-8"))
)]
pub(super) async fn serve(
    State(app): State<Arc<App>>,
    Extension(from): Extension<From>,
    request: Request<Body>,
) -> Answer {
    match *request.method() {
        Method::GET | Method::HEAD => {}
        Method::OPTIONS => return options(METHODS),
        _ => return not_allowed(METHODS, &from, request.headers()),
    }
    let language = language(&request);
    let path = request.uri().path();
    if path == "/" {
        return front(language);
    }
    let route = if path.starts_with(EVERY) { EVERY } else { "/" };
    let handle = asked::handle(path, route);
    let mut outcome = Outcome::Success;
    let done = handle
        .as_deref()
        .map_err(Clone::clone)
        .and_then(|handle| lead(&app, &from, &request, handle, language));
    let mut answer = done.unwrap_or_else(|refusal| {
        outcome = outcome_of(refusal.code);
        sorry(
            &refusal,
            handle.as_deref().unwrap_or_default(),
            &from,
            language,
        )
    });
    let op = Op::Resolve;
    answer.extensions_mut().insert(Counted { op, outcome });
    answer
}

/// What is not here and is no handle.
pub(super) async fn nothing(Extension(from): Extension<From>, request: Request<Body>) -> Answer {
    let refusal = Refusal::named(StatusCode::NOT_FOUND, "no_such_page", "");
    sorry(&refusal, "", &from, language(&request))
}

/// What browsers and crawlers ask every host for by themselves: no handle, nobody's resolution, and for a day not asked
/// again.
pub(super) async fn unasked() -> Answer {
    let mut answer = Answer::new(Body::empty());
    *answer.status_mut() = StatusCode::NOT_FOUND;
    let day = HeaderValue::from_static("public, max-age=86400");
    answer.headers_mut().insert(header::CACHE_CONTROL, day);
    answer
}

/// As the query says, else as the browser does.
fn language(request: &Request<Body>) -> Language {
    let asked = asked::parameters(request.uri().query()).find(|(name, _)| name == "lang");
    match asked.as_ref().map(|(_, value)| value.as_str()) {
        Some("zh") => Language::Chinese,
        Some("en") => Language::English,
        _ => Language::of(request.headers()),
    }
}

fn lead(
    app: &App,
    from: &From,
    request: &Request<Body>,
    handle: &str,
    language: Language,
) -> Result<Answer, Refusal> {
    let asked = Resolving::read(request.uri().query())?;
    let public = Resolving::default();
    // Whoever scans a code is nobody in particular.
    let found = look_up(app, from, &Caller::default(), handle, &public);
    let values = match found {
        Err(refusal) if refusal.code == ResponseCode::VALUES_NOT_FOUND => Vec::new(),
        found => found?.values(),
    };
    if !asked.no_redirect {
        let random = getrandom::u64().unwrap_or(0);
        let target = location::choose(&values, &asked.locatt, random);
        if let Some(target) = target.filter(|target| !leads_back(app, request, handle, target)) {
            return Ok(redirect(&target));
        }
    }
    Ok(record(app, handle, &values, language))
}

/// Whether an address is that of this handle at this node. HTTP/2 says by `:authority` whom it asks, not by Host.
fn leads_back(app: &App, request: &Request<Body>, handle: &str, target: &Url) -> bool {
    let host = request.headers().get(header::HOST);
    let host = host.and_then(|host| host.to_str().ok());
    let authority = request.uri().authority().map(Authority::as_str);
    let asked = [host, authority].into_iter().flatten();
    if !location::is_at(target, asked, &app.origins) {
        return false;
    }
    let path = target.path();
    let raw = path.strip_prefix(EVERY).or_else(|| path.strip_prefix('/'));
    let there: Vec<u8> = percent_decode_str(raw.unwrap_or_default()).collect();
    let records = &app.registry.records;
    records.key(&there) == records.key(handle.as_bytes())
}

fn redirect(target: &Url) -> Answer {
    let mut answer = Answer::new(Body::empty());
    *answer.status_mut() = StatusCode::FOUND;
    let headers = answer.headers_mut();
    if let Ok(target) = HeaderValue::from_str(target.as_str()) {
        headers.insert(header::LOCATION, target);
    }
    let none = HeaderValue::from_static("no-referrer");
    headers.insert(header::REFERRER_POLICY, none);
    let fresh = HeaderValue::from_static("no-cache");
    headers.insert(header::CACHE_CONTROL, fresh);
    answer
}

/// The page of a record.
fn record(app: &App, handle: &str, values: &[Value], language: Language) -> Answer {
    let path = utf8_percent_encode(handle, PATH).to_string();
    let canonical = match app.config.public_url.as_str() {
        "" => String::new(),
        origin => format!(
            "<link rel=\"canonical\" href=\"{}{EVERY}{}\">",
            plain(origin),
            plain(&path)
        ),
    };
    let mut body = header_of(handle, language);
    if values.is_empty() {
        let none = language.pick("该标识没有公开的值。", "This handle has no public values.");
        let _ = write!(body, "<p>{none}</p>");
    }
    for value in values.iter().take(VALUES_MAX) {
        show(value, language, &mut body);
    }
    if values.len() > VALUES_MAX {
        let more = values.len() - VALUES_MAX;
        let text = language.pick("个值未显示", "more values are not shown");
        let _ = write!(body, "<p class=\"m\">… {more} {text}</p>");
    }
    let other = language.pick(
        "<a href=\"?noredirect&amp;lang=en\">English</a>",
        "<a href=\"?noredirect&amp;lang=zh\">中文</a>",
    );
    let _ = write!(
        body,
        "</main><footer><a href=\"/api/handles/{}\">JSON</a> · {other} · {}</footer>",
        plain(&path),
        language.pick(
            "由 jiexi 标识解析节点提供",
            "served by a jiexi resolution node"
        )
    );
    page(StatusCode::OK, language, handle, &canonical, &body)
}

fn header_of(handle: &str, language: Language) -> String {
    let what = language.pick("工业互联网标识", "Industrial internet identifier");
    format!(
        "<header><small class=\"m\">{what}</small><h1><bdi>{}</bdi></h1></header><main>",
        text(handle)
    )
}

/// One value.
fn show(value: &Value, language: Language, out: &mut String) {
    let kind = String::from_utf8_lossy(&value.kind);
    let kind: String = kind.chars().take(TEXT_MAX).collect();
    let _ = write!(
        out,
        "<section class=\"v\"><b><bdi>{}</bdi></b> <small>{} {}</small><div class=\"d\"><bdi>",
        text(&kind),
        language.pick("索引", "index"),
        value.index
    );
    let json = value_json(value);
    let data = &json["data"];
    match (data["format"].as_str(), &data["value"]) {
        (Some("string"), Json::String(content)) => {
            let shown: String = content.chars().take(TEXT_MAX).collect();
            match location::safe(content) {
                Some(url) if shown.len() == content.len() => {
                    let _ = write!(
                        out,
                        "<a href=\"{}\" rel=\"noopener noreferrer nofollow\">{}</a>",
                        plain(url.as_str()),
                        text(&shown)
                    );
                }
                _ => out.push_str(&text(&shown)),
            }
            cut(content.chars().count(), TEXT_MAX, language, out);
        }
        (Some("base64"), _) => {
            let octets = value.data.get(..BINARY_MAX).unwrap_or(&value.data);
            let _ = write!(out, "<code>{}</code>", hex::encode(octets));
            cut(value.data.len(), BINARY_MAX, language, out);
        }
        (_, structured) => {
            let all = serde_json::to_string_pretty(structured).unwrap_or_default();
            let shown: String = all.chars().take(TEXT_MAX).collect();
            out.push_str(&text(&shown));
            cut(all.chars().count(), TEXT_MAX, language, out);
        }
    }
    out.push_str("</bdi></div></section>");
}

/// Says that something is longer than what is shown.
fn cut(length: usize, shown: usize, language: Language, out: &mut String) {
    if length > shown {
        let text = language.pick("共", "of");
        let _ = write!(out, "<small> … ({shown} {text} {length})</small>");
    }
}

/// The page of an error.
fn sorry(refusal: &Refusal, handle: &str, from: &From, language: Language) -> Answer {
    let mut body = header_of(handle, language);
    let _ = write!(
        body,
        "<p class=\"n\"><b>{}</b></p><p class=\"m\">{}<br>{} <code>{}</code></p></main>",
        title(refusal.name(), language),
        text(&refusal.detail(language)),
        language.pick("请求编号", "request"),
        from.request()
    );
    let name = title(refusal.name(), language);
    let mut answer = page(refusal.status(), language, name, "", &body);
    if let Some(wait) = refusal.wait {
        answer
            .headers_mut()
            .insert(header::RETRY_AFTER, wait.into());
    }
    answer
}

/// What is said to a browser that is refused before a route was taken; none where no page is.
pub(super) fn refused(
    refusal: &Refusal,
    method: &Method,
    path: &str,
    from: &From,
    language: Language,
) -> Option<Answer> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let below = path.strip_prefix(API);
    let below_api = below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    (reads && !below_api).then(|| sorry(refusal, "", from, language))
}

/// The page of the node itself.
fn front(language: Language) -> Answer {
    let name = language.pick("标识解析节点", "Identifier resolution node");
    let body = format!(
        "<h1>{name}</h1><p>{}</p><p><code>/hdl/88.118.1/…</code></p><footer><a href=\"/docs\">{}</a></footer>",
        language.pick(
            "扫描产品上的标识码，或在地址后输入标识。",
            "Scan the code on a product, or write an identifier behind the address."
        ),
        language.pick("接口文档", "API documentation")
    );
    page(StatusCode::OK, language, name, "", &body)
}
