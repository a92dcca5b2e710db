//! Document chunks as automerge saves them, and hand-made hostile ones.

use automerge::transaction::{CommitOptions, Transactable};
use automerge::{Automerge, ObjType, ROOT, SaveOptions, ScalarValue};
use sha2::{Digest, Sha256};

use super::*;
use crate::admission::reader::tests::{put_signed, put_unsigned};
use crate::admission::{Origin, preflight};

/// Two authors type, delete, overwrite, count and mark concurrently, and merge.
fn session() -> Automerge {
    let mut one = Automerge::new().with_actor([1; 16].into());
    let mut tx = one.transaction();
    let text = tx.put_object(ROOT, "text", ObjType::Text).unwrap();
    let list = tx.put_object(ROOT, "list", ObjType::List).unwrap();
    tx.put(ROOT, "counter", ScalarValue::counter(3)).unwrap();
    tx.splice_text(&text, 0, 0, &"a longer text, to be marked and cut. ".repeat(40)).unwrap();
    tx.commit();
    let mut two = one.fork().with_actor([2; 16].into());
    for round in 0..30usize {
        let mut tx = one.transaction();
        tx.splice_text(&text, round * 7, 3, "日🙂").unwrap();
        tx.insert(&list, 0, round as i64).unwrap();
        tx.commit_with(CommitOptions::default().with_message(format!("round {}", round % 3)));
        let mut tx = two.transaction();
        tx.put(ROOT, "both", "two").unwrap();
        tx.increment(ROOT, "counter", 2).unwrap();
        tx.splice_text(&text, 2, 5, "").unwrap();
        let mark = automerge::marks::Mark::new("bold".to_owned(), true, 0, 9);
        tx.mark(&text, mark, automerge::marks::ExpandMark::Both).unwrap();
        tx.commit();
        if round % 5 == 4 {
            one.merge(&mut two).unwrap();
            let mut tx = one.transaction();
            tx.put(ROOT, "both", "merged").unwrap();
            tx.commit();
            one.empty_commit(CommitOptions::default());
            two.merge(&mut one).unwrap();
        }
    }
    one
}

#[test]
fn measuring_a_saved_document_equals_counting_its_changes() {
    let document = session();
    let changes = document.get_changes(&[]);
    let checked = |change: &automerge::Change| preflight(change.raw_bytes()).unwrap();
    let operations: u64 = changes.iter().map(|change| checked(change).stored_operations).sum();
    for deflate in [true, false] {
        let saved = document.save_with_options(SaveOptions { deflate, retain_orphans: false });
        let size = measure(&saved).unwrap();
        assert_eq!(size.changes, changes.len() as u64);
        assert_eq!(size.operations, operations);
        assert_eq!(size.heads, document.get_heads().len() as u64);
        assert_eq!(size.bytes, saved.len() as u64);
    }
    assert!(measure(&Automerge::new().save()).is_ok());
}

/// A hand-made document chunk.
#[derive(Clone)]
struct Draft {
    actors: u64,
    heads: u64,
    changes: Vec<(u64, Vec<u8>)>,
    operations: Vec<(u64, Vec<u8>)>,
    /// Bytes after the columns, which make the chunk longer.
    more: usize,
}

const CHANGE_ACTOR: u64 = 0x01;
const SEQUENCE: u64 = 0x03;
const MAX_OP: u64 = 0x13;
const MESSAGE: u64 = 0x35;
const DEPENDENCIES: u64 = 0x40;
const ID_ACTOR: u64 = 0x21;
const INSERT: u64 = 0x34;
const ACTION: u64 = 0x42;
const SUCCESSORS: u64 = 0x80;
const SUCCESSOR_ACTOR: u64 = 0x81;

/// `count` rows of one value.
fn run(count: u64, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_signed(count as i64, &mut out);
    out.extend(value);
    out
}

fn number(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_unsigned(value, &mut out);
    out
}

impl Draft {
    fn of(changes: u64, operations: u64) -> Self {
        Self {
            actors: 1,
            heads: 1,
            changes: vec![
                (CHANGE_ACTOR, run(changes, &[0])),
                (SEQUENCE, run(changes, &[1])),
                (MAX_OP, run(changes, &[0])),
            ],
            operations: vec![(ID_ACTOR, run(operations, &[0])), (ACTION, run(operations, &[1]))],
            more: 0,
        }
    }

    fn chunk(&self) -> Vec<u8> {
        let mut body = number(self.actors);
        for actor in 0..self.actors {
            body.push(8);
            body.extend(actor.to_be_bytes());
        }
        body.extend(number(self.heads));
        (0..self.heads).for_each(|_| body.extend([7; 32]));
        for columns in [&self.changes, &self.operations] {
            body.extend(number(columns.len() as u64));
            for (spec, bytes) in columns {
                body.extend(number(*spec));
                body.extend(number(bytes.len() as u64));
            }
        }
        for (_, bytes) in self.changes.iter().chain(&self.operations) {
            body.extend(bytes);
        }
        body.resize(body.len() + self.more, 0);
        sealed(&body)
    }

    fn measured(&self) -> Result<DocumentSize, DocumentError> {
        measure(&self.chunk())
    }
}

fn sealed(body: &[u8]) -> Vec<u8> {
    let mut typed = vec![0];
    typed.extend(number(body.len() as u64));
    typed.extend(body);
    [&MAGIC[..], &Sha256::digest(&typed)[..4], &typed].concat()
}

#[track_caller]
fn over(draft: &Draft, budget: Budget) -> OverBudget {
    match draft.measured() {
        Err(DocumentError::OverBudget(over)) if over.budget == budget => over,
        other => panic!("expected {budget} over budget, found {other:?}"),
    }
}

#[test]
fn a_few_bytes_stand_for_few_changes() {
    // This chunk took 417 MiB at every engine that synced it.
    let draft = Draft::of(300_000, 1);
    assert!(draft.chunk().len() < 200);
    assert_eq!(over(&draft, Budget::Changes).actual, 300_000);
    let most = DocumentSize::most_changes(draft.chunk().len() as u64);
    assert!(Draft::of(most, 1).measured().is_ok());
    let next = over(&Draft::of(most + 1, 1), Budget::Changes);
    assert_eq!((next.limit, next.actual), (most, most + 1));
    // With bytes that account for them, up to the limit of a document.
    let longer = Draft { more: 50_000, ..draft };
    assert_eq!(longer.measured().unwrap().changes, 300_000);
    let whole = limits::DOCUMENT_CHANGES;
    let long = |changes| Draft { more: 300_000, ..Draft::of(changes, 1) };
    assert!(long(whole).measured().is_ok());
    assert_eq!(over(&long(whole + 1), Budget::Changes).limit, whole);
    over(&Draft::of(i64::MAX as u64, 1), Budget::Changes);
}

#[test]
fn a_few_bytes_stand_for_few_operations() {
    let most = DocumentSize::most_operations(Draft::of(1, 1 << 23).chunk().len() as u64);
    assert!(Draft::of(1, most).measured().is_ok());
    let next = over(&Draft::of(1, most + 1), Budget::Operations);
    assert_eq!((next.limit, next.actual), (most, most + 1));
    let longer = Draft { more: 200_000, ..Draft::of(1, most + 1) };
    assert!(longer.measured().is_ok());
    let long = |operations| Draft { more: 200_000, ..Draft::of(1, operations) };
    assert!(long(limits::DOCUMENT_OPERATIONS).measured().is_ok());
    over(&long(limits::DOCUMENT_OPERATIONS + 1), Budget::Operations);
    // In every column that can state them: nulls, booleans, groups, entries of groups.
    let with = |spec, bytes: Vec<u8>| {
        let mut draft = Draft::of(1, 1);
        draft.operations.push((spec, bytes));
        draft.operations.sort();
        draft
    };
    let nulls = [vec![0], number(1 << 40)].concat();
    over(&with(0x11, nulls), Budget::Operations);
    over(&with(INSERT, number(1 << 40)), Budget::Operations);
    over(&with(SUCCESSORS, run(1, &number(1 << 40))), Budget::Operations);
    over(&with(SUCCESSORS, run(1 << 30, &number(1 << 40))), Budget::Operations);
    over(&with(SUCCESSOR_ACTOR, run(1 << 40, &[0])), Budget::Operations);
    let mut dependencies = Draft::of(1, 1);
    dependencies.changes.push((DEPENDENCIES, run(1, &number(1 << 40))));
    over(&dependencies, Budget::Operations);
}

#[test]
fn heads_clocks_texts_and_inflation_are_bounded() {
    assert!(Draft { heads: limits::DOCUMENT_HEADS as u64, ..Draft::of(1, 1) }.measured().is_ok());
    over(&Draft { heads: limits::DOCUMENT_HEADS as u64 + 1, ..Draft::of(1, 1) }, Budget::Heads);
    // 20,000 actors beside 100,000 changes: 500 MB of vector clocks.
    over(&Draft { actors: 20_000, ..Draft::of(100_000, 1) }, Budget::ClockEntries);
    assert!(Draft { actors: 5_000, ..Draft::of(100_000, 1) }.measured().is_ok());
    let mut text = number(1 << 20);
    text.resize(text.len() + (1 << 20), b'm');
    let mut messages = Draft::of(1_000, 1);
    messages.changes.push((MESSAGE, run(1_000, &text)));
    over(&messages, Budget::TextBytes);
    let bomb = deflated(&vec![0; limits::DOCUMENT_INFLATED_BYTES + 1]);
    let mut draft = Draft::of(1, 1);
    draft.operations.push((0x57 | 8, bomb));
    over(&draft, Budget::InflatedBytes);
    // Several columns share the bound.
    let mut draft = Draft::of(1, 1);
    let half = deflated(&vec![0; limits::DOCUMENT_INFLATED_BYTES / 2 + 1]);
    draft.operations.extend([(0x57 | 8, half.clone()), (0x67 | 8, half)]);
    over(&draft, Budget::InflatedBytes);
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn arbitrary_bytes_are_refused_or_counted() {
    let document = session();
    for deflate in [true, false] {
        let saved = document.save_with_options(SaveOptions { deflate, retain_orphans: false });
        for end in 0..saved.len() {
            assert!(measure(&saved[..end]).is_err(), "cut at {end}");
        }
        for at in 8..saved.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = saved.clone();
                damaged[at] ^= flip;
                if let Ok(size) = measure(&damaged) {
                    assert!(size.changes <= DocumentSize::most_changes(size.bytes));
                    assert!(size.operations <= DocumentSize::most_operations(size.bytes));
                }
            }
        }
    }
    let other = automerge::Automerge::load(&document.save()).unwrap();
    let change = other.get_changes(&[]).remove(0);
    let error = measure(change.raw_bytes()).unwrap_err();
    assert!(matches!(error, DocumentError::NotADocument { .. }), "{error}");
}

#[test]
fn a_document_grows_within_the_operations_its_bytes_allow() {
    let free = limits::DOCUMENT_OPERATIONS_FREE;
    let size = |bytes, operations| DocumentSize { bytes, operations, ..DocumentSize::default() };
    let million = limits::CHANGE_OPERATIONS;
    // A few bytes that state a million operations pass twice. The third time the document's bytes
    // do not account for them.
    assert!(size(64, million).check_growth(64, million, Origin::Pushed).is_ok());
    let over = size(0, free).check_growth(64, million, Origin::Pushed).unwrap_err();
    assert_eq!((over.budget, over.actual), (Budget::Operations, free + million));
    // A deletion of a whole long document, and typing in a document that was compacted to nothing.
    assert!(size(200_000, 4 * million).check_growth(64, million, Origin::Pushed).is_ok());
    assert!(size(100, 4 * million).check_growth(100, 1, Origin::Pushed).is_ok());
    // A paste brings a byte for each of its operations.
    assert!(size(100, 4 * million).check_growth(million, million, Origin::Pushed).is_ok());
    let most = limits::DOCUMENT_OPERATIONS;
    assert!(size(u64::MAX, most - 1).check_growth(100, 1, Origin::Pushed).is_ok());
    assert!(size(u64::MAX, most).check_growth(100, 1, Origin::Pushed).is_err());
    let full = DocumentSize { changes: limits::DOCUMENT_CHANGES, ..DocumentSize::default() };
    assert_eq!(full.check_growth(100, 1, Origin::Pushed).unwrap_err().budget, Budget::Changes);
}

/// A relay accepts every change that was admitted locally, however it has compacted the document.
#[test]
fn a_locally_admitted_change_is_admitted_by_a_relay_that_compacted_more() {
    let (free, own) = (limits::DOCUMENT_OPERATIONS_FREE, 64);
    let mut refused = 0;
    for compacted in [0, 1_000, 40_000] {
        for tail in [0, 100_000, 10_000_000] {
            for operations in (0..=limits::DOCUMENT_OPERATIONS).step_by(65_536) {
                let lasting_bytes = compacted + DocumentSize::lasting(tail);
                let bytes = compacted + tail;
                let here = DocumentSize { bytes, lasting_bytes, operations, ..Default::default() };
                // Content at deflate's best ratio, saved a little shorter.
                let bytes = compacted * 4 / 5 + tail / 1_032;
                let there = DocumentSize { bytes, operations, ..DocumentSize::default() };
                let grown = |size: &DocumentSize, origin| {
                    size.check_growth(own, limits::CHANGE_OPERATIONS, origin).is_ok()
                };
                let is_taken = grown(&there, Origin::Pushed);
                assert!(is_taken || !grown(&here, Origin::Local), "{here:?} at {there:?}");
                refused += u32::from(!is_taken && grown(&here, Origin::Pushed));
            }
        }
    }
    assert!(refused > 0, "counted by the bytes that are here, it would be refused there");
    // A short document has room for its longest change and for its deletion: both ends allow only
    // the free operations for it.
    let short = DocumentSize { operations: free / 4, ..DocumentSize::default() };
    assert!(short.check_growth(own, limits::CHANGE_OPERATIONS, Origin::Local).is_ok());
}
