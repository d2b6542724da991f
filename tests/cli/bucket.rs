//! Goal: a bucket of an S3 store is as good a place for backups as a directory, also when the store goes away, refuses, or
//! the program dies in the middle. Method: the server of s3s-fs; what it keeps is looked at in its files, what is restored
//! is compared by exports, secrets included.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value as Json;

use crate::{
    backup::{KEY, SECRETS, import, import_many, kinds, line, set_up},
    bucket_server::{Store, authority, run},
    bulk::export,
    node::{PATIENCE, Running},
    support::{Run, node},
};

/// The repository of these tests.
const REPO: &str = "s3://backups/nodes/a";
/// Octets of a part.
const PART: u64 = 8 << 20;

/// Takes a backup; what was written.
fn create(store: &Store, directory: &Path, options: &[&str]) -> Vec<Json> {
    let arguments = [&["create", REPO, "--data", "a", "-o", "json"], options].concat();
    let created = store.backup(directory, &arguments).expect(0).json();
    created["created"].as_array().expect("an array").clone()
}

fn list(store: &Store, directory: &Path) -> Json {
    let listed = store.backup(directory, &["list", REPO, "-o", "json"]);
    listed.expect(0).json()
}

fn restore(store: &Store, directory: &Path, data: &str, options: &[&str]) -> Run {
    let command = ["restore", REPO, "--data", data, "-o", "json"];
    store.backup(directory, &[&command[..], &KEY, options].concat())
}

/// Records that make a snapshot of more than three parts.
fn fill_up(directory: &Path) {
    import_many(directory, "m", &"x".repeat(1_600));
}

/// Everything that works with a directory works with a bucket.
#[test]
fn a_bucket_is_a_repository() {
    let directory = set_up();
    let directory = directory.path();
    let store = Store::start(directory);
    let missing = store.backup(directory, &["list", REPO]).expect(3);
    assert!(
        missing.stderr.contains("no backups here"),
        "{}",
        missing.stderr
    );

    let running = Running::start(directory, "a");
    assert_eq!(kinds(&create(&store, directory, &[])), ["full"]);
    assert!(create(&store, directory, &[]).is_empty(), "nothing is new");
    let first = export(directory, "a", SECRETS);
    import(directory, "a", &line("n1", "second"));
    assert_eq!(kinds(&create(&store, directory, &[])), ["increment"]);
    let second = export(directory, "a", SECRETS);
    import(directory, "a", &line("n2", "third"));
    let created = create(&store, directory, &["--full"]);
    assert_eq!(kinds(&created), ["increment", "full"]);
    let listed = list(&store, directory);
    let backups = listed["backups"].as_array().expect("an array");
    assert_eq!(kinds(backups), ["full", "increment", "increment", "full"]);
    store.backup(directory, &["verify", REPO]).expect(0);

    for (place, expected) in [&first, &second].into_iter().enumerate() {
        let sequence = backups[place]["sequence"].to_string();
        let data = format!("to{place}");
        restore(&store, directory, &data, &["--to-sequence", &sequence]).expect(0);
        assert!(export(directory, &data, SECRETS) == *expected, "{place}");
    }
    let drill = [&["drill", REPO, "--data", "a"][..], &KEY].concat();
    store.backup(directory, &drill).expect(0);
    assert_eq!(running.stop(), 0);

    let pruned = store
        .backup(directory, &["prune", REPO, "--keep", "1"])
        .expect(0);
    assert!(pruned.stdout.contains("-increment"), "{}", pruned.stdout);
    assert_eq!(
        list(&store, directory)["backups"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(
        store.kept().len(),
        5,
        "the mark, and four of a backup: {:?}",
        store.kept()
    );
    restore(&store, directory, "last", &[]).expect(0);
    assert!(export(directory, "last", SECRETS) == export(directory, "a", SECRETS));
    damage_is_found(&store, directory);
    others_are_let_alone(&store, directory);
}

/// A bit of an object flips, and it is cut.
fn damage_is_found(store: &Store, directory: &Path) {
    let names = store.kept();
    let records = names.iter().find(|name| name.ends_with("records.snapshot"));
    let records = records.and_then(|name| name.strip_prefix("backups/"));
    let path = store.path(records.expect("is there"));
    let sound = fs::read(&path).expect("reads");
    let mut flipped = sound.clone();
    flipped[sound.len() / 2] ^= 4;
    for bytes in [&flipped[..], &sound[..sound.len() - 2]] {
        fs::write(&path, bytes).expect("writes");
        let found = store.backup(directory, &["verify", REPO]).expect(1);
        assert!(
            found.stdout.contains("records.snapshot"),
            "{}",
            found.stdout
        );
        let refused = restore(store, directory, "damaged", &[]).expect(1);
        assert!(
            refused.stderr.contains("nothing was restored"),
            "{}",
            refused.stderr
        );
        assert!(!directory.join("damaged").exists());
    }
    fs::write(&path, sound).expect("writes");
    store.backup(directory, &["verify", REPO]).expect(0);
}

/// A prefix with something else is none of ours, another node's repository neither, and foreign objects stay.
fn others_are_let_alone(store: &Store, directory: &Path) {
    fs::create_dir_all(store.path("other")).expect("makes");
    fs::write(store.path("other/precious"), "1").expect("writes");
    let refused = store.backup(directory, &["create", "s3://backups/other", "--data", "a"]);
    let refused = refused.expect(1);
    assert!(
        refused.stderr.contains("nor a repository"),
        "{}",
        refused.stderr
    );
    let beside = store.path("nodes/a/20200101T000000Z-full");
    fs::create_dir_all(&beside).expect("makes");
    for name in ["precious", "records.snapshot"] {
        fs::write(beside.join(name), "1").expect("writes");
    }
    import(directory, "a", &line("n3", "fourth"));
    let created = store
        .backup(directory, &["create", REPO, "--data", "a"])
        .expect(0);
    assert!(
        created.stdout.contains("20200101T000000Z-full"),
        "{}",
        created.stdout
    );
    assert!(beside.join("precious").exists());
    assert!(
        !beside.join("records.snapshot").exists(),
        "an interrupted backup"
    );
    node(directory, "b");
    let refused = store
        .backup(directory, &["create", REPO, "--data", "b"])
        .expect(1);
    assert!(refused.stderr.contains("another key"), "{}", refused.stderr);
}

/// A large member goes in parts of a fixed size; killed in the middle it leaves no backup, and the next one clears up what
/// no listing shows.
#[test]
fn parts_and_a_killed_upload() {
    let directory = set_up();
    let directory = directory.path();
    let store = Store::start(directory);
    create(&store, directory, &[]);
    assert_eq!(store.parts(), 0, "what is short goes at once");
    fill_up(directory);
    let before = store.kept();
    store.stall_from(2);
    let mut child = store
        .jiexi(directory)
        .args(["backup", "create", REPO, "--full", "--data", "a"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    store.await_file(".part-1");
    child.kill().expect("kills");
    child.wait().expect("ends");
    store.stall_from(0);
    let listed = list(&store, directory);
    let unfinished = listed["unfinished"].as_array().expect("an array");
    assert_eq!(unfinished.len(), 1, "{listed}");
    assert!(store.kept().iter().any(|name| name.ends_with(".part-1")));
    store.backup(directory, &["verify", REPO]).expect(0);

    let parts = store.parts();
    let created = create(&store, directory, &["--full"]);
    assert_eq!(kinds(&created).last(), Some(&"full"));
    assert!(
        store.parts() >= parts + 3,
        "{} after {parts}",
        store.parts()
    );
    assert_eq!(store.longest(), PART);
    let left = store.kept();
    let of_uploads = left.iter().filter(|name| name.contains(".upload"));
    assert_eq!(of_uploads.count(), 0, "{left:?}");
    assert!(before.iter().all(|name| left.contains(name)), "{left:?}");
    assert_eq!(
        list(&store, directory)["unfinished"]
            .as_array()
            .map(Vec::len),
        Some(0)
    );
    store.backup(directory, &["verify", REPO]).expect(0);
    restore(&store, directory, "b", &[]).expect(0);
    assert!(export(directory, "a", SECRETS) == export(directory, "b", SECRETS));
}

/// An upload that is complete although nobody was told so is there; one that may not be aborted is told of until it may.
#[test]
fn answers_that_are_lost_and_parts_that_stay() {
    let directory = set_up();
    let directory = directory.path();
    let store = Store::start(directory);
    fill_up(directory);
    store.lose_answer();
    assert_eq!(kinds(&create(&store, directory, &[])), ["full"]);
    assert!(store.has_lost_answer());
    store.backup(directory, &["verify", REPO]).expect(0);
    let sound = store.kept();
    assert!(
        sound.iter().all(|name| !name.contains(".upload")),
        "{sound:?}"
    );

    store.stall_from(2);
    let mut child = store
        .jiexi(directory)
        .args(["backup", "create", REPO, "--full", "--data", "a"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    store.await_file(".part-1");
    child.kill().expect("kills");
    child.wait().expect("ends");
    store.stall_from(0);
    store.keep_parts(true);
    for _ in 0..2 {
        let created = ["create", REPO, "--data", "a", "-o", "json"];
        let created = store.backup(directory, &created).expect(0).json();
        let left = created["left"].to_string();
        for words in ["s3:AbortMultipartUpload", "records.snapshot", "AKIATEST"] {
            assert!(left.contains(words), "{created}");
        }
        assert_eq!(
            created["removed_unfinished"].as_array().map(Vec::len),
            Some(0),
            "{created}"
        );
        let kept = store.kept();
        for part_of_name in [".part-1", "records.snapshot.upload"] {
            let there = kept.iter().any(|name| name.contains(part_of_name));
            assert!(there, "{kept:?}");
        }
    }
    store.keep_parts(false);
    let created = store.backup(directory, &["create", REPO, "--data", "a"]);
    let created = created.expect(0).stdout;
    assert!(created.contains("had been interrupted"), "{created}");
    assert_eq!(store.kept(), sound);
}

/// However much is in a bucket, it is listed and pruned.
#[test]
fn more_than_a_hundred_thousand_objects() {
    let directory = set_up();
    let directory = directory.path();
    let store = Store::start(directory);
    create(&store, directory, &[]);
    import(directory, "a", &line("n0", "second"));
    create(&store, directory, &["--full"]);
    store.add_pages(101);
    let backups = list(&store, directory)["backups"].clone();
    assert_eq!(backups.as_array().map(Vec::len), Some(3));
    store
        .backup(directory, &["prune", REPO, "--keep", "1"])
        .expect(0);
    let backups = list(&store, directory)["backups"].clone();
    assert_eq!(backups.as_array().map(Vec::len), Some(1));
    import(directory, "a", &line("n1", "second"));
    assert_eq!(kinds(&create(&store, directory, &[])), ["increment"]);
    restore(&store, directory, "b", &[]).expect(0);
    assert!(export(directory, "a", SECRETS) == export(directory, "b", SECRETS));
}

/// A store that goes away in the middle of an upload and comes back costs time only; one that stays away is told of.
#[test]
fn a_store_that_goes_away() {
    let directory = set_up();
    let directory = directory.path();
    let mut store = Store::start(directory);
    fill_up(directory);
    store.stall_from(2);
    let mut child = store
        .jiexi(directory)
        .args(["backup", "create", REPO, "--data", "a"])
        .env("JIEXI_BACKUP_PATIENCE", "4m")
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    store.await_file(".part-1");
    store.stop();
    store.stall_from(0);
    thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().expect("asks").is_none(), "it waits");
    store.resume();
    let begun = Instant::now();
    let status = loop {
        match child.try_wait().expect("asks") {
            Some(status) => break status,
            None => assert!(begun.elapsed() < 4 * PATIENCE, "it does not go on"),
        }
        thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(0));
    store.backup(directory, &["verify", REPO]).expect(0);
    restore(&store, directory, "b", &[]).expect(0);
    assert!(export(directory, "a", SECRETS) == export(directory, "b", SECRETS));

    store.stop();
    for arguments in [&["list", REPO][..], &["create", REPO, "--data", "a"]] {
        let mut command = store.jiexi(directory);
        command.env("JIEXI_BACKUP_PATIENCE", "1s").arg("backup");
        let refused = run(command.args(arguments)).expect(1);
        for words in [
            "cannot be reached",
            "it was tried for 1s",
            "[backup] endpoint",
        ] {
            assert!(refused.stderr.contains(words), "{}", refused.stderr);
        }
    }
}

/// Whose fault it is, and what to do, without the secret.
#[test]
fn refusals_of_a_store() {
    let directory = set_up();
    let directory = directory.path();
    let store = Store::start(directory);
    create(&store, directory, &[]);
    let before = store.kept();
    for arguments in [
        &["list", REPO][..],
        &["create", REPO, "--data", "a"],
        &["verify", REPO],
        &["restore", REPO, "--data", "b"],
        &["prune", REPO, "--keep", "1"],
    ] {
        let mut command = store.command(directory, "not the secret of that key");
        let refused = run(command.arg("backup").args(arguments)).expect(1);
        for words in ["refuses the key AKIATEST", "AWS_SECRET_ACCESS_KEY"] {
            assert!(refused.stderr.contains(words), "{}", refused.stderr);
        }
        assert!(
            !refused.stderr.contains("not the secret"),
            "{}",
            refused.stderr
        );
    }
    assert_eq!(store.kept(), before);
    assert!(!directory.join("b").exists());

    let refused = store.backup(directory, &["create", "s3://missing/a", "--data", "a"]);
    let refused = refused.expect(1).stderr;
    assert!(refused.contains("there is no bucket missing"), "{refused}");
    store
        .backup(directory, &["create", "s3://Backups/..", "--data", "a"])
        .expect(2);

    let mut command = store.jiexi(directory);
    command.env("AWS_ENDPOINT_URL", "http://192.0.2.1:9000");
    let refused = run(command.args(["backup", "list", REPO])).expect(1).stderr;
    for words in ["AWS_ENDPOINT_URL", "must be https://", "allow_http"] {
        assert!(refused.contains(words), "{refused}");
    }
    let mut command = store.jiexi(directory);
    command.env_remove("AWS_ACCESS_KEY_ID");
    let refused = run(command.args(["backup", "list", REPO])).expect(1).stderr;
    assert!(refused.contains("AWS_ACCESS_KEY_ID is not"), "{refused}");
}

/// A store of the plant, whose certificate is of an authority that the machine does not know: with that one named everything
/// works as in clear; without, or with another one's, or under another name, nothing is sent and what to do is said at once.
#[test]
fn a_store_behind_tls() {
    let directory = set_up();
    let directory = directory.path();
    let store = Store::start_tls(directory);
    authority(directory, "other");
    fill_up(directory);
    let backup = |setting: &[(&str, &str)], arguments: &[&str]| {
        let mut command = store.jiexi(directory);
        command.envs(setting.iter().copied());
        run(command.arg("backup").args(arguments))
    };
    let create = ["create", REPO, "--data", "a"];
    let named = store.address("localhost");
    let begun = Instant::now();
    for (setting, said) in [
        (vec![], "UnknownIssuer"),
        (vec![("AWS_CA_BUNDLE", "other.pem")], "UnknownIssuer"),
        (vec![("AWS_CA_BUNDLE", "none.pem")], "none.pem"),
        (
            vec![
                ("AWS_CA_BUNDLE", "authority.pem"),
                ("AWS_ENDPOINT_URL", &*named),
            ],
            "not valid for name",
        ),
    ] {
        let refused = backup(&setting, &create).expect(1);
        for words in [said, "[backup] ca_file", "was sent nothing"] {
            assert!(
                refused.stderr.contains(words),
                "{setting:?}: {}",
                refused.stderr
            );
        }
    }
    assert!(begun.elapsed() < PATIENCE, "nothing is tried again");
    assert!(store.kept().is_empty(), "{:?}", store.kept());

    let bundle = [("AWS_CA_BUNDLE", "authority.pem")];
    backup(&bundle, &create).expect(0);
    assert!(store.parts() > 3, "it went in parts");
    // As the configuration names it.
    let file = directory.join("authority.pem");
    let file = [("JIEXI_BACKUP_CA_FILE", file.to_str().expect("text"))];
    backup(&file, &["verify", REPO]).expect(0);
    let restore = [&["restore", REPO, "--data", "b"][..], &KEY].concat();
    backup(&file, &restore).expect(0);
    assert!(export(directory, "a", SECRETS) == export(directory, "b", SECRETS));
}

/// A backup that waits in its second part, until no part gets stalled any more.
fn stalled(store: &Store, directory: &Path) -> Child {
    store.stall_from(2);
    let child = store
        .jiexi(directory)
        .args(["backup", "create", REPO, "--data", "a"])
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    store.await_file(".part-1");
    child
}

fn snapshots(directory: &Path) -> Vec<PathBuf> {
    let items = fs::read_dir(directory.join("a/store/snapshots")).expect("lists");
    let mut found: Vec<_> = items.flatten().map(|item| item.path()).collect();
    found.sort();
    found
}

/// The snapshot that is being sent may be retired meanwhile.
#[test]
fn snapshots_are_taken_beside_an_upload() {
    let directory = set_up();
    let directory = directory.path();
    let store = Store::start(directory);
    fill_up(directory);
    let running = Running::start(directory, "a");
    let mut child = stalled(&store, directory);
    let sent = snapshots(directory).pop().expect("there is one");
    for round in 0..2 {
        import(directory, "a", &line("n1", &round.to_string()));
        // On a busy machine the files behind the journal are now and then made anew, and then there is none.
        let begun = Instant::now();
        while crate::support::run(directory, &["store", "snapshot", "--data", "a"]).code != 0 {
            assert!(begun.elapsed() < PATIENCE, "no snapshot is taken");
        }
    }
    assert!(!snapshots(directory).contains(&sent), "{sent:?}");
    store.stall_from(0);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
    assert_eq!(kinds(&create(&store, directory, &[])), ["increment"]);
    store.backup(directory, &["verify", REPO]).expect(0);
    restore(&store, directory, "b", &[]).expect(0);
    assert!(export(directory, "a", SECRETS) == export(directory, "b", SECRETS));
    assert_eq!(running.stop(), 0);
}

/// A stopped node can be started while its backup is sent, and takes changes.
#[test]
fn a_node_is_started_beside_an_upload() {
    let directory = set_up();
    let directory = directory.path();
    let store = Store::start(directory);
    fill_up(directory);
    let mut child = stalled(&store, directory);
    let running = Running::start(directory, "a");
    import(directory, "a", &line("n1", "second"));
    store.stall_from(0);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
    assert_eq!(kinds(&create(&store, directory, &[])), ["increment"]);
    assert_eq!(running.stop(), 0);
    restore(&store, directory, "b", &[]).expect(0);
    assert!(export(directory, "a", SECRETS) == export(directory, "b", SECRETS));
}

/// In a bucket nobody is kept from removing beside those who read: what goes is not called damaged.
#[test]
fn what_is_removed_beside_readers_is_not_damaged() {
    let directory = set_up();
    let directory = directory.path();
    let store = Store::start(directory);
    create(&store, directory, &[]);
    for (round, (method, object, command)) in [
        ("HEAD", "records.snapshot", "verify"),
        ("GET", "records.snapshot", "verify"),
        ("HEAD", "manifest.json", "list"),
        ("GET", "manifest.json", "list"),
    ]
    .into_iter()
    .enumerate()
    {
        import(directory, "a", &line("n1", &format!("round {round}")));
        create(&store, directory, &["--full"]);
        let listed = list(&store, directory)["backups"].clone();
        let listed = listed.as_array().expect("an array");
        assert_eq!(kinds(listed), ["full", "increment", "full"]);
        let ids = listed.iter().map(|backup| backup["id"].as_str());
        let ids: Vec<&str> = ids.map(|id| id.expect("an id")).collect();
        let going = ids[..2]
            .iter()
            .map(|id| store.path(&format!("nodes/a/{id}")));
        let object = format!("{}/{object}", ids[0]);
        store.remove_when_asked(method, object, going.collect());
        let told = store.backup(directory, &[command, REPO, "-o", "json"]);
        let told = told.expect(0).json();
        match command {
            "verify" => assert_eq!(told["removed"], serde_json::json!(ids[..2]), "{told}"),
            _ => assert_eq!(told["backups"].as_array().map(Vec::len), Some(1), "{told}"),
        }
        store.backup(directory, &["verify", REPO]).expect(0);
    }
}
