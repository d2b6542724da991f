//! The data of a value as JSON: `{"format":…,"value":…}`, both ways.
//!
//! | format | value | written for |
//! |---|---|---|
//! | `string` | text | data that are text without control characters |
//! | `base64` | RFC 4648, padded | other data, and data of the types below in an unusual encoding |
//! | `hex` | hexadecimal | never written, read |
//! | `admin` | `{"handle","index","permissions"}`; 12 bits as text, "list" first, "add handle" last | `HS_ADMIN` |
//! | `vlist` | `[{"handle","index"}]` | `HS_VLIST` |
//! | `site` | see [`super::site`] | `HS_SITE`, `HS_SITE.*` |
//! | `key` | a JSON Web Key, RSA or DSA | `HS_PUBKEY` |
//!
//! A bare string is read as `string`.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use jiexi_proto::value::{
    Reference,
    admin::{Admin, AdminRights},
    list,
    site::SiteRecord,
};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{JsonError, direct::readable, key, site, value};

/// The data of a value of type `kind` as JSON that reads back as the same bytes.
#[must_use]
pub fn write(kind: &[u8], data: &Bytes) -> Json {
    let special = match kind {
        Admin::TYPE => write_admin(data),
        list::TYPE => write_list(data),
        b"HS_PUBKEY" => key::write(data),
        _ if kind == b"HS_SITE" || kind.starts_with(b"HS_SITE.") => write_site(data),
        _ => None,
    };
    // A form that would not read back as these bytes is no form.
    if let Some(json) = special.filter(|json| read(json).is_ok_and(|back| back == data[..])) {
        return json;
    }
    match readable(data) {
        Some(text) => json!({"format": "string", "value": text}),
        None => json!({"format": "base64", "value": STANDARD.encode(data)}),
    }
}

/// Reads the data of a value.
///
/// # Errors
/// Names the field and what is wrong with it.
pub fn read(json: &Json) -> Result<Vec<u8>, JsonError> {
    if let Json::String(text) = json {
        return Ok(text.clone().into_bytes());
    }
    let (Some(format), Some(value)) =
        (json.get("format").and_then(Json::as_str), json.get("value"))
    else {
        return Err(JsonError::new(
            "",
            "must be a string, or an object with format and value",
        ));
    };
    let text = || {
        value
            .as_str()
            .ok_or_else(|| JsonError::new("", format!("of format {format} must be a string")))
    };
    let read = match format {
        "string" => text().map(|text| text.to_owned().into_bytes()),
        "base64" => text().and_then(|text| {
            STANDARD
                .decode(text)
                .map_err(|error| JsonError::new("", error))
        }),
        "hex" => {
            text().and_then(|text| hex::decode(text).map_err(|error| JsonError::new("", error)))
        }
        "admin" => read_admin(value),
        "vlist" => read_list(value),
        "site" => site::read(value).map(|site| encoded(|out| site.encode(out))),
        "key" => key::read(value),
        _ => {
            let message =
                format!("{format:?} is not one of string, base64, hex, admin, vlist, site, key");
            return Err(JsonError::new("format", message));
        }
    };
    read.map_err(|error| error.within("value"))
}

/// What an encoder appends.
pub(crate) fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

/// An administrator as people may write one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenAdmin {
    handle: String,
    index: u32,
    permissions: String,
}

/// The bits of `permissions`.
const ADMIN_BITS: usize = 12;

fn write_admin(data: &Bytes) -> Option<Json> {
    let admin = Admin::decode(data).ok()?;
    let handle = std::str::from_utf8(&admin.admin.handle).ok()?;
    let permissions = format!("{:012b}", admin.rights.0);
    Some(json!({"format": "admin", "value":
        {"handle": handle, "index": admin.admin.index, "permissions": permissions}}))
}

fn read_admin(json: &Json) -> Result<Vec<u8>, JsonError> {
    let written = WrittenAdmin::deserialize(json).map_err(|error| JsonError::new("", error))?;
    let bits = u16::from_str_radix(&written.permissions, 2)
        .ok()
        .filter(|_| written.permissions.len() == ADMIN_BITS);
    let rights = bits.map(AdminRights).ok_or_else(|| {
        JsonError::new(
            "permissions",
            "must be 12 of 0 and 1, such as \"011111110011\": list … add handle",
        )
    })?;
    let admin = Reference {
        handle: Bytes::from(written.handle),
        index: written.index,
    };
    Ok(encoded(|out| {
        Admin {
            rights,
            admin,
            padded: false,
        }
        .encode(out)
    }))
}

fn write_list(data: &Bytes) -> Option<Json> {
    let references = list::decode(data).ok()?;
    let references: Option<Vec<Json>> = references.iter().map(value::write_reference).collect();
    Some(json!({"format": "vlist", "value": references?}))
}

fn read_list(json: &Json) -> Result<Vec<u8>, JsonError> {
    let written = Vec::<value::WrittenReference>::deserialize(json)
        .map_err(|error| JsonError::new("", error))?;
    let references: Vec<Reference> = written.into_iter().map(Reference::from).collect();
    Ok(encoded(|out| list::encode(&references, out)))
}

fn write_site(data: &Bytes) -> Option<Json> {
    Some(json!({"format": "site", "value": site::write(&SiteRecord::decode(data).ok()?)?}))
}
