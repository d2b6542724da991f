//! Goal: a standby has what its primary acknowledged, says how far it is, changes nothing itself, and takes the place of the
//! primary without losing what it says it has.
//! Method: real processes over TLS; links are cut, either end is killed, and in the end both must have the same, secrets
//! included.

#![expect(
    clippy::expect_used,
    reason = "helpers of a test: a failed assumption is a failed test"
)]

mod node;
#[path = "../support/ports.rs"]
mod ports;

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;

use jiexi::store::{Config, Store};
use jiexi_proto::handle::CaseRule;
use tempfile::TempDir;

use crate::node::{Load, Node, PATIENCE, Wire, path, text, until};

const LAG: &str = "jiexi_follow_lag_seconds ";
const MISSING: &str = "jiexi_follow_lag_sequences ";
const CONNECTED: &str = "jiexi_follow_connected ";
const SNAPSHOTS: &str = "jiexi_follow_snapshots_total ";

/// A primary that runs, a standby that is set up, and what it needs to follow.
struct Pair {
    primary: Node,
    standby: Node,
    /// With the right to write.
    writer: String,
    token: PathBuf,
    certificate: PathBuf,
    home: TempDir,
}

impl Pair {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let mut primary = Node::primary(home.path(), "primary");
        primary.set("JIEXI_HTTP_PLAIN_LOOPBACK", "true");
        primary.start();
        let (token, certificate) = (home.path().join("token"), home.path().join("primary.pem"));
        primary.token("replicate", &token);
        let writer = home.path().join("writer");
        primary.token("write,resolve", &writer);
        primary.certificate(&certificate);
        let mut standby = Node::standby(home.path(), "standby", &primary);
        standby.set("JIEXI_HTTP_PLAIN_LOOPBACK", "true");
        standby.follow(primary.http, &token, &certificate);
        Self {
            primary,
            standby,
            writer: fs::read_to_string(writer)
                .expect("a token")
                .trim()
                .to_owned(),
            token,
            certificate,
            home,
        }
    }

    fn create(&self, name: &str) {
        let value = format!("1:URL=https://example.cn/{name}");
        self.primary.good(&[
            "handle",
            "create",
            &format!("88.118/{name}"),
            "--value",
            &value,
        ]);
    }

    /// Waits until the standby has what the primary has, and compares everything.
    #[track_caller]
    fn compare(&self) {
        self.level();
        assert_eq!(self.primary.contents(), self.standby.contents());
        let (ours, theirs) = (self.standby.stats(), self.primary.stats());
        for figure in ["epoch", "sequence", "records"] {
            assert_eq!(ours[figure], theirs[figure], "{figure}");
        }
    }

    /// Waits until the standby has what the primary has now, while that goes on.
    #[track_caller]
    fn goes_on(&self) {
        let newest = self.primary.metric("jiexi_journal_sequence ");
        until("the standby goes on", || {
            self.standby.metric("jiexi_journal_sequence ") >= newest
        });
    }

    #[track_caller]
    fn level(&self) {
        until("the standby has everything", || {
            self.primary
                .metric("jiexi_journal_sequence ")
                .is_some_and(|newest| {
                    self.standby.metric("jiexi_journal_sequence ") == Some(newest)
                })
        });
    }
}

/// How many answers a DNS server gives for the NAPTR records of a name.
fn naptr(port: u16, labels: &[&str]) -> u16 {
    let mut question = vec![0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in labels {
        question.push(u8::try_from(label.len()).expect("short"));
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 35, 0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket
        .send_to(&question, ("127.0.0.1", port))
        .expect("is sent");
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer).expect("an answer");
    assert!(length > 12);
    u16::from_be_bytes([answer[6], answer[7]])
}

/// Goal: a standby begins with nothing but the key, has everything of its primary, imports too, answers over all protocols,
/// tells how far it is, and sends those who want to change something to the primary.
#[test]
fn a_standby_answers_and_changes_nothing() {
    let mut pair = Pair::new();
    pair.create("before");
    let secret = pair.home.path().join("secret");
    fs::write(&secret, "a secret key").expect("is written");
    let value = format!("301:HS_SECKEY={}", path(&secret));
    pair.primary
        .good(&["value", "add", "0.NA/88.118", "--value-file", &value]);
    pair.standby.start();
    assert_eq!(pair.standby.ready()["role"], "standby");
    pair.create("after");
    // So many lines are one change, in a file of its own.
    let lines: String = (0..60_000)
        .map(|number| format!("{{\"handle\":\"88.118/bulk.{number}\",\"values\":[{{\"index\":1,\"type\":\"URL\",\"data\":{{\"format\":\"string\",\"value\":\"https://example.cn/{number}\"}},\"ttl\":86400}}]}}\n"))
        .collect();
    let records = pair.home.path().join("records.ndjson");
    fs::write(&records, lines).expect("is written");
    pair.primary.good(&["import", path(&records)]);
    pair.create("last");
    pair.compare();
    assert_eq!(
        pair.standby.metric(SNAPSHOTS),
        Some(1.0),
        "the import came by the journal"
    );

    let standby = &pair.standby;
    for name in ["before", "after", "bulk.59999", "last"] {
        let handle = format!("88.118/{name}");
        assert!(standby.resolve(&handle).is_some(), "{handle} over UDP");
        let (status, body) = standby
            .http("GET", &format!("/api/handles/{handle}"), "", "")
            .expect("HTTP");
        assert_eq!(status, 200, "{body}");
    }
    assert!(naptr(standby.dns, &["last", "88-118", "id", "example", "net"]) > 0);
    let ready = standby.ready();
    assert_eq!(
        ready["standby"]["primary"],
        format!("https://127.0.0.1:{}", pair.primary.http)
    );
    assert_eq!(ready["standby"]["connected"], true);
    assert_eq!(ready["standby"]["lag_sequences"], 0);
    let status = standby.good(&["status"]);
    assert!(status.contains("standby behind"), "{status}");
    let page = standby.page();
    assert!(
        page.contains("behind it") && page.contains("changes missing"),
        "{page}"
    );

    // Whoever wants to change something is told where.
    let place = format!(
        "changes are made at https://127.0.0.1:{}",
        pair.primary.http
    );
    let local = standby.run(&[
        "handle",
        "create",
        "88.118/own",
        "--value",
        "1:URL=https://example.cn",
    ]);
    assert!(
        !local.status.success() && text(&local).contains(&place),
        "{}",
        text(&local)
    );
    let lines = standby.run(&["import", path(&records)]);
    assert!(
        !lines.status.success() && text(&lines).contains(&place),
        "{}",
        text(&lines)
    );
    let body = r#"{"values":[{"index":1,"type":"URL","data":"https://example.cn"}]}"#;
    let (status, answer) = standby
        .http("PUT", "/api/handles/88.118/own", &pair.writer, body)
        .expect("HTTP");
    assert_eq!(status, 421, "{answer}");
    assert!(
        answer.contains("not_primary") && answer.contains(&place),
        "{answer}"
    );
    let (status, answer) = standby
        .http("GET", "/api/v1/jobs", &pair.writer, "")
        .expect("HTTP");
    assert!(status == 421 && answer.contains(&place), "{answer}");
    let key = pair.primary.data.join("admin.key");
    let wire = standby.client(&[
        "handle",
        "create",
        "88.118/own",
        "--value",
        "1:URL=https://example.cn",
        "--identity",
        "300:0.NA/88.118",
        "--key",
        path(&key),
    ]);
    assert!(
        !wire.status.success() && text(&wire).contains(&place),
        "{}",
        text(&wire)
    );
    let failed = standby.metric("jiexi_changes_total{kind=\"create\",result=\"failed\"} ");
    assert_eq!(
        failed,
        Some(0.0),
        "a change that is made elsewhere is no fault"
    );
    pair.compare();

    // Whoever forgets that it is a standby is told so.
    pair.standby.stop();
    pair.standby.follow_nobody();
    let refused = pair.standby.refused_start();
    assert!(
        refused.contains("the store is a copy of https://127.0.0.1:"),
        "{refused}"
    );
    let offline = pair.standby.run(&[
        "handle",
        "create",
        "88.118/own",
        "--value",
        "1:URL=https://example.cn",
    ]);
    assert!(
        !offline.status.success() && text(&offline).contains(&place),
        "{}",
        text(&offline)
    );
}

/// Goal: whatever is cut or killed, the standby goes on where it was and has everything in the end; meanwhile it answers, and
/// its figures say that it is cut and how old its answers may be.
#[test]
fn cut_links_and_killed_ends() {
    let mut pair = Pair::new();
    let wire = Wire::to(pair.primary.http);
    pair.standby
        .follow(wire.port, &pair.token, &pair.certificate);
    pair.standby.start();
    let load = Load::start(&pair.primary, &pair.writer, "load");
    load.wait_more(20);
    for _ in 0..5 {
        pair.goes_on();
        wire.cut();
        load.wait_more(10);
    }
    for _ in 0..3 {
        pair.standby.kill();
        load.wait_more(10);
        pair.standby.start();
        pair.goes_on();
    }
    // A primary that dies: what it had acknowledged is there again, and comes.
    pair.primary.kill();
    let first = "88.118/load.0";
    until("the link is seen to be cut", || {
        pair.standby.metric(CONNECTED) == Some(0.0)
    });
    assert!(
        pair.standby.resolve(first).is_some(),
        "it answers without its primary"
    );
    let old = pair.standby.metric(LAG).expect("a figure");
    until("answers grow old", || {
        pair.standby.metric(LAG).is_some_and(|lag| lag > old + 1.0)
    });
    assert_eq!(pair.standby.ready()["standby"]["connected"], false);
    pair.standby.kill();
    pair.standby.start();
    assert!(
        pair.standby.resolve(first).is_some(),
        "it starts without its primary"
    );
    pair.primary.start();
    load.wait_more(10);
    // Nothing passes: what is missing is visible once it is known of.
    wire.set_open(false);
    load.wait_more(20);
    wire.set_open(true);
    let made = load.end();
    pair.compare();
    until("the figures say so", || {
        pair.standby.metric(MISSING) == Some(0.0)
    });
    for handle in &made {
        let (status, _) = pair
            .standby
            .http("GET", &format!("/api/handles/{handle}"), "", "")
            .expect("HTTP");
        assert_eq!(status, 200, "{handle} was acknowledged");
    }
    assert_eq!(
        pair.standby.metric(SNAPSHOTS).unwrap_or_default(),
        0.0,
        "all of it came by the journal"
    );
}

/// Goal: a standby that was away for longer than the journal keeps begins anew with a snapshot, by itself, and answers from
/// what it has until that is there.
#[test]
fn away_for_too_long() {
    let mut pair = Pair::new();
    pair.create("early");
    pair.standby.start();
    pair.level();
    pair.standby.stop();
    // Each start begins a new file of the journal; two snapshots let those before the older one go.
    for round in 0..3 {
        pair.create(&format!("round.{round}"));
        pair.primary.good(&["store", "snapshot"]);
        pair.primary.stop();
        pair.primary.start();
    }
    let oldest = fs::read_dir(pair.primary.data.join("store/journal"))
        .expect("a directory")
        .flatten();
    let oldest = oldest
        .filter_map(|file| file.path().file_stem()?.to_str()?.parse::<u64>().ok())
        .min();
    let have = pair.standby.stats()["sequence"].as_u64();
    assert!(
        oldest > have.map(|have| have + 1),
        "the journal begins at {oldest:?}, the standby has {have:?}"
    );
    pair.standby.spawn();
    until("a snapshot is taken in", || {
        pair.standby.metric(SNAPSHOTS) == Some(1.0)
    });
    pair.create("later");
    pair.compare();
    assert!(
        pair.standby.log().contains("begin with a snapshot"),
        "{}",
        pair.standby.log()
    );
    let left = fs::read_dir(&pair.standby.data)
        .expect("a directory")
        .flatten();
    let left: Vec<_> = left
        .filter(|file| file.file_name().to_string_lossy().starts_with("store."))
        .collect();
    assert!(left.is_empty(), "of a copy nothing is kept: {left:?}");
}

/// Goal: a planned promotion loses nothing that was acknowledged under load; the old primary sends everybody to the new
/// one, after a restart too, and becomes its standby.
#[test]
fn promoted_while_the_primary_answers() {
    let mut pair = Pair::new();
    pair.standby
        .set("JIEXI_HTTP_PUBLIC_URL", "https://new.example.cn:8000");
    pair.standby.start();
    let load = Load::start(&pair.primary, &pair.writer, "planned");
    load.wait_more(30);
    let before = pair.standby.stats()["epoch"].as_u64().expect("an epoch");
    let report = pair.standby.good(&["promote", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["old_primary_gave_way"], true, "{report}");
    let epoch = report["epoch"].as_u64().expect("an epoch");
    assert!(epoch > before, "{report}");
    assert_eq!(
        pair.standby.stats()["epoch"],
        epoch,
        "what was told is what it has"
    );
    let made = load.end();
    assert!(made.len() >= 30);
    until("it is the primary", || {
        pair.standby.ready()["role"] == "primary"
    });
    for handle in &made {
        let (status, _) = pair
            .standby
            .http("GET", &format!("/api/handles/{handle}"), "", "")
            .expect("HTTP");
        assert_eq!(status, 200, "{handle} was acknowledged");
    }
    pair.standby.good(&[
        "handle",
        "create",
        "88.118/new",
        "--value",
        "1:URL=https://example.cn",
    ]);
    let place = "changes are made at https://new.example.cn:8000";
    for _ in 0..2 {
        let refused = pair.primary.run(&[
            "handle",
            "create",
            "88.118/old",
            "--value",
            "1:URL=https://example.cn",
        ]);
        assert!(
            !refused.status.success() && text(&refused).contains(place),
            "{}",
            text(&refused)
        );
        let ready = pair.primary.ready();
        assert!(
            ready["ready"] == false && ready["role"] == "superseded",
            "{ready}"
        );
        pair.primary.stop();
        pair.primary.spawn();
        until("it is there again", || {
            pair.primary.ready()["role"] == "superseded"
        });
    }
    // The new primary restarts with its old settings, and stays what it is.
    pair.standby.stop();
    pair.standby.start();
    assert_eq!(pair.standby.ready()["role"], "primary");
    // And the old one follows it.
    pair.primary.stop();
    let (token, certificate) = (
        pair.home.path().join("token.2"),
        pair.home.path().join("new.pem"),
    );
    pair.standby.token("replicate", &token);
    pair.standby.certificate(&certificate);
    pair.primary.follow(pair.standby.http, &token, &certificate);
    pair.primary.start();
    assert_eq!(pair.primary.ready()["role"], "standby");
    assert!(
        pair.primary.data.join("store.old-1").is_dir(),
        "what it was is kept"
    );
    std::mem::swap(&mut pair.primary, &mut pair.standby);
    pair.create("both");
    pair.compare();
}

/// Goal: whom the old primary names as the one that took its place is what is said, and not what was wanted.
#[test]
fn promoted_beside_another_one() {
    let mut pair = Pair::new();
    pair.standby.start();
    pair.create("kept");
    pair.level();
    let third = "https://third.example.cn:8000";
    let told = format!("{{\"epoch\":{SAME},\"primary\":\"{third}\"}}");
    let token = fs::read_to_string(&pair.token).expect("a token");
    let target = "/api/v1/replication/supersede";
    let answer = pair.primary.http("POST", target, token.trim(), &told);
    assert_eq!(answer.map(|(status, _)| status), Some(200));
    let report = pair.standby.good(&["promote", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["old_primary_gave_way"], false, "{report}");
    assert_eq!(report["old_primary_gave_way_to"], third, "{report}");
    let log = pair.standby.log();
    assert!(log.contains("gave way to another node"), "{log}");
}

/// Goal: without its primary a standby is promoted only when that is said; what it said it had is there; the old primary,
/// which knows nothing of that, takes changes until it is met and none after that.
#[test]
fn promoted_without_the_primary() {
    let mut pair = Pair::new();
    pair.standby.start();
    pair.create("kept");
    pair.level();
    pair.primary.kill();
    let refused = pair.standby.run(&["promote"]);
    assert!(!refused.status.success(), "{}", text(&refused));
    assert!(
        text(&refused).contains("jiexi promote --without-primary"),
        "{}",
        text(&refused)
    );
    assert_eq!(pair.standby.ready()["role"], "standby");
    let report = pair
        .standby
        .good(&["promote", "--without-primary", "-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["old_primary_gave_way"], false);
    assert_eq!(report["known_missing_sequences"], 0);
    assert!(pair.standby.resolve("88.118/kept").is_some());
    pair.standby.good(&[
        "handle",
        "create",
        "88.118/new",
        "--value",
        "1:URL=https://example.cn",
    ]);

    pair.primary.spawn();
    until("the old primary is met", || {
        pair.primary.ready()["role"] == "superseded"
    });
    let refused = pair.primary.run(&[
        "handle",
        "create",
        "88.118/late",
        "--value",
        "1:URL=https://example.cn",
    ]);
    assert!(!refused.status.success(), "{}", text(&refused));
    assert!(
        text(&refused).contains("took the place of this one"),
        "{}",
        text(&refused)
    );
    assert_eq!(
        pair.primary.metric("jiexi_role{role=\"superseded\"} "),
        Some(1.0)
    );
    assert!(
        pair.standby.log().contains("the old primary was met"),
        "{}",
        pair.standby.log()
    );
    // A standby of the old one does not take what is older for newer.
    let epoch = |node: &Node| node.stats()["epoch"].as_u64();
    assert!(epoch(&pair.standby) > epoch(&pair.primary));
}

/// Goal: a stopped standby is promoted as well, and serves as a primary then.
#[test]
fn promoted_while_stopped() {
    let mut pair = Pair::new();
    pair.standby.start();
    pair.create("kept");
    pair.level();
    pair.standby.stop();
    // It was not there, and is promised nothing; it is fetched all the same.
    pair.create("missed");
    let follow = pair.standby.follow_arguments();
    pair.standby.good(&[&["promote"], &follow[..]].concat());
    assert_eq!(pair.primary.ready()["role"], "superseded");
    pair.standby.follow_nobody();
    pair.standby.start();
    assert_eq!(pair.standby.ready()["role"], "primary");
    assert!(pair.standby.resolve("88.118/missed").is_some());
    pair.standby.good(&[
        "handle",
        "create",
        "88.118/new",
        "--value",
        "1:URL=https://example.cn",
    ]);
}

/// Goal: what cannot work is refused when it is started, with what to do.
#[test]
fn refused() {
    let mut pair = Pair::new();
    // Another key than the primary's could open no secret.
    let mut other = Node::primary(pair.home.path(), "other");
    other.follow(pair.primary.http, &pair.token, &pair.certificate);
    let said = other.refused_start();
    assert!(
        said.contains("is not that of https://127.0.0.1:") && said.contains("jiexi key escrow"),
        "{said}"
    );
    assert!(
        other.data.join("store").is_dir() && !other.data.join("store.old-1").exists(),
        "nothing was touched"
    );
    // A token that may write may not copy.
    let weak = pair.home.path().join("weak");
    pair.primary.token("write,resolve,batch,list", &weak);
    pair.standby
        .follow(pair.primary.http, &weak, &pair.certificate);
    let said = pair.standby.refused_start();
    assert!(
        said.contains("the token has not the right replicate"),
        "{said}"
    );
    // Nor one for some prefixes.
    let narrow = pair.home.path().join("narrow");
    pair.primary.good(&[
        "token",
        "create",
        "--identity",
        "300:0.NA/88.118",
        "--right",
        "replicate",
        "--prefix",
        "88.118",
        "--token-file",
        path(&narrow),
    ]);
    pair.standby
        .follow(pair.primary.http, &narrow, &pair.certificate);
    let said = pair.standby.refused_start();
    assert!(said.contains("must be for all prefixes"), "{said}");
    // Nothing of this is sent in clear, or without a token.
    for (arguments, said) in [
        (
            vec!["--follow", "http://192.0.2.1:8000"],
            "--follow: must be https://",
        ),
        (
            vec!["--follow", "https://192.0.2.1:8000"],
            "--token-file: is empty",
        ),
    ] {
        let refused = pair.standby.run(&[&["serve"], &arguments[..]].concat());
        assert_eq!(refused.status.code(), Some(2), "{}", text(&refused));
        assert!(text(&refused).contains(said), "{}", text(&refused));
    }
    let upgraded = pair.standby.run(&["upgrade"]);
    assert_eq!(upgraded.status.code(), Some(3), "{}", text(&upgraded));
    assert!(text(&upgraded).contains("standby"), "{}", text(&upgraded));
    let promoted = pair.primary.run(&["promote"]);
    assert!(
        !promoted.status.success() && text(&promoted).contains("no standby"),
        "{}",
        text(&promoted)
    );
    // The end points themselves: nobody without a token, nothing without its position, nobody of another epoch.
    let token = fs::read_to_string(&pair.token).expect("a token");
    let ask =
        |target: &str, token: &str| pair.primary.http("GET", target, token, "").expect("HTTP");
    let (token, root) = (token.trim(), "/api/v1/replication");
    let journal = format!("{root}/journal?after=0&records=0&sum=0000000000000000");
    for (target, token, status) in [
        (root.to_owned(), "", 401),
        (format!("{root}/snapshot"), &*pair.writer, 403),
        (journal.clone(), token, 400),
        (format!("{journal}&epoch=9"), token, 409),
        (format!("{journal}&epoch=1&wait=0"), token, 200),
        (
            format!("{journal}&epoch=1").replace("records=0", "records=5"),
            token,
            409,
        ),
        (format!("{root}/runs/1"), token, 410),
        (format!("{root}/runs/x"), token, 400),
    ] {
        let (found, body) = ask(&target, token);
        assert_eq!(found, status, "{target}: {body}");
    }
    let supersede = |body: &str| {
        pair.primary
            .http("POST", &format!("{root}/supersede"), token, body)
            .expect("HTTP")
            .0
    };
    for (body, status) in [
        ("", 400),
        ("{\"epoch\":\"two\"}", 400),
        ("{\"epoch\":1,\"primary\":\"https://x\"}", 409),
        ("{\"epoch\":2,\"primary\":\"https://x y\"}", 400),
    ] {
        assert_eq!(supersede(body), status, "{body}");
    }
    assert_eq!(pair.primary.ready()["role"], "primary");
}

/// The epoch that both get, as by clocks that are wrong in the same way.
const SAME: u64 = 4_000_000_000;

/// The settings of the store of a stopped node.
fn stopped(node: &Node, case: CaseRule) -> Config {
    Config {
        dir: node.data.join("store"),
        case,
        now: || SAME,
        ..Config::default()
    }
}

/// Goal: of two primaries of one epoch neither gives way, and the logs of both say so and what to do; done so, one is the
/// standby of the other. A third one, which the old primary gave way to, is told of as well.
#[test]
fn two_primaries_of_one_epoch() {
    let mut pair = Pair::new();
    pair.standby.start();
    pair.create("kept");
    pair.level();
    pair.standby.stop();
    pair.standby.good(&["store", "snapshot"]);
    let taken = pair.primary.good(&["store", "snapshot", "-o", "json"]);
    let taken: serde_json::Value = serde_json::from_str(&taken).expect("JSON");
    pair.primary.stop();

    let case = Store::case_in(&pair.standby.data.join("store")).expect("a store");
    Store::succeed(&stopped(&pair.standby, case), SAME).expect("is promoted");
    let store = pair.primary.data.join("store");
    let (aside, path) = (
        pair.primary.data.join("store.aside"),
        taken["path"].as_str().expect("a path"),
    );
    fs::rename(&store, &aside).expect("is moved");
    let snapshot = aside.join(
        std::path::Path::new(path)
            .strip_prefix(&store)
            .expect("in it"),
    );
    Store::restore(&stopped(&pair.primary, case), &snapshot, 0).expect("is restored");

    pair.primary.start();
    pair.standby.start();
    let said = "two nodes are primaries of the same epoch, and neither gives way: stop the one";
    until("both say so", || {
        pair.primary.log().contains(said) && pair.standby.log().contains(said)
    });
    for node in [&pair.primary, &pair.standby] {
        let (ready, stats) = (node.ready(), node.stats());
        assert_eq!(
            (&ready["role"], &stats["epoch"]),
            (&"primary".into(), &SAME.into())
        );
    }
    // What the logs say to do, of the one that took the place.
    pair.standby.stop();
    fs::rename(
        pair.standby.data.join("store"),
        pair.home.path().join("away"),
    )
    .expect("is moved");
    pair.standby.start();
    assert_eq!(pair.standby.ready()["role"], "standby");
    pair.create("again");
    pair.compare();

    // Another one takes the place of the primary while this one does, and neither knows.
    pair.standby.stop();
    pair.standby.good(&["store", "snapshot"]);
    Store::succeed(&stopped(&pair.standby, case), SAME + 1).expect("is promoted");
    let token = fs::read_to_string(&pair.token).expect("a token");
    let told = format!(
        "{{\"epoch\":{},\"primary\":\"https://third.example.cn:8000\"}}",
        SAME + 1
    );
    let target = "/api/v1/replication/supersede";
    let answer = pair.primary.http("POST", target, token.trim(), &told);
    assert_eq!(answer.map(|(status, _)| status), Some(200));
    pair.standby.start();
    until("the third one is told of", || {
        let log = pair.standby.log();
        log.contains("gave way to another node") && log.contains("third.example.cn")
    });
}
