//! Goal: the store does what a `BTreeMap` does. Method: random batches over a few hundred keys of all spaces, with random
//! expectations; scans, look-ups, snapshots, rebuilds and reopenings in between; after each step the two are compared.

use std::collections::BTreeMap;
use std::ops::Bound;

use jiexi::store::{Action, Change, CommitError, Config, Expect, Lookup, Space, Store};

use crate::support::{Random, batch, config, create, delete, import, open, put, version};

const STEPS: usize = 3_000;
const KEYS: usize = 150;

/// Key to generation and version.
type Model = BTreeMap<(Space, Vec<u8>), (u64, u64)>;

#[test]
fn random_operations() {
    let mut random = Random::new("oracle");
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        segment_bytes: 64 << 10,
        lag_changes: 200,
        import_stripe_bytes: 8 << 10,
        ..config(dir.path())
    };
    let mut store = create(&config);
    let mut model = Model::new();
    for step in 0..STEPS {
        match random.below(100) {
            0 => {
                store.close().unwrap();
                store = open(&config);
            }
            1 => drop(store.snapshot().unwrap()),
            3 => bulk(&store, &mut model, &mut random, step as u64),
            2 if random.below(4) == 0 => store.rebuild().unwrap(),
            2 | 4..20 => compare_scan(&store, &model, &mut random),
            20..40 => compare_find(&store, &model, &mut random),
            _ => change(&store, &mut model, &mut random, step as u64),
        }
    }
    let report = store.verify().unwrap();
    assert!(report.is_good(), "{report:?}");
    assert_eq!(report.index_records, model.len() as u64);
    compare_scan(&store, &model, &mut random);
}

fn key(random: &mut Random) -> Vec<u8> {
    let number = random.below(KEYS);
    // Short ones that are prefixes of others, and the empty one.
    b"88.118/ABCDEFGH"[..number % 15]
        .iter()
        .copied()
        .chain(number.to_string().into_bytes())
        .skip(number % 2)
        .collect()
}

fn change(store: &Store, model: &mut Model, random: &mut Random, step: u64) {
    let mut after = model.clone();
    let mut changes: Vec<Change> = Vec::new();
    let mut conflict = None;
    for number in 0..random.below(6) {
        let (space, key) = (Space::ALL[random.below(4)], key(random));
        let place = (space, key.clone());
        let found = after.get(&place).map(|(generation, _)| *generation);
        let expect = match random.below(12) {
            0 => Expect::Absent,
            1 => Expect::Present,
            2 => Expect::Generation(random.next() % (step + 1)),
            3 => found.map_or(Expect::Absent, Expect::Generation),
            _ => Expect::Any,
        };
        // A generation of this very batch is not known to the caller; leave such cases out.
        let known = changes
            .iter()
            .all(|earlier| (earlier.space, &earlier.key) != (space, &key));
        let expect = if known { expect } else { Expect::Any };
        if conflict.is_none() && !expect.holds(found) {
            conflict = Some(CommitError::Conflict {
                change: number,
                found,
            });
        }
        let change = if random.below(4) == 0 {
            delete(space, &key)
        } else {
            put(space, &key, step)
        };
        match change.action {
            Action::Put(_) => after.insert(place, (u64::MAX, step)),
            Action::Delete => after.remove(&place),
        };
        changes.push(Change { expect, ..change });
    }
    let outcome = store.commit(batch(changes));
    match (outcome, conflict) {
        (Ok(committed), None) => {
            for (generation, _) in after
                .values_mut()
                .filter(|(generation, _)| *generation == u64::MAX)
            {
                *generation = committed.sequence;
            }
            *model = after;
        }
        (Err(found), Some(expected)) => assert_eq!(found, expected),
        (found, expected) => panic!("step {step}: {found:?}, expected {expected:?}"),
    }
}

fn bulk(store: &Store, model: &mut Model, random: &mut Random, step: u64) {
    let records: Vec<_> = (0..random.below(3 * KEYS))
        .map(|_| (Space::ALL[random.below(4)], key(random), step))
        .collect();
    let committed = import(store, &records).unwrap();
    // Nobody else writes: the sequence that was kept free is the one before.
    let record = |(space, key, _)| ((space, key), (committed.sequence - 1, step));
    model.extend(records.into_iter().map(record));
}

fn compare_scan(store: &Store, model: &Model, random: &mut Random) {
    let space = Space::ALL[random.below(4)];
    let (start, prefix) = (key(random), key(random));
    let prefix = &prefix[..random.below(prefix.len() + 1)];
    let from = match random.below(3) {
        0 => Bound::Unbounded,
        1 => Bound::Included(&start[..]),
        _ => Bound::Excluded(&start[..]),
    };
    let limit = random.below(2 * KEYS);
    let found = store.scan(space, from, prefix, limit).unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|r| (r.key().to_vec(), (r.generation(), version(r))))
        .collect();
    let after = |key: &[u8]| match from {
        Bound::Unbounded => true,
        Bound::Included(from) => key >= from,
        Bound::Excluded(from) => key > from,
    };
    let expected = model
        .iter()
        .filter(|((s, k), _)| *s == space && after(k) && k.starts_with(prefix));
    let expected: Vec<_> = expected
        .map(|((_, key), value)| (key.clone(), *value))
        .take(limit)
        .collect();
    assert_eq!(found, expected);
}

fn compare_find(store: &Store, model: &Model, random: &mut Random) {
    let keys: Vec<Vec<u8>> = (0..random.below(32)).map(|_| key(random)).collect();
    let wanted: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let mut found = [Lookup::Loading; 32];
    let reader = store.reader();
    let session = reader.session();
    session.find(&wanted, &mut found);
    for (key, found) in keys.iter().zip(found) {
        let expected = model.get(&(Space::Handle, key.clone()));
        match found {
            Lookup::Found(record) => {
                assert_eq!(
                    Some(&(record.generation(), version(&record.to_owned()))),
                    expected
                );
            }
            other => assert_eq!((other, None), (Lookup::Absent, expected)),
        }
        let owned = store.get(Space::Handle, key).unwrap();
        assert_eq!(
            owned.map(|record| record.generation()),
            expected.map(|(generation, _)| *generation)
        );
    }
}
