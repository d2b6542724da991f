//! Goal: `status` and `doctor` tell the truth about a node that runs, one that does not, and one that cannot. Method: a
//! node whose ports are all in its file, with DNS and a certificate that openssl makes.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value as Json;

use crate::ports::free_port;
use crate::support::{Run, directory, jiexi, node, run};

const PATIENCE: Duration = Duration::from_secs(60);

/// A node in `directory`, not started, every port of its own, and the ports.
fn set_up(directory: &Path) -> (PathBuf, [u16; 5]) {
    let data = node(directory, "n");
    let made = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "90",
        ])
        .args(["-subj", "/CN=localhost", "-keyout"])
        .arg(data.join("tls.key"))
        .arg("-out")
        .arg(data.join("tls.pem"))
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("openssl").success());
    let ports = [(); 5].map(|()| free_port());
    let file = data.join("jiexi.toml");
    let mut text = fs::read_to_string(&file).expect("a file");
    for (from, to) in [
        ("port = 2641", format!("port = {}", ports[0])),
        ("port = 8000", format!("port = {}", ports[1])),
        ("\nport = 53\n", format!("\nport = {}\n", ports[2])),
        ("tls_port = 853", format!("tls_port = {}", ports[3])),
        ("127.0.0.1:9641", format!("127.0.0.1:{}", ports[4])),
        (
            r#"listen = ["0.0.0.0", "::"]"#,
            r#"listen = ["127.0.0.1"]"#.into(),
        ),
        ("enabled = false", "enabled = true".into()),
        (
            "certificate = \"\"\nkey = \"\"",
            "certificate = \"tls.pem\"\nkey = \"tls.key\"".into(),
        ),
        (
            "disk_free_min = \"1GiB\"\ndisk_free_percent = 5",
            "disk_free_min = \"1MiB\"\ndisk_free_percent = 0".into(),
        ),
    ] {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, &to);
    }
    text += "\n[[dns.zones]]\nname = \"id.example.net\"\nmapping = \"handle\"\nnameservers = [\"ns.example.net\"]\n\
             mail = \"hostmaster.example.net\"\n";
    fs::write(&file, text).expect("written");
    // The site record names the port, as `init --port` would have it.
    let site = data.join("site.json");
    let text = fs::read_to_string(&site).expect("a file");
    fs::write(&site, text.replace("2641", &ports[0].to_string())).expect("written");
    (data, ports)
}

fn ask(directory: &Path, command: &str) -> Run {
    let output = jiexi(directory)
        .args([command, "--data", "n", "-o", "json"])
        .output()
        .expect("starts");
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Findings as (check, verdict, what was found). The exit code agrees with them.
fn findings(directory: &Path) -> Vec<(String, String, String)> {
    let run = ask(directory, "doctor");
    let Json::Array(found) = run.json() else {
        panic!("no list: {}", run.stdout)
    };
    let text = |finding: &Json, key: &str| finding[key].as_str().expect("text").to_owned();
    let found: Vec<_> = found
        .iter()
        .map(|finding| {
            let verdict = text(finding, "verdict");
            assert_eq!(
                verdict == "ok",
                text(finding, "advice").is_empty(),
                "{finding}"
            );
            (text(finding, "check"), verdict, text(finding, "found"))
        })
        .collect();
    let bad = found.iter().any(|(_, verdict, _)| verdict == "failed");
    assert_eq!(run.code, i32::from(bad), "{found:?}");
    found
}

/// The verdicts of one check.
fn verdicts<'a>(found: &'a [(String, String, String)], check: &str) -> Vec<&'a str> {
    let of_check = found.iter().filter(|(name, ..)| name == check);
    of_check.map(|(_, verdict, _)| verdict.as_str()).collect()
}

struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The node, ready.
fn served(directory: &Path) -> Served {
    let serve = jiexi(directory)
        .args(["serve", "--data", "n"])
        .stderr(Stdio::null())
        .spawn();
    let served = Served(serve.expect("starts"));
    let begun = Instant::now();
    while ask(directory, "status").code != 0 {
        assert!(begun.elapsed() < PATIENCE, "the node gets ready");
        thread::sleep(Duration::from_millis(50));
    }
    served
}

#[test]
fn a_node_that_runs_answers_by_every_protocol() {
    let directory = directory();
    let (data, ports) = set_up(directory.path());
    let serve = jiexi(directory.path())
        .args(["serve", "--data", "n"])
        .stderr(Stdio::null())
        .spawn();
    let _served = Served(serve.expect("starts"));
    let begun = Instant::now();
    let status = loop {
        let status = ask(directory.path(), "status");
        if status.code == 0 {
            break status.json();
        }
        assert!(begun.elapsed() < PATIENCE, "{}", status.stderr);
        thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(
        (&status["ready"], &status["state"]),
        (&true.into(), &"ready".into())
    );
    assert_eq!(
        (&status["prefixes"], &status["store_errors"]),
        (&1.into(), &0.into())
    );
    assert_eq!(status["configuration_good"], true);
    assert!(
        status["certificate_seconds"].as_i64().expect("a number") > 80 * 86_400,
        "{status}"
    );
    // Connections that say nothing keep nobody from asking.
    let silent: Vec<_> = (0..200)
        .map(|_| TcpStream::connect(("127.0.0.1", ports[4])).expect("connects"))
        .collect();
    ask(directory.path(), "status").expect(0);
    drop(silent);
    let found = findings(directory.path());
    for check in ["configuration", "keys", "node", "disk"] {
        assert_eq!(verdicts(&found, check), ["ok"], "{found:?}");
    }
    assert_eq!(verdicts(&found, "certificates"), ["ok", "ok"]);
    // Handle over UDP and TCP, HTTP with HTTPS, DNS over UDP, TCP and TLS; then both ways to the site record's address.
    let answers: Vec<_> = found
        .iter()
        .filter(|(check, ..)| check == "answers")
        .collect();
    assert_eq!(answers.len(), 8, "{answers:?}");
    assert!(
        answers.iter().all(|(_, verdict, _)| verdict == "ok"),
        "{answers:?}"
    );
    // Another certificate than the one that is served.
    fs::copy(data.join("node.key"), data.join("tls.key")).expect("copied");
    assert_eq!(
        verdicts(&findings(directory.path()), "certificates"),
        ["failed"]
    );
}

#[test]
fn a_node_that_does_not_run_is_told_why() {
    let directory = directory();
    let (data, ports) = set_up(directory.path());
    ask(directory.path(), "status").expect(1);
    // The ports are taken, as by another program.
    let holders =
        ports.map(|port| TcpListener::bind(("127.0.0.1", port)).expect("the port is this test's"));
    let found = findings(directory.path());
    let taken = verdicts(&found, "ports");
    assert_eq!(
        taken.iter().filter(|verdict| **verdict == "failed").count(),
        5,
        "{found:?}"
    );
    drop(holders);
    assert_eq!(verdicts(&findings(directory.path()), "ports"), ["ok"]);
    let (file, key) = (data.join("jiexi.toml"), data.join("node.key"));
    fs::remove_file(&key).expect("removed");
    assert_eq!(verdicts(&findings(directory.path()), "keys"), ["failed"]);
    fs::write(&file, "version = 1\n[handel]\n").expect("written");
    let found = findings(directory.path());
    assert_eq!(verdicts(&found, "configuration"), ["failed"], "{found:?}");
    assert!(found[0].2.contains("handel"), "{found:?}");
}

/// Goal: of a node whose store is gone the way back is told that can be gone: `init` refuses where a key is, and the key is in
/// no backup.
#[test]
fn what_is_gone_is_brought_back() {
    let directory = directory();
    let (data, _) = set_up(directory.path());
    let advice = || {
        run(directory.path(), &["doctor", "--data", "n"])
            .expect(1)
            .stdout
    };
    fs::rename(data.join("store"), directory.path().join("store")).expect("moved");
    let said = advice();
    assert!(
        said.contains("`jiexi backup restore`") && !said.contains("jiexi init"),
        "{said}"
    );
    fs::rename(directory.path().join("store"), data.join("store")).expect("moved");
    // Its directory alone is no store either.
    let identity = data.join("store/identity");
    let what = fs::read(&identity).expect("a file");
    fs::remove_file(&identity).expect("removed");
    let said = advice();
    assert!(
        said.contains("no store here")
            && said.contains("`jiexi backup restore`")
            && !said.contains("jiexi init"),
        "{said}"
    );
    fs::write(&identity, what).expect("written");
    fs::remove_file(data.join("node.key")).expect("removed");
    let said = advice();
    assert!(
        said.contains("`jiexi key escrow import`") && !said.contains("backup"),
        "{said}"
    );
}

/// Goal: a typo in the file of a node that runs hides nothing: whoever looks is told of it, and how the node is.
#[test]
fn a_wrong_file_of_a_node_that_runs() {
    let directory = directory();
    let (data, _) = set_up(directory.path());
    let _served = served(directory.path());
    let file = data.join("jiexi.toml");
    let good = fs::read_to_string(&file).expect("a file");
    for wrong in ["[log]\nlevel =", "[log]\nlevl = \"info\""] {
        fs::write(&file, good.replace("[log]", wrong)).expect("written");
        let status = ask(directory.path(), "status").expect(0);
        assert_eq!(status.json()["ready"], true);
        assert!(status.stderr.contains("jiexi.toml:"), "{}", status.stderr);
        let found = findings(directory.path());
        assert!(
            verdicts(&found, "configuration").contains(&"failed"),
            "{found:?}"
        );
        assert_eq!(verdicts(&found, "node"), ["ok"], "{found:?}");
    }
}

/// Goal: whether a node answers is not a matter of whom it asks. Method: it resolves for whoever asks, and the upstream takes
/// every question and says nothing.
#[test]
fn an_upstream_that_swallows() {
    let directory = directory();
    let (data, _) = set_up(directory.path());
    let upstream = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = upstream.local_addr().expect("an address");
    let _datagrams = UdpSocket::bind(address).expect("the same port");
    let file = data.join("jiexi.toml");
    let text = fs::read_to_string(&file).expect("a file");
    let asks = text
        .replace("allow_recursion = false", "allow_recursion = true")
        .replace("upstream = []", &format!("upstream = [\"{address}\"]"))
        .replace("outbound_allow = []", "outbound_allow = [\"127.0.0.0/8\"]");
    fs::write(&file, asks).expect("written");
    let _served = served(directory.path());
    let found = findings(directory.path());
    assert_eq!(verdicts(&found, "answers"), ["ok"; 8], "{found:?}");
}

/// Goal: a node that hangs is told from none at all, and its ports are its own.
#[test]
fn a_node_that_hangs() {
    let directory = directory();
    let _ = set_up(directory.path());
    let served = served(directory.path());
    let process = Pid::from_raw(i32::try_from(served.0.id()).expect("a number"));
    kill(process, Signal::SIGSTOP).expect("told");
    let found = findings(directory.path());
    assert_eq!(verdicts(&found, "node"), ["failed"], "{found:?}");
    assert!(
        found
            .iter()
            .any(|(_, _, text)| text.contains("no answer within 5 s")),
        "{found:?}"
    );
    assert_eq!(verdicts(&found, "ports"), [""; 0], "{found:?}");
    let status = ask(directory.path(), "status").expect(1);
    assert!(
        status.stderr.contains("no answer within 5 s"),
        "{}",
        status.stderr
    );
}

/// Goal: a node whose operations listener was given another place in the file, and that was not started since, runs. Method:
/// it is not told, and its ports are not taken for somebody else's.
#[test]
fn a_node_whose_file_names_another_listener() {
    let directory = directory();
    let (data, ports) = set_up(directory.path());
    let _served = served(directory.path());
    let file = data.join("jiexi.toml");
    let text = fs::read_to_string(&file).expect("a file");
    let (before, after) = (ports[4].to_string(), free_port().to_string());
    fs::write(&file, text.replace(&before, &after)).expect("written");
    let found = findings(directory.path());
    assert_eq!(verdicts(&found, "node"), ["warning"], "{found:?}");
    assert!(
        found
            .iter()
            .any(|(_, _, text)| text.contains("runs, but not with")),
        "{found:?}"
    );
    assert_eq!(verdicts(&found, "ports"), [""; 0], "{found:?}");
    assert_eq!(verdicts(&found, "answers"), ["ok"; 8], "{found:?}");
}

/// Goal: whoever ends `doctor` while it measures the disk leaves nothing in the data directory. Method: no file that it
/// writes there has a name; it is looked for all the time.
#[test]
fn nothing_is_left_of_what_is_measured() {
    let directory = directory();
    let (data, _) = set_up(directory.path());
    let names = || {
        let entries = fs::read_dir(&data).expect("a directory");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    let before = names();
    let mut doctor = jiexi(directory.path())
        .args(["doctor", "--data", "n"])
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let mut seen = before.clone();
    while doctor.try_wait().expect("waits").is_none() {
        seen.extend(names());
    }
    // The check that a directory can be made makes one of its own, which is empty.
    seen.retain(|name| !name.to_string_lossy().starts_with(".check-"));
    assert_eq!(seen, before);
}

/// Goal: another program on the node's port is not taken for the node, whatever it answers.
#[test]
fn another_program_is_no_node() {
    let directory = directory();
    let (_, ports) = set_up(directory.path());
    let listener = TcpListener::bind(("127.0.0.1", ports[4])).expect("the port is this test's");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let _ = lines.find(String::is_empty);
            let _ = (&stream).write_all(b"HTTP/1.0 200 OK\r\n\r\n<html>");
        }
    });
    let status = ask(directory.path(), "status").expect(1);
    assert!(status.stderr.contains("is no node"), "{}", status.stderr);
    let found = findings(directory.path());
    assert_eq!(verdicts(&found, "node"), ["warning"], "{found:?}");
    assert!(verdicts(&found, "ports").contains(&"failed"), "{found:?}");
}

/// Goal: what `serve` refuses, `config check` and `doctor` see before: a token that is missing or too short, a directory for
/// the audit trail that cannot be.
#[test]
fn doctor_sees_what_serve_refuses() {
    let directory = directory();
    let (data, _) = set_up(directory.path());
    let file = data.join("jiexi.toml");
    let good = fs::read_to_string(&file).expect("a file");
    let wrong = |key: &str| {
        for command in [
            &["config", "check", "--data", "n"][..],
            &["serve", "--data", "n"],
        ] {
            let refused = run(directory.path(), command).expect(1);
            assert!(refused.stderr.contains(key), "{}", refused.stderr);
        }
        let found = findings(directory.path());
        assert_eq!(verdicts(&found, "files"), ["failed"], "{found:?}");
        assert!(
            found.iter().any(|(_, _, text)| text.contains(key)),
            "{found:?}"
        );
    };
    assert_eq!(verdicts(&findings(directory.path()), "files"), ["ok"]);
    let token = good.replacen("token_file = \"\"", "token_file = \"token\"", 1);
    fs::write(&file, token).expect("written");
    wrong("[operations] token_file");
    fs::write(data.join("token"), "short").expect("written");
    wrong("[operations] token_file");
    fs::write(data.join("token"), "long enough for a token").expect("written");
    assert_eq!(verdicts(&findings(directory.path()), "files"), ["ok"]);
    fs::write(&file, good).expect("written");
    let audit = data.join("audit");
    if audit.exists() {
        fs::remove_dir_all(&audit).expect("removed");
    }
    fs::write(&audit, "").expect("written");
    wrong("[administration] audit");
}

#[test]
fn completions_and_man_pages_name_every_command() {
    let directory = directory();
    for shell in ["bash", "zsh", "fish"] {
        let made = jiexi(directory.path())
            .args(["completions", shell])
            .output()
            .expect("starts");
        let text = String::from_utf8(made.stdout).expect("UTF-8");
        assert!(
            made.status.success() && text.contains("doctor") && text.contains("secret-file"),
            "{text}"
        );
    }
    let made = jiexi(directory.path())
        .args(["man", "."])
        .output()
        .expect("starts");
    assert!(made.status.success());
    for page in ["jiexi.1", "jiexi-serve.1", "jiexi-store-verify.1"] {
        let text = fs::read_to_string(directory.path().join(page)).expect("a page");
        assert!(text.contains(".SH SYNOPSIS"), "{page}: {text}");
    }
}
