//! Secrets at rest: `HS_SECKEY` values are encrypted before they reach journal, sled or snapshot.
//!
//! The key follows from the node's private key, so that a copy of the store alone tells no secret;
//! a backup is restored on another host with the node's key (`jiexi key escrow`). A sealed value is
//! an ordinary value whose data are: format 1, nonce 24, ciphertext with its tag. Handle and index
//! are authenticated with it: a sealed value cannot be moved to where somebody else may read it.

use std::fmt;

use bytes::Bytes;
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use jiexi_proto::value::{Value, ValueView};
use rsa::rand_core::TryCryptoRng;
use zeroize::Zeroizing;

use super::keys::NodeKey;
use crate::store::{Action, Batch, Change, DraftValue, Entry, Space};

/// The type whose data are secrets.
pub const SECRET_TYPE: &[u8] = b"HS_SECKEY";
/// The first octet of sealed data.
const FORMAT: u8 = 1;
/// Octets of a nonce: long enough to be drawn at random for ever.
const NONCE_SIZE: usize = 24;
/// Octets by which sealed data are longer: format, nonce, and the tag of the cipher.
pub const SEALED_MORE: usize = 1 + NONCE_SIZE + 16;
/// What the sealing key is derived for.
const PURPOSE: &[u8] = b"jiexi sealed values 1";

/// Seals and opens secrets with the key of this node.
#[derive(Clone)]
pub struct Sealer {
    key: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(…)")
    }
}

/// There is no randomness for a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRandomness;

/// Whether a value's data are a secret. Types ignore case, as filters do.
#[must_use]
pub fn is_secret(kind: &[u8]) -> bool {
    kind.eq_ignore_ascii_case(SECRET_TYPE)
}

impl Sealer {
    /// The sealer of the node with this key.
    #[must_use]
    pub fn new(key: &NodeKey) -> Self {
        Self {
            key: key.derive(PURPOSE),
        }
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.key).into())
    }

    /// A value as it is stored: its data sealed when they are a secret.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn draft<R: TryCryptoRng + ?Sized>(
        &self,
        key: &[u8],
        value: &Value,
        random: &mut R,
    ) -> Result<DraftValue, NoRandomness> {
        let sealed = is_secret(&value.kind);
        let mut wire = Vec::new();
        if sealed {
            let data = self.seal(key, value.index, &value.data, random)?;
            Value {
                data,
                ..value.clone()
            }
            .encode(&mut wire);
        } else {
            value.encode(&mut wire);
        }
        Ok(DraftValue {
            index: value.index,
            permissions: value.permissions.0,
            sealed,
            wire: Bytes::from(wire),
        })
    }

    fn seal<R: TryCryptoRng + ?Sized>(
        &self,
        key: &[u8],
        index: u32,
        data: &[u8],
        random: &mut R,
    ) -> Result<Bytes, NoRandomness> {
        let mut nonce = [0; NONCE_SIZE];
        random
            .try_fill_bytes(&mut nonce)
            .map_err(|_| NoRandomness)?;
        let place = place(key, index);
        let payload = Payload {
            msg: data,
            aad: &place,
        };
        let ciphertext = self
            .cipher()
            .encrypt(&XNonce::from(nonce), payload)
            .map_err(|_| NoRandomness)?;
        Ok(Bytes::from([&[FORMAT][..], &nonce, &ciphertext].concat()))
    }

    /// A sealed value in clear; none when it was sealed by another node or for another place.
    #[must_use]
    pub fn open(&self, key: &[u8], value: Value) -> Option<Value> {
        let (&FORMAT, rest) = value.data.split_first()? else {
            return None;
        };
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_SIZE>()?;
        let place = place(key, value.index);
        let payload = Payload {
            msg: ciphertext,
            aad: &place,
        };
        let data = self.cipher().decrypt(&XNonce::from(*nonce), payload).ok()?;
        Some(Value {
            data: Bytes::from(data),
            ..value
        })
    }

    /// Seals every secret of a batch that is not sealed yet: for records that come from files.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn seal_batch<R: TryCryptoRng + ?Sized>(
        &self,
        batch: &mut Batch,
        random: &mut R,
    ) -> Result<(), NoRandomness> {
        let mut changes = batch.changes.iter_mut();
        changes.try_for_each(|change| self.seal_change(change, random))
    }

    /// Seals every secret of a change that is not sealed yet.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn seal_change<R: TryCryptoRng + ?Sized>(
        &self,
        change: &mut Change,
        random: &mut R,
    ) -> Result<(), NoRandomness> {
        let (Space::Handle, Action::Put(draft)) = (change.space, &mut change.action) else {
            return Ok(());
        };
        for value in draft
            .values
            .iter_mut()
            .filter(|value| is_clear_secret(value))
        {
            if let Ok(clear) = Value::decode(&value.wire) {
                *value = self.draft(&change.key, &clear, random)?;
            }
        }
        Ok(())
    }

    /// The wire form of a stored value in clear; none when it was sealed by another node.
    #[must_use]
    pub fn open_entry(&self, key: &[u8], entry: &Entry<'_>) -> Option<Vec<u8>> {
        if !entry.sealed {
            return Some(entry.wire.to_vec());
        }
        let value = Value::decode(&Bytes::copy_from_slice(entry.wire)).ok()?;
        let mut wire = Vec::new();
        self.open(key, value)?.encode(&mut wire);
        Some(wire)
    }
}

/// Whether a change would bring a secret into the store as it is.
#[must_use]
pub fn has_clear_secret(change: &Change) -> bool {
    match (change.space, &change.action) {
        (Space::Handle, Action::Put(draft)) => draft.values.iter().any(is_clear_secret),
        _ => false,
    }
}

fn is_clear_secret(value: &DraftValue) -> bool {
    !value.sealed && ValueView::split(&value.wire).is_ok_and(|(view, _)| is_secret(view.kind))
}

/// What is authenticated with a secret: where it belongs.
fn place(key: &[u8], index: u32) -> Vec<u8> {
    [&index.to_be_bytes()[..], key].concat()
}
