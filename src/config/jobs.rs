//! `[jobs]`: registrations that are handed over at once and carried out by themselves.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::size;

/// `[jobs]`: what bulk jobs over HTTP may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jobs {
    /// Jobs that are carried out at once, of all tokens; of one token it is one.
    pub running_max: u32,
    /// Jobs of one token that are kept, ended ones included.
    pub jobs_per_token: u32,
    /// Octets of one input, after decompression.
    #[serde(with = "size")]
    pub input_max: u64,
    /// Octets of inputs and results on the disk, for each token.
    #[serde(with = "size")]
    pub disk_max: u64,
    /// How long a job is kept when it has ended, or while it is paused.
    #[serde(with = "humantime_serde")]
    pub keep: Duration,
    /// Where they are, below the data directory unless absolute.
    pub directory: PathBuf,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            running_max: 2,
            jobs_per_token: 100,
            input_max: 4 << 30,
            disk_max: 8 << 30,
            keep: Duration::from_secs(7 * 86_400),
            directory: PathBuf::from("jobs"),
        }
    }
}

/// What cannot work of `[jobs]`.
pub(super) fn check(jobs: &Jobs, need: &mut impl FnMut(bool, &str, &str, &str)) {
    let mut need = |good, name, message| need(good, "jobs", name, message);
    need(
        (1..=64).contains(&jobs.running_max),
        "running_max",
        "must lie between 1 and 64: each takes two threads while it runs",
    );
    need(
        (1..=10_000).contains(&jobs.jobs_per_token),
        "jobs_per_token",
        "must lie between 1 and 10000",
    );
    need(jobs.input_max >= 1 << 20, "input_max", "is below 1MiB");
    need(
        jobs.disk_max >= 1 << 20,
        "disk_max",
        "is below 1MiB; no job could be taken",
    );
    need(
        jobs.keep >= Duration::from_secs(1),
        "keep",
        "is below 1s; nobody could fetch results",
    );
    need(
        !jobs.directory.as_os_str().is_empty(),
        "directory",
        "is empty; name a directory",
    );
}
