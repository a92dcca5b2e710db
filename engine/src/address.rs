//! A relay's URL: `ws://host[:port][/path][?query]`, parsed as a browser parses it.

use landfall_protocol::SpaceName;
use url::{Host, Url};

use crate::error::ConnectError;

/// A relay's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// The host name for the resolver: an IPv6 address without its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// The URL for the WebSocket handshake.
    pub(crate) url: String,
    /// The space that the path names.
    pub(crate) space: Option<SpaceName>,
}

/// The prefix of a path that names a space, as automerge-repo clients give it.
const SPACES: &str = "/spaces/";

pub(crate) fn parse(given: &str) -> Result<Address, ConnectError> {
    let bad = |what: &str| ConnectError::BadUrl { url: given.to_owned(), what: what.to_owned() };
    let mut url = Url::parse(given).map_err(|error| match error {
        url::ParseError::RelativeUrlWithoutBase => bad("it does not begin with ws://"),
        error => bad(&error.to_string()),
    })?;
    match url.scheme() {
        "ws" => {}
        "wss" | "https" => {
            return Err(bad("this version does not support TLS; use a local TLS proxy"));
        }
        "http" => {
            let rest = url.as_str().trim_start_matches("http");
            return Err(bad(&format!("it is a web page's; the relay's is ws{rest}")));
        }
        _ => return Err(bad("it does not begin with ws://")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("it must not contain a user name or password; use a token"));
    }
    // The fragment is for the client alone, and no request carries it.
    url.set_fragment(None);
    let host = match url.host() {
        Some(Host::Domain(name)) => name.to_owned(),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        None => return Err(bad("it names no host")),
    };
    let port = url.port_or_known_default().filter(|port| *port > 0);
    let port = port.ok_or_else(|| bad("its port is 0"))?;
    let space = space(url.path()).map_err(|what| bad(&what))?;
    if let Some(space) = &space {
        // A trailing slash does not change the meaning, and a relay answers without one.
        url.set_path(&format!("{SPACES}{space}"));
    }
    Ok(Address { host, port, url: url.into(), space })
}

/// The space that a path names. A path of another form belongs to a proxy.
fn space(path: &str) -> Result<Option<SpaceName>, String> {
    let Some(name) = path.strip_prefix(SPACES) else { return Ok(None) };
    let name = name.strip_suffix('/').unwrap_or(name);
    let parsed = name.parse::<SpaceName>();
    parsed.map(Some).map_err(|error| format!("`{name}` is not a space's name: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(url: &str) -> (String, u16, String) {
        let address = parse(url).unwrap();
        (address.host, address.port, address.url)
    }

    #[test]
    fn valid_urls_are_parsed() {
        for (given, host, port, url) in [
            ("ws://127.0.0.1:7600", "127.0.0.1", 7600, "ws://127.0.0.1:7600/"),
            ("ws://relay.example/path?x", "relay.example", 80, "ws://relay.example/path?x"),
            ("ws://[::1]:7600/", "::1", 7600, "ws://[::1]:7600/"),
            ("ws://[::1]", "::1", 80, "ws://[::1]/"),
            ("WS://Relay.Example:7600", "relay.example", 7600, "ws://relay.example:7600/"),
            (" ws://a:7600\n", "a", 7600, "ws://a:7600/"),
            ("ws://a:7600?device=7", "a", 7600, "ws://a:7600/?device=7"),
            ("ws://a:7600#top", "a", 7600, "ws://a:7600/"),
            ("ws://a?", "a", 80, "ws://a/?"),
            ("ws://a/b c", "a", 80, "ws://a/b%20c"),
            ("ws://bücher.example", "xn--bcher-kva.example", 80, "ws://xn--bcher-kva.example/"),
        ] {
            assert_eq!(parts(given), (host.to_owned(), port, url.to_owned()), "{given}");
        }
    }

    #[test]
    fn a_path_may_name_a_space() {
        let space = |url| parse(url).map(|address| address.space.map(|space| space.to_string()));
        assert_eq!(space("ws://a/spaces/team").unwrap().as_deref(), Some("team"));
        assert_eq!(space("ws://a/spaces/team/?x").unwrap().as_deref(), Some("team"));
        assert_eq!(parts("ws://a/spaces/team/?x").2, "ws://a/spaces/team?x");
        for none in ["ws://a", "ws://a/", "ws://a/proxy", "ws://a/spaces", "ws://a?/spaces/team"] {
            assert_eq!(space(none).unwrap(), None, "{none}");
        }
        for bad in ["ws://a/spaces/", "ws://a/spaces/a/b", "ws://a/spaces/a%20b"] {
            assert!(matches!(space(bad), Err(ConnectError::BadUrl { .. })), "{bad}");
        }
    }

    #[test]
    fn invalid_urls_are_refused_with_the_reason() {
        for bad in [
            "",
            "7600",
            "127.0.0.1:7600",
            "localhost:7600",
            "wss://a",
            "ws://",
            "ws:a",
            "ws://a:x",
            "ws://a:99999",
            "ws://a:0",
            "ws://u@a",
            "ws://:p@a",
            "ws://:1",
            "ws://a b",
        ] {
            match parse(bad) {
                // As in a browser, which reads it as if it had slashes.
                Ok(address) if bad == "ws:a" => assert_eq!(address.host, "a"),
                Err(ConnectError::BadUrl { .. }) => {}
                other => panic!("{bad}: {other:?}"),
            }
        }
        let Err(ConnectError::BadUrl { what, .. }) = parse("http://a:7600/x") else { panic!() };
        assert_eq!(what, "it is a web page's; the relay's is ws://a:7600/x");
    }
}
