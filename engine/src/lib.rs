//! Landfall, an offline-first CRDT sync engine that is embedded in applications.
//!
//! An application keeps its documents in a local SQLite file, reads and edits them with or
//! without a network, and a self-hosted relay brings every replica to the same state when they
//! meet again. Documents are [automerge] documents: concurrent edits merge.
//!
//! ```
//! use landfall::{Hydrate, Options, Reconcile, Store, Text};
//!
//! #[derive(Hydrate, Reconcile)]
//! struct Note {
//!     title: Text,
//!     stars: u64,
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("notes.landfall");
//! let store = Store::open(&path, Options::default())?;
//! let space = store.space("default")?;
//! let note = space.create_from(&Note { title: "Hello".into(), stars: 0 })?;
//! // Saved: the call returned. Sync whenever a relay is there; editing never waits for it.
//! store.connect("ws://127.0.0.1:7600")?;
//! note.edit::<Note>(|note| note.title.push_str(", world"))?;
//! assert_eq!(note.get::<String>("title")?, "Hello, world");
//! println!("{} has {} changes to send", note.id(), store.status().pending().changes);
//! # store.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Concepts
//! - A [`Store`] is one SQLite file, open in one process at a time. Other processes can open it for
//!   reading ([`Store::open_read_only`]).
//! - A store has [`Space`]s: named sets of documents that sync together.
//! - A [`Document`] is a JSON-like value with its whole history. Its [`DocumentId`] is the same in
//!   every replica, and prints as automerge-repo's `automerge:…` URL.
//! - A *change* is the set of operations that one editing call makes. A replica receives all of them or
//!   none. The *heads* of a document are its newest changes, and identify a state of it.
//! - A *relay* stores and forwards changes. [`Store::connect`] sets the relay; changes made before the
//!   connection or without it are sent once the relay is reachable.
//!
//! [`Store::status`] shows what is saved where, [`Store::events`] reports what happened, and
//! [`Store::flush`] waits for the relay's acknowledgement.
//!
//! # Three ways to edit
//! **As a value of a type.** [`Document::edit`] reads the document as a value, passes it to a closure
//! that changes it, and writes the difference. Concurrent changes of others are merged. For a value
//! that lives longer, such as a form that a person fills in, [`Document::hydrate_with_heads`] returns
//! the heads that were read with the value, and [`Document::reconcile_at`] applies the edited value to
//! that state:
//!
//! ```
//! # use landfall::{Hydrate, Options, Reconcile, Store, Text};
//! # #[derive(Hydrate, Reconcile)]
//! # struct Note { title: Text, stars: u64 }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let store = Store::in_memory(Options::default())?;
//! # let note = store.space("default")?.create_from(&Note { title: "Hello".into(), stars: 0 })?;
//! let (mut form, heads) = note.hydrate_with_heads::<Note>()?;
//! // Somebody else, or another part of the program, edits the note.
//! note.edit::<Note>(|note| note.stars = 5)?;
//! form.title.push('!');
//! note.reconcile_at(&heads, &form)?;
//! let merged = note.hydrate::<Note>()?;
//! assert_eq!((merged.title.as_str(), merged.stars), ("Hello!", 5));
//! # Ok(())
//! # }
//! ```
//!
//! [`Document::reconcile`] makes the document equal to a value, whatever was changed since, and so
//! deletes everything that the value lacks. It is for values that were not read from the document.
//!
//! **With automerge's own calls.** [`Document::change`] passes the transaction to a closure, for
//! operations that a type cannot express: marks, cursors, a splice at a known position.
//!
//! ```
//! # use landfall::{Options, Store};
//! use landfall::automerge::{ObjType, ROOT, ReadDoc, transaction::Transactable};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let store = Store::in_memory(Options::default())?;
//! let (note, text) = store.space("default")?.create(|tx| {
//!     let text = tx.put_object(ROOT, "text", ObjType::Text)?;
//!     tx.splice_text(&text, 0, 0, "Hello")?;
//!     Ok(text)
//! })?;
//! note.change(|tx| Ok(tx.splice_text(&text, 5, 0, " 🏝️")?))?;
//! # Ok(())
//! # }
//! ```
//!
//! **At earlier heads.** [`Document::change_at`] makes the same kind of change on top of earlier heads,
//! for an editor that shows an older state. [`Store::group`] changes several documents in one commit.
//!
//! # Types
//! `#[derive(Hydrate, Reconcile)]` writes a struct as a map, a tuple struct as a list and a newtype as
//! its inner value. It writes an enum variant as its name, or as a map with the name as its only key.
//! Fields may have:
//!
//! | attribute | meaning |
//! |---|---|
//! | `#[key]` | identifies an item of a list, so that the item is edited in place |
//! | `#[landfall(rename = "name")]` | the key in the document; also for variants |
//! | `#[landfall(missing = "function")]` | the value if the key is missing |
//! | `#[landfall(with = "module")]` | `module::hydrate` and `module::reconcile` read and write it |
//! | `#[landfall(hydrate = "function")]`, `#[landfall(reconcile = "function")]` | one of the two |
//!
//! The attributes are autosurgeon's, and may be written `#[autosurgeon(…)]` too. The type of the value
//! that is already in the document decides how a value is written, so that programs in other languages
//! can still read it:
//!
//! - A [`Text`] is a text object: concurrent edits merge, and JavaScript's automerge reads and writes
//!   it as its string. A new `String` is a plain value: of two concurrent writes one wins, and
//!   JavaScript reads it as `ImmutableString`. Use it for ids and names. Both types read a text object
//!   that is already there and edit it in place.
//! - Integers and floats are read as each other where they denote the same number. A new integer is
//!   stored as a signed integer, if it fits. A [`Counter`] adds up concurrent increments.
//! - An `Option` is `None` where a key is missing. `None` is written as null in a new object, and adds
//!   no key to an existing one.
//! - Items of a list are matched by their `#[key]`, a [`Text`] by its object, plain values by equality,
//!   and others by their index. An edited string in a `Vec<String>` is therefore a new item; in a
//!   `Vec<Text>` it is edited in place.
//! - An equal value is not written: an edit that changes nothing makes no change.
//! - Keys that a struct does not have stay as they are.
//!
//! # Deletion
//! [`Space::delete`] deletes a document permanently, in every replica. The deletion wins over all edits
//! made without knowledge of it. Reads then return [`ReadError::Deleted`], edits return
//! [`ChangeError::Deleted`], and listeners receive [`EventKind::Deleted`]. Edits that no other replica
//! has are kept as orphaned edits: see [`Space::orphaned_edits`].
//!
//! ```
//! # use landfall::{Options, ReadError, Store};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let store = Store::in_memory(Options::default())?;
//! # let space = store.space("default")?;
//! let (note, ()) = space.create(|_| Ok(()))?;
//! space.delete(note.id())?;
//! assert!(matches!(note.heads(), Err(ReadError::Deleted)));
//! # Ok(())
//! # }
//! ```
//!
//! # Threads
//! All handles are cheap to clone, `Send` and `Sync`. A reader never waits for another thread's
//! closure. A writer waits only for other writers of the same document. Inside an editing closure, an
//! edit that does not go through the closure's transaction is a typed error, not a deadlock. A panic in
//! a closure leaves no trace in the document.
//!
//! # Async
//! Every call that touches only the store is synchronous. [`Store::flush`], [`Store::check`],
//! [`Space::find`], events and the watched status are futures for any executor, and have blocking
//! variants: no runtime is needed.
//!
//! ```
//! # use landfall::{EventKind, Options, Store};
//! # use landfall::automerge::{ROOT, transaction::Transactable};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let store = Store::in_memory(Options::default())?;
//! # let (note, ()) = store.space("default")?.create(|_| Ok(()))?;
//! let mut events = note.events();
//! note.change(|tx| Ok(tx.put(ROOT, "title", "Hello")?))?;
//! let event = events.next_blocking().ok_or("the store was closed")??;
//! assert!(matches!(event.kind, EventKind::Changed { .. }));
//! # Ok(())
//! # }
//! ```
//!
//! # Errors
//! Each operation has an error type with only the errors that it can return. A failed edit leaves no
//! trace, whatever the reason. A mismatch with a type is a [`TypedError`], which names the path:
//!
//! ```
//! # use landfall::{Options, ReadError, Store, TypedError};
//! # use landfall::automerge::{ROOT, transaction::Transactable};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let store = Store::in_memory(Options::default())?;
//! # let (note, ()) = store.space("default")?.create(|tx| Ok(tx.put(ROOT, "title", 5)?))?;
//! let error = note.get::<String>("title").expect_err("the title is a number");
//! assert!(matches!(error, ReadError::Typed(TypedError::Kind { path, .. }) if path == "title"));
//! # Ok(())
//! # }
//! ```
//!
//! # Versions of automerge
//! The version of [`automerge`] is pinned exactly, because the engine stores and sends automerge's own
//! bytes. Use it through `landfall::automerge`, and autosurgeon's traits through [`mod@autosurgeon`]:
//! another version in the same program has other types. A new version of automerge is a new version of
//! this crate.
//!
//! # Inside
//! `handle` is the public API. `document` holds loaded documents and controls access to them. `typed`
//! presents documents to autosurgeon. `store` is the only module that uses SQLite, and `link` the only
//! one that uses the socket. `landfall-protocol` makes the decisions of sync.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        reason = "a test fails by panicking"
    )
)]

mod actors;
mod address;
pub mod admin;
pub mod autosurgeon;
mod changes;
mod clock;
mod compactor;
mod document;
mod ephemeral;
mod error;
mod events;
mod failure;
mod follow;
mod handle;
mod limits;
mod link;
mod named;
mod notify;
mod open_store;
mod options;
mod random;
mod reauthor;
mod signals;
mod status;
mod store;
#[cfg(test)]
mod tests;
mod threads;
mod token;
mod typed;

pub use self::autosurgeon::{Counter, Hydrate, Reconcile};
pub use automerge;
pub use error::{
    BroadcastError, ChangeError, CheckError, ConnectError, FlushError, NotCompared,
    OpenDocumentError, OpenError, ReadError, RefusedSpace, RejectedChangesError, RemoveSpaceError,
    SpaceError, StoreError, SubscribeError, WaitError,
};
pub use events::{Event, EventKind, Events, Lagged, Origin};
pub use failure::{BoxError, StoreFailure};
pub use handle::{Document, DocumentWatch, Group, OrphanedEdits, Space, Store};
pub use landfall_protocol::admission::FormError;
pub use landfall_protocol::error_chain;
pub use landfall_protocol::ids::{BadSpaceName, ParseDocumentIdError};
pub use landfall_protocol::{ChangeHash, Code, DocumentId, ReplicaId, SpaceName, Upstream};
pub use limits::{CHANGE_OPERATIONS, MANY_ACTORS, UNREADABLE_LISTED};
pub use options::{Durability, LinkOptions, Options};
pub use status::{
    DocumentSize, DocumentStatus, LinkStatus, LoadedDocuments, Progress, RejectedDocument,
    SpaceStatus, Status, StatusWatch, StoreFailed, SyncStatus, UnreadableDocument,
};
pub use store::{DocumentLimit, ExceededLimit, Pending};
pub use threads::{StoreThread, ThreadPanic};
pub use token::{Token, TokenError, TokenProvider};
pub use typed::{Text, TypedError};
