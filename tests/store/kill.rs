//! Goal: kill -9 loses nothing that was acknowledged and tears nothing. Method: a child process (this very binary) writes
//! with two threads, single changes and batches of 100, and tells of each acknowledgement through a pipe; it is killed at
//! a random time; the store is opened and compared with what was told. The keys of a thread are its own, and what it
//! does under its number n is known, so the state of each key must be that of its last acknowledged change, or of the one
//! change that the thread had under way.
//!
//! The same with acknowledgements before the write must find losses, or else the loop could not find any.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use jiexi::store::{Change, Config, Faults, Space, Store};

use crate::support::{Random, batch, config, contents, delete, eventually, open, put};

const KILLS: usize = 30;
/// Directory of the child's store; set for child processes only.
const DIR: &str = "JIEXI_STORE_CHILD";
/// The next number of each thread, and whether to acknowledge first.
const TASK: &str = "JIEXI_STORE_CHILD_TASK";

#[test]
fn nothing_acknowledged_is_lost() {
    let mut random = Random::new("kill loop");
    let dir = tempfile::tempdir().unwrap();
    let losses = kill_loop(dir.path(), &mut random, KILLS, false);
    assert!(losses.is_empty(), "{losses:#?}");
}

/// The proof that the loop can fail.
#[test]
fn acknowledging_first_is_found_out() {
    let mut random = Random::new("kill loop, acknowledging first");
    let dir = tempfile::tempdir().unwrap();
    let losses = kill_loop(dir.path(), &mut random, KILLS, true);
    assert!(
        !losses.is_empty(),
        "no losses although acknowledgements came before the writes"
    );
}

/// Kills so many times, or until something is lost; what was lost.
fn kill_loop(dir: &Path, random: &mut Random, kills: usize, unsafe_order: bool) -> Vec<String> {
    Store::create(&child_config(dir)).unwrap();
    let mut next = [0_u64; 2];
    let mut reopen_max = Duration::ZERO;
    for kill in 0..kills {
        let told = run_and_kill(
            dir,
            next,
            unsafe_order,
            Duration::from_millis(10 + random.next() % 250),
        );
        let began = Instant::now();
        let store = open(&child_config(dir));
        reopen_max = reopen_max.max(began.elapsed());
        let losses = compare(&store, told);
        if kill % 10 == 9 {
            // On a busy machine a sled may have been given up.
            eventually("there is a sled", || store.stats().store_bytes > 0);
            let report = store.verify().unwrap();
            assert!(report.is_good(), "{report:?}");
        }
        store.close().unwrap();
        if !losses.is_empty() {
            return losses;
        }
        // The change under way may or may not be there: its number is not used again, so do it now.
        settle(dir, told);
        next = told.map(|told| told + 1);
    }
    println!("{kills} kills, {next:?} operations, slowest reopening {reopen_max:?}");
    assert!(
        next.iter().all(|next| *next > 100),
        "hardly anything was written: {next:?}"
    );
    Vec::new()
}

/// Small segments and frequent snapshots, so that kills fall into those, too.
fn child_config(dir: &Path) -> Config {
    Config {
        segment_bytes: 128 << 10,
        snapshot_journal_bytes: 512 << 10,
        lag_changes: 2_000,
        ..config(dir)
    }
}

/// What thread `thread` does under number `number`.
fn operation(thread: usize, number: u64) -> Vec<Change> {
    if thread == 0 {
        let key = format!("S{:03}", number % 400).into_bytes();
        return vec![if number.is_multiple_of(7) {
            delete(Space::Handle, &key)
        } else {
            put(Space::Handle, &key, number)
        }];
    }
    let first = number % 20 * 100;
    (first..first + 100)
        .map(|key| put(Space::Handle, format!("B{key:04}").as_bytes(), number))
        .collect()
}

/// What the operations of both threads up to these numbers leave.
fn state(upto: [u64; 2]) -> HashMap<Vec<u8>, u64> {
    let mut state = HashMap::new();
    for (thread, upto) in upto.into_iter().enumerate() {
        // Keys come round again after this many operations at most.
        for number in upto.saturating_sub(400)..upto {
            for change in operation(thread, number) {
                match change.action {
                    jiexi::store::Action::Put(_) => state.insert(change.key, number),
                    jiexi::store::Action::Delete => state.remove(&change.key),
                };
            }
        }
    }
    state
}

/// Compares a store with the operations told of, `told[t]` of thread `t`.
fn compare(store: &Store, told: [u64; 2]) -> Vec<String> {
    let found = contents(store, Space::Handle);
    let (acknowledged, under_way) = (state(told), state(told.map(|told| told + 1)));
    let mut losses = Vec::new();
    let mut keys: Vec<&Vec<u8>> = found
        .keys()
        .chain(acknowledged.keys())
        .chain(under_way.keys())
        .collect();
    keys.sort();
    keys.dedup();
    let mut partly = [0, 0];
    for key in keys {
        let (found, before, after) = (found.get(key), acknowledged.get(key), under_way.get(key));
        if found != before && found != after {
            let key = String::from_utf8_lossy(key);
            losses.push(format!(
                "{key}: {found:?}, must be {before:?} or {after:?} ({told:?} were told)"
            ));
        }
        if before != after && key.starts_with(b"B") {
            partly[usize::from(found == after)] += 1;
        }
    }
    if partly[0] > 0 && partly[1] > 0 {
        losses.push(format!("a batch is torn: {partly:?}"));
    }
    losses
}

/// Does what was under way.
fn settle(dir: &Path, told: [u64; 2]) {
    let store = open(&child_config(dir));
    for (thread, number) in told.into_iter().enumerate() {
        store.commit(batch(operation(thread, number))).unwrap();
    }
    // Dropped without much ado, so that some rounds begin with a clean close and others right after it.
    drop(store);
}

/// Runs a child and kills it after a while; the first number of each thread that it did not tell of.
fn run_and_kill(dir: &Path, next: [u64; 2], unsafe_order: bool, after: Duration) -> [u64; 2] {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(TASK, format!("{} {} {unsafe_order}", next[0], next[1]))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let mut lines = out.lines().map(|line| line.unwrap());
    lines
        .find(|line| line.contains("ready"))
        .expect("the child opens its store");
    let killer = std::thread::spawn(move || {
        std::thread::sleep(after);
        kill(&mut child);
    });
    let mut told = next;
    for line in lines {
        if let Some((thread, number)) = parse(&line) {
            told[thread] = told[thread].max(number + 1);
        }
    }
    killer.join().unwrap();
    told
}

pub(crate) fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A line `ok thread number.`; a torn one at the end was not told.
fn parse(line: &str) -> Option<(usize, u64)> {
    let mut words = line.strip_prefix("ok ")?.strip_suffix('.')?.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// No test: the body of the child process, which is killed.
#[test]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let task = std::env::var(TASK).unwrap();
    let words: Vec<&str> = task.split(' ').collect();
    let faults = Faults::default();
    faults.acknowledge_first.store(words[2] == "true", Relaxed);
    let config = Config {
        faults: Some(Arc::new(faults)),
        ..child_config(Path::new(&dir))
    };
    let store = open(&config);
    tell("\nready");
    std::thread::scope(|scope| {
        for (thread, first) in words.iter().take(2).enumerate() {
            let (first, store) = (first.parse::<u64>().unwrap(), &store);
            scope.spawn(move || {
                for number in first.. {
                    store.commit(batch(operation(thread, number))).unwrap();
                    tell(&format!("ok {thread} {number}."));
                }
            });
        }
    });
}

/// One write, so that a kill cannot tear it.
pub(crate) fn tell(line: &str) {
    std::io::stdout()
        .write_all(format!("{line}\n").as_bytes())
        .unwrap();
    std::io::stdout().flush().unwrap();
}
