//! Batches of questions: octets in, answers out, without sockets, clocks or files. Both ends of a batch use it: the server
//! behind `POST /api/v1/batch/resolve`, and `jiexi batch`. Of registrations the server behind `POST /api/v1/jobs`.
//!
//! ```text
//! octets → coding (gzip, zstd, bounded) → charset → input (lines, NDJSON, array, CSV) → Asked → look-up → answer → octets
//! ```
//!
//! * [`coding`]: compression both ways, with bounds against bombs. [`charset`]: any text as UTF-8.
//! * [`input`]: identifiers with their lines, out of four forms. Memory does not grow with what comes.
//! * [`answer`]: records and refusals as NDJSON or CSV, and what was counted.
//! * [`rows`]: registrations with their lines, out of two forms; for jobs.

pub mod answer;
pub mod charset;
pub mod coding;
pub mod input;
pub mod rows;

/// Octets of one line, element or cell of the input; a longer one fails alone.
pub const LINE_MAX: usize = 64 << 10;
/// Columns of a row of CSV; a row with more fails alone.
pub const COLUMNS_MAX: usize = 1_000;
/// Octets that decompressed input may have whatever its ratio: small inputs may be very regular.
pub const RATIO_FREE: u64 = 1 << 20;
/// Bits of the largest window of Zstandard: 8 MiB.
pub const WINDOW_LOG_MAX: u32 = 23;
