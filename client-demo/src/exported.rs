//! The file to which a note is saved as an automerge document.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::failure::{Exit, Failure};
use crate::term::thousands;

/// Writes a new file; `-` is standard output. Never overwrites a file.
pub(crate) fn write(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let written = match file == Path::new("-") {
        true => {
            let mut out = io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
        false => File::create_new(file)
            .and_then(|mut new| new.write_all(bytes).and_then(|()| new.sync_all())),
    };
    written.map_err(|error| {
        let what = format!("cannot write {}", file.display());
        let remedy = match error.kind() {
            io::ErrorKind::AlreadyExists => "it was not touched; choose another name",
            _ => "choose a folder that can be written",
        };
        Failure::new(Exit::Input, what, error, remedy)
    })
}

/// The success message.
pub(crate) fn said(what: &str, file: &Path, bytes: usize) -> String {
    let bytes = thousands(bytes as u64);
    match file == Path::new("-") {
        true => format!("exported {what}: an automerge document of {bytes} bytes"),
        false => {
            format!("exported {what} to {}: an automerge document of {bytes} bytes", file.display())
        }
    }
}
