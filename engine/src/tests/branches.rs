//! Changes at earlier heads: the state that the closure sees, the result, and the actors used.

use std::collections::{BTreeMap, BTreeSet};

use automerge::PatchAction::Mark;
use automerge::hydrate::Value;
use automerge::{ActorId, Automerge, ChangeHash, ObjType, PatchLog, ROOT, ReadDoc};
use automerge::{TextEncoding, transaction::Transactable};
use landfall_test_rng::Rng;

use super::random::{edit, visible};
use super::{put, store, text_of};
use crate::{ChangeError, Document, EventKind};

/// The document built from its changes, as another replica builds it.
fn rebuilt(document: &Document) -> Automerge {
    let changes = document.read(|doc| doc.get_changes(&[])).unwrap();
    let mut built = crate::changes::empty();
    built.apply_changes_log_patches(changes, &mut PatchLog::inactive()).unwrap();
    built
}

/// Each change of an actor depends on that actor's change before it, and none occurs twice.
fn check_actors(document: &Document) -> usize {
    let changes = document.read(|doc| doc.get_changes(&[])).unwrap();
    let mut known: BTreeMap<ActorId, u64> = BTreeMap::new();
    let mut ancestors: BTreeMap<ChangeHash, BTreeSet<ChangeHash>> = BTreeMap::new();
    let mut at: BTreeMap<(ActorId, u64), ChangeHash> = BTreeMap::new();
    for change in changes {
        let mut behind: BTreeSet<ChangeHash> = change.deps().iter().copied().collect();
        for dep in change.deps() {
            behind.extend(&ancestors[dep]);
        }
        let actor = change.actor_id().clone();
        let last = known.entry(actor.clone()).or_default();
        assert_eq!(change.seq(), *last + 1);
        if *last > 0 {
            assert!(
                behind.contains(&at[&(actor.clone(), *last)]),
                "it depends on its actor's last one"
            );
        }
        *last += 1;
        at.insert((actor, change.seq()), change.hash());
        ancestors.insert(change.hash(), behind);
    }
    known.len()
}

/// A description of a hydrated value, without its conflict flags, which patches raise and never clear.
fn plain(value: &Value) -> String {
    match value {
        Value::Scalar(value) => value.to_string(),
        Value::Text(text) => format!("{text:?}"),
        Value::List(list) => list.iter().map(|item| plain(&item.value) + ",").collect(),
        Value::Map(map) => {
            let sorted: BTreeMap<_, _> = map.iter().map(|(k, v)| (k, plain(&v.value))).collect();
            format!("{sorted:?}")
        }
    }
}

#[test]
fn the_closure_sees_the_past_and_the_change_is_merged_with_the_present() {
    let store = store();
    let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    let text = document
        .change(|tx| {
            let text = tx.put_object(ROOT, "text", ObjType::Text)?;
            tx.splice_text(&text, 0, 0, "one three")?;
            Ok(text)
        })
        .unwrap();
    let past = document.heads().unwrap();
    document.change(|tx| Ok(tx.splice_text(&text, 9, 0, " four")?)).unwrap();
    let mut events = store.events();
    let seen = document
        .change_at(&past, |tx| {
            let seen = tx.text(&text)?;
            tx.splice_text(&text, 4, 0, "two ")?;
            Ok(seen)
        })
        .unwrap();
    assert_eq!(seen, "one three");
    assert_eq!(document.read(|doc| doc.text(&text).unwrap()).unwrap(), "one two three four");
    assert_eq!(
        document.heads().unwrap().len(),
        2,
        "it is concurrent to the changes received meanwhile"
    );
    let event = events.try_next().unwrap().unwrap();
    let EventKind::Changed { heads, patches: Some(patches), .. } = event.kind else {
        panic!("{event:?}")
    };
    assert_eq!((heads, patches.len()), (document.heads().unwrap(), 1));
    assert_eq!(check_actors(&document), 2);
    assert_eq!(store.status().spaces["default"].changes, 4);
}

#[test]
fn unknown_heads_are_named_and_leave_no_trace() {
    let store = store();
    let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    let other = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    let (heads, missing) = (document.heads().unwrap(), other.heads().unwrap()[0]);
    let mut with_unknown = heads.clone();
    with_unknown.push(missing);
    let refused = document.change_at(&with_unknown, |tx| Ok(tx.put(ROOT, "k", 1)?));
    assert!(
        matches!(&refused, Err(ChangeError::UnknownHeads { missing: m }) if *m == missing),
        "{refused:?}"
    );
    assert_eq!(document.heads().unwrap(), heads);
    let both = store.group(|group| {
        group.change_at(&document, &with_unknown, |tx| Ok(tx.put(ROOT, "k", 1)?)).unwrap_err();
        group.change_at(&document, &heads, |tx| Ok(tx.put(ROOT, "k", 2)?))?;
        group.change_at(&document, &heads, |tx| Ok(tx.put(ROOT, "k", 3)?))
    });
    both.unwrap();
    let values = document.read(|doc| doc.get_all(ROOT, "k").unwrap().len()).unwrap();
    assert_eq!(values, 2, "two changes at the same heads are concurrent");
}

#[test]
fn a_failed_commit_reverts_a_change_at_earlier_heads() {
    let store = store();
    let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    put(&document, "first").unwrap();
    let past = document.heads().unwrap();
    put(&document, "second").unwrap();
    let before = document.heads().unwrap();
    let faults = store.open_store().context.log.database().faults();
    faults.fail_next_commits(1, landfall_storage::FailureClass::DiskFull);
    let tried = || document.change_at(&past, |tx| Ok(tx.put(ROOT, "other", 1)?));
    assert!(matches!(tried(), Err(ChangeError::Store(_))));
    assert_eq!((document.heads().unwrap(), text_of(&document).as_str()), (before, "\"second\""));
    tried().unwrap();
    check_actors(&document);
    let closure = document.change_at::<()>(&past, |tx| {
        tx.put(ROOT, "text", "never")?;
        Err("no".into())
    });
    assert!(matches!(closure, Err(ChangeError::Closure(_))));
    assert_eq!(text_of(&document), "\"second\"");
}

#[test]
fn change_at_the_present_heads_equals_change() {
    let store = store();
    let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    for n in 0..20 {
        let mut heads = document.heads().unwrap();
        heads.extend(heads.clone());
        document.change_at(&heads, |tx| Ok(tx.put(ROOT, "n", n)?)).unwrap();
    }
    assert_eq!((document.heads().unwrap().len(), check_actors(&document)), (1, 1));
}

/// A branch that is edited repeatedly uses one actor, and so does the other one.
#[test]
fn two_branches_use_two_actors() {
    let store = store();
    let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    let root = document.heads().unwrap();
    let mut branches = [root.clone(), root];
    for n in 0..30 {
        let branch = &mut branches[n % 2];
        let before = document.heads().unwrap();
        document
            .change_at(branch, |tx| Ok(tx.put(ROOT, format!("k{}", n % 2), n as i64)?))
            .unwrap();
        let after = document.heads().unwrap();
        *branch = after.into_iter().filter(|head| !before.contains(head)).collect();
    }
    assert_eq!(check_actors(&document), 2);
    assert_eq!(document.heads().unwrap().len(), 2);
}

/// Random edits at random points of the history: each closure sees the state at its heads, each event's
/// patches lead from the state before to the one after, failed closures leave nothing, and a replica
/// that receives the changes builds the same document.
#[test]
fn random_edits_at_random_heads_match_another_replicas_document() {
    for seed in 0..60 {
        let rng = &mut Rng::new(seed);
        let store = store();
        let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
        let mut states = vec![document.heads().unwrap()];
        let mut events = store.events();
        let mut shown = document.read(|doc| doc.hydrate(None)).unwrap();
        for step in 0..25 {
            let at = states[rng.below(states.len())].clone();
            let expected = document.read(|doc| visible(&doc.fork_at(&at).unwrap())).unwrap();
            let before = document.read(visible).unwrap();
            let fails = rng.below(4) == 0;
            let outcome = document.change_at(&at, |tx| {
                assert_eq!(visible(tx), expected, "seed {seed} step {step}");
                edit(tx, rng);
                if fails { Err("no".into()) } else { Ok(()) }
            });
            assert_eq!(outcome.is_err(), fails);
            if fails {
                assert_eq!(document.read(visible).unwrap(), before, "seed {seed} step {step}");
            }
            let after = document.read(|doc| doc.hydrate(None)).unwrap();
            while let Some(event) = events.try_next() {
                let EventKind::Changed { patches: Some(patches), .. } = event.unwrap().kind else {
                    panic!("no patches")
                };
                // automerge cannot apply patches of marks to a hydrated value.
                let patches = patches.iter().filter(|p| !matches!(p.action, Mark { .. }));
                let encoding = TextEncoding::UnicodeCodePoint;
                shown.apply_patches(encoding, patches.cloned()).unwrap();
            }
            assert_eq!(plain(&shown), plain(&after), "seed {seed} step {step}");
            states.push(document.heads().unwrap());
        }
        let built = rebuilt(&document);
        assert_eq!(visible(&built), document.read(visible).unwrap(), "seed {seed}");
        check_actors(&document);
    }
}
