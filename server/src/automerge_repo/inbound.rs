//! Inbound data of an automerge-repo session: messages, the changes in them after their checks, and the
//! memory of the state that they cause.

use landfall_protocol::Code;
use landfall_protocol::automerge_repo::check::Inspected;

use super::RepoDriver;
use super::push_queue::{Checked, ItemResult};
use crate::connection::{CLOSE_NORMAL, CLOSE_TOO_BIG, Driver, SocketRead};
use crate::limits;
use crate::memory::Grant;

impl RepoDriver {
    pub(super) fn handle_socket(&mut self, read: SocketRead) {
        let now = self.connection.now();
        match read {
            SocketRead::Message(bytes) => {
                self.push_queue.begin_message(self.connection.meter.whole());
                self.machine.handle_message(now, &bytes);
                // The work that a message causes takes its memory from the message's.
                self.perform();
                self.push_queue.end_message();
            }
            SocketRead::Text => self.machine.handle_text(),
            SocketRead::Control => self.machine.handle_sign_of_life(now),
            SocketRead::Close => {
                self.outbox.clear();
                let reason = format!("{}: ", Code::GOODBYE);
                self.connection.close_with(Code::GOODBYE, CLOSE_NORMAL, reason);
            }
            SocketRead::TooLarge(what) => {
                tracing::warn!(what, "a message was too large");
                let reason = format!("{}: {what}", Code::TOO_LARGE);
                self.connection.close_with(Code::TOO_LARGE, CLOSE_TOO_BIG, reason);
            }
            SocketRead::Broken(what) => self.machine.fail(Code::MALFORMED, what),
            SocketRead::Gone(why) => self.connection.lose(Code::GOODBYE, &why),
        }
    }

    pub(super) fn handle_item_result(&mut self, done: ItemResult) {
        match done {
            ItemResult::Checked(ticket, Ok(inspected), rest) => {
                let mut changes = Vec::with_capacity(inspected.len());
                for inspected in inspected {
                    match inspected {
                        Inspected::Sound(change) => changes.push(change),
                        Inspected::TooLarge(hash, error) => {
                            self.machine.handle_too_large(ticket, hash, &error);
                        }
                    }
                }
                let more = !rest.is_empty();
                self.push_queue.check_rest(ticket, rest);
                let unknown = self.machine.unfamiliar(ticket, &changes);
                if unknown.is_empty() {
                    self.machine.handle_checked(ticket, Ok(changes), &[], more);
                } else {
                    self.push_queue.look_up(Checked { ticket, changes, more }, unknown);
                }
            }
            ItemResult::Checked(ticket, Err(error), _) => {
                self.machine.handle_checked(ticket, Err(error), &[], false);
            }
            ItemResult::LookedUp(Checked { ticket, changes, more }, Some(known)) => {
                self.machine.handle_checked(ticket, Ok(changes), &known, more);
            }
            // The part of the message that was pushed is stored; the client sends the rest again.
            ItemResult::Unpaid => {
                let what = "the changes exceed this client's share of the work, and other sessions \
                            need their memory";
                self.machine.fail(Code::OVERLOADED, what.to_owned());
            }
            ItemResult::NoRoom => {
                let what = "the relay has no memory to merge a document now".to_owned();
                self.machine.fail(Code::OVERLOADED, what);
            }
            ItemResult::LookedUp(_, None) => self.machine.handle_check_failed(),
            ItemResult::Over => {}
            ItemResult::HubGone => self.handle_hub_gone(),
        }
        self.perform();
        self.push_queue.handle_next();
    }

    /// Keeps the session's reserved memory at the size of the machine's state.
    pub(super) fn account_for_state(&mut self) {
        let bytes = self.machine.state_bytes().next_multiple_of(limits::STATE_STEP_BYTES);
        let held = self.state_grants.iter().map(Grant::bytes).sum::<usize>();
        if bytes > held {
            match self.connection.account.reserve_state((bytes - held).max(held / 4)) {
                Some(grant) => self.state_grants.push(grant),
                None => self.fail_over_budget(),
            }
        } else if held - bytes > held / 2 {
            // One grant for the remaining state; this always succeeds, since more is released.
            self.state_grants.clear();
            self.state_grants.extend(self.connection.account.reserve_state(bytes));
        }
    }

    pub(super) fn fail_over_budget(&mut self) {
        let what = "this client's state in the relay exceeds its share of the memory budget";
        self.machine.fail(Code::OVERLOADED, what.to_owned());
    }

    /// Ends the session if a large message makes no progress, and reports silence to the machine.
    pub(super) fn check_progress(&mut self) {
        // Checked first: pings in the middle of a large message do not extend its time.
        self.check_pace(self.takes_messages());
        // Items that waited for the pacing time are taken with those that have arrived since.
        if self.peer_reads() {
            self.take_deliveries();
        }
        let (now, bytes) = (self.connection.now(), self.connection.meter.bytes());
        if now >= self.access.until() {
            return self.machine.fail(Code::UNAUTHORIZED, "the token has expired".to_owned());
        }
        // A peer counts as alive while a large message arrives, and while the relay does not read from it.
        let waits = self.connection.meter.is_waiting() || !self.takes_messages();
        if bytes != self.bytes_before || waits {
            self.machine.handle_sign_of_life(now);
        }
        self.bytes_before = bytes;
        self.machine.handle_delivered(self.connection.delivered());
        self.machine.handle_timeout(now);
    }
}
