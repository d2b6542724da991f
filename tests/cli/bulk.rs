//! Goal: what goes in comes out, bad lines are named and do no harm, secrets stay inside. On a stopped node; `node`
//! runs the same checks through the control socket.

use std::{fmt::Write as _, fs, path::Path};

use serde_json::Value as Json;

use crate::support::{directory, node, run, run_with, vectors};

/// A line with one value.
fn line(name: &str) -> String {
    format!(
        r#"{{"handle":"88.118/{name}","values":[{{"index":1,"type":"URL","data":"https://example.cn/{name}"}}]}}"#
    )
}

/// The lines of an export, as JSON.
pub(crate) fn export(directory: &Path, data: &str, options: &[&str]) -> Vec<Json> {
    let run = run(directory, &[&["export", "--data", data], options].concat()).expect(0);
    run.stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

/// Records and prefixes of the recorded server, imported, exported in both forms, and imported again elsewhere.
pub(crate) fn round_trip(directory: &Path, first: &str, second: &str) {
    let fixture = vectors().join("fixture.ndjson");
    let fixture = fixture.to_str().expect("UTF-8");
    let imported = run(directory, &["import", fixture, "--data", first]).expect(0);
    assert!(
        imported.stdout.starts_with("imported 12 records"),
        "{}",
        imported.stdout
    );
    run_with(
        directory,
        &["import", "-", "--data", first],
        b"{\"prefix\":\"88.118.8\"}\n\n{\"prefix\":\"0.NA/0.NA\"}\n",
    )
    .expect(0);

    for options in [&["--with-secrets"][..], &["--with-secrets", "--hex"]] {
        let arguments = [&["export", "copy", "--data", first], options].concat();
        run(directory, &arguments).expect(0);
        let again = run(directory, &["import", "copy", "--data", second]).expect(0);
        assert!(
            again.stdout.contains("3 homed prefixes"),
            "{}",
            again.stdout
        );
        let (one, two) = (
            export(directory, first, options),
            export(directory, second, options),
        );
        assert_eq!(one, two);
    }

    // In wire form every value equals that of the fixture.
    let hex = export(directory, first, &["--with-secrets", "--hex"]);
    for text in fs::read_to_string(fixture).expect("fixture").lines() {
        let expected: Json = serde_json::from_str(text).expect("JSON");
        assert!(hex.contains(&expected), "{}", expected["handle"]);
    }
}

/// Secrets are left out unless asked for.
pub(crate) fn secrets(directory: &Path, data: &str) {
    let secret = r#"{"handle":"88.118/secret","values":[{"index":1,"type":"URL","data":"x"},{"index":301,"type":"HS_SECKEY","data":"s3cret","permissions":"1100"}]}"#;
    run_with(
        directory,
        &["import", "-", "--data", data],
        secret.as_bytes(),
    )
    .expect(0);
    let run = run(directory, &["export", "--data", data]).expect(0);
    assert!(
        !run.stdout.contains("s3cret") && !run.stdout.contains("HS_SECKEY"),
        "{}",
        run.stdout
    );
    assert!(
        run.stderr.contains("secret values were left out"),
        "{}",
        run.stderr
    );
    let all = export(directory, data, &["--with-secrets"]);
    assert!(
        all.iter()
            .any(|line| line["values"][1]["data"]["value"] == "s3cret")
    );
}

/// A bad line stops the import with nothing of its batch applied, or is skipped.
pub(crate) fn bad_lines(directory: &Path, data: &str) {
    let mut text = String::new();
    for number in 0..2_500 {
        writeln!(text, "{}", line(&format!("n{number}"))).expect("writes");
    }
    text.push_str("{\"handle\":\"88.118/bad\",\"values\":[{\"index\":0}]}\n");
    writeln!(text, "{}", line("after")).expect("writes");
    fs::write(directory.join("bad.ndjson"), text).expect("writes");

    let stopped = run(directory, &["import", "bad.ndjson", "--data", data]).expect(1);
    assert!(
        stopped.stderr.starts_with("jiexi: bad.ndjson:2501: "),
        "{}",
        stopped.stderr
    );
    assert!(
        stopped.stderr.contains("2000 records with 2000 values"),
        "{}",
        stopped.stderr
    );
    let count = || {
        export(directory, data, &[])
            .iter()
            .filter(|line| {
                line["handle"]
                    .as_str()
                    .is_some_and(|handle| handle.starts_with("88.118/n"))
            })
            .count()
    };
    assert_eq!(count(), 2_000, "whole batches only");

    let skipped = run(
        directory,
        &["import", "bad.ndjson", "--keep-going", "--data", data],
    )
    .expect(1);
    assert!(
        skipped.stderr.contains("bad.ndjson:2501: "),
        "{}",
        skipped.stderr
    );
    assert!(
        skipped.stderr.contains("1 bad lines were skipped"),
        "{}",
        skipped.stderr
    );
    assert!(
        skipped.stdout.starts_with("imported 2501 records"),
        "{}",
        skipped.stdout
    );
    assert_eq!(count(), 2_500);
}

/// A record that is too large for the store is a bad line like any other, wherever it stands, and counts as nothing else.
pub(crate) fn large_lines(directory: &Path, data: &str) {
    // It fits one message, but not with what the store keeps about each of so many values.
    let value =
        |index: usize| format!(r#"{{"index":{index},"type":"X","data":"{:0>103}"}}"#, index);
    let values: Vec<String> = (1..=2_000).map(value).collect();
    let large = format!(
        r#"{{"handle":"88.118/large","values":[{}]}}"#,
        values.join(",")
    );
    let many = |range: std::ops::Range<u32>| range.map(|number| line(&format!("beside{number}")));
    let import = |lines: &[String], options: &[&str]| {
        fs::write(directory.join("large.ndjson"), lines.join("\n")).expect("writes");
        let import = ["import", "large.ndjson", "--data", data];
        run(directory, &[&import, options].concat()).expect(1)
    };
    let few = [line("first"), large.clone(), line("last")];
    let stopped = import(&few, &[]);
    let expected = "jiexi: large.ndjson:2: too large";
    assert!(stopped.stderr.starts_with(expected), "{}", stopped.stderr);
    // Few lines, in the first ones of many, and when it is known that there are many.
    for (before, after) in [(1, 1), (1, 18_000), (18_000, 1)] {
        let lines: Vec<String> = many(0..before)
            .chain([large.clone()])
            .chain(many(before..before + after))
            .collect();
        let skipped = import(&lines, &["--keep-going"]);
        assert!(
            skipped
                .stderr
                .contains(&format!("large.ndjson:{}: too large", before + 1))
                && skipped.stderr.contains("1 bad lines were skipped"),
            "{}",
            skipped.stderr
        );
        let all = before + after;
        let expected = format!("imported {all} records with {all} values");
        assert!(skipped.stdout.starts_with(&expected), "{}", skipped.stdout);
    }
    let found = export(directory, data, &[]);
    assert!(found.iter().all(|line| line["handle"] != "88.118/large"));
}

/// Many lines are one change: a bad line stops the import with what came before its batch there, and after a second
/// import, the other way round, every record is that of the second.
pub(crate) fn many_lines(directory: &Path, data: &str) {
    const LINES: usize = 18_500;
    let mut lines: Vec<String> = (0..LINES)
        .map(|number| line(&format!("many{number}")))
        .collect();
    lines.push("{\"handle\":\"88.118/bad\"}".to_owned());
    fs::write(directory.join("many.ndjson"), lines.join("\n")).expect("writes");
    let stopped = run(directory, &["import", "many.ndjson", "--data", data]).expect(1);
    assert!(
        stopped.stderr.starts_with("jiexi: many.ndjson:18501: "),
        "{}",
        stopped.stderr
    );
    assert!(
        stopped.stderr.contains("18000 records with 18000 values"),
        "{}",
        stopped.stderr
    );
    let found = |text: &str| {
        let all = export(directory, data, &[]);
        let ours = all.iter().filter(|line| {
            let handle = line["handle"].as_str();
            handle.is_some_and(|handle| handle.starts_with("88.118/many"))
        });
        ours.filter(|line| line.to_string().contains(text)).count()
    };
    assert_eq!(found("example.cn"), 18_000, "whole batches only");

    lines.pop();
    lines.reverse();
    let other = lines.join("\n").replace("example.cn", "example.org");
    let imported = run_with(
        directory,
        &["import", "-", "--data", data],
        other.as_bytes(),
    )
    .expect(0);
    assert!(
        imported.stdout.starts_with("imported 18500 records"),
        "{}",
        imported.stdout
    );
    assert_eq!((found("example.org"), found("example.cn")), (LINES, 0));
    let report = run(
        directory,
        &["store", "verify", "--data", data, "-o", "json"],
    );
    report.expect(0);
}

#[test]
fn large_records_are_bad_lines() {
    let directory = directory();
    node(directory.path(), "a");
    large_lines(directory.path(), "a");
}

#[test]
fn many_lines_are_one_change() {
    let directory = directory();
    node(directory.path(), "a");
    many_lines(directory.path(), "a");
}

#[test]
fn what_goes_in_comes_out() {
    let directory = directory();
    node(directory.path(), "a");
    node(directory.path(), "b");
    round_trip(directory.path(), "a", "b");
}

#[test]
fn secrets_stay_inside() {
    let directory = directory();
    node(directory.path(), "a");
    secrets(directory.path(), "a");
}

#[test]
fn bad_lines_are_named_and_do_no_harm() {
    let directory = directory();
    node(directory.path(), "a");
    bad_lines(directory.path(), "a");
}

#[test]
fn an_export_file_is_private_and_whole() {
    use std::os::unix::fs::PermissionsExt;
    let directory = directory();
    node(directory.path(), "a");
    run(directory.path(), &["export", "out.ndjson", "--data", "a"]).expect(0);
    let mode = fs::metadata(directory.path().join("out.ndjson"))
        .expect("is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    run(
        directory.path(),
        &["export", "no/such/place", "--data", "a"],
    )
    .expect(1);
    let left: Vec<_> = fs::read_dir(directory.path())
        .expect("reads")
        .map(|entry| entry.expect("entry").file_name())
        .collect();
    assert_eq!(left.len(), 2, "no temporary file is left: {left:?}");
}

#[test]
fn the_store_is_looked_after_while_stopped() {
    let directory = directory();
    node(directory.path(), "a");
    store_commands(directory.path(), "a");
}

/// Every command on the store.
pub(crate) fn store_commands(directory: &Path, data: &str) {
    let command = |arguments: &[&str]| {
        run(
            directory,
            &[&["store"], arguments, &["--data", data, "-o", "json"]].concat(),
        )
    };
    let stats = command(&["stats"]).expect(0).json();
    assert!(stats.is_object(), "{stats}");
    command(&["verify"]).expect(0);
    run_with(
        directory,
        &["import", "-", "--data", data],
        line("kept").as_bytes(),
    )
    .expect(0);
    let before = export(directory, data, &["--with-secrets"]);
    let snapshot = command(&["snapshot"]).expect(0).json();
    let path = snapshot["path"]
        .as_str()
        .expect("the path of the snapshot")
        .to_owned();
    run_with(
        directory,
        &["import", "-", "--data", data],
        line("lost").as_bytes(),
    )
    .expect(0);
    assert_eq!(
        export(directory, data, &["--with-secrets"]).len(),
        before.len() + 1
    );

    command(&["rebuild"]).expect(0);
    assert_eq!(
        export(directory, data, &["--with-secrets"]).len(),
        before.len() + 1,
        "rebuilding loses nothing"
    );
    let restored = command(&["restore", &path, "--yes"]).expect(0).json();
    let from = restored["restored"]["path"].as_str().expect("a path");
    assert!(from.ends_with(&path), "{from}, not {path}");
    let trail = run(directory, &["audit", "--data", data, "-o", "json"]).expect(0);
    let operations: Vec<_> = trail
        .stdout
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("JSON")["operation"].clone()
        })
        .collect();
    assert!(
        operations.ends_with(&["import".into(), "import".into(), "restore".into()]),
        "{operations:?}"
    );
    assert_eq!(
        export(directory, data, &["--with-secrets"]),
        before,
        "restoring goes back"
    );
    command(&["verify"]).expect(0);
    let table = run(directory, &["store", "stats", "--data", data])
        .expect(0)
        .stdout;
    assert!(table.starts_with("WHAT"), "{table}");
}
