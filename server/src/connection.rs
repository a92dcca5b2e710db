//! A client's connection, whichever protocol it speaks: the WebSocket, its two tasks' shared parts, the memory of
//! its messages, and the connection slots. `native` and `automerge_repo` drive their machines over it.
//!
//! It must not know the messages of either protocol.

pub(crate) mod incoming;
pub(crate) mod meter;
mod relay_state;
pub(crate) mod slots;
pub(crate) mod socket;
mod wire;
pub(crate) mod writer;

use tokio::sync::mpsc;

pub(crate) use relay_state::RelayState;
use writer::Outgoing;

/// WebSocket close codes from 4000 on are application-defined; ours are this base plus the error code.
pub(crate) const CLOSE_BASE: u16 = 4_000;
/// "Normal closure".
pub(crate) const CLOSE_NORMAL: u16 = 1_000;
/// "Message too big", for a message that the WebSocket layer rejects.
pub(crate) const CLOSE_TOO_BIG: u16 = 1_009;

/// Waits until the writer accepts a message.
pub(crate) async fn room(writer: Option<&mpsc::Sender<Outgoing>>) {
    match writer {
        // The end of the writer is handled where its task is awaited.
        Some(writer) if writer.reserve().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}
