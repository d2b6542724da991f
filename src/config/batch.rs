//! `[batch]`: many questions in one request.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::size;

/// `[batch]`: what a batch over HTTP may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Batches at once, of all tokens.
    pub streams_max: u32,
    /// Batches at once of one token.
    pub streams_per_token: u32,
    /// Octets of one input, after decompression.
    #[serde(with = "size")]
    pub input_max: u64,
    /// Octets after decompression for each one before.
    pub ratio_max: u32,
    /// Octets of input that wait on the disk, for each token.
    #[serde(with = "size")]
    pub spool_max: u64,
    /// Handles at home elsewhere that one batch may have asked there.
    pub recursive_max: u64,
    /// Where they wait, below the data directory unless absolute.
    pub spool: PathBuf,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            streams_max: 32,
            streams_per_token: 4,
            input_max: 4 << 30,
            ratio_max: 100,
            spool_max: 1 << 30,
            recursive_max: 10_000,
            spool: PathBuf::from("spool"),
        }
    }
}

/// What cannot work of `[batch]`.
pub(super) fn check(batch: &Batch, need: &mut impl FnMut(bool, &str, &str, &str)) {
    let mut need = |good, name, message| need(good, "batch", name, message);
    need(
        (1..=256).contains(&batch.streams_max),
        "streams_max",
        "must lie between 1 and 256: each takes a thread while it runs",
    );
    need(
        batch.streams_per_token > 0,
        "streams_per_token",
        "is 0; no batch could be resolved",
    );
    need(batch.input_max >= 1 << 20, "input_max", "is below 1MiB");
    need(
        (10..=10_000).contains(&batch.ratio_max),
        "ratio_max",
        "must lie between 10 and 10000",
    );
    need(
        !batch.spool.as_os_str().is_empty(),
        "spool",
        "is empty; name a directory",
    );
}
