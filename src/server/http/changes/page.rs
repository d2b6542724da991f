//! The changes of a poll: read out of the journal, narrowed to what the token may see, a JSON object a line.

use std::collections::HashMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use jiexi_proto::code::{Permissions, ResponseCode};
use jiexi_proto::handle;
use jiexi_proto::value::{self, admin::Admin};

use super::cursor::Cursor;
use crate::json::direct::{Direct, put_number};
use crate::json::line::bare_prefix;
use crate::json::value::text;
use crate::registry::permit::parent_of;
use crate::registry::seal::SECRET_TYPE;
use crate::registry::{Authenticated, Rejection};
use crate::server::http::App;
use crate::store::{Followed, Mark, OwnedRecord, Space};
use crate::token::Grant;

/// Octets of lines after which a page ends; the last line may go beyond.
const PAGE: usize = 1 << 20;
/// Octets of the journal that are read at once: between two pieces it is looked whether the token is still good.
const PIECE: u64 = 16 << 20;
/// Types of values that are never shown, whatever their permissions say: keys, and who administers.
const NEVER: [&[u8]; 2] = [SECRET_TYPE, Admin::TYPE];
/// Prefixes of which it is remembered whether the token's identity may list them, and that are shown as the way to a copy.
const PREFIXES_MAX: usize = 4_096;
/// Prefixes that are read at once.
const PREFIXES_PIECE: usize = 512;

/// Some changes.
#[derive(Debug)]
pub(super) struct Page {
    /// The lines.
    pub(super) text: Vec<u8>,
    /// How many.
    pub(super) lines: usize,
    /// The place behind the last change that was looked at.
    pub(super) mark: Mark,
}

/// Who follows changes.
#[derive(Clone)]
pub(super) struct Follower {
    pub(super) app: Arc<App>,
    pub(super) grant: Grant,
    pub(super) who: Authenticated,
}

impl Follower {
    /// The holder of a token.
    pub(super) fn new(app: &Arc<App>, grant: &Grant) -> Self {
        Self {
            app: Arc::clone(app),
            grant: grant.clone(),
            who: app.registry.vouch_token(grant),
        }
    }

    /// The prefixes whose handles make a whole copy: those homed here that the token is good for and its identity may list.
    /// Of a node with very many only the first. Reads the disk.
    pub(super) fn prefixes(&self) -> Result<Vec<String>, Rejection> {
        let store = &self.app.shared.store;
        let (mut found, mut last) = (Vec::new(), None::<Vec<u8>>);
        while found.len() < PREFIXES_MAX {
            let from = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let page = store.scan(Space::Prefix, from, b"", PREFIXES_PIECE);
            let page = page.map_err(|_| Rejection::busy("the records are not available now"))?;
            let Some(end) = page.last() else { break };
            last = Some(end.key().to_vec());
            for record in &page {
                if self.grant.covers(record.key()) && self.may_list(record.key())? {
                    found.push(bare_prefix(record.key()));
                }
            }
        }
        found.truncate(PREFIXES_MAX);
        Ok(found)
    }

    /// The next changes, at most `limit`; none when the journal does not tell them. Reads the disk.
    pub(super) fn read(&self, from: Mark, limit: usize) -> Result<Option<Page>, Rejection> {
        let store = &self.app.shared.store;
        let mut seen = Seen {
            follower: self,
            listed: HashMap::new(),
            lines: Lines::new(store.data_epoch()),
        };
        let mut failed = None;
        let followed = store.follow(from, PIECE, &mut |mark, change| {
            if let Err(rejection) = seen.take(mark, change) {
                failed = Some(rejection);
                return ControlFlow::Break(());
            }
            match seen.lines.count >= limit || seen.lines.text.len() >= PAGE {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        if let Some(rejection) = failed {
            return Err(rejection);
        }
        let mark = followed.map_err(|error| {
            tracing::debug!(%error, "the journal cannot be read for a follower");
            Rejection::busy("the records are not available now")
        })?;
        Ok(mark.map(|mark| Page {
            text: seen.lines.text,
            lines: seen.lines.count,
            mark,
        }))
    }

    /// Whether the identity behind the token may list the handles beside the one under `key`.
    fn may_list(&self, key: &[u8]) -> Result<bool, Rejection> {
        match self.app.registry.may_list(&self.who, key) {
            Ok(_) => Ok(true),
            Err(rejection) if rejection.code == ResponseCode::SERVER_TOO_BUSY => Err(rejection),
            Err(_) => Ok(false),
        }
    }
}

/// What was seen of the journal.
struct Seen<'a> {
    follower: &'a Follower,
    /// Whether handles of a prefix may be listed, by its key.
    listed: HashMap<Vec<u8>, bool>,
    lines: Lines,
}

impl Seen<'_> {
    /// Writes a change down, if it is one that the token may see.
    fn take(&mut self, mark: Mark, change: &Followed<'_>) -> Result<(), Rejection> {
        let visible = change.space == Space::Handle
            && self.follower.grant.covers(change.key)
            && self.is_listed(change.key)?;
        if !visible {
            return Ok(());
        }
        let Some(then) = change.put else {
            self.lines.deleted(mark, change);
            return Ok(());
        };
        // Of a record only what it is now is shown: a value may have been made restricted since.
        let store = &self.follower.app.shared.store;
        let now = store.get(Space::Handle, change.key);
        let now = now.map_err(|_| Rejection::busy("the records are not available now"))?;
        let newest = now.filter(|record| record.generation() == change.sequence);
        let handle = then.handle();
        self.lines.put(mark, change, &handle, newest.as_ref());
        Ok(())
    }

    /// As for a list of the prefix: names of handles are for those who may list them, whatever the token is for.
    fn is_listed(&mut self, key: &[u8]) -> Result<bool, Rejection> {
        let prefix = match handle::is_prefix_handle(key) {
            true => key.to_vec(),
            false => parent_of(key),
        };
        if let Some(known) = self.listed.get(&prefix) {
            return Ok(*known);
        }
        let listed = self.follower.may_list(&prefix)?;
        if self.listed.len() >= PREFIXES_MAX {
            self.listed.clear();
        }
        self.listed.insert(prefix, listed);
        Ok(listed)
    }
}

/// Lines as they are written.
struct Lines {
    epoch: u64,
    text: Vec<u8>,
    count: usize,
    direct: Direct,
}

impl Lines {
    fn new(epoch: u64) -> Self {
        Self {
            epoch,
            text: Vec::new(),
            count: 0,
            direct: Direct::default(),
        }
    }

    fn deleted(&mut self, mark: Mark, change: &Followed<'_>) {
        self.begin(change, "delete", change.key);
        self.end(mark);
    }

    /// `newest`: the record, when no later change of it is known.
    fn put(
        &mut self,
        mark: Mark,
        change: &Followed<'_>,
        name: &[u8],
        newest: Option<&OwnedRecord>,
    ) {
        self.begin(change, "put", name);
        match newest {
            None => self.text.extend_from_slice(b",\"superseded\":true"),
            Some(record) => self.values(record),
        }
        self.end(mark);
    }

    fn values(&mut self, record: &OwnedRecord) {
        self.text.extend_from_slice(b",\"values\":[");
        let mut between: &[u8] = b"";
        for entry in record.entries() {
            let kind = value::type_of(entry.wire);
            let public = entry.permissions & Permissions::PUBLIC_READ.0 != 0 && !entry.sealed;
            if !public || NEVER.iter().any(|never| kind.eq_ignore_ascii_case(never)) {
                continue;
            }
            self.text.extend_from_slice(between);
            self.direct.value(entry.wire, &mut self.text);
            between = b",";
        }
        self.text.push(b']');
    }

    fn begin(&mut self, change: &Followed<'_>, what: &str, name: &[u8]) {
        self.text.extend_from_slice(b"{\"sequence\":");
        put_number(change.sequence, &mut self.text);
        self.text.extend_from_slice(b",\"change\":");
        text(what, &mut self.text);
        self.named("handle", name);
        self.named("key", change.key);
    }

    /// A handle as a member. One that is no text has its octets beside it.
    fn named(&mut self, member: &str, name: &[u8]) {
        let mut put = |member: &str, name: &str| {
            self.text.push(b',');
            text(member, &mut self.text);
            self.text.push(b':');
            text(name, &mut self.text);
        };
        put(member, &String::from_utf8_lossy(name));
        if std::str::from_utf8(name).is_err() {
            put(&format!("{member}Hex"), &hex::encode(name));
        }
    }

    fn end(&mut self, mark: Mark) {
        let cursor = Cursor {
            epoch: self.epoch,
            mark,
        };
        self.text.extend_from_slice(b",\"cursor\":");
        text(&cursor.text(), &mut self.text);
        self.text.extend_from_slice(b"}\n");
        self.count += 1;
    }
}
