//! Goal: the fast path answers every request as a plain implementation does, to the byte. Method: random requests,
//! well-formed and damaged, go in random batches to [`Responder::respond`] as datagrams and as a stream, and one by one
//! to [`Plain`], which knows no views, batches or indexes: it reads the octets, walks the records of the recording in a
//! map and builds the answer in front of the reader. The seed is printed, and `DIFFERENTIAL_SEED` repeats a run.

#![expect(
    clippy::expect_used,
    reason = "helpers of a test: a failed assumption is a failed test"
)]

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use jiexi::clock::Now;
use jiexi::metrics::{Metrics, Transport};
use jiexi::server::handle::{BATCH, Replies, Responder, desk};
use jiexi_proto::OpCode;
use jiexi_proto::code::{OpFlags, ResponseCode};
use jiexi_proto::limits::{ARRAY_MAX, FILTERS_MAX, HANDLE_MAX, MESSAGE_MAX};
use jiexi_proto::value::ValueView;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

#[path = "handle/node.rs"]
#[expect(dead_code, reason = "this test needs no sockets")]
mod node;
#[path = "support/ports.rs"]
mod ports;

/// Requests of a run.
const REQUESTS: usize = 60_000;

/// What becomes of a request.
#[derive(Debug, PartialEq)]
enum Outcome {
    Reply(Vec<u8>),
    Drop,
    /// It goes to the desk.
    Defer,
}

/// The plain implementation.
struct Plain {
    /// Values in wire form by handle in capitals.
    records: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    site: Vec<u8>,
    seconds: u32,
}

/// Prefixes that the fixture homes.
const HOMED: [&[u8]; 3] = [b"88.118.8", b"88.118", b"0.NA"];
/// The types by which a prefix refers to another service.
const REFERRING: [&[u8]; 3] = [b"HS_SITE.PREFIX", b"HS_NA_DELEGATE", b"HS_SERV.PREFIX"];
/// Octets of the answer that say what the request was: version, session, request id, op code, flags.
struct Asked<'a> {
    octets: &'a [u8],
    version: (u8, u8),
    signed: &'a [u8],
}

impl Plain {
    fn answer(&self, octets: &[u8]) -> Outcome {
        if octets.len() < 20 {
            return Outcome::Drop;
        }
        if octets[2] & 0x40 != 0 {
            return Outcome::Defer;
        }
        let refuse = |op, text| Outcome::Reply(self.refusal(octets, op, text));
        if octets[2] & 0x80 != 0 {
            return refuse(0, "compressed messages are not understood");
        }
        let Some((signed, body)) = parts(octets) else {
            return refuse(
                0,
                "the message is shorter than its header or its lengths disagree",
            );
        };
        if number(octets, 24) != 0 {
            return Outcome::Drop;
        }
        let (op, flags, session) = (number(octets, 20), number(octets, 28), number(octets, 4));
        let question = op == 1 || op == 2;
        if (session != 0 || flags & OpFlags::CERT.0 != 0 || !question) && SERVED.contains(&op) {
            return Outcome::Defer;
        }
        let asked = Asked {
            octets,
            version: version(octets),
            signed,
        };
        let decline = |text: &str| {
            Outcome::Reply(self.reply(&asked, ResponseCode::OPERATION_NOT_SUPPORTED, &block(text)))
        };
        match op {
            1 => self.resolve(&asked, body),
            2 => Outcome::Reply(self.reply(&asked, ResponseCode::SUCCESS, &self.site)),
            1000 => decline("transaction ids are not asked for any more: upgrade the client"),
            op if op != 0 && OpCode(op).name().is_some() => {
                decline("this node does not carry out this operation over the wire")
            }
            op => refuse(op, "unknown operation code"),
        }
    }

    fn resolve(&self, asked: &Asked<'_>, body: &[u8]) -> Outcome {
        let Some((handle, indexes, types)) = question(body) else {
            return Outcome::Reply(self.refusal(
                asked.octets,
                1,
                "the body is not a resolution request",
            ));
        };
        let flags = number(asked.octets, 28);
        let mut key = handle.to_ascii_uppercase();
        if !key.contains(&b'/') {
            key = [b"0.NA/", &key[..]].concat();
        }
        let slash = key.iter().position(|&c| c == b'/').expect("a slash");
        let say = |code, text: &str| Outcome::Reply(self.reply(asked, code, &block(text)));
        if !HOMED.contains(&&key[..slash]) {
            return say(
                ResponseCode::SERVER_NOT_RESPONSIBLE,
                "this prefix is not homed here",
            );
        }
        let own = key
            .strip_prefix(b"0.NA/")
            .filter(|prefix| HOMED.contains(prefix));
        let own = own.map(|_| vec![site_value(&self.site)]);
        if let Some(values) = self.records.get(&key).or(own.as_ref()) {
            let wanted = |value: &&Vec<u8>| {
                let (view, _) = ValueView::split(value).expect("a value");
                let all = indexes.is_empty() && types.is_empty();
                all || indexes.contains(&view.index)
                    || types.iter().any(|wanted| matches(wanted, view.kind))
            };
            let picked: Vec<&Vec<u8>> = values.iter().filter(wanted).collect();
            return self.permitted(asked, handle, &picked, flags & OpFlags::PUBL.0 != 0);
        }
        if flags & OpFlags::DNRF.0 != 0 || !key.starts_with(b"0.NA/") {
            return say(ResponseCode::HANDLE_NOT_FOUND, "");
        }
        while let Some(dot) = key.iter().skip(5).rposition(|&c| c == b'.') {
            key.truncate(5 + dot);
            let values = self.records.get(&key).into_iter().flatten();
            let refers = |value: &&Vec<u8>| {
                let (view, _) = ValueView::split(value).expect("a value");
                public(value)
                    && REFERRING
                        .iter()
                        .any(|kind| view.kind.eq_ignore_ascii_case(kind))
            };
            let referral: Vec<&Vec<u8>> = values.filter(refers).collect();
            if !referral.is_empty() && asked.version >= (2, 10) {
                let body = [block(""), list(&referral)].concat();
                return Outcome::Reply(self.reply(asked, ResponseCode::PREFIX_REFERRAL, &body));
            }
            if !referral.is_empty() {
                let text = "this prefix lives elsewhere, and a client before version 2.10 cannot be referred";
                return say(ResponseCode::ERROR, text);
            }
        }
        say(ResponseCode::HANDLE_NOT_FOUND, "")
    }

    /// The picked values, as far as everybody may read them.
    fn permitted(
        &self,
        asked: &Asked<'_>,
        handle: &[u8],
        picked: &[&Vec<u8>],
        public_only: bool,
    ) -> Outcome {
        let open: Vec<&Vec<u8>> = picked
            .iter()
            .copied()
            .filter(|value| public(value))
            .collect();
        let closed = |value: &&&Vec<u8>| !public(value) && value[13] & 8 == 0;
        if !public_only && picked.iter().any(|value| closed(&value)) {
            return Outcome::Reply(self.reply(
                asked,
                ResponseCode::INSUFFICIENT_PERMISSIONS,
                &block(""),
            ));
        }
        if !public_only && open.len() < picked.len() {
            return Outcome::Defer;
        }
        if open.is_empty() {
            return Outcome::Reply(self.reply(asked, ResponseCode::VALUES_NOT_FOUND, &block("")));
        }
        let length = u32::try_from(handle.len()).expect("short");
        let body = [&length.to_be_bytes()[..], handle, &list(&open)].concat();
        Outcome::Reply(self.reply(asked, ResponseCode::SUCCESS, &body))
    }

    fn reply(&self, asked: &Asked<'_>, code: ResponseCode, body: &[u8]) -> Vec<u8> {
        let kept =
            OpFlags::CACR.0 | OpFlags::ENCR.0 | OpFlags::PUBL.0 | OpFlags::DNRF.0 | OpFlags::RRDG.0;
        let mut flags = number(asked.octets, 28) & kept;
        if asked.version < (2, 1) {
            flags &= !OpFlags::RRDG.0;
        }
        let digest = match (flags & OpFlags::RRDG.0 != 0, asked.version >= (2, 7)) {
            (false, _) => vec![],
            (true, true) => [&[3][..], &Sha256::digest(asked.signed)].concat(),
            (true, false) => [&[2][..], &Sha1::digest(asked.signed)].concat(),
        };
        let body = [&digest, body].concat();
        let octets = asked.octets;
        let head = [&octets[4..8], &octets[8..12]].concat();
        let flags = flags | OpFlags::AUTH.0 | OpFlags::RECU.0;
        self.message(
            asked.version,
            &head,
            number(octets, 20),
            code,
            flags,
            [0, 1, octets[34], 0],
            &body,
        )
    }

    fn refusal(&self, octets: &[u8], op: u32, text: &str) -> Vec<u8> {
        let flags = OpFlags::RECU.0 | OpFlags::CACR.0 | OpFlags::PUBL.0;
        let head = [&[0; 4], &octets[8..12]].concat();
        let serial = [0xff, 0xff, 0, 0];
        self.message(
            (2, 3),
            &head,
            op,
            ResponseCode::PROTOCOL_ERROR,
            flags,
            serial,
            &block(text),
        )
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one for each field, in the order of the wire"
    )]
    fn message(
        &self,
        version: (u8, u8),
        ids: &[u8],
        op: u32,
        code: ResponseCode,
        flags: u32,
        site: [u8; 4],
        body: &[u8],
    ) -> Vec<u8> {
        let length = u32::try_from(body.len()).expect("short");
        let mut out = vec![version.0, version.1, 2, 11];
        out.extend_from_slice(ids);
        for field in [0, 24 + length + 4, op, code.0, flags] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        out.extend_from_slice(&site);
        for field in [self.seconds + 12 * 3600, length] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        out.extend_from_slice(body);
        out.extend_from_slice(&[0; 4]);
        out
    }
}

/// Operations that the node carries out.
const SERVED: [u32; 21] = [
    1, 2, 100, 101, 102, 103, 104, 105, 200, 201, 300, 301, 302, 400, 401, 402, 1001, 1002, 2001,
    300_100, 300_101,
];

fn number(octets: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(octets[at..at + 4].try_into().expect("four"))
}

/// The version that the answer has: what is suggested, between 2.0 and 2.11.
fn version(octets: &[u8]) -> (u8, u8) {
    let wanted = match (octets[2] & 3, octets[0]) {
        (0, 5) => (2, 0),
        (0, major) => (major, octets[1]),
        (major, _) => (major, octets[3]),
    };
    wanted.clamp((2, 0), (2, 11))
}

/// Header and body together, and the body, if all lengths agree.
fn parts(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (promised, content) = (number(octets, 16) as usize, &octets[20..]);
    if promised > MESSAGE_MAX || promised < content.len() || content.len() < 24 {
        return None;
    }
    let signed = content.get(..24 + number(content, 20) as usize)?;
    let rest = &content[signed.len()..];
    let credential =
        rest.is_empty() || rest.len() >= 4 && number(rest, 0) as usize == rest.len() - 4;
    (credential && rest.len() <= 4 + ARRAY_MAX).then_some((signed, &signed[24..]))
}

type Question<'a> = (&'a [u8], Vec<u32>, Vec<&'a [u8]>);

/// Handle, indexes and types.
fn question(mut body: &[u8]) -> Option<Question<'_>> {
    let handle = take(&mut body, HANDLE_MAX)?;
    let mut indexes = Vec::new();
    for _ in 0..count(&mut body)? {
        indexes.push(word(&mut body)?);
    }
    let mut types = Vec::new();
    for _ in 0..count(&mut body)? {
        types.push(take(&mut body, ARRAY_MAX)?);
    }
    if !body.is_empty() {
        take(&mut body, ARRAY_MAX)?;
    }
    body.is_empty().then_some((handle, indexes, types))
}

fn word(octets: &mut &[u8]) -> Option<u32> {
    let (head, rest) = octets.split_at_checked(4)?;
    *octets = rest;
    Some(number(head, 0))
}

fn count(octets: &mut &[u8]) -> Option<usize> {
    word(octets)
        .map(|count| count as usize)
        .filter(|&count| count <= FILTERS_MAX)
}

fn take<'a>(octets: &mut &'a [u8], most: usize) -> Option<&'a [u8]> {
    let length = word(octets)? as usize;
    let (head, rest) = octets.split_at_checked(length).filter(|_| length <= most)?;
    *octets = rest;
    Some(head)
}

/// `URL` names URL alone, `URL.` everything below it as well.
fn matches(wanted: &[u8], kind: &[u8]) -> bool {
    let (wanted, kind) = (wanted.to_ascii_uppercase(), kind.to_ascii_uppercase());
    if wanted.last() != Some(&b'.') {
        return wanted == kind;
    }
    kind == wanted[..wanted.len() - 1] || kind.starts_with(&wanted)
}

/// Whether the permissions of a value in wire form let everybody read it.
fn public(value: &[u8]) -> bool {
    value[13] & 2 != 0
}

fn list(values: &[&Vec<u8>]) -> Vec<u8> {
    let count = u32::try_from(values.len()).expect("few").to_be_bytes();
    let mut out = count.to_vec();
    values.iter().for_each(|value| out.extend_from_slice(value));
    out
}

fn block(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("short").to_be_bytes();
    [&length[..], text.as_bytes()].concat()
}

/// What is said of a homed prefix without a record.
fn site_value(site: &[u8]) -> Vec<u8> {
    let length = u32::try_from(site.len()).expect("short").to_be_bytes();
    [
        &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0x51, 0x80, 14, 0, 0, 0, 7],
        &b"HS_SITE"[..],
        &length,
        site,
        &[0; 4],
    ]
    .concat()
}

/// Random requests.
struct Generator {
    random: SmallRng,
    handles: Vec<Vec<u8>>,
}

impl Generator {
    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.random.random_range(0..of.len())].clone()
    }

    fn request(&mut self) -> Vec<u8> {
        let mut octets = self.well_formed();
        match self.random.random_range(0..10) {
            0 => octets.truncate(self.random.random_range(0..=octets.len())),
            1 => octets.extend((0..self.random.random_range(1..9)).map(|_| 0)),
            2 | 3 => {
                let at = self.random.random_range(0..octets.len());
                octets[at] = self.random.random();
            }
            _ => {}
        }
        octets
    }

    fn well_formed(&mut self) -> Vec<u8> {
        let body = self.body();
        let flags = match self.random.random_range(0..4) {
            0 => self.random.random::<u32>() & 0xffff_0000,
            1 => OpFlags::PUBL.0 | OpFlags::RRDG.0,
            _ => OpFlags::PUBL.0 | OpFlags::CACR.0 | OpFlags::RECU.0,
        };
        let version = [
            (2, 0),
            (2, 1),
            (2, 6),
            (2, 7),
            (2, 9),
            (2, 10),
            (2, 11),
            (2, 12),
            (1, 0),
            (3, 5),
            (5, 0),
        ];
        let ((major, minor), (wanted_major, wanted_minor)) =
            (self.pick(&version), self.pick(&version));
        let suggested = [0, wanted_major & 3][self.random.random_range(0..2)];
        let mut out: Vec<u8> = vec![major, minor, suggested, wanted_minor];
        let length = u32::try_from(body.len()).expect("short");
        let session = self.pick(&[0, 0, 0, 0, 0, 0, 0, 7_u32]);
        let op = self.pick(&[
            1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 0, 3, 100, 400, 1000, 999, 77_u32,
        ]);
        let credential = self.pick(&[true, true, true, false]);
        let message = 24 + length + if credential { 4 } else { 0 };
        for field in [session, self.random.random(), 0, message, op, 0, flags] {
            out.extend_from_slice(&field.to_be_bytes());
        }
        out.extend_from_slice(&[0, 1, self.random.random_range(0..4), 0, 0, 0, 0, 0]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&body);
        out.resize(20 + message as usize, 0);
        out
    }

    fn body(&mut self) -> Vec<u8> {
        let handle = self.handle();
        let mut out = u32::try_from(handle.len())
            .expect("short")
            .to_be_bytes()
            .to_vec();
        out.extend_from_slice(&handle);
        let indexes = self.random.random_range(0..6_u32) / 2;
        out.extend_from_slice(&indexes.to_be_bytes());
        (0..indexes).for_each(|_| {
            out.extend_from_slice(&self.pick(&[1, 2, 3, 4, 5, 100, 300, 9_u32]).to_be_bytes())
        });
        let kinds = [
            "URL",
            "url.",
            "HS_ADMIN",
            "HS_SITE",
            "EMAIL",
            "HS_",
            "",
            ".",
            "HS_SITE.PREFIX",
            "DESC",
            "HS_SECKEY",
        ];
        let types = self.random.random_range(0..6_u32) / 3;
        out.extend_from_slice(&types.to_be_bytes());
        (0..types).for_each(|_| out.extend_from_slice(&block(self.pick(&kinds))));
        out
    }

    fn handle(&mut self) -> Vec<u8> {
        let mut handle = self.pick(&self.handles.clone());
        match self.random.random_range(0..8) {
            0 => handle.make_ascii_lowercase(),
            1 => handle.extend_from_slice(b".9"),
            2 => {
                handle = self
                    .pick(&[
                        "0.NA/88.118",
                        "88.118",
                        "0.na/88.118.8.77",
                        "10.9999/1",
                        "NOSLASH",
                        "",
                        "88.118/",
                    ])
                    .into()
            }
            3 => {
                handle.pop();
            }
            _ => {}
        }
        handle
    }
}

#[test]
fn the_fast_path_answers_as_the_plain_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let shared = node::shared_by(
        directory.path(),
        node::registry_config(),
        desk::Config::default(),
    );
    let now = Now::read();
    let plain = Plain {
        records: fixture(),
        site: shared.site.to_vec(),
        seconds: now.unix_seconds,
    };
    let given = std::env::var("DIFFERENTIAL_SEED").ok();
    let seed = given.map_or_else(
        || RandomState::new().hash_one(0),
        |seed| seed.parse().expect("a number"),
    );
    println!("DIFFERENTIAL_SEED={seed}");
    let handles = plain.records.keys().cloned().collect();
    let mut generator = Generator {
        random: SmallRng::seed_from_u64(seed),
        handles,
    };
    let mut responder = Responder::new(Arc::new(shared), Metrics::default().cell(Transport::Udp));
    let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
    let mut asked = 0;
    while asked < REQUESTS {
        let size = generator.random.random_range(1..=BATCH);
        let requests: Vec<Vec<u8>> = (0..size).map(|_| generator.request()).collect();
        let expected: Vec<Outcome> = requests
            .iter()
            .map(|request| plain.answer(request))
            .collect();
        for ordered in [false, true] {
            let given = fast(&mut responder, &requests, now, ordered);
            for ((request, expected), given) in requests.iter().zip(&expected).zip(&given) {
                assert_eq!(
                    given,
                    expected,
                    "seed {seed}, request {}",
                    hex::encode(request)
                );
            }
            assert_eq!(given.len(), size, "seed {seed}");
        }
        for outcome in expected {
            *seen
                .entry(if let Outcome::Reply(octets) = outcome {
                    number(&octets, 24)
                } else {
                    0
                })
                .or_default() += 1;
        }
        asked += size;
    }
    // Every kind of answer was compared often: found, no such handle or value, not responsible, referral, protocol error.
    for code in [1, 100, 200, 301, 303, 4, 5, 0] {
        let often = seen.get(&code).copied().unwrap_or(0);
        assert!(often >= 20, "code {code} in {seen:?}");
    }
}

/// What the fast path makes of a batch. What follows long answers, or in order a deferred request, is asked anew.
fn fast(responder: &mut Responder, requests: &[Vec<u8>], now: Now, ordered: bool) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    let mut replies = Replies::default();
    replies.ordered = ordered;
    while outcomes.len() < requests.len() {
        let rest: Vec<&[u8]> = requests[outcomes.len()..]
            .iter()
            .map(Vec::as_slice)
            .collect();
        replies.clear();
        let done = responder.respond(&rest, now, &mut replies);
        assert!(done > 0, "some progress");
        let deferred: Vec<usize> = replies.deferred().collect();
        outcomes.extend(
            replies
                .ranges()
                .enumerate()
                .map(|(place, range)| match range {
                    Some(range) => Outcome::Reply(replies.octets()[range].to_vec()),
                    None if deferred.contains(&place) => Outcome::Defer,
                    None => Outcome::Drop,
                }),
        );
    }
    outcomes
}

/// The records of the recording.
fn fixture() -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let text =
        std::fs::read_to_string(node::vectors().join("fixture.ndjson")).expect("the fixture");
    let record = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let values = line["values_hex"].as_array().expect("values").iter();
        let values = values.map(|value| hex::decode(value.as_str().expect("hex")).expect("hex"));
        (
            line["handle"]
                .as_str()
                .expect("a handle")
                .to_ascii_uppercase()
                .into_bytes(),
            values.collect(),
        )
    };
    text.lines().map(record).collect()
}
