//! Collects figures of one scrape into the families of the exposition.

use std::collections::BTreeMap;

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::DURATION_BOUNDS_NS;
use super::names::Name;

/// The figures of one scrape, grouped by metric.
#[derive(Default)]
pub struct Families {
    families: BTreeMap<&'static str, (Name, Vec<Metric>)>,
}

impl std::fmt::Debug for Families {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.families.keys()).finish()
    }
}

impl Families {
    /// Adds the value of a counter or gauge.
    pub fn add(&mut self, name: &Name, labels: &[(&str, &str)], value: f64) {
        let mut metric = labelled(name, labels);
        if name.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.push(name, metric);
    }

    /// Adds a histogram: bucket bounds, counts per bucket (one more than bounds), sum.
    pub fn add_histogram(
        &mut self,
        name: &Name,
        labels: &[(&str, &str)],
        bounds: &[f64],
        counts: &[u64],
        sum: f64,
    ) {
        let mut cumulative = 0;
        let mut buckets = Vec::with_capacity(bounds.len());
        for (bound, count) in bounds.iter().zip(counts) {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            buckets.push(bucket);
        }
        let mut histogram = Histogram::default();
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(sum);
        histogram.set_bucket(buckets);
        let mut metric = labelled(name, labels);
        metric.set_histogram(histogram);
        self.push(name, metric);
    }

    /// Adds the sum of several histograms of durations.
    pub fn add_durations(
        &mut self,
        name: &Name,
        labels: &[(&str, &str)],
        parts: impl Iterator<Item = ([u64; DURATION_BOUNDS_NS.len() + 1], f64)>,
    ) {
        let mut counts = [0; DURATION_BOUNDS_NS.len() + 1];
        let mut sum = 0.0;
        for (part, part_sum) in parts {
            for (count, more) in counts.iter_mut().zip(part) {
                *count += more;
            }
            sum += part_sum;
        }
        let bounds = DURATION_BOUNDS_NS.map(|ns| ns as f64 / 1e9);
        self.add_histogram(name, labels, &bounds, &counts, sum);
    }

    fn push(&mut self, name: &Name, metric: Metric) {
        self.families
            .entry(name.name)
            .or_insert_with(|| (*name, Vec::new()))
            .1
            .push(metric);
    }

    /// The families in the form the encoder takes.
    pub(super) fn finish(self) -> Vec<MetricFamily> {
        self.families
            .into_values()
            .map(|(name, metrics)| {
                let mut family = MetricFamily::default();
                family.set_name(name.name.to_owned());
                family.set_help(name.help.to_owned());
                family.set_field_type(name.kind);
                family.set_metric(metrics);
                family
            })
            .collect()
    }
}

/// A metric with its labels, in the order of their names.
fn labelled(name: &Name, labels: &[(&str, &str)]) -> Metric {
    debug_assert_eq!(
        labels.iter().map(|(label, _)| *label).collect::<Vec<_>>(),
        name.labels
    );
    let mut pairs: Vec<LabelPair> = labels
        .iter()
        .map(|(label, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*label).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect();
    pairs.sort_by(|a, b| a.name().cmp(b.name()));
    Metric::from_label(pairs)
}
