//! A client's connection, whichever protocol it speaks: the WebSocket and the task that writes it, the memory
//! of its messages, the loop of its session, and the connection slots. `native` and `automerge_repo` are the
//! two drivers of that loop.
//!
//! It must not know the messages of either protocol.

pub(crate) mod bindings;
mod closing;
mod driver;
pub(crate) mod identification;
pub(crate) mod incoming;
mod meter;
mod outbox;
mod relay_state;
pub(crate) mod slots;
mod socket;
mod wire;
mod writer;

pub(crate) use closing::{CLOSE_NORMAL, CLOSE_TOO_BIG};
pub(crate) use driver::{Connection, Driver, Input, Ready, drive, handle};
pub(crate) use meter::MessageSizes;
pub(crate) use outbox::Outbox;
pub(crate) use relay_state::RelayState;
pub(crate) use socket::SocketRead;
pub(crate) use writer::Outgoing;
