//! A batch over HTTP: the file as the body of one request, the answers as they come.

use std::io::{self, Read as _};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value as Json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use url::{Url, form_urlencoded};

use super::sink::Sink;
use super::{AskError, CONNECT, Plan};
use crate::batch::coding::{Bounds, Coding, Decompress};

/// Where batches are asked.
const PATH: &str = "/api/v1/batch/resolve";
/// Octets of the file that are sent at once, and how many such pieces wait.
const PIECE: usize = 128 << 10;
const WAITING: usize = 4;
/// How often it is looked whether the server still does something: this many times before patience ends.
const LOOKS: u32 = 4;
/// Octets of a refusal that are read.
const REFUSAL_MAX: usize = 64 << 10;

/// The server, and how it knows us.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its origin, such as `https://id.example.cn:8000`.
    pub url: Url,
    /// The API token, where one is needed.
    pub token: Option<String>,
    /// Certificates in PEM that are believed beside those of the machine.
    pub authority: Option<PathBuf>,
    /// Whether answers may be compressed.
    pub zstd: bool,
}

/// Asks; `watch` hears of progress. The summary, if the answers have one.
///
/// # Errors
/// See [`AskError`].
pub async fn ask(
    plan: &Plan,
    server: &Server,
    sink: &mut Sink,
    watch: &mut (dyn FnMut(&Sink) + Send),
) -> Result<Option<Json>, AskError> {
    let stream = connect(server, plan.patience).await?;
    exchange(stream, plan, server, sink, watch).await
}

/// A connection, with TLS or without.
pub(crate) trait Link: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Link for S {}

/// Connects to a server.
pub(crate) async fn connect(
    server: &Server,
    patience: Duration,
) -> Result<Box<dyn Link>, AskError> {
    let host = server.url.host_str().unwrap_or_default().to_owned();
    let bare = host.trim_matches(['[', ']']);
    let port = server.url.port_or_known_default().unwrap_or(80);
    let patience = CONNECT.min(patience);
    let connected = timeout(patience, TcpStream::connect((bare, port))).await;
    let stream = connected
        .map_err(|_| failed("it does not answer"))?
        .map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    if server.url.scheme() == "http" {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(bare.to_owned()).map_err(failed)?;
    let connector = TlsConnector::from(Arc::new(trust(server)?));
    let stream = timeout(patience, connector.connect(name, stream)).await;
    let stream = stream
        .map_err(|_| failed("TLS takes too long"))?
        .map_err(failed)?;
    Ok(Box::new(stream))
}

pub(super) fn failed(error: impl std::fmt::Display) -> AskError {
    AskError::Connection(error.to_string())
}

/// Whose certificates are believed.
fn trust(server: &Server) -> Result<ClientConfig, AskError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &server.authority {
        let wrong = |error: &dyn std::fmt::Display| {
            AskError::Server(format!("certificates {}: {error}", path.display()))
        };
        let all = CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?;
        for certificate in all {
            let certificate = certificate.map_err(|error| wrong(&error))?;
            roots.add(certificate).map_err(|error| wrong(&error))?;
        }
    }
    // What of the machine cannot be read is not believed.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Ok(ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth())
}

async fn exchange(
    stream: Box<dyn Link>,
    plan: &Plan,
    server: &Server,
    sink: &mut Sink,
    watch: &mut (dyn FnMut(&Sink) + Send),
) -> Result<Option<Json>, AskError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let connection = tokio::spawn(connection);
    let moved = Arc::new(AtomicU64::new(0));
    let input = plan.open().map_err(AskError::Input)?;
    let (body, reader) = Sending::new(input, &moved);
    let request = request(plan, server, body)?;
    let asked = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        receive_all(response, sink, watch, &moved).await
    };
    let done = tokio::select! {
        done = asked => done,
        () = silence(plan.patience, &moved) => Err(failed("it neither takes nor says anything")),
    };
    connection.abort();
    match (done, reader.is_finished().then(|| reader.join())) {
        (_, Some(Ok(Err(error)))) => Err(AskError::Input(error)),
        (done, _) => done,
    }
}

/// Ends when nothing moved either way for so long.
pub(super) async fn silence(patience: Duration, moved: &AtomicU64) {
    let (mut before, mut looks) = (moved.load(Relaxed), 0);
    while looks < LOOKS {
        sleep(patience / LOOKS).await;
        let now = moved.load(Relaxed);
        looks = if now == before { looks + 1 } else { 0 };
        before = now;
    }
}

/// Reads the input until its end, or until nobody wants more.
fn read(input: &mut dyn io::Read, send: &Sender<Option<Bytes>>) -> io::Result<()> {
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let count = input.take(PIECE as u64).read_to_end(&mut piece)?;
        let last = count == 0;
        let sent = send.blocking_send((!last).then(|| piece.into()));
        if last || sent.is_err() {
            return Ok(());
        }
    }
}

/// The query that asks for what is planned, behind `fixed` parameters; empty when there is nothing to say.
pub(super) fn asking(plan: &Plan, fixed: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(fixed);
    query.extend_pairs(plan.types.iter().map(|kind| ("type", kind)));
    query.extend_pairs(
        plan.indexes
            .iter()
            .map(|index| ("index", index.to_string())),
    );
    if plan.after > 0 {
        query.append_pair("after", &plan.after.to_string());
    }
    if plan.restricted {
        query.append_pair("publicOnly", "false");
    }
    if plan.recursive {
        query.append_pair("recursive", "true");
    }
    if plan.raw {
        query.append_pair("raw", "true");
    }
    query.finish()
}

fn request(plan: &Plan, server: &Server, body: Sending) -> Result<Request<Sending>, AskError> {
    let query = asking(plan, &[]);
    let target = match query.is_empty() {
        true => PATH.to_owned(),
        false => format!("{PATH}?{query}"),
    };
    let url = &server.url;
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let mut request = Request::post(target)
        .header(header::HOST, host)
        .header(
            header::CONTENT_TYPE,
            format!("{}; charset={}", plan.form.media_type(), plan.charset),
        )
        .header(header::ACCEPT, plan.output.media_type());
    if let Some(token) = &server.token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    if server.zstd {
        request = request.header(header::ACCEPT_ENCODING, "zstd");
    }
    request
        .body(body)
        .map_err(|error| AskError::Server(error.to_string()))
}

async fn receive_all(
    response: Response<Incoming>,
    sink: &mut Sink,
    watch: &mut (dyn FnMut(&Sink) + Send),
    moved: &AtomicU64,
) -> Result<Option<Json>, AskError> {
    moved.fetch_add(1, Relaxed);
    if response.status() != hyper::StatusCode::OK {
        return Err(refused(response).await);
    }
    let coding = response.headers().get(header::CONTENT_ENCODING);
    let coding = Coding::named(
        coding
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default(),
    );
    let bounds = Bounds {
        total: u64::MAX,
        ratio: u64::MAX,
    };
    let coding = coding.ok_or_else(|| failed("an answer in a coding that was not asked for"))?;
    let mut decompress = Decompress::new(coding, bounds).map_err(failed)?;
    let mut body = response.into_body();
    // Cut: what has come is kept.
    while let Some(Ok(frame)) = body.frame().await {
        moved.fetch_add(1, Relaxed);
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let mut written = Ok(());
        let fed = decompress.feed(&data, &mut |piece| {
            if written.is_ok() {
                written = sink.take(piece);
            }
        });
        written?;
        fed.map_err(|_| failed("the answers are damaged"))?;
        watch(sink);
    }
    sink.finish().map_err(AskError::Output)
}

/// What a refusal says.
pub(super) async fn refused(response: Response<Incoming>) -> AskError {
    let status = response.status();
    let place = response.headers().get(header::LOCATION);
    let place = place.and_then(|place| place.to_str().ok());
    let place = place.filter(|_| status.is_redirection());
    // The token is for the server that was named, and for no other.
    let place = place.map(|place| format!("it points to {place}: give the server that is meant"));
    let body = Limited::new(response.into_body(), REFUSAL_MAX)
        .collect()
        .await;
    let json: Option<Json> = body
        .ok()
        .and_then(|body| serde_json::from_slice(&body.to_bytes()).ok());
    let text = |name: &str| {
        json.as_ref()
            .and_then(|json| json[name].as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let said = [
        status.to_string(),
        text("title"),
        text("detail"),
        place.unwrap_or_default(),
    ];
    let said = said.iter().map(|part| part.trim());
    let said: Vec<&str> = said.filter(|part| !part.is_empty()).collect();
    let said = said.join(": ");
    match status {
        hyper::StatusCode::NOT_FOUND => AskError::Missing(said),
        hyper::StatusCode::TOO_MANY_REQUESTS | hyper::StatusCode::SERVICE_UNAVAILABLE => {
            AskError::Busy(said)
        }
        _ => AskError::Refused(said),
    }
}

/// The body of the request. A piece that is none is its end; without one it is cut.
pub(super) struct Sending {
    pieces: Receiver<Option<Bytes>>,
    /// Counts what moves.
    moved: Arc<AtomicU64>,
}

/// The thread that reads an input.
pub(super) type Reading = std::thread::JoinHandle<io::Result<()>>;

impl Sending {
    /// An input as a body; the thread that reads it says what went wrong.
    pub(super) fn new(
        mut input: Box<dyn io::Read + Send>,
        moved: &Arc<AtomicU64>,
    ) -> (Self, Reading) {
        let (send, pieces) = channel(WAITING);
        let reader = std::thread::spawn(move || read(&mut *input, &send));
        let moved = Arc::clone(moved);
        (Self { pieces, moved }, reader)
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        // Asked for more also while there is none: the server takes what there is.
        self.moved.fetch_add(1, Relaxed);
        self.pieces.poll_recv(cx).map(|piece| match piece {
            Some(Some(piece)) => Some(Ok(Frame::data(piece))),
            Some(None) => None,
            None => Some(Err(io::ErrorKind::UnexpectedEof.into())),
        })
    }
}
