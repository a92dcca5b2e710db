//! Damaged pages of the store's file: the relay reports where, serves what it can read, and names the remedy.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use landfall_protocol::frame::{Entry, Filter, Frame, Subscribe, entry_kind};
use landfall_protocol::{Code, NackClass};
use landfall_relay::store::Inspection;

use crate::automerge_repo_client::{Replica, RepoClient, shown};
use crate::harness::{Author, Client, Relay, SPACE};

/// The pages of a table or an index, in order; the first is its root.
fn pages(data: &Path, of: &str) -> Vec<u64> {
    let conn = rusqlite::Connection::open(data.join("relay.db")).unwrap();
    let mut find = conn.prepare("SELECT pageno FROM dbstat WHERE name = ?1 ORDER BY path").unwrap();
    let pages = find.query_map([of], |row| row.get::<_, i64>(0)).unwrap();
    pages.map(|page| page.unwrap() as u64).collect()
}

/// Overwrites the start of a page, so that SQLite cannot read it.
fn damage(data: &Path, page: u64) {
    let mut file = fs::File::options().write(true).open(data.join("relay.db")).unwrap();
    file.seek(SeekFrom::Start((page - 1) * 4096)).unwrap();
    file.write_all(&[0xff; 100]).unwrap();
}

/// A stopped relay's folder with documents 1 to 3, each of many pages.
async fn filled() -> (tempfile::TempDir, Vec<Author>) {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut client = Client::at_start(&relay).await;
    let mut authors: Vec<Author> = (1..=3).map(Author::new).collect();
    for author in &mut authors {
        let push = client.push(author.document, &author.large_changes(20, 2_000)).await;
        client.acked(push).await;
    }
    drop(client);
    relay.stop().await.unwrap();
    (folder, authors)
}

/// The page in the middle of the table belongs to the second document.
#[tokio::test]
async fn a_damaged_document_is_named_and_the_others_are_served() {
    let (folder, mut authors) = filled().await;
    let digest_entries = pages(folder.path(), "entry");
    damage(folder.path(), digest_entries[digest_entries.len() / 2]);
    let relay = Relay::start(&folder).await;
    assert_eq!(relay.get("/readyz").await.0, 200, "no read has met the damage yet");
    // A client that requests single documents receives the whole ones.
    let mut alice = RepoClient::join(&relay, "/spaces/notes", "alice").await;
    let mut whole = Replica::empty(1);
    alice.send(&mut whole).await;
    while whole.get("text").is_none() {
        alice.receive(&mut whole).await;
    }
    let mut broken = Replica::empty(2);
    alice.send(&mut broken).await;
    alice.unavailable(broken.id).await;
    let mut other = Replica::empty(3);
    alice.send(&mut other).await;
    while other.get("text").is_none() {
        alice.receive(&mut other).await;
    }
    let (status, text) = relay.get("/readyz").await;
    assert_eq!(status, 503);
    let name = shown(authors[1].document);
    assert!(text.contains(&name) && text.contains("restore a backup"), "{text}");
    assert!(!text.contains(&shown(authors[0].document)), "{text}");
    assert_eq!(relay.metric("landfall_relay_damaged_places").await, 1.0);
    // An engine that is behind receives the whole entries, and damage entries for the others. Pushes to the
    // damaged document are rejected permanently.
    let mut client = Client::hello(&relay).await;
    client.subscribe(1, SPACE, None, None).await;
    let entries = client.entries(60).await;
    let (damaged, whole): (Vec<_>, Vec<_>) =
        entries.iter().partition(|entry| entry.kind == entry_kind::DAMAGED);
    assert!(!damaged.is_empty() && damaged.len() < 20, "{}", damaged.len());
    for entry in damaged {
        assert_eq!(*entry, Entry::of_damage(entry.offset, Some(authors[1].document)));
    }
    assert!(whole.iter().all(|entry| entry.kind == entry_kind::CHANGE && !entry.body.is_empty()));
    let damaged = client.push(authors[1].document, &authors[1].changes(1)).await;
    let nack = client.nacked(damaged).await;
    assert_eq!((nack.code, nack.class), (Code::DAMAGED, NackClass::REFUSED));
    let push = client.push(authors[2].document, &authors[2].changes(1)).await;
    client.acked(push).await;
    relay.stop().await.unwrap();
}

/// All entries of a space that a client receives, from its start.
async fn sent(relay: &Relay, count: usize) -> Vec<Entry> {
    let mut client = Client::hello(relay).await;
    client.subscribe(1, SPACE, None, None).await;
    client.entries(count).await
}

/// The log's own index is damaged, or the root of the table: the other indexes give the entries' positions.
#[tokio::test]
async fn a_damaged_index_or_table_page_does_not_block_intact_data() {
    let (folder, authors) = filled().await;
    let relay = Relay::start(&folder).await;
    let whole = sent(&relay, 60).await;
    relay.stop().await.unwrap();
    let file = folder.path().join("relay.db");
    let bytes = fs::read(&file).unwrap();
    for of in ["sqlite_autoindex_entry_1", "entry", "document"] {
        fs::write(&file, &bytes).unwrap();
        damage(folder.path(), pages(folder.path(), of)[0]);
        let relay = Relay::start(&folder).await;
        let entries = sent(&relay, 60).await;
        if of.starts_with("sqlite_autoindex") {
            assert_eq!(entries, whole, "{of}");
        } else {
            for (at, entry) in entries.iter().enumerate() {
                assert_eq!((entry.kind, entry.offset), (entry_kind::DAMAGED, whole[at].offset));
            }
        }
        if of == "entry" {
            let named = entries
                .iter()
                .all(|entry| authors.iter().any(|author| author.document == entry.document));
            assert!(named, "the index lists the documents");
        }
        let (status, body) = relay.get("/readyz").await;
        assert!(status == 503 && body.contains("is damaged"), "{of}: {body}");
        relay.stop().await.unwrap();
    }
}

/// A bit of a change's text flips: SQLite does not detect it.
#[tokio::test]
async fn a_change_with_a_flipped_bit_is_never_sent() {
    let (folder, mut authors) = filled().await;
    let file = folder.path().join("relay.db");
    let conn = rusqlite::Connection::open(&file).unwrap();
    let sql = "UPDATE entry SET body = CAST(substr(body, 1, 900) || x'01' || substr(body, 902) AS \
        BLOB) WHERE \"offset\" = 30";
    assert_eq!(conn.execute(sql, []).unwrap(), 1);
    drop(conn);
    let relay = Relay::start(&folder).await;
    assert_eq!(relay.get("/readyz").await.0, 200, "no read has met the damage yet");
    let entries = sent(&relay, 60).await;
    let document = authors[1].document;
    for entry in &entries {
        match entry.offset.0 {
            30 => assert_eq!(*entry, Entry::of_damage(entry.offset, Some(document))),
            _ => assert_eq!(entry.kind, entry_kind::CHANGE),
        }
    }
    let (status, body) = relay.get("/readyz").await;
    assert!(status == 503 && body.contains(&shown(document)), "{body}");
    assert!(!body.contains("the log of"), "{body}");
    assert_eq!(relay.metric("landfall_relay_damaged_places").await, 1.0);
    // A client of the other protocol receives `unavailable` for the document, and the other documents.
    let mut alice = RepoClient::join(&relay, "/spaces/notes", "alice").await;
    let mut broken = Replica::empty(2);
    alice.send(&mut broken).await;
    alice.unavailable(broken.id).await;
    let mut other = Replica::empty(3);
    alice.send(&mut other).await;
    while other.get("text").is_none() {
        alice.receive(&mut other).await;
    }
    // New changes of it are accepted: the file can be read and written.
    let mut client = Client::hello(&relay).await;
    client.subscribe(1, SPACE, None, None).await;
    let push = client.push(document, &authors[1].changes(1)).await;
    client.acked(push).await;
    relay.stop().await.unwrap();
}

/// SQLite silently ignores a write-ahead log with a bad header.
#[tokio::test]
async fn a_damaged_write_ahead_log_is_reported_at_the_start() {
    let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let relay = Relay::start(&folder).await;
    let mut client = Client::at_start(&relay).await;
    let mut author = Author::new(1);
    let changes = author.large_changes(20, 2_000);
    let push = client.push(author.document, &changes).await;
    client.acked(push).await;
    // As after a kill of the relay.
    for file in ["relay.db", "relay.db-wal", "relay.db-shm"] {
        fs::copy(folder.path().join(file), copy.path().join(file)).unwrap();
    }
    relay.stop().await.unwrap();
    assert_eq!(Inspection::wal_finding(copy.path()), None);
    let wal = copy.path().join("relay.db-wal");
    let mut bytes = fs::read(&wal).unwrap();
    bytes[17] ^= 1;
    fs::write(&wal, &bytes).unwrap();
    let finding = Inspection::wal_finding(copy.path()).unwrap();
    assert!(finding.damage.is_of_file() && finding.to_string().contains("write-ahead log"));
    let relay = Relay::start(&copy).await;
    let (status, body) = relay.get("/readyz").await;
    assert!(status == 503 && body.contains("header of the write-ahead log"), "{body}");
    assert_eq!(fs::read(copy.path().join("relay.db-wal.damaged")).unwrap(), bytes);
    // The relay continues, and the lost changes are pushed again.
    let mut client = Client::at_start(&relay).await;
    let push = client.push(author.document, &changes).await;
    client.acked(push).await;
    relay.stop().await.unwrap();
    let relay = Relay::start(&copy).await;
    assert_eq!(relay.get("/readyz").await.0, 200);
    relay.stop().await.unwrap();
}

/// Data that all documents need is damaged: the clients are notified at once.
#[tokio::test]
async fn a_damaged_table_ends_subscriptions_with_a_reason() {
    for table in ["space", "epoch"] {
        let (folder, _) = filled().await;
        damage(folder.path(), pages(folder.path(), table)[0]);
        let relay = Relay::start(&folder).await;
        let mut client = Client::hello(&relay).await;
        let (space, filter) = (SPACE.parse().unwrap(), Filter::Everything);
        let (subscription, cursor, acknowledged) = (1, None, None);
        let subscribe = Subscribe { subscription, space, filter, cursor, acknowledged };
        client.send(&Frame::Subscribe(subscribe)).await;
        let ended = loop {
            match client.frame().await {
                Frame::Unsubscribed(ended) => break ended,
                Frame::Subscribed(_) | Frame::Entries(_) => {}
                other => panic!("{table}: {other:?}"),
            }
        };
        assert_eq!((ended.subscription, ended.code), (1, Code::DAMAGED), "{table}");
        assert!(ended.what.contains("operator"), "{table}: {}", ended.what);
        let (status, body) = relay.get("/readyz").await;
        assert_eq!(status, 503, "{table}");
        assert!(body.contains("damaged") && body.contains("restore a backup"), "{table}: {body}");
        relay.stop().await.unwrap();
    }
}
