//! Goal: who reads the output may stop at any time, and nobody is told of an error. Method: the real program writes into
//! pipes whose other end is closed after one octet, or at once.

use std::{
    fs,
    io::Read as _,
    path::Path,
    process::{Child, Stdio},
};

use crate::{
    node::Running,
    support::{directory, jiexi, node, run},
};

/// What shells report of a program that SIGPIPE has ended.
const UNREAD: i32 = 141;
/// Enough records that a list of their names does not fit into a pipe.
const RECORDS: usize = 12_000;

fn spawn(directory: &Path, arguments: &[&str]) -> Child {
    let mut command = jiexi(directory);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("starts")
}

/// Reads one octet of what a command prints, as `head -c 1` does.
#[track_caller]
fn headed(directory: &Path, arguments: &[&str]) {
    let mut child = spawn(directory, arguments);
    let mut stdout = child.stdout.take().expect("is piped");
    stdout.read_exact(&mut [0]).expect("prints something");
    drop(stdout);
    let output = child.wait_with_output().expect("ends");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(complaint, "", "{arguments:?}");
    assert_eq!(output.status.code(), Some(UNREAD), "{arguments:?}");
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "a");
    let lines: Vec<String> = (0..RECORDS)
        .map(|number| {
            let url = format!("https://example.cn/{number}");
            let value = format!(r#"{{"index":1,"type":"URL","data":"{url}"}}"#);
            format!(r#"{{"handle":"88.118/number-{number}","values":[{value}]}}"#)
        })
        .collect();
    fs::write(directory.join("in.ndjson"), lines.join("\n")).expect("written");
    run(directory, &["import", "in.ndjson", "--data", "a"]).expect(0);
    let commands: [&[&str]; 4] = [
        &["export", "--data", "a"],
        &["export", "--hex", "--data", "a"],
        &["handle", "list", "88.118", "--data", "a"],
        &["handle", "list", "88.118", "-o", "json", "--data", "a"],
    ];
    for command in commands {
        headed(directory, command);
    }
    headed(directory, &["bench", "records", "--records", "5000"]);
    let running = Running::start(directory, "a");
    for command in commands {
        headed(directory, command);
    }
    let server = running.server();
    headed(
        directory,
        &[
            "handle",
            "list",
            "88.118",
            "--server",
            &server,
            "--identity",
            "300:0.NA/88.118",
            "--key",
            "a/admin.key",
        ],
    );
    assert_eq!(running.stop(), 0);
}

/// Goal: a message that nobody reads changes no exit code.
#[test]
fn a_complaint_that_nobody_reads_is_no_crash() {
    let directory = directory();
    for (arguments, code) in [
        (&["import", "missing", "--data", "missing"][..], 1),
        (&["handle", "create", ""], 2),
        (&["handle", "get"], 2),
    ] {
        let mut child = spawn(directory.path(), arguments);
        drop((child.stdout.take(), child.stderr.take()));
        let status = child.wait().expect("ends");
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
}
