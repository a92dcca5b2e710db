//! The relay's machines, and the types that they exchange with its store and its connections.
//!
//! [`Session`] is one engine's connection; [`Space`] sequences the pushes of one space, of both
//! protocols. The rest is data: the log's valid cursors ([`Lineage`]), its latest entries
//! ([`Ring`]).

mod author;
mod lineage;
mod ring;
mod session;
mod snapshot;
mod space;

pub use author::Author;
pub use lineage::{EpochRecord, Lineage};
pub use ring::{Chunk, DocumentPlan, Page, Ring, SnapshotPart};
pub use session::{Session, SessionEffect, SnapshotUpload, UncheckedPush};
pub use snapshot::Snapshot;
pub use space::{
    CheckedPush, Commit, NewEntry, NewKind, Outcome, PendingPush, PushAnswer, PushVerdict,
    PushedEntry, Refusal, Space, StoreFailure,
};
