//! Contenders measured in turns: A B C, A B C, …, so that a machine that grows slower or faster hurts all
//! alike. Printed are median, least, greatest, and each round's ratio to the first contender.

use anyhow::{Context, Result, bail};
use std::fmt::Write;

/// One way of doing the same work; `measure` gives one figure, less is better.
pub struct Contender<'a> {
    /// Its name in the table.
    pub name: &'a str,
    /// Does the work once.
    pub measure: Box<dyn FnMut() -> Result<f64> + 'a>,
}

/// Figures of one contender.
struct Row {
    name: String,
    figures: Vec<f64>,
}

/// Runs `rounds` rounds after one that does not count, and prints the table.
pub fn compare(title: &str, unit: &str, rounds: usize, mut contenders: Vec<Contender>) -> Result<()> {
    let mut rows: Vec<Row> =
        contenders.iter().map(|c| Row { name: c.name.to_owned(), figures: Vec::new() }).collect();
    for round in 0..=rounds {
        for (contender, row) in contenders.iter_mut().zip(&mut rows) {
            let figure = (contender.measure)().with_context(|| format!("measure {}", contender.name))?;
            if round > 0 {
                row.figures.push(figure);
            }
        }
    }
    print!("{}", table(title, unit, &rows)?);
    Ok(())
}

fn table(title: &str, unit: &str, rows: &[Row]) -> Result<String> {
    let Some(first) = rows.first() else { bail!("{title}: nothing to measure") };
    let mut text = format!("\n{title} ({unit}, {} rounds)\n\n", first.figures.len());
    text += "| | median | min | max | ratio | ratio's spread |\n|---|---|---|---|---|---|\n";
    for row in rows {
        let ratios: Vec<f64> = row.figures.iter().zip(&first.figures).map(|(own, base)| own / base).collect();
        let (figures, ratios) = (Spread::of(&row.figures)?, Spread::of(&ratios)?);
        writeln!(
            text,
            "| {} | {:.3} | {:.3} | {:.3} | {:.2} | {:.2}-{:.2} |",
            row.name, figures.median, figures.min, figures.max, ratios.median, ratios.min, ratios.max
        )?;
    }
    Ok(text)
}

struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(figures: &[f64]) -> Result<Self> {
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
        let contender = |name: &'static str| Contender {
            name,
            measure: Box::new(|| {
                order.borrow_mut().push_str(name);
                Ok(1.0)
            }),
        };
        compare("t", "s", 2, vec![contender("a"), contender("b")]).unwrap();
        assert_eq!(*order.borrow(), "ababab");
    }

    #[test]
    fn the_ratio_is_taken_round_by_round() {
        let row = |name: &str, figures: &[f64]| Row { name: name.into(), figures: figures.into() };
        let text = table("t", "s", &[row("a", &[1.0, 2.0, 4.0]), row("b", &[2.0, 2.0, 16.0])]).unwrap();
        assert!(text.contains("| a | 2.000 | 1.000 | 4.000 | 1.00 | 1.00-1.00 |"), "{text}");
        assert!(text.contains("| b | 2.000 | 2.000 | 16.000 | 2.00 | 1.00-4.00 |"), "{text}");
        assert!(table("t", "s", &[]).is_err());
    }
}
