//! The key that the secrets of a backup are sealed with, given on the command line.

use std::path::PathBuf;

use clap::Args;

use crate::{
    backup::plan::Plan,
    cli::{Failed, key},
    identity::KeyPair,
    keyring,
    registry::{keys::NodeKey, seal::Sealer},
};

/// A key in escrow.
#[derive(Debug, Args)]
pub(super) struct EscrowedKey {
    /// The node's key, as `jiexi key escrow export` has written it (or node.key itself)
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// File with the passphrase that opens it
    #[arg(long, value_name = "FILE", requires = "key")]
    passphrase_file: Option<PathBuf>,
}

impl EscrowedKey {
    /// Whether none is given.
    pub(super) fn is_none(&self) -> bool {
        self.key.is_none()
    }

    /// Opens the key, if one is given, and sees that it is the one that the backup needs.
    pub(super) fn open(&self, plan: &Plan) -> Result<Option<KeyPair>, Failed> {
        let Some(path) = &self.key else {
            return Ok(None);
        };
        let secret = self.passphrase_file.as_deref().map(key::passphrase);
        let secret = secret.transpose()?;
        let pair = keyring::read(path, secret.as_ref().map(|secret| &secret[..]))
            .map_err(Failed::report)?;
        expect_key(plan, &pair, &path.display().to_string())?;
        Ok(Some(pair))
    }
}

/// Refuses a key that does not open the secrets of the backup.
pub(super) fn expect_key(plan: &Plan, pair: &KeyPair, name: &str) -> Result<(), Failed> {
    let found = keyring::fingerprint(pair);
    match &plan.last().key {
        Some(wanted) if *wanted != found => Err(Failed::report(format_args!(
            "{name}: it has the fingerprint {found}, and the secrets of backup {} are sealed with the key of \
             fingerprint {wanted}; nothing was restored; bring that key",
            plan.last().id
        ))),
        _ => Ok(()),
    }
}

/// What opens secrets with a key.
pub(super) fn sealer(pair: &KeyPair) -> Result<Sealer, Failed> {
    let key = NodeKey::new(&pair.private).map_err(Failed::report)?;
    Ok(Sealer::new(&key))
}
