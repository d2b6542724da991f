//! Where the backups are, and what opens or locks them, as the command line and the configuration say.

use std::path::{Path, PathBuf};

use clap::Args;
use url::Url;
use zeroize::Zeroizing;

use super::explain;
use crate::{
    backup::{
        encryption::{Keys, Lock},
        place::{Location, s3},
        repository::{Access, Repository},
    },
    cli::{Failed, key, place::Place},
    config::Config,
    owner,
};

/// The longest file of identities.
const IDENTITIES_MAX: u64 = 64 << 10;

/// Where the backups are.
#[derive(Debug, Args)]
pub(super) struct RepositoryPath {
    /// The directory of the backups; or s3://BUCKET/PREFIX, reached as [backup] in the configuration and AWS_ACCESS_KEY_ID,
    /// AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL and AWS_CA_BUNDLE say
    #[arg(value_name = "REPOSITORY")]
    repository: PathBuf,
    /// Where the scratch directory is made, if one is needed: for what is encrypted or in a bucket, as large as a full backup
    /// with its increments, and for a drill, which takes as much space as the store. Otherwise the system's for such
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

/// Whom new backups are encrypted for.
#[derive(Debug, Args)]
pub(super) struct Sealing {
    /// Encrypt for this recipient, a public key such as age1…; may be repeated. Otherwise for those of [backup] recipients
    /// in the configuration
    #[arg(long, value_name = "RECIPIENT")]
    recipient: Vec<String>,
    /// Encrypt under the passphrase in this file
    #[arg(long, value_name = "FILE", conflicts_with = "recipient")]
    encryption_passphrase_file: Option<PathBuf>,
    /// Do not encrypt, whatever the configuration says, also where the newest backup of the repository is encrypted
    #[arg(long, conflicts_with_all = ["recipient", "encryption_passphrase_file"])]
    unencrypted: bool,
}

/// What opens encrypted backups.
#[derive(Debug, Args)]
pub(super) struct Opening {
    /// File with identities (AGE-SECRET-KEY-1…) that open encrypted backups, as `age-keygen` writes it
    #[arg(long, value_name = "FILE")]
    identity: Vec<PathBuf>,
    /// File with the passphrase that opens encrypted backups; may be repeated, where it was changed between them
    #[arg(long, value_name = "FILE")]
    encryption_passphrase_file: Vec<PathBuf>,
}

impl RepositoryPath {
    /// Where the scratch directory of a drill is made.
    pub(super) fn scratch(&self) -> PathBuf {
        self.scratch.clone().unwrap_or_else(std::env::temp_dir)
    }

    /// Where it is, as the command line and, of a bucket, the configuration say.
    fn location(&self, place: &Place) -> Result<Location, Failed> {
        match self
            .repository
            .to_str()
            .filter(|text| text.starts_with("s3://"))
        {
            Some(text) => Ok(Location::S3(Box::new(settings(text, &place.load()?)?))),
            None => Ok(Location::Directory(self.repository.clone())),
        }
    }

    /// The repository, to look at.
    pub(super) fn open(&self, place: &Place) -> Result<Repository, Failed> {
        self.open_with(Keys::default(), place)
    }

    /// The repository, to read what is encrypted, too.
    pub(super) fn open_with(&self, keys: Keys, place: &Place) -> Result<Repository, Failed> {
        let access = Access {
            keys,
            scratch: self.scratch.clone(),
            ..Access::default()
        };
        Repository::open(&self.location(place)?, access).map_err(explain)
    }

    /// The repository, to write into; a new one if there is none.
    pub(super) fn create(
        &self,
        lock: Option<Lock>,
        place: &Place,
        config: &Config,
    ) -> Result<Repository, Failed> {
        let access = Access {
            lock,
            scratch: self.scratch.clone(),
            beside: Some(config.node.data.join("backup.lock")),
            ..Access::default()
        };
        let location = self.location(place)?;
        if let Location::Directory(path) = &location {
            expect_owner(path)?;
        }
        Repository::open_or_create(&location, access).map_err(explain)
    }
}

/// Refuses root in a repository of somebody else, who could not read the backups of root among his own: `list`, the next
/// backup and `prune` would fail.
fn expect_owner(repository: &Path) -> Result<(), Failed> {
    // One that is not there yet would be of whoever makes it.
    if !repository.exists() {
        return Ok(());
    }
    match owner::as_owner(repository, std::env::args_os()) {
        Some((user, command)) => Err(Failed::report(format_args!(
            "{} belongs to {user}, who could not read what root writes there: run it as {user}: {command}",
            repository.display()
        ))),
        None => Ok(()),
    }
}

/// How a bucket is reached: the environment goes before the configuration.
fn settings(text: &str, config: &Config) -> Result<s3::Settings, Failed> {
    let backup = &config.backup;
    let (bucket, prefix) = s3::Settings::parse(text).map_err(Failed::usage)?;
    let endpoint = variable(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]);
    let endpoint = endpoint.unwrap_or_else(|| ("[backup] endpoint", backup.endpoint.clone()));
    let endpoint = match endpoint {
        (_, text) if text.is_empty() => None,
        (origin, text) => {
            let wrong = |error: &dyn std::fmt::Display| {
                Failed::report(format_args!("{origin}: {text:?} {error}"))
            };
            let url = Url::parse(&text).map_err(|error| wrong(&error))?;
            s3::Settings::check_endpoint(&url, backup.allow_http).map_err(|why| wrong(&why))?;
            Some(url)
        }
    };
    let (key_id, secret, token) = credentials(config)?;
    let region = variable(&["AWS_REGION", "AWS_DEFAULT_REGION"]);
    Ok(s3::Settings {
        bucket,
        prefix,
        endpoint,
        region: region.map_or_else(|| backup.region.clone(), |(_, region)| region),
        path_style: backup.path_style,
        key_id,
        secret,
        token,
        authority: variable(&["AWS_CA_BUNDLE"])
            .map(|(_, path)| PathBuf::from(path))
            .or_else(|| Some(backup.ca_file.clone()))
            .filter(|path| is_named(path)),
        request: backup.request,
        patience: backup.patience,
    })
}

/// A key: its name, itself, and what goes with one that ends.
type Credentials = (String, Zeroizing<String>, Option<Zeroizing<String>>);

fn credentials(config: &Config) -> Result<Credentials, Failed> {
    let backup = &config.backup;
    let secret = |name| variable(&[name]).map(|(_, text)| Zeroizing::new(text));
    match (
        variable(&["AWS_ACCESS_KEY_ID"]),
        secret("AWS_SECRET_ACCESS_KEY"),
    ) {
        (Some((_, id)), Some(key)) => Ok((id, key, secret("AWS_SESSION_TOKEN"))),
        (None, None) if !backup.access_key_id.is_empty() && is_named(&backup.secret_key_file) => {
            let key = text_of(&backup.secret_key_file, "the key")?;
            Ok((backup.access_key_id.clone(), Zeroizing::new(key), None))
        }
        (Some(_), None) => Err(Failed::report(
            "AWS_ACCESS_KEY_ID is set, and AWS_SECRET_ACCESS_KEY is not; set both",
        )),
        (None, Some(_)) => Err(Failed::report(
            "AWS_SECRET_ACCESS_KEY is set, and AWS_ACCESS_KEY_ID is not; set both",
        )),
        (None, None) => Err(Failed::report(
            "there is no key for the store: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or [backup] access_key_id and \
             secret_key_file",
        )),
    }
}

fn is_named(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

/// The first of these variables that says something, and its name.
fn variable(names: &[&'static str]) -> Option<(&'static str, String)> {
    let mut names = names.iter();
    names.find_map(|name| {
        let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
        Some((*name, text))
    })
}

impl Sealing {
    /// Whether it is in clear because somebody wants it so.
    pub(super) fn is_in_clear(&self) -> bool {
        self.unencrypted
    }

    /// Whom a backup is encrypted for, if it is.
    pub(super) fn lock(&self, config: &Config) -> Result<Option<Lock>, Failed> {
        if self.unencrypted {
            return Ok(None);
        }
        if let Some(path) = &self.encryption_passphrase_file {
            return Ok(Some(Lock::passphrase(text_of(path, "the passphrase")?)));
        }
        let (all, origin) = match self.recipient.is_empty() {
            true => (&config.backup.recipients, "[backup] recipients"),
            false => (&self.recipient, "--recipient"),
        };
        if all.is_empty() {
            return Ok(None);
        }
        let lock = Lock::recipients(all.iter().map(String::as_str));
        let lock = lock.map_err(|error| Failed::usage(format_args!("{origin}: {error}")))?;
        Ok(Some(lock))
    }
}

impl Opening {
    /// What was given.
    pub(super) fn keys(&self) -> Result<Keys, Failed> {
        let mut keys = Keys::default();
        for path in &self.identity {
            let failed = |error: &dyn std::fmt::Display| {
                Failed::report(format_args!("{}: {error} (--identity)", path.display()))
            };
            let length = std::fs::metadata(path)
                .map_err(|error| failed(&error))?
                .len();
            if length > IDENTITIES_MAX {
                return Err(failed(&"too long for a file of identities"));
            }
            let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
            let text = Zeroizing::new(text);
            keys.add_identities(&text).map_err(|error| failed(&error))?;
        }
        for path in &self.encryption_passphrase_file {
            let added = keys.add_passphrase(text_of(path, "the passphrase")?);
            added.map_err(|error| {
                Failed::usage(format_args!("--encryption-passphrase-file: {error}"))
            })?;
        }
        Ok(keys)
    }
}

/// The first line of a file.
fn text_of(path: &Path, what: &str) -> Result<String, Failed> {
    let octets = key::passphrase(path)?;
    String::from_utf8(octets.to_vec())
        .map_err(|_| Failed::report(format_args!("{}: {what} must be UTF-8", path.display())))
}
