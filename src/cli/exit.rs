//! How commands end. The one place that maps outcomes to exit codes.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done; for `resolve`: found |
//! | 1 | failed; a message is on stderr |
//! | 2 | the command line or an argument on it is wrong |
//! | 3 | not found: no such handle, or none of its values match |

use std::{fmt, process::ExitCode};

/// A command did not succeed, and the reason has been reported already; nothing more is to be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Failed(Reason);

/// What a failed command means to a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// Something went wrong.
    Failure,
    /// The user asked for something that cannot be.
    Usage,
    /// What was looked for does not exist.
    NotFound,
}

impl Failed {
    /// Reports a failure on stderr.
    pub fn report(message: impl fmt::Display) -> Self {
        eprintln!("jiexi: {message}");
        Self(Reason::Failure)
    }

    /// Reports a wrong command line on stderr.
    pub fn usage(message: impl fmt::Display) -> Self {
        eprintln!("jiexi: {message}\nFor more information, try '--help'.");
        Self(Reason::Usage)
    }

    /// Reports on stderr that there is no such thing.
    pub fn not_found(message: impl fmt::Display) -> Self {
        eprintln!("jiexi: {message}");
        Self(Reason::NotFound)
    }
}

/// The exit code of an outcome.
pub(super) fn code(outcome: Result<(), Failed>) -> ExitCode {
    ExitCode::from(match outcome {
        Ok(()) => 0,
        Err(Failed(Reason::Failure)) => 1,
        Err(Failed(Reason::Usage)) => 2,
        Err(Failed(Reason::NotFound)) => 3,
    })
}
