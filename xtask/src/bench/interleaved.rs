//! Contenders measured in turns: A B C, A B C, …, so that a machine that grows slower or faster hurts all
//! alike. Told are median, least, greatest, and each round's ratio to the first contender.

use anyhow::{Context, Result, bail};
use std::fmt::Write;
use std::time::Duration;

/// One way of doing the same work.
pub struct Contender<'a> {
    /// Its name in the table.
    pub name: &'static str,
    /// Does the work once.
    pub measure: Box<dyn FnMut() -> Result<Sample> + 'a>,
}

impl<'a> Contender<'a> {
    /// A contender.
    pub fn new(name: &'static str, measure: impl FnMut() -> Result<Sample> + 'a) -> Self {
        Self { name, measure: Box::new(measure) }
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Less is better.
    pub figure: f64,
    /// Most memory it had, in bytes; 0 if that was not looked at.
    pub peak: u64,
}

impl Sample {
    /// A time in seconds.
    pub fn seconds(took: Duration, peak: u64) -> Self {
        Self { figure: took.as_secs_f64(), peak }
    }
}

/// Figures of one contender, round by round.
pub struct Row {
    name: String,
    figures: Vec<f64>,
    /// Most memory in any round.
    pub peak: u64,
}

/// Runs `rounds` rounds after one that does not count.
pub fn measure(rounds: usize, mut contenders: Vec<Contender>) -> Result<Vec<Row>> {
    let row = |c: &Contender| Row { name: c.name.to_owned(), figures: Vec::new(), peak: 0 };
    let mut rows: Vec<Row> = contenders.iter().map(row).collect();
    for round in 0..=rounds {
        for (contender, row) in contenders.iter_mut().zip(&mut rows) {
            let sample = (contender.measure)().with_context(|| format!("measure {}", contender.name))?;
            if round > 0 {
                row.figures.push(sample.figure);
                row.peak = row.peak.max(sample.peak);
            }
        }
    }
    Ok(rows)
}

/// The table of what was measured, in Markdown.
pub fn table(unit: &str, rows: &[Row]) -> Result<String> {
    let Some(first) = rows.first() else { bail!("nothing to measure") };
    let memory = rows.iter().any(|row| row.peak > 0);
    let mut text =
        format!("| {unit}, {} rounds | median | min | max | ratio | ratio's spread |", first.figures.len());
    text +=
        if memory { " memory |\n|---|--:|--:|--:|--:|--:|--:|\n" } else { "\n|---|--:|--:|--:|--:|--:|\n" };
    for row in rows {
        let (figures, ratios) = (Spread::of(&row.figures)?, row.against(first)?);
        write!(
            text,
            "| {} | {:.3} | {:.3} | {:.3} | {:.2} | {:.2}-{:.2} |",
            row.name, figures.median, figures.min, figures.max, ratios.median, ratios.min, ratios.max
        )?;
        match (memory, row.peak) {
            (false, _) => text.push('\n'),
            (true, 0) => text += " |\n",
            (true, peak) => writeln!(text, " {} MiB |", peak >> 20)?,
        }
    }
    Ok(text)
}

impl Row {
    /// Ours divided by the other's, round by round.
    pub fn against(&self, other: &Self) -> Result<Spread> {
        let ratios: Vec<f64> =
            self.figures.iter().zip(&other.figures).map(|(own, base)| own / base).collect();
        Spread::of(&ratios)
    }
}

/// What a row of figures comes to.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// As many above as below.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of at least one figure.
    pub fn of(figures: &[f64]) -> Result<Self> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else {
            bail!("no figure was measured")
        };
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Ok(Self { median, min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn contenders_take_turns_and_the_first_round_does_not_count() {
        let order = RefCell::new(String::new());
        let contender = |name: &'static str| {
            let order = &order;
            Contender::new(name, move || {
                order.borrow_mut().push_str(name);
                Ok(Sample { figure: order.borrow().len() as f64, peak: 0 })
            })
        };
        let rows = measure(2, vec![contender("a"), contender("b")]).unwrap();
        assert_eq!(*order.borrow(), "ababab");
        assert_eq!(rows[1].figures, [4.0, 6.0]);
    }

    #[test]
    fn the_ratio_is_taken_round_by_round() {
        let row =
            |name: &str, figures: &[f64], peak| Row { name: name.into(), figures: figures.into(), peak };
        let text = table("s", &[row("a", &[1.0, 2.0, 4.0], 0), row("b", &[2.0, 2.0, 16.0], 0)]).unwrap();
        assert!(text.contains("| a | 2.000 | 1.000 | 4.000 | 1.00 | 1.00-1.00 |\n"), "{text}");
        assert!(text.contains("| b | 2.000 | 2.000 | 16.000 | 2.00 | 1.00-4.00 |\n"), "{text}");
        let text = table("s", &[row("a", &[1.0], 5 << 20), row("b", &[2.0], 0)]).unwrap();
        assert!(text.contains("| 1.00-1.00 | 5 MiB |\n"), "{text}");
        assert!(table("s", &[]).is_err());
    }
}
