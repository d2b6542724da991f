//! Goal: many registrations handed over at once are carried out, each once, whatever their owner, strangers and accidents
//! do meanwhile. Method: curl; bare sockets for clients that vanish; kill -9 and the journal read byte by byte.

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use jiexi::store::{Config, Space, Store};
use serde_json::Value as Json;

use crate::batch::{revoke, token, within_five_seconds};
use crate::node::{Node, PATIENCE, Reply};

pub(crate) const PATH: &str = "/api/v1/jobs";
const PLAIN: (&str, &str) = ("JIEXI_HTTP_PLAIN_LOOPBACK", "true");
const NDJSON: &str = "application/x-ndjson";

pub(crate) fn ask(node: &Node, token: &str, path: &str, more: &[&str]) -> Reply {
    let header = format!("Authorization: Bearer {token}");
    node.ask("https", path, &[&["-H", &header][..], more].concat())
}

/// Hands a body over.
pub(crate) fn post(
    node: &Node,
    token: &str,
    query: &str,
    kind: &str,
    body: &[u8],
    more: &[&str],
) -> Reply {
    let file = node.path("job");
    fs::write(&file, body).unwrap();
    let (data, kind) = (
        format!("@{}", file.display()),
        format!("Content-Type: {kind}"),
    );
    let fixed = ["--data-binary", &data, "-H", &kind];
    ask(
        node,
        token,
        &format!("{PATH}{query}"),
        &[&fixed[..], more].concat(),
    )
}

/// Hands a body over; the path of its job.
pub(crate) fn hand_over(node: &Node, token: &str, query: &str, kind: &str, body: &[u8]) -> String {
    let reply = post(node, token, query, kind, body, &[]);
    assert_eq!(reply.status, 202, "{reply:?}");
    let path = reply.header("location").unwrap().to_owned();
    assert_eq!(
        path,
        format!("{PATH}/{}", reply.json()["id"].as_str().unwrap())
    );
    path
}

pub(crate) fn job(node: &Node, token: &str, path: &str) -> Json {
    ask(node, token, path, &[]).json()
}

/// Waits until something is so of a job.
pub(crate) fn until(node: &Node, token: &str, path: &str, is_so: impl Fn(&Json) -> bool) -> Json {
    let begun = Instant::now();
    loop {
        let found = job(node, token, path);
        if is_so(&found) {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{found}");
        thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn is_over(job: &Json) -> bool {
    matches!(job["state"].as_str(), Some("done" | "failed" | "cancelled"))
}

/// Line, handle and result of each row.
fn results(node: &Node, token: &str, path: &str) -> Vec<(u64, String, String)> {
    let reply = ask(node, token, &format!("{path}/results"), &[]);
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, Some(NDJSON)),
        "{reply:?}"
    );
    let row = |line: &str| {
        let json: Json = serde_json::from_str(line).unwrap();
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        (
            json["line"].as_u64().unwrap(),
            text("handle"),
            text("result"),
        )
    };
    reply.body.lines().map(row).collect()
}

/// Hands over and waits; the job and what became of its rows.
pub(crate) fn done(
    node: &Node,
    token: &str,
    query: &str,
    kind: &str,
    body: &[u8],
) -> (Json, Vec<(u64, String, String)>) {
    let path = hand_over(node, token, query, kind, body);
    let ended = until(node, token, &path, is_over);
    let rows = results(node, token, &path);
    assert_eq!(ended["rows"].as_u64(), Some(rows.len() as u64), "{ended}");
    (ended, rows)
}

pub(crate) fn names(rows: &[(u64, String, String)]) -> Vec<(u64, &str)> {
    rows.iter()
        .map(|(line, _, became)| (*line, became.as_str()))
        .collect()
}

pub(crate) fn line(handle: &str, data: &str) -> String {
    format!(
        "{{\"handle\":\"{handle}\",\"values\":[{{\"index\":1,\"type\":\"URL\",\"data\":\"{data}\"}}]}}\n"
    )
}

/// So many registrations.
pub(crate) fn many(from: usize, count: usize) -> Vec<u8> {
    let one = |number| {
        line(
            &format!("88.118.20/K{number:07}"),
            "https://example.cn/kill",
        )
    };
    (from..from + count)
        .map(one)
        .collect::<String>()
        .into_bytes()
}

fn writer(node: &Node) -> String {
    token(node, &["--right", "write"]).1
}

fn found(node: &Node, handle: &str) -> Reply {
    node.get(&format!("/api/handles/{handle}"))
}

#[test]
fn both_forms_and_what_becomes_of_rows() {
    let node = Node::new();
    let token = writer(&node);
    let rows = [
        line("88.118.20/n1", "x"),
        "\n".to_owned(),
        r#"{"handle":"88.118.20/n2","values":[{"index":2,"type":"BIN","data":{"format":"base64","value":"AP8="},"ttl":60,"permissions":"1110"},{"index":1,"type":"URL","data":"y"}]}"#.to_owned() + "\n",
        "nonsense\n".to_owned(),
        line("88.118.20/pump", "x"),
        line("10.1/x", "x"),
        line("88.118.20/n1", "x"),
        line("88.118.20/n1", "other"),
        "{\"prefix\":\"88.118.22\"}\n".to_owned(),
        "{\"handle\":\"88.118.20/n3\",\"values\":[]}\n".to_owned(),
        line("88.118.20/\u{6807}\u{8bc6}", "\u{5de5}"),
    ];
    let (ended, became) = done(
        &node,
        &token,
        "?kind=bulk",
        NDJSON,
        rows.concat().as_bytes(),
    );
    assert_eq!(
        names(&became),
        [
            (1, "created"),
            (3, "created"),
            (4, "invalid"),
            (5, "conflict"),
            (6, "refused"),
            (7, "same"),
            (8, "conflict"),
            (9, "invalid"),
            (10, "invalid"),
            (11, "created"),
        ]
    );
    assert_eq!(
        (
            &ended["state"],
            &ended["counts"]["created"],
            &ended["counts"]["conflict"]
        ),
        (&"done".into(), &3.into(), &2.into())
    );
    assert_eq!(became[9].1, "88.118.20/\u{6807}\u{8bc6}");
    let values = found(&node, "88.118.20/n2").json()["values"].clone();
    assert_eq!(
        (
            &values[0]["data"]["value"],
            &values[1]["data"]["value"],
            &values[1]["ttl"]
        ),
        (&"y".into(), &"AP8=".into(), &60.into())
    );
    let csv = "handle,index,type,ttl,permissions,encoding,value\r\n\
        88.118.20/n2,1,URL,,,,y\r\n88.118.20/n2,2,BIN,60,1110,hex,00ff\r\n\
        88.118.20/c1,1,URL,,,,\"a,\r\nb\"\r\n88.118.20/c1,2,HS_VLIST,,,vlist,\"[{\"\"handle\"\":\"\"a/b\"\",\"\"index\"\":1}]\"\r\n\
        88.118.20/c2,0,URL,,,,x\r\n88.118.20/c3,1,URL,,,,x\r\n88.118.20/c3,1,URL,,,,y\r\n";
    let (_, became) = done(&node, &token, "", "text/csv", csv.as_bytes());
    // Who administers is another right, and lists of values are of that kind.
    assert_eq!(
        names(&became),
        [(2, "same"), (4, "refused"), (7, "invalid"), (8, "invalid")]
    );
    let master = crate::batch::token(&node, &["--right", "write,admin"]).1;
    let (_, became) = done(&node, &master, "", "text/csv", csv.as_bytes());
    assert_eq!(names(&became)[1], (4, "created"));
    assert_eq!(
        found(&node, "88.118.20/c1").json()["values"][0]["data"]["value"],
        "a,\r\nb"
    );
    let gb = encoding_rs::GB18030
        .encode("88.118.20/g,1,T,,,,\u{6807}\n")
        .0;
    let (_, became) = done(
        &node,
        &token,
        "",
        "text/csv; charset=gb18030",
        &[&gb[..], b"88.118.20/h,1,T,,,,\x81\n"].concat(),
    );
    assert_eq!(names(&became), [(1, "created"), (2, "invalid")]);
    assert_eq!(
        found(&node, "88.118.20/g").json()["values"][0]["data"]["value"],
        "\u{6807}"
    );
    let audit = node.must(&[
        "audit",
        "--handle",
        "88.118.20/n1",
        "--config",
        &node.config(),
    ]);
    assert!(
        audit.contains("300:88.118.20/USER") && audit.contains("committed"),
        "{audit}"
    );
}

/// Goal: what nobody may read cannot be found out by registering it.
#[test]
fn restricted_values_are_compared_for_their_readers() {
    let node = Node::new();
    node.import(&format!("{{\"handle\":\"88.118.20/WORKER\",\"values\":[{{\"index\":300,\"type\":\"HS_SECKEY\",\"data\":\"w\",\"permissions\":\"1100\"}}]}}\n\
        {{\"handle\":\"0.NA/88.118.21\",\"values\":[{{\"index\":100,\"type\":\"HS_ADMIN\",\"data\":{{\"format\":\"admin\",\"value\":{{\"handle\":\"88.118.20/WORKER\",\"index\":300,\"permissions\":\"{}\"}}}}}}]}}\n\
        {{\"handle\":\"88.118.21/closed\",\"values\":[{{\"index\":1,\"type\":\"T\",\"data\":\"secret\",\"permissions\":\"1100\"}}]}}\n", "000000000001"));
    let row = b"{\"handle\":\"88.118.21/closed\",\"values\":[{\"index\":1,\"type\":\"T\",\"data\":\"secret\",\"permissions\":\"1100\"}]}\n";
    let worker: Json = serde_json::from_str(&node.must(&[
        "token",
        "create",
        "--identity",
        "300:88.118.20/WORKER",
        "--right",
        "write",
        "-o",
        "json",
        "--config",
        &node.config(),
    ]))
    .unwrap();
    let worker = worker["token"].as_str().unwrap();
    let (_, became) = done(
        &node,
        worker,
        "",
        NDJSON,
        &[&row[..], line("88.118.21/mine", "x").as_bytes()].concat(),
    );
    assert_eq!(names(&became), [(1, "conflict"), (2, "created")]);
    let (_, became) = done(&node, &writer(&node), "", NDJSON, row);
    assert_eq!(names(&became), [(1, "same")]);
}

#[test]
fn a_job_is_its_tokens() {
    let node = Node::new();
    let (mine, other) = (writer(&node), writer(&node));
    let (_, reader) = token(&node, &["--right", "resolve,list"]);
    let (_, narrow) = token(&node, &["--right", "write", "--prefix", "88.118.21"]);
    let body = line("88.118.20/own", "x");
    let path = hand_over(&node, &mine, "?paused=true", NDJSON, body.as_bytes());
    for (verb, more) in [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/pause"),
        ("POST", "/resume"),
        ("POST", "/cancel"),
        ("GET", "/results"),
    ] {
        let place = format!("{path}{more}");
        let strange = ask(&node, &other, &place, &["-X", verb]);
        assert_eq!(
            (strange.status, strange.json()["code"].as_str()),
            (404, Some("no_such_job")),
            "{place}"
        );
        assert_eq!(
            ask(&node, &reader, &place, &["-X", verb]).status,
            403,
            "{place}"
        );
        assert_eq!(
            node.ask("https", &place, &["-X", verb]).status,
            401,
            "{place}"
        );
        assert_eq!(
            node.ask(
                "http",
                &place,
                &["-X", verb, "-H", &format!("Authorization: Bearer {mine}")]
            )
            .status,
            403
        );
    }
    assert_eq!(
        ask(&node, &other, PATH, &[]).json()["jobs"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    let own = ask(&node, &mine, PATH, &[]).json();
    assert_eq!(
        (
            own["jobs"].as_array().unwrap().len(),
            &own["jobs"][0]["state"]
        ),
        (1, &"paused".into())
    );
    assert_eq!(
        post(&node, &reader, "", NDJSON, body.as_bytes(), &[]).json()["code"],
        "token_not_allowed"
    );
    let (_, became) = done(
        &node,
        &narrow,
        "",
        NDJSON,
        (body + &line("88.118.21/own", "x")).as_bytes(),
    );
    assert_eq!(names(&became), [(1, "refused"), (2, "created")]);
    assert_eq!(found(&node, "88.118.20/own").status, 404);
    let directory = node.data().join("jobs");
    for above in [
        directory.clone(),
        directory.join(mine.split('_').nth(1).unwrap()),
    ] {
        assert_eq!(
            fs::metadata(&above).unwrap().permissions().mode() & 0o777,
            0o700,
            "{above:?}"
        );
    }
    let input = directory
        .join(mine.split('_').nth(1).unwrap())
        .join(path.rsplit('/').next().unwrap())
        .join("input");
    assert_eq!(
        fs::metadata(&input).unwrap().permissions().mode() & 0o777,
        0o600
    );
    // What it may do is looked at while it is done.
    node.must(&[
        "token",
        "revoke",
        mine.split('_').nth(1).unwrap(),
        "--config",
        &node.config(),
    ]);
    assert_eq!(
        ask(&node, &mine, &format!("{path}/resume"), &["-X", "POST"]).status,
        401
    );
}

#[test]
fn dry_run_and_all_or_none() {
    let node = Node::new();
    let token = writer(&node);
    let mixed =
        line("88.118.20/d1", "x") + &line("88.118.20/pump", "x") + &line("88.118.20/d2", "x");
    let (ended, became) = done(&node, &token, "?dryRun=true", NDJSON, mixed.as_bytes());
    assert_eq!(
        names(&became),
        [(1, "created"), (2, "conflict"), (3, "created")]
    );
    assert_eq!(
        (&ended["state"], &ended["dryRun"]),
        (&"done".into(), &true.into())
    );
    let (ended, became) = done(&node, &token, "?atomic=true", NDJSON, mixed.as_bytes());
    assert_eq!(
        names(&became),
        [(1, "not_applied"), (2, "conflict"), (3, "not_applied")]
    );
    assert_eq!(
        (&ended["state"], &ended["reason"]["code"]),
        (&"failed".into(), &"rows_refused".into())
    );
    assert_eq!(
        ended["reason"]["message"],
        "the job is atomic and 1 of its rows is refused; nothing was changed"
    );
    let twice = line("88.118.20/d1", "x") + &line("88.118.20/D1", "x") + &line("88.118.20/d1", "x");
    let (_, became) = done(&node, &token, "?atomic=true", NDJSON, twice.as_bytes());
    assert_eq!(names(&became)[2], (3, "conflict"));
    for handle in ["d1", "d2"] {
        assert_eq!(
            found(&node, &format!("88.118.20/{handle}")).status,
            404,
            "{handle}"
        );
    }
    let good = line("88.118.20/d1", "x") + &line("88.118.20/d2", "x");
    let (ended, became) = done(&node, &token, "?atomic=true", NDJSON, good.as_bytes());
    assert_eq!(
        (&ended["state"], names(&became)),
        (&"done".into(), vec![(1, "created"), (2, "created")])
    );
    let (ended, became) = done(&node, &token, "?atomic", NDJSON, &many(0, 10_001));
    assert_eq!(
        (&ended["reason"]["code"], became.len()),
        (&"too_many_rows".into(), 0)
    );
    assert_eq!(found(&node, "88.118.20/K0000000").status, 404);
    let whole = node.metric("jiexi_index_records");
    let (ended, _) = done(&node, &token, "?atomic=true", NDJSON, &many(0, 10_000));
    assert_eq!(ended["counts"]["created"], 10_000);
    // The job's own records are there, too.
    assert!(node.metric("jiexi_index_records") - whole >= 10_000.0);
}

#[test]
fn paused_resumed_cancelled() {
    // More than are carried out between two looks.
    const ROWS: usize = 120_000;
    let node = Node::new();
    let token = writer(&node);
    let verb =
        |path: &str, verb: &str| ask(&node, &token, &format!("{path}/{verb}"), &["-X", "POST"]);
    let first = hand_over(&node, &token, "", NDJSON, &many(0, ROWS));
    let second = hand_over(&node, &token, "", NDJSON, &many(ROWS, ROWS));
    until(&node, &token, &first, |job| job["rows"].as_u64() > Some(0));
    assert_eq!(
        job(&node, &token, &second)["state"],
        "queued",
        "one of a token at a time"
    );
    let paused = verb(&first, "pause");
    assert_eq!(
        (paused.status, paused.json()["state"].as_str()),
        (200, Some("paused"))
    );
    let rows = paused.json()["rows"].as_u64().unwrap();
    assert!(rows < ROWS as u64, "it was paused in the middle");
    assert_eq!(verb(&first, "pause").status, 200, "twice is no harm");
    let conflict = ask(&node, &token, &second, &["-X", "DELETE"]);
    assert_eq!(
        (conflict.status, conflict.json()["code"].as_str()),
        (409, Some("job_not_ended"))
    );
    until(&node, &token, &second, |job| job["rows"].as_u64() > Some(0));
    assert_eq!(
        job(&node, &token, &first)["rows"].as_u64(),
        Some(rows),
        "nothing goes on"
    );
    let cancelled = verb(&second, "cancel").json();
    assert_eq!(cancelled["state"], "cancelled");
    let (done, applied) = (
        cancelled["rows"].as_u64().unwrap(),
        results(&node, &token, &second),
    );
    assert!(done < ROWS as u64);
    assert_eq!(applied.len() as u64, done);
    let last = &applied.last().unwrap().1;
    assert_eq!(found(&node, last).status, 200, "what is durable stays");
    assert_eq!(
        found(&node, &format!("88.118.20/K{:07}", ROWS as u64 + done)).status,
        404
    );
    for (path, name) in [(&second, "pause"), (&second, "resume"), (&first, "resume")] {
        let expected = if path == &first { 200 } else { 409 };
        assert_eq!(verb(path, name).status, expected, "{name}");
    }
    let ended = until(&node, &token, &first, is_over);
    assert_eq!(
        (ended["state"].as_str(), ended["counts"]["created"].as_u64()),
        (Some("done"), Some(ROWS as u64))
    );
    assert_eq!(verb(&first, "cancel").json()["code"], "job_ended");
    let rows = results(&node, &token, &first);
    assert!(
        (1..).zip(&rows).all(|(line, row)| row.0 == line),
        "every row once, in order"
    );
    // Parts of the results put together are the whole.
    let whole = ask(&node, &token, &format!("{first}/results"), &[]).body;
    let part = |range: &str| ask(&node, &token, &format!("{first}/results"), &["-r", range]);
    let (one, two) = (part("0-999"), part("1000-"));
    assert_eq!((one.status, two.status), (206, 206));
    assert_eq!(
        one.header("content-range"),
        Some(&*format!("bytes 0-999/{}", whole.len()))
    );
    assert_eq!(one.body + &two.body, whole);
    assert_eq!(part(&format!("{}-", whole.len())).status, 416);
    assert_eq!(ask(&node, &token, &first, &["-X", "DELETE"]).status, 204);
    assert_eq!(ask(&node, &token, &first, &[]).status, 404);
}

#[test]
fn limits_and_expiry() {
    let node = Node::with(&[
        ("JIEXI_JOBS_INPUT_MAX", "1MiB"),
        ("JIEXI_JOBS_DISK_MAX", "1536KiB"),
        ("JIEXI_JOBS_JOBS_PER_TOKEN", "3"),
        ("JIEXI_JOBS_KEEP", "5s"),
    ]);
    let (id, token) = token(&node, &["--right", "write"]);
    let code = |reply: Reply| {
        (
            reply.status,
            reply.json()["code"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let large = many(0, 12_000);
    assert!(large.len() > 1 << 20);
    assert_eq!(
        code(post(&node, &token, "", NDJSON, &large, &[])),
        (413, "body_too_large".into())
    );
    let fitting = many(0, 9_000);
    let path = hand_over(&node, &token, "?paused=true", NDJSON, &fitting);
    assert_eq!(
        code(post(&node, &token, "", NDJSON, &fitting, &[])),
        (413, "body_too_large".into()),
        "the disk of the token"
    );
    let small = line("88.118.20/small", "x");
    hand_over(&node, &token, "?paused=true", NDJSON, small.as_bytes());
    hand_over(&node, &token, "?paused=true", NDJSON, small.as_bytes());
    assert_eq!(
        code(post(&node, &token, "", NDJSON, small.as_bytes(), &[])),
        (429, "too_many_jobs".into())
    );
    for (query, kind, more, status, name) in [
        (
            "?kind=other",
            NDJSON,
            "X-Nothing: x",
            400,
            "invalid_request",
        ),
        (
            "?atomic=maybe",
            NDJSON,
            "X-Nothing: x",
            400,
            "invalid_request",
        ),
        (
            "",
            "text/plain",
            "X-Nothing: x",
            415,
            "unsupported_media_type",
        ),
        (
            "",
            "text/csv; charset=klingon",
            "X-Nothing: x",
            415,
            "unsupported_media_type",
        ),
        (
            "",
            NDJSON,
            "Content-Encoding: br",
            415,
            "unsupported_media_type",
        ),
    ] {
        assert_eq!(
            code(post(
                &node,
                &token,
                query,
                kind,
                small.as_bytes(),
                &["-H", more]
            )),
            (status, name.into()),
            "{query} {kind}"
        );
    }
    let begun = Instant::now();
    while ask(&node, &token, &path, &[]).status != 404 {
        assert!(begun.elapsed() < PATIENCE, "a job does not expire");
        thread::sleep(Duration::from_millis(100));
    }
    let directory = node.data().join("jobs").join(&id);
    while directory.exists() {
        assert!(
            begun.elapsed() < PATIENCE,
            "files stay: {:?}",
            fs::read_dir(&directory).map(Iterator::count)
        );
        thread::sleep(Duration::from_millis(100));
    }
    let wrong = post(
        &node,
        &token,
        "",
        "text/csv",
        b"handle,index,type,colour\n",
        &[],
    );
    assert_eq!(
        (
            wrong.status,
            wrong.json()["detail"]
                .as_str()
                .unwrap_or_default()
                .contains("colour")
        ),
        (400, true),
        "{wrong:?}"
    );
    assert!(!directory.exists(), "what was refused leaves nothing");
}

/// Goal: a token that is revoked takes its job along, soon and in order: what is durable stays, nothing goes on, nobody else
/// gets the job, and no file of it is left, since nobody can fetch it any more. Method: a job that is long enough to be met in
/// its middle; what the node has is counted.
#[test]
fn a_revoked_token_ends_its_job() {
    const ROWS: usize = 60_000;
    let node = Node::new();
    let ((id, token), other) = (token(&node, &["--right", "write"]), writer(&node));
    let before = node.metric("jiexi_index_records");
    done(&node, &token, "", NDJSON, &many(200_000, 1));
    let path = hand_over(&node, &token, "", NDJSON, &many(0, ROWS));
    let queued = hand_over(&node, &token, "", NDJSON, &many(ROWS, 10));
    until(&node, &token, &path, |job| job["rows"].as_u64() > Some(0));
    assert_eq!(job(&node, &token, &queued)["state"], "queued");
    node.must(&["token", "revoke", &id, "--config", &node.config()]);
    // That which has ended before, that at work, and that which waited for its turn.
    let directory = node.data().join("jobs").join(&id);
    let begun = Instant::now();
    while directory.exists() {
        assert!(begun.elapsed() < PATIENCE, "files stay");
        thread::sleep(Duration::from_millis(20));
    }
    // Rows are created in their order: the first that is not there is behind the last.
    let is_there = |row: usize| found(&node, &format!("88.118.20/K{row:07}")).status == 200;
    let (mut rows, mut absent) = (1, ROWS);
    while rows < absent {
        let middle = rows.midpoint(absent);
        match is_there(middle) {
            true => rows = middle + 1,
            false => absent = middle,
        }
    }
    assert!((2..ROWS).contains(&rows), "in the middle: {rows} rows");
    assert!(is_there(rows - 1) && !is_there(rows) && !is_there(ROWS));
    // Beside them the jobs themselves, and what is counted of the tokens.
    let more = node.metric("jiexi_index_records") - before - rows as f64 - 1.0;
    assert!(
        (0.0..10.0).contains(&more),
        "{rows} rows and {more} records"
    );
    assert_eq!(ask(&node, &token, &path, &[]).status, 401);
    assert_eq!(ask(&node, &other, &path, &[]).status, 404);
    // The turn of other tokens comes.
    let (ended, _) = done(&node, &other, "", NDJSON, &many(ROWS, 10));
    assert_eq!(ended["counts"]["created"], 10);
}

/// Goal: a share of the disk that is used up in the middle of an upload or of a job is said clearly, costs nothing that was
/// there, and is over when there is room. Method: the share is filled by results until an input fits and its results do
/// not.
#[test]
fn the_disk_quota_in_the_middle() {
    let node = Node::with(&[("JIEXI_JOBS_DISK_MAX", "2MiB")]);
    let (id, token) = token(&node, &["--right", "write"]);
    let disk = || {
        let all = ask(&node, &token, PATH, &[]).json();
        let number = |name: &str| usize::try_from(all[name].as_u64().unwrap()).unwrap();
        (number("diskUsed"), number("diskMax"))
    };
    let full = [8_000, 6_000].map(|rows| {
        let path = hand_over(&node, &token, "?dryRun=true", NDJSON, &many(0, rows));
        assert_eq!(until(&node, &token, &path, is_over)["state"], "done");
        path
    });
    let (used, most) = disk();
    let row = many(0, 1).len();
    let fitting = (most - used) / row - 10;
    assert!(used > most / 4 && fitting > 6_000, "{used} of {most}");
    // An upload that does not fit is refused in its middle, and leaves nothing.
    let directory = node.data().join("jobs").join(&id);
    let kept = || fs::read_dir(&directory).unwrap().count();
    for (language, word) in [("en", "disk_max"), ("zh", "磁盘配额")] {
        let header = format!("Accept-Language: {language}");
        let more = ["-H", &*header];
        let refused = post(&node, &token, "", NDJSON, &many(0, fitting + 20), &more);
        let detail = refused.json()["detail"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert_eq!(
            (refused.status, detail.contains(word)),
            (413, true),
            "{refused:?}"
        );
    }
    assert_eq!((kept(), disk()), (2, (used, most)));
    // One that fits is taken; its results do not, so it waits and says why.
    let path = hand_over(&node, &token, "", NDJSON, &many(0, fitting));
    let waits = until(&node, &token, &path, |job| job["state"] == "waiting");
    assert_eq!(waits["reason"]["code"], "disk_quota_used_up", "{waits}");
    assert!(
        waits["reason"]["message"]
            .as_str()
            .unwrap()
            .contains("disk_max")
    );
    let rows = usize::try_from(waits["rows"].as_u64().unwrap()).unwrap();
    assert!((1..fitting).contains(&rows), "in the middle: {rows}");
    let so_far = results(&node, &token, &path);
    assert_eq!(so_far.len(), rows, "what is durable is told");
    // Another token has its own share.
    let (ended, _) = done(&node, &writer(&node), "", NDJSON, &many(100_000, 10));
    assert_eq!(ended["state"], "done");
    for path in full {
        assert_eq!(ask(&node, &token, &path, &["-X", "DELETE"]).status, 204);
    }
    let ended = until(&node, &token, &path, is_over);
    assert_eq!(
        (&ended["state"], ended["counts"]["created"].as_u64()),
        (&"done".into(), Some(fitting as u64)),
        "{ended}"
    );
    let all = results(&node, &token, &path);
    assert_eq!(
        all[..rows],
        so_far[..],
        "nothing is told twice or otherwise"
    );
    assert!((1..).zip(&all).all(|(line, row)| row.0 == line));
    let last = format!("88.118.20/K{:07}", fitting - 1);
    assert_eq!(found(&node, &last).status, 200);
    // And the next upload is taken again.
    let (ended, _) = done(&node, &token, "", NDJSON, &many(200_000, 10));
    assert_eq!(ended["counts"]["created"], 10);
}

/// Goal: a job that no deletion makes room for does not wait for ever: it fails and says so, with what is durable told, and the
/// token's next job is carried out.
#[test]
fn a_job_too_large_for_its_token_fails() {
    let node = Node::with(&[("JIEXI_JOBS_DISK_MAX", "1MiB")]);
    let (_, token) = token(&node, &["--right", "write,batch"]);
    let rows = (1 << 20) / many(0, 1).len() - 100;
    let questions = "88.118.20/pump\n".repeat(20_000);
    for (query, kind, body) in [
        ("", NDJSON, many(0, rows)),
        ("?dryRun=true", NDJSON, many(0, rows)),
        ("?kind=resolve", "text/plain", questions.into_bytes()),
    ] {
        let path = hand_over(&node, &token, query, kind, &body);
        let ended = until(&node, &token, &path, is_over);
        let message = ended["reason"]["message"].as_str().unwrap_or_default();
        assert_eq!(
            (&ended["state"], &ended["reason"]["code"]),
            (&"failed".into(), &"disk_quota_used_up".into()),
            "{ended}"
        );
        assert!(
            message.contains("1048576") && message.contains("disk_max"),
            "{message}"
        );
        let told = ask(&node, &token, &format!("{path}/results"), &[]).body;
        assert_eq!(
            ended["rows"].as_u64(),
            Some(told.lines().count() as u64),
            "{ended}"
        );
        assert!((1..rows).contains(&told.lines().count()));
        assert_eq!(ask(&node, &token, &path, &["-X", "DELETE"]).status, 204);
    }
    let (ended, _) = done(&node, &token, "", NDJSON, &many(200_000, 10));
    assert_eq!(ended["counts"]["created"], 10);
}

/// Goal: a job that waits is forgotten like any other, and says when; one that gets on is not.
#[test]
fn a_job_that_waits_expires() {
    let node = Node::with(&[("JIEXI_JOBS_KEEP", "4s")]);
    let (id, token) = token(&node, &["--right", "write", "--quota", "5"]);
    let path = hand_over(&node, &token, "", NDJSON, &many(0, 8));
    let waits = until(&node, &token, &path, |job| job["state"] == "waiting");
    assert!(
        waits["expires"].is_string() && waits["ended"].is_null(),
        "{waits}"
    );
    let begun = Instant::now();
    let directory = node.data().join("jobs").join(&id);
    while ask(&node, &token, &path, &[]).status != 404 || directory.exists() {
        assert!(
            begun.elapsed() < PATIENCE,
            "a job that waits does not expire"
        );
        thread::sleep(Duration::from_millis(100));
    }
    assert!(begun.elapsed() > Duration::from_secs(2), "too early");
    assert_eq!(
        found(&node, "88.118.20/K0000004").status,
        200,
        "what is durable stays"
    );
}

#[test]
fn a_quota_is_kept_to_and_a_key_makes_one_job() {
    let node = Node::new();
    let (_, token) = token(&node, &["--right", "write", "--quota", "5"]);
    let path = hand_over(&node, &token, "", NDJSON, &many(0, 8));
    let waiting = until(&node, &token, &path, |job| job["state"] == "waiting");
    assert_eq!(
        (&waiting["rows"], &waiting["reason"]["code"]),
        (&5.into(), &"quota_used_up".into())
    );
    assert!(waiting["until"].is_string());
    assert_eq!(
        (
            found(&node, "88.118.20/K0000004").status,
            found(&node, "88.118.20/K0000005").status
        ),
        (200, 404)
    );
    let other = writer(&node);
    let body = many(100, 3);
    let key = ["-H", "Idempotency-Key: k1"];
    let first = post(&node, &other, "", NDJSON, &body, &key);
    let again = post(&node, &other, "", NDJSON, &body, &key);
    assert_eq!(
        (
            first.status,
            again.status,
            again.header("idempotency-replayed")
        ),
        (202, 200, Some("true"))
    );
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(post(&node, &other, "", NDJSON, b"x", &key).status, 422);
    assert_eq!(
        ask(&node, &other, PATH, &[]).json()["jobs"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn hostile_inputs_harm_nobody() {
    let node = Node::with(&[PLAIN]);
    let (id, token) = token(&node, &["--right", "write"]);
    let good = "88.118.20/h1,1,T,,,,x\n";
    let again = "88.118.20/h2,1,T,,,,x\n";
    let before = node.resident();
    let columns = format!("{good}{}\n{again}", ",".repeat(1_000_000));
    let (_, became) = done(&node, &token, "", "text/csv", columns.as_bytes());
    assert_eq!(
        names(&became),
        [(1, "created"), (2, "invalid"), (3, "created")]
    );
    let endless = format!("{good}\"{}", "x".repeat(40 << 20));
    let (_, became) = done(&node, &token, "", "text/csv", endless.as_bytes());
    assert_eq!(names(&became), [(1, "same"), (2, "invalid")]);
    let endless = [
        line("88.118.20/h3", "x").into_bytes(),
        vec![b'['; 40 << 20],
        b"\n".to_vec(),
        line("88.118.20/h4", "x").into_bytes(),
    ]
    .concat();
    let (_, became) = done(&node, &token, "", NDJSON, &endless);
    assert_eq!(
        names(&became),
        [(1, "created"), (2, "invalid"), (3, "created")]
    );
    let binary: Vec<u8> = (0..200_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let (ended, _) = done(&node, &token, "", NDJSON, &binary);
    assert_eq!(
        (&ended["state"], &ended["counts"]["created"]),
        (&"done".into(), &0.into())
    );
    let (ended, _) = done(&node, &token, "", "text/csv", &binary);
    assert_eq!(
        (&ended["state"], &ended["counts"]["created"]),
        (&"done".into(), &0.into())
    );
    let (ended, became) = done(&node, &token, "", NDJSON, b"");
    assert_eq!((&ended["state"], became.len()), (&"done".into(), 0));
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![b' '; 64 << 20]).unwrap();
    let reply = post(
        &node,
        &token,
        "",
        NDJSON,
        &bomb.finish().unwrap(),
        &["-H", "Content-Encoding: gzip"],
    );
    assert_eq!(
        (reply.status, reply.json()["code"].as_str()),
        (413, Some("body_too_large"))
    );
    let grown = node.resident().saturating_sub(before);
    assert!(grown < 96 << 10, "grown by {grown} KiB");
    // A client that vanishes leaves no job, and nothing on the disk.
    let known = ask(&node, &token, PATH, &[]).json()["jobs"]
        .as_array()
        .unwrap()
        .len();
    let directory = node.data().join("jobs").join(&id);
    let kept = || fs::read_dir(&directory).map_or(0, Iterator::count);
    let before = kept();
    for length in [None, Some(1_000_000_u32)] {
        let mut stream = TcpStream::connect(("127.0.0.1", node.http)).unwrap();
        let framing = match length {
            None => "Transfer-Encoding: chunked".to_owned(),
            Some(length) => format!("Content-Length: {length}"),
        };
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: {NDJSON}\r\n{framing}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let text = line("88.118.20/gone", "x");
        let piece = if length.is_none() {
            format!("{:x}\r\n{text}\r\n", text.len())
        } else {
            text
        };
        stream.write_all(piece.as_bytes()).unwrap();
        let begun = Instant::now();
        while kept() == before {
            assert!(begun.elapsed() < PATIENCE, "nothing arrives");
            thread::sleep(Duration::from_millis(10));
        }
        drop(stream);
        while kept() > before {
            assert!(begun.elapsed() < PATIENCE, "what arrived stays");
            thread::sleep(Duration::from_millis(10));
        }
    }
    assert_eq!(
        ask(&node, &token, PATH, &[]).json()["jobs"]
            .as_array()
            .unwrap()
            .len(),
        known
    );
    assert_eq!(found(&node, "88.118.20/gone").status, 404);
}

/// Rows of each job that is killed.
const KILL_ROWS: usize = 40_000;

/// Goal: what is handed over or fetched with a token ends with it. Method: bare sockets that begin and go on; results so
/// long that they do not fit into what lies between node and client.
#[test]
fn streams_end_with_their_token() {
    let node = Node::with(&[PLAIN, ("JIEXI_HTTP_WRITE", "1h"), ("JIEXI_HTTP_READ", "1h")]);
    let (id, held) = token(&node, &["--right", "write"]);
    // What is wrong with a row is said with the text that is wrong.
    let time = "x".repeat(1 << 20);
    let row = |number| {
        format!(
            "{{\"handle\":\"88.118.20/{number}\",\"values\":[{{\"index\":1,\"type\":\"N\",\"data\":\"x\",\"timestamp\":\"{time}\"}}]}}\n"
        )
    };
    let rows: String = (0..24).map(row).collect();
    let path = hand_over(&node, &held, "", NDJSON, rows.as_bytes());
    let ended = until(&node, &held, &path, is_over);
    let length = ended["results"].as_u64().unwrap_or_default();
    assert!(length > 20 << 20, "{ended}");
    let open = |request: &str| {
        let stream = TcpStream::connect(("127.0.0.1", node.http)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!("{request} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {held}\r\n");
        (&stream).write_all(head.as_bytes()).unwrap();
        stream
    };
    let mut upload = open("POST /api/v1/jobs");
    let kind = format!("Content-Type: {NDJSON}\r\nTransfer-Encoding: chunked\r\n\r\n");
    upload.write_all(kind.as_bytes()).unwrap();
    upload.write_all(b"1\r\n\n\r\n").unwrap();
    let mut fetch = open(&format!("GET {path}/results"));
    fetch.write_all(b"\r\n").unwrap();
    let mut first = [0; 12];
    fetch.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");

    let under_way = "jiexi_connections{protocol=\"http\",transport=\"tcp\"}";
    assert!(node.metric(under_way) >= 2.0, "both are");
    let (lag, begun) = revoke(&node, &id);
    let mut said = Vec::new();
    let _ = upload.read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(
        said.starts_with("HTTP/1.1 401") && said.contains("token_not_valid"),
        "{said}"
    );
    // Until then nothing is read, so that the node alone can end the connection.
    while node.metric(under_way) > 0.0 {
        assert!(begun.elapsed() < PATIENCE, "the results are still offered");
        thread::sleep(Duration::from_millis(10));
    }
    within_five_seconds(begun, lag);
    let mut rest = Vec::new();
    let _ = fetch.read_to_end(&mut rest);
    assert!((rest.len() as u64) < length, "all was sent");
}

/// Goal: kill -9 in the middle of a job loses no row and carries none out twice. Method: at every kill the store alone says
/// how far the job is, and exactly the rows up to there are in it; at the end the journal has one change for each row,
/// and the audit trail one entry.
#[test]
fn killed_in_the_middle() {
    let kills = if std::env::var("JIEXI_TEST_LONG").is_ok() {
        50
    } else {
        10
    };
    let mut node = Node::new();
    let token = writer(&node);
    let mut seed = jiexi::clock::unix_seconds() ^ (std::process::id() << 8);
    println!("seed {seed}");
    let (mut jobs, mut killed, mut rounds) = (Vec::<String>::new(), 0, 0);
    while killed < kills {
        rounds += 1;
        assert!(
            rounds < 3 * kills + 20,
            "{killed} of {rounds} kills met a job at work"
        );
        let open = jobs
            .iter()
            .filter(|path| !is_over(&job(&node, &token, path)))
            .count();
        for _ in open..2 {
            let body = many(jobs.len() * KILL_ROWS, KILL_ROWS);
            jobs.push(hand_over(&node, &token, "", NDJSON, &body));
        }
        let now = jobs.iter().find(|path| !is_over(&job(&node, &token, path)));
        if let Some(path) = now {
            let before = job(&node, &token, path)["rows"].as_u64();
            until(&node, &token, path, |job| {
                job["rows"].as_u64() > before || is_over(job)
            });
        }
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        thread::sleep(Duration::from_micros(u64::from(seed >> 12) % 150_000));
        node.kill();
        // Every other time the node itself finds what the kill has left.
        let looked = rounds % 2 == 0 && in_the_middle(&node.data(), jobs.len());
        node.start();
        let is_at_work = |path: &String| {
            let rows = job(&node, &token, path)["rows"].as_u64();
            (1..KILL_ROWS as u64).contains(&rows.unwrap_or(0))
        };
        killed += usize::from(looked || jobs.iter().any(is_at_work));
    }
    for path in &jobs {
        let ended = until(&node, &token, path, is_over);
        assert_eq!(
            (&ended["state"], &ended["counts"]["created"]),
            (&"done".into(), &KILL_ROWS.into()),
            "{ended}"
        );
    }
    for (number, path) in jobs.iter().enumerate() {
        let rows = results(&node, &token, path);
        assert_eq!(rows.len(), KILL_ROWS);
        for (place, (line, handle, became)) in rows.iter().enumerate() {
            let expected = format!("88.118.20/K{:07}", number * KILL_ROWS + place);
            assert_eq!(
                (*line, &**handle, &**became),
                (place as u64 + 1, &*expected, "created")
            );
        }
    }
    node.kill();
    let puts = puts_of(&node.data());
    assert_eq!(
        puts.len(),
        jobs.len() * KILL_ROWS,
        "every row is in the journal"
    );
    let twice: Vec<_> = puts
        .iter()
        .filter(|(_, count)| **count != 1)
        .take(5)
        .collect();
    assert!(twice.is_empty(), "more than once: {twice:?}");
    let told = audited(&node.data());
    let untold = puts.keys().filter(|handle| !told.contains_key(*handle));
    let again = told.values().filter(|count| **count > 1);
    assert_eq!(
        (untold.count(), again.count()),
        (0, 0),
        "told of not at all, or twice"
    );
    println!(
        "{killed} kills in the middle of {} jobs, {rounds} rounds",
        jobs.len()
    );
}

/// How many entries of the audit trail tell that a handle was created, folded.
fn audited(data: &Path) -> HashMap<Vec<u8>, u64> {
    let mut told = HashMap::new();
    for file in fs::read_dir(data.join("audit")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|kind| kind != "jsonl") {
            continue;
        }
        for line in fs::read_to_string(path).unwrap().lines() {
            let entry: Json = serde_json::from_str(line).unwrap();
            if entry["operation"] == "create" && entry["change"].is_u64() {
                let handle = entry["handle"]
                    .as_str()
                    .unwrap()
                    .to_ascii_uppercase()
                    .into_bytes();
                *told.entry(handle).or_default() += 1;
            }
        }
    }
    told
}

/// Compares jobs and handles of a node that is not running; whether a job is in its middle.
fn in_the_middle(data: &Path, jobs: usize) -> bool {
    let store = Store::open(Config {
        dir: data.join("store"),
        ..Config::default()
    })
    .unwrap();
    assert!(store.wait_ready(PATIENCE));
    let scan = |space, prefix: &[u8]| {
        store
            .scan(space, std::ops::Bound::Unbounded, prefix, 10_000_000)
            .unwrap()
    };
    let records = scan(Space::System, b"job/");
    assert_eq!(records.len(), jobs);
    let (mut created, mut middle) = (0, false);
    for record in records {
        let job: Json = serde_json::from_slice(record.entries().next().unwrap().wire).unwrap();
        let rows = job["counts"]["rows"].as_u64().unwrap();
        assert_eq!(job["counts"]["created"].as_u64(), Some(rows), "{job}");
        middle |= rows > 0 && rows < KILL_ROWS as u64;
        created += rows;
    }
    let handles = scan(Space::Handle, b"88.118.20/K").len() as u64;
    assert_eq!(handles, created, "the store has what its jobs say");
    store.close().unwrap();
    middle
}

/// How often each registered handle is put, by the files of the journal (see their format in `store::journal::entry`).
fn puts_of(data: &Path) -> HashMap<Vec<u8>, usize> {
    let number = |bytes: &[u8], at: usize| {
        u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    };
    let mut puts = HashMap::new();
    for file in fs::read_dir(data.join("store/journal")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|end| end != "journal") {
            continue;
        }
        let bytes = fs::read(path).unwrap();
        let mut entry = 64;
        while bytes.get(entry..entry + 8) == Some(b"JXENTRY1") {
            let (length, body) = (number(&bytes, entry + 8), number(&bytes, entry + 12));
            let mut at = entry + 64;
            let end = at + body;
            while at < end {
                let (changes, note) = (number(&bytes, at), number(&bytes, at + 4));
                at += 8 + note;
                for _ in 0..changes {
                    let (kind, size) = (bytes[at], number(&bytes, at + 1));
                    let change = &bytes[at + 5..at + 5 + size];
                    at += 5 + size;
                    if kind == 1 && change[0] == 1 {
                        let key = usize::from(u16::from_be_bytes([change[1], change[2]]));
                        let key = change[3..3 + key].to_vec();
                        if key.starts_with(b"88.118.20/K") {
                            *puts.entry(key).or_default() += 1;
                        }
                    }
                }
            }
            entry += length;
        }
    }
    puts
}

/// Goal: a file goes over, is registered, and its results come back, by the command.
#[test]
fn the_command() {
    let node = Node::with(&[PLAIN]);
    let token = writer(&node);
    let (file, csv, out, secret) = (
        node.path("in.ndjson"),
        node.path("in.csv"),
        node.path("out"),
        node.path("token"),
    );
    fs::write(&secret, &token).unwrap();
    fs::write(&file, many(0, 50)).unwrap();
    fs::write(
        &csv,
        "88.118.20/K0000001,1,URL,,,,https://example.cn/kill\n88.118.20/pump,1,T,,,,x\n",
    )
    .unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let server = format!("http://127.0.0.1:{}", node.http);
    let bulk = |more: &[&str]| {
        let fixed = [
            "--server",
            &server,
            "--token-file",
            &text(&secret),
            "-o",
            "json",
        ]
        .map(str::to_owned);
        let all: Vec<&str> = std::iter::once("bulk")
            .chain(more.iter().copied())
            .chain(fixed.iter().map(String::as_str))
            .collect();
        node.run(&all)
    };
    let json = |text: &str| -> Json {
        let start = text.find(['{', '[']).unwrap_or_else(|| panic!("{text}"));
        let end = text.rfind(['}', ']']).unwrap();
        serde_json::from_str(&text[start..=end]).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    let (good, said) = bulk(&["import", &text(&file), "--results", &text(&out)]);
    assert!(good, "{said}");
    assert_eq!(json(&said)["counts"]["created"], 50);
    let id = json(&said)["id"].as_str().unwrap().to_owned();
    let rows = fs::read_to_string(&out).unwrap();
    assert_eq!(rows.lines().count(), 50);
    let (good, said) = bulk(&["import", &text(&csv)]);
    assert!(!good && said.contains("1 row is not registered"), "{said}");
    assert_eq!(
        (
            &json(&said)["counts"]["same"],
            &json(&said)["counts"]["conflict"]
        ),
        (&1.into(), &1.into())
    );
    let half = &rows.as_bytes()[..rows.len() / 2];
    fs::write(&out, half).unwrap();
    assert!(bulk(&["results", &id, "--out", &text(&out), "--continue"]).0);
    assert_eq!(fs::read_to_string(&out).unwrap(), rows);
    let (good, said) = bulk(&["import", &text(&file), "--paused", "--dry-run"]);
    assert!(good, "{said}");
    let paused = json(&said)["id"].as_str().unwrap().to_owned();
    assert_eq!(json(&bulk(&["status"]).1).as_array().unwrap().len(), 3);
    assert_eq!(json(&bulk(&["pause", &paused]).1)["state"], "paused");
    assert!(bulk(&["resume", &paused]).0);
    let (good, said) = bulk(&["status", &paused, "--wait"]);
    assert_eq!(
        (good, &json(&said)["counts"]["same"]),
        (true, &50.into()),
        "{said}"
    );
    assert!(!bulk(&["cancel", &paused]).0, "it has ended");
    assert!(bulk(&["delete", &paused]).0);
    let (good, said) = bulk(&["status", &paused]);
    assert!(!good && said.contains("no such job"), "{said}");
    assert!(bulk(&["status", "../x"]).1.contains("not the id"));
    let remote = node.run(&[
        "bulk",
        "status",
        "--server",
        "http://192.0.2.1",
        "--token-file",
        &text(&secret),
    ]);
    assert!(!remote.0 && remote.1.contains("https://"), "{}", remote.1);
}

/// The last order counts: who cancels a job that is just stopping for a pause is not told that all is well while it stays.
#[test]
fn the_last_order_counts() {
    const ROWS: usize = 40_000;
    let node = Node::new();
    let token = writer(&node);
    for round in 0..8 {
        let path = hand_over(&node, &token, "", NDJSON, &many(round * ROWS, ROWS));
        until(&node, &token, &path, |job| job["rows"].as_u64() > Some(0));
        let order = |verb: &str| ask(&node, &token, &format!("{path}/{verb}"), &["-X", "POST"]);
        thread::scope(|scope| {
            scope.spawn(|| order("pause"));
            // Somewhere between the order and its answer.
            thread::sleep(Duration::from_millis(10 + 2 * round as u64));
            let cancelled = order("cancel");
            match cancelled.status {
                200 => assert_eq!(cancelled.json()["state"], "cancelled", "round {round}"),
                // It had ended by itself.
                409 => assert_eq!(cancelled.json()["code"], "job_ended", "round {round}"),
                _ => assert_eq!(cancelled.status, 202, "round {round}: {}", cancelled.body),
            }
        });
        let ended = until(&node, &token, &path, is_over);
        assert!(["cancelled", "done"].contains(&ended["state"].as_str().unwrap()));
    }
}

/// A wrong path in the configuration costs nobody anything: what is not named as a job's files are is not touched.
#[test]
fn what_others_keep_there_stays() {
    let mut node = Node::new();
    let token = writer(&node);
    let (_, became) = done(
        &node,
        &token,
        "",
        NDJSON,
        line("88.118.20/o1", "x").as_bytes(),
    );
    assert_eq!(names(&became), [(1, "created")]);
    let jobs = node.data().join("jobs");
    let foreign = [
        jobs.join("www/site/index.html"),
        jobs.join("0123456789ab/site/index.html"),
        jobs.join("www/0123456789abcdef/index.html"),
    ];
    let stray = jobs.join("0123456789ab/0123456789abcdef/input");
    for path in foreign.iter().chain([&stray]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "1").unwrap();
    }
    node.terminate();
    node.start();
    let started = Instant::now();
    while stray.exists() {
        assert!(started.elapsed() < PATIENCE, "a stray goes");
        thread::sleep(Duration::from_millis(20));
    }
    for path in &foreign {
        assert!(path.exists(), "{path:?}");
    }
}

/// Goal: what clients send and get is for the node's user alone, also where the directory was there before.
#[test]
fn a_directory_that_others_may_read_is_refused() {
    for (variable, name) in [
        ("JIEXI_JOBS_DIRECTORY", "jobs"),
        ("JIEXI_BATCH_SPOOL", "spool"),
    ] {
        let mut node = Node::new();
        node.kill();
        let directory = node.path(name);
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        node.set(variable, directory.to_str().unwrap());
        let (good, said) = node.run(&["serve", "--config", &node.config()]);
        assert!(
            !good && said.contains(name) && said.contains("chmod 700"),
            "{said}"
        );
        let mode = fs::metadata(&directory).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o755, "it may be meant for something else");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
        node.start();
    }
}
