//! Ephemeral messages, which are never stored, from engine to engine over a relay.
//!
//! That a message did not arrive is shown by a later one that did.

use landfall::automerge::{ROOT, transaction::Transactable};
use landfall::{BroadcastError, Event, EventKind, Events, Options, ReplicaId, Store};
use landfall_protocol::ephemeral::sender_of;
use landfall_protocol::frame::Frame;
use landfall_protocol::limits::EPHEMERAL_BYTES;
use landfall_tests::PATIENCE;
use landfall_tests::raw;
use landfall_tests::replica::{link, wait_synced, wait_until};
use landfall_tests::site::{Replica, SPACE, Site, sync_all};

/// The content of an event for a received ephemeral message.
#[derive(Debug, PartialEq, Eq)]
struct Heard {
    sender: String,
    session: String,
    count: u64,
    data: Vec<u8>,
}

fn heard_in(event: Event) -> Option<Heard> {
    match event.kind {
        EventKind::Ephemeral { sender, session, count, data } => {
            Some(Heard { sender, session, count, data: data.to_vec() })
        }
        _ => None,
    }
}

/// Returns the next ephemeral message.
fn hear(events: &mut Events) -> Heard {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let next = async {
        loop {
            let event =
                events.next().await.expect("the store is open").expect("no event is dropped");
            if let Some(heard) = heard_in(event) {
                return heard;
            }
        }
    };
    runtime
        .block_on(async { tokio::time::timeout(PATIENCE, next).await })
        .expect("no message arrives")
}

fn say(replica: &Replica, what: &str) {
    replica.documents[0].broadcast(what).unwrap();
}

/// Makes a new replica that has only the shared document, and has it open.
fn late(site: &Site, of: &Replica) -> (Store, landfall::Document, Events) {
    let store = Store::in_memory(Options::default()).unwrap();
    let events = store.events();
    let space = store.space(SPACE).unwrap();
    store.connect(link(&site.url)).unwrap();
    wait_until(&store, "for the document", || space.open(of.documents[0].id()).is_ok());
    wait_synced(&store);
    let document = space.open(of.documents[0].id()).unwrap();
    (store, document, events)
}

#[test]
fn ephemeral_messages_arrive_once_and_are_not_stored() {
    let site = Site::start();
    let [a, b] = site.replicas(["a", "b"]);
    sync_all(&[&a, &b]);
    let (mut at_a, mut at_b) = (a.store.events(), b.store.events());
    say(&a, "first");
    say(&a, "second");
    let (first, second) = (hear(&mut at_b), hear(&mut at_b));
    assert_eq!((first.data.as_slice(), second.data.as_slice()), (&b"first"[..], &b"second"[..]));
    assert_eq!(first.sender, sender_of(&a.store.replica()));
    assert_eq!((first.session.clone(), first.count + 1), (second.session, second.count));
    // An echo to a would have arrived before b's answer.
    say(&b, "answer");
    let answer = hear(&mut at_a);
    assert_eq!(answer.sender, sender_of(&b.store.replica()));
    assert_eq!(answer.data, b"answer");
    // A replica that connects later receives only later messages.
    let (_store, _document, mut at_late) = late(&site, &a);
    say(&a, "third");
    assert_eq!(hear(&mut at_late).data, b"third");
    assert_eq!(hear(&mut at_b).data, b"third");
    // No store saved anything.
    let changes = a.space.status().unwrap().changes;
    assert_eq!(b.space.status().unwrap().changes, changes);
    assert_eq!(a.store.status().pending().changes, 0);
}

#[test]
fn reopening_a_store_starts_another_session() {
    let site = Site::start();
    let [a, b] = site.replicas(["a", "b"]);
    sync_all(&[&a, &b]);
    let mut at_b = b.store.events();
    say(&a, "before");
    let before = hear(&mut at_b);
    let documents = a.documents.clone();
    a.store.close().unwrap();
    assert_eq!(a.documents[0].broadcast("closed"), Err(BroadcastError::Closed));
    drop(a);
    let a = Replica::reopen(site.folder(), "a", Options::default(), &documents);
    a.connect(&site.url);
    wait_synced(&a.store);
    say(&a, "after");
    let after = hear(&mut at_b);
    assert_eq!((after.sender, after.count), (before.sender, before.count));
    assert_ne!(after.session, before.session);
}

#[test]
fn ephemeral_messages_reach_only_open_documents_in_scope() {
    let site = Site::start();
    let [a, b] = site.replicas(["a", "b"]);
    sync_all(&[&a, &b]);
    let mut at_b = b.store.events();
    let (shared, of_a) = (a.documents[0].id(), a.documents[1].clone());
    // b has the document, but not open.
    of_a.broadcast("not open").unwrap();
    say(&a, "open");
    assert_eq!(hear(&mut at_b).data, b"open");
    // b opens it, and then excludes it from its sync.
    let opened = b.space.open(of_a.id()).unwrap();
    of_a.broadcast("open by now").unwrap();
    assert_eq!(hear(&mut at_b).data, b"open by now");
    b.space.sync_only([shared]).unwrap();
    wait_until(&b.store, "for the filter", || {
        opened.broadcast("outside") == Err(BroadcastError::OutOfScope)
    });
    wait_synced(&b.store);
    of_a.broadcast("outside").unwrap();
    // The same document id in another space, from a client that can send anything.
    let elsewhere = &mut raw::Client::start_from(site.port, "elsewhere");
    elsewhere.say(shared, "s", 1, b"elsewhere");
    // It passes through the relay before a's next message.
    let ear = &mut raw::Client::start_from(site.port, "elsewhere");
    elsewhere.say(shared, "s", 2, b"still elsewhere");
    assert_eq!(ear.hear().data.as_slice(), b"still elsewhere");
    say(&a, "inside");
    assert_eq!(hear(&mut at_b).data, b"inside");
}

#[test]
fn repeated_and_forged_ephemeral_messages_are_dropped() {
    let site = Site::start();
    let [a] = site.replicas(["a"]);
    sync_all(&[&a]);
    let mut at_a = a.store.events();
    let document = a.documents[0].id();
    let mut bob = raw::Client::start_from(site.port, SPACE);
    for (session, count) in [("s", 1), ("s", 1), ("s", 2), ("s", 1), ("t", 1), ("s", 3)] {
        bob.say(document, session, count, session.as_bytes());
    }
    let heard: Vec<Heard> = (0..4).map(|_| hear(&mut at_a)).collect();
    let received: Vec<_> =
        heard.iter().map(|heard| (heard.session.as_str(), heard.count)).collect();
    assert_eq!(received, [("s", 1), ("s", 2), ("t", 1), ("s", 3)]);
    let name = sender_of(&ReplicaId::from_bytes([7; 16]));
    assert!(heard.iter().all(|heard| heard.sender == name), "{heard:?}");
    // The answer has its sender's name too.
    say(&a, "answer");
    let answer = bob.hear();
    assert_eq!((answer.subscription, answer.document), (1, document));
    assert_eq!((answer.sender, answer.count), (sender_of(&a.store.replica()), 1));
    // A client from before ephemeral messages receives none, and keeps working.
    let mut older = raw::Client::start(site.port, SPACE);
    say(&a, "not for the older one");
    assert_eq!(bob.hear().data.as_slice(), b"not for the older one");
    let change = raw::change_of(landfall::automerge::ActorId::random(), 1, "raw");
    let fresh = landfall::DocumentId::from_bytes([9; 16]);
    assert!(matches!(older.push(1, fresh, &[change]), Frame::Ack(_)));
    assert_eq!((older.said, bob.said), (0, 2));
}

#[test]
fn a_failed_broadcast_returns_a_typed_error() {
    let site = Site::start();
    let store = Store::in_memory(Options::default()).unwrap();
    let space = store.space(SPACE).unwrap();
    let document = space.create(|tx| Ok(tx.put(ROOT, "a", 1)?)).unwrap().0;
    let offline = |result| matches!(result, Err(BroadcastError::Offline { .. }));
    assert!(offline(document.broadcast("no relay is connected")));
    store.connect(link(&site.url)).unwrap();
    wait_synced(&store);
    document.broadcast(vec![0; EPHEMERAL_BYTES]).unwrap();
    let (limit, actual) = (EPHEMERAL_BYTES, EPHEMERAL_BYTES + 1);
    let error = BroadcastError::TooLarge { limit, actual };
    assert_eq!(document.broadcast(vec![0; actual]), Err(error));
    store.go_offline();
    wait_until(&store, "to be offline", || offline(document.broadcast("going")));
    // After a reconnect messages arrive again, but none that were sent offline.
    let mut ear = raw::Client::start_from(site.port, SPACE);
    store.go_online();
    wait_synced(&store);
    document.broadcast("back").unwrap();
    assert_eq!(ear.hear().data.as_slice(), b"back");
}
