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
    /// 1, and another with each restore and promotion ([`next_epoch`]): journal entries of another epoch are not this
    /// store's.
    pub(crate) epoch: u64,
    /// Whose changes it takes, when it was opened.
    pub(crate) role: Role,
}

/// The epoch of a history that begins now where another one is left: that of a restored store, or of a standby that becomes
/// a primary. `known` is the greatest epoch that is known.
///
/// Greater than what is known, since the later of two histories is told by that. And no less than the time in seconds:
/// whoever else begins a history in the same place knows no more, and would come to the same number by counting. So two
/// histories have the same epoch only if they begin within one second, or by clocks that are wrong.
#[must_use]
pub fn next_epoch(known: u64, now_unix_seconds: u64) -> u64 {
    known.saturating_add(1).max(now_unix_seconds)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a new epoch is greater than those that are known, whatever the clock says, and differs from one that another
    /// second gives to the same history.
    #[test]
    fn epochs() {
        assert_eq!(next_epoch(1, 1_700_000_000), 1_700_000_000);
        assert_eq!(next_epoch(1_700_000_000, 1_700_000_000), 1_700_000_001);
        assert_eq!(
            next_epoch(1_700_000_007, 0),
            1_700_000_008,
            "a clock that is wrong"
        );
        assert_ne!(next_epoch(1, 1_700_000_000), next_epoch(1, 1_700_000_001));
        assert_eq!(next_epoch(u64::MAX, 0), u64::MAX);
    }
}
