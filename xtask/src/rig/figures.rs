//! Figures as people read them.

use std::time::Duration;

/// Bytes in the largest binary unit that leaves at least one, three digits.
pub fn bytes(n: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (n as f64, 0);
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", units[unit])
}

/// A time: `12 ms`, `1.23 s`.
pub fn seconds(time: Duration) -> String {
    match time.as_millis() {
        ms @ 0..1000 => format!("{ms} ms"),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}

/// `1 234 567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Rows under headings, in columns as wide as they need; headings that start with `>` stand right.
pub fn columns(headings: &[&str], rows: &[Vec<String>]) -> String {
    let plain: Vec<String> = headings.iter().map(|h| h.trim_start_matches('>').to_owned()).collect();
    let all = || std::iter::once(&plain).chain(rows);
    let widths: Vec<usize> = (0..headings.len())
        .map(|c| all().filter_map(|row| row.get(c)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in all() {
        let cells = row.iter().zip(&widths).zip(headings).map(|((cell, &width), heading)| {
            if heading.starts_with('>') { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits() {
        let wanted =
            [(0, "0 B"), (999, "999 B"), (1024, "1.00 KiB"), (15 << 20, "15.0 MiB"), (400 << 20, "400 MiB")];
        for (n, text) in wanted {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(bytes(1000 << 20), "0.98 GiB");
        assert_eq!(seconds(Duration::from_millis(12)), "12 ms");
        assert_eq!(seconds(Duration::from_millis(1234)), "1.23 s");
        assert_eq!(thousands(1_234_567), "1 234 567");
        assert_eq!(thousands(12), "12");
    }

    #[test]
    fn columns_line_up() {
        let text = columns(&["a", ">b"], &[vec!["xyz".into(), "1".into()], vec!["x".into(), "200".into()]]);
        assert_eq!(text, "a      b\nxyz    1\nx    200\n");
    }
}
