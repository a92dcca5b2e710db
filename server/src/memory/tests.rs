//! The budget: the order of service, the accounting, and that nothing is leaked.

mod shares;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;

const MIB: usize = 1024 * 1024;

fn memory() -> Memory {
    Memory::new(256 * MIB)
}

fn session(memory: &Memory, number: u64) -> Account {
    memory.account(ShareKey::Session(number))
}

/// The output of a future that is polled once, if it is ready.
fn poll<F: Future + ?Sized>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[test]
fn the_account_that_holds_least_is_served_first() {
    let memory = memory();
    let (greedy, modest) = (session(&memory, 1), session(&memory, 2));
    let first = greedy.try_reserve(Class::Push, 60 * MIB).unwrap();
    let other = session(&memory, 3).try_reserve(Class::Push, 60 * MIB).unwrap();
    let mut more = pin!(greedy.reserve(Class::Push, 4 * MIB));
    let mut own = pin!(modest.reserve(Class::Push, 40 * MIB));
    let mut late = pin!(modest.reserve(Class::Push, 4 * MIB));
    assert!(poll(more.as_mut()).is_none() || memory.used(Class::Push) <= 128 * MIB);
    assert!(poll(own.as_mut()).is_none() && poll(late.as_mut()).is_none());
    drop(other);
    assert!(poll(own.as_mut()).is_some(), "the account that holds nothing is served first");
    drop(first);
}

/// Two uploads hold all memory of uploads, and a third waits: memory is released only when all parts of the
/// first two have arrived, and each part is a large message.
#[test]
fn a_wait_for_one_class_does_not_block_other_classes() {
    let memory = memory();
    let upload = |number| session(&memory, number).try_reserve(Class::Upload, 64 * MIB).unwrap();
    let held = (upload(1), upload(2));
    let three = session(&memory, 3);
    let mut third = pin!(three.reserve(Class::Upload, 64 * MIB));
    assert!(poll(third.as_mut()).is_none());
    let four = session(&memory, 4);
    let mut part = pin!(four.reserve(Class::Incoming, MIB));
    assert!(poll(part.as_mut()).is_some(), "it waits although its class has room");
    drop(held);
    assert!(poll(third.as_mut()).is_some());
}

#[test]
fn large_reservations_leave_the_lane_of_small_ones_free() {
    let memory = memory();
    let held: Vec<Grant> = [Class::Incoming, Class::Upload, Class::Answer, Class::Push]
        .into_iter()
        .zip(1..)
        .filter_map(|(class, number)| session(&memory, number).try_reserve(class, 64 * MIB))
        .collect();
    assert_eq!(held.len(), 3, "a fourth would fill the lane of small reservations");
    let nine = session(&memory, 9);
    let mut waits = pin!(nine.reserve(Class::Push, 64 * MIB));
    assert!(poll(waits.as_mut()).is_none());
    // While room accumulates for a large one, small ones have their lane, and no more than it.
    let mut small = Vec::new();
    while let Some(grant) = session(&memory, 100 + small.len() as u64)
        .try_reserve(Class::Push, limits::SMALL_RESERVATION)
    {
        small.push(grant);
        assert!(small.len() < 1_000);
    }
    assert_eq!(small.len() * limits::SMALL_RESERVATION, 16 * MIB);
    drop(held);
    assert!(poll(waits.as_mut()).is_some());
}

#[test]
fn one_account_never_holds_a_whole_class() {
    let memory = memory();
    let greedy = session(&memory, 1);
    let mut held = Vec::new();
    while let Some(grant) = greedy.try_reserve(Class::Push, MIB) {
        held.push(grant);
        assert!(held.len() < 1_000);
    }
    assert_eq!(held.len(), 64, "half of what the class has");
    assert!(session(&memory, 2).try_reserve(Class::Push, 60 * MIB).is_some());
}

#[test]
fn a_cancelled_wait_leaves_nothing_behind() {
    let memory = memory();
    let (one, two) = (session(&memory, 1), session(&memory, 2));
    let held = one.try_reserve(Class::Upload, 120 * MIB).unwrap();
    {
        let mut waits = pin!(two.reserve(Class::Upload, 64 * MIB));
        assert!(poll(waits.as_mut()).is_none());
        assert_eq!(memory.waiting(), 1);
        // Granted, and dropped before it is polled again.
        drop(held);
        assert_eq!((memory.waiting(), memory.used(Class::Upload)), (0, 64 * MIB));
    }
    assert_eq!(memory.used(Class::Upload), 0);
    let held = one.try_reserve(Class::Upload, 120 * MIB).unwrap();
    {
        let mut waits = pin!(two.reserve(Class::Upload, 64 * MIB));
        assert!(poll(waits.as_mut()).is_none());
    }
    assert_eq!(memory.waiting(), 0);
    drop(held);
    assert_eq!(memory.used(Class::Upload), 0);
    assert!(memory.shared.state.lock().waiters.is_empty());
}

#[test]
fn caches_shrink_for_reservations() {
    let memory = memory();
    let free_bytes = memory.cache_room();
    assert_eq!(free_bytes, 64 * MIB);
    memory.set_cached(0, free_bytes);
    let one = session(&memory, 1);
    let held = one.try_reserve(Class::Incoming, 150 * MIB).unwrap();
    let two = session(&memory, 2);
    let mut waits = pin!(two.reserve(Class::Answer, 60 * MIB));
    assert!(poll(waits.as_mut()).is_none());
    assert!(poll(pin!(memory.pressed()).as_mut()).is_some(), "the caches are asked to shrink");
    let less = memory.cache_room();
    assert_eq!(less, 14 * MIB);
    memory.set_cached(free_bytes, less);
    assert!(poll(waits.as_mut()).is_some());
    drop(held);
}

#[test]
fn parts_of_a_grant_are_counted_once() {
    let memory = memory();
    let mut message = session(&memory, 1).try_reserve(Class::Incoming, 12 * MIB).unwrap();
    let push = message.split(Class::Push, 4 * MIB);
    assert_eq!((message.bytes(), push.bytes()), (8 * MIB, 4 * MIB));
    assert_eq!((memory.used(Class::Incoming), memory.used(Class::Push)), (8 * MIB, 4 * MIB));
    message.shrink_to(MIB);
    assert_eq!(memory.used(Class::Incoming), MIB);
    let rest = message.split(Class::Upload, 2 * MIB);
    assert_eq!((message.bytes(), rest.bytes()), (0, MIB));
    drop((message, push, rest));
    let all: usize = Class::ALL.map(|class| memory.used(class)).iter().sum();
    assert_eq!(all, 0);
    assert!(memory.shared.state.lock().ledger.is_settled());
}

#[test]
fn the_session_with_the_most_state_is_evicted() {
    let memory = memory();
    let whole = memory.limit() / 16 * 4;
    let (one, two, modest) = (session(&memory, 1), session(&memory, 2), session(&memory, 3));
    let first = one.reserve_state(whole / 2).unwrap();
    let second = two.reserve_state(whole / 2).unwrap();
    assert!(one.reserve_state(1 << 20).is_none(), "it already holds its share");
    let little = modest.reserve_state(1 << 10);
    assert!(little.is_some(), "a little state is always granted");
    assert!([&one, &two].iter().all(|account| poll(pin!(account.evicted()).as_mut()).is_none()));
    let share = modest.reserve_state(whole / 8);
    assert!(share.is_some());
    let notified = [&one, &two].map(|account| poll(pin!(account.evicted()).as_mut()).is_some());
    assert_eq!(notified.iter().filter(|notified| **notified).count(), 1);
    drop((first, second, little, share));
    // Accounts that hold the same do not evict each other.
    let each = |number| session(&memory, number).reserve_state(whole / 8);
    let held: Vec<Grant> = (10..18).map_while(each).collect();
    assert_eq!((held.len(), each(18).is_none()), (8, true));
    drop((one, two, modest));
    assert!(memory.shared.state.lock().evictions.is_empty());
}

/// A reservation waits, as an upload over a slow link does for half an hour. Another client subscribes to
/// six spaces, some 9 kB.
#[test]
fn small_state_is_granted_while_others_wait() {
    let memory = memory();
    let upload = |number| session(&memory, number).try_reserve(Class::Upload, 64 * MIB).unwrap();
    let _held = (upload(1), upload(2));
    let third = session(&memory, 3);
    let mut waits = pin!(third.reserve(Class::Upload, 64 * MIB));
    assert!(poll(waits.as_mut()).is_none());
    let engine = session(&memory, 4);
    let subscriptions: Vec<_> =
        (0..6).map(|_| engine.reserve_state(limits::SUBSCRIPTION_BYTES)).collect();
    let refused = subscriptions.iter().filter(|room| room.is_none()).count();
    let used = memory.used(Class::State);
    assert_eq!(refused, 0, "with {used} bytes of state in all of the relay");
}

#[test]
fn joined_grants_are_released_together() {
    let memory = memory();
    let account = session(&memory, 1);
    let grant = |class| account.try_reserve(class, MIB).unwrap();
    let held = grant(Class::Upload).and(grant(Class::Push)).and(grant(Class::Answer));
    let used = || [Class::Upload, Class::Push, Class::Answer].map(|class| memory.used(class));
    assert_eq!((held.bytes(), used()), (MIB, [MIB; 3]));
    drop(held);
    assert_eq!(used(), [0; 3]);
}

/// Caches fill up while no reservation needs their room.
#[test]
fn caches_shrink_for_session_state() {
    let memory = memory();
    let account = session(&memory, 1);
    let _held = account.take(Class::Push, memory.limit() / 16 * 13);
    memory.set_cached(0, memory.limit() / 16 * 3);
    let state = session(&memory, 2).reserve_state(MIB);
    assert!(state.is_some());
    assert!(poll(pin!(memory.pressed()).as_mut()).is_some(), "the caches are asked to shrink");
}

/// A session that must give way has some seconds for its close, and holds its memory until then. Other
/// sessions request memory meanwhile.
#[test]
fn an_eviction_makes_room_only_once() {
    let memory = memory();
    let whole = memory.limit() / 16 * 4;
    let [one, two] = [1, 1].map(|share| session(&memory, share));
    let _most = [one.reserve_state(whole / 2).unwrap(), two.reserve_state(whole / 2).unwrap()];
    let mut others = Vec::new();
    for number in 3..100 {
        let account = session(&memory, 1);
        let grant = account.reserve_state(whole / number);
        others.push((account, grant));
    }
    let used = memory.used(Class::State);
    // The memory of the two is about to be released.
    assert!(used <= 2 * whole, "{} MiB of {}", used / MIB, whole / MIB);
}
