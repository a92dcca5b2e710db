//! Where log lines go: to standard error, for people on a terminal and as JSON otherwise.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Starts logging for the process, unless whoever carries the relay has done so. What is shown is
/// asked for with `RUST_LOG`; by default everything from `info` on.
pub(crate) fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Human => lines.with_ansi(terminal).try_init(),
        LogFormat::Auto if terminal => lines.with_ansi(true).try_init(),
        LogFormat::Auto | LogFormat::Json => {
            // A line is in one span at most: as `span`, and not again in a list.
            lines.json().flatten_event(true).with_span_list(false).try_init()
        }
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}
