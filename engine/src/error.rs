//! Errors, one type per operation with only the errors that it can return, sorted by blame: the caller,
//! the disk, another program, or a bug of this software. Fields and sources are kept.

mod change;
mod document;
mod open;
mod rejected;
mod space;
mod store;
mod sync;
mod words;

pub use change::ChangeError;
pub use document::{OpenDocumentError, ReadError, WaitError};
pub use open::OpenError;
pub use rejected::RejectedChangesError;
pub use space::{RemoveSpaceError, SpaceError, SubscribeError};
pub use store::StoreError;
pub use sync::{BroadcastError, CheckError, ConnectError, FlushError, NotCompared, RefusedSpace};
pub(crate) use words::counted;
