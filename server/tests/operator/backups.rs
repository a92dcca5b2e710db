//! Backup and restore.

use std::path::Path;

use landfall_test_rng::Rng;

use crate::support::{
    Held, Load, Place, Served, check, command, count, fill, held, killed, run, text, time_of,
};

/// How often a command is killed.
const KILLS: usize = 36;

#[test]
fn a_backup_under_load_has_everything_acknowledged_before_it() {
    let place = Place::new();
    let data = place.path("data");
    let relay = Served::start(&data, &[]);
    let load = Load::start(relay.address);
    for number in 0..4 {
        load.until(30 * (number + 1));
        let before = load.acked();
        let file = place.path(&format!("backup-{number}"));
        let report = run(&data, &["backup", "--json", text(&file)]).json();
        assert_eq!(report["bytes"], file.metadata().unwrap().len());
        let restored = place.path(&format!("restored-{number}"));
        run(&restored, &["restore", text(&file)]).ok();
        check(&restored, &before);
    }
    let file = place.path("backup-0");
    let kept = std::fs::read(&file).unwrap();
    run(&data, &["backup", text(&file)]).failed(7, &["already", "never overwrites"]);
    assert_eq!(std::fs::read(&file).unwrap(), kept);
    let nowhere = place.path("no/such/folder/backup");
    run(&data, &["backup", text(&nowhere)]).failed(7, &["folder exists"]);
    let acked = load.end();
    relay.stop();
    assert_eq!(check(&data, &acked), acked);
    run(&place.path("nothing"), &["backup", text(&place.path("x"))]).failed(4, &["--data"]);
}

#[test]
fn a_killed_backup_leaves_no_complete_looking_file() {
    let place = Place::new();
    let data = place.path("data");
    let before = fill(&data, 8, 1_000);
    let relay = Served::start(&data, &[]);
    let load = Load::start(relay.address);
    let time = time_of(|| run(&data, &["backup", text(&place.path("first"))]));
    let (mut random, mut deaths) = (Rng::from_environment(), 0);
    for number in 0..KILLS {
        let file = place.path(&format!("backup-{}", number % 3));
        let _ = std::fs::remove_file(&file);
        deaths += usize::from(killed(command(&data, &["backup", text(&file)]), time, &mut random));
        if file.exists() {
            let restored = place.path(&format!("restored-{number}"));
            run(&restored, &["restore", text(&file)]).ok();
            check(&restored, &before);
        }
    }
    println!("killed {deaths} of {KILLS}");
    let acked = load.acked();
    let last = place.path("last");
    run(&data, &["backup", text(&last)]).ok();
    run(&place.path("restored"), &["restore", text(&last)]).ok();
    check(&place.path("restored"), &acked);
    let acked = load.end();
    relay.stop();
    check(&data, &acked);
}

/// An older and a newer state of one store, with a backup of each.
struct Two {
    place: Place,
    older: Held,
    newer: Held,
}

impl Two {
    fn new(changes: usize) -> Self {
        let place = Place::new();
        let data = place.path("data");
        let older = fill(&data, 4, changes);
        run(&data, &["backup", text(&place.path("older"))]).ok();
        let relay = Served::start(&data, &[]);
        let load = Load::start(relay.address);
        load.until(60);
        load.end();
        relay.stop();
        let newer = held(&data);
        assert!(count(&newer) > count(&older));
        run(&data, &["backup", text(&place.path("newer"))]).ok();
        Self { place, older, newer }
    }
}

#[test]
fn a_restore_replaces_only_with_the_flag_and_keeps_the_old_store() {
    let Two { place, older, newer } = Two::new(100);
    let (data, backup) = (place.path("data"), place.path("older"));
    run(&data, &["restore", text(&backup)]).failed(7, &["--replace"]);
    assert_eq!(held(&data), newer);
    let relay = Served::start(&data, &[]);
    run(&data, &["restore", "--replace", text(&backup)]).failed(5, &["in use", "landfall-relay"]);
    relay.stop();
    let report = run(&data, &["restore", "--replace", "--json", text(&backup)]).json();
    assert_eq!(check(&data, &older), older);
    let kept = Path::new(report["kept"].as_str().unwrap()).to_owned();
    let again = place.path("again");
    run(&again, &["restore", text(&kept)]).ok();
    assert_eq!(check(&again, &newer), newer);
    assert!(!data.join("restoring").exists());
    drop(Served::start(&data, &[]));
}

#[test]
fn an_incomplete_backup_is_rejected_and_changes_nothing() {
    let Two { place, newer, .. } = Two::new(100);
    let (data, bad) = (place.path("data"), place.path("bad"));
    let restore = |file: &Path| run(&data, &["restore", "--replace", text(file)]);
    restore(&place.path("missing")).failed(7, &["nothing was changed"]);
    std::fs::write(&bad, b"these are somebody's notes").unwrap();
    restore(&bad).failed(7, &["nothing was changed"]);
    let whole = std::fs::read(place.path("older")).unwrap();
    std::fs::write(&bad, &whole[..whole.len() / 2]).unwrap();
    let half = restore(&bad);
    half.failed(7, &["nothing was changed"]);
    // A flipped bit that SQLite cannot detect: in the bytes of a change.
    std::fs::copy(place.path("older"), &bad).unwrap();
    let conn = rusqlite::Connection::open(&bad).unwrap();
    let flip = "UPDATE entry SET body = CAST(substr(body, 1, 20) || x'00' || substr(body, 22) AS BLOB) \
        WHERE id = (SELECT min(id) FROM entry)";
    conn.execute(flip, []).unwrap();
    drop(conn);
    restore(&bad).failed(6, &["--unchecked"]);
    assert_eq!(check(&data, &newer), newer);
    assert!(!data.join("restoring").exists());
    let unchecked = place.path("unchecked");
    run(&unchecked, &["restore", "--unchecked", text(&bad)]).ok();
    run(&unchecked, &["verify"]).failed(6, &["damaged"]);
}

#[test]
fn a_killed_restore_leaves_the_old_store_or_the_new_one() {
    let Two { place, older, newer } = Two::new(1_000);
    let data = place.path("data");
    let backups = [place.path("older"), place.path("newer")];
    let args = |which: usize| ["restore", "--replace", text(&backups[which])].map(str::to_owned);
    let time = time_of(|| run(&data, &args(0)));
    let (mut random, mut deaths, mut swaps) = (Rng::from_environment(), 0, 0);
    for number in 0..KILLS {
        let before = held(&data);
        let which = usize::from(before == older);
        let died = killed(command(&data, &args(which)), time, &mut random);
        deaths += usize::from(died);
        run(&data, &["verify"]).ok();
        let after = held(&data);
        assert!(after == older || after == newer, "round {number}");
        assert!(died || after != before);
        swaps += usize::from(after != before);
        // The replaced stores are not needed here, and would fill the disk.
        for file in std::fs::read_dir(&data).unwrap() {
            let file = file.unwrap();
            if file.file_name().to_string_lossy().starts_with("relay.db.replaced-") {
                std::fs::remove_file(file.path()).unwrap();
            }
        }
    }
    println!("killed {deaths} of {KILLS}, {swaps} of them too late");
    run(&data, &args(1)).ok();
    assert_eq!(check(&data, &newer), newer);
}

/// Copies appear while clients push, the oldest are removed, each is a whole store, and a start without the
/// folder fails.
#[test]
fn a_running_relay_backs_up_its_store_on_a_schedule() {
    let place = Place::new();
    let (data, to) = (place.path("data"), place.path("backups"));
    let args = ["--backup-to", text(&to), "--backup-every", "1s", "--backup-keep", "2"];
    run(&data, &[&["serve", "--listen", "127.0.0.1:0"], &args[..]].concat())
        .failed(7, &["backups", "make the folder"]);
    // An option without effect is a usage error.
    run(&data, &["serve", "--listen", "127.0.0.1:0", "--backup-keep", "2"])
        .failed(2, &["--backup-to"]);
    std::fs::create_dir(&to).unwrap();
    std::fs::write(to.join("mine"), "mine").unwrap();
    let relay = Served::start(&data, &args);
    let load = Load::start(relay.address);
    load.until(20);
    let before = load.acked();
    let made = "landfall_relay_backups_total{outcome=\"made\"}";
    let first = relay.metric(made);
    relay.until_metric(made, |count| count >= first + 4.0);
    let acked = load.end();
    assert!(relay.metric("landfall_relay_last_backup_timestamp_seconds") > 1.7e9);
    assert!(relay.metric("landfall_relay_store_bytes") > 4096.0);
    assert!(relay.metric("landfall_relay_free_bytes") > 0.0);
    relay.stop();
    let mut left: Vec<_> =
        std::fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().path()).collect();
    left.retain(|path| path.extension().is_some_and(|extension| extension == "db"));
    assert!((2..=3).contains(&left.len()), "{left:?}");
    assert!(to.join("mine").exists());
    for (number, file) in left.iter().enumerate() {
        let restored = place.path(&format!("restored-{number}"));
        run(&restored, &["restore", text(file)]).ok();
        check(&restored, &before);
    }
    assert_eq!(check(&data, &acked), acked);
}
