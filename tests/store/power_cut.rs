//! Goal: a power cut loses nothing that was acknowledged. Method: the file layer records every change of journal and
//! snapshot files together with the acknowledgements; for random cuts the directory is built again with only what the
//! model lets survive, opened, and compared. sled is not in it: the journal alone must do.
//!
//! * strict: contents that were synced, in names whose directory was synced;
//! * mixed: also a random half of the later writes, and later names or not.
//!
//! With acknowledgements before the write the replay must find losses, or else it could not find any.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use jiexi::store::{Action, Change, Config, Event, Faults, Space, Store};

use crate::support::{Random, batch, config, contents, copy_tree, delete, import, open, put};

const CUTS: usize = 24;
const OPERATIONS: u64 = 1_200;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Model {
    Strict,
    Mixed,
}

/// A recorded run.
struct Run {
    events: Vec<Event>,
    /// Sequence to changes.
    batches: BTreeMap<u64, Vec<Change>>,
    dir: PathBuf,
    /// What was on the disk when the recording began.
    before: PathBuf,
}

#[test]
fn nothing_acknowledged_is_lost() {
    let mut random = Random::new("power cut");
    let home = tempfile::tempdir().unwrap();
    let run = record(home.path(), &mut random, false);
    for model in [Model::Strict, Model::Mixed] {
        for cut in 0..CUTS {
            let at = random.below(run.events.len() + 1);
            let lost = replay(home.path(), &run, at, model, &mut random);
            assert_eq!(
                lost,
                None,
                "{model:?} cut {cut} at event {at} of {}",
                run.events.len()
            );
        }
    }
}

/// The proof that the replay can fail.
#[test]
fn acknowledging_first_is_found_out() {
    let mut random = Random::new("power cut, acknowledging first");
    let home = tempfile::tempdir().unwrap();
    let run = record(home.path(), &mut random, true);
    let lost = (0..CUTS).any(|_| {
        let at = random.below(run.events.len() + 1);
        replay(home.path(), &run, at, Model::Strict, &mut random).is_some()
    });
    assert!(
        lost,
        "no losses although acknowledgements came before the writes"
    );
}

/// Runs two writers, with snapshots and pruning, and records it.
fn record(home: &Path, random: &mut Random, unsafe_order: bool) -> Run {
    let (dir, before) = (home.join("live"), home.join("before"));
    let faults = Arc::new(Faults::default());
    faults.acknowledge_first.store(unsafe_order, Relaxed);
    let config = Config {
        segment_bytes: 64 << 10,
        import_stripe_bytes: 4 << 10,
        snapshot_journal_bytes: 192 << 10,
        faults: Some(Arc::clone(&faults)),
        ..config(&dir)
    };
    Store::create(&config).unwrap();
    copy_tree(&dir, &before);
    faults.record();
    let store = open(&config);
    let batches = Mutex::new(BTreeMap::new());
    let (number, operations) = (
        AtomicU64::new(0),
        if unsafe_order {
            OPERATIONS / 10
        } else {
            OPERATIONS
        },
    );
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let mut random = Random::seeded(random.next());
            let (store, batches, number) = (&store, &batches, &number);
            scope.spawn(move || {
                loop {
                    let version = number.fetch_add(1, Relaxed);
                    if version >= operations {
                        break;
                    }
                    // Now and then many at once.
                    if version % 240 == 239 {
                        let (committed, changes) = import_all(store, version);
                        batches.lock().unwrap().insert(committed, changes);
                        continue;
                    }
                    let changes: Vec<Change> = (0..1 + random.below(8))
                        .map(|_| {
                            let key = format!("K{:02}", random.below(60)).into_bytes();
                            if random.below(5) == 0 {
                                delete(Space::Handle, &key)
                            } else {
                                put(Space::Handle, &key, version)
                            }
                        })
                        .collect();
                    let committed = store.commit(batch(changes.clone())).unwrap();
                    batches.lock().unwrap().insert(committed.sequence, changes);
                }
            });
        }
    });
    // On a busy machine there may have been no time for two.
    while !unsafe_order && store.stats().snapshots.len() < 2 {
        let changes = vec![put(Space::Handle, b"K00", number.fetch_add(1, Relaxed))];
        let committed = store.commit(batch(changes.clone())).unwrap();
        batches.lock().unwrap().insert(committed.sequence, changes);
        store.snapshot().unwrap();
    }
    let snapshots = store.stats().snapshots.len();
    drop(store);
    // Two are kept; a third may have been taken a moment ago, before the oldest is removed.
    assert!(
        unsafe_order || (2..=3).contains(&snapshots),
        "{snapshots} snapshots"
    );
    Run {
        events: faults.recorded(),
        batches: batches.into_inner().unwrap(),
        dir,
        before,
    }
}

/// Imports every key; the sequence, and what that was.
fn import_all(store: &Store, version: u64) -> (u64, Vec<Change>) {
    let changes: Vec<Change> = (0..60)
        .map(|key| put(Space::Handle, format!("K{key:02}").as_bytes(), version))
        .collect();
    let records = changes
        .iter()
        .map(|put| (put.space, put.key.clone(), version));
    let committed = import(store, &records.collect::<Vec<_>>()).unwrap();
    (committed.sequence, changes)
}

/// Cuts the power after `at` events; what was lost.
fn replay(home: &Path, run: &Run, at: usize, model: Model, random: &mut Random) -> Option<String> {
    let dir = home.join("cut");
    copy_tree(&run.before, &dir);
    let events = &run.events[..at];
    let acknowledged = events.iter().filter_map(|event| match event {
        Event::Acknowledge(sequence) => Some(*sequence),
        _ => None,
    });
    let acknowledged = acknowledged.max().unwrap_or(0);
    for (path, bytes) in surviving(events, model, random) {
        let path = dir.join(path.strip_prefix(&run.dir).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let lost = compare(&dir, run, acknowledged);
    fs::remove_dir_all(dir).unwrap();
    lost
}

fn compare(dir: &Path, run: &Run, acknowledged: u64) -> Option<String> {
    let config = Config {
        segment_bytes: 64 << 10,
        ..config(dir)
    };
    let store = Store::open(config).unwrap();
    if let Err(error) = store.wait_loaded(crate::support::PATIENCE) {
        return Some(error.to_string());
    }
    let reached = store.stats().sequence;
    if reached < acknowledged {
        return Some(format!(
            "{acknowledged} was acknowledged, {reached} is there"
        ));
    }
    let mut expected = BTreeMap::new();
    for change in run
        .batches
        .range(..=reached)
        .flat_map(|(_, changes)| changes)
    {
        match &change.action {
            Action::Put(draft) => {
                let text = std::str::from_utf8(&draft.values[0].wire).unwrap();
                let version: u64 = text.split_once(':').unwrap().0.parse().unwrap();
                expected.insert(change.key.clone(), version);
            }
            Action::Delete => drop(expected.remove(&change.key)),
        }
    }
    let found = contents(&store, Space::Handle);
    store.close().unwrap();
    (found != expected).then(|| format!("at {reached}: {found:?} is not {expected:?}"))
}

/// A file: what programs see, what is durable, and the writes since.
#[derive(Clone, Default)]
struct File {
    durable: Vec<u8>,
    since: Vec<Event>,
}

/// The files that a power cut after these events leaves.
fn surviving(events: &[Event], model: Model, random: &mut Random) -> HashMap<PathBuf, Vec<u8>> {
    let mut files: Vec<File> = Vec::new();
    // Names as programs see them, and as they are durable.
    let mut names: HashMap<PathBuf, usize> = HashMap::new();
    let mut durable_names: HashMap<PathBuf, usize> = HashMap::new();
    for event in events {
        match event {
            Event::Create(path) => {
                names.insert(path.clone(), files.len());
                files.push(File::default());
            }
            Event::Allocate(path, _) | Event::Write(path, ..) | Event::Truncate(path, _) => {
                files[names[path]].since.push(event.clone());
            }
            Event::Sync(path) => {
                let file = &mut files[names[path]];
                for event in std::mem::take(&mut file.since) {
                    apply(&mut file.durable, &event);
                }
            }
            Event::SyncDirectory(directory) => {
                let inside = |path: &PathBuf| path.parent() == Some(directory);
                durable_names.retain(|path, _| !inside(path));
                durable_names.extend(
                    names
                        .iter()
                        .filter(|(path, _)| inside(path))
                        .map(|(path, file)| (path.clone(), *file)),
                );
            }
            Event::Rename(from, to) => {
                let file = names.remove(from).unwrap();
                names.insert(to.clone(), file);
            }
            Event::Remove(path) => drop(names.remove(path)),
            Event::Acknowledge(_) => {}
        }
    }
    let mixed = model == Model::Mixed;
    let kept = if mixed && random.below(2) == 0 {
        names
    } else {
        durable_names
    };
    kept.into_iter()
        .map(|(path, file)| {
            let File { mut durable, since } = files[file].clone();
            for event in since {
                if mixed && random.below(2) == 0 {
                    apply(&mut durable, &event);
                }
            }
            (path, durable)
        })
        .collect()
}

fn apply(bytes: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Allocate(_, length) => bytes.resize((*length as usize).max(bytes.len()), 0),
        Event::Truncate(_, length) => bytes.resize(*length as usize, 0),
        Event::Write(_, at, written) => {
            let (at, end) = (*at as usize, *at as usize + written.len());
            bytes.resize(bytes.len().max(end), 0);
            bytes[at..end].copy_from_slice(written);
        }
        other => panic!("{other:?} changes no file"),
    }
}
