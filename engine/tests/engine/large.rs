//! Large documents: the limit for local changes, and the storage of a large change.

use landfall::automerge::{ObjType, ROOT, ReadDoc, ScalarValue, transaction::Transactable};
use landfall::{ChangeError, Document, Durability, Options, Store, admin};
use landfall_test_rng::Rng;

/// Bytes that do not compress.
fn noise(seed: u64, bytes: usize) -> ScalarValue {
    let mut rng = Rng::new(seed);
    ScalarValue::Bytes((0..bytes).map(|_| rng.next_u64() as u8).collect())
}

fn options() -> Options {
    Options::default().durability(Durability::Normal)
}

/// Adds values of so many bytes until one is rejected.
fn fill(document: &Document, bytes: usize, first: u64) -> (u64, ChangeError) {
    for n in first.. {
        if let Err(error) =
            document.change(|tx| Ok(tx.put(ROOT, format!("{n}"), noise(n, bytes))?))
        {
            return (n, error);
        }
    }
    unreachable!("it has a limit")
}

#[test]
fn local_changes_end_at_three_quarters_of_the_document_limit() {
    let store = Store::in_memory(options().document_bytes(400_000).compaction(false)).unwrap();
    let space = store.space("default").unwrap();
    let (document, other) =
        (space.create(|_| Ok(())).unwrap().0, space.create(|_| Ok(())).unwrap().0);
    let (count, error) = fill(&document, 10_000, 0);
    let ChangeError::DocumentTooLarge { document: which, bytes, limit } = error else {
        panic!("{error}")
    };
    assert_eq!((which, limit), (document.id(), 300_000));
    assert!((25..30).contains(&count) && bytes > limit && bytes < limit + 11_000, "{bytes}");
    let (heads, size) = (document.heads().unwrap(), document.status().unwrap().size);
    assert!(size.bytes <= limit && !size.is_oversized(), "{size:?}");
    // The same with the smallest steps: then nothing fits, and the closure does not run.
    let (count, _) = fill(&document, 100, count);
    for n in 0..20 {
        let mut ran = false;
        let refused = document.change(|tx| {
            ran = true;
            Ok(tx.put(ROOT, "large", noise(n, 10_000))?)
        });
        assert!(matches!(refused, Err(ChangeError::DocumentTooLarge { .. })), "{ran}");
    }
    let status = document.status().unwrap();
    assert_eq!((status.changes, status.actors), (count + 1, 1), "refused changes use no actors");
    assert_ne!(document.heads().unwrap(), heads);
    assert_eq!(document.read(|doc| doc.length(ROOT)).unwrap() as u64, count);
    other.change(|tx| Ok(tx.put(ROOT, "k", 1)?)).unwrap();
    let both = store.group(|group| {
        group.change(&other, |tx| Ok(tx.put(ROOT, "k", 2)?))?;
        group.change(&document, |tx| Ok(tx.put(ROOT, "large", noise(1, 10_000))?))
    });
    assert!(matches!(both, Err(ChangeError::DocumentTooLarge { .. })));
    let value = other.read(|doc| doc.get(ROOT, "k").unwrap().unwrap().0.as_i64()).unwrap();
    assert_eq!(value, Some(1), "all of a group or none");
}

#[test]
fn a_pasted_text_is_compacted_at_close() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes");
    let store = Store::open(&path, options()).unwrap();
    let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    let id = document.id();
    let text = document
        .change(|tx| {
            let text = tx.put_object(ROOT, "text", ObjType::Text)?;
            tx.splice_text(&text, 0, 0, &"All work and no play. ".repeat(45_455))?;
            Ok(text)
        })
        .unwrap();
    store.close().unwrap();
    let inspection = admin::inspect(&path).unwrap();
    let kept = &inspection.spaces[0].documents[0];
    assert_eq!((kept.tail_changes, kept.compacted_changes), (0, 2));
    assert!(kept.snapshot_bytes < 100_000, "{} bytes", kept.snapshot_bytes);
    assert_eq!(admin::verify(&path).unwrap().len(), 0);
    let store = Store::open(&path, options()).unwrap();
    let document = store.space("default").unwrap().open(id).unwrap();
    assert_eq!(document.read(|doc| doc.length(&text)).unwrap(), 1_000_010);
}

#[test]
fn a_snapshot_beyond_the_limit_is_split_when_the_store_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("album");
    let store = Store::open(&path, options().compaction(false)).unwrap();
    let document = store.space("default").unwrap().create(|_| Ok(())).unwrap().0;
    let id = document.id();
    for n in 0..30 {
        document.change(|tx| Ok(tx.put(ROOT, format!("{n}"), noise(n, 10_000))?)).unwrap();
    }
    let heads = document.heads().unwrap();
    store.close().unwrap();
    assert_eq!(admin::compact(&path, true).unwrap().changes, 31);
    let lower = options().document_bytes(200_000).compaction(false);
    let store = Store::open(&path, lower).unwrap();
    let document = store.space("default").unwrap().open(id).unwrap();
    assert_eq!(document.heads().unwrap(), heads);
    let status = document.status().unwrap();
    assert!(status.size.is_oversized() && status.changes == 31, "{status:?}");
    let refused = document.change(|tx| Ok(tx.delete(ROOT, "0")?));
    assert!(matches!(refused, Err(ChangeError::DocumentTooLarge { .. })), "a deletion is a change");
    drop(document);
    store.close().unwrap();
    let kept = &admin::inspect(&path).unwrap().spaces[0].documents[0];
    assert_eq!((kept.tail_changes, kept.compacted_changes), (31, 0));
    assert_eq!(admin::verify(&path).unwrap().len(), 0);
    let (file, other) = (folder.path().join("file"), folder.path().join("other"));
    admin::export(&path, &"default".parse().unwrap(), &file).unwrap();
    Store::open(&other, options()).unwrap().close().unwrap();
    let imported = admin::import(&other, &file, None).unwrap();
    assert_eq!((imported.changes, imported.refused.len()), (31, 0));
}
