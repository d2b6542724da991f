//! Commands and outcomes, as JSON in frames.

use std::fmt;

use bytes::Bytes;
use jiexi_proto::Message;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value as Json;

use crate::{
    bulk::{Counts, import::Known},
    notices::shown,
    server::handle::desk::change_of,
    token::office::Order,
};

/// The version of the protocol on the socket. Both ends are the same program, but an upgraded binary may meet a node
/// still running the old one.
pub const PROTOCOL: u32 = 1;

/// What the client sends first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// What is to be done.
    #[serde(flatten)]
    pub command: Command,
}

/// What can be asked of a running node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Take in the NDJSON that follows.
    Import {
        /// Skip bad lines.
        keep_going: bool,
        /// The data may pause; what is there is applied then.
        #[serde(default)]
        live: bool,
        /// What becomes of handles that are there already.
        #[serde(default)]
        known: Known,
        /// Change nothing.
        #[serde(default)]
        dry_run: bool,
    },
    /// Send all records as NDJSON.
    Export {
        /// Values in wire form.
        hex: bool,
        /// Secret values too.
        with_secrets: bool,
    },
    /// Something about the store.
    Store {
        /// What.
        action: StoreAction,
    },
    /// Something about API tokens.
    Token {
        /// What.
        order: Order,
    },
    /// A standby takes the place of its primary; the node starts anew after that.
    Promote {
        /// Also when the primary cannot be told.
        without: bool,
    },
    /// The process that asks takes the place of this one; what follows is in [`crate::handover`].
    HandOver {
        /// The version of what follows.
        version: u32,
        /// How long changes may wait, milliseconds.
        pause_max_ms: u64,
    },
    /// The node starts the program as it is on disk now, and is taken over by it.
    Upgrade {
        /// How long changes may wait, milliseconds.
        pause_max_ms: u64,
    },
    /// Handles and prefixes: what their administrators do over the protocol, done by whoever runs the node.
    Registry {
        /// What.
        ask: Ask,
    },
}

impl Command {
    /// What it does, for people.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Import { dry_run: true, .. } => "import, dry run",
            Self::Import { .. } => "import",
            Self::Export {
                with_secrets: true, ..
            } => "export with secrets",
            Self::Export { .. } => "export",
            Self::Store { action } => match action {
                StoreAction::Verify => "store verify",
                StoreAction::Stats => "store stats",
                StoreAction::Snapshot => "store snapshot",
                StoreAction::Rebuild => "store rebuild",
                StoreAction::Restore { .. } => "store restore",
            },
            Self::Token { order } => match order {
                Order::Create { .. } => "token create",
                Order::List => "token list",
                Order::Rotate { .. } => "token rotate",
                Order::Revoke { .. } => "token revoke",
            },
            Self::Promote { .. } => "promote",
            Self::HandOver { .. } => "serve --take-over",
            Self::Upgrade { .. } => "upgrade",
            Self::Registry { ask } => match ask {
                Ask::Change { .. } => "change",
                Ask::Read { .. } => "read",
                Ask::ReadMany { .. } => "read many",
                Ask::Standing => "standing",
                Ask::List { .. } => "list",
                Ask::Prefixes => "prefixes",
            },
        }
    }

    /// Whether it is answered at once, also while as many others are at work as may be.
    #[must_use]
    pub const fn is_light(&self) -> bool {
        matches!(self, Self::Registry { ask: Ask::Standing })
    }

    /// What it is about, for people: no secret, and not long. Nothing when its name says all.
    #[must_use]
    pub fn about(&self) -> Option<String> {
        match self {
            Self::Store {
                action: StoreAction::Restore { snapshot },
            } => Some(snapshot.display().to_string()),
            Self::Token { order } => match order {
                Order::Create { identity, .. } => Some(shown(identity.as_bytes())),
                Order::Rotate { id, .. } | Order::Revoke { id } => Some(shown(id.as_bytes())),
                Order::List => None,
            },
            Self::Registry { ask } => match ask {
                Ask::Change { requests } => Some(changes(requests)),
                Ask::Read {
                    handle: Octets(of), ..
                }
                | Ask::List { prefix: Octets(of) } => Some(shown(of)),
                Ask::ReadMany { handles, .. } => Some(format!("{} handles", handles.len())),
                Ask::Prefixes | Ask::Standing => None,
            },
            _ => None,
        }
    }
}

/// The first of several changes, and how many follow.
fn changes(requests: &[Octets]) -> String {
    let first = requests.first().and_then(|Octets(octets)| {
        let message = Message::decode(&Bytes::copy_from_slice(octets)).ok()?;
        let request = change_of(&message)?;
        Some(format!("{} {}", request.name(), shown(request.handle())))
    });
    let first = first.unwrap_or_else(|| "unreadable".to_owned());
    match requests.len() {
        0 | 1 => first,
        all => format!("{first} and {} more", all - 1),
    }
}

/// Octets, as hexadecimal text. `Debug` tells their number only: they may be secrets, and commands are logged.
#[derive(Clone, PartialEq, Eq)]
pub struct Octets(pub Vec<u8>);

impl fmt::Debug for Octets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Octets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        hex::decode(&*text).map(Self).map_err(D::Error::custom)
    }
}

/// What can be done with handles and prefixes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Changes, all of them or none.
    Change {
        /// Each as a request of the protocol with its envelope.
        requests: Vec<Octets>,
    },
    /// All values of a handle, secret ones too.
    Read {
        /// The handle.
        handle: Octets,
        /// Also below a prefix that is not homed: what it would have if that were.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unhomed: bool,
    },
    /// The same of many handles: what is told is of the first ones, of at least one, as many as fit.
    ReadMany {
        /// The handles.
        handles: Vec<Octets>,
        /// As of one.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        unhomed: bool,
    },
    /// Where the store is.
    Standing,
    /// The handles below a prefix: one JSON string a line.
    List {
        /// The prefix as `0.NA/…`.
        prefix: Octets,
    },
    /// The prefixes that this node answers for or has delegated: one JSON object a line, see [`PrefixRow`].
    Prefixes,
}

impl Ask {
    /// Whether it changes nothing.
    #[must_use]
    pub const fn reads(&self) -> bool {
        !matches!(self, Self::Change { .. })
    }
}

/// A prefix that a node knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixRow {
    /// The prefix, without `0.NA/`.
    pub prefix: String,
    /// Whether the node is its home; `false` when it only has its record, which may name another node.
    pub hosted: bool,
    /// Where its site record says it is at home.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub sites: Vec<String>,
}

/// Where a store is: what was committed in the same epoch at a lower sequence is in it, unless that was restored meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its epoch.
    pub epoch: u64,
    /// The sequence of its newest commit.
    pub sequence: u64,
}

/// What came of an [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// The changes are durable.
    Changed {
        /// The handle of each, as it was written or minted.
        handles: Vec<Octets>,
        /// Something that existed was overwritten.
        overwritten: bool,
        /// Where the store was with them.
        #[serde(default)]
        standing: Standing,
    },
    /// The records, or why there are none, in the order in which they were asked for.
    Records(Vec<Self>),
    /// Where the store is.
    Standing(Standing),
    /// The record.
    Values {
        /// The handle as its owner wrote it.
        handle: Octets,
        /// Each value in wire form.
        values: Vec<Octets>,
    },
    /// The list has been sent.
    Listed {
        /// How many lines.
        count: u64,
    },
    /// It is refused, with a code of the protocol.
    Refused {
        /// The code.
        code: u32,
        /// Why, for people; often empty.
        message: String,
        /// Which of several changes it is about, from 0, if it is about one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        place: Option<usize>,
    },
}

/// What can be done with a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreAction {
    /// Compare index, disk and checksums.
    Verify,
    /// Sizes and positions.
    Stats,
    /// Write a snapshot now.
    Snapshot,
    /// Make the state on disk anew.
    Rebuild,
    /// Replace everything by a snapshot.
    Restore {
        /// The snapshot, a path of the node's machine.
        snapshot: std::path::PathBuf,
    },
}

/// How far a command is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Counts so far.
    Counts(Counts),
    /// How many records there will be.
    Total(u64),
    /// An import kept a handle that is there with other values.
    Kept {
        /// The handle.
        handle: String,
    },
    /// An import skipped a line.
    Skipped {
        /// Its number.
        line: u64,
        /// Why.
        message: String,
    },
}

/// How a command ended well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Of import and export.
    Counts(Counts),
    /// Of an action on the store: a report in JSON.
    Report {
        /// Whether all is well.
        good: bool,
        /// The report.
        report: Json,
    },
    /// Of handles and prefixes.
    Told(Told),
}

/// How a command failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong, for people.
    pub message: String,
    /// The line of the input that is to blame.
    pub line: Option<u64>,
    /// What had been applied before.
    pub applied: Option<Counts>,
}
