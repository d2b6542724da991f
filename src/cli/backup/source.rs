//! The node that is backed up: what it has to say about its store, through its control socket or directly.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::{
    backup::{
        BackupError,
        create::{Source, Standing},
    },
    cli::{
        Failed,
        exit::say,
        place::{self, Place},
        target::{self, Target},
    },
    clock,
    config::Config,
    control::{
        client::{self, ControlError},
        command::{Command, Outcome, StoreAction},
    },
    identity::KeyPair,
    keyring, maintenance,
    store::{SNAPSHOT_PATIENCE, Store},
};

/// A node, running or stopped.
pub(super) struct Node {
    config: Config,
    store: PathBuf,
    /// The store of a stopped one.
    stopped: Option<Box<Store>>,
    files: Vec<(PathBuf, String)>,
    key: Option<String>,
}

/// The name of the site record in a backup.
pub(super) const SITE: &str = "site.json";

impl Node {
    /// The node that the command line means.
    pub(super) fn of(place: &Place) -> Result<Self, Failed> {
        let config = place.load()?;
        let key = match config.node_key() {
            path if path.exists() => {
                let pair = KeyPair::load(&path).map_err(Failed::report)?;
                Some(keyring::fingerprint(&pair))
            }
            _ => None,
        };
        let stopped = match target::find(&config)? {
            Target::Running(_) => None,
            Target::Stopped(store) => Some(store),
        };
        let mut files = vec![(config.site_file(), SITE.to_owned())];
        files.extend(place.file().map(|path| (path, place::FILE_NAME.to_owned())));
        Ok(Self {
            store: config.store_dir(),
            config,
            stopped,
            files,
            key,
        })
    }

    /// Closes the store of a stopped node.
    pub(super) fn close(&self) -> Result<(), Failed> {
        self.stopped
            .as_ref()
            .map_or(Ok(()), |store| target::close(store))
    }

    fn ask(&self, action: StoreAction) -> Result<Json, BackupError> {
        let report = match &self.stopped {
            Some(store) => maintenance::on_open(store, &self.config.store_config(), &action),
            None => self.ask_running(action),
        };
        report
            .map(|report| report.json)
            .map_err(BackupError::Failed)
    }

    fn ask_running(&self, action: StoreAction) -> Result<maintenance::Report, String> {
        let socket = self.config.control_socket();
        let failed =
            |error: &dyn std::fmt::Display| format!("control socket {}: {error}", socket.display());
        let node = client::Node::connect(&socket).map_err(|error| failed(&error))?;
        let node = node.ok_or_else(|| failed(&"the node has stopped meanwhile; try again"))?;
        let command = Command::Store { action };
        let outcome =
            target::block_on(node.run(command, None::<tokio::io::Empty>, |_| Ok(()), |_| {}))
                .map_err(|_| failed(&"it cannot be asked"))?;
        match outcome {
            Ok(Outcome::Report { good, report }) => Ok(maintenance::Report { good, json: report }),
            Ok(Outcome::Counts(_) | Outcome::Told(_)) => {
                Err(failed(&"the node answered another command"))
            }
            Err(ControlError::Failed(failure)) => Err(failure.message),
            Err(
                ControlError::Connection(error)
                | ControlError::Input(error)
                | ControlError::Output(error),
            ) => Err(failed(&error)),
        }
    }
}

impl Source for Node {
    fn standing(&self) -> Result<Standing, BackupError> {
        let stats = self.ask(StoreAction::Stats)?;
        let state = stats["state"].as_str().unwrap_or_default();
        if ["Loading", "Verifying"].contains(&state) {
            return Err(BackupError::Failed(
                "the store of the node is still loading; try again in a while".to_owned(),
            ));
        }
        let number = |name: &str| {
            stats[name].as_u64().ok_or_else(|| {
                BackupError::Failed(format!(
                    "the node does not say its {name}; is it an older version?"
                ))
            })
        };
        Ok(Standing {
            epoch: number("epoch")?,
            sequence: number("sequence")?,
        })
    }

    fn snapshot(&self) -> Result<PathBuf, BackupError> {
        if self.ask(StoreAction::Stats)?["state"] == "Degraded" {
            say(format_args!(
                "jiexi: the node is making its state on disk anew; the backup waits for that, at most {} minutes",
                SNAPSHOT_PATIENCE.as_secs() / 60
            ));
        }
        let snapshot = self.ask(StoreAction::Snapshot)?;
        let path = snapshot["path"].as_str().map(Path::new);
        // The node may have another working directory.
        let name = path.and_then(Path::file_name).ok_or_else(|| {
            BackupError::Failed("the node does not say where its snapshot is".to_owned())
        })?;
        Ok(self.store.join("snapshots").join(name))
    }

    fn store(&self) -> &Path {
        &self.store
    }

    fn files(&self) -> &[(PathBuf, String)] {
        &self.files
    }

    fn key(&self) -> Option<String> {
        self.key.clone()
    }

    fn now(&self) -> u64 {
        clock::unix_seconds().into()
    }
}
