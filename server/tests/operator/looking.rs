//! `inspect` and `verify`, also alongside a relay under load.

use crate::support::{Load, Place, Served, check, count, fill, held, run};

#[test]
fn a_relay_under_load_can_be_inspected() {
    let place = Place::new();
    let data = place.path("data");
    let relay = Served::start(&data, &[]);
    let load = Load::start(relay.address);
    load.until(60);
    let acked = count(&load.acked()) as u64;
    let store = run(&data, &["inspect", "--json"]).json();
    let space = &store["spaces"][0];
    assert_eq!((space["space"].as_str(), space["documents"].as_u64()), (Some("notes"), Some(8)));
    assert!(space["head"].as_u64().unwrap() >= acked);
    let list = run(&data, &["inspect", "--space", "notes", "--json"]).json();
    let documents = list["list"].as_array().unwrap();
    assert_eq!(documents.len(), 8);
    let id = documents[0]["document"].as_str().unwrap();
    let one = run(&data, &["inspect", "--space", "notes", "--document", id, "--json"]).json();
    assert_eq!(one["actors"], 1);
    assert!(one["actorList"][0]["last"].as_u64().unwrap() >= 6);
    assert_eq!(one["heads"].as_array().unwrap().len(), 1);
    for args in [&["inspect"][..], &["inspect", "--space", "notes"]] {
        assert!(run(&data, args).ok().contains("notes"));
    }
    let text = run(&data, &["inspect", "--space", "notes", "--document", id]).ok();
    assert!(text.contains(id) && text.contains("actor"), "{text}");
    run(&data, &["inspect", "--space", "nobody"]).failed(2, &["nobody"]);
    let found = run(&data, &["verify", "--json"]).json();
    assert_eq!(found["clean"], true);
    assert!(found["checked"]["changes"].as_u64().unwrap() >= acked);
    run(&data, &["verify", "--repair"]).failed(5, &["in use"]);
    let acked = load.end();
    relay.stop();
    assert_eq!(check(&data, &acked), acked);
}

#[test]
fn a_folder_without_a_store_is_reported_and_left_unchanged() {
    let place = Place::new();
    let nothing = place.path("nothing");
    for args in [
        &["inspect"][..],
        &["verify"],
        &["verify", "--repair"],
        &["compact"],
        &["export", "notes", "file"],
    ] {
        run(&nothing, args).failed(4, &["no store", "--data"]);
    }
    assert!(!nothing.exists());
}

/// A read-only command cannot migrate: the hint is to start the relay, which does, and not to restore a
/// backup.
#[test]
fn a_store_of_an_earlier_release_is_rejected_with_the_remedy() {
    let place = Place::new();
    let data = place.path("data");
    std::fs::create_dir(&data).unwrap();
    let old = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/relay-v1.db");
    std::fs::copy(old, data.join("relay.db")).unwrap();
    for args in [&["inspect"][..], &["verify"], &["export", "notes", "file"]] {
        run(&data, args).failed(4, &["start the relay on it once"]);
    }
    Served::start(&data, &[]).stop();
    run(&data, &["verify"]).ok();
}

#[test]
fn a_flipped_bit_is_reported_and_repaired() {
    let place = Place::new();
    let data = place.path("data");
    let before = fill(&data, 3, 50);
    let conn = rusqlite::Connection::open(data.join("relay.db")).unwrap();
    let flip = "UPDATE entry SET body = CAST(substr(body, 1, 20) || x'00' || substr(body, 22) AS BLOB) \
        WHERE \"offset\" = 30";
    conn.execute(flip, []).unwrap();
    drop(conn);
    let found = run(&data, &["verify"]);
    let output = found.out();
    assert!(
        output.contains("space notes, document automerge:") && output.contains("offset 30"),
        "{output}"
    );
    found.failed(6, &["--repair"]);
    run(&data, &["verify", "--space", "notes"]).failed(6, &["--repair"]);
    // A missing space is not reported as whole.
    for repair in [&[][..], &["--repair"]] {
        let arguments = [&["verify", "--space", "nosuch"], repair].concat();
        run(&data, &arguments).failed(2, &["no space `nosuch`", "inspect"]);
    }
    let repaired = run(&data, &["verify", "--repair", "--json"]).json();
    assert_eq!(repaired["clean"], true);
    // The first document lost its changes from the flipped bit on; the others are unchanged.
    let after = held(&data);
    assert_eq!(count(&before) - count(&after), 50 - 29);
    run(&data, &["verify"]).ok();
}

#[test]
fn a_damaged_snapshot_index_is_rebuilt() {
    let place = Place::new();
    let data = place.path("data");
    let before = fill(&data, 2, 50);
    run(&data, &["compact", "--all"]).ok();
    let conn = rusqlite::Connection::open(data.join("relay.db")).unwrap();
    conn.execute("UPDATE snapshot_index SET packed = substr(packed, 1, 40)", []).unwrap();
    drop(conn);
    run(&data, &["verify"]).failed(6, &["damaged"]);
    run(&data, &["verify", "--repair"]).ok();
    assert_eq!(check(&data, &before), before);
}

/// Repairing single documents does not fix an unreadable page: each command names the remedy.
#[test]
fn an_unreadable_page_is_reported_with_the_remedy() {
    use std::io::{Seek, SeekFrom, Write};
    let place = Place::new();
    let data = place.path("data");
    fill(&data, 3, 50);
    let conn = rusqlite::Connection::open(data.join("relay.db")).unwrap();
    let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'entry'";
    let root: i64 = conn.query_row(root, [], |row| row.get(0)).unwrap();
    drop(conn);
    let mut file = std::fs::File::options().write(true).open(data.join("relay.db")).unwrap();
    file.seek(SeekFrom::Start((root as u64 - 1) * 4096)).unwrap();
    file.write_all(&[0xff; 100]).unwrap();
    drop(file);
    for args in [&["verify"][..], &["verify", "--repair"]] {
        let found = run(&data, args);
        let output = found.out();
        let unread =
            |line: &&str| line.contains("document automerge:") && line.contains("cannot be read");
        assert!(output.lines().filter(unread).count() >= 3, "{output}");
        found.failed(6, &["restore a backup", "empty data folder"]);
    }
    run(&data, &["export", "notes", "file"]).failed(6, &["restore a backup"]);
}

/// A script would take missing output for an empty result.
#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let place = Place::new();
    let data = place.path("data");
    fill(&data, 1, 1);
    for args in [&["inspect"][..], &["verify", "--json"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = crate::support::command(&data, args);
        let done = command.stdout(full).stderr(std::process::Stdio::piped()).output().unwrap();
        let error = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(7), "{args:?}: {error}");
        assert!(error.contains("the output could not be written; No space left"), "{error}");
    }
}
