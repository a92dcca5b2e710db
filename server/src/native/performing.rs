//! Performs the decisions of a session's machine: frames to send, subscriptions to attach, pushes and queries
//! to pass on.

use landfall_protocol::frame::{Frame, encode};
use landfall_protocol::relay::{SessionEffect, SnapshotUpload};
use landfall_protocol::{Code, SpaceName};
use tracing::{Span, debug, warn};

use super::NativeDriver;
use super::feeds::NoRoom;
use super::push_queue::Item;
use super::queries::Query;
use crate::hub::Attach;
use crate::partial_uploads::UploadProgress;

impl NativeDriver {
    /// Performs an effect of the machine.
    pub(super) fn perform_effect(&mut self, effect: SessionEffect) {
        match effect {
            SessionEffect::Identify { token } => self.identification.start(token),
            SessionEffect::Send(frame) => {
                log_refusal(&frame);
                self.outbox.push(encode(&frame), None);
            }
            SessionEffect::Attach {
                subscription,
                space,
                cursor,
                acknowledged,
                view,
                scope,
                holds,
            } => {
                // Only the first space names the session in its log lines: a second value would be added
                // to every line, not replace the first.
                if !std::mem::replace(&mut self.is_named, true) {
                    Span::current().record("space", space.as_str());
                }
                let ticket = match self.feeds.add(subscription, &view) {
                    Ok(ticket) => ticket,
                    Err(NoRoom::Quota(limit)) => {
                        self.machine.handle_subscription_refused(subscription, limit);
                        return;
                    }
                    Err(NoRoom::Memory) => {
                        self.fail_subscription();
                        return;
                    }
                };
                let (session, channel) = (self.connection.id, self.connection.channel.clone());
                let attach = Attach {
                    session,
                    subscription,
                    ticket,
                    space,
                    cursor,
                    acknowledged,
                    scope,
                    holds,
                    channel,
                };
                self.push_queue.add(Item::Attach(Box::new(attach)));
            }
            SessionEffect::Detach(subscription) => {
                self.feeds.remove(subscription);
                self.ephemeral_feed.end(subscription);
                self.push_queue.add(Item::Detach(subscription));
            }
            SessionEffect::Refiltered { subscription, view } => {
                if !self.feeds.refilter(subscription, &view) {
                    self.fail_subscription();
                }
            }
            SessionEffect::Listen { subscription, space, view } => {
                self.ephemeral_feed.subscribe(subscription, space.clone(), view);
                self.connection.relay.repairs.subscribed(&space);
            }
            SessionEffect::End(code) => {
                self.connection.end(code, code.to_string());
            }
            request => self.perform_request(request),
        }
    }

    /// There is no memory for a subscription. The condition is temporary: the engine connects again later.
    fn fail_subscription(&mut self) {
        let what = "the relay has no memory for a subscription now".to_owned();
        self.machine.fail(Code::OVERLOADED, what, "connect again later");
    }

    /// Performs the peer's pushes, ephemeral messages and queries.
    fn perform_request(&mut self, effect: SessionEffect) {
        match effect {
            SessionEffect::Resent { space, document, count } => {
                self.connection.relay.repairs.answered(
                    self.connection.id,
                    &space,
                    &document,
                    count,
                );
            }
            SessionEffect::Ephemeral { space, message } => {
                self.ephemeral_feed.publish(&space, message)
            }
            SessionEffect::Push { space, author, push } => {
                let reservation =
                    self.push_memory(push.changes.iter().map(|change| change.len()).sum());
                self.push_queue.add(Item::Push(space, push, author, reservation));
            }
            SessionEffect::PushEntry { space, author, entry } => {
                let reservation = self.push_memory(entry.body.len());
                self.push_queue.add(Item::Entry(space, entry, author, reservation));
            }
            SessionEffect::SnapshotUpload { space, upload } => self.handle_upload(space, upload),
            SessionEffect::Part { space, upload, from, bytes } => {
                self.handle_part(space, upload, from, &bytes);
            }
            SessionEffect::Digest { subscription, ticket, space, view, prefixes } => {
                self.query(Query::Digest((subscription, ticket), space, view, prefixes));
            }
            SessionEffect::Fetch { subscription, ticket, space, view, wants } => {
                self.query(Query::Fetch((subscription, ticket), space, view, wants));
            }
            // All others are performed by the caller.
            _ => {}
        }
    }

    /// A query keeps its message's memory until it is answered.
    fn query(&mut self, query: Query) {
        let bytes = query.bytes();
        let grant = self.inbound.as_mut().and_then(|inbound| inbound.memory.of_query(bytes));
        self.queries.add(query, grant);
    }

    fn handle_upload(&mut self, space: SpaceName, upload: SnapshotUpload) {
        let id = upload.id;
        if !self.uploads.keep_heads(&upload) {
            let what = "the relay has no memory for the heads of a snapshot now";
            return self.machine.handle_upload_refused(id, what);
        }
        if let Some(from) = self.uploads.add(space, upload) {
            self.machine.handle_upload_offset(id, from);
        }
    }

    fn handle_part(&mut self, space: SpaceName, upload: SnapshotUpload, from: u64, bytes: &[u8]) {
        match self.uploads.part(upload.id, from, bytes) {
            UploadProgress::Upto(there) | UploadProgress::Stale(there) => {
                self.machine.handle_upload_offset(upload.id, there)
            }
            UploadProgress::Whole(whole) => {
                if self.machine.handle_upload_complete(upload.id)
                    && let Some(author) = self.machine.author(&space, &upload.document)
                {
                    self.push_queue.add(Item::Snapshot(space, upload, whole, author));
                }
            }
            // An upload that was evicted starts again from its first byte.
            UploadProgress::Gone => {
                let id = upload.id;
                if let Some(from) = self.uploads.add(space, upload) {
                    self.machine.handle_upload_offset(id, from);
                }
            }
        }
    }
}

/// Logs what an operator needs to know about a rejected session.
fn log_refusal(frame: &Frame) {
    match frame {
        // Caused by the relay itself, once for each session.
        Frame::Error(error) if error.code == Code::SHUTTING_DOWN => {
            debug!(code = %error.code, what = error.what, "session ended");
        }
        // Strangers cause these at will: counted in the metrics.
        Frame::Error(error) if error.code == Code::UNAUTHORIZED => {
            debug!(code = %error.code, what = error.what, "session refused");
        }
        Frame::Error(error) => warn!(code = %error.code, what = error.what, "session refused"),
        // Unbounded in number: counted in the metrics, and logged at debug level only.
        Frame::Nack(nack) => {
            debug!(push = nack.id, code = %nack.code, what = nack.what, "push refused");
        }
        Frame::Unsubscribed(ended) => {
            debug!(subscription = ended.subscription, code = %ended.code, "subscription refused");
        }
        _ => {}
    }
}
