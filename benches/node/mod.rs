//! A node without sockets that holds generated records, for benches of its parts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiexi::bench::records::Records;
use jiexi::bench::wire::Value;
use jiexi::server::handle::Shared;
use jiexi::server::limit::Limit;
use jiexi::store::{Action, Batch, Change, Config, Draft, DraftValue, Expect, Space, Store};
use jiexi_proto::handle::{self, CaseRule};

/// The prefix that is homed.
pub(crate) const PREFIX: &str = "88.118";
/// A prefix below it that refers to another node.
const REFERRING: &[u8] = b"0.NA/88.118.9";
/// Records in one commit.
const COMMIT: u64 = 1_000;

/// What the workers of the node share.
pub(crate) fn shared(directory: &Path, count: u64) -> Shared {
    Shared {
        store: Arc::new(store(directory, count)),
        case: CaseRule::Whole,
        site: Bytes::new(),
        site_serial: 1,
        desk: None,
        forwarder: None,
        anonymous: Limit::default(),
    }
}

fn store(directory: &Path, count: u64) -> Store {
    let config = Config {
        dir: directory.join("store"),
        ..Config::default()
    };
    Store::create(&config).expect("a store");
    let store = Store::open(config).expect("opens");
    assert!(
        store.wait_ready(Duration::from_secs(60)),
        "the store gets ready"
    );
    let commit = |changes| {
        let note = Bytes::new();
        store.commit(Batch { changes, note }).expect("committed")
    };
    let site = Value {
        index: 1,
        kind: "HS_SITE.PREFIX",
        data: &[0; 200],
    };
    commit(vec![
        change(Space::Prefix, b"0.NA/88.118", Vec::new()),
        change(Space::Handle, REFERRING, vec![draft(&site)]),
    ]);
    let records = Records::new(PREFIX, count);
    for first in (0..count).step_by(COMMIT as usize) {
        let record = |number| {
            change(
                Space::Handle,
                &name(&records, number),
                values(&records, number),
            )
        };
        commit((first..count.min(first + COMMIT)).map(record).collect());
    }
    store
}

/// The handle of a record.
pub(crate) fn name(records: &Records, number: u64) -> Vec<u8> {
    let mut name = Vec::new();
    records.handle(number, &mut name);
    name
}

fn values(records: &Records, number: u64) -> Vec<DraftValue> {
    let mut values = Vec::new();
    records.values(number, |value| values.push(draft(&value)));
    values
}

fn draft(value: &Value<'_>) -> DraftValue {
    let mut wire = Vec::new();
    value.encode(&mut wire);
    DraftValue {
        index: value.index,
        permissions: 0b1110,
        sealed: false,
        wire: Bytes::from(wire),
    }
}

/// The key of a handle.
pub(crate) fn folded(name: &[u8]) -> Vec<u8> {
    let mut key = Vec::new();
    handle::fold(name, CaseRule::Whole, &mut key);
    key
}

fn change(space: Space, name: &[u8], values: Vec<DraftValue>) -> Change {
    let handle = Bytes::copy_from_slice(name);
    Change {
        space,
        key: folded(name),
        expect: Expect::Absent,
        action: Action::Put(Draft { handle, values }),
    }
}
