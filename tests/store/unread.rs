//! Goal: a store that is being loaded answers with every record it has, though most of them were not read yet, and never
//! with one that was replaced or deleted. Method: loading stands still before the dump of the snapshot is read, or goes
//! on while threads ask for records.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use jiexi::store::{Config, Faults, Lookup, Space, State, Store};

use crate::support::{
    PATIENCE, Random, batch, config, contents, create, delete, eventually, files, import, open,
    put, version,
};

const RECORDS: u64 = 2_000;

fn key(number: u64) -> Vec<u8> {
    format!("88.118.{:03}/PUMP-{number:06}", number % 7).into_bytes()
}

/// A store whose snapshot has a window, and whose journal replaces and deletes some of what is in both.
fn fill(config: &Config) -> BTreeMap<Vec<u8>, u64> {
    let faults = config.faults.as_deref().unwrap();
    let store = create(config);
    for first in (0..RECORDS).step_by(200) {
        let changes = (first..first + 200).map(|number| put(Space::Handle, &key(number), 1));
        store.commit(batch(changes.collect())).unwrap();
    }
    let prefix = put(Space::Prefix, b"0.NA/88.118", 1);
    store.commit(batch(vec![prefix])).unwrap();
    let change = |from: u64| {
        let put = |number| put(Space::Handle, &key(number), from);
        let delete = |number| delete(Space::Handle, &key(number));
        let puts = (from..from + 20).map(put);
        let deletes = (from + 20..from + 40).map(delete);
        store.commit(batch(puts.chain(deletes).collect())).unwrap();
    };
    // What sled, synced, has is only in the dump.
    eventually("sled has all", || {
        let stats = store.stats();
        stats.applied_sequence == stats.sequence
    });
    faults.stall_snapshot.store(true, Relaxed);
    thread::scope(|scope| {
        let taking = scope.spawn(|| store.snapshot().unwrap());
        eventually("it is being taken", || {
            files(&config.dir.join("snapshots")).len() == 1
        });
        change(100);
        faults.stall_snapshot.store(false, Relaxed);
        taking.join().unwrap();
    });
    change(300);
    change(120);
    let expected = contents(&store, Space::Handle);
    store.close().unwrap();
    expected
}

fn with_faults(dir: &Path) -> Config {
    Config {
        faults: Some(Arc::new(Faults::default())),
        ..config(dir)
    }
}

/// Opens a store that stands still before the dump.
fn open_stalled(config: &Config) -> Store {
    let faults = config.faults.as_deref().unwrap();
    faults.stall_loader.store(true, Relaxed);
    let store = Store::open(config.clone()).unwrap();
    let reader = store.reader();
    eventually("what is newer is there", || {
        matches!(
            reader.session().get(Space::Handle, &key(300)),
            Lookup::Found(_)
        )
    });
    store
}

/// Lets it go on.
fn release(config: &Config) {
    let faults = config.faults.as_deref().unwrap();
    faults.stall_loader.store(false, Relaxed);
}

#[test]
fn before_anything_of_the_dump_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let config = with_faults(dir.path());
    let expected = fill(&config);
    let store = open_stalled(&config);
    let reader = store.reader();
    let session = reader.session();
    let keys: Vec<Vec<u8>> = (0..RECORDS + 10).map(key).collect();
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let mut missing = 0;
    for keys in keys.chunks(32) {
        let mut found = [Lookup::Absent; 32];
        // A batch that takes long is not fetched to its end; asked again, it goes on.
        eventually("all is fetched", || {
            session.find(keys, &mut found);
            let known = |(key, found): (&&[u8], &Lookup<'_>)| {
                !expected.contains_key(*key) || matches!(found, Lookup::Found(_))
            };
            keys.iter().zip(&found).all(known)
        });
        for (key, found) in keys.iter().zip(found) {
            match (found, expected.get(*key)) {
                (Lookup::Found(record), Some(wanted)) => {
                    assert_eq!(version(&record.to_owned()), *wanted)
                }
                (Lookup::Loading, None) => missing += 1,
                other => panic!("{}: {other:?}", String::from_utf8_lossy(key)),
            }
        }
    }
    assert_eq!(missing, RECORDS + 10 - expected.len() as u64);
    drop(session);
    let prefix = store.get(Space::Prefix, b"0.NA/88.118").unwrap();
    assert!(prefix.is_some());
    assert_eq!(store.state(), State::Loading);
    release(&config);
    assert!(store.wait_loaded(PATIENCE).unwrap());
    assert_eq!(contents(&store, Space::Handle), expected);
    eventually("all of it is sound", || store.verify().unwrap().is_good());
}

/// Straight after an import there is no snapshot: the run is what has the records. Under a key that came twice the last one
/// counts, and what was changed since.
#[test]
fn before_anything_of_a_run_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        import_stripe_bytes: 32 << 10,
        ..with_faults(dir.path())
    };
    let store = create(&config);
    let versions = [(0..RECORDS, 1), (500..700, 2)];
    let records = versions.into_iter().flat_map(|(numbers, version)| {
        numbers.map(move |number| (Space::Handle, key(number), version))
    });
    import(&store, &records.collect::<Vec<_>>()).unwrap();
    store
        .commit(batch(vec![
            put(Space::Handle, &key(300), 3),
            delete(Space::Handle, &key(301)),
        ]))
        .unwrap();
    let expected = contents(&store, Space::Handle);
    store.close().unwrap();
    let store = open_stalled(&config);
    let reader = store.reader();
    for number in 0..RECORDS {
        let key = key(number);
        // Looking through many stripes may take too long; asked again, it does not.
        eventually("it is fetched, if it is there", || {
            match (
                reader.session().get(Space::Handle, &key),
                expected.get(&key),
            ) {
                (Lookup::Found(record), Some(wanted)) => {
                    assert_eq!(version(&record.to_owned()), *wanted);
                    true
                }
                (Lookup::Loading, wanted) => wanted.is_none(),
                other => panic!("{number}: {other:?}"),
            }
        });
    }
    let deleted = key(301);
    assert_eq!(
        reader.session().get(Space::Handle, &deleted),
        Lookup::Loading
    );
    assert_eq!(store.state(), State::Loading);
    release(&config);
    assert!(store.wait_loaded(PATIENCE).unwrap());
    assert_eq!(contents(&store, Space::Handle), expected);
    eventually("all of it is sound", || store.verify().unwrap().is_good());
}

/// What may be in very many places of a run takes longer than anybody waits for it. It is found all the same, while nothing
/// was read yet.
#[test]
fn what_takes_long_to_find() {
    const MANY: u64 = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        import_stripe_bytes: 1 << 10,
        ..with_faults(dir.path())
    };
    let store = create(&config);
    // Behind all others in order, and in the first of some two hundred stripes: it may be in each of them.
    let last = b"88.119/LAST".to_vec();
    let mut records = vec![(Space::Handle, last.clone(), 7)];
    records.extend((0..MANY).map(|number| (Space::Handle, key(number), 1)));
    import(&store, &records).unwrap();
    // What is known to be newer.
    store
        .commit(batch(vec![put(Space::Handle, &key(300), 3)]))
        .unwrap();
    store.close().unwrap();
    let store = open_stalled(&config);
    let reader = store.reader();
    eventually("it is found", || {
        match reader.session().get(Space::Handle, &last) {
            Lookup::Found(record) => {
                assert_eq!(version(&record.to_owned()), 7);
                true
            }
            found => {
                assert_eq!(found, Lookup::Loading);
                false
            }
        }
    });
    assert_eq!(store.state(), State::Loading);
    release(&config);
    assert!(store.wait_loaded(PATIENCE).unwrap());
    eventually("all of it is sound", || store.verify().unwrap().is_good());
}

/// What cannot be read may be newer than what can: nothing older is answered, and nothing of it stays.
#[test]
fn from_a_damaged_run() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        import_stripe_bytes: 32 << 10,
        ..with_faults(dir.path())
    };
    let store = create(&config);
    let versions = [(0..RECORDS, 1), (500..700, 2)];
    let records = versions.into_iter().flat_map(|(numbers, version)| {
        numbers.map(move |number| (Space::Handle, key(number), version))
    });
    import(&store, &records.collect::<Vec<_>>()).unwrap();
    store
        .commit(batch(vec![put(Space::Handle, &key(300), 3)]))
        .unwrap();
    let expected = contents(&store, Space::Handle);
    eventually("sled has all", || {
        let stats = store.stats();
        stats.applied_sequence == stats.sequence
    });
    store.close().unwrap();
    let run = files(&config.dir.join("runs")).pop().unwrap();
    damage(&run, &format!("2:{}", String::from_utf8_lossy(&key(600))));
    let store = open_stalled(&config);
    let reader = store.reader();
    for number in 500..700 {
        match reader.session().get(Space::Handle, &key(number)) {
            Lookup::Found(record) => assert_eq!(version(&record.to_owned()), 2, "{number}"),
            found => assert_eq!(found, Lookup::Loading),
        }
    }
    assert_eq!(
        reader.session().get(Space::Handle, &key(600)),
        Lookup::Loading
    );
    release(&config);
    assert!(store.wait_loaded(PATIENCE).unwrap());
    assert_eq!(contents(&store, Space::Handle), expected);
}

/// Changes a bit of this text in a file.
fn damage(file: &Path, text: &str) {
    let mut bytes = fs::read(file).unwrap();
    let at = bytes
        .windows(text.len())
        .position(|found| found == text.as_bytes());
    bytes[at.unwrap()] ^= 1;
    fs::write(file, bytes).unwrap();
}

/// Without its marks a snapshot is as good as one of the first version; a new one takes its place.
#[test]
fn without_marks() {
    let dir = tempfile::tempdir().unwrap();
    let config = with_faults(dir.path());
    let expected = fill(&config);
    let snapshots = config.dir.join("snapshots");
    let snapshot = files(&snapshots).pop().unwrap();
    damage(&snapshot, "MARK");
    let restored = with_faults(&dir.path().join("restored"));
    let info = Store::restore(&restored, &snapshot, 0).unwrap();
    for config in [&config, &restored] {
        let store = open(config);
        assert_eq!(store.state(), State::Ready);
        eventually("another snapshot takes its place", || {
            let found = store.stats().snapshots;
            matches!(&found[..], [only] if only.path.is_file() && has_marks(&only.path))
        });
        store.close().unwrap();
    }
    assert_eq!(contents(&open(&config), Space::Handle), expected);
    assert_eq!(open(&restored).stats().records, info.records);
}

fn has_marks(snapshot: &Path) -> bool {
    let bytes = fs::read(snapshot).unwrap();
    bytes.windows(4).any(|found| found == b"MARK")
}

/// While it is loaded and afterwards, when what was fetched is replaced and deleted.
#[test]
fn beside_loading_and_changes() {
    let dir = tempfile::tempdir().unwrap();
    let config = with_faults(dir.path());
    let mut expected = fill(&config);
    let mut random = Random::new("unread");
    for round in 0..10 {
        let store = Store::open(config.clone()).unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                let (reader, seed) = (store.reader(), random.next());
                let (store, expected) = (&store, &expected);
                scope.spawn(move || {
                    let mut random = Random::seeded(seed);
                    while store.state() != State::Ready {
                        let key = key(random.below(RECORDS as usize) as u64);
                        match (
                            reader.session().get(Space::Handle, &key),
                            expected.get(&key),
                        ) {
                            (Lookup::Found(record), Some(wanted)) => {
                                assert_eq!(version(&record.to_owned()), *wanted);
                            }
                            (Lookup::Loading, _) | (Lookup::Absent, None) => {}
                            other => panic!("{other:?}"),
                        }
                    }
                });
            }
        });
        assert!(store.wait_loaded(PATIENCE).unwrap());
        let version = 10_000 + round;
        let changed: Vec<_> = (0..20)
            .map(|_| key(random.below(RECORDS as usize) as u64))
            .collect();
        for (at, key) in changed.iter().enumerate() {
            let change = match at % 2 {
                0 => put(Space::Handle, key, version),
                _ => delete(Space::Handle, key),
            };
            store.commit(batch(vec![change])).unwrap();
            match at % 2 {
                0 => drop(expected.insert(key.clone(), version)),
                _ => drop(expected.remove(key)),
            }
        }
        assert_eq!(contents(&store, Space::Handle), expected);
        store.close().unwrap();
    }
}

/// What is damaged is not served, and loading takes another way, without what was fetched from this one.
#[test]
fn from_a_damaged_dump() {
    let dir = tempfile::tempdir().unwrap();
    let config = with_faults(dir.path());
    let expected = fill(&config);
    let snapshot = files(&config.dir.join("snapshots")).pop().unwrap();
    // Of one record's values, and not of its key.
    damage(
        &snapshot,
        &format!("1:{}", String::from_utf8_lossy(&key(1_000))),
    );
    let store = open_stalled(&config);
    let reader = store.reader();
    let get = |number| match reader.session().get(Space::Handle, &key(number)) {
        Lookup::Found(record) => Some(version(&record.to_owned())),
        found => {
            assert_eq!(found, Lookup::Loading);
            None
        }
    };
    eventually("one before it is fetched", || get(1).is_some());
    assert_eq!(get(1_000), None);
    release(&config);
    assert!(store.wait_loaded(PATIENCE).unwrap());
    assert_eq!(contents(&store, Space::Handle), expected);
}
