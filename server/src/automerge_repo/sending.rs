//! The next frame for the writer, and how an ending session sends its close reason.

use std::time::Duration;

use landfall_protocol::automerge_repo::peer::Peer;
use landfall_protocol::{Code, Moment};
use tokio::time::timeout;
use tracing::debug;

use super::{Driver, host};
use crate::connection::socket::{self, Stream};
use crate::connection::writer::{Outgoing, WriteEnd, Writing};
use crate::limits;

impl Driver {
    /// Sends the next frame: the writer has room.
    pub(super) fn send_next(&mut self) {
        let (Some(next), Some(writer)) = (self.outbox.pop_front(), &self.writer) else { return };
        let bytes = next.bytes();
        self.outbox_bytes -= bytes.min(self.outbox_bytes);
        let now = Moment(self.start.elapsed());
        let takes = Duration::from_secs_f64(bytes as f64 / limits::SLOWEST_LINK);
        let delivered = self.delivered.max(now).after(takes);
        self.delivered = delivered.min(now.after(limits::LONGEST_DELIVERY));
        // This is the only sender, so the room is still there. A writer that has ended is noticed where its
        // result is awaited.
        let _ = writer.try_send(next);
    }

    /// Frees the peer's state. An ending session waits some seconds for its peer, and many sessions may be
    /// ended at once because memory is short.
    fn release(&mut self) {
        self.shared.remote_heads.leave(&self.space, self.id);
        self.shared.relay.fan_out.remove(self.id);
        self.push_queue.drop_waiting();
        self.sync_answers.clear();
        let host = host(self.shared.relay.upstream, &self.space);
        self.machine = Peer::new(host, self.shared.relay.patience, Moment::default());
        self.state_room.clear();
    }

    /// Sends the queued frames and the close frame, and gives the peer a little time to receive them.
    pub(super) async fn close(
        &mut self,
        code: Code,
        close: u16,
        what: &str,
        stream: Stream,
        writing: Writing,
    ) {
        let Some(writer) = self.writer.take() else { return };
        self.release();
        let abort = writing.abort_handle();
        let mut reason = format!("{code}: {what}");
        reason.truncate(reason.floor_char_boundary(limits::CLOSE_REASON_BYTES));
        let goodbye = async {
            for next in self.outbox.drain(..) {
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
                    socket::linger(socket, self.shared.relay.linger).await;
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
