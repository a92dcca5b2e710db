//! Sets up logging to standard error: as text for people on a terminal, otherwise as JSON.
//!
//! Logging never blocks and never panics, whatever the state of standard error: see `lossy`.

mod lossy;

use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::sync::LazyLock;

use clap::ValueEnum;
use prometheus_client::metrics::counter::Counter;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{FilterFn, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::limits;
use lossy::{Flush, Lossy};

/// The format of log lines.
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

/// The number of this process's log lines that were dropped because standard error did not accept them.
static LOST: LazyLock<Counter> = LazyLock::new(Counter::default);

/// The number of dropped log lines, for the metrics.
pub(crate) fn lost() -> Counter {
    LOST.clone()
}

/// Logging of the process. On drop, it writes the queued lines, for a bounded time.
pub(crate) struct Logging {
    _flush: Option<Flush>,
}

/// Starts logging for the process, unless the program that embeds the relay has done so. `RUST_LOG` sets the
/// filter; the default is `info`.
pub(crate) fn start(format: LogFormat) -> Logging {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let report =
        |lines| tracing::warn!(lines, "log lines were dropped because standard error was blocked");
    // A system without threads cannot run the relay either; the later failure is reported.
    let Ok((lossy, flush)) = Lossy::start(std::io::stderr(), lost(), report) else {
        return Logging { _flush: None };
    };
    // The formatter would report its own failures with `eprintln!`, which panics.
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lossy)
        .log_internal_errors(false);
    let started = match format {
        LogFormat::Human => lines.with_ansi(terminal).finish().with(no_contents()).try_init(),
        LogFormat::Auto if terminal => {
            lines.with_ansi(true).finish().with(no_contents()).try_init()
        }
        LogFormat::Auto | LogFormat::Json => {
            // A line is in at most one span: written as `span`, and not again in a list.
            let lines = lines.json().flatten_event(true).with_span_list(false);
            lines.finish().with(no_contents()).try_init()
        }
    };
    match started {
        // The default hook writes to standard error, and would block if that is stuck.
        Ok(()) => std::panic::set_hook(Box::new(log_panic)),
        Err(_) => tracing::debug!("logging is already set up"),
    }
    Logging { _flush: Some(flush) }
}

/// Keeps tokens and documents out of the log, whatever `RUST_LOG` says: at the level `trace`, tungstenite logs
/// the whole messages.
fn no_contents() -> FilterFn<fn(&Metadata<'_>) -> bool> {
    filter_fn(|line| *line.level() < Level::TRACE || !line.target().starts_with("tungstenite"))
}

/// Writes a last line to standard error, for a bounded time.
pub(crate) fn last_line(line: String) {
    lossy::write_within(std::io::stderr(), line, limits::LOG_FLUSH);
}

fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let panic = info.payload_as_str().unwrap_or("no message");
    let backtrace = std::backtrace::Backtrace::capture();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        tracing::error!(thread, place, panic, %backtrace, "a thread panicked");
    } else {
        tracing::error!(thread, place, panic, "a thread panicked");
    }
}
