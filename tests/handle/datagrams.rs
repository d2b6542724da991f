//! Goal: datagrams are answered from the address that was asked, responses never, and nobody is
//! flooded. Method: real sockets on loopback addresses, recorded requests.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use jiexi::server::budget;

use crate::node::{Node, PATIENCE, config, receive, vectors};

/// A short wait in which nothing is to come.
const SILENCE: Duration = Duration::from_millis(300);

/// The first request of a recorded scenario.
pub(crate) fn request(scenario: &str) -> Vec<u8> {
    let path = vectors().join(format!("{scenario}.json"));
    let text = std::fs::read_to_string(path).expect("a vector");
    let vector: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let message = &vector["exchanges"][0]["messages"][0];
    let hex = message["datagram_hex"]
        .as_str()
        .or_else(|| message["hex"].as_str())
        .expect("octets");
    hex::decode(hex).expect("hex")
}

fn is_silent(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(SILENCE)).expect("a time-out");
    let silent = socket.recv(&mut [0; 2048]).is_err();
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    silent
}

fn asked_from(local: &str, node: SocketAddr) -> SocketAddr {
    let socket = UdpSocket::bind((local, 0)).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    socket.send_to(&request("res_all_udp"), node).expect("sent");
    let (length, from) = socket.recv_from(&mut [0; 2048]).expect("an answer");
    assert!(length > 20);
    from
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let node = Node::with(config(&["0.0.0.0:0", "[::]:0"]));
    let [v4, v6] = [node.addresses[0].port(), node.addresses[1].port()];
    for asked in [("127.0.0.1", v4), ("127.0.0.2", v4)] {
        let asked: SocketAddr = format!("{}:{}", asked.0, asked.1)
            .parse()
            .expect("an address");
        assert_eq!(asked_from("127.0.0.1", asked), asked);
    }
    let asked: SocketAddr = format!("[::1]:{v6}").parse().expect("an address");
    assert_eq!(asked_from("::1", asked), asked);
}

#[test]
fn responses_and_scraps_are_never_answered() {
    let node = Node::start();
    let socket = node.client();
    socket.send(&request("response_as_request")).expect("sent");
    socket.send(&request("bad_short_envelope")).expect("sent");
    socket.send(&[]).expect("sent");
    let answer = node.ask(&request("res_all_udp")).concat();
    socket.send(&answer).expect("sent");
    // However it comes: a piece of a long one, cut off, with lengths that disagree, marked as compressed.
    let pieces = node.ask(&request("res_big_udp"));
    assert!(pieces.len() > 5, "{}", pieces.len());
    for piece in &pieces {
        socket.send(piece).expect("sent");
    }
    socket.send(&answer[..100]).expect("sent");
    socket.send(&[&answer[..], b"more"].concat()).expect("sent");
    let mut compressed = answer.clone();
    compressed[2] |= 0x80;
    socket.send(&compressed).expect("sent");
    assert!(is_silent(&socket));
    let dropped = |reason: &str| {
        let labels = format!(r#"protocol="handle",reason="{reason}",transport="udp""#);
        node.metric(&format!("jiexi_dropped_total{{{labels}}}"))
    };
    let responses = 2.0 + pieces.len() as f64 + 3.0;
    assert_eq!(
        (dropped("short"), dropped("not_a_request")),
        (2.0, responses)
    );
}

#[test]
fn a_datagram_that_is_too_long_is_refused_with_its_request_id() {
    let node = Node::start();
    let mut long = request("res_all_udp");
    long.resize(1_345, 0);
    // As a message that is so long, with octets behind its end, and as a piece of a longer one.
    let mut announced = long.clone();
    announced[16..20].copy_from_slice(&1_325_u32.to_be_bytes());
    let mut piece = long.clone();
    piece[2] |= 0x20;
    for datagram in [&long, &announced, &piece] {
        let answer = node.ask(datagram).concat();
        assert_eq!(answer[8..12], datagram[8..12], "the request id");
        assert_eq!(answer[24..28], 4_u32.to_be_bytes(), "PROTOCOL_ERROR");
    }
    assert_eq!(
        node.ask(&request("res_all_udp")).concat()[24..28],
        1_u32.to_be_bytes()
    );

    // One that is an answer itself gets none.
    let mut response = long;
    response[24..28].copy_from_slice(&1_u32.to_be_bytes());
    let socket = node.client();
    socket.send(&response).expect("sent");
    assert!(is_silent(&socket));
}

#[test]
fn over_budget_udp_gets_nothing_and_tcp_everything() {
    let mut config = config(&["127.0.0.1:0"]);
    config.workers = 1;
    config.budget = budget::Config {
        bytes_per_second: 1,
        burst_bytes: 2000,
        ..budget::Config::default()
    };
    let node = Node::with(config);
    let socket = node.client();
    let request = request("res_all_udp");
    let answered = (0..10)
        .take_while(|_| {
            socket.send(&request).expect("sent");
            !is_silent(&socket)
        })
        .count();
    assert_eq!(answered, 4, "2,000 bytes are four answers of 478");

    let mut stream = node.connect();
    // The node knows of a connection when it has accepted it, which an answer shows.
    stream.write_all(&request).expect("sent");
    stream.read_exact(&mut [0; 20]).expect("an answer");
    socket.send(&request).expect("sent");
    assert_eq!(
        receive(&socket).concat().len(),
        478,
        "a network with an open connection is exempt"
    );
    drop(stream);
    let labels = r#"protocol="handle",reason="rate_limited",transport="udp""#;
    assert_eq!(
        node.metric(&format!("jiexi_dropped_total{{{labels}}}")),
        1.0
    );
}

/// Goal: an answer of several datagrams leaves whole or not at all.
#[test]
fn over_budget_no_part_of_a_long_answer_leaves() {
    let mut config = config(&["127.0.0.1:0"]);
    config.workers = 1;
    config.budget = budget::Config {
        bytes_per_second: 1,
        burst_bytes: 5000,
        ..budget::Config::default()
    };
    let node = Node::with(config);
    let socket = node.client();
    let request = request("res_big_udp");
    socket.send(&request).expect("sent");
    let whole = receive(&socket).concat().len();
    assert!((2_501..=5_000).contains(&whole), "{whole}");
    for _ in 0..3 {
        socket.send(&request).expect("sent");
    }
    assert!(is_silent(&socket));
    let labels = r#"protocol="handle",reason="rate_limited",transport="udp""#;
    let dropped = node.metric(&format!("jiexi_dropped_total{{{labels}}}"));
    assert_eq!(dropped, 3.0, "answers, not datagrams");
}

#[test]
fn a_request_in_pieces_is_put_together() {
    let node = Node::start();
    // A resolution of many types is longer than one datagram.
    let whole = {
        let mut request = request("res_by_type");
        let types = 60_u32;
        let count = request.len() - 4 - 7 - 4;
        request.truncate(count);
        request.extend_from_slice(&types.to_be_bytes());
        for number in 0..types {
            let name = if number == 30 {
                String::from("URL")
            } else {
                format!("NOTYPE{number:06}")
            };
            request.extend_from_slice(&u32::try_from(name.len()).expect("short").to_be_bytes());
            request.extend_from_slice(name.as_bytes());
        }
        request.extend_from_slice(&[0; 4]);
        let length = u32::try_from(request.len() - 20).expect("short");
        request[16..20].copy_from_slice(&length.to_be_bytes());
        request[40..44].copy_from_slice(&(length - 28).to_be_bytes());
        request
    };
    assert!(whole.len() > 512 + 20);
    let socket = node.client();
    let pieces: Vec<_> = whole[20..].chunks(492).enumerate().collect();
    for (number, piece) in pieces.iter().rev() {
        let mut datagram = whole[..20].to_vec();
        datagram[2] |= 0x20;
        datagram[12..16].copy_from_slice(&u32::try_from(*number).expect("few").to_be_bytes());
        datagram.extend_from_slice(piece);
        socket.send(&datagram).expect("sent");
    }
    let answer = receive(&socket).concat();
    let expected = node.ask(&request("res_by_type")).concat();
    assert_eq!(
        answer[44..],
        expected[44..],
        "the same body as for the short request"
    );
}
