//! Requests of the link, and the relay to which received entries belong.

use std::future::Future;
use std::pin::pin;
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::time::Duration;

use landfall_protocol::Upstream;

use super::store_support::{Author, Bench, id};
use crate::{FlushError, LinkOptions, Options, Store};

/// Nothing listens there.
const UNREACHABLE: &str = "ws://127.0.0.1:9";

fn with_a_change() -> Store {
    let store = Store::in_memory(Options::default()).unwrap();
    store.space("s").unwrap().create(|_| Ok(())).unwrap();
    store
}

#[test]
fn a_dropped_future_withdraws_its_request() {
    let store = with_a_change();
    store.connect(UNREACHABLE).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let link = &store.link();
    {
        let (flush, check) = (store.flush(Duration::from_secs(3_600)), store.check());
        let (mut flush, mut check) = (pin!(flush), pin!(check));
        assert!(flush.as_mut().poll(&mut context).is_pending());
        assert!(check.as_mut().poll(&mut context).is_pending());
        assert_eq!(link.open_requests(), 2);
    }
    assert_eq!(link.open_requests(), 0);
}

#[test]
fn closing_answers_every_request_and_ends_the_threads() {
    let store = with_a_change();
    store.connect(UNREACHABLE).unwrap();
    let (sender, receiver) = mpsc::channel();
    let waiting = store.clone();
    let thread = std::thread::spawn(move || {
        let mut context = Context::from_waker(Waker::noop());
        let mut flush = Box::pin(waiting.flush(Duration::from_secs(3_600)));
        assert!(flush.as_mut().poll(&mut context).is_pending());
        sender.send(()).unwrap();
        pollster::block_on(flush)
    });
    receiver.recv().unwrap();
    store.close().unwrap();
    assert!(matches!(thread.join().unwrap(), Err(FlushError::Closed)));
    assert!(matches!(store.check_blocking(), Err(crate::CheckError::Closed)));
    assert!(matches!(store.connect(UNREACHABLE), Err(crate::ConnectError::Closed)));
}

#[test]
fn a_flush_after_the_close_fails_as_closed_with_or_without_a_link() {
    let (linked, unlinked) = (with_a_change(), with_a_change());
    linked.connect(UNREACHABLE).unwrap();
    // Without a space there are no pending changes; even then a flush of a closed store fails.
    let empty = Store::in_memory(Options::default()).unwrap();
    for store in [linked, unlinked, empty] {
        store.close().unwrap();
        let flushed = store.flush_blocking(Duration::from_secs(3_600));
        assert!(matches!(flushed, Err(FlushError::Closed)), "{flushed:?}");
    }
}

#[test]
fn extreme_link_times_cause_no_panic() {
    for time in [Duration::ZERO, Duration::MAX] {
        let store = with_a_change();
        let options = LinkOptions {
            ping_after: time,
            drop_after: time,
            handshake: time,
            reconnect_first: time,
            reconnect_most: time,
            check_every: time,
            ..LinkOptions::new(UNREACHABLE)
        };
        store.connect(options).unwrap();
        let flushed = store.flush_blocking(Duration::from_millis(50));
        assert!(matches!(flushed, Err(FlushError::TimedOut { reached: false, .. })), "{flushed:?}");
        // The link is alive: it reads a wish, and ends at `close`.
        store.reconnect_now();
        let flushed = store.flush_blocking(Duration::from_millis(50));
        assert!(matches!(flushed, Err(FlushError::TimedOut { .. })), "{flushed:?}");
        store.close().unwrap();
    }
}

/// Entries of one relay are written after another one was connected: they belong to the first.
#[test]
fn received_entries_count_for_the_relay_that_sent_them() {
    let mut bench = Bench::new();
    bench.meet(1);
    let mut of_first = bench.about(1);
    let (mut ours, mut theirs) = (Author::new(1, 1), Author::new(2, 2));
    let local = bench.append(id(1), &ours.put("ours", "1"));
    bench.meet(2);
    let change = theirs.put("theirs", "2");
    let received = of_first.receive(theirs.incomings(vec![change]));
    assert_eq!(received.touched.len(), 1);
    let acknowledged = of_first.acknowledge([local]);
    assert_eq!(acknowledged, bench.count(), "a commit reports against the relay met last");
    assert_eq!(of_first.count().pending.changes, 0, "the first has everything");
    assert_eq!(bench.count().pending.changes, 2, "the second is not known to have anything");
    assert_eq!((of_first.outbox().len(), bench.outbox().len()), (0, 2));
    assert_eq!(bench.about(2).meet(2).cursor, None, "the second sent nothing");
    assert!(bench.about(1).meet(1).cursor.is_some());
    bench.check();
}

#[test]
fn the_most_recent_relay_is_recorded_however_often_others_connected() {
    let mut bench = Bench::new();
    for _ in 0..5 {
        bench.meet(1);
    }
    bench.meet(2);
    let last = || bench.log.known_upstream().unwrap();
    assert_eq!(last(), Some(Upstream::from_bytes([2; 16])));
    bench.about(1).meet(1);
    assert_eq!(last(), Some(Upstream::from_bytes([1; 16])));
}

/// The connection is lost and made repeatedly: the removal of a space does not depend on it.
#[test]
fn a_check_of_spaces_that_are_removed_is_answered_at_once_without_a_connection() {
    let store = Store::in_memory(Options::default()).unwrap();
    for name in ["a", "b"] {
        store.space(name).unwrap();
    }
    let quickly = Duration::from_millis(5);
    let options = LinkOptions { reconnect_first: quickly, ..LinkOptions::new(UNREACHABLE) };
    store.connect(LinkOptions { reconnect_most: quickly, ..options }).unwrap();
    let checking = store.clone();
    let check = std::thread::spawn(move || checking.check_blocking());
    while store.link().open_requests() == 0 {
        std::thread::yield_now();
    }
    for name in ["a", "b"] {
        store.remove_space(name, true).unwrap();
    }
    let Err(crate::CheckError::NotCompared { spaces, .. }) = check.join().unwrap() else {
        panic!("nothing could be compared");
    };
    let why: Vec<_> = spaces.into_iter().map(|(_, why)| why).collect();
    assert_eq!(why, [crate::NotCompared::Removed, crate::NotCompared::Removed]);
}
