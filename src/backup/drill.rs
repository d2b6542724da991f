//! Whether a backup would bring the node back: a restore in a scratch directory, opened and verified, its secrets opened
//! with the escrowed key, and compared with the node where there is one.

use std::{
    ops::Bound,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    BackupError, Watch, create::Source, failed, plan::Plan, repository::Repository, restore,
};
use crate::{
    maintenance,
    registry::seal::Sealer,
    store::{
        self, Space, Store,
        archive::{self, Increment},
    },
};

/// Records read at once.
const PAGE: usize = 512;

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What.
    pub what: &'static str,
    /// What came of it, for people.
    pub result: String,
    /// How long it took.
    pub took: Duration,
}

/// What a drill uses.
pub struct Drill<'a> {
    /// Where the backups are.
    pub repository: &'a Repository,
    /// What is restored.
    pub plan: &'a Plan,
    /// The settings of the store, with a scratch directory.
    pub settings: store::Config,
    /// Opens the secrets, if a key was given.
    pub sealer: Option<Sealer>,
    /// The node to compare with, if there is one.
    pub node: Option<&'a dyn Source>,
    /// Hears how far it is.
    pub watch: &'a dyn Watch,
}

impl Drill<'_> {
    /// Does all of it; `told` hears of each step.
    ///
    /// # Errors
    /// At the first step that fails.
    pub fn run(&self, told: &mut dyn FnMut(Step)) -> Result<(), BackupError> {
        let mut step = |what, work: &mut dyn FnMut() -> Result<String, BackupError>| {
            let begun = Instant::now();
            work().map(|result| {
                told(Step {
                    what,
                    result,
                    took: begun.elapsed(),
                });
            })
        };
        step("check", &mut || self.check())?;
        step("restore", &mut || self.restore())?;
        let mut store = None;
        step("open", &mut || self.open(&mut store))?;
        let store = store.ok_or_else(|| failed("the store was not opened"))?;
        step("verify", &mut || verify(&store))?;
        if let Some(sealer) = &self.sealer {
            step("secrets", &mut || secrets(&store, sealer))?;
        }
        if let Some(node) = self.node {
            step("compare", &mut || self.compare(node))?;
        }
        store.close().map_err(BackupError::from)
    }

    fn check(&self) -> Result<String, BackupError> {
        restore::check(self.repository, self.plan, self.watch)?;
        let backups: Vec<&str> = self
            .plan
            .backups()
            .map(|backup| backup.id.as_str())
            .collect();
        Ok(format!("every octet of {} is right", backups.join(", ")))
    }

    fn restore(&self) -> Result<String, BackupError> {
        let info = restore::restore(self.repository, self.plan, &self.settings, self.watch)?.info;
        Ok(format!(
            "{} records of sequence {}, as epoch {}",
            info.records, info.sequence, self.plan.epoch
        ))
    }

    fn open(&self, store: &mut Option<Store>) -> Result<String, BackupError> {
        self.watch.begin("opening", 0);
        let opened = maintenance::open(self.settings.clone()).map_err(failed)?;
        let records = opened.stats().records;
        *store = Some(opened);
        Ok(format!("{records} records can be asked for"))
    }

    /// Brings the backup, on paper, to where the node is now, and sees whether that is the same.
    fn compare(&self, node: &dyn Source) -> Result<String, BackupError> {
        self.watch.begin("comparing", 0);
        let standing = node.standing()?;
        // From the end of the last backup: what was asked for may be a moment within it.
        let mut chain = self.plan.chain(self.repository)?;
        let state = self.repository.read_archive(self.plan.last())?;
        chain.until = state.sequence;
        if standing.epoch != state.epoch {
            return Err(failed(format_args!(
                "the node is of epoch {}, and these backups are of epoch {}: it was restored since; take a backup of \
                 it, and drill again",
                standing.epoch, state.epoch
            )));
        }
        let beyond = self.settings.dir.with_extension("since");
        let found =
            archive::increment(node.store(), &state, standing.sequence, node.now(), &beyond)?;
        match found {
            Increment::Nothing => {}
            Increment::Written(since) => {
                chain.increments.push(beyond);
                chain.until = since.sequence;
            }
            Increment::TooShort => {
                return Err(failed(format_args!(
                    "the node's journal no longer reaches back to sequence {}, so that the node cannot be compared \
                     with the backup; run `jiexi backup create`, and drill again",
                    state.sequence
                )));
            }
            Increment::Diverged => {
                return Err(failed(format_args!(
                    "the node's journal does not continue sequence {} of the backup: it is not the same node, or not \
                     the same history of it",
                    state.sequence
                )));
            }
        }
        let whole = chain.verify()?;
        Ok(format!(
            "with the {} changes since, number and sum of the records are those of the node at sequence {}: {} \
             records, {:016x}",
            whole.sequence - state.sequence,
            whole.sequence,
            whole.records,
            whole.sum
        ))
    }
}

fn verify(store: &Store) -> Result<String, BackupError> {
    let report = store.verify()?;
    match report.is_good() {
        true => Ok(format!(
            "{} records, each as its checksum says",
            report.index_records
        )),
        false => Err(failed(report.problems.join("\n"))),
    }
}

/// Opens every secret.
fn secrets(store: &Store, sealer: &Sealer) -> Result<String, BackupError> {
    let (mut opened, mut from) = (0_u64, Bound::Unbounded);
    loop {
        let bound = from.as_ref().map(Vec::as_slice);
        let page = store.scan(Space::Handle, bound, b"", PAGE)?;
        let Some(last) = page.last() else { break };
        from = Bound::Excluded(last.key().to_vec());
        for record in &page {
            for entry in record.entries().filter(|entry| entry.sealed) {
                if sealer.open_entry(record.key(), &entry).is_none() {
                    return Err(failed(format_args!(
                        "secret {} of {} was sealed with another key than the one given; find the key that \
                         `jiexi backup list -o json` names",
                        entry.index,
                        String::from_utf8_lossy(&record.handle())
                    )));
                }
                opened += 1;
            }
        }
    }
    Ok(format!("{opened} secrets open with the key"))
}

/// Whether there is a store in a directory, damaged or not.
#[must_use]
pub fn has_store(directory: &Path) -> bool {
    directory.join("identity").exists()
}
