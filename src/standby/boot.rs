//! What a node is when it starts, and a store out of the primary's snapshot: the first one, and another one when the
//! journal of the primary no longer reaches back, or is not the one that was copied.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::link::{Link, LinkError, Standing};
use super::watch::Watch;
use super::{Pauses, Primary};
use crate::config::Config;
use crate::store::{self, Role, Store, StoreError};
use crate::{identity, maintenance};

/// How often the first snapshot is tried before the start is given up.
const ATTEMPTS: u32 = 10;
/// A new store takes so many times the bytes of its snapshot while it is made: the file, its copy, and sled.
const ROOM: u64 = 4;

/// What a node is.
#[derive(Clone, Debug)]
pub enum Part {
    /// It has nothing to do with another one.
    Alone,
    /// It took the place of this one, which is to be told so.
    Successor(Primary),
    /// It follows this one.
    Standby(Box<Following>),
}

/// A standby and its primary.
#[derive(Clone, Debug)]
pub struct Following {
    /// The primary.
    pub primary: Primary,
    /// How far behind it is.
    pub watch: Arc<Watch>,
    /// What must be the same on both.
    fits: Fits,
    store: store::Config,
}

/// What a standby has in common with its primary.
#[derive(Clone, Debug)]
struct Fits {
    key_file: PathBuf,
    key: String,
    case: &'static str,
}

impl Following {
    pub(super) fn new(
        config: &Config,
        primary: Primary,
        before: Option<Arc<Watch>>,
    ) -> Result<Self, String> {
        let key_file = config.node_key();
        let key = identity::node_key(&key_file).map_err(|error| error.to_string())?;
        let before = before.filter(|watch| watch.place == primary.place);
        Ok(Self {
            watch: before.unwrap_or_else(|| Arc::new(Watch::new(&primary.place, Instant::now()))),
            primary,
            fits: Fits {
                key: identity::fingerprint(&key),
                key_file,
                case: match config.store.case {
                    crate::config::Case::Whole => "whole",
                    crate::config::Case::Prefix => "prefix",
                },
            },
            store: config.store_config(),
        })
    }

    /// Connects to the primary, and makes sure that it is one that this node can follow.
    pub(super) async fn connect(&self, epoch: u64) -> Result<(Link, Standing), LinkError> {
        let mut link = Link::open(&self.primary).await?;
        let standing = link.standing().await?;
        self.fits(&standing).map_err(LinkError::Configured)?;
        self.leads(&standing, epoch)?;
        Ok((link, standing))
    }

    /// Why this primary cannot be followed by this node.
    fn fits(&self, standing: &Standing) -> Result<(), String> {
        let (fits, place) = (&self.fits, &self.primary.place);
        if standing.key != fits.key {
            return Err(format!(
                "the node key {} ({}) is not that of {place} ({}): this node could neither open its secrets nor sign as it \
                 does. Bring its key: `jiexi key escrow export` there, `jiexi key escrow import` here",
                fits.key_file.display(),
                short(&fits.key),
                short(&standing.key),
            ));
        }
        if standing.case != fits.case {
            return Err(format!(
                "[store] case is \"{}\" here and \"{}\" at {place}: it must be the same",
                fits.case, standing.case
            ));
        }
        Ok(())
    }

    /// Why it is not the one to follow now, by a store of an epoch.
    fn leads(&self, standing: &Standing, epoch: u64) -> Result<(), LinkError> {
        let refused = |code: &str, text: String| {
            Err(LinkError::Refused {
                code: code.to_owned(),
                text,
            })
        };
        if standing.role != "primary" {
            let at = standing.primary.as_deref().unwrap_or_default();
            let text = format!("it is no primary: changes are made at {at}; follow that one");
            return refused("not_primary", text);
        }
        if standing.epoch < epoch {
            let theirs = standing.epoch;
            let text = format!(
                "it has epoch {theirs}, and the store here {epoch}, which is the newer one"
            );
            return refused("older_epoch", text);
        }
        Ok(())
    }

    /// Fetches a snapshot that has everything up to `after`, and makes a store of it beside the one in use.
    pub(super) async fn fetch(&self, after: u64, epoch: u64) -> Result<(), LinkError> {
        let (mut link, _) = self.connect(epoch).await?;
        let arriving = Arriving::new(&self.store.dir);
        arriving.clear().map_err(LinkError::File)?;
        fs::create_dir_all(&arriving.0)
            .map_err(|error| LinkError::File(format!("{}: {error}", arriving.0.display())))?;
        let file = arriving.snapshot();
        let fetched = link.snapshot(after, &file).await?;
        let settings = store::Config {
            dir: arriving.store(),
            ..self.store.clone()
        };
        let place = self.primary.place.clone();
        let made = spawn_blocking(move || {
            let made = room(&settings, &file)
                .and_then(|()| Store::copy(&settings, &file, fetched.epoch, &place));
            // What is made is a copy of it.
            made.and_then(|made| {
                fs::remove_file(&file)
                    .map(|()| made)
                    .map_err(|error| StoreError::Io {
                        path: file,
                        action: "remove the file",
                        source: error,
                    })
            })
        });
        let made = made
            .await
            .map_err(|error| LinkError::File(error.to_string()))?;
        let made = made.map_err(|error| LinkError::File(error.to_string()))?;
        self.watch
            .boots
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        tracing::info!(
            event = "standby.snapshot_arrived",
            primary = self.primary.place,
            epoch = fetched.epoch,
            sequence = made.sequence,
            records = made.records,
            bytes = made.bytes,
            "a snapshot of the primary has arrived"
        );
        Ok(())
    }

    /// Where files wait on their way into the store.
    pub(super) fn scratch(&self) -> PathBuf {
        let mut path = self.store.dir.as_os_str().to_owned();
        path.push(".run-arriving");
        path.into()
    }
}

/// Enough of a fingerprint for people to see that two differ.
fn short(fingerprint: &str) -> &str {
    fingerprint.get(..16).unwrap_or(fingerprint)
}

/// Whether there is room for a store that is made of a snapshot.
fn room(settings: &store::Config, snapshot: &Path) -> Result<(), StoreError> {
    let failed = |action| {
        move |source| StoreError::Io {
            path: snapshot.to_path_buf(),
            action,
            source,
        }
    };
    let bytes = snapshot.metadata().map_err(failed("read"))?.len();
    let free = store::free_space(snapshot).map_err(failed("find the free space"))?;
    let needed = bytes * ROOM + settings.reserve_bytes(free.1);
    if free.0 >= needed {
        return Ok(());
    }
    tracing::error!(
        event = "standby.no_room",
        free = free.0,
        needed,
        "there is no room for a store out of the primary's snapshot"
    );
    Err(failed("make a store of it")(
        std::io::ErrorKind::StorageFull.into(),
    ))
}

/// A store on its way.
struct Arriving(PathBuf);

impl Arriving {
    fn new(store: &Path) -> Self {
        let mut path = store.as_os_str().to_owned();
        path.push(".arriving");
        Self(path.into())
    }

    fn snapshot(&self) -> PathBuf {
        self.0.join("snapshot")
    }

    fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    /// Removes what an attempt has left that was cut short.
    fn clear(&self) -> Result<(), String> {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("{}: {error}", self.0.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Finds out what this node is, and brings a store that is none's copy yet. Nothing is served while that goes on. `before`
/// is what the same process knew of the primary.
///
/// # Errors
/// Why the node cannot start, for people.
pub async fn begin(config: &Config, before: Option<Arc<Watch>>) -> Result<Part, String> {
    let dir = config.store_dir();
    let role = match dir.exists() {
        true => Some(Store::role_of(&dir).map_err(|error| error.to_string())?),
        false => None,
    };
    let Some(primary) = Primary::configured(config) else {
        return alone(role);
    };
    match role {
        Some((Role::Successor(of), _)) if *of == *primary.place => {
            tracing::warn!(
                event = "standby.follow_ignored",
                primary = primary.place,
                "[follow] is not obeyed: this node took the place of that one"
            );
            Ok(Part::Successor(primary))
        }
        Some((Role::Copy(_), epoch)) => {
            let following = Following::new(config, primary, before)?;
            // A primary that is away is no reason not to answer questions; one that cannot be followed is.
            match following.connect(epoch).await {
                Err(LinkError::Configured(text)) => Err(text),
                _ => Ok(Part::Standby(Box::new(following))),
            }
        }
        other => {
            let following = Following::new(config, primary, before)?;
            let lock = first(&following, other.map_or(0, |(_, epoch)| epoch)).await?;
            install_in(&config.store_dir(), lock)?;
            Ok(Part::Standby(Box::new(following)))
        }
    }
}

/// What a node is that follows nobody.
fn alone(role: Option<(Role, u64)>) -> Result<Part, String> {
    match role {
        Some((Role::Copy(of), _)) => Err(format!(
            "the store is a copy of {of}: start with --follow {of} (or [follow] url), or let it take that one's place with \
             `jiexi promote`"
        )),
        Some((role @ Role::Superseded { .. }, _)) => {
            tracing::warn!(
                event = "node.no_changes",
                "no changes are taken: {role}; start with --follow to make this node a standby of that one"
            );
            Ok(Part::Alone)
        }
        Some((Role::Successor(of), _)) => {
            tracing::info!(
                event = "standby.old_primary_untold",
                old = &*of,
                "this node took the place of another one, which is not told so: without [follow] there is no token for it"
            );
            Ok(Part::Alone)
        }
        _ => Ok(Part::Alone),
    }
}

/// The first snapshot, and the lock of the store that is there, if there is one.
async fn first(following: &Following, epoch: u64) -> Result<Option<fs::File>, String> {
    // Nobody else may be at the data, until it is exchanged.
    let lock = Store::unused(&following.store.dir).map_err(|error| error.to_string())?;
    let mut pauses = Pauses::new();
    for attempt in 1.. {
        match following.fetch(0, epoch).await {
            Ok(()) => break,
            Err(LinkError::Configured(text)) => return Err(text),
            Err(error @ LinkError::Refused { .. }) if !error.is("busy") => {
                return Err(format!(
                    "no snapshot of {}: {error}",
                    following.primary.place
                ));
            }
            Err(error) if attempt >= ATTEMPTS => {
                return Err(format!(
                    "no snapshot of {}: {error}",
                    following.primary.place
                ));
            }
            Err(error) => {
                tracing::warn!(event = "standby.no_snapshot", primary = following.primary.place, %error, attempt, "no snapshot yet; tried again");
                sleep(pauses.next()).await;
            }
        }
    }
    Ok(lock)
}

/// Puts the store that has arrived in the place of the one that was used, which nobody may have open. Of a copy nothing is
/// kept; what was a store of its own stays beside it.
///
/// # Errors
/// What could not be moved, for people.
pub fn install(config: &Config) -> Result<(), String> {
    let dir = config.store_dir();
    let lock = Store::unused(&dir).map_err(|error| error.to_string())?;
    install_in(&dir, lock)
}

/// As [`install`], with the lock of the store that is there. What has come without one is not moved away.
fn install_in(dir: &Path, lock: Option<fs::File>) -> Result<(), String> {
    let arriving = Arriving::new(dir);
    if let Some(lock) = lock {
        let was_copy = matches!(Store::role_of(dir), Ok((Role::Copy(_), _)));
        let old = maintenance::beside(dir, "old");
        maintenance::move_store(dir, &old)?;
        maintenance::move_store(&arriving.store(), dir)?;
        drop(lock);
        if was_copy {
            fs::remove_dir_all(&old).map_err(|error| format!("{}: {error}", old.display()))?;
        } else {
            tracing::warn!(
                event = "standby.old_store_kept",
                directory = %old.display(),
                "the store that was here before is kept: look whether it has what the primary has not, then remove it"
            );
        }
    } else {
        maintenance::move_store(&arriving.store(), dir)?;
    }
    arriving.clear()
}
