//! A session's sending: the next message for the writer, and the farewell of a session that ends.

use std::time::Duration;

use landfall_protocol::ring::{Chunk, Page};
use landfall_protocol::{Code, Moment};
use tokio::time::timeout;
use tracing::debug;

use super::Driver;
use super::feeds::PageTarget;
use crate::connection::socket::{self, Stream};
use crate::connection::writer::{Outgoing, WriteEnd, Writing};
use crate::limits;
use crate::memory::Grant;

impl Driver {
    /// Whether there is a message for a writer with room.
    pub(super) fn has_something_to_send(&mut self) -> bool {
        !self.outbox.is_empty()
            || self.feeds.has_read()
            || self.feeds.has_live(|id| self.machine.position(id))
    }

    /// The writer has room: sends small frames first, joined; then a page, in turn.
    pub(super) fn send_next(&mut self) {
        // A pending answer says which entries need not be sent whole.
        while let Ok(event) = self.events.try_recv() {
            self.handle_event(event);
        }
        self.perform();
        let next = match self.join_outbox() {
            Some((frames, Some(room))) => Some(Outgoing::MessageGrant(frames, room)),
            Some((frames, None)) => Some(Outgoing::Frames(frames)),
            None => self.next_page(),
        };
        if let (Some(next), Some(writer)) = (next, &self.writer) {
            let now = Moment(self.start.elapsed());
            let takes = Duration::from_secs_f64(next.bytes() as f64 / limits::SLOWEST_LINK);
            let delivered = self.delivered.max(now).after(takes);
            self.delivered = delivered.min(now.after(limits::LONGEST_DELIVERY));
            // There is room for one message, and this is the only sender; the end of the writer is handled
            // where its task is awaited.
            let _ = writer.try_send(next);
        }
    }

    fn join_outbox(&mut self) -> Option<(Vec<u8>, Option<Grant>)> {
        let (mut message, room) = self.outbox.pop_front()?;
        self.outbox_bytes -= message.len();
        while room.is_none()
            && let Some((next, None)) = self.outbox.front()
            && message.len() + next.len() <= limits::JOINED_BYTES
        {
            message.extend_from_slice(next);
            self.outbox_bytes -= next.len();
            self.outbox.pop_front();
        }
        Some((message, room))
    }

    fn next_page(&mut self) -> Option<Outgoing> {
        match self.feeds.take_read() {
            Some((target, Chunk::Entries(page), room)) => {
                return self.page_message(target, &page, room);
            }
            Some((target, Chunk::Part(part), room)) => {
                let message = self.machine.handle_snapshot_part(target.subscription, part)?;
                return Some(match room {
                    Some(room) => Outgoing::MessageGrant(message, room),
                    None => Outgoing::Frames(message),
                });
            }
            None => {}
        }
        let target = self.feeds.next_live(|id| self.machine.position(id))?;
        let position = self.machine.position(target.subscription)?;
        match target.feed.page(position) {
            // Without memory the page is read from the store, where the read waits for some.
            Some(page) if let Some(room) = self.feeds.room(&page) => {
                self.page_message(target, &page, Some(room))
            }
            _ => {
                self.feeds.handle_behind(target.subscription);
                None
            }
        }
    }

    fn page_message(
        &mut self,
        target: PageTarget,
        page: &Page,
        room: Option<Grant>,
    ) -> Option<Outgoing> {
        let message = self.machine.handle_page(target.subscription, page)?;
        let (entries, up_to) = (page.entries.len(), page.up_to);
        Some(Outgoing::Page { message, entries, feed: target.feed, up_to, room })
    }

    /// Sends the remaining frames and the close, and waits briefly for the peer to receive them.
    pub(super) async fn close(&mut self, code: Code, close: u16, stream: Stream, writing: Writing) {
        let Some(writer) = self.writer.take() else { return };
        let abort = writing.abort_handle();
        let goodbye = async {
            while let Some((frames, _room)) = self.join_outbox() {
                if writer.send(Outgoing::Frames(frames)).await.is_err() {
                    return None;
                }
            }
            writer.send(Outgoing::Close(close, code.to_string())).await.ok()?;
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
                debug!("the peer did not read the reason for the close in time");
                abort.abort();
            }
        }
    }
}
