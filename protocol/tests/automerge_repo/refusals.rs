//! Rejected and deferred changes, conflicts, and the sync of everything else meanwhile.

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{ActorId, Automerge, ROOT, ReadDoc};
use landfall_protocol::automerge_repo::sync::{Have, Reply};
use landfall_protocol::{ChangeHash, Code, DocumentId, limits};

use crate::world::World;

/// `count` changes of one actor, each on top of the one before.
fn write(automerge: &mut Automerge, actor: u8, from: usize, count: usize) {
    automerge.set_actor(ActorId::from([actor; 16]));
    for number in from..from + count {
        let mut transaction = automerge.transaction();
        transaction.put(ROOT, "key", format!("{actor} {number}")).unwrap();
        transaction.commit_with(CommitOptions::default().with_time(0));
    }
}

fn written(actor: u8, from: usize, count: usize) -> Automerge {
    let mut automerge = Automerge::new();
    write(&mut automerge, actor, from, count);
    automerge
}

fn bytes_of(automerge: &Automerge) -> Vec<(ChangeHash, Vec<u8>)> {
    let changes = automerge.get_changes(&[]);
    changes.iter().map(|change| (change.hash(), change.raw_bytes().to_vec())).collect()
}

/// A connected client that sends only what the test gives it.
fn puppet(seed: u64) -> (World, DocumentId) {
    let (mut world, document) = World::of_one(seed, 2);
    world.connect(0);
    world.connect(1);
    world.settle();
    (world, document)
}

fn send(world: &mut World, document: DocumentId, heads: &[ChangeHash], chunks: &[&[u8]]) {
    let data =
        Reply { heads, chunks, have: &[Default::default()], ..Reply::default() }.encode().unwrap();
    world.clients[1].send(document, false, &data);
    while !world.clients[1].out.is_empty() {
        world.carry_up(1);
    }
}

#[test]
fn changes_in_any_order_are_accepted_with_their_dependencies() {
    for seed in 0..20 {
        let (mut world, document) = puppet(seed);
        let changes = bytes_of(&written(1, 0, 12));
        let heads = [changes.last().unwrap().0];
        let mut left: Vec<_> = changes.iter().collect();
        while !left.is_empty() {
            let (_, bytes) = left.remove(world.rng.below(left.len()));
            send(&mut world, document, &heads, &[bytes]);
            world.settle_relay();
        }
        assert_eq!(world.relay.log.heads(&document), heads);
        world.assert_all_live();
    }
}

#[test]
fn missing_dependencies_are_requested() {
    let (mut world, document) = puppet(1);
    let changes = bytes_of(&written(1, 0, 3));
    send(&mut world, document, &[changes[2].0], &[&changes[2].1]);
    world.settle_relay();
    let request = world.last_sync(1);
    assert_eq!((request.need, request.have), (vec![changes[1].0], vec![Have::default()]));
    assert_eq!(request.heads, []);
    send(&mut world, document, &[changes[2].0], &[&changes[1].1]);
    world.settle_relay();
    assert_eq!(world.last_sync(1).need, [changes[0].0]);
    send(&mut world, document, &[changes[2].0], &[&changes[0].1]);
    world.settle_relay();
    let answer = world.last_sync(1);
    assert_eq!((answer.heads, answer.need), (vec![changes[2].0], vec![]));
}

#[test]
fn a_deferred_change_is_accepted_when_another_peer_sends_its_dependency() {
    let (mut world, document) = puppet(2);
    let automerge = written(1, 0, 3);
    let changes = bytes_of(&automerge);
    send(&mut world, document, &[changes[2].0], &[&changes[2].1]);
    world.settle_relay();
    let mut older = automerge.fork_at(&[changes[1].0]).unwrap();
    older.set_actor(ActorId::from([9; 16]));
    world.clients[0].put(document, &older, [9; 16]);
    world.settle_but(1);
    assert_eq!(world.relay.log.heads(&document), [changes[2].0]);
    assert_eq!(world.heads(0, document), [changes[2].0], "and forwarded to its sender");
}

#[test]
fn a_gap_hidden_by_a_filter_is_requested_by_both_ends() {
    // The peer's filter has a false positive for one change that the relay has and the peer lacks.
    for hidden in 0..5 {
        let (mut world, document) = World::of_one(3, 2);
        world.connect(0);
        world.edit_often(0, document, 5);
        world.settle();
        let all = world.clients[0].copy(&document).automerge.get_changes(&[]);
        let hidden = all[hidden].hash();
        // The peer has a change of its own, so the relay uses the filter.
        world.edit(1, document);
        let own = world.heads(1, document);
        world.connect(1);
        while !world.clients[1].ready {
            world.carry(1);
        }
        world.clients[1].out.clear();
        let state = &mut world.clients[1].copies.get_mut(&document).unwrap().state;
        (state.in_flight, state.have_responded) = (true, true);
        let filter = automerge::sync::BloomFilter::from_hashes([own[0], hidden].iter());
        let have = Have { filter, ..Have::default() };
        let data = Reply { heads: &own, have: &[have], ..Reply::default() }.encode().unwrap();
        world.clients[1].send(document, false, &data);
        world.traffic(1);
        world.settle();
        world.assert_equal();
        assert_eq!(world.relay.log.documents[&document].changes.len(), 6);
        // Its descendants arrive at once, and the change itself after the peer requests it.
        let traffic = world.traffic(1);
        assert!((5..=6).contains(&traffic.received_chunks), "{traffic:?}");
        assert!(traffic.received <= 4, "{traffic:?}");
    }
}

#[test]
fn too_many_deferred_bytes_end_the_session() {
    let (mut world, document) = puppet(4);
    let large = "x".repeat(limits::REPO_DEFERRED_BYTES / 4);
    let mut automerge = written(1, 0, 1);
    for number in 0..6u64 {
        let mut rng = landfall_test_rng::Rng::new(number);
        let noise = |_| char::from(b'!' + (rng.next_u64() % 90) as u8);
        let value: String = (0..large.len()).map(noise).collect();
        let mut transaction = automerge.transaction();
        transaction.put(ROOT, "key", value).unwrap();
        transaction.commit_with(CommitOptions::default().with_time(0));
    }
    let changes = bytes_of(&automerge);
    let heads = automerge.get_heads();
    for (number, (_, bytes)) in changes.iter().enumerate().skip(1) {
        assert_eq!(world.session(1).ended, None, "{number}");
        send(&mut world, document, &heads, &[bytes]);
        world.settle_relay();
        if world.session(1).ended.is_some() {
            assert_eq!(number, 4, "the fourth is beyond the limit");
            break;
        }
    }
    assert_eq!(world.session(1).ended.as_ref().map(|(code, _)| *code), Some(Code::OVERLOADED));
}

#[test]
fn too_many_deferred_changes_end_the_session() {
    let (mut world, document) = puppet(5);
    let automerge = written(1, 0, limits::DEFERRED_CHANGES + 2);
    let changes = bytes_of(&automerge);
    let chunks: Vec<&[u8]> = changes[1..].iter().map(|(_, bytes)| bytes.as_slice()).collect();
    let (most, last) = chunks.split_at(limits::DEFERRED_CHANGES);
    send(&mut world, document, &automerge.get_heads(), most);
    world.settle_relay();
    assert_eq!(world.session(1).ended, None);
    send(&mut world, document, &automerge.get_heads(), last);
    world.settle_relay();
    assert_eq!(world.session(1).ended.as_ref().map(|(code, _)| *code), Some(Code::OVERLOADED));
}

/// Gives a client a chain of `bad` changes that the relay rejects, and other changes that do not
/// depend on them. Returns the rejected ones.
fn unwanted(world: &mut World, document: DocumentId, bad: usize) -> Vec<ChangeHash> {
    world.clients[0].put(document, &written(1, 0, 2), [8; 16]);
    world.settle();
    let (good, mut both) = (written(2, 0, 3), written(3, 100, 1));
    world.relay.unwanted.insert(both.get_heads()[0]);
    write(&mut both, 4, 0, bad - 1);
    let mut both = {
        let mut first = good.clone();
        first.merge(&mut both).unwrap();
        first
    };
    both.set_actor(ActorId::from([5; 16]));
    world.clients[1].put(document, &both, [7; 16]);
    good.get_changes(&[]).iter().map(|change| change.hash()).collect()
}

#[test]
fn a_change_that_is_refused_does_not_stop_the_others() {
    for seed in 0..10 {
        let (mut world, document) = puppet(seed);
        let good = unwanted(&mut world, document, 4);
        world.settle();
        world.assert_all_live();
        assert!(good.iter().all(|hash| world.relay.log.contains(&document, hash)));
        assert_eq!(world.relay.log.documents[&document].changes.len(), 5);
        let refused: usize = world.relay.refused.iter().map(|(.., changes)| changes).sum();
        assert_eq!((refused, world.relay.refused[0].1), (4, Code::COUNTER));
        // Both clients go on, and receive each other's changes.
        world.traffic(0);
        world.traffic(1);
        world.edit(0, document);
        world.settle();
        world.assert_all_live();
        let head = world.relay.log.heads(&document);
        let copy = &world.clients[1].copy(&document).automerge;
        assert!(head.iter().all(|head| copy.get_change_by_hash(head).is_some()));
        let traffic = world.traffic(1);
        assert!(traffic.received <= 2 && traffic.received_chunks == 1, "{traffic:?}");
    }
}

#[test]
fn a_second_history_of_an_actor_is_refused_and_affects_no_other() {
    for seed in 0..10 {
        let (mut world, document) = puppet(seed);
        world.clients[0].put(document, &written(1, 0, 2), [8; 16]);
        world.settle();
        let mut other = written(1, 100, 4);
        let good = written(2, 0, 3);
        other.merge(&mut good.clone()).unwrap();
        world.clients[1].may_fail = true;
        world.clients[1].put(document, &other, [7; 16]);
        world.settle();
        world.assert_all_live();
        // The client cannot even apply what it receives. The relay rejects everything that it
        // sends.
        let chunks: Vec<_> = bytes_of(&other);
        let chunks: Vec<&[u8]> = chunks.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        send(&mut world, document, &other.get_heads(), &chunks);
        world.settle();
        world.assert_all_live();
        assert_eq!(world.heads(0, document), world.relay.log.heads(&document));
        assert!(world.heads(0, document).contains(&good.get_heads()[0]));
        assert!(world.relay.refused.iter().all(|(_, code, _)| {
            [Code::CONFLICTING_SEQUENCE, Code::MISSING_DEPENDENCY, Code::SEQUENCE_GAP]
                .contains(code)
        }));
        assert_eq!(world.relay.refused[0].1, Code::CONFLICTING_SEQUENCE);
    }
}

#[test]
fn a_thousand_dependents_of_a_refused_change_keep_the_session() {
    for seed in 0..4 {
        let (mut world, document) = puppet(seed);
        // Together with the others, more than one push holds.
        let good = unwanted(&mut world, document, limits::REPO_REFUSED);
        world.settle();
        world.assert_all_live();
        assert!(good.iter().all(|hash| world.relay.log.contains(&document, hash)));
        let refused: usize = world.relay.refused.iter().map(|(.., changes)| changes).sum();
        assert_eq!(refused, limits::REPO_REFUSED);
    }
}

#[test]
fn changes_with_old_dependencies_are_accepted_beside_a_refused_one() {
    let (mut world, document) = puppet(1);
    let mut base = written(1, 0, 300);
    let early = [base.get_changes(&[])[10].hash()];
    let [mut bad, mut good] = [3, 4].map(|actor| {
        let mut fork = base.fork_at(&early).unwrap();
        write(&mut fork, actor, 0, 1);
        fork
    });
    world.relay.unwanted.insert(bad.get_heads()[0]);
    base.merge(&mut bad).unwrap();
    base.merge(&mut good).unwrap();
    world.clients[1].put(document, &base, [7; 16]);
    world.settle();
    world.assert_all_live();
    assert_eq!(world.relay.log.documents[&document].changes.len(), 301);
    assert!(world.relay.log.contains(&document, &good.get_heads()[0]));
}

#[test]
fn too_many_refused_changes_end_the_session() {
    let (mut world, document) = puppet(1);
    unwanted(&mut world, document, limits::REPO_REFUSED + 1);
    world.settle();
    let ended = world.session(1).ended.as_ref().map(|(code, _)| *code);
    assert_eq!(ended, Some(Code::MISSING_DEPENDENCY));
}

#[test]
fn dependents_of_a_change_under_refusal_are_refused_with_it() {
    // The second message arrives while the first one's changes are being committed.
    for seed in 0..40 {
        let (mut world, document) = puppet(seed);
        world.clients[0].put(document, &written(1, 0, 2), [8; 16]);
        world.settle();
        let mut bad = written(3, 100, 1);
        world.relay.unwanted.insert(bad.get_heads()[0]);
        // By another actor, so that no gap in its sequence numbers shows that it is missing.
        write(&mut bad, 4, 0, 2);
        let mut both = written(2, 0, 1);
        both.merge(&mut bad.clone()).unwrap();
        let changes = bytes_of(&both);
        let good = written(2, 0, 1).get_heads()[0];
        let heads = both.get_heads();
        let first: Vec<&[u8]> = changes
            .iter()
            .filter(|(hash, _)| *hash == good || *hash == bad.get_changes(&[])[0].hash())
            .map(|(_, bytes)| bytes.as_slice())
            .collect();
        let rest: Vec<&[u8]> = bad.get_changes(&[])[1..]
            .iter()
            .map(|change| changes.iter().find(|(hash, _)| *hash == change.hash()).unwrap())
            .map(|(_, bytes)| bytes.as_slice())
            .collect();
        assert_eq!((first.len(), rest.len()), (2, 2));
        send(&mut world, document, &heads, &first);
        world.relay_steps(1 + seed as usize % 5);
        send(&mut world, document, &heads, &rest);
        world.settle_relay();
        world.assert_all_live();
        let refused: usize = world.relay.refused.iter().map(|(.., changes)| changes).sum();
        assert_eq!(refused, 3, "it and its dependents");
        assert!(world.relay.log.contains(&document, &good));
        assert_eq!(world.relay.log.documents[&document].changes.len(), 3);
    }
}

#[test]
fn a_lagging_peer_with_refused_changes_still_gets_others_changes() {
    let (mut world, document) = puppet(7);
    unwanted(&mut world, document, 2);
    world.settle();
    world.assert_all_live();
    for _ in 0..3 {
        world.traffic(1);
        // The session's mailbox overflows: the new entries are read from the store.
        let id = world.session_id(1);
        world.edit_often(0, document, 20);
        while world.carry(0) {}
        world.relay.commit_all_past(id);
        world.settle();
        let traffic = world.traffic(1);
        assert_eq!(traffic.received_chunks, 20, "{traffic:?}");
        assert!(traffic.received <= 2, "{traffic:?}");
    }
    let heads = world.relay.log.heads(&document);
    let copy = &world.clients[1].copy(&document).automerge;
    assert!(heads.iter().all(|head| copy.get_change_by_hash(head).is_some()));
}
