//! The tour's output: steps, notes side by side, checks, figures.

use std::fmt::Display;
use std::iter::once;

use super::Figures;
use crate::note::Note;
use crate::progress::Bars;
use crate::replica::Check;
use crate::term::{
    self, bad, faint, fit, good, half, heading, rate, say, side_by_side, strong, time, wrap,
};

/// Indentation of everything below a step.
const INDENT: usize = 3;

/// Begins a step.
pub(super) fn step(number: u32, title: &str) {
    say("");
    say(format!("{}  {}", heading(number), heading(title)));
}

/// Prints a line below a step.
pub(super) fn line(text: impl Display) {
    for line in wrapped(&text.to_string()) {
        say(line);
    }
}

/// Prints a line below a step, above the bars.
pub(super) fn indented(bars: &Bars, text: &str) {
    for line in wrapped(text) {
        bars.say(&line);
    }
}

fn wrapped(text: &str) -> Vec<String> {
    let lines = wrap(text, term::width() - INDENT);
    lines.into_iter().map(|line| format!("{:INDENT$}{line}", "")).collect()
}

/// Two replicas' notes side by side.
pub(super) fn two(left: (&str, &Note), right: (&str, &Note)) {
    let width = term::width() - INDENT;
    let column = half(width);
    let (left_lines, right_lines) = (card(left.1, column), card(right.1, column));
    say("");
    let titles = format!("{} │ {}", strong(fit(left.0, column)), strong(right.0));
    let rule = format!("{0}─┼─{0}", "─".repeat(column));
    for row in [titles, rule].into_iter().chain(side_by_side(&left_lines, &right_lines, width)) {
        say(format!("{:INDENT$}{row}", ""));
    }
}

/// One note that all replicas share.
pub(super) fn one(whose: &str, note: &Note) {
    let width = term::width() - INDENT;
    say("");
    let rule = "─".repeat(width);
    for row in [strong(whose), rule].into_iter().chain(card(note, width)) {
        say(format!("{:INDENT$}{row}", ""));
    }
}

/// The content of a note, wrapped to a width.
fn card(note: &Note, width: usize) -> Vec<String> {
    const LABEL: usize = 7;
    let votes = note.votes.map(|votes| votes.to_string()).unwrap_or_default();
    let items = note.items.clone().unwrap_or_default().join(", ");
    let fields =
        [("title", &note.title), ("text", &note.body), ("votes", &votes), ("list", &items)];
    let field = |(label, text): (&str, &String)| {
        let lines = wrap(text, width.saturating_sub(LABEL));
        let labels = once(label.to_owned()).chain(std::iter::repeat(String::new()));
        let row = |(line, label): (String, String)| format!("{}{line}", faint(fit(&label, LABEL)));
        lines.into_iter().zip(labels).map(row).collect::<Vec<_>>()
    };
    fields.into_iter().flat_map(field).collect()
}

/// The results of the checks.
pub(super) fn checks(checks: &[Check]) {
    for check in checks {
        let mark = if check.holds { good("✓") } else { bad("✗") };
        let lines = wrap(&check.what, term::width() - 2 * INDENT);
        for (line, number) in lines.iter().zip(0..) {
            let mark = if number == 0 { mark.as_str() } else { " " };
            say(format!("{:INDENT$}{mark}  {line}", ""));
        }
    }
}

/// The measured figures.
pub(super) fn figures(figures: &Figures) {
    say("");
    say(heading("Measured here"));
    let row = |what: &str, figure: String| say(format!("{:INDENT$}{what:<46}{figure:>12}", ""));
    row("to converge after both came back", time(figures.converged));
    if let Some(burst) = &figures.burst {
        let typed = format!("{}/s", rate(burst.edits, burst.typed));
        row("edits by two authors, each change fsynced", typed);
        row("to be live again after the relay's return", time(burst.recovered));
        row("to have everything everywhere after it", time(burst.settled));
    }
}
