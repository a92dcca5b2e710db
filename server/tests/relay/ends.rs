//! Known damage, and held memory, at their end: after an examination, after a session.

use automerge::AutoCommit;
use landfall_protocol::frame::{
    Features, Fetch, Filter, Frame, Part, PushSnapshot, Resend, Subscribe, Want, entry_kind,
    features,
};
use landfall_protocol::{Code, DocumentId, limits};
use landfall_relay::store::CompactionWindow;
use tokio::io::AsyncWriteExt;

use crate::automerge_repo_client::RepoClient;
use crate::harness::{
    Author, Client, Relay, SPACE, compacted, compactions, damage, soon, stall, until,
    until_nothing_is_held,
};

/// A document has a damaged change, is examined, and waits for a client that has it. Then its snapshot is
/// damaged too, and a read finds that.
#[tokio::test(flavor = "multi_thread")]
async fn changes_damaged_later_are_not_acknowledged_as_stored() {
    let folder = tempfile::tempdir().unwrap();
    let relay =
        Relay::start_with(&folder, |o| o.compactions = compactions(CompactionWindow::NONE)).await;
    let mut client = Client::at_start(&relay).await;
    let mut author = Author::new(1);
    let mut made = Vec::new();
    for _ in 0..3 {
        made.extend(author.changes(100));
        let push = client.push(author.document, &made[made.len() - 100..]).await;
        client.acked(push).await;
    }
    let outcome = "landfall_relay_compactions_total{outcome=\"compacted\"}";
    relay.until_metric(outcome, |count| count >= 1.0).await;
    drop(client);
    relay.stop().await.unwrap();
    // Without the worker from here on, so that the tail stays.
    let relay = Relay::start(&folder).await;
    let mut client = Client::at_start(&relay).await;
    let tail = author.large_changes(10, 2_000);
    let push = client.push(author.document, &tail).await;
    client.acked(push).await;
    drop(client);
    relay.stop().await.unwrap();
    let conn = rusqlite::Connection::open(folder.path().join("relay.db")).unwrap();
    let last: i64 =
        conn.query_row("SELECT max(\"offset\") FROM entry", [], |row| row.get(0)).unwrap();
    drop(conn);
    let which = format!("\"offset\" = {last}");
    assert_eq!(damage(folder.path(), ("entry", "body"), 901, &which), 1);
    let relay = Relay::start(&folder).await;
    let mut silent = Client::hello(&relay).await;
    silent.send(&Frame::Features(Features { bits: features::ALL })).await;
    let (space, filter) = (SPACE.parse().unwrap(), Filter::Everything);
    let (cursor, acknowledged) = (None, None);
    let subscribe = Subscribe { subscription: 1, space, filter, cursor, acknowledged };
    silent.send(&Frame::Subscribe(subscribe)).await;
    let resend = until(&mut silent, |frame| match frame {
        Frame::Resend(resend) => Some(resend),
        _ => None,
    })
    .await;
    let Resend { changes, .. } = resend;
    assert_eq!(changes.len(), 1, "examined: a change is lost, its snapshot is intact");
    // Later, under the running relay.
    assert!(damage(folder.path(), ("snapshot_piece", "bytes"), 91, "true") > 0);
    let mut reader = Client::at_start(&relay).await;
    let entries = reader.entries(11).await;
    let damaged = entries.iter().filter(|entry| entry.kind == entry_kind::DAMAGED).count();
    assert_eq!(damaged, 2, "the read found both");
    // A change covered by the damaged snapshot is pushed again: an ack would claim that the store has it.
    let push = reader.push(author.document, &made[..1]).await;
    let answer = until(&mut reader, |frame| match frame {
        Frame::Ack(_) | Frame::Nack(_) => Some(frame),
        _ => None,
    })
    .await;
    match answer {
        Frame::Nack(nack) => assert_eq!((nack.id, nack.code), (push, Code::OVERLOADED)),
        answer => panic!("acknowledged, but it is not stored: {answer:?}"),
    }
    relay.stop().await.unwrap();
}

/// Memory held by a session of each kind when it is cut.
async fn of_all_kinds(relay: &Relay) -> (Vec<Client>, Vec<RepoClient>) {
    let (mut natives, mut peers) = (Vec::new(), Vec::new());
    // Half a message of each protocol, and one in frames.
    natives.push(stall(relay, 100_000).await);
    natives.push(stall(relay, limits::MESSAGE_BYTES).await);
    for begun in [&[0x02, 0x81, 0, 0, 0, 0, 7][..], &[0x82, 0xfe, 0xff, 0xff, 0, 0, 0, 0, 7]] {
        let mut peer =
            RepoClient::join(relay, "/spaces/notes", &format!("half {}", begun.len())).await;
        soon(peer.socket.get_mut().write_all(begun)).await.unwrap();
        peers.push(peer);
    }
    // Long documents whose entries are not read.
    let mut author = Author::new(1);
    let mut client = Client::at_start(relay).await;
    for _ in 0..4 {
        let push = client.push(author.document, &author.large_changes(8, 300_000)).await;
        client.acked(push).await;
    }
    let wants = vec![Want { document: author.document, have: vec![] }; 64];
    client.send(&Frame::Fetch(Fetch { subscription: 1, wants })).await;
    natives.push(client);
    natives.push(Client::hello(relay).await);
    let reader = natives.last_mut().unwrap();
    let (space, filter) = (SPACE.parse().unwrap(), Filter::Everything);
    let (cursor, acknowledged) = (None, None);
    let subscribe = Subscribe { subscription: 1, space, filter, cursor, acknowledged };
    reader.send(&Frame::Subscribe(subscribe)).await;
    let mut peer = RepoClient::join(relay, "/spaces/notes", "reads").await;
    let question = automerge::sync::Message {
        heads: vec![],
        need: vec![],
        have: vec![],
        changes: Vec::<Vec<u8>>::new().into(),
        flags: None,
        version: automerge::sync::MessageVersion::V1,
    };
    peer.say_sync(author.document, &question.encode()).await;
    peers.push(peer);
    // A large push being checked, looked up and committed.
    for number in 2..6 {
        let mut client = Client::at_start(relay).await;
        let mut author = Author::new(number);
        let changes = author.large_changes(8, 400_000);
        client.push(author.document, &changes).await;
        natives.push(client);
    }
    // Changes whose dependencies do not arrive.
    let mut peer = RepoClient::join(relay, "/spaces/notes", "pens").await;
    let mut author = Author::new(7);
    let changes = author.large_changes(5, 50_000);
    let message = automerge::sync::Message {
        heads: vec![],
        need: vec![],
        have: vec![],
        changes: changes[1..].to_vec().into(),
        flags: None,
        version: automerge::sync::MessageVersion::V1,
    };
    peer.say_sync(author.document, &message.encode()).await;
    peers.push(peer);
    wholes(relay, &mut natives, &mut peers).await;
    natives.push(filtering(relay).await);
    (natives, peers)
}

/// Whole documents being opened.
async fn wholes(relay: &Relay, natives: &mut Vec<Client>, peers: &mut Vec<RepoClient>) {
    for number in 10..14 {
        let (document, snapshot, heads) = compacted(number, 300);
        let (hash, total) = (landfall_compaction::hash_of(&snapshot), snapshot.len() as u64);
        let mut client = Client::at_start(relay).await;
        let (id, subscription) = (1, 1);
        let upload = PushSnapshot { id, subscription, document, hash, total, heads };
        client.send(&Frame::PushSnapshot(upload)).await;
        let part = Part { subscription, document, hash, total, from: 0, bytes: snapshot.into() };
        assert!(matches!(client.frame().await, Frame::UploadFrom(_) | Frame::Entries(_)));
        client.send(&Frame::Part(part)).await;
        natives.push(client);
        let mut peer = RepoClient::join(relay, "/spaces/notes", &format!("whole {number}")).await;
        let mut whole = AutoCommit::new();
        let mut author = Author::new(number + 50);
        for change in author.large_changes(5, 200_000) {
            whole.apply_changes([automerge::Change::from_bytes(change).unwrap()]).unwrap();
        }
        peer.say_whole(author.document, &mut whole).await;
        peers.push(peer);
    }
}

/// With a filter of very many documents.
async fn filtering(relay: &Relay) -> Client {
    let mut client = Client::hello(relay).await;
    let filter = Filter::of_documents((0..4_096_u64).map(|number| {
        let mut id = [9; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        DocumentId::from_bytes(id)
    }));
    let (space, cursor, acknowledged) = (SPACE.parse().unwrap(), None, None);
    let subscribe = Subscribe { subscription: 1, space, filter, cursor, acknowledged };
    client.send(&Frame::Subscribe(subscribe)).await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_are_cut_release_all_memory() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start_with(&folder, |o| {
        o.compactions = compactions(CompactionWindow::default());
        o.memory = 192 << 20;
    })
    .await;
    for round in 0..3 {
        let (mut natives, mut peers) = of_all_kinds(&relay).await;
        // From the last to the first, or in the other order.
        if round == 1 {
            natives.reverse();
            peers.reverse();
        }
        drop((natives, peers));
        until_nothing_is_held(&relay, &["intake", "push", "answer", "state", "upload"]).await;
    }
    relay.stop().await.unwrap();
}
