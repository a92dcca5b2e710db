//! Editing a view that was rendered earlier, and how much of what was rendered stays in memory.

use landfall::automerge::{ObjType, ROOT, ReadDoc, transaction::Transactable};
use landfall::{ChangeError, Options, Store};

/// An app renders a view, the document changes, and the user edits the rendered state: a cursor
/// position keeps the meaning that it had when it was shown.
#[test]
fn an_edit_at_rendered_heads_applies_to_the_rendered_state() {
    let store = Store::in_memory(Options::default()).unwrap();
    let note = store.space("notes").unwrap().create(|_| Ok(())).unwrap().0;
    let text = note
        .change(|tx| {
            let text = tx.put_object(ROOT, "text", ObjType::Text)?;
            tx.splice_text(&text, 0, 0, "tea, milk")?;
            Ok(text)
        })
        .unwrap();
    let rendered = note.heads().unwrap();
    note.change(|tx| Ok(tx.splice_text(&text, 0, 0, "buy: ")?)).unwrap();
    let cursor = 3;
    note.change_at(&rendered, |tx| Ok(tx.splice_text(&text, cursor, 0, " bags")?)).unwrap();
    let shown = note.read(|doc| doc.text(&text).unwrap()).unwrap();
    assert_eq!(shown, "buy: tea bags, milk");
    // The next ordinary change merges the two.
    note.change(|tx| Ok(tx.splice_text(&text, 0, 0, "- ")?)).unwrap();
    assert_eq!(note.heads().unwrap().len(), 1);
    assert_eq!(note.status().unwrap().changes, 5);
}

#[test]
fn heads_of_another_document_are_refused_with_the_missing_change() {
    let store = Store::in_memory(Options::default()).unwrap();
    let space = store.space("notes").unwrap();
    let (note, other) = (space.create(|_| Ok(())).unwrap().0, space.create(|_| Ok(())).unwrap().0);
    let heads = other.heads().unwrap();
    let refused = note.change_at(&heads, |tx| Ok(tx.put(ROOT, "k", 1)?)).unwrap_err();
    assert!(matches!(refused, ChangeError::UnknownHeads { missing } if missing == heads[0]));
    assert!(refused.to_string().contains(&heads[0].to_string()), "{refused}");
}

#[test]
fn the_status_counts_loaded_documents() {
    let options = Options::default().document_cache_bytes(100 * 1024);
    let store = Store::in_memory(options).unwrap();
    let space = store.space("notes").unwrap();
    assert_eq!(store.status().loaded.documents, 0);
    let mut watch = store.watch();
    let notes: Vec<_> =
        (0..20).map(|n| space.create(|tx| Ok(tx.put(ROOT, "n", n)?)).unwrap().0).collect();
    let loaded = store.status().loaded;
    assert!((2..20).contains(&loaded.documents) && loaded.bytes <= 100 * 1024, "{loaded:?}");
    let seen = watch.until_blocking(|status| status.spaces["notes"].changes == 20).unwrap();
    assert_eq!(seen.loaded, loaded);
    for (n, note) in notes.iter().enumerate() {
        let value = note.read(|doc| doc.get(ROOT, "n").unwrap().unwrap().0.as_i64()).unwrap();
        assert_eq!(value, Some(n as i64), "the unloaded document is read again");
    }
}
