//! Every bound of the codec: one named constant each, with its reason.
//!
//! The values are those of the reference implementation, so that whatever it sends is accepted and
//! whatever is sent to it fits. Where it has none, ours is marked as such. They are not
//! configurable: a deployment that wants less refuses later, with knowledge of the request.

/// Octets of an envelope.
pub const ENVELOPE_SIZE: usize = 20;
/// Octets of a header.
pub const HEADER_SIZE: usize = 24;
/// Octets of the length in front of a credential.
pub const CREDENTIAL_LENGTH_SIZE: usize = 4;
/// Most octets of a message, the envelope not counted.
pub const MESSAGE_MAX: usize = 262_144;
/// Octets of a UDP datagram, envelope included: the receive buffer of old clients.
pub const DATAGRAM_MAX: usize = 512;
/// Octets of a message that one datagram carries: every piece but the last has exactly this size.
pub const PIECE_MAX: usize = 492;
/// Most octets of a handle.
pub const HANDLE_MAX: usize = 2_048;
/// Most values in one message.
pub const VALUES_MAX: usize = 2_048;
/// Most indexes or types a request may choose by (ours: nothing has more values than this, and a
/// filter costs values × entries).
pub const FILTERS_MAX: usize = VALUES_MAX;
/// Most references of one value (ours, as for values).
pub const REFERENCES_MAX: usize = VALUES_MAX;
/// Most octets of any other length-prefixed field.
pub const ARRAY_MAX: usize = 1 << 20;
/// Octets of a nonce in a challenge.
pub const NONCE_SIZE: usize = 16;
/// Most octets of a nonce that is accepted (ours: room for longer ones than the reference makes).
pub const NONCE_MAX: usize = 64;
/// Handles in one message of a list; the next ones come in further messages.
pub const LIST_PAGE: usize = 50;
/// Most octets of a public key in a session set-up (ours).
pub const KEY_MAX: usize = 8_192;
/// Most octets of the encrypted key that a client sends for its session.
pub const SESSION_KEY_MAX: usize = 512;
/// How many counters back a session accepts a message it has not seen.
pub const REPLAY_WINDOW: u32 = 200;
/// Most octets of a name: a type of authentication, a hash, a key (ours).
pub const NAME_MAX: usize = 256;
/// Most servers in a site record, and interfaces of a server (ours).
pub const SERVERS_MAX: usize = 1_024;
/// Most attributes of a site record (ours).
pub const ATTRIBUTES_MAX: usize = 1_024;

const _: () = {
    assert!(ENVELOPE_SIZE + PIECE_MAX == DATAGRAM_MAX);
    assert!(HEADER_SIZE + CREDENTIAL_LENGTH_SIZE + HANDLE_MAX < MESSAGE_MAX);
    assert!(NONCE_SIZE <= NONCE_MAX);
    assert!(MESSAGE_MAX <= ARRAY_MAX && ARRAY_MAX <= i32::MAX as usize);
};
