//! Goal: a hostile client over HTTP/2, or one that never ends, runs into its bounds; it costs a counter and little memory,
//! and others are served meanwhile. Method: bare frames (RFC 9113), for no client library would send them.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::node::{Node, PATIENCE};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Error codes (RFC 9113 §7).
const REFUSED_STREAM: u32 = 7;
/// Memory that one hostile connection may cost, KiB.
const COST_MAX: u64 = 32 * 1024;

/// A frame that came.
struct Frame {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// A connection of HTTP/2.
struct Line(TcpStream);

impl Line {
    fn open(node: &Node) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", node.http)).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .expect("written");
        let mut line = Self(stream);
        line.send(SETTINGS, 0, 0, &[]).expect("written");
        line
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame)
    }

    fn receive(&mut self) -> io::Result<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload)?;
        Ok(Frame {
            kind: head[3],
            stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
            payload,
        })
    }

    /// Reads until the node ends the connection: by GOAWAY, or without it.
    fn is_cut(&mut self) -> bool {
        loop {
            match self.receive() {
                Ok(frame) if frame.kind == GOAWAY => return true,
                Ok(_) => {}
                Err(error) => {
                    let late = matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    );
                    return !late;
                }
            }
        }
    }
}

/// The fields of a request, by literals of HPACK (RFC 7541).
fn fields(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut out = vec![0x86];
    let put = |out: &mut Vec<u8>, text: &str| {
        out.push(u8::try_from(text.len()).expect("short"));
        out.extend(text.as_bytes());
    };
    for (place, text) in [(2, method), (4, path), (1, "node.example")] {
        out.push(place);
        put(&mut out, text);
    }
    for (name, value) in more {
        out.push(0);
        put(&mut out, name);
        put(&mut out, value);
    }
    out
}

fn get() -> Vec<u8> {
    fields("GET", "/api/handles/88.118.20/pump", &[])
}

/// A node whose limit of requests is out of the way: other bounds are looked at here.
fn node() -> Node {
    Node::with(&[
        ("JIEXI_HTTP_READ", "2s"),
        ("JIEXI_HTTP_RATE", "10000000"),
        ("JIEXI_HTTP_BURST", "10000000"),
    ])
}

/// Has somebody else ask while `attack` goes on, and compares memory and counters.
fn survives(attack: impl FnOnce(&Node) + Send) {
    let node = node();
    for _ in 0..20 {
        node.get("/api/handles/88.118.20/pump");
    }
    let closed = |node: &Node| -> f64 {
        ["error", "deadline", "idle", "peer"]
            .iter()
            .map(|why| {
                node.metric(&format!(
                    "jiexi_connections_closed_total{{protocol=\"http\",transport=\"tcp\",why=\"{why}\"}}"
                ))
            })
            .sum()
    };
    let (before, counted) = (node.resident(), closed(&node));
    std::thread::scope(|scope| {
        let attacker = scope.spawn(|| attack(&node));
        while !attacker.is_finished() {
            let begun = Instant::now();
            assert_eq!(node.get("/api/handles/88.118.20/pump").status, 200);
            assert!(begun.elapsed() < PATIENCE / 2, "{:?}", begun.elapsed());
            std::thread::sleep(Duration::from_millis(20));
        }
        attacker.join().expect("the attack ends as expected");
    });
    let after = node.resident();
    assert!(after < before + COST_MAX, "{before} KiB, then {after} KiB");
    assert!(closed(&node) > counted, "the connection is counted");
    assert_eq!(node.log().matches("panicked").count(), 0, "{}", node.log());
    assert!(
        node.log().len() < 64 * 1024,
        "no line for each: {}",
        node.log().len()
    );
}

#[test]
fn rapid_reset() {
    survives(|node| {
        let mut line = Line::open(node);
        let mut reader = Line(line.0.try_clone().expect("a socket"));
        let cut = std::thread::spawn(move || reader.is_cut());
        let request = get();
        for number in 0..200_000_u32 {
            let stream = 2 * number + 1;
            let asked = line
                .send(HEADERS, END_STREAM | END_HEADERS, stream, &request)
                .and_then(|()| line.send(RESET, 0, stream, &8_u32.to_be_bytes()));
            if asked.is_err() {
                break;
            }
        }
        let _ = line.0.shutdown(Shutdown::Write);
        assert!(cut.join().expect("read"), "the connection is cut");
    });
}

#[test]
fn more_streams_than_are_allowed() {
    survives(|node| {
        let mut line = Line::open(node);
        let request = fields(
            "POST",
            "/",
            &[
                ("content-type", "application/x-hdl-message"),
                ("content-length", "99"),
            ],
        );
        let open = |line: &mut Line, streams: u32| {
            for number in 0..streams {
                // Once it is cut there is nothing to be written to.
                let _ = line.send(HEADERS, END_HEADERS, 2 * number + 1, &request);
            }
        };
        open(&mut line, 110);
        let (mut refused, mut late) = (0, 0);
        while refused + late < 110 {
            let frame = line.receive().expect("a frame");
            match frame.kind {
                RESET if frame.payload == REFUSED_STREAM.to_be_bytes() => refused += 1,
                // The body never came: after the time that it has, this is said.
                DATA if frame.stream > 0 => {
                    let text = String::from_utf8_lossy(&frame.payload);
                    late += i32::from(text.contains("\"status\":408"));
                }
                _ => {}
            }
        }
        assert_eq!((refused, late), (10, 100));
        let mut line = Line::open(node);
        open(&mut line, 500);
        assert!(line.is_cut(), "who goes on after refusals is cut");
    });
}

/// No abuse, but only bare frames show it: clients drop such a body, or the connection.
#[test]
fn an_answer_to_head_has_no_body() {
    let node = node();
    let mut line = Line::open(&node);
    let await_frame = |line: &mut Line, kind: u8, stream: u32| loop {
        let frame = line.receive().expect("a frame");
        let is_body = frame.kind == DATA && !frame.payload.is_empty();
        assert!(!(is_body && frame.stream == 1), "a body after HEAD");
        if frame.kind == kind && frame.stream == stream {
            break;
        }
    };
    let head = fields("HEAD", "/api/handles/88.118.20/pump", &[]);
    let flags = END_STREAM | END_HEADERS;
    line.send(HEADERS, flags, 1, &head).expect("sent");
    await_frame(&mut line, HEADERS, 1);
    line.send(HEADERS, flags, 3, &get()).expect("sent");
    await_frame(&mut line, DATA, 3);
}

#[test]
fn continuation_without_end() {
    survives(|node| {
        let mut line = Line::open(node);
        let mut reader = Line(line.0.try_clone().expect("a socket"));
        let cut = std::thread::spawn(move || reader.is_cut());
        line.send(HEADERS, END_STREAM, 1, &get()).expect("sent");
        // One literal field of 100 octets after the other.
        let field = [&[0, 1, b'x', 100][..], &[b'y'; 100]].concat();
        let block = field.repeat(150);
        for _ in 0..2_000 {
            if line.send(CONTINUATION, 0, 1, &block).is_err() {
                break;
            }
        }
        assert!(cut.join().expect("read"), "the connection is cut");
    });
}

#[test]
fn fields_that_grow_when_unpacked() {
    survives(|node| {
        let mut line = Line::open(node);
        let mut block = get();
        // A field of 3,000 octets goes to the table, and is referred to by one octet, 10,000 times: 30 MB.
        block.extend([0x40, 1, b'x', 0x7F, 0xB9, 0x16]);
        block.extend([b'y'; 3_000]);
        block.extend([0xBE; 10_000]);
        line.send(HEADERS, END_STREAM | END_HEADERS, 1, &block)
            .expect("sent");
        let refused = loop {
            match line.receive() {
                // 431 is no entry of the static table: its digits stand there.
                Ok(frame) if frame.kind == HEADERS && frame.stream == 1 => {
                    break frame.payload.windows(3).any(|window| window == b"431")
                        || !frame.payload.contains(&0x88);
                }
                Ok(frame) => {
                    if matches!(frame.kind, RESET | GOAWAY) {
                        break true;
                    }
                }
                Err(_) => break true,
            }
        };
        assert!(refused, "more fields than are taken");
    });
}

#[test]
fn bodies_without_end() {
    survives(|node| {
        let mut stream = TcpStream::connect(("127.0.0.1", node.http)).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream
            .write_all(
                b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-hdl-message\r\n\
                  Transfer-Encoding: chunked\r\n\r\n",
            )
            .expect("sent");
        let chunk = [&b"10000\r\n"[..], &[b'x'; 0x10000], b"\r\n"].concat();
        let sent = (0..10_000)
            .take_while(|_| stream.write_all(&chunk).is_ok())
            .count();
        assert!(sent < 10_000, "the node hangs up");
    });
}

/// One octet now and then does not hold a connection for ever.
#[test]
fn heads_octet_by_octet() {
    survives(|node| {
        let mut stream = TcpStream::connect(("127.0.0.1", node.http)).expect("connects");
        let begun = Instant::now();
        let head = b"GET /api/handles/88.118.20/pump HTTP/1.1\r\nX-Slow: ";
        let mut octets = head.iter().chain(std::iter::repeat(&b'x'));
        while stream
            .write_all(&[*octets.next().expect("endless")])
            .is_ok()
        {
            assert!(begun.elapsed() < PATIENCE, "still open");
            std::thread::sleep(Duration::from_millis(50));
        }
    });
}
