use std::io::Write as _;

use super::*;
use jiexi_proto::value::key::{KeyFile, PrivateKey};

fn key() -> NodeKey {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/tests/vectors/keys.json");
    let keys: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let file = hex::decode(keys["server_priv.bin_hex"].as_str().unwrap()).unwrap();
    let KeyFile::Clear(key) = KeyFile::decode(&file.into()).unwrap() else {
        panic!("protected");
    };
    NodeKey::new(&PrivateKey::decode(&key).unwrap()).unwrap()
}

fn event(handle: &[u8]) -> Event<'_> {
    Event {
        time: 1_800_000_000,
        source: "192.0.2.1".into(),
        operation: "create",
        handle,
        result: "committed",
        code: 1,
        ..Event::default()
    }
}

fn trail(directory: &Path, handles: &[&[u8]]) {
    let audit = Audit::open(directory, &key(), 7).unwrap();
    handles
        .iter()
        .for_each(|handle| audit.record(&event(handle)));
    assert!(audit.flush(Duration::from_secs(10)));
}

fn problems(directory: &Path) -> Vec<String> {
    verify(directory, &key(), &[]).unwrap().problems
}

fn only_file(directory: &Path) -> PathBuf {
    files(directory).unwrap().remove(0).1
}

#[test]
fn the_chain_goes_on_after_a_restart_and_a_torn_line() {
    let directory = tempfile::tempdir().unwrap();
    trail(directory.path(), &[b"1/A", b"1/B"]);
    let path = only_file(directory.path());
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"sequence\":3,\"ti").unwrap();
    assert!(problems(directory.path()).is_empty(), "a line under way");
    trail(directory.path(), &[b"1/C \"quoted\" \xff"]);
    let report = verify(directory.path(), &key(), &[]).unwrap();
    assert_eq!((report.entries, report.problems.as_slice()), (3, &[][..]));
    let mut found = Vec::new();
    let filter = Filter {
        handle: Some("1/b".into()),
        ..Filter::default()
    };
    read(directory.path(), &filter, |entry| {
        found.push(entry.sequence)
    })
    .unwrap();
    assert_eq!(found, [2]);
}

#[test]
fn changes_and_omissions_are_seen() {
    let directory = tempfile::tempdir().unwrap();
    trail(directory.path(), &[b"1/A", b"1/B", b"1/C"]);
    let path = only_file(directory.path());
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("1/B", "1/X")).unwrap();
    assert_eq!(problems(directory.path()).len(), 1);
    let without: Vec<&str> = text.lines().filter(|line| !line.contains("1/B")).collect();
    fs::write(&path, without.join("\n") + "\n").unwrap();
    assert_eq!(problems(directory.path()).len(), 1);
    fs::write(&path, &text).unwrap();
    assert!(problems(directory.path()).is_empty());
}

/// Goal: neither the end nor the beginning can be cut off, and a chain computed anew is seen.
#[test]
fn cuts_are_seen() {
    let directory = tempfile::tempdir().unwrap();
    trail(directory.path(), &[b"1/A", b"1/B", b"1/C"]);
    let path = only_file(directory.path());
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    fs::write(&path, lines[..2].concat()).unwrap();
    let found = problems(directory.path());
    assert!(
        found[0].contains("the end is missing") && found.len() == 1,
        "{found:?}"
    );
    // A node that is started then goes on after what was cut, and says so.
    trail(directory.path(), &[b"1/D"]);
    let found = problems(directory.path());
    assert!(
        found[0].contains("does not follow entry 2") && found.len() == 1,
        "{found:?}"
    );
    let mut last = Vec::new();
    read(directory.path(), &Filter::default(), |entry| {
        last.push((entry.sequence, entry.operation.clone()));
    })
    .unwrap();
    let said = (4, "entries of the audit trail are missing".to_owned());
    assert_eq!(last[2..], [said, (5, "create".to_owned())]);

    fs::write(&path, lines[1..].concat()).unwrap();
    assert!(
        problems(directory.path())
            .iter()
            .any(|problem| problem.contains("begins with entry 2"))
    );

    let other = tempfile::tempdir().unwrap();
    trail(other.path(), &[b"1/A", b"1/forged", b"1/C", b"1/D", b"1/E"]);
    fs::copy(only_file(other.path()), &path).unwrap();
    let found = problems(directory.path());
    assert!(
        found[0].contains("was another one once") && found.len() == 1,
        "{found:?}"
    );

    fs::remove_file(directory.path().join("audit.head")).unwrap();
    assert_eq!(problems(directory.path()).len(), 1);
}

/// Goal: an entry that was noted elsewhere vouches for what came before, also when that is put away.
#[test]
fn known_entries_vouch() {
    let directory = tempfile::tempdir().unwrap();
    trail(directory.path(), &[b"1/A", b"1/B"]);
    let noted = verify(directory.path(), &key(), &[]).unwrap();
    let known = Known {
        sequence: noted.sequence,
        hash: noted.hash,
    };
    trail(directory.path(), &[b"1/C"]);
    let with = |known: Known| {
        verify(directory.path(), &key(), &[known])
            .unwrap()
            .problems
            .len()
    };
    assert_eq!(with(known.clone()), 0);
    assert_eq!(
        with(Known {
            hash: "0".repeat(64),
            ..known.clone()
        }),
        1
    );
    let path = only_file(directory.path());
    let text = fs::read_to_string(&path).unwrap();
    fs::write(
        &path,
        text.split_inclusive('\n').skip(2).collect::<String>(),
    )
    .unwrap();
    assert_eq!(with(known), 0, "the first two were put away");
    assert_eq!(problems(directory.path()).len(), 1);
}

/// Goal: what is in the journal and not in the trail is completed once, exactly as it would have been told, and said by
/// the check; nothing is told twice, and nothing of the run that goes on.
#[test]
fn what_a_crash_left_out_is_completed() {
    let directory = tempfile::tempdir().unwrap();
    let identity = crate::registry::Identity {
        handle: b"0.NA/1".to_vec(),
        index: 300,
    };
    let of = |handle, change| Event {
        identity: Some(&identity),
        change,
        ..event(handle)
    };
    let notes = {
        let audit = Audit::open(directory.path(), &key(), 7).unwrap();
        audit.record(&of(b"1/A", Some(10)));
        audit.record(&of(b"1/C", Some(12)));
        assert!(audit.flush(Duration::from_secs(10)));
        let note = |handle| audit.witness(&[of(handle, None)]);
        let both = audit.witness(&[of(b"1/D", None), of(b"1/E", None)]);
        vec![
            (10, note(b"1/A")),
            (11, note(b"1/B")),
            (12, note(b"1/C")),
            (13, both),
        ]
    };
    let complete = |now, notes: Vec<(u64, Bytes)>| {
        let audit = Audit::open(directory.path(), &key(), now).unwrap();
        let own = (14, audit.witness(&[of(b"1/F", None)]));
        let notes = [
            notes,
            vec![own, (15, Bytes::from_static(b"of another kind"))],
        ]
        .concat();
        let completed = audit.complete(
            15,
            |after| {
                assert_eq!(after, 0);
                Ok::<_, io::Error>(notes)
            },
            |error| error,
        );
        assert!(audit.flush(Duration::from_secs(10)));
        completed.unwrap()
    };
    assert_eq!(complete(8, notes.clone()), 3);
    assert_eq!(complete(9, notes), 0, "it is told already");
    let report = verify(directory.path(), &key(), &[]).unwrap();
    assert_eq!(
        (report.entries, report.recovered, report.problems.len()),
        (5, 3, 0)
    );
    let mut told = Vec::new();
    read(directory.path(), &Filter::default(), |entry| {
        told.push((entry.change, entry.handle.clone(), entry.recovered));
        assert_eq!(entry.identity, "300:0.NA/1");
        assert_eq!((&*entry.source, &*entry.operation), ("192.0.2.1", "create"));
        assert_eq!(
            (&*entry.result, entry.code, entry.time),
            ("committed", 1, 1_800_000_000)
        );
    })
    .unwrap();
    let is = |change, handle: &str, recovered| (Some(change), handle.to_owned(), recovered);
    let expected = [
        is(10, "1/A", false),
        is(12, "1/C", false),
        is(11, "1/B", true),
        is(13, "1/D", true),
        is(13, "1/E", true),
    ];
    assert_eq!(told, expected);
}
