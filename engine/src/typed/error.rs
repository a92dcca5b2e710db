//! Why a document could not be read or written as a type.

use automerge::AutomergeError;
use autosurgeon::HydrateError;
use autosurgeon::hydrate::Unexpected;
use thiserror::Error;

use super::seen::Seen;
use crate::failure::BoxError;

/// Why a document could not be read or written as a type. Paths have the syntax of
/// [`Document::get`](crate::Document::get); the empty path is the document itself.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TypedError {
    /// The value there is of a kind that the type does not accept.
    #[error(
        "{} is {found}, which `{wanted}` does not accept there; change the type of that field, or the value",
        place(path)
    )]
    Kind {
        /// The path.
        path: String,
        /// A description of the value there.
        found: String,
        /// The requested type.
        wanted: &'static str,
    },
    /// The value there is of the right kind, but not valid for the type.
    #[error("{} is {found}, `{wanted}` expects {expected} there", place(path))]
    Value {
        /// The path.
        path: String,
        /// A description of the value there.
        found: String,
        /// A description of the expected value.
        expected: String,
        /// The requested type.
        wanted: &'static str,
    },
    /// There is no value.
    #[error(
        "there is no value at {}, and `{wanted}` needs one; make the field an `Option`, or give it a default with `#[autosurgeon(missing = \"…\")]`",
        place(path)
    )]
    Missing {
        /// The path.
        path: String,
        /// The requested type.
        wanted: &'static str,
    },
    /// A map has a key that the type cannot read.
    #[error("{} has a key that `{wanted}` cannot read: {source}", place(path))]
    Key {
        /// The path of the map, or of the value in it that was read last.
        path: String,
        /// The requested type.
        wanted: &'static str,
        /// The error of the key's type.
        source: BoxError,
    },
    /// The given path is invalid.
    #[error("`{path}` is not a path: {what} at byte {at}; write it like `todos[3].title`")]
    BadPath {
        /// The given path.
        path: String,
        /// The position of the error in it, in bytes.
        at: usize,
        /// The error.
        what: &'static str,
    },
    /// The given path leads through a value that contains no others.
    #[error("`{asked}` leads nowhere: {} is {found}", place(path))]
    NoPlace {
        /// The whole path.
        asked: String,
        /// The part of it that leads to that value.
        path: String,
        /// A description of the value there.
        found: String,
    },
    /// A whole document is a map with string keys, and the type is no map.
    #[error(
        "`{wanted}` is not a map, but a whole document must be one; put it into a field of a struct"
    )]
    NotAMap {
        /// The requested type.
        wanted: &'static str,
    },
    /// A part of the value, such as autosurgeon's own `Text`, can be written only onto the document and
    /// state from which it was hydrated.
    #[error(
        "the value to write at {} was read from another state or document; use `edit`, or `reconcile_at` with the heads at which it was read, or `landfall::Text` for texts",
        place(path)
    )]
    Stale {
        /// The path.
        path: String,
    },
    /// The type's own code, autosurgeon or automerge panicked. Nothing was written.
    #[error("reading or writing {} panicked: {what}; nothing was written", place(path))]
    Panicked {
        /// The path, as far as it is known.
        path: String,
        /// The panic's message.
        what: String,
    },
    /// automerge rejected an operation.
    #[error("automerge failed at {}: {source}", place(path))]
    Automerge {
        /// The path.
        path: String,
        /// automerge's error.
        source: Box<AutomergeError>,
    },
}

/// A path in a sentence.
fn place(path: &str) -> String {
    match path {
        "" => "the document".to_owned(),
        path => format!("`{path}`"),
    }
}

impl TypedError {
    pub(super) fn of_hydrate(error: HydrateError, seen: &Seen, wanted: &'static str) -> Self {
        let path = seen.path();
        match error {
            HydrateError::Automerge(source) => Self::Automerge { path, source: Box::new(source) },
            HydrateError::ParseMapKey(source) => Self::Key { path, wanted, source },
            // A type that looked for a key and did not find it describes the value that it looked in.
            HydrateError::Unexpected(Unexpected::Other { expected, found }) => {
                let path = if seen.is_missing() { seen.path_above() } else { path };
                Self::Value { path, found, expected, wanted }
            }
            HydrateError::Unexpected(_) if seen.is_missing() => Self::Missing { path, wanted },
            HydrateError::Unexpected(Unexpected::Map) if path.is_empty() => {
                Self::NotAMap { wanted }
            }
            HydrateError::Unexpected(_) => Self::Kind { path, found: seen.found(), wanted },
        }
    }

    /// The error for a panic while a value was read or written.
    pub(crate) fn of_panic(what: String, seen: &Seen) -> Self {
        let path = seen.path();
        // autosurgeon assumes that values which it creates cannot fail; values hydrated elsewhere can.
        match what.contains("StaleHeads") {
            true => Self::Stale { path },
            false => Self::Panicked { path, what },
        }
    }
}
