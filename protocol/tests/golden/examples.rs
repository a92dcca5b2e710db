//! One example of every frame, with values that show which byte is which.

use landfall_protocol::frame::{
    Ack, Close, Entries, Entry, ErrorFrame, Filter, Frame, Hello, Mark, Nack, Push, Subscribe,
    Subscribed, Unsubscribed, Welcome, entry_flags, entry_kind,
};
use landfall_protocol::{
    Code, Cursor, DocumentId, Epoch, NackClass, Offset, ReplicaId, Scope, SessionId, Upstream,
};
use serde_bytes::ByteBuf;

const DOCUMENT: DocumentId = DocumentId::from_bytes([0xd0; 16]);
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
    }
}

/// How many kinds of frames there are.
pub const KINDS: usize = 14;

/// Every example with the name of its golden file.
pub fn all() -> Vec<(&'static str, Frame)> {
    let mut examples = handshake();
    examples.extend(subscriptions());
    examples.extend(changes());
    examples.extend([
        ("ping", Frame::Ping(0x0102_0304_0506_0708)),
        ("pong", Frame::Pong(0x0102_0304_0506_0708)),
        ("close", Frame::Close(Close { code: Code::GOODBYE, reason: "closing".into() })),
    ]);
    examples
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
