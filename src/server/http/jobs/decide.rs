//! What becomes of a row: decided by the registry as every change is, within what the token allows; and how that is told.

use bytes::Bytes;
use getrandom::SysRng;
use jiexi_proto::code::{Permissions, ResponseCode};
use jiexi_proto::value::Value;

use super::record::Became;
use crate::batch::rows::Row;
use crate::json::value::text;
use crate::registry::plan::Request;
use crate::registry::{Authenticated, Rejection};
use crate::server::http::answer::Refusal;
use crate::server::http::caller::Caller;
use crate::server::http::{App, change};
use crate::store::{Action, Change, OwnedRecord};
use crate::token::Grant;

/// Said of a handle that exists otherwise.
const OTHERWISE: &str = "the handle exists with other values";

/// Who registers.
pub(super) struct Registrant {
    caller: Caller,
    who: Authenticated,
}

impl Registrant {
    /// The holder of a token.
    pub(super) fn new(app: &App, grant: &Grant) -> Self {
        let who = app.registry.vouch_token(grant);
        Self {
            caller: Caller {
                who: Some(who.clone()),
                grant: Some(grant.clone()),
            },
            who,
        }
    }

    /// Whom the audit trail names.
    pub(super) const fn who(&self) -> &Authenticated {
        &self.who
    }
}

/// What is to be done about a row.
#[derive(Debug)]
pub(super) struct Ruling {
    pub(super) became: Became,
    /// The changes that create the handle.
    pub(super) changes: Vec<Change>,
    pub(super) code: ResponseCode,
    name: &'static str,
    message: String,
}

impl Ruling {
    fn new(became: Became, code: ResponseCode, name: &'static str) -> Self {
        Self {
            became,
            changes: Vec::new(),
            code,
            name,
            message: String::new(),
        }
    }

    fn saying(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    fn refused(refusal: &Refusal) -> Self {
        Self::new(Became::Refused, refusal.code, refusal.name()).saying(&*refusal.detail)
    }

    /// Good by itself, but not carried out.
    pub(super) fn not_applied(self) -> Self {
        match self.became {
            Became::Created | Became::Same => {
                Self::new(Became::NotApplied, ResponseCode::ERROR, "not_applied")
            }
            _ => self,
        }
    }

    /// The handle exists with the same values.
    pub(super) fn same() -> Self {
        Self::new(Became::Same, ResponseCode::HANDLE_ALREADY_EXISTS, "")
    }

    /// An earlier line of the job has the handle with other values.
    pub(super) fn came_before(line: u32) -> Self {
        Self::conflict(format!(
            "line {line} of this job has the handle with other values: what belongs to one handle must stand together"
        ))
    }

    fn conflict(message: impl Into<String>) -> Self {
        let code = ResponseCode::HANDLE_ALREADY_EXISTS;
        Self::new(Became::Conflict, code, "conflict").saying(message)
    }

    /// Whether the handle exists with other values, which were compared.
    pub(super) fn exists_otherwise(&self) -> bool {
        self.became == Became::Conflict && self.message == OTHERWISE
    }

    /// The handle is created, if its record is not too large.
    pub(super) fn created(changes: Vec<Change>) -> Self {
        let fits = changes.iter().all(|change| match &change.action {
            Action::Put(draft) => draft.check(&change.key).is_ok(),
            Action::Delete => true,
        });
        match fits {
            true => Self {
                changes,
                ..Self::new(Became::Created, ResponseCode::SUCCESS, "")
            },
            false => Self::new(Became::Invalid, ResponseCode::INVALID_VALUE, "invalid_row")
                .saying("the record would be too large"),
        }
    }

    /// The same handle came before in a job that is one change.
    pub(super) fn repeated() -> Self {
        Self::conflict("the handle is in the job twice")
    }

    /// Appends the line of the results.
    pub(super) fn tell(&self, line: u64, handle: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"line\":");
        out.extend_from_slice(line.to_string().as_bytes());
        if !handle.is_empty() {
            out.extend_from_slice(b",\"handle\":");
            text(&String::from_utf8_lossy(handle), out);
        }
        out.extend_from_slice(b",\"result\":\"");
        out.extend_from_slice(self.became.name().as_bytes());
        out.extend_from_slice(b"\",\"responseCode\":");
        out.extend_from_slice(self.code.0.to_string().as_bytes());
        if !matches!(self.became, Became::Created | Became::Same) {
            out.extend_from_slice(b",\"code\":");
            text(self.name, out);
        }
        if !self.message.is_empty() {
            out.extend_from_slice(b",\"message\":");
            text(&self.message, out);
        }
        out.extend_from_slice(b"}\n");
    }
}

/// Decides about a row.
///
/// # Errors
/// The node cannot say now; the row is not lost.
pub(super) fn decide(
    app: &App,
    registrant: &Registrant,
    row: &Row,
    now: u32,
) -> Result<Ruling, Rejection> {
    let invalid = |message: &str| {
        Ruling::new(Became::Invalid, ResponseCode::INVALID_VALUE, "invalid_row").saying(message)
    };
    let values = match &row.values {
        Ok(values) if values.is_empty() => return Ok(invalid("there is no value")),
        Ok(values) => values,
        Err(wrong) => return Ok(invalid(wrong)),
    };
    let request = Request::Create {
        handle: Bytes::copy_from_slice(&row.handle),
        values: values.clone(),
        overwrite: false,
        mint: false,
    };
    let decided = change::permitted(app, &registrant.caller, &request).and_then(|()| {
        let decision = app
            .registry
            .decide(&request, &registrant.who, now, &mut SysRng);
        Ok(decision?.batch.changes)
    });
    let refusal = match decided {
        Ok(changes) => return Ok(Ruling::created(changes)),
        Err(refusal) => refusal,
    };
    match refusal.code {
        ResponseCode::SERVER_TOO_BUSY => Err(Rejection::busy("the node cannot decide now")),
        ResponseCode::HANDLE_ALREADY_EXISTS => there(app, registrant, &row.handle, values),
        _ => Ok(Ruling::refused(&refusal)),
    }
}

/// A handle that exists: the same, or another one?
fn there(
    app: &App,
    registrant: &Registrant,
    handle: &[u8],
    values: &[Value],
) -> Result<Ruling, Rejection> {
    let conflict = |text: &str| Ok(Ruling::conflict(text));
    let key = app.registry.records.key(handle);
    let Some(record) = app.registry.records.record(&key)? else {
        // It has just gone; the store would not have taken the decision either.
        return Err(Rejection::busy("the handle is being changed"));
    };
    if has_restricted(&record) {
        // Whoever may not read it could find it out by trying.
        match app.registry.may_read(&registrant.who, &key) {
            Ok(_) => {}
            Err(rejection) if rejection.code == ResponseCode::SERVER_TOO_BUSY => {
                return Err(rejection);
            }
            Err(_) => {
                return conflict(
                    "the handle exists, with values that the token's identity may not read and that were not compared",
                );
            }
        }
    }
    match are_same(&app.registry.records.values(&record), record.len(), values) {
        true => Ok(Ruling::same()),
        false => conflict(OTHERWISE),
    }
}

fn has_restricted(record: &OwnedRecord) -> bool {
    let public = Permissions::PUBLIC_READ.0;
    record
        .entries()
        .any(|entry| entry.permissions & public == 0)
}

/// Whether values are equal but for their timestamps, which say when they were stored.
fn are_same(stored: &[Value], count: usize, values: &[Value]) -> bool {
    let is_same = |(stored, value): (&Value, &Value)| {
        (stored.index, stored.ttl, stored.permissions)
            == (value.index, value.ttl, value.permissions)
            && stored.kind == value.kind
            && stored.data == value.data
            && stored.references == value.references
    };
    // A value that could not be opened is missing in what is stored.
    let mut stored: Vec<&Value> = stored.iter().collect();
    stored.sort_by_key(|value| value.index);
    count == values.len() && stored.len() == count && stored.into_iter().zip(values).all(is_same)
}
