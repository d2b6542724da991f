//! What `jiexi store …` does: actions on an open store, and those that need it closed; each gives a report in JSON.

use serde_json::{Value as Json, json};

use crate::{
    config::Config,
    control::command::StoreAction,
    store::{Store, StoreError},
};

/// What an action found or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whether all is well.
    pub good: bool,
    /// The details.
    pub json: Json,
}

/// How many handles the store has.
///
/// # Errors
/// The store cannot be read.
pub fn records(_store: &Store) -> Result<u64, StoreError> {
    Ok(0)
}

/// Does something with an open store, of this process or of a running node.
///
/// # Errors
/// A message for people.
pub fn on_running(_store: &Store, _action: &StoreAction) -> Result<Report, String> {
    Ok(Report {
        good: true,
        json: json!({}),
    })
}

/// Does something that needs the store closed.
///
/// # Errors
/// A message for people.
pub fn on_stopped(_config: &Config, _action: &StoreAction) -> Result<Report, String> {
    Ok(Report {
        good: true,
        json: json!({}),
    })
}
