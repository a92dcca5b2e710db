//! A client's token: sent at the hello, refused, renewed within a session.

use landfall_protocol::admission::Roots;
use landfall_protocol::client::{EndReason, OutboxChange, OutboxKind, Replica, ReplicaEffect};
use landfall_protocol::frame::{
    Close, ErrorFrame, Features, Frame, VERSIONS, Welcome, encode, features,
};
use landfall_protocol::{
    Code, DocumentId, Local, Moment, Patience, ReplicaId, SessionId, Upstream, limits,
};

use crate::scripted::{Scripted, space};

const NOW: Moment = Moment(std::time::Duration::ZERO);

fn connected(token: Option<&[u8]>) -> Replica {
    let id = ReplicaId::from_bytes([1; 16]);
    let mut replica = Replica::new(id, "a test".into(), Patience::default());
    replica.handle_space(space("notes"));
    replica.handle_connected(NOW, token.map(<[u8]>::to_vec));
    replica
}

fn welcome(replica: &mut Replica, bits: u64) {
    say(replica, &Frame::Features(Features { bits }));
    let welcome = Welcome {
        version: VERSIONS[0],
        upstream: Upstream::from_bytes([9; 16]),
        session: SessionId(1),
        message_bytes: limits::MESSAGE_BYTES as u32,
        push_changes: 64,
        pushes_in_flight: 64,
        agent: "a test".to_owned(),
    };
    say(replica, &Frame::Welcome(welcome));
}

fn say(replica: &mut Replica, frame: &Frame) {
    replica.handle_message(NOW, &encode(frame));
}

fn error(code: Code) -> Frame {
    Frame::Error(ErrorFrame { code, what: "the token expired".into(), hint: "sign in".into() })
}

fn effects(replica: &mut Replica) -> Vec<ReplicaEffect> {
    std::iter::from_fn(|| replica.poll_effect()).collect()
}

fn ended(replica: &mut Replica) -> Option<EndReason> {
    effects(replica).into_iter().find_map(|effect| match effect {
        ReplicaEffect::End(reason) => Some(reason),
        _ => None,
    })
}

fn tokens(effects: &[ReplicaEffect]) -> Vec<&[u8]> {
    let mut tokens: Vec<&[u8]> = Vec::new();
    for effect in effects {
        match effect {
            ReplicaEffect::Send(Frame::Hello(hello)) => {
                tokens.extend(hello.token.iter().map(|token| token.as_slice()));
            }
            ReplicaEffect::Send(Frame::Token(renewed)) => tokens.push(renewed.token.as_slice()),
            _ => {}
        }
    }
    tokens
}

#[test]
fn the_token_is_in_the_hello_and_in_no_debug_output() {
    let mut replica = connected(Some(b"secret-token"));
    let shown = format!("{replica:?}");
    let effects = effects(&mut replica);
    assert_eq!(tokens(&effects), [b"secret-token"]);
    for shown in [shown, format!("{effects:?}")] {
        let bytes = format!("{:?}", b"secret-token");
        assert!(!shown.contains("secret") && !shown.contains(&bytes), "{shown}");
    }
}

#[test]
fn a_refused_token_differs_from_an_expired_one_and_from_other_ends() {
    for (is_welcomed, frame) in [
        (false, error(Code::UNAUTHORIZED)),
        (true, error(Code::UNAUTHORIZED)),
        (true, Frame::Close(Close { code: Code::UNAUTHORIZED, reason: "expired".into() })),
    ] {
        let mut replica = connected(Some(b"t"));
        if is_welcomed {
            welcome(&mut replica, features::ALL);
        }
        say(&mut replica, &frame);
        match ended(&mut replica) {
            Some(EndReason::Unauthorized { welcomed, .. }) => assert_eq!(welcomed, is_welcomed),
            other => panic!("{other:?}"),
        }
    }
    for code in [Code::OVERLOADED, Code::GOODBYE] {
        let mut replica = connected(None);
        say(&mut replica, &error(code));
        let ended = ended(&mut replica);
        assert!(matches!(ended, Some(EndReason::Ended { code: c, .. }) if c == code), "{ended:?}");
    }
}

/// Its texts reach the status and the log.
#[test]
fn a_relay_that_quotes_a_token_cannot_show_it() {
    let mut replica = connected(Some(b"secret-token"));
    welcome(&mut replica, features::ALL);
    assert!(replica.handle_token(b"second-secret".to_vec()));
    let what = "secret-token and second-secret are wrong".to_owned();
    let hint = "not secret-token".to_owned();
    say(&mut replica, &Frame::Error(ErrorFrame { code: Code::UNAUTHORIZED, what, hint }));
    let reason = ended(&mut replica).expect("the end").to_string();
    assert!(!reason.contains("secret") && reason.contains("[token]"), "{reason}");
}

#[test]
fn a_token_is_renewed_only_in_a_session_with_a_relay_that_accepts_it() {
    let mut replica = connected(Some(b"first"));
    effects(&mut replica);
    assert!(!replica.handle_token(b"early".to_vec()), "before the welcome");
    assert!(tokens(&effects(&mut replica)).is_empty());
    welcome(&mut replica, features::ALL & !features::TOKEN);
    assert!(!replica.handle_token(b"unknown".to_vec()), "the relay does not know the frame");
    assert!(tokens(&effects(&mut replica)).is_empty());
    replica.handle_connected(NOW, Some(b"first".to_vec()));
    welcome(&mut replica, features::ALL);
    effects(&mut replica);
    assert!(replica.renews_tokens() && replica.handle_token(b"second".to_vec()));
    assert_eq!(tokens(&effects(&mut replica)), [b"second"]);
    replica.handle_disconnected();
    assert!(!replica.renews_tokens(), "the next relay may be another one");
}

/// Whatever was pushed and not acknowledged is pushed again: `unauthorized` is no answer to it.
#[test]
fn unauthorized_rejects_no_change() {
    let name = space("notes");
    let mut link = Scripted::new(std::slice::from_ref(&name));
    let (document, bytes) = (DocumentId::from_bytes([3; 16]), vec![0; 100]);
    let what = OutboxKind::Change(bytes, Roots::One);
    link.outbox.insert(name, vec![OutboxChange { local: Local(1), document, what }]);
    let mut pushes = Vec::new();
    for _ in 0..2 {
        link.connect();
        let Some(Frame::Push(push)) = link.next_sent() else { panic!("no push") };
        pushes.push((push.document, push.changes));
        link.say(&error(Code::UNAUTHORIZED));
        assert!(link.effects.is_empty(), "{:?}", link.effects);
        link.disconnect();
    }
    assert_eq!(pushes[0], pushes[1]);
}
