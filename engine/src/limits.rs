//! Limits of the engine beside those of the protocol.

use std::time::Duration;

use landfall_protocol::limits;

/// The number of actors of one document above which [`ManyActors`](crate::EventKind::ManyActors) is
/// emitted. automerge keeps a clock of 4 bytes per actor for every 16 changes or less, in each replica:
/// 1,024 actors in a document of 100,000 changes take some 25 MB, 10,000 actors ten times that.
pub const MANY_ACTORS: u64 = 1024;

/// The most documents that [`SpaceStatus::unreadable`](crate::SpaceStatus::unreadable) lists: 1,000.
/// Other replicas can make any number of documents that automerge cannot read, and a longer list helps
/// no person.
pub const UNREADABLE_LISTED: usize = 1_000;

/// The most operations that one change may have: 1,048,576. Inserting or deleting one character is one
/// operation. An application that accepts text from outside can check its length before it begins a
/// change; otherwise [`Document::change`](crate::Document::change) returns
/// [`ChangeError::TooManyOperations`](crate::ChangeError::TooManyOperations).
pub const CHANGE_OPERATIONS: u64 = limits::CHANGE_OPERATIONS;

/// The wait before a link that is signed out tries again: 5 min. Only a new sign-in helps, and the
/// application reports that.
pub(crate) const SIGNED_OUT_RETRY: Duration = Duration::from_secs(300);

/// The shortest time before a token is renewed, and the wait before a failed renewal is repeated is at
/// least this: 1 s. A provider whose tokens are due at once is not asked a thousand times a second.
pub(crate) const LEAST_RENEWAL: Duration = Duration::from_secs(1);
