//! Goal: the node answers the id-pointer SDK as it was recorded with that client, and a login is
//! good for its own connection and nothing else. Method: the recorded requests are sent as they
//! were, a connection for each recorded one, with a proof over our nonce put in; what differs from
//! run to run is checked, taken over from the recording, and the answer compared to the octet.

use std::net::TcpStream;

use bytes::Bytes;
use jiexi::registry::sm2;
use jiexi::server::handle::desk;
use jiexi::store::Space;
use jiexi_proto::code::{OpFlags, ResponseCode};
use jiexi_proto::message::Body;
use jiexi_proto::message::challenge::{ChallengeAnswer, Proof};
use jiexi_proto::message::credential::CredentialField;
use jiexi_proto::message::login::Login;
use jiexi_proto::message::session::{Exchange, SessionSetup};
use jiexi_proto::message::values::HandleValues;
use jiexi_proto::value::Reference;
use jiexi_proto::{Envelope, Message, OpCode, Version};
use sha2::Digest as _;

use crate::administration::decrypted;
use crate::client::{Key, Session, newest, octets, read_one, request};
use crate::node::{Node, PATIENCE, config, keys, private_key, registry_config, vectors};

/// In the order in which they were recorded: the second login finds the user of the first.
const SCENARIOS: [&str; 9] = [
    "sdk_resolve",
    "sdk_resolve_token",
    "sdk_anonymous",
    "sdk_login_rsa",
    "sdk_login_sm2",
    "sdk_login_sm2_binary",
    "sdk_login_wrong_key",
    "sdk_login_unknown_user",
    "sdk_encrypted",
];

/// The first second of the recordings: what is stamped later was stamped by a node.
const RECORDED: u32 = 1_795_000_000;

/// A connection of a client that keeps it.
struct Line(TcpStream);

impl Line {
    fn ask(&mut self, request: &Message) -> Message {
        let answer = self.exchange(&octets(request));
        Message::decode(&answer).expect("a message")
    }

    fn exchange(&mut self, request: &[u8]) -> Bytes {
        use std::io::Write as _;
        self.0.write_all(request).expect("written");
        read_one(&mut self.0).expect("an answer").into()
    }
}

fn sm2_key(user: &Bytes) -> Key {
    let der = hex::decode(
        keys()["admin_sm2_priv.pkcs8.der_hex"]
            .as_str()
            .expect("a key"),
    );
    let key = sm2::PrivateKey::parse(&der.expect("hex")).expect("an SM2 key");
    Key::Sm2(key, user.clone())
}

fn rsa_key() -> Key {
    Key::of(&private_key("admin_rsa_priv.bin_hex"))
}

/// The proof of `key` for `user`, about the challenge that `asked` was answered with.
fn proof(key: &Key, user: &Reference, like: &Proof, challenge: &Message) -> ChallengeAnswer {
    let Body::Challenge(body) = &challenge.body else {
        panic!("no challenge: {challenge:?}");
    };
    let digest = &challenge.digest.as_ref().expect("a digest").octets;
    let mut answer = Vec::new();
    key.prove(like, &body.nonce, digest).encode(&mut answer);
    ChallengeAnswer {
        auth_type: Bytes::from_static(Proof::PUBLIC_KEY),
        user: user.clone(),
        answer: answer.into(),
    }
}

/// The recorded messages of an exchange: each request with its answer.
fn turns(exchange: &serde_json::Value) -> Vec<(Message, Message)> {
    let field = |field: &serde_json::Value| {
        Bytes::from(hex::decode(field.as_str().expect("octets")).expect("hex"))
    };
    let decode = |message: &serde_json::Value| {
        let octets = field(&message["hex"]);
        let decoded = match message.get("decrypted_hex") {
            None => Message::decode(&octets),
            Some(content) => Envelope::decode(&octets)
                .and_then(|envelope| Message::decode_content(envelope, &field(content))),
        };
        decoded.expect("a message")
    };
    let messages = exchange["messages"].as_array().expect("messages");
    let turn = |pair: &[serde_json::Value]| {
        assert_eq!(
            (&pair[0]["dir"], &pair[1]["dir"]),
            (&"c2s".into(), &"s2c".into())
        );
        (decode(&pair[0]), decode(&pair[1]))
    };
    messages.chunks(2).map(turn).collect()
}

/// Replays one connection; returns how many answers were compared.
fn replay(node: &Node, name: &str, exchange: &serde_json::Value) -> usize {
    let mut line = Line(node.connect());
    let mut challenge = None;
    let mut session = None;
    let turns = turns(exchange);
    for (number, (recorded, theirs)) in turns.iter().enumerate() {
        let mut asked = recorded.clone();
        if let (Body::Answer(answer), Some(challenge)) = (&recorded.body, &challenge) {
            let key = match (name, &answer.user.handle) {
                // The key that the recording was made with is not the user's and not kept.
                ("sdk_login_wrong_key", _) => Key::of(&private_key("server_priv.bin_hex")),
                (_, user) if user.starts_with(b"88.118.8/") => sm2_key(user),
                _ => rsa_key(),
            };
            let like = Proof::decode(&answer.auth_type, &answer.answer).expect("a proof");
            asked.body = Body::Answer(proof(&key, &answer.user, &like, challenge));
        }
        let answer = match &session {
            Some(session) if asked.envelope.is_encrypted() => encrypted(&mut line, &asked, session),
            _ => line.ask(&asked),
        };
        match &answer.body {
            Body::Challenge(_) => challenge = Some(answer.clone()),
            Body::SessionReady(ready) => {
                session = Some(Session {
                    id: answer.envelope.session_id,
                    key: decrypted(ready.mode, &ready.data),
                    counter: 0,
                });
            }
            _ => {}
        }
        let answer = octets(&assumed(answer, theirs, &asked));
        assert_eq!(
            hex::encode(answer),
            hex::encode(octets(theirs)),
            "{name} #{number}"
        );
    }
    turns.len()
}

/// Asks and is answered in what only the two of them can read.
fn encrypted(line: &mut Line, asked: &Message, session: &Session) -> Message {
    let answer = line.exchange(&session.encrypt(asked));
    let envelope = Envelope::decode(&answer).expect("an envelope");
    assert!(envelope.is_encrypted(), "answered in clear");
    session.open(&answer)
}

/// Our answer with the recorded one's fields that differ from run to run.
fn assumed(mut ours: Message, theirs: &Message, asked: &Message) -> Message {
    assert!(ours.header.expiration > RECORDED.cast_signed());
    ours.header.expiration = theirs.header.expiration;
    if let (Some(digest), Some(recorded)) = (&mut ours.digest, &theirs.digest) {
        let mut signed = Vec::new();
        asked.encode_signed(&mut signed);
        assert_eq!(digest.octets, sha2::Sha256::digest(signed)[..]);
        digest.octets = recorded.octets.clone();
    }
    match (&mut ours.body, &theirs.body) {
        (Body::Challenge(ours), Body::Challenge(theirs)) => {
            assert_ne!(ours.nonce, theirs.nonce);
            ours.nonce = theirs.nonce.clone();
        }
        (Body::SessionReady(ours), Body::SessionReady(theirs)) => {
            assert_ne!(ours.data, theirs.data);
            ours.data = theirs.data.clone();
        }
        (Body::Resolved(ours), Body::Resolved(theirs)) => {
            for (ours, theirs) in ours.values.iter_mut().zip(&theirs.values) {
                if theirs.timestamp > RECORDED {
                    assert!(ours.timestamp > RECORDED);
                    ours.timestamp = theirs.timestamp;
                }
            }
        }
        _ => {}
    }
    ours
}

#[test]
fn recorded_scenarios() {
    let node = Node::start();
    let mut compared = 0;
    for name in SCENARIOS {
        let text =
            std::fs::read_to_string(vectors().join(format!("{name}.json"))).expect("a vector");
        let vector: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        for exchange in vector["exchanges"].as_array().expect("exchanges") {
            compared += replay(&node, name, exchange);
        }
    }
    assert_eq!(compared, 52, "every recorded answer");
}

/// A request as the SDK makes it: version 2.10, no serial, a session id of its own.
fn sdk(op: OpCode, body: Body, session_id: u32, id: u32) -> Message {
    let mut message = request(op, OpFlags::RESOLUTION, body, id);
    message.envelope.version = Version::V2_10;
    message.envelope.session_id = session_id;
    message.header.site_serial = 0xFFFF;
    message
}

fn user() -> Reference {
    Reference {
        handle: Bytes::from_static(b"0.NA/88.118.8"),
        index: 300,
    }
}

/// The challenge of a login.
fn challenged(line: &mut Line, session_id: u32) -> Message {
    let mut login = sdk(
        OpCode::LOGIN,
        Body::Login(Login { user: user() }),
        session_id,
        1,
    );
    login.header.flags = OpFlags::RECU.with(OpFlags::RRDG);
    login.credential = CredentialField::Missing;
    let challenge = line.ask(&login);
    assert_eq!(
        challenge.header.response_code,
        ResponseCode::AUTHENTICATION_NEEDED
    );
    assert_eq!(
        (challenge.header.op_code, challenge.envelope.session_id),
        (OpCode::LOGIN, session_id)
    );
    challenge
}

fn answered(challenge: &Message, user: &Reference, key: &Key) -> Message {
    let answer = proof(key, user, &newest(key), challenge);
    let session_id = challenge.envelope.session_id;
    sdk(
        OpCode::RESPONSE_TO_CHALLENGE,
        Body::Answer(answer),
        session_id,
        2,
    )
}

fn log_in(node: &Node, session_id: u32) -> Line {
    let mut line = Line(node.connect());
    let challenge = challenged(&mut line, session_id);
    let success = line.ask(&answered(&challenge, &user(), &rsa_key()));
    assert_eq!(success.header.response_code, ResponseCode::SUCCESS);
    assert_eq!(success.header.op_code, OpCode::LOGIN);
    line
}

fn create(handle: &'static [u8], session_id: u32, id: u32) -> Message {
    let body = HandleValues {
        handle: Bytes::from_static(handle),
        values: Vec::new(),
    };
    sdk(OpCode::CREATE_HANDLE, Body::Values(body), session_id, id)
}

fn delete(handle: &'static [u8], session_id: u32, id: u32) -> Message {
    let handle = Bytes::from_static(handle);
    sdk(OpCode::DELETE_HANDLE, Body::Handle(handle), session_id, id)
}

fn code(answer: &Message) -> ResponseCode {
    answer.header.response_code
}

#[test]
fn a_login_is_good_for_its_connection_and_session_id_only() {
    let node = Node::start();
    let mut mine = log_in(&node, 10_001);
    let mut other = Line(node.connect());
    let answer = other.ask(&create(b"88.118.8/login-1", 10_001, 7));
    assert_eq!(code(&answer), ResponseCode::SESSION_TIMEOUT);
    let answer = mine.ask(&create(b"88.118.8/login-1", 10_002, 7));
    assert_eq!(code(&answer), ResponseCode::SESSION_TIMEOUT);
    let answer = mine.ask(&create(b"88.118.8/login-1", 10_001, 7));
    assert_eq!(code(&answer), ResponseCode::SUCCESS);
    // A new connection knows nobody, whatever the last one was.
    drop(mine);
    let mut again = Line(node.connect());
    let answer = again.ask(&delete(b"88.118.8/login-1", 10_001, 8));
    assert_eq!(code(&answer), ResponseCode::SESSION_TIMEOUT);
}

/// Session and request ids begin anew with every client: the same ids and the same body are not
/// the same request, as they are in sessions of the node's own.
#[test]
fn the_same_ids_on_two_connections_are_two_requests() {
    let node = Node::start();
    for _ in 0..2 {
        let mut line = log_in(&node, 10_001);
        assert_eq!(
            code(&line.ask(&create(b"88.118.8/login-2", 10_001, 7))),
            ResponseCode::SUCCESS
        );
        assert_eq!(
            code(&line.ask(&delete(b"88.118.8/login-2", 10_001, 8))),
            ResponseCode::SUCCESS
        );
    }
    let mut line = log_in(&node, 10_001);
    assert_eq!(
        code(&line.ask(&create(b"88.118.8/login-2", 10_001, 7))),
        ResponseCode::SUCCESS
    );
    let again = line.ask(&create(b"88.118.8/login-2", 10_001, 7));
    assert_eq!(code(&again), ResponseCode::HANDLE_ALREADY_EXISTS);
}

#[test]
fn a_challenge_is_answered_once_and_by_who_asked() {
    let node = Node::start();
    let mut line = Line(node.connect());
    let challenge = challenged(&mut line, 5);
    let somebody = Reference {
        index: 303,
        ..user()
    };
    let refused = line.ask(&answered(&challenge, &somebody, &rsa_key()));
    assert_eq!(code(&refused), ResponseCode::AUTHENTICATION_FAILED);
    let refused = line.ask(&answered(&challenge, &user(), &rsa_key()));
    assert_eq!(code(&refused), ResponseCode::SESSION_TIMEOUT);
    // Nor does the challenge of one connection count on another.
    let challenge = challenged(&mut line, 5);
    let mut other = Line(node.connect());
    let refused = other.ask(&answered(&challenge, &user(), &rsa_key()));
    assert_eq!(code(&refused), ResponseCode::SESSION_TIMEOUT);
    let accepted = line.ask(&answered(&challenge, &user(), &rsa_key()));
    assert_eq!(code(&accepted), ResponseCode::SUCCESS);
}

#[test]
fn a_login_needs_a_connection_and_a_session_id() {
    let node = Node::start();
    let login = |session_id| {
        sdk(
            OpCode::LOGIN,
            Body::Login(Login { user: user() }),
            session_id,
            1,
        )
    };
    let refused = Line(node.connect()).ask(&login(0));
    assert_eq!(code(&refused), ResponseCode::OPERATION_NOT_SUPPORTED);
    let datagram = node.ask(&octets(&login(5))).concat();
    let refused = Message::decode(&Bytes::from(datagram)).expect("a message");
    assert_eq!(code(&refused), ResponseCode::OPERATION_NOT_SUPPORTED);
}

/// The SDK reads a challenge as success: who has not logged in is refused, unless configured.
#[test]
fn a_change_without_login_is_refused_to_the_sdk_and_challenged_to_others() {
    let node = Node::start();
    let mut line = Line(node.connect());
    let refused = line.ask(&create(b"88.118.8/login-3", 0, 7));
    assert_eq!(code(&refused), ResponseCode::INSUFFICIENT_PERMISSIONS);
    let mut cnri = create(b"88.118.8/login-3", 0, 7);
    cnri.header.site_serial = 1;
    assert_eq!(code(&line.ask(&cnri)), ResponseCode::AUTHENTICATION_NEEDED);

    let staff = desk::Config {
        challenge_sdk: true,
        ..desk::Config::default()
    };
    let node = Node::deciding(config(&["127.0.0.1:0"]), registry_config(), staff);
    let asked = Line(node.connect()).ask(&create(b"88.118.8/login-3", 0, 7));
    assert_eq!(code(&asked), ResponseCode::AUTHENTICATION_NEEDED);
}

/// The SDK logs in once for a connection: when the time of the login is over, so is the connection,
/// behind an answer, and the SDK's pool opens another.
#[test]
fn a_login_ends_with_its_connection_behind_an_answer() {
    let mut registry = registry_config();
    registry.limits.session_time = std::time::Duration::from_millis(300);
    let node = Node::deciding(config(&["127.0.0.1:0"]), registry, desk::Config::default());
    let mut line = log_in(&node, 10_001);
    std::thread::sleep(std::time::Duration::from_millis(400));
    let answer = line.ask(&create(b"88.118.8/login-4", 10_001, 7));
    assert_eq!(code(&answer), ResponseCode::SUCCESS);
    assert!(read_one(&mut line.0).is_err(), "closed");
}

/// Eight connections that are logged in, each with one request after the other.
#[test]
fn a_thousand_creates_from_eight_threads() {
    let node = Node::start();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let node = &node;
            scope.spawn(move || {
                let mut line = log_in(node, 10_001);
                for number in 0..125 {
                    let mut asked = create(b"", 10_001, number + 7);
                    asked.body = Body::Values(HandleValues {
                        handle: format!("88.118.8/many-{thread}-{number}").into(),
                        values: Vec::new(),
                    });
                    assert_eq!(code(&line.ask(&asked)), ResponseCode::SUCCESS);
                }
            });
        }
    });
    let mut created = 0;
    for thread in 0..8 {
        for number in 0..125 {
            let key = format!("88.118.8/MANY-{thread}-{number}");
            let found = node
                .store
                .get(Space::Handle, key.as_bytes())
                .expect("readable");
            created += usize::from(found.is_some());
        }
    }
    assert_eq!(created, 1_000);
}

/// The SDK opens a connection for a resolution, uses it once and forgets it. Those stay cheap and
/// in nobody's way, and give way themselves when there is no more room.
#[test]
fn thousands_of_abandoned_connections() {
    const ROOM: usize = 3_000;
    let mut settings = config(&["127.0.0.1:0"]);
    settings.connections = ROOM;
    let node = Node::with(settings);
    let resolve = |id| {
        let mut body = Vec::new();
        for block in [&b"88.118.8/test1"[..], b"", b"", b""] {
            body.extend(u32::try_from(block.len()).expect("short").to_be_bytes());
            body.extend(block);
        }
        let asked = sdk(OpCode::RESOLUTION, Body::Opaque(body.into()), 0, id);
        Message::decode(&Bytes::from(octets(&asked))).expect("a resolution")
    };
    let mut abandoned = Vec::new();
    for number in 0..4_000 {
        let mut line = Line(node.connect());
        assert_eq!(
            code(&line.ask(&resolve(number))),
            ResponseCode::SUCCESS,
            "{number}"
        );
        abandoned.push(line);
    }
    assert_eq!(
        code(&Line(node.connect()).ask(&resolve(1))),
        ResponseCode::SUCCESS
    );
    let closed = || {
        let closed = abandoned.iter().filter(|line| {
            line.0.set_nonblocking(true).expect("settable");
            matches!(line.0.peek(&mut [0]), Ok(0))
        });
        closed.count()
    };
    let begun = std::time::Instant::now();
    while closed() < 4_001 - ROOM && begun.elapsed() < PATIENCE {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(closed(), 4_001 - ROOM, "the longest idle ones gave way");
}

/// A key of a connection is good for it and for the session id that it was set up under. What cannot be decrypted is refused
/// and ends nothing.
#[test]
fn a_key_is_good_for_its_connection_and_session_id_only() {
    let node = Node::start();
    let setup = |id| {
        let body = SessionSetup {
            timeout_s: 86_400,
            identity: Reference {
                handle: Bytes::new(),
                index: u32::MAX,
            },
            exchange: Exchange::HandleKey(user()),
            padded: true,
        };
        sdk(OpCode::SESSION_SETUP, Body::SessionSetup(body), id, 1)
    };
    let mut mine = Line(node.connect());
    let ready = mine.ask(&setup(10_001));
    assert_eq!(code(&ready), ResponseCode::SUCCESS);
    assert_eq!(ready.envelope.session_id, 10_001);
    let Body::SessionReady(body) = &ready.body else {
        panic!("no key: {ready:?}");
    };
    let session = |id| Session {
        id,
        key: decrypted(body.mode, &body.data),
        counter: 0,
    };
    let site = |id| sdk(OpCode::GET_SITE_INFO, Body::Handle("/".into()), id, 2);
    let answer = encrypted(&mut mine, &site(10_001), &session(10_001));
    assert_eq!(code(&answer), ResponseCode::SUCCESS);

    let refused = |line: &mut Line, session: &Session| {
        let answer = line.exchange(&session.encrypt(&site(session.id)));
        code(&Message::decode(&answer).expect("in clear"))
    };
    let mut other = Line(node.connect());
    for line in [&mut mine, &mut other] {
        let answer = refused(line, &session(10_002));
        assert_eq!(answer, ResponseCode::SESSION_TIMEOUT);
    }
    assert_eq!(
        refused(&mut other, &session(10_001)),
        ResponseCode::SESSION_TIMEOUT
    );
    let wrong = Session {
        key: vec![7; 16],
        ..session(10_001)
    };
    assert_eq!(refused(&mut mine, &wrong), ResponseCode::INVALID_CREDENTIAL);
    // It proves nobody: a change takes a login.
    let create = create(b"88.118.8/keyed", 10_001, 3);
    let answer = encrypted(&mut mine, &create, &session(10_001));
    assert_eq!(code(&answer), ResponseCode::INSUFFICIENT_PERMISSIONS);
    // Other ways of exchanging a key have sessions of the node's own, which no client names beforehand.
    let mut named = setup(10_003);
    if let Body::SessionSetup(body) = &mut named.body {
        body.exchange = Exchange::ServerKey;
    }
    assert_eq!(code(&mine.ask(&named)), ResponseCode::SESSION_TIMEOUT);
}
