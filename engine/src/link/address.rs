//! A relay's URL: `ws://host[:port][/path]`.

use crate::error::ConnectError;

/// Where a relay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    /// The URL as the WebSocket handshake takes it.
    pub(super) url: String,
}

/// The port of `ws:` URLs that name none.
const DEFAULT_PORT: u16 = 80;

pub(super) fn parse(url: &str) -> Result<Address, ConnectError> {
    let bad = |what: &str| ConnectError::BadUrl { url: url.to_owned(), what: what.to_owned() };
    if url.starts_with("wss://") {
        return Err(bad("TLS is not built into this version; put a local TLS proxy before it"));
    }
    let rest = url.strip_prefix("ws://").ok_or_else(|| bad("it does not begin with ws://"))?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(bad("user names have no place in it; use a token"));
    }
    let (host, port) = split_port(authority).ok_or_else(|| bad("its port is no number"))?;
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(bad("it names no host"));
    }
    Ok(Address { host: host.to_owned(), port, url: url.to_owned() })
}

fn split_port(authority: &str) -> Option<(&str, u16)> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        return match port.strip_prefix(':') {
            Some(port) => Some((host, port.parse().ok()?)),
            None => port.is_empty().then_some((host, DEFAULT_PORT)),
        };
    }
    match authority.split_once(':') {
        Some((host, port)) => Some((host, port.parse().ok()?)),
        None => Some((authority, DEFAULT_PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(url: &str) -> Option<(String, u16)> {
        parse(url).ok().map(|address| (address.host, address.port))
    }

    #[test]
    fn urls_of_relays() {
        assert_eq!(parts("ws://127.0.0.1:7600"), Some(("127.0.0.1".into(), 7600)));
        assert_eq!(parts("ws://relay.example/path?x"), Some(("relay.example".into(), 80)));
        assert_eq!(parts("ws://[::1]:7600/"), Some(("::1".into(), 7600)));
    }

    #[test]
    fn others_say_what_is_wrong() {
        for bad in
            ["", "http://a", "wss://a", "ws://", "ws://a:x", "ws://a:99999", "ws://u@a", "ws://:1"]
        {
            assert!(matches!(parse(bad), Err(ConnectError::BadUrl { .. })), "{bad}");
        }
    }
}
