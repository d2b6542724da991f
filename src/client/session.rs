//! Sessions: a key agreed on by Diffie–Hellman, MACs both ways, encryption when asked for.

use bytes::Bytes;
use jiexi_proto::{
    code::{OpCode, OpFlags, Version},
    limits::ENVELOPE_SIZE,
    message::{
        Body, Credential, CredentialField, Envelope, EnvelopeFlags, Message,
        credential::signed_bytes,
        session::{Cipher, Exchange, SessionKey, SessionReady, SessionSetup},
    },
    value::{
        Reference,
        key::{PublicKey, number},
    },
};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{ClientError, Operation, request::Request};
use crate::registry::{cipher, dh};

/// A prime of 2,048 bits (RFC 3526, group 14); the generator is 2.
const PRIME: &str = "ffffffffffffffffc90fdaa22168c234c4c6628b80dc1cd129024e088a67cc74020bbea63b139b22\
    514a08798e3404ddef9519b3cd3a431b302b0a6df25f14374fe1356d6d51c245e485b576625e7ec6\
    f44c42e9a637ed6b0bff5cb6f406b7edee386bfb5a899fa5ae9f24117c4b1fe649286651ece45b3d\
    c2007cb8a163bf0598da48361c55d39a69163fa8fd24cf5f83655d23dca3ad961c62f356208552bb\
    9ed529077096966d670c354e4abc9804f1746c08ca18217c32905e462e36ce3be39e772c180e8603\
    9b2783a2ec07a28fb5c55df06f4c52c9de2bcbf6955817183995497cea956ae515d2261898fa0510\
    15728e5a8aacaa68ffffffffffffffff";
/// Octets of our exponent, as on the other side.
const EXPONENT_SIZE: usize = 40;
/// How long a session may last: longer than any command.
const LIFETIME_S: i32 = 3600;

/// What is kept between set-up request and answer.
pub(super) struct Offer {
    exponent: Zeroizing<[u8; EXPONENT_SIZE]>,
    /// The set-up request.
    pub(super) operation: Operation,
}

impl Offer {
    /// A set-up request by `user`, with a fresh exponent.
    pub(super) fn new(user: &Reference) -> Result<Self, ClientError> {
        let mut exponent = Zeroizing::new([0; EXPONENT_SIZE]);
        getrandom::fill(&mut exponent[..]).map_err(|_| ClientError::NoRandomness)?;
        exponent[0] |= 0x80;
        let prime = number(&hex::decode(PRIME).unwrap_or_default());
        let public = dh::public(&prime, &Bytes::from_static(&[2]), &exponent[..]);
        let mut key = Vec::new();
        public.ok_or(ClientError::NoRandomness)?.encode(&mut key);
        let body = Body::SessionSetup(SessionSetup {
            timeout_s: LIFETIME_S,
            identity: user.clone(),
            exchange: Exchange::DiffieHellman(Bytes::from(key)),
            padded: true,
        });
        let flags = OpFlags::RESOLUTION.with(OpFlags::CERT).with(OpFlags::RRDG);
        let operation = Operation {
            op: OpCode::SESSION_SETUP,
            flags,
            body,
        };
        Ok(Self {
            exponent,
            operation,
        })
    }

    /// The session that the answer makes. Its signature must have been checked.
    pub(super) fn accept(
        &self,
        envelope: &Envelope,
        ready: &SessionReady,
        encrypt: bool,
    ) -> Option<Session> {
        let data = SessionKey::decode(&ready.data).ok()?;
        let id = envelope.session_id;
        if data.cipher != Cipher::AES || id == 0 {
            return None;
        }
        let theirs = PublicKey::decode(&data.key).ok()?;
        let PublicKey::Dh { p, .. } = &theirs else {
            return None;
        };
        // The answer must be in our group.
        if *p != number(&hex::decode(PRIME).ok()?) {
            return None;
        }
        let key = dh::complete(&theirs, &self.exponent[..])?;
        (key.len() == dh::KEY_SIZE).then_some(Session {
            id,
            version: envelope.spoken_version().min(Version::CURRENT),
            key,
            counter: 0,
            encrypt,
        })
    }
}

/// A session. There is no `Debug`, since it holds a key.
pub(super) struct Session {
    /// Its number, in every envelope.
    pub(super) id: u32,
    /// The version that its set-up was answered in, and that its MACs are of.
    pub(super) version: Version,
    key: Zeroizing<Vec<u8>>,
    /// The last counter that was sent.
    counter: u32,
    /// Whether messages are encrypted.
    encrypt: bool,
}

impl Session {
    #[cfg(test)]
    pub(super) fn recorded(id: u32, key: Vec<u8>, counter: u32, encrypt: bool) -> Self {
        let key = Zeroizing::new(key);
        Self {
            id,
            version: Version::CURRENT,
            key,
            counter,
            encrypt,
        }
    }

    /// What requests of the session say besides what they are about: their answers are to have a MAC.
    pub(super) const fn flags(&self, flags: OpFlags) -> OpFlags {
        let flags = flags.with(OpFlags::CERT);
        match self.encrypt {
            true => flags.with(OpFlags::ENCR),
            false => flags,
        }
    }

    /// Puts a request into the session under the next counter.
    pub(super) fn sign(&mut self, message: &Message) -> Message {
        self.counter += 1;
        let mut message = message.clone();
        message.envelope.session_id = self.id;
        let (signed, covered) = (&mut Vec::new(), &mut Vec::new());
        message.encode_signed(signed);
        signed_bytes(&message.envelope, self.counter, signed, covered);
        let (name, mac) = cipher::mac(message.envelope.version, &self.key, covered);
        message.credential =
            CredentialField::Present(Credential::new(Credential::MAC, name, self.counter, mac));
        message
    }

    /// A message of the session as it goes out: encrypted, if the session is.
    pub(super) fn seal(&self, message: &Message) -> Result<Request, ClientError> {
        if !self.encrypt {
            return Request::new(message);
        }
        let (mut content, mut iv) = (Vec::new(), [0; cipher::BLOCK]);
        getrandom::fill(&mut iv).map_err(|_| ClientError::NoRandomness)?;
        message.encode_content(&mut content);
        let ciphertext = cipher::encrypt(&self.key, &iv, &content);
        let envelope = Envelope {
            flags: EnvelopeFlags::ENCRYPTED,
            ..message.envelope
        };
        let ciphertext = ciphertext.ok_or(ClientError::NoRandomness)?;
        Request::with_content(message, envelope, ciphertext)
    }

    /// The envelope and the content of a message, decrypted if need be; `None` when it cannot be.
    pub(super) fn open(&self, octets: &[u8]) -> Option<(Envelope, Bytes)> {
        let envelope = Envelope::decode(octets).ok()?;
        let content = octets.get(ENVELOPE_SIZE..)?;
        let content = match envelope.is_encrypted() {
            true => cipher::decrypt(&self.key, content)?,
            false => content.to_vec(),
        };
        Some((envelope, Bytes::from(content)))
    }

    /// Whether a message of the server has the MAC of this session.
    pub(super) fn is_authentic(&self, message: &Message) -> bool {
        let CredentialField::Present(credential) = &message.credential else {
            return false;
        };
        let (signed, covered) = (&mut Vec::new(), &mut Vec::new());
        message.encode_signed(signed);
        signed_bytes(&message.envelope, credential.counter(), signed, covered);
        let (_, mac) = cipher::mac(message.envelope.version, &self.key, covered);
        credential.kind == Credential::MAC && bool::from(mac[..].ct_eq(&credential.signature[..]))
    }
}
