//! Goal: a store passes from one holder to another and back, beside writers and bulk imports, and whoever has it has
//! everything acknowledged by either; what is asked of one that gave it away waits and is carried out, or refused, once.
//! Method: two stores of one directory, as two processes have them, and a plain map of what must be there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;
use std::{fs, thread};

use jiexi::store::{CommitError, Committed, Config, Faults, Role, Space, Store, StoreError};

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

/// Gives a store away that has only just been opened.
fn give_away(store: &Store) -> Result<fs::File, StoreError> {
    loop {
        match store.give_away() {
            Err(StoreError::Unavailable(_)) => thread::yield_now(),
            other => return other,
        }
    }
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

/// Goal: whoever gets the files has the role that they say, also one that came while its index was filled.
#[test]
fn a_role_passes_on_and_back() {
    let home = tempfile::tempdir().expect("a directory");
    let config = config(&home.path().join("store"));
    let superseded = |epoch| Role::Superseded {
        by: "https://other.example".into(),
        epoch,
    };
    let change = || batch(vec![put(Space::Handle, b"key", 1)]);
    let holder = create(&config);
    let heir = beside(&config);
    holder.set_role(superseded(2)).expect("is written");
    let lock = give_away(&holder).expect("is given");
    heir.take_over(Some(lock)).expect("is taken");
    assert_eq!(
        heir.commit(change()),
        Err(CommitError::Elsewhere(superseded(2)))
    );
    heir.set_role(superseded(3)).expect("is written");
    heir.close().expect("is closed");
    holder.take_over(None).expect("is taken back");
    assert_eq!(
        holder.commit(change()),
        Err(CommitError::Elsewhere(superseded(3)))
    );
    holder.close().expect("is closed");
    let kept = Store::role_of(&config.dir).expect("is read");
    assert_eq!(kept, (superseded(3), 1));
}

/// Goal: who waits for a store while another one is put in its place has that one, and its lock.
#[test]
fn who_waits_gets_what_comes_in_its_place() {
    let home = tempfile::tempdir().expect("a directory");
    let at = |name| config(&home.path().join(name));
    let (here, next) = (at("store"), at("next"));
    create(&here).close().expect("is closed");
    let store = create(&next);
    let done = store.commit(batch(vec![put(Space::Handle, b"key", 1)]));
    done.expect("is acknowledged");
    store.close().expect("is closed");
    let lock = Store::unused(&here.dir).expect("nobody has it");
    assert!(lock.is_some());
    let opening = here.clone();
    let waiting = thread::spawn(move || Store::open(opening));
    thread::sleep(MOMENT);
    assert!(!waiting.is_finished());
    fs::rename(&here.dir, home.path().join("old")).expect("is moved away");
    thread::sleep(MOMENT);
    assert!(!waiting.is_finished(), "for a moment there is none");
    fs::rename(&next.dir, &here.dir).expect("is moved there");
    drop(lock);
    let store = waiting.join().expect("a thread").expect("is opened");
    assert!(store.wait_loaded(PATIENCE).expect("is loaded"));
    assert_eq!(contents(&store, Space::Handle).len(), 1);
    let lock = fs::File::options().write(true).open(here.dir.join("lock"));
    let locked = lock.expect("a lock").try_lock();
    assert!(
        matches!(locked, Err(fs::TryLockError::WouldBlock)),
        "{locked:?}"
    );
}

/// Goal: a store whose journal fails while the last batch is written is not given away, and nobody waits for it. Method: a
/// batch is being decided while the store begins to leave.
#[test]
fn a_journal_that_fails_at_the_end_is_not_given() {
    let home = tempfile::tempdir().expect("a directory");
    let faults = Arc::new(Faults::default());
    let config = Config {
        faults: Some(Arc::clone(&faults)),
        ..config(&home.path().join("store"))
    };
    let holder = create(&config);
    let ((begun, begins), (go, goes)) = (channel(), channel());
    let (send, last) = channel();
    thread::scope(|scope| {
        let store = &holder;
        scope.spawn(move || {
            store.submit_decided(|| {
                begun.send(()).expect("is heard");
                goes.recv().expect("goes on");
                let change = batch(vec![put(Space::Handle, b"last", 1)]);
                Some((change, move |outcome| drop(send.send(outcome))))
            });
        });
        begins.recv().expect("is at work");
        faults.fail_sync.store(true, Relaxed);
        let giving = scope.spawn(|| give_away(store));
        thread::sleep(MOMENT);
        let waiting = ask(store, b"waiting", 1);
        go.send(()).expect("is heard");
        let given = giving.join().expect("a thread");
        assert!(matches!(given, Err(StoreError::Failed(_))), "{given:?}");
        for outcome in [last, waiting] {
            let outcome = outcome.recv_timeout(PATIENCE).expect("is told");
            assert!(outcome.is_err(), "{outcome:?}");
        }
    });
}
