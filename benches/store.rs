//! Figures of the store: look-ups, durable commits beside bare append and fdatasync, bulk load, reopening, memory.
//!
//! ```text
//! cargo bench --bench store [-- --records N --dir DIR --import --overwrite SECONDS --brief]
//! ```
//!
//! The default is 1,000,000 records of about 320 bytes (folded handle and values) in the directory for temporary files, which must be on a real disk
//! for the figures of durable writes to mean anything. Rates are wall-clock; look-ups are one thread. `--import` loads by
//! one bulk import, encoded by two threads, in the place of batches. `--overwrite` lets
//! that many seconds of 20,000 overwrites a second follow, and reports how large memory became. `--brief` leaves out what
//! makes sled anew, which takes long with many records.

#![expect(
    clippy::expect_used,
    reason = "a benchmark that cannot go on has nothing to say"
)]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi::store::{
    Action, Batch, Change, Config, Draft, DraftValue, Expect, Lookup, Space, Store,
};

const BATCH: u64 = 1_000;
const RUN: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(3_600);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let records = option("--records").map_or(1_000_000, |records| {
        records.parse().expect("--records: a number")
    });
    let brief = arguments.iter().any(|argument| argument == "--brief");
    let temporary = tempfile::tempdir().expect("a directory");
    let dir = option("--dir")
        .map_or_else(|| temporary.path().to_path_buf(), PathBuf::from)
        .join("store-bench");
    if dir.exists() {
        fs::remove_dir_all(&dir).expect("emptied");
    }
    let config = Config {
        dir: dir.clone(),
        ..Config::default()
    };
    Store::create(&config).expect("created");
    let store = Store::open(config.clone()).expect("opens");
    assert!(store.wait_ready(PATIENCE));

    if arguments.iter().any(|argument| argument == "--import") {
        import(&store, records);
    } else {
        load(&store, records);
    }
    finds(&store, records);
    if !brief {
        commits(&store, &dir, records);
    }
    let seconds = option("--overwrite").map_or(0, |seconds| seconds.parse().expect("a number"));
    overwrite(&store, records, seconds);
    let began = Instant::now();
    store.close().expect("closed");
    println!(
        "closing                       {:>10.2} s",
        began.elapsed().as_secs_f64()
    );
    reopen(config, records, brief);
    fs::remove_dir_all(dir).expect("removed");
}

/// A key in sorted order by number.
fn key(number: u64) -> Vec<u8> {
    format!("88.118.{:06}/DEVICE-OF-KIND-A.{:012}", number / 200, number).into_bytes()
}

/// Three values of 280 bytes under a key of 42.
fn put(number: u64, fill: u8) -> Change {
    let key = key(number);
    let value = |index: u32, length: usize| DraftValue {
        index,
        permissions: 0b1110,
        sealed: false,
        wire: Bytes::from(vec![fill; length]),
    };
    Change {
        space: Space::Handle,
        expect: Expect::Any,
        action: Action::Put(Draft {
            handle: Bytes::from(key.to_ascii_lowercase()),
            values: vec![value(1, 110), value(2, 75), value(100, 95)],
        }),
        key,
    }
}

fn load(store: &Store, records: u64) {
    let before = resident();
    let began = Instant::now();
    for first in (0..records).step_by(BATCH as usize) {
        let changes = (first..records.min(first + BATCH))
            .map(|number| put(number, 1))
            .collect();
        store.submit_wait(
            Batch {
                changes,
                note: Bytes::new(),
            },
            |outcome| {
                outcome.expect("committed");
            },
        );
    }
    store.commit(Batch::default()).expect("committed");
    let rate = records as f64 / began.elapsed().as_secs_f64();
    println!("load, batches of {BATCH}          {rate:>10.0} records/s acknowledged");
    loaded(store, records, began, before);
}

/// One bulk import of records in no order, as parsers would bring them.
fn import(store: &Store, records: u64) {
    let before = resident();
    let began = Instant::now();
    let mut bulk = store.bulk().expect("begun");
    let encoder = bulk.encoder();
    std::thread::scope(|scope| {
        let encoded: Vec<_> = (0..2)
            .map(|part| {
                let (send, receive) = sync_channel(2);
                scope.spawn(move || {
                    for first in (part * BATCH..records).step_by(2 * BATCH as usize) {
                        let mut slab = encoder.slab();
                        for number in first..records.min(first + BATCH) {
                            // Odd and without a factor in common with the numbers of records that are asked for.
                            let Change { key, action, .. } = put(number * 7_919 % records, 1);
                            if let Action::Put(draft) = action {
                                slab.put(Space::Handle, &key, &draft).expect("encoded");
                            }
                        }
                        send.send(slab).expect("taken");
                    }
                });
                receive
            })
            .collect();
        for parser in encoded.iter().cycle() {
            let Ok(slab) = parser.recv() else { break };
            bulk.add(slab).expect("added");
        }
    });
    let gathered = began.elapsed().as_secs_f64();
    bulk.commit().expect("committed");
    let all = began.elapsed().as_secs_f64();
    let found = store.get(Space::Handle, &key(records / 2)).expect("known");
    assert!(found.is_some(), "answerable");
    println!(
        "bulk import                   {:>10.0} records/s acknowledged ({gathered:.2} s + {:.2} s commit)",
        records as f64 / all,
        all - gathered
    );
    loaded(store, records, began, before);
}

/// What a load came to, and how sled follows.
fn loaded(store: &Store, records: u64, began: Instant, before: i64) {
    while store.stats().applied_sequence < store.stats().sequence {
        std::thread::sleep(Duration::from_millis(10));
    }
    let rate = records as f64 / began.elapsed().as_secs_f64();
    println!("    and in sled               {rate:>10.0} records/s");
    let stats = store.stats();
    let raw = stats.index_bytes as f64 / records as f64;
    let all = (resident() - before) as f64 / records as f64;
    println!(
        "packed record                 {raw:>10.1} B, resident memory {all:.1} B per record (with sled's cache)"
    );
    println!(
        "journal {} MB, sled {} MB",
        stats.journal_bytes >> 20,
        stats.store_bytes >> 20
    );
}

fn finds(store: &Store, records: u64) {
    let reader = store.reader();
    for (what, absent) in [("hits", false), ("misses", true)] {
        let mut state = 1_u64;
        let keys: Vec<Vec<u8>> = (0..320_000)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                key((state >> 20) % records + if absent { records } else { 0 })
            })
            .collect();
        let mut sum = 0;
        let mut best = f64::MAX;
        for _ in 0..5 {
            let began = Instant::now();
            for batch in keys.chunks(32) {
                let wanted: [&[u8]; 32] = std::array::from_fn(|at| &batch[at][..]);
                let session = reader.session();
                let mut found = [Lookup::Absent; 32];
                session.find(&wanted, &mut found);
                for found in &found {
                    if let Lookup::Found(record) = found {
                        sum += record.wire().len();
                    }
                }
            }
            best = best.min(began.elapsed().as_secs_f64() / keys.len() as f64);
        }
        assert_eq!(sum == 0, absent);
        println!(
            "find, batches of 32, {what:<7}   {:>10.0} ns each",
            best * 1e9
        );
    }
}

fn commits(store: &Store, dir: &Path, records: u64) {
    for round in 1..=2 {
        println!("round {round}");
        println!(
            "    bare append + fdatasync   {:>10.0} /s",
            bare(dir, false)
        );
        println!("    the same, preallocated    {:>10.0} /s", bare(dir, true));
        for writers in [1, 64] {
            println!(
                "    commits, {writers:>2} writers       {:>10.0} /s",
                rate(store, writers, records)
            );
        }
    }
}

/// One write and one sync for each record.
fn bare(dir: &Path, preallocated: bool) -> f64 {
    let path = dir.join("bare");
    let file = File::create(&path).expect("a file");
    if preallocated {
        nix::fcntl::posix_fallocate(&file, 0, 64 << 20).expect("space");
        file.sync_all().expect("synced");
    }
    let bytes = [7; 400];
    let (began, mut count) = (Instant::now(), 0_u64);
    while began.elapsed() < RUN {
        file.write_all_at(&bytes, count * 400).expect("written");
        file.sync_data().expect("synced");
        count += 1;
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    fs::remove_file(path).expect("removed");
    rate
}

/// Single random overwrites by so many threads.
fn rate(store: &Store, writers: u64, records: u64) -> f64 {
    let count = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for writer in 0..writers {
            let count = Arc::clone(&count);
            scope.spawn(move || {
                let mut number = writer * 7_919;
                while began.elapsed() < RUN {
                    number = (number * 48_271 + 11) % records;
                    store
                        .commit(Batch {
                            changes: vec![put(number, 2)],
                            note: Bytes::new(),
                        })
                        .expect("committed");
                    count.fetch_add(1, Relaxed);
                }
            });
        }
    });
    count.load(Relaxed) as f64 / began.elapsed().as_secs_f64()
}

/// Overwrites at a steady rate, and the largest that memory became.
fn overwrite(store: &Store, records: u64, seconds: u64) {
    const RATE: u64 = 20_000;
    const EACH: u64 = 200;
    let began = Instant::now();
    let (mut number, mut most, mut dead, mut slowest) = (1, 0, 0, Duration::ZERO);
    for turn in 0..seconds * RATE / EACH {
        let due = began + Duration::from_micros(turn * EACH * 1_000_000 / RATE);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let changes = (0..EACH).map(|_| {
            number = (number * 48_271 + 11) % records;
            put(number, turn as u8)
        });
        let batch = Batch {
            changes: changes.collect(),
            note: Bytes::new(),
        };
        let asked = Instant::now();
        store.submit_wait(batch, |outcome| {
            outcome.expect("committed");
        });
        slowest = slowest.max(asked.elapsed());
        if turn % 100 == 0 {
            most = most.max(resident());
            dead = dead.max(store.stats().index_dead_bytes);
        }
    }
    if seconds > 0 {
        let rate = (seconds * RATE) as f64 / began.elapsed().as_secs_f64();
        println!(
            "overwrites                    {rate:>10.0} /s, resident memory at most {} MB, of it dead {} MB",
            most >> 20,
            dead >> 20
        );
        println!("    longest wait for the queue {slowest:.1?}");
    }
}

fn reopen(config: Config, records: u64, brief: bool) {
    let before = resident();
    let began = Instant::now();
    let store = Store::open(config).expect("opens");
    let (send, receive) = sync_channel(1);
    let reader = store.reader();
    let wanted = key(records / 2);
    std::thread::spawn(move || {
        while !matches!(
            reader.session().get(Space::Handle, &wanted),
            Lookup::Found(_)
        ) {
            std::thread::yield_now();
        }
        send.send(began.elapsed()).expect("waited for");
    });
    assert!(store.wait_ready(PATIENCE));
    let all = began.elapsed().as_secs_f64();
    let hit = receive.recv().expect("a hit").as_secs_f64();
    println!(
        "opening                       {all:>10.2} s, {:.0} records/s; a record in the middle after {hit:.2} s",
        records as f64 / all
    );
    let raw = (records * 322) as f64 / 1e6;
    let used = (resident() - before) as f64 / 1e6;
    println!("resident memory               {used:>10.0} MB, of which raw {raw:.0} MB");
    while store.stats().applied_sequence == 0 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let used = resident() as f64 / 1e6;
    println!(
        "sled verified and in use      {:>10.2} s; resident memory of the process {used:.0} MB",
        began.elapsed().as_secs_f64()
    );
    if brief {
        return store.close().expect("closed");
    }
    let began = Instant::now();
    let snapshot = store.snapshot().expect("a snapshot");
    println!(
        "snapshot                      {:>10.2} s, {} MB",
        began.elapsed().as_secs_f64(),
        snapshot.bytes >> 20
    );
    let began = Instant::now();
    let report = store.verify().expect("verified");
    assert!(report.is_good(), "{report:?}");
    println!(
        "verify                        {:>10.2} s",
        began.elapsed().as_secs_f64()
    );
    let began = Instant::now();
    store.rebuild().expect("rebuilt");
    println!(
        "rebuild of sled               {:>10.2} s",
        began.elapsed().as_secs_f64()
    );
    store.close().expect("closed");
}

/// Resident memory of this process, in bytes.
fn resident() -> i64 {
    let status = fs::read_to_string("/proc/self/status").expect("readable");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("there");
    line.trim()
        .trim_end_matches("kB")
        .trim()
        .parse::<i64>()
        .expect("a number")
        * 1024
}
