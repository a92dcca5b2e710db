//! A relay requests changes that its store cannot read: a replica's answers, and their bounds.

use std::sync::Arc;
use std::time::Duration;

use landfall_protocol::Patience;
use landfall_protocol::access::Principal;
use landfall_protocol::client::{OutboxChange, OutboxKind, ReplicaEffect, Resendable};
use landfall_protocol::code::{Code, NackClass};
use landfall_protocol::frame::{
    Ack, Features, Filter, Frame, Mark, Nack, Repaired, Resend, Resent,
};
use landfall_protocol::frame::{Hello, Subscribe, Subscribed, UploadFrom, encode, features};
use landfall_protocol::relay::{Session, SessionEffect};
use landfall_protocol::weight::Weight;
use landfall_protocol::{
    ChangeHash, DocumentId, Epoch, Local, Moment, Offset, ReplicaId, SessionId, SpaceName,
    Upstream, limits,
};

use crate::scripted::{Scripted, space};

const DOCUMENT: DocumentId = DocumentId::from_bytes([1; 16]);
const OTHER: DocumentId = DocumentId::from_bytes([2; 16]);

fn connected() -> (Scripted, SpaceName) {
    let name = space("s");
    let mut link = Scripted::new(std::slice::from_ref(&name));
    link.connect();
    (link, name)
}

fn ask_over(link: &mut Scripted, subscription: u32, document: DocumentId) {
    link.say(&Frame::Resend(Resend { subscription, document, changes: vec![[1; 32]] }));
}

fn ask(link: &mut Scripted, document: DocumentId, changes: usize) {
    let changes = (0..changes).map(|number| [number as u8; 32]).collect();
    link.say(&Frame::Resend(Resend { subscription: 0, document, changes }));
}

/// The number of changes requested from the store, if it was asked.
fn loads(link: &mut Scripted) -> Option<usize> {
    match link.effects.pop_front() {
        Some(ReplicaEffect::LoadResend { document, changes, .. }) => {
            assert_eq!(document, DOCUMENT);
            Some(changes.len())
        }
        None => None,
        other => panic!("{other:?}"),
    }
}

fn give(link: &mut Scripted, name: &SpaceName, found: Resendable) {
    give_compacted(link, name, found, Weight::default());
}

fn give_compacted(link: &mut Scripted, name: &SpaceName, found: Resendable, compacted: Weight) {
    link.replica.handle_resendable(link.now, name, DOCUMENT, found, compacted);
    link.drain();
}

/// Advances time by as much as the machine waits for a budget.
fn wait(link: &mut Scripted) {
    let until = link.replica.poll_timeout();
    assert!(until > link.now, "it waits for nothing");
    link.now = until;
    link.replica.handle_timeout(link.now);
    link.drain();
}

/// The hash of a made snapshot that is no longer needed.
fn dropped(link: &mut Scripted) -> Option<[u8; 32]> {
    match link.effects.pop_front() {
        Some(ReplicaEffect::DropMade { hash }) => Some(hash),
        None => None,
        other => panic!("{other:?}"),
    }
}

/// The number and the changes of the sent push.
fn pushed(link: &mut Scripted) -> (u64, usize) {
    match link.next_sent() {
        Some(Frame::Push(push)) => {
            assert_eq!(push.document, DOCUMENT);
            (push.id, push.changes.len())
        }
        other => panic!("no push: {other:?}"),
    }
}

fn ack(link: &mut Scripted, id: u64, count: u32) {
    let through = Mark { epoch: Epoch::from_bytes([3; 16]), offset: Offset(9) };
    link.say(&Frame::Ack(Ack { id, count, through }));
}

fn resent(count: u32) -> Option<Frame> {
    Some(Frame::Resent(Resent { subscription: 0, document: DOCUMENT, count }))
}

#[test]
fn a_resend_is_pushed_and_reported_as_answered_after_its_acks() {
    let (mut link, name) = connected();
    ask(&mut link, DOCUMENT, 3);
    assert_eq!(loads(&mut link), Some(3));
    // Three changes that do not fit one push together.
    let large = vec![7; limits::PUSH_TARGET_BYTES - 10];
    give(&mut link, &name, Resendable::Changes(vec![large.clone(), large, vec![1]]));
    let ((first, one), (second, two)) = (pushed(&mut link), pushed(&mut link));
    assert_eq!((one, two, link.next_sent()), (1, 2, None));
    ack(&mut link, second, 2);
    assert_eq!(link.next_sent(), None, "one is not answered");
    ack(&mut link, first, 1);
    assert_eq!(link.next_sent(), resent(3));
    // The store receives no effect: these changes were acked before.
    assert!(link.effects.is_empty() && link.ended.is_none(), "{:?}", link.effects);
}

#[test]
fn an_empty_resend_is_answered_and_a_nack_rejects_nothing() {
    let (mut link, name) = connected();
    ask(&mut link, DOCUMENT, 1);
    assert_eq!(loads(&mut link), Some(1));
    give(&mut link, &name, Resendable::Changes(Vec::new()));
    assert_eq!(link.next_sent(), resent(0));
    for class in [NackClass::REFUSED, NackClass::REPUSH, NackClass::RETRY_AFTER] {
        ask(&mut link, DOCUMENT, 2);
        loads(&mut link).unwrap();
        give(&mut link, &name, Resendable::Changes(vec![vec![1], vec![2]]));
        let (id, _) = pushed(&mut link);
        ack(&mut link, id, 1);
        let (code, what, retry_after_ms) = (Code::DAMAGED, "no".to_owned(), 1);
        link.say(&Frame::Nack(Nack { id, code, class, retry_after_ms, what }));
        assert_eq!(link.next_sent(), resent(1));
        assert!(link.effects.is_empty(), "{:?}", link.effects);
    }
}

#[test]
fn a_resent_snapshot_is_pushed_in_parts() {
    let (mut link, name) = connected();
    ask(&mut link, DOCUMENT, 0);
    assert_eq!(loads(&mut link), Some(0));
    let (hash, heads) = ([4; 32], vec![ChangeHash([5; 32])]);
    give(&mut link, &name, Resendable::Snapshot { hash, total: 3, heads });
    let Some(Frame::PushSnapshot(upload)) = link.next_sent() else { panic!("no offer") };
    assert_eq!((upload.hash, upload.total), (hash, 3));
    link.say(&Frame::UploadFrom(UploadFrom { id: upload.id, from: 0, up_to: 3 }));
    let Some(ReplicaEffect::LoadSnapshotPart { from: 0, .. }) = link.effects.pop_front() else {
        panic!("no part is read")
    };
    link.replica.handle_snapshot_part(link.now, &name, DOCUMENT, 0, Some(vec![1, 2, 3]));
    link.drain();
    assert!(matches!(link.next_sent(), Some(Frame::Part(part)) if part.bytes.len() == 3));
    ack(&mut link, upload.id, 1);
    assert_eq!((link.next_sent(), dropped(&mut link)), (resent(1), Some(hash)));
    assert!(link.effects.is_empty(), "{:?}", link.effects);
    // A snapshot that is gone from memory ends the answer.
    ask(&mut link, DOCUMENT, 0);
    loads(&mut link).unwrap();
    give(&mut link, &name, Resendable::Snapshot { hash, total: 3, heads: Vec::new() });
    let Some(Frame::PushSnapshot(upload)) = link.next_sent() else { panic!("no offer") };
    link.say(&Frame::UploadFrom(UploadFrom { id: upload.id, from: 0, up_to: 3 }));
    link.effects.clear();
    link.replica.handle_snapshot_part(link.now, &name, DOCUMENT, 0, None);
    link.drain();
    assert_eq!(link.next_sent(), resent(0));
}

/// A push to a document cancels an earlier upload of its snapshot, so the answer waits for the
/// upload.
#[test]
fn a_resend_waits_for_a_running_upload_of_its_document() {
    let name = space("s");
    let mut link = Scripted::new(std::slice::from_ref(&name));
    let (hash, total, heads) = ([6; 32], 3, Vec::new());
    let what = OutboxKind::Snapshot { hash, total, heads };
    let unacked = OutboxChange { local: Local(1), document: DOCUMENT, what };
    link.outbox.insert(name.clone(), vec![unacked]);
    link.connect();
    let Some(Frame::PushSnapshot(upload)) = link.next_sent() else { panic!("no offer") };
    ask(&mut link, DOCUMENT, 1);
    assert_eq!(loads(&mut link), Some(1));
    give(&mut link, &name, Resendable::Changes(vec![vec![1]]));
    assert_eq!(link.next_sent(), None, "it would withdraw the upload");
    ack(&mut link, upload.id, 1);
    let (id, _) = pushed(&mut link);
    ack(&mut link, id, 1);
    assert_eq!(link.next_sent(), resent(1));
}

/// A relay rejects a snapshot, or has all of it without a part: the snapshot is dropped.
#[test]
fn a_snapshot_built_for_a_resend_is_dropped_after_it() {
    let (mut link, name) = connected();
    let (hash, total) = ([4; 32], 3);
    let made = || Resendable::Snapshot { hash, total, heads: Vec::new() };
    let upload = |link: &mut Scripted| {
        ask(link, DOCUMENT, 0);
        assert_eq!(loads(link), Some(0));
        give(link, &name, made());
        match link.next_sent() {
            Some(Frame::PushSnapshot(upload)) => upload.id,
            other => panic!("no snapshot upload: {other:?}"),
        }
    };
    let id = upload(&mut link);
    ack(&mut link, id, 1);
    assert_eq!((link.next_sent(), dropped(&mut link)), (resent(1), Some(hash)));
    let id = upload(&mut link);
    let (code, what, retry_after_ms) = (Code::DAMAGED, "no".to_owned(), 1);
    let class = NackClass::REFUSED;
    link.say(&Frame::Nack(Nack { id, code, class, retry_after_ms, what }));
    assert_eq!((link.next_sent(), dropped(&mut link)), (resent(0), Some(hash)));
    // One that no request waits for.
    give(&mut link, &name, made());
    assert_eq!((link.next_sent(), dropped(&mut link)), (None, Some(hash)));
    upload(&mut link);
    link.replica.handle_space_removed(link.now, &name);
    link.drain();
    assert_eq!(dropped(&mut link), Some(hash));
}

#[test]
fn resend_requests_are_rate_limited() {
    let (mut link, name) = connected();
    ask(&mut link, DOCUMENT, 1);
    assert_eq!(loads(&mut link), Some(1));
    // One at a time, and of each document the latest request.
    ask(&mut link, DOCUMENT, 3);
    ask(&mut link, DOCUMENT, 2);
    assert_eq!(loads(&mut link), None);
    give(&mut link, &name, Resendable::Changes(Vec::new()));
    assert_eq!((link.next_sent(), loads(&mut link)), (resent(0), Some(2)));
    give(&mut link, &name, Resendable::Changes(Vec::new()));
    assert_eq!((link.next_sent(), loads(&mut link)), (resent(0), None));
    // A rate limit covers all of them, across connections.
    let mut answered = 2;
    for _ in 0..10_000 {
        ask(&mut link, DOCUMENT, 1);
        if loads(&mut link).is_some() {
            give(&mut link, &name, Resendable::Changes(Vec::new()));
            answered += 1;
        }
    }
    let burst = limits::RESEND_BURST / limits::RESEND_LEAST_BYTES;
    assert_eq!(answered, burst);
    link.disconnect();
    link.connect();
    ask(&mut link, DOCUMENT, 1);
    assert_eq!(loads(&mut link), None);
    // The request is not repeated: it keeps its place.
    wait(&mut link);
    assert_eq!(loads(&mut link), Some(1));
}

/// Many changes or operations in few bytes take long to compact.
#[test]
fn a_compaction_counts_with_the_weight_of_its_input() {
    let many = 1 << 20;
    let of_changes = Weight { changes: many, ..Weight::default() };
    let of_operations = Weight { operations: many, ..Weight::default() };
    let of_bytes = Weight { bytes: limits::RESEND_BURST, ..Weight::default() };
    let made = Resendable::Snapshot { hash: [4; 32], total: 41_000, heads: Vec::new() };
    // A failed compaction took as long.
    let failed = Resendable::Changes(Vec::new());
    for (compacted, each) in [
        (of_changes, many * limits::RESEND_CHANGE_BYTES),
        (of_operations, many * limits::RESEND_OPERATION_BYTES),
        (of_bytes, limits::RESEND_BURST),
    ] {
        for found in [&made, &failed] {
            let (mut link, name) = connected();
            let mut compactions = 0;
            for second in 0..10_000 {
                link.now = Moment(Duration::from_secs(second));
                link.replica.handle_sign_of_life(link.now);
                ask(&mut link, DOCUMENT, 0);
                if !link.effects.is_empty() {
                    assert_eq!(loads(&mut link), Some(0));
                    give_compacted(&mut link, &name, found.clone(), compacted);
                    if let Some(Frame::PushSnapshot(upload)) = link.next_sent() {
                        ack(&mut link, upload.id, 1);
                    }
                    link.effects.clear();
                    link.sent.clear();
                    compactions += 1;
                }
            }
            let most = (limits::RESEND_BURST + 10_000 * limits::RESEND_RATE) / each + 1;
            assert!(
                (most / 2..=most).contains(&compactions),
                "{compactions} of at most {most}: {compacted:?}"
            );
        }
    }
}

#[test]
fn a_resend_request_outside_the_subscription_is_not_read() {
    let (mut link, name) = connected();
    link.replica.handle_filter(&name, Filter::of_documents([OTHER]));
    link.drain();
    while link.next_sent().is_some() {}
    link.effects.clear();
    ask(&mut link, DOCUMENT, 1);
    link.say(&Frame::Resend(Resend { subscription: 9, document: DOCUMENT, changes: vec![] }));
    link.say(&Frame::Repaired(Repaired { subscription: 9, document: DOCUMENT }));
    assert_eq!((link.next_sent(), link.next_sent()), (resent(0), None));
    assert!(link.effects.is_empty() && link.ended.is_none(), "{:?}", link.effects);
}

#[test]
fn removing_the_space_or_losing_the_connection_ends_a_resend() {
    let (mut link, name) = connected();
    ask(&mut link, DOCUMENT, 1);
    loads(&mut link).unwrap();
    link.disconnect();
    link.connect();
    while link.next_sent().is_some() {}
    // The store's answer for the previous connection.
    give(&mut link, &name, Resendable::Changes(vec![vec![1]]));
    assert_eq!(link.next_sent(), None);
    ask(&mut link, DOCUMENT, 1);
    loads(&mut link).unwrap();
    give(&mut link, &name, Resendable::Changes(vec![vec![1]]));
    let (id, _) = pushed(&mut link);
    link.replica.handle_space_removed(link.now, &name);
    link.drain();
    while link.next_sent().is_some() {}
    ack(&mut link, id, 1);
    assert_eq!(link.next_sent(), None);
    assert_eq!(link.ended, None);
}

#[test]
fn a_repaired_frame_is_reported_to_the_store() {
    let (mut link, name) = connected();
    let repaired = |link: &mut Scripted, document| {
        link.say(&Frame::Repaired(Repaired { subscription: 0, document }));
    };
    repaired(&mut link, DOCUMENT);
    let reported = link.effects.pop_front();
    let Some(ReplicaEffect::Repaired { space, document }) = reported else {
        panic!("{reported:?}")
    };
    assert_eq!((space, document), (name, DOCUMENT));
    // Bounded: each notification costs a read. Those beyond the rate come later, and once.
    (0..10_000).for_each(|_| repaired(&mut link, DOCUMENT));
    assert_eq!(link.effects.len(), limits::REPAIRED_WAITING - 1);
    link.effects.clear();
    repaired(&mut link, OTHER);
    assert!(link.effects.is_empty(), "{:?}", link.effects);
    let mut reported = Vec::new();
    while reported.len() < 2 {
        wait(&mut link);
        reported.extend(link.effects.drain(..).map(|effect| match effect {
            ReplicaEffect::Repaired { document, .. } => document,
            other => panic!("{other:?}"),
        }));
    }
    assert_eq!(reported, [DOCUMENT, OTHER]);
    // No more are remembered than a relay may have damaged.
    let many = 2 * limits::REPAIRED_WAITING as u128;
    (0..many).for_each(|n| repaired(&mut link, DocumentId::from_bytes(n.to_be_bytes())));
    link.now = Moment(link.now.0 + Duration::from_secs(1_000));
    link.replica.handle_sign_of_life(link.now);
    link.replica.handle_timeout(link.now);
    link.drain();
    assert_eq!(link.effects.len(), limits::REPAIRED_WAITING);
}

/// A session whose client has these features, and follows one document.
fn session(bits: u64) -> Session {
    let (upstream, now) = (Upstream::from_bytes([9; 16]), Moment::default());
    let mut session =
        Session::new(SessionId(1), upstream, "relay".into(), Patience::default(), now);
    let replica = ReplicaId::from_bytes([1; 16]);
    let hello = Hello { versions: vec![1], replica, token: None, agent: "client".into() };
    let subscribe = Subscribe {
        subscription: 4,
        space: space("s"),
        filter: Filter::of_documents([DOCUMENT]),
        cursor: None,
        acknowledged: None,
    };
    let features = Frame::Features(Features { bits });
    session.handle_message(now, &encode(&Frame::Hello(hello)));
    session.handle_identified(Ok(Arc::new(Principal::open())), None);
    for frame in [features, Frame::Subscribe(subscribe)] {
        session.handle_message(now, &encode(&frame));
    }
    while session.poll_effect().is_some() {}
    session
}

#[test]
fn a_resend_is_requested_only_from_capable_sessions() {
    let lost = [ChangeHash([7; 32])];
    let mut session_that_knows = session(features::ALL);
    assert!(session_that_knows.handle_damaged(4, DOCUMENT, &lost));
    let sent = session_that_knows.poll_effect();
    let resend = Resend { subscription: 4, document: DOCUMENT, changes: vec![[7; 32]] };
    assert_eq!(sent, Some(SessionEffect::Send(Frame::Resend(resend))));
    assert!(!session_that_knows.handle_damaged(4, OTHER, &lost), "outside the filter");
    assert!(!session_that_knows.handle_damaged(5, DOCUMENT, &lost), "no such subscription");
    let mut older = session(features::ALL & !features::RESEND);
    assert!(!older.handle_damaged(4, DOCUMENT, &lost));
    older.handle_repaired(4, DOCUMENT);
    assert_eq!(older.poll_effect(), None);
    // The answer carries its space; one over no subscription has no effect.
    for (subscription, reported) in [(5, None), (4, Some(()))] {
        let resent = Resent { subscription, document: DOCUMENT, count: 3 };
        let message = encode(&Frame::Resent(resent));
        session_that_knows.handle_message(Moment::default(), &message);
        let expected = SessionEffect::Resent { space: space("s"), document: DOCUMENT, count: 3 };
        assert_eq!(session_that_knows.poll_effect(), reported.map(|()| expected));
    }
    // Only a relay sends requests.
    let resend = Frame::Resend(Resend { subscription: 4, document: DOCUMENT, changes: vec![] });
    session_that_knows.handle_message(Moment::default(), &encode(&resend));
    assert!(session_that_knows.has_ended());
}

/// A replica that answers request after request, because it has everything, is notified of each
/// repaired document: requests have a separate budget.
#[test]
fn a_client_is_notified_of_a_document_that_it_healed() {
    let (mut link, name) = connected();
    // Documents of 4 MiB, in sequence, as soon as the rate allows; the relay sends `Repaired` a
    // second after each.
    for _ in 0..100 {
        ask(&mut link, DOCUMENT, 1);
        if link.effects.is_empty() {
            wait(&mut link);
        }
        assert_eq!(loads(&mut link), Some(1));
        give(&mut link, &name, Resendable::Changes(vec![vec![7; limits::CHANGE_BYTES]]));
        let (id, _) = pushed(&mut link);
        ack(&mut link, id, 1);
        assert_eq!(link.next_sent(), resent(1));
        link.now = Moment(link.now.0 + Duration::from_secs(1));
        link.say(&Frame::Repaired(Repaired { subscription: 0, document: DOCUMENT }));
        let effect = link.effects.pop_front();
        assert!(matches!(effect, Some(ReplicaEffect::Repaired { .. })), "{effect:?}");
    }
}

/// The relay asks a new subscriber at once, and waits long for the answer.
#[test]
fn a_resend_request_during_a_comparison_is_answered_after_it() {
    let (mut link, name) = connected();
    let filter = Filter::of_documents([DOCUMENT]);
    let scope = filter.scope();
    link.replica.handle_filter(&name, filter);
    link.drain();
    let (subscription, epoch, head, resumed) = (0, None, Offset(0), false);
    link.say(&Frame::Subscribed(Subscribed { subscription, epoch, head, scope, resumed }));
    while link.next_sent().is_some() {}
    link.effects.clear();
    ask(&mut link, DOCUMENT, 1);
    assert_eq!((loads(&mut link), link.next_sent()), (None, None));
    link.replica.handle_compared(link.now, &name);
    link.drain();
    assert_eq!(link.next_sent(), Some(Frame::Compared(0)));
    assert_eq!(loads(&mut link), Some(1));
    give(&mut link, &name, Resendable::Changes(Vec::new()));
    assert_eq!(link.next_sent(), resent(0));
}

/// The request may be sent before `Subscribed`; one for an unwanted document gets an empty answer.
#[test]
fn every_resend_request_is_answered() {
    let (mut link, name) = connected();
    // Another filter.
    link.replica.handle_filter(&name, Filter::of_documents([OTHER]));
    link.drain();
    while link.next_sent().is_some() {}
    ask(&mut link, DOCUMENT, 1);
    assert_eq!((loads(&mut link), link.next_sent()), (None, resent(0)));
    // Meanwhile everything is wanted again, over another subscription.
    link.replica.handle_filter(&name, Filter::Everything);
    ask_over(&mut link, 1, DOCUMENT);
    assert_eq!(loads(&mut link), Some(1));
    // The request that this interrupts begins again.
    link.replica.handle_filter(&name, Filter::of_documents([DOCUMENT]));
    link.replica.handle_filter(&name, Filter::Everything);
    link.drain();
    assert_eq!(loads(&mut link), Some(1));
    while link.next_sent().is_some() {}
    give(&mut link, &name, Resendable::Changes(Vec::new()));
    let Some(Frame::Resent(Resent { subscription: 2, count: 0, .. })) = link.next_sent() else {
        panic!("nothing over the present subscription")
    };
    // More than one relay requests at a time.
    ask_over(&mut link, 2, DOCUMENT);
    assert_eq!(loads(&mut link), Some(1));
    let numbered = |number: usize| DocumentId::from_bytes((number as u128).to_be_bytes());
    (0..limits::RESEND_WAITING).for_each(|number| ask_over(&mut link, 2, numbered(number)));
    assert_eq!(link.next_sent(), None);
    ask_over(&mut link, 2, OTHER);
    let nothing = Resent { subscription: 2, document: OTHER, count: 0 };
    assert_eq!(link.next_sent(), Some(Frame::Resent(nothing)));
    // The space goes away: every request is answered.
    link.replica.handle_space_removed(link.now, &name);
    link.drain();
    let mut answers = 0;
    while let Some(Frame::Resent(Resent { count: 0, .. })) = link.next_sent() {
        answers += 1;
    }
    assert_eq!(answers, limits::RESEND_WAITING + 1);
}
