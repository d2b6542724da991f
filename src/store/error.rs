//! Why the store cannot do something, for people: the file, what is wrong with it, and the remedy.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiexi_proto::handle::CaseRule;

/// Why an operation on the store failed.
#[derive(Debug)]
pub enum StoreError {
    /// Another process has the directory.
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// There is no store here, or its creation was not finished.
    NotInitialised {
        /// The directory.
        path: PathBuf,
    },
    /// There is something here already.
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The store was created with the other case rule.
    CaseMismatch {
        /// The file that says so.
        path: PathBuf,
        /// The rule of the store.
        stored: CaseRule,
        /// The rule that was asked for.
        asked: CaseRule,
    },
    /// The files were written by another version of this program.
    Version {
        /// The file that says so.
        path: PathBuf,
        /// Its format version.
        found: u32,
    },
    /// A file is damaged and the rest does not suffice to heal it.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What a person can do.
        remedy: String,
    },
    /// The operating system refused something.
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// The store is still loading and does not know yet.
    Loading,
    /// Loading failed; the message is that of the error that stopped it.
    Failed(Arc<str>),
    /// The store is closed.
    Closed,
    /// Not possible now.
    Unavailable(&'static str),
}

impl StoreError {
    /// An operating system error at `path`.
    pub(crate) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io {
            path: path.to_path_buf(),
            action,
            source,
        }
    }

    /// Damage that cannot be healed.
    pub(crate) fn damaged(path: &Path, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_path_buf(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// Whether this user may not use a file. That says nothing about what is in it, so nothing else may be tried in its
    /// place: the next way could do without changes that are in there.
    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }

    /// Whether the cause is a full disk.
    pub(crate) fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_disk_full(source))
    }
}

/// Whether an error says that there is no space, or no quota, left.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked { path } => {
                write!(
                    f,
                    "{}: another process has this store open; stop it first",
                    path.display()
                )
            }
            Self::NotInitialised { path } => write!(
                f,
                "{}: no store here; `jiexi init` makes a node in an empty directory, `jiexi backup restore` brings one back",
                path.display()
            ),
            Self::NotEmpty { path } => {
                write!(
                    f,
                    "{}: the directory is not empty; choose another one",
                    path.display()
                )
            }
            Self::CaseMismatch {
                path,
                stored,
                asked,
            } => write!(
                f,
                "{}: the store was created with case = \"{stored}\" and cannot be opened with case = \"{}\"; write \
                 case = \"{stored}\" below [store] into the configuration",
                path.display(),
                case_name(*asked),
                stored = case_name(*stored)
            ),
            Self::Version { path, found } => write!(
                f,
                "{}: format version {found} is not one this program knows; use the version that wrote it",
                path.display()
            ),
            Self::Damaged { path, what, remedy } => {
                write!(f, "{}: {what}; {remedy}", path.display())
            }
            Self::Io { path, action, .. } if self.is_forbidden() => write!(
                f,
                "{}: this user may not {action}: {}",
                path.display(),
                crate::owner::advice(path)
            ),
            Self::Io {
                path,
                action,
                source,
            } => {
                write!(f, "{}: cannot {action}: {source}", path.display())
            }
            Self::Loading => f.write_str("the store is still loading"),
            Self::Failed(message) => f.write_str(message),
            Self::Closed => f.write_str("the store is closed"),
            Self::Unavailable(why) => f.write_str(why),
        }
    }
}

/// A case rule as the configuration names it.
const fn case_name(case: CaseRule) -> &'static str {
    match case {
        CaseRule::Whole => "whole",
        CaseRule::Prefix => "prefix",
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: an action of the system that is forbidden reads as one that fails in another way.
    #[test]
    fn what_is_forbidden_is_a_sentence() {
        let told = |kind: io::ErrorKind| {
            StoreError::io(Path::new("/"), "open the file", io::Error::from(kind)).to_string()
        };
        let forbidden = told(io::ErrorKind::PermissionDenied);
        assert!(
            forbidden.starts_with("/: this user may not open the file: "),
            "{forbidden}"
        );
        let missing = told(io::ErrorKind::NotFound);
        assert!(
            missing.starts_with("/: cannot open the file: "),
            "{missing}"
        );
    }
}
