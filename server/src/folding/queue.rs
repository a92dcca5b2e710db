//! Whose work is next. Pure: the caller has the lock, the clock and the threads.
//!
//! Addresses have their turns one after the other, and one thread works for an address at a time. So what
//! its sessions have queued delays others by what runs of it, and no more. One thread works on a document
//! at a time. The relay's own folds come when nothing else waits; and after
//! [`limits::MERGES_IN_A_ROW`] merges, so that they come at all. One that runs is ended when a job waits
//! for its thread or its document: it is done again later. But only [`limits::FOLD_YIELDS`] in a row are,
//! so that folds come to their own end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use landfall_protocol::{DocumentId, SpaceName};

use crate::limits;
use crate::memory::{Key, ShareKey};
use crate::turns::Round;

/// A document of a space.
pub(super) type Place = (SpaceName, DocumentId);

/// What is being worked on: given back with [`Queue::done`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Taken {
    share: ShareKey,
    place: Place,
}

/// What a thread is to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<J> {
    /// This job.
    Job(Taken, J),
    /// Look for something to fold, and say with [`Queue::looked`] when to look again.
    Look,
}

/// A fold of the relay's own that runs.
#[derive(Debug)]
struct Fold {
    place: Place,
    /// Raised when it is to end.
    end: Arc<AtomicBool>,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Queue<J> {
    jobs: Round<(Place, J)>,
    busy_shares: BTreeSet<ShareKey>,
    busy_places: BTreeSet<Place>,
    /// One thread looks at a time, so there is one at most.
    fold: Option<Fold>,
    /// Folds in a row that were ended.
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
            fold: None,
            yields: 0,
            next_look: Some(Instant::now()),
            jobs_since_look: 0,
            closed: false,
        }
    }
}

impl<J> Queue<J> {
    /// Adds a job behind the others of its owner. After the end it is dropped.
    pub(super) fn add(&mut self, owner: Key, place: Place, job: J) {
        if self.closed {
            return;
        }
        self.jobs.add(owner, (place, job));
        self.hurry();
    }

    /// Ends the fold that runs, if a job waits for nothing else.
    fn hurry(&mut self) {
        let Some(fold) = &self.fold else { return };
        let is_looking = usize::from(self.next_look.is_none());
        let is_full = self.busy_shares.len() + is_looking >= limits::CHILDREN;
        let mut first = self.jobs.first().filter(|(share, _)| !self.busy_shares.contains(share));
        let waits = first.any(|(_, (place, _))| {
            *place == fold.place || is_full && !self.busy_places.contains(place)
        });
        if waits && self.yields < limits::FOLD_YIELDS && !fold.end.swap(true, Ordering::Relaxed) {
            self.yields += 1;
        }
    }

    /// Ends the fold that runs, whatever waits.
    pub(super) fn end_fold(&self) {
        if let Some(fold) = &self.fold {
            fold.end.store(true, Ordering::Relaxed);
        }
    }

    /// What is to be done now; or until when there is nothing to do, unless something changes.
    pub(super) fn next(&mut self, now: Instant) -> Result<Next<J>, Option<Instant>> {
        let due = self.next_look.is_some_and(|look| look <= now);
        if due && self.jobs_since_look >= limits::MERGES_IN_A_ROW {
            return Ok(self.look());
        }
        if let Some((taken, job)) = self.take() {
            self.jobs_since_look += 1;
            return Ok(Next::Job(taken, job));
        }
        match due {
            true => Ok(self.look()),
            false => Err(self.next_look),
        }
    }

    fn look(&mut self) -> Next<J> {
        self.next_look = None;
        self.jobs_since_look = 0;
        Next::Look
    }

    fn take(&mut self) -> Option<(Taken, J)> {
        let Self { jobs, busy_shares, busy_places, .. } = self;
        let may = |share| !busy_shares.contains(&share);
        let (Key { share, .. }, (place, job)) =
            jobs.take(may, |(place, _)| !busy_places.contains(place))?;
        busy_shares.insert(share);
        busy_places.insert(place.clone());
        Some((Taken { share, place }, job))
    }

    /// A job is done.
    pub(super) fn done(&mut self, taken: &Taken) {
        self.busy_shares.remove(&taken.share);
        self.busy_places.remove(&taken.place);
    }

    /// A document is to be folded; `None` if a job works on it, else what is raised when the fold is to
    /// end. Given back with [`Queue::release`].
    pub(super) fn hold(&mut self, place: &Place) -> Option<Arc<AtomicBool>> {
        if !self.busy_places.insert(place.clone()) {
            return None;
        }
        let end = Arc::new(AtomicBool::new(false));
        self.fold = Some(Fold { place: place.clone(), end: Arc::clone(&end) });
        Some(end)
    }

    /// A document was folded, or its fold was ended.
    pub(super) fn release(&mut self, place: &Place) {
        self.busy_places.remove(place);
        if let Some(fold) = self.fold.take()
            && !fold.end.load(Ordering::Relaxed)
        {
            self.yields = 0;
        }
    }

    /// A thread has looked; the next look is due then.
    pub(super) fn looked(&mut self, next: Instant) {
        self.next_look = Some(next);
    }

    /// Nothing is taken any more; what waits is dropped.
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

    /// A session of an address of its own.
    fn session(number: u64) -> Key {
        session_of(number, number)
    }

    fn session_of(address: u64, number: u64) -> Key {
        Key { share: ShareKey::Session(address), account: number }
    }

    fn place(number: u8) -> Place {
        ("notes".parse().unwrap(), DocumentId::from_bytes([number; 16]))
    }

    /// A queue that looks for nothing.
    fn queue() -> Queue<&'static str> {
        Queue { next_look: None, ..Queue::default() }
    }

    #[track_caller]
    fn job(queue: &mut Queue<&'static str>) -> (Taken, &'static str) {
        match queue.next(Instant::now()) {
            Ok(Next::Job(taken, job)) => (taken, job),
            next => panic!("{next:?}"),
        }
    }

    #[test]
    fn one_session_of_twenty_uploads_delays_another_by_none_of_those_that_wait() {
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
    fn forty_sessions_of_an_address_delay_another_by_one_that_runs() {
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
    fn sessions_have_their_turns_whoever_came_first() {
        let mut queue = queue();
        for number in 0..3 {
            queue.add(session(1), place(number), "a");
        }
        queue.add(session(2), place(10), "b");
        queue.add(session(2), place(11), "b");
        queue.add(session(3), place(20), "c");
        let mut order = Vec::new();
        for _ in 0..6 {
            let (taken, what) = job(&mut queue);
            order.push(what);
            queue.done(&taken);
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
        assert!(matches!(queue.next(Instant::now()), Err(None)), "it is being folded");
        queue.release(&place(1));
        let (second, what) = job(&mut queue);
        assert_eq!(what, "second");
        assert!(queue.hold(&place(1)).is_none(), "it is being merged");
        queue.done(&second);
    }

    #[test]
    fn the_relays_own_folds_come_last_and_come_at_all() {
        let now = Instant::now();
        let mut queue: Queue<()> = Queue { next_look: Some(now), ..Queue::default() };
        for number in 0..=limits::MERGES_IN_A_ROW as u64 {
            queue.add(session(number), place(number as u8), ());
        }
        for _ in 0..limits::MERGES_IN_A_ROW {
            assert!(matches!(queue.next(now), Ok(Next::Job(..))));
        }
        assert_eq!(queue.next(now), Ok(Next::Look));
        // One thread looks at a time, and the other works on.
        assert!(matches!(queue.next(now), Ok(Next::Job(..))));
        assert_eq!(queue.next(now), Err(None));
        let later = now + Duration::from_secs(1);
        queue.looked(later);
        assert_eq!(queue.next(now), Err(Some(later)));
        assert_eq!(queue.next(later), Ok(Next::Look));
    }

    /// Whether a fold that runs is ended by what a client brings then.
    fn is_ended(queue: &mut Queue<()>, bring: impl FnOnce(&mut Queue<()>)) -> bool {
        let now = Instant::now() + Duration::from_secs(1);
        queue.looked(now);
        assert_eq!(queue.next(now), Ok(Next::Look));
        let end = queue.hold(&place(1)).unwrap();
        bring(queue);
        let ended = end.load(Ordering::Relaxed);
        queue.release(&place(1));
        // What was brought is done.
        while let Some((taken, ())) = queue.take() {
            queue.done(&taken);
        }
        ended
    }

    #[test]
    fn a_fold_ends_for_who_waits_for_its_thread_or_its_document_and_not_for_ever() {
        let mut queue: Queue<()> = Queue::default();
        // One thread is free; what waits for its own owner's job waits for no thread.
        assert!(!is_ended(&mut queue, |queue| queue.add(session(1), place(2), ())));
        assert!(!is_ended(&mut queue, |queue| {
            queue.add(session(1), place(2), ());
            let (taken, ()) = queue.take().unwrap();
            queue.add(session(1), place(3), ());
            queue.done(&taken);
        }));
        let other_document = |queue: &mut Queue<()>| {
            queue.add(session(1), place(2), ());
            let (taken, ()) = queue.take().unwrap();
            queue.add(session(2), place(3), ());
            queue.done(&taken);
        };
        let same_document = |queue: &mut Queue<()>| queue.add(session(1), place(1), ());
        let ended = [(); 2 * limits::FOLD_YIELDS + 2].map(|()| is_ended(&mut queue, same_document));
        assert_eq!(ended.iter().filter(|ended| !**ended).count(), 2, "{ended:?}");
        assert!(!ended[limits::FOLD_YIELDS], "it comes to its own end after so many");
        assert!(is_ended(&mut queue, other_document));
        // One that came to its end counts anew.
        assert!(!is_ended(&mut queue, |_| {}));
        assert!(is_ended(&mut queue, same_document));
    }

    #[test]
    fn a_closed_queue_takes_nothing() {
        let mut queue = queue();
        queue.add(session(1), place(1), "waits");
        queue.close();
        queue.add(session(1), place(1), "comes");
        assert!(queue.is_closed() && queue.take().is_none());
    }
}
