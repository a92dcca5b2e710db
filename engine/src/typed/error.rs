//! Why a document could not be read or written as a type.

use automerge::AutomergeError;
use autosurgeon::HydrateError;
use autosurgeon::hydrate::Unexpected;
use thiserror::Error;

use super::seen::Seen;
use crate::error::BoxError;

/// Why a document could not be read or written as a type. Paths are written as
/// [`Document::get`](crate::Document::get) takes them; the empty path is the document itself.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TypedError {
    /// The value there is of a kind that the type does not take.
    #[error(
        "{} is {found}, which `{wanted}` does not take there; change the type of that field, or what stands there",
        place(path)
    )]
    Kind {
        /// Where.
        path: String,
        /// What is there, in words.
        found: String,
        /// The type that was asked for.
        wanted: &'static str,
    },
    /// The value there is of the right kind, and not one that the type has.
    #[error("{} is {found}, `{wanted}` expects {expected} there", place(path))]
    Value {
        /// Where.
        path: String,
        /// What is there, in words.
        found: String,
        /// What the type expects, in words.
        expected: String,
        /// The type that was asked for.
        wanted: &'static str,
    },
    /// Nothing is there.
    #[error(
        "nothing is at {}, and `{wanted}` needs a value there; make the field an `Option`, or give it a default with `#[autosurgeon(missing = \"…\")]`",
        place(path)
    )]
    Missing {
        /// Where.
        path: String,
        /// The type that was asked for.
        wanted: &'static str,
    },
    /// A map has a key that the type cannot read.
    #[error("{} has a key that `{wanted}` cannot read: {source}", place(path))]
    Key {
        /// Where the map, or what was read of it last, is.
        path: String,
        /// The type that was asked for.
        wanted: &'static str,
        /// What the key's type said.
        source: BoxError,
    },
    /// The path that was asked for is none.
    #[error("`{path}` is no path: {what} at byte {at}; write it like `todos[3].title`")]
    BadPath {
        /// What was given.
        path: String,
        /// Where in it, in bytes.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// The path that was asked for leads through a place that has nothing below it.
    #[error("`{asked}` leads nowhere: {} is {found}", place(path))]
    NoPlace {
        /// The whole path.
        asked: String,
        /// The part of it that has nothing below it.
        path: String,
        /// What is there, in words.
        found: String,
    },
    /// A whole document is a map with string keys, and the type is none.
    #[error("`{wanted}` is no map, as a whole document must be; put it into a field of a struct")]
    NotAMap {
        /// The type that was asked for.
        wanted: &'static str,
    },
    /// A part of the value, such as autosurgeon's own `Text`, can be written only onto the very state
    /// and document that it was hydrated from.
    #[error(
        "what is to be written at {} was read from another state or document; use `edit`, or `reconcile_at` with the heads that it was read at, or `landfall::Text` for texts",
        place(path)
    )]
    Stale {
        /// Where.
        path: String,
    },
    /// The type's own code, autosurgeon or automerge panicked. Nothing was written.
    #[error("reading or writing {} panicked: {what}; nothing was written", place(path))]
    Panicked {
        /// Where, as far as is known.
        path: String,
        /// The panic's message.
        what: String,
    },
    /// automerge refused an operation.
    #[error("automerge failed at {}: {source}", place(path))]
    Automerge {
        /// Where.
        path: String,
        /// What automerge said.
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
            // A type that looked for something and did not find it speaks of what it looked in.
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

    /// Of a panic while a value was read or written.
    pub(crate) fn of_panic(what: String, seen: &Seen) -> Self {
        let path = seen.path();
        // autosurgeon expects that what it makes anew cannot fail; what was hydrated elsewhere can.
        match what.contains("StaleHeads") {
            true => Self::Stale { path },
            false => Self::Panicked { path, what },
        }
    }
}
