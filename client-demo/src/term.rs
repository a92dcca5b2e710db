//! Output for people: fitted to the terminal's width, and plain without a terminal.

use std::cell::RefCell;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use console::{Term, measure_text_width, truncate_str};

use crate::lines::lines;

/// The width if it is unknown.
const WIDTH_DEFAULT: usize = 80;

/// Longer lines are tiring to read, however wide the terminal.
const WIDTH_MOST: usize = 120;

/// Narrower columns are unreadable: let the terminal wrap instead.
const WIDTH_LEAST: usize = 40;

/// The output width in columns.
pub(crate) fn width() -> usize {
    let found = Term::stdout().size_checked().map(|(_, columns)| usize::from(columns));
    found.unwrap_or(WIDTH_DEFAULT).clamp(WIDTH_LEAST, WIDTH_MOST)
}

/// The output of a command that runs for another process.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
}

thread_local! {
    /// Captures the lines of this thread, if they are not for this process's own output.
    static SAID: RefCell<Option<Said>> = const { RefCell::new(None) };
}

/// Runs work, and returns its result and the output of this thread.
pub(crate) fn captured<T>(work: impl FnOnce() -> T) -> (T, Said) {
    SAID.with(|said| said.replace(Some(Said::default())));
    let done = work();
    (done, SAID.with(RefCell::take).unwrap_or_default())
}

/// Captures lines if they are not for this process's own output; returns whether it did.
fn keep(of: impl FnOnce(&mut Said) -> &mut String, lines: &str) -> bool {
    SAID.with_borrow_mut(|said| {
        let Some(said) = said else { return false };
        // The process that prints them decides on colours; no colours is always correct.
        of(said).push_str(&console::strip_ansi_codes(lines));
        true
    })
}

/// Whether the output is a terminal, so that lines may be redrawn.
pub(crate) fn is_live() -> bool {
    SAID.with_borrow(Option::is_none) && io::stdout().is_terminal() && !console::is_dumb()
}

/// Why some of this process's output is missing: the first failure to write it.
static MISSING: OnceLock<String> = OnceLock::new();

/// Records that output could not be written. A reader that closed it does not want the rest, which is no
/// failure.
fn noted(written: io::Result<()>) -> io::Result<()> {
    if let Err(error) = &written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        MISSING.get_or_init(|| error.to_string());
    }
    written
}

/// Why the output is incomplete, if it is.
pub(crate) fn missing() -> Option<&'static str> {
    MISSING.get().map(String::as_str)
}

/// Writes a line. Failures are checked at the end: [`missing`].
pub(crate) fn say(line: impl Display) {
    let _ = try_say(line);
}

/// Writes lines with their line ends.
pub(crate) fn say_lines(lines: &str) {
    if keep(|said| &mut said.out, lines) {
        return;
    }
    let mut out = io::stdout().lock();
    let _ = noted(write!(out, "{}", harmless(lines)).and_then(|()| out.flush()));
}

/// Writes a line; fails when the reader has closed the output.
pub(crate) fn try_say(line: impl Display) -> io::Result<()> {
    if keep(|said| &mut said.out, &format!("{line}\n")) {
        return Ok(());
    }
    let mut out = io::stdout().lock();
    noted(writeln!(out, "{}", harmless(&line.to_string())).and_then(|()| out.flush()))
}

/// Writes a line beside the result, for people only.
pub(crate) fn note(line: impl Display) {
    note_lines(&format!("{line}\n"));
}

/// Writes lines beside the result, with their line ends.
pub(crate) fn note_lines(lines: &str) {
    if !keep(|said| &mut said.err, lines) {
        let _ = write!(io::stderr(), "{}", harmless(lines));
    }
}

/// Makes a line safe for output: a terminal interprets only our own colours, whatever foreign text is in it.
/// Control characters are written as `\u001b`, which JSON reads back unchanged.
pub(crate) fn harmless(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if let Some(colour) = colour(rest) {
            out.push_str(colour);
            rest = &rest[colour.len()..];
            continue;
        }
        match c {
            '\n' | '\t' => out.push(c),
            '\r' if rest.starts_with("\r\n") => out.push(c),
            c if c.is_control() || is_invisible_order(c) => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// The leading colour sequence (SGR) of a text, if there is one.
fn colour(text: &str) -> Option<&str> {
    let body = text.strip_prefix("\u{1b}[")?;
    let end = body.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    body[end..].starts_with('m').then(|| &text[..end + 3])
}

/// Foreign text without characters that a terminal would interpret.
pub(crate) fn tame(text: &str) -> String {
    let harmless = |c: char| match c {
        '\n' | '\t' => c,
        // A lone one ends a line too, and a terminal would overwrite that line with the next.
        '\r' => '\n',
        c if c.is_control() || is_invisible_order(c) => '\u{fffd}',
        c => c,
    };
    text.replace("\r\n", "\n").chars().map(harmless).collect()
}

/// Like [`tame`], but keeps line ends: the output may be written to a file.
pub(crate) fn tame_text(text: &str) -> String {
    text.split("\r\n").map(tame).collect::<Vec<_>>().join("\r\n")
}

/// Characters that change the direction of the following text.
fn is_invisible_order(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The first non-empty line, cut to a width.
pub(crate) fn first_line(text: &str, width: usize) -> String {
    let line = lines(text).map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    truncate_str(&tame(line).replace('\t', " "), width, "…").into_owned()
}

/// Pads to a width, or cuts to it.
pub(crate) fn fit(text: &str, width: usize) -> String {
    let cut = truncate_str(text, width, "…");
    let missing = width.saturating_sub(measure_text_width(&cut));
    format!("{cut}{}", " ".repeat(missing))
}

/// Wraps text at words to a width.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in tame(text).lines() {
        let mut line = String::new();
        for word in paragraph.split_inclusive(' ') {
            let wider = measure_text_width(&line) + measure_text_width(word.trim_end()) > width;
            if wider && !line.is_empty() {
                lines.push(std::mem::take(&mut line).trim_end().to_owned());
            }
            for c in word.chars() {
                // A word that is wider than the column, such as a line of CJK.
                if measure_text_width(format!("{line}{c}").trim_end()) > width {
                    lines.push(std::mem::take(&mut line));
                }
                line.push(c);
            }
        }
        lines.push(line.trim_end().to_owned());
    }
    lines
}

/// Two texts side by side, each wrapped to its half.
pub(crate) fn side_by_side(left: &[String], right: &[String], width: usize) -> Vec<String> {
    let column = width.saturating_sub(3) / 2;
    let rows = left.len().max(right.len());
    let empty = String::new();
    let row = |i: usize| {
        let (l, r) = (left.get(i).unwrap_or(&empty), right.get(i).unwrap_or(&empty));
        format!("{} │ {r}", fit(l, column)).trim_end().to_owned()
    };
    (0..rows).map(row).collect()
}

/// The width of one of two columns.
pub(crate) fn half(width: usize) -> usize {
    width.saturating_sub(3) / 2
}

/// A duration, for people.
pub(crate) fn time(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1000.0;
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1000.0),
    }
}

/// A rate per second, with separated thousands.
pub(crate) fn rate(count: u64, duration: Duration) -> String {
    let per_second = count as f64 / duration.as_secs_f64().max(1e-6);
    thousands(per_second.round() as u64)
}

/// A number with separated thousands.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 change`, `2 changes`.
pub(crate) fn count(number: u64, one: &str) -> String {
    let of_many = match one.strip_suffix('y') {
        _ if number == 1 => one.to_owned(),
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ => format!("{one}s"),
    };
    format!("{} {of_many}", thousands(number))
}

/// A heading, highlighted on a terminal.
pub(crate) fn heading(text: impl Display) -> String {
    console::style(text).bold().cyan().to_string()
}

/// A highlighted word on a terminal.
pub(crate) fn strong(text: impl Display) -> String {
    console::style(text).bold().to_string()
}

/// A dimmed word on a terminal.
pub(crate) fn faint(text: impl Display) -> String {
    console::style(text).dim().to_string()
}

/// A success.
pub(crate) fn good(text: impl Display) -> String {
    console::style(text).green().to_string()
}

/// A failure.
pub(crate) fn bad(text: impl Display) -> String {
    console::style(text).red().bold().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_keeps_every_word_within_the_width() {
        let text = "The early train, 6:40 — 雨の日は傘を忘れないでください and aVeryLongWordThatDoesNotFit";
        let lines = wrap(text, 16);
        assert!(lines.iter().all(|line| measure_text_width(line) <= 16), "{lines:?}");
        let squeeze = |text: &str| text.replace(' ', "");
        assert_eq!(squeeze(&lines.concat()), squeeze(text));
        assert_eq!(wrap("a\n\nb", 10), ["a", "", "b"]);
    }

    #[test]
    fn counts_use_singular_and_plural() {
        let printed = [(1, "entry"), (2, "entry"), (1, "day"), (0, "day"), (1_200, "change")];
        let printed = printed.map(|(number, one)| count(number, one));
        assert_eq!(printed, ["1 entry", "2 entries", "1 day", "0 days", "1,200 changes"]);
    }

    #[test]
    fn columns_are_printed_side_by_side() {
        let left = vec!["雨具".to_owned(), "x".to_owned()];
        let rows = side_by_side(&left, &["y".to_owned()], 23);
        assert_eq!(rows, ["雨具       │ y", "x          │"]);
    }

    #[test]
    fn lines_keep_only_colour_escapes() {
        let line =
            "\u{1b}[1;36mbold\u{1b}[0m \u{1b}[2J\u{1b}]52;c;x\u{7}\u{9b}1m\ta\nb\u{202e}\u{1b}[";
        let safe = "\u{1b}[1;36mbold\u{1b}[0m \\u001b[2J\\u001b]52;c;x\\u0007\\u009b1m\ta\nb\\u202e\\u001b[";
        assert_eq!(harmless(line), safe);
        let json = serde_json::json!({ "title": "\u{9b}2J\u{1b}[2J" }).to_string();
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&harmless(&json)).unwrap()["title"],
            "\u{9b}2J\u{1b}[2J"
        );
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(tame("a\u{1b}[2Jb\r\nc\u{202e}d\re"), "a\u{fffd}[2Jb\nc\u{fffd}d\ne");
        assert_eq!(tame_text("a\r\nb\rc"), "a\r\nb\nc");
        assert_eq!(first_line("\u{feff}\r \rone\rtwo", 7), "one");
        assert_eq!(first_line("\n\n  héllo world", 7), "héllo …");
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(thousands(12), "12");
        assert_eq!(count(1, "change"), "1 change");
        assert_eq!(count(2_000, "change"), "2,000 changes");
        assert_eq!(time(Duration::from_micros(1_230)), "1.2 ms");
        assert_eq!(time(Duration::from_millis(1_230)), "1.23 s");
        assert_eq!(rate(500, Duration::from_millis(250)), "2,000");
    }
}
