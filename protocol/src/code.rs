//! Codes on the wire: why a session ended, why a push was rejected. The only place that maps an
//! error to a number; `docs/protocol.md` lists them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A code on the wire. A newer peer may send one that this version does not know; it is displayed
/// as its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Code(pub u16);

macro_rules! codes {
    ($($(#[$meta:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        impl Code {
            $($(#[$meta])* pub const $name: Code = Code($number);)*

            /// The code's name in metrics and logs; `None` for a code of a later version.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some($text),)*
                    _ => None,
                }
            }

            /// Every code that this version knows.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];
        }
    };
}

codes! {
    /// The peer's bytes are not a frame, or a frame's body is malformed.
    MALFORMED = 1, "malformed";
    /// A message, frame or field is larger than its limit.
    TOO_LARGE = 2, "too-large";
    /// A frame of a kind that is neither known nor optional.
    UNKNOWN_FRAME = 3, "unknown-frame";
    /// No protocol version in common.
    UNSUPPORTED_VERSION = 4, "unsupported-version";
    /// A frame that is not allowed in this state.
    OUT_OF_ORDER = 5, "out-of-order";
    /// The token is missing, wrong or expired.
    UNAUTHORIZED = 6, "unauthorized";
    /// A frame for a subscription that does not exist.
    UNKNOWN_SUBSCRIPTION = 7, "unknown-subscription";
    /// More subscriptions than a session may have.
    TOO_MANY_SUBSCRIPTIONS = 8, "too-many-subscriptions";
    /// A space's name is not valid.
    BAD_SPACE_NAME = 9, "bad-space-name";
    /// Nothing was received from the peer for too long.
    SILENT = 10, "silent";
    /// The peer did not read what was sent to it for too long.
    NOT_READING = 11, "not-reading";
    /// The relay is being stopped; connect again later.
    SHUTTING_DOWN = 12, "shutting-down";
    /// More work than the relay takes now; try again later.
    OVERLOADED = 13, "overloaded";
    /// A fault of the relay's own.
    INTERNAL = 14, "internal";
    /// The session ended normally.
    GOODBYE = 15, "goodbye";
    /// An entry must be understood, and this version does not.
    MUST_UNDERSTAND = 16, "must-understand";

    /// A change's bytes do not pass the preflight.
    FORM = 100, "form";
    /// A change depends on one that the relay does not have.
    MISSING_DEPENDENCY = 101, "missing-dependency";
    /// A change skips sequence numbers of its actor.
    SEQUENCE_GAP = 102, "sequence-gap";
    /// A second, different change for an (actor, sequence).
    CONFLICTING_SEQUENCE = 103, "conflicting-sequence";
    /// A change's operation counter is not past those of its dependencies.
    COUNTER = 104, "counter";
    /// A change names an actor that the document does not have.
    UNKNOWN_ACTOR = 105, "unknown-actor";
    /// The session has no right to do this.
    FORBIDDEN = 106, "forbidden";
    /// The disk is full.
    STORAGE_FULL = 107, "storage-full";
    /// The store failed.
    STORAGE_FAILED = 108, "storage-failed";
    /// The document was deleted; a deletion is final.
    DELETED = 109, "deleted";
    /// The change begins a second history in its document.
    UNRELATED = 110, "unrelated";
    /// A pushed snapshot differs from its description, or automerge cannot read it.
    SNAPSHOT = 111, "snapshot";
    /// The document has the most changes, operations or heads allowed.
    DOCUMENT_FULL = 112, "document-full";
    /// The relay's copy of it is damaged. This does not pass by itself: the relay's operator
    /// repairs or restores the store.
    DAMAGED = 115, "damaged";
}

impl Code {
    /// Whether the code reports a problem of the relay that may pass by itself.
    pub fn is_passing(self) -> bool {
        let passing = [Self::STORAGE_FULL, Self::STORAGE_FAILED, Self::OVERLOADED, Self::INTERNAL];
        passing.contains(&self)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "code {}", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The action required from the pusher of a rejected change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NackClass(pub u16);

impl NackClass {
    /// Push again after the stated wait; the change is valid.
    pub const RETRY_AFTER: NackClass = NackClass(1);
    /// The relay lacks a dependency of the change: push the document's history again.
    pub const REPUSH: NackClass = NackClass(2);
    /// The change will never be accepted as it is: keep it, report it, and continue with other
    /// documents. A class of a later version is treated as this one.
    pub const REFUSED: NackClass = NackClass(3);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_distinct_and_named() {
        let numbers: BTreeSet<u16> = Code::ALL.iter().map(|code| code.0).collect();
        let names: BTreeSet<_> = Code::ALL.iter().filter_map(|code| code.name()).collect();
        assert_eq!((numbers.len(), names.len()), (Code::ALL.len(), Code::ALL.len()));
        assert_eq!(Code(9_999).to_string(), "code 9999");
    }
}
