//! A stream of server-sent events that says that a space's log has grown. It says how far, and not what
//! is new: that is asked for. So it needs no memory but its place.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Extension, State};
use axum::http::header::{self, HeaderValue};
use axum::http::{Response, StatusCode, Uri};
use futures_util::Stream;
use landfall_protocol::frame::{Filter, SubscriptionId};
use landfall_protocol::{Offset, SessionId, SpaceName};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::playground::asked_space;
use super::{Door, Peer, describe, text};
use crate::hub::{Attach, Event, Feed, Grown, Hub, Mailbox};
use crate::limits;
use crate::memory::Grant;
use crate::quota::One;

/// The one subscription of such a stream.
const SUBSCRIPTION: SubscriptionId = SubscriptionId::MIN;

/// A session's place in the hub, given back when it is dropped.
pub(super) struct Seat {
    pub(super) hub: Hub,
    pub(super) session: SessionId,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.leave(self.session);
    }
}

/// What a stream listens to, and what it takes up meanwhile.
struct Listener {
    feed: Arc<Feed>,
    grown: Arc<Grown>,
    /// What was told last.
    told: Option<Offset>,
    until: Instant,
    stopping: watch::Receiver<bool>,
    _seat: Seat,
    _events: mpsc::Receiver<Event>,
    _place: One,
    _room: Grant,
}

/// `data: OFFSET` at the beginning and whenever the log has grown. It ends now and then, and is to be
/// asked for again.
pub(super) async fn live(
    State(door): State<Arc<Door>>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
) -> Response<Body> {
    let space = match asked_space(uri.query()) {
        Ok(space) => space,
        Err(what) => return text(StatusCode::BAD_REQUEST, what),
    };
    match listen(&door, &peer, space).await {
        Ok(listener) => {
            let mut response = Response::new(Body::from_stream(stream(listener)));
            let headers = response.headers_mut();
            describe(headers, "text/event-stream", "no-store");
            // The next one gets a connection of its own, which lives as long as this one.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            // nginx, and others by its example, would gather the words before they pass them on.
            headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
            response
        }
        Err((status, what)) => text(status, what),
    }
}

async fn listen(
    door: &Door,
    peer: &Peer,
    space: SpaceName,
) -> Result<Listener, (StatusCode, String)> {
    let full = || {
        let what = "there is no place for another listener".to_owned();
        (StatusCode::SERVICE_UNAVAILABLE, what)
    };
    let (session, shared) = (door.next_session(), &door.sessions);
    let account = shared.account(session, peer.address);
    let place = shared.subscriptions.take(account.share()).map_err(|_| full())?;
    let room = account.remember(limits::SUBSCRIPTION_BYTES).ok_or_else(full)?;
    let (events_in, mut events) = mpsc::channel(1);
    let grown = Arc::<Grown>::default();
    let mailbox = Mailbox { events: events_in, overflow: Arc::default(), grown: grown.clone() };
    let seat = Seat { hub: shared.hub.clone(), session };
    let attach = Attach {
        session,
        subscription: SUBSCRIPTION,
        ticket: 0,
        space,
        cursor: None,
        acknowledged: None,
        filter: Filter::Everything,
        holds: false,
        mailbox,
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
        told: None,
        until: peer.until.checked_sub(limits::LIVE_MARGIN).unwrap_or(peer.until),
        stopping: shared.stopping.clone(),
        _seat: seat,
        _events: events,
        _place: place,
        _room: room,
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
        if self.told.is_none() {
            self.told = Some(head);
            return Some(format!("data: {head}\n\n"));
        }
        let mut stopping = self.stopping.clone();
        let ended = async {
            tokio::select! {
                () = sleep_until(self.until) => {}
                // An error says that the server is gone, which is a stop as well.
                _ = stopping.wait_for(|stop| *stop) => {}
            }
        };
        let news = timeout(limits::LIVE_SILENCE, self.news());
        tokio::select! {
            () = ended => None,
            head = news => Some(match head {
                Ok(head) => {
                    self.told = Some(head);
                    format!("data: {head}\n\n")
                }
                // So that a peer that is gone is noticed, and nobody in between ends it.
                Err(_) => ":\n\n".to_owned(),
            }),
        }
    }

    /// Where the log ends, once that is behind what was told.
    async fn news(&self) -> Offset {
        loop {
            self.grown.notified().await;
            self.grown.take();
            // Who types sends a change for each letter.
            sleep(limits::LIVE_PACE).await;
            let head = self.feed.head();
            if self.told != Some(head) {
                return head;
            }
        }
    }
}
