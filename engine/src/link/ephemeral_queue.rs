//! The queue of ephemeral messages to the relay: bounded, never stored, and cleared when the connection
//! ends.

use std::collections::{BTreeMap, VecDeque};

use landfall_protocol::frame::Filter;
use landfall_protocol::limits::EPHEMERAL_BYTES;
use landfall_protocol::{DocumentId, SpaceName};
use parking_lot::Mutex;

/// The most bytes of queued messages. Above it the application receives `Congested`.
const WAITING_BYTES: usize = 4 * EPHEMERAL_BYTES;

/// The overhead that each message counts beside its payload, in bytes.
const OVERHEAD_BYTES: usize = 128;

/// A message from the application.
pub(super) struct OutgoingEphemeral {
    pub(super) space: SpaceName,
    pub(super) document: DocumentId,
    pub(super) count: u64,
    pub(super) data: Vec<u8>,
}

/// Why a message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EphemeralRejection {
    /// The space is not subscribed now, or the relay forwards no messages.
    NotSubscribed,
    /// The subscription's filter excludes the document.
    OutOfScope,
    /// The queue is full.
    Congested,
}

/// The queue between the application's threads and the link's.
#[derive(Default)]
pub(super) struct EphemeralQueue(Mutex<State>);

#[derive(Default)]
struct State {
    /// The spaces for which messages are accepted.
    spaces: BTreeMap<SpaceName, Filter>,
    queue: VecDeque<OutgoingEphemeral>,
    bytes: usize,
}

impl OutgoingEphemeral {
    pub(super) fn weight(&self) -> usize {
        self.data.len() + OVERHEAD_BYTES
    }
}

impl EphemeralQueue {
    /// Sets the filter for messages about a space. Without a filter no message is accepted, and queued
    /// ones are dropped.
    pub(super) fn set(&self, space: SpaceName, filter: Option<Filter>) {
        let mut state = self.0.lock();
        match filter {
            Some(filter) => {
                state.spaces.insert(space, filter);
            }
            None => {
                state.spaces.remove(&space);
                state.queue.retain(|ephemeral| ephemeral.space != space);
                state.bytes = state.queue.iter().map(OutgoingEphemeral::weight).sum();
            }
        }
    }

    /// Accepts no more messages, and drops queued ones.
    pub(super) fn clear(&self) {
        *self.0.lock() = State::default();
    }

    /// Queues a message, and assigns its number under the lock, so that numbers increase in the order
    /// of sending.
    pub(super) fn add(
        &self,
        space: &SpaceName,
        document: DocumentId,
        data: Vec<u8>,
        number: impl FnOnce() -> u64,
    ) -> Result<(), EphemeralRejection> {
        let mut state = self.0.lock();
        let filter = state.spaces.get(space).ok_or(EphemeralRejection::NotSubscribed)?;
        if !filter.wants(&document) {
            return Err(EphemeralRejection::OutOfScope);
        }
        let mut ephemeral = OutgoingEphemeral { space: space.clone(), document, count: 0, data };
        if state.bytes + ephemeral.weight() > WAITING_BYTES {
            return Err(EphemeralRejection::Congested);
        }
        ephemeral.count = number();
        state.bytes += ephemeral.weight();
        state.queue.push_back(ephemeral);
        Ok(())
    }

    /// The next message to send.
    pub(super) fn take(&self) -> Option<OutgoingEphemeral> {
        let mut state = self.0.lock();
        let ephemeral = state.queue.pop_front()?;
        state.bytes -= ephemeral.weight();
        Some(ephemeral)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: DocumentId = DocumentId::from_bytes([1; 16]);

    fn space(name: &str) -> SpaceName {
        name.parse().unwrap()
    }

    fn counts(ephemeral_queue: &EphemeralQueue) -> Vec<u64> {
        std::iter::from_fn(|| ephemeral_queue.take()).map(|ephemeral| ephemeral.count).collect()
    }

    #[test]
    fn only_messages_of_subscribed_spaces_are_queued() {
        let ephemeral_queue = EphemeralQueue::default();
        let say =
            |name: &str, count| ephemeral_queue.add(&space(name), DOCUMENT, vec![1], || count);
        assert_eq!(say("here", 1), Err(EphemeralRejection::NotSubscribed));
        ephemeral_queue.set(space("here"), Some(Filter::Everything));
        ephemeral_queue.set(space("there"), Some(Filter::of_documents([])));
        assert_eq!(say("here", 2), Ok(()));
        assert_eq!(say("there", 3), Err(EphemeralRejection::OutOfScope));
        assert_eq!(counts(&ephemeral_queue), [2]);
    }

    #[test]
    fn the_queue_is_bounded_and_emptied_with_its_subscription() {
        let ephemeral_queue = EphemeralQueue::default();
        let (here, there) = (space("here"), space("there"));
        ephemeral_queue.set(here.clone(), Some(Filter::Everything));
        ephemeral_queue.set(there.clone(), Some(Filter::Everything));
        let mut number = 0;
        let mut say = |space: &SpaceName| {
            let data = vec![0; EPHEMERAL_BYTES];
            ephemeral_queue.add(space, DOCUMENT, data, || {
                number += 1;
                number
            })
        };
        assert_eq!(say(&here), Ok(()));
        assert_eq!(say(&there), Ok(()));
        assert_eq!(say(&here), Ok(()));
        // A fourth would fit without the overhead of each.
        assert_eq!(say(&here), Err(EphemeralRejection::Congested));
        ephemeral_queue.set(here.clone(), None);
        assert_eq!(say(&there), Ok(()));
        // The message that was not queued has no number.
        assert_eq!(counts(&ephemeral_queue), [2, 4]);
        assert!(ephemeral_queue.is_empty());
    }
}
