//! How a store is opened and a relay is reached: every option with its unit and default.

use std::time::Duration;

use landfall_protocol::{SpaceName, limits};

use crate::address;
use crate::error::ConnectError;
use crate::limits::SIGNED_OUT_RETRY;
use crate::token::TokenProvider;

/// When `change()` may return.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// After the change is on disk (SQLite's `synchronous=FULL`): it survives a power cut. Costs
    /// one fsync per change, or per group of concurrent ones.
    #[default]
    Full,
    /// After the change is in SQLite (`synchronous=NORMAL`): it survives a crash of the process, but a
    /// power cut may lose the last quarter of a second. The status shows when it is on disk.
    Normal,
}

/// How a store is opened: [`Options::default`], with single options set by a method of the same name.
///
/// ```
/// use landfall::{Durability, Options};
/// let options = Options::default().durability(Durability::Normal).events(16);
/// assert_eq!(options.events, 16);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// When `change()` may return. Default: [`Durability::Full`].
    pub durability: Durability,
    /// Bytes of page cache per SQLite connection. Default 8 MiB. Too small, and large stores read
    /// slowly; too large, and it takes memory that the system's file cache would use better.
    pub page_cache_bytes: u64,
    /// The approximate memory budget in bytes for loaded documents. Default 256 MiB. Within it, the
    /// most recently used documents stay loaded, even after the application drops their handles. Beyond
    /// it, the least recently used documents that are not in use are evicted, even if they have
    /// handles; the next access reads them from the store again. Too small, and documents are loaded
    /// repeatedly, which costs time in proportion to their length; 0 keeps the one used last. Too
    /// large, and memory holds documents that are not needed again. Documents in use at the same moment
    /// are in memory whatever the budget, and a document of large values that compress well takes more
    /// than its counted size.
    pub document_cache_bytes: u64,
    /// Whether histories are compacted in the background. Default true. Without compaction, every
    /// change is kept as it arrived, and a document's log grows by about 100 bytes for each character
    /// typed.
    pub compaction: bool,
    /// The number of newest changes of each space that are not compacted. Default 1,000. With few, a
    /// relay that lost a little is repaired with whole snapshots instead of single changes.
    pub keep_recent: u64,
    /// The minimum age of a change for compaction. Default 10 min. A short age has the same cost as
    /// few.
    pub keep_recent_age: Duration,
    /// How often a store that is open for reading only checks for commits of the process that writes
    /// it. Default 250 ms. Its calls check by themselves and see the latest commit; this interval
    /// bounds the delay of events and of the watched status. A check that finds nothing reads no page
    /// of the file. Long, and events are late; short, and an idle program wakes up more often.
    /// [`Duration::MAX`] leaves the checks to the calls.
    pub follow_every: Duration,
    /// The limit in bytes for a document: its snapshot and its tail. Default and maximum: 64 MiB
    /// ([`DOCUMENT_BYTES`](landfall_protocol::limits::DOCUMENT_BYTES)). From 75 % of it on, local
    /// changes are refused ([`DocumentTooLarge`](crate::ChangeError::DocumentTooLarge)); changes of
    /// others are accepted whatever the size. A lower limit keeps documents quick to load on small
    /// devices.
    pub document_bytes: u64,
    /// How many events a listener may be behind before it receives `Lagged`. Default 1,024. Each event
    /// may hold a change's patches, so large values cost memory with slow listeners.
    pub events: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::Full,
            page_cache_bytes: 8 * 1024 * 1024,
            document_cache_bytes: 256 * 1024 * 1024,
            compaction: true,
            keep_recent: limits::RECENT_ENTRIES,
            keep_recent_age: limits::RECENT_AGE,
            follow_every: Duration::from_millis(250),
            document_bytes: limits::DOCUMENT_BYTES,
            events: 1024,
        }
    }
}

impl Options {
    /// Sets [`Options::durability`].
    #[must_use]
    pub fn durability(mut self, value: Durability) -> Self {
        self.durability = value;
        self
    }

    /// Sets [`Options::page_cache_bytes`].
    #[must_use]
    pub fn page_cache_bytes(mut self, value: u64) -> Self {
        self.page_cache_bytes = value;
        self
    }

    /// Sets [`Options::document_cache_bytes`].
    #[must_use]
    pub fn document_cache_bytes(mut self, value: u64) -> Self {
        self.document_cache_bytes = value;
        self
    }

    /// Sets [`Options::compaction`].
    #[must_use]
    pub fn compaction(mut self, value: bool) -> Self {
        self.compaction = value;
        self
    }

    /// Sets [`Options::keep_recent`].
    #[must_use]
    pub fn keep_recent(mut self, value: u64) -> Self {
        self.keep_recent = value;
        self
    }

    /// Sets [`Options::keep_recent_age`].
    #[must_use]
    pub fn keep_recent_age(mut self, value: Duration) -> Self {
        self.keep_recent_age = value;
        self
    }

    /// Sets [`Options::follow_every`].
    #[must_use]
    pub fn follow_every(mut self, value: Duration) -> Self {
        self.follow_every = value;
        self
    }

    /// Sets [`Options::document_bytes`].
    #[must_use]
    pub fn document_bytes(mut self, value: u64) -> Self {
        self.document_bytes = value;
        self
    }

    /// Sets [`Options::events`].
    #[must_use]
    pub fn events(mut self, value: usize) -> Self {
        self.events = value;
        self
    }
}

/// How a relay is reached: [`LinkOptions::new`], with single options set by a method of the same name.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LinkOptions {
    /// The relay's URL: `ws://host:port/`, parsed as a browser parses a URL. A path `/spaces/NAME`
    /// names a space, which the store must have ([`LinkOptions::space`]); all spaces of the store are
    /// synced there.
    pub url: String,
    /// Supplies the token that authenticates this client, for relays that require one: a fixed token,
    /// or an asynchronous function, which is asked before each connection attempt. Default: none.
    ///
    /// If the relay refuses the token, the provider is asked once more, and if that token is refused
    /// too, the status is [`LinkStatus::SignedOut`](crate::LinkStatus::SignedOut). Editing continues,
    /// and nothing that is pending is lost or rejected.
    pub token: Option<TokenProvider>,
    /// The silence after which the relay is pinged. Default 15 s. Short costs battery and traffic; long
    /// detects a dead connection late.
    pub ping_after: Duration,
    /// The silence after which the connection is dropped and made again. Default 30 s; must be longer
    /// than `ping_after`, or every pause drops the connection.
    pub drop_after: Duration,
    /// The longest time for the token provider, for connecting, and then for the relay's first answer,
    /// each. Default 10 s.
    pub handshake: Duration,
    /// The first wait before reconnecting; it doubles each time. Default 250 ms.
    pub reconnect_first: Duration,
    /// The longest wait before reconnecting. Default 30 s. The wait is jittered between half and all of
    /// it, so that many clients do not reconnect at once.
    pub reconnect_most: Duration,
    /// The wait before the next attempt while the relay refuses the token, or the provider reports that
    /// the person is signed out. Default 5 min, jittered as above; at least 1 s. Short costs the relay
    /// and the token's issuer; long delays the return if the application does not call
    /// [`Store::reconnect_now`](crate::Store::reconnect_now) after a sign-in.
    pub signed_out_retry: Duration,
    /// How often the relay's documents are compared with this store's, although no difference is
    /// expected. Default 10 min; a comparison that finds nothing costs some hundred bytes. Long, and
    /// damage on either side is detected late. See [`Store::check`](crate::Store::check).
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
            signed_out_retry: SIGNED_OUT_RETRY,
            check_every: limits::CHECK_EVERY,
        }
    }

    /// Sets [`LinkOptions::token`]: a token as text or bytes, or a [`TokenProvider`].
    #[must_use]
    pub fn token(mut self, value: impl Into<TokenProvider>) -> Self {
        self.token = Some(value.into());
        self
    }

    /// Sets [`LinkOptions::ping_after`].
    #[must_use]
    pub fn ping_after(mut self, value: Duration) -> Self {
        self.ping_after = value;
        self
    }

    /// Sets [`LinkOptions::drop_after`].
    #[must_use]
    pub fn drop_after(mut self, value: Duration) -> Self {
        self.drop_after = value;
        self
    }

    /// Sets [`LinkOptions::handshake`].
    #[must_use]
    pub fn handshake(mut self, value: Duration) -> Self {
        self.handshake = value;
        self
    }

    /// Sets [`LinkOptions::reconnect_first`].
    #[must_use]
    pub fn reconnect_first(mut self, value: Duration) -> Self {
        self.reconnect_first = value;
        self
    }

    /// Sets [`LinkOptions::reconnect_most`].
    #[must_use]
    pub fn reconnect_most(mut self, value: Duration) -> Self {
        self.reconnect_most = value;
        self
    }

    /// Sets [`LinkOptions::signed_out_retry`].
    #[must_use]
    pub fn signed_out_retry(mut self, value: Duration) -> Self {
        self.signed_out_retry = value;
        self
    }

    /// Sets [`LinkOptions::check_every`].
    #[must_use]
    pub fn check_every(mut self, value: Duration) -> Self {
        self.check_every = value;
        self
    }

    /// The space that the URL names with a path `/spaces/NAME`, as the URLs of automerge-repo clients
    /// do.
    ///
    /// # Errors
    /// [`ConnectError::BadUrl`] for an invalid relay URL.
    pub fn space(&self) -> Result<Option<SpaceName>, ConnectError> {
        Ok(address::parse(&self.url)?.space)
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
