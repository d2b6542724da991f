//! Goal: what was backed up comes back, to the record, on another host, at any moment; what is not whole is never taken
//! for whole. Method: nodes that run and nodes that are stopped are backed up with the real program, repositories are
//! damaged and backups killed; what is restored is compared by exports, secrets included.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value as Json;
use tempfile::TempDir;

use crate::{
    bulk::export,
    node::{PATIENCE, Running},
    support::{Run, directory, jiexi, node, run, run_with},
};

pub(crate) const SECRETS: &[&str] = &["--with-secrets"];

/// A line with one value.
pub(crate) fn line(name: &str, text: &str) -> String {
    format!(
        r#"{{"handle":"88.118/{name}","values":[{{"index":1,"type":"URL","data":"https://example.cn/{text}"}}]}}"#
    )
}

pub(crate) fn import(directory: &Path, data: &str, lines: &str) {
    run_with(
        directory,
        &["import", "-", "--data", data],
        lines.as_bytes(),
    )
    .expect(0);
}

pub(crate) fn backup(directory: &Path, arguments: &[&str]) -> Run {
    run(directory, &[&["backup"], arguments].concat())
}

/// Takes a backup; what was written.
pub(crate) fn create(directory: &Path, data: &str, options: &[&str]) -> Vec<Json> {
    let arguments = [&["create", "repo", "--data", data, "-o", "json"], options].concat();
    let created = backup(directory, &arguments).expect(0).json();
    created["created"].as_array().expect("an array").clone()
}

pub(crate) fn list(directory: &Path) -> Vec<Json> {
    let listed = backup(directory, &["list", "repo", "-o", "json"])
        .expect(0)
        .json();
    listed["backups"].as_array().expect("an array").clone()
}

pub(crate) fn kinds(backups: &[Json]) -> Vec<&str> {
    let kinds = backups.iter().map(|backup| backup["kind"].as_str());
    kinds.map(|kind| kind.expect("a kind")).collect()
}

fn sequence(directory: &Path, data: &str) -> u64 {
    figure(directory, data, "sequence")
}

/// A number that the store says of itself.
fn figure(directory: &Path, data: &str, name: &str) -> u64 {
    let stats = run(directory, &["store", "stats", "--data", data, "-o", "json"]).expect(0);
    stats.json()[name].as_u64().expect("a number")
}

/// Puts the key of `data` into escrow.
fn escrow(directory: &Path, data: &str) {
    fs::write(directory.join("passphrase"), "correct horse\n").expect("writes");
    let arguments = ["--out", "escrow.key", "--passphrase-file", "passphrase"];
    let export = ["key", "escrow", "export", "--data", data];
    run(directory, &[&export[..], &arguments].concat()).expect(0);
}

pub(crate) const KEY: [&str; 4] = ["--key", "escrow.key", "--passphrase-file", "passphrase"];

/// Restores into a new place with the escrowed key; the report.
pub(crate) fn restore(directory: &Path, data: &str, options: &[&str]) -> Json {
    let restore = ["restore", "repo", "--data", data, "-o", "json"];
    let restored = backup(directory, &[&restore[..], &KEY, options].concat()).expect(0);
    restored.json()
}

/// A node with a secret and some records; its key in escrow.
pub(crate) fn filled(directory: &Path, data: &str) {
    node(directory, data);
    let secret = r#"{"handle":"88.118/secret","values":[{"index":301,"type":"HS_SECKEY","data":"s3cret","permissions":"1100"}]}"#;
    import(directory, data, secret);
    let lines: Vec<String> = (0..200)
        .map(|number| line(&format!("n{number}"), "first"))
        .collect();
    import(directory, data, &lines.join("\n"));
    escrow(directory, data);
}

/// A directory with such a node, called `a`.
pub(crate) fn set_up() -> TempDir {
    let directory = directory();
    filled(directory.path(), "a");
    directory
}

/// Takes in so many records, called by `name` and a number, that they make several batches and parts.
pub(crate) fn import_many(directory: &Path, name: &str, text: &str) {
    let lines = (0..17_000).map(|number| line(&format!("{name}{number}"), text));
    import(directory, "a", &lines.collect::<Vec<_>>().join("\n"));
}

/// Files of the backups, relative to the directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for backup in fs::read_dir(directory.join("repo"))
        .expect("lists")
        .flatten()
    {
        if backup.path().is_dir() {
            let items = fs::read_dir(backup.path()).expect("lists").flatten();
            found.extend(items.map(|item| item.path()));
        }
    }
    found.sort();
    found
}

/// Full and increments of a running node, a bulk import among them, and every moment of it again elsewhere.
#[test]
fn every_moment_comes_back() {
    let directory = set_up();
    let directory = directory.path();
    let running = Running::start(directory, "a");
    assert_eq!(kinds(&create(directory, "a", &[])), ["full"]);
    assert!(create(directory, "a", &[]).is_empty(), "nothing is new");
    let mut moments = vec![(sequence(directory, "a"), export(directory, "a", SECRETS))];
    let mut note = || moments.push((sequence(directory, "a"), export(directory, "a", SECRETS)));
    import(directory, "a", &line("n1", "second"));
    run(directory, &["handle", "rm", "88.118/n2", "--data", "a"]).expect(0);
    note();
    import(directory, "a", &line("n3", "third"));
    note();
    assert_eq!(kinds(&create(directory, "a", &[])), ["increment"]);
    import_many(directory, "n", "many");
    note();
    run(directory, &["handle", "rm", "88.118/n16999", "--data", "a"]).expect(0);
    note();
    assert_eq!(
        kinds(&create(directory, "a", &["--full"])),
        ["increment", "full"]
    );
    import(directory, "a", &line("n4", "last"));
    note();
    assert_eq!(running.stop(), 0);
    // The same node, stopped.
    assert_eq!(kinds(&create(directory, "a", &[])), ["increment"]);

    let backups = list(directory);
    assert_eq!(
        kinds(&backups),
        ["full", "increment", "increment", "full", "increment"]
    );
    let (first, last) = (&backups[0], &backups[4]);
    assert_eq!((&first["epoch"], &first["from"]), (&1.into(), &0.into()));
    assert_eq!(first["sequence"], moments[0].0);
    assert_eq!(last["sequence"], moments[5].0);
    let table = backup(directory, &["list", "repo"]).expect(0).stdout;
    assert!(
        table.starts_with("ID") && table.lines().count() == 6,
        "{table}"
    );
    backup(directory, &["verify", "repo"]).expect(0);

    for (place, (sequence, expected)) in moments.iter().enumerate() {
        let data = format!("to{place}");
        let begun = u64::from(jiexi::clock::unix_seconds());
        let report = restore(directory, &data, &["--to-sequence", &sequence.to_string()]);
        assert_eq!(report["sequence"], *sequence);
        assert!(report["epoch"].as_u64() >= Some(begun), "{report}");
        assert_eq!(report["epoch"], figure(directory, &data, "epoch"));
        let found = export(directory, &data, SECRETS);
        assert!(
            found == *expected,
            "{place}: {} of {}",
            found.len(),
            expected.len()
        );
    }
    restored_is_a_node(directory, "to5", &moments[5].1);
    moments_that_are_not(directory, &backups);
}

/// Between two backups, a time brings back what had been acknowledged then, and nothing later.
#[test]
fn a_time_between_backups_comes_back() {
    let directory = set_up();
    let directory = directory.path();
    let running = Running::start(directory, "a");
    create(directory, "a", &[]);
    let mut times = Vec::new();
    for name in ["t0", "t1", "t2"] {
        import(directory, "a", &line(name, "x"));
        // Times are noted once a second, and known to the second.
        thread::sleep(Duration::from_millis(2_100));
        times.push(jiexi::clock::unix_seconds().to_string());
        thread::sleep(Duration::from_millis(1_100));
    }
    create(directory, "a", &[]);
    assert_eq!(running.stop(), 0);
    for (place, time) in times.iter().enumerate() {
        let data = format!("r{place}");
        restore(directory, &data, &["--to-time", time]);
        let found = export(directory, &data, &[]);
        for number in 0..3 {
            let handle = format!("88.118/t{number}");
            let there = found.iter().any(|line| line["handle"] == *handle);
            assert_eq!(there, number <= place, "{handle} at {time}");
        }
    }
}

/// What was restored runs, tells of it in its audit trail, and is backed up as a new epoch.
fn restored_is_a_node(directory: &Path, data: &str, expected: &[Json]) {
    for file in ["jiexi.toml", "site.json", "node.key"] {
        let (own, other) = (
            directory.join("a").join(file),
            directory.join(data).join(file),
        );
        assert_eq!(
            fs::read(own).expect("reads"),
            fs::read(other).expect("reads"),
            "{file}"
        );
    }
    let running = Running::start(directory, data);
    run(
        directory,
        &["resolve", "88.118/n4", "--server", &running.server()],
    )
    .expect(0);
    assert!(export(directory, data, SECRETS) == expected);
    run(directory, &["store", "verify", "--data", data]).expect(0);
    let trail = run(directory, &["audit", "--data", data, "-o", "json"])
        .expect(0)
        .stdout;
    let entry: Json = serde_json::from_str(trail.lines().last().expect("an entry")).expect("JSON");
    assert_eq!(
        (&entry["operation"], &entry["result"]),
        (&"restore".into(), &"committed".into())
    );
    let epoch = figure(directory, data, "epoch");
    let created = create(directory, data, &[]);
    assert_eq!(
        (kinds(&created), &created[0]["epoch"]),
        (vec!["full"], &epoch.into())
    );
    // The store from before the restore may not go on in this repository, nor may the epoch be given away again.
    assert_eq!(running.stop(), 0);
    let refused = backup(directory, &["create", "repo", "--data", "a"]).expect(1);
    assert!(
        refused.stderr.contains(&format!("is of epoch {epoch}, ")),
        "{}",
        refused.stderr
    );
    let again = restore(directory, "again", &["--epoch", "1"]);
    assert!(again["epoch"].as_u64() > Some(epoch), "{again}");
}

/// What a repository does not have is refused, with what it does have, and by time it is the newest of then.
fn moments_that_are_not(directory: &Path, backups: &[Json]) {
    let to = |option: &str, moment: &str, code: i32| {
        let restore = [
            "restore", "repo", "--data", "none", "--epoch", "1", option, moment,
        ];
        backup(directory, &restore).expect(code).stderr
    };
    let last = backups[4]["sequence"].as_u64().expect("a number");
    let refused = to("--to-sequence", &(last + 1).to_string(), 3);
    assert!(refused.contains(&format!("to {last}")), "{refused}");
    let refused = to("--to-time", "2020-01-01T00:00:00Z", 3);
    assert!(refused.contains("the oldest is"), "{refused}");
    to("--to-time", "yesterday", 2);
    assert!(!directory.join("none").exists());
    let time = backups[2]["time"].as_str().expect("a time");
    let report = restore(directory, "then", &["--epoch", "1", "--to-time", time]);
    let sequence = report["sequence"].as_u64().expect("a number");
    let of_then: Vec<u64> = backups
        .iter()
        .filter(|backup| backup["time"].as_str() <= Some(time))
        .filter_map(|backup| backup["sequence"].as_u64())
        .collect();
    // Perhaps more: a later increment tells what else was acknowledged in that second.
    assert!(Some(&sequence) >= of_then.iter().max(), "{report}");
}

/// Each file with a bit flipped, cut off, or missing: verify names it, and a restore or drill leaves nothing.
#[test]
fn damage_is_found_and_refused() {
    let directory = set_up();
    let directory = directory.path();
    create(directory, "a", &[]);
    import(directory, "a", &line("n1", "second"));
    create(directory, "a", &[]);
    let names = files(directory);
    assert_eq!(names.len(), 8, "{names:?}");
    for path in &names {
        let sound = fs::read(path).expect("reads");
        let mut flipped = sound.clone();
        flipped[sound.len() / 2] ^= 4;
        let cut = sound[..sound.len() - 2].to_vec();
        // Without its manifest it is an interrupted one.
        let gone = (!path.ends_with("manifest.json")).then_some(None);
        for bytes in [Some(flipped), Some(cut)].into_iter().chain(gone) {
            match bytes {
                Some(bytes) => fs::write(path, bytes).expect("writes"),
                None => fs::remove_file(path).expect("removes"),
            }
            is_refused(directory, path);
        }
        fs::write(path, sound).expect("writes");
    }
    backup(directory, &["verify", "repo"]).expect(0);
    restore(directory, "b", &[]);
    assert!(export(directory, "a", SECRETS) == export(directory, "b", SECRETS));
}

fn is_refused(directory: &Path, path: &Path) {
    let file = path.file_name().expect("a name").to_str().expect("UTF-8");
    let found = backup(directory, &["verify", "repo", "-o", "json"]).expect(1);
    let problems = found.json()["problems"].to_string();
    let id = path.parent().and_then(Path::file_name).expect("a name");
    let id = id.to_str().expect("UTF-8");
    assert!(
        problems.contains(&format!("{id}/{file}")),
        "{path:?}: {problems}"
    );
    let refused = backup(
        directory,
        &[&["restore", "repo", "--data", "b"][..], &KEY].concat(),
    );
    assert!(
        [1, 3].contains(&refused.code),
        "{path:?}: {}",
        refused.stdout
    );
    assert!(
        refused.stderr.contains(file),
        "{path:?}: {}",
        refused.stderr
    );
    assert!(!directory.join("b").exists(), "{path:?}");
}

/// What was killed in the middle is no backup, and the next one goes on.
#[test]
fn a_killed_backup_is_none() {
    let directory = set_up();
    let directory = directory.path();
    import_many(directory, "m", &"x".repeat(300));
    create(directory, "a", &[]);
    let running = Running::start(directory, "a");
    let (mut killed, mut attempts) = (0, 0);
    while killed < 2 {
        attempts += 1;
        assert!(attempts < 60, "{killed} of {attempts} were killed in time");
        import(directory, "a", &line("n1", &attempts.to_string()));
        let before = names(directory);
        let mut child = jiexi(directory)
            .args(["backup", "create", "repo", "--full", "--data", "a"])
            .stdout(Stdio::null())
            .spawn()
            .expect("starts");
        let wanted = ["-increment", "-full"][attempts % 2];
        while child.try_wait().expect("asks").is_none()
            && !names(directory)
                .iter()
                .any(|name| !before.contains(name) && name.contains(wanted))
        {
            thread::yield_now();
        }
        child.kill().expect("kills");
        child.wait().expect("ends");
        let listed = backup(directory, &["list", "repo", "-o", "json"])
            .expect(0)
            .json();
        let unfinished = listed["unfinished"].as_array().expect("an array").len();
        let whole = listed["backups"].as_array().expect("an array").len();
        assert_eq!(unfinished + whole, names(directory).len(), "{listed}");
        killed += unfinished;
        backup(directory, &["verify", "repo"]).expect(0);
    }
    import(directory, "a", &line("n1", "after"));
    create(directory, "a", &[]);
    let listed = backup(directory, &["list", "repo", "-o", "json"])
        .expect(0)
        .json();
    assert_eq!(
        listed["unfinished"].as_array().map(Vec::len),
        Some(0),
        "the next one clears up"
    );
    backup(directory, &["verify", "repo"]).expect(0);
    restore(directory, "b", &[]);
    assert!(export(directory, "a", SECRETS) == export(directory, "b", SECRETS));
    assert_eq!(running.stop(), 0);
}

/// Names of the directories in the repository.
fn names(directory: &Path) -> BTreeSet<String> {
    let items = fs::read_dir(directory.join("repo"))
        .expect("lists")
        .flatten();
    let directories = items.filter(|item| item.path().is_dir());
    directories
        .map(|item| item.file_name().to_string_lossy().into_owned())
        .collect()
}

/// A restore overwrites nothing, needs the right key if it is given one, and leaves nothing when it fails.
#[test]
fn a_restore_goes_to_an_empty_place() {
    let directory = set_up();
    let directory = directory.path();
    let missing = backup(directory, &["restore", "repo", "--data", "b"]).expect(3);
    assert!(
        missing.stderr.contains("no backups here"),
        "{}",
        missing.stderr
    );
    create(directory, "a", &[]);
    import(directory, "a", &line("later", "x"));
    let before = export(directory, "a", SECRETS);
    let refused = backup(directory, &["restore", "repo", "--data", "a"]).expect(1);
    assert!(
        refused.stderr.contains("a/store: there is a store already"),
        "{}",
        refused.stderr
    );
    assert!(export(directory, "a", SECRETS) == before);
    backup(directory, &["restore", "repo"]).expect(2);

    node(directory, "other");
    let other = ["--key", "other/node.key"];
    let wrong = [&["restore", "repo", "--data", "b"][..], &other].concat();
    let refused = backup(directory, &wrong).expect(1);
    assert!(
        refused.stderr.contains("nothing was restored"),
        "{}",
        refused.stderr
    );
    fs::write(directory.join("wrong"), "not it\n").expect("writes");
    let wrong = ["--key", "escrow.key", "--passphrase-file", "wrong"];
    backup(
        directory,
        &[&["restore", "repo", "--data", "b"][..], &wrong].concat(),
    )
    .expect(1);
    assert!(!directory.join("b").exists(), "nothing is written");

    // Without the key it is everything but a node; the key comes later.
    let restored = backup(directory, &["restore", "repo", "--data", "b"]).expect(0);
    assert!(
        restored.stdout.contains("the node's key is missing"),
        "{}",
        restored.stdout
    );
    let epoch = restored.stdout.split("the store is of epoch ").nth(1);
    let epoch = epoch.and_then(|rest| rest.lines().next()?.parse().ok());
    assert!(epoch > Some(1_u64), "{}", restored.stdout);
    let arguments = [
        "escrow.key",
        "--passphrase-file",
        "passphrase",
        "--data",
        "b",
    ];
    run(
        directory,
        &[&["key", "escrow", "import"][..], &arguments].concat(),
    )
    .expect(0);
    let after = export(directory, "b", SECRETS);
    assert_eq!(after.len() + 1, before.len());
    assert!(after.iter().any(|line| line.to_string().contains("s3cret")));

    // What is no repository stays as it is.
    let refused = backup(directory, &["create", "b", "--data", "a"]).expect(1);
    assert!(
        refused.stderr.contains("nor a repository"),
        "{}",
        refused.stderr
    );
}

/// A drill needs no key file and no node, says what does not fit, and leaves nothing behind.
#[test]
fn a_drill_says_whether_it_would_work() {
    let directory = set_up();
    let directory = directory.path();
    fs::create_dir(directory.join("scratch")).expect("makes");
    let drill = |options: &[&str], code: i32| {
        let arguments = ["drill", "repo", "--scratch", "scratch", "-o", "json"];
        let run = backup(directory, &[&arguments[..], options].concat()).expect(code);
        let left = fs::read_dir(directory.join("scratch"))
            .expect("lists")
            .count();
        assert_eq!(left, 0, "nothing is left: {}", run.stderr);
        run
    };
    let steps = |run: &Run| -> Vec<String> {
        let report = run.json();
        let steps = report["steps"].as_array().expect("an array").iter();
        steps
            .map(|step| step["step"].as_str().expect("a name").to_owned())
            .collect()
    };
    create(directory, "a", &[]);
    import(directory, "a", &line("later", "x"));
    let all = ["check", "restore", "open", "verify", "secrets", "compare"];
    // Stopped, running, and on another host.
    assert_eq!(
        steps(&drill(&[&["--data", "a"][..], &KEY].concat(), 0)),
        all
    );
    let running = Running::start(directory, "a");
    import(directory, "a", &line("running", "x"));
    let done = drill(&[&["--data", "a"][..], &KEY].concat(), 0);
    assert_eq!(steps(&done), all);
    let compared = done.json()["steps"][5]["result"].to_string();
    assert!(compared.contains("with the 2 changes since"), "{compared}");
    assert_eq!(running.stop(), 0);
    assert_eq!(
        steps(&drill(&[&["--data", "none"][..], &KEY].concat(), 0)),
        all[..5]
    );
    assert_eq!(steps(&drill(&["--data", "none"], 0)), all[..4]);

    node(directory, "other");
    let wrong = drill(&["--data", "a", "--key", "other/node.key"], 1);
    assert!(wrong.stderr.contains("fingerprint"), "{}", wrong.stderr);
    let another = drill(&["--data", "other"], 1);
    assert!(
        another.stderr.contains("not the same node"),
        "{}",
        another.stderr
    );
    assert_eq!(steps(&another), all[..4]);
    let records = files(directory)
        .into_iter()
        .find(|path| path.ends_with("records.snapshot"));
    let records = records.expect("is there");
    let mut bytes = fs::read(&records).expect("reads");
    bytes[100] ^= 1;
    fs::write(&records, bytes).expect("writes");
    let damaged = drill(&["--data", "a"], 1);
    assert!(
        damaged
            .stderr
            .contains("records.snapshot: it has a wrong checksum"),
        "{}",
        damaged.stderr
    );
}

/// Each backup of a node that is written to has everything that was acknowledged before it began, and nothing that was
/// not begun when it ended.
#[test]
fn backups_beside_writes_are_prefixes() {
    let directory = set_up();
    let place = directory.path();
    let running = Running::start(place, "a");
    let (acknowledged, stop) = (
        Arc::new(AtomicU32::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let writer = {
        let (acknowledged, stop, place) = (
            Arc::clone(&acknowledged),
            Arc::clone(&stop),
            place.to_path_buf(),
        );
        thread::spawn(move || {
            for number in 1_u32.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                import(&place, "a", &line(&format!("w{number:05}"), "x"));
                acknowledged.store(number, Ordering::SeqCst);
            }
        })
    };
    let mut bounds = Vec::new();
    for _ in 0..4 {
        let (begun, before) = (Instant::now(), acknowledged.load(Ordering::SeqCst));
        while acknowledged.load(Ordering::SeqCst) < before + 2 {
            assert!(begun.elapsed() < PATIENCE, "nothing is written");
            thread::sleep(Duration::from_millis(1));
        }
        let least = acknowledged.load(Ordering::SeqCst);
        let created = create(place, "a", &[]);
        assert_eq!(created.len(), 1, "{created:?}");
        let most = acknowledged.load(Ordering::SeqCst) + 1;
        let sequence = created[0]["sequence"].as_u64().expect("a number");
        bounds.push((sequence, least, most));
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("joins");
    assert_eq!(running.stop(), 0);
    for (place_of, (sequence, least, most)) in bounds.into_iter().enumerate() {
        let data = format!("r{place_of}");
        restore(place, &data, &["--to-sequence", &sequence.to_string()]);
        let found: Vec<u32> = export(place, &data, &[])
            .iter()
            .filter_map(|line| {
                line["handle"]
                    .as_str()?
                    .strip_prefix("88.118/w")?
                    .parse()
                    .ok()
            })
            .collect();
        let last = found.last().copied().unwrap_or_default();
        assert_eq!(found, (1..=last).collect::<Vec<_>>(), "a prefix");
        assert!(
            (least..=most).contains(&last),
            "{least} to {most}, not {last}"
        );
    }
}

/// When the journal no longer reaches back a full backup is taken, and what is another history is refused.
#[test]
fn the_journal_must_reach_back() {
    let directory = set_up();
    let directory = directory.path();
    create(directory, "a", &[]);
    let copied = Command::new("cp")
        .args(["-a", "a", "copy"])
        .current_dir(directory)
        .status()
        .expect("starts");
    assert!(copied.success());
    for round in 0..4 {
        import(directory, "a", &line("n1", &round.to_string()));
        // On a busy machine the files behind the journal are now and then made anew, and then there is none.
        let begun = Instant::now();
        while run(directory, &["store", "snapshot", "--data", "a"]).code != 0 {
            assert!(begun.elapsed() < PATIENCE, "no snapshot is taken");
        }
    }
    let arguments = ["create", "repo", "--data", "a"];
    let created = backup(directory, &arguments).expect(0).stdout;
    assert!(created.contains("no longer reaches back"), "{created}");
    backup(directory, &["verify", "repo"]).expect(0);
    // The copy has gone its own way.
    for round in 0..8 {
        import(directory, "copy", &line("n1", &format!("other {round}")));
    }
    let refused = backup(directory, &["create", "repo", "--data", "copy"]).expect(1);
    assert!(
        refused.stderr.contains("does not continue"),
        "{}",
        refused.stderr
    );
    assert_eq!(kinds(&list(directory)), ["full", "full"]);

    let pruned = backup(directory, &["prune", "repo", "--keep", "1"]).expect(0);
    assert!(pruned.stdout.contains("-full"), "{}", pruned.stdout);
    assert_eq!(kinds(&list(directory)), ["full"]);
    restore(directory, "b", &[]);
    assert!(export(directory, "a", SECRETS) == export(directory, "b", SECRETS));
}

/// A damaged full backup is in nobody's way while an older one and its increments lead to the same state.
#[test]
fn a_way_around_damage_is_taken() {
    let directory = set_up();
    let directory = directory.path();
    create(directory, "a", &[]);
    import(directory, "a", &line("n1", "second"));
    assert_eq!(kinds(&create(directory, "a", &[])), ["increment"]);
    import(directory, "a", &line("n2", "third"));
    let created = create(directory, "a", &["--full"]);
    assert_eq!(kinds(&created), ["increment", "full"]);
    let newest = &created[1];
    let path = directory
        .join("repo")
        .join(newest["id"].as_str().expect("an id"))
        .join("records.snapshot");
    let mut octets = fs::read(&path).expect("reads");
    let middle = octets.len() / 2;
    octets[middle] ^= 4;
    fs::write(&path, octets).expect("writes");

    let command = [&["restore", "repo", "--data", "b"][..], &KEY].concat();
    let restored = backup(directory, &command).expect(0);
    for words in ["records.snapshot", "without this backup"] {
        assert!(restored.stderr.contains(words), "{}", restored.stderr);
    }
    assert!(export(directory, "a", SECRETS) == export(directory, "b", SECRETS));
    // A drill is there to find it.
    let drill = [&["drill", "repo"][..], &KEY].concat();
    backup(directory, &drill).expect(1);
}

/// Only what an interrupted backup has left is ever removed, nodes are not mixed, and a repository without a full backup
/// is not called whole.
#[test]
fn a_repository_is_one_node_s_and_nothing_else_is_touched() {
    let directory = set_up();
    let directory = directory.path();
    create(directory, "a", &[]);
    let repository = directory.join("repo");
    let (kept, bare) = (
        repository.join("20200101T000000Z-full-kept-by-me"),
        repository.join("20200101T000000Z-full"),
    );
    for foreign in [&kept, &bare] {
        fs::create_dir(foreign).expect("makes");
        fs::write(foreign.join("precious"), "1").expect("writes");
    }
    let archive = repository.join("20200102T000000Z-full.tar.gz");
    fs::write(&archive, "2").expect("writes");
    let interrupted = repository.join("20200103T000000Z-full.unfinished");
    fs::create_dir(&interrupted).expect("makes");
    import(directory, "a", &line("n1", "second"));
    assert_eq!(kinds(&create(directory, "a", &[])), ["increment"]);
    for foreign in [kept.join("precious"), bare.join("precious"), archive] {
        assert!(foreign.exists(), "{foreign:?}");
    }
    assert!(!interrupted.exists());
    let listed = backup(directory, &["list", "repo"]).expect(1);
    assert!(
        listed
            .stderr
            .contains("20200101T000000Z-full/manifest.json")
            || listed
                .stdout
                .contains("20200101T000000Z-full/manifest.json"),
        "{}{}",
        listed.stdout,
        listed.stderr
    );
    fs::remove_dir_all(&bare).expect("removes");

    node(directory, "b");
    let refused = backup(directory, &["create", "repo", "--data", "b"]).expect(1);
    assert!(refused.stderr.contains("another key"), "{}", refused.stderr);

    for full in list(directory) {
        if full["kind"] == "full" {
            let id = full["id"].as_str().expect("an id");
            fs::remove_dir_all(repository.join(id)).expect("removes");
        }
    }
    let verified = backup(directory, &["verify", "repo"]).expect(1);
    let said = verified.stdout + &verified.stderr;
    assert!(said.contains("no full backup"), "{said}");
}
