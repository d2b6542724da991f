//! Current state and request → changes, or a rejection. Pure.
//!
//! The order of checks is the recorded one: what a request alone shows (indexes), what exists
//! (before anybody proves who they are, for create, add and modify), then rights, then the rest.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use jiexi_proto::code::{Permissions, ResponseCode};
use jiexi_proto::handle;
use jiexi_proto::value::Value;
use jiexi_proto::value::admin::{Admin, AdminRights};

use super::Rejection;
use super::permit::{Need, Permit};
use super::records::Held;

/// A change as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// A new handle, or with `overwrite` one in the place of what is there.
    Create {
        /// The handle; with `mint` what it begins with.
        handle: Bytes,
        /// Its values.
        values: Vec<Value>,
        /// Whether an existing one is replaced.
        overwrite: bool,
        /// Whether the node makes up the end of its name.
        mint: bool,
    },
    /// The handle goes.
    Delete {
        /// Which.
        handle: Bytes,
    },
    /// More values.
    Add {
        /// Of which handle.
        handle: Bytes,
        /// The values.
        values: Vec<Value>,
        /// Whether values of the same index are replaced.
        overwrite: bool,
    },
    /// Fewer values.
    Remove {
        /// Of which handle.
        handle: Bytes,
        /// The indexes.
        indexes: Vec<u32>,
    },
    /// Other values under the same indexes.
    Modify {
        /// Of which handle.
        handle: Bytes,
        /// The values.
        values: Vec<Value>,
    },
    /// This node becomes the home of a prefix.
    Home {
        /// The prefix handle, or the bare prefix.
        prefix: Bytes,
        /// The values of its record, which is created in the same commit.
        record: Option<Vec<Value>>,
    },
    /// It is no longer.
    Unhome {
        /// The prefix handle, or the bare prefix.
        prefix: Bytes,
        /// Whether its record is deleted in the same commit.
        record: bool,
    },
}

impl Request {
    /// The handle it is about, as the client wrote it.
    #[must_use]
    pub const fn handle(&self) -> &Bytes {
        match self {
            Self::Create { handle, .. }
            | Self::Delete { handle }
            | Self::Add { handle, .. }
            | Self::Remove { handle, .. }
            | Self::Modify { handle, .. }
            | Self::Home { prefix: handle, .. }
            | Self::Unhome { prefix: handle, .. } => handle,
        }
    }

    /// What it is called in the audit trail.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Delete { .. } => "delete",
            Self::Add { .. } => "add",
            Self::Remove { .. } => "remove",
            Self::Modify { .. } => "modify",
            Self::Home { record: None, .. } => "home",
            Self::Home { .. } => "home and create",
            Self::Unhome { record: false, .. } => "unhome",
            Self::Unhome { .. } => "unhome and delete",
        }
    }

    /// As [`Self::name`], of one that was carried out: what replaced something says so.
    #[must_use]
    pub const fn done_as(&self, overwritten: bool) -> &'static str {
        match self {
            Self::Create { .. } if overwritten => "overwrite",
            Self::Add { .. } if overwritten => "set",
            _ => self.name(),
        }
    }

    /// The creation of the record that a prefix is homed with, or the deletion of the one that it is unhomed with.
    #[must_use]
    pub fn record(&self) -> Option<Self> {
        let handle = |prefix: &Bytes| match prefix.contains(&b'/') {
            true => prefix.clone(),
            false => Bytes::from([handle::PREFIX_SPACE, prefix].concat()),
        };
        match self {
            Self::Home {
                prefix,
                record: Some(values),
            } => Some(Self::Create {
                handle: handle(prefix),
                values: values.clone(),
                overwrite: false,
                mint: false,
            }),
            Self::Unhome {
                prefix,
                record: true,
            } => Some(Self::Delete {
                handle: handle(prefix),
            }),
            _ => None,
        }
    }

    /// Whether it is about a prefix being homed.
    #[must_use]
    pub const fn is_homing(&self) -> bool {
        matches!(self, Self::Home { .. } | Self::Unhome { .. })
    }
}

/// What the record becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Becomes {
    /// These values, in this order.
    Values(Vec<Held>),
    /// Nothing.
    Gone,
}

/// Checks the request by itself.
///
/// # Errors
/// 102 for an unusable name, 201 for an index that comes twice, 202 for an index that is not positive.
pub fn check_request(request: &Request) -> Result<(), Rejection> {
    if request.handle().is_empty() {
        return Err(Rejection::bare(ResponseCode::INVALID_HANDLE));
    }
    let (Request::Create { values, .. }
    | Request::Add { values, .. }
    | Request::Modify { values, .. }) = request
    else {
        return Ok(());
    };
    let mut seen = HashSet::new();
    for value in values {
        if value.index == 0 || i32::try_from(value.index).is_err() {
            let text = "Value indexes must be positive";
            return Err(Rejection::new(ResponseCode::INVALID_VALUE, text));
        }
        if !seen.insert(value.index) {
            return Err(conflict(value.index));
        }
    }
    Ok(())
}

/// Checks the request against what is there, as far as that is done before anybody proves who they are.
///
/// # Errors
/// 101 for a handle that exists, 100 for one that does not, 200 for a value that does not.
pub fn check_existence(request: &Request, current: Option<&[Held]>) -> Result<(), Rejection> {
    let missing = || Rejection::bare(ResponseCode::HANDLE_NOT_FOUND);
    match request {
        Request::Create {
            overwrite: false,
            mint: false,
            ..
        } if current.is_some() => Err(Rejection::bare(ResponseCode::HANDLE_ALREADY_EXISTS)),
        Request::Modify { values, .. } => {
            let current = current.ok_or_else(missing)?;
            let known = |index| current.iter().any(|held| held.value.index == index);
            match values.iter().all(|value| known(value.index)) {
                true => Ok(()),
                false => Err(Rejection::bare(ResponseCode::VALUES_NOT_FOUND)),
            }
        }
        Request::Add { .. } | Request::Remove { .. } => current.map(drop).ok_or_else(missing),
        _ => Ok(()),
    }
}

/// The rights that the request needs, given what is there.
#[must_use]
pub fn need(request: &Request, key: &[u8], current: Option<&[Held]>) -> Need {
    let create = if handle::is_prefix_handle(key) {
        AdminRights::ADD_PREFIX
    } else {
        AdminRights::ADD_HANDLE
    };
    let found = |index: u32| {
        let held = current?.iter().find(|held| held.value.index == index);
        held.map(|held| &held.value)
    };
    let by_kind = |value: &Value, admin: AdminRights, other: AdminRights| match is_admin(value) {
        true => admin,
        false => other,
    };
    let added = |value| by_kind(value, AdminRights::ADD_ADMIN, AdminRights::ADD_VALUE);
    let changed = |value| by_kind(value, AdminRights::MODIFY_ADMIN, AdminRights::MODIFY_VALUE);
    let removed = |value| by_kind(value, AdminRights::REMOVE_ADMIN, AdminRights::REMOVE_VALUE);
    let all = |rights: &mut dyn Iterator<Item = AdminRights>| {
        Need::OnHandle(rights.fold(AdminRights(0), AdminRights::with))
    };
    match request {
        // What is overwritten goes: that needs the right to delete it as well.
        Request::Create {
            overwrite: true, ..
        } if current.is_some() => Need::OnBoth(AdminRights::DELETE_HANDLE, create),
        Request::Create { .. } => Need::OnPrefix(create),
        Request::Delete { .. } => Need::OnHandle(AdminRights::DELETE_HANDLE),
        Request::Add { values, .. } => {
            all(&mut values.iter().map(|value| match found(value.index) {
                Some(old) => added(value).with(changed(old)).with(changed(value)),
                None => added(value),
            }))
        }
        Request::Modify { values, .. } => all(&mut values.iter().map(|value| {
            let old = found(value.index).map_or(AdminRights(0), changed);
            changed(value).with(old)
        })),
        Request::Remove { indexes, .. } => all(&mut indexes.iter().map(|index| {
            // What is not there is asked for like any other value, so that a stranger learns nothing.
            found(*index).map_or(AdminRights::REMOVE_VALUE, removed)
        })),
        Request::Home { .. } | Request::Unhome { .. } => Need::Server,
    }
}

/// What the record becomes. The permit is used up; it must have been given for this need.
///
/// Timestamps are `now`; whether something that existed was overwritten is said as well.
///
/// # Errors
/// 100, 200, 201: what could not be said before it was known who asks; 401 for values that may not
/// be written by anybody, or a permit for something else.
pub fn becomes(
    request: Request,
    current: Option<Vec<Held>>,
    permit: Permit,
    key: &[u8],
    now: u32,
) -> Result<(Becomes, bool), Rejection> {
    if !permit.covers(key, need(&request, key, current.as_deref())) {
        return Err(Rejection::bare(ResponseCode::INSUFFICIENT_PERMISSIONS));
    }
    let stamped = |values: Vec<Value>| {
        let stamp = move |value| {
            Held::from(Value {
                timestamp: now,
                ..value
            })
        };
        values.into_iter().map(stamp)
    };
    let missing = || Rejection::bare(ResponseCode::HANDLE_NOT_FOUND);
    match request {
        Request::Create { values, .. } => {
            let sorted = by_index(stamped(values));
            Ok((
                Becomes::Values(sorted.into_values().collect()),
                current.is_some(),
            ))
        }
        Request::Delete { .. } => {
            current.ok_or_else(missing)?;
            Ok((Becomes::Gone, false))
        }
        Request::Add {
            values, overwrite, ..
        } => {
            let mut sorted = by_index(current.ok_or_else(missing)?.into_iter());
            let mut overwritten = false;
            for held in stamped(values) {
                let index = held.value.index;
                match sorted.get(&index) {
                    Some(_) if !overwrite => return Err(conflict(index)),
                    Some(old) => {
                        writable(old)?;
                        overwritten = true;
                    }
                    None => {}
                }
                sorted.insert(index, held);
            }
            Ok((Becomes::Values(sorted.into_values().collect()), overwritten))
        }
        Request::Modify { values, .. } => {
            let mut sorted = by_index(current.ok_or_else(missing)?.into_iter());
            for held in stamped(values) {
                let old = sorted.get(&held.value.index);
                writable(old.ok_or_else(|| Rejection::bare(ResponseCode::VALUES_NOT_FOUND))?)?;
                sorted.insert(held.value.index, held);
            }
            Ok((Becomes::Values(sorted.into_values().collect()), false))
        }
        Request::Remove { indexes, .. } => {
            let mut sorted = by_index(current.ok_or_else(missing)?.into_iter());
            let distinct: HashSet<u32> = indexes.into_iter().collect();
            for index in distinct {
                let old = sorted.remove(&index);
                writable(&old.ok_or_else(|| Rejection::bare(ResponseCode::VALUES_NOT_FOUND))?)?;
            }
            Ok((Becomes::Values(sorted.into_values().collect()), false))
        }
        Request::Home { .. } => Ok((Becomes::Values(Vec::new()), false)),
        Request::Unhome { .. } => Ok((Becomes::Gone, false)),
    }
}

fn by_index(values: impl Iterator<Item = Held>) -> BTreeMap<u32, Held> {
    values.map(|held| (held.value.index, held)).collect()
}

fn is_admin(value: &Value) -> bool {
    value.kind.eq_ignore_ascii_case(Admin::TYPE)
}

/// A value that its owner marked as not to be written stays as it is. Public writing is honoured
/// only for administrators: a node does not let strangers change its records.
fn writable(held: &Held) -> Result<(), Rejection> {
    let may = Permissions::ADMIN_WRITE.0 | Permissions::PUBLIC_WRITE.0;
    match held.value.permissions.0 & may {
        0 => Err(Rejection::new(
            ResponseCode::INSUFFICIENT_PERMISSIONS,
            "the value may not be written",
        )),
        _ => Ok(()),
    }
}

fn conflict(index: u32) -> Rejection {
    Rejection {
        code: ResponseCode::VALUE_ALREADY_EXISTS,
        text: format!("Index conflict for {index}").into(),
    }
}
