//! Landfall, an offline-first CRDT sync engine to be embedded in applications.
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
//! - A [`Store`] is one SQLite file, open in one process at a time; others may follow it
//!   ([`Store::open_read_only`]).
//! - A store has [`Space`]s: named sets of documents that sync together.
//! - A [`Document`] is a JSON-like value with its whole history. Its [`DocumentId`] is the same in every
//!   replica, and prints as automerge-repo's `automerge:…` URL.
//! - A *change* is what one call that edits makes: some operations that all replicas get together, or
//!   not at all. The *heads* of a document are its newest changes, and name a state of it.
//! - A *relay* stores and forwards changes. [`Store::connect`] names one, and whatever was changed
//!   before or without it is sent when it is there.
//!
//! [`Store::status`] says what is saved where, [`Store::events`] what happened, [`Store::flush`] waits
//! for the relay.
//!
//! # Three ways to edit
//! **As a value of a type.** [`Document::edit`] reads the document as a value, lets a closure change
//! it, and writes the difference. What others do meanwhile is merged. For a value that is kept for
//! longer, such as a form that a person fills in, [`Document::hydrate_with_heads`] gives the state that
//! was read with it, and [`Document::reconcile_at`] writes onto that state:
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
//! [`Document::reconcile`] makes the document equal to a value whatever was made since, and so deletes
//! what the value does not know of: it is for values that were not read from the document.
//!
//! **With automerge's own calls.** [`Document::change`] gives a closure the transaction, for what a type
//! does not say: marks, cursors, a splice at a known place.
//!
//! ```
//! # use landfall::{Options, Store};
//! use landfall::automerge::{ObjType, ROOT, ReadDoc, transaction::Transactable};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let store = Store::in_memory(Options::default())?;
//! let note = store.space("default")?.create(|tx| {
//!     let text = tx.put_object(ROOT, "text", ObjType::Text)?;
//!     Ok(tx.splice_text(&text, 0, 0, "Hello")?)
//! })?;
//! let text = note.read(|doc| doc.get(ROOT, "text").map(|found| found.map(|(_, id)| id)))??;
//! let text = text.ok_or("there is no text")?;
//! note.change(|tx| Ok(tx.splice_text(&text, 5, 0, " 🏝️")?))?;
//! # Ok(())
//! # }
//! ```
//!
//! **As it was earlier.** [`Document::change_at`] does the same on top of earlier heads: for an editor
//! that shows a state which is not the newest. Several documents are changed in one commit by
//! [`Store::group`].
//!
//! # Types
//! `#[derive(Hydrate, Reconcile)]` writes a struct as a map, a tuple struct as a list, a newtype as
//! what is in it; a variant of an enum as its name, or as a map with that one key. Fields may have:
//!
//! | attribute | meaning |
//! |---|---|
//! | `#[key]` | what tells items of a list apart, so that the same item is edited where it is |
//! | `#[landfall(rename = "name")]` | the key in the document; of variants too |
//! | `#[landfall(missing = "function")]` | the value where the key is not there |
//! | `#[landfall(with = "module")]` | `module::hydrate` and `module::reconcile` read and write it |
//! | `#[landfall(hydrate = "function")]`, `#[landfall(reconcile = "function")]` | one of the two |
//!
//! They are autosurgeon's, and may be written `#[autosurgeon(…)]` too. How values are written is
//! decided by what stands in the document, so that programs in other languages are not harmed:
//!
//! - A [`Text`] is a text object: concurrent edits merge, and JavaScript's automerge reads and
//!   writes it as its string. A new `String` is a plain value, of which one of two concurrent writes
//!   wins, and which JavaScript reads as `ImmutableString`: for ids and names of things. A text object
//!   that stands there already is read and edited in place through either.
//! - Whole numbers and floats are read as each other where they say the same number. A new whole number
//!   is stored as a signed integer, if it fits. A [`Counter`] adds up concurrent increments.
//! - An `Option` is `None` where a key is missing. `None` is null in a new object, and adds no key to
//!   one that is there.
//! - Items of a list are told apart by their `#[key]`, a [`Text`] by its object, plain values by what they
//!   are, and others by their place. So a string that is edited in a `Vec<String>` is a new item; in a
//!   `Vec<Text>` it is edited where it is.
//! - An equal value is not written: an edit that changes nothing makes no change.
//! - Keys that a struct does not have stay as they are.
//!
//! # Deletion
//! [`Space::delete`] deletes a document for good, in every replica: it beats every edit that did not know
//! of it. Reads then give [`ReadError::Deleted`], edits [`ChangeError::Deleted`], listeners are told
//! [`EventKind::Deleted`]. Edits that no other replica has are kept: see [`Space::lost_edits`].
//!
//! ```
//! # use landfall::{Options, ReadError, Store};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let store = Store::in_memory(Options::default())?;
//! # let space = store.space("default")?;
//! let note = space.create(|_| Ok(()))?;
//! space.delete(note.id())?;
//! assert!(matches!(note.heads(), Err(ReadError::Deleted)));
//! # Ok(())
//! # }
//! ```
//!
//! # Threads
//! All handles are cheap to clone, `Send` and `Sync`. Readers never wait for another thread's closure;
//! writers of one document wait for each other, and for nobody else. Inside a closure that edits,
//! nothing can be edited but through it: that is a typed error, not a deadlock. A panic in a closure
//! leaves no trace in the document.
//!
//! # Async
//! Everything that only touches the store is synchronous. [`Store::flush`], [`Store::check`],
//! [`Space::find`], events and the watched status are futures of any executor, and have blocking
//! twins: no runtime is needed.
//!
//! ```
//! # use landfall::{EventKind, Options, Store};
//! # use landfall::automerge::{ROOT, transaction::Transactable};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let store = Store::in_memory(Options::default())?;
//! # let note = store.space("default")?.create(|_| Ok(()))?;
//! let mut events = note.events();
//! note.change(|tx| Ok(tx.put(ROOT, "title", "Hello")?))?;
//! let event = events.next_blocking().ok_or("the store was closed")??;
//! assert!(matches!(event.kind, EventKind::Changed { .. }));
//! # Ok(())
//! # }
//! ```
//!
//! # Errors
//! Each operation has an error type with only what it can return. A failed edit left no trace, whatever
//! the reason. What went wrong with a type is a [`TypedError`], which names the place:
//!
//! ```
//! # use landfall::{Options, ReadError, Store, TypedError};
//! # use landfall::automerge::{ROOT, transaction::Transactable};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let store = Store::in_memory(Options::default())?;
//! # let note = store.space("default")?.create(|tx| Ok(tx.put(ROOT, "title", 5)?))?;
//! let error = note.get::<String>("title").expect_err("the title is a number");
//! assert!(matches!(error, ReadError::Typed(TypedError::Kind { path, .. }) if path == "title"));
//! # Ok(())
//! # }
//! ```
//!
//! # Versions of automerge
//! [`automerge`] is pinned exactly, since its bytes are what is stored and sent. Use it through
//! `landfall::automerge`, and autosurgeon's traits through [`mod@autosurgeon`]: another version in the
//! same program has other types. A new version of automerge is a new version of this crate.
//!
//! # Inside
//! `handle` is what applications see; `document` is a loaded document and who may touch it; `typed` shows
//! documents to autosurgeon; `store` is SQLite, and the only place that knows it; `link` is the socket,
//! and the only place that knows it. The decisions of sync are `landfall-protocol`'s.

mod actors;
pub mod autosurgeon;
mod compactor;
mod core;
mod document;
mod ephemeral;
mod error;
mod events;
mod follow;
mod handle;
mod link;
pub mod maintain;
mod named;
mod notify;
mod options;
mod random;
mod reauthor;
mod status;
mod store;
#[cfg(test)]
mod tests;
mod threads;
mod typed;

pub use self::autosurgeon::{Counter, Hydrate, Reconcile};
pub use automerge;
pub use error::{
    BoxError, BroadcastError, ChangeError, CheckError, ConnectError, FlushError, KeptError,
    NotCompared, OpenDocumentError, OpenError, ReadError, RefusedSpace, RemoveSpaceError,
    SpaceError, StoreError, StoreFailure, SubscribeError, WaitError,
};
pub use events::{Event, EventKind, Events, Lagged, Origin};
pub use handle::{Document, DocumentWatch, Group, LostEdits, Space, Store};
pub use landfall_protocol::admission::FormError;
pub use landfall_protocol::ids::{BadSpaceName, ParseDocumentIdError};
pub use landfall_protocol::{ChangeHash, Code, DocumentId, ReplicaId, SpaceName, Upstream};
pub use options::{
    CHANGE_OPERATIONS, Durability, LinkOptions, MANY_ACTORS, Options, UNREADABLE_LISTED,
};
pub use status::{
    DocumentSize, DocumentStatus, LinkStatus, LoadedDocuments, ParkedDocument, Progress,
    SpaceStatus, Status, StatusWatch, StoreFailed, SyncStatus, UnreadableDocument,
};
pub use store::{DocumentLimit, Excess, Pending};
pub use threads::{StoreThread, ThreadPanic};
pub use typed::{Text, TypedError};
