//! The process entry: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    jiexi::cli::run()
}
