//! Goal: `jiexi batch` ends well whatever the server does, and gives its token to nobody else. Method: servers that no node
//! is: they listen and say what they like.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use bytes::Bytes;
use jiexi_proto::code::ResponseCode;
use jiexi_proto::framing::{Framed, StreamFramer};
use jiexi_proto::message::values::HandleValues;
use jiexi_proto::message::{Body, Message};

use crate::support::{Run, directory, run};

/// A server for one connection; its place.
fn server(serve: impl FnOnce(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let place = listener.local_addr().expect("bound").to_string();
    thread::spawn(move || {
        if let Ok((stream, _)) = listener.accept() {
            serve(stream);
        }
    });
    place
}

/// Does nothing, with its connection open.
fn idle() -> ! {
    loop {
        thread::park();
    }
}

/// Reads the head of a request.
fn head(stream: &TcpStream) {
    let mut lines = BufReader::new(stream).lines();
    while lines
        .next()
        .is_some_and(|line| line.is_ok_and(|line| !line.is_empty()))
    {}
}

fn batch(directory: &Path, server: &str, more: &[&str]) -> Run {
    fs::write(directory.join("in.txt"), "88.118.20/a\n88.118.20/b\n").expect("writes");
    fs::write(directory.join("token"), "jx_token").expect("writes");
    let fixed = ["batch", "resolve", "in.txt", "--token-file", "token"];
    run(
        directory,
        &[&fixed[..], &["--server", server], more].concat(),
    )
}

#[test]
fn a_token_does_not_travel_in_the_clear() {
    let directory = directory();
    for place in [
        "http://192.0.2.1:8000",
        "http://id.example.cn",
        "http://[2001:db8::1]",
        "http://localhost.example.cn",
    ] {
        let said = batch(directory.path(), place, &[]).expect(2).stderr;
        assert!(said.contains("https://"), "{place}: {said}");
    }
    // Nobody is there: it was tried.
    let nobody = batch(directory.path(), "http://localhost:1", &[]).expect(1);
    assert!(nobody.stderr.contains("the server:"), "{}", nobody.stderr);
}

#[test]
fn servers_that_do_nothing() {
    let directory = directory();
    let silent = server(move |_stream| idle());
    let beginning = server(move |mut stream| {
        head(&stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"line\":1,");
        idle();
    });
    let refusing = server(move |mut stream| {
        head(&stream);
        let _ = stream.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 99\r\n\r\n{");
        idle();
    });
    for place in [silent, beginning, refusing] {
        let url = format!("http://{place}");
        let said = batch(directory.path(), &url, &["--timeout", "1s"]).expect(1);
        assert!(
            said.stderr.contains("neither takes nor says anything"),
            "{}",
            said.stderr
        );
    }
    let handle = server(move |_stream| idle());
    let url = format!("handle://{handle}");
    let said = batch(directory.path(), &url, &["--timeout", "1s"]).expect(1);
    assert!(said.stderr.contains("the server:"), "{}", said.stderr);
}

#[test]
fn an_answer_without_an_end() {
    let directory = directory();
    let endless = server(|mut stream| {
        head(&stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"line\":1,\"x\":\"");
        // More than any line may have; the client goes before it is sent.
        let piece = vec![b'x'; 1 << 20];
        while stream.write_all(&piece).is_ok() {}
    });
    let out = directory.path().join("out");
    let said = batch(
        directory.path(),
        &format!("http://{endless}"),
        &["--out", out.to_str().expect("text")],
    )
    .expect(1);
    assert!(said.stderr.contains("longer than any"), "{}", said.stderr);
    assert!(!out.exists(), "no line of it was whole");
}

#[test]
fn a_redirect_gets_no_token() {
    let directory = directory();
    let (told, heard) = std::sync::mpsc::channel();
    let other = server(move |_| _ = told.send(()));
    let place = server(move |mut stream| {
        head(&stream);
        let answer = format!(
            "HTTP/1.1 307 Elsewhere\r\nlocation: http://{other}/api/v1/batch/resolve\r\ncontent-length: 0\r\n\r\n"
        );
        let _ = stream.write_all(answer.as_bytes());
    });
    let said = batch(directory.path(), &format!("http://{place}"), &[]).expect(1);
    assert!(
        said.stderr.contains("307") && said.stderr.contains("points to http://127.0.0.1"),
        "{}",
        said.stderr
    );
    assert!(heard.try_recv().is_err(), "nobody connected to the other");
}

/// Answers every request: success, and not one value.
fn empty_records(mut stream: TcpStream) {
    let (framer, mut heard) = (StreamFramer::default(), Vec::new());
    let mut piece = [0; 4_096];
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        heard.extend_from_slice(&piece[..count]);
        while let Ok(Framed::Frame { frame, rest }) = framer.next(&heard) {
            let mut message = Message::decode(&Bytes::copy_from_slice(frame)).expect("a request");
            let rest = rest.to_vec();
            message.header.response_code = ResponseCode::SUCCESS;
            message.body = Body::Resolved(HandleValues {
                handle: Bytes::from_static(b"88.118.20/a"),
                values: Vec::new(),
            });
            let mut answer = Vec::new();
            message.encode(&mut answer);
            stream.write_all(&answer).expect("the client reads");
            heard = rest;
        }
    }
}

#[test]
fn a_record_without_values_is_an_answer() {
    let directory = directory();
    let ask = |form: &str| {
        let place = format!("handle://{}", server(empty_records));
        batch(directory.path(), &place, &["-o", form])
            .expect(0)
            .stdout
    };
    for (line, text) in ask("ndjson").lines().enumerate() {
        let json: serde_json::Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(json["line"], line + 1);
        assert_eq!(
            (&json["responseCode"], &json["values"]),
            (&1.into(), &serde_json::json!([]))
        );
    }
    let csv = ask("csv");
    let rows: Vec<&str> = csv.lines().skip(1).collect();
    assert_eq!(
        rows,
        [
            "1,1,88.118.20/a,,,,,,success,no values",
            "2,1,88.118.20/b,,,,,,success,no values"
        ]
    );
}
