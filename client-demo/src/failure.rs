//! Failures of commands: one line for people, and an exit code for scripts. The only place that maps the
//! library's errors to exit codes and remedies.

use std::fmt::Display;
use std::process::ExitCode;

use landfall::error_chain;
use landfall::{
    ChangeError, CheckError, ConnectError, FlushError, OpenDocumentError, OpenError, ReadError,
    RejectedChangesError, SpaceError, StoreError, StoreFailure,
};

use serde::{Deserialize, Serialize};

use crate::term::count;

/// The exit codes. `docs/notebook.md` lists them too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Exit {
    /// A failure without a code of its own.
    Other = 1,
    /// Wrong usage: an invalid option, URL or name.
    Usage = 2,
    /// The store cannot be opened, read or written.
    Store = 3,
    /// No relay answers, the relay refuses, or changes are still pending.
    Relay = 4,
    /// No such note or space, or an ambiguous name.
    Note = 5,
    /// Two things that must be equal differ, or a note does not have the documented shape.
    Differs = 6,
    /// An input file is missing or invalid; an output file exists already, or cannot be written.
    Input = 7,
    /// Ended by a signal.
    Interrupted = 130,
}

/// The table for `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 other failures; 2 wrong usage; 3 store not usable; \
4 relay not reached, refusing, or changes still pending; 5 no such note or space, or several; \
6 contents differ, or a note is malformed; 7 a file cannot be read or written; 130 interrupted";

/// A failed command: what failed, why, and the remedy.
#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{what}: {why}; {remedy}")]
pub(crate) struct Failure {
    exit: Exit,
    what: String,
    why: String,
    remedy: String,
    /// Whether another process can resolve it.
    #[serde(skip)]
    kind: Kind,
}

/// Failures that can be resolved elsewhere.
#[derive(Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Final,
    /// Another process has the store open: the command can be passed to it.
    StoreInUse,
    /// The user must be asked, by another process.
    Question(String),
}

impl Failure {
    pub(crate) fn new(
        exit: Exit,
        what: impl Display,
        why: impl Display,
        remedy: impl Display,
    ) -> Self {
        let (what, why, remedy) = (line(what), line(why), line(remedy));
        Self { exit, what, why, remedy, kind: Kind::Final }
    }

    /// The user must be asked first, by the process that the user started.
    pub(crate) fn ask(question: &str) -> Self {
        let failure =
            Self::new(Exit::Usage, "nothing was done", "it was not confirmed", "give --yes");
        Self { kind: Kind::Question(question.to_owned()), ..failure }
    }

    /// The question for the user.
    pub(crate) fn question(&self) -> Option<&str> {
        match &self.kind {
            Kind::Question(question) => Some(question),
            _ => None,
        }
    }

    /// Whether another process has the store open.
    pub(crate) fn is_store_in_use(&self) -> bool {
        self.kind == Kind::StoreInUse
    }

    /// The same failure, with a second reason.
    pub(crate) fn because(mut self, why: &impl Display) -> Self {
        self.why = format!("{}, and {}", self.why, line(why));
        self.kind = Kind::Final;
        self
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// The code for the process.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.exit as u8)
    }

    /// The line for people.
    pub(crate) fn line(&self) -> String {
        format!("error: {self}")
    }

    /// The same failure, with its consequence for the user's work added to the remedy.
    pub(crate) fn and(mut self, more: impl Display) -> Self {
        self.remedy = format!("{}; {}", self.remedy, line(more));
        self
    }
}

/// One line, without control characters from a path, a URL or a server's answer.
fn line(text: impl Display) -> String {
    let text = text.to_string();
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().map(printable).collect()
}

/// The remedy for our own bugs.
pub(crate) const REPORT: &str = "please report this";

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        const OTHER_STORE: &str = "choose another file with --store";
        match &error {
            OpenError::StoreInUse { path, holder } => {
                let what = format!("cannot open the store {}", path.display());
                let remedy = "end that first, or use another store with --store";
                let failure = Self::new(Exit::Store, what, format!("{holder} has it open"), remedy);
                Self { kind: Kind::StoreInUse, ..failure }
            }
            OpenError::NotAStore { path, what: why } => {
                let what = format!("{} is not a Landfall store", path.display());
                Self::new(Exit::Store, what, why, format!("it was not touched; {OTHER_STORE}"))
            }
            OpenError::TooNew { found, supported } => {
                let why = format!("it has format {found}, this version reads up to {supported}");
                let remedy = format!("use a newer landfall-demo, or {OTHER_STORE}");
                Self::new(Exit::Store, "cannot open the store", why, remedy)
            }
            OpenError::TooOld { found, needed } => {
                let why = format!("it has format {found}, this version reads {needed}");
                let remedy = "run a command that edits once, or `landfall-demo store compact`: \
                              both migrate it to the new format";
                Self::new(Exit::Store, "cannot open the store", why, remedy)
            }
            OpenError::Storage(source) => {
                let remedy = "check that its folder exists, can be written and has room, \
                              or choose another with --store";
                Self::new(Exit::Store, "cannot open the store", error_chain(&**source), remedy)
            }
            _ => Self::new(Exit::Other, "cannot open the store", error_chain(&error), REPORT),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let remedy = match error.class {
            StoreFailure::DiskFull => "make room on the disk and try again",
            StoreFailure::ReadOnly => "make the store writable, or use another with --store",
            StoreFailure::Corrupt => {
                "restore a backup, or sync again from the relay into a new store"
            }
            StoreFailure::Closed => "try again",
            StoreFailure::Gone => "put the store's file back or restore a backup, then try again",
            _ => "check the disk and try again",
        };
        Self::new(Exit::Store, "the store failed", error_chain(&*error.source), remedy)
    }
}

impl From<SpaceError> for Failure {
    fn from(error: SpaceError) -> Self {
        match error {
            SpaceError::BadName(why) => {
                let remedy = "choose another name with --space";
                Self::new(Exit::Usage, "invalid space name", why, remedy)
            }
            SpaceError::Unknown(name) => {
                let why = format!("it has no space `{name}`");
                let remedy = "create a note in it, or sync";
                Self::new(Exit::Note, "nothing to read in the store", why, remedy)
            }
            SpaceError::Store(error) => error.into(),
            other => Self::new(Exit::Other, "cannot open the space", error_chain(&other), REPORT),
        }
    }
}

impl From<OpenDocumentError> for Failure {
    fn from(error: OpenDocumentError) -> Self {
        match error {
            OpenDocumentError::Unknown { document, space } => {
                let (what, why) = (format!("no note {document}"), format!("not in `{space}`"));
                Self::new(Exit::Note, what, why, "see `landfall-demo notes list`")
            }
            OpenDocumentError::Store(error) => error.into(),
            other => Self::new(Exit::Other, "cannot open the note", error_chain(&other), REPORT),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(error) => error.into(),
            ReadError::Deleted => deleted_meanwhile("the note was not changed"),
            other => Self::new(Exit::Other, "cannot read the note", error_chain(&other), REPORT),
        }
    }
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Self {
        let what = "the note was not changed";
        match error {
            ChangeError::Store(error) => error.into(),
            ChangeError::Closure(inner) => match inner.downcast::<Self>() {
                Ok(failure) => *failure,
                Err(other) => Self::new(Exit::Other, what, error_chain(&*other), REPORT),
            },
            ChangeError::ChangeTooLarge { limit, actual } => {
                let why = format!("the change has {actual} bytes, the limit is {limit}");
                Self::new(Exit::Other, what, why, "split the edit into smaller ones")
            }
            ChangeError::TooManyOperations { limit, actual } => {
                let why = format!("the change has {actual} operations, the limit is {limit}");
                Self::new(Exit::Other, what, why, "split the edit into smaller ones")
            }
            ChangeError::Deleted => deleted_meanwhile(what),
            ChangeError::DocumentFull(why) => {
                Self::new(Exit::Note, what, error_chain(&*why), "continue in another note")
            }
            ChangeError::NotAdmitted(why) => {
                Self::new(Exit::Other, what, error_chain(&why), "split the edit into smaller ones")
            }
            other => Self::new(Exit::Other, what, error_chain(&other), "try again"),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::BadUrl { url, what } => {
                let remedy = "give one like ws://127.0.0.1:7600 with --relay";
                Self::new(Exit::Usage, format!("`{url}` is not the URL of a relay"), what, remedy)
            }
            other => Self::new(Exit::Other, "cannot connect", error_chain(&other), "try again"),
        }
    }
}

impl From<FlushError> for Failure {
    fn from(error: FlushError) -> Self {
        let what = "not in sync";
        match error {
            FlushError::Refused { pending, rejected } => {
                let first = rejected.first();
                let why = first.map_or_else(String::new, |p| format!(" ({}: {})", p.code, p.what));
                let why = format!("the relay refuses {}{why}", count(pending.changes, "change"));
                let remedy = "they are kept in this store";
                Self::new(Exit::Relay, what, why, remedy)
            }
            FlushError::SpaceRefused { spaces, .. } => {
                let first = spaces.first();
                let why = first.map_or_else(String::new, |refused| {
                    format!("the relay refuses the space `{}` ({})", refused.space, refused.code)
                });
                let remedy = first.map_or("try again", |refused| refused.what.as_str());
                Self::new(Exit::Relay, what, why, remedy)
            }
            FlushError::Offline { pending, last_error, .. }
            | FlushError::TimedOut { pending, last_error, .. } => {
                let why = last_error.unwrap_or_else(|| "the time limit passed".to_owned());
                unsynced(&why, pending.changes)
            }
            other => Self::new(Exit::Other, what, error_chain(&other), "try again"),
        }
    }
}

impl From<CheckError> for Failure {
    fn from(error: CheckError) -> Self {
        Self::new(Exit::Relay, "not compared with the relay", error_chain(&error), "try again")
    }
}

impl From<RejectedChangesError> for Failure {
    fn from(error: RejectedChangesError) -> Self {
        let what = "the edits were not changed";
        match error {
            RejectedChangesError::Store(error) => error.into(),
            RejectedChangesError::NothingRejected => {
                let why = "the relay has refused no change of the note";
                Self::new(Exit::Note, "nothing was done", why, "see `landfall-demo notes refused`")
            }
            RejectedChangesError::Unanswered => {
                let remedy = "push them again with `landfall-demo notes retry`, or save them with \
                    `landfall-demo notes export`";
                Self::new(Exit::Other, what, error, remedy)
            }
            RejectedChangesError::Changed => Self::new(Exit::Other, what, error, "try again"),
            RejectedChangesError::Form(_)
            | RejectedChangesError::Rebuild(_)
            | RejectedChangesError::DocumentFull(_) => {
                let remedy = "they are kept; save them with `landfall-demo notes export`";
                Self::new(Exit::Other, what, error_chain(&error), remedy)
            }
            other => Self::new(Exit::Other, what, error_chain(&other), REPORT),
        }
    }
}

/// The error for a note that was deleted while it was being edited.
pub(crate) fn deleted_meanwhile(what: &str) -> Failure {
    let why = "the note was permanently deleted in the meantime";
    Failure::new(Exit::Note, what, why, "see `landfall-demo notes deleted`, or create a new note")
}

/// The error for a command that the process with the store open does not perform.
pub(crate) fn rejected(why: &str) -> Failure {
    Failure::new(Exit::Store, "the command was rejected", why, "end that process first")
}

/// Some changes did not reach the relay, or the relay's changes may be missing here.
pub(crate) fn unsynced(why: &str, pending: u64) -> Failure {
    unsynced_until(why, pending, "sync again when the relay is reachable")
}

/// Like [`unsynced`], with another remedy.
pub(crate) fn unsynced_until(why: &str, pending: u64, remedy: &str) -> Failure {
    let kept = match pending {
        0 => "nothing is pending".to_owned(),
        n => format!("saved here, pending: {}", count(n, "change")),
    };
    let why = why.trim_end_matches("; is it running?");
    Failure::new(Exit::Relay, "not in sync", why, format!("{kept}; {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_line() {
        let failure = Failure::new(Exit::Note, "no note\n`x`", "a\u{1b}[31m", "look");
        assert_eq!(failure.line(), "error: no note `x`: a [31m; look");
    }

    #[test]
    fn a_failure_inside_a_change_is_returned_unchanged() {
        let ours = Failure::new(Exit::Note, "what", "why", "remedy");
        let back = Failure::from(ChangeError::Closure(Box::new(ours)));
        assert_eq!((back.exit, back.to_string().as_str()), (Exit::Note, "what: why; remedy"));
    }

    #[test]
    fn each_cause_is_printed_once() {
        let inner = std::io::Error::other("disk on fire");
        let outer = StoreError::new(StoreFailure::Other, inner);
        assert_eq!(error_chain(&outer).matches("disk on fire").count(), 1);
    }
}
