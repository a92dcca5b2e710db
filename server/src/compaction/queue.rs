//! The schedule of the child threads. Pure: the caller has the lock, the clock and the threads.
//!
//! Addresses take turns, and one thread at a time works for an address, so an address delays others by its
//! running job only, however much its sessions have queued. One thread at a time works on a document. The
//! relay's own compactions run when no job waits, and after [`limits::MERGES_IN_A_ROW`] merges, so that they
//! are not starved. A running compaction is ended when a job waits for its thread or its document, and
//! repeated later. At most [`limits::COMPACTION_YIELDS`] in a row are ended, so that compactions also finish.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use landfall_protocol::{DocumentId, SpaceName};

use crate::limits;
use crate::memory::{Key, ShareKey};
use crate::turns::Round;

/// A document of a space.
pub(super) type DocumentKey = (SpaceName, DocumentId);

/// A running job's claim: returned with [`Queue::done`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    share: ShareKey,
    place: DocumentKey,
}

/// A thread's next task.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<J> {
    /// Run this job.
    Job(Claim, J),
    /// Look for a document to compact, and report with [`Queue::looked`] when to look again.
    Look,
}

/// A running compaction of the relay's own.
#[derive(Debug)]
struct Compaction {
    place: DocumentKey,
    /// Set when it is to end.
    end: Arc<AtomicBool>,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Queue<J> {
    jobs: Round<(DocumentKey, J)>,
    busy_shares: BTreeSet<ShareKey>,
    busy_places: BTreeSet<DocumentKey>,
    /// At most one: one thread looks at a time.
    compaction: Option<Compaction>,
    /// Number of compactions ended in a row.
    yields: usize,
    /// `None` while a thread looks.
    next_look: Option<Instant>,
    jobs_since_look: usize,
    closed: bool,
}

impl<J> Default for Queue<J> {
    fn default() -> Self {
        Self {
            jobs: Round::default(),
            busy_shares: BTreeSet::new(),
            busy_places: BTreeSet::new(),
            compaction: None,
            yields: 0,
            next_look: Some(Instant::now()),
            jobs_since_look: 0,
            closed: false,
        }
    }
}

impl<J> Queue<J> {
    /// Adds a job after its owner's others. A closed queue drops it.
    pub(super) fn add(&mut self, owner: Key, place: DocumentKey, job: J) {
        if self.closed {
            return;
        }
        self.jobs.add(owner, (place, job));
        self.hurry();
    }

    /// Ends the running compaction if it is the only thing that a job waits for.
    fn hurry(&mut self) {
        let Some(compaction) = &self.compaction else { return };
        let is_looking = usize::from(self.next_look.is_none());
        let is_full = self.busy_shares.len() + is_looking >= limits::CHILDREN;
        let mut first = self.jobs.first().filter(|(share, _)| !self.busy_shares.contains(share));
        let waits = first.any(|(_, (place, _))| {
            *place == compaction.place || is_full && !self.busy_places.contains(place)
        });
        if waits
            && self.yields < limits::COMPACTION_YIELDS
            && !compaction.end.swap(true, Ordering::Relaxed)
        {
            self.yields += 1;
        }
    }

    /// Ends the running compaction unconditionally.
    pub(super) fn end_compaction(&self) {
        if let Some(compaction) = &self.compaction {
            compaction.end.store(true, Ordering::Relaxed);
        }
    }

    /// The next task; or the time until which there is none, unless the queue changes.
    pub(super) fn next(&mut self, now: Instant) -> Result<Next<J>, Option<Instant>> {
        let due = self.next_look.is_some_and(|step| step <= now);
        if due && self.jobs_since_look >= limits::MERGES_IN_A_ROW {
            return Ok(self.step());
        }
        if let Some((claim, job)) = self.take() {
            self.jobs_since_look += 1;
            return Ok(Next::Job(claim, job));
        }
        match due {
            true => Ok(self.step()),
            false => Err(self.next_look),
        }
    }

    fn step(&mut self) -> Next<J> {
        self.next_look = None;
        self.jobs_since_look = 0;
        Next::Look
    }

    fn take(&mut self) -> Option<(Claim, J)> {
        let Self { jobs, busy_shares, busy_places, .. } = self;
        let may = |share| !busy_shares.contains(&share);
        let (Key { share, .. }, (place, job)) =
            jobs.take(may, |(place, _)| !busy_places.contains(place))?;
        busy_shares.insert(share);
        busy_places.insert(place.clone());
        Some((Claim { share, place }, job))
    }

    /// A job is done.
    pub(super) fn done(&mut self, claim: &Claim) {
        self.busy_shares.remove(&claim.share);
        self.busy_places.remove(&claim.place);
    }

    /// Claims a document for compaction, and returns the flag that is set when the compaction is to end;
    /// `None` if a job works on the document. Returned with [`Queue::release`].
    pub(super) fn hold(&mut self, place: &DocumentKey) -> Option<Arc<AtomicBool>> {
        if !self.busy_places.insert(place.clone()) {
            return None;
        }
        let end = Arc::new(AtomicBool::new(false));
        self.compaction = Some(Compaction { place: place.clone(), end: Arc::clone(&end) });
        Some(end)
    }

    /// A compaction finished or was ended.
    pub(super) fn release(&mut self, place: &DocumentKey) {
        self.busy_places.remove(place);
        if let Some(compaction) = self.compaction.take()
            && !compaction.end.load(Ordering::Relaxed)
        {
            self.yields = 0;
        }
    }

    /// A thread has looked; the next look is due at `next`.
    pub(super) fn looked(&mut self, next: Instant) {
        self.next_look = Some(next);
    }

    /// Rejects later jobs, and drops the queued ones.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.jobs.clear();
    }

    /// Whether it was closed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A session with an address of its own.
    fn session(number: u64) -> Key {
        session_of(number, number)
    }

    fn session_of(address: u64, number: u64) -> Key {
        Key { share: ShareKey::Session(address), account: number }
    }

    fn place(number: u8) -> DocumentKey {
        ("notes".parse().unwrap(), DocumentId::from_bytes([number; 16]))
    }

    /// A queue without looks.
    fn queue() -> Queue<&'static str> {
        Queue { next_look: None, ..Queue::default() }
    }

    #[track_caller]
    fn job(queue: &mut Queue<&'static str>) -> (Claim, &'static str) {
        match queue.next(Instant::now()) {
            Ok(Next::Job(claim, job)) => (claim, job),
            next => panic!("{next:?}"),
        }
    }

    #[test]
    fn queued_uploads_of_a_session_delay_no_other_session() {
        let mut queue = queue();
        for number in 0..20 {
            queue.add(session(1), place(number), "slow");
        }
        let (slow, _) = job(&mut queue);
        assert!(matches!(queue.next(Instant::now()), Err(None)), "one thread stays free");
        queue.add(session(2), place(100), "small");
        let (small, what) = job(&mut queue);
        assert_eq!(what, "small");
        queue.done(&small);
        queue.done(&slow);
        assert_eq!(job(&mut queue).1, "slow");
    }

    #[test]
    fn sessions_of_an_address_delay_another_by_one_running_job() {
        let mut queue = queue();
        for number in 0..40 {
            queue.add(session_of(1, u64::from(number)), place(number), "slow");
        }
        let (slow, _) = job(&mut queue);
        assert!(matches!(queue.next(Instant::now()), Err(None)), "one thread stays free");
        queue.add(session_of(2, 100), place(100), "small");
        let (small, what) = job(&mut queue);
        assert_eq!(what, "small");
        queue.done(&slow);
        queue.done(&small);
        assert_eq!(job(&mut queue).1, "slow");
    }

    #[test]
    fn sessions_take_turns_regardless_of_arrival() {
        let mut queue = queue();
        for number in 0..3 {
            queue.add(session(1), place(number), "a");
        }
        queue.add(session(2), place(10), "b");
        queue.add(session(2), place(11), "b");
        queue.add(session(3), place(20), "c");
        let mut order = Vec::new();
        for _ in 0..6 {
            let (claim, what) = job(&mut queue);
            order.push(what);
            queue.done(&claim);
        }
        assert_eq!(order, ["a", "b", "c", "a", "b", "a"]);
    }

    #[test]
    fn one_thread_works_on_a_document_at_a_time() {
        let mut queue = queue();
        queue.add(session(1), place(1), "first");
        queue.add(session(2), place(1), "second");
        queue.add(session(3), place(2), "other");
        let (first, _) = job(&mut queue);
        let (other, what) = job(&mut queue);
        assert_eq!(what, "other");
        queue.done(&other);
        assert!(matches!(queue.next(Instant::now()), Err(None)));
        queue.done(&first);
        assert!(queue.hold(&place(1)).is_some());
        assert!(matches!(queue.next(Instant::now()), Err(None)), "it is being compacted");
        queue.release(&place(1));
        let (second, what) = job(&mut queue);
        assert_eq!(what, "second");
        assert!(queue.hold(&place(1)).is_none(), "it is being merged");
        queue.done(&second);
    }

    #[test]
    fn the_relays_own_compactions_run_last_but_do_run() {
        let now = Instant::now();
        let mut queue: Queue<()> = Queue { next_look: Some(now), ..Queue::default() };
        for number in 0..=limits::MERGES_IN_A_ROW as u64 {
            queue.add(session(number), place(number as u8), ());
        }
        for _ in 0..limits::MERGES_IN_A_ROW {
            assert!(matches!(queue.next(now), Ok(Next::Job(..))));
        }
        assert_eq!(queue.next(now), Ok(Next::Look));
        // One thread looks, and the other continues with jobs.
        assert!(matches!(queue.next(now), Ok(Next::Job(..))));
        assert_eq!(queue.next(now), Err(None));
        let later = now + Duration::from_secs(1);
        queue.looked(later);
        assert_eq!(queue.next(now), Err(Some(later)));
        assert_eq!(queue.next(later), Ok(Next::Look));
    }

    /// Whether a running compaction is ended by a client's new job.
    fn is_ended(queue: &mut Queue<()>, bring: impl FnOnce(&mut Queue<()>)) -> bool {
        let now = Instant::now() + Duration::from_secs(1);
        queue.looked(now);
        assert_eq!(queue.next(now), Ok(Next::Look));
        let end = queue.hold(&place(1)).unwrap();
        bring(queue);
        let ended = end.load(Ordering::Relaxed);
        queue.release(&place(1));
        // Finishes the client's jobs.
        while let Some((claim, ())) = queue.take() {
            queue.done(&claim);
        }
        ended
    }

    #[test]
    fn a_compaction_yields_to_waiting_sessions_a_bounded_number_of_times() {
        let mut queue: Queue<()> = Queue::default();
        // One thread is free; a job behind its own owner's job waits for no thread.
        assert!(!is_ended(&mut queue, |queue| queue.add(session(1), place(2), ())));
        assert!(!is_ended(&mut queue, |queue| {
            queue.add(session(1), place(2), ());
            let (claim, ()) = queue.take().unwrap();
            queue.add(session(1), place(3), ());
            queue.done(&claim);
        }));
        let other_document = |queue: &mut Queue<()>| {
            queue.add(session(1), place(2), ());
            let (claim, ()) = queue.take().unwrap();
            queue.add(session(2), place(3), ());
            queue.done(&claim);
        };
        let same_document = |queue: &mut Queue<()>| queue.add(session(1), place(1), ());
        let ended =
            [(); 2 * limits::COMPACTION_YIELDS + 2].map(|()| is_ended(&mut queue, same_document));
        assert_eq!(ended.iter().filter(|ended| !**ended).count(), 2, "{ended:?}");
        assert!(!ended[limits::COMPACTION_YIELDS], "a compaction yields only so often");
        assert!(is_ended(&mut queue, other_document));
        // A compaction that finished resets the count.
        assert!(!is_ended(&mut queue, |_| {}));
        assert!(is_ended(&mut queue, same_document));
    }

    #[test]
    fn a_closed_queue_accepts_nothing() {
        let mut queue = queue();
        queue.add(session(1), place(1), "waits");
        queue.close();
        queue.add(session(1), place(1), "comes");
        assert!(queue.is_closed() && queue.take().is_none());
    }
}
