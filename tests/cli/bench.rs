//! Goal: `jiexi bench` measures what there is: it asks in every way it offers, tells right answers from wrong ones, and
//! its latencies show a server that stood still. Method: a node with generated records, and a stop in the middle.

use std::{
    fs,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    node::{PATIENCE, Running},
    support::{Run, directory, jiexi, node, run},
};

const RECORDS: &str = "1000";

/// A running node that holds the records.
fn loaded() -> (TempDir, Running) {
    let directory = directory();
    node(directory.path(), "a");
    let records = run(
        directory.path(),
        &["bench", "records", "--records", RECORDS],
    )
    .expect(0);
    assert_eq!(
        records.stdout.lines().count(),
        1001,
        "the prefix, then the records"
    );
    fs::write(directory.path().join("records.ndjson"), records.stdout).expect("written");
    run(
        directory.path(),
        &["import", "--data", "a", "records.ndjson"],
    )
    .expect(0);
    let running = Running::start(directory.path(), "a");
    (directory, running)
}

fn lookups(directory: &Path, node: &Running, more: &[&str]) -> Run {
    let (server, pid) = (node.server(), node.pid().to_string());
    let mut arguments = vec![
        "bench", "lookups", "--server", &server, "--pid", &pid, "-o", "json",
    ];
    if !more.contains(&"--handles") {
        arguments.extend(["--records", RECORDS]);
    }
    arguments.extend(more);
    run(directory, &arguments)
}

fn number(report: &Value, path: &str) -> f64 {
    let found = report.pointer(path).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("{path} in {report}"))
}

#[test]
fn every_transport_and_spread() {
    let (directory, node) = loaded();
    let short = ["--warm-up", "0s", "--count", "3000", "--time", "60s"];
    for more in [
        &["--window", "32", "--sockets", "8"][..],
        &["--transport", "udp", "--zipf", "0.99", "--window", "1"],
        &["--transport", "tcp", "--window", "64", "--sockets", "2"],
        &["--transport", "connect", "--window", "3"],
    ] {
        let report = lookups(directory.path(), &node, &[&short[..], more].concat());
        let report = report.expect(0).json();
        assert!(number(&report, "/answers") >= 3000.0, "{more:?}: {report}");
        assert_eq!(
            number(&report, "/missing") + number(&report, "/lost"),
            0.0,
            "{report}"
        );
        let octets = number(&report, "/answer_octets_mean");
        assert!((330.0..430.0).contains(&octets), "{more:?}: {report}");
        for positive in [
            "/requests_per_second",
            "/latency_us/p50",
            "/corrected_us/p99.9",
            "/cpu_us_per_request",
        ] {
            assert!(
                number(&report, positive) > 0.0,
                "{more:?} {positive}: {report}"
            );
        }
        assert!(number(&report, "/server_rss_kib") > 1024.0, "{report}");
    }
    let missing = [&short[..], &["--transport", "tcp", "--miss", "30"]].concat();
    let report = lookups(directory.path(), &node, &missing).expect(0).json();
    let share = number(&report, "/missing") / number(&report, "/answers");
    assert!((0.25..0.35).contains(&share), "{report}");
}

/// What an export names is found; what the node does not have is a failure that says what may be wrong.
#[test]
fn right_and_wrong_handles() {
    let (directory, node) = loaded();
    let export = run(directory.path(), &["export", "--data", "a"]).expect(0);
    fs::write(directory.path().join("export.ndjson"), export.stdout).expect("written");
    let listed = [
        "--handles",
        "export.ndjson",
        "--count",
        "500",
        "--warm-up",
        "0s",
    ];
    let report = lookups(directory.path(), &node, &listed).expect(0).json();
    assert!(number(&report, "/answers") >= 500.0, "{report}");

    let strangers = ["--records", "1000000", "--transport", "tcp"];
    let server = node.server();
    let all = [&["bench", "lookups", "--server", &server][..], &strangers].concat();
    let wrong = run(directory.path(), &all).expect(1);
    assert!(
        wrong.stderr.contains("are these the records it holds?"),
        "{}",
        wrong.stderr
    );
    assert_eq!(node.stop(), 0);
    for transport in ["udp", "tcp", "connect"] {
        let all = [
            "bench",
            "lookups",
            "--server",
            &server,
            "--transport",
            transport,
        ];
        run(directory.path(), &all).expect(1);
    }
}

/// An open loop keeps its rate, and a server that stood still a third of the time shows in both loops' latencies.
#[test]
fn a_server_that_stands_still_shows() {
    let (directory, node) = loaded();
    let one = [
        "--transport",
        "tcp",
        "--window",
        "1",
        "--warm-up",
        "0s",
        "--time",
        "3s",
    ];
    let open = [
        "--transport",
        "tcp",
        "--window",
        "4000",
        "--rate",
        "1000",
        "--warm-up",
        "0s",
        "--time",
        "3s",
    ];
    for arguments in [&one[..], &open] {
        let report = thread::scope(|scope| {
            let report =
                scope.spawn(|| lookups(directory.path(), &node, arguments).expect(0).json());
            thread::sleep(Duration::from_secs(1));
            let pid = Pid::from_raw(node.pid().try_into().expect("a process id"));
            kill(pid, Signal::SIGSTOP).expect("stops");
            thread::sleep(Duration::from_secs(1));
            kill(pid, Signal::SIGCONT).expect("goes on");
            report.join().expect("reports")
        });
        assert!(number(&report, "/corrected_us/p90") > 300_000.0, "{report}");
        assert!(number(&report, "/latency_us/max") > 900_000.0, "{report}");
        if arguments == one {
            assert!(
                number(&report, "/latency_us/p90") < 100_000.0,
                "a closed loop hides it: {report}"
            );
        } else {
            assert!(
                (2_700.0..3_100.0).contains(&number(&report, "/answers")),
                "{report}"
            );
        }
    }
}

/// Goal: what is written while look-ups are measured is in the node afterwards, under the same handles.
#[test]
fn records_are_written_meanwhile() {
    let (directory, node) = loaded();
    let export = || {
        run(directory.path(), &["export", "--data", "a"])
            .expect(0)
            .stdout
    };
    let before = export();
    let run_of = [
        "--transport",
        "tcp",
        "--time",
        "1s",
        "--write-rate",
        "3000",
        "--data",
        "a",
    ];
    let report = lookups(directory.path(), &node, &run_of).expect(0).json();
    let written = number(&report, "/written/records");
    assert!(written >= 200.0, "{written} records in two seconds");
    assert!(number(&report, "/answers") > 0.0);
    assert_eq!(number(&report, "/lost"), 0.0);
    let after = export();
    let handles = |text: &str| {
        let of = |line: &str| serde_json::from_str::<Value>(line).expect("JSON")["handle"].clone();
        text.lines().map(of).collect::<Vec<_>>()
    };
    assert_eq!(handles(&before), handles(&after));
    let changed = before
        .lines()
        .zip(after.lines())
        .filter(|(a, b)| a != b)
        .count();
    assert!(changed > 100, "{changed} records changed");
    drop(node);
    let stopped = [
        &["bench", "lookups", "--records", RECORDS][..],
        &["--write-rate", "10", "--data", "a"],
    ];
    let refused = run(directory.path(), &stopped.concat()).expect(1);
    assert!(
        refused.stderr.contains("no node runs"),
        "{}",
        refused.stderr
    );
}

/// Goal: what is written is in the store while look-ups go on, not when they are over. Method: a run that would go on for
/// an hour, and the sequence of the store, which grows with each import.
#[test]
fn writes_are_durable_while_lookups_go_on() {
    let (directory, node) = loaded();
    let stats = ["store", "stats", "--data", "a", "-o", "json"];
    let sequence = || {
        let stats = run(directory.path(), &stats).expect(0).json();
        number(&stats, "/sequence")
    };
    let first = sequence();
    let mut bench = jiexi(directory.path())
        .args(["bench", "lookups", "--server", &node.server(), "--records"])
        .args([RECORDS, "--transport", "tcp", "--window", "1", "--time"])
        .args(["1h", "--write-rate", "500", "--data", "a"])
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let begun = Instant::now();
    while sequence() < first + 5.0 {
        let ended = bench.try_wait().expect("asks");
        assert!(ended.is_none(), "it has an hour: {ended:?}");
        assert!(begun.elapsed() < PATIENCE, "nothing is written");
        thread::sleep(Duration::from_millis(20));
    }
    let ended = bench.try_wait().expect("asks");
    assert!(ended.is_none(), "it has an hour: {ended:?}");
    bench.kill().expect("killed");
    bench.wait().expect("ended");
}

#[test]
fn other_machines_are_not_loaded_by_accident() {
    let directory = directory();
    for command in ["lookups", "first"] {
        let refused = run(
            directory.path(),
            &["bench", command, "--server", "192.0.2.1:2641"],
        )
        .expect(2);
        assert!(refused.stderr.contains("--remote"), "{}", refused.stderr);
    }
    for wrong in [
        &["--window", "0"][..],
        &["--sockets", "5000"],
        &["--rate", "0"],
        &["--write-rate", "0"],
        &["--transport", "connect", "--rate", "5"],
        &["--miss", "101"],
        &["--time", "2h"],
    ] {
        run(
            directory.path(),
            &[&["bench", "lookups"][..], wrong].concat(),
        )
        .expect(2);
    }
}

#[test]
fn time_to_the_first_answer() {
    let (directory, node) = loaded();
    let server = node.server();
    let report = run(
        directory.path(),
        &["bench", "first", "--server", &server, "-o", "json"],
    )
    .expect(0)
    .json();
    assert!(
        number(&report, "/first_answer_s") > 0.0 && number(&report, "/asked") >= 1.0,
        "{report}"
    );
    assert_eq!(node.stop(), 0);
    let late = run(
        directory.path(),
        &["bench", "first", "--server", &server, "--time", "100ms"],
    )
    .expect(1);
    assert!(
        late.stderr.contains("no answer within 0.1 s"),
        "{}",
        late.stderr
    );
}
