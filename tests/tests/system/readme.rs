//! The README's example is the one that is compiled, and its output is as described.

use std::path::Path;
use std::process::Command;

use landfall_tests::process::Relay;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[test]
fn the_readme_shows_the_example_that_runs() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let example = std::fs::read_to_string(root().join("engine/examples/quickstart.rs")).unwrap();
    let code: String = example.lines().skip(1).map(|line| format!("{line}\n")).collect();
    assert!(readme.contains(&format!("```rust\n{code}```")), "README.md and quickstart.rs differ");
    assert!(code.lines().count() <= 27, "a first example is short");
}

#[test]
fn the_quickstart_saves_without_a_relay() {
    let folder = tempfile::tempdir().unwrap();
    let relay = landfall_tests::process::binary("landfall-relay");
    let output = Command::new(relay.with_file_name("examples").join("quickstart"))
        .current_dir(folder.path())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(
        printed.contains(": Hello, Landfall 🏝️\n") && printed.starts_with("automerge:"),
        "{printed}"
    );
    // If a relay runs on the default port, the relay has the document too.
    assert!(printed.contains("saved here") || printed.contains("on the relay"), "{printed}");
    assert!(folder.path().join("hello.landfall").exists());
}

#[test]
fn the_example_without_a_runtime_runs() {
    let relay = landfall_tests::process::binary("landfall-relay");
    let example = relay.with_file_name("examples").join("without_tokio");
    let output = Command::new(example).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.contains("saved here; offline"), "{output:?}");
}

#[test]
fn the_relay_starts_with_its_defaults_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let relay = Relay::start(&data, 0);
    assert!(relay.url.starts_with("ws://127.0.0.1:"));
    assert!(data.exists());
}
