//! Who asks: the proof in an answer to a challenge, checked against the keys in handle records.
//!
//! [`Authenticated`] is made here and nowhere else, and [`prove`] is the other side of a secret
//! key. A refusal takes as long as a success: when the identity or its key does not exist, or its key cannot have made
//! such a signature, the same work is done with a key of nobody's.

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiexi_proto::Version;
use jiexi_proto::message::challenge::{MacAlgorithm, Proof};
use jiexi_proto::value::{Reference, Value};
use md5::Md5;
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::keys::{Hash, VerifyingKey};
use super::nobody::{Nobody, Shape};
use super::records::{Records, Unavailable};

/// Most PBKDF2 iterations a client may ask for: twice what clients use, some milliseconds of work.
pub const ITERATIONS_MAX: u32 = 20_000;
/// Longest salt, octets: four times what clients use, and no more than one block of the hash.
pub const SALT_MAX: usize = 64;
/// Largest derived key, bits: clients ask for 160; each 160 bits are another run of all iterations.
pub const KEY_BITS_MAX: u32 = 160;
/// PBKDF2 iterations of proofs made here, as those of the reference client.
pub const ITERATIONS: u32 = 10_000;
/// Octets of their salt.
pub const SALT_SIZE: usize = 16;
/// Most keys that index 0, "any key of the handle", tries.
pub const ANY_KEY_MAX: usize = 16;
/// What the work for unknown identities is done with.
const NOBODY: &[u8] = b"nobody's secret";

/// Somebody, by the value that holds their key: `300:0.NA/88.118`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The folded handle.
    pub handle: Vec<u8>,
    /// The index of the value with the key; 0 is any key of the handle.
    pub index: u32,
}

impl Identity {
    /// The identity that a reference names.
    #[must_use]
    pub fn of(reference: &Reference, records: &Records) -> Self {
        Self {
            handle: records.key(&reference.handle),
            index: reference.index,
        }
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}:{}",
            self.index,
            String::from_utf8_lossy(&self.handle)
        )
    }
}

/// How an identity was proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// By a shared secret.
    SecretKey,
    /// By an RSA signature.
    Rsa,
    /// By a DSA signature.
    Dsa,
    /// By an SM2 signature.
    Sm2,
    /// By the operating system: whoever runs the node, at its control socket or at the files of a stopped node.
    Local,
    /// By an API token that acts for it.
    Token,
    /// By the key of a TLS client certificate.
    Certificate,
}

impl Method {
    /// The name in metrics and in the audit trail.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::SecretKey => "seckey",
            Self::Rsa => "rsa",
            Self::Dsa => "dsa",
            Self::Local => "local",
            Self::Token => "token",
            Self::Certificate => "tls",
            Self::Sm2 => "sm2",
        }
    }
}

/// An identity that was proved: by [`verify`], or by what [`super::vouch`] checks; or whoever runs the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticated {
    identity: Identity,
    key_index: u32,
    method: Method,
}

impl Authenticated {
    /// Whoever runs the node: the caller has it from the operating system that the user `uid` may do so.
    #[must_use]
    pub(crate) fn local(uid: u32) -> Self {
        Self {
            identity: Identity {
                handle: format!("local/{uid}").into_bytes(),
                index: 0,
            },
            key_index: 0,
            method: Method::Local,
        }
    }

    /// Whether it is whoever runs the node, who has every right: the data are theirs to read and write anyway.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        matches!(self.method, Method::Local)
    }

    /// Who it is, as they said.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// How it was proved.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// The index that was claimed, and that of the value whose key proved it.
    pub(super) const fn indexes(&self) -> [u32; 2] {
        [self.identity.index, self.key_index]
    }

    /// Whether this is the identity `index` of `handle` (folded): what was claimed, or the value
    /// whose key proved a claim of "any key". A list that names index 0 means every one of them.
    #[must_use]
    pub fn is(&self, handle: &[u8], index: u32) -> bool {
        self.identity.handle == handle
            && (index == 0 || index == self.identity.index || index == self.key_index)
    }
}

/// Which old proofs are accepted of peers that could do better (version 2.7 and later).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// DSA keys, whatever the version.
    pub dsa: bool,
    /// SHA-1 in signatures. Peers before 2.7 know nothing else and may use it anyway.
    pub sha1: bool,
}

/// An answer to a challenge.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Who they say they are.
    pub identity: Identity,
    /// Their handle as they wrote it: an SM2 signature covers it.
    pub user: Bytes,
    /// `HS_PUBKEY` or `HS_SECKEY`.
    pub kind: Bytes,
    /// The proof, in its wire form.
    pub answer: Bytes,
    /// The version that the client spoke.
    pub version: Version,
}

impl Claim {
    /// How it is proved, if it is right: of a signature by its form, which is that of the key.
    #[must_use]
    pub fn method(&self) -> Method {
        let by_signature = || match Proof::decode(&self.kind, &self.answer).ok()? {
            Proof::Signature { hash, signature } => {
                Shape::of_signature(Hash::named(&hash)?, &signature, true)
            }
            _ => None,
        };
        match &self.kind[..] {
            Proof::PUBLIC_KEY => by_signature().map_or(Method::Rsa, Shape::method),
            _ => Method::SecretKey,
        }
    }
}

/// Checks a claim against what was asked of the client: `asked` are nonce and request digest, one
/// after the other, of each challenge it may answer. Returns which one it answered.
///
/// # Errors
/// The store cannot say what the keys are. A wrong proof is `Ok(None)`.
pub fn verify(
    records: &Records,
    nobody: &Nobody,
    policy: Policy,
    claim: &Claim,
    asked: &[Vec<u8>],
) -> Result<Option<(Authenticated, usize)>, Unavailable> {
    let found = records.record(&claim.identity.handle)?;
    let values = found.map_or_else(Vec::new, |record| records.values(&record));
    Ok(verify_by(&values, nobody, policy, claim, asked))
}

/// As [`verify`], by the values of the handle of the identity.
fn verify_by(
    values: &[Value],
    nobody: &Nobody,
    policy: Policy,
    claim: &Claim,
    asked: &[Vec<u8>],
) -> Option<(Authenticated, usize)> {
    match &Proof::decode(&claim.kind, &claim.answer).ok()? {
        Proof::Signature { hash, signature } => {
            by_signature(nobody, policy, claim, values, asked, hash, signature)
        }
        secret if claim.kind == Proof::SECRET_KEY => by_secret(claim, values, asked, secret),
        _ => None,
    }
}

/// What the home of an identity says, when that is another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// These are its public keys.
    Keys(Vec<Value>),
    /// Which challenge its secret key has answered, if one of them.
    Verified(Option<usize>),
    /// Nothing that tells right from wrong.
    Unavailable,
}

/// As [`verify`], by what the home of the identity says.
///
/// # Errors
/// The home says nothing. A wrong proof is `Ok(None)`.
pub fn verify_elsewhere(
    said: &Elsewhere,
    nobody: &Nobody,
    policy: Policy,
    claim: &Claim,
    asked: &[Vec<u8>],
) -> Result<Option<(Authenticated, usize)>, Unavailable> {
    match said {
        // A secret is nothing that a home tells.
        Elsewhere::Keys(values) if claim.kind == Proof::PUBLIC_KEY => {
            Ok(verify_by(values, nobody, policy, claim, asked))
        }
        Elsewhere::Verified(place)
            if claim.kind == Proof::SECRET_KEY && claim.identity.index != 0 =>
        {
            let who = || proved(claim, claim.identity.index, Method::SecretKey);
            Ok(place.map(|place| (who(), place)))
        }
        Elsewhere::Keys(_) | Elsewhere::Verified(_) => Ok(None),
        Elsewhere::Unavailable => Err(Unavailable::Now),
    }
}

fn by_signature(
    nobody: &Nobody,
    policy: Policy,
    claim: &Claim,
    values: &[Value],
    asked: &[Vec<u8>],
    hash: &[u8],
    signature: &[u8],
) -> Option<(Authenticated, usize)> {
    let hash = Hash::named(hash)?;
    let old = claim.version < Version::V2_7;
    let named = |value: &&Value| {
        value.kind == Proof::PUBLIC_KEY
            && (claim.identity.index == 0 || claim.identity.index == value.index)
    };
    let shape = Shape::of_signature(hash, signature, policy.dsa)?;
    let keys: Vec<(u32, VerifyingKey)> = values
        .iter()
        .filter(named)
        .take(ANY_KEY_MAX)
        .filter_map(|value| Some((value.index, shape.key(&value.data)?)))
        .collect();
    if keys.is_empty() || (hash == Hash::Sha1 && !old && !policy.sha1) {
        for message in asked {
            nobody.check(shape, hash, &claim.user, message, signature);
        }
        return None;
    }
    for (place, message) in asked.iter().enumerate() {
        for (index, key) in &keys {
            if key.verifies(hash, &claim.user, message, signature) {
                return Some((proved(claim, *index, key.shape().method()), place));
            }
        }
    }
    None
}

fn by_secret(
    claim: &Claim,
    values: &[Value],
    asked: &[Vec<u8>],
    proof: &Proof,
) -> Option<(Authenticated, usize)> {
    let named = |value: &&Value| {
        value.kind == Proof::SECRET_KEY && claim.identity.index == value.index && value.index != 0
    };
    let known = values.iter().find(named);
    let secret = known.map_or(NOBODY, |value| &value.data);
    let right = proves(secret, asked, proof);
    // An empty secret is no secret: everybody knows it.
    known.filter(|value| !value.data.is_empty())?;
    Some((
        proved(claim, claim.identity.index, Method::SecretKey),
        right?,
    ))
}

/// What the answer to a message must be.
type Expected<'a> = Box<dyn Fn(&[u8]) -> Vec<u8> + 'a>;

/// Which of `asked` the holder of `secret` has answered. The time does not depend on the secret.
#[must_use]
pub fn proves(secret: &[u8], asked: &[Vec<u8>], proof: &Proof) -> Option<usize> {
    let (given, expected): (&[u8], Expected<'_>) = match proof {
        Proof::Signature { .. } => return None,
        Proof::Old(digest) => (digest, Box::new(|m| around::<Md5>(secret, m))),
        Proof::Derived {
            salt,
            iterations,
            key_bits,
            mac,
        } => {
            let modest = *iterations <= ITERATIONS_MAX
                && *iterations > 0
                && salt.len() <= SALT_MAX
                && *key_bits <= KEY_BITS_MAX
                && *key_bits >= 8
                && key_bits % 8 == 0;
            if !modest {
                return None;
            }
            let mut key = Zeroizing::new(vec![0; *key_bits as usize / 8]);
            pbkdf2::pbkdf2_hmac::<Sha1>(secret, salt, *iterations, &mut key);
            (mac, Box::new(move |m| hmac_sha1(&key, m)))
        }
        Proof::Plain { algorithm, digest } => match *algorithm {
            MacAlgorithm::MD5_DEFAULT | MacAlgorithm::MD5 => {
                (digest, Box::new(|m| around::<Md5>(secret, m)))
            }
            MacAlgorithm::SHA1 => (digest, Box::new(|m| around::<Sha1>(secret, m))),
            MacAlgorithm::SHA256 => (digest, Box::new(|m| around::<Sha256>(secret, m))),
            MacAlgorithm::HMAC_SHA1 => (digest, Box::new(|m| hmac_sha1(secret, m))),
            MacAlgorithm::HMAC_SHA256 => (digest, Box::new(|m| hmac_sha256(secret, m))),
            _ => return None,
        },
    };
    let mut right = None;
    for (place, message) in asked.iter().enumerate() {
        if bool::from(expected(message).ct_eq(given)) {
            right = Some(place);
        }
    }
    right
}

/// The proof by `secret` that a server of this version expects over `asked`, nonce and request digest one after the
/// other. `salt` is random, and used from 2.7 on.
#[must_use]
pub fn prove(secret: &[u8], version: Version, asked: &[u8], salt: [u8; SALT_SIZE]) -> Proof {
    let bytes = |octets: Vec<u8>| Bytes::from(octets);
    if version < Version::V2_1 {
        return Proof::Old(bytes(around::<Md5>(secret, asked)));
    }
    if version < Version::V2_7 {
        return Proof::Plain {
            algorithm: MacAlgorithm::SHA1,
            digest: bytes(around::<Sha1>(secret, asked)),
        };
    }
    let mut key = Zeroizing::new([0; KEY_BITS_MAX as usize / 8]);
    pbkdf2::pbkdf2_hmac::<Sha1>(secret, &salt, ITERATIONS, &mut key[..]);
    Proof::Derived {
        salt: bytes(salt.to_vec()),
        iterations: ITERATIONS,
        key_bits: KEY_BITS_MAX,
        mac: bytes(hmac_sha1(&key[..], asked)),
    }
}

/// An identity for which `super::vouch` has checked a token or a certificate.
pub(super) fn vouched(identity: Identity, method: Method) -> Authenticated {
    Authenticated {
        key_index: identity.index,
        identity,
        method,
    }
}

fn proved(claim: &Claim, key_index: u32, method: Method) -> Authenticated {
    Authenticated {
        identity: claim.identity.clone(),
        key_index,
        method,
    }
}

/// A hash of secret, message, secret: the form before HMAC.
fn around<D: sha2::Digest>(secret: &[u8], message: &[u8]) -> Vec<u8> {
    let hash = D::new().chain_update(secret).chain_update(message);
    hash.chain_update(secret).finalize().to_vec()
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
fn hmac_sha1(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha1>::new_from_slice(key).expect("any length");
    mac.chain_update(message).finalize().into_bytes().to_vec()
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
pub(crate) fn hmac_sha256(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    mac.chain_update(message).finalize().into_bytes().to_vec()
}

/// SHA-1 around the message, for the MACs of sessions before 2.7.
pub(super) fn around_sha1(secret: &[u8], message: &[u8]) -> Vec<u8> {
    around::<Sha1>(secret, message)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An identity that was proved, for tests of what comes after.
    pub(in crate::registry) fn somebody() -> Authenticated {
        let identity = Identity {
            handle: b"0.NA/1".to_vec(),
            index: 300,
        };
        Authenticated {
            identity,
            key_index: 300,
            method: Method::Rsa,
        }
    }
}
