//! Clients of different rights in one space, with random edits and faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use landfall_protocol::access::{Principal, Rights, Rule, SpacePattern, Subject};
use landfall_protocol::admission::Roots;
use landfall_protocol::frame::Filter;
use landfall_protocol::relay::{Author, CheckedPush, PendingPush, PushVerdict, PushedEntry};
use landfall_protocol::{ChangeHash, Code, DocumentId, SessionId};

use crate::model;
use crate::relay::Relay;
use crate::world::{Faults, World};

fn principal(name: &str, rules: &[(Option<DocumentId>, Rights)]) -> Arc<Principal> {
    let rule = |(document, rights): &(Option<DocumentId>, Rights)| {
        let (spaces, document) = (SpacePattern::every(), *document);
        Rule { spaces, document, rights: *rights }
    };
    let rules = rules.iter().map(rule).collect();
    let (subject, groups) = (Some(Subject::new(name)), BTreeSet::new());
    Arc::new(Principal { subject, groups, rules, expires_ms: None })
}

/// One may do everything, one reads a document and writes another, one reads all and writes one,
/// and one may only create.
fn world(seed: u64, faults: Faults) -> (World, Vec<Arc<Principal>>) {
    let mut world = World::new(seed, 4, faults);
    let [first, second, third, _] = world.documents[..] else { panic!("four documents") };
    let principals = vec![
        principal("admin", &[(None, Rights::ALL)]),
        principal("some", &[(Some(first), Rights::READ), (Some(second), Rights::DELETE)]),
        principal("reader", &[(None, Rights::READ), (Some(third), Rights::WRITE)]),
        principal("creator", &[(None, Rights::CREATE)]),
    ];
    for (client, principal) in principals.iter().enumerate() {
        let replica = world.clients[client].replica_id();
        world.relay.principals.insert(replica, Arc::clone(principal));
        let view = principal.view(&world.space, &Filter::Everything);
        world.views[client] = (!view.is_whole_space()).then_some(view);
    }
    (world, principals)
}

/// The rights on a document with which each author writes.
fn rights_of(
    principals: &[Arc<Principal>],
    world: &World,
    author: &[u8],
    document: &DocumentId,
) -> Rights {
    let named = |principal: &&Arc<Principal>| {
        principal.subject.as_ref().is_some_and(|subject| subject.as_str().as_bytes() == author)
    };
    let principal = principals.iter().find(named).expect("a known author");
    principal.rights(&world.space, document)
}

fn check(world: &World, principals: &[Arc<Principal>]) {
    let held: BTreeSet<_> = world.relay.disk.holds().into_iter().collect();
    // No entry by an author without the right to write it.
    for (document, stored) in &world.relay.disk.documents {
        for entry in stored.entries() {
            let needed = match stored.is_deleted() {
                true => Rights::DELETE,
                false => Rights::WRITE,
            };
            let rights = rights_of(principals, world, &entry.author, document);
            assert!(rights.includes(needed), "{document} by {:?}", entry.author);
        }
    }
    // Each client has all that it may read, and its rejected edits are its own only.
    let mut of_client = BTreeMap::new();
    for (client, principal) in principals.iter().enumerate() {
        let view = principal.view(&world.space, &Filter::Everything);
        let store = &world.clients[client].store;
        let ours: BTreeSet<_> = store.holds().into_iter().collect();
        let readable = held.iter().filter(|(document, _)| view.contains(document));
        let missing = readable.filter(|change| !ours.contains(*change)).count();
        assert_eq!(missing, 0, "client {client} misses changes");
        // Every client makes the same first change.
        let root = model::root(world.clients[client].root).hash;
        let own =
            |change: &(DocumentId, ChangeHash)| change.1 == root || world.made[change] == client;
        let foreign = ours.difference(&held).filter(|change| !own(change));
        assert_eq!(foreign.count(), 0, "client {client} has another's rejected changes");
        of_client.insert(client, ours);
    }
    // Nothing that an edit returned is lost: it is at the relay, or still at its author.
    for (change, author) in &world.made {
        let is_kept = held.contains(change) || of_client[author].contains(change);
        assert!(is_kept || world.deleted.contains(&change.0), "an edit is lost");
    }
}

#[test]
fn nobody_reads_or_writes_beyond_their_rights() {
    let mut arrived = 0;
    for seed in 0..60 {
        let faults = Faults { repeat: 10, cut: 30, commit_fails: 10, ..Faults::default() };
        let (mut world, principals) = world(seed, faults);
        (0..600).for_each(|_| world.step());
        world.settle();
        check(&world, &principals);
        let of_first = |(document, _): &&(DocumentId, ChangeHash)| *document == world.documents[0];
        arrived += world.relay.disk.holds().iter().filter(of_first).count();
    }
    assert!(arrived > 0, "no seed edits the document that a client may only read");
}

/// The space's machine decides, whatever the session let through.
#[test]
fn the_sequencer_checks_the_right_where_it_gives_the_offset() {
    let (mut world, _) = world(1, Faults::default());
    let (existing, unknown) = (world.documents[0], world.documents[1]);
    world.edit_document(0, existing);
    world.settle();
    let change = model::root(9);
    let Relay { space, disk, .. } = &mut world.relay;
    let mut push = |document, rights| {
        let author = Author { name: b"x".to_vec(), rights };
        let (changes, rest, roots) = (vec![change.clone()], None, Roots::Several);
        let (session, id) = (SessionId(9), 1);
        let push = CheckedPush { session, id, document, author, changes, rest, roots };
        match space.handle_push(PendingPush::new(push), disk, 0) {
            PushVerdict::Answered(answer) => Err(answer.refusal.expect("a refusal").code),
            PushVerdict::Waits => Ok(()),
            PushVerdict::Stopped(_, never) => match never {},
        }
    };
    for rights in [Rights::NONE, Rights::READ, Rights::CREATE] {
        assert_eq!(push(existing, rights), Err(Code::FORBIDDEN), "{rights}");
        assert_eq!(push(unknown, rights), Err(Code::FORBIDDEN), "{rights}");
    }
    assert_eq!(push(existing, Rights::WRITE), Ok(()));
    assert_eq!(push(unknown, Rights::WRITE), Err(Code::FORBIDDEN));
    assert_eq!(push(unknown, Rights::WRITE.union(Rights::CREATE)), Ok(()));
    let deletion = |rights| {
        let author = Author { name: b"x".to_vec(), rights };
        PushedEntry { session: SessionId(9), id: 2, document: existing, author }
    };
    let Ok(verdict) = space.handle_deletion(&deletion(Rights::WRITE), disk, 0);
    assert!(matches!(verdict, PushVerdict::Answered(answer) if answer.refusal.is_some()));
    let Ok(verdict) = space.handle_deletion(&deletion(Rights::DELETE), disk, 0);
    assert!(matches!(verdict, PushVerdict::Waits));
}

/// Only those who may delete can delete; the edits of the others survive at the relay.
#[test]
fn a_deletion_without_the_right_is_rejected() {
    let (mut world, principals) = world(7, Faults::default());
    (0..4).for_each(|n| world.edit_document(0, world.documents[n]));
    world.settle();
    for (client, document, is_deleted) in [(1, 0, false), (2, 2, false), (1, 1, true), (0, 3, true)]
    {
        let document = world.documents[document];
        world.clients[client].delete(world.now, document);
        world.settle();
        let stored = &world.relay.disk.documents[&document];
        assert_eq!(stored.is_deleted(), is_deleted, "client {client}");
    }
    drop(principals);
}
