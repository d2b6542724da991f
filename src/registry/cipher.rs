//! What protects the messages of a session: AES-128-CBC, and MACs over the message in clear.

use aes::Aes128;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt as _, BlockModeEncrypt as _, KeyIvInit as _};
use jiexi_proto::Version;
use subtle::ConstantTimeEq as _;

use super::auth::{around_sha1, hmac_sha256};

/// Octets of an initialisation vector, and of the part of the session key that encrypts.
pub const BLOCK: usize = 16;

/// The name of the MAC in credentials from version 2.7 on.
pub const MAC_NAME: &[u8] = b"HMAC-SHA256";
/// The name before that.
pub const OLD_MAC_NAME: &[u8] = b"SHA1";

/// Decrypts initialisation vector and ciphertext.
///
/// None for every kind of damage: which one it was must not be seen from outside, and is not, for
/// an answer to an undecipherable message is the same as to one whose MAC is wrong.
#[must_use]
pub fn decrypt(key: &[u8], octets: &[u8]) -> Option<Vec<u8>> {
    let (iv, ciphertext) = octets.split_first_chunk::<BLOCK>()?;
    let cipher = cbc::Decryptor::<Aes128>::new_from_slices(key.get(..BLOCK)?, iv).ok()?;
    cipher.decrypt_padded_vec::<Pkcs7>(ciphertext).ok()
}

/// Encrypts; the initialisation vector stands in front.
#[must_use]
pub fn encrypt(key: &[u8], iv: &[u8; BLOCK], content: &[u8]) -> Option<Vec<u8>> {
    let cipher = cbc::Encryptor::<Aes128>::new_from_slices(key.get(..BLOCK)?, iv).ok()?;
    Some([&iv[..], &cipher.encrypt_padded_vec::<Pkcs7>(content)].concat())
}

/// The MAC of a message: `covered` is what signatures of its version cover.
///
/// Before 2.7 it is SHA-1 of key, message, key: from the description, not from a recording.
#[must_use]
pub fn mac(version: Version, key: &[u8], covered: &[u8]) -> (&'static [u8], Vec<u8>) {
    if version >= Version::V2_7 {
        (MAC_NAME, hmac_sha256(key, covered))
    } else {
        (OLD_MAC_NAME, around_sha1(key, covered))
    }
}

/// Whether a message has the right MAC. Its name must be the one of its version: a peer that can do
/// better is not talked down.
#[must_use]
pub fn is_right(version: Version, key: &[u8], covered: &[u8], name: &[u8], given: &[u8]) -> bool {
    let (expected_name, expected) = mac(version, key, covered);
    name == expected_name && bool::from(expected.ct_eq(given))
}
