//! How far the migration of a file is: kept beside it until all of it is carried out, so that one that was killed goes on.
//!
//! A group of changes is one commit of the store, and the position is another file: it says before a group which one is
//! under way. Of that one alone it is not known later whether it was made, and the records tell.
//!
//! Of several files each keeps its position until all are carried out: what was done with one is not done again when the
//! next one stops.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{self, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::report::Counts;
use crate::control::command::Standing;

/// What the name of a file is followed by.
const ENDING: &str = ".position";
/// It tells handles to nobody, but how far others are is nobody's business either.
const MODE: u32 = 0o600;

/// How far a file is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// xxh3-128 of the file, in hexadecimal: another file is not gone on with.
    pub input: String,
    /// The data directory of the node: another node has none of it.
    pub node: String,
    /// Where the store was before the group that was under way: a store that is not behind that has nothing of what was done.
    #[serde(default)]
    pub store: Standing,
    /// When it was kept, Unix seconds.
    #[serde(default)]
    pub time: u32,
    /// The last line whose step is settled.
    pub done: u64,
    /// The last line of the group that was under way; 0 when none was.
    #[serde(default)]
    pub applying: u64,
    /// Octets of the list of what was refused of the lines up to `done`.
    #[serde(default)]
    pub refused: u64,
    /// All of the file is settled; other files of the command are not.
    #[serde(default)]
    pub complete: bool,
    /// The command is done with all of its files, and their positions are being removed: those of the others, kept with the
    /// first one until the last of them is gone.
    #[serde(default, with = "names", skip_serializing_if = "BTreeMap::is_empty")]
    pub ended: BTreeMap<PathBuf, Self>,
    /// What came of the lines up to `done`.
    #[serde(default)]
    pub counts: Counts,
}

impl Position {
    /// The file with the position of `input`.
    #[must_use]
    pub fn path(input: &Path) -> PathBuf {
        let mut name = OsString::from(input);
        name.push(ENDING);
        PathBuf::from(name)
    }

    /// How far it came, for people.
    #[must_use]
    pub fn came_to(&self) -> String {
        match self.complete {
            true => "was done, and those of other files were interrupted".to_owned(),
            false => format!("was interrupted at line {}", self.done),
        }
    }

    /// Reads it; none when there is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(input: &Path) -> io::Result<Option<Self>> {
        match fs::read(Self::path(input)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes it: whole and durable, or not at all.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, input: &Path) -> io::Result<()> {
        let path = Self::path(input);
        let mut next = path.clone().into_os_string();
        next.push(".tmp");
        // What a killed run has left there, or a link that somebody else has put there, is not written through.
        let _ = fs::remove_file(&next);
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&next)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(next, &path)?;
        // Of the name as well: what was before it is older than the changes.
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
    }

    /// All of these files are carried out. Killed in the middle of this, [`Self::take_back`] has what was removed.
    ///
    /// # Errors
    /// They cannot be written or removed.
    pub fn end(inputs: &[PathBuf]) -> io::Result<()> {
        let Some((first, others)) = inputs.split_first() else {
            return Ok(());
        };
        if !others.is_empty() {
            let mut position = Self::read(first)?.unwrap_or_default();
            for input in others {
                if let Some(other) = Self::read(input)? {
                    position.ended.insert(path::absolute(input)?, other);
                }
            }
            position.write(first)?;
        }
        others.iter().try_for_each(|input| Self::remove(input))?;
        Self::remove(first)
    }

    /// What [`Self::end`] was killed in is as it was before it.
    ///
    /// # Errors
    /// They cannot be read or written.
    pub fn take_back(input: &Path) -> io::Result<()> {
        let Some(mut position) = Self::read(input)? else {
            return Ok(());
        };
        let ended = std::mem::take(&mut position.ended);
        if ended.is_empty() {
            return Ok(());
        }
        for (input, other) in ended {
            other.write(&input)?;
        }
        position.write(input)
    }

    fn remove(input: &Path) -> io::Result<()> {
        match fs::remove_file(Self::path(input)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Names of files as text: one that is none is written in hexadecimal, behind what no absolute path begins with.
mod names {
    use std::collections::BTreeMap;
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    use std::path::{Path, PathBuf};

    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::Position;

    const NO_TEXT: &str = "hex:";

    fn text(path: &Path) -> String {
        let octets = path.as_os_str().as_bytes();
        match path.to_str() {
            Some(text) => text.to_owned(),
            None => format!("{NO_TEXT}{}", hex::encode(octets)),
        }
    }

    pub(super) fn serialize<S: Serializer>(
        positions: &BTreeMap<PathBuf, Position>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_map(positions.iter().map(|(path, of)| (text(path), of)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<PathBuf, Position>, D::Error> {
        let named = BTreeMap::<String, Position>::deserialize(from)?;
        let path = |(name, of): (String, Position)| match name.strip_prefix(NO_TEXT) {
            Some(digits) => {
                let octets = hex::decode(digits).map_err(D::Error::custom)?;
                Ok((PathBuf::from(OsString::from_vec(octets)), of))
            }
            None => Ok((PathBuf::from(name), of)),
        };
        named.into_iter().map(path).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    /// Goal: what was under way when positions were being removed is brought back, whatever the files are called. Method: the
    /// first position as it is then, of files with names that are text and that are none.
    #[test]
    fn positions_are_brought_back_under_any_name() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &[u8]| directory.path().join(OsString::from_vec(name.to_vec()));
        let (first, others) = (file(b"\xFFone"), [file("泵".as_bytes()), file(b"two\xFE")]);
        let of = |done| Position {
            done,
            complete: true,
            ..Position::default()
        };
        let ended = others.iter().zip(2..);
        let position = Position {
            ended: ended.map(|(path, done)| (path.clone(), of(done))).collect(),
            ..of(1)
        };
        position.write(&first).unwrap();
        assert_eq!(Position::read(&first).unwrap(), Some(position));
        Position::take_back(&first).unwrap();
        for (path, done) in [&first].into_iter().chain(&others).zip(1..) {
            assert_eq!(Position::read(path).unwrap(), Some(of(done)), "{path:?}");
        }
        let all = [first, others[0].clone(), others[1].clone()];
        Position::end(&all).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
