//! A connection to the primary: one request after the other over HTTP/1.1.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use url::Url;

use super::Primary;
use crate::ask::http::{self, Server};
use crate::store::Position;

/// How long a connection, and the head of an answer, may take beyond what it was told to wait.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a snapshot may be taken by the primary before its first octet comes.
const SNAPSHOT: Duration = Duration::from_secs(600);
/// How long the next piece of a body may take.
const PIECE: Duration = Duration::from_secs(30);
/// How long an answer with entries waits for the next one. So old the figures of a standby with nothing to do are.
pub(super) const WAIT: Duration = Duration::from_millis(500);
/// Octets of entries in an answer: an entry is a group of changes that were synced together, of at most 36 MiB.
const ENTRIES_MAX: usize = 128 << 20;
/// Octets of other answers, and of refusals.
const JSON_MAX: usize = 64 << 10;
/// Octets of a token file.
const TOKEN_MAX: usize = 4 << 10;

/// Why the primary does not give what it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// It cannot be asked as configured.
    Configured(String),
    /// It cannot be reached, or the connection failed.
    Down(String),
    /// It refuses, under a stable name.
    Refused {
        /// The name.
        code: String,
        /// In words.
        text: String,
    },
    /// What was to be written could not be.
    File(String),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured(text) | Self::Down(text) | Self::File(text) => f.write_str(text),
            Self::Refused { code, text } => write!(f, "it refuses ({code}): {text}"),
        }
    }
}

impl LinkError {
    /// Whether it refuses under this name.
    pub(super) fn is(&self, name: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == name)
    }
}

fn down(error: impl fmt::Display) -> LinkError {
    LinkError::Down(error.to_string())
}

/// What the primary is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Standing {
    /// `primary`, `standby` or `superseded`.
    pub role: String,
    /// Where changes are made, when not there.
    #[serde(default)]
    pub primary: Option<String>,
    /// The epoch of its store.
    pub epoch: u64,
    /// Its newest sequence.
    pub sequence: u64,
    /// How handles fold there.
    pub case: String,
    /// The fingerprint of its key.
    pub key: String,
}

/// Entries of its journal.
pub(super) struct Entries {
    pub(super) octets: Bytes,
    /// Its newest sequence then, and when that was.
    pub(super) newest: u64,
    pub(super) at: Instant,
}

/// A file of it.
pub(super) struct Fetched {
    pub(super) epoch: u64,
}

/// A connection.
pub(super) struct Link {
    sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<()>,
    host: String,
    token: String,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Link {
    /// Connects, with the token as it is in its file now.
    pub(super) async fn open(primary: &Primary) -> Result<Self, LinkError> {
        let configured = |error: &dyn fmt::Display| LinkError::Configured(error.to_string());
        let url = Url::parse(&primary.place).map_err(|error| configured(&error))?;
        let token = token(&primary.token_file)?;
        let host = url[url::Position::BeforeHost..url::Position::AfterPort].to_owned();
        let server = Server {
            url,
            token: None,
            authority: primary.authority.clone(),
            zstd: false,
        };
        let stream = http::connect(&server, PATIENCE).await.map_err(down)?;
        let (sender, connection) = timeout(PATIENCE, http1::handshake(TokioIo::new(stream)))
            .await
            .map_err(down)?
            .map_err(down)?;
        let connection = tokio::spawn(async move { drop(connection.await) });
        Ok(Self {
            sender,
            connection,
            host,
            token,
        })
    }

    /// What it is.
    pub(super) async fn standing(&mut self) -> Result<Standing, LinkError> {
        let answer = self.get("/api/v1/replication", PATIENCE).await?;
        read_standing(answer).await
    }

    /// The entries behind a position; none when there were none for a while.
    pub(super) async fn entries(
        &mut self,
        epoch: u64,
        have: Position,
    ) -> Result<Entries, LinkError> {
        let target = format!(
            "/api/v1/replication/journal?epoch={epoch}&after={}&records={}&sum={:016x}&wait={}",
            have.sequence,
            have.count,
            have.sum,
            WAIT.as_millis()
        );
        let answer = self.get(&target, WAIT + PATIENCE).await?;
        let at = Instant::now();
        let newest = number(&answer, "x-jiexi-sequence")?;
        let octets = collect(answer, ENTRIES_MAX).await?;
        Ok(Entries { octets, newest, at })
    }

    /// Writes its newest snapshot, which has everything up to `after`, into a new file.
    pub(super) async fn snapshot(&mut self, after: u64, path: &Path) -> Result<Fetched, LinkError> {
        let target = format!("/api/v1/replication/snapshot?after={after}");
        self.fetch(&target, SNAPSHOT, path).await
    }

    /// Writes the file of a run into a new file.
    pub(super) async fn run(&mut self, sequence: u64, path: &Path) -> Result<Fetched, LinkError> {
        let target = format!("/api/v1/replication/runs/{sequence}");
        self.fetch(&target, PATIENCE, path).await
    }

    /// Tells it that `primary`, of a higher epoch, takes its place; what it is then.
    pub(super) async fn supersede(
        &mut self,
        epoch: u64,
        primary: &str,
    ) -> Result<Standing, LinkError> {
        let body = json!({"epoch": epoch, "primary": primary}).to_string();
        let target = "/api/v1/replication/supersede";
        let answer = self.ask(Method::POST, target, body, PATIENCE).await?;
        read_standing(answer).await
    }

    async fn fetch(
        &mut self,
        target: &str,
        patience: Duration,
        path: &Path,
    ) -> Result<Fetched, LinkError> {
        let answer = self.get(target, patience).await?;
        let fetched = Fetched {
            epoch: number(&answer, "x-jiexi-epoch")?,
        };
        let length = number(&answer, header::CONTENT_LENGTH.as_str())?;
        write(answer.into_body(), length, path).await?;
        Ok(fetched)
    }

    async fn get(
        &mut self,
        target: &str,
        patience: Duration,
    ) -> Result<Response<Incoming>, LinkError> {
        self.ask(Method::GET, target, String::new(), patience).await
    }

    async fn ask(
        &mut self,
        method: Method,
        target: &str,
        body: String,
        patience: Duration,
    ) -> Result<Response<Incoming>, LinkError> {
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, &self.host)
            .header(header::ACCEPT_LANGUAGE, "en")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let configured = |error: hyper::http::Error| LinkError::Configured(error.to_string());
        let request = request.body(Full::new(body.into())).map_err(configured)?;
        let asked = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        let late = |_| down("it does not answer in time");
        let answer = timeout(patience, asked)
            .await
            .map_err(late)?
            .map_err(down)?;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            _ => Err(refusal(answer).await),
        }
    }
}

/// The token in a file.
fn token(path: &Path) -> Result<String, LinkError> {
    let wrong = |what: &dyn fmt::Display| {
        LinkError::Configured(format!("token file {}: {what}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    let token = text.trim();
    let good = !token.is_empty()
        && token.len() <= TOKEN_MAX
        && token.bytes().all(|octet| octet.is_ascii_graphic());
    match good {
        true => Ok(token.to_owned()),
        false => Err(wrong(
            &"has no token; `jiexi token create … --right replicate` makes one",
        )),
    }
}

async fn read_standing(answer: Response<Incoming>) -> Result<Standing, LinkError> {
    let octets = collect(answer, JSON_MAX).await?;
    serde_json::from_slice(&octets)
        .map_err(|_| down("what answers is no jiexi that can be followed"))
}

fn number(answer: &Response<Incoming>, name: &str) -> Result<u64, LinkError> {
    let value = answer.headers().get(name);
    let number = value.and_then(|value| value.to_str().ok()?.parse().ok());
    number.ok_or_else(|| down("what answers is no jiexi that can be followed"))
}

/// All of a body, while it comes.
async fn collect(answer: Response<Incoming>, limit: usize) -> Result<Bytes, LinkError> {
    let mut body = Limited::new(answer.into_body(), limit);
    let mut octets = Vec::new();
    while let Some(frame) = timeout(PIECE, body.frame())
        .await
        .map_err(|_| down("the answer stopped"))?
    {
        if let Ok(data) = frame.map_err(down)?.into_data() {
            octets.extend_from_slice(&data);
        }
    }
    Ok(octets.into())
}

/// Writes a body of a known length into a new file.
async fn write(mut body: Incoming, length: u64, path: &Path) -> Result<(), LinkError> {
    let failed = |error: std::io::Error| LinkError::File(format!("{}: {error}", path.display()));
    let mut options = tokio::fs::OpenOptions::new();
    let file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .await;
    let mut file = tokio::io::BufWriter::with_capacity(1 << 20, file.map_err(failed)?);
    let mut written = 0;
    while let Some(frame) = timeout(PIECE, body.frame())
        .await
        .map_err(|_| down("the answer stopped"))?
    {
        if let Ok(data) = frame.map_err(down)?.into_data() {
            written += data.len() as u64;
            file.write_all(&data).await.map_err(failed)?;
        }
    }
    file.flush().await.map_err(failed)?;
    match written == length {
        true => Ok(()),
        false => Err(down("the answer was cut")),
    }
}

/// What a refusal says.
async fn refusal(answer: Response<Incoming>) -> LinkError {
    let status = answer.status();
    let body = collect(answer, JSON_MAX).await.unwrap_or_default();
    let json: Json = serde_json::from_slice(&body).unwrap_or_default();
    let said = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    let text = [said("title"), said("detail")].join(": ");
    LinkError::Refused {
        code: said("code"),
        text: match text.trim_matches([':', ' ']) {
            "" => status.to_string(),
            text => text.to_owned(),
        },
    }
}
