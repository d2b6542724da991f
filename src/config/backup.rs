//! `[backup]`: what backups are made with, and how a store elsewhere is reached.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::backup::{encryption::Lock, place::s3::Settings};

/// The section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// Whom backups are encrypted for; empty: they are not.
    pub recipients: Vec<String>,
    /// The S3 store, such as `https://s3.example.cn`; empty: Amazon's.
    pub endpoint: String,
    /// The region of the bucket.
    pub region: String,
    /// Whether the bucket stands in the path of an address at the endpoint.
    pub path_style: bool,
    /// Whether the endpoint may be `http://` although it is not this machine.
    pub allow_http: bool,
    /// The name of the key.
    pub access_key_id: String,
    /// File with the secret key; empty: none.
    pub secret_key_file: PathBuf,
    /// Certificates in PEM to believe beside those of the machine; empty: none.
    pub ca_file: PathBuf,
    /// How long one request may take.
    #[serde(with = "humantime_serde")]
    pub request: Duration,
    /// How long a request that fails for a passing reason is made again.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
}

impl Default for Backup {
    fn default() -> Self {
        Self {
            recipients: Vec::new(),
            endpoint: String::new(),
            region: "us-east-1".to_owned(),
            path_style: true,
            allow_http: false,
            access_key_id: String::new(),
            secret_key_file: PathBuf::new(),
            ca_file: PathBuf::new(),
            request: Duration::from_secs(120),
            patience: Duration::from_secs(240),
        }
    }
}

/// What cannot work.
pub(super) fn check(backup: &Backup, need: &mut impl FnMut(bool, &str, &str, &str)) {
    let recipients = backup.recipients.iter().map(String::as_str);
    if !backup.recipients.is_empty()
        && let Err(error) = Lock::recipients(recipients)
    {
        need(false, "backup", "recipients", &error);
    }
    if !backup.endpoint.is_empty() {
        let checked = match Url::parse(&backup.endpoint) {
            Ok(url) => Settings::check_endpoint(&url, backup.allow_http),
            Err(error) => Err(format!("is no address: {error}")),
        };
        if let Err(error) = checked {
            need(false, "backup", "endpoint", &error);
        }
    }
    need(
        !backup.region.is_empty(),
        "backup",
        "region",
        "is empty; \"us-east-1\" is what stores without regions expect",
    );
    need(
        backup.request >= Duration::from_secs(1),
        "backup",
        "request",
        "is below 1s; no part could be sent in that",
    );
    need(
        backup.patience <= Duration::from_secs(240),
        "backup",
        "patience",
        "is above 4m; a request signed so long ago is refused",
    );
}
