//! Errors of operations that involve a relay: connecting, flushing, checking and broadcasting.

use landfall_protocol::client::Unchecked;
use landfall_protocol::{Code, SpaceName};
use thiserror::Error;

use super::words::counted;
use super::words::{because, first, first_space, first_uncompared, saved, unreached};
use crate::status::RejectedDocument;
use crate::store::Pending;

/// Why `flush` ended before everything was acknowledged.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum FlushError {
    /// The link is offline on purpose, was never connected, is signed out, or has ended with a panic,
    /// which `last_error` then describes.
    #[error("offline: saved here and not on the relay: {}{}{}", saved(pending), unreached(*reached), because(last_error))]
    Offline {
        /// The pending counts, for the relay that was connected last.
        pending: Pending,
        /// Why the connection was lost last.
        last_error: Option<String>,
        /// Whether a relay has answered since `connect`. If none has, `pending` describes an earlier
        /// connection, and perhaps another relay.
        reached: bool,
    },
    /// The time ran out.
    #[error("timed out: saved here and not on the relay: {}{}{}", saved(pending), unreached(*reached), because(last_error))]
    TimedOut {
        /// The pending counts, for the relay that was connected last.
        pending: Pending,
        /// Why there is no connection, or why the last one was lost.
        last_error: Option<String>,
        /// Whether a relay has answered since `connect`. If none has, `pending` describes an earlier
        /// connection, and perhaps another relay.
        reached: bool,
    },
    /// The relay rejects the remaining changes.
    #[error("the relay refuses {} of {}: {}", counted(pending.changes, "change"), counted(rejected.len() as u64, "document"), first(rejected))]
    Refused {
        /// The pending counts.
        pending: Pending,
        /// The documents, and the reasons.
        rejected: Vec<RejectedDocument>,
    },
    /// The relay rejects whole spaces that have pending changes.
    #[error("the relay refuses {}, with changes that are saved here only: {}", counted(spaces.len() as u64, "space"), first_space(spaces))]
    SpaceRefused {
        /// The pending counts, over all spaces.
        pending: Pending,
        /// The spaces, with reasons and remedies.
        spaces: Vec<RefusedSpace>,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// A space that the relay rejects.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefusedSpace {
    /// The space.
    pub space: SpaceName,
    /// The reason.
    pub code: Code,
    /// A description, with a remedy.
    pub what: String,
}

/// Why `check` did not compare every space with the relay.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The link is offline on purpose, was never connected, is signed out, or has ended with a panic,
    /// which `last_error` then describes.
    #[error("offline: nothing was compared{}", because(last_error))]
    Offline {
        /// Why the connection was lost last.
        last_error: Option<String>,
    },
    /// Some spaces could not be compared. All others were.
    #[error("{} could not be compared with the relay: {}", counted(spaces.len() as u64, "space"), first_uncompared(spaces))]
    NotCompared {
        /// How many documents differed in the spaces that were compared.
        drifted: u64,
        /// The spaces that were not compared, and the reasons.
        spaces: Vec<(SpaceName, NotCompared)>,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// Why a space could not be compared with the relay.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NotCompared {
    /// The relay rejects the space.
    #[error("the relay refuses it ({code}): {what}")]
    Refused {
        /// The reason.
        code: Code,
        /// A description, with a remedy.
        what: String,
    },
    /// The relay's version cannot compare.
    #[error("this relay does not support checks; upgrade it")]
    Unsupported,
    /// Transfers of its changes never paused for long enough.
    #[error("changes were in transit all the time; check again when there are fewer")]
    Busy,
    /// The space was removed meanwhile.
    #[error("the space was removed")]
    Removed,
    /// The relay was not reached, or does not answer.
    #[error("no relay answered{}", because(last_error))]
    NoAnswer {
        /// Why there is no connection, or why the last one was lost.
        last_error: Option<String>,
    },
}

impl From<Unchecked> for NotCompared {
    fn from(why: Unchecked) -> Self {
        match why {
            Unchecked::Refused { code, what } => Self::Refused { code, what },
            Unchecked::Unsupported => Self::Unsupported,
            Unchecked::Removed => Self::Removed,
            // Reasons that a later version of the machine may add belong here.
            _ => Self::Busy,
        }
    }
}

/// Why an ephemeral message was not sent. It is not kept, and is not sent later.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BroadcastError {
    /// It is too long.
    #[error(
        "the message has {actual} bytes, the limit is {limit}; put large data into the document"
    )]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
        /// Its length in bytes.
        actual: usize,
    },
    /// The document's space is not synced with a relay at present.
    #[error("not connected; the message was not sent{}", because(last_error))]
    Offline {
        /// Why there is no connection, or why the last one was lost.
        last_error: Option<String>,
    },
    /// The relay's version forwards no messages.
    #[error("this relay does not forward ephemeral messages; upgrade it")]
    Unsupported,
    /// The application's filter of the space excludes the document.
    #[error("the space's filter excludes the document; see `Space::sync_only`")]
    OutOfScope,
    /// Messages are sent faster than the relay accepts them.
    #[error("too many messages wait for the relay; send fewer")]
    Congested,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// Why a link could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL is no valid relay URL.
    #[error("`{url}` is not the URL of a relay: {what}; a relay's URL looks like ws://host:port")]
    BadUrl {
        /// The URL as given.
        url: String,
        /// The problem.
        what: String,
    },
    /// The store was opened read-only.
    #[error("the store is open read-only and cannot sync")]
    ReadOnly,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// A thread could not be started.
    #[error("the link's thread could not be started")]
    Thread(#[source] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flush_errors_spell_out_the_pending_counts() {
        let flush = |changes, bytes| {
            let pending = Pending { changes, bytes };
            FlushError::Offline { pending, last_error: None, reached: true }.to_string()
        };
        assert_eq!(flush(1, 1), "offline: saved here and not on the relay: 1 change (1 byte)");
        assert_eq!(flush(2, 90), "offline: saved here and not on the relay: 2 changes (90 bytes)");
    }
}
