//! The process that has a database open for writing, as text: written to the lock file, shown in an
//! error message.

use std::fmt;
use std::path::Path;

/// Longest process name that is written or read, in characters.
const NAME_LENGTH: usize = 64;

/// The process that has a database open for writing, as its lock file names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Its process id.
    pub pid: Option<u32>,
    /// The name of its executable.
    pub process: Option<String>,
}

impl Holder {
    pub(crate) fn this_process() -> Self {
        let name = std::env::current_exe().ok();
        let name = name.as_deref().and_then(Path::file_stem).map(|name| name.to_string_lossy());
        Self { pid: Some(std::process::id()), process: name.map(|name| printable(&name)) }
    }

    /// Reads `<pid> <process>`; missing or malformed parts give `None`.
    pub(crate) fn parse(text: &str) -> Self {
        let line = text.lines().next().unwrap_or_default();
        let (pid, process) = line.split_once(' ').unwrap_or((line, ""));
        let process = printable(process.trim());
        Self { pid: pid.parse().ok(), process: (!process.is_empty()).then_some(process) }
    }
}

/// Removes control characters: the text is printed to a terminal, and any process may have written it.
fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(NAME_LENGTH).collect()
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.pid, &self.process) {
            (Some(pid), Some(process)) => write!(f, "process {pid} ({process})"),
            (Some(pid), None) => write!(f, "process {pid}"),
            (None, _) => write!(f, "another process"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_holder_round_trips_and_odd_text_is_ignored() {
        let holder = Holder { pid: Some(42), process: Some("landfall relay".to_owned()) };
        assert_eq!(Holder::parse("42 landfall relay\n"), holder);
        assert_eq!(holder.to_string(), "process 42 (landfall relay)");
        assert_eq!(Holder::parse(""), Holder::default());
        assert_eq!(Holder::parse("x\u{1b}[2J").to_string(), "another process");
        assert_eq!(Holder::parse("7 a\u{1b}b").process.as_deref(), Some("ab"));
    }
}
