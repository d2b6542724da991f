//! A repository in a bucket of a store that speaks S3.
//!
//! ```text
//! PREFIX/jiexi-backups                             says what this is
//! PREFIX/20261126T153000Z-full/records.snapshot    a member of a backup
//! PREFIX/20261126T153000Z-full/manifest.json       put last: there is a backup when this is there
//! PREFIX/…/records.snapshot.upload                 beside a member in parts while it is uploaded: how to abort that
//! ```
//!
//! A member is sent in parts of a fixed size, a few at a time, and is there only when all of them are: so much memory is
//! used, and no more. An upload that is killed leaves parts that no listing shows and that cost money all the same; the
//! note beside the member names them, and the next backup has them thrown away. What is removed has a name of ours.
//!
//! Everything else here is synchronous, and the client is not: `Bucket::run` is the bridge. A request that fails for a
//! passing reason is made again until patience ends.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    io::{self, Read, Write},
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use object_store::{
    BackoffConfig, ObjectStore as _, ObjectStoreExt as _, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    multipart::{MultipartStore as _, PartId},
    path::Path,
};
use serde::{Deserialize, Serialize};
use tokio::{runtime::Runtime, task::JoinSet};
use url::{Host, Url};
use zeroize::Zeroizing;

use super::{Found, Place, Put, directory};
use crate::backup::{
    BackupError, encryption, failed,
    manifest::{self, Kind},
    repository::is_id,
};

mod link;

use link::Silent;

/// The object that says what this is.
const MARKER: &str = "jiexi-backups";
/// Octets of it that are read.
const MARK_MAX: u64 = 1 << 10;
/// Behind the name of a member: the note of its upload.
const NOTE: &str = ".upload";
/// Octets of a note.
const NOTE_MAX: u64 = 16 << 10;
/// What a backup may have beside its records.
const FILES: [&str; 2] = ["site.json", "jiexi.toml"];
/// Octets of a part, and of what is got at once. The last part may be shorter. Larger members have larger parts.
const PART: u64 = 8 << 20;
/// Most parts of an upload; the protocol allows 10,000.
const PARTS_MAX: u64 = 9_000;
/// The longest part that the protocol allows.
const PART_MAX: u64 = 5 << 30;
/// Parts that are sent at a time; so many are in memory.
const AT_ONCE: usize = 4;
/// Most backups below the prefix.
const BACKUPS_MAX: usize = 1_000_000;
/// Pauses between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// A bucket, and how it is reached.
#[derive(Clone)]
pub struct Settings {
    /// Its name.
    pub bucket: String,
    /// What the names of our objects begin with, without a slash at its ends; may be empty.
    pub prefix: String,
    /// The store; none: Amazon's of the region.
    pub endpoint: Option<Url>,
    /// Its region.
    pub region: String,
    /// Whether the bucket stands in the path of an address, not in the name of the host.
    pub path_style: bool,
    /// The name of the key.
    pub key_id: String,
    /// The key.
    pub secret: Zeroizing<String>,
    /// What belongs to a key that ends.
    pub token: Option<Zeroizing<String>>,
    /// Certificates in PEM that are believed beside those of the machine.
    pub authority: Option<PathBuf>,
    /// How long one request may take.
    pub request: Duration,
    /// How long a request that fails for a passing reason is made again.
    pub patience: Duration,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

impl Settings {
    /// Takes a text such as `s3://bucket/prefix` apart: bucket and prefix.
    ///
    /// # Errors
    /// A message for people.
    pub fn parse(text: &str) -> Result<(String, String), String> {
        let rest = text.strip_prefix("s3://").unwrap_or(text);
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let sign = |sign: u8| {
            sign.is_ascii_lowercase() || sign.is_ascii_digit() || matches!(sign, b'.' | b'-')
        };
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(sign) {
            return Err(format!(
                "{text}: {bucket:?} cannot be a bucket; it must be s3://BUCKET/PREFIX"
            ));
        }
        let prefix = prefix.trim_end_matches('/');
        let plain = |part: &str| {
            let sign = |sign: u8| sign.is_ascii_alphanumeric() || b"-_.".contains(&sign);
            !part.is_empty() && part != "." && part != ".." && part.bytes().all(sign)
        };
        if !prefix.is_empty() && (prefix.len() > 512 || !prefix.split('/').all(plain)) {
            return Err(format!(
                "{text}: {prefix:?} cannot be a prefix: letters, digits, '-', '_' and '.' between slashes"
            ));
        }
        Ok((bucket.to_owned(), prefix.to_owned()))
    }

    /// Refuses an address that would show what is sent to everybody on the way.
    ///
    /// # Errors
    /// A message for people.
    pub fn check_endpoint(endpoint: &Url, allow_http: bool) -> Result<(), String> {
        let here = match endpoint.host() {
            Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        let plain = endpoint.path() == "/"
            && endpoint.query().is_none()
            && endpoint.fragment().is_none()
            && endpoint.username().is_empty()
            && endpoint.password().is_none()
            && endpoint.host().is_some();
        match endpoint.scheme() {
            "https" | "http" if !plain => Err(
                "must be a scheme and a host, such as \"https://s3.example.cn\", and no path"
                    .to_owned(),
            ),
            "https" => Ok(()),
            "http" if here || allow_http => Ok(()),
            "http" => Err(
                "must be https:// : the backups go there, and everybody on the way could read and change them; \
                 allow_http = true if you accept that"
                    .to_owned(),
            ),
            other => Err(format!("has the scheme {other}, and must be https://")),
        }
    }

    fn store(&self) -> Result<AmazonS3, BackupError> {
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: PAUSE.0,
                max_backoff: PAUSE.1,
                base: 2.0,
            },
            // Patience is what ends it.
            max_retries: usize::MAX,
            retry_timeout: self.patience,
        };
        let link = link::Connector {
            authority: self.authority.clone(),
            request: self.request,
        };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.bucket)
            .with_region(&self.region)
            .with_access_key_id(&self.key_id)
            .with_secret_access_key(self.secret.as_str())
            .with_retry(retry)
            // Not all stores know how to remove many at once.
            .with_disable_bulk_delete(true)
            .with_disable_tagging(true)
            .with_http_connector(link);
        if let Some(token) = &self.token {
            builder = builder.with_token(token.as_str());
        }
        builder = match &self.endpoint {
            None => builder.with_virtual_hosted_style_request(!self.bucket.contains('.')),
            Some(endpoint) if self.path_style => builder
                .with_endpoint(endpoint.as_str().trim_end_matches('/'))
                .with_allow_http(true),
            Some(endpoint) => {
                let mut endpoint = endpoint.clone();
                let host = format!(
                    "{}.{}",
                    self.bucket,
                    endpoint.host_str().unwrap_or_default()
                );
                endpoint.set_host(Some(&host)).map_err(failed)?;
                builder
                    .with_virtual_hosted_style_request(true)
                    .with_endpoint(endpoint.as_str().trim_end_matches('/'))
                    .with_allow_http(true)
            }
        };
        builder.build().map_err(failed)
    }
}

/// See the module.
pub(in crate::backup) struct Bucket {
    settings: Settings,
    store: Arc<AmazonS3>,
    runtime: Runtime,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}

/// The note beside a member whose parts are being uploaded.
#[derive(Serialize, Deserialize)]
struct Note {
    /// The name under which the store knows the upload.
    upload: String,
}

impl Bucket {
    pub(in crate::backup) fn new(settings: &Settings) -> Result<Self, BackupError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(format_args!("cannot start the runtime: {error}")))?;
        Ok(Self {
            store: Arc::new(settings.store()?),
            settings: settings.clone(),
            runtime,
        })
    }

    /// The way from what waits to what does not.
    fn run<T>(&self, future: impl Future<Output = object_store::Result<T>>) -> Result<T, Refusal> {
        self.runtime.block_on(future).map_err(Refusal::of)
    }

    /// The object of a name below the prefix.
    fn object(&self, name: &str) -> Path {
        match self.settings.prefix.as_str() {
            "" => Path::from(name),
            prefix => Path::from(format!("{prefix}/{name}")),
        }
    }

    fn member(&self, id: &str, name: &str) -> Path {
        self.object(&format!("{id}/{name}"))
    }

    /// What a refusal means, and what to do.
    fn explain(&self, name: &str, action: &str, refusal: &Refusal) -> BackupError {
        let (settings, patience) = (
            &self.settings,
            humantime::format_duration(self.settings.patience),
        );
        let why = match refusal {
            Refusal::Missing => "it is not there".to_owned(),
            Refusal::Down(why) => format!(
                "the store cannot be reached ({why}); it was tried for {patience}; see that it runs and that [backup] \
                 endpoint is right, and try again"
            ),
            Refusal::Stranger(why) => format!(
                "the store is not believed to be the one that is meant, and was sent nothing ({why}); if its certificate is \
                 of an authority of your own, name that one's in [backup] ca_file or AWS_CA_BUNDLE"
            ),
            Refusal::Code(code) => match code.as_str() {
                "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "NotSignedUp" => format!(
                    "the store refuses the key {} ({code}); see AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or [backup] \
                     access_key_id and secret_key_file",
                    settings.key_id
                ),
                "ExpiredToken" | "InvalidToken" => format!(
                    "the session of the key {} has ended ({code}); get a new AWS_SESSION_TOKEN",
                    settings.key_id
                ),
                "AccessDenied" | "403" | "401" => format!(
                    "the key {} may not do that ({code}); give it the rights to list the bucket, and to get, put and \
                     delete objects and abort uploads (s3:AbortMultipartUpload) below the prefix",
                    settings.key_id
                ),
                "NoSuchBucket" => format!(
                    "there is no bucket {}; make it, or name another one",
                    settings.bucket
                ),
                "RequestTimeTooSkewed" => {
                    "the clocks of this machine and of the store are too far apart; set this machine's".to_owned()
                }
                "redirect" | "PermanentRedirect" | "AuthorizationHeaderMalformed" => format!(
                    "the bucket is in another region than {}; set [backup] region or AWS_REGION",
                    settings.region
                ),
                code => format!("the store answers {code}; it was tried for {patience}; ask whoever runs it"),
            },
            Refusal::Other(why) => why.clone(),
        };
        BackupError::Place(format!("{}: cannot {action}: {why}", self.shown(name)))
    }

    /// What is said of a member that is not there.
    fn missing(&self, name: &str) -> BackupError {
        failed(format_args!("{}: it is not there", self.shown(name)))
    }

    /// Calls `visit` with the objects below a name, without what their names have in common, until it says that it has
    /// enough.
    fn objects(&self, below: &str, mut visit: impl FnMut(&str) -> bool) -> Result<(), BackupError> {
        let prefix = match (self.settings.prefix.as_str(), below) {
            ("", "") => None,
            (prefix, "") => Some(Path::from(prefix)),
            (_, below) => Some(self.object(below)),
        };
        let start = prefix
            .as_ref()
            .map_or(0, |prefix| prefix.as_ref().len() + 1);
        let listed = self.run(async {
            let mut stream = self.store.list(prefix.as_ref());
            while let Some(object) = stream.next().await.transpose()? {
                if !visit(object.location.as_ref().get(start..).unwrap_or_default()) {
                    break;
                }
            }
            Ok(())
        });
        listed.map_err(|refusal| self.explain(below, "list", &refusal))
    }

    /// The first of them.
    fn first(&self, below: &str) -> Result<Option<String>, BackupError> {
        let mut first = None;
        self.objects(below, |name| {
            first = Some(name.to_owned());
            false
        })?;
        Ok(first)
    }

    /// A small object, if it is there.
    fn small(&self, path: &Path, name: &str, bytes_max: u64) -> Result<Option<Bytes>, BackupError> {
        let got = self.run(async {
            let got = self.store.get(path).await?;
            match got.meta.size > bytes_max {
                true => Ok(None),
                false => got.bytes().await.map(Some),
            }
        });
        match got {
            Ok(Some(octets)) => Ok(Some(octets)),
            Ok(None) => Err(failed(format_args!(
                "{}: longer than {bytes_max} octets; it is none of ours",
                self.shown(name)
            ))),
            Err(Refusal::Missing) => Ok(None),
            Err(refusal) => Err(self.explain(name, "read", &refusal)),
        }
    }

    fn put_small(&self, path: &Path, name: &str, octets: Bytes) -> Result<(), BackupError> {
        let put = self.run(self.store.put(path, PutPayload::from_bytes(octets)));
        put.map(drop)
            .map_err(|refusal| self.explain(name, "write", &refusal))
    }

    fn delete(&self, id: &str, name: &str) -> Result<(), BackupError> {
        let shown = format!("{id}/{name}");
        match self.run(self.store.delete(&self.member(id, name))) {
            Ok(()) | Err(Refusal::Missing) => Ok(()),
            Err(refusal) => Err(self.explain(&shown, "remove", &refusal)),
        }
    }

    /// Has the parts of an upload thrown away; false when the key may not do that.
    fn abort(&self, id: &str, member: &str) -> Result<bool, BackupError> {
        let name = format!("{member}{NOTE}");
        let shown = format!("{id}/{name}");
        let note = self.small(&self.member(id, &name), &shown, NOTE_MAX)?;
        let note: Option<Note> = note.and_then(|note| serde_json::from_slice(&note).ok());
        let Some(Note { upload }) = note else {
            return Ok(true);
        };
        let path = self.member(id, member);
        match self.run(self.store.abort_multipart(&path, &upload)) {
            Ok(()) | Err(Refusal::Missing) => Ok(true),
            // Some stores say that, too, of an upload that has ended; the note costs less than parts that nobody knows of.
            Err(Refusal::Code(code)) if ["AccessDenied", "403", "401"].contains(&&*code) => {
                Ok(false)
            }
            Err(refusal) => Err(self.explain(&shown, "abort the upload", &refusal)),
        }
    }
}

impl Bucket {
    /// What is said of parts that may not be thrown away.
    fn parts_stay(&self, id: &str, member: &str) -> String {
        format!(
            "{}: an upload of it was interrupted, and the key {} may not abort that: its parts stay, unseen, and are paid \
             for; give the key the right to abort uploads (s3:AbortMultipartUpload) below the prefix, and the next backup \
             removes them",
            self.shown(&format!("{id}/{member}")),
            self.settings.key_id
        )
    }
}

/// Whether an object of a backup is named as ours are.
fn is_ours(name: &str) -> bool {
    let name = name.strip_suffix(NOTE).unwrap_or(name);
    let name = name.strip_suffix(encryption::SUFFIX).unwrap_or(name);
    name == manifest::NAME
        || FILES.contains(&name)
        || [Kind::Full, Kind::Increment]
            .map(Kind::file)
            .contains(&name)
}

impl Place for Bucket {
    fn shown(&self, name: &str) -> String {
        let Settings { bucket, prefix, .. } = &self.settings;
        let parts = [bucket.as_str(), prefix, name];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        format!("s3://{}", parts.join("/"))
    }

    fn directory(&self) -> Option<&FilePath> {
        None
    }

    fn draft(&self, _id: &str) -> Option<PathBuf> {
        None
    }

    fn mark(&self) -> Result<Option<Vec<u8>>, BackupError> {
        let mark = self.small(&self.object(MARKER), MARKER, MARK_MAX)?;
        if mark.is_none() {
            // Some stores say of a bucket that is not there only that the object is not.
            self.first(MARKER)?;
        }
        Ok(mark.map(Vec::from))
    }

    fn found(&self, mark: &[u8]) -> Result<(), BackupError> {
        if let Some(other) = self.first("")? {
            return Err(failed(format_args!(
                "{}: neither empty nor a repository of backups (there is {other}); name a prefix for backups alone",
                self.shown("")
            )));
        }
        self.put_small(&self.object(MARKER), MARKER, Bytes::copy_from_slice(mark))
    }

    fn lock(&self, beside: Option<&FilePath>) -> Result<Option<File>, BackupError> {
        beside.map(directory::lock).transpose()
    }

    fn reading(&self) -> Result<Option<File>, BackupError> {
        Ok(None)
    }

    fn alone(&self) -> Result<Option<File>, BackupError> {
        Ok(None)
    }

    fn list(&self) -> Result<Vec<Found>, BackupError> {
        let mut backups: BTreeMap<String, (bool, bool)> = BTreeMap::new();
        self.objects("", |name| {
            let Some((id, member)) = name.split_once('/') else {
                return true;
            };
            if is_id(id) {
                let (complete, ours) = backups.entry(id.to_owned()).or_default();
                *complete |= member == manifest::NAME;
                *ours |= is_ours(member);
            }
            backups.len() <= BACKUPS_MAX
        })?;
        if backups.len() > BACKUPS_MAX {
            return Err(failed(format_args!(
                "{}: more than {BACKUPS_MAX} backups; name a prefix of its own for each node",
                self.shown("")
            )));
        }
        let found = backups.into_iter().filter(|(_, (_, ours))| *ours);
        Ok(found
            .map(|(id, (complete, _))| Found { id, complete })
            .collect())
    }

    fn begin(&self, id: &str) -> Result<bool, BackupError> {
        Ok(self.first(id)?.is_none())
    }

    fn put(&self, id: &str, name: &str, bytes_max: u64) -> Result<Box<dyn Put + '_>, BackupError> {
        let part = bytes_max.div_ceil(PARTS_MAX).max(PART);
        if part > PART_MAX {
            return Err(failed(format_args!(
                "{}: {bytes_max} octets are more than an object can have",
                self.shown(&format!("{id}/{name}"))
            )));
        }
        Ok(Box::new(Upload {
            bucket: self,
            id: id.to_owned(),
            name: name.to_owned(),
            path: self.member(id, name),
            part: usize::try_from(part).map_err(failed)?,
            buffer: Vec::new(),
            waiting: Vec::new(),
            upload: None,
            parts: Vec::new(),
            bytes: 0,
        }))
    }

    fn complete(&self, id: &str, manifest: &[u8]) -> Result<(), BackupError> {
        self.put_small(
            &self.member(id, manifest::NAME),
            &format!("{id}/{}", manifest::NAME),
            Bytes::copy_from_slice(manifest),
        )
    }

    fn get(&self, id: &str, name: &str) -> Result<Box<dyn Read + '_>, BackupError> {
        let shown = format!("{id}/{name}");
        let length = self.length(id, name)?;
        let length = length.ok_or_else(|| self.missing(&shown))?;
        Ok(Box::new(Download {
            bucket: self,
            shown,
            path: self.member(id, name),
            at: 0,
            length,
            piece: Bytes::new(),
        }))
    }

    fn length(&self, id: &str, name: &str) -> Result<Option<u64>, BackupError> {
        match self.run(self.store.head(&self.member(id, name))) {
            Ok(meta) => Ok(Some(meta.size)),
            Err(Refusal::Missing) => Ok(None),
            Err(refusal) => {
                Err(self.explain(&format!("{id}/{name}"), "look at the object", &refusal))
            }
        }
    }

    fn sweep(&self, id: &str) -> Result<Option<String>, BackupError> {
        // However many others there are: ours are a few names.
        let mut found = BTreeSet::new();
        self.objects(id, |name| {
            if is_ours(name) {
                found.insert(name.to_owned());
            }
            true
        })?;
        let mut left = None;
        for name in &found {
            // A member that is there was uploaded to its end.
            if let Some(member) = name.strip_suffix(NOTE)
                && !found.contains(member)
                && !self.abort(id, member)?
            {
                left = Some(self.parts_stay(id, member));
                continue;
            }
            self.delete(id, name)?;
        }
        Ok(left)
    }

    fn remove(&self, id: &str) -> Result<Option<String>, BackupError> {
        self.delete(id, manifest::NAME)?;
        self.sweep(id)
    }
}

/// A member being uploaded.
struct Upload<'a> {
    bucket: &'a Bucket,
    id: String,
    name: String,
    path: Path,
    /// Octets of a part.
    part: usize,
    /// The part that is being filled.
    buffer: Vec<u8>,
    /// Parts that are full.
    waiting: Vec<Bytes>,
    /// How the store knows it, once there is more than one part.
    upload: Option<String>,
    /// Parts that are there.
    parts: Vec<PartId>,
    bytes: u64,
}

impl Upload<'_> {
    fn failed(&self, refusal: &Refusal) -> BackupError {
        let name = format!("{}/{}", self.id, self.name);
        self.bucket.explain(&name, "write", refusal)
    }

    /// The upload, begun, with a note of it.
    fn begun(&mut self) -> Result<String, BackupError> {
        if let Some(upload) = &self.upload {
            return Ok(upload.clone());
        }
        let bucket = self.bucket;
        let begun = bucket.run(bucket.store.create_multipart(&self.path));
        let upload = begun.map_err(|refusal| self.failed(&refusal))?;
        let note = format!("{}{NOTE}", self.name);
        let text = serde_json::to_vec(&Note {
            upload: upload.clone(),
        });
        bucket.put_small(
            &bucket.member(&self.id, &note),
            &format!("{}/{note}", self.id),
            Bytes::from(text.map_err(failed)?),
        )?;
        self.upload = Some(upload.clone());
        Ok(upload)
    }

    /// Sends the parts that are full, side by side.
    fn send(&mut self) -> Result<(), BackupError> {
        let upload = self.begun()?;
        let (bucket, first) = (self.bucket, self.parts.len());
        let waiting = std::mem::take(&mut self.waiting);
        let sent = bucket.run(async {
            let mut sending = JoinSet::new();
            for (place, part) in (first..).zip(waiting) {
                let (store, path) = (Arc::clone(&bucket.store), self.path.clone());
                let upload = upload.clone();
                sending.spawn(async move {
                    let part = PutPayload::from_bytes(part);
                    let sent = store.put_part(&path, &upload, place, part).await?;
                    Ok::<_, object_store::Error>((place, sent))
                });
            }
            let mut sent = BTreeMap::new();
            while let Some(joined) = sending.join_next().await {
                let (place, part) = joined??;
                sent.insert(place, part);
            }
            Ok(sent)
        });
        let sent = sent.map_err(|refusal| self.failed(&refusal))?;
        self.parts.extend(sent.into_values());
        Ok(())
    }

    /// Takes the part that is being filled as full.
    fn fill(&mut self) -> Result<(), BackupError> {
        let next = Vec::with_capacity(self.part);
        let full = std::mem::replace(&mut self.buffer, next);
        self.waiting.push(Bytes::from(full));
        match self.waiting.len() < AT_ONCE {
            true => Ok(()),
            false => self.send(),
        }
    }

    /// All of it, whichever way.
    fn settle(&mut self) -> Result<(), BackupError> {
        let bucket = self.bucket;
        if self.upload.is_none() && self.waiting.is_empty() {
            let octets = Bytes::from(std::mem::take(&mut self.buffer));
            let name = format!("{}/{}", self.id, self.name);
            return bucket.put_small(&self.path, &name, octets);
        }
        if !self.buffer.is_empty() {
            let last = std::mem::take(&mut self.buffer);
            self.waiting.push(Bytes::from(last));
        }
        self.send()?;
        let (upload, parts) = (self.begun()?, std::mem::take(&mut self.parts));
        let settled = bucket.run(bucket.store.complete_multipart(&self.path, &upload, parts));
        match settled {
            // Its answer was lost, and asked again the store knows of no such upload any more: the length tells.
            Ok(_) | Err(Refusal::Missing) => {}
            Err(refusal) => return Err(self.failed(&refusal)),
        }
        bucket.delete(&self.id, &format!("{}{NOTE}", self.name))
    }
}

impl Write for Upload<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        // Only when more comes is a full part not the last one.
        if self.buffer.len() == self.part {
            self.fill().map_err(io::Error::other)?;
        }
        let taken = octets.len().min(self.part - self.buffer.len());
        self.buffer
            .extend_from_slice(octets.get(..taken).unwrap_or_default());
        self.bytes += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Put for Upload<'_> {
    fn finish(mut self: Box<Self>) -> Result<(), BackupError> {
        self.settle()?;
        match self.bucket.length(&self.id, &self.name)? {
            Some(length) if length == self.bytes => Ok(()),
            found => Err(BackupError::Place(format!(
                "{}: {} octets were sent, and the store says that it has {}; try again, and ask whoever runs the store",
                self.bucket.shown(&format!("{}/{}", self.id, self.name)),
                self.bytes,
                found.map_or_else(|| "none".to_owned(), |length| length.to_string())
            ))),
        }
    }
}

/// A member being got, a range after the other.
struct Download<'a> {
    bucket: &'a Bucket,
    shown: String,
    path: Path,
    at: u64,
    length: u64,
    piece: Bytes,
}

impl Read for Download<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && self.at < self.length {
            let range = self.at..self.length.min(self.at + PART);
            let got = self
                .bucket
                .run(self.bucket.store.get_range(&self.path, range.clone()));
            self.piece = got.map_err(|refusal| {
                io::Error::other(match refusal {
                    // It was there a moment ago.
                    Refusal::Missing => self.bucket.missing(&self.shown),
                    refusal => self.bucket.explain(&self.shown, "read", &refusal),
                })
            })?;
            if self.piece.len() as u64 != range.end - range.start {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.at = range.end;
        }
        let taken = buffer.len().min(self.piece.len());
        let piece = self.piece.split_to(taken);
        if let Some(place) = buffer.get_mut(..taken) {
            place.copy_from_slice(&piece);
        }
        Ok(taken)
    }
}

/// Why a request did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Refusal {
    /// There is no such object.
    Missing,
    /// It could not be asked, for so long.
    Down(String),
    /// Its certificate is not believed.
    Stranger(String),
    /// It said so: a code of the protocol, or a status.
    Code(String),
    /// Anything else.
    Other(String),
}

impl Refusal {
    /// The client wraps what the store has said in its own words; what counts is the code.
    fn of(error: object_store::Error) -> Self {
        let text = error.to_string();
        match link::silence(&error) {
            Some(Silent::Down(why)) => return Self::Down(why),
            Some(Silent::Stranger(why)) => return Self::Stranger(why),
            None => {}
        }
        if let Some(code) = between(&text, "<Code>", "</Code>") {
            return match code {
                "NoSuchKey" | "NoSuchUpload" => Self::Missing,
                code => Self::Code(code.chars().take(64).collect()),
            };
        }
        if text.contains("redirect") {
            return Self::Code("redirect".to_owned());
        }
        match error {
            object_store::Error::NotFound { .. } => Self::Missing,
            object_store::Error::PermissionDenied { .. } => Self::Code("403".to_owned()),
            object_store::Error::Unauthenticated { .. } => Self::Code("401".to_owned()),
            // What a store may write in its answers is its own; so much of it is enough.
            _ => Self::Other(
                text.chars()
                    .filter(|sign| !sign.is_control())
                    .take(300)
                    .collect(),
            ),
        }
    }
}

fn between<'t>(text: &'t str, start: &str, end: &str) -> Option<&'t str> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(found, _)| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: nothing is sent in clear by mistake, and nothing that is not ours is taken for ours.
    #[test]
    fn addresses_and_names() {
        let check =
            |text: &str, allow| Settings::check_endpoint(&Url::parse(text).expect("a URL"), allow);
        for good in [
            "https://s3.example.cn",
            "http://127.0.0.1:9000",
            "http://localhost:1/",
        ] {
            assert_eq!(check(good, false), Ok(()), "{good}");
        }
        for bad in [
            "http://192.0.2.1:9000",
            "ftp://127.0.0.1",
            "https://s3.example.cn/bucket",
            "https://me:secret@s3.example.cn",
        ] {
            assert!(check(bad, false).is_err(), "{bad}");
        }
        assert_eq!(check("http://192.0.2.1:9000", true), Ok(()));

        let parse = |text: &str| Settings::parse(text).ok();
        let found = |bucket: &str, prefix: &str| Some((bucket.to_owned(), prefix.to_owned()));
        assert_eq!(parse("s3://backups"), found("backups", ""));
        assert_eq!(parse("s3://backups/a/b_1/"), found("backups", "a/b_1"));
        for bad in [
            "s3://",
            "s3://Ab/x",
            "s3://backups//x",
            "s3://backups/../x",
            "s3://backups/a b",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }

        for ours in [
            "records.snapshot",
            "site.json.age",
            "records.increment.age.upload",
        ] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in [
            "precious",
            "records.snapshot.bak",
            "a/records.snapshot",
            ".upload",
        ] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
