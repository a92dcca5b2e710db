//! A store's file: its length when everything is compacted, and the effect of a flipped bit.

use std::collections::BTreeMap;
use std::path::Path;

use landfall_protocol::{DocumentId, ReplicaId};
use landfall_test_rng::Rng;

use super::store_support::{Author, Bench, id};
use crate::admin;
use crate::compactor::compact;
use crate::store::{CompactionOptions, LocalLog, OpenMode};

#[test]
fn a_compacted_store_is_hardly_larger_than_its_documents() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::at(OpenMode::File(&folder.path().join("s")));
    let used = || {
        let number = |sql| {
            let read = bench.log.database().read(|conn| conn.query_row(sql, [], |row| row.get(0)));
            read.unwrap()
        };
        let (pages, free): (u64, u64) =
            (number("PRAGMA page_count"), number("PRAGMA freelist_count"));
        (pages - free) * number("PRAGMA page_size")
    };
    // Every table and index has its own page.
    let empty = used();
    let mut saved = 0;
    for n in 0..60u8 {
        let mut author = Author::new(n, n);
        bench.append_all(id(n), &author.puts(300));
        saved += author.doc.save().len() as u64;
    }
    assert_eq!(bench.compact().changes, 60 * 300);
    let (used, allowed) = (used() - empty, saved * 3 / 2 + 60 * 512);
    assert!(used <= allowed, "{used} bytes for documents of {saved}, at most {allowed}");
}

/// A store with compacted documents, tails and a tombstone; and the contents of its documents.
fn write(path: &Path) -> BTreeMap<DocumentId, Vec<(String, String)>> {
    let mut bench = Bench::at(OpenMode::File(path));
    bench.meet(1);
    let mut shows = BTreeMap::new();
    for n in 1..=8u8 {
        let mut author = Author::new(n, n);
        bench.append_all(id(n), &author.puts(20));
        bench.acknowledge((u64::from(n) * 20 - 19)..=u64::from(n) * 20);
        if n == 4 {
            bench.compact();
        }
        shows.insert(id(n), Author::shows(&author.doc));
    }
    bench.check();
    bench.log.database().close().unwrap();
    shows
}

/// The contents of a document, if all its bytes have the stored hashes.
fn read(log: &LocalLog, bench: &Bench, document: DocumentId) -> Option<Vec<(String, String)>> {
    let row = log.document(bench.space, &document).ok()??;
    let mut doc = automerge::Automerge::new();
    let (pieces, _) = log.changes_after(row, 0, usize::MAX).ok()?;
    for piece in pieces {
        doc.load_incremental(&piece.body).ok()?;
    }
    let mut heads = doc.get_heads();
    heads.sort_unstable();
    (heads == log.heads(row).ok()?).then(|| Author::shows(&doc))
}

/// One bit is flipped: opening or verifying the store finds it, or it has no effect. A document that is
/// still shown has its former contents.
#[test]
fn a_flipped_bit_is_found_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let shows = write(&path);
    let whole = std::fs::read(&path).unwrap();
    let flips = std::env::var("LANDFALL_FLIPS").map_or(500, |flips| flips.parse().unwrap());
    let mut rng = Rng::new(1);
    let (mut refused, mut found, mut harmless, mut repaired) = (0, 0, 0, 0);
    for _ in 0..flips {
        let bit = rng.below(whole.len() * 8);
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let path = folder.path().join("damaged");
        std::fs::write(&path, &damaged).unwrap();
        std::fs::remove_file(folder.path().join("damaged-wal")).ok();
        let options = landfall_storage::Options::default();
        let opened = LocalLog::open(OpenMode::File(&path), options, ReplicaId::from_bytes([7; 16]));
        let Ok(log) = opened else {
            refused += 1;
            continue;
        };
        let bench = Bench::with(log.clone());
        let findings = match log.verify() {
            Ok(findings) => findings,
            // The bit is in a table's definition, which SQLite reports.
            Err(error) if format!("{error:?}").contains("no such column") => {
                refused += 1;
                continue;
            }
            Err(error) => panic!("bit {bit}: {error:?}"),
        };
        let mut same = true;
        for (document, shown) in &shows {
            match read(&log, &bench, *document) {
                Some(now) => assert_eq!(now, *shown, "bit {bit}: {findings:#?}"),
                None => same = false,
            }
        }
        match findings.is_empty() {
            true => {
                harmless += 1;
                assert!(same, "bit {bit} was not found");
            }
            false => {
                found += 1;
                let after = log.repair().unwrap_or_default();
                repaired += u64::from(after.left.is_empty());
                for (document, shown) in &shows {
                    let dropped = after.dropped.iter().any(|(_, dropped, _)| dropped == document);
                    if let Some(now) = read(&log, &bench, *document).filter(|_| !dropped) {
                        assert_eq!(now, *shown, "bit {bit} after the repair: {findings:#?}");
                    }
                }
            }
        }
        compact(&log, &CompactionOptions::EVERYTHING).ok();
        log.database().close().ok();
    }
    println!("refused {refused}, found {found} ({repaired} repaired), harmless {harmless}");
    // Most of a small file is free space on pages.
    assert!(found >= flips / 20, "refused {refused}, found {found}, harmless {harmless}");
}

/// The file is in another file system than the symbolic link to it: a rename from beside the link would
/// fail.
#[cfg(target_os = "linux")]
#[test]
fn maintenance_through_a_symlink_works_beside_the_target_file() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
        return println!("SKIPPED (needs /dev/shm)");
    };
    let device = |path: &Path| std::fs::metadata(path).unwrap().dev();
    if device(folder.path()) == device(other.path()) {
        return println!("SKIPPED (the temporary files are in /dev/shm)");
    }
    let (file, link) = (other.path().join("s"), folder.path().join("link"));
    let shows = write(&file);
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).unwrap().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    admin::compact(&link, true).unwrap();
    assert_eq!(names(folder.path()), ["link"]);
    assert_eq!(names(other.path()), ["s", "s.lock"]);
    let copy = folder.path().join("copy");
    admin::backup(&link, &copy).unwrap();
    let kept = admin::restore(&copy, &link, true, false).unwrap().kept.unwrap();
    assert_eq!(kept.parent(), Some(other.path()));
    assert_eq!(names(folder.path()), ["copy", "link"]);
    assert!(link.is_symlink());
    // A failed restore leaves nothing either.
    std::fs::write(&copy, b"no store").unwrap();
    admin::restore(&copy, &link, true, false).unwrap_err();
    assert_eq!(names(folder.path()), ["copy", "link"]);
    assert_eq!(names(other.path()).len(), 3, "{:?}", names(other.path()));
    let bench = Bench::at(OpenMode::File(&link));
    bench.check();
    for (document, shown) in &shows {
        assert_eq!(read(&bench.log, &bench, *document).as_ref(), Some(shown));
    }
}
