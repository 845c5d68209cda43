//! Contenders measured in turns: A B C, A B C, …, so that a machine that grows slower or faster hurts all
//! alike. Told are median, least, greatest, and each round's ratio to the first contender.

use crate::rig::process::Ran;
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

    fn run(&mut self) -> Result<Sample> {
        (self.measure)().with_context(|| format!("measure {}", self.name))
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Less is better.
    pub figure: f64,
    /// Most memory it had, in bytes; 0 if that was not looked at.
    pub peak: u64,
    /// Processor time in seconds; 0 if that was not looked at.
    pub cpu: f64,
}

impl Sample {
    /// A time in seconds.
    pub fn seconds(took: Duration) -> Self {
        Self { figure: took.as_secs_f64(), peak: 0, cpu: 0.0 }
    }
}

impl From<&Ran> for Sample {
    fn from(ran: &Ran) -> Self {
        Self { peak: ran.peak, cpu: ran.cpu, ..Self::seconds(ran.took) }
    }
}

/// Figures of one contender, round by round.
pub struct Row {
    name: String,
    figures: Vec<f64>,
    cpus: Vec<f64>,
    /// Most memory in any round.
    pub peak: u64,
}

/// Runs `rounds` rounds after one that does not count.
pub fn measure(rounds: usize, mut contenders: Vec<Contender>) -> Result<Vec<Row>> {
    contenders.iter_mut().try_for_each(|contender| contender.run().map(drop))?;
    measure_warm(rounds, contenders)
}

/// Runs `rounds` rounds that all count: of contenders that ran before, and take too long to do so for nothing.
pub fn measure_warm(rounds: usize, mut contenders: Vec<Contender>) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = contenders.iter().map(|c| Row::new(c.name)).collect();
    for _ in 0..rounds {
        for (contender, row) in contenders.iter_mut().zip(&mut rows) {
            let sample = contender.run()?;
            row.figures.push(sample.figure);
            row.cpus.push(sample.cpu);
            row.peak = row.peak.max(sample.peak);
        }
    }
    Ok(rows)
}

/// The table of what was measured, in Markdown.
pub fn table(unit: &str, rows: &[Row]) -> Result<String> {
    let Some(first) = rows.first() else { bail!("nothing to measure") };
    let memory = rows.iter().any(|row| row.peak > 0);
    let cpu = rows.iter().any(|row| row.cpus.iter().any(|cpu| *cpu > 0.0));
    let mut text =
        format!("| {unit}, {} rounds | median | min | max | ratio | ratio's spread |", first.figures.len());
    let mut line = String::from("\n|---|--:|--:|--:|--:|--:|");
    for (_, name) in [(cpu, "CPU s"), (memory, "memory")].iter().filter(|(shown, _)| *shown) {
        write!(text, " {name} |")?;
        line += "--:|";
    }
    text = text + &line + "\n";
    for row in rows {
        let (figures, ratios) = (Spread::of(&row.figures)?, row.against(first)?);
        write!(
            text,
            "| {} | {:.3} | {:.3} | {:.3} | {:.2} | {:.2}-{:.2} |",
            row.name, figures.median, figures.min, figures.max, ratios.median, ratios.min, ratios.max
        )?;
        if cpu {
            let known = Some(row.cpu()?).filter(|cpu| *cpu > 0.0).map(|cpu| format!(" {cpu:.2}"));
            write!(text, "{} |", known.unwrap_or_default())?;
        }
        if memory {
            let known = Some(row.peak).filter(|peak| *peak > 0).map(|peak| format!(" {} MiB", peak >> 20));
            write!(text, "{} |", known.unwrap_or_default())?;
        }
        text.push('\n');
    }
    Ok(text)
}

impl Row {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), figures: Vec::new(), cpus: Vec::new(), peak: 0 }
    }

    /// What the slowest of `rows` allows, round by round.
    pub fn slowest(rows: &[&Self]) -> Result<Self> {
        let Some(first) = rows.first() else { bail!("no limit was measured") };
        let slowest =
            |round| rows.iter().filter_map(|row: &&Self| row.figures.get(round)).copied().fold(0.0, f64::max);
        let figures = (0..first.figures.len()).map(slowest).collect();
        Ok(Self { figures, ..Self::new("limit") })
    }

    /// Each figure made another.
    pub fn mapped(&self, change: impl Fn(f64) -> f64) -> Self {
        let figures = self.figures.iter().map(|figure| change(*figure)).collect();
        Self { figures, ..Self::new(&self.name) }
    }

    /// The median.
    pub fn median(&self) -> Result<f64> {
        Ok(Spread::of(&self.figures)?.median)
    }

    /// Median of the processor time.
    pub fn cpu(&self) -> Result<f64> {
        Ok(Spread::of(&self.cpus)?.median)
    }

    /// Processor time against the other's, round by round.
    pub fn cpu_against(&self, other: &Self) -> Result<Spread> {
        let ratios: Vec<f64> = self.cpus.iter().zip(&other.cpus).map(|(own, base)| own / base).collect();
        Spread::of(&ratios)
    }

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
                Ok(Sample { figure: order.borrow().len() as f64, peak: 0, cpu: 0.0 })
            })
        };
        let rows = measure(2, vec![contender("a"), contender("b")]).unwrap();
        assert_eq!(*order.borrow(), "ababab");
        assert_eq!(rows[1].figures, [4.0, 6.0]);
    }

    #[test]
    fn the_ratio_is_taken_round_by_round() {
        let row = |name: &str, figures: &[f64], peak| {
            let cpus = figures.iter().map(|f| f * peak as f64 / 1e6).collect();
            Row { figures: figures.into(), cpus, peak, ..Row::new(name) }
        };
        let text = table("s", &[row("a", &[1.0, 2.0, 4.0], 0), row("b", &[2.0, 2.0, 16.0], 0)]).unwrap();
        assert!(text.contains("| a | 2.000 | 1.000 | 4.000 | 1.00 | 1.00-1.00 |\n"), "{text}");
        assert!(text.contains("| b | 2.000 | 2.000 | 16.000 | 2.00 | 1.00-4.00 |\n"), "{text}");
        let text = table("s", &[row("a", &[1.0], 5 << 20), row("b", &[2.0], 0)]).unwrap();
        assert!(text.contains("| CPU s | memory |\n"), "{text}");
        assert!(text.contains("| 1.00-1.00 | 5.24 | 5 MiB |\n| b "), "{text}");
        assert!(text.ends_with("| 2.00-2.00 | | |\n"), "{text}");
        let limit = Row::slowest(&[&row("a", &[1.0, 3.0], 0), &row("b", &[2.0, 2.0], 0)]).unwrap();
        assert_eq!(limit.figures, [2.0, 3.0]);
        assert!(table("s", &[]).is_err());
    }
}
