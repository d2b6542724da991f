//! How commands end. The one place that maps outcomes to exit codes.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done; for `resolve`: found |
//! | 1 | failed; a message is on stderr |
//! | 2 | the command line or an argument on it is wrong |
//! | 3 | not found: no such handle, or none of its values match |
//! | 4 | `upgrade`: another one is under way, or has succeeded meanwhile |
//! | 141 | whoever read the output has gone away (`\| head`): nothing more is said, as by other tools, whose shell reports 128 + SIGPIPE |

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

use crate::logging::failure;

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
    /// Somebody else does the same.
    Overtaken,
    /// Nobody reads the output any more.
    Unread,
}

/// Says something on stderr. That nobody reads it any more is nobody's trouble; the macro for it would panic.
pub(super) fn say(text: impl fmt::Display) {
    drop(writeln!(io::stderr(), "{text}"));
}

impl Failed {
    /// Reports a failure on stderr.
    pub fn report(message: impl fmt::Display) -> Self {
        say(failure(&format!("jiexi: {message}")));
        Self(Reason::Failure)
    }

    /// Reports a wrong command line on stderr.
    pub fn usage(message: impl fmt::Display) -> Self {
        let text = format!("jiexi: {message}\nFor more information, try '--help'.");
        say(failure(&text));
        Self(Reason::Usage)
    }

    /// Reports on stderr that somebody else does the same.
    pub fn overtaken(message: impl fmt::Display) -> Self {
        say(failure(&format!("jiexi: {message}")));
        Self(Reason::Overtaken)
    }

    /// Reports on stderr that there is no such thing.
    pub fn not_found(message: impl fmt::Display) -> Self {
        say(format_args!("jiexi: {message}"));
        Self(Reason::NotFound)
    }
}

impl Failed {
    /// Reports that output cannot be written to `name`, unless that is because nobody reads it.
    pub(super) fn output(name: impl fmt::Display, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self(Reason::Unread),
            _ => Self::report(format_args!("{name}: {error}")),
        }
    }

    /// One outcome of two failures: something not found or unread only where that is all there is to say.
    pub(super) fn and(self, other: Self) -> Self {
        match self.0 {
            Reason::NotFound | Reason::Unread => other,
            Reason::Failure | Reason::Usage | Reason::Overtaken => self,
        }
    }
}

/// Reports a command line that cannot be read; or prints what it asks for, help or the version, and ends the process.
pub(super) fn unparsed(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        error.exit();
    }
    say(failure(error.render().to_string().trim_end()));
    code(Err(Failed(Reason::Usage)))
}

/// 128 + SIGPIPE.
const UNREAD: u8 = 141;

/// The exit code of an outcome.
pub(super) fn code(outcome: Result<(), Failed>) -> ExitCode {
    ExitCode::from(match outcome {
        Ok(()) => 0,
        Err(Failed(Reason::Failure)) => 1,
        Err(Failed(Reason::Usage)) => 2,
        Err(Failed(Reason::NotFound)) => 3,
        Err(Failed(Reason::Overtaken)) => 4,
        Err(Failed(Reason::Unread)) => UNREAD,
    })
}
