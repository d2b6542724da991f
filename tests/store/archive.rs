//! Goal: out of a full archive and increments comes the state after every single sequence, bulk imports and changes that
//! shared a sync included, and what is damaged or missing is refused. Method: changes are submitted without waiting, so
//! that many of them become one entry of the journal; what the store must be like after each is known.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;

use jiexi::store::archive::{self, Archive, Chain, Increment};
use jiexi::store::{Config, Space, Store};

use crate::support::{
    Random, batch, config, contents, create, delete, eventually, import, open, put,
};

/// Changes between two archives.
const CHANGES: u64 = 400;
/// Keys that they are about.
const KEYS: u64 = 150;

/// What a change leaves under a key.
type Done = (u64, Vec<u8>, Option<u64>);

fn key(number: u64) -> Vec<u8> {
    format!("88.118/{number:04}").into_bytes()
}

/// Submits changes at once; what each did, by sequence.
fn change(store: &Store, random: &mut Random, version: &mut u64) -> Vec<Done> {
    let (send, receive) = channel();
    for _ in 0..CHANGES {
        let key = key(random.next() % KEYS);
        *version += 1;
        let (change, left) = match random.below(5) {
            0 => (delete(Space::Handle, &key), None),
            _ => (put(Space::Handle, &key, *version), Some(*version)),
        };
        let send = send.clone();
        store.submit(batch(vec![change]), move |done| {
            drop(send.send((done.expect("is committed").sequence, key, left)));
        });
    }
    drop(send);
    receive.iter().collect()
}

/// A store whose whole history is known, and its archives.
struct History {
    home: tempfile::TempDir,
    done: Vec<Done>,
    full: PathBuf,
    increments: Vec<PathBuf>,
    archives: Vec<Archive>,
}

impl History {
    fn settings(&self, name: &str) -> Config {
        config(&self.home.path().join(name))
    }

    fn chain(&self, until: u64) -> Chain {
        Chain {
            full: self.full.clone(),
            increments: self.increments.clone(),
            until,
        }
    }

    fn state(&self, until: u64) -> BTreeMap<Vec<u8>, u64> {
        let mut state = BTreeMap::new();
        for (sequence, key, left) in &self.done {
            match left {
                _ if *sequence > until => {}
                Some(version) => drop(state.insert(key.clone(), *version)),
                None => drop(state.remove(key)),
            }
        }
        state
    }

    /// Changes, a snapshot in their midst, a bulk import, and increments over all of it.
    fn new(random: &mut Random) -> Self {
        let home = tempfile::tempdir().unwrap();
        let settings = config(&home.path().join("store"));
        let store = create(&settings);
        let mut version = 0;
        let mut done = change(&store, random, &mut version);
        let full = home.path().join("full");
        fs::copy(store.snapshot().unwrap().path, &full).unwrap();
        let mut archives = vec![archive::read(&full).unwrap()];
        let mut increments = Vec::new();
        for round in 0..4 {
            if round == 2 {
                version += 1;
                let records: Vec<_> = (0..2 * KEYS)
                    .map(|number| (Space::Handle, key(number), version))
                    .collect();
                let sequence = import(&store, &records).unwrap().sequence;
                done.extend(
                    records
                        .into_iter()
                        .map(|(_, key, version)| (sequence, key, Some(version))),
                );
            }
            done.extend(change(&store, random, &mut version));
            let path = home.path().join(format!("increment-{round}"));
            let last = archives.last().unwrap();
            match archive::increment(&settings.dir, last, store.sequence(), 7, &path).unwrap() {
                Increment::Written(archive) => archives.push(archive),
                other => panic!("{other:?}"),
            }
            increments.push(path);
        }
        store.close().unwrap();
        done.sort_by_key(|(sequence, ..)| *sequence);
        Self {
            home,
            done,
            full,
            increments,
            archives,
        }
    }
}

#[test]
fn every_sequence_comes_back() {
    let mut random = Random::new("archives");
    let history = History::new(&mut random);
    let (first, last) = (history.archives[0].sequence, history.archives[4].sequence);
    let mut moments: Vec<u64> = (0..24)
        .map(|_| first + random.next() % (last - first))
        .collect();
    moments.extend(history.archives.iter().map(|archive| archive.sequence));
    for until in moments {
        let settings = history.settings(&format!("restored-{until}"));
        let info = history.chain(until).restore(&settings, 9).unwrap();
        assert_eq!(info.sequence, until);
        let store = open(&settings);
        assert_eq!((store.sequence(), store.data_epoch()), (until, 9));
        let (found, expected) = (contents(&store, Space::Handle), history.state(until));
        assert!(
            found == expected,
            "sequence {until}: {} records",
            found.len()
        );
        assert_eq!(info.records, expected.len() as u64);
        // It goes on from there, and what it writes is whole.
        store
            .commit(batch(vec![put(Space::Handle, &key(0), 1)]))
            .unwrap();
        assert!(store.verify().unwrap().is_good());
        store.close().unwrap();
        fs::remove_dir_all(&settings.dir).unwrap();
    }
}

#[test]
fn what_is_damaged_or_missing_is_refused() {
    let mut random = Random::new("damaged archives");
    let history = History::new(&mut random);
    let last = history.archives[4].sequence;
    let settings = history.settings("restored");
    let refused = |chain: &Chain| {
        chain.restore(&settings, 2).unwrap_err();
        assert!(!settings.dir.exists(), "nothing is written");
    };
    let whole = history.chain(last);
    for at in 0..whole.increments.len() {
        let mut chain = whole.clone();
        chain.increments.remove(at);
        refused(&chain);
    }
    refused(&history.chain(last + 1));
    refused(&history.chain(history.archives[0].sequence - 1));
    for path in [&whole.full].into_iter().chain(&whole.increments) {
        let sound = fs::read(path).unwrap();
        for _ in 0..8 {
            let mut bytes = sound.clone();
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
            fs::write(path, bytes).unwrap();
            refused(&whole);
            fs::write(path, &sound[..random.below(sound.len())]).unwrap();
            refused(&whole);
        }
        fs::write(path, sound).unwrap();
    }
    whole.verify().unwrap();
}

/// A journal that was pruned, and one that is another history, are told apart from one that goes on.
#[test]
fn the_journal_must_continue() {
    let home = tempfile::tempdir().unwrap();
    let mut random = Random::new("journals");
    let settings = Config {
        segment_bytes: 8 << 10,
        ..config(&home.path().join("store"))
    };
    let store = create(&settings);
    let mut version = 0;
    change(&store, &mut random, &mut version);
    let full = home.path().join("full");
    fs::copy(store.snapshot().unwrap().path, &full).unwrap();
    let old = archive::read(&full).unwrap();
    let increment = |last: &Archive, until| {
        let path = home.path().join("increment");
        drop(fs::remove_file(&path));
        archive::increment(&settings.dir, last, until, 7, &path).unwrap()
    };
    assert_eq!(increment(&old, store.sequence()), Increment::Nothing);
    let other = Archive {
        sum: old.sum ^ 1,
        ..old
    };
    assert_eq!(increment(&other, store.sequence()), Increment::Diverged);
    assert_eq!(increment(&old, old.sequence - 1), Increment::Diverged);
    change(&store, &mut random, &mut version);
    assert_eq!(increment(&other, store.sequence()), Increment::Diverged);
    assert!(matches!(
        increment(&old, store.sequence()),
        Increment::Written(_)
    ));
    // It is pruned behind the older of two snapshots, and what sled has synced.
    eventually("the journal is pruned", || {
        change(&store, &mut random, &mut version);
        store.snapshot().unwrap();
        is_gone(&settings.dir, old.sequence)
    });
    assert_eq!(increment(&old, store.sequence()), Increment::TooShort);
    store.close().unwrap();
}

/// Whether the journal begins after a sequence.
fn is_gone(dir: &Path, sequence: u64) -> bool {
    let first = |path: PathBuf| path.file_stem()?.to_str()?.parse::<u64>().ok();
    let items = fs::read_dir(dir.join("journal")).unwrap();
    let oldest = items.filter_map(|item| first(item.unwrap().path())).min();
    oldest.is_some_and(|oldest| oldest > sequence + 1)
}
