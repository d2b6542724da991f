//! Registrations and questions handed to another node as a job, and what becomes of them: `/api/v1/jobs`.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::http::request::Builder;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;

use super::http::{Sending, Server, asking, connect, failed, refused, silence};
use super::{AskError, Plan};
use crate::batch::rows::Form;

/// Octets of an answer about jobs that are read.
const ANSWER_MAX: usize = 4 << 20;
/// Where jobs are.
const PATH: &str = "/api/v1/jobs";

/// What is handed over.
#[derive(Clone, Debug)]
pub struct Upload {
    /// The form of the input.
    pub form: Form,
    /// Its charset, as a label.
    pub charset: String,
    /// Whether nothing is to be changed.
    pub dry: bool,
    /// Whether all rows are to be carried out or none.
    pub atomic: bool,
    /// Whether it is to wait for being resumed.
    pub paused: bool,
    /// The same key makes one job, however often it is handed over.
    pub key: Option<String>,
}

/// The jobs of a token on a node, and what else is asked there.
#[derive(Clone, Debug)]
pub struct Desk {
    /// The node.
    pub server: Server,
    /// How long it may neither take nor say anything.
    pub patience: Duration,
}

impl Desk {
    /// Hands registrations over; `watch` hears how many octets have gone. The job.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn hand_over(
        &self,
        upload: &Upload,
        input: Box<dyn Read + Send>,
        watch: Arc<AtomicU64>,
    ) -> Result<Json, AskError> {
        let mut path = format!("{PATH}?kind=bulk");
        for (name, wanted) in [
            ("dryRun", upload.dry),
            ("atomic", upload.atomic),
            ("paused", upload.paused),
        ] {
            if wanted {
                path += &format!("&{name}=true");
            }
        }
        let kind = format!("{}; charset={}", upload.form.media_type(), upload.charset);
        let mut request = self.request(Method::POST, &path);
        request = request.header(header::CONTENT_TYPE, kind);
        if let Some(key) = &upload.key {
            request = request.header("Idempotency-Key", key);
        }
        self.send(request, input, watch).await
    }

    /// Hands questions over, as they would be asked at once; `watch` hears how many octets have gone. The job.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn submit(
        &self,
        plan: &Plan,
        key: Option<&str>,
        watch: Arc<AtomicU64>,
    ) -> Result<Json, AskError> {
        let input = plan.open().map_err(AskError::Input)?;
        let path = format!("{PATH}?{}", asking(plan, &[("kind", "resolve")]));
        let kind = format!("{}; charset={}", plan.form.media_type(), plan.charset);
        let mut request = self.request(Method::POST, &path);
        request = request
            .header(header::CONTENT_TYPE, kind)
            .header(header::ACCEPT, plan.output.media_type());
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        self.send(request, input, watch).await
    }

    /// Sends an input as the body of a request.
    async fn send(
        &self,
        request: Builder,
        input: Box<dyn Read + Send>,
        watch: Arc<AtomicU64>,
    ) -> Result<Json, AskError> {
        let counted = Box::new(Counted {
            input,
            octets: watch,
        });
        let moved = Arc::new(AtomicU64::new(0));
        let (body, reader) = Sending::new(counted, &moved);
        let answered = self.exchange(request, body, &moved, json).await;
        match (answered, reader.is_finished().then(|| reader.join())) {
            (_, Some(Ok(Err(error)))) => Err(AskError::Input(error)),
            (answered, _) => answered,
        }
    }

    /// Asks about a job, or changes its state: what follows the path of jobs, such as `/ID/pause`.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn call(&self, method: Method, rest: &str) -> Result<Json, AskError> {
        let request = self.request(method, &format!("{PATH}{rest}"));
        let moved = AtomicU64::new(0);
        self.exchange(request, Empty::<Bytes>::new(), &moved, json)
            .await
    }

    /// The results of a job from an octet on, whose beginning has been fetched before: `known`.
    ///
    /// # Errors
    /// [`AskError::Differs`], before anything is written, when they begin otherwise. See there for others.
    pub async fn results(
        &self,
        id: &str,
        from: u64,
        known: &[u8],
        out: &mut (dyn Write + Send),
    ) -> Result<(), AskError> {
        let mut request = self.request(Method::GET, &format!("{PATH}/{id}/results"));
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let moved = AtomicU64::new(0);
        let moving = &moved;
        self.exchange(request, Empty::<Bytes>::new(), &moved, |response| {
            copy(response, from > 0, known, out, moving)
        })
        .await
    }

    pub(super) fn request(&self, method: Method, path: &str) -> Builder {
        let url = &self.server.url;
        let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::ACCEPT_LANGUAGE, "en");
        match &self.server.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    /// One request on a connection of its own.
    pub(super) async fn exchange<B, T, F>(
        &self,
        request: Builder,
        body: B,
        moved: &AtomicU64,
        read: impl FnOnce(Response<Incoming>) -> F,
    ) -> Result<T, AskError>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        F: Future<Output = Result<T, AskError>>,
    {
        let request = request.body(body);
        let request = request.map_err(|error| AskError::Server(error.to_string()))?;
        let stream = connect(&self.server, self.patience).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        let connection = tokio::spawn(connection);
        let asked = async {
            let response = sender.send_request(request).await.map_err(failed)?;
            moved.fetch_add(1, Relaxed);
            read(response).await
        };
        let done = tokio::select! {
            done = asked => done,
            () = silence(self.patience, moved) => Err(failed("it neither takes nor says anything")),
        };
        connection.abort();
        done
    }
}

/// The answer, when it is a good one.
async fn json(response: Response<Incoming>) -> Result<Json, AskError> {
    if !response.status().is_success() {
        return Err(refused(response).await);
    }
    let body = Limited::new(response.into_body(), ANSWER_MAX);
    let octets = body.collect().await.map_err(failed)?.to_bytes();
    if octets.is_empty() {
        return Ok(Json::Null);
    }
    serde_json::from_slice(&octets).map_err(|_| failed("its answer is no JSON"))
}

/// Copies results behind those that are known.
async fn copy(
    response: Response<Incoming>,
    going_on: bool,
    mut known: &[u8],
    out: &mut (dyn Write + Send),
    moved: &AtomicU64,
) -> Result<(), AskError> {
    match (response.status(), going_on) {
        (StatusCode::OK, false) | (StatusCode::PARTIAL_CONTENT, true) => {}
        (StatusCode::RANGE_NOT_SATISFIABLE, true) => return Err(LONGER),
        (StatusCode::OK, true) => {
            return Err(failed("it sends everything where a part was asked for"));
        }
        _ => return Err(refused(response).await),
    }
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        moved.fetch_add(1, Relaxed);
        if let Ok(data) = frame.map_err(|_| AskError::Cut)?.into_data() {
            let (again, new) = data.split_at(data.len().min(known.len()));
            known = known.strip_prefix(again).ok_or(OTHERS)?;
            out.write_all(new).map_err(AskError::Output)?;
        }
    }
    match known.is_empty() {
        true => out.flush().map_err(AskError::Output),
        false => Err(LONGER),
    }
}

const OTHERS: AskError = AskError::Differs("it is not the beginning of these results");
const LONGER: AskError = AskError::Differs("it is longer than these results");

/// Counts what is read.
struct Counted {
    input: Box<dyn Read + Send>,
    octets: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.octets.fetch_add(count as u64, Relaxed);
        Ok(count)
    }
}
