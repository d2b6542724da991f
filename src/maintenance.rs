//! What `jiexi store …` does, on an open store or on the files of a stopped one; each action gives a report in JSON.
//!
//! Restoring replaces everything. On a stopped node the old files are kept beside the new ones; on a running node the
//! snapshot becomes a store of its own for a moment, and what differs is committed batch by batch, so that look-ups go
//! on and see each record either as it was or as it will be.

use std::{
    cmp::Ordering,
    fmt, fs,
    ops::Bound,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value as Json, json};

use crate::{
    config::Config,
    control::command::StoreAction,
    records,
    store::{
        self, Action, Change, Draft, DraftValue, Expect, OwnedRecord, SnapshotInfo, Space, Stats,
        Store, StoreError,
    },
};

/// How long a store may take to load.
pub const LOAD_MAX: Duration = Duration::from_secs(600);
/// Records compared at once when restoring a running node.
const PAGE: usize = 512;

/// What an action found or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whether all is well.
    pub good: bool,
    /// The details.
    pub json: Json,
}

impl Report {
    /// A report of something done.
    fn done(json: Json) -> Self {
        Self { good: true, json }
    }
}

/// Opens a store and waits until it is loaded.
///
/// # Errors
/// A message for people.
pub fn open(config: store::Config) -> Result<Store, String> {
    let store = Store::open(config).map_err(|error| error.to_string())?;
    match store.wait_loaded(LOAD_MAX) {
        Ok(true) => Ok(store),
        Ok(false) => Err(format!(
            "the store did not become ready: {:?}",
            store.state()
        )),
        Err(error) => Err(error.to_string()),
    }
}

/// About how many records the store has, for progress.
#[must_use]
pub fn records(store: &Store) -> u64 {
    store.stats().records
}

/// Does something with an open store: one of this process, or that of a running node. `scratch` is the store's
/// settings, for restoring.
///
/// # Errors
/// A message for people.
pub fn on_open(
    store: &Store,
    scratch: &store::Config,
    action: &StoreAction,
) -> Result<Report, String> {
    let say = |error: StoreError| error.to_string();
    match action {
        StoreAction::Verify => store.verify().map(|report| verified(&report)).map_err(say),
        StoreAction::Stats => Ok(Report::done(stats(&store.state(), &store.stats()))),
        StoreAction::Snapshot => store
            .snapshot()
            .map(|info| Report::done(snapshot(&info)))
            .map_err(say),
        StoreAction::Rebuild => {
            store.rebuild().map_err(say)?;
            Ok(Report::done(
                json!({"rebuilt": true, "records": store.stats().records}),
            ))
        }
        StoreAction::Restore { snapshot } => restore_open(store, scratch, snapshot),
    }
}

/// Does what needs the files of a stopped node rather than an open store. While nobody else can have them `told` hears
/// whether a restore was done.
///
/// # Errors
/// A message for people.
pub fn on_stopped(
    config: &Config,
    action: &StoreAction,
    told: &mut dyn FnMut(bool),
) -> Result<Report, String> {
    match action {
        StoreAction::Rebuild => {
            Store::rebuild_stopped(&config.store_config()).map_err(|error| error.to_string())?;
            Ok(Report::done(json!({"rebuilt": true})))
        }
        StoreAction::Restore { snapshot } => restore_stopped(config, snapshot, told),
        _ => {
            let store = open(config.store_config())?;
            let report = on_open(&store, &config.store_config(), action);
            let closed = store
                .close()
                .map_err(|error| format!("closing the store: {error}"));
            closed.and(report)
        }
    }
}

/// Makes a new store of the snapshot and puts it in the place of the old one, which is kept.
fn restore_stopped(
    config: &Config,
    path: &Path,
    told: &mut dyn FnMut(bool),
) -> Result<Report, String> {
    let there = config.store_dir().exists();
    // Held until the other store is in its place, so that no node begins to write here meanwhile.
    let lock = match there {
        true => expect_unused(config)?,
        false => None,
    };
    let done = exchange(config, path, there);
    told(done.is_ok());
    drop(lock);
    done.map(|(report, _lock)| report)
}

/// Makes a new store of the snapshot, and gives it the name of the one that is `there`. It comes with its lock: that of the
/// other one is no longer in the way of those who would open it.
fn exchange(
    config: &Config,
    path: &Path,
    there: bool,
) -> Result<(Report, Option<fs::File>), String> {
    expect_file(path)?;
    let directory = config.store_dir();
    let (new, old) = (beside(&directory, "new"), beside(&directory, "old"));
    let mut settings = config.store_config();
    settings.dir.clone_from(&new);
    let known = Store::known_epoch(&directory);
    let info = Store::restore(&settings, path, known).map_err(|error| error.to_string())?;
    let lock = Store::unused(&new).map_err(|error| error.to_string())?;
    let mut report = json!({"restored": restored(&info, path)});
    // What has come since is not moved away: then the new one does not get its name.
    if there {
        move_store(&directory, &old)?;
        report["old_store"] = old.display().to_string().into();
    }
    move_store(&new, &directory)?;
    Ok((Report::done(report), lock))
}

/// Makes sure that nobody has the store open, and that it is not one of another kind. Gives back its lock; none when it
/// cannot be had, by nobody. A store that cannot be opened is why people restore.
fn expect_unused(config: &Config) -> Result<Option<fs::File>, String> {
    match Store::open(config.store_config()) {
        Ok(store) => store.close().map_err(|error| error.to_string())?,
        Err(error @ (StoreError::Locked { .. } | StoreError::CaseMismatch { .. })) => {
            return Err(error.to_string());
        }
        Err(_) => {}
    }
    match Store::unused(&config.store_dir()) {
        Err(error @ StoreError::Locked { .. }) => Err(error.to_string()),
        other => Ok(other.unwrap_or_default()),
    }
}

/// Gives the directory of a store another name, which it has after a loss of power as well.
///
/// # Errors
/// It cannot be moved; a message for people.
pub fn move_store(from: &Path, to: &Path) -> Result<(), String> {
    fs::rename(from, to).map_err(|error| {
        format!(
            "{}: cannot become {}: {error}",
            from.display(),
            to.display()
        )
    })?;
    store::sync_parent(to).map_err(|error| error.to_string())
}

/// A name beside the store that is not taken.
#[must_use]
pub fn beside(directory: &Path, word: &str) -> PathBuf {
    let named = |number: u32| {
        let mut name = directory.as_os_str().to_owned();
        name.push(format!(".{word}-{number}"));
        PathBuf::from(name)
    };
    (1..)
        .map(named)
        .find(|path| !path.exists())
        .unwrap_or_else(|| named(0))
}

/// Refuses what is no file: to open a pipe may take for ever.
fn expect_file(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => Err(format!("{}: is no snapshot file", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Commits the differences between the open store and a snapshot.
fn restore_open(store: &Store, settings: &store::Config, path: &Path) -> Result<Report, String> {
    expect_file(path)?;
    let scratch = Scratch(beside(&settings.dir, "restoring"));
    let mut settings = settings.clone();
    settings.dir.clone_from(&scratch.0);
    // Of a store that goes in a moment the epoch means nothing.
    let info = Store::restore(&settings, path, 0).map_err(|error| error.to_string())?;
    let wanted = open(settings)?;
    let mut changed = 0_u64;
    for space in Space::ALL {
        changed += make_equal(store, &wanted, space)?;
    }
    wanted.close().map_err(|error| error.to_string())?;
    Ok(Report::done(
        json!({"restored": restored(&info, path), "changes": changed}),
    ))
}

/// What was restored, under the name it was asked for by: that of the copy means nothing to anybody.
fn restored(info: &SnapshotInfo, path: &Path) -> Json {
    let mut report = snapshot(info);
    report["path"] = path.display().to_string().into();
    report
}

/// A directory that goes when it is no longer needed.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(event = "restore.scratch_left", directory = %self.0.display(), %error, "cannot remove the scratch store of a restore");
        }
    }
}

/// Makes one key space of `store` equal to that of `wanted`: two walks in the order of keys, side by side.
fn make_equal(store: &Store, wanted: &Store, space: Space) -> Result<u64, String> {
    let (mut ours, mut theirs) = (Walk::new(store, space), Walk::new(wanted, space));
    let (mut changes, mut count) = (Vec::new(), 0_u64);
    loop {
        let change = match (ours.peek()?, theirs.peek()?) {
            (None, None) => break,
            (Some(own), Some(other)) => match own.key().cmp(other.key()) {
                Ordering::Less => Some(delete(space, ours.take())),
                Ordering::Greater => Some(put(space, theirs.take())),
                Ordering::Equal => {
                    let equal = own.handle() == other.handle() && own.wire() == other.wire();
                    drop(ours.take());
                    let other = theirs.take();
                    (!equal).then(|| put(space, other))
                }
            },
            (Some(_), None) => Some(delete(space, ours.take())),
            (None, Some(_)) => Some(put(space, theirs.take())),
        };
        changes.extend(change.flatten());
        if changes.len() >= PAGE {
            count += commit(store, &mut changes)?;
        }
    }
    Ok(count + commit(store, &mut changes)?)
}

/// Commits what has been gathered.
fn commit(store: &Store, changes: &mut Vec<Change>) -> Result<u64, String> {
    if changes.is_empty() {
        return Ok(0);
    }
    let batch = records::batch(std::mem::take(changes));
    let count = u64::try_from(batch.changes.len()).unwrap_or_default();
    store
        .commit(batch)
        .map(|_| count)
        .map_err(|error| error.to_string())
}

/// The deletion of a record.
fn delete(space: Space, record: Option<OwnedRecord>) -> Option<Change> {
    record.map(|record| Change {
        space,
        key: record.key().to_vec(),
        expect: Expect::Any,
        action: Action::Delete,
    })
}

/// A record as a change.
fn put(space: Space, record: Option<OwnedRecord>) -> Option<Change> {
    let record = record?;
    let values = record.entries().map(|entry| DraftValue {
        index: entry.index,
        permissions: entry.permissions,
        sealed: entry.sealed,
        wire: Bytes::copy_from_slice(entry.wire),
    });
    let draft = Draft {
        handle: Bytes::from(record.handle().into_owned()),
        values: values.collect(),
    };
    Some(Change {
        space,
        key: record.key().to_vec(),
        expect: Expect::Any,
        action: Action::Put(draft),
    })
}

/// All records of a space, a page at a time.
struct Walk<'a> {
    store: &'a Store,
    space: Space,
    page: std::vec::IntoIter<OwnedRecord>,
    next: Option<OwnedRecord>,
    from: Option<Vec<u8>>,
    ended: bool,
}

impl<'a> Walk<'a> {
    fn new(store: &'a Store, space: Space) -> Self {
        Self {
            store,
            space,
            page: Vec::new().into_iter(),
            next: None,
            from: None,
            ended: false,
        }
    }

    /// The next record, left where it is.
    fn peek(&mut self) -> Result<Option<&OwnedRecord>, String> {
        if self.next.is_none() {
            self.next = self.page.next();
        }
        if self.next.is_none() && !self.ended {
            let from = self
                .from
                .as_deref()
                .map_or(Bound::Unbounded, Bound::Excluded);
            let page = self
                .store
                .scan(self.space, from, b"", PAGE)
                .map_err(|error| error.to_string())?;
            self.ended = page.is_empty();
            self.from = page.last().map(|record| record.key().to_vec());
            self.page = page.into_iter();
            self.next = self.page.next();
        }
        Ok(self.next.as_ref())
    }

    /// The record that was peeked at.
    fn take(&mut self) -> Option<OwnedRecord> {
        self.next.take()
    }
}

/// What `verify` found.
fn verified(report: &store::Report) -> Report {
    let json = json!({
        "good": report.is_good(),
        "sequence": report.sequence,
        "index_records": report.index_records,
        "index_damaged": report.index_damaged,
        "sled_records": report.sled_records,
        "sled_damaged": report.sled_damaged,
        "sled_agrees": report.sled_agrees,
        "journal_entries": report.journal_entries,
        "snapshots": report.snapshots.iter().map(snapshot).collect::<Vec<_>>(),
        "problems": report.problems,
    });
    Report {
        good: report.is_good(),
        json,
    }
}

/// Sizes and positions.
fn stats(state: &impl fmt::Debug, stats: &Stats) -> Json {
    json!({
        "state": format!("{state:?}"),
        "epoch": stats.epoch,
        "records": stats.records,
        "index_bytes": stats.index_bytes,
        "index_dead_bytes": stats.index_dead_bytes,
        "loaded_ratio": stats.loaded_ratio,
        "sequence": stats.sequence,
        "journal_bytes": stats.journal_bytes,
        "applied_sequence": stats.applied_sequence,
        "lag_changes": stats.lag_changes,
        "store_bytes": stats.store_bytes,
        "free_bytes": stats.free_bytes,
        "reserve_bytes": stats.reserve_bytes,
        "snapshots": stats.snapshots.iter().map(snapshot).collect::<Vec<_>>(),
    })
}

/// A snapshot.
fn snapshot(info: &SnapshotInfo) -> Json {
    json!({
        "path": info.path.display().to_string(),
        "sequence": info.sequence,
        "records": info.records,
        "bytes": info.bytes,
        "created": humantime::format_rfc3339_seconds(
            std::time::UNIX_EPOCH + Duration::from_secs(info.created)
        )
        .to_string(),
    })
}
