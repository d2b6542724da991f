//! Public keys as JSON Web Keys, both ways: RSA and DSA; other keys have no such form here.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use jiexi_proto::value::key::{PublicKey, magnitude, number};
use serde_json::{Map, Value as Json, json};

use super::{JsonError, data::encoded};

/// A key in wire form as JSON; `None` when it is not an RSA or DSA key.
#[must_use]
pub fn write(octets: &Bytes) -> Option<Json> {
    let (kind, numbers): (_, Vec<(&str, Bytes)>) = match PublicKey::decode(octets).ok()? {
        PublicKey::Rsa {
            exponent, modulus, ..
        } => ("RSA", vec![("n", modulus), ("e", exponent)]),
        PublicKey::Dsa { q, p, g, y, .. } => ("DSA", vec![("p", p), ("q", q), ("g", g), ("y", y)]),
        PublicKey::Dh { .. } | PublicKey::Sm2 { .. } | PublicKey::Other(_) => return None,
    };
    let mut object = Map::new();
    object.insert("kty".into(), kind.into());
    for (name, number) in numbers {
        object.insert(
            name.into(),
            URL_SAFE_NO_PAD.encode(magnitude(&number)).into(),
        );
    }
    Some(json!({"format": "key", "value": object}))
}

/// Reads a key; gives its wire form.
///
/// # Errors
/// Names the field and what is wrong with it.
pub fn read(json: &Json) -> Result<Vec<u8>, JsonError> {
    let field = |name: &str| {
        let text = json
            .get(name)
            .and_then(Json::as_str)
            .ok_or_else(|| JsonError::new(name, "is missing"))?;
        let octets = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|error| JsonError::new(name, error))?;
        Ok(number(&octets))
    };
    let key = match json.get("kty").and_then(Json::as_str) {
        Some("RSA") => PublicKey::Rsa {
            flags: 0,
            exponent: field("e")?,
            modulus: field("n")?,
        },
        Some("DSA") => PublicKey::Dsa {
            flags: 0,
            q: field("q")?,
            p: field("p")?,
            g: field("g")?,
            y: field("y")?,
        },
        _ => {
            return Err(JsonError::new(
                "kty",
                "must be \"RSA\" or \"DSA\"; give other keys as base64",
            ));
        }
    };
    Ok(encoded(|out| key.encode(out)))
}
