//! Failures of the commands `store …`.

use landfall::admin::{AdminError, PortableError};
use landfall::error_chain;

use crate::failure::{Exit, Failure};

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        let cause = |error: &AdminError| {
            let source = std::error::Error::source(error);
            source.map_or_else(String::new, error_chain)
        };
        match error {
            AdminError::Open(error) => error.into(),
            AdminError::Store(error) => error.into(),
            AdminError::NoSpace(name) => {
                let why = format!("it has no space `{name}`");
                let remedy = "give another with --space; see `store inspect`";
                Self::new(Exit::Note, "nothing to export", why, remedy)
            }
            AdminError::Exists(path) => {
                let what = format!("{} already exists", path.display());
                let why = "existing files are never overwritten";
                Self::new(Exit::Input, what, why, "choose another name")
            }
            AdminError::File { path, source } => {
                let what = format!("{} cannot be used", path.display());
                Self::new(
                    Exit::Input,
                    what,
                    source,
                    "check that it exists, and that the disk has room",
                )
            }
            AdminError::BadBackup(_) => {
                let why = cause(&error);
                let remedy = "nothing was changed; choose another backup";
                Self::new(Exit::Input, "the backup cannot be restored", why, remedy)
            }
            AdminError::DamagedBackup(_) => {
                let remedy = "nothing was changed; choose another, or restore it with --unchecked \
                              and repair it";
                Self::new(Exit::Differs, "the backup cannot be restored", error, remedy)
            }
            AdminError::Portable(
                why @ (PortableError::NotPortable | PortableError::Version { .. }),
            ) => {
                let remedy = "nothing was changed; give a file that `store export` wrote";
                Self::new(Exit::Input, "the file cannot be imported", why, remedy)
            }
            AdminError::Portable(why) => {
                let remedy = "nothing was changed; export it again";
                Self::new(Exit::Differs, "the file is incomplete or damaged", why, remedy)
            }
            error => {
                let remedy = "check that the target's folder exists, can be written and has room";
                let why = cause(&error);
                Self::new(Exit::Input, "the command failed", why, remedy)
            }
        }
    }
}
