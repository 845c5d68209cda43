//! The text format of OpenMetrics 1.0: families with type, unit and help, samples with labels, `# EOF`.
//!
//! What must stay true: a family's samples stand together; a name ends with its unit, a counter's samples with `_total`;
//! label values are escaped, so that no name of a device or job breaks the text.

use std::fmt::Write;

/// The media type of the text.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text so far.
#[derive(Debug, Default)]
pub struct Text(String);

/// One sample: labels and value.
pub type Sample<'a> = (Vec<(&'a str, &'a str)>, f64);

impl Text {
    /// A family of gauges; `unit` is `seconds`, `bytes` or nothing, and the end of the name.
    pub fn gauge<'a>(
        &mut self,
        name: &str,
        unit: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<'a>>,
    ) {
        self.family(name, "gauge", unit, help);
        samples.into_iter().for_each(|sample| self.sample(name, "", &sample));
    }

    /// A family of counters; `name` without `_total`.
    pub fn counter<'a>(
        &mut self,
        name: &str,
        unit: &str,
        help: &str,
        samples: impl IntoIterator<Item = Sample<'a>>,
    ) {
        self.family(name, "counter", unit, help);
        samples.into_iter().for_each(|sample| self.sample(name, "_total", &sample));
    }

    /// Facts that do not change, as labels; `name` without `_info`.
    pub fn info(&mut self, name: &str, help: &str, labels: Vec<(&str, &str)>) {
        self.family(name, "info", "", help);
        self.sample(name, "_info", &(labels, 1.0));
    }

    /// The whole text.
    pub fn finish(mut self) -> String {
        self.0 += "# EOF\n";
        self.0
    }

    fn family(&mut self, name: &str, kind: &str, unit: &str, help: &str) {
        debug_assert!(
            unit.is_empty() || name.ends_with(&format!("_{unit}")),
            "{name} does not end with {unit}"
        );
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
        if !unit.is_empty() {
            let _ = writeln!(self.0, "# UNIT {name} {unit}");
        }
        let _ = writeln!(self.0, "# HELP {name} {}", escaped(help));
    }

    fn sample(&mut self, name: &str, ending: &str, (labels, value): &Sample<'_>) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{ending}{labels} {value}");
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_as_the_format_wants_it() {
        let mut text = Text::default();
        text.info("a", "What.", vec![("version", "1")]);
        text.counter("b_bytes", "bytes", "Sum.", [(vec![("device", "x\"\n\\y")], 5.0), (vec![], 0.25)]);
        text.gauge("c", "", "Now.", []);
        assert_eq!(
            text.finish(),
            "# TYPE a info\n# HELP a What.\na_info{version=\"1\"} 1\n# TYPE b_bytes counter\n# UNIT b_bytes bytes\n\
             # HELP b_bytes Sum.\nb_bytes_total{device=\"x\\\"\\n\\\\y\"} 5\nb_bytes_total 0.25\n\
             # TYPE c gauge\n# HELP c Now.\n# EOF\n"
        );
    }
}
