//! `/api/v1/jobs`: many registrations or questions in one request, carried out by themselves.
//!
//! ```text
//! body → intake (disk) → shelf ─→ work (two threads: read rows; decide, commit with the position, write results)
//!                          │  └─→ questions (a thread: read, look up, write results, commit the position)
//!                          └── asked, paused, ended, forgotten by its owner
//! ```
//!
//! * `mod.rs`: the routes. `record`: a job as it is stored. `shelf`: all jobs, whose they are, whose turn it is.
//! * `intake`: the input. `work`, `decide`, `repeats`: registrations. `questions`: what a batch does, at leisure. `results`:
//!   what became of the rows.
//!
//! A job belongs to the token it came by; to any other it does not exist.

mod decide;
mod intake;
mod questions;
mod record;
mod repeats;
mod results;
mod shelf;
mod work;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use serde_json::json;
use tokio::sync::mpsc::channel;
use tokio::time::timeout;

use self::intake::{Arrived, Intake, Piece, WAITING};
use self::record::{Counts, Job, Questions, State};
pub(super) use self::shelf::Shelf;
use self::shelf::{Entry, Want};
use super::answer::{Answer, Refusal, json};
use super::caller::{self, Caller};
use super::idempotency::{self, Begun, Kept};
use super::language::Language;
use super::openapi::Flag;
use super::outer::{Counted, From, outcome_of};
use super::{App, asked, batch, v1, watch};
use crate::batch::answer::Tally;
use crate::batch::charset::Charset;
use crate::batch::coding::Coding;
use crate::batch::input::Form;
use crate::batch::rows::{self, Place};
use crate::clock;
use crate::metrics::Op;
use crate::registry::Rejection;
use crate::server::accept::Ticket;
use crate::store::{Batch, CommitError, Expect};
use crate::token::book::Refused;
use crate::token::{Grant, Right};

/// What jobs may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Jobs at work at once, of all tokens; of one it is one.
    pub running: usize,
    /// Jobs of one token that are known.
    pub each: usize,
    /// Octets of an input, after decompression.
    pub input: u64,
    /// Octets after decompression for each one before.
    pub ratio: u64,
    /// Octets of inputs and results on disk, for each token.
    pub disk: u64,
    /// How long what has ended, or is paused, is kept.
    pub keep: Duration,
    /// Where they are.
    pub directory: PathBuf,
}

/// What the paths of jobs begin with; where all of them are.
const ROUTE: &str = "/api/v1/jobs/";
const JOBS: &str = "/api/v1/jobs";
/// Rows of a job that is carried out whole or not at all: they are one change.
const ATOMIC_ROWS_MAX: usize = 10_000;
/// Octets of the input of such a job, for the same reason.
const ATOMIC_INPUT_MAX: u64 = 32 << 20;
/// Jobs on a page that does not say how many, and the most.
const PAGE: usize = 100;
const PAGE_MAX: usize = 1_000;
/// How often it is looked whether a job's time has come, and what is too old.
const TEND_INTERVAL: Duration = Duration::from_secs(1);
/// How long an answer waits for a job to stop.
const STOP_TIME: Duration = Duration::from_secs(10);
/// What may be done with all jobs, with one, with its state, with its results.
const ALL_METHODS: &str = "GET, HEAD, POST, OPTIONS";
const ONE_METHODS: &str = "GET, HEAD, DELETE, OPTIONS";
const STATE_METHODS: &str = "POST, OPTIONS";
const RESULTS_METHODS: &str = "GET, HEAD, OPTIONS";
/// How often it is looked whether jobs may begin.
const LOOK: Duration = Duration::from_millis(20);

/// Carries jobs out, for ever.
pub(super) async fn tend(app: Arc<App>) {
    let takes_changes = || app.shared.store.role().takes_changes();
    if takes_changes() {
        let shelf = Arc::clone(&app.jobs);
        let _ = tokio::task::spawn_blocking(move || shelf.load()).await;
    }
    while !app.registry.is_compared() {
        tokio::time::sleep(LOOK).await;
    }
    loop {
        if !takes_changes() {
            // They are the primary's, as are their inputs.
            app.jobs.wait(TEND_INTERVAL).await;
            continue;
        }
        let now = clock::unix_seconds();
        while let Some(claim) = app.jobs.claim(now) {
            let app = Arc::clone(&app);
            tokio::task::spawn_blocking(move || work::run(&app, claim));
        }
        let sweeper = Arc::clone(&app);
        let sweep = move || sweeper.jobs.expire(&sweeper.tokens, now);
        let _ = tokio::task::spawn_blocking(sweep).await;
        app.jobs.wait(TEND_INTERVAL).await;
    }
}

/// What is to be done with the rows of a new job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    /// They are registered.
    #[default]
    Bulk,
    /// They are resolved.
    Resolve,
}

impl Kind {
    fn read(query: Option<&str>) -> Result<Self, Refusal> {
        let mut kind = Self::default();
        for (name, value) in asked::parameters(query) {
            kind = match (name.as_str(), value.as_str()) {
                ("kind", "bulk") => Self::Bulk,
                ("kind", "resolve") => Self::Resolve,
                ("kind", _) => return Err(Refusal::field("kind", "must be bulk or resolve")),
                _ => kind,
            };
        }
        Ok(kind)
    }

    /// What its token must be good for, whatever else it asks.
    const fn right(self) -> Right {
        match self {
            Self::Bulk => Right::Write,
            Self::Resolve => Right::Batch,
        }
    }
}

/// Parameters of a new job.
const PARAMETERS: &[&str] = &["kind", "dryRun", "atomic", "paused"];

/// What a new job asks for.
#[derive(Clone, Debug)]
struct Asked {
    form: Form,
    charset: Charset,
    coding: Coding,
    dry: bool,
    atomic: bool,
    paused: bool,
    /// The line before its first.
    after: u64,
    /// What is asked, when its rows are no registrations.
    questions: Option<Questions>,
}

impl Asked {
    fn read(
        app: &App,
        kind: Kind,
        grant: &Grant,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Self, Refusal> {
        let mut asked = match kind {
            Kind::Bulk => {
                asked::only(query, &[PARAMETERS])?;
                Self::registrations(headers)?
            }
            Kind::Resolve => {
                asked::only(query, &[PARAMETERS, batch::PARAMETERS])?;
                Self::questions(app, grant, query, headers)?
            }
        };
        for (name, value) in asked::parameters(query) {
            match name.as_str() {
                "dryRun" => asked.dry = asked::flag(&name, &value)?,
                "atomic" => asked.atomic = asked::flag(&name, &value)?,
                "paused" => asked.paused = asked::flag(&name, &value)?,
                _ => {}
            }
        }
        if asked.questions.is_some() && (asked.dry || asked.atomic) {
            let name = if asked.dry { "dryRun" } else { "atomic" };
            return Err(Refusal::field(name, "is for registrations only"));
        }
        Ok(asked)
    }

    fn registrations(headers: &HeaderMap) -> Result<Self, Refusal> {
        let kind = headers.get(header::CONTENT_TYPE);
        let kind = kind.map_or("", |value| value.to_str().unwrap_or("?"));
        let (kind, charset) = batch::charset_of(kind)?;
        let form = rows::Form::of_type(kind).ok_or_else(|| {
            batch::unsupported("Content-Type must be application/x-ndjson or text/csv")
        })?;
        Ok(Self {
            form: form.as_questions(),
            charset,
            coding: batch::coding_of(headers)?,
            dry: false,
            atomic: false,
            paused: false,
            after: 0,
            questions: None,
        })
    }

    /// As a batch is asked.
    fn questions(
        app: &App,
        grant: &Grant,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Self, Refusal> {
        let batch = batch::Asked::read(query, headers)?;
        batch.permitted(app, grant)?;
        Ok(Self {
            form: batch.form,
            charset: batch.charset,
            coding: batch.coding,
            dry: false,
            atomic: false,
            paused: false,
            after: batch.after,
            questions: Some(Questions {
                output: batch.output,
                raw: batch.raw,
                filter: batch.filter,
                restricted: batch.restricted,
                recursive: batch.recursive,
                elsewhere: 0,
                seen: None,
                tally: Tally::default(),
            }),
        })
    }
}

/// The token of a request, with a right that jobs are made with.
fn owner(app: &App, from: &From, headers: &HeaderMap) -> Result<Grant, Refusal> {
    let grant = caller::token(app, from, headers)?;
    if !grant.may(Right::Batch) {
        caller::has(&grant, Right::Write)?;
    }
    let role = app.shared.store.role();
    match role.takes_changes() {
        true => Ok(grant),
        false => Err(Rejection::of_store(&CommitError::Elsewhere(role)).into()),
    }
}

/// `GET` and `POST /api/v1/jobs`.
pub(super) async fn all(
    Shared(app): Shared<Arc<App>>,
    Extension(from): Extension<From>,
    Extension(ticket): Extension<Arc<Ticket>>,
    request: Request<Body>,
) -> Answer {
    let (head, body) = request.into_parts();
    if let Some(other) = v1::other_method(&head.method, ALL_METHODS, &from, &head.headers) {
        return other;
    }
    if head.method == Method::POST {
        // The connection works as long as the input arrives.
        let _work = ticket.work();
        return create(app, from, head, body).await;
    }
    let done = list(&app, &from, &head);
    done.unwrap_or_else(|refusal| refusal.of_problem(from.request(), Language::of(&head.headers)))
}

/// Hands many registrations or questions over, to be carried out in the background.
///
/// For registrations the body is NDJSON, a handle a line as `PUT` takes it (`{"handle":…,"values":[…]}`), or CSV with the
/// columns `handle,index,type,ttl,permissions,encoding,value` and the rows of a handle adjacent; or what a batch has answered,
/// in either form: lines without a record fail alone, and its summary is no line. Handles are created; one
/// that exists is told as `same` (with equal values) or `conflict`, and stays. A row that is wrong fails alone.
/// With `kind=resolve` body, parameters and `Accept` are those of `POST /api/v1/batch/resolve`, and its answers are the
/// results; when the quota is used up the job waits for its renewal.
/// `charset=` and one `Content-Encoding` (gzip, zstd) are understood.
#[utoipa::path(
    post, path = "/api/v1/jobs", tag = "jobs", operation_id = "createJob",
    params(
        ("kind" = Option<String>, Query, pattern = "^(bulk|resolve)$",
            description = "`bulk`, which is the default: registrations; `resolve`: questions"),
        ("dryRun" = inline(Option<Flag>), Query,
            description = "Only find out what would become of the rows. A handle that comes twice is told as it would be, if \
                it first comes among the first 900,000 that would be created"),
        ("atomic" = inline(Option<Flag>), Query,
            description = "All rows or none, as one change; up to 10,000 rows and 32 MiB"),
        ("paused" = inline(Option<Flag>), Query, description = "Do not begin before it is resumed"),
        ("index" = Option<Vec<u32>>, Query, minimum = 1, maximum = 2147483647,
            description = "Of questions: values of these indexes; a union with `type`"),
        ("type" = Option<Vec<String>>, Query,
            description = "Of questions: values of these types; `URL.` means URL and every URL.x"),
        ("publicOnly" = inline(Option<Flag>), Query,
            description = "Of questions, `false`: restricted values, too; the token needs the right resolve"),
        ("recursive" = inline(Option<Flag>), Query,
            description = "Of questions: handles at home elsewhere are asked there; the node must be recursive, and the token needs \
                the right recursive"),
        ("after" = Option<u64>, Query, description = "Of questions: answer only what follows this line"),
        ("raw" = inline(Option<Flag>), Query,
            description = "Of questions, CSV exactly; without it cells that a spreadsheet would compute begin with an apostrophe"),
        ("Idempotency-Key" = Option<String>, Header, max_length = 255, pattern = "^[\\x21-\\x7E]*$",
            description = "The same key with the same body makes one job")),
    request_body(content = String, content_type = "text/csv",
        description = "Registrations in CSV or NDJSON (`application/x-ndjson`); questions also a handle a line (`text/plain`) or as \
            a JSON array"),
    responses(
        (status = 200, description = "The job that was made before with this key", content_type = "application/json"),
        (status = 202, description = "The job; `Location` is where to ask for it", content_type = "application/json"),
        (status = 400, description = "A wrong parameter, or columns that are not known",
            content_type = "application/problem+json"),
        (status = 401, description = "An API token is needed", content_type = "application/problem+json"),
        (status = 403, description = "The token has not the right write (for questions batch), or came over plain HTTP",
            content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", content_type = "application/problem+json"),
        (status = 409, description = "The same key is at work", content_type = "application/problem+json"),
        (status = 413, description = "The body is too large, or the token's share of the disk is used up",
            content_type = "application/problem+json"),
        (status = 415, description = "A media type, charset or coding that is not known",
            content_type = "application/problem+json"),
        (status = 422, description = "The idempotency key was used for another content",
            content_type = "application/problem+json"),
        (status = 421, description = "This node is a standby: changes are made at the primary",
            content_type = "application/problem+json"),
        (status = 429, description = "Too many jobs or uploads of this token, or too many requests",
            content_type = "application/problem+json"),
        (status = 503, description = "Not now", content_type = "application/problem+json")),
    security(("token" = []))
)]
pub(super) async fn create(app: Arc<App>, from: From, head: Parts, body: Body) -> Answer {
    let language = Language::of(&head.headers);
    let taken = take(&app, &from, &head, body).await;
    let mut answer = taken.unwrap_or_else(|refusal| refusal.of_problem(from.request(), language));
    let (op, outcome) = (Op::Batch, outcome_of(answer.status()));
    answer.extensions_mut().insert(Counted { op, outcome });
    answer
}

async fn take(app: &Arc<App>, from: &From, head: &Parts, body: Body) -> Result<Answer, Refusal> {
    let grant = caller::token(app, from, &head.headers)?;
    let kind = Kind::read(head.uri.query())?;
    caller::has(&grant, kind.right())?;
    let asked = Asked::read(app, kind, &grant, head.uri.query(), &head.headers)?;
    let id = new_id(from.came.unix_seconds)?;
    let _stream = app.streams.enter(&grant.id).ok_or_else(|| {
        let text =
            "as many batches and uploads as may be run already; try again when one has ended";
        Refusal::named(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", text).after(1)
    })?;
    let reserve = app.shared.store.stats().reserve_bytes;
    let upload = app.jobs.begin(&grant.id, &id)?;
    let intake = Intake::new(upload, &asked, &app.jobs.limits, reserve)?;
    let (send, pieces) = channel::<Piece>(WAITING);
    let arriving = tokio::task::spawn_blocking(move || intake.run(pieces));
    let pumped = tokio::select! {
        pumped = intake::pump(body, send, app.config.read) => pumped,
        () = watch::token_ends(app, &grant.id, kind.right()) => {
            Err(caller::token_refused(app, Refused::Ended))
        }
    };
    let arrived = arriving
        .await
        .unwrap_or_else(|_| Err(Rejection::busy("please try again").into()));
    pumped?;
    let arrived = arrived?.ok_or_else(|| Refusal::field("", "the body ended early"))?;
    keep(app, from, head, &grant, &asked, id, arrived).await
}

/// Stores a job whose input is on the disk.
async fn keep(
    app: &Arc<App>,
    from: &From,
    head: &Parts,
    grant: &Grant,
    asked: &Asked,
    id: String,
    arrived: Arrived,
) -> Result<Answer, Refusal> {
    let now = clock::unix_seconds();
    let job = Job {
        id,
        token: grant.id.clone(),
        source: from.address,
        tls: from.tls,
        form: asked.form,
        dry: asked.dry,
        atomic: asked.atomic,
        questions: asked.questions.clone(),
        input: arrived.octets,
        state: match asked.paused {
            true => State::Paused,
            false => State::Active,
        },
        reason: None,
        position: Place {
            line: asked.after.saturating_add(1),
            ..Place::default()
        },
        counts: Counts::default(),
        results: 0,
        created: now,
        started: None,
        ended: None,
        touched: now,
    };
    let caller = Caller {
        who: None,
        grant: Some(grant.clone()),
    };
    let begun = match idempotency::begin(app, &caller, head, JOBS, &arrived.digest, from.came)? {
        // What has arrived again is thrown away.
        Begun::Done(kept) => return Ok(kept.answer()),
        Begun::New(begun) => begun,
    };
    let place = format!("{ROUTE}{}", job.id);
    let body = job.json(false, None, app.jobs.limits.keep);
    let kept = Kept::new(StatusCode::OK, &body);
    let mut changes = vec![job.change(Expect::Absent)];
    changes.extend(begun.iter().map(|begun| begun.change(&kept, now)));
    let batch = Batch {
        changes,
        ..Batch::default()
    };
    let store = Arc::clone(&app.shared.store);
    let kept = tokio::task::spawn_blocking(move || {
        let committed = store.commit(batch)?;
        Ok(arrived.upload.keep(job, committed.sequence))
    });
    let kept = kept.await.unwrap_or(Err(CommitError::Closed));
    kept.map_err(|error| Refusal::from(Rejection::of_store(&error)))?;
    let mut answer = json(StatusCode::ACCEPTED, &body);
    if let Ok(place) = HeaderValue::from_str(&place) {
        answer.headers_mut().insert(header::LOCATION, place);
    }
    Ok(answer)
}

/// A name that nobody has; in the order of time.
fn new_id(now: u32) -> Result<String, Refusal> {
    let random = getrandom::u32().map_err(|_| Refusal::from(Rejection::busy("no randomness")))?;
    Ok(format!("{now:08x}{random:08x}"))
}

/// The jobs of the token, newest first.
#[utoipa::path(
    get, path = "/api/v1/jobs", tag = "jobs", operation_id = "listJobs",
    params(
        ("after" = Option<String>, Query, description = "Begin behind this job"),
        ("limit" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "100 by default")),
    responses(
        (status = 200, description = "`jobs`, and `next` when there are more", content_type = "application/json"),
        (status = 400, description = "A wrong parameter", content_type = "application/problem+json"),
        (status = 401, description = "An API token is needed", content_type = "application/problem+json"),
        (status = 403, description = "The token has neither of the rights write and batch, or came over plain HTTP",
            content_type = "application/problem+json"),
        (status = 405, description = "Another method", content_type = "application/problem+json"),
        (status = 421, description = "This node is a standby: changes are made at the primary",
            content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", content_type = "application/problem+json"),
        (status = 503, description = "Not now", content_type = "application/problem+json")),
    security(("token" = []))
)]
pub(super) fn list(app: &App, from: &From, head: &Parts) -> Result<Answer, Refusal> {
    let grant = owner(app, from, &head.headers)?;
    let (mut after, mut limit) = (None, PAGE);
    for (name, value) in asked::parameters(head.uri.query()) {
        match name.as_str() {
            "after" => after = Some(value),
            "limit" => {
                let number = value.parse().ok();
                let number = number.filter(|number| (1..=PAGE_MAX).contains(number));
                let text = format!("must be a number from 1 to {PAGE_MAX}");
                limit = number.ok_or_else(|| Refusal::field("limit", text))?;
            }
            _ => {}
        }
    }
    let (jobs, more) = app.jobs.list(&grant.id, after.as_deref(), limit)?;
    let last = jobs.last().map(|job| job["id"].clone());
    let mut body = json!({
        "jobs": jobs,
        "diskUsed": app.jobs.used(&grant.id),
        "diskMax": app.jobs.limits.disk,
    });
    if let (true, Some(last)) = (more, last) {
        body["next"] = last;
    }
    Ok(json(StatusCode::OK, &body))
}

/// Everything about one job that needs no body: who asks, which job, then `work`.
async fn about<W, F>(
    app: Arc<App>,
    from: From,
    head: Parts,
    methods: &'static str,
    work: W,
) -> Answer
where
    W: FnOnce(Arc<App>, Arc<Entry>, Parts) -> F,
    F: Future<Output = Result<Answer, Refusal>>,
{
    if let Some(other) = v1::other_method(&head.method, methods, &from, &head.headers) {
        return other;
    }
    let language = Language::of(&head.headers);
    let named = head.uri.path().strip_prefix(ROUTE).unwrap_or_default();
    let id = named.split('/').next().unwrap_or_default();
    let found = owner(&app, &from, &head.headers).and_then(|grant| app.jobs.find(&grant.id, id));
    let done = match found {
        Ok(entry) => work(Arc::clone(&app), entry, head).await,
        Err(refusal) => Err(refusal),
    };
    done.unwrap_or_else(|refusal| refusal.of_problem(from.request(), language))
}

/// `GET` and `DELETE /api/v1/jobs/{id}`.
pub(super) async fn one(
    Shared(app): Shared<Arc<App>>,
    Extension(from): Extension<From>,
    request: Request<Body>,
) -> Answer {
    let head = request.into_parts().0;
    match head.method == Method::DELETE {
        true => about(app, from, head, ONE_METHODS, delete).await,
        false => about(app, from, head, ONE_METHODS, look).await,
    }
}

/// How a job is.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}", tag = "jobs", operation_id = "getJob",
    params(("id" = String, Path, pattern = "^[0-9a-f]{16}$", description = "The job")),
    responses(
        (status = 200, description = "State (`queued`, `running`, `waiting`, `paused`, `done`, `failed`, `cancelled`), \
            position, and what became of how many rows", content_type = "application/json"),
        (status = 401, description = "An API token is needed", content_type = "application/problem+json"),
        (status = 403, description = "The token has neither of the rights write and batch, or came over plain HTTP",
            content_type = "application/problem+json"),
        (status = 404, description = "The token has no such job", content_type = "application/problem+json"),
        (status = 405, description = "Another method", content_type = "application/problem+json"),
        (status = 421, description = "This node is a standby: changes are made at the primary",
            content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", content_type = "application/problem+json"),
        (status = 503, description = "Not now", content_type = "application/problem+json")),
    security(("token" = []))
)]
pub(super) async fn look(app: Arc<App>, entry: Arc<Entry>, _: Parts) -> Result<Answer, Refusal> {
    Ok(json(StatusCode::OK, &app.jobs.shown(&entry)))
}

/// Forgets a job that has ended or is paused, with its results.
#[utoipa::path(
    delete, path = "/api/v1/jobs/{id}", tag = "jobs", operation_id = "deleteJob",
    params(("id" = String, Path, pattern = "^[0-9a-f]{16}$", description = "The job")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 401, description = "An API token is needed", content_type = "application/problem+json"),
        (status = 403, description = "The token has neither of the rights write and batch, or came over plain HTTP",
            content_type = "application/problem+json"),
        (status = 404, description = "The token has no such job", content_type = "application/problem+json"),
        (status = 409, description = "It has not ended: cancel it first", content_type = "application/problem+json"),
        (status = 421, description = "This node is a standby: changes are made at the primary",
            content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", content_type = "application/problem+json"),
        (status = 503, description = "Not now", content_type = "application/problem+json")),
    security(("token" = []))
)]
pub(super) async fn delete(app: Arc<App>, entry: Arc<Entry>, _: Parts) -> Result<Answer, Refusal> {
    let shelf = Arc::clone(&app.jobs);
    blocking(move || shelf.delete(&entry)).await?;
    let mut answer = Answer::new(Body::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    Ok(answer)
}

/// Waits for the disk elsewhere.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Rejection::busy("please try again").into()))
}

/// Says what is wanted of a job, and waits a while until it is so: 200, or 202 when it still works.
async fn steer(app: Arc<App>, entry: Arc<Entry>, want: Want) -> Result<Answer, Refusal> {
    let mut changed = entry.watch();
    let (shelf, asked) = (Arc::clone(&app.jobs), Arc::clone(&entry));
    let told = blocking(move || shelf.ask(&asked, want, |job| steered(job, want))).await?;
    let mut status = StatusCode::OK;
    if !told {
        let stopped = async { while entry.is_running() && changed.changed().await.is_ok() {} };
        if timeout(STOP_TIME, stopped).await.is_err() {
            status = StatusCode::ACCEPTED;
        }
        let state = entry.job().state;
        let as_wanted = match want {
            Want::Cancel => state == State::Cancelled,
            Want::Pause | Want::Work => true,
        };
        // It has ended by itself meanwhile.
        if status == StatusCode::OK && state.has_ended() && (want == Want::Pause || !as_wanted) {
            return Err(ended());
        }
    }
    Ok(json(status, &app.jobs.shown(&entry)))
}

/// The state that is wanted; whether it is another one.
fn steered(job: &mut Job, want: Want) -> Result<bool, Refusal> {
    let wanted = match want {
        Want::Work => State::Active,
        Want::Pause => State::Paused,
        Want::Cancel => State::Cancelled,
    };
    if job.state == wanted {
        return Ok(false);
    }
    if job.state.has_ended() {
        return Err(ended());
    }
    job.turn(wanted, None, clock::unix_seconds());
    Ok(true)
}

pub(super) fn ended() -> Refusal {
    Refusal::named(StatusCode::CONFLICT, "job_ended", "")
}

/// Stops a job for a while. What is durable stays; it goes on behind it.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/pause", tag = "jobs", operation_id = "pauseJob",
    params(("id" = String, Path, pattern = "^[0-9a-f]{16}$", description = "The job")),
    responses(
        (status = 200, description = "It is paused", content_type = "application/json"),
        (status = 202, description = "It will be, when the rows at work are durable", content_type = "application/json"),
        (status = 401, description = "An API token is needed", content_type = "application/problem+json"),
        (status = 403, description = "The token has neither of the rights write and batch, or came over plain HTTP",
            content_type = "application/problem+json"),
        (status = 404, description = "The token has no such job", content_type = "application/problem+json"),
        (status = 409, description = "It has ended", content_type = "application/problem+json"),
        (status = 421, description = "This node is a standby: changes are made at the primary",
            content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", content_type = "application/problem+json"),
        (status = 503, description = "Not now", content_type = "application/problem+json")),
    security(("token" = []))
)]
pub(super) async fn pause(
    Shared(app): Shared<Arc<App>>,
    Extension(from): Extension<From>,
    request: Request<Body>,
) -> Answer {
    let head = request.into_parts().0;
    let work = |app, entry, _| steer(app, entry, Want::Pause);
    about(app, from, head, STATE_METHODS, work).await
}

/// Lets a paused job go on.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/resume", tag = "jobs", operation_id = "resumeJob",
    params(("id" = String, Path, pattern = "^[0-9a-f]{16}$", description = "The job")),
    responses(
        (status = 200, description = "Its turn will come", content_type = "application/json"),
        (status = 401, description = "An API token is needed", content_type = "application/problem+json"),
        (status = 403, description = "The token has neither of the rights write and batch, or came over plain HTTP",
            content_type = "application/problem+json"),
        (status = 404, description = "The token has no such job", content_type = "application/problem+json"),
        (status = 409, description = "It has ended", content_type = "application/problem+json"),
        (status = 421, description = "This node is a standby: changes are made at the primary",
            content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", content_type = "application/problem+json"),
        (status = 503, description = "Not now", content_type = "application/problem+json")),
    security(("token" = []))
)]
pub(super) async fn resume(
    Shared(app): Shared<Arc<App>>,
    Extension(from): Extension<From>,
    request: Request<Body>,
) -> Answer {
    let head = request.into_parts().0;
    let work = |app, entry, _| steer(app, entry, Want::Work);
    about(app, from, head, STATE_METHODS, work).await
}

/// Ends a job. What is durable stays; its results tell what that is.
#[utoipa::path(
    post, path = "/api/v1/jobs/{id}/cancel", tag = "jobs", operation_id = "cancelJob",
    params(("id" = String, Path, pattern = "^[0-9a-f]{16}$", description = "The job")),
    responses(
        (status = 200, description = "It is cancelled", content_type = "application/json"),
        (status = 202, description = "It will be, when the rows at work are durable", content_type = "application/json"),
        (status = 401, description = "An API token is needed", content_type = "application/problem+json"),
        (status = 403, description = "The token has neither of the rights write and batch, or came over plain HTTP",
            content_type = "application/problem+json"),
        (status = 404, description = "The token has no such job", content_type = "application/problem+json"),
        (status = 409, description = "It has ended", content_type = "application/problem+json"),
        (status = 421, description = "This node is a standby: changes are made at the primary",
            content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", content_type = "application/problem+json"),
        (status = 503, description = "Not now", content_type = "application/problem+json")),
    security(("token" = []))
)]
pub(super) async fn cancel(
    Shared(app): Shared<Arc<App>>,
    Extension(from): Extension<From>,
    request: Request<Body>,
) -> Answer {
    let head = request.into_parts().0;
    let work = |app, entry, _| steer(app, entry, Want::Cancel);
    about(app, from, head, STATE_METHODS, work).await
}

/// What became of the rows: a JSON object a line, in the order of the rows; of questions the answers of a batch.
///
/// Of registrations `line`, `handle`, `result` (`created`, `same`, `conflict`, `refused`, `invalid`, `not_applied`), `responseCode`, and
/// `code` and `message` where something is wrong. While the job works, the rows that are durable are there; `Range:
/// bytes=N-` goes on behind what was read. The answers of a batch end with its summary when the job is done.
#[utoipa::path(
    get, path = "/api/v1/jobs/{id}/results", tag = "jobs", operation_id = "getJobResults",
    params(("id" = String, Path, pattern = "^[0-9a-f]{16}$", description = "The job")),
    responses(
        (status = 200, description = "The results", content_type = "application/x-ndjson"),
        (status = 206, description = "The part that `Range` names", content_type = "application/x-ndjson"),
        (status = 401, description = "An API token is needed", content_type = "application/problem+json"),
        (status = 403, description = "The token has neither of the rights write and batch, or came over plain HTTP",
            content_type = "application/problem+json"),
        (status = 404, description = "The token has no such job", content_type = "application/problem+json"),
        (status = 416, description = "No results there yet", content_type = "application/problem+json"),
        (status = 421, description = "This node is a standby: changes are made at the primary",
            content_type = "application/problem+json"),
        (status = 429, description = "Too many requests", content_type = "application/problem+json"),
        (status = 503, description = "Not now", content_type = "application/problem+json")),
    security(("token" = []))
)]
pub(super) async fn results(
    Shared(app): Shared<Arc<App>>,
    Extension(from): Extension<From>,
    Extension(ticket): Extension<Arc<Ticket>>,
    request: Request<Body>,
) -> Answer {
    let head = request.into_parts().0;
    let work = |app, entry: Arc<Entry>, head: Parts| async move {
        results::answer(app, &entry, &head.headers, ticket.work()).await
    };
    about(app, from, head, RESULTS_METHODS, work).await
}
