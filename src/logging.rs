//! Where log events go: an early logger before the configuration is known, then the configured one.
//!
//! One subscriber is installed once; the configuration then changes its format and filter in place. Events go to stderr,
//! so that the output of commands stays clean.

use std::{io, str::FromStr};

use tracing::Level;
use tracing_subscriber::{
    Layer, Registry,
    filter::Targets,
    fmt,
    layer::{Layered, SubscriberExt},
    reload,
    util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat};

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

    /// Switches to the configured format and filter.
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
            .map_err(|error| error.to_string())
    }
}

/// Lines of text.
fn text() -> Writer {
    let colour = io::IsTerminal::is_terminal(&io::stderr());
    fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(colour)
        .boxed()
}

/// JSON objects with the fields of an event at the top.
fn json() -> Writer {
    fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(io::stderr)
        .boxed()
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
