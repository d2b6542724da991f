//! What was refused, kept beside the file: a line of JSON for each, so that all of it is named, however often the migration
//! was interrupted and however much it is.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::position::Position;
use super::report::{REFUSALS_MAX, Refusal};

/// What the name of a file is followed by.
const ENDING: &str = ".refused";
/// And that of the list of an earlier migration.
const ASIDE: &str = ".refused.1";
/// Handles are for those who run the node.
const MODE: u32 = 0o600;
/// What each line begins with, and nobody else's.
const BEGINS: &[u8] = b"{\"file\":";

/// The list of a file; it is made with the first refusal.
#[derive(Debug)]
pub struct Refused {
    path: PathBuf,
    file: Option<File>,
    /// Octets of it that this run or those before it know to be right.
    octets: u64,
    /// Lines of the file and what a killed run has written of them, behind that: they stay until they are met again, since
    /// nothing else tells later that they were refused.
    behind: VecDeque<(u64, Vec<u8>)>,
    /// Whether there is nothing else in it.
    exact: bool,
}

impl Refused {
    fn new(input: &Path) -> Self {
        Self {
            path: Self::path(input),
            file: None,
            octets: 0,
            behind: VecDeque::new(),
            exact: true,
        }
    }

    /// The file with the list of `input`.
    #[must_use]
    pub fn path(input: &Path) -> PathBuf {
        beside(input, ENDING)
    }

    /// The list of a migration that begins. That of an earlier one is put aside.
    ///
    /// # Errors
    /// There is something else there.
    pub fn begin(input: &Path) -> io::Result<Self> {
        let list = Self::new(input);
        let aside = beside(input, ASIDE);
        if find(&list.path)?.is_some() {
            find(&aside).map_err(|error| {
                io::Error::other(format!("would become {}: {error}", aside.display()))
            })?;
            fs::rename(&list.path, aside)?;
        }
        Ok(list)
    }

    /// The list of `input`, of which so many octets belong to what is settled, up to line `done`. Gives the first refusals of
    /// that as well.
    ///
    /// # Errors
    /// It cannot be read, or is not what it was.
    pub fn open(input: &Path, octets: u64, done: u64) -> io::Result<(Self, Vec<Refusal>)> {
        let mut list = Self {
            octets,
            ..Self::new(input)
        };
        let file = find(&list.path)?;
        let found = match &file {
            Some(file) => file.metadata()?.len(),
            None => 0,
        };
        let changed = || {
            let position = Position::path(input);
            let position = position.display();
            io::Error::other(format!(
                "is not what the migration has left: bring that back, or remove {position} to begin anew"
            ))
        };
        if found < octets {
            return Err(changed());
        }
        let Some(mut file) = file else {
            return Ok((list, Vec::new()));
        };
        let settled = BufReader::new(io::Read::take(&file, octets));
        let refusals: io::Result<Vec<Refusal>> = settled
            .lines()
            .take(REFUSALS_MAX)
            .map(|line| serde_json::from_str(&line?).map_err(|_| changed()))
            .collect();
        let refusals = refusals?;
        file.seek(SeekFrom::Start(octets))?;
        let mut kept = octets;
        for line in BufReader::new(&file).split(b'\n') {
            let mut line = line?;
            // The last one may be half a line.
            if let Ok(Refusal { line: number, .. }) = serde_json::from_slice(&line)
                && number > done
            {
                line.push(b'\n');
                kept += line.len() as u64;
                list.behind.push_back((number, line));
            }
        }
        list.exact = kept == found;
        list.file = Some(file);
        Ok((list, refusals))
    }

    /// Lines that a killed run was refused behind what is settled.
    pub fn behind(&self) -> impl Iterator<Item = u64> {
        self.behind.iter().map(|(line, _)| *line)
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
        let octets = line.len() as u64;
        while let Some((_, before)) = self.behind.pop_front_if(|(at, _)| *at <= refusal.line) {
            self.exact &= before == line;
            if self.exact {
                self.octets += octets;
                return Ok(());
            }
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let mut options = OpenOptions::new();
                options.append(true).create_new(true).mode(MODE);
                none.insert(options.open(&self.path)?)
            }
        };
        if !self.exact || !self.behind.is_empty() {
            file.set_len(self.octets)?;
            self.behind
                .iter()
                .for_each(|(_, behind)| line.extend(behind));
            self.exact = true;
        }
        file.write_all(&line)?;
        self.octets += octets;
        Ok(())
    }

    /// All is carried out: what a killed run was refused, and this one was not, goes.
    ///
    /// # Errors
    /// It cannot be cut.
    pub fn trim(&mut self) -> io::Result<()> {
        self.behind.clear();
        match &self.file {
            Some(_) if self.octets == 0 => fs::remove_file(&self.path),
            Some(file) => file.set_len(self.octets),
            None => Ok(()),
        }
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// It cannot be.
    pub fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), File::sync_data)
    }
}

fn beside(input: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(input);
    name.push(ending);
    PathBuf::from(name)
}

/// Opens a list that is there.
fn find(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    // A link leads to what is not a list of this.
    options
        .read(true)
        .append(true)
        .custom_flags(nix::libc::O_NOFOLLOW);
    let file = match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut begins = Vec::new();
    io::Read::take(&file, BEGINS.len() as u64).read_to_end(&mut begins)?;
    if !begins.is_empty() && begins != BEGINS {
        let text = "is no list of a migration, which would be written there; move it away";
        return Err(io::Error::other(text));
    }
    (&file).rewind()?;
    Ok(Some(file))
}
