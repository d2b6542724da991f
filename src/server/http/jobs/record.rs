//! A job as it is stored: in the node's own space, under `job/<token>/<id>`.
//!
//! The record is put in the same entry of the journal as the rows that move its position: what the store has and what the
//! job says about it are never apart.

use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use crate::batch::answer::{Form as OutputForm, Tally};
use crate::batch::input::Form;
use crate::batch::rows::Place;
use crate::store::{Change, Expect, OwnedRecord};
use crate::token::{Right, put};

/// What the keys of jobs begin with in the store.
pub(super) const KEY: &[u8] = b"job/";

/// What is being done about a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// It is at work, or its turn will come.
    Active,
    /// Its owner has stopped it for a while.
    Paused,
    /// Every row was looked at.
    Done,
    /// It cannot go on, see its reason.
    Failed,
    /// Its owner has ended it.
    Cancelled,
}

impl State {
    /// Whether it is over.
    pub(super) const fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Active => "queued",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// The handle exists now.
    Created,
    /// It existed with the same values.
    Same,
    /// It exists with others.
    Conflict,
    /// It was not allowed.
    Refused,
    /// The row makes no sense.
    Invalid,
    /// Good, but another row of a job that is carried out whole or not at all was not.
    NotApplied,
}

impl Became {
    /// The name in results.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Same => "same",
            Self::Conflict => "conflict",
            Self::Refused => "refused",
            Self::Invalid => "invalid",
            Self::NotApplied => "not_applied",
        }
    }
}

/// How many rows became what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) rows: u64,
    pub(super) created: u64,
    pub(super) same: u64,
    pub(super) conflict: u64,
    pub(super) refused: u64,
    pub(super) invalid: u64,
    pub(super) not_applied: u64,
}

impl Counts {
    /// Counts a row.
    pub(super) fn add(&mut self, became: Became) {
        self.rows += 1;
        *match became {
            Became::Created => &mut self.created,
            Became::Same => &mut self.same,
            Became::Conflict => &mut self.conflict,
            Became::Refused => &mut self.refused,
            Became::Invalid => &mut self.invalid,
            Became::NotApplied => &mut self.not_applied,
        } += 1;
    }

    /// Rows that came to nothing.
    pub(super) const fn bad(&self) -> u64 {
        self.conflict + self.refused + self.invalid
    }
}

/// Why a job has failed or waits: a stable name, and words for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reason {
    pub(super) code: String,
    pub(super) message: String,
}

impl Reason {
    /// A reason.
    pub(super) fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
        }
    }
}

/// What a job of questions asks for, and what was answered so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Questions {
    /// The form of the answers.
    pub(super) output: OutputForm,
    /// Whether cells of CSV are exact.
    pub(super) raw: bool,
    /// Indexes and types as the resolver reads them; none: all values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) filter: Option<Vec<u8>>,
    /// Whether values that only administrators may read are asked for, too.
    pub(super) restricted: bool,
    /// Whether handles at home elsewhere are asked there, and how many were.
    #[serde(default)]
    pub(super) recursive: bool,
    #[serde(default)]
    pub(super) elsewhere: u64,
    /// Epoch and sequence of the store when the first was asked: changes up to there are in the answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seen: Option<(u64, u64)>,
    /// The answers that are durable.
    #[serde(default)]
    pub(super) tally: Tally,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Job {
    /// Its name: when it was made, then at random.
    pub(super) id: String,
    /// The id of the token that it belongs to.
    pub(super) token: String,
    /// Where it came from, for the audit trail.
    pub(super) source: IpAddr,
    /// Whether it came over TLS, for what is counted.
    pub(super) tls: bool,
    /// The form of its input.
    pub(super) form: Form,
    /// Whether nothing is changed.
    pub(super) dry: bool,
    /// Whether all rows are carried out or none.
    pub(super) atomic: bool,
    /// What is asked, when its rows are no registrations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) questions: Option<Questions>,
    /// Octets of its input, as it lies on the disk.
    pub(super) input: u64,
    /// What is being done.
    pub(super) state: State,
    /// Why it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<Reason>,
    /// The next row. Of questions only its line counts: their input is read from its beginning again.
    pub(super) position: Place,
    /// What became of the registrations before it.
    pub(super) counts: Counts,
    /// Octets of results about them.
    pub(super) results: u64,
    /// Unix seconds: made, begun, ended.
    pub(super) created: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) started: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ended: Option<u32>,
    /// Unix seconds when its state changed last, or it got on.
    pub(super) touched: u32,
}

impl Job {
    /// Its key in the store.
    pub(super) fn key(&self) -> Vec<u8> {
        [KEY, self.token.as_bytes(), b"/", self.id.as_bytes()].concat()
    }

    /// The change that stores it.
    pub(super) fn change(&self, expect: Expect) -> Change {
        put(self.key(), self, expect)
    }

    /// Reads what was stored.
    pub(super) fn read(record: &OwnedRecord) -> Option<Self> {
        serde_json::from_slice(record.entries().next()?.wire).ok()
    }

    /// Moves it to another state.
    pub(super) fn turn(&mut self, state: State, reason: Option<Reason>, now: u32) {
        self.state = state;
        self.reason = reason;
        self.touched = now;
        if state.has_ended() {
            self.ended = Some(now);
        }
    }

    /// What its token must be good for.
    pub(super) fn rights(&self) -> impl Iterator<Item = Right> {
        let (first, restricted, recursive) = match &self.questions {
            Some(questions) => (Right::Batch, questions.restricted, questions.recursive),
            None => (Right::Write, false, false),
        };
        let restricted = restricted.then_some(Right::Resolve);
        let recursive = recursive.then_some(Right::Recursive);
        [Some(first), restricted, recursive].into_iter().flatten()
    }

    /// Octets that it has on the disk.
    pub(super) const fn disk(&self) -> u64 {
        match self.state.has_ended() {
            true => self.results,
            false => self.input + self.results,
        }
    }

    /// When it is forgotten, Unix seconds; never while its turn comes or it is worked on. `waits`: it cannot go on now.
    pub(super) fn expires(&self, waits: bool, keep: Duration) -> Option<u32> {
        let keep = u32::try_from(keep.as_secs()).unwrap_or(u32::MAX);
        let rests = self.state != State::Active || waits;
        rests.then(|| self.touched.saturating_add(keep))
    }

    /// For its owner. `running`: a thread is at work; `waiting`: why none is, and until when.
    pub(super) fn json(
        &self,
        running: bool,
        waiting: Option<&(Reason, u32)>,
        keep: Duration,
    ) -> Json {
        let state = match (self.state, waiting) {
            (State::Active, _) if running => "running",
            (State::Active, Some(_)) => "waiting",
            (state, _) => state.name(),
        };
        let waits = waiting.filter(|_| self.state == State::Active && !running);
        let (kind, rows) = match &self.questions {
            Some(questions) => ("resolve", questions.tally.lines()),
            None => ("bulk", self.counts.rows),
        };
        let mut json = json!({
            "id": self.id,
            "kind": kind,
            "state": state,
            "dryRun": self.dry,
            "atomic": self.atomic,
            "form": self.form,
            "created": time(self.created),
            "started": self.started.map(time),
            "ended": self.ended.map(time),
            "expires": self.expires(waits.is_some(), keep).map(time),
            "input": self.input,
            "position": {"octet": self.position.octet, "line": self.position.line},
            "rows": rows,
            "counts": self.counted(),
            "results": self.results,
        });
        if let Some(questions) = &self.questions {
            json["output"] = json!(questions.output);
        }
        let waited = waits.map(|(reason, _)| reason);
        if let Some(reason) = self.reason.as_ref().or(waited) {
            json["reason"] = json!({"code": reason.code, "message": reason.message});
        }
        if let Some((_, until)) = waits {
            json["until"] = time(*until).into();
        }
        json
    }

    /// How many rows became what, or were answered how.
    fn counted(&self) -> Json {
        match &self.questions {
            Some(questions) => json!(questions.tally),
            None => json!({
                "created": self.counts.created,
                "same": self.counts.same,
                "conflict": self.counts.conflict,
                "refused": self.counts.refused,
                "invalid": self.counts.invalid,
                "notApplied": self.counts.not_applied,
            }),
        }
    }

    /// The media type of its results.
    pub(super) fn media_type(&self) -> &'static str {
        let output = self.questions.as_ref().map(|questions| questions.output);
        output.unwrap_or_default().media_type()
    }
}

/// Unix seconds as RFC 3339.
fn time(seconds: u32) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds.into())).to_string()
}
