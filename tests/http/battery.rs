//! Goal: a record is the same whoever asks for it how. Method: one list of cases, asked through the Handle protocol, HTTP
//! and DNS; what they say is compared with one another and with what is expected.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use bytes::Bytes;
use jiexi_proto::code::{OpFlags, ResponseCode};
use jiexi_proto::message::Body;
use jiexi_proto::message::credential::CredentialField;
use jiexi_proto::message::resolution::Resolution;
use jiexi_proto::{Envelope, Header, Message, MessageView, OpCode, Version};
use serde_json::Value as Json;

use crate::node::Node;

/// Handle, its response code, and whether DNS has a name for it.
const CASES: [(&str, i64, bool); 13] = [
    ("88.118.20/pump", 1, true),
    ("88.118.20/PUMP", 1, true),
    ("88.118.20/nope", 100, true),
    ("88.118.20/secret", 200, true),
    ("88.118.20/离心泵 1", 1, true),
    ("88.118.20/a/b//c", 1, true),
    ("88.118.20/100%?#", 1, true),
    ("88.118.20/plain", 1, true),
    ("88.118.20.9/x", 100, true),
    ("88.118.99/x", 301, true),
    ("10.9999/x", 301, true),
    ("0.NA/88.118.20", 1, false),
    ("0.NA/88.118.20.8", 100, false),
];

/// What only these records are for.
const RECORDS: &str = r#"{"prefix":"88.118.20.9"}
{"handle":"88.118.20/离心泵 1","values":[{"index":1,"type":"URL","data":"https://example.cn/1"},{"index":2,"type":"URL","data":"https://example.cn/2"}]}
{"handle":"88.118.20/a/b//c","values":[{"index":1,"type":"URL","data":"https://example.cn/a"},{"index":7,"type":"HS_ALIAS","data":"88.118.20/pump"}]}
{"handle":"88.118.20/100%?#","values":[{"index":1,"type":"URL","data":"https://example.cn/100"}]}
{"handle":"88.118.20/plain","values":[{"index":1,"type":"DESC","data":"no URL"},{"index":3,"type":"T","data":"x","ttl":"2030-01-31T00:00:00Z","references":[{"handle":"88.118.20/pump","index":1}]}]}
"#;

/// A code and the values, as JSON.
#[derive(Debug, PartialEq)]
struct Said {
    code: i64,
    values: Vec<Json>,
}

/// The public values of a handle, over TCP.
fn by_handle(
    node: &Node,
    handle: &str,
    indexes: &[u32],
    types: &[&str],
) -> (ResponseCode, Vec<Json>) {
    let body = Resolution {
        handle: Bytes::from(handle.to_owned()),
        indexes: indexes.to_vec(),
        types: types
            .iter()
            .map(|kind| Bytes::from((*kind).to_owned()))
            .collect(),
        trailer: None,
    };
    let message = Message {
        envelope: Envelope {
            version: Version::V2_11,
            request_id: 7,
            ..Envelope::default()
        },
        header: Header {
            op_code: OpCode::RESOLUTION,
            response_code: ResponseCode(0),
            flags: OpFlags::PUBL,
            site_serial: 0,
            recursion_count: 0,
            reserved: 0,
            expiration: 0,
            body_length: 0,
        },
        body: Body::Resolution(body),
        digest: None,
        credential: CredentialField::Empty,
    };
    let mut octets = Vec::new();
    message.encode(&mut octets);
    let mut stream = TcpStream::connect(("127.0.0.1", node.handle)).expect("connects");
    stream.write_all(&octets).expect("writes");
    stream
        .shutdown(std::net::Shutdown::Write)
        .expect("shut down");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let view = MessageView::decode(&answer).expect("a message");
    let code = view.header.response_code;
    let mut values = Vec::new();
    if code == ResponseCode::SUCCESS {
        let message = Message::decode(&Bytes::from(answer.clone())).expect("a message");
        let Body::Resolved(body) = message.body else {
            panic!("{handle}: {:?}", message.body);
        };
        let json = |value| jiexi::json::value::write(value).expect("has a JSON form");
        values = body.values.iter().map(json).collect();
    }
    (code, values)
}

fn path(handle: &str) -> String {
    handle
        .replace('%', "%25")
        .replace('?', "%3F")
        .replace('#', "%23")
        .replace(' ', "%20")
}

fn by_http(node: &Node, handle: &str, query: &str) -> Said {
    let reply = node.get(&format!("/api/handles/{}{query}", path(handle)));
    let json = reply.json();
    assert!(
        json["handle"].is_null() || json["handle"] == handle,
        "{json}"
    );
    Said {
        code: reply.code(),
        values: json["values"].as_array().cloned().unwrap_or_default(),
    }
}

/// The addresses that DNS says a handle has; none: there are no records.
fn by_dns(node: &Node, handle: &str) -> Vec<String> {
    let server = format!("127.0.0.1:{}", node.dns);
    let asked = [
        "resolve",
        handle,
        "--dns",
        "id.example.net",
        "--server",
        &server,
        "-o",
        "json",
    ];
    let (good, text) = node.run(&asked);
    if !good {
        return Vec::new();
    }
    let json: Json = serde_json::from_str(&text).expect("JSON");
    let records = json["records"].as_array().expect("records").iter();
    let uris = records.filter(|record| record["type"] == "URI");
    let text = |record: &Json| record["data"].as_str().expect("text").to_owned();
    // Priority, weight, and the address in quotes.
    let mut found: Vec<String> = uris
        .map(|record| {
            text(record)
                .rsplit(' ')
                .next()
                .unwrap()
                .trim_matches('"')
                .to_owned()
        })
        .collect();
    found.sort();
    found
}

/// The addresses among values.
fn addresses(values: &[Json]) -> Vec<String> {
    let urls = values.iter().filter(|value| value["type"] == "URL");
    let mut found: Vec<String> = urls
        .map(|value| value["data"]["value"].as_str().unwrap().to_owned())
        .collect();
    found.sort();
    found
}

fn alike(node: &Node, handle: &str, code: i64, named: bool) {
    let (said, values) = by_handle(node, handle, &[], &[]);
    let over_handle = Said {
        code: i64::from(said.0),
        values,
    };
    assert_eq!(over_handle.code, code, "{handle}");
    assert_eq!(over_handle, by_http(node, handle, ""), "{handle}");
    assert_eq!(code == 1, !over_handle.values.is_empty(), "{handle}");
    if named {
        assert_eq!(
            addresses(&over_handle.values),
            by_dns(node, handle),
            "{handle}"
        );
    }
}

#[test]
fn three_front_ends_say_the_same() {
    let node = Node::with_dns();
    node.import(RECORDS);
    for (handle, code, named) in CASES {
        alike(&node, handle, code, named);
    }
    for (query, indexes, types) in [
        ("?index=2&index=4", &[2, 4][..], &[][..]),
        ("?type=URL", &[], &["URL"]),
        ("?type=URL.&index=2", &[2], &["URL."]),
        ("?index=77", &[77], &[]),
        ("?type=nope", &[], &["nope"]),
    ] {
        let (code, values) = by_handle(&node, "88.118.20/pump", indexes, types);
        let over_handle = Said {
            code: i64::from(code.0),
            values,
        };
        assert_eq!(
            over_handle,
            by_http(&node, "88.118.20/pump", query),
            "{query}"
        );
    }
}

/// What one of them changes, all of them know.
#[test]
fn changes_are_seen_by_all() {
    let node = Node::with_dns();
    let handle = "88.118.20/changed";
    alike(&node, handle, 100, true);
    for address in ["https://example.cn/old", "https://example.cn/new"] {
        let body = format!(r#"[{{"index":1,"type":"URL","data":"{address}"}}]"#);
        let put = node.admin(
            &format!("/api/handles/{handle}"),
            &["-X", "PUT", "-d", &body],
        );
        assert!(matches!(put.status, 200 | 201), "{put:?}");
        alike(&node, handle, 1, true);
        assert_eq!(by_dns(&node, handle), [address]);
    }
    let gone = node.admin(&format!("/api/handles/{handle}"), &["-X", "DELETE"]);
    assert_eq!(gone.both(), (200, 1));
    alike(&node, handle, 100, true);
}

/// A prefix that another service knows: Handle refers to it, and HTTP says the same with the values that name it.
#[test]
fn referrals() {
    let node = Node::with_dns();
    node.import(
        r#"{"handle":"0.NA/88.118.21","values":[{"index":1,"type":"HS_SITE.PREFIX","data":{"format":"hex","value":"00ff"}},{"index":2,"type":"NOTE","data":"x"}]}
"#,
    );
    let (code, _) = by_handle(&node, "0.NA/88.118.21.8", &[], &[]);
    assert_eq!(code, ResponseCode::PREFIX_REFERRAL);
    let said = node.get("/api/handles/0.NA/88.118.21.8");
    assert_eq!(said.both(), (404, i64::from(code.0)), "{said:?}");
    let json = said.json();
    assert_eq!(json["code"], "referral");
    let kinds = json["values"].as_array().expect("values").iter();
    let kinds: Vec<&Json> = kinds.map(|value| &value["type"]).collect();
    assert_eq!(kinds, ["HS_SITE.PREFIX"], "nothing else of the record");
    assert_eq!(node.get("/0.NA/88.118.21.8").status, 404);
}

/// The recorded exchange of the reference client and server over HTTP: the client's request as it was sent; the answer is
/// the recorded one to the octet, but for the time when it expires.
#[test]
fn res_all_http_is_answered_as_recorded() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/proto/tests/vectors/res_all_http.json"
    );
    let vector: Json =
        serde_json::from_str(&std::fs::read_to_string(file).expect("the vector")).expect("JSON");
    let messages = &vector["exchanges"][0]["messages"];
    let octets = |place: usize| {
        hex::decode(messages[place]["http_hex"].as_str().expect("hex")).expect("hex")
    };
    let (request, recorded) = (octets(0), octets(1));
    let node = Node::with_dns();
    // The record is the one that the reference server had.
    let recorded_body = body_of(&recorded);
    let message = Message::decode(&Bytes::copy_from_slice(recorded_body)).expect("a message");
    let Body::Resolved(body) = message.body else {
        panic!("{:?}", message.body);
    };
    let values: Vec<Json> = body
        .values
        .iter()
        .map(|value| jiexi::json::value::write(value).expect("a form"))
        .collect();
    let record = serde_json::json!({"handle": "88.118.8/test1", "values": values});
    node.import(&format!("{{\"prefix\":\"88.118.8\"}}\n{record}\n"));
    let mut stream = TcpStream::connect(("127.0.0.1", node.http)).expect("connects");
    stream
        .set_read_timeout(Some(crate::node::PATIENCE))
        .expect("a timeout");
    stream.write_all(&request).expect("written");
    let mut ours = Vec::new();
    while body_of(&ours).len() < recorded_body.len() {
        let mut octets = [0; 4096];
        let count = stream.read(&mut octets).expect("an answer");
        assert!(count > 0, "{}", String::from_utf8_lossy(&ours));
        ours.extend_from_slice(&octets[..count]);
    }
    let head = String::from_utf8_lossy(&ours).to_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(
        head.contains("\r\ncontent-type: application/x-hdl-message\r\n"),
        "{head}"
    );
    let mut answer = body_of(&ours).to_vec();
    // Envelope 20 octets; in the header the time of expiration is the sixth field, at 16.
    assert_ne!(answer[36..40], [0; 4]);
    answer[36..40].copy_from_slice(&recorded_body[36..40]);
    assert_eq!(hex::encode(answer), hex::encode(recorded_body));
}

/// What follows the head of an answer, as far as it came.
fn body_of(answer: &[u8]) -> &[u8] {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n");
    head.map_or(&[], |end| &answer[end + 4..])
}
