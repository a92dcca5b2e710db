//! Inbound messages: taken frame by frame as there is room for each request, and the ways in which a
//! connection ends.

use landfall_protocol::Code;
use tokio_tungstenite::tungstenite::Bytes;

use super::NativeDriver;
use crate::connection::incoming::{MessageMemory, Reservation};
use crate::connection::{CLOSE_NORMAL, CLOSE_TOO_BIG, Driver, SocketRead};
use crate::limits;

/// A message with frames still to be handled.
pub(super) struct Inbound {
    bytes: Bytes,
    /// The start of the next frame.
    at: usize,
    /// The memory of the rest of the message.
    pub(super) memory: MessageMemory,
}

impl NativeDriver {
    pub(super) fn handle_socket(&mut self, read: SocketRead) {
        let now = self.connection.now();
        match read {
            SocketRead::Message(bytes) => {
                self.machine.handle_sign_of_life(now);
                let memory = MessageMemory::new(self.connection.meter.whole());
                self.inbound = Some(Inbound { bytes, at: 0, memory });
            }
            SocketRead::Text => self.machine.handle_unsupported("a text message"),
            SocketRead::Control => self.machine.handle_sign_of_life(now),
            SocketRead::Close => {
                // The WebSocket's close may be followed only by the reply to it.
                self.outbox.clear();
                self.connection.close_with(Code::GOODBYE, CLOSE_NORMAL, Code::GOODBYE.to_string());
            }
            SocketRead::TooLarge(what) => {
                let hint = "`welcome` states the largest message; push less at once";
                self.machine.fail(Code::TOO_LARGE, what, hint);
                let reason = Code::TOO_LARGE.to_string();
                self.connection.close_with(Code::TOO_LARGE, CLOSE_TOO_BIG, reason);
            }
            SocketRead::Broken(what) => self.machine.handle_unsupported(&what),
            SocketRead::Gone(why) => self.connection.lose(Code::GOODBYE, &why),
        }
    }

    /// Whether there is room for whatever the next frame may request. While answers wait for the peer to read
    /// them, its next frames wait too.
    pub(super) fn takes_frames(&self) -> bool {
        !self.connection.is_stopping()
            && self.machine.wants_message()
            && self.push_queue.has_room()
            && self.queries.has_room()
            && self.outbox.is_below(limits::OUTBOX_FRAMES, limits::OUTBOX_BYTES)
    }

    /// Handles the next frame of the message.
    pub(super) fn handle_frame(&mut self) {
        let Some(mut inbound) = self.inbound.take() else { return };
        let next = self.machine.handle_next(&inbound.bytes, inbound.at);
        inbound.at = next.unwrap_or(inbound.bytes.len());
        self.inbound = Some(inbound);
        self.perform();
        // A push has taken over its part of the message's memory.
        if next.is_none() {
            self.inbound = None;
        }
        self.release_uploads();
    }

    /// Releases the memory of snapshot uploads that were withdrawn or answered.
    pub(super) fn release_uploads(&mut self) {
        let machine = &self.machine;
        self.uploads.retain(|id| machine.awaits(id), |id| machine.has_upload(id));
    }

    /// The memory of a push with `bytes` bytes of changes.
    pub(super) fn push_memory(&mut self, bytes: usize) -> Reservation {
        match &mut self.inbound {
            Some(inbound) => inbound.memory.of_push(bytes),
            None => MessageMemory::default().of_push(bytes),
        }
    }

    /// Releases memory held for a peer that makes no progress, and reports silence to the machine.
    pub(super) fn check_progress(&mut self) {
        let now = self.connection.now();
        // A peer that is not being read cannot show that it is alive, and one with much to read answers a
        // ping only after it. Neither is silence: the writer checks whether such a peer reads.
        let takes = self.takes_frames();
        if !takes || self.connection.meter.is_waiting() || now < self.connection.delivered() {
            self.machine.handle_sign_of_life(now);
        }
        self.check_pace(takes);
        for id in self.uploads.overdue(takes) {
            let what = "the snapshot arrived too slowly, and other clients need its memory";
            self.machine.handle_upload_refused(id, what);
        }
        self.machine.handle_timeout(now);
    }
}
