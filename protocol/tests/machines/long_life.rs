//! The promises over years: compaction, restores, copies, deletion, filters, drift.

use landfall_protocol::DocumentId;
use landfall_protocol::client::SpacePhase;
use landfall_protocol::frame::Filter;

use crate::relay::Disk;
use crate::scenarios::{HOSTILE, seeds};
use crate::world::{Faults, World};

const COMPACTING: Faults = Faults { compaction: 100, ..HOSTILE };
const DELETING: Faults = Faults { delete: 2, ..COMPACTING };

fn run(world: &mut World, steps: usize) {
    (0..steps).for_each(|_| world.step());
}

fn settle_and_check(world: &mut World) {
    world.settle();
    world.check();
}

#[test]
fn constant_compaction_at_both_ends_changes_no_content() {
    let mut snapshots = 0;
    for seed in seeds(50) {
        let mut world = World::new(seed, 3, COMPACTING);
        run(&mut world, 3_000);
        settle_and_check(&mut world);
        snapshots += world.relay.disk.snapshots();
    }
    assert!(snapshots > 0, "something was compacted");
}

#[test]
fn a_restored_relay_is_healed_from_its_clients() {
    for seed in seeds(50) {
        let mut world = World::new(seed, 3, DELETING);
        run(&mut world, 700);
        let backup = world.relay.disk.clone();
        run(&mut world, 700);
        let kept = world.faults;
        if seed % 2 == 0 {
            world.settle();
        }
        world.faults = kept;
        world.restart_relay(backup);
        run(&mut world, 1_000);
        settle_and_check(&mut world);
    }
}

#[test]
fn a_copied_back_relay_that_grows_past_the_cursors_is_noticed() {
    for seed in seeds(50) {
        let mut world = World::new(seed, 3, COMPACTING);
        run(&mut world, 600);
        let backup = world.relay.disk.clone();
        run(&mut world, 600);
        world.settle();
        let grown = world.relay.disk.head.0;
        world.restart_relay(backup);
        (0..grown + 20).for_each(|_| world.edit(0));
        world.connect(0);
        world.faults = COMPACTING;
        run(&mut world, 2_000);
        settle_and_check(&mut world);
    }
}

#[test]
fn a_wiped_relay_is_healed_with_snapshots() {
    for seed in seeds(50) {
        let mut world = World::new(seed, 3, DELETING);
        run(&mut world, 1_000);
        world.settle();
        let mut disk = Disk::new(world.rng.bytes());
        if seed % 2 == 0 {
            disk.upstream = world.relay.disk.upstream;
        }
        world.restart_relay(disk);
        world.faults = DELETING;
        run(&mut world, 1_000);
        settle_and_check(&mut world);
    }
}

#[test]
fn two_relays_used_in_turn_converge() {
    for seed in seeds(50) {
        let mut world = World::new(seed, 3, DELETING);
        let mut other = Disk::new(world.rng.bytes());
        for _ in 0..6 {
            run(&mut world, 400);
            other = world.restart_relay(other);
        }
        settle_and_check(&mut world);
        world.restart_relay(other);
        settle_and_check(&mut world);
    }
}

#[test]
fn a_client_restored_from_its_own_backup_catches_up() {
    for seed in seeds(50) {
        let mut world = World::new(seed, 3, DELETING);
        run(&mut world, 700);
        let backup = world.clients[0].store.clone();
        run(&mut world, 700);
        // Changes that no other end has are thrown away with the store.
        let thrown = world.clients[0].store.holds();
        let kept = |made: &(DocumentId, _)| {
            world.clients[1..].iter().any(|client| client.store.holds().contains(made))
                || world.relay.disk.holds().contains(made)
                || backup.holds().contains(made)
        };
        let thrown: Vec<_> = thrown.into_iter().filter(|made| !kept(made)).collect();
        let mut reported = world.clients[0].store.told.clone();
        reported.extend(world.clients[0].store.holds().into_iter().map(|(_, hash)| hash));
        for made in &thrown {
            world.returned.remove(made);
        }
        // So is a deletion that no other end has.
        let clients = &world.clients;
        let deletions = clients[0].store.tombstones.keys().copied().collect::<Vec<_>>();
        let alone = |d: &DocumentId| {
            clients[1..].iter().all(|client| !client.store.tombstones.contains_key(d))
                && !world.relay.disk.documents.get(d).is_some_and(|d| d.is_deleted())
                && !backup.tombstones.contains_key(d)
        };
        let alone: Vec<_> = deletions.into_iter().filter(alone).collect();
        for document in alone {
            world.deleted.remove(&document);
            // Its changes went with the deletion, and their author knows.
            let relay = world.relay.disk.holds();
            world.returned.retain(|made| made.0 != document || relay.contains(made));
        }
        world.reopen(0, backup);
        world.clients[0].store.told.extend(reported);
        run(&mut world, 1_000);
        settle_and_check(&mut world);
    }
}

#[test]
fn a_cloned_client_may_be_edited_on_both_sides() {
    for seed in seeds(50) {
        let mut world = World::new(seed, 2, DELETING);
        run(&mut world, 900);
        world.clone_client(0);
        run(&mut world, 1_500);
        settle_and_check(&mut world);
    }
}

#[test]
fn a_deletion_beats_offline_editors_and_never_comes_back() {
    for seed in seeds(50) {
        let mut world = World::new(seed, 3, COMPACTING);
        run(&mut world, 800);
        world.settle();
        let backup = world.relay.disk.clone();
        // One client keeps editing offline while another deletes the document.
        let document = world.documents[0];
        world.disconnect(2);
        (0..5).for_each(|_| world.edit_document(2, document));
        let unsent = world.clients[2].store.pending(world.relay.disk.upstream);
        world.delete(1, document);
        if seed % 3 == 0 {
            world.restart_relay(backup);
        }
        world.faults = COMPACTING;
        run(&mut world, 800);
        settle_and_check(&mut world);
        assert!(unsent > 0 && world.deleted.contains(&document));
        // Another relay, with an empty log.
        world.restart_relay(Disk::new([9; 16]));
        settle_and_check(&mut world);
        assert!(world.relay.disk.documents[&document].is_deleted());
    }
}

#[test]
fn an_offline_editors_orphaned_edits_are_reported() {
    let mut world = World::new(3, 2, Faults::default());
    let document = world.documents[0];
    world.edit_document(0, document);
    world.settle();
    world.disconnect(1);
    (0..4).for_each(|_| world.edit_document(1, document));
    world.delete(0, document);
    while world.clients[0].store.pending(world.relay.disk.upstream) > 0 {
        if world.sessions[0].is_none() {
            world.connect(0);
        }
        world.step();
        world.disconnect(1);
    }
    settle_and_check(&mut world);
    let reported = &world.clients[1].store.told;
    assert!(reported.len() >= 4, "only {} were reported", reported.len());
    assert!(world.clients[0].store.told.is_empty(), "no acknowledged change is lost");
}

#[test]
fn filters_that_change_while_live_miss_nothing() {
    for seed in seeds(50) {
        let mut world = World::new(seed, 3, DELETING);
        for _ in 0..8 {
            run(&mut world, 250);
            let client = world.rng.below(3);
            let mut some = world.documents.clone();
            some.retain(|_| world.rng.chance(50));
            let everything = world.rng.chance(30);
            let filter = if everything { Filter::Everything } else { Filter::of_documents(some) };
            world.clients[client].set_filter(filter);
        }
        settle_and_check(&mut world);
        // In the end all clients want everything again.
        for client in 0..3 {
            world.clients[client].set_filter(Filter::Everything);
        }
        settle_and_check(&mut world);
    }
}

#[test]
fn a_filter_that_changes_again_and_again_ends_no_connection() {
    for seed in seeds(30) {
        let mut world = World::new(seed, 2, Faults::default());
        run(&mut world, 500);
        let session = world.sessions[0];
        for _ in 0..10 {
            let document = world.document();
            world.clients[0].set_filter(Filter::of_documents([document]));
            let steps = world.rng.below(30);
            run(&mut world, steps);
        }
        settle_and_check(&mut world);
        world.clients[0].set_filter(Filter::Everything);
        settle_and_check(&mut world);
        let goes_on = session.is_none() || session == world.sessions[0];
        assert!(goes_on, "the session was ended: {:?}", world.ends);
    }
}

#[test]
fn documents_that_enter_the_scope_arrive_whole() {
    for seed in seeds(30) {
        let mut world = World::new(seed, 2, Faults { compaction: 100, ..Faults::default() });
        let documents = world.documents.clone();
        world.settle();
        world.clients[0].set_filter(Filter::of_documents([documents[0]]));
        run(&mut world, 600);
        settle_and_check(&mut world);
        assert!(world.clients[0].store.rows(&documents[1]).count() < 30);
        world.clients[0].set_filter(Filter::of_documents([documents[0], documents[1]]));
        run(&mut world, 30);
        settle_and_check(&mut world);
        assert!(world.ends.is_empty(), "{:?}", world.ends);
    }
}

#[test]
fn edits_during_a_comparison_are_pushed() {
    for seed in seeds(60) {
        let mut world = World::new(seed, 2, Faults::default());
        run(&mut world, 600);
        world.settle();
        let mut disk = world.relay.disk.clone();
        for record in &mut disk.epochs {
            record.epoch = landfall_protocol::Epoch::from_bytes(world.rng.bytes());
        }
        world.restart_relay(disk);
        let mut edits = 0;
        world.connect(0);
        while edits == 0 || !matches!(world.clients[0].phase, SpacePhase::Live) {
            world.exchange(0);
            let compares = matches!(world.clients[0].phase, SpacePhase::Comparing { .. });
            if compares && world.rng.chance(30) {
                world.edit(0);
                edits += 1;
            }
            if world.clients[0].phase == SpacePhase::Live && edits == 0 {
                break;
            }
        }
        settle_and_check(&mut world);
    }
}

/// All clients check until no check finds a difference; returns the documents that differed.
fn check_all(world: &mut World) -> Vec<DocumentId> {
    let mut found = Vec::new();
    for client in 0..world.clients.len() {
        assert!(world.clients[client].check(world.now), "nothing is under way");
        world.settle();
        let checked = std::mem::take(&mut world.clients[client].store.checked);
        assert_eq!(checked.len(), 1, "a check completes");
        found.extend(checked.into_iter().flatten());
    }
    found
}

#[test]
fn drift_at_the_relay_is_found_named_and_healed() {
    for seed in seeds(60) {
        let mut world = World::new(seed, 3, COMPACTING);
        run(&mut world, 900);
        settle_and_check(&mut world);
        assert!(check_all(&mut world).is_empty(), "a false alarm");
        let document = world.document();
        if !world.relay.disk.lose(&document) {
            continue;
        }
        if seed % 3 == 0 {
            let documents = world.documents.clone();
            world.clients[0].set_filter(Filter::of_documents(documents));
            world.settle();
        }
        assert_eq!(check_all(&mut world), [document], "seed {seed}");
        assert!(check_all(&mut world).is_empty());
        world.check();
    }
}

#[test]
fn drift_at_a_client_is_found_named_and_healed() {
    for seed in seeds(60) {
        let mut world = World::new(seed, 3, COMPACTING);
        run(&mut world, 900);
        settle_and_check(&mut world);
        let document = world.document();
        let mut store = world.clients[1].store.clone();
        if store.lose(&document).is_none() {
            continue;
        }
        world.reopen(1, store);
        world.settle();
        assert_eq!(check_all(&mut world), [document], "seed {seed}");
        assert!(check_all(&mut world).is_empty());
        world.check();
    }
}

#[test]
fn a_check_while_others_edit_raises_no_alarm() {
    let (mut interrupted, mut ended) = (0, 0);
    for seed in seeds(60) {
        let mut world = World::new(seed, 3, Faults { compaction: 100, ..Faults::default() });
        let documents = world.documents.clone();
        if seed % 3 == 0 {
            // A client that names documents does not walk the digests; it fetches the documents.
            world.clients[0].set_filter(Filter::of_documents(documents));
        }
        for _ in 0..40 {
            world.settle();
            let client = world.rng.below(3);
            let began = world.clients[client].check(world.now);
            run(&mut world, 40);
            let checked = &world.clients[client];
            let is_answered = checked.answered.last() == Some(&checked.tickets);
            let runs = checked.replica.is_checking(&checked.space);
            interrupted += usize::from(began && !is_answered && !runs);
        }
        settle_and_check(&mut world);
        for client in &world.clients {
            assert_eq!(client.store.checked.iter().flatten().count(), 0, "a false alarm");
            ended += client.store.checked.len();
            let last = client.answered.last().copied().unwrap_or_default();
            assert_eq!(last, client.tickets, "a check was not answered");
        }
    }
    assert!(ended > 0 && interrupted > 0, "{ended} ended, {interrupted} met an edit");
}
