//! Goal: the index says what a map would, to readers beside the writer too, and what they found stays as it is. Method:
//! seeded random changes, with so much of it dead that regions are cleaned and tables grow all the time. `fuzz/index` runs
//! this with an address sanitizer.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;

use super::*;
use crate::store::change::{Draft, DraftValue};
use crate::store::record::Packed;

/// Random numbers (splitmix64).
struct Random(u64);

impl Random {
    /// With a new seed, or that in `JIEXI_TEST_SEED`; prints it.
    fn new(test: &str) -> Self {
        let given = std::env::var("JIEXI_TEST_SEED");
        let given = given.ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let clock = std::time::Instant::now();
            // Where things lie in memory, and a clock of unknown origin, are enough of a seed.
            let address = std::ptr::from_ref(&clock).addr() as u64;
            (address ^ std::process::id() as u64) << 16 ^ clock.elapsed().as_nanos() as u64
        });
        println!("{test}: JIEXI_TEST_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn key(number: u64) -> Vec<u8> {
    let filler = "-".repeat(number as usize % 40);
    format!("88.118/{number}{filler}").into_bytes()
}

/// Version `version` of a record: every byte follows from the two numbers.
fn packed(space: Space, number: u64, version: u64) -> Packed {
    let mut random = Random(number << 32 ^ version);
    // Now and then a large one.
    let length = if random.below(300) == 0 {
        100_000 + random.below(150_000)
    } else {
        random.below(400)
    };
    let draft = Draft {
        handle: Bytes::from(key(number)),
        values: vec![DraftValue {
            index: 1,
            permissions: 15,
            sealed: false,
            wire: Bytes::from(vec![random.next() as u8; length as usize]),
        }],
    };
    let mut packed = Packed::encode(space, &key(number), &draft).unwrap();
    packed.seal(version);
    packed
}

#[test]
fn random_changes_against_a_map() {
    let mut random = Random::new("index against a map");
    let index = Index::new();
    let mut model: BTreeMap<(u8, Vec<u8>), Vec<u8>> = BTreeMap::new();
    for version in 1..60_000 {
        let space = Space::ALL[random.below(4) as usize];
        // At first many keys, so that tables grow; then few, so that records die.
        let number = random.below(if version < 20_000 { 50_000 } else { 5_000 });
        let place = (space.number(), key(number));
        let before = model.get(&place).map(|packed| checksum(packed));
        match random.below(10) {
            0..=5 => {
                let packed = packed(space, number, version);
                assert_eq!(index.put(packed.view()), before);
                model.insert(place, packed.bytes().to_vec());
            }
            6 => {
                let packed = packed(space, number, version);
                assert_eq!(index.put_if_absent(packed.view()), before.is_none());
                model
                    .entry(place)
                    .or_insert_with(|| packed.bytes().to_vec());
            }
            7..=8 => {
                assert_eq!(index.remove(place.0, &place.1), before);
                model.remove(&place);
            }
            _ => {
                let found = index.with(place.0, &place.1, |packed| packed.checksum());
                assert_eq!(found, before);
            }
        }
        if random.below(20_000) == 0 {
            index.clear();
            model.clear();
        }
    }
    assert_eq!(index.len(), model.len());
    assert_eq!(
        index.bytes(),
        model
            .values()
            .map(|packed| packed.len() as u64)
            .sum::<u64>()
    );
    let mut seen = BTreeMap::new();
    index.for_each(|packed| {
        let place = (packed.space_number(), packed.key().to_vec());
        assert!(
            seen.insert(place, packed.bytes().to_vec()).is_none(),
            "seen twice"
        );
    });
    assert_eq!(seen, model);
    for prefix in [&b""[..], b"\x01", b"\x0388.118/1"] {
        let full = |(space, key): &(u8, Vec<u8>)| [&[*space], &key[..]].concat();
        let keys = model.keys().map(full).filter(|key| key.starts_with(prefix));
        let expected: Vec<Vec<u8>> = keys.take(100).collect();
        assert_eq!(index.page(Bound::Unbounded, prefix, 100), expected);
    }
    assert!(
        index.dead_bytes() < index.bytes() / 4 + (4 << 20),
        "too much stays dead"
    );
}

fn checksum(packed: &[u8]) -> u64 {
    PackedRef::of_index(packed).checksum()
}

/// Keys that one writer changes and others read, each with the version that is there at least and at most.
struct Watched {
    index: Arc<Index>,
    /// Version of what is certainly visible, and of what may be.
    versions: Vec<(AtomicU64, AtomicU64)>,
    done: AtomicBool,
}

/// Every third version is a removal.
fn is_removal(version: u64) -> bool {
    version.is_multiple_of(3)
}

#[test]
fn readers_beside_a_writer() {
    const KEYS: u64 = 3_000;
    let mut random = Random::new("readers beside a writer");
    let watched = Watched {
        index: Arc::new(Index::new()),
        versions: (0..KEYS).map(|_| Default::default()).collect(),
        done: AtomicBool::new(false),
    };
    watched.index.set_miss(Miss::Absent);
    thread::scope(|scope| {
        let seeds = [random.next(), random.next(), random.next()];
        let readers = seeds.map(|seed| {
            scope.spawn({
                let watched = &watched;
                move || watched.read(seed)
            })
        });
        for number in 0..250_000 {
            watched.change(random.below(KEYS));
            if number % 100 == 0 {
                watched.index.tend();
            }
        }
        watched.done.store(true, Ordering::Release);
        for reader in readers {
            let (hits, misses) = reader.join().unwrap();
            assert!(hits > 0 && misses > 0);
        }
    });
}

impl Watched {
    fn change(&self, number: u64) {
        let (least, most) = &self.versions[number as usize];
        let version = most.load(Ordering::Relaxed) + 1;
        most.store(version, Ordering::SeqCst);
        if is_removal(version) {
            self.index.remove(1, &key(number));
        } else {
            self.index
                .put(packed(Space::Handle, number, version).view());
        }
        least.store(version, Ordering::SeqCst);
    }

    fn read(&self, seed: u64) -> (u64, u64) {
        let mut random = Random(seed);
        let reader = Reader::new(Arc::clone(&self.index));
        let (mut hits, mut misses) = (0, 0);
        while !self.done.load(Ordering::Acquire) {
            let session = reader.session();
            let mut kept = Vec::new();
            for _ in 0..1 + random.below(20) {
                self.read_batch(&session, &mut random, &mut kept);
            }
            hits += kept.len() as u64;
            misses += 1;
            // Whatever was written meanwhile, what the session found is as it was.
            for record in kept {
                let version = record.generation();
                let number = number_of(record.key());
                let expected = packed(Space::Handle, number, version);
                assert_eq!(record, expected.record());
            }
        }
        (hits, misses)
    }

    fn read_batch<'s>(
        &self,
        session: &'s Session<'_>,
        random: &mut Random,
        kept: &mut Vec<Record<'s>>,
    ) {
        let count = 1 + random.below(40) as usize;
        let numbers: Vec<u64> = (0..count)
            .map(|_| random.below(self.versions.len() as u64))
            .collect();
        let keys: Vec<Vec<u8>> = numbers.iter().map(|number| key(*number)).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        let mut found = vec![Lookup::Loading; count];
        let bound = |which: fn(&(AtomicU64, AtomicU64)) -> &AtomicU64| -> Vec<u64> {
            let of = |number: &u64| which(&self.versions[*number as usize]).load(Ordering::SeqCst);
            numbers.iter().map(of).collect()
        };
        let least = bound(|versions| &versions.0);
        session.find(&keys, &mut found);
        let most = bound(|versions| &versions.1);
        for (at, found) in found.iter().enumerate() {
            match found {
                Lookup::Found(record) => {
                    let version = record.generation();
                    assert!(
                        (least[at]..=most[at]).contains(&version),
                        "{version} is not of then"
                    );
                    assert_eq!(record.key(), keys[at]);
                    kept.push(*record);
                }
                Lookup::Absent => assert!((least[at]..=most[at]).any(is_removal), "it was there"),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn number_of(key: &[u8]) -> u64 {
    let digits = key[7..].iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// Goal: many records at once are as many puts, also for readers beside it, and dropping them is nothing. Method: stages
/// of new and known keys, some of them twice, against a map.
#[test]
fn stages_against_a_map() {
    let mut random = Random::new("stages against a map");
    let index = Arc::new(Index::new());
    let mut model: BTreeMap<(u8, Vec<u8>), Vec<u8>> = BTreeMap::new();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let reader = Reader::new(Arc::clone(&index));
            while !stop.load(Ordering::Relaxed) {
                for number in 0..500 {
                    let _ = reader.with(Space::Handle.number(), &key(number), |found| {
                        assert!(found.is_whole());
                    });
                }
            }
        });
        for version in 1..40 {
            let mut stage = index.stage();
            let mut after = model.clone();
            for _ in 0..random.below(3_000) {
                let (space, number) = (Space::ALL[random.below(4) as usize], random.below(4_000));
                let packed = packed(space, number, version << 20 | random.below(1 << 20));
                stage.add(packed.view());
                after.insert((space.number(), key(number)), packed.bytes().to_vec());
            }
            let sum = |model: &BTreeMap<_, Vec<u8>>| {
                model.values().fold(0, |sum, packed| sum ^ checksum(packed))
            };
            let prepared = index.prepare(stage);
            assert_eq!(prepared.count, after.len() as i64 - model.len() as i64);
            assert_eq!(prepared.sum, sum(&after) ^ sum(&model));
            if random.below(5) == 0 {
                drop(prepared);
            } else {
                prepared.publish();
                model = after;
            }
            for _ in 0..300 {
                let number = random.below(4_000);
                index.remove(Space::Handle.number(), &key(number));
                model.remove(&(Space::Handle.number(), key(number)));
            }
            index.tend();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(index.len(), model.len());
    let bytes: usize = model.values().map(Vec::len).sum();
    assert_eq!(index.bytes(), bytes as u64);
    for ((space, key), packed) in &model {
        let same = index.with(*space, key, |found| found.bytes() == packed);
        assert_eq!(same, Some(true));
    }
}

/// Goal: records that come a few at a time leave no regions behind that hold little but a table. Method: many small stages
/// into a large index, as small imports are, and the pauses between them.
#[test]
fn tables_stay_together() {
    let mut random = Random::new("tables stay together");
    let index = Index::new();
    let put = |records: u64, number: &mut dyn FnMut() -> u64| {
        let mut stage = index.stage();
        for _ in 0..records {
            let number = number();
            let space = Space::ALL[1 + number as usize % 3];
            let draft = Draft {
                handle: Bytes::from(key(number)),
                values: Vec::new(),
            };
            let mut packed = Packed::encode(space, &key(number), &draft).unwrap();
            packed.seal(1);
            stage.add(packed.view());
        }
        index.prepare(stage).publish();
    };
    let mut next = 0..250_000;
    put(250_000, &mut || next.next().unwrap());
    for _ in 0..1_500 {
        put(20, &mut || random.below(250_000));
        index.tend();
    }
    for _ in 0..100 {
        index.tend();
    }
    let (regions, lines) = index.memory.table_regions();
    let needed = lines.div_ceil(memory::table::REGION_LINES);
    assert!(
        regions > 0 && regions <= 2 * needed + 1,
        "{regions} for {needed}"
    );
}
