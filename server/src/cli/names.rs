//! Normalises the operator's origins and hosts as browsers do: a value that can never match a request is
//! rejected at the start. It must not know requests.

use url::Url;

/// An origin in the form that browsers send: `https://App.Example:443/` is `https://app.example`.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.contains('*') || text.eq_ignore_ascii_case("null") {
        return Err("name each origin in full, such as https://app.example".to_owned());
    }
    let parsed = match Url::parse(text) {
        Ok(parsed) if parsed.host_str().is_some_and(|host| !host.is_empty()) => parsed,
        Err(error) if text.contains("://") => return Err(format!("it is not an origin: {error}")),
        _ if text.contains("://") => return Err("it has no host".to_owned()),
        _ => {
            let likely = origin(&format!("https://{text}"))
                .map_or(String::new(), |likely| format!("; did you mean {likely}?"));
            return Err(format!("it has no scheme and host{likely}"));
        }
    };
    let host = parsed.host_str().unwrap_or_default();
    let port = parsed.port().map_or(String::new(), |port| format!(":{port}"));
    let origin = format!("{}://{host}{port}", parsed.scheme());
    match parsed.scheme() {
        "ws" | "wss" => Err(format!(
            "an origin is a page's, not a WebSocket's: did you mean http{}?",
            &origin[2..]
        )),
        _ if has_more(&parsed) => {
            Err(format!("an origin has nothing after its host and port: {origin}"))
        }
        _ => Ok(origin),
    }
}

/// A host as in a request's `Host`, without a port: `Relay.Example:443` is `relay.example`.
pub(super) fn host(text: &str) -> Result<String, String> {
    let text = text.trim();
    let named = text.split_once("://").map_or(text, |(_, rest)| rest).trim_end_matches('/');
    let parsed = Url::parse(&format!("http://{named}/")).map_err(|error| error.to_string())?;
    let host = parsed.host_str().unwrap_or_default().trim_end_matches('.').to_owned();
    match () {
        () if host.contains('*') => Err("name each host in full".to_owned()),
        () if has_more(&parsed) || named != text => {
            Err(format!("a host is only a name or an address: {host}"))
        }
        () => Ok(host),
    }
}

fn has_more(parsed: &Url) -> bool {
    let has_path = !matches!(parsed.path(), "" | "/");
    let has_user = !parsed.username().is_empty() || parsed.password().is_some();
    has_path || has_user || parsed.query().is_some() || parsed.fragment().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_normalised_as_browsers_write_it() {
        for (given, is) in [
            ("https://app.example", "https://app.example"),
            (" https://App.Example/ ", "https://app.example"),
            ("HTTPS://app.example:443", "https://app.example"),
            ("http://app.example:80", "http://app.example"),
            ("http://app.example:8080", "http://app.example:8080"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("tauri://localhost", "tauri://localhost"),
        ] {
            assert_eq!(origin(given).as_deref(), Ok(is), "{given}");
        }
        for (given, says) in [
            ("app.example", "https://app.example"),
            ("app.example:8080", "https://app.example:8080"),
            ("*", "each origin"),
            ("null", "each origin"),
            ("", "each origin"),
            ("https://*.example", "each origin"),
            ("https://app.example:99999", "invalid port"),
            ("http://exa mple", "it is not an origin: invalid"),
            ("file://", "no host"),
            ("exa mple", "no scheme and host"),
            ("https://app.example/notes", "https://app.example"),
            ("https://app.example?x", "nothing after its host"),
            ("https://me@app.example", "nothing after its host"),
            ("wss://app.example", "https://app.example"),
        ] {
            let error = origin(given).unwrap_err();
            assert!(error.contains(says), "{given}: {error}");
        }
    }

    #[test]
    fn a_host_has_no_port() {
        for (given, is) in [
            ("relay.example", "relay.example"),
            ("Relay.Example:443", "relay.example"),
            ("relay.example.", "relay.example"),
            ("192.0.2.1", "192.0.2.1"),
        ] {
            assert_eq!(host(given).as_deref(), Ok(is), "{given}");
        }
        for given in ["https://relay.example", "relay.example/notes", "*.example", "", "a b"] {
            host(given).unwrap_err();
        }
    }
}
