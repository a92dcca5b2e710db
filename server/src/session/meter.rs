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

/// What has come of a connection's message that is not whole.
pub(crate) struct Meter {
    /// The places.
    places: Arc<Semaphore>,
    /// Bytes since the last whole message.
    since: AtomicUsize,
    /// Bytes since the beginning.
    all: AtomicU64,
    /// The message's place, and since when it has it.
    place: Mutex<Option<(Instant, OwnedSemaphorePermit)>>,
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
        self.place.lock().take().map(|(_, place)| place)
    }

    /// Bytes that have come since the beginning.
    pub(crate) fn bytes(&self) -> u64 {
        self.all.load(Ordering::Relaxed)
    }

    /// Whether a message has kept its place for longer than any may take to arrive.
    pub(crate) fn is_overdue(&self) -> bool {
        let place = self.place.lock();
        place.as_ref().is_some_and(|(since, _)| since.elapsed() > limits::REPO_LARGE_TIME)
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
        *self.meter.place.lock() = place.map(|place| (Instant::now(), place));
        Poll::Ready(())
    }
}
