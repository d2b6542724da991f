//! Goal: the client is as stubborn as the reference and as careful. Method: servers on the loopback address that lose,
//! cut, forge and misdirect.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use jiexi_proto::{
    code::{OpFlags, ResponseCode},
    framing, limits,
    message::{
        Body, CredentialField, Digest, Envelope, Message, refusal::Referral, values::HandleValues,
    },
};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};

use super::{
    Administrator, Client, ClientError, Credentials, Key, Lead, Operation, Place, Protection,
    Question, Target, Transport, Transports,
};
use crate::identity;

fn client(transports: Transports) -> Client {
    let mut client = Client::new(transports, || 1_800_000_000);
    client.udp_waits = vec![Duration::from_millis(60); 3];
    client.tcp_answer = Duration::from_secs(5);
    client
}

fn question() -> Question {
    Question {
        handle: Bytes::from_static(b"88.118/x"),
        ..Question::default()
    }
}

/// An answer to `request` with this code and body, and the digest if `digest` says so.
fn answer(request: &[u8], code: ResponseCode, body: Body, digest: bool) -> Message {
    let view = Message::decode(&Bytes::copy_from_slice(request)).expect("a request");
    let mut header = view.header;
    header.response_code = code;
    let mut message = Message::new(view.envelope.reply(), header, body);
    message.credential = CredentialField::Empty;
    if digest {
        message.header.flags = message.header.flags.with(OpFlags::RRDG);
        let octets = Sha256::digest(&request[20..request.len() - 4]).to_vec();
        message.digest = Some(Digest {
            hash: jiexi_proto::code::HashId::SHA256,
            octets: octets.into(),
        });
    }
    message
}

/// A found record whose value has `size` octets.
fn found(size: usize) -> Body {
    let value = identity::value(1, b"URL", Bytes::from(vec![b'u'; size]), 0);
    Body::Resolved(HandleValues {
        handle: Bytes::from_static(b"88.118/x"),
        values: vec![value],
    })
}

/// A message as datagrams.
fn pieces(message: &Message) -> Vec<Vec<u8>> {
    let (mut content, mut out) = (Vec::new(), Vec::new());
    message.encode_content(&mut content);
    framing::split_datagrams(&message.envelope, &content, &mut out);
    out.chunks(limits::DATAGRAM_MAX)
        .map(<[u8]>::to_vec)
        .collect()
}

/// Both transports on one port: one that is free for UDP may be taken for TCP.
async fn both() -> (UdpSocket, TcpListener, SocketAddr) {
    for _ in 0..100 {
        let (socket, address) = udp().await;
        if let Ok(listener) = TcpListener::bind(address).await {
            return (socket, listener, address);
        }
    }
    panic!("no port is free for both");
}

async fn udp() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
    let address = socket.local_addr().expect("has an address");
    (socket, address)
}

async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 2048];
    let (length, peer) = socket.recv_from(&mut buffer).await.expect("receives");
    buffer.truncate(length);
    (buffer, peer)
}

/// A server that answers one question over TCP.
async fn tcp(listener: TcpListener, make: impl FnOnce(&[u8]) -> Message) {
    let (mut stream, _) = listener.accept().await.expect("accepts");
    let mut head = [0; 20];
    stream.read_exact(&mut head).await.expect("reads");
    let envelope = Envelope::decode(&head).expect("an envelope");
    let mut rest = vec![0; envelope.message_length as usize];
    stream.read_exact(&mut rest).await.expect("reads");
    let mut out = Vec::new();
    make(&[&head[..], &rest].concat()).encode(&mut out);
    // In two writes, so that the reader sees a half message.
    let (first, second) = out.split_at(30);
    stream.write_all(first).await.expect("writes");
    stream.flush().await.expect("flushes");
    stream.write_all(second).await.expect("writes");
}

#[tokio::test]
async fn a_lost_question_is_sent_again_under_the_same_id() {
    let (socket, address) = udp().await;
    let server = async {
        let (first, _) = receive(&socket).await;
        let (second, peer) = receive(&socket).await;
        assert_eq!(first, second);
        // Somebody else's answer, a request, noise: none of them counts.
        let mut forged = answer(
            &second,
            ResponseCode::HANDLE_NOT_FOUND,
            Body::Opaque(Bytes::new()),
            false,
        );
        forged.envelope.request_id ^= 1;
        for datagram in [&pieces(&forged)[0][..], b"noise", b""] {
            socket.send_to(datagram, peer).await.expect("sends");
        }
        // Two pieces, the second one first and twice.
        let pieces = pieces(&answer(&second, ResponseCode::SUCCESS, found(700), false));
        assert_eq!(pieces.len(), 2);
        for piece in [&pieces[1], &pieces[1], &pieces[0]] {
            socket.send_to(piece, peer).await.expect("sends");
        }
    };
    let (reply, ()) = tokio::join!(client_ask(Transports::Udp, address), server);
    let reply = reply.expect("is answered");
    assert_eq!(
        (reply.code, reply.values[0].data.len()),
        (ResponseCode::SUCCESS, 700)
    );
    assert_eq!((reply.server, reply.transport), (address, Transport::Udp));
}

async fn client_ask(
    transports: Transports,
    address: SocketAddr,
) -> Result<super::Reply, ClientError> {
    client(transports)
        .ask(&Place::at(address), &question())
        .await
}

#[tokio::test]
async fn a_silent_server_is_asked_three_times_and_then_over_tcp() {
    let (socket, listener, address) = both().await;
    let error = client_ask(Transports::Udp, address)
        .await
        .expect_err("times out");
    assert!(
        matches!(error, ClientError::TimedOut(_, Transport::Udp)),
        "{error}"
    );
    for _ in 0..3 {
        receive(&socket).await;
    }
    let server = tcp(listener, |request| {
        answer(request, ResponseCode::SUCCESS, found(100_000), false)
    });
    let (reply, ()) = tokio::join!(client_ask(Transports::Any, address), server);
    let reply = reply.expect("is answered");
    assert_eq!(
        (reply.transport, reply.values[0].data.len()),
        (Transport::Tcp, 100_000)
    );
}

#[tokio::test]
async fn a_digest_that_was_asked_for_must_be_right() {
    for (digest, forge, good) in [
        (true, false, true),
        (true, true, false),
        (false, false, false),
    ] {
        let (socket, address) = udp().await;
        let mut client = client(Transports::Udp);
        client.digest = true;
        let (place, question) = (Place::at(address), question());
        let server = async {
            let (request, peer) = receive(&socket).await;
            let mut message = answer(&request, ResponseCode::SUCCESS, found(10), digest);
            if !digest {
                message.header.flags = message.header.flags.without(OpFlags::RRDG);
            }
            if let Some(digest) = message.digest.as_mut().filter(|_| forge) {
                digest.octets = vec![0; 32].into();
            }
            socket
                .send_to(&pieces(&message)[0], peer)
                .await
                .expect("sends");
        };
        let (reply, ()) = tokio::join!(client.ask(&place, &question), server);
        assert_eq!(reply.is_ok(), good, "digest {digest}, forged {forge}");
    }
}

#[tokio::test]
async fn long_questions_go_in_pieces() {
    let (socket, address) = udp().await;
    let types = (0..100)
        .map(|number| Bytes::from(format!("TYPE{number}")))
        .collect();
    let long = Question {
        types,
        ..question()
    };
    let (client, place) = (client(Transports::Udp), Place::at(address));
    let server = async {
        let (first, _) = receive(&socket).await;
        let (second, _) = receive(&socket).await;
        assert_eq!(first.len(), limits::DATAGRAM_MAX);
        let envelopes =
            [&first, &second].map(|piece| Envelope::decode(piece).expect("an envelope"));
        assert_eq!(
            envelopes.map(|envelope| (envelope.sequence, envelope.flags.0)),
            [(0, 0x20), (1, 0x20)]
        );
    };
    let (reply, ()) = tokio::join!(client.ask(&place, &long), server);
    assert!(reply.is_err(), "nobody answers");
}

/// A referral to the site of a server at `port` of the loopback address.
fn referral(port: u16) -> Body {
    let site = identity::site_record(
        "127.0.0.1".parse().expect("address"),
        port,
        Bytes::new(),
        "",
    );
    let values = Some(identity::site_values(&[site], 0));
    Body::Referral(Referral {
        handle: Bytes::new(),
        values,
    })
}

#[tokio::test]
async fn referrals_are_followed_but_not_in_a_circle() {
    for (target, code) in [("other", Some(ResponseCode::SUCCESS)), ("self", None)] {
        let ((first, from), (second, to)) = (udp().await, udp().await);
        let server = tokio::spawn(async move {
            let port = if target == "other" {
                to.port()
            } else {
                from.port()
            };
            loop {
                let (request, peer) = receive(&first).await;
                let message = answer(
                    &request,
                    ResponseCode::PREFIX_REFERRAL,
                    referral(port),
                    false,
                );
                first
                    .send_to(&pieces(&message)[0], peer)
                    .await
                    .expect("sends");
            }
        });
        let answering = tokio::spawn(async move {
            let (request, peer) = receive(&second).await;
            let message = answer(&request, ResponseCode::SUCCESS, found(5), false);
            second
                .send_to(&pieces(&message)[0], peer)
                .await
                .expect("sends");
        });
        let resolved = client(Transports::Udp)
            .resolve(Place::at(from), question())
            .await;
        match (code, resolved) {
            (Some(code), Ok((reply, hops))) => {
                assert_eq!((reply.code, reply.server), (code, to));
                assert_eq!(
                    hops.iter().map(|hop| hop.server).collect::<Vec<_>>(),
                    [from, to]
                );
            }
            (None, Err(ClientError::Loop(address))) => assert_eq!(address, from),
            (_, resolved) => panic!("{target}: {resolved:?}"),
        }
        server.abort();
        answering.abort();
    }
}

/// A server that answers each handle in its own way until it is dropped.
fn oracle(
    socket: UdpSocket,
    answers: impl Fn(&[u8]) -> (ResponseCode, Body) + Send + 'static,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let (request, peer) = receive(&socket).await;
            // Envelope and header, then the handle with its length.
            let length = u32::from_be_bytes(request[44..48].try_into().expect("four octets"));
            let (code, body) = answers(&request[48..48 + length as usize]);
            let message = answer(&request, code, body, false);
            let piece = &pieces(&message)[0];
            socket.send_to(piece, peer).await.expect("sends");
        }
    })
}

/// The record of a prefix, or what a referral names, with the site at `port` of the loopback address.
fn home(handle: &'static [u8], port: u16) -> Body {
    let address = "127.0.0.1".parse().expect("an address");
    let site = identity::site_record(address, port, Bytes::new(), "");
    Body::Resolved(HandleValues {
        handle: Bytes::from_static(handle),
        values: identity::site_values(&[site], 0),
    })
}

/// A client that has patience, and what it remembers of a prefix once it asked at `from`.
async fn learns(from: SocketAddr, prefix: &[u8]) -> (Vec<Bytes>, bool) {
    let mut client = client(Transports::Udp);
    client.udp_waits = vec![Duration::from_secs(20)];
    let mut hops = Vec::new();
    let place = Place::at(from);
    let _ = client.resolve_along(place, question(), &mut hops).await;
    let asked = hops.into_iter().map(|hop| hop.handle).collect();
    (asked, client.sites.find(prefix, 0).is_some())
}

#[tokio::test]
async fn nobody_says_where_the_prefix_of_another_is_at_home() {
    let not_mine = || {
        let nothing = Body::Opaque(Bytes::new());
        (ResponseCode::SERVER_NOT_RESPONSIBLE, nothing)
    };
    let ((second, to), (third, lent)) = (udp().await, udp().await);
    let mut answering = vec![oracle(second, |_| (ResponseCode::SUCCESS, found(5)))];

    // Who is asked about a prefix is believed about it.
    let (first, from) = udp().await;
    answering.push(oracle(first, move |handle| match handle {
        b"0.NA/88.118" => (ResponseCode::SUCCESS, home(b"0.NA/88.118", to.port())),
        _ => not_mine(),
    }));
    let (asked, learnt) = learns(from, b"0.NA/88.118").await;
    assert!(learnt, "{asked:?}");

    // It tells of another one.
    let (first, from) = udp().await;
    answering.push(oracle(first, move |handle| match handle {
        b"0.NA/88.999" => (ResponseCode::SUCCESS, home(b"0.NA/88.999", to.port())),
        b"88.999/service" => not_mine(),
        _ => {
            let named = Referral {
                handle: Bytes::from_static(b"88.999/service"),
                values: None,
            };
            (ResponseCode::PREFIX_REFERRAL, Body::Referral(named))
        }
    }));
    let (asked, learnt) = learns(from, b"0.NA/88.999").await;
    assert!(asked.contains(&Bytes::from_static(b"0.NA/88.999")));
    assert!(!learnt, "{asked:?}");

    // It was lent one handle, and tells of the whole prefix.
    let (first, from) = udp().await;
    answering.push(oracle(first, move |_| {
        (ResponseCode::SERVICE_REFERRAL, referral(lent.port()))
    }));
    answering.push(oracle(third, move |handle| match handle {
        b"0.NA/88.118" => (ResponseCode::SUCCESS, home(b"0.NA/88.118", to.port())),
        _ => not_mine(),
    }));
    let (asked, learnt) = learns(from, b"0.NA/88.118").await;
    assert!(asked.contains(&Bytes::from_static(b"0.NA/88.118")));
    assert!(!learnt, "{asked:?}");
    for task in answering {
        task.abort();
    }
}

/// One request of a scripted server: what came, and how it is answered; `None` closes the connection without a word.
async fn scripted(listener: &TcpListener, reply: impl FnOnce(&[u8]) -> Option<Message>) -> Vec<u8> {
    let (mut stream, _) = listener.accept().await.expect("accepts");
    let mut request = vec![0; 20];
    stream.read_exact(&mut request).await.expect("reads");
    let envelope = Envelope::decode(&request).expect("an envelope");
    let mut rest = vec![0; envelope.message_length as usize];
    stream.read_exact(&mut rest).await.expect("reads");
    request.extend(rest);
    if let Some(message) = reply(&request) {
        let mut out = Vec::new();
        message.encode(&mut out);
        stream.write_all(&out).await.expect("writes");
    }
    request
}

/// A challenge about `request`, or about another one.
fn challenge(request: &[u8], about_us: bool) -> Message {
    let body = Body::Challenge(jiexi_proto::message::challenge::Challenge {
        nonce: Bytes::from_static(b"0123456789abcdef"),
        old_digest: None,
    });
    let mut message = answer(request, ResponseCode::AUTHENTICATION_NEEDED, body, true);
    message.envelope.session_id = 77;
    if let Some(digest) = message.digest.as_mut().filter(|_| !about_us) {
        digest.octets = vec![0; 32].into();
    }
    message
}

fn administrator(address: SocketAddr) -> Administrator {
    administrator_of(Target {
        place: Place::at(address),
        key: None,
    })
}

fn administrator_of(target: Target) -> Administrator {
    let credentials = Credentials {
        user: jiexi_proto::value::Reference {
            handle: Bytes::from_static(b"0.NA/88.118"),
            index: 301,
        },
        key: Key::Secret(b"secret".to_vec().into()),
    };
    let client = client(Transports::Tcp);
    Administrator::new(client, target, Some(credentials), Protection::Proofs)
}

fn deletion() -> Operation {
    Operation::from(&crate::registry::plan::Request::Delete {
        handle: Bytes::from_static(b"88.118/x"),
    })
}

/// Goal: what is asked again is the same request, so that a server can see that it is.
#[tokio::test]
async fn a_proof_whose_answer_is_lost_is_sent_again_as_it_is() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    let server = async {
        let question = scripted(&listener, |_| None).await;
        let again = scripted(&listener, |request| Some(challenge(request, true))).await;
        assert_eq!(question, again, "the question");
        let proof = scripted(&listener, |_| None).await;
        let done =
            |request: &[u8]| Some(answer(request, ResponseCode::SUCCESS, Body::Empty, false));
        let again = scripted(&listener, done).await;
        assert_eq!(proof, again, "the proof");
        assert_eq!(
            Envelope::decode(&proof).expect("an envelope").session_id,
            77
        );
        // A busy server has forgotten the challenge: everything again, under the same ids.
        let busy = |request: &[u8]| {
            let body = Body::Opaque(Bytes::from_static(&[0; 4]));
            Some(answer(request, ResponseCode::SERVER_TOO_BUSY, body, false))
        };
        let first = scripted(&listener, |request| Some(challenge(request, true))).await;
        let refused = scripted(&listener, busy).await;
        let second = scripted(&listener, |request| Some(challenge(request, true))).await;
        let accepted = scripted(&listener, done).await;
        let id = |octets: &[u8]| Envelope::decode(octets).expect("an envelope").request_id;
        assert_eq!((id(&first), id(&refused)), (id(&second), id(&accepted)));
    };
    let mut administrator = administrator(address);
    let operation = deletion();
    let asking = async {
        for _ in 0..2 {
            let answer = administrator.perform(&operation).await.expect("answered");
            assert_eq!(answer.code, ResponseCode::SUCCESS);
        }
    };
    tokio::join!(asking, server);
}

/// Goal: somebody in between gets no proof for a request of his own.
#[tokio::test]
async fn a_challenge_about_another_request_is_not_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    let server = scripted(&listener, |request| Some(challenge(request, false)));
    let (mut administrator, operation) = (administrator(address), deletion());
    let (answer, _) = tokio::join!(administrator.perform(&operation), server);
    assert!(
        matches!(answer, Err(ClientError::NotOurs(..))),
        "{answer:?}"
    );
}

/// Goal: an unsigned answer does not lead a client away from the server that was named to it with its key.
#[tokio::test]
async fn a_server_named_with_its_key_is_not_left_for_another() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("an address");
    for (key, asked) in [(Some(Bytes::from_static(b"a key")), 1), (None, 3)] {
        let mut administrator = administrator_of(Target {
            place: Place::at(address),
            key,
        });
        let server = async {
            for _ in 0..asked {
                let body = Body::Opaque(Bytes::from_static(&[0; 4]));
                let refuse = |request: &[u8]| {
                    Some(answer(
                        request,
                        ResponseCode::SERVER_NOT_RESPONSIBLE,
                        body,
                        false,
                    ))
                };
                scripted(&listener, refuse).await;
            }
        };
        let operation = deletion();
        let (answer, ()) = tokio::join!(administrator.perform(&operation), server);
        let answer = answer.expect("an answer");
        assert_eq!(answer.code, ResponseCode::SERVER_NOT_RESPONSIBLE);
    }
}

/// Goal: the second resolution of a prefix begins at its home, and one that is gone is looked for again.
#[tokio::test]
async fn the_home_of_a_prefix_is_remembered_until_it_moves() {
    let ((first, from), (second, to)) = (udp().await, udp().await);
    let registrar = tokio::spawn(async move {
        loop {
            let (request, peer) = receive(&first).await;
            let asked = Message::decode(&Bytes::copy_from_slice(&request)).expect("a request");
            let prefix =
                matches!(&asked.body, Body::Resolution(body) if body.handle.starts_with(b"0.NA/"));
            let message = match prefix {
                true => {
                    let Body::Referral(sites) = referral(to.port()) else {
                        return;
                    };
                    let body = Body::Resolved(HandleValues {
                        handle: Bytes::from_static(b"0.NA/88.118"),
                        values: sites.values.unwrap_or_default(),
                    });
                    answer(&request, ResponseCode::SUCCESS, body, false)
                }
                false => {
                    let body = Body::Opaque(Bytes::from_static(&[0; 4]));
                    answer(&request, ResponseCode::SERVER_NOT_RESPONSIBLE, body, false)
                }
            };
            for piece in pieces(&message) {
                first.send_to(&piece, peer).await.expect("sends");
            }
        }
    });
    let home = tokio::spawn(async move {
        for served in 0.. {
            let (request, peer) = receive(&second).await;
            let message = match served {
                // It says no once, as a home that has moved, and is the home again.
                2 => {
                    let body = Body::Opaque(Bytes::from_static(&[0; 4]));
                    answer(&request, ResponseCode::SERVER_NOT_RESPONSIBLE, body, false)
                }
                _ => answer(&request, ResponseCode::SUCCESS, found(5), false),
            };
            second
                .send_to(&pieces(&message)[0], peer)
                .await
                .expect("sends");
        }
    });
    let client = client(Transports::Udp);
    let mut ways = Vec::new();
    for _ in 0..2 {
        let (reply, hops) = client
            .resolve(Place::at(from), question())
            .await
            .expect("resolves");
        assert_eq!((reply.code, reply.server), (ResponseCode::SUCCESS, to));
        ways.push(hops.len());
    }
    assert_eq!(ways, [3, 1], "the second time it is asked at once");
    // The remembered home no longer answers for it; the copy of a client has the same memory.
    let (reply, hops) = client
        .clone()
        .resolve(Place::at(from), question())
        .await
        .expect("resolves");
    assert_eq!(reply.code, ResponseCode::SUCCESS);
    assert!(matches!(hops[0].lead, Lead::Remembered(_)), "{hops:?}");
    assert!(hops.len() > 2, "{hops:?}");
    registrar.abort();
    home.abort();
}
