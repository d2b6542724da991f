//! Goal: what partners have as files is registered as they mean it: the answers of a batch, handles that come twice, values
//! that make no sense. Method: jobs by curl and by the command, and the records that come of them.

use std::fs;
use std::io::Write as _;

use serde_json::Value as Json;

use crate::batch::{post as batch, token};
use crate::jobs::{ask, done, hand_over, is_over, line, many, names, until};
use crate::node::Node;

const NDJSON: &str = "application/x-ndjson";
const PLAIN: (&str, &str) = ("JIEXI_HTTP_PLAIN_LOOPBACK", "true");
/// Records of all kinds that may be read by everybody.
const RECORDS: &str = r#"{"handle":"88.118.20/r1","values":[{"index":1,"type":"URL","data":"https://example.cn/?a=1,2"},{"index":2,"type":"BIN","data":{"format":"hex","value":"00ff"},"ttl":60},{"index":3,"type":"T","data":"two\nlines \"quoted\"","permissions":"1111"}]}
{"handle":"88.118.20/标识","values":[{"index":1,"type":"NAME","data":"离心泵","ttl":"2030-01-31T00:00:00Z"}]}
{"handle":"88.118.20/R3","values":[{"index":1,"type":"T","data":"  spaces  "}]}
"#;
const ASKED: &str = "88.118.20/r1\n88.118.20/none\n\n88.118.20/标识\n10.1/x\n88.118.20/r3\n";

/// The values of a record but for their timestamps.
fn values(node: &Node, handle: &str) -> Json {
    let mut json = node.get(&format!("/api/handles/{handle}")).json();
    for value in json["values"].as_array_mut().into_iter().flatten() {
        value.as_object_mut().unwrap().remove("timestamp");
    }
    json["values"].take()
}

/// Goal: what a batch answers is registered as it stands, on the same node and on one that has nothing of it; lines without a
/// record fail alone, and the summary is no line.
#[test]
fn the_answers_of_a_batch() {
    let (node, other) = (Node::with(&[PLAIN]), Node::with(&[PLAIN]));
    node.import(RECORDS);
    let rights = ["--right", "write,batch"];
    let [(_, here), (_, there)] = [&node, &other].map(|node| token(node, &rights));
    for (accept, kind) in [("*/*", NDJSON), ("text/csv", "text/csv")] {
        let header = format!("Accept: {accept}");
        let answers = batch(&node, &here, "?raw=true", ASKED.as_bytes(), &[&header]);
        assert_eq!(answers.status, 200, "{answers:?}");
        assert!(answers.body.contains("complete"), "{answers:?}");
        let body = answers.body.as_bytes();
        let (_, again) = done(&node, &here, "", kind, body);
        let became: Vec<&str> = again.iter().map(|(_, _, became)| &**became).collect();
        assert_eq!(
            became,
            ["same", "invalid", "same", "invalid", "same"],
            "{kind}"
        );
        let expected = match kind {
            NDJSON => ["created", "invalid", "created", "invalid", "created"],
            _ => ["same", "invalid", "same", "invalid", "same"],
        };
        let (_, fresh) = done(&other, &there, "", kind, body);
        let became: Vec<&str> = fresh.iter().map(|(_, _, became)| &**became).collect();
        assert_eq!(became, expected, "{kind}");
        assert_eq!(fresh[1].1, "88.118.20/none");
        for handle in [
            "88.118.20/r1",
            "88.118.20/%E6%A0%87%E8%AF%86",
            "88.118.20/R3",
        ] {
            assert_eq!(values(&node, handle), values(&other, handle), "{handle}");
        }
        // An answer that is not whole is told, with what there is of it.
        let cut = answers
            .body
            .replace("\"complete\":true", "\"complete\":false");
        let cut = cut.replace("\"\"complete\"\":true", "\"\"complete\"\":false");
        let (ended, _) = done(&node, &here, "", kind, cut.as_bytes());
        assert_eq!(ended["counts"]["invalid"], 3, "{ended}");
        let path = format!("/api/v1/jobs/{}/results", ended["id"].as_str().unwrap());
        let told = ask(&node, &here, &path, &[]).body;
        assert!(told.contains("100 (handle_not_found)"), "{told}");
        assert!(told.contains("the batch ended before its end"), "{told}");
    }
    command(&node, &here);
}

/// The same by the commands, from file to file.
fn command(node: &Node, token: &str) {
    let [secret, input, answers, results] =
        ["secret", "asked.txt", "answers.ndjson", "results"].map(|name| node.path(name));
    fs::write(&secret, token).unwrap();
    fs::write(&input, ASKED).unwrap();
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let server = format!("http://127.0.0.1:{}", node.http);
    let run = |more: &[&str]| {
        let secret = text(&secret);
        let fixed = ["--server", &*server, "--token-file", &*secret];
        node.run(&[more, &fixed[..]].concat())
    };
    let (good, said) = run(&["batch", "resolve", &text(&input), "--out", &text(&answers)]);
    assert!(good, "{said}");
    let import = [
        "bulk",
        "import",
        &text(&answers),
        "--results",
        &text(&results),
    ];
    let (good, said) = run(&import);
    assert!(
        !good && said.contains("2 rows are not registered"),
        "{said}"
    );
    let told = fs::read_to_string(&results).unwrap();
    assert_eq!(told.matches("\"result\":\"same\"").count(), 3, "{told}");
}

/// Goal: a time to live below zero is refused, in every form.
#[test]
fn a_ttl_below_zero() {
    let node = Node::new();
    let (_, token) = token(&node, &["--right", "write"]);
    let json = |name: &str, ttl: i32| {
        format!(
            "{{\"handle\":\"88.118.20/{name}\",\"values\":[{{\"index\":1,\"type\":\"T\",\"data\":\"x\",\"ttl\":{ttl}}}]}}\n"
        )
    };
    let rows = json("t1", 0) + &json("t2", -1) + &json("t3", i32::MIN);
    let (_, became) = done(&node, &token, "", NDJSON, rows.as_bytes());
    assert_eq!(
        names(&became),
        [(1, "created"), (2, "invalid"), (3, "invalid")]
    );
    let csv = "88.118.20/t1,1,T,0,,,x\n88.118.20/t4,1,T,60,,,x\n88.118.20/t4,2,T,-5,,,x\n";
    let (ended, became) = done(&node, &token, "", "text/csv", csv.as_bytes());
    assert_eq!(names(&became), [(1, "same"), (2, "invalid")]);
    let path = format!("/api/v1/jobs/{}/results", ended["id"].as_str().unwrap());
    let told = ask(&node, &token, &path, &[]).body;
    assert!(told.contains("the ttl of value 2 is below 0"), "{told}");
}

/// Goal: a dry run tells what the run itself would, also of handles that come twice; and both say where the other row is.
#[test]
fn handles_that_come_twice() {
    let node = Node::new();
    let (_, token) = token(&node, &["--right", "write"]);
    let told = |job: &Json| {
        let path = format!("/api/v1/jobs/{}/results", job["id"].as_str().unwrap());
        ask(&node, &token, &path, &[]).body
    };
    let rows = [
        line("88.118.20/d1", "x"),
        line("88.118.20/d2", "x"),
        line("10.1/x", "x"),
        line("88.118.20/d1", "x"),
        line("88.118.20/D1", "other"),
        line("88.118.20/pump", "x"),
        line("10.1/x", "x"),
        line("88.118.20/pump", "x"),
    ];
    let csv = "88.118.20/e1,1,T,,,,x\n88.118.20/e2,1,T,,,,x\n88.118.20/e1,2,T,,,,y\n";
    for (kind, body, expected, other, stored) in [
        (
            NDJSON,
            &*rows.concat(),
            &[
                "created", "created", "refused", "same", "conflict", "conflict", "refused",
                "conflict",
            ][..],
            5,
            2,
        ),
        ("text/csv", csv, &["created", "created", "conflict"], 3, 0),
    ] {
        for query in ["?dryRun=true", "?dryRun=true", ""] {
            let (ended, became) = done(&node, &token, query, kind, body.as_bytes());
            let became: Vec<&str> = became.iter().map(|(_, _, became)| &**became).collect();
            assert_eq!(became, expected, "{kind} {query}: {ended}");
            let told = told(&ended);
            let line = |number: u64| {
                let start = format!("{{\"line\":{number},");
                told.lines().find(|line| line.starts_with(&start)).unwrap()
            };
            assert!(line(other).contains("line 1 of this job"), "{told}");
            let exists = told.matches("the handle exists with other values").count();
            assert_eq!(exists, stored, "{told}");
        }
    }
}

/// Goal: a dry run that goes on, after a pause and a kill, knows the rows from before.
#[test]
fn a_dry_run_that_goes_on() {
    const ROWS: usize = 40_000;
    let mut node = Node::new();
    let (_, token) = token(&node, &["--right", "write"]);
    let body = [many(0, ROWS), many(0, ROWS)].concat();
    let path = hand_over(&node, &token, "?dryRun=true", NDJSON, &body);
    until(&node, &token, &path, |job| job["rows"].as_u64() > Some(0));
    let paused = ask(&node, &token, &format!("{path}/pause"), &["-X", "POST"]);
    assert_eq!(paused.status, 200, "in the middle: {paused:?}");
    node.kill();
    node.start();
    let resumed = ask(&node, &token, &format!("{path}/resume"), &["-X", "POST"]);
    assert_eq!(resumed.status, 200, "{resumed:?}");
    let ended = until(&node, &token, &path, is_over);
    let count = |name: &str| ended["counts"][name].as_u64();
    assert_eq!(
        (count("created"), count("same"), count("conflict")),
        (Some(ROWS as u64), Some(ROWS as u64), Some(0)),
        "{ended}"
    );
}

/// Goal: what is wrong with a compressed body is told apart, of jobs and of batches, in both languages.
#[test]
fn what_is_wrong_with_a_compressed_body() {
    let node = Node::new();
    let (_, token) = token(&node, &["--right", "write,batch"]);
    let text = "88.118.20/none,1,T,,,,some text\n".repeat(2_000);
    let zstd = |window: u32| {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window).unwrap();
        encoder.write_all(text.as_bytes()).unwrap();
        // Without this the window would be only as large as the text.
        encoder.flush().unwrap();
        encoder.finish().unwrap()
    };
    let good = zstd(23);
    let mut damaged = good.clone();
    damaged[8..].fill(0xA5);
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    for (coding, body, english, chinese) in [
        ("zstd", &good[..good.len() - 4], "it has no end", "缺少结尾"),
        ("zstd", &zstd(24), "window above 8 MiB", "窗口"),
        ("zstd", &damaged, "is damaged", "已损坏"),
        ("zstd", text.as_bytes(), "in another coding", "编码"),
        ("gzip", text.as_bytes(), "in another coding", "编码"),
        ("gzip", &gzip[..gzip.len() - 4], "cut or damaged", "不完整"),
        ("gzip", b"", "it has no end", "缺少结尾"),
    ] {
        let coding = format!("Content-Encoding: {coding}");
        for (language, word) in [("en", english), ("zh", chinese)] {
            let language = format!("Accept-Language: {language}");
            let more = ["-H", &*coding, "-H", &*language];
            let refused = crate::jobs::post(&node, &token, "", "text/csv", body, &more);
            let detail = refused.json()["detail"].as_str().unwrap().to_owned();
            assert_eq!(
                (refused.status, detail.contains(word)),
                (400, true),
                "{coding} {word}: {detail}"
            );
        }
        let answer = batch(&node, &token, "", body, &[&coding]).body;
        let summary = answer.lines().last().unwrap();
        assert!(
            summary.contains("\"complete\":false") && summary.contains(english),
            "{coding} {english}: {summary}"
        );
    }
    let taken = crate::jobs::post(
        &node,
        &token,
        "?dryRun=true",
        "text/csv",
        &good,
        &["-H", "Content-Encoding: zstd"],
    );
    assert_eq!(taken.status, 202, "{taken:?}");
}
