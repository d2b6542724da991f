//! Goal: the other side of proofs and sessions, made of the protocol alone.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use dsa::signature::SignatureEncoding as _;
use getrandom::SysRng;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiexi::registry::{cipher, dh, sm2};
use jiexi_proto::code::{HashId, OpFlags, ResponseCode};
use jiexi_proto::limits::ENVELOPE_SIZE;
use jiexi_proto::message::Body;
use jiexi_proto::message::challenge::{ChallengeAnswer, MacAlgorithm, Proof};
use jiexi_proto::message::credential::{Credential, CredentialField, signed_bytes};
use jiexi_proto::message::session::{Exchange, SessionKey, SessionSetup};
use jiexi_proto::value::Reference;
use jiexi_proto::value::key::{PrivateKey, PublicKey, magnitude, number};
use jiexi_proto::{Envelope, EnvelopeFlags, Header, Message, OpCode, Version};
use rsa::BoxedUint;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// What somebody proves themselves with.
pub(crate) enum Key {
    Secret(Vec<u8>),
    Rsa(Box<rsa::PrivateKey>),
    Dsa(Box<dsa::SigningKey>),
    /// With the name that it signs by.
    Sm2(sm2::PrivateKey, Bytes),
}

fn uint(octets: &[u8]) -> BoxedUint {
    BoxedUint::from_be_slice_vartime(magnitude(octets))
}

impl Key {
    pub(crate) fn of(key: &PrivateKey) -> Self {
        match key {
            PrivateKey::Rsa {
                modulus,
                public_exponent,
                private_exponent,
                p,
                q,
                ..
            } => {
                let primes = vec![uint(p), uint(q)];
                let key = rsa::PrivateKey::from_components(
                    uint(modulus),
                    uint(public_exponent),
                    uint(private_exponent),
                    primes,
                );
                Self::Rsa(Box::new(key.expect("an RSA key")))
            }
            PrivateKey::Dsa { x, p, q, g } => {
                let parts =
                    dsa::Components::from_components(uint(p), uint(q), uint(g)).expect("parts");
                let params =
                    crypto_bigint::modular::BoxedMontyParams::new_vartime(parts.p().clone());
                let precision = parts.p().bits_precision();
                let base = BoxedUint::from_be_slice(magnitude(g), precision).expect("fits");
                let y = crypto_bigint::modular::BoxedMontyForm::new(base, &params)
                    .pow(&uint(x))
                    .retrieve();
                let public = dsa::VerifyingKey::from_components(parts, y).expect("a public key");
                let x = BoxedUint::from_be_slice(
                    magnitude(x),
                    public.components().q().bits_precision(),
                );
                let key = dsa::SigningKey::from_components(public, x.expect("fits"));
                Self::Dsa(Box::new(key.expect("a DSA key")))
            }
            PrivateKey::Other(_) => panic!("no such key"),
        }
    }

    /// The proof of this key, in the manner of `like`.
    pub(crate) fn prove(&self, like: &Proof, nonce: &[u8], digest: &[u8]) -> Proof {
        let asked = [nonce, digest].concat();
        match (self, like) {
            (
                Self::Secret(secret),
                Proof::Derived {
                    salt,
                    iterations,
                    key_bits,
                    ..
                },
            ) => {
                let mut key = vec![0; *key_bits as usize / 8];
                pbkdf2::pbkdf2_hmac::<Sha1>(secret, salt, *iterations, &mut key);
                let mac = Hmac::<Sha1>::new_from_slice(&key)
                    .expect("a key")
                    .chain_update(&asked);
                let mac = Bytes::from(mac.finalize().into_bytes().to_vec());
                Proof::Derived {
                    salt: salt.clone(),
                    iterations: *iterations,
                    key_bits: *key_bits,
                    mac,
                }
            }
            (
                Self::Secret(secret),
                Proof::Plain {
                    algorithm: MacAlgorithm::SHA1,
                    ..
                },
            ) => {
                let digest = Sha1::digest([secret, &asked[..], secret].concat());
                Proof::Plain {
                    algorithm: MacAlgorithm::SHA1,
                    digest: Bytes::from(digest.to_vec()),
                }
            }
            (Self::Secret(secret), Proof::Old(_)) => {
                let digest = md5::Md5::digest([secret, &asked[..], secret].concat());
                Proof::Old(Bytes::from(digest.to_vec()))
            }
            (Self::Rsa(key), Proof::Signature { hash, .. }) => {
                let signature = match &hash[..] {
                    b"SHA1" => key.pkcs1v15_sign::<Sha1>(&asked),
                    _ => key.pkcs1v15_sign::<Sha256>(&asked),
                };
                let signature = Bytes::from(signature.expect("a signature"));
                Proof::Signature {
                    hash: hash.clone(),
                    signature,
                }
            }
            (Self::Dsa(key), Proof::Signature { hash, .. }) => {
                let digest = match &hash[..] {
                    b"SHA1" => Sha1::digest(&asked).to_vec(),
                    _ => Sha256::digest(&asked).to_vec(),
                };
                let signature = key
                    .sign_prehashed_rfc6979::<Sha256>(&digest)
                    .expect("a signature");
                Proof::Signature {
                    hash: hash.clone(),
                    signature: Bytes::from(signature.to_vec()),
                }
            }
            (Self::Sm2(key, signer), Proof::Signature { hash, .. }) => {
                let signature = key.sign(signer, &asked, &mut SysRng).expect("a signature");
                Proof::Signature {
                    hash: hash.clone(),
                    signature: Bytes::from(signature),
                }
            }
            _ => panic!("this key does not prove like that"),
        }
    }
}

/// A proof of the newest kind, still to be filled in.
pub(crate) fn newest(key: &Key) -> Proof {
    match key {
        Key::Secret(_) => Proof::Derived {
            salt: Bytes::from_static(b"0123456789abcdef"),
            iterations: 10_000,
            key_bits: 160,
            mac: Bytes::new(),
        },
        _ => Proof::Signature {
            hash: Bytes::from_static(match key {
                Key::Sm2(..) => b"SM3",
                _ => b"SHA-256",
            }),
            signature: Bytes::new(),
        },
    }
}

/// The group that the reference client uses (Oakley 2).
pub(crate) const GROUP: &str = "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22\
    514a08798e3404ddef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6\
    f44c42e9a637ed6b0bff5cb6f406b7edee386bfb5a899fa5ae9f24117c4b1fe649286651ece65381\
    ffffffffffffffff";

/// A client's session.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) id: u32,
    pub(crate) key: Vec<u8>,
    pub(crate) counter: u32,
}

/// A request of version 2.11.
pub(crate) fn request(op: OpCode, flags: OpFlags, body: Body, id: u32) -> Message {
    let envelope = Envelope {
        version: Version::V2_11,
        suggested: Version::V2_11,
        request_id: id,
        ..Envelope::default()
    };
    let header = Header {
        op_code: op,
        flags,
        site_serial: 1,
        expiration: i32::MAX,
        ..Header::default()
    };
    Message::new(envelope, header, body)
}

/// The octets of a message.
pub(crate) fn octets(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    message.encode(&mut out);
    out
}

/// The answer to a challenge, of whoever holds `key`.
pub(crate) fn answer(
    asked: &Message,
    challenge: &Message,
    user: &Reference,
    key: &Key,
    id: u32,
) -> Message {
    let Body::Challenge(body) = &challenge.body else {
        panic!("no challenge: {challenge:?}");
    };
    let mut signed = Vec::new();
    asked.encode_signed(&mut signed);
    let digest = challenge.digest.as_ref().expect("a digest");
    assert_eq!(digest.hash, HashId::SHA256);
    assert_eq!(
        digest.octets,
        Sha256::digest(&signed)[..],
        "the challenge is about the request"
    );
    let mut proof = Vec::new();
    key.prove(&newest(key), &body.nonce, &digest.octets)
        .encode(&mut proof);
    let kind: &'static [u8] = match key {
        Key::Secret(_) => Proof::SECRET_KEY,
        _ => Proof::PUBLIC_KEY,
    };
    let body = Body::Answer(ChallengeAnswer {
        auth_type: Bytes::from_static(kind),
        user: user.clone(),
        answer: Bytes::from(proof),
    });
    let mut message = request(OpCode::RESPONSE_TO_CHALLENGE, asked.header.flags, body, id);
    message.envelope.session_id = challenge.envelope.session_id;
    message
}

impl Session {
    /// A request in this session, with the MAC over the next counter.
    pub(crate) fn sign(&mut self, mut message: Message) -> Message {
        self.counter += 1;
        message.envelope.session_id = self.id;
        let (mut signed, mut covered) = (Vec::new(), Vec::new());
        message.encode_signed(&mut signed);
        signed_bytes(&message.envelope, self.counter, &signed, &mut covered);
        let (name, mac) = cipher::mac(message.envelope.version, &self.key, &covered);
        message.credential =
            CredentialField::Present(Credential::new(Credential::MAC, name, self.counter, mac));
        message
    }

    /// The octets of a message, encrypted.
    pub(crate) fn encrypt(&self, message: &Message) -> Vec<u8> {
        let mut content = Vec::new();
        message.encode_content(&mut content);
        let ciphertext = cipher::encrypt(&self.key, &[7; 16], &content).expect("encrypted");
        let envelope = Envelope {
            flags: EnvelopeFlags::ENCRYPTED,
            session_id: self.id,
            message_length: u32::try_from(ciphertext.len()).expect("short"),
            ..message.envelope
        };
        [&envelope.encode()[..], &ciphertext].concat()
    }

    /// A message of the node, decrypted if need be; its MAC is right if it has one.
    pub(crate) fn open(&self, octets: &[u8]) -> Message {
        let envelope = Envelope::decode(octets).expect("an envelope");
        let content = match envelope.is_encrypted() {
            true => cipher::decrypt(&self.key, &octets[ENVELOPE_SIZE..]).expect("decrypted"),
            false => octets[ENVELOPE_SIZE..].to_vec(),
        };
        let message = Message::decode_content(envelope, &Bytes::from(content)).expect("a message");
        if let CredentialField::Present(credential) = &message.credential
            && credential.kind == Credential::MAC
        {
            let (mut signed, mut covered) = (Vec::new(), Vec::new());
            message.encode_signed(&mut signed);
            signed_bytes(
                &message.envelope,
                credential.counter(),
                &signed,
                &mut covered,
            );
            let (_, mac) = cipher::mac(envelope.version, &self.key, &covered);
            assert_eq!(credential.signature, mac, "the MAC of the node");
        }
        message
    }
}

/// The octets of the one answer to `request`, over a new connection.
pub(crate) fn ask_octets(node: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(node).expect("connected");
    stream.set_nodelay(true).expect("no delay");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a time-out");
    stream.write_all(request).expect("written");
    read_one(&mut stream).expect("an answer")
}

/// Reads one message.
pub(crate) fn read_one(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; ENVELOPE_SIZE];
    stream.read_exact(&mut message)?;
    let length = u32::from_be_bytes(message[16..20].try_into().expect("four")) as usize;
    message.resize(ENVELOPE_SIZE + length, 0);
    stream.read_exact(&mut message[ENVELOPE_SIZE..])?;
    Ok(message)
}

/// The one answer to `request`, over a new connection.
pub(crate) fn ask(node: SocketAddr, request: &Message) -> Message {
    let answer = ask_octets(node, &octets(request));
    Message::decode(&Bytes::from(answer)).expect("a message")
}

/// Asks, proves, and says what came of it.
pub(crate) fn ask_as(node: SocketAddr, request: &Message, user: &Reference, key: &Key) -> Message {
    let challenge = ask(node, request);
    if challenge.header.response_code != ResponseCode::AUTHENTICATION_NEEDED {
        return challenge;
    }
    let id = request.envelope.request_id ^ 0x4000_0000;
    ask(node, &answer(request, &challenge, user, key, id))
}

/// The key pair of a client for a session: `secret` is its exponent.
pub(crate) fn dh_key(secret: &[u8]) -> (PublicKey, Vec<u8>) {
    let (p, g) = (
        number(&hex::decode(GROUP).expect("hex")),
        Bytes::from_static(&[2]),
    );
    let public = dh::public(&p, &g, secret).expect("a key");
    (public, secret.to_vec())
}

/// The body of a session set-up.
pub(crate) fn setup_body(public: &PublicKey, identity: Option<&Reference>) -> Body {
    let mut key = Vec::new();
    public.encode(&mut key);
    let anonymous = Reference {
        handle: Bytes::new(),
        index: u32::MAX,
    };
    Body::SessionSetup(SessionSetup {
        timeout_s: 86_400,
        identity: identity.cloned().unwrap_or(anonymous),
        exchange: Exchange::DiffieHellman(Bytes::from(key)),
        padded: true,
    })
}

/// The session that the answer to a set-up opens.
pub(crate) fn opened(answer: &Message, secret: &[u8]) -> Session {
    let Body::SessionReady(ready) = &answer.body else {
        panic!("no session: {answer:?}");
    };
    let data = SessionKey::decode(&ready.data).expect("data");
    let theirs = PublicKey::decode(&data.key).expect("a key");
    let key = dh::complete(&theirs, secret).expect("a secret").to_vec();
    Session {
        id: answer.envelope.session_id,
        key,
        counter: 0,
    }
}

/// Opens a session.
pub(crate) fn open_session(
    node: SocketAddr,
    secret: &[u8],
    identity: Option<&Reference>,
) -> Session {
    let (public, secret) = dh_key(secret);
    let flags = OpFlags::RESOLUTION.with(OpFlags::CERT).with(OpFlags::RRDG);
    let setup = request(
        OpCode::SESSION_SETUP,
        flags,
        setup_body(&public, identity),
        1,
    );
    opened(&ask(node, &setup), &secret)
}
