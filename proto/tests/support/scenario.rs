//! One recorded scenario: the exchanges between client and server, in order.

use std::collections::HashMap;

use bytes::Bytes;
use jiexi_proto::framing::{Framed, Reassembler, ReassemblyLimits, StreamFramer, split_datagrams};
use jiexi_proto::limits::{DATAGRAM_MAX, ENVELOPE_SIZE};
use jiexi_proto::message::EncryptedMessage;
use jiexi_proto::message::challenge::{ChallengeAnswer, Proof};
use jiexi_proto::message::credential::{Credential, CredentialField, signed_bytes};
use jiexi_proto::message::replication::StreamStart;
use jiexi_proto::message::resolution::ResolutionView;
use jiexi_proto::message::session::{Cipher, Exchange, KeyExchangeMode, SessionKey};
use jiexi_proto::value::key::PublicKey;
use jiexi_proto::wire::Reader;
use jiexi_proto::{Body, Envelope, ErrorKind, Message, MessageView, ValueView, json};
use rsa::Pkcs1v15Encrypt;
use rsa::pkcs8::DecodePrivateKey;
use serde_json::{Value as Json, json};

use super::Run;
use super::crypto;
use super::stream;
use super::support::{load, octets, recorded_octets, text, unhex};

/// Checks every message of a scenario.
pub(super) fn check(name: &str, file: &Json, run: &mut Run) {
    let mut scenario = Scenario {
        name,
        secrets: &file["secrets"],
        keys: load("keys.json"),
        run,
        requests: HashMap::new(),
        challenges: HashMap::new(),
        exchange_mode: None,
        pieces: Vec::new(),
        reassembler: Reassembler::new(ReassemblyLimits::default()),
    };
    let exchanges = file["exchanges"].as_array().unwrap();
    let messages = exchanges.iter().flat_map(|exchange| {
        let transport = text(exchange, "transport");
        exchange["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(move |message| (transport, message))
    });
    for (number, (transport, message)) in messages.enumerate() {
        let item = format!("{name} #{number} {}", text(message, "dir"));
        if !scenario.run.excludes(&item) {
            scenario.run.count("vectors");
            scenario.message(&item, transport, message);
        } else if message.get("envelope").is_some() {
            scenario.envelope(&item, message, &recorded_octets(message));
        } else {
            let stream = Bytes::from(recorded_octets(message));
            let start = StreamStart::decode(&mut Reader::over(&stream));
            assert_eq!(start, Ok(StreamStart::Tls), "{item}");
        }
    }
    assert!(scenario.reassembler.is_empty(), "{name} has all pieces");
}

struct Scenario<'a> {
    name: &'a str,
    secrets: &'a Json,
    keys: Json,
    run: &'a mut Run,
    /// Header and body of every request, by request id.
    requests: HashMap<u32, Vec<u8>>,
    /// Nonce and digest of the last challenge, by session id.
    challenges: HashMap<u32, (Bytes, Bytes)>,
    /// How the last session was asked for.
    exchange_mode: Option<KeyExchangeMode>,
    /// The datagrams of a message in pieces.
    pieces: Vec<Vec<u8>>,
    reassembler: Reassembler<String>,
}

impl Scenario<'_> {
    fn message(&mut self, item: &str, transport: &str, recorded: &Json) {
        let octets = recorded_octets(recorded);
        if recorded.get("stream").is_some() {
            let key = self.public_key("server_pub");
            return stream::check(item, &octets, &key, self.run);
        }
        if recorded.get("envelope").is_none() {
            assert!(Envelope::decode(&octets).is_err(), "{item}");
            return;
        }
        let envelope = self.envelope(item, recorded, &octets);
        let shared = Bytes::from(octets.clone());
        if recorded.get("part").is_some() {
            self.piece(item, recorded, &envelope, octets);
        } else if recorded.get("note").is_some() {
            let kind = Message::decode(&shared).unwrap_err().kind;
            assert!(
                matches!(kind, ErrorKind::Short | ErrorKind::TooLarge(_)),
                "{item}: {kind:?}"
            );
            let framed = StreamFramer::default().next(&octets);
            assert_eq!(framed.is_err(), transport == "tcp", "{item}");
        } else if recorded.get("body_error").is_some() {
            let error = Message::decode(&shared).unwrap_err();
            assert_eq!((error.field, error.offset), ("handle", 0), "{item}");
            let header = MessageView::decode(&octets).unwrap().header;
            self.run
                .same(self.name, item, &recorded["header"], &json::header(&header));
        } else if recorded.get("decrypted_hex").is_some() {
            self.encrypted(item, recorded, &shared);
        } else {
            let message = Message::decode(&shared).unwrap_or_else(|e| panic!("{item}: {e}"));
            let mut encoded = Vec::new();
            message.encode(&mut encoded);
            assert_eq!(encoded, octets, "{item}");
            let whole = Framed::Frame {
                frame: &octets,
                rest: &[],
            };
            assert_eq!(StreamFramer::default().next(&octets), Ok(whole), "{item}");
            let described = json::describe(&octets).unwrap();
            assert_eq!(described, json::message(&message), "{item}");
            self.understood(item, recorded, &message, &octets[ENVELOPE_SIZE..]);
        }
    }

    fn envelope(&mut self, item: &str, recorded: &Json, octets: &[u8]) -> Envelope {
        let envelope = Envelope::decode(octets).unwrap();
        self.run.same(
            self.name,
            item,
            &recorded["envelope"],
            &json::envelope(&envelope),
        );
        assert_eq!(envelope.encode(), octets[..ENVELOPE_SIZE], "{item}");
        envelope
    }

    fn piece(&mut self, item: &str, recorded: &Json, envelope: &Envelope, octets: Vec<u8>) {
        let shared = Bytes::from(octets.clone());
        if self.name == "bad_len_mismatch_udp.json" {
            assert_eq!(
                Message::decode(&shared).unwrap_err().kind,
                ErrorKind::Short,
                "{item}"
            );
            let message = Message::decode_lenient(&shared).unwrap();
            assert!(matches!(message.body, Body::Resolution(_)), "{item}");
            return;
        }
        assert_eq!(
            Message::decode(&shared).unwrap_err().kind,
            ErrorKind::Short,
            "{item}"
        );
        let whole = self
            .reassembler
            .push(self.name.to_owned(), &octets, 0)
            .unwrap();
        self.pieces.push(octets);
        assert_eq!(
            whole.is_some(),
            recorded.get("reassembled").is_some(),
            "{item}"
        );
        let Some(whole) = whole.map(Bytes::from) else {
            return;
        };
        let mut split = Vec::new();
        split_datagrams(envelope, &whole[ENVELOPE_SIZE..], &mut split);
        assert_eq!(
            split.chunks(DATAGRAM_MAX).collect::<Vec<_>>(),
            self.pieces,
            "{item}"
        );
        self.pieces.clear();
        let message = Message::decode(&whole).unwrap_or_else(|e| panic!("{item}: {e}"));
        let mut content = Vec::new();
        message.encode_content(&mut content);
        assert_eq!(content, whole[ENVELOPE_SIZE..], "{item}");
        let mut fields = recorded["reassembled"].clone();
        fields["envelope"] = json::envelope(&message.envelope);
        self.understood(item, &fields, &message, &content);
    }

    fn encrypted(&mut self, item: &str, recorded: &Json, octets: &Bytes) {
        assert_eq!(
            Message::decode(octets).unwrap_err().kind,
            ErrorKind::Encrypted,
            "{item}"
        );
        let sealed = EncryptedMessage::decode(octets).unwrap();
        let mut encoded = Vec::new();
        sealed.encode(&mut encoded);
        assert_eq!(encoded, octets[..], "{item}");
        let key = self.session_key(sealed.envelope.session_id);
        let content = crypto::decrypt(&key, &sealed.ciphertext);
        assert_eq!(content, unhex(text(recorded, "decrypted_hex")), "{item}");
        assert_eq!(
            crypto::encrypt(&key, &sealed.ciphertext[..16], &content),
            sealed.ciphertext
        );
        self.run.count("ciphertexts");
        let message = Message::decode_content(sealed.envelope, &Bytes::from(content.clone()))
            .unwrap_or_else(|e| panic!("{item}: {e}"));
        encoded.clear();
        message.encode_content(&mut encoded);
        assert_eq!(encoded, content, "{item}");
        self.understood(item, recorded, &message, &content);
    }

    fn session_key(&self, session_id: u32) -> Vec<u8> {
        octets(self.secrets, &format!("session_{session_id}_key"))
    }

    /// Compares the fields of a whole message, and checks what is signed, digested and proved.
    fn understood(&mut self, item: &str, recorded: &Json, message: &Message, content: &[u8]) {
        self.run.count("messages");
        let view = MessageView::of_content(message.envelope, content).unwrap();
        let mut decoded = json::message(message);
        if let CredentialField::Present(credential) = &message.credential {
            let (name, verifies) = self.verifies(&message.envelope, credential, view.signed);
            assert!(verifies, "{item}: the credential does not verify");
            self.run.count("credentials");
            decoded["credential"][name] = json!(verifies);
        }
        let fields = [
            "envelope",
            "header",
            "body",
            "credential_length",
            "credential",
        ];
        let named = fields
            .into_iter()
            .filter_map(|f| Some((f.to_owned(), recorded.get(f)?.clone())));
        self.run
            .same(self.name, item, &Json::Object(named.collect()), &decoded);
        self.digested(item, message, view.signed);
        match &message.body {
            Body::Answer(answer) => self.proved(item, message.envelope.session_id, answer),
            Body::SessionSetup(setup) => self.exchange_mode = Some(setup.exchange.mode()),
            _ => {}
        }
        self.session(item, message);
        views_agree(item, message, view.body);
    }

    fn verifies(
        &self,
        envelope: &Envelope,
        credential: &Credential,
        content: &[u8],
    ) -> (&'static str, bool) {
        let mut signed = Vec::new();
        signed_bytes(envelope, credential.counter(), content, &mut signed);
        let algorithm = std::str::from_utf8(&credential.algorithm).unwrap();
        match &credential.kind[..] {
            Credential::SIGNED => {
                let right = crypto::verifies(
                    &self.public_key("server_pub"),
                    algorithm,
                    &signed,
                    &credential.signature,
                );
                ("verifies_with_server_key", right)
            }
            Credential::MAC => {
                let hash = algorithm.strip_prefix("HMAC-").unwrap();
                let mac = crypto::hmac(hash, &self.session_key(envelope.session_id), &signed);
                ("verifies_with_session_key", mac == credential.signature)
            }
            other => panic!("unknown credential {other:?}"),
        }
    }

    fn public_key(&self, name: &str) -> PublicKey {
        PublicKey::decode(&octets(&self.keys, &format!("{name}.bin_hex")).into()).unwrap()
    }

    /// Remembers requests and challenges; checks the digests of requests in responses.
    fn digested(&mut self, item: &str, message: &Message, signed: &[u8]) {
        let envelope = &message.envelope;
        if message.header.is_request() {
            self.requests.insert(envelope.request_id, signed.to_vec());
            return;
        }
        let old = match &message.body {
            Body::Challenge(challenge) => challenge.old_digest.as_ref(),
            _ => None,
        };
        let new = message.digest.as_ref();
        let Some((hash, digest)) = new
            .map(|d| (d.hash.name().unwrap(), &d.octets))
            .or_else(|| old.map(|d| ("MD5", d)))
        else {
            return;
        };
        assert_eq!(
            crypto::hash(hash, &[&self.requests[&envelope.request_id]]),
            digest[..],
            "{item}"
        );
        self.run.count("request digests");
        if let Body::Challenge(challenge) = &message.body {
            let challenged = (challenge.nonce.clone(), digest.clone());
            self.challenges.insert(envelope.session_id, challenged);
        }
    }

    /// Checks the answer to a challenge with the user's key.
    fn proved(&mut self, item: &str, session_id: u32, answer: &ChallengeAnswer) {
        let proof = Proof::decode(&answer.auth_type, &answer.answer).unwrap();
        let mut encoded = Vec::new();
        proof.encode(&mut encoded);
        assert_eq!(encoded, answer.answer, "{item}");
        let Some((nonce, digest)) = self.challenges.get(&session_id) else {
            assert_eq!(self.name, "challenge_answer_unknown.json");
            return;
        };
        let by_key = |key: &str| match &proof {
            Proof::Signature { hash, signature } => {
                let hash = std::str::from_utf8(hash).unwrap();
                crypto::verifies(
                    &self.public_key(key),
                    hash,
                    &[&nonce[..], digest].concat(),
                    signature,
                )
            }
            _ => false,
        };
        let secret = text(&self.keys, "secret_key_301").as_bytes();
        let hashed = json::hex(&crypto::hash("SHA1", &[secret]));
        let right = match answer.user.index {
            300 if !answer.user.handle.starts_with(b"0.NA/") => {
                let Proof::Signature { hash, signature } = &proof else {
                    panic!("{item}: not a signature")
                };
                assert_eq!(&hash[..], b"SM3", "{item}");
                crypto::sm2_verifies(
                    &octets(&self.keys, "admin_sm2_pub.spki.der_hex"),
                    &answer.user.handle,
                    &[&nonce[..], digest].concat(),
                    signature,
                )
            }
            300 => by_key("admin_rsa_pub"),
            301 => crypto::secret_proves(secret, nonce, digest, &proof),
            302 => crypto::secret_proves(hashed.as_bytes(), nonce, digest, &proof),
            303 => by_key("admin_dsa_pub"),
            other => {
                assert_eq!((self.name, other), ("create_badindex.json", 999));
                return;
            }
        };
        let wrong = ["create_badkey.json", "sdk_login_wrong_key.json"];
        assert_eq!(right, !wrong.contains(&self.name), "{item}");
        self.run.count("proofs");
    }

    /// Checks the exchange of session keys, and an answer that is verified elsewhere.
    fn session(&mut self, item: &str, message: &Message) {
        match &message.body {
            Body::SessionReady(ready) => {
                let key = match ready.mode {
                    KeyExchangeMode::CLIENT_KEY => "client_exchange_priv",
                    KeyExchangeMode::HANDLE_KEY => "admin_rsa_priv",
                    KeyExchangeMode::SERVER_KEY => {
                        let key = PublicKey::decode(&ready.data).unwrap();
                        return assert_eq!(key, self.public_key("server_pub"), "{item}");
                    }
                    _ => {
                        let key = SessionKey::decode(&ready.data).unwrap();
                        assert_eq!(key.cipher, Cipher::AES, "{item}");
                        let key = PublicKey::decode(&key.key).unwrap();
                        return assert!(matches!(key, PublicKey::Dh { .. }), "{item}");
                    }
                };
                assert_eq!(self.exchange_mode, Some(ready.mode), "{item}");
                let plain = Bytes::from(self.rsa_decrypt(key, &ready.data));
                let key = SessionKey::decode(&plain).unwrap();
                assert_eq!(key.cipher, Cipher::AES, "{item}");
                assert_eq!(
                    key.key,
                    self.session_key(message.envelope.session_id),
                    "{item}"
                );
                self.run.count("session keys");
            }
            Body::ExchangeKey(key) => {
                assert_eq!(self.rsa_decrypt("server_priv", key).len(), 16, "{item}");
                self.run.count("session keys");
            }
            Body::Verify(verify) => {
                let proof = Proof::decode(Proof::SECRET_KEY, &verify.answer).unwrap();
                let secret = text(&self.keys, "secret_key_301").as_bytes();
                assert!(crypto::secret_proves(
                    secret,
                    &verify.nonce,
                    &verify.digest,
                    &proof
                ));
                self.run.count("proofs");
            }
            Body::SessionSetup(setup) => {
                if let Exchange::ClientKey(key) = &setup.exchange {
                    assert_eq!(
                        PublicKey::decode(key).unwrap(),
                        self.public_key("client_exchange_pub")
                    );
                }
            }
            _ => {}
        }
    }

    fn rsa_decrypt(&self, key: &str, ciphertext: &[u8]) -> Vec<u8> {
        let der = octets(&self.keys, &format!("{key}.pkcs8.der_hex"));
        let key = rsa::PrivateKey::from_pkcs8_der(&der).unwrap();
        key.decrypt(Pkcs1v15Encrypt, ciphertext).unwrap()
    }
}

/// The borrowed views show what the owned message holds.
fn views_agree(item: &str, message: &Message, body: &[u8]) {
    match &message.body {
        Body::Resolution(request) => {
            let view = ResolutionView::decode(body).unwrap();
            assert_eq!(view.handle, request.handle, "{item}");
            assert_eq!(
                view.indexes.iter().collect::<Vec<_>>(),
                request.indexes,
                "{item}"
            );
            assert_eq!(
                view.types.iter().collect::<Vec<_>>(),
                request.types,
                "{item}"
            );
            assert_eq!(view.trailer, request.trailer.as_deref(), "{item}");
        }
        Body::Resolved(resolved) => {
            let digest = message
                .digest
                .as_ref()
                .map_or(0, |digest| 1 + digest.octets.len());
            let mut rest = &body[digest + 8 + resolved.handle.len()..];
            for value in &resolved.values {
                let (view, after) = ValueView::split(rest).unwrap();
                assert_eq!(
                    (view.index, view.kind),
                    (value.index, &value.kind[..]),
                    "{item}"
                );
                assert_eq!(jiexi_proto::value::type_of(rest), view.kind, "{item}");
                rest = after;
            }
            assert!(rest.is_empty(), "{item}");
        }
        _ => {}
    }
}
