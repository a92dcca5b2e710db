//! Every limit of the protocol, each with its unit and its reason, and how they relate.
//!
//! Both ends compile these in; what a relay tells in `Welcome` can only be tighter.

use std::time::Duration;

/// Bytes of one native message (one WebSocket message): what either end must buffer whole
/// before it can be judged. Larger values will travel in bounded parts.
pub const MESSAGE_BYTES: usize = 4 * MIB;

/// Bytes of a frame's header: kind, flags, length.
pub const FRAME_HEADER_BYTES: usize = 8;

/// Bytes of one change as it travels and is stored. Leaves room for its entry's header in a
/// message.
pub const CHANGE_BYTES: usize = MESSAGE_BYTES - 128 * KIB;

/// Bytes of a change after inflation. A ratio is no measure: a long deletion is honest at 1,000 ×.
pub const CHANGE_INFLATED_BYTES: usize = 32 * MIB;

/// Operations of one change, counted from its run lengths. One pasted character is one
/// operation, so a long paste is honest.
pub const CHANGE_OPERATIONS: u64 = 1 << 20;

/// Dependencies of one change: concurrent heads that it merges. automerge-repo's clients name all
/// heads that they have in their next change. A change's entry repeats them, so a message holds
/// them twice.
pub const CHANGE_DEPENDENCIES: usize = 32_768;

/// Bytes of one change and of the dependencies that its entry repeats, together: a change with more than
/// 1,000 dependencies has fewer bytes than [`CHANGE_BYTES`].
pub const CHANGE_ENTRY_BYTES: usize = CHANGE_BYTES + 32 * MERGED_HEADS;

/// Heads that one change of an engine merges; before an edit of more, changes without operations
/// merge them in a chain. Small frames, which any peer has room for.
pub const MERGED_HEADS: usize = 1_000;

/// Other actors that one change names.
pub const CHANGE_OTHER_ACTORS: usize = 65_536;

/// Bytes of an actor id. automerge makes 16; others may be longer.
pub const ACTOR_BYTES: usize = 64;

/// The largest operation counter of a document. automerge 0.12 panics on local edits beyond
/// 2³², and JavaScript's integers are exact to 2⁵³ only in a float; half of the first leaves every
/// replica room to go on.
pub const OPERATION_COUNTER: u64 = (1 << 31) - 1;

/// How far a change's first operation counter may lie beyond those of what it depends on. automerge
/// goes on from the largest counter that its author has, so an edit of an earlier view leaves a
/// hole; it is no larger than a document has operations.
pub const COUNTER_HOLE: u64 = DOCUMENT_OPERATIONS;

/// Changes of one document. automerge keeps about 500 bytes for each while it opens the document.
pub const DOCUMENT_CHANGES: u64 = 1 << 20;

/// Changes of a document that its bytes need not account for. A saved document of honest typing
/// has 0.5 to 2 bytes for each change; an application that only counts has next to none.
pub const DOCUMENT_CHANGES_FREE: u64 = 128 * 1024;

/// Changes that each byte of a saved document may stand for, beyond the free ones.
pub const DOCUMENT_CHANGES_PER_BYTE: u64 = 4;

/// Operations of one document, as a saved one holds them: one for each character that was ever
/// written, and one for each deletion. automerge takes about 90 bytes for each while it opens a saved
/// document, and 500 while it applies one. A novel of a million characters, rewritten three
/// times, has some six million.
pub const DOCUMENT_OPERATIONS: u64 = 1 << 23;

/// Operations of a document that its bytes need not account for: two changes as large as one may
/// be, such as a paste of one repeated letter, which a few bytes can say.
pub const DOCUMENT_OPERATIONS_FREE: u64 = 2 * CHANGE_OPERATIONS;

/// Operations that each stored byte of a document may stand for, beyond the free ones. Pasted text
/// deflates to a third, logs to a twentieth; a deletion of all of it takes next to nothing.
pub const DOCUMENT_OPERATIONS_PER_BYTE: u64 = 64;

/// Concurrent heads that changes which are made or pushed may bring a document to, and that a snapshot
/// may have: 65,536 people who edit at the same time, without a connection. Each commit of such
/// a document costs a relay 2 MiB of reads and writes, which bounds them; an honest document has one
/// head for each author at most. What a relay has taken is never refused for its heads, and a
/// change that merges heads is taken however many there are.
pub const DOCUMENT_HEADS: usize = 65_536;

/// Heads in one `Document` frame. More follow in further frames of the document.
pub const HEADS_PAGE: usize = 32_768;

/// Heads that a relay tells of one document, in all frames together: what an engine keeps of them. No
/// document of two honest relays has more.
pub const HEADS_TOLD: usize = 4 * DOCUMENT_HEADS;

/// Heads of the snapshots that a session offers, together: 6 MiB at the relay. An engine counts
/// each as [`OFFERED_HEAD_WEIGHT`] bytes of what it has in flight, and so offers no more.
pub const SESSION_OFFERED_HEADS: usize = 196_608;

/// Bytes for which an engine counts a head of an offered snapshot: more than the 32 that it has, since
/// the relay keeps it until the snapshot is there.
pub const OFFERED_HEAD_WEIGHT: usize = 128;

/// Bytes to which the columns of a document chunk may inflate, together.
pub const DOCUMENT_INFLATED_BYTES: usize = 256 * MIB;

/// Bytes of a document's keys, mark names and messages, each as often as it is used: automerge
/// writes them out when it derives the changes.
pub const DOCUMENT_TEXT_BYTES: u64 = 256 * MIB as u64;

/// automerge keeps a vector clock at every 16th change, about.
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

/// Bytes of a token in `Hello`: a signed token with a few claims has 300 to 2,000.
pub const TOKEN_BYTES: usize = 16 * KIB;

/// Bytes that name an entry's author.
pub const AUTHOR_BYTES: usize = 64;

/// Protocol versions that a `Hello` may offer.
pub const HELLO_VERSIONS: usize = 32;

/// Subscriptions of one session. One costs a relay some 500 bytes, so the whole of a session's cost
/// 8 MiB; an engine has one for each of its spaces.
pub const SUBSCRIPTIONS: usize = 16_384;

/// Documents that the filters of one session's subscriptions name, together: 16 bytes each, 1 MiB,
/// and some four times that in memory.
pub const SESSION_FILTER_DOCUMENTS: usize = 65_536;

/// Ranges of own offsets that a session remembers over all its subscriptions; see [`OWN_RANGES`].
pub const SESSION_OWN_RANGES: usize = 65_536;

/// Changes in one push: bounds the work that the space's machine does in one go.
pub const PUSH_CHANGES: usize = 1_024;

/// Bytes that the changes of one push inflate to, together: bounds the processor time that a
/// message of 4 MiB can ask for.
pub const PUSH_INFLATED_BYTES: usize = 64 * MIB;

/// Operations of the changes of one push, together, after which the rest is asked for again: each
/// costs its checker about a quarter of a microsecond, whatever few bytes it came in.
pub const PUSH_OPERATIONS: u64 = 2 * CHANGE_OPERATIONS;

/// The largest timestamp of a change, either way, in seconds: what a JavaScript number holds
/// exactly. automerge stores the differences between timestamps, and overflows (panics, where
/// overflow is checked) when two lie further apart than an `i64` reaches.
pub const TIMESTAMP: i64 = (1 << 53) - 1;

/// Bytes of the changes of one push that an engine aims at. A single larger change is a push of
/// its own.
pub const PUSH_TARGET_BYTES: usize = 256 * KIB;

/// Pushes that a session may have unanswered. Beyond it the relay stops reading that session.
pub const PUSHES_IN_FLIGHT: usize = 64;

/// Milliseconds after which an engine may offer a snapshot again that a relay had no room for.
pub const RETRY_OFFER_MS: u32 = 5_000;

/// Bytes of pushes that an engine keeps unanswered per space: enough to fill a commit while
/// the one before is being written.
pub const PUSH_WINDOW_BYTES: usize = 4 * MIB;

/// Bytes of entries in one `Entries` frame that a relay aims at. One larger entry is sent alone.
pub const ENTRIES_TARGET_BYTES: usize = 256 * KIB;

/// Entries in one `Entries` frame: bounds the work of one transaction at the replica.
pub const ENTRIES_COUNT: usize = 1_024;

/// Bytes of pushes that an engine keeps unanswered over all spaces.
pub const WINDOWS_BYTES: usize = 16 * MIB;

/// Spaces of which an engine keeps a page of what is to be pushed in memory at a time. A page has
/// up to [`PUSH_WINDOW_BYTES`]; the other spaces have their turn afterwards.
pub const OUTBOX_PAGES: usize = 8;

/// Bytes of received entries that a replica holds before they are committed. Beyond it the
/// engine stops reading the socket, and TCP holds the relay back.
pub const STORING_BYTES: usize = 8 * MIB;

/// Bytes of encoded live entries that a space's ring keeps for sessions that are nearly up to
/// date. One behind the ring is fed from the store.
pub const RING_BYTES: usize = 2 * MIB;

/// Bytes of one ephemeral message. A cursor or a name is some hundred; nothing is stored, so
/// nothing large belongs here.
pub const EPHEMERAL_BYTES: usize = 64 * KIB;

/// Bytes of the name of an ephemeral message's sender, and of its session. automerge-repo's are
/// some 20 to 40.
pub const EPHEMERAL_NAME_BYTES: usize = 256;

/// Senders' sessions whose last count is remembered: of each space at a relay, of all spaces together
/// at an engine. One that is forgotten could be repeated once more.
pub const EPHEMERAL_SOURCES: usize = 4_096;

/// Bytes of changes that one commit of a space takes together.
pub const COMMIT_BYTES: usize = 8 * MIB;

/// Ranges of own offsets that a session remembers to reduce its echo to hashes. Beyond it, own
/// changes come back whole, which costs bytes and nothing else.
pub const OWN_RANGES: usize = 1_024;

/// Bytes of a snapshot that travels inside its entry. A longer one travels in parts before it.
pub const SNAPSHOT_INLINE_BYTES: usize = 128 * KIB;

/// Bytes of one part of a snapshot.
pub const PART_BYTES: usize = 256 * KIB;

/// Bytes of a snapshot. A document of a million changes with an image or two has less.
pub const SNAPSHOT_BYTES: usize = 64 * MIB;

/// Bytes of a document: of its folded history and the changes behind it, each change without
/// [`CHANGE_OVERHEAD_BYTES`] ([`document_bytes`](crate::weight::document_bytes)). A document up to
/// this size can always be folded into one snapshot, and an automerge-repo client can load it.
/// Nothing is refused for it on receipt: replicas that each kept to [`DOCUMENT_LOCAL_BYTES`] may
/// exceed it together. What exceeds it stays single changes, and syncs.
pub const DOCUMENT_BYTES: u64 = SNAPSHOT_BYTES as u64;

/// Bytes of a document from which an engine refuses local changes: 75 % of [`DOCUMENT_BYTES`]. The
/// rest is for what other replicas added meanwhile.
pub const DOCUMENT_LOCAL_BYTES: u64 = DOCUMENT_BYTES / 4 * 3;

/// Bytes of a single change that its snapshot does without: magic, checksum, a dependency's hash,
/// the actor. A typed character is a change of about 100 bytes, and takes 1 or 2 when folded.
pub const CHANGE_OVERHEAD_BYTES: u64 = 64;

/// Bytes of a pushed snapshot that a client may send before it is asked for more.
pub const SNAPSHOT_WINDOW_BYTES: usize = MIB;

/// Prefixes in one question for digests, and branches in its answer.
pub const BRANCHES: usize = 256;

/// Documents below a prefix that are named one by one instead of summed further.
pub const BRANCH_LEAVES: usize = 16;

/// Documents in one `Fetch`.
pub const FETCH_DOCUMENTS: usize = 64;

/// Hashes of changes that a `Fetch` says to be there, of all its documents together: the heads of one
/// document, and some of what they depend on.
pub const FETCH_HASHES: usize = DOCUMENT_HEADS + 1_024;

/// Questions for digests in a row whose answers lead to no document: the way from the root to a
/// document has 32 steps, and a change that comes in between may make one step lead nowhere. A relay
/// beyond it makes its digests up.
pub const FRUITLESS_QUESTIONS: u32 = 128;

/// Documents that a check names of those that differ; the others are counted.
pub const DRIFTED_DOCUMENTS: usize = 1_024;

/// How often a check that changes interrupted is begun again, before the space is reported as busy:
/// with pauses that double from [`CHECK_PAUSE`], some 20 s.
pub const CHECK_TRIES: u32 = 10;

/// The first pause before a check is begun again.
pub const CHECK_PAUSE: Duration = Duration::from_millis(20);

/// Documents that a filter may name.
pub const FILTER_DOCUMENTS: usize = 4_096;

/// Questions of a session (digests, fetches) that wait for their answers. Beyond it the relay
/// stops reading that session.
pub const QUERIES: usize = 4;

/// The fewest changes that are worth a fold.
pub const FOLD_LEAST: u64 = 256;

/// The fewest operations that are worth a fold, however few changes made them. automerge applies
/// 65,536 operations in about 0.2 s and loads them from a snapshot in about 0.02 s.
pub const FOLD_LEAST_OPERATIONS: u64 = 1 << 16;

/// The fewest bytes of changes that are worth a fold, however few changes hold them.
pub const FOLD_LEAST_BYTES: u64 = MIB as u64;

/// A fold is due when so many new changes wait for each one that is folded already: 1 for every 2.
/// A share of the history, so that all folds together cost no more than a multiple of the last.
pub const FOLD_SHARE: u64 = 2;

/// The youngest entries of a log that are not folded, so that a replica that is slightly behind
/// is fed single changes and never a snapshot.
pub const RECENT_ENTRIES: u64 = 1_000;

/// How old an entry must be to be folded, for the same reason.
pub const RECENT_AGE: Duration = Duration::from_secs(600);

/// How long a relay keeps a snapshot that was replaced, for those who have part of it.
pub const SNAPSHOT_GRACE: Duration = Duration::from_secs(600);

/// Changes that wait for their dependencies, per document and per store.
pub const PEN_CHANGES: usize = 10_000;

/// Damaged entries of a relay that an engine remembers, for each space: what one damaged page of the
/// relay's file hides is some tens, and each takes about 250 bytes. That there is damage is known with
/// the first; what is beyond is found by the next comparison.
pub const DAMAGED_ENTRIES: usize = 10_000;

/// Changes that one `Resend` asks for. A damaged page of a relay's file holds some tens.
pub const RESEND_CHANGES: usize = 1_024;

/// Bytes that an engine reads and sends each second, over time, because its relay asks for them again:
/// no relay makes it a source without end.
pub const RESEND_RATE: u64 = MIB as u64;

/// Bytes that each question for it counts at least: it takes a read.
pub const RESEND_LEAST_BYTES: u64 = 64 * KIB as u64;

/// Bytes of it that come at once: the largest document.
pub const RESEND_BURST: u64 = DOCUMENT_BYTES;

/// Bytes that each change counts of which a snapshot is made for it: a fold takes about 20 µs for one of
/// a few bytes, so that a relay takes up less than a tenth of a processor.
pub const RESEND_CHANGE_BYTES: u64 = 256;

/// The same for each operation, of which a fold takes about a microsecond.
pub const RESEND_OPERATION_BYTES: u64 = 16;

/// Questions that wait for their turn, with [`RESEND_CHANGES`] hashes each. A relay asks a session for
/// one document at a time.
pub const RESEND_WAITING: usize = 16;

/// Documents each second, over time, that the store is told of because the relay can read them again:
/// each takes a read.
pub const MENDED_RATE: u64 = 16;

/// The same that wait for that, and that are told at once: as many damaged places as a relay remembers.
pub const MENDED_WAITING: usize = 1_000;

/// Bytes of one message of an automerge-repo client: the JavaScript client sends a document whole,
/// and would repeat a refused one every five seconds for ever.
pub const REPO_MESSAGE_BYTES: usize = 64 * MIB;

/// Bytes of a name in a message of automerge-repo: peer, storage, session, document. Its own are
/// at most 45 bytes long.
pub const REPO_TEXT_BYTES: usize = 512;

/// Items of a list in a message of automerge-repo: storages to hear of, heads of a storage.
pub const REPO_LIST: usize = 1_024;

/// Bytes that the wish of an automerge-repo peer to hear of a storage takes up beside the storage's name.
pub const REPO_WISH_BYTES: usize = 256;

/// Documents that an automerge-repo session has open.
pub const REPO_DOCUMENTS: usize = 65_536;

/// How long a request for a document that the relay does not hold waits for somebody to bring it,
/// before the client is told that it is not available.
pub const REPO_REQUEST_WAIT: Duration = Duration::from_secs(1);

/// Bytes of changes that one sync message carries, about, beside a snapshot. The rest follows when
/// the peer has answered.
pub const REPO_CHANGES_BYTES: usize = 8 * MIB;

/// Bytes of what became durable lately and waits to be passed on to an automerge-repo peer. With more, its
/// documents are read from the store, where reads wait for memory.
pub const REPO_LIVE_BYTES: usize = 256 * KIB;

/// Bytes that an entry counts there beside its body and dependencies.
pub const REPO_LIVE_OVERHEAD_BYTES: usize = 256;

/// Heads that an automerge-repo peer is told of without asking for memory first: 8 KiB of a message.
pub const REPO_FEW_HEADS: usize = 128;

/// A peer that has so many changes of a document of which the relay has none is asked to send the
/// document whole. Changes sent one by one are some eighty times its bytes; opening a whole one
/// takes a process of its own.
pub const REPO_WHOLE_CHANGES: u32 = 4_096;

/// Bytes of the changes that wait for their dependencies in one automerge-repo session.
pub const REPO_PEN_BYTES: usize = 8 * MIB;

/// Bytes of heads, filters and refused hashes that are kept of what one automerge-repo peer said
/// about its documents. One head of each of [`REPO_DOCUMENTS`] is kept four times, in 8 MiB.
pub const REPO_KEPT_BYTES: usize = 64 * MIB;

/// Bytes that a relay needs for a document that an automerge-repo client has open, with its place in
/// rooms and queues, beside what [`REPO_KEPT_BYTES`] counts.
pub const OPEN_DOCUMENT_BYTES: usize = 768;

/// Hashes that an automerge-repo peer is asked for at a time, of those that changes of its own rest
/// on and that did not come. The others are asked for after these.
pub const REPO_NEEDS: usize = 1_024;

/// Changes that wait up to which all that they lack is asked for at once; beyond it, one hash for
/// each of them.
pub const REPO_NEEDS_OF: usize = 64;

/// Hashes of a document's latest changes that an automerge-repo session remembers: a peer that is
/// this far behind is answered without asking the store.
pub const REPO_RECENT: usize = 64;

/// How often a peer is sent what became durable of a document, at most: what comes sooner travels
/// together. A first change is never kept back.
pub const REPO_PACE: Duration = Duration::from_millis(25);

/// How long a peer may take to answer what it was sent before it is sent more of the same
/// document: applying one message costs it time in proportion to the document.
pub const REPO_UNANSWERED: Duration = Duration::from_millis(500);

/// How often a peer is asked for the same changes that it announces and does not send, and told
/// the same heads again that it has and forgot to be common.
pub const REPO_ASKS: u8 = 4;

/// Changes of a document that were refused and that a session remembers, so as not to ask for them
/// again.
pub const REPO_REFUSED: usize = 1_024;

/// Hashes in a list of an automerge sync message: heads, needs, last common heads. Twice what a
/// document may have, for a client that merged two relays' documents.
pub const SYNC_HASHES: usize = 2 * DOCUMENT_HEADS;

/// `have`s of an automerge sync message; automerge sends one.
pub const SYNC_HAVES: usize = 8;

/// Changes in one automerge sync message. None has less than some 70 bytes, so an honest message of
/// [`REPO_MESSAGE_BYTES`] has not as many.
pub const SYNC_CHUNKS: usize = 1 << 20;

/// Probes of a bloom filter in an automerge sync message; automerge makes 7.
pub const SYNC_PROBES: u64 = 32;

/// How long a peer may be silent before it is pinged.
pub const PING_AFTER: Duration = Duration::from_secs(15);

/// How long a peer may be silent before it is dropped.
pub const DROP_AFTER: Duration = Duration::from_secs(30);

/// How long an answer to a ping may take after the application asked to connect again: two round
/// trips over a satellite, and a connection that died while the computer slept is given up while a person waits.
pub const PROBE: Duration = Duration::from_secs(2);

/// How long a relay waits for `Hello`, and an engine for `Welcome`.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// The first wait before a link connects again; it doubles up to [`RECONNECT_MOST`].
pub const RECONNECT_FIRST: Duration = Duration::from_millis(250);

/// The longest wait before a link connects again.
pub const RECONNECT_MOST: Duration = Duration::from_secs(30);

/// The least wait before changes are pushed again that a relay does not take now, whatever shorter wait
/// the relay names; it doubles while the relay goes on so, up to [`RETRY_MOST`].
pub const RETRY_LEAST: Duration = Duration::from_millis(250);

/// How far the wait grows between pushes of the same changes. Shorter than [`RECONNECT_MOST`]: the
/// relay is there, and a push costs it less than a connection.
pub const RETRY_MOST: Duration = Duration::from_secs(10);

/// How often the two ends compare what they hold, although nothing says that it should differ.
pub const CHECK_EVERY: Duration = Duration::from_secs(600);

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Bytes that an entry's header can have at most without its dependencies: its fixed fields and author.
pub const ENTRY_HEADER_BYTES: usize = 104 + AUTHOR_BYTES;

// How the limits relate. A build that breaks one of these does not compile.
const _: () = assert!(CHANGE_ENTRY_BYTES + ENTRY_HEADER_BYTES + 1024 <= MESSAGE_BYTES);
const _: () = assert!(64 * CHANGE_DEPENDENCIES + MIB <= CHANGE_ENTRY_BYTES);
const _: () = assert!(MERGED_HEADS <= CHANGE_DEPENDENCIES && CHANGE_DEPENDENCIES <= DOCUMENT_HEADS);
const _: () = assert!(32 * HEADS_PAGE + 1024 <= MESSAGE_BYTES && DOCUMENT_HEADS <= HEADS_TOLD);
const _: () =
    assert!(WINDOWS_BYTES / OFFERED_HEAD_WEIGHT + DOCUMENT_HEADS <= SESSION_OFFERED_HEADS);
const _: () = assert!(PUSH_TARGET_BYTES <= PUSH_WINDOW_BYTES && PUSH_WINDOW_BYTES <= STORING_BYTES);
const _: () = assert!(CHANGE_BYTES <= PUSH_WINDOW_BYTES);
const _: () = assert!(ENTRIES_TARGET_BYTES <= RING_BYTES && CHANGE_BYTES <= CHANGE_INFLATED_BYTES);
const _: () = assert!(SNAPSHOT_INLINE_BYTES + ENTRY_HEADER_BYTES <= ENTRIES_TARGET_BYTES);
const _: () = assert!(32 * DOCUMENT_HEADS + ENTRIES_TARGET_BYTES + 1024 <= MESSAGE_BYTES);
const _: () = assert!(PART_BYTES <= SNAPSHOT_WINDOW_BYTES && PART_BYTES + 1024 <= MESSAGE_BYTES);
const _: () = assert!(DOCUMENT_BYTES <= SNAPSHOT_BYTES as u64);
const _: () = assert!(DOCUMENT_BYTES <= REPO_MESSAGE_BYTES as u64);
const _: () = assert!(DOCUMENT_LOCAL_BYTES + CHANGE_BYTES as u64 <= DOCUMENT_BYTES);
const _: () =
    assert!(FOLD_LEAST_BYTES * 8 <= DOCUMENT_BYTES && FOLD_LEAST_OPERATIONS <= CHANGE_OPERATIONS);
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
// What is admitted can be told: in a sync message of automerge-repo, whose reader is ours too.
const _: () = assert!(DOCUMENT_HEADS <= SYNC_HASHES && 4 * 32 * SYNC_HASHES <= REPO_KEPT_BYTES);
// An honest document never meets the limit of counters: its holes together stay below it.
const _: () = assert!(DOCUMENT_OPERATIONS + COUNTER_HOLE <= OPERATION_COUNTER / 16);
const _: () = assert!(OPERATION_COUNTER + CHANGE_OPERATIONS < u32::MAX as u64);
const _: () = assert!(PING_AFTER.as_millis() < DROP_AFTER.as_millis());
const _: () = assert!(RETRY_LEAST.as_millis() < RETRY_MOST.as_millis());
const _: () = assert!(RETRY_MOST.as_millis() <= RECONNECT_MOST.as_millis());
