//! An S3 store: the server of s3s-fs over a directory, on a port that stays its own when it stops and comes back.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http_body_util::BodyExt as _;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use s3s::{
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    runtime::Runtime,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    node::PATIENCE,
    ports::free_port,
    support::{Run, jiexi},
};

/// The key that the server knows.
const KEY: &str = "AKIATEST";
const SECRET: &str = "a secret that nobody may see";

/// A store with a bucket called `backups`.
pub(crate) struct Store {
    root: PathBuf,
    port: u16,
    tls: Option<TlsAcceptor>,
    runtime: Option<Runtime>,
    seen: Arc<Seen>,
}

/// What the server has met, and what it does about it.
#[derive(Default)]
struct Seen {
    /// Parts of uploads that came.
    parts: AtomicU32,
    /// Parts with this number or a higher one get no answer; 0: all get one.
    stalled_from: AtomicU32,
    /// The longest body.
    longest: AtomicU64,
    /// Whether the answer to the next completed upload gets lost.
    loses_answer: AtomicBool,
    /// Whether its answer was lost.
    lost: AtomicBool,
    /// Whether uploads may not be aborted.
    keeps_parts: AtomicBool,
    /// Pages with foreign objects that a listing of the repository goes on with.
    pages: AtomicU32,
    /// What goes when something is asked for.
    removal: Mutex<Option<Removal>>,
}

/// Directories that are removed before a request is answered.
struct Removal {
    method: &'static str,
    /// What the name of the object ends with.
    object: String,
    directories: Vec<PathBuf>,
}

impl Store {
    /// A running one, over a new directory.
    pub(crate) fn start(directory: &Path) -> Self {
        Self::start_with(directory, None)
    }

    /// The same behind TLS, with a certificate for 127.0.0.1 of the authority in `authority.pem`.
    pub(crate) fn start_tls(directory: &Path) -> Self {
        Self::start_with(directory, Some(certified(directory)))
    }

    fn start_with(directory: &Path, tls: Option<TlsAcceptor>) -> Self {
        let root = directory.join("s3");
        fs::create_dir_all(root.join("backups")).expect("makes");
        let mut store = Self {
            root,
            port: free_port(),
            tls,
            runtime: None,
            seen: Arc::default(),
        };
        store.resume();
        store
    }

    /// Starts it again, over what it had.
    pub(crate) fn resume(&mut self) {
        let files = FileSystem::new(&self.root).expect("a store");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let address = (Ipv4Addr::LOCALHOST, self.port);
        let listener = runtime.block_on(TcpListener::bind(address)).expect("binds");
        let (seen, tls) = (Arc::clone(&self.seen), self.tls.clone());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (service, seen, tls) = (service.clone(), Arc::clone(&seen), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, service, seen).await,
                        Some(tls) => {
                            // Who does not believe the certificate goes away.
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, service, seen).await;
                            }
                        }
                    }
                });
            }
        });
        self.runtime = Some(runtime);
    }

    /// Ends it, with all its connections.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// From now on parts with this number and higher ones get no answer; with 0 all do.
    pub(crate) fn stall_from(&self, number: u32) {
        self.seen.stalled_from.store(number, Ordering::SeqCst);
    }

    /// The answer to the next completed upload gets lost.
    pub(crate) fn lose_answer(&self) {
        self.seen.loses_answer.store(true, Ordering::SeqCst);
    }

    /// Whether that has been.
    pub(crate) fn has_lost_answer(&self) -> bool {
        self.seen.lost.load(Ordering::SeqCst)
    }

    /// Whether the key may not abort uploads.
    pub(crate) fn keep_parts(&self, keep: bool) {
        self.seen.keeps_parts.store(keep, Ordering::SeqCst);
    }

    /// These directories go as soon as such an object is asked for.
    pub(crate) fn remove_when_asked(
        &self,
        method: &'static str,
        object: String,
        directories: Vec<PathBuf>,
    ) {
        let removal = Removal {
            method,
            object,
            directories,
        };
        *self.seen.removal.lock().expect("locks") = Some(removal);
    }

    /// A listing of the whole repository goes on with so many pages of a thousand foreign objects.
    pub(crate) fn add_pages(&self, count: u32) {
        self.seen.pages.store(count, Ordering::SeqCst);
    }

    /// How many parts of uploads have come.
    pub(crate) fn parts(&self) -> u32 {
        self.seen.parts.load(Ordering::SeqCst)
    }

    /// The longest body that has come.
    pub(crate) fn longest(&self) -> u64 {
        self.seen.longest.load(Ordering::SeqCst)
    }

    /// Waits until a file of the store has such a name; of parts, too, which no listing shows.
    #[track_caller]
    pub(crate) fn await_file(&self, part_of_name: &str) {
        let begun = Instant::now();
        while !self.files().iter().any(|name| name.contains(part_of_name)) {
            assert!(
                begun.elapsed() < PATIENCE,
                "{part_of_name}: {:?}",
                self.files()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The files that it keeps, of uploads, too.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![self.root.clone()];
        while let Some(directory) = open.pop() {
            for item in fs::read_dir(directory).expect("lists").flatten() {
                match item.file_type().expect("a type").is_dir() {
                    true => open.push(item.path()),
                    false => {
                        let path = item.path();
                        let name = path.strip_prefix(&self.root).expect("below");
                        found.push(name.display().to_string());
                    }
                }
            }
        }
        found.sort();
        found
    }

    /// Objects of the bucket and parts of uploads, without what the server notes for itself.
    pub(crate) fn kept(&self) -> Vec<String> {
        let all = self.files().into_iter();
        all.filter(|name| name.starts_with("backups/") || name.contains(".upload_id-"))
            .collect()
    }

    /// Where an object is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join("backups").join(name)
    }

    /// Its address, with this name of the host.
    pub(crate) fn address(&self, host: &str) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{host}:{}", self.port)
    }

    /// The program, with a secret for this store.
    pub(crate) fn command(&self, directory: &Path, secret: &str) -> Command {
        let mut command = jiexi(directory);
        command
            .env("AWS_ENDPOINT_URL", self.address("127.0.0.1"))
            .env("AWS_ACCESS_KEY_ID", KEY)
            .env("AWS_SECRET_ACCESS_KEY", secret)
            .env_remove("AWS_SESSION_TOKEN")
            .env_remove("AWS_CA_BUNDLE")
            .env_remove("AWS_ENDPOINT_URL_S3")
            .env_remove("AWS_REGION")
            .env_remove("AWS_DEFAULT_REGION");
        command
    }

    /// The program with the right key.
    pub(crate) fn jiexi(&self, directory: &Path) -> Command {
        self.command(directory, SECRET)
    }

    /// Runs `jiexi backup` with the right key.
    pub(crate) fn backup(&self, directory: &Path, arguments: &[&str]) -> Run {
        run(self.jiexi(directory).arg("backup").args(arguments))
    }
}

/// Serves a connection to its end.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: S3Service,
    seen: Arc<Seen>,
) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let (service, seen) = (service.clone(), Arc::clone(&seen));
        async move {
            seen.meet(&request).await;
            if let Some(answer) = seen.instead(&request) {
                return Ok(answer);
            }
            let asked = request.uri().query().unwrap_or_default().to_owned();
            let answered = hyper::service::Service::call(&service, request).await;
            seen.answered(&asked, answered.expect("answers")).await
        }
    });
    let connection = auto::Builder::new(TokioExecutor::new());
    drop(
        connection
            .serve_connection(TokioIo::new(stream), answer)
            .await,
    );
}

/// Makes an authority: `NAME.pem` and `NAME.key`.
pub(crate) fn authority(directory: &Path, name: &str) {
    let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
    let subject = format!("/CN={name}");
    openssl(
        directory,
        &["-subj", &subject, "-keyout", &key, "-out", &certificate],
    );
}

/// An authority, and TLS with a certificate that it has issued.
fn certified(directory: &Path) -> TlsAcceptor {
    authority(directory, "authority");
    openssl(
        directory,
        &[
            "-CA",
            "authority.pem",
            "-CAkey",
            "authority.key",
            "-subj",
            "/CN=store",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-keyout",
            "store.key",
            "-out",
            "store.pem",
        ],
    );
    let certificate = CertificateDer::from_pem_file(directory.join("store.pem"));
    let key = PrivateKeyDer::from_pem_file(directory.join("store.key"));
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.expect("PEM")], key.expect("PEM"));
    TlsAcceptor::from(Arc::new(config.expect("a pair")))
}

/// A new key and its certificate.
fn openssl(directory: &Path, options: &[&str]) {
    let made = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ])
        .args(options)
        .current_dir(directory)
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{made:?}");
}

impl Drop for Store {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Seen {
    fn remove(&self, request: &Request<Incoming>) {
        let asked = |removal: &mut Removal| {
            let path = request.uri().path();
            request.method().as_str() == removal.method && path.ends_with(&removal.object)
        };
        let removal = self.removal.lock().expect("locks").take_if(asked);
        for directory in removal.into_iter().flat_map(|removal| removal.directories) {
            fs::remove_dir_all(directory).expect("removes");
        }
    }

    async fn meet(&self, request: &Request<Incoming>) {
        self.remove(request);
        let length = request.headers().get(hyper::header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        self.longest
            .fetch_max(length.unwrap_or(0), Ordering::SeqCst);
        let query = request.uri().query().unwrap_or_default();
        let number = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("partNumber="));
        let Some(number) = number.and_then(|number| number.parse::<u32>().ok()) else {
            return;
        };
        self.parts.fetch_add(1, Ordering::SeqCst);
        loop {
            let from = self.stalled_from.load(Ordering::SeqCst);
            if from == 0 || number < from {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// What stands behind a name in a query.
fn value<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(found, _)| *found == name)
        .map(|(_, value)| value)
}

/// An answer in XML.
fn xml(status: u16, text: String) -> Response<s3s::Body> {
    let answer = Response::builder().status(status);
    let answer = answer.header("content-type", "application/xml");
    answer.body(s3s::Body::from(text)).expect("an answer")
}

fn refusal(status: u16, code: &str) -> Response<s3s::Body> {
    let message = "<Message>by the test</Message>";
    xml(
        status,
        format!("<Error><Code>{code}</Code>{message}</Error>"),
    )
}

/// What the pages that were added follow each other by.
const PAGE: &str = "page-";

impl Seen {
    /// What is answered without asking the server behind this.
    fn instead(&self, request: &Request<Incoming>) -> Option<Response<s3s::Body>> {
        let query = request.uri().query().unwrap_or_default();
        let upload = value(query, "uploadId").is_some();
        match request.method().as_str() {
            "DELETE" if upload && self.keeps_parts.load(Ordering::SeqCst) => {
                return Some(refusal(403, "AccessDenied"));
            }
            "POST" if upload && self.lost.load(Ordering::SeqCst) => {
                return Some(refusal(404, "NoSuchUpload"));
            }
            _ => {}
        }
        let page: u32 = value(query, "continuation-token")?
            .strip_prefix(PAGE)?
            .parse()
            .ok()?;
        let mut text = String::from("<ListBucketResult>");
        for number in 0..1_000 {
            text += &format!(
                "<Contents><Key>nodes/a/other/{page}-{number}</Key><LastModified>2026-11-26T15:30:00.000Z</LastModified>\
                 <ETag>\"x\"</ETag><Size>1</Size></Contents>"
            );
        }
        text += &match page < self.pages.load(Ordering::SeqCst) {
            true => next(page + 1),
            false => "<IsTruncated>false</IsTruncated>".to_owned(),
        };
        Some(xml(200, text + "</ListBucketResult>"))
    }

    /// What becomes of the answer to a query.
    async fn answered(
        &self,
        query: &str,
        answer: Response<s3s::Body>,
    ) -> io::Result<Response<s3s::Body>> {
        let upload = value(query, "uploadId").is_some() && value(query, "partNumber").is_none();
        if upload && self.loses_answer.swap(false, Ordering::SeqCst) {
            // To its end, or the work is not done.
            answer
                .into_body()
                .collect()
                .await
                .map_err(io::Error::other)?;
            self.lost.store(true, Ordering::SeqCst);
            return Err(io::Error::other("lost"));
        }
        let whole = value(query, "prefix")
            .is_some_and(|prefix| prefix.trim_end_matches("%2F").ends_with("a"));
        if value(query, "list-type").is_none() || !whole || self.pages.load(Ordering::SeqCst) == 0 {
            return Ok(answer);
        }
        let (mut head, body) = answer.into_parts();
        let octets = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let text = String::from_utf8(octets.to_vec()).expect("UTF-8");
        let end = "<IsTruncated>false</IsTruncated>";
        assert!(text.contains(end), "{text}");
        head.headers.remove(hyper::header::CONTENT_LENGTH);
        let body = s3s::Body::from(text.replace(end, &next(1)));
        Ok(Response::from_parts(head, body))
    }
}

/// That a page follows.
fn next(page: u32) -> String {
    format!(
        "<IsTruncated>true</IsTruncated><NextContinuationToken>{PAGE}{page}</NextContinuationToken>"
    )
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Run {
    let output = command.output().expect("runs");
    let run = Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    };
    let said = format!("{}{}", run.stdout, run.stderr);
    assert!(!said.contains(SECRET), "the secret is told: {said}");
    run
}
