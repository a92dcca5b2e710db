//! The HTTP side of the WebSocket handshake: decides which requests become sessions, and classifies the
//! others. The native protocol has a subprotocol name; a WebSocket without one is an automerge-repo client's.

use axum::body::Body;
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use landfall_protocol::frame::SUBPROTOCOL;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::text;

/// The kind of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum UpgradeRequest {
    /// No WebSocket.
    Page,
    /// A session of the native protocol; the key goes into the response.
    Native { key: String },
    /// A session of the automerge-repo protocol, which has no subprotocol name; the key goes into the
    /// response.
    Repo { key: String },
    /// A WebSocket of another protocol.
    OtherProtocol,
    /// An invalid WebSocket request.
    Broken(&'static str),
}

/// Classifies a request by its head.
pub(super) fn upgrade_request(method: &Method, headers: &HeaderMap) -> UpgradeRequest {
    if !has_token(headers, header::UPGRADE, "websocket") {
        return UpgradeRequest::Page;
    }
    if method != Method::GET {
        return UpgradeRequest::Broken("a WebSocket begins with GET");
    }
    if !has_token(headers, header::CONNECTION, "upgrade") {
        return UpgradeRequest::Broken("the header `Connection: upgrade` is missing");
    }
    let is_13 = |value: &header::HeaderValue| value.as_bytes() == b"13";
    if !headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(is_13) {
        return UpgradeRequest::Broken("`Sec-WebSocket-Version` must be 13");
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return UpgradeRequest::Broken("the header `Sec-WebSocket-Key` is missing");
    };
    let key = derive_accept_key(key.as_bytes());
    if has_token(headers, header::SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return UpgradeRequest::Native { key };
    }
    match headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL) {
        true => UpgradeRequest::OtherProtocol,
        false => UpgradeRequest::Repo { key },
    }
}

/// Whether a comma-separated header contains a token, ignoring case.
fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name);
    let mut tokens =
        values.iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    tokens.any(|found| found.trim().eq_ignore_ascii_case(token))
}

/// "Switching protocols", with the subprotocol, if one was requested.
pub(super) fn accept(key: &str, subprotocol: Option<&'static str>) -> Response<Body> {
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, key);
    if let Some(subprotocol) = subprotocol {
        response = response.header(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    let response = response.body(Body::empty());
    response.unwrap_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, "cannot build a response"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn request() -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (header::UPGRADE, "WebSocket"),
            (header::CONNECTION, "keep-alive, Upgrade"),
            (header::SEC_WEBSOCKET_VERSION, "13"),
            (header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ=="),
            (header::SEC_WEBSOCKET_PROTOCOL, "other, landfall.v1"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_native_request_gets_the_key_of_rfc_6455() {
        let key = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned();
        assert_eq!(upgrade_request(&Method::GET, &request()), UpgradeRequest::Native { key });
    }

    #[test]
    fn a_missing_handshake_header_is_named() {
        let without = |name: header::HeaderName| {
            let mut headers = request();
            headers.remove(name);
            upgrade_request(&Method::GET, &headers)
        };
        assert_eq!(without(header::UPGRADE), UpgradeRequest::Page);
        assert!(matches!(without(header::SEC_WEBSOCKET_PROTOCOL), UpgradeRequest::Repo { .. }));
        let mut other = request();
        let name = HeaderValue::from_static("graphql-ws");
        other.insert(header::SEC_WEBSOCKET_PROTOCOL, name);
        assert_eq!(upgrade_request(&Method::GET, &other), UpgradeRequest::OtherProtocol);
        for name in [header::CONNECTION, header::SEC_WEBSOCKET_VERSION, header::SEC_WEBSOCKET_KEY] {
            assert!(matches!(without(name.clone()), UpgradeRequest::Broken(_)), "{name}");
        }
        assert!(matches!(upgrade_request(&Method::POST, &request()), UpgradeRequest::Broken(_)));
    }
}
