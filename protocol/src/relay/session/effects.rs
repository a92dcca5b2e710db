//! What a session asks of its caller.

#[cfg(doc)]
use super::Session;
use super::SnapshotUpload;
use crate::access::View;
use crate::code::Code;
use crate::digest::Prefix;
use crate::frame::{Ephemeral, Frame, Mark, Push, PushEntry, SubscriptionId, Token, Want};
use crate::ids::{Cursor, DocumentId, Scope, SpaceName};
use crate::relay::Author;

/// An action for the caller to perform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEffect {
    /// Find out who the client is; answer with [`Session::handle_identified`]. May take up to
    /// [`limits::IDENTIFY`](crate::limits::IDENTIFY).
    Identify {
        /// The token of its hello, or a renewed one.
        token: Option<Token>,
    },
    /// Send this frame.
    Send(Frame),
    /// Load the space's lineage; answer with [`Session::handle_attached`] or
    /// [`Session::handle_attach_failed`].
    Attach {
        /// The subscription.
        subscription: SubscriptionId,
        /// Its space.
        space: SpaceName,
        /// The end of the replica's copy.
        cursor: Option<Cursor>,
        /// The greatest mark of an ack that the replica received.
        acknowledged: Option<Mark>,
        /// The documents that it is answered about.
        view: View,
        /// The scope of its cursor: another one is not honoured.
        scope: Scope,
        /// Whether it has documents although it has no cursor.
        holds: bool,
    },
    /// Stop feeding this subscription.
    Detach(SubscriptionId),
    /// Check this push and pass it to the space's machine, which answers it.
    Push {
        /// The space.
        space: SpaceName,
        /// The author, which may write to the document.
        author: Author,
        /// The push as received.
        push: Push,
    },
    /// Pass this entry to the space's machine, which answers it like a push.
    PushEntry {
        /// The space.
        space: SpaceName,
        /// The author, which has the right that the entry's kind needs.
        author: Author,
        /// The entry as received.
        entry: PushEntry,
    },
    /// A client announces a snapshot upload: report how much of it has arrived with
    /// [`Session::handle_upload_offset`], or reject it with [`Session::handle_upload_refused`].
    SnapshotUpload {
        /// The space.
        space: SpaceName,
        /// The upload.
        upload: SnapshotUpload,
    },
    /// A part of an upload arrived. Answer with [`Session::handle_upload_offset`]. Once the snapshot
    /// is complete, call [`Session::handle_upload_complete`] and pass the snapshot to the space's
    /// machine, which answers it like a push.
    Part {
        /// The space.
        space: SpaceName,
        /// The upload.
        upload: SnapshotUpload,
        /// Offset of the part.
        from: u64,
        /// The part.
        bytes: Vec<u8>,
    },
    /// Read the branches below these prefixes; answer with [`Session::handle_branches`].
    Digest {
        /// The asking subscription.
        subscription: SubscriptionId,
        /// Distinguishes it from an earlier subscription of the same number; returned with the
        /// answer.
        ticket: u64,
        /// Its space.
        space: SpaceName,
        /// The documents that the branches are about.
        view: View,
        /// At least one.
        prefixes: Vec<Prefix>,
    },
    /// Read what the client lacks of these documents: for each one its plan and its entries, as
    /// [`Session::document_frame`]s and [`Session::part_frame`]s; then call
    /// [`Session::handle_fetched`].
    Fetch {
        /// The asking subscription.
        subscription: SubscriptionId,
        /// Distinguishes it from an earlier subscription of the same number; returned with the
        /// answer.
        ticket: u64,
        /// Its space.
        space: SpaceName,
        /// The documents that it may read: all others are answered as absent.
        view: View,
        /// At least one.
        wants: Vec<Want>,
    },
    /// From now on, pass ephemeral messages of others about these documents to
    /// [`Session::send_ephemeral`]; the peer can also be asked to repair these documents with
    /// [`Session::handle_damaged`]. Replaces the previous view of the subscription, and ends with
    /// its [`SessionEffect::Detach`].
    Listen {
        /// The subscription.
        subscription: SubscriptionId,
        /// Its space.
        space: SpaceName,
        /// The documents.
        view: View,
    },
    /// A subscription changed its filter.
    Refiltered {
        /// The subscription.
        subscription: SubscriptionId,
        /// The documents that it is answered about from now on.
        view: View,
    },
    /// The peer sent an ephemeral message: send it to all other followers of the document.
    Ephemeral {
        /// The space.
        space: SpaceName,
        /// The message, with its sender's name.
        message: Ephemeral,
    },
    /// The peer has pushed its part of a request by [`Session::handle_damaged`], and the pushes are
    /// answered.
    Resent {
        /// The space.
        space: SpaceName,
        /// The document.
        document: DocumentId,
        /// The number of changes that it brought, as it states; 0 if it had none.
        count: u32,
    },
    /// Close the connection after sending all earlier frames.
    End(Code),
}
