//! The relay requests a damaged change from the clients that follow its document; their copy replaces it, and
//! wrong pushes do not.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use landfall_protocol::frame::{
    Ack, Entry, Features, Filter, Frame, Resend, Resent, Subscribe, entry_kind, features,
};
use landfall_protocol::{Code, DocumentId};
use landfall_relay::CompactionOptions;
use landfall_relay::store::CompactionWindow;

use crate::harness::{Author, Client, Relay, SPACE, damage, soon};

/// A stopped relay's folder with documents 1 and 2, of ten changes each.
async fn filled() -> (tempfile::TempDir, Vec<Author>, Vec<Vec<Vec<u8>>>) {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut client = Client::at_start(&relay).await;
    let mut authors: Vec<Author> = (1..=2).map(Author::new).collect();
    let mut made = Vec::new();
    for author in &mut authors {
        let changes = author.large_changes(10, 2_000);
        let push = client.push(author.document, &changes).await;
        client.acked(push).await;
        made.push(changes);
    }
    drop(client);
    relay.stop().await.unwrap();
    (folder, authors, made)
}

/// A bit of a change flips: SQLite does not detect it.
fn flip(data: &Path, offset: u64) {
    let which = format!("\"offset\" = {offset}");
    assert_eq!(damage(data, ("entry", "body"), 901, &which), 1);
}

/// A client that supports `Resend`, at the start of the space.
async fn knowing(relay: &Relay, filter: Filter) -> Client {
    let mut client = Client::hello(relay).await;
    client.send(&Frame::Features(Features { bits: features::ALL })).await;
    let (subscription, space) = (1, SPACE.parse().unwrap());
    let (cursor, acknowledged) = (None, None);
    let subscribe = Subscribe { subscription, space, filter, cursor, acknowledged };
    client.send(&Frame::Subscribe(subscribe)).await;
    client
}

/// Receives frames until a wanted one.
async fn until<T>(client: &mut Client, wanted: impl Fn(Frame) -> Option<T>) -> T {
    // One timeout for all: the relay's pings would restart a timeout per frame.
    soon(async {
        loop {
            if let Some(found) = wanted(client.frame().await) {
                return found;
            }
        }
    })
    .await
}

async fn asked(client: &mut Client) -> Resend {
    until(client, |frame| match frame {
        Frame::Resend(asked) => Some(asked),
        _ => None,
    })
    .await
}

async fn acked(client: &mut Client, push: u64) -> Ack {
    until(client, |frame| match frame {
        Frame::Ack(ack) if ack.id == push => Some(ack),
        Frame::Nack(nack) => panic!("{nack:?}"),
        _ => None,
    })
    .await
}

async fn nacked(client: &mut Client, push: u64) -> Code {
    until(client, |frame| match frame {
        Frame::Nack(nack) if nack.id == push => Some(nack.code),
        Frame::Ack(ack) => panic!("{ack:?}"),
        _ => None,
    })
    .await
}

async fn repaired(client: &mut Client) -> DocumentId {
    until(client, |frame| match frame {
        Frame::Repaired(repaired) => Some(repaired.document),
        _ => None,
    })
    .await
}

async fn resent(client: &mut Client, document: DocumentId, count: u32) {
    client.send(&Frame::Resent(Resent { subscription: 1, document, count })).await;
}

/// Whether the relay sends nothing about damage until it answers a ping.
async fn hears_nothing(client: &mut Client) -> bool {
    client.send(&Frame::Ping(77)).await;
    until(client, |frame| match frame {
        Frame::Pong(77) => Some(true),
        Frame::Resend(_) | Frame::Repaired(_) => Some(false),
        _ => None,
    })
    .await
}

/// All entries of the space that a new client receives.
async fn sent(relay: &Relay) -> Vec<Entry> {
    sent_of(relay, 20).await
}

async fn sent_of(relay: &Relay, count: usize) -> Vec<Entry> {
    let mut client = Client::at_start(relay).await;
    client.entries(count).await
}

#[tokio::test]
async fn a_damaged_change_is_requested_and_replaced_in_place() {
    let (folder, authors, made) = filled().await;
    let relay = Relay::start(&folder).await;
    let whole = sent(&relay).await;
    relay.stop().await.unwrap();
    flip(folder.path(), 14);
    let relay = Relay::start(&folder).await;
    // A client that has none of it meets the damage, is asked, and answers that it has none.
    let mut reader = knowing(&relay, Filter::Everything).await;
    let lost = asked(&mut reader).await;
    let document = authors[1].document;
    let expected = Resend { subscription: 1, document, changes: vec![whole[13].id] };
    assert_eq!(lost, expected);
    assert_eq!(relay.get("/readyz").await.0, 503);
    resent(&mut reader, document, 0).await;
    // A client that follows other documents is not asked, nor one without the feature.
    let mut other = knowing(&relay, Filter::of_documents([authors[0].document])).await;
    let mut older = Client::at_start(&relay).await;
    assert_eq!(older.entries(20).await[13], Entry::of_damage(whole[13].offset, Some(document)));
    // The author is asked as soon as it connects.
    let mut author = knowing(&relay, Filter::Everything).await;
    assert_eq!(asked(&mut author).await, expected);
    let push = author.push(document, &made[1][3..4]).await;
    assert_eq!(acked(&mut author, push).await.count, 1);
    resent(&mut author, document, 1).await;
    assert_eq!(repaired(&mut author).await, document);
    assert_eq!(repaired(&mut reader).await, document);
    assert!(hears_nothing(&mut other).await && hears_nothing(&mut older).await);
    assert_eq!(relay.get("/readyz").await.0, 200);
    assert_eq!(relay.metric("landfall_relay_repaired_documents_total").await, 1.0);
    assert_eq!(sent(&relay).await, whole, "the same offsets, hashes and bytes");
    relay.stop().await.unwrap();
    let relay = Relay::start(&folder).await;
    assert_eq!(sent(&relay).await, whole);
    assert_eq!(relay.get("/readyz").await.0, 200);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_without_the_data_is_not_asked_again() {
    let (folder, authors, _) = filled().await;
    flip(folder.path(), 14);
    let relay = Relay::start(&folder).await;
    let document = authors[1].document;
    let mut first = knowing(&relay, Filter::Everything).await;
    asked(&mut first).await;
    resent(&mut first, document, 0).await;
    // When another one connects, the relay asks that one only.
    let mut second = knowing(&relay, Filter::Everything).await;
    asked(&mut second).await;
    resent(&mut second, document, 0).await;
    let mut third = knowing(&relay, Filter::Everything).await;
    asked(&mut third).await;
    assert!(hears_nothing(&mut first).await && hears_nothing(&mut second).await);
    let (status, body) = relay.get("/readyz").await;
    assert!(status == 503 && body.contains("asks clients for the data"), "{body}");
    let damage = sent(&relay).await.into_iter().filter(|entry| entry.kind == entry_kind::DAMAGED);
    assert_eq!(damage.count(), 1);
    relay.stop().await.unwrap();
}

/// No wrong answer to a request changes the log.
#[tokio::test]
async fn a_wrong_answer_repairs_nothing_and_affects_only_its_client() {
    let (folder, mut authors, made) = filled().await;
    let relay = Relay::start(&folder).await;
    let whole = sent(&relay).await;
    relay.stop().await.unwrap();
    flip(folder.path(), 14);
    let relay = Relay::start(&folder).await;
    let document = authors[1].document;
    let mut hostile = knowing(&relay, Filter::Everything).await;
    asked(&mut hostile).await;
    let mut flipped = made[1][3].clone();
    *flipped.last_mut().unwrap() ^= 1;
    let push = hostile.push(document, &[flipped]).await;
    assert_eq!(nacked(&mut hostile, push).await, Code::FORM);
    // Changes of another document.
    let push = hostile.push(document, &made[0][3..4]).await;
    assert_eq!(nacked(&mut hostile, push).await, Code::SEQUENCE_GAP);
    let push = hostile.push(authors[0].document, &made[1][3..4]).await;
    assert_eq!(nacked(&mut hostile, push).await, Code::SEQUENCE_GAP);
    // Changes that are there and whole, as if they were the answer.
    let push = hostile.push(document, &made[1][4..6]).await;
    assert_eq!(acked(&mut hostile, push).await.count, 2);
    resent(&mut hostile, document, 1_000).await;
    assert_eq!(relay.get("/readyz").await.0, 503);
    let damaged = sent(&relay).await;
    for (at, entry) in damaged.iter().enumerate().filter(|(at, _)| *at != 13) {
        assert_eq!(*entry, whole[at]);
    }
    assert_eq!(damaged[13], Entry::of_damage(whole[13].offset, Some(document)));
    // All other clients continue, and an honest one repairs it.
    let mut honest = knowing(&relay, Filter::Everything).await;
    asked(&mut honest).await;
    let push = honest.push(authors[0].document, &authors[0].changes(1)).await;
    acked(&mut honest, push).await;
    let push = honest.push(document, &made[1]).await;
    assert_eq!(acked(&mut honest, push).await.count, 10);
    assert_eq!(repaired(&mut honest).await, document);
    assert_eq!(sent_of(&relay, 21).await[..20], whole);
    relay.stop().await.unwrap();
}

/// An engine sends a window of the requested changes.
#[tokio::test]
async fn a_client_that_sends_a_part_is_asked_for_the_rest() {
    let (folder, authors, made) = filled().await;
    flip(folder.path(), 14);
    flip(folder.path(), 15);
    let relay = Relay::start(&folder).await;
    let document = authors[1].document;
    let mut author = knowing(&relay, Filter::Everything).await;
    assert_eq!(asked(&mut author).await.changes.len(), 2);
    let push = author.push(document, &made[1][3..4]).await;
    assert_eq!(acked(&mut author, push).await.count, 1);
    resent(&mut author, document, 1).await;
    assert_eq!(asked(&mut author).await.changes.len(), 1);
    relay.stop().await.unwrap();
}

/// Each feature is independent (docs/protocol.md, Features).
#[tokio::test]
async fn a_client_with_resend_but_without_ephemeral_messages_is_asked() {
    let (folder, _, _) = filled().await;
    flip(folder.path(), 14);
    let relay = Relay::start(&folder).await;
    let mut client = Client::hello(&relay).await;
    client.send(&Frame::Features(Features { bits: features::ALL & !features::EPHEMERAL })).await;
    client.subscribe(1, SPACE, None, None).await;
    asked(&mut client).await;
    relay.stop().await.unwrap();
}

/// More changes are damaged than one request names or the repair remembers, and none was examined yet.
#[tokio::test]
async fn acknowledged_changes_of_a_damaged_document_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut client = Client::at_start(&relay).await;
    let mut author = Author::new(1);
    let made = author.large_changes(70, 2_000);
    let push = client.push(author.document, &made).await;
    client.acked(push).await;
    drop(client);
    relay.stop().await.unwrap();
    (1..=70).for_each(|offset| flip(folder.path(), offset));
    let relay = Relay::start(&folder).await;
    // A client without the feature: it meets the damage, and the relay records it.
    let mut older = Client::at_start(&relay).await;
    assert!(older.entries(70).await.iter().all(|entry| entry.kind == entry_kind::DAMAGED));
    assert_eq!(relay.get("/readyz").await.0, 503);
    let push = older.push(author.document, &made).await;
    assert_eq!(older.acked(push).await.count, 70);
    let found = sent_of(&relay, 70).await;
    let damaged = found.iter().filter(|entry| entry.kind == entry_kind::DAMAGED).count();
    assert_eq!(damaged, 0, "some of the 70 acknowledged changes are damaged");
    relay.stop().await.unwrap();
}

/// Compacts at once, with the worker of the relay's own program.
fn compactions(window: CompactionWindow) -> CompactionOptions {
    let worker = [env!("CARGO_BIN_EXE_landfall-relay"), landfall_relay::cli::COMPACT_WORKER];
    let (worker, every) = (Some(worker.map(Into::into).to_vec()), Duration::from_millis(10));
    CompactionOptions { worker, window, every, ..CompactionOptions::default() }
}

/// Changes covered by a damaged snapshot are pushed again, one by one. They are not acknowledged, whether or
/// not the snapshot was examined yet; new changes are accepted.
#[tokio::test]
async fn changes_of_a_damaged_snapshot_are_not_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let relay =
        Relay::start_with(&folder, |o| o.compactions = compactions(CompactionWindow::NONE)).await;
    let mut client = Client::at_start(&relay).await;
    let mut author = Author::new(1);
    let mut made = Vec::new();
    for _ in 0..3 {
        made = author.changes(100);
        let push = client.push(author.document, &made).await;
        client.acked(push).await;
    }
    let compacted = "landfall_relay_compactions_total{outcome=\"compacted\"}";
    relay.until_metric(compacted, |count| count >= 1.0).await;
    drop(client);
    relay.stop().await.unwrap();
    assert!(damage(folder.path(), ("snapshot_piece", "bytes"), 91, "true") > 0);
    let relay = Relay::start(&folder).await;
    let mut reader = Client::at_start(&relay).await;
    assert_eq!(reader.entries(1).await[0].kind, entry_kind::DAMAGED);
    let mut writer = knowing(&relay, Filter::Everything).await;
    let push = writer.push(author.document, &made).await;
    assert_eq!(nacked(&mut writer, push).await, Code::OVERLOADED);
    let asked = asked(&mut knowing(&relay, Filter::Everything).await).await;
    assert_eq!(
        (asked.document, asked.changes.len()),
        (author.document, 0),
        "the document was examined"
    );
    let push = writer.push(author.document, &made[..1]).await;
    assert_eq!(nacked(&mut writer, push).await, Code::OVERLOADED);
    let push = writer.push(author.document, &author.changes(1)).await;
    assert_eq!(acked(&mut writer, push).await.count, 1);
    relay.stop().await.unwrap();
}

/// A flag of a row flips, and reads meet it. The relay reports correctly whether the document can be read.
#[tokio::test]
async fn a_document_that_reads_find_damaged_is_not_reported_repaired() {
    let (folder, _, _) = filled().await;
    let conn = rusqlite::Connection::open(folder.path().join("relay.db")).unwrap();
    conn.execute("UPDATE entry SET flags = 64 WHERE \"offset\" = 14", []).unwrap();
    drop(conn);
    let relay = Relay::start(&folder).await;
    let damage = sent(&relay).await.into_iter().filter(|e| e.kind == entry_kind::DAMAGED);
    assert_eq!(damage.count(), 1);
    // sleep: no event reports an examination that finds damage no client can repair; it happens within two
    // seconds
    tokio::time::sleep(Duration::from_secs(3)).await;
    let repaired = relay.metric("landfall_relay_repaired_documents_total").await;
    assert_eq!((relay.get("/readyz").await.0, repaired), (503, 0.0), "no client has repaired it");
    relay.stop().await.unwrap();
}

/// The two ways in which such a client pushes: changes, and the whole document, as the JavaScript client
/// sends it.
async fn of_a_repo_client(whole: bool) {
    use crate::automerge_repo_client::{Replica, RepoClient};
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut hers = Replica::made(1, 1);
    for number in 0..10 {
        hers.put("text", &format!("{number} {}", "x".repeat(2_000)));
    }
    let (alice, hers) = RepoClient::with(&relay, "/spaces/notes", "alice", hers).await;
    drop(alice);
    relay.stop().await.unwrap();
    assert_eq!(damage(folder.path(), ("entry", "body"), 91, "\"offset\" = 4"), 1);
    let compactions = compactions(CompactionOptions::default().window);
    let relay = Relay::start_with(&folder, |options| options.compactions = compactions).await;
    let mut reader = knowing(&relay, Filter::Everything).await;
    // It is examined, and this client has none of it.
    let lost = asked(&mut reader).await;
    resent(&mut reader, lost.document, 0).await;
    assert_eq!(lost.changes.len(), 1);
    let mut alice = RepoClient::join(&relay, "/spaces/notes", "alice").await;
    if whole {
        let mut doc = automerge::AutoCommit::load(&hers.doc.save()).unwrap();
        alice.say_whole(hers.id, &mut doc).await;
    } else {
        let data = {
            use automerge::sync::{Message, MessageVersion};
            let changes = hers.doc.get_changes(&[]);
            let changes: Vec<Vec<u8>> = changes.iter().map(|c| c.raw_bytes().to_vec()).collect();
            let (need, have, flags) = (Vec::new(), Vec::new(), None);
            let (heads, version) = (hers.doc.get_heads(), MessageVersion::V1);
            Message { heads, need, have, changes: changes.into(), flags, version }.encode()
        };
        alice.say_sync(hers.id, &data).await;
    }
    assert_eq!(repaired(&mut reader).await, hers.id);
    relay.stop().await.unwrap();
}

#[tokio::test]
async fn changes_of_an_automerge_repo_client_repair_a_document() {
    of_a_repo_client(false).await;
}

#[tokio::test]
async fn a_whole_document_of_an_automerge_repo_client_repairs_it() {
    of_a_repo_client(true).await;
}

/// A client that has the document is asked for all of it, in its own protocol; one that waits for the
/// document receives it after the repair; one that has none of it is not asked.
#[tokio::test]
async fn an_automerge_repo_client_is_asked_for_damaged_data() {
    use crate::automerge_repo_client::{Replica, RepoClient};
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut hers = Replica::made(1, 1);
    for number in 0..10 {
        hers.put("text", &format!("{number} {}", "x".repeat(2_000)));
    }
    let (alice, mut hers) = RepoClient::with(&relay, "/spaces/notes", "alice", hers).await;
    drop(alice);
    relay.stop().await.unwrap();
    assert_eq!(damage(folder.path(), ("entry", "body"), 91, "\"offset\" = 4"), 1);
    let relay = Relay::start(&folder).await;
    let mut alice = RepoClient::join(&relay, "/spaces/notes", "alice").await;
    hers.forget();
    alice.send(&mut hers).await;
    alice.settle(&mut hers).await;
    let mut bob = RepoClient::join(&relay, "/spaces/notes", "bob").await;
    let mut his = Replica::empty(1);
    bob.send(&mut his).await;
    bob.unavailable(his.id).await;
    assert_eq!(alice.receive(&mut hers).await, [], "the relay asks her without heads of its own");
    alice.settle(&mut hers).await;
    bob.until(&mut his, &hers.heads()).await;
    relay.until_metric("landfall_relay_repaired_documents_total", |count| count == 1.0).await;
    assert_eq!(relay.get("/readyz").await.0, 200);
    relay.stop().await.unwrap();
}

/// The replacement of damaged bytes panics, on a thread of the pool: the push is rejected for now.
#[tokio::test(flavor = "multi_thread")]
async fn a_deferred_push_is_answered_even_if_its_repair_panics() {
    let (folder, authors, made) = filled().await;
    flip(folder.path(), 14);
    let (relay, double) = crate::double::Double::serve(&folder, |_| {}).await;
    let document = authors[1].document;
    let mut author = knowing(&relay, Filter::Everything).await;
    asked(&mut author).await;
    double.repair_panics.store(true, Ordering::Relaxed);
    let push = author.push(document, &made[1][3..4]).await;
    assert_eq!(nacked(&mut author, push).await, Code::STORAGE_FAILED);
    // It is retried, and so are the other deferred pushes.
    double.repair_panics.store(false, Ordering::Relaxed);
    let push = author.push(document, &made[1][3..4]).await;
    assert_eq!(acked(&mut author, push).await.count, 1);
    relay.stop().await.unwrap();
}
