//! Goal: readers beside a writer see whole records, each time the same or a newer one. Method: a few keys are overwritten
//! all the time, some deleted and put again, while readers look them up and scan them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use jiexi::store::{Lookup, Space, Store};

use crate::support::{batch, config, create, delete, put, version};

const KEYS: u64 = 40;
const ROUNDS: u64 = 400;

#[test]
fn readers_see_whole_and_newer_records() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(&config(dir.path()));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| read(&store, &done)))
            .collect();
        let scanner = scope.spawn(|| scan(&store, &done));
        write(&store);
        done.store(true, Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
        assert!(scanner.join().unwrap() > 0);
    });
    assert!(store.verify().unwrap().is_good());
}

fn key(number: u64) -> Vec<u8> {
    format!("K{number:02}").into_bytes()
}

fn write(store: &Store) {
    for round in 1..=ROUNDS {
        let change = |number| match number % 10 == 0 && round % 2 == 0 {
            true => delete(Space::Handle, &key(number)),
            false => put(Space::Handle, &key(number), round),
        };
        store
            .commit(batch((0..KEYS).map(change).collect()))
            .unwrap();
        if round % 50 == 0 {
            store.snapshot().unwrap();
        }
        if round == ROUNDS / 2 {
            store.rebuild().unwrap();
        }
    }
}

fn read(store: &Store, done: &AtomicBool) -> u64 {
    let reader = store.reader();
    let mut seen: HashMap<u64, (u64, u64)> = HashMap::new();
    let mut hits = 0;
    while !done.load(Relaxed) {
        let session = reader.session();
        for number in 0..KEYS {
            let known = seen.entry(number).or_default();
            match session.get(Space::Handle, &key(number)) {
                Lookup::Found(record) => {
                    let found = (record.generation(), version(&record.to_owned()));
                    assert!(found >= *known, "key {number}: {found:?} after {known:?}");
                    *known = found;
                    hits += 1;
                }
                Lookup::Absent => assert!(number % 10 == 0 || known.0 == 0, "key {number} is gone"),
                other => panic!("{other:?}"),
            }
        }
    }
    hits
}

fn scan(store: &Store, done: &AtomicBool) -> u64 {
    let mut scans = 0;
    let begin = store.stats().sequence;
    while !done.load(Relaxed) {
        // Everything but the keys that come and go is there once it was put.
        let complete = store.stats().sequence > begin;
        let found = store
            .scan(Space::Handle, std::ops::Bound::Unbounded, b"", 1_000)
            .unwrap();
        assert!(
            !complete || found.len() as u64 >= KEYS - KEYS / 10,
            "{}",
            found.len()
        );
        scans += 1;
    }
    scans
}
