//! The command `import`: text and Markdown files become notes.
//!
//! A note's id is derived from the file's name and content, so the same file becomes the same note, however
//! often and on however many replicas it is imported. A changed file becomes another note: an import never
//! overwrites text.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landfall::error_chain;
use landfall::{CHANGE_OPERATIONS, ChangeError, DocumentId};
use thiserror::Error;

use crate::failure::{Exit, Failure};
use crate::lines::lines;
use crate::name::composed;
use crate::note;
use crate::notebook::Notebook;
use crate::place::NotebookPlace;
use crate::term::{count, note as remark, say, tame};
use crate::text::{TooLong, fits};

/// Larger files are rejected without being read: a character of UTF-8 has at most four bytes, and each is an
/// operation of the change that creates the note.
const BYTES_MOST: u64 = 4 * CHANGE_OPERATIONS;

/// Most files in one run. More is a mistake, such as a home folder.
const FILES_MOST: usize = 10_000;

/// The extensions imported from folders. A file named on the command line may have any name.
const EXTENSIONS: &[&str] = &["md", "markdown", "txt", "text"];

/// Why a file did not become a note.
#[derive(Debug, Error)]
pub(crate) enum SkipError {
    #[error("it is not UTF-8 text")]
    NotUtf8,
    #[error("it is a binary file")]
    Binary,
    #[error("it has {bytes} bytes, a note at most {CHANGE_OPERATIONS} characters; split it")]
    TooLarge { bytes: u64 },
    #[error("{0}; split it")]
    TooLong(#[from] TooLong),
    #[error("it is empty")]
    Empty,
    #[error("it is neither a file nor a folder")]
    Special,
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error("it exceeds the limits of one change; split it")]
    ChangeTooLarge,
    #[error("its note was deleted permanently; `notes new --text -` creates a new note from it")]
    Deleted,
    #[error("cannot create a note from it: {0}")]
    Refused(String),
}

/// The result of an import.
#[derive(Debug, Default)]
struct Tally {
    made: u64,
    known: u64,
    skipped: u64,
}

/// Runs the command.
pub(crate) fn run(place: &NotebookPlace, paths: &[PathBuf]) -> Result<(), Failure> {
    let paths: Vec<PathBuf> = match &place.hosted {
        Some(hosted) => paths.iter().map(|path| hosted.path(path)).collect(),
        None => paths.to_vec(),
    };
    for path in &paths {
        path.symlink_metadata().map_err(|error| {
            let what = format!("cannot import {}", path.display());
            Failure::new(Exit::Input, what, error, "nothing was imported; check the path")
        })?;
    }
    // Opened before any output: if another process has the store, that process runs the command and prints
    // it.
    let notebook = Notebook::open(place)?;
    let mut files = BTreeSet::new();
    let mut tally = Tally::default();
    for path in &paths {
        collect(path, true, &mut files, &mut |path, why| tally.skip(path, &why))?;
    }
    let mut known: BTreeSet<DocumentId> = notebook.space.documents()?.into_iter().collect();
    for path in &files {
        match import(&notebook, path, &mut known)? {
            Ok(true) => {
                tally.made += 1;
                if !place.quiet {
                    say(format!("created {}", shown(path)));
                }
            }
            Ok(false) => tally.known += 1,
            Err(why) => tally.skip(path, &why),
        }
    }
    if !place.quiet {
        let Tally { made, known, skipped } = tally;
        say(format!("{} created, {known} already there, {skipped} skipped", count(made, "note")));
    }
    match tally {
        Tally { made: 0, known: 0, skipped: 1.. } => {
            let why = "every file was skipped, for the reasons above";
            Err(Failure::new(Exit::Input, "nothing was imported", why, "give text files"))
        }
        // No note was created, so there is nothing to save.
        Tally { made: 0, .. } => notebook.close(),
        _ => notebook.saved(),
    }
}

impl Tally {
    fn skip(&mut self, path: &Path, why: &SkipError) {
        self.skipped += 1;
        remark(format!("skipped {}: {why}", shown(path)));
    }
}

fn shown(path: &Path) -> String {
    tame(&path.display().to_string()).replace('\n', " ")
}

/// Collects the files; skips hidden files, and links inside folders.
fn collect(
    path: &Path,
    named: bool,
    files: &mut BTreeSet<PathBuf>,
    skip: &mut impl FnMut(&Path, SkipError),
) -> Result<(), Failure> {
    if files.len() >= FILES_MOST {
        let why = format!("there are more than {FILES_MOST} files");
        return Err(Failure::new(
            Exit::Input,
            "nothing was imported",
            why,
            "import smaller folders",
        ));
    }
    let metadata = if named { fs::metadata(path) } else { fs::symlink_metadata(path) };
    match metadata {
        Err(error) => skip(path, error.into()),
        Ok(metadata) if metadata.is_dir() => match entries(path) {
            Ok(entries) => {
                for entry in entries {
                    collect(&entry, false, files, skip)?;
                }
            }
            Err(error) => skip(path, error.into()),
        },
        Ok(metadata) if metadata.is_file() => {
            if named || has_extension(path) {
                files.insert(path.to_owned());
            }
        }
        Ok(_) if named => skip(path, SkipError::Special),
        Ok(_) => {}
    }
    Ok(())
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let is_hidden = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
    };
    let paths: io::Result<Vec<PathBuf>> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect();
    Ok(paths?.into_iter().filter(|path| !is_hidden(path)).collect())
}

fn has_extension(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

/// Creates a note from a file; returns whether it is new.
fn import(
    notebook: &Notebook,
    path: &Path,
    known: &mut BTreeSet<DocumentId>,
) -> Result<Result<bool, SkipError>, Failure> {
    let text = match read(path) {
        Ok(text) => text,
        Err(why) => return Ok(Err(why)),
    };
    // macOS and other systems encode accents in file names differently: composed, both give the same note.
    let file = composed(&path.file_name().unwrap_or_default().to_string_lossy());
    let title = title(&text, path);
    if let Err(why) = fits(title.chars().count() + text.chars().count()) {
        return Ok(Err(why.into()));
    }
    let made = notebook.space.create_named(&format!("file {file}\n{text}"), |tx| {
        // No date: the same file must create the same note everywhere.
        note::write(tx, &title, &text, None)?;
        Ok(())
    });
    match made {
        Ok(document) => Ok(Ok(known.insert(document.id()))),
        Err(
            ChangeError::ChangeTooLarge { .. }
            | ChangeError::NotAdmitted(_)
            | ChangeError::DocumentFull(_)
            | ChangeError::TooManyOperations { .. },
        ) => Ok(Err(SkipError::ChangeTooLarge)),
        Err(ChangeError::Deleted) => Ok(Err(SkipError::Deleted)),
        // A store error affects every file.
        Err(ChangeError::Store(error)) => Err(error.into()),
        // All other errors are about this document.
        Err(error) => Ok(Err(SkipError::Refused(error_chain(&error)))),
    }
}

fn read(path: &Path) -> Result<String, SkipError> {
    let bytes = fs::metadata(path)?.len();
    // Checked before the file is read.
    if bytes > BYTES_MOST {
        return Err(SkipError::TooLarge { bytes });
    }
    text_of(fs::read(path)?)
}

fn text_of(bytes: Vec<u8>) -> Result<String, SkipError> {
    if bytes.contains(&0) {
        return Err(SkipError::Binary);
    }
    let text = String::from_utf8(bytes).map_err(|_| SkipError::NotUtf8)?;
    if text.trim_start_matches('\u{feff}').trim().is_empty() {
        return Err(SkipError::Empty);
    }
    Ok(text)
}

/// The first heading, or the file's name without its extension.
fn title(text: &str, path: &Path) -> String {
    let mut fenced = false;
    for line in lines(text) {
        if line.trim_start().starts_with("```") || line.trim_start().starts_with("~~~") {
            fenced = !fenced;
        }
        let level = line.bytes().take_while(|byte| *byte == b'#').count();
        let heading = line[level..].trim().trim_end_matches('#').trim_end();
        let is_heading = (1..=6).contains(&level) && line[level..].starts_with([' ', '\t']);
        if !fenced && is_heading && !heading.is_empty() {
            return heading.to_owned();
        }
    }
    composed(&path.file_stem().unwrap_or_default().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_title_is_the_first_heading_or_the_name() {
        let title = |text| title(text, Path::new("folder/some file.md"));
        assert_eq!(title("intro\n## Second *level* ##\n# First"), "Second *level*");
        assert_eq!(title("```\n# code\n```\n# Héading\r\n"), "Héading");
        assert_eq!(title("#hashtag\n####### seven\n#\n"), "some file");
        assert_eq!(title("漢字"), "some file");
        assert_eq!(title("\u{feff}# First\r\ntext"), "First");
        assert_eq!(title("text\r# Second\rmore"), "Second");
    }

    #[test]
    fn files_that_are_not_text_are_rejected() {
        assert!(matches!(text_of(vec![b'a', 0]), Err(SkipError::Binary)));
        assert!(matches!(text_of(vec![0xff, b'a']), Err(SkipError::NotUtf8)));
        assert!(matches!(text_of(b" \n".to_vec()), Err(SkipError::Empty)));
        assert!(matches!(text_of("\u{feff}\r\n".into()), Err(SkipError::Empty)));
        assert_eq!(text_of("\u{feff}a\r\n漢".into()).unwrap(), "\u{feff}a\r\n漢", "as it is");
    }

    #[test]
    fn folders_yield_each_visible_text_file_once() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("deep/.git")).unwrap();
        for name in ["a.md", "b.TXT", "c.png", ".d.md", "deep/e.text", "deep/.git/f.md"] {
            fs::write(root.join(name), "x").unwrap();
        }
        let mut files = BTreeSet::new();
        for path in [root.to_owned(), root.join("a.md"), root.join("c.png")] {
            collect(&path, true, &mut files, &mut |path, why| panic!("{path:?} {why}")).unwrap();
        }
        let names: Vec<_> = files.iter().map(|f| f.strip_prefix(root).unwrap()).collect();
        assert_eq!(names, ["a.md", "b.TXT", "c.png", "deep/e.text"].map(Path::new));
    }
}
