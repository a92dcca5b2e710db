//! Who receives what, and what a full mailbox drops.

use landfall_protocol::frame::Entry;
use landfall_protocol::space::{NewEntry, NewKind};
use landfall_protocol::{Offset, limits as shared};

use super::*;
use crate::limits;
use crate::memory::{Class, Memory, ShareKey};

fn rooms() -> Rooms {
    Rooms::new(Arc::new(Metrics::new()))
}

/// A mailbox whose session has an address of its own.
fn seat_of(session: u64) -> Arc<Seat> {
    Seat::new(SessionId(session), Memory::new(0).account(ShareKey::Session(session)))
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

fn said(document: DocumentId, count: u64) -> Said {
    let (sender, session) = ("ann".to_owned(), "1".to_owned());
    Said { document, sender, session, count, data: vec![1, 2, 3] }
}

fn offsets(seat: &Seat) -> (Vec<u64>, bool) {
    let (news, behind) = seat.take();
    let offset = |news| match news {
        News::Entry(commit, at) => commit.entries[at].entry.offset.0,
        other => panic!("{other:?}"),
    };
    (news.into_iter().map(offset).collect(), behind)
}

fn counts(seat: &Seat) -> Vec<u64> {
    let count = |news| match news {
        News::Said(said) | News::Heard(_, said) => said.count,
        other => panic!("{other:?}"),
    };
    seat.take().0.into_iter().map(count).collect()
}

#[test]
fn entries_reach_those_who_have_the_document_open() {
    let (rooms, here) = (rooms(), space("here"));
    let (one, two) = (seat_of(1), seat_of(2));
    rooms.enter(&here, document(1), &one);
    rooms.enter(&here, document(2), &one);
    rooms.enter(&here, document(2), &two);
    let entries = [(1, document(1), 1), (2, document(2), 1), (3, document(3), 1)];
    rooms.publish(&commit(&here, &entries));
    rooms.publish(&commit(&space("there"), &entries));
    assert_eq!(offsets(&one), (vec![1, 2], false));
    assert_eq!(offsets(&two), (vec![2], false));
    rooms.forget(SessionId(2));
    rooms.publish(&commit(&here, &[(4, document(2), 1)]));
    assert_eq!(offsets(&one), (vec![4], false));
    assert_eq!(offsets(&two), (vec![], false));
}

#[test]
fn a_full_seat_drops_all_entries_and_says_so_once() {
    let (rooms, here, seat) = (rooms(), space("here"), seat_of(1));
    rooms.enter(&here, document(1), &seat);
    for offset in 1..=limits::SEAT_ENTRIES as u64 {
        rooms.publish(&commit(&here, &[(offset, document(1), 1)]));
    }
    assert_eq!(seat.waiting_entries(), limits::SEAT_ENTRIES);
    rooms.publish(&commit(&here, &[(9_000, document(1), 1)]));
    rooms.publish(&commit(&here, &[(9_001, document(1), 1)]));
    assert_eq!(offsets(&seat), (vec![], true));
    rooms.publish(&commit(&here, &[(9_002, document(1), 1)]));
    assert_eq!(offsets(&seat), (vec![9_002], false));
}

#[test]
fn an_entry_counts_as_much_as_the_commit_that_it_keeps() {
    let (rooms, here, seat) = (rooms(), space("here"), seat_of(1));
    rooms.enter(&here, document(1), &seat);
    let half = limits::SEAT_ENTRY_BYTES / 2;
    // Two entries of one commit count its bytes once.
    let large = [(1, document(1), 1), (2, document(2), half - 2), (3, document(1), 1)];
    rooms.publish(&commit(&here, &large));
    rooms.publish(&commit(&here, &[(4, document(1), half)]));
    assert_eq!(offsets(&seat), (vec![1, 3, 4], false));
    rooms.publish(&commit(&here, &large));
    rooms.publish(&commit(&here, &[(4, document(1), half + 1)]));
    assert_eq!(offsets(&seat), (vec![], true));
}

#[test]
fn what_is_said_reaches_everybody_else_who_follows() {
    let (rooms, here) = (rooms(), space("here"));
    let seats: Vec<_> = (0..4).map(seat_of).collect();
    rooms.enter(&here, document(1), &seats[0]);
    rooms.enter(&here, document(1), &seats[1]);
    rooms.listen(&here, 7, Filter::Everything, &seats[2]);
    rooms.listen(&here, 8, Filter::of_documents([document(2)]), &seats[2]);
    rooms.listen(&space("there"), 7, Filter::Everything, &seats[3]);
    assert!(rooms.say(&seat_of(0), &here, said(document(1), 1)));
    assert_eq!(counts(&seats[0]), [0; 0]);
    assert_eq!(counts(&seats[1]), [1]);
    let heard = seats[2].take().0;
    assert!(matches!(&heard[..], [News::Heard(7, heard)] if **heard == said(document(1), 1)));
    assert_eq!(counts(&seats[3]), [0; 0]);
    assert!(rooms.say(&seat_of(2), &here, said(document(2), 2)));
    assert!(seats.iter().all(|seat| counts(seat).is_empty()), "it came back to who said it");
    rooms.unlisten(&here, 7, SessionId(2));
    assert!(rooms.say(&seat_of(0), &here, said(document(1), 3)));
    assert_eq!(counts(&seats[2]), [0; 0]);
}

#[test]
fn a_repetition_and_one_that_is_too_large_go_to_nobody() {
    let (rooms, here, seat) = (rooms(), space("here"), seat_of(1));
    rooms.enter(&here, document(1), &seat);
    assert!(rooms.say(&seat_of(0), &here, said(document(1), 5)));
    assert!(!rooms.say(&seat_of(0), &here, said(document(1), 5)));
    assert!(!rooms.say(&seat_of(3), &here, said(document(1), 4)));
    let other_run = Said { session: "2".to_owned(), ..said(document(1), 1) };
    assert!(rooms.say(&seat_of(0), &here, other_run));
    let data = vec![0; shared::EPHEMERAL_BYTES + 1];
    assert!(!rooms.say(&seat_of(0), &here, Said { data, ..said(document(1), 6) }));
    let sender = "x".repeat(shared::EPHEMERAL_NAME_BYTES + 1);
    assert!(!rooms.say(&seat_of(0), &here, Said { sender, ..said(document(1), 6) }));
    assert_eq!(counts(&seat), [5, 1]);
    let text = rooms.metrics.text().unwrap();
    for line in ["forwarded\"} 2", "repeated\"} 2", "dropped\"} 2"] {
        let line = format!("landfall_relay_ephemeral_total{{outcome=\"{line}");
        assert!(text.contains(&line), "{line} in\n{text}");
    }
}

#[test]
fn a_full_seat_drops_what_was_said_first_and_keeps_its_entries() {
    let (rooms, here, seat) = (rooms(), space("here"), seat_of(1));
    rooms.enter(&here, document(1), &seat);
    rooms.publish(&commit(&here, &[(1, document(1), 1)]));
    for count in 1..=20 {
        let data = vec![0; shared::EPHEMERAL_BYTES];
        assert!(rooms.say(&seat_of(0), &here, Said { data, ..said(document(1), count) }));
    }
    let (news, behind) = seat.take();
    assert!(!behind && matches!(news[0], News::Entry(_, 0)));
    let kept: Vec<u64> = news[1..]
        .iter()
        .map(|news| match news {
            News::Said(said) => said.count,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kept, (14..=20).collect::<Vec<u64>>());
}

#[test]
fn a_session_that_is_gone_leaves_nothing_behind() {
    let (rooms, here, there) = (rooms(), space("here"), space("there"));
    let (one, two) = (seat_of(1), seat_of(2));
    for seat in [&one, &two] {
        rooms.enter(&here, document(1), seat);
        rooms.enter(&there, document(1), seat);
        rooms.listen(&there, 1, Filter::Everything, seat);
    }
    rooms.forget(SessionId(1));
    rooms.publish(&commit(&here, &[(1, document(1), 1)]));
    assert!(rooms.say(&seat_of(9), &there, said(document(1), 1)));
    assert_eq!(offsets(&one), (vec![], false));
    assert_eq!(two.take().0.len(), 3);
    rooms.forget(SessionId(2));
    // A session that never subscribed.
    rooms.forget(SessionId(3));
    let index = rooms.index.lock();
    assert!(index.rooms.is_empty() && index.places.is_empty());
    assert_eq!((Arc::strong_count(&one), Arc::strong_count(&two)), (1, 1));
}

#[test]
fn whoever_waits_is_woken() {
    let (rooms, here, seat) = (rooms(), space("here"), seat_of(1));
    rooms.enter(&here, document(1), &seat);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let waiting = Arc::clone(&seat);
        let waiter = tokio::spawn(async move {
            waiting.wait().await;
            waiting.take().0.len()
        });
        tokio::task::yield_now().await;
        rooms.publish(&commit(&here, &[(1, document(1), 1)]));
        assert_eq!(waiter.await.unwrap(), 1);
        assert!(rooms.say(&seat_of(0), &here, said(document(1), 1)));
        // Returns at once for an item that was already there.
        seat.wait().await;
        assert_eq!(counts(&seat), [1]);
    });
}

#[test]
fn one_who_says_too_much_is_dropped_until_it_is_paid_for_and_others_are_heard() {
    let (rooms, here) = (rooms(), space("here"));
    let seats: Vec<_> = (2..102).map(seat_of).collect();
    seats.iter().for_each(|seat| rooms.listen(&here, 1, Filter::Everything, seat));
    let (loud, quiet) = (seat_of(0), seat_of(1));
    let now = Instant::now();
    // All at one instant, as one message of 4 MiB may bring them.
    let passed = (1..=40_000)
        .filter(|count| rooms.say_at(&loud, now, &here, said(document(1), *count)))
        .count();
    let each = 101 * limits::EPHEMERAL_OVERHEAD_BYTES;
    assert!(passed > 0 && passed <= limits::EPHEMERAL_BURST as usize / each + 1, "{passed} passed");
    let quiet_said = Said { session: "2".to_owned(), ..said(document(1), 1) };
    assert!(rooms.say_at(&quiet, now, &here, quiet_said));
    let later = now + std::time::Duration::from_secs(1);
    assert!(rooms.say_at(&loud, later, &here, said(document(1), 50_000)));
    let text = rooms.metrics.text().unwrap();
    let limited =
        format!("landfall_relay_ephemeral_total{{outcome=\"limited\"}} {}", 40_000 - passed);
    assert!(text.contains(&limited), "{limited} in\n{text}");
}

#[test]
fn many_sessions_of_an_address_say_no_more_than_a_few() {
    let (rooms, here, now) = (rooms(), space("here"), Instant::now());
    let listener = seat_of(0);
    rooms.listen(&here, 1, Filter::Everything, &listener);
    let data = vec![0; shared::EPHEMERAL_BYTES];
    // Each session reconnects after it used its budget.
    let mut bytes = 0;
    for session in 1..=100 {
        let seat = Seat::new(SessionId(session), Memory::new(0).account(ShareKey::Relay));
        for count in 1..=100 {
            let (session, data) = (session.to_string(), data.clone());
            let said = Said { session, data, ..said(document(1), count) };
            let weight = said.weight();
            bytes += if rooms.say_at(&seat, now, &here, said) { 2 * weight } else { 0 };
        }
    }
    let most = limits::SHARE_EPHEMERAL_BURST as usize;
    assert!((most..most + most / 8).contains(&bytes), "{bytes} bytes of {most}");
    let other = Said { session: "other".to_owned(), ..said(document(1), 1) };
    assert!(rooms.say_at(&seat_of(200), now, &here, other), "others are heard");
}

#[test]
fn what_nobody_hears_and_what_is_repeated_costs_as_well() {
    let (rooms, here) = (rooms(), space("here"));
    let (loud, now) = (seat_of(0), Instant::now());
    let data = vec![0; shared::EPHEMERAL_BYTES];
    let say = |count| {
        let said = Said { data: data.clone(), ..said(document(1), count) };
        rooms.say_at(&loud, now, &here, said)
    };
    assert_eq!((1..=200).filter(|count| say(*count)).count(), 64, "of 64 KiB and its overhead");
    let (seat, parrot) = (seat_of(1), seat_of(2));
    rooms.listen(&here, 1, Filter::Everything, &seat);
    for _ in 0..100_000 {
        rooms.say_at(&parrot, now, &here, said(document(1), 1));
    }
    assert!(!parrot.may_say(now));
}

/// Sessions that do not read, each with a document of its own.
#[test]
fn what_waits_for_sessions_takes_memory_that_is_reserved() {
    let (rooms, here, memory) = (rooms(), space("here"), Memory::new(0));
    let half = limits::SEAT_ENTRY_BYTES / 2;
    let seats: Vec<_> = (0..100)
        .map(|session| {
            let account = memory.account(ShareKey::Session(session));
            let seat = Seat::new(SessionId(session), account);
            rooms.enter(&here, document(session as u8), &seat);
            rooms.publish(&commit(&here, &[(session, document(session as u8), half)]));
            seat
        })
        .collect();
    let kept = seats.iter().map(|seat| seat.waiting_entries()).sum::<usize>();
    let used = memory.used(Class::Answer);
    assert!(kept > 0 && kept < 100, "{kept} of 100 keep what came");
    assert!(used >= kept * (half - limits::SEAT_FREE_BYTES) && used <= memory.limit() / 2);
    // The other sessions read the store, and receive later entries.
    let told = seats.iter().map(|seat| offsets(seat).1).filter(|behind| *behind).count();
    assert_eq!((told, memory.used(Class::Answer)), (100 - kept, 0));
    // The same for ephemeral messages, but only the oldest are dropped.
    let _all = memory.account(ShareKey::Relay).take(Class::Answer, memory.limit());
    let data = vec![0; limits::SEAT_FREE_BYTES / 4];
    for count in 1..=20 {
        assert!(rooms.say(
            &seat_of(500),
            &here,
            Said { data: data.clone(), ..said(document(1), count) }
        ));
    }
    assert_eq!(counts(&seats[1]), [18, 19, 20]);
}
