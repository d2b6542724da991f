//! `POST /api/v1/batch/resolve`: many identifiers in one request, answered while they arrive.
//!
//! ```text
//! body → flow (spools when the client does not read) → work (a thread: read, look up, write) → body of the answer
//! ```
//!
//! * `mod.rs`: what is asked, and by whom. `streams`: how many run, and what they keep on disk.
//! * `flow`: the asynchronous ends of a batch. `work`: its thread, and what jobs have in common with it. `quota`: reserved
//!   a thousand at a time. `elsewhere`: lines that other nodes are asked.

mod elsewhere;
mod flow;
mod quota;
mod streams;
mod work;

use std::path::PathBuf;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use serde_json::json;

pub(super) use self::elsewhere::Elsewhere;
use self::flow::Flow;
pub(super) use self::quota::Share;
pub(super) use self::streams::{Streams, own_directory};
pub(super) use self::work::{Failure, Origin, Progress, Question, Rest, Stop, Way};
use super::answer::{Answer, Refusal, json, with_type};
use super::language::Language;
use super::openapi::Flag;
use super::outer::{Counted, From, outcome_of};
use super::{App, asked, caller, source_of, v1};
use crate::batch::answer::Form as OutputForm;
use crate::batch::charset::Charset;
use crate::batch::coding::Coding;
use crate::batch::input::Form as InputForm;
use crate::metrics::Op;
use crate::registry::source::Source;
use crate::server::accept::Ticket;
use crate::token::{Grant, Right, book};

/// What batches may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Batches at once, of all tokens.
    pub streams: usize,
    /// Batches at once of one token.
    pub streams_per_token: usize,
    /// Octets of an input, after decompression.
    pub input: u64,
    /// Octets after decompression for each one before.
    pub ratio: u64,
    /// Octets of input on disk, for each token.
    pub spool: u64,
    /// Handles at home elsewhere that one batch may have asked there.
    pub recursive: u64,
    /// Whether they need no token.
    pub anonymous: bool,
    /// Where they are.
    pub directory: PathBuf,
}

/// What may be done with batches, and with quotas.
const BATCH_METHODS: &str = "POST, OPTIONS";
const QUOTA_METHODS: &str = "GET, HEAD, OPTIONS";

/// Who asks for a batch.
#[derive(Clone, Debug)]
enum By {
    Token(Grant),
    /// Somebody of this network.
    Anybody(Source),
}

impl By {
    const fn grant(&self) -> Option<&Grant> {
        match self {
            Self::Token(grant) => Some(grant),
            Self::Anybody(_) => None,
        }
    }

    /// Under what name its batches are counted. No token is called as a network.
    fn name(&self) -> String {
        match self {
            Self::Token(grant) => grant.id.clone(),
            Self::Anybody(source) => source.to_string(),
        }
    }
}

/// What a batch asks for, at once or as a job.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) form: InputForm,
    pub(super) charset: Charset,
    pub(super) coding: Coding,
    pub(super) output: OutputForm,
    output_coding: Coding,
    pub(super) raw: bool,
    /// Lines up to this one were answered before.
    pub(super) after: u64,
    /// Indexes and types as the resolver reads them; none: all values.
    pub(super) filter: Option<Vec<u8>>,
    /// Values that only administrators may read are asked for, too.
    pub(super) restricted: bool,
    /// Handles at home elsewhere are asked there.
    pub(super) recursive: bool,
}

/// Parameters of a batch.
pub(super) const PARAMETERS: &[&str] =
    &["index", "type", "publicOnly", "recursive", "after", "raw"];

impl Asked {
    pub(super) fn read(query: Option<&str>, headers: &HeaderMap) -> Result<Self, Refusal> {
        let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let (kind, charset) = charset_of(text(header::CONTENT_TYPE).unwrap_or("text/plain"))?;
        let form = InputForm::of_type(kind).ok_or_else(|| {
            unsupported(
                "Content-Type must be text/plain (a handle a line), application/x-ndjson, application/json (an array) or \
                 text/csv",
            )
        })?;
        let coding = coding_of(headers)?;
        let accept = text(header::ACCEPT)
            .unwrap_or_default()
            .to_ascii_lowercase();
        let csv = accept.contains("text/csv") && !accept.contains("ndjson");
        let mut asked = Self {
            form,
            charset,
            coding,
            output: if csv {
                OutputForm::Csv
            } else {
                OutputForm::Ndjson
            },
            output_coding: Coding::accepted(text(header::ACCEPT_ENCODING).unwrap_or_default()),
            raw: false,
            after: 0,
            filter: None,
            restricted: false,
            recursive: false,
        };
        asked.parameters(query)?;
        Ok(asked)
    }

    fn parameters(&mut self, query: Option<&str>) -> Result<(), Refusal> {
        let resolving = asked::Resolving::read(query)?;
        self.restricted = resolving.public_only == Some(false);
        for (name, value) in asked::parameters(query) {
            match (name.as_str(), value.as_str()) {
                ("raw", _) => self.raw = asked::flag(&name, &value)?,
                ("recursive", _) => self.recursive = asked::flag(&name, &value)?,
                ("after", number) => {
                    // The description says int64: what is beyond it is no line.
                    let line = number.parse().ok();
                    let line = line.filter(|line| i64::try_from(*line).is_ok());
                    let wrong = || Refusal::field("after", "must be the number of a line");
                    self.after = line.ok_or_else(wrong)?;
                }
                _ => {}
            }
        }
        self.filter = resolving.filter()?;
        Ok(())
    }
}

impl Asked {
    /// What its token must be good for beside [`Right::Batch`].
    pub(super) fn rights(&self) -> impl Iterator<Item = Right> {
        let restricted = self.restricted.then_some(Right::Resolve);
        let recursive = self.recursive.then_some(Right::Recursive);
        [restricted, recursive].into_iter().flatten()
    }

    /// Whether node and token allow it.
    pub(super) fn permitted(&self, app: &App, grant: &Grant) -> Result<(), Refusal> {
        if self.recursive && elsewhere::forwarder(app).is_none() {
            let text = "this node asks no other; a foreign prefix has code 301 for its line";
            return Err(Refusal::field("recursive", text));
        }
        self.rights()
            .try_for_each(|right| caller::has(grant, right))
    }
}

/// The one coding of a body.
pub(super) fn coding_of(headers: &HeaderMap) -> Result<Coding, Refusal> {
    let coded = headers.get_all(header::CONTENT_ENCODING).iter().count();
    let text = headers.get(header::CONTENT_ENCODING);
    let text = text.map_or("", |value| value.to_str().unwrap_or("?"));
    Coding::named(text)
        .filter(|_| coded <= 1)
        .ok_or_else(|| unsupported("Content-Encoding must be one of gzip and zstd, and only one"))
}

/// Media type and charset of a `Content-Type`.
pub(super) fn charset_of(kind: &str) -> Result<(&str, Charset), Refusal> {
    let mut parts = kind.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    let label = parts
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .map_or("utf-8", |(_, value)| value.trim().trim_matches('"'));
    let charset = Charset::named(label);
    let charset =
        charset.ok_or_else(|| unsupported("this charset is not known; gb18030 and utf-8 are"))?;
    Ok((kind, charset))
}

pub(super) fn unsupported(text: &'static str) -> Refusal {
    Refusal::named(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        text,
    )
}

/// Many handles at once: the body has a handle a line (`text/plain`), NDJSON, a JSON array, or CSV with a column `handle`.
///
/// Answers come in the order of the lines, as NDJSON or (with `Accept: text/csv`) CSV, while the body arrives. The last
/// record is a summary with `complete`: an answer that has none was cut. `charset=` and one `Content-Encoding` (gzip,
/// zstd) are understood.
#[utoipa::path(
    post, path = "/api/v1/batch/resolve", tag = "batch", operation_id = "batchResolve",
    params(
        ("index" = Option<Vec<u32>>, Query, minimum = 1, maximum = 2147483647,
            description = "Values of these indexes; a union with `type`"),
        ("type" = Option<Vec<String>>, Query,
            description = "Values of these types; `URL.` means URL and every URL.x"),
        ("publicOnly" = inline(Option<Flag>), Query,
            description = "`false`: restricted values, too; the token needs the right resolve, and its identity must be \
                allowed to read them. Where it is not, the line is refused"),
        ("recursive" = inline(Option<Flag>), Query,
            description = "Handles at home elsewhere are asked there; the node must be recursive, and the token needs the right \
                recursive. Without it such a line has code 301"),
        ("after" = Option<u64>, Query, description = "Answer only what follows this line; to go on after a cut"),
        ("raw" = inline(Option<Flag>), Query,
            description = "CSV exactly; without it cells that a spreadsheet would compute begin with an apostrophe")),
    request_body(content = String, content_type = "text/plain", description = "A handle a line; without a body there are no lines"),
    responses(
        (status = 200, description = "An answer for each line, and a summary", content_type = "application/x-ndjson"),
        (status = 400, description = "A wrong parameter", content_type = "application/problem+json"),
        (status = 401, description = "An API token is needed (without [anonymous] batch)", content_type = "application/problem+json"),
        (status = 403, description = "The token has not the right, or came over plain HTTP",
            content_type = "application/problem+json"),
        (status = 405, description = "Only POST", content_type = "application/problem+json"),
        (status = 415, description = "A media type, charset or coding that is not known",
            content_type = "application/problem+json"),
        (status = 429, description = "Too many batches of this token, or its quota is used up",
            content_type = "application/problem+json"),
        (status = 503, description = "Not now", content_type = "application/problem+json")),
    security(("token" = []))
)]
pub(super) async fn resolve(
    State(app): State<Arc<App>>,
    Extension(from): Extension<From>,
    Extension(ticket): Extension<Arc<Ticket>>,
    request: Request<Body>,
) -> Answer {
    let (head, body) = request.into_parts();
    if let Some(other) = v1::other_method(&head.method, BATCH_METHODS, &from, &head.headers) {
        return other;
    }
    let mut answer = match begin(&app, &from, &head) {
        Ok((by, asked, stream, answer)) => {
            let origin = Origin {
                client: from.address,
                tls: from.tls,
            };
            let flow = Flow {
                app,
                by,
                asked,
                stream,
                origin,
                work: ticket.work(),
            };
            answer.map(|_| flow.start(body))
        }
        Err(refusal) => refusal.of_problem(from.request(), Language::of(&head.headers)),
    };
    // The request itself; its lines are look-ups.
    let (op, outcome) = (Op::Batch, outcome_of(answer.status()));
    answer.extensions_mut().insert(Counted { op, outcome });
    answer
}

/// Everything that can be refused before the body is looked at; the answer without its body.
fn begin(
    app: &App,
    from: &From,
    head: &Parts,
) -> Result<(By, Asked, streams::Stream, Answer), Refusal> {
    let by = by(app, from, &head.headers)?;
    asked::only(head.uri.query(), &[PARAMETERS])?;
    let asked = Asked::read(head.uri.query(), &head.headers)?;
    match &by {
        By::Token(grant) => {
            asked.permitted(app, grant)?;
            let standing = standing(app, from, grant)?;
            if standing.quota.is_some_and(|quota| standing.used >= quota) {
                let wait = standing.renewal.saturating_sub(from.came.unix_seconds);
                let refused = book::Refused::Quota { wait };
                return Err(caller::token_refused(app, refused));
            }
        }
        By::Anybody(_) if asked.rights().next().is_some() => return Err(caller::needed(from)),
        By::Anybody(_) => {}
    }
    let stream = app.streams.enter(&by.name()).ok_or_else(|| {
        let text = "as many batches as may be run already; try again when one has ended";
        Refusal::named(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", text).after(1)
    })?;
    let (kind, coding) = (asked.output.media_type(), asked.output_coding);
    let mut answer = with_type(StatusCode::OK, kind, Body::empty());
    let headers = answer.headers_mut();
    if let Some(name) = coding.name() {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
    }
    headers.insert(
        header::VARY,
        HeaderValue::from_static("Accept, Accept-Encoding"),
    );
    Ok((by, asked, stream, answer))
}

/// Who asks: a token with the right, or anybody where that is allowed.
fn by(app: &App, from: &From, headers: &HeaderMap) -> Result<By, Refusal> {
    if app.config.batch.anonymous && !headers.contains_key(header::AUTHORIZATION) {
        return Ok(By::Anybody(source_of(from.address)));
    }
    let grant = caller::token(app, from, headers)?;
    caller::has(&grant, Right::Batch)?;
    Ok(By::Token(grant))
}

/// What of its quota a token has left today: identifiers asked one by one and in batches alike.
#[utoipa::path(
    get, path = "/api/v1/quota", tag = "batch", operation_id = "quota",
    responses(
        (status = 200, description = "Quota, use and renewal (`quota` and `remaining` are null without a limit); batches that run, \
            and octets of their input on disk",
            content_type = "application/json"),
        (status = 401, description = "An API token is needed", content_type = "application/problem+json"),
        (status = 403, description = "It came over plain HTTP", content_type = "application/problem+json"),
        (status = 405, description = "Only GET", content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", content_type = "application/problem+json"),
        (status = 503, description = "Not now", content_type = "application/problem+json")),
    security(("token" = []))
)]
pub(super) async fn quota(
    State(app): State<Arc<App>>,
    Extension(from): Extension<From>,
    method: Method,
    headers: HeaderMap,
) -> Answer {
    if let Some(other) = v1::other_method(&method, QUOTA_METHODS, &from, &headers) {
        return other;
    }
    let done = || -> Result<Answer, Refusal> {
        let grant = caller::token(&app, &from, &headers)?;
        let standing = standing(&app, &from, &grant)?;
        let (streams, spooled) = app.streams.of(&grant.id);
        let renewal =
            std::time::UNIX_EPOCH + std::time::Duration::from_secs(standing.renewal.into());
        let body = json!({
            "token": grant.id,
            "quota": standing.quota,
            "used": standing.used,
            "remaining": standing.quota.map(|quota| quota.saturating_sub(standing.used)),
            "renewal": humantime::format_rfc3339_seconds(renewal).to_string(),
            "streams": streams,
            "streamsMax": app.config.batch.streams_per_token,
            "spooled": spooled,
            "spoolMax": app.config.batch.spool,
        });
        Ok(json(StatusCode::OK, &body))
    };
    done().unwrap_or_else(|refusal| refusal.of_problem(from.request(), Language::of(&headers)))
}

fn standing(app: &App, from: &From, grant: &Grant) -> Result<book::Standing, Refusal> {
    let standing = app.tokens.standing(&grant.id, from.came.unix_seconds);
    standing.map_err(|refused| caller::token_refused(app, refused))
}
