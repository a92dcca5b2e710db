//! Identifiers, each with its own type, so that a mix-up does not compile.
//!
//! ```compile_fail
//! use landfall_protocol::{DocumentId, Upstream};
//! fn open(_: DocumentId) {}
//! open(Upstream::from_bytes([0; 16])); // an upstream is not a document
//! ```
//!
//! Nothing here draws randomness: identifiers are made from bytes of the caller.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::limits;

pub use automerge::{ActorId, ChangeHash};

macro_rules! sixteen_bytes {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Makes the identifier from its 16 bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The identifier's 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), Hex(&self.0))
            }
        }
    };
}

sixteen_bytes! {
    /// A document: 16 random bytes, displayed as automerge-repo displays them
    /// (`automerge:` and base58check).
    ///
    /// ```
    /// use landfall_protocol::DocumentId;
    /// let id = DocumentId::from_bytes([7; 16]);
    /// let url = id.to_string();
    /// assert!(url.starts_with("automerge:"));
    /// assert_eq!(url.parse::<DocumentId>().unwrap(), id);
    /// ```
    DocumentId
}

sixteen_bytes! {
    /// A replica's store: drawn once, when the store is created. It names the author of an entry.
    ReplicaId
}

sixteen_bytes! {
    /// A relay's stable identity, sent in `Welcome`; never its URL.
    Upstream
}

sixteen_bytes! {
    /// Lineage of a log: every start of a relay opens a new epoch at its first append.
    Epoch
}

macro_rules! shown_as_hex {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Hex(&self.0).fmt(f)
            }
        }
    )*};
}
shown_as_hex!(ReplicaId, Upstream, Epoch);

/// Lower-case hexadecimal, without an allocation.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The scheme that automerge-repo writes before a document's base58check.
const URL_SCHEME: &str = "automerge:";

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base58 = bs58::encode(self.0).with_check().into_string();
        write!(f, "{URL_SCHEME}{base58}")
    }
}

/// Why a text is not a document id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseDocumentIdError {
    /// The base58check part does not decode: a wrong character or a wrong checksum.
    #[error("`{text}` is not a document id: {reason}; copy the whole `automerge:…` URL")]
    NotBase58Check {
        /// The text as given, truncated to 80 characters.
        text: String,
        /// The decoder's error.
        reason: String,
    },
    /// It decodes, but not to 16 bytes.
    #[error("`{text}` is not a document id: it has {length} bytes, not 16")]
    WrongLength {
        /// The text as given, truncated to 80 characters.
        text: String,
        /// The decoded length in bytes.
        length: usize,
    },
}

impl FromStr for DocumentId {
    type Err = ParseDocumentIdError;

    /// Accepts `automerge:…` with or without its scheme.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shown = || text.chars().take(80).collect::<String>();
        let base58 = text.strip_prefix(URL_SCHEME).unwrap_or(text);
        if base58.len() > 64 {
            let reason = "it is too long".to_owned();
            return Err(ParseDocumentIdError::NotBase58Check { text: shown(), reason });
        }
        let bytes = bs58::decode(base58).with_check(None).into_vec().map_err(|error| {
            let reason = match error {
                bs58::decode::Error::InvalidChecksum { .. } => {
                    "a character is missing or wrong, by its checksum".to_owned()
                }
                other => other.to_string(),
            };
            ParseDocumentIdError::NotBase58Check { text: shown(), reason }
        })?;
        let length = bytes.len();
        let bytes = bytes
            .try_into()
            .map_err(|_| ParseDocumentIdError::WrongLength { text: shown(), length })?;
        Ok(Self(bytes))
    }
}

/// A space: a named set of documents with one log. Names are immutable, 1 to 64 bytes of
/// `a–z A–Z 0–9 . _ -`, and begin with a letter or a digit.
///
/// ```
/// use landfall_protocol::SpaceName;
/// assert!("team.notes-2".parse::<SpaceName>().is_ok());
/// assert!("../etc".parse::<SpaceName>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpaceName(String);

impl SpaceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SpaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpaceName({})", self.0)
    }
}

impl fmt::Display for SpaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Allows look-ups by plain text in a map keyed by names.
impl std::borrow::Borrow<str> for SpaceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<SpaceName> for String {
    fn from(name: SpaceName) -> Self {
        name.0
    }
}

/// Why a text is not a space's name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BadSpaceName {
    /// No characters, or more bytes than a name may have.
    #[error("a space's name has 1 to {limit} bytes, this one has {actual}", limit = limits::SPACE_NAME_BYTES)]
    Length {
        /// Its length in bytes.
        actual: usize,
    },
    /// A character outside the safe alphabet.
    #[error(
        "a space's name is made of a–z A–Z 0–9 . _ - and begins with a letter or digit; {found:?} at byte {at} is not allowed"
    )]
    Character {
        /// The character.
        found: char,
        /// Its position in bytes.
        at: usize,
    },
}

impl FromStr for SpaceName {
    type Err = BadSpaceName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > limits::SPACE_NAME_BYTES {
            return Err(BadSpaceName::Length { actual: text.len() });
        }
        let allowed = |at: usize, c: char| {
            c.is_ascii_alphanumeric() || (at > 0 && matches!(c, '.' | '_' | '-'))
        };
        match text.char_indices().find(|&(at, c)| !allowed(at, c)) {
            Some((at, found)) => Err(BadSpaceName::Character { found, at }),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<String> for SpaceName {
    type Error = BadSpaceName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// An entry's position in its space's log. The first entry has offset 1; 0 is "before the
/// first". Offsets grow and need not be dense.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Offset(pub u64);

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A change's position in an engine's own log of one space. Dense, from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Local(pub u64);

/// One authenticated connection, numbered by the relay's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

/// Fingerprint of the rules in force for a subscription (filter and effective rights).
/// A cursor of another scope is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scope(pub u64);

impl Scope {
    /// A whole space in open mode.
    pub const WHOLE_SPACE: Scope = Scope(0);

    /// The first 8 bytes of a hash of everything that the scope depends on; never the whole space.
    pub(crate) fn of_hash(hash: [u8; 32]) -> Self {
        let mut first = [0; 8];
        first.copy_from_slice(&hash[..8]);
        Self(u64::from_le_bytes(first).max(1))
    }
}

/// "I hold every entry up to `offset` of every document in this scope."
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cursor {
    /// The lineage in which `offset` counts.
    pub epoch: Epoch,
    /// The last offset that the replica has.
    pub offset: Offset,
    /// The rules under which it was reached.
    pub scope: Scope,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_ids_print_as_automerge_repo_prints_them() {
        // Taken from automerge-repo's own documentation of a valid URL.
        let url = "automerge:2akvofn6L1o4RMUEMQi7qzwRjKWZ";
        let id: DocumentId = url.parse().unwrap();
        assert_eq!(id.to_string(), url);
        assert_eq!("2akvofn6L1o4RMUEMQi7qzwRjKWZ".parse::<DocumentId>().unwrap(), id);
    }

    #[test]
    fn invalid_document_ids_are_refused_with_the_reason() {
        let flipped = "automerge:2akvofn6L1o4RMUEMQi7qzwRjKWY";
        assert!(matches!(
            flipped.parse::<DocumentId>(),
            Err(ParseDocumentIdError::NotBase58Check { .. })
        ));
        let short = bs58::encode([1u8; 3]).with_check().into_string();
        assert!(matches!(
            short.parse::<DocumentId>(),
            Err(ParseDocumentIdError::WrongLength { length: 3, .. })
        ));
        assert!("".parse::<DocumentId>().is_err());
        assert!("x".repeat(1 << 20).parse::<DocumentId>().is_err());
    }

    #[test]
    fn space_names_are_bounded_and_safe() {
        for good in ["default", "a", "0", "Team.notes-2_x"] {
            assert!(good.parse::<SpaceName>().is_ok(), "{good}");
        }
        assert_eq!("".parse::<SpaceName>(), Err(BadSpaceName::Length { actual: 0 }));
        assert_eq!("a".repeat(65).parse::<SpaceName>(), Err(BadSpaceName::Length { actual: 65 }));
        for bad in [".", "..", "a/b", "a b", "a\0", "é", "-a"] {
            assert!(
                matches!(bad.parse::<SpaceName>(), Err(BadSpaceName::Character { .. })),
                "{bad}"
            );
        }
    }
}
