//! Steps of a file that the node is asked for as one change.
//!
//! The changes of a commit do not see each other, so a handle can have but one in it. Where a file makes a handle and adds
//! values to it right behind that, as many do, the two are one change: the handle with all of these values.

use jiexi_proto::code::ResponseCode;
use jiexi_proto::value::Value;

use super::carry::size;
use crate::registry::plan::Request;

/// Octets of a unit of several steps at most: so little fits into a record in any case.
const OCTETS: usize = 32 << 10;

/// A step, with those behind it that are part of the same change.
#[derive(Debug)]
pub(super) struct Unit {
    /// Each with its line; never empty.
    steps: Vec<(u64, Request)>,
    octets: usize,
}

impl Unit {
    /// One step.
    pub(super) fn new(line: u64, request: Request) -> Self {
        let octets = size(&request);
        let steps = vec![(line, request)];
        Self { steps, octets }
    }

    /// Its steps.
    pub(super) fn steps(&self) -> &[(u64, Request)] {
        &self.steps
    }

    /// Whether a step that stands behind the others can be part of the change without another outcome: it adds values of
    /// other indexes to a handle that is made here, and writes it alike, for the newest spelling is the one that is kept.
    pub(super) fn takes(&self, request: &Request) -> bool {
        let Some((_, Request::Create { handle, .. })) = self.steps.first() else {
            return false;
        };
        let Request::Add { values, .. } = request else {
            return false;
        };
        let mut there = self.steps.iter().flat_map(|(_, step)| values_of(step));
        let conflict = there.any(|value| values.iter().any(|new| new.index == value.index));
        handle == request.handle() && !conflict && self.octets + size(request) <= OCTETS
    }

    /// Takes a step in that it [`takes`](Self::takes).
    pub(super) fn take(&mut self, line: u64, request: Request) {
        self.octets += size(&request);
        self.steps.push((line, request));
    }

    /// The change.
    pub(super) fn change(&self) -> Option<Request> {
        let (_, first) = self.steps.first()?;
        let mut change = first.clone();
        if let Request::Create { values, .. } = &mut change {
            *values = self.values();
        }
        Some(change)
    }

    /// All values of its steps, by their indexes.
    pub(super) fn values(&self) -> Vec<Value> {
        let all = self.steps.iter().flat_map(|(_, step)| values_of(step));
        let mut all: Vec<Value> = all.cloned().collect();
        all.sort_by_key(|value| value.index);
        all
    }
}

/// The values that a step has.
fn values_of(request: &Request) -> &[Value] {
    match request {
        Request::Create { values, .. }
        | Request::Add { values, .. }
        | Request::Modify { values, .. } => values,
        _ => &[],
    }
}

/// Whether a new handle is refused for its name or for what is there, whatever its values are.
pub(super) const fn is_of_the_handle(code: ResponseCode) -> bool {
    matches!(
        code,
        ResponseCode::HANDLE_ALREADY_EXISTS
            | ResponseCode::SERVER_NOT_RESPONSIBLE
            | ResponseCode::INVALID_HANDLE
    )
}
