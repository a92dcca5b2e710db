//! All limits of the protocol, each with its unit and its reason, and compile-time assertions of
//! how they relate.
//!
//! Both ends compile these in. The limits that a relay states in `Welcome` can only be tighter.
//! Nothing here knows who applies a limit.

use std::time::Duration;

/// Bytes of one native message (one WebSocket message). Either end buffers a whole message before
/// it can check it. Larger values travel in parts.
pub const MESSAGE_BYTES: usize = 4 * MIB;

/// Bytes of a frame's header: kind, flags, length.
pub const FRAME_HEADER_BYTES: usize = 8;

/// Bytes of one change on the wire and in a store. Leaves room for its entry's header in a message.
pub const CHANGE_BYTES: usize = MESSAGE_BYTES - 128 * KIB;

/// Bytes of a change after inflation. A limit on the ratio would not do: a long deletion inflates
/// 1,000-fold.
pub const CHANGE_INFLATED_BYTES: usize = 32 * MIB;

/// Operations of one change, counted from its run lengths. Each pasted character is one operation.
pub const CHANGE_OPERATIONS: u64 = 1 << 20;

/// Dependencies of one change: the concurrent heads that it merges. automerge-repo clients name all
/// their heads in the next change. A change's entry repeats them, so a message holds them twice.
pub const CHANGE_DEPENDENCIES: usize = 32_768;

/// Bytes of one change plus the dependencies that its entry repeats: a change with more than 1,000
/// dependencies has fewer bytes than [`CHANGE_BYTES`].
pub const CHANGE_ENTRY_BYTES: usize = CHANGE_BYTES + 32 * MERGED_HEADS;

/// Heads that one change of an engine merges. Before an edit on top of more heads, the engine
/// merges them in a chain of changes without operations. The small frames fit the limits of every
/// peer.
pub const MERGED_HEADS: usize = 1_000;

/// Other actors that one change names.
pub const CHANGE_OTHER_ACTORS: usize = 65_536;

/// Bytes of an actor id. automerge makes 16; others may be longer.
pub const ACTOR_BYTES: usize = 64;

/// The largest operation counter of a document. automerge 0.12 panics on local edits beyond 2³²,
/// and JavaScript's numbers are exact only up to 2⁵³. Half of 2³² leaves every replica room for
/// further edits.
pub const OPERATION_COUNTER: u64 = (1 << 31) - 1;

/// The largest gap between the operation counters of a change's dependencies and its first own.
/// automerge continues from the largest counter that the author has, so an edit of an earlier view
/// leaves a gap, at most as large as the document has operations.
pub const COUNTER_HOLE: u64 = DOCUMENT_OPERATIONS;

/// Changes of one document. automerge uses about 500 bytes for each while it opens the document.
pub const DOCUMENT_CHANGES: u64 = 1 << 20;

/// Changes of a document that need no bytes to justify them. A saved document of ordinary typing
/// has 0.5 to 2 bytes for each change; an application that only counts has almost none.
pub const DOCUMENT_CHANGES_FREE: u64 = 128 * 1024;

/// Changes per byte of a saved document, beyond [`DOCUMENT_CHANGES_FREE`].
pub const DOCUMENT_CHANGES_PER_BYTE: u64 = 4;

/// Operations of one saved document: one for each character ever written, and one for each
/// deletion. automerge uses about 90 bytes for each while it opens a saved document, and 500 while
/// it applies one. A novel of a million characters, rewritten three times, has some six million.
pub const DOCUMENT_OPERATIONS: u64 = 1 << 23;

/// Operations of a document that need no bytes to justify them: two changes of the largest size,
/// such as a paste of one repeated letter, which deflates to a few bytes.
pub const DOCUMENT_OPERATIONS_FREE: u64 = 2 * CHANGE_OPERATIONS;

/// Operations per stored byte of a document, beyond [`DOCUMENT_OPERATIONS_FREE`]. Pasted text
/// deflates to a third, logs to a twentieth; the deletion of all of it takes almost nothing.
pub const DOCUMENT_OPERATIONS_PER_BYTE: u64 = 64;

/// Concurrent heads that new changes may bring a document to, and that a snapshot may have: 65,536
/// people who edit at the same time, offline. Each commit of such a document costs a relay 2 MiB of
/// reads and writes. An ordinary document has at most one head per author. A relay never rejects
/// committed changes for their heads, and accepts a change that merges heads whatever their number.
pub const DOCUMENT_HEADS: usize = 65_536;

/// Heads in one `Document` frame. More follow in further frames of the document.
pub const HEADS_PAGE: usize = 32_768;

/// Heads that a relay sends for one document, in all frames together: what an engine stores of
/// them. No document of two correct relays has more.
pub const HEADS_TOLD: usize = 4 * DOCUMENT_HEADS;

/// Heads of a session's snapshot uploads, together: 6 MiB at the relay. An engine counts each as
/// [`UPLOAD_HEAD_WEIGHT`] bytes in flight, so it stays below this.
pub const SESSION_UPLOAD_HEADS: usize = 196_608;

/// Bytes that an engine counts in flight for a head of a snapshot upload: more than its 32, because
/// the relay keeps it until the upload ends.
pub const UPLOAD_HEAD_WEIGHT: usize = 128;

/// Bytes of a document chunk's columns after inflation, together.
pub const DOCUMENT_INFLATED_BYTES: usize = 256 * MIB;

/// Bytes of a document's keys, mark names and messages, each counted as often as it is used:
/// automerge writes out every use when it derives the changes.
pub const DOCUMENT_TEXT_BYTES: u64 = 256 * MIB as u64;

/// automerge stores a vector clock at about every 16th change.
pub const CLOCK_EVERY: u64 = 16;

/// Entries of the vector clocks of a document, of 4 bytes each.
pub const DOCUMENT_CLOCK_ENTRIES: u64 = 64 << 20;

/// The largest sequence number of an actor in a document.
pub const SEQUENCE: u64 = (1 << 31) - 1;

/// The largest offset of a log: what a signed 64-bit column holds.
pub const OFFSET: u64 = i64::MAX as u64;

/// Bytes of a space's name: it becomes a path segment and a label of a metric.
pub const SPACE_NAME_BYTES: usize = 64;

/// Bytes of the text in which a peer names itself, and of any message or hint on the wire.
pub const TEXT_BYTES: usize = 512;

/// Bytes of a token in `Hello`. A signed token with a few claims has 300 to 2,000.
pub const TOKEN_BYTES: usize = 16 * KIB;

/// Groups of a principal: bounds the work of one token.
pub const PRINCIPAL_GROUPS: usize = 64;

/// Rules of a principal, of its token and of the configuration: a session computes its view from
/// all of them.
pub const PRINCIPAL_RULES: usize = 256;

/// How long a relay may take to identify a client, which may need a key of its issuer.
pub const IDENTIFY: Duration = Duration::from_secs(5);

/// Bytes of a message before the client is identified: a hello with the longest token fits.
pub const UNIDENTIFIED_MESSAGE_BYTES: usize = 64 * KIB;

/// Bytes of the text that names an entry's author.
pub const AUTHOR_BYTES: usize = 64;

/// Protocol versions that a `Hello` may offer.
pub const HELLO_VERSIONS: usize = 32;

/// Subscriptions of one session. One costs a relay some 500 bytes, so all of a session's cost 8
/// MiB. An engine has one for each of its spaces.
pub const SUBSCRIPTIONS: usize = 16_384;

/// Documents in the filters of all subscriptions of a session: 16 bytes each, 1 MiB, and some four
/// times that in memory.
pub const SESSION_FILTER_DOCUMENTS: usize = 65_536;

/// Ranges of own offsets that a session remembers for all its subscriptions; see [`OWN_RANGES`].
pub const SESSION_OWN_RANGES: usize = 65_536;

/// Changes in one push: bounds the work that the space's state machine does at a time.
pub const PUSH_CHANGES: usize = 1_024;

/// Bytes of the changes of one push after inflation, together: bounds the processor time that a
/// message of 4 MiB can cause.
pub const PUSH_INFLATED_BYTES: usize = 64 * MIB;

/// Operations of the changes of one push, together. Beyond it, the client must push the rest again.
/// Each operation costs the relay's check about a quarter of a microsecond, however few bytes it
/// takes.
pub const PUSH_OPERATIONS: u64 = 2 * CHANGE_OPERATIONS;

/// The largest timestamp of a change in seconds, positive or negative: what a JavaScript number
/// holds exactly. automerge stores the differences between timestamps, and overflows (panics, where
/// overflow is checked) when two differ by more than an `i64` holds.
pub const TIMESTAMP: i64 = (1 << 53) - 1;

/// The target size in bytes of an engine's push. A single larger change is a push of its own.
pub const PUSH_TARGET_BYTES: usize = 256 * KIB;

/// Unanswered pushes of a session. Beyond it, the relay stops reading that session.
pub const PUSHES_IN_FLIGHT: usize = 64;

/// Milliseconds until an engine retries a snapshot upload for which a relay had no room.
pub const RETRY_UPLOAD_MS: u32 = 5_000;

/// Bytes of unanswered pushes of an engine per space: enough to fill a commit while the one before
/// it is being written.
pub const PUSH_WINDOW_BYTES: usize = 4 * MIB;

/// The target size in bytes of an `Entries` frame. A single larger entry is sent alone.
pub const ENTRIES_TARGET_BYTES: usize = 256 * KIB;

/// Entries in one `Entries` frame: bounds the work of one transaction of the replica.
pub const ENTRIES_COUNT: usize = 1_024;

/// Bytes of unanswered pushes of an engine over all spaces.
pub const WINDOWS_BYTES: usize = 16 * MIB;

/// Spaces whose outbox has a page in an engine's memory at a time. A page has up to
/// [`PUSH_WINDOW_BYTES`]; the other spaces wait for their turn.
pub const OUTBOX_PAGES: usize = 8;

/// Bytes of received entries that a replica buffers before they are committed. Beyond it, the
/// engine stops reading the socket, and TCP slows the relay down.
pub const STORING_BYTES: usize = 8 * MIB;

/// Bytes of encoded entries that a space's ring keeps for sessions that are nearly up to date. A
/// session further behind is fed from the store.
pub const RING_BYTES: usize = 2 * MIB;

/// Bytes of one ephemeral message. A cursor or a name has some hundred; nothing is stored, so large
/// data does not belong here.
pub const EPHEMERAL_BYTES: usize = 64 * KIB;

/// Bytes of an ephemeral message's sender or session. automerge-repo's have some 20 to 40.
pub const EPHEMERAL_NAME_BYTES: usize = 256;

/// Ephemeral sessions whose last count is remembered: per space at a relay, over all spaces at an
/// engine. After one is evicted, its last message could be delivered a second time.
pub const EPHEMERAL_SOURCES: usize = 4_096;

/// Bytes of changes in one commit of a space.
pub const COMMIT_BYTES: usize = 8 * MIB;

/// Ranges of own offsets that a session remembers in order to send its echo as hashes. Beyond it,
/// own changes are echoed whole, which only costs bytes.
pub const OWN_RANGES: usize = 1_024;

/// Bytes of a snapshot that travels inside its entry. A longer one travels in parts ahead of it.
pub const SNAPSHOT_INLINE_BYTES: usize = 128 * KIB;

/// Bytes of one part of a snapshot.
pub const PART_BYTES: usize = 256 * KIB;

/// Bytes of a snapshot. A document of a million changes with an image or two has fewer.
pub const SNAPSHOT_BYTES: usize = 64 * MIB;

/// Bytes of a document: of its snapshot and the changes behind it, each change without
/// [`CHANGE_OVERHEAD_BYTES`] ([`document_bytes`](crate::weight::document_bytes)). A document up to
/// this size can always be compacted into one snapshot, and loaded by an automerge-repo client.
/// Received changes are never rejected for it: replicas that each stay below
/// [`DOCUMENT_LOCAL_BYTES`] may exceed it together. A larger document stays single changes, and
/// syncs.
pub const DOCUMENT_BYTES: u64 = SNAPSHOT_BYTES as u64;

/// Bytes of a document from which an engine rejects local changes: 75 % of [`DOCUMENT_BYTES`]. The
/// rest is for concurrent changes of other replicas.
pub const DOCUMENT_LOCAL_BYTES: u64 = DOCUMENT_BYTES / 4 * 3;

/// Bytes of a single change that a snapshot does not contain: magic, checksum, a dependency's hash,
/// the actor. A typed character is a change of about 100 bytes, and takes 1 or 2 in a snapshot.
pub const CHANGE_OVERHEAD_BYTES: u64 = 64;

/// Bytes of a pushed snapshot that a client may send before the relay requests more.
pub const SNAPSHOT_WINDOW_BYTES: usize = MIB;

/// Prefixes in one digest query, and branches in its answer.
pub const BRANCHES: usize = 256;

/// Documents below a prefix up to which the answer lists them one by one instead of a sum.
pub const BRANCH_ENTRIES: usize = 16;

/// Documents in one `Fetch`.
pub const FETCH_DOCUMENTS: usize = 64;

/// Hashes of present changes in a `Fetch`, over all its documents: the heads of one document, and
/// some of their ancestors.
pub const FETCH_HASHES: usize = DOCUMENT_HEADS + 1_024;

/// Consecutive digest queries that may lead to no document. The path from the root to a document
/// has 32 steps, and a concurrent change may make one of them lead nowhere. A relay that exceeds
/// this invents its digests.
pub const FRUITLESS_QUESTIONS: u32 = 128;

/// Differing documents that a check lists by id; it counts the others.
pub const DRIFTED_DOCUMENTS: usize = 1_024;

/// Retries of a check that concurrent changes interrupted, before the space is reported as busy:
/// with pauses that double from [`CHECK_PAUSE`], some 20 s.
pub const CHECK_TRIES: u32 = 10;

/// The pause before the first retry of a check.
pub const CHECK_PAUSE: Duration = Duration::from_millis(20);

/// Documents in a filter.
pub const FILTER_DOCUMENTS: usize = 4_096;

/// Unanswered queries of a session (digests, fetches). Beyond it, the relay stops reading that
/// session.
pub const QUERIES: usize = 4;

/// The minimum number of changes for a compaction.
pub const COMPACTION_MIN_CHANGES: u64 = 256;

/// The number of operations that justifies a compaction of fewer changes. automerge applies 65,536
/// operations in about 0.2 s and loads them from a snapshot in about 0.02 s.
pub const COMPACTION_MIN_OPERATIONS: u64 = 1 << 16;

/// The bytes of changes that justify a compaction of fewer changes.
pub const COMPACTION_MIN_BYTES: u64 = MIB as u64;

/// A compaction is due when the tail has one change for every two in the snapshot. As a share of
/// the history, it makes the cost of all compactions together a multiple of the last one.
pub const COMPACTION_SHARE: u64 = 2;

/// The newest entries of a log that are never compacted, so that a replica that is slightly behind
/// is fed single changes instead of a snapshot.
pub const RECENT_ENTRIES: u64 = 1_000;

/// The minimum age of a compacted entry, for the same reason.
pub const RECENT_AGE: Duration = Duration::from_secs(600);

/// How long a relay keeps a superseded snapshot, for clients that have downloaded a part of it.
pub const SNAPSHOT_GRACE: Duration = Duration::from_secs(600);

/// Deferred changes (with missing dependencies), per document and per store.
pub const DEFERRED_CHANGES: usize = 10_000;

/// Damaged entries of a relay that an engine remembers, per space. One damaged page of the relay's
/// file hides some tens, and each takes about 250 bytes. The first one already reports the damage;
/// the next check finds those beyond the limit.
pub const DAMAGED_ENTRIES: usize = 10_000;

/// Changes that one `Resend` requests. A damaged page of a relay's file holds some tens.
pub const RESEND_CHANGES: usize = 1_024;

/// Bytes per second, on average, that an engine reads and sends for its relay's repair requests:
/// bounds what a faulty relay can make it send.
pub const RESEND_RATE: u64 = MIB as u64;

/// The minimum that each repair request counts: it costs a read.
pub const RESEND_LEAST_BYTES: u64 = 64 * KIB as u64;

/// The burst above [`RESEND_RATE`] in bytes: the largest document.
pub const RESEND_BURST: u64 = DOCUMENT_BYTES;

/// Bytes that each change counts when the engine builds a snapshot for a repair request. Compaction
/// takes about 20 µs for a change of a few bytes, so a relay can use less than a tenth of a
/// processor.
pub const RESEND_CHANGE_BYTES: u64 = 256;

/// The same for each operation, for which compaction takes about a microsecond.
pub const RESEND_OPERATION_BYTES: u64 = 16;

/// Queued repair requests, each with [`RESEND_CHANGES`] hashes. A relay requests one document at a
/// time from a session.
pub const RESEND_WAITING: usize = 16;

/// Documents per second, on average, that an engine reads because the relay has repaired them: each
/// costs a read of the store.
pub const REPAIRED_RATE: u64 = 16;

/// The burst above [`REPAIRED_RATE`], and the queue's length: the number of damaged places that a
/// relay remembers.
pub const REPAIRED_WAITING: usize = 1_000;

/// Bytes of one message of an automerge-repo client. The JavaScript client sends a document whole,
/// and would resend a rejected one every five seconds for ever.
pub const REPO_MESSAGE_BYTES: usize = 64 * MIB;

/// Bytes of a name in an automerge-repo message: peer, storage, session, document. automerge-repo's
/// own have at most 45 bytes.
pub const REPO_TEXT_BYTES: usize = 512;

/// Items of a list in an automerge-repo message: storages to subscribe to, heads of a storage.
pub const REPO_LIST: usize = 1_024;

/// Bytes that a remote heads subscription of an automerge-repo peer takes beside the storage's
/// name.
pub const REPO_WISH_BYTES: usize = 256;

/// Open documents of an automerge-repo session.
pub const REPO_DOCUMENTS: usize = 65_536;

/// How long the relay waits for another client to bring a requested document, before it answers
/// `unavailable`.
pub const REPO_REQUEST_WAIT: Duration = Duration::from_secs(1);

/// Approximate bytes of changes in one sync message, beside a snapshot. The rest follows after the
/// peer's answer.
pub const REPO_CHANGES_BYTES: usize = 8 * MIB;

/// Bytes of recent entries that wait to be forwarded to an automerge-repo peer. Beyond it, the
/// session drops them and queries the store, where reads wait for memory.
pub const REPO_LIVE_BYTES: usize = 256 * KIB;

/// Bytes that an entry counts there beside its body and dependencies.
pub const REPO_LIVE_OVERHEAD_BYTES: usize = 256;

/// Heads that an automerge-repo peer is sent without a memory reservation: 8 KiB of a message.
pub const REPO_FEW_HEADS: usize = 128;

/// The relay asks a peer to send a document whole if the relay has none of its changes, and the
/// peer this many. Single changes take some eighty times the bytes; opening a whole document takes
/// a process of its own.
pub const REPO_WHOLE_CHANGES: u32 = 4_096;

/// Bytes of the deferred changes of one automerge-repo session.
pub const REPO_DEFERRED_BYTES: usize = 8 * MIB;

/// Bytes of heads, filters and rejected hashes that a session keeps from its automerge-repo peer's
/// messages. One head of each of [`REPO_DOCUMENTS`] is kept four times, in 8 MiB.
pub const REPO_KEPT_BYTES: usize = 64 * MIB;

/// Bytes that a relay needs for an open document of an automerge-repo client, with its place in the
/// fan-out and in queues, beside what [`REPO_KEPT_BYTES`] counts.
pub const OPEN_DOCUMENT_BYTES: usize = 768;

/// Missing dependencies that one message requests from an automerge-repo peer. The others are
/// requested after these.
pub const REPO_NEEDS: usize = 1_024;

/// With up to this many deferred changes, all their missing dependencies are requested at once;
/// with more, one hash for each change.
pub const REPO_NEEDS_OF: usize = 64;

/// Hashes of a document's latest changes that an automerge-repo session remembers: a peer that is
/// no further behind is answered without a store query.
pub const REPO_RECENT: usize = 64;

/// The minimum interval between two messages that forward a document's new entries to a peer.
/// Entries in between travel together. The first entry is forwarded at once.
pub const REPO_PACE: Duration = Duration::from_millis(25);

/// How long the session waits for a peer's answer before it forwards more of the same document:
/// applying a message costs the peer time in proportion to the document.
pub const REPO_UNANSWERED: Duration = Duration::from_millis(500);

/// How often the session requests the same announced changes that a peer does not send, and repeats
/// heads that the peer has but no longer knows to be common.
pub const REPO_ASKS: u8 = 4;

/// Rejected changes of a document that a session remembers, in order not to request them again.
pub const REPO_REFUSED: usize = 1_024;

/// Hashes in a list of an automerge sync message: heads, needs, last common heads. Twice the limit
/// of a document, for a client that merged the documents of two relays.
pub const SYNC_HASHES: usize = 2 * DOCUMENT_HEADS;

/// `have`s of an automerge sync message; automerge sends one.
pub const SYNC_HAVES: usize = 8;

/// Changes in one automerge sync message. A change has at least some 70 bytes, so an honest message
/// of [`REPO_MESSAGE_BYTES`] has fewer.
pub const SYNC_CHUNKS: usize = 1 << 20;

/// Probes of a bloom filter in an automerge sync message; automerge makes 7.
pub const SYNC_PROBES: u64 = 32;

/// How long a peer may be silent before this end sends a ping.
pub const PING_AFTER: Duration = Duration::from_secs(15);

/// How long a peer may be silent before this end closes the connection.
pub const DROP_AFTER: Duration = Duration::from_secs(30);

/// How long a ping may stay unanswered after the application asked to reconnect: two round trips
/// over a satellite. A connection that died while the computer slept is closed while the user
/// waits.
pub const PROBE: Duration = Duration::from_secs(2);

/// How long a relay waits for `Hello`, and an engine for `Welcome`.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// The first wait before a link connects again; it doubles up to [`RECONNECT_MOST`].
pub const RECONNECT_FIRST: Duration = Duration::from_millis(250);

/// The longest wait before a link connects again.
pub const RECONNECT_MOST: Duration = Duration::from_secs(30);

/// The minimum wait before an engine pushes temporarily rejected changes again, even if the relay
/// states a shorter one. It doubles with each rejection, up to [`RETRY_MOST`].
pub const RETRY_LEAST: Duration = Duration::from_millis(250);

/// The longest wait between pushes of the same changes. Shorter than [`RECONNECT_MOST`]: the relay
/// is reachable, and a push costs it less than a connection.
pub const RETRY_MOST: Duration = Duration::from_secs(10);

/// The interval of checks between the two ends without a sign of a difference.
pub const CHECK_EVERY: Duration = Duration::from_secs(600);

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// The largest size in bytes of an entry's header without its dependencies: its fixed fields and
/// author.
pub const ENTRY_HEADER_BYTES: usize = 104 + AUTHOR_BYTES;

// How the limits relate. A build that breaks one of these does not compile.
const _: () = assert!(CHANGE_ENTRY_BYTES + ENTRY_HEADER_BYTES + 1024 <= MESSAGE_BYTES);
const _: () = assert!(64 * CHANGE_DEPENDENCIES + MIB <= CHANGE_ENTRY_BYTES);
const _: () = assert!(MERGED_HEADS <= CHANGE_DEPENDENCIES && CHANGE_DEPENDENCIES <= DOCUMENT_HEADS);
const _: () = assert!(32 * HEADS_PAGE + 1024 <= MESSAGE_BYTES && DOCUMENT_HEADS <= HEADS_TOLD);
const _: () = assert!(WINDOWS_BYTES / UPLOAD_HEAD_WEIGHT + DOCUMENT_HEADS <= SESSION_UPLOAD_HEADS);
const _: () = assert!(PUSH_TARGET_BYTES <= PUSH_WINDOW_BYTES && PUSH_WINDOW_BYTES <= STORING_BYTES);
const _: () = assert!(CHANGE_BYTES <= PUSH_WINDOW_BYTES);
const _: () = assert!(ENTRIES_TARGET_BYTES <= RING_BYTES && CHANGE_BYTES <= CHANGE_INFLATED_BYTES);
const _: () = assert!(SNAPSHOT_INLINE_BYTES + ENTRY_HEADER_BYTES <= ENTRIES_TARGET_BYTES);
const _: () = assert!(32 * DOCUMENT_HEADS + ENTRIES_TARGET_BYTES + 1024 <= MESSAGE_BYTES);
const _: () = assert!(PART_BYTES <= SNAPSHOT_WINDOW_BYTES && PART_BYTES + 1024 <= MESSAGE_BYTES);
const _: () = assert!(DOCUMENT_BYTES <= SNAPSHOT_BYTES as u64);
const _: () = assert!(DOCUMENT_BYTES <= REPO_MESSAGE_BYTES as u64);
const _: () = assert!(DOCUMENT_LOCAL_BYTES + CHANGE_BYTES as u64 <= DOCUMENT_BYTES);
const _: () = assert!(
    COMPACTION_MIN_BYTES * 8 <= DOCUMENT_BYTES && COMPACTION_MIN_OPERATIONS <= CHANGE_OPERATIONS
);
const _: () = assert!(BRANCHES * 16 * 24 + 64 * BRANCHES <= MESSAGE_BYTES);
const _: () =
    assert!(FILTER_DOCUMENTS <= SESSION_FILTER_DOCUMENTS && OWN_RANGES <= SESSION_OWN_RANGES);
const _: () = assert!(PUSH_WINDOW_BYTES <= WINDOWS_BYTES && OUTBOX_PAGES > 0);
const _: () = assert!(PROBE.as_millis() < DROP_AFTER.as_millis() && FRUITLESS_QUESTIONS > 2 * 32);
const _: () = assert!(FILTER_DOCUMENTS * 16 + 1024 <= MESSAGE_BYTES);
const _: () = assert!(FETCH_DOCUMENTS * 64 + 32 * FETCH_HASHES <= MESSAGE_BYTES);
const _: () = assert!(TOKEN_BYTES < 64 * KIB && SPACE_NAME_BYTES <= TEXT_BYTES);
const _: () = assert!(DOCUMENT_OPERATIONS_FREE <= DOCUMENT_OPERATIONS);
const _: () = assert!(DOCUMENT_CHANGES_FREE <= DOCUMENT_CHANGES);
const _: () = assert!(SNAPSHOT_BYTES <= DOCUMENT_INFLATED_BYTES);
// An admitted document fits into a sync message of automerge-repo, which our reader accepts.
const _: () = assert!(DOCUMENT_HEADS <= SYNC_HASHES && 4 * 32 * SYNC_HASHES <= REPO_KEPT_BYTES);
// An honest document never reaches the limit of counters: its gaps together stay below it.
const _: () = assert!(DOCUMENT_OPERATIONS + COUNTER_HOLE <= OPERATION_COUNTER / 16);
const _: () = assert!(OPERATION_COUNTER + CHANGE_OPERATIONS < u32::MAX as u64);
const _: () = assert!(PING_AFTER.as_millis() < DROP_AFTER.as_millis());
const _: () = assert!(RETRY_LEAST.as_millis() < RETRY_MOST.as_millis());
const _: () = assert!(RETRY_MOST.as_millis() <= RECONNECT_MOST.as_millis());
