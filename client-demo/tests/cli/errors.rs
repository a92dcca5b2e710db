//! Invalid input: each error is one line with the failure, its reason and its remedy, and has the
//! exit code of its kind.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use landfall::automerge::ROOT;
use landfall::automerge::transaction::Transactable;
use landfall::{Options, Store};

use crate::harness::{Done, Home, Relay};

#[test]
fn wrong_usage() {
    let home = Home::new();
    home.run(&["notes", "frobnicate"]).failed(2, &["wrong usage", "frobnicate", "--help"]);
    home.run(&["import"]).failed(2, &["wrong usage", "<PATH>"]);
    home.run(&["notes"])
        .failed(2, &["`notes` needs a subcommand: list, new, show,", "notes --help"]);
    let none = home.run(&["--quiet"]);
    assert!(!none.err().contains("compact-worker"), "{}", none.err());
    none.failed(2, &["`landfall-demo` needs a subcommand: tour, notes,", "landfall-demo --help"]);
    home.run(&["store", "--quiet"]).failed(2, &["wrong usage", "store --help"]);
    for nothing in [&["notes", "new"][..], &["notes", "new", ""], &["notes", "new", "--text", " "]]
    {
        home.run(nothing).failed(2, &["no note was created", "it would be empty"]);
    }
    assert!(!home.path("notes.landfall").exists());
    home.run(&["sync", "--timeout", "soon"]).failed(2, &["wrong usage", "soon"]);
    home.run(&["--space", "a b", "sync"]).failed(2, &["invalid space name"]);
    for url in ["http://127.0.0.1:1", "wss://a", "ws://a:x", "7600"] {
        let new = ["--relay", url, "notes", "new", "x"];
        home.run(&new).failed(2, &[url, "not the URL of a relay", "ws://127.0.0.1:7600"]);
    }
    let help = home.run(&["--help"]);
    assert!(help.out().contains("Exit codes: 0 done"));
}

#[test]
fn stores_that_cannot_be_used() {
    let home = Home::new();
    home.write("text", "no store");
    for args in [&["notes", "list"][..], &["notes", "show", "1"], &["status"]] {
        let args = [&["--store", "text"], args].concat();
        home.run(&args).failed(3, &["not a Landfall store", "--store"]);
    }
    home.run(&["--store", "text", "notes", "new", "x"]).failed(3, &["it was not touched"]);
    assert_eq!(std::fs::read(home.path("text")).unwrap(), b"no store");
    home.run(&["--store", "no/such/folder/a", "notes", "new", "x"]).failed(3, &["does not exist"]);
}

/// A command that needs the relay fails with `--offline`, and neither sends nor creates anything.
#[test]
fn offline_is_refused_for_commands_that_need_a_relay() {
    let home = Home::new();
    let relay = Relay::start(&home);
    home.run(&["--offline", "notes", "new", "Kept"]).ok();
    for command in [&["sync"][..], &["sync", "--check"], &["replay"]] {
        let done = home.at(&relay, &[&["--offline"], command].concat());
        assert_eq!((done.out(), done.err().lines().count()), (String::new(), 1));
        done.failed(2, &["wrong usage", command[0], "--offline"]);
    }
    home.at(&relay, &["--store", "new", "--offline", "sync"]).failed(2, &["--offline"]);
    assert!(!home.path("new").exists());
    let status: serde_json::Value =
        serde_json::from_str(&home.run(&["status", "--json"]).ok()).unwrap();
    assert_eq!(status["pending"]["changes"], 1, "nothing was sent");
}

/// A missing store counts as empty only where one can be created.
#[test]
fn reading_a_store_in_a_missing_folder_is_an_error() {
    let home = Home::new();
    for args in
        [&["notes", "list"][..], &["notes", "refused"], &["notes", "show", "1"], &["status"]]
    {
        let args = [&["--store", "nodir/x"], args].concat();
        home.run(&args).failed(3, &["nodir/x", "the folder nodir does not exist", "--store"]);
    }
    home.run(&["--store", "x", "notes", "list"]).ok();
}

/// Reading commands cannot read a store of an earlier format; the error names the command that
/// upgrades it.
#[test]
fn an_older_format_names_the_command_that_migrates_it() {
    let home = Home::new();
    home.run(&["--offline", "notes", "new", "Old"]).ok();
    // SQLite's `user_version`.
    let (path, at) = (home.path("notes.landfall"), 60..64);
    let mut bytes = std::fs::read(&path).unwrap();
    let version = u32::from_be_bytes(bytes[at.clone()].try_into().unwrap());
    bytes[at].copy_from_slice(&(version - 1).to_be_bytes());
    std::fs::write(&path, bytes).unwrap();
    let (found, needed) = (format!("has format {}", version - 1), format!("reads {version}"));
    for args in [&["notes", "list"][..], &["status"], &["store", "verify"], &["store", "inspect"]] {
        home.run(args).failed(3, &[&found, &needed, "a command that edits", "store compact"]);
    }
}

#[test]
fn a_store_that_is_in_use_can_be_read() {
    let home = Home::new();
    home.run(&["--offline", "notes", "new", "Held"]).ok();
    let held = Store::open(home.path("notes.landfall"), Options::default()).unwrap();
    let me = std::process::id().to_string();
    home.run(&["notes", "new", "x"]).failed(3, &["cannot open the store", &me, "end that first"]);
    home.run(&["sync"]).failed(3, &["cannot open the store"]);
    assert!(home.run(&["notes", "list"]).ok().contains("Held"));
    assert!(home.run(&["status"]).ok().contains("1 document"));
    held.close().unwrap();
}

#[test]
fn missing_and_ambiguous_notes() {
    let home = Home::new();
    home.run(&["notes", "show", "1"]).failed(5, &["no note `1`", "there is no store"]);
    home.run(&["status"]).failed(5, &["nothing to show"]);
    for _ in 0..2 {
        home.run(&["--offline", "notes", "new", "Twice"]).ok();
    }
    home.run(&["notes", "show", "zzzz"]).failed(5, &["no note `zzzz`"]);
    home.run(&["notes", "append", "3", "x"]).failed(5, &["the list ends at 2"]);
    home.run(&["notes", "show", "twice"]).failed(5, &["ambiguous", "1 ", " or 2 "]);
    home.run(&["--space", "other", "notes", "show", "1"])
        .failed(5, &["notes.landfall has no space `other`; its spaces are `default`"]);
    home.run(&["--store", "typo", "notes", "show", "1"]).failed(5, &["there is no store typo yet"]);
    home.run(&["--space", "other", "status"])
        .failed(5, &["has no space `other`; its spaces are `default`"]);
    for (args, says) in [
        (["--space", "other", "notes", "list"], "no space `other`; its spaces are `default`"),
        (["--store", "typo", "notes", "list"], "there is no store typo yet"),
    ] {
        let list = home.run(&args);
        assert!(list.err().contains(says), "{}", list.err());
        assert_eq!(list.ok(), "");
    }
}

#[test]
fn a_prefix_that_several_ids_share_is_ambiguous() {
    let home = Home::new();
    // Ids begin with one of 58 letters, so two of 59 notes share their first.
    let store = Store::open(home.path("notes.landfall"), Options::default()).unwrap();
    let space = store.space("default").unwrap();
    let mut letters = std::collections::BTreeSet::new();
    let shared = loop {
        let note = space.create(|tx| Ok(tx.put(ROOT, "landfallNotebook", 1)?)).unwrap().0;
        let letter = note.id().to_string()["automerge:".len()..][..1].to_owned();
        // A digit alone is a number in the list.
        if !letters.insert(letter.clone()) && letter.parse::<u8>().is_err() {
            break letter;
        }
    };
    store.close().unwrap();
    home.run(&["notes", "show", &shared]).failed(5, &["ambiguous", "give more of the id"]);
}

#[test]
fn a_document_that_is_not_a_note_is_reported_and_unchanged() {
    let home = Home::new();
    let store = Store::open(home.path("notes.landfall"), Options::default()).unwrap();
    let space = store.space("default").unwrap();
    space.create(|tx| Ok(tx.put(ROOT, "recipe", "soup")?)).unwrap();
    store.close().unwrap();
    assert!(home.run(&["notes", "list"]).ok().contains("(not a note)"));
    home.run(&["notes", "check", "1"]).failed(6, &["malformed", "`landfallNotebook` is missing"]);
    home.run(&["--offline", "notes", "append", "1", "x"]).failed(6, &["cannot be used as a note"]);
}

#[test]
fn servers_that_are_not_relays() {
    let home = Home::new();
    home.run(&["--offline", "notes", "new", "Kept"]).ok();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    // This thread waits for connections as long as the test's process lives.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // One read returns a small request whole.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nwhat?");
        }
    });
    // Fails at once, whatever the timeout: another attempt would not help.
    home.run(&["--relay", &url, "sync", "--timeout", "2m"])
        .failed(4, &["not a Landfall relay", "404", "saved here, pending: 1 change;", "--relay"]);
    let added = home.run(&["--relay", &url, "notes", "append", "kept", "x"]).ok();
    assert_eq!(added, "saved here; not on the relay yet (2 pending)\n");
}

#[test]
fn a_second_relay_fails_with_the_exit_code_of_landfall_relay() {
    let home = Home::new();
    let relay = Relay::start(&home);
    let listen = relay.url.trim_start_matches("ws://");
    let second = home.run(&["relay", "--listen", listen, "--data", "other"]);
    second.failed(3, &["cannot listen on"]);
    let third = home.run(&["relay", "--listen", "127.0.0.1:0", "--data", "relay-data"]);
    third.failed(5, &["the store cannot be used"]);
}

#[test]
fn paths_that_cannot_be_imported() {
    let home = Home::new();
    home.run(&["--offline", "import", "no/such"]).failed(7, &["cannot import no/such"]);
    home.write("binary", [0, 1, 2]);
    home.run(&["--offline", "import", "binary"]).failed(7, &["nothing was imported"]);
}

/// Neither is read to its end, nor stored.
#[test]
fn oversized_input_is_refused_before_it_is_read() {
    let home = Home::new();
    let file = std::fs::File::create(home.path("long.md")).unwrap();
    file.set_len(1 << 40).unwrap();
    let done = home.run(&["--offline", "import", "long.md"]);
    let skipped = done.err();
    let says = "skipped long.md: it has 1099511627776 bytes, a note at most 1048576 characters";
    assert!(skipped.starts_with(says), "{skipped}");
    done.failed(7, &["nothing was imported"]);
    let notes = || home.run(&["--offline", "-q", "notes", "list"]).ok();
    assert_eq!(notes(), "");
    home.run(&["--offline", "notes", "new", "Kept", "--text", "text"]).ok();
    // The input is endless.
    for command in ["new", "append kept"] {
        let text = if command == "new" { "--text -" } else { "-" };
        let line = format!("yes 漢 | \"$DEMO\" --offline notes {command} {text}");
        let says = ["more than 4194304 bytes", "at most 1048576 characters"];
        Done::of(&mut home.shell(&line)).failed(7, &says);
    }
    assert_eq!(notes().lines().count(), 1);
    assert_eq!(home.run(&["-q", "notes", "show", "1"]).ok(), "Kept\ntext\n");
}

#[test]
fn an_editor_that_fails_changes_nothing() {
    let home = Home::new();
    home.run(&["--offline", "notes", "new", "Kept", "--text", "text"]).ok();
    for (editor, says) in
        [("false", "ended with"), ("landfall-no-such-editor", "cannot be started")]
    {
        let mut edit = home.command(["--offline", "notes", "edit", "1"]);
        let done = edit.env("EDITOR", editor).output().unwrap();
        let err = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(1), "{err}");
        assert!(err.starts_with("error: the note was not edited") && err.contains(says), "{err}");
    }
    assert_eq!(home.run(&["-q", "notes", "show", "1"]).ok(), "Kept\ntext\n");
}

/// A script would go on without the output.
#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_a_failure() {
    let home = Home::new();
    home.run(&["--offline", "notes", "new", "Only", "--text", "copy"]).ok();
    for line in ["notes show Only", "notes list", "status", "notes new Another --text x"] {
        let done = home.shell(&format!("$DEMO --offline {line} > /dev/full")).output().unwrap();
        let err = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(7), "{line}: {err}");
        assert!(
            err.contains("error: the output could not be written: No space left"),
            "{line}: {err}"
        );
    }
    // A reader that closes the output early is no failure.
    let closed = "($DEMO --offline notes list; echo $? >&2) | true";
    let done = home.shell(closed).output().unwrap();
    assert_eq!(String::from_utf8(done.stderr).unwrap().trim(), "0");
    assert_eq!(home.run(&["--offline", "notes", "list"]).ok().lines().count(), 2);
}
