//! Sessions: set-up (op 400), and the key exchange of mode 2 (op 402, a single field).
//!
//! RFC 3652 §3.6. The body length of set-ups counts four octets for the mode of which two are
//! written, so two zero octets trail in both directions; both forms are read.

use bytes::Bytes;

use super::Envelope;
use crate::error::{DecodeError, ErrorKind};
use crate::limits::{ENVELOPE_SIZE, KEY_MAX, MESSAGE_MAX};
use crate::value::Reference;
use crate::wire::{Reader, Writer};

open_code! {
    /// How the session key gets to the other side.
    KeyExchangeMode(u16) {
        /// Encrypted with an RSA key that the client brings.
        CLIENT_KEY = 1 => "client public key",
        /// Encrypted with the server's RSA key, by op 402.
        SERVER_KEY = 2 => "server public key",
        /// Encrypted with an RSA key that is the value of a handle.
        HANDLE_KEY = 3 => "key at handle",
        /// Agreed on by Diffie-Hellman.
        DIFFIE_HELLMAN = 4 => "Diffie-Hellman",
    }
}

open_code! {
    /// The cipher of a session.
    Cipher(u32) {
        /// DES.
        DES = 1 => "DES",
        /// Triple DES.
        DESEDE = 2 => "DESede",
        /// AES-128-CBC with PKCS#5 padding, the initialisation vector in front.
        AES = 3 => "AES",
        /// SM4-CBC, where the initialisation vector is the key (id-pointer SDK).
        SM4 = 4 => "SM4",
    }
}

/// What a set-up request brings for the key exchange.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Exchange {
    /// Mode 1: an RSA key in wire form.
    ClientKey(Bytes),
    /// Mode 2: nothing.
    ServerKey,
    /// Mode 3: where the RSA key is.
    HandleKey(Reference),
    /// Mode 4: a Diffie-Hellman key in wire form.
    DiffieHellman(Bytes),
    /// A mode that is not known, and all that follows it.
    Other(KeyExchangeMode, Bytes),
}

impl Exchange {
    /// The mode that says so.
    #[must_use]
    pub const fn mode(&self) -> KeyExchangeMode {
        match self {
            Self::ClientKey(_) => KeyExchangeMode::CLIENT_KEY,
            Self::ServerKey => KeyExchangeMode::SERVER_KEY,
            Self::HandleKey(_) => KeyExchangeMode::HANDLE_KEY,
            Self::DiffieHellman(_) => KeyExchangeMode::DIFFIE_HELLMAN,
            Self::Other(mode, _) => *mode,
        }
    }
}

/// The body of a set-up request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionSetup {
    /// How long the session may last, in seconds.
    pub timeout_s: i32,
    /// Who opens it; anonymous is an empty handle with index −1.
    pub identity: Reference,
    /// What it brings for the key exchange.
    pub exchange: Exchange,
    /// Whether the two zero octets trail.
    pub padded: bool,
}

impl SessionSetup {
    /// Reads the body.
    ///
    /// # Errors
    /// Octets missing or left over, a length above its limit.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mode = KeyExchangeMode(reader.u16("key exchange mode")?);
        let timeout_s = reader.i32("session time-out")?;
        let identity = Reference::read(reader)?;
        let exchange = match mode {
            KeyExchangeMode::CLIENT_KEY => {
                Exchange::ClientKey(reader.owned(KEY_MAX, "client public key")?)
            }
            KeyExchangeMode::SERVER_KEY => Exchange::ServerKey,
            KeyExchangeMode::HANDLE_KEY => Exchange::HandleKey(Reference::read(reader)?),
            KeyExchangeMode::DIFFIE_HELLMAN => {
                Exchange::DiffieHellman(reader.owned(KEY_MAX, "Diffie-Hellman key")?)
            }
            other => Exchange::Other(other, reader.owned_rest()),
        };
        Ok(Self {
            timeout_s,
            identity,
            exchange,
            padded: reader.padding()?,
        })
    }

    /// Appends the body.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        writer.u16(self.exchange.mode().0);
        writer.i32(self.timeout_s);
        self.identity.write(writer);
        match &self.exchange {
            Exchange::ClientKey(key) | Exchange::DiffieHellman(key) => writer.bytes(key),
            Exchange::ServerKey => {}
            Exchange::HandleKey(key) => key.write(writer),
            Exchange::Other(_, rest) => writer.raw(rest),
        }
        writer.padding(self.padded);
    }
}

/// The answer to a set-up request; the envelope brings the session id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionReady {
    /// The mode of the request.
    pub mode: KeyExchangeMode,
    /// Modes 1 and 3: a [`SessionKey`], encrypted with RSA PKCS#1 v1.5; mode 2: the server's
    /// public key; mode 4: a [`SessionKey`] that holds the server's Diffie-Hellman key.
    pub data: Bytes,
    /// Whether the two zero octets trail.
    pub padded: bool,
}

impl SessionReady {
    /// Reads what follows the digest.
    ///
    /// # Errors
    /// Octets missing or left over, a length above its limit.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            mode: KeyExchangeMode(reader.u16("key exchange mode")?),
            data: reader.owned(KEY_MAX, "key exchange data")?,
            padded: reader.padding()?,
        })
    }

    /// Appends it.
    pub fn encode(&self, writer: &mut Writer<'_>) {
        writer.u16(self.mode.0);
        writer.bytes(&self.data);
        writer.padding(self.padded);
    }
}

/// A cipher and a key for it, or what a key is derived from.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKey {
    /// The cipher.
    pub cipher: Cipher,
    /// The key to the end, without a length.
    pub key: Bytes,
}

impl SessionKey {
    /// Reads all of `octets`.
    ///
    /// # Errors
    /// Fewer than four octets.
    pub fn decode(octets: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::over(octets);
        let cipher = Cipher(reader.u32("cipher")?);
        Ok(Self {
            cipher,
            key: reader.owned_rest(),
        })
    }

    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.u32(self.cipher.0);
        writer.raw(&self.key);
    }
}

impl std::fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SessionKey({} …)", self.cipher)
    }
}

/// An encrypted message: its envelope is in clear, the rest is for who has the session's key.
///
/// Decrypted, it is what [`super::Message::decode_content`] reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EncryptedMessage {
    /// The envelope. Encoding sets its length by itself.
    pub envelope: Envelope,
    /// Initialisation vector and ciphertext of header, body and credential.
    pub ciphertext: Bytes,
}

impl EncryptedMessage {
    /// Reads a message of exactly the length that its envelope says.
    ///
    /// # Errors
    /// Octets missing or left over, a message above its limit or in clear.
    pub fn decode(octets: &Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::over(octets);
        let envelope = Envelope::decode(reader.take(ENVELOPE_SIZE, "envelope")?)?;
        if !envelope.is_encrypted() {
            return Err(reader.error(ErrorKind::Invalid, "encrypted flag"));
        }
        let length = envelope.message_length as usize;
        if length > MESSAGE_MAX {
            return Err(reader.error(ErrorKind::TooLarge(MESSAGE_MAX), "message"));
        }
        let ciphertext = reader.take(length, "message")?;
        reader.finish("message")?;
        Ok(Self {
            envelope,
            ciphertext: reader.share(ciphertext),
        })
    }

    /// Appends the message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let message_length = u32::try_from(self.ciphertext.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(
            &Envelope {
                message_length,
                ..self.envelope
            }
            .encode(),
        );
        out.extend_from_slice(&self.ciphertext);
    }
}
