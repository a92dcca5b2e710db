//! The WebSocket's closing handshake (RFC 6455, section 5.5.1): a close is answered by a close.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::automerge_repo_client::RepoClient;
use crate::harness::{Client, Relay, soon};

/// Closes, and returns the relay's answer.
async fn closed(socket: &mut WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>) -> CloseCode {
    let close = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
    soon(socket.send(Message::Close(Some(close)))).await.unwrap();
    loop {
        match soon(socket.next()).await {
            Some(Ok(Message::Close(Some(close)))) => return close.code,
            Some(Ok(_)) => {}
            end => panic!("the relay ended without a close: {end:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_close_is_answered_with_a_close() {
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder).await;
    let mut native = Client::at_start(&relay).await;
    assert_eq!(closed(&mut native.socket).await, CloseCode::Normal);
    let mut repo = RepoClient::join(&relay, "/", "repo").await;
    assert_eq!(closed(&mut repo.socket).await, CloseCode::Normal);
    relay.stop().await.unwrap();
}
