//! Goal: many questions handed over at once are answered as a batch answers them, whatever their owner, strangers and
//! accidents do meanwhile. Method: as for jobs of registrations, with the answers of a batch beside those of the job.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::batch::{post as batch, token};
use crate::jobs::{PATH, ask, is_over, job, post, until};
use crate::node::{Node, PATIENCE, Reply};

const LINES: &str = "text/plain";

/// Hands questions over; the path of their job.
fn hand_over(node: &Node, token: &str, query: &str, kind: &str, body: &[u8]) -> String {
    accepted(&post(
        node,
        token,
        &format!("?kind=resolve{query}"),
        kind,
        body,
        &[],
    ))
}

fn accepted(reply: &Reply) -> String {
    assert_eq!(reply.status, 202, "{reply:?}");
    let path = reply.header("location").unwrap().to_owned();
    assert_eq!(
        path,
        format!("{PATH}/{}", reply.json()["id"].as_str().unwrap())
    );
    path
}

fn results(node: &Node, token: &str, path: &str) -> Reply {
    ask(node, token, &format!("{path}/results"), &[])
}

/// The answers, and the summary behind them if there is one.
fn parts(text: &str) -> (Vec<&str>, Option<Json>) {
    let mut lines: Vec<&str> = text.lines().collect();
    let last = lines.last().copied().unwrap_or_default();
    let last: Option<Json> = serde_json::from_str(last).ok();
    let summary = last.filter(|json| json.get("complete").is_some());
    if summary.is_some() {
        lines.pop();
    }
    (lines, summary)
}

/// So many lines with one handle, and one that nobody has in every hundred.
fn many(count: usize) -> String {
    let one = |number: usize| match number % 100 {
        0 => "88.118.20/none\n",
        _ => "88.118.20/STRANGER\n",
    };
    (1..=count).map(one).collect()
}

/// Whether these are the answers to the first lines of [`many`], each once and in order.
fn are_first(answers: &[&str]) {
    for (number, answer) in (1..).zip(answers) {
        let code = if number % 100 == 0 { 100 } else { 1 };
        let head = format!("{{\"line\":{number},\"responseCode\":{code},\"handle\":");
        assert!(answer.starts_with(&head), "{number}: {answer}");
    }
}

#[test]
fn answers_are_those_of_a_batch() {
    let node = Node::new();
    let (_, token) = token(&node, &["--right", "batch,resolve"]);
    let lines = "88.118.20/pump\n\n88.118.20/none\n10.1/x\n88.118.20/secret\n88.118.20/\u{6807}\n88.118.20/PUMP";
    let quoted: Vec<String> = lines.lines().map(|line| format!("\"{line}\"")).collect();
    let gb = encoding_rs::GB18030.encode(lines).0;
    let csv = format!(
        "x,handle\r\n\"1\r\n2\",{}\r\n",
        lines.replace('\n', "\r\n3,")
    );
    let json = format!("[{}]", quoted.join(","));
    for (kind, query, body) in [
        (LINES, "", lines.as_bytes()),
        ("application/x-ndjson", "", quoted.join("\n").as_bytes()),
        ("application/json", "&type=URL.&index=4", json.as_bytes()),
        ("text/csv", "&after=4", csv.as_bytes()),
        (
            "text/plain; charset=gb18030",
            "",
            &[&gb[..], b"\n\x81\n1/x"].concat()[..],
        ),
        (LINES, "&publicOnly=false", lines.as_bytes()),
        (LINES, "", b""),
    ] {
        let header = format!("Content-Type: {kind}");
        let asked = query.replacen('&', "?", 1);
        let direct = batch(&node, &token, &asked, body, &[&header]).body;
        let path = hand_over(&node, &token, query, kind, body);
        let ended = until(&node, &token, &path, is_over);
        let found = results(&node, &token, &path);
        assert_eq!(
            (found.status, found.header("content-type")),
            (200, Some("application/x-ndjson"))
        );
        let (answers, summary) = parts(&found.body);
        let (expected, reference) = parts(&direct);
        assert_eq!(answers, expected, "{kind} {query}");
        let (summary, reference) = (summary.unwrap(), reference.unwrap());
        for name in ["complete", "lines", "codes", "epoch"] {
            assert_eq!(summary[name], reference[name], "{kind} {query}: {name}");
        }
        assert!(summary["sequence"].as_u64() > Some(0));
        assert_eq!(
            (&ended["kind"], &ended["state"], &ended["counts"]),
            (&"resolve".into(), &"done".into(), &reference["codes"]),
            "{ended}"
        );
        assert_eq!(ended["rows"].as_u64(), Some(expected.len() as u64));
    }
    let secret = results_of_secret(&node, &token);
    assert!(secret.contains("for administrators"), "{secret}");
    let reply = post(
        &node,
        &token,
        "?kind=resolve&raw=true",
        LINES,
        b"88.118.20/pump\n@x\n",
        &["-H", "Accept: text/csv"],
    );
    let path = accepted(&reply);
    let ended = until(&node, &token, &path, is_over);
    assert_eq!(ended["output"], "csv");
    let found = results(&node, &token, &path);
    assert!(
        found
            .header("content-type")
            .unwrap()
            .starts_with("text/csv")
    );
    let rows: Vec<&str> = found.body.lines().collect();
    assert!(rows[0].starts_with("line,responseCode,handle,") && rows[1].starts_with("1,1,"));
    assert!(
        rows[rows.len() - 2].starts_with("2,301,@x,")
            && rows[rows.len() - 1].starts_with("summary,"),
        "{rows:?}"
    );
}

fn results_of_secret(node: &Node, token: &str) -> String {
    let path = hand_over(node, token, "&publicOnly=false", LINES, b"88.118.20/pump");
    until(node, token, &path, is_over);
    results(node, token, &path).body
}

#[test]
fn who_may_and_what_is_refused() {
    let node = Node::new();
    let (_, mine) = token(&node, &[]);
    let (_, other) = token(&node, &[]);
    let (_, writer) = token(&node, &["--right", "write"]);
    let (_, narrow) = token(&node, &["--prefix", "88.118.21"]);
    let line = b"88.118.20/pump";
    let code = |reply: Reply| {
        let code = reply.json()["code"].as_str().unwrap_or_default().to_owned();
        (reply.status, code)
    };
    let not_allowed = (403, "token_not_allowed".to_owned());
    assert_eq!(
        code(post(&node, &writer, "?kind=resolve", LINES, line, &[])),
        not_allowed
    );
    assert_eq!(
        code(post(&node, &mine, "?kind=bulk", "text/csv", line, &[])),
        not_allowed
    );
    assert_eq!(
        code(post(
            &node,
            &mine,
            "?kind=resolve&publicOnly=false",
            LINES,
            line,
            &[]
        )),
        not_allowed
    );
    let invalid = (400, "invalid_request".to_owned());
    for query in ["dryRun=true", "atomic=true", "index=0", "after=x"] {
        let query = format!("?kind=resolve&{query}");
        assert_eq!(
            code(post(&node, &mine, &query, LINES, line, &[])),
            invalid,
            "{query}"
        );
    }
    assert_eq!(
        code(post(&node, &mine, "?kind=resolve", "image/png", line, &[])).0,
        415
    );
    let path = hand_over(&node, &mine, "&paused=true", LINES, line);
    for (verb, more) in [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/resume"),
        ("POST", "/cancel"),
        ("GET", "/results"),
    ] {
        let place = format!("{path}{more}");
        assert_eq!(
            code(ask(&node, &other, &place, &["-X", verb])),
            (404, "no_such_job".to_owned()),
            "{place}"
        );
        assert_eq!(node.ask("https", &place, &["-X", verb]).status, 401);
    }
    assert_eq!(job(&node, &mine, &path)["state"], "paused");
    let path = hand_over(&node, &narrow, "", LINES, line);
    let ended = until(&node, &narrow, &path, is_over);
    assert_eq!(ended["counts"]["token_not_allowed"], 1, "{ended}");
    // An array whose frame is broken: what was read before is answered.
    let path = hand_over(
        &node,
        &mine,
        "",
        "application/json",
        b"[\"88.118.20/pump\"] 7",
    );
    let ended = until(&node, &mine, &path, is_over);
    assert_eq!(
        (&ended["state"], &ended["reason"]["code"]),
        (&"failed".into(), &"invalid_request".into())
    );
    let path = hand_over(
        &node,
        &mine,
        "",
        "application/json",
        b"[\"88.118.20/pump\",",
    );
    let ended = until(&node, &mine, &path, is_over);
    assert_eq!(ended["reason"]["code"], "invalid_request", "{ended}");
    let found = results(&node, &mine, &path).body;
    let (answers, summary) = parts(&found);
    assert_eq!((answers.len(), summary), (1, None), "no end is claimed");
}

#[test]
fn the_quota_is_waited_for_and_counted_once() {
    let node = Node::new();
    let (_, token) = token(&node, &["--quota", "5"]);
    // A line that names no handle costs nothing.
    let csv = format!("handle\n,\n{}", many(8));
    let path = hand_over(&node, &token, "", "text/csv", csv.as_bytes());
    let waiting = until(&node, &token, &path, |job| job["state"] == "waiting");
    assert_eq!(
        (&waiting["rows"], &waiting["reason"]["code"]),
        (&6.into(), &"quota_used_up".into()),
        "{waiting}"
    );
    assert!(waiting["until"].is_string());
    let found = results(&node, &token, &path).body;
    let (answers, summary) = parts(&found);
    assert_eq!((answers.len(), summary), (6, None));
    let quota = ask(&node, &token, "/api/v1/quota", &[]).json();
    assert_eq!(
        (&quota["used"], &quota["remaining"]),
        (&5.into(), &0.into())
    );
    let cancelled = ask(&node, &token, &format!("{path}/cancel"), &["-X", "POST"]);
    assert_eq!(
        (cancelled.status, cancelled.json()["state"].as_str()),
        (200, Some("cancelled"))
    );
}

#[test]
fn paused_resumed_cancelled_and_fetched_in_parts() {
    const COUNT: usize = 400_000;
    let node = Node::new();
    let (_, token) = token(&node, &[]);
    let verb =
        |path: &str, verb: &str| ask(&node, &token, &format!("{path}/{verb}"), &["-X", "POST"]);
    let body = many(COUNT);
    let path = hand_over(&node, &token, "&paused=true", LINES, body.as_bytes());
    let rows = loop {
        assert_eq!(verb(&path, "resume").status, 200);
        thread::sleep(Duration::from_millis(20));
        let paused = verb(&path, "pause");
        assert_eq!(
            (paused.status, paused.json()["state"].as_str()),
            (200, Some("paused")),
            "{paused:?}"
        );
        match paused.json()["rows"].as_u64().unwrap() {
            0 => {}
            rows => break rows,
        }
    };
    assert!(rows < COUNT as u64, "it was paused in the middle");
    let first = results(&node, &token, &path).body;
    let (answers, summary) = parts(&first);
    assert_eq!((answers.len() as u64, summary), (rows, None));
    are_first(&answers);
    assert_eq!(verb(&path, "resume").status, 200);
    let ended = until(&node, &token, &path, is_over);
    assert_eq!(
        (&ended["state"], &ended["counts"]["success"]),
        (&"done".into(), &(COUNT - COUNT / 100).into()),
        "{ended}"
    );
    let length = ended["results"].as_u64().unwrap();
    let part = |range: String| {
        let file = node.path("part");
        let reply = ask(
            &node,
            &token,
            &format!("{path}/results"),
            &["-r", &range, "-o", file.to_str().unwrap()],
        );
        (reply.status, fs::read_to_string(file).unwrap_or_default())
    };
    let (one, two) = (
        part(format!("0-{}", length / 2)),
        part(format!("{}-", length / 2 + 1)),
    );
    assert_eq!((one.0, two.0), (206, 206));
    let whole = one.1 + &two.1;
    assert_eq!(whole.len() as u64, length);
    assert!(whole.starts_with(&first), "what was fetched stays");
    let (answers, summary) = parts(&whole);
    are_first(&answers);
    let summary = summary.unwrap();
    assert_eq!(
        (answers.len(), &summary["complete"], &summary["lines"]),
        (COUNT, &true.into(), &COUNT.into())
    );
    let second = hand_over(&node, &token, "&paused=true", LINES, body.as_bytes());
    assert_eq!(verb(&second, "resume").status, 200);
    let cancelled = verb(&second, "cancel").json();
    assert_eq!(cancelled["state"], "cancelled");
    let found = results(&node, &token, &second).body;
    let (answers, summary) = parts(&found);
    assert_eq!(answers.len() as u64, cancelled["rows"].as_u64().unwrap());
    assert_eq!(summary, None);
    assert_eq!(verb(&second, "resume").status, 409);
    for path in [&path, &second] {
        assert_eq!(ask(&node, &token, path, &["-X", "DELETE"]).status, 204);
    }
}

/// Goal: whose token ends, ends, with its job.
#[test]
fn a_job_ends_with_its_token() {
    let node = Node::new();
    let (id, token) = token(&node, &[]);
    let path = hand_over(&node, &token, "", LINES, many(2_000_000).as_bytes());
    until(&node, &token, &path, |job| {
        job["state"] == "running" || is_over(job)
    });
    node.must(&["token", "revoke", &id, "--config", &node.config()]);
    let directory = node.data().join("jobs").join(&id);
    let input = directory
        .join(path.rsplit('/').next().unwrap())
        .join("input");
    let begun = Instant::now();
    // The input goes when a job has ended.
    while input.exists() {
        assert!(begun.elapsed() < PATIENCE, "the job goes on");
        thread::sleep(Duration::from_millis(20));
    }
    // All else goes soon after that: nobody can fetch it any more. It may be gone already.
    if let Ok(text) = fs::read_to_string(input.with_file_name("results")) {
        let (answers, summary) = parts(&text);
        assert_eq!(summary, None, "it did not end by itself");
        are_first(&answers);
    }
    while input.parent().unwrap().exists() {
        assert!(begun.elapsed() < PATIENCE, "the results stay");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn results_have_no_more_room_than_the_token() {
    let node = Node::with(&[("JIEXI_JOBS_DISK_MAX", "1MiB")]);
    let (_, token) = token(&node, &[]);
    let path = hand_over(&node, &token, "", LINES, many(30_000).as_bytes());
    let waiting = until(&node, &token, &path, |job| {
        job["state"] == "waiting" || is_over(job)
    });
    assert_eq!(waiting["reason"]["code"], "disk_quota_used_up", "{waiting}");
}

/// Goal: kill -9 in the middle loses no answer and gives none twice. Method: killed several times, then compared line by
/// line.
#[test]
fn killed_in_the_middle() {
    const COUNT: usize = 600_000;
    let kills = if std::env::var("JIEXI_TEST_LONG").is_ok() {
        20
    } else {
        4
    };
    let mut node = Node::new();
    let (_, token) = token(&node, &[]);
    let body = many(COUNT);
    let mut seed = jiexi::clock::unix_seconds() ^ (std::process::id() << 8);
    println!("seed {seed}");
    let (mut jobs, mut killed, mut rounds) = (Vec::<String>::new(), 0, 0);
    while killed < kills {
        rounds += 1;
        assert!(
            rounds < 5 * kills + 20,
            "{killed} of {rounds} kills met a job at work"
        );
        if jobs
            .last()
            .is_none_or(|path| is_over(&job(&node, &token, path)))
        {
            jobs.push(hand_over(&node, &token, "", LINES, body.as_bytes()));
        }
        let path = jobs.last().unwrap();
        until(&node, &token, path, |job| {
            job["state"] == "running" || is_over(job)
        });
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        thread::sleep(Duration::from_micros(u64::from(seed >> 12) % 1_500_000));
        node.kill();
        node.start();
        let left = job(&node, &token, path);
        killed += usize::from(!is_over(&left) && left["rows"].as_u64() > Some(0));
    }
    for path in &jobs {
        let ended = until(&node, &token, path, is_over);
        assert_eq!(
            (&ended["state"], ended["rows"].as_u64()),
            (&"done".into(), Some(COUNT as u64)),
            "{ended}"
        );
        let file = node.path("fetched");
        let into = ["-o", file.to_str().unwrap()];
        assert_eq!(
            ask(&node, &token, &format!("{path}/results"), &into).status,
            200
        );
        let text = fs::read_to_string(&file).unwrap();
        let (answers, summary) = parts(&text);
        assert_eq!(answers.len(), COUNT);
        are_first(&answers);
        assert_eq!(summary.unwrap()["codes"]["handle_not_found"], COUNT / 100);
    }
    println!("{killed} kills in the middle of {} jobs", jobs.len());
}

#[test]
fn the_command() {
    let node = Node::with(&[("JIEXI_HTTP_PLAIN_LOOPBACK", "true")]);
    let (_, token) = token(&node, &[]);
    let (input, out, secret) = (node.path("in.txt"), node.path("out"), node.path("token"));
    fs::write(&input, many(250).replace("STRANGER", "pump")).unwrap();
    fs::write(&secret, &token).unwrap();
    let server = format!("http://127.0.0.1:{}", node.http);
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let run = |words: &[&str]| {
        let secret = text(&secret);
        let fixed = ["--server", &server, "--token-file", &secret];
        node.run(&[words, &fixed].concat())
    };
    let (good, said) = run(&["batch", "submit", &text(&input), "--type", "URL"]);
    assert!(good, "{said}");
    let id = said.trim();
    assert_eq!(id.len(), 16, "{said}");
    let (good, said) = run(&["bulk", "status", id, "--wait"]);
    assert!(
        good && said.contains("resolve") && said.contains("done"),
        "{said}"
    );
    let (good, said) = run(&["bulk", "results", id, "--out", &text(&out)]);
    assert!(good, "{said}");
    let whole = fs::read_to_string(&out).unwrap();
    let (answers, summary) = parts(&whole);
    are_first(&answers);
    assert_eq!(
        (answers.len(), &summary.unwrap()["lines"]),
        (250, &250.into())
    );
    assert!(!whole.contains("MODEL"), "only what was asked for");
    fs::write(&out, &whole[..whole.len() / 3]).unwrap();
    assert!(run(&["bulk", "results", id, "--out", &text(&out), "--continue"]).0);
    assert_eq!(fs::read_to_string(&out).unwrap(), whole);
    assert!(run(&["bulk", "delete", id]).0);
    let (good, said) = run(&["batch", "submit", &text(&input), "--restricted"]);
    assert!(!good && said.contains("right resolve"), "{said}");
}
