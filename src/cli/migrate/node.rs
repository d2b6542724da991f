//! The node that takes what comes: through its control socket while it runs, else in its files.

use std::sync::Arc;

use super::super::{Failed, target};
use crate::config::Config;
use crate::control::command::{Ask, Command, Outcome, Told};
use crate::control::registry as local;
use crate::registry::Registry;
use crate::store::Store;
use crate::{clock, maintenance, node};

/// A node.
pub(super) enum Node {
    /// It runs.
    Running(Box<Config>),
    /// It is stopped; its store is open.
    Stopped(Arc<Store>, Arc<Registry>),
}

impl Node {
    /// Finds it.
    pub(super) fn open(config: Config) -> Result<Self, Failed> {
        if target::running(&config)?.is_some() {
            return Ok(Self::Running(Box::new(config)));
        }
        let store = Arc::new(maintenance::open(config.store_config()).map_err(Failed::report)?);
        let registry = node::registry_of(&config, &store).map_err(Failed::report)?;
        node::complete_audit(&registry);
        Ok(Self::Stopped(store, registry))
    }

    /// Asks it for something that is answered without lines.
    pub(super) fn ask(&mut self, ask: &Ask) -> Result<Told, Failed> {
        match self {
            Self::Running(config) => {
                let node = target::running(config)?
                    .ok_or_else(|| Failed::report("the node was stopped meanwhile"))?;
                let command = Command::Registry { ask: ask.clone() };
                let nothing = None::<tokio::io::Empty>;
                let asked = node.run(command, nothing, |_| Ok(()), |_| {});
                match target::block_on(asked)?.map_err(target::explain)? {
                    Outcome::Told(told) => Ok(told),
                    _ => Err(Failed::report("the node answered another command")),
                }
            }
            Self::Stopped(_, registry) => {
                let uid = nix::unistd::geteuid().as_raw();
                let now = clock::unix_seconds();
                local::perform(registry, ask, uid, now, &mut std::io::sink())
                    .map_err(Failed::report)
            }
        }
    }

    /// Lets it go.
    pub(super) fn close(self) -> Result<(), Failed> {
        match self {
            Self::Running(_) => Ok(()),
            Self::Stopped(store, registry) => target::close_with(&store, &registry),
        }
    }
}
