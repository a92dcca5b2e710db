//! Look-ups for pushes that name very many changes or actors, before they wait for the hub: its thread
//! judges all pushes, and no push may keep it for longer than others take.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use landfall_protocol::admission::{Facts, Named};
use landfall_protocol::{DocumentId, SpaceName};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Durable;
use crate::limits;
use crate::memory::ShareKey;
use crate::store::LogStore;

/// What looks up. Clones share their turns.
#[derive(Clone)]
pub(super) struct LookUps {
    store: Arc<dyn LogStore>,
    turns: Arc<Mutex<Turns>>,
}

/// One reads at a time, and lets others before it goes on: those with the same address have one place in
/// the round together.
#[derive(Default)]
struct Turns {
    is_taken: bool,
    last: Option<ShareKey>,
    waiting: BTreeMap<ShareKey, VecDeque<oneshot::Sender<Turn>>>,
}

impl Turns {
    /// Takes the next one that waits out of the queue.
    fn next(&mut self) -> Option<oneshot::Sender<Turn>> {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.waiting.range((after, Bound::Unbounded)).next();
        let share = *next.or_else(|| self.waiting.first_key_value())?.0;
        self.last = Some(share);
        let queue = self.waiting.get_mut(&share)?;
        let first = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&share);
        }
        first
    }
}

/// A turn, until it is dropped.
struct Turn(Option<Arc<Mutex<Turns>>>);

impl Turn {
    /// Waits for one.
    async fn take(turns: &Arc<Mutex<Turns>>, share: ShareKey) -> Option<Self> {
        let told = {
            let mut state = turns.lock();
            if !std::mem::replace(&mut state.is_taken, true) {
                state.last = Some(share);
                return Some(Self(Some(Arc::clone(turns))));
            }
            let (tell, told) = oneshot::channel();
            state.waiting.entry(share).or_default().push_back(tell);
            told
        };
        told.await.ok()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else { return };
        loop {
            let mut state = turns.lock();
            let Some(next) = state.next() else {
                state.is_taken = false;
                return;
            };
            drop(state);
            match next.send(Self(Some(Arc::clone(&turns)))) {
                Ok(()) => return,
                // It waits no more. The turn goes on from here, not by the end of this one.
                Err(mut unwanted) => drop(unwanted.0.take()),
            }
        }
    }
}

impl LookUps {
    pub(super) fn new(store: Arc<dyn LogStore>) -> Self {
        Self { store, turns: Arc::default() }
    }

    /// What the store has of these. What cannot be read is left to the hub, which tells why.
    pub(super) async fn find(
        &self,
        share: ShareKey,
        space: &SpaceName,
        document: DocumentId,
        mut named: Named,
    ) -> Facts {
        let mut facts = Facts::default();
        while !named.is_empty() {
            let some = named.take(limits::LOOK_UPS);
            let Some(turn) = Turn::take(&self.turns, share).await else { break };
            let (store, space) = (Arc::clone(&self.store), space.clone());
            let mut found = std::mem::take(&mut facts);
            let read = tokio::task::spawn_blocking(move || {
                let mut some = Some(some);
                let read = store.look_up(&space, &mut |history| {
                    if let Some(some) = some.take() {
                        // What an error leaves out is asked again.
                        let _ = found.look_up(
                            &Durable { view: history, doubted: &std::collections::BTreeSet::new() },
                            &document,
                            some,
                        );
                    }
                });
                drop(turn);
                if let Err(error) = read {
                    tracing::debug!(%space, error = error.chain(), "nothing was looked up");
                }
                found
            });
            match read.await {
                Ok(found) => facts = found,
                Err(_) => break,
            }
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll(turn: &mut Pin<Box<impl Future<Output = Option<Turn>>>>) -> Option<Turn> {
        match turn.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => turn,
            Poll::Pending => None,
        }
    }

    #[test]
    fn who_asks_much_has_one_place_in_the_round() {
        let turns = Arc::default();
        let wait = |share| Box::pin(Turn::take(&turns, ShareKey::Session(share)));
        let first = poll(&mut wait(1)).unwrap();
        let mut many: Vec<_> = (0..100).map(|_| wait(1)).collect();
        assert!(many.iter_mut().all(|one| poll(one).is_none()));
        let mut other = wait(2);
        assert!(poll(&mut other).is_none());
        drop(first);
        let turn = poll(&mut other).expect("it waits behind one, not behind a hundred");
        // Some give up while they wait.
        many.drain(..98);
        drop(turn);
        assert!(poll(&mut many[1]).is_none());
        drop(poll(&mut many[0]).expect("whoever is left has the turn"));
        drop(poll(&mut many[1]).expect("and then the last"));
        assert!(!turns.lock().is_taken && turns.lock().waiting.is_empty());
    }
}
