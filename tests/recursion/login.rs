//! A user of the id-pointer SDK: logs in on a connection, then asks without any proof.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use bytes::Bytes;
use jiexi_proto::code::{OpFlags, Version};
use jiexi_proto::message::Body;
use jiexi_proto::message::challenge::{ChallengeAnswer, Proof};
use jiexi_proto::message::credential::CredentialField;
use jiexi_proto::message::login::Login;
use jiexi_proto::value::Reference;
use jiexi_proto::value::key::{KeyFile, PrivateKey};
use jiexi_proto::{Message, OpCode};

use crate::client::{Key, newest, octets, read_one, request};
use crate::node::PATIENCE;

/// The session id that the user chooses.
const SESSION: u32 = 10_001;

/// Octets of the recording's keys.
pub(crate) fn recorded(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/tests/vectors/keys.json");
    let text = std::fs::read_to_string(path).expect("the keys");
    let keys: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    hex::decode(keys[name].as_str().expect("a key")).expect("hex")
}

/// A private key of the recording.
pub(crate) fn private_key(name: &str) -> Key {
    match KeyFile::decode(&Bytes::from(recorded(name))).expect("a key file") {
        KeyFile::Clear(key) => Key::of(&PrivateKey::decode(&key).expect("a key")),
        other => panic!("{other:?}"),
    }
}

pub(crate) fn user(handle: &str, index: u32) -> Reference {
    Reference {
        handle: Bytes::copy_from_slice(handle.as_bytes()),
        index,
    }
}

/// A connection of the SDK.
pub(crate) struct Line(TcpStream);

impl Line {
    pub(crate) fn new(node: SocketAddr) -> Self {
        let stream = TcpStream::connect(node).expect("connected");
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Self(stream)
    }

    /// A request as the SDK makes it: version 2.10, no serial, a session id of its own.
    pub(crate) fn ask(&mut self, op: OpCode, body: Body, flags: OpFlags) -> Message {
        let mut message = request(op, flags, body, 7);
        message.envelope.version = Version::V2_10;
        message.envelope.session_id = SESSION;
        message.header.site_serial = 0xFFFF;
        if op == OpCode::LOGIN {
            message.credential = CredentialField::Missing;
        }
        self.0.write_all(&octets(&message)).expect("written");
        let answer = read_one(&mut self.0).expect("an answer");
        Message::decode(&Bytes::from(answer)).expect("a message")
    }

    /// What comes of a login.
    pub(crate) fn log_in(&mut self, user: &Reference, key: &Key) -> Message {
        let site = Body::Handle(Bytes::from_static(b"/"));
        self.ask(OpCode::GET_SITE_INFO, site, OpFlags::RESOLUTION);
        let login = Body::Login(Login { user: user.clone() });
        let challenge = self.ask(OpCode::LOGIN, login, OpFlags::RECU.with(OpFlags::RRDG));
        let Body::Challenge(body) = &challenge.body else {
            panic!("no challenge: {challenge:?}");
        };
        let digest = &challenge.digest.as_ref().expect("a digest").octets;
        let mut proof = Vec::new();
        key.prove(&newest(key), &body.nonce, digest)
            .encode(&mut proof);
        let kind: &'static [u8] = match key {
            Key::Secret(_) => Proof::SECRET_KEY,
            _ => Proof::PUBLIC_KEY,
        };
        let answer = Body::Answer(ChallengeAnswer {
            auth_type: Bytes::from_static(kind),
            user: user.clone(),
            answer: Bytes::from(proof),
        });
        self.ask(OpCode::RESPONSE_TO_CHALLENGE, answer, OpFlags::RESOLUTION)
    }
}
