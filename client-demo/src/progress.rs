//! Progress bars: on a terminal, and nothing elsewhere.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::term;

/// A few bars below each other.
pub(crate) struct Bars(Option<MultiProgress>);

impl Bars {
    /// Draws if a person watches, and asked for more than results.
    pub(crate) fn new(quiet: bool) -> Self {
        let live = term::is_live() && !quiet;
        Self(live.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stdout())))
    }

    /// Adds a bar.
    pub(crate) fn bar(&self, label: &'static str, total: u64) -> ProgressBar {
        let Some(bars) = &self.0 else { return ProgressBar::hidden() };
        let bar = bars.add(ProgressBar::new(total).with_prefix(label));
        let template = "   {prefix:<14} {wide_bar:.cyan/dim} {human_pos:>7} / {human_len}";
        match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style.progress_chars("━╸─")),
            // The default style says the same, less well.
            Err(_) => bar,
        }
    }

    /// Takes the bars away: what they showed is said in lines that stay.
    pub(crate) fn clear(&self) {
        if let Some(bars) = &self.0 {
            // A terminal that is gone needs no clearing.
            let _ = bars.clear();
        }
    }

    /// Writes a line that stays above the bars.
    pub(crate) fn say(&self, line: &str) {
        match &self.0 {
            // As below, but redrawing the bars.
            Some(bars) => drop(bars.println(term::harmless(line))),
            None => term::say(line),
        }
    }
}
