//! Goal: from the time of a refusal nobody learns whether an identity has a key, or of which kind and size.

use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi::registry::Identity;
use jiexi::registry::auth::Claim;
use jiexi::registry::source::Sender;
use jiexi_proto::Version;
use jiexi_proto::message::challenge::{MacAlgorithm, Proof};
use jiexi_proto::value::key::PublicKey;
use nix::time::{ClockId, clock_gettime};

use crate::hazards::{put, value};
use crate::node::{Node, keys};

/// The processor time of this thread.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("a clock")
        .into()
}

/// The processor time in which a wrong proof of an identity is refused.
pub(crate) fn refusal(
    node: &Node,
    handle: &str,
    index: u32,
    kind: &'static [u8],
    proof: &Proof,
) -> Duration {
    let mut answer = Vec::new();
    proof.encode(&mut answer);
    let claim = Claim {
        identity: Identity {
            handle: handle.to_ascii_uppercase().into_bytes(),
            index,
        },
        user: Bytes::copy_from_slice(handle.as_bytes()),
        kind: Bytes::from_static(kind),
        answer: Bytes::from(answer),
        version: Version::V2_11,
    };
    // Each from a place of its own: wrong answers slow their sender down.
    let sender = Sender::proven(std::net::Ipv4Addr::from(getrandom::u32().expect("random")).into());
    let registry = node.desk.registry();
    let (now, start) = (Instant::now(), processor_time());
    let refused = registry.authenticate_in_turn(&claim, &[vec![7; 48]], sender, now);
    let time = processor_time() - start;
    assert_eq!(refused.expect_err("a wrong proof").code.0, 403);
    time
}

/// Method: wrong secrets of somebody who has one and of nobody, in turns; the least processor time is compared.
#[test]
fn a_wrong_secret_costs_the_same_whoever_it_names() {
    let node = Node::start();
    let derived = Proof::Derived {
        salt: Bytes::from_static(b"0123456789abcdef"),
        iterations: 10_000,
        key_bits: 160,
        mac: Bytes::from_static(&[7; 20]),
    };
    let plain = Proof::Plain {
        algorithm: MacAlgorithm::SHA1,
        digest: Bytes::from_static(&[7; 20]),
    };
    for (form, proof) in [("derived", derived), ("plain", plain)] {
        let (mut known, mut nobody) = (Duration::MAX, Duration::MAX);
        for _ in 0..15 {
            let time = |handle, index| refusal(&node, handle, index, Proof::SECRET_KEY, &proof);
            known = known.min(time("0.NA/88.118.8", 301));
            nobody = nobody.min(time("88.118.8/nobody", 301));
        }
        println!("{form}: nobody {nobody:?}, somebody {known:?}");
        let ratio = nobody.as_secs_f64() / known.as_secs_f64();
        // Reading a record takes a microsecond or two, which no network shows: ten answers, then one a second.
        let unseen = nobody.abs_diff(known) < Duration::from_micros(10);
        assert!(unseen || (0.5..2.0).contains(&ratio), "{form}: {ratio:.2}");
    }
}

/// Method: wrong signatures of every shape for keys of every shape and for nobody, in turns; the least processor time of
/// each is compared, which other work on the machine does not change.
#[test]
fn a_wrong_signature_costs_the_same_whoever_it_names() {
    let node = Node::start();
    let bytes = |name: &str| hex::decode(keys()[name].as_str().expect("a key")).expect("hex");
    let rsa = |octets: usize| {
        let modulus = [&[0][..], &vec![0xC5; octets]].concat();
        let mut data = Vec::new();
        PublicKey::Rsa {
            flags: 0,
            exponent: Bytes::from_static(&[1, 0, 1]),
            modulus: Bytes::from(modulus),
        }
        .encode(&mut data);
        data
    };
    let large = include_str!("../../src/registry/nobody.hex")
        .split("\n\n")
        .nth(2)
        .expect("a key");
    let large = hex::decode(large.split_whitespace().collect::<String>()).expect("hex");
    let known = [
        (1, rsa(256)),
        (2, rsa(512)),
        (3, bytes("admin_dsa_pub.bin_hex")),
        (4, large),
    ];
    let record = known
        .iter()
        .map(|(index, data)| value(*index, b"HS_PUBKEY", 0x0E, data));
    put(&node, "88.118.8/keys", &record.collect::<Vec<_>>());
    let dsa = |octets: usize| {
        let number = [
            &[2, u8::try_from(octets).expect("short")][..],
            &vec![0x42; octets],
        ]
        .concat();
        let both = number.repeat(2);
        [&[0x30, u8::try_from(both.len()).expect("short")][..], &both].concat()
    };
    for (shape, signature) in [
        ("RSA-2048", vec![0x42; 256]),
        ("RSA-4096", vec![0x42; 512]),
        ("DSA-1024/160", dsa(20)),
        ("DSA-2048/256", dsa(32)),
    ] {
        let proof = Proof::Signature {
            hash: Bytes::from_static(b"SHA-256"),
            signature: Bytes::from(signature),
        };
        let time = |handle, index| refusal(&node, handle, index, Proof::PUBLIC_KEY, &proof);
        let mut least = [Duration::MAX; 5];
        for _ in 0..15 {
            for (place, least) in least.iter_mut().enumerate() {
                let handle = if place == 0 {
                    "88.118.8/nobody"
                } else {
                    "88.118.8/keys"
                };
                *least = (*least).min(time(handle, u32::try_from(place).expect("small")));
            }
        }
        println!(
            "{shape}: nobody {:?}; keys of RSA-2048, RSA-4096, DSA-1024, DSA-2048 {:?}",
            least[0],
            &least[1..]
        );
        for known in &least[1..] {
            let ratio = least[0].as_secs_f64() / known.as_secs_f64();
            assert!((0.5..2.0).contains(&ratio), "{shape}: {ratio:.2}");
        }
    }
}
