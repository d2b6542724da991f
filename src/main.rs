//! The process entry: arguments in, exit code out.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// Jobs and changes make and drop a record's parts in one thread after the other.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    jiexi::cli::run()
}
