//! Connecting to a relay, and the errors of that.

use std::time::Duration;

use landfall_protocol::frame::SUBPROTOCOL;
use landfall_protocol::limits;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::header::{LOCATION, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response as HttpResponse};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, error::ProtocolError};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::address::Address;

/// Why no connection was made.
#[derive(Debug, Error)]
pub(super) enum SocketError {
    #[error("no relay answers at {host}:{port}: {source}; is it running?")]
    Unreachable {
        host: String,
        port: u16,
        #[source]
        source: std::io::Error,
    },
    #[error("{host}:{port} did not answer within {waited:?}")]
    TimedOut { host: String, port: u16, waited: Duration },
    #[error("{url} is not a Landfall relay: {what}")]
    NotLandfall { url: String, what: String },
    #[error("{url} refuses the connection: it answered HTTP {what}")]
    Refused { url: String, what: String },
    #[error("the handshake with {url} failed: {source}")]
    Handshake {
        url: String,
        #[source]
        source: Box<WsError>,
    },
}

impl SocketError {
    /// Whether the server at the URL answers, but not as a relay: trying again will not help.
    pub(super) fn is_no_relay(&self) -> bool {
        matches!(self, Self::NotLandfall { .. })
    }
}

pub(super) type Socket = WebSocketStream<TcpStream>;

pub(super) async fn connect(address: &Address, within: Duration) -> Result<Socket, SocketError> {
    let attempt = tokio::time::timeout(within, open(address));
    attempt.await.unwrap_or_else(|_| {
        let (host, port, waited) = (address.host.clone(), address.port, within);
        Err(SocketError::TimedOut { host, port, waited })
    })
}

async fn open(address: &Address) -> Result<Socket, SocketError> {
    let unreachable = |source| {
        let (host, port) = (address.host.clone(), address.port);
        SocketError::Unreachable { host, port, source }
    };
    let stream =
        TcpStream::connect((address.host.as_str(), address.port)).await.map_err(unreachable)?;
    // Small frames must not wait for larger ones.
    stream.set_nodelay(true).map_err(unreachable)?;
    let failed = |source| failure(address, source);
    let mut request = address.url.as_str().into_client_request().map_err(failed)?;
    let subprotocol = HeaderValue::from_static(SUBPROTOCOL);
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
    let config = WebSocketConfig::default()
        .max_message_size(Some(limits::MESSAGE_BYTES))
        .max_frame_size(Some(limits::MESSAGE_BYTES));
    let (socket, response) =
        client_async_with_config(request, stream, Some(config)).await.map_err(failed)?;
    check_subprotocol(address, &response)?;
    Ok(socket)
}

fn check_subprotocol(address: &Address, response: &Response) -> Result<(), SocketError> {
    let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
    if chosen.is_some_and(|chosen| chosen.as_bytes() == SUBPROTOCOL.as_bytes()) {
        return Ok(());
    }
    let what = format!("it does not speak {SUBPROTOCOL}");
    Err(SocketError::NotLandfall { url: address.url.clone(), what })
}

/// Another answer than a WebSocket. Answers of a busy or starting relay, of a proxy before it, or to an
/// unknown client do not show that the URL is wrong.
fn answered(url: String, response: &HttpResponse<Option<Vec<u8>>>) -> SocketError {
    let status = response.status();
    let body = response.body().as_deref().unwrap_or_default();
    let body = String::from_utf8_lossy(&body[..body.len().min(200)]).trim().to_owned();
    let location = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
    let answer = match location {
        Some(to) if status.is_redirection() => format!("{status}: it redirects to {to}"),
        _ => format!("{status} {body}"),
    };
    let may_be_one = status.is_server_error()
        || matches!(status.as_u16(), 401 | 403 | 407 | 408 | 421 | 425 | 429);
    match may_be_one {
        true => SocketError::Refused { url, what: answer },
        false => SocketError::NotLandfall { url, what: format!("it answered HTTP {answer}") },
    }
}

fn failure(address: &Address, error: WsError) -> SocketError {
    let url = address.url.clone();
    let not_landfall = |what: String| SocketError::NotLandfall { url: url.clone(), what };
    match &error {
        WsError::Http(response) => answered(url, response),
        WsError::Protocol(ProtocolError::SecWebSocketSubProtocolError(_)) => {
            not_landfall(format!("it does not speak {SUBPROTOCOL}"))
        }
        // A relay that stops in the middle of its answer is a relay.
        WsError::Protocol(ProtocolError::HandshakeIncomplete) => {
            SocketError::Handshake { url, source: Box::new(error) }
        }
        WsError::Protocol(_) | WsError::HttpFormat(_) | WsError::Utf8(_) => {
            not_landfall(error.to_string())
        }
        _ => SocketError::Handshake { url, source: Box::new(error) },
    }
}
