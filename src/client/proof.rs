//! Who this client is, and how it proves it.

use std::fmt;

use bytes::Bytes;
use getrandom::SysRng;
use jiexi_proto::{
    code::{OpCode, Version},
    message::{
        Body, Envelope, Header, Message,
        challenge::{ChallengeAnswer, Proof},
    },
    value::Reference,
};
use zeroize::Zeroizing;

use super::ClientError;
use crate::registry::{
    auth::{self, SALT_SIZE},
    keys::{Hash, NodeKey},
};

/// What an identity is proved by. `Debug` shows none of it.
#[derive(Clone)]
pub enum Key {
    /// A secret that the server has, too: the data of an `HS_SECKEY` value.
    Secret(Zeroizing<Vec<u8>>),
    /// An RSA key whose public half is the data of an `HS_PUBKEY` value.
    Rsa(Box<NodeKey>),
}

/// An identity and its key.
#[derive(Clone)]
pub struct Credentials {
    /// The value that holds the key, or its public half: `300:0.NA/88.118`.
    pub user: Reference,
    /// The key.
    pub key: Key,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let handle = String::from_utf8_lossy(&self.user.handle);
        write!(f, "Credentials({}:{handle})", self.user.index)
    }
}

impl Key {
    /// The type of authentication.
    const fn kind(&self) -> &'static [u8] {
        match self {
            Self::Secret(_) => Proof::SECRET_KEY,
            Self::Rsa(_) => Proof::PUBLIC_KEY,
        }
    }

    /// The proof over nonce and request digest, for a server of this version. The salt is used by secret keys alone.
    pub(super) fn prove(
        &self,
        version: Version,
        asked: &[u8],
        salt: [u8; SALT_SIZE],
    ) -> Option<Proof> {
        match self {
            Self::Secret(secret) => Some(auth::prove(secret, version, asked, salt)),
            Self::Rsa(key) => {
                let hash = match version >= Version::V2_7 {
                    true => Hash::Sha256,
                    false => Hash::Sha1,
                };
                Some(Proof::Signature {
                    hash: Bytes::from_static(hash.name()),
                    signature: Bytes::from(key.sign(hash, asked, &mut SysRng)?),
                })
            }
        }
    }
}

impl Credentials {
    /// The answer to a challenge over nonce and digest (`asked`), which `question` met with the envelope `challenge`.
    ///
    /// It is in the version of the challenge, since that of the question says what is spoken here and not what the server
    /// can check: before 2.7 it knows neither SHA-256 nor derived keys.
    pub(super) fn answer(
        &self,
        question: &Message,
        challenge: &Envelope,
        asked: &[u8],
        salt: [u8; SALT_SIZE],
        request_id: u32,
    ) -> Result<Message, ClientError> {
        let proof = self.key.prove(challenge.spoken_version(), asked, salt);
        let mut answer = Vec::new();
        proof.ok_or(ClientError::NoRandomness)?.encode(&mut answer);
        let body = Body::Answer(ChallengeAnswer {
            auth_type: Bytes::from_static(self.key.kind()),
            user: self.user.clone(),
            answer: Bytes::from(answer),
        });
        let envelope = Envelope {
            version: challenge.version.min(Version::CURRENT),
            session_id: challenge.session_id,
            request_id,
            ..question.envelope
        };
        // What the request is to do is said by the request.
        let flags = question
            .header
            .flags
            .without(jiexi_proto::code::OpFlags::OVRW.with(jiexi_proto::code::OpFlags::MINT));
        let header = Header::request(
            OpCode::RESPONSE_TO_CHALLENGE,
            flags,
            question.header.expiration,
        );
        Ok(Message::new(envelope, header, body))
    }
}
