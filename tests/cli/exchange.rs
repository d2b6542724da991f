//! Goal: a store that a restore is about to move away acknowledges no change, and who waited meanwhile has the new one.
//! Method: the restore of a stopped node stands still while it makes the new store, and a node is started.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        stat::Mode,
    },
    unistd::{Pid, mkfifo},
};

use crate::{
    backup::{KEY, create, filled, import, line},
    bulk::export,
    node::{PATIENCE, Running},
    support::{directory, jiexi, node, run},
};

/// Enough for the restore to be caught.
const RECORDS: usize = 5_000;
/// What must not happen is waited for so long, which is less than a node waits.
const MOMENT: Duration = Duration::from_millis(300);

/// How many names in the data directory begin so.
fn beside(data: &Path, word: &str) -> usize {
    let names = fs::read_dir(data).expect("a directory");
    let begins = |name: String| name.starts_with(&format!("store.{word}-"));
    names
        .filter(|name| {
            let name = name.as_ref().expect("a name").file_name();
            begins(name.to_string_lossy().into_owned())
        })
        .count()
}

fn send(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).expect("a process");
    kill(Pid::from_raw(pid), signal).expect("is sent");
}

/// A restore that stands still while it makes the new store.
fn halted(directory: &Path) -> Child {
    let data = directory.join("a");
    let began = Instant::now();
    'caught: loop {
        assert!(began.elapsed() < PATIENCE, "no restore was caught");
        let old = beside(&data, "old");
        let mut restore = jiexi(directory)
            .args(["store", "restore", "kept.snapshot", "--yes", "--data", "a"])
            .stdout(Stdio::null())
            .spawn()
            .expect("starts");
        while beside(&data, "new") == 0 {
            // On a busy machine it may be done before it was looked at.
            if let Some(ended) = restore.try_wait().expect("asks") {
                assert!(ended.success(), "{ended}");
                continue 'caught;
            }
        }
        send(&restore, Signal::SIGSTOP);
        thread::sleep(MOMENT / 10);
        if beside(&data, "new") == 1 && beside(&data, "old") == old {
            return restore;
        }
        send(&restore, Signal::SIGCONT);
        assert!(restore.wait().expect("ends").success());
    }
}

#[test]
fn no_node_begins_in_a_store_that_is_exchanged() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "a");
    let lines: Vec<String> = (0..RECORDS)
        .map(|number| line(&number.to_string(), "kept"))
        .collect();
    import(directory, "a", &lines.join("\n"));
    let taken = run(
        directory,
        &["store", "snapshot", "--data", "a", "-o", "json"],
    );
    let taken = taken.expect(0).json();
    let snapshot = directory.join(taken["path"].as_str().expect("a path"));
    fs::copy(snapshot, directory.join("kept.snapshot")).expect("is copied");
    let kept = export(directory, "a", &[]).len();
    assert!(kept >= RECORDS);
    import(directory, "a", &line("gone", "gone"));

    let mut restore = halted(directory);
    let refused = run(
        directory,
        &[
            "handle",
            "create",
            "88.118/lost",
            "--value",
            "1:URL=https://a.example/",
            "--data",
            "a",
        ],
    );
    assert_ne!(refused.code, 0);
    let refused = run(directory, &["serve", "--config", "a/jiexi.toml"]).expect(1);
    assert!(
        refused
            .stderr
            .contains("another process has this store open"),
        "{}",
        refused.stderr
    );
    send(&restore, Signal::SIGCONT);
    assert!(restore.wait().expect("ends").success());
    assert_eq!(export(directory, "a", &[]).len(), kept);

    let mut restore = halted(directory);
    let starting = directory.to_path_buf();
    let starting = thread::spawn(move || Running::start(&starting, "a"));
    thread::sleep(MOMENT);
    assert!(!starting.is_finished());
    send(&restore, Signal::SIGCONT);
    assert!(restore.wait().expect("ends").success());
    let running = starting.join().expect("a node");
    import(directory, "a", &line("acknowledged", "yes"));
    let second = run(directory, &["serve", "--config", "a/jiexi.toml"]);
    assert_ne!(second.code, 0, "the store is in use: {}", second.stderr);
    assert_eq!(running.stop(), 0);
    run(directory, &["audit", "verify", "--data", "a"]).expect(0);
    let handles = export(directory, "a", &[]);
    assert_eq!(handles.len(), kept + 1);
    assert!(
        handles
            .iter()
            .any(|record| record["handle"] == "88.118/acknowledged")
    );
}

/// Puts a pipe that nobody writes in the place of the audit trail of a node: whoever opens the trail stands still.
fn block_trail(directory: &Path, data: &str) {
    let audit = directory.join(data).join("audit");
    if audit.exists() {
        fs::remove_dir_all(&audit).expect("is removed");
    }
    fs::create_dir_all(&audit).expect("a directory");
    mkfifo(&audit.join("audit-00000001.jsonl"), Mode::S_IRWXU).expect("a pipe");
}

/// Goal: what was done on a stopped node is in its audit trail before another process can have the store. Method: the
/// program stands still where it opens the trail, and the store is asked for.
#[test]
fn the_trail_is_written_before_others_have_the_store() {
    let directory = directory();
    let directory = directory.path();
    filled(directory, "a");
    create(directory, "a", &[]);
    let taken = ["store", "snapshot", "--data", "a", "-o", "json"];
    let taken = run(directory, &taken).expect(0).json();
    let snapshot = directory.join(taken["path"].as_str().expect("a path"));
    fs::copy(snapshot, directory.join("kept.snapshot")).expect("is copied");
    fs::write(directory.join("lines"), line("new", "new")).expect("writes");
    let store = |data: &str| directory.join(data).join("store");

    let import = ["import", "lines", "--data", "a"];
    let replace = ["store", "restore", "kept.snapshot", "--yes", "--data", "a"];
    let restore = [&["backup", "restore", "repo", "--data", "b"][..], &KEY].concat();
    let replaced = || beside(&directory.join("a"), "old") == 1 && store("a").exists();
    type Way<'w> = (&'w str, &'w [&'w str], &'w dyn Fn() -> bool);
    let ways: [Way<'_>; 3] = [
        // It says when it has imported; the entry comes after that.
        ("a", &import, &|| true),
        ("a", &replace, &replaced),
        ("b", &restore, &|| store("b").exists()),
    ];
    for (data, arguments, is_done) in ways {
        block_trail(directory, data);
        let mut child = jiexi(directory)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        if arguments[0] == "import" {
            let mut said = String::new();
            let stdout = child.stdout.as_mut().expect("is piped");
            BufReader::new(stdout).read_line(&mut said).expect("reads");
            assert!(said.starts_with("imported 1 "), "{said}");
        }
        let began = Instant::now();
        while !is_done() {
            assert!(
                began.elapsed() < PATIENCE,
                "{arguments:?} does not come so far"
            );
            thread::sleep(MOMENT / 30);
        }
        let asked = run(directory, &["store", "stats", "--data", data]);
        assert!(
            asked.code == 1 && asked.stderr.contains("another process has this store open"),
            "{arguments:?}: {}{}",
            asked.stdout,
            asked.stderr
        );
        assert!(
            child.try_wait().expect("asks").is_none(),
            "{arguments:?} did not wait"
        );
        child.kill().expect("is killed");
        child.wait().expect("ends");
        fs::remove_dir_all(directory.join(data).join("audit")).expect("is removed");
        run(directory, &["store", "stats", "--data", data]).expect(0);
    }

    // A trail that cannot be written is told of; what is done is done.
    fs::write(directory.join("b/audit"), "no directory").expect("writes");
    let import = run(directory, &["import", "lines", "--data", "b"]).expect(0);
    assert!(
        import
            .stderr
            .contains("the audit trail does not tell of this import")
            && import.stderr.contains("b/audit"),
        "{}",
        import.stderr
    );
}

/// Bytes of a file of the audit trail after which another one is begun.
const TRAIL_BYTES: usize = 64 << 20;
/// Handles that are refused until more waits for the trail than may: each has 12 KB in it.
const REFUSED: usize = 1_500;

/// Goal: while the audit trail takes nothing, imports and restores on a running node are refused as every other change is.
/// Method: the file that is to be begun next is a directory, and what is refused waits until there is too much.
#[test]
fn nothing_is_imported_that_could_not_be_written_down() {
    let directory = directory();
    let directory = directory.path();
    node(directory, "a");
    import(directory, "a", &line("first", "first"));
    let taken = ["store", "snapshot", "--data", "a", "-o", "json"];
    let taken = run(directory, &taken).expect(0).json();
    let snapshot = taken["path"].as_str().expect("a path").to_owned();
    import(directory, "a", &line("second", "second"));
    let before = export(directory, "a", &[]);
    // Full, with the entries that it has behind many empty lines.
    let audit = directory.join("a/audit");
    let trail = audit.join("audit-00000001.jsonl");
    let mut full = vec![b'\n'; TRAIL_BYTES];
    full.extend(fs::read(&trail).expect("reads"));
    fs::write(&trail, full).expect("writes");
    let running = Running::start(directory, "a");
    fs::create_dir(audit.join("audit-00000002.jsonl")).expect("a directory");

    let name = "\u{1}".repeat(2_000);
    let refused = (0..REFUSED).map(|number| format!("DELETE 88.118/{name}{number}\n"));
    fs::write(directory.join("x.batch"), refused.collect::<String>()).expect("writes");
    let arguments = ["migrate", "batch", "x.batch", "--keep-going", "--data", "a"];
    let migrated = run(directory, &arguments).expect(1);
    assert!(
        migrated
            .stderr
            .contains("the audit trail cannot be written"),
        "{:.2000}",
        migrated.stderr
    );
    fs::write(directory.join("lines"), line("new", "new")).expect("writes");
    for arguments in [
        &["import", "lines", "--data", "a"][..],
        &["store", "restore", &snapshot, "--yes", "--data", "a"],
    ] {
        let refused = run(directory, arguments).expect(1);
        assert!(
            refused
                .stderr
                .contains("the audit trail cannot be written, so nothing was changed"),
            "{arguments:?}: {}",
            refused.stderr
        );
    }
    assert!(export(directory, "a", &[]) == before, "nothing was changed");
    // The disk takes something again.
    fs::remove_dir(audit.join("audit-00000002.jsonl")).expect("is removed");
    let began = Instant::now();
    while run(directory, &["import", "lines", "--data", "a"]).code != 0 {
        assert!(began.elapsed() < PATIENCE, "nothing is imported any more");
    }
    assert_eq!(running.stop(), 0);
}
