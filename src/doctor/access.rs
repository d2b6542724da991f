//! Whether the node may use its own files: it reads and writes in its directories, and reads its key and site record. What
//! else lies in the data directory is nobody's business here: certificates are for others, and a disk has its lost+found.

use std::ffi::CString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, Gid, Uid, User, access, geteuid, getgrouplist};

use crate::config::Config;
use crate::owner;

/// To read, and to write.
const READ: u32 = 0o4;
const WRITE: u32 = 0o2;
/// To go into a directory.
const ENTER: u32 = 0o1;

/// Files that the node may not use.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Denied {
    /// The first of them.
    pub(super) path: PathBuf,
    /// How many more there are.
    pub(super) more: usize,
    /// The directory of the node that it is in.
    pub(super) place: PathBuf,
}

/// What the node may not use of its own.
pub(super) fn denied(config: &Config) -> Option<Denied> {
    let data = &config.node.data;
    let eyes = Eyes::of_node(data);
    let (key, site) = (config.node_key(), config.site_file());
    let lock = data.join("backup.lock");
    // What is in the data directory itself need not all be for the node; but it makes files there.
    let beside = [
        (data, READ | WRITE | ENTER),
        (&key, READ),
        (&site, READ),
        (&lock, READ | WRITE),
    ];
    let beside = beside
        .into_iter()
        .filter(|(path, needed)| eyes.miss(path, *needed))
        .map(|(path, _)| (path.clone(), data.clone()));
    let below = directories(config).into_iter().flat_map(|directory| {
        let place = match directory.starts_with(data) {
            true => data.clone(),
            false => directory.clone(),
        };
        let denied = eyes.denied_in(&directory);
        denied.into_iter().map(move |path| (path, place.clone()))
    });
    let mut all = beside.chain(below);
    let (path, place) = all.next()?;
    Some(Denied {
        path,
        more: all.count(),
        place,
    })
}

/// The directories that are the node's with everything in them.
fn directories(config: &Config) -> Vec<PathBuf> {
    let mut all = vec![
        config.store_dir(),
        config.audit_dir(),
        config.spool_dir(),
        config.jobs_dir(),
    ];
    if config.history.enabled {
        all.push(config.node.data.join(&config.history.directory));
    }
    all
}

/// Whose rights count.
enum Eyes {
    /// Those of this process.
    Own,
    /// Those of another user: root may use everything, and what is left by others is not the node's for all that.
    Of {
        /// The user.
        user: u32,
        /// All groups of it.
        groups: Vec<u32>,
    },
}

impl Eyes {
    /// Those of the node with these data.
    fn of_node(data: &Path) -> Self {
        match owner::node_of(data) {
            Some(found) if geteuid().is_root() && found.uid() != 0 => Self::Of {
                user: found.uid(),
                groups: groups(found.uid(), found.gid()),
            },
            _ => Self::Own,
        }
    }

    /// What of a directory, and below it, may not be read and written. The directory itself may be a link, to another disk.
    fn denied_in(&self, directory: &Path) -> Vec<PathBuf> {
        let mut denied = Vec::new();
        let mut waiting = vec![directory.to_path_buf()];
        while let Some(path) = waiting.pop() {
            let found = match path == directory {
                true => fs::metadata(&path),
                false => fs::symlink_metadata(&path),
            };
            let Ok(found) = found else {
                continue;
            };
            let enter = if found.is_dir() { ENTER } else { 0 };
            let is_own = found.is_dir() || found.is_file();
            if is_own && !self.may(&path, &found, READ | WRITE | enter) {
                denied.push(path);
            } else if found.is_dir() {
                let entries = fs::read_dir(&path).into_iter().flatten().flatten();
                waiting.extend(entries.map(|entry| entry.path()));
            }
        }
        denied
    }

    /// Whether a path is there and may not be used so.
    fn miss(&self, path: &Path, needed: u32) -> bool {
        fs::metadata(path).is_ok_and(|found| !self.may(path, &found, needed))
    }

    /// Whether a path may be used so.
    fn may(&self, path: &Path, found: &Metadata, needed: u32) -> bool {
        match self {
            Self::Own => access(path, flags(needed)) != Err(Errno::EACCES),
            Self::Of { user, groups } => {
                let shift = match found.uid() == *user {
                    true => 6,
                    false if groups.contains(&found.gid()) => 3,
                    false => 0,
                };
                (found.mode() >> shift) & needed == needed
            }
        }
    }
}

/// The groups of a user, and that of its directory, which the unit may have given it.
fn groups(user: u32, group: u32) -> Vec<u32> {
    let known = || {
        let user = User::from_uid(Uid::from_raw(user)).ok()??;
        let name = CString::new(user.name).ok()?;
        getgrouplist(&name, user.gid).ok()
    };
    let known = known().unwrap_or_default();
    known.into_iter().map(Gid::as_raw).chain([group]).collect()
}

fn flags(needed: u32) -> AccessFlags {
    let all = [
        (READ, AccessFlags::R_OK),
        (WRITE, AccessFlags::W_OK),
        (ENTER, AccessFlags::X_OK),
    ];
    let wanted = all.into_iter().filter(|(bit, _)| needed & bit != 0);
    wanted.map(|(_, flag)| flag).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Goal: as root the rights of the node's user are computed: as the owner, by a group, as anybody. Method: a user that
    /// is not who owns the file.
    #[test]
    fn rights_of_another_user() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "").unwrap();
        let whose = fs::metadata(&path).unwrap();
        let (owner, group) = (whose.uid(), whose.gid());
        let may = |mode: u32, user: u32, groups: &[u32], needed: u32| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let eyes = Eyes::Of {
                user,
                groups: groups.to_vec(),
            };
            eyes.may(&path, &fs::metadata(&path).unwrap(), needed)
        };
        let other = owner + 1;
        assert!(may(0o600, owner, &[], READ | WRITE));
        assert!(!may(0o077, owner, &[group], READ));
        assert!(!may(0o640, other, &[group + 1], READ));
        assert!(may(0o640, other, &[group], READ));
        assert!(!may(0o640, other, &[group], READ | WRITE));
        assert!(!may(0o706, other, &[group], READ));
        assert!(!may(0o644, other, &[], READ | WRITE));
        assert!(may(0o646, other, &[], READ | WRITE));
    }
}
