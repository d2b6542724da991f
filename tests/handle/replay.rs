//! Goal: the node answers the recorded requests as the reference server did, to the octet.
//! Method: each recorded request is sent as it was; the fields that differ from run to run are put
//! from the recorded answer into ours (expiration; in challenges session id and nonce; in refusals
//! the text), ours is encoded anew, cut to datagrams as recorded, and compared.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use jiexi_proto::code::{OpFlags, ResponseCode};
use jiexi_proto::framing::split_datagrams;
use jiexi_proto::{Envelope, Header, MessageView};

use crate::node::{Node, receive, vectors};

/// The scenarios replayed, by the beginning of their names.
const REPLAYED: [&str; 8] = [
    "res_",
    "ref_0",
    "ref_1",
    "ref_8",
    "ref_noslash",
    "siteinfo_",
    "flow_first_contact",
    "no_credential",
];

/// Replayed as well, by name.
const ALSO: [&str; 6] = [
    "bad_expired_zero",
    "bad_len_mismatch_udp",
    "bad_recursion",
    "next_txn_id",
    "session_unknown_id",
    "tcp_one_keepalive",
];

/// Not replayed here, with the reason.
const ELSEWHERE: [(&str, &str); 4] = [
    ("res_restricted_seckey", PROVED),
    ("res_restricted_rsa", PROVED),
    ("res_restricted_all_rsa", PROVED),
    (
        "res_all_http",
        "replayed beside the other front ends, in tests/http/battery.rs",
    ),
];

/// A proof depends on our nonce: these, and what asks for a signature, are replayed beside.
const PROVED: &str = "replayed with proofs of our own, in administration";

/// Fewer scenarios than this is a loss.
const REPLAYED_MIN: usize = 53;

/// A decoded answer, as far as it is needed to encode it anew.
struct Answer {
    envelope: Envelope,
    header: Header,
    body: Vec<u8>,
    credential: Vec<u8>,
}

impl Answer {
    fn decode(octets: &[u8]) -> Self {
        let view = MessageView::decode(octets).expect("a message");
        let credential = view.credential.unwrap_or_default().to_vec();
        Self {
            envelope: view.envelope,
            header: view.header,
            body: view.body.to_vec(),
            credential,
        }
    }

    fn encode(mut self) -> Vec<u8> {
        let length = |octets: &[u8]| u32::try_from(octets.len()).expect("short");
        self.header.body_length = length(&self.body);
        let mut message = self.header.encode().to_vec();
        message.extend(&self.body);
        message.extend(length(&self.credential).to_be_bytes());
        message.extend(&self.credential);
        self.envelope.message_length = length(&message);
        [self.envelope.encode().to_vec(), message].concat()
    }

    /// The length of the digest at the beginning of the body.
    fn digest(&self) -> usize {
        match (self.header.flags.contains(OpFlags::RRDG), self.body.first()) {
            (false, _) | (_, None) => 0,
            (true, Some(1)) => 17,
            (true, Some(2)) => 21,
            (true, Some(_)) => 33,
        }
    }

    /// Takes over the fields that differ from run to run.
    fn assume(&mut self, recorded: &Self) {
        assert!(
            self.header.expiration > 1_795_000_000,
            "an answer expires in the future"
        );
        self.header.expiration = recorded.header.expiration;
        match self.header.response_code {
            ResponseCode::AUTHENTICATION_NEEDED => {
                assert_ne!(self.envelope.session_id, 0);
                self.envelope.session_id = recorded.envelope.session_id;
                let nonce = self.digest() + 4..self.digest() + 20;
                assert_ne!(self.body[nonce.clone()], [0; 16]);
                self.body[nonce.clone()].copy_from_slice(&recorded.body[nonce]);
            }
            ResponseCode::SUCCESS | ResponseCode::PREFIX_REFERRAL => {}
            _ => {
                self.body.truncate(self.digest());
                self.body
                    .extend_from_slice(&recorded.body[recorded.digest()..]);
            }
        }
    }
}

/// The recorded octets of one message.
fn octets(message: &serde_json::Value) -> Vec<u8> {
    let hex = message["datagram_hex"]
        .as_str()
        .or_else(|| message["hex"].as_str())
        .expect("octets");
    hex::decode(hex).expect("hex")
}

fn join(datagrams: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = datagrams[0].clone();
    datagrams[1..]
        .iter()
        .for_each(|datagram| whole.extend_from_slice(&datagram[20..]));
    whole
}

/// One exchange: each request with its recorded answer.
fn turns(exchange: &serde_json::Value) -> Vec<(Vec<u8>, Vec<Vec<u8>>)> {
    let mut turns: Vec<(Vec<u8>, Vec<Vec<u8>>)> = Vec::new();
    for message in exchange["messages"].as_array().expect("messages") {
        if message["dir"] == "c2s" {
            turns.push((octets(message), Vec::new()));
        } else {
            turns
                .last_mut()
                .expect("a request first")
                .1
                .push(octets(message));
        }
    }
    turns
}

fn ask_tcp(node: &Node, request: &[u8]) -> Vec<u8> {
    let mut stream = node.connect();
    stream.write_all(request).expect("written");
    stream.shutdown(Shutdown::Write).expect("shut down");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    answer
}

/// Replays one exchange; none when a request asks for a signature.
fn replay(node: &Node, exchange: &serde_json::Value) -> Option<usize> {
    let turns = turns(exchange);
    let certified = |request: &[u8]| request.len() > 32 && request[28] & 0x40 != 0;
    if turns.iter().any(|(request, _)| certified(request)) {
        return None;
    }
    let socket = node.client();
    for (request, recorded) in &turns {
        let (ours, udp) = if exchange["transport"] == "udp" {
            socket.send(request).expect("sent");
            (receive(&socket), true)
        } else {
            (vec![ask_tcp(node, request)], false)
        };
        let theirs = Answer::decode(&join(recorded));
        let mut answer = Answer::decode(&join(&ours));
        answer.assume(&theirs);
        let answer = answer.encode();
        if udp {
            let mut datagrams = Vec::new();
            let envelope = Envelope::decode(&answer).expect("an envelope");
            split_datagrams(&envelope, &answer[20..], &mut datagrams);
            assert_eq!(hex::encode(datagrams), hex::encode(recorded.concat()));
            let sizes = |datagrams: &[Vec<u8>]| datagrams.iter().map(Vec::len).max();
            assert!(sizes(&ours) <= Some(512), "datagrams of at most 512 octets");
        } else {
            assert_eq!(hex::encode(answer), hex::encode(recorded.concat()));
        }
    }
    Some(turns.len())
}

#[test]
fn recorded_scenarios() {
    let node = Node::start();
    let (mut replayed, mut certified) = (BTreeMap::new(), Vec::new());
    for entry in std::fs::read_dir(vectors()).expect("the vectors") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let wanted =
            REPLAYED.iter().any(|begin| name.starts_with(begin)) || ALSO.contains(&name.as_str());
        if !wanted || ELSEWHERE.iter().any(|(other, _)| *other == name) {
            continue;
        }
        println!("{name}");
        let text = std::fs::read_to_string(&path).expect("a vector");
        let vector: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let exchanges = vector["exchanges"].as_array().expect("exchanges");
        let turns: Option<usize> = exchanges
            .iter()
            .map(|exchange| replay(&node, exchange))
            .sum();
        match turns {
            Some(turns) => drop(replayed.insert(name, turns)),
            None => certified.push(name),
        }
    }
    println!(
        "replayed: {} scenarios, {} requests; {} ask for a signature and {} for proofs, {:?}",
        replayed.len(),
        replayed.values().sum::<usize>(),
        certified.len(),
        ELSEWHERE.len(),
        ELSEWHERE,
    );
    for name in &certified {
        assert!(
            crate::administration::is_replayed(name),
            "{name} is replayed nowhere"
        );
    }
    assert!(
        replayed.len() >= REPLAYED_MIN,
        "{} scenarios",
        replayed.len()
    );
}

/// Deliberate deviation: a message that cannot be decoded is refused with its own request id and
/// code 4, so that the client hears of it. The reference answers with the id -1, which is ignored.
#[test]
fn the_undecodable_is_refused_with_its_own_request_id() {
    let node = Node::start();
    for (scenario, udp) in [
        ("bad_body_len", true),
        ("bad_short_message", true),
        ("bad_opcode_0", true),
        ("bad_len_too_big_tcp", false),
    ] {
        let path = vectors().join(format!("{scenario}.json"));
        let text = std::fs::read_to_string(path).expect("a vector");
        let vector: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let (request, recorded) = turns(&vector["exchanges"][0]).remove(0);
        let ours = if udp {
            join(&node.ask(&request))
        } else {
            ask_tcp(&node, &request)
        };
        let mut answer = Answer::decode(&ours);
        let theirs = Answer::decode(&join(&recorded));
        assert_eq!(
            answer.envelope.request_id.to_be_bytes(),
            request[8..12],
            "{scenario}"
        );
        assert_eq!(
            answer.header.response_code,
            ResponseCode::PROTOCOL_ERROR,
            "{scenario}"
        );
        // Everything else is as recorded, but for the operation, which we name when we know it.
        answer.envelope.request_id = theirs.envelope.request_id;
        answer.header.op_code = theirs.header.op_code;
        answer.assume(&theirs);
        answer.header.response_code = theirs.header.response_code;
        assert_eq!(
            hex::encode(answer.encode()),
            hex::encode(recorded.concat()),
            "{scenario}"
        );
    }
}

/// Deliberate deviation: an encrypted message of an unknown session is refused with its own id.
#[test]
fn an_unknown_session_is_told_so() {
    let node = Node::start();
    let path = vectors().join("session_unknown_id_encrypted.json");
    let text = std::fs::read_to_string(path).expect("a vector");
    let vector: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let (request, recorded) = turns(&vector["exchanges"][0]).remove(0);
    let mut answer = Answer::decode(&ask_tcp(&node, &request));
    assert_eq!(answer.envelope.request_id, 77);
    let theirs = Answer::decode(&join(&recorded));
    answer.envelope.request_id = theirs.envelope.request_id;
    answer.assume(&theirs);
    assert_eq!(hex::encode(answer.encode()), hex::encode(recorded.concat()));
}

/// Deliberate deviation: of two requests on one connection both are answered; the reference
/// answers the first and closes.
#[test]
fn two_requests_on_a_connection_get_both_answers() {
    let node = Node::start();
    for scenario in ["tcp_two_requests", "tcp_two_requests_keepalive"] {
        let path = vectors().join(format!("{scenario}.json"));
        let text = std::fs::read_to_string(path).expect("a vector");
        let vector: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let turns = turns(&vector["exchanges"][0]);
        let requests: Vec<u8> = turns
            .iter()
            .flat_map(|(request, _)| request.clone())
            .collect();
        let recorded = &turns.last().expect("a turn").1[0];
        let ours = ask_tcp(&node, &requests);
        let (first, second) = ours.split_at(recorded.len());
        for (ours, id) in [(first, 1001_u32), (second, 1002)] {
            let mut answer = Answer::decode(ours);
            let theirs = Answer::decode(recorded);
            assert_eq!(answer.envelope.request_id, id);
            answer.envelope.request_id = theirs.envelope.request_id;
            answer.assume(&theirs);
            assert_eq!(
                hex::encode(answer.encode()),
                hex::encode(recorded),
                "{scenario}"
            );
        }
    }
}
