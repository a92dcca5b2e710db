//! `store …`: maintenance of a notebook's file, beside another process that has it open, alone, and
//! killed at random instants.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use landfall::automerge::ReadDoc;
use landfall::automerge::transaction::Transactable;
use landfall::automerge::{ObjType, ROOT, ScalarValue};
use landfall::{Options, Store};
use landfall_relay::store::{Log, SqliteStore};

use crate::harness::{Home, Relay};

/// The number of kills per command.
const KILLS: u32 = 30;

/// Makes a store with `documents` documents of `changes` changes each.
fn fill(path: &Path, documents: usize, changes: u64) {
    let store = Store::open(path, Options::default()).unwrap();
    let space = store.space("default").unwrap();
    for _ in 0..documents {
        let note = space
            .create(|tx| {
                tx.put_object(ROOT, "body", ObjType::Text)?;
                Ok(())
            })
            .unwrap()
            .0;
        for number in 1..changes {
            note.change(|tx| Ok(tx.put(ROOT, "number", number)?)).unwrap();
        }
    }
    store.close().unwrap();
}

/// The last number of each document, sorted.
fn numbers(path: &Path) -> Vec<u64> {
    let store = Store::open_read_only(path, Options::default()).unwrap();
    let mut numbers = Vec::new();
    for space in store.spaces() {
        for id in space.documents().unwrap() {
            let note = space.open(id).unwrap();
            let number = note.read(|doc| match doc.get(ROOT, "number") {
                Ok(Some((value, _))) => match value.as_scalar() {
                    Some(ScalarValue::Uint(number)) => *number,
                    _ => 0,
                },
                _ => 0,
            });
            numbers.push(number.unwrap());
        }
    }
    numbers.sort_unstable();
    numbers
}

fn verified(home: &Home, store: &str) {
    home.run(&["--store", store, "store", "verify"]).ok();
}

#[test]
fn a_store_in_use_can_be_inspected_verified_copied_and_exported() {
    let home = Home::new();
    let relay = Relay::start(&home);
    home.at(&relay, &["notes", "new", "first", "--text", "hello"]).ok();
    let mut watch = home.start(&["--relay", &relay.url, "watch"]);
    watch.until("live");
    let output = home.run(&["store", "inspect", "--json"]).ok();
    let output: serde_json::Value = serde_json::from_str(&output).unwrap();
    let space = &output["spaces"][0];
    assert_eq!(space["name"], "default");
    assert_eq!(space["documents"].as_array().unwrap().len(), 1);
    assert_eq!(space["upstreams"][0]["pending"]["changes"], 0);
    assert!(home.run(&["store", "inspect"]).ok().contains("default"));
    assert!(home.run(&["store", "verify"]).ok().contains("clean"));
    home.run(&["store", "backup", "copy.landfall"]).ok();
    home.run(&["store", "export", "notes.space"]).ok();
    for (command, file) in [("backup", "copy.landfall"), ("export", "notes.space")] {
        let again = home.run(&["store", command, file]);
        assert!(!again.err().contains("--replace"), "it has no such option: {}", again.err());
        again.failed(7, &[file, "overwritten", "choose another name"]);
    }
    for args in [
        &["store", "compact"][..],
        &["store", "verify", "--repair"],
        &["store", "restore", "--replace", "copy.landfall"],
        &["store", "import", "notes.space"],
    ] {
        home.run(args).failed(3, &["has it open"]);
    }
    watch.signal("-INT");
    let list = home.run(&["--offline", "notes", "list"]).ok();
    assert!(list.contains("first"), "{list}");
}

#[test]
fn restoring_a_backup_keeps_the_previous_store() {
    let home = Home::new();
    let store = home.path("a");
    fill(&store, 2, 20);
    home.run(&["--store", "a", "store", "backup", "backup"]).ok();
    fill(&store, 1, 30);
    assert_eq!(numbers(&store), [19, 19, 29]);
    home.run(&["--store", "a", "store", "restore", "backup"]).failed(7, &["--replace"]);
    let output = home.run(&["--store", "a", "store", "restore", "--replace", "backup"]).ok();
    assert_eq!(numbers(&store), [19, 19]);
    let kept = output.lines().last().unwrap().rsplit_once(' ').unwrap().1.to_owned();
    home.run(&["--store", "b", "store", "restore", &kept]).ok();
    assert_eq!(numbers(&home.path("b")), [19, 19, 29]);
    home.write("text", "no store");
    home.run(&["--store", "a", "store", "restore", "--replace", "text"])
        .failed(7, &["nothing was changed"]);
    home.run(&["--store", "none", "store", "compact"]).failed(7, &["none"]);
    assert_eq!(numbers(&store), [19, 19]);
    verified(&home, "a");
}

#[test]
fn compaction_shrinks_the_store_and_keeps_its_content() {
    let home = Home::new();
    let store = home.path("a");
    fill(&store, 3, 400);
    let before = std::fs::metadata(&store).unwrap().len();
    let output = home.run(&["--store", "a", "store", "compact", "--all"]).ok();
    assert!(output.contains("3 documents compacted, with 1,200 changes"), "{output}");
    assert!(std::fs::metadata(&store).unwrap().len() * 2 < before);
    assert_eq!(numbers(&store), [399, 399, 399]);
    verified(&home, "a");
}

#[test]
fn an_exported_space_is_imported_and_synced_to_a_relay() {
    let home = Home::new();
    let relay = Relay::start(&home);
    fill(&home.path("a"), 2, 300);
    home.run(&["--store", "a", "store", "compact", "--all"]).ok();
    fill(&home.path("a"), 1, 20);
    home.run(&["--store", "a", "store", "export", "notes.space"]).ok();
    // The first time there is no store yet; the second time nothing is new, which is no error.
    for counts in [
        "new here: 620 changes, 0 deletions; here already: 0 changes",
        "new here: 0 changes, 0 deletions; here already: 620 changes",
    ] {
        let output = home.run(&["--store", "b", "store", "import", "notes.space"]).ok();
        assert_eq!(output, format!("space default: 3 documents in the file; {counts}\n"));
        assert_eq!(numbers(&home.path("b")), [19, 299, 299]);
        verified(&home, "b");
    }
    home.at(&relay, &["--store", "b", "sync"]).ok();
    home.at(&relay, &["--store", "c", "sync"]).ok();
    assert_eq!(numbers(&home.path("c")), [19, 299, 299]);
    let whole = std::fs::read(home.path("notes.space")).unwrap();
    home.write("cut.space", &whole[..whole.len() - 7]);
    for store in ["b", "new"] {
        home.run(&["--store", store, "store", "import", "cut.space"]).failed(6, &["truncated"]);
    }
    assert!(!home.path("new").exists());
    home.run(&["--store", "no/b", "store", "import", "notes.space"]).failed(3, &["does not exist"]);
    home.run(&["--store", "b", "store", "import", "--into", "other", "notes.space"]).ok();
    assert_eq!(numbers(&home.path("b")).len(), 6);
}

/// Replaces a store by a copy of another one.
fn put(home: &Home, from: &str, to: &str) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(home.path(&format!("{to}{suffix}")));
    }
    std::fs::copy(home.path(from), home.path(to)).unwrap();
}

#[test]
fn a_killed_command_leaves_an_intact_store() {
    let home = Home::new();
    fill(&home.path("whole"), 4, 300);
    fill(&home.path("other"), 1, 40);
    home.run(&["--store", "whole", "store", "export", "notes.space"]).ok();
    home.run(&["--store", "whole", "store", "backup", "backup"]).ok();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {now}");
    let mut state = now;
    let mut kill = |args: &[&str], time: Duration| {
        let mut command = home.command(["--store", "a", "store"].iter().chain(args));
        let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = quiet.spawn().unwrap();
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let micros = (state >> 33) % time.as_micros() as u64;
        // sleep: a random instant is what is tried
        std::thread::sleep(Duration::from_micros(micros));
        let _ = child.kill();
        child.wait().unwrap();
    };
    let commands: [&[&str]; 4] = [
        &["compact", "--all"],
        &["restore", "--replace", "backup"],
        &["import", "notes.space"],
        &["backup", "made"],
    ];
    let all = [39, 299, 299, 299, 299];
    for args in commands {
        let reset = |home: &Home| {
            put(home, "whole", "a");
            let _ = std::fs::remove_file(home.path("made"));
        };
        reset(&home);
        let began = Instant::now();
        home.run(&[&["--store", "a", "store"], args].concat()).ok();
        let time = began.elapsed();
        for round in 0..KILLS / 2 {
            if round % 5 == 0 {
                reset(&home);
            }
            kill(args, time);
            verified(&home, "a");
            assert_eq!(numbers(&home.path("a")), all[1..], "{args:?}");
            if args[0] == "backup" && home.path("made").exists() {
                verified(&home, "made");
                std::fs::remove_file(home.path("made")).unwrap();
            }
        }
    }
    // Also into a store with other content.
    for _ in 0..KILLS / 2 {
        put(&home, "other", "a");
        kill(&["import", "notes.space"], Duration::from_millis(300));
        verified(&home, "a");
        home.run(&["--store", "a", "store", "import", "notes.space"]).ok();
        assert_eq!(numbers(&home.path("a")), all);
    }
}

/// Flips a bit at the place of this text in a file.
fn flip(path: &Path, text: &str) {
    let mut bytes = std::fs::read(path).unwrap();
    let found = bytes.windows(text.len()).position(|part| part == text.as_bytes());
    bytes[found.expect("the text is stored uncompressed")] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_bit_is_reported_and_healed_from_the_other_store() {
    let home = Home::new();
    let mut relay = Relay::start(&home);
    for text in ["a zebra", "an okapi", "a giraffe"] {
        home.at(&relay, &["notes", "new", text, "--text", text]).ok();
    }
    let list = home.run(&["--offline", "notes", "list"]).ok();
    relay.kill();
    // In the relay's store: SQLite does not detect it, the relay's own verification does.
    let data = home.path("relay-data");
    SqliteStore::open(&data).unwrap().close().unwrap();
    flip(&data.join("relay.db"), "a zebra");
    let store = SqliteStore::open(&data).unwrap();
    let look = || {
        let mut findings = Vec::new();
        store.inspection().verify(true, &mut |finding| findings.push(finding)).unwrap();
        findings
    };
    let findings = look();
    assert_eq!(findings[0].space.as_ref().unwrap().as_str(), "default");
    assert!(findings[0].document.is_some() && findings[0].offset.is_some());
    let repaired = store.repair(&findings).unwrap();
    assert!(repaired.dropped_changes > 0 && repaired.left.is_empty(), "{repaired:?}");
    assert_eq!(look(), []);
    store.close().unwrap();
    relay.restart(&home);
    home.at(&relay, &["sync"]).ok();
    home.at(&relay, &["--store", "other", "sync"]).ok();
    let titles = |store: &str| {
        let list = home.run(&["--store", store, "--offline", "notes", "list"]).ok();
        let mut lines: Vec<String> = list.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(titles("other").len(), list.lines().count());
    for text in ["a zebra", "an okapi", "a giraffe"] {
        let note = home.run(&["--store", "other", "--offline", "notes", "show", text]).ok();
        assert!(note.contains(text), "{note}");
    }

    // In the engine's store.
    flip(&home.path("other"), "an okapi");
    home.run(&["--store", "other", "store", "verify"]).failed(6, &["--repair"]);
    home.run(&["--store", "other", "store", "verify", "--repair"]).ok();
    home.at(&relay, &["--store", "other", "sync"]).ok();
    verified(&home, "other");
    let note = home.run(&["--store", "other", "--offline", "notes", "show", "an okapi"]).ok();
    assert!(note.contains("an okapi"), "{note}");
}

/// No command can repair a page that SQLite cannot read: each names the remedy.
#[test]
fn a_damaged_file_names_the_remedy() {
    use std::io::{Seek, SeekFrom, Write};
    let home = Home::new();
    let path = home.path("notes.db");
    fill(&path, 3, 200);
    let pages = path.metadata().unwrap().len() / 4096;
    let mut file = std::fs::File::options().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start((pages - 1) * 4096)).unwrap();
    file.write_all(&[0xff; 100]).unwrap();
    drop(file);
    let store = path.to_str().unwrap();
    let helps = ["restore a backup", "the relay has all acknowledged changes"];
    home.run(&["--store", store, "store", "verify"]).failed(6, &helps);
    home.run(&["--store", store, "store", "verify", "--repair"]).failed(6, &helps);
}
