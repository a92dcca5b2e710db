//! Landfall, an offline-first CRDT sync engine to be embedded in applications.
//!
//! An application keeps its documents in a local SQLite file, reads and edits them with or
//! without a network, and a self-hosted relay brings every replica to the same state when they
//! meet again. Documents are [automerge] documents: concurrent edits merge.
//!
//! ```
//! use landfall::automerge::{ReadDoc, ROOT, ObjType, transaction::Transactable};
//! use landfall::{Options, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("notes.landfall");
//! let store = Store::open(&path, Options::default())?;
//! let space = store.space("default")?;
//! let note = space.create(|tx| {
//!     let text = tx.put_object(ROOT, "text", ObjType::Text)?;
//!     Ok(tx.splice_text(&text, 0, 0, "Hello")?)
//! })?;
//! // Saved: `create` returned. Sync whenever a relay is there; editing never waits for it.
//! store.connect("ws://127.0.0.1:7600")?;
//! println!("{} has {} changes to send", note.id(), store.status().pending().changes);
//! # store.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # The parts
//! A [`Store`] is one SQLite file; it has [`Space`]s, each a named set of [`Document`]s that sync
//! together. [`Document::change`] returns when the change is in the file. [`Store::status`] says
//! what is saved where, [`Store::events`] what happened, [`Store::flush`] waits for the relay.
//!
//! # Inside
//! `handle` is what applications see; `document` is a loaded document and who may touch it;
//! `store` is SQLite, and the only place that knows it; `link` is the socket, and the only place
//! that knows it. The decisions of sync are `landfall-protocol`'s.

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
    SpaceError, StoreError, StoreFailure, SubscribeError,
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
