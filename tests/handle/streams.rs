//! Goal: connections serve pipelined requests in order, stay open, and end for a named reason.
//! Method: raw octets over real sockets.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::datagrams::request;
use crate::node::{Node, config};

/// Reads one message.
fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut message = vec![0; 20];
    stream.read_exact(&mut message)?;
    let length = u32::from_be_bytes(message[16..20].try_into().expect("four")) as usize;
    message.resize(20 + length, 0);
    stream.read_exact(&mut message[20..])?;
    Ok(message)
}

fn with_id(request: &[u8], id: u32) -> Vec<u8> {
    let mut request = request.to_vec();
    request[8..12].copy_from_slice(&id.to_be_bytes());
    request
}

fn id(message: &[u8]) -> u32 {
    u32::from_be_bytes(message[8..12].try_into().expect("four"))
}

fn closed(node: &Node, why: &str) -> f64 {
    let labels = format!(r#"protocol="handle",transport="tcp",why="{why}""#);
    node.metric(&format!("jiexi_connections_closed_total{{{labels}}}"))
}

/// Waits until the node has counted the end of a connection.
fn wait_closed(node: &Node, why: &str, count: f64) {
    let start = Instant::now();
    while closed(node, why) < count {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{why}: {}",
            closed(node, why)
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_however_they_are_cut() {
    let node = Node::start();
    let resolution = request("res_all_tcp");
    let miss = request("res_not_found");
    let all: Vec<u8> = (0..200_u32)
        .flat_map(|i| with_id(if i % 3 == 0 { &miss } else { &resolution }, i))
        .collect();
    for chunk in [all.len(), 1000, 77, 20, 7] {
        let mut stream = node.connect();
        let mut writer = stream.try_clone().expect("a clone");
        let octets = all.clone();
        let sender = std::thread::spawn(move || {
            for part in octets.chunks(chunk) {
                writer.write_all(part).expect("written");
            }
        });
        for expected in 0..200 {
            let answer = read_message(&mut stream).expect("an answer");
            assert_eq!(id(&answer), expected, "in chunks of {chunk}");
        }
        sender.join().expect("sent");
    }
}

#[test]
fn a_connection_stays_open_after_an_answer_and_ends_with_its_client() {
    let node = Node::start();
    let mut stream = node.connect();
    for i in 0..3 {
        stream
            .write_all(&with_id(&request("res_all_tcp"), i))
            .expect("written");
        assert_eq!(id(&read_message(&mut stream).expect("an answer")), i);
    }
    stream.shutdown(Shutdown::Write).expect("shut down");
    assert!(read_message(&mut stream).is_err());
    wait_closed(&node, "peer", 1.0);
}

#[test]
fn a_client_that_does_not_read_is_cut_and_costs_bounded_memory() {
    let mut config = config(&["127.0.0.1:0"]);
    config.streams.write = Duration::from_millis(300);
    let node = Node::with(config);
    let mut stream = node.connect();
    stream
        .set_write_timeout(Some(Duration::from_secs(5)))
        .expect("a time-out");
    let huge = request("res_huge_tcp");
    // Asks for up to 2 GB of answers and takes none of them.
    for _ in 0..10_000 {
        if stream.write_all(&huge).is_err() {
            break;
        }
    }
    wait_closed(&node, "deadline", 1.0);
}

#[test]
fn idle_and_half_sent_connections_meet_their_deadlines() {
    let mut config = config(&["127.0.0.1:0"]);
    config.streams.first_byte = Duration::from_millis(200);
    config.streams.read = Duration::from_millis(200);
    config.streams.idle = Duration::from_millis(400);
    let node = Node::with(config);

    let mut silent = node.connect();
    assert_eq!(silent.read(&mut [0; 1]).expect("closed"), 0);
    wait_closed(&node, "deadline", 1.0);

    let mut half = node.connect();
    half.write_all(&request("res_all_tcp")[..30])
        .expect("written");
    assert_eq!(half.read(&mut [0; 1]).expect("closed"), 0);
    wait_closed(&node, "deadline", 2.0);

    // Octets that trickle in do not extend the time of their message.
    let mut slow = node.connect();
    let start = Instant::now();
    let octets = request("res_all_tcp");
    for octet in &octets {
        if slow.write_all(&[*octet]).is_err() || start.elapsed() > Duration::from_secs(3) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    wait_closed(&node, "deadline", 3.0);
    assert!(start.elapsed() < Duration::from_secs(3));

    let mut idle = node.connect();
    idle.write_all(&octets).expect("written");
    read_message(&mut idle).expect("an answer");
    assert_eq!(idle.read(&mut [0; 1]).expect("closed"), 0);
    wait_closed(&node, "idle", 1.0);
}

#[test]
fn at_the_cap_the_longest_idle_connection_gives_way() {
    let mut config = config(&["127.0.0.1:0"]);
    config.connections = 3;
    let node = Node::with(config);
    let octets = request("res_all_tcp");
    let ask = |stream: &mut TcpStream| {
        stream.write_all(&octets).expect("written");
        read_message(stream).map(drop)
    };
    let mut streams: Vec<TcpStream> = (0..3).map(|_| node.connect()).collect();
    for stream in &mut streams {
        ask(stream).expect("an answer");
    }
    ask(&mut streams[0]).expect("an answer");
    let mut newcomer = node.connect();
    ask(&mut newcomer).expect("a new connection is never refused");
    wait_closed(&node, "cap", 1.0);
    assert_eq!(
        streams[1].read(&mut [0; 1]).expect("closed"),
        0,
        "the second was idle longest"
    );
    ask(&mut streams[0]).expect("an answer");
    ask(&mut streams[2]).expect("an answer");
}

/// Goal: the cap holds after a flood of connections that all stay open.
#[test]
fn the_cap_holds_after_a_flood() {
    let mut config = config(&["127.0.0.1:0"]);
    config.connections = 5;
    let node = Node::with(config);
    let _streams: Vec<TcpStream> = (0..200).map(|_| node.connect()).collect();
    wait_closed(&node, "cap", 195.0);
    let open = node.metric(r#"jiexi_connections{protocol="handle",transport="tcp"}"#);
    assert_eq!(open, 5.0);
}

#[test]
fn drain_answers_what_was_asked_and_closes() {
    let mut node = Node::start();
    let mut idle = node.connect();
    let mut busy = node.connect();
    for stream in [&mut idle, &mut busy] {
        stream.write_all(&request("res_all_tcp")).expect("written");
        read_message(stream).expect("an answer");
    }
    let octets: Vec<u8> = (0..100)
        .flat_map(|i| with_id(&request("res_all_tcp"), i))
        .collect();
    busy.write_all(&octets).expect("written");
    let cut = node.stop();
    assert_eq!(cut, 0);
    for i in 0..100 {
        assert_eq!(id(&read_message(&mut busy).expect("an answer")), i);
    }
    assert_eq!(idle.read(&mut [0; 1]).expect("closed"), 0);
    assert!(
        TcpStream::connect(node.address).is_err(),
        "nobody listens any more"
    );
}

#[test]
fn a_length_beyond_any_message_ends_the_connection_with_a_reason() {
    let node = Node::start();
    let mut stream = node.connect();
    let good = with_id(&request("res_all_tcp"), 5);
    stream.write_all(&good).expect("written");
    stream
        .write_all(&request("bad_len_too_big_tcp"))
        .expect("written");
    assert_eq!(id(&read_message(&mut stream).expect("an answer")), 5);
    let refusal = read_message(&mut stream).expect("a refusal");
    assert_eq!(
        (id(&refusal), refusal[24..28].to_vec()),
        (7, vec![0, 0, 0, 4])
    );
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(rest.is_empty());
}
