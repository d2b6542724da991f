//! Goal: what the interface promises, one promise a test.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use jiexi::store::metrics::{Part, Result as Outcome};
use jiexi::store::{
    Action, Change, CommitError, Config, Draft, DraftValue, Expect, Faults, Lookup, Space, State,
    Store, StoreError,
};
use jiexi_proto::handle::CaseRule;

use crate::support::{
    PATIENCE, batch, config, contents, create, delete, eventually, open, put, version,
};

/// A batch of which one expectation fails changes nothing, and says which one.
#[test]
fn expectations() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(&config(dir.path()));
    let first = store
        .commit(batch(vec![put(Space::Handle, b"A", 1)]))
        .unwrap();
    let expecting = |expect, change: Change| Change { expect, ..change };
    let cases = [
        (Expect::Absent, &b"A"[..], Some(Some(first.sequence))),
        (Expect::Present, b"B", Some(None)),
        (
            Expect::Generation(first.sequence + 5),
            b"A",
            Some(Some(first.sequence)),
        ),
        (Expect::Generation(first.sequence), b"B", Some(None)),
        (Expect::Present, b"A", None),
        (Expect::Absent, b"B", None),
    ];
    for (number, (expect, key, refused)) in cases.into_iter().enumerate() {
        let version = 100 + number as u64;
        let changes = vec![
            put(Space::Handle, b"C", version),
            expecting(expect, put(Space::Handle, key, version)),
        ];
        let outcome = store.commit(batch(changes));
        assert_eq!(
            outcome.clone().err(),
            refused.map(|found| CommitError::Conflict { change: 1, found })
        );
        let other = store
            .get(Space::Handle, b"C")
            .unwrap()
            .map(|record| version_of(&record));
        assert_eq!(other == Some(version), outcome.is_ok(), "all or nothing");
    }
    // Within one batch, a change sees those before it.
    let changes = vec![
        delete(Space::Handle, b"A"),
        expecting(Expect::Absent, put(Space::Handle, b"A", 7)),
        expecting(Expect::Present, delete(Space::Handle, b"A")),
    ];
    store.commit(batch(changes)).unwrap();
    assert_eq!(store.get(Space::Handle, b"A").unwrap(), None);
    assert!(store.verify().unwrap().is_good(), "{:?}", store.verify());
}

fn version_of(record: &jiexi::store::OwnedRecord) -> u64 {
    version(record)
}

/// Keys of different spaces never meet, and only changes in a space let its epoch grow.
#[test]
fn spaces() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(&config(dir.path()));
    let before = store.epoch(Space::Prefix);
    for (version, space) in Space::ALL.into_iter().enumerate() {
        store
            .commit(batch(vec![put(space, b"0.NA/88", version as u64)]))
            .unwrap();
    }
    assert!(store.epoch(Space::Prefix) > before);
    assert_eq!(store.epoch(Space::Handle), 0);
    let before = store.epoch(Space::Prefix);
    store
        .commit(batch(vec![delete(Space::Business, b"0.NA/88")]))
        .unwrap();
    assert_eq!(store.epoch(Space::Prefix), before);
    let reader = store.reader();
    let session = reader.session();
    assert!(matches!(
        session.get(Space::Prefix, b"0.NA/88"),
        Lookup::Found(_)
    ));
    assert_eq!(session.get(Space::Business, b"0.NA/88"), Lookup::Absent);
    let mut found = [Lookup::Loading; 2];
    session.find(&[b"0.NA/88", b"0.NA/89"], &mut found);
    assert!(matches!(found[0], Lookup::Found(record) if *record.handle() == *b"0.na/88"));
    assert_eq!(found[1], Lookup::Absent);
}

/// What is too large is refused; what is just not too large is kept, in all sizes around those of sled's chunks.
#[test]
fn sizes() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let store = create(&config);
    let big = |key: &[u8], length: usize| Change {
        space: Space::Handle,
        key: key.to_vec(),
        expect: Expect::Any,
        action: Action::Put(Draft {
            handle: Bytes::copy_from_slice(key),
            values: vec![DraftValue {
                index: 1,
                permissions: 15,
                sealed: false,
                wire: Bytes::from(vec![key[0]; length]),
            }],
        }),
    };
    let overhead = 14 + 10 + 8;
    assert_eq!(
        store
            .commit(batch(vec![big(b"X", 262_145 - overhead)]))
            .unwrap_err(),
        CommitError::TooLarge
    );
    assert_eq!(
        store
            .commit(batch(vec![delete(Space::Handle, &[b'k'; 4097])]))
            .unwrap_err(),
        CommitError::TooLarge
    );
    let lengths = [
        0,
        32_767 - overhead,
        32_768 - overhead,
        32_769 - overhead,
        65_536,
        262_144 - overhead,
    ];
    for length in lengths {
        store
            .commit(batch(vec![big(format!("K{length}").as_bytes(), length)]))
            .unwrap();
        // Over a large one a small one, and over a small one a large one.
        store.commit(batch(vec![big(b"SAME", length)])).unwrap();
        store
            .commit(batch(vec![big(b"SAME", 262_144 - overhead - length)]))
            .unwrap();
    }
    store.close().unwrap();
    let store = open(&config);
    for length in lengths {
        let record = store
            .get(Space::Handle, format!("K{length}").as_bytes())
            .unwrap()
            .unwrap();
        assert_eq!(record.wire(), vec![b'K'; length]);
    }
    assert_eq!(
        store
            .get(Space::Handle, b"SAME")
            .unwrap()
            .unwrap()
            .wire()
            .len(),
        0
    );
    let report = store.verify().unwrap();
    assert!(report.is_good(), "{report:?}");
}

/// A full queue says so at once to those who do not wait, and everything that was taken is carried out.
#[test]
fn bounded_queue() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let config = Config {
        queue_batches: 4,
        lag_changes: 2,
        faults: Some(Arc::clone(&faults)),
        ..config(dir.path())
    };
    let store = create(&config);
    store.rebuild().unwrap();
    let errors = store.metrics().errors(Part::Sled);
    assert_eq!(errors, 0, "what was asked for is no error");
    faults.stall_applier.store(true, Relaxed);
    let (send, outcomes) = channel();
    for number in 0..50 {
        let send = send.clone();
        let changes = vec![put(Space::Handle, format!("K{number}").as_bytes(), number)];
        store.submit(batch(changes), move |outcome| {
            send.send((number, outcome)).unwrap()
        });
    }
    drop(send);
    let (number, refused) = outcomes
        .iter()
        .find(|(_, outcome)| outcome.is_err())
        .unwrap();
    assert_eq!(
        (number < 50, refused.unwrap_err()),
        (true, CommitError::Busy)
    );
    faults.stall_applier.store(false, Relaxed);
    let taken: Vec<u64> = outcomes
        .iter()
        .filter(|(_, outcome)| outcome.is_ok())
        .map(|(number, _)| number)
        .collect();
    for number in taken {
        assert!(
            store
                .get(Space::Handle, format!("K{number}").as_bytes())
                .unwrap()
                .is_some()
        );
    }
    assert!(store.metrics().changes(Outcome::Refused) > 0);
}

/// A failed sync ends writing, not reading; what was acknowledged before is there after the next opening.
#[test]
fn failed_sync() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let config = Config {
        faults: Some(Arc::clone(&faults)),
        ..config(dir.path())
    };
    let store = create(&config);
    store
        .commit(batch(vec![put(Space::Handle, b"A", 1)]))
        .unwrap();
    faults.fail_sync.store(true, Relaxed);
    let error = store
        .commit(batch(vec![put(Space::Handle, b"A", 2)]))
        .unwrap_err();
    assert!(
        matches!(&error, CommitError::ReadOnly(reason) if reason.contains(".journal")),
        "{error}"
    );
    faults.fail_sync.store(false, Relaxed);
    assert!(matches!(
        store.commit(batch(vec![put(Space::Handle, b"B", 1)])),
        Err(CommitError::ReadOnly(_))
    ));
    assert!(matches!(store.state(), State::ReadOnly(_)));
    assert_eq!(
        version(&store.get(Space::Handle, b"A").unwrap().unwrap()),
        1
    );
    assert_eq!(contents(&store, Space::Handle).len(), 1);
    drop(store);
    let store = open(&config);
    let found = version(&store.get(Space::Handle, b"A").unwrap().unwrap());
    assert!(
        found == 1 || found == 2,
        "acknowledged or unknown, but not {found}"
    );
    store
        .commit(batch(vec![put(Space::Handle, b"B", 1)]))
        .unwrap();
}

/// Opening is refused, with a reason, where there is no store, another process, or another case rule.
#[test]
fn refusals() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(&dir.path().join("store"));
    assert!(matches!(
        Store::open(config.clone()),
        Err(StoreError::NotInitialised { .. })
    ));
    let store = create(&config);
    assert!(matches!(
        Store::create(&config),
        Err(StoreError::NotEmpty { .. })
    ));
    assert!(matches!(
        Store::open(config.clone()),
        Err(StoreError::Locked { .. })
    ));
    assert!(store.wait_ready(PATIENCE));
    store.close().unwrap();
    let other = Config {
        case: CaseRule::Prefix,
        ..config.clone()
    };
    assert!(matches!(
        Store::open(other),
        Err(StoreError::CaseMismatch { .. })
    ));
    open(&config).close().unwrap();
}

/// A store that is closed takes nothing; what waited was carried out; closing twice is no error.
#[test]
fn closing() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let store = create(&config);
    let (send, outcomes) = channel();
    for number in 0..200 {
        let send = send.clone();
        let changes = vec![put(
            Space::Handle,
            format!("K{number:03}").as_bytes(),
            number,
        )];
        store.submit(batch(changes), move |outcome| {
            send.send(outcome.is_ok()).unwrap()
        });
    }
    drop(send);
    store.shutdown().unwrap();
    assert_eq!(outcomes.iter().filter(|ok| *ok).count(), 200);
    assert_eq!(
        store.commit(batch(vec![])).unwrap_err(),
        CommitError::Closed
    );
    store.shutdown().unwrap();
    drop(store);
    let store = open(&config);
    let stats = store.stats();
    assert_eq!((stats.records, stats.sequence), (200, 200), "{stats:?}");
    assert_eq!(contents(&store, Space::Handle).len(), 200);
    // sled is opened behind that, and says what it held when it was closed.
    eventually("sled is in use", || store.stats().applied_sequence > 0);
    assert_eq!(store.stats().applied_sequence, 200);
}

/// A snapshot becomes another store, whose epoch is the time, equal at the sequence of the snapshot; only into nothing.
#[test]
fn restoring() {
    let dir = tempfile::tempdir().unwrap();
    let config_of = |name: &str| config(&dir.path().join(name));
    let store = create(&config_of("one"));
    for number in 0..500_u64 {
        store
            .commit(batch(vec![put(
                Space::Handle,
                format!("K{:03}", number % 300).as_bytes(),
                number,
            )]))
            .unwrap();
    }
    store
        .commit(batch(vec![delete(Space::Handle, b"K007")]))
        .unwrap();
    let then = contents(&store, Space::Handle);
    let snapshot = store.snapshot().unwrap();
    assert_eq!(
        (snapshot.sequence, snapshot.records, snapshot.created),
        (501, 299, 1_700_000_000)
    );
    store
        .commit(batch(vec![put(Space::Handle, b"LATER", 1)]))
        .unwrap();
    let error = Store::restore(&config_of("one"), &snapshot.path, 0).unwrap_err();
    assert!(matches!(error, StoreError::NotEmpty { .. }), "{error}");
    Store::restore(&config_of("two"), &snapshot.path, 0).unwrap();
    for round in 0..2 {
        let two = open(&config_of("two"));
        let stats = two.stats();
        assert_eq!((stats.epoch, stats.sequence), (1_700_000_000, 501 + round));
        assert_eq!(
            two.get(Space::Handle, b"LATER").unwrap().is_some(),
            round == 1
        );
        if round == 0 {
            assert_eq!(contents(&two, Space::Handle), then);
        }
        two.commit(batch(vec![put(Space::Handle, b"LATER", 2)]))
            .unwrap();
        two.close().unwrap();
    }
}

/// Snapshots are taken by themselves as the journal grows; two are kept, and the journal behind them goes.
#[test]
fn snapshots_by_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        segment_bytes: 32 << 10,
        snapshot_journal_bytes: 256 << 10,
        ..config(dir.path())
    };
    let store = create(&config);
    let mut taken = std::collections::BTreeSet::new();
    let mut number = 0;
    while taken.len() < 4 {
        for _ in 0..100 {
            number += 1;
            store
                .commit(batch(vec![put(
                    Space::Handle,
                    format!("K{:03}", number % 100).as_bytes(),
                    number,
                )]))
                .unwrap();
        }
        let snapshots = store.stats().snapshots;
        assert!(snapshots.len() <= 3, "{snapshots:?}");
        taken.extend(snapshots.into_iter().map(|snapshot| snapshot.sequence));
        assert!(number < 1_000_000, "no snapshots");
    }
    assert!(store.metrics().snapshot_bytes.load(Relaxed) > 0);
    let report = store.verify().unwrap();
    assert!(report.is_good(), "{report:?}");
    eventually("the journal is pruned", || {
        store.stats().journal_bytes < 3 * config.snapshot_journal_bytes
    });
    let then = contents(&store, Space::Handle);
    store.close().unwrap();
    Store::rebuild_stopped(&config).unwrap();
    assert_eq!(contents(&open(&config), Space::Handle), then);
}

/// Loading reports itself: nobody is told "absent" before it is known.
#[test]
fn loading() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let store = create(&config);
    let keys: Vec<Vec<u8>> = (0..5_000)
        .map(|number| format!("K{number:05}").into_bytes())
        .collect();
    for chunk in keys.chunks(1_000) {
        store
            .commit(batch(
                chunk.iter().map(|key| put(Space::Handle, key, 1)).collect(),
            ))
            .unwrap();
    }
    store.close().unwrap();
    let store = Store::open(config).unwrap();
    let reader = store.reader();
    loop {
        let session = reader.session();
        for key in keys.iter().step_by(97) {
            assert_ne!(session.get(Space::Handle, key), Lookup::Absent);
        }
        if store.wait_ready(Duration::ZERO) {
            break;
        }
    }
    assert_eq!(reader.session().get(Space::Handle, b"NONE"), Lookup::Absent);
    assert!((store.stats().loaded_ratio - 1.0).abs() < f64::EPSILON);
}
