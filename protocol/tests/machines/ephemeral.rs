//! Ephemeral messages between one replica and one session.

use std::sync::Arc;

use landfall_protocol::Patience;
use landfall_protocol::access::{Principal, View};
use landfall_protocol::client::{Replica, ReplicaEffect, ResumePoint};
use landfall_protocol::frame::{
    Ephemeral, Features, Filter, Frame, Frames, Hello, Subscribe, encode, features,
};
use landfall_protocol::relay::{Session, SessionEffect};
use landfall_protocol::{DocumentId, Moment, Offset, ReplicaId, SessionId, SpaceName, Upstream};

const NOW: Moment = Moment(std::time::Duration::ZERO);
const INSIDE: DocumentId = DocumentId::from_bytes([1; 16]);
const OUTSIDE: DocumentId = DocumentId::from_bytes([2; 16]);

/// Both ends of one connection, with their outputs.
struct Pair {
    replica: Replica,
    session: Session,
    /// Features hidden from each end.
    hidden: u64,
    space: SpaceName,
    filter: Filter,
    heard: Vec<(SpaceName, DocumentId, String, String, u64, Vec<u8>)>,
    sends_ephemeral: Vec<Option<Filter>>,
    listens: Vec<View>,
    said: Vec<Ephemeral>,
    /// Messages that the relay sent.
    sent: Vec<u64>,
}

impl Pair {
    fn new(hidden: u64) -> Self {
        let replica = ReplicaId::from_bytes([0xa; 16]);
        let (upstream, space) = (Upstream::from_bytes([0xb; 16]), "notes".parse().unwrap());
        let patience = Patience::default();
        Self {
            replica: Replica::new(replica, "pair".into(), patience),
            session: Session::new(SessionId(1), upstream, "pair".into(), patience, NOW),
            hidden,
            space,
            filter: Filter::of_documents([INSIDE]),
            heard: Vec::new(),
            sends_ephemeral: Vec::new(),
            listens: Vec::new(),
            said: Vec::new(),
            sent: Vec::new(),
        }
    }

    fn connected(hidden: u64) -> Self {
        let mut pair = Self::new(hidden);
        pair.replica.handle_space(pair.space.clone());
        pair.replica.handle_connected(NOW, None);
        pair.run();
        pair
    }

    /// The message without the hidden features.
    fn on_the_wire(&self, frame: Frame) -> Vec<u8> {
        encode(&match frame {
            Frame::Features(features) => {
                Frame::Features(Features { bits: features.bits & !self.hidden })
            }
            other => other,
        })
    }

    /// Runs until both ends are quiet.
    fn run(&mut self) {
        loop {
            if let Some(effect) = self.replica.poll_effect() {
                self.perform_replica(effect);
            } else if let Some(effect) = self.session.poll_effect() {
                self.perform_session(effect);
            } else {
                return;
            }
        }
    }

    fn perform_replica(&mut self, effect: ReplicaEffect) {
        match effect {
            ReplicaEffect::Send(frame) => {
                let message = self.on_the_wire(frame);
                self.session.handle_message(NOW, &message);
            }
            ReplicaEffect::LoadResume { space, .. } => {
                let point = ResumePoint { filter: self.filter.clone(), ..ResumePoint::default() };
                self.replica.handle_resume(&space, point);
            }
            ReplicaEffect::SendsEphemeral { filter, .. } => self.sends_ephemeral.push(filter),
            ReplicaEffect::Ephemeral { space, document, sender, session, count, data } => {
                self.heard.push((space, document, sender, session, count, data));
            }
            ReplicaEffect::End(reason) => panic!("{reason}"),
            _ => {}
        }
    }

    fn perform_session(&mut self, effect: SessionEffect) {
        match effect {
            SessionEffect::Send(frame) => {
                if let Frame::Ephemeral(message) = &frame {
                    self.sent.push(message.count);
                }
                let message = self.on_the_wire(frame);
                self.replica.handle_message(NOW, &message);
            }
            SessionEffect::Attach { subscription, .. } => {
                self.session.handle_attached(subscription, None, Offset(0), Some(Offset(0)));
            }
            SessionEffect::Identify { .. } => {
                self.session.handle_identified(Ok(Arc::new(Principal::open())), None);
            }
            SessionEffect::Listen { view, .. } => self.listens.push(view),
            SessionEffect::Ephemeral { space, message } => {
                assert_eq!(space, self.space);
                self.said.push(message);
            }
            SessionEffect::End(code) => panic!("{code}"),
            _ => {}
        }
    }

    fn broadcast(&mut self, document: DocumentId, count: u64) -> bool {
        let space = self.space.clone();
        let data = vec![count as u8];
        let sent = self.replica.handle_broadcast(&space, document, "s".into(), count, data);
        self.run();
        sent
    }
}

/// A message to subscription 0, that of a pair's space.
fn message(document: DocumentId, count: u64) -> Ephemeral {
    let (sender, session, data) = ("bob".to_owned(), "b1".to_owned(), vec![9].into());
    Ephemeral { subscription: 0, document, sender, session, count, data }
}

/// A session listens once its subscription is accepted, not before. A peer that supports only
/// repair requests listens too, and receives no ephemeral messages.
#[test]
fn a_resend_capable_session_listens_once_it_is_subscribed() {
    let (upstream, id) = (Upstream::from_bytes([0xb; 16]), SessionId(1));
    let mut session = Session::new(id, upstream, "pair".into(), Patience::default(), NOW);
    let hello = Frame::Hello(Hello {
        versions: vec![1],
        token: None,
        replica: ReplicaId::from_bytes([0xa; 16]),
        agent: "pair".into(),
    });
    let subscribe = Frame::Subscribe(Subscribe {
        subscription: 0,
        space: "notes".parse().unwrap(),
        filter: Filter::of_documents([INSIDE]),
        cursor: None,
        acknowledged: None,
    });
    let bits = features::ALL & !features::EPHEMERAL;
    session.handle_message(NOW, &encode(&hello));
    session.handle_identified(Ok(Arc::new(Principal::open())), None);
    for frame in [Frame::Features(Features { bits }), subscribe] {
        session.handle_message(NOW, &encode(&frame));
    }
    let mut effects = Vec::new();
    let is_listen = |effect: &SessionEffect| matches!(effect, SessionEffect::Listen { .. });
    effects.extend(std::iter::from_fn(|| session.poll_effect()));
    assert!(effects.iter().any(|effect| matches!(effect, SessionEffect::Attach { .. })));
    assert!(!effects.iter().any(is_listen), "before it is answered");
    session.handle_attached(0, None, Offset(0), Some(Offset(0)));
    session.send_ephemeral(message(INSIDE, 1));
    let effects: Vec<_> = std::iter::from_fn(|| session.poll_effect()).collect();
    assert!(matches!(effects[0], SessionEffect::Send(Frame::Subscribed(_))));
    assert!(is_listen(&effects[1]));
    assert_eq!(effects.len(), 2, "no ephemeral message is sent");
}

#[test]
fn an_ephemeral_message_carries_its_replicas_own_name() {
    let mut pair = Pair::connected(0);
    assert_eq!(pair.listens, [View::unrestricted(&pair.filter)]);
    assert_eq!(pair.sends_ephemeral, [Some(pair.filter.clone())]);
    assert!(pair.broadcast(INSIDE, 1));
    assert!(!pair.broadcast(OUTSIDE, 2));
    // Hand-made: one with a false sender, and one outside the filter.
    let claimed = Ephemeral { sender: "bob".into(), ..message(INSIDE, 3) };
    let session = &mut pair.session;
    session.handle_message(NOW, &encode(&Frame::Ephemeral(claimed)));
    session.handle_message(NOW, &encode(&Frame::Ephemeral(message(OUTSIDE, 4))));
    let nowhere = Ephemeral { subscription: 7, ..message(INSIDE, 5) };
    session.handle_message(NOW, &encode(&Frame::Ephemeral(nowhere)));
    pair.run();
    let name = format!("landfall-{}", "0a".repeat(16));
    let received: Vec<_> = pair.said.iter().map(|one| (one.count, one.sender.as_str())).collect();
    assert_eq!(received, [(1, name.as_str()), (3, name.as_str())]);
    assert!(!pair.session.has_ended());
}

#[test]
fn ephemeral_messages_arrive_once_and_only_inside_the_filter() {
    let mut pair = Pair::connected(0);
    for (document, count) in [(INSIDE, 1), (INSIDE, 1), (OUTSIDE, 2), (INSIDE, 3)] {
        pair.session.send_ephemeral(message(document, count));
    }
    pair.session.send_ephemeral(Ephemeral { subscription: 7, ..message(INSIDE, 4) });
    pair.run();
    let of = |count| {
        let (sender, session) = ("bob".to_owned(), "b1".to_owned());
        (pair.space.clone(), INSIDE, sender, session, count, vec![9])
    };
    assert_eq!(pair.heard, [of(1), of(3)]);
    assert_eq!(pair.sent, [1, 1, 3]);
    // The replica filters received messages itself.
    pair.replica.handle_message(NOW, &encode(&Frame::Ephemeral(message(OUTSIDE, 9))));
    pair.run();
    assert_eq!(pair.heard.len(), 2);
    // A new connection keeps the known counts.
    pair.heard.clear();
    pair.session = Pair::new(0).session;
    pair.replica.handle_connected(NOW, None);
    pair.run();
    pair.session.send_ephemeral(message(INSIDE, 3));
    pair.session.send_ephemeral(message(INSIDE, 4));
    pair.run();
    assert_eq!(pair.heard.iter().map(|heard| heard.4).collect::<Vec<_>>(), [4]);
}

#[test]
fn a_new_filter_applies_at_once_on_both_ends() {
    let mut pair = Pair::connected(0);
    let (space, filter) = (pair.space.clone(), Filter::of_documents([OUTSIDE]));
    pair.replica.handle_filter(&space, filter.clone());
    assert!(pair.broadcast(OUTSIDE, 1));
    assert!(!pair.broadcast(INSIDE, 2));
    assert_eq!(pair.said.iter().map(|said| said.document).collect::<Vec<_>>(), [OUTSIDE]);
    assert_eq!(pair.listens.last(), Some(&View::unrestricted(&filter)));
    assert_eq!(pair.sends_ephemeral.last(), Some(&Some(filter)));
}

#[test]
fn no_ephemeral_message_is_sent_without_a_subscription() {
    let mut pair = Pair::new(0);
    pair.replica.handle_space(pair.space.clone());
    assert!(!pair.broadcast(INSIDE, 1));
    pair.replica.handle_connected(NOW, None);
    // Not before the relay has answered.
    assert!(!pair.broadcast(INSIDE, 2));
    pair.run();
    assert!(pair.broadcast(INSIDE, 3));
    pair.replica.handle_disconnected();
    assert!(!pair.broadcast(INSIDE, 4));
    assert_eq!(pair.sends_ephemeral.last(), Some(&None));
    assert_eq!(pair.said.len(), 1);
}

#[test]
fn an_older_peer_is_sent_no_ephemeral_message() {
    let mut pair = Pair::connected(features::EPHEMERAL | features::RESEND);
    assert!(!pair.broadcast(INSIDE, 1));
    assert!(pair.listens.is_empty() && pair.sends_ephemeral.is_empty());
    // A peer that does not know the frame skips it.
    let optional = encode(&Frame::Ephemeral(message(INSIDE, 1)));
    assert_eq!(optional[2] & 1, 1);
    assert_eq!(Frames::new(&optional).unwrap().count(), 1);
}
