//! A stream of server-sent events that notifies of a space's growth. It sends the log's head only; the client
//! requests the new entries. So a stream holds no queue.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::header::{self, HeaderValue};
use axum::http::{Response, StatusCode, Uri};
use futures_util::Stream;
use landfall_protocol::frame::SubscriptionId;
use landfall_protocol::{Offset, Scope, SessionId, SpaceName};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::query::space_query;
use super::{HttpState, Peer, describe, text};
use crate::hub::{Attach, Event, Feed, Grown, Hub, HubChannel};
use crate::limits;
use crate::memory::Grant;
use crate::quota::One;

/// The one subscription of such a stream.
const SUBSCRIPTION: SubscriptionId = SubscriptionId::MIN;

/// A session's registration in the hub, removed when it is dropped.
pub(super) struct HubRegistration {
    pub(super) hub: Hub,
    pub(super) session: SessionId,
}

impl Drop for HubRegistration {
    fn drop(&mut self) {
        self.hub.leave(self.session);
    }
}

/// The state of a stream.
struct Listener {
    feed: Arc<Feed>,
    grown: Arc<Grown>,
    /// The last offset sent.
    sent: Option<Offset>,
    until: Instant,
    stopping: watch::Receiver<bool>,
    _registration: HubRegistration,
    _events: mpsc::Receiver<Event>,
    _quota: One,
    _grant: Grant,
}

/// Sends `data: OFFSET` at the start and whenever the log has grown. The stream ends after a while; the
/// client requests it again.
pub(super) async fn live(
    State(http_state): State<Arc<HttpState>>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
) -> Response<Body> {
    let space = match space_query(uri.query()) {
        Ok(space) => space,
        Err(what) => return text(StatusCode::BAD_REQUEST, what),
    };
    match listen(&http_state, &peer, space).await {
        Ok(listener) => {
            let mut response = Response::new(Body::from_stream(stream(listener)));
            let headers = response.headers_mut();
            describe(headers, "text/event-stream", "no-store");
            // The client's next request uses a new connection; this one lives as long as the stream.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            // nginx, and proxies modelled on it, would buffer the events.
            headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
            response
        }
        Err((status, what)) => text(status, what),
    }
}

async fn listen(
    http_state: &HttpState,
    peer: &Peer,
    space: SpaceName,
) -> Result<Listener, (StatusCode, String)> {
    let full = || {
        let what = "the maximum number of live listeners is open".to_owned();
        (StatusCode::SERVICE_UNAVAILABLE, what)
    };
    let (session, shared) = (http_state.next_session(), &http_state.sessions);
    let account = shared.account(session, peer.address);
    let quota = shared.subscriptions.take(account.share()).map_err(|_| full())?;
    let grant = account.reserve_state(limits::SUBSCRIPTION_BYTES).ok_or_else(full)?;
    let (events_in, mut events) = mpsc::channel(1);
    let grown = Arc::<Grown>::default();
    let channel = HubChannel { events: events_in, overflow: Arc::default(), grown: grown.clone() };
    let registration = HubRegistration { hub: shared.hub.clone(), session };
    let attach = Attach {
        session,
        subscription: SUBSCRIPTION,
        ticket: 0,
        space,
        cursor: None,
        acknowledged: None,
        scope: Scope::WHOLE_SPACE,
        holds: false,
        channel,
    };
    shared.hub.attach(account.key(), attach).await;
    let feed = match events.recv().await {
        Some(Event::Attached { feed, .. }) => feed,
        Some(Event::AttachFailed { what, .. }) => {
            return Err((StatusCode::INTERNAL_SERVER_ERROR, what));
        }
        _ => return Err(full()),
    };
    Ok(Listener {
        feed,
        grown,
        sent: None,
        until: peer.until.checked_sub(limits::LIVE_MARGIN).unwrap_or(peer.until),
        stopping: shared.stopping.clone(),
        _registration: registration,
        _events: events,
        _quota: quota,
        _grant: grant,
    })
}

fn stream(listener: Listener) -> impl Stream<Item = Result<Bytes, Infallible>> {
    futures_util::stream::unfold(listener, |mut listener| async {
        let line = listener.next().await?;
        Some((Ok(Bytes::from(line)), listener))
    })
}

impl Listener {
    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        let head = self.feed.head();
        if self.sent.is_none() {
            self.sent = Some(head);
            return Some(format!("data: {head}\n\n"));
        }
        let mut stopping = self.stopping.clone();
        let ended = async {
            tokio::select! {
                () = sleep_until(self.until) => {}
                // An error means that the server is gone, which is a stop as well.
                _ = stopping.wait_for(|stop| *stop) => {}
            }
        };
        let growth = timeout(limits::LIVE_SILENCE, self.growth());
        tokio::select! {
            () = ended => None,
            head = growth => Some(match head {
                Ok(head) => {
                    self.sent = Some(head);
                    format!("data: {head}\n\n")
                }
                // A keep-alive: detects a dead peer, and keeps proxies from closing the connection.
                Err(_) => ":\n\n".to_owned(),
            }),
        }
    }

    /// The log's head, once it differs from the last one sent.
    async fn growth(&self) -> Offset {
        loop {
            self.grown.notified().await;
            self.grown.take();
            // A typing user pushes a change for each letter, so bound the rate.
            sleep(limits::LIVE_PACE).await;
            let head = self.feed.head();
            if self.sent != Some(head) {
                return head;
            }
        }
    }
}
