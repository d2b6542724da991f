//! Handles and prefixes, changed and shown for whoever runs the node: through the control socket of a running one, or
//! directly on the files of a stopped one. The decisions, the audit trail and the store are those of every change.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Bound;

use bytes::Bytes;
use getrandom::SysRng;
use jiexi_proto::code::ResponseCode;
use jiexi_proto::handle;
use jiexi_proto::message::Message;
use jiexi_proto::value::site::SiteRecord;

use super::command::{Ask, Octets, PrefixRow, Standing, Told};
use crate::client::Operation;
use crate::identity;
use crate::json::line;
use crate::registry::audit::{Audit, Event};
use crate::registry::plan::Request;
use crate::registry::{Authenticated, NotDone, Registry, Rejection, Unavailable};
use crate::server::handle::desk::change_of;
use crate::store::{OwnedRecord, Space, Store};

/// Where the audit trail says that such changes come from.
const SOURCE: &str = "local";
/// Records read at once.
const PAGE: usize = 1_000;

/// Carries out what user `uid` asks for, who is known to run this node; lists go to `lines`. `now` is Unix seconds.
///
/// # Errors
/// `lines` takes no more. That something is refused is an outcome.
pub fn perform(
    registry: &Registry,
    ask: &Ask,
    uid: u32,
    now: u32,
    lines: &mut impl Write,
) -> io::Result<Told> {
    let who = Authenticated::local(uid);
    let told = match ask {
        Ask::Change { requests } => change(registry, requests, &who, now),
        Ask::Read { handle, unhomed } => read(registry, &handle.0, *unhomed, &who),
        Ask::ReadMany { handles, unhomed } => {
            Ok(Told::Records(read_many(registry, handles, *unhomed, &who)))
        }
        Ask::Standing => {
            let store = &registry.records.store;
            Ok(Told::Standing(Standing {
                epoch: store.data_epoch(),
                sequence: store.sequence(),
            }))
        }
        Ask::List { prefix } => return list(registry, &prefix.0, &who, lines),
        Ask::Prefixes => return prefixes(&registry.records.store, lines),
    };
    Ok(told.unwrap_or_else(refused))
}

/// How these changes are asked for: all of them or none. `now` is Unix seconds.
#[must_use]
pub fn asked(requests: &[Request], now: u32) -> Ask {
    let encoded = requests.iter().map(|request| {
        let message = Operation::from(request).message(jiexi_proto::Version::CURRENT, 0, now);
        let mut out = Vec::new();
        message.encode(&mut out);
        Octets(out)
    });
    Ask::Change {
        requests: encoded.collect(),
    }
}

/// Writes down that user `uid` imported or restored, which is one event whatever it changed; `change` is the place in the
/// journal of the last change if there is any.
pub fn note_whole(
    audit: &Audit,
    operation: &str,
    uid: u32,
    now: u32,
    good: bool,
    change: Option<u64>,
) {
    let who = Authenticated::local(uid);
    let code = match good {
        true => ResponseCode::SUCCESS,
        false => ResponseCode::ERROR,
    };
    audit.record(&Event {
        time: now.into(),
        identity: Some(who.identity()),
        source: SOURCE.to_owned(),
        operation,
        handle: b"",
        result: if good { "committed" } else { "failed" },
        code: code.0,
        change,
    });
}

fn refused(rejection: Rejection) -> Told {
    refused_at(rejection, None)
}

fn refused_at(rejection: Rejection, place: Option<usize>) -> Told {
    Told::Refused {
        code: rejection.code.0,
        message: rejection.text.into_owned(),
        place,
    }
}

fn change(
    registry: &Registry,
    requests: &[Octets],
    who: &Authenticated,
    now: u32,
) -> Result<Told, Rejection> {
    let unreadable = || Rejection::new(ResponseCode::PROTOCOL_ERROR, "a request is not readable");
    let requests: Option<Vec<Request>> = requests
        .iter()
        .map(|octets| {
            let message = Message::decode(&Bytes::copy_from_slice(&octets.0)).ok()?;
            change_of(&message)
        })
        .collect();
    let requests = requests.ok_or_else(unreadable)?;
    let done = match registry.carry_out(&requests, who, SOURCE, now, &mut SysRng) {
        Ok(done) => done,
        Err(NotDone { place, rejection }) => return Ok(refused_at(rejection, place)),
    };
    let handles = done.handles.iter().map(|handle| Octets(handle.to_vec()));
    Ok(Told::Changed {
        handles: handles.collect(),
        overwritten: done.overwritten,
        standing: Standing {
            epoch: registry.records.store.data_epoch(),
            sequence: done.sequence,
        },
    })
}

/// The record of a handle; one below a prefix that is not homed only where such are asked for.
fn read(
    registry: &Registry,
    handle: &[u8],
    unhomed: bool,
    who: &Authenticated,
) -> Result<Told, Rejection> {
    let records = &registry.records;
    let key = records.key(handle);
    if !unhomed && !records.is_responsible(&key)? {
        return Err(Rejection::bare(ResponseCode::SERVER_NOT_RESPONSIBLE));
    }
    let missing = || Rejection::bare(ResponseCode::HANDLE_NOT_FOUND);
    let written = records.record(&key)?.ok_or_else(missing)?;
    let values = registry.open_values(registry.may_read(who, &key)?)?;
    let wire = |value: &jiexi_proto::Value| {
        let mut out = Vec::new();
        value.encode(&mut out);
        Octets(out)
    };
    Ok(Told::Values {
        handle: Octets(written.handle().into_owned()),
        values: values.iter().map(wire).collect(),
    })
}

/// As [`read`], of as many handles as fit into a frame as text with the largest record behind them.
fn read_many(
    registry: &Registry,
    handles: &[Octets],
    unhomed: bool,
    who: &Authenticated,
) -> Vec<Told> {
    const ROOM: usize = 128 << 10;
    /// Names and punctuation of one, and of a value of it.
    const AROUND: usize = 64;
    let (mut records, mut octets) = (Vec::new(), 0);
    for handle in handles {
        let told = read(registry, &handle.0, unhomed, who).unwrap_or_else(refused);
        octets += AROUND + handle.0.len();
        if let Told::Values { values, .. } = &told {
            octets += values.iter().map(|value| 2 + value.0.len()).sum::<usize>();
        }
        records.push(told);
        if octets >= ROOM {
            break;
        }
    }
    records
}

fn list(
    registry: &Registry,
    prefix: &[u8],
    who: &Authenticated,
    lines: &mut impl Write,
) -> io::Result<Told> {
    let records = &registry.records;
    let key = records.key(prefix);
    let allowed = match records.is_homed(&key) {
        Ok(true) => registry.may_list(who, &key),
        Ok(false) => Err(Rejection::bare(ResponseCode::SERVER_NOT_RESPONSIBLE)),
        Err(unavailable) => Err(unavailable.into()),
    };
    let permit = match allowed {
        Ok(permit) => permit,
        Err(rejection) => return Ok(refused(rejection)),
    };
    let bare = permit.key().get(handle::PREFIX_SPACE.len()..);
    let below = [bare.unwrap_or_default(), b"/"].concat();
    let mut count = 0;
    let ended = each(&records.store, Space::Handle, &below, |record| {
        count += 1;
        let handle = record.handle();
        let name = String::from_utf8_lossy(&handle);
        writeln!(lines, "{}", serde_json::Value::from(name))
    })?;
    Ok(ended.map_or_else(refused, |()| Told::Listed { count }))
}

fn prefixes(store: &Store, lines: &mut impl Write) -> io::Result<Told> {
    let mut rows: BTreeMap<Vec<u8>, PrefixRow> = BTreeMap::new();
    let mut note = |record: &OwnedRecord, hosted: bool| {
        let row = rows.entry(record.key.clone()).or_insert_with(|| PrefixRow {
            prefix: line::bare_prefix(&record.handle()),
            hosted: false,
            sites: Vec::new(),
        });
        row.hosted |= hosted;
        row.sites.extend(sites(record));
        Ok(())
    };
    let mut ended = each(store, Space::Prefix, b"", |record| note(&record, true))?;
    if ended.is_ok() {
        let space = handle::PREFIX_SPACE;
        ended = each(store, Space::Handle, space, |record| note(&record, false))?;
    }
    if let Err(rejection) = ended {
        return Ok(refused(rejection));
    }
    let mut count = 0;
    // A prefix record that names no site and is not at home here says nothing about where the prefix is.
    for row in rows
        .values()
        .filter(|row| row.hosted || !row.sites.is_empty())
    {
        writeln!(lines, "{}", serde_json::to_string(row)?)?;
        count += 1;
    }
    Ok(Told::Listed { count })
}

/// Where the site values of a record say that the prefix is at home.
fn sites(record: &OwnedRecord) -> Vec<String> {
    let wire = record.entries().filter(|entry| !entry.sealed);
    let values = wire
        .filter_map(|entry| jiexi_proto::Value::decode(&Bytes::copy_from_slice(entry.wire)).ok());
    let sites = values.filter(|value| {
        let kind = &value.kind[..];
        kind == b"HS_SITE" || kind == b"HS_SITE.6"
    });
    sites
        .filter_map(|value| SiteRecord::decode(&value.data).ok())
        .flat_map(|site| identity::addresses(&site))
        .collect()
}

/// Hands every record below `prefix` to `take`.
fn each(
    store: &Store,
    space: Space,
    prefix: &[u8],
    mut take: impl FnMut(OwnedRecord) -> io::Result<()>,
) -> io::Result<Result<(), Rejection>> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let records = match store.scan(space, from, prefix, PAGE) {
            Ok(records) => records,
            Err(error) => return Ok(Err(Unavailable::from(error).into())),
        };
        let unfinished = records.len() == PAGE;
        after = records.last().map(|record| record.key.clone());
        for record in records {
            take(record)?;
        }
        if !unfinished {
            return Ok(Ok(()));
        }
    }
}
