//! Pages of the store's file are damaged: the relay says where, serves what it can read, and names
//! what helps.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use landfall_protocol::frame::{Filter, Frame, Subscribe};
use landfall_protocol::{Code, NackClass};

use crate::harness::{Author, Client, Relay, SPACE, cursor};
use crate::repo_client::{Replica, RepoClient, shown};

/// The pages of a table or an index, in their order; the first is its root.
fn pages(data: &Path, of: &str) -> Vec<u64> {
    let conn = rusqlite::Connection::open(data.join("relay.db")).unwrap();
    let mut find = conn.prepare("SELECT pageno FROM dbstat WHERE name = ?1 ORDER BY path").unwrap();
    let pages = find.query_map([of], |row| row.get::<_, i64>(0)).unwrap();
    pages.map(|page| page.unwrap() as u64).collect()
}

/// Overwrites the beginning of a page, so that SQLite cannot read it.
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

/// The page in the middle of the table is one of the second document's.
#[tokio::test]
async fn a_damaged_document_is_named_and_the_others_are_served() {
    let (folder, mut authors) = filled().await;
    let leaves = pages(folder.path(), "entry");
    damage(folder.path(), leaves[leaves.len() / 2]);
    let relay = Relay::start(&folder).await;
    assert_eq!(relay.get("/readyz").await.0, 200, "nothing has read it yet");
    // A client that asks for single documents gets what is whole.
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
    let (status, told) = relay.get("/readyz").await;
    assert_eq!(status, 503);
    let name = shown(authors[1].document);
    assert!(told.contains(&name) && told.contains("restore a backup"), "{told}");
    assert!(!told.contains(&shown(authors[0].document)), "{told}");
    assert_eq!(relay.metric("landfall_relay_damaged_places").await, 1.0);
    // An engine that is behind is told why it gets no further; one that is not goes on, and only what
    // it pushes to the damaged document is refused, for good.
    let mut client = Client::hello(&relay).await;
    let subscribed = client.subscribe(1, SPACE, None, None).await;
    let ended = loop {
        match client.frame().await {
            Frame::Unsubscribed(ended) => break ended,
            Frame::Entries(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((ended.subscription, ended.code), (1, Code::DAMAGED));
    let at_head = cursor(subscribed.epoch.unwrap(), subscribed.head.0);
    assert!(client.subscribe(1, SPACE, at_head, None).await.resumed);
    let damaged = client.push(authors[1].document, &authors[1].changes(1)).await;
    let nack = client.nacked(damaged).await;
    assert_eq!((nack.code, nack.class), (Code::DAMAGED, NackClass::REFUSED));
    let push = client.push(authors[2].document, &authors[2].changes(1)).await;
    client.acked(push).await;
    relay.stop().await.unwrap();
}

/// What all documents need is damaged: the clients are told so at once.
#[tokio::test]
async fn a_damaged_table_ends_subscriptions_with_a_reason() {
    for table in ["entry", "space", "epoch"] {
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
        let (status, told) = relay.get("/readyz").await;
        assert_eq!(status, 503, "{table}");
        assert!(told.contains("damaged") && told.contains("verify --repair"), "{table}: {told}");
        relay.stop().await.unwrap();
    }
}
