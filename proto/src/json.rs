//! Messages as JSON, for people: the names and the nesting of the recorded vectors.
//!
//! Octets are hexadecimal where a field always holds octets; where it may hold text it is text, or
//! `hex:…` when it is not printable UTF-8.

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::{Map, Value as Json, json};

use crate::Permissions;
use crate::code::Version;
use crate::error::DecodeError;
use crate::message::body::Body;
use crate::message::challenge::{ChallengeAnswer, MacAlgorithm, Proof};
use crate::message::credential::{Credential, CredentialField, signed_prefix};
use crate::message::replication::{RetrieveTransactions, Share, Since};
use crate::message::session::{Exchange, KeyExchangeMode, SessionKey, SessionReady, SessionSetup};
use crate::message::{EncryptedMessage, Envelope, EnvelopeFlags, Header, Message};
use crate::value::admin::Admin;
use crate::value::key::PublicKey;
use crate::value::site::{SiteFlags, SiteRecord};
use crate::value::{Reference, Ttl, Value, list};

/// One message with its envelope as JSON.
///
/// # Errors
/// Octets that are not exactly one message. Of an encrypted one only the envelope is shown.
pub fn describe(bytes: &[u8]) -> Result<Json, DecodeError> {
    let octets = Bytes::copy_from_slice(bytes);
    if Envelope::decode(bytes)?.is_encrypted() {
        let encrypted = EncryptedMessage::decode(&octets)?;
        let note = "encrypted, key not known";
        return Ok(json!({ "envelope": envelope(&encrypted.envelope), "note": note }));
    }
    Message::decode(&octets).map(|decoded| message(&decoded))
}

/// A decoded message.
#[must_use]
pub fn message(message: &Message) -> Json {
    let mut object = Map::new();
    object.insert("envelope".into(), envelope(&message.envelope));
    object.insert("header".into(), header(&message.header));
    object.insert("body".into(), body(message));
    match &message.credential {
        CredentialField::Missing => {
            object.insert("credential_length".into(), json!("field absent"));
        }
        CredentialField::Empty => {
            object.insert("credential_length".into(), json!(0));
            object.insert("credential".into(), json!({ "present": false }));
        }
        CredentialField::Present(present) => {
            let mut octets = Vec::new();
            present.encode(&mut crate::wire::Writer::new(&mut octets));
            object.insert("credential_length".into(), json!(octets.len()));
            object.insert("credential".into(), credential(&message.envelope, present));
        }
    }
    Json::Object(object)
}

/// An envelope.
#[must_use]
pub fn envelope(envelope: &Envelope) -> Json {
    let flag = |flag| u8::from(envelope.flags.contains(flag));
    json!({
        "maj": envelope.version.major,
        "min": envelope.version.minor,
        "flags": format!("{:#04x}", envelope.flags.0),
        "compressed": flag(EnvelopeFlags::COMPRESSED),
        "encrypted": flag(EnvelopeFlags::ENCRYPTED),
        "truncated": flag(EnvelopeFlags::TRUNCATED),
        "sug_maj": envelope.suggested.major,
        "sug_min": envelope.suggested.minor,
        "session_id": envelope.session_id.cast_signed(),
        "request_id": envelope.request_id.cast_signed(),
        "message_id": envelope.sequence.cast_signed(),
        "message_length": envelope.message_length.cast_signed(),
    })
}

/// A header.
#[must_use]
pub fn header(header: &Header) -> Json {
    json!({
        "opcode": header.op_code.to_string(),
        "response_code": header.response_code.0,
        "op_flags": format!("{:#010x}", header.flags.0),
        "flag_names": header.flags.names().collect::<Vec<_>>(),
        "site_info_serial": header.site_serial,
        "recursion_count": header.recursion_count,
        "reserved": header.reserved,
        "expiration": header.expiration,
        "body_length": header.body_length,
    })
}

fn credential(envelope: &Envelope, credential: &Credential) -> Json {
    let mut prefix = Vec::new();
    signed_prefix(envelope, credential.counter(), &mut prefix);
    json!({
        "version": credential.version,
        "reserved": credential.reserved,
        "flags": credential.flags,
        "signer_handle": text(&credential.signer.handle),
        "signer_index_or_session_counter": credential.signer.index.cast_signed(),
        "type": text(&credential.kind),
        "section_length": credential.section_length(),
        "digest_alg": text(&credential.algorithm),
        "signature": hex(&credential.signature),
        "signed_bytes": format!("prefix {} + header + body", hex(&prefix)),
    })
}

/// The body, the digest in front included.
fn body(message: &Message) -> Json {
    let mut object = Map::new();
    let mut start = 0;
    if let Some(digest) = &message.digest {
        let alg = digest.hash.name();
        object.insert(
            "request_digest".into(),
            json!({ "alg": alg, "digest": hex(&digest.octets) }),
        );
        start = 1 + digest.octets.len();
    }
    if let Json::Object(fields) = body_fields(&message.body, message.envelope.version, start) {
        object.extend(fields);
    }
    Json::Object(object)
}

/// The fields of a body that begins at `start`.
fn body_fields(body: &Body, version: Version, start: usize) -> Json {
    match body {
        Body::Resolution(body) => {
            let mut fields = json!({
                "handle": text(&body.handle),
                "indexes": body.indexes.iter().map(|i| i.cast_signed()).collect::<Vec<_>>(),
                "types": body.types.iter().map(|t| text(t)).collect::<Vec<_>>(),
            });
            if let (Some(trailer), Some(object)) = (&body.trailer, fields.as_object_mut()) {
                object.insert("trailer".into(), text(trailer));
            }
            fields
        }
        Body::Handle(handle) => json!({ "handle": text(handle) }),
        Body::Values(body) => json!({
            "handle": text(&body.handle),
            "values": values(&body.values, start + 8 + body.handle.len()),
        }),
        Body::Resolved(body) => json!({
            "handle": text(&body.handle),
            "value_count": body.values.len(),
            "values": values(&body.values, start + 8 + body.handle.len()),
        }),
        Body::Remove(body) => json!({
            "handle": text(&body.handle),
            "indexes": body.indexes.iter().map(|i| i.cast_signed()).collect::<Vec<_>>(),
        }),
        Body::Answer(body) => answer(body),
        Body::Verify(body) => json!({
            "handle": text(&body.user.handle),
            "handle_index": body.user.index.cast_signed(),
            "nonce": hex(&body.nonce),
            "orig_request_digest": hex(&body.digest),
            "signed_response": hex(&body.answer),
        }),
        Body::SessionSetup(body) => session_setup(body),
        Body::ExchangeKey(key) => json!({ "encrypted_session_key": hex(key) }),
        Body::RetrieveTransactions(body) => retrieve(body, version),
        Body::DumpHandles(body) => Json::Object(share(body)),
        Body::Login(body) => json!({
            "user_handle": text(&body.user.handle),
            "user_index": body.user.index.cast_signed(),
        }),
        Body::Empty => json!({}),
        Body::Site(body) => json!({ "site_info": site(body) }),
        Body::Created(handle) => json!({ "created_handle": text(handle) }),
        Body::Handles(handles) => json!({
            "count": handles.len(),
            "handles": handles.iter().map(|handle| text(handle)).collect::<Vec<_>>(),
        }),
        Body::Verified(valid) => json!({ "valid": valid }),
        Body::SessionReady(body) => session_ready(body),
        Body::KeepAlive(octet) => json!({ "keep_alive_byte": octet }),
        Body::Referral(body) => {
            let mut fields = json!({ "handle": text(&body.handle) });
            if let (Some(list), Some(object)) = (&body.values, fields.as_object_mut()) {
                object.insert("value_count".into(), json!(list.len()));
                object.insert("values".into(), values(list, start + 8 + body.handle.len()));
            }
            fields
        }
        Body::Challenge(body) => match &body.old_digest {
            None => json!({ "nonce": hex(&body.nonce) }),
            Some(old) => json!({ "nonce": hex(&body.nonce), "request_digest_old": hex(old) }),
        },
        Body::Error(body) => {
            let mut fields = json!({ "message": text(&body.message) });
            tail(&mut fields, &body.tail);
            fields
        }
        Body::Opaque(octets) => {
            let mut fields = json!({});
            tail(&mut fields, octets);
            fields
        }
    }
}

/// Adds octets that have no field of their own, when there are any.
fn tail(fields: &mut Json, octets: &[u8]) {
    if let (false, Some(object)) = (octets.is_empty(), fields.as_object_mut()) {
        object.insert("undecoded_tail".into(), json!(hex(octets)));
    }
}

fn padding(fields: &mut Json, padded: bool) {
    tail(fields, if padded { &[0, 0] } else { &[] });
}

fn answer(body: &ChallengeAnswer) -> Json {
    let decoded = match Proof::decode(&body.auth_type, &body.answer) {
        Ok(Proof::Signature { hash, signature }) => {
            json!({ "hash_alg": text(&hash), "signature": hex(&signature) })
        }
        Ok(Proof::Derived {
            salt,
            iterations,
            key_bits,
            mac,
        }) => json!({
            "alg": format!("{:#04x} PBKDF2-HMAC-SHA1", MacAlgorithm::PBKDF2_HMAC_SHA1.0),
            "salt": hex(&salt),
            "iterations": iterations,
            "key_bits": key_bits,
            "mac": hex(&mac),
        }),
        Ok(Proof::Plain { algorithm, digest }) => {
            let alg = algorithm
                .name()
                .map_or_else(|| format!("{:#04x}", algorithm.0), Into::into);
            json!({ "alg": alg, "digest": hex(&digest) })
        }
        Ok(Proof::Old(digest)) => json!({ "alg": "old form: bare MD5", "digest": hex(&digest) }),
        Err(error) => json!({ "error": error.to_string() }),
    };
    json!({
        "auth_type": text(&body.auth_type),
        "user_handle": text(&body.user.handle),
        "user_index": body.user.index.cast_signed(),
        "signed_response": hex(&body.answer),
        "signed_response_decoded": decoded,
    })
}

fn session_setup(body: &SessionSetup) -> Json {
    let mut fields = json!({
        "key_exchange_mode": body.exchange.mode().to_string(),
        "timeout_seconds": body.timeout_s,
        "identity_handle": text(&body.identity.handle),
        "identity_index": body.identity.index.cast_signed(),
    });
    if let Some(object) = fields.as_object_mut() {
        match &body.exchange {
            Exchange::ClientKey(key) | Exchange::DiffieHellman(key) => {
                object.insert("public_key".into(), public_key(key));
            }
            Exchange::HandleKey(key) => {
                object.insert("exchange_key_handle".into(), text(&key.handle));
                object.insert("exchange_key_index".into(), json!(key.index.cast_signed()));
            }
            Exchange::ServerKey | Exchange::Other(..) => {}
        }
    }
    match &body.exchange {
        Exchange::Other(_, rest) => tail(&mut fields, rest),
        _ => padding(&mut fields, body.padded),
    }
    fields
}

fn session_ready(body: &SessionReady) -> Json {
    let note = match body.mode {
        KeyExchangeMode::SERVER_KEY => json!({ "server_public_key": public_key(&body.data) }),
        KeyExchangeMode::DIFFIE_HELLMAN => match SessionKey::decode(&body.data) {
            Ok(key) => {
                json!({ "algorithm_code": key.cipher.0, "server_dh_key": public_key(&key.key) })
            }
            Err(error) => json!(error.to_string()),
        },
        _ => json!("RSA PKCS#1 v1.5 ciphertext of int4 algorithm code + key"),
    };
    let mut fields = json!({
        "key_exchange_mode": body.mode.0,
        "data": hex(&body.data),
        "data_note": note,
    });
    padding(&mut fields, body.padded);
    fields
}

fn retrieve(body: &RetrieveTransactions, version: Version) -> Json {
    let mut fields = Map::new();
    if version >= Version::V2_9 {
        let all = matches!(body.since, Since::State(_));
        fields.insert("all_sources".into(), json!(u8::from(all)));
    }
    match &body.since {
        Since::Transaction { id, date_ms } => {
            fields.insert("last_txn_id".into(), json!(id));
            fields.insert("last_query_date".into(), json!(date_ms));
        }
        Since::State(state) => {
            fields.insert("state_json".into(), text(state));
        }
    }
    fields.extend(share(&body.share));
    Json::Object(fields)
}

fn share(share: &Share) -> Map<String, Json> {
    Map::from_iter([
        ("hash_type".to_owned(), json!(share.hash_option.0)),
        ("num_servers".to_owned(), json!(share.servers)),
        ("server_num".to_owned(), json!(share.place)),
    ])
}

/// Values of which the first begins at `offset` of the body.
fn values(values: &[Value], mut offset: usize) -> Json {
    let mut wire = Vec::new();
    let list = values.iter().map(|each| {
        wire.clear();
        each.encode(&mut wire);
        let described = value(each, offset, wire.len());
        offset += wire.len();
        described
    });
    list.collect()
}

fn value(value: &Value, offset: usize, size: usize) -> Json {
    let (ttl_type, ttl) = match value.ttl {
        Ttl::Relative(seconds) => (0, seconds),
        Ttl::Absolute(seconds) => (1, seconds),
    };
    let mut fields = json!({
        "offset": offset,
        "index": value.index.cast_signed(),
        "timestamp": value.timestamp.cast_signed(),
        "ttl_type": ttl_type,
        "ttl": ttl,
        "permissions": permissions(value.permissions),
        "type": text(&value.kind),
        "data": text(&value.data),
    });
    if let Some(object) = fields.as_object_mut() {
        if let Some(decoded) = data(&value.kind, &value.data) {
            object.insert("data_decoded".into(), decoded);
        }
        object.insert("references".into(), references(&value.references));
        object.insert("size".into(), json!(size));
    }
    fields
}

/// `0x0e admin_read admin_write public_read -`
fn permissions(permissions: Permissions) -> String {
    let mut shown = format!("{:#04x} ", permissions.0);
    for (position, (flag, name)) in Permissions::NAMES.iter().enumerate() {
        let last = position + 1 == Permissions::NAMES.len();
        match (permissions.contains(*flag), last) {
            (false, _) => shown.push('-'),
            (true, true) => shown.push_str(name),
            (true, false) => {
                shown.push_str(name);
                shown.push(' ');
            }
        }
    }
    shown
}

/// The data of a type that the protocol defines, when it has its shape.
#[must_use]
pub fn data(kind: &[u8], data: &Bytes) -> Option<Json> {
    match kind {
        Admin::TYPE => {
            let admin = Admin::decode(data).ok()?;
            Some(json!({
                "permissions": format!("{:#06x}", admin.rights.0),
                "perm_names": admin.rights.names().collect::<Vec<_>>(),
                "admin_handle": text(&admin.admin.handle),
                "admin_index": admin.admin.index.cast_signed(),
                "trailing": if admin.padded { "0000" } else { "" },
            }))
        }
        list::TYPE => list::decode(data).ok().map(|list| references(&list)),
        b"HS_SITE" | b"HS_SITE.6" | b"HS_SITE.PREFIX" => {
            SiteRecord::decode(data).ok().map(|record| site(&record))
        }
        _ => None,
    }
}

fn references(references: &[Reference]) -> Json {
    let list = references
        .iter()
        .map(|r| json!([text(&r.handle), r.index.cast_signed()]));
    list.collect()
}

fn site(record: &SiteRecord) -> Json {
    let flag = |flag| u8::from(record.flags.contains(flag));
    json!({
        "format_version": record.format,
        "protocol": record.version.to_string(),
        "serial": record.serial,
        "flags": format!(
            "{:#04x} primary={} multi_primary={}",
            record.flags.0,
            flag(SiteFlags::PRIMARY),
            flag(SiteFlags::MULTI_PRIMARY),
        ),
        "hash_option": record.hash_option.0,
        "hash_filter": text(&record.hash_filter),
        "attributes": record.attributes.iter().map(|(n, v)| json!([text(n), text(v)])).collect::<Json>(),
        "servers": record.servers.iter().map(|server| json!({
            "server_id": server.id,
            "ip16": hex(&server.address),
            "public_key": text(&server.public_key),
            "interfaces": server.interfaces.iter().map(|interface| json!({
                "type": interface.kind.0,
                "protocol": interface.protocol.0,
                "port": interface.port,
            })).collect::<Json>(),
        })).collect::<Json>(),
    })
}

fn public_key(octets: &Bytes) -> Json {
    let empty = Bytes::new();
    let key = PublicKey::decode(octets);
    let (key_type, flags, parts, order): (_, _, &[&Bytes], _) = match &key {
        Ok(PublicKey::Rsa {
            flags,
            exponent,
            modulus,
        }) => (
            PublicKey::RSA,
            flags,
            &[exponent, modulus, &empty],
            "exponent, modulus",
        ),
        Ok(PublicKey::Dsa { flags, q, p, g, y }) => {
            (PublicKey::DSA, flags, &[q, p, g, y], "q, p, g, y")
        }
        Ok(PublicKey::Dh { flags, y, p, g }) => (PublicKey::DH, flags, &[y, p, g], "y, p, g"),
        Ok(PublicKey::Sm2 { .. } | PublicKey::Other(_)) | Err(_) => return text(octets),
    };
    json!({
        "key_type": text(key_type),
        "flags_int2": flags,
        "parts": parts.iter().map(|part| hex(part)).collect::<Vec<_>>(),
        "parts_order": order,
    })
}

/// Text when it is printable UTF-8, else `hex:…`.
fn text(octets: &[u8]) -> Json {
    match std::str::from_utf8(octets) {
        Ok(text) if !text.chars().any(char::is_control) => json!(text),
        _ => json!(format!("hex:{}", hex(octets))),
    }
}

/// Octets in hexadecimal.
#[must_use]
pub fn hex(octets: &[u8]) -> String {
    octets
        .iter()
        .fold(String::with_capacity(2 * octets.len()), |mut out, octet| {
            let _ = write!(out, "{octet:02x}");
            out
        })
}
