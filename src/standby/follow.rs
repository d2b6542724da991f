//! The journal of the primary, applied as it comes, until the node stops, takes its place, or needs another store.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use serde_json::Value as Json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::boot::Following;
use super::link::{Entries, Link, LinkError};
use super::{Pauses, promote};
use crate::store::{CommitError, ReplicaError, Role, RunWanted, Store};

/// What a standby is told to do.
#[derive(Debug)]
pub enum Order {
    /// Take the place of the primary.
    Promote {
        /// Also when it cannot be told to give way.
        without: bool,
        /// Where it is reached from then on.
        place: String,
        /// What came of it. After a success the node starts anew.
        told: oneshot::Sender<Result<Json, String>>,
    },
}

/// Why following has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The node stops.
    Stopped,
    /// Another store has arrived and waits to be used.
    Arrived,
    /// The store has everything and is to become that of a primary, of this epoch.
    Promoted(u64),
}

/// Why entries could not be taken.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The way to the primary.
    Link(LinkError),
    /// This store.
    Store(String),
    /// It needs another snapshot, with everything up to a sequence.
    Renew(u64, String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Link(error) => error.fmt(f),
            Self::Store(text) | Self::Renew(_, text) => f.write_str(text),
        }
    }
}

impl From<LinkError> for Trouble {
    fn from(error: LinkError) -> Self {
        match &error {
            LinkError::Refused { code, text }
                if ["journal_pruned", "journal_differs", "other_epoch"]
                    .contains(&code.as_str()) =>
            {
                Self::Renew(0, text.clone())
            }
            _ => Self::Link(error),
        }
    }
}

/// Follows until there is a reason to end.
pub async fn run(
    following: Following,
    store: Arc<Store>,
    mut orders: mpsc::Receiver<Order>,
    stop: CancellationToken,
) -> Ended {
    if !loaded(&store, &stop).await {
        return Ended::Stopped;
    }
    let mut follower = Follower {
        following,
        store,
        pauses: Pauses::new(),
        said: None,
        renew: None,
    };
    loop {
        let order = tokio::select! {
            biased;
            () = stop.cancelled() => return Ended::Stopped,
            Some(order) = orders.recv() => order,
            ended = follower.go_on() => match ended {
                Some(ended) => return ended,
                None => continue,
            },
        };
        let Order::Promote {
            without,
            place,
            told,
        } = order;
        let outcome =
            promote::take_over(&follower.following, &follower.store, &place, without).await;
        let epoch = outcome.as_ref().ok().map(|taken| taken.epoch);
        // Who has asked may have gone; what is done is done.
        drop(told.send(outcome.map(|taken| taken.report)));
        if let Some(epoch) = epoch {
            return Ended::Promoted(epoch);
        }
    }
}

/// Waits until the store knows its position; false when that will not be.
async fn loaded(store: &Arc<Store>, stop: &CancellationToken) -> bool {
    const LOOK: std::time::Duration = std::time::Duration::from_millis(200);
    while !stop.is_cancelled() {
        let waiting = Arc::clone(store);
        match spawn_blocking(move || waiting.wait_loaded(LOOK)).await {
            Ok(Ok(true)) => return true,
            Ok(Ok(false)) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    // A store that cannot be loaded says why in the log; there is nothing to follow with.
    stop.cancelled().await;
    false
}

struct Follower {
    following: Following,
    store: Arc<Store>,
    pauses: Pauses,
    /// The last trouble that the log tells of.
    said: Option<&'static str>,
    /// Another store is wanted, with everything up to this sequence.
    renew: Option<u64>,
}

impl Follower {
    /// Follows over one connection, or waits for another try. Entries are applied without a pause in which this could be
    /// given up, so that it may be at any time.
    async fn go_on(&mut self) -> Option<Ended> {
        let trouble = match self.renew {
            Some(after) => match self.following.fetch(after, self.store.data_epoch()).await {
                Ok(()) => return Some(Ended::Arrived),
                Err(error) => Trouble::Link(error),
            },
            None => self.connected().await,
        };
        self.following.watch.set_connected(false);
        self.following.watch.failures.fetch_add(1, Relaxed);
        self.tell(&trouble);
        if let Trouble::Renew(after, _) = trouble {
            self.renew = Some(after);
        }
        sleep(self.pauses.next()).await;
        None
    }

    /// One line when something is wrong that was not before.
    fn tell(&mut self, trouble: &Trouble) {
        let kind = match trouble {
            Trouble::Link(LinkError::Configured(_)) => "it cannot be followed",
            Trouble::Link(LinkError::Down(_)) => "it cannot be reached",
            Trouble::Link(LinkError::Refused { .. }) => "it refuses",
            Trouble::Link(LinkError::File(_)) | Trouble::Store(_) => "what comes cannot be written",
            Trouble::Renew(..) => "another snapshot is needed",
        };
        let (primary, sequence) = (&self.following.primary.place, self.store.sequence());
        match self.said.replace(kind) {
            Some(before) if before == kind => tracing::debug!(primary, %trouble, "{kind}"),
            _ => tracing::warn!(
                event = "standby.disconnected",
                primary, sequence, error = %trouble,
                "standby: {kind}; questions are answered from what is here, and it is tried again"
            ),
        }
    }

    /// Takes entries for as long as they come.
    async fn connected(&mut self) -> Trouble {
        let epoch = self.store.data_epoch();
        let (mut link, standing) = match self.following.connect(epoch).await {
            Ok(connected) => connected,
            Err(error) => return error.into(),
        };
        if standing.epoch > epoch {
            let text = format!(
                "the primary has epoch {}, this copy {epoch}",
                standing.epoch
            );
            return Trouble::Renew(0, text);
        }
        if let Err(error) = self.note_place() {
            return Trouble::Store(error);
        }
        tracing::info!(
            event = "standby.following",
            primary = self.following.primary.place,
            epoch,
            sequence = self.store.sequence(),
            newest = standing.sequence,
            "standby: following"
        );
        self.said = None;
        loop {
            let entries = match link.entries(epoch, self.store.position()).await {
                Ok(entries) => entries,
                Err(error) => return error.into(),
            };
            if let Err(trouble) = take(&self.following, &self.store, &mut link, &entries).await {
                return trouble;
            }
            self.following.watch.set_connected(true);
            self.pauses = Pauses::new();
        }
    }

    /// The primary may be reached by another address than before.
    fn note_place(&self) -> Result<(), String> {
        let place = &self.following.primary.place;
        match self.store.role() {
            Role::Copy(of) if *of == **place => Ok(()),
            _ => block_in_place(|| self.store.set_role(Role::Copy(place.as_str().into())))
                .map_err(|error| error.to_string()),
        }
    }
}

/// Applies entries, fetching the run that the last one may name.
pub(super) async fn take(
    following: &Following,
    store: &Store,
    link: &mut Link,
    entries: &Entries,
) -> Result<(), Trouble> {
    let wanted = block_in_place(|| store.replicate(&entries.octets)).map_err(trouble)?;
    if let Some(wanted) = wanted {
        take_run(following, store, link, &wanted).await?;
    }
    following
        .watch
        .heard(entries.newest, entries.at, store.sequence());
    Ok(())
}

async fn take_run(
    following: &Following,
    store: &Store,
    link: &mut Link,
    wanted: &RunWanted,
) -> Result<(), Trouble> {
    let path = following.scratch();
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Trouble::Store(format!("{}: {error}", path.display())));
        }
        _ => {}
    }
    if let Err(error) = link.run(wanted.sequence, &path).await {
        return Err(match error.is("journal_pruned") {
            // The snapshots of the primary have what is in it.
            true => Trouble::Renew(wanted.sequence, error.to_string()),
            false => error.into(),
        });
    }
    block_in_place(|| {
        let mut file = File::open(&path).map_err(|error| Trouble::Store(error.to_string()))?;
        let begun = Instant::now();
        store.replicate_run(wanted, &mut file).map_err(trouble)?;
        tracing::info!(
            event = "standby.import_taken",
            sequence = wanted.sequence,
            bytes = wanted.bytes,
            seconds = begun.elapsed().as_secs_f64(),
            "standby: an import of the primary was taken in"
        );
        // The store has it under a name of its own.
        std::fs::remove_file(&path).map_err(|error| Trouble::Store(error.to_string()))
    })
}

fn trouble(error: ReplicaError) -> Trouble {
    match error {
        ReplicaError::Diverged(what) => Trouble::Renew(0, format!("the journals differ: {what}")),
        ReplicaError::Refused(error @ CommitError::DiskFull) => Trouble::Store(error.to_string()),
        ReplicaError::Refused(error) => Trouble::Store(error.to_string()),
        ReplicaError::Store(error) => Trouble::Store(error.to_string()),
    }
}
