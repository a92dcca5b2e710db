//! What goes to the writer next, and how a session that ends says so.

use std::time::Duration;

use landfall_protocol::repo::peer::Peer;
use landfall_protocol::{Code, Moment};
use tokio::time::timeout;
use tracing::debug;

use super::{Driver, host};
use crate::limits;
use crate::session::socket::{self, Stream};
use crate::session::writer::{Outgoing, WriteEnd, Writing};

impl Driver {
    /// The writer has room.
    pub(super) fn send_next(&mut self) {
        let (Some(next), Some(writer)) = (self.outbox.pop_front(), &self.writer) else { return };
        let bytes = next.bytes();
        self.outbox_bytes -= bytes.min(self.outbox_bytes);
        let now = Moment(self.start.elapsed());
        let takes = Duration::from_secs_f64(bytes as f64 / limits::SLOWEST_LINK);
        let delivered = self.delivered.max(now).after(takes);
        self.delivered = delivered.min(now.after(limits::LONGEST_DELIVERY));
        // There is room for one, and nobody else sends; a writer that has ended is noticed where
        // it is waited for.
        let _ = writer.try_send(next);
    }

    /// Frees what the relay remembers of the peer. A session that ends waits some seconds for its peer, and many
    /// may be ended at once because memory is short.
    fn release(&mut self) {
        self.shared.repo.gossip.leave(&self.space, self.id);
        self.shared.rooms.forget(self.id);
        self.intake.drop_waiting();
        let host = host(self.shared.upstream, &self.space);
        self.machine = Peer::new(host, self.shared.patience, Moment::default());
        self.state_room.clear();
    }

    /// Sends what is left and the close, and waits a little for the peer to have heard it.
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
                    socket::linger(socket, self.shared.linger).await;
                }
            }
            Ok(None) => debug!("the connection broke before it was closed"),
            Err(_) => {
                debug!("the peer did not take the reason for the end in time");
                abort.abort();
            }
        }
    }
}
