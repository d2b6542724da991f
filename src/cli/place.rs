//! Which node a command means: the configuration file, or a data directory without one.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failed, exit::say};
use crate::config::{self, Config, Problem};
use crate::{owner, preflight};

/// The name of the configuration file that `init` writes into the data directory.
pub(super) const FILE_NAME: &str = "jiexi.toml";
/// Where a configuration file is looked for when none is named.
const USUAL: [&str; 4] = [
    "jiexi.toml",
    "data/jiexi.toml",
    "/etc/jiexi/jiexi.toml",
    "/var/lib/jiexi/jiexi.toml",
];

/// The variable that names a configuration file when the command line does not.
const VARIABLE: &str = "JIEXI_CONFIG";

/// Which node is meant.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Place {
    /// Configuration file; else that in JIEXI_CONFIG. Without both: ./jiexi.toml, ./data/jiexi.toml, /etc/jiexi/jiexi.toml,
    /// /var/lib/jiexi/jiexi.toml, else the defaults
    #[arg(long, short = 'c', value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Data directory of the node: its jiexi.toml if there is one, else the defaults with this directory
    #[arg(
        long,
        short = 'd',
        value_name = "DIR",
        conflicts_with = "config",
        global = true
    )]
    data: Option<PathBuf>,
}

impl Place {
    /// The data directory named on the command line.
    pub(super) fn data(&self) -> Option<&Path> {
        self.data.as_deref()
    }

    /// Whether the command line or the environment says which node is meant.
    pub(super) fn is_named(&self) -> bool {
        self.config.is_some() || self.data.is_some()
    }

    /// The configuration file meant, if one is named or found.
    pub(super) fn file(&self) -> Option<PathBuf> {
        if let Some(data) = &self.data {
            return Some(data.join(FILE_NAME)).filter(|path| may_be(path));
        }
        // Not an argument with an environment variable: a directory that is named goes before what only lies about.
        let said = || std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
        let usual = || USUAL.iter().map(PathBuf::from).find(|path| path.is_file());
        (self.config.clone())
            .or_else(|| said().map(PathBuf::from))
            .or_else(usual)
    }

    /// A file that would be found if this user could look where it is; there may be none.
    pub(super) fn hidden(&self) -> Option<PathBuf> {
        let closed = |path: &PathBuf| may_be(path) && !path.is_file();
        let mut usual = USUAL.iter().map(PathBuf::from);
        usual.find(|path| !self.is_named() && closed(path))
    }

    /// The configuration of the node meant; the defaults when there is no file.
    pub(super) fn load(&self) -> Result<Config, Failed> {
        let Some(path) = self.file() else {
            return defaults(self.data());
        };
        let (config, origins) =
            config::load_placed(&path, environment()).map_err(|problems| report(&problems))?;
        owner::is_about(&config.node.data);
        match preflight::case_rule(&config, &origins) {
            Some(problem) => Err(report(&[problem])),
            None => Ok(config),
        }
    }

    /// The configuration of the node meant, whose files are as `serve` needs them.
    pub(super) fn load_to_serve(&self) -> Result<Config, Failed> {
        match self.file() {
            Some(path) => usable(&path),
            None => defaults(self.data()),
        }
    }

    /// As [`Self::load`], for whoever only asks the operations listener: what is wrong with the rest is said and does not
    /// matter, since a node that runs has the configuration from before.
    pub(super) fn load_to_look(&self) -> Config {
        let Some(path) = self.file() else {
            let mut config = from_environment().unwrap_or_default();
            if let Some(data) = self.data() {
                config.node.data = data.to_path_buf();
            }
            return config;
        };
        config::load(&path, environment()).unwrap_or_else(|problems| {
            for problem in &problems {
                say(format_args!("jiexi: warning: {problem}"));
            }
            let mut config = Config::default();
            config.operations.listen = config::operations_listen(&path, environment());
            config
        })
    }

    /// The same for a node that runs: what is wrong is for its log.
    pub(super) fn read(&self) -> Result<Config, String> {
        let Some(path) = self.file() else {
            return Err("the configuration file is gone".to_owned());
        };
        config::load(&path, environment()).map_err(|problems| listed(&problems, "; "))
    }
}

/// Whether a file is there, or may be: what is in a directory that this user may not enter is not missing.
fn may_be(path: &Path) -> bool {
    match std::fs::metadata(path) {
        Ok(found) => found.is_file(),
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
    }
}

/// The configuration in a file, if a node can be started with it; else every problem is reported.
pub(super) fn usable(path: &Path) -> Result<Config, Failed> {
    let (config, origins) =
        config::load_placed(path, environment()).map_err(|problems| report(&problems))?;
    owner::is_about(&config.node.data);
    match preflight::problems(&config, &origins) {
        problems if problems.is_empty() => Ok(config),
        problems => Err(report(&problems)),
    }
}

/// The defaults, for the data directory `data` if one is named, with the overrides of the environment.
pub(super) fn defaults(data: Option<&Path>) -> Result<Config, Failed> {
    let mut config = from_environment().map_err(|problems| report(&problems))?;
    if let Some(data) = data {
        config.node.data = data.to_path_buf();
    }
    owner::is_about(&config.node.data);
    Ok(config)
}

/// The defaults with the overrides of the environment.
pub(super) fn from_environment() -> Result<Config, Vec<Problem>> {
    let text = format!("version = {}\n", config::VERSION);
    config::load_text(&text, Path::new("defaults"), environment())
}

/// The environment, without variables that are not text.
pub(super) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Reports every problem of a configuration, each on a line.
pub(super) fn report(problems: &[Problem]) -> Failed {
    Failed::report(listed(problems, "\njiexi: "))
}

pub(super) fn listed(problems: &[Problem], between: &str) -> String {
    let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
    lines.join(between)
}
