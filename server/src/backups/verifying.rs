//! Verifies a scheduled copy in a child process, so that its memory does not count against the relay's. It
//! must not know the schedule.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{BackupOptions, damaged};
use crate::metrics::Metrics;
use crate::store::{Subject, Verification};

/// Verifies a copy, unless that was done or has failed before; returns the copy. Records, logs and counts the
/// result, and renames a damaged copy.
pub(super) fn verify(
    options: &BackupOptions,
    data: &Path,
    metrics: &Metrics,
    copy: PathBuf,
    tried: Option<&Path>,
) -> Option<PathBuf> {
    let command = options.verifier.as_deref()?;
    let name = name_of(&copy);
    let is_done = || Verification::last(data, Subject::Copy).is_some_and(|last| last.copy == name);
    if tried == Some(&copy) || is_done() {
        return Some(copy);
    }
    let path = copy.display();
    let (damage, first) = match run(command, &copy) {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(%path, error, "cannot verify the backup");
            metrics.backups("unverified");
            return Some(copy);
        }
    };
    if damage == 0 {
        tracing::info!(%path, "the backup was verified: it is sound");
        metrics.backups("sound");
        Verification::now(0, name).record(data, Subject::Copy);
        return Some(copy);
    }
    let renamed = damaged(&copy);
    tracing::error!(
        path = %renamed.display(), damage, first,
        "the backup is damaged, and the store may be too: run `landfall-relay verify`"
    );
    metrics.backups("damaged");
    // The name marks the damage; if renaming fails, only the recorded verification does.
    let copy = match std::fs::rename(&copy, &renamed) {
        Ok(()) => renamed,
        Err(_) => copy,
    };
    Verification::now(damage, name_of(&copy)).record(data, Subject::Copy);
    Some(copy)
}

fn name_of(copy: &Path) -> Option<String> {
    copy.file_name().map(|name| name.to_string_lossy().into_owned())
}

/// Runs the child; returns the number of damaged places, and the first of them.
fn run(command: &[OsString], copy: &Path) -> Result<(u64, String), String> {
    let (program, args) = command.split_first().ok_or("no command was given")?;
    let mut child = Command::new(program)
        .args(args)
        .arg(copy)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("the child could not be started: {error}"))?;
    // Held until the child has ended: the child exits when this pipe closes, so also when this process dies.
    let _input = child.stdin.take();
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let errors = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let value: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("the child ended with {}: {}", output.status, errors()))?;
    let damage =
        value["damage"].as_u64().ok_or("the child's answer lacks the number of damaged places")?;
    Ok((damage, value["first"].as_str().unwrap_or_default().to_owned()))
}

#[cfg(all(test, unix))]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Runs a child with this script as its output; returns the copy, and the recorded verification.
    fn said(script: &str) -> (tempfile::TempDir, Option<PathBuf>, Option<Verification>) {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("relay.db"), "").unwrap();
        let copy = folder.path().join("relay-2026-11-30T19-15-00Z.db");
        std::fs::write(&copy, "").unwrap();
        let verifier = Some(["/bin/sh", "-c", script].map(OsString::from).to_vec());
        let every = Duration::from_secs(60);
        let options = BackupOptions { folder: folder.path().to_owned(), every, keep: 1, verifier };
        let left = verify(&options, &data, &Metrics::new(), copy, None);
        (folder, left, Verification::last(&data, Subject::Copy))
    }

    #[test]
    fn the_childs_result_is_recorded_and_marked_in_the_name() {
        for (script, damage, name) in [
            ("echo '{\"damage\":0}'", 0, "relay-2026-11-30T19-15-00Z.db"),
            ("echo '{\"damage\":2,\"first\":\"x\"}'", 2, "relay-2026-11-30T19-15-00Z.damaged.db"),
        ] {
            let (folder, left, last) = said(script);
            let last = last.unwrap();
            assert_eq!((last.damage, last.copy.as_deref()), (damage, Some(name)));
            assert_eq!(left, Some(folder.path().join(name)));
            assert!(folder.path().join(name).exists());
        }
    }

    /// A failed child proves nothing about the copy, which stays unchanged.
    #[test]
    fn a_failed_child_leaves_the_copy_unchanged() {
        for script in ["exit 1", "echo no JSON", "echo '{}'", "kill -9 $$"] {
            let (_folder, left, last) = said(script);
            assert_eq!(last, None, "{script}");
            assert!(left.unwrap().exists());
        }
    }
}
