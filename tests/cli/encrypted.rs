//! Goal: an encrypted backup opens with its key only, is found to be damaged without it, and whoever has the key needs no
//! jiexi to read it. Method: identities made here and, where it is installed, the `age` command as the other party.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use age::secrecy::ExposeSecret as _;

use crate::{
    backup::{KEY, SECRETS, backup, import, kinds, line, set_up},
    bucket_server::Store,
    bulk::export,
    support::{Run, directory, node, run},
};

/// Writes a new identity into a file; its recipient.
fn identity(directory: &Path, name: &str) -> String {
    let identity = age::x25519::Identity::generate();
    let text = format!(
        "# made for a test\n{}\n",
        identity.to_string().expose_secret()
    );
    fs::write(directory.join(name), text).expect("writes");
    identity.to_public().to_string()
}

fn create(directory: &Path, options: &[&str]) -> Run {
    let arguments = ["create", "repo", "--data", "a", "-o", "json"];
    backup(directory, &[&arguments[..], options].concat()).expect(0)
}

fn created(run: &Run) -> Vec<serde_json::Value> {
    run.json()["created"].as_array().expect("an array").clone()
}

fn restore(directory: &Path, data: &str, options: &[&str]) -> Run {
    let command = ["restore", "repo", "--data", data];
    backup(directory, &[&command[..], &KEY, options].concat())
}

/// Files of the backups.
fn members(directory: &Path) -> Vec<std::path::PathBuf> {
    let backups = fs::read_dir(directory.join("repo"))
        .expect("lists")
        .flatten();
    let backups = backups.filter(|item| item.path().is_dir());
    let mut found: Vec<_> = backups
        .flat_map(|item| fs::read_dir(item.path()).expect("lists").flatten())
        .map(|item| item.path())
        .collect();
    found.sort();
    found
}

/// For recipients: a full backup and an increment, made without any identity, opened by each and by nobody else.
#[test]
fn recipients_open_and_nobody_else() {
    let directory = set_up();
    let directory = directory.path();
    let (first, second) = (identity(directory, "first"), identity(directory, "second"));
    identity(directory, "third");
    let both = ["--recipient", &first, "--recipient", &second];
    assert_eq!(kinds(&created(&create(directory, &both))), ["full"]);
    let config = directory.join("a/jiexi.toml");
    let text = fs::read_to_string(&config).expect("reads");
    let section = text.replace("recipients = []", &format!("recipients = [\"{first}\"]"));
    assert_ne!(text, section, "init writes the template");
    fs::write(&config, section).expect("writes");
    import(directory, "a", &line("n1", "second"));
    assert_eq!(kinds(&created(&create(directory, &[]))), ["increment"]);
    for path in members(directory) {
        let text = String::from_utf8_lossy(&fs::read(&path).expect("reads")).into_owned();
        let manifest = path.ends_with("manifest.json");
        assert!(
            manifest || text.starts_with("age-encryption.org/v1"),
            "{path:?}"
        );
        assert!(
            !text.contains("88.118") && !text.contains(&first),
            "{path:?}"
        );
    }

    // Without an identity it is seen that everything is as it was written.
    let verified = backup(directory, &["verify", "repo"]).expect(0);
    assert!(
        verified.stdout.contains("not opened"),
        "{}",
        verified.stdout
    );
    let verified = ["verify", "repo", "-o", "json", "--identity", "first"];
    let verified = backup(directory, &verified).expect(0).json();
    assert_eq!(verified["unopened"].as_array().map(Vec::len), Some(0));
    for (options, words) in [
        (&[][..], "give --identity FILE"),
        (&["--identity", "third"], "nothing was written"),
        // It opens the full backup, and not what follows.
        (&["--identity", "second"], "-increment is encrypted"),
    ] {
        let refused = restore(directory, "b", options).expect(1);
        assert!(refused.stderr.contains(words), "{}", refused.stderr);
        assert!(!directory.join("b").exists(), "nothing is written");
        let drill = [&["drill", "repo", "--data", "a"][..], &KEY, options].concat();
        backup(directory, &drill).expect(1);
    }
    let refused = backup(directory, &["verify", "repo", "--identity", "third"]).expect(1);
    assert!(
        refused.stderr.contains("does not open it"),
        "{}",
        refused.stderr
    );
    restore(
        directory,
        "b",
        &["--identity", "third", "--identity", "first"],
    )
    .expect(0);
    assert!(export(directory, "a", SECRETS) == export(directory, "b", SECRETS));
    assert!(directory.join("b/site.json").exists() && directory.join("b/jiexi.toml").exists());
    let drill = ["drill", "repo", "--data", "a", "--identity", "first"];
    backup(directory, &[&drill[..], &KEY].concat()).expect(0);
    left_nothing(directory);
    with_the_other_tool(directory, "first");
}

/// The scratch directory goes in any case.
fn left_nothing(directory: &Path) {
    fs::create_dir(directory.join("scratch")).expect("makes");
    let scratch = ["--scratch", "scratch", "--identity"];
    for (name, code) in [("first", 0), ("third", 1)] {
        let verify = [&["verify", "repo"][..], &scratch, &[name]].concat();
        backup(directory, &verify).expect(code);
        let left = fs::read_dir(directory.join("scratch")).expect("lists");
        assert_eq!(left.count(), 0);
    }
    let refused = [
        "verify",
        "repo",
        "--identity",
        "first",
        "--scratch",
        "nowhere",
    ];
    let refused = backup(directory, &refused).expect(1);
    assert!(refused.stderr.contains("--scratch"), "{}", refused.stderr);
}

/// Each member opens with `age`, and is what it says it is; CI has the tool.
fn with_the_other_tool(directory: &Path, identity: &str) {
    let present = Command::new("age")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if present.is_err() {
        assert!(
            std::env::var_os("CI").is_none(),
            "the age command is missing"
        );
        return;
    }
    let mut opened = 0;
    for path in members(directory) {
        if path.extension().is_none_or(|suffix| suffix != "age") {
            continue;
        }
        let output = Command::new("age")
            .args(["--decrypt", "--identity", identity])
            .arg(&path)
            .current_dir(directory)
            .output()
            .expect("runs");
        assert!(output.status.success(), "{path:?}");
        if path.file_stem().is_some_and(|name| name == "site.json") {
            assert_eq!(
                output.stdout,
                fs::read(directory.join("a/site.json")).expect("reads")
            );
        }
        opened += 1;
    }
    assert_eq!(opened, 6);
}

/// Every member with a bit flipped or cut off is found, with the key and without it.
#[test]
fn damage_of_encrypted_members() {
    let directory = set_up();
    let directory = directory.path();
    let recipient = identity(directory, "key");
    create(directory, &["--recipient", &recipient]);
    let sealed: Vec<_> = members(directory).into_iter().collect();
    assert_eq!(sealed.len(), 4);
    for path in &sealed {
        let sound = fs::read(path).expect("reads");
        let flip = |place: usize| {
            let mut flipped = sound.clone();
            flipped[place] ^= 1;
            flipped
        };
        // In the head, in the middle, at the end, and cut.
        let cut = sound[..sound.len() - 2].to_vec();
        for bytes in [flip(60), flip(sound.len() / 2), flip(sound.len() - 2), cut] {
            fs::write(path, bytes).expect("writes");
            for options in [&[][..], &["--identity", "key"]] {
                let verify = [&["verify", "repo"][..], options].concat();
                let found = backup(directory, &verify).expect(1);
                let name = path.file_name().expect("a name").to_string_lossy();
                assert!(found.stdout.contains(&*name), "{path:?}: {}", found.stdout);
            }
            let refused = restore(directory, "b", &["--identity", "key"]);
            assert!(
                [1, 3].contains(&refused.code),
                "{path:?}: {}",
                refused.stdout
            );
            assert!(!directory.join("b").exists(), "{path:?}");
        }
        fs::write(path, sound).expect("writes");
    }
    restore(directory, "b", &["--identity", "key"]).expect(0);
    // What was damaged is not continued.
    let records = sealed
        .iter()
        .find(|path| path.ends_with("records.snapshot.age"));
    fs::remove_file(records.expect("is there")).expect("removes");
    import(directory, "a", &line("n1", "second"));
    let again = create(directory, &["--recipient", &recipient]);
    assert_eq!(kinds(&created(&again)), ["full"], "{}", again.stdout);
}

/// Under a passphrase, in a bucket.
#[test]
fn a_passphrase_in_a_bucket() {
    let directory = set_up();
    let directory = directory.path();
    let store = Store::start(directory);
    fs::write(directory.join("right"), "one that is long enough\n").expect("writes");
    fs::write(directory.join("wrong"), "one that is not it\n").expect("writes");
    let repo = "s3://backups/sealed";
    let sealed = ["--encryption-passphrase-file", "right"];
    let create = [&["create", repo, "--data", "a"][..], &sealed].concat();
    store.backup(directory, &create).expect(0);
    for name in store.kept() {
        assert!(
            name.ends_with(".age")
                || name.ends_with("manifest.json")
                || name.ends_with("jiexi-backups")
        );
    }
    let listed = store
        .backup(directory, &["list", repo, "-o", "json"])
        .expect(0)
        .json();
    assert_eq!(listed["backups"][0]["encrypted_for"][0], "passphrase");
    let restore = [&["restore", repo, "--data", "b"][..], &KEY].concat();
    let wrong = ["--encryption-passphrase-file", "wrong"];
    let refused = store
        .backup(directory, &[&restore[..], &wrong].concat())
        .expect(1);
    assert!(
        refused.stderr.contains("nothing was written"),
        "{}",
        refused.stderr
    );
    assert!(!directory.join("b").exists());
    store.backup(directory, &restore).expect(1);
    store
        .backup(directory, &[&restore[..], &sealed].concat())
        .expect(0);
    assert!(export(directory, "a", SECRETS) == export(directory, "b", SECRETS));
}

/// Whoever cannot open what there is gets a full backup, so that the newest state opens with what the newest backup was
/// written for; what is from before opens with both.
#[test]
fn another_passphrase_or_recipient_begins_anew() {
    let directory = set_up();
    let directory = directory.path();
    for (name, text) in [("p1", "the one from before\n"), ("p2", "the new one\n")] {
        fs::write(directory.join(name), text).expect("writes");
    }
    let key = identity(directory, "key");
    let key = ["--recipient", &key];
    let other = identity(directory, "other");
    let other = ["--recipient", &other];
    let passphrase = |name| ["--encryption-passphrase-file", name];
    let (first, second) = (passphrase("p1"), passphrase("p2"));
    let mut round = 0;
    let mut next = |options: &[&str]| {
        round += 1;
        import(directory, "a", &line("n1", &round.to_string()));
        let run = create(directory, options);
        let json = run.json();
        let kind = json["created"][0]["kind"].as_str().expect("a kind");
        (kind.to_owned(), json["reason"].to_string())
    };
    assert_eq!(next(&first).0, "full");
    assert_eq!(next(&first).0, "increment");
    for options in [&second[..], &key, &other, &["--unencrypted"], &first] {
        let (kind, reason) = next(options);
        // What is not encrypted is open to everybody.
        if options == first {
            assert_eq!(kind, "increment", "{reason}");
            continue;
        }
        assert_eq!(kind, "full", "{options:?}");
        assert!(reason.contains("encrypted for others"), "{reason}");
        assert_eq!(next(options).0, "increment", "{options:?}");
        let opening: &[&str] = match options {
            ["--unencrypted"] => &[],
            [_, "p2"] => &second,
            options if options == key => &["--identity", "key"],
            _ => &["--identity", "other"],
        };
        restore(directory, "b", opening).expect(0);
        assert!(export(directory, "a", SECRETS) == export(directory, "b", SECRETS));
        fs::remove_dir_all(directory.join("b")).expect("removes");
    }
    let identities = ["--identity", "key", "--identity", "other"];
    let refused = [&["verify", "repo"][..], &first, &identities].concat();
    let refused = backup(directory, &refused).expect(1).stderr;
    assert!(refused.contains("may be repeated"), "{refused}");
    let all = [&["verify", "repo"][..], &second, &first, &identities].concat();
    backup(directory, &all).expect(0);
    let many = [&["verify", "repo"][..], &[passphrase("p1"); 9].concat()].concat();
    let refused = backup(directory, &many).expect(2).stderr;
    assert!(refused.contains("more than 8"), "{refused}");
}

/// What cannot be is said before anything is done.
#[test]
fn wrong_recipients_and_identities() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "a");
    let create = [
        "create",
        "repo",
        "--data",
        "a",
        "--recipient",
        "age1nonsense",
    ];
    let refused = backup(directory, &create).expect(2);
    assert!(
        refused.stderr.contains("age1nonsense"),
        "{}",
        refused.stderr
    );
    assert!(!directory.join("repo").exists());
    fs::write(directory.join("key"), "AGE-SECRET-KEY-1NONSENSE\n").expect("writes");
    let verify = ["verify", "repo", "--identity", "key"];
    let refused = backup(directory, &verify).expect(1);
    assert!(refused.stderr.contains("line 1"), "{}", refused.stderr);
    assert!(!refused.stderr.contains("NONSENSE"), "{}", refused.stderr);
    let text = "version = 1\n[backup]\nrecipients = [\"ssh-ed25519 AAAA\"]\n";
    fs::write(directory.join("bad.toml"), text).expect("writes");
    let refused = run(directory, &["config", "check", "bad.toml"]).expect(1);
    let said = refused.stdout + &refused.stderr;
    assert!(said.contains("recipients"), "{said}");
}

/// Damaged manifests hide from nobody that what was written last is encrypted.
#[test]
fn damaged_manifests_open_nothing() {
    let directory = set_up();
    let directory = directory.path();
    let recipient = identity(directory, "key");
    // What is in clear from before is no reason to go on so.
    create(directory, &[]);
    import(directory, "a", &line("n1", "second"));
    let sealed = created(&create(directory, &["--recipient", &recipient]));
    let id = sealed[0]["id"].as_str().expect("an id");
    let manifest = directory.join("repo").join(id).join("manifest.json");
    for text in [Some("{"), None] {
        match text {
            Some(text) => fs::write(&manifest, text).expect("writes"),
            None => fs::remove_file(&manifest).expect("removes"),
        }
        let before = members(directory);
        let refused = backup(directory, &["create", "repo", "--data", "a"]).expect(1);
        for words in [id, "is encrypted", "--unencrypted"] {
            assert!(refused.stderr.contains(words), "{}", refused.stderr);
        }
        assert_eq!(members(directory), before);
    }
    // Names tell seconds.
    thread::sleep(Duration::from_millis(1_100));
    import(directory, "a", &line("n2", "third"));
    create(directory, &["--unencrypted"]);
    // That was later, and said so.
    import(directory, "a", &line("n3", "fourth"));
    create(directory, &[]);
}

/// Nobody writes in clear beside what is encrypted without saying so: an option or a section that got lost is told of.
#[test]
fn a_backup_in_clear_must_be_asked_for() {
    let directory = set_up();
    let directory = directory.path();
    let recipient = identity(directory, "key");
    create(directory, &["--recipient", &recipient]);
    import(directory, "a", &line("n1", "second"));
    let before = members(directory);
    for options in [&[][..], &["--full"]] {
        let command = [&["create", "repo", "--data", "a"][..], options].concat();
        let refused = backup(directory, &command).expect(1).stderr;
        for words in ["is encrypted", "--recipient", "--unencrypted"] {
            assert!(refused.contains(words), "{refused}");
        }
        assert_eq!(members(directory), before);
    }
    let both = ["--unencrypted", "--recipient", &recipient];
    let command = [&["create", "repo", "--data", "a"][..], &both].concat();
    backup(directory, &command).expect(2);
    assert_eq!(
        kinds(&created(&create(directory, &["--unencrypted"]))),
        ["full"]
    );
    // From there it goes on in clear, and is encrypted again by whoever wants that.
    import(directory, "a", &line("n2", "third"));
    assert_eq!(kinds(&created(&create(directory, &[]))), ["increment"]);
    import(directory, "a", &line("n3", "fourth"));
    let sealed = ["--encryption-passphrase-file", "passphrase"];
    create(directory, &sealed);
    let table = backup(directory, &["list", "repo"]).expect(0).stdout;
    let last = |line: &str| line.rsplit("  ").next().map(|word| word.trim().to_owned());
    let column: Vec<String> = table.lines().filter_map(last).collect();
    let wanted = ["ENCRYPTED", "1 recipient", "no", "no", "passphrase"];
    assert_eq!(column, wanted, "{table}");
}
