//! How a store is opened and a relay is reached: every knob with its unit and default.

use std::time::Duration;

use landfall_protocol::{SpaceName, limits};

use crate::error::ConnectError;
use crate::link;

/// When `change()` may return.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// After the change is on disk (SQLite's `synchronous=FULL`): it survives a power cut. Costs
    /// one fsync per change, or per group of concurrent ones.
    #[default]
    Full,
    /// After the change is in SQLite (`synchronous=NORMAL`): it survives a crash of the process,
    /// but a power cut may take the last quarter of a second with it. The status tells when it is
    /// on disk.
    Normal,
}

/// Actors of one document beyond which the application is told
/// ([`ManyActors`](crate::EventKind::ManyActors)). automerge keeps a clock of 4 bytes an actor for
/// every 16 changes or less, in each replica: 1,024 actors in a document of 100,000 changes are some
/// 25 MB, 10,000 actors ten times that.
pub const MANY_ACTORS: u64 = 1024;

/// Documents that [`SpaceStatus::unreadable`](crate::SpaceStatus::unreadable) names at most: 1,000. What
/// other replicas make can be what automerge does not read, however many documents it is; nobody reads
/// a longer list.
pub const UNREADABLE_LISTED: usize = 1_000;

/// Operations that one change may have: 1,048,576. One character that is inserted or deleted is one
/// operation. An application that takes text from outside can refuse what is longer before it begins
/// a change; [`Document::change`](crate::Document::change) gives
/// [`ChangeError::TooManyOperations`](crate::ChangeError::TooManyOperations).
pub const CHANGE_OPERATIONS: u64 = limits::CHANGE_OPERATIONS;

/// How a store is opened. Change single fields of [`Options::default`].
#[derive(Debug, Clone)]
pub struct Options {
    /// When `change()` may return. Default: [`Durability::Full`].
    pub durability: Durability,
    /// Bytes of page cache per SQLite connection. Default 8 MiB. Small, and large stores read
    /// slower; large, and memory is taken that the system's file cache would use better.
    pub page_cache_bytes: u64,
    /// Bytes of memory for loaded documents, about. Default 256 MiB. Within it, documents stay
    /// loaded that were used last, also when the application drops its handles. Beyond it, those go
    /// that were not used for the longest time and that nobody is at, also when there are handles;
    /// they are read from the store at the next access. Small, and documents are loaded again and
    /// again, which costs time in proportion to their length; 0 keeps the one used last. Large, and
    /// memory is taken for what nobody may look at again. What is in use at the same moment is in
    /// memory whatever the budget, and a document of large values that compress well takes more than
    /// is counted for it.
    pub document_cache_bytes: u64,
    /// Whether histories are folded in the background. Default true. Without it, every change is
    /// kept as it came, and a document's log grows by about 100 bytes for each character typed.
    pub fold: bool,
    /// The youngest changes of each space, which are not folded. Default 1,000. Few, and a relay
    /// that lost a little is healed with whole histories instead of single changes.
    pub keep_recent: u64,
    /// How old a change must be to be folded. Default 10 min. Short has the same price as few.
    pub keep_recent_age: Duration,
    /// How often a store that is open for reading only looks whether the process that writes it has
    /// committed something. Default 250 ms. Its calls look by themselves and see the latest commit;
    /// this is how late its events come and its watched status changes. A look that finds nothing
    /// reads no page of the file. Long, and events come late; short, and an idle program wakes up
    /// more often. [`Duration::MAX`] leaves it to the calls.
    pub follow_every: Duration,
    /// Bytes that a document may have: of its folded history and the changes behind it. Default and
    /// most: 64 MiB ([`DOCUMENT_BYTES`](landfall_protocol::limits::DOCUMENT_BYTES)). From 75 % of it
    /// on, local changes are refused
    /// ([`DocumentTooLarge`](crate::ChangeError::DocumentTooLarge)); what others made is taken
    /// whatever it comes to. Less keeps documents quick to load on small devices.
    pub document_bytes: u64,
    /// Events that a listener may be behind before it is told that it lagged. Default 1,024.
    /// Each may hold a change's patches, so large values cost memory with slow listeners.
    pub events: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::Full,
            page_cache_bytes: 8 * 1024 * 1024,
            document_cache_bytes: 256 * 1024 * 1024,
            fold: true,
            keep_recent: limits::RECENT_ENTRIES,
            keep_recent_age: limits::RECENT_AGE,
            follow_every: Duration::from_millis(250),
            document_bytes: limits::DOCUMENT_BYTES,
            events: 1024,
        }
    }
}

/// How a relay is reached.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// Where the relay is: `ws://host:port/`, read as a browser reads a URL. A path `/spaces/NAME` names
    /// a space, which the store must have ([`LinkOptions::space`]); all its spaces are synced there.
    pub url: String,
    /// What proves who we are, where the relay asks for that. Default: none.
    pub token: Option<Vec<u8>>,
    /// Silence after which the relay is pinged. Default 15 s. Short costs battery and traffic;
    /// long notices a dead connection late.
    pub ping_after: Duration,
    /// Silence after which the connection is dropped and made anew. Default 30 s; must be longer
    /// than `ping_after`, or every pause drops it.
    pub drop_after: Duration,
    /// How long connecting, and then the relay's first answer, may each take. Default 10 s.
    pub handshake: Duration,
    /// The first wait before connecting again; it doubles each time. Default 250 ms.
    pub reconnect_first: Duration,
    /// The longest wait before connecting again. Default 30 s. The wait is jittered between half
    /// and all of it, so that a herd of clients spreads.
    pub reconnect_most: Duration,
    /// How often what the relay holds is compared with what this store holds, although nothing
    /// says that it should differ. Default 10 min; one comparison that finds nothing costs some
    /// hundred bytes. Long, and damage on either side is noticed late. See
    /// [`Store::check`](crate::Store::check).
    pub check_every: Duration,
}

impl LinkOptions {
    /// The defaults for a relay's URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: None,
            ping_after: limits::PING_AFTER,
            drop_after: limits::DROP_AFTER,
            handshake: limits::HANDSHAKE,
            reconnect_first: limits::RECONNECT_FIRST,
            reconnect_most: limits::RECONNECT_MOST,
            check_every: limits::CHECK_EVERY,
        }
    }

    /// The space that the URL names with a path `/spaces/NAME`, as those of automerge-repo clients do.
    ///
    /// # Errors
    /// [`ConnectError::BadUrl`] for what is no relay's URL.
    pub fn space(&self) -> Result<Option<SpaceName>, ConnectError> {
        link::space_of(&self.url)
    }
}

impl From<&str> for LinkOptions {
    fn from(url: &str) -> Self {
        Self::new(url)
    }
}

impl From<String> for LinkOptions {
    fn from(url: String) -> Self {
        Self::new(url)
    }
}
