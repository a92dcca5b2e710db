//! Who receives what, and what a full mailbox drops.

use landfall_protocol::frame::Entry;
use landfall_protocol::relay::{NewEntry, NewKind};
use landfall_protocol::{Offset, limits as shared};

use super::*;
use crate::limits;
use crate::memory::{Class, Memory, ShareKey};

fn fan_out() -> FanOut {
    FanOut::new(Arc::new(Metrics::new()))
}

/// A mailbox whose session has an address of its own.
fn mailbox_of(session: u64) -> Arc<Mailbox> {
    Mailbox::new(SessionId(session), Memory::new(0).account(ShareKey::Session(session)))
}

fn space(name: &str) -> SpaceName {
    name.parse().unwrap()
}

fn document(n: u8) -> DocumentId {
    DocumentId::from_bytes([n; 16])
}

/// A commit of deletions: entries are opaque here.
fn commit(space: &SpaceName, entries: &[(u64, DocumentId, usize)]) -> Arc<Commit> {
    let entries = entries.iter().map(|(offset, document, bytes)| {
        let mut entry = Entry::of_tombstone(Offset(*offset), *document, b"me", 0);
        entry.body = vec![0; *bytes].into();
        NewEntry { entry, kind: NewKind::Tombstone }
    });
    Arc::new(Commit { space: space.clone(), opens: None, entries: entries.collect() })
}

fn message(document: DocumentId, count: u64) -> Broadcast {
    let (sender, session) = ("ann".to_owned(), "1".to_owned());
    Broadcast { document, sender, session, count, data: vec![1, 2, 3] }
}

fn offsets(mailbox: &Mailbox) -> (Vec<u64>, bool) {
    let (deliveries, behind) = mailbox.take();
    let offset = |delivery| match delivery {
        Delivery::Entry(commit, at) => commit.entries[at].entry.offset.0,
        other => panic!("{other:?}"),
    };
    (deliveries.into_iter().map(offset).collect(), behind)
}

fn counts(mailbox: &Mailbox) -> Vec<u64> {
    let count = |news| match news {
        Delivery::Ephemeral(message) | Delivery::FilteredEphemeral(_, message) => message.count,
        other => panic!("{other:?}"),
    };
    mailbox.take().0.into_iter().map(count).collect()
}

#[test]
fn entries_reach_subscribers_of_the_document() {
    let (fan_out, here) = (fan_out(), space("here"));
    let (one, two) = (mailbox_of(1), mailbox_of(2));
    fan_out.subscribe(&here, document(1), &one);
    fan_out.subscribe(&here, document(2), &one);
    fan_out.subscribe(&here, document(2), &two);
    let entries = [(1, document(1), 1), (2, document(2), 1), (3, document(3), 1)];
    fan_out.publish(&commit(&here, &entries));
    fan_out.publish(&commit(&space("there"), &entries));
    assert_eq!(offsets(&one), (vec![1, 2], false));
    assert_eq!(offsets(&two), (vec![2], false));
    fan_out.remove(SessionId(2));
    fan_out.publish(&commit(&here, &[(4, document(2), 1)]));
    assert_eq!(offsets(&one), (vec![4], false));
    assert_eq!(offsets(&two), (vec![], false));
}

#[test]
fn a_full_mailbox_drops_all_entries_and_reports_it_once() {
    let (fan_out, here, mailbox) = (fan_out(), space("here"), mailbox_of(1));
    fan_out.subscribe(&here, document(1), &mailbox);
    for offset in 1..=limits::MAILBOX_ENTRIES as u64 {
        fan_out.publish(&commit(&here, &[(offset, document(1), 1)]));
    }
    assert_eq!(mailbox.waiting_entries(), limits::MAILBOX_ENTRIES);
    fan_out.publish(&commit(&here, &[(9_000, document(1), 1)]));
    fan_out.publish(&commit(&here, &[(9_001, document(1), 1)]));
    assert_eq!(offsets(&mailbox), (vec![], true));
    fan_out.publish(&commit(&here, &[(9_002, document(1), 1)]));
    assert_eq!(offsets(&mailbox), (vec![9_002], false));
}

#[test]
fn an_entry_is_charged_for_the_commit_that_it_keeps() {
    let (fan_out, here, mailbox) = (fan_out(), space("here"), mailbox_of(1));
    fan_out.subscribe(&here, document(1), &mailbox);
    let half = limits::MAILBOX_ENTRY_BYTES / 2;
    // Two entries of one commit count its bytes once.
    let large = [(1, document(1), 1), (2, document(2), half - 2), (3, document(1), 1)];
    fan_out.publish(&commit(&here, &large));
    fan_out.publish(&commit(&here, &[(4, document(1), half)]));
    assert_eq!(offsets(&mailbox), (vec![1, 3, 4], false));
    fan_out.publish(&commit(&here, &large));
    fan_out.publish(&commit(&here, &[(4, document(1), half + 1)]));
    assert_eq!(offsets(&mailbox), (vec![], true));
}

#[test]
fn an_ephemeral_message_reaches_all_other_subscribers() {
    let (fan_out, here) = (fan_out(), space("here"));
    let mailboxes: Vec<_> = (0..4).map(mailbox_of).collect();
    fan_out.subscribe(&here, document(1), &mailboxes[0]);
    fan_out.subscribe(&here, document(1), &mailboxes[1]);
    fan_out.subscribe_ephemeral(&here, 7, View::everything(), &mailboxes[2]);
    fan_out.subscribe_ephemeral(&here, 8, View::of_documents([document(2)]), &mailboxes[2]);
    fan_out.subscribe_ephemeral(&space("there"), 7, View::everything(), &mailboxes[3]);
    assert!(fan_out.publish_ephemeral(&mailbox_of(0), &here, message(document(1), 1)));
    assert_eq!(counts(&mailboxes[0]), [0; 0]);
    assert_eq!(counts(&mailboxes[1]), [1]);
    let heard = mailboxes[2].take().0;
    assert!(
        matches!(&heard[..], [Delivery::FilteredEphemeral(7, heard)] if **heard == message(document(1), 1))
    );
    assert_eq!(counts(&mailboxes[3]), [0; 0]);
    assert!(fan_out.publish_ephemeral(&mailbox_of(2), &here, message(document(2), 2)));
    assert!(
        mailboxes.iter().all(|mailbox| counts(mailbox).is_empty()),
        "the sender received its own message"
    );
    fan_out.unsubscribe_ephemeral(&here, 7, SessionId(2));
    assert!(fan_out.publish_ephemeral(&mailbox_of(0), &here, message(document(1), 3)));
    assert_eq!(counts(&mailboxes[2]), [0; 0]);
}

#[test]
fn repeated_and_oversized_messages_are_not_forwarded() {
    let (fan_out, here, mailbox) = (fan_out(), space("here"), mailbox_of(1));
    fan_out.subscribe(&here, document(1), &mailbox);
    assert!(fan_out.publish_ephemeral(&mailbox_of(0), &here, message(document(1), 5)));
    assert!(!fan_out.publish_ephemeral(&mailbox_of(0), &here, message(document(1), 5)));
    assert!(!fan_out.publish_ephemeral(&mailbox_of(3), &here, message(document(1), 4)));
    let other_run = Broadcast { session: "2".to_owned(), ..message(document(1), 1) };
    assert!(fan_out.publish_ephemeral(&mailbox_of(0), &here, other_run));
    let data = vec![0; shared::EPHEMERAL_BYTES + 1];
    assert!(!fan_out.publish_ephemeral(
        &mailbox_of(0),
        &here,
        Broadcast { data, ..message(document(1), 6) }
    ));
    let sender = "x".repeat(shared::EPHEMERAL_NAME_BYTES + 1);
    assert!(!fan_out.publish_ephemeral(
        &mailbox_of(0),
        &here,
        Broadcast { sender, ..message(document(1), 6) }
    ));
    assert_eq!(counts(&mailbox), [5, 1]);
    let text = fan_out.metrics.text().unwrap();
    for line in ["forwarded\"} 2", "repeated\"} 2", "dropped\"} 2"] {
        let line = format!("landfall_relay_ephemeral_total{{outcome=\"{line}");
        assert!(text.contains(&line), "{line} in\n{text}");
    }
}

#[test]
fn a_full_mailbox_drops_the_oldest_messages_and_keeps_entries() {
    let (fan_out, here, mailbox) = (fan_out(), space("here"), mailbox_of(1));
    fan_out.subscribe(&here, document(1), &mailbox);
    fan_out.publish(&commit(&here, &[(1, document(1), 1)]));
    for count in 1..=20 {
        let data = vec![0; shared::EPHEMERAL_BYTES];
        assert!(fan_out.publish_ephemeral(
            &mailbox_of(0),
            &here,
            Broadcast { data, ..message(document(1), count) }
        ));
    }
    let (deliveries, behind) = mailbox.take();
    assert!(!behind && matches!(deliveries[0], Delivery::Entry(_, 0)));
    let kept: Vec<u64> = deliveries[1..]
        .iter()
        .map(|delivery| match delivery {
            Delivery::Ephemeral(message) => message.count,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kept, (14..=20).collect::<Vec<u64>>());
}

#[test]
fn an_ended_session_leaves_nothing_behind() {
    let (fan_out, here, there) = (fan_out(), space("here"), space("there"));
    let (one, two) = (mailbox_of(1), mailbox_of(2));
    for mailbox in [&one, &two] {
        fan_out.subscribe(&here, document(1), mailbox);
        fan_out.subscribe(&there, document(1), mailbox);
        fan_out.subscribe_ephemeral(&there, 1, View::everything(), mailbox);
    }
    fan_out.remove(SessionId(1));
    fan_out.publish(&commit(&here, &[(1, document(1), 1)]));
    assert!(fan_out.publish_ephemeral(&mailbox_of(9), &there, message(document(1), 1)));
    assert_eq!(offsets(&one), (vec![], false));
    assert_eq!(two.take().0.len(), 3);
    fan_out.remove(SessionId(2));
    // A session that never subscribed.
    fan_out.remove(SessionId(3));
    let index = fan_out.index.lock();
    assert!(index.spaces.is_empty() && index.spaces_of.is_empty());
    assert_eq!((Arc::strong_count(&one), Arc::strong_count(&two)), (1, 1));
}

#[test]
fn a_waiting_receiver_is_woken() {
    let (fan_out, here, mailbox) = (fan_out(), space("here"), mailbox_of(1));
    fan_out.subscribe(&here, document(1), &mailbox);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let waiting = Arc::clone(&mailbox);
        let waiter = tokio::spawn(async move {
            waiting.wait().await;
            waiting.take().0.len()
        });
        tokio::task::yield_now().await;
        fan_out.publish(&commit(&here, &[(1, document(1), 1)]));
        assert_eq!(waiter.await.unwrap(), 1);
        assert!(fan_out.publish_ephemeral(&mailbox_of(0), &here, message(document(1), 1)));
        // Returns at once for an item that was already there.
        mailbox.wait().await;
        assert_eq!(counts(&mailbox), [1]);
    });
}

#[test]
fn messages_over_the_rate_are_dropped_and_other_senders_pass() {
    let (fan_out, here) = (fan_out(), space("here"));
    let mailboxes: Vec<_> = (2..102).map(mailbox_of).collect();
    mailboxes
        .iter()
        .for_each(|mailbox| fan_out.subscribe_ephemeral(&here, 1, View::everything(), mailbox));
    let (loud, quiet) = (mailbox_of(0), mailbox_of(1));
    let now = Instant::now();
    // All at one instant, as one message of 4 MiB may bring them.
    let passed = (1..=40_000)
        .filter(|count| {
            fan_out.publish_ephemeral_at(&loud, now, &here, message(document(1), *count))
        })
        .count();
    let each = 101 * limits::EPHEMERAL_OVERHEAD_BYTES;
    assert!(passed > 0 && passed <= limits::EPHEMERAL_BURST as usize / each + 1, "{passed} passed");
    let quiet_said = Broadcast { session: "2".to_owned(), ..message(document(1), 1) };
    assert!(fan_out.publish_ephemeral_at(&quiet, now, &here, quiet_said));
    let later = now + std::time::Duration::from_secs(1);
    assert!(fan_out.publish_ephemeral_at(&loud, later, &here, message(document(1), 50_000)));
    let text = fan_out.metrics.text().unwrap();
    let limited =
        format!("landfall_relay_ephemeral_total{{outcome=\"limited\"}} {}", 40_000 - passed);
    assert!(text.contains(&limited), "{limited} in\n{text}");
}

#[test]
fn the_rate_is_bounded_per_address() {
    let (fan_out, here, now) = (fan_out(), space("here"), Instant::now());
    let listener = mailbox_of(0);
    fan_out.subscribe_ephemeral(&here, 1, View::everything(), &listener);
    let data = vec![0; shared::EPHEMERAL_BYTES];
    // Each session reconnects after it used its budget.
    let mut bytes = 0;
    for session in 1..=100 {
        let mailbox = Mailbox::new(SessionId(session), Memory::new(0).account(ShareKey::Relay));
        for count in 1..=100 {
            let (session, data) = (session.to_string(), data.clone());
            let message = Broadcast { session, data, ..message(document(1), count) };
            let weight = message.weight();
            bytes += if fan_out.publish_ephemeral_at(&mailbox, now, &here, message) {
                2 * weight
            } else {
                0
            };
        }
    }
    let most = limits::SHARE_EPHEMERAL_BURST as usize;
    assert!((most..most + most / 8).contains(&bytes), "{bytes} bytes of {most}");
    let other = Broadcast { session: "other".to_owned(), ..message(document(1), 1) };
    assert!(
        fan_out.publish_ephemeral_at(&mailbox_of(200), now, &here, other),
        "another address is within its rate"
    );
}

#[test]
fn unheard_and_repeated_messages_count_towards_the_rate() {
    let (fan_out, here) = (fan_out(), space("here"));
    let (loud, now) = (mailbox_of(0), Instant::now());
    let data = vec![0; shared::EPHEMERAL_BYTES];
    let say = |count| {
        let message = Broadcast { data: data.clone(), ..message(document(1), count) };
        fan_out.publish_ephemeral_at(&loud, now, &here, message)
    };
    assert_eq!(
        (1..=200).filter(|count| say(*count)).count(),
        64,
        "each counts 64 KiB and its overhead"
    );
    let (mailbox, parrot) = (mailbox_of(1), mailbox_of(2));
    fan_out.subscribe_ephemeral(&here, 1, View::everything(), &mailbox);
    for _ in 0..100_000 {
        fan_out.publish_ephemeral_at(&parrot, now, &here, message(document(1), 1));
    }
    assert!(!parrot.may_publish(now));
}

/// Sessions that do not read, each with a document of its own.
#[test]
fn queued_messages_take_reserved_memory() {
    let (fan_out, here, memory) = (fan_out(), space("here"), Memory::new(0));
    let half = limits::MAILBOX_ENTRY_BYTES / 2;
    let mailboxes: Vec<_> = (0..100)
        .map(|session| {
            let account = memory.account(ShareKey::Session(session));
            let mailbox = Mailbox::new(SessionId(session), account);
            fan_out.subscribe(&here, document(session as u8), &mailbox);
            fan_out.publish(&commit(&here, &[(session, document(session as u8), half)]));
            mailbox
        })
        .collect();
    let kept = mailboxes.iter().map(|mailbox| mailbox.waiting_entries()).sum::<usize>();
    let used = memory.used(Class::Answer);
    assert!(kept > 0 && kept < 100, "{kept} of 100 mailboxes keep the entry");
    assert!(used >= kept * (half - limits::MAILBOX_FREE_BYTES) && used <= memory.limit() / 2);
    // The other sessions read the store, and receive later entries.
    let notified =
        mailboxes.iter().map(|mailbox| offsets(mailbox).1).filter(|behind| *behind).count();
    assert_eq!((notified, memory.used(Class::Answer)), (100 - kept, 0));
    // The same for ephemeral messages, but only the oldest are dropped.
    let _all = memory.account(ShareKey::Relay).take(Class::Answer, memory.limit());
    let data = vec![0; limits::MAILBOX_FREE_BYTES / 4];
    for count in 1..=20 {
        assert!(fan_out.publish_ephemeral(
            &mailbox_of(500),
            &here,
            Broadcast { data: data.clone(), ..message(document(1), count) }
        ));
    }
    assert_eq!(counts(&mailboxes[1]), [18, 19, 20]);
}
