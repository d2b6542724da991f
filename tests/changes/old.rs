//! Goal: old cryptography proves nobody unless the operator says so, is refused as a wrong key is, and is counted as what
//! it is. Method: the real program as `init` sets it up, then with the two settings; keys of the recording.

use bytes::Bytes;
use jiexi_proto::OpCode;
use jiexi_proto::code::{OpFlags, ResponseCode};
use jiexi_proto::message::challenge::Proof;
use jiexi_proto::message::values::HandleValues;
use jiexi_proto::message::{Body, Message};
use jiexi_proto::value::key::{KeyFile, PrivateKey};
use jiexi_proto::value::{Reference, Value};

use crate::client::{Key, answer, ask, ask_as, request};
use crate::node::Node;
use crate::secrets::get;

/// The handle whose two keys are old, and new but used in the old manner.
const HANDLE: &str = "88.118/old";
const DSA: u32 = 303;
const RSA: u32 = 300;

/// Octets of the recording's keys.
fn recorded(name: &str) -> Bytes {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/proto/tests/vectors/keys.json");
    let text = std::fs::read_to_string(path).expect("the keys");
    let keys: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let octets = hex::decode(keys[name].as_str().expect("a key"));
    Bytes::from(octets.expect("hex"))
}

fn key(name: &str) -> Key {
    match KeyFile::decode(&recorded(name)).expect("a key file") {
        KeyFile::Clear(key) => Key::of(&PrivateKey::decode(&key).expect("a key")),
        other => panic!("{other:?}"),
    }
}

fn of_handle(op: OpCode, values: Vec<Value>, id: u32) -> Message {
    let handle = Bytes::from_static(HANDLE.as_bytes());
    let body = Body::Values(HandleValues { handle, values });
    request(op, OpFlags::RESOLUTION, body, id)
}

/// The handle with both keys, whose holders administer it.
fn keep(node: &Node) {
    let value = |index, data| jiexi::identity::value(index, b"HS_PUBKEY", data, 0);
    let admin = |index, key| Value {
        index,
        ..jiexi::identity::admin_value(HANDLE.as_bytes(), key, 0)
    };
    let values = vec![
        admin(100, DSA),
        admin(101, RSA),
        value(DSA, recorded("admin_dsa_pub.bin_hex")),
        value(RSA, recorded("admin_rsa_pub.bin_hex")),
    ];
    let (user, key) = node.admin();
    let created = ask_as(
        node.address,
        &of_handle(OpCode::CREATE_HANDLE, values, 1),
        &user,
        &key,
    );
    assert_eq!(created.header.response_code, ResponseCode::SUCCESS);
}

/// What is said to the holder of a key who signs a challenge with this hash; the challenge itself is always given.
fn prove(node: &Node, index: u32, key: &Key, hash: &'static [u8], id: u32) -> ResponseCode {
    let user = Reference {
        handle: Bytes::from_static(HANDLE.as_bytes()),
        index,
    };
    let value = jiexi::identity::value(id, b"URL", Bytes::from_static(b"u"), 0);
    let asked = of_handle(OpCode::ADD_VALUE, vec![value], id);
    let challenge = ask(node.address, &asked);
    assert_eq!(
        challenge.header.response_code,
        ResponseCode::AUTHENTICATION_NEEDED
    );
    let mut proof = answer(&asked, &challenge, &user, key, id + 1_000);
    let (Body::Challenge(asks), Body::Answer(says)) = (&challenge.body, &mut proof.body) else {
        panic!("{challenge:?}");
    };
    let like = Proof::Signature {
        hash: Bytes::from_static(hash),
        signature: Bytes::new(),
    };
    let digest = challenge.digest.as_ref().expect("a digest");
    let mut octets = Vec::new();
    key.prove(&like, &asks.nonce, &digest.octets)
        .encode(&mut octets);
    says.answer = octets.into();
    ask(node.address, &proof).header.response_code
}

/// How many proofs of a method ended so, by the node's own account.
fn counted(node: &Node, method: &str, result: &str) -> u64 {
    let text = get(node.operations, "/metrics");
    let text = String::from_utf8_lossy(&text);
    let name = format!("jiexi_authentications_total{{method=\"{method}\",result=\"{result}\"}} ");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(&name));
    lines
        .next()
        .map_or(0, |count| count.parse().expect("a number"))
}

#[test]
fn old_cryptography_is_refused_unless_it_is_allowed() {
    let directory = tempfile::Builder::new()
        .prefix("jx")
        .tempdir()
        .expect("a directory");
    let mut node = Node::init(directory.path());
    let (dsa, rsa) = (key("admin_dsa_priv.bin_hex"), key("admin_rsa_priv.bin_hex"));
    node.start();
    keep(&node);
    let accepted = counted(&node, "rsa", "accepted");
    let refused = ResponseCode::AUTHENTICATION_FAILED;
    assert_eq!(prove(&node, DSA, &dsa, b"SHA-256", 10), refused);
    assert_eq!(prove(&node, DSA, &dsa, b"SHA1", 11), refused);
    assert_eq!(prove(&node, RSA, &rsa, b"SHA1", 12), refused);
    assert_eq!(
        prove(&node, RSA, &rsa, b"SHA-256", 13),
        ResponseCode::SUCCESS
    );
    assert_eq!(
        counted(&node, "dsa", "refused"),
        2,
        "a refused DSA key is no RSA key"
    );
    assert_eq!(counted(&node, "rsa", "refused"), 1);
    assert_eq!(counted(&node, "dsa", "accepted"), 0);
    assert_eq!(counted(&node, "rsa", "accepted"), accepted + 1);
    node.terminate();

    let file = node.data.join("jiexi.toml");
    let text = std::fs::read_to_string(&file).expect("read");
    let off = "\ndsa = false\nsha1 = false\n";
    assert!(text.contains(off), "{text}");
    let on = off.replace("false", "true");
    std::fs::write(&file, text.replace(off, &on)).expect("written");
    node.start();
    assert_eq!(
        prove(&node, DSA, &dsa, b"SHA-256", 20),
        ResponseCode::SUCCESS
    );
    assert_eq!(prove(&node, RSA, &rsa, b"SHA1", 21), ResponseCode::SUCCESS);
    assert_eq!(counted(&node, "dsa", "accepted"), 1);
    node.terminate();
}
