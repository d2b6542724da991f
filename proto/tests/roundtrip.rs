//! Goal: whatever the crate writes it reads back as the same. Method: random messages of every
//! operation, direction and version are encoded and decoded. The seed is printed; set
//! `JIEXI_SEED` to it to see the same messages again.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test stops at what it does not expect"
)]

use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use jiexi_proto::framing::{Reassembler, ReassemblyLimits, split_datagrams};
use jiexi_proto::limits::{DATAGRAM_MAX, ENVELOPE_SIZE};
use jiexi_proto::message::challenge::{
    Challenge, ChallengeAnswer, MacAlgorithm, Proof, VerifyChallenge,
};
use jiexi_proto::message::login::Login;
use jiexi_proto::message::refusal::{ErrorText, Referral};
use jiexi_proto::message::replication::{
    Action, DumpBlock, RetrieveTransactions, Share, Since, TransactionBlock,
};
use jiexi_proto::message::resolution::Resolution;
use jiexi_proto::message::session::{
    Exchange, KeyExchangeMode, SessionKey, SessionReady, SessionSetup,
};
use jiexi_proto::message::values::{HandleValues, RemoveValues};
use jiexi_proto::message::{Credential, CredentialField, Digest, EncryptedMessage};
use jiexi_proto::value::admin::{Admin, AdminRights};
use jiexi_proto::value::key::{Derived, KeyFile, PrivateKey, PublicKey};
use jiexi_proto::value::list;
use jiexi_proto::value::site::{
    Interface, InterfaceKind, Server, SiteFlags, SiteRecord, Transport,
};
use jiexi_proto::wire::{Reader, Writer};
use jiexi_proto::{
    Body, Envelope, EnvelopeFlags, HashId, HashOption, Header, Message, OpCode, OpFlags,
    Permissions, Reference, ResponseCode, Ttl, Value, Version,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// Runs a test on random input, from a seed that is printed.
fn with_seed<T: std::fmt::Debug>(
    cases: u32,
    input: impl Strategy<Value = T>,
    test: impl Fn(T) -> Result<(), TestCaseError>,
) {
    let given = std::env::var("JIEXI_SEED")
        .ok()
        .map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(|| RandomState::new().hash_one(0));
    println!("JIEXI_SEED={seed}");
    let rng_seed = RngSeed::Fixed(seed);
    let config = Config {
        cases,
        rng_seed,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(&input, test)
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn messages_come_back() {
    with_seed(4_000, message(), |message| {
        let mut octets = Vec::new();
        message.encode(&mut octets);
        let mut decoded = Message::decode(&Bytes::from(octets.clone())).unwrap();
        let content = octets.len() - ENVELOPE_SIZE;
        prop_assert_eq!(decoded.envelope.message_length as usize, content);
        decoded.envelope.message_length = 0;
        decoded.header.body_length = 0;
        prop_assert_eq!(&decoded, &message);

        let mut datagrams = Vec::new();
        split_datagrams(&message.envelope, &octets[ENVELOPE_SIZE..], &mut datagrams);
        let mut reassembler = Reassembler::new(ReassemblyLimits::default());
        let pieces = datagrams.chunks(DATAGRAM_MAX).rev();
        let joined = pieces
            .filter_map(|piece| reassembler.push((), piece, 0).unwrap())
            .last();
        prop_assert_eq!(joined, Some(octets));
        Ok(())
    });
}

/// Every kind of message, those of no recording among them: cut at any octet or with one more it is none.
#[test]
fn parts_of_messages_are_refused() {
    with_seed(1_000, message(), |message| {
        let mut octets = Vec::new();
        message.encode(&mut octets);
        let shared = Bytes::from(octets.clone());
        for length in 0..octets.len() {
            let cut = Message::decode(&shared.slice(..length));
            prop_assert!(cut.is_err(), "cut at {length}: {cut:?}");
        }
        octets.push(0);
        prop_assert!(Message::decode(&Bytes::from(octets)).is_err());
        Ok(())
    });
}

#[test]
fn data_of_values_comes_back() {
    with_seed(
        1_000,
        (admin(), vec(reference(), 0..5), site(), public_key()),
        |data| {
            let (admin, references, site, key) = data;
            let mut out = Vec::new();
            admin.encode(&mut out);
            prop_assert_eq!(Admin::decode(&out.into()), Ok(admin));
            let mut out = Vec::new();
            list::encode(&references, &mut out);
            prop_assert_eq!(list::decode(&out.into()), Ok(references));
            let mut out = Vec::new();
            site.encode(&mut out);
            prop_assert_eq!(SiteRecord::decode(&out.into()), Ok(site));
            let mut out = Vec::new();
            key.encode(&mut out);
            prop_assert_eq!(PublicKey::decode(&out.into()), Ok(key));
            Ok(())
        },
    );
}

#[test]
fn keys_and_proofs_come_back() {
    with_seed(
        1_000,
        (private_key(), key_file(), proof(), sealed(), octets()),
        |data| {
            let (key, file, (auth_type, proof), sealed, octets) = data;
            let mut out = Vec::new();
            key.encode(&mut out);
            prop_assert!(PrivateKey::decode(&out.into()) == Ok(key));
            let mut out = Vec::new();
            file.encode(&mut out);
            prop_assert_eq!(KeyFile::decode(&out.into()), Ok(file));
            let mut out = Vec::new();
            proof.encode(&mut out);
            prop_assert_eq!(Proof::decode(auth_type, &out.into()), Ok(proof));
            let mut out = Vec::new();
            sealed.encode(&mut out);
            let decoded = EncryptedMessage::decode(&out.into()).unwrap();
            prop_assert_eq!(decoded.ciphertext, sealed.ciphertext);
            let session_key = SessionKey {
                cipher: Default::default(),
                key: octets,
            };
            let mut out = Vec::new();
            session_key.encode(&mut out);
            prop_assert_eq!(SessionKey::decode(&out.into()), Ok(session_key));
            Ok(())
        },
    );
}

#[test]
fn blocks_come_back() {
    with_seed(
        1_000,
        (dump_block(), transaction_block()),
        |(dump, transaction)| {
            let mut out = Vec::new();
            dump.encode(&mut Writer::new(&mut out));
            prop_assert_eq!(DumpBlock::decode(&mut Reader::over(&out.into())), Ok(dump));
            let mut out = Vec::new();
            transaction.encode(&mut Writer::new(&mut out));
            prop_assert_eq!(
                TransactionBlock::decode(&mut Reader::over(&out.into())),
                Ok(transaction)
            );
            Ok(())
        },
    );
}

fn message() -> impl Strategy<Value = Message> {
    version().prop_flat_map(|version| {
        let envelope = envelope().prop_map(move |envelope| Envelope {
            version,
            ..envelope
        });
        (envelope, header(), body(version), digest(), credential()).prop_map(
            |(envelope, mut header, (op_code, response_code, body), digest, credential)| {
                header.op_code = op_code;
                header.response_code = response_code;
                let has_digest = !header.is_request()
                    && header.flags.contains(OpFlags::RRDG)
                    && envelope.version >= Version::V2_1;
                let digest = has_digest.then_some(digest);
                Message {
                    envelope,
                    header,
                    digest,
                    body,
                    credential,
                }
            },
        )
    })
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![
        (0u8..=12).prop_map(|minor| Version::new(2, minor)),
        Just(Version::new(5, 0))
    ]
}

fn envelope() -> impl Strategy<Value = Envelope> {
    let suggested = (0u8..4, any::<u8>()).prop_map(|(major, minor)| Version::new(major, minor));
    let flags = any::<bool>().prop_map(|t| if t { EnvelopeFlags::TRUNCATED.0 } else { 0 });
    (suggested, flags, any::<[u32; 2]>()).prop_map(
        |(suggested, flags, [session_id, request_id])| {
            let flags = EnvelopeFlags(flags);
            Envelope {
                flags,
                suggested,
                session_id,
                request_id,
                ..Envelope::default()
            }
        },
    )
}

fn header() -> impl Strategy<Value = Header> {
    (any::<u32>(), any::<u16>(), any::<[u8; 2]>(), any::<i32>()).prop_map(
        |(flags, site_serial, [recursion_count, reserved], expiration)| Header {
            flags: OpFlags(flags),
            site_serial,
            recursion_count,
            reserved,
            expiration,
            ..Header::default()
        },
    )
}

fn octets() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn digest() -> impl Strategy<Value = Digest> {
    (1u8..=3, any::<[u8; 32]>()).prop_map(|(hash, octets)| {
        let hash = HashId(hash);
        Digest {
            hash,
            octets: Bytes::copy_from_slice(&octets[..hash.size().unwrap()]),
        }
    })
}

fn credential() -> impl Strategy<Value = CredentialField> {
    let parts = (
        any::<(u8, u8, u16)>(),
        reference(),
        octets(),
        octets(),
        octets(),
    );
    let present = parts.prop_map(
        |((version, reserved, flags), signer, kind, algorithm, signature)| {
            let credential = Credential {
                version,
                reserved,
                flags,
                signer,
                kind,
                algorithm,
                signature,
            };
            CredentialField::Present(credential)
        },
    );
    prop_oneof![
        Just(CredentialField::Missing),
        Just(CredentialField::Empty),
        present
    ]
}

fn reference() -> impl Strategy<Value = Reference> + Clone {
    let handle = vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    (handle, any::<u32>()).prop_map(|(handle, index)| Reference { handle, index })
}

fn value() -> impl Strategy<Value = Value> {
    let ttl = (any::<bool>(), any::<i32>()).prop_map(|(absolute, s)| {
        if absolute {
            Ttl::Absolute(s)
        } else {
            Ttl::Relative(s)
        }
    });
    let numbers = (any::<[u32; 2]>(), ttl, any::<u8>());
    (numbers, octets(), octets(), vec(reference(), 0..3)).prop_map(
        |(([index, timestamp], ttl, permissions), kind, data, references)| {
            let permissions = Permissions(permissions);
            Value {
                index,
                timestamp,
                ttl,
                permissions,
                kind,
                data,
                references,
            }
        },
    )
}

fn values() -> impl Strategy<Value = Vec<Value>> {
    vec(value(), 0..12)
}

fn handle_values() -> impl Strategy<Value = HandleValues> {
    (octets(), values()).prop_map(|(handle, values)| HandleValues { handle, values })
}

fn share() -> impl Strategy<Value = Share> {
    (any::<u8>(), any::<[u32; 2]>()).prop_map(|(hash_option, [servers, place])| Share {
        hash_option: HashOption(hash_option),
        servers,
        place,
    })
}

/// A body with the op code and response code that it goes with.
fn body(version: Version) -> impl Strategy<Value = (OpCode, ResponseCode, Body)> {
    prop_oneof![
        request(version),
        challenge_and_session_request(),
        success(),
        refusal(version),
    ]
}

fn one_of(codes: &'static [u32]) -> impl Strategy<Value = OpCode> {
    proptest::sample::select(codes).prop_map(OpCode)
}

type Parts = (OpCode, ResponseCode, Body);

fn asked<B: std::fmt::Debug + 'static>(
    op: impl Strategy<Value = OpCode> + 'static,
    body: impl Strategy<Value = B> + 'static,
    make: fn(B) -> Body,
) -> BoxedStrategy<Parts> {
    (op, body)
        .prop_map(move |(op, body)| (op, ResponseCode::NONE, make(body)))
        .boxed()
}

fn answered<B: std::fmt::Debug + 'static>(
    op: impl Strategy<Value = OpCode> + 'static,
    body: impl Strategy<Value = B> + 'static,
    make: fn(B) -> Body,
) -> BoxedStrategy<Parts> {
    (op, body)
        .prop_map(move |(op, body)| (op, ResponseCode::SUCCESS, make(body)))
        .boxed()
}

fn request(version: Version) -> BoxedStrategy<Parts> {
    let resolution = (
        octets(),
        vec(any::<u32>(), 0..5),
        vec(octets(), 0..5),
        proptest::option::of(octets()),
    )
        .prop_map(|(handle, indexes, types, trailer)| Resolution {
            handle,
            indexes,
            types,
            trailer,
        });
    let remove = (octets(), vec(any::<u32>(), 0..5))
        .prop_map(|(handle, indexes)| RemoveValues { handle, indexes });
    let one = any::<[i64; 2]>().prop_map(|[id, date_ms]| Since::Transaction { id, date_ms });
    let since = match version >= Version::V2_9 {
        true => prop_oneof![one, octets().prop_map(Since::State)].boxed(),
        false => one.boxed(),
    };
    let retrieve =
        (since, share()).prop_map(|(since, share)| RetrieveTransactions { since, share });
    prop_oneof![
        asked(Just(OpCode::RESOLUTION), resolution, Body::Resolution),
        asked(
            one_of(&[2, 101, 105, 300, 301, 302, 401, 1000, 1003]),
            octets(),
            Body::Handle
        ),
        asked(one_of(&[100, 102, 104]), handle_values(), Body::Values),
        asked(Just(OpCode::REMOVE_VALUE), remove, Body::Remove),
        asked(
            Just(OpCode::RETRIEVE_TXN_LOG),
            retrieve,
            Body::RetrieveTransactions
        ),
        asked(Just(OpCode::DUMP_HANDLES), share(), Body::DumpHandles),
        asked(Just(OpCode::LOGIN), reference(), |user| Body::Login(
            Login { user }
        )),
        asked(one_of(&[0, 3, 2000, u32::MAX]), octets(), Body::Opaque),
    ]
    .boxed()
}

fn challenge_and_session_request() -> BoxedStrategy<Parts> {
    let answer =
        (octets(), reference(), octets()).prop_map(|(auth_type, user, answer)| ChallengeAnswer {
            auth_type,
            user,
            answer,
        });
    let digest = prop_oneof![
        octets().prop_map(|digest| (None, digest)),
        prop::array::uniform20(any::<u8>())
            .prop_map(|digest| (Some(HashId::SHA1), Bytes::copy_from_slice(&digest))),
    ];
    let verify = (reference(), octets(), digest, octets()).prop_map(
        |(user, nonce, (hash, digest), answer)| VerifyChallenge {
            user,
            nonce,
            digest,
            hash,
            answer,
        },
    );
    let exchange = prop_oneof![
        octets().prop_map(Exchange::ClientKey),
        Just(Exchange::ServerKey),
        reference().prop_map(Exchange::HandleKey),
        octets().prop_map(Exchange::DiffieHellman),
        octets().prop_map(|rest| Exchange::Other(KeyExchangeMode(9), rest)),
    ];
    let setup = (any::<i32>(), reference(), exchange, any::<bool>()).prop_map(
        |(timeout_s, identity, exchange, padded)| {
            let padded = padded && !matches!(exchange, Exchange::Other(..));
            SessionSetup {
                timeout_s,
                identity,
                exchange,
                padded,
            }
        },
    );
    prop_oneof![
        asked(Just(OpCode::RESPONSE_TO_CHALLENGE), answer, Body::Answer),
        asked(Just(OpCode::VERIFY_CHALLENGE), verify, Body::Verify),
        asked(Just(OpCode::SESSION_SETUP), setup, Body::SessionSetup),
        asked(
            Just(OpCode::SESSION_EXCHANGEKEY),
            octets(),
            Body::ExchangeKey
        ),
    ]
    .boxed()
}

fn success() -> BoxedStrategy<Parts> {
    let ready =
        (any::<u16>(), octets(), any::<bool>()).prop_map(|(mode, data, padded)| SessionReady {
            mode: KeyExchangeMode(mode),
            data,
            padded,
        });
    let opaque = octets().prop_map(|octets| {
        if octets.is_empty() {
            Body::Empty
        } else {
            Body::Opaque(octets)
        }
    });
    prop_oneof![
        answered(Just(OpCode::RESOLUTION), handle_values(), Body::Resolved),
        answered(Just(OpCode::GET_SITE_INFO), site(), Body::Site),
        answered(Just(OpCode::CREATE_HANDLE), octets(), Body::Created),
        answered(one_of(&[105, 302]), vec(octets(), 0..60), Body::Handles),
        answered(Just(OpCode::VERIFY_CHALLENGE), any::<u8>(), Body::Verified),
        answered(Just(OpCode::SESSION_SETUP), ready, Body::SessionReady),
        answered(Just(OpCode::RETRIEVE_TXN_LOG), any::<u8>(), Body::KeepAlive),
        answered(
            one_of(&[101, 104, 300, 401, 402, 1002, 2001]),
            opaque,
            |body| body
        ),
    ]
    .boxed()
}

fn refusal(version: Version) -> BoxedStrategy<Parts> {
    let op = || one_of(&[1, 100, 2001, 0]);
    let code = |codes: &'static [u32]| proptest::sample::select(codes).prop_map(ResponseCode);
    let referral = (
        op(),
        code(&[302, 303]),
        octets(),
        proptest::option::of(values()),
    )
        .prop_map(|(op, code, handle, values)| {
            (op, code, Body::Referral(Referral { handle, values }))
        });
    let challenge = (op(), octets(), octets()).prop_map(move |(op, nonce, old)| {
        let old_digest = (version < Version::V2_1).then_some(old);
        let body = Body::Challenge(Challenge { nonce, old_digest });
        (op, ResponseCode::AUTHENTICATION_NEEDED, body)
    });
    let error = (op(), code(&[2, 4, 100, 505, 603]), octets(), octets())
        .prop_map(|(op, code, message, tail)| (op, code, Body::Error(ErrorText { message, tail })));
    let empty = (op(), code(&[100])).prop_map(|(op, code)| (op, code, Body::Empty));
    prop_oneof![referral, challenge, error, empty].boxed()
}

fn admin() -> impl Strategy<Value = Admin> {
    (any::<u16>(), reference(), any::<bool>()).prop_map(|(rights, admin, padded)| Admin {
        rights: AdminRights(rights),
        admin,
        padded,
    })
}

fn site() -> impl Strategy<Value = SiteRecord> {
    let interface = any::<(u8, u8, u32)>().prop_map(|(kind, protocol, port)| Interface {
        kind: InterfaceKind(kind),
        protocol: Transport(protocol),
        port,
    });
    let server = (
        any::<u32>(),
        any::<[u8; 16]>(),
        octets(),
        vec(interface, 0..4),
    )
        .prop_map(|(id, address, public_key, interfaces)| Server {
            id,
            address,
            public_key,
            interfaces,
        });
    let numbers = any::<(u16, u8, u8, u16, u8, u8)>();
    let attributes = vec((octets(), octets()), 0..3);
    (numbers, octets(), attributes, vec(server, 0..4)).prop_map(
        |((format, major, minor, serial, flags, option), hash_filter, attributes, servers)| {
            SiteRecord {
                format,
                version: Version::new(major, minor),
                serial,
                flags: SiteFlags(flags),
                hash_option: HashOption(option),
                hash_filter,
                attributes,
                servers,
            }
        },
    )
}

fn public_key() -> impl Strategy<Value = PublicKey> {
    let four = || (octets(), octets(), octets(), octets());
    prop_oneof![
        (any::<u16>(), octets(), octets()).prop_map(|(flags, exponent, modulus)| PublicKey::Rsa {
            flags,
            exponent,
            modulus
        }),
        (any::<u16>(), four()).prop_map(|(flags, (q, p, g, y))| PublicKey::Dsa {
            flags,
            q,
            p,
            g,
            y
        }),
        (any::<u16>(), four()).prop_map(|(flags, (y, p, g, _))| PublicKey::Dh { flags, y, p, g }),
        (any::<u16>(), octets()).prop_map(|(flags, key)| PublicKey::Sm2 { flags, key }),
        octets().prop_map(PublicKey::Other),
    ]
}

fn private_key() -> impl Strategy<Value = PrivateKey> {
    let four = || (octets(), octets(), octets(), octets());
    let rsa = (four(), four()).prop_map(
        |(
            (modulus, public_exponent, private_exponent, p),
            (q, exponent_p, exponent_q, coefficient),
        )| PrivateKey::Rsa {
            modulus,
            public_exponent,
            private_exponent,
            p,
            q,
            exponent_p,
            exponent_q,
            coefficient,
        },
    );
    let dsa = four().prop_map(|(x, p, q, g)| PrivateKey::Dsa { x, p, q, g });
    prop_oneof![rsa, dsa, octets().prop_map(PrivateKey::Other)]
}

fn key_file() -> impl Strategy<Value = KeyFile> {
    let derived = || {
        let numbers = any::<[u32; 2]>();
        (octets(), numbers, octets(), octets()).prop_map(
            |(salt, [iterations, key_bits], iv, ciphertext)| Derived {
                salt,
                iterations,
                key_bits,
                iv,
                ciphertext,
            },
        )
    };
    prop_oneof![
        octets().prop_map(KeyFile::Clear),
        (any::<[u8; 8]>(), octets()).prop_map(|(iv, ciphertext)| KeyFile::Des { iv, ciphertext }),
        derived().prop_map(KeyFile::TripleDes),
        derived().prop_map(KeyFile::Aes),
    ]
}

fn proof() -> impl Strategy<Value = (&'static [u8], Proof)> {
    let signature = (octets(), octets())
        .prop_map(|(hash, signature)| (Proof::PUBLIC_KEY, Proof::Signature { hash, signature }));
    let derived =
        (octets(), any::<[u32; 2]>(), octets()).prop_map(|(salt, [iterations, key_bits], mac)| {
            Proof::Derived {
                salt,
                iterations,
                key_bits,
                mac,
            }
        });
    let plain =
        (0u8..0x20, vec(any::<u8>(), 16..40)).prop_map(|(algorithm, digest)| Proof::Plain {
            algorithm: MacAlgorithm(algorithm),
            digest: digest.into(),
        });
    let old = any::<[u8; 16]>().prop_map(|digest| Proof::Old(Bytes::copy_from_slice(&digest)));
    let secret = prop_oneof![derived, plain, old].prop_map(|proof| (Proof::SECRET_KEY, proof));
    prop_oneof![signature, secret]
}

fn sealed() -> impl Strategy<Value = EncryptedMessage> {
    (envelope(), octets()).prop_map(|(envelope, ciphertext)| {
        let envelope = Envelope {
            flags: EnvelopeFlags::ENCRYPTED,
            ..envelope
        };
        EncryptedMessage {
            envelope,
            ciphertext,
        }
    })
}

fn dump_block() -> impl Strategy<Value = DumpBlock> {
    prop_oneof![
        any::<[i64; 2]>().prop_map(|[date_ms, last_transaction]| DumpBlock::Server {
            date_ms,
            last_transaction
        }),
        (octets(), values()).prop_map(|(handle, values)| DumpBlock::Handle { handle, values }),
        octets().prop_map(DumpBlock::Prefix),
        Just(DumpBlock::End),
    ]
}

fn transaction_block() -> impl Strategy<Value = TransactionBlock> {
    let transaction = (any::<[i64; 2]>(), octets(), any::<u8>(), values()).prop_map(
        |([id, date_ms], handle, action, values)| {
            let action = Action(action % 7);
            let values = if action.has_values() {
                values
            } else {
                Vec::new()
            };
            TransactionBlock::Transaction {
                id,
                handle,
                action,
                date_ms,
                values,
            }
        },
    );
    let end = any::<i64>().prop_map(|date_ms| TransactionBlock::End { date_ms });
    prop_oneof![transaction, end]
}
