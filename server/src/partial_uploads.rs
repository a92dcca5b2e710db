//! Partial snapshot uploads, kept across connections so that a broken link does not restart them. Each
//! reserves the memory of its full length when it begins, so a started upload can always complete.
//!
//! An upload belongs to the session that sends it: parts that others send under the same hash do not mix
//! with it. When its session has ended, another session of the same share and subject may resume it. Only the complete
//! bytes can be verified against the hash, so a complete upload records whether it came from several
//! sessions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use landfall_protocol::access::Subject;
use landfall_protocol::relay::SnapshotUpload;
use landfall_protocol::{DocumentId, SpaceName};
use parking_lot::Mutex;

use crate::limits;
use crate::memory::{Account, Grant, Pace, ShareKey};

/// An upload's identity, with its length: the reserved memory depends on it.
type Key = (SpaceName, DocumentId, [u8; 32], u64);

/// Whose sessions may resume an upload: those of the same share and subject. Another subject must not learn
/// that the document exists, nor spoil the upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) share: ShareKey,
    /// `None` in open mode.
    pub(crate) subject: Option<Subject>,
}

impl Owner {
    /// A share's sessions in open mode.
    #[cfg(test)]
    pub(crate) const fn of(share: ShareKey) -> Self {
        Self { share, subject: None }
    }

    fn may_resume(&self, partial: &Self) -> bool {
        is_akin(partial.share, self.share) && partial.subject == self.subject
    }
}

/// An incomplete upload.
struct Partial {
    bytes: Vec<u8>,
    grant: Grant,
    /// Whose sessions may resume it.
    owner: Owner,
    /// Its place among the idle uploads; `None` while a session sends it.
    idle: Option<u64>,
    /// Some of its bytes came from an earlier session.
    is_mixed: bool,
    pace: Pace,
}

#[derive(Default)]
struct UploadTable {
    /// Uploads of the same snapshot, by ticket.
    partials: HashMap<Key, BTreeMap<u64, Partial>>,
    /// Uploads without a session, and since when; the one idle since the earliest time comes first.
    idle: BTreeMap<u64, (Key, u64, Instant)>,
    /// The last number; tickets and places share one sequence.
    last: u64,
    bytes: usize,
}

impl UploadTable {
    fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn get(&mut self, key: &Key, ticket: u64) -> Option<&mut Partial> {
        self.partials.get_mut(key)?.get_mut(&ticket)
    }

    fn remove(&mut self, key: &Key, ticket: u64) -> Option<Partial> {
        let same = self.partials.get_mut(key)?;
        let partial = same.remove(&ticket)?;
        if same.is_empty() {
            self.partials.remove(key);
        }
        if let Some(number) = partial.idle {
            self.idle.remove(&number);
        }
        self.bytes -= partial.bytes.len();
        Some(partial)
    }

    /// Removes the share's upload that has been idle longest.
    fn pop_idle_of(&mut self, share: ShareKey) -> Option<Partial> {
        let Self { partials, idle, .. } = self;
        // By the share that reserved its memory, which may be another than the one that resumed it.
        let is_of = |key: &Key, ticket: &u64| {
            let partial = partials.get(key).and_then(|same| same.get(ticket));
            partial.is_some_and(|partial| partial.grant.key().share == share)
        };
        let (key, ticket, _) = idle.values().find(|(key, ticket, _)| is_of(key, ticket))?;
        let (key, ticket) = (key.clone(), *ticket);
        self.remove(&key, ticket)
    }

    /// Removes the upload that has been idle longest, if `is_due` accepts the time since when it has.
    fn pop_idle(&mut self, is_due: impl Fn(Instant) -> bool) -> Option<Partial> {
        let (_, (key, ticket, since)) = self.idle.first_key_value()?;
        if !is_due(*since) {
            return None;
        }
        let (key, ticket) = (key.clone(), *ticket);
        self.remove(&key, ticket)
    }
}

/// The incomplete uploads of all sessions.
#[derive(Default)]
pub(crate) struct PartialUploads {
    state: Mutex<UploadTable>,
}

/// A complete snapshot, with its memory.
pub(crate) struct Whole {
    /// Its bytes.
    pub(crate) bytes: Arc<Vec<u8>>,
    /// Their memory.
    pub(crate) grant: Grant,
    /// Some bytes came from an earlier session: if they do not match the hash, the last sender need not be
    /// at fault.
    pub(crate) is_mixed: bool,
}

/// The result of adding a part.
pub(crate) enum UploadProgress {
    /// Accepted; the next part begins here.
    Upto(u64),
    /// The upload is complete.
    Whole(Whole),
    /// The part does not begin where the last one ended, here: the client sent it before it knew.
    Stale(u64),
    /// The upload was evicted, or never begun.
    Gone,
}

/// A session's handle of its upload, which is not evicted while the handle exists.
pub(crate) struct Sending {
    partial_uploads: Arc<PartialUploads>,
    key: Key,
    ticket: u64,
}

impl Drop for Sending {
    fn drop(&mut self) {
        let mut state = self.partial_uploads.state.lock();
        let number = state.next_number();
        let Some(partial) = state.get(&self.key, self.ticket) else { return };
        partial.idle = Some(number);
        // Wakes waiting reservations: no other event might do it.
        partial.grant.upload_back();
        state.idle.insert(number, (self.key.clone(), self.ticket, Instant::now()));
    }
}

impl Sending {
    /// Appends a part.
    pub(crate) fn add(&self, from: u64, part: &[u8]) -> UploadProgress {
        let mut state = self.partial_uploads.state.lock();
        let Some(partial) = state.get(&self.key, self.ticket) else { return UploadProgress::Gone };
        let (there, total) = (partial.bytes.len() as u64, self.key.3);
        // Bytes beyond the announced length have no memory.
        if there != from || part.len() as u64 > total - there {
            return UploadProgress::Stale(there);
        }
        partial.bytes.extend_from_slice(part);
        let there = partial.bytes.len() as u64;
        state.bytes += part.len();
        if there < total {
            return UploadProgress::Upto(there);
        }
        match state.remove(&self.key, self.ticket) {
            Some(Partial { bytes, grant, is_mixed, .. }) => {
                UploadProgress::Whole(Whole { bytes: Arc::new(bytes), grant, is_mixed })
            }
            None => UploadProgress::Gone,
        }
    }

    /// Drops the upload if it is slower than the slowest supported link while others wait for its memory;
    /// returns whether it did, so that the session can notify its client. `reads`: the relay is reading
    /// from the peer, so it is not the cause.
    pub(crate) fn is_overdue(&self, account: &Account, reads: bool) -> bool {
        let mut state = self.partial_uploads.state.lock();
        let Some(partial) = state.get(&self.key, self.ticket) else { return false };
        if !partial.pace.is_slow(partial.bytes.len() as u64, reads, account) {
            return false;
        }
        let partial = state.remove(&self.key, self.ticket);
        drop(state);
        // Release the memory without the lock: the release may serve other reservations at once.
        drop(partial);
        true
    }
}

impl PartialUploads {
    /// Resumes an idle upload of this snapshot that a session of the same owner began, the one with the
    /// most bytes; returns its length and a handle. `None` if there is none.
    pub(crate) fn resume(
        self: &Arc<Self>,
        owner: Owner,
        space: &SpaceName,
        upload: &SnapshotUpload,
    ) -> Option<(u64, Sending)> {
        let mut state = self.state.lock();
        let key = key(space, upload);
        let (ticket, partial) = state
            .partials
            .get_mut(&key)?
            .iter_mut()
            .filter(|(_, partial)| partial.idle.is_some() && owner.may_resume(&partial.owner))
            .max_by_key(|(_, partial)| partial.bytes.len())?;
        let (ticket, there) = (*ticket, partial.bytes.len() as u64);
        (partial.owner, partial.is_mixed, partial.pace) = (owner, there > 0, Pace::from(there));
        if let Some(number) = partial.idle.take() {
            state.idle.remove(&number);
        }
        Some((there, Sending { partial_uploads: Arc::clone(self), key, ticket }))
    }

    /// Begins an upload, with memory for all its bytes.
    pub(crate) fn begin(
        self: &Arc<Self>,
        owner: Owner,
        space: &SpaceName,
        upload: &SnapshotUpload,
        grant: Grant,
    ) -> Sending {
        let mut state = self.state.lock();
        let (ticket, key) = (state.next_number(), key(space, upload));
        let (bytes, pace, idle, is_mixed) = (Vec::new(), Pace::from(0), None, false);
        let partial = Partial { bytes, grant, owner, idle, is_mixed, pace };
        state.partials.entry(key.clone()).or_default().insert(ticket, partial);
        Sending { partial_uploads: Arc::clone(self), key, ticket }
    }

    /// Evicts the upload that has been idle longest; false if none is idle.
    pub(crate) fn give_way(&self) -> bool {
        // Release the memory without the lock: the release may serve other reservations at once.
        let left = self.state.lock().pop_idle(|_| true);
        left.is_some()
    }

    /// As [`PartialUploads::give_way`], among uploads whose memory counts for this share.
    pub(crate) fn give_way_of(&self, share: ShareKey) -> bool {
        let left = self.state.lock().pop_idle_of(share);
        left.is_some()
    }

    /// Removes uploads that have been idle for `after`.
    pub(crate) fn forget_idle(&self, after: Duration, now: Instant) {
        let is_old = |since: Instant| now.saturating_duration_since(since) >= after;
        loop {
            let old = self.state.lock().pop_idle(is_old);
            if old.is_none() {
                return;
            }
        }
    }

    /// Periodically removes uploads that no client has resumed; never returns.
    pub(crate) async fn forget_old(&self, after: Duration) {
        loop {
            tokio::time::sleep(after.clamp(limits::UPLOADS_SOON, limits::UPLOADS_LOOK)).await;
            self.forget_idle(after, Instant::now());
        }
    }

    /// Bytes of all incomplete uploads.
    pub(crate) fn bytes(&self) -> usize {
        self.state.lock().bytes
    }
}

/// Whether a session of one share may resume an upload of the other. Where addresses do not distinguish
/// clients, each session is a share of its own, and any of them may be the same client after a reconnect.
fn is_akin(one: ShareKey, other: ShareKey) -> bool {
    match (one, other) {
        (ShareKey::Session(_), ShareKey::Session(_)) => true,
        (one, other) => one == other,
    }
}

fn key(space: &SpaceName, upload: &SnapshotUpload) -> Key {
    (space.clone(), upload.document, upload.hash, upload.total)
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::net::IpAddr;
    use std::task::{Context, Waker};

    use super::*;
    use crate::memory::{Class, Memory};

    const ME: Owner =
        Owner::of(ShareKey::Address(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1))));
    const OTHER: Owner =
        Owner::of(ShareKey::Address(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2))));

    fn upload(document: u8, total: u64) -> SnapshotUpload {
        let document = DocumentId::from_bytes([document; 16]);
        SnapshotUpload { id: 1, subscription: 0, document, hash: [7; 32], total, heads: [].into() }
    }

    fn grant(memory: &Memory, bytes: u64) -> Grant {
        memory.account(ME.share).try_reserve(Class::Upload, bytes as usize).unwrap()
    }

    fn nothing() -> (Arc<PartialUploads>, SpaceName, Memory) {
        (Arc::default(), "default".parse().unwrap(), Memory::new(0))
    }

    #[test]
    fn parts_accumulate_and_an_abandoned_upload_is_evicted() {
        let (partial_uploads, space, memory) = nothing();
        let (first, second) = (upload(1, 4), upload(2, 4));
        assert!(partial_uploads.resume(ME, &space, &first).is_none());
        let sending = partial_uploads.begin(ME, &space, &first, grant(&memory, 4));
        let other = partial_uploads.begin(ME, &space, &second, grant(&memory, 4));
        assert_eq!(memory.used(Class::Upload), 8);
        assert!(matches!(sending.add(0, &[1, 2]), UploadProgress::Upto(2)));
        assert!(matches!(sending.add(3, &[0]), UploadProgress::Stale(2)));
        assert!(
            matches!(sending.add(2, &[0; 3]), UploadProgress::Stale(2)),
            "it has memory for one byte less"
        );
        assert!(!partial_uploads.give_way(), "sessions are sending both");
        drop(other);
        // The connection breaks; the client offers the same snapshot again.
        drop(sending);
        let (from, sending) = partial_uploads.resume(ME, &space, &first).unwrap();
        assert_eq!((from, partial_uploads.bytes()), (2, 2));
        assert!(partial_uploads.give_way() && !partial_uploads.give_way());
        assert!(partial_uploads.resume(ME, &space, &second).is_none(), "it was evicted");
        let UploadProgress::Whole(whole) = sending.add(2, &[3, 4]) else { panic!("not whole") };
        assert_eq!((&whole.bytes[..], memory.used(Class::Upload)), (&[1, 2, 3, 4][..], 4));
        assert!(whole.is_mixed, "two sessions sent it");
        assert!(matches!(sending.add(4, &[]), UploadProgress::Gone));
        drop((whole, sending));
        assert_eq!((memory.used(Class::Upload), partial_uploads.bytes()), (0, 0));
        let state = partial_uploads.state.lock();
        assert!(state.partials.is_empty() && state.idle.is_empty());
    }

    /// Mallory offers the snapshots that others offer, and sends different bytes.
    #[test]
    fn parts_of_two_sessions_never_mix_in_one_upload() {
        let (partial_uploads, space, memory) = nothing();
        let upload = upload(1, 4);
        let begin = |share| partial_uploads.begin(share, &space, &upload, grant(&memory, 4));
        let mallory = begin(OTHER);
        assert!(matches!(mallory.add(0, &[6, 6]), UploadProgress::Upto(2)));
        assert!(partial_uploads.resume(ME, &space, &upload).is_none(), "it is being sent");
        assert!(partial_uploads.resume(OTHER, &space, &upload).is_none(), "it is being sent");
        let alice = begin(ME);
        assert!(matches!(alice.add(0, &[1, 2, 3]), UploadProgress::Upto(3)));
        assert!(matches!(mallory.add(2, &[6, 6]), UploadProgress::Whole(_)));
        drop(begin(OTHER));
        assert!(
            partial_uploads.resume(ME, &space, &upload).is_none(),
            "only another share abandoned one"
        );
        let UploadProgress::Whole(whole) = alice.add(3, &[4]) else { panic!("not whole") };
        assert_eq!((&whole.bytes[..], whole.is_mixed), (&[1, 2, 3, 4][..], false));
    }

    #[test]
    fn another_subject_never_resumes_an_upload() {
        let (partial_uploads, space, memory) = nothing();
        let upload = upload(1, 4);
        let owner = |name: &str| Owner { subject: Some(Subject::new(name)), ..ME };
        let sending = partial_uploads.begin(owner("alice"), &space, &upload, grant(&memory, 4));
        assert!(matches!(sending.add(0, &[1]), UploadProgress::Upto(1)));
        drop(sending);
        assert!(partial_uploads.resume(owner("bob"), &space, &upload).is_none());
        assert!(partial_uploads.resume(ME, &space, &upload).is_none());
        assert!(partial_uploads.resume(owner("alice"), &space, &upload).is_some());
    }

    #[test]
    fn without_addresses_any_session_may_resume_an_upload() {
        let (partial_uploads, space, memory) = nothing();
        let upload = upload(1, 4);
        let sending = partial_uploads.begin(
            Owner::of(ShareKey::Session(1)),
            &space,
            &upload,
            grant(&memory, 4),
        );
        assert!(matches!(sending.add(0, &[1]), UploadProgress::Upto(1)));
        drop(sending);
        assert!(partial_uploads.resume(Owner::of(ShareKey::Session(2)), &space, &upload).is_some());
    }

    #[test]
    fn a_stalled_upload_is_dropped() {
        let (partial_uploads, space, _) = nothing();
        let memory = Memory::new(256 << 20);
        let stalls = memory.account(ShareKey::Session(1));
        let upload = upload(1, 64 << 20);
        let grant = stalls.try_reserve(Class::Upload, 64 << 20).unwrap();
        let sending = partial_uploads.begin(ME, &space, &upload, grant);
        let other = memory.account(ShareKey::Session(2));
        let mut waits = std::pin::pin!(other.reserve(Class::Upload, 100 << 20));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut context).is_pending());
        let since = Instant::now().checked_sub(Duration::from_secs(3_600)).unwrap();
        partial_uploads.state.lock().get(&sending.key, sending.ticket).unwrap().pace =
            Pace::since(since, 0);
        assert!(sending.is_overdue(&stalls, true), "no part arrived for an hour");
        assert!(waits.as_mut().poll(&mut context).is_ready(), "its memory was released");
        assert!(matches!(sending.add(0, &[1]), UploadProgress::Gone));
        drop(sending);
        assert!(partial_uploads.resume(ME, &space, &upload).is_none());
    }

    #[test]
    fn an_abandoned_upload_expires() {
        let (partial_uploads, space, memory) = nothing();
        let (first, second) = (upload(1, 4), upload(2, 4));
        drop(partial_uploads.begin(ME, &space, &first, grant(&memory, 4)));
        let sent = partial_uploads.begin(ME, &space, &second, grant(&memory, 4));
        let (limit, now) = (Duration::from_secs(60), Instant::now());
        partial_uploads.forget_idle(limit, now + limit / 2);
        assert_eq!(memory.used(Class::Upload), 8);
        partial_uploads.forget_idle(limit, now + 2 * limit);
        assert_eq!(memory.used(Class::Upload), 4, "one is still being sent");
        drop(sent);
        assert!(partial_uploads.resume(ME, &space, &first).is_none());
        assert!(partial_uploads.resume(ME, &space, &second).is_some());
    }

    /// Two sessions offer the same hash with different lengths: one announces one byte, which is all that
    /// is reserved; the other sends 60 MiB.
    #[test]
    fn kept_upload_bytes_never_exceed_their_reservation() {
        let (partial_uploads, space, memory) = nothing();
        let (short, long) = (upload(1, 1), upload(1, 64 << 20));
        drop(partial_uploads.begin(ME, &space, &short, grant(&memory, 1)));
        let (mut from, sending) = match partial_uploads.resume(ME, &space, &long) {
            Some(resumed) => resumed,
            None => (0, partial_uploads.begin(ME, &space, &long, grant(&memory, long.total))),
        };
        let part = vec![7; 256 << 10];
        while from < 60 << 20 {
            let UploadProgress::Upto(there) = sending.add(from, &part) else { break };
            from = there;
        }
        let (bytes, reserved) = (partial_uploads.bytes(), memory.used(Class::Upload));
        assert!(bytes <= reserved, "{bytes} bytes are kept with memory for {reserved}");
    }
}
