//! The store against the model: after any sequence of appends, compactions, deletions and prunes, every read
//! returns the same as the model.

use landfall_protocol::access::View;
use landfall_protocol::admission::KnownChange;
use landfall_protocol::digest::{Branch, Prefix};
use landfall_protocol::frame::Holding;
use landfall_protocol::{DocumentId, Offset, SpaceName};

use super::model_world::{Model, World};
use crate::store::{Documents, Log, Snapshots, SqliteStore, StoreError, SumCursor};

fn run(seed: u64, steps: usize) {
    let mut world = World::new(seed);
    for step in 0..steps {
        match world.rng.below(20) {
            0..=9 => world.append(),
            10..=14 => world.compact(),
            15..=18 => world.prune(),
            _ => world.reopen(),
        }
        if step % 5 == 0 {
            check(&mut world);
        }
    }
    // Pruning everything dead is invisible to readers.
    while world.store.prune(u64::MAX / 2, 100).unwrap() {}
    check(&mut world);
    check_rows(&world);
}

fn check(world: &mut World) {
    let after = world.rng.below(world.head as usize + 1) as u64;
    for after in [0, after] {
        let everything = View::everything();
        assert_eq!(world.read(after, &everything), world.standing(after, &everything));
        let some = world.documents.keys().copied().step_by(3);
        let some = View::of_documents(some);
        assert_eq!(world.read(after, &some), world.standing(after, &some));
    }
    check_digests(world);
    let number = world.rng.below(world.documents.len().max(1));
    if let Some((id, model)) = world.documents.iter().nth(number) {
        let (id, model) = (*id, model.clone());
        check_history(world, &id, &model);
        check_plan(world, &id, &model);
    }
}

fn check_digests(world: &mut World) {
    let mut prefixes = vec![Prefix::ROOT];
    let mut prefix = Prefix::ROOT;
    for _ in 0..4 {
        prefix = prefix.child(world.rng.below(16) as u8);
        prefixes.push(prefix);
    }
    let rows = [1, 7, 1_000][world.rng.below(3)];
    let (head, branches) = all_branches(&world.store, &world.space, &prefixes, rows);
    assert_eq!(head.0, world.head);
    let expected: Vec<_> = prefixes.iter().map(|prefix| world.branch(*prefix)).collect();
    assert_eq!(branches, expected);
}

/// The digests below the prefixes, read in pages of `rows` rows.
pub(super) fn all_branches(
    store: &SqliteStore,
    space: &SpaceName,
    prefixes: &[Prefix],
    rows: usize,
) -> (Offset, Vec<Branch>) {
    let (mut branches, mut cursor) = (Vec::new(), SumCursor::default());
    loop {
        let page = store.branches(space, prefixes, cursor, rows).unwrap();
        assert!(page.rows <= rows + 2 * 16, "{} rows in one read", page.rows);
        branches.extend(page.branches);
        match page.next {
            Some(next) => cursor = next,
            None => return (page.head, branches),
        }
    }
}

/// Retries after loading the index that is missing.
fn ask<T>(
    world: &World,
    question: impl Fn(
        &dyn landfall_protocol::admission::History<Error = StoreError>,
    ) -> Result<T, StoreError>,
) -> T {
    for _ in 0..2 {
        let mut answer = None;
        world.store.with_history(&world.space, &mut |view| answer = Some(question(view))).unwrap();
        match answer.unwrap() {
            Ok(answer) => return answer,
            Err(error) => {
                let document = error.needs_index.unwrap();
                world.store.load_index(&world.space, &document).unwrap();
            }
        }
    }
    panic!("the index is missing");
}

fn check_history(world: &mut World, id: &DocumentId, model: &Model) {
    assert_eq!(ask(world, |view| view.deleted_at(id)), model.tombstone.map(Offset));
    let is_present = model.tombstone.is_none();
    assert_eq!(ask(world, |view| view.has_changes(id)), is_present);
    let changes = &model.grown.changes;
    let Some(change) = changes.get(world.rng.below(changes.len().max(1))) else { return };
    let of_actor = changes.iter().filter(|other| other.actor == change.actor);
    let last = ask(world, |view| view.last_sequence(id, &change.actor));
    assert_eq!(last, is_present.then(|| of_actor.count() as u64));
    let max_op = ask(world, |view| view.max_op(id, &change.hash));
    assert_eq!(max_op, is_present.then_some(change.max_op));
    let known = ask(world, |view| view.at_sequence(id, &change.actor, change.seq));
    let made = model.tail.iter().find(|made| made.change.hash == change.hash);
    let position = made.map(|made| made.offset).or(model.snapshot.as_ref().map(|(at, _)| *at));
    let position = Offset(position.unwrap_or_default());
    assert_eq!(known, is_present.then_some(KnownChange { hash: change.hash, position }));
    let unknown = landfall_protocol::ChangeHash([0xee; 32]);
    assert_eq!(ask(world, |view| view.max_op(id, &unknown)), None);
    assert_eq!(ask(world, |view| view.at_sequence(id, &change.actor, 1 << 20)), None);
}

fn check_plan(world: &mut World, id: &DocumentId, model: &Model) {
    let mut have = vec![[0xaa; 32]];
    for _ in 0..world.rng.below(3) {
        let at = world.rng.below(model.grown.changes.len());
        have.extend(model.grown.changes.get(at).map(|change| change.hash.0));
    }
    let plan = world.store.plan_document(&world.space, id, &have).unwrap();
    if let Some(tombstone) = model.tombstone {
        assert_eq!((plan.holding, plan.offsets), (Holding::Deleted, vec![Offset(tombstone)]));
        return;
    }
    let (lacks, offsets) = world.lacking(model, &have);
    let snapshot = model.snapshot.as_ref().filter(|_| lacks);
    let expected = snapshot.map(|(at, made)| (made.hash, made.body.len() as u64, Offset(*at)));
    assert_eq!((&plan.snapshot, &plan.offsets), (&expected, &offsets));
    let read = world.store.read_entries(&world.space, id, &offsets).unwrap();
    let read: Vec<_> = read.iter().map(|entry| entry.offset()).collect();
    assert_eq!(read, offsets);
}

/// After pruning, only live rows remain.
fn check_rows(world: &World) {
    let count = |sql: &str| {
        let count = world
            .store
            .database()
            .read(|conn| conn.query_row(sql, [], |row| row.get::<_, usize>(0)));
        count.unwrap()
    };
    let models = || world.documents.values();
    let tails: usize = models().map(|model| model.tail.len()).sum();
    assert_eq!(count("SELECT count(*) FROM entry"), tails);
    let snapshots = models().filter(|model| model.snapshot.is_some()).count();
    assert_eq!(count("SELECT count(*) FROM snapshot"), snapshots);
    assert_eq!(count("SELECT count(*) FROM snapshot_index"), snapshots);
    let pieces: usize =
        models().flat_map(|model| &model.snapshot).map(|(_, made)| made.body.len()).sum();
    assert_eq!(count("SELECT coalesce(sum(length(bytes)), 0) FROM snapshot_piece"), pieces);
    let deleted = models().filter(|model| model.tombstone.is_some()).count();
    assert_eq!(count("SELECT count(*) FROM tombstone"), deleted);
    assert_eq!(count("SELECT count(*) FROM document WHERE dead = 1"), 0);
}

#[test]
fn the_store_matches_the_model() {
    for seed in 1..=8 {
        run(seed, 120);
    }
}
