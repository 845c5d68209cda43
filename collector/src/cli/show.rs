//! How numbers, times and tables look to a person.

use crate::block::ExtentSet;
pub use crate::config::words::{bytes, duration, time};

/// A list of extents, and what they sum up to, without a newline.
pub fn extents(set: &ExtentSet) -> String {
    let mut table = Table::new(&[">offset", ">length"]);
    for extent in set {
        table.row([extent.offset.to_string(), extent.length.to_string()]);
    }
    format!("{table}{} extents, {}", set.len(), bytes(set.total()))
}

/// Rows of text in aligned columns.
pub struct Table {
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings; one that begins with `>` is of a column aligned to the right.
    pub fn new(headings: &[&str]) -> Self {
        let right = headings.iter().map(|h| h.starts_with('>')).collect();
        let names = headings.iter().map(|h| h.trim_start_matches('>').to_owned()).collect();
        Self { right, rows: vec![names] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let wide = |s: &String| s.chars().count();
        let width = |i: usize| self.rows.iter().filter_map(|r| r.get(i)).map(wide).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, &width), &right) in row.iter().zip(&widths).zip(&self.right) {
                let gap = if line.is_empty() { "" } else { "  " };
                line += gap;
                line += &if right { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", ">size"]);
        table.row(["a".into(), "10".into()]);
        table.row(["bcdef".into(), "7".into()]);
        assert_eq!(table.to_string(), "name   size\na        10\nbcdef     7\n");
    }
}
