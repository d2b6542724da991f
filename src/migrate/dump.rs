//! A copy of everything that a server has becomes lines as `jiexi import` reads them, with values in wire form: nothing of
//! them is lost, timestamps and all.
//!
//! Lines come in segments. Each is imported by itself, and a record that is here with the same values is not written again:
//! so a copy that was interrupted is made anew, and goes on where it was. Prefixes come home in the last segment, when all
//! handles are here.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;
use jiexi_proto::code::Permissions;
use jiexi_proto::handle::{self, CaseRule};
use jiexi_proto::limits::HANDLE_MAX;
use jiexi_proto::value::admin::Admin;
use jiexi_proto::value::site::SiteRecord;
use jiexi_proto::value::{Value, list};
use serde_json::{Value as Json, json};
use xxhash_rust::xxh3::xxh3_128;

use super::report::REFUSALS_MAX;
use crate::bulk::Counts;
use crate::client::Block;
use crate::json::line;
use crate::registry::keys::VerifyingKey;
use crate::registry::seal;

/// Octets of lines in a segment: enough for an import to write a file of its own, few enough to have some in memory.
pub const SEGMENT: usize = 32 << 20;
/// Handles and prefixes that a report names of what is only to be known.
const NAMED_MAX: usize = 1_000;

/// What came of a copy.
#[derive(Debug)]
pub struct Dump {
    case: CaseRule,
    /// The lines of the next segment.
    lines: Vec<u8>,
    /// The keys of all handles, hashed: some servers tell handles apart that are one here.
    seen: HashSet<u128>,
    /// Handles by their prefix.
    below: BTreeMap<Vec<u8>, u64>,
    homed: BTreeSet<Vec<u8>>,
    /// Handles that came, refused ones too.
    pub received: u64,
    /// Values of those that were not refused.
    pub values: u64,
    /// Secret keys among them.
    pub secrets: u64,
    /// How many handles were refused.
    pub refused: u64,
    /// Handles that cannot be taken, and why; up to [`REFUSALS_MAX`].
    pub refusals: Vec<(String, String)>,
    /// Handles that are here with other values and were kept; up to [`REFUSALS_MAX`].
    pub kept: Vec<String>,
    /// What is taken as it is, and worth to be known: how often, and the first handle.
    pub notes: BTreeMap<&'static str, (u64, String)>,
    /// The last transaction of the server, and when that was, in milliseconds since 1970.
    pub server: Option<(i64, i64)>,
}

impl Dump {
    /// Nothing has come.
    #[must_use]
    pub fn new(case: CaseRule) -> Self {
        Self {
            case,
            lines: Vec::new(),
            seen: HashSet::new(),
            below: BTreeMap::new(),
            homed: BTreeSet::new(),
            received: 0,
            values: 0,
            secrets: 0,
            refused: 0,
            refusals: Vec::new(),
            kept: Vec::new(),
            notes: BTreeMap::new(),
            server: None,
        }
    }

    /// Takes a block.
    pub fn take(&mut self, block: &Block) {
        match block {
            Block::Server {
                date_ms,
                transaction,
            } => self.server = Some((*transaction, *date_ms)),
            Block::Record { handle, values } => {
                self.received += 1;
                if let Err(reason) = self.record(handle, values) {
                    self.refuse(&String::from_utf8_lossy(handle), reason);
                }
            }
            Block::Prefix(prefix) => self.prefix(prefix),
            Block::Other => {}
        }
    }

    /// A segment, when there is enough for one, or what there is when it is `due`.
    pub fn segment(&mut self, due: bool) -> Option<Vec<u8>> {
        let ready = self.lines.len() >= SEGMENT || due && !self.lines.is_empty();
        ready.then(|| self.rest())
    }

    /// The last segment, of a copy that was complete.
    pub fn last(&mut self) -> Vec<u8> {
        for prefix in &self.homed {
            self.lines
                .extend_from_slice(line::write_prefix(prefix).to_string().as_bytes());
            self.lines.push(b'\n');
        }
        self.rest()
    }

    /// What has come of a copy that was cut.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.lines)
    }

    /// Notes a handle that is not taken.
    pub fn refuse(&mut self, handle: &str, reason: String) {
        self.refused += 1;
        if self.refusals.len() < REFUSALS_MAX {
            self.refusals.push((handle.to_owned(), reason));
        }
    }

    /// Notes what imports have left out: handles that are here with other values, and how many were refused, of which
    /// `refusals` are as many as are named.
    pub fn left(&mut self, kept: Vec<String>, refused: u64, refusals: Vec<(String, String)>) {
        self.kept = kept;
        self.refused += refused;
        let room = REFUSALS_MAX.saturating_sub(self.refusals.len());
        self.refusals.extend(refusals.into_iter().take(room));
    }

    fn record(&mut self, handle: &Bytes, wires: &[Bytes]) -> Result<(), String> {
        let mut values = Vec::with_capacity(wires.len());
        for wire in wires {
            let value = Value::decode(wire);
            let value = value.map_err(|error| format!("value {}: {error}", values.len() + 1))?;
            values.push((value, wire));
        }
        values.sort_by_key(|(value, _)| value.index);
        let plain: Vec<Value> = values.iter().map(|(value, _)| value.clone()).collect();
        line::check_record(handle, &plain).map_err(|error| error.to_string())?;
        let key = super::key(handle, self.case);
        if !self.seen.insert(xxh3_128(&key)) {
            return Err(
                "another handle differs from it in the case of letters alone, which is one handle here: the server has \
                 case_sensitive = yes"
                    .to_owned(),
            );
        }
        for value in &plain {
            self.secrets += u64::from(seal::is_secret(&value.kind));
            if let Some(note) = oddity(value) {
                let handle = || String::from_utf8_lossy(handle).into_owned();
                self.notes.entry(note).or_insert_with(|| (0, handle())).0 += 1;
            }
        }
        if !handle::is_prefix_handle(&key) {
            let mut prefix = Vec::new();
            handle::prefix_handle(&key, &mut prefix);
            *self.below.entry(prefix).or_default() += 1;
        }
        self.values += plain.len() as u64;
        let wires: Vec<&[u8]> = values.iter().map(|(_, wire)| &wire[..]).collect();
        let text = line::write(handle, &wires, true).to_string();
        self.lines.extend_from_slice(text.as_bytes());
        self.lines.push(b'\n');
        Ok(())
    }

    fn prefix(&mut self, prefix: &Bytes) {
        let text = std::str::from_utf8(prefix).ok();
        let prefix_handle = text.and_then(|text| line::parse_prefix(text).ok());
        match prefix_handle.filter(|prefix| prefix.len() <= HANDLE_MAX) {
            Some(prefix) => drop(self.homed.insert(super::key(&prefix, self.case))),
            None => {
                let shown = String::from_utf8_lossy(prefix).into_owned();
                self.refuse(&shown, "is no prefix that can be at home here".to_owned());
            }
        }
    }

    /// Prefixes of handles that came and that are not at home there, with how many handles are below them.
    fn homeless(&self) -> impl Iterator<Item = (String, u64)> {
        let homeless = self
            .below
            .iter()
            .filter(|(prefix, _)| !self.homed.contains(*prefix));
        homeless.map(|(prefix, count)| (line::bare_prefix(prefix), *count))
    }

    /// For programs: what was asked of whom, and what `counts` say that the imports have made of it.
    #[must_use]
    pub fn json(&self, server: &str, dry_run: bool, complete: bool, counts: &Counts) -> Json {
        let homed: Vec<String> = self
            .homed
            .iter()
            .map(|prefix| line::bare_prefix(prefix))
            .collect();
        let homeless = self.homeless().take(NAMED_MAX);
        let homeless =
            homeless.map(|(prefix, handles)| json!({"prefix": prefix, "handles": handles}));
        let refusals = self.refusals.iter();
        let refusals = refusals.map(|(handle, reason)| json!({"handle": handle, "reason": reason}));
        let notes = self.notes.iter();
        let notes = notes
            .map(|(note, (values, first))| json!({"note": note, "values": values, "first": first}));
        json!({
            "dryRun": dry_run,
            "server": server,
            "complete": complete,
            "transaction": self.server.map(|(transaction, _)| transaction),
            "handles": {
                "received": self.received,
                "new": counts.records - counts.replaced,
                "same": counts.same,
                "replaced": counts.replaced,
                "kept": counts.kept,
                "refused": self.refused,
            },
            "values": self.values,
            "secrets": self.secrets,
            "prefixes": homed,
            "notHomed": homeless.collect::<Vec<_>>(),
            "refusals": refusals.collect::<Vec<_>>(),
            "kept": self.kept,
            "truncated": self.refused > self.refusals.len() as u64 || counts.kept > self.kept.len() as u64,
            "notes": notes.collect::<Vec<_>>(),
        })
    }

    /// What people are told besides the counts.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let homeless: Vec<(String, u64)> = self.homeless().collect();
        let mut out = Vec::new();
        if let Some((first, _)) = homeless.first() {
            let handles: u64 = homeless.iter().map(|(_, handles)| handles).sum();
            out.push(format!(
                "{handles} handles are below {} prefixes that are not at home there, such as {first}: this node does not \
                 answer for them before \"jiexi prefix add\"",
                homeless.len()
            ));
        }
        for (note, (values, first)) in &self.notes {
            out.push(format!(
                "{values} values: {note}, such as of {first}; they are taken as they are"
            ));
        }
        out
    }
}

/// What is odd about a value, which is taken as it is.
fn oddity(value: &Value) -> Option<&'static str> {
    let kind = value.kind.to_ascii_uppercase();
    let data = &value.data;
    match &kind[..] {
        Admin::TYPE if Admin::decode(data).is_err() => {
            Some("HS_ADMIN data that say of nobody what they may do")
        }
        list::TYPE if list::decode(data).is_err() => Some("HS_VLIST data that are no list"),
        b"HS_PUBKEY" if VerifyingKey::parse(data).is_none() => {
            Some("HS_PUBKEY data that prove nothing here")
        }
        kind if kind == b"HS_SITE" || kind.starts_with(b"HS_SITE.") => SiteRecord::decode(data)
            .is_err()
            .then_some("HS_SITE data that are no site record"),
        seal::SECRET_TYPE if value.permissions.contains(Permissions::PUBLIC_READ) => {
            Some("HS_SECKEY values that everybody may read")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use jiexi_proto::value::Ttl;

    use super::*;

    fn wire(index: u32, kind: &'static str, permissions: u8, data: Vec<u8>) -> Bytes {
        let mut out = Vec::new();
        Value {
            index,
            timestamp: 1,
            ttl: Ttl::Absolute(2),
            permissions: Permissions(permissions),
            kind: Bytes::from_static(kind.as_bytes()),
            data: data.into(),
            references: Vec::new(),
        }
        .encode(&mut out);
        out.into()
    }

    fn record(handle: &'static str, values: Vec<Bytes>) -> Block {
        let handle = Bytes::from_static(handle.as_bytes());
        Block::Record { handle, values }
    }

    /// Goal: what cannot be taken is named with its reason, and nothing else is lost for it. Method: one of each.
    #[test]
    fn what_is_refused() {
        let mut dump = Dump::new(CaseRule::Whole);
        let url = || wire(1, "URL", 0b1110, b"x".to_vec());
        let cut = || url().slice(..20);
        dump.take(&record(
            "88.118/GOOD",
            vec![wire(2, "B", 0, Vec::new()), url()],
        ));
        dump.take(&record("88.118/good", vec![url()]));
        dump.take(&record("88.118/CUT", vec![url(), cut()]));
        dump.take(&record("88.118/TWICE", vec![url(), url()]));
        dump.take(&record(
            "88.118/LARGE",
            vec![wire(1, "A", 0, vec![0; 300_000])],
        ));
        dump.take(&record("88.118/ZERO", vec![wire(0, "A", 0, Vec::new())]));
        dump.take(&record("NOSLASH", vec![url()]));
        dump.take(&Block::Prefix(Bytes::from_static(b"0.NA/88.118")));
        dump.take(&Block::Prefix(Bytes::from_static(b"0.NA/88..1")));
        dump.take(&record("88.119/X", vec![url()]));
        let reasons: Vec<(&str, &str)> = dump
            .refusals
            .iter()
            .map(|(handle, reason)| (&handle[..], &reason[..]))
            .collect();
        let expected = [
            ("88.118/good", "case_sensitive = yes"),
            ("88.118/CUT", "value 2"),
            ("88.118/TWICE", "index 1 is there twice"),
            ("88.118/LARGE", "would not fit into one message"),
            ("88.118/ZERO", "index 0 is reserved"),
            ("NOSLASH", "is not a prefix, a slash"),
            ("0.NA/88..1", "is no prefix"),
        ];
        assert_eq!(reasons.len(), expected.len(), "{reasons:?}");
        for (found, expected) in reasons.iter().zip(expected) {
            assert!(
                found.0 == expected.0 && found.1.contains(expected.1),
                "{found:?}"
            );
        }
        assert_eq!((dump.received, dump.refused, dump.values), (8, 7, 3));
        assert_eq!(
            dump.homeless().collect::<Vec<_>>(),
            [("88.119".to_owned(), 1)]
        );
        assert!(dump.segment(false).is_none(), "there is not enough for one");
        let lines = String::from_utf8(dump.last()).unwrap();
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        // In the order of their indexes.
        let second = hex::encode(wire(2, "B", 0, Vec::new()));
        assert!(lines[0].contains("88.118/GOOD") && lines[0].ends_with(&format!("{second}\"]}}")));
        assert_eq!(lines[2], "{\"prefix\":\"88.118\"}");
    }

    #[test]
    fn what_is_odd_is_taken_and_noted() {
        let mut dump = Dump::new(CaseRule::Prefix);
        let values = vec![
            wire(1, "HS_ADMIN", 0, b"x".to_vec()),
            wire(2, "hs_vlist", 0, b"x".to_vec()),
            wire(3, "HS_PUBKEY", 0, b"x".to_vec()),
            wire(4, "HS_SITE.6", 0, b"x".to_vec()),
            wire(5, "HS_SECKEY", 0b0010, b"x".to_vec()),
            wire(6, "HS_SECKEY", 0b1100, b"x".to_vec()),
        ];
        dump.take(&record("88.118/A", values.clone()));
        dump.take(&record("88.118/a", values));
        assert_eq!((dump.refused, dump.notes.len(), dump.secrets), (0, 5, 4));
        assert!(
            dump.notes
                .values()
                .all(|(count, first)| (*count, &first[..]) == (2, "88.118/A"))
        );
    }
}
