//! Records on their way into the store: folded keys, drafts, and the changes that put them there.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiexi_proto::{
    handle::{self, CaseRule},
    value::Value,
};

use crate::{
    json::line::{self, Record},
    store::{Action, Batch, Change, Draft, DraftValue, Expect, Space},
};

/// The key of a handle under a case rule.
#[must_use]
pub fn key(handle: &[u8], case: CaseRule) -> Vec<u8> {
    let mut key = Vec::with_capacity(handle.len());
    handle::fold(handle, case, &mut key);
    key
}

/// Puts a record, whatever is there under its handle.
#[must_use]
pub fn put(record: Record, case: CaseRule) -> Change {
    let values = record.values.into_iter().map(|value| DraftValue {
        index: value.index,
        permissions: value.permissions,
        sealed: false,
        wire: value.wire,
    });
    Change {
        space: Space::Handle,
        key: key(&record.handle, case),
        expect: Expect::Any,
        action: Action::Put(Draft {
            values: values.collect(),
            handle: Bytes::from(record.handle),
        }),
    }
}

/// Puts a record of values given in any order.
#[must_use]
pub fn put_values(handle: &[u8], values: &[Value], case: CaseRule) -> Change {
    let sorted: BTreeMap<u32, _> = values
        .iter()
        .map(|value| (value.index, line::wire(value)))
        .collect();
    put(
        Record {
            handle: handle.to_vec(),
            values: sorted.into_values().collect(),
        },
        case,
    )
}

/// Makes this node the home of a prefix, given as `0.NA/…`: a record without values in its own space.
#[must_use]
pub fn home_prefix(prefix_handle: &[u8], case: CaseRule) -> Change {
    Change {
        space: Space::Prefix,
        key: key(prefix_handle, case),
        expect: Expect::Any,
        action: Action::Put(Draft {
            handle: Bytes::copy_from_slice(prefix_handle),
            values: Vec::new(),
        }),
    }
}

/// Changes that belong together.
#[must_use]
pub fn batch(changes: Vec<Change>) -> Batch {
    Batch {
        changes,
        note: Bytes::new(),
    }
}
