//! Why a push is rejected.

use crate::access::Rights;
use crate::admission::{CheckedChange, FormError, HistoryError};
use crate::code::{Code, NackClass};
use crate::frame::fit;

/// Why a push, or its rest, was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code on the wire.
    pub code: Code,
    /// The action required from the pusher.
    pub class: NackClass,
    /// With *retry after*: the wait in milliseconds.
    pub retry_after_ms: u32,
    /// The reason in words.
    pub what: String,
}

impl Refusal {
    /// A final rejection.
    pub fn new(code: Code, class: NackClass, what: String) -> Self {
        Self { code, class, retry_after_ms: 0, what: fit(what) }
    }

    /// The author has no right to do this. The same for every document, also for one that does not
    /// exist.
    pub fn of_rights(needed: Rights) -> Self {
        let what = format!("this needs the rights {needed} on the document; ask an administrator");
        Self::new(Code::FORBIDDEN, NackClass::REFUSED, what)
    }

    pub(super) fn of_history(change: &CheckedChange, error: &HistoryError) -> Self {
        let (code, class) = error.nack();
        Self::new(code, class, format!("change {}: {error}", change.hash))
    }

    /// A change that did not pass the preflight.
    pub(in super::super) fn of_form(index: usize, error: &FormError) -> Self {
        let what = format!("change {index} of the push: {error}");
        Self::new(Code::FORM, NackClass::REFUSED, what)
    }

    /// A valid change whose session must first pay for its earlier checks, because others need the
    /// memory that it would occupy: it may be pushed again after the wait.
    pub fn of_debt(wait: std::time::Duration) -> Self {
        let what = "this session's pushes exceed its share of the work, and other sessions need \
                    their memory; push again later";
        let retry_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
        let refusal = Self::new(Code::OVERLOADED, NackClass::RETRY_AFTER, what.to_owned());
        Self { retry_after_ms, ..refusal }
    }

    /// Valid changes beyond the work limit of one push: the rest may be pushed again at once.
    pub(in super::super) fn of_weight() -> Self {
        let what = "the push exceeds the work limit for one push; push the rest again".to_owned();
        Self::new(Code::OVERLOADED, NackClass::RETRY_AFTER, what)
    }
}

/// How a store failed, as far as a pusher needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFailure {
    /// No room left on the disk.
    Full,
    /// Anything else.
    Failed,
    /// The document's data in the store is damaged.
    Damaged,
    /// The store's files were removed or replaced.
    Gone,
    /// No failure: too much work is waiting for a short operation.
    Busy,
    /// The document's data in the store is damaged, and it is not yet known whether that affects
    /// the pushed changes.
    Examining,
}

impl StoreFailure {
    /// Milliseconds after which a push may be tried again.
    const RETRY_AFTER_MS: u32 = 2_000;

    /// The refusal for the pusher.
    pub fn refusal(self) -> Refusal {
        let (code, what) = match self {
            Self::Full => (Code::STORAGE_FULL, "the relay's disk is full"),
            Self::Failed => (Code::STORAGE_FAILED, "the relay could not use its store"),
            Self::Gone => {
                (Code::STORAGE_FAILED, "the files of the relay's store were removed or replaced")
            }
            // A retry would fail again and hold up all other documents.
            Self::Damaged => {
                let what = "the relay's copy of this document is damaged; its operator must \
                            repair or restore the store, then retry";
                return Refusal::new(Code::DAMAGED, NackClass::REFUSED, what.to_owned());
            }
            Self::Busy => (Code::OVERLOADED, "too many pushes wait for this document's history"),
            Self::Examining => {
                let what = "the relay's copy of this document is damaged: it acknowledges no pushes \
                            until it knows which entries are";
                (Code::OVERLOADED, what)
            }
        };
        let (class, retry_after_ms) = (NackClass::RETRY_AFTER, Self::RETRY_AFTER_MS);
        Refusal { code, class, retry_after_ms, what: what.to_owned() }
    }
}
