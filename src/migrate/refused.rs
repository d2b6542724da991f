//! What was refused, kept beside the file: a line of JSON for each, so that all of it is named, however often the migration
//! was interrupted and however much it is.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::report::{REFUSALS_MAX, Refusal};

/// What the name of a file is followed by.
const ENDING: &str = ".refused";
/// Handles are for those who run the node.
const MODE: u32 = 0o600;
/// What each line begins with, and nobody else's.
const BEGINS: &[u8] = b"{\"file\":";

/// The list of a file; it is made with the first refusal.
#[derive(Debug)]
pub struct Refused {
    path: PathBuf,
    file: Option<File>,
    /// Octets of it that are written.
    octets: u64,
}

impl Refused {
    /// The list of `input`, of which so many octets belong to what is settled; the rest goes, and is found out again. Gives
    /// the first refusals as well.
    ///
    /// # Errors
    /// It cannot be read or cut, or is not one.
    pub fn open(input: &Path, octets: u64) -> io::Result<(Self, Vec<Refusal>)> {
        let mut name = OsString::from(input);
        name.push(ENDING);
        let mut list = Self {
            path: PathBuf::from(name),
            file: None,
            octets,
        };
        let mut options = OpenOptions::new();
        // A link leads to what is not a list of this.
        options
            .read(true)
            .append(true)
            .custom_flags(nix::libc::O_NOFOLLOW);
        let file = match options.open(&list.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && octets == 0 => {
                return Ok((list, Vec::new()));
            }
            file => file?,
        };
        let mut lines = BufReader::new(&file);
        if !lines.fill_buf()?.starts_with(BEGINS) && file.metadata()?.len() > 0 {
            let text = "is no list of a migration, which would be written there; move it away";
            return Err(io::Error::other(text));
        }
        let lines = io::Read::take(lines, octets).lines().take(REFUSALS_MAX);
        let refusals: io::Result<Vec<Refusal>> = lines
            .map(|line| serde_json::from_str(&line?).map_err(io::Error::from))
            .collect();
        let refusals = refusals?;
        if octets == 0 {
            fs::remove_file(&list.path)?;
        } else {
            file.set_len(octets)?;
            list.file = Some(file);
        }
        Ok((list, refusals))
    }

    /// Where it is, if there is anything in it.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        (self.octets > 0).then(|| self.path.display().to_string())
    }

    /// Octets of it.
    #[must_use]
    pub const fn octets(&self) -> u64 {
        self.octets
    }

    /// Adds a refusal.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&mut self, refusal: &Refusal) -> io::Result<()> {
        let mut line = serde_json::to_vec(refusal)?;
        line.push(b'\n');
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut options = OpenOptions::new();
                options.append(true).create_new(true).mode(MODE);
                none.insert(options.open(&self.path)?)
            }
        };
        file.write_all(&line)?;
        self.octets += line.len() as u64;
        Ok(())
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// It cannot be.
    pub fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }
}
