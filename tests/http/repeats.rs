//! Goal: a command that is repeated, or fails, costs nobody a file, and nobody pays twice for an answer. Method: the
//! commands as people type them, their exit codes, and the files afterwards.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::batch::token;
use crate::elsewhere::{HOME, recursive};
use crate::jobs::{ask, is_over, many, until};
use crate::node::{Node, PATIENCE};

const PLAIN: (&str, &str) = ("JIEXI_HTTP_PLAIN_LOOPBACK", "true");

/// A node, and commands that ask it.
struct Desk {
    node: Node,
}

impl Desk {
    fn new() -> Self {
        let node = Node::with(&[PLAIN]);
        Self { node }
    }

    fn path(&self, name: &str) -> String {
        self.node.path(name).to_str().unwrap().to_owned()
    }

    fn server(&self) -> String {
        format!("http://127.0.0.1:{}", self.node.http)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        fs::write(self.node.path(name), text).unwrap();
        self.path(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.node.path(name)).unwrap()
    }

    fn exists(&self, name: &str) -> bool {
        self.node.path(name).exists()
    }

    /// Exit code, and what was said.
    fn run(&self, token: &str, words: &[&str]) -> (i32, String) {
        let mut command = self.node.command();
        command.args(words).env("JIEXI_TOKEN", token);
        if !words.contains(&"--server") {
            command.args(["--server", &self.server()]);
        }
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code().expect("an exit code"),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    /// `jiexi batch resolve`.
    fn resolve(&self, token: &str, input: &str, more: &[&str]) -> (i32, String) {
        self.run(token, &[&["batch", "resolve", input][..], more].concat())
    }
}

fn lines(count: usize) -> String {
    let one = |number| format!("88.118.20/{}\n", ["pump", "none"][number % 2]);
    (0..count).map(one).collect()
}

/// Goal: nobody loses an input by naming it as the output, whatever it is called there.
#[test]
fn an_output_is_no_input() {
    let desk = Desk::new();
    let (_, token) = token(&desk.node, &["--right", "batch,write"]);
    let text = lines(3);
    let input = desk.write("in.txt", &text);
    let link = desk.path("link");
    std::os::unix::fs::symlink(&input, &link).unwrap();
    fs::hard_link(&input, desk.node.path("hard")).unwrap();
    for out in [&input, &link, &desk.path("hard")] {
        for form in ["ndjson", "parquet"] {
            let (code, said) = desk.resolve(&token, &input, &["--out", out, "-o", form]);
            assert_eq!(code, 2, "{said}");
            assert!(said.contains("this is the input"), "{said}");
            assert_eq!(desk.read("in.txt"), text);
        }
    }
    let rows = many(0, 2);
    let file = desk.write("in.ndjson", &rows);
    let (code, said) = desk.run(&token, &["bulk", "import", &file, "--results", &file]);
    assert_eq!((code, fs::read(&file).unwrap()), (2, rows), "{said}");
    let (code, said) = desk.run(&token, &["bulk", "status", "-o", "json"]);
    assert_eq!((code, said.trim()), (0, "[]"), "nothing was handed over");
}

/// Goal: who cannot begin destroys nothing, and makes no file.
#[test]
fn what_was_there_stays_until_there_is_something_new() {
    let desk = Desk::new();
    let (_, good) = token(&desk.node, &["--right", "batch,write"]);
    let input = desk.write("in.txt", lines(5));
    let out = desk.path("out");
    assert_eq!(desk.resolve(&good, &input, &["--out", &out]).0, 0);
    let before = desk.read("out");
    assert_eq!(before.lines().count(), 5);
    let away = ["--out", &out, "--server", "http://127.0.0.1:1"];
    for (token, more) in [(&*good, &away[..]), ("jx_no", &["--out", &out])] {
        let (code, said) = desk.resolve(token, &input, more);
        assert!(code == 1 && !said.contains("goes on"), "{said}");
        assert_eq!(desk.read("out"), before);
        assert!(!desk.exists("out.resume"));
    }
    let new = desk.path("new");
    assert_eq!(desk.resolve("jx_no", &input, &["--out", &new]).0, 1);
    assert!(!desk.exists("new") && !desk.exists("new.resume"));
    let results = ["bulk", "results", "deadbeefdeadbeef", "--out"];
    for name in [&out, &new] {
        let (code, said) = desk.run(&good, &[&results[..], &[name]].concat());
        assert_eq!(code, 3, "{said}");
    }
    assert_eq!((desk.read("out"), desk.exists("new")), (before, false));
    // An answer that is empty is an answer.
    let nothing = desk.write("nothing.txt", "");
    assert_eq!(desk.resolve(&good, &nothing, &["--out", &out]).0, 0);
    assert_eq!(desk.read("out"), "");
}

/// Goal: a file above the quota of a day is answered in some days, each line paid for once, and only the last one is a
/// success. Method: a token for each day, as its quota is new then.
#[test]
fn a_quota_is_gone_on_behind() {
    let desk = Desk::new();
    let (_, full) = token(&desk.node, &[]);
    let text = lines(5_000);
    let input = desk.write("in.txt", &text);
    let out = desk.path("out");
    for form in ["ndjson", "csv"] {
        let days = ["2000", "1500", "1600"].map(|quota| token(&desk.node, &["--quota", quota]).1);
        let (code, said) = desk.resolve(&full, &input, &["--out", &out, "-o", form]);
        assert_eq!(code, 0, "{said}");
        let whole = desk.read("out");
        let more = ["--out", &*out, "-o", form];
        let (code, said) = desk.resolve(&days[0], &input, &more);
        assert_eq!(code, 1);
        assert!(said.contains("3000 lines were refused for now"), "{said}");
        let mode = fs::metadata(desk.node.path("out.resume")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        // On the same day nothing is gained, and nothing lost.
        let first = desk.read("out");
        let (code, said) = desk.resolve(&days[0], &input, &more);
        assert_eq!(code, 1);
        assert!(said.contains("429") && said.contains("goes on"), "{said}");
        assert!(desk.read("out") == first);
        let (code, said) = desk.resolve(&days[1], &input, &more);
        assert_eq!(code, 1);
        assert!(said.contains("going on after line 2000"), "{said}");
        assert!(said.contains("5000 lines, 3000 of them now"), "{said}");
        assert!(said.contains("success 1750"), "{said}");
        assert!(said.contains("1500 lines were refused for now"), "{said}");
        // As if it had been killed among the lines that were refused.
        let second = desk.read("out");
        let cut = second.rmatch_indices('\n').nth(700);
        fs::write(&out, &second[..cut.unwrap().0]).unwrap();
        let (code, said) = desk.resolve(&days[2], &input, &more);
        assert!(said.contains("going on after line 3500"), "{said}");
        assert!(said.contains("5000 lines, 1500 of them now"), "{said}");
        assert!(said.contains("success 2500"), "{said}");
        assert_eq!(code, 0, "{said}");
        assert!(desk.read("out") == whole, "{form}");
        assert!(!desk.exists("out.resume"));
        let header = format!("Authorization: Bearer {}", days[2]);
        let quota = desk.node.ask("https", "/api/v1/quota", &["-H", &header]);
        assert_eq!(quota.json()["remaining"], 100, "each line once");
    }
}

/// Goal: results are only fetched behind what is their beginning.
#[test]
fn results_are_not_put_behind_others() {
    let desk = Desk::new();
    let (_, token) = token(&desk.node, &["--right", "write"]);
    let file = desk.write("in.ndjson", many(0, 3_000));
    let out = desk.path("out");
    let (code, said) = desk.run(
        &token,
        &["bulk", "import", &file, "--results", &out, "-o", "json"],
    );
    assert_eq!(code, 0, "{said}");
    let begin = said.find('{').unwrap();
    let end = said.rfind('}').unwrap();
    let job: Json = serde_json::from_str(&said[begin..=end]).unwrap();
    let id = job["id"].as_str().unwrap();
    let whole = desk.read("out");
    assert!(whole.len() > 100_000, "more than is compared");
    let go_on = || {
        desk.run(
            &token,
            &["bulk", "results", id, "--out", &out, "--continue"],
        )
    };
    for good in [0, 10, 70_000, whole.len() - 1, whole.len()] {
        fs::write(&out, &whole[..good]).unwrap();
        let (code, said) = go_on();
        assert_eq!(code, 0, "{good}: {said}");
        assert!(desk.read("out") == whole, "{good}");
    }
    let other = format!("{}x{}", &whole[..80_000], &whole[80_001..90_000]);
    let more = format!("{whole}x");
    for (bad, why) in [
        ("garbage\n", "not the beginning"),
        (&*other, "not the beginning"),
        (&*more, "longer"),
        (&*whole.repeat(2), "longer"),
    ] {
        fs::write(&out, bad).unwrap();
        let (code, said) = go_on();
        assert!(code == 1 && said.contains(why), "{said}");
        assert!(desk.read("out") == bad, "it stays as it is");
    }
}

/// Ends with the test.
struct Running(Option<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut process) = self.0.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Goal: who waits for a job hears how it ends also when the node is started anew, however long the wait was before.
#[test]
fn a_wait_outlives_a_restart() {
    const PATIENT: u64 = 10;
    let mut desk = Desk::new();
    let (_, token) = token(&desk.node, &["--quota", "2"]);
    let input = desk.write("in.txt", lines(5));
    let (code, id) = desk.run(&token, &["batch", "submit", &input]);
    assert_eq!(code, 0, "{id}");
    // It waits until midnight, and the table says so.
    let path = format!("/api/v1/jobs/{}", id.trim());
    let waits = until(&desk.node, &token, &path, |job| {
        job["state"] == "waiting" || is_over(job)
    });
    let moment = waits["until"].as_str().unwrap();
    let (code, table) = desk.run(&token, &["bulk", "status", id.trim()]);
    assert!(code == 0 && table.contains(moment), "{table}");
    assert!(table.contains("NOT-APPLIED"), "{table}");
    let mut command = desk.node.command();
    command
        .args(["bulk", "status", id.trim(), "--wait", "-o", "json"])
        .args(["--server", &desk.server()])
        .args(["--timeout", &format!("{PATIENT}s")])
        .env("JIEXI_TOKEN", &token)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut waiting = Running(Some(command.spawn().unwrap()));
    thread::sleep(Duration::from_secs(PATIENT + 1));
    desk.node.kill();
    // Longer than it takes to ask again.
    thread::sleep(Duration::from_secs(1));
    desk.node.start();
    let begun = Instant::now();
    let cancelled = loop {
        let cancelled = ask(
            &desk.node,
            &token,
            &format!("{path}/cancel"),
            &["-X", "POST"],
        );
        if cancelled.status == 200 {
            break cancelled;
        }
        assert!(begun.elapsed() < PATIENCE, "{}", cancelled.body);
        thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(cancelled.json()["state"], "cancelled");
    let ended = waiting.0.take().unwrap().wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
    assert!(said.contains("the job is cancelled"), "{said}");
}

/// Goal: a batch over the Handle protocol has nobody elsewhere asked, which takes a right over HTTP, and says so to who
/// wants it.
#[test]
fn nobody_elsewhere_is_asked_over_handle() {
    let home = Node::new();
    home.import(HOME);
    let desk = Desk {
        node: recursive(home.handle, &[]),
    };
    let input = desk.write("in.txt", "88.118.20/pump\n10.7/Pump\n");
    let place = format!("handle://127.0.0.1:{}", desk.node.handle);
    let (code, said) = desk.resolve("", &input, &["--server", &place]);
    assert!(code == 0 && said.contains("\"responseCode\":1,"), "{said}");
    assert!(said.contains("{\"line\":2,\"responseCode\":301,"), "{said}");
    assert_eq!(desk.node.metric("jiexi_forward_fetches_total"), 0.0);
    let (code, said) = desk.resolve("", &input, &["--server", &place, "--recursive"]);
    assert!(code == 2 && said.contains("--recursive"), "{said}");
}

/// Goal: what is refused says why in words that belong together.
#[test]
fn what_is_refused_says_why() {
    let desk = Desk::new();
    let (_, token) = token(&desk.node, &["--right", "batch,write"]);
    let csv = desk.write(
        "in.csv",
        "88.118.20/e1,1,URL,,,klingon,x\n88.118.20/e2,1,BIN,,,hex,00ff\n",
    );
    let out = desk.path("out");
    let (code, said) = desk.run(&token, &["bulk", "import", &csv, "--results", &out]);
    assert!(code == 1 && said.contains("1 row is not"), "{said}");
    let rows = desk.read("out");
    assert!(
        rows.contains("encoding: ") && rows.contains("klingon"),
        "{rows}"
    );
    let (code, said) = desk.resolve("jx_no", &csv, &[]);
    assert_eq!(code, 1);
    assert!(
        said.contains("the server refuses: 401 Unauthorized: "),
        "{said}"
    );
    let detail = desk.node.ask(
        "https",
        "/api/v1/batch/resolve",
        &[
            "-d",
            "x",
            "-H",
            "Authorization: Bearer jx_no",
            "-H",
            "Accept-Language: en",
        ],
    );
    let json = detail.json();
    let both = format!(
        "{}: {}",
        json["title"].as_str().unwrap(),
        json["detail"].as_str().unwrap()
    );
    assert!(said.contains(&both), "{said} {both}");
}

/// Goal: a table that a killed command has left unfinished is not in the way, does not stay, and is nobody else's.
#[test]
fn an_unfinished_table_goes() {
    let desk = Desk::new();
    let (_, token) = token(&desk.node, &[]);
    let input = desk.write("in.txt", lines(5));
    let out = desk.path("out.parquet");
    let mut command = desk.node.command();
    command
        .args(["batch", "resolve", "-", "-o", "parquet", "--out", &out])
        .args(["--server", &desk.server()])
        .env("JIEXI_TOKEN", &token)
        .stdin(Stdio::piped())
        .stderr(Stdio::null());
    let mut other = Running(Some(command.spawn().unwrap()));
    let begun = Instant::now();
    while !desk.exists("out.parquet.incomplete") {
        assert!(begun.elapsed() < PATIENCE, "it has begun");
        thread::sleep(Duration::from_millis(20));
    }
    let more = ["-o", "parquet", "--out", &*out];
    let begun = Instant::now();
    loop {
        let (code, said) = desk.resolve(&token, &input, &more);
        if said.contains("another command is writing") {
            assert_eq!(code, 1);
            break;
        }
        // Made, and not locked yet.
        assert!(begun.elapsed() < PATIENCE, "{said}");
    }
    let mut process = other.0.take().unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    assert!(desk.exists("out.parquet.incomplete"));
    let (code, said) = desk.resolve(&token, &input, &more);
    assert_eq!(code, 0, "{said}");
    assert!(desk.exists("out.parquet") && !desk.exists("out.parquet.incomplete"));
    let table = fs::read(&out).unwrap();
    assert!(table.starts_with(b"PAR1") && table.ends_with(b"PAR1"));
}
