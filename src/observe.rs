//! The store's figures under the names of the exposition.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use bytesize::ByteSize;

use crate::backup::last;
use crate::metrics::{Families, Metrics, names};
use crate::ops::{Readiness, Said, Standing};
use crate::registry::Registry;
use crate::registry::figures::{self, Ended, Figures as Made, Proved};
use crate::resolver::Authority;
use crate::standby::watch::Watch;
use crate::store::metrics::{Histogram, Part, Result as Changed};
use crate::store::{Role, State, Store};

/// The states and their labels.
const STATES: [&str; 5] = ["loading", "verifying", "ready", "degraded", "read_only"];

/// The roles and their labels.
const ROLES: [&str; 3] = ["primary", "standby", "superseded"];

/// What changes come to, and the labels.
const RESULTS: [(Changed, &str); 3] = [
    (Changed::Committed, "committed"),
    (Changed::Refused, "refused"),
    (Changed::Failed, "failed"),
];

/// Nanoseconds to seconds.
const NANO: f64 = 1e-9;

/// Adds the figures of `store` to every scrape.
pub fn store(metrics: &Metrics, store: &Arc<Store>, registry: &Arc<Registry>) {
    let (store, registry) = (Arc::clone(store), Arc::clone(registry));
    metrics.add_source(move |families| {
        sizes(families, &store);
        changes(families, &store, &registry.figures);
        proofs(families, &registry);
        state(families, &store.state());
        let taken_over = f64::from(u8::from(store.began_beside()));
        families.add(&names::TAKEN_OVER, &[], taken_over);
    });
}

/// Adds when the node whose data directory this is was last backed up.
pub fn backups(metrics: &Metrics, data: &Path) {
    let data = data.to_path_buf();
    metrics.add_source(move |families| {
        let last = last::read(&data).unwrap_or_default();
        families.add(&names::BACKUP_TIMESTAMP, &[], last as f64);
    });
}

/// Adds whose changes the store takes, and how far a standby is behind, to every scrape. A node that follows nobody is
/// behind nobody.
pub fn standby(metrics: &Metrics, store: &Arc<Store>, watch: Option<Arc<Watch>>) {
    let store = Arc::clone(store);
    metrics.add_source(move |families| {
        let role = store.role();
        for candidate in ROLES {
            let current = candidate == role.label();
            let labels = [("role", candidate)];
            families.add(&names::ROLE, &labels, f64::from(u8::from(current)));
        }
        let watch = watch.as_deref();
        let lag = watch.map(|watch| watch.lag(store.sequence(), Instant::now()));
        let connected = watch.is_some_and(Watch::is_connected);
        for (name, value) in [
            (&names::FOLLOW_CONNECTED, f64::from(u8::from(connected))),
            (
                &names::FOLLOW_LAG_SEQUENCES,
                lag.map_or(0.0, |lag| lag.sequences as f64),
            ),
            (
                &names::FOLLOW_LAG_SECONDS,
                lag.map_or(0.0, |lag| lag.time.as_secs_f64()),
            ),
            (
                &names::FOLLOW_FAILURES,
                watch.map_or(0.0, |watch| watch.failures() as f64),
            ),
            (
                &names::FOLLOW_SNAPSHOTS,
                watch.map_or(0.0, |watch| watch.boots() as f64),
            ),
        ] {
            families.add(name, &[], value);
        }
    });
}

/// What `/ready` says. A store that takes no changes any more may be `complete`, and then answers every look-up. `no_room`
/// has the bytes free and the bytes kept free while a full disk takes no changes.
#[must_use]
pub fn readiness(
    state: &State,
    complete: bool,
    role: &Role,
    standing: Option<Standing>,
    no_room: Option<(u64, u64)>,
) -> Readiness {
    let writes = matches!(state, State::Ready | State::Degraded);
    let loaded = writes || complete && matches!(state, State::ReadOnly(_));
    let late = standing
        .as_ref()
        .filter(|standing| standing.lag.time > standing.lag_max);
    let superseded = matches!(role, Role::Superseded { .. });
    let reason = match (late, no_room) {
        _ if !loaded => stated(state),
        (Some(standing), _) => behind(standing),
        _ if superseded => Said {
            chinese: format!("本节点已被取代：{role}"),
            english: role.to_string(),
        },
        (None, Some((free, reserve))) if writes => full(ByteSize(free), ByteSize(reserve)),
        (None, _) => stated(state),
    };
    Readiness {
        ready: loaded && late.is_none() && !superseded,
        takes_changes: writes && role.takes_changes() && no_room.is_none(),
        state: state.label().into(),
        reason,
        role: role.label(),
        standing,
    }
}

/// A standby that is too late.
fn behind(standing: &Standing) -> Said {
    let (seconds, primary) = (standing.lag.time.as_secs(), &standing.primary);
    Said {
        chinese: format!("备机落后 {primary} {seconds} 秒，超过 [follow] lag_max"),
        english: format!(
            "this standby is {seconds} s behind {primary}: more than [follow] lag_max"
        ),
    }
}

/// A disk that takes no more.
fn full(free: ByteSize, reserve: ByteSize) -> Said {
    Said {
        chinese: format!(
            "不接受变更：存储所在磁盘剩余 {free}，低于保留的 {reserve}（[store] disk_free_min、disk_free_percent）；解析照常"
        ),
        english: format!(
            "no changes: {free} are free on the disk of the store, less than the {reserve} that are kept free ([store] \
             disk_free_min, disk_free_percent); look-ups go on"
        ),
    }
}

/// A state for people; nothing when all is well.
fn stated(state: &State) -> Said {
    let (chinese, english) = match state {
        State::Ready => return Said::default(),
        State::Loading => ("正在读取记录", "the records are being read"),
        State::Verifying => ("正在校验记录", "the records are being verified"),
        State::Degraded => (
            "磁盘状态正在重建，解析与变更照常",
            "the state on disk is being made anew; look-ups and changes go on",
        ),
        State::ReadOnly(reason) => {
            return Said {
                chinese: format!("不接受变更：{reason}"),
                english: format!("no changes: {reason}"),
            };
        }
    };
    Said {
        chinese: chinese.into(),
        english: english.into(),
    }
}

fn sizes(families: &mut Families, store: &Store) {
    let stats = store.stats();
    let figures = store.metrics();
    let homed = Authority::load(store).map_or(0, |authority| authority.len());
    for (name, value) in [
        (&names::INDEX_RECORDS, stats.records),
        (&names::INDEX_BYTES, stats.index_bytes),
        (&names::INDEX_DEAD_BYTES, stats.index_dead_bytes),
        (&names::JOURNAL_SEQUENCE, stats.sequence),
        (&names::JOURNAL_BYTES, stats.journal_bytes),
        (&names::STORE_APPLIED, stats.applied_sequence),
        (&names::STORE_LAG, stats.lag_changes),
        (&names::STORE_BYTES, stats.store_bytes),
        (&names::DISK_FREE, stats.free_bytes),
        (&names::DISK_RESERVE, stats.reserve_bytes),
        (
            &names::SNAPSHOT_TIMESTAMP,
            figures.snapshot_timestamp.load(Relaxed),
        ),
        (
            &names::SNAPSHOT_SEQUENCE,
            figures.snapshot_sequence.load(Relaxed),
        ),
        (&names::SNAPSHOT_BYTES, figures.snapshot_bytes.load(Relaxed)),
        (&names::PREFIXES_HOMED, homed as u64),
    ] {
        families.add(name, &[], value as f64);
    }
    families.add(&names::INDEX_LOADED, &[], stats.loaded_ratio);
}

fn changes(families: &mut Families, store: &Store, made: &Made) {
    let figures = store.metrics();
    for (result, text) in RESULTS {
        let mut rest = figures.changes(result);
        for (place, kind) in figures::KINDS.into_iter().enumerate() {
            let count = match result {
                Changed::Committed => made.changes(place, Ended::Committed),
                Changed::Refused => made.changes(place, Ended::Refused),
                Changed::Failed => made.changes(place, Ended::Failed),
            };
            rest = rest.saturating_sub(count);
            families.add(
                &names::CHANGES,
                &[("kind", kind), ("result", text)],
                count as f64,
            );
        }
        // What the store took and nobody asked for over the wire came from files.
        families.add(
            &names::CHANGES,
            &[("kind", "import"), ("result", text)],
            rest as f64,
        );
    }
    for (part, label) in Part::ALL {
        families.add(
            &names::STORE_ERRORS,
            &[("part", label)],
            figures.errors(part) as f64,
        );
    }
    histogram(
        families,
        &names::COMMIT_DURATION,
        &figures.commit_duration,
        NANO,
    );
    histogram(
        families,
        &names::SYNC_DURATION,
        &figures.sync_duration,
        NANO,
    );
    histogram(families, &names::COMMIT_BATCH, &figures.batch_changes, 1.0);
}

fn proofs(families: &mut Families, registry: &Registry) {
    for (place, method) in figures::METHODS.into_iter().enumerate() {
        for (proved, result) in Proved::ALL {
            let count = registry.figures.proofs(place, proved);
            let labels = [("method", method), ("result", result)];
            families.add(&names::AUTHENTICATIONS, &labels, count as f64);
        }
    }
    families.add(&names::SESSIONS, &[], registry.table.sessions() as f64);
}

fn histogram<const N: usize>(
    families: &mut Families,
    name: &names::Name,
    figures: &Histogram<N>,
    unit: f64,
) {
    let bounds: Vec<f64> = figures
        .buckets()
        .map(|(bound, _)| bound as f64 * unit)
        .collect();
    let mut counts: Vec<u64> = figures.buckets().map(|(_, count)| count).collect();
    counts.push(figures.beyond());
    families.add_histogram(name, &[], &bounds, &counts, figures.sum() as f64 * unit);
}

fn state(families: &mut Families, state: &State) {
    for candidate in STATES {
        let current = candidate == state.label();
        families.add(
            &names::STORE_STATE,
            &[("state", candidate)],
            f64::from(u8::from(current)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: whoever can answer every look-up is ready; that changes are refused is said beside it.
    #[test]
    fn who_takes_no_changes_may_be_ready() {
        let read_only = State::ReadOnly("the disk has failed".into());
        let seen = |state: &State, complete, no_room| {
            let ready = readiness(state, complete, &Role::Primary, None, no_room);
            (ready.ready, ready.takes_changes, ready.reason.english)
        };
        let (ready, takes_changes, reason) = seen(&read_only, true, Some((1, 2)));
        assert_eq!((ready, takes_changes), (true, false));
        assert!(reason.contains("the disk has failed"), "{reason}");
        let (ready, takes_changes, _) = seen(&read_only, false, None);
        assert_eq!((ready, takes_changes), (false, false));
        let (ready, takes_changes, _) = seen(&State::Loading, false, None);
        assert_eq!((ready, takes_changes), (false, false));
        assert_eq!(seen(&State::Ready, true, None), (true, true, String::new()));
        let (ready, takes_changes, _) = seen(&State::Ready, true, Some((1, 2)));
        assert_eq!((ready, takes_changes), (true, false));
    }
}
