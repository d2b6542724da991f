//! Goal: whoever follows changes has each of them once, in order, and only what their token may see; they are told when
//! something is no longer known, and how to go on. Method: curl, with writers beside; a bare socket for a client that reads
//! nothing; copies kept by the feed alone, compared with the records.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value as Json;
use socket2::{Domain, Socket, Type};

use crate::batch::token;
use crate::jobs::{hand_over, is_over, line, many, until};
use crate::node::{Node, PATIENCE, Reply};

const PATH: &str = "/api/v1/changes";
const LIST: &str = "/api/v1/handles";
const PLAIN: (&str, &str) = ("JIEXI_HTTP_PLAIN_LOOPBACK", "true");
const NDJSON: &str = "application/x-ndjson";

fn ask(node: &Node, token: &str, path: &str, more: &[&str]) -> Reply {
    let header = format!("Authorization: Bearer {token}");
    node.ask("https", path, &[&["-H", &header][..], more].concat())
}

fn poll(node: &Node, token: &str, query: &str) -> Reply {
    ask(node, token, &format!("{PATH}?{query}"), &[])
}

/// The changes of an answer, and its last line.
fn parts(reply: &Reply) -> (Vec<Json>, Json) {
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, Some(NDJSON)),
        "{reply:?}"
    );
    let mut all: Vec<Json> = reply
        .body
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let last = all.pop().unwrap();
    assert_eq!(
        (&last["complete"], last["changes"].as_u64()),
        (&true.into(), Some(all.len() as u64))
    );
    (all, last)
}

fn cursor(json: &Json) -> String {
    json["cursor"].as_str().unwrap().to_owned()
}

/// Where changes begin that come from now on.
fn now(node: &Node, token: &str) -> String {
    let (changes, last) = parts(&poll(node, token, "wait=30"));
    assert_eq!((changes.len(), &last["more"]), (0, &false.into()));
    cursor(&last)
}

/// All changes behind a cursor, in pages of `limit`; and where they end.
fn rest(node: &Node, token: &str, mut after: String, limit: usize) -> (Vec<Json>, String) {
    let mut found = Vec::new();
    loop {
        let query = format!("after={after}&limit={limit}&wait=0");
        let (changes, last) = parts(&poll(node, token, &query));
        assert!(changes.len() <= limit);
        found.extend(changes);
        after = cursor(&last);
        if last["more"] == false {
            return (found, after);
        }
    }
}

fn put(node: &Node, handle: &str, values: &str) {
    let path = format!("/api/handles/{handle}?overwrite=true");
    let body = format!("{{\"values\":[{values}]}}");
    let reply = node.admin(&path, &["-X", "PUT", "-d", &body]);
    assert!(matches!(reply.status, 200 | 201), "{reply:?}");
}

fn delete(node: &Node, handle: &str) {
    let reply = node.admin(&format!("/api/handles/{handle}"), &["-X", "DELETE"]);
    assert_eq!(reply.status, 200, "{reply:?}");
}

const VALUE: &str = r#"{"index":1,"type":"URL","data":"https://example.cn/1"}"#;

/// What was done to which handle.
fn told(changes: &[Json]) -> Vec<(&str, &str)> {
    let text = |json: &Json| json.as_str().unwrap().to_owned();
    assert!(
        changes
            .iter()
            .all(|change| !text(&change["cursor"]).is_empty()),
        "every line can be gone on from"
    );
    let both = |change| -> (&str, &str) {
        let change: &Json = change;
        (
            change["change"].as_str().unwrap(),
            change["handle"].as_str().unwrap(),
        )
    };
    changes.iter().map(both).collect()
}

#[test]
fn what_is_shown_to_whom() {
    let node = Node::new();
    let (_, all) = token(&node, &["--right", "changes"]);
    let (_, narrow) = token(&node, &["--right", "changes", "--prefix", "88.118.21"]);
    let begin = now(&node, &all);
    let secrets = r#"{"index":1,"type":"URL","data":"https://example.cn/1"},
        {"index":2,"type":"NOTE","data":"hidden","permissions":"1100"},
        {"index":3,"type":"hs_seckey","data":"unsealed","permissions":"1110"},
        {"index":100,"type":"HS_ADMIN","data":{"format":"admin","value":{"handle":"88.118.20/USER","index":300,"permissions":"111111111111"}}},
        {"index":300,"type":"HS_SECKEY","data":"geheim2","permissions":"1110"}"#;
    put(&node, "88.118.20/Mixed", secrets);
    put(&node, "88.118.21/other", VALUE);
    put(&node, "88.118.21/gone", VALUE);
    delete(&node, "88.118.21/GONE");
    put(
        &node,
        "88.118.21/other",
        r#"{"index":7,"type":"N","data":"new"}"#,
    );
    let reply = poll(&node, &all, &format!("after={begin}"));
    let (changes, last) = parts(&reply);
    assert_eq!(
        told(&changes),
        [
            ("put", "88.118.20/Mixed"),
            ("put", "88.118.21/other"),
            ("put", "88.118.21/gone"),
            ("delete", "88.118.21/GONE"),
            ("put", "88.118.21/other"),
        ]
    );
    assert!(
        !reply.body.contains("hidden")
            && !reply.body.contains("geheim")
            && !reply.body.contains("unsealed")
            && !reply.body.contains("HS_")
            && !reply.body.contains("hs_"),
        "{reply:?}"
    );
    let values = changes[0]["values"].as_array().unwrap();
    assert_eq!((values.len(), &values[0]["index"]), (1, &1.into()));
    let shown = node.get("/api/handles/88.118.20/Mixed?index=1").json();
    assert_eq!(values[0], shown["values"][0], "as a resolution shows it");
    assert_eq!(changes[0]["key"], "88.118.20/MIXED");
    assert_eq!(changes[2]["key"], changes[3]["key"]);
    // What a later line says is not said before; nor what has gone since.
    for old in [&changes[1], &changes[2]] {
        assert_eq!(
            (&old["superseded"], old.get("values")),
            (&true.into(), None)
        );
    }
    assert_eq!(changes[4]["values"][0]["data"]["value"], "new");
    assert!(changes[4].get("superseded").is_none());
    let sequences: Vec<u64> = changes
        .iter()
        .map(|change| change["sequence"].as_u64().unwrap())
        .collect();
    assert!(sequences.is_sorted_by(|a, b| a < b), "{sequences:?}");
    // A value that is made restricted is in no line any more, old ones included.
    put(
        &node,
        "88.118.20/Mixed",
        r#"{"index":1,"type":"URL","data":"https://example.cn/1","permissions":"1100"}"#,
    );
    let (again, _) = rest(&node, &all, begin.clone(), 2);
    assert_eq!(again.len(), 6);
    assert!(
        again
            .iter()
            .all(|change| !change.to_string().contains("example.cn/1"))
    );
    assert_eq!(again[5]["values"], serde_json::json!([]));
    // Only the token's prefixes, and what its identity may list.
    let (some, end) = rest(&node, &narrow, begin.clone(), 1);
    assert_eq!(told(&some), told(&changes)[1..].to_vec());
    assert_ne!(
        end,
        cursor(&last),
        "the end is that of the journal, not of the prefix"
    );
    let stranger = node.must(&[
        "token",
        "create",
        "--identity",
        "300:88.118.20/STRANGER",
        "--right",
        "changes,list",
        "-o",
        "json",
        "--config",
        &node.config(),
    ]);
    let stranger: Json = serde_json::from_str(&stranger).unwrap();
    let stranger = stranger["token"].as_str().unwrap();
    assert_eq!(
        rest(&node, stranger, begin.clone(), 100).0,
        Vec::<Json>::new()
    );
    assert_eq!(
        ask(&node, stranger, &format!("{LIST}?prefix=88.118.20"), &[]).status,
        403
    );
}

#[test]
fn who_may_follow_and_how_it_is_asked() {
    let node = Node::new();
    let (id, good) = token(&node, &["--right", "changes"]);
    let (_, other) = token(&node, &["--right", "resolve,batch,list,write,admin"]);
    let begin = now(&node, &good);
    let refused = poll(&node, &other, &format!("after={begin}"));
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (403, &"token_not_allowed".into())
    );
    assert_eq!(node.ask("https", PATH, &[]).status, 401);
    assert_eq!(node.admin(PATH, &[]).status, 403, "a token it must be");
    let header = format!("Authorization: Bearer {good}");
    assert_eq!(node.ask("http", PATH, &["-H", &header]).status, 403);
    assert_eq!(ask(&node, &good, PATH, &["-X", "POST"]).status, 405);
    let head = ask(
        &node,
        &good,
        &format!("{PATH}?after={begin}&wait=60"),
        &["-I"],
    );
    assert_eq!(head.status, 200);
    let broken = format!("{}AA", &begin[..begin.len() - 2]);
    for query in [
        "after=",
        "after=0",
        &format!("after={broken}"),
        "wait=61",
        "wait=x",
        "limit=0",
        "limit=10001",
    ] {
        let reply = poll(&node, &good, query);
        let name = query.split('=').next().unwrap();
        assert_eq!(
            (reply.status, &reply.json()["field"]),
            (400, &name.into()),
            "{query}"
        );
    }
    let chinese = ask(
        &node,
        &good,
        &format!("{PATH}?after=x"),
        &["-H", "Accept-Language: zh"],
    );
    assert!(
        chinese.json()["detail"].as_str().unwrap().contains("游标"),
        "{chinese:?}"
    );
    // Who follows is in the audit trail: once, and every refusal.
    for _ in 0..3 {
        now(&node, &good);
        poll(&node, &other, "wait=0");
    }
    let trail = node.must(&["audit", "-o", "json", "--config", &node.config()]);
    let count = |result: &str| {
        let both = |line: &&str| line.contains("\"follow\"") && line.contains(result);
        trail.lines().filter(both).count()
    };
    assert_eq!((count("committed"), count("refused")), (1, 4), "{trail}");
    node.must(&["token", "revoke", &id, "--config", &node.config()]);
    assert_eq!(poll(&node, &good, &format!("after={begin}")).status, 401);
}

#[test]
fn a_poll_waits_for_a_change() {
    let node = Node::new();
    let (_, follower) = token(&node, &["--right", "changes", "--prefix", "88.118.21"]);
    let begin = now(&node, &follower);
    let (changes, last) = parts(&poll(&node, &follower, &format!("after={begin}&wait=1")));
    assert_eq!((changes.len(), &last["more"]), (0, &false.into()));
    thread::scope(|scope| {
        let (node, follower, begin) = (&node, &follower, &begin);
        let waiting = scope.spawn(move || {
            let asked = Instant::now();
            let reply = poll(node, follower, &format!("after={begin}&wait=50"));
            (parts(&reply).0, asked.elapsed())
        });
        thread::sleep(Duration::from_millis(500));
        // What others write wakes it and is not for it.
        put(node, "88.118.20/elsewhere", VALUE);
        thread::sleep(Duration::from_millis(500));
        assert!(!waiting.is_finished(), "nothing is there for it");
        put(node, "88.118.21/awaited", VALUE);
        let (changes, took) = waiting.join().unwrap();
        assert_eq!(told(&changes), [("put", "88.118.21/awaited")]);
        assert!(
            took < Duration::from_secs(50),
            "it was told before the time was over"
        );
    });
    // Whoever asks the node to wait makes it no slow one.
    let of = |le: &str| {
        let bucket = "jiexi_request_duration_seconds_bucket";
        node.metric(&format!(
            "{bucket}{{protocol=\"http\",transport=\"tls\",le=\"{le}\"}}"
        ))
    };
    assert_eq!(of("1"), of("+Inf"));
}

/// Goal: nothing is missed and nothing comes twice, whatever the pages are and wherever one is cut. Method: jobs and single
/// changes go on while pages of odd sizes are fetched, one of three gone on with from a line in its middle; the copy that
/// is kept by the lines alone is at last what the records are.
#[test]
fn every_change_once_while_writes_go_on() {
    const ROWS: usize = 6_000;
    const SINGLE: usize = 60;
    let node = Node::new();
    let (_, follower) = token(&node, &["--right", "changes"]);
    let (_, writer) = token(&node, &["--right", "write"]);
    let begin = now(&node, &follower);
    let writing = AtomicBool::new(true);
    let found = thread::scope(|scope| {
        let (node, follower, writing) = (&node, &follower, &writing);
        let following = scope.spawn(move || {
            let (mut found, mut after, mut number) = (Vec::new(), begin, 0);
            loop {
                let over = !writing.load(Relaxed);
                number += 1;
                let limit = [1, 7, 250, 1_000][number % 4];
                let query = format!("after={after}&limit={limit}&wait=1");
                let (mut changes, last) = parts(&poll(node, follower, &query));
                let quiet = changes.is_empty();
                after = cursor(&last);
                if number % 3 == 0 && changes.len() > 1 {
                    changes.truncate(changes.len() / 2);
                    after = cursor(changes.last().unwrap());
                }
                found.extend(changes);
                if over && quiet {
                    return found;
                }
            }
        });
        let job = hand_over(node, &writer, "", NDJSON, &many(0, ROWS));
        for number in 0..SINGLE {
            let handle = format!("88.118.21/s{}", number % 10);
            put(node, &handle, VALUE);
            if number % 4 == 3 {
                delete(node, &handle);
            }
        }
        until(node, &writer, &job, is_over);
        writing.store(false, Relaxed);
        following.join().unwrap()
    });
    let place = |change: &Json| {
        (
            change["sequence"].as_u64().unwrap(),
            change["key"].as_str().unwrap().to_owned(),
        )
    };
    let places: Vec<_> = found.iter().map(place).collect();
    assert!(
        places.is_sorted_by_key(|(sequence, _)| *sequence),
        "in order"
    );
    let once: BTreeSet<_> = places.iter().collect();
    assert_eq!(once.len(), places.len(), "each once");
    assert_eq!(found.len(), ROWS + SINGLE + SINGLE / 4, "all of them");
    // Who takes the lines one by one has what the node has.
    let mut copy: BTreeMap<String, Option<Json>> = BTreeMap::new();
    for change in &found {
        let key = change["key"].as_str().unwrap().to_owned();
        match (change["change"].as_str(), change.get("values")) {
            (Some("delete"), None) => drop(copy.remove(&key)),
            (Some("put"), values) => drop(copy.insert(key, values.cloned())),
            _ => panic!("{change}"),
        }
    }
    assert!(
        copy.values().all(Option::is_some),
        "the last line of each has its values"
    );
    let jobs = (0..ROWS).filter(|number| copy.contains_key(&format!("88.118.20/K{number:07}")));
    assert_eq!(jobs.count(), ROWS);
    for number in 0..10 {
        let handle = format!("88.118.21/S{number}");
        let there = node.get(&format!("/api/handles/{handle}"));
        let values = (there.status == 200).then(|| there.json()["values"].clone());
        assert_eq!(copy.get(&handle).cloned().flatten(), values, "{handle}");
    }
}

/// Records that are more than one import commits as single changes.
const BULK: usize = 18_000;

/// Imports them.
fn bulk(node: &Node) {
    let one = |number| line(&format!("88.118.20/bulk{number}"), "x");
    node.import(&(0..BULK).map(one).collect::<String>());
}

/// What is said to a cursor that reaches too far back; the cursor with which it goes on.
fn too_old(node: &Node, token: &str, after: &str) -> Json {
    let reply = poll(node, token, &format!("after={after}&wait=30"));
    assert_eq!(
        (
            reply.status,
            reply.header("content-type"),
            &reply.json()["code"]
        ),
        (
            410,
            Some("application/problem+json"),
            &"cursor_too_old".into()
        ),
        "{reply:?}"
    );
    let all = node.get("/api/openapi.json").json();
    crate::shapes::check(&all, "GET", PATH, &reply);
    reply.json()["snapshot"].clone()
}

/// Goal: whoever comes too late is told, and comes to a whole copy on the way that is shown. Method: pruned files, a bulk
/// import and a restore; a copy made by listing and resolving while changes go on, then followed.
#[test]
fn what_is_no_longer_known() {
    let mut node = Node::new();
    let (_, follower) = token(
        &node,
        &[
            "--right",
            "changes,list,batch",
            "--prefix",
            "88.118.20",
            "--prefix",
            "88.118.21",
        ],
    );
    let begin = now(&node, &follower);
    put(&node, "88.118.21/one", VALUE);
    let (changes, second) = rest(&node, &follower, begin.clone(), 100);
    assert_eq!(changes.len(), 1);
    // A bulk import is in no journal; what came before it is still told.
    bulk(&node);
    let (changes, last) = parts(&poll(&node, &follower, &format!("after={begin}&wait=0")));
    assert_eq!(
        (told(&changes), &last["more"]),
        (vec![("put", "88.118.21/one")], &true.into())
    );
    let snapshot = too_old(&node, &follower, &cursor(&last));
    too_old(&node, &follower, &second);
    assert_eq!(
        snapshot["prefixes"],
        serde_json::json!(["88.118.20", "88.118.21"])
    );
    // A token that is for no prefixes in particular is shown those that its identity may list.
    let (_, any) = token(&node, &["--right", "changes,list,batch"]);
    assert_eq!(
        too_old(&node, &any, &second)["prefixes"],
        snapshot["prefixes"]
    );
    // The way that is shown: what changes meanwhile is in the copy or behind the cursor.
    put(&node, "88.118.21/meanwhile", VALUE);
    let mut handles = Vec::new();
    for prefix in snapshot["prefixes"].as_array().unwrap() {
        let path = snapshot["handles"].as_str().unwrap();
        let path = path.replace("{prefix}", prefix.as_str().unwrap());
        let mut after = String::new();
        loop {
            let page = ask(&node, &follower, &format!("{path}&limit=10000{after}"), &[]).json();
            let names = page["handles"].as_array().unwrap().iter();
            handles.extend(names.map(|name| name.as_str().unwrap().to_owned()));
            let Some(next) = page["next"].as_str() else {
                break;
            };
            after = format!("&after={next}");
        }
    }
    assert!(handles.len() > BULK && handles.contains(&"88.118.20/bulk0".to_owned()));
    let asked = handles.join("\n");
    assert_eq!(snapshot["records"], "/api/v1/batch/resolve");
    let records = crate::batch::post(&node, &follower, "", asked.as_bytes(), &[]);
    assert_eq!(
        (records.status, records.body.lines().count()),
        (200, handles.len() + 1)
    );
    put(&node, "88.118.21/after", VALUE);
    let (changes, third) = rest(&node, &follower, cursor(&snapshot), 100);
    assert_eq!(
        told(&changes),
        [("put", "88.118.21/meanwhile"), ("put", "88.118.21/after")]
    );
    // A restart changes nothing; what only old snapshots needed goes.
    node.terminate();
    node.start();
    assert_eq!(rest(&node, &follower, cursor(&snapshot), 100).0, changes);
    put(&node, "88.118.21/later", VALUE);
    let (changes, fourth) = rest(&node, &follower, third.clone(), 100);
    assert_eq!(told(&changes), [("put", "88.118.21/later")]);
    let mut snapshots = Vec::new();
    // Older ones are kept until there are two, and what is not synced yet needs the journal.
    let begun = Instant::now();
    while poll(
        &node,
        &follower,
        &format!("after={}&wait=0", cursor(&snapshot)),
    )
    .status
        != 410
    {
        assert!(begun.elapsed() < PATIENCE, "nothing is pruned");
        put(&node, "88.118.21/snapshots", VALUE);
        let taken = node.must(&[
            "store",
            "snapshot",
            "-o",
            "json",
            "--config",
            &node.config(),
        ]);
        snapshots.push(serde_json::from_str::<Json>(&taken).unwrap());
    }
    too_old(&node, &follower, &cursor(&snapshot));
    let (changes, fourth) = rest(&node, &follower, fourth, 1);
    assert_eq!(changes.len(), snapshots.len());
    // Restored, the node is in another life, whose sequences are others.
    let taken = snapshots[snapshots.len() - 1]["path"]
        .as_str()
        .unwrap_or_else(|| panic!("{snapshots:?}"));
    node.terminate();
    node.must(&[
        "store",
        "restore",
        taken,
        "--yes",
        "--config",
        &node.config(),
    ]);
    node.start();
    put(&node, "88.118.21/afterwards", VALUE);
    let fresh = too_old(&node, &follower, &fourth);
    let (changes, _) = rest(&node, &follower, cursor(&fresh), 100);
    assert_eq!(changes.len(), 0);
}

/// Waits until no more polls of a token are taken.
fn full(node: &Node, token: &str, begin: &str) {
    let (begun, mut refused) = (Instant::now(), 0);
    while refused < 10 {
        assert!(begun.elapsed() < PATIENCE, "there are no bounds");
        match poll(node, token, &format!("after={begin}&wait=0")).status {
            429 => refused += 1,
            _ => refused = 0,
        }
    }
}

#[test]
fn polls_are_counted_and_end_with_their_node() {
    let mut node = Node::with(&[
        ("JIEXI_CHANGES_POLLS_PER_TOKEN", "2"),
        ("JIEXI_CHANGES_POLLS_MAX", "3"),
    ]);
    let (_, one) = token(&node, &["--right", "changes"]);
    let (_, two) = token(&node, &["--right", "changes"]);
    let begin = now(&node, &one);
    let begun = Instant::now();
    thread::scope(|scope| {
        let (server, begin) = (&node, &begin);
        let wait = |token: &str| {
            let query = format!("after={begin}&wait=50");
            let token = token.to_owned();
            // One that only looks may be in the way.
            scope.spawn(move || {
                loop {
                    let reply = poll(server, &token, &query);
                    if reply.status != 429 {
                        return reply;
                    }
                }
            })
        };
        let full = |token: &str| full(server, token, begin);
        let waiting = [wait(&one), wait(&one)];
        full(&one);
        let other = wait(&two);
        full(&two);
        let refused = poll(server, &two, "wait=0");
        assert_eq!(
            (refused.status, refused.header("retry-after")),
            (429, Some("1")),
            "{refused:?}"
        );
        put(server, "88.118.20/wakes", VALUE);
        for waiting in waiting.into_iter().chain([other]) {
            assert_eq!(parts(&waiting.join().unwrap()).0.len(), 1);
        }
        // Those that have ended make room.
        while poll(server, &two, "wait=0").status != 200 {
            assert!(begun.elapsed() < PATIENCE, "no room is made");
        }
    });
    // Whoever goes away makes room, too.
    let begin = now(&node, &one);
    for _ in 0..6 {
        let header = format!("Authorization: Bearer {one}");
        let query = format!("{PATH}?after={begin}&wait=50");
        node.ask("https", &query, &["-H", &header, "--max-time", "0.3"]);
    }
    let begun = Instant::now();
    while poll(&node, &one, "wait=0").status != 200 {
        assert!(
            begun.elapsed() < Duration::from_secs(40),
            "who went away still counts"
        );
    }
    let url = format!(
        "https://127.0.0.1:{}{PATH}?after={begin}&wait=50",
        node.http
    );
    let waiting = [(); 2].map(|()| {
        let (url, header) = (url.clone(), format!("Authorization: Bearer {one}"));
        thread::spawn(move || {
            loop {
                let reply = crate::node::curl(&[&url, "-H", &header]);
                if reply.status != 429 {
                    return reply;
                }
            }
        })
    });
    full(&node, &one, &begin);
    node.terminate();
    for waiting in waiting {
        let (changes, last) = parts(&waiting.join().unwrap());
        assert_eq!((changes.len(), cursor(&last)), (0, begin.clone()));
    }
}

#[test]
fn a_revoked_token_ends_its_polls() {
    let node = Node::with(&[PLAIN, ("JIEXI_HTTP_WRITE", "1h")]);
    let (id, waits) = token(&node, &["--right", "changes"]);
    let begin = now(&node, &waits);
    thread::scope(|scope| {
        let (server, begin) = (&node, &begin);
        let waiting = scope.spawn(move || poll(server, &waits, &format!("after={begin}&wait=55")));
        thread::sleep(Duration::from_secs(1));
        assert!(!waiting.is_finished());
        server.must(&["token", "revoke", &id, "--config", &server.config()]);
        let revoked = Instant::now();
        let reply = waiting.join().unwrap();
        assert_eq!(
            (reply.status, &reply.json()["code"]),
            (401, &"token_not_valid".into())
        );
        // Five seconds are promised; the rest is for a machine under load.
        assert!(
            revoked.elapsed() < Duration::from_secs(15),
            "{:?}",
            revoked.elapsed()
        );
    });
    // So do answers to clients that do not read: pages, and windows that do not hold them.
    let (id, deaf) = token(&node, &["--right", "changes"]);
    let (_, writer) = token(&node, &["--right", "write"]);
    let rows: String = (0..4_000)
        .map(|number| line(&format!("88.118.20/long{number}"), &"x".repeat(600)))
        .collect();
    let job = hand_over(&node, &writer, "", NDJSON, rows.as_bytes());
    until(&node, &writer, &job, is_over);
    // They stop at different places: the very last octets of an answer are with the connection already.
    let mut clients = [0, 300_000, 600_000].map(|read| deaf_client(&node, &deaf, &begin, read));
    node.must(&["token", "revoke", &id, "--config", &node.config()]);
    thread::sleep(Duration::from_secs(6));
    let mut cut = 0;
    for (stream, heard) in &mut clients {
        // An end or a reset.
        let _ = stream.read_to_end(heard);
        let heard = String::from_utf8_lossy(heard);
        let (begun, ended) = (
            heard.matches("HTTP/1.1 200 OK").count(),
            heard.matches("\"complete\":true").count(),
        );
        assert!(ended < ANSWERS, "not all of it arrives");
        cut += begun - ended;
    }
    assert!(cut > 0, "an answer is cut in its middle");
}

/// Answers that a client asks for which reads nothing: more than all buffers on the way hold.
const ANSWERS: usize = 12;

/// A client that asks for many pages, reads so many octets, and then nothing more.
fn deaf_client(node: &Node, token: &str, begin: &str, read: usize) -> (TcpStream, Vec<u8>) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], node.http));
    socket.connect(&address.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let ask = |left: usize| {
        let connection = if left == 0 { "close" } else { "keep-alive" };
        format!(
            "GET {PATH}?after={begin}&limit=10000 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             Connection: {connection}\r\n\r\n"
        )
    };
    let questions: String = (0..ANSWERS).rev().map(ask).collect();
    stream.write_all(questions.as_bytes()).unwrap();
    let mut heard = vec![0; 15 + read];
    stream.read_exact(&mut heard).unwrap();
    assert!(heard.starts_with(b"HTTP/1.1 200 OK"));
    (stream, heard)
}

#[test]
fn handles_page_by_page() {
    let node = Node::new();
    let (_, lists) = token(&node, &["--right", "list"]);
    let (_, narrow) = token(&node, &["--right", "list", "--prefix", "88.118.21"]);
    let (_, follows) = token(&node, &["--right", "changes"]);
    node.import(&format!(
        "{}{{\"handle_hex\":\"{}\",\"values_hex\":[\"000000016500000000000151800e0000000355524c000000017800000000\"]}}\n{}",
        (0..25).map(|n| line(&format!("88.118.21/{}{n:02}", if n % 2 == 0 { "a" } else { "B" }), "x")).collect::<String>(),
        hex::encode(b"88.118.21/m\xff\xfe"),
        line("88.118.21/z", "x"),
    ));
    let asked = |token: &str, path: &str| {
        loop {
            let reply = ask(&node, token, path, &[]);
            if reply.status != 429 {
                return reply;
            }
            // Lists have a limit of their own.
            thread::sleep(Duration::from_millis(500));
        }
    };
    let page = |token: &str, query: &str| asked(token, &format!("{LIST}?{query}"));
    for limit in [2, 7, 26, 27, 28] {
        let (mut names, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let reply = page(&lists, &format!("prefix=88.118.21&limit={limit}{after}"));
            assert_eq!(reply.status, 200, "{reply:?}");
            let json = reply.json();
            let some = json["handles"].as_array().unwrap();
            assert!(some.len() <= limit);
            names.extend(some.iter().map(|name| name.as_str().unwrap().to_owned()));
            pages += 1;
            assert!(pages <= 14, "it comes to an end: {names:?}");
            let Some(next) = json["next"].as_str() else {
                break;
            };
            after = format!("&after={next}");
        }
        let mut sorted = names.clone();
        sorted.sort_by_key(|name| name.to_uppercase());
        assert_eq!((names.len(), &names), (27, &sorted), "limit {limit}");
        assert_eq!(pages, 27_usize.div_ceil(limit), "limit {limit}");
    }
    let behind = page(&lists, "prefix=88.118.21&after=88.118.21/b23").json();
    assert_eq!(
        behind["handles"][1], "88.118.21/z",
        "any handle, as anybody writes it: {behind}"
    );
    // The Handle JSON API goes on behind a name that is no text, too.
    let old = asked(&lists, "/api/handles?prefix=88.118.21&pageSize=26").json();
    let next = old["next"].as_str().unwrap();
    let last = asked(
        &lists,
        &format!("/api/handles?prefix=88.118.21&after={next}"),
    )
    .json();
    assert_eq!(last["handles"], serde_json::json!(["88.118.21/z"]), "{old}");
    for (token, query, status) in [
        (&narrow, "prefix=88.118.21", 200),
        (&narrow, "prefix=88.118.20", 403),
        (&follows, "prefix=88.118.21", 403),
        (&lists, "prefix=10.1", 400),
        (&lists, "prefix=", 400),
        (&lists, "limit=5", 400),
        (&lists, "prefix=88.118.21&limit=0", 400),
        (&lists, "prefix=88.118.21&limit=10001", 400),
        (&lists, "prefix=88.118.21&after=88.118.20/pump", 400),
        (&lists, "prefix=88.118.21&after=88.118.211/a", 400),
        (&lists, "prefix=88.118.21&after=0", 400),
        (&lists, "prefix=88.118.21&after=", 200),
    ] {
        let reply = page(token, query);
        assert_eq!(reply.status, status, "{query}: {reply:?}");
        if status != 200 {
            assert_eq!(
                reply.header("content-type"),
                Some("application/problem+json")
            );
        }
    }
    assert_eq!(
        node.ask("https", &format!("{LIST}?prefix=88.118.21"), &[])
            .status,
        401
    );
    let trail = node.must(&[
        "audit",
        "--handle",
        "0.NA/88.118.21",
        "--config",
        &node.config(),
    ]);
    assert!(
        trail.contains("list") && trail.contains("committed"),
        "{trail}"
    );
    // Both lists share one limit for each network.
    let begun = Instant::now();
    let limited = loop {
        let reply = ask(
            &node,
            &lists,
            &format!("{LIST}?prefix=88.118.21&limit=1"),
            &[],
        );
        if reply.status == 429 {
            break reply;
        }
        assert!(begun.elapsed() < PATIENCE, "no limit");
    };
    assert!(limited.header("retry-after").is_some());
}

/// Goal: the command prints each change once, keeps its place, goes on when the node was away, and says what to do when it
/// comes too late.
#[test]
fn the_command() {
    let mut node = Node::with(&[PLAIN]);
    let (_, good) = token(&node, &["--right", "changes"]);
    let (_, other) = token(&node, &["--right", "list"]);
    let (secret, wrong, place) = (node.path("secret"), node.path("wrong"), node.path("place"));
    fs::write(&secret, &good).unwrap();
    fs::write(&wrong, &other).unwrap();
    let server = format!("http://127.0.0.1:{}", node.http);
    let command = |node: &Node, secret: &Path, more: &[&str]| {
        let mut command = node.command();
        let fixed = ["changes", "follow", "--server", &server, "--token-file"];
        command.args(fixed).arg(secret).args(more);
        command
    };
    let once = |node: &Node, more: &[&str]| {
        let mut command = command(node, &secret, &[&["--once"][..], more].concat());
        let output = command.output().unwrap();
        let text = |octets| String::from_utf8(octets).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let kept = ["--cursor-file", place.to_str().unwrap()];
    assert_eq!(once(&node, &kept).0, Some(0));
    let begin = fs::read_to_string(&place).unwrap().trim().to_owned();
    put(&node, "88.118.20/first", VALUE);
    put(&node, "88.118.20/second", VALUE);
    let handles = |text: &str| -> Vec<String> {
        let lines = text
            .lines()
            .map(|line| serde_json::from_str::<Json>(line).unwrap());
        lines
            .map(|line| line["handle"].as_str().unwrap().to_owned())
            .collect()
    };
    let (code, text, said) = once(&node, &kept);
    assert_eq!(
        (code, handles(&text)),
        (
            Some(0),
            vec!["88.118.20/first".into(), "88.118.20/second".into()]
        ),
        "{said}"
    );
    assert_eq!(once(&node, &kept), (Some(0), String::new(), String::new()));
    let (_, again, _) = once(&node, &["--after", &begin]);
    assert_eq!(again, text, "without a file nothing is kept");
    // One that follows goes on when its node was away.
    let log = node.path("followed");
    let mut following = command(&node, &secret, &kept);
    let mut following = following
        .stdout(fs::File::create(&log).unwrap())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let followed = |expected: &[&str]| {
        let begun = Instant::now();
        while handles(&whole_lines(&fs::read_to_string(&log).unwrap())) != expected {
            assert!(
                begun.elapsed() < PATIENCE,
                "{}",
                fs::read_to_string(&log).unwrap()
            );
            thread::sleep(Duration::from_millis(50));
        }
    };
    put(&node, "88.118.20/third", VALUE);
    followed(&["88.118.20/third"]);
    node.kill();
    node.start();
    put(&node, "88.118.20/fourth", VALUE);
    followed(&["88.118.20/third", "88.118.20/fourth"]);
    following.kill().unwrap();
    following.wait().unwrap();
    bulk(&node);
    let (code, text, said) = once(&node, &["--after", &begin]);
    assert_eq!(code, Some(3), "{said}");
    assert_eq!(handles(&text).len(), 4, "what is known before that is told");
    let fresh = said.trim().rsplit(' ').next().unwrap();
    assert_eq!(
        once(&node, &["--after", fresh]),
        (Some(0), String::new(), String::new())
    );
    let refused = command(&node, &wrong, &["--once"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("403"));
    assert_eq!(once(&node, &["--after", "nonsense"]).0, Some(1));
}

/// Text up to its last end of a line.
fn whole_lines(text: &str) -> String {
    text.rsplit_once('\n')
        .map_or("", |(whole, _)| whole)
        .to_owned()
}

/// Goal: two restores of one repository are two lives of the store, each with sequences of its own. Method: one is made
/// after the other, in another second; with the cursor of one the other is asked.
#[test]
fn two_restores_are_not_one_life() {
    let first = Node::new();
    put(&first, "88.118.20/kept", VALUE);
    let (_, follower) = token(&first, &["--right", "changes,list,batch"]);
    let repository = first.path("repository");
    let repository = repository.to_str().unwrap();
    first.must(&["backup", "create", repository, "--config", &first.config()]);
    let restored = |node: &mut Node| {
        node.terminate();
        fs::remove_dir_all(node.data().join("store")).unwrap();
        for file in ["node.key", "site.json"] {
            fs::copy(first.data().join(file), node.data().join(file)).unwrap();
        }
        fs::remove_dir_all(node.data().join("audit")).unwrap();
        node.must(&["backup", "restore", repository, "--config", &node.config()]);
        node.start();
        let stats = node.must(&["store", "stats", "-o", "json", "--config", &node.config()]);
        serde_json::from_str::<Json>(&stats).unwrap()["epoch"]
            .as_u64()
            .unwrap()
    };
    let (mut second, mut third) = (Node::new(), Node::new());
    let epoch = restored(&mut second);
    let begun = Instant::now();
    while u64::from(jiexi::clock::unix_seconds()) <= epoch {
        assert!(begun.elapsed() < PATIENCE, "the clock stands still");
        thread::sleep(Duration::from_millis(20));
    }
    assert!(restored(&mut third) > epoch);
    let (ours, theirs) = (now(&second, &follower), now(&third, &follower));
    for node in [&second, &third] {
        put(node, "88.118.20/after", VALUE);
    }
    for (node, own, other) in [(&second, &ours, &theirs), (&third, &theirs, &ours)] {
        assert_eq!(
            told(&rest(node, &follower, own.clone(), 100).0),
            [("put", "88.118.20/after")]
        );
        too_old(node, &follower, other);
    }
}
