//! What a backup says about itself: a JSON file that is written when everything else is durable, so that its presence
//! says that the backup is whole.
//!
//! ```text
//! {"manifest": {…}, "sha256": "…"}       the checksum of the manifest as compact JSON, its fields in their order here
//! ```
//!
//! Format 2 is that of encrypted backups; one that is not encrypted is of format 1 as ever, so that older programs read it.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use jiexi_proto::handle::CaseRule;

use super::{BackupError, Watch, encryption::Encryption, failed, io_failed, is_of_file, of_place};
use crate::store::{StoreError, archive::Archive};

/// The format of a repository and all that is in it.
pub const FORMAT: u32 = 1;
/// The format of backups that are encrypted.
pub const FORMAT_ENCRYPTED: u32 = 2;
/// The name of the file.
pub const NAME: &str = "manifest.json";
/// The longest manifest that is read.
pub(super) const MANIFEST_MAX: u64 = 64 << 10;
/// Most files of a backup.
const FILES_MAX: usize = 16;
/// Octets read at once.
pub(super) const CHUNK: usize = 1 << 20;
/// What to do about damage.
pub(super) const REMEDY: &str =
    "bring the file back from another copy of the repository, or take a new backup";

/// What a backup has of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// All.
    Full,
    /// What changed since another backup.
    Increment,
}

impl Kind {
    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Increment => "increment",
        }
    }

    /// The name of the file with the records.
    #[must_use]
    pub const fn file(self) -> &'static str {
        match self {
            Self::Full => "records.snapshot",
            Self::Increment => "records.increment",
        }
    }
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its name, without directories.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// What is kept in its place, of an encrypted one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<Encrypted>,
}

/// An encrypted file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encrypted {
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The name of the backup, which is that of its directory.
    pub id: String,
    /// What it has.
    pub kind: Kind,
    /// Unix seconds: everything in it was acknowledged by then.
    pub created: u64,
    /// The version of the program that wrote it.
    pub program: String,
    /// The case rule of the store.
    pub case: String,
    /// The epoch of the store.
    pub epoch: u64,
    /// It has what came after this sequence; 0 for a full one.
    pub from: u64,
    /// The sequence whose state it leads to.
    pub sequence: u64,
    /// Records in that state.
    pub records: u64,
    /// Exclusive-or of their checksums, in hexadecimal.
    pub sum: String,
    /// SHA-256 of the public half of the key that the secrets are sealed with, if the node had one.
    pub key: Option<String>,
    /// The files.
    pub files: Vec<Member>,
    /// How they are encrypted, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
}

/// A manifest as it is in its file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    manifest: Manifest,
    sha256: String,
}

/// Only what says whether the rest can be read.
#[derive(Deserialize)]
struct Versioned {
    manifest: Version,
}

/// The format in a manifest.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

impl Manifest {
    /// The archive of the store that the backup has, as it was when it was written.
    ///
    /// # Errors
    /// When it is damaged, or not what the manifest says.
    pub fn archive(&self, directory: &Path) -> Result<Archive, BackupError> {
        let path = directory.join(self.kind.file());
        let archive = crate::store::archive::read(&path).map_err(|error| match &error {
            StoreError::Io { source, .. } if !is_of_file(source) => {
                BackupError::Place(error.to_string())
            }
            _ => error.into(),
        })?;
        let (sum, from) = (format!("{:016x}", archive.sum), self.from);
        let from = match self.kind {
            Kind::Full => archive.from,
            Kind::Increment => from,
        };
        let same = archive.epoch == self.epoch
            && archive.from == from
            && archive.sequence == self.sequence
            && archive.records == self.records
            && sum == self.sum
            && archive.case_name() == self.case;
        match same {
            true => Ok(archive),
            false => Err(failed(format_args!(
                "{}: it is not what the manifest beside it says; {REMEDY}",
                path.display()
            ))),
        }
    }

    /// The archive that the backup must have, by what the manifest says alone.
    ///
    /// # Errors
    /// When that makes no sense.
    pub fn promised(&self) -> Result<Archive, BackupError> {
        let unknown = |what: &str| failed(format_args!("backup {}: {what}; {REMEDY}", self.id));
        Ok(Archive {
            case: match self.case.as_str() {
                "whole" => CaseRule::Whole,
                "prefix" => CaseRule::Prefix,
                _ => return Err(unknown("its case rule is unknown")),
            },
            epoch: self.epoch,
            from: self.from,
            sequence: self.sequence,
            records: self.records,
            sum: u64::from_str_radix(&self.sum, 16).map_err(|_| unknown("its sum is no number"))?,
            created: self.created,
        })
    }

    /// The file with the records.
    ///
    /// # Errors
    /// There is none, which no sound manifest says.
    pub fn records(&self) -> Result<&Member, BackupError> {
        let mut files = self.files.iter();
        let found = files.find(|file| file.name == self.kind.file());
        found.ok_or_else(|| failed(format_args!("backup {} has no records; {REMEDY}", self.id)))
    }

    /// Octets of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The text of the file.
    pub(super) fn seal(&self) -> Result<Vec<u8>, BackupError> {
        let sha256 = self.checksum()?;
        let sealed = Sealed {
            manifest: self.clone(),
            sha256,
        };
        let mut text = serde_json::to_vec_pretty(&sealed).map_err(failed)?;
        text.push(b'\n');
        Ok(text)
    }

    fn checksum(&self) -> Result<String, BackupError> {
        let text = serde_json::to_vec(self).map_err(failed)?;
        Ok(hex::encode(Sha256::digest(text)))
    }

    /// Reads the manifest of the backup `id`, which is called `shown` in messages.
    ///
    /// # Errors
    /// When it is damaged, or of a later format.
    pub(super) fn read(id: &str, shown: &str, from: impl Read) -> Result<Self, BackupError> {
        let damaged = |what: &str| failed(format_args!("{shown}: {what}; {REMEDY}"));
        let mut text = Vec::new();
        from.take(MANIFEST_MAX + 1)
            .read_to_end(&mut text)
            .map_err(|error| BackupError::of_io(error, shown, "read"))?;
        if text.len() as u64 > MANIFEST_MAX {
            return Err(damaged("it is too long for a manifest"));
        }
        if let Some(format) = unknown_format(&text) {
            return Err(failed(format_args!(
                "{shown}: format {format} is not one this program knows; use the version that wrote it"
            )));
        }
        let Sealed { manifest, sha256 } =
            serde_json::from_slice(&text).map_err(|_| damaged("the manifest is damaged"))?;
        let right = manifest.checksum()? == sha256;
        match right && manifest.id == id && manifest.is_sound() {
            true => Ok(manifest),
            false => Err(damaged("the manifest is damaged")),
        }
    }

    /// Whether a manifest is of a format that this program does not know.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn is_foreign(shown: &str, from: impl Read) -> Result<bool, BackupError> {
        let mut text = Vec::new();
        from.take(MANIFEST_MAX)
            .read_to_end(&mut text)
            .map_err(|error| BackupError::of_io(error, shown, "read"))?;
        Ok(unknown_format(&text).is_some())
    }

    /// Whether its files are within its directory, and the records are among them.
    fn is_sound(&self) -> bool {
        let plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('/');
        self.files.len() <= FILES_MAX
            && self.files.iter().all(|file| plain(&file.name))
            && self.files.iter().any(|file| file.name == self.kind.file())
            && self.from <= self.sequence
            && match &self.encryption {
                Some(encryption) => {
                    let all = self.files.iter().all(|file| file.encrypted.is_some());
                    self.format == FORMAT_ENCRYPTED && encryption.is_sound() && all
                }
                None => self.format == FORMAT,
            }
    }
}

/// The format of a manifest that this program does not know.
fn unknown_format(text: &[u8]) -> Option<u32> {
    let Versioned {
        manifest: Version { format },
    } = serde_json::from_slice(text).ok()?;
    (![FORMAT, FORMAT_ENCRYPTED].contains(&format)).then_some(format)
}

impl Member {
    /// Reads a file to its end.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(path: &Path, watch: &dyn Watch) -> Result<Self, BackupError> {
        let mut file = File::open(path).map_err(|error| of_place(path, "open the file", &error))?;
        let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; CHUNK]);
        loop {
            let read = file
                .read(&mut buffer)
                .map_err(|error| of_place(path, "read", &error))?;
            let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
                break;
            };
            hash.update(piece);
            bytes += piece.len() as u64;
            watch.advance(piece.len() as u64);
        }
        Ok(Self {
            name: name(path),
            bytes,
            sha256: hex::encode(hash.finalize()),
            encrypted: None,
        })
    }

    /// Copies an open file into a new one, durable.
    ///
    /// # Errors
    /// When one cannot be read or the other not written.
    pub fn copy(
        mut from: File,
        source: &Path,
        to: &Path,
        watch: &dyn Watch,
    ) -> Result<Self, BackupError> {
        use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut out = options
            .open(to)
            .map_err(|error| io_failed(to, "create the file", &error))?;
        let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0, vec![0; CHUNK]);
        loop {
            let read = from
                .read(&mut buffer)
                .map_err(|error| io_failed(source, "read", &error))?;
            let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
                break;
            };
            hash.update(piece);
            out.write_all(piece)
                .map_err(|error| io_failed(to, "write", &error))?;
            bytes += piece.len() as u64;
            watch.advance(piece.len() as u64);
        }
        out.sync_all()
            .map_err(|error| io_failed(to, "sync", &error))?;
        Ok(Self {
            name: name(to),
            bytes,
            sha256: hex::encode(hash.finalize()),
            encrypted: None,
        })
    }
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
