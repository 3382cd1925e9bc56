//! Metrics as text: each with its help and type, and a sample for each set of labels.
//!
//! Names are written here as they are read there, `_total` included.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use crate::base::histogram::{BOUNDS_US, Observed};

/// What the text is (Prometheus' exposition formats, "Text-based format").
pub(super) const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// The labels of a sample, names before values.
pub(super) type Labels<'a> = Vec<(&'a str, &'a str)>;

/// Writes metrics, one after the other.
pub(super) struct Families<'a>(DescriptorEncoder<'a>);

/// The text of what `write` writes.
///
/// # Errors
/// Those of `write`.
pub(super) fn text(
    write: impl Fn(&mut Families<'_>) -> fmt::Result + Send + Sync + 'static,
) -> Result<String, fmt::Error> {
    struct Written<F>(F);

    impl<F> fmt::Debug for Written<F> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Written")
        }
    }

    impl<F: Fn(&mut Families<'_>) -> fmt::Result + Send + Sync + 'static> Collector for Written<F> {
        fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
            (self.0)(&mut Families(encoder))
        }
    }

    let mut registry = Registry::default();
    registry.register_collector(Box::new(Written(write)));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Families<'_> {
    /// A number that goes up and down.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.begin(name, help, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// A number that is 1, for what its labels say.
    pub(super) fn info(&mut self, name: &str, help: &str, labels: &Labels<'_>) -> fmt::Result {
        self.begin(name, help, MetricType::Gauge)?.encode_family(labels)?.encode_gauge(&1_u64)
    }

    /// A number that only grows.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        count(&mut self.begin(name, help, MetricType::Counter)?, value)
    }

    /// Several of those.
    pub(super) fn counters<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) -> fmt::Result {
        let mut family = self.begin(name, help, MetricType::Counter)?;
        for (labels, value) in samples {
            count(&mut family.encode_family(&labels)?, value as f64)?;
        }
        Ok(())
    }

    /// Durations.
    pub(super) fn histogram(&mut self, name: &str, help: &str, observed: &Observed) -> fmt::Result {
        durations(&mut self.begin(name, help, MetricType::Histogram)?, observed)
    }

    /// Durations of several kinds.
    pub(super) fn histograms<'l>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l>, Observed)>,
    ) -> fmt::Result {
        let mut family = self.begin(name, help, MetricType::Histogram)?;
        for (labels, observed) in samples {
            durations(&mut family.encode_family(&labels)?, &observed)?;
        }
        Ok(())
    }

    fn begin<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        metric_type: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        // The encoder adds it.
        let name = name.strip_suffix("_total").unwrap_or(name);
        self.0.encode_descriptor(name, help, None, metric_type)
    }
}

fn count(encoder: &mut MetricEncoder<'_>, value: f64) -> fmt::Result {
    encoder.encode_counter::<NoLabelSet, f64, f64>(&value, None)
}

fn durations(encoder: &mut MetricEncoder<'_>, observed: &Observed) -> fmt::Result {
    let bounds = BOUNDS_US.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(observed.buckets).collect();
    encoder.encode_histogram::<NoLabelSet>(observed.sum.as_secs_f64(), observed.count(), &buckets, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_types_labels_and_buckets_are_those_of_prometheus() {
        let histogram = crate::base::Histogram::new();
        histogram.add(std::time::Duration::from_micros(20));
        histogram.add(std::time::Duration::from_secs(1000));
        let observed = histogram.observed();
        let text = text(move |families| {
            families.counter("a_total", "One.", 3.0)?;
            families.counters("b_total", "Two.", [(vec![("x", "q\"\\")], 4)])?;
            families.counters("none_total", "Nothing yet.", [])?;
            families.histogram("c_seconds", "Three.", &observed)
        });
        let text = text.unwrap();
        for line in [
            "# HELP a_total One.",
            "# TYPE a_total counter",
            "b_total{x=\"q\\\"\\\\\"} 4.0",
            "# TYPE none_total counter",
            "# TYPE c_seconds histogram",
            "c_seconds_bucket{le=\"0.0001\"} 1",
            "c_seconds_bucket{le=\"+Inf\"} 2",
            "c_seconds_count 2",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
    }
}
