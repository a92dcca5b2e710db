//! The playground's page and its files. The page is built from `server/playground/` and committed in
//! `server/assets/`; cargo runs no npm.

use std::io::Read;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::header;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use axum::routing::get;
use flate2::read::GzDecoder;
use tracing::error;

use super::{HttpState, describe, text};

/// The version of the page and its files: changes with any of them.
const VERSION: &str = include_str!("../../assets/version.txt");
const PAGE: &str = include_str!("../../assets/index.html");
/// The service worker has the same name in all versions: a browser detects a new version by its content.
const WORKER: &str = include_str!("../../assets/worker.js");

/// A file of the page.
struct Asset {
    name: &'static str,
    kind: &'static str,
    /// Whether it is stored compressed.
    gzip: bool,
    bytes: &'static [u8],
}

const ASSETS: &[Asset] = &[
    Asset {
        name: "playground.js",
        kind: "text/javascript; charset=utf-8",
        gzip: true,
        bytes: include_bytes!("../../assets/playground.js.gz"),
    },
    Asset {
        name: "style.css",
        kind: "text/css; charset=utf-8",
        gzip: true,
        bytes: include_bytes!("../../assets/style.css.gz"),
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
        gzip: true,
        bytes: include_bytes!("../../assets/licences.txt.gz"),
    },
];

/// The routes of the files. The page itself is at `/` and `/spaces/NAME`, see [`page`].
pub(super) fn routes() -> Router<Arc<HttpState>> {
    Router::new()
        .route("/playground/worker.js", get(worker))
        .route("/playground/{version}/{file}", get(file))
}

/// The page for a browser; `None` for clients that do not accept HTML, such as curl.
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
    // The same address answers curl differently.
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    Some(response)
}

/// The page's service worker, which may also handle the page's own address.
async fn worker() -> Response<Body> {
    let mut response = Response::new(Body::from(WORKER));
    let headers = response.headers_mut();
    describe(headers, "text/javascript; charset=utf-8", "no-cache");
    headers.insert("service-worker-allowed", HeaderValue::from_static("/"));
    response
}

/// A file of one version of the page, which never changes: compressed for clients that accept that.
async fn file(Path((version, name)): Path<(String, String)>, asked: HeaderMap) -> Response<Body> {
    let asset = ASSETS.iter().find(|asset| asset.name == name && version == VERSION);
    let Some(asset) = asset else {
        return text(StatusCode::NOT_FOUND, "not found; load the page again");
    };
    let compressed = asset.gzip && takes_gzip(&asked);
    let body = match asset.gzip && !compressed {
        false => Body::from(asset.bytes),
        true => match inflated(asset.bytes) {
            Ok(bytes) => Body::from(bytes),
            Err(error) => {
                error!(%error, name, "cannot inflate a file of the page");
                let what = "cannot inflate the file; request it with gzip";
                return text(StatusCode::INTERNAL_SERVER_ERROR, what);
            }
        },
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    describe(headers, asset.kind, "public, max-age=31536000, immutable");
    if asset.gzip {
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    if compressed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Inflates a file that was built with this program: some 3 MB at most.
fn inflated(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut inflated = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut inflated)?;
    Ok(inflated)
}

/// Whether an answer may be sent compressed (RFC 9110, 12.5.3): `gzip`, or else `*`, is listed with a weight
/// other than 0.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let named = headers.get_all(header::ACCEPT_ENCODING).iter();
    let codings = named.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let (mut gzip, mut any) = (None, None);
    for coding in codings {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let takes = weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|q| q > 0.0));
        if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") {
            gzip = Some(takes);
        } else if name == "*" {
            any = Some(takes);
        }
    }
    gzip.or(any).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_existing_files() {
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
        assert!(WORKER.contains(VERSION));
    }

    #[test]
    fn gzip_is_sent_to_clients_that_accept_it() {
        for (accepted, takes) in [
            (None, false),
            (Some(""), false),
            (Some("gzip"), true),
            (Some("gzip, deflate, br, zstd"), true),
            (Some("br, GZIP"), true),
            (Some("deflate, x-gzip;q=0.1"), true),
            (Some("gzip;q=0"), false),
            (Some("gzip; q=0.000, *"), false),
            (Some("identity"), false),
            (Some("*"), true),
            (Some("br;q=1, *;q=0"), false),
            (Some("gzip;q=nonsense"), false),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accepted) = accepted {
                headers.insert(header::ACCEPT_ENCODING, accepted.parse().unwrap());
            }
            assert_eq!(takes_gzip(&headers), takes, "{accepted:?}");
        }
    }

    #[test]
    fn compressed_files_can_be_inflated() {
        for asset in ASSETS.iter().filter(|asset| asset.gzip) {
            assert!(inflated(asset.bytes).unwrap().len() > asset.bytes.len(), "{}", asset.name);
        }
    }
}
