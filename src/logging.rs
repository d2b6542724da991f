//! Where log events go: an early logger before the configuration is known, then the configured one.
//!
//! One subscriber is installed once; the configuration then changes its format and filter in place. Events go to stderr,
//! so that the output of commands stays clean. Where stderr is the journal of systemd, each line begins with its priority.
//!
//! Every event from `info` upwards has an id in its field `event`, `area.name`, that stays when its words change;
//! docker/events.md lists them, and a test compares it with the source.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    env, fmt,
    io::{self, IsTerminal as _, Write as _},
    panic,
    str::FromStr,
    thread,
};

use nix::sys::stat::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer as Output},
    layer::{Layered, SubscriberExt},
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat};
use crate::notices;

/// The filter that stands before the writer.
type Filtered = Layered<reload::Layer<Targets, Registry>, Registry>;
/// The layer that writes, whatever its format.
type Writer = Box<dyn Layer<Filtered> + Send + Sync>;

/// The handles by which the early logger is replaced by the configured one.
pub struct Logging {
    /// What passes.
    filter: reload::Handle<Targets, Registry>,
    /// How it is written.
    writer: reload::Handle<Writer, Filtered>,
}

impl Logging {
    /// Installs the early logger: text, `warn`. Call once, first thing in the process.
    #[must_use]
    pub fn early() -> Self {
        let (filter_layer, filter) = reload::Layer::new(Targets::new().with_default(Level::WARN));
        let (writer_layer, writer) = reload::Layer::new(text());
        // When several tests share a process a logger may be there already; it stays.
        drop(
            tracing_subscriber::registry()
                .with(filter_layer)
                .with(writer_layer)
                .try_init(),
        );
        Self { filter, writer }
    }

    /// Switches to the configured format and filter, and to what is configured of requests that belong in the log.
    ///
    /// # Errors
    /// The filter of `log` cannot be read; the message says which part.
    pub fn configure(&self, log: &Log) -> Result<(), String> {
        let targets = parse_level(&log.level)?;
        let writer = match log.format {
            LogFormat::Text => text(),
            LogFormat::Json => json(),
        };
        self.writer
            .reload(writer)
            .map_err(|error| error.to_string())?;
        self.filter
            .reload(targets)
            .map_err(|error| error.to_string())?;
        notices::configure(log);
        Ok(())
    }
}

/// Lines of text.
fn text() -> Writer {
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match is_journal() {
        // The journal has times of its own.
        true => layer
            .with_ansi(false)
            .without_time()
            .map_event_format(Prioritised)
            .boxed(),
        false => layer.with_ansi(io::stderr().is_terminal()).boxed(),
    }
}

/// JSON objects with the fields of an event at the top.
fn json() -> Writer {
    let layer = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(io::stderr);
    match is_journal() {
        true => layer.map_event_format(Prioritised).boxed(),
        false => layer.boxed(),
    }
}

/// Whether stderr is the journal of systemd, which says so in the environment of what it starts: which may have given
/// another stderr to this program.
fn is_journal() -> bool {
    let said = env::var("JOURNAL_STREAM").unwrap_or_default();
    let Some((device, inode)) = said.split_once(':') else {
        return false;
    };
    fstat(io::stderr())
        .is_ok_and(|file| device.parse() == Ok(file.st_dev) && inode.parse() == Ok(file.st_ino))
}

/// What a line of this level begins with in the journal (sd-daemon(3)).
const fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

/// A message of a command that fails, as it is to be written to stderr.
#[must_use]
pub fn failure(text: &str) -> String {
    match is_journal() {
        true => lines(Level::ERROR, text),
        false => text.to_owned(),
    }
}

/// Has panics written as other failures are, where stderr is the journal: it shows them among the errors then.
pub fn prioritise_panics() {
    if !is_journal() {
        return;
    }
    panic::set_hook(Box::new(|told| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("<unnamed>");
        let mut text = format!("thread '{name}' {told}");
        // Where RUST_BACKTRACE asks for it.
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            text.push_str(&format!("\n{trace}"));
        }
        // That nobody reads it is no reason for another panic.
        drop(writeln!(io::stderr(), "{}", lines(Level::ERROR, &text)));
    }));
}

/// The lines of a text, each with its priority: the journal takes each for an entry.
fn lines(level: Level, text: &str) -> String {
    let lines: Vec<_> = text
        .lines()
        .map(|line| format!("{}{line}", priority(level)))
        .collect();
    lines.join("\n")
}

/// Events of another format, for the journal.
struct Prioritised<F>(F);

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut output: Output<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0
            .format_event(context, Output::new(&mut text), event)?;
        writeln!(output, "{}", lines(*event.metadata().level(), &text))
    }
}

/// Reads a level or a list such as `info,jiexi::store=debug`.
///
/// # Errors
/// Names the text and the levels there are.
pub fn parse_level(text: &str) -> Result<Targets, String> {
    let wrong = || {
        format!(
            "{text:?} is not a level (error, warn, info, debug, trace, off) or a list of target=level"
        )
    };
    // A lone word that is not a level would be read as the name of a target and silently show everything of it.
    let lone = |part: &str| {
        !part.contains('=')
            && tracing_subscriber::filter::LevelFilter::from_str(part.trim()).is_err()
    };
    if text.split(',').any(lone) {
        return Err(wrong());
    }
    Targets::from_str(text).map_err(|_| wrong())
}
