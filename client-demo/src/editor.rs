//! Opens a text in the user's editor. The typed text is never lost: once the editor has changed the file, the
//! file stays until the text is saved.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;

use tempfile::TempPath;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::failure::{Exit, Failure};
use crate::lines;
use crate::wait::Waiter;

/// The editor if neither `$VISUAL` nor `$EDITOR` is set.
const EDITOR_DEFAULT: &str = "vi";

/// Why there is no edited text.
#[derive(Debug, Error)]
pub(crate) enum EditorError {
    /// The file for the editor could not be written or read.
    #[error("cannot use the file for the editor: {0}")]
    File(#[source] io::Error),
    /// The editor could not be started.
    #[error("`{command}` cannot be started: {source}")]
    Start {
        command: String,
        #[source]
        source: io::Error,
    },
    /// The editor exited with an error: the user may have meant to abort.
    #[error("`{command}` ended with {status}")]
    Failed { command: String, status: ExitStatus },
    /// The terminal is gone, or the system is shutting down.
    #[error("a signal arrived while the editor was open")]
    Interrupted,
    /// The process cannot wait for the editor.
    #[error("cannot wait for the editor: {0}")]
    Wait(String),
    /// The edited file is not text.
    #[error("the edited file is not UTF-8: {0}")]
    NotText(String),
}

/// Why there is no edited text, and where the typed text is.
#[derive(Debug)]
pub(crate) struct NotEdited {
    pub(crate) error: EditorError,
    /// The file, which is kept if the editor had changed it.
    pub(crate) kept: Option<PathBuf>,
}

impl From<EditorError> for NotEdited {
    fn from(error: EditorError) -> Self {
        Self { error, kept: None }
    }
}

impl NotEdited {
    /// The failure of a command that edited this note.
    pub(crate) fn failure(self, note: &str) -> Failure {
        let exit = match self.error {
            EditorError::Interrupted => Exit::Interrupted,
            _ => Exit::Other,
        };
        let remedy = match &self.error {
            EditorError::Start { .. } => "set EDITOR, or give the text with --text",
            EditorError::NotText(_) => "save it as UTF-8",
            EditorError::File(_) => "check that the temporary folder can be written",
            _ => "run the command again",
        };
        let failure = Failure::new(exit, "the note was not edited", self.error, remedy);
        match self.kept {
            Some(path) => failure.and(kept_in(&path, &format!("notes edit {note}"))),
            None => failure,
        }
    }
}

/// The path of a kept text, and the command that uses it.
pub(crate) fn kept_in(path: &Path, command: &str) -> String {
    let path = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+@:,".contains(c);
    let quoted = match path.chars().all(is_plain) {
        true => path.clone(),
        false => format!("'{}'", path.replace('\'', "'\\''")),
    };
    format!("your text is kept in {path}, for `landfall-demo {command} --text - < {quoted}`")
}

/// An edited text. Its file stays, even if this program panics, until `saved` is called.
#[derive(Debug)]
pub(crate) struct Edited {
    pub(crate) text: String,
    /// The path of its file; `None` if the editor changed nothing.
    pub(crate) draft: Option<PathBuf>,
}

impl Edited {
    /// The text is in the note: its file is not needed any more.
    pub(crate) fn saved(self) {
        if let Some(path) = self.draft {
            remove(&path);
        }
    }
}

/// Removes a saved draft.
pub(crate) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        crate::term::note(format!("could not remove {}: {error}", path.display()));
    }
}

/// Opens `$VISUAL` or `$EDITOR` on a text and waits until it exits.
pub(crate) fn edit(text: &str) -> Result<Edited, NotEdited> {
    let command = ["VISUAL", "EDITOR"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|command| !command.trim().is_empty())
        .unwrap_or_else(|| EDITOR_DEFAULT.to_owned());
    edit_with(&command, text)
}

fn edit_with(command: &str, text: &str) -> Result<Edited, NotEdited> {
    let mut made = tempfile::Builder::new();
    let made = made.prefix("landfall-note-").suffix(".md").tempfile();
    let mut file = made.map_err(EditorError::File)?;
    // Editors add a line end at the end of a file. With one there already, the addition is known and can be
    // removed.
    let end = match text.is_empty() || text.ends_with(['\n', '\r']) {
        true => "",
        false => lines::end_of(text),
    };
    let given = format!("{text}{end}");
    let written = file.write_all(given.as_bytes()).and_then(|()| file.flush());
    written.map_err(EditorError::File)?;
    let path = file.into_temp_path();
    let ran = run(command, &path);
    // Read by path: many editors replace the file by a new one.
    let bytes = match (std::fs::read(&path), ran) {
        (Ok(bytes), Ok(())) => bytes,
        // After a signal the editor may still run, and write later.
        (Ok(bytes), Err(error))
            if bytes == given.as_bytes() && !matches!(error, EditorError::Interrupted) =>
        {
            return Err(error.into());
        }
        // After an abort or an editor crash, the user decides what to do with the text.
        (Ok(_), Err(error)) => return Err(NotEdited { error, kept: Some(keep(path)) }),
        (Err(_), Err(error)) => return Err(error.into()),
        // A file that cannot be read may still exist.
        (Err(error), Ok(())) => {
            let is_gone = error.kind() == io::ErrorKind::NotFound;
            let kept = if is_gone { None } else { Some(keep(path)) };
            return Err(NotEdited { error: EditorError::File(error), kept });
        }
    };
    if bytes == given.as_bytes() {
        return Ok(Edited { text: text.to_owned(), draft: None });
    }
    let utf8 = std::str::from_utf8(&bytes).ok().map(str::to_owned);
    // ASCII letters in UTF-16 are also valid UTF-8, with zero bytes between them.
    let utf8 = utf8.filter(|edited| text.contains('\0') || !edited.contains('\0'));
    match utf8.or_else(|| utf16(&bytes)) {
        Some(edited) => Ok(Edited { text: as_before(text, edited, end), draft: Some(keep(path)) }),
        None => {
            let error = EditorError::NotText(what_it_is(&bytes));
            Err(NotEdited { error, kept: Some(keep(path)) })
        }
    }
}

/// Keeps the file beyond this program, whatever the system says to that.
fn keep(path: TempPath) -> PathBuf {
    path.keep().unwrap_or_else(|failed| {
        let kept = failed.path.to_path_buf();
        // Dropped, it would remove the file.
        std::mem::forget(failed.path);
        kept
    })
}

/// The edited text without the line end that was added for the file.
fn as_before(before: &str, mut edited: String, end: &str) -> String {
    let only_of_the_file = before.is_empty() || !end.is_empty();
    if only_of_the_file && edited.ends_with('\n') {
        edited.pop();
        if edited.ends_with('\r') {
            edited.pop();
        }
    } else if only_of_the_file && end == "\r" && edited.ends_with('\r') {
        edited.pop();
    }
    edited
}

/// Decodes UTF-16 with a byte order mark, as some editors on Windows write it.
fn utf16(bytes: &[u8]) -> Option<String> {
    let unit: fn([u8; 2]) -> u16 = match bytes {
        [0xff, 0xfe, ..] => u16::from_le_bytes,
        [0xfe, 0xff, ..] => u16::from_be_bytes,
        _ => return None,
    };
    let (units, []) = bytes[2..].as_chunks::<2>() else { return None };
    char::decode_utf16(units.iter().copied().map(unit)).collect::<Result<_, _>>().ok()
}

/// A description of bytes that are not UTF-8, as far as they can be recognised.
fn what_it_is(bytes: &[u8]) -> String {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.contains(&0) {
        return "it looks like UTF-16".to_owned();
    }
    let valid = std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
    let line = bytes[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
    let byte = bytes.get(valid).copied().unwrap_or_default();
    format!("line {line} has the byte {byte:#04x}, as in Latin-1")
}

/// Runs the command line with the path appended, like a shell would: for example `code --wait`.
fn run(command: &str, path: &Path) -> Result<(), EditorError> {
    let waiter = Waiter::new().map_err(|failure| EditorError::Wait(failure.to_string()))?;
    let ended = waiter.beside_an_editor(|| {
        let mut child = started(command).arg(path).spawn()?;
        let (sender, receiver) = oneshot::channel();
        thread::Builder::new().name("editor".to_owned()).spawn(move || {
            // The waiting side may have been ended by a signal.
            let _ = sender.send(child.wait());
        })?;
        Ok(receiver)
    });
    let failed = |source| EditorError::Start { command: command.to_owned(), source };
    let status = match ended.map_err(failed)? {
        None => return Err(EditorError::Interrupted),
        Some(Ok(status)) => status.map_err(|error| EditorError::Wait(error.to_string()))?,
        Some(Err(_)) => return Err(EditorError::Wait("a thread panicked".to_owned())),
    };
    if status.success() {
        return Ok(());
    }
    Err(EditorError::Failed { command: command.to_owned(), status })
}

/// The editor's program and arguments; the caller appends the file. Uses a shell, as git does, if the command
/// has characters that a shell interprets, such as quotes.
fn started(command: &str) -> Command {
    const READ_BY_A_SHELL: &[char] = &[
        '|', '&', ';', '<', '>', '(', ')', '$', '`', '\\', '"', '\'', '*', '?', '[', '#', '~', '=',
        '%',
    ];
    if cfg!(unix) && command.contains(READ_BY_A_SHELL) {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{command} \"$@\""), command]);
        return shell;
    }
    let mut words = command.split_whitespace();
    let mut editor = Command::new(words.next().unwrap_or(EDITOR_DEFAULT));
    editor.args(words);
    editor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn the_editor_command_is_parsed_by_a_shell() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("an editor");
        std::fs::write(&script, "#!/bin/sh\necho \"$1\" > \"$2\"\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).unwrap();
        let edited = edit_with(&format!("'{}' 'two words'", script.display()), "text").unwrap();
        assert_eq!(edited.text, "two words");
        edited.saved();
    }

    #[test]
    fn a_draft_with_a_blank_in_its_path_is_quoted() {
        let message = kept_in(Path::new("/a b/it's.md"), "notes edit 1");
        assert!(message.ends_with("--text - < '/a b/it'\\''s.md'`"), "{message}");
    }

    #[test]
    fn an_editor_that_changes_nothing_makes_no_edit() {
        for text in [
            "",
            "one",
            "one\n",
            "one\r\ntwo",
            "one\r",
            "one\r\n",
            "a\rb",
            "\u{feff}a\r\n\r",
            "e\u{301} 漢",
            "\n",
        ] {
            let edited = edit_with("true", text).unwrap();
            assert_eq!((edited.text.as_str(), edited.draft), (text, None));
        }
    }

    /// An editor that is a script: `$1` is the file.
    #[cfg(unix)]
    fn script(text: &str, script: &str) -> Result<Edited, NotEdited> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("editor.sh");
        std::fs::write(&path, script).unwrap();
        edit_with(&format!("sh {}", path.display()), text)
    }

    #[cfg(unix)]
    #[test]
    fn the_edit_contains_only_the_typed_text() {
        for (text, typed, expected) in [
            ("", "a\n", "a"),
            ("one", "one\ntwo\n", "one\ntwo"),
            ("one\r\ntwo", "one\r\ntwo!\r\n", "one\r\ntwo!"),
            ("one\rtwo", "one\rtwo!\r", "one\rtwo!"),
            ("one\n", "one\ntwo\n", "one\ntwo\n"),
            ("one\n", "one", "one"),
            ("\u{feff}one\r\n", "\u{feff}two\r\n", "\u{feff}two\r\n"),
        ] {
            let typed = typed.replace('\n', "\\n").replace('\r', "\\r");
            let edited = script(text, &format!("printf '{typed}' > \"$1\"")).unwrap();
            assert_eq!(edited.text, expected, "{text:?}");
            let draft = edited.draft.clone().unwrap();
            assert!(draft.exists());
            edited.saved();
            assert!(!draft.exists());
        }
    }

    #[test]
    fn editor_failures_have_their_own_variants() {
        let failed = edit_with("false", "a").unwrap_err();
        assert!(matches!(failed.error, EditorError::Failed { .. }) && failed.kept.is_none());
        let missing = edit_with("landfall-no-such-editor --wait", "a").unwrap_err();
        assert!(matches!(missing.error, EditorError::Start { .. }) && missing.kept.is_none());
    }

    #[test]
    fn utf16_with_a_byte_order_mark_is_read() {
        assert_eq!(utf16(b"\xff\xfea\0\x22\x6f").as_deref(), Some("a漢"));
        assert_eq!(utf16(b"\xfe\xff\0a\x6f\x22").as_deref(), Some("a漢"));
        for bad in [&b"a\0"[..], b"\xff\xfea", b"\xff\xfe\x00\xd8", b"\xff"] {
            assert_eq!(utf16(bad), None);
        }
    }

    #[test]
    fn encodings_other_than_utf8_are_identified() {
        assert_eq!(what_it_is(b"\xff\xfea\0"), "it looks like UTF-16");
        assert_eq!(what_it_is(b"a\ncaf\xe9"), "line 2 has the byte 0xe9, as in Latin-1");
    }
}
