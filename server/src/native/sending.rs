//! A session's sending: the next message for the writer.

use landfall_protocol::relay::{Chunk, Page};

use super::NativeDriver;
use super::feeds::PageTarget;
use crate::connection::Outgoing;
use crate::memory::Grant;

impl NativeDriver {
    /// Whether there is a message for a writer with room.
    pub(super) fn has_something_to_send(&mut self) -> bool {
        !self.outbox.is_empty()
            || self.feeds.has_read()
            || self.feeds.has_live(|id| self.machine.position(id))
    }

    /// The next page of a subscription, in turn.
    pub(super) fn next_page(&mut self) -> Option<Outgoing> {
        match self.feeds.take_read() {
            Some((target, Chunk::Entries(page), grant)) => {
                return self.page_message(target, &page, grant);
            }
            Some((target, Chunk::Part(part), grant)) => {
                let message = self.machine.handle_snapshot_part(target.subscription, part)?;
                return Some(Outgoing::message(message, grant));
            }
            None => {}
        }
        let target = self.feeds.next_live(|id| self.machine.position(id))?;
        let position = self.machine.position(target.subscription)?;
        match target.feed.page(position) {
            // Without memory the page is read from the store, where the read waits for some.
            Some(page) if let Some(grant) = self.feeds.try_reserve(&page) => {
                self.page_message(target, &page, Some(grant))
            }
            _ => {
                self.feeds.handle_behind(target.subscription);
                None
            }
        }
    }

    fn page_message(
        &mut self,
        target: PageTarget,
        page: &Page,
        grant: Option<Grant>,
    ) -> Option<Outgoing> {
        let message = self.machine.handle_page(target.subscription, page)?;
        let (entries, up_to) = (page.entries.len(), page.up_to);
        Some(Outgoing::Page { message, entries, feed: target.feed, up_to, grant })
    }
}
