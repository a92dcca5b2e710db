//! A session's snapshot uploads: each waits for its memory, then the relay requests its parts. One upload
//! waits at a time; the session's other frames are not delayed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::SpaceName;
use landfall_protocol::access::Subject;
use landfall_protocol::relay::SnapshotUpload;
use tokio::time::timeout;

use crate::limits;
use crate::memory::{Account, Class, Grant};
use crate::partial_uploads::{Owner, PartialUploads, Sending, UploadProgress};

/// The result of waiting for memory.
pub(super) enum UploadMemory {
    /// Memory is reserved: the client is to send the upload (its id) from this byte on.
    From(u64, u64),
    /// No memory became free in time for this upload.
    None(u64),
}

/// An upload and its memory, or `None` if none became free in time.
type Reserved = (SpaceName, SnapshotUpload, Option<Grant>);

/// A session's uploads.
pub(super) struct Uploads {
    account: Account,
    /// The session's subject; `None` in open mode.
    subject: Option<Subject>,
    partial_uploads: Arc<PartialUploads>,
    waiting: VecDeque<(SpaceName, SnapshotUpload)>,
    /// The uploads that wait for memory, including the current one: each waits once, even if parts of it
    /// arrive meanwhile.
    wanted: BTreeSet<u64>,
    reserving: Option<Pin<Box<dyn Future<Output = Reserved> + Send>>>,
    /// The uploads in progress.
    sending: BTreeMap<u64, Sending>,
    /// The memory of the heads of all unanswered uploads.
    heads: BTreeMap<u64, Grant>,
    /// How long an upload waits for its memory.
    wait: Duration,
    /// A resumed upload turned out not to match its hash: the session starts each further upload from its
    /// beginning, so that no other session can spoil one again.
    is_wary: bool,
}

impl Uploads {
    pub(super) fn new(account: Account, partial_uploads: Arc<PartialUploads>) -> Self {
        let (waiting, wanted, sending, heads) = Default::default();
        let (reserving, wait, is_wary) = (None, limits::UPLOAD_WAIT, false);
        let subject = None;
        Self {
            account,
            subject,
            partial_uploads,
            waiting,
            wanted,
            reserving,
            sending,
            heads,
            wait,
            is_wary,
        }
    }

    /// The session's client is identified.
    pub(super) fn handle_identified(&mut self, subject: Option<Subject>) {
        self.subject = subject;
    }

    fn owner(&self) -> Owner {
        Owner { share: self.account.share(), subject: self.subject.clone() }
    }

    /// Reserves memory for an upload's heads until it is answered; false if there is none.
    pub(super) fn keep_heads(&mut self, upload: &SnapshotUpload) -> bool {
        // Twice: its merge gets a copy.
        let grant = self.account.reserve_state(2 * size_of_val(&upload.heads[..]));
        grant.map(|grant| self.heads.insert(upload.id, grant)).is_some()
    }

    /// Adds a new upload, or one whose parts arrive after its eviction. Returns the offset to resume at if
    /// a partial upload exists.
    pub(super) fn add(&mut self, space: SpaceName, upload: SnapshotUpload) -> Option<u64> {
        if self.wanted.contains(&upload.id) {
            return None;
        }
        let left = || self.partial_uploads.resume(self.owner(), &space, &upload);
        if let Some((from, sending)) = (!self.is_wary).then(left).flatten() {
            self.sending.insert(upload.id, sending);
            return Some(from);
        }
        self.wanted.insert(upload.id);
        self.waiting.push_back((space, upload));
        self.begin();
        None
    }

    fn begin(&mut self) {
        if self.reserving.is_some() {
            return;
        }
        let Some((space, upload)) = self.waiting.pop_front() else { return };
        let (account, partial_uploads, wait) =
            (self.account.clone(), Arc::clone(&self.partial_uploads), self.wait);
        self.reserving = Some(Box::pin(async move {
            let bytes = (upload.total as usize).max(limits::LEAST_UPLOAD_BYTES);
            // Evict idle uploads first; if the own share is the bottleneck, only its own, since others
            // would not help.
            let give_way = || match account.outgrows(bytes) {
                true => partial_uploads.give_way_of(account.share()),
                false => partial_uploads.give_way(),
            };
            let mut grant = account.try_reserve(Class::Upload, bytes);
            while grant.is_none() && give_way() {
                grant = account.try_reserve(Class::Upload, bytes);
            }
            if grant.is_none() {
                let waits = account.reserve(Class::Upload, bytes);
                grant = timeout(wait, waits).await.ok();
            }
            (space, upload, grant)
        }));
    }

    /// Waits until an upload has its memory, or its time is over; pends forever if none waits.
    pub(super) async fn memory(&mut self) -> UploadMemory {
        let Some(reserving) = self.reserving.as_mut() else { return std::future::pending().await };
        let (space, upload, grant) = reserving.await;
        self.reserving = None;
        self.begin();
        let id = upload.id;
        self.wanted.remove(&id);
        match grant {
            Some(grant) => {
                let sending = self.partial_uploads.begin(self.owner(), &space, &upload, grant);
                self.sending.insert(id, sending);
                UploadMemory::From(id, 0)
            }
            None => UploadMemory::None(id),
        }
    }

    /// Adds a part to an upload.
    pub(super) fn part(&mut self, id: u64, from: u64, bytes: &[u8]) -> UploadProgress {
        let took =
            self.sending.get(&id).map_or(UploadProgress::Gone, |sending| sending.add(from, bytes));
        if matches!(took, UploadProgress::Whole(_) | UploadProgress::Gone) {
            self.sending.remove(&id);
        }
        took
    }

    /// A resumed upload did not match its hash.
    pub(super) fn handle_spoiled(&mut self) {
        self.is_wary = true;
    }

    /// Drops the uploads that the session's machine has dropped: `awaits` are those whose parts it still
    /// expects, `keeps` those that it has not answered.
    pub(super) fn retain(&mut self, awaits: impl Fn(u64) -> bool, keeps: impl Fn(u64) -> bool) {
        self.sending.retain(|id, _| awaits(*id));
        self.heads.retain(|id, _| keeps(*id));
        let wanted = &mut self.wanted;
        self.waiting.retain(|(_, upload)| awaits(upload.id) || !wanted.remove(&upload.id));
    }

    /// The uploads that are too slow for the memory that they hold, while others wait for it. `reads`: the
    /// relay is reading from the peer, so it is not the cause.
    pub(super) fn overdue(&mut self, reads: bool) -> Vec<u64> {
        let account = &self.account;
        let overdue = self.sending.iter().filter(|(_, sending)| sending.is_overdue(account, reads));
        let ids: Vec<u64> = overdue.map(|(id, _)| *id).collect();
        for id in &ids {
            self.account.stalled();
            self.sending.remove(id);
        }
        ids
    }

    /// Whether an upload is in progress, so that [`Uploads::overdue`] must be called periodically.
    pub(super) fn is_busy(&self) -> bool {
        !self.sending.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use landfall_protocol::DocumentId;

    use super::*;
    use crate::memory::{Memory, ShareKey};

    /// Parts in flight when the upload is found evicted arrive after that.
    #[tokio::test]
    async fn an_upload_waits_once_however_many_parts_arrive() {
        let memory = Memory::new(0);
        let account = memory.account(ShareKey::Session(1));
        let mut uploads = Uploads::new(account, Arc::default());
        let (space, total): (SpaceName, u64) = ("default".parse().unwrap(), 60 << 20);
        let document = DocumentId::from_bytes([1; 16]);
        let upload = SnapshotUpload {
            id: 1,
            subscription: 0,
            document,
            hash: [7; 32],
            total,
            heads: [].into(),
        };
        for _ in 0..1_000 {
            if matches!(uploads.part(upload.id, 1 << 20, &[0; 8]), UploadProgress::Gone) {
                assert_eq!(uploads.add(space.clone(), upload.clone()), None);
            }
        }
        assert!(uploads.waiting.is_empty(), "{} wait", uploads.waiting.len());
        assert!(matches!(uploads.memory().await, UploadMemory::From(1, 0)));
        // No second reservation is left, which would time out and refuse the upload.
        assert!(uploads.reserving.is_none());
        assert_eq!(memory.used(Class::Upload), total as usize);
    }

    #[test]
    fn heads_of_uploads_have_reserved_memory_until_answered() {
        let memory = Memory::new(0);
        let mut uploads = Uploads::new(memory.account(ShareKey::Session(1)), Arc::default());
        let document = DocumentId::from_bytes([1; 16]);
        let heads: Arc<[_]> = vec![landfall_protocol::ChangeHash([1; 32]); 65_536].into();
        let mut kept = 0;
        for id in 1.. {
            let (subscription, hash, heads) = (0, [7; 32], Arc::clone(&heads));
            let upload = SnapshotUpload { id, subscription, document, hash, total: 1, heads };
            if !uploads.keep_heads(&upload) {
                break;
            }
            kept += 1;
        }
        assert_eq!(memory.used(Class::State), kept * 2 * 32 * heads.len());
        assert!(memory.used(Class::State) <= memory.limit() / 4);
        // All but the first are answered.
        uploads.retain(|_| false, |id| id == 1);
        assert_eq!(memory.used(Class::State), 2 * 32 * heads.len());
    }

    /// A phone lost its connection in the middle of its upload. Another client offers more than a session
    /// may hold; this waits for that session's own upload to end.
    #[tokio::test]
    async fn a_wait_for_the_own_session_evicts_no_partial_upload() {
        let memory = Memory::new(256 << 20);
        let (partial_uploads, space) =
            (Arc::<PartialUploads>::default(), "default".parse().unwrap());
        let upload = |number: u8, total: u64| {
            let (id, document) = (u64::from(number), DocumentId::from_bytes([number; 16]));
            SnapshotUpload { id, subscription: 0, document, hash: [7; 32], total, heads: [].into() }
        };
        let (phone, left) = (memory.account(ShareKey::Session(1)), upload(1, 10 << 20));
        let grant = phone.try_reserve(Class::Upload, left.total as usize).unwrap();
        drop(partial_uploads.begin(Owner::of(phone.share()), &space, &left, grant));
        let other = memory.account(ShareKey::Session(2));
        let mut uploads = Uploads::new(other, Arc::clone(&partial_uploads));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut add = |upload: SnapshotUpload| {
            uploads.add(space.clone(), upload);
            Box::pin(uploads.memory()).as_mut().poll(&mut context).is_ready()
        };
        assert!(add(upload(2, 64 << 20)));
        assert!(!add(upload(3, 32 << 20)), "a session gets half of the uploads' memory");
        assert!(memory.used(Class::Upload) <= 74 << 20, "there is room for all three");
        assert!(
            partial_uploads.resume(Owner::of(phone.share()), &space, &left).is_some(),
            "the phone's partial upload was evicted"
        );
    }

    /// A laptop lost its connection and then offers another snapshot, beside clients of other addresses.
    #[tokio::test]
    async fn a_shares_abandoned_upload_is_evicted_for_its_next_one() {
        let memory = Memory::new(256 << 20);
        let (partial_uploads, space) =
            (Arc::<PartialUploads>::default(), "default".parse().unwrap());
        let _other = memory.account(ShareKey::Session(2));
        let upload = |number: u8| {
            let (id, document, total) = (1, DocumentId::from_bytes([number; 16]), 40 << 20);
            SnapshotUpload { id, subscription: 0, document, hash: [7; 32], total, heads: [].into() }
        };
        let before = memory.account(ShareKey::Session(1));
        let grant = before.try_reserve(Class::Upload, 40 << 20).unwrap();
        drop(partial_uploads.begin(Owner::of(before.share()), &space, &upload(1), grant));
        drop(before);
        let mut uploads = Uploads::new(memory.account(ShareKey::Session(1)), partial_uploads);
        uploads.add(space, upload(2));
        let resumed = uploads.memory().now_or_never();
        assert!(
            matches!(resumed, Some(UploadMemory::From(1, 0))),
            "it waits for memory of an abandoned upload"
        );
        assert_eq!(memory.used(Class::Upload), 40 << 20);
    }

    /// Others hold all the memory of uploads indefinitely.
    #[tokio::test]
    async fn an_upload_that_waits_in_vain_is_answered_and_the_next_waits() {
        let memory = Memory::new(256 << 20);
        let upload = |n| memory.account(ShareKey::Session(n)).try_reserve(Class::Upload, 64 << 20);
        let held = [upload(2).unwrap(), upload(3).unwrap()];
        let mut uploads = Uploads::new(memory.account(ShareKey::Session(1)), Arc::default());
        uploads.wait = Duration::from_millis(1);
        for id in 1..=2 {
            let (document, total) = (DocumentId::from_bytes([id as u8; 16]), 10 << 20);
            let (subscription, hash, heads) = (0, [7; 32], [].into());
            let upload = SnapshotUpload { id, subscription, document, hash, total, heads };
            assert_eq!(uploads.add("default".parse().unwrap(), upload), None);
        }
        let first = timeout(Duration::from_secs(20), uploads.memory()).await;
        assert!(matches!(first, Ok(UploadMemory::None(1))), "it waits forever");
        drop(held);
        assert!(matches!(uploads.memory().await, UploadMemory::From(2, 0)));
        assert_eq!((memory.waiting(), memory.used(Class::Upload)), (0, 10 << 20));
    }
}
