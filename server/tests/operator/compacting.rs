//! Compaction of a stopped relay's store.

use landfall_test_rng::Rng;

use crate::support::{
    Load, Place, Served, check, command, copy, fill, held, killed, run, text, time_of,
};

const KILLS: usize = 36;

/// Everything that is due, at any age.
const DUE: &[&str] = &["compact", "--keep-recent", "0", "--keep-recent-age", "0"];

#[test]
fn due_documents_are_compacted_and_the_file_shrinks() {
    let place = Place::new();
    let data = place.path("data");
    let before = fill(&data, 3, 1_000);
    let one = before.keys().next().unwrap().to_string();
    let due = [DUE, &["--json", "--space", "notes", "--document", &one]].concat();
    let report = run(&data, &due).json();
    assert_eq!((report["compacted"].as_u64(), report["changes"].as_u64()), (Some(1), Some(1_000)));
    let young = run(&data, &["compact", "--json"]).json();
    assert_eq!(young["compacted"], 0, "the youngest changes are not compacted");
    let report = run(&data, &[DUE, &["--json"]].concat()).json();
    assert_eq!((report["compacted"].as_u64(), report["changes"].as_u64()), (Some(2), Some(2_000)));
    println!("{report}");
    let sizes = (report["bytesBefore"].as_u64().unwrap(), report["bytesAfter"].as_u64().unwrap());
    assert!(sizes.1 * 2 < sizes.0, "{sizes:?}");
    assert_eq!(check(&data, &before), before);
    let facts = run(&data, &["inspect", "--json"]).json();
    assert_eq!(facts["spaces"][0]["compactedChanges"], 3_000);
    assert_eq!(facts["spaces"][0]["toPrune"], 0);
}

#[test]
fn all_documents_are_compacted_on_request_and_clients_continue() {
    let place = Place::new();
    let data = place.path("data");
    let before = fill(&data, 5, 20);
    let report = run(&data, &["compact", "--all", "--json"]).json();
    assert_eq!(report["compacted"], 5);
    assert_eq!(check(&data, &before), before);
    let relay = Served::start(&data, &[]);
    run(&data, &["compact"]).failed(5, &["in use"]);
    let load = Load::start(relay.address);
    load.until(30);
    let mut all = before;
    all.extend(load.end());
    relay.stop();
    assert_eq!(check(&data, &all), all);
    run(&data, &["compact", "--space", "nobody"]).failed(2, &["nobody"]);
}

#[test]
fn a_killed_compaction_loses_nothing() {
    let place = Place::new();
    let (whole, data) = (place.path("whole"), place.path("data"));
    let before = fill(&whole, 12, 300);
    copy(&whole, &data);
    let time = time_of(|| run(&data, DUE));
    let (mut random, mut deaths) = (Rng::from_environment(), 0);
    for round in 0..KILLS {
        if round % 5 == 0 {
            copy(&whole, &data);
        }
        deaths += usize::from(killed(command(&data, DUE), time, &mut random));
        assert_eq!(check(&data, &before), before, "round {round}");
    }
    println!("killed {deaths} of {KILLS}");
    run(&data, DUE).ok();
    assert_eq!(check(&data, &before), before);
    let file = place.path("backup");
    run(&data, &["backup", text(&file)]).ok();
    assert_eq!(held(&data), before);
}
