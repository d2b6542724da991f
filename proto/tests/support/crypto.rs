//! The cryptography that the crate proper leaves out, to check what was recorded.

use aes::Aes128;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use hmac::{Hmac, KeyInit, Mac};
use jiexi_proto::message::challenge::{MacAlgorithm, Proof};
use jiexi_proto::value::key::{Derived, KeyFile, PublicKey, magnitude};
use md5::Md5;
use rsa::BoxedUint;
use rsa::pkcs1v15::Pkcs1v15Sign;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The hash with this name, as messages spell it, over all parts.
pub(crate) fn hash(name: &str, parts: &[&[u8]]) -> Vec<u8> {
    let all = parts.concat();
    match name {
        "MD5" => Md5::digest(all).to_vec(),
        "SHA1" => Sha1::digest(all).to_vec(),
        "SHA256" | "SHA-256" => Sha256::digest(all).to_vec(),
        other => panic!("no hash is called {other}"),
    }
}

/// HMAC-SHA1 or HMAC-SHA256.
pub(crate) fn hmac(name: &str, key: &[u8], octets: &[u8]) -> Vec<u8> {
    match name {
        "SHA1" => {
            let mac = Hmac::<Sha1>::new_from_slice(key).unwrap();
            mac.chain_update(octets).finalize().into_bytes().to_vec()
        }
        "SHA256" => {
            let mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
            mac.chain_update(octets).finalize().into_bytes().to_vec()
        }
        other => panic!("no hash is called {other}"),
    }
}

fn number(octets: &[u8]) -> BoxedUint {
    BoxedUint::from_be_slice_vartime(magnitude(octets))
}

/// An RSA key for checking.
pub(crate) fn rsa_key(key: &PublicKey) -> rsa::PublicKey {
    let PublicKey::Rsa {
        exponent, modulus, ..
    } = key
    else {
        panic!("not RSA: {key:?}")
    };
    rsa::PublicKey::new(number(modulus), number(exponent)).unwrap()
}

/// Whether this key made this signature over these octets.
pub(crate) fn verifies(key: &PublicKey, hash_name: &str, octets: &[u8], signature: &[u8]) -> bool {
    let digest = hash(hash_name, &[octets]);
    match key {
        PublicKey::Rsa { .. } => {
            let scheme = match hash_name {
                "SHA1" => Pkcs1v15Sign::new::<Sha1>(),
                _ => Pkcs1v15Sign::new::<Sha256>(),
            };
            rsa_key(key).verify(scheme, &digest, signature).is_ok()
        }
        PublicKey::Dsa { q, p, g, y, .. } => {
            use dsa::signature::hazmat::PrehashVerifier;
            let parts = dsa::Components::from_components(number(p), number(q), number(g)).unwrap();
            let key = dsa::VerifyingKey::from_components(parts, number(y)).unwrap();
            let Ok(signature) = dsa::Signature::try_from(signature) else {
                return false;
            };
            key.verify_prehash(&digest, &signature).is_ok()
        }
        other => panic!("{other:?} cannot sign"),
    }
}

/// Whether this SM2 key (X.509) made this signature in the name of `signer`, as the id-pointer SDK
/// does: over the SM3 of the octets.
pub(crate) fn sm2_verifies(spki: &[u8], signer: &[u8], octets: &[u8], signature: &[u8]) -> bool {
    use sm2::dsa::signature::Verifier;
    use sm2::pkcs8::DecodePublicKey;
    use sm3::Digest;
    let key = sm2::PublicKey::from_public_key_der(spki).unwrap();
    let key = sm2::dsa::VerifyingKey::new(std::str::from_utf8(signer).unwrap(), key).unwrap();
    let signature = sm2::dsa::Signature::from_der(signature).unwrap();
    key.verify(&sm3::Sm3::digest(octets), &signature).is_ok()
}

/// Whether a proof by secret key is right.
pub(crate) fn secret_proves(secret: &[u8], nonce: &[u8], digest: &[u8], proof: &Proof) -> bool {
    let challenged = [nonce, digest].concat();
    match proof {
        Proof::Signature { .. } => false,
        Proof::Old(answer) => hash("MD5", &[secret, &challenged, secret]) == *answer,
        Proof::Derived {
            salt,
            iterations,
            key_bits,
            mac,
        } => {
            let mut key = vec![0; *key_bits as usize / 8];
            pbkdf2::pbkdf2_hmac::<Sha1>(secret, salt, *iterations, &mut key);
            hmac("SHA1", &key, &challenged) == *mac
        }
        Proof::Plain {
            algorithm,
            digest: answer,
        } => {
            let expected = match *algorithm {
                MacAlgorithm::HMAC_SHA1 => hmac("SHA1", secret, &challenged),
                MacAlgorithm::HMAC_SHA256 => hmac("SHA256", secret, &challenged),
                plain => hash(plain.name().unwrap(), &[secret, &challenged, secret]),
            };
            expected == *answer
        }
    }
}

/// The first 16 octets of a session key, or all of it.
fn aes_key(session_key: &[u8]) -> &[u8] {
    &session_key[..16]
}

/// What an encrypted message holds: initialisation vector, then AES-128-CBC.
pub(crate) fn decrypt(session_key: &[u8], ciphertext: &[u8]) -> Vec<u8> {
    let (iv, rest) = ciphertext.split_at(16);
    let cipher = cbc::Decryptor::<Aes128>::new_from_slices(aes_key(session_key), iv).unwrap();
    cipher.decrypt_padded_vec::<Pkcs7>(rest).unwrap()
}

/// The other direction, with the same initialisation vector.
pub(crate) fn encrypt(session_key: &[u8], iv: &[u8], content: &[u8]) -> Vec<u8> {
    let cipher = cbc::Encryptor::<Aes128>::new_from_slices(aes_key(session_key), iv).unwrap();
    [iv, &cipher.encrypt_padded_vec::<Pkcs7>(content)].concat()
}

/// The private key in a file.
pub(crate) fn open_key_file(file: &KeyFile, passphrase: &[u8]) -> Vec<u8> {
    let derive = |derived: &Derived| {
        let mut key = vec![0; derived.key_bits as usize / 8];
        pbkdf2::pbkdf2_hmac::<Sha1>(passphrase, &derived.salt, derived.iterations, &mut key);
        key
    };
    match file {
        KeyFile::Clear(key) => key.to_vec(),
        KeyFile::Des { iv, ciphertext } => {
            let key = &hash("MD5", &[passphrase])[..8];
            let cipher = cbc::Decryptor::<des::Des>::new_from_slices(key, iv).unwrap();
            cipher.decrypt_padded_vec::<Pkcs7>(ciphertext).unwrap()
        }
        KeyFile::TripleDes(d) => {
            let cipher = cbc::Decryptor::<des::TdesEde3>::new_from_slices(&derive(d), &d.iv);
            cipher
                .unwrap()
                .decrypt_padded_vec::<Pkcs7>(&d.ciphertext)
                .unwrap()
        }
        KeyFile::Aes(d) => {
            let cipher = cbc::Decryptor::<Aes128>::new_from_slices(&derive(d), &d.iv);
            cipher
                .unwrap()
                .decrypt_padded_vec::<Pkcs7>(&d.ciphertext)
                .unwrap()
        }
    }
}
