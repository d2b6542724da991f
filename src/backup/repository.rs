//! A repository: backups in their place, of which each is whole or none, and what is in them as files of this machine.
//!
//! In a directory, the files of backups that are not encrypted are used where they are. What is encrypted, or elsewhere,
//! is fetched into a scratch directory: checked and decrypted on the way, a piece at a time. There it stays until it is
//! released or the repository is closed. What is written there is made in the scratch directory likewise, and put in its
//! place as a stream.

use std::{
    cell::OnceCell,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use super::{
    BackupError, Watch,
    encryption::{self, Encryption, Keys, Lock, OpenError},
    failed, io_failed,
    manifest::{self, CHUNK, Encrypted, Kind, Manifest, Member, REMEDY},
    of_place,
    place::{Location, Place, Put},
    scratch::{self, Scratch},
    shown_time,
};
use crate::store::archive::Archive;

/// What the mark of a repository says.
const MARK: &str = "jiexi backups, format 1\n";
/// Most backups of one second.
const IDS_MAX: u32 = 1_000;

/// What a repository is used with.
#[derive(Debug, Default)]
pub struct Access {
    /// Whom new backups are encrypted for; nobody: they are not.
    pub lock: Option<Lock>,
    /// What opens those that are encrypted.
    pub keys: Keys,
    /// Where the scratch directory is made; otherwise where the system has such.
    pub scratch: Option<PathBuf>,
    /// A file of the node, locked while it is backed up to where nothing can be locked.
    pub beside: Option<PathBuf>,
}

/// See the module.
#[derive(Debug)]
pub struct Repository {
    place: Box<dyn Place>,
    access: Access,
    scratch: OnceCell<Scratch>,
}

/// What is in a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The backups, oldest first.
    pub whole: Vec<Manifest>,
    /// Names of backups whose manifest is damaged, and what is wrong.
    pub damaged: Vec<(String, String)>,
    /// Names of backups that were not completed.
    pub unfinished: Vec<String>,
}

/// A backup that is being written.
#[derive(Debug)]
pub struct Draft {
    /// Its name.
    pub id: String,
    /// Where its files are made, if they are not copied.
    pub directory: PathBuf,
    /// Whether that is where they stay.
    pub direct: bool,
}

impl Repository {
    /// The repository at a place.
    ///
    /// # Errors
    /// There is none.
    pub fn open(location: &Location, access: Access) -> Result<Self, BackupError> {
        let place = location.place()?;
        if place.mark()?.is_none() {
            return Err(BackupError::NotFound(format!(
                "{}: no backups here; `jiexi backup create` begins a repository",
                place.shown("")
            )));
        }
        Self::of(place, access)
    }

    /// The repository at a place; a new one when there is nothing.
    ///
    /// # Errors
    /// There is something else, or it cannot be written.
    pub fn open_or_create(location: &Location, access: Access) -> Result<Self, BackupError> {
        let place = location.place()?;
        if place.mark()?.is_none() {
            place.found(MARK.as_bytes())?;
        }
        Self::of(place, access)
    }

    fn of(place: Box<dyn Place>, mut access: Access) -> Result<Self, BackupError> {
        if let Some(lock) = &access.lock {
            access.keys.add_lock(lock);
        }
        match place.mark()? {
            Some(mark) if mark == MARK.as_bytes() => Ok(Self {
                place,
                access,
                scratch: OnceCell::new(),
            }),
            _ => Err(failed(format_args!(
                "{}: not the mark of a repository that this program knows; use the version that wrote it",
                place.shown("jiexi-backups")
            ))),
        }
    }

    /// What it is called.
    #[must_use]
    pub fn shown(&self) -> String {
        self.place.shown("")
    }

    /// The right to write, until the file is closed.
    ///
    /// # Errors
    /// Somebody else has it.
    pub fn lock(&self) -> Result<Option<File>, BackupError> {
        self.place.lock(self.access.beside.as_deref())
    }

    /// That nothing is removed, until the file is closed: for whoever reads. Backups are written beside it.
    ///
    /// # Errors
    /// Backups are being removed.
    pub fn reading(&self) -> Result<Option<File>, BackupError> {
        self.place.reading()
    }

    /// That nobody reads, likewise: for whoever removes.
    ///
    /// # Errors
    /// Somebody does.
    pub fn alone(&self) -> Result<Option<File>, BackupError> {
        self.place.alone()
    }

    /// What is here.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn list(&self) -> Result<Listing, BackupError> {
        let mut listing = Listing::default();
        for found in self.place.list()? {
            if !found.complete {
                listing.unfinished.push(found.id);
                continue;
            }
            match self.manifest(&found.id) {
                Ok(manifest) => listing.whole.push(manifest),
                Err(error @ BackupError::Place(_)) => return Err(error),
                Err(_) if self.is_gone(&found.id)? => {}
                Err(error) => listing.damaged.push((found.id, error.to_string())),
            }
        }
        // Of one second, an increment is from before the full backup that leads to the same sequence.
        let place = |manifest: &Manifest| {
            let order = (manifest.created, manifest.epoch, manifest.sequence);
            (order, manifest.kind == Kind::Full)
        };
        listing
            .whole
            .sort_by(|a, b| (place(a), &a.id).cmp(&(place(b), &b.id)));
        listing.damaged.sort();
        listing.unfinished.sort();
        Ok(listing)
    }

    /// Whether a backup that was listed is none any more: where nothing can be locked, backups may be removed beside those who
    /// read.
    fn is_gone(&self, id: &str) -> Result<bool, BackupError> {
        match self.place.directory() {
            // It loses its name first: one that is there and lacks its manifest is damaged.
            Some(directory) => {
                let path = directory.join(id);
                match path.symlink_metadata() {
                    Ok(_) => Ok(false),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
                    Err(error) => Err(of_place(&path, "look at the directory", &error)),
                }
            }
            None => Ok(self.place.length(id, manifest::NAME)?.is_none()),
        }
    }

    /// Which of these backups were removed since they were listed.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn removed<'l>(
        &self,
        backups: impl Iterator<Item = &'l Manifest>,
    ) -> Result<Vec<String>, BackupError> {
        let mut removed = Vec::new();
        for backup in backups {
            if self.is_gone(&backup.id)? {
                removed.push(backup.id.clone());
            }
        }
        Ok(removed)
    }

    fn manifest(&self, id: &str) -> Result<Manifest, BackupError> {
        let from = self.place.get(id, manifest::NAME)?;
        Manifest::read(id, &self.shown_member(id, manifest::NAME), from)
    }

    /// Whether the manifest of a backup is of a format that this program does not know. One that is missing is not.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn is_foreign(&self, id: &str) -> Result<bool, BackupError> {
        if self.place.length(id, manifest::NAME)?.is_none() {
            return Ok(false);
        }
        let from = self.place.get(id, manifest::NAME)?;
        Manifest::is_foreign(&self.shown_member(id, manifest::NAME), from)
    }

    /// Whether the records of a backup are encrypted, by their names: where its manifest does not say it.
    ///
    /// # Errors
    /// They cannot be looked at.
    pub fn is_sealed(&self, id: &str) -> Result<bool, BackupError> {
        for kind in [Kind::Full, Kind::Increment] {
            let name = format!("{}{}", kind.file(), encryption::SUFFIX);
            if self.place.length(id, &name)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What a backup is called.
    #[must_use]
    pub fn shown_backup(&self, id: &str) -> String {
        self.place.shown(id)
    }

    fn shown_member(&self, id: &str, name: &str) -> String {
        self.place.shown(&format!("{id}/{name}"))
    }

    // ------------------------------------------------------------------------------------------------- writing

    /// Removes what interrupted backups have left. The caller has the lock. The names of those that are gone; and what stays
    /// of others, and why.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn sweep(&self, listing: &Listing) -> Result<(Vec<String>, Vec<String>), BackupError> {
        let (mut removed, mut left) = (Vec::new(), Vec::new());
        for id in &listing.unfinished {
            match self.place.sweep(id)? {
                None => removed.push(id.clone()),
                Some(stays) => left.push(stays),
            }
        }
        Ok((removed, left))
    }

    /// Begins a backup.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn begin(&self, kind: Kind, now: u64) -> Result<Draft, BackupError> {
        let compact: String = shown_time(now)
            .chars()
            .filter(|sign| sign.is_ascii_alphanumeric())
            .collect();
        for number in 1..=IDS_MAX {
            let mut id = format!("{compact}-{}", kind.name());
            if number > 1 {
                id = format!("{id}-{number}");
            }
            if !self.place.begin(&id)? {
                continue;
            }
            let direct = self.place.draft(&id);
            return match direct.filter(|_| self.access.lock.is_none()) {
                Some(directory) => Ok(Draft {
                    id,
                    directory,
                    direct: true,
                }),
                None => Ok(Draft {
                    directory: self.scratch(&format!("{id}.new"))?,
                    id,
                    direct: false,
                }),
            };
        }
        Err(failed(format_args!(
            "{}: too many backups of one second",
            self.shown()
        )))
    }

    /// Takes a file that was made in the directory of a draft.
    ///
    /// # Errors
    /// It cannot be read, or written.
    pub fn keep(
        &self,
        draft: &Draft,
        path: &Path,
        watch: &dyn Watch,
    ) -> Result<Member, BackupError> {
        if draft.direct {
            return Member::of(path, watch);
        }
        let file = File::open(path).map_err(|error| io_failed(path, "open the file", &error))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let member = self.copy(draft, file, path, &name, watch)?;
        fs::remove_file(path).map_err(|error| io_failed(path, "remove", &error))?;
        Ok(member)
    }

    /// Copies an open file into a draft, under a name.
    ///
    /// # Errors
    /// One cannot be read, or the other not written.
    pub fn copy(
        &self,
        draft: &Draft,
        mut from: File,
        source: &Path,
        name: &str,
        watch: &dyn Watch,
    ) -> Result<Member, BackupError> {
        if draft.direct {
            return Member::copy(from, source, &draft.directory.join(name), watch);
        }
        let length = from.metadata();
        let length = length.map_err(|error| io_failed(source, "read the size", &error))?;
        let mut plain = Hashing::new(&mut from);
        let encrypted = match &self.access.lock {
            None => {
                let mut put = self.place.put(&draft.id, name, length.len())?;
                self.pump(&mut plain, source, &mut put, (&draft.id, name), watch)?;
                put.finish()?;
                None
            }
            Some(lock) => {
                let kept = format!("{name}{}", encryption::SUFFIX);
                let put = self
                    .place
                    .put(&draft.id, &kept, Lock::length_max(length.len()))?;
                let shown = self.shown_member(&draft.id, &kept);
                let failed = |error| BackupError::of_io(error, &shown, "write");
                let mut out = lock.wrap(HashingPut::new(put)).map_err(failed)?;
                self.pump(&mut plain, source, &mut out, (&draft.id, &kept), watch)?;
                Some(out.finish().map_err(failed)?.finish()?)
            }
        };
        let (bytes, sha256) = plain.finish();
        Ok(Member {
            name: name.to_owned(),
            bytes,
            sha256,
            encrypted,
        })
    }

    fn pump(
        &self,
        from: &mut dyn Read,
        source: &Path,
        to: &mut dyn Write,
        (id, name): (&str, &str),
        watch: &dyn Watch,
    ) -> Result<(), BackupError> {
        let unread = |error| io_failed(source, "read", &error);
        let unwritten = |error| BackupError::of_io(error, &self.shown_member(id, name), "write");
        move_all((from, &unread), (to, &unwritten), watch)
    }

    /// How backups written from now on are encrypted.
    #[must_use]
    pub fn encryption(&self) -> Option<Encryption> {
        self.access.lock.as_ref().map(Lock::encryption)
    }

    /// Completes a backup: everything that the manifest names is durable before the manifest is there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn complete(&self, draft: &Draft, manifest: &Manifest) -> Result<(), BackupError> {
        self.place.complete(&draft.id, &manifest.seal()?)
    }

    /// Removes a backup that has nothing in it.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn abandon(&self, draft: &Draft) -> Result<(), BackupError> {
        self.place.sweep(&draft.id).map(drop)
    }

    /// Removes a backup that did not succeed, as far as that can be; else the next one does it.
    pub fn give_up(&self, draft: &Draft, why: &BackupError) {
        // Of a store elsewhere that does not answer there is nothing to be had but another long wait.
        if self.place.directory().is_some() || !matches!(why, BackupError::Place(_)) {
            drop(self.abandon(draft));
        }
    }

    /// Removes a backup: first its name. The caller has the lock. What stays of it, and why.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, id: &str) -> Result<Option<String>, BackupError> {
        self.place.remove(id)
    }

    // ------------------------------------------------------------------------------------------------- reading

    /// A directory in the scratch directory.
    fn scratch(&self, name: &str) -> Result<PathBuf, BackupError> {
        let scratch = match self.scratch.get() {
            Some(scratch) => scratch,
            None => {
                let parent = self.access.scratch.clone();
                let parent = parent.unwrap_or_else(std::env::temp_dir);
                let made = Scratch::new(scratch::OF_REPOSITORY, &parent)?;
                self.scratch.get_or_init(|| made)
            }
        };
        let path = scratch.path().join(name);
        fs::create_dir_all(&path)
            .map_err(|error| BackupError::of_scratch(&path, "create the directory", &error))?;
        Ok(path)
    }

    /// Where the files of a backup lie as they are, if they do.
    fn direct(&self, backup: &Manifest) -> Option<PathBuf> {
        let directory = self.place.directory()?;
        (backup.encryption.is_none()).then(|| directory.join(&backup.id))
    }

    /// Whether what was given can open a backup, as far as that can be seen at once. A backup that is not encrypted is
    /// open to all.
    ///
    /// # Errors
    /// It cannot.
    pub fn expect_key(&self, backup: &Manifest) -> Result<(), BackupError> {
        let Some(encryption) = &backup.encryption else {
            return Ok(());
        };
        self.access.keys.expect(&backup.id, encryption)?;
        // A passphrase is seen to be right where that costs least.
        match backup.files.iter().min_by_key(|file| file.bytes) {
            Some(smallest) => match self.file(backup, smallest, &Unwatched) {
                Err(error) if error.is_elsewhere() => Err(error),
                // Damage is for those who look for it.
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// Whether whoever new backups are encrypted for can open this one: what cannot be opened is not to be continued.
    #[must_use]
    pub fn is_open_to_later(&self, backup: &Manifest) -> bool {
        let encryption = backup.encryption.as_ref();
        encryption.is_none_or(|encryption| encryption.is_open_to(self.encryption().as_ref()))
    }

    /// Whether the passphrase of new backups opens this one, if it has a passphrase.
    ///
    /// # Errors
    /// That cannot be seen.
    pub fn is_of_passphrase(&self, backup: &Manifest) -> Result<bool, BackupError> {
        let encryption = backup.encryption.as_ref();
        if !encryption.is_some_and(Encryption::has_passphrase) {
            return Ok(true);
        }
        match self.expect_key(backup) {
            Ok(()) => Ok(true),
            Err(BackupError::Key(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether a backup can be read without what was not given.
    #[must_use]
    pub fn is_open(&self, backup: &Manifest) -> bool {
        backup.encryption.is_none() || !self.access.keys.is_empty()
    }

    /// A file of a backup, as a file of this machine; what was fetched for it is right.
    ///
    /// # Errors
    /// It cannot be fetched, opened or written, or is damaged.
    pub fn file(
        &self,
        backup: &Manifest,
        member: &Member,
        watch: &dyn Watch,
    ) -> Result<PathBuf, BackupError> {
        if let Some(directory) = self.direct(backup) {
            return Ok(directory.join(&member.name));
        }
        let path = self.scratch(&backup.id)?.join(&member.name);
        if path.exists() {
            return Ok(path);
        }
        let fetching = path.with_extension("fetching");
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        let mut out = options
            .open(&fetching)
            .map_err(|error| BackupError::of_scratch(&fetching, "create the file", &error))?;
        self.read_member(backup, member, &mut out, &fetching, watch)?;
        fs::rename(&fetching, &path)
            .map_err(|error| BackupError::of_scratch(&fetching, "rename", &error))?;
        Ok(path)
    }

    /// The file with the records of a backup, likewise.
    ///
    /// # Errors
    /// As [`Self::file`].
    pub fn records(&self, backup: &Manifest) -> Result<PathBuf, BackupError> {
        self.file(backup, backup.records()?, &Unwatched)
    }

    /// Removes what was fetched of a backup.
    pub fn release(&self, backup: &Manifest) {
        if let Some(scratch) = self.scratch.get() {
            // It goes with the scratch directory at the latest.
            drop(fs::remove_dir_all(scratch.path().join(&backup.id)));
        }
    }

    /// Reads a member through checksums and decryption.
    fn read_member(
        &self,
        backup: &Manifest,
        member: &Member,
        out: &mut dyn Write,
        path: &Path,
        watch: &dyn Watch,
    ) -> Result<(), BackupError> {
        let Some(kept) = &member.encrypted else {
            let shown = self.shown_member(&backup.id, &member.name);
            let mut from = Hashing::new(self.place.get(&backup.id, &member.name)?);
            pour(&mut from, &shown, out, path, watch)?;
            return compare(&shown, from.finish(), (member.bytes, &member.sha256));
        };
        let name = format!("{}{}", member.name, encryption::SUFFIX);
        let shown = self.shown_member(&backup.id, &name);
        let mut from = Hashing::new(self.place.get(&backup.id, &name)?);
        let opened = self.access.keys.open(&mut from).map(Hashing::new);
        let poured = opened
            .map(|mut plain| pour(&mut plain, &shown, out, path, watch).map(|()| plain.finish()));
        // To its end: whether it is as it was written comes before everything that may be wrong with it.
        if !matches!(&poured, Ok(Err(error)) if error.is_elsewhere()) {
            pour(&mut from, &shown, &mut io::sink(), path, &Unwatched)?;
            compare(&shown, from.finish(), (kept.bytes, &kept.sha256))?;
        }
        let damaged = || failed(format_args!("{shown}: it cannot be decrypted; {REMEDY}"));
        match poured {
            Ok(plain) => compare(&shown, plain?, (member.bytes, &member.sha256)),
            Err(OpenError::Key) => Err(BackupError::Key(format!(
                "{shown}: neither identity nor passphrase open it; nothing was written; bring the right one (both \
                 options may be repeated)"
            ))),
            Err(OpenError::Work) => Err(BackupError::Key(format!(
                "{shown}: deriving its key from a passphrase takes more memory than this program allows itself; \
                 decrypt it with `age`"
            ))),
            Err(OpenError::Io(error)) => Err(BackupError::of_io(error, &shown, "read")),
            Err(OpenError::Damaged) => Err(damaged()),
        }
    }

    /// Reads every file of a backup and compares length and checksum; what is wrong, one line each. Of one that is
    /// encrypted and not open, what is kept is compared.
    ///
    /// # Errors
    /// Where it is cannot be asked, or what was given does not open it.
    pub fn check(&self, backup: &Manifest, watch: &dyn Watch) -> Result<Vec<String>, BackupError> {
        check_each(backup, |member| {
            match self.direct(backup).is_none() && self.is_open(backup) {
                true => self.file(backup, member, watch).map(drop),
                false => self.check_kept_member(backup, member, watch),
            }
        })
    }

    /// As [`Self::check`], of the files as they are kept: nothing is opened, and nothing stays on this machine.
    ///
    /// # Errors
    /// Where it is cannot be asked.
    pub fn check_kept(
        &self,
        backup: &Manifest,
        watch: &dyn Watch,
    ) -> Result<Vec<String>, BackupError> {
        check_each(backup, |member| {
            self.check_kept_member(backup, member, watch)
        })
    }

    fn check_kept_member(
        &self,
        backup: &Manifest,
        member: &Member,
        watch: &dyn Watch,
    ) -> Result<(), BackupError> {
        if let Some(directory) = self.direct(backup) {
            return check_file(&directory.join(&member.name), member, watch);
        }
        let (name, wanted) = match &member.encrypted {
            Some(kept) => (
                format!("{}{}", member.name, encryption::SUFFIX),
                (kept.bytes, kept.sha256.as_str()),
            ),
            None => (member.name.clone(), (member.bytes, member.sha256.as_str())),
        };
        let shown = self.shown_member(&backup.id, &name);
        let mut from = Hashing::new(self.place.get(&backup.id, &name)?);
        pour(&mut from, &shown, &mut io::sink(), Path::new(""), watch)?;
        compare(&shown, from.finish(), wanted)
    }

    /// The archive of a backup as it is to be continued. It is seen that all files are there, in their lengths; in a
    /// directory it is looked at, too.
    ///
    /// # Errors
    /// It cannot be relied on; or cannot be asked for.
    pub fn archive(&self, backup: &Manifest) -> Result<Archive, BackupError> {
        for member in &backup.files {
            let (name, bytes) = match &member.encrypted {
                Some(kept) => (format!("{}{}", member.name, encryption::SUFFIX), kept.bytes),
                None => (member.name.clone(), member.bytes),
            };
            if self.place.length(&backup.id, &name)? != Some(bytes) {
                return Err(failed(format_args!(
                    "{}: it is missing or of another length; {REMEDY}",
                    self.shown_member(&backup.id, &name)
                )));
            }
        }
        match self.direct(backup) {
            Some(directory) => backup.archive(&directory),
            None => backup.promised(),
        }
    }

    /// The archive of a backup, read.
    ///
    /// # Errors
    /// It is damaged, or cannot be fetched.
    pub fn read_archive(&self, backup: &Manifest) -> Result<Archive, BackupError> {
        let path = self.records(backup)?;
        backup.archive(path.parent().unwrap_or_else(|| Path::new("")))
    }
}

/// Whoever is not told.
struct Unwatched;

impl Watch for Unwatched {
    fn begin(&self, _: &'static str, _: u64) {}
    fn advance(&self, _: u64) {}
}

/// Looks at each file of a backup; what is wrong, one line each.
fn check_each(
    backup: &Manifest,
    check: impl Fn(&Member) -> Result<(), BackupError>,
) -> Result<Vec<String>, BackupError> {
    let mut problems = Vec::new();
    for member in &backup.files {
        match check(member) {
            Ok(()) => {}
            Err(error) if error.is_elsewhere() => return Err(error),
            Err(error) => {
                let text = error.to_string();
                problems.push(match text.contains(REMEDY) {
                    true => text,
                    false => format!("{text}; {REMEDY}"),
                });
            }
        }
    }
    Ok(problems)
}

/// Compares a file with what its manifest says.
fn check_file(path: &Path, member: &Member, watch: &dyn Watch) -> Result<(), BackupError> {
    let found = Member::of(path, watch)?;
    let shown = path.display().to_string();
    compare(
        &shown,
        (found.bytes, found.sha256),
        (member.bytes, &member.sha256),
    )
}

/// Compares length and checksum.
fn compare(shown: &str, found: (u64, String), wanted: (u64, &str)) -> Result<(), BackupError> {
    if found.0 != wanted.0 {
        return Err(failed(format_args!(
            "{shown}: {} octets, and there must be {}; {REMEDY}",
            found.0, wanted.0
        )));
    }
    match found.1 == wanted.1 {
        true => Ok(()),
        false => Err(failed(format_args!(
            "{shown}: it has a wrong checksum; {REMEDY}"
        ))),
    }
}

/// Reads to the end, into a file.
fn pour(
    from: &mut dyn Read,
    shown: &str,
    out: &mut dyn Write,
    path: &Path,
    watch: &dyn Watch,
) -> Result<(), BackupError> {
    let unread = |error| BackupError::of_io(error, shown, "read");
    let unwritten = |error| BackupError::of_scratch(path, "write", &error);
    move_all((from, &unread), (out, &unwritten), watch)
}

/// What an error of an operating system means there.
type Meaning<'a> = &'a dyn Fn(io::Error) -> BackupError;

/// Reads to the end, into a writer.
fn move_all(
    (from, unread): (&mut dyn Read, Meaning<'_>),
    (to, unwritten): (&mut dyn Write, Meaning<'_>),
    watch: &dyn Watch,
) -> Result<(), BackupError> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = from.read(&mut buffer).map_err(unread)?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
            return Ok(());
        };
        to.write_all(piece).map_err(unwritten)?;
        watch.advance(piece.len() as u64);
    }
}

/// A reader that counts and hashes.
struct Hashing<R> {
    from: R,
    hash: Sha256,
    bytes: u64,
}

impl<R> Hashing<R> {
    fn new(from: R) -> Self {
        Self {
            from,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    fn finish(self) -> (u64, String) {
        (self.bytes, hex::encode(self.hash.finalize()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.hash.update(buffer.get(..read).unwrap_or_default());
        self.bytes += read as u64;
        Ok(read)
    }
}

/// A member being written that is counted and hashed.
struct HashingPut<'a> {
    put: Box<dyn Put + 'a>,
    hash: Sha256,
    bytes: u64,
}

impl<'a> HashingPut<'a> {
    fn new(put: Box<dyn Put + 'a>) -> Self {
        Self {
            put,
            hash: Sha256::new(),
            bytes: 0,
        }
    }

    fn finish(self) -> Result<Encrypted, BackupError> {
        self.put.finish()?;
        Ok(Encrypted {
            bytes: self.bytes,
            sha256: hex::encode(self.hash.finalize()),
        })
    }
}

impl Write for HashingPut<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let written = self.put.write(octets)?;
        self.hash.update(octets.get(..written).unwrap_or_default());
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.put.flush()
    }
}

/// Whether a name is that of a backup: a time, and what it is.
pub(super) fn is_id(name: &str) -> bool {
    let parts = name.split_once('-');
    parts.is_some_and(|(time, kind)| {
        let digits =
            |text: &str, count| text.len() == count && text.bytes().all(|d| d.is_ascii_digit());
        let time = time.strip_suffix('Z').and_then(|time| time.split_once('T'));
        time.is_some_and(|(day, time)| digits(day, 8) && digits(time, 6))
            && [Kind::Full, Kind::Increment]
                .iter()
                .filter_map(|known| kind.strip_prefix(known.name()))
                .any(|rest| {
                    let number = rest.strip_prefix('-');
                    rest.is_empty() || number.is_some_and(|text| text.parse::<u32>().is_ok())
                })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: only what this program has named is taken for a backup, and perhaps removed.
    #[test]
    fn names_of_backups() {
        for good in ["20261126T153000Z-full", "20261126T153000Z-increment-2"] {
            assert!(is_id(good), "{good}");
        }
        for bad in [
            "lost+found",
            "20261126-full",
            "20261126T153000Z-else",
            "20261126T153000Z-full-kept",
            "20261126T153000Z-full.tar.gz",
            "2026112aT153000Z-full",
        ] {
            assert!(!is_id(bad), "{bad}");
        }
    }
}
