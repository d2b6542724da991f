//! Keys as `HS_PUBKEY` values and site records hold them, private keys, and private key files.
//!
//! Only the framing: what is in which field. Nothing here computes or decrypts. Numbers are two's
//! complement, so a zero octet stands in front of one whose top bit is set; see [`magnitude`] and
//! [`number`].

use std::fmt;

use bytes::Bytes;

use crate::error::{DecodeError, ErrorKind};
use crate::limits::{ARRAY_MAX, NAME_MAX};
use crate::wire::{Reader, Writer};

/// A public key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum PublicKey {
    /// `RSA_PUB_KEY`.
    Rsa {
        /// Two octets after the name; 0.
        flags: u16,
        /// The public exponent.
        exponent: Bytes,
        /// The modulus.
        modulus: Bytes,
    },
    /// `DSA_PUB_KEY`.
    Dsa {
        /// Two octets after the name; 0.
        flags: u16,
        /// The order of the subgroup.
        q: Bytes,
        /// The modulus.
        p: Bytes,
        /// The generator.
        g: Bytes,
        /// The key itself.
        y: Bytes,
    },
    /// `DH_PUB_KEY`, in session set-ups.
    Dh {
        /// Two octets after the name; 0.
        flags: u16,
        /// The key itself.
        y: Bytes,
        /// The modulus.
        p: Bytes,
        /// The generator.
        g: Bytes,
    },
    /// `SM2_PUB_KEY`: the id-pointer SDK's.
    Sm2 {
        /// Two octets after the name; 0.
        flags: u16,
        /// The key: X.509 as PEM text in what the SDK writes; it also reads DER and the bare point.
        key: Bytes,
    },
    /// Another name (`SM9_PUB_KEY`), or no name at all (PEM text).
    Other(Bytes),
}

impl PublicKey {
    /// The name of RSA keys.
    pub const RSA: &'static [u8] = b"RSA_PUB_KEY";
    /// The name of DSA keys.
    pub const DSA: &'static [u8] = b"DSA_PUB_KEY";
    /// The name of SM2 keys.
    pub const SM2: &'static [u8] = b"SM2_PUB_KEY";
    /// The name of Diffie-Hellman keys.
    pub const DH: &'static [u8] = b"DH_PUB_KEY";

    /// Reads a key that is all of `octets`. A name that is not known gives [`Self::Other`].
    ///
    /// # Errors
    /// A known name with octets missing or left over.
    pub fn decode(octets: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::over(octets);
        let key = match reader.bytes(NAME_MAX, "key type").unwrap_or_default() {
            Self::RSA => Self::Rsa {
                flags: reader.u16("key flags")?,
                exponent: number_of(&mut reader)?,
                modulus: number_of(&mut reader).and_then(|modulus| {
                    let start = reader;
                    match reader.bytes(ARRAY_MAX, "empty field")? {
                        [] => Ok(modulus),
                        _ => Err(start.error(ErrorKind::Invalid, "empty field")),
                    }
                })?,
            },
            Self::DSA => Self::Dsa {
                flags: reader.u16("key flags")?,
                q: number_of(&mut reader)?,
                p: number_of(&mut reader)?,
                g: number_of(&mut reader)?,
                y: number_of(&mut reader)?,
            },
            Self::DH => Self::Dh {
                flags: reader.u16("key flags")?,
                y: number_of(&mut reader)?,
                p: number_of(&mut reader)?,
                g: number_of(&mut reader)?,
            },
            Self::SM2 => Self::Sm2 {
                flags: reader.u16("key flags")?,
                key: reader.owned(ARRAY_MAX, "SM2 key")?,
            },
            _ => return Ok(Self::Other(octets.clone())),
        };
        reader.finish("public key")?;
        Ok(key)
    }

    /// Appends the key.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (name, flags, parts): (_, _, &[&[u8]]) = match self {
            Self::Rsa {
                flags,
                exponent,
                modulus,
            } => (Self::RSA, flags, &[exponent, modulus, b""]),
            Self::Dsa { flags, q, p, g, y } => (Self::DSA, flags, &[q, p, g, y]),
            Self::Dh { flags, y, p, g } => (Self::DH, flags, &[y, p, g]),
            Self::Sm2 { flags, key } => (Self::SM2, flags, &[key]),
            Self::Other(octets) => return out.extend_from_slice(octets),
        };
        let mut writer = Writer::new(out);
        writer.bytes(name);
        writer.u16(*flags);
        parts.iter().for_each(|part| writer.bytes(part));
    }
}

/// A private key. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub enum PrivateKey {
    /// `RSA_PRIVCRT_KEY`.
    Rsa {
        /// The modulus.
        modulus: Bytes,
        /// The public exponent.
        public_exponent: Bytes,
        /// The private exponent.
        private_exponent: Bytes,
        /// The first prime.
        p: Bytes,
        /// The second prime.
        q: Bytes,
        /// The private exponent modulo p − 1.
        exponent_p: Bytes,
        /// The private exponent modulo q − 1.
        exponent_q: Bytes,
        /// The inverse of q modulo p.
        coefficient: Bytes,
    },
    /// `DSA_PRIV_KEY`.
    Dsa {
        /// The key itself.
        x: Bytes,
        /// The modulus.
        p: Bytes,
        /// The order of the subgroup.
        q: Bytes,
        /// The generator.
        g: Bytes,
    },
    /// Another name (`SM2_PRIV_KEY`, …).
    Other(Bytes),
}

impl PrivateKey {
    /// The name of RSA keys.
    pub const RSA: &'static [u8] = b"RSA_PRIVCRT_KEY";
    /// The name of DSA keys.
    pub const DSA: &'static [u8] = b"DSA_PRIV_KEY";

    /// Reads a key that is all of `octets`. A name that is not known gives [`Self::Other`].
    ///
    /// # Errors
    /// A known name with octets missing or left over.
    pub fn decode(octets: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::over(octets);
        let key = match reader.bytes(NAME_MAX, "key type").unwrap_or_default() {
            Self::RSA => Self::Rsa {
                modulus: number_of(&mut reader)?,
                public_exponent: number_of(&mut reader)?,
                private_exponent: number_of(&mut reader)?,
                p: number_of(&mut reader)?,
                q: number_of(&mut reader)?,
                exponent_p: number_of(&mut reader)?,
                exponent_q: number_of(&mut reader)?,
                coefficient: number_of(&mut reader)?,
            },
            Self::DSA => Self::Dsa {
                x: number_of(&mut reader)?,
                p: number_of(&mut reader)?,
                q: number_of(&mut reader)?,
                g: number_of(&mut reader)?,
            },
            _ => return Ok(Self::Other(octets.clone())),
        };
        reader.finish("private key")?;
        Ok(key)
    }

    /// Appends the key.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (name, parts): (_, &[&[u8]]) = match self {
            Self::Rsa {
                modulus,
                public_exponent,
                private_exponent,
                p,
                q,
                exponent_p,
                exponent_q,
                coefficient,
            } => (
                Self::RSA,
                &[
                    modulus,
                    public_exponent,
                    private_exponent,
                    p,
                    q,
                    exponent_p,
                    exponent_q,
                    coefficient,
                ],
            ),
            Self::Dsa { x, p, q, g } => (Self::DSA, &[x, p, q, g]),
            Self::Other(octets) => return out.extend_from_slice(octets),
        };
        let mut writer = Writer::new(out);
        writer.bytes(name);
        parts.iter().for_each(|part| writer.bytes(part));
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa { .. } => "PrivateKey::Rsa(…)",
            Self::Dsa { .. } => "PrivateKey::Dsa(…)",
            Self::Other(_) => "PrivateKey::Other(…)",
        })
    }
}

/// A private key file: how the key in it is protected. The plain text is a [`PrivateKey`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyFile {
    /// Kind 1: in clear.
    Clear(Bytes),
    /// Kind 2: DES-CBC with PKCS#5 padding; the key is the first 8 octets of MD5(passphrase).
    Des {
        /// The initialisation vector.
        iv: [u8; 8],
        /// The encrypted key.
        ciphertext: Bytes,
    },
    /// Kind 3: DESede-CBC with PKCS#5 padding.
    TripleDes(Derived),
    /// Kind 4: AES-CBC with PKCS#5 padding.
    Aes(Derived),
}

/// Encrypted with PBKDF2-HMAC-SHA1 of the passphrase.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Derived {
    /// The salt.
    pub salt: Bytes,
    /// How often the hash is applied. Comes from the file: cap it.
    pub iterations: u32,
    /// The size of the key in bits.
    pub key_bits: u32,
    /// The initialisation vector.
    pub iv: Bytes,
    /// The encrypted key.
    pub ciphertext: Bytes,
}

impl KeyFile {
    /// Reads a file.
    ///
    /// # Errors
    /// A kind that is not known, octets missing or left over.
    pub fn decode(octets: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::over(octets);
        let start = reader;
        let file = match reader.u32("key file kind")? {
            1 => Self::Clear(reader.owned_rest()),
            2 => Self::Des {
                iv: reader.array("IV")?,
                ciphertext: reader.owned_rest(),
            },
            3 => Self::TripleDes(Derived::read(&mut reader)?),
            4 => Self::Aes(Derived::read(&mut reader)?),
            _ => return Err(start.error(ErrorKind::Invalid, "key file kind")),
        };
        reader.finish("key file")?;
        Ok(file)
    }

    /// Appends the file.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        match self {
            Self::Clear(key) => {
                writer.u32(1);
                writer.raw(key);
            }
            Self::Des { iv, ciphertext } => {
                writer.u32(2);
                writer.raw(iv);
                writer.raw(ciphertext);
            }
            Self::TripleDes(derived) => {
                writer.u32(3);
                derived.write(&mut writer);
            }
            Self::Aes(derived) => {
                writer.u32(4);
                derived.write(&mut writer);
            }
        }
    }
}

impl Derived {
    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            salt: reader.owned(ARRAY_MAX, "salt")?,
            iterations: reader.u32("iterations")?,
            key_bits: reader.u32("key bits")?,
            iv: reader.owned(ARRAY_MAX, "IV")?,
            ciphertext: reader.owned(ARRAY_MAX, "ciphertext")?,
        })
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.bytes(&self.salt);
        writer.u32(self.iterations);
        writer.u32(self.key_bits);
        writer.bytes(&self.iv);
        writer.bytes(&self.ciphertext);
    }
}

fn number_of(reader: &mut Reader<'_>) -> Result<Bytes, DecodeError> {
    reader.owned(ARRAY_MAX, "key number")
}

/// The octets of a positive number without the zeros in front.
#[must_use]
pub fn magnitude(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|octet| **octet == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// A positive number as keys hold it: with a zero octet in front when its top bit is set.
#[must_use]
pub fn number(magnitude_octets: &[u8]) -> Bytes {
    let octets = magnitude(magnitude_octets);
    match octets.first() {
        Some(first) if *first < 0x80 => Bytes::copy_from_slice(octets),
        _ => Bytes::from([&[0], octets].concat()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_never_look_negative() {
        assert_eq!(number(&[0x80]), [0, 0x80][..]);
        assert_eq!(number(&[0, 0, 1]), [1][..]);
        assert_eq!(number(&[]), [0][..]);
        assert_eq!(magnitude(&[0, 0x80]), [0x80]);
    }

    #[test]
    fn other_keys_are_octets() {
        for octets in [
            &b"-----BEGIN PUBLIC KEY-----"[..],
            b"\0\0\0\x0bSM9_PUB_KEY\0\0",
            b"",
        ] {
            let octets = Bytes::from_static(octets);
            assert_eq!(PublicKey::decode(&octets), Ok(PublicKey::Other(octets)));
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let key = PrivateKey::Other(Bytes::from_static(b"secret"));
        assert_eq!(format!("{key:?}"), "PrivateKey::Other(…)");
    }
}
