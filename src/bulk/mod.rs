//! Whole data sets in and out of a store, as lines of JSON ([`crate::json`]).
//!
//! * [`import`] — lines → batches → [`Store::submit`](crate::store::Store::submit), parsed on several threads, applied in
//!   the order of the file.
//! * [`export`] — homed prefixes, then records, as lines.
//!
//! Synchronous, and without knowledge of who asks: the command line uses it on a stopped node, the control socket on a
//! running one.

pub mod export;
mod feed;
pub mod import;

use serde::{Deserialize, Serialize};

/// How much has been done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Lines read or written, empty ones included.
    pub lines: u64,
    /// Handles imported or exported.
    pub records: u64,
    /// Values of these handles.
    pub values: u64,
    /// Homed prefixes imported or exported.
    pub prefixes: u64,
    /// Bad lines skipped by an import that keeps going.
    pub skipped: u64,
    /// Secret values that an export left out.
    pub secrets_left_out: u64,
    /// Bytes of input read.
    pub bytes: u64,
    /// Handles that an import left alone because they are here with the same values.
    #[serde(default)]
    pub same: u64,
    /// Handles among the imported ones that were here with other values.
    #[serde(default)]
    pub replaced: u64,
    /// Handles that an import left as they are here, with other values.
    #[serde(default)]
    pub kept: u64,
}

impl Counts {
    /// Adds the counts of a part.
    pub(crate) fn add(&mut self, part: Self) {
        self.lines += part.lines;
        self.records += part.records;
        self.values += part.values;
        self.prefixes += part.prefixes;
        self.skipped += part.skipped;
        self.secrets_left_out += part.secrets_left_out;
        self.bytes += part.bytes;
        self.same += part.same;
        self.replaced += part.replaced;
        self.kept += part.kept;
    }
}
