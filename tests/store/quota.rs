//! Goal: the quota of a token is used up exactly, however many batches use it at once, over midnight and over restarts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use jiexi::store::Store;
use jiexi::token::Right;
use jiexi::token::book::{Book, Refused};
use jiexi::token::office::{Order, carry_out};

use crate::support::{config, create, open};

const DAY: u32 = 86_400;
/// Some noon.
const NOON: u32 = 20_000 * DAY + DAY / 2;

/// A token with a quota; its id.
fn token(store: &Store, quota: u64) -> String {
    let order = Order::Create {
        identity: "300:88.118.20/USER".into(),
        prefixes: Vec::new(),
        rights: vec![Right::Batch],
        lifetime: None,
        quota: Some(quota),
        note: String::new(),
    };
    let made = carry_out(store, &order, NOON).unwrap();
    made["id"].as_str().unwrap().to_owned()
}

fn used(book: &Book, id: &str, now: u32) -> u64 {
    book.standing(id, now).unwrap().used
}

#[test]
fn what_one_batch_keeps_ready_is_there_for_all() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let store = Arc::new(create(&config));
    let id = token(&store, 10_000);
    let book = Arc::new(Book::new(Arc::clone(&store)));
    let taken: Vec<u64> = (0..8)
        .map(|number| {
            let (book, id) = (Arc::clone(&book), id.clone());
            thread::spawn(move || {
                book.enter(&id, NOON);
                let mut mine = 0;
                loop {
                    match book.take(&id, 90 + number, 4_000, NOON) {
                        Ok(lines) => mine += lines,
                        Err(refused) => {
                            assert_eq!(refused, Refused::Quota { wait: DAY / 2 });
                            book.leave(&id);
                            return mine;
                        }
                    }
                }
            })
        })
        .collect::<Vec<_>>()
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    assert_eq!(taken.iter().sum::<u64>(), 10_000, "{taken:?}");
    assert_eq!(used(&book, &id, NOON), 10_000);
}

#[test]
fn what_is_not_used_is_given_back_and_what_is_used_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let store = Arc::new(create(&config));
    let id = token(&store, 10_000);
    let book = Book::new(Arc::clone(&store));
    book.enter(&id, NOON);
    assert_eq!(book.take(&id, 100, 4_000, NOON), Ok(100));
    assert_eq!(
        used(&book, &id, NOON),
        100,
        "what is kept ready is not used"
    );
    // As after a kill: another book on what is on disk.
    book.write_down();
    drop(store.commit(jiexi::store::Batch::default()));
    let after_kill = Book::new(Arc::clone(&store));
    let seen = used(&after_kill, &id, NOON);
    assert!((100..=4_100).contains(&seen), "none is given twice: {seen}");
    book.leave(&id);
    book.write_down();
    drop(book);
    drop(after_kill);
    Arc::into_inner(store).unwrap().shutdown().unwrap();
    let store = Arc::new(open(&config));
    let book = Book::new(Arc::clone(&store));
    assert_eq!(used(&book, &id, NOON), 100);
}

#[test]
fn a_batch_over_midnight_uses_both_days() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(create(&config(dir.path())));
    let id = token(&store, 1_000);
    let book = Book::new(store);
    let evening = NOON / DAY * DAY + DAY - 1;
    book.enter(&id, evening);
    assert_eq!(book.take(&id, 900, 1_000, evening), Ok(900));
    let morning = evening + 1;
    assert_eq!(book.take(&id, 600, 1_000, morning), Ok(600));
    // A batch that read its clock a moment before.
    assert_eq!(book.take(&id, 600, 1_000, evening), Ok(400));
    assert_eq!(used(&book, &id, morning), 1_000);
    let refused = book.take(&id, 1, 1_000, morning);
    assert_eq!(refused, Err(Refused::Quota { wait: DAY }));
    book.leave(&id);
}

/// Goal: what many ask one by one at once is used up exactly, and whatever moment a kill comes at, what was counted by then
/// is on disk. Method: threads that count, one that writes down what is not used, and one that reads as after a kill.
#[test]
fn one_by_one_by_many_at_once() {
    const QUOTA: u64 = 3_000;
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(create(&config(dir.path())));
    let id = token(&store, QUOTA);
    let book = Book::new(Arc::clone(&store));
    let grant = book.grant_of(&id, NOON).unwrap();
    let (counted, at_work) = (AtomicU64::new(0), AtomicUsize::new(8));
    let one = || match book.count_at_once(&grant, NOON)? {
        true => Ok(()),
        false => book.count(&id, NOON),
    };
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    match one() {
                        Ok(()) => counted.fetch_add(1, SeqCst),
                        Err(refused) => {
                            assert_eq!(refused, Refused::Quota { wait: DAY / 2 });
                            at_work.fetch_sub(1, SeqCst);
                            return;
                        }
                    };
                }
            });
        }
        scope.spawn(|| {
            while at_work.load(SeqCst) > 0 {
                book.write_down();
                thread::sleep(Duration::from_millis(1));
            }
        });
        while at_work.load(SeqCst) > 0 {
            let before = counted.load(SeqCst);
            let after_kill = used(&Book::new(Arc::clone(&store)), &id, NOON);
            assert!(after_kill >= before, "{after_kill} of {before}");
        }
    });
    assert_eq!(counted.load(SeqCst), QUOTA);
    assert_eq!(used(&book, &id, NOON), QUOTA);
}
