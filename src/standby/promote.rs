//! From a standby to a primary.
//!
//! ```text
//! the old primary is told to give way ─→ it takes no changes any more, and says what the last one was
//! everything up to that is taken ─→ a snapshot ─→ the store gets a new epoch ─→ the node starts anew
//! ```
//!
//! So nothing that was acknowledged is lost. A primary that is gone cannot be told; what it acknowledged and this node
//! does not have is lost then, and it is told when it is met again.

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
use crate::maintenance;
use crate::store::{Role, Store, StoreError};

/// How long what is missing may take while nothing comes.
const PATIENCE: Duration = Duration::from_secs(60);

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
) -> Result<Json, String> {
    let old = following.primary.place.clone();
    if !matches!(store.role(), Role::Copy(_)) {
        return Err("this node is no standby".to_owned());
    }
    let epoch = store.data_epoch() + 1;
    let told = match give_way(following, epoch, place).await {
        Ok((mut link, last)) => {
            catch_up(following, store, &mut link, &last).await?;
            true
        }
        Err(error @ (LinkError::Down(_) | LinkError::Configured(_))) if without => {
            tracing::warn!(%error, old, "the old primary cannot be told to give way; this node takes its place without it");
            false
        }
        Err(error) => return Err(refused(following, store, &error)),
    };
    let (newest, taking) = (following.watch.newest(), Arc::clone(store));
    let snapshot = spawn_blocking(move || taking.snapshot()).await;
    let snapshot = snapshot.map_err(|error| error.to_string())?;
    let snapshot = snapshot.map_err(|error| format!("no snapshot, so no new epoch: {error}"))?;
    Ok(json!({
        "epoch": epoch,
        "sequence": snapshot.sequence,
        "records": snapshot.records,
        "old_primary": old,
        "old_primary_gave_way": told,
        "known_missing_sequences": newest.saturating_sub(snapshot.sequence),
    }))
}

/// The same on a stopped node, whose store is a primary's when this returns.
///
/// # Errors
/// As [`take_over`].
pub async fn stopped(config: &Config, without: bool) -> Result<Json, String> {
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
    let report = take_over(&following, &store, &own_place(config), without).await;
    let closed = spawn_blocking(move || store.shutdown()).await;
    closed.map_err(|error| error.to_string())?.map_err(said)?;
    let report = report?;
    spawn_blocking(move || Store::succeed(&settings))
        .await
        .map_err(|error| error.to_string())?
        .map_err(said)?;
    Ok(report)
}

/// Tells the old primary, and hears of its last position.
async fn give_way(
    following: &Following,
    epoch: u64,
    place: &str,
) -> Result<(Link, Standing), LinkError> {
    let mut link = Link::open(&following.primary).await?;
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
    let (mut pauses, mut said) = (Pauses::new(), false);
    while !stop.is_cancelled() {
        match meet_once(&primary, &store, &place).await {
            Ok(()) => return,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(old = primary.place, %error, "the old primary has not been told to give way; it is tried on");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pauses.next()) => {}
        }
    }
}

async fn meet_once(primary: &Primary, store: &Arc<Store>, place: &str) -> Result<(), LinkError> {
    let mut link = Link::open(primary).await?;
    let standing = link.standing().await?;
    let (old, epoch) = (&primary.place, store.data_epoch());
    if standing.role == "primary" && standing.epoch > epoch {
        let by = Role::Superseded {
            by: old.as_str().into(),
            epoch: standing.epoch,
        };
        let (giving, told) = (Arc::clone(store), by.to_string());
        let done = spawn_blocking(move || giving.set_role(by)).await;
        let failed = |error: &dyn std::fmt::Display| LinkError::File(error.to_string());
        done.map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))?;
        tracing::error!(
            epoch = standing.epoch,
            "no changes are taken any more: {told}"
        );
        return Ok(());
    }
    if standing.role == "primary" {
        link.supersede(epoch, place).await?;
        tracing::warn!(
            old,
            epoch,
            "the old primary was met, and takes no changes any more"
        );
    }
    Ok(())
}
