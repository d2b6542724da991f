//! What somebody may do: a [`Permit`] is made by [`Authority::check`] and nowhere else, and the
//! change takes it by value. A change without the check does not compile:
//!
//! ```compile_fail,E0451
//! use jiexi::registry::permit::{Need, Permit};
//! # fn by() -> jiexi::registry::Identity { loop {} }
//! let forged = Permit { key: b"88.118/X".to_vec(), need: Need::Server, by: by() };
//! ```
//!
//! and one permission is good for one change:
//!
//! ```compile_fail,E0382
//! use jiexi::registry::{Rejection, permit::Permit, plan::{Request, becomes}};
//! fn twice(first: Request, second: Request, permit: Permit) -> Result<(), Rejection> {
//!     becomes(first, None, permit, b"88.118/X", 0)?;
//!     becomes(second, None, permit, b"88.118/X", 0)?;
//!     Ok(())
//! }
//! ```
//!
//! Rights come from `HS_ADMIN` values of the handle, of its prefix, and from the configured list of
//! server administrators. An `HS_ADMIN` names an identity or a group (`HS_VLIST`), whose members
//! may be groups again, within bounds.

use std::collections::HashSet;

use jiexi_proto::code::ResponseCode;
use jiexi_proto::handle;
use jiexi_proto::value::admin::{Admin, AdminRights};
use jiexi_proto::value::{Reference, Value, list};

use super::Rejection;
use super::auth::{Authenticated, Identity};
use super::records::{Held, Records, Unavailable};

/// How deep groups may be nested.
pub const GROUP_DEPTH_MAX: usize = 8;
/// How many values one decision may visit in search of a member.
pub const GROUP_VISITS_MAX: usize = 1_024;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Rights in the `HS_ADMIN` values of the handle itself; rights given by its prefix count too.
    OnHandle(AdminRights),
    /// Rights in the `HS_ADMIN` values of the prefix of the handle.
    OnPrefix(AdminRights),
    /// Both: the first on the handle, the second on its prefix.
    OnBoth(AdminRights, AdminRights),
    /// To be a server administrator.
    Server,
}

/// The permission to do one thing to one handle. Not `Clone`: it is used up.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permission is there to be used"]
pub struct Permit {
    key: Vec<u8>,
    need: Need,
    by: Identity,
}

impl Permit {
    /// The folded handle it is for.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Whether it is for this, and at least for that.
    #[must_use]
    pub fn covers(&self, key: &[u8], need: Need) -> bool {
        self.key == key && self.need == need
    }

    /// Who got it.
    #[must_use]
    pub const fn by(&self) -> &Identity {
        &self.by
    }
}

/// Who administers, besides what the records say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Server administrators: they home prefixes.
    pub server_admins: Vec<Identity>,
    /// Replication administrators: they copy the whole node.
    pub replication_admins: Vec<Identity>,
    /// Whether server administrators have every right on every handle.
    pub server_admin_full_access: bool,
    /// Whether the administrators of a prefix have their rights on the handles below it.
    pub prefix_admins: bool,
}

/// Whom rights are looked for.
#[derive(Clone, Copy, Debug)]
struct Who<'a> {
    handle: &'a [u8],
    /// What was claimed, and the value whose key proved it.
    indexes: [u32; 2],
}

impl Who<'_> {
    /// Whether a list that names `member` means them; index 0 means every key of the handle.
    fn is(&self, member: &Identity) -> bool {
        self.handle == member.handle && (member.index == 0 || self.indexes.contains(&member.index))
    }
}

/// Decides about rights.
#[derive(Debug)]
pub struct Authority<'a> {
    /// The records.
    pub records: &'a Records,
    /// The configured part.
    pub config: &'a Config,
}

impl Authority<'_> {
    /// Whether `who` may do what needs `need` to the handle under `key`; `current` are its values.
    ///
    /// # Errors
    /// 400 when they are no administrator here at all, 401 when they lack the right, 3 when the
    /// store cannot say.
    pub fn check(
        &self,
        who: &Authenticated,
        key: &[u8],
        current: &[Held],
        need: Need,
    ) -> Result<Permit, Rejection> {
        let by = who.identity().clone();
        let permit = || Permit {
            key: key.to_vec(),
            need,
            by,
        };
        let server = self.is_server_admin(who);
        let by_running = who.is_local();
        let who = Who {
            handle: &who.identity().handle,
            indexes: who.indexes(),
        };
        let every_right = self.config.server_admin_full_access || need == Need::Server;
        if by_running || (server && every_right) {
            return Ok(permit());
        }
        let mut visits = 0;
        let (known, enough) = match need {
            Need::Server => (false, false),
            Need::OnHandle(wanted) => {
                let rights = self.on_handle(who, key, current, &mut visits)?;
                (rights.is_some(), has(rights, wanted))
            }
            Need::OnPrefix(wanted) => {
                let rights = self.on_prefix(who, key, &mut visits)?;
                (rights.is_some(), has(rights, wanted))
            }
            Need::OnBoth(own, above) => {
                let handle = self.on_handle(who, key, current, &mut visits)?;
                let prefix = self.on_prefix(who, key, &mut visits)?;
                (
                    handle.or(prefix).is_some(),
                    has(handle, own) && has(prefix, above),
                )
            }
        };
        if enough {
            Ok(permit())
        } else if known {
            Err(Rejection::bare(ResponseCode::INSUFFICIENT_PERMISSIONS))
        } else {
            Err(Rejection::bare(ResponseCode::INVALID_ADMIN))
        }
    }

    /// Whether an identity that proved nothing is named at all where `need` looks for rights.
    ///
    /// # Errors
    /// 3 when the store cannot say.
    pub fn knows(
        &self,
        claimed: &Identity,
        key: &[u8],
        current: &[Held],
        need: Need,
    ) -> Result<bool, Rejection> {
        let who = Who {
            handle: &claimed.handle,
            indexes: [claimed.index; 2],
        };
        let admins = self.config.server_admins.iter();
        if admins.fold(false, |found, admin| found | who.is(admin)) {
            return Ok(true);
        }
        let mut visits = 0;
        let rights = match need {
            Need::Server => None,
            Need::OnPrefix(_) => self.on_prefix(who, key, &mut visits)?,
            Need::OnHandle(_) | Need::OnBoth(..) => {
                let own = self.on_handle(who, key, current, &mut visits)?;
                let above = self.on_prefix(who, key, &mut visits)?;
                own.or(above)
            }
        };
        Ok(rights.is_some())
    }

    /// Whether `who` is in the configured list.
    #[must_use]
    pub fn is_server_admin(&self, who: &Authenticated) -> bool {
        let admins = self.config.server_admins.iter();
        admins.fold(false, |found, admin| {
            found | who.is(&admin.handle, admin.index)
        })
    }

    /// Whether `who` may copy the node.
    #[must_use]
    pub fn is_replication_admin(&self, who: &Authenticated) -> bool {
        let admins = self.config.replication_admins.iter();
        admins.fold(false, |found, admin| {
            found | who.is(&admin.handle, admin.index)
        })
    }

    /// The rights that the handle itself gives, and those that its prefix gives on all handles.
    fn on_handle(
        &self,
        who: Who<'_>,
        key: &[u8],
        current: &[Held],
        visits: &mut usize,
    ) -> Result<Option<AdminRights>, Unavailable> {
        let own = self.rights_in(who, current, visits)?;
        if !self.config.prefix_admins {
            return Ok(own);
        }
        let mut above = self.on_prefix(who, key, visits)?;
        if handle::is_prefix_handle(key)
            && let Some(rights) = &mut above
        {
            // What the parent may do to a derived prefix is said by its rights on prefixes.
            let maps = [
                (AdminRights::DELETE_PREFIX, AdminRights::DELETE_HANDLE),
                (AdminRights::LIST_HANDLES, AdminRights::LIST_HANDLES),
            ];
            let mut mapped = AdminRights(0);
            for (given, meant) in maps {
                if rights.contains(given) {
                    mapped = mapped.with(meant);
                }
            }
            *rights = mapped;
        }
        Ok(match (own, above) {
            (Some(own), Some(above)) => Some(own.with(above)),
            (own, above) => own.or(above),
        })
    }

    /// The rights that the record of the prefix gives: of the parent, when this is a prefix.
    fn on_prefix(
        &self,
        who: Who<'_>,
        key: &[u8],
        visits: &mut usize,
    ) -> Result<Option<AdminRights>, Unavailable> {
        let prefix = parent_of(key);
        if prefix == key {
            return Ok(None);
        }
        let Some(record) = self.records.record(&prefix)? else {
            return Ok(None);
        };
        self.rights_in(who, &self.records.held(&record)?, visits)
    }

    /// The rights that these values give; none when they do not name `who` at all.
    fn rights_in(
        &self,
        who: Who<'_>,
        values: &[Held],
        visits: &mut usize,
    ) -> Result<Option<AdminRights>, Unavailable> {
        let mut found: Option<AdminRights> = None;
        let values = values.iter().map(|held| &held.value);
        for value in values.filter(|value| value.kind == Admin::TYPE) {
            let Ok(admin) = Admin::decode(&value.data) else {
                continue;
            };
            if self.names(who, &admin.admin, visits)? {
                found = Some(found.unwrap_or_default().with(admin.rights));
            }
        }
        Ok(found)
    }

    /// Whether a reference is `who`, or a group with `who` in it.
    fn names(
        &self,
        who: Who<'_>,
        reference: &Reference,
        visits: &mut usize,
    ) -> Result<bool, Unavailable> {
        let mut seen = HashSet::new();
        let mut level = vec![Identity::of(reference, self.records)];
        for _ in 0..=GROUP_DEPTH_MAX {
            let mut next = Vec::new();
            for member in level {
                *visits += 1;
                if *visits > GROUP_VISITS_MAX {
                    return Ok(false);
                }
                if who.is(&member) {
                    return Ok(true);
                }
                if seen.insert(member.clone()) {
                    self.members(&member, &mut next)?;
                }
            }
            level = next;
        }
        Ok(false)
    }

    /// Adds the members of a group; nothing when it is no group, or not at home here.
    fn members(&self, group: &Identity, out: &mut Vec<Identity>) -> Result<(), Unavailable> {
        let Some(record) = self.records.record(&group.handle)? else {
            return Ok(());
        };
        let view = record.entries().find(|entry| entry.index == group.index);
        let Some(entry) = view.filter(|entry| !entry.sealed) else {
            return Ok(());
        };
        let Ok(value) = Value::decode(&bytes::Bytes::copy_from_slice(entry.wire)) else {
            return Ok(());
        };
        if value.kind == list::TYPE
            && let Ok(references) = list::decode(&value.data)
        {
            let members = references.iter().take(GROUP_VISITS_MAX);
            out.extend(members.map(|reference| Identity::of(reference, self.records)));
        }
        Ok(())
    }
}

/// The record that says who administers what is below it: `0.NA/<prefix>` for a handle, the parent
/// for a prefix, the root for one without a parent.
#[must_use]
pub fn parent_of(key: &[u8]) -> Vec<u8> {
    let mut parent = Vec::new();
    if handle::is_prefix_handle(key) {
        let prefix = key.get(handle::PREFIX_SPACE.len()..).unwrap_or_default();
        match prefix.iter().rposition(|octet| *octet == b'.') {
            Some(dot) if key != handle::ROOT => {
                parent.extend_from_slice(&key[..handle::PREFIX_SPACE.len() + dot]);
                return parent;
            }
            _ => {
                parent.extend_from_slice(handle::ROOT);
                return parent;
            }
        }
    }
    handle::prefix_handle(key, &mut parent);
    parent
}

fn has(rights: Option<AdminRights>, wanted: AdminRights) -> bool {
    rights.is_some_and(|rights| rights.contains(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents() {
        for (key, parent) in [
            (&b"88.118/X"[..], &b"0.NA/88.118"[..]),
            (b"0.NA/88.118", b"0.NA/88"),
            (b"0.NA/88", b"0.NA/0.NA"),
            (b"0.NA/0.NA", b"0.NA/0.NA"),
        ] {
            assert_eq!(parent_of(key), parent);
        }
    }
}
