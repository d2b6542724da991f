//! The node that is backed up: what it has to say about its store, through its control socket or directly.
//!
//! The store of a stopped node is open only as long as it is asked: what comes then may take hours, and who starts the node
//! meanwhile is not to find it held.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::explain;
use crate::{
    backup::{
        BackupError,
        create::{Source, Standing},
    },
    cli::{
        Failed,
        exit::say,
        place::{self, Place},
        target,
    },
    clock,
    config::Config,
    control::{
        client::{self, ControlError},
        command::{Command, Outcome, StoreAction},
    },
    identity::KeyPair,
    keyring, maintenance,
    store::SNAPSHOT_PATIENCE,
};

/// A node, running or stopped.
pub(super) struct Node {
    config: Config,
    store: PathBuf,
    /// Where the store stands, of a stopped one.
    stopped: Option<Standing>,
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
        let mut files = vec![(config.site_file(), SITE.to_owned())];
        files.extend(place.file().map(|path| (path, place::FILE_NAME.to_owned())));
        let mut node = Self {
            store: config.store_dir(),
            config,
            stopped: None,
            files,
            key,
        };
        if target::running(&node.config)?.is_none() {
            // What is wrong with the store is said before anything else is done.
            node.stopped = Some(node.standing().map_err(explain)?);
        }
        Ok(node)
    }

    fn ask(&self, action: StoreAction) -> Result<Json, BackupError> {
        let report = match self.running() {
            Ok(Some(node)) => self.ask_running(node, action),
            Ok(None) => self.ask_stopped(action),
            Err(error) => Err(error),
        };
        report
            .map(|report| report.json)
            .map_err(BackupError::Failed)
    }

    /// A message for people about the control socket.
    fn of_socket(&self, error: &dyn std::fmt::Display) -> String {
        let socket = self.config.control_socket();
        format!("control socket {}: {error}", socket.display())
    }

    /// The node, if it runs.
    fn running(&self) -> Result<Option<client::Node>, String> {
        let node = client::Node::connect(&self.config.control_socket());
        node.map_err(|error| self.of_socket(&error))
    }

    fn ask_stopped(&self, action: StoreAction) -> Result<maintenance::Report, String> {
        let settings = self.config.store_config();
        let store = match maintenance::open(settings.clone()) {
            Ok(store) => store,
            // Perhaps it is the node that has it open by now.
            Err(error) => match self.running()? {
                Some(node) => return self.ask_running(node, action),
                None => return Err(error),
            },
        };
        let report = maintenance::on_open(&store, &settings, &action);
        let closed = store
            .close()
            .map_err(|error| format!("closing the store: {error}"));
        report.and_then(|report| closed.map(|()| report))
    }

    fn ask_running(
        &self,
        node: client::Node,
        action: StoreAction,
    ) -> Result<maintenance::Report, String> {
        let failed = |error: &dyn std::fmt::Display| self.of_socket(error);
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
        if let (Some(standing), Ok(None)) = (self.stopped, self.running()) {
            return Ok(standing);
        }
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
        // A stopped one is opened for each question.
        if self.stopped.is_none() && self.ask(StoreAction::Stats)?["state"] == "Degraded" {
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
