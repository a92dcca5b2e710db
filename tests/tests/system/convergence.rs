//! Two replicas that edit offline connect to a relay and end in the same state.

use landfall::Document;
use landfall::automerge::marks::{ExpandMark, Mark};
use landfall::automerge::{ObjType, ROOT, ReadDoc, transaction::Transactable};
use landfall_tests::process::Relay;
use landfall_tests::replica::{Snapshot, link, open, wait_synced, wait_until};
use landfall_tests::traces;

fn seed_note(document: &Document) {
    document
        .change(|tx| {
            let text = tx.put_object(ROOT, "text", ObjType::Text)?;
            tx.splice_text(&text, 0, 0, "Grüße\r\n日本語 👩‍👩‍👧 e\u{301}")?;
            let list = tx.put_object(ROOT, "list", ObjType::List)?;
            tx.insert(&list, 0, "first")?;
            tx.put_object(ROOT, "map", ObjType::Map)?;
            tx.put(ROOT, "counter", landfall::automerge::ScalarValue::counter(0))?;
            Ok(())
        })
        .unwrap();
}

/// Edits every type of value, differently on each side.
fn edit(document: &Document, side: &str, by: i64) {
    let object =
        |doc: &landfall::automerge::Automerge, key: &str| doc.get(ROOT, key).unwrap().unwrap().1;
    let (text, list, map) = document
        .read(|doc| (object(doc, "text"), object(doc, "list"), object(doc, "map")))
        .unwrap();
    document
        .change(|tx| {
            tx.splice_text(&text, 2, 1, &format!("«{side} 🏔️»"))?;
            tx.mark(&text, Mark::new("bold".into(), true, 1, 4), ExpandMark::After)?;
            tx.insert(&list, 0, format!("{side} e\u{301}\u{323}"))?;
            tx.put(&map, "shared", side)?;
            tx.put(&map, side, by)?;
            tx.increment(ROOT, "counter", by)?;
            tx.put(ROOT, "conflict", format!("{side}\r\n漢字"))?;
            Ok(())
        })
        .unwrap();
    document.change(|tx| Ok(tx.splice_text(&text, 0, 0, side)?)).unwrap();
    document.change(|tx| Ok(tx.delete(&list, 1)?)).unwrap();
}

#[test]
fn concurrent_offline_edits_of_every_type_converge() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"), 0);
    let stores = ["a", "b"].map(|name| open(&folder.path().join(name)));
    let spaces = stores.each_ref().map(|store| store.space("default").unwrap());
    let first = spaces[0].create(|_| Ok(())).unwrap().0;
    seed_note(&first);
    stores.iter().for_each(|store| store.connect(link(&relay.url)).unwrap());
    stores.iter().for_each(wait_synced);
    wait_until(&stores[1], "for the note", || spaces[1].contains(&first.id()).unwrap());
    let second = spaces[1].open(first.id()).unwrap();
    stores.iter().for_each(|store| store.go_offline());
    for round in 0..3 {
        edit(&first, &format!("left{round}"), 5);
        edit(&second, &format!("right{round}"), 7);
    }
    assert_ne!(Snapshot::of(&spaces[0]), Snapshot::of(&spaces[1]));
    stores.iter().for_each(|store| store.go_online());
    stores.iter().for_each(wait_synced);
    wait_until(&stores[0], "for equal heads", || first.heads().unwrap() == second.heads().unwrap());
    let (left, right) = (Snapshot::of(&spaces[0]), Snapshot::of(&spaces[1]));
    assert_eq!(left, right);
    assert_eq!(left.changes(), 2 + 2 * 9);
    let counter = first.read(|doc| doc.get(ROOT, "counter").unwrap().unwrap().0.as_i64());
    assert_eq!(counter.unwrap(), Some(3 * 5 + 3 * 7));
    stores.iter().for_each(|store| store.close().unwrap());
}

#[test]
fn a_recorded_session_replays_through_a_relay() {
    let Some(trace) = traces::load("sveltecomponent.json.gz") else { return };
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("relay"), 0);
    let options = || landfall::Options::default().durability(landfall::Durability::Normal);
    let stores =
        ["a", "b"].map(|name| landfall::Store::open(folder.path().join(name), options()).unwrap());
    stores.iter().for_each(|store| store.connect(link(&relay.url)).unwrap());
    let spaces = stores.each_ref().map(|store| store.space("default").unwrap());
    let document = spaces[0]
        .create(|tx| Ok(tx.put_object(ROOT, "text", ObjType::Text).map(|_| ())?))
        .unwrap()
        .0;
    let text = document.read(|doc| doc.get(ROOT, "text").unwrap().unwrap().1).unwrap();
    for patches in &trace.transactions {
        document
            .change(|tx| {
                for (position, deleted, inserted) in patches {
                    tx.splice_text(&text, *position, *deleted as isize, inserted)?;
                }
                Ok(())
            })
            .unwrap();
    }
    stores[0].flush_blocking(landfall_tests::PATIENCE).unwrap();
    wait_until(&stores[1], "for the note", || spaces[1].contains(&document.id()).unwrap());
    let read = spaces[1].open(document.id()).unwrap();
    wait_until(&stores[1], "for the last change", || {
        read.heads().unwrap() == document.heads().unwrap()
    });
    for side in [&document, &read] {
        assert_eq!(side.read(|doc| doc.text(&text).unwrap()).unwrap(), trace.end);
    }
}
