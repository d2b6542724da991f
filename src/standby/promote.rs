//! From a standby to a primary.
//!
//! ```text
//! the old primary is told to give way ─→ it takes no changes any more, and says what the last one was
//! everything up to that is taken ─→ a snapshot ─→ the store gets the epoch that was told ─→ the node starts anew
//! ```
//!
//! So nothing that was acknowledged is lost. A primary that is gone cannot be told; what it acknowledged and this node
//! does not have is lost then, and it is told when it is met again.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::boot::Following;
use super::link::{Link, LinkError, Standing};
use super::{Pauses, Primary, follow, own_place};
use crate::config::Config;
use crate::store::{self, Role, Store, StoreError};
use crate::{clock, maintenance};

/// How long what is missing may take while nothing comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came of a [`take_over`].
#[derive(Debug)]
pub struct Taken {
    /// The epoch that the old primary was told, and that the store is to get.
    pub epoch: u64,
    /// The details.
    pub report: Json,
}

/// Brings the store to where it can become that of a primary, which is reached at `place`. `without` also when the old
/// primary cannot be told.
///
/// # Errors
/// Why not, and what to do, for people; the node is a standby as before.
pub async fn take_over(
    following: &Following,
    store: &Arc<Store>,
    place: &str,
    without: bool,
) -> Result<Taken, String> {
    let old = following.primary.place.clone();
    if !matches!(store.role(), Role::Copy(_)) {
        return Err("this node is no standby".to_owned());
    }
    // Once: what the old primary hears must be what the store gets, or the two do not know which of them is the later.
    let epoch = store::next_epoch(store.data_epoch(), clock::unix_seconds().into());
    let (mut told, mut names) = (false, None);
    match give_way(following, store, epoch, place).await {
        Ok((mut link, last)) => {
            catch_up(following, store, &mut link, &last).await?;
            note_other(&old, place, &last);
            // It may have been told the same by another one, of a later epoch.
            let by = last.primary.unwrap_or_default();
            told = by == place;
            names = Some(by).filter(|_| !told);
        }
        Err(error @ (LinkError::Down(_) | LinkError::Configured(_))) if without => {
            tracing::warn!(event = "standby.old_primary_unreachable", %error, old, "the old primary cannot be told to give way; this node takes its place without it");
        }
        Err(error) => return Err(refused(following, store, &error)),
    }
    let (newest, taking) = (following.watch.newest(), Arc::clone(store));
    let snapshot = spawn_blocking(move || taking.snapshot()).await;
    let snapshot = snapshot.map_err(|error| error.to_string())?;
    let snapshot = snapshot.map_err(|error| format!("no snapshot, so no new epoch: {error}"))?;
    let mut report = json!({
        "epoch": epoch,
        "sequence": snapshot.sequence,
        "records": snapshot.records,
        "old_primary": old,
        "old_primary_gave_way": told,
        "known_missing_sequences": newest.saturating_sub(snapshot.sequence),
    });
    if let Some(names) = names {
        report["old_primary_gave_way_to"] = names.into();
    }
    Ok(Taken { epoch, report })
}

/// The same on a stopped node, whose store is a primary's when this returns. While nobody else can have the store `told` hears
/// how it ended.
///
/// # Errors
/// As [`take_over`].
pub async fn stopped(
    config: &Config,
    without: bool,
    told: &mut dyn FnMut(bool),
) -> Result<Json, String> {
    let settings = config.store_config();
    let said = |error: StoreError| error.to_string();
    let (role, _) = Store::role_of(&settings.dir).map_err(said)?;
    let Role::Copy(of) = role else {
        return Err("this node is no standby: there is nothing to promote".to_owned());
    };
    // Without a token the old primary is not told, as if it were gone.
    let primary = Primary::configured(config).unwrap_or_else(|| Primary::unknown(&of));
    let following = Following::new(config, primary, None)?;
    let opening = settings.clone();
    let store = spawn_blocking(move || maintenance::open(opening)).await;
    let store = Arc::new(store.map_err(|error| error.to_string())??);
    let taken = take_over(&following, &store, &own_place(config), without).await;
    if taken.is_err() {
        told(false);
    }
    let closed = spawn_blocking(move || store.shutdown()).await;
    closed.map_err(|error| error.to_string())?.map_err(said)?;
    let Taken { epoch, report } = taken?;
    let succeeded = spawn_blocking(move || Store::succeed(&settings, epoch)).await;
    // Held until it is told.
    let _lock = succeeded
        .map_err(|error| error.to_string())?
        .map_err(said)?;
    told(true);
    Ok(report)
}

/// Tells the old primary, and hears of its last position.
async fn give_way(
    following: &Following,
    store: &Store,
    epoch: u64,
    place: &str,
) -> Result<(Link, Standing), LinkError> {
    let mut link = Link::open(&following.primary).await?;
    let (theirs, ours) = (link.standing().await?.epoch, store.data_epoch());
    if theirs != ours {
        // What it has acknowledged since does not continue what is here, so that it could not be fetched any more.
        return Err(LinkError::Refused {
            code: "other_epoch".to_owned(),
            text: format!(
                "it is of epoch {theirs} and this copy of epoch {ours}: let this node follow it first, until `jiexi status` \
                 says that the primary is reached"
            ),
        });
    }
    let last = link.supersede(epoch, place).await?;
    Ok((link, last))
}

/// Takes everything that the old primary has.
async fn catch_up(
    following: &Following,
    store: &Arc<Store>,
    link: &mut Link,
    last: &Standing,
) -> Result<(), String> {
    let mut moved = Instant::now();
    while store.sequence() < last.sequence {
        let before = store.sequence();
        let taken = match link.entries(store.data_epoch(), store.position()).await {
            Ok(entries) => follow::take(following, store, link, &entries).await,
            Err(error) => Err(error.into()),
        };
        let missing = last.sequence - store.sequence();
        let again =
            "The old primary takes no changes any more; run this again when that is put right";
        taken.map_err(|error| {
            format!("{missing} sequences of the old primary are missing: {error}. {again}")
        })?;
        if store.sequence() > before {
            moved = Instant::now();
        } else if moved.elapsed() > PATIENCE {
            return Err(format!(
                "{missing} sequences of the old primary are missing and do not come. {again}"
            ));
        }
    }
    Ok(())
}

fn refused(following: &Following, store: &Store, error: &LinkError) -> String {
    let (watch, own) = (&following.watch, store.sequence());
    let lag = watch.lag(own, Instant::now());
    format!(
        "the primary {} was not told to give way: {error}. If it is gone, `jiexi promote --without-primary` takes its place: \
         everything up to sequence {own} is here; it was known to be at {}, {} s ago, and what it acknowledged after that is \
         not here",
        following.primary.place,
        watch.newest().max(own),
        lag.time.as_secs()
    )
}

/// Tells the node whose place this one took, until it has heard it. That one may have been given a new epoch meanwhile:
/// then it is this node that gives way.
pub async fn meet(primary: Primary, store: Arc<Store>, place: String, stop: CancellationToken) {
    let (mut pauses, mut said, mut equals) = (Pauses::new(), false, false);
    while !stop.is_cancelled() {
        match meet_once(&primary, &store, &place, !equals).await {
            Ok(Met::Settled) => return,
            Ok(Met::Equal) => equals = true,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(event = "standby.old_primary_not_told", old = primary.place, %error, "the old primary has not been told to give way; it is tried on");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pauses.next()) => {}
        }
    }
}

/// What came of meeting the old primary.
enum Met {
    /// One of the two gave way, or had done so before.
    Settled,
    /// Both are primaries of the same epoch, so that nobody can say which of them is the later.
    Equal,
}

/// Says what to do about two primaries of one epoch, in the logs of both.
pub(crate) fn tell_equal(other: &str, epoch: u64) {
    tracing::error!(
        event = "standby.equal_epochs",
        other,
        epoch,
        "two nodes are primaries of the same epoch, and neither gives way: stop the one whose changes may be lost, move its \
         store away, and start it with --follow of the other"
    );
}

async fn meet_once(
    primary: &Primary,
    store: &Arc<Store>,
    place: &str,
    tell: bool,
) -> Result<Met, LinkError> {
    let mut link = Link::open(primary).await?;
    let standing = link.standing().await?;
    let (old, epoch) = (&primary.place, store.data_epoch());
    if standing.role != "primary" {
        note_other(old, place, &standing);
        return Ok(Met::Settled);
    }
    match standing.epoch.cmp(&epoch) {
        Ordering::Greater => give_way_to(old, standing.epoch, store).await?,
        Ordering::Equal if tell => {
            tell_equal(old, epoch);
            // It refuses, and its log says the same.
            let refused = link.supersede(epoch, place).await;
            return refused.map(|_| Met::Settled).or(Ok(Met::Equal));
        }
        Ordering::Equal => return Ok(Met::Equal),
        Ordering::Less => {
            link.supersede(epoch, place).await?;
            tracing::warn!(
                event = "standby.old_primary_told",
                old,
                epoch,
                "the old primary was met, and takes no changes any more"
            );
        }
    }
    Ok(Met::Settled)
}

/// Says when the old primary gave way to another node than this one.
fn note_other(old: &str, place: &str, standing: &Standing) {
    let by = standing.primary.as_deref().unwrap_or_default();
    if standing.role == "superseded" && !by.is_empty() && by != place {
        tracing::error!(
            event = "standby.gave_way_to_another",
            old,
            by,
            "the old primary gave way to another node: unless that is this node by another address, both are primaries; stop \
             the one whose changes may be lost, move its store away, and start it with --follow of the other"
        );
    }
}

/// Takes no changes any more: the old primary has a greater epoch.
async fn give_way_to(old: &str, epoch: u64, store: &Arc<Store>) -> Result<(), LinkError> {
    let by = Role::Superseded {
        by: old.into(),
        epoch,
    };
    let (giving, told) = (Arc::clone(store), by.to_string());
    let done = spawn_blocking(move || giving.set_role(by)).await;
    let failed = |error: &dyn std::fmt::Display| LinkError::File(error.to_string());
    done.map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))?;
    tracing::error!(
        event = "node.superseded_found",
        epoch,
        "no changes are taken any more: {told}"
    );
    Ok(())
}
