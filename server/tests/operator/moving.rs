//! Export and import: a space from one relay to another.

use std::path::Path;

use landfall_protocol::DocumentId;
use landfall_protocol::portable::{Encoder, Record};
use landfall_test_rng::Rng;

use crate::harness::SPACE;
use crate::support::{
    Load, Place, Served, check, command, count, fill, held, held_of, killed, run, text, time_of,
};

const KILLS: usize = 36;

#[test]
fn a_space_moves_from_a_relay_under_load_to_another() {
    let place = Place::new();
    let (data, other) = (place.path("data"), place.path("other"));
    let first = fill(&data, 3, 300);
    run(&data, &["compact", "--all"]).ok();
    let relay = Served::start(&data, &[]);
    let load = Load::start(relay.address);
    load.until(60);
    let before = load.acked();
    let file = place.path("notes.space");
    let report = run(&data, &["export", "notes", text(&file), "--json"]).json();
    assert_eq!((report["documents"].as_u64(), report["snapshots"].as_u64()), (Some(11), Some(3)));
    assert!(report["changes"].as_u64().unwrap() >= count(&before) as u64);
    run(&data, &["export", "notes", text(&file)]).failed(7, &["already"]);
    run(&data, &["export", "nobody", text(&place.path("x"))]).failed(2, &["nobody"]);
    assert!(!place.path("x").exists());
    load.end();
    relay.stop();

    let report = run(&other, &["import", text(&file), "--json"]).json();
    assert_eq!((report["space"].as_str(), report["snapshots"].as_u64()), (Some("notes"), Some(3)));
    assert_eq!(report["refused"], 0);
    let there = check(&other, &first);
    check(&other, &before);
    let again = run(&other, &["import", text(&file), "--json"]).json();
    assert_eq!((again["changes"].as_u64(), again["snapshots"].as_u64()), (Some(0), Some(0)));
    assert_eq!(again["known"], report["changes"].as_u64().unwrap() + 3);
    run(&other, &["import", text(&file), "--space", "second"]).ok();
    assert_eq!(held_of(&other, "second"), there);
    // Later changes at the source are added to the target.
    let newer = place.path("newer.space");
    run(&data, &["export", "notes", text(&newer)]).ok();
    run(&other, &["import", text(&newer)]).ok();
    let all = held(&data);
    assert_eq!(check(&other, &all), all);
    let relay = Served::start(&other, &[]);
    run(&other, &["import", text(&file)]).failed(5, &["in use"]);
    relay.stop();
}

#[test]
fn a_damaged_file_changes_nothing() {
    let place = Place::new();
    let (data, other) = (place.path("data"), place.path("other"));
    fill(&data, 2, 100);
    let file = place.path("notes.space");
    run(&data, &["export", "notes", text(&file)]).ok();
    let whole = std::fs::read(&file).unwrap();
    let bad = place.path("bad.space");
    let mut random = Rng::from_environment();
    for _ in 0..5 {
        std::fs::write(&bad, &whole[..random.below(whole.len() as u64) as usize / 2 + 12]).unwrap();
        run(&other, &["import", text(&bad)]).failed(6, &["truncated", "nothing was changed"]);
        let mut damaged = whole.clone();
        let bit = random.below(whole.len() as u64 * 8 - 100) as usize + 100;
        damaged[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&bad, &damaged).unwrap();
        run(&other, &["import", text(&bad)]).failed(6, &["nothing was changed"]);
    }
    std::fs::write(&bad, b"these are somebody's notes").unwrap();
    run(&other, &["import", text(&bad)]).failed(7, &["nothing was changed"]);
    assert!(!other.exists());
}

#[test]
fn deletions_move_too_and_are_final() {
    let place = Place::new();
    let data = place.path("data");
    let before = fill(&data, 2, 10);
    let home = place.path("home.space");
    run(&data, &["export", "notes", text(&home)]).ok();
    let gone = DocumentId::from_bytes([1; 16]);
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&"notes".parse().unwrap(), 5, &mut file);
    encoder.add(&Record::Document(gone), &mut file).unwrap();
    let tombstone = Record::Tombstone { at_ms: 7, author: b"somebody".to_vec() };
    encoder.add(&tombstone, &mut file).unwrap();
    encoder.finish(&mut file).unwrap();
    let path = place.path("deletion.space");
    std::fs::write(&path, file).unwrap();
    let report = run(&data, &["import", text(&path), "--json"]).json();
    assert_eq!(report["tombstones"], 1);
    assert_eq!(held(&data).keys().collect::<Vec<_>>(), [&DocumentId::from_bytes([2; 16])]);
    let back = run(&data, &["import", text(&home), "--json"]).json();
    assert_eq!((back["deletedHere"].as_u64(), back["known"].as_u64()), (Some(10), Some(10)));
    assert_eq!(count(&held(&data)) + 10, count(&before));
    let again = place.path("again.space");
    let report = run(&data, &["export", "notes", text(&again), "--json"]).json();
    assert_eq!((report["documents"].as_u64(), report["tombstones"].as_u64()), (Some(2), Some(1)));
    run(&data, &["verify"]).ok();
}

#[test]
fn a_killed_import_can_be_repeated() {
    let place = Place::new();
    let (data, other) = (place.path("data"), place.path("other"));
    let mut before = fill(&data, 4, 300);
    run(&data, &["compact", "--all"]).ok();
    let relay = Served::start(&data, &["--no-compact"]);
    let load = Load::start(relay.address);
    load.until(1_200);
    before.extend(load.end());
    relay.stop();
    let file = place.path("notes.space");
    run(&data, &["export", "notes", text(&file)]).ok();
    let time = time_of(|| run(&place.path("timed"), &["import", text(&file)]));
    let (mut random, mut deaths) = (Rng::from_environment(), 0);
    for round in 0..KILLS {
        if round % 5 == 0 {
            let _ = std::fs::remove_dir_all(&other);
        }
        let died = killed(command(&other, &["import", text(&file)]), time, &mut random);
        deaths += usize::from(died);
        if other.join("relay.db").exists() && run(&other, &["inspect"]).out().contains("notes") {
            let there = check(&other, &Default::default());
            assert!(there.iter().all(|(document, hashes)| {
                hashes.iter().all(|hash| before[document].binary_search(hash).is_ok())
            }));
        }
    }
    println!("killed {deaths} of {KILLS}");
    run(&other, &["import", text(&file)]).ok();
    assert_eq!(check(&other, &before), before);
}

/// Deletes one document, then all of them; nothing if a named one does not exist. `compact` removes their
/// bytes from the disk.
#[test]
fn documents_are_deleted_by_command() {
    let place = Place::new();
    let data = place.path("data");
    let held = fill(&data, 4, 30);
    let ids: Vec<String> = held.keys().map(ToString::to_string).collect();
    let absent = DocumentId::from_bytes([77; 16]).to_string();
    let delete = |args: &[&str]| run(&data, &[&["delete", SPACE], args].concat());
    delete(&[&ids[0], &absent]).failed(2, &["no document", &absent]);
    assert_eq!(held.len(), documents_in(&data), "nothing was deleted");
    let report = delete(&[&ids[0], "--json"]).json();
    assert_eq!((&report["deleted"], &report["deletedBefore"]), (&1.into(), &0.into()));
    let report = delete(&[&ids[0], &ids[1], "--json"]).json();
    assert_eq!((&report["deleted"], &report["deletedBefore"]), (&1.into(), &1.into()));
    assert_eq!(documents_in(&data), 2);
    delete(&[]).failed(2, &["no document is named", "--all"]);
    run(&data, &["delete", "absent", "--all"]).failed(2, &["no space `absent`"]);
    assert!(delete(&["--all"]).ok().contains("deleted 2 documents"));
    assert_eq!(documents_in(&data), 0);
    let before = data.join("relay.db").metadata().unwrap().len();
    run(&data, &["compact"]).ok();
    assert!(data.join("relay.db").metadata().unwrap().len() < before);
    run(&data, &["verify"]).ok();
}

/// Number of documents that are not deleted.
fn documents_in(data: &Path) -> usize {
    let report = run(data, &["inspect", "--json"]).json();
    report["spaces"][0]["documents"].as_u64().unwrap() as usize
}
