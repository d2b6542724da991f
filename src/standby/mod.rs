//! A standby: a node that copies another one, answers as that one does, and can take its place.
//!
//! ```text
//! primary  /api/v1/replication  ─→ link ─→ boot (once, and when it was away too long): a snapshot
//!                                      └─→ follow: entries of the journal ─→ Store::replicate
//! ```
//!
//! * [`Primary`], [`link`]: the other node, and a connection to it.
//! * [`boot`]: whether this node is a standby when it starts; the first snapshot, and another one later.
//! * [`follow`]: the journal, as long as the node runs.
//! * [`promote`]: the other node gives way, and this one becomes a primary with a new epoch.
//! * [`watch`]: how far behind it is, for those who look.
//!
//! What was acknowledged by the primary is here when its sequence is: the same entry of the same journal, synced. A
//! standby says how far it is and never acknowledges anything itself; changes of its own are refused by the store.

pub mod boot;
pub mod follow;
pub mod link;
pub mod promote;
pub mod watch;

use std::path::PathBuf;
use std::time::Duration;

use crate::config::Config;

/// Pause after a failure, at first and at most; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// The node that is followed, and how it knows us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Primary {
    /// Its origin.
    pub place: String,
    /// The file with the token.
    token_file: PathBuf,
    /// Certificates to believe beside those of the machine.
    authority: Option<PathBuf>,
}

impl Primary {
    /// One that is known by its place only.
    fn unknown(place: &str) -> Self {
        Self {
            place: place.to_owned(),
            token_file: PathBuf::new(),
            authority: None,
        }
    }

    /// The one that is configured, if any is.
    #[must_use]
    pub fn configured(config: &Config) -> Option<Self> {
        let follow = &config.follow;
        (!follow.url.is_empty()).then(|| Self {
            place: follow.url.trim_end_matches('/').to_owned(),
            token_file: follow.token_file.clone(),
            authority: Some(follow.ca_file.clone()).filter(|path| !path.as_os_str().is_empty()),
        })
    }
}

/// Where this node is reached, as far as the configuration says it; for those who are sent here.
#[must_use]
pub fn own_place(config: &Config) -> String {
    let http = &config.http;
    match (http.public_url.as_str(), config.node.addresses.first()) {
        ("", Some(address)) if !http.listen.is_empty() => {
            format!("https://{}", std::net::SocketAddr::new(*address, http.port))
        }
        (url, _) => url.trim_end_matches('/').to_owned(),
    }
}

/// Pauses between attempts, each longer than the one before.
#[derive(Debug)]
struct Pauses(Duration);

impl Pauses {
    const fn new() -> Self {
        Self(PAUSE_FIRST)
    }

    /// The next one.
    fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (self.0 * 2).min(PAUSE_MAX);
        pause
    }
}
