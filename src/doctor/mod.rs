//! Whether a node can do its work here, and what to do where it cannot.
//!
//! * [`examine`]: all checks, in the order in which they matter.
//! * `access`: whether the node may use its files.
//! * `host`: user, keys, certificates, files, clock, limits, disk.
//! * `reach`: ports, and the node's answers by each protocol.
//!
//! Nothing is changed but a file without a name that is written to measure the disk. A check that cannot be made says so.

mod access;
mod host;
mod reach;

use self::reach::Running;
use crate::config::{Config, Origins};

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It works; somebody should look at it.
    Warning,
    /// The node cannot do its work.
    Bad,
}

impl Verdict {
    /// One word.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Bad => "FAILED",
        }
    }
}

/// What one check found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What is the case.
    pub found: String,
    /// What to do; empty when there is nothing to do.
    pub advice: String,
}

impl Finding {
    fn good(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(check, Verdict::Good, found, "")
    }

    /// A finding with what to do about it.
    pub fn new(
        check: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            check,
            verdict,
            found: found.into(),
            advice: advice.into(),
        }
    }
}

/// Everything about the node of `config`, running or not. Takes some seconds; needs a runtime.
pub async fn examine(config: &Config, origins: &Origins) -> Vec<Finding> {
    let mut findings = Vec::new();
    let looks = host::user(config, &mut findings);
    let certificates = looks.then(|| host::data(config, origins, &mut findings));
    host::clock(config, &mut findings);
    let running = reach::operations(config, &mut findings);
    host::limits(config, &running, &mut findings);
    match running {
        Running::Yes(_) | Running::Elsewhere => {
            reach::answers(config, certificates.flatten(), &mut findings).await
        }
        // Its ports are its own.
        Running::Hung => {}
        Running::No => reach::ports(config, &mut findings),
    }
    findings
}

/// Whether the node runs whose configuration cannot be read beyond the address of its operations listener.
#[must_use]
pub fn examine_running(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    reach::operations(config, &mut findings);
    findings
}
