//! Failures of the commands `store …`.

use landfall::maintain::{MaintainError, PortableError};

use crate::failure::{Exit, Failure, chain};

impl From<MaintainError> for Failure {
    fn from(error: MaintainError) -> Self {
        let cause = |error: &MaintainError| {
            let source = std::error::Error::source(error);
            source.map_or_else(String::new, chain)
        };
        match error {
            MaintainError::Open(error) => error.into(),
            MaintainError::Store(error) => error.into(),
            MaintainError::NoSpace(name) => {
                let why = format!("it has no space `{name}`");
                let remedy = "name another with --space; see `store inspect`";
                Self::new(Exit::Note, "nothing to export", why, remedy)
            }
            MaintainError::Exists(path) => {
                let what = format!("{} is there already", path.display());
                let why = "nothing is overwritten";
                Self::new(Exit::Input, what, why, "choose another name")
            }
            MaintainError::File { path, source } => {
                let what = format!("{} cannot be used", path.display());
                Self::new(Exit::Input, what, source, "see that it exists, and that there is room")
            }
            MaintainError::BadBackup(_) => {
                let why = cause(&error);
                let remedy = "nothing was changed; choose another backup";
                Self::new(Exit::Input, "the backup cannot be restored", why, remedy)
            }
            MaintainError::DamagedBackup(_) => {
                let remedy = "nothing was changed; choose another, or take it with --unchecked \
                              and repair";
                Self::new(Exit::Differs, "the backup cannot be restored", error, remedy)
            }
            MaintainError::Portable(
                why @ (PortableError::NotPortable | PortableError::Version { .. }),
            ) => {
                let remedy = "nothing was changed; name a file that `store export` made";
                Self::new(Exit::Input, "the file cannot be imported", why, remedy)
            }
            MaintainError::Portable(why) => {
                let remedy = "nothing was changed; export it once more";
                Self::new(Exit::Differs, "the file is not whole", why, remedy)
            }
            error => {
                let remedy = "see that the target's folder exists, can be written and has room";
                let why = cause(&error);
                Self::new(Exit::Input, "that was not done", why, remedy)
            }
        }
    }
}
