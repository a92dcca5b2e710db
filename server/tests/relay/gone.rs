//! The store's files are removed or replaced under a relay: it acknowledges nothing more, reports it, and
//! ends.

use std::fs;
use std::path::{Path, PathBuf};

use landfall_protocol::Code;
use landfall_protocol::frame::Frame;

use crate::harness::{Author, Client, SPACE, get_of, soon};
use crate::process::Process;

/// The exit code of a relay whose store's files are gone.
const GONE: i32 = 8;

/// An operation on the data folder of a serving relay, and the affected file.
type Deed = (&'static str, &'static str, fn(&Path));

const DEEDS: [Deed; 7] = [
    ("folder removed", "relay.db", |data| fs::remove_dir_all(data).unwrap()),
    ("folder renamed, and a new one", "relay.db", |data| {
        fs::rename(data, data.with_extension("away")).unwrap();
        fs::create_dir(data).unwrap();
    }),
    ("database removed", "relay.db", |data| fs::remove_file(data.join("relay.db")).unwrap()),
    ("another renamed over it", "relay.db", |data| {
        fs::rename(other(data), data.join("relay.db")).unwrap();
    }),
    ("another copied over it", "relay.db", |data| {
        fs::copy(other(data), data.join("relay.db")).map(drop).unwrap();
    }),
    ("WAL removed", "relay.db-wal", |data| fs::remove_file(data.join("relay.db-wal")).unwrap()),
    ("lock file removed", "relay.db.lock", |data| {
        fs::remove_file(data.join("relay.db.lock")).unwrap();
    }),
];

/// A backup of another relay.
fn other(data: &Path) -> PathBuf {
    let folder = data.with_extension("other");
    let relay = Process::start(&folder);
    relay.signal("-TERM");
    assert_eq!(relay.ended().0, Some(0));
    folder.join("relay.db")
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_when_the_files_are_gone() {
    let cases = DEEDS.map(|deed| tokio::spawn(push_after(deed)));
    for case in cases {
        soon(case).await.unwrap();
    }
}

async fn push_after((case, file, deed): Deed) {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let relay = Process::start(&data);
    let mut client = Client::connect_to(relay.address).await;
    client.say_hello().await;
    client.subscribe(1, SPACE, None, None).await;
    let mut author = Author::new(1);
    let first = client.push(author.document, &author.changes(1)).await;
    client.acked(first).await;
    let at = data.clone();
    tokio::task::spawn_blocking(move || deed(&at)).await.unwrap();
    let second = client.push(author.document, &author.changes(1)).await;
    let nack = client.nacked(second).await;
    assert_eq!(nack.code, Code::STORAGE_FAILED, "{case}");
    assert!(nack.what.contains("removed or replaced"), "{case}: {}", nack.what);
    let (status, body) = get_of(relay.address, "/readyz").await;
    assert_eq!(status, 503, "{case}");
    assert!(body.contains("gone") && body.contains(file), "{case}: {body}");
    // Without a request, and its clients receive the reason.
    let (frames, _) = client.until_end().await;
    let Some(Frame::Error(error)) = frames.last() else { panic!("{case}: {frames:?}") };
    assert_eq!(error.code, Code::STORAGE_FAILED, "{case}");
    assert!(error.what.contains("removed or replaced"), "{case}: {}", error.what);
    let ended = tokio::task::spawn_blocking(move || relay.ended());
    let (code, _, log) = soon(ended).await.unwrap();
    assert_eq!(code, Some(GONE), "{case}: {log}");
    let last = log.lines().last().unwrap();
    assert!(last.starts_with("error: ") && last.contains("restore a backup"), "{case}: {log}");
}

/// Its clients would otherwise be served data that no other process sees.
#[tokio::test]
async fn an_idle_relay_notices_gone_files() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let relay = Process::start(&data);
    fs::remove_dir_all(&data).unwrap();
    let ended = tokio::task::spawn_blocking(move || relay.ended());
    let (code, _, log) = soon(ended).await.unwrap();
    assert_eq!(code, Some(GONE), "{log}");
    assert!(!data.exists(), "the relay created a new folder");
}
