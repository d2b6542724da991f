//! Goal: a bulk import is there as a whole or not at all, at once, for everybody; and what it is made of comes and goes
//! without a trace. Method: imports of several stripes over records that are there, beside a sled that lags or is new;
//! kills while they go on; damage to what they leave.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use jiexi::store::{Action, CommitError, Config, Faults, Lookup, Space, Store, StoreError};

use crate::kill::{kill, tell};
use crate::support::{
    PATIENCE, Random, batch, config, contents, create, delete, eventually, import, open, put,
};

/// The quick form; `JIEXI_TEST_LONG=1` kills ten times as often.
const KILLS: usize = 20;
/// Records of an import that may be killed.
const RECORDS: u64 = 3_000;
/// Directory of the child's store; set for child processes only.
const DIR: &str = "JIEXI_STORE_IMPORT_CHILD";

/// Several stripes, and small journals and snapshots.
fn small(dir: &Path) -> Config {
    Config {
        import_stripe_bytes: 64 << 10,
        snapshot_journal_bytes: u64::MAX,
        ..config(dir)
    }
}

fn stalled(dir: &Path) -> (Config, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    let config = Config {
        faults: Some(Arc::clone(&faults)),
        ..small(dir)
    };
    (config, faults)
}

fn key(number: u64) -> Vec<u8> {
    format!("88.118/{number:06}").into_bytes()
}

/// Keys from `first` on in a shuffled order, each twice: the second time with `version`.
fn shuffled(first: u64, count: u64, version: u64) -> Vec<(Space, Vec<u8>, u64)> {
    let mut random = Random::seeded(version);
    let mut records: Vec<_> = (first..first + count)
        .map(|number| (Space::Handle, key(number), version))
        .collect();
    for at in (1..records.len()).rev() {
        records.swap(at, random.below(at + 1));
    }
    let earlier = records
        .iter()
        .map(|(space, key, _)| (*space, key.clone(), version + 1_000_000));
    earlier
        .collect::<Vec<_>>()
        .into_iter()
        .chain(records)
        .collect()
}

fn runs(dir: &Path) -> Vec<PathBuf> {
    let items = fs::read_dir(dir.join("runs")).into_iter().flatten();
    items.map(|item| item.unwrap().path()).collect()
}

/// What is put before and behind an import, what the import replaces, and what is deleted afterwards: for look-ups, scans,
/// the next opening, a new sled and a snapshot it is the same.
#[test]
fn as_one_change() {
    let home = tempfile::tempdir().unwrap();
    let (config, faults) = stalled(home.path());
    let store = create(&config);
    let puts = |range: std::ops::Range<u64>, version| {
        batch(
            range
                .map(|number| put(Space::Handle, &key(number), version))
                .collect(),
        )
    };
    store.commit(puts(0..1_500, 1)).unwrap();
    eventually("sled follows", || store.stats().lag_changes == 0);
    faults.stall_applier.store(true, Relaxed);
    let before = store.stats();
    let committed = import(&store, &shuffled(1_000, 3_000, 2)).unwrap();
    assert_eq!(committed.sequence, before.sequence + 2, "one is kept free");
    store.commit(puts(3_900..4_100, 3)).unwrap();
    store
        .commit(batch(
            (1_200..1_300)
                .map(|number| delete(Space::Handle, &key(number)))
                .collect(),
        ))
        .unwrap();
    let expected: BTreeMap<Vec<u8>, u64> = (0..4_100)
        .filter(|number| !(1_200..1_300).contains(number))
        .map(|number| {
            let version = match number {
                0..1_000 => 1,
                1_000..3_900 => 2,
                _ => 3,
            };
            (key(number), version)
        })
        .collect();
    assert_eq!(store.stats().records, expected.len() as u64);
    assert!(store.stats().lag_changes > 3_000, "sled has nothing of it");
    check(&store, &expected);
    let from = key(2_500);
    let page = store
        .scan(Space::Handle, Bound::Excluded(&from), b"88.118/0025", 1_000)
        .unwrap();
    assert_eq!(page.len(), 99);
    assert_eq!(runs(home.path()).len(), 1);

    // Closing does not wait for sled, and the next opening reads the run.
    faults.stall_applier.store(false, Relaxed);
    store.close().unwrap();
    faults.stall_applier.store(true, Relaxed);
    let store = open(&config);
    check(&store, &expected);
    faults.stall_applier.store(false, Relaxed);
    eventually("sled follows", || store.stats().lag_changes == 0);
    check(&store, &expected);
    assert!(store.verify().unwrap().is_good());
    store.rebuild().unwrap();
    check(&store, &expected);

    // The older snapshot that is kept must have it, too, before the run goes.
    store.snapshot().unwrap();
    assert_eq!(runs(home.path()).len(), 1);
    store.commit(puts(0..1, 1)).unwrap();
    eventually("sled is synced", || {
        store.stats().applied_sequence == store.stats().sequence
    });
    store.snapshot().unwrap();
    assert_eq!(runs(home.path()), Vec::<PathBuf>::new());
    store.close().unwrap();
    let store = open(&config);
    check(&store, &expected);
    assert!(store.verify().unwrap().is_good());
}

fn check(store: &Store, expected: &BTreeMap<Vec<u8>, u64>) {
    assert_eq!(&contents(store, Space::Handle), expected);
    let reader = store.reader();
    let session = reader.session();
    for key in expected.keys() {
        assert!(matches!(session.get(Space::Handle, key), Lookup::Found(_)));
    }
    assert_eq!(session.get(Space::Handle, b"88.118/NONE"), Lookup::Absent);
}

/// Readers beside it see all of an import or nothing; and a snapshot that is being taken is begun again.
#[test]
fn beside_everything_else() {
    let home = tempfile::tempdir().unwrap();
    let (config, faults) = stalled(home.path());
    let store = create(&config);
    let first: Vec<_> = (0..500)
        .map(|number| (Space::Business, key(number), 1))
        .collect();
    import(&store, &first).unwrap();
    eventually("sled follows", || store.stats().lag_changes == 0);
    faults.stall_snapshot.store(true, Relaxed);
    std::thread::scope(|scope| {
        let snapshot = scope.spawn(|| store.snapshot().unwrap());
        let writer = scope.spawn(|| {
            for number in 0..300 {
                store
                    .commit(batch(vec![put(Space::System, &key(number), 7)]))
                    .unwrap();
            }
        });
        let committed = import(&store, &shuffled(0, 2_000, 5)).unwrap();
        writer.join().unwrap();
        faults.stall_snapshot.store(false, Relaxed);
        assert!(snapshot.join().unwrap().sequence >= committed.sequence);
    });
    assert_eq!(contents(&store, Space::Business).len(), 500);
    assert_eq!(contents(&store, Space::System).len(), 300);
    assert_eq!(contents(&store, Space::Handle).len(), 2_000);
    assert!(store.verify().unwrap().is_good());
}

/// An import that is dropped, or refused, leaves nothing; one that was interrupted is removed by the next start.
#[test]
fn given_up() {
    let home = tempfile::tempdir().unwrap();
    let config = Config {
        other_key: |key, _| key.ends_with(b"9").then(|| key[..key.len() - 2].to_vec()),
        ..small(home.path())
    };
    let store = create(&config);
    let mut bulk = store.bulk().unwrap();
    let mut slab = bulk.encoder().slab();
    slab.put(
        Space::Handle,
        b"88.118/ABC",
        &crate::support::draft(b"88.118/ABC", 1),
    )
    .unwrap();
    bulk.add(slab).unwrap();
    drop(bulk);
    assert_eq!(runs(home.path()), Vec::<PathBuf>::new());

    // 000009 and 000019 have other keys of their own, 00010.. and ..: the second of a pair is refused.
    store
        .commit(batch(vec![put(Space::Handle, b"88.118/A19", 1)]))
        .unwrap();
    let refused = import(&store, &[(Space::Handle, b"88.118/A29".to_vec(), 1)]);
    assert!(
        matches!(refused, Err(CommitError::Conflict { .. })),
        "{refused:?}"
    );
    assert_eq!(runs(home.path()), Vec::<PathBuf>::new());
    let twice = [b"88.118/B19", b"88.118/B29"].map(|key| (Space::Handle, key.to_vec(), 1));
    let refused = import(&store, &twice);
    assert!(
        matches!(refused, Err(CommitError::Conflict { .. })),
        "{refused:?}"
    );
    import(&store, &twice[..1]).unwrap();
    assert_eq!(contents(&store, Space::Handle).len(), 2);
    store.close().unwrap();

    fs::write(
        home.path().join("runs/00000000000000000099.writing"),
        b"half of it",
    )
    .unwrap();
    let store = open(&config);
    assert_eq!(contents(&store, Space::Handle).len(), 2);
    assert_eq!(
        runs(home.path()).len(),
        1,
        "that of the import that was committed"
    );
}

/// A run that is damaged while it is needed: nothing wrong is served, the file is named. One that is not needed any more
/// is done without, and healed.
#[test]
fn damaged() {
    let home = tempfile::tempdir().unwrap();
    let (config, faults) = stalled(home.path());
    let store = create(&config);
    faults.stall_applier.store(true, Relaxed);
    import(&store, &shuffled(0, 1_000, 2)).unwrap();
    let run = runs(home.path()).remove(0);
    let mut bytes = fs::read(&run).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 4;
    fs::write(&run, &bytes).unwrap();
    // sled is made anew from the index when the applier comes upon it, and scans do without.
    assert_eq!(contents(&store, Space::Handle).len(), 1_000);
    faults.stall_applier.store(false, Relaxed);
    drop(store);

    let store = Store::open(config.clone()).unwrap();
    match store.wait_loaded(PATIENCE) {
        Err(StoreError::Failed(message)) => {
            assert!(message.contains(&run.display().to_string()), "{message}");
            assert!(store.get(Space::Handle, &key(1)).is_err());
        }
        loaded => {
            // sled had been made anew in time.
            assert!(loaded.unwrap());
            assert_eq!(contents(&store, Space::Handle).len(), 1_000);
        }
    }
    drop(store);
    bytes[at] ^= 4;
    fs::write(&run, &bytes).unwrap();
    let store = open(&config);
    assert_eq!(contents(&store, Space::Handle).len(), 1_000);
    eventually("sled is synced", || {
        store.stats().applied_sequence == store.stats().sequence
    });
    bytes[at] ^= 4;
    fs::write(&run, &bytes).unwrap();
    let report = store.verify().unwrap();
    let named = report
        .problems
        .iter()
        .any(|problem| problem.contains(&run.display().to_string()));
    assert!(named, "{report:?}");
    eventually("a snapshot takes its place", || {
        runs(home.path()).is_empty()
    });
    store.close().unwrap();
    let store = open(&config);
    assert_eq!(contents(&store, Space::Handle).len(), 1_000);
    assert!(store.verify().unwrap().is_good());
}

/// A child imports again and again, and is killed at a random time: what it told of is there, what it did not tell of is
/// there as a whole or not at all, and no half-written file stays.
#[test]
fn killed() {
    let mut random = Random::new("kills of imports");
    let home = tempfile::tempdir().unwrap();
    Store::create(&child_config(home.path())).unwrap();
    let kills = if std::env::var_os("JIEXI_TEST_LONG").is_some() {
        10 * KILLS
    } else {
        KILLS
    };
    let (mut told, mut orphans) = (0, 0);
    let mut lasts = Duration::from_millis(100);
    for kill in 0..kills {
        told = run_and_kill(home.path(), told, &mut random, &mut lasts);
        let writing = |path: &PathBuf| path.extension().is_some_and(|suffix| suffix == "writing");
        orphans += usize::from(runs(home.path()).iter().any(writing));
        let store = open(&child_config(home.path()));
        let found = contents(&store, Space::Handle);
        let mut versions: HashMap<u64, u64> = HashMap::new();
        for version in found.values() {
            *versions.entry(*version).or_default() += 1;
        }
        let there = versions.keys().copied().next().unwrap_or(0);
        assert!(
            versions.len() <= 1 && (told == 0 || found.len() as u64 == RECORDS),
            "{versions:?}"
        );
        assert!(
            there == told || there == told + 1,
            "kill {kill}: {there} is there, {told} was told"
        );
        told = there;
        assert!(!runs(home.path()).iter().any(writing), "an orphan is left");
        if kill % 8 == 7 {
            eventually("there is a sled", || store.stats().store_bytes > 0);
            let report = store.verify().unwrap();
            assert!(report.is_good(), "{report:?}");
        }
        // Dropped in the middle of whatever goes on behind.
        drop(store);
    }
    println!("{kills} kills, {told} imports, {orphans} of them half written");
    assert!(told > 3, "hardly anything was imported");
}

fn child_config(dir: &Path) -> Config {
    Config {
        import_stripe_bytes: 256 << 10,
        snapshot_journal_bytes: 2 << 20,
        ..small(dir)
    }
}

/// Runs a child and kills it somewhere in an import, the first one or the second; the version of the last one that it told
/// of. `lasts` becomes how long an import took.
fn run_and_kill(dir: &Path, version: u64, random: &mut Random, lasts: &mut Duration) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "bulk::child", "--nocapture", "--test-threads=1"])
        .env(DIR, format!("{version} {}", dir.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(|line| line.unwrap());
    lines
        .find(|line| line.contains("ready"))
        .expect("the child opens its store");
    let mut told = version;
    let parse = |line: &str| line.strip_prefix("ok ")?.strip_suffix('.')?.parse().ok();
    if random.below(2) == 0 {
        let began = Instant::now();
        told = lines
            .next()
            .and_then(|line| parse(&line))
            .expect("an import");
        *lasts = began.elapsed();
    }
    let after = lasts.mul_f64(random.below(1_100) as f64 / 1_000.0);
    let killer = std::thread::spawn(move || {
        std::thread::sleep(after);
        kill(&mut child);
    });
    let last = lines.filter_map(|line| parse(&line)).last();
    killer.join().unwrap();
    last.unwrap_or(told)
}

/// No test: the body of the child process, which is killed.
#[test]
fn child() {
    let Ok(task) = std::env::var(DIR) else { return };
    let (version, dir) = task.split_once(' ').unwrap();
    let store = open(&child_config(Path::new(dir)));
    tell("\nready");
    for version in version.parse::<u64>().unwrap() + 1.. {
        import(&store, &shuffled(0, RECORDS, version)).unwrap();
        tell(&format!("ok {version}."));
    }
}

/// What an import leaves out: it only puts.
#[test]
fn encoded_like_any_other() {
    let home = tempfile::tempdir().unwrap();
    let store = create(&small(home.path()));
    let change = put(Space::Prefix, b"0.NA/88.118", 4);
    let Action::Put(draft) = &change.action else {
        return;
    };
    import(&store, &[(Space::Prefix, change.key.clone(), 4)]).unwrap();
    let found = store.get(Space::Prefix, &change.key).unwrap().unwrap();
    assert_eq!(
        (&*found.handle(), found.len()),
        (&draft.handle[..], draft.values.len())
    );
    assert_eq!(found.generation() + 1, store.sequence());
    let mut slab = store.bulk().unwrap().encoder().slab();
    let refused = slab.put(Space::Handle, &[b'A'; 5_000], draft);
    assert_eq!(refused, Err(CommitError::TooLarge));
}
