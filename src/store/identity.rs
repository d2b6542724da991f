//! What a store is: format version, case rule, epoch, role. The file that says so is written last when a store is created,
//! so its presence says that the creation was finished.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs, io};

use jiexi_proto::handle::CaseRule;
use xxhash_rust::xxh3::xxh3_64;

use super::disk::Disk;
use super::error::StoreError;

/// The format of all files of a store taken together.
const FORMAT: u32 = 1;

/// Longest place of another store in a [`Role`], in bytes.
const PLACE_MAX: usize = 1024;

/// Whose changes a store takes. Another store is named by its place, a text for those who must go there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Its own.
    #[default]
    Primary,
    /// Those of the store that it is a copy of.
    Copy(Arc<str>),
    /// Its own, since it took the place of the one that it was a copy of.
    Successor(Arc<str>),
    /// None any more: another store took its place.
    Superseded {
        /// Which; empty when that is not known.
        by: Arc<str>,
        /// The epoch of that one.
        epoch: u64,
    },
}

impl Role {
    /// Whether changes of one's own are taken.
    #[must_use]
    pub const fn takes_changes(&self) -> bool {
        matches!(self, Self::Primary | Self::Successor(_))
    }

    /// The role in one word.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Primary | Self::Successor(_) => "primary",
            Self::Copy(_) => "standby",
            Self::Superseded { .. } => "superseded",
        }
    }

    /// Reads what stands behind `role = ` in the file.
    fn parse(text: &str) -> Option<Self> {
        let (word, rest) = text.split_once(' ')?;
        match word {
            "copy" => Some(Self::Copy(rest.into())),
            "successor" => Some(Self::Successor(rest.into())),
            "superseded" => {
                let (epoch, by) = rest.split_once(' ')?;
                Some(Self::Superseded {
                    by: by.into(),
                    epoch: epoch.parse().ok()?,
                })
            }
            _ => None,
        }
    }

    /// The line in the file; none for a store like any other.
    fn line(&self) -> String {
        match self {
            Self::Primary => String::new(),
            Self::Copy(of) => format!("role = copy {of}\n"),
            Self::Successor(of) => format!("role = successor {of}\n"),
            Self::Superseded { by, epoch } => format!("role = superseded {epoch} {by}\n"),
        }
    }

    /// Whether the place can stand in the file.
    fn is_sound(&self) -> bool {
        let place = match self {
            Self::Primary => return true,
            Self::Copy(place) | Self::Successor(place) | Self::Superseded { by: place, .. } => {
                place
            }
        };
        place.len() <= PLACE_MAX && !place.chars().any(|c| c.is_control() || c.is_whitespace())
    }
}

/// Where changes are made, for those who wanted to make one here.
impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary | Self::Successor(_) => f.write_str("this node is the primary"),
            Self::Copy(of) => write!(f, "this node is a standby: changes are made at {of}"),
            Self::Superseded { by, .. } if by.is_empty() => {
                f.write_str("another node took the place of this one: changes are made there")
            }
            Self::Superseded { by, .. } => write!(
                f,
                "another node took the place of this one: changes are made at {by}"
            ),
        }
    }
}

/// What a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// How handles fold.
    pub(crate) case: CaseRule,
    /// 1, and one more with each restore: journal entries of another epoch are not this store's.
    pub(crate) epoch: u64,
    /// Whose changes it takes, when it was opened.
    pub(crate) role: Role,
}

/// The file with the identity of the store in a directory.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join("identity")
}

impl Identity {
    /// Writes the identity, durably.
    pub(crate) fn write(&self, disk: &Disk, dir: &Path) -> Result<(), StoreError> {
        if !self.role.is_sound() {
            return Err(StoreError::Unavailable(
                "the place of the other node is too long, or has spaces in it",
            ));
        }
        let case = case_name(self.case);
        let text = format!(
            "jiexi store\nformat = {FORMAT}\ncase = {case}\nepoch = {}\n{}",
            self.epoch,
            self.role.line()
        );
        let sum = xxh3_64(text.as_bytes());
        disk.replace(
            &path(dir),
            format!("{text}checksum = {sum:016x}\n").as_bytes(),
        )
    }

    /// Reads the identity of the store in a directory.
    pub(crate) fn read(dir: &Path) -> Result<Self, StoreError> {
        let path = path(dir);
        let text = match fs::read(&path) {
            // What is no text has no right checksum either.
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NotInitialised {
                    path: dir.to_path_buf(),
                });
            }
            Err(error) => return Err(StoreError::io(&path, "read", error)),
        };
        let damaged = || {
            StoreError::damaged(
                &path,
                "the file is damaged",
                "take it from a backup, or restore a snapshot into a new directory with `jiexi store restore`",
            )
        };
        let content = checked(&text).ok_or_else(damaged)?;
        match field(content, "format").and_then(|format| format.parse().ok()) {
            Some(FORMAT) => parse(content).ok_or_else(damaged),
            Some(found) => Err(StoreError::Version { path, found }),
            None => Err(damaged()),
        }
    }
}

/// The value of a line `name = value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "))
}

/// The lines before the checksum, if it is right.
fn checked(text: &str) -> Option<&str> {
    let content = &text[..text.find("checksum = ")?];
    let right = format!("{:016x}", xxh3_64(content.as_bytes()));
    (field(text, "checksum")? == right).then_some(content)
}

fn parse(content: &str) -> Option<Identity> {
    let case = match field(content, "case")? {
        "whole" => CaseRule::Whole,
        "prefix" => CaseRule::Prefix,
        _ => return None,
    };
    Some(Identity {
        case,
        epoch: field(content, "epoch")?.parse().ok()?,
        role: match field(content, "role") {
            Some(role) => Role::parse(role)?,
            None => Role::Primary,
        },
    })
}

/// The name of a case rule in files.
pub(crate) fn case_name(case: CaseRule) -> &'static str {
    match case {
        CaseRule::Whole => "whole",
        CaseRule::Prefix => "prefix",
    }
}
