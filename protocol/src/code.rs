//! Codes that travel: why a session ended, why a push was not taken. The one place where an
//! error becomes a number; `docs/protocol.md` lists them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A code on the wire. A newer peer may send one that this version does not know; it is shown
/// by its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Code(pub u16);

macro_rules! codes {
    ($($(#[$meta:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        impl Code {
            $($(#[$meta])* pub const $name: Code = Code($number);)*

            /// The code's name, as metrics and logs show it; `None` for one of a later version.
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
    /// The peer's bytes are no frame, or a frame's body is not of its form.
    MALFORMED = 1, "malformed";
    /// A message, frame or field is larger than its limit.
    TOO_LARGE = 2, "too-large";
    /// A frame of a kind that is neither known nor optional.
    UNKNOWN_FRAME = 3, "unknown-frame";
    /// No protocol version in common.
    UNSUPPORTED_VERSION = 4, "unsupported-version";
    /// A frame that may not come now.
    OUT_OF_ORDER = 5, "out-of-order";
    /// The token is missing, wrong or expired.
    UNAUTHORIZED = 6, "unauthorized";
    /// A frame for a subscription that does not exist.
    UNKNOWN_SUBSCRIPTION = 7, "unknown-subscription";
    /// More subscriptions than a session may have.
    TOO_MANY_SUBSCRIPTIONS = 8, "too-many-subscriptions";
    /// Not a space's name.
    BAD_SPACE_NAME = 9, "bad-space-name";
    /// The peer was silent for longer than allowed.
    SILENT = 10, "silent";
    /// The peer does not read what it is sent.
    NOT_READING = 11, "not-reading";
    /// The relay is being stopped; connect again later.
    SHUTTING_DOWN = 12, "shutting-down";
    /// More work than the relay takes now; try again later.
    OVERLOADED = 13, "overloaded";
    /// A fault of the relay's own.
    INTERNAL = 14, "internal";
    /// The session ended in good order.
    GOODBYE = 15, "goodbye";
    /// An entry must be understood, and this version does not.
    MUST_UNDERSTAND = 16, "must-understand";

    /// A change's bytes do not pass the preflight.
    FORM = 100, "form";
    /// A change rests on one that the relay does not hold.
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
    /// The document was deleted; a deletion is for good.
    DELETED = 109, "deleted";
    /// The document has a history already, and the change begins another.
    UNRELATED = 110, "unrelated";
    /// A pushed snapshot is not what it says, or automerge cannot read it.
    SNAPSHOT = 111, "snapshot";
    /// The document has as many changes, operations or heads as one may have.
    DOCUMENT_FULL = 112, "document-full";
    /// What the relay's store has of it is damaged. It does not pass by itself: the relay's
    /// operator repairs or restores the store.
    DAMAGED = 115, "damaged";
}

impl Code {
    /// Whether it speaks of a trouble of the relay's that may pass by itself.
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

/// What the pusher of a refused change should do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NackClass(pub u16);

impl NackClass {
    /// Push again after the stated wait; nothing is wrong with the change.
    pub const RETRY_AFTER: NackClass = NackClass(1);
    /// The relay lacks what the change rests on: offer the document's history again.
    pub const RECONCILE: NackClass = NackClass(2);
    /// It will never be taken as it is: keep it, say so, go on with other documents.
    /// A class of a later version is treated as this one.
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
