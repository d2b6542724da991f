//! Goal: the data of a node stay its user's. Root does not write among them, and what a user may not read is not called
//! damaged. Method: as root, a node whose files are given to another user.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use crate::support::{Run, directory, jiexi, node, run};

/// The user that owns nothing, and its number.
const OTHER: (&str, u32) = ("nobody", 65534);
/// A user that has nothing to do with the node, `daemon`.
const STRANGER: u32 = 1;

/// Everything below a directory, the directory too.
fn all_of(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_path_buf()];
    let mut at = 0;
    while let Some(path) = found.get(at).cloned() {
        at += 1;
        let Ok(entries) = fs::read_dir(&path) else {
            continue;
        };
        found.extend(entries.map(|entry| entry.expect("an entry").path()));
    }
    found.sort();
    found
}

/// A node of [`OTHER`], stopped; `None` where this test is not root's and nothing can be given away.
fn given_away(directory: &Path) -> Option<PathBuf> {
    if fs::metadata(directory).expect("is there").uid() != 0 {
        return None;
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("opened");
    let data = node(directory, "n");
    run(
        directory,
        &[
            "handle",
            "create",
            "88.118/a",
            "--value",
            "1:URL=https://example.cn/",
            "--data",
            "n",
        ],
    )
    .expect(0);
    for path in all_of(&data) {
        chown(&path, Some(OTHER.1), Some(OTHER.1)).expect("given away");
    }
    Some(data)
}

fn run_as_other(directory: &Path, arguments: &[&str]) -> Run {
    run_as(OTHER.1, directory, arguments)
}

fn run_as(user: u32, directory: &Path, arguments: &[&str]) -> Run {
    let output = jiexi(directory)
        .args(arguments)
        .uid(user)
        .gid(user)
        .output()
        .expect("starts");
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

#[test]
fn root_leaves_the_data_of_others_alone() {
    let directory = directory();
    let Some(data) = given_away(directory.path()) else {
        return;
    };
    let before = all_of(&data);
    for arguments in [
        &["store", "verify", "--data", "n"][..],
        &["store", "rebuild", "--data", "n"],
        &["store", "snapshot", "--data", "n"],
        &[
            "handle",
            "create",
            "88.118/b",
            "--value",
            "1:URL=https://example.cn/",
            "--data",
            "n",
        ],
        &["backup", "create", "repository", "--data", "n"],
        &["serve", "--data", "n"],
    ] {
        let refused = run(directory.path(), arguments).expect(1);
        assert!(
            refused.stderr.contains("runuser -u nobody -- ")
                && refused.stderr.contains(&arguments.join(" ")),
            "{}",
            refused.stderr
        );
    }
    assert_eq!(all_of(&data), before);
    assert!(!directory.path().join("repository").exists());
    // What it says works.
    run_as_other(directory.path(), &["store", "verify", "--data", "n"]).expect(0);
}

#[test]
fn what_may_not_be_read_is_not_damaged() {
    let directory = directory();
    let Some(data) = given_away(directory.path()) else {
        return;
    };
    let journal = data.join("store/journal");
    let segment = all_of(&journal)
        .into_iter()
        .rfind(|path| path.extension().is_some_and(|end| end == "journal"))
        .expect("a segment");
    chown(&segment, Some(0), Some(0)).expect("taken back");
    fs::set_permissions(&segment, fs::Permissions::from_mode(0o600)).expect("closed");
    let failed = run_as_other(directory.path(), &["store", "stats", "--data", "n"]).expect(1);
    assert!(
        failed.stderr.contains("chown -R nobody") && failed.stderr.contains("belongs to root"),
        "{}",
        failed.stderr
    );
    for wrong in ["restore", "damaged", "no way"] {
        assert!(!failed.stderr.contains(wrong), "{}", failed.stderr);
    }
    let doctor = run_as_other(directory.path(), &["doctor", "--data", "n"]).expect(1);
    assert!(
        doctor.stdout.contains("FAILED   files") && doctor.stdout.contains("chown -R nobody"),
        "{}",
        doctor.stdout
    );
    // Root, who may read everything, sees it, too.
    let doctor = run(directory.path(), &["doctor", "--data", "n"]).expect(1);
    assert!(
        doctor.stdout.contains("FAILED   files") && doctor.stdout.contains("runuser -u nobody"),
        "{}",
        doctor.stdout
    );
    // The trail likewise, before anything is opened.
    chown(&segment, Some(OTHER.1), Some(OTHER.1)).expect("given away");
    chown(data.join("audit"), Some(0), Some(0)).expect("taken back");
    let failed = run_as_other(directory.path(), &["serve", "--data", "n"]).expect(1);
    assert!(
        failed.stderr.contains("[administration] audit")
            && failed.stderr.contains("chown -R nobody"),
        "{}",
        failed.stderr
    );
}

/// Goal: root may look at the backups of others without taking the locks from them. Method: a repository of [`OTHER`].
#[test]
fn locks_that_root_makes_in_a_repository_are_its_owners() {
    let directory = directory();
    let Some(_) = given_away(directory.path()) else {
        return;
    };
    let repository = directory.path().join("repo");
    fs::create_dir(&repository).expect("made");
    chown(&repository, Some(OTHER.1), Some(OTHER.1)).expect("given away");
    let as_other =
        |arguments: &[&str]| run_as_other(directory.path(), &[&["backup"], arguments].concat());
    let create = ["create", "repo", "--full", "--data", "n"];
    as_other(&create).expect(0);
    as_other(&create).expect(0);
    run(directory.path(), &["backup", "list", "repo"]).expect(0);
    let readers = repository.join("readers");
    let found = fs::metadata(&readers).expect("root has made it");
    assert_eq!((found.uid(), found.mode() & 0o777), (OTHER.1, 0o644));
    let prune = ["prune", "repo", "--keep", "1"];
    as_other(&prune).expect(0);

    // What an earlier version has left stops whoever removes, who is told what to do, and nobody who reads.
    chown(&readers, Some(0), Some(0)).expect("taken back");
    fs::set_permissions(&readers, fs::Permissions::from_mode(0o600)).expect("closed");
    as_other(&["verify", "repo"]).expect(0);
    let refused = as_other(&prune).expect(1).stderr;
    assert!(
        refused.contains("belongs to root")
            && refused.contains("as root `chown nobody repo/readers`"),
        "{refused}"
    );

    // Backups of root there would be in the way.
    node(directory.path(), "own");
    let create = ["backup", "create", "repo", "--data", "own"];
    let refused = run(directory.path(), &create).expect(1).stderr;
    assert!(
        refused.contains("repo belongs to nobody") && refused.contains("runuser -u nobody -- "),
        "{refused}"
    );
}

/// Goal: whoever is not the user of the node is sent to that one. Nothing is named to be given to a stranger, least of all
/// the directory that the data directory happens to be in.
#[test]
fn strangers_are_given_nothing() {
    let directory = directory();
    let Some(data) = given_away(directory.path()) else {
        return;
    };
    fs::set_permissions(&data, fs::Permissions::from_mode(0o750)).expect("closed");
    for command in ["export", "doctor", "serve"] {
        let refused = run_as(STRANGER, directory.path(), &[command, "--data", "n"]).expect(1);
        let said = refused.stdout + &refused.stderr;
        assert!(said.contains("run it as nobody"), "{said}");
        // And nobody makes a new node, or brings one back, because of that.
        for wrong in ["chown", "jiexi init", "backup", "template"] {
            assert!(!said.contains(wrong), "{said}");
        }
    }
    // The configuration elsewhere, where everybody may read it; or nowhere that is named, and the usual place is closed.
    let text = fs::read_to_string(data.join("jiexi.toml")).expect("a file");
    let (here, there) = ("data = \".\"", "data = \"n\"");
    assert!(text.contains(here), "{text}");
    fs::write(
        directory.path().join("node.toml"),
        text.replace(here, there),
    )
    .expect("written");
    let arguments = ["export", "--config", "node.toml"];
    let refused = run_as(STRANGER, directory.path(), &arguments).expect(1);
    let said = refused.stderr;
    assert!(
        said.contains("run it as nobody, the user of the node"),
        "{said}"
    );
    let usual = directory.path().join("data");
    fs::rename(&data, &usual).expect("moved");
    for command in ["doctor", "serve"] {
        let refused = run_as(STRANGER, directory.path(), &[command]).expect(1);
        let said = refused.stdout + &refused.stderr;
        assert!(
            said.contains("run it as nobody") && !said.contains("jiexi init"),
            "{said}"
        );
    }
    fs::rename(&usual, &data).expect("moved");
    // As `sudo jiexi init` leaves it.
    chown(&data, Some(0), Some(0)).expect("taken back");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("closed");
    for command in ["export", "doctor", "serve"] {
        let refused = run_as(STRANGER, directory.path(), &[command, "--data", "n"]).expect(1);
        let said = refused.stdout + &refused.stderr;
        assert!(said.contains("belongs to root"), "{said}");
        assert!(!said.contains("chown"), "{said}");
    }
}

/// Goal: a key that may not be read is never told of as one that is lost, which is an advice to take it away.
#[test]
fn a_key_that_may_not_be_read_is_not_lost() {
    let directory = directory();
    let Some(data) = given_away(directory.path()) else {
        return;
    };
    let key = data.join("node.key");
    chown(&key, Some(0), Some(0)).expect("taken back");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("closed");
    for command in ["serve", "doctor", "export"] {
        let refused = run_as_other(directory.path(), &[command, "--data", "n"]).expect(1);
        let said = refused.stdout + &refused.stderr;
        assert!(said.contains("as root `chown -R nobody "), "{said}");
        for wrong in ["escrow", "backup", "away", "jiexi init"] {
            assert!(!said.contains(wrong), "{said}");
        }
    }
}

/// Goal: a stranger learns of `doctor` that it is one, and nothing about files that it cannot see.
#[test]
fn doctor_tells_a_stranger_so() {
    let directory = directory();
    let Some(data) = given_away(directory.path()) else {
        return;
    };
    for path in [&data, &data.join("jiexi.toml")] {
        let mode = fs::metadata(path).expect("is there").mode() | 0o055;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("opened");
    }
    let doctor = run_as(STRANGER, directory.path(), &["doctor", "--data", "n"]).expect(1);
    let failed: Vec<_> = (doctor.stdout.lines())
        .filter(|line| line.starts_with("FAILED"))
        .collect();
    let [user] = failed[..] else {
        panic!("{}", doctor.stdout)
    };
    assert!(
        user.contains("this is daemon, not the node's user"),
        "{user}"
    );
    assert!(
        doctor.stdout.contains("run it as nobody"),
        "{}",
        doctor.stdout
    );
}

/// Goal: `doctor` sees what keeps the node from its work, as the node's user and as root, who may use everything: files that
/// may be read and not written, those of a data directory that is a link, what only a group may read. What is not the
/// node's is none of its business.
#[test]
fn doctor_sees_what_the_node_may_not_use() {
    let directory = directory();
    let Some(data) = given_away(directory.path()) else {
        return;
    };
    let doctor = |as_root: bool, data: &str| {
        let arguments = ["doctor", "--data", data];
        let ran = match as_root {
            true => run(directory.path(), &arguments),
            false => run_as_other(directory.path(), &arguments),
        };
        let files = ran
            .stdout
            .lines()
            .find(|line| line.get(9..).is_some_and(|line| line.starts_with("files ")));
        files.expect("it looks at files").to_owned()
    };
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&data, &link).expect("linked");
    // A disk has it, and only root looks into it.
    let lost = data.join("lost+found");
    fs::create_dir(&lost).expect("made");
    fs::set_permissions(&lost, fs::Permissions::from_mode(0o700)).expect("closed");
    for as_root in [true, false] {
        for data in ["n", "link"] {
            let said = doctor(as_root, data);
            assert!(said.starts_with("ok "), "{said}");
        }
    }
    let journal = all_of(&data.join("store/journal"));
    let segment = journal.last().expect("a segment").clone();
    for (path, mode) in [
        (data.join("store/lock"), 0o644),
        (data.join("store/snapshots"), 0o755),
        (segment.clone(), 0o640),
        (segment, 0o600),
    ] {
        let before = fs::metadata(&path).expect("is there").permissions();
        chown(&path, Some(0), Some(0)).expect("taken back");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name");
        for as_root in [true, false] {
            for data in ["n", "link"] {
                let said = doctor(as_root, data);
                assert!(
                    said.starts_with("FAILED ") && said.contains(name),
                    "{name} {mode:o}: {said}"
                );
            }
        }
        chown(&path, Some(OTHER.1), Some(OTHER.1)).expect("given away");
        fs::set_permissions(&path, before).expect("set");
    }
    let said = doctor(false, "n");
    assert!(said.starts_with("ok "), "{said}");
}
