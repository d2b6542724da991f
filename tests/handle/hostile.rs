//! Goal: no bytes hurt the node: each costs at most one refusal or one counter.
//! Method: recorded requests cut, lengthened and changed at random, over UDP and TCP; the seed is
//! printed, and afterwards an ordinary question is answered as before.

use std::io::Write as _;
use std::net::Shutdown;
use std::time::Duration;

use crate::datagrams::request;
use crate::node::Node;

/// A small generator, so that a seed says everything (xorshift64*).
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let seed = std::env::var("JIEXI_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(jiexi::clock::unix_seconds()));
        println!("JIEXI_SEED={seed}");
        Self(seed | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

/// A request with up to four changed octets, cut or lengthened.
fn damaged(random: &mut Random, requests: &[Vec<u8>]) -> Vec<u8> {
    let mut octets = requests[random.below(requests.len())].clone();
    for _ in 0..random.below(5) {
        let place = random.below(octets.len());
        octets[place] = [0, 1, 0x7F, 0x80, 0xFF, random.below(256) as u8][random.below(6)];
    }
    match random.below(4) {
        0 => octets.truncate(random.below(octets.len() + 1)),
        1 => octets.extend((0..random.below(100)).map(|_| 0xFF)),
        _ => {}
    }
    octets
}

fn requests() -> Vec<Vec<u8>> {
    [
        "res_all_udp",
        "res_by_index",
        "res_by_type",
        "siteinfo_udp",
        "res_restricted_noauth",
        "create_seckey",
    ]
    .map(request)
    .to_vec()
}

/// Asks as a client over UDP does, again after a while: the flood before may still fill the node's receive buffer.
fn assert_well(node: &Node) {
    let expected = request("res_all_udp");
    let socket = node.client();
    let pause = Some(Duration::from_millis(500));
    socket.set_read_timeout(pause).expect("a time-out");
    let mut answer = [0; 2048];
    let length = (0..120).find_map(|_| {
        socket.send(&expected).expect("sent");
        socket.recv(&mut answer).ok()
    });
    assert_eq!(length, Some(478));
    assert_eq!(answer[8..12], expected[8..12]);
}

#[test]
fn damaged_datagrams() {
    let node = Node::start();
    let (mut random, requests) = (Random::seeded(), requests());
    let socket = node.client();
    socket.set_nonblocking(true).expect("non-blocking");
    for _ in 0..20_000 {
        let _ = socket.send(&damaged(&mut random, &requests));
        while socket.recv(&mut [0; 2048]).is_ok() {}
    }
    assert_well(&node);
}

#[test]
fn damaged_streams() {
    let node = Node::start();
    let (mut random, requests) = (Random::seeded(), requests());
    for _ in 0..300 {
        let mut stream = node.connect();
        for _ in 0..random.below(20) {
            if stream.write_all(&damaged(&mut random, &requests)).is_err() {
                break;
            }
        }
        let _ = stream.shutdown(Shutdown::Write);
    }
    assert_well(&node);
}
