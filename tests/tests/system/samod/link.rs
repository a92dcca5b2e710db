//! samod over tokio-tungstenite: a dialer and a WebSocket transport. samod's own would add native-tls.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;

use futures_util::{SinkExt, StreamExt, TryStreamExt};
use samod::{DialError, Dialer, Transport, Url};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, connect_async_with_config};

/// Connects to a relay by its URL; each dial opens a new connection.
#[derive(Debug)]
pub struct Ws(pub String);

type Connecting = Pin<Box<dyn Future<Output = Result<Transport, DialError<Infallible>>> + Send>>;

impl Dialer for Ws {
    type Error = Infallible;

    fn url(&self) -> Url {
        self.0.parse().expect("a relay's URL")
    }

    fn connect(&self) -> Connecting {
        let url = self.0.clone();
        Box::pin(async move {
            // A long document is sent as one frame.
            let config = WebSocketConfig::default().max_frame_size(Some(64 << 20));
            let connected = connect_async_with_config(&url, Some(config), true).await;
            connected.map(|(socket, _)| transport(socket)).map_err(DialError::transient)
        })
    }
}

/// Binary messages in both directions; the socket handles pings and other control frames.
pub fn transport<S>(socket: WebSocketStream<S>) -> Transport
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sink, stream) = socket.split();
    let stream = stream.try_filter_map(|message| async move {
        Ok(match message {
            Message::Binary(bytes) => Some(bytes.to_vec()),
            _ => None,
        })
    });
    let sink =
        sink.with(|bytes: Vec<u8>| async move { Ok::<_, Error>(Message::Binary(bytes.into())) });
    Transport::new(Box::pin(stream), Box::pin(sink))
}
