//! Slots for connections: a total, a limit per address, and a few reserved for health and administration when
//! the others are taken. It must not know the purpose of a connection.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::limits;

/// The connection slots of a relay.
#[derive(Debug)]
pub(crate) struct ConnectionSlots {
    /// The slots in total, without the reserved ones; and per address.
    limits: Caps,
    taken: Mutex<SlotCounts>,
    /// Notified when the last slot was released.
    emptied: tokio::sync::Notify,
}

/// The limits on connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caps {
    pub(crate) all: usize,
    pub(crate) of_address: usize,
}

#[derive(Debug, Default)]
struct SlotCounts {
    all: usize,
    reserved: usize,
    /// Entries whose counts are both zero are removed.
    addresses: HashMap<IpAddr, OfAddress>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct OfAddress {
    all: usize,
    reserved: usize,
}

/// A connection's slot, released on drop.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    slots: Arc<ConnectionSlots>,
    key: IpAddr,
    is_reserved: bool,
}

impl ConnectionSlot {
    /// Whether it is one of those reserved for health and administration.
    pub(crate) fn is_reserved(&self) -> bool {
        self.is_reserved
    }
}

impl ConnectionSlots {
    pub(crate) fn new(limits: Caps) -> Arc<Self> {
        let emptied = tokio::sync::Notify::new();
        Arc::new(Self { limits, taken: Mutex::default(), emptied })
    }

    /// Takes a slot for a connection of this address: a reserved one if no other is free for it.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Option<ConnectionSlot> {
        let key = key_of(address);
        let mut taken = self.taken.lock();
        let SlotCounts { all, reserved, addresses } = &mut *taken;
        let of = addresses.entry(key).or_default();
        let is_free = *all < self.limits.all && of.all < self.limits.of_address;
        if is_free {
            *all += 1;
            of.all += 1;
        } else if *reserved < limits::RESERVED_SLOTS
            && of.reserved < limits::RESERVED_SLOTS_OF_ADDRESS
        {
            *reserved += 1;
            of.reserved += 1;
        } else {
            forget_idle(addresses, key);
            return None;
        }
        Some(ConnectionSlot { slots: Arc::clone(self), key, is_reserved: !is_free })
    }

    /// Waits until no slot is taken.
    pub(crate) async fn empty(&self) {
        loop {
            // Registered before the check, so that no notification is missed.
            let emptied = self.emptied.notified();
            if self.taken.lock().addresses.is_empty() {
                return;
            }
            emptied.await;
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken.lock();
        let SlotCounts { all, reserved, addresses } = &mut *taken;
        let of = addresses.entry(self.key).or_default();
        let (all, of_address) =
            if self.is_reserved { (reserved, &mut of.reserved) } else { (all, &mut of.all) };
        *all = all.saturating_sub(1);
        *of_address = of_address.saturating_sub(1);
        forget_idle(addresses, self.key);
        if addresses.is_empty() {
            self.slots.emptied.notify_waiters();
        }
    }
}

fn forget_idle(addresses: &mut HashMap<IpAddr, OfAddress>, key: IpAddr) {
    if addresses.get(&key) == Some(&OfAddress::default()) {
        addresses.remove(&key);
    }
}

/// The key of an address: a host has a whole /64 of IPv6.
pub(crate) fn key_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let net = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(net.into())
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_cannot_take_all_slots_and_some_are_reserved() {
        let slots = ConnectionSlots::new(Caps { all: 10, of_address: 6 });
        let take = |from: &str| slots.take(address(from));
        let first: Vec<ConnectionSlot> = (0..6).filter_map(|_| take("10.0.0.1")).collect();
        assert!(first.len() == 6 && first.iter().all(|slot| !slot.is_reserved()));
        let reserved: Vec<ConnectionSlot> = std::iter::from_fn(|| take("10.0.0.1")).collect();
        assert!(
            reserved.len() == limits::RESERVED_SLOTS_OF_ADDRESS
                && reserved.iter().all(ConnectionSlot::is_reserved)
        );
        let others: Vec<ConnectionSlot> = (0..4).filter_map(|_| take("10.0.0.2")).collect();
        assert!(others.len() == 4 && others.iter().all(|slot| !slot.is_reserved()));
        assert!(
            take("10.0.0.3").is_some_and(|slot| slot.is_reserved()),
            "only reserved slots are left"
        );
        drop(first);
        assert!(take("10.0.0.1").is_some_and(|slot| !slot.is_reserved()));
        drop((reserved, others));
        assert!(
            slots.taken.lock().addresses.is_empty(),
            "addresses without connections are forgotten"
        );
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        assert_eq!(key_of(address("2001:db8::1:2")), key_of(address("2001:db8::ffff:0:0:3")));
        assert_ne!(key_of(address("2001:db8::1")), key_of(address("2001:db8:0:1::1")));
        assert_eq!(key_of(address("::ffff:10.0.0.1")), address("10.0.0.1"));
    }

    #[tokio::test]
    async fn the_last_released_slot_ends_the_wait() {
        let slots = ConnectionSlots::new(Caps { all: 2, of_address: 2 });
        slots.empty().await;
        let (one, two) = (slots.take(address("::1")), slots.take(address("10.0.0.1")));
        let waiting = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.empty().await }
        });
        tokio::task::yield_now().await;
        drop(one);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(two);
        waiting.await.unwrap();
    }
}
