//! The items of an outbox, and the pushes that carry them.

use std::collections::BTreeMap;

use serde_bytes::ByteBuf;

use super::uploads::Upload;
use crate::admission::Roots;
use crate::digest::tombstone_id;
use crate::frame::{
    Frame, Push, PushEntry, PushSnapshot, SubscriptionId, entry_flags, entry_kind, features,
};
use crate::ids::{ChangeHash, DocumentId, Local};
use crate::limits;

/// An item that the upstream has not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxChange {
    /// Its position in our own log; for a snapshot, the position of the last change in it.
    pub local: Local,
    /// Its document.
    pub document: DocumentId,
    /// Its kind.
    pub what: OutboxKind,
}

/// The kinds of outbox items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboxKind {
    /// A change: its chunk, and whether it may begin a second history.
    Change(Vec<u8>, Roots),
    /// A snapshot.
    Snapshot {
        /// SHA-256 of its bytes.
        hash: [u8; 32],
        /// Its length in bytes.
        total: u64,
        /// Its heads, sorted.
        heads: Vec<ChangeHash>,
    },
    /// The document's deletion.
    Tombstone,
}

impl OutboxKind {
    /// The features that the relay must have to accept it.
    pub(super) fn needs(&self) -> u64 {
        match self {
            Self::Change(_, Roots::One) => 0,
            Self::Snapshot { .. } => features::SNAPSHOTS,
            Self::Change(_, Roots::Several) | Self::Tombstone => features::ENTRIES,
        }
    }
}

/// The items of one document that go into one push.
#[derive(Debug)]
pub(in super::super) struct Group {
    pub(super) document: DocumentId,
    pub(super) locals: Vec<Local>,
    pub(super) load: Load,
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) enum Load {
    Changes(Vec<ByteBuf>),
    /// One change that may begin a second history.
    Root(ByteBuf),
    Snapshot {
        hash: [u8; 32],
        total: u64,
        heads: Vec<ChangeHash>,
    },
    Tombstone,
}

/// Groups changes by document and keeps each document's order. A full group is followed by another
/// of its document, and so is an item that is not a plain change.
pub(in super::super) fn group(page: impl Iterator<Item = OutboxChange>, most: usize) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut open: BTreeMap<DocumentId, usize> = BTreeMap::new();
    for OutboxChange { local, document, what } in page {
        let bytes = match what {
            OutboxKind::Change(bytes, Roots::One) => bytes,
            other => {
                // Later changes may depend on this item, so they must not join a group before it.
                open.remove(&document);
                groups.push(alone(local, document, other));
                continue;
            }
        };
        let fits = |group: &Group| {
            group.locals.len() < most && group.bytes + bytes.len() <= limits::PUSH_TARGET_BYTES
        };
        let index = match open.get(&document) {
            Some(index) if fits(&groups[*index]) => *index,
            _ => {
                let load = Load::Changes(Vec::new());
                groups.push(Group { document, locals: vec![], load, bytes: 0 });
                open.insert(document, groups.len() - 1);
                groups.len() - 1
            }
        };
        let group = &mut groups[index];
        group.bytes += bytes.len();
        group.locals.push(local);
        if let Load::Changes(changes) = &mut group.load {
            changes.push(ByteBuf::from(bytes));
        }
    }
    groups
}

fn alone(local: Local, document: DocumentId, what: OutboxKind) -> Group {
    let (load, bytes) = match what {
        OutboxKind::Change(bytes, _) => {
            let weight = bytes.len();
            (Load::Root(ByteBuf::from(bytes)), weight)
        }
        OutboxKind::Snapshot { hash, total, heads } => {
            let weight = heads.len() * limits::UPLOAD_HEAD_WEIGHT;
            (Load::Snapshot { hash, total, heads }, weight)
        }
        OutboxKind::Tombstone => (Load::Tombstone, 0),
    };
    Group { document, locals: vec![local], load, bytes }
}

/// The frame that pushes a group, and the upload's initial progress if it is a snapshot.
pub(super) fn push_frame(
    id: u64,
    subscription: SubscriptionId,
    document: DocumentId,
    load: Load,
) -> (Frame, Option<Upload>) {
    let entry = |kind, flags, entry, body| {
        Frame::PushEntry(PushEntry { id, subscription, document, kind, flags, entry, body })
    };
    match load {
        Load::Changes(changes) => (Frame::Push(Push { id, subscription, document, changes }), None),
        // The hash of a root is in its bytes.
        Load::Root(bytes) => {
            (entry(entry_kind::CHANGE, entry_flags::SECOND_ROOT, [0; 32], bytes), None)
        }
        Load::Tombstone => {
            let flags = entry_flags::MUST_UNDERSTAND;
            (entry(entry_kind::TOMBSTONE, flags, tombstone_id(&document), ByteBuf::new()), None)
        }
        Load::Snapshot { hash, total, heads } => {
            let heads = heads.into_iter().map(|head| head.0).collect();
            let push = PushSnapshot { id, subscription, document, hash, total, heads };
            (Frame::PushSnapshot(push), Some(Upload::new(hash, total)))
        }
    }
}
