//! The playground: the page that browsers get, the files that it is made of, and the list of a
//! space's documents that it asks for. For relays that ask nobody who they are, as all of this
//! version: the list names every document.
//!
//! The page is built from `server/playground/` and kept in `server/assets/`; cargo runs no npm.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use axum::routing::get;
use axum::{Extension, Router};
use landfall_protocol::{DocumentId, SpaceName};
use tracing::error;

use super::{DEFAULT_SPACE, Door, Peer, text};
use crate::limits;
use crate::store::StoreError;

/// Names the page and its files together: when one of them changes, it changes.
const VERSION: &str = include_str!("../../assets/version.txt");
const PAGE: &str = include_str!("../../assets/index.html");

/// Documents in an answer, unless asked for otherwise.
const DOCUMENTS_DEFAULT: usize = 100;

/// Only what this relay serves; no script in the page, no code made of strings but WebAssembly, no
/// frame around it.
const POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// A file of the page.
struct Asset {
    name: &'static str,
    kind: &'static str,
    /// Whether it is kept compressed. Every browser takes gzip.
    gzip: bool,
    bytes: &'static [u8],
}

const ASSETS: &[Asset] = &[
    Asset {
        name: "playground.js",
        kind: "text/javascript; charset=utf-8",
        gzip: false,
        bytes: include_bytes!("../../assets/playground.js"),
    },
    Asset {
        name: "style.css",
        kind: "text/css; charset=utf-8",
        gzip: false,
        bytes: include_bytes!("../../assets/style.css"),
    },
    Asset {
        name: "icon.svg",
        kind: "image/svg+xml",
        gzip: false,
        bytes: include_bytes!("../../assets/icon.svg"),
    },
    Asset {
        name: "automerge.wasm",
        kind: "application/wasm",
        gzip: true,
        bytes: include_bytes!("../../assets/automerge.wasm.gz"),
    },
    Asset {
        name: "licences.txt",
        kind: "text/plain; charset=utf-8",
        gzip: false,
        bytes: include_bytes!("../../assets/licences.txt"),
    },
];

/// The playground's routes. The page itself is at `/` and `/spaces/NAME`, see [`page`].
pub(super) fn routes() -> Router<Arc<Door>> {
    Router::new()
        .route("/playground/documents", get(documents))
        .route("/playground/{version}/{file}", get(file))
}

/// The page for a browser; `None` for who does not ask for HTML, such as curl.
pub(super) fn page(headers: &HeaderMap) -> Option<Response<Body>> {
    let accepted = headers.get_all(header::ACCEPT).iter();
    let mut kinds =
        accepted.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let is_html = |kind: &str| kind.split(';').next().is_some_and(|k| k.trim() == "text/html");
    if !kinds.any(is_html) {
        return None;
    }
    let tag = format!("\"{VERSION}\"");
    let mut response = match headers.get(header::IF_NONE_MATCH) {
        Some(known) if known.as_bytes() == tag.as_bytes() => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        }
        _ => Response::new(Body::from(PAGE)),
    };
    let headers = response.headers_mut();
    describe(headers, "text/html; charset=utf-8", "no-cache");
    // The same address says another thing to curl.
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    Some(response)
}

/// A file of the page as it is of one version, which never changes.
async fn file(Path((version, name)): Path<(String, String)>) -> Response<Body> {
    let asset = ASSETS.iter().find(|asset| asset.name == name && version == VERSION);
    let Some(asset) = asset else {
        return text(StatusCode::NOT_FOUND, "not found; load the page again");
    };
    let mut response = Response::new(Body::from(asset.bytes));
    let headers = response.headers_mut();
    describe(headers, asset.kind, "public, max-age=31536000, immutable");
    if asset.gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// What all answers here say of themselves.
fn describe(headers: &mut HeaderMap, kind: &'static str, cache: &'static str) {
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, cache),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// What is asked of [`documents`].
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    space: SpaceName,
    after: Option<DocumentId>,
    limit: usize,
}

/// `space=NAME&after=ID&limit=N`, each optional. The error is for whoever asked.
fn asked(query: Option<&str>) -> Result<Asked, String> {
    let space = DEFAULT_SPACE.parse().map_err(|error| format!("{error}"))?;
    let mut asked = Asked { space, after: None, limit: DOCUMENTS_DEFAULT };
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // The one character of a good value that some clients escape.
        let value = value.replace("%3A", ":").replace("%3a", ":");
        match name {
            "space" => asked.space = value.parse().map_err(|error| format!("{error}"))?,
            "after" => asked.after = Some(value.parse().map_err(|error| format!("{error}"))?),
            "limit" => {
                let limit = value.parse().ok();
                let allowed = |limit: &usize| (1..=limits::LISTED_DOCUMENTS).contains(limit);
                asked.limit = limit.filter(allowed).ok_or_else(|| {
                    format!("`limit` is a number from 1 to {}", limits::LISTED_DOCUMENTS)
                })?;
            }
            _ => return Err("the parameters are `space`, `after` and `limit`".to_owned()),
        }
    }
    Ok(asked)
}

/// `{relay, documents, next}`: ids in the order of their bytes, and where to go on, or null. A space
/// that nobody has written to is one without documents.
async fn documents(
    State(door): State<Arc<Door>>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
) -> Response<Body> {
    let asked = match asked(uri.query()) {
        Ok(asked) => asked,
        Err(what) => return text(StatusCode::BAD_REQUEST, what),
    };
    let limit = asked.limit;
    let mut found = match listed(&door, &peer, asked).await {
        Ok(found) => found,
        Err(error) => {
            error!(error = error.chain(), "the documents could not be listed");
            return text(StatusCode::INTERNAL_SERVER_ERROR, "the documents could not be listed");
        }
    };
    // One more was asked for, to know whether there is one.
    let more = found.len() > limit;
    found.truncate(limit);
    let ids: Vec<String> = found.iter().map(ToString::to_string).collect();
    let next = ids.last().filter(|_| more);
    let relay = door.sessions.upstream.to_string();
    let body = serde_json::json!({ "relay": relay, "documents": ids, "next": next });
    let mut response = Response::new(Body::from(body.to_string()));
    describe(response.headers_mut(), "application/json", "no-store");
    response
}

/// Reads the store where reading may wait, in turn with the sessions' pages.
async fn listed(door: &Door, peer: &Peer, asked: Asked) -> Result<Vec<DocumentId>, StoreError> {
    let turn = door.sessions.page_reads.take(door.sessions.asker(peer.address)).await;
    let store = Arc::clone(&door.sessions.store);
    let read = tokio::task::spawn_blocking(move || {
        let found = store.documents(&asked.space, asked.after, asked.limit + 1);
        drop(turn);
        found
    });
    read.await.unwrap_or_else(|error| Err(StoreError::of_panic(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "automerge:2akvofn6L1o4RMUEMQi7qzwRjKWZ";

    #[test]
    fn what_is_asked_is_read() {
        let all = Asked { space: "default".parse().unwrap(), after: None, limit: 100 };
        assert_eq!(asked(None), Ok(all));
        let escaped = format!("limit=7&after={}&space=a.b", ID.replace(':', "%3A"));
        let (space, after) = ("a.b".parse().unwrap(), Some(ID.parse().unwrap()));
        assert_eq!(asked(Some(&escaped)), Ok(Asked { space, after, limit: 7 }));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, told) in [
            ("limit=0", "1 to 1000"),
            ("limit=1001", "1 to 1000"),
            ("limit=many", "1 to 1000"),
            ("space=", "1 to 64 bytes"),
            ("space=../etc", "not allowed"),
            ("after=automerge:nothing", "no document id"),
            ("offset=3", "`space`, `after` and `limit`"),
        ] {
            let error = asked(Some(query)).unwrap_err();
            assert!(error.contains(told), "{query}: {error}");
        }
    }

    #[test]
    fn the_page_names_files_that_there_are() {
        let prefix = format!("/playground/{VERSION}/");
        let named: Vec<&str> = PAGE
            .split('"')
            .filter(|part| part.starts_with('/'))
            .map(|part| part.strip_prefix(&prefix).expect("a file of this version"))
            .collect();
        assert!(named.len() >= 4, "{named:?}");
        for name in named {
            assert!(ASSETS.iter().any(|asset| asset.name == name), "{name}");
        }
        assert!(!PAGE.contains("<style") && !PAGE.contains("style=") && !PAGE.contains("://"));
    }
}
