//! The messages of a session that wait for its writer, in order.

use std::collections::VecDeque;

use super::writer::Outgoing;
use crate::memory::Grant;

/// The queue before a session's writer. It has no limit of its own: a session takes no more work while
/// [`Outbox::is_below`] is false.
#[derive(Default)]
pub(crate) struct Outbox {
    messages: VecDeque<Outgoing>,
    bytes: usize,
}

impl Outbox {
    /// Adds a message, with its memory if it holds any.
    pub(crate) fn push(&mut self, message: Vec<u8>, grant: Option<Grant>) {
        self.bytes += message.len();
        self.messages.push_back(Outgoing::message(message, grant));
    }

    pub(crate) fn push_ping(&mut self) {
        self.messages.push_back(Outgoing::Ping);
    }

    /// Gives the last message this memory, unless it holds some.
    pub(crate) fn grant_last(&mut self, grant: Option<Grant>) {
        if let Some(Outgoing::Frames(message)) =
            self.messages.pop_back_if(|last| matches!(last, Outgoing::Frames(_)))
        {
            self.messages.push_back(Outgoing::message(message, grant));
        }
    }

    /// Removes the first message.
    pub(crate) fn pop(&mut self) -> Option<Outgoing> {
        let next = self.messages.pop_front()?;
        self.bytes -= next.bytes();
        Some(next)
    }

    /// Removes the first message, joined with those behind it up to `most` bytes. Messages that hold memory
    /// stay single. Only for a protocol whose messages are sequences of frames.
    pub(crate) fn pop_joined(&mut self, most: usize) -> Option<Outgoing> {
        let mut first = self.pop()?;
        while let Outgoing::Frames(message) = &mut first
            && let Some(Outgoing::Frames(next)) = self.messages.front()
            && message.len() + next.len() <= most
        {
            message.extend_from_slice(next);
            self.pop();
        }
        Some(first)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether it has fewer messages and bytes than these.
    pub(crate) fn is_below(&self, messages: usize, bytes: usize) -> bool {
        self.messages.len() < messages && self.bytes < bytes
    }

    /// The remaining messages.
    pub(crate) fn into_messages(self) -> Vec<Outgoing> {
        self.messages.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Class, Memory, ShareKey};

    #[test]
    fn small_messages_are_joined_and_those_with_memory_are_not() {
        let account = Memory::new(0).account(ShareKey::Session(1));
        let mut outbox = Outbox::default();
        for message in [&b"ab"[..], b"cd", b"e", b"fg"] {
            outbox.push(message.to_vec(), None);
        }
        outbox.grant_last(Some(account.take(Class::Answer, 2)));
        outbox.push(b"h".to_vec(), None);
        assert!(outbox.is_below(6, 9) && !outbox.is_below(5, 9) && !outbox.is_below(6, 8));
        let mut next = || match outbox.pop_joined(4) {
            Some(Outgoing::Frames(message)) => (message, false),
            Some(Outgoing::MessageGrant(message, _)) => (message, true),
            _ => panic!("no message"),
        };
        assert_eq!(next(), (b"abcd".to_vec(), false));
        assert_eq!(next(), (b"e".to_vec(), false));
        assert_eq!(next(), (b"fg".to_vec(), true));
        assert_eq!(next(), (b"h".to_vec(), false));
        assert!(outbox.is_empty() && outbox.is_below(1, 1));
    }
}
