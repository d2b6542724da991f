//! Goal: datagrams and connections behave as resolvers expect. Method: real sockets on loopback.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use jiexi::server::budget;
use jiexi::server::dns::Channel;
use rustix::net::SocketType;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use crate::node::{Bench, Node, config, exchange, framed, option, question, receive, with_edns};
use crate::ports::free_port;

const CNC: &str = "cnc-1.88-118-1.id.example.net.";

#[test]
fn datagrams() {
    let node = Node::start(config());
    let answer = node.ask(&question(CNC, RecordType::NAPTR));
    assert_eq!(answer.answers.len(), 2);
    let asked = r#"jiexi_requests_total{op="resolve",protocol="dns",transport="udp"}"#;
    assert_eq!(node.metric(asked), 1.0);
    let good = r#"jiexi_responses_total{outcome="success",protocol="dns",transport="udp"}"#;
    assert_eq!(node.metric(good), 1.0);
}

/// Goal: a socket bound to all addresses answers from the one that was asked (RFC 2181 §4.1).
#[test]
fn rfc2181_4_1_answers_from_the_address_asked() {
    let mut all = config();
    all.plain.listen = vec![([0, 0, 0, 0], free_port()).into()];
    let node = Node::start(all);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket
        .set_read_timeout(Some(crate::node::PATIENCE))
        .expect("a time-out");
    for host in ["127.0.0.1", "127.0.0.2", "127.8.8.8"] {
        let to = (host, node.address.port());
        let asked = question(CNC, RecordType::NAPTR).to_vec().expect("encodes");
        socket.send_to(&asked, to).expect("sent");
        let (_, from) = socket.recv_from(&mut [0; 2048]).expect("an answer");
        assert_eq!(from.ip().to_string(), host);
    }
}

/// Goal: datagrams leave whole or not at all, whatever anybody says about the path. Method: the kernel is asked what it does
/// with the sockets that the node has bound. The flag on a packet would prove nothing: Linux sets it on short ones anyhow.
#[test]
fn rfc9715_3_1_answers_are_never_fragmented() {
    let mut both = config();
    if UdpSocket::bind("[::1]:0").is_ok() {
        both.plain
            .listen
            .push((Ipv6Addr::LOCALHOST, free_port()).into());
    }
    let expected = both.plain.listen.clone();
    let node = Node::start(both);
    let this = pidfd_open(getpid(), PidfdFlags::empty()).expect("this process");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").expect("descriptors") {
        let name = entry.expect("a descriptor").file_name();
        let number = name.to_string_lossy().parse().expect("a number");
        // The directory is open itself, and other tests close theirs meanwhile.
        let Ok(copy) = pidfd_getfd(&this, number, PidfdGetfdFlags::empty()) else {
            continue;
        };
        if sockopt::socket_type(&copy) != Ok(SocketType::DGRAM) {
            continue;
        }
        let socket = UdpSocket::from(copy);
        let Ok(address) = socket.local_addr() else {
            continue;
        };
        if expected.contains(&address) {
            found.push(address);
            match address {
                SocketAddr::V4(_) => assert_eq!(
                    sockopt::ip_mtu_discover(&socket).expect("an option"),
                    Ipv4PathMtuDiscovery::PROBE
                ),
                SocketAddr::V6(_) => assert_eq!(
                    sockopt::ipv6_mtu_discover(&socket).expect("an option"),
                    Ipv6PathMtuDiscovery::PROBE
                ),
            }
        }
    }
    found.sort();
    assert_eq!(found, expected, "the node's sockets were looked at");
    assert_eq!(node.ask(&question(CNC, RecordType::NAPTR)).answers.len(), 2);
}

/// Goal: what the server says it receives (RFC 6891 §6.2.3) it does, however long its answers may be. Method: over real
/// sockets, a question padded to just that length.
#[test]
fn rfc6891_6_2_3_what_is_received_is_what_is_said() {
    const PADDING: u16 = 12;
    let said = |answer: &Message| answer.edns.as_ref().expect("an OPT record").max_payload();
    let bare = question(CNC, RecordType::NAPTR);
    for udp_payload in [512, 1232, 4096] {
        let node = Node::start_with(config(), |shared| shared.udp_payload = udp_payload);
        let asked = with_edns(bare.clone(), &[(PADDING, b"")]);
        let least = asked.to_vec().expect("encodes").len();
        let received = said(&node.ask(&asked));
        assert!(
            (512..=udp_payload).contains(&received),
            "{received} of {udp_payload}"
        );
        assert!(received == udp_payload || udp_payload > 1232, "{received}");
        let padding = vec![0; usize::from(received) - least];
        let longest = with_edns(bare.clone(), &[(PADDING, &padding)]);
        let length = longest.to_vec().expect("encodes").len();
        assert_eq!(length, usize::from(received));
        assert_eq!(node.ask(&longest).answers.len(), 2);
        // Both ways say the same.
        let mut bench = Bench::with(|shared| shared.udp_payload = udp_payload);
        let plain = with_edns(bare.clone(), &[]);
        for channel in [Channel::Udp, Channel::Tcp] {
            assert_eq!(said(&bench.message(&plain, channel)), received);
        }
    }
}

#[test]
fn rfc7766_6_2_1_1_pipelining() {
    let node = Node::start(config());
    let mut stream = node.connect();
    let asked: Vec<Message> = (0..200)
        .map(|id| {
            let name = if id % 3 == 0 {
                CNC
            } else {
                "big.88-118-1.id.example.net."
            };
            let mut message = question(name, RecordType::NAPTR);
            message.metadata.id = id;
            message
        })
        .collect();
    let answers = exchange(&mut stream, &asked);
    for (asked, answer) in asked.iter().zip(&answers) {
        assert_eq!(asked.metadata.id, answer.metadata.id);
        assert!(!answer.metadata.truncation);
    }
}

#[test]
fn rfc7766_8_messages_in_pieces() {
    let node = Node::start(config());
    let mut stream = node.connect();
    stream.set_nodelay(true).expect("no delay");
    for octet in framed(&question(CNC, RecordType::NAPTR)) {
        stream.write_all(&[octet]).expect("sent");
    }
    assert_eq!(receive(&mut stream).answers.len(), 2);
}

#[test]
fn rfc7766_6_2_3_idle_connections_are_closed() {
    let mut short = config();
    short.plain.streams.idle = Duration::from_millis(200);
    let node = Node::start(short);
    let mut stream = node.connect();
    let asked = [with_edns(question(CNC, RecordType::NAPTR), &[(11, b"")])];
    assert!(option(&exchange(&mut stream, &asked)[0], 11).is_some());
    assert_eq!(stream.read(&mut [0; 1]).expect("the end"), 0);
}

#[test]
fn hostile_streams_end() {
    let node = Node::start(config());
    let mut stream = node.connect();
    stream.write_all(&[0, 3, 1, 2, 3]).expect("sent");
    assert_eq!(stream.read(&mut [0; 1]).expect("the end"), 0);
    assert_eq!(node.ask(&question(CNC, RecordType::NAPTR)).answers.len(), 2);
}

/// Goal: over the budget every second question is sent to TCP and the others get nothing; a cookie or a
/// connection lifts the budget.
#[test]
fn response_rate_limiting_with_slip() {
    let mut tight = config();
    tight.plain.budget = budget::Config {
        bytes_per_second: 1,
        burst_bytes: 400,
        ..budget::Config::default()
    };
    let node = Node::start(tight);
    let first = node.ask(&with_edns(
        question(CNC, RecordType::NAPTR),
        &[(10, b"clientck")],
    ));
    let cookie = option(&first, 10).expect("a cookie");
    let socket = node.client();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .expect("a time-out");
    let plain = question(CNC, RecordType::NAPTR).to_vec().expect("encodes");
    let mut short = 0;
    for _ in 0..20 {
        socket.send(&plain).expect("sent");
    }
    let mut buffer = [0; 2048];
    let mut whole = 0;
    while let Ok(length) = socket.recv(&mut buffer) {
        let answer = Message::from_vec(&buffer[..length]).expect("a message");
        if answer.metadata.truncation {
            assert!(answer.answers.is_empty());
            short += 1;
        } else {
            whole += 1;
        }
    }
    assert!(whole <= 1, "{whole} whole answers");
    assert!((9..=10).contains(&short), "{short} short answers");
    let dropped = r#"jiexi_dropped_total{protocol="dns",reason="rate_limited",transport="udp"}"#;
    assert!(node.metric(dropped) >= 9.0);
    let proven = with_edns(question(CNC, RecordType::NAPTR), &[(10, &cookie)]);
    assert_eq!(
        node.ask(&proven).answers.len(),
        2,
        "a cookie lifts the budget"
    );
    let mut stream = node.connect();
    let asked = [question(CNC, RecordType::NAPTR)];
    assert_eq!(exchange(&mut stream, &asked)[0].answers.len(), 2);
    assert_eq!(
        node.ask(&asked[0]).answers.len(),
        2,
        "a connection lifts it, too"
    );
}
