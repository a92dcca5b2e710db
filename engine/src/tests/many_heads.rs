//! Documents with more heads than a change may depend on.

use automerge::{ActorId, ROOT, ReadDoc, transaction::Transactable};
use landfall_protocol::{ChangeHash, limits};

use super::poisoned::append;
use super::{put, text_of};
use crate::{ChangeError, Document, Options, Store};

/// Without the compactor, whose commits would be counted too.
fn store() -> Store {
    Store::in_memory(Options { compaction: false, ..Options::default() }).unwrap()
}

/// A document with so many heads, each by its own actor.
fn document(store: &Store, heads: usize) -> Document {
    let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    put(&document, "base").unwrap();
    let base = document.read(|doc| doc.clone()).unwrap();
    for number in 0..heads {
        let mut other = base.clone().with_actor(ActorId::from((number as u64).to_be_bytes()));
        other.transact(|tx| tx.put(ROOT, format!("f{number}"), number as u64)).unwrap();
        append(store, &document, other.get_last_local_change().unwrap().raw_bytes());
    }
    document.open().outdate();
    assert_eq!(document.heads().unwrap().len(), heads);
    document
}

/// The stored document equals the shown one, and loads again.
fn check(document: &Document) {
    let shown = document.read(|doc| (doc.get_heads(), doc.length(ROOT))).unwrap();
    document.open().outdate();
    let stored = document.read(|doc| (doc.get_heads(), doc.length(ROOT))).unwrap();
    assert_eq!(shown, stored);
    let saved = document.read(automerge::Automerge::save).unwrap();
    assert_eq!(automerge::Automerge::load(&saved).unwrap().get_heads(), shown.0);
    let most = document.read(|doc| doc.get_changes(&[]).iter().map(|c| c.deps().len()).max());
    assert!(most.unwrap() <= Some(limits::MERGED_HEADS));
    let places = |doc: &automerge::Automerge| {
        let changes = doc.get_changes(&[]);
        let places: Vec<_> = changes.iter().map(|c| (c.actor_id().clone(), c.seq())).collect();
        places.len() - places.iter().collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(document.read(places).unwrap(), 0, "no (actor, sequence) twice");
}

#[test]
fn heads_are_merged_before_a_change() {
    let most = limits::MERGED_HEADS;
    // The actor's own last change, which is no head, is one of the first merge's dependencies; the
    // merge before is one of each later one's.
    for (heads, merges) in [(most - 1, 0), (most, 2), (2 * most - 2, 2), (2 * most - 1, 3)] {
        let store = store();
        let document = document(&store, heads);
        let before = document.status().unwrap().changes;
        let faults = store.open_store().context.log.database().faults();
        let commits = faults.counters().commits;
        put(&document, "after").unwrap();
        assert_eq!(faults.counters().commits, commits + 1, "in the commit of the change");
        let after = document.status().unwrap().changes;
        assert_eq!((document.heads().unwrap().len(), after - before), (1, merges + 1), "{heads}");
        assert_eq!(text_of(&document), "\"after\"");
        check(&document);
        put(&document, "again").unwrap();
        assert_eq!(document.status().unwrap().changes, after + 1);
        check(&document);
    }
}

#[test]
fn a_closure_that_fails_or_writes_nothing_merges_nothing() {
    let store = store();
    let document = document(&store, limits::MERGED_HEADS + 1);
    let before = document.heads().unwrap();
    document.change::<()>(|_| Err("no".into())).unwrap_err();
    assert_eq!(document.heads().unwrap(), before);
    document.change(|_| Ok(())).unwrap();
    assert_eq!(document.heads().unwrap(), before);
    let status = document.status().unwrap().changes;
    document.open().outdate();
    assert_eq!((document.heads().unwrap(), document.status().unwrap().changes), (before, status));
    // In a group, the other changes of the closures are committed.
    store
        .group(|group| {
            group.change::<()>(&document, |_| Err("no".into())).unwrap_err();
            group.change(&document, |tx| Ok(tx.put(ROOT, "text", "grouped")?))
        })
        .unwrap();
    assert_eq!(text_of(&document), "\"grouped\"");
    check(&document);
}

#[test]
fn heads_are_merged_before_a_change_at_earlier_heads() {
    let store = store();
    let document = document(&store, limits::MERGED_HEADS + 200);
    let past = document.heads().unwrap();
    put(&document, "present").unwrap();
    put(&document, "present too").unwrap();
    for n in 0..3 {
        document
            .change_at(&past, |tx| {
                assert_eq!(tx.get(ROOT, "text")?.unwrap().0.as_str(), Some("base"));
                Ok(tx.put(ROOT, format!("past{n}"), n)?)
            })
            .unwrap();
        check(&document);
    }
    let heads: Vec<ChangeHash> = document.heads().unwrap();
    assert!(heads.len() <= 4, "{}", heads.len());
    put(&document, "joined").unwrap();
    check(&document);
    let unknown = document.change_at(&[ChangeHash([7; 32])], |_| Ok(()));
    assert!(matches!(unknown, Err(ChangeError::UnknownHeads { .. })));
}
