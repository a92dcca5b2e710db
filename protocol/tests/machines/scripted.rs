//! A replica's machine and a relay scripted by the test.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use landfall_protocol::Patience;
use landfall_protocol::client::{
    OutboxChange, Replica, ReplicaEffect, ResumePoint, SpacePhase, Unchecked,
};
use landfall_protocol::frame::{
    Features, Frame, Frames, Subscribed, SubscriptionId, Unsubscribed, VERSIONS, Welcome, encode,
    features,
};
use landfall_protocol::{
    Code, Local, Moment, Offset, ReplicaId, Scope, SessionId, SpaceName, Upstream,
};

pub struct Scripted {
    pub replica: Replica,
    pub now: Moment,
    /// Spaces that the relay rejects.
    pub refused: BTreeSet<SpaceName>,
    /// The items to push of each space.
    pub outbox: BTreeMap<SpaceName, Vec<OutboxChange>>,
    /// Frames that the machine sent, except those answered here.
    pub sent: VecDeque<Frame>,
    /// Effects that this file does not perform.
    pub effects: VecDeque<ReplicaEffect>,
    pub phases: BTreeMap<SpaceName, SpacePhase>,
    pub checked: Vec<(SpaceName, u64, usize)>,
    pub unchecked: Vec<(SpaceName, u64, Unchecked)>,
    pub ended: Option<String>,
}

pub fn space(name: &str) -> SpaceName {
    name.parse().unwrap()
}

impl Scripted {
    pub fn new(spaces: &[SpaceName]) -> Self {
        let id = ReplicaId::from_bytes([1; 16]);
        let mut replica = Replica::new(id, "scripted".into(), Patience::default());
        spaces.iter().for_each(|space| replica.handle_space(space.clone()));
        Self {
            replica,
            now: Moment::default(),
            refused: BTreeSet::new(),
            outbox: BTreeMap::new(),
            sent: VecDeque::new(),
            effects: VecDeque::new(),
            phases: BTreeMap::new(),
            checked: Vec::new(),
            unchecked: Vec::new(),
            ended: None,
        }
    }

    /// Connects to a relay with all features; the spaces settle.
    pub fn connect(&mut self) {
        self.replica.handle_connected(self.now, None);
        self.say(&Frame::Features(Features { bits: features::ALL }));
        self.say(&Frame::Welcome(Welcome {
            version: VERSIONS[0],
            upstream: Upstream::from_bytes([9; 16]),
            session: SessionId(1),
            message_bytes: 4 << 20,
            push_changes: 1_024,
            pushes_in_flight: 64,
            agent: "scripted".into(),
        }));
    }

    pub fn disconnect(&mut self) {
        self.replica.handle_disconnected();
        self.drain();
        self.sent.clear();
        self.effects.clear();
    }

    /// The relay sends a frame, and the machine reacts to it.
    pub fn say(&mut self, frame: &Frame) {
        self.replica.handle_message(self.now, &encode(frame));
        self.drain();
    }

    pub fn check(&mut self, space: &SpaceName, ticket: u64) {
        self.replica.handle_check(self.now, space, ticket);
        self.drain();
    }

    /// The next frame that is not answered here.
    pub fn next_sent(&mut self) -> Option<Frame> {
        self.sent.pop_front()
    }

    pub fn drain(&mut self) {
        while let Some(effect) = self.replica.poll_effect() {
            match effect {
                ReplicaEffect::Send(frame) => self.sent(frame),
                ReplicaEffect::LoadResume { space, .. } => {
                    self.replica.handle_resume(&space, ResumePoint::default());
                }
                ReplicaEffect::LoadOutbox { space, after, changes, .. } => {
                    let rest = self.outbox.get(&space).into_iter().flatten();
                    let mut page: Vec<_> =
                        rest.filter(|change| change.local > after).cloned().collect();
                    let more = page.len() > changes;
                    page.truncate(changes);
                    self.replica.handle_outbox(self.now, &space, page, more);
                }
                ReplicaEffect::Acknowledged { space, locals, .. } => self.held(&space, &locals),
                ReplicaEffect::Phase { space, phase } => drop(self.phases.insert(space, phase)),
                ReplicaEffect::Checked { space, ticket, drifted, more } => {
                    self.checked.push((space, ticket, drifted.len() + more as usize));
                }
                ReplicaEffect::NotChecked { space, ticket, why } => {
                    self.unchecked.push((space, ticket, why));
                }
                ReplicaEffect::End(reason) => self.ended = Some(reason.to_string()),
                ReplicaEffect::Welcomed(_) | ReplicaEffect::SendsEphemeral { .. } => {}
                other => self.effects.push_back(other),
            }
        }
    }

    fn held(&mut self, space: &SpaceName, locals: &[Local]) {
        if let Some(outbox) = self.outbox.get_mut(space) {
            outbox.retain(|change| !locals.contains(&change.local));
        }
    }

    /// As received over the wire.
    fn sent(&mut self, frame: Frame) {
        let bytes = encode(&frame);
        assert_eq!(Frames::new(&bytes).unwrap().count(), 1);
        match frame {
            Frame::SubscribeFrom(subscribe) => {
                let SubscriptionAnswer { subscription, refused } = SubscriptionAnswer {
                    subscription: subscribe.subscription,
                    refused: self.refused.contains(&subscribe.space),
                };
                let answer = match refused {
                    true => Frame::Unsubscribed(Unsubscribed {
                        subscription,
                        code: Code::FORBIDDEN,
                        what: "no".into(),
                        hint: "ask for the right".into(),
                    }),
                    false => Frame::Subscribed(Subscribed {
                        subscription,
                        epoch: None,
                        head: Offset(0),
                        scope: Scope::WHOLE_SPACE,
                        resumed: true,
                    }),
                };
                self.replica.handle_message(self.now, &encode(&answer));
            }
            Frame::Hello(_) | Frame::Features(_) => {}
            frame => self.sent.push_back(frame),
        }
    }
}

struct SubscriptionAnswer {
    subscription: SubscriptionId,
    refused: bool,
}
