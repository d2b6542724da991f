//! HTTP for the client of S3, over the connections and the TLS that everything else here uses.

use std::{
    error::Error as StdError,
    fmt, io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use http_body_util::{BodyExt as _, Limited};
use hyper::{
    Method,
    client::conn::http1::{self, SendRequest},
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
        HttpResponse, HttpService,
    },
};
use tokio::time::timeout;
use url::Url;

use crate::ask::{
    AskError,
    http::{self, Server},
};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Connections that wait for another request.
const IDLE_MAX: usize = 8;
/// Octets of an answer: a range of an object, or a page of a listing.
const ANSWER_MAX: usize = 64 << 20;

/// Makes [`Link`]s.
#[derive(Debug)]
pub(super) struct Connector {
    /// Certificates in PEM that are believed beside those of the machine.
    pub(super) authority: Option<PathBuf>,
    /// How long one request may take.
    pub(super) request: Duration,
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Link {
            authority: self.authority.clone(),
            request: self.request,
            idle: Mutex::default(),
        }))
    }
}

/// Connections to the store.
struct Link {
    authority: Option<PathBuf>,
    request: Duration,
    idle: Mutex<Vec<SendRequest<HttpRequestBody>>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

/// That no answer came, and why.
#[derive(Clone, Debug)]
pub(super) enum Silent {
    /// There was none.
    Down(String),
    /// It was not asked: its certificate is not believed.
    Stranger(String),
}

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Down(why) | Self::Stranger(why)) = self;
        f.write_str(why)
    }
}

impl StdError for Silent {}

/// Why no answer came, if that is what an error is about.
pub(super) fn silence(error: &object_store::Error) -> Option<Silent> {
    let mut source: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(silent) = error.downcast_ref::<Silent>() {
            return Some(silent.clone());
        }
        source = error.source();
    }
    None
}

fn silent(kind: HttpErrorKind, error: impl fmt::Display) -> HttpError {
    HttpError::new(kind, Silent::Down(error.to_string()))
}

impl Link {
    /// A connection that is open already, else a new one.
    async fn sender(&self, url: Url) -> Result<SendRequest<HttpRequestBody>, HttpError> {
        loop {
            let idle = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            let Some(mut sender) = idle else { break };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let server = Server {
            url,
            token: None,
            authority: self.authority.clone(),
            zstd: false,
        };
        let stream = http::connect(&server, CONNECT).await.map_err(|error| {
            let text = match error {
                AskError::Connection(text) | AskError::Server(text) => text,
                _ => "no connection".to_owned(),
            };
            // A certificate that is not believed is not believed the next time either.
            match text.contains("certificate") {
                true => HttpError::new(HttpErrorKind::Unknown, Silent::Stranger(text)),
                false => silent(HttpErrorKind::Connect, text),
            }
        })?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| silent(HttpErrorKind::Connect, error))?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    async fn exchange(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let wrong = |error: &dyn fmt::Display| {
            HttpError::new(HttpErrorKind::Unknown, io::Error::other(error.to_string()))
        };
        let url = Url::parse(&request.uri().to_string()).map_err(|error| wrong(&error))?;
        let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
        let host = HeaderValue::from_str(host).map_err(|error| wrong(&error))?;
        request.headers_mut().entry(HOST).or_insert(host);
        // What may have come and been done; removing again is no harm, though the client would not try.
        let lost = match *request.method() {
            Method::DELETE => HttpErrorKind::Request,
            _ => HttpErrorKind::Interrupted,
        };
        let target = request.uri().path_and_query().cloned();
        *request.uri_mut() = target.map_or_else(Default::default, Into::into);
        let mut sender = self.sender(url).await?;
        let response =
            sender
                .send_request(request)
                .await
                .map_err(|error| match error.is_canceled() {
                    true => silent(HttpErrorKind::Request, told(&error)),
                    false => silent(lost, told(&error)),
                })?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await;
        let body = body.map_err(|error| silent(lost, told(&*error)))?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(sender);
        }
        Ok(HttpResponse::from_parts(head, body.to_bytes().into()))
    }
}

/// An error with what is below it: the reason is there.
fn told(error: &dyn StdError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[async_trait]
impl HttpService for Link {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let exchanged = timeout(self.request, self.exchange(request)).await;
        exchanged.unwrap_or_else(|_| {
            let time = humantime::format_duration(self.request);
            Err(silent(
                HttpErrorKind::Timeout,
                format_args!("no answer within {time}"),
            ))
        })
    }
}
