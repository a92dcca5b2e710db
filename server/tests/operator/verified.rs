//! The record of the last verification: of the store by `verify`, and of the scheduled copies.

use std::path::{Path, PathBuf};

use crate::support::{Place, Served, check, fill, held, run, text};

const STORE_AT: &str = "landfall_relay_last_verify_timestamp_seconds{of=\"store\"}";
const STORE_DAMAGE: &str = "landfall_relay_last_verify_damage{of=\"store\"}";
const COPY_AT: &str = "landfall_relay_last_verify_timestamp_seconds{of=\"copy\"}";
const COPY_DAMAGE: &str = "landfall_relay_last_verify_damage{of=\"copy\"}";
const LONG_AGO: f64 = 1.7e9;

fn flip(data: &Path) {
    let conn = rusqlite::Connection::open(data.join("relay.db")).unwrap();
    let flip = "UPDATE entry SET body = CAST(substr(body, 1, 20) || x'00' || substr(body, 22) AS BLOB) \
        WHERE \"offset\" = 30";
    conn.execute(flip, []).unwrap();
}

/// The copies in a folder, by name.
fn copies(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|e| e == "db")).collect();
    files.sort();
    files
}

#[test]
fn a_verification_is_recorded_and_shown() {
    let place = Place::new();
    let (data, record) = (place.path("data"), place.path("data").join("relay.db.verified"));
    let before = fill(&data, 2, 50);
    run(&data, &["verify", "--space", "notes"]).ok();
    assert!(!record.exists(), "only a part of the store was verified");
    let relay = Served::start(&data, &[]);
    assert_eq!((relay.metric(STORE_AT), relay.metric(COPY_AT)), (0.0, 0.0));
    // Also while the relay runs.
    run(&data, &["verify"]).ok();
    assert!(relay.metric(STORE_AT) > LONG_AGO);
    assert_eq!(relay.metric(STORE_DAMAGE), 0.0);
    relay.stop();
    let backup = place.path("backup");
    run(&data, &["backup", text(&backup)]).ok();
    flip(&data);
    run(&data, &["verify"]).failed(6, &["damaged"]);
    let relay = Served::start(&data, &[]);
    assert!(relay.metric(STORE_DAMAGE) >= 1.0);
    relay.stop();
    // `restore` verifies a backup before it puts it in place.
    run(&data, &["restore", "--replace", text(&backup)]).ok();
    let relay = Served::start(&data, &[]);
    assert!(relay.metric(STORE_AT) > LONG_AGO);
    assert_eq!(relay.metric(STORE_DAMAGE), 0.0);
    relay.stop();
    run(&data, &["restore", "--replace", "--unchecked", text(&backup)]).ok();
    let relay = Served::start(&data, &[]);
    assert_eq!(relay.metric(STORE_AT), 0.0, "an unverified restore has no verification time");
    relay.stop();
    assert_eq!(check(&data, &before), before);
}

#[test]
fn a_scheduled_copy_is_verified() {
    let place = Place::new();
    let (data, to) = (place.path("data"), place.path("backups"));
    fill(&data, 2, 50);
    std::fs::create_dir(&to).unwrap();
    let args = ["--backup-to", text(&to), "--backup-every", "1h"];
    let relay = Served::start(&data, &args);
    relay.until_metric("landfall_relay_backups_total{outcome=\"sound\"}", |count| count == 1.0);
    assert!(relay.metric(COPY_AT) > LONG_AGO);
    assert_eq!(relay.metric(COPY_DAMAGE), 0.0);
    relay.stop();
    let made = copies(&to);
    assert_eq!(made.len(), 1);
    // The record survives a restart, and the existing copy is not made again.
    let relay = Served::start(&data, &args);
    relay.until_metric("landfall_relay_last_backup_timestamp_seconds", |at| at > LONG_AGO);
    assert!(relay.metric(COPY_AT) > LONG_AGO);
    relay.stop();
    assert_eq!(copies(&to), made);
}

/// A copy of a damaged store is damaged too: the verification detects it, and earlier good copies stay.
#[test]
fn a_damaged_backup_is_reported_and_displaces_no_sound_one() {
    let place = Place::new();
    let (data, to) = (place.path("data"), place.path("backups"));
    fill(&data, 2, 50);
    std::fs::create_dir(&to).unwrap();
    let args = ["--backup-to", text(&to), "--backup-every", "1s", "--backup-keep", "1"];
    let relay = Served::start(&data, &args);
    relay.until_metric("landfall_relay_backups_total{outcome=\"sound\"}", |count| count >= 1.0);
    relay.stop();
    flip(&data);
    let relay = Served::start(&data, &args);
    relay.until_metric("landfall_relay_backups_total{outcome=\"damaged\"}", |count| count >= 2.0);
    assert!(relay.metric(COPY_DAMAGE) >= 1.0);
    relay.stop();
    let left = copies(&to);
    let (bad, good): (Vec<_>, Vec<_>) =
        left.into_iter().partition(|path| text(path).ends_with(".damaged.db"));
    assert!(!bad.is_empty());
    // The relay may have been stopped before it verified the newest.
    let restored = place.path("restored");
    run(&restored, &["restore", text(&good[0])]).ok();
    assert_eq!(held(&restored).values().map(Vec::len).collect::<Vec<_>>(), [50, 50]);
}
