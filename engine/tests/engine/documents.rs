//! Reading and changing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use landfall::automerge::{ObjType, ROOT, ReadDoc, transaction::Transactable};
use landfall::autosurgeon::{Hydrate, Reconcile};
use landfall::{ChangeError, Document, Options, ReadError, Store};
use landfall_test_rng::Rng;

fn document() -> (Store, Document) {
    let store = Store::in_memory(Options::default()).unwrap();
    let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    (store, document)
}

fn keys(document: &Document) -> Vec<String> {
    document.read(|doc| doc.keys(ROOT).collect()).unwrap()
}

#[test]
fn a_closure_that_fails_or_panics_leaves_no_trace() {
    let (store, document) = document();
    document.change(|tx| Ok(tx.put(ROOT, "kept", 1)?)).unwrap();
    let (heads, status) = (document.heads().unwrap(), store.status());
    let failed = document.change::<()>(|tx| {
        tx.put(ROOT, "a", 1)?;
        Err("no".into())
    });
    assert!(matches!(&failed, Err(ChangeError::Closure(why)) if why.to_string() == "no"));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        document.change::<()>(|tx| {
            tx.put(ROOT, "b", 1)?;
            panic!("at the disco")
        })
    }));
    assert!(panicked.is_err(), "the panic is the caller's");
    assert_eq!((keys(&document), document.heads().unwrap()), (vec!["kept".to_owned()], heads));
    assert_eq!(store.status(), status);
    document.change(|tx| Ok(tx.put(ROOT, "c", 1)?)).unwrap();
    assert_eq!(keys(&document), ["c", "kept"], "the document remains usable");
}

#[test]
fn a_closure_that_writes_nothing_makes_no_change() {
    let (store, document) = document();
    let before = store.status();
    assert_eq!(document.change(|tx| Ok(tx.keys(ROOT).count())).unwrap(), 0);
    assert_eq!(store.status(), before);
}

#[test]
fn a_change_that_no_relay_accepts_fails_and_leaves_no_trace() {
    let (_store, document) = document();
    document.change(|tx| Ok(tx.put(ROOT, "kept", 1)?)).unwrap();
    let heads = document.heads().unwrap();
    // Bytes that do not compress.
    let mut rng = Rng::new(1);
    let noise: Vec<u8> = (0..5 << 20).map(|_| rng.next_u64() as u8).collect();
    let refused = document.change(|tx| Ok(tx.put(ROOT, "large", noise)?));
    let Err(ChangeError::ChangeTooLarge { limit, actual }) = refused else { panic!("{refused:?}") };
    assert!(actual > limit && limit > 1 << 20, "{actual} {limit}");
    assert_eq!((keys(&document), document.heads().unwrap()), (vec!["kept".to_owned()], heads));
    document.change(|tx| Ok(tx.put(ROOT, "small", vec![1u8; 1 << 20])?)).unwrap();
}

#[test]
fn text_positions_count_code_points() {
    let (_store, document) = document();
    let text = document
        .change(|tx| {
            let text = tx.put_object(ROOT, "text", ObjType::Text)?;
            tx.splice_text(&text, 0, 0, "a👩‍👩‍👧e\u{301}漢")?;
            Ok(text)
        })
        .unwrap();
    assert_eq!(document.read(|doc| doc.length(&text)).unwrap(), 1 + 5 + 2 + 1);
    document.change(|tx| Ok(tx.splice_text(&text, 8, 1, "字")?)).unwrap();
    assert!(document.read(|doc| doc.text(&text).unwrap()).unwrap().ends_with("e\u{301}字"));
}

#[test]
fn calls_on_a_document_inside_its_own_change_fail() {
    let (_store, document) = document();
    let inner = document.clone();
    document
        .change(|tx| {
            assert!(matches!(inner.change(|_| Ok(())), Err(ChangeError::Reentrant)));
            assert!(matches!(inner.read(|_| ()), Err(ReadError::Reentrant)));
            Ok(tx.put(ROOT, "k", 1)?)
        })
        .unwrap();
    assert_eq!(keys(&inner), ["k"]);
}

#[derive(Debug, Clone, PartialEq, Reconcile, Hydrate)]
struct Contact {
    name: String,
    tags: Vec<String>,
}

#[test]
fn an_application_reads_and_writes_its_own_types() {
    let (_store, document) = document();
    let mut contact = Contact { name: "Ada".into(), tags: vec!["maths".into()] };
    document.reconcile(&contact).unwrap();
    contact.tags.push("engines".into());
    document.reconcile(&contact).unwrap();
    assert_eq!(document.hydrate::<Contact>().unwrap(), contact);
    document.change(|tx| Ok(tx.put(ROOT, "name", 7)?)).unwrap();
    assert!(matches!(document.hydrate::<Contact>(), Err(ReadError::Typed(_))));
}

#[test]
fn handles_are_shared_between_threads() {
    let (store, document) = document();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let document = document.clone();
            scope.spawn(move || {
                for n in 0..25 {
                    document.change(|tx| Ok(tx.put(ROOT, format!("{thread}-{n}"), n)?)).unwrap();
                    document.read(|doc| doc.length(ROOT)).unwrap();
                }
            });
        }
    });
    assert_eq!(keys(&document).len(), 200);
    assert_eq!(store.status().spaces["default"].changes, 201);
}

#[test]
fn groups_of_two_threads_do_not_deadlock() {
    let (store, a) = document();
    let b = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    std::thread::scope(|scope| {
        for (thread, order) in [[&a, &b], [&b, &a]].into_iter().enumerate() {
            let store = store.clone();
            scope.spawn(move || {
                // No value twice: putting the present value makes no change.
                for n in (0..50).map(|n| 2 * n + thread as i64) {
                    store
                        .group(|group| {
                            group.change(order[0], |tx| Ok(tx.put(ROOT, "n", n)?))?;
                            group.change(order[1], |tx| Ok(tx.put(ROOT, "n", n)?))
                        })
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(a.status().unwrap().changes, 101);
}

#[test]
fn a_group_that_fails_in_the_middle_commits_nothing() {
    let (store, a) = document();
    let b = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    let before = store.status();
    let failed = store.group::<()>(|group| {
        group.change(&a, |tx| Ok(tx.put(ROOT, "k", 1)?))?;
        group.change(&b, |_| Err("no".into()))
    });
    assert!(matches!(failed, Err(ChangeError::Closure(_))));
    assert_eq!((keys(&a), store.status()), (vec![], before));
}

/// Checked when the closure ends, before the change is encoded; the document is loaded again, without
/// any part of the change. The same applies at an earlier state.
#[test]
fn a_change_of_too_many_operations_fails_and_leaves_no_trace() {
    let store = Store::in_memory(Options::default()).unwrap();
    let note = store.space("default").unwrap().create(|tx| Ok(tx.put(ROOT, "k", "v")?)).unwrap().0;
    let first = note.heads().unwrap();
    note.change(|tx| Ok(tx.put(ROOT, "k", "w")?)).unwrap();
    let heads = note.heads().unwrap();
    let long = "x".repeat(landfall::CHANGE_OPERATIONS as usize);
    let paste = |tx: &mut landfall::automerge::transaction::Transaction<'_>| {
        let text = tx.put_object(ROOT, "text", ObjType::Text)?;
        Ok(tx.splice_text(&text, 0, 0, &long)?)
    };
    for refused in [note.change(paste), note.change_at(&first, paste)] {
        let Err(ChangeError::TooManyOperations { limit, actual }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((limit, actual), (landfall::CHANGE_OPERATIONS, limit + 1));
        assert_eq!(note.heads().unwrap(), heads);
    }
    note.change(|tx| Ok(tx.put(ROOT, "k", "x")?)).unwrap();
    assert_eq!(note.status().unwrap().actors, 1);
}
