//! A relay that rejects changes for now: the machine waits, reports the reason, and continues.

use std::time::Duration;

use landfall_protocol::admission::Roots;
use landfall_protocol::client::{OutboxChange, OutboxKind, ReplicaEffect};
use landfall_protocol::code::NackClass;
use landfall_protocol::frame::{Ack, Frame, Mark, Nack, Push, UploadFrom};
use landfall_protocol::{Code, DocumentId, Epoch, Local, Moment, Offset, SpaceName, limits};

use crate::scripted::{Scripted, space};

fn change(local: u64, document: u8) -> OutboxChange {
    let document = DocumentId::from_bytes([document; 16]);
    let what = OutboxKind::Change(vec![0; 100], Roots::One);
    OutboxChange { local: Local(local), document, what }
}

fn pushing(changes: Vec<OutboxChange>) -> (Scripted, SpaceName) {
    let name = space("s");
    let mut link = Scripted::new(std::slice::from_ref(&name));
    link.outbox.insert(name.clone(), changes);
    link.connect();
    (link, name)
}

fn pushed(link: &mut Scripted) -> Push {
    match link.next_sent() {
        Some(Frame::Push(push)) => push,
        other => panic!("no push: {other:?}"),
    }
}

fn delay(link: &mut Scripted, push: &Push, retry_after_ms: u32) {
    let (code, class) = (Code::STORAGE_FULL, NackClass::RETRY_AFTER);
    let what = "the disk is full".to_owned();
    link.say(&Frame::Nack(Nack { id: push.id, code, class, retry_after_ms, what }));
}

fn ack(link: &mut Scripted, push: &Push, count: u32) {
    let through = Mark { epoch: Epoch::from_bytes([2; 16]), offset: Offset(1) };
    link.say(&Frame::Ack(Ack { id: push.id, count, through }));
}

/// The reported delays since the last call.
fn told(link: &mut Scripted) -> Vec<Option<(Code, String)>> {
    let why = |effect| match effect {
        ReplicaEffect::Delayed { why, .. } => Some(why),
        _ => None,
    };
    std::mem::take(&mut link.effects).into_iter().filter_map(why).collect()
}

/// Advances time until a frame is sent; returns the time it took.
fn wait(link: &mut Scripted) -> Duration {
    let began = link.now;
    assert!(link.sent.is_empty(), "something is sent without a wait: {:?}", link.sent);
    while link.sent.is_empty() {
        link.now = link.replica.poll_timeout();
        link.replica.handle_timeout(link.now);
        link.drain();
        // The relay is alive, and answers pings.
        link.sent.retain(|frame| !matches!(frame, Frame::Ping(_)));
        link.replica.handle_sign_of_life(link.now);
    }
    link.now.since(began)
}

#[test]
fn a_delayed_push_backs_off_and_reports_the_delay_once() {
    let (mut link, _) = pushing(vec![change(1, 1)]);
    let mut waits = Vec::new();
    for round in 0..10 {
        let push = pushed(&mut link);
        delay(&mut link, &push, 0);
        let expected = match round {
            0 => vec![Some((Code::STORAGE_FULL, "the disk is full".to_owned()))],
            _ => vec![],
        };
        assert_eq!(told(&mut link), expected, "round {round}");
        waits.push(wait(&mut link));
    }
    assert_eq!(waits[0], limits::RETRY_LEAST, "the relay named no wait");
    assert!(waits.is_sorted() && waits[1] == 2 * waits[0], "{waits:?}");
    assert_eq!(*waits.last().unwrap(), limits::RETRY_MOST);
    let push = pushed(&mut link);
    ack(&mut link, &push, 1);
    assert_eq!(told(&mut link), [None]);
    assert_eq!(link.ended, None);
}

#[test]
fn a_longer_wait_from_the_relay_takes_precedence() {
    let (mut link, _) = pushing(vec![change(1, 1)]);
    let push = pushed(&mut link);
    delay(&mut link, &push, 2_000);
    assert_eq!(wait(&mut link), Duration::from_secs(2));
    let push = pushed(&mut link);
    delay(&mut link, &push, u32::MAX);
    assert_eq!(wait(&mut link), limits::RECONNECT_MOST, "but no longer than this");
}

#[test]
fn answers_of_one_round_are_one_delay() {
    let (mut link, _) = pushing((1..=20).map(|n| change(n, n as u8)).collect());
    let pushes: Vec<Push> = (0..20).map(|_| pushed(&mut link)).collect();
    pushes.iter().for_each(|push| delay(&mut link, push, 0));
    assert_eq!(told(&mut link).len(), 1);
    assert_eq!(wait(&mut link), limits::RETRY_LEAST);
}

#[test]
fn the_rest_of_a_partly_accepted_push_follows_at_once() {
    let (mut link, _) = pushing(vec![change(1, 1), change(2, 1)]);
    let push = pushed(&mut link);
    assert_eq!(push.changes.len(), 2);
    ack(&mut link, &push, 1);
    delay(&mut link, &push, 0);
    assert_eq!(told(&mut link), [], "nothing is wrong");
    assert_eq!(pushed(&mut link).changes.len(), 1);
    assert_eq!(link.now, Moment::default());
}

#[test]
fn a_delay_ends_with_the_refusal_of_its_document() {
    let (mut link, _) = pushing(vec![change(1, 1)]);
    let push = pushed(&mut link);
    delay(&mut link, &push, 0);
    assert_eq!(told(&mut link).len(), 1);
    wait(&mut link);
    let push = pushed(&mut link);
    let (code, class, what) = (Code::FORBIDDEN, NackClass::REFUSED, "no".to_owned());
    link.say(&Frame::Nack(Nack { id: push.id, code, class, retry_after_ms: 0, what }));
    assert_eq!(told(&mut link), [None]);
}

#[test]
fn a_delay_ends_when_nothing_is_left_to_push() {
    let (mut link, name) = pushing(vec![change(1, 1)]);
    let push = pushed(&mut link);
    delay(&mut link, &push, 0);
    assert_eq!(told(&mut link).len(), 1);
    // Another replica brings the change meanwhile: the relay turns out to hold it.
    link.outbox.insert(name, Vec::new());
    link.now = link.replica.poll_timeout();
    link.replica.handle_timeout(link.now);
    link.drain();
    assert_eq!(told(&mut link), [None]);
}

/// Three replicas upload one snapshot to a relay that has lost it. When the first upload completes,
/// the relay asks the other two for the rest of an upload that the faster one has just begun again.
#[test]
fn an_upload_resumes_where_the_relay_requests_even_further_back() {
    let (hash, total) = ([7; 32], 8 << 20);
    let snapshot = OutboxKind::Snapshot { hash, total, heads: Vec::new() };
    let document = DocumentId::from_bytes([1; 16]);
    let (mut link, name) =
        pushing(vec![OutboxChange { local: Local(1), document, what: snapshot }]);
    let Some(Frame::PushSnapshot(upload)) = link.next_sent() else { panic!("no offer") };
    let part = limits::PART_BYTES as u64;
    let wanted = |link: &mut Scripted, from: u64| {
        let up_to = from + limits::SNAPSHOT_WINDOW_BYTES as u64;
        link.say(&Frame::UploadFrom(UploadFrom { id: upload.id, from, up_to }));
        let mut sent = Vec::new();
        while let Some(effect) = link.effects.pop_front() {
            let ReplicaEffect::LoadSnapshotPart { from, .. } = effect else { continue };
            let bytes = Some(vec![0; part as usize]);
            link.replica.handle_snapshot_part(link.now, &name, document, from, bytes);
            link.drain();
            sent.push(from / part);
        }
        link.sent.clear();
        sent
    };
    assert_eq!(wanted(&mut link, 0), [0, 1, 2, 3]);
    assert_eq!(wanted(&mut link, 4 * part), [4, 5, 6, 7]);
    assert_eq!(wanted(&mut link, 8 * part), [8, 9, 10, 11]);
    assert_eq!(wanted(&mut link, 9 * part), [12], "changes in transit are not sent again");
    assert_eq!(wanted(&mut link, 2 * part), [2, 3, 4, 5]);
    assert_eq!(link.ended, None);
}
