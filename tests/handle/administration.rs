//! Goal: changes, proofs, sessions, lists and signed answers are as the reference server's, to the
//! octet. Method: before each scenario the records are put into the state of the recording; each
//! recorded request is sent, with what depends on our node put in: session ids, the proof over our
//! nonce, keys and MACs of our sessions. The fields that differ from run to run are checked, and
//! then taken over from the recorded answer; ours is encoded anew and compared.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use bytes::Bytes;
use jiexi::registry::keys::{Hash, VerifyingKey};
use jiexi::store::{Action, Batch, Change, Draft, DraftValue, Expect, Space};
use jiexi_proto::code::{HashId, Permissions, ResponseCode};
use jiexi_proto::framing::split_datagrams;
use jiexi_proto::limits::ENVELOPE_SIZE;
use jiexi_proto::message::challenge::Proof;
use jiexi_proto::message::credential::{Credential, CredentialField, signed_bytes};
use jiexi_proto::message::session::{Cipher, Exchange, KeyExchangeMode, SessionKey};
use jiexi_proto::message::{Body, MessageView};
use jiexi_proto::value::admin::{Admin, AdminRights};
use jiexi_proto::value::key::PublicKey;
use jiexi_proto::value::{Reference, Ttl, Value};
use jiexi_proto::{Envelope, Message};
use sha2::Digest as _;

use crate::client::{Key, Session, dh_key, opened};
use crate::node::{Node, keys, private_key, receive, vectors};

/// The scenarios, by the beginning of their names.
const REPLAYED: [&str; 16] = [
    "add_",
    "auth_ver_",
    "challenge_answer_unknown",
    "create_",
    "delete_",
    "home_na",
    "list_",
    "modify_",
    "remove_",
    "res_certified_",
    "res_restricted_",
    "res_ver_",
    "session_mode",
    "session_unknown_id",
    "siteinfo_tcp_certified",
    "verify_",
];

/// Whether a scenario is replayed here.
pub(crate) fn is_replayed(name: &str) -> bool {
    REPLAYED.iter().any(|begin| name.starts_with(begin)) && !DEVIATES.contains(&name)
}

/// Fewer than this is a loss.
const REPLAYED_MIN: usize = 100;

/// Has a test of its own, for it deviates on purpose.
const DEVIATES: [&str; 1] = ["session_unknown_id_encrypted"];

fn value(index: u32, kind: &'static [u8], data: &[u8]) -> Value {
    Value {
        index,
        timestamp: 1_700_000_000,
        ttl: Ttl::Relative(86_400),
        permissions: Permissions(0x0E),
        kind: Bytes::from_static(kind),
        data: Bytes::copy_from_slice(data),
        references: Vec::new(),
    }
}

fn admin(index: u32) -> Value {
    let mut data = Vec::new();
    let admin = Reference {
        handle: Bytes::from_static(b"0.NA/88.118.8"),
        index,
    };
    Admin {
        rights: AdminRights::ALL,
        admin,
        padded: false,
    }
    .encode(&mut data);
    value(100, Admin::TYPE, &data)
}

fn set(node: &Node, space: Space, handle: &str, values: Option<&[Value]>) {
    let draft = |value: &Value| {
        let mut wire = Vec::new();
        value.encode(&mut wire);
        DraftValue {
            index: value.index,
            permissions: value.permissions.0,
            sealed: false,
            wire: wire.into(),
        }
    };
    let action = match values {
        Some(values) => Action::Put(Draft {
            handle: Bytes::copy_from_slice(handle.as_bytes()),
            values: values.iter().map(draft).collect(),
        }),
        None => Action::Delete,
    };
    let key = handle.to_ascii_uppercase().into_bytes();
    let changes = vec![Change {
        space,
        key,
        expect: Expect::Any,
        action,
    }];
    node.store
        .commit(Batch {
            changes,
            note: Bytes::new(),
        })
        .expect("committed");
}

/// Brings the records into the state that the scenario was recorded in.
fn prepare(node: &Node, name: &str) {
    let plain = [value(1, b"URL", b"https://example.cn/n"), admin(200)];
    let mut with_more = plain.to_vec();
    with_more.insert(1, value(5, b"EMAIL", b"x@example.cn"));
    with_more.insert(2, value(6, b"EMAIL", b"x@example.cn"));
    if let Some((act, who)) = name.rsplit_once('_')
        && ["seckey", "seckeyhash", "rsa", "dsa"].contains(&who)
        && !name.starts_with("auth")
        && !name.starts_with("session")
    {
        let state: Option<&[Value]> = match act {
            "create" | "delete_missing" => None,
            "create_exists" | "create_overwrite" | "add" => Some(&plain),
            _ => Some(&with_more),
        };
        set(node, Space::Handle, &format!("88.118.8/new-{who}"), state);
    }
    match name {
        "list_handles" | "list_homed_nas" | "list_handles_empty" => {
            set(node, Space::Prefix, "0.NA/88.118.11", Some(&[]));
            set(node, Space::Handle, "0.NA/88.118.11", Some(&[admin(300)]));
            for number in 0..120 {
                set(
                    node,
                    Space::Handle,
                    &format!("88.118.11/h{number}"),
                    Some(&plain),
                );
            }
        }
        "home_na" => set(node, Space::Prefix, "0.NA/88.118.11", None),
        // The first that was recorded made it.
        "session_mode1_mac_seckey" => set(node, Space::Handle, "88.118.8/sess", None),
        _ if name.starts_with("session_mode") => {
            set(node, Space::Handle, "88.118.8/sess", Some(&plain))
        }
        _ => {}
    }
}

/// What one scenario has led to so far.
struct Play<'a> {
    node: &'a Node,
    name: &'a str,
    server: VerifyingKey,
    /// Our ids by the recorded ones.
    ids: BTreeMap<u32, u32>,
    /// Nonce and digest of our challenge.
    challenge: Option<(Vec<u8>, Vec<u8>)>,
    session: Option<Session>,
    /// Our exponent, while a session is being set up.
    secret: Vec<u8>,
}

impl Play<'_> {
    /// The key that a recorded answer was made with.
    fn key(&self, user: &Reference) -> Key {
        let keys = keys();
        let secret = keys["secret_key_301"]
            .as_str()
            .expect("a secret")
            .as_bytes()
            .to_vec();
        match (self.name, user.index) {
            ("create_badkey", _) => Key::Secret(b"not the secret".to_vec()),
            (_, 301) => Key::Secret(secret),
            (_, 302) => Key::Secret(hex::encode(sha1::Sha1::digest(secret)).into_bytes()),
            (_, 303) => Key::of(&private_key("admin_dsa_priv.bin_hex")),
            _ => Key::of(&private_key("admin_rsa_priv.bin_hex")),
        }
    }

    /// The recorded request, with what depends on our node put in.
    fn adapted(&mut self, octets: &[u8], clear: Option<&[u8]>) -> Vec<u8> {
        let mut envelope = Envelope::decode(octets).expect("an envelope");
        let encrypted = envelope.is_encrypted();
        let content = Bytes::copy_from_slice(clear.unwrap_or_else(|| &octets[ENVELOPE_SIZE..]));
        envelope.flags = jiexi_proto::EnvelopeFlags::default();
        let mut message = Message::decode_content(envelope, &content).expect("a message");
        let recorded_id = message.envelope.session_id;
        message.envelope.session_id = self.ids.get(&recorded_id).copied().unwrap_or(recorded_id);
        if let (Body::Answer(answer), Some((nonce, digest))) = (&message.body, &self.challenge) {
            let mut answer = answer.clone();
            let like = Proof::decode(&answer.auth_type, &answer.answer).expect("a proof");
            let mut proof = Vec::new();
            self.key(&answer.user)
                .prove(&like, nonce, digest)
                .encode(&mut proof);
            answer.answer = proof.into();
            message.body = Body::Answer(answer);
        }
        if let Body::SessionSetup(setup) = &message.body
            && matches!(setup.exchange, Exchange::DiffieHellman(_))
        {
            let (public, secret) = dh_key(&[0x5A; 60]);
            self.secret = secret;
            let mut key = Vec::new();
            public.encode(&mut key);
            let mut setup = setup.clone();
            setup.exchange = Exchange::DiffieHellman(key.into());
            message.body = Body::SessionSetup(setup);
        }
        if let (CredentialField::Present(recorded), Some(session)) =
            (&message.credential, &mut self.session)
        {
            let counter = recorded.counter();
            message = session.sign(message);
            assert_eq!(session.counter, counter, "counters as recorded");
        }
        match &self.session {
            Some(session) if encrypted => session.encrypt(&message),
            _ => crate::client::octets(&message),
        }
    }

    /// Takes up what our answer says, and puts in what was recorded where that may differ.
    fn normalised(&mut self, ours: &[u8], theirs: &Message, request: &[u8]) -> Vec<u8> {
        let name = self.name;
        let mut envelope = Envelope::decode(ours).expect("an envelope");
        let encrypted = envelope.is_encrypted();
        assert_eq!(
            encrypted,
            theirs.envelope.is_encrypted(),
            "{name}: encrypted as recorded"
        );
        let mut message = match &self.session {
            Some(session) => session.open(ours),
            None => Message::decode(&Bytes::copy_from_slice(ours)).expect("a message"),
        };
        self.check_signature(&message);
        let (our_id, recorded_id) = (envelope.session_id, theirs.envelope.session_id);
        if let Some(id) = self.ids.get(&recorded_id) {
            assert_eq!(our_id, *id, "{name}: the session id");
        } else if recorded_id != 0 && theirs.header.response_code != ResponseCode::SESSION_TIMEOUT {
            assert_ne!(our_id, 0, "{name}: a session id");
            self.ids.insert(recorded_id, our_id);
        }
        if self.ids.contains_key(&recorded_id) {
            envelope.session_id = recorded_id;
        }
        message.envelope = envelope;
        assert!(
            message.header.expiration > 1_795_000_000,
            "{name}: an answer expires in the future"
        );
        message.header.expiration = theirs.header.expiration;
        match (&mut message.body, &theirs.body) {
            (Body::Challenge(ours), Body::Challenge(theirs)) => {
                assert_ne!(ours.nonce, theirs.nonce);
                let digest = message.digest.as_ref().map(|digest| digest.octets.clone());
                let digest = digest
                    .or_else(|| ours.old_digest.clone())
                    .expect("a digest");
                self.challenge = Some((ours.nonce.to_vec(), digest.to_vec()));
                ours.nonce = theirs.nonce.clone();
            }
            (Body::SessionReady(ready), Body::SessionReady(recorded))
                if ready.mode == KeyExchangeMode::SERVER_KEY =>
            {
                assert_eq!(ready.data, recorded.data, "{name}: the key of the server");
            }
            (Body::SessionReady(ready), Body::SessionReady(recorded))
                if ready.mode != KeyExchangeMode::DIFFIE_HELLMAN =>
            {
                self.session = Some(Session {
                    id: our_id,
                    key: decrypted(ready.mode, &ready.data),
                    counter: 0,
                });
                assert_eq!(
                    ready.data.len(),
                    recorded.data.len(),
                    "{name}: the ciphertext"
                );
                assert_ne!(ready.data, recorded.data, "{name}: a key of its own");
                ready.data = recorded.data.clone();
            }
            (Body::SessionReady(_), Body::SessionReady(recorded)) => {
                self.session = Some(opened(
                    &Message {
                        body: message.body.clone(),
                        envelope: Envelope {
                            session_id: our_id,
                            ..envelope
                        },
                        ..message.clone()
                    },
                    &self.secret,
                ));
                let Body::SessionReady(ours) = &mut message.body else {
                    unreachable!()
                };
                assert_eq!(ours.data[..4], recorded.data[..4], "{name}: the cipher");
                let key = |data: &Bytes| PublicKey::decode(&data.slice(4..)).expect("a key");
                let (PublicKey::Dh { p, g, .. }, PublicKey::Dh { p: rp, g: rg, .. }) =
                    (key(&ours.data), key(&recorded.data))
                else {
                    panic!("{name}: no Diffie-Hellman key");
                };
                assert_eq!((p, g), (rp, rg), "{name}: the group of the client");
                ours.data = recorded.data.clone();
            }
            (Body::Error(ours), Body::Error(theirs)) => ours.message = theirs.message.clone(),
            _ => {}
        }
        if let (Some(ours), Some(theirs)) = (&mut message.digest, &theirs.digest) {
            // The digest is of what was sent; that differs where a key or an id was put in.
            let clear = self.clear_request(request);
            let view =
                MessageView::of_content(Envelope::decode(request).expect("an envelope"), &clear);
            let signed = view.expect("a message").signed.to_vec();
            let expected = match ours.hash {
                HashId::SHA256 => sha2::Sha256::digest(signed).to_vec(),
                HashId::SHA1 => sha1::Sha1::digest(signed).to_vec(),
                other => panic!("{other:?}"),
            };
            assert_eq!(ours.octets, expected, "{name}: the digest of the request");
            ours.octets = theirs.octets.clone();
        }
        if let (CredentialField::Present(ours), CredentialField::Present(theirs)) =
            (&mut message.credential, &theirs.credential)
        {
            ours.signature = theirs.signature.clone();
        }
        message.envelope.flags = theirs.envelope.flags;
        let mut out = Vec::new();
        message.encode(&mut out);
        out
    }

    fn clear_request(&self, request: &[u8]) -> Vec<u8> {
        match &self.session {
            Some(session) if request[2] & 0x40 != 0 => {
                jiexi::registry::cipher::decrypt(&session.key, &request[ENVELOPE_SIZE..])
                    .expect("ours")
            }
            _ => request[ENVELOPE_SIZE..].to_vec(),
        }
    }

    /// A signature of the node is right.
    fn check_signature(&self, message: &Message) {
        let CredentialField::Present(credential) = &message.credential else {
            return;
        };
        if credential.kind != Credential::SIGNED {
            return;
        }
        let (mut signed, mut covered) = (Vec::new(), Vec::new());
        message.encode_signed(&mut signed);
        signed_bytes(
            &message.envelope,
            credential.counter(),
            &signed,
            &mut covered,
        );
        let hash = Hash::named(&credential.algorithm).expect("a hash");
        assert!(
            self.server
                .verifies(hash, b"", &covered, &credential.signature),
            "{}: the signature",
            self.name
        );
    }

    /// One exchange: requests, each with its answers. A client that is impatient asks again.
    fn exchange(&mut self, exchange: &serde_json::Value) {
        let udp = exchange["transport"] == "udp";
        let mut messages = &exchange["messages"].as_array().expect("messages")[..];
        while let Some(rest) = messages.get(1..) {
            let next = rest.iter().position(|message| message["dir"] == "c2s");
            let (turn, rest) = messages.split_at(next.map_or(messages.len(), |place| place + 1));
            self.turn(udp, turn);
            messages = rest;
        }
    }

    fn turn(&mut self, udp: bool, messages: &[serde_json::Value]) {
        let octets = |message: &serde_json::Value| {
            let text = message["datagram_hex"]
                .as_str()
                .or_else(|| message["hex"].as_str())
                .expect("octets");
            hex::decode(text).expect("hex")
        };
        let clear = |message: &serde_json::Value| {
            message["decrypted_hex"]
                .as_str()
                .map(|text| hex::decode(text).expect("hex"))
        };
        let first = &messages[0];
        let request = self.adapted(&octets(first), clear(first).as_deref());
        let recorded: Vec<&serde_json::Value> = messages[1..].iter().collect();
        let answers = if udp {
            let socket = self.node.client();
            socket.send(&request).expect("sent");
            let datagrams = receive(&socket);
            assert!(datagrams.iter().all(|datagram| datagram.len() <= 512));
            let mut whole = datagrams[0].clone();
            datagrams[1..]
                .iter()
                .for_each(|datagram| whole.extend_from_slice(&datagram[20..]));
            vec![whole]
        } else {
            let mut stream = self.node.connect();
            stream.write_all(&request).expect("written");
            stream.shutdown(Shutdown::Write).expect("shut down");
            let mut all = Vec::new();
            stream.read_to_end(&mut all).expect("answers");
            frames(&all)
        };
        if udp {
            let mut whole = octets(recorded[0]);
            recorded[1..]
                .iter()
                .for_each(|piece| whole.extend_from_slice(&octets(piece)[20..]));
            let theirs = Message::decode(&Bytes::from(whole.clone())).expect("a message");
            let ours = self.normalised(&answers[0], &theirs, &request);
            let mut datagrams = Vec::new();
            split_datagrams(&theirs.envelope, &ours[ENVELOPE_SIZE..], &mut datagrams);
            let expected: Vec<u8> = recorded
                .iter()
                .flat_map(|message| octets(message))
                .collect();
            assert_eq!(
                hex::encode(datagrams),
                hex::encode(expected),
                "{}",
                self.name
            );
            return;
        }
        assert_eq!(
            answers.len(),
            recorded.len(),
            "{}: as many messages",
            self.name
        );
        for (ours, message) in answers.iter().zip(&recorded) {
            let envelope = Envelope::decode(&octets(message)).expect("an envelope");
            let content =
                clear(message).unwrap_or_else(|| octets(message)[ENVELOPE_SIZE..].to_vec());
            let mut theirs = Message::decode_content(
                Envelope {
                    flags: jiexi_proto::EnvelopeFlags::default(),
                    ..envelope
                },
                &Bytes::from(content.clone()),
            )
            .expect("a message");
            theirs.envelope.flags = envelope.flags;
            let ours = self.normalised(ours, &theirs, &request);
            let mut expected = Vec::new();
            theirs.encode(&mut expected);
            assert_eq!(
                expected[ENVELOPE_SIZE..],
                content[..],
                "the recorded message, encoded anew"
            );
            assert_eq!(hex::encode(ours), hex::encode(expected), "{}", self.name);
        }
    }
}

/// The session key that the node has encrypted for the key of the recorded client.
pub(crate) fn decrypted(mode: KeyExchangeMode, data: &[u8]) -> Vec<u8> {
    use rsa::pkcs8::DecodePrivateKey as _;
    let name = match mode {
        KeyExchangeMode::CLIENT_KEY => "client_exchange_priv.pkcs8.der_hex",
        _ => "admin_rsa_priv.pkcs8.der_hex",
    };
    let der = hex::decode(keys()[name].as_str().expect("a key")).expect("hex");
    let private = rsa::PrivateKey::from_pkcs8_der(&der).expect("a key");
    let clear = private.pkcs1v15_decrypt(data).expect("decrypted");
    let key = SessionKey::decode(&Bytes::from(clear)).expect("a session key");
    assert_eq!((key.cipher, key.key.len()), (Cipher::AES, 16));
    key.key.to_vec()
}

fn frames(mut octets: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while !octets.is_empty() {
        let envelope = Envelope::decode(octets).expect("an envelope");
        let (frame, rest) = octets.split_at(ENVELOPE_SIZE + envelope.message_length as usize);
        frames.push(frame.to_vec());
        octets = rest;
    }
    frames
}

#[test]
fn recorded_scenarios() {
    let node = Node::start();
    let public = keys()["server_pub.bin_hex"]
        .as_str()
        .map(|text| hex::decode(text).expect("hex"));
    let server = VerifyingKey::parse(&Bytes::from(public.expect("a key"))).expect("a key");
    let mut names: Vec<String> = std::fs::read_dir(vectors())
        .expect("the vectors")
        .filter_map(|entry| {
            Some(
                entry
                    .ok()?
                    .path()
                    .file_stem()?
                    .to_string_lossy()
                    .into_owned(),
            )
        })
        .filter(|name| is_replayed(name))
        .collect();
    names.sort();
    for name in &names {
        println!("{name}");
        prepare(&node, name);
        let text =
            std::fs::read_to_string(vectors().join(format!("{name}.json"))).expect("a vector");
        let vector: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let mut play = Play {
            node: &node,
            name,
            server: server.clone(),
            ids: BTreeMap::new(),
            challenge: None,
            session: None,
            secret: Vec::new(),
        };
        for exchange in vector["exchanges"].as_array().expect("exchanges") {
            play.exchange(exchange);
        }
    }
    println!("replayed: {} scenarios of administration", names.len());
    assert!(names.len() >= REPLAYED_MIN, "{} scenarios", names.len());
}
