//! Goal: a store passes from one holder to another and back, beside writers and bulk imports, and whoever has it has
//! everything acknowledged by either; what is asked of one that gave it away waits and is carried out, or refused, once.
//! Method: two stores of one directory, as two processes have them, and a plain map of what must be there.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use jiexi::store::{CommitError, Committed, Config, Space, Store, StoreError};

use crate::support::{
    PATIENCE, Random, batch, config, contents, create, delete, import, open, put,
};

/// Passes of the test.
const PASSES: u64 = 12;
/// Changes between two of them, at most.
const CHANGES: usize = 200;
const KEYS: usize = 300;
/// What must not happen is waited for so long.
const MOMENT: Duration = Duration::from_millis(150);

type Model = BTreeMap<Vec<u8>, u64>;

/// Changes this and that, some of it as a bulk import.
fn change(store: &Store, random: &mut Random, model: &mut Model, next: &mut u64) {
    for _ in 0..random.below(CHANGES) {
        let key = format!("k{}", random.below(KEYS)).into_bytes();
        *next += 1;
        let done = match random.below(4) {
            0 => {
                model.remove(&key);
                store.commit(batch(vec![delete(Space::Handle, &key)]))
            }
            _ => {
                model.insert(key.clone(), *next);
                store.commit(batch(vec![put(Space::Handle, &key, *next)]))
            }
        };
        done.expect("is acknowledged");
    }
    if random.below(3) == 0 {
        *next += 1;
        let key = |number| format!("b{number}").into_bytes();
        let records: Vec<_> = (0..50)
            .map(|number| (Space::Handle, key(number), *next))
            .collect();
        import(store, &records).expect("is imported");
        model.extend(records.into_iter().map(|(_, key, version)| (key, version)));
    }
    if random.below(3) == 0 {
        store.snapshot().expect("a snapshot");
    }
}

/// Another process that reads beside the one that has the store.
fn beside(config: &Config) -> Store {
    let store = Store::open_beside(config.clone()).expect("is read");
    assert!(store.wait_filled(PATIENCE).expect("is filled"));
    store
}

/// A change that is asked for, and where its outcome comes.
fn ask(store: &Store, key: &[u8], version: u64) -> Receiver<Result<Committed, CommitError>> {
    let (send, receive) = channel();
    let change = batch(vec![put(Space::Handle, key, version)]);
    store.submit(change, move |outcome| drop(send.send(outcome)));
    receive
}

#[test]
fn it_passes_on_and_back() {
    let mut random = Random::new("it_passes_on_and_back");
    let home = tempfile::tempdir().expect("a directory");
    let config = config(&home.path().join("store"));
    let (mut model, mut next) = (Model::new(), 0);
    let mut holder = create(&config);
    change(&holder, &mut random, &mut model, &mut next);
    for pass in 0..PASSES {
        let heir = beside(&config);
        // What comes after it was filled is read when it takes over.
        change(&holder, &mut random, &mut model, &mut next);
        let lock = holder.give_away().expect("is given");
        let waiting = ask(&holder, b"waiting", pass);
        assert_eq!(
            waiting.recv_timeout(MOMENT),
            Err(RecvTimeoutError::Timeout),
            "nobody writes"
        );
        assert_eq!(contents(&holder, Space::Handle), model, "it still answers");
        assert!(matches!(
            holder.give_away(),
            Err(StoreError::Unavailable(_))
        ));
        if pass == 0 {
            let third = Store::open(config.clone());
            assert!(matches!(third, Err(StoreError::Locked { .. })), "{third:?}");
        }
        heir.take_over(Some(lock)).expect("is taken");
        assert_eq!(contents(&heir, Space::Handle), model);
        change(&heir, &mut random, &mut model, &mut next);
        if pass.is_multiple_of(3) {
            // It comes to nothing, after it has written.
            heir.close().expect("is closed");
            holder.take_over(None).expect("is taken back");
            let done = waiting.recv_timeout(PATIENCE).expect("is carried out");
            done.expect("is acknowledged");
            model.insert(b"waiting".to_vec(), pass);
        } else {
            holder.retire();
            let done = waiting.recv_timeout(PATIENCE).expect("is refused");
            assert_eq!(done, Err(CommitError::Closed));
            holder.close().expect("is closed");
            holder = heir;
        }
        assert_eq!(contents(&holder, Space::Handle), model, "pass {pass}");
        change(&holder, &mut random, &mut model, &mut next);
        if pass.is_multiple_of(4) {
            let report = holder.verify().expect("is verified");
            assert!(report.is_good(), "{report:?}");
        }
    }
    holder.close().expect("is closed");
    let store = open(&config);
    assert_eq!(contents(&store, Space::Handle), model);
    let report = store.verify().expect("is verified");
    assert!(report.is_good(), "{report:?}");
}

/// Goal: an import that was under way while another process had the store fails cleanly: that one removes files that no
/// journal names.
#[test]
fn an_import_under_way_is_given_up() {
    let home = tempfile::tempdir().expect("a directory");
    let config = config(&home.path().join("store"));
    let holder = create(&config);
    let bulk = holder.bulk().expect("an import");
    let heir = beside(&config);
    let lock = holder.give_away().expect("is given");
    heir.take_over(Some(lock)).expect("is taken");
    heir.close().expect("is closed");
    holder.take_over(None).expect("is taken back");
    assert_eq!(bulk.commit(), Err(CommitError::Closed));
    let done = holder.commit(batch(vec![put(Space::Handle, b"key", 1)]));
    done.expect("is acknowledged");
    holder.close().expect("is closed");
    assert_eq!(contents(&open(&config), Space::Handle).len(), 1);
}
