//! Decides which requests are accepted. A page in any browser can open a WebSocket to 127.0.0.1, so an open
//! relay on loopback checks two headers: `Origin`, which only browsers send, and `Host`, the name under which
//! it was reached. A foreign name that resolves to loopback is a DNS rebinding attack.
//!
//! Accepted are the relay's own page, pages served by this machine, and configured origins: see
//! `docs/decisions/0024-loopback-pages-are-let-in.md`.

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Uri, header};

use crate::limits;

/// The rules for accepting requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guard {
    /// Origins whose pages may connect, as browsers send them: `https://app.example`. In addition to the
    /// relay's own page and those of this machine.
    pub(crate) allow_origins: Vec<String>,
    /// Names under which the relay may be reached, in addition to those of loopback.
    pub(crate) allow_hosts: Vec<String>,
    /// Whether `Host` may be any IP address. Never any name: a name's owner can point it here.
    pub(crate) any_address: bool,
    /// Whether clients are identified by a token. Then `Host` may be anything: a page under a foreign name
    /// has no token.
    pub(crate) needs_token: bool,
}

/// Why a request is rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The origin of a browser's page that is not allowed.
    Origin(String),
    /// A host that is no loopback name.
    Host(String),
}

impl Guard {
    /// Checks a request's head.
    pub(crate) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Refused> {
        for origin in headers.get_all(header::ORIGIN) {
            let origin = String::from_utf8_lossy(origin.as_bytes());
            let allowed = |allowed: &String| allowed.eq_ignore_ascii_case(&origin);
            let is_let_in =
                self.is_near(&origin, headers) || self.allow_origins.iter().any(allowed);
            if !is_let_in {
                return Err(Refused::Origin(shown(&origin)));
            }
        }
        let mut hosts = headers.get_all(header::HOST).iter().map(|host| {
            let host = String::from_utf8_lossy(host.as_bytes());
            if self.is_ours(&host) { Ok(()) } else { Err(Refused::Host(shown(&host))) }
        });
        // HTTP/1.1 requires exactly one; a missing one names no host.
        hosts.next().unwrap_or_else(|| Err(Refused::Host(String::new())))?;
        hosts.collect::<Result<(), _>>()?;
        match uri.authority() {
            Some(authority) if !self.is_ours(authority.as_str()) => {
                Err(Refused::Host(shown(authority.as_str())))
            }
            _ => Ok(()),
        }
    }
}

impl Guard {
    /// Whether a page comes from this machine, or from this relay itself.
    fn is_near(&self, origin: &str, headers: &HeaderMap) -> bool {
        let Some(page) = authority_of(origin) else { return false };
        let Some(host) = Host::parse(page) else { return false };
        if host.is_loopback() {
            return true;
        }
        // A name's owner can point it here, and would then serve the page under it. An IP address is safe
        // from that, and so is a configured name.
        let mut hosts = headers.get_all(header::HOST).iter();
        let is_same = |own: &HeaderValue| own.as_bytes().eq_ignore_ascii_case(page.as_bytes());
        let own = hosts.next().is_some_and(is_same);
        own && hosts.next().is_none() && (host.address.is_some() || self.is_allowed(&host))
    }

    /// Whether the relay may be reached under this host, with or without a port.
    fn is_ours(&self, text: &str) -> bool {
        Host::parse(text).is_some_and(|host| {
            self.needs_token
                || host.is_loopback()
                || self.is_allowed(&host)
                || (self.any_address && host.address.is_some())
        })
    }

    fn is_allowed(&self, host: &Host) -> bool {
        self.allow_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(&host.name))
    }
}

/// The host and port of an `http` or `https` origin. Browsers send nothing after them, and the scheme in
/// lower case: anything else is not from a browser's page.
fn authority_of(origin: &str) -> Option<&str> {
    origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))
}

/// The host of a `Host` header or of an origin.
struct Host {
    /// In lower case and without a final dot; an IPv6 address is in brackets.
    name: String,
    /// If it is an IP address.
    address: Option<IpAddr>,
}

impl Host {
    /// `None` unless it is a host with an optional port, and nothing else: a user in front of it would show
    /// another name to a person.
    fn parse(text: &str) -> Option<Self> {
        let authority = text.parse::<Authority>().ok()?;
        let port = authority.as_str().strip_prefix(authority.host())?;
        if !port.is_empty() {
            let digits = port.strip_prefix(':')?;
            // `u16` parses a sign too.
            digits.parse::<u16>().ok().filter(|_| !digits.starts_with('+'))?;
        }
        let host = authority.host();
        let in_brackets = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let address = match in_brackets {
            Some(inner) => Some(IpAddr::V6(inner.parse().ok()?)),
            None => host.parse().ok().map(IpAddr::V4),
        };
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        Some(Self { name, address })
    }

    /// Whether it is a name or address of this machine's loopback.
    fn is_loopback(&self) -> bool {
        match self.address {
            Some(address) => address.is_loopback(),
            None => self.name == "localhost" || self.name.ends_with(".localhost"),
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(limits::SHOWN_HEADER_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderName;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn loopback_names_are_recognised_in_all_forms() {
        for good in [
            "localhost",
            "LOCALHOST:7600",
            "localhost.",
            "notes.localhost:80",
            "127.0.0.1",
            "127.9.8.7:7600",
            "[::1]",
            "[::1]:7600",
        ] {
            assert!(Host::parse(good).is_some_and(|host| host.is_loopback()), "{good}");
        }
        for bad in [
            "",
            "example.com",
            "localhost.example.com",
            "notlocalhost",
            "127.0.0.1.example.com",
            "128.0.0.1",
            "[::2]:7600",
            "[::1",
            "[::1]x",
            "localhost:port",
            "localhost:99999",
            "localhost:+80",
            "localhost:80@example.com",
            "::1",
            "[127.0.0.1]",
            "localhost/x",
            "0.0.0.0",
        ] {
            assert!(!Host::parse(bad).is_some_and(|host| host.is_loopback()), "{bad}");
        }
    }

    #[test]
    fn origins_are_rejected_unless_allowed() {
        let allow_origins = vec!["https://App.example".into()];
        let guard = Guard { allow_origins, ..Guard::default() };
        let uri = Uri::from_static("/");
        let host = (header::HOST, "localhost:7600");
        assert_eq!(guard.check(&uri, &headers(std::slice::from_ref(&host))), Ok(()));
        let ask = |origin| guard.check(&uri, &headers(&[host.clone(), (header::ORIGIN, origin)]));
        for good in [
            "https://app.example",
            "http://localhost",
            "http://localhost:5173",
            "https://notes.localhost:8443",
            "http://127.0.0.1:7600",
            "http://[::1]:3000",
        ] {
            assert_eq!(ask(good), Ok(()), "{good}");
        }
        for bad in [
            "null",
            "",
            "https://app.example.evil",
            "http://app.example",
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
            "http://localhost@evil.example",
            "http://localhost:80@evil.example",
            "chrome-extension://localhost",
            "file://",
            "localhost",
            // No browser sends these.
            "HTTP://localhost",
            "http://localhost/",
            "http://localhost/notes",
            "http://localhost?x",
            "http://localhost#x",
        ] {
            assert_eq!(ask(bad), Err(Refused::Origin(bad.to_owned())));
        }
        let near = (header::ORIGIN, "http://localhost");
        let two = headers(&[host.clone(), near, (header::ORIGIN, "http://evil.example")]);
        assert!(guard.check(&uri, &two).is_err(), "one foreign origin of two is enough");
    }

    #[test]
    fn a_relay_that_identifies_its_clients_is_reached_under_any_name() {
        let guard = Guard { needs_token: true, ..Guard::default() };
        let uri = Uri::from_static("/");
        let named = headers(&[(header::HOST, "relay.example:7600")]);
        assert_eq!(guard.check(&uri, &named), Ok(()));
        assert!(Guard::default().check(&uri, &named).is_err());
        let origin = (header::ORIGIN, "https://relay.example:7600");
        let page = headers(&[(header::HOST, "relay.example:7600"), origin]);
        assert!(guard.check(&uri, &page).is_err(), "pages are allowed by --allow-origin only");
    }

    #[test]
    fn the_relays_own_page_may_connect_by_address_but_not_by_name() {
        let guard = Guard { any_address: true, ..Guard::default() };
        let uri = Uri::from_static("/");
        let ask = |host, origin| {
            guard.check(&uri, &headers(&[(header::HOST, host), (header::ORIGIN, origin)]))
        };
        for (host, origin) in [
            ("10.0.0.7:7600", "http://10.0.0.7:7600"),
            ("10.0.0.7", "https://10.0.0.7"),
            ("[fd00::7]:7600", "http://[fd00::7]:7600"),
            ("[FD00::7]", "http://[fd00::7]"),
        ] {
            assert_eq!(ask(host, origin), Ok(()), "{host} {origin}");
        }
        for (host, origin) in [
            // A name that its owner has pointed here.
            ("evil.example:7600", "http://evil.example:7600"),
            ("10.0.0.7:7600", "http://10.0.0.7:8080"),
            ("10.0.0.7:7600", "http://10.0.0.8:7600"),
            ("10.0.0.7.evil.example", "http://10.0.0.7.evil.example"),
        ] {
            assert_eq!(ask(host, origin), Err(Refused::Origin(origin.to_owned())), "{host}");
        }
        let named = Guard { allow_hosts: vec!["relay.example".to_owned()], ..Guard::default() };
        let ask = |host, origin| {
            named.check(&uri, &headers(&[(header::HOST, host), (header::ORIGIN, origin)]))
        };
        assert_eq!(ask("relay.example:7600", "http://relay.example:7600"), Ok(()));
        assert!(ask("relay.example:7600", "http://evil.example:7600").is_err());
        let own = (header::ORIGIN, "http://10.0.0.7");
        let twice = headers(&[(header::HOST, "10.0.0.7"), (header::HOST, "b.example"), own]);
        assert!(guard.check(&uri, &twice).is_err());
    }

    #[test]
    fn a_foreign_host_is_rejected_in_any_position() {
        let guard = Guard::default();
        let (local, foreign) = ((header::HOST, "localhost"), (header::HOST, "evil.example"));
        let root = Uri::from_static("/");
        let refused = Err(Refused::Host("evil.example".to_owned()));
        assert_eq!(guard.check(&root, &headers(std::slice::from_ref(&foreign))), refused);
        assert_eq!(guard.check(&root, &headers(&[local.clone(), foreign])), refused);
        let absolute = Uri::from_static("http://evil.example/");
        assert_eq!(guard.check(&absolute, &headers(&[local])), refused);
        assert!(guard.check(&root, &headers(&[])).is_err());
        // A relay open to others is reached by any address, and by configured names: any other name may have
        // been pointed here by an attacker.
        let allow_hosts = vec!["relay.example".to_owned()];
        let open = Guard { any_address: true, allow_hosts, ..Guard::default() };
        let ask = |host| open.check(&root, &headers(&[(header::HOST, host)]));
        for good in
            ["10.0.0.7:7600", "[fd00::7]", "localhost", "relay.example", "Relay.example.:7600"]
        {
            assert_eq!(ask(good), Ok(()), "{good}");
        }
        for bad in ["evil.example", "relay.example.evil.example", "10.0.0.7.evil.example", ""] {
            assert_eq!(ask(bad), Err(Refused::Host(bad.to_owned())));
        }
    }
}
