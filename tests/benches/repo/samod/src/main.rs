//! A minimal samod server: WebSockets through axum, documents in files. Arguments: port, folder.
//! Everything else is samod's default.

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::routing::get;
use samod::storage::TokioFilesystemStorage;
use samod::{Repo, ShareConfig};

/// axum's default rejects frames above 16 MiB, and a row must not fail because of that.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let port: u16 = arguments.next().expect("a port").parse().expect("a number");
    let folder = arguments.next().expect("a folder");
    let repo = Repo::build_tokio()
        .with_storage(TokioFilesystemStorage::new(folder))
        // As on the other servers, a document is sent only to clients that request it.
        .with_share_policy(ShareConfig::read_write().with_announce(false))
        .load()
        .await;
    let url = format!("ws://127.0.0.1:{port}/").parse().expect("a URL");
    let acceptor = repo.make_acceptor(url).expect("the repo runs");
    let answer = move |upgrade: WebSocketUpgrade| {
        let acceptor = acceptor.clone();
        async move {
            let upgrade =
                upgrade.max_frame_size(MESSAGE_BYTES_MAX).max_message_size(MESSAGE_BYTES_MAX);
            upgrade.on_upgrade(move |socket| async move {
                // The repo drives the connection; a connection that it rejects is closed when it is
                // dropped.
                let _ = acceptor.accept_axum(socket, None);
            })
        }
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
    axum::serve(listener, Router::new().route("/", get(answer))).await.expect("the server runs");
}
