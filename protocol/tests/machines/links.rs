//! A link's requests, spaces that come and go, and dead connections that look alive.

use landfall_protocol::admission::Roots;
use landfall_protocol::client::{OutboxChange, OutboxKind, ReplicaEffect, SpacePhase, Unchecked};
use landfall_protocol::digest::{Branch, Node};
use landfall_protocol::frame::{Ack, Difference, Frame, Mark, SubscriptionId};
use landfall_protocol::{DocumentId, Epoch, Local, Offset, SpaceName, limits};

use crate::scripted::{Scripted, space};

/// Answers one digest query as a relay without documents, and the store without documents too.
fn answer_digest(link: &mut Scripted, name: &SpaceName) {
    let Some(Frame::Digest(query)) = link.next_sent() else { panic!("no question") };
    let branches: Vec<Branch> = query
        .prefixes
        .iter()
        .map(|prefix| Branch { prefix: *prefix, node: Node::DigestEntries(vec![]) })
        .collect();
    let (subscription, head) = (query.subscription, Offset(0));
    link.say(&Frame::Difference(Difference { subscription, head, branches: branches.clone() }));
    assert!(matches!(link.effects.pop_front(), Some(ReplicaEffect::LoadBranches { .. })));
    link.replica.handle_branches(link.now, name, &branches);
    link.drain();
}

#[test]
fn every_check_is_answered_also_twice_in_a_row_and_beside_a_refused_space() {
    let (good, bad) = (space("good"), space("bad"));
    let mut link = Scripted::new(&[good.clone(), bad.clone()]);
    link.refused.insert(bad.clone());
    link.connect();
    for ticket in 1..=3 {
        link.check(&good, ticket);
        link.check(&bad, ticket);
        answer_digest(&mut link, &good);
        assert_eq!(link.checked.last(), Some(&(good.clone(), ticket, 0)));
        let (refused, answered, why) = link.unchecked.last().unwrap();
        assert_eq!((refused, *answered), (&bad, ticket));
        assert!(matches!(why, Unchecked::Refused { .. }), "{why}");
    }
    assert_eq!((link.checked.len(), link.unchecked.len()), (3, 3));
    assert_eq!(link.ended, None);
}

#[test]
fn a_check_requested_during_another_gets_its_own_comparison() {
    let name = space("s");
    let mut link = Scripted::new(std::slice::from_ref(&name));
    link.connect();
    link.check(&name, 1);
    link.check(&name, 2);
    answer_digest(&mut link, &name);
    assert_eq!(link.checked, [(name.clone(), 1, 0)]);
    answer_digest(&mut link, &name);
    assert_eq!(link.checked.last(), Some(&(name, 2, 0)));
}

#[test]
fn a_check_outlives_its_connection_and_ends_with_its_space() {
    let name = space("s");
    let mut link = Scripted::new(std::slice::from_ref(&name));
    link.check(&name, 1);
    assert!(link.checked.is_empty() && link.unchecked.is_empty(), "it waits for a connection");
    link.connect();
    assert!(matches!(link.sent.front(), Some(Frame::Digest(_))));
    link.disconnect();
    link.connect();
    answer_digest(&mut link, &name);
    assert_eq!(link.checked, [(name.clone(), 1, 0)]);
    link.check(&name, 2);
    link.replica.handle_space_removed(link.now, &name);
    link.drain();
    assert_eq!(link.unchecked, [(name.clone(), 2, Unchecked::Removed)]);
    link.check(&name, 3);
    assert_eq!(link.unchecked.last(), Some(&(name, 3, Unchecked::Removed)));
}

#[test]
fn a_check_of_a_constantly_changing_space_ends_as_busy() {
    let name = space("s");
    let mut link = Scripted::new(std::slice::from_ref(&name));
    link.connect();
    link.check(&name, 1);
    let mut queries = 0;
    while let Some(Frame::Digest(query)) = link.next_sent() {
        queries += 1;
        let prefixes = query.prefixes.iter();
        let branches = prefixes
            .map(|prefix| Branch { prefix: *prefix, node: Node::DigestEntries(vec![]) })
            .collect();
        // The relay's log has grown meanwhile.
        let (subscription, head) = (query.subscription, Offset(queries));
        link.say(&Frame::Difference(Difference { subscription, head, branches }));
        link.now = link.replica.poll_timeout();
        link.replica.handle_timeout(link.now);
        link.drain();
        link.sent.retain(|frame| matches!(frame, Frame::Digest(_)));
    }
    assert_eq!(queries, u64::from(limits::CHECK_TRIES));
    assert_eq!(link.unchecked, [(name, 1, Unchecked::Busy)]);
}

fn change(local: u64) -> OutboxChange {
    let (document, bytes) = (DocumentId::from_bytes([3; 16]), vec![0; 100]);
    OutboxChange { local: Local(local), document, what: OutboxKind::Change(bytes, Roots::One) }
}

fn ack(link: &mut Scripted, id: u64) {
    let through = Mark { epoch: Epoch::from_bytes([2; 16]), offset: Offset(1) };
    link.say(&Frame::Ack(Ack { id, count: 1, through }));
}

#[test]
fn any_number_of_spaces_is_pushed_with_few_pages_in_memory() {
    let spaces: Vec<SpaceName> = (0..500).map(|n| space(&format!("s{n}"))).collect();
    let mut link = Scripted::new(&spaces);
    for space in &spaces {
        link.outbox.insert(space.clone(), vec![change(1)]);
    }
    link.connect();
    let mut pushed = 0;
    while let Some(frame) = link.next_sent() {
        if let Frame::Push(push) = frame {
            pushed += 1;
            // One push slot is kept free, and pages wait for pushes: beside those in flight, only
            // some spaces have a page.
            assert!(link.sent.len() <= limits::PUSHES_IN_FLIGHT);
            ack(&mut link, push.id);
        }
    }
    assert_eq!(pushed, spaces.len());
    assert!(link.outbox.values().all(Vec::is_empty), "some was not pushed");
    assert!(link.phases.values().all(|phase| *phase == SpacePhase::Live));
}

#[test]
fn a_removed_space_is_unsubscribed_and_frees_its_places() {
    let (gone, stays) = (space("gone"), space("stays"));
    let mut link = Scripted::new(&[gone.clone(), stays.clone()]);
    link.outbox.insert(gone.clone(), (1..=200).map(change).collect());
    link.connect();
    let of = |frame: &Frame| match frame {
        Frame::Push(push) => Some(push.subscription),
        _ => None,
    };
    let subscription: SubscriptionId = link.sent.iter().find_map(of).unwrap();
    link.replica.handle_space_removed(link.now, &gone);
    link.outbox.insert(stays.clone(), vec![change(1)]);
    link.replica.handle_local(link.now, &stays);
    link.drain();
    assert!(link.sent.contains(&Frame::Unsubscribe(subscription)));
    let last = link.sent.iter().filter_map(of).next_back().unwrap();
    assert_ne!(last, subscription, "the other space is pushed");
    // Created again, it has another subscription, and late frames of the first are ignored.
    link.replica.handle_space(gone.clone());
    link.drain();
    ack(&mut link, 1);
    assert_eq!(link.ended, None);
    assert_eq!(link.phases.get(&gone), Some(&SpacePhase::Live));
}

#[test]
fn a_deletion_of_a_rejected_document_is_pushed() {
    use landfall_protocol::Code;
    use landfall_protocol::code::NackClass;
    use landfall_protocol::frame::Nack;
    let name = space("s");
    let mut link = Scripted::new(std::slice::from_ref(&name));
    link.outbox.insert(name.clone(), vec![change(1)]);
    link.connect();
    let refuse = |link: &mut Scripted, id| {
        let (code, class, retry_after_ms) = (Code::FORBIDDEN, NackClass::REFUSED, 0);
        link.say(&Frame::Nack(Nack { id, code, class, retry_after_ms, what: "no".into() }));
    };
    let Some(Frame::Push(push)) = link.next_sent() else { panic!("it is pushed") };
    refuse(&mut link, push.id);
    assert!(matches!(link.effects.pop_back(), Some(ReplicaEffect::Reject { deletion: false, .. })));
    // Another change of it stays here, its deletion does not.
    let tombstone = OutboxChange { local: Local(3), what: OutboxKind::Tombstone, ..change(3) };
    link.outbox.insert(name.clone(), vec![change(2), tombstone]);
    link.replica.handle_local(link.now, &name);
    link.drain();
    let Some(Frame::PushEntry(deletion)) = link.next_sent() else { panic!("it is not sent") };
    refuse(&mut link, deletion.id);
    assert!(matches!(link.effects.pop_back(), Some(ReplicaEffect::Reject { deletion: true, .. })));
    link.replica.handle_local(link.now, &name);
    link.drain();
    assert_eq!(link.next_sent(), None, "a refused deletion is not offered again");
}

#[test]
fn a_probe_ends_only_a_dead_connection() {
    let mut link = Scripted::new(&[space("s")]);
    link.connect();
    link.sent.clear();
    for answers in [true, false] {
        link.replica.handle_probe(link.now);
        link.drain();
        let Some(Frame::Ping(nonce)) = link.next_sent() else { panic!("no ping") };
        if answers {
            link.say(&Frame::Pong(nonce));
        }
        link.now = link.now.after(limits::PROBE);
        link.replica.handle_timeout(link.now);
        link.drain();
        assert_eq!(link.ended.is_none(), answers, "{:?}", link.ended);
    }
}

#[test]
fn a_late_pong_does_not_answer_a_later_probe() {
    let mut link = Scripted::new(&[space("s")]);
    link.connect();
    link.sent.clear();
    let probe = |link: &mut Scripted| {
        link.replica.handle_probe(link.now);
        link.drain();
        let Some(Frame::Ping(nonce)) = link.next_sent() else { panic!("no ping") };
        nonce
    };
    let first = probe(&mut link);
    link.say(&Frame::Pong(first));
    let second = probe(&mut link);
    // The relay answers the first once more, then the connection is dead.
    link.say(&Frame::Pong(first));
    link.now = link.replica.poll_timeout();
    assert!(link.now.since(Default::default()) <= limits::PROBE, "it waits for ordinary silence");
    link.replica.handle_timeout(link.now);
    link.drain();
    assert!(link.ended.is_some(), "a pong of probe {first} answered probe {second}");
}

#[test]
fn a_probe_waits_while_something_arrives() {
    let mut link = Scripted::new(&[space("s")]);
    link.connect();
    link.sent.clear();
    link.replica.handle_probe(link.now);
    link.drain();
    let Some(Frame::Ping(nonce)) = link.next_sent() else { panic!("no ping") };
    for _ in 0..5 {
        // Frames sent before the pong take their time on a slow connection.
        link.now = link.now.after(limits::PROBE / 4 * 3);
        link.replica.handle_sign_of_life(link.now);
        link.replica.handle_timeout(link.now);
        link.drain();
        assert_eq!(link.ended, None);
    }
    link.say(&Frame::Pong(nonce));
    link.now = link.now.after(limits::PROBE * 2);
    link.replica.handle_timeout(link.now);
    link.drain();
    assert_eq!(link.ended, None, "the probe was answered");
}
