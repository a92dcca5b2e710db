//! Installs the servers for the comparison. If one is missing, the bench prints that and leaves its
//! columns empty.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder for everything that this bench builds and installs, inside the target folder.
fn place() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("repo-bench")
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/repo")
}

/// The folder with the packages of `package-lock.json` and `server.mjs`.
pub fn node() -> Result<PathBuf, String> {
    let (from, to) = (sources().join("node"), place().join("node"));
    let lock = std::fs::read(from.join("package-lock.json")).map_err(|e| e.to_string())?;
    let done = to.join("installed-lock.json");
    let is_done = std::fs::read(&done).is_ok_and(|installed| installed == lock);
    std::fs::create_dir_all(&to).map_err(|e| e.to_string())?;
    for file in ["package.json", "package-lock.json", "server.mjs"] {
        std::fs::copy(from.join(file), to.join(file)).map_err(|e| e.to_string())?;
    }
    if !is_done {
        // Not `ci`, which rejects the lock file because it lacks optional packages of other platforms.
        // With install scripts: one compiles the native part of the CBOR codec, so that the server gets
        // a fair comparison.
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund"]).current_dir(&to);
        run(&mut npm)?;
        std::fs::write(done, lock).map_err(|e| e.to_string())?;
    }
    Ok(to)
}

/// The samod server.
pub fn samod() -> Result<PathBuf, String> {
    let target = place().join("samod");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["build", "--release", "--locked", "--quiet", "--manifest-path"]);
    cargo.arg(sources().join("samod/Cargo.toml")).arg("--target-dir").arg(&target);
    run(&mut cargo)?;
    Ok(target.join("release/samod-server"))
}

/// A library to preload that makes fsync free.
pub fn no_fsync() -> Result<PathBuf, String> {
    let library = place().join("no_fsync.so");
    std::fs::create_dir_all(place()).map_err(|e| e.to_string())?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(sources().join("no_fsync.c"));
    run(&mut cc)?;
    Ok(library)
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let last = || text.lines().rev().take(5).collect::<Vec<_>>().join(" | ");
    if output.status.success() { Ok(()) } else { Err(format!("{name}: {}", last())) }
}
