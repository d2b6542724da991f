//! The head of the trail: its last synced entry, with a MAC by a key that follows from the node's.
//!
//! The chain alone shows no more than that it was not changed carelessly: whoever can write the
//! files can cut its end off, or compute all of it anew. The head shows that, too, unless the
//! node's key is theirs as well.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::registry::auth::hmac_sha256;
use crate::registry::keys::NodeKey;

/// The file beside the trail.
const FILE: &str = "audit.head";
/// What the key is derived for.
const PURPOSE: &[u8] = b"jiexi audit head 1";

/// An entry, as far as the next one refers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) sequence: u64,
    pub(super) hash: String,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            sequence: 0,
            hash: "0".repeat(64),
        }
    }
}

/// What stands in the file. Always equally long: it is written over in one piece.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// Twenty digits.
    sequence: String,
    hash: String,
    mac: String,
}

/// What was found in the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sealed {
    /// There is none.
    Missing,
    /// Not made with this key, or damaged.
    Wrong,
    /// The entry it names.
    Right(Head),
}

/// The file of a running node.
#[derive(Debug)]
pub(super) struct HeadFile {
    file: File,
    key: HeadKey,
}

#[derive(Clone)]
pub(super) struct HeadKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for HeadKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HeadKey(…)")
    }
}

impl HeadKey {
    /// That of a node.
    pub(super) fn of(key: &NodeKey) -> Self {
        Self(key.derive(PURPOSE))
    }

    fn mac(&self, head: &Head) -> Vec<u8> {
        hmac_sha256(
            &*self.0,
            format!("{}:{}", head.sequence, head.hash).as_bytes(),
        )
    }
}

impl HeadFile {
    pub(super) fn open(directory: &Path, key: &HeadKey) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        Ok(Self {
            file: options.open(directory.join(FILE))?,
            key: key.clone(),
        })
    }

    /// Names an entry that is on the disk.
    pub(super) fn write(&self, head: &Head) -> io::Result<()> {
        let line = Line {
            sequence: format!("{:020}", head.sequence),
            hash: head.hash.clone(),
            mac: hex::encode(self.key.mac(head)),
        };
        let text = serde_json::to_string(&line)? + "\n";
        self.file.write_all_at(text.as_bytes(), 0)
    }
}

/// Reads the file.
pub(super) fn read(directory: &Path, key: &HeadKey) -> io::Result<Sealed> {
    let text = match std::fs::read_to_string(directory.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Sealed::Missing),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(Sealed::Wrong),
        text => text?,
    };
    let head = serde_json::from_str::<Line>(&text).ok().and_then(|line| {
        let head = Head {
            sequence: line.sequence.parse().ok()?,
            hash: line.hash,
        };
        let mac = hex::decode(line.mac).ok()?;
        bool::from(key.mac(&head).ct_eq(&mac)).then_some(head)
    });
    Ok(head.map_or(Sealed::Wrong, Sealed::Right))
}
