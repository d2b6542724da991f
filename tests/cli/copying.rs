//! Goal: all that a server has is here afterwards, value by value, however often the copy was cut, and nothing that somebody
//! else has put in its place. Method: copies of a running node, which speaks as CNRI's servers do; `tests/interop` does the
//! same with one of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{fs, thread};

use jiexi::bulk::import::Known;
use jiexi::control::client::Node;
use jiexi::control::command::{Command, Outcome, Progress};
use serde_json::Value as Json;

use crate::bulk::export;
use crate::change::{init, serve};
use crate::node::Running;
use crate::ports::free_port;
use crate::support::{Run, directory, run, run_with, vectors};

/// Everything about a value that could be lost.
const OWN: &str = r#"{"handle":"88.118.8/Own","values":[
{"index":2147483647,"type":"URL.X","data":{"format":"base64","value":"AP8="},"ttl":"2030-01-01T00:00:00Z",
"timestamp":"2001-02-03T04:05:06Z","permissions":"1011","references":[{"handle":"88.118.8/a","index":300}]},
{"index":301,"type":"HS_SECKEY","data":"a secret","ttl":0,"permissions":"1100"}]}"#;

/// A node that lets its administrator copy it.
fn source(directory: &Path, secrets: bool) -> Running {
    let port = free_port();
    init(directory, "source", "88.118.8", port);
    let path = directory.join("source/jiexi.toml");
    let text = fs::read_to_string(&path).expect("a configuration");
    let admins = "replication_admins = [\"300:0.NA/88.118.8\"]";
    let text = text.replace("replication_admins = []", admins).replace(
        "replication_secrets = false",
        &format!("replication_secrets = {secrets}"),
    );
    fs::write(&path, text).expect("written");
    let fixture = fs::read_to_string(vectors().join("fixture.ndjson")).expect("the fixture");
    // Not the record of its own administrator.
    let lines = fixture
        .lines()
        .filter(|line| !line.contains("\"0.NA/88.118.8\""));
    let lines: Vec<&str> = lines.collect();
    let lines = format!("{}\n{}\n", lines.join("\n"), OWN.replace('\n', ""));
    run_with(
        directory,
        &["import", "-", "--data", "source"],
        lines.as_bytes(),
    )
    .expect(0);
    serve(directory, "source", port)
}

/// Puts that many more handles into the source.
fn more(directory: &Path, count: usize) {
    let mut lines = String::new();
    for number in 0..count {
        let data = "x".repeat(200);
        writeln!(
            lines,
            r#"{{"handle":"88.118.8/n{number}","values":[{{"index":1,"type":"URL","data":"{data}{number}"}}]}}"#
        )
        .expect("writes");
    }
    run_with(
        directory,
        &["import", "-", "--data", "source"],
        lines.as_bytes(),
    )
    .expect(0);
}

fn copy(directory: &Path, server: &str, arguments: &[&str]) -> Run {
    let fixed = [
        "migrate",
        "dump",
        "--data",
        "target",
        "--identity",
        "300:0.NA/88.118.8",
        "--key",
        "source/admin.key",
    ];
    let server: &[&str] = if server.is_empty() {
        &[]
    } else {
        &["--server", server]
    };
    run(directory, &[&fixed[..], server, arguments].concat())
}

/// Values in wire form by folded handles, and homed prefixes.
fn contents(directory: &Path, data: &str) -> BTreeMap<String, Json> {
    let lines = export(directory, data, &["--with-secrets", "--hex"]);
    let entry = |line: Json| {
        let name = line["handle"].as_str().or_else(|| line["prefix"].as_str());
        (
            name.expect("a name").to_ascii_uppercase(),
            line["values_hex"].clone(),
        )
    };
    lines.into_iter().map(entry).collect()
}

/// The contents of the source, and what of the target is not of its own prefix.
#[track_caller]
fn assert_copied(directory: &Path) {
    let mut target = contents(directory, "target");
    target.retain(|name, _| !name.contains("88.200"));
    assert_eq!(target, contents(directory, "source"));
}

/// What a copy comes to, whether the target runs or not.
fn everything(directory: &Path, server: &str) {
    let before = contents(directory, "target");
    let looked = copy(directory, server, &["--dry-run", "-o", "json"])
        .expect(0)
        .json();
    assert_eq!(contents(directory, "target"), before, "nothing was changed");
    let done = copy(directory, server, &["-o", "json"]).expect(0).json();
    assert_copied(directory);
    let all = contents(directory, "source").len() as u64;
    let prefixes = done["prefixes"].as_array().expect("prefixes").len() as u64;
    assert_eq!(done["handles"]["new"], all - prefixes);
    assert_eq!(
        (&looked["dryRun"], &done["dryRun"]),
        (&true.into(), &false.into())
    );
    for part in [
        "handles", "values", "secrets", "prefixes", "refusals", "notes",
    ] {
        assert_eq!(
            looked[part], done[part],
            "the dry run says the same of {part}"
        );
    }
    assert_eq!(done["complete"], true);
    assert!(done["secrets"].as_u64() > Some(0), "{done}");

    // Again: everything is here already.
    let again = copy(directory, server, &["-o", "json"]).expect(0).json();
    assert_eq!(again["handles"]["same"], all - prefixes);
    assert_eq!(again["handles"]["new"], 0);
}

#[test]
fn into_a_stopped_node() {
    let directory = directory();
    let directory = directory.path();
    let source = source(directory, true);
    init(directory, "target", "88.200", free_port());
    everything(directory, &source.server());

    // What is here with other values stays, unless it is to be replaced; what has changed there comes.
    let line = br#"{"handle":"88.118.8/test1","values":[{"index":1,"type":"URL","data":"mine"}]}"#;
    run_with(directory, &["import", "-", "--data", "target"], line).expect(0);
    more(directory, 3);
    let kept = copy(directory, &source.server(), &["-o", "json"]).expect(1);
    let json = kept.json();
    assert_eq!(
        (&json["handles"]["kept"], &json["handles"]["new"]),
        (&1.into(), &3.into())
    );
    assert_eq!(json["kept"][0], "88.118.8/TEST1");
    assert!(
        kept.stderr.contains("--overwrite replaces them"),
        "{}",
        kept.stderr
    );
    let looked = copy(directory, &source.server(), &["--overwrite", "--dry-run"]).expect(0);
    assert!(
        looked.stdout.contains("would be replaced"),
        "{}",
        looked.stdout
    );
    let replaced = copy(directory, &source.server(), &["--overwrite", "-o", "json"]).expect(0);
    assert_eq!(replaced.json()["handles"]["replaced"], 1);
    assert_copied(directory);
    run(directory, &["store", "verify", "--data", "target"]).expect(0);
}

#[test]
fn into_a_running_node() {
    let directory = directory();
    let directory = directory.path();
    let source = source(directory, true);
    let port = free_port();
    init(directory, "target", "88.200", port);
    let target = serve(directory, "target", port);
    everything(directory, &source.server());
    let secret = run(
        directory,
        &[
            "handle", "list", "88.118.8", "--data", "target", "-o", "json",
        ],
    )
    .expect(0);
    assert!(secret.stdout.lines().count() > 5);
    drop(target);
}

/// Goal: only who may copies, only from whom was named, and nothing goes in clear that was not to.
#[test]
fn who_and_from_whom() {
    let directory = directory();
    let directory = directory.path();
    let source = source(directory, true);
    init(directory, "target", "88.200", free_port());
    let server = source.server();
    for arguments in [&["--session"][..], &["--encrypt"]] {
        copy(directory, &server, arguments).expect(2);
    }
    copy(directory, "", &[]).expect(2);
    run(
        directory,
        &["migrate", "dump", "--server", &server, "--data", "target"],
    )
    .expect(2);
    let nobody = run(
        directory,
        &[
            "migrate",
            "dump",
            "--server",
            &server,
            "--data",
            "target",
            "--identity",
            "300:0.NA/88.200",
            "--key",
            "target/admin.key",
        ],
    )
    .expect(1);
    assert!(nobody.stderr.contains("(code 4"), "{}", nobody.stderr);

    // Somebody with another key at the same place.
    let site = fs::read_to_string(directory.join("source/site.json")).expect("a site record");
    let (mut site, other): (Json, Json) = (
        serde_json::from_str(&site).expect("JSON"),
        serde_json::from_slice(&fs::read(directory.join("target/site.json")).expect("reads"))
            .expect("JSON"),
    );
    copy(
        directory,
        "",
        &["--site-record", "source/site.json", "--dry-run"],
    )
    .expect(0);
    site["servers"][0]["publicKey"] = other["servers"][0]["publicKey"].clone();
    fs::write(directory.join("false.json"), site.to_string()).expect("written");
    let before = contents(directory, "target");
    for clear in [&[][..], &["--clear"]] {
        let arguments = [&["--site-record", "false.json"], clear].concat();
        let untrusted = copy(directory, "", &arguments).expect(1);
        assert!(!untrusted.stderr.is_empty());
    }
    assert_eq!(contents(directory, "target"), before);

    // That it may be in clear does not make it so: secrets come, which this node sends inside TLS alone.
    let clear = copy(directory, &server, &["--clear", "-o", "json"])
        .expect(0)
        .json();
    assert_eq!(clear["secrets"], 1);
}

/// Passes connections on to a server, and cuts each after so many octets of it.
fn cutting(server: &str, after: &Arc<AtomicU64>) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listens");
    let address = listener.local_addr().expect("an address").to_string();
    let (server, after) = (server.to_owned(), Arc::clone(after));
    thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(mut client), Ok(mut there)) = (client, TcpStream::connect(&server)) else {
                return;
            };
            let (mut from, mut to) = (
                client.try_clone().expect("a clone"),
                there.try_clone().expect("a clone"),
            );
            thread::spawn(move || std::io::copy(&mut from, &mut to));
            let left = after.load(Relaxed);
            thread::spawn(move || {
                let (mut left, mut buffer) =
                    (usize::try_from(left).unwrap_or(usize::MAX), [0; 4096]);
                while left > 0 {
                    let wanted = left.min(buffer.len());
                    let read = there.read(&mut buffer[..wanted]).unwrap_or(0);
                    if read == 0 || client.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                    left -= read;
                }
                // Whoever is at either end is told.
                let _ = client.shutdown(Shutdown::Both);
                let _ = there.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

/// Goal: a copy that is cut says so, keeps what has come, and the same command goes on from there. Method: a connection that
/// ends after more and more
/// octets.
#[test]
fn cut_copies_go_on() {
    let directory = directory();
    let directory = directory.path();
    let source = source(directory, true);
    more(directory, 2_000);
    init(directory, "target", "88.200", free_port());
    let after = Arc::new(AtomicU64::new(0));
    let server = cutting(&source.server(), &after);
    let mut here = 0;
    for octets in [2_000, 100_000, 300_000] {
        after.store(octets, Relaxed);
        let cut = copy(directory, &server, &["-o", "json"]).expect(1);
        assert!(
            cut.stderr.contains("the same command goes on"),
            "{}",
            cut.stderr
        );
        let json = cut.json();
        assert_eq!(json["complete"], false);
        assert_eq!(
            json["handles"]["same"], here,
            "what came before is not written again"
        );
        here += json["handles"]["new"].as_u64().expect("a number");
        let prefixes = export(directory, "target", &[]);
        let homed = prefixes.iter().any(|line| line["prefix"] == "88.118.8");
        assert!(!homed, "it does not answer for a part");
    }
    assert!(here > 100, "{here}");
    after.store(u64::MAX, Relaxed);
    let done = copy(directory, &server, &["-o", "json"]).expect(0).json();
    assert_eq!(done["handles"]["same"], here);
    assert_copied(directory);
}

/// Goal: what a client writes while an import that keeps what is here has looked and not yet written is kept, and named.
/// Method: the lines of an import stay open behind the first thousand, which are looked at by then and written at the end.
#[test]
fn what_comes_meanwhile_is_kept() {
    let directory = directory();
    let directory = directory.path();
    let port = free_port();
    init(directory, "target", "88.200", port);
    let target = serve(directory, "target", port);
    let node = Node::connect(&directory.join("target/control.sock")).expect("connects");
    let command = Command::Import {
        keep_going: true,
        live: false,
        known: Known::Keep,
        dry_run: false,
    };
    let lines: String = (0..1_000)
        .map(|number| {
            format!(
                "{{\"handle\":\"88.200/n{number}\",\"values\":[{{\"index\":1,\"type\":\"URL\",\"data\":\"old\"}}]}}\n"
            )
        })
        .collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (mut pipe, input) = tokio::io::duplex(1 << 20);
    let (looked, mut wait) = tokio::sync::mpsc::unbounded_channel();
    let mut kept = Vec::new();
    let on_progress = |progress| match progress {
        Progress::Counts(counts) => drop(looked.send(counts.lines)),
        Progress::Kept { handle } => kept.push(handle),
        other => panic!("{other:?}"),
    };
    let importing = node
        .expect("it runs")
        .run(command, Some(input), |_| Ok(()), on_progress);
    let meanwhile = async {
        use tokio::io::AsyncWriteExt as _;
        pipe.write_all(lines.as_bytes()).await.expect("writes");
        while wait.recv().await.expect("it goes on") < 1_000 {}
        let arguments = ["migrate", "batch", "live.batch", "--data", "target"];
        fs::write(
            directory.join("live.batch"),
            "CREATE 88.200/N5\n1 URL 60 1110 UTF8 live\n\nCREATE 88.200/n7\n1 URL 60 1110 UTF8 live\n",
        )
        .expect("written");
        tokio::task::block_in_place(|| run(directory, &arguments).expect(0));
        drop(pipe);
    };
    let (outcome, ()) = runtime.block_on(async { tokio::join!(importing, meanwhile) });
    let Ok(Outcome::Counts(counts)) = outcome else {
        panic!("{outcome:?}")
    };
    let here = contents(directory, "target");
    let live = |name: &str| {
        let wire = here[name][0].as_str().expect("a value");
        wire.contains(&hex::encode("live"))
    };
    assert!(live("88.200/N5") && live("88.200/N7") && !live("88.200/N6"));
    assert_eq!((counts.records, counts.kept), (998, 2));
    assert_eq!(kept, ["88.200/n5", "88.200/n7"]);
    drop(target);
}

/// Goal: a list that is cut says so. Method: more handles than are named are here with other values.
#[test]
fn long_lists_are_cut_and_say_so() {
    let directory = directory();
    let directory = directory.path();
    let source = source(directory, false);
    more(directory, 10_001);
    init(directory, "target", "88.200", free_port());
    let mut lines = String::new();
    for number in 0..10_001 {
        writeln!(
            lines,
            r#"{{"handle":"88.118.8/n{number}","values":[{{"index":1,"type":"URL","data":"mine"}}]}}"#
        )
        .expect("writes");
    }
    run_with(
        directory,
        &["import", "-", "--data", "target"],
        lines.as_bytes(),
    )
    .expect(0);
    let kept = copy(directory, &source.server(), &["-o", "json"]).expect(1);
    let json = kept.json();
    assert_eq!(json["handles"]["kept"], 10_001);
    assert_eq!(json["kept"].as_array().map(Vec::len), Some(10_000));
    assert_eq!(json["truncated"], true);
    let said = "jiexi: 9981 more are kept; -o json names the first 10000";
    assert!(kept.stderr.contains(said), "{}", kept.stderr);
    let few = copy(directory, &source.server(), &["--overwrite", "-o", "json"]).expect(0);
    assert_eq!(few.json()["truncated"], false);
}
