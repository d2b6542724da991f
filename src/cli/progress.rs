//! Progress on a terminal, silence elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the bar is drawn at most, per second.
const DRAWS_PER_SECOND: u8 = 10;

/// Looks of the bars.
const RECORDS: &str = "{msg} {bar:30} {human_pos}/{human_len} records, {per_sec}, {eta} left";
const BYTES: &str = "{msg} {bar:30} {bytes}/{total_bytes}, {eta} left";
const WORKING: &str = "{msg} {spinner} {elapsed}";
const UNKNOWN: &str = "{msg} {spinner} {human_pos} records, {per_sec}";

/// A bar over a known number of records.
pub(super) fn records(what: &'static str, total: u64) -> ProgressBar {
    bar(what, Some(total), RECORDS)
}

/// A bar over a known number of bytes; the message carries the records.
pub(super) fn bytes(what: &'static str, total: u64) -> ProgressBar {
    bar(what, Some(total), BYTES)
}

/// A sign that something goes on, of which nobody knows how long it takes.
pub(super) fn working(what: &'static str) -> ProgressBar {
    let bar = bar(what, None, WORKING);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A counter of records whose total is not known.
pub(super) fn unknown(what: &'static str) -> ProgressBar {
    let bar = bar(what, None, UNKNOWN);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A bar on stderr; indicatif hides it when stderr is not a terminal.
fn bar(what: &'static str, total: Option<u64>, template: &str) -> ProgressBar {
    let bar =
        ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND));
    // A template that cannot be read falls back to the crate's own look; a test keeps ours readable.
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.with_message(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_looks_can_be_read() {
        for template in [RECORDS, BYTES, WORKING, UNKNOWN] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
