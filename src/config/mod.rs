//! Configuration: what an operator may set, where it comes from, and what is wrong with it.
//!
//! * [`Config`] and its sections — final, immutable data with defaults; nothing here reads files.
//! * [`load`] — template defaults ← file ← environment, every problem with its place ([`Problem`]).
//! * [`TEMPLATE`] — `config/jiexi.toml`, which shows every key with its default and the reason for it; a test keeps
//!   it equal to `Config::default()`.
//!
//! A value knows only its type here. Whether an address can be bound is found out when binding.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::ValueEnum;
use ipnet::IpNet;
use jiexi_proto::handle::CaseRule;
use serde::{Deserialize, Serialize};

mod anonymous;
mod backup;
mod batch;
mod changes;
mod check;
mod dns;
mod env;
mod file;
mod follow;
mod jobs;
mod listeners;
mod operations;
mod recursion;
pub mod size;
mod words;

pub use anonymous::Anonymous;
pub use backup::Backup;
pub use batch::Batch;
pub use changes::Changes;
pub use dns::{Dns, Rule, RuleKind, Zone};
pub use file::{Origin, Origins, Problem, load, load_placed, load_text, operations_listen};
pub use follow::Follow;
pub use jobs::Jobs;
pub use operations::Operations;
pub use recursion::{Ports, Recursion};

/// The commented template: every key, its default, and why.
pub const TEMPLATE: &str = include_str!("../../config/jiexi.toml");

/// The layout version of the configuration file that this program reads.
pub const VERSION: u32 = 1;

/// Everything an operator may set. Immutable once loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Layout version of the file: [`VERSION`].
    pub version: u32,
    /// The node itself: where it keeps its data and how it is reached.
    pub node: Node,
    /// The Handle front end, UDP and TCP.
    pub handle: Handle,
    /// Who administers, and how they prove it.
    pub administration: Administration,
    /// Handles that are at home elsewhere.
    pub recursion: Recursion,
    /// The JSON API and pages over HTTP.
    pub http: Http,
    /// Clients that do not say who they are.
    pub anonymous: Anonymous,
    /// Many questions in one request, over HTTP.
    pub batch: Batch,
    /// Many registrations, carried out by themselves.
    pub jobs: Jobs,
    /// Followers of changes, over HTTP.
    pub changes: Changes,
    /// The DNS front end.
    pub dns: Dns,
    /// The log of resolutions and changes.
    pub history: History,
    /// Status page, metrics and health over HTTP.
    pub operations: Operations,
    /// The node that this one is a standby of.
    pub follow: Follow,
    /// What backups are made with.
    pub backup: Backup,
    /// The store on disk.
    pub store: Store,
    /// Logs.
    pub log: Log,
    /// The control socket that the other commands talk to.
    pub control: Control,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version: VERSION,
            node: Node::default(),
            handle: Handle::default(),
            administration: Administration::default(),
            recursion: Recursion::default(),
            http: Http::default(),
            anonymous: Anonymous::default(),
            batch: Batch::default(),
            jobs: Jobs::default(),
            changes: Changes::default(),
            dns: Dns::default(),
            history: History::default(),
            operations: Operations::default(),
            follow: Follow::default(),
            backup: Backup::default(),
            store: Store::default(),
            log: Log::default(),
            control: Control::default(),
        }
    }
}

impl Config {
    /// The defaults for a node whose data lie in `data`, for commands that run without a configuration file.
    #[must_use]
    pub fn for_data(data: &Path) -> Self {
        let mut config = Self::default();
        config.node.data = data.to_path_buf();
        config
    }

    /// Makes relative paths relative to `base`, the directory of the configuration file.
    pub fn resolve_paths(&mut self, base: &Path) {
        if self.node.data.is_relative() {
            // Through the components, so that `.` in the middle of the path disappears.
            self.node.data = base.join(&self.node.data).components().collect();
        }
        let files = [
            &mut self.http.certificate,
            &mut self.http.key,
            &mut self.dns.certificate,
            &mut self.dns.key,
            &mut self.operations.token_file,
            &mut self.follow.token_file,
            &mut self.follow.ca_file,
            &mut self.backup.secret_key_file,
            &mut self.backup.ca_file,
        ];
        for path in files {
            if path.is_relative() && !path.as_os_str().is_empty() {
                *path = base.join(&path).components().collect();
            }
        }
    }

    /// The settings of the store.
    #[must_use]
    pub fn store_config(&self) -> crate::store::Config {
        let store = &self.store;
        crate::store::Config {
            dir: self.store_dir(),
            case: store.case.rule(),
            now: || u64::from(crate::clock::unix_seconds()),
            segment_bytes: store.journal_segment,
            lag_changes: store.lag_changes,
            lag_bytes: store.lag_bytes,
            snapshot_journal_bytes: store.snapshot_journal,
            snapshot_live_percent: store.snapshot_percent.into(),
            guard_free_bytes: store.disk_free_min,
            guard_free_percent: store.disk_free_percent.into(),
            scrub_interval: store.scrub,
            other_key: crate::server::dns::name::hashed_key,
            ..crate::store::Config::default()
        }
    }

    /// Where the store keeps its files.
    #[must_use]
    pub fn store_dir(&self) -> PathBuf {
        self.node.data.join(&self.store.directory)
    }

    /// The path of the control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.node.data.join(&self.control.socket)
    }

    /// The directory of the audit trail.
    #[must_use]
    pub fn audit_dir(&self) -> PathBuf {
        self.node.data.join(&self.administration.audit)
    }

    /// The directory where the input of batches waits.
    #[must_use]
    pub fn spool_dir(&self) -> PathBuf {
        self.node.data.join(&self.batch.spool)
    }

    /// The directory of jobs: their inputs and results.
    #[must_use]
    pub fn jobs_dir(&self) -> PathBuf {
        self.node.data.join(&self.jobs.directory)
    }

    /// The file of the node's private key.
    #[must_use]
    pub fn node_key(&self) -> PathBuf {
        self.node.data.join("node.key")
    }

    /// The file of the site record, in JSON.
    #[must_use]
    pub fn site_file(&self) -> PathBuf {
        self.node.data.join("site.json")
    }
}

/// `[node]`: where the node keeps its data and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Directory of store, keys, site record and control socket.
    pub data: PathBuf,
    /// Public addresses, which the site record must name; empty: it may name any.
    pub addresses: Vec<IpAddr>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            data: PathBuf::from("./data"),
            addresses: Vec::new(),
        }
    }
}

/// `[handle]`: the Handle front end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handle {
    /// Local addresses to bind, for UDP and TCP alike.
    pub listen: Vec<IpAddr>,
    /// Port of both transports.
    pub port: u16,
    /// UDP worker threads; 0: one for each core.
    pub udp_workers: u16,
    /// Kernel receive buffer asked for each UDP socket, in bytes.
    #[serde(with = "size")]
    pub udp_receive_buffer: u64,
    /// A connection without a request for this long is closed.
    #[serde(with = "humantime_serde")]
    pub tcp_idle: Duration,
    /// A new connection must send its first byte within this time.
    #[serde(with = "humantime_serde")]
    pub tcp_first_byte: Duration,
    /// A request once begun must be complete within this time.
    #[serde(with = "humantime_serde")]
    pub tcp_read: Duration,
    /// An answer must be taken by the peer within this time.
    #[serde(with = "humantime_serde")]
    pub tcp_write: Duration,
    /// Open connections; at this number the longest idle one is closed for a new one.
    pub connections_max: u32,
    /// Time for open requests to end when the node stops.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// UDP bytes a second that one source network may be sent.
    #[serde(with = "size")]
    pub amplification_rate: u64,
    /// UDP bytes that one source network may be sent at once.
    #[serde(with = "size")]
    pub amplification_burst: u64,
    /// Bits of an IPv4 address that make a source network.
    pub amplification_ipv4_prefix: u8,
    /// Bits of an IPv6 address that make a source network.
    pub amplification_ipv6_prefix: u8,
}

impl Default for Handle {
    fn default() -> Self {
        Self {
            listen: vec![
                IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            ],
            port: 2641,
            udp_workers: 0,
            udp_receive_buffer: 4 << 20,
            tcp_idle: Duration::from_secs(600),
            tcp_first_byte: Duration::from_secs(30),
            tcp_read: Duration::from_secs(30),
            tcp_write: Duration::from_secs(30),
            connections_max: 20_000,
            drain: Duration::from_secs(10),
            amplification_rate: 1 << 20,
            amplification_burst: 4 << 20,
            amplification_ipv4_prefix: 24,
            amplification_ipv6_prefix: 56,
        }
    }
}

/// `[administration]`: changes over the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Administration {
    /// Server administrators, each as `index:handle`: they home prefixes.
    pub admins: Vec<String>,
    /// Replication administrators, each as `index:handle`: they copy the whole node.
    pub replication_admins: Vec<String>,
    /// Whether such a copy holds secret keys, when it is encrypted.
    pub replication_secrets: bool,
    /// Whether they have every right on every handle.
    pub full_access: bool,
    /// Whether the administrators of a prefix have their rights on the handles below it.
    pub prefix_admins: bool,
    /// Whether DSA keys are accepted.
    pub dsa: bool,
    /// Whether clients that know better may sign with SHA-1.
    pub sha1: bool,
    /// Whether sessions of clients before version 2.7 are accepted.
    pub old_macs: bool,
    /// Whether id-pointer-sdk is challenged without having logged in.
    pub challenge_sdk: bool,
    /// How long a challenge may be answered.
    #[serde(with = "humantime_serde")]
    pub auth_time: Duration,
    /// How long a session may last.
    #[serde(with = "humantime_serde")]
    pub session_time: Duration,
    /// Sessions open at once.
    pub sessions_max: u32,
    /// Threads that check proofs and sign answers; 0: one for each core and one more.
    pub threads: u16,
    /// Requests that may wait for them.
    pub queue: u32,
    /// Directory of the audit trail, below the data directory unless absolute.
    pub audit: PathBuf,
}

impl Default for Administration {
    fn default() -> Self {
        Self {
            admins: Vec::new(),
            replication_admins: Vec::new(),
            replication_secrets: false,
            full_access: false,
            prefix_admins: true,
            dsa: false,
            sha1: false,
            old_macs: false,
            challenge_sdk: false,
            auth_time: Duration::from_secs(60),
            session_time: Duration::from_secs(24 * 3600),
            sessions_max: 20_000,
            threads: 0,
            queue: 1_024,
            audit: PathBuf::from("audit"),
        }
    }
}

/// `[http]`: the JSON API and pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Local addresses to bind; empty: no HTTP.
    pub listen: Vec<IpAddr>,
    /// Port of plain HTTP and of HTTPS.
    pub port: u16,
    /// How clients elsewhere reach this, such as `https://id.example.cn`; empty: not said.
    pub public_url: String,
    /// Certificate chain in PEM; empty: self-signed with the node's key.
    pub certificate: PathBuf,
    /// Its private key in PEM.
    pub key: PathBuf,
    /// How often these files are looked at for a change.
    #[serde(with = "humantime_serde")]
    pub tls_reload: Duration,
    /// Whether clients are asked for certificates.
    pub client_certificates: bool,
    /// Whether credentials are looked at over plain HTTP from this machine.
    pub plain_loopback: bool,
    /// Networks whose `X-Forwarded-For`, `X-Forwarded-Proto` and PROXY headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Open connections; at this number the longest idle one is closed for a new one.
    pub connections_max: u32,
    /// Requests a second that one source network may make; 0: any number.
    pub rate: u32,
    /// Requests that one source network may make at once.
    pub burst: u32,
    /// Largest body of a request, in bytes.
    #[serde(with = "size")]
    pub body_max: u64,
    /// A request's head, then its body, must arrive within this time.
    #[serde(with = "humantime_serde")]
    pub read: Duration,
    /// An answer must be taken by the peer within this time.
    #[serde(with = "humantime_serde")]
    pub write: Duration,
    /// How long answers to changes with an `Idempotency-Key` are kept.
    #[serde(with = "humantime_serde")]
    pub idempotency: Duration,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: vec![
                IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            ],
            port: 8000,
            public_url: String::new(),
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            tls_reload: Duration::from_secs(10),
            client_certificates: false,
            plain_loopback: false,
            trusted_proxies: Vec::new(),
            connections_max: 20_000,
            rate: 2_000,
            burst: 4_000,
            body_max: 1 << 20,
            read: Duration::from_secs(30),
            write: Duration::from_secs(30),
            idempotency: Duration::from_secs(24 * 3600),
        }
    }
}

/// `[history]`: the log of resolutions and changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// Whether it is kept.
    pub enabled: bool,
    /// Its directory, below the data directory unless absolute.
    pub directory: PathBuf,
    /// Days for which it is kept.
    pub days: u32,
    /// Bytes that its files may take.
    #[serde(with = "size")]
    pub budget: u64,
}

impl Default for History {
    fn default() -> Self {
        Self {
            enabled: true,
            directory: PathBuf::from("history"),
            days: 180,
            budget: 20 << 30,
        }
    }
}

/// `[store]`: the store on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// Directory below the data directory.
    pub directory: PathBuf,
    /// What of a handle ignores the case of ASCII letters; it must be what the store was created with.
    pub case: Case,
    /// Size of one preallocated journal file, in bytes.
    #[serde(with = "size")]
    pub journal_segment: u64,
    /// Changes by which the state on disk may stay behind the journal.
    pub lag_changes: u64,
    /// Bytes by which the state on disk may stay behind the journal.
    #[serde(with = "size")]
    pub lag_bytes: u64,
    /// A snapshot is taken when the journal is larger than this, in bytes …
    #[serde(with = "size")]
    pub snapshot_journal: u64,
    /// … and larger than this share of the live data, in percent.
    pub snapshot_percent: u8,
    /// Writes are refused when the disk has less than this free, in bytes.
    #[serde(with = "size")]
    pub disk_free_min: u64,
    /// Writes are refused when the disk has less than this share free, in percent.
    pub disk_free_percent: u8,
    /// How often everything on disk is read and verified; zero: never.
    #[serde(with = "humantime_serde")]
    pub scrub: Duration,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            directory: PathBuf::from("store"),
            case: Case::Whole,
            journal_segment: 64 << 20,
            lag_changes: 500_000,
            lag_bytes: 256 << 20,
            snapshot_journal: 1 << 30,
            snapshot_percent: 25,
            disk_free_min: 1 << 30,
            disk_free_percent: 5,
            scrub: Duration::from_secs(24 * 3600),
        }
    }
}

/// What of a handle ignores the case of ASCII letters. It decides the keys of the store, so it cannot be changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Case {
    /// All of it: ABC and abc are one handle, as with most Handle servers
    #[default]
    Whole,
    /// Its prefix alone: local names tell A from a
    Prefix,
}

impl Case {
    /// The rule of the protocol.
    #[must_use]
    pub const fn rule(self) -> CaseRule {
        match self {
            Self::Whole => CaseRule::Whole,
            Self::Prefix => CaseRule::Prefix,
        }
    }
}

/// `[log]`: where events go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Text for people or JSON for machines.
    pub format: LogFormat,
    /// A level, or a list such as `info,jiexi::store=debug`.
    pub level: String,
    /// From how long on a request is written down as slow; zero: none is.
    #[serde(with = "humantime_serde")]
    pub slow: Duration,
    /// Refusals of each reason that are written down in a second; 0: none is.
    pub refusals: u32,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: String::from("info"),
            slow: Duration::from_secs(1),
            refusals: 1,
        }
    }
}

/// How log events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[control]`: the socket that `import`, `export` and `store` use while the node runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Path of the socket, below the data directory unless absolute.
    pub socket: PathBuf,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("control.sock"),
        }
    }
}

#[cfg(test)]
mod tests;
