//! Bounds on the state that the subscriptions of one session create at a relay.

use std::sync::Arc;

use landfall_protocol::Patience;
use landfall_protocol::access::Principal;
use landfall_protocol::frame::{Filter, Frame, Hello, Subscribe, SubscriptionId, VERSIONS, encode};
use landfall_protocol::relay::{Session, SessionEffect};
use landfall_protocol::{Code, DocumentId, Moment, ReplicaId, SessionId, Upstream, limits};

use crate::scripted::space;

struct Peer {
    session: Session,
    /// The number of subscriptions that were attached and not detached.
    attached: usize,
}

impl Peer {
    fn new() -> Self {
        let upstream = Upstream::from_bytes([1; 16]);
        let (patience, now) = (Patience::default(), Moment::default());
        let session = Session::new(SessionId(1), upstream, "relay".into(), patience, now);
        let mut peer = Self { session, attached: 0 };
        let replica = ReplicaId::from_bytes([2; 16]);
        let (versions, token, agent) = (VERSIONS.to_vec(), None, "peer".into());
        peer.say(&Frame::Hello(Hello { versions, replica, token, agent }));
        peer
    }

    /// Sends a frame; returns the code if a subscription is rejected.
    fn say(&mut self, frame: &Frame) -> Option<Code> {
        self.session.handle_message(Moment::default(), &encode(frame));
        let mut refused = None;
        while let Some(effect) = self.session.poll_effect() {
            match effect {
                SessionEffect::Identify { .. } => {
                    self.session.handle_identified(Ok(Arc::new(Principal::open())), None);
                }
                SessionEffect::Attach { .. } => self.attached += 1,
                SessionEffect::Detach(_) => self.attached -= 1,
                SessionEffect::Send(Frame::Unsubscribed(ended)) => refused = Some(ended.code),
                _ => {}
            }
        }
        assert!(!self.session.has_ended());
        refused
    }

    fn subscribe(&mut self, subscription: SubscriptionId, filter: Filter) -> Option<Code> {
        let space = space(&format!("s{subscription}"));
        let (cursor, acknowledged) = (None, None);
        self.say(&Frame::Subscribe(Subscribe { subscription, space, filter, cursor, acknowledged }))
    }
}

#[test]
fn the_subscriptions_of_a_session_are_bounded() {
    let mut peer = Peer::new();
    let most = limits::SUBSCRIPTIONS as u32;
    for subscription in 0..most {
        assert_eq!(peer.subscribe(subscription, Filter::Everything), None);
    }
    let refused = Some(Code::TOO_MANY_SUBSCRIPTIONS);
    assert_eq!(peer.subscribe(most, Filter::Everything), refused);
    peer.say(&Frame::Unsubscribe(7));
    assert_eq!(peer.subscribe(most + 1, Filter::Everything), None);
    assert_eq!(peer.attached, limits::SUBSCRIPTIONS);
}

#[test]
fn documents_in_filters_are_bounded_per_session() {
    let mut peer = Peer::new();
    let filter = |first: u32| {
        let id = |n: u32| {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&n.to_be_bytes());
            DocumentId::from_bytes(id)
        };
        Filter::of_documents((first..first + limits::FILTER_DOCUMENTS as u32).map(id))
    };
    let fit = (limits::SESSION_FILTER_DOCUMENTS / limits::FILTER_DOCUMENTS) as u32;
    for subscription in 0..fit {
        assert_eq!(peer.subscribe(subscription, filter(subscription)), None);
    }
    assert_eq!(peer.subscribe(fit, filter(0)), Some(Code::TOO_MANY_SUBSCRIPTIONS));
    assert_eq!(peer.subscribe(fit + 1, Filter::Everything), None, "it names no document");
    peer.say(&Frame::Unsubscribe(0));
    assert_eq!(peer.subscribe(fit + 2, filter(0)), None);
}

#[test]
fn a_relay_without_room_refuses_a_subscription_and_drops_it() {
    let mut peer = Peer::new();
    assert_eq!(peer.subscribe(1, Filter::Everything), None);
    peer.session.handle_subscription_refused(1, 1);
    let effects: Vec<SessionEffect> = std::iter::from_fn(|| peer.session.poll_effect()).collect();
    let [SessionEffect::Send(Frame::Unsubscribed(ended)), SessionEffect::Detach(1)] = &effects[..]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(ended.code, Code::TOO_MANY_SUBSCRIPTIONS);
}
