//! Commands beside a process that has the store open for long: they are passed to that process.

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;

use crate::harness::{Done, Home, Relay, Running};

/// Starts `watch` on a store, and waits until it is live.
fn watch(home: &Home, relay: &Relay, store: &str) -> Running {
    let mut watch = home.start(&["--store", store, "--relay", &relay.url, "watch"]);
    watch.until("live");
    watch
}

fn shown(home: &Home, store: &str, note: &str) -> String {
    home.run(&["--store", store, "-q", "notes", "show", note]).ok()
}

/// The two terminals of the README: both watch, and both edit.
#[test]
fn both_sides_edit_while_both_watch() {
    let home = Home::new();
    let relay = Relay::start(&home);
    let (mut ann, mut ben) = (watch(&home, &relay, "ann"), watch(&home, &relay, "ben"));
    let made = home.run(&["--store", "ann", "notes", "new", "Trip", "--text", "six"]).ok();
    assert!(made.starts_with("automerge:"), "{made}");
    assert!(made.ends_with("\nsaved here and on the relay\n"), "{made}");
    ann.until("“Trip” edited here");
    ben.until("“Trip” received");
    let added = home.run(&["--store", "ben", "notes", "append", "trip", "seven"]).ok();
    assert_eq!(added, "saved here and on the relay\n");
    ann.until("“Trip” received");
    assert_eq!(shown(&home, "ann", "trip"), "Trip\nsix\nseven\n");
    assert_eq!(shown(&home, "ben", "trip"), "Trip\nsix\nseven\n");
    assert_eq!(ann.signal("-INT"), Some(0));
    // A later command opens the store itself.
    let alone = home.run(&["--store", "ann", "--offline", "notes", "append", "trip", "x"]).ok();
    assert_eq!(alone, "saved here; not on the relay yet (1 pending)\n");
}

#[test]
fn commands_run_through_the_process_that_has_the_store_open() {
    let home = Home::new();
    let relay = Relay::start(&home);
    let mut watch = watch(&home, &relay, "ann");
    let ann = |args: &[&str]| home.run(&[&["--store", "ann"], args].concat());
    let new = ["--store", "ann", "-q", "notes", "new", "--text", "-"];
    assert_eq!(home.with_input(&new, "# From a pipe\n\ntext\n").code(), Some(0));
    assert_eq!(shown(&home, "ann", "from a pipe"), "From a pipe\n# From a pipe\n\ntext\n");
    home.write("files/a.md", "# From a file");
    home.write("files/b.md", [0xff]);
    let imported = ann(&["import", "files"]);
    assert!(imported.err().starts_with("skipped ") && imported.err().lines().count() == 1);
    assert!(imported.ok().contains("1 note created, 0 already there, 1 skipped\n"));
    // Earlier transfers of the store do not count for this sync.
    home.at(&relay, &["--store", "ben", "notes", "new", "From Ben"]).ok();
    watch.until("“From Ben” received");
    assert_eq!(ann(&["sync"]).ok(), "in sync: 3 notes; 0 changes sent, 0 changes received\n");
    // Another space than that of the watching process.
    let team = ann(&["--space", "team", "notes", "new", "Of the team"]).ok();
    assert!(team.ends_with("saved here and on the relay\n"), "{team}");
    assert_eq!(ann(&["notes", "edit", "from ben", "--title", "Ben's"]).code(), Some(0));
    // The started command reports the errors.
    ann(&["notes", "append", "nothing", "x"]).failed(5, &["no note `nothing`"]);
    ann(&["notes", "new", ""]).failed(2, &["it would be empty"]);
    ann(&["notes", "retry", "ben's"]).failed(5, &["the relay has refused no change"]);
    ann(&["notes", "rm", "ben's"]).failed(2, &["no terminal for the prompt", "--yes"]);
    assert!(
        ann(&["notes", "rm", "ben's", "--yes"]).ok().starts_with("deleted “Ben's” permanently")
    );
    watch.until("“Ben's” deleted");
    // A command that needs the store alone names the process that has it open.
    for alone in [&["watch"][..], &["store", "compact"]] {
        ann(alone).failed(3, &["end that first"]);
    }
}

/// The process that has the store open is connected to one relay.
#[test]
fn other_relays_and_offline_are_refused_while_watching() {
    let home = Home::new();
    let relay = Relay::start(&home);
    let _watch = watch(&home, &relay, "ann");
    let new =
        |more: &[&str]| home.run(&[&["--store", "ann", "notes", "new", "Secret"], more].concat());
    new(&["--offline"]).failed(2, &["is connected to", &relay.url, "omit --offline"]);
    new(&["--relay", "ws://127.0.0.1:1"]).failed(2, &["syncs with", &relay.url, "--relay"]);
    assert_eq!(home.run(&["--store", "ann", "-q", "notes", "list"]).ok(), "");
    new(&["--relay", &format!("{}/", relay.url)]).ok();
}

/// `watch` shows the local edits, and neither it nor the commands passed to it reach the relay.
#[test]
fn watch_offline_prints_edits_of_local_commands() {
    let home = Home::new();
    let relay = Relay::start(&home);
    let mut watch = home.start(&["--relay", &relay.url, "--offline", "watch"]);
    watch.until("offline; nothing pending");
    let made = home.run(&["notes", "new", "Trip", "--text", "six"]).ok();
    assert!(made.ends_with("\nsaved here; not on the relay yet (1 pending)\n"), "{made}");
    watch.until("“Trip” edited here");
    home.run(&["--offline", "notes", "append", "trip", "seven"]).ok();
    watch.until("offline; 2 changes pending");
    let is_offline = "the process that has the store open is offline";
    home.run(&["sync"]).failed(2, &["`sync` needs the relay", is_offline]);
    home.at(&relay, &["notes", "new", "x"]).failed(2, &["syncs with no relay"]);
    assert_eq!(watch.signal("-INT"), Some(0));
    let sent = home.at(&relay, &["sync"]).ok();
    assert!(sent.contains("2 changes"), "{sent}");
}

#[test]
fn the_started_command_opens_the_editor() {
    let home = Home::new();
    let relay = Relay::start(&home);
    let mut ann = watch(&home, &relay, "ann");
    home.run(&["--store", "ann", "notes", "new", "Note", "--text", "one two three"]).ok();
    let edit = |script: &str| {
        home.write("editor.sh", script);
        let mut edit = home.command(["--store", "ann", "notes", "edit", "note"]);
        Done::of(edit.env("EDITOR", "sh editor.sh").env("PARENT", ann.child.id().to_string()))
    };
    // Another command edits the same note meanwhile; both are passed on, and merge.
    let script = "\
\"$DEMO\" --store ann -q notes edit note --text 'one TWO three' || exit 1
echo '1 two three!' > \"$1\"
";
    edit(script).ok();
    assert_eq!(shown(&home, "ann", "note"), "Note\n1 TWO three!\n");
    assert!(edit("true").err().contains("nothing was changed"));
    let failed = edit("echo typed >> \"$1\"; exit 1");
    assert!(failed.err().contains("your text is kept in"), "{}", failed.err());
    failed.failed(1, &["ended with exit status: 1"]);
    assert_eq!(home.left_behind().len(), 1);
    std::fs::remove_file(&home.left_behind()[0]).unwrap();
    // The process that has the store open ends while the editor is open: the command then opens the
    // store itself.
    let script = "\
kill -INT $PARENT
until \"$DEMO\" --store ann --offline -q notes append note 'in between' 2> /dev/null; do :; done
echo '1 TWO three, typed' > \"$1\"
";
    edit(script).ok();
    assert_eq!(shown(&home, "ann", "note"), "Note\n1 TWO three, typed\nin between\n");
    assert!(home.left_behind().is_empty(), "{:?}", home.left_behind());
    assert_eq!(ann.child.wait().unwrap().code(), Some(0));
}

/// While its editor is open, `notes edit` has the store open, and performs the commands of others.
#[test]
fn an_append_during_an_edit_is_merged() {
    let home = Home::new();
    home.run(&["--offline", "notes", "new", "Note", "--text", "one\n"]).ok();
    let script = "\
\"$DEMO\" -q --offline notes append note three || exit 1
printf 'zero\\none\\n' > \"$1\"
";
    home.write("editor.sh", script);
    let mut edit = home.command(["--offline", "notes", "edit", "note"]);
    Done::of(edit.env("EDITOR", "sh editor.sh")).ok();
    assert_eq!(shown(&home, "notes.landfall", "note"), "Note\nzero\none\nthree\n");
    assert!(!home.path("notes.landfall-control").exists());
}

/// No other user can connect to the socket, a leftover one is replaced, and invalid messages do no
/// harm.
#[test]
fn the_socket_is_private_and_survives_bad_requests() {
    let home = Home::new();
    let relay = Relay::start(&home);
    let path = home.path("ann-control");
    let mut killed = watch(&home, &relay, "ann");
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    assert!(path.exists(), "a process that is killed cannot remove it");
    home.run(&["--store", "ann", "--offline", "notes", "new", "Alone"]).ok();
    let watch = watch(&home, &relay, "ann");
    let metadata = std::fs::symlink_metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let reply_to = |message: &[u8]| {
        let mut stream = UnixStream::connect(&path).unwrap();
        // A server that rejects early closes its end.
        let _ = stream.write_all(message);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        String::from_utf8_lossy(&reply[4..]).into_owned()
    };
    let framed = |text: &str| {
        let length = u32::try_from(text.len()).unwrap();
        [&length.to_le_bytes(), text.as_bytes()].concat()
    };
    assert!(reply_to(&u32::MAX.to_le_bytes()).contains("a message exceeds"));
    assert!(reply_to(b"\x10\0\0\0{").contains("refused"));
    assert!(reply_to(&framed("no JSON")).contains("refused"));
    assert!(
        reply_to(&framed(r#"{"version":2,"said":{}}"#))
            .contains("its protocol has version 1, not 2")
    );
    assert!(reply_to(&framed(r#"{"version":1,"said":{"args":7}}"#)).contains("refused"));
    // More idle connections than the server answers at a time.
    let silent: Vec<UnixStream> = (0..8).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let new = ["--store", "ann", "notes", "new", "Late"];
    home.run(&new).failed(3, &["8 commands are already running"]);
    drop(silent);
    while home.run(&new).code() != Some(0) {}
    assert_eq!(watch.signal("-TERM"), Some(0));
    assert!(!path.exists());
}
