//! The end of a connection: its close code, and a farewell that reaches the peer.

use std::time::Duration;

use landfall_protocol::Code;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

use super::socket::{self, Stream};
use super::writer::{Outgoing, WriteEnd, Writing};
use crate::limits;

/// WebSocket close codes from 4000 on are application-defined; ours are this base plus the error code.
const CLOSE_BASE: u16 = 4_000;
/// "Normal closure".
pub(crate) const CLOSE_NORMAL: u16 = 1_000;
/// "Message too big", for a message that the WebSocket layer rejects.
pub(crate) const CLOSE_TOO_BIG: u16 = 1_009;

/// How a session ends.
pub(super) enum Ending {
    /// Send the queued messages, then a close frame with this code and reason.
    Closing { code: Code, close: u16, reason: String },
    /// The connection is gone: nothing can be sent.
    Lost(Code),
}

impl Ending {
    /// The close frame of an error code.
    pub(super) fn of(code: Code, reason: String) -> Self {
        let close = match code {
            Code::GOODBYE => CLOSE_NORMAL,
            code => CLOSE_BASE + code.0,
        };
        Self::Closing { code, close, reason }
    }

    pub(super) fn code(&self) -> Code {
        match self {
            Self::Closing { code, .. } | Self::Lost(code) => *code,
        }
    }
}

/// The WebSocket's read half, and the task that has its write half.
pub(super) struct Transport {
    pub(super) stream: Stream,
    pub(super) writer: mpsc::Sender<Outgoing>,
    pub(super) writing: Writing,
}

impl Transport {
    /// Sends the queued messages and the close frame, and gives the peer a little time to receive them.
    pub(super) async fn close(
        self,
        queued: Vec<Outgoing>,
        close: u16,
        mut reason: String,
        linger: Duration,
    ) {
        let Self { stream, writer, writing } = self;
        reason.truncate(reason.floor_char_boundary(limits::CLOSE_REASON_BYTES));
        let abort = writing.abort_handle();
        let goodbye = async {
            for next in queued {
                if writer.send(next).await.is_err() {
                    return None;
                }
            }
            writer.send(Outgoing::Close(close, reason)).await.ok()?;
            drop(writer);
            let (end, sink) = writing.await.ok()?;
            (end == WriteEnd::Finished).then_some(sink)
        };
        match timeout(limits::FLUSH, goodbye).await {
            Ok(Some(sink)) => {
                if let Ok(socket) = sink.reunite(stream) {
                    socket::linger(socket, linger).await;
                }
            }
            Ok(None) => debug!("the connection broke before it was closed"),
            Err(_) => {
                debug!("the peer did not read the reason for the close in time");
                abort.abort();
            }
        }
    }
}
