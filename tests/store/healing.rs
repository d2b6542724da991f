//! Goal: a sled that hangs, fails or vanishes costs nothing but its rebuild; crashes at bad moments cost nothing.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use jiexi::store::metrics::Part;
use jiexi::store::{Config, Faults, Space, State, Store};

use crate::support::{
    batch, config, contents, copy_tree, create, delete, eventually, files, open, put,
};

/// Commits a few hundred records.
fn fill(store: &Store, range: std::ops::Range<u64>) {
    for number in range {
        store
            .commit(batch(vec![put(
                Space::Handle,
                format!("K{number:05}").as_bytes(),
                number,
            )]))
            .unwrap();
    }
}

/// A hanging sled: writers wait for the watchdog at most; then everything goes on, and heals.
#[test]
fn hanging_sled() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let config = Config {
        applier_patience: Duration::from_secs(3),
        lag_changes: 50,
        faults: Some(Arc::clone(&faults)),
        ..config(dir.path())
    };
    let store = create(&config);
    fill(&store, 0..100);
    store.rebuild().unwrap();
    faults.stall_applier.store(true, Relaxed);
    // More than may lag: these wait until the watchdog acts.
    fill(&store, 100..300);
    assert_eq!(store.state(), State::Degraded);
    store
        .commit(batch(vec![delete(Space::Handle, b"K00000")]))
        .unwrap();
    let degraded = contents(&store, Space::Handle);
    assert_eq!(degraded.len(), 299, "scans go on");
    faults.stall_applier.store(false, Relaxed);
    eventually("it heals", || store.state() == State::Ready);
    assert_eq!(contents(&store, Space::Handle), degraded);
    fill(&store, 300..400);
    // On a machine so busy that the watchdog acts once more, there is no sled to verify until it has healed again.
    let mut report = None;
    eventually("it can be verified", || {
        report = store.verify().ok();
        report.is_some()
    });
    let report = report.unwrap();
    assert!(report.is_good() && report.sled_agrees, "{report:?}");
    assert!(store.metrics().errors(Part::Sled) > 0);
    store.close().unwrap();
    assert_eq!(contents(&open(&config), Space::Handle).len(), 399);
}

/// A snapshot that is asked for while sled is made anew comes when that is done, and has everything.
#[test]
fn snapshot_while_sled_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let config = Config {
        applier_patience: Duration::from_secs(2),
        faults: Some(Arc::clone(&faults)),
        ..config(dir.path())
    };
    let store = create(&config);
    fill(&store, 0..100);
    store.rebuild().unwrap();
    faults.stall_applier.store(true, Relaxed);
    fill(&store, 100..200);
    eventually("sled is given up", || store.state() == State::Degraded);
    std::thread::scope(|scope| {
        let taking = scope.spawn(|| store.snapshot());
        std::thread::sleep(Duration::from_millis(500));
        assert!(!taking.is_finished(), "it is not refused");
        fill(&store, 200..300);
        faults.stall_applier.store(false, Relaxed);
        let taken = taking.join().unwrap().unwrap();
        assert!((200..=300).contains(&taken.records), "{taken:?}");
    });
    let taken = store.snapshot().unwrap();
    assert_eq!(taken.records, 300);
}

/// A sled from before the journal's beginning, an incomplete one, and none at all.
#[test]
fn unusable_sled() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let config_of = |dir: &std::path::Path| Config {
        segment_bytes: 16 << 10,
        ..config(dir)
    };
    let store = create(&config_of(&live));
    fill(&store, 0..100);
    store.close().unwrap();
    let old = dir.path().join("old");
    copy_tree(&live, &old);
    let store = open(&config_of(&live));
    for round in 1..=3 {
        fill(&store, round * 100..round * 100 + 150);
        store.snapshot().unwrap();
    }
    fill(&store, 450..480);
    let expected = contents(&store, Space::Handle);
    store.close().unwrap();
    let sled_of = |dir: &std::path::Path| {
        let all = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let is_sled = |path: &std::path::PathBuf| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("sled-")
        };
        all.filter(is_sled).max().unwrap()
    };
    fs::remove_dir_all(sled_of(&live)).unwrap();
    let store = open(&config_of(&live));
    assert_eq!(contents(&store, Space::Handle), expected, "without a sled");
    store.rebuild().unwrap();
    store.close().unwrap();
    fs::remove_dir_all(sled_of(&live)).unwrap();
    copy_tree(&sled_of(&old), &sled_of(&old).with_file_name("sled-000099"));
    fs::rename(sled_of(&old), live.join("sled-000099")).unwrap();
    let store = open(&config_of(&live));
    assert_eq!(
        contents(&store, Space::Handle),
        expected,
        "with an old sled"
    );
    eventually("it heals", || {
        store.verify().is_ok_and(|report| report.is_good())
    });
}

/// A sled that holds more than the journal: what was acknowledged is missing, and nothing may be written over that.
#[test]
fn sled_ahead_of_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("live");
    let store = create(&config(&live));
    fill(&store, 0..50);
    store.close().unwrap();
    let old = dir.path().join("old");
    copy_tree(&live, &old);
    let store = open(&config(&live));
    fill(&store, 50..80);
    // A store that is closed before it has looked at its sled leaves that behind.
    eventually("sled has it", || store.stats().applied_sequence == 80);
    store.close().unwrap();
    fs::remove_dir_all(live.join("journal")).unwrap();
    copy_tree(&old.join("journal"), &live.join("journal"));
    let store = Store::open(config(&live)).unwrap();
    eventually("it takes no writes", || {
        matches!(store.state(), State::ReadOnly(_))
    });
    let State::ReadOnly(reason) = store.state() else {
        panic!("read-only is never left")
    };
    assert!(
        reason.contains("sequence 80") && reason.contains("50"),
        "{reason}"
    );
}

/// A crash in the middle of a snapshot, and between a snapshot and the pruning that follows.
#[test]
fn crash_during_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let live = dir.path().join("live");
    let config_live = Config {
        segment_bytes: 16 << 10,
        faults: Some(Arc::clone(&faults)),
        ..config(&live)
    };
    let store = create(&config_live);
    for round in 0..3 {
        fill(&store, round * 700..round * 700 + 700);
        store.snapshot().unwrap();
    }
    let temporary = live.join("snapshots/taking.tmp");
    faults.stall_snapshot.store(true, Relaxed);
    let image = dir.path().join("image");
    std::thread::scope(|scope| {
        let taking = scope.spawn(|| store.snapshot());
        eventually("the snapshot is half way", || {
            temporary.metadata().is_ok_and(|file| file.len() > 1_000)
        });
        fill(&store, 2_100..2_200);
        copy_tree(&live, &image);
        faults.stall_snapshot.store(false, Relaxed);
        taking.join().unwrap().unwrap();
    });
    let expected = contents(&store, Space::Handle);
    let crashed = open(&config(&image));
    assert_eq!(contents(&crashed, Space::Handle), expected);
    crashed.snapshot().unwrap();
    assert!(crashed.verify().unwrap().is_good());
    crashed.close().unwrap();
    assert!(
        files(&image)
            .iter()
            .all(|file| file.extension().is_none_or(|suffix| suffix != "tmp"))
    );
    // As if the removal of the oldest segments had been under way: the first one gone, and old snapshots still there.
    let journal = files(&live.join("journal"));
    let half = dir.path().join("half");
    copy_tree(&live, &half);
    fs::remove_file(half.join("journal").join(journal[0].file_name().unwrap())).unwrap();
    let crashed = open(&config(&half));
    assert_eq!(contents(&crashed, Space::Handle), expected);
}

/// A sled that is still being verified when the store is closed is as sound as before: it is kept, and nothing complains.
#[test]
fn a_sled_that_is_not_in_use_yet_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        // Every batch has a sync of its own: the writer ends long after the applier has heard of the end.
        group_bytes: 1,
        ..config(dir.path())
    };
    let store = create(&config);
    let changes = (0..5_000).map(|number| {
        let key = format!("K{number:05}");
        put(Space::Handle, key.as_bytes(), number)
    });
    store.commit(batch(changes.collect())).unwrap();
    store.close().unwrap();
    for round in 0..5 {
        let store = open(&config);
        for number in 0..30 {
            let key = format!("L{number:05}");
            store.submit(
                batch(vec![put(Space::Handle, key.as_bytes(), round)]),
                |outcome| {
                    outcome.unwrap();
                },
            );
        }
        store.shutdown().unwrap();
        assert_eq!(store.metrics().errors(Part::Sled), 0, "round {round}");
    }
    assert_eq!(contents(&open(&config), Space::Handle).len(), 5_030);
}
