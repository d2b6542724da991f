//! Whose changes a store takes.

use std::fmt;
use std::sync::Arc;

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
    pub(super) fn parse(text: &str) -> Option<Self> {
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
    pub(super) fn line(&self) -> String {
        match self {
            Self::Primary => String::new(),
            Self::Copy(of) => format!("role = copy {of}\n"),
            Self::Successor(of) => format!("role = successor {of}\n"),
            Self::Superseded { by, epoch } => format!("role = superseded {epoch} {by}\n"),
        }
    }

    /// Whether the place can stand in the file.
    pub(super) fn is_sound(&self) -> bool {
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
