//! Metrics that are read when somebody asks: their descriptions, and their values as the encoder takes them.

use super::Described;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, GaugeVec, Opts};

/// What a metric's value means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A metric without its values.
#[derive(Debug, Clone, Copy)]
pub struct Description {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    pub labels: &'static [&'static str],
}

impl Description {
    pub fn described(&self) -> Described {
        let mut labels: Vec<String> = self.labels.iter().map(|label| (*label).to_owned()).collect();
        labels.sort();
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        Described { name: self.name.to_owned(), kind, labels, help: self.help.to_owned() }
    }

    /// The metric with these values. What does not fit its labels is left out; nothing without values.
    pub fn with(&self, samples: impl IntoIterator<Item = (Vec<String>, f64)>) -> Vec<MetricFamily> {
        let opts = Opts::new(self.name, self.help);
        match self.kind {
            Kind::Counter => CounterVec::new(opts, self.labels).map(|vec| {
                for (labels, value) in samples {
                    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
                    // Negative values would be refused by a panic.
                    let counter = vec.get_metric_with_label_values(&labels).ok().filter(|_| value >= 0.0);
                    counter.inspect(|counter| counter.inc_by(value));
                }
                vec.collect()
            }),
            Kind::Gauge => GaugeVec::new(opts, self.labels).map(|vec| {
                for (labels, value) in samples {
                    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
                    vec.get_metric_with_label_values(&labels).ok().inspect(|gauge| gauge.set(value));
                }
                vec.collect()
            }),
        }
        .unwrap_or_default()
        .into_iter()
        .filter(|family| !family.get_metric().is_empty())
        .map(sorted)
        .collect()
    }

    /// The metric with one value and no labels.
    pub fn single(&self, value: f64) -> Vec<MetricFamily> {
        self.with([(Vec::new(), value)])
    }
}

/// By their labels, as those that are registered come.
fn sorted(mut family: MetricFamily) -> MetricFamily {
    let mut metrics = family.take_metric();
    metrics.sort_by_cached_key(|metric| -> Vec<String> {
        metric.get_label().iter().map(|label| label.value().to_owned()).collect()
    });
    family.set_metric(metrics);
    family
}

/// A count as the value of a metric: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "the format knows no other numbers")]
pub fn number(count: u64) -> f64 {
    count as f64
}

/// A count as the value of a metric.
pub fn size(count: usize) -> f64 {
    number(u64::try_from(count).unwrap_or(u64::MAX))
}
