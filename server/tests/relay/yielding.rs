//! The relay's own compactions alongside clients' uploads.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use automerge::sync::Message as SyncMessage;
use landfall_relay::CompactionOptions;
use landfall_relay::store::CompactionWindow;

use crate::automerge_repo_client::{Heard, RepoClient};
use crate::harness::{Author, Client, Relay, damage, soon};

/// A worker whose first process blocks until the test opens the pipe.
fn slow_worker(folder: &Path) -> CompactionOptions {
    let (script, pipe) = (folder.join("worker"), folder.join("pipe"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let text = format!(
        "#!/bin/sh\nmkdir '{first}' 2>/dev/null && read -r _ < '{pipe}'\nexec '{relay}' {worker}\n",
        first = folder.join("first").display(),
        pipe = pipe.display(),
        relay = env!("CARGO_BIN_EXE_landfall-relay"),
        worker = landfall_relay::cli::COMPACT_WORKER,
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (worker, window) = (Some(vec![script.into_os_string()]), CompactionWindow::NONE);
    CompactionOptions {
        worker,
        window,
        every: Duration::from_millis(10),
        ..CompactionOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_yields_to_a_clients_upload_and_is_retried() {
    let folder = tempfile::tempdir().unwrap();
    let compactions = slow_worker(folder.path());
    let relay = Relay::start_with(&folder, |options| options.compactions = compactions).await;
    let mut client = Client::at_start(&relay).await;
    let mut author = Author::new(1);
    let mut whole = automerge::AutoCommit::new();
    for _ in 0..3 {
        let changes = author.changes(100);
        let push = client.push(author.document, &changes).await;
        client.acked(push).await;
        let changes = changes.into_iter().map(|c| automerge::Change::from_bytes(c).unwrap());
        whole.apply_changes(changes).unwrap();
    }
    soon(async {
        while !folder.path().join("first").exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Its compaction has begun, and would not end by itself. A client uploads the whole document, and more.
    let change = automerge::Change::from_bytes(author.change()).unwrap();
    whole.apply_changes([change]).unwrap();
    let mut alice = RepoClient::join(&relay, "/spaces/notes", "alice").await;
    alice.say_whole(author.document, &mut whole).await;
    let heads = whole.get_heads();
    loop {
        let Heard::Sync(_, data) = alice.hear().await else { panic!("no sync message") };
        if SyncMessage::decode(&data).unwrap().heads == heads {
            break;
        }
    }
    let compactions =
        |outcome: &str| format!("landfall_relay_compactions_total{{outcome=\"{outcome}\"}}");
    assert_eq!(relay.metric(&compactions("yielded")).await, 1.0);
    // The client's upload was one of these.
    relay.until_metric(&compactions("compacted"), |count| count >= 2.0).await;
    relay.stop().await.unwrap();
}

/// A document is damaged, due for compaction, and no client has the lost part.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_document_does_not_delay_other_compactions() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut client = Client::at_start(&relay).await;
    for number in 1..=2 {
        let mut author = Author::new(number);
        for _ in 0..3 {
            let push = client.push(author.document, &author.changes(100)).await;
            client.acked(push).await;
        }
    }
    drop(client);
    relay.stop().await.unwrap();
    assert_eq!(damage(folder.path(), ("entry", "body"), 41, "\"offset\" = 50"), 1);
    let worker = [env!("CARGO_BIN_EXE_landfall-relay"), landfall_relay::cli::COMPACT_WORKER];
    let (worker, window) = (Some(worker.map(Into::into).to_vec()), CompactionWindow::NONE);
    let every = Duration::from_millis(10);
    let compactions = CompactionOptions { worker, window, every, ..CompactionOptions::default() };
    let relay = Relay::start_with(&folder, |options| options.compactions = compactions).await;
    let compactions =
        |outcome: &str| format!("landfall_relay_compactions_total{{outcome=\"{outcome}\"}}");
    relay.until_metric(&compactions("compacted"), |count| count >= 1.0).await;
    assert_eq!(relay.metric(&compactions("failed")).await, 1.0, "the compaction is not retried");
    relay.stop().await.unwrap();
}
