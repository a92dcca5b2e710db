//! Peers that do not behave as automerge does: their cost is bounded, and no other client suffers.

use automerge::ROOT;
use automerge::transaction::Transactable;
use landfall_protocol::Patience;
use landfall_protocol::automerge_repo::message::{Ephemeral, Message, PeerMetadata, Sync};
use landfall_protocol::automerge_repo::sync::{Have, Reply};
use landfall_protocol::{ChangeHash, Code, DocumentId, limits};
use landfall_test_rng::Rng;

use crate::client::name_of;
use crate::relay::host;
use crate::world::World;

/// The test itself plays the second client, over a document of so many changes.
fn world(changes: usize) -> (World, DocumentId) {
    let (mut world, document) = World::of_one(1, 2);
    world.connect(0);
    world.edit_often(0, document, changes);
    world.connect(1);
    world.settle();
    world.session(1).sent.clear();
    (world, document)
}

fn say(world: &mut World, document: DocumentId, reply: &Reply<'_>) -> usize {
    world.clients[1].send(document, false, &reply.encode().unwrap());
    world.carry_up(1);
    world.settle_relay();
    world.session(1).sent.len()
}

fn raw(world: &mut World, bytes: &[u8]) {
    let (id, now) = (world.session_id(1), world.now);
    world.relay.with(id, |peer| peer.handle_message(now, bytes));
    world.settle_relay();
}

/// Delivers a message without doing the relay's work.
fn raw_only(world: &mut World, bytes: &[u8]) {
    let (id, now) = (world.session_id(1), world.now);
    world.relay.with(id, |peer| peer.handle_message(now, bytes));
}

fn ended(world: &mut World) -> Option<Code> {
    world.session(1).ended.as_ref().map(|(code, _)| *code)
}

#[test]
fn announced_heads_that_never_arrive_are_requested_a_few_times() {
    for changes in [0, 5] {
        let (mut world, document) = world(changes);
        let heads = [ChangeHash([0xaa; 32])];
        let reply = Reply { heads: &heads, have: &[Have::default()], ..Reply::default() };
        for _ in 0..100 {
            say(&mut world, document, &reply);
        }
        let asks = world.session(1).sent.drain(..).filter(|message| asks_for(message, &heads[0]));
        // The first request is beside one for the peer's missing changes, if there are any.
        let most = usize::from(limits::REPO_ASKS) + usize::from(changes > 0);
        assert_eq!(asks.count(), most);
        assert_eq!(ended(&mut world), None);
        // Newly announced heads are requested again.
        let heads = [ChangeHash([0xab; 32])];
        let reply = Reply { heads: &heads, have: &[Have::default()], ..Reply::default() };
        say(&mut world, document, &reply);
        assert!(asks_for(&world.session(1).sent.pop_back().unwrap(), &heads[0]));
    }
}

fn asks_for(message: &[u8], hash: &ChangeHash) -> bool {
    let Ok(Message::Sync(sync)) = Message::decode(message) else { return false };
    let sync = landfall_protocol::automerge_repo::sync::SyncMessage::decode(sync.data).unwrap();
    sync.need.contains(hash)
}

#[test]
fn repeated_requests_with_the_same_heads_are_answered_once() {
    let (mut world, document) = world(50);
    let heads = [world.heads(0, document)[0]];
    let older = world.clients[0].copy(&document).automerge.get_changes(&[])[10].hash();
    for heads in [&heads[..], &[older]] {
        let reply = Reply { heads, have: &[Have::default()], ..Reply::default() };
        let bytes: usize = (0..50)
            .map(|_| {
                say(&mut world, document, &reply);
                world.session(1).sent.drain(..).map(|message| message.len()).sum::<usize>()
            })
            .sum();
        // 50 changes are some 5,000 bytes: they are sent once, with at most 49 short messages.
        assert!(bytes < 20_000, "{bytes}");
    }
    assert_eq!(ended(&mut world), None);
}

/// This cut clients off from all documents: the relay sent 10,050 heads, and the client sent them
/// back.
#[test]
fn only_a_document_of_too_many_heads_is_unavailable() {
    let (mut world, document) = world(3);
    // 131,122 as LEB128: fifty more than the limit.
    let mut data = vec![0x42, 0xb2, 0x80, 0x08];
    (0..limits::SYNC_HASHES as u32 + 50).for_each(|n| data.extend([n.to_be_bytes(); 8].concat()));
    data.extend([0, 0, 0]);
    for _ in 0..3 {
        world.clients[1].send(document, false, &data);
        world.carry_up(1);
        world.settle_relay();
    }
    assert_eq!(ended(&mut world), None);
    let messages = world.session(1).sent.drain(..).collect::<Vec<_>>();
    let is_unavailable =
        |bytes: &Vec<u8>| matches!(Message::decode(bytes), Ok(Message::Unavailable { .. }));
    assert!(!messages.is_empty() && messages.iter().all(is_unavailable), "{}", messages.len());
    // The session continues, and so does the document once a message is readable.
    assert!(say(&mut world, document, &Reply::default()) > 0);
    assert_eq!(ended(&mut world), None);
}

#[test]
fn a_query_from_before_a_second_join_is_not_answered_after_it() {
    let (mut world, document) = world(5);
    let all = world.clients[0].copy(&document).automerge.get_changes(&[]);
    let (older, head) = ([all[3].hash()], [all[4].hash()]);
    let mut more = world.clients[0].copy(&document).automerge.fork();
    let mut transaction = more.transaction();
    transaction.put(ROOT, "more", 1).unwrap();
    transaction.commit();
    let (bytes, heads) = (more.get_changes(&head)[0].raw_bytes().to_vec(), more.get_heads());
    // A query, a check and a push are in flight, all unanswered.
    let name = world.clients[1].name.clone();
    let join = Message::Join { sender: &name, metadata: PeerMetadata::default(), versions: None };
    let say = |world: &mut World, reply: &Reply<'_>| {
        world.clients[1].send(document, false, &reply.encode().unwrap());
        world.carry_up(1);
    };
    say(&mut world, &Reply { heads: &older, have: &[Have::default()], ..Reply::default() });
    raw_only(&mut world, &join.encode());
    say(&mut world, &Reply::default());
    world.settle_relay();
    let messages: Vec<_> = world.session(1).sent.drain(1..).collect();
    assert_eq!(messages.len(), 1, "the earlier query was answered too");
    let Ok(Message::Sync(sync)) = Message::decode(&messages[0]) else { panic!("no sync") };
    let sync = landfall_protocol::automerge_repo::sync::SyncMessage::decode(sync.data).unwrap();
    assert_eq!((&sync.heads[..], sync.chunks.len()), (&head[..], 5));
    // Changes from a check that began before are dropped; the peer sends them again.
    let chunks = [bytes.as_slice()];
    let upload = Reply { heads: &heads, chunks: &chunks, ..Reply::default() };
    say(&mut world, &upload);
    raw_only(&mut world, &join.encode());
    world.settle_relay();
    assert_eq!(world.relay.log.heads(&document), head);
    say(&mut world, &upload);
    world.settle_relay();
    assert_eq!(world.relay.log.heads(&document), heads);
    // The answer to an earlier push must not be taken for that to a new one.
    let mut late = more.fork();
    let mut transaction = late.transaction();
    transaction.put(ROOT, "late", 1).unwrap();
    transaction.commit();
    let (bytes, late) = (late.get_changes(&heads)[0].raw_bytes().to_vec(), late.get_heads());
    say(&mut world, &Reply { heads: &late, chunks: &[&bytes], ..Reply::default() });
    while world.session(1).peer.unanswered() == 0 {
        world.relay_steps(1);
    }
    raw_only(&mut world, &join.encode());
    assert_eq!((ended(&mut world), world.session(1).peer.unanswered()), (None, 0));
}

#[test]
fn a_peer_that_forgot_its_answer_gets_it_again_a_few_times() {
    let (mut world, document) = world(5);
    let heads = world.heads(0, document);
    let filter = automerge::sync::BloomFilter::from_hashes(heads.iter());
    let first = [Have { filter, entries: 1, ..Have::default() }];
    let first = Reply { heads: &heads, have: &first, ..Reply::default() };
    let mut answers = 0;
    for _ in 0..3 * limits::REPO_ASKS {
        answers += say(&mut world, document, &first);
        assert!(world.session(1).sent.drain(..).count() <= 1);
    }
    assert_eq!(answers, 1 + usize::from(limits::REPO_ASKS));
}

#[test]
fn an_equal_peer_that_repeats_itself_is_answered_once() {
    let (mut world, document) = world(5);
    let heads = world.heads(0, document);
    let have = [Have::of(heads.clone())];
    for _ in 0..50 {
        say(&mut world, document, &Reply { heads: &heads, have: &have, ..Reply::default() });
    }
    assert_eq!(world.session(1).sent.len(), 1);
}

#[test]
fn every_message_has_at_most_one_answer() {
    // Random heads, needs and filters.
    let mut rng = Rng::new(3);
    for _ in 0..20 {
        let (mut world, document) = world(20);
        let all = world.clients[0].copy(&document).automerge.get_changes(&[]);
        let mut all: Vec<ChangeHash> = all.iter().map(|change| change.hash()).collect();
        all.push(ChangeHash([0xee; 32]));
        for _ in 0..40 {
            let mut some = |most: usize| -> Vec<ChangeHash> {
                let mut some: Vec<_> =
                    (0..rng.below(most)).map(|_| all[rng.below(all.len())]).collect();
                some.sort_unstable();
                some
            };
            let (heads, need, last_sync, held) = (some(4), some(3), some(3), some(20));
            let filter = automerge::sync::BloomFilter::from_hashes(held.iter());
            let have = [Have { last_sync, filter, entries: held.len() as u32, bytes: 0 }];
            let have = if held.len() % 5 == 4 { &[][..] } else { &have[..] };
            world.session(1).sent.clear();
            let count = say(
                &mut world,
                document,
                &Reply { heads: &heads, need: &need, have, ..Reply::default() },
            );
            assert!(count <= 1, "{count}");
        }
        assert_eq!(ended(&mut world), None);
        // The others have not noticed.
        world.edit(0, document);
        world.settle_but(1);
        assert_eq!(world.heads(0, document), world.relay.log.heads(&document));
    }
}

#[test]
fn invalid_changes_end_their_session_only() {
    for (chunk, code) in [
        (&b"no chunk"[..], Code::FORM),
        (&[0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, 9, 0][..], Code::FORM),
        (&[0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, 1, 0][..], Code::FORM),
        (&[0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, 1, 0xff, 0xff, 3][..], Code::FORM),
    ] {
        let (mut world, document) = world(3);
        let heads = [ChangeHash([0xaa; 32])];
        say(&mut world, document, &Reply { heads: &heads, chunks: &[chunk], ..Reply::default() });
        assert_eq!(ended(&mut world), Some(code), "{chunk:?}");
        world.edit(0, document);
        world.settle_but(1);
        assert_eq!(world.heads(0, document), world.relay.log.heads(&document));
    }
}

#[test]
fn invalid_and_misplaced_messages_are_ignored_or_end_the_session() {
    let join = |versions| {
        let metadata = PeerMetadata::default();
        Message::Join { sender: "mallory", metadata, versions }.encode()
    };
    let sync = |document: &str, sender: &str, target: &str| {
        let data = &Reply::default().encode().unwrap();
        Message::Sync(Sync { document, sender, target, data }).encode()
    };
    let fresh = || {
        let (mut world, document) = World::of_one(1, 2);
        world.connect(1);
        world.clients[1].out.clear();
        (world, name_of(&document))
    };
    let (mut world, document) = fresh();
    raw(&mut world, &sync(&document, "mallory", "relay"));
    assert_eq!(ended(&mut world), Some(Code::OUT_OF_ORDER));
    let (mut world, _) = fresh();
    raw(&mut world, &join(Some(vec!["2", "3"])));
    assert_eq!(ended(&mut world), Some(Code::UNSUPPORTED_VERSION));
    assert!(matches!(Message::decode(&world.session(1).sent[0]), Ok(Message::Error { .. })));
    let (mut world, _) = fresh();
    raw(&mut world, &[0xf6]);
    assert_eq!(ended(&mut world), Some(Code::MALFORMED));
    let (mut world, document) = fresh();
    raw(&mut world, &join(None));
    world.session(1).sent.clear();
    // A false sender or target: the message has no effect.
    raw(&mut world, &sync(&document, "alice", "relay"));
    raw(&mut world, &sync(&document, "mallory", "other"));
    assert!(world.session(1).sent.is_empty() && world.session(1).follows.is_empty());
    let ephemeral = |sender| {
        let (document, target, session) = (document.as_str(), "relay", "session");
        let said = Ephemeral { document, sender, target, session, count: 1, data: &[1] };
        Message::Ephemeral(said).encode()
    };
    raw(&mut world, &ephemeral("alice"));
    assert_eq!(world.session(1).said, []);
    raw(&mut world, &ephemeral("mallory"));
    assert_eq!(world.session(1).said.len(), 1);
    // A document id of another format.
    raw(&mut world, &sync("not an id", "mallory", "relay"));
    let answer = world.session(1).sent.pop_front().unwrap();
    let Ok(Message::Unavailable { document, target, .. }) = Message::decode(&answer) else {
        panic!("{answer:?}")
    };
    assert_eq!((document, target), ("not an id", "mallory"));
    raw(&mut world, &Message::Leave { sender: "mallory" }.encode());
    assert_eq!(ended(&mut world), Some(Code::GOODBYE));
}

#[test]
fn a_silent_peer_is_pinged_and_then_dropped() {
    let patience = Patience::default();
    let (mut world, _) = World::of_one(1, 2);
    world.connect(0);
    world.clients[0].out.clear();
    world.pass(patience.handshake);
    assert_eq!(world.session(0).ended.as_ref().map(|(code, _)| *code), Some(Code::SILENT));
    world.connect(1);
    world.settle();
    let id = world.session_id(1);
    let before = world.now;
    world.relay.with(id, |peer| peer.handle_timeout(before.after(patience.drop_after)));
    assert_eq!(ended(&mut world), Some(Code::SILENT));
    world.connect(1);
    world.settle();
    let id = world.session_id(1);
    let later = world.now.after(patience.drop_after);
    // While something is still being delivered to the peer, it does not count as silent.
    world.relay.with(id, |peer| {
        peer.handle_delivered(later);
        peer.handle_timeout(later);
    });
    assert_eq!(ended(&mut world), None);
}

#[test]
fn too_many_open_documents_end_the_session() {
    let (mut world, _) = world(0);
    let name = world.clients[1].name.clone();
    let (id, now) = (world.session_id(1), world.now);
    let data = Reply::default().encode().unwrap();
    for number in 0..=limits::REPO_DOCUMENTS as u128 {
        assert_eq!(ended(&mut world), None, "{number}");
        let document = name_of(&DocumentId::from_bytes(number.to_be_bytes()));
        let sync =
            Sync { document: &document, sender: &name, target: &host().peer_id, data: &data };
        let message = Message::Request(sync).encode();
        world.relay.with(id, |peer| peer.handle_message(now, &message));
    }
    assert_eq!(ended(&mut world), Some(Code::OVERLOADED));
}

#[test]
fn mutated_sessions_affect_no_other_session() {
    let mut rng = Rng::new(11);
    let mut ends = 0;
    for seed in 0..300 {
        let (mut world, document) = World::of_one(seed, 2);
        world.connect(0);
        world.edit_often(0, document, 6);
        world.settle();
        world.edit_often(1, document, 6);
        world.clients[1].may_fail = true;
        world.connect(1);
        for _ in 0..40 {
            if world.clients[1].ready
                && let Some(message) = world.clients[1].out.back_mut()
                && rng.chance(30)
            {
                let at = rng.below(message.len());
                message[at] ^= 1 << rng.below(8);
            }
            world.step();
            if world.session(1).ended.is_some() {
                ends += 1;
                break;
            }
        }
        world.disconnect(1);
        world.edit(0, document);
        world.settle();
        world.assert_equal();
    }
    assert!(ends > 50, "{ends}");
}
