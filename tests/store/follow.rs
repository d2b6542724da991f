//! Goal: whoever follows changes sees each once and in order, however often they stop and wherever, beside writers and over
//! restarts; and is told when the journal does not say what followed. Method: batches of several changes are submitted
//! without waiting, so that many share an entry and several files are filled; what each did is known.

use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::thread;

use jiexi::store::{Mark, Space, Store, StoreError};

use crate::support::{Random, batch, config, create, delete, eventually, import, open, put};

/// Batches of one writer, and writers.
const BATCHES: u64 = 300;
const WRITERS: u64 = 3;

/// A change as it was made, or as it was followed: sequence, space, key, and whether something was put.
type Change = (u64, Space, Vec<u8>, bool);

/// What was seen, with the mark behind each, and the mark behind all.
type Told = (Vec<(Mark, Change)>, Mark);

/// Follows from a mark on, stopping after `limit` changes.
fn follow(
    store: &Store,
    from: Mark,
    octets: u64,
    limit: usize,
) -> Result<Option<Told>, StoreError> {
    let mut seen = Vec::new();
    let mark = store.follow(from, octets, &mut |mark, change| {
        let what = (
            change.sequence,
            change.space,
            change.key.to_vec(),
            change.put.is_some(),
        );
        if let Some(record) = change.put {
            assert_eq!(
                (record.key(), record.generation()),
                (change.key, change.sequence)
            );
        }
        seen.push((mark, what));
        match seen.len() >= limit {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    })?;
    Ok(mark.map(|mark| (seen, mark)))
}

/// Follows in pieces of random sizes up to the end that the store has when this is called.
fn all(store: &Store, from: Mark, random: &mut Random) -> (Vec<Change>, Mark) {
    let (mut found, mut mark, end) = (Vec::new(), from, store.sequence());
    while mark.sequence < end {
        let octets = [1, 4_096, 100_000, u64::MAX][random.below(4)];
        let limit = [1, 2, 7, 1_000, usize::MAX][random.below(5)];
        let (seen, next) = follow(store, mark, octets, limit)
            .expect("is read")
            .expect("is told");
        assert_ne!(next, mark, "it goes on");
        // Any line may be the last that arrived: half of the time it is gone on from there.
        match seen.get(random.below(2 * seen.len())).cloned() {
            Some((behind, last)) => {
                let upto = seen
                    .iter()
                    .position(|(mark, change)| *mark == behind && *change == last)
                    .expect("it is there");
                found.extend(seen.into_iter().take(upto + 1).map(|(_, change)| change));
                mark = behind;
            }
            None => {
                found.extend(seen.into_iter().map(|(_, change)| change));
                mark = next;
            }
        }
    }
    (found, mark)
}

/// Writes; what was done.
fn write(store: &Store, mut random: Random, writer: u64) -> Vec<Change> {
    let (send, receive) = channel();
    for number in 0..BATCHES {
        let mut did = Vec::new();
        let changes = (0..=random.below(6)).map(|place| {
            let key = format!("88.118/{writer}.{number}.{place}").into_bytes();
            let space = if place == 3 {
                Space::System
            } else {
                Space::Handle
            };
            let kept = random.below(4) > 0;
            did.push((space, key.clone(), kept));
            match kept {
                true => put(space, &key, number + 1),
                false => delete(space, &key),
            }
        });
        let changes = changes.collect();
        let send = send.clone();
        store.submit(batch(changes), move |done| {
            let sequence = done.expect("is committed").sequence;
            let did = did.into_iter();
            let did = did.map(|(space, key, kept)| (sequence, space, key, kept));
            drop(send.send(did.collect::<Vec<_>>()));
        });
        if random.below(20) == 0 {
            thread::yield_now();
        }
    }
    drop(send);
    receive.iter().flatten().collect()
}

#[test]
fn every_change_once_beside_writers_and_over_restarts() {
    let home = tempfile::tempdir().unwrap();
    let settings = config(&home.path().join("store"));
    let mut random = Random::new("follow");
    let mut store = create(&settings);
    let (mut made, mut followed, mut mark) = (Vec::new(), Vec::new(), Mark::default());
    for _ in 0..3 {
        let writing = AtomicBool::new(true);
        let seeds: Vec<u64> = (0..WRITERS).map(|_| random.next()).collect();
        thread::scope(|scope| {
            let writers: Vec<_> = seeds
                .iter()
                .enumerate()
                .map(|(writer, seed)| {
                    let (store, seed) = (&store, *seed);
                    let name = writer as u64 + 10 * (seed % 1_000_000);
                    scope.spawn(move || write(store, Random::seeded(seed), name))
                })
                .collect();
            let (writing, store, random) = (&writing, &store, &mut random);
            let follower = scope.spawn(move || {
                let mut found = Vec::new();
                while writing.load(Relaxed) {
                    let (more, next) = all(store, mark, random);
                    found.extend(more);
                    mark = next;
                }
                let (more, next) = all(store, mark, random);
                found.extend(more);
                (found, next)
            });
            let did = writers.into_iter().map(|writer| writer.join().unwrap());
            made.extend(did.flatten());
            writing.store(false, Relaxed);
            let (more, next) = follower.join().unwrap();
            followed.extend(more);
            mark = next;
        });
        assert_eq!(mark.sequence, store.sequence());
        store.close().unwrap();
        store = open(&settings);
    }
    // A batch keeps the order of its changes, and sequences are in order.
    made.sort_by_key(|(sequence, ..)| *sequence);
    assert_eq!(followed.len(), made.len());
    assert_eq!(followed, made);
    let files = fs::read_dir(settings.dir.join("journal")).unwrap().count();
    assert!(files > 3, "the journal has {files} files");
    // Nothing is remembered of where others stopped after a restart; from the beginning it is the same.
    let (again, _) = all(&store, Mark::default(), &mut random);
    assert_eq!(again, made);
}

#[test]
fn what_the_journal_does_not_tell() {
    let home = tempfile::tempdir().unwrap();
    let settings = config(&home.path().join("store"));
    let store = create(&settings);
    let commit = |number: u64| {
        let key = format!("88.118/{number}").into_bytes();
        let changes = vec![put(Space::Handle, &key, number)];
        store.commit(batch(changes)).unwrap().sequence
    };
    let at = |sequence| Mark {
        sequence,
        changes: 0,
    };
    let told = |from: Mark| follow(&store, from, u64::MAX, usize::MAX).unwrap();
    let first = commit(1);
    assert_eq!(
        told(at(first)).map(|(seen, mark)| (seen.len(), mark)),
        Some((0, at(first)))
    );
    assert!(told(at(first + 1)).is_none(), "what is still to come");
    let partly = Mark {
        sequence: first,
        changes: 1,
    };
    assert!(told(partly).is_none(), "so is that");
    // A bulk import has no changes in the journal; what came before it is told.
    let second = commit(2);
    import(&store, &[(Space::Handle, b"88.118/i".to_vec(), 7)]).unwrap();
    let third = commit(3);
    let (seen, mark) = told(at(first)).expect("up to the import");
    assert_eq!((seen.len(), seen[0].1.0), (1, second));
    assert!(mark.sequence < third && told(mark).is_none());
    assert_eq!(told(at(third - 1)).map(|(seen, _)| seen.len()), Some(1));
    // Many more, until what was first is pruned behind the snapshots.
    let mut end = (4..4_000).map(commit).last().unwrap();
    eventually("what was first is pruned", || {
        end = commit(4_000);
        store.snapshot().unwrap();
        told(at(third)).is_none()
    });
    assert_eq!(told(at(end)).map(|(seen, _)| seen.len()), Some(0));
    let after = commit(5_000);
    assert_eq!(
        told(at(end)).map(|(seen, mark)| (seen.len(), mark)),
        Some((1, at(after)))
    );
}

/// Goal: what cannot be read ends what is told, and is never passed over. Method: a byte in the middle of the journal is
/// changed while the store runs.
#[test]
fn damage_is_not_passed_over() {
    let home = tempfile::tempdir().unwrap();
    let settings = config(&home.path().join("store"));
    let store = create(&settings);
    let mut places = Vec::new();
    let file = settings
        .dir
        .join("journal")
        .join(format!("{:020}.journal", 1));
    for number in 0..50_u64 {
        let key = format!("88.118/{number}").into_bytes();
        let needle = format!("{number}:88.118/{number}");
        let changes = vec![put(Space::Handle, &key, number)];
        store.commit(batch(changes)).unwrap();
        let bytes = fs::read(&file).unwrap();
        let found = bytes
            .windows(needle.len())
            .rposition(|window| window == needle.as_bytes());
        places.push(found.expect("it was written"));
    }
    let mut bytes = fs::read(&file).unwrap();
    bytes[places[25]] ^= 1;
    fs::write(&file, bytes).unwrap();
    let (seen, mark) = follow(&store, Mark::default(), u64::MAX, usize::MAX)
        .unwrap()
        .expect("what is before");
    assert_eq!((seen.len(), mark.sequence), (25, 25));
    assert!(
        follow(&store, mark, u64::MAX, usize::MAX)
            .unwrap()
            .is_none()
    );
    let behind = Mark {
        sequence: 26,
        changes: 0,
    };
    let (seen, _) = follow(&store, behind, u64::MAX, usize::MAX)
        .unwrap()
        .expect("damage that lies behind is of no interest");
    assert_eq!(seen.len(), 24);
}
