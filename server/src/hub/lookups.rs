//! Look-ups for pushes that name very many changes or actors, made before the push reaches the hub: its
//! single thread admits all pushes, so no push may occupy it much longer than others.

use std::sync::Arc;

use landfall_protocol::admission::{Facts, Named};
use landfall_protocol::{DocumentId, SpaceName};

use super::Durable;
use crate::limits;
use crate::memory::Key;
use crate::store::LogStore;
use crate::turns::Turns;

/// Performs the look-ups. Clones share their turns.
#[derive(Clone)]
pub(super) struct LookUps {
    store: Arc<dyn LogStore>,
    /// One read at a time; a long look-up lets others go between its reads.
    turns: Turns,
}

impl LookUps {
    pub(super) fn new(store: Arc<dyn LogStore>) -> Self {
        Self { store, turns: Turns::new(1) }
    }

    /// Looks up these names in the store. Names that cannot be read are left to the hub, which reports the
    /// error.
    pub(super) async fn find(
        &self,
        key: Key,
        space: &SpaceName,
        document: DocumentId,
        mut named: Named,
    ) -> Facts {
        let mut facts = Facts::default();
        while !named.is_empty() {
            let some = named.take(limits::LOOK_UPS);
            let Some(turn) = self.turns.take(key).await else { break };
            let (store, space) = (Arc::clone(&self.store), space.clone());
            let mut found = std::mem::take(&mut facts);
            let read = tokio::task::spawn_blocking(move || {
                let mut some = Some(some);
                let read = store.look_up(&space, &mut |history| {
                    if let Some(some) = some.take() {
                        // Names left out after an error are looked up again by the hub.
                        let _ = found.look_up(
                            &Durable { view: history, doubted: &std::collections::BTreeSet::new() },
                            &document,
                            some,
                        );
                    }
                });
                drop(turn);
                if let Err(error) = read {
                    tracing::debug!(%space, error = error.chain(), "the lookup was dropped");
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
