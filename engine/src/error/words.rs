//! Counts and causes in the words of the error texts.

use landfall_protocol::SpaceName;

use super::{NotCompared, RefusedSpace};
use crate::status::RejectedDocument;
use crate::store::Pending;

/// A number with its noun: `one` is the singular.
pub(crate) fn counted(number: u64, one: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {one}{plural}")
}

/// The pending counts, in words.
pub(super) fn saved(pending: &Pending) -> String {
    format!("{} ({})", counted(pending.changes, "change"), counted(pending.bytes, "byte"))
}

pub(super) fn unreached(reached: bool) -> &'static str {
    if reached { "" } else { "; no relay was reached since the last `connect`" }
}

pub(super) fn first_space(spaces: &[RefusedSpace]) -> String {
    let first = spaces.first();
    first.map_or_else(String::new, |refused| format!("{}: {}", refused.space, refused.what))
}

pub(super) fn first_uncompared(spaces: &[(SpaceName, NotCompared)]) -> String {
    let first = spaces.first();
    first.map_or_else(String::new, |(space, why)| format!("`{space}`: {why}"))
}

pub(super) fn because(cause: &Option<String>) -> String {
    cause.as_ref().map_or_else(String::new, |cause| format!(" ({cause})"))
}

pub(super) fn first(rejected: &[RejectedDocument]) -> String {
    let first = rejected.first();
    first.map_or_else(String::new, |rejected| format!("{}: {}", rejected.document, rejected.what))
}
