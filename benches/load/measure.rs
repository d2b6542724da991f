//! What is counted: latencies in a histogram, and the server's processor time and memory.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Failure;

/// Latencies in logarithmic buckets of 32 steps each: 3 % precision, constant time, no allocation.
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
}

const STEPS: u64 = 32;

impl Histogram {
    pub(crate) fn new() -> Self {
        Self {
            buckets: vec![0; 64 * STEPS as usize],
            count: 0,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.buckets.fill(0);
        self.count = 0;
    }

    pub(crate) fn add(&mut self, latency: Duration) {
        self.buckets[Self::bucket(latency.as_nanos() as u64)] += 1;
        self.count += 1;
    }

    fn bucket(nanoseconds: u64) -> usize {
        if nanoseconds < STEPS {
            return nanoseconds as usize;
        }
        // 2^exponent * STEPS <= nanoseconds < 2^(exponent + 1) * STEPS
        let exponent = u64::from(nanoseconds.ilog2()) - u64::from(STEPS.ilog2());
        (exponent * STEPS + (nanoseconds >> exponent)) as usize
    }

    /// The latency, in microseconds, that a share of all stays below.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let wanted = ((self.count as f64) * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                let bucket = bucket as u64;
                let exponent = (bucket / STEPS).saturating_sub(1);
                let low = if bucket < STEPS {
                    bucket
                } else {
                    bucket - exponent * STEPS
                };
                return ((low << exponent) as f64) / 1_000.0;
            }
        }
        0.0
    }
}

/// Processor time and memory of a process.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    nanoseconds: u64,
    resident_kib: u64,
}

impl Usage {
    /// Sums the run time of all threads. It counts nanoseconds, kernel work done in its system calls included.
    fn of(pid: u32) -> Result<Self, Failure> {
        let mut nanoseconds = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread may end between the listing and the reading.
            let Ok(line) = fs::read_to_string(task?.path().join("schedstat")) else {
                continue;
            };
            nanoseconds += first_number(&line)?;
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .unwrap_or("0");
        Ok(Self {
            nanoseconds,
            resident_kib: first_number(resident)?,
        })
    }
}

fn first_number(text: &str) -> Result<u64, Failure> {
    Ok(text.split_whitespace().next().unwrap_or("0").parse()?)
}

/// The course of one run: warm-up, measured time, end.
pub(crate) struct Course {
    pub(crate) latencies: Histogram,
    pub(crate) answers: u64,
    pub(crate) answer_octets: u64,
    pub(crate) not_found: u64,
    pub(crate) lost: u64,
    started: Instant,
    measuring: Option<(Instant, Option<Usage>)>,
    warm_up: Duration,
    time: Duration,
    count: u64,
    pid: Option<u32>,
}

impl Course {
    pub(crate) fn new(options: &crate::Options) -> Self {
        Self {
            latencies: Histogram::new(),
            answers: 0,
            answer_octets: 0,
            not_found: 0,
            lost: 0,
            started: Instant::now(),
            measuring: None,
            warm_up: options.warm_up,
            time: options.time,
            count: options.count,
            pid: options.pid,
        }
    }

    /// Called now and then: begins the measured time when the warm-up is over; true when the run is over.
    pub(crate) fn over(&mut self, now: Instant) -> Result<bool, Failure> {
        match self.measuring {
            None => {
                if now - self.started >= self.warm_up {
                    self.latencies.clear();
                    (self.answers, self.answer_octets, self.not_found, self.lost) = (0, 0, 0, 0);
                    self.measuring = Some((Instant::now(), self.pid.map(Usage::of).transpose()?));
                }
                Ok(false)
            }
            Some((begun, _)) => Ok(now - begun >= self.time || self.answers >= self.count),
        }
    }

    /// The figures of the measured time.
    pub(crate) fn report(self) -> Result<Value, Failure> {
        let (begun, before) = self.measuring.ok_or("the run ended before its warm-up")?;
        let seconds = begun.elapsed().as_secs_f64();
        let answers = self.answers.max(1) as f64;
        let mut report = json!({
            "answers": self.answers,
            "not_found": self.not_found,
            "lost": self.lost,
            "seconds": round(seconds, 3),
            "requests_per_second": round(answers / seconds, 0),
            "answer_octets_mean": round(self.answer_octets as f64 / answers, 1),
            "p50_us": self.latencies.quantile(0.5),
            "p99_us": self.latencies.quantile(0.99),
            "p999_us": self.latencies.quantile(0.999),
        });
        if let (Some(before), Some(pid)) = (before, self.pid) {
            let after = Usage::of(pid)?;
            let spent = (after.nanoseconds - before.nanoseconds) as f64;
            report["cpu_us_per_request"] = json!(round(spent / 1_000.0 / answers, 4));
            report["server_cores"] = json!(round(spent / 1e9 / seconds, 3));
            report["server_rss_kib"] = json!(after.resident_kib);
        }
        Ok(report)
    }
}

fn round(number: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (number * scale).round() / scale
}
