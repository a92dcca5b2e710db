//! The threads and their children: the order of merges.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc;

use super::*;
use crate::store::SqliteStore;

/// A slow child: the first one waits until the test opens the pipe, all others exit at once. None of them
/// merges, which is a valid answer.
const SLOW: &str = r#"mkdir "$0/first" 2>/dev/null && read -r _ < "$0/pipe"; exit 1"#;

fn compactor(path: &Path) -> Arc<Compactor> {
    assert!(Command::new("mkfifo").arg(path.join("pipe")).status().unwrap().success());
    let store = Arc::new(SqliteStore::open(path).unwrap());
    let worker = ["sh".into(), "-c".into(), SLOW.into(), path.as_os_str().to_owned()];
    let every = Duration::from_secs(3_600);
    let options =
        CompactionOptions { worker: Some(worker.into()), every, ..CompactionOptions::default() };
    let memory = crate::memory::Memory::new(0);
    Compactor::start(store, Arc::new(Metrics::new()), options, memory).unwrap().0
}

#[test]
fn twenty_uploads_of_one_session_do_not_delay_anothers() {
    let home = tempfile::tempdir().unwrap();
    let compactor = compactor(home.path());
    let (finished, done) = mpsc::channel();
    let upload = |session, number: u8| {
        let (space, document) = ("notes".parse().unwrap(), DocumentId::from_bytes([number; 16]));
        let upload = Upload { space, document, hash: [0; 32], heads: None, bytes: Arc::default() };
        let finished = finished.clone();
        let done = Box::new(move |merged: Result<_, _>| {
            assert!(merged.is_err());
            finished.send(session).unwrap();
        });
        let share = crate::memory::ShareKey::Session(session);
        compactor.merge(Key { share, account: session }, upload, done);
    };
    (0..20).for_each(|number| upload(1, number));
    while !home.path().join("first").exists() {
        std::thread::yield_now();
    }
    upload(2, 100);
    // The first upload is still running: this one did not wait for it.
    assert_eq!(done.recv().unwrap(), 2);
    std::fs::write(home.path().join("pipe"), "go\n").unwrap();
    assert_eq!((0..20).map(|_| done.recv().unwrap()).collect::<Vec<_>>(), [1; 20]);
    compactor.close();
}
