//! Goal: the table of hashed labels is written together with its handles, and no label ever belongs to
//! two. Method: a store whose hash has one value, so that every two long suffixes collide.

use jiexi::records;
use jiexi::store::{Action, Change, CommitError, Config, Expect, Space, Store};
use jiexi_proto::handle::CaseRule;

use crate::node::{PATIENCE, PUBLIC, value};

fn put(suffix: &str) -> Change {
    let values = [value(1, "URL", b"https://id.example/", 60, PUBLIC)];
    records::put_values(
        format!("88.1/{suffix}").as_bytes(),
        &values,
        CaseRule::Whole,
    )
}

fn delete(suffix: &str) -> Change {
    Change {
        space: Space::Handle,
        key: format!("88.1/{suffix}").into_bytes(),
        expect: Expect::Any,
        action: Action::Delete,
    }
}

#[test]
fn collisions_are_refused_at_write() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = Config {
        dir: directory.path().join("store"),
        other_key: |key, case| {
            let hashed = jiexi::server::dns::name::hashed_key(key, case)?;
            Some(hashed[..4].to_vec())
        },
        ..Config::default()
    };
    Store::create(&config).expect("a store");
    let store = Store::open(config).expect("opens");
    assert!(store.wait_ready(PATIENCE));
    let (one, two) = ("ONE".repeat(40), "TWO".repeat(40));
    let table = || {
        let record = store.get(Space::System, b"dns/").expect("reads");
        record.map(|record| String::from_utf8(record.handle().into_owned()).expect("UTF-8"))
    };
    let commit = |changes| store.commit(records::batch(changes));
    commit(vec![put("SHORT")]).expect("committed");
    assert_eq!(table(), None, "a short suffix needs no table");
    commit(vec![put(&one)]).expect("committed");
    assert_eq!(table(), Some(format!("88.1/{one}")));
    let refused = commit(vec![put("OTHER"), put(&two)]);
    assert!(
        matches!(refused, Err(CommitError::Conflict { .. })),
        "{refused:?}"
    );
    for suffix in ["OTHER", &two] {
        let key = format!("88.1/{suffix}");
        assert!(
            store
                .get(Space::Handle, key.as_bytes())
                .expect("reads")
                .is_none(),
            "all or nothing"
        );
    }
    commit(vec![put(&one)]).expect("the same handle again");
    let refused = commit(vec![delete(&one), put(&one), put(&two)]);
    assert!(refused.is_err(), "also within a batch: {refused:?}");
    commit(vec![delete(&one)]).expect("deleted");
    assert_eq!(table(), None, "it goes with its handle");
    commit(vec![put(&two)]).expect("the label is free");
    assert_eq!(table(), Some(format!("88.1/{two}")));
}
