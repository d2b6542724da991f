//! SM2 keys: signatures with SM3, made as the id-pointer SDK makes them.
//!
//! The SDK hashes what it signs with SM3 first, and SM2 hashes that once more, behind the
//! distinguishing name of the signer: the handle of the user, as they wrote it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rsa::rand_core::TryCryptoRng;
use sm2::dsa::signature::{RandomizedSigner as _, Verifier as _};
use sm2::dsa::{Signature, SigningKey, VerifyingKey};
use sm2::elliptic_curve::Generate as _;
use sm2::pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _,
    LineEnding,
};
use sm3::{Digest as _, Sm3};
use zeroize::Zeroizing;

/// A key that belongs to nobody who could sign with it: the generator of the curve.
const GENERATOR: [u8; 33] = [
    0x02, 0x32, 0xC4, 0xAE, 0x2C, 0x1F, 0x19, 0x81, 0x19, 0x5F, 0x99, 0x04, 0x46, 0x6A, 0x39, 0xC9,
    0x94, 0x8F, 0xE3, 0x0B, 0xBF, 0xF2, 0x66, 0x0B, 0xE1, 0x71, 0x5A, 0x45, 0x89, 0x33, 0x4C, 0x74,
    0xC7,
];

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(sm2::PublicKey);

impl PublicKey {
    /// Reads a key in one of the forms that are in use: X.509 as DER or PEM, or the bare point.
    #[must_use]
    pub fn parse(octets: &[u8]) -> Option<Self> {
        let key = match spki_of_pem(octets) {
            Some(spki) => sm2::PublicKey::from_public_key_der(&spki).ok()?,
            None if octets.len() == 64 => {
                sm2::PublicKey::from_sec1_bytes(&[&[4], octets].concat()).ok()?
            }
            None => sm2::PublicKey::from_public_key_der(octets)
                .or_else(|_| sm2::PublicKey::from_sec1_bytes(octets))
                .ok()?,
        };
        Some(Self(key))
    }

    /// A key whose work takes as long as any other's and that proves nothing.
    pub(super) fn nobody() -> Option<Self> {
        Self::parse(&GENERATOR)
    }

    /// Whether the holder of the private half, by the name `signer`, signed this message.
    #[must_use]
    pub fn verifies(&self, signer: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let verified = || {
            let name = std::str::from_utf8(signer).ok()?;
            let key = VerifyingKey::new(name, self.0).ok()?;
            let signature = Signature::from_der(signature).ok()?;
            key.verify(&Sm3::digest(message), &signature).ok()
        };
        verified().is_some()
    }

    /// The key as PEM text, which is also its form in an `HS_PUBKEY` value.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn pem(&self) -> Result<String, sm2::pkcs8::spki::Error> {
        self.0.to_public_key_pem(LineEnding::LF)
    }
}

/// A private key. `Debug` does not show it; it is wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(sm2::SecretKey);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

impl PrivateKey {
    /// Makes a key.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn generate<R: TryCryptoRng + ?Sized>(random: &mut R) -> Result<Self, R::Error> {
        sm2::SecretKey::try_generate_from_rng(random).map(Self)
    }

    /// Reads PKCS#8 as PEM or DER; none when it is not an SM2 key.
    #[must_use]
    pub fn parse(octets: &[u8]) -> Option<Self> {
        let der = pem_body(octets, "PRIVATE KEY").map(Zeroizing::new);
        let der = der.as_ref().map_or(octets, |der| &der[..]);
        sm2::SecretKey::from_pkcs8_der(der).ok().map(Self)
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key())
    }

    /// The key as PEM (PKCS#8).
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn pem(&self) -> Result<Zeroizing<String>, sm2::pkcs8::Error> {
        self.0.to_pkcs8_pem(LineEnding::LF)
    }

    /// Signs a message by the name `signer`; DER. None without randomness, or for a name that is
    /// no text.
    pub fn sign<R: TryCryptoRng + ?Sized>(
        &self,
        signer: &[u8],
        message: &[u8],
        random: &mut R,
    ) -> Option<Vec<u8>> {
        let name = std::str::from_utf8(signer).ok()?;
        let key = SigningKey::new(name, &self.0).ok()?;
        let signature = key.try_sign_with_rng(random, &Sm3::digest(message)).ok()?;
        Some(signature.to_der().as_bytes().to_vec())
    }
}

/// The SubjectPublicKeyInfo in PEM text.
pub(super) fn spki_of_pem(octets: &[u8]) -> Option<Vec<u8>> {
    pem_body(octets, "PUBLIC KEY")
}

/// What stands in PEM text with this label. Lines may have any length: Java's are longer than RFC
/// 7468 allows.
pub(crate) fn pem_body(octets: &[u8], label: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(octets).ok()?.trim();
    let body = text
        .strip_prefix("-----BEGIN ")?
        .strip_prefix(label)?
        .strip_prefix("-----")?;
    let body = body
        .strip_suffix("-----")?
        .strip_suffix(label)?
        .strip_suffix("-----END ")?;
    let digits: Vec<u8> = body
        .bytes()
        .filter(|octet| !octet.is_ascii_whitespace())
        .collect();
    STANDARD.decode(digits).ok()
}
