//! The hub's bounded queue of commands, between async sessions and the hub's thread.

use std::collections::VecDeque;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::memory::Key;
use crate::turns::{Turn, Turns};

/// A first-in-first-out queue with two entrances. [`Inbox::send`] waits for room, which addresses get in
/// turns. [`Inbox::put`] never waits: it is for commands whose number is bounded by their senders (one commit
/// per space, one farewell per session), since the store's thread must never wait for the hub.
pub(super) struct Inbox<T> {
    /// `None` once it is closed.
    queue: Mutex<Option<VecDeque<Queued<T>>>>,
    filled: Condvar,
    turns: Turns,
}

struct Queued<T> {
    command: T,
    /// Its room in the queue, returned when the command is taken.
    _turn: Option<Turn>,
}

impl<T> Inbox<T> {
    pub(super) fn new(capacity: usize) -> Self {
        let queue = Mutex::new(Some(VecDeque::new()));
        Self { queue, filled: Condvar::new(), turns: Turns::new(capacity) }
    }

    /// Adds a session's command when there is room and it is the session's turn. Returns the command if the
    /// hub is gone.
    pub(super) async fn send(&self, session: Key, command: T) -> Result<(), T> {
        match self.turns.take(session).await {
            Some(turn) => {
                self.add(Queued { command, _turn: Some(turn) });
                Ok(())
            }
            None => Err(command),
        }
    }

    /// Adds a command immediately. If the hub is gone, the command is dropped, and with it any channel for
    /// its answer.
    pub(super) fn put(&self, command: T) {
        self.add(Queued { command, _turn: None });
    }

    fn add(&self, queued: Queued<T>) {
        if let Some(queue) = &mut *self.queue.lock() {
            queue.push_back(queued);
        }
        self.filled.notify_one();
    }

    /// Number of waiting commands.
    pub(super) fn len(&self) -> usize {
        self.queue.lock().as_ref().map_or(0, VecDeque::len)
    }

    /// Waits for commands, or until the deadline, and takes all of them.
    pub(super) fn take(&self, deadline: Option<Instant>, into: &mut Vec<T>) {
        let mut queue = self.queue.lock();
        while queue.as_ref().is_none_or(VecDeque::is_empty) {
            match deadline {
                None => self.filled.wait(&mut queue),
                Some(deadline) if self.filled.wait_until(&mut queue, deadline).timed_out() => break,
                Some(_) => {}
            }
        }
        let all = queue.iter_mut().flat_map(|queue| queue.drain(..));
        into.extend(all.map(|queued| queued.command));
    }

    /// Closes the queue: senders that wait for room get their commands back.
    pub(super) fn close(&self) {
        self.turns.close();
        // Dropped without the lock: a drop may wake tasks.
        let left = self.queue.lock().take();
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::memory::ShareKey;

    fn key(share: u64, account: u64) -> Key {
        Key { share: ShareKey::Session(share), account }
    }

    #[tokio::test]
    async fn send_waits_for_room_and_put_does_not() {
        let inbox = Arc::new(Inbox::new(1));
        inbox.send(key(1, 1), 1).await.unwrap();
        let second = tokio::spawn({
            let inbox = Arc::clone(&inbox);
            async move { inbox.send(key(1, 2), 3).await }
        });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        inbox.put(2);
        let mut taken = Vec::new();
        inbox.take(None, &mut taken);
        assert_eq!(taken, [1, 2]);
        second.await.unwrap().unwrap();
        inbox.take(None, &mut taken);
        assert_eq!(taken, [1, 2, 3]);
    }

    #[tokio::test]
    async fn senders_of_different_addresses_take_turns() {
        let inbox = Arc::new(Inbox::new(1));
        inbox.send(key(1, 0), 0).await.unwrap();
        // One address over many sessions, then another one.
        for (share, account) in (1..=40).map(|account| (1, account)).chain([(2, 41)]) {
            let inbox = Arc::clone(&inbox);
            tokio::spawn(async move { inbox.send(key(share, account), account).await });
            tokio::task::yield_now().await;
        }
        let mut taken = Vec::new();
        while taken.len() < 42 {
            inbox.take(None, &mut taken);
            tokio::task::yield_now().await;
        }
        let other = taken.iter().position(|command| *command == 41).unwrap();
        assert!(other <= 2, "{taken:?}");
    }

    #[tokio::test]
    async fn closing_ends_the_wait_of_senders() {
        let inbox = Arc::new(Inbox::new(1));
        inbox.send(key(1, 1), 1).await.unwrap();
        let second = tokio::spawn({
            let inbox = Arc::clone(&inbox);
            async move { inbox.send(key(1, 2), 2).await }
        });
        tokio::task::yield_now().await;
        inbox.close();
        assert_eq!(second.await.unwrap(), Err(2));
    }

    #[test]
    fn the_deadline_ends_a_wait() {
        let inbox: Inbox<u8> = Inbox::new(1);
        let mut taken = Vec::new();
        inbox.take(Some(Instant::now() + Duration::from_millis(5)), &mut taken);
        assert!(taken.is_empty());
    }

    #[tokio::test]
    async fn a_closed_inbox_gives_commands_back() {
        let inbox = Inbox::new(1);
        inbox.close();
        assert_eq!(inbox.send(key(1, 1), 7).await, Err(7));
    }
}
