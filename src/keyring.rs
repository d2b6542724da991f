//! Private keys in the forms that tools exchange: reference key files, PEM, JSON Web Keys. RSA, and SM2 as PEM.

use std::fmt;
use std::path::Path;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use getrandom::SysRng;
use jiexi_proto::value::key::{KeyFile, PrivateKey, PublicKey, magnitude, number};
use rsa::pkcs1::DecodeRsaPrivateKey as _;
use rsa::pkcs8::{
    DecodePrivateKey as _, DecodePublicKey as _, EncodePrivateKey as _, EncodePublicKey as _,
    LineEnding,
};
use rsa::traits::PublicKeyParts as _;
use serde_json::{Map, Value as Json};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::identity::{self, IdentityError, KeyPair};
use crate::registry::{keys, sm2};

/// The longest key file.
const FILE_MAX: usize = 64 * 1024;

/// The fields of a private JSON Web Key, in the order of the protocol's form.
const FIELDS: [&str; 8] = ["n", "e", "d", "p", "q", "dp", "dq", "qi"];

/// Why a key cannot be read or written. Never holds a part of it.
#[derive(Debug)]
pub struct KeyringError(String);

impl fmt::Display for KeyringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for KeyringError {}

impl From<IdentityError> for KeyringError {
    fn from(error: IdentityError) -> Self {
        Self(error.to_string())
    }
}

fn error(message: impl fmt::Display) -> KeyringError {
    KeyringError(message.to_string())
}

/// Reads a private key in any of the forms. The passphrase opens protected reference files.
///
/// # Errors
/// The file cannot be read or is none of these; the passphrase is missing or wrong.
pub fn read(path: &Path, passphrase: Option<&[u8]>) -> Result<KeyPair, KeyringError> {
    let shown = path.display();
    let octets = Zeroizing::new(
        std::fs::read(path).map_err(|cause| error(format_args!("{shown}: {cause}")))?,
    );
    if octets.len() > FILE_MAX {
        return Err(error(format_args!("{shown}: too long for a key")));
    }
    parse(&octets, passphrase).map_err(|cause| error(format_args!("{shown}: {cause}")))
}

/// Reads an SM2 key (PKCS#8 as PEM or DER); none when the file holds something else.
///
/// # Errors
/// The file cannot be read.
pub fn sm2(path: &Path) -> Result<Option<sm2::PrivateKey>, KeyringError> {
    let octets = std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(|cause| error(format_args!("{}: {cause}", path.display())))?;
    Ok((octets.len() <= FILE_MAX)
        .then(|| sm2::PrivateKey::parse(&octets))
        .flatten())
}

/// Reads a private key from its octets.
///
/// # Errors
/// As [`read`].
pub fn parse(octets: &[u8], passphrase: Option<&[u8]>) -> Result<KeyPair, KeyringError> {
    let private = if octets.starts_with(b"-----BEGIN") {
        let text = std::str::from_utf8(octets).map_err(error)?.trim();
        let key = rsa::PrivateKey::from_pkcs8_pem(text)
            .ok()
            .or_else(|| rsa::PrivateKey::from_pkcs1_pem(text).ok())
            .ok_or_else(|| error("not an unencrypted RSA key in PEM (PKCS#8 or PKCS#1)"))?;
        identity::private_of(&key)?
    } else if octets.first() == Some(&b'{') {
        from_jwk(&serde_json::from_slice(octets).map_err(|_| error("not JSON"))?)?
    } else {
        let file = KeyFile::decode(&Bytes::copy_from_slice(octets))
            .map_err(|_| error("neither a reference key file, nor PEM, nor a JSON Web Key"))?;
        if keys::is_protected(&file) && passphrase.is_none() {
            return Err(error("protected by a passphrase: give --passphrase-file"));
        }
        let key = keys::open_file(&file, passphrase.unwrap_or_default()).map_err(error)?;
        PrivateKey::decode(&Bytes::copy_from_slice(&key))
            .map_err(|_| error("the passphrase is wrong, or the file is damaged"))?
    };
    // The numbers must belong together, or it is found out when the node signs with it.
    keys::NodeKey::new(&private).map_err(error)?;
    KeyPair::of(private).ok_or_else(|| error("not an RSA key"))
}

/// Reads the public half of a key in any of the forms, as it stands in an `HS_PUBKEY` value: of a private key, or a public
/// key by itself (wire form, PEM or JSON Web Key). That is the wire form, for SM2 also PEM, as clients write it.
///
/// # Errors
/// As [`read`].
pub fn read_public(path: &Path, passphrase: Option<&[u8]>) -> Result<Bytes, KeyringError> {
    let shown = path.display();
    let octets = std::fs::read(path).map_err(|cause| error(format_args!("{shown}: {cause}")))?;
    let octets = Bytes::from(Zeroizing::new(octets).to_vec());
    if octets.len() > FILE_MAX {
        return Err(error(format_args!("{shown}: too long for a key")));
    }
    let alone = match octets.first() {
        Some(b'{') => serde_json::from_slice::<Json>(&octets)
            .ok()
            .filter(|json| json.get("d").is_none())
            .and_then(|json| crate::json::key::read(&json).ok()),
        _ if octets.starts_with(b"-----BEGIN PUBLIC KEY") => std::str::from_utf8(&octets)
            .ok()
            .and_then(|text| rsa::PublicKey::from_public_key_pem(text.trim()).ok())
            .map(|key| wire_of(&key))
            .or_else(|| sm2::PublicKey::parse(&octets).map(|_| octets.to_vec())),
        _ if octets.starts_with(b"-----BEGIN") => sm2::PrivateKey::parse(&octets)
            .and_then(|key| key.public().pem().ok())
            .map(String::into_bytes),
        _ => match PublicKey::decode(&octets) {
            Ok(PublicKey::Rsa { .. } | PublicKey::Dsa { .. }) => Some(octets.to_vec()),
            Ok(PublicKey::Sm2 { key, .. }) => sm2::PublicKey::parse(&key).map(|_| octets.to_vec()),
            _ => None,
        },
    };
    match alone {
        Some(key) => Ok(Bytes::from(key)),
        None => parse(&octets, passphrase)
            .map(|pair| pair.public_octets())
            .map_err(|cause| error(format_args!("{shown}: {cause}"))),
    }
}

/// An RSA public key in wire form.
fn wire_of(key: &rsa::PublicKey) -> Vec<u8> {
    let mut out = Vec::new();
    PublicKey::Rsa {
        flags: 0,
        exponent: number(&key.e_bytes()),
        modulus: number(&key.n_bytes()),
    }
    .encode(&mut out);
    out
}

/// The reference key file of a pair; with a passphrase it is protected (kind 4).
///
/// # Errors
/// There is no randomness.
pub fn file(pair: &KeyPair, passphrase: Option<&[u8]>) -> Result<Zeroizing<Vec<u8>>, KeyringError> {
    let Some(passphrase) = passphrase else {
        return Ok(Zeroizing::new(pair.file()));
    };
    let mut key = Zeroizing::new(Vec::new());
    pair.private.encode(&mut key);
    let protected = keys::protect_file(&key, passphrase, &mut SysRng).map_err(error)?;
    let mut out = Vec::new();
    protected.encode(&mut out);
    Ok(Zeroizing::new(out))
}

/// The pair as PEM (PKCS#8).
///
/// # Errors
/// It cannot be encoded.
pub fn pem(pair: &KeyPair) -> Result<Zeroizing<String>, KeyringError> {
    rsa_of(pair)?
        .to_pkcs8_pem(LineEnding::LF)
        .map_err(|_| error("the key cannot be written as PEM"))
}

/// The public half as PEM.
///
/// # Errors
/// It cannot be encoded.
pub fn public_pem(pair: &KeyPair) -> Result<String, KeyringError> {
    let public = rsa_of(pair)?.to_public_key();
    public
        .to_public_key_pem(LineEnding::LF)
        .map_err(|_| error("the key cannot be written as PEM"))
}

/// The pair as a JSON Web Key; the public half alone with `public`.
#[must_use]
pub fn jwk(pair: &KeyPair, public: bool) -> Json {
    let mut object = Map::new();
    object.insert("kty".into(), "RSA".into());
    let wanted = if public { 2 } else { FIELDS.len() };
    for (name, number) in FIELDS.iter().zip(numbers(&pair.private)).take(wanted) {
        object.insert(
            (*name).into(),
            URL_SAFE_NO_PAD.encode(magnitude(number)).into(),
        );
    }
    Json::Object(object)
}

/// The SHA-256 of the public half in wire form: what people compare.
#[must_use]
pub fn fingerprint(pair: &KeyPair) -> String {
    hex::encode(Sha256::digest(pair.public_octets()))
}

/// The bits of the modulus.
#[must_use]
pub fn bits(pair: &KeyPair) -> usize {
    numbers(&pair.private).first().map_or(0, |modulus| {
        let octets = magnitude(modulus);
        let unused = octets.first().map_or(0, |first| first.leading_zeros());
        octets.len() * 8 - unused as usize
    })
}

fn numbers(key: &PrivateKey) -> Vec<&Bytes> {
    match key {
        PrivateKey::Rsa {
            modulus,
            public_exponent,
            private_exponent,
            p,
            q,
            exponent_p,
            exponent_q,
            coefficient,
        } => {
            vec![
                modulus,
                public_exponent,
                private_exponent,
                p,
                q,
                exponent_p,
                exponent_q,
                coefficient,
            ]
        }
        PrivateKey::Dsa { .. } | PrivateKey::Other(_) => Vec::new(),
    }
}

fn from_jwk(json: &Json) -> Result<PrivateKey, KeyringError> {
    if json.get("kty").and_then(Json::as_str) != Some("RSA") {
        return Err(error("kty: must be \"RSA\""));
    }
    let field = |name: &str| {
        let text = json
            .get(name)
            .and_then(Json::as_str)
            .ok_or_else(|| error(format_args!("{name}: is missing")))?;
        let octets = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| error(format_args!("{name}: not base64url")))?;
        Ok::<Bytes, KeyringError>(number(&octets))
    };
    let key = PrivateKey::Rsa {
        modulus: field("n")?,
        public_exponent: field("e")?,
        private_exponent: field("d")?,
        p: field("p")?,
        q: field("q")?,
        exponent_p: Bytes::new(),
        exponent_q: Bytes::new(),
        coefficient: Bytes::new(),
    };
    // The other three follow from these; wrong ones would be found out when another tool signs.
    Ok(identity::private_of(&keys::rsa_of(&key).map_err(error)?)?)
}

fn rsa_of(pair: &KeyPair) -> Result<rsa::PrivateKey, KeyringError> {
    keys::rsa_of(&pair.private).map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(name: &str) -> Json {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("proto/tests/vectors")
            .join(name);
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    fn octets(json: &Json) -> Vec<u8> {
        hex::decode(json.as_str().unwrap()).unwrap()
    }

    /// Goal: every recorded key file opens with its passphrase and with no other.
    #[test]
    fn recorded_key_files_open() {
        for file in vectors("private_key_files.json").as_array().unwrap() {
            let passphrase = file["passphrase"].as_str().unwrap_or_default().as_bytes();
            let pair = parse(&octets(&file["file_hex"]), Some(passphrase)).unwrap();
            let mut plain = Vec::new();
            pair.private.encode(&mut plain);
            assert_eq!(plain, octets(&file["plain_hex"]));
            if file["enc_type"] != 1 {
                assert!(parse(&octets(&file["file_hex"]), Some(b"another")).is_err());
                assert!(parse(&octets(&file["file_hex"]), None).is_err());
            }
        }
    }

    /// Goal: a key survives each form.
    #[test]
    fn forms_are_inverse() {
        let pair = parse(&octets(&vectors("keys.json")["server_priv.bin_hex"]), None).unwrap();
        assert_eq!(bits(&pair), 2048);
        let forms = [
            file(&pair, None).unwrap().to_vec(),
            file(&pair, Some(b"correct horse")).unwrap().to_vec(),
            pem(&pair).unwrap().as_bytes().to_vec(),
            jwk(&pair, false).to_string().into_bytes(),
        ];
        for form in forms {
            assert!(parse(&form, Some(b"correct horse")).unwrap() == pair);
        }
        assert!(jwk(&pair, true).get("d").is_none());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let public = [
            file(&pair, Some(b"correct horse")).unwrap().to_vec(),
            pem(&pair).unwrap().as_bytes().to_vec(),
            public_pem(&pair).unwrap().into_bytes(),
            jwk(&pair, true).to_string().into_bytes(),
            jwk(&pair, false).to_string().into_bytes(),
            pair.public_octets().to_vec(),
        ];
        for form in public {
            std::fs::write(&path, &form).unwrap();
            let read = read_public(&path, Some(b"correct horse")).unwrap();
            assert_eq!(read, pair.public_octets());
        }
        std::fs::write(&path, b"no key").unwrap();
        assert!(read_public(&path, None).is_err());
        assert!(
            public_pem(&pair)
                .unwrap()
                .starts_with("-----BEGIN PUBLIC KEY-----")
        );
    }
}
