//! Commands and outcomes, as JSON in frames.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::bulk::Counts;

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
