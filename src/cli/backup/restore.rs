//! `jiexi backup restore`: a node out of a repository.

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::json;

use super::{
    Bars, Form, Opening, RepositoryPath, explain,
    key::{self, EscrowedKey},
    source::SITE,
};
use crate::{
    backup::{
        self, BackupError,
        manifest::Manifest,
        plan::{Plan, Target},
        repository::Repository,
        restore::{self, Restored},
    },
    cli::{
        Failed, audit,
        exit::say,
        place::{self, FILE_NAME, Place},
        target,
    },
    clock,
    config::{self, Config},
    identity::{self, KeyPair},
    store::{SnapshotInfo, archive},
};

/// Make the store of a node out of a repository
///
/// The data directory must not have a store; a configuration and a site record that are there stay, and come from the
/// backup otherwise. Everything is checked before anything is written. The restored store has a new epoch.
#[derive(Debug, Args)]
pub(super) struct Restore {
    #[command(flatten)]
    repository: RepositoryPath,
    #[command(flatten)]
    moment: Moment,
    #[command(flatten)]
    key: EscrowedKey,
    #[command(flatten)]
    opening: Opening,
    #[command(flatten)]
    form: Form,
    #[command(flatten)]
    place: Place,
}

/// The state that is wanted; the newest if nothing is said.
#[derive(Debug, Args)]
pub(super) struct Moment {
    /// The state after this sequence (`jiexi backup list` shows which there are)
    #[arg(long, value_name = "SEQUENCE", conflicts_with = "to_time")]
    to_sequence: Option<u64>,
    /// The state at this time, to the second: 2026-11-24T08:00:00Z, or seconds since 1970
    #[arg(long, value_name = "TIME")]
    to_time: Option<String>,
    /// The epoch of the store that is wanted; the newest one otherwise
    #[arg(long, value_name = "EPOCH")]
    epoch: Option<u64>,
}

impl Moment {
    /// What a restore needs.
    pub(super) fn plan(&self, repository: &Repository) -> Result<Plan, Failed> {
        let target = match (self.to_sequence, &self.to_time) {
            (Some(sequence), _) => Target::Sequence(sequence),
            (None, Some(time)) => Target::Time(audit::seconds("--to-time", time)?),
            (None, None) => Target::Newest,
        };
        let listing = repository.list().map_err(explain)?;
        for (_, problem) in &listing.damaged {
            say(format_args!("jiexi: {problem}"));
        }
        let times = |backup: &Manifest| {
            repository.expect_key(backup)?;
            let records = repository.records(backup);
            let times = records.and_then(|path| Ok(archive::times(&path)?));
            if let Err(BackupError::Failed(problem)) = &times {
                say(format_args!(
                    "jiexi: {problem}; what it knows of times is done without"
                ));
            }
            times
        };
        let now = clock::unix_seconds().into();
        let plan = Plan::new(&listing, target, self.epoch, &times, now).map_err(explain)?;
        // What is newest nobody knows while a newer one cannot be read.
        let newer = listing.damaged.iter().find(|(id, _)| *id > plan.last().id);
        match newer {
            Some((id, _)) if target == Target::Newest => Err(Failed::report(format_args!(
                "backup {id} is damaged, and newer than {}; if that will do, ask for it: --to-sequence {}",
                plan.last().id,
                plan.until
            ))),
            _ => Ok(plan),
        }
    }
}

impl Restore {
    pub(super) fn run(self) -> Result<(), Failed> {
        let repository = (self.repository).open_with(self.opening.keys()?, &self.place)?;
        let _reading = repository.reading().map_err(explain)?;
        let plan = self.moment.plan(&repository)?;
        let bars = Bars::default();
        let plan = self.sound(&repository, plan, &bars)?;
        let config = self.destination(&repository, &plan)?;
        target::expect_owner(&config)?;
        restore::expect_empty(&config.store_dir()).map_err(explain)?;
        let pair = self.key.open(&plan)?;
        check_present_key(&plan, &config, pair.as_ref())?;
        let restored = self.write(&repository, &plan, &config, pair.as_ref(), &bars);
        bars.clear();
        let Restored { info, lock } = restored?;
        if config.node_key().exists() {
            target::note(&config, "restore", true, None);
        }
        drop(lock);
        self.tell(&plan, &config, &info)
    }

    /// The plan without backups that are damaged, if there is one. What is cheap to refuse is refused before they are read.
    fn sound(&self, repository: &Repository, plan: Plan, bars: &Bars) -> Result<Plan, Failed> {
        repository.expect_key(plan.last()).map_err(explain)?;
        if let Ok(config) = self.destination(repository, &plan) {
            target::expect_owner(&config)?;
            restore::expect_empty(&config.store_dir()).map_err(explain)?;
            let pair = self.key.open(&plan)?;
            check_present_key(&plan, &config, pair.as_ref())?;
        }
        let told = |problem: &str| {
            say(format_args!(
                "jiexi: {problem}; it is done without this backup"
            ))
        };
        let sound = restore::sound(repository, plan, bars, told);
        bars.clear();
        sound.map_err(explain)
    }

    /// The configuration of the node that is to be: that which is there, else that of the backup.
    fn destination(&self, repository: &Repository, plan: &Plan) -> Result<Config, Failed> {
        if self.place.file().is_some() {
            return self.place.load();
        }
        let Some(data) = self.place.data() else {
            return Err(Failed::usage(
                "name the data directory of the node that is to be with --data",
            ));
        };
        let found = restore::file(repository, plan, FILE_NAME, &Bars::default());
        let Some(path) = found.map_err(explain)? else {
            return self.place.load();
        };
        let config = config::load(&path, place::environment());
        let mut config = config.map_err(|problems| place::report(&problems))?;
        // As it will be from where it is going to be.
        let own = path.parent().unwrap_or_else(|| Path::new(""));
        let below = config.node.data.strip_prefix(own).map(PathBuf::from);
        config.node.data = match below {
            Ok(below) => data.join(below).components().collect(),
            Err(_) => config.node.data,
        };
        if config.node.data != data.components().collect::<PathBuf>() {
            return Err(Failed::report(format_args!(
                "the configuration in the backup has [node] data = {:?}, which is not {}; put a {FILE_NAME} with \
                 data = \".\" there first ({} is the one of the backup)",
                config.node.data,
                data.display(),
                path.display()
            )));
        }
        Ok(config)
    }

    /// Everything, once it is known that it can be.
    fn write(
        &self,
        repository: &Repository,
        plan: &Plan,
        config: &Config,
        pair: Option<&KeyPair>,
        bars: &Bars,
    ) -> Result<Restored, Failed> {
        let data = &config.node.data;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data)
            .map_err(|error| Failed::report(format_args!("{}: {error}", data.display())))?;
        // The store is last: what was interrupted before can be done again.
        let bring = |name: &str, to: &Path| {
            restore::bring_back(repository, plan, name, to, bars).map_err(explain)
        };
        bring(SITE, &config.site_file())?;
        if self.place.file().is_none() {
            bring(FILE_NAME, &data.join(FILE_NAME))?;
        }
        if let Some(pair) = pair
            && !config.node_key().exists()
        {
            identity::write_file(&config.node_key(), 0o600, &pair.file())
                .map_err(Failed::report)?;
        }
        restore::restore(repository, plan, &config.store_config(), bars).map_err(explain)
    }

    /// What was done, and what is left to do.
    fn tell(&self, plan: &Plan, config: &Config, info: &SnapshotInfo) -> Result<(), Failed> {
        let data = config.node.data.display();
        let backups: Vec<&str> = plan.backups().map(|backup| backup.id.as_str()).collect();
        let time = backup::shown_time(plan.last().created);
        let json = json!({
            "data": config.node.data,
            "backups": backups,
            "time": time,
            "sequence": info.sequence,
            "records": info.records,
            "epoch": plan.epoch,
            "key": config.node_key().exists(),
        });
        let mut text = format!(
            "restored into {data}: {} records of sequence {}, from {} (the newest of {time}); the store is of epoch {}\n",
            info.records,
            info.sequence,
            backups.join(", "),
            plan.epoch
        );
        if !config.node_key().exists() {
            text += &format!(
                "the node's key is missing: jiexi key escrow import FILE --passphrase-file FILE --data {data}\n"
            );
        }
        text += &format!("start it: jiexi serve --data {data}\n");
        self.form.print(&json, &text)
    }
}

/// A key that is in the data directory already must be the right one.
fn check_present_key(plan: &Plan, config: &Config, given: Option<&KeyPair>) -> Result<(), Failed> {
    let path = config.node_key();
    if !path.exists() {
        return Ok(());
    }
    let present = KeyPair::load(&path).map_err(Failed::report)?;
    if given.is_some_and(|given| *given != present) {
        return Err(Failed::report(format_args!(
            "{}: it is another key than the one given; move it away first",
            path.display()
        )));
    }
    key::expect_key(plan, &present, &path.display().to_string())
}
