//! Documents of several merged histories move whole, whichever program wrote the file: random histories are
//! exported and imported, with and without compaction.

use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, ROOT};
use landfall_protocol::frame::entry_flags::SECOND_ROOT;
use landfall_protocol::portable::{Encoder, Record};
use landfall_protocol::{DocumentId, limits};
use landfall_test_rng::Rng;
use sha2::{Digest, Sha256};

use crate::support::{Held, Place, held, run, text};

/// The form of a document in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As in a relay's log: only a later root is marked.
    Single,
    /// As an engine writes it: every change of a merged document is marked.
    Marked,
    /// Compacted, followed by the last changes.
    Compacted,
}

/// Several actors, each with a root of its own or with the first one's, who edit and merge.
fn history(random: &mut Rng, document: u8) -> AutoCommit {
    let made = |n: u8| {
        let mut doc = AutoCommit::new().with_actor(ActorId::from([document, n]));
        doc.put(ROOT, format!("root {n}"), n as i64).unwrap();
        doc.commit();
        doc
    };
    let mut replicas = vec![made(0)];
    for n in 1..=random.below(3) as u8 {
        let fork = random.below(2) == 0;
        let first = replicas[0].fork().with_actor(ActorId::from([document, n]));
        replicas.push(if fork { first } else { made(n) });
    }
    for step in 0..random.below(40) {
        let who = random.below(replicas.len() as u64) as usize;
        match random.below(4) {
            0 => {
                let mut other = replicas[random.below(replicas.len() as u64) as usize].clone();
                replicas[who].merge(&mut other).unwrap();
            }
            1 => drop(replicas[who].empty_change(Default::default())),
            _ => {
                replicas[who].put(ROOT, format!("key {}", step % 5), step as i64).unwrap();
                replicas[who].commit();
            }
        }
    }
    let mut all = replicas.remove(0);
    replicas.iter_mut().for_each(|other| drop(all.merge(other).unwrap()));
    all
}

fn records(doc: &mut AutoCommit, form: Form, random: &mut Rng) -> Vec<Record> {
    let changes: Vec<_> = doc.get_changes(&[]).into_iter().collect();
    let (mut records, mut roots, mut compacted) = (Vec::new(), 0, 0);
    if form == Form::Compacted {
        let mut base = AutoCommit::new();
        compacted = 1 + random.below(changes.len() as u64) as usize;
        base.apply_changes(changes[..compacted].iter().cloned()).unwrap();
        let body = base.save();
        let hash = Sha256::digest(&body).into();
        records.push(Record::Snapshot { hash, bytes: body.len() as u64 });
        records.extend(body.chunks(limits::PART_BYTES).map(|part| Record::Part(part.to_vec())));
        roots = changes[..compacted].iter().filter(|change| change.deps().is_empty()).count();
    }
    for mut change in changes.into_iter().skip(compacted) {
        let is_root = change.deps().is_empty();
        roots += usize::from(is_root);
        let is_marked = form == Form::Marked || (is_root && roots > 1);
        let flags = if is_marked { SECOND_ROOT } else { 0 };
        let (author, chunk) = (b"somebody".to_vec(), change.bytes().into_owned());
        records.push(Record::Change { at_ms: 5, flags, author, chunk });
    }
    records
}

#[test]
fn documents_of_merged_histories_move_completely() {
    for seed in 0..6 {
        let place = Place::new();
        let mut random = Rng::from_environment();
        println!("round {seed}");
        let (mut file, mut before) = (Vec::new(), Held::new());
        let mut encoder = Encoder::new(&"notes".parse().unwrap(), 5, &mut file);
        for number in 1..=6u8 {
            let document = DocumentId::from_bytes([number; 16]);
            let mut doc = history(&mut random, number);
            let form = [Form::Single, Form::Marked, Form::Compacted][usize::from(number) % 3];
            let mut add = |record| encoder.add(&record, &mut file).unwrap();
            add(Record::Document(document));
            records(&mut doc, form, &mut random).into_iter().for_each(&mut add);
            let mut hashes: Vec<_> = doc.get_changes(&[]).iter().map(|c| c.hash().0).collect();
            hashes.sort_unstable();
            before.insert(document, hashes);
        }
        encoder.finish(&mut file).unwrap();
        let path = place.path("made.space");
        std::fs::write(&path, file).unwrap();
        let [one, two, three] = ["one", "two", "three"].map(|name| place.path(name));
        let moved = |from: Option<&std::path::Path>, to: &std::path::Path| {
            let mut file = path.clone();
            if let Some(from) = from {
                let name = |folder: &std::path::Path| folder.file_name().unwrap().to_owned();
                file = place.path(&format!("{:?} to {:?}.space", name(from), name(to)));
                run(from, &["export", "notes", text(&file)]).ok();
            }
            let report = run(to, &["import", text(&file), "--json"]).json();
            assert_eq!(report["refused"], 0, "{report}");
            assert_eq!(held(to), before);
            run(to, &["verify"]).ok();
        };
        moved(None, &one);
        moved(Some(&one), &two);
        run(&one, &["compact", "--all"]).ok();
        moved(Some(&one), &three);
        moved(Some(&three), &two);
    }
}

/// The store's file is in another file system than the data folder's link to it.
#[cfg(target_os = "linux")]
#[test]
fn a_store_behind_a_link_to_another_file_system_is_compacted_and_restored() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new();
    let data = place.path("data");
    let before = crate::support::fill(&data, 2, 50);
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
        return println!("SKIPPED (needs /dev/shm)");
    };
    let device = |path: &std::path::Path| std::fs::metadata(path).unwrap().dev();
    if device(&data) == device(other.path()) {
        return println!("SKIPPED (the temporary files are in /dev/shm)");
    }
    let (link, file) = (data.join("relay.db"), other.path().join("relay.db"));
    std::fs::copy(&link, &file).unwrap();
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let names = || -> Vec<String> {
        let entries = std::fs::read_dir(&data).unwrap().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let there = names();
    run(&data, &["compact", "--all"]).ok();
    assert_eq!((held(&data), names()), (before.clone(), there.clone()));
    let backup = place.path("backup.db");
    run(&data, &["backup", text(&backup)]).ok();
    run(&data, &["restore", text(&backup), "--replace"]).ok();
    assert_eq!((held(&data), names()), (before, there));
    assert!(link.is_symlink());
}
