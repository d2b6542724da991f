//! Goal: stores written by older versions open. Method: `fixtures/v1` was written by the first version, `fixtures/v2` by the
//! first whose snapshots have marks, `fixtures/v3` by the first that leaves out handles in lower case: journal segments, a
//! snapshot, and changes after it (no sled: that is made anew). Whoever changes a format adds a version and keeps these.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiexi::store::{Config, Space, Store};

use crate::support::{batch, config, contents, copy_tree, create, delete, open, put};

/// The version this program writes.
const VERSION: u32 = 3;

fn fixture(version: u32) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/fixtures");
    fixtures.join(format!("v{version}"))
}

fn expected() -> BTreeMap<Vec<u8>, u64> {
    let mut expected: BTreeMap<Vec<u8>, u64> =
        (0..60).map(|number| (key(number), number)).collect();
    expected.extend((10..20).map(|number| (key(number), number + 1_000)));
    expected.retain(|_, version| *version != 5);
    expected
}

fn key(number: u64) -> Vec<u8> {
    format!("88.118.{number:06}/制品{number}").into_bytes()
}

#[test]
fn every_version() {
    (1..=VERSION).for_each(opens);
}

fn opens(version: u32) {
    let dir = tempfile::tempdir().unwrap();
    copy_tree(&fixture(version), dir.path());
    let config = Config {
        segment_bytes: 8 << 10,
        ..config(dir.path())
    };
    let store = open(&config);
    let stats = store.stats();
    assert_eq!(
        (stats.epoch, stats.sequence, stats.records),
        (1, 17, 60),
        "{stats:?}"
    );
    assert_eq!(contents(&store, Space::Handle), expected());
    let prefix = store.get(Space::Prefix, b"0.NA/88.118").unwrap().unwrap();
    assert_eq!(
        (&*prefix.handle(), prefix.generation()),
        (&b"0.na/88.118"[..], 1)
    );
    store
        .commit(batch(vec![put(Space::Handle, b"NEW", 1)]))
        .unwrap();
    store.close().unwrap();
    assert_eq!(open(&config).stats().records, 61);
}

/// The snapshot of every version restores.
#[test]
fn every_snapshot() {
    (1..=VERSION).for_each(restores);
}

fn restores(version: u32) {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("restored"));
    let snapshots = crate::support::files(&fixture(version).join("snapshots"));
    let info = Store::restore(&config, &snapshots[0], 0).unwrap();
    assert_eq!((info.sequence, info.records), (7, 61));
    assert_eq!(open(&config).stats().records, 61);
}

/// Writes the fixture; only ever done once for a version.
#[test]
#[ignore = "writes the fixture of the present format"]
fn write_fixture() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        segment_bytes: 8 << 10,
        ..config(&dir.path().join("store"))
    };
    let store = create(&config);
    store
        .commit(batch(vec![put(Space::Prefix, b"0.NA/88.118", 1)]))
        .unwrap();
    for first in (0..60).step_by(10) {
        let changes = (first..first + 10).map(|number| put(Space::Handle, &key(number), number));
        store.commit(batch(changes.collect())).unwrap();
    }
    store.snapshot().unwrap();
    for number in 10..19 {
        store
            .commit(batch(vec![put(
                Space::Handle,
                &key(number),
                number + 1_000,
            )]))
            .unwrap();
    }
    let last = vec![
        put(Space::Handle, &key(19), 1_019),
        delete(Space::Handle, &key(5)),
    ];
    store.commit(batch(last)).unwrap();
    assert_eq!(contents(&store, Space::Handle), expected());
    store.close().unwrap();
    for part in ["identity", "journal", "snapshots"] {
        let from = config.dir.join(part);
        if from.is_dir() {
            copy_tree(&from, &fixture(VERSION).join(part));
        } else {
            std::fs::create_dir_all(fixture(VERSION)).unwrap();
            std::fs::copy(from, fixture(VERSION).join(part)).unwrap();
        }
    }
}
