//! What the tests share: random numbers with a printed seed, small stores, records that say what they are.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use jiexi::store::{
    Action, Batch, Change, CommitError, Committed, Config, Draft, DraftValue, Expect, OwnedRecord,
    Space, Store,
};

/// Longer than anything takes, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Random numbers (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    /// A generator of a new seed, or of that in `JIEXI_TEST_SEED`; prints it.
    pub(crate) fn new(test: &str) -> Self {
        let given = std::env::var("JIEXI_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).expect("randomness");
            u64::from_be_bytes(bytes) >> 16
        });
        println!("{test}: JIEXI_TEST_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// A store for tests (with `JIEXI_TEST_LOG` its log is shown): everything small, so that segments, checkpoints and snapshots happen.
pub(crate) fn config(dir: &Path) -> Config {
    if std::env::var_os("JIEXI_TEST_LOG").is_some() {
        // Another test of this process may have done it.
        drop(
            tracing_subscriber::fmt()
                .with_ansi(false)
                .with_test_writer()
                .try_init(),
        );
    }
    Config {
        dir: dir.to_path_buf(),
        segment_bytes: 256 << 10,
        checkpoint_interval: Duration::from_millis(50),
        checkpoint_changes: 500,
        sled_cache_bytes: 32 << 20,
        guard_free_bytes: 0,
        guard_free_percent: 0,
        housekeeping_interval: Duration::from_millis(20),
        now: || 1_700_000_000,
        ..Config::default()
    }
}

/// Opens a store and waits until it is loaded.
pub(crate) fn open(config: &Config) -> Store {
    let store = Store::open(config.clone()).expect("opens");
    assert!(
        store.wait_loaded(PATIENCE).expect("loads"),
        "{store:?} is not ready"
    );
    store
}

/// A new store, open.
pub(crate) fn create(config: &Config) -> Store {
    Store::create(config).expect("created");
    open(config)
}

/// A record that says which key and version it is; several values, of a size that varies.
pub(crate) fn draft(key: &[u8], version: u64) -> Draft {
    let mut random =
        Random::seeded(version ^ key.iter().fold(7, |sum, byte| sum * 31 + u64::from(*byte)));
    // Now and then larger than a chunk in sled.
    let size = if random.below(200) == 0 {
        40_000
    } else {
        random.below(300)
    };
    let text = format!("{version}:{}", String::from_utf8_lossy(key));
    let filler: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
    let wires = [text.into_bytes(), filler, Vec::new()];
    let value = |(number, wire): (usize, Vec<u8>)| DraftValue {
        index: number as u32 + 1,
        permissions: 0b1110,
        sealed: number == 1,
        wire: Bytes::from(wire),
    };
    Draft {
        handle: Bytes::from(key.to_ascii_lowercase()),
        values: wires.into_iter().enumerate().map(value).collect(),
    }
}

/// Puts version `version` of a key.
pub(crate) fn put(space: Space, key: &[u8], version: u64) -> Change {
    Change {
        space,
        key: key.to_vec(),
        expect: Expect::Any,
        action: Action::Put(draft(key, version)),
    }
}

/// Deletes a key.
pub(crate) fn delete(space: Space, key: &[u8]) -> Change {
    Change {
        space,
        key: key.to_vec(),
        expect: Expect::Any,
        action: Action::Delete,
    }
}

pub(crate) fn batch(changes: Vec<Change>) -> Batch {
    Batch {
        changes,
        note: Bytes::from_static(b"a note"),
    }
}

/// Imports these versions of keys, the later ones last.
pub(crate) fn import(
    store: &Store,
    records: &[(Space, Vec<u8>, u64)],
) -> Result<Committed, CommitError> {
    let mut bulk = store.bulk()?;
    for some in records.chunks(100) {
        let mut slab = bulk.encoder().slab();
        for (space, key, version) in some {
            slab.put(*space, key, &draft(key, *version))?;
        }
        bulk.add(slab)?;
    }
    bulk.commit()
}

/// The version of a record, after checking every byte of it.
pub(crate) fn version(record: &OwnedRecord) -> u64 {
    let entries: Vec<_> = record.entries().collect();
    let text = std::str::from_utf8(entries[0].wire).expect("text");
    let version = text
        .split_once(':')
        .expect("a colon")
        .0
        .parse()
        .expect("a version");
    let expected = draft(record.key(), version);
    assert_eq!(*record.handle(), expected.handle[..]);
    assert_eq!(entries.len(), expected.values.len());
    for (found, expected) in entries.iter().zip(&expected.values) {
        assert_eq!(
            (found.index, found.permissions, found.sealed, found.wire),
            (
                expected.index,
                expected.permissions,
                expected.sealed,
                &expected.wire[..]
            )
        );
    }
    version
}

/// All keys of a space with their versions, by scanning.
pub(crate) fn contents(store: &Store, space: Space) -> BTreeMap<Vec<u8>, u64> {
    let mut found = BTreeMap::new();
    let mut last: Option<Vec<u8>> = None;
    loop {
        let from = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let page = store.scan(space, from, b"", 777).expect("scans");
        for record in &page {
            assert!(
                last.as_deref().is_none_or(|last| last < record.key()),
                "out of order"
            );
            last = Some(record.key().to_vec());
            found.insert(record.key().to_vec(), version(record));
        }
        if page.is_empty() {
            return found;
        }
    }
}

/// Waits until something holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Copies a directory: of a running store, that is what a crash of the process leaves.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else if entry.file_name() != "lock" {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// All files below a directory.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path))
        } else {
            found.push(path)
        }
    }
    found.sort();
    found
}
