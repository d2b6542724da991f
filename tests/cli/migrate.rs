//! Goal: what the tools of a CNRI server would do with a batch file is done, all of it is told, and a migration that was
//! interrupted ends as one that was not. Method: whole files, on running and stopped nodes; kills in the middle.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::bulk::export;
use crate::node::{PATIENCE, Running};
use crate::support::{Run, directory, jiexi, node, run, run_with};

/// Every command, as people write them.
const EVERYTHING: &str = "\
AUTHENTICATE PUBKEY:300:0.NA/88.118
/keys/admpriv.bin|passphrase

SESSIONSETUP
USESESSION:1

HOME 192.0.2.1:2641:TCP
0.NA/88.119
0.NA/88.120

CREATE 88.118/pump
100 HS_ADMIN 86400 1110 ADMIN 300:110011111111:0.NA/88.118
1 URL 3600 1110 UTF8 https://example.cn/pump
301 HS_SECKEY 86400 1100 UTF8 a very secret word
400 HS_VLIST 86400 1110 LIST 300:88.118/U1;301:88.118/U2;
2 PHOTO 86400 1010 FILE photo.bin

CREATE 88.119/阀门
1 DESC 60 1111 UTF8 球阀

CREATE 88.118/old
1 URL 86400 1110 UTF8 https://example.cn/old
2 URL 86400 1110 UTF8 https://example.cn/older

ADD 88.118/pump
5 EMAIL 86400 1110 UTF8 pump@example.cn

MODIFY 88.118/pump
1 URL 86400 1110 UTF8 https://example.cn/pumps

REMOVE 2:88.118/old
CREATE 88.120/x
1 A 1 1110 UTF8 x

DELETE 88.120/x
UNHOME 192.0.2.1:2641:TCP
0.NA/88.120
";

fn write(directory: &Path, name: &str, text: &str) {
    fs::write(directory.join(name), text).expect("writes");
}

fn migrate(directory: &Path, data: &str, arguments: &[&str]) -> Run {
    let fixed = ["migrate", "batch", "--data", data];
    run(directory, &[&fixed[..], arguments].concat())
}

/// The export of a node by handles, without the times at which its values were written.
fn timeless(directory: &Path, data: &str) -> Vec<Json> {
    let mut lines = export(directory, data, &["--with-secrets"]);
    for line in &mut lines {
        let values = line.get_mut("values").and_then(Json::as_array_mut);
        for value in values.into_iter().flatten() {
            value
                .as_object_mut()
                .expect("an object")
                .remove("timestamp");
        }
    }
    lines
}

fn record<'a>(lines: &'a [Json], handle: &str) -> &'a Json {
    let found = lines.iter().find(|line| line["handle"] == handle);
    found.unwrap_or_else(|| panic!("no {handle} in {lines:?}"))
}

/// What came of it all: the store has what the file says, and the report too.
fn everything(directory: &Path, data: &str) {
    write(directory, "all.batch", EVERYTHING);
    fs::write(directory.join("photo.bin"), [0, 1, 0xFF, b'\n']).expect("writes");
    let before = export(directory, data, &["--with-secrets"]);

    let looked = migrate(directory, data, &["all.batch", "--dry-run", "-o", "json"]).expect(0);
    let looked = looked.json();
    assert_eq!(looked["dryRun"], true);
    assert_eq!(
        export(directory, data, &["--with-secrets"]),
        before,
        "nothing was changed"
    );
    assert!(!directory.join("all.batch.position").exists());

    let done = migrate(directory, data, &["all.batch", "-o", "json"])
        .expect(0)
        .json();
    assert_eq!(done["dryRun"], false);
    for (operation, count) in [
        ("home", 2),
        ("create", 4),
        ("add", 1),
        ("modify", 1),
        ("remove", 1),
        ("delete", 1),
        ("unhome", 1),
    ] {
        assert_eq!(done["operations"][operation]["done"], count, "{operation}");
    }
    assert_eq!(
        (&done["values"], &done["notNeeded"]),
        (&11.into(), &2.into())
    );
    assert_eq!(done["files"][0]["complete"], true);
    for part in ["operations", "values", "notNeeded", "refused"] {
        assert_eq!(looked[part], done[part], "the dry run says the same");
    }
    assert!(!directory.join("all.batch.position").exists(), "it is done");

    let lines = timeless(directory, data);
    let pump = record(&lines, "88.118/pump");
    let values = pump["values"].as_array().expect("values");
    let indexes: Vec<_> = values.iter().map(|value| value["index"].as_u64()).collect();
    assert_eq!(indexes, [1, 2, 5, 100, 301, 400].map(Some));
    assert_eq!(values[0]["data"]["value"], "https://example.cn/pumps");
    assert_eq!(values[0]["ttl"], 86_400);
    assert_eq!(values[1]["permissions"], "1010");
    assert_eq!(values[1]["data"]["value"], "AAH/Cg==");
    assert_eq!(values[3]["data"]["value"]["permissions"], "111111110011");
    assert_eq!(values[3]["data"]["value"]["handle"], "0.NA/88.118");
    assert_eq!(values[4]["data"]["value"], "a very secret word");
    assert_eq!(values[5]["data"]["value"][1]["handle"], "88.118/U2");
    assert_eq!(
        record(&lines, "88.119/阀门")["values"][0]["permissions"],
        "1111"
    );
    assert_eq!(
        record(&lines, "88.118/old")["values"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    let prefixes: Vec<_> = lines
        .iter()
        .filter_map(|line| line["prefix"].as_str())
        .collect();
    assert_eq!(prefixes, ["88.118", "88.119"]);

    let trail = run(
        directory,
        &["audit", "--handle", "88.118/pump", "--data", data],
    )
    .expect(0);
    for word in ["create", "add", "modify"] {
        assert!(trail.stdout.contains(word), "{word}: {}", trail.stdout);
    }
}

#[test]
fn everything_into_a_stopped_node() {
    let directory = directory();
    let data = node(directory.path(), "n");
    everything(directory.path(), "n");
    // Secrets are sealed before they reach any file.
    for file in walk(&data) {
        let octets = fs::read(&file).expect("reads");
        let found = memchr::memmem::find(&octets, b"a very secret word");
        assert_eq!(found, None, "{}", file.display());
    }
}

fn walk(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).expect("lists");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let (directories, files): (Vec<_>, Vec<_>) = paths.partition(|path| path.is_dir());
    let below = directories.iter().flat_map(|directory| walk(directory));
    files
        .into_iter()
        .filter(|path| path.is_file())
        .chain(below)
        .collect()
}

#[test]
fn everything_into_a_running_node() {
    let directory = directory();
    node(directory.path(), "n");
    let running = Running::start(directory.path(), "n");
    everything(directory.path(), "n");
    let server = running.server();
    let found = run(
        directory.path(),
        &["resolve", "88.119/阀门", "--server", &server],
    )
    .expect(0);
    assert!(found.stdout.contains("球阀"), "{}", found.stdout);
}

/// Goal: a dry run refuses what the real one refuses, with the same lines and reasons. Method: a file in which much is
/// refused, on nodes of which one was not asked before.
#[test]
fn what_is_refused() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "n");
    write(
        directory,
        "refused.batch",
        "CREATE 88.118/a\n1 A 60 1110 UTF8 a\n2 B 60 1010 UTF8 b\n\n\
         CREATE 88.118/A\n1 A 60 1110 UTF8 a\n2 B 60 1010 UTF8 b\n\n\
         CREATE 88.118/a\n1 A 61 1110 UTF8 a\n\n\
         CREATE 88.777/a\n1 A 60 1110 UTF8 a\n\n\
         ADD 88.118/none\n1 A 60 1110 UTF8 a\n\n\
         ADD 88.118/a\n1 A 60 1110 UTF8 a\n\n\
         MODIFY 88.118/a\n7 A 60 1110 UTF8 a\n\n\
         MODIFY 88.118/a\n2 A 60 1110 UTF8 a\n\n\
         REMOVE 2:88.118/a\nREMOVE 9:88.118/a\nDELETE 88.118/none\n\
         HOME 192.0.2.1:2641:TCP\n0.NA/88.777\n\n\
         CREATE 88.777/a\n1 A 60 1110 UTF8 a\n\n\
         UNHOME 192.0.2.1:2641:TCP\n0.NA/88.777\n\n\
         DELETE 88.777/a\nDELETE 88.118/a\nADD 88.118/a\n1 A 60 1110 UTF8 a\n\n\
         CREATE 88.118/a\n1 A 60 1110 UTF8 again\n",
    );
    let expected = [
        (9, "create", 101),
        (12, "create", 301),
        (15, "add", 100),
        (18, "add", 201),
        (21, "modify", 200),
        (24, "modify", 401),
        (27, "remove", 401),
        (28, "remove", 200),
        (29, "delete", 100),
        (39, "delete", 301),
        (41, "add", 100),
    ];
    let arguments = ["refused.batch", "--keep-going", "-o", "json"];
    let looked = migrate(directory, "n", &[&arguments[..], &["--dry-run"]].concat()).expect(1);
    let done = migrate(directory, "n", &arguments).expect(1);
    for report in [looked.json(), done.json()] {
        let found = report["refusals"].as_array().expect("refusals").iter();
        let found: Vec<_> = found
            .map(|refusal| {
                let of = |name: &str| refusal[name].as_u64().expect("a number");
                let operation = refusal["operation"].as_str().expect("text");
                (of("line"), operation, of("code"))
            })
            .collect();
        assert_eq!(found, expected);
        assert_eq!(report["operations"]["create"]["same"], 1);
        assert_eq!(report["refused"], expected.len());
    }
    let (mut looked, mut done) = (looked.json(), done.json());
    for report in [&mut looked, &mut done] {
        report.as_object_mut().expect("an object").remove("dryRun");
        // Only what was carried out leaves a list.
        let file = report["files"][0].as_object_mut().expect("an object");
        file.remove("refusedIn");
    }
    assert_eq!(looked, done);
    let lines = timeless(directory, "n");
    assert_eq!(
        record(&lines, "88.118/a")["values"][0]["data"]["value"],
        "again"
    );
    // The trail has each refusal once, and that of the handle which was there as it should be.
    let trail = run(directory, &["audit", "--data", "n", "-o", "json"]).expect(0);
    let entries = trail.stdout.lines().map(serde_json::from_str);
    let entries: Vec<Json> = entries.collect::<Result<_, _>>().expect("JSON");
    let refused = entries.iter().filter(|entry| entry["result"] == "refused");
    let refused: Vec<_> = refused
        .map(|entry| (entry["operation"].as_str(), entry["code"].as_u64()))
        .collect();
    let there = std::iter::once((5, "create", 101));
    let expected: Vec<_> = there
        .chain(expected)
        .map(|(_, operation, code)| (Some(operation), Some(code)))
        .collect();
    assert_eq!(refused, expected);
}

/// Goal: a refusal stops the migration at its line, and the same command goes on when its reason is gone. Nothing is
/// begun with a file that cannot be read.
#[test]
fn refusals_stop_it() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "n");
    node(directory, "other");
    let text = "CREATE 88.118/a\n1 A 60 1110 UTF8 a\n\nCREATE 88.200/b\n1 A 60 1110 UTF8 b\n\nDELETE 88.118/a\n";
    write(directory, "x.batch", text);
    let stopped = migrate(directory, "n", &["x.batch"]).expect(1);
    let expected = "jiexi: x.batch:4: create 88.200/b: server not responsible (code 301)";
    assert!(stopped.stderr.contains(expected), "{}", stopped.stderr);
    assert!(
        stopped
            .stderr
            .contains("1 refused; the migration stopped there")
    );
    record(&timeless(directory, "n"), "88.118/a");

    let position = directory.join("x.batch.position");
    let kept = fs::read_to_string(&position).expect("a position");
    assert!(kept.contains("\"done\":3"), "{kept}");

    // Neither another node nor another file is gone on with.
    let other = migrate(directory, "other", &["x.batch"]).expect(1);
    assert!(
        other.stderr.contains("go on with that node"),
        "{}",
        other.stderr
    );
    write(directory, "x.batch", &text.replace("UTF8 b", "UTF8 c"));
    let changed = migrate(directory, "n", &["x.batch"]).expect(1);
    assert!(
        changed.stderr.contains("has changed since"),
        "{}",
        changed.stderr
    );
    write(directory, "x.batch", text);

    run_with(
        directory,
        &["import", "-", "--data", "n"],
        b"{\"prefix\":\"88.200\"}",
    )
    .expect(0);
    let done = migrate(directory, "n", &["x.batch", "-o", "json"])
        .expect(0)
        .json();
    assert_eq!(done["files"][0]["resumedAfter"], 3);
    assert_eq!(done["operations"]["create"]["done"], 2);
    assert_eq!(done["operations"]["delete"]["done"], 1);
    assert!(!position.exists());

    write(
        directory,
        "bad.batch",
        "CREATE 88.118/c\n1 A 60 1110 UTF8 a\n\nCREATE 88.118/d\n1 A x 1110 UTF8 a\n\nFOO\n",
    );
    let bad = migrate(directory, "n", &["bad.batch"]).expect(1);
    assert!(
        bad.stderr
            .contains("bad.batch:5: 88.118/d: \"x\" is no time to live"),
        "{}",
        bad.stderr
    );
    assert!(
        bad.stderr.contains("bad.batch:7: \"FOO\" is no command"),
        "{}",
        bad.stderr
    );
    let lines = timeless(directory, "n");
    assert!(
        !lines.iter().any(|line| line["handle"] == "88.118/c"),
        "nothing was begun with"
    );
    migrate(directory, "n", &["bad.batch", "--keep-going"]).expect(1);
    record(&timeless(directory, "n"), "88.118/c");

    for missing in ["none.batch", "."] {
        let run = migrate(directory, "n", &[missing]).expect(1);
        assert!(
            run.stderr.starts_with(&format!("jiexi: {missing}: ")),
            "{}",
            run.stderr
        );
    }
}

/// Goal: nothing else is written through a link that lies where the position is made. Method: one does.
#[test]
fn a_link_is_not_followed() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "n");
    write(
        directory,
        "x.batch",
        "CREATE 88.118/a\n1 A 60 1110 UTF8 a\n",
    );
    write(directory, "victim", "mine");
    let link = directory.join("x.batch.position.tmp");
    std::os::unix::fs::symlink("victim", &link).expect("links");
    migrate(directory, "n", &["x.batch"]).expect(0);
    let victim = fs::read_to_string(directory.join("victim")).expect("reads");
    assert_eq!(victim, "mine");
}

/// Goal: what was done with one file is not done again when the next one stops: values do not go back. Method: a first file
/// that can be repeated with another outcome, and a second one that is refused once.
#[test]
fn several_files_are_one_command() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "n");
    let first = "CREATE 88.118/h\n1 A 60 1110 UTF8 zero\n\nDELETE 88.118/h\nCREATE 88.118/h\n1 A 60 1110 UTF8 one\n";
    write(directory, "one.batch", first);
    write(
        directory,
        "two.batch",
        "MODIFY 88.118/h\n1 A 60 1110 UTF8 two\n\nCREATE 88.200/b\n1 A 60 1110 UTF8 b\n",
    );
    let both = ["one.batch", "two.batch", "-o", "json"];
    let stopped = migrate(directory, "n", &both).expect(1);
    assert!(
        stopped.stderr.contains("two.batch:4: "),
        "{}",
        stopped.stderr
    );
    run_with(
        directory,
        &["import", "-", "--data", "n"],
        b"{\"prefix\":\"88.200\"}",
    )
    .expect(0);
    let done = migrate(directory, "n", &both).expect(0).json();
    let value = |lines: &[Json]| record(lines, "88.118/h")["values"][0]["data"]["value"].clone();
    assert_eq!(value(&timeless(directory, "n")), "two");
    assert_eq!(done["files"][0]["doneBefore"], true);
    assert_eq!(done["files"][1]["resumedAfter"], 3);
    assert_eq!(done["operations"]["create"]["done"], 3);
    for file in ["one.batch.position", "two.batch.position"] {
        assert!(!directory.join(file).exists(), "{file}");
    }
    // Killed while the positions were being removed: only that of the first is there. It tells of what, too: of another
    // node nothing was done.
    kept_by_a_full_device(directory, &["one.batch", "two.batch"]);
    let read = |name: &str| -> Json {
        let text = fs::read(directory.join(name)).expect("a position");
        serde_json::from_slice(&text).expect("JSON")
    };
    let (mut position, other) = (read("one.batch.position"), read("two.batch.position"));
    let two = directory.join("two.batch");
    position["ended"] = serde_json::json!({ two.to_str().expect("text"): other });
    let interrupted = || {
        write(directory, "one.batch.position", &position.to_string());
        let _ = fs::remove_file(directory.join("two.batch.position"));
    };
    interrupted();
    node(directory, "other");
    let other = migrate(directory, "other", &both).expect(1);
    assert!(
        other.stderr.contains("go on with that node"),
        "{}",
        other.stderr
    );
    interrupted();
    let passed = migrate(directory, "n", &both).expect(1).json();
    assert_eq!(passed["files"][0]["doneBefore"], true);
    assert_eq!(passed["files"][1]["doneBefore"], true);
    assert_eq!(value(&timeless(directory, "n")), "two");
    for file in ["one.batch.position", "two.batch.position"] {
        assert!(!directory.join(file).exists(), "{file}");
    }

    let twice = migrate(directory, "n", &["one.batch", "./one.batch"]).expect(2);
    assert!(twice.stderr.contains("is given twice"), "{}", twice.stderr);
}

/// Goal: files whose names are no text are carried out together, and are done with then. Method: two of them.
#[test]
fn names_that_are_no_text() {
    use std::os::unix::ffi::OsStrExt as _;
    let directory = directory();
    let directory = directory.path();
    node(directory, "n");
    let names = [&b"one\xFF.batch"[..], b"two\xFE.batch"].map(OsStr::from_bytes);
    for (name, handle) in names.iter().zip(["a", "b"]) {
        let text = format!("CREATE 88.118/{handle}\n1 A 60 1110 UTF8 a\n");
        fs::write(directory.join(name), text).expect("writes");
    }
    let done = jiexi(directory)
        .args(["migrate", "batch", "--data", "n"])
        .args(names)
        .output()
        .expect("runs");
    assert_eq!(done.status.code(), Some(0), "{done:?}");
    let mut left: Vec<_> = fs::read_dir(directory)
        .expect("lists")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    left.sort();
    assert_eq!(left, [OsStr::new("n"), names[0], names[1]]);
    record(&timeless(directory, "n"), "88.118/b");
}

/// Goal: whoever may not read a position hears whose it is, and not to remove it: it says what is done. Method: as root, a
/// migration that root has begun, and its files after it.
#[test]
fn a_position_of_somebody_else() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    use std::os::unix::process::CommandExt as _;
    let directory = directory();
    let directory = directory.path();
    if fs::metadata(directory).expect("is there").uid() != 0 {
        return;
    }
    node(directory, "n");
    let text = "CREATE 88.200/x\n1 A 60 1110 UTF8 a\n\nCREATE 88.118/a\n1 A 60 1110 UTF8 a\n";
    write(directory, "x.batch", text);
    kept_by_a_full_device(directory, &["x.batch"]);
    // All but those two are the other one's.
    let nobody = Some(65534);
    let given = Command::new("chown")
        .args(["-R", "65534:65534"])
        .arg(directory)
        .status();
    assert!(given.expect("chown runs").success());
    let kept = [
        directory.join("x.batch.position"),
        directory.join("x.batch.refused"),
    ];
    for path in &kept {
        chown(path, Some(0), Some(0)).expect("kept");
    }
    let as_nobody = || {
        let run = jiexi(directory)
            .args(["migrate", "batch", "--keep-going", "--data", "n", "x.batch"])
            .uid(65534)
            .gid(65534)
            .output()
            .expect("runs");
        (
            run.status.code(),
            String::from_utf8_lossy(&run.stderr).into_owned(),
        )
    };
    for path in &kept {
        let (code, said) = as_nobody();
        let name = path.file_name().and_then(OsStr::to_str).expect("text");
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains("belongs to root") && said.contains(&format!("`chown nobody {name}`")),
            "{said}"
        );
        assert!(!said.contains("remove it"), "{said}");
        chown(path, nobody, nobody).expect("given away");
    }
    let (_, said) = as_nobody();
    assert!(said.contains("x.batch.refused names all of them"), "{said}");
    assert!(!kept[0].exists(), "it is done");
    // One that says nothing may go.
    write(directory, "x.batch.position", "{\"input\":");
    let (_, said) = as_nobody();
    assert!(
        said.contains("x.batch.position") && said.contains("remove it to begin anew"),
        "{said}"
    );
}

/// A migration passes over what is refused, and nobody can read its report.
fn kept_by_a_full_device(directory: &Path, files: &[&str]) {
    let full = fs::File::options().write(true).open("/dev/full");
    let untold = jiexi(directory)
        .args(["migrate", "batch", "--keep-going", "--data", "n"])
        .args(files)
        .stdout(full.expect("opens"))
        .stderr(Stdio::null())
        .status();
    assert_eq!(untold.expect("runs").code(), Some(1));
}

/// Goal: what could not be told is told by the same command. Method: the report goes to a full device.
#[test]
fn a_report_that_was_not_read() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "n");
    write(
        directory,
        "x.batch",
        "CREATE 88.118/a\n1 A 60 1110 UTF8 a\n\nDELETE 88.118/a\nDELETE 88.118/none\n",
    );
    kept_by_a_full_device(directory, &["x.batch"]);
    let told = migrate(directory, "n", &["x.batch", "--keep-going", "-o", "json"]).expect(1);
    let json = told.json();
    assert_eq!(json["files"][0]["doneBefore"], true);
    let expected = serde_json::json!({"done": 1, "same": 0, "refused": 1});
    assert_eq!(json["operations"]["delete"], expected);
    assert_eq!(json["refusals"][0]["line"], 5);
    assert!(!directory.join("x.batch.position").exists());
}

/// Goal: of a group that was under way at a kill, what was made counts as made and what was refused as refused, whoever
/// stops at it between; a list of refusals is lost by no run. Method: the files of a migration that was killed at the end
/// of its only group, made of those of one that was not.
#[test]
fn a_group_that_was_under_way() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "n");
    write(
        directory,
        "before.batch",
        "CREATE 88.118/a\n1 A 60 1110 UTF8 a\n\nCREATE 88.118/b\n1 A 60 1110 UTF8 a\n",
    );
    migrate(directory, "n", &["before.batch"]).expect(0);
    write(
        directory,
        "x.batch",
        "CREATE 88.200/x\n1 A 60 1110 UTF8 a\n\nDELETE 88.118/a\nDELETE 88.118/never\nDELETE 88.118/b\n",
    );
    let read = |name: &str| fs::read_to_string(directory.join(name)).expect("reads");
    let going = ["x.batch", "--keep-going", "-o", "json"];
    let whole = migrate(directory, "n", &going).expect(1).json();
    let list = read("x.batch.refused");
    assert_eq!(list.lines().count(), 2);

    // A run that stops puts the list of the one before aside.
    migrate(directory, "n", &["x.batch"]).expect(1);
    assert_eq!(read("x.batch.refused.1"), list);
    assert!(!directory.join("x.batch.refused").exists());
    let position = |changes: &[(&str, u64)]| {
        let mut json: Json = serde_json::from_str(&read("x.batch.position")).expect("JSON");
        for (name, number) in changes {
            json[*name] = (*number).into();
        }
        write(directory, "x.batch.position", &json.to_string());
    };
    // The store is where it was: a running node may have had the group in its queue still.
    position(&[("applying", 6)]);
    write(directory, "x.batch.refused", &list);

    let stopped = migrate(directory, "n", &["x.batch"]).expect(1);
    assert!(
        stopped.stderr.contains("jiexi: x.batch:1: "),
        "{}",
        stopped.stderr
    );
    assert_eq!(read("x.batch.refused"), list);

    // What is not the list any more is told of, with what to do.
    let first = list.find('\n').expect("a line") + 1;
    position(&[("done", 3), ("refused", first as u64)]);
    for lost in [Some(""), None] {
        match lost {
            Some(text) => write(directory, "x.batch.refused", text),
            None => fs::remove_file(directory.join("x.batch.refused")).expect("removes"),
        }
        let lost = migrate(directory, "n", &going).expect(1);
        let expected = "bring that back, or remove x.batch.position to begin anew";
        assert!(lost.stderr.contains(expected), "{}", lost.stderr);
    }
    position(&[("done", 0), ("refused", 0)]);
    // The kill came while a line of it was written.
    write(directory, "x.batch.refused", &format!("{list}{{\"fi"));

    for dry in [&["--dry-run"][..], &[]] {
        let resumed = migrate(directory, "n", &[&going[..], dry].concat());
        let resumed = resumed.expect(1).json();
        let expected = serde_json::json!({"done": 0, "same": 2, "refused": 1});
        assert_eq!(resumed["operations"]["delete"], expected, "{dry:?}");
        assert_eq!(resumed["refusals"], whole["refusals"], "{dry:?}");
    }
    assert_eq!(read("x.batch.refused"), list);
    assert!(!directory.join("x.batch.position").exists());
}

/// Goal: of a group that was under way at a kill, a deletion that was refused and did not come into the list is told from one
/// that was made. Method: the files of a migration that was killed there, made of those of one that was not; it is killed
/// again after it has asked once more.
#[test]
fn a_deletion_that_was_refused_before_a_kill() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "n");
    write(
        directory,
        "before.batch",
        "CREATE 88.118/a\n1 A 60 1110 UTF8 a\n",
    );
    migrate(directory, "n", &["before.batch"]).expect(0);
    let text = "CREATE 88.200/x\n1 A 60 1110 UTF8 a\n\nDELETE 88.118/a\nDELETE 88.118/never\n";
    write(directory, "x.batch", text);
    let since = jiexi::clock::unix_seconds();
    let going = ["x.batch", "--keep-going", "-o", "json"];
    migrate(directory, "n", &going).expect(1);
    migrate(directory, "n", &["x.batch"]).expect(1);
    let path = directory.join("x.batch.position");
    let mut json: Json = serde_json::from_slice(&fs::read(&path).expect("reads")).expect("JSON");
    json["applying"] = 5.into();
    json["time"] = since.into();
    for dry in [&["--dry-run"][..], &[], &[]] {
        write(directory, "x.batch.position", &json.to_string());
        write(directory, "x.batch.refused", "");
        let resumed = migrate(directory, "n", &[&going[..], dry].concat());
        let resumed = resumed.expect(1).json();
        let expected = serde_json::json!({"done": 0, "same": 1, "refused": 1});
        assert_eq!(resumed["operations"]["delete"], expected, "{dry:?}");
    }
}

/// Handles and their values in turn, as many steps as go into one commit. Some are refused: a handle that is there, values
/// that are, and what is below a prefix that is elsewhere.
fn in_turn() -> String {
    let mut text = String::new();
    for number in 0..78 {
        let prefix = if number == 74 { "88.300" } else { "88.118" };
        let second = if number == 72 { 1 } else { 2 };
        writeln!(
            text,
            "CREATE {prefix}/h{number}\n1 A 60 1110 UTF8 {number}\n\nADD {prefix}/h{number}\n{second} B 60 1110 UTF8 b\n"
        )
        .expect("writes");
        if number != 72 {
            writeln!(text, "ADD {prefix}/h{number}\n3 C 60 1110 UTF8 c\n").expect("writes");
        }
    }
    text
}

/// Goal: a handle and the values that are added right behind it are one change of the store, and the report, the list of
/// refusals and the records are as if each step were one; also when that is killed when it was made. Method: a file with such
/// steps, on nodes that run and that do not, its dry run, and the files of a migration that was killed at its end.
#[test]
fn a_handle_and_its_values_are_one_change() {
    for runs in [false, true] {
        let directory = directory();
        let directory = directory.path();
        node(directory, "n");
        let running = runs.then(|| Running::start(directory, "n"));
        let text = in_turn();
        write(directory, "x.batch", &text);
        write(
            directory,
            "before.batch",
            "CREATE 88.118/h70\n1 A 60 1110 UTF8 other\n",
        );
        migrate(directory, "n", &["before.batch"]).expect(0);
        let sequence = || {
            let stats = run(directory, &["store", "stats", "--data", "n", "-o", "json"]);
            let stats = stats.expect(0).json();
            stats["sequence"].as_u64().expect("a number")
        };
        let going = ["x.batch", "--keep-going", "-o", "json"];
        let dry = migrate(directory, "n", &[&going[..], &["--dry-run"]].concat());
        let (dry, before) = (dry.expect(1).json(), sequence());
        let whole = migrate(directory, "n", &going).expect(1).json();
        for part in ["operations", "values", "refusals", "refused"] {
            assert_eq!(dry[part], whole[part], "the dry run says the same");
        }
        let refusals = whole["refusals"].as_array().expect("refusals").iter();
        let refused: Vec<_> = refusals
            .map(|refusal| {
                let operation = refusal["operation"].as_str().expect("text");
                let handle = refusal["handle"].as_str().expect("text");
                (
                    operation,
                    handle,
                    refusal["code"].as_u64().expect("a number"),
                )
            })
            .collect();
        let expected = [
            ("create", "88.118/h70", 101),
            ("add", "88.118/h72", 201),
            ("create", "88.300/h74", 301),
            ("add", "88.300/h74", 301),
            ("add", "88.300/h74", 301),
        ];
        assert_eq!(refused, expected);
        // There are 233 steps. What is behind a refusal is carried out by itself.
        let commits = sequence() - before;
        assert!(commits < 15, "{commits} commits");
        if !runs {
            let lines = timeless(directory, "n");
            for (handle, count) in [("88.118/h0", 3), ("88.118/h70", 3), ("88.118/h72", 1)] {
                let values = record(&lines, handle)["values"].as_array().map(Vec::len);
                assert_eq!(values, Some(count), "{handle}");
            }
        }

        // As if it had been killed when the store had all of it.
        let list = fs::read_to_string(directory.join("x.batch.refused")).expect("reads");
        migrate(directory, "n", &["x.batch"]).expect(1);
        let path = directory.join("x.batch.position");
        let mut json: Json =
            serde_json::from_slice(&fs::read(&path).expect("reads")).expect("JSON");
        json["applying"] = text.lines().count().into();
        write(directory, "x.batch.position", &json.to_string());
        write(directory, "x.batch.refused", &list);
        let before = sequence();
        for dry in [&["--dry-run"][..], &[]] {
            let resumed = migrate(directory, "n", &[&going[..], dry].concat());
            let resumed = resumed.expect(1).json();
            assert_eq!(resumed["refusals"], whole["refusals"], "{dry:?}");
            for operation in ["create", "add"] {
                let (is, was) = (&resumed["operations"], &whole["operations"]);
                let expected = serde_json::json!({
                    "done": 0, "same": was[operation]["done"], "refused": was[operation]["refused"],
                });
                assert_eq!(is[operation], expected, "{dry:?}");
            }
        }
        assert_eq!(sequence(), before);
        drop(running);
    }
}

/// Goal: a position does not outlive what it tells of: after a restore nothing is passed over that is no longer there.
/// Method: a migration stops, the node goes back to before it, running and stopped, and the same command is given.
#[test]
fn a_restore_ends_a_position() {
    for runs in [false, true] {
        let directory = directory();
        let directory = directory.path();
        node(directory, "n");
        let running = runs.then(|| Running::start(directory, "n"));
        let snapshot = run(
            directory,
            &["store", "snapshot", "--data", "n", "-o", "json"],
        );
        let snapshot = snapshot.expect(0).json();
        let path = snapshot["path"].as_str().expect("a path");
        write(
            directory,
            "x.batch",
            "CREATE 88.118/a\n1 A 60 1110 UTF8 a\n\nCREATE 88.200/b\n1 A 60 1110 UTF8 b\n",
        );
        migrate(directory, "n", &["x.batch"]).expect(1);
        // What others change meanwhile is no restore.
        let home = |prefix: &str| {
            let line = format!("{{\"prefix\":\"{prefix}\"}}");
            run_with(directory, &["import", "-", "--data", "n"], line.as_bytes()).expect(0);
        };
        home("88.201");
        let again = migrate(directory, "n", &["x.batch", "-o", "json"]).expect(1);
        assert_eq!(again.json()["files"][0]["resumedAfter"], 3);

        run(
            directory,
            &["store", "restore", path, "--yes", "--data", "n"],
        )
        .expect(0);
        home("88.200");
        let refused = migrate(directory, "n", &["x.batch"]).expect(1);
        let expected =
            "was interrupted at line 3: what was done before may be gone. Remove x.batch.position";
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
        fs::remove_file(directory.join("x.batch.position")).expect("removes");
        let done = migrate(directory, "n", &["x.batch", "-o", "json"]).expect(0);
        assert_eq!(done.json()["operations"]["create"]["done"], 2);
        record(&timeless(directory, "n"), "88.118/a");
        drop(running);
    }
}

/// Goal: what was refused before a kill is named afterwards, once. Method: with --keep-going the first line is refused, the
/// migration killed when it is some lines further, and begun again.
#[test]
fn refusals_outlive_a_kill() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "n");
    let text = format!("CREATE 88.200/b\n1 A 60 1110 UTF8 b\n\n{}", many(6_000));
    write(directory, "x.batch", &text);
    let arguments = ["migrate", "batch", "x.batch", "--keep-going", "--data", "n"];
    let mut child = jiexi(directory)
        .args(arguments)
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let position = directory.join("x.batch.position");
    let done = || {
        let json: Json = serde_json::from_slice(&fs::read(&position).ok()?).ok()?;
        json["done"].as_u64()
    };
    let started = Instant::now();
    while done().is_none_or(|done| done < 2_000) {
        assert!(started.elapsed() < PATIENCE, "it does not go on");
        assert_eq!(child.try_wait().expect("asks"), None, "it ended");
        std::thread::sleep(Duration::from_micros(200));
    }
    child.kill().expect("is killed");
    child.wait().expect("ends");
    let resumed = run(directory, &[&arguments[..], &["-o", "json"]].concat()).expect(1);
    let json = resumed.json();
    assert!(json["files"][0]["resumedAfter"].as_u64() >= Some(2_000));
    assert_eq!(
        (&json["refused"], &json["truncated"]),
        (&1.into(), &false.into())
    );
    assert_eq!(json["refusals"].as_array().map(Vec::len), Some(1));
    assert_eq!(json["refusals"][0]["line"], 1);
    assert!(
        resumed
            .stderr
            .contains("jiexi: x.batch:1: create 88.200/b: "),
        "{}",
        resumed.stderr
    );
    assert_eq!(json["files"][0]["refusedIn"], "x.batch.refused");
    let list = fs::read_to_string(directory.join("x.batch.refused")).expect("a list");
    let lines: Vec<Json> = list
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines, [json["refusals"][0].clone()]);

    // What is not such a list is nobody's to remove.
    write(directory, "x.batch.refused", "mine");
    let mine = migrate(directory, "n", &["x.batch", "--keep-going"]).expect(1);
    assert!(mine.stderr.contains("move it away"), "{}", mine.stderr);
}

/// Goal: a list that is cut says so, and where all of it is. Method: more refusals than are listed.
#[test]
fn many_refusals() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "n");
    let mut text = String::new();
    for number in 0..10_001 {
        writeln!(text, "DELETE 88.118/n{number}").expect("writes");
    }
    write(directory, "x.batch", &text);
    for dry in [&["--dry-run"][..], &[]] {
        let arguments = [&["x.batch", "--keep-going", "-o", "json"], dry].concat();
        let run = migrate(directory, "n", &arguments).expect(1);
        let json = run.json();
        assert_eq!(
            (&json["refused"], &json["truncated"]),
            (&10_001.into(), &true.into())
        );
        assert_eq!(json["refusals"].as_array().map(Vec::len), Some(10_000));
        let named = match dry {
            [] => "x.batch.refused names all of them",
            _ => "-o json has the first 10000",
        };
        assert!(run.stderr.contains(named), "{}", run.stderr);
        let list = fs::read_to_string(directory.join("x.batch.refused"));
        let lines = list.ok().map(|list| list.lines().count());
        assert_eq!(lines, dry.is_empty().then_some(10_001));
    }
}

/// Goal: a report is no larger than what it tells of is worth. Method: lines as long as one may be.
#[test]
fn refusals_of_long_lines_are_short() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "n");
    let long = "x".repeat((1 << 20) - 1);
    let lines = format!("{long}\n").repeat(20);
    write(
        directory,
        "x.batch",
        &format!("HOME 192.0.2.1:2641:TCP\n{lines}"),
    );
    for more in [&["--dry-run"][..], &[]] {
        let told = migrate(
            directory,
            "n",
            &[&["x.batch", "--keep-going", "-o", "json"], more].concat(),
        );
        let told = told.expect(1);
        let json = told.json();
        assert_eq!(json["refusals"].as_array().map(Vec::len), Some(20));
        assert_eq!(json["refusals"][19]["line"], 21);
        let octets = told.stdout.len() + told.stderr.len();
        assert!(octets < 64 << 10, "{octets} octets");
    }
    let list = fs::metadata(directory.join("x.batch.refused")).expect("a list");
    assert!(list.len() < 64 << 10, "{} octets", list.len());
}

/// Goal: a dry run says what the real one does: of files together, of records that grow too large, and of prefixes that go.
/// Method: both, of running and stopped nodes, and their reports are compared.
#[test]
fn a_dry_run_says_what_the_real_one_does() {
    let value = "x".repeat(100_000);
    let mut two = String::from(
        "ADD 88.118/a\n2 A 60 1110 UTF8 a\n\nADD 88.118/none\n1 A 60 1110 UTF8 a\n\nCREATE 88.300/a\n1 A 60 1110 UTF8 a\n\n",
    );
    for index in [10, 11, 12] {
        writeln!(two, "ADD 88.118/a\n{index} A 60 1110 UTF8 {value}\n").expect("writes");
    }
    two.push_str(
        "UNHOME 192.0.2.1:2641:TCP\n0.NA/88.118\n\nCREATE 0.NA/88.118.5\n1 A 60 1110 UTF8 a\n\n\
         CREATE 88.118/b\n1 A 60 1110 UTF8 a\n\nMODIFY 0.NA/88.118\n100 A 60 1110 UTF8 a\n\n\
         CREATE 0.NA/88.300.5\n1 A 60 1110 UTF8 a\n",
    );
    for runs in [false, true] {
        let directory = directory();
        let directory = directory.path();
        node(directory, "n");
        let running = runs.then(|| Running::start(directory, "n"));
        write(
            directory,
            "one.batch",
            "CREATE 88.118/a\n1 A 60 1110 UTF8 a\n\nHOME 192.0.2.1:2641:TCP\n0.NA/88.300\n",
        );
        write(directory, "two.batch", &two);
        let arguments = ["one.batch", "two.batch", "--keep-going", "-o", "json"];
        let dry = migrate(directory, "n", &[&arguments[..], &["--dry-run"]].concat());
        let (dry, real) = (dry.expect(1).json(), migrate(directory, "n", &arguments));
        let real = real.expect(1).json();
        for part in ["operations", "values", "refusals", "refused"] {
            assert_eq!(dry[part], real[part], "the dry run says the same");
        }
        let refusals = real["refusals"].as_array().expect("refusals").iter();
        let codes: Vec<_> = refusals
            .map(|refusal| (refusal["line"].as_u64(), refusal["code"].as_u64()))
            .collect();
        let expected = [(4, 100), (16, 202), (22, 301), (25, 301), (28, 301)];
        let expected = expected.map(|(line, code)| (Some(line), Some(code)));
        assert_eq!(codes, expected);
        drop(running);
    }
}

/// Goal: a dry run knows the records that a prefix has kept from before it was unhomed, and refuses what the real one refuses
/// when the file homes it again. Method: both, of running and stopped nodes, with such handles beside the `HOME` and far
/// behind it, and their reports are compared.
#[test]
fn a_dry_run_knows_what_an_unhomed_prefix_has_kept() {
    let mut text = String::from(
        "CREATE 88.118/0\n1 A 60 1110 UTF8 other\n\nHOME 192.0.2.1:2641:TCP\n0.NA/88.118\n\n",
    );
    for number in 0..600 {
        writeln!(text, "CREATE 88.118/{number}\n1 A 60 1110 UTF8 other\n").expect("writes");
    }
    text.push_str("ADD 88.118/599\n2 A 60 1110 UTF8 a\n\nDELETE 88.118/599\nDELETE 88.118/599\n");
    for runs in [false, true] {
        let directory = directory();
        let directory = directory.path();
        node(directory, "n");
        let running = runs.then(|| Running::start(directory, "n"));
        write(
            directory,
            "before.batch",
            "CREATE 88.118/3\n1 A 60 1110 UTF8 a\n\nCREATE 88.118/500\n1 A 60 1110 UTF8 a\n\n\
             CREATE 88.118/501\n1 A 60 1110 UTF8 other\n\nUNHOME 192.0.2.1:2641:TCP\n0.NA/88.118\n",
        );
        migrate(directory, "n", &["before.batch"]).expect(0);
        write(directory, "x.batch", &text);
        let arguments = ["x.batch", "--keep-going", "-o", "json"];
        let dry = migrate(directory, "n", &[&arguments[..], &["--dry-run"]].concat());
        let (dry, real) = (dry.expect(1).json(), migrate(directory, "n", &arguments));
        let real = real.expect(1).json();
        for part in ["operations", "values", "refusals", "refused"] {
            assert_eq!(dry[part], real[part], "the dry run says the same");
        }
        let refusals = dry["refusals"].as_array().expect("refusals").iter();
        let refused: Vec<_> = refusals
            .map(|refusal| (refusal["handle"].as_str(), refusal["code"].as_u64()))
            .collect();
        let expected = [
            ("88.118/0", 301),
            ("88.118/3", 101),
            ("88.118/500", 101),
            ("88.118/599", 100),
        ];
        let expected = expected.map(|(handle, code)| (Some(handle), Some(code)));
        assert_eq!(refused, expected);
        drop(running);
    }
}

/// Goal: a dry run says where the real one would stop, and of one that has stopped what is left. Method: the first line of
/// each kind that stops it.
#[test]
fn a_dry_run_says_where_it_stops() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "n");
    let text = "CREATE 88.118/a\n1 A 60 1110 UTF8 a\n\nCREATE 88.200/b\n1 A 60 1110 UTF8 b\n\nDELETE 88.118/a\n";
    write(directory, "x.batch", text);
    write(
        directory,
        "y.batch",
        "CREATE 88.118/y\n1 A 60 1110 UTF8 a\n",
    );
    let dry = |arguments: &[&str]| {
        let fixed = ["x.batch", "y.batch", "--dry-run"];
        migrate(directory, "n", &[&fixed[..], arguments].concat()).expect(1)
    };
    let stops = dry(&["-o", "json"]).json();
    assert_eq!(stops["wouldStopAt"]["file"], "x.batch");
    assert_eq!(stops["wouldStopAt"]["line"], 4);
    assert_eq!(stops["operations"]["create"]["done"], 1);
    assert_eq!(stops["operations"]["delete"], Json::Null);
    let said = dry(&[]).stdout;
    assert!(said.contains("it would stop at x.batch:4"), "{said}");
    let goes_on = dry(&["--keep-going", "-o", "json"]).json();
    assert_eq!(goes_on["wouldStopAt"], Json::Null);
    assert_eq!(goes_on["operations"]["create"]["done"], 2);

    // It has stopped: what is done is no longer to be done.
    migrate(directory, "n", &["x.batch", "y.batch"]).expect(1);
    let rest = dry(&["--keep-going", "-o", "json"]).json();
    assert_eq!(rest["files"][0]["resumedAfter"], 3);
    assert_eq!(rest["operations"]["create"]["done"], 1);
    assert_eq!(rest["operations"]["delete"]["done"], 1);
    let said = dry(&["--keep-going"]).stdout;
    assert!(said.contains("x.batch would go on behind line 3"), "{said}");

    fs::remove_file(directory.join("x.batch.position")).expect("removes");
    write(
        directory,
        "x.batch",
        "CREATE 88.118/c\n1 A 60 1110 UTF8 c\n\nFOO\n",
    );
    let unread = dry(&["-o", "json"]).json();
    assert_eq!(unread["wouldStopAt"]["begun"], false);
    assert_eq!(unread["operations"], Json::Object(serde_json::Map::new()));
    let said = dry(&[]).stdout;
    let expected = "x.batch would not be begun with, for line 4 cannot be read";
    assert!(said.contains(expected), "{said}");
}

/// Goal: a dry run on a running node asks for many handles at once and does not fill its log. Method: the log of a node.
#[test]
fn a_dry_run_is_quiet() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "n");
    let log = directory.join("log");
    let running = Running::start_logging(directory, "n", &log);
    write(directory, "x.batch", &many(3_000));
    migrate(directory, "n", &["x.batch", "--dry-run"]).expect(0);
    let quiet = fs::read_to_string(&log).expect("a log");
    let commands = quiet.matches("control socket: command").count();
    assert_eq!(commands, 0, "{quiet}");
    // Changes are told of.
    migrate(directory, "n", &["x.batch"]).expect(0);
    let told = fs::read_to_string(&log).expect("a log");
    assert!(told.contains("control socket: command"), "{told}");
    drop(running);
}

/// Changes that can be told apart from what they began with, in phases.
fn many(count: usize) -> String {
    let mut text = String::new();
    for number in 0..count {
        writeln!(
            text,
            "CREATE 88.118/n{number}\n1 URL 60 1110 UTF8 {number}\n2 B 60 1110 UTF8 b\n"
        )
        .expect("writes");
    }
    for number in (0..count).step_by(2) {
        writeln!(text, "ADD 88.118/n{number}\n3 C 60 1110 UTF8 c\n").expect("writes");
    }
    for number in (0..count).step_by(3) {
        writeln!(text, "REMOVE 2:88.118/n{number}").expect("writes");
    }
    for number in (0..count).step_by(5) {
        writeln!(
            text,
            "MODIFY 88.118/n{number}\n1 URL 60 1110 UTF8 new {number}\n"
        )
        .expect("writes");
    }
    for number in (0..count).step_by(7) {
        writeln!(text, "DELETE 88.118/n{number}").expect("writes");
    }
    text
}

/// Goal: a migration that was killed at any moment ends as one that was not. Method: it is killed whenever it has come some
/// lines further, and begun again, until it ends.
#[test]
fn killed_again_and_again() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "whole");
    node(directory, "killed");
    let text = many(6_000);
    let lines = text.lines().count() as u64;
    write(directory, "whole.batch", &text);
    write(directory, "killed.batch", &text);
    migrate(directory, "whole", &["whole.batch"]).expect(0);

    let position = directory.join("killed.batch.position");
    let done = || {
        let json: Json = serde_json::from_slice(&fs::read(&position).ok()?).ok()?;
        json["done"].as_u64()
    };
    let (mut kills, mut before) = (0, 0);
    while kills < 8 {
        let mut child = jiexi(directory)
            .args(["migrate", "batch", "killed.batch", "--data", "killed"])
            .stdout(Stdio::null())
            .spawn()
            .expect("starts");
        let started = Instant::now();
        while done().is_none_or(|done| done < before + lines / 10) {
            assert!(started.elapsed() < PATIENCE, "it does not go on");
            assert_eq!(
                child.try_wait().expect("asks"),
                None,
                "it ended after {kills} kills"
            );
            std::thread::sleep(Duration::from_micros(200));
        }
        child.kill().expect("is killed");
        child.wait().expect("ends");
        before = done().expect("a position");
        kills += 1;
    }
    let last = migrate(directory, "killed", &["killed.batch", "-o", "json"])
        .expect(0)
        .json();
    assert_eq!(last["files"][0]["resumedAfter"], before);
    assert_eq!(last["refused"], 0, "{last}");
    for (operation, every) in [
        ("create", 1),
        ("add", 2),
        ("remove", 3),
        ("modify", 5),
        ("delete", 7),
    ] {
        let tally = &last["operations"][operation];
        let all = tally["done"]
            .as_u64()
            .zip(tally["same"].as_u64())
            .map(|(done, same)| done + same);
        assert_eq!(all, Some(6_000_u64.div_ceil(every)), "{operation}");
    }
    // The record of the prefix has the key of each node.
    let migrated = |data| {
        let mut lines = timeless(directory, data);
        lines.retain(|line| {
            line["handle"]
                .as_str()
                .is_some_and(|handle| handle.starts_with("88.118/n"))
        });
        lines
    };
    let (whole, killed) = (migrated("whole"), migrated("killed"));
    assert_eq!(whole.len(), killed.len());
    for (whole, killed) in whole.iter().zip(&killed) {
        assert_eq!(whole, killed);
    }
    run(directory, &["store", "verify", "--data", "killed"]).expect(0);
    run(directory, &["audit", "verify", "--data", "killed"]).expect(0);
}
