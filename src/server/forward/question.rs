//! What is asked elsewhere, and what makes two questions equal.

use bytes::Bytes;
use jiexi_proto::code::OpFlags;
use jiexi_proto::handle::CaseRule;
use jiexi_proto::message::resolution::ResolutionView;
use jiexi_proto::{MessageView, handle};

use crate::client;

/// A question as it is passed on. The name as one asker wrote it is no part of what makes two equal.
#[derive(Clone, Debug)]
pub struct Question {
    /// Handle, types and indexes, as they were written.
    pub(super) asked: client::Question,
    /// What the answer depends on: the handle, the filter, and whether restricted values are left out.
    pub(super) key: Bytes,
    /// Octets of the handle within the key.
    handle: usize,
    /// Restricted values are left out.
    pub(super) public_only: bool,
    /// Its home is to be asked whatever is remembered.
    pub(super) authoritative: bool,
    /// How many servers have passed it on. One that has come back in a circle must not wait for itself.
    pub(super) hops: u8,
}

impl PartialEq for Question {
    fn eq(&self, other: &Self) -> bool {
        (&self.key, self.authoritative, self.hops) == (&other.key, other.authoritative, other.hops)
    }
}

impl Eq for Question {}

impl std::hash::Hash for Question {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (&self.key, self.authoritative, self.hops).hash(state);
    }
}

/// Octets of the key before the handle: whether restricted values are left out.
const LEAD: usize = 1;

impl Question {
    /// A resolution without restricted values, asked here first.
    #[must_use]
    pub fn public(asked: client::Question) -> Self {
        let handle = folded(&asked.handle);
        Self {
            public_only: true,
            authoritative: false,
            hops: 0,
            key: key(&asked, &handle, true),
            handle: handle.len(),
            asked,
        }
    }

    /// The resolution in a message.
    ///
    /// The case of its prefix makes no difference anywhere; whether that of its suffix does, its home alone knows, whatever
    /// the rule of this node is.
    #[must_use]
    pub fn read(message: &MessageView<'_>) -> Option<Self> {
        let view = ResolutionView::decode(message.body).ok()?;
        let handle = folded(view.handle);
        let asked = client::Question {
            handle: Bytes::copy_from_slice(view.handle),
            types: view.types.iter().map(Bytes::copy_from_slice).collect(),
            indexes: view.indexes.iter().collect(),
        };
        let flags = message.header.flags;
        Some(Self {
            public_only: flags.contains(OpFlags::PUBL),
            authoritative: flags.contains(OpFlags::AUTH),
            hops: message.header.recursion_count,
            key: key(&asked, &handle, flags.contains(OpFlags::PUBL)),
            handle: handle.len(),
            asked,
        })
    }

    /// Its handle, with the prefix folded.
    pub(super) fn handle(&self) -> &[u8] {
        &self.key[LEAD..LEAD + self.handle]
    }

    /// Its prefix, by which questions under way are counted.
    pub(super) fn prefix(&self) -> &[u8] {
        let handle = self.handle();
        match handle::is_prefix_handle(handle) {
            true => handle,
            false => handle::split(handle).map_or(handle, |(prefix, _)| prefix),
        }
    }
}

/// A handle with its prefix folded, as it is compared.
fn folded(handle: &[u8]) -> Vec<u8> {
    let mut folded = Vec::with_capacity(handle.len() + handle::PREFIX_SPACE.len());
    handle::canonical(handle, CaseRule::Prefix, &mut folded);
    folded
}

/// The octets that are the same for all questions with the same answer, and for no other.
fn key(asked: &client::Question, handle: &[u8], public_only: bool) -> Bytes {
    let mut key = Vec::with_capacity(LEAD + handle.len() + 32);
    key.push(u8::from(public_only));
    key.extend_from_slice(handle);
    let mut number = |octets: &[u8], length: usize| {
        key.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        key.extend_from_slice(octets);
    };
    number(&[], handle.len());
    number(&[], asked.indexes.len());
    for index in &asked.indexes {
        number(&index.to_be_bytes(), 4);
    }
    for kind in &asked.types {
        number(kind, kind.len());
    }
    Bytes::from(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(handle: &str, types: &[&'static str], indexes: &[u32]) -> Bytes {
        let asked = client::Question {
            handle: Bytes::new(),
            types: types
                .iter()
                .map(|kind| Bytes::from_static(kind.as_bytes()))
                .collect(),
            indexes: indexes.to_vec(),
        };
        key(&asked, handle.as_bytes(), true)
    }

    /// Goal: no two different questions have the same key.
    #[test]
    fn keys_differ_as_questions_do() {
        let keys = [
            of("1/A", &[], &[]),
            of("1/a", &[], &[]),
            of("1/AB", &[], &[]),
            of("1/A", &["URL"], &[]),
            of("1/A", &["UR", "L"], &[]),
            of("1/A", &["URL", ""], &[]),
            of("1/A", &[], &[1]),
            of("1/A", &[], &[1, 2]),
            of("1/A", &["\0\0\0\u{1}"], &[]),
        ];
        for (place, one) in keys.iter().enumerate() {
            for other in &keys[..place] {
                assert_ne!(one, other);
            }
        }
    }
}
