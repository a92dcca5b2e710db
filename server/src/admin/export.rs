//! `export`: a space as a portable file, also alongside the relay that serves it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;

use landfall_protocol::SpaceName;
use landfall_protocol::portable::{Counts, Decoder, Encoder, PortableError, Record};
use landfall_storage::NewFile;

use super::{AdminError, must_have_store};
use crate::clock::now_ms;
use crate::store::Inspection;

/// Bytes per write or read.
const PIECE_BYTES: usize = 1 << 20;

/// The result of an export.
#[derive(Debug)]
pub(crate) struct Exported {
    /// The content of the file, in numbers.
    pub(crate) counts: Counts,
    /// Its length in bytes.
    pub(crate) bytes: u64,
}

/// Writes the whole content of a space, as of one moment, to a new file. The file gets its name only after an
/// fsync and after it was read back.
pub(crate) fn export(
    data: &Path,
    space: &SpaceName,
    target: &Path,
) -> Result<Exported, AdminError> {
    must_have_store(data)?;
    let inspection = Inspection::open(data)?;
    let made = NewFile::begin(target, true)?;
    let failed = |error| AdminError::Write(target.to_owned(), error);
    let mut out = Vec::new();
    let mut encoder = Encoder::new(space, now_ms(), &mut out);
    let mut trouble = None;
    let found = inspection.contents(space, &mut |record| {
        let added = encoder.add(&record, &mut out).map_err(AdminError::Unsound);
        let written = added.and_then(|()| match out.len() < PIECE_BYTES {
            true => Ok(()),
            false => write_out(made.file(), &mut out).map_err(failed),
        });
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                trouble = Some(error);
                ControlFlow::Break(())
            }
        }
    })?;
    if let Some(trouble) = trouble {
        return Err(trouble);
    }
    if !found {
        return Err(AdminError::NoSpace(space.clone()));
    }
    let counts = encoder.finish(&mut out).map_err(AdminError::Unsound)?;
    write_out(made.file(), &mut out).map_err(failed)?;
    made.file().sync_all().map_err(failed)?;
    let bytes = read_back(made.path(), target)?;
    made.finish()?;
    Ok(Exported { counts, bytes })
}

fn write_out(mut file: &File, out: &mut Vec<u8>) -> io::Result<()> {
    file.write_all(out)?;
    out.clear();
    Ok(())
}

/// Reads the file back: a damaged store would produce a file that cannot be imported.
fn read_back(path: &Path, target: &Path) -> Result<u64, AdminError> {
    let file = File::open(path).map_err(|error| AdminError::Read(target.to_owned(), error))?;
    let length = file.metadata().map(|metadata| metadata.len());
    read(file, target, &mut |_| Ok(())).map_err(|error| match error {
        AdminError::Portable(_, source) => AdminError::Unsound(source),
        error => error,
    })?;
    length.map_err(|error| AdminError::Read(target.to_owned(), error))
}

/// Reads a whole portable file, record by record.
pub(super) fn read(
    mut file: impl Read,
    path: &Path,
    take: &mut dyn FnMut(Record) -> Result<(), AdminError>,
) -> Result<Counts, AdminError> {
    let bad = |error: PortableError| AdminError::Portable(path.to_owned(), error);
    let mut decoder = Decoder::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let length = match file.read(&mut piece) {
            Ok(0) => return decoder.finish().map_err(bad),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(AdminError::Read(path.to_owned(), error)),
        };
        decoder.feed(&piece[..length]);
        while let Some(record) = decoder.next().map_err(bad)? {
            take(record)?;
        }
    }
}
