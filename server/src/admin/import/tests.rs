//! The cost of an import: one child per snapshot.

use std::os::unix::fs::PermissionsExt;

use landfall_protocol::DocumentId;
use landfall_protocol::portable::Encoder;

use super::*;
use crate::cli::COMPACT_WORKER;

#[path = "../../../tests/fixtures/world.rs"]
#[allow(dead_code, clippy::duplicate_mod, reason = "shared with the tests of the store")]
mod world;

/// A portable file of one document.
fn file(path: &Path, records: &[Record]) {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&"notes".parse().unwrap(), 5, &mut bytes);
    encoder.add(&Record::Document(DocumentId::from_bytes([1; 16])), &mut bytes).unwrap();
    records.iter().for_each(|record| encoder.add(record, &mut bytes).unwrap());
    encoder.finish(&mut bytes).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn one_child_inspects_and_merges_an_imported_snapshot() {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().parent().unwrap().join("landfall-relay");
    if !program.exists() {
        eprintln!("skipped: {} is not built", program.display());
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    let (script, started) = (path("worker"), path("started"));
    let (log, program) = (started.display(), program.display());
    let text = format!("#!/bin/sh\necho one >> '{log}'\nexec '{program}' {COMPACT_WORKER}\n");
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let compactions = || {
        let worker = Some(vec![script.clone().into_os_string()]);
        CompactionOptions { worker, ..CompactionOptions::default() }
    };
    let mut document = world::author(1);
    let changes: Vec<Vec<u8>> =
        (0..3).map(|number| world::edit(&mut document, "number", number)).collect();
    let (at_ms, flags, author) = (7, 0, vec![1]);
    let first = Record::Change { at_ms, flags, author, chunk: changes[0].clone() };
    file(&path("change"), &[first]);
    let whole = landfall_compaction::compact(&[], changes).unwrap();
    let snapshot = Record::Snapshot { hash: whole.hash, bytes: whole.snapshot.len() as u64 };
    file(&path("snapshot"), &[snapshot, Record::Part(whole.snapshot)]);
    let data = path("data");
    let took = import(&data, &path("change"), None, compactions()).unwrap();
    assert_eq!((took.written.changes, started.exists()), (1, false));
    let took = import(&data, &path("snapshot"), None, compactions()).unwrap().written;
    assert_eq!((took.snapshots, took.refused), (1, 0), "{:?}", took.refusals);
    assert_eq!(std::fs::read_to_string(&started).unwrap(), "one\n");
}
