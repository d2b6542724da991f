//! Keys: what clients sign with, what the node signs with, and the files that hold them.
//!
//! Private key operations are blinded and in constant time; signatures of others are public data.

use std::fmt;

use aes::Aes128;
use bytes::Bytes;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use dsa::signature::hazmat::PrehashVerifier as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiexi_proto::value::key::{Derived, KeyFile, PrivateKey, PublicKey, magnitude, number};
use md5::Md5;
use rsa::BoxedUint;
use rsa::pkcs8::DecodePublicKey as _;
use rsa::rand_core::TryCryptoRng;
use rsa::traits::PublicKeyParts as _;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use sm3::Sm3;
use zeroize::Zeroizing;

use super::nobody::Shape;

/// Most octets of one number of a peer's key: RSA-8192.
const NUMBER_MAX: usize = 1_024;
/// Most octets of a key given as text.
const TEXT_MAX: usize = 16_384;
/// Most PBKDF2 iterations of a key file: a second or two of work.
const FILE_ITERATIONS_MAX: u32 = 1_000_000;
/// PBKDF2 iterations of key files written here. The reference's tools write 10,000 and read any number.
const FILE_ITERATIONS: u32 = 100_000;
/// Octets of the salt of key files written here.
const SALT_SIZE: usize = 16;

/// A hash function that signatures are made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-1: peers before version 2.7 know no other.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SM3: signatures of SM2 keys.
    Sm3,
}

impl Hash {
    /// The hash with this name, in the spellings of all clients.
    #[must_use]
    pub fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"SHA1" | b"SHA-1" => Some(Self::Sha1),
            b"SHA-256" | b"SHA256" => Some(Self::Sha256),
            b"SM3" => Some(Self::Sm3),
            _ => None,
        }
    }

    /// The name in credentials and answers.
    #[must_use]
    pub const fn name(self) -> &'static [u8] {
        match self {
            Self::Sha1 => b"SHA1",
            Self::Sha256 => b"SHA-256",
            Self::Sm3 => b"SM3",
        }
    }

    fn digest(self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha1 => Sha1::digest(message).to_vec(),
            Self::Sha256 => Sha256::digest(message).to_vec(),
            Self::Sm3 => Sm3::digest(message).to_vec(),
        }
    }
}

/// A public key that checks signatures.
#[derive(Clone, Debug)]
pub enum VerifyingKey {
    /// RSA, PKCS#1 v1.5.
    Rsa(rsa::PublicKey),
    /// DSA, signatures in DER.
    Dsa(dsa::VerifyingKey),
    /// SM2 with SM3, signatures in DER.
    Sm2(super::sm2::PublicKey),
}

impl VerifyingKey {
    /// Reads the data of an `HS_PUBKEY` value: the protocol's own form, or PEM text.
    #[must_use]
    pub fn parse(data: &Bytes) -> Option<Self> {
        match PublicKey::decode(data).ok()? {
            PublicKey::Rsa {
                exponent, modulus, ..
            } => {
                let key = rsa::PublicKey::new(uint(&modulus)?, uint(&exponent)?).ok()?;
                Some(Self::Rsa(key))
            }
            PublicKey::Dsa { q, p, g, y, .. } => {
                let parts =
                    dsa::Components::from_components(uint(&p)?, uint(&q)?, uint(&g)?).ok()?;
                let precision = parts.p().bits_precision();
                let y = BoxedUint::from_be_slice(magnitude(&y), precision).ok()?;
                Some(Self::Dsa(
                    dsa::VerifyingKey::from_components(parts, y).ok()?,
                ))
            }
            PublicKey::Sm2 { key, .. } if key.len() <= TEXT_MAX => {
                super::sm2::PublicKey::parse(&key).map(Self::Sm2)
            }
            PublicKey::Other(text) if text.len() <= TEXT_MAX => {
                let der = super::sm2::spki_of_pem(&text)?;
                rsa::PublicKey::from_public_key_der(&der)
                    .map(Self::Rsa)
                    .ok()
                    .or_else(|| super::sm2::PublicKey::parse(&der).map(Self::Sm2))
            }
            PublicKey::Sm2 { .. } | PublicKey::Dh { .. } | PublicKey::Other(_) => None,
        }
    }

    /// What its signatures look like.
    pub(super) fn shape(&self) -> Shape {
        match self {
            Self::Rsa(key) => Shape::Rsa(key.size()),
            Self::Dsa(key) => Shape::Dsa(key.components().q().bit_width().div_ceil(8) as usize),
            Self::Sm2(_) => Shape::Sm2,
        }
    }

    /// Encrypts a session key for the holder of the private half, with RSA PKCS#1 v1.5 as the protocol has it. None
    /// when there is no randomness, or for a key that does not encrypt.
    pub fn encrypt<R: TryCryptoRng + ?Sized>(
        &self,
        secret: &[u8],
        random: &mut R,
    ) -> Option<Vec<u8>> {
        match self {
            Self::Rsa(key) => key.pkcs1v15_encrypt_with_rng(random, secret).ok(),
            Self::Dsa(_) | Self::Sm2(_) => None,
        }
    }

    /// Whether the holder of the private half signed this message. `signer` is the handle of who
    /// says so, as they wrote it: SM2 signs it as well.
    #[must_use]
    pub fn verifies(&self, hash: Hash, signer: &[u8], message: &[u8], signature: &[u8]) -> bool {
        match (self, hash) {
            (Self::Sm2(key), Hash::Sm3) => key.verifies(signer, message, signature),
            (Self::Sm2(_), _) | (Self::Rsa(_), Hash::Sm3) => false,
            (Self::Rsa(key), Hash::Sha1) => key.pkcs1v15_verify::<Sha1>(message, signature).is_ok(),
            (Self::Rsa(key), Hash::Sha256) => {
                key.pkcs1v15_verify::<Sha256>(message, signature).is_ok()
            }
            (Self::Dsa(key), hash) => dsa::Signature::try_from(signature).is_ok_and(|signature| {
                key.verify_prehash(&hash.digest(message), &signature)
                    .is_ok()
            }),
        }
    }
}

/// A number of a key, within its limit.
fn uint(octets: &[u8]) -> Option<BoxedUint> {
    let octets = magnitude(octets);
    (1..=NUMBER_MAX)
        .contains(&octets.len())
        .then(|| BoxedUint::from_be_slice_vartime(octets))
}

/// The node's private key. `Debug` does not show it; it is wiped when dropped.
#[derive(Clone)]
pub struct NodeKey {
    private: rsa::PrivateKey,
    /// The public half in wire form.
    public: Bytes,
    /// What other keys of the node are derived from.
    root: Zeroizing<[u8; 32]>,
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(…)")
    }
}

impl NodeKey {
    /// Takes an RSA key in the protocol's form.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(key: &PrivateKey) -> Result<Self, KeyError> {
        let private = rsa_of(key)?;
        let PrivateKey::Rsa {
            modulus,
            public_exponent,
            private_exponent,
            ..
        } = key
        else {
            return Err(NOT_RSA);
        };
        let mut public = Vec::new();
        PublicKey::Rsa {
            flags: 0,
            exponent: number(magnitude(public_exponent)),
            modulus: number(magnitude(modulus)),
        }
        .encode(&mut public);
        Ok(Self {
            private,
            public: Bytes::from(public),
            root: root_of(private_exponent),
        })
    }

    /// The key that computes.
    pub(crate) const fn rsa(&self) -> &rsa::PrivateKey {
        &self.private
    }

    /// The public half in wire form.
    #[must_use]
    pub const fn public(&self) -> &Bytes {
        &self.public
    }

    /// Signs a message; about a millisecond of work. None when there is no randomness for blinding.
    pub fn sign<R: TryCryptoRng + ?Sized>(
        &self,
        hash: Hash,
        message: &[u8],
        random: &mut R,
    ) -> Option<Vec<u8>> {
        match hash {
            Hash::Sha1 => self
                .private
                .pkcs1v15_sign_with_rng::<Sha1, R>(random, message)
                .ok(),
            Hash::Sha256 => self
                .private
                .pkcs1v15_sign_with_rng::<Sha256, R>(random, message)
                .ok(),
            // RSA is not signed with it by anybody.
            Hash::Sm3 => None,
        }
    }

    /// A key for one purpose, which follows from this key and tells nothing about it.
    #[must_use]
    pub fn derive(&self, purpose: &[u8]) -> Zeroizing<[u8; 32]> {
        expand(&self.root, purpose)
    }
}

/// Said of a key that is of another kind.
const NOT_RSA: KeyError = KeyError("not an RSA key");

/// The key that computes, of one in the protocol's form.
///
/// # Errors
/// Not an RSA key, or one whose numbers do not belong together.
pub fn rsa_of(key: &PrivateKey) -> Result<rsa::PrivateKey, KeyError> {
    let PrivateKey::Rsa {
        modulus,
        public_exponent,
        private_exponent,
        p,
        q,
        ..
    } = key
    else {
        return Err(NOT_RSA);
    };
    let invalid = KeyError("the numbers of the RSA key do not belong together");
    let part = |octets: &[u8]| uint(octets).ok_or_else(|| invalid.clone());
    let mut private = rsa::PrivateKey::from_components(
        part(modulus)?,
        part(public_exponent)?,
        part(private_exponent)?,
        vec![part(p)?, part(q)?],
    )
    .map_err(|_| invalid.clone())?;
    private.precompute().map_err(|_| invalid)?;
    Ok(private)
}

/// HKDF-Extract of the private exponent.
fn root_of(private_exponent: &[u8]) -> Zeroizing<[u8; 32]> {
    keyed(b"jiexi node key 1", &[magnitude(private_exponent)])
}

/// One block of HKDF-Expand.
pub(super) fn expand(root: &[u8; 32], purpose: &[u8]) -> Zeroizing<[u8; 32]> {
    keyed(root, &[purpose, &[1]])
}

/// HMAC-SHA256 over parts.
fn keyed(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length");
    parts.iter().for_each(|part| mac.update(part));
    Zeroizing::new(mac.finalize().into_bytes().into())
}

/// What is wrong with a key or key file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyError(pub &'static str);

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for KeyError {}

/// Whether a file needs a passphrase.
#[must_use]
pub const fn is_protected(file: &KeyFile) -> bool {
    !matches!(file, KeyFile::Clear(_))
}

/// The key in a reference key file of any kind.
///
/// # Errors
/// The passphrase is wrong or missing, or the file asks for more work than is reasonable.
pub fn open_file(file: &KeyFile, passphrase: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    const WRONG: KeyError = KeyError("the passphrase is wrong, or the file is damaged");
    let plain = match file {
        KeyFile::Clear(key) => Some(key.to_vec()),
        KeyFile::Des { iv, ciphertext } => {
            let key = Zeroizing::new(Md5::digest(passphrase).to_vec());
            decrypt::<cbc::Decryptor<des::Des>>(&key[..8], iv, ciphertext)
        }
        KeyFile::TripleDes(derived) => {
            let key = derive_file_key(derived, 24, passphrase)?;
            decrypt::<cbc::Decryptor<des::TdesEde3>>(&key, &derived.iv, &derived.ciphertext)
        }
        KeyFile::Aes(derived) => {
            let key = derive_file_key(derived, 16, passphrase)?;
            decrypt::<cbc::Decryptor<Aes128>>(&key, &derived.iv, &derived.ciphertext)
        }
    };
    plain.map(Zeroizing::new).ok_or(WRONG)
}

/// Protects a key with a passphrase, as a file of kind 4.
///
/// # Errors
/// There is no randomness.
pub fn protect_file<R: TryCryptoRng + ?Sized>(
    key: &[u8],
    passphrase: &[u8],
    random: &mut R,
) -> Result<KeyFile, KeyError> {
    let no_randomness = |_| KeyError("the operating system gives no randomness");
    let (mut salt, mut iv) = ([0; SALT_SIZE], [0; 16]);
    random.try_fill_bytes(&mut salt).map_err(no_randomness)?;
    random.try_fill_bytes(&mut iv).map_err(no_randomness)?;
    let mut derived = Derived {
        salt: Bytes::copy_from_slice(&salt),
        iterations: FILE_ITERATIONS,
        key_bits: 128,
        iv: Bytes::copy_from_slice(&iv),
        ciphertext: Bytes::new(),
    };
    let secret = derive_file_key(&derived, 16, passphrase)?;
    let cipher = cbc::Encryptor::<Aes128>::new_from_slices(&secret, &iv)
        .map_err(|_| KeyError("the cipher refuses its key"))?;
    derived.ciphertext = Bytes::from(cipher.encrypt_padded_vec::<Pkcs7>(key));
    Ok(KeyFile::Aes(derived))
}

fn derive_file_key(
    derived: &Derived,
    size: usize,
    passphrase: &[u8],
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    if derived.iterations > FILE_ITERATIONS_MAX || derived.key_bits as usize != size * 8 {
        return Err(KeyError(
            "the key file asks for another key size or too many iterations",
        ));
    }
    let mut key = Zeroizing::new(vec![0; size]);
    pbkdf2::pbkdf2_hmac::<Sha1>(passphrase, &derived.salt, derived.iterations, &mut key);
    Ok(key)
}

fn decrypt<C: KeyIvInit + BlockModeDecrypt>(
    key: &[u8],
    iv: &[u8],
    octets: &[u8],
) -> Option<Vec<u8>> {
    let cipher = C::new_from_slices(key, iv).ok()?;
    cipher.decrypt_padded_vec::<Pkcs7>(octets).ok()
}
