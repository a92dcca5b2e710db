//! Re-authored changes show the same state as the rejected ones.

use std::collections::{BTreeMap, BTreeSet};

use automerge::marks::{ExpandMark, Mark};
use automerge::{ActorId, Automerge, Change, ChangeHash, ObjType, PatchLog, ROOT};
use automerge::{ScalarValue, transaction::Transactable};
use landfall_protocol::admission::preflight;
use landfall_test_rng::Rng;

use super::random::{edit, visible};
use crate::changes::{apply_parsed, empty};
use crate::reauthor::{ReauthorError, export, reauthor};

fn built(changes: Vec<Change>) -> Automerge {
    apply_parsed(empty(), changes, &mut PatchLog::inactive()).unwrap()
}

/// A document of two actors who edit and merge at random; `mine` marks the changes of the first.
fn history(rng: &mut Rng, steps: usize) -> (Automerge, Vec<Change>) {
    let mut base = empty().with_actor(ActorId::from([5; 16]));
    base.transact::<_, _, automerge::AutomergeError>(|tx| {
        edit(tx, rng);
        tx.put(ROOT, "base", 1)
    })
    .unwrap();
    let mut replicas = [
        base.clone().with_actor(ActorId::from([rng.below(9) as u8; 16])),
        base.with_actor(ActorId::from([5, rng.below(256) as u8])),
    ];
    for _ in 0..steps {
        let who = rng.below(2);
        match rng.below(5) {
            0 => {
                let [a, b] = &mut replicas;
                if who == 0 {
                    a.merge(b).unwrap()
                } else {
                    b.merge(a).unwrap()
                };
            }
            _ => {
                let mut tx = replicas[who].transaction();
                edit(&mut tx, rng);
                tx.commit();
            }
        }
    }
    let [mut a, mut b] = replicas;
    a.merge(&mut b).unwrap();
    let changes = a.get_changes(&[]);
    (a, changes)
}

/// A random change, all later ones of its actor, and all their dependents.
fn refused(changes: &[Change], rng: &mut Rng) -> BTreeSet<ChangeHash> {
    let first = &changes[1 + rng.below(changes.len() - 1)];
    let mut refused = BTreeSet::from([first.hash()]);
    let mut ended: BTreeMap<ActorId, u64> = BTreeMap::new();
    ended.insert(first.actor_id().clone(), first.seq());
    for change in changes {
        let behind = ended.get(change.actor_id()).is_some_and(|seq| change.seq() >= *seq);
        if behind || change.deps().iter().any(|dep| refused.contains(dep)) {
            refused.insert(change.hash());
            ended.entry(change.actor_id().clone()).or_insert(change.seq());
        }
    }
    refused
}

#[test]
fn random_histories_keep_their_content_and_survive_save_and_load() {
    for seed in 0..400 {
        let rng = &mut Rng::new(seed);
        let (original, changes) = history(rng, 5 + seed as usize % 40);
        if changes.len() < 2 {
            continue;
        }
        let refused = refused(&changes, rng);
        let made = reauthor(&changes, &refused).unwrap();
        assert_eq!(made.changes.len(), refused.len());
        let kept = changes.iter().filter(|change| !refused.contains(&change.hash())).cloned();
        let mut acknowledged = built(kept.collect());
        for change in &made.changes {
            preflight(change.raw_bytes()).unwrap();
            assert!(!changes.iter().any(|old| old.actor_id() == change.actor_id()));
        }
        acknowledged = apply_parsed(acknowledged, made.changes, &mut PatchLog::inactive()).unwrap();
        assert_eq!(visible(&acknowledged), visible(&original), "seed {seed}");
        let loaded = Automerge::load(&acknowledged.save()).unwrap();
        assert_eq!(loaded.get_heads(), acknowledged.get_heads());
        assert_eq!(loaded.get_changes(&[]).len(), changes.len());
        // Later edits are made to the same objects.
        let again = reauthor(&changes, &refused).unwrap();
        assert_eq!(again.hashes, made.hashes, "it is the same each time");
    }
}

/// Every kind of operation, one change each, survives automerge's expanded form.
#[test]
fn every_kind_of_operation_survives_re_authoring() {
    let mut document = empty().with_actor(ActorId::from([1; 16]));
    let mut all = Vec::new();
    let mut step = |run: &mut dyn FnMut(&mut automerge::transaction::Transaction<'_>)| {
        let mut tx = document.transaction();
        run(&mut tx);
        tx.commit_with(
            automerge::transaction::CommitOptions::default().with_message("m").with_time(7),
        );
        all.push(document.get_last_local_change().unwrap());
    };
    let mut ids = Vec::new();
    step(&mut |tx| {
        for kind in [ObjType::Map, ObjType::List, ObjType::Text] {
            ids.push(tx.put_object(ROOT, format!("{kind}"), kind).unwrap());
        }
    });
    let (list, text) = (ids[1].clone(), ids[2].clone());
    step(&mut |tx| tx.splice_text(&text, 0, 0, "hello wörld").unwrap());
    step(&mut |tx| {
        let mark = Mark::new("bold".to_owned(), true, 1, 4);
        tx.mark(&text, mark, ExpandMark::Both).unwrap();
        let link = Mark::new("link".to_owned(), "https://x", 2, 3);
        tx.mark(&text, link, ExpandMark::None).unwrap();
    });
    step(&mut |tx| tx.unmark(&text, "bold", 1, 4, ExpandMark::After).unwrap());
    step(&mut |tx| tx.put(ROOT, "n", ScalarValue::counter(-1)).unwrap());
    step(&mut |tx| tx.increment(ROOT, "n", -5).unwrap());
    step(&mut |tx| {
        let values: [ScalarValue; 9] = [
            ScalarValue::Null,
            true.into(),
            (-1).into(),
            u64::MAX.into(),
            1.5.into(),
            ScalarValue::Timestamp(-9),
            vec![0u8; 300].into(),
            "string".into(),
            ScalarValue::counter(1),
        ];
        for (index, value) in values.into_iter().enumerate() {
            tx.insert(&list, index, value).unwrap();
        }
    });
    step(&mut |tx| tx.increment(&list, 8, 3).unwrap());
    step(&mut |tx| drop(tx.split_block(&text, 3).unwrap()));
    step(&mut |tx| {
        tx.delete(&list, 0).unwrap();
        tx.delete(ROOT, "n").unwrap();
        tx.splice_text(&text, 1, 2, "").unwrap();
    });
    document.empty_commit(automerge::transaction::CommitOptions::default());
    all.push(document.get_last_local_change().unwrap());
    for change in &all {
        let rebuilt = Change::from(change.decode());
        assert_eq!(rebuilt.hash(), change.hash(), "{:?}", change.decode());
    }
    // automerge 0.12 creates tables and cannot show them.
    let mut table = empty();
    table.transact(|tx| tx.put_object(ROOT, "table", ObjType::Table)).unwrap();
    let change = table.get_last_local_change().unwrap();
    assert_eq!(Change::from(change.decode()).hash(), change.hash());
    let hashes = all.iter().map(Change::hash).collect();
    let made = reauthor(&all, &hashes).unwrap();
    assert_eq!(visible(&built(made.changes)), visible(&document));
}

/// The intended case: another change has the actor and sequence number of a local one.
#[test]
fn a_superseded_change_is_re_authored_beside_its_successor() {
    let actor = ActorId::from([7; 16]);
    let mut common = empty().with_actor(actor.clone());
    common.transact(|tx| tx.put(ROOT, "base", 1)).unwrap();
    let (mut mine, mut theirs) = (common.clone(), common);
    mine.set_actor(actor.clone());
    theirs.set_actor(actor.clone());
    mine.transact(|tx| tx.put(ROOT, "mine", 1)).unwrap();
    mine.transact(|tx| tx.put(ROOT, "mine", 2)).unwrap();
    theirs.transact(|tx| tx.put(ROOT, "theirs", 1)).unwrap();
    let local = mine.get_changes(&[]);
    let refused: BTreeSet<_> = local[1..].iter().map(Change::hash).collect();
    let made = reauthor(&local, &refused).unwrap();
    let acknowledged = theirs.get_changes(&[]);
    let repaired = apply_parsed(theirs, made.changes, &mut PatchLog::inactive()).unwrap();
    assert_eq!(visible(&repaired), "base=Int(1)|;mine=Int(2)|;theirs=Int(1)|;");
    // Or exported: the change that superseded it cannot be in the same document.
    let bytes = export(&acknowledged, &local).unwrap();
    assert_eq!(visible(&Automerge::load(&bytes).unwrap()), visible(&mine));
    let bytes = export(&acknowledged, &local[1..]).unwrap();
    assert_eq!(visible(&Automerge::load(&bytes).unwrap()), visible(&mine));
    let orphans = export(&[], &local[1..]);
    assert!(matches!(orphans, Err(ReauthorError::Unknown(_))), "{orphans:?}");
}

#[test]
fn the_error_names_the_change_that_cannot_be_re_authored() {
    let rng = &mut Rng::new(1);
    let (_, changes) = history(rng, 20);
    let (first, last) = (changes[0].hash(), changes.last().unwrap().hash());
    let open = reauthor(&changes, &BTreeSet::from([first])).unwrap_err();
    assert!(matches!(open, ReauthorError::NotClosed { refused, .. } if refused == first), "{open}");
    let missing = reauthor(&changes[..1], &BTreeSet::from([last])).unwrap_err();
    assert_eq!(missing, ReauthorError::Unknown(last));
    let all: BTreeSet<_> = changes.iter().map(Change::hash).collect();
    let forwards = reauthor(&changes, &all).unwrap();
    let mut backwards = changes.clone();
    backwards.reverse();
    assert_eq!(reauthor(&backwards, &all).unwrap().hashes, forwards.hashes);
    assert!(reauthor(&changes, &BTreeSet::new()).unwrap().changes.is_empty());
}
