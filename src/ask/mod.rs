//! A batch asked of another node, into a file that can be gone on with.
//!
//! ```text
//! file → http (POST /api/v1/batch/resolve) or pipeline (the Handle protocol, many requests in flight) → sink → file
//! ```
//!
//! * [`Plan`]: what is asked. [`AskError`]: why there is no answer.
//! * [`http`], [`pipeline`]: the two ways. [`sink`]: the answers, and the summary held back. [`resume`]: going on.
//! * [`jobs`]: registrations and questions handed over, and what becomes of them. [`changes`]: what changes there.
//! * [`parquet`]: tables, both ways.

pub mod changes;
pub mod http;
pub mod jobs;
pub mod parquet;
pub mod pipeline;
pub mod resume;
pub mod sink;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use crate::batch::answer::Form as OutputForm;
use crate::batch::input::Form as InputForm;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

/// What is asked.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The file with the identifiers; none: standard input.
    pub input: Option<PathBuf>,
    /// Its form.
    pub form: InputForm,
    /// Its charset, as a label.
    pub charset: String,
    /// The form of the answers.
    pub output: OutputForm,
    /// Whether cells of CSV are exact.
    pub raw: bool,
    /// Types wanted.
    pub types: Vec<String>,
    /// Indexes wanted; with the types a union.
    pub indexes: Vec<u32>,
    /// Whether restricted values are wanted, too.
    pub restricted: bool,
    /// Whether handles at home elsewhere are to be asked there.
    pub recursive: bool,
    /// The last line that was answered before.
    pub after: u64,
    /// How long the server may neither take nor say anything.
    pub patience: Duration,
}

impl Plan {
    /// The input.
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        Ok(match &self.input {
            Some(path) => Box::new(File::open(path)?),
            None => Box::new(io::stdin()),
        })
    }
}

/// Why there is no answer, or not all of it.
#[derive(Debug)]
pub enum AskError {
    /// The server's address makes no sense.
    Server(String),
    /// The input cannot be read.
    Input(io::Error),
    /// The output takes no more.
    Output(io::Error),
    /// The server cannot be reached, or the connection failed.
    Connection(String),
    /// The server refuses the batch.
    Refused(String),
    /// The server takes no more now.
    Busy(String),
    /// The server does not have what is asked for.
    Missing(String),
    /// What was fetched before is not the beginning of what there is.
    Differs(&'static str),
    /// The answers end without a summary.
    Cut,
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(text) => write!(f, "the server: {text}"),
            Self::Input(error) => write!(f, "the input cannot be read: {error}"),
            Self::Output(error) => write!(f, "the output cannot be written: {error}"),
            Self::Connection(text) => write!(f, "the server: {text}"),
            Self::Refused(text) | Self::Busy(text) | Self::Missing(text) => {
                write!(f, "the server refuses: {text}")
            }
            Self::Differs(text) => f.write_str(text),
            Self::Cut => f.write_str("the answers were cut: the server or the network went away"),
        }
    }
}

impl std::error::Error for AskError {}
