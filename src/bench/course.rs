//! The course of a run: warm-up, measured time, end; and its report.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Failure;
use super::usage::Usage;

/// Latencies are counted up to here, nanoseconds; what is longer counts as this.
const LATENCY_MAX_NS: u64 = 60_000_000_000;
/// Significant decimal digits of a latency.
const DIGITS: u8 = 3;

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Time before measuring.
    pub warm_up: Duration,
    /// Measured time.
    pub time: Duration,
    /// Ends the run sooner, after so many answers.
    pub count: u64,
    /// Requests under way at most.
    pub window: usize,
    /// Sockets or connections that share the window.
    pub sockets: usize,
    /// Requests a second; none: as fast as the window allows.
    pub rate: Option<f64>,
    /// The processes of the server, to be charged.
    pub pids: Vec<u32>,
}

/// When requests of an open loop are due.
#[derive(Debug)]
pub struct Pace {
    interval_ns: f64,
    begun: Instant,
    sent: u64,
}

impl Pace {
    /// A pace that begins now; none for a closed loop.
    #[must_use]
    pub fn new(plan: &Plan) -> Option<Self> {
        Some(Self {
            interval_ns: 1e9 / plan.rate?,
            begun: Instant::now(),
            sent: 0,
        })
    }

    /// How many requests are due and not sent.
    #[must_use]
    pub fn due(&self, now: Instant) -> usize {
        let passed = (now - self.begun).as_nanos() as f64;
        ((passed / self.interval_ns) as u64 + 1).saturating_sub(self.sent) as usize
    }

    /// The moment that the next request was due; it is sent now.
    pub fn advance(&mut self) -> Instant {
        let due = Duration::from_nanos((self.sent as f64 * self.interval_ns) as u64);
        self.sent += 1;
        self.begun + due
    }
}

/// What is counted while a run lasts.
#[derive(Debug)]
pub struct Course {
    latencies: Histogram<u64>,
    answers: u64,
    answer_octets: u64,
    missing: u64,
    /// Requests without an answer.
    pub lost: u64,
    started: Instant,
    measuring: Option<(Instant, Option<Usage>)>,
    plan: Plan,
}

impl Course {
    /// The course of a plan that begins now.
    ///
    /// # Errors
    /// No memory for the histogram.
    pub fn new(plan: &Plan) -> Result<Self, Failure> {
        let latencies = Histogram::new_with_bounds(1, LATENCY_MAX_NS, DIGITS);
        Ok(Self {
            latencies: latencies.map_err(Failure::new)?,
            answers: 0,
            answer_octets: 0,
            missing: 0,
            lost: 0,
            started: Instant::now(),
            measuring: None,
            plan: plan.clone(),
        })
    }

    /// Counts an answer.
    #[inline]
    pub fn answered(&mut self, octets: usize, miss: bool, latency: Duration) {
        self.answers += 1;
        self.answer_octets += octets as u64;
        self.missing += u64::from(miss);
        self.latencies
            .saturating_record((latency.as_nanos() as u64).max(1));
    }

    /// Called now and then: begins the measured time when the warm-up is over; true when the run is over.
    ///
    /// # Errors
    /// The server's processes are gone.
    pub fn over(&mut self, now: Instant) -> Result<bool, Failure> {
        match self.measuring {
            None if now - self.started < self.plan.warm_up => Ok(false),
            None => {
                self.latencies.reset();
                (self.answers, self.answer_octets, self.missing, self.lost) = (0, 0, 0, 0);
                self.measuring = Some((Instant::now(), self.usage()?));
                Ok(false)
            }
            Some((begun, _)) => {
                Ok(now - begun >= self.plan.time || self.answers >= self.plan.count)
            }
        }
    }

    /// Whether the measured time has begun.
    #[must_use]
    pub const fn is_measuring(&self) -> bool {
        self.measuring.is_some()
    }

    /// Adds what another course of the same run has counted.
    ///
    /// # Errors
    /// Never: both count in the same way.
    pub fn merge(&mut self, other: &Self) -> Result<(), Failure> {
        self.answers += other.answers;
        self.answer_octets += other.answer_octets;
        self.missing += other.missing;
        self.lost += other.lost;
        self.latencies.add(&other.latencies).map_err(Failure::new)
    }

    fn usage(&self) -> Result<Option<Usage>, Failure> {
        let pids = &self.plan.pids;
        (!pids.is_empty()).then(|| Usage::of(pids)).transpose()
    }

    /// The figures of the measured time, which ends now.
    ///
    /// # Errors
    /// It never began, or the server's processes are gone.
    pub fn report(self) -> Result<Report, Failure> {
        let short = || Failure::new("the run ended before its warm-up");
        let (begun, before) = self.measuring.ok_or_else(short)?;
        let seconds = begun.elapsed().as_secs_f64();
        let server = match (before, self.usage()?) {
            (Some(before), Some(after)) => {
                Some(Server::between(before, after, self.answers, seconds))
            }
            _ => None,
        };
        let answers = self.answers.max(1) as f64;
        Ok(Report {
            answers: self.answers,
            missing: self.missing,
            lost: self.lost,
            seconds: round(seconds, 3),
            requests_per_second: round(self.answers as f64 / seconds, 0),
            answer_octets_mean: round(self.answer_octets as f64 / answers, 1),
            latency_us: Latency::of(&self.latencies),
            corrected_us: self.corrected(seconds),
            server,
        })
    }

    /// Latencies corrected for coordinated omission. A closed loop asks less while the server stands still: each of its
    /// requests would have come every `window / rate`, so a longer latency stands for those that were not asked, too.
    /// An open loop needs no correction: its latencies count from when a request was due.
    fn corrected(&self, seconds: f64) -> Latency {
        if self.plan.rate.is_some() || self.answers == 0 {
            return Latency::of(&self.latencies);
        }
        let interval_ns = self.plan.window as f64 * seconds / self.answers as f64 * 1e9;
        Latency::of(&self.latencies.clone_correct(interval_ns.max(1.0) as u64))
    }
}

/// The figures of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Answers that came.
    pub answers: u64,
    /// Those that said, rightly, that there is no such name.
    pub missing: u64,
    /// Requests without an answer.
    pub lost: u64,
    /// Measured time.
    pub seconds: f64,
    /// Answers a second.
    pub requests_per_second: f64,
    /// Mean octets of an answer.
    pub answer_octets_mean: f64,
    /// From sending (or, in an open loop, from when it was due) to the answer, microseconds.
    pub latency_us: Latency,
    /// The same, corrected for coordinated omission.
    pub corrected_us: Latency,
    /// What the server used, if its process is known.
    #[serde(flatten)]
    pub server: Option<Server>,
}

/// What a server used.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Server {
    /// Processor time of a request, microseconds.
    pub cpu_us_per_request: f64,
    /// How many cores it kept busy.
    pub server_cores: f64,
    /// Its resident memory at the end, KiB.
    pub server_rss_kib: u64,
}

impl Server {
    fn between(before: Usage, after: Usage, answers: u64, seconds: f64) -> Self {
        let spent = after.nanoseconds.saturating_sub(before.nanoseconds) as f64;
        Self {
            cpu_us_per_request: round(spent / 1_000.0 / answers.max(1) as f64, 4),
            server_cores: round(spent / 1e9 / seconds, 3),
            server_rss_kib: after.resident_kib,
        }
    }
}

/// Quantiles of latency, microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Half are below.
    pub p50: f64,
    /// Nine in ten.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1000.
    #[serde(rename = "p99.9")]
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |share| round(histogram.value_at_quantile(share) as f64 / 1_000.0, 1);
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: at(1.0),
        }
    }
}

fn round(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rate: Option<f64>) -> Plan {
        Plan {
            warm_up: Duration::ZERO,
            time: Duration::from_secs(1),
            count: u64::MAX,
            window: 1,
            sockets: 1,
            rate,
            pids: Vec::new(),
        }
    }

    /// Goal: one stall in a closed loop of one request shows in the corrected quantiles and not in the others.
    /// Method: 1,000 answers of 1 ms, one of 1 s: half of two seconds was the stall.
    #[test]
    fn a_stall_is_corrected() {
        let mut course = Course::new(&plan(None)).unwrap();
        (0..1000).for_each(|_| course.answered(1, false, Duration::from_millis(1)));
        course.answered(1, false, Duration::from_secs(1));
        let (raw, corrected) = (Latency::of(&course.latencies), course.corrected(2.0));
        assert!(raw.p90 < 1_100.0, "{raw:?}");
        assert!(
            (700_000.0..900_000.0).contains(&corrected.p90),
            "{corrected:?}"
        );
        course.plan.rate = Some(1.0);
        assert!(course.corrected(2.0).p90 < 1_100.0);
    }

    /// Goal: an open loop asks as often as it should, however late it looks.
    #[test]
    fn pace() {
        let mut pace = Pace::new(&plan(Some(1_000.0))).unwrap();
        let begun = pace.begun;
        assert_eq!(pace.due(begun), 1);
        assert_eq!(pace.advance(), begun);
        assert_eq!(pace.due(begun + Duration::from_micros(500)), 0);
        assert_eq!(pace.due(begun + Duration::from_micros(10_500)), 10);
        assert_eq!(pace.advance(), begun + Duration::from_millis(1));
    }
}
