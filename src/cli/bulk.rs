//! `jiexi import` and `jiexi export`: on a running node through its control socket, on a stopped one directly.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use clap::Args;
use indicatif::ProgressBar;
use tokio::io::AsyncRead;

use super::{
    Failed, exit, output,
    place::Place,
    progress,
    target::{self, Target},
};
use crate::{
    bulk::{
        Counts,
        export::{self, ExportError, export},
        import::{self, Event, ImportError, Known, import},
    },
    clock,
    control::{
        client::{ControlError, Node},
        command::{Command, Outcome, Progress},
    },
    identity, maintenance,
    registry::seal::Sealer,
    store::{State, Store},
};

/// How often it is looked how far the slower files are.
const FOLLOW_PAUSE: Duration = Duration::from_millis(50);

/// Import records: one JSON object a line
///
/// Lines are {"handle":…,"values":[…]}, {"handle":…,"values_hex":[…]} or {"prefix":"88.118"} (a prefix that this node is
/// to answer for). A record replaces the one stored under its handle. Works on a running node, and on a stopped one.
/// A bad line stops the import with nothing of its batch of 1,000 lines applied, and all lines before that batch. An
/// import of more than 16,000 lines is one change: it is durable and visible as a whole when it is done, and not before.
/// Lines from a pipe that pauses for a second before there are so many are applied at once, as batches of their own.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// The file, or - for standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
    /// Report bad lines and go on; the exit code is then still 1
    #[arg(long)]
    keep_going: bool,
    #[command(flatten)]
    place: Place,
}

/// Export all records: one JSON object a line
///
/// What `import` reads: an import of an export gives an equal store. Homed prefixes come first, then the records in the
/// order of their keys. Secret values (HS_SECKEY) are left out unless asked for.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The file to write (readable by its owner only; it appears when it is complete), or - for standard output
    #[arg(value_name = "FILE|-", default_value = "-")]
    file: PathBuf,
    /// Write every value in wire form, as hexadecimal
    #[arg(long)]
    hex: bool,
    /// Write secret values too
    #[arg(long)]
    with_secrets: bool,
    #[command(flatten)]
    place: Place,
}

impl Import {
    pub(super) fn run(self) -> Result<(), Failed> {
        let name = name(&self.file, "standard input");
        let bar = match fs::metadata(&self.file) {
            Ok(found) if found.is_file() => progress::bytes("importing", found.len()),
            _ => progress::unknown("importing"),
        };
        let config = self.place.load()?;
        let tell = |counts: Counts| {
            bar.finish_and_clear();
            output::print(&format!("imported {}\n", summary(&counts))).map(|()| counts)
        };
        let done = match target::find(&config)? {
            Target::Running(node) => self.through(node, &name, &bar).and_then(tell),
            Target::Stopped(store) => {
                let sealer = identity::sealer(&config.node_key()).map_err(Failed::report)?;
                let done = self.direct(&store, sealer, &name, &bar).and_then(tell);
                target::note(&config, "import", done.is_ok(), Some(store.sequence()));
                if done.is_ok() {
                    follow(&store);
                }
                target::close(&store).and(done)
            }
        };
        bar.finish_and_clear();
        let counts = done?;
        if counts.skipped > 0 {
            return Err(Failed::report(format_args!(
                "{name}: {} bad lines were skipped",
                counts.skipped
            )));
        }
        Ok(())
    }

    /// Whether the input may pause: everything but a file.
    fn is_live(&self) -> bool {
        let path = match is_standard(&self.file) {
            true => Path::new("/dev/stdin"),
            false => &self.file,
        };
        !fs::metadata(path).is_ok_and(|found| found.is_file())
    }

    /// Into the store of a stopped node.
    fn direct(
        &self,
        store: &Store,
        sealer: Option<Sealer>,
        name: &str,
        bar: &ProgressBar,
    ) -> Result<Counts, Failed> {
        let input: Box<dyn Read> = if is_standard(&self.file) {
            Box::new(io::stdin().lock())
        } else {
            Box::new(
                File::open(&self.file)
                    .map_err(|error| Failed::report(format_args!("{name}: {error}")))?,
            )
        };
        let options = import::Options {
            known: Known::Overwrite,
            dry_run: false,
            keep_going: self.keep_going,
            live: self.is_live(),
            now: clock::unix_seconds(),
            alone: false,
            sealer,
        };
        let watch = |event: Event<'_>| match event {
            Event::Progress(counts) => show(bar, &counts),
            Event::Skipped(bad) => bar
                .suspend(|| exit::say(format_args!("jiexi: {name}:{}: {}", bad.line, bad.message))),
            Event::Kept(_) => {}
        };
        import(input, store, options, &watch).map_err(|stopped| {
            bar.finish_and_clear();
            let at = if matches!(stopped.error, ImportError::Read(_) | ImportError::Internal) {
                ": "
            } else {
                ":"
            };
            Failed::report(format_args!(
                "{name}{at}{}\n{}",
                stopped.error,
                so_far(&stopped.applied)
            ))
        })
    }

    /// Into a running node.
    fn through(&self, node: Node, name: &str, bar: &ProgressBar) -> Result<Counts, Failed> {
        let command = Command::Import {
            keep_going: self.keep_going,
            live: self.is_live(),
            known: Known::Overwrite,
            dry_run: false,
        };
        let on_progress = |progress: Progress| match progress {
            Progress::Counts(counts) => show(bar, &counts),
            Progress::Skipped { line, message } => {
                bar.suspend(|| exit::say(format_args!("jiexi: {name}:{line}: {message}")))
            }
            Progress::Total(_) | Progress::Kept { .. } => {}
        };
        let outcome = target::block_on(async {
            let input: Box<dyn AsyncRead + Unpin> = if is_standard(&self.file) {
                Box::new(tokio::io::stdin())
            } else {
                Box::new(
                    tokio::fs::File::open(&self.file)
                        .await
                        .map_err(ControlError::Input)?,
                )
            };
            node.run(command, Some(input), |_| Ok(()), on_progress)
                .await
        })?;
        bar.finish_and_clear();
        match outcome {
            Ok(Outcome::Counts(counts)) => Ok(counts),
            Ok(Outcome::Report { .. } | Outcome::Told(_)) => {
                Err(Failed::report("the node answered another command"))
            }
            Err(ControlError::Failed(failure)) => {
                let place = failure
                    .line
                    .map_or_else(|| name.to_owned(), |line| format!("{name}:{line}"));
                let applied = failure.applied.unwrap_or_default();
                Err(Failed::report(format_args!(
                    "{place}: {}\n{}",
                    failure.message,
                    so_far(&applied)
                )))
            }
            Err(ControlError::Input(error)) => Err(Failed::report(format_args!("{name}: {error}"))),
            Err(error) => Err(target::explain(error)),
        }
    }
}

impl Export {
    pub(super) fn run(self) -> Result<(), Failed> {
        let name = name(&self.file, "standard output");
        let mut destination = Destination::open(&self.file)
            .map_err(|error| Failed::report(format_args!("{name}: {error}")))?;
        let bar = progress::records("exporting", 0);
        let config = self.place.load()?;
        let done = match target::find(&config)? {
            Target::Running(node) => self.through(node, &mut destination, &bar),
            Target::Stopped(store) => {
                bar.set_length(maintenance::records(&store));
                let options = export::Options {
                    hex: self.hex,
                    with_secrets: self.with_secrets,
                    sealer: identity::sealer(&config.node_key()).map_err(Failed::report)?,
                };
                let done = export(&store, &mut destination, &options, &|counts| {
                    bar.set_position(counts.records)
                });
                let done = done.map_err(|error| match error {
                    ExportError::Write(error) => {
                        Failed::output(format_args!("{name}: cannot write the export"), &error)
                    }
                    error => Failed::report(format_args!("{name}: {error}")),
                });
                target::close(&store).and(done)
            }
        };
        bar.finish_and_clear();
        let counts = done?;
        destination
            .finish()
            .map_err(|error| Failed::output(name, &error))?;
        // Standard output may be the export itself.
        exit::say(format_args!("exported {}", summary(&counts)));
        if counts.secrets_left_out > 0 {
            exit::say(format_args!(
                "{} secret values were left out; --with-secrets writes them",
                counts.secrets_left_out
            ));
        }
        Ok(())
    }

    /// From a running node.
    fn through(
        &self,
        node: Node,
        output: &mut Destination,
        bar: &ProgressBar,
    ) -> Result<Counts, Failed> {
        let command = Command::Export {
            hex: self.hex,
            with_secrets: self.with_secrets,
        };
        let on_progress = |progress: Progress| match progress {
            Progress::Total(total) => bar.set_length(total),
            Progress::Counts(counts) => bar.set_position(counts.records),
            Progress::Skipped { .. } | Progress::Kept { .. } => {}
        };
        let outcome = target::block_on(node.run(
            command,
            None::<tokio::io::Empty>,
            |data| output.write_all(data),
            on_progress,
        ))?;
        match outcome {
            Ok(Outcome::Counts(counts)) => Ok(counts),
            Ok(Outcome::Report { .. } | Outcome::Told(_)) => {
                Err(Failed::report("the node answered another command"))
            }
            Err(error) => Err(target::explain(error)),
        }
    }
}

/// Waits until the files behind the journal have what was imported, so that the next start finds nothing to do. It may be
/// interrupted: they only follow.
pub(super) fn follow(store: &Store) {
    let total = store.stats().lag_changes;
    let bar = progress::records("imported; the slower files follow", total);
    loop {
        let left = store.stats().lag_changes;
        if left == 0 || store.state() != State::Ready {
            break;
        }
        bar.set_position(total.saturating_sub(left));
        thread::sleep(FOLLOW_PAUSE);
    }
    bar.finish_and_clear();
}

/// Where an export goes. A file is written under another name first, so that it is never half there; what is no file
/// (a device, a pipe) is written to.
pub(super) enum Destination {
    Standard(BufWriter<io::Stdout>),
    Special(BufWriter<File>),
    File {
        file: BufWriter<File>,
        temporary: PathBuf,
        path: PathBuf,
    },
}

impl Destination {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if is_standard(path) {
            return Ok(Self::Standard(BufWriter::with_capacity(
                128 << 10,
                io::stdout(),
            )));
        }
        // What a link leads to is meant, not the link.
        let path = match fs::metadata(path) {
            Ok(found) if !found.is_file() => {
                let special = OpenOptions::new().write(true).open(path)?;
                return Ok(Self::Special(BufWriter::with_capacity(128 << 10, special)));
            }
            Ok(_) => path.canonicalize()?,
            Err(_) => path.to_path_buf(),
        };
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        Ok(Self::File {
            file: BufWriter::with_capacity(128 << 10, file),
            temporary,
            path,
        })
    }

    /// Everything is there: sync it and give it its name.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Standard(stdout) => stdout.flush(),
            Self::Special(special) => special.flush(),
            Self::File {
                file,
                temporary,
                path,
            } => {
                file.flush()?;
                file.get_ref().sync_all()?;
                fs::rename(&*temporary, &*path)
            }
        }
    }
}

impl Write for Destination {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Standard(stdout) => stdout.write(buf),
            Self::Special(special) => special.write(buf),
            Self::File { file, .. } => file.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Standard(stdout) => stdout.flush(),
            Self::Special(special) => special.flush(),
            Self::File { file, .. } => file.flush(),
        }
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if let Self::File { temporary, .. } = self {
            // After `finish` there is nothing under this name.
            drop(fs::remove_file(temporary));
        }
    }
}

/// Whether a path means standard input or output.
fn is_standard(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// How a file is called in messages.
fn name(path: &Path, standard: &str) -> String {
    if is_standard(path) {
        standard.to_owned()
    } else {
        path.display().to_string()
    }
}

/// Moves the bar: over bytes when the size of the input is known, else over records.
fn show(bar: &ProgressBar, counts: &Counts) {
    if bar.length().is_some() {
        bar.set_position(counts.bytes);
        let seconds = bar.elapsed().as_secs().max(1);
        bar.set_message(format!(
            "importing {} records, {}/s",
            counts.records,
            counts.records / seconds
        ));
    } else {
        bar.set_position(counts.records);
    }
}

/// What an import that stopped has left in the store.
fn so_far(applied: &Counts) -> String {
    format!("stopped; {} had been imported before", summary(applied))
}

/// Counts for people.
fn summary(counts: &Counts) -> String {
    format!(
        "{} records with {} values, {} homed prefixes",
        counts.records, counts.values, counts.prefixes
    )
}
