//! Goal: each known way to abuse proofs, sessions and changes ends in a refusal, costs the node a
//! bounded amount, and hurts nobody else. Method: one test for each, over real sockets.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiexi::registry::audit;
use jiexi::server::handle::desk;
use jiexi::store::{Action, Batch, Change, Draft, DraftValue, Expect, Space};
use jiexi_proto::code::{OpFlags, Permissions};
use jiexi_proto::message::Body;
use jiexi_proto::message::challenge::{ChallengeAnswer, Proof, VerifyChallenge};
use jiexi_proto::message::values::{HandleValues, RemoveValues};
use jiexi_proto::value::admin::{Admin, AdminRights};
use jiexi_proto::value::key::PublicKey;
use jiexi_proto::value::{Reference, Ttl, Value, list};
use jiexi_proto::{Message, OpCode};

use crate::client::{
    self, Key, Session, ask, ask_as, ask_octets, newest, octets, open_session, request,
};
use crate::node::{Node, config, keys, private_key, registry_config};
use crate::timing::refusal;

const PLAIN: OpFlags = OpFlags::RESOLUTION;
const CERTIFIED: OpFlags = OpFlags(0x5900_0000);

fn code(message: &Message) -> u32 {
    message.header.response_code.0
}

fn user(index: u32) -> Reference {
    Reference {
        handle: Bytes::from_static(b"0.NA/88.118.8"),
        index,
    }
}

fn rsa() -> Key {
    Key::of(&private_key("admin_rsa_priv.bin_hex"))
}

fn secret() -> Key {
    Key::Secret(b"s3cret-Key!".to_vec())
}

pub(crate) fn value(index: u32, kind: &'static [u8], permissions: u8, data: &[u8]) -> Value {
    Value {
        index,
        timestamp: 7,
        ttl: Ttl::Relative(86_400),
        permissions: Permissions(permissions),
        kind: Bytes::from_static(kind),
        data: Bytes::copy_from_slice(data),
        references: Vec::new(),
    }
}

fn admin(index: u32, rights: AdminRights, handle: &str, of: u32) -> Value {
    let mut data = Vec::new();
    let admin = Reference {
        handle: Bytes::copy_from_slice(handle.as_bytes()),
        index: of,
    };
    Admin {
        rights,
        admin,
        padded: false,
    }
    .encode(&mut data);
    value(index, Admin::TYPE, 0x0E, &data)
}

fn group(index: u32, members: &[(&str, u32)]) -> Value {
    let reference = |(handle, index): &(&str, u32)| Reference {
        handle: Bytes::copy_from_slice(handle.as_bytes()),
        index: *index,
    };
    let members: Vec<Reference> = members.iter().map(reference).collect();
    let mut data = Vec::new();
    list::encode(&members, &mut data);
    value(index, list::TYPE, 0x0E, &data)
}

/// Puts a record into the store, behind everybody's back.
pub(crate) fn put(node: &Node, handle: &str, values: &[Value]) {
    let draft = |value: &Value| {
        let mut wire = Vec::new();
        value.encode(&mut wire);
        DraftValue {
            index: value.index,
            permissions: value.permissions.0,
            sealed: false,
            wire: wire.into(),
        }
    };
    let draft = Draft {
        handle: Bytes::copy_from_slice(handle.as_bytes()),
        values: values.iter().map(draft).collect(),
    };
    let key = handle.to_ascii_uppercase().into_bytes();
    let change = Change {
        space: Space::Handle,
        key,
        expect: Expect::Any,
        action: Action::Put(draft),
    };
    node.store
        .commit(Batch {
            changes: vec![change],
            note: Bytes::new(),
        })
        .expect("committed");
}

fn body(handle: &str, values: Vec<Value>) -> Body {
    Body::Values(HandleValues {
        handle: Bytes::copy_from_slice(handle.as_bytes()),
        values,
    })
}

fn create(handle: &str, id: u32) -> Message {
    let values = vec![
        value(1, b"URL", 0x0E, b"https://example.cn/1"),
        admin(100, AdminRights::ALL, "0.NA/88.118.8", 200),
    ];
    request(OpCode::CREATE_HANDLE, PLAIN, body(handle, values), id)
}

fn delete(handle: &str, id: u32) -> Message {
    let handle = Bytes::copy_from_slice(handle.as_bytes());
    request(OpCode::DELETE_HANDLE, PLAIN, Body::Handle(handle), id)
}

/// A session in which the secret key of 301 has been proved by creating `handle`.
fn proved_session(node: &Node, handle: &str) -> Session {
    let mut session = open_session(node.address, &[9; 40], Some(&user(301)));
    let mut asked = create(handle, 10);
    asked.header.flags = CERTIFIED;
    let asked = session.sign(asked);
    let challenge = session.open(&ask_octets(node.address, &octets(&asked)));
    assert_eq!(code(&challenge), 402);
    let mut answer = client::answer(&asked, &challenge, &user(301), &secret(), 11);
    answer.envelope.session_id = session.id;
    let done = session.open(&ask_octets(node.address, &octets(&answer)));
    assert_eq!(code(&done), 1);
    session
}

fn sequence(node: &Node) -> u64 {
    node.store.stats().sequence
}

#[test]
fn a_message_of_a_session_counts_once_and_a_change_is_made_once() {
    let node = Node::start();
    let mut session = proved_session(&node, "88.118.8/h-1");
    let asked = session.sign(create("88.118.8/h-2", 20));
    assert_eq!(code(&ask(node.address, &asked)), 1);
    let before = sequence(&node);
    assert_eq!(
        code(&ask(node.address, &asked)),
        505,
        "the same octets again"
    );
    for _ in 0..3 {
        let again = session.sign(create("88.118.8/h-2", 20));
        assert_eq!(
            code(&ask(node.address, &again)),
            1,
            "signed anew, the same answer"
        );
    }
    assert_eq!(sequence(&node), before, "and no other change");
    let other = session.sign(create("88.118.8/h-2", 21));
    assert_eq!(
        code(&ask(node.address, &other)),
        101,
        "another request is another request"
    );

    // Counters that are old, forged MACs, counter 0.
    let old = Session {
        counter: 0,
        ..session.clone()
    }
    .sign(create("88.118.8/h-3", 22));
    session.counter += 300;
    let ahead = session.sign(create("88.118.8/h-4", 23));
    assert_eq!(code(&ask(node.address, &ahead)), 1);
    assert_eq!(code(&ask(node.address, &old)), 505);
    let mut forged = session.sign(create("88.118.8/h-5", 24));
    forged.body = body("88.118.8/h-6", Vec::new());
    assert_eq!(code(&ask(node.address, &forged)), 404);
    // Counting from here to 0 and to a negative number, as clients read it.
    for counter in [0, 1 << 31, u32::MAX] {
        let mut odd = Session {
            counter: u32::wrapping_sub(counter, 1),
            ..session.clone()
        };
        let odd = odd.sign(create("88.118.8/h-7", 26));
        assert_eq!(code(&ask(node.address, &odd)), 505, "counter {counter}");
    }
    let mut message = create("88.118.8/h-7", 25);
    message.envelope.session_id = session.id;
    let unsigned = ask(node.address, &message);
    assert_eq!(code(&unsigned), 402, "without a MAC nobody is known");

    // A session is not closed by somebody who guesses its id.
    let mut terminate = request(
        OpCode::SESSION_TERMINATE,
        PLAIN,
        Body::Handle(Bytes::from_static(b"/")),
        30,
    );
    terminate.envelope.session_id = session.id;
    assert_eq!(code(&ask(node.address, &terminate)), 404);
    terminate.envelope.session_id = 0;
    assert_eq!(code(&ask(node.address, &session.sign(terminate))), 1);
    let gone = session.sign(create("88.118.8/h-8", 31));
    assert_eq!(code(&ask(node.address, &gone)), 500);
}

#[test]
fn an_answer_that_comes_again_makes_no_second_change() {
    let node = Node::start();
    let asked = create("88.118.8/twice", 1);
    let challenge = ask(node.address, &asked);
    let answer = client::answer(&asked, &challenge, &user(300), &rsa(), 2);
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let (address, octets) = (node.address, octets(&answer));
            std::thread::spawn(move || {
                Message::decode(&Bytes::from(ask_octets(address, &octets))).expect("a message")
            })
        })
        .collect();
    for client in clients {
        assert_eq!(code(&client.join().expect("an answer")), 1);
    }
    let mut other = answer.clone();
    other.envelope.request_id = 3;
    assert_eq!(
        code(&ask(node.address, &other)),
        500,
        "the challenge is used up"
    );
}

#[test]
fn groups_end_even_when_they_are_cyclic_or_deep() {
    let name = |number: usize| format!("88.118.8/g{number}");
    // g0 → g1 → … → g20 → g0, and a member at each end of the permitted depth.
    let mut config = registry_config();
    config.permit.prefix_admins = false;
    let strict = Node::deciding(
        crate::node::config(&["127.0.0.1:0"]),
        config,
        desk::Config::default(),
    );
    for number in 0..=20 {
        let next = name((number + 1) % 21);
        let mut members = vec![(next.as_str(), 1)];
        match number {
            6 => members.push(("0.NA/88.118.8", 300)),
            15 => members.push(("0.NA/88.118.8", 301)),
            _ => {}
        }
        put(&strict, &name(number), &[group(1, &members)]);
    }
    put(
        &strict,
        "88.118.8/guarded",
        &[admin(100, AdminRights::ALL, "88.118.8/g0", 1)],
    );
    let start = Instant::now();
    let deep = ask_as(
        strict.address,
        &delete("88.118.8/guarded", 1),
        &user(301),
        &secret(),
    );
    assert_eq!(code(&deep), 400, "too deep");
    let near = ask_as(
        strict.address,
        &delete("88.118.8/guarded", 2),
        &user(300),
        &rsa(),
    );
    assert_eq!(code(&near), 1);
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// Method: the processor time of a refusal, which other work on the machine does not change, against that of a proof that
/// is made and wrong.
#[test]
fn proofs_that_cost_too_much_are_refused_unmade() {
    let node = Node::start();
    let asked = create("88.118.8/dear", 1);
    let derived = |iterations, salt, key_bits| Proof::Derived {
        salt: Bytes::from(vec![1; salt]),
        iterations,
        key_bits,
        mac: Bytes::from(vec![0; 20]),
    };
    let least = |proof: &Proof| {
        let time = |_| refusal(&node, "0.NA/88.118.8", 301, Proof::SECRET_KEY, proof);
        (0..15).map(time).min().expect("some")
    };
    let made = least(&derived(10_000, 16, 160));
    for (iterations, salt, bits) in [
        (u32::MAX, 16, 160),
        (20_001, 16, 160),
        (0, 16, 160),
        (10_000, 65, 160),
        (10_000, 100_000, 160),
        (10_000, 16, u32::MAX),
        (10_000, 16, 0),
    ] {
        let challenge = ask(node.address, &asked);
        let mut answer = client::answer(&asked, &challenge, &user(301), &secret(), 2);
        let proof = derived(iterations, salt, bits);
        let mut octets = Vec::new();
        proof.encode(&mut octets);
        answer.body = Body::Answer(ChallengeAnswer {
            auth_type: Bytes::from_static(b"HS_SECKEY"),
            user: user(301),
            answer: octets.into(),
        });
        assert_eq!(code(&ask(node.address, &answer)), 403);
        let time = least(&proof);
        println!("{iterations} {salt} {bits}: {time:?} of {made:?}");
        assert!(time < made / 2, "{iterations} {salt} {bits}");
    }
}

#[test]
fn who_opens_too_many_sessions_loses_only_the_unproved_ones() {
    let mut registry = registry_config();
    registry.limits.sessions = 12;
    registry.limits.sessions_per_source = 10;
    let node = Node::deciding(config(&["127.0.0.1:0"]), registry, desk::Config::default());
    let mut mine = proved_session(&node, "88.118.8/f-1");
    let mut opened = Vec::new();
    for number in 0..40_u8 {
        opened.push(open_session(node.address, &[number + 1; 40], None));
    }
    assert!(node.desk.registry().table.sessions() <= 10);
    let asked = mine.sign(create("88.118.8/f-2", 50));
    assert_eq!(
        code(&ask(node.address, &asked)),
        1,
        "the proved session is still there"
    );
    let mut first = opened.remove(0);
    assert_eq!(
        code(&ask(node.address, &first.sign(create("88.118.8/f-3", 51)))),
        500
    );
}

#[test]
fn a_full_desk_says_so_at_once_and_lookups_go_on() {
    let staff = desk::Config {
        threads: 1,
        queue: 2,
        ..desk::Config::default()
    };
    let node = Node::deciding(config(&["127.0.0.1:0"]), registry_config(), staff);
    let clients: Vec<_> = (0..24)
        .map(|number| {
            let address = node.address;
            std::thread::spawn(move || {
                let mut asked = create("88.118.8/busy", number);
                asked.header.flags = CERTIFIED;
                code(&ask(address, &asked))
            })
        })
        .collect();
    let codes: BTreeSet<u32> = clients
        .into_iter()
        .map(|client| client.join().expect("a code"))
        .collect();
    assert!(codes.contains(&402) && codes.contains(&3), "{codes:?}");
    assert!(node.desk.turned_away() > 0);
    let lookup = ask_octets(node.address, &crate::datagrams::request("res_all_tcp"));
    assert!(lookup.len() > 300);
}

#[test]
fn wrong_answers_are_slowed_and_nobody_is_locked_out() {
    let node = Node::start();
    let try_at = |handle: &str, user: &Reference, key: &Key, id: u32| {
        let asked = create(handle, id);
        let challenge = ask(node.address, &asked);
        let answer = client::answer(&asked, &challenge, user, key, id + 1000);
        code(&ask(node.address, &answer))
    };
    let try_as = |user: &Reference, key: &Key, id: u32| try_at("88.118.8/slow", user, key, id);
    let wrong = Key::Secret(b"wrong".to_vec());
    let nobody = Reference {
        handle: Bytes::from_static(b"88.118.8/nobody"),
        index: 301,
    };
    assert_eq!(try_as(&user(301), &wrong, 0), 403);
    assert_eq!(try_as(&nobody, &wrong, 100), 400);
    // Ten at once, then one a second: two guessers go on for as long as the owner behind the same address tries.
    let (stop, heard) = (AtomicBool::new(false), AtomicU32::new(0));
    let end = Instant::now() + Duration::from_secs(30);
    std::thread::scope(|scope| {
        for guesser in 1..=2 {
            let (stop, heard, try_at, wrong) = (&stop, &heard, &try_at, &wrong);
            scope.spawn(move || {
                for id in 0.. {
                    if stop.load(Relaxed) || Instant::now() > end {
                        return;
                    }
                    let id = guesser * 10_000 + id;
                    let said = try_at("88.118.8/guess", &user(301), wrong, id);
                    heard.fetch_add(u32::from(said == 403), Relaxed);
                }
            });
        }
        while heard.load(Relaxed) < 10 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(
            try_as(&user(300), &rsa(), 300),
            1,
            "somebody else is not slowed"
        );
        let (before, began) = (heard.load(Relaxed), Instant::now());
        let asked = delete("88.118.8/slow", 301);
        let owner = code(&ask_as(node.address, &asked, &user(301), &secret()));
        assert_eq!(owner, 1, "the owner has a turn like everybody");
        std::thread::sleep(Duration::from_secs(2));
        let (guesses, passed) = (heard.load(Relaxed) - before, began.elapsed());
        stop.store(true, Relaxed);
        assert!(passed < Duration::from_secs(10), "{passed:?}");
        let most = passed.as_secs_f64() + 3.0;
        assert!(
            f64::from(guesses) <= most,
            "{guesses} guesses in {passed:?}"
        );
    });
}

#[test]
fn rights_are_asked_for_one_by_one() {
    let of = |rights| admin(100, rights, "0.NA/88.118.8", 303);
    let dsa = Key::of(&private_key("admin_dsa_priv.bin_hex"));
    // 303 is an administrator of the prefix through its group, so a record of another one is used.
    let mut strict = registry_config();
    strict.permit.prefix_admins = false;
    strict.permit.server_admins.clear();
    let node = Node::deciding(config(&["127.0.0.1:0"]), strict, desk::Config::default());
    let as_strict = |message: &Message| code(&ask_as(node.address, message, &user(303), &dsa));
    let handle = "88.118.8/rights";
    let add = |index, kind, id| {
        request(
            OpCode::ADD_VALUE,
            PLAIN,
            body(handle, vec![value(index, kind, 0x0E, b"x")]),
            id,
        )
    };
    let modify = |index, kind, id| {
        request(
            OpCode::MODIFY_VALUE,
            PLAIN,
            body(handle, vec![value(index, kind, 0x0E, b"y")]),
            id,
        )
    };
    let remove = |index, id| {
        let handle = Bytes::copy_from_slice(handle.as_bytes());
        request(
            OpCode::REMOVE_VALUE,
            PLAIN,
            Body::Remove(RemoveValues {
                handle,
                indexes: vec![index],
            }),
            id,
        )
    };
    let with = |rights: AdminRights| {
        put(
            &node,
            handle,
            &[
                value(1, b"URL", 0x0E, b"u"),
                value(2, b"URL", 0x0A, b"fixed"),
                of(rights),
            ],
        );
    };
    with(AdminRights::ADD_VALUE);
    assert_eq!(as_strict(&add(5, b"URL", 1)), 1);
    assert_eq!(as_strict(&add(6, b"HS_ADMIN", 2)), 401);
    assert_eq!(as_strict(&add(6, b"hs_admin", 3)), 401);
    assert_eq!(as_strict(&modify(1, b"URL", 4)), 401);
    assert_eq!(as_strict(&remove(1, 5)), 401);
    assert_eq!(
        as_strict(&remove(77, 6)),
        401,
        "a stranger to removal does not learn what is missing"
    );
    assert_eq!(as_strict(&delete(handle, 7)), 401);
    with(AdminRights::MODIFY_VALUE);
    assert_eq!(as_strict(&modify(1, b"URL", 8)), 1);
    assert_eq!(
        as_strict(&modify(2, b"URL", 9)),
        401,
        "a value that may not be written"
    );
    assert_eq!(
        as_strict(&modify(1, b"HS_ADMIN", 10)),
        401,
        "no administrator comes in by modifying"
    );
    assert_eq!(
        as_strict(&modify(100, b"URL", 11)),
        401,
        "and none is made away with"
    );
    with(AdminRights::REMOVE_VALUE);
    assert_eq!(as_strict(&remove(1, 12)), 1);
    assert_eq!(as_strict(&remove(100, 13)), 401);
    with(AdminRights::DELETE_HANDLE);
    let mut overwrite = create(handle, 14);
    overwrite.header.flags = PLAIN.with(OpFlags::OVRW);
    assert_eq!(
        as_strict(&overwrite),
        1,
        "who may delete and create may overwrite"
    );
    put(
        &node,
        handle,
        &[admin(100, AdminRights::ALL, "0.NA/88.118.8", 299)],
    );
    overwrite.envelope.request_id = 15;
    assert_eq!(
        as_strict(&overwrite),
        401,
        "who may create may not overwrite what is not theirs"
    );
    put(
        &node,
        handle,
        &[admin(100, AdminRights::ALL, "0.NA/88.118.8", 299)],
    );
    assert_eq!(as_strict(&delete(handle, 16)), 400);
    put(
        &node,
        handle,
        &[admin(100, AdminRights::ALL, "0.NA/88.118.8", 0)],
    );
    assert_eq!(
        as_strict(&delete(handle, 17)),
        1,
        "index 0 is every key of the handle"
    );
    let home = request(
        OpCode::HOME_NA,
        PLAIN,
        Body::Handle(Bytes::from_static(b"0.NA/88.118.12")),
        18,
    );
    assert_eq!(
        as_strict(&home),
        400,
        "only server administrators home prefixes"
    );
}

#[test]
fn minting_homing_and_keys_of_index_zero() {
    let node = Node::start();
    let mut mint = create("88.118.8/lot-", 1);
    mint.header.flags = PLAIN.with(OpFlags::MINT);
    let minted = ask_as(node.address, &mint, &user(0), &rsa());
    let Body::Created(name) = &minted.body else {
        panic!("{minted:?}");
    };
    assert!(
        name.starts_with(b"88.118.8/lot-") && name.len() == 13 + 36,
        "{name:?}"
    );
    let bare = |op, id| {
        request(
            op,
            PLAIN,
            Body::Handle(Bytes::from_static(b"88.118.12")),
            id,
        )
    };
    let in_new = create("88.118.12/x", 3);
    assert_eq!(code(&ask(node.address, &in_new)), 301);
    assert_eq!(
        code(&ask_as(
            node.address,
            &bare(OpCode::HOME_NA, 2),
            &user(300),
            &rsa()
        )),
        1
    );
    assert_eq!(code(&ask(node.address, &in_new)), 402);
    assert_eq!(
        code(&ask_as(
            node.address,
            &bare(OpCode::UNHOME_NA, 4),
            &user(300),
            &rsa()
        )),
        1
    );
    assert_eq!(code(&ask(node.address, &in_new)), 301);
}

#[test]
fn administration_over_udp_is_refused_with_its_own_id() {
    let node = Node::start();
    let socket = node.client();
    socket
        .send(&octets(&create("88.118.8/udp", 77)))
        .expect("sent");
    let answer = crate::node::receive(&socket).concat();
    let answer = Message::decode(&Bytes::from(answer)).expect("a message");
    assert_eq!((code(&answer), answer.envelope.request_id), (4, 77));
}

#[test]
fn somebody_elses_proof_does_not_take_a_session_over() {
    let node = Node::start();
    let mut session = open_session(node.address, &[3; 40], Some(&user(301)));
    let asked = session.sign(create("88.118.8/t-1", 1));
    let challenge = session.open(&ask_octets(node.address, &octets(&asked)));
    let mut answer = client::answer(&asked, &challenge, &user(300), &rsa(), 2);
    answer.envelope.session_id = session.id;
    let done = session.open(&ask_octets(node.address, &octets(&answer)));
    assert_eq!(code(&done), 1, "the proof counts for the request");
    let next = session.sign(create("88.118.8/t-2", 3));
    assert_eq!(
        code(&session.open(&ask_octets(node.address, &octets(&next)))),
        402,
        "and for nothing more"
    );
}

#[test]
fn secrets_are_nowhere_in_clear() {
    const SECRET: &[u8] = b"a-secret-that-nobody-else-has-4711";
    let mut node = Node::start();
    let mut asked = create("88.118.8/keys", 1);
    if let Body::Values(values) = &mut asked.body {
        values.values.push(value(301, b"HS_SECKEY", 0x0E, SECRET));
        values.values.push(value(302, b"hs_seckey", 0x0C, SECRET));
    }
    assert_eq!(code(&ask_as(node.address, &asked, &user(300), &rsa())), 1);
    // Changing another value leaves the sealed ones alone.
    let add = body("88.118.8/keys", vec![value(5, b"URL", 0x0E, b"u")]);
    let add = request(OpCode::ADD_VALUE, PLAIN, add, 2);
    assert_eq!(code(&ask_as(node.address, &add, &user(300), &rsa())), 1);

    let resolution = |flags, id| {
        let body = jiexi_proto::message::resolution::Resolution {
            handle: Bytes::from_static(b"88.118.8/keys"),
            indexes: vec![301, 302],
            types: Vec::new(),
            trailer: None,
        };
        request(OpCode::RESOLUTION, flags, Body::Resolution(body), id)
    };
    assert_eq!(
        code(&ask(node.address, &resolution(PLAIN, 3))),
        200,
        "public questions see none"
    );
    let read = ask_as(
        node.address,
        &resolution(PLAIN.without(OpFlags::PUBL), 4),
        &user(300),
        &rsa(),
    );
    let Body::Resolved(found) = &read.body else {
        panic!("{read:?}");
    };
    assert_eq!(found.values.len(), 2);
    assert!(
        found.values.iter().all(|value| value.data == SECRET),
        "an administrator reads it"
    );

    // It proves who it belongs to.
    let holder = Reference {
        handle: Bytes::from_static(b"88.118.8/keys"),
        index: 301,
    };
    put(
        &node,
        "88.118.8/held",
        &[admin(100, AdminRights::ALL, "88.118.8/keys", 301)],
    );
    let removed = ask_as(
        node.address,
        &delete("88.118.8/held", 5),
        &holder,
        &Key::Secret(SECRET.to_vec()),
    );
    assert_eq!(code(&removed), 1);

    let metrics = node.metrics.render();
    assert!(!metrics.contains("a-secret"));
    assert!(metrics.contains(r#"jiexi_authentications_total"#) || !metrics.is_empty());
    node.store.snapshot().expect("a snapshot");
    let audit = node.desk.registry().audit().expect("an audit trail");
    assert!(audit.flush(Duration::from_secs(5)));
    assert_eq!(node.stop(), 0);
    node.store.shutdown().expect("closed");
    let (mut files, mut waiting) = (0, vec![node.directory.path().to_path_buf()]);
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(
                std::fs::read_dir(&path)
                    .expect("read")
                    .map(|entry| entry.expect("an entry").path()),
            );
            continue;
        }
        files += 1;
        let octets = std::fs::read(&path).expect("read");
        let found = octets.windows(SECRET.len()).any(|window| window == SECRET);
        assert!(!found, "{} holds the secret", path.display());
    }
    assert!(files > 4, "{files} files looked through");
}

#[test]
fn the_audit_trail_says_who_did_what() {
    let node = Node::start();
    let asked = create("88.118.8/audited", 1);
    assert_eq!(code(&ask_as(node.address, &asked, &user(300), &rsa())), 1);
    let wrong = Key::Secret(b"wrong".to_vec());
    assert_eq!(
        code(&ask_as(
            node.address,
            &delete("88.118.8/audited", 2),
            &user(301),
            &wrong
        )),
        403
    );
    let trail = node.desk.registry().audit().expect("an audit trail");
    assert!(trail.flush(Duration::from_secs(5)));
    let directory = node.directory.path().join("audit");
    let report = audit::verify(&directory, &crate::node::server_key(), &[]).expect("read");
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let mut told = Vec::new();
    audit::read(&directory, &audit::Filter::default(), |entry| {
        let handle = entry.handle.clone();
        told.push((
            entry.identity.clone(),
            entry.operation.clone(),
            handle,
            entry.code,
            entry.source.clone(),
        ));
    })
    .expect("read");
    let by = |identity: &str, operation: &str, handle: &str, code| {
        (
            identity.to_owned(),
            operation.to_owned(),
            handle.to_owned(),
            code,
            "127.0.0.1".to_owned(),
        )
    };
    assert_eq!(
        told,
        [
            by("300:0.NA/88.118.8", "create", "88.118.8/audited", 1),
            by("301:0.NA/88.118.8", "delete", "88.118.8/AUDITED", 403),
        ]
    );
}

#[test]
fn many_clients_create_without_an_error() {
    let node = Node::start();
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let (address, mut session) = (
                node.address,
                proved_session(&node, &format!("88.118.8/c{client}")),
            );
            std::thread::spawn(move || {
                for number in 0..100 {
                    let asked = session.sign(create(
                        &format!("88.118.8/c{client}-{number}"),
                        1000 + number,
                    ));
                    assert_eq!(code(&ask(address, &asked)), 1);
                }
            })
        })
        .collect();
    clients
        .into_iter()
        .for_each(|client| client.join().expect("no error"));
    let found = node
        .store
        .scan(
            Space::Handle,
            std::ops::Bound::Unbounded,
            b"88.118.8/C",
            10_000,
        )
        .expect("read");
    assert_eq!(found.len(), 808);
}

#[test]
fn many_clients_change_one_handle_without_an_error() {
    const CLIENTS: u32 = 12;
    const EACH: u32 = 20;
    let node = Node::start();
    let sessions: Vec<Session> = (0..CLIENTS)
        .map(|client| proved_session(&node, &format!("88.118.8/o{client}")))
        .collect();
    let clients: Vec<_> = (0..)
        .zip(sessions)
        .map(|(client, mut session)| {
            let address = node.address;
            std::thread::spawn(move || {
                for number in 0..EACH {
                    let index = 1000 + client * EACH + number;
                    let added = body("88.118.8/o0", vec![value(index, b"URL", 0x0E, b"u")]);
                    let asked = request(OpCode::ADD_VALUE, PLAIN, added, 1000 + number);
                    assert_eq!(code(&ask(address, &session.sign(asked))), 1);
                }
            })
        })
        .collect();
    clients
        .into_iter()
        .for_each(|client| client.join().expect("no error"));
    let record = node.store.get(Space::Handle, b"88.118.8/O0").expect("read");
    let values = record.expect("is there").entries().count();
    assert_eq!(values, 2 + (CLIENTS * EACH) as usize, "no change was lost");
}

/// Goal: other ways to agree on a key are refused as the reference server refuses them: 501 for those
/// that it has no cipher for, 504 for those that are none, 500 for a key that nobody waits for.
/// Goal: a set-up with a key that cannot be used, or with the key of somebody who has none, opens no session.
#[test]
fn unusable_session_keys_open_no_session() {
    use jiexi_proto::message::session::{Exchange, KeyExchangeMode, SessionSetup};
    let node = Node::start();
    let sm2 = keys()["admin_sm2_pub.spki.der_hex"]
        .as_str()
        .map(|text| hex::decode(text).expect("hex"));
    let mut sm2_data = Vec::new();
    PublicKey::Sm2 {
        flags: 0,
        key: Bytes::from(sm2.expect("a key")),
    }
    .encode(&mut sm2_data);
    put(
        &node,
        "88.118.8/sm2",
        &[value(300, b"HS_PUBKEY", 0x0E, &sm2_data)],
    );
    let setup = |exchange, id| {
        let body = SessionSetup {
            timeout_s: 60,
            identity: user(301),
            exchange,
            padded: true,
        };
        let asked = request(OpCode::SESSION_SETUP, PLAIN, Body::SessionSetup(body), id);
        code(&ask(node.address, &asked))
    };
    let at = |handle: &'static str, index| {
        Exchange::HandleKey(Reference {
            handle: Bytes::from_static(handle.as_bytes()),
            index,
        })
    };
    let key = Bytes::from_static(b"key");
    assert_eq!(setup(Exchange::ClientKey(key.clone()), 1), 502);
    assert_eq!(
        setup(at("0.NA/88.118.8", 303), 2),
        503,
        "DSA does not encrypt"
    );
    assert_eq!(
        setup(at("0.NA/88.118.8", 301), 3),
        502,
        "a secret key is no public one"
    );
    assert_eq!(setup(at("88.118.8/nobody", 300), 4), 502);
    assert_eq!(setup(at("88.118.8/sm2", 300), 5), 501, "SM2 is not spoken");
    assert_eq!(
        setup(Exchange::Other(KeyExchangeMode(9), Bytes::new()), 6),
        504
    );
    assert_eq!(setup(Exchange::DiffieHellman(key), 7), 502);
    let key = Body::ExchangeKey(Bytes::from_static(&[7; 256]));
    let mut exchange = request(OpCode::SESSION_EXCHANGEKEY, PLAIN, key, 8);
    assert_eq!(code(&ask(node.address, &exchange)), 500);
    assert_eq!(setup(Exchange::ServerKey, 9), 1);
    exchange.envelope.session_id = 1;
    assert_eq!(
        code(&ask(node.address, &exchange)),
        500,
        "nor for the asking"
    );
    assert_eq!(node.desk.registry().table.sessions(), 0);
}

/// Goal: requests that wait for proof within sessions are bounded as all others are: whoever opens
/// sessions and sends the largest requests there does not fill the memory.
#[test]
fn large_requests_in_sessions_are_bounded() {
    let mut registry = registry_config();
    registry.limits.challenge_bytes = 3 << 20;
    registry.limits.challenge_bytes_per_source = 2 << 20;
    let node = Node::deciding(config(&["127.0.0.1:0"]), registry, desk::Config::default());
    for number in 0..6 {
        let mut session = open_session(node.address, &[number + 1; 40], None);
        for id in 0..8 {
            let large = vec![value(1, b"URL", 0x0E, &[b'x'; 200_000])];
            let large = body(&format!("88.118.8/large-{number}"), large);
            let asked = session.sign(request(OpCode::CREATE_HANDLE, PLAIN, large, id));
            assert_eq!(code(&ask(node.address, &asked)), 402);
            assert!(node.desk.registry().table.challenge_bytes() <= 2 << 20);
        }
    }
}

/// Goal: a server that asks for somebody whose answer is right hears so, also while others ask with wrong ones.
#[test]
fn a_verification_waits_for_its_turn() {
    let node = Node::start();
    let (nonce, digest) = ([1; 16], [2; 32]);
    let ask_with = |key: &Key, id| {
        let mut answer = Vec::new();
        key.prove(&newest(key), &nonce, &digest).encode(&mut answer);
        let verify = VerifyChallenge {
            user: user(301),
            nonce: Bytes::copy_from_slice(&nonce),
            digest: Bytes::copy_from_slice(&digest),
            hash: None,
            answer: answer.into(),
        };
        let asked = request(OpCode::VERIFY_CHALLENGE, PLAIN, Body::Verify(verify), id);
        let said = ask(node.address, &asked);
        (code(&said), said.body)
    };
    let says = Body::Verified;
    let wrong = Key::Secret(b"wrong".to_vec());
    for id in 0..12 {
        assert_eq!(ask_with(&wrong, id), (1, says(0)));
    }
    assert_eq!(ask_with(&secret(), 100), (1, says(1)));
}

/// Goal: nobody is locked out by datagrams that anybody may have sent in their name.
#[test]
fn forged_verifications_lock_nobody_out() {
    let node = Node::start();
    let verify = VerifyChallenge {
        user: user(301),
        nonce: Bytes::from_static(&[1; 16]),
        digest: Bytes::from_static(&[2; 32]),
        hash: None,
        answer: Bytes::from_static(&[2; 21]),
    };
    let mut codes = BTreeSet::new();
    for id in 0..150 {
        let asked = request(
            OpCode::VERIFY_CHALLENGE,
            PLAIN,
            Body::Verify(verify.clone()),
            id,
        );
        let answer = node.ask(&octets(&asked)).concat();
        codes.insert(code(
            &Message::decode(&Bytes::from(answer)).expect("a message"),
        ));
    }
    assert_eq!(codes, BTreeSet::from([1, 3]), "they are held themselves");
    let asked = create("88.118.8/mine", 500);
    assert_eq!(
        code(&ask_as(node.address, &asked, &user(301), &secret())),
        1
    );
}
