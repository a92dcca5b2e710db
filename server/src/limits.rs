//! The relay's own limits, each with its unit and its reason. What both ends must agree on stands
//! in `landfall_protocol::limits`.

use std::time::Duration;

use landfall_protocol::admission::Work;
use landfall_protocol::limits as shared;

/// Bytes that sessions may make the relay keep, together, unless the operator says otherwise. What the
/// process needs for itself (some 20 MiB, and 16 KiB a connection) and its children come on top.
pub const MEMORY_BYTES: usize = 256 * MIB;

/// The least of it: the largest message, decoded, beside small ones.
pub const LEAST_MEMORY: usize = 192 * MIB;

/// Sixteenths of the memory that each class may take: intake, pushes, uploads, answers, state.
pub const MEMORY_SIXTEENTHS: [usize; 5] = [12, 8, 8, 8, 4];

/// Sixteenths of the memory that are kept for small reservations, in each of two lanes: for messages that
/// arrive, and for all else.
pub const SMALL_SIXTEENTHS: usize = 1;

/// Bytes of a reservation that goes by the lane for small ones: honest typing never waits behind a
/// large document.
pub const SMALL_RESERVATION: usize = 256 * KIB;

/// Stalled messages and uploads of an address in [`STALL_REMEMBERED`] that count for nothing: links break.
/// Each further one makes it wait behind those that had fewer.
pub const STALLS_FORGIVEN: usize = 2;

/// See [`STALLS_FORGIVEN`]. Longer than six of those that stall take to be found out.
pub const STALL_REMEMBERED: Duration = Duration::from_secs(60);

/// Stalls of an address that are counted, and addresses whose stalls are remembered: some 1.5 MiB.
pub const STALLS_COUNTED: usize = 64;

/// See [`STALLS_COUNTED`].
pub const STALLS_REMEMBERED: usize = 1_024;

/// Sixteenths of the memory that caches may hold while no reservation needs it.
pub const CACHE_SIXTEENTHS: usize = 4;

/// Commands of sessions that wait for the hub: enough that it never idles, few enough that a
/// command waits milliseconds. Sessions beyond it wait with theirs.
pub const HUB_QUEUE: usize = 1_024;

/// Changes and actors that a push may name for the hub to look them up, some milliseconds. More are looked up
/// before it waits for the hub.
pub const HUB_LOOK_UPS: usize = 256;

/// Look-ups in one read of the store, some 30 ms: a longer one keeps the write-ahead log from being used again.
pub const LOOK_UPS: usize = 4_096;

/// Bytes that a push counts beside its changes: its answer, its place in queues and overlay.
pub const PUSH_OVERHEAD_BYTES: usize = 256;

/// The work of a preflight that is done on the session's own task: some half a millisecond, in which
/// other sessions of the same thread wait. Typing takes a hundredth of it.
pub const INLINE_CHECK: Work = Work { operations: 2_048, bytes: 32 * KIB as u64 };

/// Larger preflights that run at a time. Each may hold one change inflated.
pub const CHECKS: usize = 2;

/// Units of preflight work that a session may cause each second, over time: a fifth of a processor.
/// Histories of short changes go up at 150,000 changes a second.
pub const CHECK_RATE: u64 = 1 << 20;

/// Units of it that come at once: two of the heaviest pushes.
pub const CHECK_BURST: u64 = 2 * shared::PUSH_OPERATIONS;

/// As [`CHECK_RATE`], of all sessions of an address together: four fifths of a processor. Larger preflights
/// wait until it is paid for; smaller ones only once the address owes more than larger ones ever make it owe.
pub const SHARE_CHECK_RATE: u64 = 4 * CHECK_RATE;

/// See [`SHARE_CHECK_RATE`].
pub const SHARE_CHECK_BURST: u64 = 4 * CHECK_BURST;

/// What an address may owe before its smaller preflights wait too, in the time that it takes to pay for it:
/// twice what larger ones that run at a time make it owe.
pub const SHARE_CHECK_LENT: Duration =
    Duration::from_millis(2_000 * CHECKS as u64 * shared::PUSH_OPERATIONS / SHARE_CHECK_RATE);

/// Addresses of which it is remembered what they have used lately of a rate, some 1 MiB: twice as many as
/// there are connections, since what is used is mostly paid for within seconds.
pub const SHARES_REMEMBERED: usize = 2 * CONNECTIONS;

/// Store pages that are read at a time, and pooled read connections for them: more would only
/// wait for the same disk.
pub const PAGE_READS: usize = 2;

/// Bytes of SQLite's page cache, for each connection: the writer, the hub's, and the pooled
/// ones. The operating system caches the file as well.
pub const PAGE_CACHE_BYTES: u64 = 4 * MIB as u64;

/// Rows of documents that are summed in one read, some 10 ms: a longer read keeps others waiting, and the
/// write-ahead log from being used again.
pub const DIGEST_ROWS: usize = 8_192;

/// Rows that an address may have summed each second, over time: two fifths of a reader.
pub const DIGEST_RATE: u64 = 1 << 19;

/// Rows that it may have summed at once: walks over a million documents go on at full speed, some at a
/// time.
pub const DIGEST_BURST: u64 = 1 << 23;

/// Pages of digests that are read at a time: the other reader is there for what is sent.
pub const DIGEST_READS: usize = 1;

/// Write jobs in the store's queue. The hub has one commit of each space under way.
pub const STORE_QUEUE: usize = 1_024;

/// Connections at a time, HTTP and WebSocket together. One more is answered 503. An idle session
/// costs some 50 KiB; a file handle each is what runs out first.
pub const CONNECTIONS: usize = 4_096;

/// Connections of one address at a time: a quarter of [`CONNECTIONS`], so that no address locks others
/// out. Behind a proxy all clients have its address.
pub const CONNECTIONS_OF_ADDRESS: usize = CONNECTIONS / 4;

/// Connections beside [`CONNECTIONS`] that are answered at `/healthz`, `/readyz` and `/metrics` only, and
/// are closed after [`KEPT_LIFE`]: a monitor learns what is the matter while all places are taken.
pub const KEPT_PLACES: usize = 64;

/// Those of one address.
pub const KEPT_PLACES_OF_ADDRESS: usize = 8;

/// How long a connection in a kept place may live: a request and its answer.
pub const KEPT_LIFE: Duration = Duration::from_secs(10);

/// How long a connection that does not become a session may live, whatever it asks: a peer that
/// does not read its answer gives its place back. The largest answer takes a fourth of it on the
/// slowest link.
pub const HTTP_LIFE: Duration = Duration::from_secs(120);

/// Subscriptions of all sessions together, some 2 KiB each with a space of its own. What one session
/// may have is [`shared::SUBSCRIPTIONS`].
pub const SUBSCRIPTIONS: usize = 131_072;

/// Subscriptions of one address: a quarter, as of [`CONNECTIONS`].
pub const SUBSCRIPTIONS_OF_ADDRESS: usize = SUBSCRIPTIONS / 4;

/// How long a client may take to send a request's head.
pub const HEADER_READ: Duration = Duration::from_secs(10);

/// Bytes of a request's head, and of the buffer that it is read into.
pub const HEAD_BYTES: usize = 16 * KIB;

/// Bytes of the WebSocket's read and write buffers, per session; both grow for a large message.
pub const SOCKET_BUFFER_BYTES: usize = 16 * KIB;

/// The same, of an automerge-repo session: its messages are small, but for those that are large,
/// and every read of the buffer costs its whole length.
pub const REPO_BUFFER_BYTES: usize = 4 * KIB;

/// Bytes of a message that the relay writes in one frame: its buffer never grows beyond two of them.
pub const FRAME_BYTES: usize = SOCKET_BUFFER_BYTES;

/// Bytes of a pong beside what it repeats.
pub const CONTROL_FRAME_BYTES: usize = 2;

/// Bytes of pongs that wait for a peer that does not read, before its pings are not read either.
pub const PONGS_OWED_BYTES: usize = 64 * KIB;

/// Bytes of frames other than entries that wait for a peer, before the frames of its messages are not
/// handled any more.
pub const OUTBOX_BYTES: usize = 64 * KIB;

/// How long an offered snapshot waits for its memory before its client is asked to try later.
pub const OFFER_WAIT: Duration = Duration::from_secs(20);

/// Bytes that an offered snapshot counts at least while its parts arrive: what is kept beside them.
pub const LEAST_UPLOAD_BYTES: usize = 1_024;

/// How long what has arrived of a snapshot is kept for its sender to come back: who was cut connects again
/// within seconds, and a laptop that was closed for longer begins again. It gives way to others at any time.
pub const UPLOADS_KEPT: Duration = Duration::from_secs(600);

/// How often it is looked for those that nobody came back for, and how often at most.
pub const UPLOADS_LOOK: Duration = Duration::from_secs(10);

/// See [`UPLOADS_LOOK`].
pub const UPLOADS_SOON: Duration = Duration::from_millis(100);

/// Bytes that a single change is thought to have which a merge reads.
pub const MERGED_CHANGE_BYTES: usize = KIB;

/// Bytes in memory of a session's pushes that wait for their turn without memory of their own, since their
/// messages were small, before its next frames are not handled.
pub const SMALL_PUSHES_BYTES: usize = 4 * SOCKET_BUFFER_BYTES;

/// Bytes of a session's questions that wait without memory of their own, since their messages were small,
/// before its next frames are not handled: two small messages.
pub const SMALL_QUESTION_BYTES: usize = 2 * SOCKET_BUFFER_BYTES;

/// Bytes that a piece of an answer is thought to take before it is read.
pub const ANSWER_BYTES: usize = 128 * KIB;

/// Bytes that a subscription takes up in session, hub and rooms, with its space's name and the senders
/// that are remembered for it.
pub const SUBSCRIPTION_BYTES: usize = 2_304;

/// Bytes that each session may make the relay remember, whatever others do.
pub const LITTLE_STATE: usize = 8 * KIB;

/// Bytes in memory for each byte of a push: as it came, checked, and in its commit.
pub const PUSH_TIMES: usize = 3;

/// Steps in which the memory of what an automerge-repo session makes the relay remember grows.
pub const STATE_STEP_BYTES: usize = 8 * KIB;

/// Bytes that each document of a filter takes up: its id, once, since all who look at a filter share it.
pub const FILTER_DOCUMENT_BYTES: usize = size_of::<landfall_protocol::DocumentId>();

/// Bytes that may wait in the WebSocket's write buffer: one message, and the replies to pings
/// that gather behind it.
pub const SOCKET_BACKLOG_BYTES: usize = 2 * shared::MESSAGE_BYTES;

/// Bytes of small frames that are joined into one message.
pub const JOINED_BYTES: usize = 16 * KIB;

/// Frames other than entries that wait for a peer that does not read, before the relay stops
/// reading it in turn. More than a client can cause that keeps to its pushes in flight.
pub const OUTBOX_FRAMES: usize = 1_024;

/// Attaches and pushes of one session that the hub has not answered.
pub const UNANSWERED: usize = 2 * shared::PUSHES_IN_FLIGHT;

/// How long a write may make no progress at all before the session is dropped.
pub const STALL: Duration = Duration::from_secs(60);

/// Bytes per second of the slowest link that is allowed for: a peer behind it answers a ping only
/// once it has received what was written before.
pub const SLOWEST_LINK: f64 = 32.0 * KIB as f64;

/// How long a peer is excused by [`SLOWEST_LINK`] at most: one that vanished is still found.
pub const LONGEST_DELIVERY: Duration = Duration::from_secs(120);

/// How long a session that ends may take to send what it has to say.
pub const FLUSH: Duration = Duration::from_secs(3);

/// How long, and for how many bytes, a closed connection is read on: closing a socket with unread
/// bytes resets it, and the peer would lose the reason that it was just told.
pub const LINGER: Duration = Duration::from_secs(1);

/// See [`LINGER`].
pub const LINGER_BYTES: u64 = 4 * shared::MESSAGE_BYTES as u64;

/// How long a shutdown may take, from the signal to the closed store.
pub const DRAIN: Duration = Duration::from_secs(10);

/// How long blocking calls that are still under way are waited for after the end of serving.
pub const RUNTIME_END: Duration = Duration::from_secs(1);

/// How long the answers to pushes that are under way are waited for when the relay is stopped.
pub const ANSWER_GRACE: Duration = Duration::from_secs(4);

/// How long the accept loop rests after an error such as too many open files.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often an idle relay looks whether its store's files are where they were. It looks around
/// each commit anyway; so this is how long readers are served from files that are gone.
pub const LOOK_AT_FILES: Duration = Duration::from_secs(2);

/// How long a relay whose store takes no more writes, since its files are gone or an fsync failed,
/// answers `/readyz` and refuses pushes with the reason before it ends: time for a monitor to read
/// it.
pub const STORE_ENDED_GRACE: Duration = Duration::from_secs(5);

/// How often the server looks whether the store has ended so.
pub const STORE_ENDED_LOOK: Duration = Duration::from_millis(500);

/// The pause before a task that panicked begins anew.
pub const TASK_PAUSE: Duration = Duration::from_secs(1);

/// How often the server looks at least whether a scheduled backup is due, and the longest pause after
/// one that failed.
pub const BACKUP_LOOK: Duration = Duration::from_secs(600);

/// The pause after the first backup that failed; each further one doubles it.
pub const BACKUP_PAUSE: Duration = Duration::from_secs(10);

/// Address space of the child that verifies a copy of the store. It has one document at a time, of which
/// it inflates one change; what a child that folds may have by default is more than enough.
pub const VERIFY_MEMORY_BYTES: u64 = 1 << 30;

/// Damaged places of a store that are kept by name. More than an operator reads, and each some 200
/// bytes; that there are more is said.
pub const DAMAGED_PLACES: usize = 1_000;

/// Checksums of pieces of snapshots in memory: of 16 GiB of snapshots, at some 12 bytes each. The
/// snapshot that came first gives way, and is read once more when a part of it is wanted.
pub const SNAPSHOT_SUMS: usize = 65_536;

/// Buckets of digests that are remembered as checked: those of 256 spaces. A bucket beyond them is
/// summed with each question for a document that is absent.
pub const CHECKED_BUCKETS: usize = 65_536;

/// Damaged places that `/readyz` and refusals name; the log has all.
pub const DAMAGED_NAMED: usize = 10;

/// How often it is looked for documents that reads found damaged.
pub const HEAL_LOOK: Duration = Duration::from_secs(1);

/// The least time between two looks at one damaged document, whoever comes and goes: a look may read
/// all of it.
pub const HEAL_LEAST: Duration = Duration::from_secs(1);

/// The pause between two reads of a document that is examined: others read meanwhile.
pub const HEAL_PAGE_PAUSE: Duration = Duration::from_millis(5);

/// Sessions that are asked for a damaged document at a time: one may be slow, and each may send all of
/// it.
pub const HEAL_SESSIONS: usize = 2;

/// How long a session may take to bring what it is asked for: a snapshot of the largest size over a
/// link of 1 MiB/s.
pub const HEAL_ANSWER: Duration = Duration::from_secs(60);

/// How long a damaged document waits when nobody is there who could have it, at first and at most. The
/// time doubles with each look; whoever comes who follows the document ends it.
pub const HEAL_PAUSE: Duration = Duration::from_secs(2);

/// See [`HEAL_PAUSE`].
pub const HEAL_LONGEST: Duration = Duration::from_secs(300);

/// Bytes of changes that are put in the place of damaged ones in one transaction, when they are taken out
/// of a snapshot.
pub const MEND_BYTES: usize = shared::COMMIT_BYTES;

/// Lost changes of a document that are remembered while there is nobody to ask: what is pushed of them
/// unasked mends too.
pub const HEAL_KEPT: usize = 64;

/// Questions and news about damaged documents that wait for a session that does not read. One that
/// finds no room is asked again later.
pub const SEAT_MENDING: usize = 64;

/// How long the hub may be at one command before `/readyz` says that it is stuck: a hundred times
/// what the longest takes on a slow disk.
pub const HUB_STALLED: Duration = Duration::from_secs(5);

/// How long no child that folds is started after one could not be, at first and at most. The time
/// doubles with each further failure.
pub const SPAWN_PAUSE: Duration = Duration::from_secs(1);

/// See [`SPAWN_PAUSE`].
pub const LONGEST_SPAWN_PAUSE: Duration = Duration::from_secs(60);

/// When a client is to offer again what no child could be started for.
pub const SPAWN_RETRY: Duration = Duration::from_secs(5);

/// How long a failed read that is not damage counts against readiness: a disk that fails now and
/// then is seen by a monitor that asks each 30 s.
pub const READ_FAILURE_SHOWN: Duration = Duration::from_secs(60);

/// How often a store that failed is tried again.
pub const PROBE_EVERY: Duration = Duration::from_secs(2);

/// Bytes that a probe of the store writes: as much as makes a file that is at its limit grow.
pub const PROBE_BYTES: usize = 64 * KIB;

/// Children at a time, each at most [`FOLD_MEMORY_BYTES`]: with one, a slow document would keep all
/// others waiting.
pub const CHILDREN: usize = 2;

/// Folds in a row that are ended since a client's merge waits for their thread or their document. The
/// next one is not: with merges without end, every fourth fold comes to its own.
pub const FOLD_YIELDS: usize = 3;

/// Merges of what clients bring after which the relay looks for its own folds, although more wait.
pub const MERGES_IN_A_ROW: usize = 16;

/// Bytes of memory that a child which folds may have.
pub const FOLD_MEMORY_BYTES: u64 = 1024 * MIB as u64;

/// Bytes of the changes of one snapshot that is taken apart, since it exceeds what one may have:
/// they are held in memory once, when the relay starts.
pub const UNFOLD_BYTES: usize = 512 * MIB;

/// How long a child may take for one fold: fifty times what 260,000 changes take.
pub const FOLD_TIME: Duration = Duration::from_secs(60);

/// Operations that a byte of changes stands for at most, where few changes make a document worth a fold.
/// Text that people write has two to eight, compressed; what has more is cheap to send, and what it
/// would cost to fold is not what it cost to push.
pub const FOLD_OPERATIONS_IN_A_BYTE: u64 = 16;

/// How often the store is asked for a document that is worth a fold.
pub const FOLD_EVERY: Duration = Duration::from_secs(1);

/// How long a fold waits for the hub before it is given up: the hub never takes that long, unless
/// it is gone.
pub const HUB_ANSWER: Duration = Duration::from_secs(10);

/// How far beyond the clock a time in the store may be that still counts as one: clocks are set back
/// by seconds. Beyond it the time was written while the clock was wrong, and counts as long ago:
/// waiting for it could take years.
pub const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// Rows that are pruned in one transaction: commits wait for it.
pub const PRUNE_ROWS: usize = 150;

/// Pushes of an address to one document that wait while its index is loaded or an offered snapshot is
/// merged; of all twice as many. Beyond it they are given back.
pub const HELD_PUSHES: usize = 256;

/// Bytes of memory of those pushes: what they wait for may take a minute.
pub const HELD_BYTES: usize = PUSH_TIMES * 16 * MIB;

/// Entries that wait for a session that has their documents open. Beyond it the session reads the
/// store instead.
pub const SEAT_ENTRIES: usize = 4_096;

/// Bytes of the commits that those entries keep in memory, shared by all sessions. A larger commit
/// is read from the store.
pub const SEAT_ENTRY_BYTES: usize = shared::COMMIT_BYTES;

/// Bytes of both that wait for a session without memory of their own.
pub const SEAT_FREE_BYTES: usize = 16 * KIB;

/// Bytes of ephemeral messages that wait for a session. Beyond it the oldest are dropped: the next
/// one says where a cursor is now.
pub const SEAT_EPHEMERAL_BYTES: usize = 512 * KIB;

/// Bytes that an ephemeral message counts beside its content.
pub const EPHEMERAL_OVERHEAD_BYTES: usize = 128;

/// Bytes of ephemeral messages that a session may cause each second, over time, counted once for the
/// sender and once for each who hears it, with their overhead: 200 cursors a second for 100 listeners.
/// What exceeds it is dropped: the next one says where a cursor is now.
pub const EPHEMERAL_RATE: u64 = 4 * MIB as u64;

/// Bytes of them that may come at once.
pub const EPHEMERAL_BURST: u64 = 4 * MIB as u64;

/// As [`EPHEMERAL_RATE`], of all sessions of an address together, and at once: some tenth of a processor.
pub const SHARE_EPHEMERAL_RATE: u64 = 8 * EPHEMERAL_RATE;

/// See [`SHARE_EPHEMERAL_RATE`].
pub const SHARE_EPHEMERAL_BURST: u64 = 8 * EPHEMERAL_BURST;

/// Bytes that it costs to ask a subscription's filter whether it wants a message.
pub const LISTENER_COST_BYTES: usize = 16;

/// Senders' sessions whose last count is remembered, for each space that somebody follows. One that
/// is forgotten could be repeated once more.
pub const EPHEMERAL_SOURCES: usize = 4_096;

/// Of them, for each session or subscription that follows something in the space: some 80 bytes each, which
/// [`SUBSCRIPTION_BYTES`] and [`OPEN_DOCUMENT_BYTES`](shared::OPEN_DOCUMENT_BYTES) count.
pub const EPHEMERAL_SOURCES_EACH: usize = 8;

/// How long it is watched how fast a large message or upload comes whose memory others wait for. One
/// that comes slower than [`SLOWEST_LINK`] gives it up.
pub const LARGE_LOOK: Duration = Duration::from_secs(10);

/// How often a session that has to wait for its checks is asked whether others need the memory that it
/// holds meanwhile.
pub const DEBT_LOOK: Duration = Duration::from_secs(1);

/// As [`LARGE_LOOK`], of an address that has more than its part while others wait.
pub const PRESSED_LOOK: Duration = Duration::from_secs(2);

/// Bytes that may wait in the WebSocket's write buffer of an automerge-repo session: one message,
/// with its envelope.
pub const REPO_BACKLOG_BYTES: usize =
    shared::REPO_MESSAGE_BYTES + shared::SNAPSHOT_BYTES + shared::REPO_CHANGES_BYTES;

/// Messages that wait for an automerge-repo peer that does not read, before nothing more is done
/// for it; and their bytes.
pub const REPO_OUTBOX: usize = 256;

/// See [`REPO_OUTBOX`].
pub const REPO_OUTBOX_BYTES: usize = 256 * KIB;

/// Checks and pushes of an automerge-repo session that wait, before the relay stops reading it;
/// and their bytes, beside one message.
pub const REPO_INTAKE: usize = 256;

/// See [`REPO_INTAKE`].
pub const REPO_INTAKE_BYTES: usize = 4 * MIB;

/// Bytes of an automerge-repo session's questions that wait for their answers (heads and filters),
/// before the relay stops reading it.
pub const REPO_QUESTION_BYTES: usize = 4 * MIB;

/// Questions of an automerge-repo session that are answered in one go, if where their documents
/// stand is all that is asked: handing them over one by one costs a thread's waking for each.
pub const REPO_QUESTIONS: usize = 64;

/// Bytes that a question counts beside its hashes and filters.
pub const REPO_QUESTION_OVERHEAD_BYTES: usize = 256;

/// Refused changes of an automerge-repo session that are told in the log, each with a line. The
/// metrics count the others.
pub const REPO_REFUSALS_TOLD: u32 = 32;

/// The work of changes that are checked in one go; others have their turn in between.
pub const REPO_CHECK: Work = Work { operations: shared::CHANGE_OPERATIONS, bytes: 4 * MIB as u64 };

/// How often an answer is planned again because the document was folded meanwhile.
pub const REPO_PLANS: usize = 4;

/// Heads of documents in peers' storages that are remembered for others, in the whole relay.
pub const REPO_GOSSIP: usize = 16_384;

/// Bytes that they take up. Others are told anew whenever a client connects.
pub const REPO_GOSSIP_BYTES: usize = 16 * MIB;

/// Bytes of such news of one document in one storage: some fifty heads. A document with more is
/// not told of until its heads were joined.
pub const REPO_GOSSIP_NEWS_BYTES: usize = 4 * KIB;

/// Such news that wait for a session. What finds no room is lost: the next says the same.
pub const REPO_GOSSIP_WAITING: usize = 256;

/// Their bytes.
pub const REPO_GOSSIP_WAITING_BYTES: usize = 64 * KIB;

/// Bytes of the reason with which an automerge-repo session is closed: what a WebSocket's close holds.
pub const CLOSE_REASON_BYTES: usize = 120;

/// Changes of an answer up to which no room is asked for.
pub const REPO_FEW_CHANGES: usize = 64;

/// Bytes of the files of one document that `import-repo` takes. Far more than a snapshot may have:
/// a child's memory is what ends first.
pub const IMPORT_BYTES: u64 = 256 * MIB as u64;

/// Documents in one answer of the playground's list: some 80 KiB, read in one go.
pub const LISTED_DOCUMENTS: usize = 1_000;

/// Bytes in memory for each of them: as it is read, as a value of the answer, and in its text.
pub const LISTED_DOCUMENT_BYTES: usize = 1_024;

/// The least time between two words of a stream that tells the playground that a log has grown: who
/// types makes a change for each letter, and whoever hears it asks for the list.
pub const LIVE_PACE: Duration = Duration::from_millis(250);

/// How long such a stream is silent before it says nothing: as long as WebSockets are.
pub const LIVE_SILENCE: Duration = Duration::from_secs(15);

/// How long before its connection would be cut ([`HTTP_LIFE`]) such a stream ends by itself.
pub const LIVE_MARGIN: Duration = Duration::from_secs(20);

const _: () = assert!(LIVE_MARGIN.as_secs() < HTTP_LIFE.as_secs());

/// Bytes of an allocation from which it is mapped by itself, and unmapped when it is freed: smaller
/// ones are frequent, and mapping costs microseconds.
pub const LARGE_ALLOCATION: i32 = 256 * 1024;

/// How often freed memory is given back to the operating system, if enough went through the relay.
pub const TRIM_EVERY: Duration = Duration::from_secs(10);

/// Bytes read from and written to sessions after which that is due: rarely enough to cost a busy
/// relay below one in a hundred of its time.
pub const TRIM_BYTES: u64 = 64 * MIB as u64;

/// The same, once nothing more comes.
pub const TRIM_QUIET_BYTES: u64 = MIB as u64;

/// Bytes of log lines that wait for standard error: some ten thousand lines. Beyond it lines are lost
/// and counted, since nothing waits for a log.
pub const LOG_QUEUE_BYTES: usize = 4 * MIB;

/// How long the end of the process waits for standard error to take what was logged; and the error
/// line after it.
pub const LOG_FLUSH: Duration = Duration::from_secs(1);

/// How often a standard error that took no lines is tried again while nothing is logged.
pub const LOG_RETRY: Duration = Duration::from_secs(5);

/// Bytes of an `Origin` or `Host` that are shown in an answer.
pub const SHOWN_HEADER_BYTES: usize = 200;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

// How the limits relate. A build that breaks one of these does not compile.
const _: () = assert!(shared::SUBSCRIPTIONS <= SUBSCRIPTIONS_OF_ADDRESS);
const _: () = assert!(SUBSCRIPTIONS_OF_ADDRESS < SUBSCRIPTIONS);
const _: () = assert!(shared::PUSHES_IN_FLIGHT <= UNANSWERED);
const _: () = assert!(2 * UNANSWERED <= OUTBOX_FRAMES);
const _: () = assert!(shared::MESSAGE_BYTES + SOCKET_BUFFER_BYTES < SOCKET_BACKLOG_BYTES);
const _: () = assert!(
    shared::EPHEMERAL_BYTES + 2 * shared::EPHEMERAL_NAME_BYTES + EPHEMERAL_OVERHEAD_BYTES
        <= SEAT_EPHEMERAL_BYTES
);
const _: () = assert!(TRIM_QUIET_BYTES < TRIM_BYTES);
const _: () = assert!(CONNECTIONS_OF_ADDRESS < CONNECTIONS);
const _: () = assert!(DIGEST_READS < PAGE_READS && DIGEST_ROWS as u64 <= DIGEST_RATE / 16);
const _: () = assert!(KEPT_PLACES_OF_ADDRESS < KEPT_PLACES);
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
// The largest message of either protocol and what is made of it fit beside small ones.
const _: () =
    assert!(2 * shared::REPO_MESSAGE_BYTES <= LEAST_MEMORY / 16 * (16 - 2 * SMALL_SIXTEENTHS));
const _: () = assert!(shared::SNAPSHOT_BYTES <= LEAST_MEMORY / 16 * MEMORY_SIXTEENTHS[2]);
