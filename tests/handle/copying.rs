//! Goal: a mirror of the reference copies the node, and what changes afterwards. Method: the recorded dump is put into a
//! node and asked for again; the blocks are compared, and every signature is checked. Copies are made while others write.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use jiexi::registry::keys::{Hash, VerifyingKey};
use jiexi::server::handle::desk;
use jiexi::store::{Action, Batch, Change, Draft, Expect, Space};
use jiexi_proto::code::OpFlags;
use jiexi_proto::message::Body;
use jiexi_proto::message::replication::{
    Action as Did, DumpBlock, RetrieveTransactions, Share, Since, StreamStart, TransactionBlock,
    TransactionsHead,
};
use jiexi_proto::value::{Reference, Value};
use jiexi_proto::wire::{Reader, Writer};
use jiexi_proto::{Message, OpCode, Version};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use crate::client::{Key, answer, ask, ask_as, octets, read_one, request};
use crate::hazards::{put, value};
use crate::node::{Node, config, keys, private_key, registry_config, vectors};

const FLAGS: OpFlags = OpFlags(0x5900_0000);

fn user(index: u32) -> Reference {
    Reference {
        handle: Bytes::from_static(b"0.NA/88.118.8"),
        index,
    }
}

fn spoken(mut message: Message, version: Version) -> Message {
    (message.envelope.version, message.envelope.suggested) = (version, version);
    message
}

fn dump(version: Version) -> Message {
    let body = Body::DumpHandles(Share::ALL);
    spoken(request(OpCode::DUMP_HANDLES, FLAGS, body, 1), version)
}

fn retrieve(since: Since, version: Version) -> Message {
    let share = Share::ALL;
    let body = Body::RetrieveTransactions(RetrieveTransactions { since, share });
    spoken(request(OpCode::RETRIEVE_TXN_LOG, FLAGS, body, 1), version)
}

fn since(id: u64, version: Version) -> Message {
    let id = i64::try_from(id).expect("small");
    retrieve(Since::Transaction { id, date_ms: 0 }, version)
}

/// The connection on which a copy begins.
fn begun(node: &Node, asked: &Message) -> TcpStream {
    let challenge = ask(node.address, asked);
    let rsa = Key::of(&private_key("admin_rsa_priv.bin_hex"));
    let proof = answer(asked, &challenge, &user(300), &rsa, 2);
    let mut stream = node.connect();
    let proof = octets(&spoken(proof, asked.envelope.version));
    stream.write_all(&proof).expect("written");
    let answer = Bytes::from(read_one(&mut stream).expect("an answer"));
    let answer = Message::decode(&answer).expect("a message");
    assert_eq!(answer.header.response_code.0, 1, "{answer:?}");
    assert_eq!(answer.header.op_code, asked.header.op_code);
    stream
}

/// All that follows.
fn rest(mut stream: impl std::io::Read) -> Bytes {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("the stream ends");
    Bytes::from(all)
}

/// Reads a block, and in a signed stream the signature behind it, which is right.
fn block<T>(
    reader: &mut Reader<'_>,
    signed: bool,
    read: impl Fn(&mut Reader<'_>) -> (T, bool),
) -> T {
    let mut before = *reader;
    let (block, unsigned) = read(reader);
    if signed && !unsigned {
        let mut after = *reader;
        let (all, left) = (before.owned_rest(), after.owned_rest());
        let covered = all.slice(..all.len() - left.len());
        let public = keys()["server_pub.bin_hex"]
            .as_str()
            .map(|text| hex::decode(text).expect("hex"));
        let key = VerifyingKey::parse(&Bytes::from(public.expect("a key"))).expect("a key");
        let signature = reader.owned(1024, "signature").expect("a signature");
        assert!(
            key.verifies(Hash::Sha1, b"", &covered, &signature),
            "the signature of {covered:?}"
        );
    }
    block
}

fn start(reader: &mut Reader<'_>, signed: bool) {
    if signed {
        let start = StreamStart::decode(reader).expect("a start");
        assert_eq!(start, StreamStart::Signed(Bytes::from_static(b"SHA1")));
    }
}

fn dumped(octets: &Bytes, signed: bool) -> Vec<DumpBlock> {
    let mut reader = Reader::over(octets);
    start(&mut reader, signed);
    let format = block(&mut reader, signed, |reader| {
        (reader.u32("format").expect("a format"), false)
    });
    assert_eq!(format, 2);
    let mut blocks = Vec::new();
    while blocks.last() != Some(&DumpBlock::End) {
        blocks.push(block(&mut reader, signed, |reader| {
            let block = DumpBlock::decode(reader).expect("a block");
            let end = block == DumpBlock::End;
            (block, end)
        }));
    }
    assert!(reader.is_empty(), "nothing after the end");
    blocks
}

fn transactions(octets: &Bytes, signed: bool) -> Vec<TransactionBlock> {
    let mut reader = Reader::over(octets);
    start(&mut reader, signed);
    let head = block(&mut reader, signed, |reader| {
        (TransactionsHead::decode(reader).expect("a head"), false)
    });
    assert_eq!((head.format, head.status), (1, 2));
    let mut blocks = Vec::new();
    while !matches!(blocks.last(), Some(TransactionBlock::End { .. })) {
        let decode =
            |reader: &mut Reader<'_>| (TransactionBlock::decode(reader).expect("a block"), false);
        blocks.push(block(&mut reader, signed, decode));
    }
    assert!(reader.is_empty(), "nothing after the end");
    blocks
}

fn commit(node: &Node, space: Space, key: &[u8], action: Action) {
    let changes = vec![Change {
        space,
        key: key.to_vec(),
        expect: Expect::Any,
        action,
    }];
    let note = Bytes::new();
    node.store
        .commit(Batch { changes, note })
        .expect("committed");
}

/// The recorded stream of a scenario.
fn recorded(name: &str) -> Bytes {
    let text = std::fs::read_to_string(vectors().join(name)).expect("a vector");
    let vector: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let exchanges = vector["exchanges"].as_array().expect("exchanges").iter();
    let mut messages =
        exchanges.flat_map(|exchange| exchange["messages"].as_array().expect("messages"));
    let stream = messages.find_map(|message| message["stream_hex"].as_str());
    Bytes::from(hex::decode(stream.expect("a stream")).expect("hex"))
}

/// Puts exactly what a dump says into a node.
fn load(node: &Node, blocks: &[DumpBlock]) {
    for space in [Space::Handle, Space::Prefix] {
        let there = node
            .store
            .scan(space, Bound::Unbounded, b"", 100_000)
            .expect("reads");
        for record in there {
            commit(node, space, &record.key, Action::Delete);
        }
    }
    for block in blocks {
        match block {
            DumpBlock::Handle { handle, values } => {
                put(node, std::str::from_utf8(handle).expect("text"), values);
            }
            DumpBlock::Prefix(prefix) => {
                let draft = Draft {
                    handle: prefix.clone(),
                    values: Vec::new(),
                };
                commit(node, Space::Prefix, prefix, Action::Put(draft));
            }
            _ => {}
        }
    }
}

fn is_secret(value: &Value) -> bool {
    &value.kind[..] == b"HS_SECKEY"
}

/// What the node sends of a dump in clear: not its secrets.
fn without_secrets(mut blocks: Vec<DumpBlock>) -> Vec<DumpBlock> {
    for block in &mut blocks {
        if let DumpBlock::Handle { values, .. } = block {
            values.retain(|value| !is_secret(value));
        }
    }
    blocks
}

#[test]
fn the_recorded_dump_to_the_octet_but_for_its_date_and_secrets() {
    let node = Node::start();
    let theirs = dumped(&recorded("dump_handles_2_7.json"), true);
    load(&node, &theirs);
    let stream = rest(begun(&node, &dump(Version::V2_7)));
    let mut ours = dumped(&stream, true);
    assert!(
        matches!(ours[0], DumpBlock::Server { date_ms, last_transaction }
            if date_ms > 1_700_000_000_000 && last_transaction > 0)
    );
    ours[0] = theirs[0].clone();
    let encoded = |blocks: &[DumpBlock]| {
        let mut out = Vec::new();
        blocks
            .iter()
            .for_each(|block| block.encode(&mut Writer::new(&mut out)));
        hex::encode(out)
    };
    assert!(theirs.len() > 30, "{} blocks", theirs.len());
    assert_eq!(encoded(&ours), encoded(&without_secrets(theirs)));
}

#[test]
fn only_replication_administrators_copy_and_only_over_tcp() {
    let node = Node::start();
    let dsa = Key::of(&private_key("admin_dsa_priv.bin_hex"));
    for asked in [dump(Version::V2_11), since(0, Version::V2_11)] {
        let refused = ask_as(node.address, &asked, &user(303), &dsa);
        assert_eq!(
            refused.header.response_code.0, 400,
            "a server administrator is none by that"
        );
        let mut datagram = node.ask(&octets(&asked));
        let answer = Message::decode(&Bytes::from(datagram.remove(0))).expect("a message");
        assert_eq!(answer.header.response_code.0, 4);
    }
    let all = retrieve(Since::State(Bytes::from_static(b"{}")), Version::V2_11);
    assert_eq!(ask(node.address, &all).header.response_code.0, 5);
}

#[test]
fn transactions_are_the_last_changes_in_order() {
    let node = Node::start();
    let before = node.store.sequence();
    let url = |text: &str| vec![value(1, b"URL", 0x0E, text.as_bytes())];
    put(&node, "88.118.8/Gone", &url("a"));
    put(&node, "88.118.8/Stays", &url("a"));
    put(&node, "88.118.8/Stays", &url("b"));
    commit(&node, Space::Handle, b"88.118.8/GONE", Action::Delete);
    let found = transactions(&rest(begun(&node, &since(before, Version::V2_7))), true);
    let [
        TransactionBlock::Transaction {
            id: first,
            handle: stays,
            action: Did::UPDATE,
            values,
            ..
        },
        TransactionBlock::Transaction {
            id: second,
            handle: gone,
            action: Did::DELETE,
            ..
        },
        TransactionBlock::End { .. },
    ] = &found[..]
    else {
        panic!("{found:?}");
    };
    assert_eq!(
        (&stays[..], &gone[..]),
        (&b"88.118.8/Stays"[..], &b"88.118.8/GONE"[..])
    );
    assert_eq!(&values[0].data[..], b"b", "the values of now");
    let last = node.store.sequence();
    let number = i64::try_from(last).expect("small");
    assert_eq!((*first, *second), (number - 1, number));
    let none = transactions(&rest(begun(&node, &since(last, Version::V2_7))), true);
    assert!(matches!(none[..], [TransactionBlock::End { .. }]));

    // A number that is still to come is of another node: everything must be copied anew.
    let stream = rest(begun(&node, &since(last + 1, Version::V2_7)));
    let mut reader = Reader::over(&stream);
    start(&mut reader, true);
    let head = block(&mut reader, true, |reader| {
        (TransactionsHead::decode(reader).expect("a head"), false)
    });
    assert_eq!(head.status, 1);
    // Mirrors read on until the end is said.
    let end = block(&mut reader, true, |reader| {
        (TransactionBlock::decode(reader).expect("a block"), false)
    });
    assert!(matches!(end, TransactionBlock::End { .. }), "{end:?}");
    assert!(reader.is_empty());
}

/// Goal: a mirror remembers the number of the last transaction that came. When its connection ends among those that were
/// committed together, those that did not come must not be taken for done.
#[test]
fn what_was_committed_together_is_asked_for_again_until_all_of_it_came() {
    let node = Node::start();
    let before = node.store.sequence();
    let changes = ["88.118.8/A", "88.118.8/B", "88.118.8/C"].map(|handle| Change {
        space: Space::Handle,
        key: handle.as_bytes().to_vec(),
        expect: Expect::Any,
        action: Action::Put(Draft {
            handle: Bytes::from_static(handle.as_bytes()),
            values: Vec::new(),
        }),
    });
    let note = Bytes::new();
    let batch = Batch {
        changes: changes.to_vec(),
        note,
    };
    node.store.commit(batch).expect("committed");
    put(&node, "88.118.8/D", &[value(1, b"URL", 0x0E, b"d")]);
    let numbers = |after: u64| -> Vec<i64> {
        let all = transactions(&rest(begun(&node, &since(after, Version::V2_7))), true);
        let number = |block: &TransactionBlock| match block {
            TransactionBlock::Transaction { id, .. } => Some(*id),
            TransactionBlock::End { .. } => None,
        };
        all.iter().filter_map(number).collect()
    };
    let first = i64::try_from(before).expect("small");
    assert_eq!(numbers(before), [first, first, first + 1, first + 2]);
    assert_eq!(numbers(before + 1), [first + 2]);
}

/// Takes a certificate that holds the key of the node.
#[derive(Debug)]
struct OfTheNode;

impl ServerCertVerifier for OfTheNode {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let key =
            hex::decode(keys()["server_pub.spki.der_hex"].as_str().expect("a key")).expect("hex");
        let found = certificate.windows(key.len()).any(|window| window == key);
        assert!(found, "the certificate has the key of the site record");
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// What comes inside TLS 1.2, as the reference asks for it.
fn inside(mut stream: TcpStream) -> Bytes {
    let mut start = [0; 4];
    stream.read_exact(&mut start).expect("a start");
    assert_eq!(&start, b"TLS\0");
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .expect("a version")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OfTheNode))
        .with_no_client_auth();
    let name = ServerName::try_from("mirror.test").expect("a name");
    let tls = ClientConnection::new(Arc::new(config), name).expect("a client");
    rest(StreamOwned::new(tls, stream))
}

#[test]
fn secrets_leave_inside_tls_only_and_only_where_the_setting_says_so() {
    let secret = keys()["secret_key_301"]
        .as_str()
        .expect("a secret")
        .as_bytes()
        .to_vec();
    let has_secret = |blocks: &[DumpBlock]| {
        blocks.iter().any(|block| match block {
            DumpBlock::Handle { values, .. } => values
                .iter()
                .any(|value| is_secret(value) && value.data == secret),
            _ => false,
        })
    };
    for allowed in [false, true] {
        let mut registry = registry_config();
        registry.copy_secrets = allowed;
        let node = Node::deciding(config(&["127.0.0.1:0"]), registry, desk::Config::default());
        let clear = dumped(&rest(begun(&node, &dump(Version::V2_7))), true);
        assert_eq!(without_secrets(clear.clone()), clear, "in clear, never");
        let hidden = dumped(&inside(begun(&node, &dump(Version::V2_11))), false);
        assert_eq!(has_secret(&hidden), allowed);
        assert_eq!(without_secrets(hidden)[1..], clear[1..]);
    }
}

/// Goal: a mirror that breaks its handshake off takes nothing from the next. Method: more of them than copies may be made at
/// the same time, of a node that has more than waits on its way; each is closed, and a copy is whole after them.
#[test]
fn a_broken_handshake_ends_its_copy() {
    let node = Node::start();
    for number in 0..800 {
        let large = value(1, b"URL", 0x0E, &[b'u'; 1_000]);
        put(&node, &format!("88.118.8/C{number}"), &[large]);
    }
    for _ in 0..3 {
        let mut stream = begun(&node, &dump(Version::V2_11));
        stream.write_all(&[0; 64]).expect("written");
        // What the server says of it is its matter; that it closes is seen here.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    }
    let blocks = dumped(&inside(begun(&node, &dump(Version::V2_11))), false);
    assert!(blocks.len() > 800, "{}", blocks.len());
}

/// Stops the writers, also when the test fails.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Goal: a dump and the transactions since then are all that is there, however much is written meanwhile. Method: two
/// threads create, change and delete during the dump; a model takes up dump and transactions, and is the store.
#[test]
fn a_copy_made_while_others_write_is_complete() {
    let node = Node::start();
    let write = |number: u32, keep: bool| {
        let handle = format!("88.118.8/C{}", number % 400);
        match keep {
            true => put(
                &node,
                &handle,
                &[value(1, b"URL", 0x0E, number.to_string().as_bytes())],
            ),
            false => commit(&node, Space::Handle, handle.as_bytes(), Action::Delete),
        }
    };
    (0..400).for_each(|number| write(number, true));
    let mut model: BTreeMap<Bytes, Vec<Value>> = BTreeMap::new();
    let stop = AtomicBool::new(false);
    let last = std::thread::scope(|scope| {
        for lane in 0..2 {
            let (stop, write) = (&stop, &write);
            scope.spawn(move || {
                let numbers = (lane..).step_by(2).take_while(|_| !stop.load(Relaxed));
                numbers.for_each(|number| write(number * 7, number % 3 != 0));
            });
        }
        let _stopping = Stopping(&stop);
        let blocks = dumped(&inside(begun(&node, &dump(Version::V2_11))), false);
        let DumpBlock::Server {
            last_transaction, ..
        } = blocks[0]
        else {
            panic!("{:?}", blocks[0]);
        };
        for block in blocks {
            if let DumpBlock::Handle { handle, values } = block {
                model.insert(handle, values);
            }
        }
        u64::try_from(last_transaction).expect("positive")
    });
    assert!(node.store.sequence() > last, "others have written");
    for block in transactions(&inside(begun(&node, &since(last, Version::V2_11))), false) {
        if let TransactionBlock::Transaction {
            handle,
            action,
            values,
            ..
        } = block
        {
            let key = Bytes::from(handle.to_ascii_uppercase());
            match action {
                Did::UPDATE => drop(model.insert(key, values)),
                Did::DELETE => drop(model.remove(&key)),
                other => panic!("{other:?}"),
            }
        }
    }
    let stored = node
        .store
        .scan(Space::Handle, Bound::Unbounded, b"", 100_000)
        .expect("reads");
    let stored = stored.iter().map(|record| {
        let values = node.desk.registry().records.values(record).into_iter();
        let shown = values.filter(|value| !is_secret(value)).collect();
        (Bytes::copy_from_slice(&record.key), shown)
    });
    let stored: BTreeMap<Bytes, Vec<Value>> = stored.collect();
    assert_eq!(model, stored);
}
