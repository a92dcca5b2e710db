//! Test histories, made by automerge.

use automerge::transaction::Transactable;
use automerge::{ActorId, Automerge, Change, ExpandedChange, ObjId, ObjType, ROOT, ReadDoc};
use automerge::{ScalarValue, TextEncoding};

pub fn empty(actor: u8) -> Automerge {
    let document = Automerge::new_with_encoding(TextEncoding::UnicodeCodePoint);
    document.with_actor(ActorId::from([actor; 16]))
}

/// A document with an empty text.
pub fn begun(actor: u8) -> (Automerge, ObjId) {
    let mut document = empty(actor);
    let mut tx = document.transaction();
    let text = tx.put_object(ROOT, "text", ObjType::Text).unwrap();
    tx.commit();
    (document, text)
}

/// Types characters, each in its own change, with deletions and jumps as in an editor.
pub fn type_into(document: &mut Automerge, text: &ObjId, characters: usize) {
    let mut at = document.length(text);
    for number in 0..characters {
        if number % 97 == 96 {
            at = number * 7919 % (document.length(text) + 1);
        }
        let mut tx = document.transaction();
        if number % 13 == 12 && at > 0 {
            at -= 1;
            tx.splice_text(text, at, 1, "").unwrap();
        } else {
            let letter = ["a", "é", "日", "🙂", " "][number % 5];
            tx.splice_text(text, at, 0, letter).unwrap();
            at += 1;
        }
        tx.commit();
    }
}

/// Two actors type, merge, type concurrently and merge again; a counter, a mark, a map and an empty
/// change.
pub fn session() -> Automerge {
    let (mut one, text) = begun(1);
    type_into(&mut one, &text, 120);
    let mut two = one.fork().with_actor(ActorId::from([2; 16]));
    for _ in 0..4 {
        type_into(&mut one, &text, 60);
        type_into(&mut two, &text, 45);
        let mut tx = two.transaction();
        tx.put(ROOT, "both", "two").unwrap();
        tx.put(ROOT, "counter", ScalarValue::counter(3)).unwrap();
        tx.commit();
        let mut tx = one.transaction();
        tx.put(ROOT, "both", 1).unwrap();
        tx.commit();
        one.merge(&mut two).unwrap();
        one.empty_commit(automerge::transaction::CommitOptions::default());
        two.merge(&mut one).unwrap();
    }
    let mut tx = two.transaction();
    tx.increment(ROOT, "counter", 4).unwrap();
    tx.delete(ROOT, "both").unwrap();
    tx.commit();
    one.merge(&mut two).unwrap();
    one
}

/// The changes of a document as on the wire, dependencies first.
pub fn changes(document: &Automerge) -> Vec<Vec<u8>> {
    document.get_changes(&[]).iter().map(|change| change.raw_bytes().to_vec()).collect()
}

/// The changes that `after` has and `before` lacks.
pub fn added(before: &Automerge, after: &Automerge) -> Vec<Vec<u8>> {
    let added = before.get_changes_added(after);
    added.iter().map(|change| change.raw_bytes().to_vec()).collect()
}

/// A change to a text that was never made: it passes the preflight.
pub fn poison(on: &Automerge) -> Vec<u8> {
    let (mut other, text) = begun(9);
    type_into(&mut other, &text, 1);
    let mut change: ExpandedChange = other.get_last_local_change().unwrap().decode();
    change.deps = on.get_heads();
    change.seq = 1;
    change.start_op = 100_000.try_into().unwrap();
    change.hash = None;
    Change::from(change).raw_bytes().to_vec()
}
