//! Goal: the short way and the full way give the same octets. Method: random questions of every shape,
//! whole and damaged, through both with clock and cookie secret fixed; [`Bench::ask`] compares.

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use jiexi::server::dns::{AMPLIFICATION_MAX, Channel};

use crate::node::{Bench, option, question, with_edns};

/// A small generator of numbers, so that a failure can be repeated by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).expect("64 bits") % end
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

const NAMES: &[&str] = &[
    "cnc-1.88-118-1.id.example.net.",
    "big.88-118-1.id.example.net.",
    "odd.88-118-1.id.example.net.",
    "secret.88-118-1.id.example.net.",
    "twice.88-118-1.id.example.net.",
    "until.88-118-1.id.example.net.",
    "none.88-118-1.id.example.net.",
    "desc-only.88-118-1.id.example.net.",
    "x.88-118-9.id.example.net.",
    "foreign.88-118-9.id.example.net.",
    "88-118-1.id.example.net.",
    "88-118-2.id.example.net.",
    "id.example.net.",
    "_hdl-srv._tcp.88-118-1.id.example.net.",
    "_tcp.88-118-1.id.example.net.",
    "_61.88-118-1.id.example.net.",
    "_hpg2h3ivmegfid5otsibstgjlv0qt8fl4.88-118-1.id.example.net.",
    "_hpg2h3ivmegfid5otsibstgjlv0qt8fl4.88-118-2.id.example.net.",
    "_hpg2h3ivmegfid5otsibstgjlv0qt8fl4.88_2e118_2e1.id.example.net.",
    "_hpg2h3ivmegfid5otsibstgjlv0qt8fl4.text.example.net.",
    "_h00000000000000000000000000000000.88-118-1.id.example.net.",
    "cnc-1.text.example.net.",
    "none.text.example.net.",
    "desc-only.text.example.net.",
    "3.156.2.1.oid.example.net.",
    "2.1.oid.example.net.",
    "9.8.7.6.5.4.3.2.1.0.9.6.0.gtin.example.net.",
    "1.8.7.6.5.4.3.2.1.0.9.6.0.gtin.example.net.",
    "9.6.0.gtin.example.net.",
    "example.net.",
    "example.org.",
    ".",
    "a.b.c.88-118-1.id.example.net.",
    "ns1.example.net.",
    "hostmaster.example.net.text.example.net.",
];

const KINDS: &[u16] = &[
    35, 35, 35, 256, 256, 16, 1, 28, 33, 6, 2, 15, 255, 252, 41, 43, 65_280,
];

/// A question as clients of every kind ask it.
fn random_question(random: &mut Random, cookie: &[u8]) -> Vec<u8> {
    let mut name = random.of(NAMES).to_owned();
    if random.below(3) == 0 {
        name = name
            .chars()
            .map(|c| {
                if random.below(2) == 0 {
                    c.to_ascii_uppercase()
                } else {
                    c
                }
            })
            .collect();
    }
    let mut asked = question(&name, RecordType::from(random.of(KINDS)));
    asked.metadata.recursion_desired = random.below(2) == 0;
    asked.metadata.checking_disabled = random.below(4) == 0;
    asked.metadata.authentic_data = random.below(4) == 0;
    let options: &[&[(u16, &[u8])]] = &[
        &[],
        &[],
        &[(10, b"clientck")],
        &[(10, cookie)],
        &[(10, b"short")],
        &[(3, b"")],
        &[(10, cookie), (3, b"")],
        &[(11, b"")],
        &[(12, &[0; 9])],
        &[(15, b"x")],
    ];
    if random.below(4) > 0 {
        asked = with_edns(asked, random.of(options));
        let edns = asked.edns.as_mut().expect("set");
        edns.set_max_payload(random.of(&[0, 512, 700, 1232, 4096]));
        edns.set_dnssec_ok(random.below(2) == 0);
        edns.set_version(u8::from(random.below(10) == 0));
    }
    let mut octets = asked.to_vec().expect("encodes");
    match random.below(12) {
        0 => octets.truncate(random.below(octets.len())),
        1 => octets.push(0),
        2 | 3 => {
            let at = random.below(octets.len());
            octets[at] = u8::try_from(random.below(256)).expect("an octet");
        }
        _ => {}
    }
    octets
}

#[test]
fn random_questions() {
    let mut bench = Bench::new();
    let first = with_edns(question(NAMES[0], RecordType::NAPTR), &[(10, b"clientck")]);
    let cookie = option(&bench.message(&first, Channel::Udp), 10).expect("a cookie");
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for _ in 0..60_000 {
        let asked = random_question(&mut random, &cookie);
        let channel = random.of(&[Channel::Udp, Channel::Udp, Channel::Tcp, Channel::Tls]);
        let Some(answer) = bench.ask(&asked, channel) else {
            continue;
        };
        assert!(
            answer.len()
                <= if channel == Channel::Udp {
                    1232
                } else {
                    65_535
                }
        );
        let answered = Message::from_vec(&answer);
        assert!(
            answered.is_ok(),
            "{} → {}",
            hex::encode(&asked),
            hex::encode(&answer)
        );
    }
}

/// Goal: the documentation's table of how much longer an answer over UDP may be than its question is
/// true. Method: for each type the largest factor over all names of the test data, without a cookie.
#[test]
fn amplification_factor_of_each_type() {
    let mut bench = Bench::new();
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/dns.md"))
        .expect("docs");
    let mut table = Vec::new();
    for (name, kind) in [
        ("NAPTR", 35),
        ("URI", 256),
        ("TXT", 16),
        ("A", 1),
        ("AAAA", 28),
        ("SRV", 33),
        ("SOA", 6),
        ("NS", 2),
        ("ANY", 255),
        ("MX", 15),
    ] {
        let mut largest = 0.0_f64;
        for owner in NAMES {
            for asked in [
                question(owner, kind.into()),
                with_edns(question(owner, kind.into()), &[]),
            ] {
                let asked = asked.to_vec().expect("encodes");
                let answer = bench.ask(&asked, Channel::Udp).expect("an answer");
                assert!(answer.len() <= AMPLIFICATION_MAX * asked.len());
                largest = largest.max(answer.len() as f64 / asked.len() as f64);
            }
        }
        table.push(format!("| {name} | {largest:.1} |"));
    }
    let missing = |row: &&String| !text.lines().any(|line| line == **row);
    assert_eq!(
        table.iter().find(missing),
        None,
        "config/dns.md should have:\n{}",
        table.join("\n")
    );
}

/// Goal: the fuzzer's entry point and its seeds work. Method: each seed, cut everywhere.
#[cfg(feature = "fuzzing")]
#[test]
fn fuzz_seeds() {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/dns");
    let mut ran = 0;
    for seed in std::fs::read_dir(seeds).expect("seeds") {
        let octets = std::fs::read(seed.expect("a seed").path()).expect("reads");
        for length in 0..=octets.len() {
            jiexi::server::dns::fuzzing::both_ways(&octets[..length]);
        }
        ran += 1;
    }
    assert!(ran >= 12, "{ran} seeds");
}
