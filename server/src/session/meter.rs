//! Room for large messages: a message that grows beyond what anybody may have in memory waits for
//! one of the few places that the whole relay has for such. TCP holds its sender back meanwhile.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits;

/// Bytes of a control frame beside its payload: two, and the mask.
const CONTROL_BYTES: usize = 6;

/// What has come of a connection's message that is not whole.
pub(crate) struct Meter {
    /// The places.
    places: Arc<Semaphore>,
    /// Bytes since the last whole message.
    since: AtomicUsize,
    /// Bytes since the beginning.
    all: AtomicU64,
    /// The message's place.
    place: Mutex<Option<Place>>,
}

/// The place of a message that arrives.
struct Place {
    /// Since when it is held.
    began: Instant,
    /// Since when it is watched how fast the message comes, and what had come by then.
    watched: (Instant, u64),
    permit: OwnedSemaphorePermit,
}

impl Meter {
    /// For one connection.
    pub(crate) fn new(places: Arc<Semaphore>) -> Arc<Self> {
        let (since, all) = (AtomicUsize::new(0), AtomicU64::new(0));
        Arc::new(Self { places, since, all, place: Mutex::new(None) })
    }

    /// A message is whole: its place, if it needed one, is to be kept for as long as the message.
    pub(crate) fn whole(&self) -> Option<OwnedSemaphorePermit> {
        self.since.store(0, Ordering::Relaxed);
        self.place.lock().take().map(|place| place.permit)
    }

    /// Bytes that have come since the beginning.
    pub(crate) fn bytes(&self) -> u64 {
        self.all.load(Ordering::Relaxed)
    }

    /// A ping or pong came, of so many bytes: it is no part of a message.
    pub(crate) fn control(&self, payload: usize) {
        let less = |since: usize| Some(since.saturating_sub(payload + CONTROL_BYTES));
        // It always gives a number.
        let _ = self.since.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Whether a message keeps its place for longer than any may take to arrive, or comes slower
    /// than the slowest link is. `reads`: it is not us who hold it back.
    pub(crate) fn is_overdue(&self, reads: bool) -> bool {
        let mut place = self.place.lock();
        let Some(place) = place.as_mut() else { return false };
        let (now, bytes) = (Instant::now(), self.bytes());
        let (from, before) = place.watched;
        let watched = now - from;
        if !reads || watched >= limits::REPO_LARGE_LOOK {
            place.watched = (now, bytes);
        }
        let is_slow = ((bytes - before) as f64) < watched.as_secs_f64() * limits::SLOWEST_LINK;
        now - place.began > limits::REPO_LARGE_TIME
            || (reads && watched >= limits::REPO_LARGE_LOOK && is_slow)
    }

    pub(super) fn came(&self, count: usize) {
        self.since.fetch_add(count, Ordering::Relaxed);
        self.all.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn needs_place(&self) -> bool {
        self.since.load(Ordering::Relaxed) > limits::REPO_SMALL_BYTES && self.place.lock().is_none()
    }
}

type Reserving = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>;

/// The side that reads.
pub(super) struct Metered {
    pub(super) meter: Arc<Meter>,
    pub(super) reserving: Option<Reserving>,
}

impl Metered {
    /// Ready when more may be read.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.meter.needs_place() {
            return Poll::Ready(());
        }
        let places = &self.meter.places;
        let reserving = self.reserving.get_or_insert_with(|| {
            let places = Arc::clone(places);
            Box::pin(async move { places.acquire_owned().await.ok() })
        });
        let place = std::task::ready!(reserving.as_mut().poll(cx));
        self.reserving = None;
        // Without places (they are closed with the relay) the message is read all the same.
        let (began, bytes) = (Instant::now(), self.meter.bytes());
        let watched = (began, bytes);
        *self.meter.place.lock() = place.map(|permit| Place { began, watched, permit });
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_a_place(held_for: std::time::Duration) -> Arc<Meter> {
        let places = Arc::new(Semaphore::new(1));
        let meter = Meter::new(Arc::clone(&places));
        let began = Instant::now().checked_sub(held_for).expect("the machine is up for longer");
        let permit = places.try_acquire_owned().unwrap();
        *meter.place.lock() = Some(Place { began, watched: (began, 0), permit });
        meter
    }

    #[test]
    fn a_message_that_hardly_comes_does_not_keep_its_place() {
        let look = limits::REPO_LARGE_LOOK;
        let least = (look.as_secs_f64() * limits::SLOWEST_LINK) as usize;
        let meter = with_a_place(look);
        meter.came(least / 2);
        // While the relay itself does not read, nothing can come.
        assert!(!meter.is_overdue(false) && !meter.is_overdue(true));
        let meter = with_a_place(look);
        meter.came(least / 2);
        assert!(meter.is_overdue(true));
        let meter = with_a_place(look);
        meter.came(2 * least);
        assert!(!meter.is_overdue(true));
        let meter = with_a_place(2 * limits::REPO_LARGE_TIME);
        meter.came(usize::MAX / 2);
        assert!(meter.is_overdue(true));
    }

    #[test]
    fn pings_are_no_part_of_a_message() {
        let meter = Meter::new(Arc::new(Semaphore::new(0)));
        meter.came(limits::REPO_SMALL_BYTES);
        assert!(!meter.needs_place());
        for _ in 0..1_000 {
            meter.came(125 + CONTROL_BYTES);
            meter.control(125);
        }
        assert!(!meter.needs_place());
        meter.came(1);
        assert!(meter.needs_place());
    }
}
