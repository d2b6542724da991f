//! The records a decision is made on.

use std::sync::Arc;

use bytes::Bytes;
use jiexi_proto::handle::{self, CaseRule};
use jiexi_proto::value::Value;

use super::seal::Sealer;
use crate::store::{DraftValue, OwnedRecord, Space, Store, StoreError};

/// The store cannot say what a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// Not now: it is loading, say. It is worth asking again.
    Now,
    /// What is on the disk cannot be read: only the operator can help.
    Damaged,
}

impl From<StoreError> for Unavailable {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Failed(_) => Self::Damaged,
            _ => Self::Now,
        }
    }
}

/// A value as a decision sees it. A secret that is stored stays closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The value; the data of a stored secret are those of its sealed form.
    pub value: Value,
    /// How it is stored; none while it is not. What is not touched is put back exactly so.
    pub stored: Option<DraftValue>,
}

impl From<Value> for Held {
    fn from(value: Value) -> Self {
        Self {
            value,
            stored: None,
        }
    }
}

/// Reads records for decisions.
#[derive(Clone, Debug)]
pub struct Records {
    /// The records.
    pub store: Arc<Store>,
    /// How handles fold.
    pub case: CaseRule,
    /// Opens sealed values.
    pub sealer: Sealer,
}

impl Records {
    /// The key of a handle as anybody writes it.
    #[must_use]
    pub fn key(&self, handle: &[u8]) -> Vec<u8> {
        let mut key = Vec::with_capacity(handle.len() + handle::PREFIX_SPACE.len());
        handle::canonical(handle, self.case, &mut key);
        key
    }

    /// The record under a key.
    ///
    /// # Errors
    /// The store cannot say.
    pub fn record(&self, key: &[u8]) -> Result<Option<OwnedRecord>, Unavailable> {
        Ok(self.store.get(Space::Handle, key)?)
    }

    /// Whether a prefix, given by its key, is homed.
    ///
    /// # Errors
    /// The store cannot say.
    pub fn is_homed(&self, key: &[u8]) -> Result<bool, Unavailable> {
        Ok(self.store.get(Space::Prefix, key)?.is_some())
    }

    /// Whether this node answers for the handle under `key`: its prefix is homed, or, for a prefix
    /// handle, a prefix it is derived from.
    ///
    /// # Errors
    /// The store cannot say.
    pub fn is_responsible(&self, key: &[u8]) -> Result<bool, Unavailable> {
        let Some((prefix, suffix)) = handle::split(key) else {
            return Ok(false);
        };
        if self.is_homed(&[handle::PREFIX_SPACE, prefix].concat())? {
            return Ok(true);
        }
        if !handle::is_prefix_handle(key) {
            return Ok(false);
        }
        let mut ancestor = Some(suffix);
        while let Some(prefix) = ancestor {
            if self.is_homed(&[handle::PREFIX_SPACE, prefix].concat())? {
                return Ok(true);
            }
            let dot = prefix.iter().rposition(|octet| *octet == b'.');
            ancestor = dot.and_then(|dot| prefix.get(..dot));
        }
        Ok(false)
    }

    /// The values of a record, for a decision about changing them.
    ///
    /// # Errors
    /// A value is damaged: the record must not be written again without it.
    pub fn held(&self, record: &OwnedRecord) -> Result<Vec<Held>, Unavailable> {
        let entries = record.entries();
        entries
            .map(|entry| {
                let wire = Bytes::copy_from_slice(entry.wire);
                let value = Value::decode(&wire).map_err(|_| Unavailable::Damaged)?;
                let stored = Some(DraftValue {
                    index: entry.index,
                    permissions: entry.permissions,
                    sealed: entry.sealed,
                    wire,
                });
                Ok(Held { value, stored })
            })
            .collect()
    }

    /// All values of a record that are well formed; secrets that cannot be opened are left out.
    #[must_use]
    pub fn values(&self, record: &OwnedRecord) -> Vec<Value> {
        let entries = record.entries();
        entries
            .filter_map(|entry| {
                let value = Value::decode(&Bytes::copy_from_slice(entry.wire)).ok()?;
                if entry.sealed {
                    self.sealer.open(&record.key, value)
                } else {
                    Some(value)
                }
            })
            .collect()
    }
}
