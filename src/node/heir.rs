//! How a node passes from one process to another, on either side: see [`crate::handover`].

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use super::sockets::Sockets;
use super::{Node, Signals, StartError, complete_audit, failing};
use crate::config::Config;
use crate::handover::giving::{Estate, Heir};
use crate::handover::successor::{ASKS_WITHIN, ENDS_WITHIN, Order, Program, Successor, Upgrade};
use crate::handover::taking::Running;
use crate::handover::watching::Watched;
use crate::notify;
use crate::registry::Registry;
use crate::standby::boot;
use crate::store::{Role, Store, StoreError};

/// How long connections have to end when another process is the node, and systemd to hear of that one.
const DRAIN: Duration = Duration::from_secs(60);
/// How often it is looked whether the process is to stop while the index is filled.
const LOOK: Duration = Duration::from_secs(1);

/// The next one that comes: a process that is ready to take over, or an order to start one; for ever none when there are
/// none.
pub(super) async fn next<T>(coming: &mut Option<mpsc::Receiver<T>>) -> T {
    let next = match coming {
        Some(coming) => coming.recv().await,
        None => None,
    };
    match next {
        Some(next) => next,
        None => std::future::pending().await,
    }
}

/// Waits until the process that was started to take over has ended without that; for ever when there is none.
pub(super) async fn ended(
    successor: &mut Option<Successor>,
    estate: &Estate,
) -> (io::Result<ExitStatus>, Option<String>) {
    let Some(successor) = successor else {
        return std::future::pending().await;
    };
    let pid = successor.process().cast_signed();
    let status = loop {
        let told = successor.has_failed().is_some();
        tokio::select! {
            ended = successor.next() => match ended {
                Some(status) => break status,
                None => end_if_due(successor, estate),
            },
            why = estate.failed(pid), if !told => successor.has_to_end(why),
        }
    };
    // Why is known when what it was given is back.
    let why = estate.failure(pid).await;
    (status, why)
}

/// Ends a process that does not take over and does not end, or has not even asked: while it is there no other one is started.
fn end_if_due(successor: &mut Successor, estate: &Estate) {
    let pid = successor.process().cast_signed();
    let why = if let Some(why) = successor.has_failed() {
        let seconds = ENDS_WITHIN.as_secs();
        format!("{why}; it did not end within {seconds} s after that, and was killed")
    } else if estate.is_taken() {
        // This one, which may need long; or another, behind which this one waits or hangs.
        return successor.look_in(ASKS_WITHIN);
    } else {
        let seconds = ASKS_WITHIN.as_secs();
        format!("it did not ask for the node within {seconds} s, and was killed")
    };
    estate.note_failure(pid, &why);
    successor.kill();
}

/// Starts the program that is to take over, one at a time.
pub(super) fn upgrade(
    under_way: &mut Option<Successor>,
    program: Option<&Program>,
    estate: &Estate,
    order: Order,
) {
    match under_way {
        Some(successor) => order.tell(Upgrade::Another(format!(
            "an upgrade is under way already, to process {}",
            successor.process()
        ))),
        // It was started by hand.
        None if estate.is_taken() => order.tell(Upgrade::Another(
            "another process is taking over this node already".to_owned(),
        )),
        None => *under_way = Successor::start(program, order),
    }
}

// ---------------------------------------------------------------------------------------------------- giving

impl Node {
    /// Gives the node to another process. When that one is not the node after this, everything is as before.
    pub(super) async fn give(&mut self, heir: Heir) -> Option<Given> {
        let pid = heir.pid;
        if !self.http.rest().await {
            self.http.go_on();
            let why = "a job does not stop where it is: try again";
            tracing::error!(
                event = "handover.failed",
                pid,
                why,
                "hand-over: it came to nothing; this node goes on as before"
            );
            heir.refuse(why);
            return None;
        }
        let begun = Instant::now();
        let (store, registry) = (Arc::clone(&self.store), Arc::clone(&self.registry));
        let handed = spawn_blocking(move || hand(&store, &registry, heir, begun)).await;
        let (heir, why) = match handed {
            Ok(Handed::Given(heir)) => {
                let pause = begun.elapsed();
                self.store.retire();
                self.estate.give_to(pid.cast_unsigned());
                tracing::info!(
                    event = "handover.given",
                    pid,
                    sequence = self.store.sequence(),
                    pause_seconds = pause.as_secs_f64(),
                    "hand-over: another process is the node now; this one lets its connections end"
                );
                self.given = true;
                self.drain = DRAIN;
                self.server.drain_for(DRAIN);
                if let Some(dns) = &mut self.dns {
                    dns.drain_for(DRAIN);
                }
                let process = pid.cast_unsigned();
                // The other one speaks to systemd when it is let go; before it is the main process it would not be heard.
                let (watched, unreleased) = heir.part();
                let told = spawn_blocking(move || {
                    notify::main_process(process, DRAIN);
                    drop(unreleased);
                });
                return Some(Given {
                    process,
                    pause,
                    told,
                    watched: Some(watched),
                });
            }
            Ok(Handed::Kept(heir, why)) => {
                heir.refuse(&why);
                self.http.go_on();
                tracing::error!(
                    event = "handover.failed",
                    pid,
                    why,
                    "hand-over: it came to nothing; this node goes on as before"
                );
                return None;
            }
            Ok(Handed::Failed(heir, why)) => (heir, why),
            Err(_) => {
                tracing::error!(
                    event = "handover.panicked",
                    pid,
                    "hand-over: it panicked; no changes are taken: start the node anew"
                );
                return None;
            }
        };
        self.estate.note_failure(pid, &why);
        self.take_back(heir).await;
        self.http.go_on();
        tracing::error!(
            event = "handover.failed",
            pid,
            why,
            pause_seconds = begun.elapsed().as_secs_f64(),
            "hand-over: it came to nothing; this node goes on as before"
        );
        None
    }

    /// Ends a process, and has store and audit trail again, with what it wrote in them.
    async fn take_back(&self, heir: Heir) {
        let (store, registry) = (Arc::clone(&self.store), Arc::clone(&self.registry));
        let taken = spawn_blocking(move || {
            // Whatever it still does, two may not write.
            heir.end();
            if let Some(audit) = registry.audit()
                && let Err(error) = audit.take_back()
            {
                tracing::error!(event = "audit.not_taken_back", %error, "the audit trail cannot be gone on with: no changes are taken; start the node anew");
            }
            store.take_over(None)?;
            complete_audit(&registry);
            Ok::<_, StoreError>(())
        });
        if let Ok(Err(error)) = taken.await {
            tracing::error!(event = "store.not_taken_back", %error, "the store cannot be written again; start the node anew");
        }
    }
}

/// Another process is the node.
pub(super) struct Given {
    /// Its number.
    process: u32,
    /// For how long changes waited.
    pause: Duration,
    /// Ends when systemd knows: before, this process must not.
    told: JoinHandle<()>,
    watched: Option<Watched>,
}

impl Given {
    /// Waits until the other process has died, and says why this one ends for it; for ever when it lives, or was told to end.
    /// `control` is the control socket of the node.
    pub(super) fn lost(&mut self, control: PathBuf) -> impl Future<Output = StartError> + use<> {
        let (pid, watched) = (self.process, self.watched.take());
        async move {
            let how = match watched {
                Some(watched) => watched.died(&control).await,
                None => std::future::pending().await,
            };
            tracing::error!(
                event = "handover.lost",
                pid,
                how,
                "hand-over: the new process has died; this one ends at once, so that the node is started anew"
            );
            StartError(format!(
                "process {pid}, which took the node over, has died: {how}"
            ))
        }
    }

    /// Waits until systemd knows, and tells whoever asked for it.
    pub(super) async fn tell(self, successor: Option<Successor>) {
        // It has logged what went wrong.
        let _ = self.told.await;
        if let Some(successor) = successor {
            successor.done(self.process, self.pause);
        }
    }
}

/// What became of store and audit trail.
enum Handed {
    /// The other process has them, and answers; it waits to be let go.
    Given(Heir),
    /// They were not given away, and why.
    Kept(Heir, String),
    /// They were given to this process, which does not answer, and why.
    Failed(Heir, String),
}

/// Ends what is written, gives it away, and waits until the other process answers.
fn hand(store: &Store, registry: &Registry, mut heir: Heir, begun: Instant) -> Handed {
    let lock = match store.give_away() {
        Ok(lock) => lock,
        Err(error) => {
            return Handed::Kept(heir, format!("the store cannot be given away: {error}"));
        }
    };
    if let Some(audit) = registry.audit() {
        audit.give_away();
    }
    match heir.hand(lock.into(), begun) {
        Ok(()) => Handed::Given(heir),
        Err(why) => Handed::Failed(heir, why),
    }
}

// ---------------------------------------------------------------------------------------------------- taking

/// Becomes the node that runs; none when this process was told to stop before it was.
pub(super) async fn take_over(
    config: &Config,
    pause_max: Duration,
    signals: &mut Signals,
) -> Result<Option<Node>, StartError> {
    let (role, _) = Store::role_of(&config.store_dir()).map_err(failing("store"))?;
    if matches!(role, Role::Copy(_)) || role == Role::Primary && !config.follow.url.is_empty() {
        let why = "a standby is not taken over while it runs: stop it and start this one without --take-over";
        return Err(StartError(why.to_owned()));
    }
    let part = boot::begin(config, None).await.map_err(StartError)?;
    let control = config.control_socket();
    let asked = spawn_blocking(move || Running::ask(&control, pause_max)).await;
    let asked = asked.map_err(failing("hand-over"))?;
    let (running, inherited) = asked.map_err(failing("hand-over"))?;
    let taken = async {
        let sockets = Sockets::bind(config, inherited).await?;
        let control = sockets.inherits_control();
        let store = Store::open_beside(config.store_config()).map_err(failing("store"))?;
        let store = Arc::new(store);
        tracing::info!(
            event = "handover.filling",
            "hand-over: the index is filled beside the running node"
        );
        if !fill(&store, signals).await? {
            return Ok(None);
        }
        let granted = Arc::clone(&store);
        let lock = tokio::task::block_in_place(|| running.store());
        let lock = lock.map_err(failing("hand-over"))?;
        let begun = Instant::now();
        let settled = spawn_blocking(move || granted.take_over(Some(lock))).await;
        settled
            .map_err(failing("store"))?
            .map_err(failing("store"))?;
        let mut node = Node::begin(config, part, sockets, store)?;
        running.answering(control);
        node.estate.control_given().store(false, Relaxed);
        node.http.begin_jobs();
        tracing::info!(
            event = "handover.taken",
            sequence = node.store.sequence(),
            seconds = begun.elapsed().as_secs_f64(),
            "hand-over: this process is the node now"
        );
        Ok(Some(node))
    };
    let taken: Result<_, StartError> = taken.await;
    match &taken {
        Ok(Some(_)) => drop(spawn_blocking(move || {
            running.wait_let_go();
            notify::ready(super::SERVES);
        })),
        Ok(None) => {}
        Err(error) => running.fail(&error.to_string()),
    }
    taken
}

/// Waits until the index is filled; false when the process was told to stop before.
async fn fill(store: &Arc<Store>, signals: &mut Signals) -> Result<bool, StartError> {
    loop {
        let filling = Arc::clone(store);
        let mut filled = spawn_blocking(move || filling.wait_filled(LOOK));
        tokio::select! {
            filled = &mut filled => {
                if filled.map_err(failing("store"))?.map_err(failing("store"))? {
                    return Ok(true);
                }
            }
            signal = signals.wait_stop() => {
                tracing::info!(event = "handover.stopped", signal, "stopped before the node was taken over");
                return Ok(false);
            }
        }
    }
}
