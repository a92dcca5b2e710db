//! Identification and rights of one session.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::Patience;
use landfall_protocol::access::{IdentifyError, Principal, Rights, Rule, Subject};
use landfall_protocol::digest::{Prefix, tombstone_id};
use landfall_protocol::frame::{
    DigestQuery, Ephemeral, Features, Fetch, Filter, Frame, Hello, Push, PushEntry, PushSnapshot,
    Subscribe, Token, VERSIONS, Want, encode, entry_kind, features,
};
use landfall_protocol::relay::{Session, SessionEffect};
use landfall_protocol::{
    Code, DocumentId, Moment, Offset, ReplicaId, Scope, SessionId, Upstream, limits,
};

use crate::scripted::space;

const READABLE: DocumentId = DocumentId::from_bytes([1; 16]);
const WRITABLE: DocumentId = DocumentId::from_bytes([2; 16]);
const HIDDEN: DocumentId = DocumentId::from_bytes([3; 16]);
const START: Moment = Moment(Duration::ZERO);

struct Client {
    session: Session,
    effects: Vec<SessionEffect>,
}

fn rule(document: Option<DocumentId>, rights: Rights) -> Rule {
    Rule { spaces: "team-*".parse().unwrap(), document, rights }
}

fn principal(name: &str, rules: Vec<Rule>) -> Arc<Principal> {
    let subject = Some(Subject::new(name));
    Arc::new(Principal { subject, groups: BTreeSet::new(), rules, expires_ms: None })
}

fn some_documents() -> Arc<Principal> {
    let rules = vec![rule(Some(READABLE), Rights::READ), rule(Some(WRITABLE), Rights::WRITE)];
    principal("alice", rules)
}

fn hello(token: &str) -> Frame {
    let replica = ReplicaId::from_bytes([9; 16]);
    let token = Some(token.as_bytes().to_vec().into());
    Frame::Hello(Hello { versions: VERSIONS.to_vec(), replica, token, agent: "client".into() })
}

impl Client {
    /// A client whose hello arrived and which is not yet identified.
    fn new() -> Self {
        let upstream = Upstream::from_bytes([1; 16]);
        let patience = Patience::default();
        let session = Session::new(SessionId(1), upstream, "relay".into(), patience, START);
        let mut client = Self { session, effects: Vec::new() };
        client.send(&hello("secret"));
        client
    }

    /// A client with a subscription 0 to a space.
    fn subscribed(principal: Arc<Principal>) -> Self {
        let mut client = Self::new();
        client.identified(Ok(principal), None);
        client.send(&Frame::Features(Features { bits: features::ALL }));
        client.subscribe(0, "team-a");
        client.session.handle_attached(0, None, Offset(0), Some(Offset(0)));
        client.take();
        client
    }

    fn identified(
        &mut self,
        principal: Result<Arc<Principal>, IdentifyError>,
        until: Option<Moment>,
    ) {
        self.session.handle_identified(principal, until);
        self.drain();
    }

    fn send(&mut self, frame: &Frame) {
        self.session.handle_message(START, &encode(frame));
        self.drain();
    }

    fn drain(&mut self) {
        self.effects.extend(std::iter::from_fn(|| self.session.poll_effect()));
    }

    fn take(&mut self) -> Vec<SessionEffect> {
        self.drain();
        std::mem::take(&mut self.effects)
    }

    fn subscribe(&mut self, subscription: u32, name: &str) {
        let filter = Filter::Everything;
        let (cursor, acknowledged) = (None, None);
        let space = space(name);
        let subscribe = Subscribe { subscription, space, filter, cursor, acknowledged };
        self.send(&Frame::Subscribe(subscribe));
    }

    /// The code with which the session ended.
    fn ended(&mut self) -> Option<Code> {
        self.take().into_iter().find_map(|effect| match effect {
            SessionEffect::Send(Frame::Error(error)) => Some(error.code),
            _ => None,
        })
    }
}

#[test]
fn a_hello_is_answered_only_after_the_client_is_identified() {
    let mut client = Client::new();
    let token = Token { token: b"secret".to_vec().into() };
    assert_eq!(client.take(), [SessionEffect::Identify { token: Some(token) }]);
    assert!(!client.session.wants_message(), "reading waits");
    assert!(client.session.identity().is_none());
    client.identified(Ok(some_documents()), None);
    let sent = client.take();
    assert!(matches!(sent[..], [_, SessionEffect::Send(Frame::Welcome(_))]), "{sent:?}");
    assert!(client.session.wants_message());
    assert_eq!(client.session.identity().unwrap().author(), b"alice");
}

#[test]
fn a_token_never_appears_in_debug_output() {
    let mut client = Client::new();
    let shown = format!("{:?} {:?} {:?}", client.take(), client.session, hello("secret"));
    assert!(!shown.contains("secret"), "{shown}");
    assert!(!shown.contains(&format!("{:?}", b"secret")), "{shown}");
}

#[test]
fn a_rejected_client_is_told_unauthorized_and_an_unverifiable_one_overloaded() {
    let rejected = IdentifyError::Rejected { what: "expired".into(), hint: "sign in".into() };
    let retry_after = Duration::from_secs(7);
    let unavailable = IdentifyError::Unavailable { what: "no keys".into(), retry_after };
    for (error, code) in [(rejected, Code::UNAUTHORIZED), (unavailable, Code::OVERLOADED)] {
        let mut client = Client::new();
        client.identified(Err(error), None);
        assert_eq!(client.ended(), Some(code));
        assert!(client.session.has_ended());
    }
}

#[test]
fn identification_ends_at_its_deadline_whatever_else_arrives() {
    let mut client = Client::new();
    let deadline = START.after(limits::IDENTIFY);
    assert_eq!(client.session.poll_timeout(), deadline);
    client.session.handle_sign_of_life(START.after(Duration::from_secs(4)));
    assert_eq!(client.session.poll_timeout(), deadline, "a sign of life extends nothing");
    client.session.handle_timeout(deadline);
    assert_eq!(client.ended(), Some(Code::OVERLOADED));
    client.identified(Ok(some_documents()), None);
    assert_eq!(client.take(), [], "an answer that comes too late");
}

#[test]
fn a_large_message_before_identification_ends_the_session() {
    let upstream = Upstream::from_bytes([1; 16]);
    let patience = Patience::default();
    let mut session = Session::new(SessionId(1), upstream, "relay".into(), patience, START);
    let mut message = encode(&hello("secret"));
    while message.len() <= limits::UNIDENTIFIED_MESSAGE_BYTES {
        message.extend(encode(&Frame::Features(Features { bits: 0 })));
    }
    session.handle_message(START, &message);
    assert!(session.has_ended());
}

#[test]
fn a_space_without_a_right_is_refused_without_the_store() {
    let mut client = Client::new();
    client.identified(Ok(some_documents()), None);
    client.take();
    client.subscribe(0, "other");
    let effects = client.take();
    let [SessionEffect::Send(Frame::Unsubscribed(ended))] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(ended.code, Code::FORBIDDEN);
    client.subscribe(1, "team-a");
    let effects = client.take();
    let [SessionEffect::Attach { view, scope, .. }] = &effects[..] else { panic!("{effects:?}") };
    assert!(view.contains(&READABLE) && view.contains(&WRITABLE) && !view.contains(&HIDDEN));
    assert_ne!(*scope, Scope::WHOLE_SPACE);
}

#[test]
fn queries_carry_the_view() {
    let mut client = Client::subscribed(some_documents());
    let wants = vec![Want { document: HIDDEN, have: vec![] }];
    client.send(&Frame::Fetch(Fetch { subscription: 0, wants }));
    let prefixes = vec![Prefix::ROOT];
    client.send(&Frame::Digest(DigestQuery { subscription: 0, prefixes }));
    let effects = client.take();
    let [SessionEffect::Fetch { view, .. }, SessionEffect::Digest { view: same, .. }] =
        &effects[..]
    else {
        panic!("{effects:?}");
    };
    assert!(!view.contains(&HIDDEN) && !view.is_unrestricted());
    assert_eq!(view, same);
}

/// The right is asked before anything else, and the answer is the same for every document.
#[test]
fn pushes_without_the_right_are_refused_alike() {
    let unknown = DocumentId::from_bytes([8; 16]);
    for document in [READABLE, HIDDEN, unknown] {
        let mut client = Client::subscribed(some_documents());
        let changes = vec![vec![0; 10].into()];
        client.send(&Frame::Push(Push { id: 1, subscription: 0, document, changes }));
        let entry = PushEntry {
            id: 2,
            subscription: 0,
            document,
            kind: entry_kind::CHANGE,
            flags: 0,
            entry: [0; 32],
            body: vec![].into(),
        };
        client.send(&Frame::PushEntry(entry));
        let (hash, total, heads) = ([0; 32], 10, vec![]);
        let upload = PushSnapshot { id: 3, subscription: 0, document, hash, total, heads };
        client.send(&Frame::PushSnapshot(upload));
        let effects = client.take();
        let refused: Vec<_> = effects
            .iter()
            .map(|effect| match effect {
                SessionEffect::Send(Frame::Nack(nack)) => (nack.id, nack.code, nack.what.as_str()),
                other => panic!("{other:?}"),
            })
            .collect();
        let what = refused[0].2;
        let expected = |id| (id, Code::FORBIDDEN, what);
        assert_eq!(refused, [expected(1), expected(2), expected(3)]);
    }
}

#[test]
fn a_deletion_needs_its_own_right() {
    for (rights, may_delete) in [(Rights::WRITE, false), (Rights::DELETE, true)] {
        let mut client = Client::subscribed(principal("bob", vec![rule(None, rights)]));
        let tombstone = PushEntry {
            id: 1,
            subscription: 0,
            document: READABLE,
            kind: entry_kind::TOMBSTONE,
            flags: 0,
            entry: tombstone_id(&READABLE),
            body: vec![].into(),
        };
        client.send(&Frame::PushEntry(tombstone));
        let effects = client.take();
        let passed = matches!(effects[..], [SessionEffect::PushEntry { .. }]);
        assert_eq!(passed, may_delete, "{effects:?}");
    }
}

#[test]
fn ephemeral_messages_need_write_to_send_and_read_to_receive() {
    let mut client = Client::subscribed(some_documents());
    let message = |document| Ephemeral {
        subscription: 0,
        document,
        sender: String::new(),
        session: "s".into(),
        count: 1,
        data: vec![1].into(),
    };
    for (document, sends, receives) in
        [(WRITABLE, true, true), (READABLE, false, true), (HIDDEN, false, false)]
    {
        client.send(&Frame::Ephemeral(message(document)));
        assert_eq!(!client.take().is_empty(), sends, "{document}");
        client.session.send_ephemeral(message(document));
        assert_eq!(!client.take().is_empty(), receives, "{document}");
    }
}

#[test]
fn a_token_is_renewed_within_the_session_for_the_same_subject_only() {
    let renewal = |text: &str| Frame::Token(Token { token: text.as_bytes().to_vec().into() });
    let expires = START.after(Duration::from_secs(10));
    let later = START.after(Duration::from_secs(20));
    let ready = || {
        let mut client = Client::new();
        client.identified(Ok(some_documents()), Some(expires));
        client.take();
        client.send(&renewal("second"));
        client
    };
    // The same rights: the session lives on.
    let mut client = ready();
    assert!(matches!(client.take()[..], [SessionEffect::Identify { .. }]));
    client.send(&renewal("third"));
    client.send(&renewal("fourth"));
    assert_eq!(client.take(), [], "one verification at a time");
    client.identified(Ok(some_documents()), Some(later));
    let fourth = Token { token: b"fourth".to_vec().into() };
    assert_eq!(client.take(), [SessionEffect::Identify { token: Some(fourth) }], "the latest");
    client.identified(Ok(some_documents()), Some(later));
    client.session.handle_timeout(expires);
    assert!(!client.session.has_ended());
    client.session.handle_timeout(later);
    assert_eq!(client.ended(), Some(Code::UNAUTHORIZED));
    // Another subject, other rights, a bad token.
    let other_rules = principal("alice", vec![rule(None, Rights::READ)]);
    let rejected = IdentifyError::Rejected { what: "bad".into(), hint: String::new() };
    for (answer, code) in [
        (Ok(principal("bob", some_documents().rules.clone())), Code::UNAUTHORIZED),
        (Ok(other_rules), Code::GOODBYE),
        (Err(rejected), Code::UNAUTHORIZED),
    ] {
        let mut client = ready();
        client.take();
        client.identified(answer, None);
        assert_eq!(client.ended(), Some(code));
    }
    // Keys that cannot be had end nothing: the token before it is valid.
    let mut client = ready();
    client.take();
    let what = String::from("no keys");
    let unavailable = IdentifyError::Unavailable { what, retry_after: Duration::from_secs(1) };
    client.identified(Err(unavailable), None);
    assert!(!client.session.has_ended());
    client.session.handle_timeout(expires);
    assert_eq!(client.ended(), Some(Code::UNAUTHORIZED));
}
