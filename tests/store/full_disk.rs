//! Goal: on a full disk writes are refused, reads go on, writing goes on by itself when there is space again, and nothing
//! acknowledged is lost. Method: a tmpfs of 48 MiB with 12 MiB of ballast is filled, then the ballast is removed; once
//! with the guard, which refuses before the disk is full, and once without it. All the while another thread reads: sled
//! is given up on the way, and may hang when it is closed, which must not be a reader's business.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use jiexi::store::{CommitError, Config, Space, Store};

use crate::support::{batch, config, contents, create, eventually, open, put};

/// Between two readings of everything: the writer has to get on.
const PAUSE: Duration = Duration::from_millis(2);

/// A mounted tmpfs.
struct Disk(PathBuf);

impl Disk {
    /// None when mounting is not possible here; in CI that is a failure.
    fn mount(path: &Path) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let options = format!("size=48m,uid={}", nix::unistd::geteuid());
        let arguments = ["-t", "tmpfs", "-o", &options, "tmpfs"].map(OsStr::new);
        let mounted = as_root("mount", &[&arguments[..], &[path.as_os_str()]].concat());
        let in_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
        assert!(mounted || !in_ci, "CI must be able to mount a tmpfs");
        mounted.then(|| Self(path.to_path_buf()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = as_root("umount", &[OsStr::new("-l"), self.0.as_os_str()]);
        assert!(unmounted, "unmounted");
    }
}

/// Runs a program as root, by way of `sudo` when that asks nothing; whether it succeeded.
fn as_root(program: &str, arguments: &[&OsStr]) -> bool {
    let mut command = if nix::unistd::geteuid().is_root() {
        Command::new(program)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", program]);
        sudo
    };
    let status = command.args(arguments).status();
    status.is_ok_and(|status| status.success())
}

#[test]
fn with_guard() {
    fill_up(6 << 20);
}

#[test]
fn without_guard() {
    fill_up(0);
}

fn fill_up(guard_free_bytes: u64) {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(&dir.path().join("disk")) else {
        println!("skipped: no permission to mount a tmpfs");
        return;
    };
    let ballast = disk.0.join("ballast");
    fs::write(&ballast, vec![1; 12 << 20]).unwrap();
    let config = Config {
        segment_bytes: 2 << 20,
        guard_free_bytes,
        ..config(&disk.0.join("store"))
    };
    let store = create(&config);
    let expected = std::thread::scope(|scope| {
        let reading = Reading::default();
        let (store, goes_on) = (&store, Arc::clone(&reading.0));
        scope.spawn(move || {
            while goes_on.load(Relaxed) {
                contents(store, Space::Handle);
                std::thread::sleep(PAUSE);
            }
        });
        fill_and_clear(store, &ballast)
    });
    drop(store);
    let store = open(&config);
    assert!(
        contents(&store, Space::Handle) == expected,
        "reads after opening again"
    );
    println!("{} records before the disk was full", expected.len());
}

/// Tells a reader to end, however the test does.
struct Reading(Arc<AtomicBool>);

impl Default for Reading {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

/// Writes until the disk is full, then makes room; what the store must have.
fn fill_and_clear(store: &Store, ballast: &Path) -> BTreeMap<Vec<u8>, u64> {
    let mut expected = BTreeMap::new();
    let key = |number: u64| format!("K{number:06}").into_bytes();
    let commit = |numbers: std::ops::Range<u64>| {
        store.commit(batch(
            numbers
                .map(|number| put(Space::Handle, &key(number), number))
                .collect(),
        ))
    };
    let mut number = 0;
    let error = loop {
        match commit(number..number + 20) {
            Ok(_) => expected.extend((number..number + 20).map(|number| (key(number), number))),
            Err(error) => break error,
        }
        number += 20;
        assert!(number < 1_000_000, "the disk does not get full");
    };
    assert_eq!(error, CommitError::DiskFull);
    assert!(number > 1_000, "full after {number}");
    // More attempts change nothing; reads go on.
    for _ in 0..50 {
        match commit(number..number + 20) {
            Ok(_) => expected.extend((number..number + 20).map(|number| (key(number), number))),
            Err(error) => assert_eq!(error, CommitError::DiskFull),
        }
        number += 20;
    }
    assert!(
        contents(store, Space::Handle) == expected,
        "reads on a full disk"
    );
    fs::remove_file(ballast).unwrap();
    eventually("writing goes on", || commit(900_000..900_001).is_ok());
    expected.insert(key(900_000), 900_000);
    assert!(
        contents(store, Space::Handle) == expected,
        "reads afterwards"
    );
    expected
}
