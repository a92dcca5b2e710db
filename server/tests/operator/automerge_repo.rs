//! Importing the data folder of an automerge-repo sync server: one written by the published packages, and
//! ones damaged by a crash or an attacker.

use std::fs;
use std::path::{Path, PathBuf};

use automerge::transaction::Transactable;
use automerge::{ActorId, AutoCommit, ROOT};
use landfall_protocol::DocumentId;
use landfall_relay::store::Inspection;
use landfall_test_rng::Rng;

use crate::support::{Held, Place, Served, command, count, held_of, killed, run, text, time_of};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/repo-folder");

/// A copy of the real folder.
fn real(place: &Place, name: &str) -> PathBuf {
    let folder = place.path(name);
    copy(&Path::new(FIXTURE).join("data"), &folder);
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// automerge's own report on the real folder's documents: name, id, heads, changes.
fn told() -> Vec<(String, DocumentId, Vec<String>, u64)> {
    let told = fs::read_to_string(Path::new(FIXTURE).join("told.json")).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let one = |(name, told): (&String, &serde_json::Value)| {
        let id = told["id"].as_str().unwrap().parse().unwrap();
        let heads = told["heads"].as_array().unwrap().iter();
        let heads = heads.map(|head| head.as_str().unwrap().to_owned()).collect();
        (name.clone(), id, heads, told["changes"].as_u64().unwrap())
    };
    told.as_object().unwrap().iter().map(one).collect()
}

fn id_of(name: &str) -> DocumentId {
    told().into_iter().find(|told| told.0 == name).unwrap().1
}

/// A document's folder.
fn folder_of(repo: &Path, id: DocumentId) -> PathBuf {
    let shown = id.to_string();
    let key = shown.strip_prefix("automerge:").unwrap();
    repo.join(&key[..2]).join(&key[2..])
}

/// The files of a kind, by name.
fn files(document: &Path, kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(document.join(kind)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Writes a file where the storage adapter would.
fn put(repo: &Path, id: DocumentId, kind: &str, name: &str, bytes: &[u8]) -> PathBuf {
    let folder = folder_of(repo, id).join(kind);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

/// A document's heads in a store, as hexadecimal digits.
fn heads(data: &Path, space: &str, id: DocumentId) -> Vec<String> {
    let inspection = Inspection::open(data).unwrap();
    let report = inspection.document(&space.parse().unwrap(), &id).unwrap().unwrap();
    report.heads.iter().map(ToString::to_string).collect()
}

/// Checks that the store has exactly the real folder's content.
#[track_caller]
fn check_real(data: &Path, space: &str) -> Held {
    let held = held_of(data, space);
    assert_eq!(held.len(), told().len());
    for (name, id, expected, changes) in told() {
        assert_eq!(heads(data, space, id), expected, "{name}");
        assert_eq!(held[&id].len() as u64, changes, "{name}");
    }
    run(data, &["verify"]).ok();
    held
}

/// A document of `changes` changes.
fn typed(actor: u8, changes: usize) -> AutoCommit {
    let mut document = AutoCommit::new().with_actor(ActorId::from([actor; 16]));
    for number in 0..changes {
        document.put(ROOT, "count", number as i64).unwrap();
        document.commit();
    }
    document
}

#[test]
fn importing_a_real_folder_twice_equals_once() {
    let place = Place::new();
    let (data, repo) = (place.path("data"), real(&place, "repo"));
    let done = run(&data, &["import-repo", text(&repo), "--json"]).json();
    assert_eq!((done["documents"].as_u64(), done["added"].as_u64()), (Some(3), Some(3)));
    assert_eq!((done["space"].as_str(), done["changes"].as_u64()), (Some("default"), Some(13)));
    assert_eq!((done["problems"].as_u64(), done["skipped"].as_u64()), (Some(0), Some(0)));
    let held = check_real(&data, "default");
    let again = run(&data, &["import-repo", text(&repo), "--json"]).json();
    assert_eq!((again["added"].as_u64(), again["changes"].as_u64()), (Some(0), Some(0)));
    assert_eq!(check_real(&data, "default"), held);
    let lines = run(&data, &["import-repo", text(&repo), "--space", "second"]).ok();
    assert!(lines.contains("space second: 3 documents in the folder"), "{lines}");
    assert_eq!(check_real(&data, "second"), held);
    let relay = Served::start(&data, &[]);
    run(&data, &["import-repo", text(&repo)]).failed(5, &["in use"]);
    relay.stop();
}

#[test]
fn newer_changes_of_store_and_folder_are_merged() {
    let place = Place::new();
    let (data, repo) = (place.path("data"), real(&place, "repo"));
    let long = folder_of(&repo, id_of("long"));
    let incremental = files(&long, "incremental");
    let away = place.path("away");
    fs::create_dir_all(&away).unwrap();
    for path in &incremental {
        fs::rename(path, away.join(path.file_name().unwrap())).unwrap();
    }
    let first = run(&data, &["import-repo", text(&repo), "--json"]).json();
    assert_eq!(first["changes"], 8);
    // The compacted document is the same.
    run(&data, &["compact", "--all"]).ok();
    for path in &incremental {
        fs::rename(away.join(path.file_name().unwrap()), path).unwrap();
    }
    let second = run(&data, &["import-repo", text(&repo), "--json"]).json();
    assert_eq!((second["added"].as_u64(), second["changes"].as_u64()), (Some(1), Some(5)));
    run(&data, &["compact", "--all"]).ok();
    let third = run(&data, &["import-repo", text(&repo), "--json"]).json();
    assert_eq!((third["added"].as_u64(), third["snapshots"].as_u64()), (Some(0), Some(0)));
    for (_, id, expected, _) in told() {
        assert_eq!(heads(&data, "default", id), expected);
    }
}

#[test]
fn overlapping_files_of_any_chunk_type_import_in_any_order() {
    let place = Place::new();
    let (data, repo) = (place.path("data"), place.path("repo"));
    let id = DocumentId::from_bytes([9; 16]);
    let mut document = typed(1, 1_500);
    let early = typed(1, 700).save();
    let changes = document.get_changes(&[]);
    let raw: Vec<u8> = changes[900..1_300].iter().flat_map(|c| c.raw_bytes().to_vec()).collect();
    let bundled = document.document().bundle(changes[1_200..].iter().map(|c| c.hash())).unwrap();
    put(&repo, id, "incremental", "a", bundled.bytes());
    put(&repo, id, "incremental", "b", &raw);
    put(&repo, id, "snapshot", "c", &early);
    put(&repo, id, "snapshot", "d", &typed(1, 1_000).save());
    put(&repo, id, "sync-state", "e", b"whatever");
    let done = run(&data, &["import-repo", text(&repo), "--json"]).json();
    assert_eq!((done["snapshots"].as_u64(), done["changes"].as_u64()), (Some(1), Some(0)));
    assert_eq!((done["problems"].as_u64(), done["skipped"].as_u64()), (Some(0), Some(0)));
    let expected: Vec<String> = document.get_heads().iter().map(ToString::to_string).collect();
    assert_eq!(heads(&data, "default", id), expected);
    let again = run(&data, &["import-repo", text(&repo), "--json"]).json();
    assert_eq!((again["snapshots"].as_u64(), again["added"].as_u64()), (Some(0), Some(0)));
    run(&data, &["verify"]).ok();
}

#[test]
fn damaged_files_are_reported_and_everything_else_is_imported() {
    let place = Place::new();
    let (data, repo) = (place.path("data"), real(&place, "repo"));
    // Truncated by a crash; each of the five changes after the snapshot depends on the one before it.
    let long = folder_of(&repo, id_of("long"));
    let mut incremental = files(&long, "incremental");
    incremental.sort_by_key(|path| fs::metadata(path).unwrap().len());
    let cut = incremental[0].clone();
    let whole = fs::read(&cut).unwrap();
    fs::write(&cut, &whole[..50]).unwrap();
    // A file without any valid content.
    let small = folder_of(&repo, id_of("small"));
    let bad = files(&small, "snapshot")[0].clone();
    let mut bytes = fs::read(&bad).unwrap();
    bytes[40] ^= 1;
    fs::write(&bad, bytes).unwrap();
    let empty = put(&repo, id_of("many"), "incremental", "0", b"");
    // Unrelated files.
    fs::write(repo.join("notes.txt"), "hello").unwrap();
    fs::create_dir_all(repo.join("ab").join("cdef")).unwrap();
    let done = run(&data, &["import-repo", text(&repo), "--json"]);
    let output = done.out();
    done.failed(1, &["not imported: ", "everything else was imported"]);
    let output: serde_json::Value = serde_json::from_str(&output).unwrap();
    let problems = output["problemList"].as_array().unwrap();
    for path in [&cut, &bad, &empty] {
        assert!(problems.iter().any(|problem| problem["path"] == text(path)), "{output}");
    }
    assert_eq!(output["skipped"], 2);
    let held = held_of(&data, "default");
    assert_eq!(held[&id_of("many")].len(), 6);
    assert!(!held.contains_key(&id_of("small")));
    // Dependents of the truncated change are left out too, and reported.
    let taken = held[&id_of("long")].len();
    assert!((1..6).contains(&taken), "{taken}");
    assert_eq!(problems.len(), 3 + (6 - taken - 1), "{output}");
    run(&data, &["verify"]).ok();
    // After the repair of the file everything is imported.
    fs::write(&cut, whole).unwrap();
    let done = run(&data, &["import-repo", text(&repo), "--json"]);
    done.failed(1, &[text(&bad)]);
    assert_eq!(held_of(&data, "default")[&id_of("long")].len(), 6);
}

#[test]
fn a_folder_without_documents_is_rejected_and_creates_no_store() {
    let place = Place::new();
    let (data, other) = (place.path("data"), place.path("other"));
    run(&data, &["import-repo", text(&other)]).failed(7, &["cannot be read"]);
    fs::create_dir_all(other.join("ab").join("cd")).unwrap();
    run(&data, &["import-repo", text(&other)]).failed(7, &["has no documents"]);
    assert!(!data.exists());
}

#[test]
fn a_killed_import_can_be_repeated() {
    let place = Place::new();
    let repo = real(&place, "repo");
    for number in 1..=20 {
        let id = DocumentId::from_bytes([number; 16]);
        // Some are appended and some are stored compacted.
        let changes = if number % 4 == 0 { 1_100 } else { usize::from(number) };
        put(&repo, id, "snapshot", "one", &typed(number, changes).save());
    }
    let time = time_of(|| run(&place.path("timed"), &["import-repo", text(&repo)]));
    let expected = held_of(&place.path("timed"), "default");
    assert_eq!(expected.len(), 23);
    let (data, mut random, mut deaths) = (place.path("data"), Rng::from_environment(), 0);
    for _ in 0..12 {
        let command = command(&data, &["import-repo", text(&repo)]);
        deaths += usize::from(killed(command, time, &mut random));
        if deaths % 4 == 3 {
            // The folder may not exist yet.
            let _ = fs::remove_dir_all(&data);
        }
    }
    println!("{deaths} deaths");
    run(&data, &["import-repo", text(&repo)]).ok();
    run(&data, &["verify"]).ok();
    assert_eq!(held_of(&data, "default"), expected);
}

#[test]
fn a_hostile_file_affects_only_its_document() {
    let place = Place::new();
    let (data, repo) = (place.path("data"), real(&place, "repo"));
    // A small change that claims very many operations.
    let id = DocumentId::from_bytes([4; 16]);
    let mut heavy = AutoCommit::new();
    let text_of = heavy.put_object(ROOT, "text", automerge::ObjType::Text).unwrap();
    heavy.splice_text(&text_of, 0, 0, &"a".repeat(600_000)).unwrap();
    put(&repo, id, "snapshot", "heavy", &heavy.save());
    let args = ["import-repo", text(&repo), "--compact-memory", "64", "--json"];
    run(&data, &args).failed(1, &["died"]);
    assert_eq!(count(&check_real(&data, "default")), 13);
}
