//! The relay's own limits, each with its unit and its reason. `landfall_protocol::limits` holds the limits
//! that both ends must agree on.

use std::time::Duration;

use landfall_protocol::admission::Work;
use landfall_protocol::limits as shared;

/// Default for the bytes that all sessions together may hold. The process's own memory (some 20 MiB, and 16
/// KiB per connection) and its children come on top.
pub const MEMORY_BYTES: usize = 256 * MIB;

/// Minimum of [`MEMORY_BYTES`]: the largest message, decoded, beside small ones.
pub const LEAST_MEMORY: usize = 192 * MIB;

/// Sixteenths of the memory that each class may take: intake, pushes, uploads, answers, state.
pub const MEMORY_SIXTEENTHS: [usize; 5] = [12, 8, 8, 8, 4];

/// Sixteenths of the memory reserved for small reservations, in each of two lanes: one for arriving
/// messages, one for everything else.
pub const SMALL_SIXTEENTHS: usize = 1;

/// Largest reservation, in bytes, that may use a lane: ordinary typing never waits behind a large document.
pub const SMALL_RESERVATION: usize = 256 * KIB;

/// Stalled messages and uploads of an address within [`STALL_REMEMBERED`] that are forgiven: links break.
/// Each further stall makes the address wait behind those that had fewer.
pub const STALLS_FORGIVEN: usize = 2;

/// See [`STALLS_FORGIVEN`]. Longer than it takes to detect six stalls.
pub const STALL_REMEMBERED: Duration = Duration::from_secs(60);

/// Stalls counted for each address. With [`STALLS_REMEMBERED`] addresses, some 1.5 MiB.
pub const STALLS_COUNTED: usize = 64;

/// Addresses whose stalls are remembered. See [`STALLS_COUNTED`].
pub const STALLS_REMEMBERED: usize = 1_024;

/// Sixteenths of the memory that caches may hold while no reservation needs it.
pub const CACHE_SIXTEENTHS: usize = 4;

/// Commands queued for the hub: enough that it never idles, few enough that a command waits milliseconds.
/// When the queue is full, sessions wait.
pub const HUB_QUEUE: usize = 1_024;

/// Changes and actors of one push that the hub itself looks up, in some milliseconds. A push with more is
/// looked up before it enters the hub's queue.
pub const HUB_LOOK_UPS: usize = 256;

/// Look-ups in one read of the store, some 30 ms: a longer read prevents the write-ahead log from being
/// reset.
pub const LOOK_UPS: usize = 4_096;

/// Bytes that a push counts beside its changes: its answer, its place in queues and overlay.
pub const PUSH_OVERHEAD_BYTES: usize = 256;

/// Preflight work that runs on the session's own task: some half a millisecond, in which other sessions of
/// the same thread wait. Typing takes a hundredth of it.
pub const INLINE_CHECK: Work = Work { operations: 2_048, bytes: 32 * KIB as u64 };

/// Concurrent preflights above [`INLINE_CHECK`]. Each may hold one inflated change.
pub const CHECKS: usize = 2;

/// Units of preflight work per second that a session may cause in the long run: a fifth of a processor.
/// Histories of short changes upload at 150,000 changes a second.
pub const CHECK_RATE: u64 = 1 << 20;

/// Burst of [`CHECK_RATE`]: two of the heaviest pushes.
pub const CHECK_BURST: u64 = 2 * shared::PUSH_OPERATIONS;

/// As [`CHECK_RATE`], for all sessions of an address together: four fifths of a processor. Larger
/// preflights wait until the address's debt is paid; smaller ones wait only if the debt exceeds what larger
/// ones can cause.
pub const SHARE_CHECK_RATE: u64 = 4 * CHECK_RATE;

/// See [`SHARE_CHECK_RATE`].
pub const SHARE_CHECK_BURST: u64 = 4 * CHECK_BURST;

/// Debt of an address above which its smaller preflights wait too, as the time to pay it: twice the debt
/// that concurrent larger preflights cause.
pub const SHARE_CHECK_LENT: Duration =
    Duration::from_millis(2_000 * CHECKS as u64 * shared::PUSH_OPERATIONS / SHARE_CHECK_RATE);

/// Addresses whose recent use of a rate is remembered, some 1 MiB: twice the number of connections, since
/// most use is paid for within seconds.
pub const SHARES_REMEMBERED: usize = 2 * CONNECTIONS;

/// Concurrent reads of store pages, and pooled read connections for them: more would only wait for the same
/// disk.
pub const PAGE_READS: usize = 2;

/// Bytes of SQLite's page cache, for each connection: the writer, the hub's, and the pooled ones. The
/// operating system caches the file as well.
pub const PAGE_CACHE_BYTES: u64 = 4 * MIB as u64;

/// Document rows summed in one read, some 10 ms: a longer read delays other readers and prevents the
/// write-ahead log from being reset.
pub const DIGEST_ROWS: usize = 8_192;

/// Rows per second that may be summed for an address in the long run: two fifths of a reader.
pub const DIGEST_RATE: u64 = 1 << 19;

/// Burst of [`DIGEST_RATE`]: several walks over a million documents each run at full speed.
pub const DIGEST_BURST: u64 = 1 << 23;

/// Concurrent reads of digest pages. The other reader serves entries.
pub const DIGEST_READS: usize = 1;

/// Write jobs in the store's queue. The hub has at most one commit of each space in flight.
pub const STORE_QUEUE: usize = 1_024;

/// Concurrent connections, HTTP and WebSocket together. The relay answers further ones with 503. An idle
/// session costs some 50 KiB; file handles, one per connection, run out first.
pub const CONNECTIONS: usize = 4_096;

/// Concurrent connections of one address: a quarter of [`CONNECTIONS`], so that no address locks others
/// out. Behind a proxy all clients have its address.
pub const CONNECTIONS_OF_ADDRESS: usize = CONNECTIONS / 4;

/// Connections beside [`CONNECTIONS`] that may use `/healthz`, `/readyz` and `/metrics` only, and are
/// closed after [`KEPT_LIFE`]: a monitor can still query a relay whose connections are used up.
pub const RESERVED_SLOTS: usize = 64;

/// Those of one address.
pub const RESERVED_SLOTS_OF_ADDRESS: usize = 8;

/// Lifetime of a connection in a reserved slot: one request and its answer.
pub const KEPT_LIFE: Duration = Duration::from_secs(10);

/// Lifetime of a connection that does not become a session, regardless of its requests: a peer that does
/// not read its answer must not occupy a slot. The largest answer takes a fourth of it on the slowest
/// link.
pub const HTTP_LIFE: Duration = Duration::from_secs(120);

/// Connections to the listener for operators; further ones wait. A scraper and a person need a few.
pub const OPERATOR_CONNECTIONS: usize = 16;

/// Sessions whose client is not yet identified, where clients must be. Each lives at most for the
/// handshake's patience and [`shared::IDENTIFY`]. Too few, and clients that return together after a restart
/// are told to connect later; too many, and strangers keep others' tokens waiting.
pub const UNIDENTIFIED: usize = 1_024;

/// Sessions of one address whose client is not yet identified: a quarter, as with [`CONNECTIONS`].
pub const UNIDENTIFIED_OF_ADDRESS: usize = UNIDENTIFIED / 4;

/// Subscriptions of all sessions together, some 2 KiB each with a space of its own.
/// [`shared::SUBSCRIPTIONS`] is the limit of one session.
pub const SUBSCRIPTIONS: usize = 131_072;

/// Subscriptions of one address: a quarter, as with [`CONNECTIONS`].
pub const SUBSCRIPTIONS_OF_ADDRESS: usize = SUBSCRIPTIONS / 4;

/// How long a client may take to send a request's head.
pub const HEADER_READ: Duration = Duration::from_secs(10);

/// Bytes of a request's head, and of the buffer that it is read into.
pub const HEAD_BYTES: usize = 16 * KIB;

/// Bytes of the WebSocket's read and write buffers, per session; both grow for a large message.
pub const SOCKET_BUFFER_BYTES: usize = 16 * KIB;

/// As [`SOCKET_BUFFER_BYTES`], for automerge-repo sessions: most of their messages are small, and each read
/// costs time proportional to the buffer's length.
pub const REPO_BUFFER_BYTES: usize = 4 * KIB;

/// Bytes of one WebSocket frame of a longer message: the write buffer never grows beyond two frames.
pub const FRAME_BYTES: usize = SOCKET_BUFFER_BYTES;

/// Bytes of a pong beside the payload that it echoes.
pub const CONTROL_FRAME_BYTES: usize = 2;

/// Bytes of pongs queued for a peer that does not read. Above it, the relay stops reading the peer's pings.
pub const PONGS_OWED_BYTES: usize = 64 * KIB;

/// Bytes of frames other than entries queued for a peer. Above it, the relay stops handling frames of the
/// peer's messages.
pub const OUTBOX_BYTES: usize = 64 * KIB;

/// How long a snapshot upload waits for its memory before the relay asks the client to try later.
pub const UPLOAD_WAIT: Duration = Duration::from_secs(20);

/// Least bytes counted for an upload in progress: its bookkeeping.
pub const LEAST_UPLOAD_BYTES: usize = 1_024;

/// How long a partial upload is kept after its connection closed. A client whose link broke reconnects
/// within seconds; a laptop closed for longer starts over. Uploads that need the memory may evict it
/// earlier.
pub const UPLOADS_KEPT: Duration = Duration::from_secs(600);

/// Longest interval between two searches for expired partial uploads.
pub const UPLOADS_LOOK: Duration = Duration::from_secs(10);

/// The shortest interval. See [`UPLOADS_LOOK`].
pub const UPLOADS_SOON: Duration = Duration::from_millis(100);

/// Estimated bytes of a single change that a merge reads.
pub const MERGED_CHANGE_BYTES: usize = KIB;

/// Bytes of a session's pushes that wait for their turn without reserved memory, since their messages were
/// small. Above it, the relay stops handling the session's frames.
pub const SMALL_PUSHES_BYTES: usize = 4 * SOCKET_BUFFER_BYTES;

/// Bytes of a session's queries that wait without reserved memory, since their messages were small: two
/// small messages. Above it, the relay stops handling the session's frames.
pub const SMALL_QUERY_BYTES: usize = 2 * SOCKET_BUFFER_BYTES;

/// Estimated bytes of one piece of an answer before it is read.
pub const ANSWER_BYTES: usize = 128 * KIB;

/// Bytes of a subscription in session, hub and `FanOut`, with its space's name and the senders remembered
/// for it.
pub const SUBSCRIPTION_BYTES: usize = 2_304;

/// Bytes of state that every session may hold, regardless of other sessions.
pub const LITTLE_STATE: usize = 8 * KIB;

/// Copies of a push in memory: as received, checked, and in its commit.
pub const PUSH_TIMES: usize = 3;

/// Step, in bytes, in which an automerge-repo session's state memory grows.
pub const STATE_STEP_BYTES: usize = 8 * KIB;

/// Bytes of each document of a filter: its id, once, since all users of a filter share it.
pub const FILTER_DOCUMENT_BYTES: usize = size_of::<landfall_protocol::DocumentId>();

/// Bytes that may wait in the WebSocket's write buffer: one message, and the pongs that gather behind it.
pub const SOCKET_BACKLOG_BYTES: usize = 2 * shared::MESSAGE_BYTES;

/// Bytes of small frames that are joined into one message.
pub const JOINED_BYTES: usize = 16 * KIB;

/// Frames other than entries queued for a peer that does not read, before the relay stops reading from it.
/// A client that respects its limit of pushes in flight cannot reach it.
pub const OUTBOX_FRAMES: usize = 1_024;

/// Attaches and pushes of one session that the hub has not answered.
pub const UNANSWERED: usize = 2 * shared::PUSHES_IN_FLIGHT;

/// How long a write may make no progress at all before the session is dropped.
pub const STALL: Duration = Duration::from_secs(60);

/// Bytes per second of the slowest supported link: a peer behind it answers a ping only after it has
/// received everything written before.
pub const SLOWEST_LINK: f64 = 32.0 * KIB as f64;

/// Longest grace that [`SLOWEST_LINK`] gives a peer: one that vanished is still detected.
pub const LONGEST_DELIVERY: Duration = Duration::from_secs(120);

/// How long an ending session may take to send its queued frames.
pub const FLUSH: Duration = Duration::from_secs(3);

/// How long, and for how many bytes, the relay keeps reading from a connection that it closed: closing a
/// socket with unread bytes resets it, and the peer would lose the close reason.
pub const LINGER: Duration = Duration::from_secs(1);

/// See [`LINGER`].
pub const LINGER_BYTES: u64 = 4 * shared::MESSAGE_BYTES as u64;

/// How long a shutdown may take, from the signal to the closed store.
pub const DRAIN: Duration = Duration::from_secs(10);

/// How long the relay waits for blocking calls in flight after it stopped serving.
pub const RUNTIME_END: Duration = Duration::from_secs(1);

/// How long a stopping relay waits for the answers to pushes in flight.
pub const ANSWER_GRACE: Duration = Duration::from_secs(4);

/// Pause of the accept loop after an error such as too many open files.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often an idle relay checks that its store's files are in place. It also checks around each commit;
/// so this bounds how long readers are served from files that are gone.
pub const LOOK_AT_FILES: Duration = Duration::from_secs(2);

/// How long a relay whose store takes no more writes (its files are gone, or an fsync failed) answers
/// `/readyz` and refuses pushes with the reason before it ends: time for a monitor to read it.
pub const STORE_ENDED_GRACE: Duration = Duration::from_secs(5);

/// How often the server checks whether the store has ended in this way.
pub const STORE_ENDED_LOOK: Duration = Duration::from_millis(500);

/// The pause before a task that panicked is restarted.
pub const TASK_PAUSE: Duration = Duration::from_secs(1);

/// Longest interval between two checks whether a scheduled backup is due, and the longest pause after a
/// failed one.
pub const BACKUP_LOOK: Duration = Duration::from_secs(600);

/// The pause after the first failed backup; each further failure doubles it.
pub const BACKUP_PAUSE: Duration = Duration::from_secs(10);

/// Address space of the child that verifies a copy of the store. It loads one document at a time and
/// inflates one change of it; the default of a compaction child is more than enough.
pub const VERIFY_MEMORY_BYTES: u64 = 1 << 30;

/// Damaged places of a store that are listed by name, some 200 bytes each: more than an operator reads. A
/// flag records that there are more.
pub const DAMAGED_PLACES: usize = 1_000;

/// Checksums of snapshot pieces in memory: of 16 GiB of snapshots, at some 12 bytes each. The snapshot that
/// came first is evicted first, and read again when a part of it is requested.
pub const SNAPSHOT_SUMS: usize = 65_536;

/// Digest buckets remembered as checked: those of 256 spaces. A bucket beyond them is summed again for each
/// query for an absent document.
pub const CHECKED_BUCKETS: usize = 65_536;

/// Damaged places that `/readyz` and refusals name; the log has all.
pub const DAMAGED_NAMED: usize = 10;

/// How often the relay looks for documents that reads found damaged.
pub const REPAIR_LOOK: Duration = Duration::from_secs(1);

/// Least time between two examinations of one damaged document, even if sessions come and go: an
/// examination may read all of it.
pub const REPAIR_LEAST: Duration = Duration::from_secs(1);

/// Pause between two reads of a document under examination: other readers run meanwhile.
pub const REPAIR_PAGE_PAUSE: Duration = Duration::from_millis(5);

/// Sessions that are asked for a damaged document at a time: one may be slow, and each may send all of it.
pub const REPAIR_SESSIONS: usize = 2;

/// How long a session may take to send what a repair asks for: a snapshot of the largest size over a link
/// of 1 MiB/s.
pub const REPAIR_ANSWER: Duration = Duration::from_secs(60);

/// First pause of a repair that found no session to ask. It doubles with each attempt up to
/// [`REPAIR_LONGEST`]; a new follower of the document ends it.
pub const REPAIR_PAUSE: Duration = Duration::from_secs(2);

/// See [`REPAIR_PAUSE`].
pub const REPAIR_LONGEST: Duration = Duration::from_secs(300);

/// Bytes of changes that one transaction repairs when they are extracted from a snapshot.
pub const REPAIR_BYTES: usize = shared::COMMIT_BYTES;

/// Missing changes of a document that are remembered while there is no session to ask: unrequested pushes
/// of them repair it too.
pub const REPAIR_KEPT: usize = 64;

/// Repair requests and notices queued for a session that does not read. The oldest is dropped from a full
/// queue; requests are repeated later.
pub const MAILBOX_REPAIRS: usize = 64;

/// How long the hub may process one command before `/readyz` reports it stuck: a hundred times the longest
/// command on a slow disk.
pub const HUB_STALLED: Duration = Duration::from_secs(5);

/// First pause before another compaction child is started after a failed start. It doubles with each
/// further failure, up to [`LONGEST_SPAWN_PAUSE`].
pub const SPAWN_PAUSE: Duration = Duration::from_secs(1);

/// See [`SPAWN_PAUSE`].
pub const LONGEST_SPAWN_PAUSE: Duration = Duration::from_secs(60);

/// When a client is asked to retry an upload for which no child could be started.
pub const SPAWN_RETRY: Duration = Duration::from_secs(5);

/// How long a failed read that is not damage counts against readiness: a monitor that asks every 30 s
/// notices a disk that fails now and then.
pub const READ_FAILURE_SHOWN: Duration = Duration::from_secs(60);

/// Interval between two probes of a store that failed.
pub const PROBE_EVERY: Duration = Duration::from_secs(2);

/// Bytes that a probe writes to the store: enough to make a file at its size limit grow.
pub const PROBE_BYTES: usize = 64 * KIB;

/// Concurrent children, each of at most [`COMPACTION_MEMORY_BYTES`]: with one, a slow document would delay
/// all others.
pub const CHILDREN: usize = 2;

/// Compactions in a row that are aborted because a client's merge waits for their thread or document. The
/// next one runs to its end: under endless merges, every fourth compaction completes.
pub const COMPACTION_YIELDS: usize = 3;

/// Client merges in a row after which the relay looks for its own compactions, although more merges wait.
pub const MERGES_IN_A_ROW: usize = 16;

/// Memory limit of a compaction child, in bytes.
pub const COMPACTION_MEMORY_BYTES: u64 = 1024 * MIB as u64;

/// Bytes of the changes of one snapshot that is split because it exceeds the size limit: they are in memory
/// once, when the relay starts.
pub const EXPAND_BYTES: usize = 512 * MIB;

/// How long a child may take for one compaction: fifty times the time for 260,000 changes.
pub const COMPACTION_TIME: Duration = Duration::from_secs(60);

/// Operations per byte of changes above which a document with few changes is not compacted. Typed text has
/// two to eight, compressed. Changes with more are cheap to push, and the cost of compacting them is out of
/// proportion to that.
pub const COMPACTION_OPERATIONS_IN_A_BYTE: u64 = 16;

/// How often the store is queried for a document worth compacting.
pub const COMPACTION_EVERY: Duration = Duration::from_secs(1);

/// How long a compaction waits for the hub before it is abandoned: the hub never takes that long, unless it
/// is gone.
pub const HUB_ANSWER: Duration = Duration::from_secs(10);

/// How far a stored time may lie in the future and still be valid: clocks are set back by seconds. A time
/// beyond it was written while the clock was wrong, and counts as long ago: waiting for it could take
/// years.
pub const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// Rows pruned in one transaction: commits wait for it.
pub const PRUNE_ROWS: usize = 150;

/// Deferred pushes of an address to one document, while its index is loaded or a snapshot is merged; of all
/// addresses together twice as many. Further pushes are answered with `StoreFailure::Busy`.
pub const DEFERRED_PUSHES: usize = 256;

/// Bytes of memory of those pushes. They may wait for a minute.
pub const DEFERRED_PUSH_BYTES: usize = PUSH_TIMES * 16 * MIB;

/// Entries queued for a session that has their documents open. Beyond it the session reads the store
/// instead.
pub const MAILBOX_ENTRIES: usize = 4_096;

/// Bytes of the commits that those entries keep in memory, shared by all sessions. A larger commit is read
/// from the store.
pub const MAILBOX_ENTRY_BYTES: usize = shared::COMMIT_BYTES;

/// Bytes of entries and ephemeral messages queued for a session without reserved memory.
pub const MAILBOX_FREE_BYTES: usize = 16 * KIB;

/// Bytes of ephemeral messages queued for a session. Beyond it the oldest are dropped: the next one says
/// where a cursor is now.
pub const MAILBOX_EPHEMERAL_BYTES: usize = 512 * KIB;

/// Bytes that an ephemeral message counts beside its content.
pub const EPHEMERAL_OVERHEAD_BYTES: usize = 128;

/// Bytes of ephemeral messages per second that a session may cause in the long run, counted once for the
/// sender and once for each recipient, with their overhead: 200 cursors a second for 100 recipients. Excess
/// messages are dropped: the next one says where a cursor is now.
pub const EPHEMERAL_RATE: u64 = 4 * MIB as u64;

/// Burst of [`EPHEMERAL_RATE`], in bytes.
pub const EPHEMERAL_BURST: u64 = 4 * MIB as u64;

/// As [`EPHEMERAL_RATE`], for all sessions of an address together: some tenth of a processor.
pub const SHARE_EPHEMERAL_RATE: u64 = 8 * EPHEMERAL_RATE;

/// As [`EPHEMERAL_BURST`], for all sessions of an address together.
pub const SHARE_EPHEMERAL_BURST: u64 = 8 * EPHEMERAL_BURST;

/// Bytes charged for testing a message against one subscription's filter.
pub const LISTENER_COST_BYTES: usize = 16;

/// Sender sessions whose last count is remembered, for each followed space. A message of a forgotten one
/// can be repeated once.
pub const EPHEMERAL_SOURCES: usize = 4_096;

/// Of those, for each session or subscription that follows something in the space: some 80 bytes each,
/// which [`SUBSCRIPTION_BYTES`] and [`OPEN_DOCUMENT_BYTES`](shared::OPEN_DOCUMENT_BYTES) include.
pub const EPHEMERAL_SOURCES_EACH: usize = 8;

/// How long the speed of a large message or upload is measured while others wait for its memory. One slower
/// than [`SLOWEST_LINK`] gives it up.
pub const LARGE_LOOK: Duration = Duration::from_secs(10);

/// How often a session that waits for its checks looks whether others need the memory that it holds.
pub const DEBT_LOOK: Duration = Duration::from_secs(1);

/// As [`LARGE_LOOK`], for an address above its fair part while others wait.
pub const PRESSED_LOOK: Duration = Duration::from_secs(2);

/// Bytes that may wait in the WebSocket's write buffer of an automerge-repo session: one message, with its
/// envelope.
pub const REPO_BACKLOG_BYTES: usize =
    shared::REPO_MESSAGE_BYTES + shared::SNAPSHOT_BYTES + shared::REPO_CHANGES_BYTES;

/// Messages queued for an automerge-repo peer that does not read, before the relay stops working for it.
/// Their bytes: [`REPO_OUTBOX_BYTES`].
pub const REPO_OUTBOX: usize = 256;

/// See [`REPO_OUTBOX`].
pub const REPO_OUTBOX_BYTES: usize = 256 * KIB;

/// Queued checks and pushes of an automerge-repo session, before the relay stops reading from it. Their
/// bytes, beside one message: [`REPO_PUSH_QUEUE_BYTES`].
pub const REPO_PUSH_QUEUE: usize = 256;

/// See [`REPO_PUSH_QUEUE`].
pub const REPO_PUSH_QUEUE_BYTES: usize = 4 * MIB;

/// Bytes of an automerge-repo session's unanswered queries (heads and filters), before the relay stops
/// reading from it.
pub const REPO_QUERY_BYTES: usize = 4 * MIB;

/// Queries of an automerge-repo session that are answered in one read, if they ask for their documents'
/// heads only: handing them over one by one costs a thread wake-up each.
pub const REPO_QUERIES: usize = 64;

/// Bytes that a query counts beside its hashes and filters.
pub const REPO_QUERY_OVERHEAD_BYTES: usize = 256;

/// Rejections of an automerge-repo session that are logged as warnings, one line each. The metrics count
/// all.
pub const REPO_REJECTIONS_LOGGED: u32 = 32;

/// The work of changes that are checked in one go; other sessions run in between.
pub const REPO_CHECK: Work = Work { operations: shared::CHANGE_OPERATIONS, bytes: 4 * MIB as u64 };

/// Attempts to plan an answer while compactions of its document invalidate the plans.
pub const REPO_PLANS: usize = 4;

/// Heads of documents in peers' storages that the whole relay remembers for other peers.
pub const REPO_REMOTE_HEADS: usize = 16_384;

/// Bytes of the remembered heads. Clients send theirs again whenever they connect.
pub const REPO_REMOTE_HEADS_BYTES: usize = 16 * MIB;

/// Bytes of the remote heads of one document in one storage: some fifty heads. A document with more is not
/// forwarded until its heads were joined.
pub const REPO_REMOTE_HEADS_EACH_BYTES: usize = 4 * KIB;

/// Remote heads queued for a session. When the queue is full, new ones are dropped: the next ones of the
/// storage replace them.
pub const REPO_REMOTE_HEADS_WAITING: usize = 256;

/// Their bytes.
pub const REPO_REMOTE_HEADS_WAITING_BYTES: usize = 64 * KIB;

/// Bytes of an automerge-repo session's close reason: the capacity of a WebSocket close frame.
pub const CLOSE_REASON_BYTES: usize = 120;

/// Changes of an answer up to which no memory is reserved.
pub const REPO_FEW_CHANGES: usize = 64;

/// Bytes of the files of one document that `import-repo` reads. Far more than a snapshot may have: a
/// child's memory runs out first.
pub const IMPORT_BYTES: u64 = 256 * MIB as u64;

/// Documents in one answer of the playground's list: some 80 KiB, read in one go.
pub const LISTED_DOCUMENTS: usize = 1_000;

/// Bytes in memory for each of them: as it is read, as a value of the answer, and in its text.
pub const LISTED_DOCUMENT_BYTES: usize = 1_024;

/// Least time between two events of the stream that notifies the playground of a log's growth: typing makes
/// a change for each letter, and each event makes a reader request the list.
pub const LIVE_PACE: Duration = Duration::from_millis(250);

/// Interval of keep-alive comments on such a stream: the same as for WebSockets.
pub const LIVE_SILENCE: Duration = Duration::from_secs(15);

/// How long before its connection would be cut ([`HTTP_LIFE`]) such a stream ends by itself.
pub const LIVE_MARGIN: Duration = Duration::from_secs(20);

const _: () = assert!(LIVE_MARGIN.as_secs() < HTTP_LIFE.as_secs());

/// Size from which an allocation is mapped separately and unmapped when freed: smaller ones are frequent,
/// and mapping costs microseconds.
pub const LARGE_ALLOCATION: i32 = 256 * 1024;

/// How often freed memory is returned to the operating system, if enough traffic went through the relay.
pub const TRIM_EVERY: Duration = Duration::from_secs(10);

/// Bytes read from and written to sessions after which memory is returned: rare enough to cost a busy relay
/// less than one per cent of its time.
pub const TRIM_BYTES: u64 = 64 * MIB as u64;

/// The same, once the traffic has ceased.
pub const TRIM_QUIET_BYTES: u64 = MIB as u64;

/// Bytes of log lines queued for standard error: some ten thousand lines. Beyond it lines are dropped and
/// counted, since no task waits for a log.
pub const LOG_QUEUE_BYTES: usize = 4 * MIB;

/// How long the exiting process waits for standard error to take the queued log lines, and then the error
/// line.
pub const LOG_FLUSH: Duration = Duration::from_secs(1);

/// How often a standard error that took no lines is retried while nothing is logged.
pub const LOG_RETRY: Duration = Duration::from_secs(5);

/// Bytes of an `Origin` or `Host` that are shown in an answer.
pub const SHOWN_HEADER_BYTES: usize = 200;

/// Clocks of issuers may differ from the relay's by this much: tokens are accepted so long before their
/// `nbf` and after their `exp`. Hosts that keep time by NTP differ by less than a second.
pub const TOKEN_LEEWAY: Duration = Duration::from_secs(60);

/// Least bytes of the shared secret of HS256, as RFC 7518 section 3.2 demands: those of its hash.
pub const SECRET_BYTES: usize = 32;

/// Keys of a file or of an issuer. Issuers publish two to ten.
pub const KEYS: usize = 64;

/// Bytes of such a file or answer. A key has some 500.
pub const KEYS_BYTES: u64 = 64 * KIB as u64;

/// Time for one fetch of an issuer's keys, configuration and keys together: the client waits for it, at most
/// [`shared::IDENTIFY`].
pub const ISSUER_FETCH: Duration = Duration::from_secs(4);

/// Least time between the beginnings of two such fetches, for the whole relay. Tokens with unknown key ids,
/// which every client can invent, cost the issuer no more than that.
pub const ISSUER_PACE: Duration = Duration::from_secs(30);

/// Age up to which an issuer's keys serve without a fetch: a key that the issuer withdrew is trusted for
/// that long.
pub const ISSUER_FRESH: Duration = Duration::from_secs(15 * 60);

/// Age up to which they serve while the issuer does not answer: long enough for a night's outage. Then no
/// token of the issuer is accepted until it answers.
pub const ISSUER_STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Keys that a token without a `kid` is tried with, some 50 µs each. More must differ in their `kid`.
pub const KEYS_TRIED: usize = 8;

/// Bytes of the access file, which is kept in memory and parsed in some milliseconds.
pub const ACCESS_BYTES: u64 = MIB as u64;

/// Rules of the access file, of all subjects together.
pub const ACCESS_RULES: usize = 8_192;

/// Bytes of the list of revoked tokens: some hundred thousand. A token that has expired need not be listed.
pub const REVOKED_BYTES: u64 = 4 * MIB as u64;

/// How often, at most, the files of keys, access and revoked tokens are looked at. A change of them takes
/// effect within this time.
pub const FILE_LOOK: Duration = Duration::from_secs(1);

/// Age of a file from which its modification time differs from that of a later version: coarser than the clocks of
/// all file systems.
pub const FILE_SETTLED: Duration = Duration::from_secs(3);

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

// Relations between the limits. A build that breaks one does not compile.
const _: () = assert!(shared::SUBSCRIPTIONS <= SUBSCRIPTIONS_OF_ADDRESS);
const _: () = assert!(SUBSCRIPTIONS_OF_ADDRESS < SUBSCRIPTIONS);
const _: () = assert!(shared::PUSHES_IN_FLIGHT <= UNANSWERED);
const _: () = assert!(2 * UNANSWERED <= OUTBOX_FRAMES);
const _: () = assert!(shared::MESSAGE_BYTES + SOCKET_BUFFER_BYTES < SOCKET_BACKLOG_BYTES);
const _: () = assert!(
    shared::EPHEMERAL_BYTES + 2 * shared::EPHEMERAL_NAME_BYTES + EPHEMERAL_OVERHEAD_BYTES
        <= MAILBOX_EPHEMERAL_BYTES
);
const _: () = assert!(TRIM_QUIET_BYTES < TRIM_BYTES);
const _: () = assert!(ISSUER_FETCH.as_millis() < shared::IDENTIFY.as_millis());
const _: () = assert!(ISSUER_PACE.as_secs() < ISSUER_FRESH.as_secs());
const _: () = assert!(ISSUER_FRESH.as_secs() < ISSUER_STALE.as_secs() && KEYS_TRIED <= KEYS);
const _: () = assert!(CONNECTIONS_OF_ADDRESS < CONNECTIONS);
const _: () = assert!(DIGEST_READS < PAGE_READS && DIGEST_ROWS as u64 <= DIGEST_RATE / 16);
const _: () = assert!(RESERVED_SLOTS_OF_ADDRESS < RESERVED_SLOTS);
const _: () = assert!(KEPT_LIFE.as_secs() < HTTP_LIFE.as_secs());
const _: () = assert!(CHECK_RATE <= CHECK_BURST && INLINE_CHECK.operations < CHECK_RATE / 256);
const _: () = assert!(DAMAGED_NAMED <= DAMAGED_PLACES);
const _: () = assert!(STORE_ENDED_LOOK.as_millis() < STORE_ENDED_GRACE.as_millis());
const _: () = assert!(JOINED_BYTES <= shared::MESSAGE_BYTES);
// Clients that use npm's `ws` take no more frames for one message.
const _: () = assert!(REPO_BACKLOG_BYTES / FRAME_BYTES <= 16_384);
const _: () =
    assert!(ANSWER_GRACE.as_millis() + FLUSH.as_millis() + LINGER.as_millis() < DRAIN.as_millis());
const _: () = assert!(LEAST_MEMORY <= MEMORY_BYTES);
// Each address has half of a lane at most.
const _: () = assert!(SMALL_RESERVATION <= LEAST_MEMORY / 16 * SMALL_SIXTEENTHS / 2);
const _: () = assert!(PRESSED_LOOK.as_secs() < LARGE_LOOK.as_secs());
// The largest message of either protocol and the memory derived from it fit beside small ones.
const _: () =
    assert!(2 * shared::REPO_MESSAGE_BYTES <= LEAST_MEMORY / 16 * (16 - 2 * SMALL_SIXTEENTHS));
const _: () = assert!(shared::SNAPSHOT_BYTES <= LEAST_MEMORY / 16 * MEMORY_SIXTEENTHS[2]);
