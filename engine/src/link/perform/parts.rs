//! Parts of snapshots for the relay. A snapshot is read from the store once and cut in memory: SQLite
//! reads the whole value for each part of it, which made a push of 44 MiB cost 8 s of reads.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use landfall_protocol::client::Replica;
use landfall_protocol::{DocumentId, Moment, SpaceName, limits};

use super::{Out, Performer};
use crate::store::{SpaceRow, ViewError};

/// Bytes that wait for the socket, above which no further part of a snapshot is read: a relay may
/// request the same part again and again.
const PARTS_BELOW_BYTES: usize = 1024 * 1024;

/// The most bytes of snapshots that are kept while their parts are sent: one of the largest, or several
/// smaller ones.
const KEPT_BYTES: usize = limits::SNAPSHOT_BYTES;

/// A requested part that was not read yet.
#[derive(Debug)]
struct RequestedPart {
    space: SpaceName,
    document: DocumentId,
    hash: [u8; 32],
    from: u64,
}

/// The bytes of a snapshot.
struct SnapshotBytes {
    hash: [u8; 32],
    body: Vec<u8>,
    /// Whether it was built for the relay, and is not the store's.
    made: bool,
}

/// The requested parts, and the snapshots that are being sent.
#[derive(Default)]
pub(super) struct PartQueue {
    /// At most one part of each snapshot that is being uploaded.
    wanted: VecDeque<RequestedPart>,
    /// Least recently used first.
    kept: VecDeque<SnapshotBytes>,
}

impl PartQueue {
    pub(super) fn want(
        &mut self,
        space: SpaceName,
        document: DocumentId,
        hash: [u8; 32],
        from: u64,
    ) {
        self.wanted.push_back(RequestedPart { space, document, hash, from });
    }

    /// Adds a snapshot that was built for the relay. It is dropped after its last part, when the relay
    /// needs no more of it, or when other snapshots need its room: the relay then requests it again.
    pub(super) fn made(&mut self, hash: [u8; 32], body: Vec<u8>) {
        self.forget(&hash);
        self.keep(SnapshotBytes { hash, body, made: true });
    }

    /// Drops a snapshot that was built for the relay and is not sent any more.
    pub(super) fn drop_made(&mut self, hash: &[u8; 32]) {
        self.kept.retain(|kept| !kept.made || kept.hash != *hash);
    }

    fn is_made(&self, hash: &[u8; 32]) -> bool {
        self.kept.iter().any(|kept| kept.made && kept.hash == *hash)
    }

    /// Drops a snapshot that is not sent any more.
    pub(super) fn forget(&mut self, hash: &[u8; 32]) {
        self.kept.retain(|kept| kept.hash != *hash);
    }

    /// The next part to read: of a kept snapshot, else the one that waits longest. If two snapshots
    /// that do not both fit took turns, they would be read again for each part.
    fn next(&mut self) -> Option<RequestedPart> {
        let is_kept =
            |wanted: &RequestedPart| self.kept.iter().any(|kept| kept.hash == wanted.hash);
        let index = self.wanted.iter().position(is_kept).unwrap_or_default();
        self.wanted.remove(index)
    }

    /// The part of a snapshot from a position on; `load` returns all its bytes if they are not kept.
    fn cut<E>(
        &mut self,
        hash: &[u8; 32],
        from: u64,
        load: impl FnOnce() -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Option<Vec<u8>>, E> {
        let index = self.kept.iter().position(|kept| kept.hash == *hash);
        let kept = match index.and_then(|index| self.kept.remove(index)) {
            Some(kept) => kept,
            None => match load()? {
                Some(body) => SnapshotBytes { hash: *hash, body, made: false },
                None => return Ok(None),
            },
        };
        let start = usize::try_from(from).unwrap_or(usize::MAX).min(kept.body.len());
        let end = kept.body.len().min(start + limits::PART_BYTES);
        let piece = kept.body[start..end].to_vec();
        if end < kept.body.len() {
            self.keep(kept);
        }
        Ok(Some(piece))
    }

    fn keep(&mut self, kept: SnapshotBytes) {
        let mut bytes: usize = self.kept.iter().map(|other| other.body.len()).sum();
        while bytes + kept.body.len() > KEPT_BYTES
            && let Some(oldest) = self.kept.pop_front()
        {
            bytes -= oldest.body.len();
        }
        self.kept.push_back(kept);
    }
}

impl Performer {
    /// Reads the parts of snapshots for which the socket has room.
    pub(in crate::link) fn read_parts(&mut self, replica: &mut Replica, now: Moment, out: &Out) {
        if out.unsent() >= PARTS_BELOW_BYTES {
            return;
        }
        if let Some(wanted) = self.parts.next()
            && let Some(row) = self.row(&wanted.space)
        {
            let part = self.read_part(row, &wanted);
            let RequestedPart { space, document, from, .. } = wanted;
            match part {
                Ok(part) => replica.handle_snapshot_part(now, &space, document, from, part),
                Err(error) => replica.handle_store_failed(error.to_string()),
            }
        }
        let waits = !self.parts.wanted.is_empty();
        self.commands.wants_room.store(waits, Ordering::Release);
        if waits {
            self.commands.wake.notify_one();
        }
    }

    fn read_part(
        &mut self,
        row: SpaceRow,
        wanted: &RequestedPart,
    ) -> Result<Option<Vec<u8>>, ViewError> {
        let RequestedPart { document, hash, from, .. } = wanted;
        let log = &self.store.context.log;
        if !self.parts.is_made(hash) && !log.has_snapshot(row, document, hash)? {
            // Another snapshot is uploaded in its place, or the document is deleted.
            self.parts.forget(hash);
            return Ok(None);
        }
        self.parts.cut(hash, *from, || log.snapshot_body(row, document, hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(parts: &mut PartQueue, hash: u8) {
        let document = DocumentId::from_bytes([hash; 16]);
        parts.want("s".parse().unwrap(), document, [hash; 32], 0);
    }

    /// Sends a snapshot from a position to its end or middle; returns how often it was read.
    fn send(parts: &mut PartQueue, hash: u8, body: &[u8], until: usize) -> usize {
        let (mut reads, mut sent) = (0, Vec::new());
        while sent.len() < until {
            let load = || {
                reads += 1;
                Ok::<_, ()>(Some(body.to_vec()))
            };
            let piece = parts.cut(&[hash; 32], sent.len() as u64, load).unwrap().unwrap();
            assert!(!piece.is_empty() && piece.len() <= limits::PART_BYTES);
            sent.extend(piece);
        }
        assert!(sent == body[..sent.len()]);
        reads
    }

    #[test]
    fn a_snapshot_is_read_once_and_dropped_after_its_last_part() {
        let body: Vec<u8> = (0..limits::PART_BYTES * 5 + 7).map(|n| (n % 251) as u8).collect();
        let mut parts = PartQueue::default();
        assert_eq!(send(&mut parts, 1, &body, body.len()), 1);
        assert!(parts.kept.is_empty(), "it is kept although all of it is sent");
        assert_eq!(parts.cut(&[2; 32], 0, || Ok::<_, ()>(None)), Ok(None));
        let beyond = parts.cut(&[1; 32], u64::MAX, || Ok::<_, ()>(Some(body.clone())));
        assert_eq!(beyond, Ok(Some(Vec::new())));
    }

    /// The relay may reject an upload, or have all of it, before it has requested a part.
    #[test]
    fn a_built_snapshot_is_dropped_if_it_is_not_sent() {
        let mut parts = PartQueue::default();
        parts.made([1; 32], vec![1; 10]);
        // A snapshot of the store stays, whatever its hash.
        send(&mut parts, 2, &vec![2; limits::PART_BYTES + 1], 1);
        parts.drop_made(&[2; 32]);
        parts.drop_made(&[1; 32]);
        let kept: Vec<u8> = parts.kept.iter().map(|kept| kept.hash[0]).collect();
        assert_eq!(kept, [2]);
    }

    #[test]
    fn cached_snapshots_are_bounded_and_sent_first() {
        let body = vec![7; KEPT_BYTES / 2 + 1];
        let mut parts = PartQueue::default();
        send(&mut parts, 1, &body[..10 + limits::PART_BYTES], 1);
        assert_eq!(send(&mut parts, 2, &body, 1), 1);
        wanted(&mut parts, 3);
        wanted(&mut parts, 2);
        assert_eq!(parts.next().map(|wanted| wanted.hash), Some([2; 32]));
        assert_eq!(parts.next().map(|wanted| wanted.hash), Some([3; 32]));
        assert_eq!(send(&mut parts, 3, &body, 1), 1);
        let kept: Vec<u8> = parts.kept.iter().map(|kept| kept.hash[0]).collect();
        assert_eq!(kept, [3], "the other two were used longer ago");
    }
}
