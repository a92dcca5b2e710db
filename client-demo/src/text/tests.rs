//! Edits: against a plain string, and against concurrent authors.

use landfall::{Options, Store};
use proptest::prelude::*;

use super::*;
use crate::note::BODY;

fn apply_to(old: &str, ops: &[TextOp]) -> String {
    let mut text: Vec<char> = old.chars().collect();
    for op in ops.iter().rev() {
        text.splice(op.at..op.at + op.delete, op.insert.chars());
    }
    text.into_iter().collect()
}

fn note_with(body: &str) -> Document {
    let store = Store::in_memory(Options::default()).unwrap();
    let space = store.space("default").unwrap();
    space.create(|tx| Ok(note::write(tx, "Title", body, None).map(|_| ())?)).unwrap().0
}

fn body_of(document: &Document) -> String {
    document.read(note::read).unwrap().unwrap().body
}

/// One author has `old` in an editor; another one makes `theirs` of it; then the first saves `ours`.
fn merged(old: &str, theirs: &str, ours: &str) -> String {
    let document = note_with(old);
    let base = BaseText::take(&document, BODY).unwrap();
    BaseText::take(&document, BODY).unwrap().edit(&document, theirs).unwrap();
    base.edit(&document, ours).unwrap();
    body_of(&document)
}

/// Text of pieces that break careless code: joined emoji, combining marks, CJK, CRLF.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        "b",
        "c",
        " ",
        "word ",
        "e\u{301}",
        "漢",
        "字",
        "👩‍👩‍👧",
        "🇦🇹",
        "\r\n",
        "\n",
        "\u{301}",
        "ß",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn operations_make_the_new_text(old in pieces(), new in pieces()) {
        prop_assert_eq!(apply_to(&old, &diff(&old, &new)), new);
    }

    #[test]
    fn operations_of_any_unicode_make_the_new_text(old in "\\PC*", new in "\\PC*") {
        prop_assert_eq!(apply_to(&old, &diff(&old, &new)), new);
    }

    #[test]
    fn operations_are_ordered_and_do_not_touch(old in pieces(), new in pieces()) {
        let ops = diff(&old, &new);
        prop_assert!(ops.windows(2).all(|w| w[0].at + w[0].delete < w[1].at), "{:?}", ops);
        prop_assert!(ops.iter().all(|op| op.delete > 0 || !op.insert.is_empty()), "{:?}", ops);
    }

    #[test]
    fn without_concurrent_edits_the_note_gets_the_edited_text(old in pieces(), new in pieces()) {
        let document = note_with(&old);
        BaseText::take(&document, BODY).unwrap().edit(&document, &new).unwrap();
        prop_assert_eq!(body_of(&document), new);
    }

    /// Untouched characters stay, deleted ones are gone, and both authors' insertions are there: all letters
    /// of the old text differ, and each author uses own letters.
    #[test]
    fn two_edits_merge_by_character(
        keep_theirs in prop::collection::vec(any::<bool>(), 12),
        keep_ours in prop::collection::vec(any::<bool>(), 12),
        write_theirs in prop::collection::vec(0..3usize, 13),
        write_ours in prop::collection::vec(0..3usize, 13),
    ) {
        let old: Vec<char> = ('a'..='l').collect();
        let edit = |keep: &[bool], write: &[usize], letter: char| -> String {
            let mut text = String::new();
            for i in 0..=old.len() {
                text.extend(std::iter::repeat_n(letter, write[i]));
                text.extend(old.get(i).filter(|_| keep[i]));
            }
            text
        };
        let theirs = edit(&keep_theirs.iter().copied().chain([true]).collect::<Vec<_>>(), &write_theirs, 'T');
        let ours = edit(&keep_ours.iter().copied().chain([true]).collect::<Vec<_>>(), &write_ours, 'O');
        let merged = merged(&old.iter().collect::<String>(), &theirs, &ours);
        let letters: String = merged.chars().filter(|c| old.contains(c)).collect();
        let kept: String = (0..12).filter(|i| keep_theirs[*i] && keep_ours[*i]).map(|i| old[i]).collect();
        prop_assert_eq!(letters, kept);
        prop_assert_eq!(merged.matches('T').count(), write_theirs.iter().sum::<usize>());
        prop_assert_eq!(merged.matches('O').count(), write_ours.iter().sum::<usize>());
    }
}

#[test]
fn an_edit_is_small() {
    let ops = diff("The cat sat.", "The black cat sat!");
    let insert = |at, delete, text: &str| TextOp { at, delete, insert: text.to_owned() };
    assert_eq!(ops, [insert(4, 0, "black "), insert(11, 1, "!")]);
    assert!(diff("same", "same").is_empty());
}

#[test]
fn graphemes_are_never_cut() {
    // The two families share code points; only a whole one may be replaced.
    let ops = diff("x👩‍👩‍👧y", "x👨‍👩‍👧y");
    assert_eq!(ops, [TextOp { at: 1, delete: 5, insert: "👨‍👩‍👧".to_owned() }]);
    let ops = diff("a\r\nb", "a\nb");
    assert_eq!(ops, [TextOp { at: 1, delete: 2, insert: "\n".to_owned() }]);
}

#[test]
fn concurrent_edits_of_one_line_merge() {
    let old = "The train leaves at six.";
    let theirs = "The train leaves Kyōto at six.";
    let ours = "The early train leaves at seven.";
    assert_eq!(merged(old, theirs, ours), "The early train leaves Kyōto at seven.");
}

#[test]
fn concurrent_insertions_inside_a_deletion_are_kept() {
    assert_eq!(merged("one two three", "one two and three", "one"), "oneand ");
    assert_eq!(merged("abc", "", "abXc"), "X");
    assert_eq!(merged("", "theirs", "ours").len(), "theirsours".len());
    assert_eq!(merged("abc", "abc!", "?abc"), "?abc!");
}

#[test]
fn an_edit_of_a_replaced_text_object_is_refused() {
    let document = note_with("old");
    let base = BaseText::take(&document, BODY).unwrap();
    let put = |tx: &mut Transaction<'_>| {
        use landfall::automerge::{ObjType, ROOT};
        Ok(tx.put_object(ROOT, BODY, ObjType::Text).map(|_| ())?)
    };
    document.change(put).unwrap();
    assert!(matches!(base.edit(&document, "new"), Err(EditError::Replaced)));
}

#[test]
fn an_edit_that_changes_nothing_makes_no_change() {
    let document = note_with("same");
    let heads = document.heads().unwrap();
    assert_eq!(BaseText::take(&document, BODY).unwrap().edit(&document, "same").unwrap(), 0);
    assert_eq!(document.heads().unwrap(), heads);
}

/// Rejected before automerge or the diff see it: a text of a hundred times the limit fails immediately.
#[test]
fn a_text_above_the_change_limit_is_refused_before_any_work() {
    let document = note_with("short");
    let base = BaseText::take(&document, BODY).unwrap();
    let long = "x".repeat(CHANGE_OPERATIONS as usize + 6);
    assert!(matches!(base.edit(&document, &long), Err(EditError::TooLong(_))));
    assert_eq!(fits(CHANGE_OPERATIONS as usize - 8), Ok(()));
    assert!(fits(CHANGE_OPERATIONS as usize - 7).is_err());
}
