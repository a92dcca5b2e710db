//! Progress bars, on a terminal only.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::term;

/// Several bars, one below the other.
pub(crate) struct Bars(Option<MultiProgress>);

impl Bars {
    /// Draws on a terminal, unless quiet.
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
            // The default style shows the same, less readably.
            Err(_) => bar,
        }
    }

    /// Removes the bars: the results are printed as ordinary lines.
    pub(crate) fn clear(&self) {
        if let Some(bars) = &self.0 {
            // A terminal that is gone needs no clearing.
            let _ = bars.clear();
        }
    }

    /// Prints a line above the bars.
    pub(crate) fn say(&self, line: &str) {
        match &self.0 {
            // Like `term::say`, but redraws the bars.
            Some(bars) => drop(bars.println(term::harmless(line))),
            None => term::say(line),
        }
    }
}
