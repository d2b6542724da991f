//! Goal: every resolution and change, over whatever it came, is in the log: by day, with the client's network and no
//! more of its address. When the disk takes none, answers go on.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde_json::Value as Json;

use crate::batch::{post, token};
use crate::node::{Node, PATIENCE};

const BODY: &str = r#"[{"index":1,"type":"N","data":"x"}]"#;

/// The files of the log.
fn files(node: &Node) -> Vec<PathBuf> {
    let directory = std::fs::read_dir(node.data().join("history")).unwrap();
    directory.map(|file| file.unwrap().path()).collect()
}

/// All lines of the log.
fn lines(node: &Node) -> Vec<Json> {
    let files = files(node);
    assert!(matches!(files.len(), 1 | 2), "one a day: {files:?}");
    let mut text = String::new();
    for file in files {
        let file = std::fs::File::open(file).unwrap();
        flate2::read::MultiGzDecoder::new(file)
            .read_to_string(&mut text)
            .expect("gzip");
    }
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn field<'a>(line: &'a Json, name: &str) -> &'a str {
    line[name].as_str().unwrap()
}

#[test]
fn what_was_asked_is_remembered() {
    let mut node = Node::new();
    for _ in 0..3 {
        node.get("/api/handles/88.118.20/pump");
    }
    node.get("/88.118.20/pump");
    node.get("/api/handles/88.118.20/nope");
    node.admin("/api/handles/88.118.20/new", &["-X", "PUT", "-d", BODY]);
    node.admin("/api/handles?prefix=88.118.20", &[]);
    node.get("/docs");
    let figure = "jiexi_requests_total{op=\"resolve\",protocol=\"http\",transport=\"tcp\"}";
    let resolved = node.metric(figure);
    // Browsers ask for these by themselves.
    for path in ["/favicon.ico", "/robots.txt"] {
        let reply = node.get(path);
        assert_eq!((reply.status, &*reply.body), (404, ""), "{path}");
        let kept = reply.header("cache-control").unwrap_or_default();
        assert!(
            kept.contains("max-age"),
            "not asked again at once: {reply:?}"
        );
    }
    assert_eq!(node.metric(figure), resolved);
    node.terminate();
    let lines = lines(&node);
    let mut seen: Vec<[&str; 4]> = lines
        .iter()
        .map(|line| ["op", "handle", "outcome", "via"].map(|name| field(line, name)))
        .collect();
    // Lines of one second may stand in any order.
    seen.sort_unstable();
    let asked = ["resolve", "88.118.20/pump", "success", "http"];
    assert_eq!(
        seen,
        [
            ["create", "88.118.20/new", "success", "https"],
            ["list", "88.118.20", "success", "https"],
            ["resolve", "88.118.20/nope", "not_found", "http"],
            asked,
            asked,
            asked,
            asked,
        ]
    );
    assert!(
        lines
            .iter()
            .all(|line| line["net"] == "127.0.0.0/24"
                && line["time"].as_str().unwrap().ends_with('Z'))
    );
}

#[test]
fn every_front_end_is_remembered() {
    let mut node = Node::with_dns();
    let (handle, dns) = (
        format!("127.0.0.1:{}", node.handle),
        format!("127.0.0.1:{}", node.dns),
    );
    let resolve = |more: &[&str]| node.run(&[&["resolve"][..], more].concat());
    resolve(&["88.118.20/PUMP", "--server", &handle, "--udp"]);
    resolve(&["88.118.20/nope", "--server", &handle, "--tcp"]);
    let zone = ["--dns", "id.example.net", "--server", &dns];
    resolve(&[&["88.118.20/pump", "--udp"][..], &zone].concat());
    resolve(&[&["88.118.20/pump", "--tcp"][..], &zone].concat());
    resolve(&[&["88.118.20/nope", "--udp"][..], &zone].concat());
    let secret = node.path("secret");
    std::fs::write(&secret, "geheim").expect("writes");
    let who = ["--server", &handle, "--identity", "300:88.118.20/USER"];
    let key = ["--secret-file", secret.to_str().unwrap()];
    for (operation, handle) in [("create", "88.118.20/new"), ("delete", "88.118.20/new")] {
        let arguments = match operation {
            "create" => &["handle", "create", handle, "-v", "1:N=x"][..],
            _ => &["handle", "rm", handle][..],
        };
        node.must(&[arguments, &who, &key].concat());
    }
    node.terminate();
    let lines = lines(&node);
    let mut seen: Vec<[&str; 4]> = lines
        .iter()
        .filter(|line| line["outcome"] != "challenge")
        .map(|line| {
            let via = field(line, "via");
            // Changes go over UDP or TCP, as the client likes.
            let via = if line["op"] == "resolve" { via } else { "" };
            [
                via,
                field(line, "op"),
                field(line, "handle"),
                field(line, "outcome"),
            ]
        })
        .collect();
    seen.sort_unstable();
    seen.dedup();
    for expected in [
        ["handle/udp", "resolve", "88.118.20/PUMP", "success"],
        ["handle/tcp", "resolve", "88.118.20/NOPE", "not_found"],
        ["dns/udp", "resolve", "88.118.20/PUMP", "success"],
        ["dns/tcp", "resolve", "88.118.20/PUMP", "success"],
        ["dns/udp", "resolve", "88.118.20/NOPE", "not_found"],
        ["", "create", "88.118.20/new", "success"],
        ["", "delete", "88.118.20/new", "success"],
    ] {
        assert!(seen.contains(&expected), "{expected:?} in {seen:#?}");
    }
    assert!(lines.iter().all(|line| line["net"] == "127.0.0.0/24"));
}

/// Goal: a line of a batch is remembered and counted as the look-up that it is.
#[test]
fn every_line_of_a_batch_is_remembered() {
    let mut node = Node::new();
    let figures = |node: &Node| {
        [
            ("requests", "op=\"resolve\""),
            ("requests", "op=\"batch\""),
            ("responses", "outcome=\"invalid\""),
            ("responses", "outcome=\"not_responsible\""),
        ]
        .map(|(name, label)| {
            // The labels of a metric are sorted.
            let mut labels = [label, "protocol=\"http\"", "transport=\"tls\""];
            labels.sort_unstable();
            node.metric(&format!("jiexi_{name}_total{{{}}}", labels.join(",")))
        })
    };
    let (_, token) = token(&node, &[]);
    let before = figures(&node);
    let body = b"88.118.20/pump\n88.118.20/none\n10.1/x\n\xff\n88.118.20/secret";
    let answer = post(&node, &token, "", body, &[]);
    let after = figures(&node);
    node.terminate();
    let lines = lines(&node);
    let mut seen: Vec<[&str; 4]> = lines
        .iter()
        .map(|line| ["op", "handle", "outcome", "via"].map(|name| field(line, name)))
        .collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            ["resolve", "10.1/x", "not_responsible", "https"],
            ["resolve", "88.118.20/none", "not_found", "https"],
            ["resolve", "88.118.20/pump", "success", "https"],
            ["resolve", "88.118.20/secret", "values_not_found", "https"],
        ],
        "{}",
        answer.body
    );
    assert!(lines.iter().all(|line| line["net"] == "127.0.0.0/24"));
    let risen: Vec<f64> = after
        .iter()
        .zip(before)
        .map(|(now, then)| now - then)
        .collect();
    assert_eq!(risen, [5.0, 1.0, 1.0, 1.0]);
}

/// Has today's file, and tomorrow's, be this device.
fn write_to(node: &Node, device: &str) {
    let day = jiexi::clock::unix_seconds() / 86_400;
    for day in [day, day + 1] {
        let seconds = u64::from(day) * 86_400;
        let time = UNIX_EPOCH + Duration::from_secs(seconds);
        let date = humantime::format_rfc3339_seconds(time).to_string();
        let file = node
            .data()
            .join(format!("history/{}.ndjson.gz", &date[..10]));
        let _ = std::fs::remove_file(&file);
        std::os::unix::fs::symlink(device, file).expect("linked");
    }
}

/// Asks until entries were lost so many times; how many were.
fn ask_until_lost(node: &Node, times: usize) -> f64 {
    let begun = Instant::now();
    let (mut lost, mut asked, mut seen) = (0.0, 0.0, 0);
    while seen < times {
        assert_eq!(node.get("/api/handles/88.118.20/pump").status, 200);
        asked += 1.0;
        let now = node.metric("jiexi_history_lost_total");
        seen += usize::from(now > lost);
        lost = now;
        assert!(lost <= asked, "{lost} of {asked}");
        assert!(begun.elapsed() < PATIENCE, "{lost} lost of {asked}");
        std::thread::sleep(Duration::from_millis(100));
    }
    lost
}

/// Gives the disk back; the log goes on, and says so once.
fn ask_until_written(node: &Node) {
    for file in files(node) {
        std::fs::remove_file(file).expect("removed");
    }
    let begun = Instant::now();
    // It is said after the sync, which comes after the file.
    while node.log().matches("is written again").count() == 0 {
        assert_eq!(node.get("/api/handles/88.118.20/pump").status, 200);
        assert!(begun.elapsed() < PATIENCE, "{}", node.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!files(node).is_empty());
}

/// Method: the file of the day is `/dev/full`, which opens and takes nothing.
#[test]
fn a_full_disk_loses_entries_and_no_answers() {
    let node = Node::new();
    write_to(&node, "/dev/full");
    // Several members, none of which is taken.
    ask_until_lost(&node, 3);
    let said = |what| node.log().matches(what).count();
    assert_eq!(said("cannot be written"), 1, "said once: {}", node.log());
    ask_until_written(&node);
    assert_eq!(said("is written again"), 1);
}

/// Goal: what was written and may not be on the disk counts as lost, and as no recovery. Method: the file of the day is
/// `/dev/null`, which takes everything and refuses to sync.
#[test]
fn what_cannot_be_synced_is_lost() {
    let mut node = Node::new();
    write_to(&node, "/dev/null");
    let lost = ask_until_lost(&node, 3);
    let said = |node: &Node, what| node.log().matches(what).count();
    assert_eq!(
        (
            said(&node, "cannot be written"),
            said(&node, "is written again")
        ),
        (1, 0),
        "{}",
        node.log()
    );
    ask_until_written(&node);
    node.terminate();
    assert_eq!(said(&node, "is written again"), 1);
    assert!(!lines(&node).is_empty());
    assert!(lost >= 3.0, "{lost}");
}
