//! The figures of a row, and the table of all figures.

use std::collections::BTreeMap;

use super::server::Kind;

/// The direction in which a figure is better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

/// One figure of one run.
pub struct Metric {
    pub name: String,
    pub unit: &'static str,
    pub value: f64,
    pub better: Better,
}

impl Metric {
    /// A figure of which less is better.
    pub fn lower(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { name: name.into(), unit, value, better: Better::Lower }
    }

    /// A figure of which more is better.
    pub fn higher(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { name: name.into(), unit, value, better: Better::Higher }
    }
}

struct Line {
    name: String,
    unit: &'static str,
    better: Better,
    samples: BTreeMap<Kind, Vec<f64>>,
}

/// All figures of all runs, in the order of their first appearance.
#[derive(Default)]
pub struct Table {
    lines: Vec<Line>,
    /// Runs that failed.
    failures: Vec<String>,
}

impl Table {
    /// Adds the result of a row.
    pub fn add(&mut self, row: &str, kind: Kind, outcome: Result<Vec<Metric>, String>) {
        match outcome {
            Ok(metrics) => metrics.into_iter().for_each(|metric| self.add_metric(kind, metric)),
            Err(why) => {
                eprintln!("   {} failed in `{row}`: {why}", kind.name());
                self.failures.push(format!("`{row}` with {}: {why}", kind.name()));
            }
        }
    }

    fn add_metric(&mut self, kind: Kind, metric: Metric) {
        eprintln!("   {:<58} {:>12} {}", metric.name, shown(metric.value), metric.unit);
        let at = self.lines.iter().position(|line| line.name == metric.name);
        let at = at.unwrap_or_else(|| {
            let (name, unit, better) = (metric.name, metric.unit, metric.better);
            self.lines.push(Line { name, unit, better, samples: BTreeMap::new() });
            self.lines.len() - 1
        });
        self.lines[at].samples.entry(kind).or_default().push(metric.value);
    }

    /// Prints the table as Markdown: medians, with the spread if there were several runs, and the ratio
    /// of ours to the better of the two minimal servers.
    pub fn print(&self, kinds: &[Kind]) {
        let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        println!("\n| figure | {} | ours against the better |", names.join(" | "));
        println!("|---|{}---|", "---|".repeat(kinds.len()));
        for line in &self.lines {
            let cells: Vec<String> = kinds.iter().map(|kind| line.cell(*kind)).collect();
            println!("| {}, {} | {} | {} |", line.name, line.unit, cells.join(" | "), line.ratio());
        }
        for failure in &self.failures {
            println!("\nFailed: {failure}");
        }
    }
}

impl Line {
    fn cell(&self, kind: Kind) -> String {
        let Some(samples) = self.samples.get(&kind) else { return "–".to_owned() };
        let sorted = sorted(samples);
        let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
        match sorted.len() {
            1 => shown(median(samples)),
            _ => format!("{} ({}–{})", shown(median(samples)), shown(least), shown(most)),
        }
    }

    fn ratio(&self) -> String {
        let of = |kind: Kind| self.samples.get(&kind).map(|samples| median(samples));
        let Some(ours) = of(Kind::Relay) else { return "–".to_owned() };
        let others = [Kind::Repo, Kind::Samod].into_iter().filter_map(of);
        let ratio = match self.better {
            Better::Higher => others.reduce(f64::max).map(|best| ours / best),
            Better::Lower => others.reduce(f64::min).map(|best| best / ours),
        };
        match ratio {
            None => "–".to_owned(),
            Some(f64::INFINITY) if of(Kind::Relay) != Some(0.0) => "they did not".to_owned(),
            Some(ratio) if ratio.is_finite() => format!("{} ×", shown(ratio)),
            Some(_) => "no figure: ours is 0".to_owned(),
        }
    }
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median(samples: &[f64]) -> f64 {
    let sorted = sorted(samples);
    sorted[sorted.len() / 2]
}

fn shown(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        f64::INFINITY => "not reached".to_owned(),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
