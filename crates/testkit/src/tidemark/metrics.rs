//! Reading an agent's metrics.

/// One scrape of `/metrics`, in Prometheus' text format.
#[derive(Debug, Clone)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    pub(super) fn new(text: String) -> Metrics {
        Metrics { text }
    }

    /// The text as it came.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The values of all series named `name` whose labels include each of `labels`.
    pub fn values(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let matching = |line: &&str| {
            let series = line
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']));
            series
                && labels
                    .iter()
                    .all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
        };
        let value = |line: &str| line.rsplit_once(' ')?.1.parse().ok();
        self.text.lines().filter(matching).filter_map(value).collect()
    }

    /// The value of the one such series. Panics, with the whole scrape, when there is none or more than one.
    #[track_caller]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        match self.values(name, labels)[..] {
            [value] => value,
            ref values => panic!("{} series {name} {labels:?} in:\n{}", values.len(), self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn series_are_found_by_name_and_labels() {
        let metrics = Metrics::new(
            "# TYPE lag gauge\nlag{server=\"a\",kind=\"x\"} 1.5\nlag{server=\"b\"} 2\nlag_total 7\nup 1\n"
                .to_owned(),
        );
        assert_eq!(metrics.value("lag", &[("server", "a")]), 1.5);
        assert_eq!(metrics.values("lag", &[]), [1.5, 2.0]);
        assert_eq!(metrics.value("up", &[]), 1.0);
        assert!(metrics.values("down", &[]).is_empty());
    }
}
