//! Named documents share one root wherever they are created.

use landfall::automerge::{
    ObjType, ROOT, ReadDoc, transaction::Transactable, transaction::Transaction,
};
use landfall::{BoxError, EventKind, Options, Origin, Store, admin};

fn template(tx: &mut Transaction<'_>) -> Result<(), BoxError> {
    tx.put_object(ROOT, "text", ObjType::Text)?;
    Ok(tx.put(ROOT, "version", 1)?)
}

/// The id and the first change are a format: replicas of all versions must agree on them. If an
/// upgrade of automerge changes this, named documents need a new derivation, not a new golden.
#[test]
fn the_derivation_of_named_documents_is_stable() {
    let store = Store::in_memory(Options::default()).unwrap();
    let space = store.space("default").unwrap();
    let inbox = space.create_named("inbox", template).unwrap();
    let change = inbox.read(|doc| doc.get_changes(&[]).remove(0)).unwrap();
    let hex: String = change.raw_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        (inbox.id().to_string().as_str(), hex.as_str()),
        (
            include_str!("golden/named-id.txt").trim(),
            include_str!("golden/named-change.txt").trim()
        )
    );
}

#[test]
fn the_same_name_is_the_same_document() {
    let stores = [(); 2].map(|()| Store::in_memory(Options::default()).unwrap());
    let [a, b] = stores
        .each_ref()
        .map(|store| store.space("default").unwrap().create_named("inbox", template).unwrap());
    assert_eq!((a.id(), a.heads().unwrap()), (b.id(), b.heads().unwrap()));
    let again = stores[0].space("default").unwrap().create_named("inbox", template).unwrap();
    assert_eq!(again.status().unwrap().changes, 1, "creating it again opens it");
    let other_space = stores[0].space("other").unwrap().create_named("inbox", template).unwrap();
    assert_ne!(a.id(), other_space.id());
    // Another template gives another root of the same document, by another actor: the two merge.
    let c = Store::in_memory(Options::default()).unwrap();
    let c = c.space("default").unwrap();
    let c = c.create_named("inbox", |tx| Ok(tx.put(ROOT, "version", 2)?)).unwrap();
    assert_eq!(a.id(), c.id());
    let actor = |document: &landfall::Document| {
        document.read(|doc| doc.get_changes(&[])[0].actor_id().clone()).unwrap()
    };
    assert_ne!(actor(&a), actor(&c));
}

#[test]
fn a_named_document_is_edited_by_a_fresh_actor() {
    let store = Store::in_memory(Options::default()).unwrap();
    let inbox = store.space("default").unwrap().create_named("inbox", template).unwrap();
    let text = inbox.read(|doc| doc.get(ROOT, "text").unwrap().unwrap().1).unwrap();
    inbox.change(|tx| Ok(tx.splice_text(&text, 0, 0, "hi")?)).unwrap();
    let changes = inbox.read(|doc| doc.get_changes(&[])).unwrap();
    assert_eq!(changes.len(), 2);
    assert_ne!(changes[0].actor_id(), changes[1].actor_id());
}

/// It has the event and the contents of any other document, and its compaction uses the form in which
/// it was built.
#[test]
fn a_large_named_document_is_unloaded_and_compacted_at_close() {
    let folder = tempfile::tempdir().unwrap();
    let prose = "a long text, 漢字; ".repeat(10_000);
    let template = |tx: &mut Transaction<'_>| {
        let text = tx.put_object(ROOT, "text", ObjType::Text)?;
        Ok(tx.splice_text(&text, 0, 0, &prose)?)
    };
    let mut made = Vec::new();
    for name in ["read", "unread"] {
        let path = folder.path().join(name);
        let store = Store::open(&path, Options::default()).unwrap();
        let mut events = store.events();
        let document = store.space("default").unwrap().create_named("long", template).unwrap();
        assert_eq!(store.status().loaded.documents, 0, "it was not read");
        let Some(Ok(event)) = events.try_next() else { panic!("no event is sent") };
        let EventKind::Changed { origin: Origin::Local, heads, .. } = event.kind else {
            panic!("{event:?}")
        };
        if name == "read" {
            assert_eq!(document.heads().unwrap(), heads);
            let text = document.read(|doc| doc.get(ROOT, "text").unwrap().unwrap().1).unwrap();
            document.change(|tx| Ok(tx.splice_text(&text, 0, 13, "")?)).unwrap();
        }
        made.push(heads);
        drop(document);
        store.close().unwrap();
        let found = admin::inspect(&path).unwrap();
        // The compactor may have run before the edit, which alone is not worth a compaction.
        assert!(found.spaces[0].documents[0].compacted_changes >= 1, "{name}");
        let store = Store::open(&path, Options::default()).unwrap();
        let space = store.space("default").unwrap();
        let document = space.open(event.document).unwrap();
        let shown = document.read(|doc| doc.text(doc.get(ROOT, "text")?.unwrap().1)).unwrap();
        let expected = if name == "read" { &prose[13..] } else { &prose[..] };
        assert!(shown.unwrap() == expected, "{name}");
        store.close().unwrap();
        assert!(admin::verify(&path).unwrap().is_empty());
    }
    assert_eq!(made[0], made[1]);
}
