//! Runs samod as a client or a server, to record its messages (`tests/interop/capture.mjs`):
//! `serve PEER`, `create PEER URL CHANGES` (makes a document, edits it, broadcasts a message), or
//! `find PEER URL DOCUMENT`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    reason = "a test fails by panicking"
)]

#[path = "../tests/system/samod/link.rs"]
mod link;

use std::sync::Arc;
use std::time::Duration;

use landfall::automerge::transaction::Transactable;
use landfall::automerge::{Automerge, AutomergeError, ROOT};
use samod::{AutomergeUrl, BackoffConfig, PeerId, Repo};
use tokio::net::TcpListener;
use tokio_tungstenite::accept_async;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["serve", name] => serve(&repo(name).await).await,
        ["create", name, url, changes] => {
            let repo = connected(name, url).await;
            create(&repo, changes.parse().expect("a number of changes")).await;
            repo.stop().await;
        }
        ["find", name, url, document] => {
            let repo = connected(name, url).await;
            let document: AutomergeUrl = document.parse().expect("a document's URL");
            let found = repo.find(document.document_id().clone()).await.expect("the repo runs");
            println!("{}", if found.is_some() { "found" } else { "unavailable" });
            settle().await;
            repo.stop().await;
        }
        _ => eprintln!("serve PEER | create PEER URL CHANGES | find PEER URL DOCUMENT"),
    }
}

async fn repo(name: &str) -> Repo {
    Repo::build_tokio().with_peer_id(PeerId::from(name)).load().await
}

async fn connected(name: &str, url: &str) -> Repo {
    let repo = repo(name).await;
    let dialer = repo.dial(BackoffConfig::default(), Arc::new(link::Ws(url.to_owned())));
    dialer.expect("the repo runs").established().await.expect("a connection");
    repo
}

/// Waits longer than any delay before a message.
async fn settle() {
    // sleep: a recording, not a test: no event shows that a peer has sent its last message.
    tokio::time::sleep(Duration::from_millis(600)).await;
}

async fn create(repo: &Repo, changes: i64) {
    let mut content = Automerge::new();
    for number in 0..changes {
        put(&mut content, "count", number);
    }
    let handle = repo.create(content).await.expect("the repo runs");
    println!("{}", handle.url());
    settle().await;
    handle.with_document(|doc| put(doc, "late", 1));
    settle().await;
    // A text in CBOR.
    handle.broadcast(b"\x65hello".to_vec());
    settle().await;
}

fn put(doc: &mut Automerge, key: &str, value: i64) {
    let put = doc.transact::<_, _, AutomergeError>(|tx| tx.put(ROOT, key, value));
    put.expect("a change");
}

async fn serve(repo: &Repo) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("listening on ws://{}", listener.local_addr().expect("an address"));
    let url = "ws://127.0.0.1".parse().expect("a URL");
    let acceptor = repo.make_acceptor(url).expect("the repo runs");
    loop {
        let (socket, _) = listener.accept().await.expect("a connection");
        if let Ok(socket) = accept_async(socket).await {
            acceptor.accept(link::transport(socket)).expect("the repo runs");
        }
    }
}
