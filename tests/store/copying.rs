//! Goal: a copy of a store is that store, sequence by sequence; what does not continue it changes nothing; and it becomes a
//! store of its own without losing anything. Method: random changes, imports and snapshots on one side; entries taken in
//! pieces of any size on the other, with either side closed, or killed, in between.

use std::fs;
use std::path::Path;

use jiexi::store::{
    CommitError, Config, Cursor, Reach, ReplicaError, Role, RunWanted, Space, Store,
};

use crate::support::{
    Random, batch, config, contents, copy_tree, create, delete, eventually, import, open, put,
};

const STEPS: usize = 400;
const PLACE: &str = "https://primary.example.cn";

fn small(dir: &Path) -> Config {
    Config {
        segment_bytes: 16 << 10,
        import_stripe_bytes: 8 << 10,
        snapshot_journal_bytes: u64::MAX,
        ..config(dir)
    }
}

/// A store made of the newest snapshot of another one.
fn copy_of(source: &Store, config: &Config) -> Store {
    let snapshot = source.snapshot_from(0).unwrap();
    if config.dir.exists() {
        fs::remove_dir_all(&config.dir).unwrap();
    }
    Store::copy(config, &snapshot.path, source.data_epoch(), PLACE).unwrap();
    let copy = open(config);
    assert_eq!(copy.role(), Role::Copy(PLACE.into()));
    copy
}

/// Where a copy is in the journal of the other store; none when that does not reach back.
fn place(source: &Store, copy: &Store) -> Option<Cursor> {
    match source.reach(copy.position()).unwrap() {
        Reach::From(cursor) => Some(cursor),
        Reach::TooShort => None,
        Reach::Diverged => panic!("a copy at {:?} diverges", copy.position()),
    }
}

/// Takes what there is, in pieces of about `limit` bytes; false when the journal does not reach back.
fn follow(source: &Store, copy: &Store, limit: usize) -> bool {
    let Some(mut cursor) = place(source, copy) else {
        return false;
    };
    while cursor.position.sequence < source.sequence() {
        let Some(entries) = source.entries(&mut cursor, limit).unwrap() else {
            return false;
        };
        if let Some(wanted) = copy.replicate(&entries).unwrap()
            && !take_run(source, copy, &wanted)
        {
            return false;
        }
        assert_eq!(copy.position(), cursor.position);
    }
    true
}

fn take_run(source: &Store, copy: &Store, wanted: &RunWanted) -> bool {
    let Some(path) = source.run_file(wanted.sequence) else {
        return false;
    };
    let mut file = fs::File::open(path).unwrap();
    copy.replicate_run(wanted, &mut file).unwrap();
    true
}

#[track_caller]
fn same(source: &Store, copy: &Store) {
    assert_eq!(source.position(), copy.position());
    assert_eq!(source.data_epoch(), copy.data_epoch());
    for space in Space::ALL {
        assert_eq!(contents(source, space), contents(copy, space), "{space:?}");
    }
    let mut report = copy.verify().unwrap();
    // What a crash leaves of sled may be of no use.
    eventually("sled is there", || {
        report = copy.verify().unwrap();
        report.problems != ["sled is being made anew"]
    });
    assert!(report.is_good(), "{report:?}");
}

#[test]
fn random_changes() {
    let mut random = Random::new("copying");
    let home = tempfile::tempdir().unwrap();
    let (ours, theirs) = (
        small(&home.path().join("source")),
        small(&home.path().join("copy")),
    );
    let mut source = create(&ours);
    let mut copy = copy_of(&source, &theirs);
    let (mut again, mut imports) = (0, 0);
    for step in 0..STEPS as u64 {
        match random.below(40) {
            0 => {
                source.close().unwrap();
                source = open(&ours);
            }
            1 => {
                copy.close().unwrap();
                copy = open(&theirs);
            }
            2 => {
                // What a crash of the process leaves.
                let crashed = home.path().join("crashed");
                copy_tree(&theirs.dir, &crashed);
                drop(copy);
                fs::remove_dir_all(&theirs.dir).unwrap();
                fs::rename(&crashed, &theirs.dir).unwrap();
                copy = open(&theirs);
            }
            3 => drop(source.snapshot().unwrap()),
            4 => drop(copy.snapshot().unwrap()),
            5 => {
                imports += 1;
                let number = |random: &mut Random| (Space::Handle, key(random), step);
                let records: Vec<_> = (0..200).map(|_| number(&mut random)).collect();
                import(&source, &records).unwrap();
            }
            6..20 => {
                let limit = 1 << random.below(18);
                if !follow(&source, &copy, limit) {
                    again += 1;
                    copy.close().unwrap();
                    copy = copy_of(&source, &theirs);
                    assert!(follow(&source, &copy, limit), "a new copy can go on");
                }
                same(&source, &copy);
            }
            _ => {
                let changes = (0..random.below(20)).map(|_| match random.below(4) {
                    0 => delete(Space::Handle, &key(&mut random)),
                    at => put(Space::ALL[at], &key(&mut random), step),
                });
                source.commit(batch(changes.collect())).unwrap();
            }
        }
    }
    println!("{imports} imports, {again} new copies");
    if !follow(&source, &copy, usize::MAX) {
        copy.close().unwrap();
        copy = copy_of(&source, &theirs);
        assert!(follow(&source, &copy, usize::MAX));
    }
    same(&source, &copy);
    copy.rebuild().unwrap();
    same(&source, &copy);
}

fn key(random: &mut Random) -> Vec<u8> {
    format!("88.118/{}", random.below(300)).into_bytes()
}

/// A reader who comes back again and again goes on where it was, across files and while there is nothing.
#[test]
fn a_cursor_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let source = create(&small(&home.path().join("source")));
    let copy = copy_of(&source, &small(&home.path().join("copy")));
    let mut cursor = place(&source, &copy).unwrap();
    for version in 0..200 {
        assert_eq!(source.entries(&mut cursor, 1 << 20).unwrap().unwrap(), b"");
        source
            .commit(batch(vec![put(Space::Handle, b"88.118/a", version)]))
            .unwrap();
        let entries = source.entries(&mut cursor, 1).unwrap().unwrap();
        assert_eq!(copy.replicate(&entries).unwrap(), None);
        assert_eq!(copy.position(), source.position());
    }
    same(&source, &copy);
}

/// Nothing of one's own, nothing out of turn, nothing of another store, nothing that was tampered with.
#[test]
fn what_does_not_continue_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let source = create(&small(&home.path().join("source")));
    let copy = copy_of(&source, &small(&home.path().join("copy")));
    let change = |version| batch(vec![put(Space::Handle, b"88.118/a", version)]);
    let refused = copy.commit(change(1));
    assert_eq!(
        refused,
        Err(CommitError::Elsewhere(Role::Copy(PLACE.into())))
    );
    assert!(refused.unwrap_err().to_string().ends_with(PLACE));
    assert!(copy.bulk().is_err());

    let mut cursor = place(&source, &copy).unwrap();
    source.commit(change(1)).unwrap();
    let first = source.entries(&mut cursor, 1).unwrap().unwrap();
    source.commit(change(2)).unwrap();
    let second = source.entries(&mut cursor, 1).unwrap().unwrap();
    let before = copy.position();
    let diverged =
        |entries: &[u8]| matches!(copy.replicate(entries), Err(ReplicaError::Diverged(_)));
    assert!(diverged(&second), "one is missing");
    assert!(diverged(&first[..first.len() - 8]), "cut");
    for at in [0, 20, 40, 60, first.len() / 2] {
        let mut damaged = first.clone();
        damaged[at] ^= 1;
        assert!(diverged(&damaged), "a flipped bit at {at}");
    }
    assert_eq!(copy.position(), before);
    copy.replicate(&[first.clone(), second].concat()).unwrap();
    assert!(diverged(&first), "once is enough");
    same(&source, &copy);

    // The same sequence with another content: a store that went another way.
    let other = create(&small(&home.path().join("other")));
    other.commit(change(7)).unwrap();
    other.commit(change(8)).unwrap();
    assert_eq!(other.reach(copy.position()).unwrap(), Reach::Diverged);
    other.commit(change(9)).unwrap();
    assert_eq!(other.reach(copy.position()).unwrap(), Reach::Diverged);
    // A store that is no copy takes nothing of others.
    assert!(matches!(
        other.replicate(&first),
        Err(ReplicaError::Diverged(_))
    ));
}

/// A role is on the disk when it is taken, and holds at once.
#[test]
fn a_role_is_kept() {
    let home = tempfile::tempdir().unwrap();
    let config = small(home.path());
    let store = create(&config);
    let change = || batch(vec![put(Space::Handle, b"88.118/a", 1)]);
    store.commit(change()).unwrap();
    let role = Role::Superseded {
        by: PLACE.into(),
        epoch: 4,
    };
    store.set_role(role.clone()).unwrap();
    assert_eq!(
        store.commit(change()),
        Err(CommitError::Elsewhere(role.clone()))
    );
    assert!(store.set_role(Role::Copy("two words".into())).is_err());
    store.close().unwrap();
    assert_eq!(Store::role_of(&config.dir).unwrap(), (role.clone(), 1));
    let store = open(&config);
    assert_eq!(store.commit(change()), Err(CommitError::Elsewhere(role)));
    assert_eq!(store.snapshot().unwrap().records, 1);
}

/// A copy that has everything in a snapshot becomes a store of its own, of a new epoch; cut short, it still is a copy.
#[test]
fn succession() {
    let home = tempfile::tempdir().unwrap();
    let source = create(&small(&home.path().join("source")));
    let config = small(&home.path().join("copy"));
    let copy = copy_of(&source, &config);
    let change = |number: u64| {
        let key = format!("88.118/{number}");
        batch(vec![put(Space::Handle, key.as_bytes(), number)])
    };
    for number in 0..500 {
        source.commit(change(number)).unwrap();
    }
    assert!(follow(&source, &copy, 1 << 20));
    let records =
        (0..500).map(|number| (Space::Handle, format!("88.118/{number}").into_bytes(), 1));
    import(&source, &records.collect::<Vec<_>>()).unwrap();
    assert!(follow(&source, &copy, 1 << 20));
    eventually("sled has the import", || copy.stats().lag_changes == 0);
    let position = copy.position();
    copy.close().unwrap();
    assert!(
        Store::succeed(&config, 2).is_err(),
        "the snapshot is older than the journal"
    );
    let copy = open(&config);
    copy.snapshot().unwrap();
    copy.close().unwrap();

    // Everything but the newest snapshot is gone, and the new epoch is not written yet.
    let cut = small(&home.path().join("cut"));
    copy_tree(&config.dir, &cut.dir);
    for part in fs::read_dir(&cut.dir).unwrap() {
        let path = part.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match name.as_str() {
            "identity" | "lock" | "snapshots" | "times" => {}
            "journal" => {
                for file in fs::read_dir(&path).unwrap() {
                    fs::remove_file(file.unwrap().path()).unwrap();
                }
            }
            _ => fs::remove_dir_all(&path).unwrap(),
        }
    }
    let store = open(&cut);
    assert_eq!(
        (store.position(), store.role()),
        (position, Role::Copy(PLACE.into()))
    );
    same(&source, &store);
    store.close().unwrap();

    for config in [&config, &cut] {
        let refused = Store::succeed(config, 1).unwrap_err().to_string();
        assert!(refused.contains("is not greater"), "{refused}");
        Store::succeed(config, 2).unwrap();
        assert_eq!(
            Store::succeed(config, 3).unwrap_err().to_string(),
            "the store is no copy of another one"
        );
        let store = open(config);
        assert_eq!((store.data_epoch(), store.position()), (2, position));
        assert_eq!(store.role(), Role::Successor(PLACE.into()));
        assert_eq!(
            contents(&store, Space::Handle),
            contents(&source, Space::Handle)
        );
        store.commit(change(1_000)).unwrap();
        store.close().unwrap();
        let store = open(config);
        assert_eq!(store.position().sequence, position.sequence + 1);
        assert!(store.verify().unwrap().is_good());
        store.close().unwrap();
    }
}
