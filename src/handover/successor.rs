//! An upgrade in place: the running process starts the program as its file is by now, and is taken over by it.
//!
//! The new process is a child of the old one. So it is where that one was: under the same user, limits and environment, in
//! the same cgroup, which is what systemd asks of a process that is to be the main one of a unit.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

use crate::notify;

/// The options of `serve` that are the upgrade's.
const TAKE_OVER: &str = "--take-over";
const PAUSE_MAX: &str = "--pause-max";
/// A new process has asked for the node within this time: it reads its configuration before, and no records.
pub const ASKS_WITHIN: Duration = Duration::from_secs(60);
/// One that does not take over ends by itself within this time: what it has read of the store takes a moment to go.
pub const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// How this process was started, to do that again.
#[derive(Clone, Debug)]
pub struct Program {
    named: Named,
    arguments: Vec<OsString>,
}

/// What the program was started by: what is behind that may be another file by then.
#[derive(Clone, Debug)]
enum Named {
    /// A path, through links, which an upgrade may set anew.
    Path(PathBuf),
    /// A name that was found in `PATH`; and where its file was then.
    InPath(OsString, PathBuf),
}

impl Named {
    /// How this process was started, by its first argument.
    fn of(name: OsString) -> io::Result<Self> {
        let own = env::current_exe();
        if name.as_encoded_bytes().contains(&b'/') {
            let path = std::path::absolute(name)?;
            return Ok(Self::Path(match own {
                // Whoever starts a program may name it as they like.
                Ok(own) if !path.exists() && own.exists() => own,
                _ => path,
            }));
        }
        let own = own?;
        match find_in_path(&name) {
            Some(found) if is_own(&found) => Ok(Self::InPath(name, own)),
            _ => Ok(Self::Path(own)),
        }
    }

    /// The file to be started.
    fn path(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.clone(),
            Self::InPath(name, file) => find_in_path(name).unwrap_or_else(|| file.clone()),
        }
    }
}

/// The first program of that name in the directories of `PATH`, as a shell finds it.
fn find_in_path(name: &OsStr) -> Option<PathBuf> {
    let directories = env::var_os("PATH")?;
    let is_program = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0)
    };
    env::split_paths(&directories)
        // An empty one is where this process is.
        .filter_map(|directory| std::path::absolute(directory.join(name)).ok())
        .find(is_program)
}

/// Whether a file is the one that this process runs.
fn is_own(path: &Path) -> bool {
    let same = || -> io::Result<bool> {
        let (found, own) = (fs::metadata(path)?, fs::metadata("/proc/self/exe")?);
        Ok((found.dev(), found.ino()) == (own.dev(), own.ino()))
    };
    same().unwrap_or(false)
}

impl Program {
    /// That of this process; to be asked for before its file is replaced.
    ///
    /// # Errors
    /// The system does not say where the program is.
    pub fn current() -> io::Result<Self> {
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_default();
        Ok(Self {
            named: Named::of(name)?,
            arguments: without_take_over(arguments),
        })
    }

    fn start(&self, path: &Path, pause_max: Duration) -> io::Result<Child> {
        let mut command = Command::new(path);
        command.args(&self.arguments).arg(TAKE_OVER);
        command
            .arg(PAUSE_MAX)
            .arg(format!("{}ms", pause_max.as_millis()));
        command.stdin(Stdio::null()).spawn()
    }
}

/// This process may have taken over another one.
fn without_take_over(mut arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    while let Some(argument) = arguments.next() {
        if argument == OsStr::new(PAUSE_MAX) {
            // With its value.
            arguments.next();
        } else if argument != OsStr::new(TAKE_OVER)
            && !argument
                .to_string_lossy()
                .starts_with(&format!("{PAUSE_MAX}="))
        {
            kept.push(argument);
        }
    }
    kept
}

/// What came of an upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// This process is the node now.
    Done {
        /// Its number.
        process: u32,
        /// For how long changes waited.
        pause: Duration,
    },
    /// It was tried; the node goes on as before; why, for people.
    Failed(String),
    /// It was not tried: another one is under way, or has succeeded meanwhile; which, for people.
    Another(String),
    /// Here is no such thing, and why, for people: the node has to be started anew.
    Refused(String),
}

/// Somebody wants an upgrade.
#[derive(Debug)]
pub struct Order {
    pause_max: Duration,
    told: oneshot::Sender<Upgrade>,
}

impl Order {
    /// What comes of it comes to the receiver.
    pub(super) fn new(pause_max: Duration) -> (Self, oneshot::Receiver<Upgrade>) {
        let (told, outcome) = oneshot::channel();
        (Self { pause_max, told }, outcome)
    }

    /// Tells what came of it; whoever asked may be gone.
    pub fn tell(self, outcome: Upgrade) {
        drop(self.told.send(outcome));
    }
}

/// The new process, which may take over.
#[derive(Debug)]
pub struct Successor {
    child: Child,
    /// Comes when a child ends.
    ends: Signal,
    /// When it is looked next whether it is to be ended; none once it was.
    look_at: Option<Instant>,
    /// Why it does not take over, if that is known: it has to end.
    failed: Option<String>,
    order: Order,
    shown: String,
}

impl Successor {
    /// Starts it; none when whoever asked was told why not. Must be called on a runtime.
    #[must_use]
    pub fn start(program: Option<&Program>, order: Order) -> Option<Self> {
        if let Some(refusal) = refusal() {
            order.tell(Upgrade::Refused(refusal.to_owned()));
            return None;
        }
        let Some(program) = program else {
            let why = "this node does not know how it was started: stop it and start the new one";
            order.tell(Upgrade::Refused(why.to_owned()));
            return None;
        };
        let path = program.named.path();
        let shown = path.display().to_string();
        match begin(program, &path, order.pause_max) {
            Ok((child, ends)) => {
                tracing::info!(
                    event = "upgrade.begun",
                    program = shown,
                    pid = child.id(),
                    "upgrade: it is started"
                );
                Some(Self {
                    child,
                    ends,
                    look_at: Some(Instant::now() + ASKS_WITHIN),
                    failed: None,
                    order,
                    shown,
                })
            }
            Err(error) => {
                let why = format!("{shown} cannot be started: {error}");
                tracing::error!(
                    event = "upgrade.failed",
                    why,
                    "upgrade: it came to nothing; this node goes on"
                );
                order.tell(Upgrade::Failed(why));
                None
            }
        }
    }

    /// Its number.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended; none comes when it is to be looked whether it has to be ended. May be dropped and called
    /// again.
    pub async fn next(&mut self) -> Option<io::Result<ExitStatus>> {
        loop {
            if let Some(ended) = self.child.try_wait().transpose() {
                return Some(ended);
            }
            let look = async {
                match self.look_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.ends.recv() => continue,
                () = look => {}
            }
            self.look_at = None;
            return None;
        }
    }

    /// It is looked again after this time.
    pub fn look_in(&mut self, time: Duration) {
        self.look_at = Some(Instant::now() + time);
    }

    /// Why it does not take over, if that is known.
    #[must_use]
    pub fn has_failed(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    /// It does not take over, and has a moment to end by itself.
    pub fn has_to_end(&mut self, why: String) {
        self.failed = Some(why);
        self.look_in(ENDS_WITHIN);
    }

    /// Ends it at once; it has nothing of the node.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
    }

    /// Ends it because this node ends, and tells whoever asked for it: who waits for that would keep the node from ending.
    pub async fn abandon(mut self, why: &str) {
        self.kill();
        self.order.tell(Upgrade::Failed(why.to_owned()));
        let mut child = self.child;
        let _ = spawn_blocking(move || child.wait()).await;
    }

    /// It has ended, and has not taken over; `why` if it could say so.
    pub fn failed(self, status: io::Result<ExitStatus>, why: Option<String>) {
        let ended = match status {
            Ok(status) => format!("ended with {status}"),
            Err(error) => format!("is lost ({error})"),
        };
        let shown = &self.shown;
        let why = match why {
            // One that had the store was killed for it.
            Some(why) => format!("{shown}: {why} (it {ended})"),
            None => format!(
                "{shown} {ended} before it asked for the node; what it said is in the node's log"
            ),
        };
        tracing::error!(
            event = "upgrade.failed",
            why,
            "upgrade: it came to nothing; this node goes on"
        );
        self.order.tell(Upgrade::Failed(why));
    }

    /// The process `taken` is the node now; changes waited for so long.
    pub fn done(self, taken: u32, pause: Duration) {
        self.order.tell(match taken == self.child.id() {
            true => Upgrade::Done {
                process: taken,
                pause,
            },
            false => Upgrade::Another(format!("process {taken} took the node over meanwhile")),
        });
    }
}

/// Starts it. The signal is listened to before: it may end at once.
fn begin(program: &Program, path: &Path, pause_max: Duration) -> io::Result<(Child, Signal)> {
    let ends = signal(SignalKind::child())?;
    Ok((program.start(path, pause_max)?, ends))
}

/// Why whatever runs this process would take its end for that of the node.
fn refusal() -> Option<&'static str> {
    let own = std::process::id();
    if own == 1 {
        return Some(
            "this node is the first process of a container, which would end with it: replace the container",
        );
    }
    let of_systemd = env::var("SYSTEMD_EXEC_PID")
        .is_ok_and(|pid| pid.parse::<u32>().is_ok_and(|pid| pid == own));
    (of_systemd && !notify::is_heard()).then_some(
        "systemd does not ask this node for its main process (Type=notify in its unit, since its last start): restart it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a process that took over another one is started again as if it had not.
    #[test]
    fn options_of_the_last_upgrade_are_dropped() {
        let started = "serve --take-over --config a --pause-max 3s --pause-max=4s -d b";
        let arguments = started.split(' ').map(OsString::from);
        let kept = without_take_over(arguments).join(OsStr::new(" "));
        assert_eq!(kept, "serve --config a -d b");
    }
}
