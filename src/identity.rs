//! Who a node is: its key pair, its site record, and the record of its prefix with the administrator.
//!
//! ```text
//! node.key   RSA-2048, signs; its public half is in the site record
//! site.json  the site record: where the node listens; the answer to "get site info" and the data of HS_SITE
//! admin.key  RSA-2048, administers the prefix; its public half is value 300 of 0.NA/<prefix>
//! ```

use std::{
    fmt, fs,
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use bytes::Bytes;
use getrandom::SysRng;
use jiexi_proto::{
    code::{HashOption, Permissions, Version},
    value::{
        Reference, Ttl, Value,
        admin::{Admin, AdminRights},
        key::{KeyFile, PrivateKey, PublicKey, number},
        list,
        site::{Interface, InterfaceKind, Server, SiteFlags, SiteRecord, Transport},
    },
};
use rsa::{
    BoxedUint,
    traits::{PrivateKeyParts, PublicKeyParts},
};
use sha2::{Digest as _, Sha256};

use crate::owner;
use crate::registry::{keys::NodeKey, seal::Sealer};

use crate::json::{data, site, value::PERMISSIONS_DEFAULT, value::TTL_DEFAULT};

/// Size of the keys made here.
const KEY_BITS: usize = 2048;
/// Index of the site record in a prefix record; one of the other address family follows.
pub const SITE_INDEX: u32 = 1;
/// Index of the administrator entry in records made here.
pub const ADMIN_INDEX: u32 = 100;
/// Index of the list of administrators in a prefix record.
pub const LIST_INDEX: u32 = 200;
/// Index of the administrator's public key in a prefix record.
pub const KEY_INDEX: u32 = 300;

/// What can be wrong with a key or a site record.
#[derive(Debug)]
pub enum IdentityError {
    /// A key could not be made.
    Generate(String),
    /// A file cannot be read or written.
    File(String, io::Error),
    /// A file holds something else.
    Content(String, String),
    /// One of these, and what to do about it.
    Remedied(Box<Self>, String),
}

impl IdentityError {
    /// Says what to do about it: `remedy`, which is for the content of the file. Who may only not read it must not touch
    /// that: a key that is moved away for another one takes everything with it that it sealed.
    fn with(path: &Path, remedy: &'static str) -> impl FnOnce(Self) -> Self {
        move |error| {
            let remedy = match &error {
                Self::File(_, cause) if cause.kind() == io::ErrorKind::PermissionDenied => {
                    owner::advice(path)
                }
                _ => remedy.to_owned(),
            };
            Self::Remedied(Box::new(error), remedy)
        }
    }

    /// What is wrong, and what to do about it apart from that, where it is known.
    #[must_use]
    pub fn parts(&self) -> (String, Option<&str>) {
        match self {
            Self::Remedied(error, remedy) => (error.to_string(), Some(remedy)),
            _ => (self.to_string(), None),
        }
    }
}

/// What to do about a node's key that is missing or damaged: everything sealed in the store is sealed by it. No backup of
/// the store has it.
const KEY_REMEDY: &str = "put the node's key back from its escrow with `jiexi key escrow import`, which wants what is \
                          there moved away first";
/// What to do about a site record that cannot be used.
const SITE_REMEDY: &str = "put it back from a backup, or write it anew: it is the data of the HS_SITE value of the \
                           node's 0.NA/PREFIX, which `jiexi export` prints";

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Generate(error) => write!(f, "cannot make a key: {error}"),
            Self::File(path, error) if error.kind() == io::ErrorKind::AlreadyExists => write!(
                f,
                "{path}: is there already and is not written over; name another file, or move this one away"
            ),
            Self::File(path, error) => write!(f, "{path}: {error}"),
            Self::Content(path, error) => write!(f, "{path}: {error}"),
            Self::Remedied(error, remedy) => write!(f, "{error}; {remedy}"),
        }
    }
}

impl std::error::Error for IdentityError {}

/// A private key and its public half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// The private key.
    pub private: PrivateKey,
    /// The public key.
    pub public: PublicKey,
}

impl KeyPair {
    /// Makes an RSA-2048 key pair; takes about a second.
    ///
    /// # Errors
    /// The operating system gives no randomness.
    pub fn generate() -> Result<Self, IdentityError> {
        let failed = |error: &dyn fmt::Display| IdentityError::Generate(error.to_string());
        let key = rsa::PrivateKey::new(&mut SysRng, KEY_BITS).map_err(|error| failed(&error))?;
        let private = private_of(&key)?;
        Self::of(private).ok_or_else(|| failed(&"not an RSA key"))
    }

    /// The pair of a private key, if its public half follows from it (RSA).
    #[must_use]
    pub fn of(private: PrivateKey) -> Option<Self> {
        let PrivateKey::Rsa {
            modulus,
            public_exponent,
            ..
        } = &private
        else {
            return None;
        };
        let public = PublicKey::Rsa {
            flags: 0,
            exponent: public_exponent.clone(),
            modulus: modulus.clone(),
        };
        Some(Self { private, public })
    }

    /// The public key in wire form.
    #[must_use]
    pub fn public_octets(&self) -> Bytes {
        encoded(|out| self.public.encode(out))
    }

    /// The file form of the private key, not encrypted (kind 1).
    #[must_use]
    pub fn file(&self) -> Vec<u8> {
        let key = encoded(|out| self.private.encode(out));
        encoded(|out| KeyFile::Clear(key).encode(out)).to_vec()
    }

    /// Reads the key file of a node.
    ///
    /// # Errors
    /// The file cannot be read, is not a key file, is encrypted, or is no RSA key; with what to do.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        Self::read(path).map_err(IdentityError::with(path, KEY_REMEDY))
    }

    fn read(path: &Path) -> Result<Self, IdentityError> {
        let name = || path.display().to_string();
        let content = |message: &str| IdentityError::Content(name(), message.to_owned());
        let octets = fs::read(path).map_err(|error| IdentityError::File(name(), error))?;
        let file =
            KeyFile::decode(&Bytes::from(octets)).map_err(|error| content(&error.to_string()))?;
        let KeyFile::Clear(key) = file else {
            return Err(content(
                "is encrypted; store the node's key unencrypted (kind 1), readable by its user only",
            ));
        };
        let private = PrivateKey::decode(&key).map_err(|error| content(&error.to_string()))?;
        Self::of(private).ok_or_else(|| content("is not an RSA private key"))
    }
}

/// A private key in the protocol's form.
///
/// # Errors
/// It has not two primes.
pub fn private_of(key: &rsa::PrivateKey) -> Result<PrivateKey, IdentityError> {
    let failed = |error: &dyn fmt::Display| IdentityError::Generate(error.to_string());
    let octets = |uint: &BoxedUint| number(&uint.to_be_bytes());
    let [p, q] = key.primes() else {
        return Err(failed(&"not two primes"));
    };
    let (Some(exponent_p), Some(exponent_q), Some(coefficient)) = (key.dp(), key.dq(), key.qinv())
    else {
        return Err(failed(&"no precomputed exponents"));
    };
    let private = PrivateKey::Rsa {
        modulus: number(&key.n_bytes()),
        public_exponent: number(&key.e_bytes()),
        private_exponent: octets(key.d()),
        p: octets(p),
        q: octets(q),
        exponent_p: octets(exponent_p),
        exponent_q: octets(exponent_q),
        coefficient: octets(&coefficient.retrieve()),
    };
    Ok(private)
}

/// What seals the secrets of a node: it follows from the node's key. None when there is no key file.
///
/// # Errors
/// As [`KeyPair::load`], and a key whose numbers do not belong together.
pub fn sealer(path: &Path) -> Result<Option<Sealer>, IdentityError> {
    // A key that cannot be looked at is not missing: what is not sealed because of that would lie open.
    match path.try_exists() {
        Ok(false) => Ok(None),
        Ok(true) | Err(_) => Ok(Some(Sealer::new(&node_key(path)?))),
    }
}

/// The node's key, ready to sign.
///
/// # Errors
/// As [`KeyPair::load`], and a key whose numbers do not belong together.
pub fn node_key(path: &Path) -> Result<NodeKey, IdentityError> {
    let pair = KeyPair::load(path)?;
    NodeKey::new(&pair.private)
        .map_err(|error| IdentityError::Content(path.display().to_string(), error.to_string()))
        .map_err(IdentityError::with(path, KEY_REMEDY))
}

/// The SHA-256 of the public half of a node's key in wire form, as `jiexi key show` prints it: nodes with the same one open
/// the same secrets.
#[must_use]
pub fn fingerprint(key: &NodeKey) -> String {
    hex::encode(Sha256::digest(key.public()))
}

/// The site record of a node of one server, reached at `address`.
///
/// The first interface speaks TCP, since Chinese clients take the first one that does.
#[must_use]
pub fn site_record(address: IpAddr, port: u16, public_key: Bytes, description: &str) -> SiteRecord {
    let port = u32::from(port);
    SiteRecord {
        format: 1,
        version: Version::CURRENT,
        serial: 1,
        flags: SiteFlags::PRIMARY,
        hash_option: HashOption::WHOLE,
        hash_filter: Bytes::new(),
        attributes: vec![(
            Bytes::from_static(b"desc"),
            Bytes::copy_from_slice(description.as_bytes()),
        )],
        servers: vec![Server {
            id: 1,
            address: Server::address_of(address),
            public_key,
            interfaces: vec![
                Interface {
                    kind: InterfaceKind::BOTH,
                    protocol: Transport::TCP,
                    port,
                },
                Interface {
                    kind: InterfaceKind::QUERY,
                    protocol: Transport::UDP,
                    port,
                },
            ],
        }],
    }
}

/// Where the servers of a site are, for people: the address with the port of the first interface.
#[must_use]
pub fn addresses(site: &SiteRecord) -> Vec<String> {
    let at = |server: &Server| {
        let port = server.interfaces.first().map_or(0, |first| first.port);
        let port = u16::try_from(port).unwrap_or(0);
        SocketAddr::new(server.ip(), port).to_string()
    };
    site.servers.iter().map(at).collect()
}

/// Reads a site record from a JSON file.
///
/// # Errors
/// The file cannot be read or is not a site record; the message names the field.
pub fn load_site(path: &Path) -> Result<SiteRecord, IdentityError> {
    let name = || path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| IdentityError::File(name(), error))?;
    let json: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| IdentityError::Content(name(), error.to_string()))?;
    site::read(&json).map_err(|error| IdentityError::Content(name(), error.to_string()))
}

/// Reads the site record of a node.
///
/// # Errors
/// As [`load_site`], with what to do.
pub fn own_site(path: &Path) -> Result<SiteRecord, IdentityError> {
    load_site(path).map_err(IdentityError::with(path, SITE_REMEDY))
}

/// Whether the key and the site record of a node belong together, and the site record names the addresses configured.
/// Clients check signatures with the key in the site record, so a node with another one would be worse than none.
///
/// # Errors
/// What does not agree, and what to do.
pub fn check(key_file: &Path, site_file: &Path, addresses: &[IpAddr]) -> Result<(), IdentityError> {
    let content =
        |message: String| IdentityError::Content(site_file.display().to_string(), message);
    let (key, site) = (KeyPair::load(key_file)?, own_site(site_file)?);
    let own = key.public_octets();
    let Some(server) = site.servers.iter().find(|server| server.public_key == own) else {
        let message = format!(
            "no server in it has the public key of {}; restore the file that belongs to it",
            key_file.display()
        );
        return Err(content(message));
    };
    if !addresses.is_empty() && !addresses.contains(&server.ip()) {
        let message = format!(
            "names the address {}, but [node] addresses does not; correct one of them (and the prefix record with it)",
            server.ip()
        );
        return Err(content(message));
    }
    Ok(())
}

/// Whether others than its owner may read a private key file.
#[must_use]
pub fn is_exposed(key_file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(key_file).is_ok_and(|found| found.permissions().mode() & 0o077 != 0)
}

/// A site record as the text of its file.
///
/// # Errors
/// It has a name that is not text.
pub fn site_text(record: &SiteRecord) -> Result<String, IdentityError> {
    let json = site::write(record).ok_or_else(|| {
        IdentityError::Content("site record".into(), "cannot be written as JSON".into())
    })?;
    Ok(format!("{json:#}\n"))
}

/// A value with the usual time to live and permissions.
#[must_use]
pub fn value(index: u32, kind: &'static [u8], data: Bytes, timestamp: u32) -> Value {
    Value {
        index,
        timestamp,
        ttl: Ttl::Relative(TTL_DEFAULT),
        permissions: Permissions(PERMISSIONS_DEFAULT),
        kind: Bytes::from_static(kind),
        data,
        references: Vec::new(),
    }
}

/// The site values of a prefix record: `HS_SITE`, and `HS_SITE.6` for a second address family.
#[must_use]
pub fn site_values(sites: &[SiteRecord], timestamp: u32) -> Vec<Value> {
    let kinds: [&'static [u8]; 2] = [b"HS_SITE", b"HS_SITE.6"];
    (SITE_INDEX..)
        .zip(kinds)
        .zip(sites)
        .map(|((index, kind), site)| value(index, kind, encoded(|out| site.encode(out)), timestamp))
        .collect()
}

/// An `HS_ADMIN` value that gives all rights to value `index` of `handle`.
#[must_use]
pub fn admin_value(handle: &[u8], index: u32, timestamp: u32) -> Value {
    let admin = Reference {
        handle: Bytes::copy_from_slice(handle),
        index,
    };
    let admin = Admin {
        rights: AdminRights::ALL,
        admin,
        padded: false,
    };
    value(
        ADMIN_INDEX,
        Admin::TYPE,
        encoded(|out| admin.encode(out)),
        timestamp,
    )
}

/// The values of the record of a prefix (`0.NA/…`) whose administrator has the public key `key`.
#[must_use]
pub fn prefix_values(
    prefix_handle: &[u8],
    sites: &[SiteRecord],
    key: Bytes,
    timestamp: u32,
) -> Vec<Value> {
    let member = Reference {
        handle: Bytes::copy_from_slice(prefix_handle),
        index: KEY_INDEX,
    };
    let mut values = site_values(sites, timestamp);
    values.push(admin_value(prefix_handle, LIST_INDEX, timestamp));
    values.push(value(
        LIST_INDEX,
        list::TYPE,
        encoded(|out| list::encode(&[member], out)),
        timestamp,
    ));
    values.push(value(KEY_INDEX, b"HS_PUBKEY", key, timestamp));
    values
}

/// Writes a new file with exactly these permissions, whatever the umask, and syncs it.
///
/// # Errors
/// It exists already, or cannot be written.
pub fn write_file(path: &Path, mode: u32, content: &[u8]) -> Result<(), IdentityError> {
    use std::os::unix::fs::PermissionsExt;
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(|error| IdentityError::File(path.display().to_string(), error))
}

/// What an encoder appends.
fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    Bytes::from(data::encoded(encode))
}
