//! One example of every frame, with values that show which byte is which.

use landfall_protocol::digest::{Branch, Digest, DigestEntry, Node, Prefix, tombstone_id};
use landfall_protocol::frame::{
    Ack, Close, Difference, DigestQuery, DocumentEntries, Entries, Entry, Ephemeral, ErrorFrame,
    Features, Fetch, Filter, Frame, Hello, Holding, Mark, Nack, Part, Partial, Push, PushEntry,
    PushSnapshot, Refilter, Repaired, Resend, Resent, Subscribe, SubscribeFrom, Subscribed, Token,
    Unsubscribed, UploadFrom, Want, Welcome, entry_flags, entry_kind, features,
};
use landfall_protocol::{
    ChangeHash, Code, Cursor, DocumentId, Epoch, NackClass, Offset, ReplicaId, Scope, SessionId,
    Upstream,
};
use serde_bytes::ByteBuf;

const DOCUMENT: DocumentId = DocumentId::from_bytes([0xd0; 16]);
const OTHER: DocumentId = DocumentId::from_bytes([0xd1; 16]);
const EPOCH: Epoch = Epoch::from_bytes([0xe0; 16]);
const REPLICA: [u8; 16] = [0xa0; 16];

/// The name of a frame, as `docs/protocol.md` writes it. A frame that is missing here does not
/// compile, and one without an example fails a test.
pub fn name_of(frame: &Frame) -> &'static str {
    match frame {
        Frame::Hello(_) => "Hello",
        Frame::Welcome(_) => "Welcome",
        Frame::Error(_) => "Error",
        Frame::Subscribe(_) => "Subscribe",
        Frame::Subscribed(_) => "Subscribed",
        Frame::Entries(_) => "Entries",
        Frame::Push(_) => "Push",
        Frame::Ack(_) => "Ack",
        Frame::Nack(_) => "Nack",
        Frame::Ping(_) => "Ping",
        Frame::Pong(_) => "Pong",
        Frame::Close(_) => "Close",
        Frame::Unsubscribe(_) => "Unsubscribe",
        Frame::Unsubscribed(_) => "Unsubscribed",
        Frame::Features(_) => "Features",
        Frame::Part(_) => "Part",
        Frame::PushSnapshot(_) => "PushSnapshot",
        Frame::Digest(_) => "Digest",
        Frame::Difference(_) => "Difference",
        Frame::Refilter(_) => "Refilter",
        Frame::PushEntry(_) => "PushEntry",
        Frame::Fetch(_) => "Fetch",
        Frame::UploadFrom(_) => "UploadFrom",
        Frame::SubscribeFrom(_) => "SubscribeFrom",
        Frame::Document(_) => "Document",
        Frame::Compared(_) => "Compared",
        Frame::Ephemeral(_) => "Ephemeral",
        Frame::Resend(_) => "Resend",
        Frame::Resent(_) => "Resent",
        Frame::Repaired(_) => "Repaired",
        Frame::Token(_) => "Token",
    }
}

/// The number of frame kinds.
pub const KINDS: usize = 31;

/// Every example with the name of its golden file.
pub fn all() -> Vec<(&'static str, Frame)> {
    let mut examples = handshake();
    examples.extend(subscriptions());
    examples.extend(changes());
    examples.extend(compacted());
    examples.extend(comparison());
    examples.extend(documents());
    examples.extend(resends());
    examples.extend([
        ("ping", Frame::Ping(0x0102_0304_0506_0708)),
        ("pong", Frame::Pong(0x0102_0304_0506_0708)),
        ("ephemeral", Frame::Ephemeral(ephemeral())),
        ("close", Frame::Close(Close { code: Code::GOODBYE, reason: "closing".into() })),
    ]);
    examples
}

fn ephemeral() -> Ephemeral {
    Ephemeral {
        subscription: 3,
        document: DOCUMENT,
        sender: "ann".into(),
        session: "s1".into(),
        count: 0x0102_0304_0506_0708,
        data: bytes(b"here"),
    }
}

fn handshake() -> Vec<(&'static str, Frame)> {
    let hello = Hello {
        versions: vec![2, 1],
        replica: ReplicaId::from_bytes(REPLICA),
        token: None,
        agent: "golden/1".into(),
    };
    let token = Some(ByteBuf::from(*b"token"));
    let welcome = Welcome {
        version: 1,
        upstream: Upstream::from_bytes([0xb0; 16]),
        session: SessionId(7),
        message_bytes: 0x0040_0000,
        push_changes: 1_024,
        pushes_in_flight: 64,
        agent: "golden-relay/1".into(),
    };
    let error = ErrorFrame {
        code: Code::UNSUPPORTED_VERSION,
        what: "no version in common".into(),
        hint: "upgrade".into(),
    };
    vec![
        ("hello", Frame::Hello(hello.clone())),
        ("hello-with-token", Frame::Hello(Hello { token, ..hello })),
        ("welcome", Frame::Welcome(welcome)),
        ("error", Frame::Error(error)),
    ]
}

fn subscriptions() -> Vec<(&'static str, Frame)> {
    let cursor = Cursor { epoch: EPOCH, offset: Offset(41), scope: Scope::WHOLE_SPACE };
    let first = Subscribe {
        subscription: 3,
        space: "notes".parse().unwrap(),
        filter: Filter::Everything,
        cursor: None,
        acknowledged: None,
    };
    let again = Subscribe {
        cursor: Some(cursor),
        acknowledged: Some(Mark { epoch: EPOCH, offset: Offset(43) }),
        ..first.clone()
    };
    let subscribed = Subscribed {
        subscription: 3,
        epoch: Some(EPOCH),
        head: Offset(44),
        scope: Scope::WHOLE_SPACE,
        resumed: true,
    };
    let empty = Subscribed { epoch: None, head: Offset(0), resumed: false, ..subscribed.clone() };
    let unsubscribed = Unsubscribed {
        subscription: 3,
        code: Code::FORBIDDEN,
        what: "not yours".into(),
        hint: "ask".into(),
    };
    vec![
        ("subscribe-first", Frame::Subscribe(first)),
        ("subscribe", Frame::Subscribe(again)),
        ("subscribed", Frame::Subscribed(subscribed)),
        ("subscribed-empty", Frame::Subscribed(empty)),
        ("unsubscribe", Frame::Unsubscribe(3)),
        ("unsubscribed", Frame::Unsubscribed(unsubscribed)),
    ]
}

fn changes() -> Vec<(&'static str, Frame)> {
    let push = Push {
        id: 5,
        subscription: 3,
        document: DOCUMENT,
        changes: vec![ByteBuf::from(*b"one"), ByteBuf::from(*b"three")],
    };
    let ack = Ack { id: 5, count: 1, through: Mark { epoch: EPOCH, offset: Offset(43) } };
    let nack = Nack {
        id: 5,
        code: Code::STORAGE_FULL,
        class: NackClass::RETRY_AFTER,
        retry_after_ms: 2_000,
        what: "full".into(),
    };
    vec![
        ("entries", entries(vec![entry(), echo()])),
        ("push", Frame::Push(push)),
        ("ack", Frame::Ack(ack)),
        ("nack", Frame::Nack(nack)),
    ]
}

fn compacted() -> Vec<(&'static str, Frame)> {
    let (subscription, document, hash, total) = (3, DOCUMENT, [0x5a; 32], 0x0005_0000);
    let part =
        Part { subscription, document, hash, total, from: 0x0004_0000, bytes: bytes(b"piece") };
    let heads = vec![[0xde; 32], [0xdf; 32]];
    let upload = PushSnapshot { id: 6, subscription, document, hash, total, heads };
    let upload_from = UploadFrom { id: 6, from: 0x0004_0000, up_to: 0x0005_0000 };
    let tombstone = PushEntry {
        id: 7,
        subscription,
        document,
        kind: entry_kind::TOMBSTONE,
        flags: entry_flags::MUST_UNDERSTAND,
        entry: tombstone_id(&DOCUMENT),
        body: ByteBuf::new(),
    };
    let root = PushEntry {
        id: 8,
        kind: entry_kind::CHANGE,
        flags: entry_flags::SECOND_ROOT,
        entry: [0x1d; 32],
        body: bytes(b"root"),
        ..tombstone.clone()
    };
    vec![
        ("part", Frame::Part(part)),
        ("push-snapshot", Frame::PushSnapshot(upload)),
        ("upload-from", Frame::UploadFrom(upload_from)),
        ("push-tombstone", Frame::PushEntry(tombstone)),
        ("push-second-root", Frame::PushEntry(root)),
        ("entries-snapshot", entries(vec![snapshot(true), tombstone_after(43)])),
        ("entries-snapshot-in-parts", entries(vec![snapshot(false), second_root()])),
    ]
}

fn comparison() -> Vec<(&'static str, Frame)> {
    let cursor = Cursor { epoch: EPOCH, offset: Offset(41), scope: Scope::WHOLE_SPACE };
    let from = SubscribeFrom {
        subscription: 3,
        space: "notes".parse().unwrap(),
        filter: Filter::Everything,
        cursor: Some(cursor),
        acknowledged: Some(Mark { epoch: EPOCH, offset: Offset(43) }),
        holds: true,
        partial: Some(Partial { hash: [0x5a; 32], bytes: 0x0004_0000 }),
    };
    let filter = Filter::of_documents([DOCUMENT, OTHER]);
    let first = SubscribeFrom {
        filter: filter.clone(),
        cursor: None,
        acknowledged: None,
        holds: false,
        partial: None,
        ..from.clone()
    };
    let below_d = Prefix::ROOT.child(0xd);
    let query = DigestQuery { subscription: 3, prefixes: vec![Prefix::ROOT, below_d] };
    let mut children = vec![Digest::default(); 16];
    children[0xd] = Digest { count: 2, sum: 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10 };
    let digest_entries = vec![(DOCUMENT, DigestEntry(0x11)), (OTHER, DigestEntry(0x12))];
    let branches = vec![
        Branch { prefix: Prefix::ROOT, node: Node::Children(children) },
        Branch { prefix: below_d, node: Node::DigestEntries(digest_entries) },
    ];
    let bits = features::SNAPSHOTS | features::COMPARE | features::FILTERS | features::ENTRIES;
    vec![
        ("features", Frame::Features(Features { bits })),
        ("subscribe-from", Frame::SubscribeFrom(from)),
        ("subscribe-from-documents", Frame::SubscribeFrom(first)),
        ("digest", Frame::Digest(query)),
        (
            "difference",
            Frame::Difference(Difference { subscription: 3, head: Offset(44), branches }),
        ),
        ("refilter", Frame::Refilter(Refilter { subscription: 3, filter })),
        ("reconciled", Frame::Compared(3)),
    ]
}

fn documents() -> Vec<(&'static str, Frame)> {
    let have = vec![[0xde; 32]];
    let wants = vec![Want { document: DOCUMENT, have }, Want { document: OTHER, have: Vec::new() }];
    let present = DocumentEntries {
        subscription: 3,
        document: DOCUMENT,
        holding: Holding::Present(vec![[0x1d; 32]]),
        entries: vec![snapshot(false), second_root()],
        more: true,
    };
    let deleted = DocumentEntries {
        holding: Holding::Deleted,
        entries: vec![tombstone_after(42)],
        more: false,
        ..present.clone()
    };
    let absent = DocumentEntries {
        document: OTHER,
        holding: Holding::Absent,
        entries: Vec::new(),
        ..deleted.clone()
    };
    vec![
        ("fetch", Frame::Fetch(Fetch { subscription: 3, wants })),
        ("document-present", Frame::Document(present)),
        ("document-deleted", Frame::Document(deleted)),
        ("document-absent", Frame::Document(absent)),
    ]
}

fn resends() -> Vec<(&'static str, Frame)> {
    let (subscription, document) = (3, DOCUMENT);
    let changes = vec![[0x1d; 32], [0x1e; 32]];
    let whole = Resend { subscription, document, changes: Vec::new() };
    vec![
        ("resend", Frame::Resend(Resend { changes, ..whole.clone() })),
        ("resend-whole", Frame::Resend(whole)),
        ("resent", Frame::Resent(Resent { subscription, document, count: 2 })),
        ("token", Frame::Token(Token { token: ByteBuf::from(*b"a.b.c") })),
        ("repaired", Frame::Repaired(Repaired { subscription, document })),
    ]
}

fn bytes(of: &[u8]) -> ByteBuf {
    ByteBuf::from(of)
}

fn snapshot(inline: bool) -> Entry {
    let heads = [ChangeHash([0xde; 32]), ChangeHash([0xdf; 32])];
    let body = inline.then(|| b"folded".to_vec());
    Entry::of_snapshot(Offset(42), DOCUMENT, [0x5a; 32], &heads, 1_700_000_000_000, body)
}

fn tombstone_after(offset: u64) -> Entry {
    Entry::of_tombstone(Offset(offset), DOCUMENT, &REPLICA, 1_700_000_000_000)
}

fn second_root() -> Entry {
    let (offset, flags) = (Offset(43), entry_flags::SECOND_ROOT);
    Entry { offset, flags, dependencies: vec![], ..entry() }
}

/// A frame of entries after offset 41.
pub fn entries(entries: Vec<Entry>) -> Frame {
    Frame::Entries(Entries {
        subscription: 3,
        after: Offset(41),
        up_to: Offset(43),
        epoch: EPOCH,
        head: Offset(44),
        entries,
    })
}

/// An entry with two dependencies.
pub fn entry() -> Entry {
    Entry {
        offset: Offset(42),
        document: DOCUMENT,
        kind: entry_kind::CHANGE,
        flags: 0,
        id: [0x1d; 32],
        dependencies: vec![[0xde; 32], [0xdf; 32]],
        author: ByteBuf::from(REPLICA),
        at_ms: 1_700_000_000_000,
        body: ByteBuf::from(*b"change"),
    }
}

fn echo() -> Entry {
    Entry {
        offset: Offset(43),
        flags: entry_flags::ECHO,
        dependencies: vec![],
        body: ByteBuf::new(),
        ..entry()
    }
}
