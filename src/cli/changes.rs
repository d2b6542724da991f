//! `jiexi changes`: what changes on another node, one change after the other.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::remote::Remote;
use super::{Failed, exit, target};
use crate::ask::AskError;
use crate::ask::changes::{Page, poll};
use crate::ask::jobs::Desk;

/// Seconds that the node is asked to wait for changes, at most.
const WAIT: u64 = 30;
/// How long is waited before a node is asked again that could not be: at first, and at most.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

const EXAMPLES: &str = "\
Examples:
  jiexi changes follow --server https://id.example.cn:8000 --token-file token --cursor-file partner.cursor
  jiexi changes follow --once --after AAAAAAAAAAEAAAAAAAAAKgAAAAC0ovgm --token-file token

Exit codes: 0 with --once: nothing more has changed; 1 failed; 2 wrong command line; 3 what followed the cursor is no longer
known: take a new copy, the message says how and from where to follow it; 141 nobody reads the output any more.";

/// Follow what changes on another node
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Changes {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print changes as they come, a JSON object a line, for ever
    ///
    /// Every change below the token's prefixes (right "changes") comes once, in order: "put" with the public values that the
    /// record has now, or "delete". A put with "superseded" was followed by another change of the same handle. Every line has a
    /// cursor, behind which --after goes on. Without --after or a cursor file it begins with what comes from now on. A node that
    /// cannot be reached is asked again until it can.
    Follow(Follow),
}

#[derive(Debug, Args)]
struct Follow {
    /// Begin behind this cursor
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
    /// Keep the place in this file, and go on from there the next time. It is written when changes have been printed: those of
    /// the last page come again if the command is killed between the two
    #[arg(long, value_name = "FILE")]
    cursor_file: Option<PathBuf>,
    /// End when there are no more changes, instead of waiting for them
    #[arg(long)]
    once: bool,
}

impl Changes {
    pub(super) fn run(self) -> Result<(), Failed> {
        let desk = Desk {
            server: self.remote.server()?,
            patience: self.remote.timeout,
        };
        let Action::Follow(follow) = &self.action;
        follow.run(&desk)
    }
}

impl Follow {
    fn run(&self, desk: &Desk) -> Result<(), Failed> {
        let mut cursor = self.begin()?;
        // The node says something before it is taken for silent.
        let wait = match self.once {
            true => 0,
            false => WAIT.min(desk.patience.as_secs() / 2),
        };
        let (mut reached, mut pause) = (false, PAUSE);
        loop {
            let asked = target::block_on(poll(desk, cursor.as_deref(), wait))?;
            let page = match asked {
                Ok(page) => page,
                Err(error) if reached && !self.once && is_passing(&error) => {
                    exit::say(format_args!("jiexi: {error}; asking again"));
                    thread::sleep(pause);
                    pause = (pause * 2).min(PAUSE_MAX);
                    continue;
                }
                Err(error @ AskError::Missing(_)) => return Err(Failed::not_found(error)),
                Err(error) => return Err(Failed::report(error)),
            };
            (reached, pause) = (true, PAUSE);
            let began = cursor.is_none();
            self.take(&page, cursor.as_deref())?;
            cursor = Some(page.cursor);
            if self.once && !page.more && !began {
                return Ok(());
            }
        }
    }

    /// Where it begins: as the command line says, else as the file does.
    fn begin(&self) -> Result<Option<String>, Failed> {
        if self.after.is_some() {
            return Ok(self.after.clone());
        }
        let Some(path) = &self.cursor_file else {
            return Ok(None);
        };
        match fs::read_to_string(path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failed::report(format_args!(
                "--cursor-file {}: {error}",
                path.display()
            ))),
        }
    }

    /// Prints a page, and then keeps its place.
    fn take(&self, page: &Page, before: Option<&str>) -> Result<(), Failed> {
        let mut out = io::stdout().lock();
        let printed = out.write_all(&page.lines).and_then(|()| out.flush());
        printed.map_err(|error| Failed::output("cannot write the output", &error))?;
        match &self.cursor_file {
            Some(path) if before != Some(&*page.cursor) => {
                keep(path, &page.cursor).map_err(|error| {
                    Failed::report(format_args!("--cursor-file {}: {error}", path.display()))
                })
            }
            _ => Ok(()),
        }
    }
}

/// Writes a cursor: whole, or not at all.
fn keep(path: &Path, cursor: &str) -> io::Result<()> {
    let mut next = path.as_os_str().to_owned();
    next.push(".tmp");
    fs::write(&next, format!("{cursor}\n"))?;
    fs::rename(next, path)
}

/// Whether asking again may do.
fn is_passing(error: &AskError) -> bool {
    matches!(
        error,
        AskError::Connection(_) | AskError::Busy(_) | AskError::Cut
    )
}
