//! Goal: damaged files are healed or refused with a message; never a wrong record, never one missing in silence. Method:
//! a store is copied after a clean close and, as a crash would leave it, while it runs; one place of one file is damaged
//! by a flipped bit, random bytes or a cut; the copy is opened and all keys are read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use jiexi::store::metrics::Part;
use jiexi::store::{Config, Space, State, Store, StoreError};

use crate::support::{
    PATIENCE, Random, batch, config, contents, copy_tree, create, delete, eventually, files,
    import, open, put,
};

/// The quick form; `JIEXI_TEST_LONG=1` does ten times as many.
const FLIPS: usize = 40;
const CUTS: usize = 24;

/// Where a store came from, and what is in it.
struct Image {
    dir: PathBuf,
    expected: BTreeMap<Vec<u8>, u64>,
}

#[test]
fn healed_or_refused() {
    let mut random = Random::new("damage");
    let home = tempfile::tempdir().unwrap();
    let images = images(home.path());
    let factor = if std::env::var_os("JIEXI_TEST_LONG").is_some() {
        10
    } else {
        1
    };
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for round in 0..(FLIPS + CUTS) * factor {
        let image = &images[round % images.len()];
        let copy = home.path().join("copy");
        copy_tree(&image.dir, &copy);
        let victims: Vec<PathBuf> = files(&copy)
            .into_iter()
            .filter(|file| !is_small(file))
            .collect();
        // Each part as often as the others, however many files it has.
        let parts: BTreeSet<&str> = victims.iter().map(|file| part(&copy, file)).collect();
        let wanted = parts.iter().nth(random.below(parts.len())).unwrap();
        let victims: Vec<&PathBuf> = victims
            .iter()
            .filter(|file| part(&copy, file) == *wanted)
            .collect();
        let victim = victims[random.below(victims.len())];
        let what = if round < FLIPS * factor {
            flip(victim, &mut random)
        } else {
            cut(victim, &mut random)
        };
        let outcome = check(&copy, image, &what, round);
        *outcomes.entry(format!("{wanted}: {outcome}")).or_default() += 1;
        fs::remove_dir_all(copy).unwrap();
    }
    println!("{outcomes:#?}");
    assert!(
        outcomes.keys().any(|outcome| outcome.ends_with("healed")),
        "{outcomes:?}"
    );
}

/// A whole file missing.
#[test]
fn missing_files() {
    let home = tempfile::tempdir().unwrap();
    for image in images(home.path()) {
        for victim in files(&image.dir) {
            let copy = home.path().join("copy");
            copy_tree(&image.dir, &copy);
            fs::remove_file(copy.join(victim.strip_prefix(&image.dir).unwrap())).unwrap();
            check(&copy, &image, &format!("{} removed", victim.display()), 0);
            fs::remove_dir_all(copy).unwrap();
        }
    }
}

/// Stores of two snapshots, several segments, and changes after them: closed, and as a crash leaves it.
fn images(home: &Path) -> Vec<Image> {
    let live = home.join("live");
    let store = create(&small(&live));
    for round in 0..3 {
        fill(&store, round * 1_000);
        store.snapshot().unwrap();
    }
    fill(&store, 3_000);
    store.close().unwrap();
    let closed = home.join("closed");
    copy_tree(&live, &closed);
    let store = open(&small(&live));
    fill(&store, 3_500);
    import_some(&store, 5_000);
    let expected = contents(&store, Space::Handle);
    let crashed = home.join("crashed");
    // sled is read while it may be writing, as no crash would; it has had its time.
    eventually("sled follows", || {
        store.stats().applied_sequence == store.stats().sequence
    });
    copy_tree(&live, &crashed);
    // And one where sled is behind, so that the last entries are only in the journal.
    fill_some(&store, 4_500, 30);
    import_some(&store, 5_001);
    let behind = home.join("behind");
    for part in ["journal", "runs"] {
        copy_tree(&live.join(part), &behind.join(part));
    }
    copy_tree(&crashed, &behind.join("rest"));
    for entry in fs::read_dir(behind.join("rest"))
        .unwrap()
        .map(|entry| entry.unwrap())
    {
        if entry.file_name() != "journal" && entry.file_name() != "runs" {
            fs::rename(entry.path(), behind.join(entry.file_name())).unwrap();
        }
    }
    fs::remove_dir_all(behind.join("rest")).unwrap();
    let behind = Image {
        dir: behind,
        expected: contents(&store, Space::Handle),
    };
    drop(store);
    let mut images = vec![
        Image {
            dir: crashed,
            expected,
        },
        behind,
    ];
    let copy = home.join("look");
    copy_tree(&closed, &copy);
    images.push(Image {
        dir: closed,
        expected: contents(&open(&small(&copy)), Space::Handle),
    });
    images
}

fn small(dir: &Path) -> Config {
    Config {
        segment_bytes: 128 << 10,
        import_stripe_bytes: 32 << 10,
        ..config(dir)
    }
}

/// A bulk import of some hundred records of this version.
fn import_some(store: &Store, version: u64) {
    let key = |number: u64| format!("88.118/{:05}", number * 5).into_bytes();
    let records: Vec<_> = (0..400)
        .map(|number| (Space::Handle, key(number), version))
        .collect();
    import(store, &records).unwrap();
}

fn fill(store: &Store, first: u64) {
    fill_some(store, first, 600);
}

fn fill_some(store: &Store, first: u64, count: u64) {
    for batch_number in (first..first + count).step_by(10) {
        let changes = (batch_number..batch_number + 10).map(|number| {
            let key = format!("88.118/{:05}", number * 7 % 3_001).into_bytes();
            if number.is_multiple_of(13) {
                delete(Space::Handle, &key)
            } else {
                put(Space::Handle, &key, number)
            }
        });
        store.commit(batch(changes.collect())).unwrap();
    }
}

/// Which part of a store a file belongs to.
fn part<'a>(dir: &Path, file: &'a Path) -> &'a str {
    let first = file.strip_prefix(dir).unwrap().components().next().unwrap();
    let first = first.as_os_str().to_str().unwrap();
    if first.starts_with("sled") {
        "sled"
    } else {
        first
    }
}

fn is_small(file: &Path) -> bool {
    file.metadata().unwrap().len() == 0
}

/// One bit, or now and then 4 KiB of nonsense.
fn flip(file: &Path, random: &mut Random) -> String {
    let mut bytes = fs::read(file).unwrap();
    // Files are mostly reserved space at the end; what is in use matters more.
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(bytes.len(), |last| last + 1);
    let at = random.below(used);
    if random.below(3) == 0 {
        let end = (at + 4_096).min(bytes.len());
        bytes[at..end].fill_with(|| random.next() as u8);
    } else {
        bytes[at] ^= 1 << random.below(8);
    }
    fs::write(file, &bytes).unwrap();
    format!("{} damaged at {at} of {used}", file.display())
}

/// A few KiB less, or half.
fn cut(file: &Path, random: &mut Random) -> String {
    let bytes = fs::read(file).unwrap();
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(bytes.len(), |last| last + 1);
    let less = if random.below(2) == 0 {
        1 + random.below(12_288)
    } else {
        used / 2
    };
    let length = used.saturating_sub(less);
    fs::write(file, &bytes[..length]).unwrap();
    format!("{} cut to {length} of {used}", file.display())
}

/// Opens a damaged store; how it went.
fn check(dir: &Path, image: &Image, what: &str, round: usize) -> &'static str {
    let config = small(dir);
    let store = match Store::open(config.clone()) {
        Ok(store) => store,
        Err(error) => return refused(&error, what),
    };
    if let Err(error) = store.wait_loaded(PATIENCE) {
        // Nothing is said to be absent, and what is said to be there is right.
        for (key, _) in image.expected.iter().step_by(50) {
            assert!(
                !matches!(store.get(Space::Handle, key), Ok(None)),
                "{what}: absent in silence"
            );
        }
        return refused(&error, what);
    }
    assert_same(&contents(&store, Space::Handle), &image.expected, what);
    store
        .commit(batch(vec![put(Space::Handle, b"AFTER", 1)]))
        .unwrap();
    // A sled that was not needed for loading is looked at afterwards.
    eventually("it is healed", || {
        let stats = store.stats();
        store.state() == State::Ready && stats.applied_sequence == stats.sequence
    });
    let parts = [Part::Sled, Part::Snapshot, Part::Journal];
    let healed = parts.iter().any(|part| store.metrics().errors(*part) > 0);
    if round.is_multiple_of(4) {
        // What loading had no need of, verification finds, and heals.
        let report = store.verify().unwrap();
        if !report.is_good() {
            eventually(&format!("{what}: {:?} is healed", report.problems), || {
                store.verify().is_ok_and(|report| report.is_good())
            });
        }
    }
    store.close().unwrap();
    let store = open(&config);
    let mut found = contents(&store, Space::Handle);
    assert_eq!(found.remove(&b"AFTER"[..]), Some(1), "{what}");
    assert_same(&found, &image.expected, what);
    if healed {
        "healed"
    } else {
        "as if nothing had been"
    }
}

fn assert_same(found: &BTreeMap<Vec<u8>, u64>, expected: &BTreeMap<Vec<u8>, u64>, what: &str) {
    if found != expected {
        let missing = expected
            .keys()
            .filter(|key| !found.contains_key(*key))
            .count();
        let wrong = found
            .iter()
            .filter(|(key, version)| expected.get(*key) != Some(version))
            .count();
        panic!(
            "{what}: {missing} missing, {wrong} wrong of {}",
            expected.len()
        );
    }
}

/// A refusal must name a file and a remedy.
fn refused(error: &StoreError, what: &str) -> &'static str {
    let message = error.to_string();
    let helps = ["restore", "backup", "remove", "init"]
        .iter()
        .any(|word| message.contains(word));
    assert!(message.contains('/') && helps, "{what}: {message}");
    "refused"
}
