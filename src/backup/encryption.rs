//! Encryption of backups, in the age format: whoever has a file and a key reads it with any tool that knows age, too.
//!
//! Each member is a file of its own, encrypted for recipients (public X25519 keys, whose identities are kept elsewhere)
//! or under a passphrase; the format knows no mixture of both. The manifest beside it is not encrypted. It says for whom
//! the members are, by fingerprints: what was given is compared with them before anything is fetched.

use std::{
    fmt,
    io::{self, Cursor, Read, Write},
};

use age::{
    DecryptError, Decryptor, Encryptor, scrypt,
    secrecy::SecretString,
    stream::{StreamReader, StreamWriter},
    x25519,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{BackupError, failed};

/// The name of the format.
const FORMAT: &str = "age";
/// In the place of a fingerprint, of what has a passphrase.
const PASSPHRASE: &str = "passphrase";
/// Behind the name of a member that is encrypted.
pub(super) const SUFFIX: &str = ".age";
/// Most recipients of a backup: each has a stanza in every member.
pub const RECIPIENTS_MAX: usize = 16;
/// Most identities in a file of them.
pub const IDENTITIES_MAX: usize = 64;
/// Most passphrases: each that does not open a member costs the work of deriving a key.
pub const PASSPHRASES_MAX: usize = 8;
/// Octets of the head of an encrypted member, at most, and what encryption adds to each chunk of 64 KiB.
const HEAD_MAX: u64 = 512 + 256 * RECIPIENTS_MAX as u64;
const CHUNK: u64 = 64 << 10;
const CHUNK_ADDS: u64 = 16;
/// The work of deriving a key from a passphrase, as a power of two: 128 MiB of memory and less than a second. What was
/// written with more than the second number is refused: it would take gigabytes.
const WORK: u8 = 17;
const WORK_MAX: u8 = 20;

/// How a backup is encrypted, in its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encryption {
    /// The format of the members.
    pub format: String,
    /// SHA-256 of each recipient's public key as text, in hexadecimal; or `passphrase`.
    pub recipients: Vec<String>,
}

impl Encryption {
    /// Whether this program can know what it means.
    pub(super) fn is_sound(&self) -> bool {
        self.format == FORMAT && (1..=RECIPIENTS_MAX).contains(&self.recipients.len())
    }

    /// Whether everybody whom `later` is for can open this, too, as far as the manifests say.
    pub(super) fn is_open_to(&self, later: Option<&Self>) -> bool {
        later.is_some_and(|later| {
            let mut wanted = later.recipients.iter();
            wanted.all(|name| self.recipients.contains(name))
        })
    }

    /// For a column: who can open it.
    #[must_use]
    pub fn summary(&self) -> String {
        match (self.has_passphrase(), self.recipients.len()) {
            (true, _) => PASSPHRASE.to_owned(),
            (false, 1) => "1 recipient".to_owned(),
            (false, count) => format!("{count} recipients"),
        }
    }

    pub(super) fn has_passphrase(&self) -> bool {
        self.recipients.iter().any(|name| name == PASSPHRASE)
    }

    /// For people: who can open it.
    fn shown(&self) -> String {
        match self.has_passphrase() {
            true => "a passphrase".to_owned(),
            false => format!("the identity of recipient {}", self.recipients.join(" or ")),
        }
    }
}

/// Whom new backups are encrypted for.
pub enum Lock {
    /// Whoever has one of the identities.
    Recipients(Vec<x25519::Recipient>),
    /// Whoever knows it.
    Passphrase(SecretString),
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.encryption().recipients.join(","))
    }
}

impl Lock {
    /// For these recipients, each `age1…`.
    ///
    /// # Errors
    /// A message for people.
    pub fn recipients<'a>(all: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let parse = |text: &str| {
            let parsed: Result<x25519::Recipient, _> = text.trim().parse();
            parsed.map_err(|_| {
                format!("{text:?} is no recipient: it must be a public key such as age1…, as `age-keygen` shows it")
            })
        };
        let parsed = all.into_iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        match parsed.len() {
            1..=RECIPIENTS_MAX => Ok(Self::Recipients(parsed)),
            count => Err(format!(
                "there are {count} recipients, and a backup has 1 to {RECIPIENTS_MAX}"
            )),
        }
    }

    /// Under a passphrase.
    #[must_use]
    pub fn passphrase(text: String) -> Self {
        Self::Passphrase(SecretString::from(text))
    }

    /// What the manifest says.
    pub(super) fn encryption(&self) -> Encryption {
        let recipients = match self {
            Self::Recipients(all) => all.iter().map(fingerprint).collect(),
            Self::Passphrase(_) => vec![PASSPHRASE.to_owned()],
        };
        Encryption {
            format: FORMAT.to_owned(),
            recipients,
        }
    }

    /// Encrypts what is written, into a writer.
    pub(super) fn wrap<W: Write>(&self, out: W) -> io::Result<StreamWriter<W>> {
        let encryptor = match self {
            Self::Recipients(all) => {
                Encryptor::with_recipients(all.iter().map(|one| one as &dyn age::Recipient))
            }
            Self::Passphrase(text) => {
                let mut recipient = scrypt::Recipient::new(text.clone());
                recipient.set_work_factor(WORK);
                Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
            }
        };
        encryptor
            .map_err(|error| io::Error::other(failed(error)))?
            .wrap_output(out)
    }

    /// Octets of a member of so many, encrypted, at most.
    pub(super) fn length_max(bytes: u64) -> u64 {
        HEAD_MAX + bytes + (bytes / CHUNK + 1) * CHUNK_ADDS
    }
}

/// SHA-256 of a public key as text.
fn fingerprint(recipient: &x25519::Recipient) -> String {
    hex::encode(Sha256::digest(recipient.to_string()))
}

/// What opens backups: identities and passphrases, as far as they were given.
#[derive(Default)]
pub struct Keys {
    identities: Vec<x25519::Identity>,
    passphrases: Vec<SecretString>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    /// Adds the identities of a file, one `AGE-SECRET-KEY-1…` a line; `#` begins a comment.
    ///
    /// # Errors
    /// A message for people, without what is in the file.
    pub fn add_identities(&mut self, text: &str) -> Result<(), String> {
        let lines = text.lines().map(str::trim).zip(1_u32..);
        for (line, number) in lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')) {
            let identity: x25519::Identity = line.parse().map_err(|_| {
                format!("line {number}: not an identity; it must be AGE-SECRET-KEY-1…, as `age-keygen` writes it")
            })?;
            self.identities.push(identity);
        }
        match self.identities.len() {
            1..=IDENTITIES_MAX => Ok(()),
            count => Err(format!(
                "{count} identities in it; there must be 1 to {IDENTITIES_MAX}"
            )),
        }
    }

    /// Adds a passphrase.
    ///
    /// # Errors
    /// There are too many: a message for people.
    pub fn add_passphrase(&mut self, text: String) -> Result<(), String> {
        if self.passphrases.len() == PASSPHRASES_MAX {
            return Err(format!(
                "there are more than {PASSPHRASES_MAX} passphrases; name those of the backups that are wanted"
            ));
        }
        self.passphrases.push(SecretString::from(text));
        Ok(())
    }

    /// Adds what opens that which is written: a passphrase does both.
    pub(super) fn add_lock(&mut self, lock: &Lock) {
        if let Lock::Passphrase(text) = lock {
            self.passphrases.push(text.clone());
        }
    }

    /// Whether nothing was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty() && self.passphrases.is_empty()
    }

    /// Sees, as far as can be seen without the members, that a backup can be opened.
    pub(super) fn expect(&self, id: &str, encryption: &Encryption) -> Result<(), BackupError> {
        let wanted = encryption.shown();
        let fits = match encryption.has_passphrase() {
            true => !self.passphrases.is_empty(),
            false => (self.identities.iter())
                .map(|identity| fingerprint(&identity.to_public()))
                .any(|own| encryption.recipients.contains(&own)),
        };
        match (fits, self.is_empty()) {
            (true, _) => Ok(()),
            (false, true) => Err(BackupError::Key(format!(
                "backup {id} is encrypted, and it takes {wanted} to open it; give --identity FILE or \
                 --encryption-passphrase-file FILE"
            ))),
            (false, false) => Err(BackupError::Key(format!(
                "backup {id} is encrypted, and what was given does not open it: it takes {wanted}; nothing was written"
            ))),
        }
    }

    /// Decrypts what is read.
    pub(super) fn open<R: Read>(&self, mut from: R) -> Result<Opened<R>, OpenError> {
        // The head alone says which passphrase it is: read once, it is tried with each.
        let mut head = Vec::new();
        let kept = Tee {
            from: &mut from,
            kept: &mut head,
        };
        Decryptor::new(kept).map(drop).map_err(OpenError::of)?;
        let derived = self.derived(&head);
        let decryptor = Decryptor::new(Cursor::new(head).chain(from)).map_err(OpenError::of)?;
        let opened = match (&derived, decryptor.is_scrypt()) {
            (Some(identity), true) => {
                decryptor.decrypt(std::iter::once(identity as &dyn age::Identity))
            }
            _ => decryptor.decrypt(self.identities.iter().map(|one| one as &dyn age::Identity)),
        };
        opened.map_err(OpenError::of)
    }

    /// The passphrase that opens a head: the only one untried, the last one if none does.
    fn derived(&self, head: &[u8]) -> Option<scrypt::Identity> {
        let identity = |text: &SecretString| {
            let mut identity = scrypt::Identity::new(text.clone());
            identity.set_max_work_factor(WORK_MAX);
            identity
        };
        let (last, others) = self.passphrases.split_last()?;
        let opens = |identity: &scrypt::Identity| {
            let decryptor = Decryptor::new(head).ok();
            decryptor.is_some_and(|decryptor| {
                let one = std::iter::once(identity as &dyn age::Identity);
                decryptor.is_scrypt() && decryptor.decrypt(one).is_ok()
            })
        };
        let found = others.iter().map(identity).find(opens);
        Some(found.unwrap_or_else(|| identity(last)))
    }
}

/// A member being decrypted.
pub(super) type Opened<R> = StreamReader<io::Chain<Cursor<Vec<u8>>, R>>;

/// A reader that keeps what is read.
struct Tee<'a, R> {
    from: &'a mut R,
    kept: &'a mut Vec<u8>,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.kept
            .extend_from_slice(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// Why an encrypted member does not open.
#[derive(Debug)]
pub(super) enum OpenError {
    /// Neither identity nor passphrase fit; or its head is damaged so that it looks like that.
    Key,
    /// It takes too much work.
    Work,
    /// It is damaged.
    Damaged,
    /// It cannot be read.
    Io(io::Error),
}

impl OpenError {
    fn of(error: DecryptError) -> Self {
        match error {
            DecryptError::NoMatchingKeys
            | DecryptError::DecryptionFailed
            | DecryptError::KeyDecryptionFailed => Self::Key,
            DecryptError::ExcessiveWork { .. } => Self::Work,
            DecryptError::Io(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                Self::Io(error)
            }
            _ => Self::Damaged,
        }
    }
}
