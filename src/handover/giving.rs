//! The old process: it offers its sockets, and waits for one that is ready to take the store.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::{mpsc, watch};

use super::successor::{Order, Upgrade};
use super::watching::Watched;
use super::{FILL_MAX, Message, PATIENCE, VERSION, wire};
use crate::store::Store;

/// How often it is said that a process that was killed has not ended, seconds.
const TELL: i64 = 5;
/// How the longest pause is parted: within this part of it the new process answers, the rest is for taking the store back.
const ANSWER_PERCENT: u32 = 75;

/// What a node gives away, and who waits for it.
#[derive(Debug)]
pub struct Estate {
    /// Everything that is listened on; none when the node stops.
    sockets: Mutex<Vec<OwnedFd>>,
    heirs: mpsc::Sender<Heir>,
    orders: mpsc::Sender<Order>,
    /// Somebody is being served.
    taken: watch::Sender<bool>,
    /// Why the last one that was served did not take over, and its process.
    failure: watch::Sender<Option<(i32, String)>>,
    /// The process that is the node now.
    given: OnceLock<u32>,
    /// Whether the control socket stays when this process ends.
    control_given: Arc<AtomicBool>,
    /// Why nothing is given away.
    refusal: Option<&'static str>,
}

/// What the new process asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Its version of what is said here.
    pub version: u32,
    /// How long changes may wait.
    pub pause_max: Duration,
}

/// A process that is ready to take the store. When this is dropped it is told that it gets nothing.
#[derive(Debug)]
pub struct Heir {
    stream: UnixStream,
    process: OwnedFd,
    /// Of the process, for people.
    pub pid: i32,
    pause_max: Duration,
    /// The files of the store stay while this is held.
    held: Option<Sender<()>>,
    busy: Busy,
}

impl Estate {
    /// Those who are ready, and those who want one to be started, come to the receivers.
    #[must_use]
    pub fn new(
        refusal: Option<&'static str>,
    ) -> (Self, mpsc::Receiver<Heir>, mpsc::Receiver<Order>) {
        let (heirs, ready) = mpsc::channel(1);
        let (orders, ordered) = mpsc::channel(1);
        let estate = Self {
            sockets: Mutex::default(),
            heirs,
            orders,
            taken: watch::Sender::new(false),
            failure: watch::Sender::new(None),
            given: OnceLock::new(),
            control_given: Arc::default(),
            refusal,
        };
        (estate, ready, ordered)
    }

    /// Has the node start the program that is to take over, and waits for what comes of it.
    pub async fn upgrade(&self, pause_max: Duration) -> Upgrade {
        if let Some(refusal) = self.refusal {
            return Upgrade::Refused(refusal.to_owned());
        }
        let (order, outcome) = Order::new(pause_max);
        let unheard = || match self.given.get() {
            Some(_) => Upgrade::Another(self.ends()),
            None => Upgrade::Failed(self.ends()),
        };
        match self.orders.send(order).await {
            Ok(()) => outcome.await.unwrap_or_else(|_| unheard()),
            Err(_) => unheard(),
        }
    }

    /// Notes which process is the node now.
    pub fn give_to(&self, process: u32) {
        // There is only ever one.
        let _ = self.given.set(process);
    }

    /// Why nobody is served any more, for people.
    fn ends(&self) -> String {
        match self.given.get() {
            Some(process) => format!("process {process} took the node over meanwhile"),
            None => "the node stops".to_owned(),
        }
    }

    /// Remembers why a process does not take over.
    pub fn note_failure(&self, pid: i32, why: &str) {
        self.failure.send_replace(Some((pid, why.to_owned())));
    }

    /// Waits until it is known of a process that it does not take over; why.
    pub async fn failed(&self, pid: i32) -> String {
        let mut failure = self.failure.subscribe();
        let known = failure.wait_for(|failure| is_of(failure, pid)).await;
        // The sender is here.
        let known = known.ok().and_then(|failure| failure.clone());
        known.map(|(_, why)| why).unwrap_or_default()
    }

    /// Why a process that has ended did not take over, as far as it, or this one, could say. Waits until nobody is served.
    pub async fn failure(&self, pid: i32) -> Option<String> {
        let mut taken = self.taken.subscribe();
        // The sender is here.
        let _ = taken.wait_for(|taken| !taken).await;
        // The next process of this number has not failed.
        let mut found = None;
        self.failure.send_if_modified(|failure| {
            if is_of(failure, pid) {
                found = failure.take();
            }
            found.is_some()
        });
        found.map(|(_, why)| why)
    }

    /// Whether a process that asked to take over is being served.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        *self.taken.borrow()
    }

    /// Adds sockets.
    pub fn add(&self, sockets: impl IntoIterator<Item = OwnedFd>) {
        self.lock().extend(sockets);
    }

    /// Closes all of them here: nothing is given away any more.
    pub fn close(&self) {
        self.lock().clear();
    }

    /// Set while the file of the control socket is another process's.
    #[must_use]
    pub fn control_given(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.control_given)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<OwnedFd>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves one that asks, on a thread of its own, until it is ready and the node knows of it. `pid` is that of its process.
    pub fn offer(
        self: &Arc<Self>,
        stream: UnixStream,
        pid: Option<i32>,
        terms: Terms,
        store: &Store,
    ) {
        // Noted before anybody can see that it has ended.
        let noted = |why: String| {
            self.note_failure(pid.unwrap_or_default(), &why);
            why
        };
        let begun = self.begin(pid, terms).map_err(noted);
        let offered = begun.and_then(|(busy, process)| {
            tracing::info!(
                event = "handover.begun",
                pid,
                "hand-over: another process gets the sockets of this one"
            );
            let files = store.hold_files();
            let said = self.converse(&stream);
            said.map_err(|error| noted(wire::explain(&error, "the new process")))?;
            Ok((busy, process, files))
        });
        let (busy, process, files) = match offered {
            Ok(offered) => offered,
            Err(why) => {
                tracing::error!(
                    event = "handover.failed",
                    pid,
                    why,
                    "hand-over: it came to nothing; this node goes on as before"
                );
                return wire::fail(&stream, &why);
            }
        };
        let (held, done) = channel();
        let heir = Heir {
            stream,
            process,
            pid: pid.unwrap_or_default(),
            pause_max: terms.pause_max,
            held: Some(held),
            busy,
        };
        match self.heirs.blocking_send(heir) {
            Ok(()) => drop(done.recv()),
            Err(unheard) => unheard.0.refuse(&self.ends()),
        }
        drop(files);
    }

    /// Whether this one may take over; its process, and that nobody else may meanwhile.
    fn begin(self: &Arc<Self>, pid: Option<i32>, terms: Terms) -> Result<(Busy, OwnedFd), String> {
        if terms.version != VERSION {
            return Err(format!(
                "the running node hands over by version {VERSION}, and version {} was asked for: stop it and start the new one",
                terms.version
            ));
        }
        if let Some(refusal) = self.refusal {
            return Err(refusal.to_owned());
        }
        let process = pid.and_then(Pid::from_raw).ok_or_else(|| {
            "the process that takes over must run as the same user, on the same machine".to_owned()
        })?;
        let process = pidfd_open(process, PidfdFlags::empty())
            .map_err(|error| format!("the process that asks cannot be watched: {error}"))?;
        let free = |taken: &mut bool| !std::mem::replace(taken, true);
        match self.taken.send_if_modified(free) {
            true => Ok((Busy(Arc::clone(self)), process)),
            false => Err("another process is taking over this node already".to_owned()),
        }
    }

    /// Gives the sockets and waits until the index is filled.
    fn converse(&self, stream: &UnixStream) -> io::Result<()> {
        stream.set_write_timeout(Some(PATIENCE))?;
        let sockets = self.lock();
        let count = sockets.len();
        if count == 0 {
            return Err(io::Error::other(self.ends()));
        }
        for socket in sockets.iter() {
            wire::send(stream, &Message::Socket, Some(socket.as_fd()))?;
        }
        drop(sockets);
        wire::send(stream, &Message::Sockets { count }, None)?;
        stream.set_read_timeout(Some(FILL_MAX))?;
        match wire::receive(stream)? {
            (Message::Filled, _) => Ok(()),
            _ => Err(io::Error::other("a message that has no place here")),
        }
    }
}

/// A process that is the node now waits until this is dropped: then it speaks for the node.
#[derive(Debug)]
pub struct Unreleased {
    _stream: UnixStream,
    _busy: Busy,
}

/// Whether it is that process which does not take over.
fn is_of(failure: &Option<(i32, String)>, pid: i32) -> bool {
    failure.as_ref().is_some_and(|(of, _)| *of == pid)
}

/// Somebody is being served, until this is dropped.
#[derive(Debug)]
struct Busy(Arc<Estate>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.taken.send_replace(false);
    }
}

impl Heir {
    /// Gives it the store, whose lock is `lock`, and waits until it answers. Changes wait since `begun`.
    ///
    /// # Errors
    /// Why it does not answer, for people.
    pub fn hand(&mut self, lock: OwnedFd, begun: Instant) -> Result<(), String> {
        self.held = None;
        let failed = |error: io::Error| wire::explain(&error, "the new process");
        wire::send(&self.stream, &Message::Store, Some(lock.as_fd())).map_err(failed)?;
        drop(lock);
        let due = begun + self.pause_max / 100 * ANSWER_PERCENT;
        let left = due.saturating_duration_since(Instant::now());
        // Of no time at all the system would make for ever.
        let left = left.max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).map_err(failed)?;
        match wire::receive(&self.stream).map_err(failed)? {
            (Message::Answering { control }, _) => {
                self.busy.0.control_given.store(control, Relaxed);
                Ok(())
            }
            _ => Err("the new process said what has no place here".to_owned()),
        }
    }

    /// Ends the process, which had the store: when this returns it writes nothing any more. Waits for that.
    pub fn end(self) {
        if let Err(error) = pidfd_send_signal(&self.process, Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            tracing::error!(event = "handover.not_killed", pid = self.pid, %error, "hand-over: the new process cannot be killed: end it by hand");
        }
        let patience = Timespec {
            tv_sec: TELL,
            tv_nsec: 0,
        };
        // Its descriptor becomes readable when it has ended.
        while !matches!(
            poll(
                &mut [PollFd::new(&self.process, PollFlags::IN)],
                Some(&patience)
            ),
            Ok(1..)
        ) {
            tracing::error!(
                event = "handover.not_ended",
                pid = self.pid,
                "hand-over: the new process was killed and has not ended; changes wait"
            );
        }
    }

    /// It is the node: what is left to do is to see how it ends, and to let it go, which dropping the other part does.
    #[must_use]
    pub fn part(self) -> (Watched, Unreleased) {
        (
            Watched::new(self.process),
            Unreleased {
                _stream: self.stream,
                _busy: self.busy,
            },
        )
    }

    /// Tells it that it gets nothing.
    pub fn refuse(self, why: &str) {
        self.busy.0.note_failure(self.pid, why);
        wire::fail(&self.stream, why);
    }
}
