//! The files that are no scenarios: tables of encodings, hashes and keys.

use bytes::Bytes;
use jiexi_proto::handle::{self, CaseRule};
use jiexi_proto::message::challenge::{MacAlgorithm, Proof};
use jiexi_proto::message::refusal::Referral;
use jiexi_proto::value::admin::{Admin, AdminRights};
use jiexi_proto::value::key::{KeyFile, PrivateKey, PublicKey, magnitude};
use jiexi_proto::value::site::{Server, SiteFlags, SiteRecord};
use jiexi_proto::value::{list, type_of};
use jiexi_proto::{Body, Envelope, HashOption, Message, Permissions, Ttl, Value, ValueView, json};
use rsa::pkcs8::{DecodePrivateKey, DecodePublicKey};
use rsa::traits::{PrivateKeyParts, PublicKeyParts};
use serde_json::Value as Json;

use super::Run;
use super::crypto;
use super::support::{directory, load, octets, text, unhex};

/// Checks a table; false when the file is not one.
pub(super) fn check(name: &str, run: &mut Run) -> bool {
    let entry: fn(&Json) = match name {
        "README.md" | "INDEX.json" => return true,
        "fixture.ndjson" => {
            fixture(run);
            return true;
        }
        "keys.json" => {
            keys(&load(name), run);
            return true;
        }
        "case_and_prefix.json" => case_and_prefix,
        "handle_values.json" => handle_value,
        "mac_algorithms.json" => mac_algorithm,
        "private_key_files.json" => private_key_file,
        "referral_messages.json" => referral,
        "site_hash.json" => site_hash,
        "value_encodings.json" => value_encoding,
        _ => return false,
    };
    for each in load(name).as_array().unwrap() {
        entry(each);
        run.count("vectors");
    }
    true
}

fn fixture(run: &mut Run) {
    let lines = std::fs::read_to_string(directory().join("fixture.ndjson")).unwrap();
    for line in lines.lines() {
        let record: Json = serde_json::from_str(line).unwrap();
        for value in record["values_hex"].as_array().unwrap() {
            come_back(&unhex(value.as_str().unwrap()));
            run.count("fixture values");
        }
        run.count("vectors");
    }
}

/// Decodes and encodes a value, owned and borrowed.
fn come_back(wire: &[u8]) -> Value {
    let value = Value::decode(&Bytes::copy_from_slice(wire)).unwrap();
    let mut encoded = Vec::new();
    value.encode(&mut encoded);
    assert_eq!(encoded, wire);
    let (view, rest) = ValueView::split(wire).unwrap();
    assert_eq!((view.wire, rest), (wire, &[][..]));
    assert_eq!(type_of(wire), value.kind);
    value
}

fn case_and_prefix(entry: &Json) {
    let handle = text(entry, "handle").as_bytes();
    let mut folded = Vec::new();
    handle::fold(handle, CaseRule::Whole, &mut folded);
    assert_eq!(folded, text(entry, "folded").as_bytes());
    let mut prefix = Vec::new();
    handle::prefix_handle(handle, &mut prefix);
    assert_eq!(prefix, text(entry, "prefix_handle").as_bytes());
}

fn handle_value(entry: &Json) {
    let value = come_back(&octets(entry, "hex"));
    assert_eq!(entry["index"], value.index.cast_signed());
    assert_eq!(entry["timestamp"], value.timestamp.cast_signed());
    assert_eq!(text(entry, "type").as_bytes(), value.kind);
    let data = text(entry, "data");
    assert!(data.as_bytes() == value.data || data.eq_ignore_ascii_case(&json::hex(&value.data)));
    let (ttl_type, ttl) = match value.ttl {
        Ttl::Relative(seconds) => (0, seconds),
        Ttl::Absolute(seconds) => (1, seconds),
    };
    assert_eq!(
        (&entry["ttl_type"], &entry["ttl"]),
        (&Json::from(ttl_type), &Json::from(ttl))
    );
    let flags = Permissions::NAMES
        .iter()
        .map(|(flag, _)| value.permissions.contains(*flag));
    let shown: Vec<String> = flags.map(|set| set.to_string()).collect();
    assert_eq!(text(entry, "perms(ar,aw,pr,pw)"), shown.join(","));
}

fn mac_algorithm(entry: &Json) {
    let number = u8::from_str_radix(&text(entry, "mac_alg")[2..], 16).unwrap();
    let algorithm = MacAlgorithm(number);
    assert!(algorithm.name().is_some(), "{algorithm:?}");
    // The algorithm stands before the MAC in an answer; the table leaves it out.
    let mut answer = vec![number];
    answer.extend(octets(entry, "mac"));
    let answer = Bytes::from(answer);
    let proof = Proof::decode(Proof::SECRET_KEY, &answer).unwrap();
    let mut encoded = Vec::new();
    proof.encode(&mut encoded);
    assert_eq!(encoded, answer);
    let (nonce, digest) = (octets(entry, "nonce"), octets(entry, "request_digest"));
    let secret = octets(entry, "secret");
    assert!(
        crypto::secret_proves(&secret, &nonce, &digest, &proof),
        "{entry}"
    );
    assert!(
        !crypto::secret_proves(b"another", &nonce, &digest, &proof),
        "{entry}"
    );
    if algorithm == MacAlgorithm::MD5 {
        let old = Proof::decode(Proof::SECRET_KEY, &octets(entry, "mac").into()).unwrap();
        assert!(matches!(old, Proof::Old(_)));
        assert!(crypto::secret_proves(&secret, &nonce, &digest, &old));
    }
}

fn private_key_file(entry: &Json) {
    let octets_of_file = octets(entry, "file_hex");
    let file = KeyFile::decode(&Bytes::from(octets_of_file.clone())).unwrap();
    let mut encoded = Vec::new();
    file.encode(&mut encoded);
    assert_eq!(encoded, octets_of_file);
    let passphrase = entry["passphrase"].as_str().unwrap_or_default();
    let plain = crypto::open_key_file(&file, passphrase.as_bytes());
    assert_eq!(plain, octets(entry, "plain_hex"));
    assert!(matches!(private_key(plain), PrivateKey::Rsa { .. }));
}

fn private_key(octets: Vec<u8>) -> PrivateKey {
    let key = PrivateKey::decode(&Bytes::from(octets.clone())).unwrap();
    let mut encoded = Vec::new();
    key.encode(&mut encoded);
    assert_eq!(encoded, octets);
    key
}

fn public_key(octets: Vec<u8>) -> PublicKey {
    let key = PublicKey::decode(&Bytes::from(octets.clone())).unwrap();
    let mut encoded = Vec::new();
    key.encode(&mut encoded);
    assert_eq!(encoded, octets);
    key
}

fn keys(keys: &Json, run: &mut Run) {
    for (name, value) in keys.as_object().unwrap() {
        let Some((key, form)) = name.split_once('.') else {
            continue;
        };
        if form != "bin_hex" {
            continue;
        }
        let octets_of_key = unhex(value.as_str().unwrap());
        if key.ends_with("_pub") {
            let ours = public_key(octets_of_key);
            if let (PublicKey::Rsa { .. }, Some(der)) =
                (&ours, keys.get(format!("{key}.spki.der_hex")))
            {
                let der = unhex(der.as_str().unwrap());
                assert_eq!(
                    rsa::PublicKey::from_public_key_der(&der).unwrap(),
                    crypto::rsa_key(&ours)
                );
            }
        } else {
            let file = KeyFile::decode(&octets_of_key.into()).unwrap();
            let ours = private_key(crypto::open_key_file(&file, b""));
            let der = octets(keys, &format!("{key}.pkcs8.der_hex"));
            if let PrivateKey::Rsa {
                modulus,
                private_exponent,
                p,
                ..
            } = ours
            {
                let theirs = rsa::PrivateKey::from_pkcs8_der(&der).unwrap();
                assert_eq!(
                    *theirs.n().to_be_bytes_trimmed_vartime(),
                    *magnitude(&modulus)
                );
                assert_eq!(
                    *theirs.d().to_be_bytes_trimmed_vartime(),
                    *magnitude(&private_exponent)
                );
                assert!(
                    theirs
                        .primes()
                        .iter()
                        .any(|prime| *prime.to_be_bytes_trimmed_vartime() == *magnitude(&p))
                );
            }
        }
        run.count("vectors");
    }
}

fn referral(entry: &Json) {
    let content = Bytes::from(octets(entry, "message_hex"));
    let message = Message::decode_content(Envelope::default(), &content).unwrap();
    let mut encoded = Vec::new();
    message.encode_content(&mut encoded);
    assert_eq!(encoded, content);
    assert_eq!(entry["response_code"], message.header.response_code.0);
    let Body::Referral(Referral { handle, values }) = message.body else {
        panic!("{entry}")
    };
    assert_eq!(handle, text(entry, "handle").as_bytes());
    match text(entry, "values") {
        "none" => assert_eq!(values, None),
        _ => assert_eq!(values.unwrap()[0].kind, "HS_SERV"),
    }
}

fn site_hash(entry: &Json) {
    let option = HashOption(u8::try_from(entry["hash_option"].as_u64().unwrap()).unwrap());
    let mut part = Vec::new();
    handle::hashed_part(text(entry, "handle").as_bytes(), option, &mut part);
    let md5: [u8; 16] = crypto::hash("MD5", &[&part]).try_into().unwrap();
    let hash = handle::site_hash(&md5);
    assert_eq!(entry["hash"], hash, "{entry}");
    for servers in [2, 3, 7] {
        assert_eq!(
            entry[format!("server_of_{servers}")],
            hash % servers,
            "{entry}"
        );
    }
}

fn value_encoding(entry: &Json) {
    let data = Bytes::from(octets(entry, "data_hex"));
    let fields = &entry["fields"];
    let mut encoded = Vec::new();
    match text(entry, "type") {
        "HS_ADMIN" => {
            let admin = Admin::decode(&data).unwrap();
            admin.encode(&mut encoded);
            let slot = fields
                .as_object()
                .unwrap()
                .values()
                .next()
                .unwrap()
                .as_u64();
            let rights = slot.map_or(AdminRights::ALL, |slot| AdminRights(1 << slot));
            assert_eq!(admin.rights, rights, "{entry}");
            assert_eq!(
                admin.padded,
                text(entry, "name") == "hs_admin_legacy_length"
            );
        }
        "HS_SITE" | "HS_SITE.6" => {
            let site = SiteRecord::decode(&data).unwrap();
            site.encode(&mut encoded);
            same_site(&site, &serde_json::from_str(text(fields, "json")).unwrap());
        }
        "HS_VLIST" => {
            let values = list::decode(&data).unwrap();
            list::encode(&values, &mut encoded);
            let shown = values
                .iter()
                .map(|v| format!("{}:{}", v.index, String::from_utf8_lossy(&v.handle)));
            assert_eq!(shown.collect::<Vec<_>>().join(", "), text(fields, "refs"));
        }
        "HS_PUBKEY" | "(session)" => public_key(data.to_vec()).encode(&mut encoded),
        "HS_SIGNATURE" | "HS_CERT" => {
            jws(&data, fields);
            encoded.extend_from_slice(&data);
        }
        "HS_SECKEY" if text(entry, "name") == "hs_seckey_hashed" => {
            let digest = crypto::hash("SHA1", &[text(fields, "secret").as_bytes()]);
            encoded.extend_from_slice(json::hex(&digest).as_bytes());
        }
        _ => {
            let plain = fields
                .as_object()
                .unwrap()
                .values()
                .next()
                .unwrap()
                .as_str()
                .unwrap();
            encoded.extend_from_slice(plain.as_bytes());
        }
    }
    assert_eq!(encoded, data, "{entry}");
}

fn same_site(site: &SiteRecord, json: &Json) {
    assert_eq!(json["version"], site.format);
    assert_eq!(json["protocolVersion"], site.version.to_string());
    assert_eq!(json["serialNumber"], site.serial);
    assert_eq!(json["primarySite"], site.flags.contains(SiteFlags::PRIMARY));
    assert_eq!(
        json["multiPrimary"],
        site.flags.contains(SiteFlags::MULTI_PRIMARY)
    );
    assert_eq!(
        json["hashOption"].as_u64().unwrap_or(2),
        u64::from(site.hash_option.0)
    );
    let attribute = &json["attributes"][0];
    assert_eq!(text(attribute, "name").as_bytes(), site.attributes[0].0);
    assert_eq!(text(attribute, "value").as_bytes(), site.attributes[0].1);
    let servers = json["servers"].as_array().unwrap();
    assert_eq!(servers.len(), site.servers.len());
    for (server, json) in site.servers.iter().zip(servers) {
        same_server(server, json);
    }
}

fn same_server(server: &Server, json: &Json) {
    assert_eq!(json["serverId"], server.id);
    assert_eq!(json["address"], server.ip().to_string());
    assert_eq!(Server::address_of(server.ip()), server.address);
    assert!(matches!(
        public_key(server.public_key.to_vec()),
        PublicKey::Rsa { .. }
    ));
    let interfaces = json["interfaces"].as_array().unwrap();
    assert_eq!(interfaces.len(), server.interfaces.len());
    for (interface, json) in server.interfaces.iter().zip(interfaces) {
        assert_eq!(json["port"], interface.port);
        assert_eq!(json["protocol"], interface.protocol.name().unwrap());
        let bits = u8::from(json["admin"] == true) | u8::from(json["query"] == true) << 1;
        assert_eq!(bits, interface.kind.0);
    }
}

/// A compact JWS: the payload is the recorded one, and the digests in it are those of the values.
fn jws(data: &[u8], fields: &Json) {
    let parts: Vec<&str> = std::str::from_utf8(data).unwrap().split('.').collect();
    assert_eq!(base64(parts[0]), br#"{"alg":"RS256"}"#);
    assert_eq!(base64(parts[1]), text(fields, "payload").as_bytes());
    for digest in fields["digests"].as_array().unwrap_or(&Vec::new()) {
        let wire = octets(digest, "encoded_value_hex");
        let (view, _) = ValueView::split(&wire).unwrap();
        assert_eq!(digest["index"], view.index);
        assert_eq!(
            base64(text(digest, "digest_b64")),
            crypto::hash("SHA256", &[view.signed()])
        );
    }
    if fields["verifies"] == true {
        let key = public_key(octets(&load("keys.json"), "admin_rsa_pub.bin_hex"));
        let signed = format!("{}.{}", parts[0], parts[1]);
        assert!(crypto::verifies(
            &key,
            "SHA256",
            signed.as_bytes(),
            &base64(parts[2])
        ));
    }
}

/// Base 64 in either alphabet, padded or not.
fn base64(text: &str) -> Vec<u8> {
    let (mut out, mut held, mut bits) = (Vec::new(), 0u32, 0);
    for octet in text.bytes().filter(|octet| *octet != b'=') {
        let six = match octet {
            b'A'..=b'Z' => octet - b'A',
            b'a'..=b'z' => octet - b'a' + 26,
            b'0'..=b'9' => octet - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            other => panic!("{other} is not base 64"),
        };
        held = held << 6 | u32::from(six);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((held >> bits & 0xff) as u8);
        }
    }
    out
}
