//! Proving who asks: the challenge (code 402), its answer (op 200), and checking one elsewhere
//! (op 201).
//!
//! RFC 3652 §3.5. What is proved is the possession of a key over nonce and request digest, one
//! after the other. The digest stands in front of the body, but after the nonce in version 2.0.

use bytes::Bytes;

use crate::code::{HashId, Version};
use crate::error::DecodeError;
use crate::limits::{ARRAY_MAX, NAME_MAX, NONCE_MAX};
use crate::value::Reference;
use crate::wire::{Reader, Writer};

/// A digest of the request's header and body, in front of a response's body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Digest {
    /// The hash; see [`HashId::of_version`].
    pub hash: HashId,
    /// As many octets as that hash has.
    pub octets: Bytes,
}

impl Digest {
    /// Reads a digest block; `None` when the hash is not a known one, so that its size is not.
    ///
    /// # Errors
    /// Octets missing.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        let mut ahead = *reader;
        let hash = HashId(ahead.u8("digest hash")?);
        let Some(size) = hash.size() else {
            return Ok(None);
        };
        let octets = ahead.take(size, "request digest")?;
        *reader = ahead;
        Ok(Some(Self {
            hash,
            octets: reader.share(octets),
        }))
    }

    /// Appends the block.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        writer.u8(self.hash.0);
        writer.raw(&self.octets);
    }
}

/// A challenge.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Challenge {
    /// Random octets, usually 16.
    pub nonce: Bytes,
    /// The MD5 of the request in version 2.0; later ones have a [`Digest`] in front.
    pub old_digest: Option<Bytes>,
}

impl Challenge {
    /// Reads what follows the digest block.
    ///
    /// # Errors
    /// Octets missing, a length above its limit.
    pub fn decode(version: Version, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let nonce = reader.owned(NONCE_MAX, "nonce")?;
        let old_digest = match version < Version::V2_1 {
            true => Some(reader.owned(NONCE_MAX, "request digest")?),
            false => None,
        };
        Ok(Self { nonce, old_digest })
    }

    /// Appends it.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        writer.bytes(&self.nonce);
        if let Some(digest) = &self.old_digest {
            writer.bytes(digest);
        }
    }
}

/// The answer to a challenge; the session id of the envelope says which one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChallengeAnswer {
    /// `HS_PUBKEY` or `HS_SECKEY`.
    pub auth_type: Bytes,
    /// The value with the user's key; index 0 is any.
    pub user: Reference,
    /// The proof; see [`Proof::decode`].
    pub answer: Bytes,
}

impl ChallengeAnswer {
    /// Reads the body.
    ///
    /// # Errors
    /// Octets missing, a length above its limit.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            auth_type: reader.owned(NAME_MAX, "authentication type")?,
            user: Reference::read(reader)?,
            answer: reader.owned(ARRAY_MAX, "answer")?,
        })
    }

    /// Appends the body.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        writer.bytes(&self.auth_type);
        self.user.write(writer);
        writer.bytes(&self.answer);
    }
}

/// Asks the home of a secret key whether an answer is right; the answer to this is one octet, 1
/// for yes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifyChallenge {
    /// The value with the secret key.
    pub user: Reference,
    /// The nonce of the challenge.
    pub nonce: Bytes,
    /// The digest of the challenge.
    pub digest: Bytes,
    /// The hash of the digest, where it is named: servers up to version 2.2 write it in the place of the length.
    pub hash: Option<HashId>,
    /// The answer of the user.
    pub answer: Bytes,
}

impl VerifyChallenge {
    /// Reads the body.
    ///
    /// # Errors
    /// Octets missing, a length above its limit.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let user = Reference::read(reader)?;
        let nonce = reader.owned(NONCE_MAX, "nonce")?;
        // A length begins with 0, which is no hash.
        let (hash, digest) = match Digest::decode(reader)? {
            Some(Digest { hash, octets }) => (Some(hash), octets),
            None => (None, reader.owned(NONCE_MAX, "request digest")?),
        };
        Ok(Self {
            user,
            nonce,
            digest,
            hash,
            answer: reader.owned(ARRAY_MAX, "answer")?,
        })
    }

    /// Appends the body.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        self.user.write(writer);
        writer.bytes(&self.nonce);
        match self.hash {
            Some(hash) => Digest {
                hash,
                octets: self.digest.clone(),
            }
            .encode(writer),
            None => writer.bytes(&self.digest),
        }
        writer.bytes(&self.answer);
    }
}

open_code! {
    /// How a secret key is used in an answer.
    MacAlgorithm(u8) {
        /// MD5 of secret, nonce, digest, secret.
        MD5_DEFAULT = 0 => "MD5",
        /// The same.
        MD5 = 1 => "MD5",
        /// SHA-1 of secret, nonce, digest, secret.
        SHA1 = 2 => "SHA1",
        /// SHA-256 of secret, nonce, digest, secret.
        SHA256 = 3 => "SHA256",
        /// HMAC-SHA1 of nonce and digest, keyed with the secret.
        HMAC_SHA1 = 0x12 => "HMAC-SHA1",
        /// HMAC-SHA256 of nonce and digest, keyed with the secret.
        HMAC_SHA256 = 0x13 => "HMAC-SHA256",
        /// HMAC-SHA1 of nonce and digest, keyed with PBKDF2-HMAC-SHA1 of the secret.
        PBKDF2_HMAC_SHA1 = 0x22 => "PBKDF2-HMAC-SHA1",
    }
}

/// What the answer to a challenge holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Proof {
    /// `HS_PUBKEY`: a signature over nonce and digest.
    Signature {
        /// The hash, by name: `SHA-256`, `SHA1`, and in the SDK `SHA256` and `SM3`.
        hash: Bytes,
        /// The signature: PKCS#1 v1.5 for RSA, DER for DSA and SM2.
        signature: Bytes,
    },
    /// `HS_SECKEY` from 2.7: with a key derived from the secret.
    Derived {
        /// The salt.
        salt: Bytes,
        /// How often the hash is applied. Comes from the client: cap it.
        iterations: u32,
        /// The size of the derived key in bits. Comes from the client as well.
        key_bits: u32,
        /// The MAC.
        mac: Bytes,
    },
    /// `HS_SECKEY` from 2.1: with the secret itself.
    Plain {
        /// How.
        algorithm: MacAlgorithm,
        /// The digest or MAC.
        digest: Bytes,
    },
    /// `HS_SECKEY` in 2.0: as [`MacAlgorithm::MD5`], without saying so.
    Old(Bytes),
}

impl Proof {
    /// The type of authentication by a public key.
    pub const PUBLIC_KEY: &'static [u8] = b"HS_PUBKEY";
    /// The type of authentication by a secret key.
    pub const SECRET_KEY: &'static [u8] = b"HS_SECKEY";
    /// Octets of the form of 2.0; no other answer has so few.
    const OLD_SIZE: usize = 16;

    /// Reads the answer of an authentication type: anything but `HS_PUBKEY` is read as by secret.
    ///
    /// # Errors
    /// Octets missing or left over.
    pub fn decode(auth_type: &[u8], answer: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::over(answer);
        let proof = if auth_type == Self::PUBLIC_KEY {
            Self::Signature {
                hash: reader.owned(NAME_MAX, "hash name")?,
                signature: reader.owned(ARRAY_MAX, "signature")?,
            }
        } else if answer.len() == Self::OLD_SIZE {
            Self::Old(reader.owned_rest())
        } else {
            match MacAlgorithm(reader.u8("MAC algorithm")?) {
                MacAlgorithm::PBKDF2_HMAC_SHA1 => Self::Derived {
                    salt: reader.owned(ARRAY_MAX, "salt")?,
                    iterations: reader.u32("iterations")?,
                    key_bits: reader.u32("key bits")?,
                    mac: reader.owned(ARRAY_MAX, "MAC")?,
                },
                algorithm => Self::Plain {
                    algorithm,
                    digest: reader.owned_rest(),
                },
            }
        };
        reader.finish("answer")?;
        Ok(proof)
    }

    /// Appends the answer.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        match self {
            Self::Signature { hash, signature } => {
                writer.bytes(hash);
                writer.bytes(signature);
            }
            Self::Derived {
                salt,
                iterations,
                key_bits,
                mac,
            } => {
                writer.u8(MacAlgorithm::PBKDF2_HMAC_SHA1.0);
                writer.bytes(salt);
                writer.u32(*iterations);
                writer.u32(*key_bits);
                writer.bytes(mac);
            }
            Self::Plain { algorithm, digest } => {
                writer.u8(algorithm.0);
                writer.raw(digest);
            }
            Self::Old(digest) => writer.raw(digest),
        }
    }
}
