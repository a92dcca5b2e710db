//! A note as it is printed: its title, its name in messages, its contents.

use crate::find::Listed;
use crate::note::Note;
use crate::term::{self, first_line, say};

/// The most characters of a text's first line that become the title; a longer line is a paragraph.
pub(crate) const TITLE_CHARS: usize = 80;

/// The title in one line; a placeholder if it is empty.
pub(crate) fn title_of(note: &Note) -> String {
    let title = first_line(&note.title, TITLE_CHARS);
    if title.is_empty() { "(untitled)".to_owned() } else { title }
}

/// A note's title in quotes, or its id if it has no title.
pub(crate) fn name_of(listed: &Listed) -> String {
    match &listed.note {
        Ok(note) => format!("“{}”", title_of(note)),
        Err(_) => listed.document.id().to_string(),
    }
}

/// Prints a note's contents below its title.
pub(crate) fn print(note: &Note) {
    // Also without a terminal: the reader of a pipe may print to one.
    let body = term::tame_text(note.body.strip_prefix('\u{feff}').unwrap_or(&note.body));
    match body.ends_with('\n') {
        true => term::say_lines(&body),
        false => say(body),
    }
    for item in note.items.iter().flatten() {
        say(format!("- {}", first_line(item, term::width())));
    }
}
