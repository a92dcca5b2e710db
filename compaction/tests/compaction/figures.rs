//! The cost of compaction. Run with `--release -- --nocapture figures` for the figures; the asserted
//! bounds leave room for a debug build on a busy machine.

use std::time::Instant;

use landfall_compaction::{JobKind, Supervisor, changes_since, compact, inspect};

use super::histories::{begun, changes, type_into};
use super::workers::supervisor;

#[test]
fn figures_of_a_document_of_20_000_characters() {
    let (mut document, text) = begun(1);
    type_into(&mut document, &text, 20_000);
    let all = changes(&document);
    let raw: usize = all.iter().map(Vec::len).sum();
    let begun = Instant::now();
    let compacted = compact(&[], all.iter().cloned()).unwrap();
    let took = begun.elapsed();
    println!("compact: {took:?}; raw {raw}, snapshot {} bytes", compacted.snapshot.len());
    println!("index: {} bytes for {} changes", compacted.index.len(), compacted.changes);
    assert!(compacted.index.len() as u64 <= 37 * compacted.changes);
    let begun = Instant::now();
    inspect(&compacted.snapshot, compacted.hash).unwrap();
    println!("inspect: {:?}", begun.elapsed());
    let begun = Instant::now();
    let since = changes_since(&compacted.snapshot, &[]).unwrap();
    println!("changes_since: {:?}, {} changes", begun.elapsed(), since.len());

    let mut job = supervisor(&[]).start(JobKind::Compaction).unwrap();
    let begun = Instant::now();
    all.iter().for_each(|change| job.change(change).unwrap());
    let _ = job.finish().unwrap();
    println!("compact in a child: {:?}", begun.elapsed());
    for mebibytes in [16u64, 24, 32, 48, 64, 96, 128, 192, 256] {
        let limited = Supervisor { memory_bytes: mebibytes << 20, ..supervisor(&[]) };
        if limited.compact(&[], all.iter().cloned()).is_ok() {
            println!("address space that is enough: {mebibytes} MiB");
            assert!(mebibytes < 256);
            return;
        }
    }
    panic!("no address space was enough");
}
