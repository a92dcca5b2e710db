//! The two levels: the limits of an address's accounts together, and of each account beside the others.

use std::future::Future;
use std::pin::{Pin, pin};

use super::*;

type Waits = Pin<Box<dyn Future<Output = Grant>>>;

fn ask(from: &Account, class: Class, bytes: usize) -> Waits {
    let from = from.clone();
    let mut waits: Waits = Box::pin(async move { from.reserve(class, bytes).await });
    assert!(poll(waits.as_mut()).is_none(), "it waits");
    waits
}

/// Releases `held` bit by bit; returns the order in which the waiting reservations are granted.
fn order(mut waiting: Vec<(&'static str, Waits)>, held: &mut Grant) -> Vec<&'static str> {
    let (mut order, mut grants) = (Vec::new(), Vec::new());
    while held.bytes() > 0 {
        held.shrink_to(held.bytes().saturating_sub(MIB));
        waiting.retain_mut(|(name, waits)| {
            let grant = poll(waits.as_mut());
            let served = grant.is_some();
            order.extend(served.then_some(*name));
            grants.extend(grant);
            !served
        });
    }
    order
}

#[test]
fn the_smallest_share_and_its_smallest_account_are_served_first() {
    let memory = memory();
    let [a, b] = [1, 1].map(|share| session(&memory, share));
    let [c, d] = [2, 2].map(|share| session(&memory, share));
    let holding = [(&a, 30), (&b, 5), (&c, 20)];
    let _held = holding.map(|(account, mib)| account.take(Class::Push, mib * MIB));
    let mut rest = session(&memory, 3).take(Class::Push, 73 * MIB);
    let waiting = [("a", &a), ("b", &b), ("c", &c), ("d", &d)];
    let waiting = waiting.map(|(name, account)| (name, ask(account, Class::Push, 10 * MIB)));
    // By the accounts' holdings alone, it would be d, b, c, a.
    assert_eq!(order(waiting.into(), &mut rest), ["d", "c", "b", "a"]);
}

#[test]
fn a_share_with_repeated_stalls_waits_behind_the_others() {
    let memory = memory();
    let [stalls, honest] = [1, 2].map(|share| session(&memory, share));
    let _more = honest.take(Class::Incoming, 20 * MIB);
    let served_first = |stalled: usize| {
        (0..stalled).for_each(|_| stalls.stalled());
        let mut rest = session(&memory, 3).take(Class::Incoming, 172 * MIB);
        let waiting = [("stalls", &stalls), ("honest", &honest)];
        let waiting =
            waiting.map(|(name, account)| (name, ask(account, Class::Incoming, 10 * MIB)));
        order(waiting.into(), &mut rest)
    };
    assert_eq!(
        served_first(limits::STALLS_FORGIVEN),
        ["stalls", "honest"],
        "a few stalls are forgiven"
    );
    assert_eq!(served_first(1), ["honest", "stalls"]);
}

#[test]
fn a_share_gets_half_of_a_class_and_alone_all_of_it() {
    let memory = memory();
    let take = || {
        let more = || session(&memory, 1).try_reserve(Class::Upload, MIB);
        std::iter::from_fn(more).take(1_000).collect::<Vec<Grant>>()
    };
    let first = session(&memory, 1);
    let mut held = take();
    assert_eq!(held.len(), 128, "a single share gets the whole class");
    let other = session(&memory, 2);
    let mut theirs = ask(&other, Class::Upload, 60 * MIB);
    let mut own = ask(&first, Class::Upload, MIB);
    assert!(first.is_pressed() && !other.is_pressed());
    held.truncate(68);
    let theirs = poll(theirs.as_mut()).expect("there is room in the class");
    assert!(poll(own.as_mut()).is_none(), "its share exceeds its part");
    held.truncate(63);
    assert!(poll(own.as_mut()).is_some() && !first.is_pressed());
    drop((held, theirs));
    assert_eq!(take().len(), 64, "half of what the class has");
    drop(other);
    assert_eq!(take().len(), 128);
}

#[test]
fn small_reservations_of_a_share_leave_half_the_lane_to_others() {
    let memory = memory();
    let small = |share| {
        let more =
            || session(&memory, share).try_reserve(Class::Incoming, limits::SMALL_RESERVATION);
        std::iter::from_fn(more).take(2_000).collect::<Vec<Grant>>()
    };
    let _others = [2, 3].map(|share| session(&memory, share));
    let stalled = small(1);
    assert_eq!(
        stalled.len() * limits::SMALL_RESERVATION,
        96 * MIB,
        "the share's part of the class"
    );
    let mut waits = ask(&session(&memory, 1), Class::Incoming, limits::SMALL_RESERVATION);
    // All that large ones may have is in use.
    let large = || session(&memory, 3).try_reserve(Class::Answer, MIB);
    assert!(large().is_none(), "one waits");
    let taken = memory.account(ShareKey::Session(4)).take(Class::Answer, 128 * MIB);
    assert_eq!(small(2).len() * limits::SMALL_RESERVATION, 8 * MIB, "half of the lane");
    assert!(poll(waits.as_mut()).is_none());
    drop((stalled, taken));
    assert!(poll(waits.as_mut()).is_some());
}

#[test]
fn a_wait_for_a_class_or_share_neither_blocks_nor_starves() {
    let memory = memory();
    let [one, two, three] = [1, 2, 3].map(|share| session(&memory, share));
    let held = one.try_reserve(Class::Incoming, 30 * MIB).unwrap();
    let small = two.try_reserve(Class::Incoming, limits::SMALL_RESERVATION).unwrap();
    // One waits for its class, one for its share; each in an account of its own.
    let mut of_class = ask(&session(&memory, 3), Class::Incoming, 192 * MIB);
    let mut of_share = ask(&session(&memory, 1), Class::Incoming, 80 * MIB);
    let mut other = pin!(three.reserve(Class::Incoming, 12 * MIB));
    let other = poll(other.as_mut()).expect("there is room");
    assert!(poll(of_class.as_mut()).is_none() && poll(of_share.as_mut()).is_none());
    drop(held);
    let of_share = poll(of_share.as_mut()).expect("its share holds nothing else");
    drop((of_share, other));
    assert!(
        poll(of_class.as_mut()).is_some(),
        "small reservations pass and do not delay the large one"
    );
    drop(small);
}

#[test]
fn splitting_a_grant_frees_its_class_for_waiters() {
    let memory = memory();
    let [one, two] = [1, 2].map(|share| session(&memory, share));
    let mut message = one.take(Class::Upload, 128 * MIB);
    let mut waits = ask(&two, Class::Upload, 20 * MIB);
    let _push = message.split(Class::Push, 20 * MIB);
    assert!(poll(waits.as_mut()).is_some());
}

#[test]
fn an_account_is_removed_with_its_last_clone_on_any_thread() {
    let memory = memory();
    for _ in 0..2_000 {
        let account = session(&memory, 1);
        let other = account.clone();
        let barrier = Arc::new(std::sync::Barrier::new(2));
        let theirs = Arc::clone(&barrier);
        let thread = std::thread::spawn(move || {
            theirs.wait();
            drop(other);
        });
        barrier.wait();
        drop(account);
        thread.join().unwrap();
    }
    assert!(memory.shared.state.lock().evictions.is_empty());
    assert!(memory.shared.state.lock().ledger.is_settled());
}

#[test]
fn within_a_share_the_largest_state_is_evicted() {
    let memory = memory();
    let whole = memory.limit() / 16 * 4;
    let [greedy, modest] = [1, 1].map(|share| session(&memory, share));
    let much = [(); 2].map(|()| session(&memory, 1).reserve_state(whole / 2));
    assert!(much.iter().all(Option::is_some));
    drop(much);
    let most = greedy.reserve_state(whole / 2).unwrap();
    let other = session(&memory, 1);
    let second = other.reserve_state(whole / 2).unwrap();
    assert!(modest.reserve_state(whole / 8).is_some());
    let notified =
        [&greedy, &other].map(|account| poll(pin!(account.evicted()).as_mut()).is_some());
    assert_eq!(notified.iter().filter(|notified| **notified).count(), 1);
    drop((most, second));
}

/// For any requests, by any accounts, released in any order: the budget holds, no share exceeds its part by
/// more than one reservation and half a lane, every waiting reservation is granted in the end, and nothing
/// is leaked.
#[test]
fn every_waiter_is_served_and_no_share_exceeds_its_part() {
    use proptest::prelude::*;
    let requests =
        proptest::collection::vec((0_u64..20, 0_u64..4, 0_usize..5, 0_usize..70 * MIB), 1..200);
    proptest!(|(requests in requests, order in any::<u64>(), small in 0_usize..4)| {
        let memory = memory();
        let accounts: Vec<Account> = (0..20).map(|n| session(&memory, n % 4)).collect();
        let mut waiting: Vec<Waits> = Vec::new();
        let (mut held, mut served, count) = (Vec::new(), 0, requests.len());
        let mut largest = std::collections::BTreeMap::new();
        for (number, share, class, bytes) in requests {
            let account = accounts[(number * 4 + share) as usize % 20].clone();
            // Some of them small.
            let bytes = if bytes % 4 < small { bytes % limits::SMALL_RESERVATION } else { bytes };
            let most = largest.entry((share, class)).or_insert(bytes);
            *most = bytes.max(*most);
            waiting.push(Box::pin(async move {
                account.reserve(Class::ALL[class], bytes).await
            }));
        }
        let mut turn = order;
        while served < count {
            let before = served;
            waiting.retain_mut(|waits| match poll(waits.as_mut()) {
                Some(grant) => { held.push(grant); served += 1; false }
                None => true,
            });
            let all: usize = Class::ALL.map(|class| memory.used(class)).iter().sum();
            prop_assert!(all <= memory.limit());
            let ledger = memory.shared.state.lock();
            for ((share, class), largest) in &largest {
                let class = Class::ALL[*class];
                let (all, large) = ledger.ledger.of_share(ShareKey::Session(*share), class);
                let sixteenth = ledger.ledger.limit() / 16;
                let (part, lane) = (sixteenth * class.sixteenths() / 2, sixteenth / 2);
                prop_assert!(large <= part.max(*largest) && all <= part + largest + lane);
            }
            drop(ledger);
            turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if !held.is_empty() {
                held.swap_remove((turn >> 33) as usize % held.len());
            } else {
                prop_assert!(served > before, "all wait, and no account holds anything");
            }
        }
        held.clear();
        drop(waiting);
        drop(accounts);
        prop_assert!(memory.shared.state.lock().ledger.is_settled());
    });
}

/// A relay with the least memory, one idle subscriber, and an automerge-repo client's first frame of a
/// fragmented message (or the header of a large one).
#[test]
fn the_largest_message_never_waits_for_memory_kept_forever() {
    let mut stuck = Vec::new();
    for (limit, remembered) in
        [(limits::LEAST_MEMORY, limits::SUBSCRIPTION_BYTES), (256 * MIB, 40 * MIB)]
    {
        let memory = Memory::new(limit);
        let (idle, large, other) = (session(&memory, 1), session(&memory, 2), session(&memory, 3));
        // As sessions do, for as long as they last.
        let mut kept = Vec::new();
        let mut rest = remembered;
        while rest > 0 {
            let some = rest.min(MIB);
            kept.push(idle.reserve_state(some).or_else(|| other.reserve_state(some)).unwrap());
            rest -= some;
        }
        let needs = 3 * landfall_protocol::limits::REPO_MESSAGE_BYTES;
        let mut message = pin!(large.reserve(Class::Incoming, needs));
        let served = poll(message.as_mut()).is_some();
        let mut another = pin!(other.reserve(Class::Incoming, MIB));
        let passes = poll(another.as_mut()).is_some();
        if !served && !passes {
            stuck.push((limit / MIB, remembered));
        }
    }
    assert!(stuck.is_empty(), "no memory will be released, and both wait forever: {stuck:?}");
}
