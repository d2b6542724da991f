//! Goal: many identifiers in one request, in every form, by clients of every manner, and no harm by hostile ones.
//! Method: curl for what people type; bare sockets for clients that read late, never, or vanish.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use socket2::{Domain, Socket, Type};

use crate::node::{Node, PATIENCE, Reply};

pub(crate) const PATH: &str = "/api/v1/batch/resolve";
const QUOTA: &str = "/api/v1/quota";
const PLAIN: (&str, &str) = ("JIEXI_HTTP_PLAIN_LOOPBACK", "true");

/// A token's id and itself.
pub(crate) fn token(node: &Node, more: &[&str]) -> (String, String) {
    let fixed = [
        "token",
        "create",
        "--identity",
        "300:88.118.20/USER",
        "-o",
        "json",
        "--config",
        &node.config(),
    ];
    let more: &[&str] = if more.contains(&"--right") {
        more
    } else {
        &[more, &["--right", "batch"]].concat()
    };
    let made: Json = serde_json::from_str(&node.must(&[&fixed[..], more].concat())).unwrap();
    (
        made["id"].as_str().unwrap().to_owned(),
        made["token"].as_str().unwrap().to_owned(),
    )
}

/// A batch by curl, over TLS, with a body from a file.
pub(crate) fn post(node: &Node, token: &str, query: &str, body: &[u8], headers: &[&str]) -> Reply {
    let file = node.path("body");
    fs::write(&file, body).unwrap();
    let (data, auth) = (
        format!("@{}", file.display()),
        format!("Authorization: Bearer {token}"),
    );
    let mut arguments = vec!["--data-binary", &data, "-H", &auth];
    if !headers
        .iter()
        .any(|header| header.starts_with("Content-Type"))
    {
        arguments.extend(["-H", "Content-Type: text/plain"]);
    }
    headers
        .iter()
        .for_each(|header| arguments.extend(["-H", header]));
    node.ask("https", &format!("{PATH}{query}"), &arguments)
}

/// The records of an answer, and its summary.
fn parts(text: &str) -> (Vec<Json>, Json) {
    let mut all: Vec<Json> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let summary = all.pop().unwrap();
    assert!(summary.get("complete").is_some(), "{summary}");
    (all, summary)
}

/// Line and code of each record.
fn codes(text: &str) -> Vec<(u64, u64)> {
    let both = |json: &Json| {
        (
            json["line"].as_u64().unwrap(),
            json["responseCode"].as_u64().unwrap(),
        )
    };
    parts(text).0.iter().map(both).collect()
}

/// A batch over a bare socket.
struct Client {
    stream: TcpStream,
    heard: Vec<u8>,
}

impl Client {
    fn open(node: &Node, token: &str) -> Self {
        // A small window, so that what is not read waits at the node.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], node.http));
        socket.connect(&address.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: text/plain\r\n\
             Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        Self {
            stream,
            heard: Vec::new(),
        }
    }

    fn send(&mut self, body: &[u8]) -> std::io::Result<()> {
        self.stream
            .write_all(format!("{:x}\r\n", body.len()).as_bytes())?;
        self.stream.write_all(body)?;
        self.stream.write_all(b"\r\n")
    }

    fn end(&mut self) {
        self.stream.write_all(b"0\r\n\r\n").unwrap();
    }

    /// Reads until something was said.
    fn hear(&mut self, wanted: &str) -> String {
        let mut piece = [0; 65_536];
        loop {
            let text = String::from_utf8_lossy(&self.heard).into_owned();
            if text.contains(wanted) {
                return text;
            }
            let count = self.stream.read(&mut piece).unwrap();
            assert!(count > 0, "ended before {wanted:?}: {text}");
            self.heard.extend_from_slice(&piece[..count]);
        }
    }

    /// Reads to the end; the body, without its chunks.
    fn rest(mut self) -> String {
        // A node that ends a batch early may reset the connection behind its answer.
        let _ = self.stream.read_to_end(&mut self.heard);
        let head = self
            .heard
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .expect("a head")
            + 4;
        let (mut rest, mut body) = (&self.heard[head..], Vec::new());
        while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
            let size =
                usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
            let piece = &rest[end + 2..];
            body.extend_from_slice(&piece[..size.min(piece.len())]);
            rest = piece.get(size + 2..).unwrap_or_default();
        }
        String::from_utf8(body).unwrap()
    }
}

/// A figure of a token.
fn of_token(node: &Node, token: &str, name: &str) -> u64 {
    let header = format!("Authorization: Bearer {token}");
    node.ask("https", QUOTA, &["-H", &header]).json()[name]
        .as_u64()
        .unwrap()
}

fn until_none_runs(node: &Node, token: &str) {
    let begun = Instant::now();
    while of_token(node, token, "streams") > 0 {
        assert!(begun.elapsed() < PATIENCE, "a batch still runs");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn every_form_gives_the_same() {
    let node = Node::new();
    let (_, token) = token(&node, &[]);
    let expected = [(1, 1), (2, 100), (3, 301), (4, 200), (5, 1)];
    let lines = "88.118.20/pump\n88.118.20/none\n10.1/x\n88.118.20/secret\n88.118.20/PUMP";
    let reply = post(&node, &token, "", lines.as_bytes(), &[]);
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, Some("application/x-ndjson"))
    );
    // The last one is another handle where suffixes keep their case.
    let whole = codes(&reply.body);
    assert_eq!(whole[..4], expected[..4]);
    let (records, summary) = parts(&reply.body);
    let single = node.get("/api/handles/88.118.20/pump").json();
    assert_eq!(records[0]["values"], single["values"]);
    assert_eq!(
        (&records[0]["handle"], &records[2]["code"]),
        (&"88.118.20/pump".into(), &"not_responsible".into())
    );
    assert!(
        !reply.body.contains("for administrators"),
        "restricted values stay"
    );
    assert_eq!(
        (&summary["complete"], &summary["lines"]),
        (&true.into(), &5.into())
    );
    assert!(summary["sequence"].as_u64() > Some(0));
    let quoted: Vec<String> = lines
        .lines()
        .map(|line| format!("{{\"handle\":\"{line}\"}}"))
        .collect();
    let csv = format!("handle,x\r\n{}\r\n", lines.replace('\n', ",1\r\n"));
    let gb = encoding_rs::GB18030.encode("88.118.20/pump\n\u{6807}\n").0;
    for (kind, body, shift) in [
        ("application/x-ndjson", quoted.join("\n").into_bytes(), 0),
        (
            "application/json; charset=utf-8",
            format!("[{}]", quoted.join(",")).into_bytes(),
            0,
        ),
        ("text/csv", csv.into_bytes(), 1),
        ("text/plain", format!("\u{feff}{lines}").into_bytes(), 0),
        (
            "text/plain; charset=\"GB18030\"",
            lines.as_bytes().to_vec(),
            0,
        ),
    ] {
        let found = codes(
            &post(
                &node,
                &token,
                "",
                &body,
                &[&format!("Content-Type: {kind}")],
            )
            .body,
        );
        let shifted: Vec<_> = whole
            .iter()
            .map(|(line, code)| (line + shift, *code))
            .collect();
        assert_eq!(found, shifted, "{kind}");
    }
    let body = [&gb[..], b"\x81\n88.118.20/pump"].concat();
    let reply = post(
        &node,
        &token,
        "",
        &body,
        &["Content-Type: text/plain; charset=gb18030"],
    );
    assert_eq!(codes(&reply.body), [(1, 1), (2, 301), (3, 102), (4, 1)]);
    assert_eq!(parts(&reply.body).0[1]["handle"], "\u{6807}");
}

#[test]
fn filters_csv_and_going_on() {
    let node = Node::new();
    let (_, token) = token(&node, &[]);
    let body = b"88.118.20/pump\n88.118.20/none\n88.118.20/pump\n";
    let reply = post(&node, &token, "?index=4&type=URL.&after=2", body, &[]);
    let (records, summary) = parts(&reply.body);
    assert_eq!((records.len(), &summary["lines"]), (1, &1.into()));
    let indexes: Vec<_> = records[0]["values"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["index"].as_u64().unwrap())
        .collect();
    assert_eq!(
        (records[0]["line"].as_u64(), indexes),
        (Some(3), vec![1, 3, 4])
    );
    node.import(r#"{"handle":"88.118.20/sheet","values":[{"index":1,"type":"=T","data":"=1+1"}]}"#);
    let sheet = b"88.118.20/sheet\n@x\n";
    let csv = post(&node, &token, "", sheet, &["Accept: text/csv"]);
    assert!(csv.header("content-type").unwrap().starts_with("text/csv"));
    let rows: Vec<&str> = csv.body.lines().collect();
    assert!(
        rows[1].starts_with("1,1,88.118.20/sheet,1,'=T,86400,")
            && rows[1].ends_with(",1110,string,'=1+1"),
        "{rows:?}"
    );
    assert!(
        rows[2].starts_with("2,301,'@x,") && rows[3].starts_with("summary,"),
        "{rows:?}"
    );
    let raw = post(&node, &token, "?raw=true", sheet, &["Accept: text/csv"]);
    assert!(
        raw.body.contains(",1,=T,") && raw.body.contains("string,=1+1"),
        "{}",
        raw.body
    );
}

#[test]
fn who_may_and_what_is_refused() {
    let node = Node::new();
    let (_, good) = token(&node, &[]);
    let (_, other) = token(&node, &["--right", "resolve,write"]);
    let (_, narrow) = token(&node, &["--prefix", "88.118.21"]);
    let line = b"88.118.20/pump";
    assert_eq!(node.ask("https", PATH, &["-d", "x"]).status, 401);
    let over_plain = node.ask(
        "http",
        PATH,
        &["-d", "x", "-H", &format!("Authorization: Bearer {good}")],
    );
    assert_eq!(
        (over_plain.status, over_plain.json()["code"].as_str()),
        (403, Some("plain_http"))
    );
    assert_eq!(
        node.admin(PATH, &["-d", "x"]).status,
        403,
        "an identity is no token"
    );
    assert_eq!(
        post(&node, &other, "", line, &[]).json()["code"],
        "token_not_allowed"
    );
    let (records, _) = parts(&post(&node, &narrow, "", line, &[]).body);
    assert_eq!(
        (records[0]["code"].as_str(), records[0].get("values")),
        (Some("token_not_allowed"), None)
    );
    for (query, headers, status, code) in [
        ("?recursive=true", vec![], 400, "invalid_request"),
        ("?after=x", vec![], 400, "invalid_request"),
        ("?after=9223372036854775808", vec![], 400, "invalid_request"),
        ("?index=0", vec![], 400, "invalid_request"),
        (
            "",
            vec!["Content-Type: image/png"],
            415,
            "unsupported_media_type",
        ),
        (
            "",
            vec!["Content-Type: text/plain; charset=klingon"],
            415,
            "unsupported_media_type",
        ),
        (
            "",
            vec!["Content-Encoding: gzip, gzip"],
            415,
            "unsupported_media_type",
        ),
        (
            "",
            vec!["Content-Encoding: br"],
            415,
            "unsupported_media_type",
        ),
    ] {
        let reply = post(&node, &good, query, line, &headers);
        let found = (
            reply.status,
            reply.json()["code"].as_str().unwrap().to_owned(),
        );
        assert_eq!(found, (status, code.to_owned()), "{query} {headers:?}");
    }
    let get = node.ask(
        "https",
        PATH,
        &["-H", &format!("Authorization: Bearer {good}")],
    );
    assert_eq!(get.status, 405);
    for (path, methods) in [(PATH, "POST, OPTIONS"), (QUOTA, "GET, HEAD, OPTIONS")] {
        let options = node.ask("https", path, &["-X", "OPTIONS"]);
        assert!((200..300).contains(&options.status), "{options:?}");
        assert_eq!(options.header("allow"), Some(methods));
        let other = node.ask("https", path, &["-X", "DELETE"]);
        assert_eq!((other.status, other.header("allow")), (405, Some(methods)));
    }
}

#[test]
fn quota_is_by_identifier_and_kept() {
    let mut node = Node::new();
    let (_, limited) = token(&node, &["--quota", "2500"]);
    let header = format!("Authorization: Bearer {limited}");
    let left = |node: &Node| node.ask("https", "/api/v1/quota", &["-H", &header]);
    let asked = "88.118.20/none\n".repeat(1_200) + "\n";
    let reply = post(&node, &limited, "", asked.as_bytes(), &[]);
    assert_eq!(
        reply.header("ratelimit-policy"),
        Some("\"day\";q=2500;w=86400")
    );
    assert!(
        reply
            .header("ratelimit")
            .unwrap()
            .starts_with("\"day\";r=2500;t=")
    );
    assert_eq!(parts(&reply.body).1["codes"]["handle_not_found"], 1_200);
    until_none_runs(&node, &limited);
    assert_eq!(
        (
            left(&node).json()["used"].as_u64(),
            left(&node).json()["remaining"].as_u64()
        ),
        (Some(1_200), Some(1_300))
    );
    node.terminate();
    node.start();
    assert_eq!(
        left(&node).json()["used"],
        1_200,
        "what was not used is given back"
    );
    let reply = post(
        &node,
        &limited,
        "",
        "88.118.20/none\n".repeat(2_000).as_bytes(),
        &[],
    );
    let (records, summary) = parts(&reply.body);
    assert_eq!(
        (
            &summary["codes"]["handle_not_found"],
            &summary["codes"]["quota_used_up"]
        ),
        (&1_300.into(), &700.into())
    );
    assert_eq!(
        (
            records[1_299]["responseCode"].as_u64(),
            records[1_300]["responseCode"].as_u64()
        ),
        (Some(100), Some(3))
    );
    assert!(
        records[1_300]["renewal"]
            .as_str()
            .unwrap()
            .ends_with("T00:00:00Z")
    );
    // Without a farewell: what was granted is on disk.
    node.kill();
    node.start();
    assert_eq!(left(&node).json()["remaining"], 0);
    let refused = post(&node, &limited, "", b"88.118.20/none", &[]);
    assert_eq!(
        (refused.status, refused.json()["code"].as_str()),
        (429, Some("quota_used_up"))
    );
    assert!(refused.header("retry-after").is_some());
    let single = node.ask("https", "/api/handles/88.118.20/pump", &["-H", &header]);
    assert_eq!(
        single.status, 429,
        "one by one they come out of the same quota"
    );
}

/// Goal: restricted values are in a batch when the token has the right and its identity may read them, and never else.
#[test]
fn restricted_values_take_a_right() {
    let node = Node::with(&[PLAIN]);
    let (_, only_batch) = token(&node, &[]);
    let (_, reader) = token(&node, &["--right", "batch,resolve"]);
    let made = node.must(&[
        "token",
        "create",
        "--identity",
        "300:88.118.20/STRANGER",
        "--right",
        "batch,resolve",
        "-o",
        "json",
        "--config",
        &node.config(),
    ]);
    let made: Json = serde_json::from_str(&made).unwrap();
    let stranger = made["token"].as_str().unwrap();
    let lines = b"88.118.20/pump\n88.118.20/none\n88.118.20/secret\n";
    let ask = |token: &str, query: &str| post(&node, token, query, lines, &[]);
    let refused = ask(&only_batch, "?publicOnly=false");
    assert_eq!(
        (refused.status, refused.json()["code"].as_str()),
        (403, Some("token_not_allowed"))
    );
    let secret = "for administrators";
    assert!(
        !ask(&reader, "").body.contains(secret),
        "only when asked for"
    );
    let read = ask(&reader, "?publicOnly=false");
    assert_eq!(codes(&read.body), [(1, 1), (2, 100), (3, 1)]);
    let auth = format!("Authorization: Bearer {reader}");
    let path = "/api/handles/88.118.20/pump?publicOnly=false";
    let single = node.ask("https", path, &["-H", &auth]).json();
    let (records, _) = parts(&read.body);
    assert_eq!(records[0]["values"], single["values"]);
    assert!(read.body.contains(secret), "{}", read.body);
    let denied = ask(stranger, "?publicOnly=false");
    assert_eq!(codes(&denied.body), [(1, 401), (2, 100), (3, 401)]);
    assert!(!denied.body.contains(secret) && !denied.body.contains("\"values\""));
    let public = ask(stranger, "?publicOnly=false&type=URL");
    assert_eq!(codes(&public.body), [(1, 1), (2, 100), (3, 200)]);
    let input = node.path("in.txt");
    fs::write(&input, lines).unwrap();
    let (good, said) = command(&node, &reader, input.to_str().unwrap(), &["--restricted"]);
    assert!(good && said.contains(secret), "{said}");
}

/// Goal: what one batch keeps ready and does not use is there for another.
#[test]
fn nobody_is_refused_what_is_left() {
    let node = Node::with(&[PLAIN]);
    let (_, token) = token(&node, &["--quota", "1000"]);
    let mut open = Client::open(&node, &token);
    open.send(b"88.118.20/pump\n").unwrap();
    open.hear("\"line\":1,");
    let lines = "88.118.20/none\n".repeat(1_000);
    let (records, summary) = parts(&post(&node, &token, "", lines.as_bytes(), &[]).body);
    assert_eq!(
        (
            &summary["codes"]["handle_not_found"],
            &summary["codes"]["quota_used_up"]
        ),
        (&999.into(), &1.into())
    );
    assert_eq!(records[999]["code"], "quota_used_up", "the last");
    open.send(b"88.118.20/pump\n").unwrap();
    open.hear("quota_used_up");
    open.end();
    assert_eq!(parts(&open.rest()).1["complete"], true);
}

/// Goal: a store that takes no changes costs nobody an answer: the batch says where it stopped, and can be gone on with.
#[test]
fn lines_that_cannot_be_counted_are_not_lost() {
    let mut node = Node::new();
    let (_, token) = token(&node, &["--quota", "1000"]);
    node.terminate();
    node.set("JIEXI_STORE_DISK_FREE_MIN", "100000TiB");
    node.start();
    let (records, summary) = parts(&post(&node, &token, "", b"88.118.20/pump", &[]).body);
    assert_eq!(
        (records.len(), &summary["complete"], &summary["code"]),
        (0, &false.into(), &"busy".into())
    );
    node.terminate();
    node.set("JIEXI_STORE_DISK_FREE_MIN", "64MiB");
    node.start();
    let reply = post(&node, &token, "", b"88.118.20/pump", &[]);
    assert_eq!(codes(&reply.body), [(1, 1)]);
}

#[test]
fn compressed_both_ways_and_bombs() {
    let node = Node::with(&[("JIEXI_BATCH_INPUT_MAX", "8MiB")]);
    let (_, token) = token(&node, &[]);
    let lines: String = (0..20_000)
        .map(|n| format!("88.118.20/{:x}\n88.118.20/pump\n", n * 7_919))
        .collect();
    let gzip = |text: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    };
    let plain = post(&node, &token, "", lines.as_bytes(), &[]).body;
    for (coding, body) in [
        ("gzip", gzip(lines.as_bytes())),
        ("zstd", zstd::encode_all(lines.as_bytes(), 3).unwrap()),
    ] {
        let coded = format!("Content-Encoding: {coding}");
        assert_eq!(
            post(&node, &token, "", &body, &[&coded]).body,
            plain,
            "{coding}"
        );
        let cut = post(&node, &token, "", &body[..body.len() - 9], &[&coded]).body;
        assert_eq!(parts(&cut).1["complete"], false);
        // Out.
        let file = node.path("out");
        let (auth, accept) = (
            format!("Authorization: Bearer {token}"),
            format!("Accept-Encoding: {coding}"),
        );
        let data = format!("@{}", node.path("body").display());
        fs::write(node.path("body"), &lines).unwrap();
        let more = [
            "-H",
            &auth,
            "-H",
            &accept,
            "-H",
            "Content-Type: text/plain",
            "--data-binary",
            &data,
            "-o",
            file.to_str().unwrap(),
        ];
        let reply = node.ask("https", PATH, &more);
        assert_eq!(reply.header("content-encoding"), Some(coding));
        let octets = fs::read(&file).unwrap();
        let mut back = Vec::new();
        match coding {
            "gzip" => drop(
                flate2::read::GzDecoder::new(&octets[..])
                    .read_to_end(&mut back)
                    .unwrap(),
            ),
            _ => back = zstd::decode_all(&octets[..]).unwrap(),
        }
        assert!(
            octets.len() < plain.len() / 4 && back == plain.as_bytes(),
            "{coding}"
        );
    }
    let bomb = vec![b'a'; 64 << 20];
    let rows = "88.118.20/none\n".repeat(1 << 20);
    for (coding, body, reason) in [
        ("gzip", gzip(&bomb), "ratio_max"),
        ("zstd", zstd::encode_all(&bomb[..], 3).unwrap(), "ratio_max"),
        ("identity", rows.into_bytes(), "input_max"),
    ] {
        let reply = post(
            &node,
            &token,
            "",
            &body,
            &[&format!("Content-Encoding: {coding}")],
        );
        let (_, summary) = parts(&reply.body);
        assert_eq!(summary["complete"], false);
        assert!(
            summary["message"].as_str().unwrap().contains(reason),
            "{coding} {summary}"
        );
    }
    assert_eq!(
        codes(&post(&node, &token, "", b"88.118.20/pump", &[]).body),
        [(1, 1)],
        "and it goes on"
    );
}

#[test]
fn hostile_lines_fail_alone() {
    let node = Node::new();
    let (_, token) = token(&node, &[]);
    let body = [
        &b"88.118.20/pump\n"[..],
        &vec![b'x'; 5 << 20],
        b"\n\xff\xfe\x00\n88.118.20/",
        &vec![b'y'; 3_000],
        b"\n88.118.20/pump",
    ]
    .concat();
    assert_eq!(
        codes(&post(&node, &token, "", &body, &[]).body),
        [(1, 1), (2, 102), (3, 102), (4, 102), (5, 1)]
    );
    let body = [
        &b"88.118.20/pump\n88.118.20/pump"[..],
        &vec![b','; 1_000_000],
        b"\n88.118.20/pump\n",
    ]
    .concat();
    let csv = post(&node, &token, "", &body, &["Content-Type: text/csv"]);
    assert_eq!(codes(&csv.body), [(1, 1), (2, 102), (3, 1)]);
    let open = post(
        &node,
        &token,
        "",
        b"[\"88.118.20/pump\",",
        &["Content-Type: application/json"],
    );
    assert_eq!(
        (codes(&open.body), parts(&open.body).1["complete"].clone()),
        (vec![(1, 1)], false.into())
    );
}

/// Goal: answers come while the input does.
#[test]
fn early_readers() {
    let node = Node::with(&[PLAIN]);
    let (_, token) = token(&node, &[]);
    let mut early = Client::open(&node, &token);
    for line in 1..=3 {
        early.send(b"88.118.20/pump\n").unwrap();
        early.hear(&format!("\"line\":{line},"));
    }
    early.end();
    assert_eq!(parts(&early.rest()).1["complete"], true);
}

/// Lines whose answers are more than the kernels of both ends keep …
const FULL: usize = 40_000;
/// … and such that are long, and have short answers: 30 MB.
const LONG: usize = 30_000;

/// Sends both kinds and reads nothing.
fn send_all(client: &mut Client) {
    let full = "88.118.20/pump\n".repeat(FULL / 10);
    (0..10).for_each(|_| client.send(full.as_bytes()).unwrap());
    let long = format!("88.118.20/none{}\n", " ".repeat(1_000)).repeat(LONG / 500);
    (0..500).for_each(|_| client.send(long.as_bytes()).unwrap());
    client.end();
}

/// Goal: a client that reads only when it has sent everything gets all answers, in order. Method: the node says that it
/// keeps input on its disk.
#[test]
fn late_readers() {
    let node = Node::with(&[PLAIN]);
    let (_, token) = token(&node, &[]);
    let mut late = Client::open(&node, &token);
    send_all(&mut late);
    let kept = of_token(&node, &token, "spooled");
    assert!(kept > 0, "nothing had to be kept");
    let body = late.rest();
    let expected: Vec<_> = (0..FULL + LONG)
        .map(|at| (at as u64 + 1, if at < FULL { 1 } else { 100 }))
        .collect();
    assert!(codes(&body) == expected, "all answers, in order");
    assert_eq!(parts(&body).1["complete"], true);
    until_none_runs(&node, &token);
}

/// Goal: no more input is kept than may be, and the client hears why.
#[test]
fn late_readers_of_too_much() {
    let node = Node::with(&[PLAIN, ("JIEXI_BATCH_SPOOL_MAX", "1MiB")]);
    let (_, token) = token(&node, &[]);
    let mut late = Client::open(&node, &token);
    send_all(&mut late);
    let (records, summary) = parts(&late.rest());
    assert!((1..FULL + LONG).contains(&records.len()));
    assert_eq!(
        (&summary["complete"], &summary["code"]),
        (&false.into(), &"body_too_large".into())
    );
    let message = summary["message"].as_str().unwrap();
    assert!(message.contains("spool_max"), "{message}");
}

/// Goal: who never reads, or vanishes, leaves nothing behind; others are answered meanwhile.
#[test]
fn clients_that_never_read_or_vanish() {
    let node = Node::with(&[PLAIN, ("JIEXI_HTTP_WRITE", "2s")]);
    let (_, token) = token(&node, &[]);
    let spool = node.data().join("spool");
    let piece = "88.118.20/pump\n".repeat(4_000);
    let mut deaf = Client::open(&node, &token);
    let begun = Instant::now();
    while node.open_below(&spool) == 0 {
        assert!(begun.elapsed() < PATIENCE, "its input is kept nowhere");
        deaf.send(piece.as_bytes()).unwrap();
    }
    let mut lost = Client::open(&node, &token);
    for _ in 0..20 {
        lost.send(piece.as_bytes()).unwrap();
    }
    drop(lost);
    assert_eq!(
        codes(&post(&node, &token, "", b"88.118.20/pump", &[]).body),
        [(1, 1)]
    );
    // The deaf one is still there.
    until_none_runs(&node, &token);
    while node.open_below(&spool) > 0 {
        assert!(begun.elapsed() < 2 * PATIENCE, "something is left on disk");
        thread::sleep(Duration::from_millis(50));
    }
    drop(deaf);
}

#[test]
fn streams_are_few_and_end_with_their_token() {
    let node = Node::with(&[PLAIN, ("JIEXI_BATCH_STREAMS_PER_TOKEN", "2")]);
    let (id, held) = token(&node, &[]);
    let (_, other) = token(&node, &[]);
    let open = || {
        let mut client = Client::open(&node, &held);
        client.send(b"88.118.20/pump\n").unwrap();
        client.hear("\"line\":1,");
        client
    };
    let (first, second) = (open(), open());
    let third = post(&node, &held, "", b"88.118.20/pump", &[]);
    assert_eq!(
        (third.status, third.json()["code"].as_str()),
        (429, Some("too_many_requests"))
    );
    assert_eq!(post(&node, &other, "", b"88.118.20/pump", &[]).status, 200);
    let (lag, begun) = revoke(&node, &id);
    for client in [first, second] {
        let (_, summary) = parts(&client.rest());
        assert_eq!(
            (&summary["complete"], &summary["code"]),
            (&false.into(), &"token_not_valid".into())
        );
    }
    within_five_seconds(begun, lag);
}

/// Measures how late this machine lets a thread go on that only sleeps.
pub(crate) struct Lag {
    stop: Arc<AtomicBool>,
    worst: thread::JoinHandle<Duration>,
}

impl Lag {
    fn begin() -> Self {
        const PAUSE: Duration = Duration::from_millis(20);
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let measure = move || {
            let mut worst = Duration::ZERO;
            while !told.load(Relaxed) {
                let begun = Instant::now();
                thread::sleep(PAUSE);
                worst = worst.max(begun.elapsed().saturating_sub(PAUSE));
            }
            worst
        };
        Self {
            stop,
            worst: thread::spawn(measure),
        }
    }

    fn end(self) -> Duration {
        self.stop.store(true, Relaxed);
        self.worst.join().unwrap()
    }
}

/// Revokes a token; from now on the time counts.
pub(crate) fn revoke(node: &Node, id: &str) -> (Lag, Instant) {
    let lag = Lag::begin();
    node.must(&["token", "revoke", id, "--config", &node.config()]);
    (lag, Instant::now())
}

/// Five seconds are promised, and no more are allowed for on a machine that has time. On the way lie the node's timer,
/// the thread of the batch, the task of its connection, and this thread: each may have to wait as long as a thread that
/// does nothing had to at worst meanwhile.
pub(crate) fn within_five_seconds(begun: Instant, lag: Lag) {
    let passed = begun.elapsed();
    let worst = lag.end();
    assert!(
        passed <= Duration::from_secs(5) + 4 * worst,
        "{passed:?}, where the machine let threads wait for {worst:?}"
    );
}

/// A connection that is kept, with one answered request behind it.
fn kept(node: &Node) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", node.http)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"GET /api/handles/88.118.20/pump HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let (mut heard, mut piece) = (Vec::new(), [0; 4_096]);
    while !heard.ends_with(b"]}") {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "an answer");
        heard.extend_from_slice(&piece[..count]);
    }
    stream
}

/// Goal: a connection with a batch is not idle, however long ago its request was. Method: one connection more than there
/// may be; the one to close is that which does nothing.
#[test]
fn a_running_batch_is_not_idle() {
    let node = Node::with(&[PLAIN, ("JIEXI_HTTP_CONNECTIONS_MAX", "2")]);
    let (_, token) = token(&node, &[]);
    let mut batch = Client::open(&node, &token);
    batch.send(b"88.118.20/pump\n").unwrap();
    batch.hear("\"line\":1,");
    let mut idle = kept(&node);
    let _third = kept(&node);
    assert_eq!(idle.read(&mut [0]).unwrap(), 0, "closed by the node");
    batch.send(b"88.118.20/pump\n").unwrap();
    batch.hear("\"line\":2,");
    batch.end();
    assert_eq!(parts(&batch.rest()).1["complete"], true);
}

/// Goal: a node that stops waits for no batch to end; the client is told, and pays for no more than it got.
#[test]
fn a_node_that_stops_ends_batches() {
    let mut node = Node::with(&[PLAIN]);
    let (_, token) = token(&node, &["--quota", "5000"]);
    let mut batch = Client::open(&node, &token);
    batch.send(b"88.118.20/pump\n").unwrap();
    batch.hear("\"line\":1,");
    // Nobody reads this one's end: it holds nothing up either.
    let mut deaf = Client::open(&node, &token);
    let piece = "88.118.20/none\n".repeat(500);
    deaf.send(piece.as_bytes()).unwrap();
    // A connection whose request was not read yet is closed without an answer.
    let begun = Instant::now();
    while of_token(&node, &token, "streams") < 2 {
        assert!(begun.elapsed() < PATIENCE, "both batches run");
        thread::sleep(Duration::from_millis(10));
    }
    node.terminate();
    let (records, summary) = parts(&batch.rest());
    assert_eq!(
        (records.len(), &summary["complete"], &summary["code"]),
        (1, &false.into(), &"busy".into())
    );
    let text = deaf.rest();
    let answered = parts(&text).0.len() as u64;
    node.start();
    let header = format!("Authorization: Bearer {token}");
    let quota = node.ask("https", "/api/v1/quota", &["-H", &header]).json();
    assert_eq!(quota["used"], 1 + answered, "the rest is given back");
}

/// Goal: a token that ends takes its batch along also when the client reads nothing. Method: no other deadline is near.
#[test]
fn a_revoked_token_cuts_who_reads_nothing() {
    let node = Node::with(&[PLAIN, ("JIEXI_HTTP_WRITE", "1h"), ("JIEXI_HTTP_READ", "1h")]);
    let (id, token) = token(&node, &[]);
    let mut deaf = Client::open(&node, &token);
    let piece = "88.118.20/pump\n".repeat(4_000);
    for _ in 0..20 {
        deaf.send(piece.as_bytes()).unwrap();
    }
    let (lag, begun) = revoke(&node, &id);
    let error = loop {
        if let Err(error) = deaf.send(piece.as_bytes()) {
            break error;
        }
    };
    within_five_seconds(begun, lag);
    use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
    assert!(
        matches!(error.kind(), BrokenPipe | ConnectionReset),
        "cut, not only deaf itself: {error}"
    );
}

/// Runs `jiexi batch resolve`; whether it ended well, and what it said.
fn command(node: &Node, token: &str, input: &str, more: &[&str]) -> (bool, String) {
    let file = node.path("batch.token");
    fs::write(&file, token).unwrap();
    let server = format!("http://127.0.0.1:{}", node.http);
    let mut arguments = vec![
        "batch",
        "resolve",
        input,
        "--token-file",
        file.to_str().unwrap(),
    ];
    if !more.contains(&"--server") {
        arguments.extend(["--server", &server]);
    }
    arguments.extend(more);
    node.run(&arguments)
}

/// Goal: file to file over both protocols gives the same records; standard output and refusals.
#[test]
fn the_command() {
    let node = Node::with(&[PLAIN]);
    let (_, token) = token(&node, &["--quota", "100000"]);
    let input = node.path("in.txt");
    let lines: String = (0..3_000)
        .map(|n| format!("88.118.20/{}\n", ["pump", "none", "secret"][n % 3]))
        .collect();
    fs::write(&input, format!("{lines}10.1/x\n\u{fffd}\n")).unwrap();
    let (input, out) = (input.to_str().unwrap(), node.path("out"));
    let out = out.to_str().unwrap();
    let (good, said) = command(&node, &token, input, &["--out", out]);
    assert!(
        good && said.contains("3002 lines in")
            && said.contains("success 1000, values_not_found 1000"),
        "{said}"
    );
    let over_http = fs::read_to_string(out).unwrap();
    assert!(!node.path("out.resume").exists());
    let whole = |text: &str| {
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect::<Vec<Json>>()
    };
    assert_eq!(whole(&over_http).len(), 3_002, "no summary in the file");
    let (good, said) = command(&node, &token, input, &["--out", out, "--zstd"]);
    assert!(
        good && fs::read_to_string(out).unwrap() == over_http,
        "{said}"
    );
    let place = format!("handle://127.0.0.1:{}", node.handle);
    let (good, said) = command(&node, &token, input, &["--out", out, "--server", &place]);
    assert!(good, "{said}");
    let strip = |text: &str| {
        let mut all = whole(text);
        all.iter_mut()
            .for_each(|json| drop(json.as_object_mut().unwrap().remove("message")));
        all
    };
    assert_eq!(strip(&fs::read_to_string(out).unwrap()), strip(&over_http));
    let (good, said) = command(&node, &token, input, &["-o", "csv", "--type", "URL"]);
    assert!(
        good && said.starts_with("line,responseCode,handle,") && !said.contains("\nsummary"),
        "{said}"
    );
    assert_eq!(said.matches("\r\n1,1,88.118.20/pump,1,URL,").count(), 1);
    let (good, said) = command(&node, "jx_no", input, &["--out", out]);
    assert!(
        !good && said.contains("401") && said.contains("token"),
        "{said}"
    );
    let (good, said) = command(&node, &token, input, &["--server", "ftp://x"]);
    assert!(!good && said.contains("--server must be"), "{said}");
}

/// Goal: what was interrupted goes on, gives what an uninterrupted one gives, and is not mixed with another input.
#[test]
fn the_command_goes_on() {
    let node = Node::with(&[PLAIN]);
    let (_, full) = token(&node, &[]);
    let (_, short) = token(&node, &["--quota", "2000"]);
    let (input, out) = (node.path("in.txt"), node.path("out"));
    let lines: String = (0..5_000)
        .map(|n| format!("88.118.20/{}\n\n", ["pump", "none"][n % 2]))
        .collect();
    fs::write(&input, &lines).unwrap();
    let (file, to) = (
        input.to_str().unwrap().to_owned(),
        out.to_str().unwrap().to_owned(),
    );
    for form in ["ndjson", "csv"] {
        let (good, said) = command(&node, &full, &file, &["--out", &to, "-o", form]);
        assert!(good, "{said}");
        let whole = fs::read(&out).unwrap();
        // As a kill leaves it: a state, and an output that ends anywhere.
        let (_, few) = token(&node, &["--quota", "2000"]);
        let (good, said) = command(&node, &few, &file, &["--out", &to, "-o", form]);
        assert!(!good && said.contains("quota_used_up 3000"), "{said}");
        let state = fs::read(node.path("out.resume")).unwrap();
        for length in [0, 40, 77_777, whole.len() - 1, whole.len()] {
            fs::write(node.path("out.resume"), &state).unwrap();
            fs::write(&out, &whole[..length]).unwrap();
            fs::write(&input, format!("{lines}x")).unwrap();
            let (good, said) = command(&node, &full, &file, &["--out", &to, "-o", form]);
            assert!(!good && said.contains("the input has changed"), "{said}");
            fs::write(&input, &lines).unwrap();
            let (good, said) = command(&node, &full, &file, &["--out", &to, "-o", form]);
            assert!(
                good && (length < 77_777 || said.contains("going on after line")),
                "{said}"
            );
            assert!(fs::read(&out).unwrap() == whole, "{form} cut at {length}");
        }
    }
    let (good, said) = command(&node, &short, &file, &["--out", &to]);
    assert!(
        !good && said.contains("quota_used_up 3000") && said.contains("refused for now"),
        "{said}"
    );
}
