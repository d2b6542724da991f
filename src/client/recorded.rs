//! Goal: this client says on the wire what the reference client says, octet by octet, and understands what the reference
//! server says. Method: the recorded scenarios; what is drawn at random is taken from the recording.

use std::path::Path;

use bytes::Bytes;
use jiexi_proto::{
    code::OpCode,
    message::{
        Body, Credential, CredentialField, Envelope, Message,
        challenge::{ChallengeAnswer, Proof},
    },
    value::key::{KeyFile, PrivateKey},
};
use serde_json::Value as Json;
use sha1::{Digest as _, Sha1};
use zeroize::Zeroizing;

use super::{Credentials, Key, Operation, administrator::is_signed, session::Session};
use crate::{
    registry::{
        auth::SALT_SIZE,
        keys::{NodeKey, VerifyingKey},
    },
    server::handle::desk::change_of,
};

/// One recorded message: who sent it, the octets, and what was encrypted in them.
struct Recorded {
    from_client: bool,
    octets: Vec<u8>,
    clear: Option<Vec<u8>>,
}

impl Recorded {
    /// The message in clear; `None` for what is no message of the protocol.
    fn message(&self) -> Option<Message> {
        let octets = Bytes::from(self.octets.clone());
        match &self.clear {
            Some(clear) => {
                let envelope = Envelope::decode(&octets).ok()?;
                Message::decode_content(envelope, &Bytes::from(clear.clone())).ok()
            }
            None => Message::decode(&octets).ok(),
        }
    }
}

fn vectors() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/tests/vectors")
}

fn load(path: &Path) -> Json {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn octets(json: &Json) -> Vec<u8> {
    hex::decode(json.as_str().unwrap()).unwrap()
}

/// Every scenario of the reference client, with its messages in order.
fn scenarios() -> Vec<(String, Json, Vec<Recorded>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(vectors()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        // Another client, with ways of its own.
        let other = name.starts_with("sdk_");
        if other || path.extension().is_none_or(|kind| kind != "json") {
            continue;
        }
        let scenario = load(&path);
        let Some(exchanges) = scenario.get("exchanges").and_then(Json::as_array) else {
            continue;
        };
        let messages = exchanges
            .iter()
            .flat_map(|exchange| exchange["messages"].as_array().unwrap())
            .filter(|message| message.get("hex").is_some())
            .map(|message| Recorded {
                from_client: message["dir"] == "c2s",
                octets: octets(&message["hex"]),
                clear: message.get("decrypted_hex").map(octets),
            })
            .collect();
        found.push((name, scenario, messages));
    }
    assert!(found.len() > 150, "only {} scenarios", found.len());
    found
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

/// Changes outside of sessions: version, ids and times are those of the recording, and so is the serial number of a site
/// record that this client does not keep.
#[test]
fn changes_are_asked_for_as_the_reference_client_does() {
    let mut compared = 0;
    for (name, _, messages) in scenarios() {
        for recorded in messages.iter().filter(|recorded| recorded.from_client) {
            let Some(message) = recorded.message() else {
                continue;
            };
            // Scenarios named so are requests that no client makes.
            let odd = ["bad_", "tcp_", "recursion"]
                .iter()
                .any(|odd| name.starts_with(odd));
            let (Some(request), 0, false) = (change_of(&message), message.envelope.session_id, odd)
            else {
                continue;
            };
            let operation = Operation::from(&request);
            let id = message.envelope.request_id;
            let mut own = operation.message(message.envelope.version, id, 0);
            own.envelope.suggested = message.envelope.suggested;
            own.header.expiration = message.header.expiration;
            own.header.site_serial = message.header.site_serial;
            assert_eq!(
                hex::encode(encoded(&own)),
                hex::encode(&recorded.octets),
                "{name}"
            );
            compared += 1;
        }
    }
    println!("{compared} requests compared");
    assert!(compared >= 40, "only {compared} requests compared");
}

/// What identity `index` of the recording is proved by.
fn key(index: u32) -> Option<Key> {
    let keys = load(&vectors().join("keys.json"));
    let secret = keys["secret_key_301"].as_str().unwrap();
    match index {
        300 => {
            let file = Bytes::from(octets(&keys["admin_rsa_priv.bin_hex"]));
            let KeyFile::Clear(clear) = KeyFile::decode(&file).unwrap() else {
                return None;
            };
            let key = NodeKey::new(&PrivateKey::decode(&clear).unwrap()).unwrap();
            Some(Key::Rsa(Box::new(key)))
        }
        301 => Some(Key::Secret(Zeroizing::new(secret.as_bytes().to_vec()))),
        302 => {
            let hashed = hex::encode(Sha1::digest(secret));
            Some(Key::Secret(Zeroizing::new(hashed.into_bytes())))
        }
        _ => None,
    }
}

/// Proofs by secret key with the recorded salt, and by RSA, whose signatures leave nothing to chance.
#[test]
fn challenges_are_answered_as_the_reference_client_does() {
    let (mut secret, mut rsa) = (0, 0);
    for (name, _, messages) in scenarios() {
        let all: Vec<Option<Message>> = messages.iter().map(Recorded::message).collect();
        for window in 2..all.len() {
            let [Some(question), Some(challenge), Some(answer)] = &all[window - 2..=window] else {
                continue;
            };
            let (Body::Challenge(asked), Body::Answer(given)) = (&challenge.body, &answer.body)
            else {
                continue;
            };
            let wrong = [
                "wrong",
                "badkey",
                "badindex",
                "unknown",
                "res_restricted_bad",
            ]
            .iter()
            .any(|wrong| name.contains(wrong));
            let (Some(key), false) = (key(given.user.index), wrong) else {
                continue;
            };
            let digest = challenge.digest.as_ref().map(|digest| &digest.octets);
            let digest = digest.or(asked.old_digest.as_ref()).expect("a digest");
            let asked = [&asked.nonce[..], digest].concat();
            let own = own_answer(&key, question, challenge, answer, given, &asked);
            assert_eq!(
                hex::encode(encoded(&own)),
                hex::encode(encoded(answer)),
                "{name}"
            );
            match key {
                Key::Secret(_) => secret += 1,
                Key::Rsa(_) => rsa += 1,
            }
        }
    }
    println!("{secret} proofs by secret key and {rsa} by RSA compared");
    assert!(
        secret >= 15 && rsa >= 10,
        "only {secret} and {rsa} compared"
    );
}

fn own_answer(
    key: &Key,
    question: &Message,
    challenge: &Message,
    answer: &Message,
    given: &ChallengeAnswer,
    asked: &[u8],
) -> Message {
    let mut salt = [0; SALT_SIZE];
    if let Ok(Proof::Derived { salt: recorded, .. }) =
        Proof::decode(&given.auth_type, &given.answer)
    {
        salt.copy_from_slice(&recorded);
    }
    let credentials = Credentials {
        user: given.user.clone(),
        key: key.clone(),
    };
    let id = answer.envelope.request_id;
    let own = credentials.answer(question, &challenge.envelope, asked, salt, id);
    let mut own = own.unwrap();
    own.header.expiration = answer.header.expiration;
    own
}

/// Sessions of every recording whose key is known: our MACs are the recorded ones, and those of the server are right.
#[test]
fn sessions_have_the_recorded_macs() {
    let (mut ours, mut theirs, mut encrypted) = (0, 0, 0);
    for (name, scenario, messages) in scenarios() {
        let Some(secrets) = scenario.get("secrets").and_then(Json::as_object) else {
            continue;
        };
        let keys: Vec<Vec<u8>> = secrets
            .iter()
            .filter(|(name, _)| name.ends_with("_key"))
            .map(|(_, key)| octets(key))
            .collect();
        let [key] = &keys[..] else { continue };
        for recorded in &messages {
            let Some(message) = recorded.message() else {
                continue;
            };
            let id = message.envelope.session_id;
            let envelope = Envelope::decode(&recorded.octets).unwrap();
            let session = |counter| Session::recorded(id, key.clone(), counter, false);
            if let Some(clear) = &recorded.clear {
                assert!(envelope.is_encrypted());
                let (_, content) = session(0).open(&recorded.octets).expect("decrypted");
                assert_eq!(content, clear[..], "{name}");
                encrypted += 1;
            }
            let CredentialField::Present(credential) = &message.credential else {
                continue;
            };
            if credential.kind != Credential::MAC {
                continue;
            }
            if recorded.from_client {
                let mut bare = message.clone();
                bare.credential = CredentialField::Empty;
                bare.envelope.session_id = 0;
                let signed = session(credential.counter() - 1).sign(&bare);
                assert_eq!(encoded(&signed), encoded(&message), "{name}");
                ours += 1;
            } else {
                assert!(session(0).is_authentic(&message), "{name}");
                let mut forged = message.clone();
                forged.header.recursion_count ^= 1;
                assert!(!session(0).is_authentic(&forged), "{name}");
                theirs += 1;
            }
        }
    }
    println!("MACs: {ours} made, {theirs} checked; {encrypted} messages decrypted");
    assert!(
        ours >= 20 && theirs >= 20 && encrypted >= 10,
        "{ours}, {theirs}, {encrypted}"
    );
}

/// The recorded server signs its part of a session; a changed octet is noticed.
#[test]
fn signed_answers_of_the_reference_server_are_believed() {
    let keys = load(&vectors().join("keys.json"));
    let key = Bytes::from(octets(&keys["server_pub.bin_hex"]));
    let key = VerifyingKey::parse(&key).expect("the server's key");
    let mut checked = 0;
    for (name, _, messages) in scenarios() {
        for recorded in &messages {
            let Some(message) = recorded.message().filter(|_| !recorded.from_client) else {
                continue;
            };
            if message.header.op_code == OpCode::SESSION_SETUP
                && matches!(message.body, Body::SessionReady(_))
            {
                assert!(is_signed(&message, &key), "{name}");
                let mut forged = message.clone();
                forged.envelope.session_id ^= 1;
                assert!(!is_signed(&forged, &key), "{name}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 10, "only {checked} set-ups");
}
