//! What a store is: format version, case rule, epoch, role. The file that says so is written last when a store is created,
//! so its presence says that the creation was finished.

use std::path::{Path, PathBuf};
use std::{fs, io};

use jiexi_proto::handle::CaseRule;
use xxhash_rust::xxh3::xxh3_64;

use super::disk::Disk;
use super::error::StoreError;
use super::role::Role;

/// The format of all files of a store taken together.
const FORMAT: u32 = 1;

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
