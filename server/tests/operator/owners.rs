//! Commands that root runs on the store of a service with a user of its own.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use crate::support::{Place, RELAY, Served, check, fill, of, run, text};

/// The service's user and group: no names are needed.
const SERVICE: u32 = 61_234;

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap();
    files.map(|file| file.unwrap().path()).collect()
}

#[test]
fn a_service_can_open_its_store_after_any_command_run_by_root() {
    let place = Place::new();
    let data = place.path("data");
    let held = fill(&data, 3, 400);
    let give = |path: &Path| chown(path, Some(SERVICE), Some(SERVICE));
    if give(&data).is_err() {
        return println!("SKIPPED (needs root): files cannot be given to another user");
    }
    // The program where that user can run it.
    let program = place.path("landfall-relay");
    std::fs::copy(RELAY, &program).unwrap();
    for file in files_in(&data) {
        give(&file).unwrap();
    }
    std::fs::set_permissions(data.join("relay.db"), PermissionsExt::from_mode(0o640)).unwrap();
    std::fs::remove_file(data.join("relay.db.lock")).unwrap();
    let folder = data.parent().unwrap();
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let (backup, exported) = (place.path("backup"), place.path("exported"));
    run(&data, &["backup", text(&backup)]).ok();
    run(&data, &["export", crate::harness::SPACE, text(&exported)]).ok();
    for command in [
        &["inspect"][..],
        &["verify"],
        &["compact", "--all", "--keep-recent", "0", "--keep-recent-age", "0"],
        &["verify", "--repair"],
        &["import", "--space", "copied", text(&exported)],
        &["restore", "--replace", text(&backup)],
    ] {
        run(&data, command).ok();
        for file in files_in(&data) {
            let found = file.metadata().unwrap();
            assert_eq!((found.uid(), found.gid()), (SERVICE, SERVICE), "{command:?} {file:?}");
        }
        let args = ["serve", "--listen", "127.0.0.1:0"];
        let mut service = of(&program, &data, &args);
        service.uid(SERVICE).gid(SERVICE);
        Served::of(service).stop();
    }
    check(&data, &held);
}

/// Including a store that root creates in the service's folder.
#[test]
fn a_service_can_open_a_store_that_root_restored() {
    let place = Place::new();
    let (first, data) = (place.path("first"), place.path("data"));
    fill(&first, 1, 10);
    let backup = place.path("backup");
    run(&first, &["backup", text(&backup)]).ok();
    std::fs::create_dir(&data).unwrap();
    if chown(&data, Some(SERVICE), Some(SERVICE)).is_err() {
        return println!("SKIPPED (needs root): files cannot be given to another user");
    }
    run(&data, &["restore", text(&backup)]).ok();
    for file in files_in(&data) {
        assert_eq!(file.metadata().unwrap().uid(), SERVICE, "{file:?}");
    }
}

/// Like a read-only mount: read-only commands work, and leave no files.
#[test]
fn read_only_commands_work_on_a_read_only_file_system() {
    let place = Place::new();
    let data = place.path("a folder? with #odd %20 name");
    let held = fill(&data, 2, 50);
    if chown(data.join("relay.db"), Some(SERVICE), Some(SERVICE)).is_err() {
        return println!("SKIPPED (needs root): files cannot be given to another user");
    }
    std::fs::remove_file(data.join("relay.db.lock")).unwrap();
    let program = place.path("landfall-relay");
    std::fs::copy(RELAY, &program).unwrap();
    // The folder belongs to root: the service's user cannot create files there.
    let mine = place.path("mine");
    std::fs::create_dir(&mine).unwrap();
    chown(&mine, Some(SERVICE), Some(SERVICE)).unwrap();
    for folder in [&data, &data.parent().unwrap().to_owned()] {
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let before = std::fs::read(data.join("relay.db")).unwrap();
    let (backup, exported) = (mine.join("backup"), mine.join("exported"));
    for command in [
        &["inspect"][..],
        &["verify"],
        &["backup", text(&backup)],
        &["export", crate::harness::SPACE, text(&exported)],
    ] {
        let mut command = of(&program, &data, command);
        let done = command.uid(SERVICE).gid(SERVICE).output().unwrap();
        assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
        assert_eq!(files_in(&data), [data.join("relay.db")], "{command:?}");
    }
    assert_eq!(std::fs::read(data.join("relay.db")).unwrap(), before);
    let restored = place.path("restored");
    run(&restored, &["restore", text(&backup)]).ok();
    check(&restored, &held);
}
