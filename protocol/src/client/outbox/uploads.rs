//! Uploads of snapshots: the relay requests their parts.

use serde_bytes::ByteBuf;

use super::InFlight;
use crate::client::{Replica, ReplicaEffect};
use crate::frame::{Frame, Part, UploadFrom};
use crate::ids::{DocumentId, SpaceName};
use crate::limits;
use crate::moment::Moment;

/// The progress of a snapshot upload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Upload {
    pub(super) hash: [u8; 32],
    total: u64,
    /// The offset of the next part.
    next: u64,
    /// The relay accepts parts up to this offset.
    up_to: u64,
    /// The relay's last stated offset. Within one upload it only grows.
    stated: u64,
    /// The store is reading a part.
    reading: bool,
}

impl Upload {
    /// An upload of which the relay has requested nothing yet.
    pub(super) fn new(hash: [u8; 32], total: u64) -> Self {
        Self { hash, total, next: 0, up_to: 0, stated: 0, reading: false }
    }
}

impl Replica {
    /// The relay requests more of a snapshot upload.
    pub(in super::super) fn handle_upload_from(&mut self, requested: UploadFrom) {
        let UploadFrom { id, from, up_to } = requested;
        let Some(space) = self.space_of_push(id) else { return };
        let Some(link) = self.spaces.get_mut(&space) else { return };
        let Some(push) = link.outbox.in_flight.get_mut(&id) else { return };
        let Some(upload) = &mut push.upload else {
            return self.broken("it requests parts of a push that has none".to_owned());
        };
        let window = limits::SNAPSHOT_WINDOW_BYTES as u64;
        if from > upload.total || up_to > upload.total || up_to < from || up_to - from > window {
            let total = upload.total;
            return self.broken(format!("it requests bytes {from} to {up_to} of {total}"));
        }
        // An offset below the last one means that the relay has dropped bytes it had; another
        // session may have begun again meanwhile.
        let is_again = from == 0 || from < upload.stated;
        upload.next = if is_again { from } else { upload.next.max(from) };
        (upload.stated, upload.up_to) = (from, up_to);
        self.read_part(&space, id);
    }

    fn read_part(&mut self, space: &SpaceName, id: u64) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let Some(push) = link.outbox.in_flight.get_mut(&id) else { return };
        let Some(upload) = &mut push.upload else { return };
        if upload.reading || upload.next >= upload.up_to {
            return;
        }
        upload.reading = true;
        let (space, document) = (space.clone(), push.document);
        let (hash, from) = (upload.hash, upload.next);
        self.effects.push_back(ReplicaEffect::LoadSnapshotPart { space, document, hash, from });
    }

    /// The piece that [`ReplicaEffect::LoadSnapshotPart`] asked for; `None` if the store now has
    /// another snapshot of the document, which is then uploaded instead.
    pub fn handle_snapshot_part(
        &mut self,
        now: Moment,
        space: &SpaceName,
        document: DocumentId,
        from: u64,
        bytes: Option<Vec<u8>>,
    ) {
        let Some(link) = self.spaces.get_mut(space) else { return };
        let is_of = |push: &InFlight| push.upload.is_some() && push.document == document;
        let found = link.outbox.in_flight.iter_mut().find(|(_, push)| is_of(push));
        let Some((&id, push)) = found else { return };
        let Some(upload) = &mut push.upload else { return };
        upload.reading = false;
        let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else {
            let resent = push.resent;
            link.outbox.restart |= !resent;
            self.end_push(space, id);
            return match resent {
                true => self.handle_resent_push(now, space, 0),
                false => self.pump(now, space),
            };
        };
        // Otherwise the relay restarted the upload while the store was reading.
        if upload.next == from {
            upload.next = from + bytes.len() as u64;
            let (subscription, hash, total) = (link.subscription, upload.hash, upload.total);
            let bytes = ByteBuf::from(bytes);
            self.send(Frame::Part(Part { subscription, document, hash, total, from, bytes }));
        }
        self.read_part(space, id);
    }
}
