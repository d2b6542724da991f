//! How the figures went over the last hours: a point every half minute, each from two scrapes, in a ring.

use std::collections::VecDeque;
use std::time::Duration;

use crate::probe::Scrape;

/// Time between two points.
pub(super) const EVERY: Duration = Duration::from_secs(30);
/// Points that are kept: six hours.
pub(super) const POINTS: usize = 720;

/// Quantiles of the time to an answer.
pub(super) const QUANTILES: [f64; 3] = [0.5, 0.99, 0.999];
/// The protocols, as they are labelled.
pub(super) const PROTOCOLS: [&str; 3] = ["handle", "http", "dns"];
/// What an answer is counted under that says that nothing is there.
const MISSES: [&str; 2] = ["not_found", "values_not_found"];
/// What an answer is counted under that refuses, for what it asks or for how much.
const REFUSALS: [&str; 3] = ["denied", "invalid", "limited"];
/// What an answer is counted under that is a fault of the node, or of how much all together ask of it.
const FAULTS: [&str; 2] = ["busy", "error"];
/// What an answer is counted under that is one too many.
const SHED: [&str; 2] = ["busy", "limited"];

/// What a question about a handle at home elsewhere is counted under that its home did not answer.
const NOT_FORWARDED: [&str; 3] = ["failed", "stale", "loop"];

/// What was the case at a time. What is not known is `NaN`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Point {
    /// Unix seconds.
    pub(super) time: u32,
    /// Requests a second, of each of [`PROTOCOLS`].
    pub(super) requests: [f64; PROTOCOLS.len()],
    /// Answers a second that say that nothing is there.
    pub(super) misses: f64,
    /// Answers a second that refuse.
    pub(super) refusals: f64,
    /// Requests a second that were not served for a fault of the node or for too many of them, dropped ones included.
    pub(super) faults: f64,
    /// Requests a second that were answered, or lost for such a fault: what faults are a part of.
    pub(super) asked: f64,
    /// Requests a second of which there were too many: of a client, or of all.
    pub(super) shed: f64,
    /// Datagrams a second that the kernel dropped.
    pub(super) kernel_drops: f64,
    /// Wrong proofs of identity a second.
    pub(super) wrong_proofs: f64,
    /// Octets free on the disk of the store.
    pub(super) disk_free: f64,
    /// Seconds to an answer, at each of [`QUANTILES`].
    pub(super) latency: [f64; QUANTILES.len()],
    /// Changes committed a second.
    pub(super) changes: f64,
    /// Seconds of a sync of the journal, at 99 %.
    pub(super) sync: f64,
    /// Errors of the store since the point before.
    pub(super) store_errors: f64,
    /// Changes that failed for a fault of the node since then.
    pub(super) changes_failed: f64,
    /// Entries that the log of resolutions lost since then.
    pub(super) history_lost: f64,
    /// Questions a second about handles at home elsewhere whose home had to be asked, or could not be …
    pub(super) forwarded: f64,
    /// … and those of them that got no answer from there.
    pub(super) not_forwarded: f64,
    /// Octets of memory.
    pub(super) memory: f64,
}

/// Counters of one scrape.
#[derive(Debug)]
struct Totals {
    time: u32,
    requests: [f64; PROTOCOLS.len()],
    misses: f64,
    refusals: f64,
    faults: f64,
    asked: f64,
    shed: f64,
    kernel_drops: f64,
    wrong_proofs: f64,
    changes: f64,
    store_errors: f64,
    changes_failed: f64,
    history_lost: f64,
    forwarded: f64,
    not_forwarded: f64,
    latency: Vec<(f64, f64)>,
    sync: Vec<(f64, f64)>,
}

impl Totals {
    fn read(time: u32, scrape: &Scrape) -> Self {
        let responses = |outcomes: &[&str]| {
            let of = |outcome: &&str| scrape.sum("jiexi_responses_total", &[("outcome", *outcome)]);
            outcomes.iter().map(of).sum::<f64>()
        };
        let kernel_drops = scrape.sum("jiexi_udp_kernel_drops_total", &[]);
        let dropped = scrape.sum("jiexi_dropped_total", &[("reason", "overload")]) + kernel_drops;
        let forwarded = |results: &[&str]| {
            let of = |result: &&str| scrape.sum("jiexi_forwarded_total", &[("result", *result)]);
            results.iter().map(of).sum::<f64>()
        };
        let not_forwarded = forwarded(&NOT_FORWARDED);
        let limited = scrape.sum("jiexi_dropped_total", &[("reason", "rate_limited")]);
        Self {
            time,
            requests: PROTOCOLS
                .map(|protocol| scrape.sum("jiexi_requests_total", &[("protocol", protocol)])),
            misses: responses(&MISSES),
            refusals: responses(&REFUSALS) + limited,
            faults: responses(&FAULTS) + dropped,
            asked: scrape.sum("jiexi_responses_total", &[]) + dropped,
            shed: responses(&SHED) + limited + dropped,
            kernel_drops,
            wrong_proofs: scrape.sum("jiexi_authentications_total", &[("result", "refused")]),
            changes: scrape.sum("jiexi_changes_total", &[("result", "committed")]),
            store_errors: scrape.sum("jiexi_store_errors_total", &[]),
            changes_failed: scrape.sum("jiexi_changes_total", &[("result", "failed")]),
            history_lost: scrape.sum("jiexi_history_lost_total", &[]),
            forwarded: forwarded(&["answered"]) + not_forwarded,
            not_forwarded,
            latency: scrape.buckets("jiexi_request_duration_seconds"),
            sync: scrape.buckets("jiexi_journal_sync_duration_seconds"),
        }
    }
}

/// The last hours.
#[derive(Debug, Default)]
pub(super) struct Course {
    last: Option<Totals>,
    points: VecDeque<Point>,
}

impl Course {
    /// Adds what a scrape says about the time since the one before. The first one is only a beginning.
    pub(super) fn take(&mut self, time: u32, scrape: &Scrape) {
        let now = Totals::read(time, scrape);
        let before = self.last.take();
        if let Some(before) = before.filter(|before| before.time < time) {
            if self.points.len() == POINTS {
                self.points.pop_front();
            }
            self.points.push_back(point(&before, &now, scrape));
        }
        self.last = Some(now);
    }

    /// The points, oldest first.
    pub(super) fn points(&self) -> &VecDeque<Point> {
        &self.points
    }
}

fn point(before: &Totals, now: &Totals, scrape: &Scrape) -> Point {
    let seconds = f64::from(now.time - before.time);
    let rate = |read: fn(&Totals) -> f64| (read(now) - read(before)) / seconds;
    let mut requests = now.requests;
    for (now, before) in requests.iter_mut().zip(before.requests) {
        *now = (*now - before) / seconds;
    }
    Point {
        time: now.time,
        requests,
        misses: rate(|totals| totals.misses),
        refusals: rate(|totals| totals.refusals),
        faults: rate(|totals| totals.faults),
        asked: rate(|totals| totals.asked),
        shed: rate(|totals| totals.shed),
        kernel_drops: rate(|totals| totals.kernel_drops),
        wrong_proofs: rate(|totals| totals.wrong_proofs),
        disk_free: scrape.sum("jiexi_disk_free_bytes", &[]),
        latency: QUANTILES.map(|part| quantile(&before.latency, &now.latency, part)),
        changes: rate(|totals| totals.changes),
        sync: quantile(&before.sync, &now.sync, 0.99),
        store_errors: now.store_errors - before.store_errors,
        changes_failed: now.changes_failed - before.changes_failed,
        history_lost: now.history_lost - before.history_lost,
        forwarded: rate(|totals| totals.forwarded),
        not_forwarded: rate(|totals| totals.not_forwarded),
        memory: scrape.sum("process_resident_memory_bytes", &[]),
    }
}

/// A quantile of what was observed between two readings of a histogram's cumulative buckets, as `histogram_quantile` of
/// Prometheus finds it: in the bucket evenly. `NaN` when nothing was observed; beyond the last bound, that bound.
fn quantile(before: &[(f64, f64)], now: &[(f64, f64)], part: f64) -> f64 {
    let counts: Vec<(f64, f64)> = now
        .iter()
        .enumerate()
        .map(|(at, (bound, count))| {
            let known = before.get(at).filter(|(same, _)| same == bound);
            (*bound, count - known.map_or(0.0, |(_, count)| *count))
        })
        .collect();
    let all = counts.last().map_or(0.0, |(_, count)| *count);
    if all <= 0.0 {
        return f64::NAN;
    }
    let wanted = all * part;
    let (mut low, mut below) = (0.0, 0.0);
    for (bound, count) in counts {
        if count >= wanted {
            if bound.is_infinite() {
                return low;
            }
            let within = if count > below {
                (wanted - below) / (count - below)
            } else {
                1.0
            };
            return low + (bound - low) * within;
        }
        (low, below) = (bound, count);
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(requests: u32, quick: u32, all: u32, dropped: u32) -> Scrape {
        Scrape::read(&format!(
            "jiexi_requests_total{{op=\"resolve\",protocol=\"handle\",transport=\"udp\"}} {requests}\n\
             jiexi_responses_total{{outcome=\"not_found\",protocol=\"handle\",transport=\"udp\"}} {requests}\n\
             jiexi_responses_total{{outcome=\"limited\",protocol=\"http\",transport=\"tls\"}} {requests}\n\
             jiexi_dropped_total{{protocol=\"handle\",reason=\"overload\",transport=\"udp\"}} {dropped}\n\
             jiexi_request_duration_seconds_bucket{{protocol=\"handle\",transport=\"udp\",le=\"0.001\"}} {quick}\n\
             jiexi_request_duration_seconds_bucket{{protocol=\"handle\",transport=\"udp\",le=\"0.01\"}} {all}\n\
             jiexi_request_duration_seconds_bucket{{protocol=\"handle\",transport=\"udp\",le=\"+Inf\"}} {all}\n"
        ))
    }

    /// Goal: rates and quantiles are those of the time between two scrapes, not since the start.
    #[test]
    fn between_two_scrapes() {
        let mut course = Course::default();
        course.take(100, &scrape(1_000, 1_000, 1_000, 5));
        assert!(course.points().is_empty());
        course.take(130, &scrape(4_000, 1_090, 1_100, 65));
        let point = &course.points()[0];
        assert_eq!((point.time, point.requests[0]), (130, 100.0));
        assert_eq!((point.misses, point.faults), (100.0, 2.0));
        // Clients that ask too fast are refused, and no fault.
        assert_eq!(point.refusals, 100.0);
        assert_eq!((point.asked, point.shed), (202.0, 102.0));
        assert!(
            (point.latency[0] - 0.001 * 50.0 / 90.0).abs() < 1e-9,
            "{point:?}"
        );
        assert!(
            (point.latency[1] - (0.001 + 0.009 * 0.9)).abs() < 1e-9,
            "{point:?}"
        );
        assert!(point.sync.is_nan());
    }

    /// Goal: no more than six hours are kept, and a clock that stands still adds nothing.
    #[test]
    fn bounded() {
        let mut course = Course::default();
        for time in 0..1_000 {
            course.take(time, &scrape(time, 0, 0, 0));
        }
        course.take(999, &scrape(999, 0, 0, 0));
        assert_eq!(course.points().len(), POINTS);
        assert_eq!(course.points()[POINTS - 1].time, 999);
    }
}
