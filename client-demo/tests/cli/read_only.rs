//! Commands that only read, on a store in a folder without write permission: as on a read-only
//! medium, or as another user than the owner.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;

use crate::harness::{Done, Home};

/// A user without files; it needs no name.
const OTHER: u32 = 61_235;

#[test]
fn reading_commands_work_on_a_read_only_store() {
    let home = Home::new();
    home.write("nb/keep", "");
    for (title, text) in [("Trip", "six"), ("Work", "two")] {
        home.run(&["--offline", "--store", "nb/a", "notes", "new", title, "--text", text]).ok();
    }
    let (folder, mine) = (home.path("nb"), home.path("mine"));
    std::fs::create_dir(&mine).unwrap();
    if chown(&mine, Some(OTHER), Some(OTHER)).is_err() {
        return println!("SKIPPED (needs root): files cannot be given to another user");
    }
    std::fs::remove_file(folder.join("a.lock")).unwrap();
    std::fs::set_permissions(folder.join("a"), PermissionsExt::from_mode(0o444)).unwrap();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o555)).unwrap();
    // The program at a path where that user can run it.
    let program = home.path("landfall-demo");
    std::fs::copy(env!("CARGO_BIN_EXE_landfall-demo"), &program).unwrap();
    std::fs::set_permissions(home.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    let before = std::fs::read(folder.join("a")).unwrap();
    let run = |args: &[&str]| {
        let like = home.command([] as [&str; 0]);
        let mut command = std::process::Command::new(&program);
        command
            .env_clear()
            .current_dir(like.get_current_dir().unwrap())
            .stdin(std::process::Stdio::null());
        command.args(["--store", "nb/a"]).args(args).uid(OTHER).gid(OTHER);
        Done::of(&mut command)
    };
    let files = || {
        let names = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    let copy = mine.join("copy");
    for (args, says) in [
        (&["notes", "list"][..], "Work"),
        (&["notes", "show", "trip"], "six"),
        (&["notes", "check", "trip"], "as docs/notebook.md specifies"),
        (&["notes", "deleted"], ""),
        (&["notes", "refused"], ""),
        (&["notes", "export", "trip", copy.to_str().unwrap()], ""),
        (&["status"], "2 documents"),
        (&["store", "inspect"], "2 documents"),
        (&["store", "verify"], "clean"),
    ] {
        let out = run(args).ok();
        assert!(out.contains(says), "{args:?}: {out}");
        assert_eq!(files(), ["a", "keep"], "{args:?}");
    }
    assert!(copy.exists());
    for args in
        [&["--offline", "notes", "new", "x"][..], &["--offline", "notes", "append", "1", "x"]]
    {
        run(args).failed(3, &["cannot be written", "--store"]);
        assert_eq!(files(), ["a", "keep"], "{args:?}");
    }
    assert_eq!(std::fs::read(folder.join("a")).unwrap(), before);
}
