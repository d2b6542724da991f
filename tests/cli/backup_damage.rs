//! Goal: what is not whole is told of, is not built upon, and does not stop the next backup. Method: repositories, journals and
//! scratch directories are damaged with the real program around them; what is restored is compared by exports.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, symlink},
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use jiexi::backup::Watch;
use jiexi::backup::place::Location;
use jiexi::backup::repository::{Access, Repository};
use jiexi::backup::verify::verify;
use serde_json::Value as Json;

use crate::{
    backup::{KEY, SECRETS, backup, create, import, kinds, line, list, restore, set_up},
    bulk::export,
    node::{PATIENCE, Running},
    support::Run,
};

/// The directory of a backup.
fn place(directory: &Path, backup: &Json) -> PathBuf {
    let id = backup["id"].as_str().expect("an id");
    directory.join("repo").join(id)
}

fn create_told(directory: &Path, options: &[&str]) -> Json {
    let arguments = ["create", "repo", "--data", "a", "-o", "json"];
    let created = backup(directory, &[&arguments[..], options].concat()).expect(0);
    created.json()
}

fn said(run: Run) -> String {
    run.stdout + &run.stderr
}

/// An increment in the middle is gone: `verify` names the one that nothing leads to, the next backup is a full one, and from
/// there it goes on.
#[test]
fn a_gap_between_increments() {
    let directory = set_up();
    let directory = directory.path();
    create(directory, "a", &[]);
    let mut increments = Vec::new();
    for name in ["n1", "n2"] {
        import(directory, "a", &line(name, "second"));
        increments.extend(create(directory, "a", &[]));
    }
    assert_eq!(kinds(&increments), ["increment", "increment"]);
    fs::remove_dir_all(place(directory, &increments[0])).expect("removes");
    let last = increments[1]["id"].as_str().expect("an id");
    let found = said(backup(directory, &["verify", "repo"]).expect(1));
    for words in [last, "cannot be restored"] {
        assert!(found.contains(words), "{found}");
    }

    import(directory, "a", &line("n3", "third"));
    let created = create_told(directory, &[]);
    let reason = created["reason"].to_string();
    assert_eq!(created["created"][0]["kind"], "full", "{created}");
    for words in [last, "nothing leads there"] {
        assert!(reason.contains(words), "{reason}");
    }
    import(directory, "a", &line("n4", "fourth"));
    assert_eq!(kinds(&create(directory, "a", &[])), ["increment"]);
    restore(directory, "b", &[]);
    assert!(export(directory, "a", SECRETS) == export(directory, "b", SECRETS));
    backup(directory, &["verify", "repo"]).expect(1);
    backup(directory, &["prune", "repo", "--keep", "1"]).expect(0);
    backup(directory, &["verify", "repo"]).expect(0);
}

/// Where the entries of the newest segment of a journal are: each begins with the same signs.
fn entries(directory: &Path) -> (PathBuf, Vec<usize>) {
    const HEAD: usize = 64;
    let journal = fs::read_dir(directory.join("a/store/journal")).expect("lists");
    let path = journal
        .flatten()
        .map(|item| item.path())
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "journal"))
        .max()
        .expect("a segment");
    let octets = fs::read(&path).expect("reads");
    let magic = &octets[HEAD..HEAD + 4];
    let found = octets.windows(4).enumerate().skip(HEAD);
    let places = found.filter(|(_, signs)| *signs == magic);
    let places = places.map(|(place, _)| place).collect();
    (path, places)
}

/// Flips a bit in the middle of an entry; again, and it is as before.
fn flip(path: &Path, entry: usize) {
    let (mut octet, at) = ([0], entry as u64 + 40);
    let file = File::options().read(true).write(true).open(path);
    let file = file.expect("opens");
    file.read_exact_at(&mut octet, at).expect("reads");
    file.write_all_at(&[!octet[0]], at).expect("writes");
}

/// The journal of a running node is damaged behind the last backup, or where that ends: a full backup is taken, says why, and
/// leaves nothing unfinished.
#[test]
fn a_damaged_journal_stops_no_backup() {
    let directory = set_up();
    let directory = directory.path();
    let running = Running::start(directory, "a");
    for number in 0..3 {
        import(directory, "a", &line(&format!("a{number}"), "x"));
    }
    for (from_end, options) in [(2, &[][..]), (2, &["--full"]), (5, &[])] {
        create(directory, "a", &["--full"]);
        for number in 0..4 {
            import(directory, "a", &line(&format!("b{number}"), "x"));
        }
        let (path, places) = entries(directory);
        let entry = places[places.len() - from_end];
        flip(&path, entry);
        let created = create_told(directory, options);
        let written = created["created"].as_array().expect("an array");
        assert_eq!(kinds(written), ["full"], "{from_end}: {created}");
        let reason = created["reason"].to_string();
        assert!(
            reason.contains("the journal is damaged") && reason.contains(".journal"),
            "{from_end}: {reason}"
        );
        let listed = backup(directory, &["list", "repo", "-o", "json"]).expect(0);
        assert_eq!(
            listed.json()["unfinished"].as_array().map(Vec::len),
            Some(0)
        );
        // What comes after it is whole.
        import(directory, "a", &line("after", &from_end.to_string()));
        assert_eq!(kinds(&create(directory, "a", &[])), ["increment"]);
        flip(&path, entry);
    }
    restore(directory, "b", &[]);
    assert!(export(directory, "a", SECRETS) == export(directory, "b", SECRETS));
    assert_eq!(running.stop(), 0);
}

/// What has a damaged manifest goes by its name, when enough that is sound stays; nothing else goes that way.
#[test]
fn prune_removes_damaged_manifests_by_name() {
    let directory = set_up();
    let directory = directory.path();
    let name = |backup: &Json| backup["id"].as_str().expect("an id").to_owned();
    let first = create(directory, "a", &[]);
    import(directory, "a", &line("n1", "second"));
    let increment = create(directory, "a", &[]);
    let (full, increment) = (name(&first[0]), name(&increment[0]));
    let manifest = |id: &str| directory.join("repo").join(id).join("manifest.json");
    let sound = fs::read(manifest(&full)).expect("reads");
    let prune = |id: &str, code| {
        let run = backup(
            directory,
            &["prune", "repo", "--keep", "1", "--damaged", id],
        );
        said(run.expect(code))
    };
    let refused = prune(&full, 1);
    assert!(refused.contains("is not damaged"), "{refused}");
    prune("20200101T000000Z-full", 3);

    // It was the only full one: whatever is left of it is all there is.
    fs::write(manifest(&full), "{").expect("writes");
    let refused = prune(&full, 1);
    assert!(refused.contains("nothing was removed"), "{refused}");
    import(directory, "a", &line("n2", "third"));
    create(directory, "a", &[]);
    // One that a later version wrote is none of those.
    fs::write(manifest(&full), r#"{"manifest":{"format":99},"sha256":""}"#).expect("writes");
    let refused = prune(&full, 1);
    assert!(refused.contains("format 99"), "{refused}");
    // Without its name it stays.
    fs::write(manifest(&full), &sound[1..]).expect("writes");
    backup(directory, &["prune", "repo", "--keep", "1"]).expect(0);
    assert!(manifest(&full).exists());
    assert!(!manifest(&increment).exists(), "nothing leads there");
    let removed = prune(&full, 0);
    assert!(removed.contains(&full), "{removed}");
    assert!(!directory.join("repo").join(&full).exists());
    assert_eq!(kinds(&list(directory)), ["full"]);
    backup(directory, &["verify", "repo"]).expect(0);
}

/// A full backup without its records is none of those that stay.
#[test]
fn prune_counts_what_is_sound() {
    let directory = set_up();
    let directory = directory.path();
    create(directory, "a", &[]);
    import(directory, "a", &line("n1", "second"));
    let second = create(directory, "a", &["--full"]);
    fs::remove_file(place(directory, &second[1]).join("records.snapshot")).expect("removes");
    let before = list(directory);
    let refused = said(backup(directory, &["prune", "repo", "--keep", "1"]).expect(0));
    assert!(
        refused.contains("not counted") && refused.contains("records.snapshot"),
        "{refused}"
    );
    assert_eq!(list(directory), before);
    fs::remove_file(place(directory, &before[0]).join("records.snapshot")).expect("removes");
    let refused = said(backup(directory, &["prune", "repo", "--keep", "1"]).expect(1));
    assert!(refused.contains("nothing was removed"), "{refused}");
    for full in [&before[0], &second[1]] {
        let id = full["id"].as_str().expect("an id");
        assert!(refused.contains(id), "{refused}");
    }
    assert_eq!(list(directory), before);
    import(directory, "a", &line("n2", "third"));
    create(directory, "a", &["--full"]);
    backup(directory, &["prune", "repo", "--keep", "1"]).expect(0);
    assert_eq!(kinds(&list(directory)), ["full"]);
    backup(directory, &["verify", "repo"]).expect(0);
}

/// What is damaged behind a time is in nobody's way.
#[test]
fn a_time_before_damage() {
    let directory = set_up();
    let directory = directory.path();
    create(directory, "a", &[]);
    import(directory, "a", &line("n1", "second"));
    let wanted = create(directory, "a", &[]);
    let expected = export(directory, "a", SECRETS);
    thread::sleep(Duration::from_millis(1_100));
    import(directory, "a", &line("n2", "third"));
    let later = create(directory, "a", &[]);
    let path = place(directory, &later[0]).join("records.increment");
    let mut octets = fs::read(&path).expect("reads");
    octets[30] ^= 0xff;
    fs::write(&path, octets).expect("writes");
    let time = wanted[0]["time"].as_str().expect("a time");
    let command = ["restore", "repo", "--data", "b", "--to-time", time];
    let restored = backup(directory, &[&command[..], &KEY].concat()).expect(0);
    assert!(
        restored.stderr.contains("records.increment"),
        "{}",
        restored.stderr
    );
    assert!(export(directory, "b", SECRETS) == expected);
}

/// That a file cannot be read says nothing about the backup: nothing is built on that, and nobody is told of damage.
#[test]
fn what_cannot_be_read_is_not_damaged() {
    let directory = set_up();
    let directory = directory.path();
    let full = create(directory, "a", &[]);
    import(directory, "a", &line("n1", "second"));
    for name in ["manifest.json", "records.snapshot"] {
        let path = place(directory, &full[0]).join(name);
        let aside = directory.join("aside");
        fs::rename(&path, &aside).expect("moves");
        // It leads to itself.
        symlink(&path, &path).expect("links");
        for command in [
            &["create", "repo", "--data", "a"][..],
            &["verify", "repo"],
            &["prune", "repo", "--keep", "1"],
        ] {
            // Prune has nothing to look at the records for.
            if command[0] == "prune" && name == "records.snapshot" {
                continue;
            }
            let refused = backup(directory, command).expect(1);
            assert!(refused.stderr.contains(name), "{}", refused.stderr);
            assert_eq!(refused.stdout, "", "{command:?}");
        }
        fs::remove_file(&path).expect("removes");
        fs::rename(&aside, &path).expect("moves");
    }
    assert_eq!(kinds(&list(directory)), ["full"]);
    assert_eq!(kinds(&create(directory, "a", &[])), ["increment"]);
}

/// Nothing is removed beside those who read; backups are written beside them.
#[test]
fn readers_and_whoever_removes() {
    let directory = set_up();
    let directory = directory.path();
    create(directory, "a", &[]);
    create(directory, "a", &["--full"]);
    let readers = File::open(directory.join("repo/readers"));
    let readers = readers.or_else(|_| File::create(directory.join("repo/readers")));
    let readers = readers.expect("opens");
    readers.lock_shared().expect("locks");
    let prune = ["prune", "repo", "--keep", "1"];
    let refused = backup(directory, &prune).expect(1).stderr;
    assert!(refused.contains("are being read here"), "{refused}");
    backup(directory, &["verify", "repo"]).expect(0);
    import(directory, "a", &line("n1", "second"));
    assert_eq!(kinds(&create(directory, "a", &[])), ["increment"]);
    readers.unlock().expect("unlocks");
    readers.lock().expect("locks");
    let drill = [&["drill", "repo", "--data", "a"][..], &KEY].concat();
    let restore = [&["restore", "repo", "--data", "b"][..], &KEY].concat();
    for command in [&["list", "repo"][..], &["verify", "repo"], &drill, &restore] {
        let refused = backup(directory, command).expect(1).stderr;
        assert!(refused.contains("are being removed here"), "{refused}");
    }
    readers.unlock().expect("unlocks");
    backup(directory, &prune).expect(0);
}

/// What is removed while somebody reads who could lock nothing is not called damaged. Method: it goes when the reading begins.
#[test]
fn what_is_removed_beside_a_reader_without_a_lock_is_not_damaged() {
    struct Removing(PathBuf);
    impl Watch for Removing {
        fn begin(&self, _: &'static str, _: u64) {
            let going = self.0.with_extension("unfinished");
            fs::rename(&self.0, &going).expect("renames");
            fs::remove_dir_all(going).expect("removes");
        }
        fn advance(&self, _: u64) {}
    }
    let directory = set_up();
    let directory = directory.path();
    create(directory, "a", &[]);
    create(directory, "a", &["--full"]);
    let oldest = list(directory).remove(0);
    let location = Location::Directory(directory.join("repo"));
    let repository = Repository::open(&location, Access::default()).expect("is there");
    let report = verify(&repository, &Removing(place(directory, &oldest))).expect("is read");
    assert_eq!(report.removed, [oldest["id"].as_str().expect("an id")]);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    // What lacks its manifest and is there is damaged, as before.
    let newest = list(directory).remove(0);
    fs::remove_file(place(directory, &newest).join("manifest.json")).expect("removes");
    backup(directory, &["verify", "repo"]).expect(1);
}

/// What a killed command leaves in clear, the next one removes; what another one still uses stays.
#[test]
fn scratch_directories_of_the_dead() {
    let directory = set_up();
    let directory = directory.path();
    create(
        directory,
        "a",
        &["--encryption-passphrase-file", "passphrase"],
    );
    let scratch = directory.join("scratch");
    fs::create_dir(&scratch).expect("makes");
    let verify = [
        "verify",
        "repo",
        "--scratch",
        "scratch",
        "--encryption-passphrase-file",
        "passphrase",
    ];
    let left = || -> Vec<PathBuf> {
        let items = fs::read_dir(&scratch).expect("lists").flatten();
        items.map(|item| item.path()).collect()
    };
    let mut child = crate::support::jiexi(directory)
        .arg("backup")
        .args(verify)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let begun = Instant::now();
    while !left().iter().any(|path| path.join("in-use").exists()) {
        assert!(begun.elapsed() < PATIENCE, "nothing is fetched");
        thread::yield_now();
    }
    child.kill().expect("kills");
    child.wait().expect("ends");
    assert_eq!(left().len(), 1, "it is left");
    let (used, foreign) = (
        scratch.join("jiexi-drill-used"),
        scratch.join("jiexi-drill-foreign"),
    );
    for path in [&used, &foreign] {
        fs::create_dir(path).expect("makes");
    }
    let lock = File::create(used.join("in-use")).expect("makes");
    lock.lock().expect("locks");
    backup(directory, &verify).expect(0);
    let mut stays = left();
    stays.sort();
    assert_eq!(stays, [foreign.clone(), used], "what is not known stays");
    drop(lock);
    backup(directory, &verify).expect(0);
    assert_eq!(left(), [foreign]);
}

/// Prune ends in the middle, whyever: what is left is whole, and the next one goes on. Method: a name that it needs is taken.
#[test]
fn prune_leaves_nothing_without_what_leads_to_it() {
    let directory = set_up();
    let directory = directory.path();
    create(directory, "a", &[]);
    let mut increments = Vec::new();
    for name in ["n1", "n2"] {
        import(directory, "a", &line(name, "second"));
        increments.extend(create(directory, "a", &[]));
    }
    import(directory, "a", &line("n3", "second"));
    create(directory, "a", &["--full"]);
    let all = ["full", "increment", "increment", "increment", "full"];
    assert_eq!(kinds(&list(directory)), all);
    let taken = place(directory, &increments[0]).with_extension("unfinished");
    fs::write(&taken, "").expect("writes");
    let prune = ["prune", "repo", "--keep", "1"];
    let stopped = backup(directory, &prune).expect(1).stderr;
    let id = increments[0]["id"].as_str().expect("an id");
    assert!(stopped.contains(id), "{stopped}");
    assert_eq!(kinds(&list(directory)), ["full", "increment", "full"]);
    backup(directory, &["verify", "repo"]).expect(0);

    fs::remove_file(&taken).expect("removes");
    backup(directory, &prune).expect(0);
    assert_eq!(kinds(&list(directory)), ["full"]);
    backup(directory, &["verify", "repo"]).expect(0);
}

/// What an older version, or somebody by hand, has left without what leads to it goes although no full backup does.
#[test]
fn prune_removes_what_nothing_leads_to() {
    let directory = set_up();
    let directory = directory.path();
    let first = create(directory, "a", &[]);
    import(directory, "a", &line("n1", "second"));
    create(directory, "a", &["--full"]);
    fs::remove_dir_all(place(directory, &first[0])).expect("removes");
    assert_eq!(kinds(&list(directory)), ["increment", "full"]);
    backup(directory, &["verify", "repo"]).expect(1);
    backup(directory, &["prune", "repo", "--keep", "1"]).expect(0);
    assert_eq!(kinds(&list(directory)), ["full"]);
    backup(directory, &["verify", "repo"]).expect(0);
}

/// Flips a bit in the middle of a file.
fn rot(path: &Path) {
    let mut octets = fs::read(path).expect("reads");
    let middle = octets.len() / 2;
    octets[middle] ^= 4;
    fs::write(path, octets).expect("writes");
}

/// An increment that is rotten inside is not continued, encrypted or not: nothing after it could be brought back.
#[test]
fn a_rotten_increment_is_not_continued() {
    let passphrase = ["--encryption-passphrase-file", "passphrase"];
    for (options, name) in [
        (&[][..], "records.increment"),
        (&passphrase, "records.increment.age"),
    ] {
        let directory = set_up();
        let directory = directory.path();
        create(directory, "a", options);
        import(directory, "a", &line("n1", "second"));
        let second = create(directory, "a", options);
        assert_eq!(kinds(&second), ["increment"]);
        rot(&place(directory, &second[0]).join(name));
        import(directory, "a", &line("n2", "third"));
        let created = create_told(directory, options);
        let written = created["created"].as_array().expect("an array");
        assert_eq!(kinds(written), ["full"], "{created}");
        assert!(created["reason"].to_string().contains(name), "{created}");
        restore(directory, "b", options);
        assert!(export(directory, "a", SECRETS) == export(directory, "b", SECRETS));
    }
}

/// A full backup that is rotten inside is none of those that stay, encrypted or not.
#[test]
fn prune_reads_what_stays() {
    let passphrase = ["--encryption-passphrase-file", "passphrase"];
    for (options, name) in [
        (&[][..], "records.snapshot"),
        (&passphrase, "records.snapshot.age"),
    ] {
        let directory = set_up();
        let directory = directory.path();
        create(directory, "a", options);
        import(directory, "a", &line("n1", "second"));
        let second = create(directory, "a", &[&["--full"][..], options].concat());
        rot(&place(directory, &second[1]).join(name));
        let before = list(directory);
        let prune = ["prune", "repo", "--keep", "1"];
        let kept = said(backup(directory, &prune).expect(0));
        for words in ["not counted", name, "wrong checksum"] {
            assert!(kept.contains(words), "{kept}");
        }
        assert_eq!(list(directory), before);
        restore(directory, "b", options);
        assert!(export(directory, "a", SECRETS) == export(directory, "b", SECRETS));

        rot(&place(directory, &before[0]).join(name));
        let refused = said(backup(directory, &prune).expect(1));
        assert!(refused.contains("nothing was removed"), "{refused}");
        assert_eq!(list(directory), before);
    }
}

/// A node on which nothing changes is backed up in full again and again: the newest stay.
#[test]
fn full_backups_of_one_sequence_are_pruned() {
    let directory = set_up();
    let directory = directory.path();
    for _ in 0..4 {
        create(directory, "a", &["--full"]);
    }
    let before = list(directory);
    assert_eq!(kinds(&before), ["full"; 4]);
    backup(directory, &["prune", "repo", "--keep", "2"]).expect(0);
    assert_eq!(list(directory), before[2..]);
    backup(directory, &["prune", "repo", "--keep", "2"]).expect(0);
    assert_eq!(list(directory), before[2..]);
    backup(directory, &["verify", "repo"]).expect(0);
}

/// When what was asked for cannot be had, the newest moment that can be is named, and it can be.
#[test]
fn what_can_be_restored_is_said() {
    let directory = set_up();
    let directory = directory.path();
    let mut backups = create(directory, "a", &[]);
    let mut states = vec![export(directory, "a", SECRETS)];
    for name in ["n1", "n2"] {
        import(directory, "a", &line(name, "second"));
        backups.extend(create(directory, "a", &[]));
        states.push(export(directory, "a", SECRETS));
    }
    assert_eq!(kinds(&backups), ["full", "increment", "increment"]);
    let command = [&["restore", "repo", "--data", "none"][..], &KEY].concat();
    let drill = [&["drill", "repo", "--alone"][..], &KEY].concat();
    for sound in [1, 0] {
        rot(&place(directory, &backups[sound + 1]).join("records.increment"));
        let option = format!("--to-sequence {}", backups[sound]["sequence"]);
        for command in [&command, &drill] {
            let refused = backup(directory, command).expect(1).stderr;
            for words in ["nothing was restored", "records.increment", &option] {
                assert!(refused.contains(words), "{words}: {refused}");
            }
        }
        let data = format!("to{sound}");
        let (name, sequence) = option.split_once(' ').expect("two words");
        restore(directory, &data, &[name, sequence]);
        assert!(export(directory, &data, SECRETS) == states[sound]);
    }
    rot(&place(directory, &backups[0]).join("records.snapshot"));
    let refused = backup(directory, &command).expect(1).stderr;
    assert!(
        refused.contains("no other backup of that epoch"),
        "{refused}"
    );
    assert!(!directory.join("none").exists());
}
