//! The relay's HTTP server: access checks, the pages for operators, and the upgrade to sessions.
//!
//! It must not know frames: a connection that becomes a session leaves this module.

mod assets;
mod guard;
mod live;
mod playground;
mod query;
mod upgrade;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::extract::{Extension, Path, Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use axum::middleware::{self, Next};
use axum::routing::get;
use axum::{Router, response};
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use landfall_protocol::frame::{SUBPROTOCOL, Token};
use landfall_protocol::{SessionId, SpaceName, limits as shared};
use tokio::time::Instant;
use tracing::{debug, error, warn};

use crate::automerge_repo;
use crate::connection::RelayState;
use crate::connection::slots::ConnectionSlot;
use crate::health::Health;
use crate::limits;
use crate::native;

pub(crate) use guard::Guard;
use guard::Refused;
use upgrade::UpgradeRequest;

/// The state that the handlers share.
pub(crate) struct HttpState {
    pub(crate) guard: Guard,
    pub(crate) health: Arc<Health>,
    pub(crate) sessions: Arc<RelayState>,
    /// Further state shared by automerge-repo sessions.
    pub(crate) automerge_repo: Arc<automerge_repo::SharedState>,
    pub(crate) last_session: AtomicU64,
}

impl HttpState {
    /// The next session id for the hub.
    fn next_session(&self) -> SessionId {
        SessionId(self.last_session.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// One accepted connection. A session that it is upgraded to keeps its place.
#[derive(Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Released when the connection, or the session after it, has ended.
    pub(crate) slot: Arc<ConnectionSlot>,
    /// When the connection is closed, unless it becomes a session.
    pub(crate) until: Instant,
}

/// The routes. Requests carry a [`Peer`] as an extension.
pub(crate) fn router(http_state: Arc<HttpState>) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/spaces/{space}", get(space))
        .route("/healthz", get(|| async { text(StatusCode::OK, "ok") }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .merge(playground::routes())
        .merge(assets::routes())
        .fallback(|| async {
            text(
                StatusCode::NOT_FOUND,
                "not found; a relay answers at /, /healthz, /readyz and /metrics",
            )
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&http_state), guarded))
        .with_state(http_state)
}

/// The routes of the listener for operators.
pub(crate) fn operators_router(http_state: Arc<HttpState>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { text(StatusCode::OK, "ok") }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(|| async {
            text(StatusCode::NOT_FOUND, "not found; operators read /healthz, /readyz and /metrics")
        })
        .with_state(http_state)
}

/// How a connection is served: a head has a limit in bytes and in time.
pub(crate) fn connection_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_READ)
        .max_buf_size(limits::HEAD_BYTES);
    builder
}

/// Answers one request. The router is always ready, and never fails.
pub(crate) async fn answer(
    router: Router,
    request: hyper::Request<hyper::body::Incoming>,
) -> Response<Body> {
    use hyper::service::Service as _;
    hyper_util::service::TowerToHyperService::new(router)
        .call(request)
        .await
        .unwrap_or_else(|never| match never {})
}

/// A short answer in plain text.
fn text(status: StatusCode, body: impl Into<String>) -> Response<Body> {
    let mut body = body.into();
    body.push('\n');
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// The page may load only what this relay serves; no inline scripts, no code from strings except WebAssembly,
/// no embedding in frames.
const POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// Sets the headers of all answers to the playground.
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

/// The paths that are answered even while all other connection slots are taken.
const FOR_OPERATORS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Whether a path shows something about every document, or may delete any: it is not answered where clients
/// must be identified, since its requests carry no token.
fn is_for_all_readers(path: &str) -> bool {
    path == "/metrics" || path.starts_with("/playground")
}

/// Rejects requests that fail the guard's checks, before any handler runs.
async fn guarded(
    State(http_state): State<Arc<HttpState>>,
    request: Request,
    next: Next,
) -> response::Response {
    let is_reserved =
        request.extensions().get::<Peer>().is_some_and(|peer| peer.slot.is_reserved());
    if !http_state.sessions.identities.is_open() && is_for_all_readers(request.uri().path()) {
        return text(StatusCode::NOT_FOUND, "not found; this relay authenticates its clients");
    }
    match http_state.guard.check(request.uri(), request.headers()) {
        Ok(()) if is_reserved && !FOR_OPERATORS.contains(&request.uri().path()) => {
            http_state.sessions.metrics.request_refused("full");
            let what = "the maximum number of connections, in total or for your address, is open";
            text(StatusCode::SERVICE_UNAVAILABLE, what)
        }
        Ok(()) => next.run(request).await,
        Err(Refused::Origin(origin)) => {
            http_state.sessions.metrics.request_refused("origin");
            debug!(origin, "rejected a browser's page");
            let what =
                format!("pages of `{origin}` may not connect; allow them with --allow-origin");
            text(StatusCode::FORBIDDEN, what)
        }
        Err(Refused::Host(host)) => {
            http_state.sessions.metrics.request_refused("host");
            debug!(host, "rejected a foreign host name");
            let what = format!(
                "`{host}` is not a loopback name of this machine, and this relay has no \
                 authentication; use localhost, or allow the name with --allow-host (an address \
                 with --insecure-open)"
            );
            text(StatusCode::MISDIRECTED_REQUEST, what)
        }
    }
}

/// The space of automerge-repo clients, and of pages, whose path names none.
const DEFAULT_SPACE: &str = "default";

async fn root(
    State(http_state): State<Arc<HttpState>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response<Body> {
    open(&http_state, peer, DEFAULT_SPACE, request)
}

async fn space(
    State(http_state): State<Arc<HttpState>>,
    Extension(peer): Extension<Peer>,
    Path(space): Path<String>,
    request: Request,
) -> Response<Body> {
    open(&http_state, peer, &space, request)
}

/// Upgrades a request to a session, or answers it otherwise.
fn open(
    http_state: &Arc<HttpState>,
    peer: Peer,
    space: &str,
    mut request: Request,
) -> Response<Body> {
    let space = match space.parse::<SpaceName>() {
        Ok(space) => space,
        Err(error) => {
            http_state.sessions.metrics.request_refused("space");
            return text(StatusCode::NOT_FOUND, error.to_string());
        }
    };
    let (key, repo) = match upgrade::upgrade_request(request.method(), request.headers()) {
        UpgradeRequest::Native { key } => (key, false),
        UpgradeRequest::Repo { key } => (key, true),
        UpgradeRequest::Page => {
            if let Some(page) = assets::page(request.headers()) {
                return page;
            }
            let what = "This is a Landfall relay. Engines (landfall.v1) and automerge-repo clients \
                        connect to it by WebSocket; operators read /healthz, /readyz and /metrics.";
            return text(StatusCode::OK, what);
        }
        UpgradeRequest::OtherProtocol => {
            http_state.sessions.metrics.request_refused("protocol");
            let what = "a relay speaks the subprotocol landfall.v1, and automerge-repo's protocol, \
                        which has no subprotocol name";
            return text(StatusCode::NOT_IMPLEMENTED, what);
        }
        UpgradeRequest::Broken(what) => {
            http_state.sessions.metrics.request_refused("handshake");
            return text(StatusCode::BAD_REQUEST, what);
        }
    };
    let token = repo.then(|| token_of(&request)).flatten();
    if repo && token.is_none() && is_page_without_token(http_state, &request) {
        http_state.sessions.metrics.request_refused("token");
        return text(
            StatusCode::UNAUTHORIZED,
            "this relay authenticates its clients: a token is missing",
        );
    }
    let upgrade = hyper::upgrade::on(&mut request);
    let id = http_state.next_session();
    let native = Arc::clone(&http_state.sessions);
    let automerge_repo = Arc::clone(&http_state.automerge_repo);
    tokio::spawn(async move {
        match repo {
            true => {
                automerge_repo::run(automerge_repo, id, peer.address, space, token, upgrade).await
            }
            false => native::run(native, id, peer.address, upgrade).await,
        }
        // Releases the connection's place after the session has ended.
        drop(peer);
    });
    upgrade::accept(&key, (!repo).then_some(SUBPROTOCOL))
}

/// The token of an automerge-repo client: of the header `Authorization: Bearer`, or for clients that can set
/// no header, the parameter `token` of the URL.
fn token_of(request: &Request) -> Option<Token> {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = header.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
    });
    let token = bearer.or_else(|| {
        let query = request.uri().query()?.as_bytes();
        let mut pairs = url::form_urlencoded::parse(query);
        pairs.find(|(name, _)| name == "token").map(|(_, token)| token.into_owned())
    })?;
    let token = Some(token).filter(|token| token.len() <= shared::TOKEN_BYTES)?;
    Some(Token { token: token.into_bytes().into() })
}

/// Whether a browser's page, which survives an HTTP refusal, connects without a token where one is needed.
/// The published adapter for Node ends its process then: such clients are refused by the WebSocket.
fn is_page_without_token(http_state: &HttpState, request: &Request) -> bool {
    !http_state.sessions.identities.is_open() && request.headers().contains_key(header::ORIGIN)
}

async fn readyz(State(http_state): State<Arc<HttpState>>) -> Response<Body> {
    match http_state.health.not_ready(&http_state.sessions.store.condition()) {
        None => text(StatusCode::OK, "ready"),
        Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

async fn metrics(State(http_state): State<Arc<HttpState>>) -> Response<Body> {
    let (metrics, hub) = (&http_state.sessions.metrics, &http_state.sessions.hub);
    metrics.hub_queue.set(hub.queued() as i64);
    http_state.sessions.memory.show(metrics);
    metrics.upload_bytes.set(http_state.sessions.partial_uploads.bytes() as i64);
    let condition = http_state.sessions.store.condition();
    metrics.damaged_places.set(condition.damaged.len() as i64);
    metrics.ready.set(i64::from(http_state.health.not_ready(&condition).is_none()));
    // It calls the file system, which may block.
    let log_store = Arc::clone(&http_state.sessions.store);
    match tokio::task::spawn_blocking(move || log_store.gauges()).await {
        Ok(Ok(store)) => metrics.show_store(&store),
        Ok(Err(error)) => warn!(error = error.chain(), "cannot read the figures of the store"),
        // The panic hook has logged it.
        Err(_) => {}
    }
    let mut response = match metrics.text() {
        Ok(text) => Response::new(Body::from(text)),
        Err(error) => {
            error!(%error, "cannot encode the metrics");
            return text(StatusCode::INTERNAL_SERVER_ERROR, "cannot encode the metrics");
        }
    };
    let open = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let open = HeaderValue::from_static(open);
    response.headers_mut().insert(header::CONTENT_TYPE, open);
    response
}
