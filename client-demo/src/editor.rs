//! Letting a person edit a text in the editor of their choice.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use tempfile::NamedTempFile;
use thiserror::Error;

use crate::failure::{Exit, Failure};

/// Where nothing says which one.
const EDITOR_DEFAULT: &str = "vi";

/// Why there is no edited text.
#[derive(Debug, Error)]
pub(crate) enum EditorError {
    /// The file for the editor could not be written or read.
    #[error("the file for the editor: {0}")]
    File(#[source] io::Error),
    /// The editor could not be started.
    #[error("`{command}` cannot be started: {source}")]
    Start {
        command: String,
        #[source]
        source: io::Error,
    },
    /// It ended with an error: the person may have meant to give up.
    #[error("`{command}` ended with {status}")]
    Failed { command: String, status: ExitStatus },
    /// It wrote something that is no text.
    #[error("the edited file is not UTF-8")]
    NotText,
}

impl From<EditorError> for Failure {
    fn from(error: EditorError) -> Self {
        let remedy = match error {
            EditorError::Start { .. } => "set EDITOR, or give the text with --text",
            EditorError::Failed { .. } => "nothing was changed",
            EditorError::NotText => "save it as UTF-8",
            EditorError::File(_) => "see that the temporary folder can be written",
        };
        Self::new(Exit::Other, "the note was not edited", error, remedy)
    }
}

/// A text that was edited. Its file stays until this is dropped, or is kept.
pub(crate) struct Edited {
    pub(crate) text: String,
    file: NamedTempFile,
}

impl Edited {
    /// Keeps the file, for a text that could not be written back: a person's work is not thrown
    /// away. Gives its path if that worked.
    pub(crate) fn keep(self) -> Option<PathBuf> {
        self.file.keep().ok().map(|(_, path)| path)
    }
}

/// Opens `$VISUAL` or `$EDITOR` on a text and waits until it is closed.
pub(crate) fn edit(text: &str) -> Result<Edited, EditorError> {
    let command = ["VISUAL", "EDITOR"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|command| !command.trim().is_empty())
        .unwrap_or_else(|| EDITOR_DEFAULT.to_owned());
    edit_with(&command, text)
}

fn edit_with(command: &str, text: &str) -> Result<Edited, EditorError> {
    let mut made = tempfile::Builder::new();
    let mut file =
        made.prefix("landfall-note-").suffix(".md").tempfile().map_err(EditorError::File)?;
    // Editors end a file with a newline: with one there already, none is added unseen.
    let added = !text.is_empty() && !text.ends_with('\n');
    let end = if added { "\n" } else { "" };
    write!(file, "{text}{end}").and_then(|()| file.flush()).map_err(EditorError::File)?;
    run(command, file.path())?;
    // Read by path: many editors put a new file in the place of the old one.
    let bytes = std::fs::read(file.path()).map_err(EditorError::File)?;
    let mut edited = String::from_utf8(bytes).map_err(|_| EditorError::NotText)?;
    if (added || text.is_empty()) && edited.ends_with('\n') {
        edited.pop();
        if edited.ends_with('\r') {
            edited.pop();
        }
    }
    Ok(Edited { text: edited, file })
}

/// Runs the command line with the path at its end, as a shell would: `code --wait` is one.
fn run(command: &str, path: &Path) -> Result<(), EditorError> {
    let mut words = command.split_whitespace();
    let program = words.next().unwrap_or(EDITOR_DEFAULT);
    let status = Command::new(program).args(words).arg(path).status();
    let status =
        status.map_err(|source| EditorError::Start { command: command.to_owned(), source })?;
    if status.success() {
        return Ok(());
    }
    Err(EditorError::Failed { command: command.to_owned(), status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_editor_that_changes_nothing_changes_nothing() {
        for text in ["", "one", "one\n", "one\r\ntwo", "e\u{301} 漢"] {
            assert_eq!(edit_with("true", text).unwrap().text, text);
        }
    }

    #[test]
    fn failures_of_editors_are_typed() {
        assert!(matches!(edit_with("false", "a"), Err(EditorError::Failed { .. })));
        let missing = edit_with("landfall-no-such-editor --wait", "a");
        assert!(matches!(missing, Err(EditorError::Start { .. })));
    }

    #[test]
    fn a_kept_text_survives() {
        let path = edit_with("true", "precious").unwrap().keep().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious\n");
        std::fs::remove_file(path).unwrap();
    }
}
