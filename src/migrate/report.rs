//! What came of a migration: counts, and everything that was refused with where it stands.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiexi_proto::limits::HANDLE_MAX;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

/// Refusals that a report lists; the counts have all of them.
pub const REFUSALS_MAX: usize = 10_000;
/// Octets that are kept of what is longer than any handle: a line may have a mebibyte, and there may be as many of them.
const SHOWN_MAX: usize = 256;

/// As much of a text as a refusal keeps: a handle is whole.
#[must_use]
pub fn shown(text: &str) -> String {
    match text.len() <= HANDLE_MAX {
        true => text.to_owned(),
        false => format!("{}…", &text[..text.floor_char_boundary(SHOWN_MAX)]),
    }
}

/// What came of the steps of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Carried out, or to be.
    pub done: u64,
    /// Nothing to do: it is here already.
    pub same: u64,
    /// Refused.
    pub refused: u64,
}

/// Numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Steps by their kind, as the audit trail calls it.
    pub operations: BTreeMap<String, Tally>,
    /// Values of what was carried out.
    pub values: u64,
    /// What a node on its own machine does not need: who asks, and how sessions are made.
    pub not_needed: u64,
    /// What could not be read.
    pub unreadable: u64,
}

impl Counts {
    /// The tally of a kind.
    pub fn of(&mut self, kind: &str) -> &mut Tally {
        self.operations.entry(kind.to_owned()).or_default()
    }

    /// Adds those of another file.
    pub fn add(&mut self, other: &Self) {
        for (kind, tally) in &other.operations {
            let sum = self.of(kind);
            sum.done += tally.done;
            sum.same += tally.same;
            sum.refused += tally.refused;
        }
        self.values += other.values;
        self.not_needed += other.not_needed;
        self.unreadable += other.unreadable;
    }

    /// How much there is that was not carried out.
    #[must_use]
    pub fn refused(&self) -> u64 {
        let tallies = self.operations.values();
        self.unreadable + tallies.map(|tally| tally.refused).sum::<u64>()
    }
}

/// Something that is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The file.
    pub file: String,
    /// The line in it.
    pub line: u64,
    /// What was to be done; none where that could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<Cow<'static, str>>,
    /// The handle, as far as it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<String>,
    /// The code of the Handle protocol, if the node refuses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u32>,
    /// Why.
    pub reason: String,
}

/// Where a migration would stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WouldStop {
    /// The file.
    pub file: String,
    /// The line that is refused or cannot be read.
    pub line: u64,
    /// Whether the lines before it would be carried out.
    pub begun: bool,
}

/// A file of a migration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Source {
    /// Its name.
    pub file: String,
    /// The line behind which an earlier run had stopped.
    #[serde(rename = "resumedAfter", skip_serializing_if = "Option::is_none")]
    pub resumed_after: Option<u64>,
    /// Whether all of it was looked at, or carried out.
    pub complete: bool,
    /// The file with everything of it that was refused, a line of JSON for each.
    #[serde(rename = "refusedIn", skip_serializing_if = "Option::is_none")]
    pub refused_in: Option<String>,
    /// Whether an earlier run of the command had carried all of it out.
    #[serde(rename = "doneBefore", skip_serializing_if = "std::ops::Not::not")]
    pub done_before: bool,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Nothing is changed.
    pub dry_run: bool,
    /// Where a dry run says that the migration would stop.
    pub would_stop: Option<WouldStop>,
    /// The files that were begun with.
    pub sources: Vec<Source>,
    /// Numbers, of lines before a resumption as well. Of a dry run what would be done until it would stop, and all that is
    /// refused.
    pub counts: Counts,
    /// What was refused, up to [`REFUSALS_MAX`]; before a resumption as well.
    pub refusals: Vec<Refusal>,
}

impl Report {
    /// Notes a refusal, which its counts have already.
    pub fn refuse(&mut self, refusal: Refusal) {
        if self.refusals.len() < REFUSALS_MAX {
            self.refusals.push(refusal);
        }
    }

    /// Whether more was refused than is listed.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.counts.refused() > self.refusals.len() as u64
    }

    /// Whether so many files are carried out.
    #[must_use]
    pub fn is_complete(&self, files: usize) -> bool {
        self.sources.len() == files && self.sources.iter().all(|source| source.complete)
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> Json {
        json!({
            "dryRun": self.dry_run,
            "files": self.sources,
            "wouldStopAt": self.would_stop,
            "operations": self.counts.operations,
            "values": self.counts.values,
            "notNeeded": self.counts.not_needed,
            "unreadable": self.counts.unreadable,
            "refused": self.counts.refused(),
            "refusals": self.refusals,
            "truncated": self.is_truncated(),
        })
    }
}
